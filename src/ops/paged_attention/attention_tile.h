/* The kernels' body, compiled per instruction set: see ops/vec.h. The file that includes this defines the tile sizes:
 *   QK_ROWS, QK_GROUPS(rows)   query rows x groups of 16 keys whose scores are in registers at once
 *   PV_ROWS, PV_CHUNKS(rows)   query rows x 16-float pieces of the head
 * with the cases that these give, for float32. Other types are for few rows (many find float32, see attn_widen_fn), and each case
 * is code for each of them: FEW_ROWS at most, FEW_QK_CASES and FEW_PV_CASES have 1 .. FEW_ROWS, each with one group and the most;
 * and how its vectors are loaded from types of one byte: v_load_e4m3 (raw: attention.h), v_load_e5m2, v_load_i8. */
#include "ops/paged_attention/attention_weights.h"

#define ATTN_TYPES(X) X(DT_F32) X(DT_BF16) X(DT_F16) X(DT_F8E4M3) X(DT_F8E5M2) X(DT_I8)
#ifdef ATTN_SMALL_TILES
#define QK_ROWS 2
#define QK_GROUPS(rows) 1
#define QK_CASES QK_CASE(1, 1) QK_CASE(2, 1)
#define PV_ROWS 2
#define PV_CHUNKS(rows) 1
#define PV_CASES PV_CASE(1, 1) PV_CASE(2, 1)
#define FEW_ROWS 2
#define FEW_QK_CASES QK_CASES
#define FEW_PV_CASES PV_CASES
#endif

TILE void load16(dtype type, const void *p, int64_t at, V *out)
{
    VEC_UNROLL for (int i = 0; i < NV; i++)
        out[i] = type == DT_F32 ? v_load((const float *)p + at + i * VW)
               : type == DT_BF16 ? v_load_bf16((const uint16_t *)p + at + i * VW)
               : type == DT_F16 ? v_load_f16((const uint16_t *)p + at + i * VW)
               : type == DT_F8E4M3 ? v_load_e4m3((const uint8_t *)p + at + i * VW)
               : type == DT_F8E5M2 ? v_load_e5m2((const uint8_t *)p + at + i * VW) : v_load_i8((const int8_t *)p + at + i * VW);
}

/* Rows of 16 elements that lie in a cache line. */
TILE int line_rows(dtype type) { return type == DT_F32 ? 1 : type == DT_BF16 || type == DT_F16 ? 2 : 4; }

/* ---- scores ---- */

TILE void qk_tile(const int R, const int G, dtype type, const attn_tile *t, int row, int group)
{
    V acc[8][4 * NV], k[4 * NV];
    VEC_UNROLL for (int r = 0; r < R; r++) VEC_UNROLL for (int j = 0; j < G * NV; j++) acc[r][j] = v_zero();
    const float *q = t->q + row * t->d;
    const int64_t d = t->d, es = 4 / line_rows(type);
    for (int64_t i = 0; i < d; i++) {
        if (t->prefetch && i % line_rows(type) == 0) {
            /* line after line, which the processor's own prefetchers follow */
            const char *values = (const char *)t->v[group + i * G / d] + i * G % d * VEC_LANES * es;
            VEC_UNROLL for (int g = 0; g < G; g++) FETCH(values + g * 64);
            if (t->cold) VEC_UNROLL for (int g = 0; g < G; g++) FETCH((const char *)t->k[group + G + g] + i * t->k_ld * es);
        }
        VEC_UNROLL for (int g = 0; g < G; g++) load16(type, t->k[group + g], i * t->k_ld, &k[g * NV]);
        VEC_UNROLL for (int r = 0; r < R; r++) {
            V x = v_set1(q[r * d + i]);
            VEC_UNROLL for (int j = 0; j < G * NV; j++) acc[r][j] = v_fma(x, k[j], acc[r][j]);
        }
    }
    if (t->scaled)
        VEC_UNROLL for (int j = 0; j < G * NV; j++) {
            V by_key = v_load(t->ks[group + j / NV] + j % NV * VW);
            VEC_UNROLL for (int r = 0; r < R; r++) acc[r][j] = v_mul(acc[r][j], by_key);
        }
    V scale = v_set1(t->scale);
    VEC_UNROLL for (int r = 0; r < R; r++)
        VEC_UNROLL for (int j = 0; j < G * NV; j++)
            v_store(t->s + (row + r) * ATTN_PART + group * VEC_LANES + j * VW, v_mul(acc[r][j], scale));
}

#define QK_CASE(r, g) case (r) * 8 + (g): qk_tile(r, g, type, t, row, group); break;
TILE void qk_rows(dtype type, const attn_tile *t, int row, int rows, int group, int groups)
{
    if (type == DT_F32) switch (rows * 8 + groups) { QK_CASES }
    else switch (rows * 8 + groups) { FEW_QK_CASES }
}

/* How many groups or chunks of `left` come next. */
TILE int next_width(dtype type, int64_t left, int most) { return left >= most ? most : type == DT_F32 && left >= 2 && most >= 2 ? 2 : 1; }

/* Tiles of some groups by all rows, so that the groups stay in the nearest cache. */
TILE void qk_type(dtype type, const attn_tile *t, int g0, int g1)
{
    const int most = type == DT_F32 ? QK_ROWS : FEW_ROWS;
    for (int group = g0; group < g1;) {
        int step = next_width(type, g1 - group, QK_GROUPS(next_rows(t->rows, most)));
        for (int row = 0; row < t->rows;) {
            int rows = next_rows(t->rows - row, most);
            for (int g = 0; g < step;) {
                int n = next_width(type, step - g, QK_GROUPS(rows));
                qk_rows(type, t, row, rows, group + g, n);
                g += n;
            }
            row += rows;
        }
        group += step;
    }
}

/* ---- values ---- */

#define PV_FMA(r, j) do { V p_ = v_set1(p[(r) * ATTN_PART + (j)]); \
    VEC_UNROLL for (int i = 0; i < C * NV; i++) acc[r][i] = v_fma(p_, v[i], acc[r][i]); } while (0)

TILE void pv_range(const int R, const int C, dtype type, const attn_tile *t, int row, int64_t col, int from, int to, int every, V acc[8][4 * NV])
{
    const float *p = t->s + row * ATTN_PART;
    const int64_t es = 4 / line_rows(type), share = t->d / VEC_LANES, i0 = share * col / t->dp, i1 = share * (col + C * VEC_LANES) / t->dp;
    const bool fetch = t->prefetch && row == 0;
    V v[4 * NV];
    for (int j = from; j < to; j++) {
        const char *next = fetch ? t->k[ATTN_GROUPS + j / VEC_LANES] : NULL;
        if (next) /* this key's and these columns' share of the same 16 keys of the next part */
            for (int64_t i = i0; i < i1; i += line_rows(type)) FETCH(next + (j % VEC_LANES * share + i) * t->k_ld * es);
        int64_t at = (j % VEC_LANES) * t->v_ld + col;
        VEC_UNROLL for (int c = 0; c < C; c++) load16(type, t->v[j / VEC_LANES], at + c * VEC_LANES, &v[c * NV]);
        if (every) {
            VEC_UNROLL for (int r = 0; r < R; r++) PV_FMA(r, j);
        } else {
            /* the edges of what rows see: a row must not touch what it does not see, not even with weight zero */
            VEC_UNROLL for (int r = 0; r < R; r++)
                if (j >= t->lo[row + r] && j < t->hi[row + r]) PV_FMA(r, j);
        }
    }
}

TILE void pv_tile(const int R, const int C, dtype type, const attn_tile *t, int row, int64_t col, const pv_factors *f)
{
    V acc[8][4 * NV];
    VEC_UNROLL for (int r = 0; r < R; r++) VEC_UNROLL for (int i = 0; i < C * NV; i++) acc[r][i] = v_zero();
    seen s = seen_by(R, t, row);
    if (s.lo_all < s.hi_all) {
        pv_range(R, C, type, t, row, col, s.lo, s.lo_all, 0, acc);
        pv_range(R, C, type, t, row, col, s.lo_all, s.hi_all, 1, acc);
        pv_range(R, C, type, t, row, col, s.hi_all, s.hi, 0, acc);
    } else {
        pv_range(R, C, type, t, row, col, s.lo, s.hi, 0, acc);
    }
    merge_tile(R, C * NV, t, row, col, f, acc);
}

#define PV_CASE(r, c) case (r) * 8 + (c): pv_tile(r, c, type, t, row, col, f); break;
TILE void pv_rows(dtype type, const attn_tile *t, int row, int rows, int64_t col, int chunks, const pv_factors *f)
{
    if (type == DT_F32) switch (rows * 8 + chunks) { PV_CASES }
    else switch (rows * 8 + chunks) { FEW_PV_CASES }
}

TILE void pv_type(dtype type, const attn_tile *t, const pv_factors *f)
{
    for (int row = 0; row < t->rows;) {
        int rows = next_rows(t->rows - row, type == DT_F32 ? PV_ROWS : FEW_ROWS);
        for (int64_t col = 0; col < t->dp;) {
            int n = next_width(type, (t->dp - col) / VEC_LANES, PV_CHUNKS(rows));
            pv_rows(type, t, row, rows, col, n, f);
            col += n * VEC_LANES;
        }
        row += rows;
    }
}

/* ---- one part ---- */

TILE void part_body(const attn_tile *t)
{
    int lo, hi;
    if (!seen_of_part(t, &lo, &hi)) return;
    int g0 = lo / VEC_LANES, g1 = (hi + VEC_LANES - 1) / VEC_LANES;
    switch (t->type) {
#define QK_TYPE(type) case type: qk_type(type, t, g0, g1); break;
    ATTN_TYPES(QK_TYPE)
    default: break;
    }
    pv_factors f;
    weigh_rows(t, &f);
    switch (t->type) {
#define PV_TYPE(type) case type: pv_type(type, t, &f); break;
    ATTN_TYPES(PV_TYPE)
    default: break;
    }
}

static void attn_part(const attn_tile *t) { part_body(t); }

TILE void widen_type(dtype type, const void *src, int64_t src_ld, int64_t rows, int64_t cols, float *dst, int64_t dst_ld)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c += VEC_LANES) {
            V v[NV];
            load16(type, src, r * src_ld + c, v);
            VEC_UNROLL for (int i = 0; i < NV; i++) v_store(dst + r * dst_ld + c + i * VW, v[i]);
        }
}

static void attn_widen(dtype type, const void *src, int64_t src_ld, int64_t rows, int64_t cols, float *dst, int64_t dst_ld)
{
    switch (type) {
#define WIDEN_TYPE(type) case type: widen_type(type, src, src_ld, rows, cols, dst, dst_ld); break;
    ATTN_TYPES(WIDEN_TYPE)
    default: break;
    }
}
