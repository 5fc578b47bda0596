/* Any machine: 16-float vectors as plain arrays that a compiler may vectorise; fmaf keeps the chain fused as everywhere. */
#include <math.h>

#include "ops/linear/gemm.h"

typedef struct { float f[16]; } V;
enum { VW = 16, NV = 1 };
#define EACH16(expr) V o; for (int i = 0; i < 16; i++) o.f[i] = (expr); return o

static inline V v_zero(void) { return (V){0}; }
static inline V v_load(const float *p) { EACH16(p[i]); }
static inline void v_store(float *p, V v) { for (int i = 0; i < 16; i++) p[i] = v.f[i]; }
static inline V v_set1(float x) { EACH16(x); }
static inline V v_fma(V a, V b, V c) { EACH16(fmaf(a.f[i], b.f[i], c.f[i])); }
static inline V v_add(V a, V b) { EACH16(a.f[i] + b.f[i]); }
static inline void load_f16(const uint16_t *p, V *out) { for (int i = 0; i < 16; i++) out->f[i] = f16_to_f32(p[i]); }
static inline void load_bf16(const uint16_t *p, V *even, V *odd)
{
    for (int i = 0; i < 16; i++) {
        even->f[i] = bf16_to_f32(p[2 * i]);
        odd->f[i] = bf16_to_f32(p[2 * i + 1]);
    }
}

#define GEMM_SMALL_REGISTERS 1
#include "ops/linear/gemm_tile.h"
#include "ops/linear/gemm_drive.h"

void gemm_portable(const gemm_call *c, int64_t p0, int64_t p1) { drive(c, p0, p1); }
