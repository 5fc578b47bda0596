/* Weights out of thin air (--load-format dummy): what a benchmark or a memory test needs when no checkpoint is there.
 * The values depend only on seed, name, dtype and position, so every machine, thread count and instruction set sees the
 * same model. Pure functions, any thread. */
#ifndef SYSTOLIC_LOAD_DUMMY_H
#define SYSTOLIC_LOAD_DUMMY_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "graph/dtype.h"
#include "graph/weights.h"

/* Fills `n` elements at `dst` (dtype_bytes(type, n) bytes, any alignment) for the tensor `name`.
 * Float types: uniform in [-1e-3, 1e-3), as vLLM does. FP8: random sign and mantissa with small exponents (values that
 * small would all round to zero), never NaN. E8M0 scales: 2^-8 .. 2^-5. BOOL: 0 or 1. Integers and 4-bit types: all bits random. */
void dummy_fill(void *dst, dtype type, size_t n, const char *name, uint64_t seed);

/* A whole tensor [rows, cols], or [rows] where rank is 1, as a weight source gives one; its memory goes back by dummy_release. */
status dummy_tensor(const char *name, dtype type, int rank, int64_t rows, int64_t cols, uint64_t seed, weight_data *out) FALLIBLE;
void dummy_release(const weight_source *s, const char *name, weight_data *w);   /* a weight_source's release */

#endif
