/* A device for tests that samples and takes steps ahead. It runs a step only when it is waited for, and spoils the outputs until then,
 * so that whoever looks early finds rubbish; and it notices a batch that changes while it is in flight, a token named that is not in
 * the ring (any more), and one that need not have been named. Sampling is written out plainly from batch.h. */
#ifndef SYSTOLIC_TESTS_FAKE_AHEAD_H
#define SYSTOLIC_TESTS_FAKE_AHEAD_H

#include <stdio.h>

#include "engine/cut.h"
#include "tests/unit/engine/fake_device.h"

typedef struct fake_step { const batch *b; uint64_t sum; int n_waited; } fake_step;

typedef struct fake_ahead {
    fake_device base;        /* first: its verbs are ours */
    int depth, n_slots;
    int fail_submit, fail_wait, wrong_token; /* at this call, 1-based; 0 = never */
    fake_step steps[8];
    int first, n;
    int n_submitted;
    int32_t *ring, *ring_step; /* [n_slots * BATCH_RING] token, and the step that wrote it */
    float *logits;
    size_t cap_logits;
    int32_t *token_ids, *counts;
    size_t cap_tokens;
    cut_scratch cut;
    atomic_int n_waited, n_fetched, n_wrong, deepest, n_named;
} fake_ahead;

static inline void ahead_wrong(fake_ahead *d, const char *what)
{
    if (atomic_fetch_add(&d->n_wrong, 1) < 5) printf("  fake device: %s\n", what);
}

static inline uint64_t ahead_sum(uint64_t h, const void *p, size_t n)
{
    const unsigned char *c = p;
    for (size_t i = 0; i < n; i++) h = (h ^ c[i]) * 0x100000001B3u;
    return h;
}

static inline uint64_t ahead_checksum(const batch *b)
{
    const size_t n = (size_t)b->n_tokens, s = (size_t)b->n_seqs;
    uint64_t h = ahead_sum(1469598103934665603u, b, sizeof *b);
    h = ahead_sum(h, b->token_ids, n * 4);
    h = ahead_sum(h, b->positions, n * 4);
    h = ahead_sum(h, b->slots, n * 4);
    h = ahead_sum(h, b->cu_q_lens, (s + 1) * 4);
    h = ahead_sum(h, b->kv_lens, s * 4);
    h = ahead_sum(h, b->rope_variant, s * 4);
    h = ahead_sum(h, b->page_table, s * (size_t)b->max_pages * 4);
    h = ahead_sum(h, b->rows, (size_t)b->n_rows * 4);
    for (int i = 0; i < b->n_rows; i++) {
        const sample_row *r = &b->samples[i];
        h = ahead_sum(h, r, sizeof *r);
        h = ahead_sum(h, r->edit_ids, (size_t)r->n_edits * 4);
        h = ahead_sum(h, r->edit_values, (size_t)r->n_edits * 4);
        h = ahead_sum(h, r->history, (size_t)r->n_history * 4);
    }
    return h;
}

/* No two rows of a step write the same place, and no token is edited twice. */
static inline void ahead_check_rows(fake_ahead *d, const batch *b)
{
    for (int i = 0; i < b->n_rows; i++) {
        const sample_row *r = &b->samples[i];
        if (r->slot >= d->n_slots || r->ring_pos < 0 || r->ring_pos >= BATCH_RING) ahead_wrong(d, "a row without a place in the ring");
        for (int j = 0; j < i; j++)
            if (r->slot >= 0 && b->samples[j].slot == r->slot) ahead_wrong(d, "two rows have the same slot");
        for (int j = 0; j < r->n_edits; j++)
            for (int k = 0; k < j; k++)
                if (r->edit_ids[j] == r->edit_ids[k]) ahead_wrong(d, "a token is edited twice");
    }
}

static status ahead_submit(void *self, const batch *b)
{
    fake_ahead *d = self;
    if (d->n_submitted + 1 == d->fail_submit) return err_set(ST_INTERNAL, "the fake device refused");
    if (d->n >= d->depth) ahead_wrong(d, "too many steps in flight");
    ahead_check_rows(d, b);
    for (int i = 0; i < b->n_rows; i++) b->sampled[i] = -1000000;
    for (size_t i = 0; b->logits && i < (size_t)b->n_rows * (size_t)d->base.vocab; i++) b->logits[i] = NAN;
    d->steps[(d->first + d->n++) % 8] = (fake_step){ b, ahead_checksum(b), atomic_load(&d->n_waited) };
    d->n_submitted++;
    if (d->n > atomic_load(&d->deepest)) atomic_store(&d->deepest, d->n);
    return ST_OK;
}

/* What a token name stands for; `step` is the one that reads, and names were needed for tokens of steps from `oldest` on. */
static inline int32_t ahead_token(fake_ahead *d, int32_t id, int step, int oldest)
{
    if (id >= 0) return id;
    const int i = -1 - id;
    atomic_fetch_add(&d->n_named, 1);
    if (i >= d->n_slots * BATCH_RING) {
        ahead_wrong(d, "a name beyond the ring");
        return 0;
    }
    if (d->ring_step[i] < oldest || d->ring_step[i] >= step) ahead_wrong(d, "a name for a token that is not of a step in flight");
    return d->ring[i];
}

static inline void ahead_penalise(fake_ahead *d, const sample_row *r, const int32_t *history, float *x)
{
    const int vocab = d->base.vocab;
    for (int i = 0; i < vocab; i++) d->counts[i] = 0;
    for (int i = r->n_prompt; i < r->n_history; i++) d->counts[history[i]]++;
    for (int id = 0; id < vocab; id++) {
        bool seen = false;
        for (int i = 0; i < r->n_history && !seen; i++) seen = history[i] == id;
        if (seen && r->repetition_penalty != 1) x[id] = x[id] > 0 ? x[id] / r->repetition_penalty : x[id] * r->repetition_penalty;
        if (!d->counts[id]) continue;
        x[id] -= r->frequency_penalty * (float)d->counts[id];
        x[id] -= r->presence_penalty;
    }
}

static inline int32_t ahead_sample(fake_ahead *d, const sample_row *r, const int32_t *history, float *x)
{
    const size_t n = (size_t)d->base.vocab;
    for (size_t i = 0; r->mask && i < n; i++)
        if (!(r->mask[i / 32] >> i % 32 & 1)) x[i] = -INFINITY;
    for (int i = 0; i < r->n_edits; i++) x[r->edit_ids[i]] += r->edit_values[i];
    if (r->n_history) ahead_penalise(d, r, history, x);
    if (r->temperature == 0) return (int32_t)d->cut.ops->argmax(x, n);
    if (r->temperature != 1) d->cut.ops->divide(x, n, r->temperature);
    const float max = d->cut.ops->max(x, n);
    if (!isfinite(max)) return (int32_t)d->cut.ops->argmax(x, n);
    const cut_point at = cut_find(&d->cut, x, max, r->min_p, r->top_k, r->top_p);
    if (cut_any(at)) cut_apply(&d->cut, x, at);
    return (int32_t)d->cut.ops->race(x, NULL, n, max, r->key);
}

static inline void ahead_make_room(fake_ahead *d, const batch *b)
{
    const size_t n_logits = (size_t)b->n_rows * (size_t)d->base.vocab;
    size_t n_tokens = (size_t)b->n_tokens;
    for (int i = 0; i < b->n_rows; i++)
        if ((size_t)b->samples[i].n_history > n_tokens) n_tokens = (size_t)b->samples[i].n_history;
    if (n_logits > d->cap_logits) d->logits = realloc(d->logits, (d->cap_logits = n_logits * 2) * sizeof(float));
    if (n_tokens > d->cap_tokens) d->token_ids = realloc(d->token_ids, (d->cap_tokens = n_tokens * 2) * sizeof(int32_t));
}

static inline status ahead_run(fake_ahead *d, const batch *b, int step, int oldest)
{
    const size_t vocab = (size_t)d->base.vocab;
    ahead_make_room(d, b);
    for (int i = 0; i < b->n_tokens; i++) d->token_ids[i] = ahead_token(d, b->token_ids[i], step, oldest);
    batch own = *b;
    own.token_ids = d->token_ids;
    own.logits = d->logits;
    status st = fake_run(&d->base, &own);
    if (st != ST_OK) return st;
    if (b->logits) {
        atomic_fetch_add(&d->n_fetched, 1);
        memcpy(b->logits, d->logits, (size_t)b->n_rows * vocab * sizeof(float));
    }
    for (int i = 0; i < b->n_rows; i++) {
        const sample_row *r = &b->samples[i];
        if (r->slot < 0) continue;
        for (int k = 0; k < r->n_history; k++) d->token_ids[k] = ahead_token(d, r->history[k], step, oldest);
        b->sampled[i] = ahead_sample(d, r, d->token_ids, d->logits + (size_t)i * vocab);
    }
    for (int i = 0; i < b->n_rows; i++) { /* after all reading: a row's history is that of the steps before */
        const sample_row *r = &b->samples[i];
        if (r->slot < 0) continue;
        d->ring[r->slot * BATCH_RING + r->ring_pos] = b->sampled[i];
        d->ring_step[r->slot * BATCH_RING + r->ring_pos] = step;
    }
    return ST_OK;
}

static status ahead_wait(void *self)
{
    fake_ahead *d = self;
    if (d->n == 0) {
        ahead_wrong(d, "nothing is in flight");
        return err_set(ST_INTERNAL, "nothing is in flight");
    }
    const fake_step s = d->steps[d->first];
    d->first = (d->first + 1) % 8;
    d->n--;
    const int step = atomic_fetch_add(&d->n_waited, 1);
    if (ahead_checksum(s.b) != s.sum) ahead_wrong(d, "the batch was changed while it was in flight");
    if (step + 1 == d->fail_wait) return err_set(ST_INTERNAL, "the fake device broke");
    if (d->fail_wait && step >= d->fail_wait) { /* what builds on nothing is rubbish, however good it looks */
        for (int i = 0; i < s.b->n_rows; i++) s.b->sampled[i] = 1;
        return ST_OK;
    }
    status st = ahead_run(d, s.b, step, s.n_waited);
    for (int i = 0; step + 1 == d->wrong_token && i < s.b->n_rows; i++) s.b->sampled[i] = d->base.vocab;
    return st;
}

static status ahead_no_run(void *self, const batch *b)
{
    (void)b;
    ahead_wrong(self, "run called");
    return err_set(ST_INTERNAL, "run called");
}

static int ahead_depth(void *self) { return ((fake_ahead *)self)->depth; }
static int ahead_n_slots(void *self) { return ((fake_ahead *)self)->n_slots; }

/* base.vocab, base.block_size, depth and n_slots are set. */
static inline engine_device ahead_open(fake_ahead *d)
{
    d->ring = calloc((size_t)d->n_slots * BATCH_RING, sizeof(int32_t));
    d->ring_step = malloc((size_t)d->n_slots * BATCH_RING * sizeof(int32_t));
    d->counts = calloc((size_t)d->base.vocab, sizeof(int32_t));
    for (int i = 0; i < d->n_slots * BATCH_RING; i++) d->ring_step[i] = -1;
    if (cut_scratch_new(&d->cut, row_ops_best(), (size_t)d->base.vocab) != ST_OK) ahead_wrong(d, "no memory");
    engine_device e = fake_engine_device(&d->base);
    e.run = ahead_no_run;
    e.depth = ahead_depth;
    e.n_slots = ahead_n_slots;
    e.submit = ahead_submit;
    e.wait = ahead_wait;
    return e;
}

static inline void ahead_close(fake_ahead *d)
{
    if (d->n) ahead_wrong(d, "steps left in flight");
    free(d->base.store);
    free(d->ring);
    free(d->ring_step);
    free(d->logits);
    free(d->token_ids);
    free(d->counts);
    cut_scratch_free(&d->cut);
}

#endif
