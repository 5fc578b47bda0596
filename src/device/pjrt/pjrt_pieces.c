#include "device/pjrt/pjrt_pieces.h"

#include <string.h>

#include "base/mem.h"
#include "graph/partition.h"
#include "ops/linear/quantise.h"
#include "ops/op.h"

/* ---- schemes that are made while loading ---- */

/* int8 values, one to a byte, as the canonical tensor keeps them. */
static void store_codes(dtype type, const int8_t *q, int64_t k, uint8_t *dst)
{
    if (type != DT_I4) {
        memcpy(dst, q, (size_t)k);
        return;
    }
    for (int64_t i = 0; i < k; i += 2) dst[i / 2] = (uint8_t)((q[i] + 8) | (i + 1 < k ? q[i + 1] + 8 : 0) << 4);
}

status pjrt_quantise(const node *n, const weight_data *d, weight_data *out)
{
    quant_scheme s = (quant_scheme)n->a.weight.scheme;
    quant_info q = quant_describe(s);
    int64_t rows = d->shape[0], k = d->shape[1], groups = q.group ? (k + q.group - 1) / q.group : 1;
    size_t row_bytes = dtype_bytes(q.type, (size_t)k), scale_bytes = (size_t)(rows * groups) * sizeof(float);
    if (q.type == DT_I4 && k % 2) return err_set(ST_UNSUPPORTED, "a weight of %lld columns in int4, expected an even number", (long long)k);
    float *scales = mem_alloc(scale_bytes + row_bytes * (size_t)rows);
    int8_t *codes = mem_array((size_t)k, GEMM_PANEL);
    float *some = mem_array((size_t)groups, GEMM_PANEL * sizeof(float));
    if (!scales || !codes || !some) {
        mem_free(scales);
        mem_free(codes);
        mem_free(some);
        return err_nomem();
    }
    uint8_t *values = (uint8_t *)scales + scale_bytes;
    for (int64_t r = 0; r < rows; r += GEMM_PANEL) {
        const void *src[GEMM_PANEL] = { NULL };
        for (int64_t c = 0; c < GEMM_PANEL && r + c < rows; c++) src[c] = (const char *)d->values + dtype_bytes(d->type, (size_t)((r + c) * k));
        quantise_rows(s, k, src, d->type, codes, some);
        for (int64_t c = 0; c < GEMM_PANEL && r + c < rows; c++) {
            store_codes(q.type, codes + c * k, k, values + (size_t)(r + c) * row_bytes);
            memcpy(scales + (r + c) * groups, some + c * groups, (size_t)groups * sizeof(float));
        }
    }
    mem_free(codes);
    mem_free(some);
    *out = (weight_data){ .type = q.type, .rank = 2, .shape = { rows, k }, .values = values, .scales = scales, .scale_type = DT_F32, .global = 1,
                          .group_out = 1, .group_in = q.group ? q.group : k, .owned = scales };
    return ST_OK;
}

/* ---- pieces ---- */

static void convert(dtype from, const char *src, dtype to, char *dst, size_t n)
{
    float f[1024];
    if (from == to) {
        memcpy(dst, src, dtype_bytes(to, n));
        return;
    }
    for (size_t at = 0; at < n; at += 1024) {
        size_t k = n - at < 1024 ? n - at : 1024;
        dtype_to_f32(from, src + dtype_bytes(from, at), f, k);
        dtype_from_f32(to, f, dst + dtype_bytes(to, at), k);
    }
}

/* n 4-bit values of `src` from `at` on, as halves: the first `half` in the low nibbles. */
static void put_halves(const uint8_t *src, int64_t at, int64_t n, int64_t half, uint8_t *dst)
{
    for (int64_t i = 0; i < n; i++) {
        uint8_t code = src[(at + i) / 2] >> ((at + i) % 2 ? 4 : 0) & 15;
        if (i < half) dst[i] = code;
        else dst[i - half] = (uint8_t)(dst[i - half] | code << 4);
    }
}

typedef struct columns { int64_t width, from, n, local; } columns;   /* of the checkpoint's tensor; what a rank has of it, padded */

static void put_values(const node *n, const weight_data *d, int64_t row, const columns *c, char *dst)
{
    int64_t at = row * c->width + c->from;
    if (!d->scales) convert(d->type, (const char *)d->values + dtype_bytes(d->type, (size_t)at), n->s.type, dst, (size_t)c->n);
    else if (dtype_bits(d->type) == 4) put_halves(d->values, at, c->n, hlo_weight_half(c->local), (uint8_t *)dst);
    else memcpy(dst, (const char *)d->values + at, (size_t)c->n);
}

/* A row's scales or zeros, one below the other. */
static void put_groups(const node *n, const weight_data *d, int64_t row, const columns *c, const shape *s, bool zeros, char *dst)
{
    int64_t group = hlo_weight_group(n), groups = s->dim[s->rank - 2];
    size_t apart = (size_t)s->dim[s->rank - 1];
    for (int64_t g = 0; g < groups; g++) {
        int64_t col = c->from + g * group;
        if (g * group >= c->n) continue;    /* padding */
        float f = zeros ? weight_zero_at(d, row, col) : weight_scale_at(d, row, col);
        if (zeros) dst[(size_t)g * apart] = (char)f;
        else dtype_from_f32(s->type, &f, dst + dtype_bytes(s->type, (size_t)g * apart), 1);
    }
}

void pjrt_fill_piece(const node *n, weight_piece p, const weight_data *parts, int rank, int tp, void *to)
{
    shape s;
    char *dst = to;
    if (!hlo_weight_shape(n, p, &s)) return;
    int lead = weight_rows_dim(n);
    bool values = p == PIECE_VALUES;
    size_t row_bytes = values && s.rank - lead == 2 ? dtype_bytes(s.type, (size_t)s.dim[lead + 1]) : dtype_bytes(s.type, 1);    /* from one row to the next */
    memset(dst, 0, dtype_bytes(s.type, (size_t)(s.dim[lead] * (s.rank - lead == 2 ? s.dim[lead + 1] : 1))));
    if (p == PIECE_ORDER) memcpy(dst, parts[0].order, (size_t)s.dim[lead] * sizeof(int32_t));
    if (p == PIECE_INPUT_SCALE) memcpy(dst, &parts[0].input_scale, sizeof(float));
    if (p == PIECE_ORDER || p == PIECE_INPUT_SCALE) return;
    for (int64_t i = 0; i < n->a.weight.n_parts; i++) {
        const weight_part *part = &n->a.weight.parts[i];
        const weight_data *d = &parts[i];
        int64_t from, count, local;
        columns c = { d->rank == 2 ? d->shape[1] : 1, 0, weight_cols(n), weight_cols(n) };
        weight_part_local(n, part, rank, tp, &from, &count, &local);
        if (d->rank == 2) weight_cols_local(n, c.width, rank, tp, &c.from, &c.n, &c.local);
        for (int64_t r = 0; r < count; r++) {
            int64_t row = from + r * weight_part_step(part);
            char *at = dst + (size_t)r * row_bytes;
            if (values) put_values(n, d, row, &c, at);
            else put_groups(n, d, row, &c, &s, p == PIECE_ZEROS, at);
        }
        dst += row_bytes * (size_t)local;
    }
}
