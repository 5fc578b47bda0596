/* AutoAWQ, version "gemm": weights are [in, out]. A word of qweight has eight outputs of one input, a word of qzeros those of one group;
 * outputs 0, 2, 4, 6, 1, 3, 5, 7 from the lowest nibble up. value = (q - zero) * scale. */
#include "base/mem.h"
#include "load/quant.h"

static const int place[8] = { 0, 2, 4, 6, 1, 3, 5, 7 };

/* [in][words] to [out][in] nibbles. In blocks that stay in cache: lines of 16 words, 128 inputs. */
static void unpack(const st_tensor *q, int64_t in, int64_t words, uint8_t *dst)
{
    enum { WORDS = 16, ROWS = 128 };
    for (int64_t w0 = 0; w0 < words; w0 += WORDS)
        for (int64_t i0 = 0; i0 < in; i0 += ROWS)
            for (int64_t w = w0; w < words && w < w0 + WORDS; w++)
                for (int64_t i = i0; i < in && i < i0 + ROWS; i += 2) {
                    uint32_t a = quant_word(q, i * words + w), b = quant_word(q, (i + 1) * words + w);
                    for (int p = 0; p < 8; p++) dst[((w * 8 + place[p]) * in + i) / 2] = (uint8_t)((a >> 4 * p & 15) | (b >> 4 * p & 15) << 4);
                }
}

status quant_read_awq(const quant_reader *r, weight_data *out)
{
    st_tensor q, s, z;
    TRY(quant_tensor(r, ".qweight", false, &q));
    TRY(quant_tensor(r, ".scales", false, &s));
    TRY(quant_tensor(r, ".qzeros", false, &z));
    TRY(quant_need(r, &q, DT_I32, 2, -1, -1));
    int64_t in = q.shape[0], words = q.shape[1], n = words * 8, group = r->q->group ? r->q->group : in;
    if (in % group || in % 2) return err_set(ST_UNSUPPORTED, "tensor %s has %lld inputs, no multiple of the group size %lld", q.name, (long long)in, (long long)group);
    int64_t groups = in / group;
    TRY(quant_need(r, &s, DT_F32, 2, groups, n));
    TRY(quant_need(r, &z, DT_I32, 2, groups, words));
    size_t step = dtype_bytes(s.type, 1), values = (size_t)(n * in / 2), zeros = (size_t)(n * groups) * sizeof(float);
    char *mem = out->owned = mem_aligned(64, values + zeros + (size_t)(n * groups) * step);
    if (!mem) return err_nomem();
    float *zero = (float *)(void *)mem;
    for (int64_t g = 0; g < groups; g++)
        for (int64_t w = 0; w < words; w++)
            for (int p = 0; p < 8; p++) zero[(w * 8 + place[p]) * groups + g] = (float)(quant_word(&z, g * words + w) >> 4 * p & 15);
    quant_transpose(s.data, mem + zeros, groups, n, step);
    unpack(&q, in, words, (uint8_t *)mem + zeros + (size_t)(n * groups) * step);
    out->type = DT_I4;
    out->shape[0] = n, out->shape[1] = in;
    out->values = mem + zeros + (size_t)(n * groups) * step;
    out->scales = mem + zeros, out->scale_type = s.type, out->zeros = zero, out->group_in = group;
    return ST_OK;
}
