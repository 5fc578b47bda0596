/* compressed-tensors "pack-quantized", int4: words of eight inputs, q + 8 from the lowest nibble up, rows filled up to whole words; zero
 * points + 8 are packed along the outputs. weight_shape has the true shape. */
#include "base/mem.h"
#include "load/quant.h"

/* What weight_shape says, in either type of integer. */
static status read_dims(const quant_reader *r, int64_t dims[2])
{
    st_tensor t;
    TRY(quant_tensor(r, ".weight_shape", false, &t));
    TRY(quant_need(r, &t, t.type == DT_I64 ? DT_I64 : DT_I32, 1, 2, 0));
    for (int i = 0; i < 2; i++) {
        int32_t small;
        if (t.type == DT_I64) memcpy(&dims[i], (const char *)t.data + i * 8, 8);
        else memcpy(&small, (const char *)t.data + i * 4, 4), dims[i] = small;
        if (dims[i] < 1 || dims[i] > QUANT_MAX_DIM) return err_set(ST_INVALID, "tensor %s has the size %lld", t.name, (long long)dims[i]);
    }
    return ST_OK;
}

status quant_read_packed(const quant_reader *r, weight_data *out)
{
    st_tensor q, s, z, g;
    int64_t dims[2] = { 0 };
    quant_info info = quant_describe(r->q->scheme);
    TRY(read_dims(r, dims));
    int64_t n = dims[0], in = dims[1], words = (in + 7) / 8, group = r->q->group ? r->q->group : in, groups = (in + group - 1) / group;
    TRY(quant_tensor(r, ".weight_packed", false, &q));
    TRY(quant_tensor(r, ".weight_scale", false, &s));
    TRY(quant_tensor(r, ".weight_zero_point", !info.zeros, &z));
    TRY(quant_tensor(r, ".weight_g_idx", !info.ordered, &g));
    TRY(quant_need(r, &q, DT_I32, 2, n, words));
    TRY(quant_need(r, &s, DT_F32, 2, n, groups));
    if (in % 2) return err_set(ST_UNSUPPORTED, "tensor %s has %lld inputs, an odd number", q.name, (long long)in);
    if (info.zeros) TRY(quant_need(r, &z, DT_I32, 2, (n + 7) / 8, groups));
    bool copies = in % 8 || info.ordered;      /* else rows lie as they are wanted */
    size_t zeros = info.zeros ? (size_t)(n * groups) * sizeof(float) : 0, order = info.ordered ? (size_t)in * sizeof(int32_t) : 0;
    char *mem = out->owned = zeros || order || copies ? mem_aligned(64, zeros + order + (copies ? (size_t)(n * in / 2) : 0)) : NULL;
    if (!mem && (zeros || order || copies)) return err_nomem();
    if (info.zeros) {
        float *zero = (float *)(void *)mem;
        for (int64_t c = 0; c < n; c++)
            for (int64_t i = 0; i < groups; i++) zero[c * groups + i] = (float)(quant_word(&z, c / 8 * groups + i) >> 4 * (c % 8) & 15);
        out->zeros = zero;
    }
    out->values = q.data;
    if (copies) {
        uint8_t *dst = (uint8_t *)mem + zeros + order;
        for (int64_t c = 0; c < n; c++) memcpy(dst + c * in / 2, (const char *)q.data + c * words * 4, (size_t)in / 2);
        out->values = dst;
        if (info.ordered) {
            int32_t *by = (int32_t *)(void *)(mem + zeros);
            TRY(quant_sort(r, &g, in, group, by));
            TRY(quant_reorder(dst, n, in, by));
            out->order = by;
        }
    }
    out->type = DT_I4;
    out->shape[0] = n, out->shape[1] = in;
    out->scales = s.data, out->scale_type = s.type, out->group_in = group;
    return ST_OK;
}
