/* The kernels there are, with cases to test each of them. A kernel is a file NAME_mosaic.c beside the operation that it serves;
 * it offers a builder to that operation's hlo function, and a kernel_impl to the tests, which is all that is declared here. */
#ifndef SYSTOLIC_OPS_KERNELS_H
#define SYSTOLIC_OPS_KERNELS_H

#include "mosaic/kernel.h"
#include "tpu/chip.h"

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
    /* For the static profile of what build_full made, which sees none of the run's numbers: bakes constants in (mk_bake) and tells how
     * many bytes such a run moves to and from HBM at least. NULL: it cannot be profiled. */
    status (*profile)(int i, mk *k, double *bytes);
} kernel_impl;

#define KERNEL(name) extern const kernel_impl kernel_##name;
#include "ops/kernels.def"

/* The i-th; NULL after the last. */
const kernel_impl *kernel_at(int i);
const kernel_impl *kernel_find(const char *name);

#endif
