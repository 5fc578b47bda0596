/* The CPU kernels by themselves, on all threads: linear at several row counts beside the peak of their instruction measured in
 * the same run, and attention for decode (bytes of cache per second) and prefill.
 *   bench_ops [--isa NAME] [--threads N] [--quick] [--cpu-time] [--runs N] [--quant NAME|all]
 * --quant measures linear with quantised weights instead, beside the rate of vpdpbusd and the streaming read of the same bytes.
 * --cpu-time counts processor time divided by threads instead of wall time: for a machine that others use at the same time.
 * Each figure is the best and the median of its runs; machines are shared, so compare within a run only. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "device/cpu/host.h"
#include "device/cpu/pages.h"
#include "device/cpu/pool.h"
#include "ops/linear/quantise.h"
#include "ops/op.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { RUNS = 9, MAX_RUNS = 1000, BLOCK = 16 };
static int n_runs = RUNS;

static pool *threads_pool;
static isa set;
static int n_threads;
static bool cpu_time;

static double now(void)
{
    if (!cpu_time) return clock_now();
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return ((double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec) / n_threads;
}

static void check(status st)
{
    if (st == ST_OK) return;
    fprintf(stderr, "bench_ops: %s\n", err_msg());
    exit(1);
}

/* ---- the peak ---- */

static volatile float sink;
static void peak_portable(void) { float x = sink; for (int i = 0; i < 1 << 20; i++) x = x * 0.5f + 1; sink = x; }
#if defined(__x86_64__)
#define PEAK(name, isa_flags, vec, set1, fma)                                               \
    __attribute__((target(isa_flags))) static void name(void)                               \
    {                                                                                       \
        vec a[12];                                                                          \
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) a[i] = set1((float)i);        \
        vec x = set1(0.5f);                                                                 \
        for (int t = 0; t < 1 << 20; t++) {                                                 \
            _Pragma("GCC unroll 16") for (int i = 0; i < 12; i++) a[i] = fma(a[i], x, x);   \
            __asm__ volatile("" : "+v"(x));                                                 \
        }                                                                                   \
        _Pragma("GCC unroll 16") for (int i = 0; i < 12; i++) __asm__ volatile("" : "+v"(a[i])); \
    }
PEAK(peak_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps)
#define dot_bf16(a, x, y) _mm512_dpbf16_ps((a), (__m512bh)(x), (__m512bh)(y))
PEAK(peak_dot, "avx512f,avx512bf16", __m512, _mm512_set1_ps, dot_bf16)
PEAK(peak_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps)
#define DOT(a, x, y) _mm512_dpbusd_epi32(a, x, y)
#define SET_INT(x) _mm512_set1_epi32((int)(x))
PEAK(peak_vnni, "avx512f,avx512vnni", __m512i, SET_INT, DOT)
#endif

static void peak_run(void *arg, int thread)
{
    (void)thread;
    ((void (*)(void))(uintptr_t)*(uintptr_t *)arg)();
}

static double rate_of(void (*fn)(void), double per);

static double peak_gflops(void)
{
    void (*fn)(void) = peak_portable;
    double per = 2;
#if defined(__x86_64__)
    if (set >= ISA_avx512) fn = peak_avx512, per = 12 * 32;     /* of tiles it is not measured: beyond 100% here */
    if (set == ISA_avx512_bf16) fn = peak_dot, per = 12 * 64;
    if (set == ISA_avx2) fn = peak_avx2, per = 12 * 16;
#endif
    return rate_of(fn, per);
}

/* Of int8 dot products; 0 where there is no instruction for them. */
static double peak_int8(void)
{
#if defined(__x86_64__)
    if (set != ISA_portable && set != ISA_avx2 && __builtin_cpu_supports("avx512vnni")) return rate_of(peak_vnni, 12 * 128);
#endif
    return 0;
}

static double rate_of(void (*fn)(void), double per)
{
    uintptr_t arg = (uintptr_t)fn;
    double best = 0;
    for (int i = 0; i < n_runs; i++) {
        double t0 = now();
        pool_run(threads_pool, peak_run, &arg);
        double rate = per * (1 << 20) * n_threads / (now() - t0) / 1e9;
        best = rate > best ? rate : best;
    }
    return best;
}

/* ---- running one operation ---- */

typedef struct job { const op_impl *impl; cpu_call call; _Atomic int64_t counters[OP_MAX_PHASES]; char *scratch; size_t scratch_bytes; int repeat; } job;

static void job_run(void *arg, int thread)
{
    job *j = arg;
    cpu_thread t = { thread, j->scratch + (size_t)thread * j->scratch_bytes };
    for (int phase = 0; phase < j->impl->n_phases; phase++) {
        if (phase && j->impl->skip_phase && j->impl->skip_phase(&j->call, phase)) continue;
        if (phase) pool_barrier(threads_pool);
        j->impl->cpu[set](&j->call, &t, phase);
    }
}

/* Seconds of a run, best and median; `before` runs untimed each time. */
static void measure(job *j, double *best, double *median)
{
    double s[MAX_RUNS];
    j->call.counters = j->counters;
    for (int i = -1; i < n_runs; i++) {
        for (int p = 0; p < OP_MAX_PHASES; p++) j->counters[p] = 0;
        double t0 = now();
        pool_run(threads_pool, job_run, j);
        if (i >= 0) s[i] = now() - t0;
    }
    for (int i = 1; i < n_runs; i++)
        for (int k = i; k > 0 && s[k] < s[k - 1]; k--) { double x = s[k]; s[k] = s[k - 1]; s[k - 1] = x; }
    *best = s[0];
    *median = s[n_runs / 2];
}

static void job_open(job *j, const graph *g, const node *n, const op_limits *l)
{
    op_needs need = { 0 };
    *j = (job){ .impl = op_impl_of(n->op), .call = { .n = n, .isa = set, .limits = l } };
    if (j->impl->needs) j->impl->needs(g, n, l, &need);
    j->scratch_bytes = (need.scratch_bytes + 4095) / 4096 * 4096;
    check(pages_alloc(j->scratch_bytes * (size_t)n_threads, "scratch", (void **)&j->scratch));
    check(pages_alloc(need.state_bytes, "state", &j->call.state));
    j->call.state_bytes = need.state_bytes;
}

static void job_close(job *j)
{
    pages_free(j->scratch, j->scratch_bytes * (size_t)n_threads);
    pages_free(j->call.state, j->call.state_bytes);
}

static float *floats_new(int64_t n)
{
    float *f;
    check(pages_alloc((size_t)n * sizeof(float), "data", (void **)&f));
    for (int64_t i = 0; i < n; i++) f[i] = (float)((i * 2654435761u >> 7) % 1000) / 1000 - 0.5f;
    return f;
}

/* ---- linear ---- */

static void bench_linear(int64_t n, int64_t k, dtype type, double peak, const int *rows, int n_rows)
{
    graph *g;
    check(graph_new(ops_rules(), &g));
    tensor x = case_input(g, DIM_T, k, AX_EMBED), y = graph_add(g, OP_LINEAR, (tensor[]){ x, case_weight(g, "w", type, n, k) }, 2, NULL);
    check(graph_finish(g, y));
    op_limits l = { 4096, 1, 1, 4096, BLOCK, n_threads, DT_BF16, DT_BF16 };
    gemm_weight w = { type, n, k, NULL };
    void *packed;
    size_t bytes = gemm_packed_bytes(type, n, k);
    check(pages_alloc(bytes, "weight", &packed));
    for (size_t i = 0; i < bytes / 2; i++) ((uint16_t *)packed)[i] = (uint16_t)(0x3C00 + i * 40503 % 997);
    w.data = packed;
    int64_t ld = k + 16, ldy = n + 16, most = rows[n_rows - 1];
    float *in = floats_new(most * ld), *out = floats_new(most * ldy);
    for (int i = 0; i < n_rows; i++) {
        job j;
        double best, median;
        job_open(&j, g, graph_node(g, y), &l);
        j.call.in[0] = (cpu_tensor){ .f = in, .rows = rows[i], .cols = k, .ld = ld };
        j.call.in[1] = (cpu_tensor){ .w = &w, .type = type };
        j.call.out = (cpu_tensor){ .f = out, .rows = rows[i], .cols = n, .ld = ldy };
        measure(&j, &best, &median);
        double flops = 2.0 * (double)(n * k) * rows[i];
        printf("linear %-5s %6lld x %-6lld rows %-5d %9.3f ms %8.1f GFLOP/s (median %8.1f) %5.1f%% of peak  %6.1f GB/s\n", dtype_name(type), (long long)n,
               (long long)k, rows[i], best * 1e3, flops / best / 1e9, flops / median / 1e9, 100 * flops / best / 1e9 / peak, (double)bytes / best / 1e9);
        job_close(&j);
    }
    pages_free(in, (size_t)(most * ld) * 4);
    pages_free(out, (size_t)(most * ldy) * 4);
    pages_free(packed, bytes);
    graph_free(g);
}

/* ---- linear, quantised ---- */

static const char *stream_at;
static size_t stream_bytes;
static volatile uint64_t stream_sink;

static void stream_run(void *arg, int thread)
{
    (void)arg;
    size_t each = stream_bytes / (size_t)n_threads / 256 * 256;
    const uint64_t *p = (const uint64_t *)(const void *)(stream_at + each * (size_t)thread), *end = p + each / 8;
    uint64_t s[32] = { 0 };
    for (; p < end; p += 32)
        for (int i = 0; i < 32; i++) s[i] += p[i];
    for (int i = 1; i < 32; i++) s[0] ^= s[i];
    stream_sink = s[0];
}

static double stream_rate(void)
{
    double best = 0;
    for (int i = 0; i < n_runs; i++) {
        double t0 = now();
        pool_run(threads_pool, stream_run, NULL);
        double rate = (double)stream_bytes / (now() - t0) / 1e9;
        best = rate > best ? rate : best;
    }
    return best;
}

static void *pack_some(quant_scheme s, int64_t n, int64_t k)
{
    float *f = floats_new(k + 16);
    void *packed, *panels;
    size_t panel = qgemm_panel_bytes(s, k), all = qgemm_packed_bytes(s, n, k);
    check(pages_alloc(all, "weight", &packed));
    check(pages_alloc(panel, "panel", &panels));
    const void *rows[GEMM_PANEL];
    for (int i = 0; i < GEMM_PANEL; i++) rows[i] = f + i;
    quantise_panel(s, panels, k, 0, rows, DT_F32);
    for (size_t at = 0; at < all; at += panel) memcpy((char *)packed + at, panels, panel);
    pages_free(panels, panel);
    pages_free(f, (size_t)(k + 16) * 4);
    return packed;
}

static void bench_quantised(quant_scheme s, int64_t n, int64_t k, const int *rows, int n_rows)
{
    graph *g;
    check(graph_new(ops_rules(), &g));
    shape ws = { DT_BF16, 2, { n, k }, { AX_EMBED, AX_EMBED } };
    weight_part part = { "w", 0, n, n, AX_EMBED, 0, 0 };
    tensor x = case_input(g, DIM_T, k, AX_EMBED), wt = graph_weight_of(g, &ws, &(weight_attrs){ ROLE_REPL, 1, &part, 0, s, 0 });
    tensor y = graph_add(g, OP_LINEAR, (tensor[]){ x, wt }, 2, NULL);
    check(graph_finish(g, y));
    op_limits l = { 4096, 1, 1, 4096, BLOCK, n_threads, DT_BF16, DT_BF16 };
    qgemm_weight w = { { quant_describe(s).type, n, k, pack_some(s, n, k) }, s };
    int64_t ld = k + 16, ldy = n + 16, most = rows[n_rows - 1];
    float *in = floats_new(most * ld), *out = floats_new(most * ldy);
    stream_at = w.base.data;
    stream_bytes = qgemm_packed_bytes(s, n, k);
    for (int i = 0; i < n_rows; i++) {
        job j;
        double best, median, peak = quant_describe(s).int8_activations ? peak_int8() : peak_gflops(), read = stream_rate();
        job_open(&j, g, graph_node(g, y), &l);
        j.call.in[0] = (cpu_tensor){ .f = in, .rows = rows[i], .cols = k, .ld = ld };
        j.call.in[1] = (cpu_tensor){ .w = &w.base };
        j.call.out = (cpu_tensor){ .f = out, .rows = rows[i], .cols = n, .ld = ldy };
        measure(&j, &best, &median);
        double ops = 2.0 * (double)(n * k) * rows[i];
        printf("%-28s %6lld x %-5lld rows %-4d %9.3f ms %7.1f Gop/s %5.1f%% of %-7.1f %6.1f GB/s %5.1f%% of %-5.1f (median %9.3f ms)\n", quant_name(s), (long long)n,
               (long long)k, rows[i], best * 1e3, ops / best / 1e9, peak > 0 ? 100 * ops / best / 1e9 / peak : 0, peak, (double)stream_bytes / best / 1e9,
               100 * (double)stream_bytes / best / 1e9 / read, read, median * 1e3);
        fflush(stdout);
        job_close(&j);
    }
    pages_free(in, (size_t)(most * ld) * 4);
    pages_free(out, (size_t)(most * ldy) * 4);
    pages_free((void *)(uintptr_t)w.base.data, stream_bytes);
    graph_free(g);
}

static void bench_schemes(const char *name, int64_t n, int64_t k)
{
    static const int few[] = { 1, 2, 4, 8, 16, 32 }, many[] = { 1, 8, 32, 128, 512 };
    for (int s = QUANT_NONE + 1; s < QUANT_COUNT; s++) {
        if (strcmp(name, "all") != 0 && strcmp(name, quant_name((quant_scheme)s)) != 0) continue;
        if (n) {
            bench_quantised((quant_scheme)s, n, k, many, 5);
            continue;
        }
        bench_quantised((quant_scheme)s, quant_describe((quant_scheme)s).type == DT_I4 ? 65536 : 32768, 2048, few, 6);    /* larger than caches */
        bench_quantised((quant_scheme)s, 3072, 1024, many, 5);
        bench_quantised((quant_scheme)s, 1024, 3072, many, 5);
    }
}

/* ---- attention ---- */

typedef struct shape_of { int heads, kv_heads, dim; } shape_of;

static void bench_attention(shape_of s, dtype type, int n_seqs, int q_len, int kv_len, double peak)
{
    graph *g;
    check(graph_new(ops_rules(), &g));
    tensor in[3];
    int widths[] = { s.heads * s.dim, s.kv_heads * s.dim, s.kv_heads * s.dim };
    tensor all = case_input(g, DIM_T, widths[0] + 2 * widths[1], AX_HEADS);
    for (int i = 0, at = 0; i < 3; at += widths[i++]) {
        in[i] = graph_add(g, OP_SLICE, &all, 1, &(op_attrs){ .slice = { at, at + widths[i] } });
        in[i] = graph_add(g, OP_SPLIT_HEADS, &in[i], 1, &(op_attrs){ .split_heads = { s.dim } });
    }
    tensor y = graph_add(g, OP_PAGED_ATTENTION, in, 3, &(op_attrs){ .paged_attention = { .cache = 0, .scale = 0.1, .window = 0 } });
    check(graph_finish(g, y));
    int n_tokens = n_seqs * q_len, pages = (kv_len + BLOCK - 1) / BLOCK;
    op_limits l = { n_tokens, n_seqs, n_tokens, kv_len, BLOCK, n_threads, type, type };
    kv_layer kv = { .type = type, .block_size = BLOCK, .heads = s.kv_heads, .dim = s.dim, .dim_pad = (s.dim + 15) / 16 * 16 };
    kv.block_bytes = kv_layer_bytes(&kv);
    size_t cache_bytes = kv.block_bytes * (size_t)(pages * n_seqs);
    check(pages_alloc(cache_bytes, "cache", (void **)&kv.base));
    for (size_t i = 0; i < cache_bytes / 2; i++) ((uint16_t *)(void *)kv.base)[i] = (uint16_t)(0x3C00 + i * 40503 % 97);
    int32_t *ints = mem_calloc((size_t)(n_seqs * pages + 3 * n_seqs + 1 + 2 * n_tokens), sizeof *ints);
    int32_t *table = ints, *cu = table + n_seqs * pages, *lens = cu + n_seqs + 1, *slots = lens + n_seqs;
    for (int i = 0; i < n_seqs; i++) {
        for (int p = 0; p < pages; p++) table[i * pages + p] = p * n_seqs + i;
        cu[i + 1] = (i + 1) * q_len;
        lens[i] = kv_len;
        for (int t = 0; t < q_len; t++) slots[i * q_len + t] = table[i * pages + (kv_len - q_len + t) / BLOCK] * BLOCK + (kv_len - q_len + t) % BLOCK;
    }
    batch b = { .n_tokens = n_tokens, .n_seqs = n_seqs, .cu_q_lens = cu, .kv_lens = lens, .page_table = table, .max_pages = pages, .slots = slots };
    int64_t ld = widths[0] + 2 * widths[1] + 16, ldo = widths[0] + 16;
    float *x = floats_new(n_tokens * ld), *o = floats_new(n_tokens * ldo);
    job j;
    double best, median;
    job_open(&j, g, graph_node(g, y), &l);
    j.call.b = &b;
    j.call.kv = &kv;
    for (int i = 0, at = 0; i < 3; at += widths[i++]) j.call.in[i] = (cpu_tensor){ .f = x + at, .rows = n_tokens, .cols = widths[i], .ld = ld };
    j.call.out = (cpu_tensor){ .f = o, .rows = n_tokens, .cols = widths[0], .ld = ldo };
    measure(&j, &best, &median);
    double pairs = (double)n_seqs * ((double)q_len * (kv_len - q_len) + (double)q_len * (q_len + 1) / 2), flops = 4 * pairs * widths[0];
    double bytes = 2.0 * n_seqs * kv_len * widths[1] * (double)dtype_bytes(type, 1);
    printf("attention %-4s %2d/%-2d x %-3d  %3d seqs, %4d queries on %6d keys %9.3f ms %8.1f GFLOP/s (median %8.1f) %5.1f%% of peak  %6.1f GB/s\n",
           dtype_name(type), s.heads, s.kv_heads, s.dim, n_seqs, q_len, kv_len, best * 1e3, flops / best / 1e9, flops / median / 1e9,
           100 * flops / best / 1e9 / peak, bytes / best / 1e9);
    job_close(&j);
    pages_free(x, (size_t)(n_tokens * ld) * 4);
    pages_free(o, (size_t)(n_tokens * ldo) * 4);
    pages_free(kv.base, cache_bytes);
    mem_free(ints);
    graph_free(g);
}

int main(int argc, char **argv)
{
    host_cpus cpus;
    const char *name = NULL, *quant = NULL;
    bool quick = false;
    int want = 0;
    int64_t n = 0, k = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--isa") == 0 && i + 1 < argc) name = argv[++i];
        else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc) want = (int)strtol(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--quick") == 0) quick = true;
        else if (strcmp(argv[i], "--cpu-time") == 0) cpu_time = true;
        else if (strcmp(argv[i], "--quant") == 0 && i + 1 < argc) quant = argv[++i];
        else if (strcmp(argv[i], "--shape") == 0 && i + 2 < argc) n = strtol(argv[++i], NULL, 10), k = strtol(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--runs") == 0 && i + 1 < argc) n_runs = (int)strtol(argv[++i], NULL, 10);
        else {
            fprintf(stderr, "usage: bench_ops [--isa NAME] [--threads N] [--quick] [--cpu-time] [--runs N] [--quant NAME|all] [--shape COLUMNS K]\n");
            return 2;
        }
    }
    n_runs = n_runs < 1 ? 1 : n_runs > MAX_RUNS ? MAX_RUNS : n_runs;
    check(isa_parse(name, &set));
    check(host_pick_cpus(getenv("VLLM_CPU_OMP_THREADS_BIND"), want, &cpus));
    n_threads = cpus.n;
    check(pool_new(n_threads, cpus.pinned ? cpus.cpu : NULL, &threads_pool));
    if (quant) {
        bench_schemes(quant, n, k);
        pool_free(threads_pool);
        return 0;
    }
    double peak = peak_gflops();
    printf("%s, %d threads, multiply-add peak %.1f GFLOP/s\n", isa_name(set), n_threads, peak);
    static const int rows[] = { 1, 4, 8, 32, 128, 512 };
    if (n > 0 && k > 0) {
        bench_linear(n, k, DT_BF16, peak, rows, 6);
        pool_free(threads_pool);
        return 0;
    }
    bench_linear(8192, 2048, DT_BF16, peak, rows, quick ? 4 : 6);
    bench_linear(2048, 8192, DT_BF16, peak, rows, quick ? 4 : 6);
    if (!quick) bench_linear(3072, 1024, DT_F32, peak, rows, 6);
    shape_of small = { 32, 8, 64 }, large = { 32, 8, 128 };
    for (int i = 0; i < 2; i++) {
        shape_of s = i ? large : small;
        bench_attention(s, DT_BF16, 1, 1, 1024, peak);
        bench_attention(s, DT_BF16, 1, 1, 16384, peak);
        bench_attention(s, DT_BF16, 32, 1, 1024, peak);
        bench_attention(s, DT_F32, 32, 1, 1024, peak);
        bench_attention(s, DT_BF16, 1, 512, 512, peak);
        if (!quick) bench_attention(s, DT_BF16, 1, 512, 4096, peak);
        if (!quick) bench_attention(s, DT_F32, 1, 1024, 1024, peak);
    }
    pool_free(threads_pool);
    return 0;
}
