/* rope_table and rope as StableHLO. The table stays f32 and rope computes with it in f32, whatever the activations' type.
 *
 * Angles grow with the position, and how well a chip's cosine does far from zero is nobody's promise. So whole turns are taken
 * off first (Cody & Waite 1980): angle - k * 2pi, with 2pi as three constants, of which the first two have 12 bits, and k as two
 * numbers of 11 bits, so that every product that matters is exact, fused with its difference or not. Good to angles of 2^24. */
#include "ops/op.h"
#include "ops/rope/rope.h"

enum { HLO_MAX_HALF = 2048 };               /* head_dim is at most 4096 */
#define TURN_HIGH 6.283203125               /* 12 bits each; */
#define TURN_MIDDLE (-1.7814338207244873e-05)
#define TURN_LOW (-3.4822062782016664e-09)  /* what is missing from 2pi */

/* The angle as exactly the f32 that it is. A compiler that may fuse a product with the difference after it would leave out the
 * rounding of position * frequency, which the reference has; it does not see through this. */
static hlo_val pinned(hlo *h, hlo_val angle)
{
    hlo_val bits = hlo_bitcast(h, angle, DT_I32);
    hlo_val mantissa = hlo_bin_scalar(h, "or", hlo_bin_scalar(h, "and", bits, 0x7FFFFF), 0x800000);
    hlo_val exponent = hlo_bin_scalar(h, "and", bits, 0x7F800000);
    hlo_val unit = hlo_bin_scalar(h, "maximum", hlo_bin_scalar(h, "subtract", exponent, 23 << 23), 0);
    hlo_val size = hlo_bin(h, "multiply", hlo_convert(h, mantissa, DT_F32), hlo_bitcast(h, unit, DT_F32));
    return hlo_select(h, hlo_cmp_scalar(h, "LT", angle, 0), hlo_un(h, "negate", size), size);
}

static hlo_val take_off(hlo *h, hlo_val angle, hlo_val turns, double turn)
{
    return hlo_bin(h, "subtract", angle, hlo_bin_scalar(h, "multiply", turns, turn));
}

/* The same angle between -pi and pi. */
static hlo_val reduced(hlo *h, hlo_val angle)
{
    angle = pinned(h, angle);
    hlo_val turns = hlo_un(h, "round_nearest_even", hlo_bin_scalar(h, "multiply", angle, 0.15915494309189535));
    hlo_val high = hlo_un(h, "floor", hlo_bin_scalar(h, "multiply", turns, 1.0 / 2048));
    hlo_val low = take_off(h, turns, high, 2048);
    angle = take_off(h, angle, high, 2048 * TURN_HIGH);
    angle = take_off(h, angle, low, TURN_HIGH);
    angle = take_off(h, angle, high, 2048 * TURN_MIDDLE);
    angle = take_off(h, angle, low, TURN_MIDDLE);
    return take_off(h, angle, turns, TURN_LOW);
}

/* Row `variant` of a table of constants [variants, ...] for each token. */
static hlo_val by_variant(hlo_call *c, const float *v, int64_t variants, int64_t half)
{
    hlo *h = c->h;
    int64_t dim[] = { c->in[0].dim[0], half };
    int rank = half ? 2 : 1;
    if (variants == 1) return hlo_broadcast(h, hlo_floats(h, v, rank - 1, &half), (int[]){ 1 }, rank, dim);
    /* One that does not exist is the first, as in the reference. */
    hlo_val at = c->step->rope_variant, zero = hlo_full_like(h, hlo_int(h, DT_I32, 0), at);
    hlo_val known = hlo_bin(h, "and", hlo_cmp_scalar(h, "GE", at, 0), hlo_cmp_scalar(h, "LT", at, (double)variants));
    return hlo_take(h, hlo_floats(h, v, rank, (int64_t[]){ variants, half }), hlo_select(h, known, at, zero));
}

/* f32 [T, half]: the position that each frequency of a token follows. */
static hlo_val positions_of(hlo_call *c, hlo_val freqs)
{
    hlo *h = c->h;
    bool three = hlo_is(c->step->positions3) && c->n->a.rope_table.height + c->n->a.rope_table.width > 0;
    hlo_val p = hlo_broadcast_at(h, hlo_convert(h, c->in[0], DT_F32), 0, freqs);
    for (int s = 0; three && s < 3; s++) {
        hlo_val own = hlo_slice(h, c->step->positions3, 1, s, s + 1);
        own = hlo_broadcast_at(h, hlo_convert(h, hlo_reshape(h, own, 1, own.dim), DT_F32), 0, freqs);
        float mask[HLO_MAX_HALF];
        if (freqs.dim[1] > HLO_MAX_HALF) {
            hlo_fail(h, "%lld rope frequencies, expected at most %d", (long long)freqs.dim[1], HLO_MAX_HALF);
            return p;
        }
        for (int64_t i = 0; i < freqs.dim[1]; i++) mask[i] = rope_stream(c->n, i) == s;
        hlo_val is = hlo_cmp_scalar(h, "NE", hlo_broadcast_at(h, hlo_floats(h, mask, 1, &freqs.dim[1]), 1, freqs), 0);
        p = hlo_select(h, is, own, p);
    }
    return p;
}

hlo_val rope_table_hlo(hlo_call *c)
{
    hlo *h = c->h;
    floats freq = c->n->a.rope_table.inv_freq, scale = c->n->a.rope_table.scale;
    hlo_val freqs = by_variant(c, freq.v, scale.n, freq.n / scale.n);
    hlo_val pos = positions_of(c, freqs);
    hlo_val angle = reduced(h, hlo_bin(h, "multiply", pos, freqs));
    hlo_val table = hlo_concat(h, (hlo_val[]){ hlo_un(h, "cosine", angle), hlo_un(h, "sine", angle) }, 2, 1);
    return hlo_bin(h, "multiply", table, hlo_broadcast_at(h, by_variant(c, scale.v, scale.n, 0), 0, table));
}

hlo_val rope_hlo(hlo_call *c)
{
    hlo *h = c->h;
    hlo_val x = hlo_convert(h, c->in[0], DT_F32), table = c->in[1], part[3];
    int64_t half = table.dim[1] / 2, d = x.dim[2], dim[] = { x.dim[0], x.dim[1], half };
    hlo_val cosine = hlo_broadcast(h, hlo_slice(h, table, 1, 0, half), (int[]){ 0, 2 }, 3, dim);
    hlo_val sine = hlo_broadcast(h, hlo_slice(h, table, 1, half, 2 * half), (int[]){ 0, 2 }, 3, dim);
    bool inter = c->n->a.rope.interleaved;
    hlo_val pairs = inter ? hlo_reshape(h, hlo_slice(h, x, 2, 0, 2 * half), 4, (int64_t[]){ x.dim[0], x.dim[1], half, 2 }) : x;
    hlo_val a = inter ? hlo_reshape(h, hlo_slice(h, pairs, 3, 0, 1), 3, dim) : hlo_slice(h, x, 2, 0, half);
    hlo_val b = inter ? hlo_reshape(h, hlo_slice(h, pairs, 3, 1, 2), 3, dim) : hlo_slice(h, x, 2, half, 2 * half);
    part[0] = hlo_bin(h, "subtract", hlo_bin(h, "multiply", a, cosine), hlo_bin(h, "multiply", b, sine));
    part[1] = hlo_bin(h, "add", hlo_bin(h, "multiply", b, cosine), hlo_bin(h, "multiply", a, sine));
    if (inter) {
        int64_t one[] = { x.dim[0], x.dim[1], half, 1 }, both[] = { x.dim[0], x.dim[1], 2 * half };
        for (int i = 0; i < 2; i++) part[i] = hlo_reshape(h, part[i], 4, one);
        part[0] = hlo_reshape(h, hlo_concat(h, part, 2, 3), 3, both);
    }
    bool rest = d > 2 * half;
    int n_parts = inter ? 1 : 2;
    if (rest) part[n_parts++] = hlo_slice(h, x, 2, 2 * half, d);
    return hlo_convert(h, n_parts > 1 ? hlo_concat(h, part, n_parts, 2) : part[0], c->step->act);
}
