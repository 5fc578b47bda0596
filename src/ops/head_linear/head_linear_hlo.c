/* head_linear as StableHLO: x [T, h, a] . w [h, b, a] over a, a batch of heads, summed in f32. Where the types differ both become
 * f32, which loses nothing. */
#include "ops/op.h"

hlo_val head_linear_hlo(hlo_call *c)
{
    hlo *h = c->h;
    hlo_val x = c->in[0], w = c->in[1];
    if (w.rank == 4) w = hlo_row(h, w, c->layer);   /* of all layers */
    if (x.type != w.type) {
        x = hlo_convert(h, x, DT_F32);
        w = hlo_convert(h, w, DT_F32);
    }
    hlo_val y = hlo_dot(h, x, w, HLO_DIMS(1), HLO_DIMS(0), HLO_DIMS(2), HLO_DIMS(2), DT_F32);
    return hlo_convert(h, hlo_transpose(h, y, (int[]){ 1, 0, 2 }), c->step->act);
}
