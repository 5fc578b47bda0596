/* Attention over a bfloat16 cache by the dot product instruction (vdpbf16ps), for models whose products go through it
 * (ops/linear/gemm.h, the dot family): queries and weights are rounded to bfloat16, nearest even, and both products are chains of the
 * instruction over pairs, of numbers of the head for a score, of keys for a value; pairs begin at even positions, an odd head ends
 * with a zero. The rest is as attention.h says: parts, their order, the sums of weights (which are not rounded) and what merges them.
 *
 * Keys and values come as pairs, a lane each: from the cache's own rows, two of which are brought together in registers, or, where
 * many rows use them, from copies that are made once (t->pairs). */
#include <immintrin.h>
#include <stdbool.h>

#include "ops/vec_avx512.h"
#include "ops/vec.h"
#include "ops/linear/gemm.h"
#include "ops/paged_attention/attention.h"
#include "ops/paged_attention/attention_weights.h"

enum { QK_ROWS = 8, PV_ROWS = 6, PV_CHUNKS = 4, FEW_ROWS = 4 };

/* Lanes (a[i], b[i]) of two rows of sixteen; b NULL: zeros. */
TILE V pair_rows(const uint16_t *a, const uint16_t *b)
{
    __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)a));
    if (!b) return _mm512_castsi512_ps(low);
    __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)b));
    return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

TILE V dot_pairs(V x, V w, V acc) { return _mm512_dpbf16_ps(acc, (__m512bh)w, (__m512bh)x); }

/* ---- scores ---- */

TILE void qk_tile(const int R, const int G, const bool pairs, const attn_tile *t, int row, int group)
{
    V acc[8][4], k[4];
    VEC_UNROLL for (int r = 0; r < R; r++) VEC_UNROLL for (int g = 0; g < G; g++) acc[r][g] = v_zero();
    const float *q = t->q + row * t->d;
    const int64_t d = t->d, half = (d + 1) / 2;
    for (int64_t i = 0; i < half; i++) {
        if (!pairs && t->prefetch) { /* as attention_tile.h does it: a pair is a cache line */
            const char *values = (const char *)t->v[group + 2 * i * G / d] + 2 * i * G % d * VEC_LANES * 2;
            VEC_UNROLL for (int g = 0; g < G; g++) FETCH(values + g * 64);
            if (t->cold) VEC_UNROLL for (int g = 0; g < G; g++) FETCH((const char *)t->k[group + G + g] + 2 * i * t->k_ld * 2);
        }
        VEC_UNROLL for (int g = 0; g < G; g++) {
            const uint16_t *at = (const uint16_t *)t->k[group + g] + 2 * i * t->k_ld;
            k[g] = pairs ? v_load((const float *)t->k[group + g] + i * VEC_LANES) : pair_rows(at, 2 * i + 1 < d ? at + t->k_ld : NULL);
        }
        VEC_UNROLL for (int r = 0; r < R; r++) {
            V x = v_set1(q[r * d + i]);
            VEC_UNROLL for (int g = 0; g < G; g++) acc[r][g] = dot_pairs(x, k[g], acc[r][g]);
        }
    }
    V scale = v_set1(t->scale);
    VEC_UNROLL for (int r = 0; r < R; r++)
        VEC_UNROLL for (int g = 0; g < G; g++) v_store(t->s + (row + r) * ATTN_PART + (group + g) * VEC_LANES, v_mul(acc[r][g], scale));
}

/* A tile of some height and width: 1 .. 4 rows by 1 or 4 groups straight from the cache, 1 .. 8 by 1 or 2 from copies. */
TILE void qk_rows(const attn_tile *t, int row, int rows, int group, int groups)
{
#define QK_CASE(r, g, p) case (r) * 8 + (g): qk_tile(r, g, p, t, row, group); break;
    if (t->pairs) switch (rows * 8 + groups) {
        QK_CASE(1, 1, true) QK_CASE(1, 2, true) QK_CASE(2, 1, true) QK_CASE(2, 2, true) QK_CASE(3, 1, true) QK_CASE(3, 2, true)
        QK_CASE(4, 1, true) QK_CASE(4, 2, true) QK_CASE(5, 1, true) QK_CASE(5, 2, true) QK_CASE(6, 1, true) QK_CASE(6, 2, true)
        QK_CASE(7, 1, true) QK_CASE(7, 2, true) QK_CASE(8, 1, true) QK_CASE(8, 2, true)
    } else switch (rows * 8 + groups) {
        QK_CASE(1, 1, false) QK_CASE(1, 4, false) QK_CASE(2, 1, false) QK_CASE(2, 4, false)
        QK_CASE(3, 1, false) QK_CASE(3, 4, false) QK_CASE(4, 1, false) QK_CASE(4, 4, false)
    }
}

static void scores(const attn_tile *t, int g0, int g1)
{
    const int most = t->pairs ? QK_ROWS : FEW_ROWS, width = t->pairs ? 2 : 4;
    for (int group = g0; group < g1;) {
        int step = g1 - group >= width ? width : 1;
        for (int row = 0; row < t->rows;) {
            int rows = next_rows(t->rows - row, most);
            qk_rows(t, row, rows, group, step);
            row += rows;
        }
        group += step;
    }
}

/* ---- values ---- */

/* The halves of lanes that a row may touch: it must not see what is beside its keys, not even with weight zero. */
TILE V seen_half(V v, bool even, bool odd)
{
    return even && odd ? v : _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(even ? 0xFFFF : (int)0xFFFF0000)));
}

#define PV_DOT(r, x) do { V p_ = v_set1(p[(r) * ATTN_PART + j / 2]); \
    VEC_UNROLL for (int c = 0; c < C; c++) acc[r][c] = dot_pairs(p_, (x), acc[r][c]); } while (0)

/* Keys [from, to), both even. every: all rows see all of them. */
TILE void pv_range(const int R, const int C, const bool pairs, const attn_tile *t, int row, int64_t col, int from, int to, const bool every, V acc[8][4])
{
    const float *p = t->s + row * ATTN_PART;
    const int64_t share = t->d / VEC_LANES, i0 = share * col / t->dp, i1 = share * (col + C * VEC_LANES) / t->dp;
    const bool fetch = !pairs && t->prefetch && row == 0;
    V v[4];
    for (int j = from; j < to; j += 2) {
        const char *next = fetch ? t->k[ATTN_GROUPS + j / VEC_LANES] : NULL;
        if (next)
            for (int l = j; l < j + 2; l++)
                for (int64_t i = i0; i < i1; i += 2) FETCH(next + (l % VEC_LANES * share + i) * t->k_ld * 2);
        VEC_UNROLL for (int c = 0; c < C; c++) {
            const void *group = t->v[j / VEC_LANES];
            const uint16_t *at = (const uint16_t *)group + j % VEC_LANES * t->v_ld + col + c * VEC_LANES;
            v[c] = pairs ? v_load((const float *)group + j % VEC_LANES / 2 * t->v_ld + col + c * VEC_LANES) : pair_rows(at, at + t->v_ld);
        }
        if (every) {
            VEC_UNROLL for (int r = 0; r < R; r++) PV_DOT(r, v[c]);
        } else {
            VEC_UNROLL for (int r = 0; r < R; r++) {
                bool even = j >= t->lo[row + r] && j < t->hi[row + r], odd = j + 1 >= t->lo[row + r] && j + 1 < t->hi[row + r];
                if (even || odd) PV_DOT(r, seen_half(v[c], even, odd));
            }
        }
    }
}

TILE int even_down(int n) { return n & ~1; }
TILE int even_up(int n) { return (n + 1) & ~1; }

TILE void pv_tile(const int R, const int C, const bool pairs, const attn_tile *t, int row, int64_t col, const pv_factors *f)
{
    V acc[8][4];
    VEC_UNROLL for (int r = 0; r < R; r++) VEC_UNROLL for (int c = 0; c < C; c++) acc[r][c] = v_zero();
    seen s = seen_by(R, t, row);
    int lo = even_down(s.lo), hi = even_up(s.hi), lo_all = even_up(s.lo_all), hi_all = even_down(s.hi_all);
    if (lo_all < hi_all) {
        pv_range(R, C, pairs, t, row, col, lo, lo_all, false, acc);
        pv_range(R, C, pairs, t, row, col, lo_all, hi_all, true, acc);
        pv_range(R, C, pairs, t, row, col, hi_all, hi, false, acc);
    } else {
        pv_range(R, C, pairs, t, row, col, lo, hi, false, acc);
    }
    merge_tile(R, C, t, row, col, f, acc);
}

TILE void pv_rows(const attn_tile *t, int row, int rows, int64_t col, int chunks, const pv_factors *f)
{
#define PV_CASE(r, c, p) case (r) * 8 + (c): pv_tile(r, c, p, t, row, col, f); break;
    if (t->pairs) switch (rows * 8 + chunks) {
        PV_CASE(1, 1, true) PV_CASE(1, 4, true) PV_CASE(2, 1, true) PV_CASE(2, 4, true) PV_CASE(3, 1, true) PV_CASE(3, 4, true)
        PV_CASE(4, 1, true) PV_CASE(4, 4, true) PV_CASE(5, 1, true) PV_CASE(5, 4, true) PV_CASE(6, 1, true) PV_CASE(6, 4, true)
    } else switch (rows * 8 + chunks) {
        PV_CASE(1, 1, false) PV_CASE(1, 4, false) PV_CASE(2, 1, false) PV_CASE(2, 4, false)
        PV_CASE(3, 1, false) PV_CASE(3, 4, false) PV_CASE(4, 1, false) PV_CASE(4, 4, false)
    }
}

static void values(const attn_tile *t, const pv_factors *f)
{
    for (int row = 0; row < t->rows;) {
        int rows = next_rows(t->rows - row, t->pairs ? PV_ROWS : FEW_ROWS);
        for (int64_t col = 0; col < t->dp;) {
            int n = t->dp - col >= PV_CHUNKS * VEC_LANES ? PV_CHUNKS : 1;
            pv_rows(t, row, rows, col, n, f);
            col += n * VEC_LANES;
        }
        row += rows;
    }
}

/* ---- one part ---- */

static void attn_part(const attn_tile *t)
{
    pv_factors f;
    int lo, hi;
    if (!seen_of_part(t, &lo, &hi)) return;
    scores(t, lo / VEC_LANES, (hi + VEC_LANES - 1) / VEC_LANES);
    weigh_rows(t, &f);
    for (int r = 0; r < t->rows; r++) { /* in place: pairs are half as long, and whole groups were written */
        if (t->hi[r] <= t->lo[r]) continue;
        float *s = t->s + r * ATTN_PART;
        int g0 = t->lo[r] / VEC_LANES * VEC_LANES, g1 = (t->hi[r] + VEC_LANES - 1) / VEC_LANES * VEC_LANES;
        gemm_round_avx512bf16(s + g0, g1 - g0, (uint16_t *)(void *)s + g0);
    }
    values(t, &f);
}

/* ---- copies ---- */

static void pair_keys(const uint16_t *k, int64_t ld, int64_t d, float *dst)
{
    for (int64_t i = 0; i < d; i += 2) v_store(dst + i / 2 * VEC_LANES, pair_rows(k + i * ld, i + 1 < d ? k + (i + 1) * ld : NULL));
}

static void pair_values(const uint16_t *v, int64_t ld, int64_t dp, float *dst)
{
    for (int64_t j = 0; j < VEC_LANES; j += 2)
        for (int64_t i = 0; i < dp; i += VEC_LANES) v_store(dst + j / 2 * dp + i, pair_rows(v + j * ld + i, v + (j + 1) * ld + i));
}

static void round_query(const float *q, int64_t d, float *dst) { gemm_round_avx512bf16(q, d, dst); }

static const attn_pairs pair = { round_query, pair_keys, pair_values };
const attn_kernels attn_dot_avx512bf16 = { attn_part, attn_merge, attn_finish, NULL, &pair };
