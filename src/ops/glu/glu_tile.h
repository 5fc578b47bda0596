/* The kernels' bodies: see ops/vec.h. */
#include <string.h>

/* x / (1 + exp(-y)) */
VEC_INLINE V act_gated(V x, V y) { return v_div(x, v_add(v_set1(1.0f), v_exp(v_sub(v_zero(), y)))); }

/* 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3) */
VEC_INLINE V act_gelu_tanh(V x)
{
    V cube = v_mul(v_mul(x, x), x);
    return act_gated(x, v_mul(v_set1(0x1.988454p+0f), v_fma(cube, v_set1(0.044715f), x)));
}

/* x Phi(x) by the tail of the normal distribution: Abramowitz & Stegun 7.1.26, within 1.5e-7. */
VEC_INLINE V act_gelu(V x)
{
    V z = v_mul(v_max(x, v_sub(v_zero(), x)), v_set1(0x1.6a09e6p-1f));         /* |x| / sqrt 2 */
    V t = v_div(v_set1(1.0f), v_fma(z, v_set1(0.3275911f), v_set1(1.0f)));
    V p = v_fma(t, v_set1(1.061405429f), v_set1(-1.453152027f));
    p = v_fma(p, t, v_set1(1.421413741f));
    p = v_fma(p, t, v_set1(-0.284496736f));
    p = v_fma(p, t, v_set1(0.254829592f));
    V tail = v_mul(v_mul(p, t), v_exp(v_sub(v_zero(), v_mul(z, z))));            /* 1 - erf(z) */
    V most = v_max(x, v_zero());                                                /* x + |x| over 2 */
    return v_sub(most, v_mul(v_mul(v_set1(0x1.6a09e6p-1f), z), tail));          /* |x| / 2 = z / sqrt 2 */
}

VEC_INLINE V act_one(activation kind, V x)
{
    if (kind == ACT_GELU_TANH) return act_gelu_tanh(x);
    return kind == ACT_GELU ? act_gelu(x) : act_gated(x, x);
}

VEC_INLINE V glu_one(const glu_params *p, activation kind, V gate, V up)
{
    if (kind != ACT_SWIGLU_OAI) return v_mul(act_one(kind, gate), up);
    V most = v_set1(p->limit), least = v_set1(-p->limit);
    gate = v_min(most, gate);
    up = v_max(least, v_min(most, up));
    return v_mul(act_gated(gate, v_mul(gate, v_set1(p->alpha))), v_add(up, v_set1(1.0f)));
}

VEC_INLINE void glu_of(const glu_params *p, activation kind, const float *gate, const float *up, float *out, int64_t n)
{
    int64_t i = 0;
    for (; i + VW <= n; i += VW) v_store(out + i, glu_one(p, kind, v_load(gate + i), v_load(up + i)));
    if (i == n) return;
    float g[VW] = { 0 }, u[VW] = { 0 };
    memcpy(g, gate + i, (size_t)(n - i) * sizeof(float));
    memcpy(u, up + i, (size_t)(n - i) * sizeof(float));
    v_store(g, glu_one(p, kind, v_load(g), v_load(u)));
    memcpy(out + i, g, (size_t)(n - i) * sizeof(float));
}

/* The kind is a constant inside each loop. */
VEC_INLINE void glu_body(const glu_params *p, const float *gate, const float *up, float *out, int64_t n)
{
    switch (p->act) {
    case ACT_GELU_TANH: glu_of(p, ACT_GELU_TANH, gate, up, out, n); break;
    case ACT_GELU: glu_of(p, ACT_GELU, gate, up, out, n); break;
    case ACT_SWIGLU_OAI: glu_of(p, ACT_SWIGLU_OAI, gate, up, out, n); break;
    default: glu_of(p, ACT_SILU, gate, up, out, n);
    }
}

VEC_INLINE void act_of(activation kind, const float *x, float *out, int64_t n)
{
    int64_t i = 0;
    for (; i + VW <= n; i += VW) v_store(out + i, act_one(kind, v_load(x + i)));
    if (i == n) return;
    float g[VW] = { 0 };
    memcpy(g, x + i, (size_t)(n - i) * sizeof(float));
    v_store(g, act_one(kind, v_load(g)));
    memcpy(out + i, g, (size_t)(n - i) * sizeof(float));
}

VEC_INLINE void act_body(activation kind, const float *x, float *out, int64_t n)
{
    switch (kind) {
    case ACT_GELU_TANH: act_of(ACT_GELU_TANH, x, out, n); break;
    case ACT_GELU: act_of(ACT_GELU, x, out, n); break;
    default: act_of(ACT_SILU, x, out, n);
    }
}
