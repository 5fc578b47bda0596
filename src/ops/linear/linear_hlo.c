/* linear as StableHLO: x [M, K] . w [N, K] over K, summed in f32; bias and residual are added in f32; rounded to the
 * activations' type once. The head (a weight that lies over the vocabulary) gives f32 logits.
 *
 * x and w are multiplied in their common type. If theirs differ, both become f32, which loses nothing. */
#include "ops/op.h"

enum { X, W, BIAS, RESIDUAL };

hlo_val linear_hlo(hlo_call *c)
{
    hlo *h = c->h;
    hlo_val x = c->in[X], w = c->in[W];
    quant_scheme scheme = (quant_scheme)graph_node(c->g, c->n->in[W])->a.weight.scheme;
    char name[QUANT_NAME_CAP];
    if (scheme) hlo_fail(h, "quantization %s is not supported on this device, only on cpu", quant_print(scheme, name));
    if (x.type != w.type) {
        x = hlo_convert(h, x, DT_F32);
        w = hlo_convert(h, w, DT_F32);
    }
    hlo_val y = hlo_dot(h, x, w, (hlo_dims){ 0 }, (hlo_dims){ 0 }, HLO_DIMS(1), HLO_DIMS(1), DT_F32);
    if (hlo_is(c->in[BIAS])) y = hlo_bin(h, "add", y, hlo_broadcast_at(h, hlo_convert(h, c->in[BIAS], DT_F32), 1, y));
    if (hlo_is(c->in[RESIDUAL])) y = hlo_bin(h, "add", y, hlo_convert(h, c->in[RESIDUAL], DT_F32));
    bool head = graph_node(c->g, c->n->in[W])->a.weight.role == ROLE_VOCAB;
    return head ? y : hlo_convert(h, y, c->step->act);
}
