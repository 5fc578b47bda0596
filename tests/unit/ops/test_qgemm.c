/* Products with quantised weights: against the arithmetic of docs/quantization.md written down in double precision, and the same
 * bits from every kernel, row count and panel range. */
#include <float.h>

#include "base/mem.h"
#include "ops/isa.h"
#include "ops/linear/qgemm.h"
#include "ops/linear/quantise.h"
#include "tests/test.h"

static uint32_t seed;
static float uniform(void) { seed = seed * 1664525u + 1013904223u; return (float)((int32_t)(seed >> 8) % 20001 - 10000) / 10000.0f; }
/* Roughly normal, with a long tail now and then, as weights and activations have. */
static float value(void)
{
    float f = uniform() + uniform() + uniform();
    return seed >> 24 == 0 ? 6 * f : f;
}

typedef struct problem {
    quant_scheme scheme;
    int64_t n, k, m, panels, group, groups;
    float *w, *x, *bias, *residual, *want, *got;
    void *packed, *scratch;
    int8_t *q;
    qgemm_scale *s;
    qgemm_weight weight;
} problem;

static void *array(size_t n, size_t size) { return mem_aligned(64, n * size + 64); }

static void open_problem(problem *p, quant_scheme scheme, int64_t n, int64_t k, int64_t m)
{
    *p = (problem){ .scheme = scheme, .n = n, .k = k, .m = m, .panels = gemm_n_panels(n), .group = qgemm_group(scheme, k), .groups = qgemm_groups(scheme, k) };
    seed = (uint32_t)(n * 7919 + k * 31 + (int)scheme);
    p->w = array((size_t)(n * k), 4), p->x = array((size_t)(m * k), 4), p->bias = array((size_t)n, 4), p->residual = array((size_t)(m * n), 4);
    p->want = array((size_t)(m * n), 4), p->got = array((size_t)(m * n), 4), p->scratch = array(GEMM_SCRATCH_BYTES, 1);
    p->packed = array(qgemm_packed_bytes(scheme, n, k), 1);
    p->q = array((size_t)(m * p->group * p->groups), 1), p->s = array((size_t)(m * p->groups), sizeof *p->s);
    for (int64_t i = 0; i < n * k; i++) p->w[i] = value() / 30;
    for (int64_t i = 0; i < m * k; i++) p->x[i] = value();
    for (int64_t i = 0; i < n; i++) p->bias[i] = value();
    for (int64_t i = 0; i < m * n; i++) p->residual[i] = value();
    memset(p->w + n / 2 * k, 0, (size_t)k * 4);                 /* a channel of zeros */
    memset(p->x + m / 2 * k, 0, (size_t)k * 4);                 /* a token of zeros */
    for (int64_t q = 0; q < p->panels; q++) {
        const void *rows[GEMM_PANEL];
        for (int c = 0; c < GEMM_PANEL; c++) rows[c] = q * GEMM_PANEL + c < n ? p->w + (q * GEMM_PANEL + c) * k : NULL;
        quantise_panel(scheme, p->packed, k, q, rows, DT_F32);
    }
    p->weight = (qgemm_weight){ { quant_describe(scheme).type, n, k, p->packed }, scheme };
}

static void close_problem(problem *p)
{
    mem_free(p->w), mem_free(p->x), mem_free(p->bias), mem_free(p->residual), mem_free(p->want), mem_free(p->got);
    mem_free(p->packed), mem_free(p->scratch), mem_free(p->q), mem_free(p->s);
}

/* ---- the arithmetic as it is written down ---- */

/* The scale and integers (or e4m3 values) of n weights. */
static double documented_weights(quant_scheme s, const float *w, int64_t n, double *q)
{
    const quant_info info = quant_describe(s);
    float amax = 0, top = 0, scale;
    for (int64_t i = 0; i < n; i++)
        if (fabsf(w[i]) > amax || (fabsf(w[i]) == amax && w[i] > 0)) amax = fabsf(w[i]), top = w[i];
    scale = info.type == DT_I4 ? top / -8 : info.type == DT_I8 ? amax / 127 : amax / 448;
    if (info.group) scale = bf16_to_f32(f32_to_bf16(scale));
    if (info.type == DT_I4 && amax > 0) {
        float whole = scale, least = INFINITY;
        for (int cut = 0; cut < 12; cut++) {
            float s_cut = bf16_to_f32(f32_to_bf16(whole * (1 - (float)cut / 32))), sum = 0;
            for (int64_t i = 0; i < n; i++) {
                float r = rintf(fminf(fmaxf(w[i] * (1 / s_cut), -8), 7)), d = r * s_cut - w[i];
                sum += d * d;
            }
            if (sum < least) least = sum, scale = s_cut;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        float v = amax > 0 ? w[i] / scale : 0;
        if (info.type == DT_I8) q[i] = rint(fmin(fmax((double)v, -127), 127));
        else if (info.type == DT_I4) q[i] = rint(fmin(fmax((double)v, -8), 7));
        else {  /* the nearest of all e4m3 values, of two the one with the even code */
            int best = 0;
            for (int code = 0; code < 127; code++) {
                double d = fabs((double)f8e4m3_to_f32((uint8_t)code) - fabs((double)v)), b = fabs((double)f8e4m3_to_f32((uint8_t)best) - fabs((double)v));
                if (d < b || (d == b && code % 2 == 0)) best = code;
            }
            q[i] = copysign((double)f8e4m3_to_f32((uint8_t)best), (double)v);
        }
    }
    return amax > 0 ? (double)scale : 0;
}

static double documented_activations(const float *x, int64_t n, double *q)
{
    float amax = 0;
    for (int64_t i = 0; i < n; i++) amax = fmaxf(amax, fabsf(x[i]));
    for (int64_t i = 0; i < n; i++) q[i] = amax > 0 ? rint((double)(x[i] / (amax / 127.0f))) : 0;
    return amax > 0 ? (double)(amax / 127.0f) : 0;
}

/* In double where rounding to float32 along the way is what the kernels may differ in. */
static void check_documented(const problem *p)
{
    double *qw = array((size_t)p->k, 8), *qx = array((size_t)p->k, 8), worst = 0;
    bool rounds = quant_describe(p->scheme).int8_activations;
    for (int64_t r = 0; r < p->n; r++) {
        double sw[256];
        for (int64_t g = 0; g < p->groups; g++) {
            int64_t at = g * p->group, n = p->k - at < p->group ? p->k - at : p->group;
            sw[g] = documented_weights(p->scheme, p->w + r * p->k + at, n, qw + at);
            for (int64_t i = 0; i < n; i++)
                if (quantise_value(&p->weight, r, at + i) != (float)(qw[at + i] * sw[g])) {
                    FAIL("%s: weight %d, %d is %g, wanted %g", quant_name(p->scheme), (int)r, (int)(at + i), (double)quantise_value(&p->weight, r, at + i), qw[at + i] * sw[g]);
                    goto out;
                }
        }
        for (int64_t m = 0; m < p->m; m += 5) {
            double y = 0, size = 0;
            for (int64_t g = 0; g < p->groups; g++) {
                int64_t at = g * p->group, n = p->k - at < p->group ? p->k - at : p->group;
                double sx = rounds ? documented_activations(p->x + m * p->k + at, n, qx + at) : 1;
                for (int64_t i = at; i < at + n; i++) {
                    double t = (rounds ? qx[i] : (double)p->x[m * p->k + i]) * qw[i] * sx * sw[g];
                    y += t;
                    size += fabs(t);
                }
            }
            y += (double)p->bias[r] + (double)p->residual[m * p->n + r];
            size += fabs((double)p->bias[r]) + fabs((double)p->residual[m * p->n + r]);
            double off = fabs(y - (double)p->want[m * p->n + r]) / size;
            worst = off > worst ? off : worst;
        }
    }
    if (worst > 1e-6) FAIL("%s n=%d k=%d: off by %g", quant_name(p->scheme), (int)p->n, (int)p->k, worst);
out:
    mem_free(qw);
    mem_free(qx);
}

/* ---- every kernel, row count and panel range: the same bits ---- */

static qgemm_call call_of(problem *p, int64_t m)
{
    return (qgemm_call){ .w = &p->weight, .m = m, .q = p->q, .ldq = p->group * p->groups, .s = p->s, .lds = p->groups, .x = p->x, .ldx = p->k,
                         .y = p->got, .ldy = p->n, .bias = p->bias, .residual = p->residual, .ldr = p->n, .scratch = p->scratch };
}

static void run_kernel(problem *p, const char *name, qgemm_round_fn *round, qgemm_fn *fn, bool *have)
{
    static const int rows[] = { 1, 2, 3, 8, 31, 64, 129 };
    for (int64_t i = 0; round && i < p->m; i++)
        round(p->x + i * p->k, p->k, p->group, qgemm_offset(p->scheme), p->q + i * p->group * p->groups, p->s + i * p->groups);
    for (int i = -1; i < (int)(sizeof rows / sizeof *rows); i++) {
        int64_t m = i < 0 ? p->m : rows[i];
        if (m > p->m) continue;
        qgemm_call c = call_of(p, m);
        memset(p->got, 0xFF, (size_t)(p->m * p->n) * 4);
        memset(p->scratch, 0xFF, GEMM_SCRATCH_BYTES);
        fn(&c, 0, p->panels / 2);
        fn(&c, p->panels / 2, p->panels);
        if (!*have) {
            memcpy(p->want, p->got, (size_t)(p->m * p->n) * 4);
            *have = true;
        }
        if (memcmp(p->want, p->got, (size_t)(m * p->n) * 4) != 0)
            FAIL("%s %s: n=%d k=%d, %d rows: other bits", quant_name(p->scheme), name, (int)p->n, (int)p->k, (int)m);
    }
}

static void run_all(problem *p)
{
    bool have = false;
    if (quant_describe(p->scheme).int8_activations) {
#define RUN(v) if (qgemm_##v.available()) run_kernel(p, #v, qgemm_##v.round, qgemm_##v.run, &have);
        QGEMM_VARIANTS(RUN)
#undef RUN
    } else {
#define RUN(v) if (isa_available(ISA_##v)) run_kernel(p, #v, NULL, qgemm_wide_##v, &have);
        QGEMM_WIDE_VARIANTS(RUN)
#undef RUN
    }
}

TEST(every_scheme_kernel_and_shape)
{
    static const struct { int n, k; } shapes[] = { { 1, 1 }, { 16, 32 }, { 17, 31 }, { 40, 129 }, { 33, 257 }, { 100, 300 }, { 64, 1024 }, { 15, 8 } };
    for (int s = QUANT_NONE + 1; s < QUANT_COUNT; s++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            problem p;
            open_problem(&p, (quant_scheme)s, shapes[i].n, shapes[i].k, 129);
            run_all(&p);
            check_documented(&p);
            close_problem(&p);
        }
}

/* Without bias and residual too, and rows further apart than they are long. */
TEST(strides_and_absent_inputs)
{
    for (int s = QUANT_NONE + 1; s < QUANT_COUNT; s++) {
        problem p;
        open_problem(&p, (quant_scheme)s, 20, 70, 9);
        bool have = false, rounds = quant_describe(p.scheme).int8_activations;
        memset(p.bias, 0, (size_t)p.n * 4), memset(p.residual, 0, (size_t)(p.m * p.n) * 4);
        run_kernel(&p, "portable", rounds ? qgemm_portable.round : NULL, rounds ? qgemm_portable.run : qgemm_wide_portable, &have);
        float y[9][64];
        memset(y, 0x7F, sizeof y);
        qgemm_call c = call_of(&p, p.m);
        c.y = y[0], c.ldy = 64, c.bias = c.residual = NULL;
        (rounds ? qgemm_portable.run : qgemm_wide_portable)(&c, 0, p.panels);
        for (int r = 0; r < 9; r++)
            for (int i = 0; i < 64; i++) {
                uint32_t u;
                memcpy(&u, &y[r][i], 4);
                if (i < p.n ? y[r][i] != p.want[r * p.n + i] : u != 0x7F7F7F7F) { FAIL("%s: row %d column %d", quant_name(p.scheme), r, i); break; }
            }
        close_problem(&p);
    }
}

/* ---- rounding ---- */

TEST(rounding_is_half_to_even)
{
    int8_t q[8];
    float w[] = { 127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, -127 };
    static const int8_t want[] = { 127, 0, 2, 2, 0, -2, -2, -127 };
    CHECK(quantise_group(QUANT_INT8, w, 8, q) == 1);
    CHECK(memcmp(q, want, 8) == 0);
    /* int4: the largest magnitude becomes -8, whatever its sign */
    float v[] = { 8, -7, 2, 4, -3, 4, -4, 1 };
    static const int8_t want4[] = { -8, 7, -2, -4, 3, -4, 4, -1 };
    CHECK(quantise_group(QUANT_INT4_G32, v, 8, q) == -1);
    CHECK(memcmp(q, want4, 8) == 0);
    v[0] = -8;
    CHECK(quantise_group(QUANT_INT4_G32, v, 8, q) == 1 && q[0] == -8 && q[1] == -7 && q[3] == 4);
    /* one far out is cut off where that makes the others finer */
    float u[32];
    for (int i = 0; i < 32; i++) u[i] = (float)(i % 8) - 3.6f;
    u[5] = 10;
    int8_t many[32];
    float cut = quantise_group(QUANT_INT4_G32, u, 32, many);
    CHECK(cut < 0 && cut > -10.0f / 8 && many[5] == -8);
    /* a grouped scale is bfloat16 */
    float g[] = { 1.003f * 127, 127 };
    CHECK(quantise_group(QUANT_INT8_G32, g, 2, q) == bf16_to_f32(f32_to_bf16(1.003f)));
}

TEST(zeros_and_what_is_not_finite)
{
    int8_t q[64];
    qgemm_scale s;
    float w[] = { 0, -0.0f, 0x1p-110f, 0 };
    memset(q, 1, sizeof q);
    CHECK(quantise_group(QUANT_INT4_G128, w, 4, q) == 0 && q[0] == 0 && q[2] == 0);
    w[1] = INFINITY;
    CHECK(isnan(quantise_group(QUANT_INT8, w, 4, q)) && q[1] == 0);
    w[1] = NAN;
    CHECK(isnan(quantise_group(QUANT_FP8, w, 4, q)));
    float x[33] = { 1, NAN, 2 };
#define RUN(v)                                                                                                      \
    if (qgemm_##v.available())                                                                                      \
        for (int at = 0; at < 33; at += 8) {                                                                         \
            memset(x, 0, sizeof x);                                                                                  \
            x[0] = 1, x[at] = at % 16 ? NAN : -INFINITY;                                                             \
            qgemm_##v.round(x, 33, 48, 128, q, &s);                                                                  \
            CHECK(isnan(s.scale) && s.start == 0 && q[0] == 0 && q[47] == 0);                                        \
            x[at] = FLT_MAX;                                                                                         \
            qgemm_##v.round(x, 33, 48, 8, q, &s);                                                                    \
            CHECK(s.scale == FLT_MAX / 127 && q[at] == 127 && s.start == -8 * 127);                                  \
        }
    QGEMM_VARIANTS(RUN)
#undef RUN
}

TEST(e4m3_rounds_to_nearest)
{
    for (int code = 0; code < 256; code++)
        if ((code & 0x7F) != 0x7F) CHECK_INT(f32_to_f8e4m3(f8e4m3_to_f32((uint8_t)code)), code);
    for (int code = 0; code < 0x7E; code++) { /* between neighbours: the middle goes to the even one */
        float a = f8e4m3_to_f32((uint8_t)code), b = f8e4m3_to_f32((uint8_t)(code + 1)), mid = (a + b) / 2;
        CHECK_INT(f32_to_f8e4m3(mid), code % 2 ? code + 1 : code);
        CHECK_INT(f32_to_f8e4m3(nextafterf(mid, 0)), code);
        CHECK_INT(f32_to_f8e4m3(-nextafterf(mid, 1000)), (code + 1) | 0x80);
    }
    CHECK_INT(f32_to_f8e4m3(449), 0x7E);
    CHECK_INT(f32_to_f8e4m3(-INFINITY), 0xFE);
    CHECK_INT(f32_to_f8e4m3(NAN) & 0x7F, 0x7F);
}

/* Extreme values: sums of the largest products must not leave their integers anywhere on the way. */
TEST(extremes_do_not_overflow)
{
    for (int s = QUANT_INT8; s <= QUANT_INT4_G32; s++) {
        problem p;
        open_problem(&p, (quant_scheme)s, 16, 4096, 4);
        for (int64_t i = 0; i < p.n * p.k; i++) p.w[i] = i / p.k % 2 ? -1 : 1;
        for (int64_t i = 0; i < p.m * p.k; i++) p.x[i] = i / p.k % 2 ? 1 : -1;
        const void *rows[GEMM_PANEL];
        for (int c = 0; c < GEMM_PANEL; c++) rows[c] = p.w + c * p.k;
        quantise_panel(p.scheme, p.packed, p.k, 0, rows, DT_F32);
        run_all(&p);
        check_documented(&p);
        close_problem(&p);
    }
}

/* Checkpoints hold int8 weights of -128, which schemes of our own never make: their sign cannot be turned in eight bits. The sums
 * are exact, so the result is known to the bit. */
TEST(weights_of_minus_128)
{
    enum { N = 33, K = 147, M = 9 };
    static const int8_t extreme[] = { -128, 127, -128, -127, -128, 1, 0 };
    int8_t values[N * K];
    float scales[N];
    problem p;
    open_problem(&p, QUANT_INT8, N, K, M);
    for (int i = 0; i < N * K; i++) values[i] = i / K % 3 == 0 ? -128 : extreme[(i * 5 + i / K) % 7];
    for (int i = 0; i < N; i++) scales[i] = (float)(i + 1) / 64;
    for (int i = 0; i < M * K; i++) p.x[i] = i / K % 3 == 0 ? -1 : i / K % 3 == 1 ? 1 : (i * 7 + i / K) % 2 ? 1 : -1;     /* +-127 */
    memset(p.bias, 0, N * sizeof(float)), memset(p.residual, 0, N * M * sizeof(float));
    weight_data w = { .type = DT_I8, .rank = 2, .shape = { N, K }, .values = values, .scales = scales, .scale_type = DT_F32, .global = 1, .group_out = 1, .group_in = K };
    quant_scheme s = qgemm_layout(quant_stored((quant_info){ .type = DT_I8, .act = QUANT_ACT_INT8 }), &w, 1);
    REQUIRE(qgemm_packed_bytes(s, N, K) == qgemm_packed_bytes(QUANT_INT8, N, K));
    p.scheme = p.weight.scheme = s;
    for (int64_t panel = 0; panel < p.panels; panel++) {
        const weight_data *of[GEMM_PANEL];
        int64_t rows[GEMM_PANEL];
        for (int c = 0; c < GEMM_PANEL; c++) rows[c] = panel * GEMM_PANEL + c, of[c] = rows[c] < N ? &w : NULL;
        qgemm_pack_stored(s, p.packed, K, panel, of, rows);
    }
    run_all(&p);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            int64_t sum = 0;
            for (int k = 0; k < K; k++) sum += values[n * K + k] * (p.x[m * K + k] > 0 ? 127 : -127);
            float want = (float)sum * (1.0f / 127.0f * scales[n]);
            if (p.want[m * N + n] != want) { FAIL("row %d column %d is %g, wanted %g", m, n, (double)p.want[m * N + n], (double)want); goto out; }
        }
out:
    close_problem(&p);
}

TEST(names)
{
    quant_scheme s = QUANT_NONE;
    for (int i = QUANT_NONE + 1; i < QUANT_COUNT; i++) {
        REQUIRE_OK(quant_parse(quant_name((quant_scheme)i), &s));
        CHECK_INT(s, i);
    }
    REQUIRE_OK(quant_parse("int4", &s));
    CHECK_INT(s, QUANT_INT4_G128);
    CHECK_ERR(quant_parse("none", &s), ST_INVALID, "int8_per_channel_weight_only");
    CHECK_ERR(quant_parse("awq2", &s), ST_INVALID, "unknown quantization 'awq2'");
    CHECK_NEAR(quant_bits(QUANT_INT4_G32, 4096), 4.5, 0);
}

TEST_MAIN
