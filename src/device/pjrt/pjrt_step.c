/* Steps on PJRT devices. Everything is started and nothing waited for until pjrt_model_wait: the plugin runs programs in order,
 * the sampler reads the logits where the step left them, the next step reads the ring that the sampler wrote. */
#include <string.h>

#include "base/mem.h"
#include "device/pjrt/pjrt_model.h"
#include "device/pjrt/step_meta.h"

/* ---- host memory of a step in flight ---- */

static status reserve(void **p, size_t *cap, size_t bytes)
{
    if (bytes <= *cap) return ST_OK;
    void *fresh = mem_aligned(64, (bytes + 63) / 64 * 64);
    if (!fresh) return err_nomem();
    mem_free(*p);
    *p = fresh;
    *cap = bytes;
    return ST_OK;
}

#define RESERVE(f, field, n) reserve((void **)&(f)->field, &(f)->field##_cap, (size_t)(n) * sizeof *(f)->field)

/* Waits until the plugin neither reads nor writes the host memory of a flight. The status is the step's. */
static status flight_wait(pjrt_model *m, flight *f)
{
    status st = pjrt_event_wait(m->dev->client, f->tokens_done), last = pjrt_event_wait(m->dev->client, f->logits_done);
    if (st == ST_OK) st = last;
    for (int i = 0; i < f->n_uploads; i++) {
        last = pjrt_event_wait(m->dev->client, f->uploads[i]);
        if (st == ST_OK) st = last;
    }
    f->tokens_done = f->logits_done = NULL;
    f->n_uploads = 0;
    return st;
}

/* For a step that failed or is of no interest any more; the message of a failure stays. */
static void flight_clear(pjrt_model *m, flight *f)
{
    char message[1024];
    err_copy(message, sizeof message);
    status st = flight_wait(m, f);
    if (st != ST_OK) err_set(st, "%s", message);
    pjrt_buffer_free(m->dev->client, f->token_buffer);
    pjrt_buffer_free(m->dev->client, f->logit_buffer);
    f->token_buffer = f->logit_buffer = NULL;
    f->sampler = NULL;
    f->b = NULL;
}

void pjrt_flight_free(pjrt_model *m, flight *f)
{
    flight_clear(m, f);
    mem_free(f->uploads);
    mem_free(f->meta);
    mem_free(f->media);
    mem_free(f->ints);
    mem_free(f->floats);
    mem_free(f->mask);
    mem_free(f->tokens);
    mem_free(f->logits);
    *f = (flight){0};
}

/* ---- what the engine hands in ---- */

static status check_range(const char *what, const int32_t *v, int n, int64_t least, int64_t end)
{
    for (int i = 0; i < n; i++)
        if (v[i] < least || v[i] >= end) return err_set(ST_INVALID, "batch: %s[%d] is %d, expected %lld to %lld", what, i, v[i], (long long)least, (long long)end - 1);
    return ST_OK;
}

static status check_seq(const pjrt_model *m, const batch *b, int s)
{
    int q = b->cu_q_lens[s + 1] - b->cu_q_lens[s];
    if (q < 1 || b->cu_q_lens[s] < 0 || b->cu_q_lens[s + 1] > b->n_tokens || b->kv_lens[s] < q || b->kv_lens[s] > m->c.limits.max_model_len)
        return err_set(ST_INVALID, "batch: sequence %d has %d new tokens of %d, at most %d", s, q, b->kv_lens[s], m->c.limits.max_model_len);
    int pages = (b->kv_lens[s] - 1) / m->c.lower.page + 1;
    if (pages > b->max_pages) return err_set(ST_INVALID, "batch: sequence %d needs %d pages, its row has %d", s, pages, b->max_pages);
    for (int g = 0; g < m->c.plan->groups.n_groups; g++) TRY(check_range("page_table", batch_pages(b, g, s), pages, 0, m->n_blocks));
    return b->see ? check_range("see", b->see + b->cu_q_lens[s], q, 0, (int64_t)b->kv_lens[s] + 1) : ST_OK;
}

static status check_batch(const pjrt_model *m, const batch *b)
{
    const device_limits *l = &m->c.limits;
    if (l->least_rows) return b->n_tokens >= 1 && b->n_tokens <= l->max_tokens && b->activations && b->logits
        ? ST_OK : err_set(ST_INVALID, "batch: %d rows of an encoder, planned for %d", b->n_tokens, l->max_tokens);
    if (b->n_tokens < 1 || b->n_tokens > l->max_tokens || b->n_seqs < 1 || b->n_seqs > l->max_seqs || b->n_rows < 0 || b->n_rows > l->max_rows)
        return err_set(ST_INVALID, "batch: %d tokens, %d sequences, %d rows; planned for %d, %d, %d", b->n_tokens, b->n_seqs, b->n_rows, l->max_tokens, l->max_seqs, l->max_rows);
    if (b->see && !l->see) return err_set(ST_INVALID, "batch: tokens that see later ones, which the model was not planned for");
    if (b->cu_q_lens[0] != 0 || b->cu_q_lens[b->n_seqs] != b->n_tokens) return err_set(ST_INVALID, "batch: cu_q_lens does not span the tokens");
    int groups = m->c.plan->groups.n_groups;
    if (batch_groups(b) != groups) return err_set(ST_INVALID, "batch: pages for %d groups of layers, the model has %d", batch_groups(b), groups);
    for (int s = 0; s < b->n_seqs; s++) TRY(check_seq(m, b, s));
    if (m->n_ids) TRY(check_range("token_ids", b->token_ids, b->n_tokens, -(int64_t)m->c.lower.n_slots * BATCH_RING, m->n_ids));
    TRY(check_range("positions", b->positions, b->n_tokens, 0, INT32_MAX));
    TRY(check_range("slots", b->slots, b->n_tokens * groups, 0, (int64_t)m->n_blocks * l->block_size));
    for (int i = 0; b->samples && i < b->n_rows; i++)
        if (b->samples[i].slot >= m->c.lower.n_slots || b->samples[i].ring_pos < 0 || b->samples[i].ring_pos >= BATCH_RING)
            return err_set(ST_INVALID, "batch: row %d goes to slot %d, place %d of the ring, which has %d slots of %d", i, b->samples[i].slot, b->samples[i].ring_pos,
                           m->c.lower.n_slots, BATCH_RING);
    return check_range("rows", b->rows, b->n_rows, 0, b->n_tokens);
}

/* ---- arguments ---- */

/* The same array to every device, out of the flight's memory. */
static status upload_all(pjrt_model *m, flight *f, dtype t, size_t rank, const int64_t *dim, const void *data, size_t arg, size_t n_args)
{
    for (int d = 0; d < m->n_devices; d++) {
        pjrt_event *done = NULL;
        TRY(pjrt_upload(m->dev->client, d, t, dim, rank, data, PJRT_HOLD_DONE, &m->args[(size_t)d * n_args + arg], &done));
        f->uploads[f->n_uploads++] = done;
    }
    return ST_OK;
}

static void free_args(pjrt_model *m, size_t from, size_t to, size_t n_args)
{
    for (int d = 0; d < m->n_devices; d++)
        for (size_t i = from; i < to; i++) {
            pjrt_buffer_free(m->dev->client, m->args[(size_t)d * n_args + i]);
            m->args[(size_t)d * n_args + i] = NULL;
        }
}

static int64_t input_cols(const pjrt_model *m, int i) { return graph_at(m->c.plan->g, m->c.plan->inputs[i])->s.dim[1]; }

/* Zeros on all devices, made for the first step of a bucket that brings no rows and kept: steps of text upload none. */
static status zero_inputs(pjrt_model *m, int bucket, pjrt_buffer ***out)
{
    const int n = m->c.plan->n_inputs;
    pjrt_buffer *made[PJRT_MAX_DEVICES], **all;
    *out = m->no_media[bucket];
    if (*out) return ST_OK;
    all = mem_calloc((size_t)(m->n_devices * n), sizeof *all);
    if (!all) return err_nomem();
    m->no_media[bucket] = all;
    for (int i = 0; i < n; i++) {
        status st = pjrt_zeros(m->dev->client, m->n_devices, DT_F32, (int64_t[]){ m->c.buckets.v[bucket].tokens, input_cols(m, i) }, 2, made);
        for (int d = 0; st == ST_OK && d < m->n_devices; d++) all[d * n + i] = made[d];
        if (st == ST_OK) continue;
        for (int k = 0; k < m->n_devices * i; k++) pjrt_buffer_free(m->dev->client, all[k / i * n + k % i]);
        mem_free(all);
        m->no_media[bucket] = NULL;
        return st;
    }
    *out = all;
    return ST_OK;
}

/* The batch's rows as arguments from `arg` on, padded to the bucket. */
static status upload_media(pjrt_model *m, flight *f, size_t arg, size_t n_args)
{
    const int64_t T = m->c.buckets.v[f->bucket].tokens, n = f->b->n_tokens;
    int64_t total = 0;
    for (int i = 0; i < m->c.plan->n_inputs; i++) total += T * input_cols(m, i);
    TRY(RESERVE(f, media, total));
    float *at = f->media;
    for (int i = 0; i < m->c.plan->n_inputs; i++) {
        const int64_t cols = input_cols(m, i), number = graph_at(m->c.plan->g, m->c.plan->inputs[i])->a.input.number;
        memcpy(at, f->b->activations[number], (size_t)(n * cols) * sizeof *at);
        const float fill = m->c.limits.least_rows && cols == 1 ? LOWER_PADDING : 0;
        for (int64_t k = n * cols; k < T * cols; k++) at[k] = fill;
        TRY(upload_all(m, f, DT_F32, 2, (int64_t[]){ T, cols }, at, arg + (size_t)i, n_args));
        at += T * cols;
    }
    return ST_OK;
}

/* The step's program: caches are replaced; the logits of all devices go to logits[]. */
static status run_step(pjrt_model *m, flight *f, pjrt_buffer **logits)
{
    const lower_bucket *b = &m->c.buckets.v[f->bucket];
    const size_t n_caches = (size_t)m->c.plan->n_caches, n_weights = (size_t)m->c.plan->n_weights, n_inputs = (size_t)m->c.plan->n_inputs;
    const size_t inputs = (size_t)lower_n_leading(m->c.plan->g) + n_caches, n_args = inputs + n_inputs + n_weights, n_outs = n_caches + 1;
    const bool media = n_inputs && f->b->activations;
    pjrt_buffer **zeros = NULL;
    pjrt_program *p;
    TRY(pjrt_model_step_program(m, f->bucket, &p));
    int64_t len = step_meta_len(b, &m->c.lower);
    TRY(RESERVE(f, meta, len));
    if (n_inputs && !media) TRY(zero_inputs(m, f->bucket, &zeros));
    step_meta_fill(b, &m->c.lower, f->b, f->meta);
    for (int d = 0; d < m->n_devices; d++) {
        pjrt_buffer **a = m->args + (size_t)d * n_args;
        a[0] = NULL;
        a[1] = m->ring[d];
        if (inputs - n_caches > 2) a[2] = m->ranks[d];
        memcpy(a + inputs - n_caches, m->caches + (size_t)d * n_caches, n_caches * sizeof *a);
        for (size_t i = 0; i < n_inputs; i++) a[inputs + i] = zeros ? zeros[(size_t)d * n_inputs + i] : NULL;
        memcpy(a + inputs + n_inputs, m->weights + (size_t)d * n_weights, n_weights * sizeof *a);
    }
    status st = upload_all(m, f, DT_I32, 1, &len, f->meta, 0, n_args);
    if (st == ST_OK && media) st = upload_media(m, f, inputs, n_args);
    if (st == ST_OK) st = pjrt_execute(p, m->args, n_args, NULL, 0, m->outs, NULL);
    free_args(m, 0, 1, n_args);
    if (media) free_args(m, inputs, inputs + n_inputs, n_args);
    TRY(st);
    for (int d = 0; d < m->n_devices; d++) {
        for (size_t c = 0; c < n_caches; c++) {
            pjrt_buffer_free(m->dev->client, m->caches[(size_t)d * n_caches + c]);
            m->caches[(size_t)d * n_caches + c] = m->outs[(size_t)d * n_outs + c];
        }
        logits[d] = m->outs[(size_t)d * n_outs + n_caches];
    }
    return ST_OK;
}

static status upload_sampling(pjrt_model *m, flight *f, const sampler_kind *k, size_t n_args)
{
    const int64_t ints = sampler_ints_len(k), n_floats = sampler_floats_len(k), mask[] = { k->rows, (k->vocab + 31) / 32 };
    size_t arg = 2;
    TRY(RESERVE(f, ints, ints));
    TRY(RESERVE(f, floats, n_floats));
    TRY(RESERVE(f, mask, sampler_mask_len(k)));
    sampler_fill(k, f->b->samples, f->b->n_rows, f->ints, f->floats, f->mask);
    TRY(upload_all(m, f, DT_I32, 1, &ints, f->ints, arg++, n_args));
    if (n_floats) TRY(upload_all(m, f, DT_F32, 1, &n_floats, f->floats, arg++, n_args));
    if (k->mask) TRY(upload_all(m, f, DT_U32, 2, mask, f->mask, arg++, n_args));
    return ST_OK;
}

/* The sampler: the ring is replaced; device 0's tokens stay in f->token_buffer. */
static status run_sampler(pjrt_model *m, flight *f, pjrt_buffer *const *logits)
{
    sampler_kind k = sampler_kind_of(f->b->samples, f->b->n_rows, m->c.buckets.v[f->bucket].rows, m->c.vocab, m->c.lower.n_slots);
    k.cut = k.random; /* one program less; the search for thresholds that nobody wants ends at once */
    const size_t n_args = 3u + (sampler_floats_len(&k) > 0) + k.mask;
    pjrt_program *p;
    TRY(pjrt_model_sampler(m, &k, &p));
    f->sampler = p;
    memset(m->args, 0, (size_t)m->n_devices * n_args * sizeof *m->args);
    status st = upload_sampling(m, f, &k, n_args);
    for (int d = 0; d < m->n_devices; d++) {
        m->args[(size_t)d * n_args] = logits[d];
        m->args[(size_t)d * n_args + 1] = m->ring[d];
    }
    if (st == ST_OK) st = pjrt_execute(p, m->args, n_args, NULL, 0, m->outs, NULL);
    free_args(m, 2, n_args, n_args);
    TRY(st);
    for (int d = 0; d < m->n_devices; d++) {
        pjrt_buffer_free(m->dev->client, m->ring[d]);
        m->ring[d] = m->outs[2 * d];
        if (d == 0) f->token_buffer = m->outs[1];
        else pjrt_buffer_free(m->dev->client, m->outs[2 * d + 1]);
    }
    return ST_OK;
}

/* ---- steps ---- */

/* Rows of the output that are the batch's. */
static int rows_out(const pjrt_model *m, const batch *b) { return m->c.limits.least_rows ? b->n_tokens : b->n_rows; }

static status start(pjrt_model *m, flight *f)
{
    pjrt_buffer *logits[PJRT_MAX_DEVICES];
    pjrt_client *c = m->dev->client;
    const size_t rows = (size_t)m->c.buckets.v[f->bucket].rows;
    const bool sample = f->b->samples && f->b->n_rows, show = f->b->logits && rows_out(m, f->b);
    TRY(run_step(m, f, logits));
    status st = sample ? run_sampler(m, f, logits) : ST_OK;
    for (int d = 1; d < m->n_devices; d++) pjrt_buffer_free(c, logits[d]);
    f->logit_buffer = logits[0];
    if (st == ST_OK && sample) {
        st = RESERVE(f, tokens, rows);
        if (st == ST_OK) st = pjrt_download(c, f->token_buffer, f->tokens, rows * sizeof *f->tokens, &f->tokens_done);
    }
    if (st == ST_OK && show) {
        st = RESERVE(f, logits, rows * (size_t)m->c.vocab);
        if (st == ST_OK) st = pjrt_download(c, f->logit_buffer, f->logits, rows * (size_t)m->c.vocab * sizeof *f->logits, &f->logits_done);
    }
    if (st == ST_OK && !sample && !show) st = pjrt_buffer_ready(c, f->logit_buffer, &f->logits_done);
    return st;
}

status pjrt_model_submit(device_model *dm, const batch *b)
{
    pjrt_model *m = (pjrt_model *)(void *)dm;
    if (m->n_flights == STEP_DEPTH) return err_set(ST_INTERNAL, "%d steps are in flight already", STEP_DEPTH);
    if (m->n_blocks == 0 && !m->c.limits.least_rows) return err_set(ST_INTERNAL, "a step before there is a KV cache");
    TRY(check_batch(m, b));
    flight *f = &m->flights[(m->first + m->n_flights) % STEP_DEPTH];
    f->bucket = buckets_pick(&m->c.buckets, b);
    if (f->bucket < 0) return err_set(ST_INTERNAL, "no bucket for %d tokens, %d sequences and %d rows", b->n_tokens, b->n_seqs, b->n_rows);
    f->b = b;
    status st = start(m, f);
    if (st == ST_OK) m->n_flights++;
    else flight_clear(m, f);
    return st;
}

/* The oldest flight's place is free again. */
static void land(pjrt_model *m)
{
    flight_clear(m, &m->flights[m->first]);
    m->first = (m->first + 1) % STEP_DEPTH;
    m->n_flights--;
}

status pjrt_model_wait(device_model *dm)
{
    pjrt_model *m = (pjrt_model *)(void *)dm;
    if (m->n_flights == 0) return err_set(ST_INTERNAL, "no step is in flight");
    flight *f = &m->flights[m->first];
    size_t rows = (size_t)rows_out(m, f->b);
    status st = flight_wait(m, f);
    if (st == ST_OK && f->token_buffer) memcpy(f->b->sampled, f->tokens, rows * sizeof *f->tokens);
    if (st == ST_OK && f->b->logits && rows) memcpy(f->b->logits, f->logits, rows * (size_t)m->c.vocab * sizeof *f->logits);
    land(m);
    return st;
}

status pjrt_model_run(device_model *dm, const batch *b)
{
    pjrt_model *m = (pjrt_model *)(void *)dm;
    if (m->n_flights > 0) return err_set(ST_INTERNAL, "a step to run while %d are in flight", m->n_flights);
    TRY(pjrt_model_submit(dm, b));
    return pjrt_model_wait(dm);
}

void pjrt_model_drain(pjrt_model *m)
{
    while (m->n_flights > 0) land(m);
}
