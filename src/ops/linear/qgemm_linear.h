/* linear with a quantised weight, as linear.c runs it: same contract as an operation's cpu, skip_phase and needs. */
#ifndef SYSTOLIC_OPS_LINEAR_QGEMM_LINEAR_H
#define SYSTOLIC_OPS_LINEAR_QGEMM_LINEAR_H

#include "ops/linear/qgemm.h"
#include "ops/op.h"

void qgemm_linear(const cpu_call *c, const cpu_thread *t, int phase);
bool qgemm_linear_skips(const cpu_call *c, int phase);
void qgemm_linear_needs(quant_scheme s, int64_t k, int64_t most_rows, op_needs *out);

/* A row of k activations as products with the weight take it: int8 in `row` and a scale a group in s, or floats (qgemm_prepare; s is not looked at).
 * Not for schemes that leave activations as they are. */
void qgemm_round_row(const qgemm_weight *w, isa set, const float *x, void *row, qgemm_scale *s);

/* The best kernels for int8 activations that this machine has, within an instruction set. */
const qgemm_kernels *qgemm_kernels_of(isa i);
qgemm_fn *qgemm_wide_of(isa i);

#endif
