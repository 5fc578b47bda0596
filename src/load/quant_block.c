/* e4m3 with a scale per block of outputs and inputs (DeepSeek-V3, Qwen3 FP8: weight_scale_inv; compressed-tensors: weight_scale). Blocks
 * at the ends are cut off where sizes are no multiples. Scales that are powers of two (ue8m0) come as float32 or as e8m0. */
#include "load/quant.h"

status quant_read_block(const quant_reader *r, weight_data *out)
{
    st_tensor q, s;
    TRY(quant_tensor(r, ".weight", false, &q));
    TRY(quant_tensor(r, ".weight_scale_inv", true, &s));
    if (!s.data) TRY(quant_tensor(r, ".weight_scale", true, &s));
    if (!s.data) return err_set(ST_NOT_FOUND, "tensor %s.weight_scale_inv is not in the checkpoint", r->base);
    TRY(quant_need(r, &q, DT_F8E4M3, 2, -1, -1));
    int64_t n = q.shape[0], in = q.shape[1], bo = r->q->block_out, bi = r->q->block_in;
    TRY(quant_need(r, &s, s.type == DT_F8E8M0 ? DT_F8E8M0 : DT_F32, 2, (n + bo - 1) / bo, (in + bi - 1) / bi));
    out->type = DT_F8E4M3;
    out->shape[0] = n, out->shape[1] = in;
    out->values = q.data;
    out->scales = s.data, out->scale_type = s.type;
    out->group_out = bo, out->group_in = bi;
    return ST_OK;
}
