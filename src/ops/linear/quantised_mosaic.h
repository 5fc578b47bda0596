/* A product by a weight as a Mosaic kernel for TPUs: x [tiles * rows, k] by [n, k], tile t by the weight of expert[t]; a linear layer is one
 * tile and one expert. Weights stay as they are stored (hlo_weight.h) and are read once, block by block; x is rounded in the kernel where the scheme wants that, and
 * what the matrix unit cannot take is widened on the way to it.
 *
 * Operands: place i32 [2 + tiles]: the layer, how many tiles there are, and each tile's expert; with a static scheme input_scale f32 [1]; x; the
 * values [layers, experts, n, columns]; with a scheme the scales [layers, experts, groups, n], and the zeros likewise. Result: [tiles * rows, n]; tiles
 * that are not there are left undefined.
 *
 * Scales of a whole row multiply the result. Those of groups multiply the results of products over MATMUL_CHUNK columns; groups that are narrower
 * give x a row for each, which is zero elsewhere, so that the matrix unit gets whole chunks. */
#ifndef SYSTOLIC_OPS_LINEAR_QUANTISED_MOSAIC_H
#define SYSTOLIC_OPS_LINEAR_QUANTISED_MOSAIC_H

#include "graph/quant.h"
#include "mosaic/kernel.h"
#include "tpu/matmul_config.h"

typedef struct quantised_matmul {
    int64_t rows, tiles;
    int64_t n, k;
    int64_t layers, experts;
    quant_scheme scheme;    /* QUANT_NONE: a weight of the activations' type */
    int64_t group;          /* columns that share a scale (hlo_weight.group); 0: all */
    dtype act, scale;       /* of x; of the scales */
    dtype out;
} quantised_matmul;

/* Bytes of a row of the values: 4-bit ones are two halves (hlo_weight.h). */
int64_t quantised_matmul_columns(const quantised_matmul *q);
int64_t quantised_matmul_groups(const quantised_matmul *q);
/* What a chip does with it; ST_UNSUPPORTED says why no kernel does. */
status quantised_matmul_configure(const chip *c, const quantised_matmul *q, matmul_config *out) FALLIBLE;
/* To be finished by the caller. */
mk *quantised_matmul_kernel(const char *name, const quantised_matmul *q, const matmul_config *c);

#endif
