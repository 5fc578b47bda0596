/* scale(x) factor -> x * factor: Gemma's embeddings.
 *
 * scale_by_position(x [T, ...], positions [T]) floor, scale -> x * (1 + scale * log(1 + floor((position + 1) / floor))): Llama 4's
 * queries of layers without rope, sharper the longer the context ("temperature tuning"; Nakanishi 2025, arXiv:2501.19399). */
#include <math.h>

#include "ops/op.h"

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    double count = op_dim(s, n->s.dim[0]) * (double)shape_cols(&n->s);
    out->flops += count;
    out->activation_bytes += 8 * count;
}

static void scale_row(const float *x, float factor, float *restrict o, int64_t n)
{
    for (int64_t i = 0; i < n; i++) o[i] = x[i] * factor;
}

/* ---- scale ---- */

static status infer_scale(const graph *g, const node *n, shape *out)
{
    TRY(op_need_type("x", op_in(g, n, 0), DT_F32));
    if (!isfinite(n->a.scale.factor)) return err_set(ST_INTERNAL, "factor is %g", n->a.scale.factor);
    *out = *op_in(g, n, 0);
    return ST_OK;
}

static void ref_scale(const ref_call *c)
{
    for (int64_t i = 0; i < ref_count(&c->out); i++) c->out.f[i] = (float)(c->in[0].f[i] * c->n->a.scale.factor);
}

static void cpu_scale(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t from, to;
    while (cpu_take(c, phase, c->out.rows, 4, &from, &to))
        for (int64_t r = from; r < to; r++)
            scale_row(c->in[0].f + r * c->in[0].ld, (float)c->n->a.scale.factor, c->out.f + r * c->out.ld, c->out.cols);
}

static tensor case_scale(graph *g, int i, dtype type)
{
    static const int64_t widths[] = { 1, 45 };
    (void)type;
    if (i >= 2) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, widths[i], AX_EMBED);
    return graph_add(g, OP_SCALE, &x, 1, &(op_attrs){ .scale = { i ? 8.125 : -0.3 } });
}

const op_impl op_scale = { infer_scale, ref_scale, OP_CPU_ALL(cpu_scale), scale_hlo, 1, NULL, NULL, cost, case_scale };

/* ---- scale_by_position ---- */

static status infer_by_position(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0), *pos = op_in(g, n, 1);
    TRY(op_need_type("x", x, DT_F32));
    TRY(op_need_type("positions", pos, DT_I32));
    TRY(op_need_rank(n, "positions", pos, 1));
    if (pos->dim[0] != x->dim[0]) return err_set(ST_INTERNAL, "positions are not those of x's rows");
    if (!(n->a.scale_by_position.floor >= 1)) return err_set(ST_INTERNAL, "floor is %g, expected at least 1", n->a.scale_by_position.floor);
    *out = *x;
    return ST_OK;
}

/* In float32 where the models' own code is. */
static float factor_at(const node *n, int32_t pos)
{
    float steps = floorf(((float)pos + 1.0f) / (float)n->a.scale_by_position.floor);
    return (float)log((double)(steps + 1.0f)) * (float)n->a.scale_by_position.scale + 1.0f;
}

static void ref_by_position(const ref_call *c)
{
    int64_t width = ref_count(&c->out) / (c->out.dim[0] ? c->out.dim[0] : 1);
    for (int64_t r = 0; r < c->out.dim[0]; r++)
        for (int64_t i = 0; i < width; i++) c->out.f[r * width + i] = c->in[0].f[r * width + i] * factor_at(c->n, c->in[1].i[r]);
}

static void cpu_by_position(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t from, to;
    while (cpu_take(c, phase, c->out.rows, 1, &from, &to))
        scale_row(c->in[0].f + from * c->in[0].ld, factor_at(c->n, c->in[1].i[from]), c->out.f + from * c->out.ld, c->out.cols);
}

static tensor case_by_position(graph *g, int i, dtype type)
{
    (void)type;
    if (i >= 2) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, 48, AX_HEADS);
    x = graph_add(g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { 16 } });
    op_attrs a = { .scale_by_position = { i ? 7 : 16, 0.1 } };
    return graph_add(g, OP_SCALE_BY_POSITION, (tensor[]){ x, case_ints(g, IN_POSITIONS) }, 2, &a);
}

const op_impl op_scale_by_position = { infer_by_position, ref_by_position, OP_CPU_ALL(cpu_by_position), scale_by_position_hlo, 1, NULL, NULL, cost,
                                       case_by_position };
