/* add(x, y) -> x + y, element by element: the residual connections. y may be a vector as long as x's rows, added to each: the
 * bias of a linear whose product was summed over the ranks first. */
#include "ops/op.h"

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0), *y = op_in(g, n, 1);
    char a[128], b[128];
    TRY(op_need_type("x", x, DT_F32));
    if (y->rank == 1 ? x->rank != 2 || y->dim[0] != x->dim[1] || graph_node(g, n->in[1])->op != OP_WEIGHT : !shape_equal(x, y))
        return err_set(ST_INTERNAL, "%s and %s differ", shape_format(x, a, sizeof a), shape_format(y, b, sizeof b));
    *out = *x;
    return ST_OK;
}

static void ref(const ref_call *c)
{
    int64_t n = ref_count(&c->in[1]);
    for (int64_t i = 0; i < ref_count(&c->out); i++) c->out.f[i] = c->in[0].f[i] + c->in[1].f[c->in[1].rank == 1 ? i % n : i];
}

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t from, to;
    bool vector = c->in[1].cols != c->out.cols || c->in[1].rows != c->out.rows;
    while (cpu_take(c, phase, c->out.rows, 4, &from, &to))
        for (int64_t r = from; r < to; r++) {
            const float *x = c->in[0].f + r * c->in[0].ld, *y = c->in[1].f + (vector ? 0 : r * c->in[1].ld);
            float *restrict o = c->out.f + r * c->out.ld;
            for (int64_t i = 0; i < c->out.cols; i++) o[i] = x[i] + y[i];
        }
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    double count = op_dim(s, n->s.dim[0]) * (double)shape_cols(&n->s);
    out->flops += count;
    out->activation_bytes += 12 * count;
}

static tensor build_case(graph *g, int i, dtype type)
{
    static const int64_t widths[] = { 1, 31, 64, 1, 33 };
    if (i >= 5) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, widths[i], AX_EMBED);
    return graph_add(g, OP_ADD, (tensor[]){ x, i < 3 ? x : case_weight(g, "bias", type, widths[i], 0) }, 2, NULL);
}

const op_impl op_add = { infer, ref, OP_CPU_ALL(cpu), add_hlo, 1, NULL, NULL, cost, build_case };
