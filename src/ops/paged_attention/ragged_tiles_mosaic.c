/* Attention of runs of queries: an item is up to `queries` consecutive tokens of one sequence, and one loop runs over the blocks of keys of
 * all items. Unlike in a decode step arithmetic decides here, so nothing is multiplied in vain:
 *
 *   queries    arrive as they are, [tokens, heads, width], and are taken apart into one matrix per head when their item begins
 *   a block    is taken apart into one matrix of bf16 per KV head; all queries of the item use it
 *   chunks     of an item's rows (whole heads that share a KV head) run through one body: scores, softmax, values. Its sums are in
 *              VMEM between blocks
 *
 * Blocks that all queries see whole, most of a long sequence's, go through a body without masks. Results leave as queries came. What of an
 * item is beyond its last query is computed from what happens to be in memory and goes nowhere: rows do not mix. */
#include "ops/paged_attention/ragged_stream.h"

enum { LANES = 128, PART = 32, KEYS = 128 /* queries and keys that are taken apart at once */ };

typedef struct tiles {
    mk *k;
    const ragged *r;
    ragged_stream s;
    ragged_tiles_shape o;
    mk_ref n_tiles, seq, token, pos, len, factors, sinks, q, out;
    mk_ref queries, query_sem, results, result_sem;     /* [2 * pieces * parts, part, q_rows, 128]; [2] */
    mk_ref rows;                    /* bf16 [q_heads, queries, width] */
    mk_ref keys, values;            /* bf16 [kv_heads, block, width] */
    mk_ref scales;                  /* of an int8 cache: f32 [ragged_scale_heads, 1, block], keys' first */
    mk_ref max, sum, acc;           /* f32 [q_heads, queries, 128], twice; [q_heads, queries, width] */
} tiles;

static int64_t part_of(const tiles *t) { return t->r->queries < PART ? t->r->queries : PART; }
static int64_t parts_of(const tiles *t) { return t->r->queries / part_of(t); }
static int64_t pieces_of(const tiles *t) { return t->o.width / LANES; }

/* ---- shapes ---- */

ragged_tiles_shape ragged_tiles_shape_of(const ragged *r)
{
    ragged_tiles_shape o = { .group = r->q_heads / r->kv.heads, .width = r->kv.width, .q_rows = r->q_heads <= 8 ? 8 : (r->q_heads + 15) / 16 * 16, .heads = 1 };
    for (int64_t n = 2; n <= o.group; n++)
        if (o.group % n == 0 && n * r->queries <= RAGGED_CHUNK_ROWS) o.heads = n;
    o.rows = o.heads * r->queries;
    o.chunks = r->q_heads / o.heads;
    return o;
}

const char *ragged_tiles_refusal(const ragged *r)
{
    if (r->queries < RAGGED_LEAST_QUERIES || (r->queries & (r->queries - 1))) return "blocks of queries that are no power of two from 16 on";
    if (r->chunk && r->chunk < r->queries) return "chunks that are shorter than a block of queries";
    if (r->block > RAGGED_MOST_BLOCK) return "blocks of more than 4096 keys";
    return NULL;
}

/* ---- work ---- */

/* A listed tile is of r->tile queries, an item a piece of it. */
static int64_t items_per_tile(const ragged *r) { return (r->tile + r->queries - 1) / r->queries; }
int64_t ragged_tiles_items(const ragged *r) { return r->tiles * items_per_tile(r); }

/* What a tile's array says of item `id`; `step`: what each query adds. */
static mk_val of_item(const tiles *t, mk_ref array, mk_val id, int step)
{
    mk *k = t->k;
    const int64_t n = items_per_tile(t->r);
    mk_val v = mk_get(k, array, MK_AT(n > 1 ? mk_div(k, id, ragged_num(n)) : id));
    return n > 1 && step ? mk_add(k, v, mk_mul(k, mk_rem(k, id, ragged_num(n)), ragged_num(step * t->r->queries))) : v;
}

static mk_val id_of(const tiles *t, mk_val item) { return ragged_field(&t->s, item, RAGGED_ID); }
static mk_val first_pos(const tiles *t, mk_val item) { return of_item(t, t->pos, id_of(t, item), 1); }
static mk_val n_queries(const tiles *t, mk_val item) { return mk_sub(t->k, ragged_field(&t->s, item, RAGGED_HI), first_pos(t, item)); }

static void piece_of_tile(const ragged_stream *s, const void *arg, mk_val i, mk_val out[RAGGED_FIELDS])
{
    const tiles *t = arg;
    mk *k = s->k;
    mk_val pos = of_item(t, t->pos, i, 1), len = mk_min(k, of_item(t, t->len, i, -1), ragged_num(t->r->queries));
    out[RAGGED_ID] = i;
    out[RAGGED_SEQ] = of_item(t, t->seq, i, 0);
    out[RAGGED_HI] = mk_select(k, mk_cmp(k, MK_GT, len, mk_i32(0)), mk_add(k, pos, len), mk_i32(0));
    out[RAGGED_LO] = ragged_first_key(s, mk_add(k, pos, mk_i32(1)));
}

/* ---- queries and results ---- */

static mk_val slot_of(const tiles *t, mk_val item) { return mk_rem(t->k, item, mk_i32(2)); }

/* An item's tokens in its half of a buffer, a piece of their lanes. */
static mk_ref here(const tiles *t, mk_ref both, mk_val item, int64_t piece)
{
    mk *k = t->k;
    mk_val n = n_queries(t, item), at = mk_add(k, mk_mul(k, slot_of(t, item), ragged_num(pieces_of(t))), ragged_num(piece));
    mk_ref whole = mk_ref_reshape(k, both, MK_DIMS(2 * pieces_of(t), t->r->queries, t->o.q_rows, LANES));
    return mk_view_sized(k, whole, MK_AT(at, mk_i32(0), mk_i32(0), mk_i32(0)), MK_DIMS(1, MK_DYNAMIC, t->o.q_rows, LANES), &n, 1);
}

static mk_ref there(const tiles *t, mk_ref all, mk_val item, int64_t piece)
{
    mk *k = t->k;
    mk_val n = n_queries(t, item), first = of_item(t, t->token, id_of(t, item), 1);
    return mk_view_sized(k, all, MK_AT(first, mk_i32(0), ragged_num(piece * LANES)), MK_DIMS(MK_DYNAMIC, t->o.q_rows, LANES), &n, 0);
}

static mk_ref sem_of(const tiles *t, mk_ref sems, mk_val item) { return mk_pick(t->k, sems, MK_AT(slot_of(t, item))); }

static void fetch_queries(const tiles *t, mk_val item)
{
    for (int64_t i = 0; i < pieces_of(t); i++) mk_copy(t->k, there(t, t->q, item, i), here(t, t->queries, item, i), sem_of(t, t->query_sem, item));
}

static void await_queries(const tiles *t, mk_val item)
{
    for (int64_t i = 0; i < pieces_of(t); i++) mk_wait(t->k, sem_of(t, t->query_sem, item), there(t, t->q, item, i), here(t, t->queries, item, i));
}

static void send_results(const tiles *t, mk_val item)
{
    for (int64_t i = 0; i < pieces_of(t); i++) mk_copy(t->k, here(t, t->results, item, i), there(t, t->out, item, i), sem_of(t, t->result_sem, item));
}

static void await_results(const tiles *t, mk_val item)
{
    for (int64_t i = 0; i < pieces_of(t); i++) mk_wait(t->k, sem_of(t, t->result_sem, item), here(t, t->results, item, i), there(t, t->out, item, i));
}

/* ---- two heads in a word ---- */

/* The first (low halves) or the second of the numbers of bf16 in words, as f32. */
static mk_val half(mk *k, mk_val words, int which)
{
    const mk_val bits = which ? mk_and(k, words, mk_i32(-65536)) : mk_shl(k, words, mk_i32(16));
    return mk_bitcast(k, bits, DT_F32);
}

static mk_val rounded_bits(mk *k, mk_val x) { return mk_bitcast(k, mk_convert(k, mk_convert(k, x, DT_BF16), DT_F32), DT_I32); }

static mk_val paired(mk *k, mk_val first, mk_val second)
{
    return mk_or(k, mk_shr_logical(k, rounded_bits(k, first), mk_i32(16)), mk_and(k, rounded_bits(k, second), mk_i32(-65536)));
}

/* A part of the item's tokens, words of two heads in its rows: every q_rows / 2-th is of the same two. */
static mk_ref part_words(const tiles *t, mk_ref both, mk_val item, mk_val part, int64_t piece)
{
    mk *k = t->k;
    mk_val at = mk_add(k, mk_mul(k, slot_of(t, item), ragged_num(pieces_of(t))), ragged_num(piece));
    mk_ref tokens = mk_pick(k, both, MK_AT(mk_add(k, mk_mul(k, at, ragged_num(parts_of(t))), part)));
    return mk_ref_bitcast(k, mk_ref_reshape(k, tokens, MK_DIMS(part_of(t) * t->o.q_rows, LANES)), DT_I32);
}

static mk_at part_at(const tiles *t, int64_t head, mk_val part, int64_t piece)
{
    return MK_AT(ragged_num(head), mk_multiple(t->k, mk_mul(t->k, part, ragged_num(part_of(t))), (int)part_of(t)), ragged_num(piece * LANES));
}

static void split_queries(const tiles *t, mk_val item)
{
    mk *k = t->k;
    mk_val part = mk_for(k, mk_i32(0), ragged_num(parts_of(t)), NULL, 0, NULL);
    for (int64_t piece = 0; piece < pieces_of(t); piece++) {
        mk_ref words = part_words(t, t->queries, item, part, piece);
        for (int64_t i = 0; i < t->r->q_heads; i += 2) {
            mk_val w = mk_load_strided(k, words, ragged_num(i / 2), part_of(t), t->o.q_rows / 2);
            for (int j = 0; j < 2 && i + j < t->r->q_heads; j++) mk_store(k, mk_convert(k, mk_reshape(k, half(k, w, j), MK_DIMS(1, part_of(t), LANES)), DT_BF16), t->rows, part_at(t, i + j, part, piece));
        }
    }
    mk_end_for(k, NULL, NULL);
}

/* The weighted mean of a head's values, for a part of the tokens. */
static mk_val result(const tiles *t, int64_t head, mk_val part, int64_t piece)
{
    mk *k = t->k;
    const mk_dims dims = MK_DIMS(part_of(t), LANES);
    mk_val factor = mk_div(k, mk_full(k, mk_get(k, t->factors, MK_AT(mk_i32(1))), dims), mk_load(k, mk_pick(k, t->sum, MK_AT(ragged_num(head))), MK_AT(part_at(t, head, part, 0).v[1], mk_i32(0)), dims));
    return mk_mul(k, mk_load(k, mk_pick(k, t->acc, MK_AT(ragged_num(head))), MK_AT(part_at(t, head, part, piece).v[1], ragged_num(piece * LANES)), dims), factor);
}

static void join_results(const tiles *t, mk_val item)
{
    mk *k = t->k;
    mk_val part = mk_for(k, mk_i32(0), ragged_num(parts_of(t)), NULL, 0, NULL);
    for (int64_t piece = 0; piece < pieces_of(t); piece++) {
        mk_ref words = part_words(t, t->results, item, part, piece);
        for (int64_t i = 0; i < t->r->q_heads; i += 2) {
            mk_val second = i + 1 < t->r->q_heads ? result(t, i + 1, part, piece) : mk_full(k, mk_f32(0), MK_DIMS(part_of(t), LANES));
            mk_store_strided(k, paired(k, result(t, i, part, piece), second), words, ragged_num(i / 2), t->o.q_rows / 2);
        }
    }
    mk_end_for(k, NULL, NULL);
}

/* ---- keys and values ---- */

/* One head of what ragged_keys gives, as bf16. */
static mk_val one_head(const tiles *t, mk_val all, int64_t which, int64_t heads)
{
    mk *k = t->k;
    dtype type = t->r->kv.type;
    if (heads == 1) return mk_convert(k, all, DT_BF16);
    mk_val words = mk_bitcast(k, all, DT_I32);
    if (type == DT_BF16) return mk_convert(k, half(k, words, (int)which), DT_BF16);
    mk_val number = mk_shr(k, mk_shl(k, words, ragged_num(24 - 8 * which)), mk_i32(24));    /* with its sign */
    if (type == DT_I8) return mk_convert(k, mk_convert(k, number, DT_F32), DT_BF16);
    return mk_convert(k, mk_bitcast(k, mk_convert(k, number, DT_I8), type), DT_BF16);
}

static void split_block(const tiles *t, ragged_place p)
{
    mk *k = t->k;
    const ragged_ops o = ragged_ops_of(t->r);
    const mk_dims dims = MK_DIMS(1, KEYS, o.width);
    mk_val n = mk_sub(k, ragged_field(&t->s, p.item, RAGGED_HI), mk_mul(k, p.block, ragged_num(t->r->block)));
    mk_val at = mk_for(k, mk_i32(0), ragged_num(t->r->block / KEYS), NULL, 0, NULL), row = mk_multiple(k, mk_mul(k, at, ragged_num(KEYS)), KEYS);
    const ragged_part part = { at, KEYS };
    for (int64_t i = 0; i < o.ops; i++) {
        mk_val keys = ragged_keys(&t->s, p, part, i), values = ragged_values(&t->s, p, part, i, n);
        for (int64_t j = 0; j < o.heads && i * o.heads + j < t->r->kv.heads; j++) {
            const mk_at to = MK_AT(ragged_num(i * o.heads + j), row, mk_i32(0));
            mk_store(k, mk_reshape(k, one_head(t, keys, j, o.heads), dims), t->keys, to);
            mk_store(k, mk_reshape(k, one_head(t, values, j, o.heads), dims), t->values, to);
        }
    }
    ragged_split_scales(&t->s, p, at, n, t->scales);
    mk_end_for(k, NULL, NULL);
}

/* ---- a chunk of rows ---- */

/* [heads, queries, lanes] as [chunks, rows, lanes]. */
static mk_ref chunked(const tiles *t, mk_ref r, int64_t lanes) { return mk_ref_reshape(t->k, r, MK_DIMS(t->o.chunks, t->o.rows, lanes)); }
static mk_val load_chunk(const tiles *t, mk_ref r, mk_val c, int64_t lanes) { return mk_load(t->k, chunked(t, r, lanes), MK_AT(c, mk_i32(0), mk_i32(0)), MK_DIMS(t->o.rows, lanes)); }
static void store_chunk(const tiles *t, mk_ref r, mk_val c, int64_t lanes, mk_val v)
{
    mk_store(t->k, mk_reshape(t->k, v, MK_DIMS(1, t->o.rows, lanes)), chunked(t, r, lanes), MK_AT(c, mk_i32(0), mk_i32(0)));
}

/* x [rows, 128], which is one number all along a row, as wide as `lanes`. */
static mk_val widened(const tiles *t, mk_val x, int64_t lanes)
{
    mk_val all[RAGGED_MOST_BLOCK / LANES];
    for (int64_t i = 0; i < lanes / LANES; i++) all[i] = x;
    return mk_concat(t->k, all, (int)(lanes / LANES), 1);
}

/* Sums before an item's first block: a sink weighs 1 and has no value. */
static void begin(const tiles *t)
{
    mk *k = t->k;
    const mk_dims narrow = MK_DIMS(1, t->r->queries, LANES), wide = MK_DIMS(1, t->r->queries, t->o.width);
    mk_val head = mk_for(k, mk_i32(0), ragged_num(t->r->q_heads), NULL, 0, NULL);
    const mk_at at = MK_AT(head, mk_i32(0), mk_i32(0));
    mk_store(k, mk_full(k, t->r->sinks ? mk_get(k, t->sinks, MK_AT(head)) : mk_f32(RAGGED_NO_SCORE), narrow), t->max, at);
    mk_store(k, mk_full(k, mk_f32(t->r->sinks ? 1 : 0), narrow), t->sum, at);
    mk_store(k, mk_full(k, mk_f32(0), wide), t->acc, at);
    mk_end_for(k, NULL, NULL);
}

/* Keys of the block that each row sees: from lo to before hi [rows, 1], counted from the block's first. */
static void sight(const tiles *t, ragged_place p, mk_val *lo, mk_val *hi)
{
    mk *k = t->k;
    const ragged *r = t->r;
    const mk_dims column = MK_DIMS(t->o.rows, 1);
    mk_val start = mk_mul(k, p.block, ragged_num(r->block)), first = first_pos(t, p.item);
    mk_val pos = mk_add(k, mk_and(k, mk_iota(k, 0, column), ragged_num(r->queries - 1)), mk_sub(k, first, start));
    *hi = mk_min(k, mk_add(k, pos, mk_i32(1)), mk_sub(k, ragged_field(&t->s, p.item, RAGGED_HI), start));
    *lo = mk_full(k, mk_i32(0), column);
    if (r->window) *lo = mk_sub(k, pos, ragged_num(r->window - 1));
    if (!r->chunk) return;
    mk_val chunk = mk_mul(k, mk_div(k, first, ragged_num(r->chunk)), ragged_num(r->chunk)), here = mk_sub(k, chunk, start);  /* an item meets one boundary at most */
    mk_val next = mk_full(k, mk_add(k, here, ragged_num(r->chunk)), column);
    *lo = mk_max(k, *lo, mk_select(k, mk_cmp(k, MK_GE, pos, next), next, mk_full(k, here, column)));
}

static mk_val kv_head(const tiles *t, mk_val c) { return t->o.heads == t->o.group ? c : mk_div(t->k, c, ragged_num(t->o.group / t->o.heads)); }

/* The block's keys, or values, of the head that a chunk's rows share. */
static mk_val shared_head(const tiles *t, mk_ref of, mk_val c)
{
    return mk_load(t->k, of, MK_AT(kv_head(t, c), mk_i32(0), mk_i32(0)), MK_DIMS(t->r->block, t->o.width));
}

/* x [rows, block] by the scales of these keys or values, if they have some. */
static mk_val scaled(const tiles *t, mk_val x, mk_val c, bool of_values)
{
    mk *k = t->k;
    if (!t->s.shape.lines) return x;
    mk_val head = kv_head(t, c);
    if (of_values) head = mk_add(k, head, ragged_num(ragged_scale_heads(t->r) / 2));
    return mk_mul(k, x, mk_load(k, t->scales, MK_AT(head, mk_i32(0), mk_i32(0)), MK_DIMS(1, t->r->block)));
}

static mk_val scores(const tiles *t, mk_val c)
{
    return scaled(t, mk_matmul(t->k, load_chunk(t, t->rows, c, t->o.width), shared_head(t, t->keys, c), true, DT_F32, (mk_val){ 0 }), c, false);
}

static mk_val masked(const tiles *t, mk_val s, const mk_val *lo, const mk_val *hi)
{
    mk *k = t->k;
    const mk_dims dims = MK_DIMS(t->o.rows, t->r->block);
    s = mk_mul(k, s, mk_get(k, t->factors, MK_AT(mk_i32(0))));
    if (t->r->softcap > 0) s = mk_mul(k, mk_tanh(k, mk_mul(k, s, mk_f32(1 / t->r->softcap))), mk_f32(t->r->softcap));
    if (!hi) return s;
    mk_val key = mk_iota(k, 1, dims), seen = mk_cmp(k, MK_LT, key, mk_broadcast(k, *hi, dims));
    if (t->r->window || t->r->chunk) seen = mk_and(k, seen, mk_cmp(k, MK_GE, key, mk_broadcast(k, *lo, dims)));
    return mk_select(k, seen, s, mk_full(k, mk_f32(RAGGED_NO_SCORE), dims));
}

static void chunk(const tiles *t, mk_val c, mk_val s, const mk_val *lo, const mk_val *hi)
{
    mk *k = t->k;
    const mk_dims narrow = MK_DIMS(t->o.rows, LANES);
    mk_val old = load_chunk(t, t->max, c, LANES), sum = load_chunk(t, t->sum, c, LANES);
    s = masked(t, s, lo, hi);
    mk_val max = mk_max(k, old, mk_broadcast(k, mk_reduce(k, MK_MAX, s, 1), narrow));
    mk_val p = mk_exp(k, mk_sub(k, s, widened(t, max, t->r->block))), keep = mk_exp(k, mk_sub(k, old, max));
    store_chunk(t, t->max, c, LANES, max);
    store_chunk(t, t->sum, c, LANES, mk_add(k, mk_mul(k, sum, keep), mk_broadcast(k, mk_reduce(k, MK_SUM, p, 1), narrow)));
    mk_val v = mk_matmul(k, mk_convert(k, scaled(t, p, c, true), DT_BF16), shared_head(t, t->values, c), false, DT_F32, (mk_val){ 0 });
    store_chunk(t, t->acc, c, t->o.width, mk_add(k, mk_mul(k, load_chunk(t, t->acc, c, t->o.width), widened(t, keep, t->o.width)), v));
}

static void all_chunks(const tiles *t, const mk_val *lo, const mk_val *hi)
{
    mk *k = t->k;
    mk_val c = mk_for(k, mk_i32(0), ragged_num(t->o.chunks), NULL, 0, NULL);
    chunk(t, c, scores(t, c), lo, hi);
    mk_end_for(k, NULL, NULL);
}

/* Whether every query of the item sees all keys of the block. */
static mk_val seen_whole(const tiles *t, ragged_place p)
{
    mk *k = t->k;
    mk_val start = mk_mul(k, p.block, ragged_num(t->r->block)), first = first_pos(t, p.item);
    mk_val whole = mk_cmp(k, MK_LE, mk_add(k, start, ragged_num(t->r->block - 1)), first);
    if (!t->r->window && !t->r->chunk) return whole;
    return mk_and(k, whole, mk_cmp(k, MK_LE, ragged_first_key(&t->s, ragged_field(&t->s, p.item, RAGGED_HI)), start));
}

/* ---- the whole ---- */

static void begin_item(const tiles *t, mk_val item)
{
    mk *k = t->k;
    await_queries(t, item);
    mk_val next = mk_add(k, item, mk_i32(1));
    mk_if(k, mk_cmp(k, MK_LT, next, t->s.n_items));
    fetch_queries(t, next);
    mk_end_if(k, NULL, NULL);
    split_queries(t, item);
    begin(t);
}

static void end_item(const tiles *t, mk_val item)
{
    mk *k = t->k;
    mk_if(k, mk_cmp(k, MK_GE, item, mk_i32(2)));
    await_results(t, mk_sub(k, item, mk_i32(2)));
    mk_end_if(k, NULL, NULL);
    join_results(t, item);
    send_results(t, item);
}

static void masked_block(const tiles *t, ragged_place p)
{
    mk_val lo, hi;
    sight(t, p, &lo, &hi);
    all_chunks(t, &lo, &hi);
}

static void block(const void *arg, ragged_place p, mk_val *state)
{
    const tiles *t = arg;
    mk *k = t->k;
    (void)state;
    mk_if(k, ragged_is_first(&t->s, p));
    begin_item(t, p.item);
    mk_end_if(k, NULL, NULL);
    split_block(t, p);
    mk_if(k, seen_whole(t, p));
    all_chunks(t, NULL, NULL);
    mk_else(k, NULL, 0);
    masked_block(t, p);
    mk_end_if(k, NULL, NULL);
    mk_if(k, ragged_is_last(&t->s, p));
    end_item(t, p.item);
    mk_end_if(k, NULL, NULL);
}

/* For profiles, which know no branch: a block that all queries see, and one that is all of its item. */
static void whole_block(const void *arg, ragged_place p, mk_val *state)
{
    (void)state;
    split_block(arg, p);
    all_chunks(arg, NULL, NULL);
}

static void only_block(const void *arg, ragged_place p, mk_val *state)
{
    (void)state;
    begin_item(arg, p.item);
    split_block(arg, p);
    masked_block(arg, p);
    end_item(arg, p.item);
}

static void attend(tiles *t)
{
    mk *k = t->k;
    mk_val n = mk_mul(k, mk_get(k, t->n_tiles, MK_AT(mk_i32(0))), ragged_num(items_per_tile(t->r)));
    ragged_list(&t->s, n, piece_of_tile, t);
    if (t->r->fixed_blocks) {
        for (int i = 0; i < 2; i++) fetch_queries(t, mk_i32(i));     /* profiles want the copy before its wait */
        ragged_turns(&t->s, ragged_num(t->r->fixed_blocks - t->r->fixed_items), whole_block, t, NULL, 0);
        ragged_turns(&t->s, ragged_num(t->r->fixed_items), only_block, t, NULL, 0);
        return;
    }
    mk_if(k, mk_cmp(k, MK_GT, t->s.n_items, mk_i32(0)));
    fetch_queries(t, mk_i32(0));
    ragged_turns(&t->s, t->s.n_blocks, block, t, NULL, 0);
    mk_val item = mk_for(k, mk_max(k, mk_sub(k, t->s.n_items, mk_i32(2)), mk_i32(0)), t->s.n_items, NULL, 0, NULL);
    await_results(t, item);
    mk_end_for(k, NULL, NULL);
    mk_end_if(k, NULL, NULL);
}

static void declare(tiles *t)
{
    mk *k = t->k;
    const ragged *r = t->r;
    const mk_dims tokens = MK_DIMS(r->tokens, t->o.q_rows, t->o.width), buffer = MK_DIMS(2 * pieces_of(t) * parts_of(t), part_of(t), t->o.q_rows, LANES);
    t->s.first = mk_prefetch(k, "first_page", DT_I32, 1);
    t->n_tiles = mk_prefetch(k, "n_tiles", DT_I32, 1);
    t->seq = mk_prefetch(k, "tile_seq", DT_I32, r->tiles);
    t->token = mk_prefetch(k, "tile_token", DT_I32, r->tiles);
    t->pos = mk_prefetch(k, "tile_pos", DT_I32, r->tiles);
    t->len = mk_prefetch(k, "tile_len", DT_I32, r->tiles);
    t->s.table = mk_prefetch(k, "page_table", DT_I32, r->seqs * r->max_pages);
    t->factors = mk_prefetch(k, "factors", DT_F32, 2);
    if (r->sinks) t->sinks = mk_prefetch(k, "sinks", DT_F32, r->q_heads);
    t->q = mk_in(k, "q", DT_BF16, tokens);
    if (r->kv.type == DT_I8) t->s.scale_cache = mk_in(k, "scale_cache", DT_F32, ragged_scales_dims(r));
    t->s.cache = mk_in(k, "cache", r->kv.type, ragged_cache_dims(r));
    t->out = mk_out(k, "out", DT_BF16, tokens);
    ragged_stream_init(&t->s, k, r, ragged_tiles_items(r));
    t->queries = mk_scratch(k, "queries", MK_VMEM, DT_BF16, buffer);
    t->results = mk_scratch(k, "results", MK_VMEM, DT_BF16, buffer);
    t->rows = mk_scratch(k, "rows", MK_VMEM, DT_BF16, MK_DIMS(r->q_heads, r->queries, t->o.width));
    t->keys = mk_scratch(k, "keys", MK_VMEM, DT_BF16, MK_DIMS(r->kv.heads, r->block, t->o.width));
    t->values = mk_scratch(k, "values", MK_VMEM, DT_BF16, MK_DIMS(r->kv.heads, r->block, t->o.width));
    if (r->kv.type == DT_I8) t->scales = mk_scratch(k, "head_scales", MK_VMEM, DT_F32, MK_DIMS(ragged_scale_heads(r), 1, r->block));
    t->max = mk_scratch(k, "max", MK_VMEM, DT_F32, MK_DIMS(r->q_heads, r->queries, LANES));
    t->sum = mk_scratch(k, "sum", MK_VMEM, DT_F32, MK_DIMS(r->q_heads, r->queries, LANES));
    t->acc = mk_scratch(k, "acc", MK_VMEM, DT_F32, MK_DIMS(r->q_heads, r->queries, t->o.width));
    t->query_sem = mk_dma_sems(k, "query_sem", MK_DIMS(2));
    t->result_sem = mk_dma_sems(k, "result_sem", MK_DIMS(2));
}

mk *ragged_tiles(const ragged *r)
{
    mk *k = mk_new("ragged_tiles");
    const char *why = ragged_refusal(r);
    if (why) {
        mk_fail(k, "no kernel for %s", why);
        return k;
    }
    tiles t = { .k = k, .r = r, .o = ragged_tiles_shape_of(r) };
    declare(&t);
    attend(&t);
    const double scores = (double)(r->tokens * r->q_heads) * (double)(r->max_pages * r->page < 2048 ? r->max_pages * r->page : 2048) / 2;    /* not known: a guess */
    const mk_options o = { .flops = 4 * scores * (double)r->kv.dim, .transcendentals = scores, .bytes = 4.0 * (double)(r->tokens * t.o.q_rows * t.o.width), .vmem_limit_bytes = r->vmem_bytes };
    mk_set_options(k, &o);
    return k;
}
