/* Every operation x case x type of weights or cache x type of activations: its StableHLO, lowered as a graph of its own, on
 * XLA:CPU (`make pjrt-cpu`) against the reference. Four steps over the same sequences, in two programs: mixed and decode only,
 * each once padded and once full; what the first writes into the cache the others read. Cases of a mesh run on its devices. */
#include "device/pjrt/lower.h"
#include "device/pjrt/pjrt_pieces.h"
#include "ops/linear/qgemm.h"
#include "ops/op.h"
#include "tests/unit/device/pjrt/help.h"
#include "tests/unit/ops/cases.h"

enum { PAGE = 16, MAX_PAGES = 22, N_PAGES = 96, DEVICES = 4, MAX_ARGS = 16 };

static const lower_bucket buckets[2] = { { .tokens = 32, .seqs = 4, .rows = 8 }, { .tokens = 4, .seqs = 4, .rows = 4, .decode = true } };

static const struct { case_seq seqs[4]; int n_rows; int32_t rows[8]; bool decode; } steps[] = {
    { { { 330, 1 }, { 5, 5 }, { 40, 20 }, { 0, 0 } }, 5, { 0, 2, 3, 17, 25 }, false },
    { { { 331, 1 }, { 6, 1 }, { 50, 10 }, { 20, 20 } }, 8, { 0, 1, 2, 5, 11, 12, 20, 31 }, false },
    { { { 332, 1 }, { 7, 1 }, { 51, 1 }, { 21, 1 } }, 4, { 0, 1, 2, 3 }, true },
    { { { 333, 1 }, { 0, 0 }, { 0, 0 }, { 22, 1 } }, 1, { 1 }, true },
};
enum { STEPS = sizeof steps / sizeof *steps };

/* Page 0 is padding's. */
static void make_step(case_step *s, int i)
{
    case_step_make(s, steps[i].seqs, 4, steps[i].rows, steps[i].n_rows, PAGE, N_PAGES * PAGE, 1, MAX_PAGES * PAGE);
}

/* ---- a graph on devices ---- */

/* Values of a leaf on one device; case_fill's are the same on all. */
typedef void fill_fn(case_step *s, int device, const node *n, float *dst);

/* An input's columns from this one on are so many times greater, those before it so many times smaller; 0: as case_fill has them. */
static int64_t large_from;
static float input_factor;

static void fill_scaled(void *step, const node *n, float *dst)
{
    case_fill(step, n, dst);
    if (!large_from || n->op != OP_INPUT) return;
    for (int64_t i = 0; i < case_count(step, n); i++) dst[i] *= i % n->s.dim[1] < large_from ? 1 / input_factor : input_factor;
}

static void fill_same(case_step *s, int device, const node *n, float *dst)
{
    (void)device;
    fill_scaled(s, n, dst);
}

typedef struct machine {
    pjrt_client *c;
    const graph *g;
    lower_plan *plan;
    lower_options o;
    fill_fn *fill;
    int n_devices;
    pjrt_program *programs[2];
    pjrt_buffer *caches[DEVICES][4], *weights[DEVICES][MAX_ARGS];
} machine;

/* n values as `type` on a device. */
static pjrt_buffer *put(machine *m, int device, dtype type, const int64_t *dim, int rank, const float *v, int64_t n)
{
    pjrt_buffer *b = NULL;
    void *data = mem_calloc((size_t)n + 1, sizeof(float));
    if (dtype_bits(type) >= 16) dtype_from_f32(type, v, data, (size_t)n);
    for (int64_t i = 0; i < n && dtype_bits(type) == 8; i++) ((uint8_t *)data)[i] = type == DT_F8E4M3 ? f32_to_f8e4m3(v[i]) : f32_to_f8e5m2(v[i]);
    CHECK_OK(pjrt_upload(m->c, device, type, dim, (size_t)rank, data, PJRT_HOLD_CALL, &b, NULL));
    mem_free(data);
    return b;
}

static const weight_data *quantised;     /* what a weight with a scheme is: quantised_linears */

static void put_weights(machine *m, int device)
{
    static case_step none;
    for (int i = 0; i < m->plan->n_weights; i++) {
        const lower_weight *w = &m->plan->weights[i];
        int64_t dim[5] = { w->n }, one = w->s.dim[0] * shape_cols(&w->s);
        float *v = mem_array((size_t)(one * w->n), sizeof *v);
        if (graph_at(m->g, w->nodes[0])->a.weight.scheme) {
            pjrt_fill_piece(graph_at(m->g, w->nodes[0]), w->piece, quantised, 0, 1, v);
            CHECK_OK(pjrt_upload(m->c, device, w->s.type, w->s.dim, (size_t)w->s.rank, v, PJRT_HOLD_CALL, &m->weights[device][i], NULL));
            mem_free(v);
            continue;
        }
        for (int k = 0; k < w->n; k++) m->fill(&none, device, graph_at(m->g, w->nodes[k]), v + k * one);
        for (int k = 0; k < w->s.rank; k++) dim[k + w->stacked] = w->s.dim[k];
        m->weights[device][i] = put(m, device, w->s.type, dim, w->s.rank + w->stacked, v, one * w->n);
        mem_free(v);
    }
}

/* The same of a cache of DT_I8: what the reference has of a token's head are whole multiples of the 127th part of the greatest. */
static void put_int8_cache(machine *m, int device, int i, const ref_cache *ref)
{
    const hlo_kv *kv = &m->plan->caches[i].kv;
    const kv_scale_shape s = hlo_kv_scales(kv, PAGE);
    const int64_t slots = N_PAGES * PAGE;
    int64_t dim[] = { N_PAGES, PAGE, kv->rows, kv->lanes }, scale_dim[] = { N_PAGES, s.rows, 1, s.lanes };
    int8_t *v = mem_calloc((size_t)(slots * kv->rows * kv->lanes), 1);
    float *scales = mem_calloc((size_t)(N_PAGES * s.rows * s.lanes), sizeof *scales);
    for (int64_t at = 0; at < slots * kv->heads * (kv->latent ? 1 : 2); at++) {
        const bool value = at >= slots * kv->heads;
        const int64_t slot = at % (slots * kv->heads) / kv->heads, head = at % kv->heads;
        const float *x = (value ? ref->v : ref->k) + (slot * kv->heads + head) * kv->dim;
        float most = 0;
        for (int64_t k = 0; k < kv->dim; k++) most = fmaxf(most, fabsf(x[k]));
        const float scale = most / 127;
        const int64_t row = slot * kv->rows + (kv->head_lanes ? 0 : head) + (value ? kv->v_row : 0), lane = head * kv->head_lanes + (value ? kv->v_lane : 0);
        for (int64_t k = 0; k < kv->dim; k++) v[row * kv->lanes + lane + k] = (int8_t)lrintf(x[k] / scale);
        scales[slot / PAGE * s.rows * s.lanes + kv_scale_place(&s, head, value, slot % PAGE)] = scale;
    }
    CHECK_OK(pjrt_upload(m->c, device, DT_I8, dim, 4, v, PJRT_HOLD_CALL, &m->caches[device][i], NULL));
    CHECK_OK(pjrt_upload(m->c, device, DT_F32, scale_dim, 4, scales, PJRT_HOLD_CALL, &m->caches[device][m->plan->caches[i].scales], NULL));
    mem_free(v);
    mem_free(scales);
}

/* The reference's cache as the program keeps it; page 0, which is padding's, too. */
static void put_caches(machine *m, int device, const ref_cache *ref)
{
    for (int i = 0; i < m->plan->n_caches; i++) {
        const hlo_kv *kv = &m->plan->caches[i].kv;
        if (m->plan->caches[i].of_scales) continue;
        if (kv->type == DT_I8) {
            put_int8_cache(m, device, i, ref);
            continue;
        }
        int64_t dim[] = { N_PAGES, PAGE, kv->rows, kv->lanes }, n = dim[0] * dim[1] * dim[2] * dim[3];
        float *v = mem_calloc((size_t)n, sizeof *v);
        for (int64_t at = 0; at < N_PAGES * PAGE * kv->heads * kv->dim; at++) {
            int64_t slot = at / (kv->heads * kv->dim), head = at / kv->dim % kv->heads;
            int64_t row = slot * kv->rows + (kv->head_lanes ? 0 : head), lane = head * kv->head_lanes + at % kv->dim;
            v[row * kv->lanes + lane] = ref->k[at];
            if (!kv->latent) v[(row + kv->v_row) * kv->lanes + kv->v_lane + lane] = ref->v[at];
        }
        m->caches[device][i] = put(m, device, kv->type, dim, 4, v, n);
        mem_free(v);
    }
}

/* Compiles both programs; weights and caches go to the devices. */
static status machine_open(machine *m, const graph *g, dtype act, dtype kv, fill_fn *fill, const ref_cache *cache)
{
    *m = (machine){ .c = cpu(), .g = g, .fill = fill, .n_devices = graph_mesh(g).dp * graph_mesh(g).tp };
    m->o = (lower_options){ .act = act, .page = PAGE, .max_pages = MAX_PAGES, .n_pages = N_PAGES, .n_slots = 1 };
    if (!m->c) return ST_INTERNAL;
    TRY(lower_plan_new(g, kv, 0, &m->plan));
    if (m->plan->n_weights > MAX_ARGS || m->plan->n_caches > 4 || m->n_devices > DEVICES) return err_set(ST_LIMIT, "the test has too little room");
    /* Loops of attention take LLVM long: half as long without its optimisations, which is not what is tested. */
    pjrt_value fast = { .name = "xla_backend_optimization_level", .kind = PJRT_INT, .i64 = 0 };
    pjrt_compile_options options = { .n_partitions = m->n_devices, .overrides = &fast, .n_overrides = case_attention(g) ? 1 : 0 };
    for (int i = 0; i < 2; i++) {
        buf text = { 0 };
        status st = lower_step(m->plan, &buckets[i], &m->o, &text);
        if (st == ST_OK) st = test_compile(m->c, SOURCE(text.data), &options, &m->programs[i]);
        if (st != ST_OK && getenv("SYSTOLIC_TEST_TEXT")) printf("%s\n", buf_cstr(&text));
        buf_free(&text);
        TRY(st);
    }
    for (int d = 0; d < m->n_devices; d++) {
        put_weights(m, d);
        put_caches(m, d, cache);
    }
    return ST_OK;
}

static void machine_close(machine *m)
{
    for (int d = 0; d < DEVICES; d++) {
        for (int i = 0; i < MAX_ARGS; i++) pjrt_buffer_free(m->c, m->weights[d][i]);
        for (int i = 0; i < 4; i++) pjrt_buffer_free(m->c, m->caches[d][i]);
    }
    for (int i = 0; i < 2; i++) pjrt_program_free(m->programs[i]);
    lower_plan_free(m->plan);
}

/* Rows of an array of the step, padded by rows that would show. */
static pjrt_buffer *put_input(machine *m, int device, const lower_bucket *b, case_step *s, const node *n)
{
    hlo_step padded = { .T = b->tokens, .S = b->seqs, .R = b->rows };
    int64_t dim[GRAPH_MAX_RANK], count = 1;
    for (int k = 0; k < n->s.rank; k++) {
        dim[k] = hlo_dim(&padded, graph_mesh(m->g), n->s.dim[k]);
        count *= dim[k];
    }
    float *v = mem_array((size_t)count, sizeof *v);
    for (int64_t i = 0; i < count; i++) v[i] = 100;
    m->fill(s, device, n, v);
    pjrt_buffer *buffer = put(m, device, DT_F32, dim, n->s.rank, v, count);
    mem_free(v);
    return buffer;
}

static pjrt_buffer *put_rank(machine *m, int device)
{
    pjrt_buffer *b = NULL;
    int32_t rank = device % graph_mesh(m->g).tp;
    CHECK_OK(pjrt_upload(m->c, device, DT_I32, NULL, 0, &rank, PJRT_HOLD_CALL, &b, NULL));
    return b;
}

/* One step on all devices; out[d] gets the step's rows of device d's result. */
static status machine_run(machine *m, case_step *s, bool decode, float *const *out)
{
    const lower_bucket *b = &buckets[decode];
    const lower_plan *p = m->plan;
    pjrt_buffer *args[DEVICES * 2 * MAX_ARGS], *outs[DEVICES * 5], *own[DEVICES][MAX_ARGS + 3];
    int n_caches = p->n_caches, n_first = lower_n_leading(m->g), n_args = n_first + n_caches + p->n_inputs + p->n_weights;
    int64_t n_meta = step_meta_len(b, &m->o), n_out = case_count(s, graph_node(m->g, graph_output(m->g)));
    int32_t *meta = mem_calloc((size_t)n_meta, sizeof *meta), ring[BATCH_RING] = { 0 };
    CHECK(bucket_fits(b, &s->b));
    step_meta_fill(b, &m->o, &s->b, meta);
    for (int d = 0; d < m->n_devices; d++) {
        pjrt_buffer **a = args + d * n_args;
        *a++ = own[d][0] = up(m->c, d, DT_I32, n_meta, meta);
        *a++ = own[d][1] = up(m->c, d, DT_I32, BATCH_RING, ring);
        if (n_first > 2) *a++ = own[d][2] = put_rank(m, d);
        for (int i = 0; i < n_caches; i++) *a++ = m->caches[d][i];
        for (int i = 0; i < p->n_inputs; i++) *a++ = own[d][n_first + i] = put_input(m, d, b, s, graph_at(m->g, p->inputs[i]));
        for (int i = 0; i < p->n_weights; i++) *a++ = m->weights[d][i];
    }
    status st = pjrt_execute(m->programs[decode], args, (size_t)n_args, NULL, 0, outs, NULL);
    for (int d = 0; d < m->n_devices; d++) {
        for (int i = 0; i < n_first + p->n_inputs; i++) pjrt_buffer_free(m->c, own[d][i]);
        if (st != ST_OK) continue;
        for (int i = 0; i < n_caches; i++) {
            pjrt_buffer_free(m->c, m->caches[d][i]);
            m->caches[d][i] = outs[d * (n_caches + 1) + i];
        }
        pjrt_buffer *result = outs[d * (n_caches + 1) + n_caches];
        size_t bytes = 0;
        CHECK_OK(pjrt_buffer_bytes(m->c, result, &bytes));
        CHECK(bytes >= (size_t)n_out * sizeof(float));
        float *all = mem_alloc(bytes);
        st = pjrt_download_now(m->c, result, all, bytes);
        memcpy(out[d], all, (size_t)n_out * sizeof(float));
        mem_free(all);
        pjrt_buffer_free(m->c, result);
    }
    mem_free(meta);
    return st;
}

/* ---- against the reference ---- */

/* Half a unit in the last place of the type, a few times: relative to the largest value. */
static double tolerance_of(const graph *g, dtype act)
{
    const node *out = graph_node(g, graph_output(g));
    bool exact = out->op == OP_ROPE_TABLE;      /* stays f32 */
    return exact || act == DT_F32 ? 1e-5 : act == DT_BF16 ? 1.0 / 128 : 1.0 / 1024;
}

/* The largest error of all steps. */
static status run_case(const graph *g, dtype act, dtype kv, double *worst)
{
    machine m;
    static case_step s;
    int64_t heads, dim;
    ref_cache cache = case_cache(g, kv, N_PAGES * PAGE, &heads, &dim);
    status st = machine_open(&m, g, act, kv, fill_same, &cache);
    *worst = 0;
    for (int i = 0; i < STEPS && st == ST_OK; i++) {
        make_step(&s, i);
        s.tp = graph_mesh(g).tp;
        /* Ranks share the padded tokens out, so only full steps can be put together again. */
        if (graph_mesh(g).sp && s.b.n_tokens != buckets[steps[i].decode].tokens) continue;
        size_t count = (size_t)case_count(&s, graph_node(g, graph_output(g)));
        float *want = mem_calloc(count, sizeof *want), *got[DEVICES];
        for (int d = 0; d < DEVICES; d++) got[d] = mem_calloc(count, sizeof(float));
        st = ref_run(g, fill_scaled, &s, &s.b, &cache, PAGE, want);
        if (st == ST_OK) st = machine_run(&m, &s, steps[i].decode, got);
        *worst = fmax(*worst, case_error(got[0], want, (int64_t)count));
        for (int d = 0; d < DEVICES; d++) mem_free(got[d]);
        mem_free(want);
    }
    machine_close(&m);
    mem_free(cache.k);
    mem_free(cache.v);
    return st;
}

static const dtype types[] = { DT_F32, DT_BF16, DT_F16 };

/* False: there is no such case. */
static bool check_case(op o, int number, dtype stored, dtype act)
{
    graph *g;
    double error = INFINITY;
    if (graph_new(ops_rules(), &g) != ST_OK) return false;
    tensor out = op_impl_of(o)->build_case(g, number, stored);
    if (!out.id) {
        CHECK(number > 0 || stored != DT_F32);
        graph_free(g);
        return false;
    }
    CHECK_OK(graph_finish(g, out));
    const char *type = case_stored(g, stored, stored);
    if (type || stored == DT_F32) {
        double tolerance = tolerance_of(g, act);
        status st = run_case(g, act, stored, &error);
        if (st != ST_OK || !(error <= tolerance))
            FAIL("%s case %d, stored %s, activations %s: error %g, at most %g%s%s", op_name(o), number, type ? type : "-", dtype_name(act), error, tolerance,
                 st == ST_OK ? "" : ": ", st == ST_OK ? "" : err_msg());
        case_report(op_name(o), "hlo", type, dtype_name(act), st == ST_OK ? error : INFINITY, tolerance);
    }
    graph_free(g);
    return true;
}

/* Compiling takes most of the time, so of the mixtures of types each tries some of the cases; all of them with
 * SYSTOLIC_TEST_FULL, or when a table of what works is wanted. */
static void check_op(op o)
{
    NEED_CPU;
    bool full = getenv("SYSTOLIC_TEST_FULL") || getenv("SYSTOLIC_SUPPORT_MATRIX");
    int share = full ? 1 : o == OP_PAGED_ATTENTION ? 8 : 3;
    for (int mix = 0; mix < 9; mix++)
        for (int i = mix ? mix % share : 0; check_case(o, i, types[mix / 3], types[mix % 3]); i += mix ? share : 1) {}
}

#define OP(up, low, lo, hi, fl, ...) TEST(op_##low) { if (op_impl_of(OP_##up)->hlo) check_op(OP_##up); }
#include "graph/ops.def"
#undef OP

TEST(every_op_has_a_form)
{
    for (op o = 1; o < OP_COUNT; o++)
        if (!op_is(o, OPF_LEAF) && !op_impl_of(o)->hlo) FAIL("%s has no StableHLO", op_name(o));
}

/* ---- caches of 8-bit floats ---- */

static void check_8_bit_cache(int number, dtype kv, dtype act, float factor)
{
    graph *g;
    double error = INFINITY;
    REQUIRE_OK(graph_new(ops_rules(), &g));
    tensor out = op_impl_of(OP_PAGED_ATTENTION)->build_case(g, number, DT_F32);
    REQUIRE(out.id);
    REQUIRE_OK(graph_finish(g, out));
    const node *q = graph_node(g, graph_node(g, out)->in[0]);
    large_from = factor != 1 ? q->s.dim[1] * q->s.dim[2] : 0;
    input_factor = factor;
    status st = run_case(g, act, kv, &error);
    large_from = 0;
    double tolerance = tolerance_of(g, act);
    if (st != ST_OK || !(error <= tolerance))
        FAIL("case %d, cache %s, activations %s, factor %g: error %g, at most %g%s%s", number, dtype_name(kv), dtype_name(act), (double)factor, error, tolerance, st == ST_OK ? "" : ": ",
             st == ST_OK ? "" : err_msg());
    graph_free(g);
}

/* Beyond the largest number of its type a key or value is that number: 448 and 57344. */
TEST(caches_of_8_bit_floats)
{
    NEED_CPU;
    static const int cases[] = { 1, 5, 14 };        /* heads side by side, heads as rows, a latent cache */
    for (int i = 0; i < 3; i++) {
        check_8_bit_cache(cases[i], DT_F8E4M3, DT_BF16, 1);
        check_8_bit_cache(cases[i], DT_F8E5M2, DT_F32, 1);
    }
    check_8_bit_cache(1, DT_F8E4M3, DT_F32, 3000);
    check_8_bit_cache(14, DT_F8E5M2, DT_F32, 300000);
    check_8_bit_cache(17, DT_F8E4M3, DT_F32, 1);    /* divided by scales */
    check_8_bit_cache(19, DT_F8E4M3, DT_BF16, 1);
}

/* int8 with a scale for each token and head: heads side by side, as rows, one of 128 lanes, latent, all that attention has. */
TEST(caches_of_int8)
{
    NEED_CPU;
    static const int cases[] = { 1, 3, 5, 13, 14 };
    for (int i = 0; i < 5; i++) check_8_bit_cache(cases[i], DT_I8, i % 2 ? DT_F32 : DT_BF16, 1);
    check_8_bit_cache(2, DT_I8, DT_F32, 3000);
    check_8_bit_cache(18, DT_I8, DT_F32, 1);
}

/* ---- what the cases cannot say ---- */

static graph *parse(const char *text)
{
    graph *g = NULL;
    CHECK_OK(graph_parse(ops_rules(), text, strlen(text), &g));
    return g;
}

/* A head's logits are f32, whatever the activations: finer than the type that it reads. */
TEST(logits_are_not_rounded)
{
    NEED_CPU;
    double error = INFINITY;
    graph *g = parse("%1 = input kind=3 : f32[R, 64]{rows, embed}\n"
                     "%2 = weight role=vocab \"head\"[0:50/50]vocab : bf16[50, 64]{vocab, embed}\n"
                     "%3 = linear(%1, %2) : f32[R, 50]{rows, vocab}\n"
                     "output %3\n");
    REQUIRE(g);
    CHECK_OK(run_case(g, DT_BF16, DT_F32, &error));
    CHECK(error < 1e-6);
    graph_free(g);
}

/* Positions of a million tokens and more: angles are thousands of turns. */
TEST(rope_far_from_zero)
{
    NEED_CPU;
    float freq[64], scale = 1, want[32 * 128], got[32 * 128];
    static case_step s;
    graph *g;
    machine m;
    for (int i = 0; i < 64; i++) freq[i] = (float)pow(500000, -i / 64.0);
    REQUIRE_OK(graph_new(ops_rules(), &g));
    tensor pos = case_ints(g, IN_POSITIONS);
    REQUIRE_OK(graph_finish(g, graph_add(g, OP_ROPE_TABLE, &pos, 1, &(op_attrs){ .rope_table = { { 1, &scale }, { 64, freq } } })));
    REQUIRE_OK(machine_open(&m, g, DT_BF16, DT_F32, fill_same, &(ref_cache){ .type = DT_F32 }));
    for (int round = 0; round < 40; round++) {
        make_step(&s, 1);
        for (int t = 0; t < 32; t++) {
            int64_t far = round < 20 ? 1 << 20 : 1 << 24;
            s.positions[t] = round == 0 ? (t < 16 ? t : (1 << (t - 8)) - 1) : (int32_t)((int64_t)(round * 32 + t) * 2654435761 % far);
        }
        CHECK_OK(ref_run(g, case_fill, &s, &s.b, NULL, PAGE, want));
        CHECK_OK(machine_run(&m, &s, false, (float *[]){ got }));
        double error = case_error(got, want, 32 * 128);
        if (!(error < 1e-6)) FAIL("round %d: error %g", round, error);
    }
    machine_close(&m);
    graph_free(g);
}

/* ---- quantised weights ---- */

enum { QN = 24, MOST_QK = 1400 };
/* A row ends inside of a group; the second one's packed values and groups of 16 are padded to whole lanes (hlo_weight_shape). */
static const int widths[] = { 200, 1400 };
static int QK;

/* A stored tensor of a scheme, or what a named one makes of values. */
static weight_data make_quantised(const node *n)
{
    static uint8_t values[QN * MOST_QK];
    static float scales[QN * MOST_QK], zeros[QN * MOST_QK], plain[QN * MOST_QK];
    static int32_t order[MOST_QK];
    quant_scheme s = (quant_scheme)n->a.weight.scheme;
    quant_info q = quant_describe(s);
    weight_data d = { .type = q.type, .rank = 2, .shape = { QN, QK }, .values = values, .scales = scales, .scale_type = DT_F32, .global = 1, .group_out = 1,
                      .group_in = q.group ? q.group : QK, .input_scale = 1.0f / 300 };
    if (!quant_is_stored(s)) {
        weight_data raw = { .type = DT_F32, .rank = 2, .shape = { QN, QK }, .values = plain };
        for (uint32_t i = 0; i < (uint32_t)(QN * QK); i++) plain[i] = case_value(3, i);
        CHECK_OK(pjrt_quantise(n, &raw, &d));
        return d;
    }
    for (uint32_t i = 0; i < (uint32_t)(QN * QK); i++) {
        uint8_t b = (uint8_t)((i + 7) * 2654435761u >> 21);
        values[i] = q.type == DT_F8E4M3 && (b & 0x7F) == 0x7F ? 0 : b;
        scales[i] = (float)(1 + i * 5 % 13) / 64;
        zeros[i] = (float)(i * 7 % 17);
    }
    for (int i = 0; i < QK; i++) order[i] = i * 11 % QK;
    if (q.zeros) d.zeros = zeros;
    if (q.ordered) d.order = order;
    return d;
}

/* A row of inputs as the scheme rounds it. */
static void round_inputs(const weight_data *d, quant_info q, float *x)
{
    float prepared[MOST_QK];
    int64_t group = q.act == QUANT_ACT_INT8 && q.group ? q.group : QK;
    if (!q.int8_activations) {
        qgemm_prepare(q.act, d->input_scale, NULL, x, QK, prepared);
        memcpy(x, prepared, (size_t)QK * sizeof *prepared);
        return;
    }
    for (int64_t from = 0; from < QK; from += group) {
        int64_t end = from + group < QK ? from + group : QK;
        float top = 0;
        for (int64_t i = from; i < end; i++) top = fmaxf(top, fabsf(x[i]));
        float scale = q.act == QUANT_ACT_INT8_STATIC ? d->input_scale : top / 127;
        for (int64_t i = from; i < end; i++) x[i] = rintf(fminf(fmaxf(x[i] / scale, -127), 127)) * scale;
    }
}

/* All 32 rows by weights as weight_row has them. */
static void multiply_quantised(const graph *g, case_step *s, const weight_data *d, quant_info q, float *want)
{
    static float x[32 * MOST_QK], w[MOST_QK];
    case_fill(s, graph_at(g, 1), x);
    for (int t = 0; t < 32; t++) round_inputs(d, q, x + t * QK);
    for (int r = 0; r < QN; r++) {
        weight_row(d, r, w);
        for (int t = 0; t < 32; t++) {
            double sum = 0;
            for (int i = 0; i < QK; i++) sum += (double)x[t * QK + i] * (double)w[i];
            want[t * QN + r] = (float)sum;
        }
    }
}

static void check_quantised(const char *scheme)
{
    static case_step s;
    static float want[32 * QN], got[32 * QN];
    char text[512];
    machine m;
    snprintf(text, sizeof text, "%%1 = input kind=3 : f32[T, %d]{tokens, embed}\n%%2 = weight role=col \"w\"[0:%d/%d]mlp scheme=%s : f32[%d, %d]{mlp, embed}\n"
                                "%%3 = linear(%%1, %%2) : f32[T, %d]{tokens, mlp}\noutput %%3\n", QK, QN, QN, scheme, QN, QK, QN);
    graph *g = parse(text);
    REQUIRE(g);
    weight_data d = make_quantised(graph_at(g, 2));
    quantised = &d;
    status st = machine_open(&m, g, DT_F32, DT_F32, fill_same, NULL);
    make_step(&s, 1);
    if (st == ST_OK) st = machine_run(&m, &s, false, (float *[]){ got });
    CHECK_OK(st);
    multiply_quantised(g, &s, &d, quant_describe((quant_scheme)graph_at(g, 2)->a.weight.scheme), want);
    double error = case_error(got, want, 32 * QN);
    if (!(error <= 1e-5)) FAIL("%s of %d columns: error %g", scheme, QK, error);
    machine_close(&m);
    graph_free(g);
    mem_free(d.owned);
}

TEST(quantised_linears)
{
    NEED_CPU;
    static const char *const schemes[] = { "i8", "i8.act=int8", "i8.act=int8_static", "i4", "i4.g32.zeros", "i4.g128.ordered", "f8e4m3", "f8e4m3.g128", "f8e4m3.act=fp8", "f8e4m3.act=fp8_static",
                                           "f8e4m3.g128.act=fp8_g128", "f4e2m1.g16", "f4e2m1.g32", "int8", "int4_g32", "int4_g128_weight_only", "int8_g32_weight_only", "fp8_per_channel" };
    for (size_t k = 0; k < sizeof widths / sizeof *widths; k++) {
        QK = widths[k];
        for (size_t i = 0; i < sizeof schemes / sizeof *schemes; i++) check_quantised(schemes[i]);
    }
}

/* ---- collectives: what each rank has is its own ---- */

static void fill_own(case_step *s, int device, const node *n, float *dst)
{
    int64_t count = case_count(s, n);
    for (int64_t i = 0; i < count; i++) dst[i] = case_value((uint32_t)(50 + device), (uint32_t)i);
}

/* Runs a full mixed step; out[d] are 32 x cols values of device d. */
static bool run_mesh(const char *text, fill_fn *fill, float *const *out)
{
    static case_step s;
    machine m;
    graph *g = parse(text);
    if (!g) return false;
    status st = machine_open(&m, g, DT_F32, DT_F32, fill, NULL);
    make_step(&s, 1);
    s.tp = graph_mesh(g).tp;
    if (st == ST_OK) st = machine_run(&m, &s, false, out);
    CHECK_OK(st);
    machine_close(&m);
    graph_free(g);
    return st == ST_OK;
}

TEST(sums_are_over_the_tensor_ranks_of_a_data_rank)
{
    NEED_CPU;
    static float got[DEVICES][32 * 6];
    float *out[] = { got[0], got[1], got[2], got[3] };
    const char *const texts[] = {
        "mesh dp=2 tp=2 sp=0\n%1 = input kind=3 : f32[T, 6]{tokens, embed}\n%2 = all_reduce(%1) : f32[T, 6]{tokens, embed}\noutput %2\n",
        "mesh dp=2 tp=2 sp=1\n%1 = input kind=3 : f32[T, 6]{tokens, embed}\n%2 = reduce_scatter(%1) dim=0 : f32[TS, 6]{tokens, embed}\n"
        "%3 = all_gather(%2) dim=0 : f32[T, 6]{tokens, embed}\noutput %3\n" };
    for (int k = 0; k < 2; k++) {
        if (!run_mesh(texts[k], fill_own, out)) return;
        for (int d = 0; d < DEVICES; d++)
            for (uint32_t i = 0; i < 32 * 6; i++) {
                uint32_t first = 50 + (uint32_t)d / 2 * 2;
                CHECK_NEAR(got[d][i], case_value(first, i) + case_value(first + 1, i), 1e-6);
            }
    }
}

TEST(gathered_columns_are_in_order_of_rank)
{
    NEED_CPU;
    static float got[DEVICES][32 * 11];
    float *out[] = { got[0], got[1], got[2], got[3] };
    if (!run_mesh("mesh dp=2 tp=2 sp=0\n%1 = input kind=3 : f32[T, 6]{tokens, vocab}\n%2 = all_gather(%1) dim=1 size=11 : f32[T, 11]{tokens, vocab}\noutput %2\n", fill_own, out))
        return;
    for (int d = 0; d < DEVICES; d++)
        for (int t = 0; t < 32; t++)
            for (int i = 0; i < 11; i++)
                CHECK_NEAR(got[d][t * 11 + i], case_value((uint32_t)(50 + d / 2 * 2 + i / 6), (uint32_t)(t * 6 + i % 6)), 0);
}

/* Rank r's rows of a table of 51 rows, of which the second rank's last is padding. */
static void fill_rows(case_step *s, int device, const node *n, float *dst)
{
    (void)s;
    for (int64_t i = 0; i < n->s.dim[0] * n->s.dim[1]; i++) {
        int64_t at = i + device % 2 * n->s.dim[0] * n->s.dim[1];
        dst[i] = at < 51 * n->s.dim[1] ? case_value(9, (uint32_t)at) : 0;
    }
}

TEST(each_rank_looks_up_its_own_rows)
{
    NEED_CPU;
    static float got[DEVICES][32 * 5];
    static case_step s;
    float *out[] = { got[0], got[1], got[2], got[3] };
    if (!run_mesh("mesh dp=2 tp=2 sp=0\n%1 = input kind=0 : i32[T]{tokens}\n%2 = weight role=vocab \"table\"[0:51/51]vocab/2 : f32[26, 5]{vocab, embed}\n"
                  "%3 = embed(%1, %2) shards=2 : f32[T, 5]{tokens, embed}\n%4 = all_reduce(%3) : f32[T, 5]{tokens, embed}\noutput %4\n", fill_rows, out))
        return;
    make_step(&s, 1);
    for (int d = 0; d < DEVICES; d++)
        for (int i = 0; i < 32 * 5; i++) CHECK_NEAR(got[d][i], case_value(9, (uint32_t)(s.ids[i / 5] * 5 + i % 5)), 0);
}

/* ---- without a plugin ---- */

static status lower_case(op o, buf *text)
{
    graph *g = NULL;
    lower_plan *p = NULL;
    lower_options opts = { .act = DT_BF16, .page = PAGE, .max_pages = MAX_PAGES, .n_pages = N_PAGES, .n_slots = 1 };
    TRY(graph_new(ops_rules(), &g));
    status st = graph_finish(g, op_impl_of(o)->build_case(g, 0, DT_F16));
    if (st == ST_OK) st = lower_plan_new(g, DT_BF16, 0, &p);
    if (st == ST_OK) st = lower_step(p, &buckets[0], &opts, text);
    lower_plan_free(p);
    graph_free(g);
    return st;
}

static status lower_and_free(op o)
{
    buf text = { 0 };
    status st = lower_case(o, &text);
    buf_free(&text);
    return st;
}

/* Latent attention of 4 heads of 128 + 32: the program of a bucket. */
static status lower_latent(const lower_bucket *b, attention_choice choice, dtype kv, buf *text)
{
    graph *g = NULL;
    lower_plan *p = NULL;
    lower_options o = { .act = DT_BF16, .page = 32, .max_pages = 8, .n_pages = 17, .n_slots = 1, .attention = choice };
    TRY(graph_new(ops_rules(), &g));
    tensor all = case_input(g, DIM_T, 5 * 160, AX_HEADS), in[2];
    for (int i = 0; i < 2; i++) {
        in[i] = graph_add(g, OP_SLICE, &all, 1, &(op_attrs){ .slice = { i ? 640 : 0, i ? 800 : 640 } });
        in[i] = graph_add(g, OP_SPLIT_HEADS, &in[i], 1, &(op_attrs){ .split_heads = { 160 } });
    }
    status st = graph_finish(g, graph_add(g, OP_PAGED_ATTENTION, in, 2, &(op_attrs){ .paged_attention = { .scale = 0.1, .latent = 128 } }));
    if (st == ST_OK) st = lower_plan_new(g, kv, 0, &p);
    if (st == ST_OK) st = lower_step(p, b, &o, text);
    lower_plan_free(p);
    graph_free(g);
    return st;
}

static void check_latent(attention_choice choice, dtype kv, bool decode, bool kernels)
{
    buf text = { 0 };
    CHECK_OK(lower_latent(&buckets[decode], choice, kv, &text));
    const char *t = buf_cstr(&text);
    CHECK(!strstr(t, "kernel_name = \"kv_update\"") == !kernels);
    CHECK(!strstr(t, "kernel_name = \"mla_decode\"") == !kernels);
    CHECK(!strstr(t, "kernel_name = \"mla_prefill\"") == !(kernels && !decode));
    CHECK(!strstr(t, "stablehlo.scatter") == kernels);
    buf_free(&text);
}

TEST(latent_attention_takes_kernels_where_there_are_some)
{
    const attention_choice v6e = { .chip = chip_by_name("v6e") }, v3 = { .chip = chip_by_name("v3") }, none = { 0 };
    for (int decode = 0; decode < 2; decode++) {
        check_latent(v6e, DT_BF16, decode, true);
        check_latent(v6e, DT_F8E4M3, decode, true);
        check_latent(v6e, DT_F32, decode, false);
        check_latent((attention_choice){ .chip = v6e.chip, .backend = ATTENTION_BACKEND_STABLEHLO }, DT_BF16, decode, false);
        check_latent(v3, DT_BF16, decode, false);
        check_latent(none, DT_BF16, decode, false);
    }
}

static status latent_and_free(void)
{
    buf text = { 0 };
    status st = lower_latent(&buckets[0], (attention_choice){ .chip = chip_by_name("v6e") }, DT_BF16, &text);
    buf_free(&text);
    return st;
}

TEST(out_of_memory_is_a_status)
{
    for (op o = 1; o < OP_COUNT; o++)
        if (op_impl_of(o)->build_case) EVERY_ALLOCATION_FAILS(lower_and_free(o));
    EVERY_ALLOCATION_FAILS(latent_and_free());
}

TEST_MAIN
