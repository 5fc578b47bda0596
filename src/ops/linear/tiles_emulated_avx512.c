/* The kernels of amx_kernels.h over tiles in memory. */
#define AMX_EMULATED 1
#include "ops/linear/amx_kernels.h"

void gemm_dot_amx_emulated(const gemm_call *c, int64_t p0, int64_t p1) { amx_dot(c, p0, p1); }
void qgemm_tiles_amx_emulated(const qgemm_call *c, int64_t p0, int64_t p1) { amx_run(c, p0, p1); }

bool amx_emulated_idle(void) { return emulated.c.palette == 0; }
