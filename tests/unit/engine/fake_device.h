/* A device for tests: logits are a pure function of the token history it finds in its own paged store. A wrong page table, slot,
 * position, token or rope variant, or a block that somebody else overwrote, changes them. Sequences are run one after the other, last
 * one first, so that reading what the same step writes elsewhere shows. */
#ifndef SYSTOLIC_TESTS_FAKE_DEVICE_H
#define SYSTOLIC_TESTS_FAKE_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/engine.h"

typedef struct fake_device {
    int vocab, block_size;
    kv_layout kv;            /* groups of layers; all zero: one that keeps everything */
    int32_t n_blocks;
    uint64_t *store;         /* [n_blocks * block_size] */
    int delay_us;
    int fail_at;             /* this run fails, 1-based; 0 = none */
    int n_threads;           /* that help to sample; 0 = none */
    atomic_int n_helped;     /* times they were asked to */
    atomic_int n_runs;
    atomic_int max_seqs_seen, max_tokens_seen;
} fake_device;

static inline uint64_t fake_mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x7FB5D329728EA185u;
    x ^= x >> 27;
    x *= 0x81DADEF4BC2DD44Du;
    return x ^ x >> 33;
}

static inline uint64_t fake_cell(int32_t token, int32_t pos, int32_t variant)
{
    return fake_mix((uint64_t)(uint32_t)token << 34 ^ (uint64_t)(uint32_t)pos << 2 ^ (uint64_t)(uint32_t)variant ^ 0x5DEECE66Du << 1);
}

static inline uint64_t fake_fold(uint64_t h, uint64_t cell) { return fake_mix(h * 0x9E3779B97F4A7C15u + cell); }

static inline void fake_logits(uint64_t h, int vocab, float *out)
{
    for (int i = 0; i < vocab; i++) {
        uint64_t x = fake_mix(h + (uint64_t)(i + 1) * 0xD1342543DE82EF95u);
        out[i] = (float)(x >> 40) * (12.0f / 16777216.0f) - 6.0f;
    }
}

/* The logits after `n` tokens, straight from the definition: each group of layers sees its part of the history, and keeps something
 * of its own of each token. */
static inline void fake_reference_kv(const kv_layout *l, const int32_t *tokens, int n, int variant, int vocab, float *out)
{
    uint64_t h = 1;
    for (int g = 0; g < l->n_groups; g++)
        for (int i = (int)kv_first_seen(&l->group[g], n - 1); i < n; i++) h = fake_fold(h, fake_cell(tokens[i], i, variant) + (uint64_t)g);
    fake_logits(h, vocab, out);
}

static inline void fake_reference(const int32_t *tokens, int n, int variant, int vocab, float *out)
{
    const kv_layout full = kv_layout_full();
    fake_reference_kv(&full, tokens, n, variant, vocab, out);
}

static void fake_seq(fake_device *d, const batch *b, int s, int *row)
{
    const kv_layout full = kv_layout_full(), *l = d->kv.n_groups ? &d->kv : &full;
    const int first = b->kv_lens[s] - (b->cu_q_lens[s + 1] - b->cu_q_lens[s]);
    for (int g = 0; g < l->n_groups; g++)
        for (int t = b->cu_q_lens[s]; t < b->cu_q_lens[s + 1]; t++)
            d->store[batch_slots(b, g)[t]] = fake_cell(b->token_ids[t], b->positions[t], b->rope_variant[s]) + (uint64_t)g;
    for (int t = b->cu_q_lens[s]; t < b->cu_q_lens[s + 1]; t++) {
        if (*row >= b->n_rows || b->rows[*row] != t) continue;
        uint64_t h = 1;
        const int last = first + t - b->cu_q_lens[s];
        for (int g = 0; g < l->n_groups; g++)
            for (int pos = (int)kv_first_seen(&l->group[g], last); pos <= last; pos++)
                h = fake_fold(h, d->store[batch_pages(b, g, s)[pos / d->block_size] * d->block_size + pos % d->block_size]);
        fake_logits(h, d->vocab, b->logits + (size_t)*row * (size_t)d->vocab);
        ++*row;
    }
}

static status fake_run(void *self, const batch *b)
{
    fake_device *d = self;
    if (batch_groups(b) != (d->kv.n_groups ? d->kv.n_groups : 1)) return err_set(ST_INTERNAL, "a batch for %d groups", batch_groups(b));
    if (atomic_fetch_add(&d->n_runs, 1) + 1 == d->fail_at) return err_set(ST_INTERNAL, "the fake device broke");
    if (b->n_seqs > atomic_load(&d->max_seqs_seen)) atomic_store(&d->max_seqs_seen, b->n_seqs);
    if (b->n_tokens > atomic_load(&d->max_tokens_seen)) atomic_store(&d->max_tokens_seen, b->n_tokens);
    for (int s = b->n_seqs - 1; s >= 0; s--) {
        int row = 0;
        while (row < b->n_rows && b->rows[row] < b->cu_q_lens[s]) row++;
        fake_seq(d, b, s, &row);
        if (row < b->n_rows && b->rows[row] < b->cu_q_lens[s + 1]) return err_set(ST_INTERNAL, "row %d is not among the tokens", row);
    }
    if (d->delay_us > 0) nanosleep(&(struct timespec){ 0, d->delay_us * 1000L }, NULL);
    return ST_OK;
}

static status fake_resize(void *self, int32_t n_blocks)
{
    fake_device *d = self;
    free(d->store);
    d->n_blocks = n_blocks;
    d->store = calloc((size_t)n_blocks * (size_t)d->block_size, sizeof *d->store);
    return d->store ? ST_OK : err_nomem();
}

static int64_t fake_block_bytes(void *self) { return ((fake_device *)self)->block_size * 8; }

typedef struct fake_helper { void (*fn)(void *arg, int thread); void *arg; int thread; pthread_t id; } fake_helper;
static void *fake_help(void *arg)
{
    fake_helper *h = arg;
    h->fn(h->arg, h->thread);
    return NULL;
}

static void fake_parallel(void *self, void (*fn)(void *arg, int thread), void *arg)
{
    enum { MOST = 8 };
    fake_device *d = self;
    fake_helper h[MOST];
    int n = 1;
    atomic_fetch_add(&d->n_helped, 1);
    for (; n < d->n_threads && n < MOST; n++) {
        h[n] = (fake_helper){ .fn = fn, .arg = arg, .thread = n };
        if (pthread_create(&h[n].id, NULL, fake_help, &h[n])) break;
    }
    fn(arg, 0);
    while (--n > 0) pthread_join(h[n].id, NULL);
}

static inline engine_device fake_engine_device(fake_device *d)
{
    return (engine_device){ .run = fake_run, .kv_resize = fake_resize, .kv_block_bytes = fake_block_bytes, .kv = d->kv, .self = d, .name = "Fake", .free_bytes = 1 << 30,
                            .n_threads = d->n_threads, .parallel = d->n_threads ? fake_parallel : NULL };
}

#endif
