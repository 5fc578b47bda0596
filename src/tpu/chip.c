#include "tpu/chip.h"

#include <string.h>

#define GIB (1024.0 * 1024 * 1024)

/* Sources. DOC: Google Cloud's pages on each generation (docs.cloud.google.com/tpu/docs/v3, v4, v5e, v5p, v6e, tpu7x), which
 * give figures per chip; halved where a chip is two devices. LIB: libtpu 0.0.52's topologies, memory limits and cost model. JAX:
 * jax 0.10.2, jax/_src/pallas/mosaic/tpu_info.py. SB: jax-ml/scaling-book, tpus.md. MT: AI-Hypercomputer/maxtext,
 * accelerator_to_spec_map.py. XPK: AI-Hypercomputer/xpk, system_characteristics.py. Price lists: third parties that quote
 * Cloud's. DOC is taken where it has a figure, but for links, where SB's rates are what collectives reach (docs/chips.md). */
static const chip chips[] = {
    {
        .name = "v3", .kind = "TPU v3", .version = 3, .cores = 1, .devices_per_chip = 2,
        .bf16_flops = 123e12 / 2,               /* DOC; JAX and SB say 140 */
        .int8 = { 123e12 / 2, false },          /* JAX: no int8 unit; SB repeats its 140 */
        .fp8 = { 123e12 / 2, false },           /* none: widened */
        .int4 = { 123e12 / 2, false },          /* none: widened */
        .mxus = 2, .mxu_size = 128, .mxu_passes = 1, /* JAX */
        .clock_hz = 940e6,                      /* from DOC's peak: 123e12 / (2 cores x 2 x 128 x 128 x 2) */
        .sparse_cores = 0,                      /* JAX */
        .hbm_bytes_per_s = 900e9 / 2,           /* DOC, SB; JAX 825, LIB 859 */
        .hbm_bytes = (int64_t)(32 * GIB / 2),   /* DOC */
        .hbm_usable_bytes = 16624107520,        /* LIB */
        .vmem_bytes = 16 << 20, .smem_bytes = 16 << 10, /* JAX, LIB */
        .cmem_bytes = 0,                        /* JAX */
        .pcie_bytes_per_s = 16e9,               /* SB */
        .ici_links = 4,                         /* DOC: 2D torus */
        .ici_link_bytes_per_s = 100e9,          /* SB */
        .ici_hop_s = 1e-6,                      /* SB, of v5e */
        .ici_rank = 2, .ici_wrap = 32, .ici_wrap_all = false, /* as v5e: only whole axes; nothing is written */
        .pod = { 32, 32, 1 },                   /* DOC */
        .dcn_bytes_per_s = 3.125e9,             /* not published: the least of the others */
        .chips_per_host = 4,                    /* LIB */
        .usd_per_chip_hour = 2.20,              /* price lists, the device's; a pod's is 2.00 */
    },
    {
        .name = "v4", .kind = "TPU v4", .version = 4, .cores = 1, .devices_per_chip = 2,
        .bf16_flops = 275e12 / 2,               /* DOC, JAX, SB; LIB 274 */
        .int8 = { 275e12 / 2, false },          /* DOC, SB: as fast as bf16; JAX: one operand may be int8, the product is bf16's */
        .fp8 = { 275e12 / 2, false },           /* none: Mosaic refuses the product */
        .int4 = { 275e12 / 2, false },          /* none: widened */
        .mxus = 4, .mxu_size = 128, .mxu_passes = 1, /* DOC */
        .clock_hz = 1050e6,                     /* from DOC's peak */
        .sparse_cores = 0,                      /* JAX lists none */
        .hbm_bytes_per_s = 1200e9 / 2,          /* DOC, SB; JAX 1230, LIB 982 */
        .hbm_bytes = (int64_t)(32 * GIB / 2),   /* DOC: the chip's */
        .hbm_usable_bytes = 32745971712 / 2,    /* LIB gives each of the two devices the whole chip's, which they share */
        .vmem_bytes = 16 << 20, .smem_bytes = 1 << 20, /* JAX, LIB */
        .cmem_bytes = 128 << 20,                /* JAX */
        .pcie_bytes_per_s = 16e9,               /* SB */
        .ici_links = 6,                         /* DOC: 3D torus */
        .ici_link_bytes_per_s = 45e9,           /* SB */
        .ici_hop_s = 1e-6,                      /* SB, of v5e */
        .ici_rank = 3, .ici_wrap = 4, .ici_wrap_all = true, /* MT: multiples of 4x4x4 */
        .pod = { 16, 16, 16 },                  /* DOC: 4096 chips */
        .dcn_bytes_per_s = 6.25e9,              /* SB */
        .chips_per_host = 4,                    /* DOC, XPK */
        .usd_per_chip_hour = 3.22,              /* price lists */
    },
    {
        .name = "v4 megacore", .kind = "TPU v4", .version = 4, .cores = 2, .devices_per_chip = 1,
        .bf16_flops = 275e12,                   /* DOC, JAX, SB; LIB 274 */
        .int8 = { 275e12, false },              /* DOC, SB: as fast as bf16; JAX: one operand may be int8, the product is bf16's */
        .fp8 = { 275e12, false },               /* none: Mosaic refuses the product */
        .int4 = { 275e12, false },              /* none: widened */
        .mxus = 4, .mxu_size = 128, .mxu_passes = 1, /* DOC */
        .clock_hz = 1050e6,                     /* from DOC's peak */
        .sparse_cores = 0,                      /* JAX lists none */
        .hbm_bytes_per_s = 1200e9,              /* DOC, SB; JAX 1230, LIB 982 */
        .hbm_bytes = (int64_t)(32 * GIB),       /* DOC */
        .hbm_usable_bytes = 33014413312,        /* LIB */
        .vmem_bytes = 16 << 20, .smem_bytes = 1 << 20, /* JAX, LIB */
        .cmem_bytes = 128 << 20,                /* JAX */
        .pcie_bytes_per_s = 16e9,               /* SB */
        .ici_links = 6,                         /* DOC: 3D torus */
        .ici_link_bytes_per_s = 45e9,           /* SB */
        .ici_hop_s = 1e-6,                      /* SB, of v5e */
        .ici_rank = 3, .ici_wrap = 4, .ici_wrap_all = true, /* MT: multiples of 4x4x4 */
        .pod = { 16, 16, 16 },                  /* DOC: 4096 chips */
        .dcn_bytes_per_s = 6.25e9,              /* SB */
        .chips_per_host = 4,                    /* DOC, XPK */
        .usd_per_chip_hour = 3.22,              /* price lists */
    },
    {
        .name = "v5e", .kind = "TPU v5 lite", .version = 5, .cores = 1, .devices_per_chip = 1,
        .bf16_flops = 197e12,                   /* DOC, JAX, SB, LIB */
        .int8 = { 393e12, true },               /* DOC; JAX 394 */
        .fp8 = { 197e12, true },                /* JAX: e5m2 and e4m3b11fnuz are taken, no faster than bf16 */
        .int4 = { 788e12, true },               /* JAX */
        .mxus = 4, .mxu_size = 128, .mxu_passes = 1, /* DOC */
        .clock_hz = 1500e6,                     /* SB; DOC's peak gives the same */
        .sparse_cores = 0,                      /* JAX; the adaptive back end's table says 4 */
        .hbm_bytes_per_s = 819e9,               /* DOC, JAX, SB; one page says 800 GiBps, LIB 738 */
        .hbm_bytes = (int64_t)(16 * GIB),       /* DOC: "16 GB"; JAX 17.2e9 */
        .hbm_usable_bytes = 16909334528,        /* LIB */
        .vmem_bytes = 128 << 20, .smem_bytes = 1 << 20, /* JAX, LIB */
        .cmem_bytes = 0,                        /* JAX */
        .pcie_bytes_per_s = 16e9,               /* SB */
        .ici_links = 4,                         /* DOC: 2D torus */
        .ici_link_bytes_per_s = 45e9,           /* SB; DOC's total of 400 GB/s gives 50 */
        .ici_hop_s = 1e-6,                      /* SB */
        .ici_rank = 2, .ici_wrap = 16, .ici_wrap_all = false, /* SB, MT: only axes of 16 */
        .pod = { 16, 16, 1 },                   /* DOC */
        .dcn_bytes_per_s = 3.125e9,             /* DOC: 2 x 100 Gbps for 8 chips; SB */
        .chips_per_host = 8,                    /* DOC: ct5lp-hightpu-8t */
        .usd_per_chip_hour = 1.20,              /* price lists */
    },
    {
        .name = "v5p", .kind = "TPU v5", .version = 5, .cores = 2, .devices_per_chip = 1,
        .bf16_flops = 459e12,                   /* DOC, JAX, SB; LIB 394, at a clock of 1.5 GHz */
        .int8 = { 918e12, true },               /* JAX, SB */
        .fp8 = { 459e12, true },                /* DOC; JAX: the types of v5e */
        .int4 = { 1840e12, true },              /* JAX */
        .mxus = 4, .mxu_size = 128, .mxu_passes = 1, /* DOC */
        .clock_hz = 1750e6,                     /* SB; DOC's peak gives the same */
        .sparse_cores = 4,                      /* DOC, JAX */
        .hbm_bytes_per_s = 2765e9,              /* DOC; SB 2800, JAX 2460, LIB 2350 */
        .hbm_bytes = (int64_t)(95 * GIB),       /* DOC */
        .hbm_usable_bytes = 102786660352,       /* LIB, which is more than DOC's 95 GiB */
        .vmem_bytes = 64 << 20, .smem_bytes = 1 << 20, /* JAX, LIB */
        .cmem_bytes = 0,                        /* JAX */
        .pcie_bytes_per_s = 16e9,               /* SB */
        .ici_links = 6,                         /* DOC: 3D torus */
        .ici_link_bytes_per_s = 90e9,           /* SB; DOC's total of 1200 GB/s gives 100 */
        .ici_hop_s = 1e-6,                      /* SB, of v5e */
        .ici_rank = 3, .ici_wrap = 4, .ici_wrap_all = true, /* MT: multiples of 4x4x4 */
        .pod = { 16, 20, 28 },                  /* DOC; the largest job is 16x16x24 */
        .dcn_bytes_per_s = 6.25e9,              /* DOC */
        .chips_per_host = 4,                    /* DOC, XPK */
        .usd_per_chip_hour = 4.20,              /* price lists */
    },
    {
        .name = "v6e", .kind = "TPU v6 lite", .version = 6, .cores = 1, .devices_per_chip = 1,
        .bf16_flops = 918e12,                   /* DOC, LIB; JAX, SB 920 */
        .int8 = { 1836e12, true },              /* DOC; JAX 1840 */
        .fp8 = { 918e12, true },                /* DOC; JAX: the types of v5e */
        .int4 = { 3680e12, true },              /* JAX */
        .mxus = 2, .mxu_size = 256, .mxu_passes = 2, /* DOC, JAX; two passes a cycle, or DOC's peak would need 3.5 GHz */
        .clock_hz = 1750e6,                     /* from DOC's peak and two passes */
        .sparse_cores = 2,                      /* DOC, JAX */
        .hbm_bytes_per_s = 1638e9,              /* DOC, LIB; JAX 1640, SB 1600 */
        .hbm_bytes = (int64_t)(32 * GIB),       /* DOC: "32 GB"; JAX 34.4e9 */
        .hbm_usable_bytes = 33546041344,        /* LIB */
        .vmem_bytes = 128 << 20, .smem_bytes = 1 << 20, /* JAX, LIB */
        .cmem_bytes = 0,                        /* JAX */
        .pcie_bytes_per_s = 32e9,               /* DOC, SB: Gen5 */
        .ici_links = 4,                         /* DOC: 2D torus */
        .ici_link_bytes_per_s = 90e9,           /* SB; DOC's total of 800 GB/s gives 100 */
        .ici_hop_s = 1e-6,                      /* SB, of v5e */
        .ici_rank = 2, .ici_wrap = 16, .ici_wrap_all = false, /* SB, MT: only axes of 16 */
        .pod = { 16, 16, 1 },                   /* DOC */
        .dcn_bytes_per_s = 12.5e9,              /* DOC, SB */
        .chips_per_host = 8,                    /* DOC: ct6e-standard-8t */
        .usd_per_chip_hour = 2.70,              /* Cloud's price page of August 2026, us-east5 */
    },
    {
        .name = "v7x", .kind = "TPU7x", .version = 7, .cores = 1, .devices_per_chip = 2,
        .bf16_flops = 2307e12 / 2,              /* DOC; JAX 2310; LIB 996e12 per device, 956e12 were measured */
        .int8 = { 2307e12 / 2, false },         /* JAX: no int8 product; SB lists fp8's rate */
        .fp8 = { 4614e12 / 2, true },           /* DOC; JAX 4600: e4m3fn and e5m2 */
        .int4 = { 2307e12 / 2, false },         /* JAX: none */
        .mxus = 2, .mxu_size = 256, .mxu_passes = 2, /* JAX; passes as on v6e */
        .clock_hz = 2200e6,                     /* from DOC's peak and two passes; LIB's cost model has 1.9 GHz */
        .sparse_cores = 2,                      /* DOC: 4 per chip; JAX */
        .hbm_bytes_per_s = 7380e9 / 2,          /* DOC; JAX, SB 7400, LIB 7372 */
        .hbm_bytes = (int64_t)(192 * GIB / 2),  /* DOC */
        .hbm_usable_bytes = 101724450816,       /* LIB */
        .vmem_bytes = 64 << 20, .smem_bytes = 1 << 20, /* JAX, LIB */
        .cmem_bytes = 0,                        /* JAX */
        .pcie_bytes_per_s = 16e9,               /* SB, said of all generations */
        .ici_links = 6,                         /* DOC: 3D torus */
        .ici_link_bytes_per_s = 90e9,           /* SB; DOC's total of 1200 GB/s gives 100 */
        .ici_hop_s = 1e-6,                      /* SB, of v5e */
        .ici_rank = 3, .ici_wrap = 4, .ici_wrap_all = true, /* MT: multiples of 4x4x4 */
        .pod = { 4, 4, 576 },                   /* SB: 9216 chips */
        .dcn_bytes_per_s = 12.5e9,              /* DOC */
        .chips_per_host = 4,                    /* DOC: tpu7x-standard-4t */
        .usd_per_chip_hour = 12.00,             /* Cloud's price page of August 2026, us-central1 */
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
    if (strcmp(name, "v5litepod") == 0) name = "v5e";
    for (int i = 0; i < N_CHIPS; i++)
        if (strcmp(chips[i].name, name) == 0) return &chips[i];
    return NULL;
}

chip_rate chip_rate_of(const chip *c, dtype t)
{
    switch (t) {
    case DT_I8:
    case DT_U8: return c->int8;
    case DT_F8E4M3:
    case DT_F8E5M2: return c->fp8;
    case DT_I4: return c->int4;
    default: return (chip_rate){ c->bf16_flops, t == DT_BF16 };
    }
}

bool chip_axis_wraps(const chip *c, const int shape[3], int axis)
{
    if (!c->ici_wrap_all) return shape[axis] == c->ici_wrap;
    for (int i = 0; i < c->ici_rank; i++)
        if (shape[i] < c->ici_wrap || shape[i] % c->ici_wrap) return false;
    return axis < c->ici_rank;
}

double chip_ring_bytes_per_s(const chip *c) { return 2 * c->ici_link_bytes_per_s; }

double chip_step_s(const chip *c, const chip_work *w)
{
    double compute = w->flops / c->bf16_flops, memory = w->bytes / c->hbm_bytes_per_s;
    return (compute > memory ? compute : memory) + w->link_bytes / chip_ring_bytes_per_s(c);
}
