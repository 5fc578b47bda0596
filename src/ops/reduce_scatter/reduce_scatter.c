/* reduce_scatter(x [T, ...]) dim=0 -> [TS, ...]: the sum of x over the tensor ranks, of which rank r gets the r-th run of T / tp
 * tokens. all_gather along dimension 0 puts them together again. */
#include "ops/op.h"

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0);
    char text[128];
    TRY(op_need_type("x", x, DT_F32));
    TRY(op_need_ranks(g));
    if (n->a.reduce_scatter.dim != 0 || x->dim[0] != DIM_T)
        return err_set(ST_INTERNAL, "dimension %lld of %s, expected the first, tokens", (long long)n->a.reduce_scatter.dim, shape_format(x, text, sizeof text));
    *out = *x;
    out->dim[0] = DIM_TS;
    return ST_OK;
}

/* Every rank has the same x; the reference is rank 0. */
static void ref(const ref_call *c)
{
    for (int64_t i = 0; i < ref_count(&c->out); i++) c->out.f[i] = (float)c->tp * c->in[0].f[i];
}

/* Around the ring once: each rank passes all partial sums on but one. */
static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    const shape *x = op_in(g, n, 0);
    double count = op_dim(s, x->dim[0]) * (double)shape_cols(x), tp = graph_mesh(g).tp;
    out->flops += count * (tp - 1) / tp;
    out->activation_bytes += 4 * count * (1 + 1 / tp);
    out->link_bytes += (tp - 1) / tp * 4 * count;
}

static tensor build_case(graph *g, int i, dtype type)
{
    (void)type;
    static const int64_t widths[] = { 1, 33, 64 };
    if (i >= 3) return NO_TENSOR;
    graph_set_mesh(g, (mesh){ 1, 2, true, false });
    tensor x = case_input(g, DIM_T, widths[i], AX_EMBED);
    return graph_add(g, OP_REDUCE_SCATTER, &x, 1, &(op_attrs){ .reduce_scatter = { 0 } });
}

const op_impl op_reduce_scatter = { .infer = infer, .ref = ref, .hlo = reduce_scatter_hlo, .cost = cost, .build_case = build_case };
