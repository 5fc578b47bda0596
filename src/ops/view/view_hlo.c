/* Views as StableHLO. Compilers make them part of what reads them. */
#include "ops/op.h"

/* x in the shape of the node. */
static hlo_val reshaped(hlo_call *c)
{
    const shape *s = &c->n->s;
    int64_t dim[GRAPH_MAX_RANK];
    for (int i = 0; i < s->rank; i++) dim[i] = hlo_dim(c->step, graph_mesh(c->g), s->dim[i]);
    return hlo_reshape(c->h, c->in[0], s->rank, dim);
}

hlo_val slice_hlo(hlo_call *c) { return hlo_slice(c->h, c->in[0], 1, c->n->a.slice.from, c->n->a.slice.to); }
hlo_val split_heads_hlo(hlo_call *c) { return reshaped(c); }
hlo_val merge_heads_hlo(hlo_call *c) { return reshaped(c); }
