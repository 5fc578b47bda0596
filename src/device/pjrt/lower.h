/* From a graph to StableHLO: one program per bucket of (tokens, sequences).
 *
 *   graph ──lower_plan──▶ which layers are one loop, which weights are stacked for it, which caches share an array
 *         ──lower_step──▶ the program's text for a bucket
 *         ──step_meta───▶ a step's batch as the one integer array that the program reads
 *
 * Layers that are equal but for their weights become one stablehlo.while over stacked weights; so do repeating periods of
 * layers (sliding, full, sliding, ...). All KV of equal shape is one flat array [places * pages, page, rows, lanes], carried
 * through the loops and donated, so that it is updated in place. Place p of a page holds the layers that are the p-th of their
 * group (graph/kv_groups.h): as many as the largest group has, which is all of them where a model has one kind of layer.
 *
 * Arguments of a program, in order: meta i32 [step_meta_len], ring i32 [n_slots * BATCH_RING] (sampled tokens, only read), with
 * more than one tensor rank the device's own (i32 scalar), the caches, float inputs f32 (IN_ACTIVATION nodes, by id: the rows of encoders, [T, width], and
 * their mask, [T, 1]), the weights. Encoders' programs are the same with the positions alone as meta; rows of padding hold LOWER_PADDING.
 * Results: the caches, then the output (logits f32 [R, vocab]).
 *
 * Threads: a plan is read-only once it is made. */
#ifndef SYSTOLIC_DEVICE_PJRT_LOWER_H
#define SYSTOLIC_DEVICE_PJRT_LOWER_H

#include "base/arena.h"
#include "graph/batch.h"
#include "graph/graph.h"
#include "graph/kv_groups.h"
#include "ops/hlo_weight.h"

/* An argument that holds a piece of a weight (ops/hlo_weight.h): of one node, or of n layers stacked into one more dimension in front. The
 * pieces of a weight follow each other, values first. */
typedef struct lower_weight { int n; const int *nodes; bool stacked; shape s; /* of one layer, local */ weight_piece piece; } lower_weight;
/* A flat cache: [n_places * pages, page, kv.rows, kv.lanes]. One of DT_I8 has another one with its numbers' scales
 * (hlo_kv_scales): `kv` is then that of the numbers, but for the type. */
typedef struct lower_cache { hlo_kv kv; int n_places, scales; /* where that is in lower_plan.caches; -1 = there is none */ bool of_scales; } lower_cache;
/* Its dimensions with so many pages of `page` tokens; bytes of one page in one place. */
void lower_cache_dims(const lower_cache *x, int64_t n_pages, int64_t page, int64_t out[4]);
int64_t lower_cache_page_bytes(const lower_cache *x, int64_t page);

/* A run of layers: `count` repetitions of a group of nodes that differ only in their weights. count 1: emitted as they are.
 * What one repetition hands to the next (the residual stream) is carried: position carry_at[c] in the group's nodes. */
enum { LOWER_CARRIES = 4 };
typedef struct lower_segment {
    int count, n_nodes;             /* nodes of one repetition, leaves left out */
    const int *nodes;               /* [count][n_nodes] ids */
    int n_carries, carry_in[LOWER_CARRIES], carry_at[LOWER_CARRIES];   /* carry_in: the node that the first repetition reads */
} lower_segment;

typedef struct lower_plan {
    const graph *g;                 /* borrowed */
    arena mem;
    int head_multiple;              /* of the caches: hlo_kv_padded */
    lower_weight *weights; int n_weights;
    lower_cache *caches; int n_caches;
    struct lower_place { int array, index, group; } *cache_at;  /* [graph_n_caches] which array, which place of it, whose pages */
    kv_layout groups;
    lower_segment *segments; int n_segments;                /* in order; every node but the leaves is in one */
    int *inputs; int n_inputs;      /* IN_ACTIVATION nodes */
    int *arg_of;                    /* [n_nodes + 1] of a weight node: index of its values in weights, else -1 */
} lower_plan;

/* head_multiple: attention_choice's; 0 without a TPU. */
status lower_plan_new(const graph *g, dtype kv_dtype, int head_multiple, lower_plan **out) FALLIBLE;
void lower_plan_free(lower_plan *p);

typedef struct lower_bucket {
    int tokens, seqs, rows;
    bool decode;                    /* every sequence has one token: tokens == seqs */
    bool encoder;                   /* rows of one item in, as many out: no tokens, sequences or cache (device_limits.least_rows) */
} lower_bucket;
typedef struct lower_options {
    dtype act;                      /* DT_F32, DT_BF16, DT_F16 */
    int page;                       /* tokens per KV page */
    int max_pages;                  /* per sequence */
    const kv_layout *groups;        /* lower_plan.groups; NULL = one that keeps everything */
    bool three, see;                /* steps have batch.positions3, batch.see: models for media */
    int32_t n_pages;                /* page 0 (padding's) included */
    int n_slots;                    /* of the ring */
    attention_choice attention;     /* hlo_step.attention; the plan's head_multiple counts */
    int64_t kv_block;               /* hlo_step.kv_block */
} lower_options;

/* What rows of padding hold in an encoder's float inputs of one column: a segment behind all others, which sees nothing. */
#define LOWER_PADDING 3.402823466e38f

/* Arguments before the caches. */
int lower_n_leading(const graph *g);
/* Can programs be made for caches of n_pages? */
status lower_check(const lower_plan *p, int64_t n_pages) FALLIBLE;
/* Appends the program's text. */
status lower_step(const lower_plan *p, const lower_bucket *b, const lower_options *o, buf *out) FALLIBLE;

/* How many integers a step's meta has. */
int64_t step_meta_len(const lower_bucket *b, const lower_options *o);
/* Writes a batch that fits the bucket as meta. */
void step_meta_fill(const lower_bucket *b, const lower_options *o, const batch *x, int32_t *meta);
/* Does a batch fit? */
bool bucket_fits(const lower_bucket *b, const batch *x);
/* Queries per tile and most tiles of a bucket that is not decode. */
int64_t bucket_q_tile(const lower_bucket *b);
int64_t bucket_n_tiles(const lower_bucket *b);

#endif
