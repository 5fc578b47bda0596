/* What plugins are told: named values (client and topology options, compiler overrides) and xla.CompileOptionsProto,
 * encoded here byte by byte (message fields: docs/pjrt.md). Pure functions. */
#ifndef SYSTOLIC_DEVICE_PJRT_OPTIONS_H
#define SYSTOLIC_DEVICE_PJRT_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"

typedef enum pjrt_value_kind { PJRT_TEXT, PJRT_INT, PJRT_INTS, PJRT_REAL, PJRT_BOOL } pjrt_value_kind;
typedef struct pjrt_value {
    const char *name;
    pjrt_value_kind kind;
    const char *text;
    int64_t i64;
    const int64_t *ints; size_t n_ints;
    double real;
    bool b;
} pjrt_value;

/* Values and what they point to. Zero-initialise; pjrt_values_free releases it. */
typedef struct pjrt_values { pjrt_value *v; size_t n; arena mem; } pjrt_values;

/* "cpu_device_count=4,asynchronous=false,chips_per_host_bounds=2:2:1,chip_config_name=megacore": true and false, integers,
 * lists of integers (two or more, with colons), reals, else text. NULL or "" is none. Errors name the item. */
status pjrt_values_parse(const char *text, pjrt_values *out) FALLIBLE;
void pjrt_values_free(pjrt_values *v);

typedef enum pjrt_effort { PJRT_EFFORT_DEFAULT, PJRT_EFFORT_O0, PJRT_EFFORT_O1, PJRT_EFFORT_O2, PJRT_EFFORT_O3 } pjrt_effort;

/* Zero-initialised: one device, the compiler's defaults. */
typedef struct pjrt_compile_options {
    int n_replicas, n_partitions;           /* 0 = 1; the program runs on n_replicas * n_partitions devices */
    const int *device_ids;                  /* ids, [replica][partition]; NULL: 0, 1, 2, ... (one device: the plugin's choice) */
    pjrt_effort effort;                     /* O1 compiles in under half the time, its dots are 20% slower */
    bool shardy;                            /* the program carries sdy annotations */
    const pjrt_value *overrides; size_t n_overrides;    /* "xla_tpu_...", no lists */
} pjrt_compile_options;

/* Appends the proto's bytes; equal options give equal bytes. ST_INVALID for counts below 0 or beyond 65536 devices. */
status pjrt_options_encode(const pjrt_compile_options *o, buf *out) FALLIBLE;

#endif
