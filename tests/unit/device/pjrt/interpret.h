/* The kernels of programs that XLA:CPU runs, by the interpreter: a program for a TPU is compiled by the XLA:CPU plugin as it is (tools/pjrt-cpu/kernels.h)
 * and its kernels' calls come here, with their operands as XLA laid them out. Kernels that talk to other devices wait for these.
 *
 * interpret_begin before anything is lowered; interpret_runs says which kernels have run. */
#ifndef SYSTOLIC_TESTS_PJRT_INTERPRET_H
#define SYSTOLIC_TESTS_PJRT_INTERPRET_H

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "mosaic/interp.h"
#include "ops/hlo.h"
#include "tools/pjrt-cpu/kernels.h"

enum { INTERPRET_KERNELS = 256, INTERPRET_DEVICES = 8, INTERPRET_MEETINGS = 16 };

typedef struct interpret_kernel { uint64_t config; mk *k; int64_t runs, operations; } interpret_kernel;

/* One call of a kernel on all devices of a program. */
typedef struct interpret_meeting {
    int64_t run;
    uint64_t config;
    int n_devices, arrived, left;
    bool done;
    status st;
    char error[256];
    void *operands[INTERPRET_DEVICES * MK_ARGS], *results[INTERPRET_DEVICES * MK_ARGS];
} interpret_meeting;

static struct {
    pthread_mutex_t mu;
    pthread_cond_t cv;
    interpret_kernel kernel[INTERPRET_KERNELS];
    int n;
    int n_devices;                  /* of the programs that run now */
    interpret_meeting meeting[INTERPRET_MEETINGS];
} interpret = { .mu = PTHREAD_MUTEX_INITIALIZER, .cv = PTHREAD_COND_INITIALIZER };

/* ---- which kernel ---- */

static void interpret_seen(const mk *k, const char *config, size_t n)
{
    uint64_t id = hash64(config, n);
    pthread_mutex_lock(&interpret.mu);
    int i = 0;
    while (i < interpret.n && interpret.kernel[i].config != id) i++;
    if (i == interpret.n && i < INTERPRET_KERNELS) interpret.kernel[interpret.n++] = (interpret_kernel){ .config = id, .k = mk_keep(k) };
    pthread_mutex_unlock(&interpret.mu);
}

static interpret_kernel *interpret_find(uint64_t config)
{
    for (int i = 0; i < interpret.n; i++)
        if (interpret.kernel[i].config == config) return &interpret.kernel[i];
    return NULL;
}

/* ---- are the arrays what the kernel declares? ---- */

static status interpret_same(const mk *k, const mk_operand *want, const systolic_kernel_array *got)
{
    static const struct { const char *name; dtype type; } types[] = { { "s32", DT_I32 }, { "f32", DT_F32 }, { "bf16", DT_BF16 }, { "s8", DT_I8 }, { "u8", DT_I8 }, { "f8e4m3fn", DT_F8E4M3 }, { "f8e5m2", DT_F8E5M2 } };
    bool same = false;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) same |= strcmp(got->type, types[i].name) == 0 && want->type == types[i].type;
    same &= got->rank == want->rank;
    for (int i = 0; same && i < want->rank; i++) same = got->dim[i] == want->dim[i];
    return same ? ST_OK : err_set(ST_INVALID, "kernel %s: %s is an array of %s, rank %d: not what was declared", mk_name(k), want->name, got->type, (int)got->rank);
}

static status interpret_check(const mk *k, const systolic_kernel_call *c)
{
    if (c->n_operands != mk_n_operands(k) || c->n_results != mk_n_results(k))
        return err_set(ST_INVALID, "kernel %s: %d operands and %d results", mk_name(k), c->n_operands, c->n_results);
    for (int i = 0; i < c->n_operands; i++) {
        mk_operand o = mk_operand_at(k, i);
        TRY(interpret_same(k, &o, &c->operands[i]));
    }
    for (int i = 0; i < c->n_results; i++) {
        mk_operand o = mk_result_at(k, i);
        TRY(interpret_same(k, &o, &c->results[i]));
    }
    return ST_OK;
}

/* ---- running ---- */

static status interpret_run(interpret_kernel *x, void *const *operands, void *const *results, int n_devices)
{
    mk_report report;
    status st = mk_run(x->k, operands, results, &(mk_run_options){ .n_devices = n_devices }, &report);
    pthread_mutex_lock(&interpret.mu);
    x->runs++;
    x->operations += st == ST_OK ? report.operations : 0;
    pthread_mutex_unlock(&interpret.mu);
    return st;
}

/* The meeting of this call, with the mutex held: one that others wait in, or a new one. */
static interpret_meeting *interpret_meet(int64_t run, uint64_t config)
{
    interpret_meeting *free_one = NULL;
    for (int i = 0; i < INTERPRET_MEETINGS; i++) {
        interpret_meeting *m = &interpret.meeting[i];
        if (m->n_devices && !m->done && m->run == run && m->config == config) return m;
        if (!m->n_devices) free_one = m;
    }
    if (free_one) *free_one = (interpret_meeting){ .run = run, .config = config, .n_devices = interpret.n_devices };
    return free_one;
}

/* The last device that comes runs the kernel for all. */
static status interpret_together(interpret_kernel *x, const systolic_kernel_call *c, void *const *operands, void *const *results)
{
    pthread_mutex_lock(&interpret.mu);
    interpret_meeting *m = interpret_meet(c->run, x->config);
    if (!m || c->device < 0 || c->device >= m->n_devices) {
        pthread_mutex_unlock(&interpret.mu);
        return err_set(ST_INTERNAL, "kernel %s: device %d of %d", mk_name(x->k), c->device, interpret.n_devices);
    }
    memcpy(m->operands + c->device * c->n_operands, operands, (size_t)c->n_operands * sizeof *operands);
    memcpy(m->results + c->device * c->n_results, results, (size_t)c->n_results * sizeof *results);
    if (++m->arrived == m->n_devices) {
        pthread_mutex_unlock(&interpret.mu);
        status st = interpret_run(x, m->operands, m->results, m->n_devices);
        pthread_mutex_lock(&interpret.mu);
        m->st = st;
        if (st != ST_OK) snprintf(m->error, sizeof m->error, "%s", err_msg());
        m->done = true;
        pthread_cond_broadcast(&interpret.cv);
    }
    while (!m->done) pthread_cond_wait(&interpret.cv, &interpret.mu);
    status st = m->st == ST_OK ? ST_OK : err_set(m->st, "%s", m->error);
    if (++m->left == m->n_devices) *m = (interpret_meeting){ 0 };
    pthread_mutex_unlock(&interpret.mu);
    return st;
}

static const char *interpret_call(const systolic_kernel_call *c)
{
    void *operands[MK_ARGS], *results[MK_ARGS];
    uint64_t config = hash64(c->config, c->n);
    pthread_mutex_lock(&interpret.mu);
    interpret_kernel *x = interpret_find(config);
    pthread_mutex_unlock(&interpret.mu);
    if (!x) return "a kernel that nobody lowered in this process";
    status st = interpret_check(x->k, c);
    for (int i = 0; st == ST_OK && i < c->n_operands; i++) operands[i] = c->operands[i].data;
    for (int i = 0; st == ST_OK && i < c->n_results; i++) results[i] = c->results[i].data;
    if (st == ST_OK) st = mk_options_of(x->k)->collective_id ? interpret_together(x, c, operands, results) : interpret_run(x, operands, results, 1);
    return st == ST_OK ? NULL : err_msg();
}

/* ---- for tests ---- */

/* Of the plugin that this process has loaded; programs run on n_devices. False: it is older than this. */
static inline bool interpret_begin(const char *path, int n_devices)
{
    void *handle = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    systolic_kernels_fn *set = NULL;
    void *found = handle ? dlsym(handle, SYSTOLIC_KERNELS_SYMBOL) : NULL;
    memcpy(&set, &found, sizeof set);
    interpret.n_devices = n_devices;
    hlo_on_kernel = interpret_seen;
    if (set) set(interpret_call);
    return set != NULL;
}

/* Runs of kernels of this name; "" counts all. */
static inline int64_t interpret_runs(const char *name)
{
    int64_t n = 0;
    pthread_mutex_lock(&interpret.mu);
    for (int i = 0; i < interpret.n; i++)
        if (!name[0] || strcmp(mk_name(interpret.kernel[i].k), name) == 0) n += interpret.kernel[i].runs;
    pthread_mutex_unlock(&interpret.mu);
    return n;
}

static inline void interpret_forget_runs(void)
{
    pthread_mutex_lock(&interpret.mu);
    for (int i = 0; i < interpret.n; i++) interpret.kernel[i].runs = interpret.kernel[i].operations = 0;
    pthread_mutex_unlock(&interpret.mu);
}

static inline void interpret_print(void)
{
    for (int i = 0; i < interpret.n; i++)
        if (interpret.kernel[i].runs) printf("    %-20s %6lld runs, %.3g operations\n", mk_name(interpret.kernel[i].k), (long long)interpret.kernel[i].runs, (double)interpret.kernel[i].operations);
}

#endif
