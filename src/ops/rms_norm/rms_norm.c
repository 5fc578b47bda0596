/* rms_norm(x [.., d], w [d] or none) eps -> x / sqrt(mean(x^2) + eps) * w over the last dimension: of a row, or of each head.
 * Zhang & Sennrich 2019, arXiv:1910.07467. plus_one: the factor is 1 + w, as Gemma stores its weights.
 *
 * The sum of squares has a fixed order on every machine: 16 lanes (element i goes to lane i mod 16), then a fixed tree;
 * products are rounded before they are added, so vectorising changes nothing. */
#include <math.h>

#include "ops/op.h"
#include "ops/wide.h"

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0), *w = op_has_in(n, 1) ? op_in(g, n, 1) : NULL;
    char a[128], b[128];
    TRY(op_need_type("x", x, DT_F32));
    if (w) TRY(op_need_rank(n, "the weight", w, 1));
    if (x->rank < 2 || (w && w->dim[0] != x->dim[x->rank - 1]))
        return err_set(ST_INTERNAL, "x is %s, the weight %s", shape_format(x, a, sizeof a), w ? shape_format(w, b, sizeof b) : "absent");
    *out = *x;
    return ST_OK;
}

static void ref(const ref_call *c)
{
    int64_t d = c->out.dim[c->out.rank - 1], rows = ref_count(&c->out) / d;
    for (int64_t r = 0; r < rows; r++) {
        const float *x = c->in[0].f + r * d;
        double sum = 0;
        for (int64_t i = 0; i < d; i++) sum += (double)x[i] * x[i];
        double inv = 1 / sqrt(sum / (double)d + c->n->a.rms_norm.eps);
        for (int64_t i = 0; i < d; i++) {
            double w = op_has_in(c->n, 1) ? (double)c->in[1].f[i] + (c->n->a.rms_norm.plus_one ? 1 : 0) : 1;
            c->out.f[r * d + i] = (float)(x[i] * inv * w);
        }
    }
}

static inline __attribute__((always_inline)) float sum_squares(const float *x, int64_t d)
{
    wide a = { 0 }, b = a;
    float lane[16];
    int64_t i = 0;
    for (; i + 16 <= d; i += 16) {
        wide u = WIDE_FROM(x + i), v = WIDE_FROM(x + i + WIDE_LANES);
        a += u * u;
        b += v * v;
    }
    WIDE_AT(lane) = a;
    WIDE_AT(lane + WIDE_LANES) = b;
    for (int j = 0; i + j < d; j++) lane[j] += x[i + j] * x[i + j];
    for (int w = 8; w; w /= 2)
        for (int j = 0; j < w; j++) lane[j] += lane[j + w];
    return lane[0];
}

WIDE_BODY norm_body(const float *x, const float *w, bool plus_one, int64_t d, float eps, float *o)
{
    float inv = 1.0f / sqrtf(sum_squares(x, d) / (float)d + eps), one = plus_one ? 1.0f : 0.0f;
    int64_t i = 0;
    for (; i + WIDE_LANES <= d; i += WIDE_LANES) WIDE_AT(o + i) = w ? WIDE_FROM(x + i) * inv * (one + WIDE_FROM(w + i)) : WIDE_FROM(x + i) * inv;
    for (; i < d; i++) o[i] = w ? x[i] * inv * (one + w[i]) : x[i] * inv;
}
WIDE_TWICE(norm, (const float *x, const float *w, bool plus_one, int64_t d, float eps, float *o), (x, w, plus_one, d, eps, o))

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t d = c->n->s.dim[c->n->s.rank - 1], groups = c->out.cols / d, from, to;
    float eps = (float)c->n->a.rms_norm.eps;
    const float *w = op_has_in(c->n, 1) ? c->in[1].f : NULL;
    while (cpu_take(c, phase, c->out.rows, 1, &from, &to))
        for (int64_t j = 0; j < groups; j++) norm(c->in[0].f + from * c->in[0].ld + j * d, w, c->n->a.rms_norm.plus_one, d, eps, c->out.f + from * c->out.ld + j * d);
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    double count = op_dim(s, n->s.dim[0]) * (double)shape_cols(&n->s);
    out->flops += 4 * count;
    out->activation_bytes += 8 * count;
}

static tensor build_case(graph *g, int i, dtype type)
{
    static const struct { int64_t cols, head; bool plain, plus_one; } cases[] = { { 1, 0, false, false }, { 16, 0, false, false }, { 100, 0, false, false },
        { 64, 16, false, false }, { 60, 20, false, false }, { 1024, 0, false, false }, { 100, 0, false, true }, { 64, 16, false, true }, { 60, 20, true, false } };
    if (i >= 9) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, cases[i].cols, AX_EMBED);
    if (cases[i].head) x = graph_add(g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { cases[i].head } });
    tensor w = cases[i].plain ? NO_TENSOR : case_weight(g, "w", type, cases[i].head ? cases[i].head : cases[i].cols, 0);
    return graph_add(g, OP_RMS_NORM, (tensor[]){ x, w }, 2, &(op_attrs){ .rms_norm = { 1e-5, cases[i].plus_one } });
}

const op_impl op_rms_norm = { infer, ref, OP_CPU_ALL(cpu), rms_norm_hlo, 1, NULL, NULL, cost, build_case };
