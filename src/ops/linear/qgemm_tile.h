/* The product with int8 activations, written once over a few vector primitives. A kernel file defines
 *   I, F          vectors of LW int32 and floats;  NV = GEMM_PANEL / LW vectors per panel
 *   A, a_load     four activations in every lane, in whatever form dot8 and dot4 like
 *   dot8, dot4    sums += products of four k's; weights as they are packed, int8 or a nibble per byte
 *   DOT8_START    what a sum that dot8 makes starts at, from qgemm_scale.start: 0 if dot8 takes the offset away itself
 *   i_load i_set1 i_low i_high   32 LW bits; nibbles of bytes
 *   f_of f_load f_store f_set1 f_mul f_div f_add f_fma, load_bf16
 * and the tile heights HEIGHTS_CHANNEL / HEIGHTS_GROUP and widths NP_CHANNEL / NP_GROUP that fit its registers, and includes this
 * file, which gives qgemm_drive(). */

#ifdef SYSTOLIC_SANITIZED /* instrumented, the unrolled tiles take a compiler minutes and gigabytes; plain loops give the same bits */
#define TILE_INLINE static inline
#define UNROLL
#else
#define TILE_INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum { NV = GEMM_PANEL / LW, MAX_TILE_ROWS = 8, MAX_TILE_NP = 4 };

/* sums += `vectors` packed vectors from w on, `stride` bytes from panel to panel; q: the first row's activations. What is `ahead`
 * bytes further on will be wanted next. */
TILE_INLINE void sum_group(const int MR, const int NP, const int nibbles, const char *w, size_t stride, const int8_t *q, int64_t ldq, int vectors,
                           size_t ahead, I sum[MAX_TILE_ROWS][MAX_TILE_NP * NV])
{
    for (int v = 0; v < vectors; v++) {
        UNROLL for (int j = 0; j < NP; j++) __builtin_prefetch(w + (size_t)j * stride + (size_t)v * 64 + ahead, 0, 2);
        I lo[MAX_TILE_NP * NV], hi[MAX_TILE_NP * NV];
        UNROLL for (int j = 0; j < NP; j++)
            UNROLL for (int i = 0; i < NV; i++) {
                I x = i_load(w + (size_t)j * stride + (size_t)v * 64 + (size_t)i * sizeof(I));
                lo[j * NV + i] = nibbles ? i_low(x) : x;
                if (nibbles) hi[j * NV + i] = i_high(x);
            }
        UNROLL for (int r = 0; r < MR; r++) {
            const int8_t *at = q + r * ldq + v * (nibbles ? 8 : 4);
            A a = a_load(at);
            UNROLL for (int j = 0; j < NP * NV; j++) sum[r][j] = nibbles ? dot4(sum[r][j], lo[j], a) : dot8(sum[r][j], lo[j], a);
            if (nibbles) {
                A b = a_load(at + 4);
                UNROLL for (int j = 0; j < NP * NV; j++) sum[r][j] = dot4(sum[r][j], hi[j], b);
            }
        }
    }
}

/* One row's results for NP panels from column `col` on: bias, residual, the last panel's missing columns. */
TILE_INLINE void put_row(const int NP, const qgemm_call *c, int64_t row, int64_t col, F y[MAX_TILE_NP * NV])
{
    float *dst = c->y + row * c->ldy;
    const float *res = c->residual ? c->residual + row * c->ldr : NULL;
    int64_t n = c->w->base.n;
    UNROLL for (int j = 0; j < NP * NV; j++) {
        int64_t at = col + j * LW;
        F v = y[j];
        if (at + LW <= n) {
            if (c->bias) v = f_add(v, f_load(c->bias + at));
            if (res) v = f_add(v, f_load(res + at));
            f_store(dst + at, v);
        } else if (at < n) {
            float part[LW];
            f_store(part, v);
            for (int64_t i = 0; at + i < n; i++) {
                float f = part[i];
                if (c->bias) f += c->bias[at + i];
                if (res) f += res[at + i];
                dst[at + i] = f;
            }
        }
    }
}

TILE_INLINE void tile_channel(const int MR, const int NP, const qgemm_call *c, size_t stride, int64_t p, int64_t row, size_t ahead)
{
    quant_scheme s = c->w->scheme;
    const char *w = (const char *)c->w->base.data + (size_t)p * stride;
    const qgemm_scale *qs = c->s + row * c->lds;
    I sum[MAX_TILE_ROWS][MAX_TILE_NP * NV];
    UNROLL for (int r = 0; r < MR; r++) UNROLL for (int j = 0; j < NP * NV; j++) sum[r][j] = i_set1(DOT8_START(qs[r * c->lds].start));
    sum_group(MR, NP, 0, w + GEMM_PANEL * sizeof(float), stride, c->q + row * c->ldq, c->ldq, (int)(qgemm_padded_k(s, c->w->base.k) / 4), ahead, sum);
    UNROLL for (int r = 0; r < MR; r++) {
        F y[MAX_TILE_NP * NV], sa = f_set1(qs[r * c->lds].scale);
        UNROLL for (int j = 0; j < NP; j++)
            UNROLL for (int i = 0; i < NV; i++) {
                F sw = f_load((const float *)(const void *)(w + (size_t)j * stride) + i * LW);
                y[j * NV + i] = f_mul(f_of(sum[r][j * NV + i]), f_mul(sa, sw));
            }
        put_row(NP, c, row + r, p * GEMM_PANEL, y);
    }
}

TILE_INLINE void tile_group(const int MR, const int NP, const int nibbles, const int group, const qgemm_call *c, size_t stride, int64_t p,
                            int64_t row, size_t ahead)
{
    quant_scheme s = c->w->scheme;
    const int vectors = group / (nibbles ? 8 : 4);
    int64_t groups = qgemm_groups(s, c->w->base.k);
    const char *scales = (const char *)c->w->base.data + (size_t)p * stride, *w = scales + qgemm_scale_bytes(s, c->w->base.k);
    const int8_t *q = c->q + row * c->ldq;
    const qgemm_scale *qs = c->s + row * c->lds;
    F y[MAX_TILE_ROWS][MAX_TILE_NP * NV];
    UNROLL for (int r = 0; r < MR; r++) UNROLL for (int j = 0; j < NP * NV; j++) y[r][j] = f_set1(0);
    for (int64_t g = 0; g < groups; g++) {
        I sum[MAX_TILE_ROWS][MAX_TILE_NP * NV];
        F sw[MAX_TILE_NP * NV];
        UNROLL for (int r = 0; r < MR; r++) {
            int32_t start = qs[r * c->lds + g].start;
            UNROLL for (int j = 0; j < NP * NV; j++) sum[r][j] = i_set1(nibbles ? start : DOT8_START(start));
        }
        sum_group(MR, NP, nibbles, w + g * vectors * 64, stride, q + g * group, c->ldq, vectors, ahead, sum);
        UNROLL for (int j = 0; j < NP; j++)
            load_bf16((const uint16_t *)(const void *)(scales + (size_t)j * stride) + g * GEMM_PANEL, &sw[j * NV]);
        UNROLL for (int r = 0; r < MR; r++) {
            F sa = f_set1(qs[r * c->lds + g].scale);
            UNROLL for (int j = 0; j < NP * NV; j++) y[r][j] = f_fma(f_of(sum[r][j]), f_mul(sa, sw[j]), y[r][j]);
        }
    }
    UNROLL for (int r = 0; r < MR; r++) put_row(NP, c, row + r, p * GEMM_PANEL, y[r]);
}

/* Each height and width is a function of its own, unrolled. */
#define TILE_FN(kind, mr, np, ...) \
    static void kind##_##mr##x##np(const qgemm_call *c, size_t stride, int64_t p, int64_t row, size_t ahead) { __VA_ARGS__; }
#define CHANNEL_FN(mr) \
    TILE_FN(int8, mr, 1, tile_channel(mr, 1, c, stride, p, row, ahead)) TILE_FN(int8, mr, NP, tile_channel(mr, NP_CHANNEL, c, stride, p, row, ahead))
#define GROUP_FN(mr)                                                                                                                    \
    TILE_FN(int8_g32, mr, 1, tile_group(mr, 1, 0, 32, c, stride, p, row, ahead)) TILE_FN(int8_g32, mr, NP, tile_group(mr, NP_GROUP, 0, 32, c, stride, p, row, ahead))   \
    TILE_FN(int4_g32, mr, 1, tile_group(mr, 1, 1, 32, c, stride, p, row, ahead)) TILE_FN(int4_g32, mr, NP, tile_group(mr, NP_GROUP, 1, 32, c, stride, p, row, ahead))   \
    TILE_FN(int4_g128, mr, 1, tile_group(mr, 1, 1, 128, c, stride, p, row, ahead)) TILE_FN(int4_g128, mr, NP, tile_group(mr, NP_GROUP, 1, 128, c, stride, p, row, ahead))
HEIGHTS_CHANNEL(CHANNEL_FN)
HEIGHTS_GROUP(GROUP_FN)

typedef void tile_fn(const qgemm_call *c, size_t stride, int64_t p, int64_t row, size_t ahead);
/* By height: one panel wide, and the widest. */
typedef struct tiles { int np, most; tile_fn *fn[MAX_TILE_ROWS + 1][2]; } tiles;

static const tiles *tiles_of(quant_scheme s)
{
#define CHANNEL_ROW(mr) [mr] = { int8_##mr##x1, int8_##mr##xNP },
    static const tiles channel = { NP_CHANNEL, MOST_CHANNEL, { HEIGHTS_CHANNEL(CHANNEL_ROW) } };
#define GROUP_ROW(mr) [mr] = { int8_g32_##mr##x1, int8_g32_##mr##xNP },
    static const tiles int8_g32 = { NP_GROUP, MOST_GROUP, { HEIGHTS_GROUP(GROUP_ROW) } };
#undef GROUP_ROW
#define GROUP_ROW(mr) [mr] = { int4_g32_##mr##x1, int4_g32_##mr##xNP },
    static const tiles int4_g32 = { NP_GROUP, MOST_GROUP, { HEIGHTS_GROUP(GROUP_ROW) } };
#undef GROUP_ROW
#define GROUP_ROW(mr) [mr] = { int4_g128_##mr##x1, int4_g128_##mr##xNP },
    static const tiles int4_g128 = { NP_GROUP, MOST_GROUP, { HEIGHTS_GROUP(GROUP_ROW) } };
    quant_info q = quant_describe(s);
    if (q.type == DT_I8) return q.group ? &int8_g32 : &channel;
    return q.group == 32 ? &int4_g32 : &int4_g128;
}

enum { AHEAD_BYTES = 1024 };

/* The weights stream from memory once: all rows pass over a few panels, which stay in cache. */
static void qgemm_drive(const qgemm_call *c, int64_t p0, int64_t p1)
{
    const tiles *t = tiles_of(c->w->scheme);
    size_t panel = qgemm_panel_bytes(c->w->scheme, c->w->base.k);
    bool narrow = c->m <= 2 && c->w->base.type == DT_I4;     /* a group's sums are many enough by themselves, and one stream is read faster */
    for (int64_t p = p0; p < p1;) {
        int np = p1 - p >= t->np && !narrow ? t->np : 1;
        /* The first rows fetch what the next panels need, over all the time that this one takes; where there is next to nothing to
         * compute, a little ahead is better (docs/performance.md). */
        size_t ahead = c->m <= 2 && c->w->base.type == DT_I8 ? AHEAD_BYTES : p + np < p1 ? (size_t)np * panel : 0;
        for (int64_t row = 0; row < c->m;) {
            int mr = c->m - row < t->most ? (int)(c->m - row) : t->most;
            while (!t->fn[mr][0]) mr--;
            t->fn[mr][np > 1](c, panel, p, row, row == 0 ? ahead : 0);
            row += mr;
        }
        p += np;
    }
}

/* ---- activations ---- */

/* Groups whose largest value is below count as zero, as for weights. */
#define QGEMM_TINY 0x1p-100f

/* Sixteen floats at a time: the bits of the largest magnitude; NaN and infinity compare as larger than any number. */
static uint32_t largest_bits(const float *x, int64_t n)
{
    I most[NV];
    uint32_t top = 0;
    int64_t i = 0;
    for (int v = 0; v < NV; v++) most[v] = i_set1(0);
    for (; i + GEMM_PANEL <= n; i += GEMM_PANEL)
        for (int v = 0; v < NV; v++) most[v] = i_max(most[v], i_magnitude(f_load(x + i + v * LW)));
    for (int v = 0; v < NV; v++) {
        uint32_t lane[LW];
        i_store(lane, most[v]);
        for (int l = 0; l < LW; l++) top = lane[l] > top ? lane[l] : top;
    }
    for (; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, 4);
        u &= 0x7FFFFFFFu;
        top = u > top ? u : top;
    }
    return top;
}

/* n floats to int8 (zeros after them, up to a multiple of 16); their sum. */
static int32_t round_group(const float *x, int64_t n, float scale, int8_t *q)
{
    F f = f_set1(scale);
    I sum[NV];
    int32_t total = 0;
    for (int v = 0; v < NV; v++) sum[v] = i_set1(0);
    for (int64_t i = 0; i < n; i += GEMM_PANEL) {
        float tail[GEMM_PANEL] = { 0 };
        const float *from = x + i;
        I r[NV];
        if (n - i < GEMM_PANEL) from = memcpy(tail, x + i, (size_t)(n - i) * sizeof(float));
        for (int v = 0; v < NV; v++) {
            r[v] = i_round(f_div(f_load(from + v * LW), f));
            sum[v] = i_add(sum[v], r[v]);
        }
        store_bytes(q + i, r);
    }
    for (int v = 0; v < NV; v++) {
        int32_t lane[LW];
        i_store(lane, sum[v]);
        for (int l = 0; l < LW; l++) total += lane[l];
    }
    return total;
}

static void qgemm_round(const float *x, int64_t k, int64_t group, int offset, int8_t *q, qgemm_scale *s)
{
    for (int64_t g = 0; g * group < k; g++) {
        int64_t n = k - g * group < group ? k - g * group : group, whole = (n + GEMM_PANEL - 1) / GEMM_PANEL * GEMM_PANEL;
        uint32_t top = largest_bits(x + g * group, n);
        float amax;
        memcpy(&amax, &top, 4);
        s[g] = (qgemm_scale){ 0, 0 };
        if (top >= 0x7F800000u) s[g].scale = amax - amax;        /* NaN: what comes out shows it */
        if (top >= 0x7F800000u || amax < QGEMM_TINY) {
            memset(q + g * group, 0, (size_t)group);
            continue;
        }
        s[g] = (qgemm_scale){ amax / 127.0f, -offset * round_group(x + g * group, n, amax / 127.0f, q + g * group) };
        memset(q + g * group + whole, 0, (size_t)(group - whole));
    }
}
