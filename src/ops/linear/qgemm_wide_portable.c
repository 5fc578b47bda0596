/* Weight only, any machine. */
#include <math.h>

#include "ops/linear/qgemm.h"

typedef struct { float f[16]; } V;
enum { VW = 16, NV = 1 };
#define EACH16(expr) V o; for (int i = 0; i < 16; i++) o.f[i] = (expr); return o

static inline V v_zero(void) { return (V){0}; }
static inline V v_load(const float *p) { EACH16(p[i]); }
static inline void v_store(float *p, V v) { for (int i = 0; i < 16; i++) p[i] = v.f[i]; }
static inline V v_set1(float x) { EACH16(x); }
static inline V v_fma(V a, V b, V c) { EACH16(fmaf(a.f[i], b.f[i], c.f[i])); }
static inline V v_add(V a, V b) { EACH16(a.f[i] + b.f[i]); }
static inline V v_mul(V a, V b) { EACH16(a.f[i] * b.f[i]); }
static inline V v_div(V a, V b) { EACH16(a.f[i] / b.f[i]); }
#define GEMM_ONLY_F32 1
#include "ops/linear/gemm_tile.h"

static inline void wide8(const uint8_t *p, V *out) { for (int i = 0; i < 16; i++) out->f[i] = (float)(int8_t)p[i]; }
#define WIDE_F8_BY 1.0f
static inline void wide_f8(const uint8_t *p, V *out) { for (int i = 0; i < 16; i++) out->f[i] = f8e4m3_to_f32(p[i]); }
static inline void wide4(const uint8_t *p, V *lo, V *hi)
{
    for (int i = 0; i < 16; i++) {
        lo->f[i] = (float)(p[i] & 15);
        hi->f[i] = (float)(p[i] >> 4);
    }
}
static inline void wide_bf16(const uint16_t *p, V *out) { for (int i = 0; i < 16; i++) out->f[i] = bf16_to_f32(p[i]); }
static inline void wide_f16(const uint16_t *p, V *out) { for (int i = 0; i < 16; i++) out->f[i] = f16_to_f32(p[i]); }
static inline void wide_e8m0(const uint8_t *p, V *out)
{
    for (int i = 0; i < 16; i++) {
        uint32_t u = p[i] ? (uint32_t)p[i] << 23 : 0x00400000u;
        memcpy(&out->f[i], &u, 4);
    }
}
static inline void wide_f4(const uint8_t *p, V *lo, V *hi)
{
    for (int i = 0; i < 16; i++) {
        lo->f[i] = f4e2m1_to_f32(p[i]);
        hi->f[i] = f4e2m1_to_f32((uint8_t)(p[i] >> 4));
    }
}

enum { MANY_NP = 1 };
#define ROW_TILES(X) X(1) X(4)
static int next_rows(int64_t left) { return left >= 4 ? 4 : 1; }
#include "ops/linear/qgemm_wide.h"

void qgemm_wide_portable(const qgemm_call *c, int64_t p0, int64_t p1) { wide_drive(c, p0, p1); }
