/* Quantised checkpoints, end to end on the CPU device: every stored format against the goldens. Formats that leave activations alone
 * within the golden's tolerance; those that round them by the share of probes whose logits are the reference's (a different rounding of
 * one activation moves all that follow), and by what is off on average. */
#include "load/safetensors.h"
#include "tests/golden/report.h"
#include "tests/golden/rig.h"

typedef struct golden { st_set *set; double atol, actq_rms; } golden;

static const void *data_of(const golden *g, const char *name, int64_t *n)
{
    const st_tensor *t = st_find(g->set, name);
    if (t && n) *n = t->shape[0];
    return t ? t->data : NULL;
}

static bool open_golden(const char *name, golden *g, char dir[4096])
{
    char rel[256];
    jv *meta = NULL;
    *g = (golden){ 0 };
    snprintf(rel, sizeof rel, "goldens/%s/golden.json", name);
    const char *found = test_shared(rel);
    if (!found) return false;
    snprintf(dir, 4096, "%s", found);
    if (jv_parse_file(found, 1 << 20, &meta) != ST_OK) return false;
    g->atol = jv_get_f64(meta, "suggested_atol", 0);
    double own = 1.35 * jv_get_f64(meta, "sensitivity_actq_rms", 0), half = 0.5 * jv_get_f64(meta, "actq_vs_weightonly_rms", 0);
    g->actq_rms = own > half ? own : half;
    jv_free(meta);
    strcpy(strrchr(dir, '/'), "/golden.safetensors");
    bool ok = st_open_file(dir, &g->set) == ST_OK;
    *strrchr(dir, '/') = 0;
    return ok;
}

/* Largest and root mean square difference of a prompt's logits, in chunks. */
static status differences(rig *r, const int32_t *ids, const float *want, int n, int chunk, double *worst, double *rms)
{
    size_t count = (size_t)n * (size_t)r->vocab;
    float *got = mem_array(count, sizeof *got);
    rig_seq seq = { 0 };
    status st = got ? rig_prompt(r, &seq, ids, n, chunk, got) : err_nomem();
    *worst = *rms = 0;
    for (size_t i = 0; i < count && st == ST_OK; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= *worst)) *worst = d;
        *rms += d * d;
    }
    *rms = sqrt(*rms / (double)count);
    mem_free(got);
    return st;
}

static void check_weight_only(rig *r, const golden *g, const char *name, bool keep)
{
    static const char *const prompts[] = { "short", "long" };
    static const int chunks[] = { 1, 7, 256 };
    double most = 0;
    for (int p = 0; p < 2; p++)
        for (int c = 0; c < 3; c++) {
            char key[64];
            int64_t n = 0;
            double worst, rms;
            snprintf(key, sizeof key, "%s.input_ids", prompts[p]);
            const int32_t *ids = data_of(g, key, &n);
            snprintf(key, sizeof key, "%s.logits", prompts[p]);
            const float *want = data_of(g, key, NULL);
            REQUIRE(ids && want);
            REQUIRE_OK(differences(r, ids, want, (int)n, chunks[c], &worst, &rms));
            if (!(worst <= g->atol)) FAIL("%s: %s in chunks of %d: off by %g, allowed %g", name, prompts[p], chunks[c], worst, g->atol);
            most = worst > most ? worst : most;
        }
    printf("  %-28s worst %.2e of %.2e\n", name, most, g->atol);
    golden_report(name, "cpu", most, g->atol, keep ? "activations not rounded" : NULL);
}

static void check_rounded(rig *r, const golden *g, const char *name)
{
    int64_t n = 0, n_long = 0;
    const int32_t *probes = data_of(g, "probe.input_ids", &n), *ids = data_of(g, "long.input_ids", &n_long);
    const float *want = data_of(g, "probe.logits_actq", NULL), *want_long = data_of(g, "long.logits_actq", NULL);
    REQUIRE(probes && want && ids && want_long);
    int exact = 0;
    for (int64_t i = 0; i < n; i++) {
        rig_seq seq = { 0 };
        REQUIRE(r->vocab <= 1024);
        float flat[3 * 1024];
        REQUIRE_OK(rig_prompt(r, &seq, probes + i * 3, 3, 3, flat));
        for (int t = 0; t < 3; t++) {
            double worst = 0;
            for (int v = 0; v < r->vocab; v++) {
                double d = fabs((double)flat[t * r->vocab + v] - (double)want[(i * 3 + t) * r->vocab + v]);
                if (!(d <= worst)) worst = d;
            }
            exact += worst < 0.01;
        }
    }
    double worst, rms, share = (double)exact / (double)(n * 3);
    REQUIRE_OK(differences(r, ids, want_long, (int)n_long, 64, &worst, &rms));
    printf("  %-28s %.3f of probes exact; long: rms %.4f of %.4f\n", name, share, rms, g->actq_rms);
    golden_report(name, "cpu", share >= 0.8 ? rms : INFINITY, g->actq_rms, "rms, activations rounded");
    if (!(share >= 0.8)) FAIL("%s: %.3f of the probes are exact, expected 0.8", name, share);
    if (!(rms <= g->actq_rms)) FAIL("%s: off by %.4f (rms), allowed %.4f", name, rms, g->actq_rms);
}

static void run_stored(const char *name, bool keep)
{
    char dir[4096];
    golden g;
    if (!open_golden(name, &g, dir)) SKIP("no goldens");
    rig r;
    REQUIRE_OK(rig_open(&r, dir, (rig_options){ .weights = DT_F32, .kv = DT_F32, .threads = 2, .block_size = 16, .keep_activations = keep }));
    if (st_find(g.set, "probe.logits_actq") && !keep) check_rounded(&r, &g, name);
    else check_weight_only(&r, &g, name, keep);
    rig_close(&r);
    st_close(g.set);
}

#define STORED(name) TEST(stored_##name) { run_stored(#name, false); }
/* The reference has no rounded activations for experts; and the others' weights by themselves, before what is reported of them. */
#define WEIGHTS(name) TEST(weights_##name) { run_stored(#name, true); }
WEIGHTS(llama_fp8_block)
WEIGHTS(llama_ct_int8_w8a8)
WEIGHTS(llama_ct_fp8_static)
STORED(llama_awq)
STORED(llama_awq_g32)
STORED(llama_gptq)
STORED(llama_gptq_g32_asym_actorder)
STORED(llama_ct_w4a16_g32)
STORED(llama_ct_w4a16_g128)
STORED(llama_ct_w4a16_asym_g128)
STORED(llama_ct_int8_w8a8)
STORED(llama_ct_fp8_w8a8)
STORED(llama_ct_fp8_static)
STORED(llama_ct_fp8_w8a16)
STORED(llama_fp8_block)
STORED(llama_fp8_block_aligned)
STORED(llama_nvfp4_w4a16)
STORED(llama_mxfp4_w4a16)
STORED(qwen3_awq)
STORED(qwen3_gptq_g32)
STORED(qwen3_ct_w4a16_asym_g32)
STORED(qwen3_ct_int8_w8a8)
STORED(qwen3_ct_fp8_w8a8)
STORED(qwen3_fp8_block)
STORED(qwen3_nvfp4_w4a16)
WEIGHTS(qwen3_moe_fp8_block)
WEIGHTS(qwen3_moe_fp8_block_aligned)
WEIGHTS(deepseek_v3_fp8)
WEIGHTS(deepseek_v3_fp8_aligned)
WEIGHTS(deepseek_v31_fp8_ue8m0)
STORED(gpt_oss_mxfp4)
STORED(kimi_k2_int4)

TEST_MAIN
