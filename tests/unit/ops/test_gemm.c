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

TEST_MAIN
