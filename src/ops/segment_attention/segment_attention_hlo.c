/* segment_attention as StableHLO, tile of queries by tile of queries, block of keys by block of keys, with a running maximum and sum (Milakov and
 * Gimelshein 2018, arXiv:1805.02867): temporaries are one tile by one block, whatever the number of tokens. Scores, softmax and sums are f32.
 *
 * Which blocks a tile reads follows from the least and greatest numbers in both: segments lie together and in order, so a tile of windows reads the
 * blocks with these windows and no more; in any other order it reads more than it must, which is as right. Rows of padding have the greatest float
 * for a number: tiles of nothing else read nothing, and their results are zero. */
#include <float.h>

#include "ops/op.h"

enum { TILE = 256, KEYS = 512 };

typedef struct tiled { hlo_val x, numbers, least, greatest; int64_t n, each; } tiled;   /* n tiles of `each` rows; numbers [n * each], least and greatest [n] */

/* [T, H, d] as [H, n * each, d], zeros behind. */
static hlo_val by_head(hlo *h, hlo_val x, int64_t rows)
{
    hlo_val y = hlo_transpose(h, x, (int[]){ 1, 0, 2 });
    return rows == x.dim[0] ? y : hlo_pad(h, y, 1, 0, rows - x.dim[0], hlo_float(h, x.type, 0));
}

static tiled cut(hlo *h, hlo_val x, hlo_val numbers, int64_t most)
{
    const int64_t T = x.dim[0];
    tiled t = { .each = T < most ? T : most };
    t.n = (T + t.each - 1) / t.each;
    t.x = by_head(h, x, t.n * t.each);
    t.numbers = t.n * t.each == T ? numbers : hlo_pad(h, numbers, 0, 0, t.n * t.each - T, hlo_float(h, DT_F32, (double)FLT_MAX));
    hlo_val rows = hlo_reshape(h, t.numbers, 2, (int64_t[]){ t.n, t.each });
    t.least = hlo_reduce(h, "minimum", rows, 1);
    t.greatest = hlo_reduce(h, "maximum", rows, 1);
    return t;
}

/* Tile i of x: [H, each, d], and of its numbers: [each]. */
static hlo_val tile_of(hlo *h, const tiled *t, hlo_val x, hlo_val i)
{
    hlo_val at = hlo_bin_scalar(h, "multiply", i, (double)t->each);
    return hlo_dynamic_slice(h, x, (hlo_val[]){ { 0 }, at, { 0 } }, (int64_t[]){ x.dim[0], t->each, x.dim[2] });
}

static hlo_val numbers_of(hlo *h, const tiled *t, hlo_val i)
{
    return hlo_dynamic_slice(h, t->numbers, (hlo_val[]){ hlo_bin_scalar(h, "multiply", i, (double)t->each) }, (int64_t[]){ t->each });
}

/* The first block of keys that tile i may see something of, and the one behind the last: i32 scalars. */
static void range_of(hlo *h, const tiled *q, const tiled *k, hlo_val i, hlo_val *from, hlo_val *to)
{
    hlo_val least = hlo_row(h, q->least, i), greatest = hlo_row(h, q->greatest, i), at = hlo_iota(h, DT_I32, 0, 1, &k->n);
    hlo_val meets = hlo_bin(h, "and", hlo_cmp(h, "LE", k->least, hlo_full_like(h, greatest, k->least)), hlo_cmp(h, "GE", k->greatest, hlo_full_like(h, least, k->greatest)));
    meets = hlo_bin(h, "and", meets, hlo_full_like(h, hlo_cmp_scalar(h, "LT", least, (double)FLT_MAX), meets));
    *from = hlo_reduce(h, "minimum", hlo_select(h, meets, at, hlo_full_like(h, hlo_int(h, DT_I32, k->n), at)), 0);
    *to = hlo_reduce(h, "maximum", hlo_select(h, meets, hlo_bin_scalar(h, "add", at, 1), hlo_full_like(h, hlo_int(h, DT_I32, 0), at)), 0);
}

/* A block's keys for a tile's queries; state: greatest score [H, rows], sum [H, rows], values [H, rows, d]. */
static void attend(hlo *h, hlo_val q, hlo_val mine, hlo_val k, hlo_val v, hlo_val theirs, double scale, dtype act, hlo_val state[3])
{
    hlo_val s = hlo_bin_scalar(h, "multiply", hlo_dot(h, q, k, HLO_DIMS(0), HLO_DIMS(0), HLO_DIMS(2), HLO_DIMS(2), DT_F32), scale);
    hlo_val same = hlo_cmp(h, "EQ", hlo_broadcast(h, mine, (int[]){ 1 }, 3, s.dim), hlo_broadcast(h, theirs, (int[]){ 2 }, 3, s.dim));
    hlo_val fade, p = hlo_softmax_block(h, s, same, &state[0], &state[1], &fade);
    hlo_val add = hlo_dot(h, hlo_convert(h, p, act), v, HLO_DIMS(0), HLO_DIMS(0), HLO_DIMS(2), HLO_DIMS(1), DT_F32);
    state[2] = hlo_bin(h, "add", hlo_bin(h, "multiply", state[2], hlo_broadcast_at(h, fade, 0, state[2])), add);
}

/* Tile i: [H, rows, d] in the type of activations. */
static hlo_val tile_result(hlo_call *c, const tiled *q, const tiled *k, hlo_val values, hlo_val i)
{
    hlo *h = c->h;
    const int64_t H = q->x.dim[0], rows[] = { H, q->each }, wide[] = { H, q->each, q->x.dim[2] };
    hlo_val mine = numbers_of(h, q, i), x = tile_of(h, q, q->x, i), from, to, state[3], zero = hlo_float(h, DT_F32, 0);
    range_of(h, q, k, i, &from, &to);
    hlo_val init[] = { hlo_full(h, hlo_float(h, DT_F32, HLO_NO_SCORE), 2, rows), hlo_full(h, zero, 2, rows), hlo_full(h, zero, 3, wide) };
    hlo_val j = hlo_for(h, from, to, init, 3, state);
    attend(h, x, mine, tile_of(h, k, k->x, j), tile_of(h, k, values, j), numbers_of(h, k, j), c->n->a.segment_attention.scale, c->step->act, state);
    hlo_end_for(h, state, state);
    hlo_val sum = hlo_bin(h, "maximum", state[1], hlo_full_like(h, hlo_float(h, DT_F32, 1e-30), state[1]));
    return hlo_convert(h, hlo_bin(h, "divide", state[2], hlo_broadcast_at(h, sum, 0, state[2])), c->step->act);
}

hlo_val segment_attention_hlo(hlo_call *c)
{
    hlo *h = c->h;
    const int64_t T = c->in[0].dim[0];
    hlo_val numbers = hlo_reshape(h, hlo_convert(h, c->in[3], DT_F32), 1, &T);
    const tiled q = cut(h, c->in[0], numbers, TILE), k = cut(h, c->in[1], numbers, KEYS);
    hlo_val values = by_head(h, c->in[2], k.n * k.each), out = hlo_full_like(h, hlo_float(h, c->step->act, 0), q.x);
    hlo_val i = hlo_for(h, hlo_int(h, DT_I32, 0), hlo_int(h, DT_I32, q.n), &out, 1, &out);
    hlo_val next = hlo_dynamic_update(h, out, tile_result(c, &q, &k, values, i), (hlo_val[]){ { 0 }, hlo_bin_scalar(h, "multiply", i, (double)q.each), { 0 } });
    hlo_end_for(h, &next, &out);
    return hlo_transpose(h, hlo_slice(h, out, 1, 0, T), (int[]){ 1, 0, 2 });
}
