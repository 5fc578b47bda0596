/* The unquantised models against the goldens, through device_run with paging and chunking: logits of every position within
 * the golden's tolerance, and greedy continuations equal wherever the reference's margin is no tie. */
#include "load/safetensors.h"
#include "tests/golden/report.h"
#include "tests/golden/rig.h"

typedef struct golden { st_set *set; double atol; int switch_len; } golden;

static const void *golden_data(const golden *g, const char *prompt, const char *leaf, int64_t *n)
{
    char name[128];
    snprintf(name, sizeof name, "%s.%s", prompt, leaf);
    const st_tensor *t = st_find(g->set, name);
    if (t && n) *n = t->shape[0];
    return t ? t->data : NULL;
}

static int variant_for(const rig *r, int len)
{
    int at = model_describe(r->m)->rope_switch_len;
    return at && len > at;
}

/* Largest difference from the golden over all positions, or -1 after a failure. */
static double compare_logits(rig *r, const golden *g, const char *prompt, int chunk, rig_seq *seq)
{
    int64_t n = 0;
    const int32_t *ids = golden_data(g, prompt, "input_ids", &n);
    const float *want = golden_data(g, prompt, "logits", NULL);
    if (!ids || !want) { FAIL("golden has no %s", prompt); return -1; }
    float *got = mem_array((size_t)(n * r->vocab), sizeof *got);
    *seq = (rig_seq){ .variant = variant_for(r, (int)n) };
    status st = rig_prompt(r, seq, ids, (int)n, chunk, got);
    double worst = 0;
    if (st != ST_OK) FAIL("%s: %s", prompt, err_msg());
    for (int64_t i = 0; i < n * r->vocab && st == ST_OK; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= worst)) worst = d;
    }
    mem_free(got);
    return st == ST_OK ? worst : -1;
}

static void compare_greedy(rig *r, const golden *g, const char *dir, const char *prompt, rig_seq *seq)
{
    int64_t n = 0, n_prompt = 0;
    const int32_t *want = golden_data(g, prompt, "greedy_ids", &n);
    const int32_t *ids = golden_data(g, prompt, "input_ids", &n_prompt);
    const float *margin = golden_data(g, prompt, "greedy_margin", NULL);
    float *logits = mem_array((size_t)r->vocab, sizeof *logits);
    *seq = (rig_seq){ .variant = variant_for(r, (int)n_prompt) };
    int32_t last = ids[n_prompt - 1];
    REQUIRE_OK(rig_prompt(r, seq, ids, (int)n_prompt - 1, 32, NULL));
    for (int64_t i = 0; i < n; i++) {
        REQUIRE_OK(rig_step(r, &(rig_work){ seq, &last, 1, logits }, 1));
        last = rig_argmax(logits, r->vocab);
        if (last == want[i]) continue;
        if (margin[i] > 2 * g->atol) FAIL("%s: %s: greedy token %d is %d, wanted %d (margin %g)", dir, prompt, (int)i, last, want[i], (double)margin[i]);
        break; /* a tie: the rest may differ */
    }
    mem_free(logits);
}

static void run_golden(const char *dir, rig_options o)
{
    char path[4096], rel[256];
    snprintf(rel, sizeof rel, "goldens/%s/golden.json", dir);
    const char *found = test_shared(rel);
    if (!found) SKIP("no goldens");
    golden g = { 0 };
    jv *meta = NULL;
    REQUIRE_OK(jv_parse_file(found, 1 << 20, &meta));
    g.atol = jv_get_f64(meta, "suggested_atol", 0);
    jv_free(meta);
    snprintf(path, sizeof path, "%s", found);
    strcpy(strrchr(path, '/'), "/golden.safetensors");
    REQUIRE_OK(st_open_file(path, &g.set));
    *strrchr(path, '/') = 0;
    rig r;
    REQUIRE_OK(rig_open(&r, path, o));
    static const char *const prompts[] = { "short", "long" };
    static const int chunks[] = { 1, 7, 64, 256 };
    double worst = 0;
    for (int p = 0; p < 2; p++) {
        rig_seq seq;
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            double d = compare_logits(&r, &g, prompts[p], chunks[c], &seq);
            if (!(d >= 0 && d <= g.atol)) FAIL("%s: %s in chunks of %d: off by %g, allowed %g", dir, prompts[p], chunks[c], d, g.atol);
            worst = !(d >= 0) ? INFINITY : d > worst ? d : worst;
        }
        compare_greedy(&r, &g, dir, prompts[p], &seq);
    }
    printf("  %-22s worst %.2e of %.2e\n", dir, worst, g.atol);
    golden_report(dir, "cpu", worst, g.atol, NULL);
    rig_close(&r);
    st_close(g.set);
}

#define GOLDEN(name) TEST(golden_##name) { run_golden(#name, (rig_options){ .weights = DT_F32, .kv = DT_F32, .threads = 2, .block_size = 16 }); }
GOLDEN(deepseek_v3)
GOLDEN(deepseek_v3_mtp)
GOLDEN(deepseek_v3_noqlora)
GOLDEN(deepseek_v3_realhead)
GOLDEN(kimi_k2)
GOLDEN(llama)
GOLDEN(llama_bf16)
GOLDEN(llama_hd128)
GOLDEN(llama_plainrope_bias)
GOLDEN(llama_sharded)
GOLDEN(llama_tied)
GOLDEN(llama_eagle_target)
GOLDEN(gemma3_text)
GOLDEN(gemma3_text_linear)
GOLDEN(gemma3_mm)
GOLDEN(gpt_oss)
GOLDEN(gpt_oss_clamp)
GOLDEN(gpt_oss_hd64)
GOLDEN(llama4_scout)
GOLDEN(llama4_maverick)
GOLDEN(llama4_guard)
GOLDEN(mistral)
GOLDEN(qwen2)
GOLDEN(qwen2_5_vl)
GOLDEN(qwen3)
GOLDEN(qwen3_tied)
GOLDEN(qwen3_yarn)
GOLDEN(qwen3_moe)
GOLDEN(qwen3_omni)
GOLDEN(qwen3_moe_sparse)
GOLDEN(phi3)
GOLDEN(phi3_longrope)

/* A real trained model: greedy tokens, and the log-probability of each, step by step. */
static void run_stories(const char *model_dir)
{
    char path[4096];
    const char *found = test_shared("realdata/models/stories260k/golden_logprobs_float32.json");
    if (!found) SKIP("no stories260k");
    jv *j = NULL;
    REQUIRE_OK(jv_parse_file(found, 64 << 20, &j));
    const jv *runs = jv_get(j, "greedy");
    char rel[128];
    snprintf(rel, sizeof rel, "realdata/models/%s/config.json", model_dir);
    found = test_shared(rel);
    REQUIRE(found);
    snprintf(path, sizeof path, "%s", found);
    *strrchr(path, '/') = 0;
    rig r;
    REQUIRE_OK(rig_open(&r, path, (rig_options){ .weights = DT_F32, .kv = DT_F32, .threads = 2, .max_model_len = 512 }));
    float *logits = mem_array((size_t)r.vocab, sizeof *logits);
    double worst = 0;
    for (size_t g = 0; g < jv_len(runs); g++) {
        const jv *ids = jv_get(jv_at(runs, g), "prompt_ids"), *steps = jv_get(jv_at(runs, g), "steps");
        rig_seq seq = { 0 };
        int n = (int)jv_len(ids);
        int32_t last = (int32_t)jv_i64(jv_at(ids, (size_t)n - 1), 0);
        for (int i = 0; i + 1 < n; i++) {
            int32_t id = (int32_t)jv_i64(jv_at(ids, (size_t)i), 0);
            REQUIRE_OK(rig_step(&r, &(rig_work){ &seq, &id, 1, NULL }, 1));
        }
        for (size_t i = 0; i < jv_len(steps); i++) {
            const jv *want = jv_at(steps, i);
            REQUIRE_OK(rig_step(&r, &(rig_work){ &seq, &last, 1, logits }, 1));
            last = rig_argmax(logits, r.vocab);
            if (last != jv_get_i64(want, "id", -1)) {
                if (jv_get_f64(want, "margin", 1) > 1e-3) FAIL("prompt %d: token %d is %d", (int)g, (int)i, last);
                break;
            }
            double sum = 0;
            for (int v = 0; v < r.vocab; v++) sum += exp((double)logits[v] - (double)logits[last]);
            double off = fabs(-log(sum) - jv_get_f64(want, "logprob", 0));
            worst = off > worst ? off : worst;
        }
    }
    CHECK(jv_len(runs) > 0 && worst < 1e-3);
    printf("  %-22s worst log-probability %.1e\n", model_dir, worst);
    mem_free(logits);
    jv_free(j);
    rig_close(&r);
}

TEST(stories260k) { run_stories("stories260k-hf-f32"); }

TEST_MAIN
