/* Paged attention in StableHLO: the tokens' K and V are written into the flat cache, then softmax runs over blocks of keys
 * with a running maximum and sum, in a loop whose trip count comes from the step's data. So temporaries are one block, not
 * the longest context, and short contexts cost little in a program that serves long ones.
 *
 *   one token per sequence    all sequences at once: rows are the query heads of a kv head
 *   more tokens               one tile of queries at a time, in an outer loop over the step's tiles
 *
 * Both are the same loop over [B, kv_heads, n] rows of queries of which each row sees a range of keys. What is in a page besides
 * a row's keys never reaches its result, not even a NaN that another sequence left there.
 *
 * docs/performance.md, "Attention in StableHLO", has the variants that were measured. */
#include <math.h>

#include "ops/op.h"
#include "ops/paged_attention/attention.h"
#include "ops/paged_attention/kv_update.h"
#include "ops/paged_attention/mla.h"
#include "ops/paged_attention/ragged.h"

enum { Q, K, VAL, SINKS, SCALES };
enum { LANES = 128, HALF = LANES / 2, BLOCK_BYTES = 32 << 20, PART_BYTES = 1 << 20, SINGLE_TOKENS = 128, TILE_TOKENS = 512 };

/* Below every score; finite, so that differences are. */

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* Heads are rows where that makes 8 or a multiple of 16, which no chip pads or turns. Few heads lie side by side in one row: two
 * or four rows would be turned, because the products want a head's keys together and compilers then copy the cache. */
hlo_kv hlo_kv_padded(dtype type, int64_t kv_heads, int64_t head_dim, int multiple)
{
    hlo_kv kv = { .type = type, .heads = kv_heads, .dim = head_dim, .narrow = head_dim <= HALF && multiple < LANES };
    int64_t pieces = kv.narrow ? kv_heads : 2 * kv_heads, width = kv.width = round_up(head_dim, multiple > LANES ? multiple : LANES);
    if (kv_side_by_side(kv_heads, kv.narrow)) {
        kv.rows = 1;
        kv.lanes = pieces * width;
        kv.head_lanes = width;
        kv.v_lane = kv.narrow ? HALF : kv_heads * width;
    } else {
        kv.rows = pieces <= 8 ? 8 : round_up(pieces, 16);
        kv.lanes = width;
        kv.v_row = kv.narrow ? 0 : kv.rows / 2;     /* both at a whole word, in which a kernel finds two or four heads */
        kv.v_lane = kv.narrow ? HALF : 0;
    }
    return kv;
}

hlo_kv hlo_kv_of(dtype type, int64_t kv_heads, int64_t head_dim) { return hlo_kv_padded(type, kv_heads, head_dim, 0); }

/* One row, as it is one head's: values are its first lanes. */
static hlo_kv latent_kv(dtype type, int64_t dim)
{
    int64_t lanes = round_up(dim, LANES);
    return (hlo_kv){ .type = type, .heads = 1, .dim = dim, .rows = 1, .lanes = lanes, .head_lanes = lanes, .width = lanes, .latent = true };
}

static hlo_kv kv_of(const node *attention, dtype type, const int64_t k[3], int multiple)
{
    return attention->a.paged_attention.latent ? latent_kv(type, k[2]) : hlo_kv_padded(type, k[1], k[2], multiple);
}

hlo_kv hlo_kv_for(const graph *g, const node *attention, dtype type, int multiple)
{
    return kv_of(attention, type, graph_node(g, attention->in[K])->s.dim, multiple);
}

/* The type of both products' operands: the one that loses nothing of activations and cache. */
static dtype product_type(dtype act, dtype kv)
{
    size_t a = dtype_bits(act), b = dtype_bits(kv);
    return act == kv || (a > b && (b == 8 || a == 32)) ? act : b == 32 ? kv : DT_F32;
}

/* ---- writing ---- */

hlo_val kv_scale(hlo_call *c, bool of_values)
{
    const int64_t at = of_values && !c->n->a.paged_attention.latent;
    if (!op_has_in(c->n, SCALES)) return (hlo_val){ 0 };
    return hlo_reshape(c->h, hlo_slice(c->h, hlo_convert(c->h, c->in[SCALES], DT_F32), 0, at, at + 1), 0, NULL);
}

/* x [..] times the scalar, if there is one. */
static hlo_val times(hlo *h, hlo_val x, hlo_val scale)
{
    return hlo_is(scale) ? hlo_bin(h, "multiply", x, hlo_full_like(h, scale, x)) : x;
}

/* x, divided by the scalar if there is one, in the cache's type. 8-bit floats saturate, as on the CPU (ops/kv.h); stablehlo.convert would make NaN or infinity of what is too large. */
static hlo_val kv_number(hlo *h, hlo_val x, dtype type, hlo_val scale)
{
    if (hlo_is(scale)) x = hlo_bin(h, "divide", hlo_convert(h, x, DT_F32), hlo_full_like(h, scale, x));
    double most = type == DT_F8E4M3 ? 448 : type == DT_F8E5M2 ? 57344 : 0;
    if (most == 0) return hlo_convert(h, x, type);
    x = hlo_convert(h, x, DT_F32);
    x = hlo_bin(h, "minimum", x, hlo_full_like(h, hlo_float(h, DT_F32, most), x));
    return hlo_convert(h, hlo_bin(h, "maximum", x, hlo_full_like(h, hlo_float(h, DT_F32, -most), x)), type);
}

/* x [T, heads, d] in DT_I8, and the scale of each token's head, f32 [T, heads]: ops/kv.h has the rule. */
static hlo_val int8_number(hlo *h, hlo_val x, hlo_val *scale)
{
    x = hlo_convert(h, x, DT_F32);
    hlo_val most = hlo_reduce(h, "maximum", hlo_un(h, "abs", x), 2), zero = hlo_full_like(h, hlo_float(h, DT_F32, 0), most);
    hlo_val infinite = hlo_full_like(h, hlo_float(h, DT_F32, INFINITY), most), factor = hlo_bin(h, "divide", hlo_full_like(h, hlo_float(h, DT_F32, 127), most), most);
    hlo_val finite = hlo_cmp(h, "LT", most, infinite), some = hlo_bin(h, "and", finite, hlo_cmp(h, "LT", factor, infinite));
    *scale = hlo_select(h, some, hlo_bin_scalar(h, "divide", most, 127), hlo_select(h, finite, zero, hlo_bin(h, "subtract", most, most)));   /* inf - inf: NaN */
    hlo_val q = hlo_un(h, "round_nearest_even", hlo_bin(h, "multiply", x, hlo_broadcast_at(h, factor, 0, x)));
    return hlo_convert(h, hlo_select(h, hlo_broadcast_at(h, some, 0, q), q, hlo_full_like(h, hlo_float(h, DT_F32, 0), q)), DT_I8);
}

void kv_numbers(hlo_call *c, const hlo_kv *kv, hlo_val out[2], hlo_val scales[2])
{
    hlo *h = c->h;
    for (int i = 0; i < (kv->latent ? 1 : 2); i++) {
        out[i] = kv_number(h, c->in[i ? VAL : K], kv->type == DT_I8 ? DT_F32 : kv->type, kv_scale(c, i));
        if (kv->type == DT_I8) out[i] = int8_number(h, out[i], &scales[i]);
    }
}

hlo_val kv_cache_rows(hlo_call *c, const hlo_kv *kv, const hlo_val numbers[2])
{
    hlo *h = c->h;
    hlo_val in[2] = { numbers[0], numbers[1] }, zero = kv->type == DT_I8 ? hlo_int(h, DT_I8, 0) : hlo_float(h, kv->type, 0);
    if (kv->latent) return hlo_reshape(h, hlo_pad(h, in[0], 2, 0, kv->lanes - kv->dim, zero), 3, (int64_t[]){ c->step->T, 1, kv->lanes });
    int64_t width = kv->narrow ? HALF : kv->width;
    for (int i = 0; i < 2; i++) in[i] = hlo_pad(h, in[i], 2, 0, width - kv->dim, zero);
    for (int i = 0; kv->v_row && i < 2; i++) in[i] = hlo_pad(h, in[i], 1, 0, kv->v_row - kv->heads, zero);
    hlo_val all = hlo_concat(h, in, 2, kv->narrow ? 2 : 1);
    if (kv->head_lanes) return hlo_reshape(h, all, 3, (int64_t[]){ c->step->T, 1, kv->lanes });
    return hlo_pad(h, all, 1, 0, kv->rows - all.dim[1], zero);
}

hlo_val kv_cache_scales(hlo_call *c, const hlo_kv *kv, const hlo_val scales[2])
{
    hlo *h = c->h;
    const kv_scale_shape s = hlo_kv_scales(kv, c->step->page);
    hlo_val all[2];
    for (int i = 0; i < (kv->latent ? 1 : 2); i++) all[i] = hlo_pad(h, scales[i], 1, 0, round_up(kv->heads, s.per) - kv->heads, hlo_float(h, DT_F32, 0));
    hlo_val x = kv->latent ? all[0] : hlo_concat(h, all, 2, 1);
    return hlo_reshape(h, x, 3, (int64_t[]){ c->step->T, s.lines, s.per });
}

/* Of x [n, lines, per] what `page` rows from each on hold, one behind the other: [n + 1 - page, lines, page * per]. */
static hlo_val windows_of(hlo *h, hlo_val x, int64_t page)
{
    const int64_t per = x.dim[2];
    for (int64_t have = 1, want; have < page; have = want) {
        want = 2 * have < page ? 2 * have : page;
        const int64_t more = want - have, n = x.dim[0] - more;
        hlo_val part[2] = { hlo_slice(h, x, 0, 0, n), hlo_slice(h, hlo_slice(h, x, 0, more, more + n), 2, (have - more) * per, have * per) };
        x = hlo_concat(h, part, 2, 2);
    }
    return x;
}

/* Pages are read, changed and written whole: compilers scatter rows in place, but copy an array of which they scatter numbers. Tokens of
 * one page follow each other, in the step as on the page, so the page of each is the same: with all of them. page, slot i32 [T]. */
static void write_scales(hlo_call *c, const hlo_kv *kv, const hlo_val scales[2], hlo_val page, hlo_val slot)
{
    hlo *h = c->h;
    const kv_scale_shape s = hlo_kv_scales(kv, c->step->page);
    const int64_t T = c->step->T, before = c->step->page - 1, all[] = { T, s.lines, s.line }, numbers = s.rows * s.lanes;
    hlo_val ids = hlo_broadcast(h, page, (int[]){ 0 }, 3, (int64_t[]){ T, 1, s.per });
    hlo_val around = windows_of(h, hlo_pad(h, kv_cache_scales(c, kv, scales), 0, before, before, hlo_float(h, DT_F32, 0)), c->step->page);
    hlo_val pages = windows_of(h, hlo_pad(h, ids, 0, before, before, hlo_int(h, DT_I32, -1)), c->step->page);
    hlo_val first = hlo_bin_scalar(h, "add", hlo_bin(h, "subtract", hlo_iota(h, DT_I32, 0, 1, &T), slot), (double)before);
    hlo_val same = hlo_reshape(h, hlo_take(h, pages, first), 2, (int64_t[]){ T, s.line });
    same = hlo_cmp(h, "EQ", same, hlo_broadcast_at(h, page, 0, same));
    hlo_val old = hlo_take(h, c->cache_scales, page), was = hlo_slice(h, hlo_reshape(h, old, 2, (int64_t[]){ T, numbers }), 1, 0, s.lines * s.line);
    was = hlo_reshape(h, was, 3, all);
    hlo_val is = hlo_select(h, hlo_broadcast(h, same, (int[]){ 0, 2 }, 3, all), hlo_take(h, around, first), was);
    is = hlo_pad(h, hlo_reshape(h, is, 2, (int64_t[]){ T, s.lines * s.line }), 1, 0, numbers - s.lines * s.line, hlo_float(h, DT_F32, 0));
    c->cache_scales = hlo_put(h, c->cache_scales, hlo_reshape(h, page, 2, (int64_t[]){ T, 1 }), hlo_reshape(h, is, 4, old.dim));
}

static void write_cache(hlo_call *c, const hlo_kv *kv)
{
    hlo *h = c->h;
    const hlo_step *s = c->step;
    hlo_val numbers[2], scales[2], page = hlo_bin(h, "add", s->write_page, hlo_full_like(h, c->first_page, s->write_page));
    hlo_val at[2] = { hlo_reshape(h, page, 2, (int64_t[]){ s->T, 1 }), hlo_reshape(h, s->write_slot, 2, (int64_t[]){ s->T, 1 }) };
    hlo_val where = hlo_concat(h, at, 2, 1);
    kv_numbers(c, kv, numbers, scales);
    c->cache = hlo_put(h, c->cache, where, kv_cache_rows(c, kv, numbers));
    if (hlo_is(c->cache_scales)) write_scales(c, kv, scales, page, s->write_slot);
}

/* ---- reading ---- */

/* B sequences, n rows of queries for each KV head; blocks of `pages` pages are `tokens` keys. */
typedef struct reader {
    hlo_call *c;
    hlo_kv kv;
    dtype type;                     /* of products */
    int64_t B, group, n, pages, tokens;
    int64_t page, split;            /* tokens of what is read as a page: the split-th part of one */
    hlo_val q;                      /* [B, kv_heads, n, kv.width] */
    hlo_val table;                  /* [B, blocks * pages] */
    hlo_val lo, hi;                 /* i32 [B, n] keys that a row sees: lo <= position < hi; hi 0 = none */
    hlo_val key_lo, key_hi;         /* i32 [B] keys that some row sees */
    hlo_val k_scale;                /* f32 scalar: keys were divided by it; none = they were not */
} reader;

/* Large pages are read in parts: a block shall not be longer for them, and compilers copy the whole cache when what is gathered
 * at once is 4 MiB. */
static int64_t part_of_page(int64_t page, int64_t most_tokens, int64_t token_bytes)
{
    while ((page > most_tokens || page * token_bytes > PART_BYTES) && page % 2 == 0) page /= 2;
    return page;
}

/* As many pages as keep a block of B sequences within the step's bytes, and within `most_tokens`. */
static void reader_init(reader *r, hlo_call *c, const hlo_kv *kv, int64_t B, int64_t queries, int64_t most_tokens)
{
    const hlo_step *s = c->step;
    *r = (reader){ .c = c, .kv = *kv, .B = B, .group = c->in[Q].dim[1] / kv->heads, .type = product_type(s->act, kv->type), .k_scale = kv_scale(c, false) };
    const int64_t token_bytes = (int64_t)dtype_bytes(kv->type, (size_t)(kv->rows * kv->lanes));
    r->page = part_of_page(s->page, most_tokens, token_bytes);
    r->split = s->page / r->page;
    const int64_t max_pages = s->max_pages * r->split;
    int64_t page_bytes = B * r->page * token_bytes, most = most_tokens / r->page;
    int64_t bytes = s->kv_block ? s->kv_block : BLOCK_BYTES;
    if (most > bytes / page_bytes) most = bytes / page_bytes;
    if (most > max_pages) most = max_pages;
    r->n = queries * r->group;
    r->pages = 1;
    while (r->pages * 2 <= most) r->pages *= 2;
    if (most == max_pages) r->pages = most;
    r->tokens = r->pages * r->page;
}

/* q [B, kv_heads, n, d] with zeros up to whole lanes: where K and V share lanes, the zeros hide V. */
static void set_queries(reader *r, hlo_val q)
{
    hlo *h = r->c->h;
    r->q = hlo_pad(h, hlo_convert(h, q, r->type), 3, 0, r->kv.width - r->kv.dim, hlo_float(h, r->type, 0));
}

/* The page table, in parts of pages, with whole blocks in each row. */
static hlo_val padded_table(const reader *r)
{
    hlo *h = r->c->h;
    hlo_val table = r->c->step->page_table;
    int64_t n = table.dim[1] * r->split, more = round_up(n, r->pages) - n, dim[] = { table.dim[0], table.dim[1], r->split };
    if (r->split > 1) {
        table = hlo_broadcast(h, hlo_bin_scalar(h, "multiply", table, (double)r->split), (int[]){ 0, 1 }, 3, dim);
        table = hlo_reshape(h, hlo_bin(h, "add", table, hlo_iota(h, DT_I32, 2, 3, dim)), 2, (int64_t[]){ dim[0], n });
    }
    return more ? hlo_pad(h, table, 1, 0, more, hlo_int(h, DT_I32, 0)) : table;
}

/* From hi [..], one more than a query's position: the first key that it sees. */
static hlo_val first_key(const reader *r, hlo_val hi)
{
    int64_t window = r->c->n->a.paged_attention.window, chunk = r->c->n->a.paged_attention.chunk;
    hlo *h = r->c->h;
    hlo_val lo = hlo_full_like(h, hlo_int(h, DT_I32, 0), hi);
    if (window) lo = hlo_bin(h, "maximum", hlo_bin_scalar(h, "subtract", hi, (double)window), lo);
    if (!chunk) return lo;
    hlo_val number = hlo_bin_scalar(h, "divide", hlo_bin_scalar(h, "subtract", hi, 1), (double)chunk);
    return hlo_bin(h, "maximum", hlo_bin_scalar(h, "multiply", number, (double)chunk), lo);
}

/* Blocks [from, to) that some row needs. */
static void block_range(reader *r, hlo_val *from, hlo_val *to)
{
    hlo *h = r->c->h;
    hlo_val none = hlo_full_like(h, hlo_int(h, DT_I32, INT32_MAX), r->lo);
    r->key_lo = hlo_reduce(h, "minimum", hlo_select(h, hlo_cmp(h, "GT", r->hi, r->lo), r->lo, none), 1);
    r->key_hi = hlo_reduce(h, "maximum", r->hi, 1);
    *from = hlo_bin_scalar(h, "divide", hlo_reduce(h, "minimum", r->key_lo, 0), (double)r->tokens);
    *to = hlo_bin_scalar(h, "divide", hlo_bin_scalar(h, "add", hlo_reduce(h, "maximum", r->key_hi, 0), (double)(r->tokens - 1)), (double)r->tokens);
}

/* lo <= position < hi for the keys of block i: lo, hi [..] -> i1 [.., tokens]. */
static hlo_val seen(const reader *r, hlo_val i, hlo_val lo, hlo_val hi)
{
    hlo *h = r->c->h;
    int64_t dim[HLO_RANK] = { r->B, r->n };
    static const int same[] = { 0, 1, 2, 3 };
    dim[lo.rank] = r->tokens;
    hlo_val first = hlo_bin_scalar(h, "multiply", i, (double)r->tokens);
    hlo_val pos = hlo_bin(h, "add", hlo_iota(h, DT_I32, lo.rank, lo.rank + 1, dim), hlo_full(h, first, lo.rank + 1, dim));
    hlo_val in = hlo_cmp(h, "LT", pos, hlo_broadcast(h, hi, same, lo.rank + 1, dim));
    return hlo_bin(h, "and", in, hlo_cmp(h, "GE", pos, hlo_broadcast(h, lo, same, lo.rank + 1, dim)));
}

/* The heads of a block `all` [B, tokens, rows, lanes], from a row and lane on: [B, kv_heads, tokens, kv.width] */
static hlo_val heads_of_block(const reader *r, hlo_val all, int64_t row, int64_t lane)
{
    hlo *h = r->c->h;
    hlo_val head[4];
    int64_t width = r->kv.width;
    if (!r->kv.head_lanes) return hlo_transpose(h, hlo_slice(h, all, 2, row, row + r->kv.heads), (int[]){ 0, 2, 1, 3 });
    for (int64_t i = 0; i < r->kv.heads; i++) {
        int64_t at = lane + i * r->kv.head_lanes;
        head[i] = hlo_reshape(h, hlo_slice(h, all, 3, at, at + width), 4, (int64_t[]){ r->B, 1, r->tokens, width });
    }
    return hlo_concat(h, head, (int)r->kv.heads, 1);
}

/* Numbers of a value, and the lanes that they come in. */
static int64_t v_dim(const reader *r) { return r->kv.latent ? r->c->n->a.paged_attention.latent : r->kv.dim; }
static int64_t v_width(const reader *r) { return r->kv.latent ? round_up(v_dim(r), LANES) : r->kv.width; }

/* Numbers of the pages, or parts of them, of block i: i32 [B, pages]. */
static hlo_val pages_of_block(const reader *r, hlo_val i)
{
    hlo *h = r->c->h;
    hlo_val at[2] = { { 0 }, hlo_bin_scalar(h, "multiply", i, (double)r->pages) };
    return hlo_dynamic_slice(h, r->table, at, (int64_t[]){ r->B, r->pages });
}

/* Block i of the cache: [B, tokens, rows, lanes] */
static hlo_val block_of(const reader *r, hlo_val array, hlo_val i)
{
    hlo *h = r->c->h;
    const int64_t rows = array.dim[2], lanes = array.dim[3];
    hlo_val ids = pages_of_block(r, i), first = r->c->first_page;
    if (r->split > 1) {
        first = hlo_bin_scalar(h, "multiply", first, (double)r->split);
        array = hlo_reshape(h, array, 4, (int64_t[]){ array.dim[0] * r->split, r->page, rows, lanes });
    }
    ids = hlo_bin(h, "add", ids, hlo_full_like(h, first, ids));
    return hlo_reshape(h, hlo_take(h, array, ids), 4, (int64_t[]){ r->B, r->tokens, rows, lanes });
}

/* Keys and values of a block: [B, kv_heads, tokens, kv.width and v_width]. Values that nobody sees are 0. Scales, if there are any, f32
 * [B, kv_heads, tokens], multiply scores and weights. */
typedef struct block { hlo_val k, v, k_scales, v_scales; } block;

static hlo_val seen_or_zero(const reader *r, hlo_val i, hlo_val x)
{
    hlo *h = r->c->h;
    hlo_val mask = hlo_broadcast(h, seen(r, i, r->key_lo, r->key_hi), (int[]){ 0, 2 }, x.rank, x.dim);
    return hlo_select(h, mask, x, hlo_full_like(h, hlo_float(h, x.type, 0), x));
}

/* The scales of a block's pages, or of the parts of them that it has: [B * pages, lines, page, per] */
static hlo_val block_scales(const reader *r, hlo_val i)
{
    hlo *h = r->c->h;
    const kv_scale_shape s = hlo_kv_scales(&r->kv, r->c->step->page);
    const int64_t n = r->B * r->pages, parts = n * r->split;
    hlo_val ids = hlo_reshape(h, pages_of_block(r, i), 1, &n);
    hlo_val pages = r->split > 1 ? hlo_bin_scalar(h, "divide", ids, (double)r->split) : ids;
    hlo_val all = hlo_take(h, r->c->cache_scales, hlo_bin(h, "add", pages, hlo_full_like(h, r->c->first_page, pages)));
    all = hlo_slice(h, hlo_reshape(h, all, 2, (int64_t[]){ n, s.rows * s.lanes }), 1, 0, s.lines * s.line);
    if (r->split == 1) return hlo_reshape(h, all, 4, (int64_t[]){ n, s.lines, r->page, s.per });
    all = hlo_reshape(h, all, 5, (int64_t[]){ n, s.lines, r->split, r->page, s.per });
    all = hlo_reshape(h, hlo_transpose(h, all, (int[]){ 0, 2, 1, 3, 4 }), 4, (int64_t[]){ parts, s.lines, r->page, s.per });
    hlo_val first = hlo_bin_scalar(h, "multiply", hlo_iota(h, DT_I32, 0, 1, &n), (double)r->split);
    return hlo_take(h, all, hlo_bin(h, "add", first, hlo_bin_scalar(h, "remainder", ids, (double)r->split)));
}

static void load_scales(const reader *r, hlo_val i, block *b)
{
    hlo *h = r->c->h;
    const kv_scale_shape s = hlo_kv_scales(&r->kv, r->c->step->page);
    const int64_t heads = r->kv.heads, of_values = s.lines / 2 * s.per;
    hlo_val all = hlo_reshape(h, block_scales(r, i), 5, (int64_t[]){ r->B, r->pages, s.lines, r->page, s.per });
    all = hlo_reshape(h, hlo_transpose(h, all, (int[]){ 0, 2, 4, 1, 3 }), 3, (int64_t[]){ r->B, s.lines * s.per, r->tokens });
    b->k_scales = hlo_slice(h, all, 1, 0, heads);
    b->v_scales = seen_or_zero(r, i, r->kv.latent ? b->k_scales : hlo_slice(h, all, 1, of_values, of_values + heads));
}

static block load_block(const reader *r, hlo_val i)
{
    hlo *h = r->c->h;
    block b = { 0 };
    hlo_val all = block_of(r, r->c->cache, i);
    b.k = hlo_convert(h, heads_of_block(r, all, 0, 0), r->type);
    b.v = r->kv.narrow ? b.k : r->kv.latent ? hlo_slice(h, b.k, 3, 0, v_width(r)) : hlo_convert(h, heads_of_block(r, all, r->kv.v_row, r->kv.v_lane), r->type);
    b.v = seen_or_zero(r, i, b.v);
    if (hlo_is(r->c->cache_scales)) load_scales(r, i, &b);
    return b;
}

/* x [B, kv_heads, n, tokens] by a factor for each key, if there is one. */
static hlo_val by_key(hlo *h, hlo_val x, hlo_val scales)
{
    return hlo_is(scales) ? hlo_bin(h, "multiply", x, hlo_broadcast(h, scales, (int[]){ 0, 1, 3 }, 4, x.dim)) : x;
}

static hlo_val capped(const reader *r, hlo_val s)
{
    double cap = r->c->n->a.paged_attention.softcap;
    hlo *h = r->c->h;
    if (cap == 0) return s;
    return hlo_bin_scalar(h, "multiply", hlo_un(h, "tanh", hlo_bin_scalar(h, "divide", s, cap)), cap);
}

/* One block: greatest score m, sum of weights l [B, kv_heads, n] and weighted sum of values acc [B, kv_heads, n, v_width], all f32. */
static void attend_block(const reader *r, hlo_val i, hlo_val state[3])
{
    hlo *h = r->c->h;
    const block b = load_block(r, i);
    hlo_val s = hlo_dot(h, r->q, b.k, HLO_DIMS(0, 1), HLO_DIMS(0, 1), HLO_DIMS(3), HLO_DIMS(3), DT_F32);
    s = by_key(h, s, b.k_scales);
    s = capped(r, times(h, hlo_bin_scalar(h, "multiply", s, r->c->n->a.paged_attention.scale), r->k_scale));
    hlo_val mask = hlo_broadcast(h, seen(r, i, r->lo, r->hi), (int[]){ 0, 2, 3 }, 4, s.dim);
    hlo_val fade, p = hlo_softmax_block(h, s, mask, &state[0], &state[1], &fade);
    hlo_val pv = hlo_dot(h, hlo_convert(h, by_key(h, p, b.v_scales), r->type), b.v, HLO_DIMS(0, 1), HLO_DIMS(0, 1), HLO_DIMS(3), HLO_DIMS(2), DT_F32);
    state[2] = hlo_bin(h, "add", hlo_bin(h, "multiply", state[2], hlo_broadcast_at(h, fade, 0, state[2])), pv);
}

/* Every row's softmax begins with its head's sink, which weighs 1 and has no value: rows are [queries, group]. */
static void start_with_sinks(const reader *r, hlo_val state[3])
{
    hlo *h = r->c->h;
    hlo_val sinks = hlo_reshape(h, hlo_convert(h, r->c->in[SINKS], DT_F32), 2, (int64_t[]){ r->kv.heads, r->group });
    sinks = hlo_broadcast(h, sinks, (int[]){ 1, 3 }, 4, (int64_t[]){ r->B, r->kv.heads, r->n / r->group, r->group });
    state[0] = hlo_reshape(h, sinks, 3, state[0].dim);
    state[1] = hlo_full_like(h, hlo_float(h, DT_F32, 1), state[1]);
}

/* The loop over blocks: [B, kv_heads, n, v_dim] of type act; rows that see no key are 0. */
static hlo_val attend(reader *r)
{
    hlo *h = r->c->h;
    hlo_val from, to, state[3];
    int64_t dim[] = { r->B, r->kv.heads, r->n, v_width(r) };
    block_range(r, &from, &to);
    for (int i = 0; i < 3; i++) state[i] = hlo_full(h, hlo_float(h, DT_F32, i ? 0 : HLO_NO_SCORE), i == 2 ? 4 : 3, dim);
    if (op_has_in(r->c->n, SINKS)) start_with_sinks(r, state);
    hlo_val i = hlo_for(h, from, to, state, 3, state);
    attend_block(r, i, state);
    hlo_end_for(h, state, state);
    hlo_val sum = hlo_bin_scalar(h, "maximum", state[1], 1e-30);     /* at least 1 where there is a key */
    hlo_val out = times(h, hlo_bin(h, "divide", state[2], hlo_broadcast_at(h, sum, 0, state[2])), kv_scale(r->c, true));
    int64_t lane = r->kv.narrow ? HALF : 0;
    return hlo_convert(h, hlo_slice(h, out, 3, lane, lane + v_dim(r)), r->c->step->act);
}

/* ---- one token per sequence ---- */

/* q [S, heads, d]; sequences whose kv_len is 0 give 0. */
static hlo_val attend_single(hlo_call *c, const hlo_kv *kv, hlo_val q)
{
    hlo *h = c->h;
    const hlo_step *s = c->step;
    reader r;
    reader_init(&r, c, kv, s->S, 1, SINGLE_TOKENS);
    hlo_comment(h, "attention of one token per sequence: blocks of %lld keys", (long long)r.tokens);
    set_queries(&r, hlo_reshape(h, q, 4, (int64_t[]){ s->S, kv->heads, r.group, kv->dim }));
    r.table = padded_table(&r);
    r.hi = hlo_broadcast(h, s->kv_lens, (int[]){ 0 }, 2, (int64_t[]){ s->S, r.n });
    r.lo = first_key(&r, r.hi);
    return hlo_reshape(h, attend(&r), 3, (int64_t[]){ s->S, q.dim[1], v_dim(&r) });
}

/* ---- tiles of queries ---- */

/* hlo_step.see of the tile's queries, the first of which is token `token`, for each row. */
static hlo_val tile_see(const reader *r, hlo_val token)
{
    hlo *h = r->c->h;
    const int64_t tile = r->c->step->q_tile;
    hlo_val see = hlo_pad(h, r->c->step->see, 0, 0, tile, hlo_int(h, DT_I32, 0));
    see = hlo_dynamic_slice(h, see, &token, &tile);
    return hlo_reshape(h, hlo_broadcast(h, see, (int[]){ 0 }, 2, (int64_t[]){ tile, r->group }), 2, (int64_t[]){ 1, r->n });
}

/* Row i is of query i / group; query j is at position pos + j and sees what is before it, or as far as the step says. */
static void tile_ranges(reader *r, hlo_val token, hlo_val pos, hlo_val len)
{
    hlo *h = r->c->h;
    int64_t dim[] = { 1, r->n };
    hlo_val query = hlo_bin_scalar(h, "divide", hlo_iota(h, DT_I32, 1, 2, dim), (double)r->group);
    hlo_val hi = hlo_bin_scalar(h, "add", hlo_bin(h, "add", query, hlo_full(h, pos, 2, dim)), 1);
    r->lo = first_key(r, hi);
    if (hlo_is(r->c->step->see)) hi = hlo_bin(h, "add", hi, tile_see(r, token));
    r->hi = hlo_select(h, hlo_cmp(h, "LT", query, hlo_full(h, len, 2, dim)), hi, hlo_full(h, hlo_int(h, DT_I32, 0), 2, dim));
}

/* Tile i of q [T + q_tile, heads, d]: [q_tile, heads, d]. */
static hlo_val attend_tile(hlo_call *c, const hlo_kv *kv, hlo_val q, hlo_val i, hlo_val token)
{
    hlo *h = c->h;
    const hlo_step *s = c->step;
    reader r;
    reader_init(&r, c, kv, 1, s->q_tile, TILE_TOKENS);
    hlo_val part = hlo_dynamic_slice(h, q, (hlo_val[]){ token, { 0 }, { 0 } }, (int64_t[]){ s->q_tile, q.dim[1], kv->dim });
    part = hlo_reshape(h, part, 4, (int64_t[]){ s->q_tile, kv->heads, r.group, kv->dim });
    part = hlo_transpose(h, part, (int[]){ 1, 0, 2, 3 });
    set_queries(&r, hlo_reshape(h, part, 4, (int64_t[]){ 1, kv->heads, s->q_tile * r.group, kv->dim }));
    hlo_val table = padded_table(&r);
    r.table = hlo_dynamic_slice(h, table, (hlo_val[]){ hlo_row(h, s->tile_seq, i), { 0 } }, (int64_t[]){ 1, table.dim[1] });
    tile_ranges(&r, token, hlo_row(h, s->tile_pos, i), hlo_row(h, s->tile_len, i));
    hlo_val out = hlo_reshape(h, attend(&r), 4, (int64_t[]){ kv->heads, s->q_tile, r.group, v_dim(&r) });
    out = hlo_transpose(h, out, (int[]){ 1, 0, 2, 3 });
    return hlo_reshape(h, out, 3, (int64_t[]){ s->q_tile, q.dim[1], v_dim(&r) });
}

/* q [T, heads, d] -> the same, 0 where no tile is. A tile writes all its rows; as tiles come in the order of their tokens,
 * those beyond its length are then overwritten by the next one that has them, or stay 0. */
static hlo_val attend_tiles(hlo_call *c, const hlo_kv *kv)
{
    hlo *h = c->h;
    const hlo_step *s = c->step;
    hlo_comment(h, "attention of longer runs: %lld queries of one sequence at a time", (long long)s->q_tile);
    hlo_val zero = hlo_float(h, s->act, 0), q = hlo_pad(h, c->in[Q], 0, 0, s->q_tile, zero), carried;
    hlo_val out = hlo_full(h, zero, 3, (int64_t[]){ q.dim[0], q.dim[1], c->n->a.paged_attention.latent ? c->n->a.paged_attention.latent : q.dim[2] });
    hlo_val i = hlo_for(h, hlo_int(h, DT_I32, 0), s->tiles, &out, 1, &carried), token = hlo_row(h, s->tile_token, i);
    hlo_val next = hlo_dynamic_update(h, carried, attend_tile(c, kv, q, i, token), (hlo_val[]){ token, { 0 }, { 0 } });
    hlo_end_for(h, &next, &out);
    return hlo_slice(h, out, 0, 0, s->T);
}

hlo_val paged_attention_hlo(hlo_call *c)
{
    hlo *h = c->h;
    const hlo_step *s = c->step;
    hlo_kv kv = kv_of(c->n, c->cache.type, c->in[K].dim, s->attention.head_multiple);
    hlo_val by_kernel;
    if (kv.latent ? mla_hlo(c, &kv, &by_kernel) : ragged_hlo(c, &kv, &by_kernel)) return by_kernel;
    write_cache(c, &kv);
    if (s->decode) return attend_single(c, &kv, c->in[Q]);
    hlo_val tiles = attend_tiles(c, &kv), single = attend_single(c, &kv, hlo_take(h, c->in[Q], s->seq_token));
    hlo_val pred = hlo_broadcast(h, hlo_cmp_scalar(h, "GE", s->token_seq, 0), (int[]){ 0 }, 3, tiles.dim);
    return hlo_select(h, pred, hlo_take(h, single, s->token_seq), tiles);
}
