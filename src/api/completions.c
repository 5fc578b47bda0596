/* POST /v1/completions. */
#include <string.h>

#include "api/fields.h"
#include "api/job.h"
#include "base/map.h"
#include "base/utf8.h"

/* ---- logprobs: four parallel arrays, kept as JSON elements with commas ---- */
static void element(buf *b) { if (b->len) buf_char(b, ','); }

/* {"token": logprob, ...}: tokens that read the same are one key, the last value wins (a Python dict). */
static status top_object(const job *j, const int32_t *ids, size_t pos, const position_logprobs *lp, int n, buf *out)
{
    buf names = {0};
    map seen = {0};
    size_t room = n > 0 ? (size_t)n : 1;
    arena mem = {0};
    size_t *from = arena_calloc(&mem, room + 1, sizeof *from);
    int *winner = arena_calloc(&mem, room, sizeof *winner);
    status st = from && winner ? ST_OK : err_nomem();
    for (int i = 0; st == ST_OK && i < n; i++) {
        from[i] = names.len;
        st = output_candidate_text(j, ids, pos, lp->items[i].id, &names);
        from[i + 1] = names.len;
        if (st != ST_OK) break;
        int64_t first = i;
        size_t len = names.len - from[i];
        winner[i] = i;
        if (map_get(&seen, buf_cstr(&names) + from[i], len, &first)) {
            winner[first] = i;
            winner[i] = -1;
        } else {
            st = map_put(&seen, buf_cstr(&names) + from[i], len, i);
        }
    }
    jw w = jw_to(out);
    jw_obj(&w);
    for (int i = 0; st == ST_OK && i < n; i++) {
        if (winner[i] < 0) continue;
        jw_keyn(&w, buf_cstr(&names) + from[i], from[i + 1] - from[i]);
        jw_f64(&w, output_clamp(lp->items[winner[i]].logprob));
    }
    jw_end_obj(&w);
    map_free(&seen);
    arena_free(&mem);
    buf_free(&names);
    return st;
}

/* One token of ids with its position's logprobs (NULL: the first of a prompt has none). */
static status add_logprob(job *j, seq *s, const int32_t *ids, size_t pos, const position_logprobs *lp)
{
    buf text = {0};
    status st = output_token_text(j, ids, pos, &text);
    if (st == ST_OK) {
        jw w = jw_to(&s->lp[LP_TOKENS]);
        element(&s->lp[LP_TOKENS]);
        jw_strn(&w, buf_cstr(&text), text.len);
        element(&s->lp[LP_OFFSETS]);
        buf_printf(&s->lp[LP_OFFSETS], "%lld", (long long)s->text_offset);
        s->text_offset += (int64_t)utf8_count(buf_cstr(&text), text.len);
        element(&s->lp[LP_LOGPROBS]);
        element(&s->lp[LP_TOP]);
        if (!lp || lp->n == 0) {
            buf_str(&s->lp[LP_LOGPROBS], "null");
            buf_str(&s->lp[LP_TOP], "null");
        } else {
            w = jw_to(&s->lp[LP_LOGPROBS]);
            jw_f64(&w, output_clamp(lp->items[0].logprob));
            int k = j->p.n_show < 0 ? j->p.n_show : j->p.n_show + 1;
            st = top_object(j, ids, pos, lp, output_top_count(j, lp->n, k), &s->lp[LP_TOP]);
        }
    }
    buf_free(&text);
    return st;
}

static void on_logprob(job *j, seq *s, size_t pos, const position_logprobs *lp)
{
    if (add_logprob(j, s, s->tokens.data, pos, lp) != ST_OK) s->lp[LP_TOKENS].failed = true;
}

static status on_echo_logprobs(job *j, seq *s, const prompt *p, const position_logprobs *lp)
{
    for (int i = 0; i < p->n; i++) TRY(add_logprob(j, s, p->ids, (size_t)i, i ? &lp[i] : NULL));
    return ST_OK;
}

static void logprobs_json(const job *j, const seq *s, jw *w)
{
    static const struct { const char *key; int part; } parts[] = {
        { "text_offset", LP_OFFSETS }, { "token_logprobs", LP_LOGPROBS }, { "tokens", LP_TOKENS }, { "top_logprobs", LP_TOP },
    };
    if (j->p.n_show == -2) {
        jw_null(w);
        return;
    }
    jw_obj(w);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        jw_key(w, parts[i].key);
        jw_raw(w, "[");
        buf_append(w->out, buf_cstr(&s->lp[parts[i].part]), s->lp[parts[i].part].len);
        buf_char(w->out, ']');
    }
    jw_end_obj(w);
}

/* ---- the answer ---- */
static void head(const job *j, jw *w)
{
    jw_obj(w);
    jw_key(w, "id");      jw_str(w, j->request_id);
    jw_key(w, "object");  jw_str(w, "text_completion");
    jw_key(w, "created"); jw_i64(w, j->created);
    jw_key(w, "model");   jw_str(w, j->model);
}

/* Echoed prompt text (the first time) and the sequence's own from `from` on. */
static void text_json(const seq *s, size_t from, size_t to, bool echo, jw *w)
{
    const prompt *p = &s->job->prompts[s->prompt];
    buf whole = {0};
    if (echo && p->text) buf_append(&whole, p->text, p->text_len);
    if (!s->job->p.prompt_only && to > from) buf_append(&whole, s->text.data + from, to - from);
    if (whole.failed) w->out->failed = true;
    jw_strn(w, buf_cstr(&whole), whole.len);
    buf_free(&whole);
}

static void choice_json(const job *j, const seq *s, jw *w)
{
    const prompt *p = &j->prompts[s->prompt];
    jw_obj(w);
    jw_key(w, "index");            jw_i64(w, s->index);
    jw_key(w, "text");             text_json(s, 0, s->text.len, j->p.echo, w);
    jw_key(w, "logprobs");         logprobs_json(j, s, w);
    jw_key(w, "finish_reason");    jw_str(w, output_finish_name(s->finish));
    jw_key(w, "stop_reason");      output_stop_reason(s, w);
    jw_key(w, "token_ids");
    if (j->p.return_token_ids) json_ids(w, s->tokens.data, j->p.prompt_only ? 0 : s->tokens.len);
    else jw_null(w);
    jw_key(w, "prompt_logprobs");
    if (s->has_prompt_lp) jw_raw(w, buf_cstr(&s->prompt_lp));
    else jw_null(w);
    jw_key(w, "prompt_token_ids");
    if (j->p.return_token_ids) json_ids(w, p->ids, (size_t)p->n);
    else jw_null(w);
    jw_key(w, "routed_experts");   jw_null(w);
    jw_end_obj(w);
}

static void whole_answer(job *j)
{
    usage u = usage_of_job(j);
    jw w = jw_to(&j->json);
    head(j, &w);
    jw_key(&w, "choices");
    jw_arr(&w);
    for (int i = 0; i < j->n_seqs; i++) choice_json(j, &j->seqs[i], &w);
    jw_end_arr(&w);
    jw_key(&w, "service_tier");       jw_null(&w);
    jw_key(&w, "system_fingerprint"); jw_str(&w, j->app->o.fingerprint);
    jw_key(&w, "usage");              usage_json(j, &u, true, &w);
    jw_key(&w, "kv_transfer_params"); jw_null(&w);
    jw_key(&w, "ec_transfer_params"); jw_null(&w);
    jw_key(&w, "metrics");            usage_metrics(j, &w);
    jw_end_obj(&w);
    job_reply(j, &j->json);
}

/* ---- the stream ---- */
static void on_chunk(job *j, seq *s)
{
    bool echo = j->p.echo && !s->echoed, first = !s->chunked;
    const prompt *p = &j->prompts[s->prompt];
    size_t end = output_sendable(s);
    jw w = jw_to(&j->json);
    head(j, &w);
    jw_key(&w, "choices");
    jw_arr(&w);
    jw_obj(&w);
    jw_key(&w, "index");         jw_i64(&w, s->index);
    jw_key(&w, "text");          text_json(s, s->text_sent, end, echo, &w);
    jw_key(&w, "logprobs");      logprobs_json(j, s, &w);
    jw_key(&w, "finish_reason"); jw_str(&w, output_finish_name(s->finish));
    jw_key(&w, "stop_reason");   output_stop_reason(s, &w);
    jw_key(&w, "prompt_token_ids");
    if (j->p.return_token_ids && first) json_ids(&w, p->ids, (size_t)p->n);
    else jw_null(&w);
    jw_key(&w, "token_ids");
    if (j->p.return_token_ids && !j->p.prompt_only) json_ids(&w, s->tokens.data + s->tokens_sent, s->tokens.len - s->tokens_sent);
    else if (j->p.return_token_ids) json_ids(&w, NULL, 0);
    else jw_null(&w);
    jw_end_obj(&w);
    jw_end_arr(&w);
    if (j->n_open == 0 && !j->p.include_usage) {
        jw_key(&w, "system_fingerprint"); jw_str(&w, j->app->o.fingerprint);
    }
    if (j->p.continuous_usage) {
        usage u = usage_of_seq(s);
        jw_key(&w, "usage"); usage_json(j, &u, false, &w);
    }
    jw_end_obj(&w);
    s->echoed = true;
    s->text_sent = end;
    s->tokens_sent = s->tokens.len;
    for (int i = 0; i < LP_PARTS; i++) buf_clear(&s->lp[i]);
    job_event(j);
}

static void on_finish(job *j)
{
    if (!j->streaming) {
        whole_answer(j);
        return;
    }
    if (!j->p.include_usage) return;
    usage u = usage_of_job(j);
    jw w = jw_to(&j->json);
    head(j, &w);
    jw_key(&w, "choices");
    jw_arr(&w);
    jw_end_arr(&w);
    jw_key(&w, "system_fingerprint"); jw_str(&w, j->app->o.fingerprint);
    jw_key(&w, "usage"); usage_json(j, &u, false, &w);
    if (j->app->o.per_request_metrics) {
        jw_key(&w, "metrics"); usage_metrics(j, &w);
    }
    jw_end_obj(&w);
    job_event(j);
}

static const job_ops ops = {
    .name = "completion", .logprob = on_logprob, .echo_logprobs = on_echo_logprobs, .chunk = on_chunk, .finish = on_finish,
};

status completions_create(call *c, api_error *e)
{
    const char *name;
    job *j = NULL;
    TRY(fields_check(c->body, FIELD_COMPLETION, e));
    TRY(models_resolve(c->app, c->body, &name, e));
    TRY(job_new(c, &ops, "cmpl-", &j, e));
    status st = params_parse(c->app, c->body, FIELD_COMPLETION, &j->mem, &j->p, e);
    j->model = name;
    j->call.body = NULL;
    if (st == ST_OK) st = prompts_parse(c->app, c->body, &j->p, &j->mem, &j->prompts, &j->n_prompts, e);
    if (st == ST_OK) st = job_submit(j, e);
    job_release(j);
    return st;
}
