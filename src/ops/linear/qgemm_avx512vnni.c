/* AVX-512 with VNNI: tiles of up to 8 rows x 3 panels (24 sums of the 32 registers), or 6 x 2 sums and as many results. */
#include <immintrin.h>

#include "ops/linear/qgemm.h"

typedef __m512i I;
typedef __m512 F;
typedef __m512i A;
enum { LW = 16 };
#define i_load(p) _mm512_load_si512((const void *)(p))
#define i_store(p, v) _mm512_storeu_si512((void *)(p), (v))
#define i_set1(x) _mm512_set1_epi32(x)
#define i_low(v) _mm512_and_si512((v), _mm512_set1_epi8(15))
#define i_high(v) _mm512_and_si512(_mm512_srli_epi16((v), 4), _mm512_set1_epi8(15))
#define i_add(a, b) _mm512_add_epi32((a), (b))
#define i_max(a, b) _mm512_max_epi32((a), (b))
#define i_magnitude(f) _mm512_and_si512(_mm512_castps_si512(f), _mm512_set1_epi32(0x7FFFFFFF))
#define i_round(f) _mm512_cvtps_epi32(f)
#define f_of(v) _mm512_cvtepi32_ps(v)
#define f_load(p) _mm512_loadu_ps(p)
#define f_store(p, v) _mm512_storeu_ps((p), (v))
#define f_set1(x) _mm512_set1_ps(x)
#define f_mul(a, b) _mm512_mul_ps((a), (b))
#define f_div(a, b) _mm512_div_ps((a), (b))
#define f_add(a, b) _mm512_add_ps((a), (b))
#define f_fma(a, b, c) _mm512_fmadd_ps((a), (b), (c))
#define DOT8_START(x) (x)

static inline __attribute__((always_inline)) A a_load(const int8_t *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
}

/* In place. With the intrinsic, gcc 12 copies sums from register to register and through memory: 8 x 3 tiles take twice the time. */
static inline __attribute__((always_inline)) I dot8(I sum, I w, A a)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(a));
    return sum;
}
#define dot4 dot8

static inline __attribute__((always_inline)) void load_bf16(const uint16_t *p, F *out)
{
    out[0] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_load_si256((const __m256i *)(const void *)p)), 16));
}

static inline void store_bytes(int8_t *p, const I *v) { _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(v[0])); }

#define NP_CHANNEL 3
#define MOST_CHANNEL 8
#define HEIGHTS_CHANNEL(X) X(1) X(2) X(4) X(6) X(8)
#define NP_GROUP 2
#define MOST_GROUP 6
#define HEIGHTS_GROUP(X) X(1) X(2) X(4) X(6)
#include "ops/linear/qgemm_tile.h"

static bool available(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

const qgemm_kernels qgemm_avx512vnni = { "avx512vnni", available, qgemm_round, qgemm_drive };
