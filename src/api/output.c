/* From tokens to text: detokenisation, stop strings (facts of the API, 5.4 and 5.5), and what logprobs need. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/job.h"
#include "base/utf8.h"

enum { CONTEXT = 4 }; /* preceding tokens that can complete a character */

const char *output_finish_name(finish_reason r)
{
    switch (r) {
    case FINISH_NONE: return NULL;
    case FINISH_STOP: return "stop";
    case FINISH_LENGTH: return "length";
    case FINISH_ABORT: return "abort";
    case FINISH_ERROR: return "error";
    case FINISH_REPETITION: return "repetition";
    }
    return NULL;
}

void output_stop_reason(const seq *s, jw *w)
{
    if (s->stop_index >= 0) jw_str(w, s->job->p.stop[s->stop_index]);
    else if (s->finish == FINISH_STOP && s->stop_token >= 0) jw_i64(w, s->stop_token);
    else if (s->finish == FINISH_REPETITION) jw_str(w, "repetition_detected");
    else jw_null(w);
}

double output_clamp(float logprob) { return logprob < -9999.0f || isnan(logprob) ? -9999.0 : (double)logprob; }

int output_top_count(const job *j, int n, int k)
{
    return k == -1 || j->p.sp.n_logprob_token_ids > 0 || k > n ? n : k;
}

/* ---- strings of single tokens ---- */
static status id_text(int32_t id, buf *out)
{
    buf_printf(out, "token_id:%d", id);
    return buf_status(out);
}

status output_token_text(const job *j, const int32_t *ids, size_t pos, buf *out)
{
    if (j->p.tokens_as_ids || !j->app->o.tok) return id_text(ids[pos], out);
    size_t from = pos > CONTEXT ? pos - CONTEXT : 0;
    TRY(tokenizer_logprob_text(j->app->o.tok, ids + from, pos - from, out));
    return buf_status(out);
}

static status candidate_text(const tokenizer *t, const int32_t *ids, size_t pos, int32_t candidate, buf *out)
{
    int32_t window[CONTEXT + 1];
    size_t from = pos > CONTEXT ? pos - CONTEXT : 0, n = pos - from;
    if (n) memcpy(window, ids + from, n * sizeof *window);
    window[n] = candidate;
    TRY(tokenizer_logprob_text(t, window, n, out));
    return buf_status(out);
}

status output_candidate_text(const job *j, const int32_t *ids, size_t pos, int32_t candidate, buf *out)
{
    if (j->p.tokens_as_ids || !j->app->o.tok) return id_text(candidate, out);
    return candidate_text(j->app->o.tok, ids, pos, candidate, out);
}

static void prompt_position(const job *j, const prompt *p, size_t pos, const position_logprobs *lp, jw *w, buf *scratch, status *st)
{
    char key[16];
    jw_obj(w);
    for (int k = 0; k < lp->n && *st == ST_OK; k++) {
        const token_logprob *t = &lp->items[k];
        snprintf(key, sizeof key, "%d", t->id);
        jw_key(w, key);
        jw_obj(w);
        jw_key(w, "logprob"); jw_f64(w, output_clamp(t->logprob));
        jw_key(w, "rank");    jw_i64(w, t->rank);
        jw_key(w, "decoded_token");
        if (j->p.detokenize) {
            buf_clear(scratch);
            *st = candidate_text(j->app->o.tok, p->ids, pos, t->id, scratch);
            jw_strn(w, buf_cstr(scratch), scratch->len);
        } else {
            jw_null(w);
        }
        jw_end_obj(w);
    }
    jw_end_obj(w);
}

status output_prompt_logprobs(const job *j, const prompt *p, const position_logprobs *lp, buf *out)
{
    buf scratch = {0};
    status st = ST_OK;
    jw w = jw_to(out);
    jw_arr(&w);
    for (int i = 0; i < p->n && st == ST_OK; i++) {
        if (i == 0 || lp[i].n == 0) jw_null(&w);
        else prompt_position(j, p, (size_t)i, &lp[i], &w, &scratch, &st);
    }
    jw_end_arr(&w);
    buf_free(&scratch);
    return st == ST_OK ? buf_status(out) : st;
}

/* ---- stop strings ---- */
/* The match that is complete first in text, looking at what `fresh` and later bytes may have completed. */
static bool find_stop(const seq *s, size_t fresh, int *which, size_t *start, size_t *end)
{
    bool found = false;
    for (int i = 0; i < s->job->p.n_stop; i++) {
        const char *stop = s->job->p.stop[i];
        size_t n = strlen(stop), from = fresh > n - 1 ? fresh - (n - 1) : 0;
        if (from + n > s->text.len) continue;
        const char *at = memmem(s->text.data + from, s->text.len - from, stop, n);
        if (!at) continue;
        size_t b = (size_t)(at - s->text.data);
        if (found && b + n >= *end) continue;
        found = true;
        *which = i;
        *start = b;
        *end = b + n;
    }
    return found;
}

/* Cuts the text at a stop string that the bytes from `fresh` on completed. */
static bool stop_here(seq *s, size_t fresh)
{
    size_t start = 0, end = 0;
    int which = -1;
    if (s->job->p.n_stop == 0) return false;
    if (fresh < s->stop_from) fresh = s->stop_from;
    if (s->text.len <= fresh || !find_stop(s, fresh, &which, &start, &end)) return false;
    s->text.len = s->job->p.include_stop ? end : start;
    s->text.data[s->text.len] = 0;
    s->stop_index = which;
    s->finish = FINISH_STOP;
    s->done = true;
    return true;
}

size_t output_sendable(const seq *s)
{
    size_t end = s->text.len;
    if (s->done) return end;
    for (int hold = s->job->p.stop_hold; hold > 0 && end > s->text_sent; hold--) {
        end--;
        while (end > s->text_sent && ((unsigned char)s->text.data[end] & 0xC0) == 0x80) end--;
    }
    return end;
}

/* ---- tokens ---- */
/* The text of a token, to where the harmony format puts it: messages of one kind stand on lines of their own. */
static status split_token(seq *s, int32_t token)
{
    buf *const to[] = { [HARMONY_HEADER] = &s->h.header, [HARMONY_REASONING] = &s->reasoning, [HARMONY_CONTENT] = &s->text };
    buf *at = to[s->h.place];
    bool fresh;
    s->n_reasoning += s->h.place == HARMONY_REASONING;
    if (!harmony_take(&s->h, s->job->harmony, token, &fresh)) {
        TRY(detok_push(s->d, token, at));
        return buf_status(at);
    }
    TRY(detok_flush(s->d, at));
    TRY(buf_status(at));
    at = to[s->h.place];
    if (fresh && at->len) buf_char(at, '\n');
    return buf_status(at);
}

static status take_text(seq *s, int32_t token)
{
    if (s->job->harmony) return split_token(s, token);
    TRY(detok_push(s->d, token, &s->text));
    return buf_status(&s->text);
}

/* What no token completed. An answer that has no message at all is content, whatever it is. */
static status flush_text(seq *s)
{
    buf *to = !s->job->harmony || s->h.place == HARMONY_CONTENT ? &s->text : s->h.place == HARMONY_REASONING ? &s->reasoning : &s->h.header;
    TRY(detok_flush(s->d, to));
    if (s->job->harmony && !s->h.any && s->h.header.len) buf_append(&s->text, s->h.header.data, s->h.header.len);
    TRY(buf_status(to));
    return buf_status(&s->text);
}

/* True if a stop string ended the sequence with this token. */
static status take_token(seq *s, const out_msg *m, int i, bool *stopped)
{
    job *j = s->job;
    const gen_params *p = &j->p;
    bool terminator = m->finish == FINISH_STOP && i == m->n_tokens - 1;
    size_t before = s->text.len;
    i32vec_push(&s->tokens, m->tokens[i]);
    TRY(i32vec_status(&s->tokens));
    if (s->d && (!terminator || p->include_stop)) TRY(take_text(s, m->tokens[i]));
    if (p->n_show != -2 && m->logprobs && j->ops->logprob && !p->prompt_only) {
        j->ops->logprob(j, s, s->tokens.len - 1, &m->logprobs[i]);
        for (int k = 0; k < LP_PARTS; k++) TRY(buf_status(&s->lp[k]));
    }
    if ((int)s->tokens.len <= p->sp.min_tokens) s->stop_from = s->text.len;
    *stopped = !terminator && stop_here(s, before);
    return ST_OK;
}

static status take_end(seq *s, const out_msg *m)
{
    size_t before = s->text.len;
    s->finish = m->finish;
    s->stop_token = m->stop_token;
    if (s->d) {
        TRY(flush_text(s));
        if (stop_here(s, before)) return ST_OK;
    }
    s->done = true;
    return ST_OK;
}

status output_take(seq *s, const out_msg *m)
{
    job *j = s->job;
    bool stopped = false;
    s->n_cached = m->n_cached;
    s->arrival_s = m->arrival_s;
    s->scheduled_s = m->scheduled_s;
    s->first_token_s = m->first_token_s;
    if (m->n_tokens) s->last_token_s = m->now_s;
    if (m->prompt_logprobs && !s->has_prompt_lp) {
        const prompt *p = &j->prompts[s->prompt];
        s->has_prompt_lp = true;
        TRY(output_prompt_logprobs(j, p, m->prompt_logprobs, &s->prompt_lp));
        if (j->p.echo && j->p.n_show != -2 && j->ops->echo_logprobs) TRY(j->ops->echo_logprobs(j, s, p, m->prompt_logprobs));
    }
    for (int i = 0; i < m->n_tokens && !stopped; i++) TRY(take_token(s, m, i, &stopped));
    if (stopped) {
        /* what the engine made after the completing token is not part of the answer */
        if (m->finish == FINISH_NONE) engine_finish(s->er);
        return ST_OK;
    }
    return m->finish == FINISH_NONE ? ST_OK : take_end(s, m);
}
