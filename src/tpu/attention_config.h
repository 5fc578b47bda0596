/* How attention runs on a chip: block sizes, KV pages per block, buffers in flight, VMEM, size of KV pages, lanes that a head
 * takes in the cache. A pure function of the chip, the shapes and the policy.
 *
 *   table   what vLLM's adaptive TPU back end (TPU_V6E_ADAPTIVE_PALLAS_VLLM_V1) takes for v6e, v5e and v4, and rows that follow
 *           from these for the others
 *   auto    the least time by the cost model in attention_cost.h; by that model never worse than table
 *
 * docs/attention.md says what each means and shows both side by side. */
#ifndef SYSTOLIC_TPU_ATTENTION_CONFIG_H
#define SYSTOLIC_TPU_ATTENTION_CONFIG_H

#include <stdbool.h>

#include "base/buf.h"
#include "base/err.h"
#include "tpu/chip.h"

typedef enum attention_policy { ATTENTION_TABLE, ATTENTION_AUTO } attention_policy;
const char *attention_policy_name(attention_policy p);                          /* "table", "auto" */
status attention_policy_parse(const char *s, attention_policy *out) FALLIBLE;

/* Kernels of the matrix unit (Mosaic) or StableHLO; auto: Mosaic where the chip and the shape are supported. */
typedef enum attention_backend { ATTENTION_BACKEND_AUTO, ATTENTION_BACKEND_MOSAIC, ATTENTION_BACKEND_STABLEHLO } attention_backend;
const char *attention_backend_name(attention_backend b);                        /* "auto", "mosaic", "stablehlo" */

/* What programs are made for, beside shapes. All zeros: no TPU. */
typedef struct attention_choice {
    const chip *chip;               /* NULL: none */
    attention_policy policy;
    attention_backend backend;
    int head_multiple;              /* head sizes in the KV cache are rounded up to it: 0 or 64 (K and V of narrow heads share 128 lanes), 128, 256 */
} attention_choice;
/* The policy's head_multiple for this chip. */
int attention_head_multiple(const chip *c, attention_policy p);

/* One layer's attention as one device runs it. */
typedef struct attention_shape {
    int q_heads, kv_heads;          /* of this device */
    int head_size;
    int max_model_len;
    int context;                    /* tokens of each sequence in the cache when it is priced; 0: half of max_model_len, 2048 at most */
    int seqs;
    int tokens;                     /* of the step: equal to seqs in a decode step, more in a mixed one */
    int page_size;                  /* KV tokens per page; 0: the policy chooses */
    int window;                     /* 0: none */
    bool latent;                    /* one vector is key and value (MLA): padded to 128 lanes by either policy */
    dtype act, kv;
} attention_shape;

typedef struct attention_config {
    attention_policy policy;
    const chip *chip;
    int head_size, padded_head_size;    /* padded: what one head's K (or V) takes in the cache and in products */
    int block_q, block_kv;              /* query and KV tokens of a block */
    int pages_per_kv_block;             /* pages that one buffer holds; what a kernel copies before it waits: attention_kv_block_tokens */
    int queries_per_block;              /* query tokens that a kernel keeps at once; times q_heads / kv_heads: rows of its products */
    int pipeline_stages;                /* KV buffers in flight */
    int page_size;
    int64_t vmem_limit_bytes;           /* the policy's. For the compiler: compiler_vmem_bytes */
    int64_t compiler_vmem_bytes;        /* scoped VMEM to ask the compiler for: no less than vmem_needed_bytes */
    int64_t vmem_needed_bytes;          /* of a kernel with these blocks: buffers, queries, sums, scores */
    int64_t kv_bytes_per_token;         /* of one layer on this device: K and V of all its heads, padded, and of int8 their scales */
    double bytes, seconds;              /* predicted, of one layer in one step */
    int head_multiple;                  /* what padded_head_size was rounded to: 64 (K and V share 128 lanes), 128, 256 */
    const char *warning;                /* NULL, or what is odd about it: a static sentence */
} attention_config;

/* ST_INVALID for shapes that make no sense, ST_UNSUPPORTED for what no choice of blocks can run on this chip. */
status attention_configure(const chip *c, attention_policy p, const attention_shape *s, attention_config *out) FALLIBLE;

/* The best choice for each page size, best first, then the table's if it is another: what `auto` chose among. Returns how many. */
enum { ATTENTION_ALTERNATIVES = 8 };
int attention_alternatives(const chip *c, const attention_shape *s, attention_config out[ATTENTION_ALTERNATIVES]);

/* KV tokens of one buffer. (The table's block_kv is another number on v6e: 1024 beside 4 pages.) */
static inline int attention_kv_block_tokens(const attention_config *c) { return c->pages_per_kv_block * c->page_size; }

/* ---- the KV cache ---- */
/* (blocks, page size, 2 x KV heads, padded head size). */
void attention_kv_shape(const attention_config *c, int kv_heads, int64_t blocks, int64_t out[4]);

/* ---- what is refused ---- */
typedef struct attention_features {
    bool alibi, encoder /* attention of an encoder, or to one */, output_quantisation;
    bool kv_quantised;
    float k_scale, v_scale;         /* of a quantised cache */
} attention_features;
/* ST_UNSUPPORTED with the reason; ST_INVALID for scales that are zero or not finite. */
status attention_check(const attention_features *f) FALLIBLE;

/* ---- the report ---- */
/* Names of what the configuration brings, as vLLM's back end lists them, ", " between; one a line in `out`'s array. */
enum { ATTENTION_OPTIMISATIONS = 5 };
int attention_optimisations(const attention_config *c, const char *out[ATTENTION_OPTIMISATIONS]);
typedef struct attention_calls { int64_t n; double seconds; } attention_calls;    /* measured on the device, not when enqueueing */
/* One JSON object: backend, architecture, tpu_version, calls, mxu_size, head_size_optimization, memory_pipeline_stages,
 * is_v6_optimized, average_call_time_ms (null before the first call), optimizations_applied. */
void attention_report(const attention_config *c, const attention_calls *calls, buf *out);
/* One line for logs: "auto on v6e: head size 128 (padded 128), ...". */
void attention_describe(const attention_config *c, buf *out);

#endif
