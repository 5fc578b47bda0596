/* route(logits [T, E], correction bias [E]?) -> combine [T, E]: the weight of each expert that a token goes to, 0 elsewhere.
 *
 * The choice of experts is made in one function for the reference and the kernels, since a single different choice is another
 * result altogether; ties go to the lower number. What is chosen by, in float32: the logits, or with a correction bias sigmoid +
 * bias (Wang et al. 2024, arXiv:2408.15664). With `groups` (DeepSeek-AI 2024, arXiv:2412.19437) only experts of the groups_kept best
 * groups are taken; a group is as good as its best expert, with a correction bias as its two best together.
 * `norm` divides by the sum of the chosen weights, `scale` multiplies at last. */
#include <float.h>
#include <math.h>

#include "ops/op.h"

enum { LOGITS, BIAS, MOST_EXPERTS = 4096 };

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, LOGITS);
    int64_t e = x->dim[1], k = n->a.route.top_k, kind = n->a.route.kind, groups = n->a.route.groups, kept = n->a.route.groups_kept;
    TRY(op_need_type("logits", x, DT_F32));
    TRY(op_need_rank(n, "logits", x, 2));
    if (e > MOST_EXPERTS) return err_set(ST_UNSUPPORTED, "%lld experts, at most %d are supported", (long long)e, MOST_EXPERTS);
    if (kind < 0 || kind >= ROUTE_KINDS) return err_set(ST_INTERNAL, "unknown kind %lld", (long long)kind);
    if (k < 1 || k > e) return err_set(ST_INTERNAL, "top %lld of %lld experts", (long long)k, (long long)e);
    if (groups && (groups < 1 || e % groups || kept < 1 || kept > groups || kept * (e / groups) < k))
        return err_set(ST_INTERNAL, "%lld of %lld groups of %lld experts, top %lld", (long long)kept, (long long)groups, (long long)e, (long long)k);
    if (op_has_in(n, BIAS) != (kind == ROUTE_SIGMOID_BIAS)) return err_set(ST_INTERNAL, "kind %lld %s a correction bias", (long long)kind, op_has_in(n, BIAS) ? "takes no" : "needs");
    if (op_has_in(n, BIAS) && (op_in(g, n, BIAS)->rank != 1 || op_in(g, n, BIAS)->dim[0] != e)) {
        char a[128];
        return err_set(ST_INTERNAL, "the correction bias is %s for %lld experts", shape_format(op_in(g, n, BIAS), a, sizeof a), (long long)e);
    }
    *out = *x;
    return ST_OK;
}

static float sigmoid(float x) { return (float)(1 / (1 + exp(-(double)x))); }

/* The largest of x[0..n), its place in *at; of equals the first. NaN is larger than nothing. */
static float largest(const float *x, int64_t n, int64_t *at)
{
    float best = -INFINITY;
    *at = 0;
    for (int64_t i = 0; i < n; i++)
        if (x[i] > best) best = x[i], *at = i;
    return best;
}

static float group_score(const float *x, int64_t n, bool two)
{
    int64_t at;
    float first = largest(x, n, &at), second = -INFINITY;
    for (int64_t i = 0; two && i < n; i++)
        if (i != at && x[i] > second) second = x[i];
    return two && n > 1 ? first + second : first;
}

/* Scores of the groups that are not kept become -inf. Groups are few: the best of the rest, again and again. */
static void drop_groups(const node *n, float *score, int64_t e)
{
    int64_t groups = n->a.route.groups, size = groups ? e / groups : 0, left = n->a.route.groups_kept;
    bool keep[MOST_EXPERTS] = { 0 };
    if (!groups) return;
    for (; left > 0; left--) {
        int64_t best = -1;
        float top = -INFINITY;
        for (int64_t i = 0; i < groups; i++) {
            float s = keep[i] ? -INFINITY : group_score(score + i * size, size, n->a.route.kind == ROUTE_SIGMOID_BIAS);
            if (!keep[i] && (best < 0 || s > top)) top = s, best = i;
        }
        keep[best] = true;
    }
    for (int64_t i = 0; i < e; i++)
        if (!keep[i / size]) score[i] = -INFINITY;
}

/* One token. score: room for e floats. */
static void route_token(const node *n, const float *logits, const float *bias, int64_t e, float *score, float *combine)
{
    int64_t kind = n->a.route.kind, best;
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < e; i++) {
        score[i] = bias ? sigmoid(logits[i]) + bias[i] : logits[i];
        combine[i] = 0;
        if ((double)logits[i] > most) most = (double)logits[i];
    }
    if (kind == ROUTE_SOFTMAX_TOPK)
        for (int64_t i = 0; i < e; i++) sum += exp((double)logits[i] - most);
    drop_groups(n, score, e);
    double chosen = 0;
    for (int64_t k = 0; k < n->a.route.top_k; k++) {
        largest(score, e, &best);
        score[best] = -INFINITY;
        double w = kind == ROUTE_SIGMOID || kind == ROUTE_SIGMOID_BIAS ? (double)sigmoid(logits[best]) : exp((double)logits[best] - most);
        if (kind == ROUTE_SOFTMAX_TOPK) w /= sum;
        chosen += w;
        combine[best] = (float)w;
    }
    double by = n->a.route.scale;
    if (n->a.route.norm || kind == ROUTE_TOPK_SOFTMAX) by /= chosen + 1e-20;
    for (int64_t i = 0; i < e; i++)
        if (combine[i] != 0) combine[i] = (float)((double)combine[i] * by);
}

static void ref(const ref_call *c)
{
    int64_t rows = c->out.dim[0], e = c->out.dim[1];
    float score[MOST_EXPERTS];
    for (int64_t t = 0; t < rows; t++)
        route_token(c->n, c->in[LOGITS].f + t * e, op_has_in(c->n, BIAS) ? c->in[BIAS].f : NULL, e, score, c->out.f + t * e);
}

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    int64_t from, to;
    while (cpu_take(c, phase, c->out.rows, 4, &from, &to))
        for (; from < to; from++)
            route_token(c->n, c->in[LOGITS].f + from * c->in[LOGITS].ld, op_has_in(c->n, BIAS) ? c->in[BIAS].f : NULL, c->out.cols, t->scratch,
                        c->out.f + from * c->out.ld);
}

static void needs(const graph *g, const node *n, const op_limits *l, op_needs *out)
{
    (void)g, (void)l;
    out->scratch_bytes = (size_t)n->s.dim[1] * sizeof(float);
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    double count = op_dim(s, n->s.dim[0]) * (double)n->s.dim[1];
    out->flops += count * (double)(8 + n->a.route.top_k);
    out->activation_bytes += 8 * count;
}

static tensor build_case(graph *g, int i, dtype type)
{
    (void)type;
    static const struct { int64_t e, k, kind, norm; double scale; int64_t groups, kept; } cases[] = {
        { 8, 3, ROUTE_SOFTMAX_TOPK, 1, 1, 0, 0 }, { 32, 4, ROUTE_SOFTMAX_TOPK, 0, 1, 0, 0 }, { 6, 2, ROUTE_TOPK_SOFTMAX, 0, 1, 0, 0 },
        { 5, 1, ROUTE_SIGMOID, 0, 1, 0, 0 }, { 16, 4, ROUTE_SIGMOID_BIAS, 1, 2.5, 4, 2 }, { 10, 4, ROUTE_SIGMOID_BIAS, 1, 1, 0, 0 },
        { 384, 8, ROUTE_SIGMOID_BIAS, 0, 2.827, 0, 0 }, { 12, 3, ROUTE_SOFTMAX_TOPK, 0, 16, 3, 2 }, { 1, 1, ROUTE_TOPK_SOFTMAX, 0, 1, 0, 0 } };
    if (i >= 9) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, cases[i].e, AX_EXPERTS);
    tensor in[] = { x, cases[i].kind == ROUTE_SIGMOID_BIAS ? case_weight(g, "correction", DT_F32, cases[i].e, 0) : NO_TENSOR };
    op_attrs a = { .route = { cases[i].k, cases[i].kind, cases[i].norm, cases[i].scale, cases[i].groups, cases[i].kept } };
    return graph_add(g, OP_ROUTE, in, 2, &a);
}

const op_impl op_route = { infer, ref, OP_CPU_ALL(cpu), route_hlo, 1, NULL, needs, cost, build_case };
