/* The passes of row.h in GCC's vector notation. Included by row_portable.c and row_avx2.c with ROW_OPS and ROW_NAME defined. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "engine/row.h"

#pragma GCC diagnostic ignored "-Wpsabi" /* the vectors never cross a call */

enum { LANES = 8 };
typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef double vd __attribute__((vector_size(LANES / 2 * 8)));
typedef float vh __attribute__((vector_size(LANES / 2 * 4)));

#define INLINE static inline __attribute__((always_inline))

INLINE vf splat(float x) { return x - (vf){0}; }
INLINE vf load(const float *p) { vf v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE vf pick(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
INLINE vi picki(vi mask, vi a, vi b) { return (a & mask) | (b & ~mask); }
INLINE vf vmax(vf a, vf b) { return pick(b > a, b, a); } /* keeps a when b is NaN */

/* The last n < LANES values, padded. */
INLINE vf load_tail(const float *p, size_t n, float pad)
{
    vf v = splat(pad);
    float t[LANES];
    memcpy(t, &v, sizeof t);
    for (size_t i = 0; i < n; i++) t[i] = p[i];
    memcpy(&v, t, sizeof v);
    return v;
}

INLINE float reduce_max(vf v)
{
    float m = v[0];
    for (int i = 1; i < LANES; i++) m = v[i] > m ? v[i] : m;
    return m;
}

/* Sums of float lanes in double, in two registers of half the lanes each. */
typedef struct sums { vd lo, hi; } sums;
INLINE void add_lanes(sums *s, vf v)
{
    vh half[2];
    memcpy(half, &v, sizeof v);
    s->lo += __builtin_convertvector(half[0], vd);
    s->hi += __builtin_convertvector(half[1], vd);
}
INLINE double reduce_sum(sums s) { return ((s.lo[0] + s.lo[1]) + (s.lo[2] + s.lo[3])) + ((s.hi[0] + s.hi[1]) + (s.hi[2] + s.hi[3])); }

/* exp for x <= 0 (0 below -87), relative error about 1e-7. Cephes' polynomial. */
INLINE vf vexp(vf x)
{
    const vf magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vi live = x > splat(-87.0f);
    x = pick(live, x, splat(0));
    vf n = (x * 1.44269504088896341f + magic) - magic;
    vf r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vi e = __builtin_convertvector(n, vi);
    vf scaled = (vf)((vi)p + (e << 23));
    return (vf)((vi)scaled & live);
}

/* -log(1 - v) for 0 < v < 1, exact for small v too. Cephes' polynomial. */
INLINE vf neg_log_1m(vf v)
{
    vf u = 1.0f - v;
    vi e = ((vi)u - 0x3F3504F3) >> 23;
    vf m = (vf)((vi)u - (e << 23)); /* in [sqrt(1/2), sqrt(2)) */
    vf r = m - 1.0f;
    vi small = v < splat(0.29f);
    r = pick(small, -v, r);
    vf fe = __builtin_convertvector(e & ~small, vf);
    vf z = r * r;
    vf p = r * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * r + 1.1676998740e-1f;
    p = p * r - 1.2420140846e-1f;
    p = p * r + 1.4249322787e-1f;
    p = p * r - 1.6668057665e-1f;
    p = p * r + 2.0000714765e-1f;
    p = p * r - 2.4999993993e-1f;
    p = p * r + 3.3333331174e-1f;
    p = p * r * z;
    p = p + fe * -2.12194440e-4f;
    p = p - z * 0.5f;
    return -((r + p) + fe * 0.693359375f);
}

/* A uniform number in (0, 1) from key and token: two rounds of a 32-bit finaliser with the key's halves in between. */
INLINE vf uniform(vu id, uint32_t k0, uint32_t k1)
{
    vu x = id * 0x9E3779B1u + k0;
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    x ^= x >> 16;
    x += k1;
    x ^= x >> 16;
    x *= 0x85EBCA6Bu;
    x ^= x >> 13;
    x *= 0xC2B2AE35u;
    x ^= x >> 16;
    vf v = (__builtin_convertvector((vi)(x >> 1), vf) + 0.5f) * 0x1p-31f;
    return pick(v < splat(0x1.fffffep-1f), v, splat(0x1.fffffep-1f));
}

static float row_max(const float *x, size_t n)
{
    vf a = splat(-INFINITY), b = a, c = a, d = a;
    size_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        a = vmax(a, load(x + i));
        b = vmax(b, load(x + i + LANES));
        c = vmax(c, load(x + i + 2 * LANES));
        d = vmax(d, load(x + i + 3 * LANES));
    }
    for (; i + LANES <= n; i += LANES) a = vmax(a, load(x + i));
    if (i < n) a = vmax(a, load_tail(x + i, n - i, -INFINITY));
    return reduce_max(vmax(vmax(a, b), vmax(c, d)));
}

static size_t row_argmax(const float *x, size_t n)
{
    enum { BLOCK = 1024 };
    float best = -INFINITY;
    size_t at = 0;
    for (size_t i = 0; i < n; i += BLOCK) {
        const size_t len = n - i < BLOCK ? n - i : BLOCK;
        const float m = row_max(x + i, len);
        if (!(m > best)) continue;
        best = m;
        at = i;
    }
    for (size_t i = at; i < n; i++)
        if (x[i] == best) return i;
    return 0;
}

static float row_divide(float *x, size_t n, float by)
{
    vf m = splat(-INFINITY);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf v = load(x + i) / by;
        store(x + i, v);
        m = vmax(m, v);
    }
    float best = reduce_max(m);
    for (; i < n; i++) {
        x[i] /= by;
        if (x[i] > best) best = x[i];
    }
    return best;
}

static void row_shift(float *x, size_t n, float a, float b)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) store(x + i, load(x + i) - a - b);
    for (; i < n; i++) x[i] = x[i] - a - b;
}

static void row_ban_below(float *x, size_t n, float v)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf y = load(x + i);
        store(x + i, pick(y < splat(v), splat(-INFINITY), y));
    }
    for (; i < n; i++)
        if (x[i] < v) x[i] = -INFINITY;
}

static double row_sum_exp(const float *x, size_t n, float max)
{
    sums sum = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) add_lanes(&sum, vexp(load(x + i) - max));
    if (i < n) add_lanes(&sum, vexp(load_tail(x + i, n - i, -INFINITY) - max));
    return reduce_sum(sum);
}

static double row_exps(const float *x, size_t n, float max, float *out)
{
    sums sum = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf e = vexp(load(x + i) - max);
        store(out + i, e);
        add_lanes(&sum, e);
    }
    if (i < n) {
        vf e = vexp(load_tail(x + i, n - i, -INFINITY) - max);
        for (size_t j = i; j < n; j++) out[j] = e[j - i];
        add_lanes(&sum, e);
    }
    return reduce_sum(sum);
}

static size_t row_count_ge(const float *x, size_t n, float v)
{
    vi count = {0};
    size_t i = 0, total = 0;
    for (; i + LANES <= n; i += LANES) count -= load(x + i) >= splat(v);
    for (int l = 0; l < LANES; l++) total += (size_t)count[l];
    for (; i < n; i++) total += x[i] >= v;
    return total;
}

/* Few values pass as a rule: blocks without any are skipped by their maximum. */
static size_t row_collect_ge(const float *x, size_t n, float v, float *vals, int32_t *ids)
{
    enum { BLOCK = 8 * LANES };
    size_t k = 0;
    for (size_t i = 0; i < n; i += BLOCK) {
        const size_t len = n - i < BLOCK ? n - i : BLOCK;
        if (!(row_max(x + i, len) >= v)) continue;
        for (size_t j = i; j < i + len; j++) {
            vals[k] = x[j];
            ids[k] = (int32_t)j;
            k += x[j] >= v;
        }
    }
    return k;
}

static void row_group_max(const float *x, size_t n, float *out, size_t n_groups)
{
    for (size_t g = 0; g < n_groups; g++) out[g] = -INFINITY;
    size_t i = 0;
    for (; i + n_groups <= n; i += n_groups)
        for (size_t g = 0; g < n_groups; g += LANES) store(out + g, vmax(load(out + g), load(x + i + g)));
    for (size_t g = 0; i + g < n; g++)
        if (x[i + g] > out[g]) out[g] = x[i + g];
}

INLINE vf race_score(vf x, vi id, float max, uint64_t key)
{
    return vexp(x - max) / neg_log_1m(uniform((vu)id, (uint32_t)key, (uint32_t)(key >> 32)));
}

typedef struct leader { vf score; vi at; } leader;

INLINE void race_step(leader *l, vf x, vi at, vi id, float max, uint64_t key)
{
    vf s = race_score(x, id, max, key);
    s = pick(x > splat(-INFINITY), s, splat(-1)); /* banned tokens, padding and NaN never win */
    vi better = s > l->score;
    l->score = pick(better, s, l->score);
    l->at = picki(better, at, l->at);
}

/* True where none of 32 tokens from x on can reach `best`. Both bounds of a score are cheap: exp(d) is at most what linear interpolation
 * between powers of two gives, which is what the bits of a float are; -log(1 - v) is at least v. A thousandth covers all rounding. */
INLINE bool none_can_win(const float *x, int32_t first, float max, uint64_t key, float best)
{
    const vi lanes = { 0, 1, 2, 3, 4, 5, 6, 7 };
    vi any = {0};
    for (int j = 0; j < 4; j++) {
        vf d = load(x + j * LANES) - max;
        d = pick(d > splat(-87.0f), d, splat(-87.0f));
        vf top = (vf)(__builtin_convertvector(d * (1.44269504088896341f * 0x1p23f), vi) + (127 << 23));
        vf v = uniform((vu)(lanes + first + j * LANES), (uint32_t)key, (uint32_t)(key >> 32));
        any |= top * 1.001f >= v * best;
    }
    uint64_t part[LANES / 2];
    memcpy(part, &any, sizeof part);
    return (part[0] | part[1] | part[2] | part[3]) == 0;
}

static size_t row_race(const float *x, const int32_t *ids, size_t n, float max, uint64_t key)
{
    const vi lanes = { 0, 1, 2, 3, 4, 5, 6, 7 };
    leader l = { splat(-1), {0} };
    size_t i = 0;
    if (ids) {
        for (; i + LANES <= n; i += LANES) {
            vi id;
            memcpy(&id, ids + i, sizeof id);
            race_step(&l, load(x + i), lanes + (int32_t)i, id, max, key);
        }
    } else {
        for (float best = -1; i + 4 * LANES <= n; i += 4 * LANES) {
            if (best > 0 && none_can_win(x + i, (int32_t)i, max, key, best)) continue;
            for (size_t j = i; j < i + 4 * LANES; j += LANES) race_step(&l, load(x + j), lanes + (int32_t)j, lanes + (int32_t)j, max, key);
            best = reduce_max(l.score);
        }
        for (; i + LANES <= n; i += LANES) race_step(&l, load(x + i), lanes + (int32_t)i, lanes + (int32_t)i, max, key);
    }
    if (i < n) {
        int32_t tail[LANES] = {0};
        for (size_t j = i; j < n; j++) tail[j - i] = ids ? ids[j] : (int32_t)j;
        vi id;
        memcpy(&id, tail, sizeof id);
        race_step(&l, load_tail(x + i, n - i, -INFINITY), lanes + (int32_t)i, id, max, key);
    }
    size_t w = 0;
    for (int k = 1; k < LANES; k++)
        if (l.score[k] > l.score[w] || (l.score[k] == l.score[w] && l.at[k] < l.at[w])) w = (size_t)k;
    return (size_t)l.at[w];
}

const row_ops ROW_OPS = {
    .name = ROW_NAME, .max = row_max, .argmax = row_argmax, .divide = row_divide, .shift = row_shift, .ban_below = row_ban_below, .sum_exp = row_sum_exp,
    .exps = row_exps, .count_ge = row_count_ge, .collect_ge = row_collect_ge, .group_max = row_group_max, .race = row_race,
};
