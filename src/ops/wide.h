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
