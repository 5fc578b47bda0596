/* The kernels of amx_kernels.h by the instructions. */
#include "ops/linear/amx_kernels.h"

void gemm_dot_amx(const gemm_call *c, int64_t p0, int64_t p1) { amx_dot(c, p0, p1); }
void qgemm_tiles_amx(const qgemm_call *c, int64_t p0, int64_t p1) { amx_run(c, p0, p1); }
