/* The machine's limits, on all cores: streaming read bandwidth and the peak rates of the multiply-add instructions that kernels can use.
 * Prints one line per limit: name, min, median, max over the runs, unit. `--json` for programs. Figures are only
 * comparable with others of the same run: machines are shared. `--cpu-time` counts the threads' processor time instead of wall time, for a
 * machine that others use at the same time (bench_ops has it too). */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/clock.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { RUNS = 7, MAX_THREADS = 256 };
static int n_threads;
static size_t bytes_per_thread = (size_t)256 << 20;

typedef struct job { double (*fn)(void *buf); void *buf; double units, cpu_s; pthread_barrier_t *gate; } job;
static int cpu_time;

static double thread_time(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static double sink;

/* ---- read bandwidth: every byte once, eight streams of adds ---- */
static double read_portable(void *buf)
{
    const uint64_t *p = buf, *end = p + bytes_per_thread / 8;
    uint64_t s[8] = {0};
    for (; p < end; p += 8)
        for (int i = 0; i < 8; i++) s[i] += p[i];
    sink += (double)(s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7]);
    return (double)bytes_per_thread;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static double read_avx512(void *buf)
{
    const char *p = buf, *end = p + bytes_per_thread;
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (; p < end; p += 256) {
        a = _mm512_or_si512(a, _mm512_load_si512(p));
        b = _mm512_or_si512(b, _mm512_load_si512(p + 64));
        c = _mm512_or_si512(c, _mm512_load_si512(p + 128));
        d = _mm512_or_si512(d, _mm512_load_si512(p + 192));
    }
    sink += (double)(_mm512_reduce_add_epi64(_mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d))) & 1);
    return (double)bytes_per_thread;
}

/* ---- instruction peaks: 12 independent chains, no memory ---- */
enum { CHAINS = 12, TURNS = 1 << 21 };
#define OPAQUE(x) __asm__ volatile("" : "+v"(x)) /* or the compiler computes constants itself */
#define PEAK(name, target_isa, vec, zero, step, ops_per_step)                                             \
    __attribute__((target(target_isa))) static double name(void *buf)                                     \
    {                                                                                                     \
        (void)buf;                                                                                        \
        vec acc[CHAINS], x = zero, y = zero;                                                              \
        OPAQUE(x);                                                                                        \
        OPAQUE(y);                                                                                        \
        _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++) { acc[i] = zero; OPAQUE(acc[i]); }      \
        for (int t = 0; t < TURNS; t++) _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++) acc[i] = step; \
        _Pragma("GCC unroll 16") for (int i = 0; i < CHAINS; i++) OPAQUE(acc[i]);                         \
        return (double)TURNS * CHAINS * (ops_per_step);                                                   \
    }
PEAK(fma_avx2, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_fmadd_ps(x, y, acc[i]), 16)
PEAK(fma_avx512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_fmadd_ps(x, y, acc[i]), 32)
PEAK(dot_bf16, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(), _mm512_dpbf16_ps(acc[i], (__m512bh)x, (__m512bh)y), 64)
PEAK(dot_int8, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(acc[i], x, y), 128)
PEAK(dot_int8_avx2, "avx2,avxvnni", __m256i, _mm256_setzero_si256(), _mm256_dpbusd_avx_epi32(acc[i], x, y), 64)
#endif

static void *worker(void *arg)
{
    job *j = arg;
    pthread_barrier_wait(j->gate);
    double t0 = thread_time();
    j->units = j->fn(j->buf);
    j->cpu_s = thread_time() - t0;
    return NULL;
}

static double once(double (*fn)(void *), void **bufs, int threads)
{
    pthread_t th[MAX_THREADS];
    job jobs[MAX_THREADS];
    pthread_barrier_t gate;
    pthread_barrier_init(&gate, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++) {
        jobs[i] = (job){ fn, bufs ? bufs[i] : NULL, 0, 0, &gate };
        if (pthread_create(&th[i], NULL, worker, &jobs[i]) != 0) return 0;
    }
    double t0 = clock_now(), units = 0;
    pthread_barrier_wait(&gate);
    for (int i = 0; i < threads; i++) pthread_join(th[i], NULL);
    double dt = clock_now() - t0, spent = 0;
    for (int i = 0; i < threads; i++) units += jobs[i].units, spent += jobs[i].cpu_s / threads;
    if (cpu_time) dt = spent;
    pthread_barrier_destroy(&gate);
    return units / dt;
}

static int by_value(const void *a, const void *b) { double x = *(const double *)a, y = *(const double *)b; return (x > y) - (x < y); }

static void measure(const char *name, const char *unit, double (*fn)(void *), void **bufs, int threads, int json)
{
    double r[RUNS];
    for (int i = 0; i < RUNS; i++) r[i] = once(fn, bufs, threads) / 1e9;
    qsort(r, RUNS, sizeof *r, by_value);
    if (json) printf("{\"limit\": \"%s\", \"threads\": %d, \"min\": %.3f, \"median\": %.3f, \"max\": %.3f, \"unit\": \"%s\"}\n", name, threads, r[0], r[RUNS / 2], r[RUNS - 1], unit);
    else printf("%-34s %2d threads  %9.1f %9.1f %9.1f  %s\n", name, threads, r[0], r[RUNS / 2], r[RUNS - 1], unit);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int json = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) json = 1;
        else if (strcmp(argv[i], "--cpu-time") == 0) cpu_time = 1;
        else {
            fprintf(stderr, "usage: limits [--json] [--cpu-time]\n");
            return 2;
        }
    }
    cpu_set_t set;
    n_threads = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    if (n_threads > MAX_THREADS) n_threads = MAX_THREADS;
    if (n_threads > 8) bytes_per_thread = (size_t)64 << 20;
    void *bufs[MAX_THREADS];
    for (int i = 0; i < n_threads; i++) {
        bufs[i] = mmap(NULL, bytes_per_thread, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (bufs[i] == MAP_FAILED) {
            fprintf(stderr, "limits: out of memory\n");
            return 1;
        }
        memset(bufs[i], 1, bytes_per_thread);
    }
    if (!json) printf("%-34s %12s %9s %9s %9s\n", "limit", "", "min", "median", "max");
    double (*read_fn)(void *) = read_portable;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) read_fn = read_avx512;
#endif
    measure("streaming read", "GB/s", read_fn, bufs, 1, json);
    measure("streaming read", "GB/s", read_fn, bufs, n_threads, json);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) measure("f32 FMA, 256 bit", "Gop/s", fma_avx2, NULL, n_threads, json);
    if (__builtin_cpu_supports("avx512f")) measure("f32 FMA, 512 bit", "Gop/s", fma_avx512, NULL, n_threads, json);
    if (__builtin_cpu_supports("avx512bf16")) measure("bf16 dot (vdpbf16ps, 512 bit)", "Gop/s", dot_bf16, NULL, n_threads, json);
    if (__builtin_cpu_supports("avx512vnni")) measure("int8 dot (vpdpbusd, 512 bit)", "Gop/s", dot_int8, NULL, n_threads, json);
    if (__builtin_cpu_supports("avxvnni")) measure("int8 dot (vpdpbusd, 256 bit)", "Gop/s", dot_int8_avx2, NULL, n_threads, json);
#endif
    return sink == 0.5; /* keeps the sums alive */
}
