#ifndef SYSTOLIC_OPS_SILU_MUL_H
#define SYSTOLIC_OPS_SILU_MUL_H

#include <stdint.h>

#include "ops/isa.h"

/* out[i] = silu(gate[i]) * up[i] */
typedef void silu_mul_fn(const float *gate, const float *up, float *out, int64_t n);
#define SILU_MUL_DECLARE(isa) silu_mul_fn silu_mul_##isa;
ISA_VECTORS(SILU_MUL_DECLARE)
#undef SILU_MUL_DECLARE

#endif
