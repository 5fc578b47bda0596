/* Activation functions, alone and gated.
 *
 * glu(gate, up) act -> f(gate) * up: the gated MLP (Shazeer 2020, arXiv:2002.05202), f one of
 *   silu        x / (1 + exp(-x))
 *   gelu_tanh   0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))     (Hendrycks & Gimpel 2016, arXiv:1606.08415)
 *   gelu        x Phi(x), with the error function
 *   swiglu_oai  gpt-oss: g = min(gate, limit), u = max(-limit, min(up, limit)): g / (1 + exp(-alpha g)) * (u + 1)
 * act(x) kind -> f(x): the plain MLP. */
#include <math.h>

#include "ops/glu/glu.h"
#include "ops/op.h"

double act_exact(activation kind, double x)
{
    if (kind == ACT_GELU_TANH) return 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
    if (kind == ACT_GELU) return 0.5 * x * erfc(-x * 0.70710678118654752);
    return x / (1 + exp(-x));
}

double glu_exact(const glu_params *p, double gate, double up)
{
    if (p->act != ACT_SWIGLU_OAI) return act_exact(p->act, gate) * up;
    double limit = p->limit, g = gate > limit ? limit : gate, u = up > limit ? limit : up < -limit ? -limit : up;
    return g / (1 + exp(-g * (double)p->alpha)) * (u + 1);
}

static glu_params params_of(const node *n)
{
    return (glu_params){ (activation)n->a.glu.act, (float)n->a.glu.alpha, (float)n->a.glu.limit };
}

enum { PIECE = 1024 };   /* columns: a single row is work for several threads */

/* ---- glu ---- */

static status infer_glu(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0), *y = op_in(g, n, 1);
    char a[128], b[128];
    TRY(op_need_type("gate", x, DT_F32));
    if (!shape_equal(x, y))
        return err_set(ST_INTERNAL, "gate is %s, up %s", shape_format(x, a, sizeof a), shape_format(y, b, sizeof b));
    if (n->a.glu.act < 0 || n->a.glu.act >= ACT_COUNT) return err_set(ST_INTERNAL, "unknown activation %lld", (long long)n->a.glu.act);
    if (n->a.glu.act == ACT_SWIGLU_OAI && !(n->a.glu.limit > 0)) return err_set(ST_INTERNAL, "limit is %g, expected more than 0", n->a.glu.limit);
    *out = *x;
    return ST_OK;
}

static void ref_glu(const ref_call *c)
{
    glu_params p = params_of(c->n);
    for (int64_t i = 0; i < ref_count(&c->out); i++) c->out.f[i] = (float)glu_exact(&p, c->in[0].f[i], c->in[1].f[i]);
}

static glu_fn *const glu_kernels[ISA_COUNT] = OP_CPU_EACH(glu);

static void cpu_glu(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    glu_params p = params_of(c->n);
    int64_t pieces = (c->out.cols + PIECE - 1) / PIECE, from, to;
    while (cpu_take(c, phase, c->out.rows * pieces, 1, &from, &to)) {
        int64_t r = from / pieces, at = from % pieces * PIECE, n = c->out.cols - at < PIECE ? c->out.cols - at : PIECE;
        glu_kernels[c->isa](&p, c->in[0].f + r * c->in[0].ld + at, c->in[1].f + r * c->in[1].ld + at, c->out.f + r * c->out.ld + at, n);
    }
}

static void cost_glu(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    double count = op_dim(s, n->s.dim[0]) * (double)shape_cols(&n->s);
    out->flops += 16 * count;
    out->activation_bytes += 12 * count;
}

static tensor case_glu(graph *g, int i, dtype type)
{
    static const struct { int64_t width; op_attrs a; } cases[] = {
        { 1, { .glu = { ACT_SILU, 0, 0 } } }, { 16, { .glu = { ACT_SILU, 0, 0 } } }, { 2060, { .glu = { ACT_SILU, 0, 0 } } },
        { 45, { .glu = { ACT_GELU_TANH, 0, 0 } } }, { 45, { .glu = { ACT_GELU, 0, 0 } } },
        { 45, { .glu = { ACT_SWIGLU_OAI, 1.702, 7 } } }, { 33, { .glu = { ACT_SWIGLU_OAI, 1.702, 0.5 } } },
    };
    (void)type;
    if (i >= (int)(sizeof cases / sizeof *cases)) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, 2 * cases[i].width, AX_MLP);
    tensor gate = graph_add(g, OP_SLICE, &x, 1, &(op_attrs){ .slice = { 0, cases[i].width } });
    tensor up = graph_add(g, OP_SLICE, &x, 1, &(op_attrs){ .slice = { cases[i].width, 2 * cases[i].width } });
    return graph_add(g, OP_GLU, (tensor[]){ gate, up }, 2, &cases[i].a);
}

const op_impl op_glu = { infer_glu, ref_glu, OP_CPU_ALL(cpu_glu), glu_hlo, 1, NULL, NULL, cost_glu, case_glu };

/* ---- act ---- */

static status infer_act(const graph *g, const node *n, shape *out)
{
    const shape *x = op_in(g, n, 0);
    TRY(op_need_type("x", x, DT_F32));
    if (n->a.act.kind < 0 || n->a.act.kind >= ACT_SWIGLU_OAI) return err_set(ST_INTERNAL, "no activation of one input: %lld", (long long)n->a.act.kind);
    *out = *x;
    return ST_OK;
}

static void ref_act(const ref_call *c)
{
    for (int64_t i = 0; i < ref_count(&c->out); i++) c->out.f[i] = (float)act_exact((activation)c->n->a.act.kind, c->in[0].f[i]);
}

static act_fn *const act_kernels[ISA_COUNT] = OP_CPU_EACH(act);

static void cpu_act(const cpu_call *c, const cpu_thread *t, int phase)
{
    (void)t;
    int64_t pieces = (c->out.cols + PIECE - 1) / PIECE, from, to;
    while (cpu_take(c, phase, c->out.rows * pieces, 1, &from, &to)) {
        int64_t r = from / pieces, at = from % pieces * PIECE, n = c->out.cols - at < PIECE ? c->out.cols - at : PIECE;
        act_kernels[c->isa]((activation)c->n->a.act.kind, c->in[0].f + r * c->in[0].ld + at, c->out.f + r * c->out.ld + at, n);
    }
}

static void cost_act(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    double count = op_dim(s, n->s.dim[0]) * (double)shape_cols(&n->s);
    out->flops += 15 * count;
    out->activation_bytes += 8 * count;
}

static tensor case_act(graph *g, int i, dtype type)
{
    static const int64_t widths[] = { 1, 31, 2060 };
    (void)type;
    if (i >= 6) return NO_TENSOR;
    tensor x = case_input(g, DIM_T, widths[i % 3], AX_MLP);
    /* far from zero too, where the tails are */
    if (i >= 3) x = graph_add(g, OP_SCALE, &x, 1, &(op_attrs){ .scale = { 12 } });
    return graph_add(g, OP_ACT, &x, 1, &(op_attrs){ .act = { i % 3 } });
}

const op_impl op_act = { infer_act, ref_act, OP_CPU_ALL(cpu_act), act_hlo, 1, NULL, NULL, cost_act, case_act };
