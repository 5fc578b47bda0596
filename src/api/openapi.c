/* /openapi.json and /docs, both made from the route and field tables. */
#include <ctype.h>
#include <string.h>

#include "api/fields.h"

static int fields_of(const char *path)
{
    if (strcmp(path, "/v1/completions") == 0) return FIELD_COMPLETION;
    if (strcmp(path, "/v1/chat/completions") == 0) return FIELD_CHAT;
    if (strcmp(path, "/tokenize") == 0) return FIELD_TOKENIZE | FIELD_TOKENIZE_CHAT;
    if (strcmp(path, "/detokenize") == 0) return FIELD_DETOKENIZE;
    return 0;
}

static void type_json(jw *w, body_kind k)
{
    static const char *const names[] = {
        [BK_INT] = "{\"type\":\"integer\"}", [BK_NUM] = "{\"type\":\"number\"}", [BK_BOOL] = "{\"type\":\"boolean\"}",
        [BK_STR] = "{\"type\":\"string\"}", [BK_OBJ] = "{\"type\":\"object\"}", [BK_ANY] = "{}",
        [BK_INT_LIST] = "{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}",
        [BK_STR_LIST] = "{\"type\":\"array\",\"items\":{\"type\":\"string\"}}",
        [BK_OBJ_LIST] = "{\"type\":\"array\",\"items\":{\"type\":\"object\"}}",
        [BK_BIAS] = "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"number\"}}",
        [BK_STR_OR_LIST] = "{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"items\":{\"type\":\"string\"}}]}",
        [BK_PROMPT] = "{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"array\",\"items\":{}}]}",
    };
    jw_raw(w, names[k]);
}

static void schema_json(jw *w, int where)
{
    int n;
    const body_field *f = fields_table(&n);
    jw_obj(w);
    jw_key(w, "type"); jw_str(w, "object");
    jw_key(w, "properties");
    jw_obj(w);
    for (int i = 0; i < n; i++) {
        bool shown = false; /* /tokenize has two forms that share names */
        for (int k = 0; k < i; k++) shown = shown || (f[k].where & where && strcmp(f[k].name, f[i].name) == 0);
        if (!(f[i].where & where) || shown) continue;
        jw_key(w, f[i].name);
        type_json(w, f[i].kind);
    }
    jw_end_obj(w);
    if (where == (FIELD_TOKENIZE | FIELD_TOKENIZE_CHAT)) {
        jw_key(w, "anyOf");
        jw_raw(w, "[{\"required\":[\"prompt\"]},{\"required\":[\"messages\"]}]");
    } else {
        jw_key(w, "required");
        jw_arr(w);
        for (int i = 0; i < n; i++)
            if (f[i].where & where && f[i].where & FIELD_REQUIRED) jw_str(w, f[i].name);
        jw_end_arr(w);
    }
    jw_end_obj(w);
}

static void operation_json(jw *w, const route *r)
{
    int where = fields_of(r->path);
    jw_obj(w);
    jw_key(w, "summary"); jw_str(w, r->summary);
    if (where) {
        jw_key(w, "requestBody");
        jw_raw(w, "{\"required\":true,\"content\":{\"application/json\":{\"schema\":");
        w->after_key = true; /* the schema is the value of the key just written */
        schema_json(w, where);
        buf_str(w->out, "}}}");
    }
    jw_key(w, "responses");
    jw_raw(w, "{\"200\":{\"description\":\"Successful Response\"}}");
    jw_end_obj(w);
}

status openapi_get(call *c, api_error *e)
{
    int n;
    const route *r = router_table(&n);
    buf out = {0};
    jw w = jw_to(&out);
    jw_obj(&w);
    jw_key(&w, "openapi"); jw_str(&w, "3.1.0");
    jw_key(&w, "info");
    jw_obj(&w);
    jw_key(&w, "title");   jw_str(&w, "Systolic, vLLM-compatible server");
    jw_key(&w, "version"); jw_str(&w, API_VLLM_VERSION);
    jw_end_obj(&w);
    jw_key(&w, "paths");
    jw_obj(&w);
    for (int i = 0; i < n; i++) {
        if (i && strcmp(r[i - 1].path, r[i].path) == 0) continue;
        jw_key(&w, r[i].path);
        jw_obj(&w);
        for (int k = i; k < n && strcmp(r[k].path, r[i].path) == 0; k++) {
            jw_key(&w, strcmp(r[k].method, "GET") == 0 ? "get" : "post");
            operation_json(&w, &r[k]);
        }
        jw_end_obj(&w);
    }
    jw_end_obj(&w);
    jw_end_obj(&w);
    status st = buf_status(&out);
    if (st == ST_OK) call_json(c, 200, &out);
    else st = api_fail_status(e, st, NULL);
    buf_free(&out);
    return st;
}

status docs_get(call *c, api_error *e)
{
    int n, n_fields;
    const route *r = router_table(&n);
    const body_field *f = fields_table(&n_fields);
    buf b = {0};
    buf_str(&b, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Systolic API</title>"
                "<style>body{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}td{padding:0 1em 0 0;vertical-align:top}</style>"
                "<h1>API</h1><p>Machine-readable: <a href=\"openapi.json\">openapi.json</a>.</p>");
    for (int i = 0; i < n; i++) {
        int where = fields_of(r[i].path);
        buf_printf(&b, "<h2><code>%s %s</code></h2><p>%s.</p>", r[i].method, r[i].path, r[i].summary);
        if (!where) continue;
        buf_str(&b, "<table>");
        for (int k = 0; k < n_fields; k++)
            if (f[k].where & where) buf_printf(&b, "<tr><td><code>%s</code></td><td>%s</td></tr>", f[k].name, f[k].help ? f[k].help : "");
        buf_str(&b, "</table>");
    }
    buf_str(&b, "</html>");
    status st = buf_status(&b);
    if (st == ST_OK) call_reply(c, 200, "text/html; charset=utf-8", b.data, b.len);
    else st = api_fail_status(e, st, NULL);
    buf_free(&b);
    return st;
}
