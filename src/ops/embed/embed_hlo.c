/* embed as StableHLO: rows of the table in the activations' type. With shards, ids that other tensor ranks hold give zeros. */
#include "ops/op.h"

static hlo_val rows_of(hlo_call *c, hlo_val table, hlo_val ids)
{
    hlo_val rows = hlo_take(c->h, table, ids);
    const int64_t cols = c->n->s.dim[1];    /* the table may be padded: hlo_weight_shape */
    if (rows.dim[1] > cols) rows = hlo_slice(c->h, rows, 1, 0, cols);
    return hlo_convert(c->h, rows, c->step->act);
}

hlo_val embed_hlo(hlo_call *c)
{
    hlo *h = c->h;
    hlo_val ids = c->in[0], table = c->in[1];
    if (c->n->a.embed.shards < 2) return rows_of(c, table, ids);
    hlo_val first = hlo_bin_scalar(h, "multiply", hlo_tensor_rank(h), (double)table.dim[0]);
    ids = hlo_bin(h, "subtract", ids, hlo_full_like(h, first, ids));
    hlo_val here = hlo_bin(h, "and", hlo_cmp_scalar(h, "GE", ids, 0), hlo_cmp_scalar(h, "LT", ids, (double)table.dim[0]));
    hlo_val rows = rows_of(c, table, ids);
    return hlo_select(h, hlo_broadcast_at(h, here, 0, rows), rows, hlo_full_like(h, hlo_float(h, rows.type, 0), rows));
}
