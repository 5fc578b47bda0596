#include "ops/linear/rows.h"

#include <string.h>

#include "ops/linear/qgemm_linear.h"
#include "ops/op.h"

/* Whole cache lines, and not all rows in the same sets of the caches. */
static size_t stride(size_t bytes)
{
    bytes = (bytes + 63) / 64 * 64;
    return bytes % 1024 == 0 ? bytes + 64 : bytes;
}

static size_t int8_bytes(quant_scheme s, int64_t k)
{
    return stride(((size_t)qgemm_padded_k(s, k) + 63) / 64 * 64 + (size_t)qgemm_groups(s, k) * sizeof(qgemm_scale));
}

size_t rows_bytes_most(quant_scheme s, int64_t k)
{
    size_t wide = stride((size_t)k * sizeof(float)), narrow = quant_describe(s).int8_activations ? int8_bytes(s, k) : 0;
    return wide > narrow ? wide : narrow;
}

bool rows_rounds(quant_scheme s)
{
    quant_info q = quant_describe(s);
    return q.act || q.ordered;
}

rows_form rows_form_of(isa set, dtype type, const gemm_weight *w)
{
    rows_form f = { ROWS_F32, w->k, stride((size_t)w->k * sizeof(float)), QUANT_NONE, NULL };
    if (qgemm_is(w)) {
        f.w = (const qgemm_weight *)(const void *)w;
        f.scheme = f.w->scheme;
        if (rows_rounds(f.scheme)) f.kind = ROWS_PREPARED;
        if (!quant_describe(f.scheme).int8_activations) return f;
        f.kind = ROWS_INT8;
        f.bytes = int8_bytes(f.scheme, w->k);
        return f;
    }
#if defined(__x86_64__)
    if (gemm_dot_of(set) && type == DT_BF16 && w->type == DT_BF16) {
        f.kind = ROWS_BF16;
        f.bytes = stride((size_t)gemm_pairs(w->k) * 4);
    }
#else
    (void)set, (void)type;
#endif
    return f;
}

static size_t scales_at(const rows_form *f) { return ((size_t)qgemm_padded_k(f->scheme, f->k) + 63) / 64 * 64; }

void rows_put(const rows_form *f, isa set, const float *x, void *row)
{
    switch (f->kind) {
    case ROWS_INT8: qgemm_round_row(f->w, set, x, row, (qgemm_scale *)(void *)((char *)row + scales_at(f))); break;
    case ROWS_PREPARED: qgemm_round_row(f->w, set, x, row, NULL); break;
    case ROWS_BF16:
#if defined(__x86_64__)
        gemm_round_avx512bf16(x, f->k, row);
#endif
        break;
    default: memcpy(row, x, (size_t)f->k * sizeof(float));
    }
}

size_t rows_panel_bytes(const qgemm_weight *w)
{
    return qgemm_is(&w->base) ? qgemm_panel_bytes(w->scheme, w->base.k) : gemm_panel_bytes(w->base.type, w->base.k);
}

static gemm_fn *const kernels[ISA_COUNT] = OP_CPU_EACH(gemm);

void rows_product(const rows_form *f, isa set, const rows_call *c, int64_t p0)
{
    qgemm_weight w = *c->w;     /* these panels as a weight of their own */
    w.base.data = (const char *)w.base.data + (size_t)p0 * rows_panel_bytes(c->w);
    w.base.n = c->columns;
    int64_t panels = gemm_n_panels(c->columns), ld = (int64_t)f->bytes;
    if (qgemm_is(&w.base)) {
        qgemm_call call = { .w = &w, .m = c->m, .y = c->y, .ldy = c->ldy, .bias = c->bias, .scratch = c->scratch };
        if (f->kind == ROWS_INT8) {
            call.q = c->rows, call.ldq = ld;
            call.s = (const qgemm_scale *)(const void *)((const char *)c->rows + scales_at(f)), call.lds = ld / (int64_t)sizeof(qgemm_scale);
            qgemm_kernels_of(set)->run(&call, 0, panels);
        } else {
            call.x = c->rows, call.ldx = ld / (int64_t)sizeof(float);
            qgemm_wide_of(set)(&call, 0, panels);
        }
        return;
    }
    gemm_call call = { .w = &w.base, .x = c->rows, .m = c->m, .ldx = ld / (int64_t)sizeof(float), .y = c->y, .ldy = c->ldy, .bias = c->bias, .scratch = c->scratch };
#if defined(__x86_64__)
    if (f->kind == ROWS_BF16) {
        gemm_dot_of(set)(&call, 0, panels);
        return;
    }
#endif
    kernels[set](&call, 0, panels);
}
