/* all_reduce(x) -> the sum of x over the tensor ranks, on each of them. The ranks of one data rank talk to each other only. */
#include "ops/op.h"

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0);
    TRY(op_need_type("x", x, DT_F32));
    TRY(op_need_ranks(g));
    *out = *x;
    return ST_OK;
}

static void ref(const ref_call *c)
{
    for (int64_t i = 0; i < ref_count(&c->out); i++) c->out.f[i] = (float)c->tp * c->in[0].f[i]; /* every rank has the same x */
}

/* Around the ring twice: partial sums, then the results, each in pieces of 1/tp. */
static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    double count = op_dim(s, n->s.dim[0]) * (double)shape_cols(&n->s), tp = graph_mesh(g).tp;
    out->flops += count * (tp - 1) / tp;
    out->activation_bytes += 8 * count;
    out->link_bytes += 2 * (tp - 1) / tp * 4 * count;
}

static tensor build_case(graph *g, int i, dtype type)
{
    (void)type;
    static const struct { int64_t rows, cols; } cases[] = { { DIM_T, 1 }, { DIM_T, 48 }, { DIM_R, 33 } };
    if (i >= 3) return NO_TENSOR;
    graph_set_mesh(g, (mesh){ 1, 2, false, false });
    tensor x = case_input(g, cases[i].rows, cases[i].cols, AX_EMBED);
    return graph_add(g, OP_ALL_REDUCE, &x, 1, NULL);
}

const op_impl op_all_reduce = { .infer = infer, .ref = ref, .hlo = all_reduce_hlo, .cost = cost, .build_case = build_case };
