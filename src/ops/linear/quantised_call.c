/* Calls of quantised_mosaic.h's kernel in programs. */
#include "ops/linear/quantised_mosaic.h"
#include "ops/op.h"

/* The shapes of a call. The chip that it is for, or NULL. */
static const chip *describe(const hlo_call *c, int input, int64_t rows, int64_t tiles, quantised_matmul *q)
{
    const node *w = graph_node(c->g, c->n->in[input]);
    const hlo_weight *all = &c->all[input];
    const hlo_val *scales = &all->piece[PIECE_SCALES];
    *q = (quantised_matmul){ .rows = rows, .tiles = tiles, .n = weight_rows(w), .k = weight_cols(w), .layers = hlo_is(c->place) ? all->piece[PIECE_VALUES].dim[0] : 1,
                             .experts = weight_has_experts(w) ? w->s.dim[0] : 1, .scheme = all->scheme, .group = all->group, .act = c->step->act, .out = DT_F32,
                             .stored_groups = hlo_is(*scales) ? scales->dim[scales->rank - 2] : 0, .stored_rows = hlo_is(*scales) ? scales->dim[scales->rank - 1] : 0, .scale = hlo_is(*scales) ? scales->type : DT_F32 };
    const attention_choice *a = &c->step->attention;
    return a->backend == ATTENTION_BACKEND_STABLEHLO ? NULL : a->chip;
}

static bool can(const hlo_call *c, int input, const quantised_matmul *q, const chip *tpu, matmul_config *out, const char **why)
{
    *why = "there is no TPU, or StableHLO was asked for";
    if (!tpu) return false;
    *why = "it is as good";
    if (!quantised_matmul_helps(tpu, q)) return false;
    *why = "inputs have an order of their own";
    if (hlo_is(c->all[input].piece[PIECE_ORDER])) return false;
    *why = "layers or experts have static scales of activations each";
    if (hlo_is(c->all[input].piece[PIECE_INPUT_SCALE]) && (q->experts > 1 || hlo_is(c->place))) return false;
    if (quantised_matmul_configure(tpu, q, out) == ST_OK) return true;
    *why = err_kept();
    return false;
}

bool quantised_matmul_does(const hlo_call *c, int input, int64_t rows, int64_t tiles, const char **why)
{
    quantised_matmul q;
    matmul_config config;
    const chip *tpu = describe(c, input, rows, tiles, &q);
    return can(c, input, &q, tpu, &config, why);
}

/* A piece as [layers, experts, rows, columns]. */
static hlo_val in_front(hlo *h, hlo_val v, const quantised_matmul *q)
{
    return hlo_reshape(h, v, 4, (int64_t[]){ q->layers, q->experts, v.dim[v.rank - 2], v.dim[v.rank - 1] });
}

static hlo_val one(hlo *h, hlo_val scalar) { return hlo_reshape(h, scalar, 1, (int64_t[]){ 1 }); }

bool quantised_matmul_call(hlo_call *c, hlo_val x, int input, int64_t tiles, hlo_val expert, hlo_val n_tiles, hlo_val *y, const char **why)
{
    hlo *h = c->h;
    quantised_matmul q;
    matmul_config config;
    const chip *tpu = describe(c, input, x.dim[0] / tiles, tiles, &q);
    if (!can(c, input, &q, tpu, &config, why)) return false;
    const hlo_val *piece = c->all[input].piece;
    hlo_val zero = hlo_int(h, DT_I32, 0), in[8], place[3] = { one(h, hlo_is(c->place) ? c->place : zero) };
    int n = 0;
    place[1] = one(h, hlo_is(n_tiles) ? n_tiles : hlo_int(h, DT_I32, 1));
    place[2] = hlo_is(expert) ? expert : one(h, zero);
    in[n++] = hlo_concat(h, place, 3, 0);
    if (hlo_is(piece[PIECE_INPUT_SCALE])) in[n++] = piece[PIECE_INPUT_SCALE];
    in[n++] = x;
    in[n++] = in_front(h, piece[PIECE_VALUES], &q);
    if (q.scheme) in[n++] = in_front(h, piece[PIECE_SCALES], &q);
    if (hlo_is(piece[PIECE_ZEROS])) in[n++] = in_front(h, piece[PIECE_ZEROS], &q);
    mk *k = quantised_matmul_kernel(hlo_is(expert) ? "grouped_matmul" : "quantised_matmul", &q, &config);
    bool made = mk_finish(k) == ST_OK;
    if (made) *y = hlo_custom_call(h, k, in, n, NULL);
    else *why = err_kept();
    mk_free(k);
    return made;
}
