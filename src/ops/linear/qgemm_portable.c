/* Any machine: 16-lane vectors as plain arrays that a compiler may vectorise; sums wrap as the instructions do. */
#include <math.h>

#include "ops/linear/qgemm.h"

typedef struct { int32_t i[16]; } I;
typedef struct { float f[16]; } F;
typedef struct { int8_t b[4]; } A;
enum { LW = 16 };
#define EACH16(type, field, expr) type o; for (int l = 0; l < 16; l++) o.field[l] = (expr); return o

static inline I i_load(const void *p) { I v; memcpy(&v, p, sizeof v); return v; }
static inline void i_store(void *p, I v) { memcpy(p, &v, sizeof v); }
static inline I i_set1(int32_t x) { EACH16(I, i, x); }
static inline I i_low(I v) { EACH16(I, i, v.i[l] & 0x0F0F0F0F); }
static inline I i_high(I v) { EACH16(I, i, v.i[l] >> 4 & 0x0F0F0F0F); }
static inline I i_add(I a, I b) { EACH16(I, i, a.i[l] + b.i[l]); }
static inline I i_max(I a, I b) { EACH16(I, i, a.i[l] > b.i[l] ? a.i[l] : b.i[l]); }
static inline I i_magnitude(F v)
{
    I o;
    memcpy(&o, &v, sizeof o);
    for (int l = 0; l < 16; l++) o.i[l] &= 0x7FFFFFFF;
    return o;
}
static inline I i_round(F v) { EACH16(I, i, (int32_t)lrintf(v.f[l])); }
static inline F f_of(I v) { EACH16(F, f, (float)v.i[l]); }
static inline F f_load(const float *p) { EACH16(F, f, p[l]); }
static inline void f_store(float *p, F v) { for (int l = 0; l < 16; l++) p[l] = v.f[l]; }
static inline F f_set1(float x) { EACH16(F, f, x); }
static inline F f_mul(F a, F b) { EACH16(F, f, a.f[l] * b.f[l]); }
static inline F f_div(F a, F b) { EACH16(F, f, a.f[l] / b.f[l]); }
static inline F f_add(F a, F b) { EACH16(F, f, a.f[l] + b.f[l]); }
static inline F f_fma(F a, F b, F c) { EACH16(F, f, fmaf(a.f[l], b.f[l], c.f[l])); }
static inline A a_load(const int8_t *p) { A a; memcpy(&a, p, 4); return a; }

static inline I dot8(I sum, I w, A a)
{
    uint8_t u[64];
    memcpy(u, &w, sizeof u);
    for (int l = 0; l < 16; l++) {
        int32_t d = 0;
        for (int b = 0; b < 4; b++) d += (int32_t)u[l * 4 + b] * a.b[b];
        sum.i[l] = (int32_t)((uint32_t)sum.i[l] + (uint32_t)d);
    }
    return sum;
}
#define dot4 dot8
#define DOT8_START(x) (x)

static inline void load_bf16(const uint16_t *p, F *out) { for (int l = 0; l < 16; l++) out->f[l] = bf16_to_f32(p[l]); }
static inline void store_bytes(int8_t *p, const I *v) { for (int l = 0; l < 16; l++) p[l] = (int8_t)v->i[l]; }

#define NP_CHANNEL 1
#define MOST_CHANNEL 4
#define HEIGHTS_CHANNEL(X) X(1) X(4)
#define NP_GROUP 1
#define MOST_GROUP 4
#define HEIGHTS_GROUP(X) X(1) X(4)
#include "ops/linear/qgemm_tile.h"

static bool available(void) { return true; }

const qgemm_kernels qgemm_portable = { "portable", available, qgemm_round, qgemm_drive };
