/* Rotary position embedding, in two operations (Su et al. 2021, arXiv:2104.09864; halves rotated as in GPT-NeoX).
 *
 * rope_table(positions [T]) scale[variants], inv_freq[variants][half] -> [T, 2*half]: cos then sin of position * inv_freq,
 * times the variant's scale. Made once per step and shared by all layers. A sequence chooses its variant (batch.rope_variant):
 * longrope has two, the others one. inv_freq comes ready from model/rope.c, which knows the scaling methods.
 * Multimodal rope (Wang et al. 2024, arXiv:2409.12191): a token of an image has a time, a height and a width (batch.positions3), and
 * each frequency follows one of them: the last `width` the width, the `height` before them the height; interleaved, numbers 2, 5, 8
 * .. the width and 1, 4, 7 .. the height.
 *
 * rope(x [T, h, d], table) -> x with the first 2*half of each head rotated, the rest as it was. interleaved: pairs are neighbours, as
 * in the paper. */
#include <math.h>
#include <string.h>

#include "ops/op.h"
#include "ops/rope/rope.h"
#include "ops/wide.h"

/* ---- rope_table ---- */

static int64_t table_half(const node *n) { return n->a.rope_table.inv_freq.n / n->a.rope_table.scale.n; }

static status infer_table(const graph *g, const node *n, shape *out)
{
    const shape *pos = op_in(g, n, 0);
    int64_t variants = n->a.rope_table.scale.n, count = n->a.rope_table.inv_freq.n;
    TRY(op_need_type("positions", pos, DT_I32));
    TRY(op_need_rank(n, "positions", pos, 1));
    if (variants < 1 || count < variants || count % variants)
        return err_set(ST_INTERNAL, "%lld frequencies for %lld variants", (long long)count, (long long)variants);
    int64_t h = n->a.rope_table.height, w = n->a.rope_table.width;
    if (h < 0 || w < 0 || h > table_half(n) || w > table_half(n) || h + w > table_half(n))
        return err_set(ST_INTERNAL, "%lld + %lld of %lld frequencies for height and width", (long long)h, (long long)w, (long long)table_half(n));
    *out = (shape){ DT_F32, 2, { pos->dim[0], 2 * table_half(n) }, { pos->axes[0], AX_ROPE } };
    return ST_OK;
}

int rope_stream(const node *n, int64_t i)
{
    int64_t h = n->a.rope_table.height, w = n->a.rope_table.width, half = table_half(n);
    if (n->a.rope_table.interleaved) return i % 3 == 1 && i < 3 * h ? 1 : i % 3 == 2 && i < 3 * w ? 2 : 0;
    return i < half - h - w ? 0 : i < half - w ? 1 : 2;
}

/* pos: one position, or three. */
static void table_row(const node *n, const int32_t *pos, bool three, int64_t variant, float *dst)
{
    int64_t half = table_half(n);
    if (variant < 0 || variant >= n->a.rope_table.scale.n) variant = 0;
    const float *freq = n->a.rope_table.inv_freq.v + variant * half;
    float scale = n->a.rope_table.scale.v[variant];
    for (int64_t i = 0; i < half; i++) {
        double angle = (double)((float)pos[three ? rope_stream(n, i) : 0] * freq[i]); /* rounded to float32 first, as the references do */
        dst[i] = (float)cos(angle) * scale;
        dst[half + i] = (float)sin(angle) * scale;
    }
}

static int seq_of(const batch *b, int64_t token)
{
    int lo = 0, hi = b->n_seqs - 1;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (b->cu_q_lens[mid + 1] > token) hi = mid;
        else lo = mid + 1;
    }
    return lo;
}

static int64_t variant_of(const node *n, const batch *b, int64_t token)
{
    return n->a.rope_table.scale.n > 1 && b->rope_variant ? b->rope_variant[seq_of(b, token)] : 0;
}

/* The row of token t, whose position is p. */
static void token_row(const node *n, const batch *b, int64_t t, const int32_t *p, float *dst)
{
    bool three = b->positions3 && n->a.rope_table.height + n->a.rope_table.width > 0;
    table_row(n, three ? b->positions3 + 3 * t : p, three, variant_of(n, b, t), dst);
}

static void ref_table(const ref_call *c)
{
    for (int64_t t = 0; t < c->out.dim[0]; t++) token_row(c->n, c->b, t, c->in[0].i + t, c->out.f + t * c->out.dim[1]);
}

static void cpu_table(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t from, to;
    while (cpu_take(c, phase, c->out.rows, 1, &from, &to))
        token_row(c->n, c->b, from, c->in[0].i + from, c->out.f + from * c->out.ld);
}

static void cost_table(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    double count = op_dim(s, n->s.dim[0]) * (double)n->s.dim[1];
    out->flops += 20 * count;
    out->activation_bytes += 4 * count;
}

static tensor case_table(graph *g, int i, dtype type)
{
    (void)type;
    static const float freq[] = { 1.0f, 0.5f, 0.1f, 0.01f, 0.7f, 0.03f }, scale[] = { 1.0f, 1.25f };
    if (i >= 4) return NO_TENSOR;
    tensor pos = case_ints(g, IN_POSITIONS);
    op_attrs a = { .rope_table = { { i % 2 + 1, scale }, { 3 * (i % 2 + 1), freq }, i / 2, i / 2, i == 3 } };
    return graph_add(g, OP_ROPE_TABLE, &pos, 1, &a);
}

const op_impl op_rope_table = { infer_table, ref_table, OP_CPU_ALL(cpu_table), rope_table_hlo, 1, NULL, NULL, cost_table, case_table };

/* ---- rope ---- */

static status infer_rope(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0), *table = op_in(g, n, 1);
    TRY(op_need_rank(n, "x", x, 3));
    TRY(op_need_rank(n, "the table", table, 2));
    if (table->axes[1] != AX_ROPE || table->dim[1] > x->dim[2] || table->dim[0] != x->dim[0]) {
        char a[128], b[128];
        return err_set(ST_INTERNAL, "x is %s, the table %s", shape_format(x, a, sizeof a), shape_format(table, b, sizeof b));
    }
    *out = *x;
    return ST_OK;
}

/* Products are rounded before the sum, as in the papers' code, so vectorising changes nothing. */
WIDE_BODY rotate_body(const float *x, const float *cos_sin, int64_t half, int64_t d, bool interleaved, float *o)
{
    if (interleaved) {
        for (int64_t i = 0; i < half; i++) {
            float a = x[2 * i], b = x[2 * i + 1];
            o[2 * i] = a * cos_sin[i] - b * cos_sin[half + i];
            o[2 * i + 1] = b * cos_sin[i] + a * cos_sin[half + i];
        }
        memcpy(o + 2 * half, x + 2 * half, (size_t)(d - 2 * half) * sizeof(float));
        return;
    }
    const float *cs = cos_sin, *sn = cos_sin + half;
    int64_t i = 0;
    for (; i + WIDE_LANES <= half; i += WIDE_LANES) {
        wide a = WIDE_FROM(x + i), b = WIDE_FROM(x + half + i), c = WIDE_FROM(cs + i), s = WIDE_FROM(sn + i);
        WIDE_AT(o + i) = a * c - b * s;
        WIDE_AT(o + half + i) = b * c + a * s;
    }
    for (; i < half; i++) {
        float a = x[i], b = x[half + i];
        o[i] = a * cs[i] - b * sn[i];
        o[half + i] = b * cs[i] + a * sn[i];
    }
    memcpy(o + 2 * half, x + 2 * half, (size_t)(d - 2 * half) * sizeof(float));
}
WIDE_TWICE(rotate, (const float *x, const float *cos_sin, int64_t half, int64_t d, bool interleaved, float *o), (x, cos_sin, half, d, interleaved, o))

static void ref_rope(const ref_call *c)
{
    int64_t heads = c->out.dim[1], d = c->out.dim[2], rot = c->in[1].dim[1];
    for (int64_t t = 0; t < c->out.dim[0]; t++)
        for (int64_t h = 0; h < heads; h++)
            rotate(c->in[0].f + (t * heads + h) * d, c->in[1].f + t * rot, rot / 2, d, c->n->a.rope.interleaved,
                   c->out.f + (t * heads + h) * d);
}

static void cpu_rope(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t d = c->n->s.dim[2], heads = c->n->s.dim[1], from, to;
    while (cpu_take(c, phase, c->out.rows, 1, &from, &to))
        for (int64_t h = 0; h < heads; h++)
            rotate(c->in[0].f + from * c->in[0].ld + h * d, c->in[1].f + from * c->in[1].ld, c->in[1].cols / 2, d,
                   c->n->a.rope.interleaved, c->out.f + from * c->out.ld + h * d);
}

static void cost_rope(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    double count = op_dim(s, n->s.dim[0]) * (double)shape_cols(&n->s);
    out->flops += 3 * count;
    out->activation_bytes += 8 * count;
}

static tensor case_rope(graph *g, int i, dtype type)
{
    static const int64_t heads[] = { 1, 3, 2 }, dims[] = { 6, 16, 64 };
    if (i >= 6) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, heads[i % 3] * dims[i % 3], AX_HEADS);
    x = graph_add(g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { dims[i % 3] } });
    return graph_add(g, OP_ROPE, (tensor[]){ x, case_table(g, 0, type) }, 2, &(op_attrs){ .rope = { i / 3 } });
}

const op_impl op_rope = { infer_rope, ref_rope, OP_CPU_ALL(cpu_rope), rope_hlo, 1, NULL, NULL, cost_rope, case_rope };
