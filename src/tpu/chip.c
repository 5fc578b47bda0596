#include "tpu/chip.h"

#include <string.h>

#define GIB (1024.0 * 1024 * 1024)

/* Sources. DOC: Google Cloud's pages on each generation (docs.cloud.google.com/tpu/docs/v3, v4, v5e, v5p, v6e, tpu7x), which
 * give figures per chip; halved where a chip is two devices. LIB: device_memory_bytes_limit of libtpu 0.0.52's topologies. SB:
 * jax-ml/scaling-book, tpus.md (the link's rate in one direction; DOC's totals per chip give 50, 100 and 100 GB/s for v5e, v5p
 * and v6e, SB's are what collectives reach). */
static const chip chips[] = {
    {
        .name = "v3", .kind = "TPU v3", .cores = 1, .devices_per_chip = 2,
        .bf16_flops = 123e12 / 2,               /* DOC; JAX and SB say 140 */
        .hbm_bytes_per_s = 900e9 / 2,           /* DOC, SB */
        .hbm_bytes = (int64_t)(32 * GIB / 2),   /* DOC */
        .hbm_usable_bytes = 16624107520,        /* LIB */
        .ici_links = 4,                         /* DOC: 2D torus */
        .ici_link_bytes_per_s = 100e9,          /* SB */
    },
    {
        .name = "v4", .kind = "TPU v4", .cores = 1, .devices_per_chip = 2,
        .bf16_flops = 275e12 / 2,               /* DOC */
        .hbm_bytes_per_s = 1200e9 / 2,          /* DOC */
        .hbm_bytes = (int64_t)(32 * GIB / 2),   /* DOC: the chip's */
        .hbm_usable_bytes = 32745971712 / 2,    /* LIB gives each of the two devices the whole chip's, which they share */
        .ici_links = 6,                         /* DOC: 3D torus */
        .ici_link_bytes_per_s = 45e9,           /* SB */
    },
    {
        .name = "v4 megacore", .kind = "TPU v4", .cores = 2, .devices_per_chip = 1,
        .bf16_flops = 275e12, .hbm_bytes_per_s = 1200e9, .hbm_bytes = (int64_t)(32 * GIB),  /* DOC */
        .hbm_usable_bytes = 33014413312,        /* LIB */
        .ici_links = 6, .ici_link_bytes_per_s = 45e9,   /* DOC, SB */
    },
    {
        .name = "v5e", .kind = "TPU v5 lite", .cores = 1, .devices_per_chip = 1,
        .bf16_flops = 197e12,                   /* DOC */
        .hbm_bytes_per_s = 819e9,               /* DOC */
        .hbm_bytes = (int64_t)(16 * GIB),       /* DOC: "16 GB" */
        .hbm_usable_bytes = 16909334528,        /* LIB */
        .ici_links = 4,                         /* DOC: 2D torus */
        .ici_link_bytes_per_s = 45e9,           /* SB */
    },
    {
        .name = "v5p", .kind = "TPU v5", .cores = 2, .devices_per_chip = 1,
        .bf16_flops = 459e12,                   /* DOC */
        .hbm_bytes_per_s = 2765e9,              /* DOC */
        .hbm_bytes = (int64_t)(95 * GIB),       /* DOC */
        .hbm_usable_bytes = 102786660352,       /* LIB, which is more than DOC's 95 GiB */
        .ici_links = 6,                         /* DOC: 3D torus */
        .ici_link_bytes_per_s = 90e9,           /* SB */
    },
    {
        .name = "v6e", .kind = "TPU v6 lite", .cores = 1, .devices_per_chip = 1,
        .bf16_flops = 918e12,                   /* DOC */
        .hbm_bytes_per_s = 1638e9,              /* DOC */
        .hbm_bytes = (int64_t)(32 * GIB),       /* DOC: "32 GB" */
        .hbm_usable_bytes = 33546041344,        /* LIB */
        .ici_links = 4,                         /* DOC: 2D torus */
        .ici_link_bytes_per_s = 90e9,           /* SB */
    },
    {
        .name = "v7x", .kind = "TPU7x", .cores = 1, .devices_per_chip = 2,
        .bf16_flops = 2307e12 / 2,              /* DOC; libtpu's cost model has 996e12 per device */
        .hbm_bytes_per_s = 7380e9 / 2,          /* DOC */
        .hbm_bytes = (int64_t)(192 * GIB / 2),  /* DOC */
        .hbm_usable_bytes = 101724450816,       /* LIB */
        .ici_links = 6,                         /* DOC: 3D torus */
        .ici_link_bytes_per_s = 90e9,           /* SB */
    },
};
enum { N_CHIPS = sizeof chips / sizeof *chips };

const chip *chip_at(int i) { return i >= 0 && i < N_CHIPS ? &chips[i] : NULL; }

const chip *chip_by_kind(const char *kind, int cores)
{
    for (int i = 0; i < N_CHIPS; i++)
        if (strcmp(chips[i].kind, kind) == 0 && (cores == 0 || cores == chips[i].cores)) return &chips[i];
    return cores ? chip_by_kind(kind, 0) : NULL;
}

const chip *chip_by_name(const char *name)
{
    if (strcmp(name, "tpu7x") == 0) name = "v7x";
    for (int i = 0; i < N_CHIPS; i++)
        if (strcmp(chips[i].name, name) == 0) return &chips[i];
    return NULL;
}

double chip_ring_bytes_per_s(const chip *c) { return 2 * c->ici_link_bytes_per_s; }

double chip_step_s(const chip *c, const chip_work *w)
{
    double compute = w->flops / c->bf16_flops, memory = w->bytes / c->hbm_bytes_per_s;
    return (compute > memory ? compute : memory) + w->link_bytes / chip_ring_bytes_per_s(c);
}
