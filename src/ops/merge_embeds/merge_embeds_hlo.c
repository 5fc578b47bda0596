/* merge_embeds as StableHLO. */
#include "ops/op.h"

hlo_val merge_embeds_hlo(hlo_call *c)
{
    hlo *h = c->h;
    hlo_val x = c->in[0], e = hlo_convert(h, c->in[1], x.type), mask = hlo_reshape(h, c->in[2], 1, (int64_t[]){ x.dim[0] });
    hlo_val taken = hlo_broadcast(h, hlo_cmp_scalar(h, "NE", mask, 0), (int[]){ 0 }, 2, (int64_t[]){ x.dim[0], x.dim[1] });
    return hlo_select(h, taken, e, x);
}
