/* Runs kernels on the CPU, as a judge and not for speed: what a TPU leaves open is made to go wrong here.
 *
 * - A copy moves its data when it is waited for, not before; touching what an outstanding copy writes, or writing what it reads, is an
 *   error. Which copies a semaphore's bytes belong to is known only when all of them have been waited for, so all of them happen then.
 * - Scratch, outputs and what of a block lies outside of its array start as NaN (integers as 0x7f7f..).
 * - Indices and boxes out of bounds, waits that nobody ends, semaphores that are not 0 and copies that nobody waited for at the end,
 *   messages to a device that may not have started (it has not passed mk_barrier) are errors.
 * - An input block is fetched a step ahead, as Mosaic's pipeline does.
 *
 * Numbers are kept as the memory of their type keeps them (bf16 and 8-bit floats are rounded after each operation), arithmetic is in
 * f32, products are summed in order in f32 or i32. Runs are deterministic: devices take turns at waits. */
#ifndef SYSTOLIC_MOSAIC_INTERP_H
#define SYSTOLIC_MOSAIC_INTERP_H

#include "mosaic/kernel.h"

enum { MK_DEVICES = 64 };

/* What was done, by all devices together. */
typedef struct mk_report {
    int64_t operations;             /* executed */
    int64_t copies, hbm_bytes;      /* started, without windows; bytes that crossed HBM's edge, windows included (an HBM-to-HBM copy twice) */
    int64_t remote_bytes;
    double matmul_flops;
} mk_report;

typedef struct mk_run_options {
    int n_devices;                  /* 0 = 1 */
    int64_t max_operations;         /* more are an error; 0 = 10^9 */
    int64_t max_bytes;              /* of memory for values and scratch; 0 = 4 GiB */
} mk_run_options;

/* Runs the finished kernel once on every device. Arrays are row-major in their own types, one byte per element of int4 and i1:
 * operands[device * mk_n_operands + i] are read, results[device * mk_n_results + i] are written; a result that takes over an operand
 * begins as its copy, and the operand stays as it was (they may be the same memory). What the kernel did wrong is ST_INVALID: "kernel fd, device 0, step [3],
 * operation 12 (load): ...". o and report may be NULL. */
status mk_run(const mk *k, void *const *operands, void *const *results, const mk_run_options *o, mk_report *report) FALLIBLE;

/* Bytes of an array in that form. */
size_t mk_array_bytes(dtype t, int rank, const int64_t *dim);
/* n elements of it as floats, and back (rounded as a kernel would). */
void mk_to_floats(dtype t, const void *src, float *dst, size_t n);
void mk_from_floats(dtype t, const float *src, void *dst, size_t n);

#endif
