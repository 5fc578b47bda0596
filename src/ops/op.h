/* The contract of an operation. An op's folder holds one `op_impl`, listed by ops.def:
 *   infer   shape rule (graph/graph.h)
 *   ref     naive and obviously right, on dense float32 arrays: judges every other way to compute it. Of a partitioned graph it
 *           runs one rank on behalf of all, who are taken to hold the same data; where ranks differ (embed) it is rank 0
 *   cpu     kernels, one per instruction set; collectives have none
 *   cost    what it takes, for the simulator and the bench
 *   cases   small graphs to test it with
 *   hlo     its StableHLO text, in <op>_hlo.c */
#ifndef SYSTOLIC_OPS_OP_H
#define SYSTOLIC_OPS_OP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "graph/batch.h"
#include "graph/graph.h"
#include "ops/hlo.h"
#include "ops/isa.h"
#include "ops/kv.h"
#include "ops/linear/gemm.h"

/* ---- ref ---- */

/* A dense tensor: f for floats (row-major), i for token ids and the like. */
typedef struct ref_tensor { int rank; int64_t dim[GRAPH_MAX_RANK]; float *f; const int32_t *i; } ref_tensor;
int64_t ref_count(const ref_tensor *t);
/* The cache of one attention node as float32: [n_slots][kv_heads][head_dim] each, values already rounded to `type`. */
typedef struct ref_cache { dtype type; float *k, *v; } ref_cache;
typedef struct ref_call {
    const node *n;
    int tp;                 /* tensor ranks of the mesh */
    ref_tensor in[GRAPH_MAX_INPUTS], out;
    const batch *b;
    ref_cache *caches;
    int group;              /* of the node's cache (graph/kv_groups.h) */
    int block_size;
} ref_call;
typedef void op_ref_fn(const ref_call *c);

/* ---- cpu ---- */

/* The rows of a tensor: row r starts at f + r * ld (ld counts floats). Matrices of weights are packed: w, or for one per expert
 * `experts` (elements by w->type, as in qgemm.h), whose parts start at whole panels each; the rest is f or i. */
typedef struct cpu_tensor {
    float *f;
    const int32_t *i;
    const gemm_weight *w;
    const struct qgemm_weight *experts;
    int64_t rows, cols, ld;
    dtype type;           /* what the graph says, which may be wider than what a weight is kept in */
} cpu_tensor;

/* What a loaded model is planned for. */
typedef struct op_limits { int max_tokens, max_seqs, max_rows, max_model_len, block_size, n_threads; dtype kv_dtype, act; /* graph_activation_type */ } op_limits;

typedef struct cpu_call {
    const node *n;
    isa isa;
    cpu_tensor in[GRAPH_MAX_INPUTS], out;
    const batch *b;
    const kv_layer *kv;           /* attention only */
    const op_limits *limits;
    void *state;                  /* op_needs.state_bytes, shared by the threads, garbage at phase 0 */
    size_t state_bytes;
    _Atomic int64_t *counters;    /* [OP_MAX_PHASES] zero at the start of the step, then bytes of weights that were read (experts only) */
} cpu_call;

typedef struct cpu_thread { int id; void *scratch; } cpu_thread;   /* scratch: op_needs.scratch_bytes, 64-byte aligned */

enum { OP_MAX_PHASES = 4 };
enum { OP_COUNT_BYTES = OP_MAX_PHASES, OP_COUNTERS };
/* Runs this thread's share of a phase. All threads call it; a barrier lies between phases. Results do not depend on who
 * takes which share. */
typedef void op_cpu_fn(const cpu_call *c, const cpu_thread *t, int phase);

/* Takes the next `grain` of n pieces of work; false when none is left. */
static inline bool cpu_take(const cpu_call *c, int phase, int64_t n, int64_t grain, int64_t *from, int64_t *to)
{
    if (atomic_load_explicit(&c->counters[phase], memory_order_relaxed) >= n) return false;
    int64_t at = atomic_fetch_add_explicit(&c->counters[phase], grain, memory_order_relaxed);
    if (at >= n) return false;
    *from = at;
    *to = at + grain < n ? at + grain : n;
    return true;
}

/* ---- needs, cost ---- */

typedef struct op_needs { size_t scratch_bytes, state_bytes; } op_needs;   /* per thread; shared */

/* kv_read: (query, key) pairs, summed over sequences; tp: ranks that share the tokens of DIM_TS, 0 = 1. */
typedef struct op_sizes { double tokens, seqs, rows, kv_read, tp; } op_sizes;
/* Of one device. link_bytes: what it sends to its neighbours when collectives run around a ring. */
typedef struct op_cost { double flops, weight_bytes, activation_bytes, kv_bytes, link_bytes; } op_cost;
/* A dimension's value. */
double op_dim(const op_sizes *s, int64_t dim);

typedef struct op_impl {
    graph_infer_fn *infer;
    op_ref_fn *ref;
    op_cpu_fn *cpu[ISA_COUNT];
    op_hlo_fn *hlo;                                      /* values have the node's shape, dimensions by hlo_dim, floats of type step->act */
    int n_phases;
    bool (*skip_phase)(const cpu_call *c, int phase);   /* known to all threads after phase 0; NULL = none is skipped */
    void (*needs)(const graph *g, const node *n, const op_limits *l, op_needs *out);     /* NULL = nothing */
    void (*cost)(const graph *g, const node *n, const op_sizes *s, op_cost *out);        /* adds to out; NULL = free */
    /* Case i as a graph with weights of this type; null when there is no such case. */
    tensor (*build_case)(graph *g, int i, dtype weight_type);
} op_impl;

const op_impl *op_impl_of(op o);
/* Shape rules of all ops, for graph_new. */
const graph_rules *ops_rules(void);

/* Every variant of an op that is plain C for all machines. */
#define OP_CPU_ALL(fn) { OP_CPU_SAME(fn) }
#if defined(__x86_64__)
#define OP_CPU_SAME(fn) [ISA_portable] = fn, [ISA_avx2] = fn, [ISA_avx512] = fn, [ISA_avx512_bf16] = fn, [ISA_avx512_amx] = fn, [ISA_avx512_amx_emulated] = fn
#else
#define OP_CPU_SAME(fn) [ISA_portable] = fn
#endif
/* One function or object per instruction set: prefix_portable, prefix_avx2, ... */
#if defined(__x86_64__)
#define OP_CPU_EACH(prefix) \
    { [ISA_portable] = prefix##_portable, [ISA_avx2] = prefix##_avx2, [ISA_avx512] = prefix##_avx512, [ISA_avx512_bf16] = prefix##_avx512, \
      [ISA_avx512_amx] = prefix##_avx512, [ISA_avx512_amx_emulated] = prefix##_avx512 }
#else
#define OP_CPU_EACH(prefix) { [ISA_portable] = prefix##_portable }
#endif

/* ---- helpers for shape rules and cases ---- */

status op_need_rank(const node *n, const char *what, const shape *s, int rank) FALLIBLE;
status op_need_type(const char *what, const shape *s, dtype t) FALLIBLE;
/* A collective needs someone to talk to. */
status op_need_ranks(const graph *g) FALLIBLE;
static inline const shape *op_in(const graph *g, const node *n, int i) { return &graph_node(g, n->in[i])->s; }
static inline bool op_has_in(const node *n, int i) { return i < n->n_in && n->in[i].id != 0; }
/* Floats per row: the product of all dimensions but the first. */
int64_t shape_cols(const shape *s);
tensor case_input(graph *g, int64_t rows, int64_t cols, axis ax);
tensor case_ints(graph *g, input_kind kind);
tensor case_weight(graph *g, const char *name, dtype t, int64_t rows, int64_t cols); /* cols 0: a vector */

/* Runs a graph by the reference, node after node. weight(arg, node, dst) fills a weight's values as dense float32;
 * out gets the output's values. Activations are shared inputs: IN_ACTIVATION nodes are filled by `weight` too. */
status ref_run(const graph *g, void (*weight)(void *arg, const node *n, float *dst), void *arg, const batch *b, ref_cache *caches,
               int block_size, float *out) FALLIBLE;

#endif
