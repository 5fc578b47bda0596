/* From scores to weights, and merging partial results: the part of the kernels' bodies that does not depend on how numbers of the
 * cache are multiplied. Included after ops/vec.h. */
#include <math.h>
#include <string.h>

#define TILE VEC_INLINE

/* Fetches into the second level: the first can wait for a few lines at once only, which would limit what is read. */
#define FETCH(p) __builtin_prefetch((p), 0, 2)

/* How many of `left` rows come next: a last short tile is avoided by halving the last two. */
TILE int next_rows(int left, int most) { return left >= 2 * most || left == most ? most : left > most ? (left + 1) / 2 : left; }
/* tanh(x) to about 1e-7, as exp gives it; +-1 beyond what exp takes. */
TILE V tanh_of(V x)
{
    V e = v_exp(v_add(x, x)), one = v_set1(1.0f);
    return v_sub(one, v_div(v_set1(2.0f), v_add(e, one)));
}

TILE void cap_row(const attn_tile *t, float *s, int lo, int hi)
{
    if (t->softcap == 0) return;
    V cap = v_set1(t->softcap);
    for (int j = lo / VEC_LANES * VEC_LANES; j < hi; j += VW) v_store(s + j, v_mul(tanh_of(v_div(v_load(s + j), cap)), cap));
}

/* Scores of a row to weights exp(s - max), zero where the row does not see. Returns the greatest score and the sum. */
TILE void softmax_row(float *s, int lo, int hi, float *max_out, float *sum_out)
{
    int g0 = lo / VEC_LANES * VEC_LANES, g1 = (hi + VEC_LANES - 1) / VEC_LANES * VEC_LANES;
    for (int j = g0; j < lo; j++) s[j] = -INFINITY;
    for (int j = hi; j < g1; j++) s[j] = -INFINITY;
    V m = v_set1(-INFINITY);
    for (int j = g0; j < g1; j += VW) m = v_max(v_load(s + j), m);
    float lane[VEC_LANES];
    v_store(lane, m);
    float max = lane[0];
    for (int i = 1; i < VW; i++) max = lane[i] > max ? lane[i] : max;
    m = v_set1(max);
    for (int j = g0; j < g1; j += VW) v_store(s + j, v_exp(v_sub(v_load(s + j), m)));
    for (int j = g0; j < lo; j++) s[j] = 0;
    for (int j = hi; j < g1; j++) s[j] = 0;
    V sum[NV];
    for (int i = 0; i < NV; i++) sum[i] = v_zero();
    for (int j = g0; j < g1; j += VEC_LANES)
        for (int i = 0; i < NV; i++) sum[i] = v_add(sum[i], v_load(s + j + i * VW));
    for (int i = 0; i < NV; i++) v_store(lane + i * VW, sum[i]);
    for (int w = 8; w; w /= 2)
        for (int i = 0; i < w; i++) lane[i] += lane[i + w];
    *max_out = max;
    *sum_out = lane[0];
}

/* Weights of a row times the factors of what they will weigh. */
TILE void weigh_row(const attn_tile *t, float *s, int lo, int hi)
{
    if (!t->scaled && t->v_scale == 1) return;
    V all = v_set1(t->v_scale);
    for (int j = lo / VEC_LANES * VEC_LANES; j < hi; j += VW)
        v_store(s + j, v_mul(v_load(s + j), t->scaled ? v_mul(v_load(t->vs[j / VEC_LANES] + j % VEC_LANES), all) : all));
}

/* exp of one number with the vectors' bits. */
TILE float exp_one(float x)
{
    float lane[VEC_LANES];
    v_store(lane, v_exp(v_set1(x)));
    return lane[0];
}

/* The factors that bring an old state and a part to their common maximum. */
TILE void merge_scalars(float *m, float *l, float pm, float pl, float *old_factor, float *part_factor)
{
    float max = *m > pm ? *m : pm;
    *old_factor = exp_one(*m - max);
    *part_factor = exp_one(pm - max);
    *l = fmaf(pl, *part_factor, *l * *old_factor);
    *m = max;
}

/* What a part's merging needs of each row. */
typedef struct pv_factors { float old_f[ATTN_ROWS], part_f[ATTN_ROWS]; } pv_factors;

/* All rows' scores to weights; their states' greatest score and sum follow. */
TILE void weigh_rows(const attn_tile *t, pv_factors *f)
{
    for (int r = 0; r < t->rows; r++) {
        if (t->hi[r] <= t->lo[r]) continue;
        float m, l;
        cap_row(t, t->s + r * ATTN_PART, t->lo[r], t->hi[r]);
        softmax_row(t->s + r * ATTN_PART, t->lo[r], t->hi[r], &m, &l);
        weigh_row(t, t->s + r * ATTN_PART, t->lo[r], t->hi[r]);
        f->old_f[r] = f->part_f[r] = 1;
        if (t->empty[r]) {
            t->state.m[r] = m;
            t->state.l[r] = l;
        } else {
            merge_scalars(&t->state.m[r], &t->state.l[r], m, l, &f->old_f[r], &f->part_f[r]);
        }
    }
}

/* Keys of the part that some row sees. */
TILE bool seen_of_part(const attn_tile *t, int *lo, int *hi)
{
    *lo = ATTN_PART, *hi = 0;
    for (int r = 0; r < t->rows; r++) {
        if (t->hi[r] <= t->lo[r]) continue;
        *lo = t->lo[r] < *lo ? t->lo[r] : *lo;
        *hi = t->hi[r] > *hi ? t->hi[r] : *hi;
    }
    return *hi > *lo;
}

static void attn_merge(float *m, float *l, float *acc, float pm, float pl, const float *pacc, int64_t dp)
{
    float a, b;
    merge_scalars(m, l, pm, pl, &a, &b);
    V va = v_set1(a), vb = v_set1(b);
    for (int64_t i = 0; i < dp; i += VW) v_store(acc + i, v_fma(v_load(pacc + i), vb, v_mul(v_load(acc + i), va)));
}

static void attn_finish(const float *acc, float l, float *out, int64_t d)
{
    float inv = 1.0f / l;
    V by = v_set1(inv);
    int64_t i = 0;
    for (; i + VW <= d; i += VW) v_store(out + i, v_mul(v_load(acc + i), by));
    for (; i < d; i++) out[i] = acc[i] * inv;
}

/* Of R rows from `row` on: keys of the part that some of them see, [lo, hi), and that all do, [lo_all, hi_all), if there are any. */
typedef struct seen { int lo, lo_all, hi_all, hi; } seen;

TILE seen seen_by(const int R, const attn_tile *t, int row)
{
    seen s = { ATTN_PART, 0, ATTN_PART, 0 };
    for (int r = row; r < row + R; r++) {
        if (t->hi[r] <= t->lo[r]) { s.hi_all = 0; continue; }
        s.lo = t->lo[r] < s.lo ? t->lo[r] : s.lo;
        s.lo_all = t->lo[r] > s.lo_all ? t->lo[r] : s.lo_all;
        s.hi = t->hi[r] > s.hi ? t->hi[r] : s.hi;
        s.hi_all = t->hi[r] < s.hi_all ? t->hi[r] : s.hi_all;
    }
    return s;
}

/* A part's weighted values of R rows, N vectors from column col on, into the rows' states. */
TILE void merge_tile(const int R, const int N, const attn_tile *t, int row, int64_t col, const pv_factors *f, V acc[8][4 * NV])
{
    VEC_UNROLL for (int r = 0; r < R; r++) {
        if (t->hi[row + r] <= t->lo[row + r]) continue;
        float *out = t->state.acc + (row + r) * t->state.acc_ld + col;
        V a = v_set1(f->old_f[row + r]), b = v_set1(f->part_f[row + r]);
        VEC_UNROLL for (int i = 0; i < N; i++)
            v_store(out + i * VW, t->empty[row + r] ? acc[r][i] : v_fma(acc[r][i], b, v_mul(v_load(out + i * VW), a)));
    }
}
