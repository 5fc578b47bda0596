/* The JSON header of a safetensors file, read in one pass without building a tree: headers reach 100 MB, and a tree
 * would hide duplicate names. Everything in it is untrusted. Private to src/load; no state, any thread. */
#ifndef SYSTOLIC_LOAD_ST_HEADER_H
#define SYSTOLIC_LOAD_ST_HEADER_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "graph/dtype.h"
#include "load/safetensors.h"

/* One tensor as the header describes it. Checked: the name has no NUL, the dtype is known, every extent is
 * non-negative, begin <= end, and end - begin is exactly what shape and dtype need. Not checked: the data area. */
typedef struct st_entry {
    const char *name;
    dtype type;
    int rank;
    int64_t shape[ST_MAX_RANK];
    uint64_t begin, end;  /* relative to the first byte after the header */
} st_entry;

typedef status (*st_entry_fn)(void *arg, const st_entry *e);

/* Calls `add` for each tensor in header order and stops at the first failure. Names are copied into `names` and live as
 * long as it does. Errors name the tensor, or the byte of the header when there is none yet. */
status st_header_parse(const char *text, size_t len, arena *names, st_entry_fn add, void *arg) FALLIBLE;

enum { ST_SHOWN_CAP = 128 };
/* `name` made fit for a one-line message: control characters become '?', long names are cut. Returns dst. */
const char *st_shown(const char *name, char dst[ST_SHOWN_CAP]);

#endif
