/* Quantised tensors that are missing, cut, of another type or shape, or whose numbers make no sense, in every format on disk: an error
 * that names the tensor, or a weight that can be read. Data have just the bytes of their shapes, so that a sanitizer sees one too many. */
#include "base/mem.h"
#include "load/quant.h"
#include "tests/test.h"

enum { MAX_TENSORS = 6, N = 16, K = 64 };
typedef struct store { st_tensor t[MAX_TENSORS]; int n; } store;

static const st_tensor *find(const void *arg, const char *name)
{
    const store *s = arg;
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->t[i].name, name) == 0) return &s->t[i];
    return NULL;
}

/* What is written into tensors: ones where they are floats, the group of each column, the shape. */
typedef enum filling { ZEROS, ONES, GROUPS, SHAPE } filling;

static void put(st_tensor *t, int64_t i, double v)
{
    char *at = (char *)(uintptr_t)t->data + dtype_bytes(t->type, (size_t)i);
    float f = (float)v;
    uint16_t half;
    switch (t->type) {
    case DT_F32: memcpy(at, &f, 4); break;
    case DT_BF16: half = f32_to_bf16(f), memcpy(at, &half, 2); break;
    case DT_F16: half = 0x3C00, memcpy(at, &half, 2); break;
    case DT_I32: memcpy(at, &(int32_t){ (int32_t)v }, 4); break;
    case DT_I64: memcpy(at, &(int64_t){ (int64_t)v }, 8); break;
    default: if (dtype_bits(t->type) == 8) *at = (char)(t->type == DT_F8E4M3 ? 0x38 : 127);
    }
}

static int64_t count_of(const st_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->shape[i];
    return n;
}

static bool fill(st_tensor *t, filling what)
{
    int64_t n = count_of(t);
    t->bytes = dtype_bytes(t->type, (size_t)n);
    char *data = mem_calloc(1, t->bytes ? t->bytes : 1);
    t->data = data;
    for (int64_t i = 0; data && i < n && what != ZEROS; i++) put(t, i, what == ONES ? 1 : what == GROUPS ? (double)(i * 2 / K) : i ? K : N);
    return data != NULL;
}

typedef struct part { const char *name; dtype type; int rank; int64_t shape[4]; filling what; } part;
typedef struct format { const char *title, *weight; quant_module module; part parts[MAX_TENSORS]; } format;

static const struct { format f; quant_info info; } formats[] = {
    { { "awq", "a.weight", { .format = QUANT_FORMAT_AWQ, .group = 32 },
        { { "a.qweight", DT_I32, 2, { K, N / 8 }, ZEROS }, { "a.scales", DT_F16, 2, { 2, N }, ONES }, { "a.qzeros", DT_I32, 2, { 2, N / 8 }, ZEROS } } }, { .type = DT_I4, .group = 32, .zeros = true } },
    { { "gptq", "a.weight", { .format = QUANT_FORMAT_GPTQ, .group = 32, .zeros_less_one = true },
        { { "a.qweight", DT_I32, 2, { K / 8, N }, ZEROS }, { "a.scales", DT_F16, 2, { 2, N }, ONES }, { "a.qzeros", DT_I32, 2, { 2, N / 8 }, ZEROS }, { "a.g_idx", DT_I32, 1, { K }, GROUPS } } },
      { .type = DT_I4, .group = 32, .zeros = true } },
    { { "gptq, desc_act", "a.weight", { .format = QUANT_FORMAT_GPTQ, .group = 32 },
        { { "a.qweight", DT_I32, 2, { K / 8, N }, ZEROS }, { "a.scales", DT_F32, 2, { 2, N }, ONES }, { "a.qzeros", DT_I32, 2, { 2, N / 8 }, ZEROS }, { "a.g_idx", DT_I32, 1, { K }, GROUPS } } },
      { .type = DT_I4, .group = 32, .zeros = true, .ordered = true } },
    { { "pack-quantized", "a.weight", { .format = QUANT_FORMAT_PACKED, .group = 32 },
        { { "a.weight_packed", DT_I32, 2, { N, K / 8 }, ZEROS }, { "a.weight_scale", DT_BF16, 2, { N, 2 }, ONES }, { "a.weight_shape", DT_I64, 1, { 2 }, SHAPE } } }, { .type = DT_I4, .group = 32 } },
    { { "pack-quantized, all", "a.weight", { .format = QUANT_FORMAT_PACKED, .group = 32 },
        { { "a.weight_packed", DT_I32, 2, { N, K / 8 }, ZEROS }, { "a.weight_scale", DT_BF16, 2, { N, 2 }, ONES }, { "a.weight_zero_point", DT_I32, 2, { N / 8, 2 }, ZEROS },
          { "a.weight_shape", DT_I32, 1, { 2 }, SHAPE }, { "a.weight_g_idx", DT_I32, 1, { K }, GROUPS } } }, { .type = DT_I4, .group = 32, .zeros = true, .ordered = true } },
    { { "int-quantized", "a.weight", { .format = QUANT_FORMAT_CHANNEL },
        { { "a.weight", DT_I8, 2, { N, K }, ZEROS }, { "a.weight_scale", DT_BF16, 2, { N, 1 }, ONES } } }, { .type = DT_I8, .act = QUANT_ACT_INT8 } },
    { { "float-quantized, static", "a.weight", { .format = QUANT_FORMAT_CHANNEL },
        { { "a.weight", DT_F8E4M3, 2, { N, K }, ZEROS }, { "a.weight_scale", DT_F32, 1, { 1 }, ONES }, { "a.input_scale", DT_F32, 1, { 1 }, ONES } } }, { .type = DT_F8E4M3, .act = QUANT_ACT_FP8_STATIC } },
    { { "fp8 blocks", "a.weight", { .format = QUANT_FORMAT_BLOCK, .group = 128, .block_out = 8, .block_in = 128 },
        { { "a.weight", DT_F8E4M3, 2, { N, K }, ZEROS }, { "a.weight_scale_inv", DT_F32, 2, { 2, 1 }, ONES } } }, { .type = DT_F8E4M3, .group = 128, .act = QUANT_ACT_FP8_G128 } },
    { { "nvfp4", "a.weight", { .format = QUANT_FORMAT_NVFP4, .group = 16 },
        { { "a.weight_packed", DT_U8, 2, { N, K / 2 }, ZEROS }, { "a.weight_scale", DT_F8E4M3, 2, { N, 4 }, ONES }, { "a.weight_global_scale", DT_F32, 1, { 1 }, ONES } } }, { .type = DT_F4E2M1, .group = 16 } },
    { { "mxfp4", "a.weight", { .format = QUANT_FORMAT_MXFP4, .group = 32 },
        { { "a.weight_packed", DT_U8, 2, { N, K / 2 }, ZEROS }, { "a.weight_scale", DT_U8, 2, { N, 2 }, ONES } } }, { .type = DT_F4E2M1, .group = 32 } },
    { { "mxfp4, experts", "a[1]T", { .format = QUANT_FORMAT_MXFP4, .group = 32 },
        { { "a_blocks", DT_U8, 4, { 2, N, 2, 16 }, ZEROS }, { "a_scales", DT_U8, 3, { 2, N, 2 }, ONES } } }, { .type = DT_F4E2M1, .group = 32 } },
};
enum { FORMATS = sizeof formats / sizeof *formats };

static void open_store(store *s, const format *f)
{
    *s = (store){ 0 };
    for (; s->n < MAX_TENSORS && f->parts[s->n].name; s->n++) {
        const part *p = &f->parts[s->n];
        st_tensor *t = &s->t[s->n];
        *t = (st_tensor){ .name = p->name, .type = p->type, .rank = p->rank };
        memcpy(t->shape, p->shape, sizeof p->shape);
        if (!fill(t, p->what)) FAIL("no memory");
    }
}

static void close_store(store *s)
{
    for (int i = 0; i < s->n; i++) mem_free((void *)(uintptr_t)s->t[i].data);
}

static status load(int i, const quant_module *m, const store *s, weight_data *w)
{
    quant_module q = *m;
    q.scheme = quant_stored(formats[i].info);
    return quant_load(&q, &(quant_files){ find, s }, formats[i].f.weight, w);
}

/* Refused with a tensor's name, or every value can be read. True if it was refused. */
static bool refused(int i, const store *s, const char *what)
{
    weight_data w;
    err_clear();
    status st = load(i, &formats[i].f.module, s, &w);
    if (st != ST_OK) {
        if ((st != ST_INVALID && st != ST_UNSUPPORTED && st != ST_NOT_FOUND) || !strstr(err_msg(), "tensor a"))
            FAIL("%s, %s: %s (%s), expected an error that names the tensor", formats[i].f.title, what, status_name(st), err_msg());
        return true;
    }
    float *row = mem_array((size_t)w.shape[1], sizeof *row);
    for (int64_t r = 0; row && r < w.shape[0]; r++) weight_row(&w, r, row);
    mem_free(row);
    quant_release(&w);
    return false;
}

TEST(every_format_loads)
{
    for (int i = 0; i < FORMATS; i++) {
        store s;
        weight_data w;
        open_store(&s, &formats[i].f);
        CHECK_OK(load(i, &formats[i].f.module, &s, &w));
        CHECK_INT(w.shape[0], N);
        CHECK_INT(w.shape[1], K);
        quant_release(&w);
        CHECK(!refused(i, &s, "as it should be"));
        close_store(&s);
    }
}

TEST(missing)
{
    for (int i = 0; i < FORMATS; i++)
        for (int t = 0; t < MAX_TENSORS && formats[i].f.parts[t].name; t++) {
            store s;
            open_store(&s, &formats[i].f);
            const char *name = s.t[t].name;
            bool optional = i == 1 && strcmp(name, "a.g_idx") == 0;
            s.t[t].name = "elsewhere";
            if (refused(i, &s, name) == optional) FAIL("%s without %s: %s", formats[i].f.title, name, optional ? err_msg() : "loads");
            if (!optional && !strstr(err_msg(), name)) FAIL("%s without %s: %s", formats[i].f.title, name, err_msg());
            close_store(&s);
        }
}

/* Any other type, but those in which the format's numbers may be. */
TEST(types)
{
    for (int i = 0; i < FORMATS; i++)
        for (int t = 0; t < MAX_TENSORS && formats[i].f.parts[t].name; t++)
            for (dtype d = 0; d < DT_COUNT; d++) {
                format f = formats[i].f;
                dtype was = f.parts[t].type;
                bool number = was == DT_F32 || was == DT_BF16 || was == DT_F16, takes = d == was;
                takes |= number && (d == DT_F32 || d == DT_BF16 || d == DT_F16);
                takes |= f.parts[t].what == SHAPE && (d == DT_I32 || d == DT_I64);
                takes |= d == DT_F8E8M0 && (f.module.format == QUANT_FORMAT_BLOCK || f.module.format == QUANT_FORMAT_MXFP4) && f.parts[t].what == ONES;
                f.parts[t].type = d;
                store s;
                open_store(&s, &f);
                if (refused(i, &s, dtype_name(d)) == takes) FAIL("%s: %s of type %s: %s", f.title, f.parts[t].name, dtype_name(d), takes ? err_msg() : "loads");
                if (!takes && !strstr(err_msg(), s.t[t].name)) FAIL("%s: %s of type %s: %s", f.title, s.t[t].name, dtype_name(d), err_msg());
                close_store(&s);
            }
}

/* One size more, less, none, half; a dimension more or less. */
TEST(shapes)
{
    int n_refused = 0, n_read = 0;
    for (int i = 0; i < FORMATS; i++)
        for (int t = 0; t < MAX_TENSORS && formats[i].f.parts[t].name; t++)
            for (int d = 0; d < formats[i].f.parts[t].rank; d++)
                for (int change = 0; change < 6; change++) {
                    format f = formats[i].f;
                    part *p = &f.parts[t];
                    int64_t n = p->shape[d];
                    p->shape[d] = change == 0 ? n + 1 : change == 1 ? n - 1 : change == 2 ? 0 : change == 3 ? n / 2 : n;
                    if (change == 4) p->rank--;
                    if (change == 5 && p->rank < 4) p->shape[p->rank++] = 1;
                    store s;
                    open_store(&s, &f);
                    if (refused(i, &s, p->name)) n_refused++;
                    else n_read++;
                    close_store(&s);
                }
    CHECK(n_refused > 150);
    CHECK(n_read < 40);
    printf("  %d refused, %d read\n", n_refused, n_read);
}

/* Single numbers, and a configuration that says other than the tensors. */
TEST(numbers)
{
    static const struct { int format, tensor, index; double value; status code; const char *message; } cases[] = {
        { 1, 3, 5, 1, ST_UNSUPPORTED, "tensor a.g_idx puts column 5 into group 1" },
        { 2, 3, 5, 2, ST_INVALID, "tensor a.g_idx has group 2 in column 5, expected 0 to 1" },
        { 2, 3, 5, -1, ST_INVALID, "tensor a.g_idx has group -1 in column 5" },
        { 2, 3, 5, INT32_MAX, ST_INVALID, "tensor a.g_idx has group 2147483647 in column 5" },
        { 2, 3, 5, 1, ST_UNSUPPORTED, "tensor a.g_idx has more than 32 columns of group 1" },
        { 4, 4, 63, INT32_MIN, ST_INVALID, "tensor a.weight_g_idx has group -2147483648 in column 63" },
        { 3, 2, 0, 0, ST_INVALID, "tensor a.weight_shape has the size 0" },
        { 3, 2, 1, -8, ST_INVALID, "tensor a.weight_shape has the size -8" },
        { 3, 2, 1, 1e18, ST_INVALID, "tensor a.weight_shape has the size 1000000000000000000" },
        { 3, 2, 1, 72, ST_INVALID, "tensor a.weight_packed is i32[16, 8], expected i32[16, 9]" },
        { 3, 2, 1, 63, ST_UNSUPPORTED, "tensor a.weight_packed has 63 inputs, an odd number" },
        { 4, 3, 0, 24, ST_INVALID, "tensor a.weight_packed is i32[16, 8], expected i32[24, 8]" },
        { 6, 2, 0, 0, ST_INVALID, "tensor a.input_scale is 0, expected a positive number" },
        { 6, 2, 0, -1, ST_INVALID, "tensor a.input_scale is -1" },
        { 6, 2, 0, NAN, ST_INVALID, "nan, expected a positive number" },
        { 6, 2, 0, INFINITY, ST_INVALID, "tensor a.input_scale is inf" },
        { 8, 2, 0, 0, ST_INVALID, "tensor a.weight_global_scale is 0, expected a positive number" },
        { 8, 2, 0, -2, ST_INVALID, "tensor a.weight_global_scale is -2" },
        { 8, 2, 0, NAN, ST_INVALID, "nan, expected a positive number" },
        { 8, 2, 0, INFINITY, ST_INVALID, "tensor a.weight_global_scale is inf" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        store s;
        weight_data w;
        open_store(&s, &formats[cases[i].format].f);
        put(&s.t[cases[i].tensor], cases[i].index, cases[i].value);
        CHECK_ERR(load(cases[i].format, &formats[cases[i].format].f.module, &s, &w), cases[i].code, cases[i].message);
        close_store(&s);
    }
}

TEST(the_configuration_says_otherwise)
{
    static const struct { int format, group; status code; const char *message; } cases[] = {
        { 0, 16, ST_INVALID, "tensor a.scales is f16[2, 16], expected f32, bf16 or f16 [4, 16]" },
        { 0, 128, ST_UNSUPPORTED, "tensor a.qweight has 64 inputs, no multiple of the group size 128" },
        { 0, 0, ST_INVALID, "tensor a.scales is f16[2, 16], expected f32, bf16 or f16 [1, 16]" },
        { 1, 64, ST_INVALID, "tensor a.scales is f16[2, 16], expected f32, bf16 or f16 [1, 16]" },
        { 2, 16, ST_INVALID, "tensor a.scales is f32[2, 16], expected f32, bf16 or f16 [4, 16]" },
        { 3, 16, ST_INVALID, "tensor a.weight_scale is bf16[16, 2], expected f32, bf16 or f16 [16, 4]" },
        { 3, 0, ST_INVALID, "tensor a.weight_scale is bf16[16, 2], expected f32, bf16 or f16 [16, 1]" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        store s;
        weight_data w;
        quant_module m = formats[cases[i].format].f.module;
        m.group = cases[i].group;
        open_store(&s, &formats[cases[i].format].f);
        CHECK_ERR(load(cases[i].format, &m, &s, &w), cases[i].code, cases[i].message);
        close_store(&s);
    }
    store s;
    weight_data w;
    quant_module m = formats[7].f.module;
    m.block_out = 4;
    open_store(&s, &formats[7].f);
    CHECK_ERR(load(7, &m, &s, &w), ST_INVALID, "tensor a.weight_scale_inv is f32[2, 1], expected f32, bf16 or f16 [4, 1]");
    m.format = QUANT_FORMAT_CHANNEL;
    CHECK_ERR(load(7, &m, &s, &w), ST_NOT_FOUND, "tensor a.weight_scale is not in the checkpoint");
    m.format = QUANT_FORMAT_AWQ;
    CHECK_ERR(load(7, &m, &s, &w), ST_NOT_FOUND, "tensor a.qweight is not in the checkpoint");
    m.format = QUANT_FORMAT_COUNT;
    CHECK_ERR(load(7, &m, &s, &w), ST_INTERNAL, "not quantised");
    close_store(&s);
}

TEST_MAIN
