/* Products with any kind of packed weight, for operations that hold rows of activations and a range of panels: rows are brought
 * into the form that the weight's kernels take, one by one, and multiplied. Results are linear's, bit for bit. */
#ifndef SYSTOLIC_OPS_LINEAR_ROWS_H
#define SYSTOLIC_OPS_LINEAR_ROWS_H

#include "ops/isa.h"
#include "ops/linear/qgemm.h"

/* A row of activations: as it is, rounded to bfloat16 for the dot product, int8 with its scales behind it, or floats as qgemm_prepare makes
 * them. `bytes` from row to row, a multiple of 64. */
typedef enum rows_kind { ROWS_F32, ROWS_BF16, ROWS_INT8, ROWS_PREPARED } rows_kind;
typedef struct rows_form {
    rows_kind kind;
    int64_t k;
    size_t bytes;
    quant_scheme scheme;
    const qgemm_weight *w;      /* of quantised ones: has the order and the scale that rows_put needs, so it must be the row's own */
} rows_form;
/* Does rows_put do more to a row than to copy it, for a weight with this scheme? */
bool rows_rounds(quant_scheme s);

/* type: what the graph says of the weight (cpu_tensor.type). */
rows_form rows_form_of(isa set, dtype type, const gemm_weight *w);
/* The largest form of a row for a weight of that type or scheme. */
size_t rows_bytes_most(quant_scheme s, int64_t k);
void rows_put(const rows_form *f, isa set, const float *x, void *row);

typedef struct rows_call {
    const qgemm_weight *w;                  /* scheme: of quantised ones only */
    const void *rows; int64_t m;
    float *y; int64_t ldy;                  /* [m][columns]: that of panel p0's first column is y[0] */
    const float *bias;                      /* of the first column, or NULL */
    int64_t columns;                        /* of p0 and on that are wanted: the last panel may be padded */
    void *scratch;                          /* GEMM_SCRATCH_BYTES, 64-byte aligned, this thread's own */
} rows_call;
/* Columns of the panels from p0 on. */
void rows_product(const rows_form *f, isa set, const rows_call *c, int64_t p0);
/* Bytes of one packed panel. */
size_t rows_panel_bytes(const qgemm_weight *w);

#endif
