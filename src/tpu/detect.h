/* Which TPU this is. Asked in this order, the first that says something counts:
 *
 *   1. the kind that the PJRT plugin gives its devices      "TPU v6 lite"
 *   2. TPU_ACCELERATOR_TYPE, else TPU_VERSION               "v6e-8", "6"
 *   3. nothing is there: simulation, of v6e
 *
 * A generation that nobody knows counts as v5e, which is said. A pure function of its inputs: whoever calls it reads the
 * environment. */
#ifndef SYSTOLIC_TPU_DETECT_H
#define SYSTOLIC_TPU_DETECT_H

#include "tpu/slice.h"

typedef struct tpu_hints {
    const char *kind; int cores;        /* of a PJRT device; NULL: there is none */
    const char *accelerator_type;       /* TPU_ACCELERATOR_TYPE; NULL or "": not set */
    const char *version;                /* TPU_VERSION, likewise */
} tpu_hints;

typedef enum tpu_source { TPU_BY_DEVICE, TPU_BY_ACCELERATOR_TYPE, TPU_BY_VERSION, TPU_SIMULATED } tpu_source;

typedef struct tpu_found {
    tpu_source source;
    const chip *chip;
    tpu_slice slice;                    /* of an accelerator type; chip NULL: not known */
    bool unknown;                       /* it says something that is not in the table, and counts as v5e */
    char message[240];                  /* a sentence for the log: which, and how it is known */
} tpu_found;

void tpu_detect(const tpu_hints *h, tpu_found *out);
/* Loud: a guess or a simulation, to be logged as a warning. */
static inline bool tpu_found_loud(const tpu_found *f) { return f->unknown || f->source == TPU_SIMULATED; }

#endif
