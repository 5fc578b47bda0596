#include "ops/vec_avx512.h"
#include "ops/vec.h"
#include "ops/silu_mul/silu_mul_tile.h"
#include "ops/silu_mul/silu_mul.h"

void silu_mul_avx512(const float *gate, const float *up, float *out, int64_t n) { silu_mul_body(gate, up, out, n); }
