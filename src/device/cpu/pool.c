#include "device/cpu/pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/thread.h"

/* A value that threads wait to change: by spinning a little, then in the kernel. Alone on its cache line. */
typedef struct gate { _Alignas(64) _Atomic uint32_t value; _Atomic int sleepers; } gate;

struct pool {
    gate start, turn;                  /* a new run; the next side of a barrier */
    _Alignas(64) _Atomic int arrived;  /* at the barrier */
    _Alignas(64) pool_fn *fn;          /* NULL = leave */
    void *arg;
    int n, n_started;
    struct worker { pool *p; pthread_t thread; int id, cpu; } *workers;
};

enum { SPINS = 4000 };  /* some tens of microseconds: longer than a step's small operations, too short to matter at idle */

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void gate_wait(gate *g, uint32_t old)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&g->value, memory_order_acquire) != old) return;
        relax();
    }
    while (atomic_load(&g->value) == old) {
        atomic_fetch_add(&g->sleepers, 1);
        syscall(SYS_futex, &g->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
        atomic_fetch_sub(&g->sleepers, 1);
    }
}

static void gate_open(gate *g)
{
    atomic_fetch_add(&g->value, 1);
    if (atomic_load(&g->sleepers) > 0) syscall(SYS_futex, &g->value, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

void pool_barrier(pool *p)
{
    if (p->n == 1) return;
    uint32_t turn = atomic_load_explicit(&p->turn.value, memory_order_relaxed); /* cannot change before we arrive */
    if (atomic_fetch_add_explicit(&p->arrived, 1, memory_order_acq_rel) == p->n - 1) {
        atomic_store_explicit(&p->arrived, 0, memory_order_relaxed);
        gate_open(&p->turn);
    } else {
        gate_wait(&p->turn, turn);
    }
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu < 0 || cpu >= CPU_SETSIZE) return;
    CPU_SET((size_t)cpu, &set);
    (void)sched_setaffinity(0, sizeof set, &set); /* not allowed: then unpinned */
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    pool *p = w->p;
    pin(w->cpu);
    for (uint32_t seen = 0;; seen++) {
        gate_wait(&p->start, seen);
        if (!p->fn) return NULL;
        p->fn(p->arg, w->id);
        pool_barrier(p);
    }
}

void pool_run(pool *p, pool_fn *fn, void *arg)
{
    p->fn = fn;
    p->arg = arg;
    if (p->n > 1) gate_open(&p->start);
    fn(arg, 0);
    pool_barrier(p);
}

static void stop(pool *p)
{
    p->fn = NULL;
    gate_open(&p->start);
    for (int i = 0; i < p->n_started; i++) pthread_join(p->workers[i].thread, NULL);
    mem_free(p->workers);
    mem_free(p);
}

status pool_new(int n_threads, const int *cpus, pool **out)
{
    pool *p = mem_aligned(64, sizeof *p);
    if (!p) return err_nomem();
    *p = (pool){ .n = n_threads };
    p->workers = mem_calloc((size_t)n_threads, sizeof *p->workers);
    if (!p->workers) {
        mem_free(p);
        return err_nomem();
    }
    for (int i = 1; i < n_threads; i++) {
        struct worker *w = &p->workers[i - 1];
        *w = (struct worker){ .p = p, .id = i, .cpu = cpus ? cpus[i] : -1 };
        status st = thread_start(&w->thread, "compute", worker_main, w);
        if (st != ST_OK) {
            stop(p);
            return err_wrap(st, "compute thread %d of %d", i, n_threads);
        }
        p->n_started++;
    }
    *out = p;
    return ST_OK;
}

void pool_free(pool *p) { if (p) stop(p); }
int pool_threads(const pool *p) { return p->n; }
