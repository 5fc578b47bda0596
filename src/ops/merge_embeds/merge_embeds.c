/* merge_embeds(x [T, d], e [T, d], mask [T, 1]) -> rows of e where the mask is not 0, else of x: the encoders' outputs take the places of
 * the placeholder tokens' embeddings. */
#include <string.h>

#include "ops/op.h"

static status infer(const graph *g, const node *n, shape *out)
{
    char a[128], b[128];
    const shape *x = op_in(g, n, 0), *e = op_in(g, n, 1), *m = op_in(g, n, 2);
    TRY(op_need_rank(n, "x", x, 2));
    TRY(op_need_rank(n, "the rows", e, 2));
    TRY(op_need_rank(n, "the mask", m, 2));
    if (x->dim[0] != e->dim[0] || x->dim[1] != e->dim[1] || m->dim[0] != x->dim[0] || m->dim[1] != 1)
        return err_set(ST_INTERNAL, "x is %s, the rows %s", shape_format(x, a, sizeof a), shape_format(e, b, sizeof b));
    *out = *x;
    return ST_OK;
}

static void ref(const ref_call *c)
{
    const int64_t d = c->out.dim[1];
    for (int64_t i = 0; i < c->out.dim[0] * d; i++) c->out.f[i] = c->in[c->in[2].f[i / d] != 0].f[i];
}

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t from, to;
    while (cpu_take(c, phase, c->out.rows, 1, &from, &to)) {
        const cpu_tensor *src = &c->in[c->in[2].f[from * c->in[2].ld] != 0];
        memcpy(c->out.f + from * c->out.ld, src->f + from * src->ld, (size_t)c->out.cols * sizeof(float));
    }
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    out->activation_bytes += 8 * op_dim(s, n->s.dim[0]) * (double)shape_cols(&n->s);
}

static tensor build_case(graph *g, int i, dtype type)
{
    (void)type;
    if (i >= 2) return NO_TENSOR;
    tensor in[] = { case_input(g, DIM_T, i ? 60 : 7, AX_EMBED), case_input(g, DIM_T, i ? 60 : 7, AX_EMBED), case_input(g, DIM_T, 1, AX_NONE) };
    in[0] = graph_add(g, OP_SCALE, in, 1, &(op_attrs){ .scale = { 3 } }); /* test inputs of one shape hold the same values */
    return graph_add(g, OP_MERGE_EMBEDS, in, 3, NULL);
}

const op_impl op_merge_embeds = { infer, ref, OP_CPU_ALL(cpu), merge_embeds_hlo, 1, NULL, NULL, cost, build_case };
