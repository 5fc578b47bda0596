/* Slices of TPUs by the names that people and clouds give them: "v6e:2x4" (a shape of chips), "v6e-8" (an accelerator type).
 *
 * The number of an accelerator type counts chips on v5e and v6e, and cores, two per chip, on v3, v4, v5p and TPU7x. Its shape is
 * the one that Cloud TPU gives that size. */
#ifndef SYSTOLIC_TPU_SLICE_H
#define SYSTOLIC_TPU_SLICE_H

#include <stddef.h>

#include "base/err.h"
#include "tpu/chip.h"

typedef struct tpu_slice {
    const chip *chip;               /* of v4 the device without megacore */
    const char *libtpu;             /* as libtpu's topologies call the generation */
    int rank, shape[3];             /* chips along each axis; 1 beyond rank */
} tpu_slice;

/* The first n characters of s. ST_INVALID says what is expected. */
status tpu_slice_parse(const char *s, size_t n, tpu_slice *out) FALLIBLE;
int tpu_slice_chips(const tpu_slice *s);
int tpu_slice_devices(const tpu_slice *s);

#endif
