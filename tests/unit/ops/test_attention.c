/* The KV cache's types: numbers against their definitions, written down independently, and how tokens lie in a block. */
#include <float.h>

#include "base/mem.h"
#include "ops/kv.h"
#include "tests/test.h"

static const dtype types[] = { DT_F32, DT_BF16, DT_F16, DT_F8E4M3, DT_F8E5M2, DT_I8 };
enum { N_TYPES = sizeof types / sizeof *types };

static float random_float(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return ldexpf((float)(int32_t)*seed * 0x1p-31f, (int)(*seed >> 8 & 31) - 20);
}

/* The nearest of all numbers of the type; of two as near, the one with an even code; the largest for what is beyond. */
static float nearest(float (*value)(uint8_t), float x)
{
    int best = -1;
    x = fabsf(x) > 1e6f ? copysignf(1e6f, x) : x;   /* or all are as near */
    for (int code = 0; code < 128; code++) {
        float v = value((uint8_t)code);
        if (!isfinite(v)) continue;
        double d = fabs((double)v - fabs((double)x)), least = best < 0 ? INFINITY : fabs((double)value((uint8_t)best) - fabs((double)x));
        if (d < least || (d == least && code % 2 == 0)) best = code;
    }
    return copysignf(value((uint8_t)best), x);
}

static void check_small_float(dtype type, float (*value)(uint8_t))
{
    float x, y;
    uint32_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        x = random_float(&seed);
        kv_rounded(type, &x, 1, 1, &y);
        if (y != nearest(value, x)) FAIL("%s: %.9g became %.9g, wanted %.9g", dtype_name(type), (double)x, (double)y, (double)nearest(value, x));
    }
    for (int code = 0; code < 127; code++) { /* every number, and the middle between it and the next, and what is beside that */
        float v = value((uint8_t)code), next = value((uint8_t)(code + 1));
        if (!isfinite(v)) continue;
        float all[] = { v, -v, nextafterf(v, INFINITY), isfinite(next) ? (v + next) / 2 : v * 2, isfinite(next) ? nextafterf((v + next) / 2, 0) : FLT_MAX };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            kv_rounded(type, &all[i], 1, 1, &y);
            if (y != nearest(value, all[i])) FAIL("%s: %.9g became %.9g", dtype_name(type), (double)all[i], (double)y);
        }
    }
    x = NAN;
    kv_rounded(type, &x, 1, 1, &y);
    CHECK(isnan(y));
    x = -INFINITY;
    kv_rounded(type, &x, 1, 1, &y);
    CHECK(y == nearest(value, -FLT_MAX) && y < -400); /* as vLLM: infinity saturates too */
}

TEST(e4m3_is_nearest_and_saturates) { check_small_float(DT_F8E4M3, f8e4m3_to_f32); }
TEST(e5m2_is_nearest_and_saturates) { check_small_float(DT_F8E5M2, f8e5m2_to_f32); }

TEST(int8_has_a_scale_per_token_and_head)
{
    uint32_t seed = 7;
    float x[80], y[80];
    for (int turn = 0; turn < 500; turn++) {
        float most = 0;
        int n = 1 + turn % 80;
        for (int i = 0; i < n; i++) x[i] = random_float(&seed), most = fmaxf(most, fabsf(x[i]));
        kv_rounded(DT_I8, x, n, 1, y);
        for (int i = 0; i < n; i++) {
            double steps = (double)y[i] / ((double)most / 127);
            if (fabs((double)y[i] - (double)x[i]) > (double)most / 127 * 0.50001) FAIL("%.9g became %.9g, scale %.9g", (double)x[i], (double)y[i], (double)most / 127);
            if (fabs(steps - round(steps)) > 1e-4 || fabs(steps) > 127.001) FAIL("%.9g is %.9g steps", (double)y[i], steps);
        }
    }
    float odd[][3] = { { 0, 0, 0 }, { 3e38f, -3e38f, 0 }, { 1e-40f, 0, -1e-41f }, { INFINITY, 1, 2 }, { 1, NAN, 2 } };
    for (int i = 0; i < 5; i++) {
        kv_rounded(DT_I8, odd[i], 3, 1, y);
        for (int j = 0; j < 3; j++) CHECK(i < 3 ? isfinite(y[j]) : isnan(y[j]));
    }
}

/* Every token of a cache is found again, wherever its block is, and nothing is stored outside of its block. */
TEST(tokens_are_found_again)
{
    enum { HEADS = 3, DIM = 20, BLOCKS = 3 };
    static const int sizes[] = { 1, 2, 7, 16, 32 };
    for (int t = 0; t < N_TYPES; t++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            kv_layer kv = { .type = types[t], .block_size = sizes[s], .heads = HEADS, .dim = DIM, .dim_pad = 32, .offset = 64 };
            kv.block_bytes = kv_layer_bytes(&kv) + 128;
            CHECK(kv_k_data(&kv) % 64 == 0 && kv_k_bytes(&kv) % 64 == 0 && kv_layer_bytes(&kv) % 64 == 0);
            size_t bytes = kv.block_bytes * BLOCKS;
            char *cache = kv.base = mem_aligned(64, bytes);
            memset(cache, 0x77, bytes);
            float k[DIM], v[DIM], want[DIM], got_k[DIM], got_v[DIM];
            for (int pass = 0; pass < 2; pass++) {
                uint32_t seed = 3;
                for (int slot = 0; slot < BLOCKS * sizes[s]; slot++)
                    for (int h = 0; h < HEADS; h++) {
                        for (int i = 0; i < DIM; i++) k[i] = random_float(&seed), v[i] = random_float(&seed);
                        if (pass == 0) {
                            kv_store(&kv, slot, h, k, v, KV_UNSCALED);
                            continue;
                        }
                        kv_fetch(&kv, slot, h, got_k, got_v);
                        kv_rounded(types[t], k, DIM, 1, want);
                        CHECK(memcmp(got_k, want, sizeof want) == 0);
                        kv_rounded(types[t], v, DIM, 1, want);
                        CHECK(memcmp(got_v, want, sizeof want) == 0);
                    }
            }
            for (int b = 0; b < BLOCKS; b++)
                for (size_t i = 0; i < kv.block_bytes; i++)
                    if ((i < 64 || i >= kv.block_bytes - 64) && cache[(size_t)b * kv.block_bytes + i] != 0x77) FAIL("%s: byte %d of a block", dtype_name(types[t]), (int)i);
            mem_free(cache);
        }
}

TEST_MAIN
