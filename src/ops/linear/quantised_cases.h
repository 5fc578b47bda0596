/* Made-up operands and naive results of quantised_mosaic.h's kernels, for their tests. */
#ifndef SYSTOLIC_OPS_LINEAR_QUANTISED_CASES_H
#define SYSTOLIC_OPS_LINEAR_QUANTISED_CASES_H

#include "ops/linear/quantised_mosaic.h"

/* The scheme of its printed form (quant_print), with the scales that a device keeps. */
quantised_matmul quantised_case(const char *scheme, int64_t rows, int64_t tiles, int64_t n, int64_t k, int64_t experts);
/* One tile less than there is room for is there, if there is more than one; layer 1 of 2. */
void quantised_fill(const quantised_matmul *q, uint64_t seed, void *const *operands);
status quantised_reference(const quantised_matmul *q, void *const *operands, float *y) FALLIBLE;
/* Configured and built; a kernel that fails if the chip has none. */
mk *quantised_build(const char *name, const quantised_matmul *q, const chip *c);
/* Why there is none, in a few words, or NULL. */
const char *quantised_refused(const quantised_matmul *q, const chip *c);

#endif
