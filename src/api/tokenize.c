/* POST /tokenize and /detokenize, GET /tokenizer_info. */
#include <inttypes.h>
#include <string.h>

#include "api/fields.h"
#include "api/job.h"
#include "api/media.h"

static status write_tokens(const call *c, const i32vec *ids, bool strs, buf *out)
{
    const app *a = c->app;
    jw w = jw_to(out);
    jw_obj(&w);
    jw_key(&w, "count");         jw_i64(&w, (int64_t)ids->len);
    jw_key(&w, "max_model_len"); jw_i64(&w, a->o.max_model_len);
    jw_key(&w, "tokens");        json_ids(&w, ids->data, ids->len);
    jw_key(&w, "token_strs");
    if (strs) {
        jw_arr(&w);
        for (size_t i = 0; i < ids->len; i++) {
            size_t n = 0;
            const char *s = tokenizer_token(a->o.tok, ids->data[i], &n);
            if (s) jw_strn(&w, s, n);
            else jw_null(&w);
        }
        jw_end_arr(&w);
    } else {
        jw_null(&w);
    }
    jw_end_obj(&w);
    return buf_status(out);
}

static status encode_chat(const call *c, i32vec *ids, api_error *e)
{
    conversation conv = {0};
    arena mem = {0};
    status st = render_messages(c->app, c->body, RENDER_TOKENIZE, &mem, &conv, e);
    const bool special = field_bool(c->body, "add_special_tokens", false);
    if (st == ST_OK && conv.n_media > 0) {
        prompt p = {0};
        st = media_prompt(c->app, &conv, special, false, &mem, &p, e);
        if (st == ST_OK) i32vec_append(ids, p.ids, (size_t)p.n);
    } else if (st == ST_OK) {
        st = prompt_encode(c->app, buf_cstr(&conv.text), conv.text.len, special, ids, e);
    }
    buf_free(&conv.text);
    arena_free(&mem);
    return st;
}

status tokenize_post(call *c, api_error *e)
{
    const char *name;
    bool chat = jv_get(c->body, "messages") != NULL;
    i32vec ids = {0};
    buf out = {0};
    TRY(fields_check(c->body, chat ? FIELD_TOKENIZE_CHAT : FIELD_TOKENIZE, e));
    TRY(models_resolve(c->app, c->body, &name, e));
    status st;
    if (chat) {
        st = encode_chat(c, &ids, e);
    } else {
        const jv *p = jv_get(c->body, "prompt");
        st = prompt_encode(c->app, jv_str(p, ""), jv_len(p), field_bool(c->body, "add_special_tokens", true), &ids, e);
    }
    if (st == ST_OK) {
        st = i32vec_status(&ids);
        if (st == ST_OK) st = write_tokens(c, &ids, field_bool(c->body, "return_token_strs", false), &out);
        if (st != ST_OK) st = api_fail_status(e, st, NULL);
    }
    if (st == ST_OK) call_json(c, 200, &out);
    i32vec_free(&ids);
    buf_free(&out);
    return st;
}

static status collect_ids(const app *a, const jv *list, i32vec *ids, api_error *e)
{
    for (size_t i = 0; i < jv_len(list); i++) {
        int64_t x = -1;
        if (!field_to_i64(jv_at(list, i), &x) || x < 0 || x > INT32_MAX || (size_t)x >= tokenizer_vocab_size(a->o.tok))
            return api_bad(e, "tokens", "Token id %" PRId64 " is out of vocabulary", x);
        i32vec_push(ids, (int32_t)x);
    }
    status st = i32vec_status(ids);
    return st == ST_OK ? ST_OK : api_fail_status(e, st, NULL);
}

status detokenize_post(call *c, api_error *e)
{
    const char *name;
    i32vec ids = {0};
    buf text = {0}, out = {0};
    TRY(fields_check(c->body, FIELD_DETOKENIZE, e));
    TRY(models_resolve(c->app, c->body, &name, e));
    if (!c->app->o.tok) return api_bad(e, "tokens", "Unable to get tokenizer because `skip_tokenizer_init=True`.");
    status st = collect_ids(c->app, jv_get(c->body, "tokens"), &ids, e);
    if (st == ST_OK) {
        st = ids.len ? tokenizer_decode(c->app->o.tok, ids.data, ids.len, false, &text) : ST_OK;
        if (st == ST_OK) st = buf_status(&text);
        if (st != ST_OK) st = api_fail_status(e, st, "tokens");
    }
    if (st == ST_OK) {
        jw w = jw_to(&out);
        jw_obj(&w);
        jw_key(&w, "prompt"); jw_strn(&w, buf_cstr(&text), text.len);
        jw_end_obj(&w);
        call_json(c, 200, &out);
    }
    i32vec_free(&ids);
    buf_free(&text);
    buf_free(&out);
    return st;
}

status tokenizer_info_get(call *c, api_error *e)
{
    const app *a = c->app;
    if (!a->o.tok) return api_bad(e, NULL, "Unable to get tokenizer because `skip_tokenizer_init=True`.");
    buf out = {0};
    jw w = jw_to(&out);
    jw_obj(&w);
    jw_key(&w, "tokenizer_class");  jw_str(&w, "PreTrainedTokenizerFast");
    jw_key(&w, "vocab_size");       jw_i64(&w, (int64_t)tokenizer_vocab_size(a->o.tok));
    jw_key(&w, "model_max_length"); jw_i64(&w, a->o.max_model_len);
    for (jv_iter it = jv_begin(a->o.template_tokens); jv_next(&it);) {
        jw_keyn(&w, it.key, it.key_len);
        jw_value(&w, it.val);
    }
    jw_end_obj(&w);
    call_json(c, 200, &out);
    buf_free(&out);
    return ST_OK;
}
