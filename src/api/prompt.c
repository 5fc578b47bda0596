#include "api/prompt.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "api/fields.h"

status prompt_encode(const app *a, const char *text, size_t n, bool add_special, i32vec *ids, api_error *e)
{
    if (!a->o.tok) return api_bad(e, "prompt", "Unable to get tokenizer because `skip_tokenizer_init=True`; send token ids instead of text.");
    status st = tokenizer_encode(a->o.tok, text, n, add_special, ids);
    return st == ST_OK ? ST_OK : api_fail_status(e, st, "prompt");
}

status prompt_take(arena *mem, const i32vec *ids, const char *text, size_t n, prompt *out, api_error *e)
{
    int32_t *copy = arena_alloc(mem, (ids->len ? ids->len : 1) * sizeof *copy);
    char *t = text ? arena_strndup(mem, text, n) : NULL;
    if (!copy || (text && !t)) return api_fail_status(e, err_nomem(), NULL);
    if (ids->len) memcpy(copy, ids->data, ids->len * sizeof *copy);
    *out = (prompt){ .ids = copy, .n = (int)ids->len, .text = t, .text_len = n };
    return ST_OK;
}

static status text_prompt(const app *a, const jv *v, const gen_params *p, arena *mem, prompt *out, api_error *e)
{
    i32vec ids = {0};
    status st = jv_len(v) == 0 ? fields_value_error(e, "prompt", "Either prompt or prompt_embeds must be provided and non-empty.")
                               : prompt_encode(a, jv_str(v, ""), jv_len(v), p->add_special, &ids, e);
    if (st == ST_OK) st = prompt_take(mem, &ids, jv_str(v, ""), jv_len(v), out, e);
    i32vec_free(&ids);
    return st;
}

static status id_prompt(const app *a, const jv *v, const gen_params *p, arena *mem, prompt *out, api_error *e)
{
    size_t n = jv_len(v);
    if (n == 0) return api_bad(e, "prompt", "The prompt's list of token ids is empty.");
    int32_t *ids = arena_alloc(mem, n * sizeof *ids);
    if (!ids) return api_fail_status(e, err_nomem(), NULL);
    for (size_t i = 0; i < n; i++) {
        int64_t x = -1;
        if (!field_to_i64(jv_at(v, i), &x) || x < 0 || x >= a->o.vocab_size)
            return api_bad(e, "prompt", "Token id %" PRId64 " is out of vocabulary", x);
        ids[i] = (int32_t)x;
    }
    *out = (prompt){ .ids = ids, .n = (int)n };
    if (!p->echo || !a->o.tok) return ST_OK;
    buf text = {0};
    status st = tokenizer_decode(a->o.tok, ids, n, false, &text);
    if (st == ST_OK) st = buf_status(&text);
    if (st == ST_OK) {
        out->text_len = text.len;
        out->text = arena_strndup(mem, buf_cstr(&text), text.len);
        if (!out->text) st = err_nomem();
    }
    buf_free(&text);
    return st == ST_OK ? ST_OK : api_fail_status(e, st, "prompt");
}

status prompts_parse(const app *a, const jv *body, const gen_params *p, arena *mem, prompt **out, int *n, api_error *e)
{
    const jv *v = jv_get(body, "prompt");
    jv_kind k = jv_type(jv_at(v, 0));
    bool many = jv_is(v, JV_ARR) && (k == JV_STR || k == JV_ARR);
    size_t count = many ? jv_len(v) : 1;
    const char *env = getenv("VLLM_MAX_COMPLETION_PROMPTS");
    long limit = env && *env ? strtol(env, NULL, 10) : 1024;
    if (jv_is(v, JV_MISSING) || jv_is(v, JV_NULL) || (jv_is(v, JV_ARR) && jv_len(v) == 0))
        return fields_value_error(e, "prompt", "Either prompt or prompt_embeds must be provided and non-empty.");
    if ((long)count > limit) return api_bad(e, "prompt", "prompt has %zu entries, at most %ld are allowed. To increase this limit, set the VLLM_MAX_COMPLETION_PROMPTS environment variable.", count, limit);
    prompt *list = arena_calloc(mem, count, sizeof *list);
    if (!list) return api_fail_status(e, err_nomem(), NULL);
    for (size_t i = 0; i < count; i++) {
        const jv *one = many ? jv_at(v, i) : v;
        if (jv_is(one, JV_STR)) TRY(text_prompt(a, one, p, mem, &list[i], e));
        else TRY(id_prompt(a, one, p, mem, &list[i], e));
    }
    *out = list;
    *n = (int)count;
    return ST_OK;
}

status prompt_fit(const app *a, const gen_params *p, prompt *pr, sampling_params *sp, api_error *e)
{
    int max = a->o.max_model_len;
    if (p->has_truncate) {
        if (p->truncate > max)
            return api_bad(e, "truncate_prompt_tokens", "truncate_prompt_tokens value (%" PRId64 ") is greater than max_model_len (%d). Please, select a smaller truncation size.", p->truncate, max);
        int keep = p->truncate == -1 ? max - 1 : (int)p->truncate;
        if (pr->n > keep) {
            if (!p->truncate_right) pr->ids += pr->n - keep;
            pr->n = keep;
        }
    }
    if (pr->n == 0) return api_bad(e, "prompt", "The decoder prompt cannot be empty");
    if (pr->n > max || (pr->n == max && !p->prompt_only))
        return api_bad(e, "input_tokens", "This model's maximum context length is %d tokens. However, your request has %d input tokens. Please reduce the length of the input messages.", max, pr->n);
    int left = max - pr->n;
    if (sp->max_tokens > left) sp->max_tokens = left > 0 ? left : 1;
    if (sp->min_tokens > sp->max_tokens) sp->min_tokens = sp->max_tokens;
    return ST_OK;
}
