// layer: ops
/* Quantised tensors of arbitrary shapes, types and contents: read by every format's reader, dequantised, and packed as the CPU does. */
#include <stdlib.h>

#include "base/mem.h"
#include "load/quant.h"
#include "ops/linear/quantise.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct input { const uint8_t *at, *end; st_tensor t[8]; } input;

static const char *const names[8] = { "a.qweight", "a.weight", "a.weight_packed", "a.scales", "a.weight_scale", "a.qzeros", "a.g_idx", "a.weight_shape" };
static const char *const more[8] = { "a.qweight", "a_blocks", "a.weight_packed", "a_scales", "a.weight_scale_inv", "a.weight_zero_point", "a.weight_g_idx", "a.weight_global_scale" };

static uint8_t next(input *in) { return in->at < in->end ? *in->at++ : 0; }

static const st_tensor *find(const void *arg, const char *name)
{
    const input *in = arg;
    for (int i = 0; i < 8; i++)
        if (in->t[i].data && strcmp(in->t[i].name, name) == 0) return &in->t[i];
    if (strcmp(name, "a.input_scale") == 0) return in->t[3].data ? &in->t[3] : NULL;
    return NULL;
}

/* Shapes as the file's own check leaves them: as many bytes as they need, but any. */
static void read_tensors(input *in)
{
    static const dtype types[] = { DT_I32, DT_U8, DT_I8, DT_F8E4M3, DT_F32, DT_BF16, DT_F16, DT_I64, DT_F8E8M0 };
    uint8_t which = next(in);
    for (int i = 0; i < 8; i++) {
        st_tensor t = { .name = which >> i & 1 ? more[i] : names[i], .type = types[next(in) % 9], .rank = next(in) % 5 };
        int64_t n = 1;
        for (int k = 0; k < t.rank; k++) n *= t.shape[k] = next(in) % 67;
        t.bytes = dtype_bytes(t.type, (size_t)n);
        if (t.bytes > (size_t)(in->end - in->at)) continue;
        t.data = in->at;
        in->at += t.bytes;
        in->t[i] = t;
    }
}

static void use(const quant_module *q, const weight_data *w)
{
    float *row = mem_array((size_t)w->shape[1], sizeof *row);
    for (int64_t r = 0; row && r < w->shape[0]; r++) weight_row(w, r, row);
    mem_free(row);
    if (weight_check_stored("a.weight", q->scheme, w) != ST_OK) return;     /* as the model does before anything is packed */
    quant_scheme s = qgemm_layout(q->scheme, w, 1);
    void *packed = mem_aligned(64, qgemm_packed_bytes(s, w->shape[0], w->shape[1]));
    for (int64_t p = 0; packed && p < gemm_n_panels(w->shape[0]); p++) {
        const weight_data *of[GEMM_PANEL];
        int64_t rows[GEMM_PANEL];
        for (int c = 0; c < GEMM_PANEL; c++) {
            rows[c] = p * GEMM_PANEL + c;
            of[c] = rows[c] < w->shape[0] ? w : NULL;
        }
        qgemm_pack_stored(s, packed, w->shape[1], p, of, rows);
    }
    if (packed) qgemm_pack_rest(s, packed, w->shape[0], w->shape[1], w);
    mem_free(packed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const dtype types[] = { DT_I8, DT_I4, DT_F8E4M3, DT_F4E2M1 };
    input in = { .at = data, .end = data + size };
    uint8_t format = next(&in), flags = next(&in);
    quant_module q = { .format = 1 + format % (QUANT_FORMAT_COUNT - 1), .group = flags & 1 ? 0 : 16 << (flags >> 1 & 1), .block_out = 1 + (flags & 63), .block_in = 128,
                       .zeros_less_one = flags >> 2 & 1 };
    bool fp4 = q.format == QUANT_FORMAT_NVFP4 || q.format == QUANT_FORMAT_MXFP4, f8 = q.format == QUANT_FORMAT_CHANNEL || q.format == QUANT_FORMAT_BLOCK;
    quant_info info = { .type = fp4 ? DT_F4E2M1 : f8 ? types[flags & 2] : DT_I4, .group = q.group, .zeros = flags >> 3 & 1, .ordered = flags >> 4 & 1 };
    if (f8) info = (quant_info){ .type = types[flags & 2], .act = flags & 4 ? QUANT_ACT_FP8_STATIC : QUANT_ACT_NONE };
    if (q.format == QUANT_FORMAT_BLOCK) info = (quant_info){ .type = DT_F8E4M3, .group = 128 };
    if (q.format == QUANT_FORMAT_NVFP4) info.group = 16;
    if (q.format == QUANT_FORMAT_MXFP4) info.group = 32;
    if (q.format == QUANT_FORMAT_AWQ) info.ordered = false;     /* it has no order, and no configuration asks for one */
    q.scheme = quant_stored(info);
    read_tensors(&in);
    weight_data w;
    if (quant_load(&q, &(quant_files){ find, &in }, flags & 0x80 ? "a[1]T" : "a.weight", &w) != ST_OK) return 0;
    use(&q, &w);
    quant_release(&w);
    return 0;
}
