/* Chooses tiles for a product: included by each kernel file after gemm_tile.h. */

/* Tile heights are 1, 2, 4, 6 and 8, widths 1 and the widest that fits the registers: each pair is a fully unrolled function per weight
 * type, and more of them cost build time without being faster (docs/performance.md). */
#define ROWS_CASE(fn, mr, np, ...) case (mr) * 8 + (np): fn(mr, np, __VA_ARGS__); break;
#ifdef GEMM_SMALL_REGISTERS
enum { MAX_MR = 6 };
#define ALL_TILES(fn, ...) \
    ROWS_CASE(fn, 1, 1, __VA_ARGS__) ROWS_CASE(fn, 2, 1, __VA_ARGS__) ROWS_CASE(fn, 4, 1, __VA_ARGS__) ROWS_CASE(fn, 6, 1, __VA_ARGS__) \
    ROWS_CASE(fn, 1, 4, __VA_ARGS__) ROWS_CASE(fn, 2, 2, __VA_ARGS__)
#define BLOCK_TILES(fn, ...) \
    ROWS_CASE(fn, 1, 1, __VA_ARGS__) ROWS_CASE(fn, 2, 1, __VA_ARGS__) ROWS_CASE(fn, 4, 1, __VA_ARGS__) ROWS_CASE(fn, 6, 1, __VA_ARGS__)
static int max_np(int mr, int64_t m) { return (void)m, mr == 1 ? 4 : mr == 2 ? 2 : 1; }
#else
enum { MAX_MR = 8 };
#define ALL_TILES(fn, ...) \
    ROWS_CASE(fn, 1, 1, __VA_ARGS__) ROWS_CASE(fn, 2, 1, __VA_ARGS__) ROWS_CASE(fn, 4, 1, __VA_ARGS__) ROWS_CASE(fn, 6, 1, __VA_ARGS__) \
    ROWS_CASE(fn, 8, 1, __VA_ARGS__) ROWS_CASE(fn, 1, 4, __VA_ARGS__) ROWS_CASE(fn, 2, 4, __VA_ARGS__) ROWS_CASE(fn, 4, 4, __VA_ARGS__) \
    ROWS_CASE(fn, 6, 4, __VA_ARGS__) ROWS_CASE(fn, 1, 3, __VA_ARGS__) ROWS_CASE(fn, 2, 3, __VA_ARGS__) ROWS_CASE(fn, 4, 3, __VA_ARGS__) \
    ROWS_CASE(fn, 6, 3, __VA_ARGS__) ROWS_CASE(fn, 8, 3, __VA_ARGS__)
/* The same width for all row tiles of a product, or a group of panels falls into a wide tile and slow ones of width 1. */
static int max_np(int mr, int64_t m) { return (void)mr, m >= MAX_MR ? 3 : 4; }
#endif

static int next_rows(int64_t left)
{
    if (left >= MAX_MR) return MAX_MR;
    return left >= 6 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

static void drive_direct(const gemm_call *c, int64_t p0, int64_t p1)
{
    int widest = max_np(MAX_MR, c->m) == 3 ? 3 : GEMM_MAX_NP;
    for (int64_t p = p0; p < p1;) {
        /* All row tiles over one group of panels, which stays in cache: the weights come from memory once. */
        int64_t group = p1 - p < widest ? p1 - p : widest;
        for (int64_t row = 0; row < c->m;) {
            int mr = next_rows(c->m - row), wide = max_np(mr, c->m);
            for (int64_t q = p; q < p + group;) {
                int np = p + group - q >= wide ? wide : 1;
                switch (mr * 8 + np) { ALL_TILES(rows_direct, c, q, row) }
                q += np;
            }
            row += mr;
        }
        p += group;
    }
}

#ifdef GEMM_SMALL_REGISTERS
/* Up to this many rows, widening weights again for every tile is cheaper than through scratch. With 512-bit tiles it always is: a tile of
 * 8 x 3 widens once for 8 rows, one of 6 x 1 has no register to spare for it (docs/performance.md). */
enum { DIRECT_ROWS = 4 * MAX_MR };

static void drive_blocks(const gemm_call *c, int64_t p0, int64_t p1)
{
    const gemm_weight *w = c->w;
    size_t panel = gemm_panel_bytes(w->type, w->k);
    for (int64_t p = p0; p < p1; p++)
        for (int64_t k0 = 0; k0 < w->k; k0 += GEMM_KB) {
            int64_t k1 = k0 + GEMM_KB < w->k ? k0 + GEMM_KB : w->k;
            const char *block = (const char *)w->data + (size_t)p * panel + (size_t)k0 * GEMM_PANEL * sizeof(float);
            size_t stride = panel;
            if (w->type != DT_F32) { /* float32 is read in place, the others are widened once for all rows */
                convert_block(w, p, 1, k0, k1, c->scratch);
                block = (const char *)c->scratch;
                stride = (size_t)(k1 - k0) * GEMM_PANEL * sizeof(float);
            }
            for (int64_t row = 0; row < c->m;) {
                int mr = next_rows(c->m - row);
                switch (mr * 8 + 1) { BLOCK_TILES(rows_block, c, block, stride, p, row, k0, k1) }
                row += mr;
            }
        }
}

static void drive(const gemm_call *c, int64_t p0, int64_t p1)
{
    if (c->m <= 0 || p0 >= p1) return;
    if (c->m <= DIRECT_ROWS) drive_direct(c, p0, p1);
    else drive_blocks(c, p0, p1);
}
#else
static void drive(const gemm_call *c, int64_t p0, int64_t p1) { drive_direct(c, p0, p1); }
#endif
