/* `systolic plan` as users run it, and the presets against the published parameter counts. */
#include <math.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/command.h"
#include "cli/plan.h"
#include "cli/serve.h"
#include "tests/capture.h"
#include "tests/test.h"

#define RUN(...) run_command(plan_main, (const char *const[]){ __VA_ARGS__, NULL })

static const jv *target(const jv *o, const char *name)
{
    const jv *all = jv_get(o, "targets");
    for (size_t i = 0; i < jv_len(all); i++)
        if (strcmp(jv_get_str(jv_at(all, i), "target", ""), name) == 0) return jv_at(all, i);
    return NULL;
}

static int64_t format_bytes(const jv *o, const char *name)
{
    const jv *all = jv_get(o, "weights");
    for (size_t i = 0; i < jv_len(all); i++)
        if (strcmp(jv_get_str(jv_at(all, i), "format", ""), name) == 0) return jv_get_i64(jv_at(all, i), "bytes", -1);
    return -1;
}

TEST(every_preset_has_the_published_parameters)
{
    const preset *x;
    int n = 0;
    for (int i = 0; (x = preset_at(i)); i++, n++) {
        jv *j = NULL;
        model *m = NULL;
        model_params params;
        CHECK(preset_find(x->name) == x);
        CHECK_OK(preset_config(x, &j));
        int64_t encoders = 0;
        status st = model_new(j, &(model_options){ .weight_dtype = DT_BF16 }, &m);
        if (st == ST_OK) CHECK_OK(model_count_encoders(j, DT_BF16, &encoders));
        jv_free(j);
        CHECK_OK(st);
        if (!m) continue;
        model_count_params(model_graph(m), &params);
        if (params.total + encoders != x->n_params)
            FAIL("%s has %lld + %lld parameters, published %lld", x->name, (long long)params.total, (long long)encoders, (long long)x->n_params);
        model_free(m);
    }
    CHECK(n >= 24);
    CHECK(preset_find("QWEN3-32b") != NULL);
    CHECK(preset_find("Qwen3-33B") == NULL);
}

TEST(a_name_is_enough)
{
    jv *o = ran_json(RUN("qwen3-32b", "--json"));
    REQUIRE(o != NULL);
    CHECK_STR(jv_get_str(o, "model", ""), "Qwen3-32B");
    CHECK_INT(jv_get_i64(jv_get(o, "parameters"), "total", 0), 32762123264);
    CHECK_INT(format_bytes(o, "bf16"), 65524246528);
    const jv *kv = jv_get(o, "kv");
    CHECK_INT(jv_get_i64(kv, "bytes_per_token", 0), 262144);
    CHECK_INT(jv_get_i64(kv, "bounded_bytes", -1), 0);
    CHECK_INT(jv_len(jv_get(kv, "kinds")), 1);
    CHECK_INT(jv_len(jv_get(o, "targets")), 6); /* one of each generation */
    const jv *t = target(o, "v6e:2x2");
    REQUIRE(t != NULL);
    CHECK(jv_get_bool(t, "fits", false));
    CHECK_INT(jv_get_i64(t, "tensor_parallel_size", 0), 4);
    jv_free(o);
}

/* Bytes of tensors as the published index files give them: within half a per cent (shapes, biases and rounding). */
TEST(quantised_checkpoints_are_counted_as_stored)
{
    static const struct { const char *name, *format; double bytes; } all[] = {
        { "DeepSeek-V3.1", "fp8", 673.151e9 }, { "Kimi-K2-Thinking", "compressed-tensors", 594.206e9 }, { "gpt-oss-120b", "mxfp4", 65.249e9 }, { "gpt-oss-20b", "mxfp4", 13.761e9 } };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        jv *o = ran_json(RUN(all[i].name, "--json", "--target", "v6e:16x16"));
        REQUIRE(o != NULL);
        double got = (double)format_bytes(o, all[i].format);
        if (fabs(got / all[i].bytes - 1) > 0.005) FAIL("%s: %.3f GB, published %.3f", all[i].name, got / 1e9, all[i].bytes / 1e9);
        jv_free(o);
    }
}

TEST(targets_are_told_what_fits)
{
    jv *o = ran_json(RUN("Llama-3.3-70B-Instruct", "--json", "--max-model-len", "8192", "--target", "v5e:2x2", "v6e-8", "v7x:2x2x1"));
    REQUIRE(o != NULL);
    CHECK_INT(jv_len(jv_get(o, "targets")), 3);
    const jv *small = target(o, "v5e:2x2"), *large = target(o, "v6e-8"), *twice = target(o, "v7x:2x2x1");
    REQUIRE(small && large && twice);
    CHECK(!jv_get_bool(small, "fits", true));
    CHECK_INT(jv_get_i64(small, "tensor_parallel_size", 0), 4);
    CHECK(jv_get_i64(small, "shortfall_bytes", 0) > 0);
    CHECK(strstr(jv_get_str(small, "message", ""), "GiB too much per device"));
    CHECK(jv_get_bool(large, "fits", false));
    CHECK_INT(jv_get_i64(large, "tensor_parallel_size", 0), 8);
    CHECK_INT(jv_get_i64(large, "weight_bytes_per_device", 0) / 1000000000, 17);
    CHECK_INT(jv_get_i64(twice, "devices", 0), 8);
    CHECK_INT(jv_get_i64(twice, "data_parallel_size", 0) * jv_get_i64(twice, "tensor_parallel_size", 0), 8);
    jv_free(o);
}

TEST(text_is_for_people)
{
    ran r = RUN("Qwen3-0.6B", "--target", "v5e:1x1");
    CHECK_INT(r.rc, 0);
    CHECK(strstr(buf_cstr(&r.out), "596049920), as published"));
    CHECK(strstr(buf_cstr(&r.out), "114688 bytes per token"));
    CHECK(strstr(buf_cstr(&r.out), "fits: "));
    ran_free(&r);
    r = RUN("--list");
    CHECK_INT(r.rc, 0);
    CHECK(strstr(buf_cstr(&r.out), "DeepSeek-V3.1"));
    ran_free(&r);
}

TEST(what_is_wrong_is_said)
{
    static const struct { const char *model, *target, *text; int rc; } all[] = {
        { "Qwen3-0.6B", "v9:2x2", "unknown generation", 1 },
        { "Qwen3-0.6B", "v6e:2x2x1", "two factors are expected", 1 },
        { "/nowhere/config.json", "v6e:1x1", "/nowhere/config.json", 1 },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        ran r = RUN(all[i].model, "--target", all[i].target);
        CHECK_INT(r.rc, all[i].rc);
        if (!strstr(buf_cstr(&r.err), all[i].text)) FAIL("wanted \"%s\" in: %s", all[i].text, buf_cstr(&r.err));
        ran_free(&r);
    }
}

static status plan_one(const flags *f, compile_plan *p)
{
    static plan_fit fit;
    TRY(compile_plan_model(f, flags_str(f, "model"), p));
    status st = plan_fit_target(p, "v6e:2x2", &fit);
    if (st != ST_OK) compile_plan_free(p);
    return st;
}

TEST(out_of_memory_is_a_status)
{
    char *argv[] = { "tests/goldens/llama/config.json" };
    flag_set set = { .prog = "test", .positional = "model", .positional_flag = "model" };
    flag_def *table;
    flags *f;
    compile_plan p;
    REQUIRE_OK(serve_flags_with(NULL, 0, false, &table, &set.n_defs));
    set.defs = table;
    REQUIRE_OK(flags_parse(&set, 1, argv, &f));
    CHECK_EVERY_ALLOCATION(plan_one(f, &p), compile_plan_free(&p));
    flags_free(f);
    mem_free(table);
}

TEST_MAIN
