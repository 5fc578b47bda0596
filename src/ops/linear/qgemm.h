/* Matrix product with quantised weights: Y[M,N] = X[M,K] @ W[N,K]^T (+ bias[N]) (+ residual[M,N]), results in float32. The
 * arithmetic is in docs/quantization.md; in short:
 *
 * int8 activations (quant_info.int8_activations). A row of X, or a group of it, becomes q = rint(x / sa) with the scale
 * sa = amax / 127. Sums of q * w over a group (or the whole row) are exact integers; an element is
 *   per channel   (float)sum * (sa * sw)
 *   per group     a chain over groups, ascending, from zero: y = fma((float)sum, sa * sw, y)
 * 16/32-bit activations (weight only). A weight is value * scale in float32 (one rounding, none for grouped schemes), an element
 * one chain of fused multiply-adds over k = 0..K-1, as in gemm.h.
 * Bias, then residual are added afterwards. Nothing depends on rows beside a row, panel ranges, threads or the instruction set.
 *
 * Packed layout: panels of 16 output columns, each one stream: scales, then values over k, which is padded to whole groups with
 * values that count as zero.
 *   scales   16 per group (one group: per channel) in the scheme's type, filled up to whole cache lines; then, if the scheme has zeros,
 *            16 signed bytes per group, filled up; then, if scales are e4m3, 16 float32 that a column's are divided by
 *   int8 for int8 activations     32-bit lanes hold four k's of a column, 16 lanes per four k's, as value + 128
 *   int4 for int8 activations     the same twice in one: low nibbles hold k 0..3, high ones k 4..7, as value + 8
 *   int8, fp8 weight only         16 bytes per k
 *   int4, fp4 weight only         16 bytes per two k's, low nibble the even one; int4 as value + zero (8 if the scheme has none)
 * After the panels, if the scheme has them: the order of the inputs (int32 per k), the scale of activations (a float32), each filled up.
 * Unsigned weights times signed activations is what vpdpbusd takes; the offset costs one multiplication per group: sums start
 * at -offset * (sum of the group's activations). */
#ifndef SYSTOLIC_OPS_LINEAR_QGEMM_H
#define SYSTOLIC_OPS_LINEAR_QGEMM_H

#include "graph/quant.h"
#include "ops/linear/gemm.h"

/* k's of a panel with per-channel scales are padded to this. */
enum { QGEMM_PAD = 16 };
/* Longer rows could leave 32 bits: 127 * 127 * QGEMM_MAX_K < 2^31. */
enum { QGEMM_MAX_K = 1 << 17 };

/* `base` comes first: whoever holds a gemm_weight whose type is DT_I8, DT_I4, DT_F8E4M3 or DT_F4E2M1 holds one of these. */
typedef struct qgemm_weight {
    gemm_weight base;
    quant_scheme scheme;
} qgemm_weight;
static inline bool qgemm_is(const gemm_weight *w) { return w->type == DT_I8 || w->type == DT_I4 || w->type == DT_F8E4M3 || w->type == DT_F4E2M1; }

/* k's that share a scale: the scheme's group, or all of k, padded. */
static inline int64_t qgemm_group(quant_scheme s, int64_t k)
{
    int group = quant_describe(s).group;
    return group ? group : (k + QGEMM_PAD - 1) / QGEMM_PAD * QGEMM_PAD;
}
static inline int64_t qgemm_groups(quant_scheme s, int64_t k)
{
    int64_t group = qgemm_group(s, k);
    return (k + group - 1) / group;
}
static inline int64_t qgemm_padded_k(quant_scheme s, int64_t k) { return qgemm_group(s, k) * qgemm_groups(s, k); }
/* Added to values so that they are stored unsigned. */
static inline int qgemm_offset(quant_scheme s) { return quant_describe(s).type == DT_I4 ? 8 : quant_describe(s).int8_activations ? 128 : 0; }

/* From the start of a panel to its zeros, what scales are divided by, its values; bytes of a panel (all multiples of 64); of a weight. */
size_t qgemm_zeros_at(quant_scheme s, int64_t k);
size_t qgemm_global_at(quant_scheme s, int64_t k);
size_t qgemm_scale_bytes(quant_scheme s, int64_t k);
size_t qgemm_panel_bytes(quant_scheme s, int64_t k);
size_t qgemm_packed_bytes(quant_scheme s, int64_t n, int64_t k);

/* After the panels: NULL and 0 if the scheme has none. */
const int32_t *qgemm_order(const qgemm_weight *w);
float qgemm_input_scale(const qgemm_weight *w);

/* ---- int8 activations ---- */

/* Of a row's group: its scale, and what sums start at. */
typedef struct qgemm_scale { float scale; int32_t start; } qgemm_scale;
/* One row of k floats to padded_k int8 at q and a qgemm_scale per group. `group` as qgemm_group has it. */
typedef void qgemm_round_fn(const float *x, int64_t k, int64_t group, int offset, int8_t *q, qgemm_scale *s);
/* The same with a scale that the checkpoint has; values beyond 127 of it are cut. */
void qgemm_round_static(const float *x, int64_t k, float scale, int offset, int8_t *q, qgemm_scale *s);
/* Activations that are rounded to e4m3 (scale: the static one) and then multiplied as floats: one row of k floats to dst, with dst[i] from
 * x[order[i]] if there is an order. Of schemes without int8 activations. */
void qgemm_prepare(quant_act act, float scale, const int32_t *order, const float *x, int64_t k, float *dst);

typedef struct qgemm_call {
    const qgemm_weight *w;
    int64_t m;
    const int8_t *q; int64_t ldq;              /* int8 activations: [m][padded k], row stride in bytes */
    const qgemm_scale *s; int64_t lds;         /* [m][groups] */
    const float *x; int64_t ldx;               /* weight only: [m][k] */
    float *y; int64_t ldy;                     /* [m][n] */
    const float *bias;                         /* [n] or NULL */
    const float *residual; int64_t ldr;        /* [m][n] or NULL; must not overlap y */
    float *scratch;                            /* weight only and tiles: GEMM_SCRATCH_BYTES, 64-byte aligned, this thread's own */
} qgemm_call;
/* Computes the output columns of panels [p0, p1). */
typedef void qgemm_fn(const qgemm_call *c, int64_t p0, int64_t p1);

typedef struct qgemm_kernels {
    const char *name;
    bool (*available)(void);
    qgemm_round_fn *round;
    qgemm_fn *run;
} qgemm_kernels;
/* One list feeds declarations, dispatch, tests and bench, best last. */
#if defined(__x86_64__)
#define QGEMM_VARIANTS(X) X(portable) X(avx2) X(avxvnni) X(avx512vnni) X(amx) X(amx_emulated)
#define QGEMM_WIDE_VARIANTS(X) X(portable) X(avx2) X(avx512)
#else
#define QGEMM_VARIANTS(X) X(portable)
#define QGEMM_WIDE_VARIANTS(X) X(portable)
#endif
#define QGEMM_DECLARE(name) extern const qgemm_kernels qgemm_##name;
QGEMM_VARIANTS(QGEMM_DECLARE)
#undef QGEMM_DECLARE
/* Weight only: x is float32. */
#define QGEMM_DECLARE(name) qgemm_fn qgemm_wide_##name;
QGEMM_WIDE_VARIANTS(QGEMM_DECLARE)
#undef QGEMM_DECLARE

#endif
