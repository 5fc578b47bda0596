/* Weight only, AVX-512: tiles of up to 8 rows x 3 panels. */
#include <immintrin.h>

#include "ops/linear/qgemm.h"

typedef __m512 V;
enum { VW = 16, NV = 1 };
#define v_zero() _mm512_setzero_ps()
#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, v) _mm512_storeu_ps((p), (v))
#define v_set1(f) _mm512_set1_ps(f)
#define v_fma(a, b, c) _mm512_fmadd_ps((a), (b), (c))
#define v_add(a, b) _mm512_add_ps((a), (b))
#define v_mul(a, b) _mm512_mul_ps((a), (b))
#define v_div(a, b) _mm512_div_ps((a), (b))
#define GEMM_ONLY_F32 1
#include "ops/linear/gemm_tile.h"

static inline __m128i bytes16(const uint8_t *p) { return _mm_load_si128((const __m128i *)(const void *)p); }

static inline void wide8(const uint8_t *p, V *out) { out[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes16(p))); }

/* Sign to the top, exponent and fraction to where float16 has them: the value, 2^8 times smaller, subnormals included. */
#define WIDE_F8_BY 256.0f
static inline void wide_f8(const uint8_t *p, V *out)
{
    __m256i h = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes16(p)), 7);
    out[0] = _mm512_cvtph_ps(_mm256_and_si256(h, _mm256_set1_epi16((short)0xBFFF)));
}

static inline void wide4(const uint8_t *p, V *lo, V *hi)
{
    __m512i v = _mm512_cvtepu8_epi32(bytes16(p));
    lo[0] = _mm512_cvtepi32_ps(_mm512_and_si512(v, _mm512_set1_epi32(15)));
    hi[0] = _mm512_cvtepi32_ps(_mm512_srli_epi32(v, 4));
}

static inline void wide_bf16(const uint16_t *p, V *out)
{
    out[0] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_load_si256((const __m256i *)(const void *)p)), 16));
}

static inline void wide_f16(const uint16_t *p, V *out) { out[0] = _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)p)); }

static inline void wide_e8m0(const uint8_t *p, V *out)
{
    out[0] = _mm512_castsi512_ps(_mm512_max_epi32(_mm512_slli_epi32(_mm512_cvtepu8_epi32(bytes16(p)), 23), _mm512_set1_epi32(0x00400000)));
}

/* The permutation looks at four bits of a lane, so low nibbles need no masking. */
static inline void wide_f4(const uint8_t *p, V *lo, V *hi)
{
    const V table = _mm512_setr_ps(0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6);
    __m512i v = _mm512_cvtepu8_epi32(bytes16(p));
    lo[0] = _mm512_permutexvar_ps(v, table);
    hi[0] = _mm512_permutexvar_ps(_mm512_srli_epi32(v, 4), table);
}

enum { MANY_NP = 3 };
#define WIDE_MANY_REGISTERS 1
#define ROW_TILES(X) X(1) X(2) X(4) X(6) X(8)
static int next_rows(int64_t left) { return left >= 8 ? 8 : left >= 6 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1; }
#include "ops/linear/qgemm_wide.h"

void qgemm_wide_avx512(const qgemm_call *c, int64_t p0, int64_t p1) { wide_drive(c, p0, p1); }
