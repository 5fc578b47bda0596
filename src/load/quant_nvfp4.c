/* compressed-tensors "nvfp4-pack-quantized": two e2m1 values in a byte, low nibble first; value * (scale / global scale), an e4m3 scale per
 * 16 inputs. */
#include <math.h>

#include "load/quant.h"

status quant_read_nvfp4(const quant_reader *r, weight_data *out)
{
    st_tensor q, s;
    TRY(quant_tensor(r, ".weight_packed", false, &q));
    TRY(quant_tensor(r, ".weight_scale", false, &s));
    TRY(quant_number(r, ".weight_global_scale", &out->global));
    TRY(quant_need(r, &q, DT_U8, 2, -1, -1));
    int64_t n = q.shape[0], in = q.shape[1] * 2;
    if (!(out->global > 0 && isfinite(out->global)))
        return err_set(ST_INVALID, "tensor %s.weight_global_scale is %g, expected a positive number", r->base, (double)out->global);
    TRY(quant_need(r, &s, DT_F8E4M3, 2, n, (in + 15) / 16));
    out->type = DT_F4E2M1;
    out->shape[0] = n, out->shape[1] = in;
    out->values = q.data;
    out->scales = s.data, out->scale_type = DT_F8E4M3, out->group_in = 16;
    return ST_OK;
}
