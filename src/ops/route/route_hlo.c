/* route as StableHLO, in f32, and f32 it stays: weights of experts are not rounded. The k best are found one after the other, since
 * k is small and a sort of all experts is not cheap. */
#include <math.h>

#include "ops/op.h"

/* true at row t, column at[t] of [T, n] */
static hlo_val one_hot(hlo *h, hlo_val at, hlo_val like)
{
    return hlo_cmp(h, "EQ", hlo_iota(h, DT_I32, 1, 2, like.dim), hlo_broadcast_at(h, at, 0, (hlo_val){ .type = DT_I32, .rank = 2, .dim = { like.dim[0], like.dim[1] } }));
}

static hlo_val dropped(hlo *h, hlo_val gone, hlo_val x) { return hlo_select(h, gone, hlo_full_like(h, hlo_float(h, DT_F32, -INFINITY), x), x); }

/* Which columns of x [T, n] hold the row's k largest values; of equals the first. */
static hlo_val top(hlo *h, hlo_val x, int64_t k)
{
    hlo_val chosen = { 0 };
    for (int64_t i = 0; i < k; i++) {
        hlo_val one = one_hot(h, hlo_argmax(h, x, 1), x);
        chosen = i ? hlo_bin(h, "or", chosen, one) : one;
        if (i + 1 < k) x = dropped(h, one, x);
    }
    return chosen;
}

/* Scores of the experts whose group is not kept become -inf. */
static hlo_val drop_groups(hlo *h, const node *n, hlo_val score)
{
    int64_t groups = n->a.route.groups, t = score.dim[0], e = score.dim[1], size = groups ? e / groups : 0;
    if (!groups) return score;
    hlo_val each = hlo_reshape(h, score, 2, (int64_t[]){ t * groups, size }), best = hlo_reduce(h, "maximum", each, 1);
    if (n->a.route.kind == ROUTE_SIGMOID_BIAS && size > 1) {
        hlo_val rest = dropped(h, one_hot(h, hlo_argmax(h, each, 1), each), each);
        best = hlo_bin(h, "add", best, hlo_reduce(h, "maximum", rest, 1));
    }
    hlo_val kept = top(h, hlo_reshape(h, best, 2, (int64_t[]){ t, groups }), n->a.route.groups_kept);
    hlo_val wide = hlo_broadcast(h, kept, (int[]){ 0, 1 }, 3, (int64_t[]){ t, groups, size });
    return dropped(h, hlo_un(h, "not", hlo_reshape(h, wide, 2, score.dim)), score);
}

hlo_val route_hlo(hlo_call *c)
{
    enum { LOGITS, BIAS };
    hlo *h = c->h;
    int64_t kind = c->n->a.route.kind;
    hlo_val x = hlo_convert(h, c->in[LOGITS], DT_F32), w, score = x;
    if (kind == ROUTE_SIGMOID || kind == ROUTE_SIGMOID_BIAS) {
        w = hlo_un(h, "logistic", x);
        if (kind == ROUTE_SIGMOID_BIAS) score = hlo_bin(h, "add", w, hlo_broadcast_at(h, hlo_convert(h, c->in[BIAS], DT_F32), 1, x));
    } else {
        w = hlo_un(h, "exponential", hlo_bin(h, "subtract", x, hlo_broadcast_at(h, hlo_reduce(h, "maximum", x, 1), 0, x)));
        if (kind == ROUTE_SOFTMAX_TOPK) w = hlo_bin(h, "divide", w, hlo_broadcast_at(h, hlo_reduce(h, "add", w, 1), 0, w));
    }
    hlo_val chosen = top(h, drop_groups(h, c->n, score), c->n->a.route.top_k);
    w = hlo_select(h, chosen, w, hlo_full_like(h, hlo_float(h, DT_F32, 0), w));
    if (c->n->a.route.norm || kind == ROUTE_TOPK_SOFTMAX) {
        hlo_val sum = hlo_bin_scalar(h, "add", hlo_reduce(h, "add", w, 1), 1e-20);
        w = hlo_bin(h, "divide", w, hlo_broadcast_at(h, sum, 0, w));
    }
    return c->n->a.route.scale == 1 ? w : hlo_bin_scalar(h, "multiply", w, c->n->a.route.scale);
}
