/* Every GEMM variant equals the naive FMA chain bit for bit: any rows, panel split, weight type, odd sizes. */
#include "tests/test.h"

#include "base/mem.h"
#include "ops/linear/gemm.h"

static float pseudo(uint32_t *s) { *s = *s * 1664525u + 1013904223u; return (float)((int32_t)(*s >> 8) % 2001 - 1000) / 1000.0f; }

static float as_stored(dtype t, float f)
{
    return t == DT_BF16 ? bf16_to_f32(f32_to_bf16(f)) : t == DT_F16 ? f16_to_f32(f32_to_f16(f)) : f;
}

static int has(const char *name)
{
#if defined(__x86_64__)
    if (!strcmp(name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (!strcmp(name, "avx512")) return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return !strcmp(name, "portable");
}

static void check_shape(dtype t, int K, int N, int M)
{
    float *w = mem_array((size_t)(K * N), 4), *x = mem_array((size_t)(K * M), 4), *b = mem_array((size_t)N, 4), *res = mem_array((size_t)(M * N), 4);
    float *want = mem_array((size_t)(M * N), 4), *y = mem_array((size_t)(M * N), 4);
    void *packed = mem_aligned(64, gemm_packed_bytes(t, N, K)), *scratch = mem_aligned(64, GEMM_SCRATCH_BYTES);
    uint32_t seed = (uint32_t)(K * 31 + N);
    for (int i = 0; i < K * N; i++) w[i] = pseudo(&seed);
    for (int i = 0; i < K * M; i++) x[i] = pseudo(&seed);
    for (int i = 0; i < N; i++) b[i] = pseudo(&seed);
    for (int i = 0; i < M * N; i++) res[i] = pseudo(&seed);
    int64_t panels = gemm_n_panels(N);
    for (int64_t p = 0; p < panels; p++) {
        const void *rows[GEMM_PANEL];
        for (int c = 0; c < GEMM_PANEL; c++) rows[c] = p * GEMM_PANEL + c < N ? w + (p * GEMM_PANEL + c) * K : NULL;
        gemm_pack_panel(t, packed, K, p, rows, DT_F32);
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            float acc = 0;
            for (int k = 0; k < K; k++) acc = fmaf(x[m * K + k], as_stored(t, w[n * K + k]), acc);
            want[m * N + n] = acc + b[n] + res[m * N + n];
        }
    gemm_weight gw = { t, N, K, packed };
#define RUN(name)                                                                                                        \
    for (int rows = 1; has(#name) && rows <= M; rows += rows < 10 ? 1 : 9) {                                             \
        gemm_call c = { &gw, x, rows, K, y, N, b, res, N, scratch };                                                     \
        memset(y, 0xff, (size_t)(M * N) * 4);                                                                            \
        gemm_##name(&c, 0, panels / 2);                                                                                  \
        gemm_##name(&c, panels / 2, panels);                                                                             \
        if (memcmp(y, want, (size_t)(rows * N) * 4) != 0) FAIL("%s %s K=%d N=%d rows=%d differs", #name, dtype_name(t), K, N, rows); \
    }
    GEMM_VARIANTS(RUN)
    mem_free(w); mem_free(x); mem_free(b); mem_free(res); mem_free(want); mem_free(y); mem_free(packed); mem_free(scratch);
}

TEST(gemm_is_one_fma_chain)
{
    static const dtype types[] = { DT_F32, DT_BF16, DT_F16 };
    static const int ks[] = { 1, 7, 64, 513, 1100 }, ns[] = { 1, 16, 40, 100 };
    for (int t = 0; t < 3; t++)
        for (int k = 0; k < 5; k++)
            for (int n = 0; n < 4; n++) check_shape(types[t], ks[k], ns[n], 45);
}

#if defined(__x86_64__)
/* ---- the dot product instruction ---- */

/* vdpbf16ps as found by experiment on Zen 4 and as Intel's manual says: two fused multiply-adds, the odd elements' first, each rounded to
 * nearest even; subnormal inputs count as zero and subnormal results become zero. */
static float flush(float f) { return fabsf(f) < 0x1p-126f ? copysignf(0, f) : f; }
static float dot_pair(float acc, const uint16_t x[2], const uint16_t w[2])
{
    acc = flush(fmaf(flush(bf16_to_f32(x[1])), flush(bf16_to_f32(w[1])), flush(acc)));
    return flush(fmaf(flush(bf16_to_f32(x[0])), flush(bf16_to_f32(w[0])), acc));
}

static int has_dot(void) { return __builtin_cpu_supports("avx512bf16") && has("avx512"); }

/* Exponents around 2^center: small ones meet subnormal products, large ones overflow. */
static float wild(uint32_t *s, int center, int spread)
{
    *s = *s * 1664525u + 1013904223u;
    uint32_t mantissa = *s >> 9;
    *s = *s * 1664525u + 1013904223u;
    int e = center + (int)((*s >> 8) % (uint32_t)(2 * spread + 1)) - spread;
    return (float)ldexp((*s >> 31 ? -1.0 : 1.0) * (1 + mantissa / 8388608.0), e);
}

static void check_dot(int K, int N, int M, int center, int spread)
{
    int pairs = (int)gemm_pairs(K), ld = pairs + 3;
    float *w = mem_array((size_t)(K * N), 4), *x = mem_array((size_t)(K * M), 4), *b = mem_array((size_t)N, 4), *res = mem_array((size_t)(M * N), 4);
    float *want = mem_array((size_t)(M * N), 4), *y = mem_array((size_t)(M * N), 4), *lanes = mem_array((size_t)(M * ld), 4);
    void *packed = mem_aligned(64, gemm_packed_bytes(DT_BF16, N, K)), *scratch = mem_aligned(64, GEMM_SCRATCH_BYTES);
    uint32_t seed = (uint32_t)(K * 31 + N + center);
    for (int i = 0; i < K * N; i++) w[i] = wild(&seed, center, spread);
    for (int i = 0; i < K * M; i++) x[i] = wild(&seed, center, spread);
    for (int i = 0; i < N; i++) b[i] = pseudo(&seed);
    for (int i = 0; i < M * N; i++) res[i] = pseudo(&seed);
    memset(lanes, 0xff, (size_t)(M * ld) * 4);
    for (int m = 0; m < M; m++) gemm_round_avx512bf16(x + m * K, K, lanes + m * ld);
    int64_t panels = gemm_n_panels(N);
    for (int64_t p = 0; p < panels; p++) {
        const void *rows[GEMM_PANEL];
        for (int c = 0; c < GEMM_PANEL; c++) rows[c] = p * GEMM_PANEL + c < N ? w + (p * GEMM_PANEL + c) * K : NULL;
        gemm_pack_panel(DT_BF16, packed, K, p, rows, DT_F32);
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            float acc = 0;
            for (int k = 0; k < K; k += 2) {
                const float *px = x + m * K + k, *pw = w + n * K + k;
                uint16_t xs[2] = { f32_to_bf16(px[0]), k + 1 < K ? f32_to_bf16(px[1]) : 0 }, ws[2] = { f32_to_bf16(pw[0]), k + 1 < K ? f32_to_bf16(pw[1]) : 0 };
                acc = dot_pair(acc, xs, ws);
            }
            want[m * N + n] = acc + b[n] + res[m * N + n];
        }
    gemm_weight gw = { DT_BF16, N, K, packed };
    for (int rows = 1; rows <= M; rows += rows < 10 ? 1 : 9) {
        gemm_call c = { &gw, lanes, rows, ld, y, N, b, res, N, scratch };
        memset(y, 0xff, (size_t)(M * N) * 4);
        gemm_dot_avx512bf16(&c, 0, panels / 2);
        gemm_dot_avx512bf16(&c, panels / 2, panels);
        for (int i = 0; i < rows * N; i++)
            if (memcmp(&y[i], &want[i], 4) != 0 && !(isnan(y[i]) && isnan(want[i]))) {
                FAIL("dot K=%d N=%d rows=%d around 2^%d: element %d is %a, wanted %a", K, N, rows, center, i, (double)y[i], (double)want[i]);
                break;
            }
    }
    mem_free(w); mem_free(x); mem_free(b); mem_free(res); mem_free(want); mem_free(y); mem_free(packed); mem_free(scratch); mem_free(lanes);
}

TEST(gemm_dot_is_one_chain_of_the_instruction)
{
    if (!has_dot()) SKIP("no avx512_bf16");
    static const int ks[] = { 1, 2, 7, 64, 513, 1100, 2049 }, ns[] = { 1, 16, 40, 100 };
    for (int k = 0; k < 7; k++)
        for (int n = 0; n < 4; n++) check_dot(ks[k], ns[n], 45, 0, 3);
    check_dot(301, 50, 12, -60, 10);  /* subnormal products */
    check_dot(301, 50, 12, -120, 8);  /* subnormal inputs */
    check_dot(301, 50, 12, 60, 6);    /* overflow */
}

TEST(rounding_is_to_nearest_even_in_pairs)
{
    if (!has_dot()) SKIP("no avx512_bf16");
    enum { MOST = 70 };
    float x[MOST];
    uint16_t got[MOST + 4];
    uint32_t seed = 3;
    for (int n = 1; n <= MOST; n++) {
        for (int i = 0; i < n; i++) {
            uint32_t bits = 0x3F800000u + (seed = seed * 1664525u + 1013904223u) % 0x20000u; /* many ties in the low 16 bits */
            if (i % 3 == 0) bits = (bits & 0xFFFF0000u) | 0x8000u;
            memcpy(&x[i], &bits, 4);
        }
        memset(got, 0xAB, sizeof got);
        gemm_round_avx512bf16(x, n, got);
        for (int i = 0; i < n; i++)
            if (got[i] != f32_to_bf16(x[i])) FAIL("n=%d: element %d is %04x, wanted %04x", n, i, got[i], f32_to_bf16(x[i]));
        if (n & 1) CHECK_INT(got[n], 0);
        CHECK_INT(got[n + (n & 1)], 0xABAB);
    }
}
#endif

TEST_MAIN
