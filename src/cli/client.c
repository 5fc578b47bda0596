#include "cli/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fetch.h"
#include "base/mem.h"

enum { MAX_HEADERS = 40, MAX_EVENT = 64 << 20 };

struct client {
    fetch *http;
    char *base;                              /* without trailing slash or /v1 */
    char *headers[MAX_HEADERS + 1];
    int n_headers, id_header;                /* id_header: index of X-Request-Id, -1 = none yet */
    bool insecure;
    double timeout_s;
};

static status add_header(client *c, const char *name, const char *value)
{
    if (c->n_headers == MAX_HEADERS) return err_set(ST_LIMIT, "more than %d headers", MAX_HEADERS);
    buf b = {0};
    buf_printf(&b, value ? "%s: %s" : "%s", name, value);
    char *line = buf_take(&b);
    if (!line) {
        buf_free(&b);
        return err_nomem();
    }
    c->headers[c->n_headers++] = line;
    return ST_OK;
}

static status client_init(client *c, const client_options *o)
{
    c->id_header = -1;
    TRY(fetch_open(&c->http));
    size_t n = strlen(o->base_url);
    while (n > 0 && o->base_url[n - 1] == '/') n--;
    if (n >= 3 && memcmp(o->base_url + n - 3, "/v1", 3) == 0) n -= 3;
    c->base = mem_strndup(o->base_url, n);
    if (!c->base) return err_nomem();
    const char *key = o->api_key ? o->api_key : getenv("OPENAI_API_KEY");
    TRY(add_header(c, "Content-Type: application/json", NULL));
    if (key && *key) {
        buf b = {0};
        buf_printf(&b, "Bearer %s", key);
        status st = buf_status(&b);
        if (st == ST_OK) st = add_header(c, "Authorization", buf_cstr(&b));
        buf_free(&b);
        TRY(st);
    }
    for (const char *const *h = o->headers; h && *h; h++) TRY(add_header(c, *h, NULL));
    c->insecure = o->insecure;
    c->timeout_s = o->timeout_s;
    return ST_OK;
}

status client_open(const client_options *o, client **out)
{
    client *c = mem_calloc(1, sizeof *c);
    if (!c) return err_nomem();
    status st = client_init(c, o);
    if (st != ST_OK) {
        client_close(c);
        return st;
    }
    *out = c;
    return ST_OK;
}

void client_close(client *c)
{
    if (!c) return;
    if (c->http) fetch_close(c->http);
    mem_free(c->base);
    for (int i = 0; i < c->n_headers; i++) mem_free(c->headers[i]);
    mem_free(c);
}

status client_request_id(client *c, const char *id)
{
    if (c->id_header < 0) {
        TRY(add_header(c, "X-Request-Id", id));
        c->id_header = c->n_headers - 1;
        return ST_OK;
    }
    /* Made as one more header, then moved to its place. */
    TRY(add_header(c, "X-Request-Id", id));
    mem_free(c->headers[c->id_header]);
    c->headers[c->id_header] = c->headers[--c->n_headers];
    c->headers[c->n_headers] = NULL;
    return ST_OK;
}

/* The message inside an error body: {"error": {"message": ...}}, {"error": "..."}, or the text itself. */
static void error_message(const char *body, size_t n, char *dst, size_t cap)
{
    jv *v = NULL;
    snprintf(dst, cap, "%.300s", n ? body : "(empty answer)");
    if (n == 0 || jv_parse(body, n, &v) != ST_OK) return;
    const jv *e = jv_get(v, "error");
    const char *text = jv_str(e, jv_get_str(e, "message", NULL));
    if (text) snprintf(dst, cap, "%s", text);
    jv_free(v);
}

static status server_error(int code, const char *body, size_t n)
{
    char text[512];
    error_message(body, n, text, sizeof text);
    status st = code == 401 || code == 403 ? ST_DENIED : code == 404 ? ST_NOT_FOUND : code == 503 || code == 429 ? ST_LIMIT : code < 500 ? ST_INVALID : ST_IO;
    return err_set(st, "HTTP %d: %s", code, text);
}

static status make_url(const client *c, const char *path, char **out)
{
    buf b = {0};
    buf_printf(&b, "%s%s", c->base, path);
    *out = buf_take(&b);
    if (*out) return ST_OK;
    buf_free(&b);
    return err_nomem();
}

static fetch_options options_of(const client *c, const char *body)
{
    return (fetch_options){
        .headers = (const char *const *)c->headers, .body = body, .body_len = body ? strlen(body) : 0,
        .insecure = c->insecure, .total_timeout_s = c->timeout_s, .stall_timeout_s = 3600, .max_bytes = (size_t)1 << 30,
    };
}

status client_json(client *c, const char *path, const char *body, jv **out)
{
    char *url;
    TRY(make_url(c, path, &url));
    fetch_options o = options_of(c, body);
    fetch_response r = {0};
    status st = fetch_run(c->http, url, &o, &r);
    if (st == ST_OK && (r.code < 200 || r.code > 299)) st = server_error(r.code, buf_cstr(&r.body), r.body.len);
    if (st == ST_OK && out) {
        st = jv_parse(buf_cstr(&r.body), r.body.len, out);
        if (st != ST_OK) st = err_wrap(st, "answer of %s", url);
    }
    fetch_response_free(&r);
    mem_free(url);
    return st;
}

/* ---- server-sent events ---- */

typedef struct sse_reader {
    buf line;                 /* an unfinished line */
    client_event_fn *fn;
    void *arg;
    bool done, stopped, failed;
    char error[512];
} sse_reader;

/* A complete line. Only data lines matter here; comments and event names are passed over. */
static void on_line(sse_reader *s, const char *line, size_t n, double at)
{
    if (n > 0 && line[n - 1] == '\r') n--;
    if (n < 5 || memcmp(line, "data:", 5) != 0 || s->done || s->stopped) return;
    line += 5;
    n -= 5;
    if (n > 0 && *line == ' ') {
        line++;
        n--;
    }
    if (n == 6 && memcmp(line, "[DONE]", 6) == 0) {
        s->done = true;
        return;
    }
    if (n > 10 && memcmp(line, "{\"error\":", 9) == 0) {
        error_message(line, n, s->error, sizeof s->error);
        s->failed = true;
        return;
    }
    if (!s->fn(s->arg, line, n, at)) s->stopped = true;
}

static bool on_data(void *arg, const void *data, size_t n)
{
    sse_reader *s = arg;
    const char *p = data, *end = p + n;
    double at = clock_now();
    while (p < end && !s->stopped) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        if (!nl) {
            buf_append(&s->line, p, (size_t)(end - p));
            break;
        }
        if (s->line.len) {
            buf_append(&s->line, p, (size_t)(nl - p));
            if (!s->line.failed) on_line(s, s->line.data, s->line.len, at);
            buf_clear(&s->line);
        } else {
            on_line(s, p, (size_t)(nl - p), at);
        }
        p = nl + 1;
    }
    return !s->stopped && !s->line.failed && s->line.len < MAX_EVENT;
}

status client_stream(client *c, const char *path, const char *body, client_event_fn *fn, void *arg)
{
    char *url;
    TRY(make_url(c, path, &url));
    sse_reader s = { .fn = fn, .arg = arg };
    fetch_options o = options_of(c, body);
    o.on_data = on_data;
    o.arg = &s;
    fetch_response r = {0};
    status st = fetch_run(c->http, url, &o, &r);
    if (s.stopped) st = ST_OK;
    else if (st == ST_OK && (r.code < 200 || r.code > 299)) st = server_error(r.code, buf_cstr(&r.body), r.body.len);
    else if (st == ST_OK && s.failed) st = err_set(ST_IO, "%s", s.error);
    buf_free(&s.line);
    fetch_response_free(&r);
    mem_free(url);
    return st;
}

status client_first_model(client *c, char **out)
{
    jv *v = NULL;
    TRY(client_json(c, "/v1/models", NULL, &v));
    const char *id = jv_get_str(jv_at(jv_get(v, "data"), 0), "id", NULL);
    status st = id ? ST_OK : err_set(ST_INVALID, "%s/v1/models lists no model", c->base);
    if (id) {
        *out = mem_strdup(id);
        if (!*out) st = err_nomem();
    }
    jv_free(v);
    return st;
}
