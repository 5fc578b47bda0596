#include "ops/vec_portable.h"
#include "ops/vec.h"
#include "ops/glu/glu.h"
#include "ops/glu/glu_tile.h"

void glu_portable(const glu_params *p, const float *gate, const float *up, float *out, int64_t n) { glu_body(p, gate, up, out, n); }
void act_portable(activation kind, const float *x, float *out, int64_t n) { act_body(kind, x, out, n); }
