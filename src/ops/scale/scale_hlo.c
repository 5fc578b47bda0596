/* scale and scale_by_position as StableHLO: in f32, rounded to the activations' type once. */
#include "ops/op.h"

hlo_val scale_hlo(hlo_call *c)
{
    hlo_val x = hlo_convert(c->h, c->in[0], DT_F32);
    return hlo_convert(c->h, hlo_bin_scalar(c->h, "multiply", x, c->n->a.scale.factor), c->step->act);
}

hlo_val scale_by_position_hlo(hlo_call *c)
{
    hlo *h = c->h;
    hlo_val x = hlo_convert(h, c->in[0], DT_F32), next = hlo_bin_scalar(h, "add", hlo_convert(h, c->in[1], DT_F32), 1);
    /* divided, not multiplied by the inverse: at multiples of floor the quotient must be a whole number */
    hlo_val floors = hlo_full_like(h, hlo_float(h, DT_F32, c->n->a.scale_by_position.floor), next);
    hlo_val steps = hlo_un(h, "floor", hlo_bin(h, "divide", next, floors));
    hlo_val factor = hlo_un(h, "log", hlo_bin_scalar(h, "add", steps, 1));
    factor = hlo_bin_scalar(h, "add", hlo_bin_scalar(h, "multiply", factor, c->n->a.scale_by_position.scale), 1);
    return hlo_convert(h, hlo_bin(h, "multiply", x, hlo_broadcast_at(h, factor, 0, x)), c->step->act);
}
