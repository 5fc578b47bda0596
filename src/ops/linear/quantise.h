/* Values to quantised ones, panel by panel: docs/quantization.md has the arithmetic, qgemm.h the layout. */
#ifndef SYSTOLIC_OPS_LINEAR_QUANTISE_H
#define SYSTOLIC_OPS_LINEAR_QUANTISE_H

#include "graph/weights.h"
#include "ops/linear/qgemm.h"

/* Packs panel p of W[n, k] under a scheme. `rows` has one pointer per row of the panel (GEMM_PANEL of them, NULL for padding),
 * each to k contiguous elements of src_type, unaligned allowed. Panels may be packed in parallel. */
void quantise_panel(quant_scheme s, void *packed, int64_t k, int64_t p, const void *const *rows, dtype src_type);

/* The same without a layout: q [GEMM_PANEL][k] as integers or e4m3 codes, scale [GEMM_PANEL][groups] (one group: per channel). */
void quantise_rows(quant_scheme s, int64_t k, const void *const *rows, dtype src_type, int8_t *q, float *scale);

/* ---- weights that are quantised already (pack_stored.c) ---- */

/* The scheme that holds a node's parts exactly: the graph's with the type of scales that they have. */
quant_scheme qgemm_layout(quant_scheme s, const weight_data *parts, int64_t n_parts);
/* Packs panel p of W under a layout: column c of it is row row[c] of *of[c] (NULL for padding). Panels may be packed in parallel. */
void qgemm_pack_stored(quant_scheme s, void *packed, int64_t k, int64_t p, const weight_data *const *of, const int64_t *row);
/* What comes after the panels of W[n, k]: the order and the scale of activations, of a part that has one. */
void qgemm_pack_rest(quant_scheme s, void *packed, int64_t n, int64_t k, const weight_data *part);

/* One group of one output channel: n values to integers (or e4m3 codes) at q; returns the scale. */
float quantise_group(quant_scheme s, const float *w, int64_t n, int8_t *q);

/* What a weight's value stands for: row r, column k of a packed weight. For tests and tools. */
float quantise_value(const qgemm_weight *w, int64_t r, int64_t k);

#endif
