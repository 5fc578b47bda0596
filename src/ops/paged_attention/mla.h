/* Attention to a latent cache (multi-head latent attention after its projections have moved to the queries and the result:
 * paged_attention with `latent`), as a kernel for TPUs. */
#ifndef SYSTOLIC_OPS_PAGED_ATTENTION_MLA_H
#define SYSTOLIC_OPS_PAGED_ATTENTION_MLA_H

#include "mosaic/kernel.h"
#include "ops/hlo.h"

typedef struct mla {
    dtype kv;                       /* of the cache; queries and result are bf16 */
    int64_t heads, lanes, latent;   /* query heads; numbers of a key, padded; of these the first are the value */
    int64_t tokens, pages, page;    /* rows of queries; in the cache, all layers' together; tokens per page */
    int64_t seqs, max_pages;        /* page table */
    int64_t items, queries;         /* most pieces of work; queries of one sequence that one has at most */
    int64_t keys, buffers;          /* of a block of the cache in VMEM; blocks, at least 3 */
    float scale;                    /* of scores */
    int64_t vmem_bytes;             /* limit; 0: the compiler's */
    int64_t fixed_blocks;           /* > 0: so many blocks of whole pages, whatever the data: for static profiles, which know no trip counts */
    int64_t fixed_items;            /* so many items then, each of which ends with one of these blocks */
} mla;

/* NULL where there is a kernel, else why not. */
const char *mla_refusal(const mla *m);

/* Operands, all i32 but the last three: first_page [1], n_items [1], seq, token, pos, len [items], page_table [seqs * max_pages],
 * scale f32 [1] (numbers of the cache are multiplied by it), q bf16 [tokens, heads, lanes], cache [pages, page, lanes].
 * Item i: len queries (0: none) of sequence seq from row `token` of q on, the first at position pos; they see the keys up to their
 * own. Result: bf16 [tokens, heads, latent]; rows of no item are undefined. Not finished yet. */
mk *mla_kernel(const mla *m);

/* Writes the step's keys and attends, by kernels, if the step wants kernels and there are some for it: true if that was done. */
bool mla_hlo(hlo_call *c, const hlo_kv *kv, hlo_val *out);

#endif
