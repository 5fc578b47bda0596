/* quantised_mosaic.h's kernel with several experts: tiles of one expert's rows each, of which not all are there, and scales that are stored
 * with the padding that experts' have (hlo_weight_shape). */
#include <stdio.h>

#include "ops/kernels.h"
#include "ops/linear/quantised_cases.h"

enum { EXPERTS = 5, TILES = 4, FULL_TILES = 64, GROUPS = 16, LANES = 128 };

/* gpt-oss', DeepSeek-V3's, Kimi K2's and Qwen3-30B-A3B's experts, the first two as they go in and out. */
static const struct { const char *scheme; int rows, n, k, full_n, full_k, full_experts; } cases[] = {
    { "f4e2m1.g32", 16, 192, 320, 5760, 2880, 32 },
    { "f4e2m1.g32", 16, 320, 256, 2880, 2880, 32 },
    { "f8e4m3.g128.act=fp8_g128", 16, 256, 384, 4096, 7168, 8 },
    { "f8e4m3.g128.act=fp8_g128", 16, 384, 256, 7168, 2048, 8 },
    { "int4_g32_weight_only", 16, 256, 320, 4096, 7168, 12 },
    { "fp8_per_channel", 16, 256, 256, 1536, 2048, 16 },
    { "none", 16, 256, 256, 1536, 2048, 16 },
};
enum { N_CASES = sizeof cases / sizeof *cases };

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static quantised_matmul padded(quantised_matmul q)
{
    q.stored_groups = round_up(quantised_matmul_groups(&q), GROUPS);
    q.stored_rows = round_up(q.n, LANES);
    return q;
}

static quantised_matmul at_test_size(int i) { return padded(quantised_case(cases[i].scheme, cases[i].rows, TILES, cases[i].n, cases[i].k, EXPERTS)); }
static quantised_matmul at_full_size(int i) { return padded(quantised_case(cases[i].scheme, cases[i].rows, FULL_TILES, cases[i].full_n, cases[i].full_k, cases[i].full_experts)); }

static void describe(int i, char *dst, size_t cap)
{
    snprintf(dst, cap, "%s, %d experts, tiles of %d x %d x %d", cases[i].scheme, cases[i].full_experts, cases[i].rows, cases[i].full_n, cases[i].full_k);
}

static const char *refuses(int i, const chip *c)
{
    quantised_matmul q = at_test_size(i), full = at_full_size(i);
    const char *why = quantised_refused(&q, c);
    return why ? why : quantised_refused(&full, c);
}

static mk *build(int i, const chip *c)
{
    quantised_matmul q = at_test_size(i);
    return quantised_build("grouped_matmul", &q, c);
}

static mk *build_full(int i, const chip *c)
{
    quantised_matmul q = at_full_size(i);
    return quantised_build("grouped_matmul", &q, c);
}

static void fill(int i, const mk *k, uint64_t seed, void *const *operands)
{
    (void)k;
    quantised_matmul q = at_test_size(i);
    quantised_fill(&q, seed, operands);
}

static status reference(int i, const mk *k, void *const *operands, float *const *results)
{
    (void)k;
    quantised_matmul q = at_test_size(i);
    return quantised_reference(&q, operands, results[0]);
}

static double tolerance(int i) { return (void)i, 1e-4; }

const kernel_impl kernel_grouped_matmul = { .name = "grouped_matmul", .n_cases = N_CASES, .describe = describe, .refuses = refuses, .build = build, .build_full = build_full, .fill = fill, .ref = reference, .tolerance = tolerance };
