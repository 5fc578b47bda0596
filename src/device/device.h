/* The device seam: what the engine knows of the machine that runs a model. One implementation per folder
 * (cpu/, pjrt/, sim/); nothing above this header knows which one it is. */
#ifndef SYSTOLIC_DEVICE_DEVICE_H
#define SYSTOLIC_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "graph/batch.h"
#include "graph/dtype.h"
#include "graph/graph.h"
#include "graph/kv_groups.h"
#include "graph/weights.h"
#include "tpu/attention_config.h"

typedef struct device device;             /* an opened device */
typedef struct device_model device_model; /* a graph with its weights and KV cache on a device */

typedef struct device_options {
    int n_threads;          /* cpu: compute threads; 0 = one per available core (VLLM_CPU_OMP_THREADS_BIND narrows them) */
    const char *isa;        /* cpu: force "portable", "avx2", "avx512", ... (testing); NULL = the best the CPU has */
    const char *weight_cache;   /* cpu: folder of packed weights (device/cpu/pack_cache.h); "" = the usual one, NULL or "off" = none */
    bool lazy_compile;      /* pjrt, and sim that refines: programs are compiled when a step first needs them, not before the server is ready */
    const char *sim_refine; /* sim: "libtpu" or "libtpu-static" has programs compiled and their figures used (sim/refine.h); NULL or "none" = not */
    const char *program_cache;  /* pjrt, and sim that refines: directory of compiled programs; NULL = as device/pjrt/cache.h says */
} device_options;

typedef struct device_info {
    const char *platform;   /* "cpu" */
    const char *name;       /* "AMD EPYC ..." */
    const char *isa;        /* "avx512_bf16" */
    int n_threads;
    int64_t memory_bytes;   /* total of the device (cgroup limit respected) */
    int64_t free_bytes;
    bool own_time;          /* steps take the time of another machine (sim): device_now */
    const chip *chip;       /* of a TPU, also a simulated one; else NULL */
    bool loops;             /* equal layers are emitted as a loop: wants graphs whose layers are equal (graph_optimize_uniform) */
} device_info;

/* Limits a loaded model is planned for: buffers are allocated once, for these. */
typedef struct device_limits {
    int max_tokens;         /* tokens per step (max_num_batched_tokens) */
    int max_seqs;           /* sequences per step */
    int max_rows;           /* rows of logits per step (sampled rows, or all prompt rows for prompt_logprobs in chunks) */
    int max_model_len;
    int block_size;         /* tokens per KV block */
    dtype kv_dtype;         /* DT_F32, DT_BF16, DT_F16, DT_F8E4M3, DT_F8E5M2; on the CPU also DT_I8 (ops/kv.h) */
    attention_choice attention; /* TPUs: blocks, kernels and KV padding by chip and policy; zeros elsewhere */
    int least_rows;         /* 0: a language model. Else an encoder's graph: rows of one item in, as many out (batch.logits), without a cache and without
                             * tokens. A device that compiles programs has one for so many rows, and for twice as many each up to max_tokens */
    bool see;               /* batches may have `see`: tokens that see later ones */
} device_limits;

/* spec: "cpu", "tpu", "cuda", "pjrt:PATH[?NAME=VALUE,...]", "sim[:TARGET][?NAME=VALUE,...]" (device/sim/sim.h). An unknown one is ST_INVALID and lists what exists. */
status device_open(const char *spec, const device_options *o, device **out) FALLIBLE;
/* Whether this device takes a model without its weights: simulators count them and read none. */
bool device_needs_weights(const char *spec);
void device_close(device *d);
void device_describe(const device *d, device_info *out);

/* Plans, packs the weights (in parallel, with progress through `progress` if not NULL: done and total bytes), allocates
 * step buffers. The graph must have been finished and verified; it is borrowed until device_unload. */
/* `w` may be NULL where device_needs_weights says so. */
status device_load(device *d, const graph *g, const weight_source *w, const device_limits *l,
                   void (*progress)(void *arg, int64_t done, int64_t total), void *arg, device_model **out) FALLIBLE;
void device_unload(device_model *m);
const device *device_of(const device_model *m);         /* where it is loaded */
int64_t device_weight_bytes(const device_model *m);     /* as packed */
int64_t device_kv_block_bytes(const device_model *m);   /* one block: of one group's layers, as large as the largest needs */
/* Which layers share blocks: batches have pages for each of these groups. */
void device_kv_layout(const device_model *m, kv_layout *out);
/* How many bytes a KV cache may have on a device whose memory is managed to `utilization` (0 to 1) of it: what weights and steps
 * leave. 0 = no such limit: the host's memory decides. */
int64_t device_kv_bytes(const device_model *m, double utilization);
/* About what steps need beside weights and KV on a device that has its own memory; 0 where that is the host's. */
int64_t device_step_bytes(const device_model *m);
/* Reserves address space for n_blocks; memory is touched as blocks are used. */
status device_kv_resize(device_model *m, int32_t n_blocks) FALLIBLE;
/* Copies one block out or in: offloading, transfer. `bytes` = device_kv_block_bytes. */
status device_kv_read(device_model *m, int32_t block, void *dst) FALLIBLE;
status device_kv_write(device_model *m, int32_t block, const void *src) FALLIBLE;

/* Runs one step; returns when b->logits is complete. One caller at a time. No allocation in a steady state.
 * A row's logits do not depend, bit for bit, on the other sequences, on how the sequence was chunked, or on the number of threads. */
status device_run(device_model *m, const batch *b) FALLIBLE;
/* The CPU's compute threads have nothing to do between steps and can help the host: fn(arg, 0..n-1) on all of them, 0 being the
 * caller's, who is the caller of device_run. Other devices have one thread, the caller. */
int device_n_threads(const device_model *m);
void device_parallel(device_model *m, void (*fn)(void *arg, int thread), void *arg);

/* Devices far from the host sample by themselves and take steps before earlier ones are done. device_depth: how many may be
 * in flight; 0 = this device only runs. One caller at a time. Steps run in order. */
int device_depth(const device_model *m);
/* The number of slots of the ring of sampled tokens (batch.h): sample_row.slot is below it. */
int device_n_slots(const device_model *m);
/* Starts a step and returns. The batch and everything it points to stay unchanged until device_wait returns for it. A failure
 * here leaves earlier steps as they are. */
status device_submit(device_model *m, const batch *b) FALLIBLE;
/* Waits for the oldest step not waited for; its batch's `sampled`, and `logits` if it is not NULL, are complete then. */
status device_wait(device_model *m) FALLIBLE;

/* Devices with a time of their own (device_info.own_time); seconds from an arbitrary point, above 0. Any thread. Others: clock_now. */
double device_now(const device_model *m);
double device_step_end(const device_model *m);      /* when the oldest step in flight ends, which is where device_wait moves the time; below 0 = none */
void device_advance(device_model *m, double t);     /* nothing happens until t */

#endif
