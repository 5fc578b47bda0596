/* Attention over pages of the flat cache as kernels for TPUs: ragged paged attention (arXiv:2604.15464 describes another one), in
 * two kernels.
 *
 *   decode   one query per sequence: all sequences' blocks in one loop, bound by memory
 *   tiles    up to `queries` of one sequence at a time, bound by arithmetic
 *
 * Softmax is by a running maximum and sum over blocks of keys (arXiv:1805.02867, 2205.14135); the blocks of pages to come are copied
 * while one is multiplied. paged_attention_hlo.c is the same in StableHLO, ragged_hlo.c calls these. */
#ifndef SYSTOLIC_OPS_PAGED_ATTENTION_RAGGED_H
#define SYSTOLIC_OPS_PAGED_ATTENTION_RAGGED_H

#include "mosaic/kernel.h"
#include "ops/hlo.h"

typedef struct ragged {
    hlo_kv kv;                      /* how heads lie in the cache */
    int64_t q_heads, seqs, max_pages, page, pages;  /* queries' heads; page table; tokens per page; pages in the cache, all layers' together */
    int64_t queries;                /* of a tile; 1: decode */
    int64_t tiles, tile, tokens;    /* not decode: most tiles that are listed, queries of one; rows of queries */
    int64_t block, buffers;         /* keys of a block of pages in VMEM; blocks, at least 2 */
    int64_t window, chunk;          /* 0: none */
    float softcap;                  /* 0: none */
    bool sinks;
    bool widen;                     /* the matrix unit knows no 8-bit types beside bf16 (v4) */
    int64_t vmem_bytes;             /* limit; 0: the compiler's */
    int64_t fixed_blocks;           /* > 0: so many blocks of whole pages, whatever the data: for static profiles, which know no trip counts */
    int64_t fixed_items;            /* of tiles: so many items then, each of which ends with one of these blocks */
} ragged;

/* NULL where there is a kernel, else why not. */
const char *ragged_refusal(const ragged *r);

/* Blocks of about `bytes` of the cache, or of `tokens` (0: by bytes), as whole pages and 128 keys; no longer than a sequence's pages. */
int64_t ragged_block(const hlo_kv *kv, int64_t page, int64_t max_pages, int64_t bytes, int64_t tokens);

/* What ragged_refusal says of an int8 cache's pages; VMEM of their scales; the shape of the scales' array. */
const char *ragged_scales_refusal(const ragged *r);
int64_t ragged_scales_bytes(const ragged *r);
mk_dims ragged_scales_dims(const ragged *r);
/* KV heads' keys, as many as lines hold, and their values; 0: there are no scales. */
int64_t ragged_scale_heads(const ragged *r);

/* Bytes of a token in the cache, with its scales. */
double ragged_token_bytes(const ragged *r);

/* The cache's shape as kernels have it: [pages, page, rows, lanes], or [pages, page, lanes] where a token is one row. */
mk_dims ragged_cache_dims(const ragged *r);

/* How decode's queries lie: [seqs, ops, rows, width]. An op is a matrix product with `heads` KV heads, those that share 32-bit words
 * of the cache; its rows are their query heads, up to a multiple of 8, and width is that of a head in the cache. */
typedef struct ragged_ops { int64_t ops, heads, group, rows, width; } ragged_ops;
ragged_ops ragged_ops_of(const ragged *r);

/* Not finished yet. Operands of decode: first_page i32 [1] (added to pages), kv_lens i32 [seqs] (0: none), page_table i32 [seqs *
 * max_pages], factors f32 [2] (of scores; of the result), q bf16 [seqs, ops, rows, width], with sinks f32 [ops, rows, 1], of an int8 cache
 * its scales (hlo_kv_scales), the cache.
 * Result: as q; what belongs to a sequence without keys is undefined. */
mk *ragged_decode(const ragged *r);

/* How the other kernel's queries lie: [tokens, q_rows, width], where q_rows are the heads with what makes them whole tiles. Rows of a
 * product are `heads` query heads of one KV head with all the tile's queries: `rows`, in so many `chunks`. */
enum { RAGGED_CHUNK_ROWS = 512, RAGGED_MOST_BLOCK = 4096, RAGGED_LEAST_QUERIES = 16 };
typedef struct ragged_tiles_shape { int64_t group, width, q_rows, heads, rows, chunks; } ragged_tiles_shape;
ragged_tiles_shape ragged_tiles_shape_of(const ragged *r);
/* What ragged_refusal says of such tiles in particular. */
const char *ragged_tiles_refusal(const ragged *r);
/* Pieces of up to `queries` queries that tiles are cut into. */
int64_t ragged_tiles_items(const ragged *r);

/* Not finished yet. Operands: first_page i32 [1], n_tiles i32 [1], tile_seq, tile_token, tile_pos, tile_len i32 [tiles] (hlo_step), page_table
 * i32 [seqs * max_pages], factors f32 [2], with sinks f32 [q_heads], q bf16 [tokens, q_rows, width], of an int8 cache its scales, the cache.
 * Result: as q; rows that are no tile's are undefined. */
mk *ragged_tiles(const ragged *r);

/* The write of the step's keys and values and the attention to them, where there are kernels for this layer, chip and bucket. */
bool ragged_hlo(hlo_call *c, const hlo_kv *kv, hlo_val *out);

#endif
