/* Cases of the collective products: rings of 2, 4 and 8 devices. */
#include <stdio.h>

#include "ops/kernels.h"
#include "ops/linear/collective_mosaic.h"

/* At full size: Llama-3.3-70B's projections on that many devices, 2048 tokens. */
static const struct { int devices, m, n, k, full_n, full_k; dtype out; } cases[] = {
    { 2, 64, 256, 128, 5120, 8192, DT_BF16 }, { 4, 128, 128, 256, 2560, 8192, DT_BF16 }, { 8, 64, 256, 128, 1280, 8192, DT_BF16 }, { 4, 128, 384, 128, 7168, 8192, DT_F32 } };
enum { N_CASES = sizeof cases / sizeof *cases, TOKENS = 2048, LAYERS = 2 };
enum { PLACE, X, W, OPERANDS };

static collective_matmul case_of(int i, bool full, bool scatter)
{
    collective_matmul q = { cases[i].devices, LAYERS, cases[i].m, cases[i].n, cases[i].k, DT_BF16, cases[i].out };
    if (full) q = (collective_matmul){ q.devices, LAYERS, TOKENS / q.devices, scatter ? cases[i].full_k : cases[i].full_n, scatter ? cases[i].full_n : cases[i].full_k, DT_BF16, q.out };
    return q;
}

static mk *made(int i, const chip *c, bool full, bool scatter)
{
    collective_matmul q = case_of(i, full, scatter);
    collective_blocks b;
    if (collective_matmul_configure(c, &q, scatter, &b) == ST_OK) {
        if (!full && q.n > 128) b.n = 128;      /* several */
        if (!full) b.pieces = q.m / 2 / COLLECTIVE_ROWS;
        return scatter ? collective_scatter_kernel(&q, &b) : collective_gather_kernel(&q, &b);
    }
    mk *k = mk_new("collective");
    mk_fail(k, "%s", err_msg());
    return k;
}

static void say(int i, bool scatter, char *dst, size_t cap)
{
    collective_matmul q = case_of(i, true, scatter);
    snprintf(dst, cap, "%d devices, %lld x %lld x %lld each, %s", q.devices, (long long)q.m, (long long)q.n, (long long)q.k, dtype_name(q.out));
}

static const char *refused(int i, const chip *c, bool scatter)
{
    collective_blocks b;
    for (int full = 0; full < 2; full++) {
        collective_matmul q = case_of(i, full, scatter);
        if (collective_matmul_configure(c, &q, scatter, &b) != ST_OK) return err_kept();
    }
    return NULL;
}

/* Every device reads its rows and weights and writes its results; around the ring go all rows but its own, or all sums but its own. */
static status profiled(int i, const chip *c, kernel_bound *least, bool scatter)
{
    collective_matmul q = case_of(i, true, scatter);
    double rows = (double)(q.m * q.devices), out = (double)dtype_bytes(q.out, 1);
    least->bytes = 2 * (double)(q.n * q.k) + (scatter ? 2 * rows * (double)q.k + out * (double)(q.m * q.n) : 2 * (double)(q.m * q.k) + out * rows * (double)q.n);
    least->unit_s = 2 * rows * (double)q.n * (double)q.k / c->bf16_flops;
    least->link_s = (double)(q.devices - 1) * (double)q.m * (scatter ? out * (double)q.n : 2 * (double)q.k) / chip_ring_bytes_per_s(c);
    return ST_OK;
}

static status gather_profile(int i, const chip *c, mk *k, kernel_bound *least) { return (void)k, profiled(i, c, least, false); }
static status scatter_profile(int i, const chip *c, mk *k, kernel_bound *least) { return (void)k, profiled(i, c, least, true); }

static int devices(int i) { return cases[i].devices; }

static void fill(int i, const mk *k, uint64_t seed, void *const *operands)
{
    uint64_t s = seed * 0x9E3779B97F4A7C15u + 1;
    int n = mk_n_operands(k) * cases[i].devices;
    for (int j = 0; j < n; j++) {
        mk_operand o = mk_operand_at(k, j % mk_n_operands(k));
        uint16_t *x = operands[j];
        int64_t elements = 1;
        for (int d = 0; d < o.rank; d++) elements *= o.dim[d];
        if (o.type == DT_I32) *(int32_t *)operands[j] = LAYERS - 1;
        for (int64_t e = 0; e < elements && o.type == DT_BF16; e++) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            x[e] = f32_to_bf16((float)(int32_t)(s >> 32) * 0x1p-31f);
        }
    }
}

static const uint16_t *x_of(void *const *operands, int device) { return operands[device * OPERANDS + X]; }
/* The last layer's. */
static const uint16_t *w_of(void *const *operands, int device, const collective_matmul *q) { return (const uint16_t *)operands[device * OPERANDS + W] + (LAYERS - 1) * q->n * q->k; }

static float dot(const uint16_t *x, const uint16_t *w, int64_t k)
{
    double sum = 0;
    for (int64_t i = 0; i < k; i++) sum += (double)bf16_to_f32(x[i]) * bf16_to_f32(w[i]);
    return (float)sum;
}

static void unknown(float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] = NAN;
}

static status gathered(int i, const mk *k, void *const *operands, float *const *results)
{
    (void)k;
    collective_matmul q = case_of(i, false, false);
    for (int d = 0; d < q.devices; d++) {
        for (int64_t r = 0; r < q.devices * q.m; r++)
            for (int64_t n = 0; n < q.n; n++)
                results[d * 2][r * q.n + n] = dot(x_of(operands, (int)(r / q.m)) + r % q.m * q.k, w_of(operands, d, &q) + n * q.k, q.k);
        unknown(results[d * 2 + 1], q.devices * q.m * q.k);
    }
    return ST_OK;
}

static status scattered(int i, const mk *k, void *const *operands, float *const *results)
{
    (void)k;
    collective_matmul q = case_of(i, false, true);
    for (int d = 0; d < q.devices; d++) {
        for (int64_t r = 0; r < q.m; r++)
            for (int64_t n = 0; n < q.n; n++) {
                float *sum = &results[d * 2][r * q.n + n];
                *sum = 0;
                for (int from = 0; from < q.devices; from++) *sum += dot(x_of(operands, from) + (d * q.m + r) * q.k, w_of(operands, from, &q) + n * q.k, q.k);
            }
        unknown(results[d * 2 + 1], q.devices * q.m * q.n);
    }
    return ST_OK;
}

/* Sums, of up to 16 in magnitude, are rounded once per device that they pass. */
static double tolerance(int i) { return cases[i].out == DT_F32 ? 1e-4 : 0.004 * (cases[i].devices + 1) * 8; }

static void say_gather(int i, char *dst, size_t cap) { say(i, false, dst, cap); }
static void say_scatter(int i, char *dst, size_t cap) { say(i, true, dst, cap); }
static const char *gather_refuses(int i, const chip *c) { return refused(i, c, false); }
static const char *scatter_refuses(int i, const chip *c) { return refused(i, c, true); }
static mk *gather(int i, const chip *c) { return made(i, c, false, false); }
static mk *gather_full(int i, const chip *c) { return made(i, c, true, false); }
static mk *scatter(int i, const chip *c) { return made(i, c, false, true); }
static mk *scatter_full(int i, const chip *c) { return made(i, c, true, true); }

const kernel_impl kernel_gather_matmul = { .name = "gather_matmul", .n_cases = N_CASES, .describe = say_gather, .devices = devices, .refuses = gather_refuses, .build = gather, .build_full = gather_full, .fill = fill, .ref = gathered, .tolerance = tolerance, .profile = gather_profile };
const kernel_impl kernel_matmul_scatter = { .name = "matmul_scatter", .n_cases = N_CASES, .describe = say_scatter, .devices = devices, .refuses = scatter_refuses, .build = scatter, .build_full = scatter_full, .fill = fill, .ref = scattered, .tolerance = tolerance, .profile = scatter_profile };
