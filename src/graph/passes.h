/* Passes: each makes a new graph from a finished one and never changes what it computes, bit for bit on the CPU. */
#ifndef SYSTOLIC_GRAPH_PASSES_H
#define SYSTOLIC_GRAPH_PASSES_H

#include "graph/graph.h"

typedef status graph_pass(const graph *in, graph **out);

/* Linears that read the same tensor become one with a weight of several parts, and slices of its result: QKV, gate and up. */
graph_pass graph_fuse_linears;
/* add(x, linear(y, w)) becomes linear(y, w, residual x) where nothing else reads the linear. */
graph_pass graph_fuse_residuals;
/* Moves gather_rows up: what only the gathered rows need is computed for these only (the last layer's tail and the head). */
graph_pass graph_narrow_rows;
/* Drops what the output does not need. */
graph_pass graph_drop_dead;

/* All of them in order, each checked by graph_verify. */
status graph_optimize(const graph *in, graph **out) FALLIBLE;
/* The same for devices that emit equal layers as one loop: rows are narrowed only after the last layer, so that layers that
 * were equal stay equal. */
status graph_optimize_uniform(const graph *in, graph **out) FALLIBLE;

#endif
