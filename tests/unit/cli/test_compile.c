/* `systolic compile` as users run it: with XLA:CPU (`make pjrt-cpu`) as a plugin, and with libtpu where its package is found
 * (SYSTOLIC_LIBTPU=PATH or a Python package), which compiles without a TPU. */
#include "cli/command.h"

#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/compile.h"
#include "cli/serve.h"
#include "device/pjrt/cache.h"
#include "device/pjrt/spec.h"
#include "tests/capture.h"
#include "tests/test.h"

#define LLAMA "tests/goldens/llama/config.json"
#define FEW "--max-num-seqs", "8", "--max-num-batched-tokens", "32", "--max-model-len", "64"

/* Shapes of Llama-3.3-70B; nothing but a configuration is needed. */
static const char LARGE[] = "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":8192,\"intermediate_size\":28672,\"num_hidden_layers\":80,"
    "\"num_attention_heads\":64,\"num_key_value_heads\":8,\"vocab_size\":128256,\"max_position_embeddings\":131072,\"rms_norm_eps\":1e-05,\"rope_theta\":500000.0,"
    "\"hidden_act\":\"silu\",\"torch_dtype\":\"bfloat16\",\"tie_word_embeddings\":false,\"bos_token_id\":128000,\"eos_token_id\":128001}";

/* XLA is not built with ThreadSanitizer, which takes its synchronisation for races. */
#ifdef __SANITIZE_THREAD__
enum { PLUGINS = 0 };
#else
enum { PLUGINS = 1 };
#endif

static const char *cpu_plugin(void)
{
    const char *own = getenv("SYSTOLIC_PJRT_CPU"), *path = own ? own : "build/pjrt/libpjrt_cpu.so";
    return PLUGINS && access(path, R_OK) == 0 ? path : NULL;
}

static const char *tpu_plugin(void)
{
    static char path[4096];
    const char *own = getenv("SYSTOLIC_LIBTPU");
    pjrt_place place;
    if (own || path[0] || !PLUGINS) return !PLUGINS ? NULL : own ? own : path;
    if (pjrt_find("tpu", &place) != ST_OK) return NULL;
    snprintf(path, sizeof path, "%s", place.path);
    pjrt_place_free(&place);
    return path;
}
#define CPU_OR_SKIP(path) const char *path = cpu_plugin(); if (!path) SKIP("no XLA:CPU plugin (make pjrt-cpu), or one that does not go with ThreadSanitizer")
#define TPU_OR_SKIP(path) const char *path = tpu_plugin(); if (!path) SKIP("no libtpu (pip install libtpu, or SYSTOLIC_LIBTPU=PATH), or ThreadSanitizer")

static char dir[64] = "/tmp/systolic_test_compile_XXXXXX";

#define RUN(...) run_command(compile_main, (const char *const[]){ __VA_ARGS__, NULL })

#define CHECK_FAILS(r, code, text) do { ran r_ = (r); CHECK_INT(r_.rc, code); if (!strstr(buf_cstr(&r_.err), text)) FAIL("wanted \"%s\" in: %s", text, buf_cstr(&r_.err)); ran_free(&r_); } while (0)

static const char *write_file(const char *name, const char *text)
{
    static char path[160];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    if (!f) return NULL;
    fputs(text, f);
    fclose(f);
    return path;
}

TEST(what_is_wrong_with_the_arguments_is_said)
{
    REQUIRE(mkdtemp(dir) != NULL);
    CHECK_FAILS(RUN(LLAMA), 1, "--target is missing");
    CHECK_FAILS(RUN(LLAMA, "--target", "v9:2x2"), 1, "unknown generation; targets are v3, v4, v5e, v5p, v6e or v7x");
    CHECK_FAILS(RUN(LLAMA, "--target", "v6e:2x2x2"), 1, "two factors are expected");
    CHECK_FAILS(RUN(LLAMA, "--target", "v6e:2x2", "-tp", "3"), 1, "must be divisible by tensor parallel size (3)");
    CHECK_FAILS(RUN(LLAMA, "--target", "v6e:2x2", "-tp", "0"), COMMAND_USAGE, "argument --tensor-parallel-size: must be at least 1");
    CHECK_FAILS(RUN(LLAMA, "--target", "v6e:2x2", "-dp", "0"), COMMAND_USAGE, "argument --data-parallel-size: must be at least 1");
    CHECK_FAILS(RUN("/nowhere/config.json", "--target", "v6e:2x2"), 1, "/nowhere/config.json");
    CHECK_FAILS(RUN(write_file("strange.json", "{\"architectures\":[\"StrangeForCausalLM\"]}"), "--target", "v6e:2x2"), 1, "'StrangeForCausalLM' is not supported; supported: Deepseek");
    CHECK_FAILS(RUN(write_file("list.json", "[1]"), "--target", "v6e:2x2"), 1, "must hold a JSON object");
    CHECK_FAILS(RUN(LLAMA, "--target", "v6e:2x2", "--nonsense"), COMMAND_USAGE, "--nonsense");
}

TEST(a_compiler_that_is_not_there_is_said)
{
    CHECK_FAILS(RUN(LLAMA, "--target", "v6e:2x2", "--plugin", "/nowhere/libtpu.so", "--out", dir), 1, "/nowhere/libtpu.so");
    const char *own = getenv("TPU_LIBRARY_PATH");
    char *keep = own ? mem_strdup(own) : NULL;
    setenv("TPU_LIBRARY_PATH", "/nowhere/lib/libtpu.so", 1);
    CHECK_FAILS(RUN(LLAMA, "--target", "v6e:2x2", "--out", dir), 1, "/nowhere/lib/libtpu.so");
    unsetenv("TPU_LIBRARY_PATH");
    if (keep) setenv("TPU_LIBRARY_PATH", keep, 1);
    mem_free(keep);
}

/* ---- the report ---- */

static void check_kind(const jv *o, const char *key, jv_kind kind, bool or_null)
{
    jv_kind k = jv_type(jv_get(o, key));
    if (k != kind && !(kind == JV_REAL && k == JV_INT) && !(or_null && k == JV_NULL)) FAIL("\"%s\" is %s", key, jv_kind_name(k));
}

static void check_fields(const jv *o)
{
    static const char *const texts[] = { "model", "architecture", "dtype", "kv_cache_dtype", "target", "device_kind", "platform", "platform_version", "compiler", "cache_dir" };
    static const char *const ints[] = { "parameters", "max_model_len", "max_num_seqs", "max_num_batched_tokens", "block_size", "devices", "tensor_parallel_size", "data_parallel_size",
        "weight_bytes_per_device", "kv_bytes_per_token_per_device", "kv_bytes_per_token", "kv_tokens", "max_sequences", "kv_blocks", "shortfall_bytes", "assumed_context",
        "n_programs", "n_cached", "n_failed" };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) check_kind(o, texts[i], JV_STR, false);
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) check_kind(o, ints[i], JV_INT, false);
    check_kind(o, "fits", JV_BOOL, false);
    check_kind(o, "sequence_parallel", JV_BOOL, false);
    check_kind(o, "seconds", JV_REAL, false);
    check_kind(o, "memory_bytes", JV_INT, true);
    check_kind(o, "kv_bytes_per_device", JV_INT, true);
    check_kind(o, "message", JV_STR, true);
    CHECK_INT(jv_len(jv_get(o, "programs")), jv_get_i64(o, "n_programs", -1));
}

static void check_program(const jv *p)
{
    static const char *const ints[] = { "argument_bytes", "temp_bytes", "code_bytes", "alias_bytes", "room_bytes" }, *const reals[] = { "compile_s", "compiler_flops", "compiler_bytes", "step_s" };
    check_kind(p, "name", JV_STR, false);
    check_kind(p, "kind", JV_STR, false);
    for (size_t i = 0; i < 5; i++) check_kind(p, ints[i], JV_INT, true);
    for (size_t i = 0; i < 4; i++) check_kind(p, reals[i], JV_REAL, true);
    CHECK(jv_get_i64(p, "tokens", 0) > 0 && jv_get_i64(p, "seqs", 0) > 0);
    CHECK(jv_get_f64(p, "flops", 0) > 0 && jv_get_f64(p, "bytes", 0) > 0);
    check_kind(p, "cached", JV_BOOL, false);
    CHECK(!jv_get_bool(p, "copies_cache", true));
    if (strcmp(jv_get_str(p, "kind", ""), "sampler") != 0) CHECK(jv_get_i64(p, "room_bytes", 0) > jv_get_i64(p, "temp_bytes", 0));
    if (!jv_is(jv_get(p, "error"), JV_NULL)) FAIL("%s: %s", jv_get_str(p, "name", ""), jv_get_str(p, "error", ""));
}

static void check_report(const jv *o, int n_cached)
{
    check_fields(o);
    CHECK(jv_get_bool(o, "fits", false));
    CHECK_INT(jv_get_i64(o, "n_failed", -1), 0);
    CHECK_INT(jv_get_i64(o, "n_cached", -1), n_cached);
    for (size_t i = 0; i < jv_len(jv_get(o, "programs")); i++) check_program(jv_at(jv_get(o, "programs"), i));
}

static void check_manifest(const char *out, const jv *o)
{
    pjrt_manifest m;
    REQUIRE_OK(pjrt_manifest_read(out, &m));
    CHECK_STR(m.model, "LlamaForCausalLM");
    CHECK_STR(m.target, jv_get_str(o, "target", ""));
    CHECK_INT(m.n_programs, jv_get_i64(o, "n_programs", -1));
    for (size_t i = 0; i < m.n_programs; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", out, m.programs[i].key);
        CHECK_STR(m.programs[i].name, jv_get_str(jv_at(jv_get(o, "programs"), i), "name", ""));
    }
    pjrt_manifest_free(&m);
}

/* Twice the same: the second time nothing is compiled. */
static void compile_twice(const char *plugin, const char *target, const char *tp, const char *out)
{
    int n = 0;
    for (int again = 0; again < 2; again++) {
        ran r = RUN(LLAMA, "--target", target, "-tp", tp, FEW, "--plugin", plugin, "--buckets", "decode:8,step:32", "--out", out, "--json");
        jv *o = ran_json(r);
        REQUIRE(o != NULL);
        check_report(o, again ? n : 0);
        n = (int)jv_get_i64(o, "n_programs", -1);
        CHECK(n > 2 && n <= 5); /* two steps and the usual samplers for 8 rows */
        CHECK_INT(jv_get_i64(o, "kv_bytes_per_token", 0), atol(tp) * jv_get_i64(o, "kv_bytes_per_token_per_device", 0));
        int64_t page = jv_get_i64(o, "block_size", 0);
        REQUIRE(page >= 16 && page <= 64); /* the attention policy's */
        CHECK_INT(jv_get_i64(o, "kv_blocks", 0), 8 * 64 / page + 1); /* no more than all sequences can use */
        check_manifest(out, o);
        jv_free(o);
    }
}

TEST(another_plugin_compiles_what_it_calls_a_topology)
{
    char out[96];
    CPU_OR_SKIP(plugin);
    snprintf(out, sizeof out, "%s/cpu", dir);
    compile_twice(plugin, "cpu:4", "2", out);
    CHECK_FAILS(RUN(LLAMA, "--target", "cpu:1", "--plugin", plugin, "-tp", "2", FEW, "--out", out), 1, "--tensor-parallel-size 2 is more than the 1 devices of target cpu:1");
    CHECK_FAILS(RUN(LLAMA, "--target", "cpu:4", "--plugin", plugin, "-tp", "2", "-dp", "4", FEW, "--out", out), 1, "--data-parallel-size 4 times --tensor-parallel-size 2 is 8 devices");
    CHECK_FAILS(RUN(LLAMA, "--target", "cpu:1", "--plugin", plugin, FEW, "--out", out, "--buckets", "decode:9"), 1, "decode:9 is beyond the largest bucket");
    CHECK_FAILS(RUN(LLAMA, "--target", "cpu:1", "--plugin", plugin, FEW, "--out", out, "--buckets", "prefill:9"), 1, "decode:SEQUENCES, step:TOKENS or encoder:ROWS");
}

/* What is left for the next runs: everything that was compiled for the same model and devices, by whichever --buckets. */
TEST(runs_with_other_buckets_add_to_the_manifest)
{
    char out[96], text[160];
    CPU_OR_SKIP(plugin);
    snprintf(out, sizeof out, "%s/parts", dir);
    snprintf(text, sizeof text, "%s/texts", dir);
    pjrt_manifest m;
    for (int i = 0; i < 2; i++) {
        ran r = RUN(LLAMA, "--target", "cpu:1", FEW, "--plugin", plugin, "--buckets", i ? "step:16" : "decode:8", "--no-samplers", "--out", out, "--dump", text);
        CHECK_INT(r.rc, 0);
        ran_free(&r);
    }
    REQUIRE_OK(pjrt_manifest_read(out, &m));
    CHECK_INT(m.n_programs, 2);
    if (m.n_programs == 2) CHECK(strcmp(m.programs[0].name, "step t16 s8") == 0 && strcmp(m.programs[1].name, "decode t8 s8") == 0);
    pjrt_manifest_free(&m);
    ran r = RUN(LLAMA, "--target", "cpu:1", FEW, "--plugin", plugin, "--buckets", "step:16", "--no-samplers", "--out", out, "--max-model-len", "32");
    CHECK_INT(r.rc, 0);
    ran_free(&r);
    REQUIRE_OK(pjrt_manifest_read(out, &m));
    CHECK_INT(m.n_programs, 1); /* other flags */
    pjrt_manifest_free(&m);
    snprintf(text, sizeof text, "%s/texts/decode_t8_s8.mlir", dir);
    CHECK(access(text, R_OK) == 0);
}

TEST(a_table_is_for_people)
{
    char out[96];
    CPU_OR_SKIP(plugin);
    snprintf(out, sizeof out, "%s/cpu", dir);
    ran r = RUN(LLAMA, "--target", "cpu:4", "-tp", "2", FEW, "--plugin", plugin, "--buckets", "decode:8", "--no-samplers", "--out", out);
    CHECK_INT(r.rc, 0);
    CHECK(strstr(buf_cstr(&r.out), "room for ") && strstr(buf_cstr(&r.out), "decode t8 s8"));
    CHECK(strstr(buf_cstr(&r.out), "1 programs in ") && strstr(buf_cstr(&r.out), "0 compiled, 1 from the cache"));
    CHECK(strstr(buf_cstr(&r.err), "[1/1] decode t8 s8 from the cache"));
    ran_free(&r);
}

TEST(programs_for_a_tpu_that_is_not_here)
{
    char out[96];
    TPU_OR_SKIP(plugin);
    snprintf(out, sizeof out, "%s/tpu", dir);
    compile_twice(plugin, "v6e:2x2", "2", out);
    ran r = RUN(LLAMA, "--target", "v6e:2x2", "-tp", "2", FEW, "--plugin", plugin, "--buckets", "step:32", "--no-samplers", "--out", out, "--json");
    jv *o = ran_json(r);
    REQUIRE(o != NULL);
    CHECK_STR(jv_get_str(o, "device_kind", ""), "TPU v6 lite");
    CHECK_INT(jv_get_i64(o, "devices", 0), 4);
    CHECK_INT(jv_get_i64(o, "memory_bytes", 0), chip_by_name("v6e")->hbm_usable_bytes);
    const jv *p = jv_at(jv_get(o, "programs"), 0);
    CHECK(jv_get_f64(p, "step_s", 0) > 0 && jv_get_f64(p, "link_bytes", 0) > 0 && jv_get_i64(p, "alias_bytes", 0) > 0);
    jv_free(o);
}

TEST(what_does_not_fit_is_told_by_how_much)
{
    char out[96];
    TPU_OR_SKIP(plugin);
    snprintf(out, sizeof out, "%s/tpu", dir);
    ran r = RUN(write_file("large.json", LARGE), "--target", "v5e:2x2", "--plugin", plugin, "--out", out, "--json", "--max-model-len", "8192");
    CHECK_INT(r.rc, 1);
    r.rc = 0;
    jv *o = ran_json(r);
    REQUIRE(o != NULL);
    check_fields(o);
    CHECK(!jv_get_bool(o, "fits", true));
    CHECK_INT(jv_get_i64(o, "n_programs", -1), 0);
    CHECK_INT(jv_get_i64(o, "kv_tokens", -1), 0);
    CHECK_INT(jv_get_i64(o, "parameters", 0), 70553706496);
    CHECK_INT(jv_get_i64(o, "weight_bytes_per_device", 0), 2 * 70553706496);
    double gib = (double)jv_get_i64(o, "shortfall_bytes", 0) / (1 << 30);
    CHECK(gib > 115 && gib < 130);
    CHECK(strstr(jv_get_str(o, "message", ""), "GiB too much per device"));
    jv_free(o);
}

/* ---- encoders ---- */

typedef struct planned { flags *f; flag_set set; flag_def own, *table; compile_plan p; compile_jobs jobs; } planned;

/* A preset's plan for v6e:2x2 and its jobs for some buckets. */
static status plan_preset(const char *name, bool language_only, const char *buckets, planned *x)
{
    const char *args[] = { name, "-tp", "4", "--max-model-len", "8192", language_only ? "--language-model-only" : "--no-language-model-only" };
    const pjrt_target_info info = { .platform = "tpu", .version = "test", .topology = "test", .n_devices = 4, .device = { .kind = "TPU v6 lite", .memory_bytes = 33546041344, .n_cores = 1 } };
    char *argv[6];
    memset(x, 0, sizeof *x);
    x->set = (flag_set){ .prog = "test", .positional = "model", .positional_flag = "model" };
    x->own = (flag_def){ "buckets", NULL, "Compile", FLAG_STR, FLAG_YES, NULL, NULL, NULL, "" };
    for (int i = 0; i < 6; i++) argv[i] = (char *)(uintptr_t)args[i];
    TRY(serve_flags_with(&x->own, 1, false, &x->table, &x->set.n_defs));
    x->set.defs = x->table;
    TRY(flags_parse(&x->set, 6, argv, &x->f));
    TRY(compile_plan_model(x->f, name, &x->p));
    TRY(compile_plan_cut(&x->p, compile_plan_mesh(x->f)));
    TRY(compile_plan_target("v6e:2x2", &info, &x->p));
    return compile_jobs_make(&x->p, buckets, false, &x->jobs);
}

static void drop_planned(planned *x)
{
    compile_jobs_free(&x->jobs);
    compile_plan_free(&x->p);
    flags_free(x->f);
    mem_free(x->table);
}

/* Only Gemma 3's images see what is behind them: mixed steps of the others have the kernels of models for text. */
TEST(steps_of_multimodal_models_have_kernels)
{
    static const struct { const char *model; bool see; } cases[] = {
        { "Qwen2.5-VL-7B-Instruct", false }, { "Llama-Guard-4-12B", false }, { "Qwen3-Omni-30B-A3B-Instruct", false }, { "gemma-3-27b-it", true } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        planned x;
        buf text = {0};
        if (plan_preset(cases[i].model, false, "step:64", &x) != ST_OK) FAIL("%s: %s", cases[i].model, err_msg());
        CHECK_INT(x.jobs.n, 1);
        if (x.jobs.n == 1) CHECK_OK(program_text(&x.p.c, &x.jobs.v[0].spec, &text));
        CHECK_INT(x.p.c.lower.see, cases[i].see);
        CHECK_INT(text.data && strstr(text.data, "tpu_custom_call") != NULL, !cases[i].see);
        buf_free(&text);
        drop_planned(&x);
    }
}

/* Every multimodal preset: its encoders' programs are listed and print, at full size, and their memory is not the KV cache's. */
TEST(encoders_are_compiled_too)
{
    static const struct { const char *model; int n; const char *first; } cases[] = {
        { "Qwen2.5-VL-7B-Instruct", 2, "image encoder 0 t1024" }, { "gemma-3-27b-it", 2, "image encoder 0 t4096" }, { "Llama-Guard-4-12B", 2, "image encoder 0 t577" },
        { "Llama-4-Maverick-17B-128E-Instruct", 2, "image encoder 0 t577" }, { "Qwen3-Omni-30B-A3B-Instruct", 9, "image encoder 0 t1024" }, { "Llama-3.1-8B", 0, NULL } };
    planned x, text;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (plan_preset(cases[i].model, false, cases[i].first ? "decode:8,encoder:1000" : "decode:8", &x) != ST_OK) FAIL("%s: %s", cases[i].model, err_msg());
        CHECK_INT(x.jobs.n, 1 + cases[i].n);
        if (cases[i].first && x.jobs.n > 1) CHECK_STR(x.jobs.v[1].spec.name, cases[i].first);
        for (int k = 1; k < x.jobs.n; k++) {
            chip_work work;
            buf out = {0};
            CHECK_OK(program_text(x.jobs.v[k].c, &x.jobs.v[k].spec, &out));
            CHECK(out.len > 0 && out.len < 1 << 20);
            CHECK_OK(compile_cost(&x.p, &x.jobs.v[k], &work));
            CHECK(work.flops > 0 && work.bytes > 0);
            buf_free(&out);
        }
        CHECK_OK(plan_preset(cases[i].model, true, "decode:8", &text));
        CHECK_INT(text.p.encoder_bytes, 0);
        CHECK((x.p.encoder_bytes > 0) == (cases[i].n > 0));
        CHECK(text.p.kv_bytes - x.p.kv_bytes >= x.p.encoder_bytes);
        drop_planned(&x);
        drop_planned(&text);
    }
    CHECK_ERR(plan_preset("Llama-3.1-8B", false, "encoder:64", &x), ST_INVALID, "encoder:64: this model has no encoders");
    drop_planned(&x);
}

/* ---- memory ---- */

TEST(out_of_memory_is_a_status)
{
    static const char *const args[] = { LLAMA, "--target", "v6e:2x2", "-tp", "2", "--buckets", "decode:8,step:32", FEW };
    enum { N = sizeof args / sizeof *args };
    flag_set set = { .prog = "test", .positional = "model", .positional_flag = "model" };
    char *argv[N];
    for (int i = 0; i < N; i++) argv[i] = (char *)(uintptr_t)args[i];
    flag_def own = { "buckets", NULL, "Compile", FLAG_STR, FLAG_YES, NULL, NULL, NULL, "" }, own2 = { "target", NULL, "Compile", FLAG_STR, FLAG_YES, NULL, NULL, NULL, "" };
    flag_def owns[] = { own, own2 }, *table;
    flags *f;
    pjrt_target_info info = { .platform = "tpu", .version = "test", .topology = "test", .n_devices = 4, .device = { .kind = "TPU v6 lite", .memory_bytes = 33546041344, .n_cores = 1 } };
    REQUIRE_OK(serve_flags_with(owns, 2, false, &table, &set.n_defs));
    set.defs = table;
    REQUIRE_OK(flags_parse(&set, N, argv, &f));
    int64_t live = mem_live();
    for (uint64_t n = 1;; n++) {
        compile_plan p = {0};
        compile_jobs jobs = {0};
        buf out = {0};
        mem_fail_at(n);
        status st = compile_plan_model(f, flags_str(f, "model"), &p);
        if (st == ST_OK) {
            st = compile_plan_cut(&p, compile_plan_mesh(f));
            if (st == ST_OK) st = compile_plan_target("v6e:2x2", &info, &p);
            if (st == ST_OK) st = compile_jobs_make(&p, flags_str(f, "buckets"), true, &jobs);
            compile_report r = { .p = &p, .jobs = &jobs, .model = "m", .target = "v6e:2x2", .compiler = "", .cache_dir = "" };
            if (st == ST_OK) st = compile_write_json(&r, &out);
            if (st == ST_OK) st = compile_write_table(&r, &out);
            compile_jobs_free(&jobs);
            compile_plan_free(&p);
        }
        int hit = mem_failed();
        mem_fail_at(0);
        buf_free(&out);
        CHECK_INT(mem_live(), live);
        if (!hit) {
            CHECK_INT(st, ST_OK);
            break;
        }
        CHECK_INT(st, ST_NOMEM);
    }
    flags_free(f);
    mem_free(table);
}

/* ---- and then a server ---- */

/* The last test: a compiler cannot be opened any more once this process has loaded a plugin. */
TEST(a_server_compiles_nothing_that_is_there)
{
    char out[96], spec[4200];
    CPU_OR_SKIP(plugin);
    snprintf(out, sizeof out, "%s/serve", dir);
    snprintf(spec, sizeof spec, "pjrt:%s?cpu_device_count=2", plugin);
    ran r = RUN("tests/goldens/llama", "--target", "cpu:2", "-tp", "2", FEW, "--plugin", plugin, "--out", out);
    CHECK_INT(r.rc, 0);
    ran_free(&r);
    const char *const args[] = { "tests/goldens/llama", "--device", spec, "-tp", "2", FEW, "--program-cache", out };
    enum { N = sizeof args / sizeof *args };
    char *argv[N];
    for (int i = 0; i < N; i++) argv[i] = (char *)(uintptr_t)args[i];
    flags *f;
    instance s;
    REQUIRE_OK(flags_parse(&serve_flags, N, argv, &f));
    FILE *log = tmpfile();
    int keep = dup(STDERR_FILENO);
    dup2(fileno(log), STDERR_FILENO);
    log_set_level(LOG_INFO);
    status st = instance_open(f, &s);
    log_set_level(LOG_WARNING);
    dup2(keep, STDERR_FILENO);
    close(keep);
    buf text = {0};
    slurp(log, &text);
    CHECK_OK(st);
    if (!strstr(buf_cstr(&text), ": 0 compiled, 5 from the cache")) FAIL("not all from the cache: %s", buf_cstr(&text));
    buf_free(&text);
    if (st == ST_OK) instance_close(&s, 0);
    flags_free(f);
}

TEST_MAIN
