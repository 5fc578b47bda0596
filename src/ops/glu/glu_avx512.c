#include "ops/vec_avx512.h"
#include "ops/vec.h"
#include "ops/glu/glu.h"
#include "ops/glu/glu_tile.h"

void glu_avx512(const glu_params *p, const float *gate, const float *up, float *out, int64_t n) { glu_body(p, gate, up, out, n); }
void act_avx512(activation kind, const float *x, float *out, int64_t n) { act_body(kind, x, out, n); }
