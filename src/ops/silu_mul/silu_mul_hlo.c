/* silu_mul as StableHLO: in f32, rounded to the activations' type once. */
#include "ops/op.h"

hlo_val silu_mul_hlo(hlo_call *c)
{
    hlo *h = c->h;
    hlo_val gate = hlo_convert(h, c->in[0], DT_F32), up = hlo_convert(h, c->in[1], DT_F32);
    hlo_val silu = hlo_bin(h, "multiply", gate, hlo_un(h, "logistic", gate));
    return hlo_convert(h, hlo_bin(h, "multiply", silu, up), c->step->act);
}
