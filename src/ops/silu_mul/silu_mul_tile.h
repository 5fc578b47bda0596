/* The kernel's body: see ops/vec.h. */
#include <string.h>

VEC_INLINE V silu_mul_one(V g, V u)
{
    V e = v_exp(v_sub(v_zero(), g));
    return v_mul(v_div(g, v_add(v_set1(1.0f), e)), u);
}

VEC_INLINE void silu_mul_body(const float *gate, const float *up, float *out, int64_t n)
{
    int64_t i = 0;
    for (; i + VW <= n; i += VW) v_store(out + i, silu_mul_one(v_load(gate + i), v_load(up + i)));
    if (i == n) return;
    float g[VW] = { 0 }, u[VW] = { 0 };
    memcpy(g, gate + i, (size_t)(n - i) * sizeof(float));
    memcpy(u, up + i, (size_t)(n - i) * sizeof(float));
    v_store(g, silu_mul_one(v_load(g), v_load(u)));
    memcpy(out + i, g, (size_t)(n - i) * sizeof(float));
}
