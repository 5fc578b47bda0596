/* quantised_mosaic.h's kernel with made-up operands and naive results. */
#include "ops/linear/quantised_mosaic.h"

#include <stdio.h>

#include "base/hash.h"
#include "base/mem.h"
#include "ops/hlo_weight.h"
#include "ops/kernels.h"

/* The scheme of its printed form (quant_print), with the scales that a device keeps. */
static quantised_matmul of_scheme(const char *scheme, int64_t rows, int64_t tiles, int64_t n, int64_t k, int64_t experts)
{
    quantised_matmul q = { .rows = rows, .tiles = tiles, .n = n, .k = k, .layers = 2, .experts = experts, .act = DT_BF16, .scale = DT_F32, .out = DT_F32 };
    if (!quant_read(scheme, &q.scheme)) q.scheme = QUANT_NONE;
    quant_info info = quant_describe(q.scheme);
    q.group = info.group;
    if (info.type == DT_I4 || info.type == DT_F4E2M1) q.scale = DT_BF16;
    return q;
}

/* ---- operands ---- */

typedef struct made { uint64_t state; } made;

static uint32_t next(made *m) { return (uint32_t)(hash_mix64((m->state += HASH_GOLDEN) - HASH_GOLDEN) >> 32); }

static float between(made *m, float a, float b) { return a + (b - a) * (float)(next(m) >> 8) * 0x1p-24f; }

static void fill_floats(made *m, dtype t, float a, float b, char *dst, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float f = between(m, a, b);
        dtype_from_f32(t, &f, dst + dtype_bytes(t, (size_t)i), 1);
    }
}

static void fill_values(made *m, dtype t, void *dst, int64_t n)
{
    uint8_t *b = dst;
    if (t == DT_BF16) fill_floats(m, t, -1, 1, dst, n);
    else
        for (int64_t i = 0; i < n; i++) {
            b[i] = (uint8_t)(next(m) >> 13);
            if (t == DT_F8E4M3 && (b[i] & 0x7F) == 0x7F) b[i] ^= 1;     /* no NaN */
        }
}

/* Their order is the kernel's. */
enum { PLACE, REST };
typedef struct operand_at { int input_scale, x, values, scales, zeros; } operand_at;

static operand_at places_of(quant_info q, bool quantised)
{
    operand_at p = { .x = REST };
    if (q.act == QUANT_ACT_INT8_STATIC || q.act == QUANT_ACT_FP8_STATIC) p.input_scale = p.x++;
    p.values = p.x + 1;
    p.scales = quantised ? p.values + 1 : 0;
    p.zeros = q.zeros ? p.scales + 1 : 0;
    return p;
}

/* One tile less than there is room for is there, if there is more than one; layer 1 of 2. */
static void fill_operands(const quantised_matmul *q, uint64_t seed, void *const *operands)
{
    quant_info info = quant_describe(q->scheme);
    operand_at at = places_of(info, q->scheme);
    made m = { seed };
    int32_t *place = operands[PLACE];
    int64_t matrices = q->layers * q->experts, scales = matrices * quantised_matmul_stored_groups(q) * quantised_matmul_stored_rows(q);
    place[0] = 1;
    place[1] = (int32_t)(q->tiles > 1 ? q->tiles - 1 : 1);
    for (int64_t t = 0; t < q->tiles; t++) place[2 + t] = t < place[1] ? (int32_t)(t * q->experts / q->tiles) : 0;
    if (at.input_scale) *(float *)operands[at.input_scale] = 0.01f;
    fill_floats(&m, q->act, -2, 2, operands[at.x], q->tiles * q->rows * q->k);
    fill_values(&m, q->scheme ? info.type : q->act, operands[at.values], matrices * q->n * quantised_matmul_columns(q));
    if (at.scales) fill_floats(&m, q->scale, 0.002f, 0.02f, operands[at.scales], scales);
    if (at.zeros)
        for (int64_t i = 0; i < scales; i++) ((int8_t *)operands[at.zeros])[i] = (int8_t)(next(&m) % 16);
}

/* ---- results ---- */

/* Row r of one weight's matrix, without scales. */
static void row_values(const quantised_matmul *q, quant_info info, const void *values, int64_t row, float *out)
{
    int64_t columns = quantised_matmul_columns(q);
    const uint8_t *b = (const uint8_t *)values + row * columns;
    if (!q->scheme) dtype_to_f32(q->act, (const char *)values + dtype_bytes(q->act, (size_t)(row * columns)), out, (size_t)q->k);
    for (int64_t i = 0; q->scheme && i < q->k; i++) {
        uint8_t code = i < columns ? b[i] & 15 : b[i - columns] >> 4;
        out[i] = info.type == DT_I4 ? (float)code : info.type == DT_F4E2M1 ? f4e2m1_to_f32(code) : info.type == DT_F8E4M3 ? f8e4m3_to_f32(b[i]) : (float)(int8_t)b[i];
    }
}

/* x in place as the scheme rounds it. */
static void round_row(const quantised_matmul *q, quant_info info, float fixed, float *x)
{
    bool groups = info.act == QUANT_ACT_FP8_G128 || info.act == QUANT_ACT_INT8;
    int64_t width = groups && q->group ? q->group : q->k;
    for (int64_t from = 0; info.act && from < q->k; from += width) {
        int64_t end = from + width < q->k ? from + width : q->k;
        float top = 0, by = fixed;
        for (int64_t i = from; i < end; i++) top = fmaxf(top, fabsf(x[i]));
        if (fixed == 0) by = top / (info.int8_activations ? 127 : 448);
        for (int64_t i = from; i < end; i++) {
            float v = fminf(fmaxf(x[i] / by, info.int8_activations ? -127 : -448), info.int8_activations ? 127 : 448);
            x[i] = by * (info.int8_activations ? rintf(v) : f8e4m3_to_f32(f32_to_f8e4m3(v)));
        }
    }
}

static void reference_row(const quantised_matmul *q, void *const *operands, int64_t expert, const float *x, float *w, float *y)
{
    quant_info info = quant_describe(q->scheme);
    operand_at at = places_of(info, q->scheme);
    const int32_t *place = operands[PLACE];
    int64_t matrix = place[0] * q->experts + expert, groups = quantised_matmul_groups(q);
    for (int64_t n = 0; n < q->n; n++) {
        double sum = 0;
        row_values(q, info, operands[at.values], matrix * q->n + n, w);
        for (int64_t i = 0; i < q->k; i++) {
            int64_t g = (matrix * quantised_matmul_stored_groups(q) + (groups > 1 ? i / q->group : 0)) * quantised_matmul_stored_rows(q) + n;
            float scale = 1, zero = info.type == DT_I4 ? 8 : 0;
            if (at.scales) dtype_to_f32(q->scale, (const char *)operands[at.scales] + dtype_bytes(q->scale, (size_t)g), &scale, 1);
            if (at.zeros) zero = (float)((const int8_t *)operands[at.zeros])[g];
            sum += (double)x[i] * ((double)w[i] - zero) * scale;
        }
        y[n] = (float)sum;
    }
}

static status naive(const quantised_matmul *q, void *const *operands, float *y)
{
    quant_info info = quant_describe(q->scheme);
    operand_at at = places_of(info, q->scheme);
    const int32_t *place = operands[PLACE];
    float *x = mem_array((size_t)q->k * 2, sizeof *x);
    if (!x) return err_nomem();
    for (int64_t r = 0; r < q->tiles * q->rows; r++) {
        dtype_to_f32(q->act, (const char *)operands[at.x] + dtype_bytes(q->act, (size_t)(r * q->k)), x, (size_t)q->k);
        round_row(q, info, at.input_scale ? *(const float *)operands[at.input_scale] : 0, x);
        reference_row(q, operands, place[2 + r / q->rows], x, x + q->k, y + r * q->n);
        for (int64_t n = 0; r / q->rows >= place[1] && n < q->n; n++) y[r * q->n + n] = NAN;
    }
    mem_free(x);
    return ST_OK;
}

/* ---- cases ---- */

enum { EXPERTS = 5, TILES = 4, FULL_TILES = 64, GROUPS = 16, LANES = 128 };

/* The sizes that models have: Llama-3.1-8B's down projection, Qwen3-32B's, DeepSeek-V3's; and gpt-oss', DeepSeek-V3's, Kimi K2's and
 * Qwen3-30B-A3B's experts (the first two as they go in and out), in decode steps and in long ones: tiles of one expert's rows each, of which not all are there, and scales that
 * are stored with the padding that experts' have (hlo_weight_shape). */
static const struct { const char *scheme; int rows, n, k, full_rows, full_n, full_k, full_experts; } cases[] = {
    { "none", 16, 256, 256, 64, 4096, 14336, 0 },
    { "int8", 16, 256, 384, 64, 4096, 14336, 0 },
    { "i8.act=int8_static", 8, 256, 256, 64, 4096, 14336, 0 },
    { "int8_g32", 16, 256, 384, 64, 4096, 4096, 0 },
    { "int8_per_channel_weight_only", 16, 384, 256, 64, 4096, 14336, 0 },
    { "int8_g32_weight_only", 8, 256, 320, 64, 4096, 4096, 0 },
    { "fp8_per_channel", 24, 256, 256, 256, 5120, 25600, 0 },
    { "f8e4m3.act=fp8", 16, 256, 256, 64, 5120, 25600, 0 },
    { "f8e4m3.act=fp8_static", 16, 256, 256, 64, 5120, 25600, 0 },
    { "f8e4m3.g128", 16, 512, 384, 64, 7168, 16384, 0 },
    { "f8e4m3.g128.act=fp8_g128", 16, 256, 448, 64, 7168, 16384, 0 },
    { "f8e4m3.g128.act=fp8_g128", 64, 384, 256, 256, 7168, 16384, 0 },
    { "int4_g128", 16, 256, 512, 64, 4096, 14336, 0 },
    { "int4_g32", 16, 256, 320, 64, 4096, 4096, 0 },
    { "int4_g128_weight_only", 32, 256, 512, 64, 4096, 14336, 0 },
    { "int4_g32_weight_only", 16, 256, 416, 64, 4096, 4096, 0 },
    { "i4.g128.zeros", 16, 256, 512, 64, 4096, 14336, 0 },
    { "i4.g256.zeros", 16, 256, 768, 64, 4096, 14336, 0 },
    { "i4.g32.zeros", 8, 256, 384, 32, 4096, 4096, 0 },
    { "f4e2m1.g32", 16, 256, 448, 16, 5760, 2880, 0 },
    { "f4e2m1.g16", 16, 256, 256, 16, 4096, 4096, 0 },
    { "f4e2m1.g32", 16, 192, 320, 16, 5760, 2880, 32 },
    { "f4e2m1.g32", 16, 320, 256, 16, 2880, 2880, 32 },
    { "f8e4m3.g128.act=fp8_g128", 16, 256, 384, 16, 4096, 7168, 8 },
    { "f8e4m3.g128.act=fp8_g128", 16, 384, 256, 16, 7168, 2048, 8 },
    { "int4_g32_weight_only", 16, 256, 320, 16, 4096, 7168, 12 },
    { "fp8_per_channel", 16, 256, 256, 16, 1536, 2048, 16 },
    { "f8e4m3.g128.act=fp8_g128", 32, 256, 384, 128, 4096, 7168, 8 },
    { "int4_g32_weight_only", 32, 256, 320, 64, 4096, 7168, 12 },
    { "f4e2m1.g32", 32, 192, 320, 128, 5760, 2880, 32 },
    { "fp8_per_channel", 32, 256, 256, 256, 5120, 6144, 5 },
    { "none", 16, 256, 256, 16, 1536, 2048, 16 },
};
enum { N_CASES = sizeof cases / sizeof *cases };

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static quantised_matmul padded(quantised_matmul q)
{
    if (q.tiles == 1) return q;
    q.stored_groups = round_up(quantised_matmul_groups(&q), GROUPS);
    q.stored_rows = round_up(q.n, LANES);
    return q;
}

static quantised_matmul at_test_size(int i)
{
    bool experts = cases[i].full_experts;
    return padded(of_scheme(cases[i].scheme, cases[i].rows, experts ? TILES : 1, cases[i].n, cases[i].k, experts ? EXPERTS : 1));
}

static quantised_matmul at_full_size(int i, int64_t tiles)
{
    int experts = cases[i].full_experts;
    return padded(of_scheme(cases[i].scheme, cases[i].full_rows, experts ? tiles : 1, cases[i].full_n, cases[i].full_k, experts ? experts : 1));
}

static void describe(int i, char *dst, size_t cap)
{
    int n = snprintf(dst, cap, "%s, ", cases[i].scheme);
    if (cases[i].full_experts) n += snprintf(dst + n, cap - (size_t)n, "%d experts, tiles of ", cases[i].full_experts);
    snprintf(dst + n, cap - (size_t)n, "%d x %d x %d", cases[i].full_rows, cases[i].full_n, cases[i].full_k);
}

static const char *refuses(int i, const chip *c)
{
    const quantised_matmul sizes[] = { at_test_size(i), at_full_size(i, FULL_TILES) };
    matmul_config m;
    for (int j = 0; j < 2; j++)
        if (quantised_matmul_configure(c, &sizes[j], &m) != ST_OK) return err_kept();
    return NULL;
}

/* small: which case, at test size; -1: not */
static mk *made_of(const quantised_matmul *q, const chip *c, int small)
{
    matmul_config m;
    if (quantised_matmul_configure(c, q, &m) != ST_OK) {
        mk *k = mk_new("quantised_matmul");
        mk_fail(k, "%s", err_msg());
        return k;
    }
    const matmul_shape s = { .k = q->k, .tiles = q->tiles, .weight = quant_describe(q->scheme).type, .group = q->group };
    if (small >= 0 && c->version == 4) {     /* as if VMEM were as short as it is for the full size */
        m.tight = small % 2;
        if (matmul_k_unit(&s)) m.block_k = matmul_k_unit(&s);
    }
    return quantised_matmul_kernel("quantised_matmul", q, &m);
}

static mk *build(int i, const chip *c)
{
    const quantised_matmul q = at_test_size(i);
    return made_of(&q, c, i);
}

static mk *build_full(int i, const chip *c)
{
    const quantised_matmul q = at_full_size(i, FULL_TILES);
    return made_of(&q, c, -1);
}

/* A tile of each expert: weights are read once. */
static mk *build_profile(int i, const chip *c)
{
    const quantised_matmul q = at_full_size(i, cases[i].full_experts);
    return made_of(&q, c, -1);
}

static status profile(int i, const chip *c, mk *k, kernel_bound *least)
{
    const quantised_matmul q = at_full_size(i, cases[i].full_experts);
    matmul_config m;
    TRY(quantised_matmul_configure(c, &q, &m));
    least->bytes = m.bytes * (double)q.tiles;
    least->unit_s = 2.0 * (double)(q.rows * q.tiles) * (double)q.n * (double)q.k / chip_rate_of(c, m.x).per_s;
    return mk_bake(k, "place", 0, (int32_t)q.tiles);        /* layer 0, all tiles */
}

static void fill(int i, const mk *k, uint64_t seed, void *const *operands)
{
    (void)k;
    const quantised_matmul q = at_test_size(i);
    fill_operands(&q, seed, operands);
}

static status reference(int i, const mk *k, void *const *operands, float *const *results)
{
    (void)k;
    const quantised_matmul q = at_test_size(i);
    return naive(&q, operands, results[0]);
}

static double tolerance(int i) { return (void)i, 1e-4; }

const kernel_impl kernel_quantised_matmul = { .name = "quantised_matmul", .n_cases = N_CASES, .describe = describe, .refuses = refuses, .build = build, .build_full = build_full, .fill = fill,
                                              .ref = reference, .tolerance = tolerance, .build_profile = build_profile, .profile = profile };
