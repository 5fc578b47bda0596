/* Weight only, AVX2 with FMA and F16C: tiles of up to 6 rows x 1 panel. */
#include <immintrin.h>

#include "ops/linear/qgemm.h"

typedef __m256 V;
enum { VW = 8, NV = 2 };
#define v_zero() _mm256_setzero_ps()
#define v_load(p) _mm256_loadu_ps(p)
#define v_store(p, v) _mm256_storeu_ps((p), (v))
#define v_set1(f) _mm256_set1_ps(f)
#define v_fma(a, b, c) _mm256_fmadd_ps((a), (b), (c))
#define v_add(a, b) _mm256_add_ps((a), (b))
#define v_mul(a, b) _mm256_mul_ps((a), (b))
#define v_div(a, b) _mm256_div_ps((a), (b))
#define GEMM_ONLY_F32 1
#include "ops/linear/gemm_tile.h"

static inline __m128i bytes8(const uint8_t *p) { return _mm_loadl_epi64((const __m128i *)(const void *)p); }

static inline void wide8(const uint8_t *p, V *out)
{
    for (int i = 0; i < 2; i++) out[i] = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes8(p + 8 * i)));
}

/* Sign to the top, exponent and fraction to where float16 has them: the value, 2^8 times smaller, subnormals included. */
#define WIDE_F8_BY 256.0f
static inline void wide_f8(const uint8_t *p, V *out)
{
    for (int i = 0; i < 2; i++)
        out[i] = _mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16(_mm_cvtepi8_epi16(bytes8(p + 8 * i)), 7), _mm_set1_epi16((short)0xBFFF)));
}

static inline void wide4(const uint8_t *p, V *lo, V *hi)
{
    for (int i = 0; i < 2; i++) {
        __m256i v = _mm256_cvtepu8_epi32(bytes8(p + 8 * i));
        lo[i] = _mm256_cvtepi32_ps(_mm256_and_si256(v, _mm256_set1_epi32(15)));
        hi[i] = _mm256_cvtepi32_ps(_mm256_srli_epi32(v, 4));
    }
}

static inline void wide_bf16(const uint16_t *p, V *out)
{
    for (int i = 0; i < 2; i++)
        out[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_load_si128((const __m128i *)(const void *)(p + 8 * i))), 16));
}

static inline void wide_f16(const uint16_t *p, V *out)
{
    for (int i = 0; i < 2; i++) out[i] = _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)(p + 8 * i)));
}

static inline void wide_e8m0(const uint8_t *p, V *out)
{
    for (int i = 0; i < 2; i++)
        out[i] = _mm256_castsi256_ps(_mm256_max_epi32(_mm256_slli_epi32(_mm256_cvtepu8_epi32(bytes8(p + 8 * i)), 23), _mm256_set1_epi32(0x00400000)));
}

/* The permutation looks at three bits, the magnitude; the fourth is the sign. */
static inline V e2m1(__m256i v)
{
    const V table = _mm256_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6);
    __m256i sign = _mm256_and_si256(_mm256_slli_epi32(v, 28), _mm256_set1_epi32((int)0x80000000));
    return _mm256_xor_ps(_mm256_permutevar8x32_ps(table, v), _mm256_castsi256_ps(sign));
}

static inline void wide_f4(const uint8_t *p, V *lo, V *hi)
{
    for (int i = 0; i < 2; i++) {
        __m256i v = _mm256_cvtepu8_epi32(bytes8(p + 8 * i));
        lo[i] = e2m1(v);
        hi[i] = e2m1(_mm256_srli_epi32(v, 4));
    }
}

enum { MANY_NP = 1 };
#define ROW_TILES(X) X(1) X(2) X(4) X(6)
static int next_rows(int64_t left) { return left >= 6 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1; }
#include "ops/linear/qgemm_wide.h"

void qgemm_wide_avx2(const qgemm_call *c, int64_t p0, int64_t p1) { wide_drive(c, p0, p1); }
