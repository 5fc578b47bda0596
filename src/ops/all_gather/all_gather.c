/* all_gather(x) dim, size -> the x of the tensor ranks side by side along `dim`, in order of rank, on each of them: dimension n
 * becomes tp * n, TS becomes T. `size` cuts the result to its first columns: where a vocabulary was padded to come out even, the
 * padding is at the end. */
#include <string.h>

#include "ops/op.h"

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0);
    int64_t dim = n->a.all_gather.dim, size = n->a.all_gather.size;
    char text[128];
    TRY(op_need_type("x", x, DT_F32));
    TRY(op_need_ranks(g));
    if (dim < 0 || dim >= x->rank) return err_set(ST_INTERNAL, "dimension %lld of %s", (long long)dim, shape_format(x, text, sizeof text));
    int64_t all = x->dim[dim] == DIM_TS ? DIM_T : x->dim[dim] * graph_mesh(g).tp;
    if (x->dim[dim] < 0 && all != DIM_T)
        return err_set(ST_INTERNAL, "x is %s, expected a number or TS in dimension %lld", shape_format(x, text, sizeof text), (long long)dim);
    if (size < 0 || (size > 0 && size > all))
        return err_set(ST_INTERNAL, "cut to %lld of %s over %d ranks", (long long)size, shape_format(x, text, sizeof text), graph_mesh(g).tp);
    *out = *x;
    out->dim[dim] = size ? size : all;
    return ST_OK;
}

/* Every rank has the same x. */
static void ref(const ref_call *c)
{
    int64_t dim = c->n->a.all_gather.dim, outer = 1, inner = 1, local = c->in[0].dim[dim], all = c->out.dim[dim];
    for (int64_t i = 0; i < dim; i++) outer *= c->out.dim[i];
    for (int64_t i = dim + 1; i < c->out.rank; i++) inner *= c->out.dim[i];
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < all; i++)
            memcpy(c->out.f + (o * all + i) * inner, c->in[0].f + (o * local + i % local) * inner, (size_t)inner * sizeof(float));
}

/* Around the ring once: each rank passes all pieces on but one. */
static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    const shape *x = op_in(g, n, 0);
    double count = op_dim(s, x->dim[0]) * (double)shape_cols(x), tp = graph_mesh(g).tp;
    out->activation_bytes += 4 * count * (tp + 1);
    out->link_bytes += 4 * count * (tp - 1);
}

static tensor build_case(graph *g, int i, dtype type)
{
    (void)type;
    static const struct { int64_t rows, cols, dim, size; } cases[] = {
        { DIM_T, 1, 1, 0 }, { DIM_R, 24, 1, 0 }, { DIM_R, 24, 1, 47 }, { DIM_TS, 17, 0, 0 }, { 6, 16, 0, 0 }, { 6, 16, 0, 11 } };
    if (i >= 6) return NO_TENSOR;
    graph_set_mesh(g, (mesh){ 1, 2, cases[i].rows == DIM_TS, false });
    tensor x = case_input(g, cases[i].rows, cases[i].cols, AX_VOCAB);
    return graph_add(g, OP_ALL_GATHER, &x, 1, &(op_attrs){ .all_gather = { cases[i].dim, cases[i].size } });
}

const op_impl op_all_gather = { .infer = infer, .ref = ref, .hlo = all_gather_hlo, .cost = cost, .build_case = build_case };
