/* load: dummy weights are the same everywhere, bounded and never NaN. */
#include "tests/test.h"

#include "base/hash.h"
#include "base/mem.h"
#include "load/dummy.h"

enum { N = 100000 };

static void values(dtype t, const char *name, uint64_t seed, float *out)
{
    static char raw[N * 8 + 1];
    dummy_fill(raw + 1, t, N, name, seed); /* unaligned on purpose */
    dtype_to_f32(t, raw + 1, out, N);
}

TEST(float_values_are_uniform_and_small)
{
    static const dtype types[] = { DT_F32, DT_BF16, DT_F16, DT_F64 };
    static float v[N];
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        double sum = 0, square = 0, corr = 0, biggest = 0;
        values(types[t], "model.embed_tokens.weight", 0, v);
        for (size_t i = 0; i < N; i++) {
            sum += (double)v[i];
            square += (double)v[i] * (double)v[i];
            if (i >= 16) corr += (double)v[i] * (double)v[i - 16];
            if (fabs((double)v[i]) > biggest) biggest = fabs((double)v[i]);
        }
        CHECK_NEAR(sum / N, 0, 1e-5);
        CHECK_NEAR(square / N * 3e6, 1, 0.02);
        CHECK_NEAR(corr / N * 3e6, 0, 0.02);
        CHECK(biggest <= 1.001e-3 && biggest > 0.99e-3);
    }
}

TEST(f16_and_bf16_round_like_the_scalar_conversions)
{
    static float f[N];
    static char raw[2 * N];
    dummy_fill(raw, DT_F16, N, "x", 3);
    dtype_to_f32(DT_F16, raw, f, N);
    /* Both are made from k * 1e-3 / 2^15 with integer k: find k and round it the slow way. */
    for (size_t i = 0; i < N; i++) {
        double unit = 1e-3 / 32768;
        uint16_t got;
        memcpy(&got, raw + 2 * i, 2);
        int near = (int)lrint((double)f[i] / unit), hit = 0;
        for (int k = near - 20; k <= near + 20 && !hit; k++) hit = f32_to_f16((float)k * 65536 * (1e-3f / 2147483648.0f)) == got;
        if (!hit) {
            FAIL("element %zu, %.9g, is not the rounding of any k/32768 * 1e-3", i, (double)f[i]);
            break;
        }
    }
}

TEST(names_and_seeds_differ_and_repeat)
{
    static float a[N], b[N];
    values(DT_BF16, "a", 0, a);
    values(DT_BF16, "a", 0, b);
    CHECK(memcmp(a, b, sizeof a) == 0);
    values(DT_BF16, "b", 0, b);
    CHECK(memcmp(a, b, sizeof a) != 0);
    values(DT_BF16, "a", 1, b);
    CHECK(memcmp(a, b, sizeof a) != 0);
}

/* A change here changes what every benchmark with dummy weights has measured. */
TEST(values_are_pinned)
{
    static const struct { dtype type; const char *digest; } want[] = {
        { DT_F32, "edadc0def1fc368c" }, { DT_BF16, "0677fb099f76d719" }, { DT_F16, "04486ced214bbcb9" }, { DT_I32, "8ccc32a5c813aeb8" }, { DT_F8E4M3, "d87342c469b0ae60" },
    };
    static char raw[4 * 10000];
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        uint8_t digest[SHA256_BYTES];
        char hex[65];
        dummy_fill(raw, want[i].type, 10000, "model.norm.weight", 7);
        sha256(raw, dtype_bytes(want[i].type, 10000), digest);
        hash_hex(digest, 8, hex);
        CHECK_STR(hex, want[i].digest);
    }
}

TEST(quantised_values_are_usable)
{
    static float v[N];
    static const struct { dtype type; double most; } cases[] = { { DT_F8E4M3, 0.12 }, { DT_F8E5M2, 0.01 } };
    for (size_t c = 0; c < 2; c++) {
        int zeros = 0;
        values(cases[c].type, "w", 0, v);
        for (size_t i = 0; i < N; i++) {
            CHECK(fabs((double)v[i]) < cases[c].most);
            zeros += v[i] == 0;
        }
        CHECK(zeros < N / 10);
    }
    values(DT_F8E8M0, "s", 0, v);
    for (size_t i = 0; i < N; i++) CHECK(v[i] >= 0x1p-8f && v[i] <= 0x1p-5f);
    values(DT_BOOL, "b", 0, v);
    for (size_t i = 0; i < N; i++) CHECK(v[i] == 0 || v[i] == 1);
}

TEST(writes_exactly_its_bytes)
{
    for (int t = 0; t < DT_COUNT; t++) {
        static const size_t sizes[] = { 0, 1, 3, 4095, 4096, 4097, 8193 };
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            size_t bytes = dtype_bytes((dtype)t, sizes[i]);
            char *p = mem_alloc(bytes + 8);
            REQUIRE(p);
            memset(p, 0x5A, bytes + 8);
            dummy_fill(p, (dtype)t, sizes[i], "x", 1);
            for (size_t k = 0; k < 8; k++) CHECK(p[bytes + k] == 0x5A);
            mem_free(p);
        }
    }
}

TEST_MAIN
