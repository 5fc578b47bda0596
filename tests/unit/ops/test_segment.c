/* segment_attention at the sizes of real towers: heads of 64 to 128, windows and whole images, segments that lie together and that do not, by every kernel
 * against the reference; a segment's result must not depend on what lies beside it. (test_ops.c has the short cases.) */
#include <stdatomic.h>

#include "tests/unit/ops/cases.h"

enum { HEADS = 2, MOST = 1100, THREADS = 3 };

typedef struct input { int64_t T, d; float *q, *k, *v, *seg; } input;

static input make_input(int64_t T, int64_t d)
{
    input x = { T, d, NULL, NULL, NULL, mem_array((size_t)T, sizeof *x.seg) };
    float **all[] = { &x.q, &x.k, &x.v };
    for (uint32_t a = 0; a < 3; a++) {
        *all[a] = mem_array((size_t)(T * HEADS * d), sizeof(float));
        for (int64_t i = 0; i < T * HEADS * d; i++) (*all[a])[i] = case_value(a + 1, (uint32_t)i);
    }
    return x;
}

static void free_input(input *x)
{
    mem_free(x->q);
    mem_free(x->k);
    mem_free(x->v);
    mem_free(x->seg);
}

static graph *make_graph(int64_t d)
{
    graph *g;
    tensor in[4];
    if (graph_new(ops_rules(), &g) != ST_OK) return NULL;
    for (int k = 0; k < 3; k++) {
        in[k] = case_input(g, DIM_T, HEADS * d, AX_HEADS);
        in[k] = graph_add(g, OP_SPLIT_HEADS, &in[k], 1, &(op_attrs){ .split_heads = { d } });
    }
    in[3] = case_input(g, DIM_T, 1, AX_NONE);
    tensor out = graph_add(g, OP_SEGMENT_ATTENTION, in, 4, &(op_attrs){ .segment_attention = { 1 / sqrt((double)d) } });
    if (graph_finish(g, out) == ST_OK) return g;
    graph_free(g);
    return NULL;
}

static void run(const graph *g, const input *x, isa set, int threads, dtype act, float *out)
{
    const node *n = graph_node(g, graph_output(g));
    const op_impl *impl = op_impl_of(n->op);
    const op_limits l = { .max_tokens = (int)x->T, .max_seqs = 1, .max_rows = 1, .n_threads = threads, .act = act };
    _Atomic int64_t counters[OP_COUNTERS] = { 0 };
    op_needs need = { 0 };
    impl->needs(g, n, &l, &need);
    void *state = mem_aligned(64, need.state_bytes + 64), *scratch = mem_aligned(64, need.scratch_bytes + 64);
    memset(state, 0x5A, need.state_bytes + 64);
    memset(scratch, 0xFF, need.scratch_bytes + 64); /* NaN: nothing may depend on it */
    const int64_t ld = HEADS * x->d;
    const cpu_call c = { .n = n, .isa = set, .limits = &l, .state = state, .state_bytes = need.state_bytes, .counters = counters, .out = { .f = out, .rows = x->T, .cols = ld, .ld = ld },
                         .in = { { .f = x->q, .rows = x->T, .cols = ld, .ld = ld }, { .f = x->k, .rows = x->T, .cols = ld, .ld = ld }, { .f = x->v, .rows = x->T, .cols = ld, .ld = ld },
                                 { .f = x->seg, .rows = x->T, .cols = 1, .ld = 1 } } };
    for (int phase = 0; phase < impl->n_phases; phase++)
        for (int t = 0; t < threads; t++) impl->cpu[set](&c, &(cpu_thread){ t, scratch }, phase);
    mem_free(state);
    mem_free(scratch);
}

static void reference(const graph *g, const input *x, float *out)
{
    const node *n = graph_node(g, graph_output(g));
    const int64_t T = x->T, d = x->d;
    op_impl_of(n->op)->ref(&(ref_call){ .n = n, .tp = 1, .out = { .rank = 3, .dim = { T, HEADS, d }, .f = out },
                                        .in = { { .rank = 3, .dim = { T, HEADS, d }, .f = x->q }, { .rank = 3, .dim = { T, HEADS, d }, .f = x->k },
                                                { .rank = 3, .dim = { T, HEADS, d }, .f = x->v }, { .rank = 2, .dim = { T, 1 }, .f = x->seg } } });
}

/* All kernels: right, and families of instruction sets and any number of threads the same bits. */
static void check(const input *x, const char *what)
{
    const int64_t count = x->T * HEADS * x->d;
    float *want = mem_array((size_t)count, sizeof *want), *got = mem_array((size_t)count, sizeof *got), *first = mem_array((size_t)count, sizeof *first);
    graph *g = make_graph(x->d);
    REQUIRE(g);
    reference(g, x, want);
    for (int act = 0; act < 2; act++)
        for (isa set = 0; set < ISA_COUNT; set++) {
            const bool pairs = act && strstr(isa_name(set), "_bf16"); /* queries, keys, values and weights are rounded */
            if (!isa_available(set) || (act && !pairs)) continue;
            for (int threads = 1; threads <= THREADS; threads += THREADS - 1) {
                run(g, x, set, threads, act ? DT_BF16 : DT_F32, got);
                const double error = case_error(got, want, count);
                if (!(error <= (pairs ? 1.0 / 64 : 1e-5))) FAIL("%s, head %d, %s: off by %g", what, (int)x->d, isa_name(set), error);
                if (threads == 1 && (set == 0 || pairs)) memcpy(first, got, (size_t)count * sizeof *got);
                else if (memcmp(first, got, (size_t)count * sizeof *got) != 0) FAIL("%s, head %d, %s: %d threads differ in bits", what, (int)x->d, isa_name(set), threads);
            }
        }
    graph_free(g);
    mem_free(want);
    mem_free(got);
    mem_free(first);
}

static const int64_t dims[] = { 64, 72, 80, 88, 128, 5 };

TEST(whole_images)
{
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        input x = make_input(i ? 530 : MOST, dims[i]);
        for (int64_t t = 0; t < x.T; t++) x.seg[t] = 0;
        check(&x, "one segment");
        free_input(&x);
    }
}

TEST(windows)
{
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        input x = make_input(610, dims[i]);
        for (int64_t t = 0; t < x.T; t++) x.seg[t] = (float)(t / 64 + (t > 600)); /* the last ones are short */
        check(&x, "windows");
        free_input(&x);
    }
}

TEST(segments_that_do_not_lie_together)
{
    input x = make_input(500, 80);
    for (int64_t t = 0; t < x.T; t++) x.seg[t] = (float)((t * 7 + t / 11) % 3) - 1;
    check(&x, "mixed segments");
    free_input(&x);
}

/* What a segment sees are its own tokens: the others' values, and where it lies among them, change no bit. */
TEST(segments_do_not_feel_each_other)
{
    enum { OWN = 300, BEFORE = 77 };
    graph *g = make_graph(80);
    input all = make_input(OWN + BEFORE + 9, 80), alone = make_input(OWN, 80);
    const int64_t ld = HEADS * 80;
    float *a = mem_array((size_t)(all.T * ld), sizeof *a), *b = mem_array((size_t)(OWN * ld), sizeof *b);
    REQUIRE(g);
    for (int64_t t = 0; t < all.T; t++) all.seg[t] = t < BEFORE ? 0 : t < BEFORE + OWN ? 1 : 2;
    for (int64_t t = 0; t < OWN; t++) alone.seg[t] = 5;
    memcpy(alone.q, all.q + BEFORE * ld, OWN * (size_t)ld * sizeof *a);
    memcpy(alone.k, all.k + BEFORE * ld, OWN * (size_t)ld * sizeof *a);
    memcpy(alone.v, all.v + BEFORE * ld, OWN * (size_t)ld * sizeof *a);
    for (int64_t i = 0; i < BEFORE * ld; i++) all.v[i] = NAN;
    run(g, &all, ISA_portable, 2, DT_F32, a);
    run(g, &alone, ISA_portable, 1, DT_F32, b);
    CHECK(memcmp(a + BEFORE * ld, b, OWN * (size_t)ld * sizeof *a) == 0);
    mem_free(a);
    mem_free(b);
    free_input(&all);
    free_input(&alone);
    graph_free(g);
}
TEST_MAIN
