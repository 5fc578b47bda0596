/* glu and act as StableHLO: in f32, rounded to the activations' type once. */
#include "ops/glu/glu.h"
#include "ops/op.h"

static hlo_val constant(hlo *h, double v, hlo_val like) { return hlo_full_like(h, hlo_float(h, DT_F32, v), like); }

/* x times sigmoid(y) */
static hlo_val gated(hlo *h, hlo_val x, hlo_val y) { return hlo_bin(h, "multiply", x, hlo_un(h, "logistic", y)); }

/* 0.5 x (1 + tanh(u)) = x sigmoid(2u) */
static hlo_val gelu_tanh(hlo *h, hlo_val x)
{
    hlo_val cube = hlo_bin(h, "multiply", hlo_bin(h, "multiply", x, x), x);
    hlo_val u = hlo_bin(h, "add", x, hlo_bin_scalar(h, "multiply", cube, 0.044715));
    return gated(h, x, hlo_bin_scalar(h, "multiply", u, 1.5957691216057308));
}

/* x Phi(x), by the same formula as the CPU's kernel: StableHLO has no error function. */
static hlo_val gelu(hlo *h, hlo_val x)
{
    static const double p[] = { 1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592 };
    hlo_val z = hlo_bin_scalar(h, "multiply", hlo_un(h, "abs", x), 0.70710678118654752);
    hlo_val t = hlo_bin(h, "divide", constant(h, 1, z), hlo_bin_scalar(h, "add", hlo_bin_scalar(h, "multiply", z, 0.3275911), 1));
    hlo_val sum = hlo_bin_scalar(h, "multiply", t, p[0]);
    for (int i = 1; i < 5; i++) sum = hlo_bin(h, "multiply", hlo_bin_scalar(h, "add", sum, p[i]), t);
    hlo_val tail = hlo_bin(h, "multiply", sum, hlo_un(h, "exponential", hlo_un(h, "negate", hlo_bin(h, "multiply", z, z))));
    tail = hlo_bin(h, "multiply", hlo_bin_scalar(h, "multiply", z, 0.70710678118654752), tail);
    return hlo_bin(h, "subtract", hlo_bin_scalar(h, "maximum", x, 0), tail);
}

static hlo_val activated(hlo *h, activation kind, hlo_val x)
{
    if (kind == ACT_GELU_TANH) return gelu_tanh(h, x);
    return kind == ACT_GELU ? gelu(h, x) : gated(h, x, x);
}

hlo_val hlo_glu(hlo *h, activation act, double alpha, double limit, hlo_val gate, hlo_val up)
{
    if (act != ACT_SWIGLU_OAI) {
        gate = activated(h, act, gate);
    } else {
        gate = hlo_bin_scalar(h, "minimum", gate, limit);
        gate = gated(h, gate, hlo_bin_scalar(h, "multiply", gate, alpha));
        up = hlo_bin_scalar(h, "maximum", hlo_bin_scalar(h, "minimum", up, limit), -limit);
        up = hlo_bin_scalar(h, "add", up, 1);
    }
    return hlo_bin(h, "multiply", gate, up);
}

hlo_val glu_hlo(hlo_call *c)
{
    hlo *h = c->h;
    hlo_val gate = hlo_convert(h, c->in[0], DT_F32), up = hlo_convert(h, c->in[1], DT_F32);
    return hlo_convert(h, hlo_glu(h, (activation)c->n->a.glu.act, c->n->a.glu.alpha, c->n->a.glu.limit, gate, up), c->step->act);
}

hlo_val act_hlo(hlo_call *c)
{
    hlo *h = c->h;
    return hlo_convert(h, activated(h, (activation)c->n->a.act.kind, hlo_convert(h, c->in[0], DT_F32)), c->step->act);
}
