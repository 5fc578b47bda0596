/* From chat messages to the text a template makes of them: contents are brought to the form the template wants (a string,
 * or a list of parts), tool-call arguments become objects, and reasoning has both of its names. */
#include <stdio.h>
#include <string.h>

#include "api/fields.h"
#include "api/media.h"

/* A rendering under way: what contents become, and where media are noted. */
typedef struct rendering { const app *a; content_format format; arena *mem; conversation *out; } rendering;

static status nomem(api_error *e) { return api_fail_status(e, err_nomem(), NULL); }

/* What kind of input a part is: its type, or the key that gives it away. */
static const char *part_type(const jv *part)
{
    static const char *const keys[] = { "text", "image_url", "input_audio", "audio_url", "video_url", "image_embeds", "audio_embeds", "prompt_embeds", "refusal", "thinking" };
    const char *t = jv_str(jv_get(part, "type"), NULL);
    if (t) return t;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (jv_get(part, keys[i])) return keys[i];
    return "";
}

/* The text of a part, or an error for what is no text. */
static status part_text(const jv *part, const char **out, api_error *e)
{
    const char *t = jv_is(part, JV_STR) ? "text" : part_type(part);
    if (strcmp(t, "input_text") == 0 || strcmp(t, "output_text") == 0) t = "text";
    if (strcmp(t, "text") == 0 || strcmp(t, "refusal") == 0 || strcmp(t, "thinking") == 0) {
        *out = jv_is(part, JV_STR) ? jv_str(part, "") : jv_str(jv_get(part, jv_get(part, t) ? t : "text"), NULL);
        if (!*out) return api_bad(e, "messages", "A content part of type '%s' needs a string '%s'.", t, t);
        return ST_OK;
    }
    if (!*t) return api_bad(e, "messages", "A content part has no 'type'.");
    static const char *const media[] = { "image", "audio", "video", "prompt_embeds" };
    for (size_t i = 0; i < sizeof media / sizeof *media; i++)
        if (strncmp(t, media[i], strlen(media[i])) == 0) return api_bad(e, "messages", "Content parts of type '%.60s' are not supported.", t);
    return api_bad(e, "messages", "Unknown part type: %.60s", t);
}

/* MEDIA_KINDS for text. */
static media_kind part_media(const jv *part) { return jv_is(part, JV_STR) ? MEDIA_KINDS : media_kind_of(part_type(part)); }

/* Placeholders first, then the texts, a line each: vLLM's order. */
static status join_parts(const rendering *r, const jv *content, buf *out, api_error *e)
{
    const char *t;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < jv_len(content); i++) {
            const media_kind kind = part_media(jv_at(content, i));
            if ((kind == MEDIA_KINDS) != (pass == 1)) continue;
            if (kind == MEDIA_KINDS) {
                TRY(part_text(jv_at(content, i), &t, e));
            } else {
                TRY(media_note(r->a, r->out, kind, jv_at(content, i), r->mem, e));
                t = r->a->media->words.marker[kind];
            }
            if (out->len) buf_char(out, '\n');
            buf_str(out, t);
        }
    return out->failed ? nomem(e) : ST_OK;
}

/* {"type": "image"}: what templates look for. */
static jv *media_marker(media_kind kind)
{
    const char *name = kind == MEDIA_IMAGE ? "image" : "audio";
    jv *part = jv_new_obj();
    if (part && jv_set(part, "type", jv_new_str(name, 5)) == ST_OK) return part;
    jv_free(part);
    return NULL;
}

static jv *text_part(const char *s, size_t n)
{
    jv *part = jv_new_obj();
    if (!part) return NULL;
    if (jv_set(part, "type", jv_new_str("text", 4)) != ST_OK || jv_set(part, "text", jv_new_str(s, n)) != ST_OK) {
        jv_free(part);
        return NULL;
    }
    return part;
}

static status list_of_parts(const rendering *r, const jv *content, jv *msg, api_error *e)
{
    jv *list = jv_new_arr();
    status st = list ? ST_OK : nomem(e);
    const char *t;
    if (st == ST_OK && jv_is(content, JV_STR)) st = jv_push(list, text_part(jv_str(content, ""), jv_len(content))) == ST_OK ? ST_OK : nomem(e);
    for (size_t i = 0; st == ST_OK && jv_is(content, JV_ARR) && i < jv_len(content); i++) {
        const media_kind kind = part_media(jv_at(content, i));
        if (kind != MEDIA_KINDS) {
            st = media_note(r->a, r->out, kind, jv_at(content, i), r->mem, e);
            if (st == ST_OK && jv_push(list, media_marker(kind)) != ST_OK) st = nomem(e);
            continue;
        }
        st = part_text(jv_at(content, i), &t, e);
        if (st == ST_OK && jv_push(list, text_part(t, strlen(t))) != ST_OK) st = nomem(e);
    }
    if (st != ST_OK) {
        jv_free(list);
        return st;
    }
    return jv_set(msg, "content", list) == ST_OK ? ST_OK : nomem(e);
}

/* STRING: lists of parts are joined; OPENAI: strings become lists; AUTO: as the client sent it. */
static status set_content(const rendering *r, const jv *in, jv *msg, api_error *e)
{
    const jv *content = jv_get(in, "content");
    if (jv_type(content) > JV_NULL && !jv_is(content, JV_STR) && !jv_is(content, JV_ARR))
        return api_bad(e, "messages", "The content of a message must be a string or a list of parts, not %s.", jv_kind_name(jv_type(content)));
    if (r->format == CONTENT_OPENAI || (r->format == CONTENT_AUTO && jv_is(content, JV_ARR))) return list_of_parts(r, content, msg, e);
    buf text = {0};
    status st = jv_is(content, JV_ARR) ? join_parts(r, content, &text, e) : ST_OK;
    if (st == ST_OK) {
        const char *s = jv_is(content, JV_ARR) ? buf_cstr(&text) : jv_str(content, "");
        size_t n = jv_is(content, JV_ARR) ? text.len : jv_len(content);
        if (jv_set(msg, "content", jv_new_str(s, n)) != ST_OK) st = nomem(e);
    }
    buf_free(&text);
    return st;
}

/* Templates print arguments with tojson, so the JSON text in them becomes the object it stands for. */
static status set_tool_calls(const jv *in, jv *msg, api_error *e)
{
    const jv *calls = jv_get(in, "tool_calls");
    if (!jv_is(calls, JV_ARR) || jv_len(calls) == 0) return ST_OK;
    jv *copy = jv_copy(calls);
    if (!copy) return nomem(e);
    for (size_t i = 0; i < jv_len(copy); i++) {
        const jv *fn = jv_get(jv_at(copy, i), "function");
        const jv *args = jv_get(fn, "arguments");
        jv *parsed = NULL;
        if (jv_is(args, JV_STR) || args == NULL || jv_is(args, JV_NULL)) {
            if (jv_len(args) == 0) parsed = jv_new_obj();
            else if (jv_parse(jv_str(args, ""), jv_len(args), &parsed) != ST_OK) {
                jv_free(copy);
                return api_bad(e, "messages", "The arguments of tool call %zu are not JSON: %.200s", i, err_msg());
            }
            if (jv_is(fn, JV_OBJ) && jv_set((jv *)(uintptr_t)fn, "arguments", parsed) != ST_OK) {
                jv_free(copy);
                return nomem(e);
            }
            if (!jv_is(fn, JV_OBJ)) jv_free(parsed);
        }
    }
    return jv_set(msg, "tool_calls", copy) == ST_OK ? ST_OK : nomem(e);
}

static status copy_str(const jv *in, const char *from, jv *msg, const char *to, api_error *e)
{
    const jv *v = jv_get(in, from);
    if (!jv_is(v, JV_STR)) return ST_OK;
    return jv_set(msg, to, jv_new_str(jv_str(v, ""), jv_len(v))) == ST_OK ? ST_OK : nomem(e);
}

static status one_message(const rendering *r, const jv *in, size_t i, jv *msg, api_error *e)
{
    const char *role = jv_str(jv_get(in, "role"), NULL);
    if (!role || !*role) return api_bad(e, "messages", "messages[%zu] needs a 'role'.", i);
    TRY(copy_str(in, "role", msg, "role", e));
    TRY(set_content(r, in, msg, e));
    TRY(copy_str(in, "name", msg, "name", e));
    if (strcmp(role, "assistant") == 0) {
        const char *from = jv_is(jv_get(in, "reasoning"), JV_STR) ? "reasoning" : "reasoning_content";
        TRY(set_tool_calls(in, msg, e));
        TRY(copy_str(in, from, msg, "reasoning", e));
        TRY(copy_str(in, from, msg, "reasoning_content", e));
    } else if (strcmp(role, "tool") == 0) {
        TRY(copy_str(in, "tool_call_id", msg, "tool_call_id", e));
    } else if (strcmp(role, "developer") == 0 && jv_is(jv_get(in, "tools"), JV_ARR)) {
        if (jv_set(msg, "tools", jv_ref(jv_get(in, "tools"))) != ST_OK) return nomem(e);
    }
    return ST_OK;
}

static status all_messages(const rendering *r, const jv *body, jv **out, api_error *e)
{
    const jv *in = jv_get(body, "messages");
    jv *list = jv_new_arr();
    status st = list ? ST_OK : nomem(e);
    for (size_t i = 0; st == ST_OK && i < jv_len(in); i++) {
        jv *msg = jv_new_obj();
        st = msg ? one_message(r, jv_at(in, i), i, msg, e) : nomem(e);
        if (st != ST_OK) jv_free(msg);
        else if (jv_push(list, msg) != ST_OK) st = nomem(e);
    }
    if (st != ST_OK) {
        jv_free(list);
        return st;
    }
    *out = list;
    return ST_OK;
}

static status merge(jv *vars, const jv *more, api_error *e)
{
    for (jv_iter it = jv_begin(more); jv_next(&it);)
        if (jv_set(vars, it.key, jv_ref(it.val)) != ST_OK) return nomem(e);
    return ST_OK;
}

static status set_or_null(jv *vars, const char *key, const jv *v, api_error *e)
{
    return jv_set(vars, key, v && !jv_is(v, JV_NULL) ? jv_ref(v) : jv_new_null()) == ST_OK ? ST_OK : nomem(e);
}

/* Later ones win: special tokens, the server's defaults, the request's own. */
static status template_vars(const app *a, const jv *body, const jv *tools, jv *messages, jv **out, api_error *e)
{
    jv *vars = jv_new_obj();
    if (!vars) return nomem(e);
    status st = merge(vars, a->o.template_tokens, e);
    const char *effort = field_str(body, "reasoning_effort", NULL);
    const jv *own = jv_get(body, "chat_template_kwargs");
    if (st == ST_OK && effort) {
        st = jv_set(vars, "reasoning_effort", jv_new_str(effort, strlen(effort))) == ST_OK ? ST_OK : nomem(e);
        if (st == ST_OK) st = jv_set(vars, "enable_thinking", jv_new_bool(strcmp(effort, "none") != 0)) == ST_OK ? ST_OK : nomem(e);
    }
    if (st == ST_OK) st = merge(vars, a->o.default_template_kwargs, e);
    if (st == ST_OK) st = merge(vars, own, e);
    if (st == ST_OK) st = set_or_null(vars, "messages", messages, e);
    if (st == ST_OK) st = set_or_null(vars, "tools", tools, e);
    if (st == ST_OK) st = set_or_null(vars, "documents", jv_get(body, "documents"), e);
    if (st == ST_OK) st = jv_set(vars, "add_generation_prompt", jv_new_bool(field_bool(body, "add_generation_prompt", true))) == ST_OK ? ST_OK : nomem(e);
    if (st != ST_OK) {
        jv_free(vars);
        return st;
    }
    *out = vars;
    return ST_OK;
}

/* The last place where `word` occurs in text[0..n). */
static const char *find_last(const char *text, size_t n, const char *word, size_t len)
{
    const char *found = NULL;
    for (const char *p = text; len > 0 && (size_t)(p - text) + len <= n && (p = memmem(p, n - (size_t)(p - text), word, len)); p++) found = p;
    return found;
}

/* Cuts the rendering at the end of the last message's content, so that the model goes on writing it. */
static status cut_after_last(const jv *messages, buf *text, api_error *e)
{
    static const char *const space = " \t\r\n";
    const jv *content = jv_get(jv_at(messages, jv_len(messages) - 1), "content");
    if (jv_is(content, JV_ARR)) content = jv_get(jv_at(content, jv_len(content) - 1), "text");
    const char *s = jv_str(content, "");
    size_t n = jv_len(content);
    while (n > 0 && *s && strchr(space, *s)) s++, n--;
    size_t bare = n;
    while (bare > 0 && s[bare - 1] && strchr(space, s[bare - 1])) bare--;
    const char *at = find_last(text->data, text->len, s, bare); /* NULL for an empty one */
    if (!at)
        return api_bad(e, "continue_final_message", "continue_final_message is set but the final message does not appear in the chat after applying the chat template!");
    size_t start = (size_t)(at - text->data);
    bool kept = start + n <= text->len && memcmp(at, s, n) == 0;
    text->len = start + (kept ? n : bare);
    text->data[text->len] = 0;
    return ST_OK;
}

static status pick_template(const app *a, const jv *body, const jv *tools, const jinja **out, jinja **owned, api_error *e)
{
    const char *own = field_str(body, "chat_template", NULL);
    const char *in_kwargs = jv_str(jv_get(jv_get(body, "chat_template_kwargs"), "chat_template"), NULL);
    if (in_kwargs) own = in_kwargs;
    if (own) {
        if (!a->o.trust_request_chat_template)
            return api_bad(e, "chat_template", "Chat template is passed with request, but --trust-request-chat-template is not set. Refused request with untrusted chat template.");
        status st = jinja_parse(own, strlen(own), owned);
        if (st != ST_OK) return api_fail_status(e, st, "chat_template");
        *out = *owned;
        return ST_OK;
    }
    *out = tools && jv_len(tools) > 0 && a->o.tool_template ? a->o.tool_template : a->o.chat_template;
    if (!*out) return api_bad(e, "messages", "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the tokenizer does not define one.");
    return ST_OK;
}

content_format render_format(const app *a, const jinja *t)
{
    if (!t || a->o.content_format != CONTENT_AUTO) return a->o.content_format;
    return jinja_wants_content_parts(t) ? CONTENT_AUTO : CONTENT_STRING;
}

static status check_options(const app *a, const jv *body, api_error *e)
{
    if (!a->o.tok) return api_bad(e, "messages", "Unable to get tokenizer because `skip_tokenizer_init=True`; chat needs one.");
    if (field_bool(body, "continue_final_message", false) && field_bool(body, "add_generation_prompt", true))
        return fields_value_error(e, "add_generation_prompt", "Cannot set both `continue_final_message` and `add_generation_prompt` to True.");
    static const char *const media[] = { "mm_processor_kwargs", "media_io_kwargs" };
    for (size_t i = 0; i < 2; i++)
        if (field_has(body, media[i]) && !a->o.trust_request_mm_kwargs) return api_bad(e, media[i], "%s is passed with request, but --trust-request-mm-kwargs is not set.", media[i]);
    return ST_OK;
}

static status describe_answer(const app *a, const jv *body, const jv *messages, arena *mem, conversation *out, api_error *e)
{
    const jv *last = jv_at(messages, jv_len(messages) - 1), *content = jv_get(last, "content");
    const char *role = field_bool(body, "add_generation_prompt", true) ? (a->o.response_role ? a->o.response_role : "assistant") : jv_str(jv_get(last, "role"), "assistant");
    if (jv_is(content, JV_ARR)) content = jv_get(jv_at(content, jv_len(content) - 1), "text");
    const char *same = strcmp(jv_str(jv_get(last, "role"), ""), role) == 0 ? jv_str(content, "") : "";
    out->role = arena_strdup(mem, role);
    out->last_content = arena_strdup(mem, same);
    return out->role && out->last_content ? ST_OK : nomem(e);
}

status render_messages(const app *a, const jv *body, int what, arena *mem, conversation *out, api_error *e)
{
    const jinja *t = NULL;
    jinja *owned = NULL;
    jv *messages = NULL, *vars = NULL;
    jinja_error why = JINJA_OK;
    status st;
    TRY(check_options(a, body, e));
    if (field_has(body, "mm_processor_kwargs")) out->mm_kwargs = jv_get(body, "mm_processor_kwargs");
    if (field_has(body, "media_io_kwargs")) out->io_kwargs = jv_get(body, "media_io_kwargs");
    const jv *tools = field_has(body, "tools") ? jv_get(body, "tools") : NULL;
    if (what == RENDER_CHAT && a->o.exclude_tools_when_none && strcmp(field_str(body, "tool_choice", ""), "none") == 0) tools = NULL;
    TRY(pick_template(a, body, tools, &t, &owned, e));
    content_format format = t == a->o.chat_template ? a->chat_format : t == a->o.tool_template ? a->tool_format : render_format(a, t);
    TRY_OUT(all_messages(&(rendering){ a, format, mem, out }, body, &messages, e));
    TRY_OUT(template_vars(a, body, tools, messages, &vars, e));
    st = jinja_render(t, vars, NULL, 0, &out->text, &why);
    if (st == ST_OK) st = buf_status(&out->text);
    if (st != ST_OK) {
        /* whatever a template raises is about the request: 400, unless it is our memory that ended */
        if (st != ST_NOMEM) st = ST_INVALID;
        st = api_fail_status(e, st, "messages");
        goto out;
    }
    if (field_bool(body, "continue_final_message", false)) TRY_OUT(cut_after_last(messages, &out->text, e));
    st = describe_answer(a, body, messages, mem, out, e);
out:
    jv_free(vars);
    jv_free(messages);
    jinja_free(owned);
    return st;
}
