/* concat(x [T, h, a], y [T, h, b]) -> [T, h, a + b]: y's elements behind x's, in each head. */
#include <string.h>

#include "ops/op.h"

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0), *y = op_in(g, n, 1);
    char a[128], b[128];
    TRY(op_need_rank(n, "x", x, 3));
    TRY(op_need_rank(n, "y", y, 3));
    if (x->type != DT_F32 || y->type != DT_F32 || x->dim[0] != y->dim[0] || x->dim[1] != y->dim[1])
        return err_set(ST_INTERNAL, "x is %s, y %s", shape_format(x, a, sizeof a), shape_format(y, b, sizeof b));
    *out = *x;
    out->dim[2] += y->dim[2];
    return ST_OK;
}

static void join(const float *x, int64_t a, const float *y, int64_t b, int64_t heads, float *o)
{
    for (int64_t h = 0; h < heads; h++, o += a + b) {
        memcpy(o, x + h * a, (size_t)a * sizeof(float));
        memcpy(o + a, y + h * b, (size_t)b * sizeof(float));
    }
}

static void ref(const ref_call *c)
{
    int64_t heads = c->out.dim[1], a = c->in[0].dim[2], b = c->in[1].dim[2];
    for (int64_t t = 0; t < c->out.dim[0]; t++)
        join(c->in[0].f + t * heads * a, a, c->in[1].f + t * heads * b, b, heads, c->out.f + t * heads * (a + b));
}

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t heads = c->n->s.dim[1], a = c->in[0].cols / heads, b = c->in[1].cols / heads, from, to;
    while (cpu_take(c, phase, c->out.rows, 1, &from, &to))
        join(c->in[0].f + from * c->in[0].ld, a, c->in[1].f + from * c->in[1].ld, b, heads, c->out.f + from * c->out.ld);
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    out->activation_bytes += 8 * op_dim(s, n->s.dim[0]) * (double)shape_cols(&n->s);
}

static tensor heads_of(graph *g, int64_t heads, int64_t d)
{
    tensor x = case_input(g, DIM_T, heads * d, AX_HEADS);
    return graph_add(g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { d } });
}

static tensor build_case(graph *g, int i, dtype type)
{
    (void)type;
    static const struct { int64_t heads, a, b; } cases[] = { { 1, 4, 2 }, { 3, 16, 8 }, { 2, 5, 64 } };
    if (i >= 3) return NO_TENSOR;
    return graph_add(g, OP_CONCAT, (tensor[]){ heads_of(g, cases[i].heads, cases[i].a), heads_of(g, cases[i].heads, cases[i].b) }, 2, NULL);
}

const op_impl op_concat = { infer, ref, OP_CPU_ALL(cpu), concat_hlo, 1, NULL, NULL, cost, build_case };
