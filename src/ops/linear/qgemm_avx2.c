/* AVX2: vpmaddubsw adds pairs of products of unsigned and signed bytes in 16 bits. For nibbles that is enough; for int8 |weight| (128 at
 * most, so no sign overflows) times the activation (127 at most) with the weight's sign stays below 2 * 128 * 127 < 2^15. */
#include "ops/linear/qgemm_256.h"

typedef __m256i A;
#define a_load(p) four_bytes(p)

static inline __attribute__((always_inline)) I dot8(I sum, I w, A a)
{
    __m256i s = _mm256_xor_si256(w, _mm256_set1_epi8((char)0x80));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(s), _mm256_sign_epi8(a, s)), _mm256_set1_epi16(1)));
}

static inline __attribute__((always_inline)) I dot4(I sum, I w, A a)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
}
#define DOT8_START(x) ((void)(x), 0)
#include "ops/linear/qgemm_tile.h"

static bool available(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

const qgemm_kernels qgemm_avx2 = { "avx2", available, qgemm_round, qgemm_drive };
