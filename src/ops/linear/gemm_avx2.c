/* AVX2 with FMA and F16C: tiles of up to 6 rows x 1 panel (12 accumulators of the 16 registers). */
#include <immintrin.h>

#include "ops/linear/gemm.h"

typedef __m256 V;
enum { VW = 8, NV = 2 };
#define v_zero() _mm256_setzero_ps()
#define v_load(p) _mm256_loadu_ps(p)
#define v_store(p, v) _mm256_storeu_ps((p), (v))
#define v_set1(f) _mm256_set1_ps(f)
#define v_fma(a, b, c) _mm256_fmadd_ps((a), (b), (c))
#define v_add(a, b) _mm256_add_ps((a), (b))

static inline __attribute__((always_inline)) void load_f16(const uint16_t *p, V *out)
{
    out[0] = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)p));
    out[1] = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)(p + 8)));
}

static inline __attribute__((always_inline)) void load_bf16(const uint16_t *p, V *even, V *odd)
{
    for (int i = 0; i < 2; i++) {
        __m256i pair = _mm256_load_si256((const __m256i *)(const void *)(p + 16 * i));
        even[i] = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
        odd[i] = _mm256_castsi256_ps(_mm256_and_si256(pair, _mm256_set1_epi32((int)0xFFFF0000u)));
    }
}

#define GEMM_SMALL_REGISTERS 1
#include "ops/linear/gemm_tile.h"
#include "ops/linear/gemm_drive.h"

void gemm_avx2(const gemm_call *c, int64_t p0, int64_t p1) { drive(c, p0, p1); }
