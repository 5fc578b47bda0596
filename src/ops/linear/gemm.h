/* Matrix product with packed weights: Y[M,N] = X[M,K] @ W[N,K]^T (+ bias[N]) (+ residual[M,N]), float32 activations.
 *
 * Exactness: every output element is one chain of fused multiply-adds over k = 0..K-1, starting from zero, in float32; bias
 * and then residual are added afterwards. Tiling never changes that chain, so an element has the same bits whatever the
 * number of rows beside it, the panel range, the thread or the instruction set.
 *
 * The dot family (gemm_dot_*) is another arithmetic, for bfloat16 weights of models that compute in bfloat16: activations are
 * rounded to bfloat16, nearest even, and an element is one chain of the instruction over pairs k = (0,1), (2,3), ...; an odd
 * K is padded with zeros. The instruction (vdpbf16ps) takes subnormal inputs as zero and makes zero of subnormal results; how it
 * rounds the two products is the maker's: tests/unit/ops/test_gemm.c has what was found. Tiling changes nothing here either. AMX's tiles
 * (amx.h) sum in another order, so they are a third arithmetic.
 *
 * Packed layout: panels of 16 output columns, zero-padded, each panel one stream over k:
 *   f32   16 floats per k
 *   f16   16 halves per k
 *   bf16  32-bit lanes hold (k even, k odd) of one column: 16 lanes per two k's. A lane shifted left by 16 is the even
 *         value in float32, masked with 0xFFFF0000 the odd one; vdpbf16ps and AMX take the pair as it is.
 */
#ifndef SYSTOLIC_OPS_LINEAR_GEMM_H
#define SYSTOLIC_OPS_LINEAR_GEMM_H

#include <stddef.h>
#include <stdint.h>

#include "graph/dtype.h"
#include "ops/isa.h"

enum {
    GEMM_PANEL = 16,     /* columns per panel */
    GEMM_KB = 512,       /* k's per block of the tiled path */
    GEMM_MAX_NP = 4      /* panels per tile at most */
};
/* float32 scratch each thread hands in: one converted block of weights. */
#define GEMM_SCRATCH_BYTES ((size_t)GEMM_KB * GEMM_PANEL * GEMM_MAX_NP * sizeof(float))

typedef struct gemm_weight {
    dtype type;          /* DT_F32, DT_BF16 or DT_F16 */
    int64_t n, k;        /* logical [out, in] */
    const void *data;    /* packed, 64-byte aligned */
} gemm_weight;

static inline int64_t gemm_n_panels(int64_t n) { return (n + GEMM_PANEL - 1) / GEMM_PANEL; }
/* Bytes of one packed panel, a multiple of 64. */
size_t gemm_panel_bytes(dtype type, int64_t k);
size_t gemm_packed_bytes(dtype type, int64_t n, int64_t k);

/* Packs panel p of W. `rows` has one pointer per row of the panel (GEMM_PANEL of them, NULL for padding), each to k contiguous
 * elements of src_type; conversion to `type` rounds to nearest even. Panels may be packed in parallel. */
void gemm_pack_panel(dtype type, void *packed, int64_t k, int64_t p, const void *const *rows, dtype src_type);

typedef struct gemm_call {
    const gemm_weight *w;
    const float *x; int64_t m, ldx;        /* X[m][k], row stride ldx */
    float *y; int64_t ldy;                 /* Y[m][n] */
    const float *bias;                     /* [n] or NULL */
    const float *residual; int64_t ldr;    /* [m][n] or NULL; must not overlap y */
    float *scratch;                        /* GEMM_SCRATCH_BYTES, 64-byte aligned, this thread's own */
} gemm_call;

/* Computes the output columns of panels [p0, p1). Threads share a product by taking disjoint ranges. */
typedef void gemm_fn(const gemm_call *c, int64_t p0, int64_t p1);

/* One list of variants feeds declarations, dispatch, tests and bench: X(name, available-here expression) best last. */
#if defined(__x86_64__)
#define GEMM_VARIANTS(X) X(portable) X(avx2) X(avx512)
#else
#define GEMM_VARIANTS(X) X(portable)
#endif
#define GEMM_DECLARE(name) gemm_fn gemm_##name;
GEMM_VARIANTS(GEMM_DECLARE)
#undef GEMM_DECLARE

#if defined(__x86_64__)
/* The dot family. x holds pairs: row r is gemm_pairs(k) 32-bit lanes from x + r * ldx on, ldx in lanes; the weight is DT_BF16.
 * AMX's (amx.h) are of the same form. */
gemm_fn gemm_dot_avx512bf16;
/* The one of an instruction set (isa.h), or NULL if it multiplies floats. */
gemm_fn *gemm_dot_of(isa set);
/* n floats to pairs, rounded to nearest even, with a zero after an odd n. dst is 4-byte aligned. */
void gemm_round_avx512bf16(const float *x, int64_t n, void *dst);
#endif
static inline int64_t gemm_pairs(int64_t k) { return (k + 1) / 2; }

/* The rows a product should be given at once where the caller can choose (tile height). */
enum { GEMM_MR = 8 };

#endif
