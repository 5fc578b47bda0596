/* The weight-only product, written once: blocks of weights become float32 and then go through gemm's tiles, so that an element is
 * gemm's chain. A kernel file defines what gemm_tile.h wants (with GEMM_ONLY_F32) and
 *   wide8, wide_f8   16 values of int8 or e4m3 to NV vectors; e4m3 by WIDE_F8_BY less, which the scale makes good
 *   wide4            16 bytes of nibbles to NV vectors of the low ones and NV of the high ones, as value + 8
 *   wide_bf16        16 bfloat16 scales
 *   v_mul, MANY_NP (panels per tile), next_rows(left), ROW_TILES(X): the heights that it gives */

/* k's per block: it stays in the first-level cache between its making and its use. Whole groups. */
enum { WIDE_KB = 128 };

static void scale_vectors(quant_scheme s, const char *panel, int64_t k, V *scale)
{
    if (quant_describe(s)->group) {
        wide_bf16((const uint16_t *)(const void *)panel + k / quant_describe(s)->group * GEMM_PANEL, scale);
        return;
    }
    V by = v_set1(s == QUANT_FP8 ? WIDE_F8_BY : 1.0f);
    for (int i = 0; i < NV; i++) scale[i] = v_mul(v_load((const float *)(const void *)panel + i * VW), by);
}

/* One panel's k0..k1 to float32 [k1 - k0][16]; k0 is a multiple of WIDE_KB. */
static void widen(quant_scheme s, const char *panel, size_t scale_bytes, int64_t k0, int64_t k1, float *dst)
{
    const uint8_t *data = (const uint8_t *)panel + scale_bytes;
    dtype t = quant_describe(s)->type;
    int64_t group = quant_describe(s)->group ? quant_describe(s)->group : WIDE_KB;
    for (int64_t g = k0; g < k1; g += group) {
        V scale[NV], less[NV];
        int64_t end = g + group < k1 ? g + group : k1;
        scale_vectors(s, panel, g, scale);
        if (t == DT_I4) {
            /* (u - 8) * s is a product of 4 and 8 bits: exact, and so is u * s - 8 * s in one step */
            for (int i = 0; i < NV; i++) less[i] = v_mul(scale[i], v_set1(-8));
            for (int64_t k = g; k < end; k += 2) {      /* an odd end writes one row more, which the block has room for */
                V lo[NV], hi[NV];
                wide4(data + k / 2 * 16, lo, hi);
                UNROLL for (int i = 0; i < NV; i++) {
                    v_store(dst + (k - k0) * GEMM_PANEL + i * VW, v_fma(lo[i], scale[i], less[i]));
                    v_store(dst + (k + 1 - k0) * GEMM_PANEL + i * VW, v_fma(hi[i], scale[i], less[i]));
                }
            }
        } else {
            for (int64_t k = g; k < end; k++) {
                V v[NV];
                if (t == DT_I8) wide8(data + k * 16, v);
                else wide_f8(data + k * 16, v);
                UNROLL for (int i = 0; i < NV; i++) v_store(dst + (k - k0) * GEMM_PANEL + i * VW, v_mul(v[i], scale[i]));
            }
        }
    }
}

#define WIDE_CASE(mr) \
    case (mr) * 2: rows_block(mr, 1, &g, block, stride, p, row, k0, k1); break; \
    case (mr) * 2 + 1: rows_block(mr, MANY_NP, &g, block, stride, p, row, k0, k1); break;

static void wide_drive(const qgemm_call *c, int64_t p0, int64_t p1)
{
    quant_scheme s = c->w->scheme;
    int64_t k = c->w->base.k;
    size_t panel = qgemm_panel_bytes(s, k), scales = qgemm_scale_bytes(s, k), stride = (size_t)WIDE_KB * GEMM_PANEL * sizeof(float);
    gemm_weight w = { .type = DT_F32, .n = c->w->base.n, .k = k };
    gemm_call g = { .w = &w, .x = c->x, .m = c->m, .ldx = c->ldx, .y = c->y, .ldy = c->ldy, .bias = c->bias, .residual = c->residual, .ldr = c->ldr };
    const char *block = (const char *)c->scratch;
    for (int64_t p = p0; p < p1;) {
        int np = p1 - p >= MANY_NP ? MANY_NP : 1;
        for (int64_t k0 = 0; k0 < k; k0 += WIDE_KB) {
            int64_t k1 = k0 + WIDE_KB < k ? k0 + WIDE_KB : k;
            for (int j = 0; j < np; j++) widen(s, (const char *)c->w->base.data + (size_t)(p + j) * panel, scales, k0, k1, c->scratch + j * WIDE_KB * GEMM_PANEL);
            for (int64_t row = 0; row < c->m;) {
                int mr = next_rows(c->m - row);
                switch (mr * 2 + (np > 1)) { ROW_TILES(WIDE_CASE) }
                row += mr;
            }
        }
        p += np;
    }
}
