/* The kernel's body: see ops/vec.h. */
#include <math.h>
#include <string.h>

/* Elements behind the last whole 16, the rest zero. */
VEC_INLINE const float *padded(const float *x, int64_t n, float room[VEC_LANES])
{
    memset(room, 0, VEC_LANES * sizeof *room);
    memcpy(room, x, (size_t)n * sizeof *room);
    return room;
}

VEC_INLINE void dot_16(const float *a, const float *b, V sum[NV])
{
    for (int j = 0; j < NV; j++) sum[j] = v_fma(v_load(a + j * VW), v_load(b + j * VW), sum[j]);
}

VEC_INLINE float dot(const float *a, const float *b, int64_t n)
{
    float lane[VEC_LANES], ra[VEC_LANES], rb[VEC_LANES];
    V sum[NV];
    int64_t i = 0;
    for (int j = 0; j < NV; j++) sum[j] = v_zero();
    for (; i + VEC_LANES <= n; i += VEC_LANES) dot_16(a + i, b + i, sum);
    if (i < n) dot_16(padded(a + i, n - i, ra), padded(b + i, n - i, rb), sum);
    for (int j = 0; j < NV; j++) v_store(lane + j * VW, sum[j]);
    for (int w = VEC_LANES / 2; w; w /= 2)
        for (int j = 0; j < w; j++) lane[j] += lane[j + w];
    return lane[0];
}

VEC_INLINE void add_16(float p, const float *v, float *o)
{
    for (int j = 0; j < NV; j++) v_store(o + j * VW, v_fma(v_set1(p), v_load(v + j * VW), v_load(o + j * VW)));
}

/* o += p v */
VEC_INLINE void add_value(float p, const float *v, float *o, int64_t n)
{
    float rv[VEC_LANES], ro[VEC_LANES];
    int64_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES) add_16(p, v + i, o + i);
    if (i == n) return;
    (void)padded(o + i, n - i, ro);
    add_16(p, padded(v + i, n - i, rv), ro);
    memcpy(o + i, ro, (size_t)(n - i) * sizeof *o);
}

VEC_INLINE void query_body(const segment_query *s)
{
    float most = -INFINITY, sum = 0;
    int64_t n16 = (s->n + VEC_LANES - 1) / VEC_LANES * VEC_LANES;
    for (int64_t j = 0; j < n16; j++) {
        s->score[j] = j < s->n && s->seg[j * s->seg_ld] == s->mine ? dot(s->q, s->k + j * s->k_ld, s->d) * s->scale : -INFINITY;
        if (s->score[j] > most) most = s->score[j];
    }
    for (int64_t j = 0; j < n16; j += VEC_LANES) {
        float e[VEC_LANES];
        for (int i = 0; i < NV; i++) v_store(e + i * VW, v_exp(v_sub(v_load(s->score + j + i * VW), v_set1(most))));
        for (int i = 0; i < VEC_LANES; i++) sum += s->score[j + i] = s->score[j + i] == -INFINITY ? 0 : e[i];
    }
    memset(s->out, 0, (size_t)s->d * sizeof *s->out);
    for (int64_t j = 0; j < s->n; j++)
        if (s->score[j] != 0) add_value(s->score[j] / sum, s->v + j * s->v_ld, s->out, s->d);
}
