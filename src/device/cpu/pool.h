/* A pool of compute threads that run one function together (SPMD), with barriers inside it.
 *
 * The caller of pool_run is thread 0; the others sleep on a futex between runs, after a short spin, and do the same at
 * barriers: at idle nothing spins. One caller at a time. */
#ifndef SYSTOLIC_DEVICE_CPU_POOL_H
#define SYSTOLIC_DEVICE_CPU_POOL_H

#include "base/err.h"

typedef struct pool pool;
typedef void pool_fn(void *arg, int thread);

/* cpus: where threads 1.. are pinned, one each ([n_threads], entry 0 is the caller's and left alone); NULL = not pinned. */
status pool_new(int n_threads, const int *cpus, pool **out) FALLIBLE;
void pool_free(pool *p);
int pool_threads(const pool *p);
/* Runs fn(arg, 0..n-1) on all threads; returns when all are done. */
void pool_run(pool *p, pool_fn *fn, void *arg);
/* Inside fn: waits for all threads. What was written before is seen after. */
void pool_barrier(pool *p);

#endif
