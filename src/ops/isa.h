/* Instruction sets. One list feeds detection, dispatch, tests and bench: ISA_VARIANTS(X) has X(name) for every set this
 * architecture's kernels are built for, worst first; `portable` is always there. NEON takes its place in the same list.
 * ISA_VECTORS(X) are those with a kernel file of every operation, which all compute the same bits. avx512_bf16 is avx512 but for
 * bfloat16 weights of models that compute in bfloat16: there it rounds activations and uses the dot product instruction
 * (ops/linear/gemm.h), so it is never taken just because it is there: it is asked for, or chosen by measurement. avx512_amx is the
 * same with Intel's tiles, for these and for int8 activations (ops/linear/amx.h); avx512_amx_emulated computes its bits without them,
 * slowly, and is only taken when asked for. */
#ifndef SYSTOLIC_OPS_ISA_H
#define SYSTOLIC_OPS_ISA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#if defined(__x86_64__)
#define ISA_VECTORS(X) X(portable) X(avx2) X(avx512)
#define ISA_VARIANTS(X) ISA_VECTORS(X) X(avx512_bf16) X(avx512_amx) X(avx512_amx_emulated)
#else
#define ISA_VECTORS(X) X(portable)
#define ISA_VARIANTS(X) ISA_VECTORS(X)
#endif

typedef enum isa {
#define ISA_ENUM(name) ISA_##name,
    ISA_VARIANTS(ISA_ENUM)
#undef ISA_ENUM
    ISA_COUNT
} isa;

const char *isa_name(isa i);
bool isa_available(isa i);   /* this machine has it */
isa isa_best(void);            /* of ISA_VECTORS */
/* NULL = the best. ST_INVALID for a name that is unknown or not available, with what is. */
status isa_parse(const char *name, isa *out) FALLIBLE;

#if defined(__x86_64__)
/* Who says whether tile instructions may run. */
typedef struct isa_tile_sources {
    bool (*leaf)(uint32_t leaf, uint32_t *ecx, uint32_t *edx);     /* CPUID, subleaf 0; false: there is no such leaf */
    uint64_t (*xcr0)(void);                                        /* needs OSXSAVE */
    bool (*permit)(void);                                          /* asks the kernel for the tiles' state, for this process */
} isa_tile_sources;
/* The processor has tiles with bfloat16 and int8, the kernel saves them, and lets this process have them; asked in this order, none
 * before the one before it has said yes. */
bool isa_tiles(const isa_tile_sources *s);
#endif

#endif
