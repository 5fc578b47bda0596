#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/mem.h"
#include "engine/internal.h"

void request_ref(engine_request *r) { atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed); }

void engine_request_release(engine_request *r)
{
    if (!r || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1) return;
    for (int i = 0; i < r->n_media; i++) media_rows_release(r->media[i].rows);
    lp_vec_free(&r->plp.items);
    mem_free(r->plp.pos);
    mem_free(r->tokens);
    mem_free(r->blocks);
    mem_free(r->hashes);
    mem_free(r->mask);
    arena_free(&r->mem);
    mem_free(r);
}

static status check_ids(const char *what, const int32_t *ids, int n, int vocab_size)
{
    if (n < 0 || (n > 0 && !ids)) return err_set(ST_INVALID, "%s: expected %d token ids, got none", what, n);
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab_size)
            return err_set(ST_INVALID, "%s: token id %d is out of vocabulary (0..%d)", what, ids[i], vocab_size - 1);
    return ST_OK;
}

static status check_float(const char *what, float x, float lo, float hi)
{
    if (isfinite(x) && x >= lo && x <= hi) return ST_OK;
    return err_set(ST_INVALID, "%s must be between %g and %g, got %g", what, (double)lo, (double)hi, (double)x);
}

static status check_params(const sampling_params *p, int vocab_size)
{
    TRY(check_float("temperature", p->temperature, 0, 1e6f));
    TRY(check_float("top_p", p->top_p, 1e-30f, 1));
    TRY(check_float("min_p", p->min_p, 0, 1));
    TRY(check_float("presence_penalty", p->presence_penalty, -1e6f, 1e6f));
    TRY(check_float("frequency_penalty", p->frequency_penalty, -1e6f, 1e6f));
    TRY(check_float("repetition_penalty", p->repetition_penalty, 1e-30f, 1e30f));
    if (p->max_tokens < 1) return err_set(ST_INVALID, "max_tokens must be at least 1, got %d", p->max_tokens);
    if (p->logprobs < -2) return err_set(ST_INVALID, "logprobs must be -1 (all) or at least 0, got %d", p->logprobs);
    if (p->prompt_logprobs < -2) return err_set(ST_INVALID, "prompt_logprobs must be -1 (all) or at least 0, got %d", p->prompt_logprobs);
    TRY(check_ids("logprob_token_ids", p->logprob_token_ids, p->n_logprob_token_ids, vocab_size));
    TRY(check_ids("allowed_token_ids", p->allowed_token_ids, p->n_allowed_token_ids, vocab_size));
    TRY(check_ids("logit_bias", p->logit_bias_ids, p->n_logit_bias, vocab_size));
    for (int i = 0; i < p->n_logit_bias; i++)
        if (isnan(p->logit_bias[i])) return err_set(ST_INVALID, "logit_bias of token %d is not a number", p->logit_bias_ids[i]);
    for (int i = 0; i < p->n_bad_words; i++) {
        if (p->bad_word_lens[i] < 1) return err_set(ST_INVALID, "bad_words[%d] is empty", i);
        TRY(check_ids("bad_words", p->bad_words[i], p->bad_word_lens[i], vocab_size));
    }
    if (p->rep_max_pattern > 0 && (p->rep_min_pattern > p->rep_max_pattern || p->rep_min_count < 2))
        return err_set(ST_INVALID, "repetition_detection needs min_pattern_size <= max_pattern_size and min_count >= 2");
    return ST_OK;
}

/* Items in order, within the prompt, with as many rows as their tokens name. */
static status check_media(const request_spec *s, const engine_options *o)
{
    int before = 0;
    if (s->n_media > 0 && !s->media_row) return err_set(ST_INVALID, "media without the places of their rows");
    for (int i = 0; i < s->n_media; i++) {
        const request_media *m = &s->media[i];
        if (m->from < before || m->to <= m->from || m->to > s->n_prompt) return err_set(ST_INVALID, "media item %d lies at %d .. %d of %d tokens", i, m->from, m->to, s->n_prompt);
        for (int t = m->from; t < m->to; t++)
            if (s->media_row[t] >= m->rows->n) return err_set(ST_INVALID, "media item %d has %lld rows, token %d wants number %d", i, (long long)m->rows->n, t, s->media_row[t]);
        if (s->media_sees_all && m->to - m->from > o->max_num_batched_tokens)
            return err_set(ST_INVALID, "an item of %d tokens is more than max_num_batched_tokens (%d)", m->to - m->from, o->max_num_batched_tokens);
        before = m->to;
    }
    return ST_OK;
}

static status check_spec(const request_spec *s, const engine_options *o, int vocab_size)
{
    if (!s->params || !s->on_output) return err_set(ST_INVALID, "a request needs sampling parameters and an output callback");
    if (s->n_prompt < 1 || !s->prompt) return err_set(ST_INVALID, "the prompt is empty: at least one token is needed");
    if (s->n_prompt > o->max_model_len)
        return err_set(ST_INVALID, "the prompt has %d tokens, the model's context length is %d", s->n_prompt, o->max_model_len);
    TRY(check_ids("prompt", s->prompt, s->n_prompt, vocab_size));
    TRY(check_media(s, o));
    return check_params(s->params, vocab_size);
}

static status copy_array(arena *a, const void **p, size_t n, size_t size)
{
    if (n == 0) {
        *p = NULL;
        return ST_OK;
    }
    void *q = arena_alloc(a, n * size);
    if (!q) return err_nomem();
    memcpy(q, *p, n * size);
    *p = q;
    return ST_OK;
}

#define COPY(field, n) TRY(copy_array(a, (const void **)&p->field, (size_t)p->n, sizeof *p->field))
static status copy_params(arena *a, sampling_params *p)
{
    COPY(logprob_token_ids, n_logprob_token_ids);
    COPY(stop_token_ids, n_stop_token_ids);
    COPY(eos_ids, n_eos_ids);
    COPY(all_stop_ids, n_all_stop_ids);
    COPY(allowed_token_ids, n_allowed_token_ids);
    COPY(logit_bias, n_logit_bias);
    COPY(logit_bias_ids, n_logit_bias);
    COPY(bad_word_lens, n_bad_words);
    const int32_t **words = arena_alloc(a, (size_t)p->n_bad_words * sizeof *words);
    if (!words) return err_nomem();
    for (int i = 0; i < p->n_bad_words; i++) {
        words[i] = p->bad_words[i];
        TRY(copy_array(a, (const void **)&words[i], (size_t)p->bad_word_lens[i], sizeof **words));
    }
    p->bad_words = words;
    return ST_OK;
}
#undef COPY

static status copy_text(arena *a, const char *s, const char **out)
{
    *out = NULL;
    if (!s) return ST_OK;
    *out = arena_strdup(a, s);
    return *out ? ST_OK : err_nomem();
}

static status copy_media(engine_request *r, const request_spec *s)
{
    const void *rows = s->media_row, *positions = s->positions3;
    if (s->n_media > 0) {
        request_media *all = arena_alloc(&r->mem, (size_t)s->n_media * sizeof *all);
        if (!all) return err_nomem();
        r->media = all;
        for (int i = 0; i < s->n_media; i++, r->n_media++) {
            all[i] = s->media[i];
            media_rows_ref(all[i].rows);
        }
        TRY(copy_array(&r->mem, &rows, (size_t)s->n_prompt, sizeof(int32_t)));
        r->media_row = (int32_t *)(uintptr_t)rows;
    }
    if (!s->positions3) return ST_OK;
    TRY(copy_array(&r->mem, &positions, 3 * (size_t)s->n_prompt, sizeof(int32_t)));
    r->positions3 = (int32_t *)(uintptr_t)positions;
    r->position_delta = s->position_delta;
    return ST_OK;
}

static status fill(engine_request *r, const request_spec *spec, const engine_options *o, int n_groups, const block_hasher *hasher)
{
    TRY(copy_params(&r->mem, &r->params));
    TRY(copy_text(&r->mem, spec->id ? spec->id : "", &r->id));
    TRY(copy_text(&r->mem, spec->cache_salt, &r->cache_salt));
    TRY(copy_media(r, spec));
    r->media_sees_all = spec->media_sees_all && spec->n_media > 0;
    r->max_blocks = (r->limit_len + o->block_size - 1) / o->block_size;
    r->tokens = mem_array((size_t)r->limit_len, sizeof *r->tokens);
    r->blocks = mem_array((size_t)n_groups * (size_t)r->max_blocks, sizeof *r->blocks);
    if (!r->tokens || !r->blocks) return err_nomem();
    memcpy(r->tokens, spec->prompt, (size_t)r->n_prompt * sizeof *r->tokens);
    if (r->wants_prompt_logprobs) {
        r->plp.pos = mem_calloc((size_t)r->n_prompt, sizeof *r->plp.pos);
        if (!r->plp.pos) return err_nomem();
    }
    if (!hasher) return ST_OK;
    r->hashes = mem_array((size_t)r->max_blocks, sizeof *r->hashes);
    if (!r->hashes) return err_nomem();
    buf scratch = {0};
    status st = request_hash(r, hasher, o->block_size, &scratch);
    buf_free(&scratch);
    return st;
}

status request_new(const request_spec *spec, const engine_options *o, int vocab_size, int rope_switch_len, int n_groups, const block_hasher *hasher,
                   uint64_t seq, engine_request **out)
{
    TRY(check_spec(spec, o, vocab_size));
    engine_request *r = mem_calloc(1, sizeof *r);
    if (!r) return err_nomem();
    atomic_init(&r->refs, 1);
    r->seq = seq;
    r->params = *spec->params;
    r->priority = spec->priority;
    r->arrival_s = spec->arrival_s > 0 ? spec->arrival_s : clock_now();
    r->queued_s = clock_now();
    r->rng_seed = r->params.has_seed ? hash_mix64((uint64_t)r->params.seed) : hash_mix64(hash_mix64(o->seed) ^ hash_mix64(seq + 1));
    r->on_output = spec->on_output;
    r->user = spec->user;
    r->n_prompt = r->n_known = r->n_valued = spec->n_prompt;
    r->slot = -1;
    int64_t most = (int64_t)r->n_prompt + r->params.max_tokens;
    if (most > o->max_model_len) most = o->max_model_len;
    r->limit_len = most > r->n_prompt ? (int)most : r->n_prompt + 1; /* a prompt that fills the context still gets one token */
    r->wants_prompt_logprobs = r->params.prompt_logprobs >= -1;
    r->n_plp_planned = 1; /* the first token has none */
    r->rope_variant = rope_switch_len > 0 && r->n_prompt > rope_switch_len;
    r->heap_at = -1;
    status st = fill(r, spec, o, n_groups, hasher);
    if (st != ST_OK) {
        engine_request_release(r);
        return st;
    }
    *out = r;
    return ST_OK;
}

status request_hash(engine_request *r, const block_hasher *h, int block_size, buf *scratch)
{
    while ((r->n_hashes + 1) * block_size <= r->n_known) {
        const int i = r->n_hashes;
        TRY(block_hasher_run_media(h, i > 0 ? &r->hashes[i - 1] : NULL, r->tokens + (size_t)i * (size_t)block_size, block_size, r->cache_salt,
                                   r->rope_variant == 1, &(block_media){ r->media, r->n_media, i * block_size }, scratch, &r->hashes[i]));
        r->n_hashes++;
    }
    return ST_OK;
}
