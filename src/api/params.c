#include "api/params.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/fields.h"
#include "base/log.h"
#include "base/utf8.h"

#define GREEDY 1e-5

static int64_t env_i64(const char *name, int64_t def)
{
    const char *s = getenv(name);
    char *end;
    if (!s || !*s) return def;
    long long v = strtoll(s, &end, 10);
    return *end ? def : v;
}

/* Python's text of a number, for messages. */
static const char *num(double d, char *s)
{
    json_repr_f64(s, 40, d);
    return s;
}

/* request > generation_config > OpenAI's default */
static double pick(const app *a, const jv *body, const char *name, double def)
{
    return field_f64(body, name, jv_get_f64(a->o.default_sampling, name, def));
}

static status parse_numbers(const app *a, const jv *b, gen_params *p, api_error *e)
{
    sampling_params *s = &p->sp;
    char t[40];
    double temp = pick(a, b, "temperature", 1), top_p = pick(a, b, "top_p", 1), min_p = pick(a, b, "min_p", 0);
    double rep = pick(a, b, "repetition_penalty", 1);
    double pres = field_f64(b, "presence_penalty", 0), freq = field_f64(b, "frequency_penalty", 0);
    int64_t top_k = field_i64(b, "top_k", jv_get_i64(a->o.default_sampling, "top_k", 0)), n = field_i64(b, "n", 1);
    int64_t max_n = env_i64("VLLM_MAX_N_SEQUENCES", 16384);
    if (n < 1) return api_bad(e, "n", "n must be at least 1, got %" PRId64 ".", n);
    if (n > max_n) return api_bad(e, "n", "n must be at most %" PRId64 ", got %" PRId64 ". To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable.", max_n, n);
    if (!(pres >= -2 && pres <= 2)) return api_bad(e, "presence_penalty", "presence_penalty must be in [-2, 2], got %s.", num(pres, t));
    if (!(freq >= -2 && freq <= 2)) return api_bad(e, "frequency_penalty", "frequency_penalty must be in [-2, 2], got %s.", num(freq, t));
    if (!(rep > 0) || !isfinite(rep)) return api_bad(e, "repetition_penalty", "repetition_penalty must be greater than zero, got %s.", num(rep, t));
    if (!isfinite(temp)) return api_bad(e, "temperature", "temperature must be a finite number, got %s.", num(temp, t));
    if (temp < 0) return api_bad(e, "temperature", "temperature must be non-negative, got %s.", num(temp, t));
    if (temp > 2) return api_bad(e, "temperature", "temperature must be in [0, 2], got %s.", num(temp, t));
    if (!(top_p > 0 && top_p <= 1)) return api_bad(e, "top_p", "top_p must be in (0, 1], got %s.", num(top_p, t));
    if (top_k < -1) return api_bad(e, "top_k", "top_k must be 0 (disable), or at least 1, got %" PRId64 ".", top_k);
    if (!(min_p >= 0 && min_p <= 1)) return api_bad(e, "min_p", "min_p must be in [0, 1], got %s.", num(min_p, t));
    if (temp > 0 && temp < 0.01 && temp >= GREEDY) {
        log_warn("temperature %s is less than 0.01, which may cause numerical errors nan or inf in tensors. We have maxed it out to 0.01.", num(temp, t));
        temp = 0.01;
    }
    if (temp < GREEDY) {
        if (n > 1) return api_bad(e, "n", "n must be 1 when using greedy sampling, got %" PRId64 ".", n);
        top_p = 1;
        top_k = 0;
        min_p = 0;
    }
    p->n = (int)n;
    s->temperature = (float)temp;
    s->top_p = (float)top_p;
    s->min_p = (float)min_p;
    s->top_k = top_k <= 0 || top_k >= a->o.vocab_size ? 0 : (int)top_k;
    s->repetition_penalty = (float)rep;
    s->presence_penalty = (float)pres;
    s->frequency_penalty = (float)freq;
    int64_t seed = field_i64(b, "seed", -1);
    s->has_seed = field_has(b, "seed") && seed != -1;
    s->seed = s->has_seed ? seed : 0;
    return ST_OK;
}

/* Above the context length is the client's mistake and not a silent cut: facts of the API, section "context-length checks". */
static status parse_lengths(const app *a, const jv *b, int where, gen_params *p, api_error *e)
{
    const char *name = where == FIELD_CHAT && field_has(b, "max_completion_tokens") ? "max_completion_tokens" : "max_tokens";
    const jv *dflt = jv_get(a->o.default_sampling, "max_tokens");
    int64_t max = field_i64(b, name, 0);
    p->has_max_tokens = true;
    if (!field_has(b, name)) {
        if (where == FIELD_COMPLETION) max = 16;
        else if (dflt) max = jv_i64(dflt, 16);
        else p->has_max_tokens = false, max = a->o.max_model_len;
        if (dflt && max > jv_i64(dflt, max)) max = jv_i64(dflt, max);
        if (max > a->o.max_model_len) max = a->o.max_model_len;
    }
    if (max == 0 && p->echo && where == FIELD_COMPLETION) {
        p->prompt_only = true;
        max = 1;
    }
    if (max < 1) return api_bad(e, name, "%s must be at least 1, got %" PRId64 ".", name, max);
    if (max > a->o.max_model_len)
        return api_bad(e, name, "%s=%" PRId64 " cannot be greater than max_model_len=%d. Please request fewer output tokens.", name, max, a->o.max_model_len);
    int64_t min = field_i64(b, "min_tokens", 0);
    if (min < 0) return api_bad(e, "min_tokens", "min_tokens must be greater than or equal to 0, got %" PRId64 ".", min);
    if (min > max) return api_bad(e, "min_tokens", "min_tokens must be less than or equal to max_tokens=%" PRId64 ", got %" PRId64 ".", max, min);
    p->sp.max_tokens = (int)max;
    p->sp.min_tokens = (int)min;
    return ST_OK;
}

static status check_logprob_count(const app *a, const char *name, const char *what, int64_t k, api_error *e)
{
    int64_t max = a->o.max_logprobs == -1 ? a->o.vocab_size : a->o.max_logprobs;
    if (k < -1) return api_bad(e, name, "%s must be non-negative or -1, got %" PRId64 ".", name, k);
    if (k == -1) k = a->o.vocab_size;
    if (k > max) return api_bad(e, name, "Requested %s logprobs of %" PRId64 ", which is greater than max allowed: %" PRId64, what, k, max);
    return ST_OK;
}

static status parse_logprobs(const app *a, const jv *b, int where, gen_params *p, api_error *e)
{
    p->n_show = p->sp.logprobs = p->sp.prompt_logprobs = -2;
    if (where == FIELD_CHAT) {
        bool want = field_bool(b, "logprobs", false);
        int64_t k = field_i64(b, "top_logprobs", 0);
        if (k < -1) return fields_value_error(e, "top_logprobs", "`top_logprobs` must be a positive value or -1.");
        if (k != 0 && !want) return fields_value_error(e, "top_logprobs", "when using `top_logprobs`, `logprobs` must be set to true.");
        if (want) {
            TRY(check_logprob_count(a, "top_logprobs", "sample", k, e));
            p->n_show = p->sp.logprobs = (int)k;
        }
    } else if (field_has(b, "logprobs")) {
        int64_t k = field_i64(b, "logprobs", 0);
        TRY(check_logprob_count(a, "logprobs", "sample", k, e));
        p->n_show = p->sp.logprobs = (int)k;
    }
    if (field_has(b, "prompt_logprobs")) {
        int64_t k = field_i64(b, "prompt_logprobs", 0);
        if (p->stream && k != 0) return fields_value_error(e, "prompt_logprobs", "`prompt_logprobs` are not available when `stream=True`.");
        TRY(check_logprob_count(a, "prompt_logprobs", "prompt", k, e));
        p->sp.prompt_logprobs = (int)k;
    } else if (p->echo && where == FIELD_COMPLETION) {
        p->sp.prompt_logprobs = p->n_show;
    }
    return ST_OK;
}

/* A list of token ids, each within the vocabulary. */
static status id_list(const app *a, const jv *b, const char *name, arena *mem, const int32_t **out, int *n, api_error *e)
{
    const jv *l = jv_get(b, name);
    size_t len = jv_len(l);
    *out = NULL;
    *n = 0;
    if (!jv_is(l, JV_ARR) || len == 0) return ST_OK;
    int32_t *ids = arena_alloc(mem, len * sizeof *ids);
    if (!ids) return api_fail_status(e, err_nomem(), NULL);
    for (size_t i = 0; i < len; i++) {
        int64_t x = -1;
        bool is_int = field_to_i64(jv_at(l, i), &x);
        if (!is_int || x < 0 || x >= a->o.vocab_size)
            return api_bad(e, name, "%s contains out-of-vocab token id %" PRId64 ". Vocabulary size: %d", name, x, a->o.vocab_size);
        ids[i] = (int32_t)x;
    }
    *out = ids;
    *n = (int)len;
    return ST_OK;
}

static status parse_bias(const app *a, const jv *b, arena *mem, sampling_params *s, api_error *e)
{
    const jv *o = jv_get(b, "logit_bias");
    size_t len = jv_is(o, JV_OBJ) ? jv_len(o) : 0, i = 0;
    if (len == 0) return ST_OK;
    int32_t *ids = arena_alloc(mem, len * sizeof *ids);
    float *vals = arena_alloc(mem, len * sizeof *vals);
    if (!ids || !vals) return api_fail_status(e, err_nomem(), NULL);
    for (jv_iter it = jv_begin(o); jv_next(&it) && i < len; i++) {
        char *end;
        long long id = strtoll(it.key, &end, 10);
        if (end == it.key || *end) return api_bad(e, "logit_bias", "Found key '%.40s' in logit_bias, which is not a token id.", it.key);
        if (id < 0 || id >= a->o.vocab_size) return api_bad(e, "logit_bias", "token_id(s) [%lld] in logit_bias contain out-of-vocab token ids. Vocabulary size: %d", id, a->o.vocab_size);
        double v = jv_is(it.val, JV_STR) ? strtod(jv_str(it.val, "0"), NULL) : jv_f64(it.val, 0);
        if (isnan(v)) return api_bad(e, "logit_bias", "logit_bias of token %lld is not a number.", id);
        ids[i] = (int32_t)id;
        vals[i] = (float)(v > 100 ? 100 : v < -100 ? -100 : v);
    }
    s->logit_bias_ids = ids;
    s->logit_bias = vals;
    s->n_logit_bias = (int)i;
    return ST_OK;
}

/* A word is banned as it is written after a space and at the start of a text; the two differ in most tokenizers. */
static status parse_bad_words(const app *a, const jv *b, arena *mem, sampling_params *s, api_error *e)
{
    const jv *l = jv_get(b, "bad_words");
    size_t len = jv_is(l, JV_ARR) ? jv_len(l) : 0;
    int64_t limit = env_i64("VLLM_MAX_NUM_BAD_WORDS", 128);
    if (len == 0) return ST_OK;
    if ((int64_t)len > limit) return api_bad(e, "bad_words", "bad_words has %zu entries, at most %" PRId64 " are allowed.", len, limit);
    if (!a->o.tok) return api_bad(e, "bad_words", "bad_words need a tokenizer, and the server runs with --skip-tokenizer-init.");
    const int32_t **seqs = arena_alloc(mem, 2 * len * sizeof *seqs);
    int *lens = arena_alloc(mem, 2 * len * sizeof *lens);
    if (!seqs || !lens) return api_fail_status(e, err_nomem(), NULL);
    status st = ST_OK;
    int n = 0;
    i32vec ids = {0};
    buf text = {0};
    for (size_t i = 0; i < len; i++) {
        const char *word = jv_str(jv_at(l, i), "");
        if (!*word) {
            st = api_bad(e, "bad_words", "bad_words cannot contain an empty string.");
            goto out;
        }
        while (*word == ' ') word++;
        int plain = -1;
        for (int space = 0; space < 2; space++) {
            buf_clear(&text);
            ids.len = 0;
            if (space) buf_char(&text, ' ');
            buf_str(&text, word);
            st = buf_status(&text);
            if (st == ST_OK) st = tokenizer_encode(a->o.tok, buf_cstr(&text), text.len, false, &ids);
            if (st != ST_OK) {
                st = api_fail_status(e, st, "bad_words");
                goto out;
            }
            if (ids.len == 0) continue;
            if (space && (plain < 0 || ids.data[0] == seqs[plain][0] || (int)ids.len != lens[plain])) continue;
            int32_t *copy = arena_alloc(mem, ids.len * sizeof *copy);
            if (!copy) {
                st = api_fail_status(e, err_nomem(), NULL);
                goto out;
            }
            memcpy(copy, ids.data, ids.len * sizeof *copy);
            seqs[n] = copy;
            lens[n] = (int)ids.len;
            plain = n++;
        }
    }
    s->bad_words = seqs;
    s->bad_word_lens = lens;
    s->n_bad_words = n;
out:
    i32vec_free(&ids);
    buf_free(&text);
    return st;
}

static status parse_stop(const jv *b, arena *mem, gen_params *p, api_error *e)
{
    const jv *v = jv_get(b, "stop");
    size_t n = jv_is(v, JV_STR) ? 1 : jv_is(v, JV_ARR) ? jv_len(v) : 0;
    int64_t limit = env_i64("VLLM_MAX_STOP_STRINGS", 4);
    if (n == 0) return ST_OK;
    if ((int64_t)n > limit) return api_bad(e, "stop", "stop has %zu strings, at most %" PRId64 " are allowed. To increase this limit, set the VLLM_MAX_STOP_STRINGS environment variable.", n, limit);
    p->stop = arena_alloc(mem, n * sizeof *p->stop);
    if (!p->stop) return api_fail_status(e, err_nomem(), NULL);
    for (size_t i = 0; i < n; i++) {
        const char *s = jv_str(jv_is(v, JV_STR) ? v : jv_at(v, i), "");
        if (!*s) return api_bad(e, "stop", "stop cannot contain an empty string.");
        p->stop[i] = arena_strdup(mem, s);
        if (!p->stop[i]) return api_fail_status(e, err_nomem(), NULL);
        int chars = (int)utf8_count(s, strlen(s));
        if (chars - 1 > p->stop_hold) p->stop_hold = chars - 1;
    }
    p->n_stop = (int)n;
    if (p->include_stop) p->stop_hold = 0;
    if (!p->detokenize) return api_bad(e, "stop", "stop strings are only supported when detokenize is True. Set detokenize=True to use stop.");
    return ST_OK;
}

static bool has_id(const int32_t *ids, int n, int32_t id)
{
    for (int i = 0; i < n; i++)
        if (ids[i] == id) return true;
    return false;
}

/* Explicit stop ids, generation_config's and eos: who counts as what is in facts of the API, 5.1 and 5.4. */
static status parse_stop_ids(const app *a, const jv *b, arena *mem, sampling_params *s, api_error *e)
{
    const int32_t *own;
    int n_own, n = 0;
    TRY(id_list(a, b, "stop_token_ids", mem, &own, &n_own, e));
    size_t room = (size_t)n_own + (size_t)a->o.n_extra_eos + 1;
    int32_t *ids = arena_alloc(mem, room * sizeof *ids), *all = arena_alloc(mem, room * sizeof *all);
    int32_t *eos = arena_alloc(mem, sizeof *eos);
    if (!ids || !all || !eos) return api_fail_status(e, err_nomem(), NULL);
    for (int i = 0; i < n_own; i++)
        if (!has_id(ids, n, own[i])) ids[n++] = own[i];
    for (int i = 0; i < a->o.n_extra_eos && !s->ignore_eos; i++)
        if (a->o.extra_eos[i] != a->o.eos_id && !has_id(ids, n, a->o.extra_eos[i])) ids[n++] = a->o.extra_eos[i];
    s->stop_token_ids = ids;
    s->n_stop_token_ids = n;
    *eos = a->o.eos_id;
    s->eos_ids = eos;
    s->n_eos_ids = a->o.eos_id >= 0 && !s->ignore_eos;
    /* min_tokens masks eos even when it is ignored, as vLLM does */
    n = 0;
    for (int i = 0; i < s->n_stop_token_ids; i++) all[n++] = ids[i];
    if (a->o.eos_id >= 0 && !has_id(all, n, a->o.eos_id)) all[n++] = a->o.eos_id;
    for (int i = 0; i < a->o.n_extra_eos && (size_t)n < room; i++)
        if (!has_id(all, n, a->o.extra_eos[i])) all[n++] = a->o.extra_eos[i];
    s->all_stop_ids = all;
    s->n_all_stop_ids = n;
    return ST_OK;
}

static status parse_repetition(const jv *b, sampling_params *s, api_error *e)
{
    const jv *o = jv_get(b, "repetition_detection");
    if (!jv_is(o, JV_OBJ)) return ST_OK;
    int64_t max = field_i64(o, "max_pattern_size", 0), min = field_i64(o, "min_pattern_size", 0), count = field_i64(o, "min_count", 0);
    if (max < 0 || min < 0 || min > max || max > 100000)
        return api_bad(e, "repetition_detection", "repetition_detection needs 0 <= min_pattern_size <= max_pattern_size, got %" PRId64 " and %" PRId64 ".", min, max);
    if (max > 0 && (count < 2 || count > 100000)) return api_bad(e, "repetition_detection", "repetition_detection.min_count must be at least 2, got %" PRId64 ".", count);
    s->rep_max_pattern = (int)max;
    s->rep_min_pattern = min < 1 && max > 0 ? 1 : (int)min;
    s->rep_min_count = (int)count;
    return ST_OK;
}

/* What is known and not there yet must not be ignored in silence. */
static status refuse_unsupported(const jv *b, int where, api_error *e)
{
    const jv *rf = jv_get(b, "response_format"), *so = jv_get(b, "structured_outputs");
    const char *type = field_str(rf, "type", NULL);
    if (jv_is(rf, JV_OBJ) && !type) return fields_value_error(e, "response_format", "response_format needs a type.");
    if (type && strcmp(type, "text") != 0)
        return api_bad(e, "response_format", "response_format of type '%.60s' is not supported yet; only 'text' is.", type);
    if (jv_is(so, JV_OBJ) && jv_len(so) > 0) return api_bad(e, "structured_outputs", "structured_outputs are not supported yet.");
    if (field_bool(b, "use_beam_search", false)) return api_bad(e, "use_beam_search", "Beam search is not supported yet.");
    if (field_has(b, "thinking_token_budget")) return api_bad(e, "thinking_token_budget", "thinking_token_budget needs a reasoning parser, and none is configured.");
    if (field_has(b, "prompt_embeds")) return api_bad(e, "prompt_embeds", "You must set `--enable-prompt-embeds` to input `prompt_embeds`.");
    if (where == FIELD_COMPLETION && field_has(b, "suffix") && *field_str(b, "suffix", "")) return api_bad(e, "suffix", "suffix is not currently supported");
    return ST_OK;
}

static status parse_salt(const jv *b, arena *mem, gen_params *p, api_error *e)
{
    const jv *v = jv_get(b, "cache_salt");
    if (!jv_is(v, JV_STR)) return ST_OK;
    const char *s = jv_str(v, "");
    size_t n = jv_len(v);
    if (n == 0 || n > 128 || strlen(s) != n || strpbrk(s, "@/\\"))
        return fields_value_error(e, "cache_salt", "Parameter \"cache_salt\" must be a string of 1 to 128 characters without @, /, \\\\ and NUL if provided.");
    p->cache_salt = arena_strdup(mem, s);
    return p->cache_salt ? ST_OK : api_fail_status(e, err_nomem(), NULL);
}

static status parse_answer_options(const app *a, const jv *b, int where, gen_params *p, api_error *e)
{
    p->stream = field_bool(b, "stream", false);
    const jv *so = jv_get(b, "stream_options");
    if (jv_is(so, JV_OBJ) && !p->stream) return fields_value_error(e, "stream_options", "Stream options can only be defined when `stream=True`.");
    p->include_usage = a->o.force_include_usage || field_bool(so, "include_usage", false);
    p->continuous_usage = a->o.force_include_usage || (p->include_usage && field_bool(so, "continuous_usage_stats", false));
    p->echo = field_bool(b, "echo", false);
    p->include_stop = field_bool(b, "include_stop_str_in_output", false);
    p->skip_special = field_bool(b, "skip_special_tokens", true);
    p->spaces_between = field_bool(b, "spaces_between_special_tokens", true);
    p->detokenize = field_bool(b, "detokenize", true) && a->o.tok;
    p->return_token_ids = field_bool(b, "return_token_ids", false);
    p->tokens_as_ids = field_bool(b, "return_tokens_as_token_ids", a->o.tokens_as_ids);
    int64_t interval = field_i64(b, "stream_interval", 1);
    p->stream_interval = a->o.stream_interval > 1 ? a->o.stream_interval : 1;
    if (interval > p->stream_interval) p->stream_interval = interval > 1000000 ? 1000000 : (int)interval;
    p->priority = field_i64(b, "priority", 0);
    p->add_special = field_bool(b, "add_special_tokens", where == FIELD_COMPLETION);
    p->has_truncate = field_has(b, "truncate_prompt_tokens");
    p->truncate = field_i64(b, "truncate_prompt_tokens", 0);
    const char *side = field_str(b, "truncation_side", "left");
    if (strcmp(side, "left") != 0 && strcmp(side, "right") != 0) return fields_value_error(e, "truncation_side", "truncation_side must be left or right.");
    p->truncate_right = strcmp(side, "right") == 0;
    return ST_OK;
}

status params_parse(const app *a, const jv *b, int where, arena *mem, gen_params *out, api_error *e)
{
    gen_params p = {0};
    sampling_params *s = &p.sp;
    TRY(refuse_unsupported(b, where, e));
    TRY(parse_answer_options(a, b, where, &p, e));
    s->ignore_eos = field_bool(b, "ignore_eos", false);
    TRY(parse_numbers(a, b, &p, e));
    TRY(parse_lengths(a, b, where, &p, e));
    TRY(parse_logprobs(a, b, where, &p, e));
    TRY(id_list(a, b, "logprob_token_ids", mem, &s->logprob_token_ids, &s->n_logprob_token_ids, e));
    if (s->n_logprob_token_ids > 0 && s->logprobs == -2) return api_bad(e, "logprob_token_ids", "logprob_token_ids needs logprobs.");
    TRY(id_list(a, b, "allowed_token_ids", mem, &s->allowed_token_ids, &s->n_allowed_token_ids, e));
    if (jv_is(jv_get(b, "allowed_token_ids"), JV_ARR) && s->n_allowed_token_ids == 0) return api_bad(e, "allowed_token_ids", "allowed_token_ids is not None and empty!");
    TRY(parse_bias(a, b, mem, s, e));
    TRY(parse_bad_words(a, b, mem, s, e));
    TRY(parse_stop(b, mem, &p, e));
    TRY(parse_stop_ids(a, b, mem, s, e));
    TRY(parse_repetition(b, s, e));
    TRY(parse_salt(b, mem, &p, e));
    *out = p;
    return ST_OK;
}

static void repr_ids(buf *out, const char *name, const int32_t *ids, int n)
{
    buf_printf(out, ", %s=[", name);
    for (int i = 0; i < n; i++) buf_printf(out, i ? ", %d" : "%d", ids[i]);
    buf_char(out, ']');
}

static void repr_num(buf *out, const char *name, double d)
{
    char t[40];
    buf_printf(out, ", %s=%s", name, num((double)(float)d == d ? d : round(d * 1e6) / 1e6, t));
}

void params_repr(const gen_params *p, buf *out)
{
    const sampling_params *s = &p->sp;
    buf_printf(out, "SamplingParams(n=%d", p->n);
    repr_num(out, "presence_penalty", (double)s->presence_penalty);
    repr_num(out, "frequency_penalty", (double)s->frequency_penalty);
    repr_num(out, "repetition_penalty", (double)s->repetition_penalty);
    repr_num(out, "temperature", (double)s->temperature);
    repr_num(out, "top_p", (double)s->top_p);
    buf_printf(out, ", top_k=%d", s->top_k);
    repr_num(out, "min_p", (double)s->min_p);
    if (s->has_seed) buf_printf(out, ", seed=%" PRId64, s->seed);
    else buf_str(out, ", seed=None");
    buf_str(out, ", stop=[");
    for (int i = 0; i < p->n_stop; i++) buf_printf(out, i ? ", '%s'" : "'%s'", p->stop[i]);
    buf_char(out, ']');
    repr_ids(out, "stop_token_ids", s->stop_token_ids, s->n_stop_token_ids);
    buf_printf(out, ", include_stop_str_in_output=%s, ignore_eos=%s, max_tokens=%d, min_tokens=%d", p->include_stop ? "True" : "False",
               s->ignore_eos ? "True" : "False", s->max_tokens, s->min_tokens);
    if (s->logprobs == -2) buf_str(out, ", logprobs=None");
    else buf_printf(out, ", logprobs=%d", s->logprobs);
    if (s->prompt_logprobs == -2) buf_str(out, ", prompt_logprobs=None");
    else buf_printf(out, ", prompt_logprobs=%d", s->prompt_logprobs);
    buf_printf(out, ", skip_special_tokens=%s, spaces_between_special_tokens=%s)", p->skip_special ? "True" : "False", p->spaces_between ? "True" : "False");
}
