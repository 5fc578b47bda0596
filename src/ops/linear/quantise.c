#include "ops/linear/quantise.h"

#include <float.h>
#include <math.h>

#include "ops/wide.h"

/* Groups whose largest value is below count as zero: far under what any type of weights holds in earnest, and the division
 * by the scale stays finite. */
static const float TINY = 0x1p-100f;

static size_t lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

size_t qgemm_zeros_at(quant_scheme s, int64_t k)
{
    quant_info q = quant_describe(s);
    return lines((size_t)(q.group ? qgemm_groups(s, k) : 1) * GEMM_PANEL * dtype_bytes(q.scale, 1));
}

size_t qgemm_global_at(quant_scheme s, int64_t k)
{
    return qgemm_zeros_at(s, k) + (quant_describe(s).zeros ? lines((size_t)qgemm_groups(s, k) * GEMM_PANEL) : 0);
}

size_t qgemm_scale_bytes(quant_scheme s, int64_t k)
{
    return qgemm_global_at(s, k) + (quant_describe(s).scale == DT_F8E4M3 ? GEMM_PANEL * sizeof(float) : 0);
}

size_t qgemm_panel_bytes(quant_scheme s, int64_t k)
{
    return qgemm_scale_bytes(s, k) + lines(dtype_bytes(quant_describe(s).type, (size_t)qgemm_padded_k(s, k) * GEMM_PANEL));
}

static bool is_static(quant_info q) { return q.act == QUANT_ACT_INT8_STATIC || q.act == QUANT_ACT_FP8_STATIC; }
static size_t order_bytes(quant_info q, int64_t k) { return q.ordered ? lines((size_t)k * sizeof(int32_t)) : 0; }

size_t qgemm_packed_bytes(quant_scheme s, int64_t n, int64_t k)
{
    quant_info q = quant_describe(s);
    return (size_t)gemm_n_panels(n) * qgemm_panel_bytes(s, k) + order_bytes(q, k) + (is_static(q) ? 64 : 0);
}

static const char *after_panels(const qgemm_weight *w)
{
    return (const char *)w->base.data + (size_t)gemm_n_panels(w->base.n) * qgemm_panel_bytes(w->scheme, w->base.k);
}

const int32_t *qgemm_order(const qgemm_weight *w)
{
    return quant_describe(w->scheme).ordered ? (const int32_t *)(const void *)after_panels(w) : NULL;
}

float qgemm_input_scale(const qgemm_weight *w)
{
    quant_info q = quant_describe(w->scheme);
    return is_static(q) ? *(const float *)(const void *)(after_panels(w) + order_bytes(q, w->base.k)) : 0;
}

/* ---- sixteen groups at a time: one of each of a panel's columns, so that loops over columns become vectors ---- */

enum { CHUNK = 128, CUTS = 12 };   /* k's at a time: a group, or a piece of a channel; a multiple of every layout's step */
typedef float chunk[CHUNK][GEMM_PANEL];

/* Per column: the least and the largest value; zero, or NaN if a value is not finite. */
typedef struct range { float low[GEMM_PANEL], high[GEMM_PANEL], probe[GEMM_PANEL]; } range;

#define EACH_COLUMN for (int c = 0; c < GEMM_PANEL; c++)

enum { LANES = WIDE_LANES, NVEC = GEMM_PANEL / LANES };
typedef wide vec;
typedef wide_bits bits;
#define EACH_VEC _Pragma("GCC unroll 2") for (int j = 0; j < NVEC; j++)   /* or sums stay in memory */
typedef uint8_t wide_bytes __attribute__((vector_size(WIDE_LANES), aligned(1), may_alias));
typedef uint32_t wide_words __attribute__((vector_size(WIDE_LANES * 4), aligned(4), may_alias));
#define AT(p) (*(vec *)(void *)((p) + j * LANES))
#define LARGER(a, b) CHOOSE((a) > (b), a, b)      /* b if either is NaN, as the instruction has it */
#define SMALLER(a, b) CHOOSE((a) < (b), a, b)
#define CHOOSE(mask, a, b) ((vec)(((bits)(a) & (mask)) | ((bits)(b) & ~(mask))))
/* To the nearest integer, ties to even, of what is far below 2^22. */
#define NEAREST(v) ((v) + 0x1.8p23f - 0x1.8p23f)

WIDE_BODY add_range_body(chunk f, int64_t n, range *r)
{
    vec low[NVEC], high[NVEC], probe[NVEC];
    EACH_VEC low[j] = AT(r->low), high[j] = AT(r->high), probe[j] = AT(r->probe);
    for (int64_t i = 0; i < n; i++)
        EACH_VEC {
            vec w = AT(f[i]);
            low[j] = SMALLER(w, low[j]);
            high[j] = LARGER(w, high[j]);
            probe[j] += w * 0.0f;
        }
    EACH_VEC AT(r->low) = low[j], AT(r->high) = high[j], AT(r->probe) = probe[j];
}
WIDE_TWICE(add_range, (chunk f, int64_t n, range *r), (f, n, r))

/* w / scale to the nearest integer, ties to even, within [least, most]. A scale of zero or NaN gives zeros. */
WIDE_BODY round_columns_body(chunk f, int64_t n, const float *scale, float least, float most, int8_t q[CHUNK][GEMM_PANEL])
{
    float by[GEMM_PANEL], keep[GEMM_PANEL];
    EACH_COLUMN {
        bool some = scale[c] != 0 && scale[c] == scale[c];
        by[c] = some ? scale[c] : 1;
        keep[c] = some ? 1 : 0;
    }
    vec none = { 0 }, lo = none + least, hi = none + most;
    for (int64_t i = 0; i < n; i++)
        EACH_VEC {
            vec v = AT(f[i]) / AT(by);
            v = LARGER(v, lo);
            v = SMALLER(v, hi);
            bits whole = __builtin_convertvector(NEAREST(v) * AT(keep), bits);
            *(wide_bytes *)(void *)(q[i] + j * LANES) = __builtin_convertvector(whole, wide_bytes);
        }
}
WIDE_TWICE(round_columns, (chunk f, int64_t n, const float *scale, float least, float most, int8_t q[CHUNK][GEMM_PANEL]), (f, n, scale, least, most, q))

/* What is off when int4 values are rounded with these scales: squares summed in float32, in ascending order. */
WIDE_BODY add_errors_body(chunk f, int64_t n, const float *scale, float *sum)
{
    vec s[NVEC], by[NVEC], e[NVEC], none = { 0 }, lo = none - 8, hi = none + 7;
    EACH_VEC s[j] = AT(scale), by[j] = 1 / s[j], e[j] = none;
    for (int64_t i = 0; i < n; i++)
        EACH_VEC {
            vec w = AT(f[i]), v = w * by[j];
            v = LARGER(v, lo);
            v = SMALLER(v, hi);
            vec d = NEAREST(v) * s[j] - w;
            e[j] += d * d;
        }
    EACH_VEC AT(sum) = e[j];
}
WIDE_TWICE(add_errors, (chunk f, int64_t n, const float *scale, float *sum), (f, n, scale, sum))

static const range no_range;

/* NaN for values that are not finite: what comes out then shows it. */
static void scales_of(quant_scheme s, const range *r, float *scale)
{
    const quant_info q = quant_describe(s);
    EACH_COLUMN {
        float top = r->high[c] >= -r->low[c] ? r->high[c] : r->low[c];
        float f = q.type == DT_I4 ? top / -8 : fabsf(top) / (q.type == DT_I8 ? 127.0f : 448.0f);
        f = q.group ? bf16_to_f32(f32_to_bf16(f)) : f;
        scale[c] = r->probe[c] != 0 ? NAN : fabsf(top) < TINY ? 0 : f;
    }
}

/* int4: cutting the largest values off makes all others finer. The best of some cuts; of equals the least cut. */
static void best_cuts(chunk f, int64_t n, float *scale)
{
    float whole[GEMM_PANEL], least[GEMM_PANEL], tried[GEMM_PANEL], e[GEMM_PANEL];
    memcpy(whole, scale, sizeof whole);
    add_errors(f, n, whole, least);
    for (int i = 1; i < CUTS; i++) {
        EACH_COLUMN tried[c] = bf16_to_f32(f32_to_bf16(whole[c] * (1 - (float)i / 32)));
        add_errors(f, n, tried, e);
        EACH_COLUMN if (e[c] < least[c]) least[c] = e[c], scale[c] = tried[c];
    }
}

static void group_scales(quant_scheme s, chunk f, int64_t n, float *scale)
{
    range r = no_range;
    add_range(f, n, &r);
    scales_of(s, &r, scale);
    if (quant_describe(s).type == DT_I4) best_cuts(f, n, scale);
}

static void round_chunk(quant_scheme s, chunk f, int64_t n, const float *scale, int8_t q[CHUNK][GEMM_PANEL])
{
    dtype t = quant_describe(s).type;
    if (t != DT_F8E4M3) {
        round_columns(f, n, scale, t == DT_I4 ? -8 : -127, t == DT_I4 ? 7 : 127, q);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        EACH_COLUMN q[i][c] = scale[c] != 0 && scale[c] == scale[c] ? (int8_t)f32_to_f8e4m3(f[i][c] / scale[c]) : 0;
}

float quantise_group(quant_scheme s, const float *w, int64_t n, int8_t *q)
{
    chunk f = { { 0 } };
    int8_t all[CHUNK][GEMM_PANEL];
    float scale[GEMM_PANEL];
    for (int64_t i = 0; i < n; i++) f[i][0] = w[i];
    group_scales(s, f, n, scale);
    round_chunk(s, f, n, scale, all);
    for (int64_t i = 0; i < n; i++) q[i] = all[i][0];
    return scale[0];
}

/* ---- panels ---- */

/* 32-bit lanes of four k's, or of eight as nibbles: as bytes of a column beside each other. */
WIDE_BODY store_lanes_body(uint8_t *data, int64_t n, bool nibbles, int offset, int8_t q[CHUNK][GEMM_PANEL])
{
    const int per_lane = nibbles ? 8 : 4;
    for (int64_t i = 0; i < n; i += per_lane)
        EACH_VEC {
            wide_words lanes = { 0 };
            for (int k = 0; k < per_lane; k++) {
                wide_bytes b = *(const wide_bytes *)(const void *)(q[i + k] + j * LANES) + (uint8_t)offset;
                lanes |= __builtin_convertvector(b, wide_words) << (k % 4 * 8 + k / 4 * 4);
            }
            *(wide_words *)(void *)(data + i / per_lane * 64 + j * (int)sizeof lanes) = lanes;
        }
}
WIDE_TWICE(store_lanes, (uint8_t *data, int64_t n, bool nibbles, int offset, int8_t q[CHUNK][GEMM_PANEL]), (data, n, nibbles, offset, q))

/* n k's of all columns into the layout. k0 is a multiple of what the layout keeps together. */
static void store_chunk(quant_scheme s, uint8_t *data, int64_t k0, int64_t n, int8_t q[CHUNK][GEMM_PANEL])
{
    const quant_info info = quant_describe(s);
    int offset = qgemm_offset(s);
    bool quads = info.int8_activations, nibbles = info.type == DT_I4;
    if (quads) {
        store_lanes(data + k0 / (nibbles ? 8 : 4) * 64, n, nibbles, offset, q);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t k = k0 + i;
        if (nibbles) {
            uint8_t *dst = data + k / 2 * 16;
            int shift = k % 2 ? 4 : 0;
            EACH_COLUMN dst[c] = (uint8_t)(dst[c] | (q[i][c] + offset) << shift);
        } else {
            memcpy(data + k * 16, q[i], GEMM_PANEL);
        }
    }
}

WIDE_BODY widen_bf16_body(const char *src, int64_t n, float *dst)
{
    typedef uint16_t wide_halves __attribute__((vector_size(WIDE_LANES * 2), aligned(1), may_alias));
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        *(wide_words *)(void *)(dst + i) = __builtin_convertvector(*(const wide_halves *)(const void *)(src + i * 2), wide_words) << 16;
    if (i < n) dtype_to_f32(DT_BF16, src + i * 2, dst + i, (size_t)(n - i));
}
WIDE_TWICE(widen_bf16, (const char *src, int64_t n, float *dst), (src, n, dst))

WIDE_BODY transpose_body(float row[GEMM_PANEL][CHUNK], int64_t n, chunk f)
{
    for (int64_t i = 0; i < n; i += LANES)
        EACH_VEC {
            vec r[8];
            _Pragma("GCC unroll 8") for (int l = 0; l < 8; l++) r[l] = WIDE_FROM(row[j * LANES + l] + i);
            wide_transpose(r);
            _Pragma("GCC unroll 8") for (int l = 0; l < 8; l++) AT(f[i + l]) = r[l];
        }
}
WIDE_TWICE(transpose, (float row[GEMM_PANEL][CHUNK], int64_t n, chunk f), (row, n, f))

/* Rows are filled up with zeros to whole vectors, for which a chunk has room. */
static void load_chunk(const void *const *rows, dtype type, int64_t k0, int64_t n, chunk f)
{
    float row[GEMM_PANEL][CHUNK];
    int64_t whole = (n + LANES - 1) / LANES * LANES;
    EACH_COLUMN {
        const char *src = rows[c] ? (const char *)rows[c] + dtype_bytes(type, (size_t)k0) : NULL;
        int64_t have = src ? n : 0;
        if (src && type == DT_BF16) widen_bf16(src, n, row[c]);
        else if (src) dtype_to_f32(type, src, row[c], (size_t)n);
        memset(row[c] + have, 0, (size_t)(whole - have) * sizeof(float));
    }
    transpose(row, whole, f);
}

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

void quantise_panel(quant_scheme s, void *packed, int64_t k, int64_t p, const void *const *rows, dtype type)
{
    size_t bytes = qgemm_panel_bytes(s, k);
    char *panel = (char *)packed + (size_t)p * bytes;
    uint8_t *data = (uint8_t *)panel + qgemm_scale_bytes(s, k);
    int64_t padded = qgemm_padded_k(s, k);
    int group = quant_describe(s).group;
    chunk f;
    float scale[GEMM_PANEL];
    memset(panel, 0, bytes);
    if (!group) {
        range r = no_range;
        for (int64_t k0 = 0; k0 < k; k0 += CHUNK) {
            load_chunk(rows, type, k0, at_most(k - k0, CHUNK), f);
            add_range(f, at_most(k - k0, CHUNK), &r);
        }
        scales_of(s, &r, scale);
        memcpy(panel, scale, sizeof scale);
    }
    for (int64_t k0 = 0, step = group ? group : CHUNK; k0 < padded; k0 += step) {
        int8_t q[CHUNK][GEMM_PANEL] = { { 0 } };
        int64_t n = at_most(k - k0, step);
        load_chunk(rows, type, k0, n, f);
        if (group) {
            group_scales(s, f, n, scale);
            EACH_COLUMN ((uint16_t *)(void *)panel)[k0 / group * GEMM_PANEL + c] = f32_to_bf16(scale[c]);
        }
        round_chunk(s, f, n, scale, q);
        store_chunk(s, data, k0, at_most(padded - k0, step), q);
    }
}

void quantise_rows(quant_scheme s, int64_t k, const void *const *rows, dtype type, int8_t *q, float *scale)
{
    int group = quant_describe(s).group;
    int64_t groups = group ? (k + group - 1) / group : 1;
    chunk f;
    float of[GEMM_PANEL];
    range r = no_range;
    for (int64_t k0 = 0; !group && k0 < k; k0 += CHUNK) {
        load_chunk(rows, type, k0, at_most(k - k0, CHUNK), f);
        add_range(f, at_most(k - k0, CHUNK), &r);
    }
    scales_of(s, &r, of);
    for (int64_t k0 = 0, step = group ? group : CHUNK; k0 < k; k0 += step) {
        int8_t some[CHUNK][GEMM_PANEL];
        int64_t n = at_most(k - k0, step);
        load_chunk(rows, type, k0, n, f);
        if (group) group_scales(s, f, n, of);
        round_chunk(s, f, n, of, some);
        for (int64_t i = 0; i < n; i++) EACH_COLUMN q[c * k + k0 + i] = some[i][c];
        EACH_COLUMN scale[c * groups + (group ? k0 / group : 0)] = of[c];
    }
}

float quantise_value(const qgemm_weight *w, int64_t r, int64_t k)
{
    quant_scheme s = w->scheme;
    const quant_info info = quant_describe(s);
    const char *panel = (const char *)w->base.data + (size_t)(r / GEMM_PANEL) * qgemm_panel_bytes(s, w->base.k);
    const uint8_t *data = (const uint8_t *)panel + qgemm_scale_bytes(s, w->base.k);
    int64_t c = r % GEMM_PANEL, at = (info.group ? k / info.group : 0) * GEMM_PANEL + c;
    float scale, zero = 8;
    dtype_to_f32(info.scale, panel + dtype_bytes(info.scale, (size_t)at), &scale, 1);
    if (info.scale == DT_F8E4M3) scale /= ((const float *)(const void *)(panel + qgemm_global_at(s, w->base.k)))[c];
    if (info.zeros) zero = (float)((const int8_t *)panel)[qgemm_zeros_at(s, w->base.k) + (size_t)at];
    bool quads = info.int8_activations;
    if (info.type == DT_I4) {
        uint8_t b = quads ? data[k / 8 * 64 + c * 4 + k % 4] : data[k / 2 * 16 + c];
        bool high = quads ? k % 8 >= 4 : k % 2;
        return ((float)(high ? b >> 4 : b & 15) - zero) * scale;
    }
    if (info.type == DT_F4E2M1) return f4e2m1_to_f32((uint8_t)(data[k / 2 * 16 + c] >> (k % 2 ? 4 : 0))) * scale;
    if (quads) return (float)(data[k / 4 * 64 + c * 4 + k % 4] - 128) * scale;
    uint8_t b = data[k * 16 + c];
    return (info.type == DT_I8 ? (float)(int8_t)b : f8e4m3_to_f32(b)) * scale;
}
