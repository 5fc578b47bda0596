/* Products that exchange their rows over ICI while they multiply, as Mosaic kernels: n devices in a ring, rows cut in two halves that travel in opposite
 * directions, so that both links work (as in Wang et al. 2023, "Overlap communication with dependent computation via decomposition").
 *
 *   gather    x [m, k] of each device, w [layers, n, k]  ->  y [devices * m, n] = all x's rows by w, and the gathered x [devices, m, k] as a second result
 *   scatter   x [devices * m, k], w [layers, n, k]       ->  y [m, n] = this device's rows of the sum of all devices' x by w; the second result is
 *             what arrived, [devices, m, n]
 * Operands: place i32 [1], which layer's w it is; x; w. The second results are where other devices write: every step has a place of its own, so nobody waits for one to be free. They are of
 * no use afterwards. Sums travel in the type of y, as a reduce_scatter's do. */
#ifndef SYSTOLIC_OPS_LINEAR_COLLECTIVE_MOSAIC_H
#define SYSTOLIC_OPS_LINEAR_COLLECTIVE_MOSAIC_H

#include "mosaic/kernel.h"
#include "ops/hlo.h"
#include "tpu/chip.h"

typedef struct collective_matmul { int devices; int64_t layers, m, n, k; dtype type; /* of x and w, bf16 */ dtype out; } collective_matmul;

/* How it is cut: rows of w in VMEM, and the pieces, of COLLECTIVE_ROWS of each direction at least, of a device's rows of x. */
enum { COLLECTIVE_ROWS = 32 };
typedef struct collective_blocks { int64_t n, pieces, vmem_bytes; } collective_blocks;
/* ST_UNSUPPORTED says why there is no kernel. */
status collective_matmul_configure(const chip *c, const collective_matmul *q, bool scatter, collective_blocks *out) FALLIBLE;
/* To be finished by the caller. */
mk *collective_gather_kernel(const collective_matmul *q, const collective_blocks *b);
mk *collective_scatter_kernel(const collective_matmul *q, const collective_blocks *b);

/* ---- in programs ---- */
/* A linear with its all_gather or reduce_scatter (hlo_call.gather, scatter) as one kernel: f32 or the activations' type, without what is added to
 * the product. False, with a reason, if StableHLO is to do it. */
bool collective_matmul_call(hlo_call *c, hlo_val *y, const char **why);

#endif
