/* layer_norm(x [.., d], w [d], b [d] or none) eps -> (x - mean(x)) / sqrt(variance(x) + eps) * w + b over the last dimension: of a
 * row, or of each head. Ba et al. 2016, arXiv:1607.06450. The variance is the mean of squares of the differences.
 *
 * Sums have a fixed order on every machine, rms_norm's: 16 lanes, then a fixed tree. */
#include <math.h>

#include "ops/op.h"

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0);
    TRY(op_need_type("x", x, DT_F32));
    for (int i = 1; i < n->n_in; i++) {
        const shape *w = op_in(g, n, i);
        TRY(op_need_rank(n, i == 1 ? "the weight" : "the bias", w, 1));
        if (x->rank >= 2 && w->dim[0] == x->dim[x->rank - 1]) continue;
        char a[128], b[128];
        return err_set(ST_INTERNAL, "x is %s, the %s %s", shape_format(x, a, sizeof a), i == 1 ? "weight" : "bias", shape_format(w, b, sizeof b));
    }
    *out = *x;
    return ST_OK;
}

static void ref(const ref_call *c)
{
    int64_t d = c->out.dim[c->out.rank - 1], rows = ref_count(&c->out) / d;
    for (int64_t r = 0; r < rows; r++) {
        const float *x = c->in[0].f + r * d;
        double mean = 0, var = 0;
        for (int64_t i = 0; i < d; i++) mean += x[i] / (double)d;
        for (int64_t i = 0; i < d; i++) var += (x[i] - mean) * (x[i] - mean) / (double)d;
        double inv = 1 / sqrt(var + c->n->a.layer_norm.eps);
        for (int64_t i = 0; i < d; i++)
            c->out.f[r * d + i] = (float)((x[i] - mean) * inv * c->in[1].f[i] + (op_has_in(c->n, 2) ? c->in[2].f[i] : 0));
    }
}

/* The sum of x, or of squared differences from `mean`. */
static float sum_of(const float *x, int64_t d, bool squares, float mean)
{
    float lane[16] = { 0 };
    for (int64_t i = 0; i < d; i += 16)
        for (int64_t j = 0; j < 16 && i + j < d; j++) {
            float v = x[i + j] - mean;
            lane[j] += squares ? v * v : x[i + j];
        }
    for (int w = 8; w; w /= 2)
        for (int j = 0; j < w; j++) lane[j] += lane[j + w];
    return lane[0];
}

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t d = c->n->s.dim[c->n->s.rank - 1], groups = c->out.cols / d, from, to;
    const float *w = c->in[1].f, *b = op_has_in(c->n, 2) ? c->in[2].f : NULL;
    while (cpu_take(c, phase, c->out.rows, 1, &from, &to))
        for (int64_t j = 0; j < groups; j++) {
            const float *x = c->in[0].f + from * c->in[0].ld + j * d;
            float *o = c->out.f + from * c->out.ld + j * d, mean = sum_of(x, d, false, 0) / (float)d;
            float inv = 1.0f / sqrtf(sum_of(x, d, true, mean) / (float)d + (float)c->n->a.layer_norm.eps);
            for (int64_t i = 0; i < d; i++) o[i] = (x[i] - mean) * inv * w[i] + (b ? b[i] : 0);
        }
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    double count = op_dim(s, n->s.dim[0]) * (double)shape_cols(&n->s);
    out->flops += 8 * count;
    out->activation_bytes += 8 * count;
}

static tensor build_case(graph *g, int i, dtype type)
{
    static const struct { int64_t cols, head; bool bias; } cases[] = { { 16, 0, true }, { 100, 0, false }, { 60, 20, true }, { 1024, 0, true } };
    if (i >= 4) return NO_TENSOR;
    int64_t d = cases[i].head ? cases[i].head : cases[i].cols;
    tensor x = case_input(g, DIM_T, cases[i].cols, AX_EMBED);
    if (cases[i].head) x = graph_add(g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { cases[i].head } });
    tensor in[] = { x, case_weight(g, "w", type, d, 0), cases[i].bias ? case_weight(g, "bias", type, d, 0) : NO_TENSOR };
    return graph_add(g, OP_LAYER_NORM, in, 3, &(op_attrs){ .layer_norm = { 1e-5 } });
}

const op_impl op_layer_norm = { infer, ref, OP_CPU_ALL(cpu), layer_norm_hlo, 1, NULL, NULL, cost, build_case };
