/* Loops over floats that have no kernel per instruction set: compiled twice, as the whole program is and for processors with AVX2,
 * and written over vectors of the compiler's, because it does not make them of loops by itself at -O2. Every operation is one IEEE
 * rounding, so both give the same bits. */
#ifndef SYSTOLIC_OPS_WIDE_H
#define SYSTOLIC_OPS_WIDE_H

#include <stdint.h>

enum { WIDE_LANES = 8 };
typedef float wide __attribute__((vector_size(WIDE_LANES * 4), aligned(4), may_alias));
typedef int32_t wide_bits __attribute__((vector_size(WIDE_LANES * 4), aligned(4), may_alias));
#define WIDE_AT(p) (*(wide *)(void *)(p))
#define WIDE_FROM(p) (*(const wide *)(const void *)(p))

/* Eight rows of eight become columns: pairs, then fours, then halves change places. */
static inline __attribute__((always_inline)) void wide_transpose(wide r[8])
{
#define WIDE_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
    wide t[8], u[8];
    _Pragma("GCC unroll 8") for (int l = 0; l < 8; l += 2) {
        t[l] = WIDE_SHUFFLE(r[l], r[l + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        t[l + 1] = WIDE_SHUFFLE(r[l], r[l + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    _Pragma("GCC unroll 8") for (int l = 0; l < 8; l += 4)
        for (int h = 0; h < 2; h++) {
            u[l + 2 * h] = WIDE_SHUFFLE(t[l + h], t[l + h + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            u[l + 2 * h + 1] = WIDE_SHUFFLE(t[l + h], t[l + h + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    _Pragma("GCC unroll 8") for (int l = 0; l < 4; l++) {
        r[l] = WIDE_SHUFFLE(u[l], u[l + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        r[l + 4] = WIDE_SHUFFLE(u[l], u[l + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
#undef WIDE_SHUFFLE
}

#define WIDE_BODY static inline __attribute__((always_inline)) void
/* name(args) from name_body(args). */
#if defined(__x86_64__)
#define WIDE_TWICE(name, params, args)                                                                                 \
    __attribute__((target("avx2"))) static void name##_avx2 params { name##_body args; }                              \
    static void name##_plain params { name##_body args; }                                                              \
    static void name params { if (__builtin_cpu_supports("avx2")) name##_avx2 args; else name##_plain args; }
#else
#define WIDE_TWICE(name, params, args) static void name params { name##_body args; }
#endif

#endif
