/* Attention to a latent cache [pages, page, lanes] for TPUs: one key per token for all heads, whose first numbers are the value, so
 * the heads of some queries are the rows of two products with the same block of keys, and what comes from HBM is used by both.
 *
 * Work is one loop over all blocks of all items (sequences, or pieces of longer runs of queries), in which three things overlap:
 *
 *     copies of blocks to come | scores of the next block | softmax of this one and its weights times values
 *
 * The last two are straight-line code, which the compiler interleaves: a block of scores is in VMEM between turns. Softmax is by a
 * running maximum and sum (arXiv:1805.02867, 2205.14135). Blocks are long, since a turn has hundreds of cycles of latency.
 *
 * Rows that are beyond a sequence's last key are made 0 before they are used as values: memory that nobody wrote may hold a NaN, which
 * a weight of 0 does not stop. */
#include "ops/paged_attention/mla.h"

#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "ops/kernels.h"

#define NO_SCORE (-1e30f)

enum { ZERO_ROWS = 128, MOST_LANES = 2048, MOST_UNROLLED = 32, GUESSED = 2048, SMEM_BYTES = 768 << 10, LANES = 128 };

typedef struct attention {
    mk *k;
    const mla *m;
    int64_t rows, pages_per_block;
    mk_ref first, n_items, seq, token, pos, len, table, scale, q, cache, out;
    mk_ref list;                    /* i32 [items] those with queries */
    mk_ref blocks, block_sem;       /* [buffers * pages, page, lanes]; [buffers] */
    mk_ref queries, query_sem;      /* [2, queries, heads, lanes]; [2] */
    mk_ref results, result_sem;     /* [2, queries, heads, latent]; [2] */
    mk_ref keys;                    /* bf16 [2, keys, lanes]: blocks of 8-bit caches, converted */
    mk_ref scores, sums;            /* f32 [rows, keys], [rows, latent] */
} attention;

/* A block of an item: its place in the list of items, its number among the item's blocks, and the blocks before it. */
typedef struct place { mk_val item, block, turn; } place;

static mk_val num(int64_t v) { return mk_i32((int32_t)v); }
static mk_val one_of(const attention *a, mk_ref r, mk_val i) { return mk_get(a->k, r, MK_AT(i)); }
static bool is_wide(const mla *m) { return m->kv == DT_BF16; }

const char *mla_refusal(const mla *m)
{
    if (m->kv != DT_BF16 && dtype_bits(m->kv) != 8) return "a latent cache of this type";
    if (m->lanes % LANES || m->latent % LANES) return "latent sizes that are no multiple of 128";
    if (m->lanes > MOST_LANES) return "latent sizes of more than 2048";
    if (m->heads % 16) return "heads that are no multiple of 16";
    if (m->page % 16 || (!is_wide(m) && m->page % 32)) return "pages of less than 16 tokens (32 of an 8-bit cache), or no multiple of it";
    if (m->buffers < 3) return "less than three buffers";
    if (!m->keys || m->keys % m->page || m->keys % LANES) return "blocks that are no multiple of a page and 128 keys";
    if ((m->seqs * m->max_pages + 6 * m->items) * 4 > SMEM_BYTES) return "page tables of more than 768 KiB";
    return NULL;
}

/* ---- items and blocks ---- */

/* Keys that the item at a place of the list sees, and its blocks. */
static mk_val item_keys(const attention *a, mk_val item)
{
    mk_val i = one_of(a, a->list, item);
    return mk_add(a->k, one_of(a, a->pos, i), one_of(a, a->len, i));
}

static mk_val ceil_div(const attention *a, mk_val n, int64_t by) { return mk_div(a->k, mk_add(a->k, n, num(by - 1)), num(by)); }
static mk_val item_blocks(const attention *a, mk_val item) { return ceil_div(a, item_keys(a, item), a->m->keys); }

/* Lists the items that have queries, and counts them and their blocks. */
static void list_items(const attention *a, mk_val *n_listed, mk_val *n_blocks)
{
    mk *k = a->k;
    mk_val none[2] = { num(0), num(0) }, sofar[2], next[2], out[2];
    mk_val i = mk_for(k, num(0), one_of(a, a->n_items, num(0)), none, 2, sofar);
    mk_val len = one_of(a, a->len, i);
    mk_if(k, mk_cmp(k, MK_GT, len, num(0)));
    mk_put(k, i, a->list, MK_AT(sofar[0]));
    mk_val blocks = ceil_div(a, mk_add(k, one_of(a, a->pos, i), len), a->m->keys);
    mk_else(k, (mk_val[]){ mk_add(k, sofar[0], num(1)), mk_add(k, sofar[1], blocks) }, 2);
    mk_end_if(k, sofar, next);
    mk_end_for(k, next, out);
    *n_listed = out[0];
    *n_blocks = out[1];
}

/* The place after p; behind the last item it is nowhere. */
static place after(const attention *a, place p, mk_val n_listed)
{
    mk *k = a->k;
    mk_val item = mk_min(k, p.item, mk_max(k, mk_sub(k, n_listed, num(1)), num(0)));
    mk_val next = mk_add(k, p.block, num(1)), more = mk_cmp(k, MK_LT, next, item_blocks(a, item));
    return (place){ mk_select(k, more, p.item, mk_add(k, p.item, num(1))), mk_select(k, more, next, num(0)), mk_add(k, p.turn, num(1)) };
}

static mk_val last_of_item(const attention *a, place p) { return mk_cmp(a->k, MK_GE, mk_add(a->k, p.block, num(1)), item_blocks(a, p.item)); }

/* ---- copies ---- */

static mk_val buffer_of(const attention *a, mk_val turn) { return mk_rem(a->k, turn, num(a->m->buffers)); }

/* Pages of a block that the item has. */
static mk_val block_pages(const attention *a, place p)
{
    mk *k = a->k;
    mk_val left = mk_sub(k, ceil_div(a, item_keys(a, p.item), a->m->page), mk_mul(k, p.block, num(a->pages_per_block)));
    return mk_min(k, left, num(a->pages_per_block));
}

static void fetch_page(const attention *a, mk_val of_table, mk_val to, mk_ref sem)
{
    mk *k = a->k;
    mk_val page = mk_add(k, one_of(a, a->table, of_table), one_of(a, a->first, num(0)));
    mk_copy(k, mk_pick(k, a->cache, MK_AT(page)), mk_pick(k, a->blocks, MK_AT(to)), sem);
}

/* Asks for block p if it is before the n-th. Copies that stand one by one have their scalars computed beside the products; a loop of more of
 * them stops everything else. */
static void fetch_block(const attention *a, place p, mk_val n)
{
    mk *k = a->k;
    const int64_t most = a->pages_per_block;
    mk_val buffer = buffer_of(a, p.turn), item = mk_select(k, mk_cmp(k, MK_LT, p.turn, n), p.item, num(0)), seq = one_of(a, a->seq, one_of(a, a->list, item));
    mk_val at = mk_add(k, mk_mul(k, seq, num(a->m->max_pages)), mk_mul(k, p.block, num(most))), to = mk_mul(k, buffer, num(most));
    mk_val pages = a->m->fixed_blocks ? num(most) : block_pages(a, (place){ item, p.block, p.turn });
    mk_ref sem = mk_pick(k, a->block_sem, MK_AT(buffer));
    pages = mk_select(k, mk_cmp(k, MK_LT, p.turn, n), pages, num(0));
    if (most > MOST_UNROLLED) {
        mk_val i = mk_for(k, num(0), pages, NULL, 0, NULL);
        fetch_page(a, mk_add(k, at, i), mk_add(k, to, i), sem);
        mk_end_for(k, NULL, NULL);
        return;
    }
    for (int64_t i = 0; i < most; i++) {
        mk_if(k, mk_cmp(k, MK_LT, num(i), pages));
        fetch_page(a, mk_add(k, at, num(i)), mk_add(k, to, num(i)), sem);
        mk_end_if(k, NULL, NULL);
    }
}

static void wait_block(const attention *a, place p)
{
    mk *k = a->k;
    const mla *m = a->m;
    mk_val buffer = buffer_of(a, p.turn), n = a->m->fixed_blocks ? num(a->pages_per_block) : block_pages(a, p);
    mk_ref pages = mk_view_sized(k, a->blocks, MK_AT(mk_mul(k, buffer, num(a->pages_per_block)), num(0), num(0)), MK_DIMS(MK_DYNAMIC, m->page, m->lanes), &n, 0);
    mk_wait(k, mk_pick(k, a->block_sem, MK_AT(buffer)), pages, pages);
}

/* Queries (or results) of an item in the whole array, and in its half of the buffer: as many as it has. */
static mk_ref of_item(const attention *a, mk_ref all, mk_val item, int64_t lanes)
{
    mk *k = a->k;
    mk_val i = one_of(a, a->list, item), n = one_of(a, a->len, i);
    int64_t size = a->m->queries == 1 ? 1 : MK_DYNAMIC;
    return mk_view_sized(k, all, MK_AT(one_of(a, a->token, i), num(0), num(0)), MK_DIMS(size, a->m->heads, lanes), &n, 0);
}

static mk_ref half_of(const attention *a, mk_ref both, mk_val item, int64_t lanes)
{
    mk *k = a->k;
    mk_val n = one_of(a, a->len, one_of(a, a->list, item));
    int64_t size = a->m->queries == 1 ? 1 : MK_DYNAMIC;
    return mk_view_sized(k, both, MK_AT(mk_rem(k, item, num(2)), num(0), num(0), num(0)), MK_DIMS(1, size, a->m->heads, lanes), &n, 1);
}

static mk_ref sem_of(const attention *a, mk_ref sems, mk_val item) { return mk_pick(a->k, sems, MK_AT(mk_rem(a->k, item, num(2)))); }

static void fetch_queries(const attention *a, mk_val item)
{
    mk_copy(a->k, of_item(a, a->q, item, a->m->lanes), half_of(a, a->queries, item, a->m->lanes), sem_of(a, a->query_sem, item));
}

static void wait_queries(const attention *a, mk_val item)
{
    mk_wait(a->k, sem_of(a, a->query_sem, item), of_item(a, a->q, item, a->m->lanes), half_of(a, a->queries, item, a->m->lanes));
}

static void send_result(const attention *a, mk_val item)
{
    mk_copy(a->k, half_of(a, a->results, item, a->m->latent), of_item(a, a->out, item, a->m->latent), sem_of(a, a->result_sem, item));
}

static void wait_result(const attention *a, mk_val item)
{
    mk_wait(a->k, sem_of(a, a->result_sem, item), half_of(a, a->results, item, a->m->latent), of_item(a, a->out, item, a->m->latent));
}

/* ---- a block ---- */

/* [keys, lanes] of a buffer, as it is in the cache. */
static mk_ref block_ref(const attention *a) { return mk_ref_reshape(a->k, a->blocks, MK_DIMS(a->m->buffers, a->m->keys, a->m->lanes)); }

/* Zeros behind the last key of an item's last block: bits of 32-bit words, each of which holds a lane of several keys. */
static void clear_tail(const attention *a, place p)
{
    mk *k = a->k;
    const mla *m = a->m;
    const int64_t per = 32 / (int64_t)dtype_bits(m->kv);
    const mk_dims dims = MK_DIMS(ZERO_ROWS / per, m->lanes), row = MK_DIMS(ZERO_ROWS / per, LANES);
    mk_ref words = mk_ref_bitcast(k, block_ref(a), DT_I32);
    mk_val valid = mk_sub(k, item_keys(a, p.item), mk_mul(k, p.block, num(m->keys))), buffer = buffer_of(a, p.turn);
    mk_if(k, mk_cmp(k, MK_LT, valid, num(m->keys)));
    mk_val i = mk_for(k, mk_div(k, valid, num(ZERO_ROWS)), num(m->keys / ZERO_ROWS), NULL, 0, NULL);
    const mk_at at = MK_AT(buffer, mk_multiple(k, mk_mul(k, i, num(ZERO_ROWS / per)), ZERO_ROWS / (int)per), num(0));
    mk_val left = mk_sub(k, mk_sub(k, valid, mk_mul(k, i, num(ZERO_ROWS))), mk_mul(k, mk_iota(k, 0, row), num(per)));
    mk_val bits = mk_mul(k, mk_min(k, mk_max(k, left, num(0)), num(per)), num(32 / per)), some = mk_sub(k, mk_shl(k, mk_full(k, num(1), row), mk_and(k, bits, num(31))), num(1));
    mk_val mask = mk_select(k, mk_cmp(k, MK_GE, left, num(per)), mk_full(k, num(-1), row), some), all[MOST_LANES / LANES];
    for (int64_t j = 0; j < m->lanes / LANES; j++) all[j] = mask;
    mk_store(k, mk_and(k, mk_load(k, words, at, dims), mk_concat(k, all, (int)(m->lanes / LANES), 1)), words, at);
    mk_end_for(k, NULL, NULL);
    mk_end_if(k, NULL, NULL);
}

/* What must be there before a block's scores: its keys, and an item's queries with its first one; the next item's are asked for. */
static void prepare(const attention *a, place p, mk_val n_listed)
{
    mk *k = a->k;
    wait_block(a, p);
    if (!a->m->fixed_blocks) clear_tail(a, p);
    mk_if(k, mk_cmp(k, MK_EQ, p.block, num(0)));
    wait_queries(a, p.item);
    mk_val next = mk_add(k, p.item, num(1));
    mk_if(k, mk_cmp(k, MK_LT, next, n_listed));
    fetch_queries(a, next);
    mk_end_if(k, NULL, NULL);
    mk_end_if(k, NULL, NULL);
}

/* Scores of a block, not scaled, with those of keys that a row does not see far below all others. Rows are [queries, heads]. */
static mk_val block_scores(const attention *a, place p)
{
    mk *k = a->k;
    const mla *m = a->m;
    mk_val q = mk_load(k, a->queries, MK_AT(mk_rem(k, p.item, num(2)), num(0), num(0), num(0)), MK_DIMS(m->queries, m->heads, m->lanes));
    mk_val keys = mk_load(k, block_ref(a), MK_AT(buffer_of(a, p.turn), num(0), num(0)), MK_DIMS(m->keys, m->lanes));
    if (!is_wide(m)) {
        keys = mk_convert(k, keys, DT_BF16);
        mk_store(k, keys, a->keys, MK_AT(mk_rem(k, p.turn, num(2)), num(0), num(0)));
    }
    return mk_matmul(k, mk_reshape(k, q, MK_DIMS(a->rows, m->lanes)), keys, true, DT_F32, (mk_val){ 0 });
}

static mk_val values_of(const attention *a, place p)
{
    mk *k = a->k;
    const mk_dims dims = MK_DIMS(a->m->keys, a->m->latent);
    if (!is_wide(a->m)) return mk_load(k, a->keys, MK_AT(mk_rem(k, p.turn, num(2)), num(0), num(0)), dims);
    return mk_load(k, block_ref(a), MK_AT(buffer_of(a, p.turn), num(0), num(0)), dims);
}

/* The scores of block p with their factor, and NO_SCORE for keys behind a row's own. */
static mk_val masked(const attention *a, place p, mk_val s)
{
    mk *k = a->k;
    const mk_dims dims = MK_DIMS(a->rows, a->m->keys);
    mk_val pos = one_of(a, a->pos, one_of(a, a->list, p.item)), ahead = mk_sub(k, pos, mk_mul(k, p.block, num(a->m->keys)));
    mk_val key = mk_iota(k, 1, dims), last = mk_full(k, ahead, MK_DIMS(a->rows, 1));
    if (a->m->queries > 1) last = mk_add(k, mk_div(k, mk_iota(k, 0, MK_DIMS(a->rows, 1)), num(a->m->heads)), ahead);
    s = mk_mul(k, s, mk_mul(k, mk_get(k, a->scale, MK_AT(num(0))), mk_f32(a->m->scale)));
    return mk_select(k, mk_cmp(k, MK_LE, key, last), s, mk_full(k, mk_f32(NO_SCORE), dims));
}

/* The item's result goes out, and sums are 0 for the next one. */
static void finish_item(const attention *a, place p, mk_val sum)
{
    mk *k = a->k;
    const mla *m = a->m;
    mk_if(k, mk_cmp(k, MK_GE, p.item, num(2)));
    wait_result(a, mk_sub(k, p.item, num(2)));
    mk_end_if(k, NULL, NULL);
    mk_val factor = mk_div(k, mk_full(k, mk_get(k, a->scale, MK_AT(num(0))), MK_DIMS(a->rows, 1)), sum);
    mk_val out = mk_mul(k, mk_load(k, a->sums, MK_ZERO, MK_DIMS(a->rows, m->latent)), factor);
    out = mk_reshape(k, mk_convert(k, out, DT_BF16), MK_DIMS(m->queries, m->heads, m->latent));
    mk_store(k, out, a->results, MK_AT(mk_rem(k, p.item, num(2)), num(0), num(0), num(0)));
    send_result(a, p.item);
    mk_store(k, mk_full(k, mk_f32(0), MK_DIMS(a->rows, m->latent)), a->sums, MK_ZERO);
}

/* Which turns end an item: by the data, or for profiles, which know no branch, none or all. */
typedef enum ending { END_BY_DATA, END_NEVER, END_ALWAYS } ending;

/* One turn: block p, whose scores are there, and the scores of the next one. state: greatest score, sum of weights [rows, 1]. */
static void turn(const attention *a, place p, place next, ending ends, const mk_val state[2], mk_val out[2])
{
    mk *k = a->k;
    const mla *m = a->m;
    mk_val raw = mk_load(k, a->scores, MK_ZERO, MK_DIMS(a->rows, m->keys)), fresh = block_scores(a, next);
    mk_val s = masked(a, p, raw), most = mk_max(k, state[0], mk_reduce(k, MK_MAX, s, 1));
    mk_val weight = mk_exp(k, mk_sub(k, s, most)), keep = mk_exp(k, mk_sub(k, state[0], most));
    mk_val sum = mk_add(k, mk_mul(k, state[1], keep), mk_reduce(k, MK_SUM, weight, 1));
    mk_val v = mk_matmul(k, mk_convert(k, weight, DT_BF16), values_of(a, p), false, DT_F32, (mk_val){ 0 });
    mk_val old = mk_load(k, a->sums, MK_ZERO, MK_DIMS(a->rows, m->latent));
    mk_store(k, mk_add(k, mk_mul(k, old, keep), v), a->sums, MK_ZERO);
    mk_store(k, fresh, a->scores, MK_ZERO);
    mk_val last = ends == END_BY_DATA ? last_of_item(a, p) : mk_bool(ends == END_ALWAYS);
    if (ends == END_BY_DATA) mk_if(k, last);
    if (ends != END_NEVER) finish_item(a, p, sum);
    if (ends == END_BY_DATA) mk_end_if(k, NULL, NULL);
    out[0] = mk_select(k, last, mk_full(k, mk_f32(NO_SCORE), MK_DIMS(a->rows, 1)), most);
    out[1] = mk_select(k, last, mk_full(k, mk_f32(0), MK_DIMS(a->rows, 1)), sum);
}

/* ---- the whole ---- */

enum { STATE_MAX, STATE_SUM, STATE_ITEM, STATE_BLOCK, STATE_NEXT_ITEM, STATE_NEXT_BLOCK, STATE_FETCH_ITEM, STATE_FETCH_BLOCK, STATES };

/* The blocks that are asked for before the first turn: all buffers but one. */
static place fetch_first(const attention *a, mk_val n_listed, mk_val n_blocks)
{
    place p = { num(0), num(0), num(0) };
    for (int64_t i = 0; i < a->m->buffers - 1; i++) {
        fetch_block(a, p, n_blocks);
        p = after(a, p, n_listed);
    }
    return p;
}

/* The loop over n blocks. For profiles both copies of queries come first, as their waits come in the order of the program. */
static void turns(const attention *a, mk_val n, mk_val n_listed, ending ends)
{
    mk *k = a->k;
    const int64_t rows = a->rows;
    place first = { num(0), num(0), num(0) }, second = after(a, first, n_listed), fetch = fetch_first(a, n_listed, n);
    for (int i = 0; i < (ends == END_BY_DATA ? 1 : 2); i++) fetch_queries(a, num(i));
    prepare(a, first, n_listed);
    mk_store(k, block_scores(a, first), a->scores, MK_ZERO);
    mk_val s[STATES] = { mk_full(k, mk_f32(NO_SCORE), MK_DIMS(rows, 1)), mk_full(k, mk_f32(0), MK_DIMS(rows, 1)), first.item, first.block, second.item, second.block, fetch.item, fetch.block };
    mk_val i = mk_for(k, num(0), n, s, STATES, s);
    place p = { s[STATE_ITEM], s[STATE_BLOCK], i }, q = { s[STATE_NEXT_ITEM], s[STATE_NEXT_BLOCK], mk_add(k, i, num(1)) };
    place f = { s[STATE_FETCH_ITEM], s[STATE_FETCH_BLOCK], mk_add(k, i, num(a->m->buffers - 1)) };
    mk_if(k, mk_cmp(k, MK_LT, q.turn, n));
    prepare(a, q, n_listed);
    mk_end_if(k, NULL, NULL);
    fetch_block(a, f, n);
    turn(a, p, q, ends, s, s);
    place q2 = after(a, q, n_listed), f2 = after(a, f, n_listed);
    mk_end_for(k, (const mk_val[STATES]){ s[STATE_MAX], s[STATE_SUM], q.item, q.block, q2.item, q2.block, f2.item, f2.block }, s);
}

static void attend(const attention *a)
{
    mk *k = a->k;
    const mla *m = a->m;
    mk_val n_listed, n_blocks;
    list_items(a, &n_listed, &n_blocks);
    mk_store(k, mk_full(k, mk_f32(0), MK_DIMS(a->rows, m->latent)), a->sums, MK_ZERO);
    if (m->fixed_blocks) {
        for (int i = 0; i < 2; i++) send_result(a, num(i));        /* profiles want the copy before its wait */
        turns(a, num(m->fixed_blocks - m->fixed_items), n_listed, END_NEVER);
        turns(a, num(m->fixed_items), n_listed, END_ALWAYS);
        return;
    }
    mk_if(k, mk_cmp(k, MK_GT, n_blocks, num(0)));
    turns(a, n_blocks, n_listed, END_BY_DATA);
    mk_val from = mk_max(k, mk_sub(k, n_listed, num(2)), num(0)), item = mk_for(k, from, n_listed, NULL, 0, NULL);
    wait_result(a, item);
    mk_end_for(k, NULL, NULL);
    mk_end_if(k, NULL, NULL);
}

mk *mla_kernel(const mla *m)
{
    mk *k = mk_new(m->queries == 1 ? "mla_decode" : "mla_prefill");
    attention a = { .k = k, .m = m, .rows = m->queries * m->heads, .pages_per_block = m->page ? m->keys / m->page : 0 };
    const char *why = mla_refusal(m);
    if (why) mk_fail(k, "no kernel for %s", why);
    a.first = mk_prefetch(k, "first_page", DT_I32, 1);
    a.n_items = mk_prefetch(k, "n_items", DT_I32, 1);
    a.seq = mk_prefetch(k, "seq", DT_I32, m->items);
    a.token = mk_prefetch(k, "token", DT_I32, m->items);
    a.pos = mk_prefetch(k, "pos", DT_I32, m->items);
    a.len = mk_prefetch(k, "len", DT_I32, m->items);
    a.table = mk_prefetch(k, "page_table", DT_I32, m->seqs * m->max_pages);
    a.scale = mk_prefetch(k, "scale", DT_F32, 1);
    a.q = mk_in(k, "q", DT_BF16, MK_DIMS(m->tokens, m->heads, m->lanes));
    a.cache = mk_in(k, "cache", m->kv, MK_DIMS(m->pages, m->page, m->lanes));
    a.out = mk_out(k, "out", DT_BF16, MK_DIMS(m->tokens, m->heads, m->latent));
    a.list = mk_scratch(k, "list", MK_SMEM, DT_I32, MK_DIMS(m->items));
    a.blocks = mk_scratch(k, "blocks", MK_VMEM, m->kv, MK_DIMS(m->buffers * a.pages_per_block, m->page, m->lanes));
    a.queries = mk_scratch(k, "queries", MK_VMEM, DT_BF16, MK_DIMS(2, m->queries, m->heads, m->lanes));
    a.results = mk_scratch(k, "results", MK_VMEM, DT_BF16, MK_DIMS(2, m->queries, m->heads, m->latent));
    if (!is_wide(m)) a.keys = mk_scratch(k, "keys", MK_VMEM, DT_BF16, MK_DIMS(2, m->keys, m->lanes));
    a.scores = mk_scratch(k, "scores", MK_VMEM, DT_F32, MK_DIMS(a.rows, m->keys));
    a.sums = mk_scratch(k, "sums", MK_VMEM, DT_F32, MK_DIMS(a.rows, m->latent));
    a.block_sem = mk_dma_sems(k, "block_sem", MK_DIMS(m->buffers));
    a.query_sem = mk_dma_sems(k, "query_sem", MK_DIMS(2));
    a.result_sem = mk_dma_sems(k, "result_sem", MK_DIMS(2));
    attend(&a);
    const double context = (double)(m->max_pages * m->page < GUESSED ? m->max_pages * m->page : GUESSED), seen = m->queries == 1 ? (double)m->seqs * context : (double)m->tokens * context / 2;   /* not known: a guess */
    const mk_options o = { .flops = 2 * seen * (double)(m->heads * (m->lanes + m->latent)), .transcendentals = seen * (double)m->heads, .vmem_limit_bytes = m->vmem_bytes,
                           .bytes = (double)m->seqs * context * (double)dtype_bytes(m->kv, (size_t)m->lanes) + 2 * (double)(m->tokens * m->heads) * (double)(m->lanes + m->latent) };
    mk_set_options(k, &o);
    return k;
}

/* ---- tests ---- */

static const struct mla_case { dtype kv; int heads, small_heads, latent, rope, page, small_page, queries, keys; } cases[] = {
    { DT_BF16, 128, 128, 512, 64, 64, 16, 1, 1024 },
    { DT_BF16, 64, 64, 512, 64, 64, 32, 1, 1024 },
    { DT_BF16, 16, 16, 512, 64, 32, 16, 1, 1024 },
    { DT_BF16, 16, 16, 128, 32, 16, 16, 1, 512 },
    { DT_F8E4M3, 128, 128, 512, 64, 64, 32, 1, 1024 },
    { DT_F8E5M2, 16, 16, 512, 64, 32, 32, 1, 1024 },
    { DT_I8, 64, 64, 512, 64, 64, 32, 1, 1024 },
    { DT_BF16, 128, 32, 512, 64, 64, 16, 4, 512 },
    { DT_BF16, 16, 16, 512, 64, 32, 16, 32, 512 },
    { DT_BF16, 32, 32, 128, 32, 16, 16, 16, 512 },
    { DT_F8E4M3, 128, 16, 512, 64, 64, 32, 4, 512 },
    { DT_I8, 16, 16, 512, 64, 32, 32, 32, 512 },
};

/* 4 sequences of up to 2 blocks; 64 of 2048 tokens, or 2048 queries of up to 64 sequences. */
static mla case_of(int i, bool full)
{
    const struct mla_case *c = &cases[i];
    const int64_t page = full ? c->page : c->small_page, keys = full ? c->keys : 128, queries = full || c->queries == 1 ? c->queries : 4;
    mla m = { .kv = c->kv, .heads = full ? c->heads : c->small_heads, .lanes = (c->latent + c->rope + LANES - 1) / LANES * LANES, .latent = c->latent, .page = page,
              .seqs = full ? 64 : 4, .max_pages = (full ? 2048 : 2 * keys) / page, .queries = queries, .keys = keys, .buffers = 4, .scale = 0.0625f };
    m.pages = 2 * (m.seqs * m.max_pages + 1);
    m.tokens = queries == 1 ? m.seqs : full ? 2048 : 24;
    m.items = queries == 1 ? m.seqs : m.tokens / queries + m.seqs;
    return m;
}

static void describe_case(int i, char *dst, size_t cap)
{
    const struct mla_case *c = &cases[i];
    snprintf(dst, cap, "%s cache, %d heads of %d + %d, page %d, %s", dtype_name(c->kv), c->heads, c->latent, c->rope, c->page, c->queries == 1 ? "decode of 64 x 2048" : "2048 queries");
}

static mk *build_case(int i, const chip *c)
{
    mla m = case_of(i, false);
    (void)c;
    return mla_kernel(&m);
}

static mk *build_full(int i, const chip *c)
{
    mla m = case_of(i, true);
    (void)c;
    return mla_kernel(&m);
}

static double case_tolerance(int i) { (void)i; return 0.02; }

/* For the profile every item's last query is the 2048th of its sequence, and all blocks are whole. */
enum { PROFILE_KEYS = 2048 };

static mk *build_profile(int i, const chip *c)
{
    mla m = case_of(i, true);
    (void)c;
    m.fixed_items = m.tokens / m.queries;
    m.fixed_blocks = m.fixed_items * (PROFILE_KEYS / m.keys);
    return mla_kernel(&m);
}

static status profile(int i, const chip *c, mk *k, kernel_bound *least)
{
    const mla m = case_of(i, true);
    double items = (double)(m.tokens / m.queries), keys = items * PROFILE_KEYS;
    (void)k;
    least->bytes = keys * (double)dtype_bytes(m.kv, (size_t)m.lanes) + 2 * (double)(m.tokens * m.heads) * (double)(m.lanes + m.latent);
    least->unit_s = 2 * keys * (double)(m.queries * m.heads) * (double)(cases[i].latent + cases[i].rope + m.latent) / c->bf16_flops;
    return ST_OK;
}

/* Operands by their place in the call. */
enum { FIRST_PAGE, N_ITEMS, SEQ, TOKEN, POS, LEN, TABLE, SCALE, QUERY, CACHE };

static uint16_t bf16_code(float x) { return f32_to_bf16(x); }
static uint8_t code_of(dtype type, float x) { return type == DT_F8E4M3 ? f32_to_f8e4m3(x) : type == DT_F8E5M2 ? f32_to_f8e5m2(x) : (uint8_t)(int8_t)(x * 60); }

static void fill_rows(const mla *m, uint64_t *state, void *cache, int64_t first, int64_t n, bool nothing)
{
    for (int64_t j = first * m->lanes; j < (first + n) * m->lanes; j++) {
        float x = nothing ? NAN : kernel_draw_float(state);
        if (m->kv == DT_BF16) ((uint16_t *)cache)[j] = bf16_code(x);
        else ((uint8_t *)cache)[j] = nothing && m->kv == DT_I8 ? 127 : code_of(m->kv, x);
    }
}

/* A sequence's keys, on pages of its own; what is behind them is no number. */
static void fill_keys(const mla *m, uint64_t *state, void *const *arg, int32_t seq, int64_t keys)
{
    int32_t *table = (int32_t *)arg[TABLE] + seq * m->max_pages;
    for (int64_t p = 0; p < m->max_pages; p++) {
        int64_t n = keys - p * m->page < m->page ? keys - p * m->page : m->page, page = 1 + (seq * m->max_pages + p) * 7 % (m->pages / 2 - 1);
        table[p] = n > 0 ? (int32_t)page : 0;
        if (n > 0) fill_rows(m, state, arg[CACHE], (page + m->pages / 2) * m->page, n, false);
    }
}

/* Sequence i of a decode step has one query at the end of its keys, or, the third, none; else pieces of up to `queries`. */
static void fill_items(const mla *m, uint64_t *state, void *const *arg)
{
    int32_t *seq = arg[SEQ], *token = arg[TOKEN], *pos = arg[POS], *len = arg[LEN], *n = arg[N_ITEMS], at = 0;
    int64_t most = m->max_pages * m->page;
    *n = 0;
    for (int64_t i = 0; i < m->items; i++) seq[i] = token[i] = pos[i] = len[i] = 0;
    for (int32_t s = 0; s < m->seqs; s++) {
        int64_t keys = s == 0 ? 1 : s == 1 ? most : 1 + kernel_draw(state) % most, q = m->queries == 1 ? s != 2 : keys < 6 ? keys : 6;
        fill_keys(m, state, arg, s, keys);
        for (int64_t j = 0; j < q || (j == 0 && m->queries == 1); j += m->queries, (*n)++) {
            seq[*n] = s;
            token[*n] = at + (int32_t)j;
            pos[*n] = (int32_t)(keys - q + j);
            len[*n] = (int32_t)(q - j < m->queries ? q - j : m->queries);
        }
        at += m->queries == 1 ? 1 : (int32_t)q;
    }
}

static void fill_case(int i, const mk *k, uint64_t seed, void *const *arg)
{
    const mla m = case_of(i, false);
    uint64_t state = seed * 0x9E3779B97F4A7C15u + (uint64_t)i;
    (void)k;
    *(int32_t *)arg[FIRST_PAGE] = (int32_t)(m.pages / 2);
    *(float *)arg[SCALE] = m.kv == DT_I8 ? 1.0f / 64 : 1.0f;
    fill_rows(&m, &state, arg[CACHE], 0, m.pages * m.page, true);
    fill_items(&m, &state, arg);
    for (int64_t j = 0; j < m.tokens * m.heads * m.lanes; j++) ((uint16_t *)arg[QUERY])[j] = bf16_code(kernel_draw_float(&state) / 8);
}

/* Key t of a sequence. */
static const float *ref_key(const mla *m, void *const *arg, const float *cache, int32_t seq, int64_t t)
{
    const int32_t *table = arg[TABLE];
    int64_t page = table[seq * m->max_pages + t / m->page] + *(const int32_t *)arg[FIRST_PAGE];
    return cache + (page * m->page + t % m->page) * m->lanes;
}

static void ref_row(const mla *m, void *const *arg, const float *cache, int32_t seq, int64_t n_keys, const uint16_t *q, float *out)
{
    double max = -INFINITY, sum = 0, scale = *(const float *)arg[SCALE];
    for (int64_t j = 0; j < m->latent; j++) out[j] = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t t = 0; t < n_keys; t++) {
            const float *key = ref_key(m, arg, cache, seq, t);
            double score = 0;
            for (int64_t j = 0; j < m->lanes; j++) score += (double)bf16_to_f32(q[j]) * key[j];
            score *= scale * m->scale;
            if (pass == 0) max = score > max ? score : max;
            else sum += exp(score - max);
            for (int64_t j = 0; pass == 1 && j < m->latent; j++) out[j] += (float)(exp(score - max) * scale * key[j]);
        }
    for (int64_t j = 0; j < m->latent; j++) out[j] /= (float)sum;
}

static status ref_case(int i, const mk *k, void *const *arg, float *const *results)
{
    const mla of_case = case_of(i, false), *m = &of_case;
    const int32_t *seq = arg[SEQ], *token = arg[TOKEN], *pos = arg[POS], *len = arg[LEN], n = *(const int32_t *)arg[N_ITEMS];
    size_t cache_n = (size_t)(m->pages * m->page * m->lanes);
    float *cache = mem_alloc(cache_n * sizeof *cache);
    (void)k;
    if (!cache) return err_nomem();
    dtype_to_f32(m->kv, arg[CACHE], cache, cache_n);
    for (int64_t j = 0; j < m->tokens * m->heads * m->latent; j++) results[0][j] = NAN;
    for (int32_t it = 0; it < n; it++)
        for (int64_t r = 0; r < len[it] * m->heads; r++) {
            int64_t row = (token[it] + r / m->heads) * m->heads + r % m->heads;
            ref_row(m, arg, cache, seq[it], pos[it] + r / m->heads + 1, (const uint16_t *)arg[QUERY] + row * m->lanes, results[0] + row * m->latent);
        }
    mem_free(cache);
    return ST_OK;
}

const kernel_impl kernel_mla = {
    .name = "mla", .n_cases = (int)(sizeof cases / sizeof *cases), .describe = describe_case, .build = build_case, .build_full = build_full, .fill = fill_case, .ref = ref_case,
    .tolerance = case_tolerance, .build_profile = build_profile, .profile = profile
};
