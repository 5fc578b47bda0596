/* Instruction sets. One list feeds detection, dispatch, tests and bench: ISA_VARIANTS(X) has X(name) for every set this
 * architecture's kernels are built for, worst first; `portable` is always there. NEON takes its place in the same list. */
#ifndef SYSTOLIC_OPS_ISA_H
#define SYSTOLIC_OPS_ISA_H

#include <stdbool.h>

#include "base/err.h"

#if defined(__x86_64__)
#define ISA_VARIANTS(X) X(portable) X(avx2) X(avx512)
#else
#define ISA_VARIANTS(X) X(portable)
#endif

typedef enum isa {
#define ISA_ENUM(name) ISA_##name,
    ISA_VARIANTS(ISA_ENUM)
#undef ISA_ENUM
    ISA_COUNT
} isa;

const char *isa_name(isa i);
bool isa_available(isa i);   /* this machine has it */
isa isa_best(void);
/* NULL = the best. ST_INVALID for a name that is unknown or not available, with what is. */
status isa_parse(const char *name, isa *out) FALLIBLE;

#endif
