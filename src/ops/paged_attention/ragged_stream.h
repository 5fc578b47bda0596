/* What both kernels of ragged.h share: a list of work (sequences, or tiles of queries), one loop over the blocks of all of it, and
 * blocks of pages that are copied ahead. */
#ifndef SYSTOLIC_OPS_PAGED_ATTENTION_RAGGED_STREAM_H
#define SYSTOLIC_OPS_PAGED_ATTENTION_RAGGED_STREAM_H

#include "ops/paged_attention/ragged.h"

#define RAGGED_NO_SCORE (-1e30f)    /* below every score; finite, so that differences are */

typedef struct ragged_stream {
    mk *k;
    const ragged *r;
    int64_t block_pages;
    mk_ref first, table, cache;     /* operands */
    mk_ref list;                    /* i32 [items, RAGGED_FIELDS] */
    mk_ref blocks, sem;             /* [pieces of 128 lanes * buffers * block_pages, page, ...]; [buffers] */
    mk_val n_items, n_blocks;       /* listed; of all of them */
    mk_ref scale_cache, scales;     /* of an int8 cache: operand; [buffers, rows, 1, lanes of a block's pages] */
    kv_scale_shape shape;           /* no lines: there are none */
} ragged_stream;

/* Of an item in the list: which it is, its sequence, and the keys that its queries see, from `lo` to before `hi`. */
enum { RAGGED_ID, RAGGED_SEQ, RAGGED_LO, RAGGED_HI, RAGGED_FIELDS };
/* A block of an item: its place in the list, the block's number in the sequence, and how many blocks come before it in all. */
typedef struct ragged_place { mk_val item, block, turn; } ragged_place;

static inline mk_val ragged_num(int64_t v) { return mk_i32((int32_t)v); }
mk_val ragged_field(const ragged_stream *s, mk_val item, int field);
/* The first key that a query sees which sees those before `hi`. */
mk_val ragged_first_key(const ragged_stream *s, mk_val hi);

/* Scratch. `items`: most that the list can have. */
void ragged_stream_init(ragged_stream *s, mk *k, const ragged *r, int64_t items);
/* Fills the list with those of n items for which hi of `item` is positive: it gives sequence, lo and hi. */
typedef void ragged_item(const ragged_stream *s, const void *arg, mk_val i, mk_val out[RAGGED_FIELDS]);
void ragged_list(ragged_stream *s, mk_val n, ragged_item *item, const void *arg);

mk_val ragged_is_first(const ragged_stream *s, ragged_place p);     /* of its item */
mk_val ragged_is_last(const ragged_stream *s, ragged_place p);

/* The loop over the first n blocks of all items: `body` sees each when its pages are there, and those after it are on their way. It may
 * change the n_state values (at most MK_CARRIED - 4) that go from one turn to the next, at first `state`. */
typedef void ragged_body(const void *arg, ragged_place p, mk_val *state);
void ragged_turns(const ragged_stream *s, mk_val n, ragged_body *body, const void *arg, const mk_val *state, int n_state);

/* The at-th `tokens` keys of a block, of which they are a part. */
typedef struct ragged_part { mk_val at; int64_t tokens; } ragged_part;
static inline ragged_part ragged_whole(const ragged_stream *s) { return (ragged_part){ mk_i32(0), s->r->block }; }

/* KV heads of op i (ragged_ops) of a block's part: [tokens * heads, width] of the cache's type. Values of keys from the block's n-th on
 * are 0: what nobody wrote may be a NaN, which a weight of 0 does not stop. */
mk_val ragged_keys(const ragged_stream *s, ragged_place p, ragged_part part, int64_t i);
mk_val ragged_values(const ragged_stream *s, ragged_place p, ragged_part part, int64_t i, mk_val n);

/* ---- scales of an int8 cache: ragged_scales.c. Without them these do nothing ---- */
void ragged_scales_init(ragged_stream *s);
/* Asks for a page's, to the at-th place of a buffer; waits for those of n pages. */
void ragged_scales_fetch(const ragged_stream *s, mk_val page, mk_val buffer, mk_val at, mk_ref sem);
void ragged_scales_await(const ragged_stream *s, mk_val n, mk_ref sem);
/* Keys' and values' scales of op i (ragged_ops) of a block's part, f32 [1, tokens * heads] as the columns of its scores. Values' from the
 * block's n-th key on are 0: what nobody wrote may be a NaN. */
mk_val ragged_scales(const ragged_stream *s, ragged_place p, ragged_part part, int64_t i);
mk_val ragged_value_scales(const ragged_stream *s, ragged_place p, ragged_part part, int64_t i, mk_val n);
/* Fills the at-th 128 tokens of `heads`, f32 [ragged_scale_heads, 1, block]; 0 from the block's n-th key on. */
void ragged_split_scales(const ragged_stream *s, ragged_place p, mk_val at, mk_val n, mk_ref heads);

#endif
