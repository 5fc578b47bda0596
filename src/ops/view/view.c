/* Views: slice of the last dimension, split_heads [T, h*d] -> [T, h, d], merge_heads back. They move no data on the CPU (a row
 * stride is all that changes); the reference copies. */
#include <string.h>

#include "ops/op.h"

/* The axis of columns [from, to) of a mixed dimension: that of the weight parts they come from, if it is one. */
static axis slice_axis(const graph *g, const node *n, int64_t from, int64_t to)
{
    const node *src = graph_node(g, n->in[0]);
    const node *w = src->op == OP_LINEAR ? graph_node(g, src->in[1]) : NULL;
    axis found = AX_NONE;
    int64_t at = 0;
    for (int64_t i = 0; w && w->op == OP_WEIGHT && i < w->a.weight.n_parts; i++) {
        const weight_part *p = &w->a.weight.parts[i];
        int64_t end = at + weight_part_rows(p);
        if (end > from && at < to) {
            if (found != AX_NONE && found != p->out_axis) return AX_MIXED;
            found = p->out_axis;
        }
        at = end;
    }
    return found;
}

static status infer_slice(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0);
    int64_t from = n->a.slice.from, to = n->a.slice.to;
    TRY(op_need_rank(n, "x", x, 2));
    if (from < 0 || to <= from || to > x->dim[1])
        return err_set(ST_INTERNAL, "columns %lld to %lld of %lld", (long long)from, (long long)to, (long long)x->dim[1]);
    *out = *x;
    out->dim[1] = to - from;
    if (x->axes[1] == AX_MIXED) out->axes[1] = slice_axis(g, n, from, to);
    return ST_OK;
}

static void ref_slice(const ref_call *c)
{
    int64_t width = c->in[0].dim[1], part = c->out.dim[1];
    for (int64_t r = 0; r < c->out.dim[0]; r++)
        memcpy(c->out.f + r * part, c->in[0].f + r * width + c->n->a.slice.from, (size_t)part * sizeof(float));
}

static status infer_split(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0);
    int64_t d = n->a.split_heads.head_dim;
    TRY(op_need_rank(n, "x", x, 2));
    if (d < 1 || x->dim[1] % d) return err_set(ST_INTERNAL, "%lld columns are no multiple of head_dim %lld", (long long)x->dim[1], (long long)d);
    *out = (shape){ x->type, 3, { x->dim[0], x->dim[1] / d, d }, { x->axes[0], x->axes[1], AX_HEAD_DIM } };
    return ST_OK;
}

static status infer_merge(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0);
    TRY(op_need_rank(n, "x", x, 3));
    *out = (shape){ x->type, 2, { x->dim[0], x->dim[1] * x->dim[2] }, { x->axes[0], x->axes[1] } };
    return ST_OK;
}

static void ref_same(const ref_call *c) { memcpy(c->out.f, c->in[0].f, (size_t)ref_count(&c->out) * sizeof(float)); }

/* A view must be computed from to be tested: add it to itself. */
static tensor twice(graph *g, tensor t) { return graph_add(g, OP_ADD, (tensor[]){ t, t }, 2, NULL); }

static tensor case_slice(graph *g, int i, dtype type)
{
    (void)type;
    static const struct { int64_t cols, from, to; } cases[] = { { 8, 0, 8 }, { 40, 3, 20 }, { 64, 63, 64 } };
    if (i >= 3) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, cases[i].cols, AX_EMBED);
    return twice(g, graph_add(g, OP_SLICE, &x, 1, &(op_attrs){ .slice = { cases[i].from, cases[i].to } }));
}

static tensor case_split(graph *g, int i, dtype type)
{
    (void)type;
    if (i >= 1) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, 48, AX_HEADS);
    return twice(g, graph_add(g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { 16 } }));
}

static tensor case_merge(graph *g, int i, dtype type)
{
    (void)type;
    if (i >= 1) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, 48, AX_HEADS);
    x = graph_add(g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { 16 } });
    return twice(g, graph_add(g, OP_MERGE_HEADS, &x, 1, NULL));
}

const op_impl op_slice = { .infer = infer_slice, .ref = ref_slice, .hlo = slice_hlo, .build_case = case_slice };
const op_impl op_split_heads = { .infer = infer_split, .ref = ref_same, .hlo = split_heads_hlo, .build_case = case_split };
const op_impl op_merge_heads = { .infer = infer_merge, .ref = ref_same, .hlo = merge_heads_hlo, .build_case = case_merge };
