/* add(x, y) -> x + y, element by element; the residual connections. */
#include "ops/op.h"

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0), *y = op_in(g, n, 1);
    char a[128], b[128];
    TRY(op_need_type("x", x, DT_F32));
    if (!shape_equal(x, y))
        return err_set(ST_INTERNAL, "%s and %s differ", shape_format(x, a, sizeof a), shape_format(y, b, sizeof b));
    *out = *x;
    return ST_OK;
}

static void ref(const ref_call *c)
{
    for (int64_t i = 0; i < ref_count(&c->out); i++) c->out.f[i] = c->in[0].f[i] + c->in[1].f[i];
}

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t from, to;
    while (cpu_take(c, phase, c->out.rows, 4, &from, &to))
        for (int64_t r = from; r < to; r++) {
            const float *x = c->in[0].f + r * c->in[0].ld, *y = c->in[1].f + r * c->in[1].ld;
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
    (void)type;
    static const int64_t widths[] = { 1, 31, 64 };
    if (i >= 3) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, widths[i], AX_EMBED);
    return graph_add(g, OP_ADD, (tensor[]){ x, x }, 2, NULL);
}

const op_impl op_add = { infer, ref, OP_CPU_ALL(cpu), 1, NULL, NULL, cost, build_case };
