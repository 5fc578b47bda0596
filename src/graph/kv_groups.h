/* Which layers of a graph share KV blocks.
 *
 * There is one pool of equal blocks. Layers whose queries see the same (all that came before, a window, a chunk) are of one kind;
 * a kind's layers are dealt out to groups of nearly equal size, and a block holds the K and V of one group's layers for so many
 * tokens. A sequence has one page table per group, so that groups with windows give back the blocks that no later query can see,
 * and what they give back serves any group. Groups are as large as the least kind, so that blocks are nearly full: Gemma 3 with 10
 * full and 52 sliding layers has 1 + 6 groups of at most 10. This is vLLM's hybrid manager (vllm/v1/core/kv_cache_utils.py,
 * get_kv_cache_groups), down to the numbers. A model of one kind has one group, and a block then holds all of its layers.
 *
 * Everything is derived from the graph, by whoever needs it; nothing is stored in it. */
#ifndef SYSTOLIC_GRAPH_KV_GROUPS_H
#define SYSTOLIC_GRAPH_KV_GROUPS_H

#include "graph/graph.h"

enum { KV_MAX_GROUPS = 32 };

/* What one layer keeps per token: heads x dim for K, and the same for V; latent: one vector of dim, of which V is a part (MLA).
 * window, chunk: as paged_attention has them; 0 = none. */
typedef struct kv_spec { int cache; int64_t heads, dim; bool latent; int64_t window, chunk; } kv_spec;
/* Of a node; false if it has no cache. */
bool kv_spec_of(const graph *g, const node *n, kv_spec *out);

typedef struct kv_group { int64_t window, chunk; int n_layers; } kv_group;
/* n_places: layers of the largest group. */
typedef struct kv_layout { int n_groups, n_places; kv_group group[KV_MAX_GROUPS]; } kv_layout;
/* Where a cache is: in which group, and as which of its layers. */
typedef struct kv_place { int group, place; } kv_place;

/* at: [graph_n_caches(g)], or NULL. A graph without caches has one group of no layers. */
void kv_layout_of(const graph *g, kv_layout *out, kv_place *at);

/* One group that keeps everything: what a device without layers of its own (a test's) has. */
static inline kv_layout kv_layout_full(void) { return (kv_layout){ .n_groups = 1, .n_places = 1, .group = { { .n_layers = 1 } } }; }

/* The first position that a query at `pos` sees, and so the first that any later one may. */
static inline int64_t kv_first_seen(const kv_group *g, int64_t pos)
{
    int64_t of_window = g->window && pos + 1 > g->window ? pos + 1 - g->window : 0, of_chunk = g->chunk ? pos / g->chunk * g->chunk : 0;
    return of_window > of_chunk ? of_window : of_chunk;
}
static inline bool kv_forgets(const kv_group *g) { return g->window || g->chunk; }
/* Most blocks that a sequence of n_tokens holds in this group when steps have at most step_tokens. */
int64_t kv_group_blocks(const kv_group *g, int64_t n_tokens, int64_t step_tokens, int block_size);
/* The same in all groups. */
int64_t kv_layout_blocks(const kv_layout *l, int64_t n_tokens, int64_t step_tokens, int block_size);

#endif
