/* OCP MX FP4: two e2m1 values in a byte, low nibble first, and a power of two (e8m0) per 32 inputs. compressed-tensors has weight_packed
 * [out, in/2] and weight_scale; gpt-oss all experts at once: NAME_blocks [experts, out, groups, 16] and NAME_scales. */
#include "load/quant.h"

enum { GROUP = 32 };

static status need_scales(const quant_reader *r, const st_tensor *s, int64_t n, int64_t groups)
{
    return quant_need(r, s, s->type == DT_F8E8M0 ? DT_F8E8M0 : DT_U8, 2, n, groups);
}

status quant_read_mxfp4(const quant_reader *r, weight_data *out)
{
    st_tensor q, s;
    bool blocks = r->slice >= 0;
    TRY(quant_tensor(r, blocks ? "_blocks" : ".weight_packed", false, &q));
    TRY(quant_tensor(r, blocks ? "_scales" : ".weight_scale", false, &s));
    if (blocks && q.rank == 3 && q.shape[1] >= 1 && q.shape[1] <= QUANT_MAX_DIM / GROUP && q.shape[2] == GROUP / 2) {
        q.rank = 2;
        q.shape[1] *= GROUP / 2;
    }
    TRY(quant_need(r, &q, DT_U8, 2, -1, -1));
    int64_t n = q.shape[0], in = q.shape[1] * 2;
    TRY(need_scales(r, &s, n, (in + GROUP - 1) / GROUP));
    out->type = DT_F4E2M1;
    out->shape[0] = n, out->shape[1] = in;
    out->values = q.data;
    out->scales = s.data, out->scale_type = DT_F8E8M0, out->group_in = GROUP;
    return ST_OK;
}
