/* The CPU device's own structures. A loaded model is a plan: a list of steps over one region of memory, run by all threads
 * together. Built once by cpu_plan.c and cpu_pack.c; a step of the engine then allocates nothing. */
#ifndef SYSTOLIC_DEVICE_CPU_CPU_H
#define SYSTOLIC_DEVICE_CPU_CPU_H

#include "device/cpu/host.h"
#include "device/cpu/pack_cache.h"
#include "device/cpu/pool.h"
#include "device/device_impl.h"
#include "ops/linear/qgemm.h"
#include "ops/op.h"

typedef struct cpu_device {
    struct device base;
    isa isa;
    pool *pool;
    host_cpus cpus;
    char name[128];
    char *weight_cache;      /* folder of packed weights, NULL = none */
} cpu_device;

/* A weight as kernels want it: packed panels for matrices, float32 for vectors. Of experts each is packed by itself. */
typedef struct cpu_weight {
    union {                  /* matrices: by packed.type; of experts the first */
        gemm_weight packed;
        qgemm_weight quantised;
    };
    qgemm_weight *experts;   /* [weight_experts], owned; NULL if it has none */
    float *vector;           /* vectors, one after the other */
    void *mem;
    size_t bytes;
    enum { WEIGHT_ALLOCATED, WEIGHT_PAGES, WEIGHT_FILE } held;   /* mem is mem_aligned's, pages_alloc's, the weight cache's */
} cpu_weight;

/* Where a tensor's rows are. */
typedef enum place_kind { PLACE_NONE, PLACE_INPUT, PLACE_WEIGHT, PLACE_BUFFER, PLACE_LOGITS } place_kind;
typedef struct place {
    place_kind kind;
    int root;                /* the node that owns the memory: views belong to another one */
    int64_t col;             /* first column within the root's rows */
    size_t offset;           /* PLACE_BUFFER, of a root: bytes into the arena; PLACE_INPUT: which of batch.activations */
    size_t bytes;
    int64_t ld;              /* floats from row to row */
    int first, last;         /* of a root: steps between which it lives */
} place;

typedef struct step {
    const op_impl *impl;
    cpu_call call;
    bool barrier;            /* all threads must be through with what came before */
} step;

typedef struct cpu_model {
    struct device_model base;
    cpu_device *dev;
    const graph *g;
    op_limits limits;
    place *places;           /* [n_nodes + 1] */
    cpu_weight *weights;     /* [n_nodes + 1], by node id */
    int64_t weight_bytes;
    pack_cache *packed;      /* the file that weights are mapped from, or that is being written; NULL = none */
    step *steps;
    int n_steps;
    _Atomic int64_t *counters;   /* [n_steps][COUNTERS] */
    char *arena; size_t arena_bytes;         /* activations */
    void *state; size_t state_bytes;         /* of operations, shared */
    char *scratch; size_t scratch_bytes;     /* per thread */
    float *zeros; size_t zeros_bytes;        /* what IN_ACTIVATION inputs are in steps that bring none; never written */
    kv_layer *kv;            /* [n_caches] */
    kv_layout groups;
    int n_caches;
    size_t block_bytes;
    char *cache; size_t cache_bytes;
    int32_t n_blocks;
    int64_t vocab;           /* rows of the embedding: what token ids must stay below; 0 = no embedding */
    const batch *b;          /* of the running step */
} cpu_model;

enum { COUNTERS = 8 };       /* per step: OP_COUNTERS used, a cache line apart from the next step's */

/* Buffers, steps, cache layout. The model's g, dev and limits are set. */
status cpu_plan(cpu_model *m) FALLIBLE;
/* Packs all weights. */
status cpu_pack(cpu_model *m, const weight_source *w, void (*progress)(void *arg, int64_t done, int64_t total), void *arg) FALLIBLE;
void cpu_unpack(cpu_model *m);
status cpu_run(device_model *dm, const batch *b) FALLIBLE;

#endif
