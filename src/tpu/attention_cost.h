/* What attention takes on a chip, for given blocks: the model by which blocks are chosen. All its constants stand in
 * attention_cost.c. It counts
 *
 *   bytes       whole pages of K and V that the queries see, queries, results, new K and V
 *   copies      one for each page: the scalar unit starts them, and bytes under way cover the memory's latency or do not
 *   products    passes through the matrix units: a tile of K or V is pushed, rows of queries stream past it
 *   vectors     the softmax of every score, widening of narrow K and V
 *   overheads   of each block of KV and each block of queries
 *
 * Memory and arithmetic run beside each other, the slower one counts. */
#ifndef SYSTOLIC_TPU_ATTENTION_COST_H
#define SYSTOLIC_TPU_ATTENTION_COST_H

#include "tpu/attention_config.h"

typedef struct attention_cost {
    double bytes;                       /* of HBM */
    double memory_s, issue_s, mxu_s, vector_s, overhead_s, seconds;
    double kv_blocks, query_blocks;     /* passes of the kernel's loops */
} attention_cost;

/* Of one layer in one step. The shape is whole (context not 0). */
void attention_cost_of(const attention_config *c, const attention_shape *s, attention_cost *out);
/* VMEM of a kernel with these blocks. */
int64_t attention_vmem_of(const attention_config *c, const attention_shape *s);
/* What kernels may have of it: the rest holds the program's other values. */
int64_t attention_vmem_most(const chip *c);

#endif
