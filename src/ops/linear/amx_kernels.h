/* Products over tiles, written once over amx_tile.h: a kernel file includes this and gets amx_dot (bfloat16, a gemm_fn) and amx_run (int8
 * activations, a qgemm_fn). amx.h says what they compute.
 *
 * A panel's 16 columns of 16 lanes are a tile as they lie in memory: pairs of bfloat16, four int8. So weights are not packed again, but for
 * int4, of which a block becomes bytes before rows pass over it. Two shapes: up to 16 rows by 4 panels, more rows as 32 by 2 panels; each has
 * four tiles of sums (0 to 3), one or two of activations (4, 5), two of weights (6, 7). What is left of k after whole tiles is copied with
 * zeros behind it, rows that are left have tiles of less rows. */
#include "ops/linear/amx.h"
#include "ops/linear/amx_tile.h"

enum { MOST_PANELS = 4, WIDE_ROWS = TILE_ROWS, TALL_ROWS = 2 * TILE_ROWS, SUMS = TALL_ROWS * 2 * GEMM_PANEL };
typedef enum dot_kind { DOT_BF16, DOT_I8 } dot_kind;

/* One block of sums: rows x panels over `steps` tiles of `bytes` (of a row of activations) each, then one from the tails if there are any. */
typedef struct block {
    dot_kind kind;
    const char *a; int64_t lda; int rows;
    const char *b; size_t stride; int panels;               /* panels lie `stride` bytes apart */
    int64_t steps; int bytes;
    const char *a_tail, *b_tail;                            /* [rows][64], [panels][1024], or NULL */
} block;

static int panels_at_once(int64_t m) { return m <= WIDE_ROWS ? MOST_PANELS : 2; }
static int rows_at_once(int64_t m) { return m <= WIDE_ROWS ? WIDE_ROWS : TALL_ROWS; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Shapes for blocks of this many rows; `have` remembers what is configured. Sums of a wide block are tiles of the first rows only. */
typedef struct shapes { int rows, bytes, wide; } shapes;
static void configure(shapes *have, int rows, int bytes, int wide)
{
    if (have->rows == rows && have->bytes == bytes && have->wide == wide) return;
    *have = (shapes){ rows, bytes, wide };
    int first = rows < TILE_ROWS ? rows : TILE_ROWS, second = rows - first;
    tile_config c = { .palette = 1 };
    for (int t = 0; t < 6; t++) {
        int n = t < 2 || t == 4 || (wide && t < 4) ? first : second;
        c.rows[t] = (uint8_t)n;
        c.colsb[t] = (uint16_t)(!n ? 0 : t < 4 ? TILE_LINE : bytes);
    }
    c.rows[6] = c.rows[7] = (uint8_t)(bytes / 4);
    c.colsb[6] = c.colsb[7] = TILE_LINE;
    tile_configure(&c);
}

#define DOT(kind, d, a, b) \
    do { \
        if ((kind) == DOT_BF16) tile_dot_bf16(d, a, b); \
        else tile_dot_i8(d, a, b); \
    } while (0)

/* Up to 16 rows, 1 to 4 panels: sums [rows][64]. */
static inline __attribute__((always_inline)) void wide_sums(const dot_kind kind, const block *o, void *sums)
{
    const int n = o->panels, step = o->bytes / 4 * TILE_LINE;
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
    for (int64_t s = 0; s < o->steps + (o->a_tail != NULL); s++) {
        const char *b = o->b + s * step;
        size_t next = o->stride;
        if (s < o->steps) {
            tile_load(4, o->a + s * o->bytes, o->lda);
        } else {
            b = o->b_tail, next = TILE_BYTES;
            tile_load(4, o->a_tail, TILE_LINE);
        }
        tile_load(6, b, TILE_LINE);
        DOT(kind, 0, 4, 6);
        if (n > 1) {
            tile_load(7, b + next, TILE_LINE);
            DOT(kind, 1, 4, 7);
        }
        if (n > 2) {
            tile_load(6, b + 2 * next, TILE_LINE);
            DOT(kind, 2, 4, 6);
        }
        if (n > 3) {
            tile_load(7, b + 3 * next, TILE_LINE);
            DOT(kind, 3, 4, 7);
        }
    }
    enum { LD = MOST_PANELS * TILE_LINE };
    char *to = sums;
    tile_keep(0, to, LD);
    if (n > 1) tile_keep(1, to + TILE_LINE, LD);
    if (n > 2) tile_keep(2, to + 2 * TILE_LINE, LD);
    if (n > 3) tile_keep(3, to + 3 * TILE_LINE, LD);
}

/* Up to 32 rows, 1 or 2 panels: sums [rows][32]. */
static inline __attribute__((always_inline)) void tall_sums(const dot_kind kind, const block *o, void *sums)
{
    const int two = o->panels > 1, more = o->rows > TILE_ROWS, step = o->bytes / 4 * TILE_LINE;
    tile_zero(0);
    tile_zero(1);
    if (more) {
        tile_zero(2);
        tile_zero(3);
    }
    for (int64_t s = 0; s < o->steps + (o->a_tail != NULL); s++) {
        const char *a = o->a + s * o->bytes, *b = o->b + s * step;
        size_t next = o->stride;
        int64_t lda = o->lda;
        if (s == o->steps) a = o->a_tail, lda = TILE_LINE, b = o->b_tail, next = TILE_BYTES;
        tile_load(4, a, lda);
        tile_load(6, b, TILE_LINE);
        DOT(kind, 0, 4, 6);
        if (two) {
            tile_load(7, b + next, TILE_LINE);
            DOT(kind, 1, 4, 7);
        }
        if (more) {
            tile_load(5, a + TILE_ROWS * lda, lda);
            DOT(kind, 2, 5, 6);
            if (two) DOT(kind, 3, 5, 7);
        }
    }
    enum { LD = 2 * TILE_LINE };
    char *to = sums;
    tile_keep(0, to, LD);
    if (two) tile_keep(1, to + TILE_LINE, LD);
    if (more) {
        tile_keep(2, to + TILE_ROWS * LD, LD);
        if (two) tile_keep(3, to + TILE_ROWS * LD + TILE_LINE, LD);
    }
}

static void block_sums(const block *o, int wide, void *sums)
{
    if (o->kind == DOT_BF16) {
        if (wide) wide_sums(DOT_BF16, o, sums);
        else tall_sums(DOT_BF16, o, sums);
    } else if (wide) {
        wide_sums(DOT_I8, o, sums);
    } else {
        tall_sums(DOT_I8, o, sums);
    }
}

/* ---- products over all of k: whole tiles, then what is left ---- */

typedef struct tails { _Alignas(64) char a[TALL_ROWS][TILE_LINE], b[MOST_PANELS][TILE_BYTES]; } tails;

/* m rows of k_bytes, lda bytes apart, by panels from b on, stride bytes apart. */
typedef struct whole { dot_kind kind; const char *a; int64_t lda, m, k_bytes; const char *b; size_t stride; shapes have; tails t; } whole;

/* The last `bytes` of each row, those from `at` on. */
static void copy_rows(tails *t, const char *a, int64_t lda, int rows, int64_t at, int bytes)
{
    for (int r = 0; r < rows; r++) {
        memset(t->a[r], 0, TILE_LINE);
        memcpy(t->a[r], a + r * lda + at, (size_t)bytes);
    }
}

static void copy_panels(tails *t, const char *b, size_t stride, int panels, int64_t at, int bytes)
{
    for (int j = 0; j < panels; j++) {
        memset(t->b[j], 0, TILE_BYTES);
        memcpy(t->b[j], b + (size_t)j * stride + at / 4 * TILE_LINE, (size_t)bytes / 4 * TILE_LINE);
    }
}

/* A block of n panels from p on, before its rows. */
static block open_block(whole *w, int64_t p, int64_t n)
{
    const int64_t steps = w->k_bytes / TILE_LINE, left = w->k_bytes % TILE_LINE;
    block o = { .kind = w->kind, .lda = w->lda, .b = w->b + (size_t)p * w->stride, .stride = w->stride, .panels = (int)n, .steps = steps, .bytes = TILE_LINE };
    if (!left) return o;
    copy_panels(&w->t, o.b, o.stride, o.panels, steps * TILE_LINE, (int)left);
    o.a_tail = w->t.a[0], o.b_tail = w->t.b[0];
    return o;
}

/* The next rows of an open block, from `row` on: o->rows of them. */
static void sum_rows(whole *w, block *o, int64_t row, void *sums)
{
    const int wide = w->m <= WIDE_ROWS;
    const int64_t at = o->steps * TILE_LINE;
    o->rows = (int)least(w->m - row, rows_at_once(w->m));
    o->a = w->a + row * w->lda;
    if (o->a_tail) copy_rows(&w->t, o->a, o->lda, o->rows, at, (int)(w->k_bytes - at));
    configure(&w->have, o->rows, TILE_LINE, wide);
    block_sums(o, wide, sums);
}

/* ---- results ---- */

typedef struct results { float *y; int64_t ldy; const float *bias, *residual; int64_t ldr, n; } results;

/* 16 columns of a row, from column `col` on: bias, then residual; columns beyond n are not there. */
static inline void put(const results *to, int64_t row, int64_t col, __m512 v)
{
    int64_t left = to->n - col;
    __mmask16 m = left >= 16 ? (__mmask16)0xFFFF : (__mmask16)((1u << left) - 1);
    if (to->bias) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(m, to->bias + col));
    if (to->residual) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(m, to->residual + row * to->ldr + col));
    _mm512_mask_storeu_ps(to->y + row * to->ldy + col, m, v);
}

/* ---- bfloat16 ---- */

static void amx_dot(const gemm_call *c, int64_t p0, int64_t p1)
{
    const int at_once = panels_at_once(c->m), ld = at_once * GEMM_PANEL;
    const results to = { c->y, c->ldy, c->bias, c->residual, c->ldr, c->w->n };
    whole w = { .kind = DOT_BF16, .a = (const char *)c->x, .lda = c->ldx * 4, .m = c->m, .k_bytes = gemm_pairs(c->w->k) * 4,
                .b = (const char *)c->w->data, .stride = gemm_panel_bytes(DT_BF16, c->w->k) };
    _Alignas(64) float sums[SUMS];
    if (c->m <= 0 || p0 >= p1) return;
    for (int64_t p = p0; p < p1; p += at_once) {
        block o = open_block(&w, p, least(p1 - p, at_once));
        for (int64_t row = 0; row < c->m; row += o.rows) {
            sum_rows(&w, &o, row, sums);
            for (int r = 0; r < o.rows; r++)
                for (int j = 0; j < o.panels; j++) put(&to, row + r, (p + j) * GEMM_PANEL, _mm512_load_ps(sums + r * ld + j * GEMM_PANEL));
        }
    }
    tile_release();
}

/* ---- int8 activations, a scale per channel: sums over all of k ---- */

static void run_channel(const qgemm_call *c, int64_t p0, int64_t p1)
{
    const quant_scheme s = c->w->scheme;
    const int at_once = panels_at_once(c->m), ld = at_once * GEMM_PANEL;
    const results to = { c->y, c->ldy, c->bias, c->residual, c->ldr, c->w->base.n };
    const char *panels = (const char *)c->w->base.data;
    whole w = { .kind = DOT_I8, .a = (const char *)c->q, .lda = c->ldq, .m = c->m, .k_bytes = qgemm_padded_k(s, c->w->base.k),
                .b = panels + qgemm_scale_bytes(s, c->w->base.k), .stride = qgemm_panel_bytes(s, c->w->base.k) };
    _Alignas(64) int32_t sums[SUMS];
    for (int64_t p = p0; p < p1; p += at_once) {
        block o = open_block(&w, p, least(p1 - p, at_once));
        for (int64_t row = 0; row < c->m; row += o.rows) {
            sum_rows(&w, &o, row, sums);
            for (int r = 0; r < o.rows; r++) {
                const qgemm_scale *qs = c->s + (row + r) * c->lds;
                const __m512i start = _mm512_set1_epi32(qs->start);
                const __m512 sa = _mm512_set1_ps(qs->scale);
                for (int j = 0; j < o.panels; j++) {
                    __m512 sw = _mm512_loadu_ps(panels + (size_t)(p + j) * w.stride);
                    __m512i sum = _mm512_add_epi32(_mm512_load_si512(sums + r * ld + j * GEMM_PANEL), start);
                    put(&to, row + r, (p + j) * GEMM_PANEL, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(sa, sw)));
                }
            }
        }
    }
}

/* ---- int8 activations, a scale per group ----
 * Results rest in scratch while groups pass: CHUNK k's of the panels (as bytes, of int4), all rows over them, the next chunk. */

enum { CHUNK = 512, ROWS = 128 };
typedef struct room { _Alignas(64) float y[ROWS * 2 * GEMM_PANEL]; uint8_t bytes[MOST_PANELS][CHUNK * GEMM_PANEL]; int32_t sums[SUMS]; } room;
_Static_assert(sizeof(room) <= GEMM_SCRATCH_BYTES, "scratch is large enough");

/* `lines` of 64 bytes with two numbers each to two lines of one. */
static void unpack(const char *src, uint8_t *dst, int64_t lines)
{
    const __m512i low = _mm512_set1_epi8(15);
    for (int64_t i = 0; i < lines; i++) {
        __m512i v = _mm512_loadu_si512(src + i * TILE_LINE);
        _mm512_store_si512(dst + 2 * i * TILE_LINE, _mm512_and_si512(v, low));
        _mm512_store_si512(dst + (2 * i + 1) * TILE_LINE, _mm512_and_si512(_mm512_srli_epi16(v, 4), low));
    }
}

/* One group's sums of some rows into their results: y += (float)sum * (sa * sw). */
static void add_group(const qgemm_call *c, int64_t row, int rows, int64_t g, const char *scales, size_t stride, int panels, int ld, const int32_t *sums, float *y)
{
    __m512 sw[MOST_PANELS];
    for (int j = 0; j < panels; j++) {
        const char *at = scales + (size_t)j * stride + (size_t)g * GEMM_PANEL * 2;
        sw[j] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)at)), 16));
    }
    for (int r = 0; r < rows; r++) {
        const qgemm_scale *qs = c->s + (row + r) * c->lds + g;
        const __m512i start = _mm512_set1_epi32(qs->start);
        const __m512 sa = _mm512_set1_ps(qs->scale);
        for (int j = 0; j < panels; j++) {
            float *to = y + r * ld + j * GEMM_PANEL;
            __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_load_si512(sums + r * ld + j * GEMM_PANEL), start));
            _mm512_store_ps(to, _mm512_fmadd_ps(sum, _mm512_mul_ps(sa, sw[j]), _mm512_load_ps(to)));
        }
    }
}

/* `rows` rows from `row` on, `panels` panels from p on. */
static void run_groups(const qgemm_call *c, shapes *have, int64_t p, int panels, int64_t row, int64_t rows)
{
    const quant_scheme s = c->w->scheme;
    const quant_info q = quant_describe(s);
    const int wide = c->m <= WIDE_ROWS, nibbles = q.type == DT_I4, ld = panels_at_once(c->m) * GEMM_PANEL, bytes = q.group < TILE_LINE ? q.group : TILE_LINE;
    const int64_t groups = qgemm_groups(s, c->w->base.k), per_chunk = CHUNK / q.group;
    const size_t stride = qgemm_panel_bytes(s, c->w->base.k), group_bytes = (size_t)q.group * GEMM_PANEL;
    const char *scales = (const char *)c->w->base.data + (size_t)p * stride, *values = scales + qgemm_scale_bytes(s, c->w->base.k);
    const results to = { c->y, c->ldy, c->bias, c->residual, c->ldr, c->w->base.n };
    room *r = (room *)(void *)c->scratch;
    memset(r->y, 0, (size_t)(rows * ld) * sizeof *r->y);
    for (int64_t g0 = 0; g0 < groups; g0 += per_chunk) {
        const int64_t n = least(groups - g0, per_chunk);
        const char *b = values + (size_t)g0 * group_bytes;
        size_t between = stride;
        if (nibbles) {
            for (int j = 0; j < panels; j++) unpack(values + (size_t)j * stride + (size_t)g0 * group_bytes / 2, r->bytes[j], n * q.group / 8);
            b = (const char *)r->bytes, between = sizeof r->bytes[0];
        }
        for (int64_t at = 0; at < rows; at += rows_at_once(c->m)) {
            block o = { .kind = DOT_I8, .lda = c->ldq, .rows = (int)least(rows - at, rows_at_once(c->m)), .stride = between, .panels = panels, .steps = q.group / bytes, .bytes = bytes };
            configure(have, o.rows, bytes, wide);
            for (int64_t g = 0; g < n; g++) {
                o.a = (const char *)c->q + (row + at) * c->ldq + (g0 + g) * q.group;
                o.b = b + (size_t)g * group_bytes;
                block_sums(&o, wide, r->sums);
                add_group(c, row + at, o.rows, g0 + g, scales, stride, panels, ld, r->sums, r->y + at * ld);
            }
        }
    }
    for (int64_t i = 0; i < rows; i++)
        for (int j = 0; j < panels; j++) put(&to, row + i, (p + j) * GEMM_PANEL, _mm512_load_ps(r->y + i * ld + j * GEMM_PANEL));
}

static void amx_run(const qgemm_call *c, int64_t p0, int64_t p1)
{
    if (c->m <= 0 || p0 >= p1) return;
    if (!quant_describe(c->w->scheme).group) {
        run_channel(c, p0, p1);
    } else {
        const int at_once = panels_at_once(c->m);
        shapes have = { 0 };
        for (int64_t p = p0; p < p1; p += at_once)
            for (int64_t row = 0; row < c->m; row += ROWS) run_groups(c, &have, p, (int)least(p1 - p, at_once), row, least(c->m - row, ROWS));
    }
    tile_release();
}
