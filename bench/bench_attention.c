/* Attention on the CPU by itself: decode beside the read bandwidth, prefill beside the multiply-add peak, for every type of KV cache.
 *   bench_attention [--isa NAME] [--threads N] [--rounds N] [--heads 32/8x128] [--queries N] [--only decode|prefill]
 * --queries: in a run of prefill. Few heads and queries make runs short, which a busy machine interrupts less.
 * Limits are measured in turn with the kernels, run by run, and each figure is the best of its runs: machines are shared. The cache
 * has as many layers as make it larger than the processor's own caches, and runs take them in turn, as steps of a model do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "device/cpu/host.h"
#include "device/cpu/pages.h"
#include "device/cpu/pool.h"
#include "ops/op.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { BLOCK = 16, MAX_LAYERS = 64 };
static const size_t CACHE_BYTES = (size_t)192 << 20;

static pool *threads_pool;
static isa set;
static int n_threads, rounds = 12;

static void check(status st)
{
    if (st == ST_OK) return;
    fprintf(stderr, "bench_attention: %s\n", err_msg());
    exit(1);
}

/* ---- limits ---- */

typedef struct span { const char *at; size_t bytes; } span;
static volatile uint64_t sink;

static void read_portable(const char *p, size_t bytes)
{
    uint64_t sum[8] = { 0 }, x;
    for (size_t i = 0; i + 64 <= bytes; i += 64)
        for (size_t j = 0; j < 8; j++) memcpy(&x, p + i + j * 8, 8), sum[j] |= x;
    sink = sum[0] | sum[1] | sum[2] | sum[3] | sum[4] | sum[5] | sum[6] | sum[7];
}

static void fma_portable(void)
{
    float x = (float)sink;
    for (int i = 0; i < 1 << 18; i++) x = x * 0.5f + 1;
    sink = (uint64_t)x;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static void read_avx512(const char *p, size_t bytes)
{
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t i = 0; i + 256 <= bytes; i += 256) {
        a = _mm512_or_si512(a, _mm512_load_si512(p + i));
        b = _mm512_or_si512(b, _mm512_load_si512(p + i + 64));
        c = _mm512_or_si512(c, _mm512_load_si512(p + i + 128));
        d = _mm512_or_si512(d, _mm512_load_si512(p + i + 192));
    }
    a = _mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d));
    sink = (uint64_t)_mm512_reduce_add_epi64(a);
}

#define FMA_PEAK(name, isa_flags, vec, set1, fma)                                           \
    __attribute__((target(isa_flags))) static void name(void)                               \
    {                                                                                       \
        vec a[12], x = set1(0.5f);                                                          \
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) a[i] = set1((float)i);        \
        for (int t = 0; t < 1 << 18; t++) {                                                 \
            _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) a[i] = fma(a[i], x, x);   \
            __asm__ volatile("" : "+v"(x));                                                 \
        }                                                                                   \
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) __asm__ volatile("" : "+v"(a[i])); \
    }
FMA_PEAK(fma_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps)
FMA_PEAK(fma_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps)
#endif

static void read_share(void *arg, int thread)
{
    const span *s = arg;
    size_t share = s->bytes / (size_t)n_threads / 256 * 256;
    const char *p = s->at + (size_t)thread * share;
#if defined(__x86_64__)
    if (isa_available(ISA_avx512)) {
        read_avx512(p, share);
        return;
    }
#endif
    read_portable(p, share);
}

/* Bytes a second. */
static double read_rate(const char *p, size_t bytes)
{
    span s = { p, bytes };
    double t0 = clock_now();
    pool_run(threads_pool, read_share, &s);
    return (double)bytes / (clock_now() - t0);
}

static void fma_run(void *arg, int thread)
{
    (void)arg, (void)thread;
#if defined(__x86_64__)
    if (set >= ISA_avx512) fma_avx512();
    else if (set == ISA_avx2) fma_avx2();
    else
#endif
    fma_portable();
}

/* Operations a second. */
static double fma_rate(void)
{
    double per = 2;
#if defined(__x86_64__)
    per = set >= ISA_avx512 ? 12 * 32 : set == ISA_avx2 ? 12 * 16 : 2;
#endif
    double t0 = clock_now();
    pool_run(threads_pool, fma_run, NULL);
    return per * (1 << 18) * n_threads / (clock_now() - t0);
}

/* ---- one operation ---- */

typedef struct shape_of { int heads, kv_heads, dim; } shape_of;
typedef struct job { const op_impl *impl; cpu_call call; _Atomic int64_t counters[OP_MAX_PHASES]; char *scratch; size_t scratch_bytes; } job;

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

static double job_time(job *j)
{
    for (int p = 0; p < OP_MAX_PHASES; p++) j->counters[p] = 0;
    j->call.counters = j->counters;
    double t0 = clock_now();
    pool_run(threads_pool, job_run, j);
    return clock_now() - t0;
}

typedef struct bench {
    shape_of s;
    dtype type;
    int n_seqs, q_len, kv_len, n_layers, pages;
    kv_layer kv[MAX_LAYERS];
    char *cache;
    size_t cache_bytes;
    int32_t *ints;
    float *x, *o;
    int64_t ld, ldo;
    batch b;
    graph *g;
    tensor y;
    op_limits l;
    job j;
} bench;

static void make_graph(bench *e)
{
    int64_t q = (int64_t)e->s.heads * e->s.dim, k = (int64_t)e->s.kv_heads * e->s.dim, at = 0, widths[] = { q, k, k };
    tensor in[3];
    check(graph_new(ops_rules(), &e->g));
    tensor all = case_input(e->g, DIM_T, q + 2 * k, AX_HEADS);
    for (int i = 0; i < 3; at += widths[i++]) {
        in[i] = graph_add(e->g, OP_SLICE, &all, 1, &(op_attrs){ .slice = { at, at + widths[i] } });
        in[i] = graph_add(e->g, OP_SPLIT_HEADS, &in[i], 1, &(op_attrs){ .split_heads = { e->s.dim } });
    }
    e->y = graph_add(e->g, OP_PAGED_ATTENTION, in, 3, &(op_attrs){ .paged_attention = { .cache = 0, .scale = 0.1, .window = 0 } });
    check(graph_finish(e->g, e->y));
    e->ld = q + 2 * k + 16;
    e->ldo = q + 16;
    size_t rows = (size_t)(e->n_seqs * e->q_len);
    check(pages_alloc(rows * (size_t)e->ld * 4, "data", (void **)&e->x));
    check(pages_alloc(rows * (size_t)e->ldo * 4, "data", (void **)&e->o));
    for (size_t i = 0; i < rows * (size_t)e->ld; i++) e->x[i] = (float)(i * 2654435761u >> 7 & 1023) / 1024 - 0.5f;
}

/* Pages of one sequence lie apart, as they do after a while of serving. */
static void make_cache(bench *e)
{
    size_t offset = 0;
    int most = 1;
    for (int i = 0; i < most; i++) {
        kv_layer *kv = &e->kv[i];
        *kv = (kv_layer){ .type = e->type, .block_size = BLOCK, .heads = e->s.kv_heads, .dim = e->s.dim, .dim_pad = (e->s.dim + 15) / 16 * 16, .offset = offset };
        offset += kv_layer_bytes(kv);
        size_t layer = offset * (size_t)(e->pages * e->n_seqs) / (size_t)(i + 1);
        if (i == 0 && e->q_len == 1) most = layer * MAX_LAYERS <= CACHE_BYTES ? MAX_LAYERS : (int)(CACHE_BYTES / layer) + 1;
    }
    e->n_layers = most;
    e->cache_bytes = offset * (size_t)(e->pages * e->n_seqs);
    check(pages_alloc(e->cache_bytes, "cache", (void **)&e->cache));
    float k[512], v[512];
    for (int i = 0; i < 512; i++) k[i] = (float)(i * 37 % 101) / 101 - 0.5f, v[i] = (float)(i * 53 % 97) / 97 - 0.5f;
    for (int l = 0; l < most; l++) e->kv[l].base = e->cache, e->kv[l].block_bytes = offset;
    for (int s = 0; s < e->pages * e->n_seqs * BLOCK; s++)
        for (int h = 0; h < e->s.kv_heads; h++) kv_store(&e->kv[0], s, h, k + s % 64, v + h);
    for (int p = 0; p < e->pages * e->n_seqs; p++)
        for (int l = 1; l < most; l++) memcpy(kv_block(&e->kv[l], p), kv_block(&e->kv[0], p), kv_layer_bytes(&e->kv[0]));
}

static void make_batch(bench *e)
{
    int n = e->n_seqs * e->q_len;
    e->ints = mem_calloc((size_t)(e->n_seqs * e->pages + 2 * e->n_seqs + 1 + n), sizeof *e->ints);
    if (!e->ints) check(err_nomem());
    int32_t *table = e->ints, *cu = table + e->n_seqs * e->pages, *lens = cu + e->n_seqs + 1, *slots = lens + e->n_seqs;
    for (int i = 0; i < e->n_seqs; i++) {
        for (int p = 0; p < e->pages; p++) table[i * e->pages + p] = p * e->n_seqs + i;
        cu[i + 1] = (i + 1) * e->q_len;
        lens[i] = e->kv_len;
        for (int t = 0; t < e->q_len; t++) {
            int pos = e->kv_len - e->q_len + t;
            slots[i * e->q_len + t] = table[i * e->pages + pos / BLOCK] * BLOCK + pos % BLOCK;
        }
    }
    e->b = (batch){ .n_tokens = n, .n_seqs = e->n_seqs, .cu_q_lens = cu, .kv_lens = lens, .page_table = table, .max_pages = e->pages, .slots = slots };
    e->l = (op_limits){ n, e->n_seqs, n, e->kv_len, BLOCK, n_threads, e->type, set == ISA_avx512_bf16 ? DT_BF16 : DT_F32 };
}

static void make_job(bench *e)
{
    const node *n = graph_node(e->g, e->y);
    op_needs need = { 0 };
    job *j = &e->j;
    int64_t q = (int64_t)e->s.heads * e->s.dim, k = (int64_t)e->s.kv_heads * e->s.dim, at = 0, widths[] = { q, k, k };
    *j = (job){ .impl = op_impl_of(OP_PAGED_ATTENTION), .call = { .n = n, .isa = set, .limits = &e->l, .b = &e->b } };
    j->impl->needs(e->g, n, &e->l, &need);
    j->scratch_bytes = (need.scratch_bytes + 4095) / 4096 * 4096;
    check(pages_alloc(j->scratch_bytes * (size_t)n_threads, "scratch", (void **)&j->scratch));
    check(pages_alloc(need.state_bytes, "state", &j->call.state));
    j->call.state_bytes = need.state_bytes;
    for (int i = 0; i < 3; at += widths[i++]) j->call.in[i] = (cpu_tensor){ .f = e->x + at, .rows = e->b.n_tokens, .cols = widths[i], .ld = e->ld };
    j->call.out = (cpu_tensor){ .f = e->o, .rows = e->b.n_tokens, .cols = q, .ld = e->ldo };
}

static void drop(bench *e)
{
    size_t rows = (size_t)e->b.n_tokens;
    pages_free(e->j.scratch, e->j.scratch_bytes * (size_t)n_threads);
    pages_free(e->j.call.state, e->j.call.state_bytes);
    pages_free(e->x, rows * (size_t)e->ld * 4);
    pages_free(e->o, rows * (size_t)e->ldo * 4);
    pages_free(e->cache, e->cache_bytes);
    mem_free(e->ints);
    graph_free(e->g);
}

static void run(shape_of s, dtype type, int n_seqs, int q_len, int kv_len)
{
    static bench e;
    e = (bench){ .s = s, .type = type, .n_seqs = n_seqs, .q_len = q_len, .kv_len = kv_len, .pages = (kv_len + BLOCK - 1) / BLOCK };
    make_graph(&e);
    make_cache(&e);
    make_batch(&e);
    make_job(&e);
    double best = 1e9, limit = 0, pairs = (double)n_seqs * ((double)q_len * (kv_len - q_len) + (double)q_len * (q_len + 1) / 2);
    double flops = 4 * pairs * s.heads * s.dim, bytes = (double)e.cache_bytes / e.n_layers;
    int turns = q_len > 1 ? rounds * 4 : rounds * e.n_layers > 1000 ? 1000 : rounds * e.n_layers < 60 ? 60 : rounds * e.n_layers;
    size_t window = e.cache_bytes / 256 * 256 < (size_t)16 << 20 ? e.cache_bytes / 256 * 256 : (size_t)16 << 20;
    for (int i = 0; i < turns; i++) {
        e.j.call.kv = &e.kv[i % e.n_layers];
        double t = job_time(&e.j), r = 0;
        best = t < best ? t : best;
        if (q_len > 1) for (int k = 0; k < 8; k++) limit = (r = fma_rate()) > limit ? r : limit;
        else if (i % 4 == 0) r = read_rate(e.cache + (size_t)(i / 4) * window % (e.cache_bytes - window + 1) / 256 * 256, window);
        limit = r > limit ? r : limit;
    }
    printf("%-7s %-7s %2d/%-2d x %-3d %3d seqs %5d queries %6d keys %9.3f ms", q_len > 1 ? "prefill" : "decode", dtype_name(type), s.heads, s.kv_heads, s.dim, n_seqs, q_len,
           kv_len, best * 1e3);
    if (q_len > 1) printf(" %7.1f Gop/s of %7.1f: %5.1f%%\n", flops / best / 1e9, limit / 1e9, 100 * flops / best / limit);
    else printf(" %7.1f GB/s of %6.1f: %5.1f%%\n", bytes / best / 1e9, limit / 1e9, 100 * bytes / best / limit);
    fflush(stdout);
    drop(&e);
}

int main(int argc, char **argv)
{
    static const dtype types[] = { DT_F32, DT_BF16, DT_F16, DT_F8E4M3, DT_F8E5M2, DT_I8 };
    static const int decode[][2] = { { 1, 1024 }, { 1, 8192 }, { 1, 32768 }, { 8, 1024 }, { 8, 8192 } }, prefill[] = { 2048, 8192 };
    host_cpus cpus;
    const char *name = NULL, *only = "";
    shape_of s = { 32, 8, 128 };
    int want = 0, queries = 128;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 < argc && strcmp(argv[i], "--isa") == 0) name = argv[i + 1];
        else if (i + 1 < argc && strcmp(argv[i], "--threads") == 0) want = (int)strtol(argv[i + 1], NULL, 10);
        else if (i + 1 < argc && strcmp(argv[i], "--rounds") == 0) rounds = (int)strtol(argv[i + 1], NULL, 10);
        else if (i + 1 < argc && strcmp(argv[i], "--queries") == 0) queries = (int)strtol(argv[i + 1], NULL, 10);
        else if (i + 1 < argc && strcmp(argv[i], "--only") == 0) only = argv[i + 1];
        else if (i + 1 < argc && strcmp(argv[i], "--heads") == 0 && sscanf(argv[i + 1], "%d/%dx%d", &s.heads, &s.kv_heads, &s.dim) == 3) continue;
        else {
            fprintf(stderr, "usage: bench_attention [--isa NAME] [--threads N] [--rounds N] [--heads Q/KVxDIM] [--queries N] [--only decode|prefill]\n");
            return 2;
        }
    }
    if (queries < 2 || rounds < 1) {
        fprintf(stderr, "bench_attention: --queries must be at least 2, --rounds at least 1\n");
        return 2;
    }
    if (s.heads < 1 || s.kv_heads < 1 || s.heads % s.kv_heads || s.dim < 1 || s.dim > 256) {
        fprintf(stderr, "bench_attention: --heads must be Q/KVxDIM with Q a multiple of KV and DIM at most 256\n");
        return 2;
    }
    check(isa_parse(name, &set));
    check(host_pick_cpus(getenv("VLLM_CPU_OMP_THREADS_BIND"), want, &cpus));
    n_threads = cpus.n;
    check(pool_new(n_threads, cpus.pinned ? cpus.cpu : NULL, &threads_pool));
    printf("%s, %d threads; best of the runs, limits measured between them\n", isa_name(set), n_threads);
    for (size_t i = 0; i < sizeof decode / sizeof *decode && strcmp(only, "prefill") != 0; i++)
        for (int t = 1; t < 6; t++) run(s, types[t], decode[i][0], 1, decode[i][1]);
    for (size_t i = 0; i < sizeof prefill / sizeof *prefill && strcmp(only, "decode") != 0; i++)
        for (int t = 0; t < 6; t++) run(s, types[t], 1, queries < prefill[i] ? queries : prefill[i], prefill[i]);
    pool_free(threads_pool);
    return 0;
}
