/* The exactness rule: a row's logits have the same bits whatever else is in the batch, however the sequence is cut, whatever
 * the number of threads, the block size and the instruction set. And what comes with it: a step allocates nothing. */
#include "ops/isa.h"
#include "tests/golden/rig.h"

/* A model whose sizes are no multiples of anything convenient: several parts of keys, windows, biases. */
static const char config_text[] =
    "{\"architectures\": [\"%s\"], \"model_type\": \"x\", \"vocab_size\": 203, \"hidden_size\": 72, \"intermediate_size\": 150,"
    " \"num_hidden_layers\": 3, \"num_attention_heads\": 6, \"num_key_value_heads\": 2, \"head_dim\": %d, \"rms_norm_eps\": 1e-5,"
    " \"num_experts\": 7, \"num_experts_per_tok\": 3, \"moe_intermediate_size\": 50, \"norm_topk_prob\": true, \"mlp_only_layers\": [1],"
    " \"max_position_embeddings\": 2048, \"sliding_window\": %s, \"tie_word_embeddings\": %s}";

/* Three parts of keys of attention; instrumented code does less: two, and no chunks of single tokens. */
#ifdef SYSTOLIC_SANITIZED
enum { LEN = 330, VOCAB = 203, MIN_CHUNK = 7, MIN_CHUNK_PORTABLE = LEN };
#else
enum { LEN = 540, VOCAB = 203, MIN_CHUNK = 1, MIN_CHUNK_PORTABLE = 100 };
#endif

/* Dummy weights are too small to make attention interesting: these are larger, and a function of name and place. */
static status get_big(const weight_source *s, const char *name, weight_data *out);
static void release_big(const weight_source *s, const char *name, weight_data *w) { (void)s, (void)name; mem_free(w->owned); }
typedef struct big_source { weight_source base; const weight_source *inner; } big_source;

static status get_big(const weight_source *s, const char *name, weight_data *out)
{
    const weight_source *inner = ((const big_source *)(const void *)s)->inner;
    TRY(inner->get(inner, name, out));
    int64_t n = out->shape[0] * (out->rank == 2 ? out->shape[1] : 1);
    float *f = out->owned;
    bool norm = strstr(name, "norm") != NULL;
    uint16_t *h = out->owned;
    for (int64_t i = 0; i < n && out->type == DT_F32; i++) f[i] = norm ? 1 + 100 * f[i] : 150 * f[i];
    for (int64_t i = 0; i < n && out->type == DT_BF16; i++) h[i] = f32_to_bf16(norm ? 1 + 100 * bf16_to_f32(h[i]) : 150 * bf16_to_f32(h[i]));
    return ST_OK;
}

static status open_rig(rig *r, const char *arch, int head_dim, const char *window, bool tied, rig_options o)
{
    char text[1024];
    snprintf(text, sizeof text, config_text, arch, head_dim, window, tied ? "true" : "false");
    *r = (rig){ 0 };
    TRY(jv_parse(text, strlen(text), &r->config));
    status st;
    TRY_OUT(model_new(r->config, &(model_options){ .weight_dtype = o.weights, .quant = o.quant }, &r->m));
    TRY_OUT(model_weights_open(r->m, NULL, true, 5, &r->w));
    TRY_OUT(device_open("cpu", &(device_options){ .n_threads = o.threads, .isa = o.isa }, &r->dev));
    r->limits = (device_limits){ 700, RIG_MAX_SEQS, 700, RIG_MAX_LEN, o.block_size, o.kv, { 0 }, 0, false };
    r->vocab = VOCAB;
    big_source big = { { get_big, release_big, r->w->has, NULL, NULL }, r->w };
    TRY_OUT(device_load(r->dev, model_graph(r->m), &big.base, &r->limits, NULL, NULL, &r->dm));
    device_kv_layout(r->dm, &r->kv);
    r->n_blocks = (RIG_MAX_SEQS * RIG_MAX_LEN) / o.block_size + RIG_MAX_SEQS;
    TRY_OUT(device_kv_resize(r->dm, r->n_blocks));
out:
    if (st != ST_OK) rig_close(r);
    return st;
}

static int32_t prompt[RIG_MAX_SEQS][LEN];
static float want[LEN][VOCAB], got[LEN][VOCAB];

static void make_prompts(void)
{
    for (int s = 0; s < RIG_MAX_SEQS; s++)
        for (int i = 0; i < LEN; i++) prompt[s][i] = (int32_t)((unsigned)(i * 31 + s * 17 + i * i % 7) % VOCAB);
}

static void expect_same(const char *what, int n)
{
    for (int i = 0; i < n; i++)
        if (memcmp(want[i], got[i], sizeof want[i]) != 0) {
            FAIL("%s: row %d differs", what, i);
            return;
        }
}

/* Sequence 0 in pieces of `chunk` beside other sequences that come, grow and go. */
static void run_in_company(rig *r, int chunk)
{
    static rig_seq seqs[RIG_MAX_SEQS];
    memset(seqs, 0, sizeof seqs);
    for (int at = 0, round = 0; at < LEN; at += chunk, round++) {
        rig_work w[8];
        int n_work = 0, n = LEN - at < chunk ? LEN - at : chunk, n_others = round % 5;
        for (int o = 1; o <= n_others; o++) {
            int len = 1 + (round * 7 + o * 13) % 23;
            if (seqs[o].len + len > LEN) seqs[o].len = 0;
            w[n_work++] = (rig_work){ &seqs[o], prompt[o] + seqs[o].len, len, NULL };
        }
        w[n_work] = (rig_work){ &seqs[0], prompt[0] + at, n, got[at] };
        rig_work last = w[n_work];
        if (n_work > 1) { w[n_work] = w[1]; w[1] = last; } /* not always the last one */
        REQUIRE_OK(rig_step(r, w, n_work + 1));
    }
}

/* By instruction sets first..last, which compute the same. */
static void check_sets(isa first, isa last, const char *arch, int head_dim, const char *window, bool tied, dtype weights, dtype kv)
{
    static const int chunks[] = { 1, 3, 7, 100, LEN }, blocks[] = { 16, 2, 48 };
    make_prompts();
    bool have = false;
    for (isa set = first; set <= last; set++) {
        if (!isa_available(set)) continue;
        for (int threads = set == ISA_portable ? 2 : 1; threads <= 2; threads++) {
            rig r;
            rig_options o = { .weights = weights, .kv = kv, .threads = threads, .block_size = blocks[(int)set % 3], .isa = isa_name(set) };
            REQUIRE_OK(open_rig(&r, arch, head_dim, window, tied, o));
            for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
                if (chunks[c] < (set == ISA_portable ? MIN_CHUNK_PORTABLE : MIN_CHUNK)) continue; /* slow */
                if (chunks[c] == 1 && threads == 1) continue;
                char what[128];
                rig_seq s = { 0 };
                REQUIRE_OK(rig_prompt(&r, &s, prompt[0], LEN, chunks[c], have ? got[0] : want[0]));
                snprintf(what, sizeof what, "%s %s, %d threads, chunks of %d, alone", arch, isa_name(set), threads, chunks[c]);
                if (have) expect_same(what, LEN);
                have = true;
            }
            run_in_company(&r, set == ISA_portable ? 100 : 7);
            expect_same("in company", LEN);
            rig_close(&r);
        }
    }
    /* the model must be alive for this to mean anything */
    double spread = 0;
    for (int v = 0; v < VOCAB; v++) spread += fabs((double)want[LEN - 1][v]);
    CHECK(spread / VOCAB > 0.01 && isfinite(spread));
}

static void check_model(const char *arch, int head_dim, const char *window, bool tied, dtype weights, dtype kv)
{
    check_sets(0, ISA_COUNT - 1, arch, head_dim, window, tied, weights, kv); /* a float32 model has float32 activations everywhere */
}

TEST(exact_full_attention_f32) { check_model("LlamaForCausalLM", 16, "null", false, DT_F32, DT_F32); }
TEST(exact_window_bf16_cache) { check_model("MistralForCausalLM", 24, "300", true, DT_F32, DT_BF16); }
TEST(exact_qk_norm_f16_cache) { check_model("Qwen3ForCausalLM", 40, "null", true, DT_F32, DT_F16); }
TEST(exact_experts) { check_model("Qwen3MoeForCausalLM", 16, "null", false, DT_F32, DT_F32); }
TEST(exact_e4m3_cache) { check_model("LlamaForCausalLM", 16, "null", false, DT_F32, DT_F8E4M3); }
TEST(exact_e5m2_cache) { check_model("MistralForCausalLM", 24, "300", true, DT_F32, DT_F8E5M2); }
TEST(exact_int8_cache) { check_model("Qwen3ForCausalLM", 40, "null", true, DT_F32, DT_I8); }

#if defined(__x86_64__)
/* Rounded activations and the dot product instruction: other bits than elsewhere, but the same ones in every company. */
TEST(exact_bf16_dot)
{
    if (!isa_available(ISA_avx512_bf16)) SKIP("no avx512_bf16");
    check_sets(ISA_avx512_bf16, ISA_avx512_bf16, "LlamaForCausalLM", 16, "null", false, DT_BF16, DT_BF16);
    check_sets(ISA_avx512_bf16, ISA_avx512_bf16, "Qwen3ForCausalLM", 40, "300", true, DT_BF16, DT_F32);
    check_sets(ISA_avx512_bf16, ISA_avx512_bf16, "Qwen3MoeForCausalLM", 24, "null", true, DT_BF16, DT_F32);
}

/* The same of tiles; where the processor has them, what it computes is what the emulation does. */
TEST(exact_bf16_tiles)
{
    if (!isa_available(ISA_avx512_amx_emulated)) SKIP("no avx512_bf16");
    check_sets(ISA_avx512_amx, ISA_avx512_amx_emulated, "LlamaForCausalLM", 16, "null", false, DT_BF16, DT_BF16);
    check_sets(ISA_avx512_amx, ISA_avx512_amx_emulated, "Qwen3MoeForCausalLM", 24, "null", true, DT_BF16, DT_F32);
}

TEST(exact_bf16_model)
{
    check_sets(0, isa_best(), "MistralForCausalLM", 24, "300", true, DT_BF16, DT_BF16);
}
#endif

/* Without a spin at idle, pinned or not, with more threads than cores: still the same bits. */
TEST(exact_with_many_threads)
{
    make_prompts();
    for (int threads = 1; threads <= 7; threads += 3) {
        rig r;
        rig_options o = { .weights = DT_F32, .kv = DT_F32, .threads = threads, .block_size = 16 };
        REQUIRE_OK(open_rig(&r, "LlamaForCausalLM", 16, "null", false, o));
        rig_seq s = { 0 };
        REQUIRE_OK(rig_prompt(&r, &s, prompt[0], LEN - 20, 260, threads == 1 ? want[0] : got[0]));
        REQUIRE_OK(rig_prompt(&r, &s, prompt[0] + LEN - 20, 20, 1, (threads == 1 ? want : got)[LEN - 20]));
        if (threads > 1) expect_same("many threads", LEN);
        rig_close(&r);
    }
}

TEST(a_step_allocates_nothing)
{
    make_prompts();
    rig r;
    REQUIRE_OK(open_rig(&r, "LlamaForCausalLM", 16, "null", false, (rig_options){ .weights = DT_F32, .kv = DT_BF16, .threads = 2, .block_size = 16 }));
    rig_seq s = { 0 };
    enum { HEAD = LEN - 240 };
    REQUIRE_OK(rig_prompt(&r, &s, prompt[0], HEAD, 64, NULL));
    uint64_t before = mem_count();
    for (int i = 0; i < 50; i++) REQUIRE_OK(rig_step(&r, &(rig_work){ &s, prompt[0] + HEAD + i, 1, got[0] }, 1));
    REQUIRE_OK(rig_step(&r, &(rig_work){ &s, prompt[0] + HEAD + 50, 190, NULL }, 1));
    CHECK_INT(mem_count() - before, 51); /* the rig's own, one per step */
    rig_close(&r);
}

TEST_MAIN
