/* Sampling as a program of its own on the device: logits of a step in, tokens out, in vLLM's order of operations (the host's
 * version: engine/sample.h). It reads the logits where the step left them and keeps the tokens in the ring (graph/batch.h), so
 * that the next step starts without the host. Programs differ by what the rows of a step need.
 *
 * Arguments: logits f32 [rows, vocab], ring i32 [n_slots * BATCH_RING] (donated), ints i32 [sampler_ints_len], floats f32
 * [sampler_floats_len] (not for greedy ones without edits: then absent), mask u32 [rows, ceil(vocab / 32)] if there is one.
 * Results: the ring, tokens i32 [rows]. */
#ifndef SYSTOLIC_DEVICE_PJRT_SAMPLER_H
#define SYSTOLIC_DEVICE_PJRT_SAMPLER_H

#include "base/buf.h"
#include "graph/batch.h"
#include "graph/graph.h"

typedef struct sampler_kind {
    int rows, vocab, n_slots;
    bool random;                    /* some row is not greedy */
    bool cut;                       /* some row has top_k, top_p or min_p */
    bool mask;
    int edits;                      /* most edits of a row, rounded up to a power of two; 0 = none */
    int history;                    /* most history tokens of a row that has penalties, likewise */
} sampler_kind;

/* The least kind that serves these rows in a bucket of `rows`. */
sampler_kind sampler_kind_of(const sample_row *rows, int n_rows, int bucket_rows, int vocab, int n_slots);
status sampler_program(const sampler_kind *k, mesh m, buf *out) FALLIBLE;

int64_t sampler_ints_len(const sampler_kind *k);
int64_t sampler_floats_len(const sampler_kind *k);      /* 0: no such argument */
int64_t sampler_mask_len(const sampler_kind *k);        /* 0: no such argument */
/* Packs the rows' parameters; padding rows write no token. */
void sampler_fill(const sampler_kind *k, const sample_row *rows, int n_rows, int32_t *ints, float *floats, uint32_t *mask);

#endif
