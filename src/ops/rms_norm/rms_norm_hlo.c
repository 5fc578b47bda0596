/* rms_norm as StableHLO. x / sqrt(mean(x^2) + eps) in f32 is rounded to the activations' type, multiplied by the weight and
 * rounded again: where Hugging Face's LlamaRMSNorm and vLLM's kernel round. (XLA may keep more bits between the two.) With
 * plus_one it is rounded at the end alone, as in Gemma's code. */
#include "ops/op.h"

hlo_val rms_norm_hlo(hlo_call *c)
{
    hlo *h = c->h;
    hlo_val x = hlo_convert(h, c->in[0], DT_F32);
    int last = x.rank - 1;
    hlo_val squares = hlo_reduce(h, "add", hlo_bin(h, "multiply", x, x), last);
    hlo_val mean = hlo_bin_scalar(h, "multiply", squares, 1.0 / (double)x.dim[last]);
    hlo_val inv = hlo_un(h, "rsqrt", hlo_bin_scalar(h, "add", mean, c->n->a.rms_norm.eps));
    hlo_val scaled = hlo_bin(h, "multiply", x, hlo_broadcast_at(h, inv, 0, x));
    if (!op_has_in(c->n, 1)) return hlo_convert(h, scaled, c->step->act);
    hlo_val w = hlo_convert(h, c->in[1], DT_F32);
    if (c->n->a.rms_norm.plus_one) w = hlo_bin_scalar(h, "add", w, 1);
    else scaled = hlo_convert(h, hlo_convert(h, scaled, c->step->act), DT_F32);
    return hlo_convert(h, hlo_bin(h, "multiply", scaled, hlo_broadcast_at(h, w, last, x)), c->step->act);
}
