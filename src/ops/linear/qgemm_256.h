/* What the 256-bit kernels of the product with int8 activations share: all primitives but the dot products. */
#include <immintrin.h>

#include "ops/linear/qgemm.h"

typedef __m256i I;
typedef __m256 F;
enum { LW = 8 };
#define i_load(p) _mm256_load_si256((const __m256i *)(const void *)(p))
#define i_store(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), (v))
#define i_set1(x) _mm256_set1_epi32(x)
#define i_low(v) _mm256_and_si256((v), _mm256_set1_epi8(15))
#define i_high(v) _mm256_and_si256(_mm256_srli_epi16((v), 4), _mm256_set1_epi8(15))
#define i_add(a, b) _mm256_add_epi32((a), (b))
#define i_max(a, b) _mm256_max_epi32((a), (b))
#define i_magnitude(f) _mm256_and_si256(_mm256_castps_si256(f), _mm256_set1_epi32(0x7FFFFFFF))
#define i_round(f) _mm256_cvtps_epi32(f)
#define f_of(v) _mm256_cvtepi32_ps(v)
#define f_load(p) _mm256_loadu_ps(p)
#define f_store(p, v) _mm256_storeu_ps((p), (v))
#define f_set1(x) _mm256_set1_ps(x)
#define f_mul(a, b) _mm256_mul_ps((a), (b))
#define f_div(a, b) _mm256_div_ps((a), (b))
#define f_add(a, b) _mm256_add_ps((a), (b))
#define f_fma(a, b, c) _mm256_fmadd_ps((a), (b), (c))

static inline __attribute__((always_inline)) __m256i four_bytes(const int8_t *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return _mm256_set1_epi32(x);
}

static inline __attribute__((always_inline)) void load_bf16(const uint16_t *p, F *out)
{
    for (int i = 0; i < 2; i++)
        out[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_load_si128((const __m128i *)(const void *)(p + 8 * i))), 16));
}

static inline void store_bytes(int8_t *p, const I *v)
{
    __m256i h = _mm256_permute4x64_epi64(_mm256_packs_epi32(v[0], v[1]), 0xD8);
    _mm_storeu_si128((__m128i *)(void *)p, _mm_packs_epi16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1)));
}

/* 16 registers: 8 sums, or 4 sums and 4 results. */
#define NP_CHANNEL 1
#define MOST_CHANNEL 4
#define HEIGHTS_CHANNEL(X) X(1) X(2) X(4)
#define NP_GROUP 1
#define MOST_GROUP 2
#define HEIGHTS_GROUP(X) X(1) X(2)
