/* Token counts, per-request timing, and the log lines about a request. */
#include <inttypes.h>
#include <string.h>

#include "api/job.h"
#include "base/log.h"
#include "base/utf8.h"

usage usage_of_seq(const seq *s)
{
    return (usage){ .prompt = s->job->prompts[s->prompt].n, .completion = s->job->p.prompt_only ? 0 : (int64_t)s->tokens.len, .cached = s->n_cached,
                    .reasoning = s->n_reasoning };
}

/* A prompt counts once, however many choices it has. */
usage usage_of_job(const job *j)
{
    usage u = {0};
    for (int i = 0; i < j->n_seqs; i++) {
        usage one = usage_of_seq(&j->seqs[i]);
        u.completion += one.completion;
        u.reasoning += one.reasoning;
        if (i % j->p.n) continue;
        u.prompt += one.prompt;
        u.cached += one.cached;
    }
    return u;
}

void usage_json(const job *j, const usage *u, bool nulls, jw *w)
{
    jw_obj(w);
    jw_key(w, "prompt_tokens");     jw_i64(w, u->prompt);
    jw_key(w, "total_tokens");      jw_i64(w, u->prompt + u->completion);
    jw_key(w, "completion_tokens"); jw_i64(w, u->completion);
    if (j->app->o.prompt_tokens_details) {
        jw_key(w, "prompt_tokens_details");
        jw_obj(w);
        jw_key(w, "cached_tokens"); jw_i64(w, u->cached);
        jw_end_obj(w);
    } else if (nulls) {
        jw_key(w, "prompt_tokens_details"); jw_null(w);
    }
    if (j->harmony) {
        jw_key(w, "completion_tokens_details");
        jw_obj(w);
        jw_key(w, "reasoning_tokens"); jw_i64(w, u->reasoning);
        jw_end_obj(w);
    } else if (nulls) {
        jw_key(w, "completion_tokens_details"); jw_null(w);
    }
    jw_end_obj(w);
}

void usage_metrics(const job *j, jw *w)
{
    if (!j->app->o.per_request_metrics || j->n_seqs != 1) {
        jw_null(w);
        return;
    }
    const seq *s = &j->seqs[0];
    size_t n = s->tokens.len;
    double decode = s->last_token_s - s->first_token_s;
    jw_obj(w);
    jw_key(w, "time_to_first_token_ms"); jw_f64(w, (s->first_token_s - s->arrival_s) * 1e3);
    jw_key(w, "generation_time_ms");     jw_f64(w, decode * 1e3);
    jw_key(w, "queue_time_ms");          jw_f64(w, (s->scheduled_s - s->arrival_s) * 1e3);
    jw_key(w, "mean_itl_ms");
    if (n > 1) jw_f64(w, decode * 1e3 / (double)(n - 1));
    else jw_null(w);
    jw_key(w, "tokens_per_second");
    if (n > 1 && decode > 0) jw_f64(w, (double)(n - 1) / decode);
    else jw_null(w);
    jw_key(w, "speculative_decoding");   jw_null(w);
    jw_end_obj(w);
}

/* At most max_log_len characters of a text. */
static size_t clip(const app *a, const char *text, size_t n)
{
    if (a->o.max_log_len <= 0) return n;
    size_t i = 0;
    for (int chars = 0; i < n && chars < a->o.max_log_len; chars++) {
        uint32_t cp;
        i += utf8_decode(text + i, n - i, &cp);
    }
    return i;
}

static void log_long(const char *text) { log_info("%s", text); }

void usage_log_received(const job *j, const seq *s)
{
    buf b = {0};
    buf_printf(&b, "Received request %s: ", j->request_id);
    const prompt *p = &j->prompts[s->prompt];
    if (s->index % j->p.n == 0) {
        if (p->text && log_enabled(LOG_DEBUG))
            log_debug("Request %s details: prompt: '%.*s', prompt_token_ids: %d tokens", j->request_id, (int)clip(j->app, p->text, p->text_len), p->text, p->n);
        buf_str(&b, "params: ");
        params_repr(&j->p, &b);
        buf_str(&b, ", lora_request: None.");
        if (!b.failed) log_long(buf_cstr(&b));
    }
    buf_free(&b);
}

void usage_log_generated(const seq *s, const char *text, size_t n, const char *suffix)
{
    const char *why = output_finish_name(s->finish);
    log_info("Generated response %s%s: output: '%.*s', output_token_ids: %zu tokens, finish_reason: %s", s->job->request_id, suffix,
             (int)clip(s->job->app, text, n), text, s->tokens.len, why ? why : "None");
}

void json_ids(jw *w, const int32_t *ids, size_t n)
{
    jw_arr(w);
    for (size_t i = 0; i < n; i++) jw_i64(w, ids[i]);
    jw_end_arr(w);
}
