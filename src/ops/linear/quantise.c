#include "ops/linear/quantise.h"

#include <float.h>
#include <math.h>

/* Groups whose largest value is below count as zero: far under what any type of weights holds in earnest, and the division
 * by the scale stays finite. */
static const float TINY = 0x1p-100f;

size_t qgemm_scale_bytes(quant_scheme s, int64_t k)
{
    size_t bytes = quant_describe(s)->group ? (size_t)qgemm_groups(s, k) * GEMM_PANEL * sizeof(uint16_t) : GEMM_PANEL * sizeof(float);
    return (bytes + 63) / 64 * 64;
}

size_t qgemm_panel_bytes(quant_scheme s, int64_t k)
{
    size_t bytes = dtype_bytes(quant_describe(s)->type, (size_t)qgemm_padded_k(s, k) * GEMM_PANEL);
    return qgemm_scale_bytes(s, k) + (bytes + 63) / 64 * 64;
}

size_t qgemm_packed_bytes(quant_scheme s, int64_t n, int64_t k) { return (size_t)gemm_n_panels(n) * qgemm_panel_bytes(s, k); }

uint8_t f32_to_f8e4m3(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint8_t sign = (uint8_t)(u >> 24 & 0x80);
    u &= 0x7FFFFFFFu;
    if (u > 0x7F800000u) return (uint8_t)(sign | 0x7F);
    if (u >= 0x43E00000u) return (uint8_t)(sign | 0x7E);                         /* 448 and beyond */
    if (u < 0x3C800000u) {                                                        /* below 2^-6: units of 2^-9 */
        float a;
        memcpy(&a, &u, 4);
        return (uint8_t)(sign | (uint8_t)lrintf(a * 0x1p9f));
    }
    u += 0x7FFFFu + (u >> 20 & 1);
    return (uint8_t)(sign | (u - 0x3C000000u) >> 20);
}

/* ---- one group ---- */

typedef struct range { float amax, signed_max; bool finite; } range;

static range range_of(const float *w, int64_t n, range r)
{
    for (int64_t i = 0; i < n; i++) {
        float a = fabsf(w[i]);
        if (!(a <= FLT_MAX)) r.finite = false;
        else if (a > r.amax) r.amax = a, r.signed_max = w[i];
    }
    return r;
}

/* NaN for values that are not finite: what comes out then shows it. */
static float scale_of(quant_scheme s, range r)
{
    const quant_info *q = quant_describe(s);
    if (!r.finite) return NAN;
    if (r.amax < TINY) return 0;
    float f = q->type == DT_I4 ? r.signed_max / -8 : r.amax / (q->type == DT_I8 ? 127.0f : 448.0f);
    return q->group ? bf16_to_f32(f32_to_bf16(f)) : f;
}

static void round_values(quant_scheme s, const float *w, int64_t n, float scale, int8_t *q)
{
    dtype t = quant_describe(s)->type;
    if (!(scale != 0 && scale == scale)) memset(q, 0, (size_t)n);
    else if (t == DT_F8E4M3)
        for (int64_t i = 0; i < n; i++) q[i] = (int8_t)f32_to_f8e4m3(w[i] / scale);
    else {
        float low = t == DT_I4 ? -8 : -127, high = t == DT_I4 ? 7 : 127;
        for (int64_t i = 0; i < n; i++) {
            float v = w[i] / scale;
            v = v < low ? low : v > high ? high : v;
            q[i] = (int8_t)lrintf(v);
        }
    }
}

static const range no_range = { 0, 0, true };

float quantise_group(quant_scheme s, const float *w, int64_t n, int8_t *q)
{
    float scale = scale_of(s, range_of(w, n, no_range));
    round_values(s, w, n, scale, q);
    return scale;
}

/* ---- panels ---- */

enum { CHUNK = 128 };   /* k's at a time: a group, or a piece of a channel; a multiple of every layout's step */

/* CHUNK k's of all columns, as values, into the layout. k0 is a multiple of what the layout keeps together. */
static void store_chunk(quant_scheme s, uint8_t *data, int64_t k0, int64_t n, int8_t q[GEMM_PANEL][CHUNK])
{
    const quant_info *info = quant_describe(s);
    int offset = qgemm_offset(s);
    bool quads = info->int8_activations, nibbles = info->type == DT_I4;
    for (int64_t i = 0; i < n; i++) {
        int64_t k = k0 + i;
        uint8_t *dst;
        int shift = 0, step = quads ? 4 : 1;
        if (quads && nibbles) dst = data + k / 8 * 64 + k % 4, shift = k % 8 >= 4 ? 4 : 0;
        else if (quads) dst = data + k / 4 * 64 + k % 4;
        else if (nibbles) dst = data + k / 2 * 16, shift = k % 2 ? 4 : 0;
        else dst = data + k * 16;
        for (int c = 0; c < GEMM_PANEL; c++) {
            int v = q[c][i] + offset;
            if (nibbles) dst[c * step] = (uint8_t)(dst[c * step] | v << shift);
            else dst[c * step] = (uint8_t)v;
        }
    }
}

static void load_row(const void *row, dtype type, int64_t k0, int64_t n, float *dst)
{
    dtype_to_f32(type, (const char *)row + dtype_bytes(type, (size_t)k0), dst, (size_t)n);
}

static void channel_scales(quant_scheme s, int64_t k, const void *const *rows, dtype type, float *scales)
{
    float f[CHUNK];
    for (int c = 0; c < GEMM_PANEL; c++) {
        range r = no_range;
        for (int64_t k0 = 0; rows[c] && k0 < k; k0 += CHUNK) {
            int64_t n = k - k0 < CHUNK ? k - k0 : CHUNK;
            load_row(rows[c], type, k0, n, f);
            r = range_of(f, n, r);
        }
        scales[c] = scale_of(s, r);
    }
}

void quantise_panel(quant_scheme s, void *packed, int64_t k, int64_t p, const void *const *rows, dtype type)
{
    size_t bytes = qgemm_panel_bytes(s, k);
    char *panel = (char *)packed + (size_t)p * bytes;
    uint8_t *data = (uint8_t *)panel + qgemm_scale_bytes(s, k);
    float *channel = (float *)(void *)panel;
    uint16_t *grouped = (uint16_t *)(void *)panel;
    int64_t padded = qgemm_padded_k(s, k);
    int group = quant_describe(s)->group;
    memset(panel, 0, bytes);
    if (!group) channel_scales(s, k, rows, type, channel);
    for (int64_t k0 = 0, step = group ? group : CHUNK; k0 < padded; k0 += step) {
        int8_t q[GEMM_PANEL][CHUNK] = { { 0 } };
        int64_t n = k - k0 < step ? k - k0 : step, all = padded - k0 < step ? padded - k0 : step;
        for (int c = 0; c < GEMM_PANEL; c++) {
            float f[CHUNK];
            if (!rows[c]) continue;
            load_row(rows[c], type, k0, n, f);
            if (group) grouped[k0 / group * GEMM_PANEL + c] = f32_to_bf16(quantise_group(s, f, n, q[c]));
            else round_values(s, f, n, channel[c], q[c]);
        }
        store_chunk(s, data, k0, all, q);
    }
}

float quantise_value(const qgemm_weight *w, int64_t r, int64_t k)
{
    quant_scheme s = w->scheme;
    const quant_info *info = quant_describe(s);
    const char *panel = (const char *)w->base.data + (size_t)(r / GEMM_PANEL) * qgemm_panel_bytes(s, w->base.k);
    const uint8_t *data = (const uint8_t *)panel + qgemm_scale_bytes(s, w->base.k);
    int64_t c = r % GEMM_PANEL;
    float scale = info->group ? bf16_to_f32(((const uint16_t *)(const void *)panel)[k / info->group * GEMM_PANEL + c]) : ((const float *)(const void *)panel)[c];
    bool quads = info->int8_activations;
    if (info->type == DT_I4) {
        uint8_t b = quads ? data[k / 8 * 64 + c * 4 + k % 4] : data[k / 2 * 16 + c];
        bool high = quads ? k % 8 >= 4 : k % 2;
        return (float)((high ? b >> 4 : b & 15) - 8) * scale;
    }
    if (quads) return (float)(data[k / 4 * 64 + c * 4 + k % 4] - 128) * scale;
    uint8_t b = data[k * 16 + c];
    return (info->type == DT_I8 ? (float)(int8_t)b : f8e4m3_to_f32(b)) * scale;
}
