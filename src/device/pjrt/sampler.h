/* Sampling as a program of its own on the device: logits of a step in, tokens out, in vLLM's order of operations (the host's
 * version: engine/sample.h). It reads the logits where the step left them and keeps the tokens in the ring (graph/batch.h), so
 * that the next step starts without the host. Programs differ by what the rows of a step need; a row that does not need what
 * its program can do (greedy among random ones, no mask among masked ones) gets parameters that leave it alone.
 *
 * Arguments: logits f32 [rows, vocab], ring i32 [n_slots * BATCH_RING] (donated), ints i32 [sampler_ints_len], floats f32
 * [sampler_floats_len] (not for greedy ones without edits and penalties: then absent), mask u32 [rows, ceil(vocab / 32)] if
 * there is one. Results: the ring, tokens i32 [rows] (0 where none was wanted). On a mesh every device does the same work with
 * whole rows of logits.
 *
 * The host's and this sampler choose the same token, except where two tokens are as good as tied: sums and exponentials are
 * f32 here and double there. A logit that is NaN counts as -inf; a row without any token left gives token 0. */
#ifndef SYSTOLIC_DEVICE_PJRT_SAMPLER_H
#define SYSTOLIC_DEVICE_PJRT_SAMPLER_H

#include "base/buf.h"
#include "graph/batch.h"
#include "graph/graph.h"

typedef struct sampler_kind {
    int rows, vocab, n_slots;
    bool random;                    /* some row is not greedy */
    bool cut;                       /* some row that is not greedy has top_k, top_p or min_p */
    bool mask;
    int edits;                      /* most edits of a row, rounded up: 16, 64, 256, ...; 0 = none */
    int history;                    /* most history tokens that a row's penalties look at, rounded up: 256, 1024, ...; 0 = no penalties */
} sampler_kind;

/* The least kind that serves these rows in a bucket of `rows`. Rows with slot -1 need nothing. Sizes grow by fours, so that a
 * text that grows meets few programs. */
sampler_kind sampler_kind_of(const sample_row *rows, int n_rows, int bucket_rows, int vocab, int n_slots);
/* Appends the program's text. ST_INVALID for a kind whose sizes are no array's. */
status sampler_program(const sampler_kind *k, mesh m, buf *out) FALLIBLE;

int64_t sampler_ints_len(const sampler_kind *k);
int64_t sampler_floats_len(const sampler_kind *k);      /* 0: no such argument */
int64_t sampler_mask_len(const sampler_kind *k);        /* 0: no such argument */
/* Packs the parameters of rows that k serves (sampler_kind_of says so of k or a lesser kind); padding rows write no token. */
void sampler_fill(const sampler_kind *k, const sample_row *rows, int n_rows, int32_t *ints, float *reals, uint32_t *mask);

#endif
