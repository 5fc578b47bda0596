/* Kernels for TPUs in programs that XLA:CPU runs: a call of tpu_custom_call goes to a function of the process that loaded the plugin, which has an
 * interpreter for them (tests/unit/device/pjrt/interpret.h). Programs are compiled from the very text that libtpu gets. For C and C++. */
#ifndef SYSTOLIC_PJRT_CPU_KERNELS_H
#define SYSTOLIC_PJRT_CPU_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct systolic_kernel_array {
    void *data;             /* row-major */
    const char *type;       /* XLA's name: "bf16", "s32", "f8e4m3fn" */
    int64_t rank;
    const int64_t *dim;
} systolic_kernel_array;

typedef struct systolic_kernel_call {
    const char *config;     /* the call's backend_config, n bytes: what kernel it is */
    size_t n;
    int64_t run;            /* one execution of a program, on all its devices */
    int device;             /* of the client */
    int n_operands, n_results;
    const systolic_kernel_array *operands, *results;    /* a result that takes over an operand has its data */
} systolic_kernel_call;

/* Called by the client's threads, on several devices at the same time. NULL, or what went wrong (as long as the thread does not call again). */
typedef const char *systolic_kernel_fn(const systolic_kernel_call *call);

/* NULL: calls of kernels fail. */
#define SYSTOLIC_KERNELS_SYMBOL "systolic_pjrt_cpu_kernels"
typedef void systolic_kernels_fn(systolic_kernel_fn *run);

#ifdef __cplusplus
}
#endif
#endif
