/* add as StableHLO: the sum in f32, rounded to the activations' type once. A vector is added to each row. */
#include "ops/op.h"

hlo_val add_hlo(hlo_call *c)
{
    hlo *h = c->h;
    hlo_val x = hlo_convert(h, c->in[0], DT_F32), y = hlo_convert(h, c->in[1], DT_F32);
    if (y.rank == 1) y = hlo_broadcast_at(h, y, 1, x);
    return hlo_convert(h, hlo_bin(h, "add", x, y), c->step->act);
}
