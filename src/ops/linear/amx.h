/* Products by AMX, Intel's tiles (amx_tile.h), of the kernels in amx_kernels.h. Only where isa_available(ISA_avx512_amx): the
 * instructions trap where the processor has none or the kernel has not given them to the process.
 *
 * bfloat16 (gemm_dot_amx): another arithmetic than vdpbf16ps, as tdpbf16ps has an order of its own. An element is a chain over blocks of 32
 * k's, from zero: of a block the even and the odd k's are a chain of fused multiply-adds each, from zero; their sum is added to the element.
 * Subnormal numbers count as zero and become zero; k is padded with zeros. Bias, then residual are added afterwards in float32. As in gemm.h,
 * an element depends on nothing beside it: all row counts go through the tiles, so that it does not matter what else is in a batch.
 *
 * int8 activations (qgemm_amx): qgemm.h's arithmetic, bit for bit, so few rows may take other kernels: below the number that was measured
 * (choose.h) qgemm_avx512vnni runs.
 *
 * The emulated ones compute the same bits on any processor with AVX512_BF16, slowly: tests, and whoever wants to reproduce a result. */
#ifndef SYSTOLIC_OPS_LINEAR_AMX_H
#define SYSTOLIC_OPS_LINEAR_AMX_H

#include "ops/linear/qgemm.h"

/* What packed int8 and int4 weights are to the tiles. */
typedef enum amx_kind { AMX_INT8, AMX_INT8_G32, AMX_INT4_G32, AMX_INT4_G128, AMX_KINDS } amx_kind;
enum { AMX_NEVER = 1 << 30 };

static inline bool amx_uses_tiles(isa set)
{
#if defined(__x86_64__)
    return set == ISA_avx512_amx || set == ISA_avx512_amx_emulated;
#else
    return (void)set, false;
#endif
}

#if defined(__x86_64__)
/* x as gemm_round_avx512bf16 makes it, the weight DT_BF16. */
gemm_fn gemm_dot_amx, gemm_dot_amx_emulated;
/* Of any number of rows; scratch: GEMM_SCRATCH_BYTES. */
qgemm_fn qgemm_tiles_amx, qgemm_tiles_amx_emulated;

amx_kind amx_kind_of(quant_scheme s);
/* From how many rows on qgemm_amx uses tiles: 1 for all until it is said otherwise, AMX_NEVER for none. Any thread; affects time, not results. */
void amx_set_rows(const int rows[AMX_KINDS]);

/* Nothing is left configured in this thread. */
bool amx_emulated_idle(void);
#endif

#endif
