/* Activations before the product with a stored weight: in the weight's order of columns (act-order), rounded to e4m3 and back, or to int8
 * with a fixed scale. docs/quantization.md has the arithmetic; every step is one IEEE operation, so vectors give the bits that scalars do. */
#include <math.h>
#include <string.h>

#include "ops/linear/qgemm.h"

/* Rows whose largest magnitude is below count as zero, as for int8. */
static const float TINY = 0x1p-100f;

/* To the nearest e4m3, ties to even, 448 at most: in the units that values of this size have, 2^-9 at least. NaN stays NaN. */
static inline float nearest_e4m3(float v)
{
    uint32_t u;
    float unit, a = v > 448 ? 448 : v < -448 ? -448 : v;
    memcpy(&u, &a, 4);
    u &= 0x7F800000u;
    u = u < (uint32_t)121 << 23 ? (uint32_t)121 << 23 : u;      /* 2^-6: below are subnormals */
    u += (uint32_t)20 << 23;                                   /* 1.5 * 2^(e + 20) + v keeps three bits below the leading one of v */
    u |= 0x00400000u;
    memcpy(&unit, &u, 4);
    return a + unit - unit;
}

static void round_e4m3(float *x, int64_t n, float scale)
{
    for (int64_t i = 0; i < n; i++) x[i] = nearest_e4m3(x[i] / scale) * scale;
}

static float largest(const float *x, int64_t n)
{
    float most = 0, probe = 0;
    for (int64_t i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        most = a > most ? a : most;
        probe += a * 0.0f;
    }
    return most + probe;        /* NaN if a value is not finite */
}

static void round_dynamic(float *x, int64_t n)
{
    float most = largest(x, n);
    if (most < TINY) memset(x, 0, (size_t)n * sizeof *x);
    else round_e4m3(x, n, most / 448.0f);
}

void qgemm_prepare(quant_act act, float scale, const int32_t *order, const float *x, int64_t k, float *dst)
{
    if (!order) memcpy(dst, x, (size_t)k * sizeof *dst);
    for (int64_t i = 0; order && i < k; i++) dst[i] = x[order[i]];
    if (act == QUANT_ACT_FP8) round_dynamic(dst, k);
    else if (act == QUANT_ACT_FP8_STATIC) round_e4m3(dst, k, scale);
    else if (act == QUANT_ACT_FP8_G128)
        for (int64_t i = 0; i < k; i += 128) round_dynamic(dst + i, k - i < 128 ? k - i : 128);
}

void qgemm_round_static(const float *x, int64_t k, float scale, int offset, int8_t *q, qgemm_scale *s)
{
    int32_t sum = 0;
    float probe = 0;
    for (int64_t i = 0; i < k; i++) {
        float v = x[i] / scale;
        probe += x[i] * 0.0f;
        v = v > 127 ? 127 : v < -127 ? -127 : v;
        q[i] = (int8_t)(v == v ? lrintf(v) : 0);
        sum += q[i];
    }
    memset(q + k, 0, (size_t)((k + QGEMM_PAD - 1) / QGEMM_PAD * QGEMM_PAD - k));
    *s = (qgemm_scale){ scale + probe, -offset * sum };
}
