/* Scales of an int8 cache in the kernels of ragged.h. They arrive with their pages, on the same semaphore, each page's lines beside those of
 * the page before: so a line of all of a block's pages is a row like that of its scores, and is loaded as such. Where a page has less than 128
 * tokens of a line, a line's pieces are put together by rotation. */
#include "ops/paged_attention/ragged_stream.h"

enum { LANES = 128 };

const char *ragged_scales_refusal(const ragged *r)
{
    const kv_scale_shape x = hlo_kv_scales(&r->kv, r->page);
    if (r->kv.type != DT_I8 || kv_scale_lines_fit(&x)) return NULL;
    return x.per > 1 ? "pages of an int8 cache that are no multiple of 32 tokens" : "pages of an int8 cache of few heads that are neither 32, 64 nor a multiple of 128 tokens";
}

int64_t ragged_scales_bytes(const ragged *r)
{
    const kv_scale_shape x = hlo_kv_scales(&r->kv, r->page);
    return r->kv.type == DT_I8 ? r->buffers * (r->block / r->page) * kv_scale_page_bytes(&x) : 0;
}

double ragged_token_bytes(const ragged *r)
{
    const kv_scale_shape x = hlo_kv_scales(&r->kv, r->page);
    return (double)dtype_bytes(r->kv.type, (size_t)(r->kv.rows * r->kv.lanes)) + (r->kv.type == DT_I8 ? (double)kv_scale_page_bytes(&x) / (double)r->page : 0);
}

mk_dims ragged_scales_dims(const ragged *r)
{
    const kv_scale_shape x = hlo_kv_scales(&r->kv, r->page);
    return MK_DIMS(r->pages, x.rows, 1, x.lanes);
}

void ragged_scales_init(ragged_stream *s)
{
    if (s->r->kv.type != DT_I8) return;
    s->shape = hlo_kv_scales(&s->r->kv, s->r->page);
    s->scales = mk_scratch(s->k, "scales", MK_VMEM, DT_F32, MK_DIMS(s->r->buffers, s->shape.rows, 1, s->block_pages * s->shape.lanes));
}

void ragged_scales_fetch(const ragged_stream *s, mk_val page, mk_val buffer, mk_val at, mk_ref sem)
{
    mk *k = s->k;
    const kv_scale_shape *x = &s->shape;
    if (!x->lines) return;
    mk_val lane = mk_multiple(k, mk_mul(k, at, ragged_num(x->lanes)), LANES);
    mk_ref from = mk_pick(k, s->scale_cache, MK_AT(page));
    mk_copy(k, from, mk_view(k, s->scales, MK_AT(buffer, mk_i32(0), mk_i32(0), lane), MK_DIMS(1, x->rows, 1, x->lanes), 1), sem);
}

/* As one copy of n pages. */
void ragged_scales_await(const ragged_stream *s, mk_val n, mk_ref sem)
{
    mk *k = s->k;
    const kv_scale_shape *x = &s->shape;
    if (!x->lines) return;
    mk_ref some = mk_view_sized(k, s->scale_cache, MK_ZERO, MK_DIMS(s->r->fixed_blocks ? s->block_pages : MK_DYNAMIC, x->rows, 1, x->lanes), &n, 0);
    mk_wait(k, sem, some, some);
}

/* ---- lines ---- */

/* 128 lanes of a row of the buffer, from the at-th 128 on. */
static mk_val lanes_at(const ragged_stream *s, mk_val buffer, int64_t row, mk_val at)
{
    mk *k = s->k;
    return mk_load(k, s->scales, MK_AT(buffer, ragged_num(row), mk_i32(0), mk_multiple(k, mk_mul(k, at, ragged_num(LANES)), LANES)), MK_DIMS(1, LANES));
}

/* 128 tokens of a line of which each page has but a piece, in 128 lanes that it shares with other lines: those from the at-th 128 on. */
static mk_val joined(const ragged_stream *s, mk_val buffer, int64_t line, mk_val at)
{
    mk *k = s->k;
    const int64_t piece = s->shape.line, n = LANES / piece;
    mk_val lane = mk_iota(k, 1, MK_DIMS(1, LANES)), out = { 0 };
    for (int64_t j = 0; j < n; j++) {
        mk_val x = lanes_at(s, buffer, line / n, mk_add(k, mk_mul(k, at, ragged_num(n)), ragged_num(j)));
        if (j != line % n) x = mk_rotate(k, x, ragged_num((j - line % n + n) % n * piece), 1);
        out = j ? mk_select(k, mk_cmp(k, MK_GE, lane, ragged_num(j * piece)), x, out) : x;
    }
    return out;
}

mk_val ragged_scales(const ragged_stream *s, ragged_place p, ragged_part part, int64_t line)
{
    mk *k = s->k;
    const int64_t columns = part.tokens * s->shape.per, n = columns / LANES;
    mk_val buffer = mk_rem(k, p.turn, ragged_num(s->r->buffers)), all[RAGGED_MOST_BLOCK / LANES];
    mk_val first = mk_mul(k, part.at, ragged_num(n));
    for (int64_t i = 0; i < n; i++) {
        mk_val at = mk_add(k, first, ragged_num(i));
        all[i] = s->shape.line < LANES ? joined(s, buffer, line, at) : lanes_at(s, buffer, line, at);
    }
    return mk_concat(k, all, (int)n, 1);
}

/* x [.., columns] of a part, 0 where the key is not among the block's first n. */
static mk_val known(const ragged_stream *s, ragged_part part, mk_val x, mk_val n)
{
    mk *k = s->k;
    const mk_dims dims = MK_DIMS(x.dim[0], x.dim[1]);
    mk_val first = mk_mul(k, part.at, ragged_num(part.tokens * s->shape.per));
    mk_val columns = mk_sub(k, mk_mul(k, n, ragged_num(s->shape.per)), first);
    return mk_select(k, mk_cmp(k, MK_LT, mk_iota(k, 1, dims), columns), x, mk_full(k, mk_f32(0), dims));
}

mk_val ragged_value_scales(const ragged_stream *s, ragged_place p, ragged_part part, int64_t line, mk_val n)
{
    return known(s, part, ragged_scales(s, p, part, s->shape.lines / 2 + line), n);
}

/* ---- heads ---- */

/* x [.., 128] with bits a and b of its lanes' numbers exchanged. */
static mk_val swapped(mk *k, mk_val x, int a, int b)
{
    const mk_dims dims = MK_DIMS(x.dim[0], LANES);
    const int d = (1 << b) - (1 << a);
    mk_val lane = mk_and(k, mk_iota(k, 1, dims), ragged_num((1 << a) | (1 << b)));
    mk_val down = mk_rotate(k, x, ragged_num(LANES - d), 1), up = mk_rotate(k, x, ragged_num(d), 1);
    return mk_select(k, mk_cmp(k, MK_EQ, lane, ragged_num(1 << a)), down, mk_select(k, mk_cmp(k, MK_EQ, lane, ragged_num(1 << b)), up, x));
}

/* Of 128 tokens, 32 in each of x [lines, 128] (token, head, token, ...): one head of all of them. First the head's lanes of the four
 * vectors are put between each other, which makes lanes t * 4 + j; then the five bits of t change places with the two of j. */
static mk_val head_of(mk *k, const mk_val x[KV_SCALE_HEADS], int head)
{
    static const int place[KV_SCALE_HEADS] = { 0, 2, 1, 3 };     /* bits of j the other way round: the exchanges turn them */
    mk_val lane = mk_and(k, mk_iota(k, 1, MK_DIMS(x[0].dim[0], LANES)), ragged_num(KV_SCALE_HEADS - 1)), out = { 0 };
    for (int j = 0; j < KV_SCALE_HEADS; j++) {
        const int by = (place[j] - head + LANES) % LANES;
        mk_val y = by ? mk_rotate(k, x[j], ragged_num(by), 1) : x[j];
        out = j ? mk_select(k, mk_cmp(k, MK_EQ, lane, ragged_num(place[j])), y, out) : y;
    }
    for (int bit = 0; bit < 5; bit++) out = swapped(k, out, bit, bit + 2);
    return out;
}

int64_t ragged_scale_heads(const ragged *r)
{
    const kv_scale_shape x = hlo_kv_scales(&r->kv, r->page);
    return r->kv.type == DT_I8 ? x.lines * x.per : 0;
}

void ragged_split_scales(const ragged_stream *s, ragged_place p, mk_val at, mk_val n, mk_ref heads)
{
    mk *k = s->k;
    const kv_scale_shape *x = &s->shape;
    mk_val buffer = mk_rem(k, p.turn, ragged_num(s->r->buffers)), first = mk_multiple(k, mk_mul(k, at, ragged_num(LANES)), LANES), four[KV_SCALE_HEADS];
    if (!x->lines) return;
    for (int64_t line = 0; x->per == 1 && line < x->lines; line++) {
        const ragged_part part = { at, LANES };
        mk_store(k, known(s, part, ragged_scales(s, p, part, line), n), heads, MK_AT(ragged_num(line), mk_i32(0), first));
    }
    if (x->per == 1) return;
    for (int j = 0; j < KV_SCALE_HEADS; j++) {
        const ragged_part part = { mk_add(k, mk_mul(k, at, ragged_num(KV_SCALE_HEADS)), ragged_num(j)), LANES / KV_SCALE_HEADS };
        mk_val lane = mk_multiple(k, mk_mul(k, part.at, ragged_num(LANES)), LANES);
        mk_val all = mk_load(k, s->scales, MK_AT(buffer, mk_i32(0), mk_i32(0), lane), MK_DIMS(x->lines, 1, LANES));
        four[j] = known(s, part, mk_reshape(k, all, MK_DIMS(x->lines, LANES)), n);
    }
    for (int head = 0; head < KV_SCALE_HEADS; head++) {
        mk_val lines = head_of(k, four, head);
        for (int64_t line = 0; line < x->lines; line++)
            mk_store(k, mk_slice(k, lines, MK_DIMS(line, 0), MK_DIMS(1, LANES)), heads, MK_AT(ragged_num(line * KV_SCALE_HEADS + head), mk_i32(0), first));
    }
}
