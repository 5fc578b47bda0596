/* Whole models with kernels for TPUs in their programs, run: lowered for a chip as they are for libtpu, compiled by XLA:CPU, each kernel's call answered by the
 * interpreter (tests/unit/device/pjrt/interpret.h). What they give is compared with the same programs in plain StableHLO, and both with the truth: a golden,
 * or the CPU device with activations of f32. So operands, their order, layouts and scalars, aliases and what stands around the calls are checked, not only the kernels.
 *
 * Each model runs prompts in chunks, a prefix that another sequence left in the cache, steps of prompts and single tokens, and decoding. */
#include "tests/unit/device/pjrt/help.h"

#include "load/safetensors.h"
#include "ops/experts/experts.h"
#include "tests/golden/report.h"
#include "tests/golden/rig.h"
#include "tests/unit/device/pjrt/interpret.h"

const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libtensorflow_cc\n"; }

enum { MOST_DEVICES = 4, VOCAB = 320, SHARED = 32, TOKENS = 64, SEQS = 3, STEPS = 6, FIRST = 33, LEN = 160, ROWS = 256 };

/* config or a golden's directory; kernels: those that must have run, space between. */
typedef struct model_case { const char *name, *config, *golden, *chip; quant_scheme quant; dtype kv; int page /* 16 */, tokens /* of a mixed step, at most: TOKENS */, wide /* more tokens of C in its first step */, tp; bool sp, kv_scales, slow /* a chip whose links are worth waiting for */; int64_t part_bytes /* experts_part_bytes */, runs /* of `kernels`' last, at least: 1 */; double tolerance; const char *kernels; } model_case;

/* Programs run a few times each, so LLVM is to spend little on them: a first run takes two thirds of the time. The flag is not in a program's key. */
static device *opened(void)
{
    static device *d;
    static char cache[4300];
    char spec[4400];
    if (d) return d;
    if (!getenv("XLA_FLAGS")) setenv("XLA_FLAGS", "--xla_backend_optimization_level=0", 0);
    snprintf(spec, sizeof spec, "pjrt:%s?cpu_device_count=%d", cpu_plugin(), MOST_DEVICES);
    snprintf(cache, sizeof cache, "%s/pjrt/programs-unit-quick", build_dir());
    if (device_open(spec, &(device_options){ .lazy_compile = true, .program_cache = cache }, &d) != ST_OK) FAIL("%s", err_msg());
    return d;
}

/* ---- weights ---- */

/* Dummy weights are too small to make attention interesting; a golden's are good as they are. Every layer's cache has other scales. */
typedef struct big_source { weight_source base; const weight_source *inner; bool as_they_are, mxfp4; } big_source;

/* Dummy bfloat16 to random codes of e2m1, two to a byte, behind them a power of two for every 32; in place. */
static void make_mxfp4(weight_data *w)
{
    uint8_t *at = (uint8_t *)(uintptr_t)w->values;
    const int64_t n = w->shape[0] * w->shape[1];
    for (int64_t i = 0; i < n / 2; i++) at[i] = at[4 * i];      /* the low bits of a number's fraction */
    for (int64_t i = 0; i < n / 32; i++) at[n / 2 + i] = (uint8_t)(121 + i % 3 % 2);
    w->type = DT_F4E2M1;
    w->scales = at + n / 2;
    w->scale_type = DT_F8E8M0;
    w->global = 1;
    w->group_out = 1;
    w->group_in = 32;
}

static status get_big(const weight_source *s, const char *name, weight_data *out)
{
    const big_source *big = (const big_source *)(const void *)s;
    const weight_source *inner = big->inner;
    TRY(inner->get(inner, name, out));
    const bool k = strstr(name, "k_scale") != NULL;
    if (k || strstr(name, "v_scale")) {
        *(float *)(uintptr_t)out->values = (k ? 0.021f : 0.013f) * (float)(1 + strtol(name + strlen("model.layers."), NULL, 10));
        return ST_OK;
    }
    if (big->as_they_are) return ST_OK;
    if (big->mxfp4 && out->rank == 2 && strstr(name, "mlp.experts.")) {
        make_mxfp4(out);
        return ST_OK;
    }
    if (out->scales) out->global *= 20;
    if (out->scales) return ST_OK;
    char *at = (char *)(uintptr_t)out->values;
    int64_t n = 1;
    for (int i = 0; i < out->rank; i++) n *= out->shape[i];
    for (int64_t i = 0; i < n; i++, at += dtype_bytes(out->type, 1)) {
        float f;
        dtype_to_f32(out->type, at, &f, 1);
        f = strstr(name, "norm") ? 1 + 100 * f : 120 * f;
        dtype_from_f32(out->type, &f, at, 1);
    }
    return ST_OK;
}

static void release_big(const weight_source *s, const char *name, weight_data *w)
{
    const weight_source *inner = ((const big_source *)(const void *)s)->inner;
    inner->release(inner, name, w);
}

/* ---- a model on the device ---- */

typedef struct loaded { rig r; graph *g; big_source big; bool own; model *wide; } loaded;

static void drop(loaded *l)
{
    if (!l->own) l->r.dev = NULL;
    device_unload(l->r.dm);
    l->r.dm = NULL;
    graph_free(l->g);
    model_free(l->wide);
    rig_close(&l->r);
}

static status open_model(loaded *l, const model_case *x, const char *dir)
{
    char path[8192];
    *l = (loaded){ .r = { .vocab = VOCAB, .next_block = 1 } };      /* block 0 is padding's */
    snprintf(path, sizeof path, "%s/config.json", dir);
    TRY(dir[0] ? jv_parse_file(path, 1 << 20, &l->r.config) : jv_parse(x->config, strlen(x->config), &l->r.config));
    TRY(model_new(l->r.config, &(model_options){ .weight_dtype = DT_BF16, .quant = x->quant, .kv_scales = x->kv_scales }, &l->r.m));
    TRY(model_weights_open(l->r.m, dir[0] ? dir : NULL, !dir[0], 3, &l->r.w));
    l->big = (big_source){ { .get = get_big, .release = release_big, .has = l->r.w->has }, l->r.w, dir[0] != 0, !dir[0] && strstr(x->config, "mxfp4") };
    return ST_OK;
}

static status make_cache(rig *r)
{
    device_kv_layout(r->dm, &r->kv);
    r->n_blocks = r->kv.n_groups * (SEQS * LEN / r->limits.block_size + 2) + 1;
    return device_kv_resize(r->dm, r->n_blocks);
}

static device_limits limits_of(const model_case *x, dtype kv, attention_choice attention)
{
    const int tokens = x->tokens ? x->tokens : TOKENS;
    return (device_limits){ tokens, 8, tokens, LEN, x->page ? x->page : 16, x->kv ? x->kv : kv, attention, 0, false };
}

/* The same weights where everything else is f32. */
static status load_wide(loaded *l, const model_case *x)
{
    status st;
    TRY_OUT(open_model(l, x, ""));
    TRY_OUT(model_new(l->r.config, &(model_options){ .weight_dtype = DT_F32, .quant = x->quant, .kv_scales = x->kv_scales }, &l->wide));
    l->own = true;
    TRY_OUT(device_open("cpu", &(device_options){ .n_threads = 1 }, &l->r.dev));
    l->r.limits = limits_of(x, DT_F32, (attention_choice){ 0 });
    TRY_OUT(device_load(l->r.dev, model_graph(l->wide), &l->big.base, &l->r.limits, NULL, NULL, &l->r.dm));
    TRY_OUT(make_cache(&l->r));
out:
    if (st != ST_OK) drop(l);
    return st;
}

static status load(loaded *l, const model_case *x, const char *dir, attention_backend backend)
{
    status st;
    static chip slow;       /* exchange while multiplying pays there for the tests' few rows */
    slow = *chip_by_name("v6e");
    slow.bf16_flops = slow.ici_link_bytes_per_s = 1e9;
    attention_choice choice = { .chip = x->slow ? &slow : chip_by_name(x->chip ? x->chip : "v6e"), .policy = ATTENTION_AUTO, .backend = backend };
    choice.head_multiple = attention_head_multiple(choice.chip, choice.policy);
    TRY_OUT(open_model(l, x, dir));
    TRY_OUT(model_graph_for(l->r.m, (mesh){ .dp = 1, .tp = x->tp ? x->tp : 1, .sp = x->sp }, true, &l->g));
    l->r.limits = limits_of(x, DT_BF16, choice);
    TRY_OUT(device_load(opened(), l->g, dir[0] && !x->kv_scales ? l->r.w : &l->big.base, &l->r.limits, NULL, NULL, &l->r.dm));
    TRY_OUT(make_cache(&l->r));
out:
    if (st != ST_OK) drop(l);
    return st;
}

/* ---- the steps ---- */

/* A is the golden's prompt; B begins as A does, with A's pages; C is another one. */
static const struct { int n[SEQS]; } plan[STEPS] = { { { FIRST, 0, 0 } }, { { 16, 7, 20 } }, { { 1, 1, 32 } }, { { 1, 1, 1 } }, { { 1, 1, 1 } }, { { 1, 1, 1 } } };

typedef struct rows { float logits[ROWS][VOCAB]; int of_a[ROWS], n; } rows;     /* of_a: position in A, or -1 */

static int tokens_of(const model_case *x, int step, int seq) { return plan[step].n[seq] + (step == 1 && seq == 2 ? x->wide : 0); }

static status run(rig *r, const model_case *x, const int32_t *prompt, rows *out)
{
    static rig_seq seq[SEQS];
    memset(seq, 0, sizeof seq);
    out->n = 0;
    for (int i = 0; i < STEPS; i++) {
        int32_t ids[SEQS][LEN];
        rig_work work[SEQS];
        int n_work = 0;
        if (i == 1) {
            seq[1] = seq[0];
            seq[1].len = SHARED;
        }
        for (int s = 0; s < SEQS; s++) {
            int n = tokens_of(x, i, s);
            if (!n) continue;
            for (int t = 0; t < n; t++) {
                int at = seq[s].len + t;
                ids[s][t] = s == 0 ? prompt[at] : (at * 37 + s * 101) % VOCAB;
                out->of_a[out->n + t] = s == 0 ? at : -1;
            }
            work[n_work++] = (rig_work){ &seq[s], ids[s], n, out->logits[out->n] };
            out->n += n;
        }
        TRY(rig_step(r, work, n_work));
    }
    return ST_OK;
}

/* ---- comparing ---- */

/* Root mean square of what is off, over that of `want` around its mean; rows: which. */
static double relative(float (*got)[VOCAB], float (*want)[VOCAB], int from, int to)
{
    double off = 0, size = 0;
    for (int i = from; i < to; i++) {
        double mean = 0;
        for (int v = 0; v < VOCAB; v++) mean += (double)want[i][v] / VOCAB;
        for (int v = 0; v < VOCAB; v++) {
            double d = (double)got[i][v] - (double)want[i][v], w = (double)want[i][v] - mean;
            off += d * d;
            size += w * w;
        }
    }
    return sqrt(off / size);
}

/* Rows of A, of which alone a golden knows. */
static void from_golden(const rows *x, const float *golden, rows *got, rows *want)
{
    got->n = 0;
    for (int i = 0; i < x->n; i++) {
        if (x->of_a[i] < 0) continue;
        memcpy(want->logits[got->n], golden + (size_t)x->of_a[i] * VOCAB, sizeof *want->logits);
        memcpy(got->logits[got->n++], x->logits[i], sizeof *got->logits);
    }
}

static double from_truth(const rows *x, const float *golden, rows *truth)
{
    static rows got;
    if (!golden) return relative((float (*)[VOCAB])x->logits, truth->logits, 0, x->n);
    from_golden(x, golden, &got, truth);
    return relative(got.logits, truth->logits, 0, got.n);
}

static void check_runs(const model_case *x)
{
    char names[256];
    snprintf(names, sizeof names, "%s", x->kernels);
    for (char *at = strtok(names, " "), *next; at; at = next) {
        next = strtok(NULL, " ");
        int64_t runs = interpret_runs(at), least = next || !x->runs ? 1 : x->runs;
        if (runs < least) FAIL("%s: kernel %s has run %lld times, expected %lld at least", x->name, at, (long long)runs, (long long)least);
    }
}

static status run_model(const model_case *x, const char *dir, attention_backend backend, const int32_t *prompt, rows *out)
{
    loaded l;
    const int64_t usual = experts_part_bytes;
    if (x->part_bytes) experts_part_bytes = x->part_bytes;
    status st = load(&l, x, dir, backend);
    if (st == ST_OK) {
        st = run(&l.r, x, prompt, out);
        drop(&l);
    }
    experts_part_bytes = usual;
    return st;
}

static status run_wide(const model_case *x, const int32_t *prompt, rows *out)
{
    loaded l;
    TRY(load_wide(&l, x));
    status st = run(&l.r, x, prompt, out);
    drop(&l);
    return st;
}

static void compare(const model_case *x, const float *golden, rows *plain, rows *kernels, rows *truth)
{
    double all = relative(kernels->logits, plain->logits, 0, plain->n), a = from_truth(plain, golden, truth), b = from_truth(kernels, golden, truth);
    printf("  %-28s %-4s off by %.1e (", x->name, x->chip ? x->chip : "v6e", all);
    for (int i = 0, at = 0; i < STEPS; i++) {
        int n = tokens_of(x, i, 0) + tokens_of(x, i, 1) + tokens_of(x, i, 2);
        printf(i ? " %.0e" : "%.0e", relative(kernels->logits, plain->logits, at, at + n));
        at += n;
    }
    printf("), from the truth: StableHLO %.1e, kernels %.1e\n", a, b);
    if (getenv("KERNELS_VERBOSE")) interpret_print();
    if (!(b <= 1.25 * a + 2e-3)) FAIL("%s: kernels are off the truth by %g, StableHLO by %g", x->name, b, a);
    if (!(all <= x->tolerance)) FAIL("%s: kernels and StableHLO differ by %g, allowed %g", x->name, all, x->tolerance);
    check_runs(x);
}

static void check(const model_case *x)
{
    static rows plain, kernels, truth;
    char rel[256], dir[4096] = "";
    st_set *set = NULL;
    int32_t prompt[LEN];
    const char *plugin_path = cpu_plugin(), *no_plugin = NO_PLUGIN;
    if (no_plugin) SKIP("%s", no_plugin);
    if (!plugin_path) SKIP("no XLA:CPU plugin (make pjrt-cpu)");
    for (int i = 0; i < LEN; i++) prompt[i] = (i * 53 + 7) % VOCAB;
    if (x->golden) {
        snprintf(rel, sizeof rel, "goldens/%s/golden.safetensors", x->golden);
        const char *found = test_shared(rel);
        if (!found) SKIP("no goldens");
        snprintf(dir, sizeof dir, "%s", found);
        REQUIRE_OK(st_open_file(dir, &set));
        *strrchr(dir, '/') = 0;
        memcpy(prompt, st_find(set, "long.input_ids")->data, sizeof prompt / 2);    /* A is no longer */
    }
    REQUIRE(opened());
    if (!interpret_begin(plugin_path, x->tp ? x->tp : 1)) SKIP("the XLA:CPU plugin is older than this test (make pjrt-cpu)");
    if (!set) CHECK_OK(run_wide(x, prompt, &truth));
    CHECK_OK(run_model(x, dir, ATTENTION_BACKEND_STABLEHLO, prompt, &plain));
    interpret_forget_runs();
    CHECK_OK(run_model(x, dir, ATTENTION_BACKEND_AUTO, prompt, &kernels));
    if (!test_cur_failed) compare(x, set ? st_find(set, "long.logits")->data : NULL, &plain, &kernels, &truth);
    st_close(set);
}

#define CHECK_MODEL(NAME, ...) TEST(NAME) { check(&(model_case){ .name = #NAME, __VA_ARGS__ }); }
#define GOLDEN(NAME, TOLERANCE, KERNELS, ...) CHECK_MODEL(golden_##NAME, .golden = #NAME, .kernels = KERNELS, .tolerance = TOLERANCE, __VA_ARGS__)

/* ---- attention: heads of 16 that share lanes (of 64: mxfp4_experts, below) and of 128, windows, soft caps, sinks; latent ---- */

GOLDEN(llama_hd128, 0.005, "ragged_decode ragged_tiles kv_update")
GOLDEN(qwen3, 0.005, "ragged_decode ragged_tiles kv_update")
GOLDEN(gemma3_text, 0.01, "ragged_decode ragged_tiles kv_update")
GOLDEN(gpt_oss, 0.005, "ragged_decode ragged_tiles kv_update")
GOLDEN(deepseek_v3_realhead, 0.02, "mla_decode mla_prefill kv_update")
GOLDEN(qwen3_moe, 0.005, "ragged_decode ragged_tiles kv_update")

/* ---- caches of 8 bits ---- */

#define SHAPE_OF(HEAD) "\"model_type\": \"x\", \"vocab_size\": 320, \"hidden_size\": 256, \"intermediate_size\": 512, \"num_hidden_layers\": 3," \
    "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": " HEAD ", \"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 1024, \"tie_word_embeddings\": false"
#define SHAPE SHAPE_OF("128")
#define MIXTURE "\"num_experts\": 8, \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 256, \"norm_topk_prob\": true"
#define LLAMA "{\"architectures\": [\"LlamaForCausalLM\"], " SHAPE "}"
#define MOE "{\"architectures\": [\"Qwen3MoeForCausalLM\"], " SHAPE ", " MIXTURE "}"
#define FIVE "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"x\", \"vocab_size\": 320, \"hidden_size\": 256, \"intermediate_size\": 512, \"num_hidden_layers\": 3," \
    "\"num_attention_heads\": 10, \"num_key_value_heads\": 5, \"head_dim\": 128, \"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 1024, \"tie_word_embeddings\": false}"
#define MADE(NAME, CONFIG, TOLERANCE, KERNELS, ...) CHECK_MODEL(made_##NAME, .config = CONFIG, .kernels = KERNELS, .tolerance = TOLERANCE, __VA_ARGS__)

MADE(e4m3_cache, LLAMA, 0.01, "ragged_decode ragged_tiles kv_update", .kv = DT_F8E4M3, .page = 32)
MADE(e5m2_cache_v4, LLAMA, 0.01, "ragged_decode ragged_tiles kv_update", .kv = DT_F8E5M2, .page = 32, .chip = "v4")

MADE(e4m3_cache_scales, LLAMA, 0.02, "ragged_decode ragged_tiles kv_update", .kv = DT_F8E4M3, .page = 32, .kv_scales = true)
CHECK_MODEL(golden_latent_e4m3_scales, .golden = "deepseek_v3_realhead", .kernels = "mla_decode mla_prefill kv_update", .tolerance = 0.05, .kv = DT_F8E4M3, .page = 32, .kv_scales = true)
MADE(int8_cache, LLAMA, 0.01, "ragged_decode ragged_tiles kv_update", .kv = DT_I8, .page = 32)
MADE(int8_cache_five_heads_v4, FIVE, 0.01, "ragged_decode ragged_tiles kv_update", .kv = DT_I8, .page = 32, .chip = "v4")
MADE(int8_cache_small_pages, LLAMA, 0, "", .kv = DT_I8)      /* of 16 tokens: StableHLO stays */
CHECK_MODEL(golden_latent_int8, .golden = "deepseek_v3_realhead", .kernels = "", .tolerance = 0, .kv = DT_I8, .page = 32)    /* latent: the same */

/* ---- products ---- */

GOLDEN(llama_ct_w4a16_g128, 0.02, "quantised_matmul ragged_decode")
GOLDEN(llama_ct_w4a16_asym_g128, 0.02, "quantised_matmul ragged_decode")
GOLDEN(llama_fp8_block, 0.06, "quantised_matmul ragged_decode")
MADE(int8_g32, LLAMA, 0.05, "quantised_matmul", .quant = QUANT_INT8_G32)
MADE(int4_g128, LLAMA, 0.06, "quantised_matmul", .quant = QUANT_INT4_G128)
MADE(int4_g32_weights_v4, LLAMA, 0.02, "quantised_matmul", .quant = QUANT_INT4_G32_WO, .chip = "v4")
MADE(fp8, LLAMA, 0.02, "quantised_matmul", .quant = QUANT_FP8)

/* Experts: a decode step's slots, 128 at most, are in memory at once; those of a mixed step are multiplied in parts of five
 * tiles of 32: two parts at least, as all eight experts have tokens. */
enum { SLOT = 4096, PART = 160 * SLOT, LAYERS = 3, WHOLE = STEPS * LAYERS * 2, IN_PARTS = WHOLE + 3 * LAYERS * 2 };
#define MXFP4 "{\"architectures\": [\"GptOssForCausalLM\"], " SHAPE_OF("64") ", \"num_local_experts\": 8, \"num_experts_per_tok\": 2, \"attention_bias\": true, \"sliding_window\": 32," \
    "\"layer_types\": [\"sliding_attention\", \"full_attention\", \"sliding_attention\"], \"swiglu_limit\": 7.0, \"quantization_config\": { \"quant_method\": \"mxfp4\"," \
    "\"modules_to_not_convert\": [\"model.layers.*.self_attn\", \"model.layers.*.mlp.router\", \"model.embed_tokens\", \"lm_head\"] } }"
MADE(fp8_experts, MOE, 0.05, "quantised_matmul grouped_matmul", .quant = QUANT_FP8, .part_bytes = PART, .runs = IN_PARTS)
MADE(mxfp4_experts, MXFP4, 0.005, "ragged_decode ragged_tiles kv_update grouped_matmul", .part_bytes = PART, .runs = IN_PARTS)
MADE(int4_experts_v7x, MOE, 0.1, "quantised_matmul grouped_matmul", .quant = QUANT_INT4_G32_WO, .chip = "v7x")

/* ---- ranks: each has its heads and its part of the products ---- */

MADE(two_ranks, MOE, 0.02, "ragged_decode ragged_tiles kv_update", .tp = 2)

/* Rows are exchanged while they are multiplied, on rings of two and four. */
#define RING_SHAPE "\"model_type\": \"x\", \"vocab_size\": 320, \"hidden_size\": 512, \"intermediate_size\": 1024, \"num_hidden_layers\": 3," \
    "\"num_attention_heads\": 8, \"num_key_value_heads\": 4, \"head_dim\": 64, \"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 1024, \"tie_word_embeddings\": false"
#define RING "{\"architectures\": [\"LlamaForCausalLM\"], " RING_SHAPE "}"

MADE(ring_of_two, RING, 0.02, "gather_matmul matmul_scatter kv_update", .tp = 2, .sp = true, .slow = true, .tokens = 128, .wide = 32)
MADE(ring_of_four, RING, 0.02, "gather_matmul matmul_scatter kv_update", .tp = 4, .sp = true, .slow = true, .tokens = 256, .wide = 90)

TEST_MAIN
