/* all_gather as StableHLO, without the padding at the end. */
#include "ops/op.h"

hlo_val all_gather_hlo(hlo_call *c)
{
    int along = (int)c->n->a.all_gather.dim;
    int64_t size = c->n->a.all_gather.size;
    hlo_val all = hlo_all_gather(c->h, c->in[0], along);
    return size ? hlo_slice(c->h, all, along, 0, size) : all;
}
