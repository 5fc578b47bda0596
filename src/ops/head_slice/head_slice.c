/* head_slice(x [T, h, d]) -> [T, h, to - from]: elements [from, to) of each head. A copy, unlike slice, which is a view of whole rows. */
#include <string.h>

#include "ops/op.h"

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0);
    int64_t from = n->a.slice.from, to = n->a.slice.to;
    TRY(op_need_type("x", x, DT_F32));
    TRY(op_need_rank(n, "x", x, 3));
    if (from < 0 || to <= from || to > x->dim[2])
        return err_set(ST_INTERNAL, "elements %lld to %lld of heads of %lld", (long long)from, (long long)to, (long long)x->dim[2]);
    *out = *x;
    out->dim[2] = to - from;
    return ST_OK;
}

static void copy(const node *n, const float *x, int64_t d, float *o)
{
    int64_t from = n->a.slice.from, count = n->a.slice.to - from;
    for (int64_t h = 0; h < n->s.dim[1]; h++) memcpy(o + h * count, x + h * d + from, (size_t)count * sizeof(float));
}

static void ref(const ref_call *c)
{
    int64_t d = c->in[0].dim[2], heads = c->out.dim[1];
    for (int64_t t = 0; t < c->out.dim[0]; t++) copy(c->n, c->in[0].f + t * heads * d, d, c->out.f + t * heads * c->out.dim[2]);
}

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t d = c->in[0].cols / c->n->s.dim[1], from, to;
    while (cpu_take(c, phase, c->out.rows, 1, &from, &to)) copy(c->n, c->in[0].f + from * c->in[0].ld, d, c->out.f + from * c->out.ld);
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    out->activation_bytes += 8 * op_dim(s, n->s.dim[0]) * (double)shape_cols(&n->s);
}

static tensor build_case(graph *g, int i, dtype type)
{
    (void)type;
    static const struct { int64_t heads, d, from, to; } cases[] = { { 1, 4, 0, 3 }, { 3, 24, 16, 24 }, { 2, 20, 3, 4 } };
    if (i >= 3) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, cases[i].heads * cases[i].d, AX_HEADS);
    x = graph_add(g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { cases[i].d } });
    return graph_add(g, OP_HEAD_SLICE, &x, 1, &(op_attrs){ .slice = { cases[i].from, cases[i].to } });
}

const op_impl op_head_slice = { infer, ref, OP_CPU_ALL(cpu), head_slice_hlo, 1, NULL, NULL, cost, build_case };
