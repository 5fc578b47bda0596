/* AutoGPTQ: a word of qweight [in/8, out] has eight inputs of one output, lowest nibble first; a word of qzeros [groups, out/8] eight
 * outputs. Version 1 keeps zero - 1. g_idx [in] says which group an input has: with desc_act that is no simple division. */
#include "base/mem.h"
#include "load/quant.h"

/* Without desc_act a g_idx may be there and say what is the rule anyway. */
static status check_plain(const quant_reader *r, const st_tensor *g, int64_t in, int64_t group)
{
    TRY(quant_need(r, g, DT_I32, 1, in, 0));
    for (int64_t i = 0; i < in; i++)
        if (quant_word(g, i) != (uint32_t)(i / group))
            return err_set(ST_UNSUPPORTED, "tensor %s puts column %lld into group %d, but the quantization config has no desc_act", g->name, (long long)i, (int)quant_word(g, i));
    return ST_OK;
}

status quant_read_gptq(const quant_reader *r, weight_data *out)
{
    st_tensor q, s, z, g;
    bool ordered = quant_describe(r->q->scheme).ordered;
    TRY(quant_tensor(r, ".qweight", false, &q));
    TRY(quant_tensor(r, ".scales", false, &s));
    TRY(quant_tensor(r, ".qzeros", false, &z));
    TRY(quant_tensor(r, ".g_idx", !ordered, &g));
    TRY(quant_need(r, &q, DT_I32, 2, -1, -1));
    int64_t words = q.shape[0], in = words * 8, n = q.shape[1], group = r->q->group ? r->q->group : in, groups = (in + group - 1) / group;
    if (n % 8) return err_set(ST_UNSUPPORTED, "tensor %s has %lld outputs, no multiple of 8", q.name, (long long)n);
    TRY(quant_need(r, &s, DT_F32, 2, groups, n));
    TRY(quant_need(r, &z, DT_I32, 2, groups, n / 8));
    if (!ordered && g.data) TRY(check_plain(r, &g, in, group));
    size_t step = dtype_bytes(s.type, 1), zeros = (size_t)(n * groups) * sizeof(float), order = ordered ? (size_t)in * sizeof(int32_t) : 0;
    size_t values = (size_t)(n * in / 2);
    char *mem = out->owned = mem_aligned(64, values + zeros + order + (size_t)(n * groups) * step);
    if (!mem) return err_nomem();
    float *zero = (float *)(void *)mem;
    int32_t *by = (int32_t *)(void *)(mem + zeros);
    uint8_t *dst = (uint8_t *)mem + zeros + order;
    for (int64_t i = 0; i < groups; i++)
        for (int64_t c = 0; c < n; c++) zero[c * groups + i] = (float)((quant_word(&z, i * (n / 8) + c / 8) >> 4 * (c % 8) & 15) + (r->q->zeros_less_one ? 1 : 0));
    quant_transpose(q.data, dst, words, n, 4);      /* a word's nibbles are in order: words go as they are */
    if (ordered) TRY(quant_sort(r, &g, in, group, by));
    if (ordered) TRY(quant_reorder(dst, n, in, by));
    quant_transpose(s.data, dst + values, groups, n, step);
    out->type = DT_I4;
    out->shape[0] = n, out->shape[1] = in;
    out->values = dst;
    out->scales = dst + values, out->scale_type = s.type, out->zeros = zero, out->group_in = group;
    out->order = ordered ? by : NULL;
    return ST_OK;
}
