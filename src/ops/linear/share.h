/* How threads share a product: pieces of whole panels, and of rows where these are more than a cache holds. */
#ifndef SYSTOLIC_OPS_LINEAR_SHARE_H
#define SYSTOLIC_OPS_LINEAR_SHARE_H

#include "ops/op.h"

/* Output columns of panels [p0, p1), rows [row, row + m). */
typedef struct gemm_piece { int64_t p0, p1, row, m; } gemm_piece;

enum { FEW_ROWS = 16 };

/* The next piece that no thread has taken; false where none is left. Three quarters of the panels go in large pieces, the rest in small ones, so that the threads end
 * together: 64 panels in pieces of 12 are 36 for one thread and 28 for the other. With few rows memory is what they wait for, and long streams are all that counts.
 * width: panels of the kernel's widest tile. block: rows that stay in the second-level cache while panels pass. */
static inline bool gemm_take(const cpu_call *c, int phase, int64_t panels, int64_t width, int64_t block, gemm_piece *out)
{
    int64_t rows = c->out.rows, blocks = rows > block ? (rows + block - 1) / block : 1, at, end;
    int64_t large = panels / (8 * c->limits->n_threads) / 12 * 12;
    large = large < 12 ? 12 : large > 96 ? 96 : large;
    if (large * c->limits->n_threads > panels) large = (panels + c->limits->n_threads - 1) / c->limits->n_threads;
    int64_t small = rows < FEW_ROWS ? large : large / 8 < width ? width : large / 8 / width * width, n_large = panels * 3 / 4 / large, rest = panels - n_large * large;
    if (!cpu_take(c, phase, (n_large + (rest + small - 1) / small) * blocks, 1, &at, &end)) return false;
    int64_t piece = at / blocks, row = at % blocks * block;
    out->p0 = piece < n_large ? piece * large : n_large * large + (piece - n_large) * small;
    out->p1 = out->p0 + (piece < n_large ? large : small);
    if (out->p1 > panels) out->p1 = panels;
    out->row = row;
    out->m = rows - row < block ? rows - row : block;
    return true;
}

#endif
