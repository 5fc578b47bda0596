/* The CPU as a device: own kernels, a thread pool, KV blocks in lazily touched memory. */
#include "device/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "device/cpu/pages.h"
#include "ops/linear/choose.h"

/* The ones asked for; else SYSTOLIC_ISA's; else the fastest. */
static status pick_kernels(const char *name, isa *out)
{
    char identity[512];
    linear_choice c;
    if (!name) name = getenv("SYSTOLIC_ISA");
    if (name && name[0]) return isa_parse(name, out);
    host_identity(identity, sizeof identity);
    TRY(linear_choose(identity, NULL, &c));
    *out = c.set;
    return ST_OK;
}

/* A folder that cannot be had is no reason not to serve. */
static status choose_folder(const char *wanted, char **out)
{
    char folder[4096];
    if (pack_cache_folder(wanted, folder, sizeof folder) != ST_OK) return ST_OK;
    *out = mem_strdup(folder);
    return *out ? ST_OK : err_nomem();
}

static status cpu_open(const char *arg, const device_options *o, device **out)
{
    static const device_options none;
    if (!o) o = &none;
    if (arg[0]) return err_set(ST_INVALID, "device 'cpu' takes nothing after the colon, got '%s'", arg);
    cpu_device *d = mem_calloc(1, sizeof *d);
    if (!d) return err_nomem();
    d->base.cls = &device_cpu;
    host_name(d->name, sizeof d->name);
    status st = pick_kernels(o->isa, &d->isa);
    if (st == ST_OK && o->weight_cache) st = choose_folder(o->weight_cache, &d->weight_cache);
    if (st == ST_OK) st = host_pick_cpus(getenv("VLLM_CPU_OMP_THREADS_BIND"), o->n_threads, &d->cpus);
    if (st == ST_OK) st = pool_new(d->cpus.n, d->cpus.pinned ? d->cpus.cpu : NULL, &d->pool);
    if (st != ST_OK) {
        mem_free(d->weight_cache);
        mem_free(d);
        return st;
    }
    *out = &d->base;
    return ST_OK;
}

static void cpu_close(device *dev)
{
    cpu_device *d = (cpu_device *)(void *)dev;
    pool_free(d->pool);
    mem_free(d->weight_cache);
    mem_free(d);
}

static void cpu_describe(const device *dev, device_info *out)
{
    const cpu_device *d = (const cpu_device *)(const void *)dev;
    *out = (device_info){ .platform = "cpu", .name = d->name, .isa = isa_name(d->isa), .n_threads = d->cpus.n };
    host_memory(&out->memory_bytes, &out->free_bytes);
}

static void cpu_unload(device_model *dm)
{
    cpu_model *m = (cpu_model *)(void *)dm;
    cpu_unpack(m);
    pages_free(m->arena, m->arena_bytes);
    pages_free(m->zeros, m->zeros_bytes);
    pages_free(m->state, m->state_bytes);
    pages_free(m->scratch, m->scratch_bytes * (size_t)m->limits.n_threads);
    pages_free(m->cache, m->cache_bytes);
    mem_free(m->places);
    mem_free(m->weights);
    mem_free(m->steps);
    mem_free(m->counters);
    mem_free(m->kv);
    mem_free(m);
}

static status cpu_load(device *dev, const graph *g, const weight_source *w, const device_limits *l,
                       void (*progress)(void *arg, int64_t done, int64_t total), void *arg, device_model **out)
{
    cpu_device *d = (cpu_device *)(void *)dev;
    cpu_model *m = mem_calloc(1, sizeof *m);
    if (!m) return err_nomem();
    m->base.cls = &device_cpu;
    m->dev = d;
    m->g = g;
    m->limits = (op_limits){ .max_tokens = l->max_tokens, .max_seqs = l->max_seqs, .max_rows = l->max_rows, .max_model_len = l->max_model_len,
                             .block_size = l->block_size, .n_threads = pool_threads(d->pool), .kv_dtype = l->kv_dtype, .act = graph_activation_type(g) };
    status st = cpu_plan(m);
    if (st == ST_OK) st = cpu_pack(m, w, progress, arg);
    if (st == ST_OK) *out = &m->base;
    else cpu_unload(&m->base);
    return st;
}

static int64_t cpu_weight_bytes(const device_model *m) { return ((const cpu_model *)(const void *)m)->weight_bytes; }
static int64_t cpu_kv_block_bytes(const device_model *m) { return (int64_t)((const cpu_model *)(const void *)m)->block_bytes; }

static void cpu_kv_layout(const device_model *m, kv_layout *out) { *out = ((const cpu_model *)(const void *)m)->groups; }

static status cpu_kv_resize(device_model *dm, int32_t n_blocks)
{
    cpu_model *m = (cpu_model *)(void *)dm;
    size_t bytes;
    void *cache = NULL;
    if (n_blocks < 0 || __builtin_mul_overflow((size_t)n_blocks, m->block_bytes, &bytes)) return err_set(ST_INVALID, "a KV cache of %d blocks", n_blocks);
    TRY(pages_alloc(bytes, "KV cache", &cache));
    pages_free(m->cache, m->cache_bytes);
    m->cache = cache;
    m->cache_bytes = bytes;
    m->n_blocks = n_blocks;
    for (int i = 0; i < m->n_caches; i++) m->kv[i].base = m->cache;
    return ST_OK;
}

static status check_block(const cpu_model *m, int32_t block)
{
    if (block >= 0 && block < m->n_blocks) return ST_OK;
    return err_set(ST_INVALID, "KV block %d, expected 0 to %d", block, m->n_blocks - 1);
}

static status cpu_kv_read(device_model *dm, int32_t block, void *dst)
{
    cpu_model *m = (cpu_model *)(void *)dm;
    TRY(check_block(m, block));
    memcpy(dst, m->cache + (size_t)block * m->block_bytes, m->block_bytes);
    return ST_OK;
}

static status cpu_kv_write(device_model *dm, int32_t block, const void *src)
{
    cpu_model *m = (cpu_model *)(void *)dm;
    TRY(check_block(m, block));
    memcpy(m->cache + (size_t)block * m->block_bytes, src, m->block_bytes);
    return ST_OK;
}

static int cpu_n_threads(const device_model *dm) { return ((const cpu_model *)(const void *)dm)->limits.n_threads; }
static void cpu_parallel(device_model *dm, void (*fn)(void *arg, int thread), void *arg) { pool_run(((cpu_model *)(void *)dm)->dev->pool, fn, arg); }

const device_class device_cpu = { .name = "cpu", .open = cpu_open, .close = cpu_close, .describe = cpu_describe, .load = cpu_load, .unload = cpu_unload,
                                  .weight_bytes = cpu_weight_bytes, .kv_block_bytes = cpu_kv_block_bytes, .kv_layout = cpu_kv_layout, .kv_resize = cpu_kv_resize,
                                  .kv_read = cpu_kv_read, .kv_write = cpu_kv_write, .run = cpu_run, .n_threads = cpu_n_threads, .parallel = cpu_parallel };
