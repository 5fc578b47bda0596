/* What a compiler estimates of a program that it has compiled, from the optimised program itself: an HloModuleProto, of which
 * PJRT_Executable_OptimizedProgram hands out the bytes (openxla's xla/service/hlo.proto and xla_data.proto have the numbers of the
 * fields). A compiler's own cost analysis counts the body of each loop once; here bodies are counted as often as they run.
 *
 * - Cycles: libtpu writes into each operation's backend_config what it took the operation to cost when it chose the tiles
 *   (window_config), start of the operation and memory included. Where it was told to profile what it made
 *   (--xla_jf_dump_static_llo_profile_to), the count over the finished code is there too (bundle_analysis_data): it is taken
 *   then, and is exact for arithmetic, without what starting takes.
 * - Products: two FLOP for each multiplication of dot and convolution, by their shapes.
 * - A loop runs as often as its condition says: a counter from 0 that is compared with a constant. A loop whose bound is data
 *   (pages of attention, tiles of experts) is open: nothing of it is counted. Collectives are not either: their cycles know no ring.
 * - Kernels (tpu_custom_call) are told by the name in the source text on the line that they came from. Those over data
 *   (attention, cache, experts) are left out, whatever is said of them; the others count where there are cycles.
 *
 * Pure function of bytes that a plugin made: sizes and depths are limited, what is wrong is ST_INVALID. */
#ifndef SYSTOLIC_DEVICE_PJRT_HLO_COST_H
#define SYSTOLIC_DEVICE_PJRT_HLO_COST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

typedef struct hlo_cost {
    double cycles;              /* of all that is counted, loops multiplied; -1: the compiler estimates nothing */
    double start_cycles;        /* of these, what starting the operations takes, at most HLO_START each; 0 of finished code */
    double flops, flops_once;   /* of products; once: bodies once, open loops included, as compilers count */
    double operations;          /* that have cycles, loops multiplied */
    int n_loops, n_open;        /* loops that were multiplied; open ones */
    int n_unknown;              /* products that are kernels and have no cycles */
    bool bundles;               /* cycles are those of finished code */
} hlo_cost;

enum { HLO_MAX_BYTES = 256 << 20, HLO_START = 2100 /* libtpu has 2,116 and more for an operation that does next to nothing */ };

/* module: the bytes; with_config: they are an HloModuleProtoWithConfig. source: the program's text, for the names of kernels; may be NULL. */
status hlo_cost_read(const void *module, size_t len, bool with_config, const char *source, size_t source_len, hlo_cost *out) FALLIBLE;

#endif
