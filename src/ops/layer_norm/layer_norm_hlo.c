/* layer_norm as StableHLO: in f32, rounded to the activations' type once. */
#include "ops/op.h"

hlo_val layer_norm_hlo(hlo_call *c)
{
    hlo *h = c->h;
    hlo_val x = hlo_convert(h, c->in[0], DT_F32);
    int last = x.rank - 1;
    double part = 1.0 / (double)x.dim[last];
    hlo_val mean = hlo_bin_scalar(h, "multiply", hlo_reduce(h, "add", x, last), part);
    x = hlo_bin(h, "subtract", x, hlo_broadcast_at(h, mean, 0, x));
    hlo_val var = hlo_bin_scalar(h, "multiply", hlo_reduce(h, "add", hlo_bin(h, "multiply", x, x), last), part);
    hlo_val inv = hlo_un(h, "rsqrt", hlo_bin_scalar(h, "add", var, c->n->a.layer_norm.eps));
    x = hlo_bin(h, "multiply", x, hlo_broadcast_at(h, inv, 0, x));
    x = hlo_bin(h, "multiply", x, hlo_broadcast_at(h, hlo_convert(h, c->in[1], DT_F32), last, x));
    if (op_has_in(c->n, 2)) x = hlo_bin(h, "add", x, hlo_broadcast_at(h, hlo_convert(h, c->in[2], DT_F32), last, x));
    return hlo_convert(h, x, c->step->act);
}
