/* One step's work: a flat ragged batch. The operations that depend on how tokens belong to sequences (attention, the rope
 * table) read it beside their tensors. Arrays are borrowed for the call. Prefill and decode are the same thing: sequence s
 * owns tokens cu_q_lens[s] .. cu_q_lens[s+1]-1, which are the last ones of its kv_lens[s] tokens. */
#ifndef SYSTOLIC_GRAPH_BATCH_H
#define SYSTOLIC_GRAPH_BATCH_H

#include <stdint.h>

typedef struct batch {
    int n_tokens, n_seqs, n_rows;
    const int32_t *token_ids;   /* [n_tokens] */
    const int32_t *positions;   /* [n_tokens] */
    const int32_t *cu_q_lens;   /* [n_seqs+1] */
    const int32_t *kv_lens;     /* [n_seqs] tokens in the cache after this step */
    const int32_t *page_table;  /* [n_seqs][max_pages] block ids */
    int max_pages;
    const int32_t *slots;       /* [n_tokens] where each token's K and V go: block * block_size + offset */
    const int32_t *rope_variant;/* [n_seqs] which frequency table a sequence uses (longrope: 0 short, 1 long) */
    const int32_t *rows;        /* [n_rows] indices into the tokens whose logits are wanted, ascending */
    float *logits;              /* out: [n_rows][vocab] */
} batch;

#endif
