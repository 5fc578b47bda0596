/* Attention on the chip, as users see it: what `systolic compile --explain` tells, which KV pages follow, which back ends are taken. */
#include "cli/attention.h"

#include "base/mem.h"
#include "cli/command.h"
#include "cli/compile.h"
#include "cli/serve.h"
#include "tests/capture.h"
#include "tests/test.h"

#define MODEL "Llama-3.1-8B-Instruct"
#define RUN(...) run_command(compile_main, (const char *const[]){ MODEL, "--max-num-seqs", "64", "--max-model-len", "8192", "--explain", __VA_ARGS__, NULL })

static void check_ints(const jv *a, const char *const *names, const int64_t *want, int n)
{
    for (int i = 0; i < n; i++)
        if (jv_get_i64(a, names[i], -1) != want[i]) FAIL("%s is %lld, wanted %lld", names[i], (long long)jv_get_i64(a, names[i], -1), (long long)want[i]);
}

static const char *const fields[] = { "head_size", "padded_head_size", "block_q", "block_kv", "pages_per_kv_block", "queries_per_block", "pipeline_stages", "page_size", "vmem_limit_bytes", "kv_bytes_per_token" };
enum { N_FIELDS = sizeof fields / sizeof *fields };

TEST(the_table_is_told_and_its_pages_are_served)
{
    jv *o = ran_json(RUN("--target", "v6e-1", "--attention-policy", "table", "--json"));
    const jv *a = jv_get(o, "attention");
    CHECK_STR(jv_get_str(a, "policy", ""), "table");
    CHECK_STR(jv_get_str(a, "chip", ""), "v6e");
    check_ints(a, fields, (const int64_t[]){ 128, 256, 512, 1024, 4, 8, 4, 512, 768 << 10, 2 * 8 * 256 * 2 }, N_FIELDS);
    CHECK(strstr(jv_get_str(a, "warning", ""), "768 KB"));
    CHECK_INT(jv_get_i64(o, "block_size", 0), 512);
    CHECK_INT(jv_get_i64(o, "kv_bytes_per_token", 0), 32 * 2 * 8 * 256 * 2);
    CHECK_INT(jv_len(jv_get(a, "optimizations_applied")), 5);
    CHECK_STR(jv_get_str(jv_get(a, "report"), "head_size_optimization", ""), "128 -> 256");
    CHECK(jv_is(jv_get(jv_get(a, "report"), "average_call_time_ms"), JV_NULL));
    jv_free(o);
}

TEST(auto_pads_nothing_and_lists_what_else_there_was)
{
    jv *o = ran_json(RUN("--target", "v6e-1", "--json"));
    const jv *a = jv_get(o, "attention"), *d = jv_get(a, "decode"), *others = jv_get(a, "alternatives");
    CHECK_STR(jv_get_str(a, "policy", ""), "auto");
    CHECK_INT(jv_get_i64(a, "padded_head_size", 0), 128);
    CHECK_INT(jv_get_i64(a, "kv_bytes_per_token", 0), 2 * 8 * 128 * 2);
    CHECK_INT(jv_get_i64(o, "block_size", 0), jv_get_i64(a, "page_size", -1));
    CHECK_INT(jv_get_i64(o, "kv_bytes_per_token", 0), 32 * 2 * 8 * 128 * 2);
    for (int i = 0; i < N_FIELDS; i++) CHECK(jv_is(jv_get(a, fields[i]), JV_INT) && jv_is(jv_get(d, fields[i]), JV_INT));
    CHECK(jv_len(others) == 7);
    for (size_t i = 0; i < jv_len(others); i++) CHECK(jv_get_f64(jv_at(others, i), "predicted_seconds", 0) >= 0.985 * jv_get_f64(d, "predicted_seconds", 1));
    jv_free(o);
    o = ran_json(RUN("--target", "v6e-1", "--json", "--kv-cache-dtype", "fp8"));
    CHECK_INT(jv_get_i64(jv_get(o, "attention"), "kv_bytes_per_token", 0), 2 * 8 * 128);
    CHECK(jv_get_i64(o, "block_size", 0) >= 32);
    jv_free(o);
    o = ran_json(RUN("--target", "v6e-1", "--json", "--kv-cache-dtype", "int8_per_token_head"));     /* a scale for each of 8 heads' K and V: 64 bytes */
    CHECK_INT(jv_get_i64(jv_get(o, "attention"), "kv_bytes_per_token", 0), 2 * 8 * 128 + 64);
    CHECK_INT(jv_get_i64(o, "kv_bytes_per_token", 0), 32 * (2 * 8 * 128 + 64));
    jv_free(o);
    ran r = RUN("--target", "v5e-4", "-tp", "2");
    CHECK(strstr(buf_cstr(&r.out), "attention by the policy auto on v5e: head size 128") && strstr(buf_cstr(&r.out), "what decode was chosen from"));
    ran_free(&r);
}

TEST(a_block_size_that_is_given_stays)
{
    jv *o = ran_json(RUN("--target", "v6e-1", "--attention-policy", "table", "--block-size", "64", "--json"));
    CHECK_INT(jv_get_i64(o, "block_size", 0), 64);
    CHECK_INT(jv_get_i64(jv_get(o, "attention"), "page_size", 0), 64);
    jv_free(o);
}

static ran with_backend(const char *flag, const char *value) { return RUN("--target", "v6e-1", flag, value); }

TEST(back_ends)
{
    static const char *const good[] = { "auto", "mosaic", "stablehlo", "PALLAS", "FLASH_ATTN", "FLASH_ATTN_MLA" }, *const bad[] = { "FLASHINFER", "TRITON_ATTN", "nonsense" };
    for (int i = 0; i < 6; i++) {
        ran r = with_backend("--attention-backend", good[i]);
        if (r.rc != 0) FAIL("%s: %s", good[i], buf_cstr(&r.err));
        ran_free(&r);
    }
    for (int i = 0; i < 3; i++) {
        ran r = with_backend("--attention-backend", bad[i]);
        CHECK(r.rc != 0 && strstr(buf_cstr(&r.err), "attention-backend"));
        ran_free(&r);
    }
    ran r = with_backend("--attention-config", "{\"backend\": \"TRITON_ATTN\"}");
    CHECK(r.rc != 0 && strstr(buf_cstr(&r.err), "TRITON_ATTN"));
    ran_free(&r);
    r = with_backend("-ac", "{\"backend\": \"FLASH_ATTN\"}");
    CHECK_INT(r.rc, 0);
    ran_free(&r);
    jv *o = ran_json(RUN("--target", "v6e-1", "--attention-backend", "TPU_V6E_ADAPTIVE_PALLAS_VLLM_V1", "--json"));
    CHECK_STR(jv_get_str(jv_get(o, "attention"), "policy", ""), "table");
    jv_free(o);
    r = RUN("--target", "v6e-1", "--attention-policy", "best");
    CHECK(r.rc != 0 && strstr(buf_cstr(&r.err), "attention-policy"));
    ran_free(&r);
}

TEST(without_a_tpu_nothing_changes_and_kernels_are_refused)
{
    flag_set set = { .prog = "test", .positional = "model", .positional_flag = "model" };
    char *args[] = { (char *)(uintptr_t)MODEL, (char *)(uintptr_t)"--attention-backend", (char *)(uintptr_t)"mosaic" };
    flag_def *table;
    flags *f;
    compile_plan p;
    REQUIRE_OK(serve_flags_with(NULL, 0, false, &table, &set.n_defs));
    set.defs = table;
    for (int n = 1; n <= 3; n += 2) {
        REQUIRE_OK(flags_parse(&set, n, args, &f));
        REQUIRE_OK(compile_plan_model(f, MODEL, &p));
        REQUIRE_OK(compile_plan_cut(&p, (mesh){ .dp = 1, .tp = 1 }));
        device_limits l = { .max_tokens = 64, .max_seqs = 8, .max_model_len = 100, .block_size = 16, .kv_dtype = DT_BF16 };
        if (n == 3) CHECK_ERR(attention_apply(f, p.g, NULL, &l), ST_INVALID, "need a TPU");
        else CHECK_OK(attention_apply(f, p.g, NULL, &l));
        CHECK_INT(l.block_size, 16);
        CHECK(!l.attention.chip && l.attention.head_multiple == 0);
        attention_view v;
        CHECK_ERR(attention_look(p.g, &l, &v), ST_NOT_FOUND, "no attention");
        compile_plan_free(&p);
        flags_free(f);
    }
    mem_free(table);
}

/* Every model that is known by name can be configured on every chip, by both policies. */
TEST(all_presets)
{
    static const char *const models[] = { "Llama-3.1-8B-Instruct", "gemma-3-27b-it", "gpt-oss-120b", "DeepSeek-V3.1", "Qwen3-30B-A3B" }, *const targets[] = { "v4-8", "v5e:16x16", "v7x:4x4x8", "v3:8x8x1" };
    for (int m = 0; m < 5; m++)
        for (int t = 0; t < 4; t++) {
            ran r = run_command(compile_main, (const char *const[]){ models[m], "--target", targets[t], "-tp", "4", "--max-model-len", "16384", "--explain", "--attention-policy", t % 2 ? "auto" : "table", NULL });
            if (!strstr(buf_cstr(&r.out), "what decode was chosen from")) FAIL("%s on %s: %s%s", models[m], targets[t], buf_cstr(&r.out), buf_cstr(&r.err));
            ran_free(&r);
        }
}

TEST_MAIN
