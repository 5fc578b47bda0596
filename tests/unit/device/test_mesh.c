/* Programs of partitioned decoders on meshes of XLA:CPU devices (`make pjrt-cpu`) against one device: several steps, so that
 * the cache is used; each data rank has sequences of its own. */
#include "tests/unit/device/pjrt/help.h"

#include "device/pjrt/programs.h"
#include "ops/hlo_weight.h"
#include "tests/unit/device/pjrt/decoder.h"

/* XLA:CPU loses some bytes per compiled loop; what this repository allocates is not under that library. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libtensorflow_cc\n"; }

enum { DEVICES = 8, MOST_WEIGHTS = 32, VOCAB = 203 };

static const decoder llama = { .layers = 3, .hidden = 32, .heads = 8, .kv_heads = 2, .head_dim = 4, .mlp = 48, .vocab = VOCAB };
static const decoder qwen = { .layers = 2, .hidden = 24, .heads = 8, .kv_heads = 2, .head_dim = 4, .mlp = 40, .vocab = VOCAB, .qk_norm = true, .bias = true, .tied = true };
static const decoder sliding = { .layers = 3, .hidden = 16, .heads = 8, .kv_heads = 8, .head_dim = 4, .mlp = 16, .vocab = VOCAB, .period = 2 };

static const decoder mixture = { .layers = 3, .hidden = 24, .heads = 8, .kv_heads = 2, .head_dim = 4, .mlp = 12, .vocab = VOCAB, .bias = true, .experts = 8, .top_k = 3 };

/* Columns that are padded to 128. */
static const decoder wide = { .layers = 2, .hidden = 120, .heads = 4, .kv_heads = 2, .head_dim = 4, .mlp = 12, .vocab = VOCAB, .bias = true, .experts = 4, .top_k = 2, .tied = true };

/* More ranks than divide the heads and the experts. */
static const decoder crowded = { .layers = 2, .hidden = 24, .heads = 12, .kv_heads = 4, .head_dim = 4, .mlp = 8, .vocab = VOCAB, .bias = true, .experts = 12, .top_k = 3 };
static const decoder oss = { .layers = 2, .hidden = 24, .heads = 8, .kv_heads = 2, .head_dim = 4, .mlp = 12, .vocab = VOCAB, .period = 2, .bias = true, .experts = 4, .top_k = 2, .sinks = true };
static const decoder gemma = { .layers = 3, .hidden = 24, .heads = 8, .kv_heads = 4, .head_dim = 4, .mlp = 16, .vocab = VOCAB, .period = 3, .qk_norm = true, .tied = true, .gemma = true };
static const decoder llama4 = { .layers = 4, .hidden = 24, .heads = 8, .kv_heads = 2, .head_dim = 4, .mlp = 16, .vocab = VOCAB, .llama4 = true };

static const lower_bucket buckets[2] = { { .tokens = 24, .seqs = 4, .rows = 4 }, { .tokens = 8, .seqs = 8, .rows = 8, .decode = true } };

static pjrt_client *eight(void)
{
    static pjrt_client *c;
    const pjrt_value n = { .name = "cpu_device_count", .kind = PJRT_INT, .i64 = DEVICES };
    if (!c && (pjrt_plugin_open(cpu_plugin(), false, &plugin) != ST_OK || pjrt_client_open(plugin, &n, 1, &c) != ST_OK)) FAIL("%s", err_msg());
    return c;
}

typedef struct machine {
    pjrt_client *c;
    const decoder *d;
    graph *whole, *g;
    program_context context;
    mesh m;
    int n_devices;
    pjrt_program *programs[2];      /* the second may be missing: decode goes through the first then */
    pjrt_buffer *weights[DEVICES][MOST_WEIGHTS], *caches[DEVICES];
} machine;

/* ---- what a device holds ---- */

/* Rank `rank`'s share of a weight, as partition.h says it: its rows and columns, zeros where padded. */
static void fill_share(const machine *m, const node *n, int rank, float *dst)
{
    shape s;
    CHECK(hlo_weight_shape(n, PIECE_VALUES, &s));
    int64_t local_cols = weight_cols(n) > 1 ? s.dim[s.rank - 1] : 1, first = weight_first_expert(n, rank, m->m.tp);     /* padded ones too */
    memset(dst, 0, (size_t)(weight_experts(n) * weight_rows(n) * local_cols) * sizeof *dst);
    for (int64_t i = 0; i < n->a.weight.n_parts; i++) {
        const weight_part *p = &n->a.weight.parts[i];
        const node *full = decoder_find(m->whole, p->name);
        int64_t cols = weight_cols(full), row0, rows, local_rows, col0 = 0, n_cols = cols, unused;
        weight_part_local(n, p, rank, m->m.tp, &row0, &rows, &local_rows);
        if (cols > 1) weight_cols_local(n, cols, rank, m->m.tp, &col0, &n_cols, &unused);
        for (int64_t e = 0; e < weight_experts(n); e++)
            for (int64_t r = 0; r < rows; r++)
                for (int64_t c = 0; c < n_cols; c++)
                    dst[(e * weight_rows(n) + r) * local_cols + c] = decoder_value(p->name, full, (uint32_t)((((first + e) * p->total) + row0 + r) * cols + col0 + c));
        dst += local_rows * local_cols;
    }
}

static status put_weights(machine *m, int at)
{
    const lower_plan *p = m->context.plan;
    if (p->n_weights > MOST_WEIGHTS) return err_set(ST_LIMIT, "%d weights", p->n_weights);
    for (int i = 0; i < p->n_weights; i++) {
        const lower_weight *w = &p->weights[i];
        int64_t dim[4] = { w->n }, one = w->s.dim[0] * shape_cols(&w->s);
        float *v = mem_array((size_t)(one * w->n), sizeof *v);
        for (int k = 0; k < w->n; k++) fill_share(m, graph_at(m->g, w->nodes[k]), at % m->m.tp, v + k * one);
        for (int k = 0; k < w->s.rank; k++) dim[k + w->stacked] = w->s.dim[k];
        status st = pjrt_upload(m->c, at, DT_F32, dim, (size_t)(w->s.rank + w->stacked), v, PJRT_HOLD_CALL, &m->weights[at][i], NULL);
        mem_free(v);
        TRY(st);
    }
    return ST_OK;
}

/* ---- a graph on its devices ---- */

static status compile(machine *m, int i)
{
    buf text = { 0 };
    const pjrt_value fast[] = { { .name = "xla_backend_optimization_level", .kind = PJRT_INT, .i64 = 0 },
                                { .name = "xla_llvm_disable_expensive_passes", .kind = PJRT_BOOL, .b = true } };
    const pjrt_compile_options o = { .n_partitions = m->n_devices, .overrides = fast, .n_overrides = 2 };
    status st = lower_step(m->context.plan, &buckets[i], &m->context.lower, &text);
    if (st == ST_OK) st = test_compile(m->c, SOURCE(text.data), &o, &m->programs[i]);
    if (st != ST_OK && getenv("SYSTOLIC_TEST_TEXT")) printf("%s\n", buf_cstr(&text));
    buf_free(&text);
    return st;
}

static status reset_cache(machine *m)
{
    const lower_cache *x = &m->context.plan->caches[0];
    const int64_t dim[] = { (int64_t)x->n_places * m->context.lower.n_pages, DECODER_BLOCK, x->kv.rows, x->kv.lanes };
    for (int d = 0; d < m->n_devices; d++) {
        pjrt_buffer_free(m->c, m->caches[d]);
        m->caches[d] = NULL;
    }
    return pjrt_zeros(m->c, m->n_devices, x->kv.type, dim, 4, m->caches);
}

static status machine_open(machine *m, const decoder *d, mesh on, bool decode)
{
    const device_limits l = { 24, 8, 8, DECODER_LEN, DECODER_BLOCK, DT_F32, { 0 }, 0, false };
    *m = (machine){ .c = eight(), .d = d, .m = on, .n_devices = on.dp * on.tp };
    if (!m->c) return ST_INTERNAL;
    TRY(decoder_whole(d, &m->whole));
    TRY(decoder_graph(d, on, &m->g));
    TRY(program_context_new(m->g, &l, DT_F32, &m->context));
    m->context.lower.n_pages = m->context.plan->groups.n_groups * DECODER_BLOCKS;
    if (m->context.plan->n_caches != 1) return err_set(ST_INTERNAL, "%d caches", m->context.plan->n_caches);
    for (int i = 0; i <= decode; i++) TRY(compile(m, i));
    for (int i = 0; i < m->n_devices; i++) TRY(put_weights(m, i));
    return reset_cache(m);
}

static void machine_close(machine *m)
{
    for (int d = 0; d < DEVICES; d++) {
        for (int i = 0; i < MOST_WEIGHTS; i++) pjrt_buffer_free(m->c, m->weights[d][i]);
        pjrt_buffer_free(m->c, m->caches[d]);
    }
    for (int i = 0; i < 2; i++) pjrt_program_free(m->programs[i]);
    program_context_free(&m->context);
    graph_free(m->g);
    graph_free(m->whole);
}

/* ---- a step ---- */

static status put_ints(machine *m, int at, const int32_t *v, int64_t n, bool scalar, pjrt_buffer **out)
{
    return pjrt_upload(m->c, at, DT_I32, &n, !scalar, v, PJRT_HOLD_CALL, out, NULL);
}

/* A step with pages for each of the model's groups of layers. */
static void make_step(const machine *m, case_step *s, int step, int rank)
{
    decoder_step(s, m->d, step, rank);
    case_step_groups(s, &m->context.plan->groups, DECODER_BLOCKS);
}

/* Device d's leading arguments: meta, ring, rank. */
static status put_leading(machine *m, int at, const lower_bucket *b, const case_step *s, pjrt_buffer **own)
{
    static const int32_t ring[DECODER_SEQS * 100 * BATCH_RING];
    int64_t n = step_meta_len(b, &m->context.lower), n_ring = (int64_t)m->context.lower.n_slots * BATCH_RING;
    int32_t *meta = mem_array((size_t)n, sizeof *meta), rank = at % m->m.tp;
    step_meta_fill(b, &m->context.lower, &s->b, meta);
    status st = put_ints(m, at, meta, n, false, &own[0]);
    mem_free(meta);
    if (st == ST_OK) st = put_ints(m, at, ring, n_ring, false, &own[1]);
    if (st == ST_OK && m->m.tp > 1) st = put_ints(m, at, &rank, 1, true, &own[2]);
    return st;
}

/* steps[r]: data rank r's batch; logits[d]: all rows of device d. */
static status machine_run(machine *m, const case_step *steps, int step, float logits[DEVICES][8 * VOCAB])
{
    const int decode = step >= 2 && m->programs[1];
    const lower_bucket *b = &buckets[decode];
    const int n_weights = m->context.plan->n_weights, lead = lower_n_leading(m->g), n_args = lead + 1 + n_weights;
    pjrt_buffer *args[DEVICES * (MOST_WEIGHTS + 4)] = { 0 }, *outs[DEVICES * 2];
    status st = ST_OK;
    for (int d = 0; d < m->n_devices && st == ST_OK; d++) {
        pjrt_buffer **a = args + d * n_args;
        st = put_leading(m, d, b, &steps[d / m->m.tp], a);
        a[lead] = m->caches[d];
        memcpy(a + lead + 1, m->weights[d], (size_t)n_weights * sizeof *a);
    }
    if (st == ST_OK) st = pjrt_execute(m->programs[decode], args, (size_t)n_args, NULL, 0, outs, NULL);
    for (int d = 0; d < m->n_devices; d++) {
        for (int i = 0; i < lead; i++) pjrt_buffer_free(m->c, args[d * n_args + i]);
        if (st != ST_OK) continue;
        pjrt_buffer_free(m->c, m->caches[d]);
        m->caches[d] = outs[2 * d];
    }
    for (int d = 0; d < m->n_devices && st == ST_OK; d++) {
        st = pjrt_download_now(m->c, outs[2 * d + 1], logits[d], (size_t)b->rows * VOCAB * sizeof(float));
        pjrt_buffer_free(m->c, outs[2 * d + 1]);
    }
    return st;
}

/* ---- against one device ---- */

static float expected[DECODER_STEPS][DEVICES][8 * VOCAB], got[DEVICES][8 * VOCAB];

/* The expectation is of the model itself: its steps depend on what was cached, and its logits are not flat. */
static status check_expectation(machine *one)
{
    case_step s;
    for (int i = 0; i < DECODER_STEPS; i++) {
        double most = 0;
        for (int j = 0; j < VOCAB; j++) most = fmax(most, fabs((double)expected[i][0][j]));
        CHECK(most > 0.1 && most < 1000);
    }
    make_step(one, &s, 2, 0);
    TRY(reset_cache(one));
    TRY(machine_run(one, &s, 2, got));
    CHECK(case_error(got[0], expected[2][0], VOCAB) > 1e-3);
    return ST_OK;
}

/* What one device makes of each data rank's steps. */
static bool expect(const decoder *d, int n_ranks)
{
    machine one;
    status st = machine_open(&one, d, (mesh){ 1, 1, false, false }, true);
    for (int r = 0; r < n_ranks && st == ST_OK; r++) {
        st = reset_cache(&one);
        for (int i = 0; i < DECODER_STEPS && st == ST_OK; i++) {
            case_step s;
            make_step(&one, &s, i, r);
            st = machine_run(&one, &s, i, got);
            memcpy(expected[i][r], got[0], sizeof got[0]);
        }
    }
    if (st == ST_OK) st = check_expectation(&one);
    CHECK_OK(st);
    machine_close(&one);
    return st == ST_OK;
}

static void check_rows(mesh on, int step, int at, int n_rows)
{
    const float *want = expected[step][at / on.tp], *have = got[at];
    double error = case_error(have, want, (int64_t)n_rows * VOCAB);
    if (!(error < 1e-4)) FAIL("%dx%d%s step %d device %d: error %g", on.dp, on.tp, on.sp ? " sp" : on.ep ? " ep" : "", step, at, error);
    for (int r = 0; r < n_rows; r++) CHECK_INT(decoder_best(have + r * VOCAB, VOCAB), decoder_best(want + r * VOCAB, VOCAB));
}

static void check_mesh(const decoder *d, mesh on, bool decode)
{
    machine m;
    static case_step steps[DEVICES];
    status st = machine_open(&m, d, on, decode);
    CHECK_OK(st);
    for (int i = 0; i < DECODER_STEPS && st == ST_OK; i++) {
        for (int r = 0; r < on.dp; r++) {
            make_step(&m, &steps[r], i, r);
            CHECK(bucket_fits(&buckets[0], &steps[r].b) && bucket_fits(&buckets[1], &steps[r].b) == (i >= 2));
        }
        st = machine_run(&m, steps, i, got);
        CHECK_OK(st);
        for (int dev = 0; dev < m.n_devices && st == ST_OK; dev++) check_rows(on, i, dev, steps[dev / on.tp].b.n_rows);
    }
    machine_close(&m);
}

static const mesh meshes[] = { { 1, 2, false, false }, { 1, 4, false, false }, { 1, 8, false, false }, { 2, 1, false, false }, { 2, 2, false, false }, { 2, 4, false, false }, { 4, 2, false, false }, { 8, 1, false, false },
                               { 1, 2, true, false }, { 1, 4, true, false }, { 1, 8, true, false }, { 2, 2, true, false }, { 2, 4, true, false }, { 4, 2, true, false } };

TEST(llama_on_meshes)
{
    NEED_CPU;
    if (!expect(&llama, DEVICES)) return;
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++) check_mesh(&llama, meshes[i], i % 4 == 1);
}

/* Norms of heads, biases (added once, after the sum), tied embeddings. */
TEST(qwen_on_meshes)
{
    NEED_CPU;
    if (!expect(&qwen, 2)) return;
    check_mesh(&qwen, (mesh){ 1, 4, false, false }, true);
    check_mesh(&qwen, (mesh){ 1, 2, true, false }, false);
    check_mesh(&qwen, (mesh){ 2, 4, true, false }, false);
}

/* Layers that differ in their windows, a KV head for each rank. */
TEST(sliding_on_meshes)
{
    NEED_CPU;
    if (!expect(&sliding, 2)) return;
    check_mesh(&sliding, (mesh){ 2, 2, false, false }, true);
    check_mesh(&sliding, (mesh){ 1, 8, true, false }, false);
}

/* Experts cut over the ranks, and shared out; biases, of which the outer ones are added once; with cut tokens. */
TEST(experts_on_meshes)
{
    NEED_CPU;
    if (!expect(&mixture, 2)) return;
    for (int ep = 0; ep < 2; ep++) {
        check_mesh(&mixture, (mesh){ 1, 4, false, ep }, true);
        check_mesh(&mixture, (mesh){ 1, 2, true, ep }, false);
        check_mesh(&mixture, (mesh){ 2, 2, false, ep }, false);
    }
    check_mesh(&mixture, (mesh){ 1, 8, false, true }, false);
    if (!expect(&wide, 1)) return;
    for (int ep = 0; ep < 2; ep++) check_mesh(&wide, (mesh){ 1, 2, false, ep }, true);
}

/* Four groups of two ranks: each has its heads twice, and half of each of its experts. */
TEST(more_ranks_than_heads_and_experts)
{
    NEED_CPU;
    if (!expect(&crowded, 2)) return;
    check_mesh(&crowded, (mesh){ 1, 8, false, true }, true);
    check_mesh(&crowded, (mesh){ 1, 8, true, true }, false);
}

/* Sinks go with their heads; norms of sums, of 1 + w; layers of two kinds, of which one looks at positions itself. */
TEST(families_on_meshes)
{
    NEED_CPU;
    const decoder *const all[] = { &oss, &gemma, &llama4 };
    for (int i = 0; i < 3; i++) {
        if (!expect(all[i], 2)) return;
        check_mesh(all[i], (mesh){ 1, 4, false, false }, true);
        check_mesh(all[i], (mesh){ 2, 2, true, false }, false);
    }
}

TEST_MAIN
