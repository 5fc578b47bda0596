/* int8 or e4m3 with a scale per tensor or per output channel: compressed-tensors "int-quantized" and "float-quantized", vLLM's fp8,
 * modelopt's FP8. Static activations have their scale in input_scale. */
#include <math.h>

#include "load/quant.h"

status quant_read_channel(const quant_reader *r, weight_data *out)
{
    st_tensor q, s;
    quant_info info = quant_describe(r->q->scheme);
    TRY(quant_tensor(r, ".weight", false, &q));
    TRY(quant_tensor(r, ".weight_scale", false, &s));
    TRY(quant_need(r, &q, info.type, 2, -1, -1));
    int64_t n = q.shape[0], count = 1;
    for (int i = 0; i < s.rank; i++) count *= s.shape[i] >= 0 && s.shape[i] <= QUANT_MAX_DIM && count <= QUANT_MAX_DIM ? s.shape[i] : 0;
    if (s.rank > 2 || (count != 1 && count != n)) return quant_need(r, &s, DT_F32, 2, n, 1);
    if (s.type != DT_F32 && s.type != DT_BF16 && s.type != DT_F16) return quant_need(r, &s, DT_F32, 2, n, 1);
    if (info.act == QUANT_ACT_FP8_STATIC || info.act == QUANT_ACT_INT8_STATIC) {
        TRY(quant_number(r, ".input_scale", &out->input_scale));
        if (!(out->input_scale > 0 && isfinite(out->input_scale)))
            return err_set(ST_INVALID, "tensor %s.input_scale is %g, expected a positive number", r->base, (double)out->input_scale);
    }
    out->type = info.type;
    out->shape[0] = n, out->shape[1] = q.shape[1];
    out->values = q.data;
    out->scales = s.data, out->scale_type = s.type;
    out->group_out = count == 1 ? n : 1, out->group_in = q.shape[1];
    return ST_OK;
}
