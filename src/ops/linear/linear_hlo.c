/* linear as StableHLO: x [M, K] . w [N, K] over K, summed in f32; bias and residual are added in f32; rounded to the
 * activations' type once. The head (a weight that lies over the vocabulary) gives f32 logits.
 *
 * On TPUs a kernel multiplies by quantised weights where that is better (quantised_mosaic.h), and exchanges rows with the other ranks while it
 * multiplies (collective_mosaic.h).
 *
 * x and w are multiplied in their common type. If theirs differ, both become f32, which loses nothing. Quantised weights become x's
 * type: hlo_weight.h. */
#include "ops/hlo_weight.h"
#include "ops/linear/collective_mosaic.h"
#include "ops/linear/quantised_mosaic.h"
#include "ops/op.h"

enum { X, W, BIAS, RESIDUAL };

/* x by the weight. */
static hlo_val product(hlo_call *c)
{
    const hlo_val none = { 0 };
    const char *why;
    hlo_val y;
    if (quantised_matmul_call(c, c->in[X], W, 1, none, none, &y, &why)) return y;
    if (c->w[W].scheme && c->step->attention.chip) hlo_comment(c->h, "StableHLO: %s", why);
    return hlo_product(c->h, c->in[X], &c->w[W]);
}

hlo_val linear_hlo(hlo_call *c)
{
    hlo *h = c->h;
    const char *why;
    hlo_val y;
    bool together = (c->gather || c->scatter) && collective_matmul_call(c, &y, &why);
    if (!together) {
        if (c->gather || c->scatter) hlo_comment(h, "StableHLO: %s", why);
        if (c->gather) c->in[X] = hlo_all_gather(h, c->in[X], 0);
        y = product(c);
    }
    if (hlo_is(c->in[BIAS])) y = hlo_bin(h, "add", y, hlo_broadcast_at(h, hlo_convert(h, c->in[BIAS], DT_F32), 1, y));
    if (hlo_is(c->in[RESIDUAL])) y = hlo_bin(h, "add", y, hlo_convert(h, c->in[RESIDUAL], DT_F32));
    bool head = graph_node(c->g, c->n->in[W])->a.weight.role == ROLE_VOCAB;
    if (!head) y = hlo_convert(h, y, c->step->act);
    return c->scatter && !together ? hlo_reduce_scatter(h, y, 0) : y;
}
