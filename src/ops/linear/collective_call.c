/* Calls of collective_mosaic.h's kernels in programs. */
#include "ops/linear/collective_mosaic.h"
#include "ops/op.h"

enum { X, W, BIAS, RESIDUAL };

/* Is it faster to exchange while multiplying? The kernel reads w once for each piece of each device's rows, XLA once in all, but XLA waits for the links before it
 * multiplies, or after. Every step of the ring begins with what the one before sent. */
static bool helps(const chip *c, const collective_matmul *q, bool scatter, const collective_blocks *b)
{
    const double step_s = 2e-6, rows = (double)q->m * q->devices, w = (double)(q->n * q->k) * 2, moved = (double)(q->devices - 1) * (double)q->m * (double)(scatter ? q->n : q->k) * 2;
    const double unit = 2 * rows * (double)(q->n * q->k) / c->bf16_flops, link = moved / chip_ring_bytes_per_s(c), rest = rows * (double)(q->n + q->k) * 2;
    const double once = (w + rest) / c->hbm_bytes_per_s, often = (w * (b->n < q->n ? q->devices * (double)b->pieces : 1) + rest + 2 * moved) / c->hbm_bytes_per_s;
    double alone = unit > often ? unit : often;
    if (link > alone) alone = link;
    return alone + step_s * q->devices < link + (unit > once ? unit : once);
}

static bool can(const hlo_call *c, collective_matmul *q, collective_blocks *blocks, const char **why)
{
    const attention_choice *a = &c->step->attention;
    const hlo_val *w = &c->all[W].piece[PIECE_VALUES];
    bool added = hlo_is(c->in[BIAS]) || hlo_is(c->in[RESIDUAL]);
    *why = "there is no TPU, or StableHLO was asked for";
    if (!a->chip || a->backend == ATTENTION_BACKEND_STABLEHLO) return false;
    *why = "the ring is of all devices";
    if (c->h->mesh.dp > 1) return false;
    *why = "the weight is quantised or of another type";
    if (c->all[W].scheme || w->type != c->in[X].type) return false;
    *why = "it gathers and scatters, or adds before it scatters";
    if (c->gather == c->scatter || (c->scatter && added)) return false;
    const int64_t rows = c->in[X].dim[0], n = c->h->mesh.tp;
    *q = (collective_matmul){ .devices = (int)n, .layers = hlo_is(c->place) ? w->dim[0] : 1, .m = c->gather ? rows : rows / n, .n = w->dim[w->rank - 2], .k = w->dim[w->rank - 1],
                              .type = c->in[X].type, .out = added ? DT_F32 : c->step->act };
    if (collective_matmul_configure(a->chip, q, c->scatter, blocks) != ST_OK) {
        *why = err_kept();
        return false;
    }
    *why = "there are too few rows";
    return helps(a->chip, q, c->scatter, blocks);
}

bool collective_matmul_call(hlo_call *c, hlo_val *y, const char **why)
{
    hlo *h = c->h;
    collective_matmul q;
    collective_blocks blocks;
    if (!can(c, &q, &blocks, why)) return false;
    const hlo_val in[] = { hlo_reshape(h, hlo_is(c->place) ? c->place : hlo_int(h, DT_I32, 0), 1, (int64_t[]){ 1 }), c->in[X],
                           hlo_reshape(h, c->all[W].piece[PIECE_VALUES], 3, (int64_t[]){ q.layers, q.n, q.k }) };
    hlo_val out[2];
    mk *k = c->gather ? collective_gather_kernel(&q, &blocks) : collective_scatter_kernel(&q, &blocks);
    bool made = mk_finish(k) == ST_OK;
    if (made) *y = hlo_custom_call(h, k, in, 3, out);
    else *why = err_kept();
    mk_free(k);
    return made;
}
