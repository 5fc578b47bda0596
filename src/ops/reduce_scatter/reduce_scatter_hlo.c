/* reduce_scatter as StableHLO: the sum in the type that comes in, which is what crosses the links. */
#include "ops/op.h"

hlo_val reduce_scatter_hlo(hlo_call *c) { return hlo_reduce_scatter(c->h, c->in[0], (int)c->n->a.reduce_scatter.dim); }
