/* gather_rows(x [T, ...], rows [R] i32) -> [R, ...] */
#include <string.h>

#include "ops/op.h"

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0), *rows = op_in(g, n, 1);
    TRY(op_need_type("x", x, DT_F32));
    TRY(op_need_type("rows", rows, DT_I32));
    TRY(op_need_rank(n, "rows", rows, 1));
    *out = *x;
    out->dim[0] = rows->dim[0];
    out->axes[0] = rows->axes[0];
    return ST_OK;
}

static void ref(const ref_call *c)
{
    int64_t width = ref_count(&c->in[0]) / c->in[0].dim[0];
    for (int64_t r = 0; r < c->out.dim[0]; r++)
        for (int64_t i = 0; i < width; i++) c->out.f[r * width + i] = c->in[0].f[c->in[1].i[r] * width + i];
}

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t from, to;
    while (cpu_take(c, phase, c->out.rows, 16, &from, &to))
        for (int64_t r = from; r < to; r++)
            memcpy(c->out.f + r * c->out.ld, c->in[0].f + c->in[1].i[r] * c->in[0].ld, (size_t)c->out.cols * sizeof(float));
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    out->activation_bytes += 8 * op_dim(s, n->s.dim[0]) * (double)shape_cols(&n->s);
}

static tensor build_case(graph *g, int i, dtype type)
{
    (void)type;
    static const int64_t widths[] = { 1, 17, 64 };
    if (i >= 3) return NO_TENSOR;
    tensor in[] = { case_input(g, DIM_T, widths[i], AX_EMBED), case_ints(g, IN_ROWS) };
    return graph_add(g, OP_GATHER_ROWS, in, 2, NULL);
}

const op_impl op_gather_rows = { infer, ref, OP_CPU_ALL(cpu), gather_rows_hlo, 1, NULL, NULL, cost, build_case };
