/* What the type of the KV cache does to a model's logits, and that blocks of every type can be copied out and in. Set
 * KV_TYPES_REPORT=1 for the table of docs/performance.md. */
#include "load/safetensors.h"
#include "tests/golden/rig.h"

static const dtype types[] = { DT_F32, DT_BF16, DT_F16, DT_F8E4M3, DT_F8E5M2, DT_I8 };
enum { N_TYPES = sizeof types / sizeof *types };

typedef struct effect { double worst, scale, rms, kl, nll, bits; int64_t n, same; } effect;

/* The effect of `got` in place of `want`, logits of [n][vocab]; next[i] is the token that follows row i, or next is NULL. */
static void add_effect(effect *e, const float *want, const float *got, const int32_t *next, int n, int vocab)
{
    for (int i = 0; i < n; i++, want += vocab, got += vocab) {
        double sum_w = 0, sum_g = 0, kl = 0, max_w = (double)want[rig_argmax(want, vocab)], max_g = (double)got[rig_argmax(got, vocab)];
        for (int v = 0; v < vocab; v++) {
            double d = fabs((double)want[v] - (double)got[v]);
            if (!(d <= e->worst)) e->worst = d;
            if (fabs((double)want[v]) > e->scale) e->scale = fabs((double)want[v]);
            e->rms += d * d / vocab;
            sum_w += exp((double)want[v] - max_w);
            sum_g += exp((double)got[v] - max_g);
        }
        for (int v = 0; v < vocab; v++) {
            double lw = (double)want[v] - max_w - log(sum_w), lg = (double)got[v] - max_g - log(sum_g);
            kl += exp(lw) * (lw - lg);
        }
        e->kl += kl;
        e->same += rig_argmax(want, vocab) == rig_argmax(got, vocab);
        if (next) e->nll -= (double)got[next[i]] - max_g - log(sum_g);
        e->n++;
    }
}

static void report(const char *what, dtype t, const effect *e)
{
    if (!getenv("KV_TYPES_REPORT")) return;
    printf("  %-14s %-7s rms %.1e, worst %.1e of %.1f, KL %.1e, same greedy token %lld of %lld", what, dtype_name(t), sqrt(e->rms / (double)e->n), e->worst, e->scale,
           e->kl / (double)e->n, (long long)e->same, (long long)e->n);
    if (e->nll > 0) printf(", perplexity %.5f", exp(e->nll / (double)e->n));
    printf("\n");
}

/* A text's logits with every type of cache beside those with float32; the first type is that. */
static void add_text(const char *dir, const int32_t *ids, int n, bool count_next, effect out[N_TYPES])
{
    float *want = NULL, *got = NULL;
    for (int k = 0; k < N_TYPES; k++) {
        rig r;
        rig_seq seq = { 0 };
        REQUIRE_OK(rig_open(&r, dir, (rig_options){ .weights = DT_F32, .kv = types[k], .threads = 1, .max_model_len = 512 }));
        size_t count = (size_t)n * (size_t)r.vocab;
        if (!want) want = mem_array(count, sizeof(float)), got = mem_array(count, sizeof(float));
        REQUIRE_OK(rig_prompt(&r, &seq, ids, n, 32, k ? got : want));
        if (k == 0) memcpy(got, want, count * sizeof(float));
        add_effect(&out[k], want, got, count_next ? ids + 1 : NULL, count_next ? n - 1 : n, r.vocab);
        rig_close(&r);
    }
    mem_free(want);
    mem_free(got);
}

/* Bounds by type, of the root mean square error relative to the greatest logit. */
static void check_effects(const char *what, const effect e[N_TYPES])
{
    static const double most[N_TYPES] = { 0, 4e-3, 5e-4, 5e-2, 1e-1, 1e-2 };
    for (int k = 0; k < N_TYPES; k++) {
        report(what, types[k], &e[k]);
        double rms = sqrt(e[k].rms / (double)e[k].n) / e[k].scale;
        if (!(rms <= most[k] && (k == 0) == (rms == 0))) FAIL("%s: a cache of %s gives an error of %g, allowed %g", what, dtype_name(types[k]), rms, most[k]);
    }
    CHECK(e[5].rms < e[3].rms && e[3].rms < e[4].rms); /* int8 with its scales beats e4m3, which has a bit more than e5m2 */
}

static void run_golden(const char *name)
{
    char rel[128], path[4096];
    effect e[N_TYPES] = { 0 };
    snprintf(rel, sizeof rel, "goldens/%s/golden.safetensors", name);
    const char *found = test_shared(rel);
    if (!found) SKIP("no goldens");
    snprintf(path, sizeof path, "%s", found);
    st_set *set;
    REQUIRE_OK(st_open_file(path, &set));
    *strrchr(path, '/') = 0;
    const st_tensor *ids = st_find(set, "long.input_ids");
    REQUIRE(ids);
    add_text(path, ids->data, (int)ids->shape[0], false, e);
    st_close(set);
    check_effects(name, e);
}

TEST(golden_llama) { run_golden("llama"); }
TEST(golden_llama_hd128) { run_golden("llama_hd128"); }
TEST(golden_mistral) { run_golden("mistral"); }
TEST(golden_qwen3) { run_golden("qwen3"); }

/* A real trained model, on stories that float32 wrote. */
TEST(stories260k)
{
    char path[4096];
    const char *found = test_shared("realdata/models/stories260k/golden_logprobs_float32.json");
    if (!found) SKIP("no stories260k");
    jv *j = NULL;
    REQUIRE_OK(jv_parse_file(found, 64 << 20, &j));
    found = test_shared("realdata/models/stories260k-hf-f32/config.json");
    REQUIRE(found);
    snprintf(path, sizeof path, "%s", found);
    *strrchr(path, '/') = 0;
    effect e[N_TYPES] = { 0 };
    const jv *runs = jv_get(j, "greedy");
    for (size_t g = 0; g < jv_len(runs); g++) {
        static int32_t ids[512];
        const jv *prompt = jv_get(jv_at(runs, g), "prompt_ids"), *steps = jv_get(jv_at(runs, g), "steps");
        int n = 0;
        for (size_t i = 0; i < jv_len(prompt) && n < 500; i++) ids[n++] = (int32_t)jv_i64(jv_at(prompt, i), 0);
        for (size_t i = 0; i < jv_len(steps) && n < 500; i++) ids[n++] = (int32_t)jv_get_i64(jv_at(steps, i), "id", 0);
        add_text(path, ids, n, true, e);
    }
    jv_free(j);
    check_effects("stories260k", e);
}

/* ---- blocks, memory ---- */

static const char config_text[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"x\", \"vocab_size\": 40, \"hidden_size\": 48, \"intermediate_size\": 64,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 2, \"head_dim\": 20, \"rms_norm_eps\": 1e-5,"
    " \"max_position_embeddings\": 256}";

static status open_small(rig *r, dtype kv, int block)
{
    *r = (rig){ 0 };
    TRY(jv_parse(config_text, strlen(config_text), &r->config));
    return rig_open_config(r, r->config, NULL, (rig_options){ .weights = DT_F32, .kv = kv, .threads = 2, .block_size = block, .max_model_len = 128 });
}

/* Blocks copied out, wiped and copied in elsewhere give the same continuation; scales go with their numbers. */
TEST(blocks_of_every_type_can_be_moved)
{
    int32_t ids[21];
    for (int i = 0; i < 21; i++) ids[i] = i * 7 % 40;
    for (int k = 0; k < N_TYPES; k++) {
        rig r;
        float want[40], got[40];
        rig_seq a = { 0 }, b;
        REQUIRE_OK(open_small(&r, types[k], 8));
        REQUIRE_OK(rig_prompt(&r, &a, ids, 20, 7, NULL));
        size_t bytes = (size_t)device_kv_block_bytes(r.dm);
        char *data = mem_alloc(bytes), *zero = mem_calloc(1, bytes);
        b = a;
        REQUIRE_OK(rig_step(&r, &(rig_work){ &a, ids + 20, 1, want }, 1));
        for (int p = 0; p < 3; p++) {
            int32_t to = rig_block(&r);
            REQUIRE_OK(device_kv_read(r.dm, b.pages[0][p], data));
            REQUIRE_OK(device_kv_write(r.dm, b.pages[0][p], zero));
            REQUIRE_OK(device_kv_write(r.dm, to, data));
            b.pages[0][p] = to;
        }
        REQUIRE_OK(rig_step(&r, &(rig_work){ &b, ids + 20, 1, got }, 1));
        CHECK(memcmp(want, got, sizeof want) == 0);
        mem_free(data);
        mem_free(zero);
        rig_close(&r);
    }
}

/* One byte for a number, and four for the scales of a token's head, in whole cache lines. */
TEST(a_block_has_the_bytes_of_its_type)
{
    /* 2 layers, 16 tokens, 2 heads: K of 20 numbers, V of 32 */
    static const int64_t want[N_TYPES] = { 2 * 4 * (640 + 1024), 2 * 2 * (640 + 1024), 2 * 2 * (640 + 1024), 2 * (640 + 1024), 2 * (640 + 1024),
                                           2 * (640 + 128 + 1024 + 128) };
    for (int k = 0; k < N_TYPES; k++) {
        rig r;
        REQUIRE_OK(open_small(&r, types[k], 16));
        CHECK_INT(device_kv_block_bytes(r.dm), want[k]);
        rig_close(&r);
    }
}

TEST(steps_allocate_nothing)
{
    int32_t ids[100] = { 0 };
    for (int k = 0; k < N_TYPES; k++) {
        rig r;
        rig_seq s = { 0 };
        float row[40];
        REQUIRE_OK(open_small(&r, types[k], 16));
        REQUIRE_OK(rig_prompt(&r, &s, ids, 90, 30, NULL));
        uint64_t before = mem_count();
        for (int i = 0; i < 10; i++) REQUIRE_OK(rig_step(&r, &(rig_work){ &s, ids + 90 + i, 1, row }, 1));
        CHECK_INT(mem_count() - before, 10); /* the rig's own */
        rig_close(&r);
    }
}

TEST(out_of_memory_is_a_status)
{
    for (uint64_t n = 1;; n++) {
        rig r;
        mem_fail_at(n);
        status st = open_small(&r, DT_I8, 16);
        mem_fail_at(0);
        if (st == ST_OK) {
            CHECK(n > 5);
            rig_close(&r);
            break;
        }
        CHECK_INT(st, ST_NOMEM);
        if (n > 10000) { FAIL("never succeeds"); break; }
    }
}

TEST_MAIN
