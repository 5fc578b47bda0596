/* The kernels there are, with cases to test each of them. A kernel is a file NAME_mosaic.c beside the operation that it serves;
 * it offers a builder to that operation's hlo function, and a kernel_impl to the tests, which is all that is declared here. */
#ifndef SYSTOLIC_OPS_KERNELS_H
#define SYSTOLIC_OPS_KERNELS_H

#include "mosaic/kernel.h"
#include "tpu/chip.h"

/* What a run takes at least: bytes to and from HBM, seconds of the matrix unit, seconds of the links between chips. */
typedef struct kernel_bound { double bytes, unit_s, link_s; } kernel_bound;

typedef struct kernel_impl {
    const char *name;
    int n_cases;
    /* "bf16 KV, 32/8 heads of 128, page 16, window 1024" */
    void (*describe)(int i, char *dst, size_t cap);
    /* Devices that the case runs on; NULL: one. */
    int (*devices)(int i);
    /* Why the case is not for that chip, in a few words, or NULL. NULL: every case is for every chip. */
    const char *(*refuses)(int i, const chip *c);
    /* The case at a size that the interpreter runs in milliseconds, and at that of a real model, for compilers (NULL: none). The result
     * is finished by the caller (mk_finish), who frees it. */
    mk *(*build)(int i, const chip *c);
    mk *(*build_full)(int i, const chip *c);
    /* Fills the operands of what build made, in their own types (mk_operand_at): operands[device * mk_n_operands + j]. One byte per
     * element of int4. The same seed gives the same bytes. */
    void (*fill)(int i, const mk *k, uint64_t seed, void *const *operands);
    /* What the results are to be, by naive code: results[device * mk_n_results + j]. NaN: any value will do. */
    status (*ref)(int i, const mk *k, void *const *operands, float *const *results);
    double (*tolerance)(int i);     /* |got - want| <= tolerance * max(1, |want|) */
    /* For libtpu's static profile, which sees none of the run's numbers and counts a loop whose bounds it does not know once. NULL: it cannot
     * be profiled. build_profile (NULL: build_full) makes the full size with trip counts that need no data; profile bakes constants into
     * it (mk_bake) and tells what such a run takes at least. */
    mk *(*build_profile)(int i, const chip *c);
    status (*profile)(int i, const chip *c, mk *k, kernel_bound *least);
} kernel_impl;

/* Numbers for `fill`: 31 random bits; -2 to 2 in thousandths. */
static inline int64_t kernel_draw(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)(*state >> 33);
}
static inline float kernel_draw_float(uint64_t *state) { return (float)(kernel_draw(state) % 4001 - 2000) / 1000; }

#define KERNEL(name) extern const kernel_impl kernel_##name;
#include "ops/kernels.def"

/* The i-th; NULL after the last. */
const kernel_impl *kernel_at(int i);
const kernel_impl *kernel_find(const char *name);

#endif
