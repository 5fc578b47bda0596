/* Work and pages of the kernels in ragged.h. */
#include <string.h>

#include "ops/paged_attention/ragged_stream.h"

enum { LANES = 128 };

static int64_t per_word(const ragged *r) { return 32 / (int64_t)dtype_bits(r->kv.type); }
static bool is_flat(const ragged *r) { return r->kv.rows == 1; }
/* Every n-th row is loaded from matrices of 128 lanes only: wider rows are copied in pieces. */
static int64_t piece_lanes(const ragged *r) { return is_flat(r) ? r->kv.lanes : LANES; }
static int64_t n_pieces(const ragged *r) { return r->kv.lanes / piece_lanes(r); }
static int64_t gcd(int64_t a, int64_t b) { return b ? gcd(b, a % b) : a; }

/* ---- shapes ---- */

mk_dims ragged_cache_dims(const ragged *r)
{
    return is_flat(r) ? MK_DIMS(r->pages, r->page, r->kv.lanes) : MK_DIMS(r->pages, r->page, r->kv.rows, r->kv.lanes);
}

ragged_ops ragged_ops_of(const ragged *r)
{
    ragged_ops o = { .heads = is_flat(r) ? 1 : per_word(r), .group = r->q_heads / r->kv.heads, .width = r->kv.width };
    o.ops = (r->kv.heads + o.heads - 1) / o.heads;
    o.rows = (o.heads * o.group + 7) / 8 * 8;
    return o;
}

int64_t ragged_block(const hlo_kv *kv, int64_t page, int64_t max_pages, int64_t bytes, int64_t tokens)
{
    int64_t unit = page / gcd(page, 128) * 128, longest = (max_pages * page + unit - 1) / unit * unit;
    int64_t block = tokens ? tokens : bytes / (int64_t)dtype_bytes(kv->type, (size_t)(kv->rows * kv->lanes));
    block = block / unit * unit;
    if (block > longest) block = longest;
    return block > unit ? block : unit;
}

/* ---- the list ---- */

mk_val ragged_field(const ragged_stream *s, mk_val item, int field) { return mk_get(s->k, s->list, MK_AT(item, mk_i32(field))); }

mk_val ragged_first_key(const ragged_stream *s, mk_val hi)
{
    mk *k = s->k;
    mk_val lo = mk_i32(0);
    if (s->r->window) lo = mk_max(k, mk_sub(k, hi, ragged_num(s->r->window)), lo);
    if (s->r->chunk) lo = mk_max(k, mk_mul(k, mk_div(k, mk_sub(k, hi, mk_i32(1)), ragged_num(s->r->chunk)), ragged_num(s->r->chunk)), lo);
    return lo;
}

static mk_val ceil_div(const ragged_stream *s, mk_val n, int64_t by) { return mk_div(s->k, mk_add(s->k, n, ragged_num(by - 1)), ragged_num(by)); }

/* Blocks before the end of an item, counted from the sequence's beginning. */
static mk_val end_block(const ragged_stream *s, mk_val hi) { return ceil_div(s, hi, s->r->block); }
static mk_val first_block(const ragged_stream *s, mk_val lo) { return mk_div(s->k, lo, ragged_num(s->r->block)); }

void ragged_stream_init(ragged_stream *s, mk *k, const ragged *r, int64_t items)
{
    mk_dims dims = ragged_cache_dims(r);
    s->k = k;
    s->r = r;
    s->block_pages = r->block / r->page;
    dims.v[0] = n_pieces(r) * r->buffers * s->block_pages;
    dims.v[dims.n - 1] = piece_lanes(r);
    s->list = mk_scratch(k, "list", MK_SMEM, DT_I32, MK_DIMS(items, RAGGED_FIELDS));
    s->blocks = mk_scratch(k, "blocks", MK_VMEM, r->kv.type, dims);
    s->sem = mk_dma_sems(k, "block_sem", MK_DIMS(r->buffers));
    ragged_scales_init(s);
}

void ragged_list(ragged_stream *s, mk_val n, ragged_item *item, const void *arg)
{
    mk *k = s->k;
    mk_val init[2] = { mk_i32(0), mk_i32(0) }, sofar[2], next[2], out[2], f[RAGGED_FIELDS];
    mk_val i = mk_for(k, mk_i32(0), n, init, 2, sofar);
    item(s, arg, i, f);
    mk_if(k, mk_cmp(k, MK_GT, f[RAGGED_HI], mk_i32(0)));
    for (int j = 0; j < RAGGED_FIELDS; j++) mk_put(k, f[j], s->list, MK_AT(sofar[0], mk_i32(j)));
    mk_val blocks = mk_sub(k, end_block(s, f[RAGGED_HI]), first_block(s, f[RAGGED_LO]));
    mk_else(k, (mk_val[]){ mk_add(k, sofar[0], mk_i32(1)), mk_add(k, sofar[1], blocks) }, 2);
    mk_end_if(k, sofar, next);
    mk_end_for(k, next, out);
    s->n_items = out[0];
    s->n_blocks = s->r->fixed_blocks ? ragged_num(s->r->fixed_blocks) : out[1];
}

/* ---- places ---- */

/* An item that exists, for places behind the last one. */
static mk_val real_item(const ragged_stream *s, mk_val item) { return mk_max(s->k, mk_min(s->k, item, mk_sub(s->k, s->n_items, mk_i32(1))), mk_i32(0)); }

static ragged_place first_place(const ragged_stream *s)
{
    return (ragged_place){ mk_i32(0), first_block(s, ragged_field(s, mk_i32(0), RAGGED_LO)), mk_i32(0) };
}

mk_val ragged_is_first(const ragged_stream *s, ragged_place p)
{
    return mk_cmp(s->k, MK_EQ, p.block, first_block(s, ragged_field(s, real_item(s, p.item), RAGGED_LO)));
}

mk_val ragged_is_last(const ragged_stream *s, ragged_place p)
{
    mk_val end = mk_mul(s->k, mk_add(s->k, p.block, mk_i32(1)), ragged_num(s->r->block));
    return mk_cmp(s->k, MK_GE, end, ragged_field(s, real_item(s, p.item), RAGGED_HI));
}

static ragged_place place_after(const ragged_stream *s, ragged_place p)
{
    mk *k = s->k;
    mk_val more = mk_not(k, ragged_is_last(s, p)), next = mk_add(k, p.item, mk_i32(1));
    mk_val begin = first_block(s, ragged_field(s, real_item(s, next), RAGGED_LO));
    return (ragged_place){ mk_select(k, more, p.item, next), mk_select(k, more, mk_add(k, p.block, mk_i32(1)), begin), mk_add(k, p.turn, mk_i32(1)) };
}

/* ---- copies ---- */

static mk_val buffer_of(const ragged_stream *s, mk_val turn) { return mk_rem(s->k, turn, ragged_num(s->r->buffers)); }

/* Pages of a block that its item has. */
static mk_val pages_of(const ragged_stream *s, ragged_place p)
{
    mk *k = s->k;
    if (s->r->fixed_blocks) return ragged_num(s->block_pages);
    mk_val pages = ceil_div(s, ragged_field(s, p.item, RAGGED_HI), s->r->page);
    return mk_min(k, mk_sub(k, pages, mk_mul(k, p.block, ragged_num(s->block_pages))), ragged_num(s->block_pages));
}

/* The first place in the buffers that a block has for a piece. */
static mk_val place_of(const ragged_stream *s, ragged_place p, int64_t piece)
{
    mk_val buffer = mk_add(s->k, buffer_of(s, p.turn), ragged_num(piece * s->r->buffers));
    return mk_mul(s->k, buffer, ragged_num(s->block_pages));
}

/* Pages from the `at`-th of the table on, a piece of their lanes, to as many places in the buffers; with the first piece their scales. */
static void fetch_piece(const ragged_stream *s, ragged_place p, mk_val at, mk_val n, int64_t piece, mk_ref sem)
{
    mk_val to = place_of(s, p, piece);
    mk *k = s->k;
    mk_dims dims = ragged_cache_dims(s->r);
    mk_val i = mk_for(k, mk_i32(0), n, NULL, 0, NULL);
    mk_at from = { .n = dims.n, .v = { mk_add(k, mk_get(k, s->table, MK_AT(mk_add(k, at, i))), mk_get(k, s->first, MK_AT(mk_i32(0)))) } };
    for (int j = 1; j < dims.n; j++) from.v[j] = ragged_num(j + 1 < dims.n ? 0 : piece * LANES);
    dims.v[0] = 1;
    dims.v[dims.n - 1] = piece_lanes(s->r);
    mk_copy(k, mk_view(k, s->cache, from, dims, 1), mk_pick(k, s->blocks, MK_AT(mk_add(k, to, i))), sem);
    if (piece == 0) ragged_scales_fetch(s, from.v[0], buffer_of(s, p.turn), i, sem);
    mk_end_for(k, NULL, NULL);
}

static void fetch(const ragged_stream *s, ragged_place p)
{
    mk *k = s->k;
    mk_val row = mk_mul(k, ragged_field(s, p.item, RAGGED_SEQ), ragged_num(s->r->max_pages)), at = mk_add(k, row, mk_mul(k, p.block, ragged_num(s->block_pages)));
    mk_val n = pages_of(s, p);
    mk_ref sem = mk_pick(k, s->sem, MK_AT(buffer_of(s, p.turn)));
    for (int64_t piece = 0; piece < n_pieces(s->r); piece++) fetch_piece(s, p, at, n, piece, sem);
}

/* All pages of a block count on one semaphore: they are waited for as one copy of as many pages. */
static void await(const ragged_stream *s, ragged_place p)
{
    mk *k = s->k;
    mk_val n = pages_of(s, p);
    mk_dims dims = ragged_cache_dims(s->r);
    mk_at at = { .n = dims.n, .v = { place_of(s, p, 0), mk_i32(0), mk_i32(0), mk_i32(0) } };
    dims.v[0] = s->r->fixed_blocks ? s->block_pages : MK_DYNAMIC;
    dims.v[dims.n - 1] = piece_lanes(s->r);
    mk_ref pages = mk_view_sized(k, s->blocks, at, dims, &n, 0);
    for (int64_t piece = 0; piece < n_pieces(s->r); piece++) mk_wait(k, mk_pick(k, s->sem, MK_AT(buffer_of(s, p.turn))), pages, pages);
    ragged_scales_await(s, n, mk_pick(k, s->sem, MK_AT(buffer_of(s, p.turn))));
}

static void fetch_if_any(const ragged_stream *s, ragged_place p)
{
    mk_if(s->k, mk_cmp(s->k, MK_LT, p.turn, s->n_blocks));
    fetch(s, p);
    mk_end_if(s->k, NULL, NULL);
}

/* ---- the loop ---- */

/* Asks for the blocks before the first turn; the place that comes next. */
static ragged_place prime(const ragged_stream *s)
{
    ragged_place p = first_place(s);
    for (int64_t i = 0; i + 1 < s->r->buffers; i++) {
        fetch_if_any(s, p);
        p = place_after(s, p);
    }
    return p;
}

enum { ITEM, BLOCK, AHEAD_ITEM, AHEAD_BLOCK, STATE };

void ragged_turns(const ragged_stream *s, mk_val n, ragged_body *body, const void *arg, const mk_val *state, int n_state)
{
    mk *k = s->k;
    const ragged_place first = first_place(s), primed = prime(s);
    mk_val v[MK_CARRIED] = { first.item, first.block, primed.item, primed.block };
    if (n_state) memcpy(v + STATE, state, (size_t)n_state * sizeof *v);
    mk_val turn = mk_for(k, mk_i32(0), n, v, STATE + n_state, v);
    ragged_place p = { v[ITEM], v[BLOCK], turn }, ahead = { v[AHEAD_ITEM], v[AHEAD_BLOCK], mk_add(k, turn, ragged_num(s->r->buffers - 1)) };
    fetch_if_any(s, ahead);
    await(s, p);
    body(arg, p, v + STATE);
    p = place_after(s, p);
    ahead = place_after(s, ahead);
    memcpy(v, (mk_val[]){ p.item, p.block, ahead.item, ahead.block }, STATE * sizeof *v);
    mk_end_for(k, v, v);
}

/* ---- what is in a block ---- */

/* A piece of a part of a block: [tokens, rows, 128], or [tokens, lanes]. */
static mk_ref buffer(const ragged_stream *s, ragged_place p, ragged_part part, int64_t piece)
{
    mk *k = s->k;
    const int64_t parts = s->r->block / part.tokens;
    mk_dims dims = ragged_cache_dims(s->r), all = { .n = dims.n, .v = { n_pieces(s->r) * s->r->buffers * parts, part.tokens, dims.v[2] } };
    all.v[dims.n - 1] = piece_lanes(s->r);
    mk_val at = mk_add(k, buffer_of(s, p.turn), ragged_num(piece * s->r->buffers));
    if (parts > 1) at = mk_add(k, mk_mul(k, at, ragged_num(parts)), part.at);
    return mk_pick(k, mk_ref_reshape(k, s->blocks, all), MK_AT(at));
}

/* The `at`-th word of each token: [tokens, width] of 32 bits, which are as many heads as fit. */
static mk_val words(const ragged_stream *s, ragged_place p, ragged_part part, int64_t at)
{
    mk *k = s->k;
    int64_t n = s->r->kv.rows / per_word(s->r), pieces = n_pieces(s->r);
    mk_val piece[2] = { { 0 }, { 0 } };
    for (int64_t i = 0; i < pieces && i < 2; i++) {
        mk_ref matrix = mk_ref_reshape(k, buffer(s, p, part, i), MK_DIMS(part.tokens * s->r->kv.rows, LANES));
        piece[i] = mk_load_strided(k, mk_ref_bitcast(k, matrix, DT_I32), ragged_num(at), part.tokens, n);
    }
    return pieces == 1 ? piece[0] : mk_concat(k, piece, 2, 1);
}

mk_val ragged_keys(const ragged_stream *s, ragged_place p, ragged_part part, int64_t i)
{
    const hlo_kv *kv = &s->r->kv;
    if (!is_flat(s->r)) return mk_bitcast(s->k, words(s, p, part, i), kv->type);
    return mk_load(s->k, buffer(s, p, part, 0), MK_AT(mk_i32(0), ragged_num(i * kv->head_lanes)), MK_DIMS(part.tokens, kv->head_lanes));
}

/* Ones in the bits of words of `per` tokens each that hold tokens before n. */
static mk_val token_bits(const ragged_stream *s, int64_t per, mk_val n, mk_dims dims)
{
    mk *k = s->k;
    const mk_val zero = mk_full(k, mk_i32(0), dims), all = mk_full(k, mk_i32(-1), dims);
    mk_val left = mk_sub(k, n, mk_mul(k, mk_iota(k, 0, dims), ragged_num(per)));
    if (per == 1) return mk_select(k, mk_cmp(k, MK_GT, left, mk_i32(0)), all, zero);
    mk_val bits = mk_mul(k, mk_min(k, mk_max(k, left, mk_i32(0)), ragged_num(per - 1)), ragged_num(32 / per));
    mk_val some = mk_sub(k, mk_shl(k, mk_full(k, mk_i32(1), dims), bits), mk_i32(1));
    return mk_select(k, mk_cmp(k, MK_GE, left, ragged_num(per)), all, some);
}

mk_val ragged_values(const ragged_stream *s, ragged_place p, ragged_part part, int64_t i, mk_val n)
{
    mk *k = s->k;
    const hlo_kv *kv = &s->r->kv;
    mk_val v;
    if (part.tokens < s->r->block) n = mk_sub(k, n, mk_mul(k, part.at, ragged_num(part.tokens)));
    if (is_flat(s->r)) {
        const mk_dims dims = MK_DIMS(part.tokens / per_word(s->r), kv->head_lanes);
        int64_t lane = (kv->narrow ? 0 : kv->v_lane) + i * kv->head_lanes;
        v = mk_load(k, mk_ref_bitcast(k, buffer(s, p, part, 0), DT_I32), MK_AT(mk_i32(0), ragged_num(lane)), dims);
        v = mk_and(k, v, token_bits(s, per_word(s->r), n, dims));
    } else {
        v = words(s, p, part, (kv->narrow ? 0 : kv->v_row / per_word(s->r)) + i);
        v = mk_and(k, v, token_bits(s, 1, n, MK_DIMS(part.tokens, kv->lanes)));
    }
    return mk_bitcast(k, v, kv->type);
}
