/* The machine we are on: processors we may use, memory, name. Control groups (v1 and v2) are respected. */
#ifndef SYSTOLIC_DEVICE_CPU_HOST_H
#define SYSTOLIC_DEVICE_CPU_HOST_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { HOST_MAX_CPUS = 1024 };

typedef struct host_cpus {
    int n;                      /* threads to use: distinct cores, no more than the quota */
    int cpu[HOST_MAX_CPUS];     /* where they would run */
    int pinned;                 /* 0 = leave placement to the kernel */
} host_cpus;

/* `bind` is VLLM_CPU_OMP_THREADS_BIND: NULL, "", "auto" or "all" (one thread per core), "nobind", or a list such as "0-3,8" (of
 * several groups "0-3|4-7" the first). `want` > 0 asks for that many threads. ST_INVALID for a bad list. */
status host_pick_cpus(const char *bind, int want, host_cpus *out) FALLIBLE;
void host_name(char *dst, size_t cap);
/* What decides how fast its kernels are: name, family, model, stepping, microcode. */
void host_identity(char *dst, size_t cap);
void host_memory(int64_t *total, int64_t *available);

#endif
