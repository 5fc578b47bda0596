/* The dot product instruction of AVX512_BF16. To it a pair of bfloat16 is what a float is to a multiply-add: a 32-bit lane of
 * activations, broadcast, against 16 lanes of a panel. So the tiles are those of float32 weights with half as many k's. */
#include <immintrin.h>

#include "ops/linear/gemm.h"

typedef __m512 V;
enum { VW = 16, NV = 1 };
#define v_zero() _mm512_setzero_ps()
#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, v) _mm512_storeu_ps((p), (v))
#define v_set1(f) _mm512_set1_ps(f) /* moves bits: no arithmetic on what is no float */
#define v_fma(x, w, acc) _mm512_dpbf16_ps((acc), (__m512bh)(w), (__m512bh)(x))
#define v_add(a, b) _mm512_add_ps((a), (b))
#define GEMM_ONLY_F32 1

#include "ops/linear/gemm_tile.h"
#include "ops/linear/gemm_drive.h"

void gemm_dot_avx512bf16(const gemm_call *c, int64_t p0, int64_t p1)
{
    gemm_weight lanes = { DT_F32, c->w->n, gemm_pairs(c->w->k), c->w->data };
    gemm_call call = *c;
    call.w = &lanes;
    drive(&call, p0, p1);
}

void gemm_round_avx512bf16(const float *x, int64_t n, void *dst)
{
    uint16_t *to = dst;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32)
        _mm512_storeu_si512(to + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + 16), _mm512_loadu_ps(x + i)));
    for (; i < n; i += 16) { /* what is masked out is zero: the padding of an odd n */
        int64_t left = n - i < 16 ? n - i : 16;
        __m512 v = _mm512_maskz_loadu_ps((__mmask16)((1u << left) - 1), x + i);
        _mm256_mask_storeu_epi16(to + i, (__mmask16)((1u << (left + (left & 1))) - 1), (__m256i)_mm512_cvtneps_pbh(v));
    }
}
