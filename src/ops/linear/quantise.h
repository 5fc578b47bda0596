/* Values to quantised ones, panel by panel: docs/quantization.md has the arithmetic, qgemm.h the layout. */
#ifndef SYSTOLIC_OPS_LINEAR_QUANTISE_H
#define SYSTOLIC_OPS_LINEAR_QUANTISE_H

#include "ops/linear/qgemm.h"

/* Packs panel p of W[n, k] under a scheme. `rows` has one pointer per row of the panel (GEMM_PANEL of them, NULL for padding),
 * each to k contiguous elements of src_type, unaligned allowed. Panels may be packed in parallel. */
void quantise_panel(quant_scheme s, void *packed, int64_t k, int64_t p, const void *const *rows, dtype src_type);

/* One group of one output channel: n values to integers (or e4m3 codes) at q; returns the scale. */
float quantise_group(quant_scheme s, const float *w, int64_t n, int8_t *q);

/* What a weight's value stands for: row r, column k of a packed weight. For tests and tools. */
float quantise_value(const qgemm_weight *w, int64_t r, int64_t k);

#endif
