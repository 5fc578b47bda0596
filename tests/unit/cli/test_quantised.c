/* Models with quantised weights, end to end on the CPU device: how far logits are from float32's on the goldens, and the exactness
 * rule: a row's logits have the same bits whatever the batch, its cut, threads and instruction set. Perplexities of a trained
 * model are printed and kept within bounds; docs/quantization.md has them. */
#include "device/pjrt/lower.h"
#include "load/safetensors.h"
#include "ops/isa.h"
#include "tests/golden/stories.h"

static status open_dir(rig *r, const char *file, quant_scheme s, int threads, const char *isa_or_null)
{
    char dir[4096];
    snprintf(dir, sizeof dir, "%s", file);
    *strrchr(dir, '/') = 0;
    return rig_open(r, dir, (rig_options){ .weights = DT_F32, .kv = DT_F32, .threads = threads, .block_size = 16, .max_model_len = 512, .isa = isa_or_null, .quant = s });
}

/* ---- logits ---- */

/* Root mean square of what is off, relative to the root mean square of the logits around their mean. */
static double relative_error(const float *got, const float *want, int64_t n, int64_t vocab)
{
    double off = 0, size = 0;
    for (int64_t t = 0; t < n; t++) {
        double mean = 0, bias = 0;
        for (int64_t v = 0; v < vocab; v++) mean += (double)want[t * vocab + v], bias += (double)got[t * vocab + v];
        mean /= (double)vocab, bias /= (double)vocab;
        for (int64_t v = 0; v < vocab; v++) {
            double w = (double)want[t * vocab + v] - mean, d = (double)got[t * vocab + v] - bias - w;
            off += d * d;
            size += w * w;
        }
    }
    return sqrt(off / size);
}

static void check_golden(const char *name, const double bounds[QUANT_COUNT])
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
    printf("  %-10s", name);
    for (int s = QUANT_NONE + 1; s < QUANT_COUNT; s++) {
        rig r;
        REQUIRE_OK(open_dir(&r, path, (quant_scheme)s, 2, NULL));
        float *got = mem_array((size_t)n * (size_t)r.vocab, sizeof *got);
        rig_seq seq = { 0 };
        CHECK_OK(rig_prompt(&r, &seq, ids->data, n, 64, got));
        double e = relative_error(got, logits->data, n, r.vocab);
        printf(" %s %.4f", quant_name((quant_scheme)s), e);
        if (!(e > 1e-6 && e <= bounds[s])) FAIL("%s, %s: logits are off by %.4f, allowed %.4f", name, quant_name((quant_scheme)s), e, bounds[s]);
        mem_free(got);
        rig_close(&r);
    }
    printf("\n");
    st_close(set);
}

/* Measured, and a fifth more. Random weights make all of them look worse than a trained model's. */
static const double llama_bounds[QUANT_COUNT] = {
    [QUANT_INT8] = 0.073, [QUANT_INT8_G32] = 0.061, [QUANT_INT4_G128] = 0.57, [QUANT_INT4_G32] = 0.53, [QUANT_INT8_WO] = 0.046,
    [QUANT_INT8_G32_WO] = 0.042, [QUANT_INT4_G128_WO] = 0.57, [QUANT_INT4_G32_WO] = 0.53, [QUANT_FP8] = 0.19 };
static const double qwen3_bounds[QUANT_COUNT] = {
    [QUANT_INT8] = 0.040, [QUANT_INT8_G32] = 0.031, [QUANT_INT4_G128] = 0.34, [QUANT_INT4_G32] = 0.32, [QUANT_INT8_WO] = 0.025,
    [QUANT_INT8_G32_WO] = 0.021, [QUANT_INT4_G128_WO] = 0.34, [QUANT_INT4_G32_WO] = 0.32, [QUANT_FP8] = 0.097 };
static const double moe_bounds[QUANT_COUNT] = {
    [QUANT_INT8] = 0.041, [QUANT_INT8_G32] = 0.045, [QUANT_INT4_G128] = 0.34, [QUANT_INT4_G32] = 0.32, [QUANT_INT8_WO] = 0.040,
    [QUANT_INT8_G32_WO] = 0.042, [QUANT_INT4_G128_WO] = 0.34, [QUANT_INT4_G32_WO] = 0.32, [QUANT_FP8] = 0.126 };
static const double tied_bounds[QUANT_COUNT] = {
    [QUANT_INT8] = 0.125, [QUANT_INT8_G32] = 0.105, [QUANT_INT4_G128] = 0.83, [QUANT_INT4_G32] = 0.80, [QUANT_INT8_WO] = 0.077,
    [QUANT_INT8_G32_WO] = 0.070, [QUANT_INT4_G128_WO] = 0.83, [QUANT_INT4_G32_WO] = 0.80, [QUANT_FP8] = 0.32 };
TEST(golden_llama) { check_golden("llama", llama_bounds); }
TEST(golden_qwen3) { check_golden("qwen3", qwen3_bounds); }
TEST(golden_qwen3_moe) { check_golden("qwen3_moe", moe_bounds); }
TEST(golden_llama_tied) { check_golden("llama_tied", tied_bounds); }

/* ---- exactness ---- */

#define LLAMA "LlamaForCausalLM"
#define MIXTURE "Qwen3MoeForCausalLM"
/* Sizes that are no multiples of a panel, a group or a vector. */
static const char odd_text[] =
    "{\"architectures\": [\"%s\"], \"model_type\": \"x\", \"vocab_size\": 203, \"hidden_size\": 200, \"intermediate_size\": 150,"
    " \"num_experts\": 6, \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 90, \"norm_topk_prob\": true,"
    " \"num_hidden_layers\": 2, \"num_attention_heads\": 6, \"num_key_value_heads\": 2, \"head_dim\": 24, \"rms_norm_eps\": 1e-5,"
    " \"max_position_embeddings\": 1024, \"tie_word_embeddings\": true}";

#ifdef SYSTOLIC_SANITIZED
enum { LEN = 90, VOCAB = 203 };
#else
enum { LEN = 260, VOCAB = 203 };
#endif

/* Dummy weights are too small to make attention interesting. */
typedef struct big_source { weight_source base; const weight_source *inner; } big_source;
static status get_big(const weight_source *s, const char *name, weight_data *out)
{
    TRY(((const big_source *)(const void *)s)->inner->get(((const big_source *)(const void *)s)->inner, name, out));
    float *f = out->owned;
    bool norm = strstr(name, "norm") != NULL;
    for (int64_t i = 0; i < out->shape[0] * (out->rank == 2 ? out->shape[1] : 1); i++) f[i] = norm ? 1 + 100 * f[i] : 120 * f[i];
    return ST_OK;
}
static void release_big(const weight_source *s, const char *name, weight_data *w) { (void)s, (void)name; mem_free(w->owned); }

static status open_odd(rig *r, const char *arch, quant_scheme s, int threads, const char *set, int block)
{
    status st;
    char text[1024];
    snprintf(text, sizeof text, odd_text, arch);
    *r = (rig){ .vocab = VOCAB };
    TRY(jv_parse(text, strlen(text), &r->config));
    TRY_OUT(model_new(r->config, &(model_options){ .weight_dtype = DT_F32, .quant = s }, &r->m));
    TRY_OUT(model_weights_open(r->m, NULL, true, 5, &r->w));
    TRY_OUT(device_open("cpu", &(device_options){ .n_threads = threads, .isa = set }, &r->dev));
    r->limits = (device_limits){ 400, RIG_MAX_SEQS, 400, RIG_MAX_LEN, block, DT_F32, { 0 }, 0, false };
    big_source big = { { .get = get_big, .release = release_big, .has = r->w->has }, r->w };
    TRY_OUT(device_load(r->dev, model_graph(r->m), &big.base, &r->limits, NULL, NULL, &r->dm));
    device_kv_layout(r->dm, &r->kv);
    r->n_blocks = RIG_MAX_SEQS * RIG_MAX_LEN / block + RIG_MAX_SEQS;
    TRY_OUT(device_kv_resize(r->dm, r->n_blocks));
out:
    if (st != ST_OK) rig_close(r);
    return st;
}

static int32_t prompt[RIG_MAX_SEQS][LEN];
static float want[LEN][VOCAB], got[LEN][VOCAB];

static void expect_same(const char *what, quant_scheme s, const char *set)
{
    for (int i = 0; i < LEN; i++)
        if (memcmp(want[i], got[i], sizeof want[i]) != 0) {
            FAIL("%s, %s, %s: row %d differs", quant_name(s), set, what, i);
            return;
        }
}

/* Sequence 0 in pieces beside others that come, grow and go. */
static void run_in_company(rig *r, int piece)
{
    static rig_seq seqs[RIG_MAX_SEQS];
    memset(seqs, 0, sizeof seqs);
    for (int at = 0, round = 0; at < LEN; at += piece, round++) {
        rig_work w[6];
        int n_work = 0;
        for (int o = 1; o <= round % 5; o++) {
            int len = 1 + (round * 7 + o * 13) % 23;
            if (seqs[o].len + len > LEN) seqs[o].len = 0;
            w[n_work++] = (rig_work){ &seqs[o], prompt[o] + seqs[o].len, len, NULL };
        }
        w[n_work++] = (rig_work){ &seqs[0], prompt[0] + at, LEN - at < piece ? LEN - at : piece, got[at] };
        REQUIRE_OK(rig_step(r, w, n_work));
    }
}

static void check_exact(const char *arch, quant_scheme s)
{
    static const int chunks[] = { LEN, 1, 7, 100 };
    bool have = false;
    for (int q = 0; q < RIG_MAX_SEQS; q++)
        for (int i = 0; i < LEN; i++) prompt[q][i] = (int32_t)((unsigned)(i * 31 + q * 17 + i * i % 7) % VOCAB);
    for (isa set = 0; set < ISA_COUNT; set++) {
        if (!isa_available(set)) continue;
        rig r;
        REQUIRE_OK(open_odd(&r, arch, s, 1 + (int)set % 2, isa_name(set), set % 2 ? 16 : 48));
        for (int c = 0; c < 4; c++) {
            if (set == ISA_portable && (chunks[c] == 1 || chunks[c] == 7)) continue; /* slow */
            rig_seq seq = { 0 };
            REQUIRE_OK(rig_prompt(&r, &seq, prompt[0], LEN, chunks[c], have ? got[0] : want[0]));
            if (have) expect_same("alone", s, isa_name(set));
            have = true;
        }
        run_in_company(&r, set == ISA_portable ? 100 : 7);
        expect_same("in company", s, isa_name(set));
        rig_close(&r);
    }
    double spread = 0;
    for (int v = 0; v < VOCAB; v++) spread += fabs((double)want[LEN - 1][v]);
    CHECK(spread / VOCAB > 0.01 && isfinite(spread));
}

TEST(exact_int8) { check_exact(LLAMA, QUANT_INT8); check_exact(LLAMA, QUANT_INT8_G32); }
TEST(exact_int4) { check_exact(LLAMA, QUANT_INT4_G128); check_exact(LLAMA, QUANT_INT4_G32); }
TEST(exact_experts) { check_exact(MIXTURE, QUANT_INT8); check_exact(MIXTURE, QUANT_INT4_G32); check_exact(MIXTURE, QUANT_INT8_WO); }
TEST(exact_weight_only)
{
    static const quant_scheme all[] = { QUANT_INT8_WO, QUANT_INT8_G32_WO, QUANT_INT4_G128_WO, QUANT_INT4_G32_WO, QUANT_FP8 };
    for (int i = 0; i < 5; i++) check_exact(LLAMA, all[i]);
}

/* A step allocates nothing; every allocation of loading may fail. */
TEST(memory)
{
    static const quant_scheme all[] = { QUANT_INT4_G32, QUANT_FP8 };
    for (int i = 0; i < 2; i++) {
        rig r;
        status st = ST_NOMEM;
        uint64_t n = 1;
        for (; n < 100000 && st != ST_OK; n++) {
            mem_fail_at(n);
            st = open_odd(&r, i ? LLAMA : MIXTURE, all[i], 2, NULL, 16);
            mem_fail_at(0);
            if (st != ST_OK && st != ST_NOMEM) { FAIL("allocation %d: %s", (int)n, err_msg()); return; }
        }
        REQUIRE(st == ST_OK && n > 20);
        rig_seq seq = { 0 };
        REQUIRE_OK(rig_prompt(&r, &seq, prompt[0], 60, 60, NULL));
        uint64_t before = mem_count();
        for (int k = 0; k < 10; k++) REQUIRE_OK(rig_step(&r, &(rig_work){ &seq, prompt[0] + 60 + k, 1, got[0] }, 1));
        CHECK_INT(mem_count() - before, 10); /* the rig's own, one per step */
        rig_close(&r);
    }
}

/* Tied embeddings: the table for lookups stays as it is, the head is a weight of its own. */
TEST(tied_heads)
{
    rig a, b;
    REQUIRE_OK(open_odd(&a, LLAMA, QUANT_NONE, 1, NULL, 16));
    REQUIRE_OK(open_odd(&b, LLAMA, QUANT_INT4_G32, 1, NULL, 16));
    CHECK_INT(model_describe(a.m)->n_params, model_describe(b.m)->n_params);
    const graph *g = model_graph(b.m);
    const node *head = graph_node(g, graph_node(g, graph_output(g))->in[1]);
    CHECK_INT(head->a.weight.scheme, QUANT_INT8);
    CHECK_STR(head->a.weight.parts[0].name, "model.embed_tokens.weight");
    int n_quantised = 0;
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        const node *n = graph_at(g, id);
        if (n->op == OP_EMBED) CHECK_INT(graph_node(g, n->in[1])->a.weight.scheme, QUANT_NONE);
        n_quantised += n->op == OP_WEIGHT && n->a.weight.scheme == QUANT_INT4_G32;
    }
    CHECK_INT(n_quantised, 2 * 4);
    rig_close(&a);
    rig_close(&b);
}

/* The scheme is part of a graph's text, and only linears may read such a weight; devices that cannot say so. */
TEST(graphs_with_schemes)
{
    rig r;
    REQUIRE_OK(open_odd(&r, LLAMA, QUANT_INT8_G32, 1, NULL, 16));
    buf text = { 0 }, again = { 0 };
    graph *g = NULL;
    REQUIRE_OK(graph_print(model_graph(r.m), &text));
    CHECK(strstr(buf_cstr(&text), "embed scheme=int8_g32 : f32[") != NULL);
    REQUIRE_OK(graph_parse(graph_rules_of(model_graph(r.m)), buf_cstr(&text), text.len, &g));
    REQUIRE_OK(graph_print(g, &again));
    CHECK_STR(buf_cstr(&again), buf_cstr(&text));
    graph_free(g);
    static const char bad[] = "%1 = input kind=0 : i32[T]{tokens}\n%2 = weight role=vocab \"e\"[0:8/8]vocab scheme=int8 : f32[8, 4]{vocab, embed}\n"
                              "%3 = embed(%1, %2) : f32[T, 4]{tokens, embed}\noutput %3\n";
    CHECK_ERR(graph_parse(graph_rules_of(model_graph(r.m)), bad, strlen(bad), &g), ST_INTERNAL, "only a linear's weight may be");
    static const char unknown[] = "%1 = weight role=col \"e\"[0:8/8]embed scheme=int3 : f32[8, 4]{embed, embed}\noutput %1\n";
    CHECK_ERR(graph_parse(graph_rules_of(model_graph(r.m)), unknown, strlen(unknown), &g), ST_INVALID, "a quantisation scheme");
    lower_plan *p = NULL;
    REQUIRE_OK(lower_plan_new(model_graph(r.m), DT_F32, 0, &p));
    int scales = 0;     /* of programs' arguments: behind their values, as many layers, in groups of 32 */
    for (int i = 0; i < p->n_weights; i++) {
        const lower_weight *w = &p->weights[i], *values = w - (i > 0);
        if (w->piece != PIECE_SCALES) continue;
        scales++;
        CHECK(values->piece == PIECE_VALUES && values->s.type == DT_I8 && values->n == w->n && w->s.type == DT_BF16);
        CHECK_INT(w->s.dim[0], (values->s.dim[1] + 31) / 32);
    }
    CHECK(scales >= 4);
    lower_plan_free(p);
    buf_free(&text);
    buf_free(&again);
    rig_close(&r);
}

/* ---- perplexity ---- */

TEST(perplexity_of_stories)
{
    const char *found = test_shared("realdata/models/stories260k-hf-f32/config.json");
    if (!found) SKIP("no stories260k");
    char path[4096];
    snprintf(path, sizeof path, "%s", found);
    double plain = 0;
    for (int s = QUANT_NONE; s < QUANT_COUNT; s++) {
        rig r;
        REQUIRE_OK(open_dir(&r, path, (quant_scheme)s, 2, NULL));
        REQUIRE(r.vocab == STORIES_VOCAB);
        if (s == QUANT_NONE) stories_tell(&r);
        double p = stories_perplexity(&r);
        if (s == QUANT_NONE) plain = p;
        printf("  %-28s perplexity %.4f (%+.2f%%)\n", quant_name((quant_scheme)s), p, 100 * (p / plain - 1));
        /* a model of 260,000 parameters has little to spare for int4 */
        double most = quant_describe((quant_scheme)s).type == DT_I4 ? 0.16 : s == QUANT_FP8 ? 0.02 : 0.003;
        if (!(fabs(p / plain - 1) <= most)) FAIL("perplexity changes by more than %g%%", 100 * most);
        rig_close(&r);
    }
}

TEST_MAIN
