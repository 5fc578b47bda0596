/* Rates and sizes of TPU generations, for estimates: what one device (as PJRT counts them: a core of v3, v4 and v7x, a chip of
 * the others) can do at most. A static table; pure functions. Sources of the figures stand beside them in chip.c. */
#ifndef SYSTOLIC_TPU_CHIP_H
#define SYSTOLIC_TPU_CHIP_H

#include <stdint.h>

typedef struct chip {
    const char *name;               /* as users name the generation: "v6e" */
    const char *kind;               /* as PJRT names the device: "TPU v6 lite" */
    int cores;                      /* tensor cores that one device has; tells v4 with megacore (2) from v4 without (1) */
    int devices_per_chip;
    double bf16_flops;              /* per second */
    double hbm_bytes_per_s;
    int64_t hbm_bytes;              /* of the data sheet */
    int64_t hbm_usable_bytes;       /* what programs may use, as the compiler says */
    int ici_links;                  /* of one chip */
    double ici_link_bytes_per_s;    /* of one link, one way */
} chip;

/* Both return NULL if there is none. kind and cores are those of a pjrt_device_info; cores 0: the first of that kind. */
const chip *chip_by_kind(const char *kind, int cores);
/* By generation: "v3", "v4", "v5e", "v5p", "v6e", "v7x" (also "tpu7x"); of v4 the device without megacore. */
const chip *chip_by_name(const char *name);
/* The i-th entry; NULL after the last. */
const chip *chip_at(int i);

/* Bytes per second that a device sends when a collective runs around a ring in both directions, which takes one link each. Two
 * devices of one chip follow each other in the ring, so they share no link. */
double chip_ring_bytes_per_s(const chip *c);

typedef struct chip_work { double flops, bytes, link_bytes; } chip_work;    /* of one device */
/* A roofline: the matrix units and the memory work beside each other, the links after them. */
double chip_step_s(const chip *c, const chip_work *w);

#endif
