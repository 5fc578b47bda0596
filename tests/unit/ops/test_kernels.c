/* Every registered kernel x case in the interpreter, for every chip for which it is another kernel, against what it says it computes.
 * SYSTOLIC_KERNEL=NAME picks one kernel, SYSTOLIC_CASE=N one of its cases. */
#include "base/clock.h"
#include "base/mem.h"
#include "mosaic/interp.h"
#include "ops/kernels.h"
#include "tests/test.h"

enum { SEEDS = 2 };

typedef struct trial {
    const kernel_impl *impl;
    int i, devices;
    char name[400];
    mk *k;
    void **operands, **copies, **results;
    float **want;
} trial;

static void *array_of(mk_operand o) { return mem_calloc(mk_array_bytes(o.type, o.rank, o.dim) + 1, 1); }

static void allocate(trial *t)
{
    int n = mk_n_operands(t->k), n_out = mk_n_results(t->k), all = t->devices;
    t->operands = mem_calloc((size_t)(n * all) + 1, sizeof *t->operands);
    t->copies = mem_calloc((size_t)(n * all) + 1, sizeof *t->copies);
    t->results = mem_calloc((size_t)(n_out * all) + 1, sizeof *t->results);
    t->want = mem_calloc((size_t)(n_out * all) + 1, sizeof *t->want);
    for (int i = 0; i < n * all; i++) {
        t->operands[i] = array_of(mk_operand_at(t->k, i % n));
        t->copies[i] = array_of(mk_operand_at(t->k, i % n));
    }
    for (int i = 0; i < n_out * all; i++) {
        mk_operand o = mk_result_at(t->k, i % n_out);
        t->results[i] = array_of(o);
        t->want[i] = mem_array(mk_array_bytes(DT_I8, o.rank, o.dim) + 1, sizeof(float));
    }
}

static void release(trial *t)
{
    int n = mk_n_operands(t->k) * t->devices, n_out = mk_n_results(t->k) * t->devices;
    for (int i = 0; i < n; i++) mem_free(t->operands[i]), mem_free(t->copies[i]);
    for (int i = 0; i < n_out; i++) mem_free(t->results[i]), mem_free(t->want[i]);
    mem_free(t->operands);
    mem_free(t->copies);
    mem_free(t->results);
    mem_free(t->want);
}

/* Worst error in units of the tolerance; infinite where a number is not one. */
static double compare(const trial *t, int j, double tolerance)
{
    mk_operand o = mk_result_at(t->k, j % mk_n_results(t->k));
    size_t n = mk_array_bytes(DT_I8, o.rank, o.dim);
    float *got = mem_array(n + 1, sizeof *got);
    double worst = 0;
    size_t at = 0;
    mk_to_floats(o.type, t->results[j], got, n);
    for (size_t i = 0; i < n; i++) {
        double want = (double)t->want[j][i];
        if (isnan(want) || (double)got[i] == want) continue;
        double e = fabs((double)got[i] - want) / (tolerance * fmax(1, fabs(want)));
        if (!(e <= worst)) worst = isnan(e) ? (double)INFINITY : e, at = i;
    }
    if (!(worst <= 1)) FAIL("%s: result %s[%zu] = %g, wanted %g (tolerance %g)", t->name, o.name, at, (double)got[at], (double)t->want[j][at], tolerance);
    mem_free(got);
    return worst;
}

static void run_seed(trial *t, uint64_t seed)
{
    int n = mk_n_operands(t->k) * t->devices;
    t->impl->fill(t->i, t->k, seed, t->operands);
    for (int i = 0; i < n; i++) {
        mk_operand o = mk_operand_at(t->k, i % mk_n_operands(t->k));
        memcpy(t->copies[i], t->operands[i], mk_array_bytes(o.type, o.rank, o.dim));
    }
    status st = mk_run(t->k, t->operands, t->results, &(mk_run_options){ .n_devices = t->devices }, NULL);
    if (st == ST_OK) st = t->impl->ref(t->i, t->k, t->copies, t->want);
    if (st != ST_OK) {
        FAIL("%s: %s", t->name, err_msg());
        return;
    }
    for (int j = 0; j < mk_n_results(t->k) * t->devices; j++) compare(t, j, t->impl->tolerance(t->i));
}

static void run_case(const kernel_impl *impl, int i, const chip *c)
{
    trial t = { .impl = impl, .i = i, .devices = impl->devices ? impl->devices(i) : 1 };
    char text[256];
    impl->describe(i, text, sizeof text);
    snprintf(t.name, sizeof t.name, "%s %d (%s) for %s", impl->name, i, text, c->name);
    t.k = impl->build(i, c);
    status st = mk_finish(t.k);
    if (st != ST_OK) FAIL("%s: %s", t.name, err_msg());
    else {
        allocate(&t);
        for (int s = 0; s < SEEDS; s++) run_seed(&t, (uint64_t)s + 1);
        release(&t);
    }
    mk_free(t.k);
}

/* The same text for two chips is the same kernel. */
static bool print_differs(const kernel_impl *impl, int i, const chip *c, buf *last)
{
    buf text = {0};
    mk *k = impl->build(i, c);
    bool differs = mk_finish(k) != ST_OK || mk_print(k, &text) != ST_OK || text.len != last->len || memcmp(text.data, last->data, text.len) != 0;
    mk_free(k);
    buf_free(last);
    *last = text;
    return differs;
}

TEST(every_kernel_and_case)
{
#ifdef __SANITIZE_THREAD__
    if (!getenv("SYSTOLIC_TEST_FULL")) SKIP("the interpreter is one thread, which takes minutes under ThreadSanitizer (SYSTOLIC_TEST_FULL=1 runs it)");
#endif
    const char *only = getenv("SYSTOLIC_KERNEL"), *which = getenv("SYSTOLIC_CASE");
    static const char *const chips[] = { "v4", "v5e", "v5p", "v6e", "v7x" };
    for (int n = 0; kernel_at(n); n++) {
        const kernel_impl *impl = kernel_at(n);
        double t0 = clock_now();
        int runs = 0;
        for (int i = 0; i < impl->n_cases; i++) {
            buf last = {0};
            for (int c = 0; c < 5; c++) {
                const chip *on = chip_by_name(chips[c]);
                if ((only && strcmp(only, impl->name) != 0) || (which && atoi(which) != i) || (impl->refuses && impl->refuses(i, on))) continue;
                if (!print_differs(impl, i, on, &last)) continue;
                run_case(impl, i, on);
                runs++;
            }
            buf_free(&last);
        }
        if (runs) printf("  %s: %d cases, %d kernels, %.2f s\n", impl->name, impl->n_cases, runs, clock_now() - t0);
    }
}

TEST_MAIN
