#include "engine/sample_row.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

static size_t most_edits(const sampling_params *p) { return (size_t)p->n_bad_words + (size_t)p->n_all_stop_ids + (size_t)p->n_logit_bias; }

static bool penalises_prompt(const sampling_params *p) { return p->repetition_penalty != 1.0f; }
static bool penalises(const sampling_params *p) { return penalises_prompt(p) || p->frequency_penalty != 0 || p->presence_penalty != 0; }

bool sample_row_needs_memory(const engine_request *r)
{
    const sampling_params *p = &r->params;
    return p->n_bad_words > 0 || p->n_logit_bias > 0 || p->min_tokens > 0 || p->n_allowed_token_ids > 0 || penalises(p);
}

void row_memory_free(row_memory *m)
{
    mem_free(m->edit_ids);
    mem_free(m->edit_values);
    mem_free(m->history);
    *m = (row_memory){0};
}

static status grow_edits(row_memory *m, size_t n)
{
    if (n <= m->cap_edits) return ST_OK;
    const size_t cap = n > m->cap_edits * 2 ? n : m->cap_edits * 2;
    int32_t *ids = mem_array(cap, sizeof *ids);
    float *values = mem_array(cap, sizeof *values);
    if (!ids || !values) {
        mem_free(ids);
        mem_free(values);
        return err_nomem();
    }
    mem_free(m->edit_ids);
    mem_free(m->edit_values);
    m->edit_ids = ids;
    m->edit_values = values;
    m->cap_edits = cap;
    return ST_OK;
}

static status grow_history(row_memory *m, size_t n)
{
    if (n <= m->cap_history) return ST_OK;
    const size_t cap = n > m->cap_history * 2 ? n : m->cap_history * 2;
    int32_t *ids = mem_array(cap, sizeof *ids);
    if (!ids) return err_nomem();
    mem_free(m->history);
    m->history = ids;
    m->cap_history = cap;
    return ST_OK;
}

status row_memory_reset(row_memory *m, const plan *p)
{
    size_t n_edits = 0, n_history = 0;
    for (int i = 0; i < p->b.n_seqs; i++) {
        const plan_seq *q = &p->seqs[i];
        if (!q->sample) continue;
        n_edits += most_edits(&q->r->params);
        if (penalises(&q->r->params)) n_history += (size_t)(q->start + q->n);
    }
    m->n_edits = m->n_history = 0;
    TRY(grow_edits(m, n_edits));
    return grow_history(m, n_history);
}

typedef enum answer { NO, YES, UNKNOWN } answer;

/* Do the outputs end in these tokens? */
static answer ends_in(const engine_request *r, int n_tokens, const int32_t *prefix, int len)
{
    if (len > n_tokens - r->n_prompt) return NO;
    const int from = n_tokens - len, n_valued = r->n_valued < from ? 0 : r->n_valued < n_tokens ? r->n_valued - from : len;
    if (n_valued > 0 && memcmp(r->tokens + from, prefix, (size_t)n_valued * sizeof *prefix) != 0) return NO;
    return n_valued == len ? YES : UNKNOWN;
}

bool sample_row_needs_values(const engine_request *r, int n_tokens)
{
    const sampling_params *p = &r->params;
    for (int i = 0; i < p->n_bad_words; i++)
        if (ends_in(r, n_tokens, p->bad_words[i], p->bad_word_lens[i] - 1) == UNKNOWN) return true;
    return false;
}

/* Each token has at most one edit, so that a device may add them in any order: biases add up, and what is banned stays banned. */
static void edit(row_memory *m, size_t first, uint32_t *marks, int32_t id, float value)
{
    if (marks[id]) {
        float *v = &m->edit_values[first + marks[id] - 1];
        *v = *v == -INFINITY || value == -INFINITY ? -INFINITY : *v + value;
        return;
    }
    m->edit_ids[m->n_edits] = id;
    m->edit_values[m->n_edits++] = value;
    marks[id] = (uint32_t)(m->n_edits - first);
}

static void fill_edits(row_memory *m, const engine_request *r, int n_tokens, int vocab_size, uint32_t *marks, sample_row *out)
{
    const sampling_params *p = &r->params;
    const size_t first = m->n_edits;
    for (int i = 0; i < p->n_bad_words; i++) {
        const int prefix = p->bad_word_lens[i] - 1;
        if (ends_in(r, n_tokens, p->bad_words[i], prefix) == YES) edit(m, first, marks, p->bad_words[i][prefix], -INFINITY);
    }
    for (int i = 0; n_tokens - r->n_prompt < p->min_tokens && i < p->n_all_stop_ids; i++)
        if (p->all_stop_ids[i] >= 0 && p->all_stop_ids[i] < vocab_size) edit(m, first, marks, p->all_stop_ids[i], -INFINITY);
    for (int i = 0; i < p->n_logit_bias; i++) edit(m, first, marks, p->logit_bias_ids[i], p->logit_bias[i]);
    for (size_t i = first; i < m->n_edits; i++) marks[m->edit_ids[i]] = 0;
    out->n_edits = (int)(m->n_edits - first);
    if (out->n_edits == 0) return;
    out->edit_ids = m->edit_ids + first;
    out->edit_values = m->edit_values + first;
}

/* A copy, since the request's own tokens change while the step is in flight. Without a repetition penalty the prompt does not count. */
static void fill_history(row_memory *m, const engine_request *r, int n_tokens, sample_row *out)
{
    const sampling_params *p = &r->params;
    if (!penalises(p)) return;
    const int from = penalises_prompt(p) ? 0 : r->n_prompt, n_valued = r->n_valued < n_tokens ? r->n_valued : n_tokens;
    int32_t *h = m->history + m->n_history;
    if (n_valued > from) memcpy(h, r->tokens + from, (size_t)(n_valued - from) * sizeof *h);
    for (int pos = n_valued; pos < n_tokens; pos++) h[pos - from] = ring_name(r, pos);
    m->n_history += (size_t)(n_tokens - from);
    out->history = h;
    out->n_history = n_tokens - from;
    out->n_prompt = r->n_prompt - from;
    out->presence_penalty = p->presence_penalty;
    out->frequency_penalty = p->frequency_penalty;
    out->repetition_penalty = p->repetition_penalty;
}

/* The same for each output: made once. */
static status make_mask(engine_request *r, int vocab_size)
{
    const sampling_params *p = &r->params;
    if (p->n_allowed_token_ids == 0 || r->mask) return ST_OK;
    uint32_t *bits = mem_calloc(((size_t)vocab_size + 31) / 32, sizeof *bits);
    if (!bits) return err_nomem();
    for (int i = 0; i < p->n_allowed_token_ids; i++) bits[p->allowed_token_ids[i] / 32] |= 1u << p->allowed_token_ids[i] % 32;
    r->mask = bits;
    return ST_OK;
}

sample_row sample_row_unused(void) { return (sample_row){ .slot = -1, .repetition_penalty = 1, .top_p = 1 }; }

status sample_row_fill(row_memory *m, engine_request *r, int n_tokens, int vocab_size, uint32_t *marks, sample_row *out)
{
    const sampling_params *p = &r->params;
    *out = sample_row_unused();
    out->slot = r->slot;
    out->ring_pos = n_tokens % BATCH_RING;
    out->key = sampler_key(r->rng_seed, n_tokens - r->n_prompt);
    if (p->temperature >= GREEDY_BELOW) {
        out->temperature = p->temperature;
        out->min_p = p->min_p;
        out->top_k = p->top_k > 0 && p->top_k < vocab_size ? p->top_k : 0;
        out->top_p = p->top_p;
    }
    if (!sample_row_needs_memory(r)) return ST_OK;
    if (!m) return err_nomem();
    TRY(make_mask(r, vocab_size));
    out->mask = r->mask;
    fill_edits(m, r, n_tokens, vocab_size, marks, out);
    fill_history(m, r, n_tokens, out);
    return ST_OK;
}
