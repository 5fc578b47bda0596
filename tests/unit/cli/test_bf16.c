/* What computing in bfloat16 costs: logits of a golden and the perplexity of a trained model, with float32 activations (multiply-adds)
 * and with rounded ones (the dot product instruction), beside the float32 model. docs/performance.md has the figures. */
#include "load/safetensors.h"
#include "ops/isa.h"
#include "tests/golden/stories.h"

/* A way to compute: the model's type, the instruction set. */
typedef struct way { const char *name; dtype weights, kv; const char *isa; } way;
static const way ways[] = { { "float32", DT_F32, DT_F32, NULL },
                            { "bfloat16, float32 activations", DT_BF16, DT_F32, NULL }, { "the same, bfloat16 cache", DT_BF16, DT_BF16, NULL },
                            { "bfloat16, bfloat16 activations", DT_BF16, DT_F32, "avx512_bf16" }, { "and attention, bfloat16 cache", DT_BF16, DT_BF16, "avx512_bf16" } };
enum { N_WAYS = 5, DOT_WAY = 3, N_DOT_WAYS = 2 };

static bool can_dot(void)
{
    isa set;
    bool can = isa_parse(ways[DOT_WAY].isa, &set) == ST_OK;
    err_clear();
    return can;
}

static status open_way(rig *r, const char *file, int w)
{
    char dir[4096];
    snprintf(dir, sizeof dir, "%s", file);
    *strrchr(dir, '/') = 0;
    return rig_open(r, dir, (rig_options){ .weights = ways[w].weights, .kv = ways[w].kv, .threads = 2, .block_size = 16, .max_model_len = 512,
                                           .isa = w > 0 && w < DOT_WAY ? isa_name(isa_best()) : ways[w].isa });
}

/* ---- logits ---- */

/* Root mean square of what is off, relative to the root mean square of the logits. */
static double relative_error(const float *got, const float *want, int64_t n)
{
    double off = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)want[i];
        off += d * d;
        size += (double)want[i] * (double)want[i];
    }
    return sqrt(off / size);
}

static void check_golden(const char *name, const double most[N_WAYS])
{
    char rel[256], path[4096];
    snprintf(rel, sizeof rel, "goldens/%s/golden.safetensors", name);
    const char *found = test_shared(rel);
    if (!found) SKIP("no goldens");
    snprintf(path, sizeof path, "%s", found);
    st_set *set = NULL;
    REQUIRE_OK(st_open_file(path, &set));
    const st_tensor *ids = st_find(set, "long.input_ids"), *logits = st_find(set, "long.logits");
    REQUIRE(ids && logits);
    int n = (int)ids->shape[0];
    for (int w = 0; w < N_WAYS - (can_dot() ? 0 : N_DOT_WAYS); w++) {
        rig r;
        REQUIRE_OK(open_way(&r, path, w));
        float *got = mem_array((size_t)n * (size_t)r.vocab, sizeof *got);
        rig_seq seq = { 0 };
        CHECK_OK(rig_prompt(&r, &seq, ids->data, n, 64, got));
        double e = relative_error(got, logits->data, (int64_t)n * r.vocab);
        printf("  %-12s %-32s %.2e\n", name, ways[w].name, e);
        if (!(e <= most[w])) FAIL("%s, %s: logits are off by %.2e, allowed %.2e", name, ways[w].name, e, most[w]);
        mem_free(got);
        rig_close(&r);
    }
    st_close(set);
}

/* The checkpoint of llama_bf16 is bfloat16, so that weights lose nothing; llama's is float32. */
TEST(golden_llama_bf16) { check_golden("llama_bf16", (double[]){ 1e-5, 1e-5, 1.2e-2, 1.2e-2, 1.6e-2 }); }
TEST(golden_llama) { check_golden("llama", (double[]){ 1e-5, 2e-2, 2.4e-2, 2.4e-2, 2.8e-2 }); }

/* ---- perplexity ---- */

TEST(perplexity_of_stories)
{
    const char *found = test_shared("realdata/models/stories260k-hf-f32/config.json");
    if (!found) SKIP("no stories260k");
    char path[4096];
    snprintf(path, sizeof path, "%s", found);
    double plain = 0;
    for (int w = 0; w < N_WAYS - (can_dot() ? 0 : N_DOT_WAYS); w++) {
        rig r;
        REQUIRE_OK(open_way(&r, path, w));
        REQUIRE(r.vocab == STORIES_VOCAB);
        if (w == 0) stories_tell(&r);
        double p = stories_perplexity(&r);
        if (w == 0) plain = p;
        printf("  %-32s perplexity %.4f (%+.3f%%)\n", ways[w].name, p, 100 * (p / plain - 1));
        CHECK(fabs(p / plain - 1) <= 0.003);
        rig_close(&r);
    }
}

TEST_MAIN
