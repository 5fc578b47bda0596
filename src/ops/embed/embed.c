/* embed(ids [T] i32, table [vocab, embed]) -> [T, embed]: rows of the table. The table is packed like a linear's weight, so
 * that tied embeddings exist once; a row is then one column of a panel.
 *
 * With `shards` > 1 the table is one tensor rank's run of the rows: rank r holds ids from r * rows on, the others' ids give
 * zeros, and the sum over the ranks is the embedding. The reference and the cpu kernel are rank 0. */
#include <string.h>

#include "ops/op.h"

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *ids = op_in(g, n, 0), *w = op_in(g, n, 1);
    TRY(op_need_type("ids", ids, DT_I32));
    TRY(op_need_rank(n, "ids", ids, 1));
    TRY(op_need_rank(n, "the table", w, 2));
    int64_t shards = n->a.embed.shards, tp = graph_mesh(g).tp;
    if (shards < 0 || (shards > 1 && shards != tp))
        return err_set(ST_INTERNAL, "%lld shards, expected the mesh's %lld tensor ranks or none", (long long)shards, (long long)tp);
    *out = (shape){ DT_F32, 2, { ids->dim[0], w->dim[1] }, { ids->axes[0], w->axes[1] } };
    return ST_OK;
}

static void ref(const ref_call *c)
{
    int64_t width = c->out.dim[1];
    for (int64_t t = 0; t < c->out.dim[0]; t++) {
        int64_t id = c->in[0].i[t];
        bool here = c->n->a.embed.shards < 2 || (id >= 0 && id < c->in[1].dim[0]);
        for (int64_t i = 0; i < width; i++) c->out.f[t * width + i] = here ? c->in[1].f[id * width + i] : 0;
    }
}

static void copy_row(const gemm_weight *w, int64_t row, float *dst)
{
    const char *panel = (const char *)w->data + (size_t)(row / GEMM_PANEL) * gemm_panel_bytes(w->type, w->k);
    const uint16_t *h = (const uint16_t *)(const void *)panel;
    const float *f = (const float *)(const void *)panel;
    int64_t col = row % GEMM_PANEL;
    if (w->type == DT_F32) for (int64_t k = 0; k < w->k; k++) dst[k] = f[k * GEMM_PANEL + col];
    else if (w->type == DT_F16) for (int64_t k = 0; k < w->k; k++) dst[k] = f16_to_f32(h[k * GEMM_PANEL + col]);
    else for (int64_t k = 0; k < w->k; k++) dst[k] = bf16_to_f32(h[k / 2 * 2 * GEMM_PANEL + col * 2 + (k & 1)]);
}

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t from, to;
    while (cpu_take(c, phase, c->out.rows, 1, &from, &to)) {
        int64_t id = c->in[0].i[from];
        float *dst = c->out.f + from * c->out.ld;
        if (c->n->a.embed.shards < 2 || (id >= 0 && id < c->in[1].w->n)) copy_row(c->in[1].w, id, dst);
        else memset(dst, 0, (size_t)c->out.cols * sizeof *dst);
    }
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    double rows = op_dim(s, n->s.dim[0]), width = (double)n->s.dim[1];
    out->weight_bytes += rows * width * (double)dtype_bits(op_in(g, n, 1)->type) / 8;
    out->activation_bytes += rows * width * 4;
}

static tensor build_case(graph *g, int i, dtype type)
{
    static const int64_t widths[] = { 1, 16, 63, 64 };
    if (i >= 6) return NO_TENSOR;
    if (i < 4) return graph_add(g, OP_EMBED, (tensor[]){ case_ints(g, IN_TOKENS), case_weight(g, "table", type, 50, widths[i]) }, 2, NULL);
    /* two ranks: 25 and 25 rows, 26 and 25 */
    graph_set_mesh(g, (mesh){ 1, 2, false, false });
    weight_part part = { "table", 0, i == 4 ? 50 : 51, i == 4 ? 50 : 51, AX_VOCAB, 2, 0 };
    shape s = { type, 2, { weight_part_rows(&part), 16 }, { AX_VOCAB, AX_EMBED } };
    tensor in[] = { case_ints(g, IN_TOKENS), graph_weight(g, ROLE_VOCAB, &s, &part, 1) };
    return graph_add(g, OP_EMBED, in, 2, &(op_attrs){ .embed = { 2 } });
}

const op_impl op_embed = { infer, ref, OP_CPU_ALL(cpu), embed_hlo, 1, NULL, NULL, cost, build_case };
