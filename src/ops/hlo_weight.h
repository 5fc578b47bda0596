/* Weights as a program has them. An unquantised one is one argument, its matrix; a quantised one several, its pieces:
 *
 *   values       [N, K] s8 or f8E4M3FN; 4-bit ones [N, half] ui8: element j in the low nibble of byte j, element half + j in its high
 *                one, so that both halves are columns beside each other (hlo_weight_half)
 *   scales       [G, N]: of `group` columns and a row (one: of the row). Blocks that cover several rows are repeated for each, so that
 *                rows can be cut anywhere. Rows are the last dimension, which chips fill up to 128
 *   zeros        [G, N] s8, if the scheme has them
 *   order        [K] i32: which input a column takes (act-order)
 *   input_scale  [1] f32: of static activations
 * A plain table of embeddings and plain experts may have columns of zeros behind their own, experts' scales such groups and rows (hlo_weight_shape).
 * Each has the experts in front where the weight has. Programs take them apart where they multiply: compilers fuse that into the
 * product's operand. docs/quantization.md has the arithmetic. */
#ifndef SYSTOLIC_OPS_HLO_WEIGHT_H
#define SYSTOLIC_OPS_HLO_WEIGHT_H

#include "graph/quant.h"
#include "ops/hlo.h"

/* The shape of a weight node's piece on one device, padding included; false if it has none such. */
bool hlo_weight_shape(const node *w, weight_piece p, shape *out);
/* Columns that share a scale in the pieces: the scheme's group, less where columns are cut inside of groups; 0: all. */
int64_t hlo_weight_group(const node *w);
/* Bytes of a row of 4-bit values: half of the columns, in long rows a multiple of 128, so that products over whole lanes see one half. */
int64_t hlo_weight_half(int64_t cols);
/* Can it be taken apart? Says what cannot. */
status hlo_weight_check(const node *w) FALLIBLE;

/* x [M, K] by the weight, [N, K]: [M, N] in f32, activations rounded first where the scheme wants that. */
hlo_val hlo_product(hlo *h, hlo_val x, const hlo_weight *w);

#endif
