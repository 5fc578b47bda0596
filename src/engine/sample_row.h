/* What a device that samples is told of each row (sample_row in graph/batch.h): everything about the choice that depends on the request
 * alone. The same order of operations, and the same key of the race, as the host's sampler (sample.h), so that a request's randomness is
 * the same on every device. Step thread. */
#ifndef SYSTOLIC_ENGINE_SAMPLE_ROW_H
#define SYSTOLIC_ENGINE_SAMPLE_ROW_H

#include "engine/internal.h"

/* The name by which a batch refers to the token at `pos` before the host knows it. The request has a slot. */
static inline int32_t ring_name(const engine_request *r, int pos) { return -1 - (r->slot * BATCH_RING + pos % BATCH_RING); }

/* Memory for the rows of one step: reserved for all of them before the first is filled, so that nothing moves; kept for the next. */
typedef struct row_memory {
    int32_t *edit_ids;
    float *edit_values;
    size_t n_edits, cap_edits;
    int32_t *history;
    size_t n_history, cap_history;
} row_memory;

void row_memory_free(row_memory *m);
/* Forgets what is there and makes room for all rows that the plan samples. ST_NOMEM: there is room for none. */
status row_memory_reset(row_memory *m, const plan *p) FALLIBLE;

/* True if the edits of the output after n_tokens tokens depend on tokens that are still in the ring: a bad word whose prefix they may
 * complete. The step then has to wait for them. */
bool sample_row_needs_values(const engine_request *r, int n_tokens);
/* Whether its edits or history take room in a row_memory. */
bool sample_row_needs_memory(const engine_request *r);
/* The row that is not wanted. */
sample_row sample_row_unused(void);
/* The row of the output after n_tokens tokens. `marks` [vocab_size] is zero before and after. ST_NOMEM: then *out is set but without
 * what needs memory; its token is good for nothing but keeping the steps in order. */
status sample_row_fill(row_memory *m, engine_request *r, int n_tokens, int vocab_size, uint32_t *marks, sample_row *out) FALLIBLE;

#endif
