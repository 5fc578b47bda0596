/* The weight-only product, written once: blocks of weights become float32 and then go through gemm's tiles, so that an element is
 * gemm's chain. A kernel file defines what gemm_tile.h wants (with GEMM_ONLY_F32) and
 *   wide8, wide_f8   16 values of int8 or e4m3 to NV vectors; e4m3 by WIDE_F8_BY less, which the scale makes good
 *   wide4, wide_f4   16 bytes of nibbles to NV vectors of the low ones and NV of the high ones: integers 0..15, or e2m1
 *   wide_bf16, wide_f16, wide_e8m0   16 scales; those of e8m0 as code << 23, but 2^-127 for zero
 *   WIDE_MANY_REGISTERS if tiles of 4 rows x 4 panels fit
 *   v_mul, v_div, MANY_NP (panels per tile), next_rows(left), ROW_TILES(X): the heights that it gives */

/* k's per block: it stays in the first-level cache between its making and its use. Whole groups. */
enum { WIDE_KB = 128 };

/* Where things are in a panel. */
typedef struct wide_form { quant_info q; int64_t k, group; size_t panel, zeros, global, values; } wide_form;

static wide_form form_of(const qgemm_weight *w)
{
    quant_scheme s = w->scheme;
    int64_t k = w->base.k;
    return (wide_form){ quant_describe(s), k, qgemm_group(s, k), qgemm_panel_bytes(s, k), qgemm_zeros_at(s, k), qgemm_global_at(s, k), qgemm_scale_bytes(s, k) };
}

/* Group g of a panel: what values are multiplied by, and for int4 what is added then: minus zero times scale. */
static inline void scale_vectors(const wide_form *f, const char *panel, int64_t g, V *scale, V *less)
{
    const char *at = panel + (size_t)g * GEMM_PANEL * dtype_bytes(f->q.scale, 1);
    switch (f->q.scale) {
    case DT_BF16: wide_bf16((const uint16_t *)(const void *)at, scale); break;
    case DT_F16: wide_f16((const uint16_t *)(const void *)at, scale); break;
    case DT_F8E8M0: wide_e8m0((const uint8_t *)at, scale); break;
    case DT_F8E4M3:
        wide_f8((const uint8_t *)at, scale);
        for (int i = 0; i < NV; i++)
            scale[i] = v_div(v_mul(scale[i], v_set1(WIDE_F8_BY)), v_load((const float *)(const void *)(panel + f->global) + i * VW));
        break;
    default:
        for (int i = 0; i < NV; i++) scale[i] = v_load((const float *)(const void *)at + i * VW);
    }
    if (f->q.type == DT_F8E4M3)
        for (int i = 0; i < NV; i++) scale[i] = v_mul(scale[i], v_set1(WIDE_F8_BY));
    if (f->q.type != DT_I4) {
        for (int i = 0; i < NV; i++) less[i] = v_zero();
        return;
    }
    if (f->q.zeros) wide8((const uint8_t *)panel + f->zeros + (size_t)g * GEMM_PANEL, less);
    for (int i = 0; i < NV; i++) less[i] = v_mul(f->q.zeros ? v_mul(less[i], v_set1(-1)) : v_set1(-8), scale[i]);
}

/* One panel's k0..k1 to float32 [k1 - k0][16]; k0 is a multiple of WIDE_KB. An odd end of nibbles writes one row more, which the block has
 * room for. (u - zero) * s of 16-bit scales is a product of 5 and 11 bits: exact, and so is u * s - zero * s in one step. */
static void widen(const wide_form *f, const char *panel, int64_t k0, int64_t k1, float *dst)
{
    const uint8_t *data = (const uint8_t *)panel + f->values;
    dtype t = f->q.type;
    int64_t step = f->group < WIDE_KB ? f->group : WIDE_KB;
    for (int64_t g = k0; g < k1; g += step) {
        V scale[NV], less[NV];
        int64_t end = g + step < k1 ? g + step : k1;
        scale_vectors(f, panel, g / f->group, scale, less);
        for (int64_t k = g; k < end && (t == DT_I4 || t == DT_F4E2M1); k += 2) {
            V lo[NV], hi[NV];
            float *to = dst + (k - k0) * GEMM_PANEL;
            if (t == DT_I4) {
                wide4(data + k / 2 * 16, lo, hi);
                UNROLL for (int i = 0; i < NV; i++) v_store(to + i * VW, v_fma(lo[i], scale[i], less[i]));
                UNROLL for (int i = 0; i < NV; i++) v_store(to + GEMM_PANEL + i * VW, v_fma(hi[i], scale[i], less[i]));
            } else {
                wide_f4(data + k / 2 * 16, lo, hi);
                UNROLL for (int i = 0; i < NV; i++) v_store(to + i * VW, v_mul(lo[i], scale[i]));
                UNROLL for (int i = 0; i < NV; i++) v_store(to + GEMM_PANEL + i * VW, v_mul(hi[i], scale[i]));
            }
        }
        for (int64_t k = g; k < end && (t == DT_I8 || t == DT_F8E4M3); k++) {
            V v[NV];
            if (t == DT_I8) wide8(data + k * 16, v);
            else wide_f8(data + k * 16, v);
            UNROLL for (int i = 0; i < NV; i++) v_store(dst + (k - k0) * GEMM_PANEL + i * VW, v_mul(v[i], scale[i]));
        }
    }
}

/* ---- few rows: weights go from memory through registers, no block in between ---- */

enum { DIRECT_MAX_ROWS = 8, DIRECT_MAX_NP = GEMM_MAX_NP };

#define TWO(t) ((t) == DT_I4 || (t) == DT_F4E2M1)
/* acc += the products of 16 bytes of each panel at w: one k, or two of nibbles (of which the second may be missing). */
TILE_INLINE void direct_step(const int MR, const int NP, const dtype T, const int both, const uint8_t *w, size_t stride, const float *x, int64_t ldx,
                             const V *scale, const V *less, V acc[8][GEMM_MAX_NP * NV])
{
    V v[DIRECT_MAX_NP * NV], hi[DIRECT_MAX_NP * NV];
    UNROLL for (int j = 0; j < NP; j++) {
        const uint8_t *at = w + (size_t)j * stride;
        if (T == DT_I4) wide4(at, v + j * NV, hi + j * NV);
        else if (T == DT_F4E2M1) wide_f4(at, v + j * NV, hi + j * NV);
        else if (T == DT_I8) wide8(at, v + j * NV);
        else wide_f8(at, v + j * NV);
    }
    UNROLL for (int j = 0; j < NP * NV; j++) {
        v[j] = T == DT_I4 ? v_fma(v[j], scale[j], less[j]) : v_mul(v[j], scale[j]);
        if (TWO(T) && both) hi[j] = T == DT_I4 ? v_fma(hi[j], scale[j], less[j]) : v_mul(hi[j], scale[j]);
    }
    UNROLL for (int r = 0; r < MR; r++) {
        V xv = v_set1(x[r * ldx]);
        UNROLL for (int j = 0; j < NP * NV; j++) acc[r][j] = v_fma(xv, v[j], acc[r][j]);
        if (!TWO(T) || !both) continue;
        V xo = v_set1(x[r * ldx + 1]);
        UNROLL for (int j = 0; j < NP * NV; j++) acc[r][j] = v_fma(xo, hi[j], acc[r][j]);
    }
}

TILE_INLINE void direct_tile(const int MR, const int NP, const dtype T, const wide_form *f, const qgemm_call *c, const gemm_call *g, int64_t p, int64_t row,
                             size_t ahead)
{
    enum { LINE = 4 };    /* pieces of 16 bytes that come from memory together */
    const int per = TWO(T) ? 2 : 1;
    int64_t k = f->k, group = f->group;
    size_t stride = f->panel;
    const char *panel = (const char *)c->w->base.data + (size_t)p * stride;
    const uint8_t *w = (const uint8_t *)panel + f->values;
    const float *x = c->x + row * c->ldx;
    V acc[8][GEMM_MAX_NP * NV];   /* as large as tile_store has it */
    UNROLL for (int r = 0; r < MR; r++) UNROLL for (int j = 0; j < NP * NV; j++) acc[r][j] = v_zero();
    for (int64_t g0 = 0; g0 < k; g0 += group) {
        int64_t end = g0 + group < k ? g0 + group : k, i = g0;
        V scale[DIRECT_MAX_NP * NV], less[DIRECT_MAX_NP * NV];
        UNROLL for (int j = 0; j < NP; j++) scale_vectors(f, panel + (size_t)j * stride, g0 / group, scale + j * NV, less + j * NV);
        for (; i + LINE * per <= end; i += LINE * per) {
            const uint8_t *at = w + i / per * 16;
            UNROLL for (int j = 0; j < NP; j++) __builtin_prefetch(at + (size_t)j * stride + ahead, 0, 2);
            UNROLL for (int u = 0; u < LINE; u++) direct_step(MR, NP, T, 1, at + u * 16, stride, x + i + u * per, c->ldx, scale, less, acc);
        }
        for (; i + per <= end; i += per) direct_step(MR, NP, T, 1, w + i / per * 16, stride, x + i, c->ldx, scale, less, acc);
        if (i < end) direct_step(MR, NP, T, 0, w + i / per * 16, stride, x + i, c->ldx, scale, less, acc);
    }
    tile_store(MR, NP, g, row, p * GEMM_PANEL, 1, acc);
}

#define DIRECT_FN(mr, np, name, T) \
    static void name##_##mr##x##np(const wide_form *f, const qgemm_call *c, const gemm_call *g, int64_t p, int64_t row, size_t ahead) \
    { direct_tile(mr, np, T, f, c, g, p, row, ahead); }
#define DIRECT_FNS(mr, np) \
    DIRECT_FN(mr, np, int8, DT_I8) DIRECT_FN(mr, np, int4, DT_I4) DIRECT_FN(mr, np, f8, DT_F8E4M3) DIRECT_FN(mr, np, f4, DT_F4E2M1)
DIRECT_FNS(1, 1)
DIRECT_FNS(2, 1)
DIRECT_FNS(4, 1)
#ifdef WIDE_MANY_REGISTERS
DIRECT_FNS(1, 4)
DIRECT_FNS(2, 4)
DIRECT_FNS(4, 4)
enum { DIRECT_NP = 4 };
#define DIRECT_ROW(name) { name##_1x1, name##_2x1, name##_4x1 }, { name##_1x4, name##_2x4, name##_4x4 }
#else
enum { DIRECT_NP = 1 };
#define DIRECT_ROW(name) { name##_1x1, name##_2x1, name##_4x1 }, { name##_1x1, name##_2x1, name##_4x1 }
#endif

static void direct_drive(const wide_form *f, const qgemm_call *c, const gemm_call *g, int64_t p0, int64_t p1)
{
    typedef void direct_fn(const wide_form *, const qgemm_call *, const gemm_call *, int64_t, int64_t, size_t);
    static direct_fn *const fns[4][2][3] = { { DIRECT_ROW(int8) }, { DIRECT_ROW(int4) }, { DIRECT_ROW(f8) }, { DIRECT_ROW(f4) } };
    dtype t = c->w->base.type;
    int kind = t == DT_I8 ? 0 : t == DT_I4 ? 1 : t == DT_F8E4M3 ? 2 : 3;
    for (int64_t p = p0; p < p1;) {
        int np = p1 - p >= DIRECT_NP ? DIRECT_NP : 1;
        size_t next = p + np < p1 ? (size_t)np * f->panel : 0;
        for (int64_t row = 0, left = c->m; left > 0; left = c->m - row) {
            int size = left >= 4 ? 2 : left >= 2 ? 1 : 0;
            fns[kind][np > 1][size](f, c, g, p, row, row == 0 ? next : 0);
            row += 1 << size;
        }
        p += np;
    }
}

/* ---- many rows ---- */

#define WIDE_CASE(mr) \
    case (mr) * 2: rows_block(mr, 1, &g, block, stride, p, row, k0, k1); break; \
    case (mr) * 2 + 1: rows_block(mr, MANY_NP, &g, block, stride, p, row, k0, k1); break;

static void wide_drive(const qgemm_call *c, int64_t p0, int64_t p1)
{
    wide_form f = form_of(c->w);
    int64_t k = f.k;
    size_t stride = (size_t)WIDE_KB * GEMM_PANEL * sizeof(float);
    gemm_weight w = { .type = DT_F32, .n = c->w->base.n, .k = k };
    gemm_call g = { .w = &w, .x = c->x, .m = c->m, .ldx = c->ldx, .y = c->y, .ldy = c->ldy, .bias = c->bias, .residual = c->residual, .ldr = c->ldr };
    const char *block = (const char *)c->scratch;
    if (c->m <= DIRECT_MAX_ROWS) {
        direct_drive(&f, c, &g, p0, p1);
        return;
    }
    for (int64_t p = p0; p < p1;) {
        int np = p1 - p >= MANY_NP ? MANY_NP : 1;
        for (int64_t k0 = 0; k0 < k; k0 += WIDE_KB) {
            int64_t k1 = k0 + WIDE_KB < k ? k0 + WIDE_KB : k;
            for (int j = 0; j < np; j++) widen(&f, (const char *)c->w->base.data + (size_t)(p + j) * f.panel, k0, k1, c->scratch + j * WIDE_KB * GEMM_PANEL);
            for (int64_t row = 0; row < c->m;) {
                int mr = next_rows(c->m - row);
                switch (mr * 2 + (np > 1)) { ROW_TILES(WIDE_CASE) }
                row += mr;
            }
        }
        p += np;
    }
}
