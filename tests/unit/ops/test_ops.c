/* Every operation x case x weight type x instruction set: the kernels against the reference, on a ragged batch with history.
 * Threads are played one after the other, which the contract of op_cpu_fn allows, so the test is deterministic. */
#include <stdatomic.h>

#include "ops/linear/qgemm.h"
#include "tests/unit/ops/cases.h"

/* ---- the step: three sequences, blocks of `bs` tokens, one sequence over several parts of keys ---- */

enum { T = 26, S = 3, R = 5, SLOTS = 4096 };

static void make_step(case_step *s, int bs)
{
    case_step_make(s, (case_seq[]){ { 603, 1 }, { 5, 5 }, { 40, 20 } }, S, (int32_t[]){ 0, 2, 3, 17, 25 }, R, bs, SLOTS, 0, 1000);
}

/* ---- running one graph on the kernels ---- */

enum { THREADS = 3 };
typedef struct runner {
    const graph *g;
    case_step *step;
    cpu_tensor *t;             /* [n + 1] */
    qgemm_weight **packed;     /* by expert */
    void **own;
    kv_layer kv;
    void *cache;
    op_limits limits;
} runner;

/* Of experts each part starts at a panel of its own. */
static void pack(runner *r, int id, const node *n)
{
    int64_t k = weight_cols(n), rows = weight_rows(n), experts = weight_experts(n), parts = weight_has_experts(n) ? n->a.weight.n_parts : 1;
    int64_t panels = gemm_n_panels(rows / parts);
    size_t bytes = gemm_packed_bytes(n->s.type, panels * parts * GEMM_PANEL, k);
    float *f = mem_array((size_t)(experts * rows * k), sizeof *f);
    case_fill(r->step, n, f);
    char *data = r->own[id] = mem_aligned(64, bytes * (size_t)experts);
    r->packed[id] = mem_array((size_t)experts, sizeof **r->packed);
    for (int64_t e = 0; e < experts; e++) {
        for (int64_t p = 0; p < panels * parts; p++) {
            const void *src[GEMM_PANEL] = { NULL };
            for (int64_t i = 0, at = p % panels * GEMM_PANEL; i < GEMM_PANEL && at + i < rows / parts; i++)
                src[i] = f + (e * rows + p / panels * (rows / parts) + at + i) * k;
            gemm_pack_panel(n->s.type, data + (size_t)e * bytes, k, p, src, DT_F32);
        }
        r->packed[id][e] = (qgemm_weight){ { n->s.type, parts > 1 ? panels * parts * GEMM_PANEL : rows, k, data + (size_t)e * bytes }, QUANT_NONE };
    }
    r->t[id].w = &r->packed[id]->base;
    if (weight_has_experts(n)) r->t[id].experts = r->packed[id];
    mem_free(f);
}

static void place(runner *r, int id)
{
    const batch *b = &r->step->b;
    const node *n = graph_at(r->g, id);
    cpu_tensor *t = &r->t[id];
    *t = (cpu_tensor){ .rows = case_dim(r->step, n->s.dim[0]), .cols = shape_cols(&n->s), .ld = shape_cols(&n->s) + 5, .type = n->s.type };
    if (op_is(n->op, OPF_VIEW)) {
        t->f = r->t[n->in[0].id].f + (n->op == OP_SLICE ? n->a.slice.from : 0);
        t->ld = r->t[n->in[0].id].ld;
    } else if (n->op == OP_INPUT && n->a.input.kind != IN_ACTIVATION) {
        t->i = n->a.input.kind == IN_TOKENS ? b->token_ids : n->a.input.kind == IN_POSITIONS ? b->positions : b->rows;
    } else if (n->op == OP_WEIGHT && n->s.rank == weight_rows_dim(n) + 2) {
        pack(r, id, n);
    } else {
        if (op_is(n->op, OPF_LEAF) && n->s.rank == 1) t->ld = 1;
        if (weight_has_experts(n)) t->ld = t->cols;
        t->f = r->own[id] = mem_calloc((size_t)(t->rows * t->ld), sizeof(float));
        if (!op_is(n->op, OPF_LEAF)) return;
        float *dense = mem_array((size_t)(t->rows * t->cols), sizeof *dense);
        case_fill(r->step, n, dense);
        for (int64_t i = 0; i < t->rows; i++) memcpy(t->f + i * t->ld, dense + i * t->cols, (size_t)t->cols * sizeof(float));
        mem_free(dense);
    }
}

/* Experts that no token goes to have no weights in memory at all; returns the bytes of the others. */
static int64_t hide_idle_experts(runner *r, const node *n)
{
    const cpu_tensor *combine = &r->t[n->in[1].id];
    int64_t bytes = 0;
    for (int w = 2; w < 4; w++)
        for (int64_t e = 0; e < weight_experts(graph_node(r->g, n->in[w])); e++) {
            qgemm_weight *x = &r->packed[n->in[w].id][e];
            bool idle = true;
            for (int64_t t = 0; t < combine->rows; t++) idle = idle && combine->f[t * combine->ld + e] == 0;
            if (idle) x->base.data = NULL;
            else bytes += (int64_t)gemm_packed_bytes(x->base.type, x->base.n, x->base.k);
        }
    return bytes;
}

static void run_node(runner *r, int id, isa set, int threads)
{
    const node *n = graph_at(r->g, id);
    const op_impl *impl = op_impl_of(n->op);
    op_needs need = { 0 };
    _Atomic int64_t counters[OP_COUNTERS] = { 0 };
    r->limits.n_threads = threads;
    if (impl->needs) impl->needs(r->g, n, &r->limits, &need);
    void *state = mem_aligned(64, need.state_bytes + 64), *scratch = mem_aligned(64, need.scratch_bytes + 64);
    memset(state, 0x5A, need.state_bytes + 64);
    memset(scratch, 0xFF, need.scratch_bytes + 64); /* NaN: nothing may depend on it */
    cpu_call c = { .n = n, .isa = set, .out = r->t[id], .b = &r->step->b, .kv = &r->kv, .limits = &r->limits, .state = state, .state_bytes = need.state_bytes,
                   .counters = counters };
    for (int i = 0; i < n->n_in; i++) c.in[i] = r->t[n->in[i].id];
    int64_t needed = n->op == OP_EXPERTS ? hide_idle_experts(r, n) : 0;
    for (int phase = 0; phase < impl->n_phases; phase++) {
        if (impl->skip_phase && phase > 0 && impl->skip_phase(&c, phase)) continue;
        for (int t = 0; t < threads; t++) impl->cpu[set](&c, &(cpu_thread){ t, scratch }, phase);
    }
    CHECK_INT(counters[OP_COUNT_BYTES], needed);
    mem_free(state);
    mem_free(scratch);
}

/* The cache as the kernels lay it out, from the reference's. */
static void make_cache(runner *r, const node *attention, const ref_cache *ref, int64_t heads, int64_t dim)
{
    const batch *b = &r->step->b;
    int bs = r->step->block;
    kv_layer *kv = &r->kv;
    *kv = kv_layer_of(r->g, attention, ref->type, bs);
    size_t bytes = kv->block_bytes * (size_t)(SLOTS / bs);
    r->cache = mem_aligned(64, bytes);
    kv->base = r->cache;
    memset(r->cache, 0xFF, bytes); /* NaN wherever no token is */
    for (int s = 0; s < b->n_seqs; s++)
        for (int pos = 0; pos < b->kv_lens[s] - (b->cu_q_lens[s + 1] - b->cu_q_lens[s]); pos++)
            for (int64_t h = 0; h < heads; h++) {
                int64_t slot = case_slot(r->step, s, pos), at = (slot * heads + h) * dim;
                kv_store(kv, (int32_t)slot, h, ref->k + at, ref->v + at, KV_UNSCALED);
            }
}

/* Runs the case by kernels; out gets dense rows. */
static void run_kernels(const graph *g, case_step *step, dtype kv_type, isa set, int threads, float *out)
{
    size_t n = (size_t)graph_n_nodes(g) + 1;
    runner r = { .g = g, .step = step, .t = mem_calloc(n, sizeof *r.t), .packed = mem_calloc(n, sizeof *r.packed), .own = mem_calloc(n, sizeof *r.own),
                 .limits = { .max_tokens = T, .max_seqs = S, .max_rows = R, .max_model_len = 1024, .block_size = step->block, .kv_dtype = kv_type, .act = kv_type == DT_BF16 ? DT_BF16 : DT_F32 } };
    int64_t heads = 0, dim = 0;
    ref_cache ref = case_cache(g, kv_type, SLOTS, &heads, &dim);
    if (heads) make_cache(&r, case_attention(g), &ref, heads, dim);
    for (int id = 1; id < (int)n; id++) place(&r, id);
    for (int id = 1; id < (int)n; id++)
        if (!op_is(graph_at(g, id)->op, OPF_LEAF | OPF_VIEW)) run_node(&r, id, set, threads);
    const cpu_tensor *t = &r.t[graph_output(g).id];
    for (int64_t i = 0; i < t->rows; i++) memcpy(out + i * t->cols, t->f + i * t->ld, (size_t)t->cols * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        mem_free(r.own[i]);
        mem_free(r.packed[i]);
    }
    mem_free(r.own); mem_free(r.t); mem_free(r.packed); mem_free(r.cache); mem_free(ref.k); mem_free(ref.v);
}

/* Of bfloat16 weights, on sets with an instruction for their products. */
static bool rounds_products(isa set)
{
#if defined(__x86_64__)
    return gemm_dot_of(set) != NULL;
#else
    return (void)set, false;
#endif
}

static void check_case(const graph *g, const char *name, int number, dtype type, int bs, dtype kv_type)
{
    static case_step step;
    make_step(&step, bs);
    int64_t count = case_count(&step, graph_node(g, graph_output(g))), heads, dim;
    double error = 0;
    float *want = mem_calloc((size_t)count, sizeof *want), *got = mem_calloc((size_t)count, sizeof *got), *first = mem_calloc((size_t)count, sizeof *first), *own = mem_calloc((size_t)count, sizeof *own);
    ref_cache cache = case_cache(g, kv_type, SLOTS, &heads, &dim);
    CHECK_OK(ref_run(g, case_fill, &step, &step.b, &cache, bs, want));
    for (isa set = 0; set < ISA_COUNT; set++) {
        if (!isa_available(set)) continue;
        for (int threads = 1; threads <= THREADS; threads += THREADS - 1) {
            run_kernels(g, &step, kv_type, set, threads, got);
            op what = graph_node(g, graph_output(g))->op;
            bool pairs = what == OP_PAGED_ATTENTION && kv_type == DT_BF16 && !graph_node(g, graph_output(g))->a.paged_attention.latent;
            /* another arithmetic: equal to itself with any number of threads */
            bool other = (rounds_products(set) && type == DT_BF16) || (pairs && strstr(isa_name(set), "_bf16"));
            bool inner = other && (what == OP_EXPERTS || pairs);   /* what lies between two products is rounded */
            bool emulated = strstr(isa_name(set), "_emulated") && isa_available(set - 1);      /* after the one that it is to be equal to */
            if (!inner) error = fmax(error, case_error(got, want, count));
            if (inner && case_error(got, want, count) > 1.0 / 128) FAIL("%s case %d %s: off by %g", name, number, isa_name(set), case_error(got, want, count));
            for (int64_t i = 0; i < count && !inner; i++) {
                double tolerance = 2e-4 * (1 + fabs((double)want[i]));
                if (fabs((double)got[i] - (double)want[i]) <= tolerance) continue;
                FAIL("%s case %d weights %s kv %s block %d %s: element %d is %g, wanted %g", name, number, dtype_name(type), dtype_name(kv_type), bs,
                     isa_name(set), (int)i, (double)got[i], (double)want[i]);
                break;
            }
            if ((set == 0 || (other && !emulated)) && threads == 1) memcpy(other ? own : first, got, (size_t)count * sizeof(float));
            else if (memcmp(other ? own : first, got, (size_t)count * sizeof(float)) != 0)
                FAIL("%s case %d: %s with %d threads differs in bits", name, number, isa_name(set), threads);
        }
    }
    case_report(name, "cpu", case_stored(g, type, kv_type), "f32", error, 2e-4);
    mem_free(want); mem_free(got); mem_free(first); mem_free(own); mem_free(cache.k); mem_free(cache.v);
}

static void check_op(op o)
{
    static const dtype types[] = { DT_F32, DT_BF16, DT_F16, DT_F8E4M3, DT_F8E5M2, DT_I8 };
    static const int sizes[] = { 16, 2, 7, 128 };
    const op_impl *impl = op_impl_of(o);
    for (int i = 0; impl->build_case; i++)
        for (int t = 0; t < (o == OP_PAGED_ATTENTION ? 6 : 3); t++) {
            graph *g;
            REQUIRE_OK(graph_new(ops_rules(), &g));
            tensor out = impl->build_case(g, i, o == OP_PAGED_ATTENTION ? DT_F32 : types[t]);
            if (out.id == 0 && t == 0) {
                CHECK(i > 0);
                graph_free(g);
                return;
            }
            REQUIRE_OK(graph_finish(g, out));
            if (o != OP_PAGED_ATTENTION) check_case(g, op_name(o), i, types[t], 16, DT_F32);
            else for (int s = 0; s < 4; s++) check_case(g, op_name(o), i, DT_F32, sizes[s], types[t]);
            graph_free(g);
        }
}

TEST(every_op_is_complete)
{
    for (op o = 1; o < OP_COUNT; o++) {
        const op_impl *impl = op_impl_of(o);
        CHECK(impl->infer);
        if (op_is(o, OPF_LEAF)) continue;
        CHECK(impl->ref && impl->build_case);
        if (op_is(o, OPF_VIEW)) continue;
        CHECK(impl->cost);
        if (op_is(o, OPF_COLLECTIVE)) continue; /* one process has no one to talk to; test_partition.c has their references */
        CHECK( impl->n_phases >= 1 && impl->n_phases <= OP_MAX_PHASES);
        for (isa i = 0; i < ISA_COUNT; i++) CHECK(impl->cpu[i]);
    }
}

#define OP(up, low, lo, hi, fl, ...) TEST(op_##low) { if (!op_is(OP_##up, OPF_COLLECTIVE)) check_op(OP_##up); }
#include "graph/ops.def"
#undef OP

/* Which of a token's three positions each frequency follows, by the sections of two models: 2 + 3 + 3 in a row; 4 + 2 + 2 taking turns. */
TEST(frequencies_follow_time_height_and_width)
{
    static const float freq[8] = { 1, 1, 1, 1, 1, 1, 1, 1 }, scale = 1;
    static const struct { int64_t height, width, interleaved; int stream[8]; } cases[] = {
        { 3, 3, 0, { 0, 0, 1, 1, 1, 2, 2, 2 } }, { 2, 2, 1, { 0, 1, 2, 0, 1, 2, 0, 0 } }, { 0, 0, 0, { 0 } } };
    for (int k = 0; k < 3; k++) {
        static case_step step;
        int32_t three[3 * CASE_TOKENS];
        float want[CASE_TOKENS * 16], got[CASE_TOKENS * 16];
        graph *g;
        make_step(&step, 16);
        for (int i = 0; i < T; i++)
            for (int s = 0; s < 3; s++) three[3 * i + s] = step.positions[i] + 5 * s;
        step.b.positions3 = three;
        REQUIRE_OK(graph_new(ops_rules(), &g));
        tensor pos = case_ints(g, IN_POSITIONS);
        op_attrs a = { .rope_table = { { 1, &scale }, { 8, freq }, cases[k].height, cases[k].width, cases[k].interleaved } };
        REQUIRE_OK(graph_finish(g, graph_add(g, OP_ROPE_TABLE, &pos, 1, &a)));
        CHECK_OK(ref_run(g, case_fill, &step, &step.b, NULL, 16, want));
        run_kernels(g, &step, DT_F32, ISA_portable, 1, got);
        for (int i = 0; i < T * 16; i++) {
            int at = step.positions[i / 16] + 5 * cases[k].stream[i % 8];
            CHECK_NEAR(want[i], i % 16 < 8 ? cos(at) : sin(at), 1e-6);
            CHECK_NEAR(got[i], want[i], 0);
        }
        graph_free(g);
    }
}

/* Tokens of an image see its later tokens too (batch.see): in every kernel as in the reference, and it makes a difference. */
TEST(tokens_of_an_image_see_all_of_it)
{
    static case_step step;
    int32_t see[CASE_TOKENS] = { 0 };
    graph *g;
    int64_t heads, dim;
    make_step(&step, 16);
    for (int t = 2; t < 5; t++) see[t] = 4;      /* positions 1 .. 3 of the second sequence */
    for (int t = 10; t < 16; t++) see[t] = 30;   /* positions 24 .. 29 of the third */
    REQUIRE_OK(graph_new(ops_rules(), &g));
    REQUIRE_OK(graph_finish(g, op_impl_of(OP_PAGED_ATTENTION)->build_case(g, 0, DT_F32)));
    const int64_t count = case_count(&step, graph_node(g, graph_output(g))), cols = count / T;
    float *plain = mem_calloc((size_t)count, sizeof *plain), *want = mem_calloc((size_t)count, sizeof *want), *got = mem_calloc((size_t)count, sizeof *got);
    ref_cache cache = case_cache(g, DT_F32, SLOTS, &heads, &dim);
    CHECK_OK(ref_run(g, case_fill, &step, &step.b, &cache, 16, plain));
    step.b.see = see;
    CHECK_OK(ref_run(g, case_fill, &step, &step.b, &cache, 16, want));
    CHECK(memcmp(plain + 2 * cols, want + 2 * cols, (size_t)cols * sizeof *want) != 0);  /* the first of an image sees more, */
    CHECK(memcmp(plain + 4 * cols, want + 4 * cols, (size_t)cols * sizeof *want) == 0);  /* its last no more, */
    CHECK(memcmp(plain + 5 * cols, want + 5 * cols, (size_t)cols * sizeof *want) == 0);  /* and text what came before */
    for (isa set = 0; set < ISA_COUNT; set++) {
        if (!isa_available(set)) continue;
        run_kernels(g, &step, DT_F32, set, 2, got);
        CHECK(case_error(got, want, count) < 2e-5);
    }
    mem_free(plain); mem_free(want); mem_free(got); mem_free(cache.k); mem_free(cache.v);
    graph_free(g);
}

TEST(costs_add_up)
{
    graph *g;
    op_cost c = { 0 };
    REQUIRE_OK(graph_new(ops_rules(), &g));
    tensor x = case_input(g, DIM_T, 64, AX_EMBED);
    tensor y = graph_add(g, OP_LINEAR, (tensor[]){ x, case_weight(g, "w", DT_BF16, 32, 64) }, 2, NULL);
    op_impl_of(OP_LINEAR)->cost(g, graph_node(g, y), &(op_sizes){ .tokens = 10 }, &c);
    CHECK_NEAR(c.flops, 2.0 * 10 * 64 * 32, 0);
    CHECK_NEAR(c.weight_bytes, 64 * 32 * 2, 0);
    CHECK_NEAR(c.activation_bytes, 4 * 10 * (64 + 32), 0);
    graph_free(g);
}

TEST(isa_names)
{
    isa i;
    CHECK_OK(isa_parse("portable", &i));
    CHECK_INT(i, ISA_portable);
    CHECK_OK(isa_parse(NULL, &i));
    CHECK_INT(i, isa_best());
    CHECK_ERR(isa_parse("mmx", &i), ST_INVALID, "portable");
}

TEST_MAIN
