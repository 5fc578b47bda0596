/* Readers of quantised tensors: small ones written out by hand against the values they stand for, and tensors that are not as they
 * should be. The goldens (tests/unit/cli/test_stored) have whole checkpoints. */
#include "base/mem.h"
#include "load/quant.h"
#include "tests/test.h"

typedef struct store { st_tensor t[12]; int n; } store;

static const st_tensor *find(const void *arg, const char *name)
{
    const store *s = arg;
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->t[i].name, name) == 0) return &s->t[i];
    return NULL;
}

static st_tensor *add(store *s, const char *name, dtype type, int rank, int64_t a, int64_t b, int64_t c, int64_t d, const void *data)
{
    int64_t n = 1;
    s->t[s->n] = (st_tensor){ .name = name, .type = type, .rank = rank, .shape = { a, b, c, d }, .data = data };
    for (int i = 0; i < rank; i++) n *= s->t[s->n].shape[i];
    s->t[s->n].bytes = dtype_bytes(type, (size_t)n);
    return &s->t[s->n++];
}

static status load(const quant_module *q, const store *s, const char *name, weight_data *w) { return quant_load(q, &(quant_files){ find, s }, name, w); }

#define SCHEME(...) quant_stored((quant_info){ __VA_ARGS__ })

/* value(out, in) = (code - zero) * scale with codes that differ everywhere. */
static int code_at(int64_t o, int64_t i) { return (int)((o * 5 + i * 3 + o * i) % 16); }
static int zero_at(int64_t o, int64_t g) { return (int)((o + 2 * g) % 16); }
static float scale_at(int64_t o, int64_t g) { return (float)(1 + o + 8 * g) / 64; }

enum { N = 16, K = 32, G = 16 };

static void check_values(const weight_data *w, bool zeros, int less, const int32_t *group_of)
{
    CHECK_INT(w->shape[0], N);
    CHECK_INT(w->shape[1], K);
    for (int64_t o = 0; o < N; o++) {
        float row[K];
        weight_row(w, o, row);
        for (int64_t i = 0; i < K; i++) {
            int64_t g = group_of ? group_of[i] : i / G;
            float want = (float)(code_at(o, i) - (zeros ? zero_at(o, g) + less : 8)) * scale_at(o, g);
            if (row[i] != want) FAIL("value (%d, %d) is %g, wanted %g", (int)o, (int)i, (double)row[i], (double)want);
        }
    }
}

TEST(awq)
{
    static const int place[8] = { 0, 2, 4, 6, 1, 3, 5, 7 };
    uint32_t q[K][N / 8] = { { 0 } }, z[K / G][N / 8] = { { 0 } };
    float s[K / G][N];
    for (int o = 0; o < N; o++)
        for (int p = 0; p < 8; p++) {
            if (place[p] != o % 8) continue;
            for (int i = 0; i < K; i++) q[i][o / 8] |= (uint32_t)code_at(o, i) << 4 * p;
            for (int g = 0; g < K / G; g++) z[g][o / 8] |= (uint32_t)zero_at(o, g) << 4 * p, s[g][o] = scale_at(o, g);
        }
    store st = { 0 };
    add(&st, "a.qweight", DT_I32, 2, K, N / 8, 0, 0, q);
    add(&st, "a.qzeros", DT_I32, 2, K / G, N / 8, 0, 0, z);
    st_tensor *scales = add(&st, "a.scales", DT_F32, 2, K / G, N, 0, 0, s);
    quant_module m = { .format = QUANT_FORMAT_AWQ, .group = G, .scheme = SCHEME(.type = DT_I4, .group = G, .zeros = true) };
    weight_data w;
    REQUIRE_OK(load(&m, &st, "a.weight", &w));
    check_values(&w, true, 0, NULL);
    quant_release(&w);
    scales->shape[1] = N - 1;
    CHECK_ERR(load(&m, &st, "a.weight", &w), ST_INVALID, "tensor a.scales is f32[2, 15], expected f32, bf16 or f16 [2, 16]");
    m.group = 64;
    CHECK_ERR(load(&m, &st, "a.weight", &w), ST_UNSUPPORTED, "no multiple of the group size 64");
    CHECK_ERR(load(&m, &st, "b.weight", &w), ST_NOT_FOUND, "tensor b.qweight is not in the checkpoint");
    CHECK_ERR(load(&m, &st, "a[3]", &w), ST_UNSUPPORTED, "all experts in one tensor");
}

static void gptq(const int32_t *group_of, bool ordered)
{
    uint32_t q[K / 8][N] = { { 0 } }, z[K / G][N / 8] = { { 0 } };
    float s[K / G][N];
    int32_t idx[K];
    for (int i = 0; i < K; i++) idx[i] = group_of[i];
    for (int o = 0; o < N; o++) {
        for (int i = 0; i < K; i++) q[i / 8][o] |= (uint32_t)code_at(o, i) << 4 * (i % 8);
        for (int g = 0; g < K / G; g++) z[g][o / 8] |= (uint32_t)zero_at(o, g) << 4 * (o % 8), s[g][o] = scale_at(o, g);
    }
    store st = { 0 };
    add(&st, "a.qweight", DT_I32, 2, K / 8, N, 0, 0, q);
    add(&st, "a.qzeros", DT_I32, 2, K / G, N / 8, 0, 0, z);
    add(&st, "a.scales", DT_F32, 2, K / G, N, 0, 0, s);
    add(&st, "a.g_idx", DT_I32, 1, K, 0, 0, 0, idx);
    quant_module m = { .format = QUANT_FORMAT_GPTQ, .group = G, .zeros_less_one = true, .scheme = SCHEME(.type = DT_I4, .group = G, .zeros = true, .ordered = ordered) };
    weight_data w;
    REQUIRE_OK(load(&m, &st, "a.weight", &w));
    check_values(&w, true, 1, group_of);
    CHECK((w.order != NULL) == ordered);
    quant_release(&w);
    idx[7] = 2;
    if (ordered) CHECK_ERR(load(&m, &st, "a.weight", &w), ST_INVALID, "tensor a.g_idx has group 2 in column 7, expected 0 to 1");
    else CHECK_ERR(load(&m, &st, "a.weight", &w), ST_UNSUPPORTED, "has no desc_act");
    idx[7] = !group_of[7];
    if (ordered) CHECK_ERR(load(&m, &st, "a.weight", &w), ST_UNSUPPORTED, "more than 16 columns of group");
    idx[7] = group_of[7];
    CHECK_EVERY_ALLOCATION(load(&m, &st, "a.weight", &w), quant_release(&w));
}

TEST(gptq_plain_and_ordered)
{
    int32_t plain[K], mixed[K];
    for (int i = 0; i < K; i++) plain[i] = i / G, mixed[i] = i % 2;
    gptq(plain, false);
    gptq(mixed, true);
}

TEST(packed)
{
    uint32_t q[N][K / 8] = { { 0 } }, z[N / 8][K / G] = { { 0 } };
    float s[N][K / G];
    int32_t dims[2] = { N, K };
    int64_t wide[2] = { N, K };
    for (int o = 0; o < N; o++) {
        for (int i = 0; i < K; i++) q[o][i / 8] |= (uint32_t)code_at(o, i) << 4 * (i % 8);
        for (int g = 0; g < K / G; g++) z[o / 8][g] |= (uint32_t)zero_at(o, g) << 4 * (o % 8), s[o][g] = scale_at(o, g);
    }
    for (int zeros = 0; zeros < 2; zeros++) {
        store st = { 0 };
        add(&st, "a.weight_packed", DT_I32, 2, N, K / 8, 0, 0, q);
        add(&st, "a.weight_scale", DT_F32, 2, N, K / G, 0, 0, s);
        add(&st, "a.weight_zero_point", DT_I32, 2, N / 8, K / G, 0, 0, z);
        st_tensor *t = add(&st, "a.weight_shape", DT_I32, 1, 2, 0, 0, 0, dims);
        quant_module m = { .format = QUANT_FORMAT_PACKED, .group = G, .scheme = SCHEME(.type = DT_I4, .group = G, .zeros = zeros != 0) };
        weight_data w;
        REQUIRE_OK(load(&m, &st, "a.weight", &w));
        check_values(&w, zeros != 0, 0, NULL);
        quant_release(&w);
        t->type = DT_I64, t->data = wide;
        REQUIRE_OK(load(&m, &st, "a.weight", &w));
        quant_release(&w);
        wide[1] = K + 8;
        CHECK_ERR(load(&m, &st, "a.weight", &w), ST_INVALID, "tensor a.weight_packed is i32[16, 4], expected i32[16, 5]");
        wide[1] = -1;
        CHECK_ERR(load(&m, &st, "a.weight", &w), ST_INVALID, "tensor a.weight_shape has the size -1");
        wide[1] = K;
        st.t[1].type = DT_I8;
        CHECK_ERR(load(&m, &st, "a.weight", &w), ST_INVALID, "tensor a.weight_scale is i8[16, 2], expected f32, bf16 or f16 [16, 2]");
    }
}

TEST(eight_bits)
{
    uint8_t f8[3][4] = { { 0x38, 0xB8, 0x40, 0x7E }, { 0x01, 0x81, 0x00, 0x30 }, { 0x38, 0x38, 0x38, 0x38 } };
    float per[3] = { 0.5f, 2, 4 }, one[1] = { 0.25f }, input[1] = { 0.125f }, blocks[2] = { 2, 8 }, row[4];
    store st = { 0 };
    weight_data w;
    add(&st, "a.weight", DT_F8E4M3, 2, 3, 4, 0, 0, f8);
    st_tensor *s = add(&st, "a.weight_scale", DT_F32, 2, 3, 1, 0, 0, per);
    add(&st, "a.weight_scale_inv", DT_F32, 2, 2, 1, 0, 0, blocks);
    quant_module m = { .format = QUANT_FORMAT_CHANNEL, .scheme = SCHEME(.type = DT_F8E4M3, .act = QUANT_ACT_FP8_STATIC) };
    CHECK_ERR(load(&m, &st, "a.weight", &w), ST_NOT_FOUND, "tensor a.input_scale is not in the checkpoint");
    add(&st, "a.input_scale", DT_F32, 0, 0, 0, 0, 0, input);
    REQUIRE_OK(load(&m, &st, "a.weight", &w));
    weight_row(&w, 0, row);
    CHECK(row[0] == 0.5f && row[1] == -0.5f && row[2] == 1 && row[3] == 224);
    CHECK(w.input_scale == 0.125f);
    input[0] = 0;
    CHECK_ERR(load(&m, &st, "a.weight", &w), ST_INVALID, "tensor a.input_scale is 0, expected a positive number");
    m.scheme = SCHEME(.type = DT_F8E4M3);
    s->rank = 1, s->shape[0] = 1, s->data = one;
    REQUIRE_OK(load(&m, &st, "a.weight", &w));
    weight_row(&w, 2, row);
    CHECK(row[0] == 0.25f);
    s->shape[0] = 2;
    CHECK_ERR(load(&m, &st, "a.weight", &w), ST_INVALID, "tensor a.weight_scale is f32[2]");
    m = (quant_module){ .format = QUANT_FORMAT_BLOCK, .block_out = 2, .block_in = 128, .scheme = SCHEME(.type = DT_F8E4M3, .group = 128) };
    REQUIRE_OK(load(&m, &st, "a.weight", &w));
    weight_row(&w, 1, row);
    CHECK(row[0] == 2 * 0x1p-9f);
    weight_row(&w, 2, row);
    CHECK(row[3] == 8);
    st.t[0].type = DT_I8;
    CHECK_ERR(load(&m, &st, "a.weight", &w), ST_INVALID, "tensor a.weight is i8[3, 4], expected f8e4m3[.., ..]");
}

TEST(four_bit_floats)
{
    uint8_t q[2][2][16], e8[2][2] = { { 127, 128 }, { 126, 0 } }, e4[2][4];
    float global[1] = { 4 }, row[64];
    for (int i = 0; i < 64; i++) ((uint8_t *)q)[i] = (uint8_t)(i * 37);
    memset(e4, 0x40, sizeof e4);    /* 2 */
    store st = { 0 };
    weight_data w;
    add(&st, "a.weight_packed", DT_U8, 2, 2, 32, 0, 0, q);
    st_tensor *s = add(&st, "a.weight_scale", DT_U8, 2, 2, 2, 0, 0, e8);
    quant_module m = { .format = QUANT_FORMAT_MXFP4, .group = 32, .scheme = SCHEME(.type = DT_F4E2M1, .group = 32) };
    REQUIRE_OK(load(&m, &st, "a.weight", &w));
    weight_row(&w, 0, row);
    CHECK(row[2] == f4e2m1_to_f32(37 & 15) && row[3] == f4e2m1_to_f32(37 >> 4) && row[33] == 2 * f4e2m1_to_f32((16 * 37 & 255) >> 4));
    add(&st, "e_blocks", DT_U8, 4, 2, 1, 2, 16, q);
    add(&st, "e_scales", DT_U8, 3, 2, 1, 2, 0, e8);
    REQUIRE_OK(load(&m, &st, "e[1]T", &w));
    CHECK_INT(w.shape[0], 1);
    weight_row(&w, 0, row);
    CHECK(row[1] == 0.5f * f4e2m1_to_f32((32 * 37 & 255) >> 4));
    CHECK_ERR(load(&m, &st, "e[2]T", &w), ST_INVALID, "tensor e_blocks has no expert 2");
    s->type = DT_F8E4M3, s->shape[1] = 4, s->data = e4;
    m = (quant_module){ .format = QUANT_FORMAT_NVFP4, .group = 16, .scheme = SCHEME(.type = DT_F4E2M1, .group = 16) };
    CHECK_ERR(load(&m, &st, "a.weight", &w), ST_NOT_FOUND, "a.weight_global_scale");
    add(&st, "a.weight_global_scale", DT_F32, 1, 1, 0, 0, 0, global);
    REQUIRE_OK(load(&m, &st, "a.weight", &w));
    weight_row(&w, 0, row);
    CHECK(row[2] == 0.5f * f4e2m1_to_f32(37 & 15));
    global[0] = 0;
    CHECK_ERR(load(&m, &st, "a.weight", &w), ST_INVALID, "weight_global_scale is 0, expected a positive number");
}

TEST_MAIN
