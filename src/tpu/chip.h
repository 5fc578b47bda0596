/* Rates and sizes of TPU generations, for estimates: what one device (as PJRT counts them: a core of v3, v4 and v7x, a chip of
 * the others) can do at most. A static table; pure functions. Sources of the figures stand beside them in chip.c, what was
 * decided where they contradict each other in docs/chips.md. What belongs to a chip or a core says so in its name or comment. */
#ifndef SYSTOLIC_TPU_CHIP_H
#define SYSTOLIC_TPU_CHIP_H

#include <stdbool.h>
#include <stdint.h>

#include "graph/dtype.h"

/* Products per second of a type that the matrix unit takes (native), or that is widened first (then the rate of what it becomes). */
typedef struct chip_rate { double per_s; bool native; } chip_rate;

typedef struct chip {
    const char *name;               /* as users name the generation: "v6e" */
    const char *kind;               /* as PJRT names the device: "TPU v6 lite" */
    int version;                    /* the generation's number: 5 for v5e and v5p */
    int cores;                      /* tensor cores that one device has; tells v4 with megacore (2) from v4 without (1) */
    int devices_per_chip;
    /* arithmetic of one device; a multiply-add is two operations */
    double bf16_flops;              /* per second */
    chip_rate int8, fp8, int4;
    int mxus, mxu_size;             /* matrix units of one core, numbers along each side */
    int mxu_passes;                 /* products of mxu_size^2 numbers that a matrix unit finishes in a cycle */
    double clock_hz;
    int sparse_cores;               /* of one device */
    /* memory of one device */
    double hbm_bytes_per_s;
    int64_t hbm_bytes;              /* of the data sheet */
    int64_t hbm_usable_bytes;       /* what programs may use, as the compiler says */
    int64_t vmem_bytes, smem_bytes; /* of one core */
    int64_t cmem_bytes;             /* of one chip */
    double pcie_bytes_per_s;        /* of one chip to its host, one way */
    /* links between the chips of a slice */
    int ici_links;                  /* of one chip */
    double ici_link_bytes_per_s;    /* of one link, one way */
    double ici_hop_s;               /* latency from chip to chip */
    int ici_rank;                   /* dimensions of the mesh: 2 or 3 */
    int ici_wrap;                   /* an axis of this many chips closes to a ring; where ici_wrap_all, all axes close if all are multiples of it */
    bool ici_wrap_all;
    int pod[3];                     /* the largest slice, in chips along each axis; 1 for an axis that is not there */
    /* hosts and what lies between slices */
    double dcn_bytes_per_s;         /* of one chip, one way */
    int chips_per_host;             /* most that one machine has */
    double usd_per_chip_hour;       /* on demand */
} chip;

/* Both return NULL if there is none. kind and cores are those of a pjrt_device_info; cores 0: the first of that kind. */
const chip *chip_by_kind(const char *kind, int cores);
/* By generation: "v3", "v4", "v5e", "v5p", "v6e", "v7x" (also "tpu7x", "v5litepod"); of v4 the device without megacore. */
const chip *chip_by_name(const char *name);
/* The i-th entry; NULL after the last. */
const chip *chip_at(int i);

/* Operations per second of matrix products whose operands have this type; types without a matrix unit: those of bf16. */
chip_rate chip_rate_of(const chip *c, dtype t);
/* Whether the links along an axis of a slice (chips along each axis; 1 for an axis that is not there) close to a ring. */
bool chip_axis_wraps(const chip *c, const int shape[3], int axis);

/* Bytes per second that a device sends when a collective runs around a ring in both directions, which takes one link each. Two
 * devices of one chip follow each other in the ring, so they share no link. */
double chip_ring_bytes_per_s(const chip *c);

typedef struct chip_work { double flops, bytes, link_bytes; } chip_work;    /* of one device */
/* A roofline: the matrix units and the memory work beside each other, the links after them. */
double chip_step_s(const chip *c, const chip_work *w);

#endif
