/* Attention kernels over one part of a sequence's keys.
 *
 * Exactness: keys are taken in parts of ATTN_PART by absolute position. In a part, a score is one chain of fused
 * multiply-adds over the head, the sum of weights has 16 lanes by key position, a value one chain over the keys in order;
 * parts are merged in order. Nothing of this depends on which queries are computed together, on who computes a part, on
 * the block size of the cache or on the instruction set, so a row has the same bits however a batch is cut. Numbers of the
 * cache become float32 on the way into registers, which is exact; scales of DT_I8 multiply scores and weights, not numbers.
 * attention_avx512bf16.c is another arithmetic, exact in the same sense. */
#ifndef SYSTOLIC_OPS_ATTENTION_H
#define SYSTOLIC_OPS_ATTENTION_H

#include <stdbool.h>
#include <stdint.h>

#include "graph/dtype.h"
#include "ops/hlo.h"
#include "ops/isa.h"

/* The operation in StableHLO (paged_attention_hlo.c). */
hlo_val paged_attention_hlo(hlo_call *c);

enum { ATTN_PART = 256, ATTN_GROUPS = ATTN_PART / 16, ATTN_ROWS = 64 };

/* Running softmax of a row: greatest score, sum of weights, weighted sum of values. */
typedef struct attn_state { float *m, *l, *acc; int64_t acc_ld; } attn_state;   /* [rows], [rows], [rows][acc_ld] */

typedef struct attn_tile {
    int rows;                        /* at most ATTN_ROWS */
    int64_t d, dp;                   /* head size, and rounded up to 16 */
    float scale;                     /* of scores: attn_raw and what keys were divided by included */
    float softcap;                   /* scores become softcap * tanh(score / softcap); 0 = they stay */
    float v_scale;                   /* of values: attn_raw times what they were divided by */
    const float *q;                  /* [rows][d] */
    dtype type;                      /* of k and v */
    const void *k[2 * ATTN_GROUPS];  /* per 16 keys: element (i of head, key) at i * k_ld + key; then the next part's, or NULL */
    const void *v[ATTN_GROUPS];      /* per 16 keys: element (key, i of head) at key * v_ld + i */
    bool scaled;                     /* numbers of a key are to be multiplied by a factor of its own, */
    const float *ks[ATTN_GROUPS], *vs[ATTN_GROUPS]; /* per 16 keys */
    int64_t k_ld, v_ld;
    bool pairs;                      /* attn_pairs: k and v are copies of pairs, k_ld is not used and v_ld counts pairs */
    bool prefetch;                   /* few rows: waiting for memory is what takes the time. Scores fetch the part's values, and
                                      * values the next part's keys, so that memory is as busy in both */
    bool cold;                       /* nobody has fetched this part's keys */
    const int *lo, *hi;              /* [rows] keys of the part that a row sees: [lo, hi); none if hi <= lo */
    float *s;                        /* scratch [rows][ATTN_PART] */
    attn_state state;
    const bool *empty;               /* [rows] no part has been merged into the row's state yet */
} attn_tile;

/* What kernels read of the cache's type: DT_F8E4M3 as float16 with the same bits, which is 2^-8 of the number. It is a power of
 * two, so it may be made up for anywhere. */
static inline float attn_raw(dtype type) { return type == DT_F8E4M3 ? 256 : 1; }

/* Attends to the part and merges the result into the state. */
typedef void attn_part_fn(const attn_tile *t);
/* Merges a row's partial state (m, l, acc[dp]) into another that is not empty. */
typedef void attn_merge_fn(float *m, float *l, float *acc, float pm, float pl, const float *pacc, int64_t dp);
/* out[i] = acc[i] / l, i < d */
typedef void attn_finish_fn(const float *acc, float l, float *out, int64_t d);

/* dst[r * dst_ld + c] = element r * src_ld + c of src, raw, as float32; cols is a multiple of 16 */
typedef void attn_widen_fn(dtype type, const void *src, int64_t src_ld, int64_t rows, int64_t cols, float *dst, int64_t dst_ld);

/* Kernels that multiply pairs of bfloat16 take queries as 32-bit lanes of two numbers of the head, d apart, and keys and values either
 * as they lie in a cache of DT_BF16, or, 16 keys each, as copies: keys [(d + 1) / 2][16] lanes of two numbers of the head, values
 * [8][dp] lanes of two keys. */
typedef struct attn_pairs {
    void (*query)(const float *q, int64_t d, float *dst);
    void (*keys)(const uint16_t *k, int64_t ld, int64_t d, float *dst);
    void (*values)(const uint16_t *v, int64_t ld, int64_t dp, float *dst);
} attn_pairs;

typedef struct attn_kernels {
    attn_part_fn *part;
    attn_merge_fn *merge;
    attn_finish_fn *finish;
    attn_widen_fn *widen;        /* NULL where there are pairs */
    const attn_pairs *pairs;     /* NULL: numbers are multiplied as float32 */
} attn_kernels;
#define ATTN_DECLARE(isa) extern const attn_kernels attn_##isa;
ISA_VECTORS(ATTN_DECLARE)
#undef ATTN_DECLARE
#if defined(__x86_64__)
/* Not of latent layers. */
extern const attn_kernels attn_dot_avx512bf16;
#endif

#endif
