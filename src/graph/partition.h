/* The partition pass: from a graph for one device to the graph that each device of a mesh runs, with local shapes and explicit
 * collectives (Shoeybi et al. 2019, arXiv:1909.08053; sequence parallelism: Korthikanti et al. 2022, arXiv:2205.05198).
 *
 *   COL weights   output rows are cut; heads, kv_heads and mlp become local. With more ranks than KV heads, heads are copied.
 *   ROW weights   input columns are cut; the product is summed over the ranks (all_reduce), bias and residual come after
 *   VOCAB         the embedding looks up its own rows and the ranks' results are summed; the head's logits are gathered
 *   experts       each expert's inner width is cut like a COL and a ROW weight; with ep experts lie on ranks, each with its own
 *                 (GShard: Lepikhin et al. 2020, arXiv:2006.16668), whole or, where ranks do not divide their number, cut over
 *                 neighbouring ranks. All ranks route all tokens; sums as for ROW
 *   ep            where ranks do not divide the attention's heads, groups of neighbouring ranks have the same ones: what they make is
 *                 divided by the size of a group before it is summed
 *   dp            no collective: each data rank has its own tokens and cache
 *   sp            the sum becomes reduce_scatter over tokens, norms and residuals hold T / tp tokens, all_gather comes before
 *                 the next COL weight
 * The graph must not be fused yet; fuse the result. */
#ifndef SYSTOLIC_GRAPH_PARTITION_H
#define SYSTOLIC_GRAPH_PARTITION_H

#include "graph/graph.h"

/* Mesh 1 x 1 copies; sp without tp is nothing. ST_INVALID names what does not divide, in vLLM's words where it has some: "Total
 * number of attention heads (32) must be divisible by tensor parallel size (5)." */
status graph_partition(const graph *in, mesh m, graph **out) FALLIBLE;

/* Which rows of the checkpoint tensor tensor rank `rank` of `tp` holds of a part: *n rows from *from on, weight_part_step apart, then
 * rows of zeros up to *n_local (the padding). */
void weight_part_local(const node *w, const weight_part *p, int rank, int tp, int64_t *from, int64_t *n, int64_t *n_local);
/* The same for the columns of a weight whose checkpoint tensors have `cols` columns. */
void weight_cols_local(const node *w, int64_t cols, int rank, int tp, int64_t *from, int64_t *n, int64_t *n_local);
/* The first of the weight_experts that it holds. */
int64_t weight_first_expert(const node *w, int rank, int tp);

#endif
