/* POST /v1/chat/completions. */
#include <string.h>

#include "api/fields.h"
#include "api/job.h"
#include "api/media.h"
#include "base/log.h"

/* ---- logprobs ---- */
static void bytes_json(const char *s, size_t n, jw *w)
{
    jw_arr(w);
    for (size_t i = 0; i < n; i++) jw_i64(w, (unsigned char)s[i]);
    jw_end_arr(w);
}

static void entry(const buf *text, float logprob, jw *w)
{
    jw_key(w, "token");   jw_strn(w, buf_cstr(text), text->len);
    jw_key(w, "logprob"); jw_f64(w, output_clamp(logprob));
    jw_key(w, "bytes");   bytes_json(buf_cstr(text), text->len, w);
}

/* {"token", "logprob", "bytes", "top_logprobs"} appended to the list. */
static void on_logprob(job *j, seq *s, size_t pos, const position_logprobs *lp)
{
    buf *out = &s->lp[LP_TOKENS], text = {0};
    jw w = jw_to(out);
    if (out->len) buf_char(out, ',');
    status st = output_token_text(j, s->tokens.data, pos, &text);
    jw_obj(&w);
    entry(&text, lp->n ? lp->items[0].logprob : -9999.0f, &w);
    jw_key(&w, "top_logprobs");
    jw_arr(&w);
    int n = output_top_count(j, lp->n, j->p.n_show);
    for (int i = 0; i < n && st == ST_OK; i++) {
        buf_clear(&text);
        st = output_candidate_text(j, s->tokens.data, pos, lp->items[i].id, &text);
        jw_obj(&w);
        entry(&text, lp->items[i].logprob, &w);
        jw_end_obj(&w);
    }
    jw_end_arr(&w);
    jw_end_obj(&w);
    if (st != ST_OK || text.failed) out->failed = true;
    buf_free(&text);
}

static void logprobs_json(const job *j, const seq *s, jw *w)
{
    if (j->p.n_show == -2) {
        jw_null(w);
        return;
    }
    jw_obj(w);
    jw_key(w, "content");
    jw_raw(w, "[");
    buf_append(w->out, buf_cstr(&s->lp[LP_TOKENS]), s->lp[LP_TOKENS].len);
    buf_char(w->out, ']');
    jw_end_obj(w);
}

/* ---- the answer ---- */
static void head(const job *j, const char *object, jw *w)
{
    jw_obj(w);
    jw_key(w, "id");      jw_str(w, j->request_id);
    jw_key(w, "object");  jw_str(w, object);
    jw_key(w, "created"); jw_i64(w, j->created);
    jw_key(w, "model");   jw_str(w, j->model);
}

static void message_json(const job *j, const seq *s, jw *w)
{
    static const char *const nulls[] = { "refusal", "annotations", "audio", "function_call" };
    buf content = {0};
    if (j->p.echo) buf_str(&content, j->last_content);
    if (s->text.len) buf_append(&content, s->text.data, s->text.len);
    if (content.failed) w->out->failed = true;
    jw_obj(w);
    jw_key(w, "role");    jw_str(w, j->role);
    jw_key(w, "content");
    if (j->harmony && s->reasoning.len && !content.len) jw_null(w);   /* it only thought */
    else jw_strn(w, buf_cstr(&content), content.len);
    for (size_t i = 0; i < sizeof nulls / sizeof *nulls; i++) {
        jw_key(w, nulls[i]);
        jw_null(w);
    }
    jw_key(w, "reasoning");
    if (j->include_reasoning && s->reasoning.len) {
        jw_strn(w, buf_cstr(&s->reasoning), s->reasoning.len);
        jw_key(w, "reasoning_content"); jw_strn(w, buf_cstr(&s->reasoning), s->reasoning.len);   /* its older name */
    } else {
        jw_null(w);
    }
    jw_end_obj(w);
    buf_free(&content);
}

static void choice_json(const job *j, const seq *s, jw *w)
{
    jw_obj(w);
    jw_key(w, "index");          jw_i64(w, s->index);
    jw_key(w, "message");        message_json(j, s, w);
    jw_key(w, "logprobs");       logprobs_json(j, s, w);
    jw_key(w, "finish_reason");  jw_str(w, output_finish_name(s->finish));
    jw_key(w, "stop_reason");    output_stop_reason(s, w);
    jw_key(w, "token_ids");
    if (j->p.return_token_ids) json_ids(w, s->tokens.data, s->tokens.len);
    else jw_null(w);
    jw_key(w, "routed_experts"); jw_null(w);
    jw_end_obj(w);
}

static void prompt_fields(const job *j, jw *w)
{
    jw_key(w, "prompt_token_ids");
    if (j->p.return_token_ids) json_ids(w, j->prompts[0].ids, (size_t)j->prompts[0].n);
    else jw_null(w);
    jw_key(w, "prompt_text"); jw_str(w, j->prompt_text);
}

static void whole_answer(job *j)
{
    usage u = usage_of_job(j);
    jw w = jw_to(&j->json);
    head(j, "chat.completion", &w);
    jw_key(&w, "choices");
    jw_arr(&w);
    for (int i = 0; i < j->n_seqs; i++) choice_json(j, &j->seqs[i], &w);
    jw_end_arr(&w);
    jw_key(&w, "service_tier");       jw_null(&w);
    jw_key(&w, "system_fingerprint"); jw_str(&w, j->app->o.fingerprint);
    jw_key(&w, "usage");              usage_json(j, &u, true, &w);
    jw_key(&w, "prompt_logprobs");
    if (j->seqs[0].has_prompt_lp) jw_raw(&w, buf_cstr(&j->seqs[0].prompt_lp));
    else jw_null(&w);
    prompt_fields(j, &w);
    jw_key(&w, "kv_transfer_params"); jw_null(&w);
    jw_key(&w, "ec_transfer_params"); jw_null(&w);
    jw_key(&w, "metrics");            usage_metrics(j, &w);
    jw_end_obj(&w);
    job_reply(j, &j->json);
}

/* ---- the stream ---- */
static void continuous_usage(const job *j, const seq *s, jw *w)
{
    if (!j->p.continuous_usage) return;
    usage u = usage_of_seq(s);
    jw_key(w, "usage"); usage_json(j, &u, false, w);
}

/* {"role": ..., "content": ""} for one choice; with echo, the text that is continued. */
static void opening_chunk(job *j, const seq *s, const char *role, const char *content)
{
    jw w = jw_to(&j->json);
    head(j, "chat.completion.chunk", &w);
    jw_key(&w, "choices");
    jw_arr(&w);
    jw_obj(&w);
    jw_key(&w, "index"); jw_i64(&w, s->index);
    jw_key(&w, "delta");
    jw_obj(&w);
    if (role) {
        jw_key(&w, "role"); jw_str(&w, role);
    }
    jw_key(&w, "content"); jw_str(&w, content);
    jw_end_obj(&w);
    jw_key(&w, "logprobs");      jw_null(&w);
    jw_key(&w, "finish_reason"); jw_null(&w);
    jw_end_obj(&w);
    jw_end_arr(&w);
    if (role && (j->p.return_token_ids || j->prompt_text)) prompt_fields(j, &w);
    if (j->p.continuous_usage) {
        usage u = { .prompt = j->prompts[0].n };
        jw_key(&w, "usage"); usage_json(j, &u, false, &w);
    }
    jw_end_obj(&w);
    job_event(j);
}

static void on_first(job *j)
{
    for (int i = 0; i < j->n_seqs; i++) opening_chunk(j, &j->seqs[i], j->role, "");
    if (j->p.echo && *j->last_content)
        for (int i = 0; i < j->n_seqs; i++) opening_chunk(j, &j->seqs[i], NULL, j->last_content);
}

static void on_chunk(job *j, seq *s)
{
    size_t end = output_sendable(s);
    jw w = jw_to(&j->json);
    head(j, "chat.completion.chunk", &w);
    jw_key(&w, "choices");
    jw_arr(&w);
    jw_obj(&w);
    jw_key(&w, "index"); jw_i64(&w, s->index);
    jw_key(&w, "delta");
    jw_obj(&w);
    bool thinks = j->include_reasoning && s->reasoning.len > s->reasoning_sent;
    for (int i = 0; i < 2 && thinks; i++) {
        jw_key(&w, i ? "reasoning_content" : "reasoning");
        jw_strn(&w, buf_cstr(&s->reasoning) + s->reasoning_sent, s->reasoning.len - s->reasoning_sent);
    }
    s->reasoning_sent = s->reasoning.len;
    if (end > s->text_sent || (!s->done && !j->harmony)) {
        jw_key(&w, "content"); jw_strn(&w, buf_cstr(&s->text) + s->text_sent, end - s->text_sent);
    }
    jw_end_obj(&w);
    jw_key(&w, "logprobs");      logprobs_json(j, s, &w);
    jw_key(&w, "finish_reason"); jw_str(&w, output_finish_name(s->finish));
    if (s->done) {
        jw_key(&w, "stop_reason"); output_stop_reason(s, &w);
    }
    jw_key(&w, "token_ids");
    if (j->p.return_token_ids) json_ids(&w, s->tokens.data + s->tokens_sent, s->tokens.len - s->tokens_sent);
    else jw_null(&w);
    jw_end_obj(&w);
    jw_end_arr(&w);
    if (s->done) {
        jw_key(&w, "system_fingerprint"); jw_str(&w, j->app->o.fingerprint);
    }
    continuous_usage(j, s, &w);
    jw_end_obj(&w);
    s->text_sent = end;
    s->tokens_sent = s->tokens.len;
    buf_clear(&s->lp[LP_TOKENS]);
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
    head(j, "chat.completion.chunk", &w);
    jw_key(&w, "choices");
    jw_arr(&w);
    jw_end_arr(&w);
    jw_key(&w, "usage"); usage_json(j, &u, false, &w);
    if (j->app->o.per_request_metrics) {
        jw_key(&w, "metrics"); usage_metrics(j, &w);
    }
    jw_end_obj(&w);
    job_event(j);
}

static const job_ops ops = { .name = "chat", .logprob = on_logprob, .first = on_first, .chunk = on_chunk, .finish = on_finish };

/* ---- the request ---- */
static status check_tool_list(const jv *tools, api_error *e)
{
    if (jv_len(tools) == 0) return fields_value_error(e, "tools", "`tools` must not be an empty list.");
    for (size_t i = 0; i < jv_len(tools); i++) {
        const jv *t = jv_at(tools, i);
        if (strcmp(jv_str(jv_get(t, "type"), "function"), "function") != 0)
            return api_bad(e, "tools", "tools[%zu].type must be \"function\".", i);
        if (!jv_is(jv_get(jv_get(t, "function"), "name"), JV_STR)) return api_bad(e, "tools", "tools[%zu].function needs a name.", i);
    }
    return ST_OK;
}

static bool has_tool(const jv *tools, const char *name)
{
    for (size_t i = 0; i < jv_len(tools); i++)
        if (strcmp(jv_str(jv_get(jv_get(jv_at(tools, i), "function"), "name"), ""), name) == 0) return true;
    return false;
}

/* No tool-call parser can be configured yet, so every choice that could end in a call is refused, as vLLM does without one. */
static status check_tools(const jv *body, api_error *e)
{
    const jv *tools = jv_get(body, "tools"), *choice = jv_get(body, "tool_choice");
    bool has = jv_is(tools, JV_ARR), chosen = field_has(body, "tool_choice");
    const char *name = jv_str(choice, NULL);
    if (has) TRY(check_tool_list(tools, e));
    if (!has && (!chosen || (name && strcmp(name, "none") == 0))) return ST_OK;
    if (!has) return fields_value_error(e, "tool_choice", "When using `tool_choice`, `tools` must be set.");
    if (chosen && jv_is(choice, JV_OBJ)) {
        const char *fn = jv_str(jv_get(jv_get(choice, "function"), "name"), NULL);
        if (!fn) return fields_value_error(e, "tool_choice", "Expected field `function` with a `name` in `tool_choice`. Correct usage: `{\\\"type\\\": \\\"function\\\", \\\"function\\\": {\\\"name\\\": \\\"my_function\\\"}}`");
        if (!has_tool(tools, fn)) return fields_value_error(e, "tool_choice", "The tool specified in `tool_choice` does not match any of the specified `tools`");
        return api_bad(e, "tool_choice", "tool_choice with a named function requires --tool-call-parser to be set");
    }
    if (chosen && !name) return fields_value_error(e, "tool_choice", "`tool_choice` must be none, auto, required or a named function.");
    if (!chosen || strcmp(name, "auto") == 0) return api_bad(e, "tool_choice", "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set");
    if (strcmp(name, "required") == 0) return api_bad(e, "tool_choice", "tool_choice=\"required\" requires --tool-call-parser to be set");
    if (strcmp(name, "none") == 0) return ST_OK;
    return fields_value_error(e, "tool_choice", "Invalid value for `tool_choice`: use none, auto, required or a named function.");
}

static status build(job *j, const call *c, api_error *e)
{
    conversation conv = {0};
    i32vec ids = {0};
    bool add_special = field_bool(c->body, "add_special_tokens", false);
    status st = params_parse(c->app, c->body, FIELD_CHAT, &j->mem, &j->p, e);
    if (st == ST_OK) st = render_messages(c->app, c->body, RENDER_CHAT, &j->mem, &conv, e);
    const bool media = conv.n_media > 0;
    if (st == ST_OK && media && j->p.has_truncate) st = api_bad(e, "truncate_prompt_tokens", "Prompts with images or sounds cannot be truncated.");
    if (st == ST_OK && !media) st = prompt_encode(c->app, buf_cstr(&conv.text), conv.text.len, add_special, &ids, e);
    j->prompts = arena_calloc(&j->mem, 1, sizeof *j->prompts);
    if (st == ST_OK && !j->prompts) st = api_fail_status(e, err_nomem(), NULL);
    if (st == ST_OK && media) st = media_prompt(c->app, &conv, add_special, c->r != NULL, &j->mem, j->prompts, e);
    if (st == ST_OK && !media) st = prompt_take(&j->mem, &ids, buf_cstr(&conv.text), conv.text.len, j->prompts, e);
    if (st == ST_OK) {
        j->n_prompts = 1;
        j->role = conv.role;
        j->last_content = conv.last_content;
        if (field_bool(c->body, "return_prompt_text", false)) j->prompt_text = j->prompts->text;
    }
    i32vec_free(&ids);
    buf_free(&conv.text);
    return st;
}

status chat_create(call *c, api_error *e)
{
    const char *name;
    job *j = NULL;
    TRY(fields_check(c->body, FIELD_CHAT, e));
    TRY(models_resolve(c->app, c->body, &name, e));
    TRY(check_tools(c->body, e));
    TRY(job_new(c, &ops, "chatcmpl-", &j, e));
    j->model = name;
    j->harmony = c->app->o.harmony;
    j->include_reasoning = field_bool(c->body, "include_reasoning", true);
    status st = build(j, c, e);
    prompt *own = j->prompts; /* in the job's arena; the engine shares the rows from here on */
    if (st == ST_OK) st = job_submit(j, e);
    media_release(own);
    job_release(j);
    return st;
}
