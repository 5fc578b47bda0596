/* The step's K and V into the flat cache, in place, as a kernel for TPUs. StableHLO's scatter does the same (paged_attention_hlo.c);
 * this one moves the bytes with copies that are in flight together, whatever the number of tokens. */
#ifndef SYSTOLIC_OPS_PAGED_ATTENTION_KV_UPDATE_H
#define SYSTOLIC_OPS_PAGED_ATTENTION_KV_UPDATE_H

#include "mosaic/kernel.h"
#include "ops/hlo.h"

typedef struct kv_update {
    dtype type;                     /* of the cache */
    int64_t tokens, pages, page;    /* of the step; in the cache, all layers' together; tokens per page */
    int64_t rows, lanes;            /* of a token in the cache (hlo_kv) */
    bool single;                    /* every token is of another sequence */
    kv_scale_shape scales;          /* of an int8 cache, which has them beside it; no lines: there are none */
    int64_t fixed_runs;             /* > 0: so many turns, whatever the data: for static profiles, which know no trip counts */
} kv_update;

/* NULL where there is a kernel, else why not. */
const char *kv_update_refusal(const kv_update *u);

/* Operands: write_page i32 [tokens] (0: the token is not written), write_slot i32 [tokens], first_page i32 [1] (added to pages),
 * rows (kv_update_rows), with scales those of the tokens (kv_update_scales_dims) and their array, the cache; results: the cache, then the
 * scales' array, which are these operands' memory. Consecutive tokens on one page are in consecutive slots. Not finished yet. */
mk *kv_update_kernel(const kv_update *u);

/* One row per token: the cache's tiles of several tokens are then read, changed and written back. */
static inline bool kv_update_by_tile(const kv_update *u) { return u->rows == 1 && dtype_bits(u->type) < 32; }
/* Tokens of a tile that is read and written at once. */
int64_t kv_update_tile(const kv_update *u);
/* The cache's shape, and that of the tokens' rows, as the kernel has them: [pages, page, rows, lanes] and [tokens, rows, lanes] of
 * the cache's type, or by tile [pages, page, lanes] and [tokens + 2 tiles, 1, lanes] of f32 (i32 with the bits of 8-bit types), one
 * tile of nothing before the tokens and one behind (if single: neither). */
mk_dims kv_update_cache_dims(const kv_update *u);
mk_dims kv_update_rows_dims(const kv_update *u);
dtype kv_update_rows_type(const kv_update *u);
/* The tokens' scales, f32 [rows, lines, 128]: a line's numbers as in a page, token by token, behind so many that are nothing. */
mk_dims kv_update_scales_dims(const kv_update *u);
int64_t kv_update_scales_before(const kv_update *u, int64_t line);

/* The step's tokens into c->cache by the kernel, if there is one for this cache: true if that was done. For programs whose attention is a
 * kernel too: compilers may want other layouts for their own gathers. */
bool kv_update_hlo(hlo_call *c, const hlo_kv *kv);
/* What keys, or values, are divided by when they are written (paged_attention's kv_scales): f32 scalar, none if nothing. */
hlo_val kv_scale(hlo_call *c, bool of_values);
/* What it writes (paged_attention_hlo.c). The step's keys and values in the cache's type, [T, kv_heads, d]; of DT_I8 with their scales, f32 [T,
 * kv_heads]. A latent cache has keys alone. */
void kv_numbers(hlo_call *c, const hlo_kv *kv, hlo_val numbers[2], hlo_val scales[2]);
/* Numbers as rows of the cache, [T, rows, lanes]; scales as those of its lines (kv_scale_shape), [T, lines, per]. */
hlo_val kv_cache_rows(hlo_call *c, const hlo_kv *kv, const hlo_val numbers[2]);
hlo_val kv_cache_scales(hlo_call *c, const hlo_kv *kv, const hlo_val scales[2]);

#endif
