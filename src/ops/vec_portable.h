/* Vectors in plain C, for any machine; fmaf keeps every chain fused as it is elsewhere. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "graph/dtype.h"

typedef struct { float f[16]; } V;
enum { VW = 16 };
#define VEC_EACH(expr) V o; for (int i = 0; i < 16; i++) o.f[i] = (expr); return o

static inline V v_zero(void) { return (V){ { 0 } }; }
static inline V v_load(const float *p) { V o; memcpy(&o, p, sizeof o); return o; }
static inline void v_store(float *p, V v) { memcpy(p, &v, sizeof v); }
static inline V v_set1(float x) { VEC_EACH(x); }
static inline V v_fma(V a, V b, V c) { VEC_EACH(fmaf(a.f[i], b.f[i], c.f[i])); }
static inline V v_add(V a, V b) { VEC_EACH(a.f[i] + b.f[i]); }
static inline V v_sub(V a, V b) { VEC_EACH(a.f[i] - b.f[i]); }
static inline V v_mul(V a, V b) { VEC_EACH(a.f[i] * b.f[i]); }
static inline V v_div(V a, V b) { VEC_EACH(a.f[i] / b.f[i]); }
/* The second operand if either is NaN. */
static inline V v_max(V a, V b) { VEC_EACH(a.f[i] > b.f[i] ? a.f[i] : b.f[i]); }
static inline V v_min(V a, V b) { VEC_EACH(a.f[i] < b.f[i] ? a.f[i] : b.f[i]); }
static inline V v_load_f16(const uint16_t *p) { VEC_EACH(f16_to_f32(p[i])); }
static inline V v_load_bf16(const uint16_t *p) { VEC_EACH(bf16_to_f32(p[i])); }
/* 2^(low bits of t): see v_exp. */
static inline V v_pow2(V t)
{
    V o;
    for (int i = 0; i < 16; i++) {
        uint32_t u;
        memcpy(&u, &t.f[i], 4);
        u = (u + 127) << 23;
        memcpy(&o.f[i], &u, 4);
    }
    return o;
}
