/* The step's K and V into the flat cache [pages, page, rows, lanes], in place.
 *
 * Tokens of one sequence are neighbours and lie one behind the other on a page, so work goes by runs: the tokens from t on that
 * are on one page (or tile, see below), found by bisection.
 *
 *   rows of several heads   a token is whole tiles of memory: a run is one copy from HBM to HBM, all of them in flight together
 *   one row per token       (latent attention; few heads) memory is tiled over tokens, 8 to 32 to a tile, of which a run is a
 *                           part: the tile comes to VMEM, the run's rows replace theirs, the tile goes back. Runs never share a
 *                           tile, so half of a ring of buffers waits for tiles to come, the other half for tiles to have gone
 *
 * The second form changes 32-bit rows, of which any may be addressed: the new rows are f32, or the bits of 8-bit types as i32,
 * and come with an untiled dimension of tokens. Padding (page 0) is not written at all.
 *
 * Scales of an int8 cache run along lanes, so a token's are a few lanes of a page's. They are written as tiles are, afterwards: a page's
 * scales come, the run's numbers are rotated to their lanes, the page's scales go back. */
#include "ops/paged_attention/kv_update.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ops/kernels.h"

enum { RING_SINGLE = 64, RING = 32, INNER = 32, WAIT_TOKENS = 64, SUBLANES = 8, LANES = 128 };

typedef struct update {
    mk *k;
    const kv_update *u;
    mk_ref page, slot, first, fresh, cache, fresh_scales, scales;
    bool of_scales;                 /* tiles are pages of scales: */
    mk_ref sem;                     /* whole rows: of all copies */
    int64_t tile, ring;             /* by tile: */
    mk_ref tiles, rows;             /* [ring, tile, lanes], [ring, tile or 1, 1, lanes]; of scales: [ring, rows, 1, lanes], none */
    mk_ref where;                   /* i32 [ring, 5]: page, first slot of the tile, first slot of the run in it, tokens, first token */
    mk_ref coming, going;           /* [ring] */
} update;

int64_t kv_update_tile(const kv_update *u)
{
    int64_t most = dtype_bits(u->type) == 8 ? 4 * SUBLANES : 2 * SUBLANES;
    while (most > SUBLANES && u->page % most) most /= 2;
    return most;
}

const char *kv_update_refusal(const kv_update *u)
{
    if (u->type != DT_F32 && u->type != DT_BF16 && dtype_bits(u->type) != 8) return "a cache of this type";
    if (u->lanes % 128) return "lanes that are no multiple of 128";
    if (kv_update_by_tile(u) && u->page % kv_update_tile(u)) return "pages of less than 8 tokens, or no multiple of it";
    if (!kv_update_by_tile(u) && u->rows != 1 && u->rows % SUBLANES) return "2 to 7 rows per token";
    if (u->scales.lines && !kv_scale_lines_fit(&u->scales)) return "scales that are no whole rows of a page";
    return NULL;
}

mk_dims kv_update_cache_dims(const kv_update *u)
{
    return kv_update_by_tile(u) ? MK_DIMS(u->pages, u->page, u->lanes) : MK_DIMS(u->pages, u->page, u->rows, u->lanes);
}

mk_dims kv_update_rows_dims(const kv_update *u)
{
    int64_t around = kv_update_by_tile(u) && !u->single ? 2 * kv_update_tile(u) : 0;
    return MK_DIMS(u->tokens + around, u->rows, u->lanes);
}

dtype kv_update_rows_type(const kv_update *u)
{
    if (!kv_update_by_tile(u)) return u->type;
    return dtype_bits(u->type) == 8 ? DT_I32 : DT_F32;
}

/* A run of a page's first slots begins before its tokens, one of its last ones ends behind them. */
static int64_t scales_around(const kv_update *u) { return (u->scales.line + LANES - 1) / LANES * LANES; }
/* Lines that share a row of a page. */
static int64_t lines_in_row(const kv_update *u) { return u->scales.line < LANES ? LANES / u->scales.line : 1; }

int64_t kv_update_scales_before(const kv_update *u, int64_t line) { return scales_around(u) + line % lines_in_row(u) * u->scales.line; }

mk_dims kv_update_scales_dims(const kv_update *u)
{
    int64_t numbers = u->tokens * u->scales.per + 2 * scales_around(u) + LANES;
    return MK_DIMS((numbers + LANES - 1) / LANES + 1, u->scales.lines, LANES);
}

/* ---- runs ---- */

static mk_val add(const update *x, mk_val a, mk_val b) { return mk_add(x->k, a, b); }
static mk_val less(const update *x, mk_val a, mk_val b) { return mk_cmp(x->k, MK_LT, a, b); }

static int64_t power_of_2_to(int64_t n)
{
    int64_t p = 1;
    while (p * 2 <= n) p *= 2;
    return p;
}

/* Do the tokens up to t + n - 1 continue the run that begins with token t on slot s of page p? */
static mk_val continues(const update *x, mk_val t, mk_val p, mk_val s, mk_val n)
{
    mk *k = x->k;
    mk_val ahead = mk_sub(k, n, mk_i32(1)), last = add(x, t, ahead), inside = less(x, last, mk_i32((int32_t)x->u->tokens));
    mk_val at = mk_min(k, last, mk_i32((int32_t)x->u->tokens - 1));
    mk_val same_page = mk_cmp(k, MK_EQ, mk_get(k, x->page, MK_AT(at)), p);
    mk_val next_slot = mk_cmp(k, MK_EQ, mk_get(k, x->slot, MK_AT(at)), add(x, s, ahead));
    return mk_and(k, inside, mk_and(k, same_page, next_slot));
}

/* Tokens of that run, at most `most`, which is at most `bound`. */
static mk_val run_length(const update *x, mk_val t, mk_val p, mk_val s, mk_val most, int64_t bound)
{
    mk *k = x->k;
    mk_val n = mk_i32(0);
    if (x->u->single) return mk_i32(1);
    for (int64_t b = power_of_2_to(bound); b; b /= 2) {
        mk_val longer = add(x, n, mk_i32((int32_t)b));
        mk_val ok = mk_and(k, mk_cmp(k, MK_LE, longer, most), continues(x, t, p, s, longer));
        n = mk_select(k, ok, longer, n);
    }
    return n;
}

/* while (active(state)) state = step(state), at most `most` times. There is no while: runs are fewer than tokens, so loops of INNER
 * turns are entered while there is something to do. */
typedef struct work { int n; mk_val (*active)(const update *x, const mk_val *state); void (*step)(const update *x, const mk_val *state, mk_val *next); } work;

static void repeat(const update *x, const work *w, int64_t most, mk_val *state)
{
    mk *k = x->k;
    mk_val outer[4], inner[4], next[4], done[4];
    if (x->u->fixed_runs) {
        mk_for(k, mk_i32(0), mk_i32((int32_t)x->u->fixed_runs), state, w->n, inner);
        w->step(x, inner, next);
        mk_end_for(k, next, state);
        return;
    }
    mk_for(k, mk_i32(0), mk_i32((int32_t)((most + INNER - 1) / INNER)), state, w->n, outer);
    mk_if(k, w->active(x, outer));
    mk_for(k, mk_i32(0), mk_i32(INNER), outer, w->n, inner);
    mk_if(k, w->active(x, inner));
    w->step(x, inner, next);
    mk_else(k, next, w->n);
    mk_end_if(k, inner, done);
    mk_end_for(k, done, next);
    mk_else(k, next, w->n);
    mk_end_if(k, outer, done);
    mk_end_for(k, done, state);
}

/* ---- whole rows; state: next token, tokens being copied ---- */

static mk_val rows_active(const update *x, const mk_val *state) { return less(x, state[0], mk_i32((int32_t)x->u->tokens)); }

static void rows_step(const update *x, const mk_val *state, mk_val *next)
{
    mk *k = x->k;
    const kv_update *u = x->u;
    mk_val t = state[0], p = mk_get(k, x->page, MK_AT(t)), s = mk_get(k, x->slot, MK_AT(t));
    mk_if(k, mk_cmp(k, MK_NE, p, mk_i32(0)));
    mk_val n = run_length(x, t, p, s, mk_i32((int32_t)u->page), u->page), page = add(x, p, mk_get(k, x->first, MK_AT(mk_i32(0))));
    int64_t size = u->single ? 1 : MK_DYNAMIC;
    mk_ref from = mk_view_sized(k, x->fresh, MK_AT(t, mk_i32(0), mk_i32(0)), MK_DIMS(size, u->rows, u->lanes), &n, 0);
    mk_ref to = mk_view_sized(k, x->cache, MK_AT(page, s, mk_i32(0), mk_i32(0)), MK_DIMS(1, size, u->rows, u->lanes), &n, 1);
    mk_copy(k, from, to, x->sem);
    mk_else(k, (mk_val[]){ add(x, t, n), add(x, state[1], n) }, 2);
    mk_end_if(k, (mk_val[]){ add(x, t, mk_i32(1)), state[1] }, next);
}

/* Until n tokens have been copied. */
static void wait_tokens(const update *x, mk_val n)
{
    mk *k = x->k;
    const kv_update *u = x->u;
    const int64_t size[] = { u->tokens < WAIT_TOKENS ? u->tokens : WAIT_TOKENS, 1 };
    mk_val whole = mk_div(k, n, mk_i32((int32_t)size[0])), turns[] = { whole, mk_rem(k, n, mk_i32((int32_t)size[0])) };
    for (int i = 0; i < 2; i++) {
        mk_for(k, mk_i32(0), turns[i], NULL, 0, NULL);
        mk_ref some = mk_view(k, x->fresh, MK_ZERO, MK_DIMS(size[i], u->rows, u->lanes), 0);
        mk_wait(k, x->sem, some, some);
        mk_end_for(k, NULL, NULL);
    }
}

static void write_rows(update *x)
{
    const work w = { 2, rows_active, rows_step };
    mk_val state[2] = { mk_i32(0), mk_i32(0) };
    repeat(x, &w, x->u->tokens, state);
    wait_tokens(x, state[1]);
}

/* ---- tiles; state: next token, runs whose tiles were asked for, runs merged ---- */

enum { PAGE, SLOT, FIRST, COUNT, TOKEN, FIELDS };

static mk_val field(const update *x, mk_val place, int which) { return mk_get(x->k, x->where, MK_AT(place, mk_i32(which))); }

/* The tile in the cache that a place of the ring is for. */
static mk_ref home(const update *x, mk_val place)
{
    if (x->of_scales) return mk_pick(x->k, x->scales, MK_AT(field(x, place, PAGE)));
    mk_val slot = mk_multiple(x->k, field(x, place, SLOT), (int)x->tile);
    return mk_view(x->k, x->cache, MK_AT(field(x, place, PAGE), slot, mk_i32(0)), MK_DIMS(1, x->tile, x->u->lanes), 1);
}

static mk_ref of_ring(const update *x, mk_ref all, mk_val place) { return mk_pick(x->k, all, MK_AT(place)); }

/* The rows of a tile that would begin at the tile's first slot, or of the one token. */
static mk_ref fresh_rows(const update *x, mk_val t, mk_val first)
{
    const kv_update *u = x->u;
    mk_val at = u->single ? t : mk_sub(x->k, add(x, t, mk_i32((int32_t)x->tile)), first);
    return mk_view(x->k, x->fresh, MK_AT(at, mk_i32(0), mk_i32(0)), MK_DIMS(u->single ? 1 : x->tile, 1, u->lanes), 0);
}

static void ask_for_tile(const update *x, mk_val t, mk_val p, mk_val number, mk_val *n)
{
    mk *k = x->k;
    mk_val place = mk_rem(k, number, mk_i32((int32_t)x->ring)), s = mk_get(k, x->slot, MK_AT(t)), first = mk_rem(k, s, mk_i32((int32_t)x->tile));
    mk_if(k, mk_cmp(k, MK_GE, number, mk_i32((int32_t)x->ring)));
    mk_wait(k, of_ring(x, x->going, place), of_ring(x, x->tiles, place), home(x, place));
    mk_end_if(k, NULL, NULL);
    *n = run_length(x, t, p, s, mk_sub(k, mk_i32((int32_t)x->tile), first), x->tile);
    mk_val what[FIELDS] = { add(x, p, mk_get(k, x->first, MK_AT(mk_i32(0)))), mk_sub(k, s, first), first, *n, t };
    for (int i = 0; i < FIELDS; i++) mk_put(k, what[i], x->where, MK_AT(place, mk_i32(i)));
    mk_copy(k, home(x, place), of_ring(x, x->tiles, place), of_ring(x, x->coming, place));
    if (!x->of_scales) mk_copy(k, fresh_rows(x, t, first), of_ring(x, x->rows, place), of_ring(x, x->coming, place));
}

static mk_val widened(const update *x, mk_val v)
{
    if (x->u->type == DT_BF16) return mk_convert(x->k, v, DT_F32);
    return mk_convert(x->k, mk_bitcast(x->k, v, DT_I8), DT_I32);
}

static mk_val narrowed(const update *x, mk_val v)
{
    if (x->u->type == DT_BF16) return mk_convert(x->k, v, DT_BF16);
    return mk_bitcast(x->k, mk_convert(x->k, v, DT_I8), x->u->type);
}

static mk_val between(const update *x, mk_val v, mk_val from, mk_val to) { return mk_and(x->k, mk_cmp(x->k, MK_GE, v, from), less(x, v, to)); }
static mk_val times(const update *x, mk_val v, int64_t by) { return by == 1 ? v : mk_mul(x->k, v, mk_i32((int32_t)by)); }

/* The run's numbers on the at-th 128 lanes of a page's lines, [lines, 128]: two rows of the fresh ones, rotated to where they belong. */
static mk_val fresh_lanes(const update *x, mk_val place, int64_t at)
{
    mk *k = x->k;
    const mk_dims dims = MK_DIMS(x->u->scales.lines, LANES);
    mk_val from = times(x, mk_sub(k, field(x, place, TOKEN), field(x, place, FIRST)), x->u->scales.per);
    from = add(x, from, mk_i32((int32_t)(scales_around(x->u) + at * LANES)));
    mk_val row = mk_div(k, from, mk_i32(LANES)), left = mk_sub(k, mk_i32(LANES), mk_rem(k, from, mk_i32(LANES))), part[2];
    for (int i = 0; i < 2; i++)
        part[i] = mk_rotate(k, mk_load(k, x->fresh_scales, MK_AT(add(x, row, mk_i32(i)), mk_i32(0), mk_i32(0)), dims), mk_rem(k, left, mk_i32(LANES)), 1);
    return mk_select(k, less(x, mk_iota(k, 1, dims), left), part[0], part[1]);
}

/* A page of which each line is rows of its own. */
static void merge_lines(const update *x, mk_val place, mk_ref page, mk_val from, mk_val to)
{
    mk *k = x->k;
    const kv_scale_shape *s = &x->u->scales;
    const mk_dims dims = MK_DIMS(s->lines, LANES), apart = MK_DIMS(s->lines, 1, LANES);
    for (int64_t i = 0; i < s->line / LANES; i++) {
        const mk_at at = MK_AT(mk_i32(0), mk_i32(0), mk_i32((int32_t)(i * LANES)));
        mk_val lane = add(x, mk_iota(k, 1, dims), mk_i32((int32_t)(i * LANES)));
        mk_val old = mk_reshape(k, mk_load(k, page, at, apart), dims);
        mk_store(k, mk_reshape(k, mk_select(k, between(x, lane, from, to), fresh_lanes(x, place, i), old), apart), page, at);
    }
}

/* A page whose lines share rows: of a row's lines each has the numbers of its own lanes. */
static void merge_shared_rows(const update *x, mk_val place, mk_ref page, mk_val from, mk_val to)
{
    mk *k = x->k;
    const kv_scale_shape *s = &x->u->scales;
    const int64_t share = lines_in_row(x->u);
    const mk_dims dims = MK_DIMS(s->lines, LANES);
    mk_val begin = times(x, mk_rem(k, mk_iota(k, 0, dims), mk_i32((int32_t)share)), s->line), lane = mk_iota(k, 1, MK_DIMS(1, LANES));
    mk_val ours = between(x, mk_iota(k, 1, dims), add(x, begin, from), add(x, begin, to));
    mk_val fresh = mk_select(k, ours, fresh_lanes(x, place, 0), mk_full(k, mk_f32(0), dims));
    for (int64_t i = 0; i < s->rows; i++) {
        const mk_at at = MK_AT(mk_i32((int32_t)i), mk_i32(0), mk_i32(0));
        const int64_t n = s->lines - i * share < share ? s->lines - i * share : share;
        mk_val row = mk_reduce(k, MK_SUM, mk_slice(k, fresh, MK_DIMS(i * share, 0), MK_DIMS(n, LANES)), 0), old = mk_load(k, page, at, MK_DIMS(1, LANES));
        mk_store(k, mk_select(k, between(x, mk_rem(k, lane, mk_i32((int32_t)s->line)), from, to), row, old), page, at);
    }
}

static void merge_scales(const update *x, mk_val number)
{
    mk *k = x->k;
    mk_val place = mk_rem(k, number, mk_i32((int32_t)x->ring));
    mk_ref page = of_ring(x, x->tiles, place);
    mk_wait(k, of_ring(x, x->coming, place), home(x, place), page);
    mk_val from = times(x, field(x, place, FIRST), x->u->scales.per), to = add(x, from, times(x, field(x, place, COUNT), x->u->scales.per));
    if (x->u->scales.line < LANES) merge_shared_rows(x, place, page, from, to);
    else merge_lines(x, place, page, from, to);
    mk_copy(k, page, home(x, place), of_ring(x, x->going, place));
}

static void merge_tile(const update *x, mk_val number)
{
    mk *k = x->k;
    const int64_t lanes = x->u->lanes, n_rows = x->u->single ? 1 : x->tile;
    mk_val place = mk_rem(k, number, mk_i32((int32_t)x->ring));
    mk_ref tile = of_ring(x, x->tiles, place), rows = of_ring(x, x->rows, place), came = of_ring(x, x->coming, place);
    mk_wait(k, came, home(x, place), tile);
    mk_wait(k, came, fresh_rows(x, mk_i32(0), mk_i32(0)), rows);
    mk_val old = widened(x, mk_load(k, tile, MK_ZERO, MK_DIMS(x->tile, lanes)));
    mk_val fresh = mk_reshape(k, mk_load(k, rows, MK_ZERO, MK_DIMS(n_rows, 1, lanes)), MK_DIMS(n_rows, lanes));
    mk_val at = mk_sub(k, mk_iota(k, 0, MK_DIMS(x->tile, lanes)), field(x, place, FIRST));
    mk_val ours = mk_and(k, mk_cmp(k, MK_GE, at, mk_i32(0)), mk_cmp(k, MK_LT, at, field(x, place, COUNT)));
    mk_store(k, narrowed(x, mk_select(k, ours, mk_broadcast(k, fresh, MK_DIMS(x->tile, lanes)), old)), tile, MK_ZERO);
    mk_copy(k, tile, home(x, place), of_ring(x, x->going, place));
}

static mk_val tiles_active(const update *x, const mk_val *state)
{
    return mk_or(x->k, less(x, state[0], mk_i32((int32_t)x->u->tokens)), less(x, state[2], state[1]));
}

static void tiles_step(const update *x, const mk_val *state, mk_val *next)
{
    mk *k = x->k;
    mk_val more = less(x, state[0], mk_i32((int32_t)x->u->tokens)), asked[2], n;
    mk_if(k, more);
    mk_val p = mk_get(k, x->page, MK_AT(state[0])), after[2];
    mk_if(k, mk_cmp(k, MK_NE, p, mk_i32(0)));
    ask_for_tile(x, state[0], p, state[1], &n);
    mk_else(k, (mk_val[]){ add(x, state[0], n), add(x, state[1], mk_i32(1)) }, 2);
    mk_end_if(k, (mk_val[]){ add(x, state[0], mk_i32(1)), state[1] }, after);
    mk_else(k, after, 2);
    mk_end_if(k, state, asked);
    mk_val waiting = mk_sub(k, asked[1], state[2]), full = mk_cmp(k, MK_GE, waiting, mk_i32((int32_t)x->ring / 2));
    mk_val last = mk_cmp(k, MK_GE, asked[0], mk_i32((int32_t)x->u->tokens));
    mk_val ripe = mk_and(k, mk_cmp(k, MK_GT, waiting, mk_i32(0)), mk_or(k, full, last));
    mk_if(k, ripe);
    if (x->of_scales) merge_scales(x, state[2]);
    else merge_tile(x, state[2]);
    mk_end_if(k, NULL, NULL);
    next[0] = asked[0];
    next[1] = asked[1];
    next[2] = mk_select(k, ripe, add(x, state[2], mk_i32(1)), state[2]);
}

static void declare_ring(update *x)
{
    mk *k = x->k;
    x->where = mk_scratch(k, x->of_scales ? "where_scales" : "where", MK_SMEM, DT_I32, MK_DIMS(x->ring, FIELDS));
    x->coming = mk_dma_sems(k, x->of_scales ? "scales_coming" : "coming", MK_DIMS(x->ring));
    x->going = mk_dma_sems(k, x->of_scales ? "scales_going" : "going", MK_DIMS(x->ring));
}

static void declare_tiles(update *x)
{
    const kv_update *u = x->u;
    x->tile = kv_update_tile(u);
    x->ring = u->single ? RING_SINGLE : RING;
    x->tiles = mk_scratch(x->k, "tiles", MK_VMEM, u->type, MK_DIMS(x->ring, x->tile, u->lanes));
    x->rows = mk_scratch(x->k, "fresh", MK_VMEM, kv_update_rows_type(u), MK_DIMS(x->ring, u->single ? 1 : x->tile, 1, u->lanes));
    declare_ring(x);
}

/* x.scales is their array. */
static void declare_page_scales(update *x)
{
    const kv_scale_shape *s = &x->u->scales;
    x->of_scales = true;
    x->tile = x->u->page;
    x->ring = x->u->single ? RING_SINGLE : RING;
    x->tiles = mk_scratch(x->k, "page_scales", MK_VMEM, DT_F32, MK_DIMS(x->ring, s->rows, 1, s->lanes));
    declare_ring(x);
}

static void write_ring(update *x)
{
    mk *k = x->k;
    const kv_update *u = x->u;
    const work w = { 3, tiles_active, tiles_step };
    mk_val state[3] = { mk_i32(0), mk_i32(0), mk_i32(0) };
    repeat(x, &w, u->tokens + x->ring / 2, state);
    mk_val i = mk_for(k, mk_i32(0), mk_min(k, state[1], mk_i32((int32_t)x->ring)), NULL, 0, NULL);
    mk_wait(k, of_ring(x, x->going, i), of_ring(x, x->tiles, i), home(x, i));
    mk_end_for(k, NULL, NULL);
}

/* The scales' operands; returns their array. */
static mk_ref declare_scales(update *x)
{
    const mk_dims fresh = kv_update_scales_dims(x->u);
    x->fresh_scales = mk_in_block(x->k, "scales", DT_F32, fresh, fresh, NULL, NULL);
    return mk_in(x->k, "scale_cache_in", DT_F32, MK_DIMS(x->u->pages, x->u->scales.rows, 1, x->u->scales.lanes));
}

/* New scales are read; the pages' are read and written. */
static double scale_bytes(const kv_update *u)
{
    const mk_dims fresh = kv_update_scales_dims(u);
    const int64_t pages = u->single ? u->tokens : (u->tokens + u->page - 1) / u->page;
    return 4 * (double)(fresh.v[0] * fresh.v[1] * fresh.v[2]) + 2 * (double)(pages * kv_scale_page_bytes(&u->scales));
}

mk *kv_update_kernel(const kv_update *u)
{
    mk *k = mk_new("kv_update");
    update x = { .k = k, .u = u };
    const char *why = kv_update_refusal(u);
    if (why) mk_fail(k, "no kernel for %s", why);
    x.page = mk_prefetch(k, "write_page", DT_I32, u->tokens);
    x.slot = mk_prefetch(k, "write_slot", DT_I32, u->tokens);
    x.first = mk_prefetch(k, "first_page", DT_I32, 1);
    x.fresh = mk_in(k, "rows", kv_update_rows_type(u), kv_update_rows_dims(u));
    mk_ref scales_in = { 0 };
    if (u->scales.lines) scales_in = declare_scales(&x);
    mk_ref in = mk_in(k, "cache_in", u->type, kv_update_cache_dims(u));
    x.cache = mk_out(k, "cache", u->type, kv_update_cache_dims(u));
    mk_alias(k, x.cache, in);
    if (u->scales.lines) {
        x.scales = mk_out(k, "scale_cache", DT_F32, MK_DIMS(u->pages, u->scales.rows, 1, u->scales.lanes));
        mk_alias(k, x.scales, scales_in);
    }
    update pages = x;
    if (kv_update_by_tile(u)) declare_tiles(&x);
    else x.sem = mk_dma_sems(k, "sem", MK_DIMS());
    if (u->scales.lines) declare_page_scales(&pages);
    if (kv_update_by_tile(u)) write_ring(&x);
    else write_rows(&x);
    if (u->scales.lines) write_ring(&pages);
    double bytes = (double)u->tokens * (double)(u->rows * u->lanes) * (double)dtype_bits(u->type) / 8;
    const mk_options o = { .bytes = bytes * (kv_update_by_tile(u) ? 2 * (double)kv_update_tile(u) : 2) + (u->scales.lines ? scale_bytes(u) : 0) };
    mk_set_options(k, &o);
    return k;
}

/* ---- tests ---- */

/* heads: of a cache with scales; of narrow heads K and V share lanes. */
static const struct kv_update_case { const char *name; kv_update small, full; int heads; bool narrow; } cases[] = {
#define SCALED(name, type, page, rows, lanes, single, n, small_page, ...) \
    { name, { type, single ? 75 : 160, 2 * 80, small_page, rows, lanes, single, { 0 }, 0 }, { type, n, 16 * 2048, page, rows, lanes, single, { 0 }, 0 }, __VA_ARGS__ }
#define CASE(name, type, page, rows, lanes, single, n) SCALED(name, type, page, rows, lanes, single, n, (page) % 32 ? (page) : 32, 0, false)
    CASE("bf16, 8 heads of 128, page 16, 2048 tokens", DT_BF16, 16, 16, 128, false, 2048),
    CASE("bf16, 8 heads of 128, page 16, decode of 64", DT_BF16, 16, 16, 128, true, 64),
    CASE("bf16, 4 heads of 256, page 48, 512 tokens", DT_BF16, 48, 8, 256, false, 512),
    CASE("f8e4m3, 8 heads of 128, page 32, 2048 tokens", DT_F8E4M3, 32, 16, 128, false, 2048),
    SCALED("i8, 8 heads of 128, page 64, 2048 tokens", DT_I8, 64, 16, 128, false, 2048, 64, 8, false),
    SCALED("i8, 8 heads of 128, page 32, decode of 64", DT_I8, 32, 16, 128, true, 64, 32, 8, false),
    SCALED("i8, 6 heads of 64, page 32, 512 tokens", DT_I8, 32, 8, 128, false, 512, 32, 6, true),
    CASE("bf16, latent 576, page 16, 2048 tokens", DT_BF16, 16, 1, 640, false, 2048),
    CASE("bf16, latent 576, page 64, decode of 256", DT_BF16, 64, 1, 640, true, 256),
    CASE("f8e4m3, latent 576, page 32, 8192 tokens", DT_F8E4M3, 32, 1, 640, false, 8192),
    CASE("f8e5m2, 1 head of 128, page 16, decode of 64", DT_F8E5M2, 16, 1, 256, true, 64),
    SCALED("i8, 2 heads of 128, page 32, 512 tokens", DT_I8, 32, 1, 512, false, 512, 32, 2, false),
    SCALED("i8, 1 head of 128, page 64, decode of 64", DT_I8, 64, 1, 256, true, 64, 64, 1, false),
    SCALED("i8, 3 heads of 64, page 32, decode of 64", DT_I8, 32, 1, 384, true, 64, 32, 3, true),
    SCALED("i8, 1 head of 128, page 128, 512 tokens", DT_I8, 128, 1, 256, false, 512, 128, 1, false),
    CASE("bf16, 1 head of 64, page 24, 512 tokens", DT_BF16, 24, 1, 128, false, 512),
    CASE("f32, 1 head of 128, page 16, 512 tokens", DT_F32, 16, 1, 256, false, 512),
    CASE("f32, 8 heads of 128, page 16, decode of 64", DT_F32, 16, 16, 128, true, 64),
#undef CASE
#undef SCALED
};

static kv_update case_of(int i, bool full)
{
    kv_update u = full ? cases[i].full : cases[i].small;
    if (cases[i].heads) u.scales = kv_scale_shape_of(cases[i].heads, cases[i].narrow, false, u.page);
    return u;
}

static void describe_case(int i, char *dst, size_t cap) { snprintf(dst, cap, "%s", cases[i].name); }

static mk *build_case(int i, const chip *c)
{
    const kv_update u = case_of(i, false);
    (void)c;
    return kv_update_kernel(&u);
}

static mk *build_full(int i, const chip *c)
{
    const kv_update u = case_of(i, true);
    (void)c;
    return kv_update_kernel(&u);
}

static double case_tolerance(int i) { (void)i; return 0; }

/* Whole pages of new tokens, or one token a sequence. */
static mk *build_profile(int i, const chip *c)
{
    kv_update u = case_of(i, true);
    int64_t run = u.single ? 1 : kv_update_by_tile(&u) ? kv_update_tile(&u) : u.page;
    (void)c;
    u.fixed_runs = u.tokens / run;
    return kv_update_kernel(&u);
}

static status profile(int i, const chip *c, mk *k, kernel_bound *least)
{
    const kv_update full = case_of(i, true), *u = &full;
    double rows = (double)(u->tokens * u->rows * u->lanes), touched = kv_update_by_tile(u) && u->single ? (double)kv_update_tile(u) : 1;
    (void)c, (void)k;
    /* new rows are read, and rows of the cache written; a tile of which one row is new is read and written */
    least->bytes = rows * (double)dtype_bytes(kv_update_rows_type(u), 1) + rows * touched * (double)dtype_bytes(u->type, 1) * (touched > 1 ? 2 : 1);
    if (u->scales.lines) least->bytes += scale_bytes(u);
    return ST_OK;
}

/* Sequences of a few tokens or of up to 1.5 pages, each from some slot on, on pages that nobody else has; at the end padding. More runs
 * than a ring has places. */
static void fill_places(const kv_update *u, uint64_t *state, int32_t *page, int32_t *slot)
{
    int64_t t = 0, real = u->tokens - u->tokens / 6;
    int32_t free_page = (int32_t)(u->pages / 2) - 1;
    while (t < real) {
        int64_t n = u->single ? 1 : 1 + kernel_draw(state) % (kernel_draw(state) % 4 ? 4 : u->page + u->page / 2), at = kernel_draw(state) % u->page;
        for (; n && t < real; n--, at++, t++) {
            if (at && at % u->page == 0) free_page--;
            page[t] = free_page;
            slot[t] = (int32_t)(at % u->page);
        }
        free_page--;
    }
    for (; t < u->tokens; t++) page[t] = slot[t] = 0;
}

/* Numbers that the type can hold, of either kind of memory. */
static void fill_numbers(dtype cache, dtype type, uint64_t *state, void *dst, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float x = (float)(kernel_draw(state) % 4001 - 2000) / 512;
        uint8_t code = cache == DT_F8E4M3 ? f32_to_f8e4m3(x) : cache == DT_F8E5M2 ? f32_to_f8e5m2(x) : (uint8_t)kernel_draw(state);
        if (cache == DT_BF16) x = bf16_to_f32(f32_to_bf16(x));
        if (type == DT_F32) ((float *)dst)[i] = x;
        else if (type == DT_BF16) ((uint16_t *)dst)[i] = f32_to_bf16(x);
        else if (type == DT_I32) ((int32_t *)dst)[i] = (int8_t)code;
        else ((uint8_t *)dst)[i] = code;
    }
}

enum { WRITE_PAGE, WRITE_SLOT, FIRST_PAGE, ROWS, SCALES, SCALE_CACHE };

/* Around the tokens' numbers there is nothing that anybody may read; in pages nothing behind the last line. */
static void fill_scales(const kv_update *u, uint64_t *state, float *fresh, float *cache)
{
    const mk_dims dims = kv_update_scales_dims(u);
    const kv_scale_shape *s = &u->scales;
    for (int64_t i = 0; i < dims.v[0] * dims.v[1] * dims.v[2]; i++) fresh[i] = NAN;
    for (int64_t i = 0; i < s->lines * u->tokens * s->per; i++) {
        int64_t line = i / (u->tokens * s->per), at = kv_update_scales_before(u, line) + i % (u->tokens * s->per);
        fresh[(at / LANES * s->lines + line) * LANES + at % LANES] = kernel_draw_float(state);
    }
    for (int64_t i = 0; i < u->pages * s->rows * s->lanes; i++) cache[i] = i % (s->rows * s->lanes) < s->lines * s->line ? kernel_draw_float(state) : 0;
}

static void fill_case(int i, const mk *k, uint64_t seed, void *const *operands)
{
    const kv_update small = case_of(i, false), *u = &small;
    uint64_t state = seed * 0x9E3779B97F4A7C15u + (uint64_t)i;
    fill_places(u, &state, operands[WRITE_PAGE], operands[WRITE_SLOT]);
    *(int32_t *)operands[FIRST_PAGE] = (int32_t)(u->pages / 2);
    if (u->scales.lines) fill_scales(u, &state, operands[SCALES], operands[SCALE_CACHE]);
    for (int j = ROWS; j < mk_n_operands(k); j = j == ROWS ? mk_n_operands(k) - 1 : j + 1) {
        mk_operand o = mk_operand_at(k, j);
        int64_t n = 1;
        for (int d = 0; d < o.rank; d++) n *= o.dim[d];
        fill_numbers(u->type, o.type, &state, operands[j], n);
    }
}

static float row_number(const kv_update *u, const void *rows, int64_t at)
{
    float x;
    if (kv_update_rows_type(u) != DT_I32) {
        dtype_to_f32(kv_update_rows_type(u), (const char *)rows + dtype_bytes(kv_update_rows_type(u), (size_t)at), &x, 1);
        return x;
    }
    int8_t code = (int8_t)((const int32_t *)rows)[at];
    dtype_to_f32(u->type, &code, &x, 1);
    return x;
}

static void ref_scales(const kv_update *u, void *const *operands, float *out)
{
    const kv_scale_shape *s = &u->scales;
    const int32_t *page = operands[WRITE_PAGE], *slot = operands[WRITE_SLOT], first = *(const int32_t *)operands[FIRST_PAGE];
    const int64_t each = s->rows * s->lanes;
    const float *fresh = operands[SCALES];
    memcpy(out, operands[SCALE_CACHE], (size_t)(u->pages * each) * sizeof *out);
    for (int64_t t = 0; t < u->tokens; t++)
        for (int64_t i = 0; page[t] && i < s->lines * s->per; i++) {
            int64_t line = i / s->per, at = kv_update_scales_before(u, line) + t * s->per + i % s->per;
            out[(page[t] + first) * each + line * s->line + slot[t] * s->per + i % s->per] = fresh[(at / LANES * s->lines + line) * LANES + at % LANES];
        }
}

static status ref_case(int i, const mk *k, void *const *operands, float *const *results)
{
    const kv_update small = case_of(i, false), *u = &small;
    const int32_t *page = operands[WRITE_PAGE], *slot = operands[WRITE_SLOT], first = *(const int32_t *)operands[FIRST_PAGE];
    int64_t each = u->rows * u->lanes, before = (kv_update_rows_dims(u).v[0] - u->tokens) / 2;
    dtype_to_f32(u->type, operands[mk_n_operands(k) - 1], results[0], (size_t)(u->pages * u->page * each));
    for (int64_t t = 0; t < u->tokens; t++)
        for (int64_t j = 0; page[t] && j < each; j++) results[0][((page[t] + first) * u->page + slot[t]) * each + j] = row_number(u, operands[ROWS], (t + before) * each + j);
    if (u->scales.lines) ref_scales(u, operands, results[1]);
    return ST_OK;
}

const kernel_impl kernel_kv_update = {
    .name = "kv_update", .n_cases = (int)(sizeof cases / sizeof *cases), .describe = describe_case, .build = build_case, .build_full = build_full, .fill = fill_case,
    .ref = ref_case, .tolerance = case_tolerance, .build_profile = build_profile, .profile = profile
};
