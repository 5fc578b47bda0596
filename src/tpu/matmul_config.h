/* How a Mosaic kernel multiplies by a weight on a chip: which block of the weight a step takes, in which types the matrix unit gets
 * its operands, and what that costs. A pure function of chip and shape; the kernel is in ops/linear/quantised_mosaic.h, docs/kernels.md
 * has what was measured.
 *
 * A weight [n, k] is read once, in blocks of block_n rows, two of which are in VMEM. Decoding is bound by that reading, so a block is
 * as large as it takes to hide the start of a copy, and no type is widened in memory. Where VMEM is short (v4; very long rows) a block is
 * block_k columns wide, and the sums of a row of blocks are kept. */
#ifndef SYSTOLIC_TPU_MATMUL_CONFIG_H
#define SYSTOLIC_TPU_MATMUL_CONFIG_H

#include "base/err.h"
#include "tpu/chip.h"

typedef struct matmul_shape {
    int64_t rows;           /* of x that are multiplied by one weight at a time */
    int64_t tiles;          /* of so many rows, each with a weight of its own; 0: one */
    int64_t n, k;           /* of the weight */
    dtype act;              /* of x, as it comes: f32 or bf16 */
    dtype rounded;          /* what x is rounded to before the product: DT_I8, DT_F8E4M3, or `act` if it is not */
    dtype weight;           /* of the values: bf16, f32, DT_I8, DT_I4, DT_F8E4M3, DT_F4E2M1 */
    int64_t group;          /* columns that share a scale; 0: all */
} matmul_shape;

enum { MATMUL_CHUNK = 128 };        /* columns of a product whose result is scaled, where scales are of groups */

typedef struct matmul_config {
    const chip *chip;
    int64_t block_n, block_k;
    dtype x, w;             /* operands of the matrix unit; they may differ: it takes bf16 by int8 or e4m3 */
    dtype kept;             /* what x is between blocks, if it is not x itself */
    int64_t parts;          /* groups of a chunk: each is a row of x of its own, with zeros elsewhere */
    bool tight;             /* VMEM is very short: x that is not rounded is read again for each block of n, and scales of x's groups are
                               lanes instead of register rows, which is three times slower */
    int64_t unrolled;       /* products of groups: numbers of their results that may be on the way at once */
    int64_t vmem_limit_bytes;
    double bytes, flops, seconds;   /* of one product: memory, and a roofline */
} matmul_config;

/* What block_k is a multiple of where it is not all of k; 0: all of it is needed. */
int64_t matmul_k_unit(const matmul_shape *s);
/* Columns of x that are rounded at a time. */
int64_t matmul_piece(int64_t rows, int64_t block_k);
/* ST_UNSUPPORTED says what stands against a kernel; then plain StableHLO does it. */
status matmul_configure(const chip *c, const matmul_shape *s, matmul_config *out) FALLIBLE;

#endif
