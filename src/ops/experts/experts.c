/* experts(x [T, H], combine [T, E], w_in [E, 2F, H], w_out [E, H, F], bias_in [E, 2F]?, bias_out [E, H]?) -> [T, H]
 *
 *   gate, up = split(x @ w_in[e]^T + bias_in[e])
 *   y = sum over e of combine[:, e] * (act(gate) * up @ w_out[e]^T + bias_out[e])
 * over the experts that a token goes to: combine is 0 for all others, which are not computed. With scale_input an expert's input is
 * multiplied by its weight instead of its output (Llama 4).
 *
 * A mixture of experts (Shazeer et al. 2017, arXiv:1701.06538) with gated MLPs. The kernels are in experts_cpu.c. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "ops/experts/experts.h"
#include "ops/glu/glu.h"

static bool is_experts(const graph *g, const node *n, int i) { return weight_has_experts(graph_node(g, n->in[i])); }

static status check_bias(const graph *g, const node *n, int i, const char *what, const shape *w)
{
    char a[128], b[128];
    if (!op_has_in(n, i)) return ST_OK;
    const shape *s = op_in(g, n, i);
    if (is_experts(g, n, i) && s->rank == 2 && s->dim[0] == w->dim[0] && s->dim[1] == w->dim[1]) return ST_OK;
    return err_set(ST_INTERNAL, "%s is %s, the weight %s", what, shape_format(s, a, sizeof a), shape_format(w, b, sizeof b));
}

static status check_attrs(const node *n, int64_t experts)
{
    int64_t k = n->a.experts.top_k, act = n->a.experts.act;
    if (k < 1 || k > experts || k > EXPERTS_MOST_TOP) return err_set(ST_INTERNAL, "top %lld of %lld experts, at most %d", (long long)k, (long long)experts, EXPERTS_MOST_TOP);
    if (act < 0 || act >= ACT_COUNT) return err_set(ST_INTERNAL, "unknown activation %lld", (long long)act);
    if (act == ACT_SWIGLU_OAI && !(n->a.experts.limit > 0)) return err_set(ST_INTERNAL, "limit is %g, expected more than 0", n->a.experts.limit);
    return ST_OK;
}

static status infer(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, EXPERTS_X), *combine = op_in(g, n, EXPERTS_COMBINE), *in = op_in(g, n, EXPERTS_W_IN), *to = op_in(g, n, EXPERTS_W_OUT);
    const node *w = graph_node(g, n->in[EXPERTS_W_IN]);
    char a[128], b[128];
    TRY(op_need_type("x", x, DT_F32));
    TRY(op_need_rank(n, "x", x, 2));
    TRY(op_need_rank(n, "combine", combine, 2));
    if (!is_experts(g, n, EXPERTS_W_IN) || !is_experts(g, n, EXPERTS_W_OUT) || in->rank != 3 || to->rank != 3)
        return err_set(ST_INTERNAL, "the weights are %s and %s, expected one matrix per expert", shape_format(in, a, sizeof a), shape_format(to, b, sizeof b));
    if (w->a.weight.n_parts != 2 || weight_part_rows(&w->a.weight.parts[0]) != weight_part_rows(&w->a.weight.parts[1]))
        return err_set(ST_INTERNAL, "the inner weight has %lld parts, expected two alike: gate and up", (long long)w->a.weight.n_parts);
    if (in->dim[0] != to->dim[0] || in->dim[1] != 2 * to->dim[2] || in->dim[2] != x->dim[1])
        return err_set(ST_INTERNAL, "the weights are %s and %s: sizes differ", shape_format(in, a, sizeof a), shape_format(to, b, sizeof b));
    int64_t shards = n->a.experts.shards > 1 ? n->a.experts.shards : 1;
    if (combine->dim[0] != x->dim[0] || combine->dim[1] != in->dim[0] * shards)
        return err_set(ST_INTERNAL, "combine is %s, for x %s and %lld experts", shape_format(combine, a, sizeof a), shape_format(x, b, sizeof b), (long long)(in->dim[0] * shards));
    TRY(check_bias(g, n, EXPERTS_BIAS_IN, "the inner bias", in));
    TRY(check_bias(g, n, EXPERTS_BIAS_OUT, "the outer bias", to));
    TRY(check_attrs(n, combine->dim[1]));
    *out = (shape){ DT_F32, 2, { x->dim[0], to->dim[1] }, { x->axes[0], to->axes[1] } };
    return ST_OK;
}

/* One expert's contribution to one token's row. */
static void ref_one(const ref_call *c, int64_t t, int64_t e, double weight, double *sum)
{
    const op_attrs *a = &c->n->a;
    glu_params p = { (activation)a->experts.act, (float)a->experts.alpha, (float)a->experts.limit };
    int64_t k = c->in[EXPERTS_X].dim[1], h = c->out.dim[1], f = c->in[EXPERTS_W_OUT].dim[2];
    const float *x = c->in[EXPERTS_X].f + t * k, *in = c->in[EXPERTS_W_IN].f + e * 2 * f * k, *to = c->in[EXPERTS_W_OUT].f + e * h * f;
    const float *bias_in = op_has_in(c->n, EXPERTS_BIAS_IN) ? c->in[EXPERTS_BIAS_IN].f + e * 2 * f : NULL;
    const float *bias_out = op_has_in(c->n, EXPERTS_BIAS_OUT) ? c->in[EXPERTS_BIAS_OUT].f + e * h : NULL;
    double before = a->experts.scale_input ? weight : 1, after = a->experts.scale_input ? 1 : weight;
    for (int64_t j = 0; j < f; j++) {
        double gate = bias_in ? bias_in[j] : 0, up = bias_in ? bias_in[f + j] : 0;
        for (int64_t i = 0; i < k; i++) {
            gate += before * (double)x[i] * (double)in[j * k + i];
            up += before * (double)x[i] * (double)in[(f + j) * k + i];
        }
        double y = glu_exact(&p, gate, up);
        for (int64_t i = 0; i < h; i++) sum[i] += after * y * (double)to[i * f + j];
    }
    for (int64_t i = 0; bias_out && i < h; i++) sum[i] += after * (double)bias_out[i];
}

static void ref(const ref_call *c)
{
    int64_t experts = c->in[EXPERTS_W_IN].dim[0], all = c->in[EXPERTS_COMBINE].dim[1], h = c->out.dim[1];
    double *sum = mem_array((size_t)h, sizeof *sum);
    for (int64_t t = 0; sum && t < c->out.dim[0]; t++) {
        memset(sum, 0, (size_t)h * sizeof *sum);
        for (int64_t e = 0; e < experts; e++) {
            double weight = c->in[EXPERTS_COMBINE].f[t * all + e];
            if (weight != 0) ref_one(c, t, e, weight, sum);
        }
        for (int64_t i = 0; i < h; i++) c->out.f[t * h + i] = (float)sum[i];
    }
    mem_free(sum);
}

static double weight_bits(const node *w)
{
    quant_scheme s = (quant_scheme)w->a.weight.scheme;
    return s ? quant_bits(s, (double)weight_cols(w)) : (double)dtype_bits(w->s.type);
}

/* Of random routing: m tokens reach some of E experts, each with k of them. Weights are read once per expert that is reached. */
static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    const node *in = graph_node(g, n->in[EXPERTS_W_IN]), *to = graph_node(g, n->in[EXPERTS_W_OUT]);
    double m = op_dim(s, n->s.dim[0]), all = (double)op_in(g, n, EXPERTS_COMBINE)->dim[1], here = (double)weight_experts(in), k = (double)n->a.experts.top_k;
    double h = (double)n->s.dim[1], f = (double)weight_cols(to), pairs = m * k * here / all, reached = here * (1 - pow(1 - k / all, m));
    out->flops += 2 * pairs * 3 * h * f + 16 * pairs * f;
    out->weight_bytes += reached * (2 * f * h * weight_bits(in) + f * h * weight_bits(to)) / 8;
    out->activation_bytes += 4 * (m * h + pairs * (2 * h + 2 * f) + m * h);
}

/* Gate and up (b: the second's name, which may be the first's, rows alternating), or one part. cols 0: vectors. */
static tensor expert_weight(graph *g, const char *a, const char *b, dtype type, int64_t e, int64_t rows, int64_t cols)
{
    bool one = b && strcmp(a, b) == 0;
    axis out = b ? AX_MLP : AX_EMBED, in = !cols ? AX_NONE : b ? AX_EMBED : AX_MLP;
    int64_t total = one ? 2 * rows : rows;
    weight_part parts[2] = { { a, 0, total, total, out, 0, one ? 2 : 0 }, { b, one ? 1 : 0, total, total, out, 0, one ? 2 : 0 } };
    shape s = { type, cols ? 3 : 2, { e, b ? 2 * rows : rows, cols }, { AX_EXPERTS, out, in } };
    return graph_weight(g, b ? ROLE_COL : ROLE_ROW, &s, parts, b ? 2 : 1);
}

/* The first cases' combine is what a router makes, the others' has every expert for every token. */
static tensor build_case(graph *g, int i, dtype type)
{
    static const struct { int64_t e, k, h, f, act; bool bias, routed, scale_input; bool one; int64_t shards; } cases[] = {
        { 8, 3, 64, 44, ACT_SILU, false, true, false, false, 0 }, { 6, 2, 64, 52, ACT_SWIGLU_OAI, true, true, false, true, 0 },
        { 4, 1, 33, 16, ACT_SILU, false, true, true, false, 0 }, { 32, 4, 48, 80, ACT_SILU, false, true, false, false, 0 },
        { 3, 3, 20, 7, ACT_GELU_TANH, true, false, false, false, 0 }, { 1, 1, 1, 1, ACT_GELU, false, false, false, false, 0 },
        { 2, 2, 130, 210, ACT_SILU, false, false, true, false, 0 }, { 8, 3, 32, 24, ACT_SILU, true, true, false, false, 2 } };
    if (i >= 8) return NO_TENSOR;
    int64_t e = cases[i].e, h = cases[i].h, f = cases[i].f, shards = cases[i].shards ? cases[i].shards : 1;
    bool one = cases[i].one;
    if (shards > 1) graph_set_mesh(g, (mesh){ .dp = 1, .tp = 2, .ep = true });
    tensor x = case_input(g, DIM_T, h, AX_EMBED), combine = case_input(g, DIM_T, e, AX_EXPERTS);
    op_attrs r = { .route = { .top_k = cases[i].k, .kind = ROUTE_SOFTMAX_TOPK, .norm = 1, .scale = 1 } };
    if (cases[i].routed) combine = graph_add(g, OP_ROUTE, &combine, 1, &r);
    const char *gate = one ? "experts.gate_up[*]" : "experts.*.gate", *up = one ? gate : "experts.*.up_";
    const char *gate_bias = one ? "experts.gate_up_bias[*]" : "experts.*.gate_bias", *up_bias = one ? gate_bias : "experts.*.up_bias";
    tensor in[6] = { x, combine, expert_weight(g, gate, up, type, e / shards, f, h), expert_weight(g, "experts.*.down_proj", NULL, type, e / shards, h, f) };
    if (cases[i].bias) {
        in[EXPERTS_BIAS_IN] = expert_weight(g, gate_bias, up_bias, type, e / shards, f, 0);
        in[EXPERTS_BIAS_OUT] = expert_weight(g, "experts.*.down_proj_bias", NULL, type, e / shards, h, 0);
    }
    op_attrs a = { .experts = { .top_k = cases[i].k, .act = cases[i].act, .alpha = 1.702, .limit = 0.5, .scale_input = cases[i].scale_input, .shards = cases[i].shards } };
    return graph_add(g, OP_EXPERTS, in, 6, &a);
}

const op_impl op_experts = { infer, ref, OP_CPU_ALL(experts_cpu), experts_hlo, EXPERTS_PHASES, experts_skips, experts_needs, cost, build_case };
