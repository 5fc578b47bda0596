/* Weights that a checkpoint holds quantised, into panels: values stay as they are, scales keep their type. See qgemm.h for the layout. */
#include <math.h>
#include <string.h>

#include "ops/linear/quantise.h"

quant_scheme qgemm_layout(quant_scheme s, const weight_data *parts, int64_t n_parts)
{
    dtype t = parts[0].scale_type;
    for (int64_t i = 0; i < n_parts; i++)
        if (parts[i].scale_type != t || (parts[i].global != 1 && t != DT_F8E4M3)) t = DT_F32;
    if (!quant_describe(s).group) t = DT_F32;
    return quant_with_scale(s, t == DT_BF16 || t == DT_F16 || t == DT_F8E4M3 || t == DT_F8E8M0 ? t : DT_F32);
}

/* e4m3 has codes that are no numbers, which kernels do not look for: their scale shows them. */
static bool has_nan(const uint8_t *v, int64_t n)
{
    uint8_t found = 0;
    for (int64_t i = 0; i < n; i++) found |= (v[i] & 0x7F) == 0x7F;
    return found;
}

/* One group's scale (and zero) of column c. */
static void put_scale(quant_scheme s, quant_info q, char *panel, int64_t k, int64_t g, int c, const weight_data *w, int64_t row)
{
    int64_t at = g * GEMM_PANEL + c, from = q.group ? g * q.group : 0, end = q.group && from + q.group < k ? from + q.group : k;
    float exact = weight_scale_at(w, row, from), nan = NAN;
    bool bad = q.type == DT_F8E4M3 && has_nan((const uint8_t *)w->values + row * k + from, end - from);
    char *dst = panel + dtype_bytes(q.scale, (size_t)at);
    if (q.scale == DT_F32) {
        memcpy(dst, bad ? &nan : &exact, sizeof exact);
    } else {
        int64_t stored = row / w->group_out * weight_groups(w) + from / w->group_in;
        memcpy(dst, (const char *)w->scales + dtype_bytes(q.scale, (size_t)stored), dtype_bytes(q.scale, 1));
        uint16_t half = q.scale == DT_BF16 ? 0x7FC0 : 0x7E00;
        if (bad && dtype_bytes(q.scale, 1) == 2) memcpy(dst, &half, 2);
        else if (bad) *dst = (char)0xFF;
    }
    if (q.scale == DT_F8E4M3) {
        float *global = (float *)(void *)(panel + qgemm_global_at(s, k)) + c;
        *global = isnan(*global) || isnan(exact) ? NAN : w->global;
    }
    if (q.zeros) panel[qgemm_zeros_at(s, k) + (size_t)at] = (char)weight_zero_at(w, row, from);
}

void qgemm_pack_stored(quant_scheme s, void *packed, int64_t k, int64_t p, const weight_data *const *of, const int64_t *row)
{
    quant_info q = quant_describe(s);
    size_t bytes = qgemm_panel_bytes(s, k);
    int64_t groups = q.group ? qgemm_groups(s, k) : 1;
    char *panel = (char *)packed + (size_t)p * bytes;
    uint8_t *data = (uint8_t *)panel + qgemm_scale_bytes(s, k);
    bool nibbles = q.type == DT_I4 || q.type == DT_F4E2M1;
    memset(panel, 0, bytes);
    if (q.scale == DT_F8E4M3)   /* padding divides too */
        for (int c = 0; c < GEMM_PANEL; c++) ((float *)(void *)(panel + qgemm_global_at(s, k)))[c] = 1;
    for (int c = 0; c < GEMM_PANEL; c++) {
        if (!of[c]) continue;
        const uint8_t *v = (const uint8_t *)of[c]->values + dtype_bytes(q.type, (size_t)(row[c] * k));
        for (int64_t g = 0; g < groups; g++) put_scale(s, q, panel, k, g, c, of[c], row[c]);
        if (q.int8_activations)
            for (int64_t i = 0; i < k; i++) data[i / 4 * 64 + c * 4 + i % 4] = (uint8_t)(v[i] + 128);
        else
            for (int64_t i = 0; i < (nibbles ? k / 2 : k); i++) data[i * GEMM_PANEL + c] = v[i];
    }
}

void qgemm_pack_rest(quant_scheme s, void *packed, int64_t n, int64_t k, const weight_data *part)
{
    quant_info q = quant_describe(s);
    char *at = (char *)packed + (size_t)gemm_n_panels(n) * qgemm_panel_bytes(s, k), *end = (char *)packed + qgemm_packed_bytes(s, n, k);
    memset(at, 0, (size_t)(end - at));
    if (q.ordered) {
        memcpy(at, part->order, (size_t)k * sizeof(int32_t));
        at += ((size_t)k * sizeof(int32_t) + 63) / 64 * 64;
    }
    if (q.act == QUANT_ACT_INT8_STATIC || q.act == QUANT_ACT_FP8_STATIC) memcpy(at, &part->input_scale, sizeof part->input_scale);
}
