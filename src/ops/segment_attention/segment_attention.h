/* Kernel of segment_attention, compiled per instruction set. All sets compute the same bits. */
#ifndef SYSTOLIC_OPS_SEGMENT_ATTENTION_H
#define SYSTOLIC_OPS_SEGMENT_ATTENTION_H

#include <stdint.h>

#include "ops/isa.h"

/* One head of one token: q, out [d]; keys j in [0, n) at k + j * k_ld, values at v + j * v_ld, of which those count whose seg[j * seg_ld] is `mine`.
 * score: room for n rounded up to 16. */
typedef struct segment_query {
    const float *q, *k, *v, *seg;
    int64_t d, n, k_ld, v_ld, seg_ld;
    float scale, mine, *score, *out;
} segment_query;
typedef void segment_query_fn(const segment_query *s);
#define SEGMENT_DECLARE(isa) segment_query_fn segment_query_##isa;
ISA_VECTORS(SEGMENT_DECLARE)
#undef SEGMENT_DECLARE

#endif
