#include "graph/weights.h"

static int64_t group_of(const weight_data *w, int64_t row, int64_t col) { return row / w->group_out * weight_groups(w) + col / w->group_in; }

float weight_scale_at(const weight_data *w, int64_t row, int64_t col)
{
    float s;
    dtype_to_f32(w->scale_type, (const char *)w->scales + dtype_bytes(w->scale_type, (size_t)group_of(w, row, col)), &s, 1);
    return s / w->global;
}

float weight_zero_at(const weight_data *w, int64_t row, int64_t col)
{
    if (w->zeros) return w->zeros[group_of(w, row, col)];
    return w->type == DT_I4 ? 8 : 0;
}

static float value_at(const weight_data *w, int64_t at)
{
    const uint8_t *v = w->values;
    float f;
    if (w->type == DT_I4 || w->type == DT_F4E2M1) {
        uint8_t code = v[at / 2] >> (at % 2 ? 4 : 0) & 15;
        return w->type == DT_I4 ? (float)code : f4e2m1_to_f32(code);
    }
    dtype_to_f32(w->type, v + dtype_bytes(w->type, (size_t)at), &f, 1);
    return f;
}

void weight_row(const weight_data *w, int64_t row, float *dst)
{
    int64_t n = w->rank == 2 ? w->shape[1] : 1;
    if (!w->scales) {
        dtype_to_f32(w->type, (const char *)w->values + dtype_bytes(w->type, (size_t)(row * n)), dst, (size_t)n);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        dst[w->order ? w->order[i] : i] = (value_at(w, row * n + i) - weight_zero_at(w, row, i)) * weight_scale_at(w, row, i);
}
