/* AVX-512: tiles of up to 8 rows x 3 panels or 6 rows x 4 panels (24 accumulators of the 32 registers). */
#include <immintrin.h>

#include "ops/linear/gemm.h"

typedef __m512 V;
enum { VW = 16, NV = 1 };
#define v_zero() _mm512_setzero_ps()
#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, v) _mm512_storeu_ps((p), (v))
#define v_set1(f) _mm512_set1_ps(f)
#define v_fma(a, b, c) _mm512_fmadd_ps((a), (b), (c))
#define v_add(a, b) _mm512_add_ps((a), (b))

static inline __attribute__((always_inline)) void load_f16(const uint16_t *p, V *out)
{
    out[0] = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)p));
}

static inline __attribute__((always_inline)) void load_bf16(const uint16_t *p, V *even, V *odd)
{
    __m512i pair = _mm512_load_si512((const void *)p);
    even[0] = _mm512_castsi512_ps(_mm512_slli_epi32(pair, 16));
    odd[0] = _mm512_castsi512_ps(_mm512_and_si512(pair, _mm512_set1_epi32((int)0xFFFF0000u)));
}

#include "ops/linear/gemm_tile.h"
#include "ops/linear/gemm_drive.h"

void gemm_avx512(const gemm_call *c, int64_t p0, int64_t p1) { drive(c, p0, p1); }
