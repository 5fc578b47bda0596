/* Vectors of VW floats for kernels that are written once and compiled per instruction set. A kernel file includes the
 * header of its set (vec_portable.h, vec_avx2.h, vec_avx512.h), then this one, then the kernel's body. All sets compute the
 * same bits: every operation is exact, or one IEEE rounding. */
#ifndef SYSTOLIC_OPS_VEC_H
#define SYSTOLIC_OPS_VEC_H

#ifdef SYSTOLIC_SANITIZED
/* Instrumented code is slow anyway, and compilers need minutes for the large tiles: small ones give the same bits. */
#define VEC_INLINE static inline
#define VEC_UNROLL
#define ATTN_SMALL_TILES 1
#else
#define VEC_INLINE static inline __attribute__((always_inline))
#define VEC_UNROLL _Pragma("GCC unroll 16")
#endif

enum { VEC_LANES = 16, NV = VEC_LANES / VW };   /* 16 floats are NV vectors */

/* exp(x) to about 1 unit in the last place, for x up to 88; below -87 it stays at exp(-87), about 1e-38. NaN gives NaN.
 * Range reduction x = n ln2 + r, then the Cephes polynomial. */
VEC_INLINE V v_exp(V x)
{
    const V magic = v_set1(0x1.8p23f);
    x = v_max(v_set1(-87.0f), v_min(v_set1(88.0f), x));
    V t = v_fma(x, v_set1(0x1.715476p+0f), magic);     /* n sits in the low bits of t */
    V n = v_sub(t, magic);
    V r = v_fma(n, v_set1(-0x1.62e4p-1f), x);           /* ln 2 in two pieces */
    r = v_fma(n, v_set1(-0x1.7f7d1cp-20f), r);
    V p = v_set1(1.9875691500e-4f);
    p = v_fma(p, r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_fma(p, v_mul(r, r), v_add(r, v_set1(1.0f)));
    return v_mul(p, v_pow2(t));
}

#endif
