/* A product by a weight as a Mosaic kernel for TPUs: x [tiles * rows, k] by [n, k], tile t by the weight of expert[t]; a linear layer is one
 * tile and one expert. Weights stay as they are stored (hlo_weight.h) and are read once, block by block; x is rounded in the kernel where the scheme wants that, and
 * what the matrix unit cannot take is widened on the way to it.
 *
 * Operands: place i32 [2 + tiles]: the layer, how many tiles there are, and each tile's expert; with a static scheme input_scale f32 [1]; x; the
 * values [layers, experts, n, columns]; with a scheme the scales [layers, experts, stored groups, stored rows], and the zeros likewise. Result: [tiles * rows, n]; tiles
 * that are not there are left undefined.
 *
 * Scales of a whole row multiply the result. Those of groups multiply the results of products over MATMUL_CHUNK columns; groups that are narrower
 * give x a row for each, which is zero elsewhere, so that the matrix unit gets whole chunks. */
#ifndef SYSTOLIC_OPS_LINEAR_QUANTISED_MOSAIC_H
#define SYSTOLIC_OPS_LINEAR_QUANTISED_MOSAIC_H

#include "graph/quant.h"
#include "mosaic/kernel.h"
#include "ops/hlo.h"
#include "tpu/matmul_config.h"

typedef struct quantised_matmul {
    int64_t rows, tiles;
    int64_t n, k;
    int64_t layers, experts;
    quant_scheme scheme;    /* QUANT_NONE: a weight of the activations' type */
    int64_t group;          /* columns that share a scale (hlo_weight.group); 0: all */
    int64_t stored_groups, stored_rows;     /* of the scales and zeros as they are stored, with padding (hlo_weight_shape); 0: as many as there are */
    dtype act, scale;       /* of x; of the scales */
    dtype out;
} quantised_matmul;

/* Bytes of a row of the values: 4-bit ones are two halves (hlo_weight.h). */
int64_t quantised_matmul_columns(const quantised_matmul *q);
int64_t quantised_matmul_groups(const quantised_matmul *q);
/* The last two dimensions of its scales and zeros. */
int64_t quantised_matmul_stored_groups(const quantised_matmul *q);
int64_t quantised_matmul_stored_rows(const quantised_matmul *q);
/* What a chip does with it; ST_UNSUPPORTED says why no kernel does. */
status quantised_matmul_configure(const chip *c, const quantised_matmul *q, matmul_config *out) FALLIBLE;
/* Is it better than StableHLO? By libtpu's static profiles (docs/kernels.md): where scales are of groups, and e4m3 where the matrix unit takes it. */
bool quantised_matmul_helps(const chip *c, const quantised_matmul *q);
/* To be finished by the caller. */
mk *quantised_matmul_kernel(const char *name, const quantised_matmul *q, const matmul_config *c);

/* ---- in programs ---- */
/* The product of x [tiles * rows, k] by a call's weight (hlo_call.all), as a kernel: f32. expert: i32 [tiles], and n_tiles, an i32 scalar, of
 * experts; none for a linear. False, with a reason, if StableHLO is to do it. */
bool quantised_matmul_call(hlo_call *c, hlo_val x, int input, int64_t tiles, hlo_val expert, hlo_val n_tiles, hlo_val *y, const char **why);
/* Would it do it? rows: of a tile. */
bool quantised_matmul_does(const hlo_call *c, int input, int64_t rows, int64_t tiles, const char **why);

#endif
