#include "api/fields.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { GEN = FIELD_COMPLETION | FIELD_CHAT, TEMPLATE = FIELD_CHAT | FIELD_TOKENIZE_CHAT, MAX_ERRORS = 10, INPUT_CHARS = 200, ERROR_CHARS = 1000 };

static const body_field table[] = {
    { "model", BK_STR, GEN | FIELD_TOKENIZE | FIELD_TOKENIZE_CHAT | FIELD_DETOKENIZE, 0, "name of a served model; the first when absent" },
    { "prompt", BK_PROMPT, FIELD_COMPLETION, 0, "text, list of texts, token ids, or list of lists of token ids" },
    { "prompt", BK_STR, FIELD_TOKENIZE | FIELD_REQUIRED, 0, "text" },
    { "tokens", BK_INT_LIST, FIELD_DETOKENIZE | FIELD_REQUIRED, 0, "token ids" },
    { "messages", BK_OBJ_LIST, TEMPLATE | FIELD_REQUIRED, 0, "the conversation" },
    { "max_tokens", BK_INT, GEN, 0, "most tokens to generate" },
    { "max_completion_tokens", BK_INT, FIELD_CHAT, 0, "most tokens to generate; wins over max_tokens" },
    { "temperature", BK_NUM, GEN, 0, "0 is greedy" },
    { "top_p", BK_NUM, GEN, 0, NULL }, { "top_k", BK_INT, GEN, 0, "0 or -1: all tokens" }, { "min_p", BK_NUM, GEN, 0, NULL },
    { "repetition_penalty", BK_NUM, GEN, 0, NULL }, { "presence_penalty", BK_NUM, GEN, 0, NULL }, { "frequency_penalty", BK_NUM, GEN, 0, NULL },
    { "n", BK_INT, GEN, 0, "choices per prompt" },
    { "stream", BK_BOOL, GEN, 0, "answer as server-sent events" },
    { "stream_options", BK_OBJ, GEN, 0, "include_usage, continuous_usage_stats" },
    { "stop", BK_STR_OR_LIST, GEN, 0, "strings that end the text" },
    { "stop_token_ids", BK_INT_LIST, GEN, 0, NULL },
    { "include_stop_str_in_output", BK_BOOL, GEN, 0, NULL }, { "ignore_eos", BK_BOOL, GEN, 0, NULL },
    { "skip_special_tokens", BK_BOOL, GEN, 0, NULL }, { "spaces_between_special_tokens", BK_BOOL, GEN, 0, NULL },
    { "detokenize", BK_BOOL, GEN, 0, "false: token ids only, text stays empty" },
    { "min_tokens", BK_INT, GEN, 0, NULL },
    { "logprobs", BK_INT, FIELD_COMPLETION, 0, "log probabilities of this many tokens; -1 = all" },
    { "logprobs", BK_BOOL, FIELD_CHAT, 0, NULL },
    { "top_logprobs", BK_INT, FIELD_CHAT, 0, NULL },
    { "prompt_logprobs", BK_INT, GEN, 0, NULL },
    { "logprob_token_ids", BK_INT_LIST, GEN, 0, "log probabilities of exactly these tokens" },
    { "echo", BK_BOOL, GEN, 0, NULL },
    { "seed", BK_INT, GEN, 0, NULL },
    { "logit_bias", BK_BIAS, GEN, 0, "{\"token id\": -100..100}" },
    { "allowed_token_ids", BK_INT_LIST, GEN, 0, NULL },
    { "bad_words", BK_STR_LIST, GEN, 0, NULL },
    { "suffix", BK_STR, FIELD_COMPLETION, 0, NULL },
    { "truncate_prompt_tokens", BK_INT, GEN | FIELD_MIN, -1, "keep this many prompt tokens; -1 = what fits" },
    { "truncation_side", BK_STR, GEN, 0, "left or right" },
    { "add_special_tokens", BK_BOOL, GEN | FIELD_TOKENIZE | FIELD_TOKENIZE_CHAT, 0, NULL },
    { "return_token_strs", BK_BOOL, FIELD_TOKENIZE | FIELD_TOKENIZE_CHAT, 0, NULL },
    { "response_format", BK_OBJ, GEN, 0, NULL }, { "structured_outputs", BK_OBJ, GEN, 0, NULL },
    { "use_beam_search", BK_BOOL, GEN, 0, NULL }, { "length_penalty", BK_NUM, GEN, 0, NULL },
    { "priority", BK_INT, GEN, 0, "lower is earlier" },
    { "request_id", BK_STR, GEN, 0, NULL }, { "session_id", BK_STR, GEN, 0, NULL }, { "user", BK_STR, GEN, 0, NULL },
    { "return_tokens_as_token_ids", BK_BOOL, GEN, 0, NULL }, { "return_token_ids", BK_BOOL, GEN, 0, NULL },
    { "cache_salt", BK_STR, GEN, 0, NULL },
    { "kv_transfer_params", BK_OBJ, GEN, 0, NULL }, { "ec_transfer_params", BK_OBJ, GEN, 0, NULL }, { "vllm_xargs", BK_OBJ, GEN, 0, NULL },
    { "repetition_detection", BK_OBJ, GEN, 0, "max_pattern_size, min_pattern_size, min_count" },
    { "thinking_token_budget", BK_INT, GEN, 0, NULL },
    { "stream_interval", BK_INT, GEN | FIELD_MIN, 1, "tokens per chunk" },
    { "tools", BK_OBJ_LIST, TEMPLATE, 0, NULL }, { "tool_choice", BK_ANY, FIELD_CHAT, 0, NULL }, { "parallel_tool_calls", BK_BOOL, FIELD_CHAT, 0, NULL },
    { "reasoning_effort", BK_STR, FIELD_CHAT, 0, NULL }, { "include_reasoning", BK_BOOL, FIELD_CHAT, 0, NULL },
    { "chat_template", BK_STR, TEMPLATE, 0, NULL }, { "chat_template_kwargs", BK_OBJ, TEMPLATE, 0, NULL },
    { "add_generation_prompt", BK_BOOL, TEMPLATE, 0, NULL }, { "continue_final_message", BK_BOOL, TEMPLATE, 0, NULL },
    { "documents", BK_OBJ_LIST, FIELD_CHAT, 0, NULL }, { "return_prompt_text", BK_BOOL, FIELD_CHAT, 0, NULL },
    { "mm_processor_kwargs", BK_OBJ, TEMPLATE, 0, NULL }, { "media_io_kwargs", BK_OBJ, TEMPLATE, 0, NULL },
};

const body_field *fields_table(int *n)
{
    *n = (int)(sizeof table / sizeof *table);
    return table;
}

/* ---- conversions ---- */
static bool parse_num(const char *s, double *out)
{
    if (!s || !*s) return false;
    char *end;
    *out = strtod(s, &end);
    while (*end == ' ') end++;
    return *end == 0 && end != s;
}

static bool parse_int(const char *s, int64_t *out)
{
    if (!s || !*s) return false;
    char *end;
    errno = 0;
    *out = strtoll(s, &end, 10);
    if (errno || end == s) return false;
    if (*end == '.') /* "1.0" is the integer 1 */
        for (end++; *end == '0'; end++) {}
    return *end == 0;
}

bool field_to_i64(const jv *v, int64_t *out)
{
    switch (jv_type(v)) {
    case JV_INT: *out = jv_i64(v, 0); return true;
    case JV_BOOL: *out = jv_bool(v, false); return true;
    case JV_REAL: {
        double d = jv_f64(v, 0);
        if (!(fabs(d) < 9.2e18) || d != floor(d)) return false;
        *out = (int64_t)d;
        return true;
    }
    case JV_STR: return parse_int(jv_str(v, NULL), out);
    default: return false;
    }
}

static bool to_f64(const jv *v, double *out)
{
    switch (jv_type(v)) {
    case JV_INT: case JV_REAL: *out = jv_f64(v, 0); return true;
    case JV_BOOL: *out = jv_bool(v, false); return true;
    case JV_STR: return parse_num(jv_str(v, NULL), out);
    default: return false;
    }
}

static bool to_bool(const jv *v, bool *out)
{
    static const char *const yes[] = { "1", "true", "t", "yes", "y", "on" }, *const no[] = { "0", "false", "f", "no", "n", "off" };
    const char *s = jv_str(v, NULL);
    double d;
    if (jv_is(v, JV_BOOL)) {
        *out = jv_bool(v, false);
        return true;
    }
    if (s) {
        for (size_t i = 0; i < 6; i++) {
            if (strcasecmp(s, yes[i]) == 0) return *out = true, true;
            if (strcasecmp(s, no[i]) == 0) return *out = false, true;
        }
        return false;
    }
    if (!to_f64(v, &d) || (d != 0 && d != 1)) return false;
    *out = d != 0;
    return true;
}

bool field_has(const jv *body, const char *name)
{
    jv_kind k = jv_type(jv_get(body, name));
    return k != JV_MISSING && k != JV_NULL;
}

int64_t field_i64(const jv *body, const char *name, int64_t def)
{
    int64_t x;
    return field_to_i64(jv_get(body, name), &x) ? x : def;
}

double field_f64(const jv *body, const char *name, double def)
{
    double x;
    return to_f64(jv_get(body, name), &x) ? x : def;
}

bool field_bool(const jv *body, const char *name, bool def)
{
    bool x;
    return to_bool(jv_get(body, name), &x) ? x : def;
}

const char *field_str(const jv *body, const char *name, const char *def) { return jv_str(jv_get(body, name), def); }

/* ---- errors ---- */
/* Python's repr of a value, cut when long enough. */
static void repr(const jv *v, buf *out, size_t limit)
{
    if (out->len > limit) return;
    bool first = true;
    switch (jv_type(v)) {
    case JV_MISSING: case JV_NULL: buf_str(out, "None"); break;
    case JV_BOOL: buf_str(out, jv_bool(v, false) ? "True" : "False"); break;
    case JV_INT: buf_printf(out, "%" PRId64, jv_i64(v, 0)); break;
    case JV_REAL: {
        char s[40];
        json_repr_f64(s, sizeof s, jv_f64(v, 0));
        buf_str(out, s);
        break;
    }
    case JV_STR:
        buf_char(out, '\'');
        for (const char *p = jv_str(v, ""); *p && out->len <= limit; p++) {
            if (*p == '\n') buf_str(out, "\\n");
            else if (*p == '\'' || *p == '\\') buf_char(out, '\\'), buf_char(out, *p);
            else buf_char(out, *p);
        }
        buf_char(out, '\'');
        break;
    case JV_ARR:
        buf_char(out, '[');
        for (size_t i = 0; i < jv_len(v) && out->len <= limit; i++) {
            if (i) buf_str(out, ", ");
            repr(jv_at(v, i), out, limit);
        }
        buf_char(out, ']');
        break;
    case JV_OBJ:
        buf_char(out, '{');
        for (jv_iter it = jv_begin(v); jv_next(&it) && out->len <= limit; first = false) {
            buf_printf(out, first ? "'%.100s': " : ", '%.100s': ", it.key);
            repr(it.val, out, limit);
        }
        buf_char(out, '}');
        break;
    }
}

typedef struct checker { buf lines; int n; char param[96]; } checker;

static void complain(checker *c, const char *type, const char *name, const char *sub, const char *msg, const jv *input)
{
    if (++c->n > MAX_ERRORS) return;
    if (c->n == 1) snprintf(c->param, sizeof c->param, name[0] ? "body.%.80s" : "body", name);
    buf in = {0}, line = {0};
    repr(input, &in, INPUT_CHARS);
    if (in.len > INPUT_CHARS) {
        size_t cut = INPUT_CHARS;
        while (cut > 0 && ((unsigned char)in.data[cut] & 0xC0) == 0x80) cut--;
        in.len = cut;
        in.data[cut] = 0;
        buf_str(&in, "...");
    }
    buf_printf(&line, "\n  {'type': '%s', 'loc': ('body'", type);
    if (name[0]) buf_printf(&line, ", '%s'", name);
    if (sub[0]) buf_printf(&line, ", %s", sub);
    buf_printf(&line, "), 'msg': '%s', 'input': %s}", msg, buf_cstr(&in));
    buf_append(&c->lines, buf_cstr(&line), line.len < ERROR_CHARS ? line.len : ERROR_CHARS);
    buf_free(&in);
    buf_free(&line);
}

static status finish(checker *c, api_error *e)
{
    status st = ST_OK;
    if (c->n) st = api_fail(e, 400, "Bad Request", c->param, "%d validation error%s:%s", c->n, c->n == 1 ? "" : "s", buf_cstr(&c->lines));
    buf_free(&c->lines);
    return st;
}

status fields_value_error(api_error *e, const char *param, const char *message)
{
    return api_fail(e, 400, "Bad Request", param, "1 validation error:\n  {'type': 'value_error', 'loc': ('body',), 'msg': 'Value error, %s'}", message);
}

static void check_int(checker *c, const body_field *f, const char *sub, const jv *v)
{
    int64_t x;
    char msg[120];
    if (field_to_i64(v, &x)) {
        if (!(f->where & FIELD_MIN) || x >= f->min) return;
        snprintf(msg, sizeof msg, "Input should be greater than or equal to %" PRId64, f->min);
        complain(c, "greater_than_equal", f->name, sub, msg, v);
    } else if (jv_is(v, JV_REAL)) {
        complain(c, "int_from_float", f->name, sub, "Input should be a valid integer, got a number with a fractional part", v);
    } else if (jv_is(v, JV_STR)) {
        complain(c, "int_parsing", f->name, sub, "Input should be a valid integer, unable to parse string as an integer", v);
    } else {
        complain(c, "int_type", f->name, sub, "Input should be a valid integer", v);
    }
}

static void check_list(checker *c, const body_field *f, const jv *v)
{
    if (!jv_is(v, JV_ARR)) {
        complain(c, "list_type", f->name, f->kind == BK_STR_OR_LIST ? "'list[str]'" : "", "Input should be a valid list", v);
        return;
    }
    for (size_t i = 0; i < jv_len(v) && c->n < MAX_ERRORS; i++) {
        char sub[64];
        snprintf(sub, sizeof sub, f->kind == BK_STR_OR_LIST ? "'list[str]', %zu" : "%zu", i);
        const jv *x = jv_at(v, i);
        if (f->kind == BK_INT_LIST) check_int(c, f, sub, x);
        else if (f->kind == BK_OBJ_LIST && !jv_is(x, JV_OBJ)) complain(c, "dict_type", f->name, sub, "Input should be a valid dictionary", x);
        else if ((f->kind == BK_STR_LIST || f->kind == BK_STR_OR_LIST) && !jv_is(x, JV_STR)) complain(c, "string_type", f->name, sub, "Input should be a valid string", x);
    }
}

/* Text, [text], [id] or [[id]]; ids are checked later, where the vocabulary is known. */
static void check_prompt(checker *c, const body_field *f, const jv *v)
{
    if (jv_is(v, JV_STR)) return;
    if (!jv_is(v, JV_ARR)) {
        complain(c, "string_type", f->name, "'str'", "Input should be a valid string", v);
        complain(c, "list_type", f->name, "'list[int]'", "Input should be a valid list", v);
        return;
    }
    int64_t x;
    jv_kind k = jv_type(jv_at(v, 0));
    for (size_t i = 0; i < jv_len(v); i++) {
        const jv *p = jv_at(v, i);
        char sub[80];
        bool ok = k == JV_STR ? jv_is(p, JV_STR) : k == JV_ARR ? jv_is(p, JV_ARR) : jv_is(p, JV_INT);
        if (ok && k == JV_ARR)
            for (size_t j = 0; ok && j < jv_len(p); j++) ok = jv_is(jv_at(p, j), JV_INT) && field_to_i64(jv_at(p, j), &x);
        if (ok) continue;
        snprintf(sub, sizeof sub, "'%s', %zu", k == JV_STR ? "list[str]" : k == JV_ARR ? "list[list[int]]" : "list[int]", i);
        complain(c, k == JV_STR ? "string_type" : "int_type", f->name, sub, k == JV_STR ? "Input should be a valid string" : "Input should be a valid integer", p);
        return;
    }
}

static void check_bias(checker *c, const body_field *f, const jv *v)
{
    if (!jv_is(v, JV_OBJ)) {
        complain(c, "dict_type", f->name, "", "Input should be a valid dictionary", v);
        return;
    }
    for (jv_iter it = jv_begin(v); jv_next(&it);) {
        double d;
        char sub[64];
        snprintf(sub, sizeof sub, "'%.40s'", it.key);
        if (!to_f64(it.val, &d)) complain(c, "float_type", f->name, sub, "Input should be a valid number", it.val);
    }
}

static void check_one(checker *c, const body_field *f, const jv *v)
{
    double d;
    bool b;
    switch (f->kind) {
    case BK_INT: check_int(c, f, "", v); break;
    case BK_NUM:
        if (to_f64(v, &d)) break;
        if (jv_is(v, JV_STR)) complain(c, "float_parsing", f->name, "", "Input should be a valid number, unable to parse string as a number", v);
        else complain(c, "float_type", f->name, "", "Input should be a valid number", v);
        break;
    case BK_BOOL:
        if (to_bool(v, &b)) break;
        if (jv_is(v, JV_STR)) complain(c, "bool_parsing", f->name, "", "Input should be a valid boolean, unable to interpret input", v);
        else complain(c, "bool_type", f->name, "", "Input should be a valid boolean", v);
        break;
    case BK_STR:
        if (!jv_is(v, JV_STR)) complain(c, "string_type", f->name, "", "Input should be a valid string", v);
        break;
    case BK_OBJ:
        if (!jv_is(v, JV_OBJ)) complain(c, "dict_type", f->name, "", "Input should be a valid dictionary", v);
        break;
    case BK_STR_OR_LIST:
        if (jv_is(v, JV_STR)) break;
        if (!jv_is(v, JV_ARR)) complain(c, "string_type", f->name, "'str'", "Input should be a valid string", v);
        check_list(c, f, v);
        break;
    case BK_INT_LIST: case BK_STR_LIST: case BK_OBJ_LIST: check_list(c, f, v); break;
    case BK_BIAS: check_bias(c, f, v); break;
    case BK_PROMPT: check_prompt(c, f, v); break;
    case BK_ANY: break;
    }
}

status fields_check(const jv *body, int where, api_error *e)
{
    checker c = {0};
    if (!jv_is(body, JV_OBJ)) {
        complain(&c, "model_attributes_type", "", "", "Input should be a valid dictionary or object to extract fields from", body);
        return finish(&c, e);
    }
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const body_field *f = &table[i];
        if (!(f->where & where)) continue;
        const jv *v = jv_get(body, f->name);
        if (jv_is(v, JV_MISSING) || (jv_is(v, JV_NULL) && !(f->where & FIELD_REQUIRED))) {
            if (f->where & FIELD_REQUIRED) complain(&c, "missing", f->name, "", "Field required", body);
        } else {
            check_one(&c, f, v);
        }
    }
    return finish(&c, e);
}
