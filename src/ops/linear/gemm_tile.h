/* The tiled product, written once over a few vector primitives. A kernel file defines
 *   V            vector type of VW floats;  NV = GEMM_PANEL / VW vectors per panel
 *   v_zero v_load v_store v_set1 v_fma v_add
 *   load_f16 load_bf16   one k (or k pair) of a packed panel to NV vectors; not with GEMM_ONLY_F32, where weights are 32-bit lanes
 * and includes this file, which gives gemm_rows() and the driver. Everything is inlined with constant bounds, so that the
 * accumulators live in registers. */

#ifdef SYSTOLIC_SANITIZED /* instrumented, the unrolled tiles take a compiler minutes and gigabytes; plain loops give the same bits */
#define TILE_INLINE static inline
#define UNROLL
#else
#define TILE_INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* One k of MR rows x NP panels of float32 weights. */
#define TILE_STEP(wv, kk)                                                          \
    UNROLL for (int r = 0; r < MR; r++) {                                          \
        V xv = v_set1(x[r * ldx + (kk)]);                                          \
        UNROLL for (int j = 0; j < NP * NV; j++) acc[r][j] = v_fma(xv, wv[j], acc[r][j]); \
    }

/* acc += X[MR rows][k0..k1) @ panels, weights in their packed type at w[0..NP-1] (start of each panel). */
TILE_INLINE void tile_packed(const int MR, const int NP, dtype type, const char *w, size_t panel_bytes, const float *x, int64_t ldx,
                             int64_t k0, int64_t k1, V acc[8][GEMM_MAX_NP * NV])
{
    V wv[GEMM_MAX_NP * NV];
    if (type == DT_F32) {
        for (int64_t k = k0; k < k1; k++) {
            UNROLL for (int j = 0; j < NP; j++)
                UNROLL for (int i = 0; i < NV; i++)
                    wv[j * NV + i] = v_load((const float *)(const void *)(w + (size_t)j * panel_bytes) + k * GEMM_PANEL + i * VW);
            TILE_STEP(wv, k)
        }
        return;
    }
#ifndef GEMM_ONLY_F32
    if (type == DT_F16) {
        for (int64_t k = k0; k < k1; k++) {
            UNROLL for (int j = 0; j < NP; j++)
                load_f16((const uint16_t *)(const void *)(w + (size_t)j * panel_bytes) + k * GEMM_PANEL, &wv[j * NV]);
            TILE_STEP(wv, k)
        }
    } else {
        V odd[GEMM_MAX_NP * NV];
        int64_t k = k0; /* k0 is even: blocks are */
        for (; k + 1 < k1; k += 2) {
            UNROLL for (int j = 0; j < NP; j++)
                load_bf16((const uint16_t *)(const void *)(w + (size_t)j * panel_bytes) + k * GEMM_PANEL, &wv[j * NV], &odd[j * NV]);
            TILE_STEP(wv, k)
            TILE_STEP(odd, k + 1)
        }
        if (k < k1) {
            UNROLL for (int j = 0; j < NP; j++)
                load_bf16((const uint16_t *)(const void *)(w + (size_t)j * panel_bytes) + k * GEMM_PANEL, &wv[j * NV], &odd[j * NV]);
            TILE_STEP(wv, k)
        }
    }
#endif
}

/* Writes a tile: with bias and residual after the last k, plain partial sums before. */
TILE_INLINE void tile_store(const int MR, const int NP, const gemm_call *c, int64_t row, int64_t col, int last, V acc[8][GEMM_MAX_NP * NV])
{
    int64_t n = c->w->n;
    UNROLL for (int r = 0; r < MR; r++) {
        float *y = c->y + (row + r) * c->ldy;
        UNROLL for (int j = 0; j < NP * NV; j++) {
            int64_t at = col + j * VW;
            if (at + VW <= n) {
                V v = acc[r][j];
                if (last && c->bias) v = v_add(v, v_load(c->bias + at));
                if (last && c->residual) v = v_add(v, v_load(c->residual + (row + r) * c->ldr + at));
                v_store(y + at, v);
            } else if (at < n) {
                float part[VW];
                v_store(part, acc[r][j]);
                for (int64_t i = 0; at + i < n; i++) {
                    float f = part[i];
                    if (last && c->bias) f += c->bias[at + i];
                    if (last && c->residual) f += c->residual[(row + r) * c->ldr + at + i];
                    y[at + i] = f;
                }
            }
        }
    }
}

/* The weights stream past straight from their packed form, over all of k. */
TILE_INLINE void rows_direct(const int MR, const int NP, const gemm_call *c, int64_t p, int64_t row)
{
    V acc[8][GEMM_MAX_NP * NV];
    UNROLL for (int r = 0; r < MR; r++) UNROLL for (int j = 0; j < NP * NV; j++) acc[r][j] = v_zero();
    size_t bytes = gemm_panel_bytes(c->w->type, c->w->k);
    const char *w = (const char *)c->w->data + (size_t)p * bytes;
    const float *x = c->x + row * c->ldx;
#ifdef GEMM_ONLY_F32
    tile_packed(MR, NP, DT_F32, w, bytes, x, c->ldx, 0, c->w->k, acc);
#else
    switch (c->w->type) { /* constant per branch, so each gets its own tight loop */
    case DT_F32: tile_packed(MR, NP, DT_F32, w, bytes, x, c->ldx, 0, c->w->k, acc); break;
    case DT_F16: tile_packed(MR, NP, DT_F16, w, bytes, x, c->ldx, 0, c->w->k, acc); break;
    default: tile_packed(MR, NP, DT_BF16, w, bytes, x, c->ldx, 0, c->w->k, acc); break;
    }
#endif
    tile_store(MR, NP, c, row, p * GEMM_PANEL, 1, acc);
}

TILE_INLINE void tile_load(const int MR, const int NP, const gemm_call *c, int64_t row, int64_t col, V acc[8][GEMM_MAX_NP * NV])
{
    int64_t n = c->w->n;
    UNROLL for (int r = 0; r < MR; r++) {
        const float *y = c->y + (row + r) * c->ldy;
        UNROLL for (int j = 0; j < NP * NV; j++) {
            int64_t at = col + j * VW;
            if (at + VW <= n) {
                acc[r][j] = v_load(y + at);
            } else {
                float part[VW] = {0};
                for (int64_t i = 0; at + i < n; i++) part[i] = y[at + i];
                acc[r][j] = v_load(part);
            }
        }
    }
}

/* Many rows, one k block of float32 weights at w, `stride` bytes from panel to panel. Partial sums rest in y between blocks. */
TILE_INLINE void rows_block(const int MR, const int NP, const gemm_call *c, const char *w, size_t stride, int64_t p, int64_t row, int64_t k0, int64_t k1)
{
    V acc[8][GEMM_MAX_NP * NV];
    if (k0 == 0) {
        UNROLL for (int r = 0; r < MR; r++) UNROLL for (int j = 0; j < NP * NV; j++) acc[r][j] = v_zero();
    } else {
        tile_load(MR, NP, c, row, p * GEMM_PANEL, acc);
    }
    tile_packed(MR, NP, DT_F32, w, stride, c->x + row * c->ldx + k0, c->ldx, 0, k1 - k0, acc);
    tile_store(MR, NP, c, row, p * GEMM_PANEL, k1 == c->w->k, acc);
}

#ifdef GEMM_SMALL_REGISTERS
/* Packed 16-bit panels p..p+np, k0..k1 (k0 even) -> float32 [np][k1-k0][16]. */
static void convert_block(const gemm_weight *w, int64_t p, int np, int64_t k0, int64_t k1, float *dst)
{
    size_t bytes = gemm_panel_bytes(w->type, w->k);
    for (int j = 0; j < np; j++) {
        const uint16_t *src = (const uint16_t *)(const void *)((const char *)w->data + (size_t)(p + j) * bytes) + k0 * GEMM_PANEL;
        int64_t n = k1 - k0, k = 0;
        V v[2 * NV];
        for (; k + 1 < n; k += 2, src += 2 * GEMM_PANEL, dst += 2 * GEMM_PANEL) {
            if (w->type == DT_F16) {
                load_f16(src, v);
                load_f16(src + GEMM_PANEL, v + NV);
            } else {
                load_bf16(src, v, v + NV);
            }
            UNROLL for (int i = 0; i < 2 * NV; i++) v_store(dst + i * VW, v[i]);
        }
        if (k < n) {
            if (w->type == DT_F16) load_f16(src, v);
            else load_bf16(src, v, v + NV);
            UNROLL for (int i = 0; i < NV; i++) v_store(dst + i * VW, v[i]);
            dst += GEMM_PANEL;
        }
    }
}
#endif
