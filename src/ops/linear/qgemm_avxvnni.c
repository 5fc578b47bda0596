/* AVX-VNNI: vpdpbusd in 256 bits, of processors without AVX-512. */
#include <cpuid.h>

#include "ops/linear/qgemm_256.h"

typedef __m256i A;
#define a_load(p) four_bytes(p)
#define dot8(sum, w, a) _mm256_dpbusd_avx_epi32((sum), (w), (a))
#define dot4(sum, w, a) _mm256_dpbusd_avx_epi32((sum), (w), (a))
#define DOT8_START(x) (x)
#include "ops/linear/qgemm_tile.h"

/* Not every compiler's __builtin_cpu_supports knows it. */
static bool available(void)
{
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}

const qgemm_kernels qgemm_avxvnni = { "avxvnni", available, qgemm_round, qgemm_drive };
