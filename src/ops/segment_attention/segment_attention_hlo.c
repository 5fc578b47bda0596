/* segment_attention as StableHLO: all pairs of tokens, those of different segments masked; scores and softmax in f32. */
#include "ops/op.h"

hlo_val segment_attention_hlo(hlo_call *c)
{
    hlo *h = c->h;
    const hlo_val q = c->in[0], k = c->in[1], v = c->in[2];
    const int64_t T = q.dim[0], H = q.dim[1], all[] = { H, T, T };
    hlo_val s = hlo_dot(h, q, k, HLO_DIMS(1), HLO_DIMS(1), HLO_DIMS(2), HLO_DIMS(2), DT_F32);      /* [H, T, T] */
    s = hlo_bin_scalar(h, "multiply", s, c->n->a.segment_attention.scale);
    hlo_val seg = hlo_reshape(h, hlo_convert(h, c->in[3], DT_F32), 1, (int64_t[]){ T });
    hlo_val same = hlo_cmp(h, "EQ", hlo_broadcast(h, seg, (int[]){ 1 }, 3, all), hlo_broadcast(h, seg, (int[]){ 2 }, 3, all));
    s = hlo_select(h, same, s, hlo_full_like(h, hlo_float(h, DT_F32, -1e30), s));
    s = hlo_un(h, "exponential", hlo_bin(h, "subtract", s, hlo_broadcast_at(h, hlo_reduce(h, "maximum", s, 2), 0, s)));
    s = hlo_bin(h, "divide", s, hlo_broadcast_at(h, hlo_reduce(h, "add", s, 2), 0, s));
    hlo_val o = hlo_dot(h, hlo_convert(h, s, c->step->act), v, HLO_DIMS(0), HLO_DIMS(1), HLO_DIMS(2), HLO_DIMS(0), DT_F32); /* [H, T, d] */
    return hlo_convert(h, hlo_transpose(h, o, (int[]){ 1, 0, 2 }), c->step->act);
}
