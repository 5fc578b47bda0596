/* One step's work: a flat ragged batch. The operations that depend on how tokens belong to sequences (attention, the rope
 * table) read it beside their tensors. Arrays are borrowed for the call. Prefill and decode are the same thing: sequence s
 * owns tokens cu_q_lens[s] .. cu_q_lens[s+1]-1, which are the last ones of its kv_lens[s] tokens. */
#ifndef SYSTOLIC_GRAPH_BATCH_H
#define SYSTOLIC_GRAPH_BATCH_H

#include <stdint.h>

/* How the device chooses the token of one row, on devices that sample (device.h): the parameters in vLLM's order of
 * operations; everything that depends on the request alone has been worked out by the engine. */
typedef struct sample_row {
    int32_t slot;               /* whose token this is: it goes to ring[slot * BATCH_RING + ring_pos]; -1 = the row's token is not wanted */
    int32_t ring_pos;
    const uint32_t *mask;       /* [ceil(vocab / 32)] bit i of word w allows token 32 w + i; NULL = all */
    const int32_t *edit_ids;    /* added to the logits (bias), -inf bans a token */
    const float *edit_values;
    int n_edits;
    const int32_t *history;     /* for penalties only (else n_history 0): tokens so far, the first n_prompt are the prompt; */
    int n_history, n_prompt;    /* an entry below 0 is -1 - index into the ring */
    float presence_penalty, frequency_penalty, repetition_penalty;  /* 0, 0, 1 = off */
    float temperature;          /* 0 = greedy */
    float min_p, top_p;         /* 0, 1 = off */
    int32_t top_k;              /* 0 = off */
    uint64_t key;               /* of the race: a function of seed and output index */
} sample_row;

/* Sampled tokens stay on the device in a ring per slot, so that the next step can read one before the host has seen it. */
enum { BATCH_RING = 8 };

typedef struct batch {
    int n_tokens, n_seqs, n_rows;
    const int32_t *token_ids;   /* [n_tokens]; on devices that sample, -1 - i reads ring[i] */
    const int32_t *positions;   /* [n_tokens] */
    const int32_t *cu_q_lens;   /* [n_seqs+1] */
    const int32_t *kv_lens;     /* [n_seqs] tokens in the cache after this step */
    int n_groups;               /* of layers that share blocks (graph/kv_groups.h); 0 = 1 */
    const int32_t *page_table;  /* [n_groups][n_seqs][max_pages] block ids; 0 where nobody looks any more */
    int max_pages;
    const int32_t *slots;       /* [n_groups][n_tokens] where each token's K and V go: block * block_size + offset */
    const int32_t *rope_variant;/* [n_seqs] which frequency table a sequence uses (longrope: 0 short, 1 long) */
    const int32_t *rows;        /* [n_rows] indices into the tokens whose logits are wanted, ascending */
    float *logits;              /* out: [n_rows][vocab]; on devices that sample NULL = not wanted */
    const sample_row *samples;  /* [n_rows] devices that sample only */
    int32_t *sampled;           /* out: [n_rows] devices that sample only */
    const float *const *activations; /* of each IN_ACTIVATION input by its number: [rows][cols]; NULL = all zero */
    const int32_t *see;         /* [n_tokens] keys 0 .. see - 1 are seen, also later ones of the step: within an image, where models want it; NULL = up to the own */
    const int32_t *positions3;  /* [n_tokens][3] time, height, width of multimodal rope; NULL = all three are the position */
} batch;

static inline int batch_groups(const batch *b) { return b->n_groups ? b->n_groups : 1; }
/* A sequence's pages, and the tokens' slots, in a group of layers. */
static inline const int32_t *batch_pages(const batch *b, int group, int seq) { return b->page_table + ((int64_t)group * b->n_seqs + seq) * b->max_pages; }
static inline const int32_t *batch_slots(const batch *b, int group) { return b->slots + (int64_t)group * b->n_tokens; }

#endif
