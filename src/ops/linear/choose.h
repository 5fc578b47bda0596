/* Which kernels products with bfloat16 weights go through on this machine: widening to float32 and multiply-adds, or, with rounded
 * activations, the dot product instruction or AMX's tiles. On some processors the one is twice as fast, on others the other (docs/performance.md),
 * and no name or feature bit says which: so it is measured, in about two milliseconds, once per machine. Where there are tiles, also from how
 * many rows on they are faster for int8 activations (amx_set_rows), and whether they compute what they should: else they are not used.
 *
 * The answer is kept in kernels.json, by what decides it: machine, program version, compiler. The file is a cache: one that is missing,
 * damaged or not writable means measuring again. Any thread, at start-up. */
#ifndef SYSTOLIC_OPS_LINEAR_CHOOSE_H
#define SYSTOLIC_OPS_LINEAR_CHOOSE_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"
#include "ops/isa.h"
#include "ops/linear/amx.h"

typedef struct linear_choice {
    isa set;                      /* isa_best(), or ISA_avx512_bf16 or ISA_avx512_amx if that exists and is clearly faster */
    double fma_gops, dot_gops;    /* 10^9 operations per second of one thread; 0 = nothing to choose from */
    double amx_gops;              /* 0: no tiles, or wrong results */
    int amx_rows[AMX_KINDS];      /* of set ISA_avx512_amx: as amx_set_rows takes them; else AMX_NEVER */
    bool cached;                  /* kernels.json had it */
} linear_choice;

/* What the dot product must be faster by: it rounds activations, so a tie goes to the multiply-adds, and noise changes nothing. */
#define LINEAR_CHOICE_MARGIN 1.10

#if defined(__x86_64__)
/* Measures; what linear_choose does where kernels.json has nothing. tiles: those to be tried, or NULL. Needs ISA_avx512_bf16. */
typedef struct linear_tiles { isa set; gemm_fn *dot; qgemm_fn *run; } linear_tiles;
status linear_measure(const linear_tiles *tiles, linear_choice *out) FALLIBLE;
/* Seconds without and with tiles for 1, 2, 4, ... rows: the least of these from which on tiles are always clearly faster, or AMX_NEVER. */
enum { LINEAR_ROW_COUNTS = 6 };
int linear_rows_from(const double without[LINEAR_ROW_COUNTS], const double with[LINEAR_ROW_COUNTS]);
#endif

/* machine: processor and microcode, in words. dir: where kernels.json is; NULL = $XDG_CACHE_HOME/systolic or ~/.cache/systolic, "" = nowhere.
 * Fails only for want of memory. */
status linear_choose(const char *machine, const char *dir, linear_choice *out) FALLIBLE;

/* Larger files are not read, and none is written. */
enum { LINEAR_CHOICE_FILE_BYTES = 64 << 10 };
/* The file's text: *had is what it says for `key` (32 hexadecimal digits), left alone if nothing in order, and `out` the text that takes
 * its place, with `c` for `key` and the other entries that are in order. A text that is none of ours counts as empty. Pure. */
status linear_choice_edit(const char *text, size_t n, const char *key, const linear_choice *c, linear_choice *had, buf *out) FALLIBLE;

#endif
