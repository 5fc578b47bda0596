/* head_slice as StableHLO. */
#include "ops/op.h"

hlo_val head_slice_hlo(hlo_call *c) { return hlo_slice(c->h, c->in[0], 2, c->n->a.slice.from, c->n->a.slice.to); }
