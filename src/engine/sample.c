#include "engine/sample.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "engine/cut.h"
#include "engine/row.h"

struct sampler {
    size_t n;                 /* vocabulary */
    logprobs_mode mode;
    const row_ops *ops;
    float *copy;              /* [n] logits as they came, or those kept while others are banned */
    uint32_t *marks;          /* [n] of history tokens; all zero between calls */
    cut_scratch cut;
};

status lp_vec_reserve(lp_vec *v, size_t n)
{
    if (v->cap - v->len >= n) return ST_OK;
    size_t cap = v->cap * 2 > v->len + n ? v->cap * 2 : v->len + n;
    token_logprob *p = mem_realloc_array(v->data, cap, sizeof *p);
    if (!p) return err_nomem();
    v->data = p;
    v->cap = cap;
    return ST_OK;
}

void lp_vec_free(lp_vec *v)
{
    mem_free(v->data);
    *v = (lp_vec){0};
}

status sampler_new(int vocab_size, logprobs_mode mode, sampler **out)
{
    sampler *s = mem_calloc(1, sizeof *s);
    if (!s) return err_nomem();
    s->n = (size_t)vocab_size;
    s->mode = mode;
    s->ops = row_ops_best();
    s->copy = mem_array(s->n, sizeof *s->copy);
    s->marks = mem_calloc(s->n, sizeof *s->marks);
    status st = s->copy && s->marks ? cut_scratch_new(&s->cut, s->ops, s->n) : err_nomem();
    if (st != ST_OK) {
        sampler_free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

void sampler_free(sampler *s)
{
    if (!s) return;
    mem_free(s->copy);
    mem_free(s->marks);
    cut_scratch_free(&s->cut);
    mem_free(s);
}

/* ---- logits processors, in vLLM's order ---- */

static void allow_only(const sampler *s, const sampling_params *p, float *x)
{
    if (p->n_allowed_token_ids == 0) return;
    float *kept = s->cut.vals; /* repeated ids are harmless: all are read before any is written */
    size_t n = 0;
    for (int i = 0; i < p->n_allowed_token_ids && n < s->n; i++) {
        const size_t id = (size_t)p->allowed_token_ids[i];
        if (s->marks[id]) continue;
        s->marks[id] = 1;
        s->cut.ids[n] = (int32_t)id;
        kept[n++] = x[id];
    }
    for (size_t i = 0; i < s->n; i++) x[i] = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        x[s->cut.ids[i]] = kept[i];
        s->marks[s->cut.ids[i]] = 0;
    }
}

static void ban_words(const sample_input *in, float *x)
{
    const sampling_params *p = in->params;
    const int n_out = in->n_tokens - in->n_prompt;
    for (int i = 0; i < p->n_bad_words; i++) {
        const int32_t *word = p->bad_words[i];
        const int prefix = p->bad_word_lens[i] - 1;
        if (prefix > n_out) continue;
        if (prefix > 0 && memcmp(in->tokens + in->n_tokens - prefix, word, (size_t)prefix * sizeof *word) != 0) continue;
        x[word[prefix]] = -INFINITY;
    }
}

static void ban_early_stop(const sampler *s, const sample_input *in, float *x)
{
    const sampling_params *p = in->params;
    if (in->n_tokens - in->n_prompt >= p->min_tokens) return;
    for (int i = 0; i < p->n_all_stop_ids; i++)
        if (p->all_stop_ids[i] >= 0 && (size_t)p->all_stop_ids[i] < s->n) x[p->all_stop_ids[i]] = -INFINITY;
}

static void add_bias(const sampling_params *p, float *x)
{
    for (int i = 0; i < p->n_logit_bias; i++) x[p->logit_bias_ids[i]] += p->logit_bias[i];
}

enum { MARK_REPEATED = 1u << 31, MARK_COUNTED = 1u << 30, MARK_COUNT = MARK_COUNTED - 1 };

/* Counts live in marks only for the length of this call: linear in the history, and nothing to keep in step with it. */
static void penalise(const sampler *s, const sample_input *in, float *x)
{
    const sampling_params *p = in->params;
    const bool repetition = p->repetition_penalty != 1.0f, output = p->frequency_penalty != 0 || p->presence_penalty != 0;
    if (!repetition && !output) return;
    uint32_t *m = s->marks;
    for (int i = in->n_prompt; i < in->n_tokens; i++) m[in->tokens[i]]++;
    for (int i = repetition ? 0 : in->n_prompt; i < in->n_tokens; i++) {
        const int32_t t = in->tokens[i];
        if (repetition && !(m[t] & (uint32_t)MARK_REPEATED)) {
            x[t] = x[t] > 0 ? x[t] / p->repetition_penalty : x[t] * p->repetition_penalty;
            m[t] |= (uint32_t)MARK_REPEATED;
        }
        if (i < in->n_prompt || m[t] & MARK_COUNTED) continue;
        m[t] |= MARK_COUNTED;
        x[t] -= p->frequency_penalty * (float)(m[t] & MARK_COUNT);
        x[t] -= p->presence_penalty;
    }
    for (int i = repetition ? 0 : in->n_prompt; i < in->n_tokens; i++) m[in->tokens[i]] = 0;
}

/* ---- choice ---- */

uint64_t sampler_key(uint64_t seed, int index) { return hash_mix64(seed + HASH_GOLDEN * (uint64_t)index); }

static float apply_temperature(const sampler *s, const sampling_params *p, float *x)
{
    return p->temperature == 1.0f ? s->ops->max(x, s->n) : s->ops->divide(x, s->n, p->temperature);
}

static int32_t choose(sampler *s, const sample_input *in, float *x, bool show_cut)
{
    const sampling_params *p = in->params;
    if (p->temperature < GREEDY_BELOW) return (int32_t)s->ops->argmax(x, s->n);
    const float max = apply_temperature(s, p, x);
    if (!isfinite(max)) return (int32_t)s->ops->argmax(x, s->n); /* everything banned, or a bias of infinity */
    const uint64_t key = sampler_key(in->seed, in->n_tokens - in->n_prompt);
    const cut_point at = cut_find(&s->cut, x, max, p->min_p, p->top_k, p->top_p);
    if (!cut_any(at)) return (int32_t)s->ops->race(x, NULL, s->n, max, key);
    if (show_cut || s->ops->count_ge(x, s->n, at.v) > s->n / 8) { /* the two ways give the same token; this one is faster for many */
        cut_apply(&s->cut, x, at);
        return (int32_t)s->ops->race(x, NULL, s->n, max, key);
    }
    const size_t n = cut_survivors(&s->cut, x, at);
    return s->cut.ids[s->ops->race(s->cut.vals, s->cut.ids, n, max, key)];
}

/* ---- logprobs ---- */

static void log_softmax(const sampler *s, float *x)
{
    const float max = s->ops->max(x, s->n);
    if (!isfinite(max)) return;
    const float log_sum = (float)log(s->ops->sum_exp(x, s->n, max));
    s->ops->shift(x, s->n, max, log_sum);
}

static int32_t rank_of(const sampler *s, const float *x, int32_t id) { return (int32_t)s->ops->count_ge(x, s->n, x[id]); }

/* `k` as in sampling_params.logprobs; x is the returned tensor. */
static status collect(sampler *s, const sampling_params *p, int k, const float *x, int32_t token, lp_vec *lps)
{
    const bool by_id = p->n_logprob_token_ids > 0;
    const size_t n = by_id ? (size_t)p->n_logprob_token_ids : k < 0 || (size_t)k > s->n ? s->n : (size_t)k;
    TRY(lp_vec_reserve(lps, n + 1));
    token_logprob *out = lps->data + lps->len;
    size_t m = 0;
    out[m++] = (token_logprob){ token, x[token], rank_of(s, x, token) };
    if (by_id) {
        for (size_t i = 0; i < n; i++) {
            const int32_t id = p->logprob_token_ids[i];
            if (id != token) out[m++] = (token_logprob){ id, x[id], rank_of(s, x, id) };
        }
    } else {
        const size_t found = cut_best(&s->cut, x, n);
        for (size_t i = 0; i < found; i++)
            if (s->cut.ids[i] != token) out[m++] = (token_logprob){ s->cut.ids[i], x[s->cut.ids[i]], (int32_t)i + 1 };
    }
    lps->len += m;
    return ST_OK;
}

bool sampler_wants_logprobs(const sampling_params *p) { return p->logprobs >= -1 || p->n_logprob_token_ids > 0; }

static bool shows_raw(const sampler *s) { return s->mode == LOGPROBS_RAW || s->mode == LOGITS_RAW; }

static void process(const sampler *s, const sample_input *in, float *x)
{
    allow_only(s, in->params, x);
    ban_words(in, x);
    ban_early_stop(s, in, x);
    add_bias(in->params, x);
    penalise(s, in, x);
}

static status collect_next(sampler *s, const sampling_params *p, float *shown, int32_t token, lp_vec *lps)
{
    if (s->mode == LOGPROBS_RAW || s->mode == LOGPROBS_PROCESSED) log_softmax(s, shown);
    return collect(s, p, p->logprobs < -1 ? 0 : p->logprobs, shown, token, lps);
}

status sampler_next(sampler *s, const sample_input *in, float *logits, int32_t *token, lp_vec *lps)
{
    const sampling_params *p = in->params;
    const bool wanted = sampler_wants_logprobs(p), raw = shows_raw(s);
    if (wanted && raw) memcpy(s->copy, logits, s->n * sizeof *logits);
    process(s, in, logits);
    *token = choose(s, in, logits, wanted && !raw);
    if (!wanted) return ST_OK;
    return collect_next(s, p, raw ? s->copy : logits, *token, lps);
}

status sampler_logprobs(sampler *s, const sample_input *in, float *logits, int32_t token, lp_vec *lps)
{
    const sampling_params *p = in->params;
    if (shows_raw(s)) return collect_next(s, p, logits, token, lps);
    process(s, in, logits);
    if (p->temperature >= GREEDY_BELOW) {
        const float max = apply_temperature(s, p, logits);
        const cut_point at = isfinite(max) ? cut_find(&s->cut, logits, max, p->min_p, p->top_k, p->top_p) : (cut_point){ -INFINITY, 0 };
        if (cut_any(at)) cut_apply(&s->cut, logits, at);
    }
    return collect_next(s, p, logits, token, lps);
}

status sampler_prompt(sampler *s, const sampling_params *p, int32_t token, const float *logits, lp_vec *lps)
{
    memcpy(s->copy, logits, s->n * sizeof *logits);
    if (s->mode == LOGPROBS_RAW || s->mode == LOGPROBS_PROCESSED) log_softmax(s, s->copy);
    sampling_params plain = { .logprobs = p->prompt_logprobs };
    return collect(s, &plain, p->prompt_logprobs, s->copy, token, lps);
}
