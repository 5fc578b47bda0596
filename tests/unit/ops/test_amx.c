/* Products over tiles: the kernels of amx_kernels.h over emulated tiles, and over real ones where there are any, against Intel's manual
 * written down once more, number by number; and that no tile instruction is touched where it would trap. */
#include <math.h>

#include "base/mem.h"
#include "ops/isa.h"
#include "ops/linear/amx.h"
#include "ops/linear/quantise.h"
#include "tests/test.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { MOST_ROWS = 70 };

static uint32_t seed;
static uint32_t draw(void) { return seed = seed * 1664525u + 1013904223u; }
static float plain(void) { return (float)((int32_t)(draw() >> 8) % 2001 - 1000) / 1000.0f; }
/* Exponents around 2^center: small ones meet subnormal numbers, large ones overflow. */
static float wild(int center, int spread)
{
    uint32_t mantissa = draw() >> 9;
    int e = center + (int)((draw() >> 8) % (uint32_t)(2 * spread + 1)) - spread;
    return (float)ldexp((draw() >> 31 ? -1.0 : 1.0) * (1 + mantissa / 8388608.0), e);
}

/* ---- bfloat16: tdpbf16ps as the manual's "Operation" has it ---- */

static float flush(float f) { return fabsf(f) < 0x1p-126f ? copysignf(0, f) : f; }
static float stored(float f) { return flush(bf16_to_f32(f32_to_bf16(f))); }

/* Blocks of 32 k's: two chains from zero, their sum, and that to the element. */
static float element(const float *x, const float *w, int k)
{
    float sum = 0;
    for (int at = 0; at < k; at += 32) {
        float even = 0, odd = 0;
        for (int i = at; i < at + 32; i += 2) {
            even = flush(fmaf(i < k ? stored(x[i]) : 0, i < k ? stored(w[i]) : 0, even));
            odd = flush(fmaf(i + 1 < k ? stored(x[i + 1]) : 0, i + 1 < k ? stored(w[i + 1]) : 0, odd));
        }
        sum = flush(sum + flush(even + odd));
    }
    return sum;
}

typedef struct problem { int k, n, ld; float *w, *x, *bias, *residual, *want, *y, *lanes; void *packed; } problem;

/* spread 0: plain numbers */
static void open_problem(problem *p, int k, int n, int center_w, int center, int spread)
{
    int pairs = (int)gemm_pairs(k), ld = pairs + 3;
    *p = (problem){ .k = k, .n = n, .ld = ld };
    p->w = mem_array((size_t)(k * n), 4), p->x = mem_array((size_t)(k * MOST_ROWS), 4), p->bias = mem_array((size_t)n, 4);
    p->residual = mem_array((size_t)(MOST_ROWS * n), 4), p->want = mem_array((size_t)(MOST_ROWS * n), 4), p->y = mem_array((size_t)(MOST_ROWS * n), 4);
    p->lanes = mem_array((size_t)(MOST_ROWS * ld), 4), p->packed = mem_aligned(64, gemm_packed_bytes(DT_BF16, n, k));
    seed = (uint32_t)(k * 31 + n + center);
    for (int i = 0; i < k * n; i++) p->w[i] = spread ? wild(center_w, spread) : plain();
    for (int i = 0; i < k * MOST_ROWS; i++) p->x[i] = spread ? wild(center, spread) : plain();
    for (int i = 0; i < n; i++) p->bias[i] = center ? 0 : plain();                         /* numbers of their size would hide tiny ones */
    for (int i = 0; i < MOST_ROWS * n; i++) p->residual[i] = center ? 0 : plain();
    memset(p->lanes, 0xFF, (size_t)(MOST_ROWS * ld) * 4);        /* what lies between rows is no number */
    for (int m = 0; m < MOST_ROWS; m++) gemm_round_avx512bf16(p->x + m * k, k, p->lanes + m * ld);
    for (int64_t q = 0; q < gemm_n_panels(n); q++) {
        const void *rows[GEMM_PANEL];
        for (int c = 0; c < GEMM_PANEL; c++) rows[c] = q * GEMM_PANEL + c < n ? p->w + (q * GEMM_PANEL + c) * k : NULL;
        gemm_pack_panel(DT_BF16, p->packed, k, q, rows, DT_F32);
    }
    for (int m = 0; m < MOST_ROWS; m++)
        for (int c = 0; c < n; c++) p->want[m * n + c] = element(p->x + m * k, p->w + c * k, k) + p->bias[c] + p->residual[m * n + c];
}

static void close_problem(problem *p)
{
    mem_free(p->w), mem_free(p->x), mem_free(p->bias), mem_free(p->residual), mem_free(p->want), mem_free(p->y), mem_free(p->lanes), mem_free(p->packed);
}

static void check_rows(problem *p, const char *name, gemm_fn *fn, int rows)
{
    gemm_weight w = { DT_BF16, p->n, p->k, p->packed };
    gemm_call c = { .w = &w, .x = p->lanes, .m = rows, .ldx = p->ld, .y = p->y, .ldy = p->n, .bias = p->bias, .residual = p->residual, .ldr = p->n };
    int64_t panels = gemm_n_panels(p->n);
    memset(p->y, 0xFF, (size_t)(MOST_ROWS * p->n) * 4);
    fn(&c, 0, panels / 3);
    fn(&c, panels / 3, panels);
    for (int i = 0; i < MOST_ROWS * p->n; i++) {
        float want = i < rows * p->n ? p->want[i] : p->y[MOST_ROWS * p->n - 1];      /* rows that were not asked for stay as they are */
        if (memcmp(&p->y[i], &want, 4) == 0 || (i < rows * p->n && isnan(p->y[i]) && isnan(want))) continue;
        if (i >= rows * p->n && rows == MOST_ROWS) break;
        FAIL("%s K=%d N=%d rows=%d: element %d is %a, wanted %a", name, p->k, p->n, rows, i, (double)p->y[i], (double)want);
        break;
    }
}

static void check_dot(int k, int n, int center_w, int center, int spread)
{
    problem p;
    open_problem(&p, k, n, center_w, center, spread);
    for (int rows = 1; rows <= MOST_ROWS; rows++) {
        check_rows(&p, "emulated", gemm_dot_amx_emulated, rows);
        if (isa_available(ISA_avx512_amx)) check_rows(&p, "tiles", gemm_dot_amx, rows);
    }
    CHECK(amx_emulated_idle());
    close_problem(&p);
}

TEST(bfloat16_is_what_the_manual_says)
{
    if (!isa_available(ISA_avx512_amx_emulated)) SKIP("no avx512_bf16");
    static const int ks[] = { 1, 2, 7, 31, 32, 33, 64, 100, 515 }, ns[] = { 1, 16, 17, 40, 64, 65, 100 };
    for (size_t k = 0; k < sizeof ks / sizeof *ks; k++)
        for (size_t n = 0; n < sizeof ns / sizeof *ns; n++) check_dot(ks[k], ns[n], 0, 0, 3);
    check_dot(1100, 130, 0, 0, 0);
    check_dot(301, 50, -60, -60, 10);  /* subnormal products */
    check_dot(301, 50, -120, -120, 8);  /* subnormal inputs */
    check_dot(301, 50, -126, 90, 6);   /* that would make products to be seen */
    check_dot(301, 50, 60, 60, 6);     /* overflow */
}

/* Against doubles: what the other order of summing costs is what float32 costs. */
TEST(bfloat16_is_as_good_as_float32_sums)
{
    if (!isa_available(ISA_avx512_amx_emulated)) SKIP("no avx512_bf16");
    problem p;
    double worst = 0;
    open_problem(&p, 2048, 48, 0, 0, 0);
    memset(p.bias, 0, (size_t)p.n * 4), memset(p.residual, 0, (size_t)(MOST_ROWS * p.n) * 4);
    gemm_weight w = { DT_BF16, p.n, p.k, p.packed };
    gemm_call c = { .w = &w, .x = p.lanes, .m = MOST_ROWS, .ldx = p.ld, .y = p.y, .ldy = p.n };
    gemm_dot_amx_emulated(&c, 0, gemm_n_panels(p.n));
    for (int i = 0; i < MOST_ROWS * p.n; i++) {
        double sum = 0, size = 0;
        for (int k = 0; k < p.k; k++) {
            double product = (double)stored(p.x[i / p.n * p.k + k]) * (double)stored(p.w[i % p.n * p.k + k]);
            sum += product, size += fabs(product);
        }
        worst = fmax(worst, fabs((double)p.y[i] - sum) / size);
    }
    CHECK(worst > 0 && worst < 1e-6);
    close_problem(&p);
}

TEST(whoever_computes_in_another_way_gets_it_back)
{
    if (!isa_available(ISA_avx512_amx_emulated)) SKIP("no avx512_bf16");
    problem p;
    open_problem(&p, 70, 20, -60, -60, 10);
    unsigned csr = _mm_getcsr();
    check_rows(&p, "emulated", gemm_dot_amx_emulated, 40);
    CHECK_INT(_mm_getcsr() & 0xFFC0u, csr & 0xFFC0u);
    close_problem(&p);
}

/* ---- int8: the portable kernel's bits ---- */

static void check_scheme(quant_scheme s, int n, int k)
{
    const int64_t group = qgemm_group(s, k), groups = qgemm_groups(s, k), panels = gemm_n_panels(n), ldq = group * groups, lds = groups + 1;
    float *w = mem_array((size_t)(n * k), 4), *x = mem_array((size_t)(MOST_ROWS * k), 4), *bias = mem_array((size_t)n, 4), *residual = mem_array((size_t)(MOST_ROWS * n), 4);
    float *want = mem_array((size_t)(MOST_ROWS * n), 4), *y = mem_array((size_t)(MOST_ROWS * n), 4);
    void *packed = mem_aligned(64, qgemm_packed_bytes(s, n, k)), *scratch = mem_aligned(64, GEMM_SCRATCH_BYTES);
    int8_t *q = mem_array((size_t)(MOST_ROWS * ldq), 1);
    qgemm_scale *qs = mem_array((size_t)(MOST_ROWS * lds), sizeof *qs);
    seed = (uint32_t)(n * 7919 + k * 31 + (int)s);
    for (int i = 0; i < n * k; i++) w[i] = plain();
    for (int i = 0; i < MOST_ROWS * k; i++) x[i] = plain();
    for (int i = 0; i < n; i++) bias[i] = plain();
    for (int i = 0; i < MOST_ROWS * n; i++) residual[i] = plain();
    memset(x + 3 * k, 0, (size_t)k * 4);
    for (int64_t p = 0; p < panels; p++) {
        const void *rows[GEMM_PANEL];
        for (int c = 0; c < GEMM_PANEL; c++) rows[c] = p * GEMM_PANEL + c < n ? w + (p * GEMM_PANEL + c) * k : NULL;
        quantise_panel(s, packed, k, p, rows, DT_F32);
    }
    for (int m = 0; m < MOST_ROWS; m++) qgemm_portable.round(x + m * k, k, group, qgemm_offset(s), q + m * ldq, qs + m * lds);
    qgemm_weight weight = { { quant_describe(s).type, n, k, packed }, s };
    qgemm_call c = { .w = &weight, .m = MOST_ROWS, .q = q, .ldq = ldq, .s = qs, .lds = lds, .y = want, .ldy = n, .bias = bias, .residual = residual, .ldr = n, .scratch = scratch };
    qgemm_portable.run(&c, 0, panels);
    c.y = y;
    for (int rows = 1; rows <= MOST_ROWS; rows++)
        for (int real = 0; real <= isa_available(ISA_avx512_amx); real++) {
            memset(y, 0xFF, (size_t)(MOST_ROWS * n) * 4);
            memset(scratch, 0xFF, GEMM_SCRATCH_BYTES);
            c.m = rows;
            (real ? qgemm_tiles_amx : qgemm_tiles_amx_emulated)(&c, 0, panels / 3);
            (real ? qgemm_tiles_amx : qgemm_tiles_amx_emulated)(&c, panels / 3, panels);
            if (memcmp(y, want, (size_t)(rows * n) * 4) != 0) FAIL("%s N=%d K=%d rows=%d: other bits%s", quant_name(s), n, k, rows, real ? " by tiles" : "");
        }
    CHECK(amx_emulated_idle());
    mem_free(w), mem_free(x), mem_free(bias), mem_free(residual), mem_free(want), mem_free(y), mem_free(packed), mem_free(scratch), mem_free(q), mem_free(qs);
}

TEST(int8_is_exact_for_every_number_of_rows)
{
    if (!isa_available(ISA_avx512_amx_emulated)) SKIP("no avx512_bf16");
    static const struct { int n, k; } shapes[] = { { 1, 1 }, { 17, 31 }, { 33, 64 }, { 70, 129 }, { 100, 300 }, { 40, 1030 } };
    static const quant_scheme schemes[] = { QUANT_INT8, QUANT_INT8_G32, QUANT_INT4_G32, QUANT_INT4_G128 };
    for (int s = 0; s < 4; s++) {
        CHECK_INT(amx_kind_of(schemes[s]), s);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_scheme(schemes[s], shapes[i].n, shapes[i].k);
    }
}

/* ---- where tiles may be touched ---- */

static struct { bool no_leaf1, no_leaf7; uint32_t ecx1, edx7; uint64_t xcr0; bool permit; int xcr0_asked, permit_asked; } machine;
static bool fake_leaf(uint32_t leaf, uint32_t *ecx, uint32_t *edx)
{
    *ecx = leaf == 1 ? machine.ecx1 : 0;
    *edx = leaf == 7 ? machine.edx7 : 0;
    return leaf == 1 ? !machine.no_leaf1 : leaf == 7 && !machine.no_leaf7;
}
static uint64_t fake_xcr0(void) { machine.xcr0_asked++; return machine.xcr0; }
static bool fake_permit(void) { machine.permit_asked++; return machine.permit; }
static bool fake(void) { return isa_tiles(&(isa_tile_sources){ fake_leaf, fake_xcr0, fake_permit }); }

TEST(tiles_need_processor_and_kernel_and_permission)
{
    enum { OSXSAVE = 1 << 27, BF16 = 1 << 22, TILE = 1 << 24, INT8 = 1 << 25 };
#define MACHINE(...) memset(&machine, 0, sizeof machine), machine.ecx1 = OSXSAVE, machine.edx7 = BF16 | TILE | INT8, machine.xcr0 = 0x600E7, machine.permit = true, __VA_ARGS__
    MACHINE((void)0);
    CHECK(fake() && machine.permit_asked == 1);
    MACHINE(machine.no_leaf1 = true);
    CHECK(!fake() && !machine.xcr0_asked && !machine.permit_asked);
    MACHINE(machine.ecx1 = 0);         /* reading XCR0 would trap */
    CHECK(!fake() && !machine.xcr0_asked && !machine.permit_asked);
    MACHINE(machine.no_leaf7 = true);
    CHECK(!fake() && !machine.permit_asked);
    for (int bit = 22; bit <= 25; bit++) {
        if (bit == 23) continue;       /* FP16 of AVX-512: nothing to do with it */
        MACHINE(machine.edx7 &= ~(1u << bit));
        CHECK(!fake() && !machine.xcr0_asked && !machine.permit_asked);
    }
    static const uint64_t states[] = { 0, 0xE7, 0x200E7, 0x400E7 };
    for (int i = 0; i < 4; i++) {
        MACHINE(machine.xcr0 = states[i]);
        CHECK(!fake() && !machine.permit_asked);
    }
    MACHINE(machine.permit = false);
    CHECK(!fake() && machine.permit_asked == 1);
}

/* Below the number of rows that was measured, qgemm_amx needs no tiles: this runs where there are none. */
TEST(few_rows_go_without_tiles)
{
    if (!qgemm_avx512vnni.available()) SKIP("no avx512_vnni");
    enum { N = 20, K = 64, M = 9 };
    static const int never[AMX_KINDS] = { AMX_NEVER, AMX_NEVER, AMX_NEVER, AMX_NEVER }, always[AMX_KINDS] = { 1, 1, 1, 1 };
    static float w[N * K], x[M * K], y[2][M * N];
    _Alignas(64) static char packed[8192], scratch[GEMM_SCRATCH_BYTES];
    static int8_t q[M * K];
    qgemm_scale s[M];
    for (int i = 0; i < N * K; i++) w[i] = plain();
    for (int i = 0; i < M * K; i++) x[i] = plain();
    CHECK(qgemm_packed_bytes(QUANT_INT8, N, K) <= sizeof packed);
    for (int64_t p = 0; p < 2; p++) {
        const void *rows[GEMM_PANEL];
        for (int c = 0; c < GEMM_PANEL; c++) rows[c] = p * GEMM_PANEL + c < N ? w + (p * GEMM_PANEL + c) * K : NULL;
        quantise_panel(QUANT_INT8, packed, K, p, rows, DT_F32);
    }
    for (int m = 0; m < M; m++) qgemm_amx.round(x + m * K, K, K, 128, q + m * K, &s[m]);
    qgemm_weight weight = { { DT_I8, N, K, packed }, QUANT_INT8 };
    qgemm_call c = { .w = &weight, .m = M, .q = q, .ldq = K, .s = s, .lds = 1, .y = y[0], .ldy = N, .scratch = (float *)(void *)scratch };
    amx_set_rows(never);
    qgemm_amx.run(&c, 0, 2);
    amx_set_rows(always);
    c.y = y[1];
    if (qgemm_amx.available()) qgemm_amx.run(&c, 0, 2);
    else qgemm_portable.run(&c, 0, 2);
    CHECK(memcmp(y[0], y[1], sizeof y[0]) == 0);
}
#endif

TEST_MAIN
