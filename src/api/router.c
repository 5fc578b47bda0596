/* From an HTTP request to a handler: middleware in vLLM's order, the route table, errors, and counting. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/app.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"

/* SageMaker's one route for everything: what the body is, says where it goes. */
static status invocations_post(call *c, api_error *e)
{
    return jv_get(c->body, "messages") ? chat_create(c, e) : completions_create(c, e);
}

static const route routes[] = {
    { "GET", "/health", health_get, ROUTE_UNMEASURED, "Health check: 200 while the engine works" },
    { "GET", "/ping", health_get, ROUTE_UNMEASURED, "Health check" },
    { "POST", "/ping", health_get, ROUTE_UNMEASURED, "Health check" },
    { "GET", "/load", load_get, ROUTE_UNMEASURED, "Requests being answered" },
    { "GET", "/version", version_get, ROUTE_UNMEASURED, "Version" },
    { "GET", "/metrics", metrics_get, ROUTE_UNMEASURED, "Prometheus metrics" },
    { "GET", "/v1/models", models_list, 0, "Served models" },
    { "POST", "/v1/completions", completions_create, ROUTE_JSON, "Create a completion" },
    { "POST", "/v1/chat/completions", chat_create, ROUTE_JSON, "Create a chat completion" },
    { "POST", "/tokenize", tokenize_post, ROUTE_JSON, "Text or chat to token ids" },
    { "POST", "/detokenize", detokenize_post, ROUTE_JSON, "Token ids to text" },
    { "GET", "/tokenizer_info", tokenizer_info_get, ROUTE_TOKENIZER_INFO, "About the tokenizer" },
    { "POST", "/invocations", invocations_post, ROUTE_JSON, "A completion or a chat completion, by the shape of the body" },
    { "GET", "/kv_event_sources", kv_event_sources_get, 0, "Publishers of KV events" },
    { "POST", "/reset_prefix_cache", reset_prefix_cache_post, ROUTE_DEV, "Forget cached prefixes" },
    { "GET", "/openapi.json", openapi_get, ROUTE_DOCS, "This API as OpenAPI" },
    { "GET", "/docs", docs_get, ROUTE_DOCS, "This API for people" },
    { "GET", "/redoc", docs_get, ROUTE_DOCS, "This API for people" },
};

const route *router_table(int *n)
{
    *n = (int)(sizeof routes / sizeof *routes);
    return routes;
}

/* ---- answers ---- */
void call_count(const call *c, int code, size_t bytes)
{
    size_t n = 0;
    if (!c->r || (c->route && c->route->flags & ROUTE_UNMEASURED)) return;
    http_body(c->r, &n);
    metrics_http(c->app->metrics, http_method(c->r), c->route ? c->route->path : "none", code, clock_now() - c->t0, n, bytes);
}

void call_reply(const call *c, int code, const char *content_type, const void *body, size_t n)
{
    if (!c->r) return; /* api_check_request */
    call_count(c, code, n);
    http_reply(c->r, code, content_type, body, n);
}

void call_json(const call *c, int code, const buf *b)
{
    static const char oom[] = "{\"error\":{\"message\":\"out of memory\",\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}";
    if (b->failed) call_reply(c, 500, "application/json", oom, sizeof oom - 1);
    else call_reply(c, code, "application/json", buf_cstr(b), b->len);
}

void call_error(const call *c, const api_error *e)
{
    buf b = {0};
    api_error_json(e, &b);
    call_json(c, e->code, &b);
    buf_free(&b);
}

/* ---- middleware ---- */
static void set_request_id(const call *c)
{
    char id[33];
    const char *given = http_header(c->r, "X-Request-Id");
    if (!c->app->o.request_id_headers) return;
    if (!given || !*given) random_hex(id, 32);
    http_set_header(c->r, "X-Request-Id", given && *given ? given : id);
}

static bool enabled(const app *a, const route *r)
{
    if (r->flags & ROUTE_DOCS) return !a->o.no_docs;
    if (r->flags & ROUTE_TOKENIZER_INFO) return a->o.tokenizer_info;
    if (r->flags & ROUTE_DEV) {
        const char *dev = getenv("VLLM_SERVER_DEV_MODE");
        return dev && strcmp(dev, "1") == 0;
    }
    return true;
}

/* The path below --root-path. */
static const char *local_path(const app *a, const char *path)
{
    const char *root = a->o.root_path;
    size_t n = root ? strlen(root) : 0;
    while (n > 0 && root[n - 1] == '/') n--;
    if (n > 0 && strncmp(path, root, n) == 0 && path[n] == '/') return path + n;
    return path;
}

/* NULL if no route has the path; *other: one has it, with another method. */
static const route *find(const app *a, const char *method, const char *path, const route **other)
{
    *other = NULL;
    if (strcmp(method, "HEAD") == 0) method = "GET";
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        const route *r = &routes[i];
        if (strcmp(r->path, path) != 0 || !enabled(a, r)) continue;
        if (strcmp(r->method, method) == 0) return r;
        *other = r;
    }
    return NULL;
}

static bool is_json(const char *content_type)
{
    if (!content_type) return false;
    while (*content_type == ' ') content_type++;
    size_t n = strcspn(content_type, ";");
    while (n > 0 && content_type[n - 1] == ' ') n--;
    return n == 16 && strncasecmp(content_type, "application/json", 16) == 0;
}

static status parse_body(call *c, jv **out, api_error *e)
{
    size_t n;
    const char *text = http_body(c->r, &n);
    if (!is_json(http_header(c->r, "Content-Type")))
        return api_fail(e, 400, "Bad Request", NULL, "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed");
    if (n == 0) return api_fail(e, 400, "Bad Request", "body", "1 validation error:\n  {'type': 'missing', 'loc': ('body',), 'msg': 'Field required', 'input': None}");
    status st = jv_parse(text, n, out);
    if (st == ST_NOMEM) return api_fail_status(e, st, NULL);
    if (st != ST_OK) {
        char why[200];
        err_copy(why, sizeof why);
        return api_fail(e, 400, "Bad Request", "body", "1 validation error:\n  {'type': 'json_invalid', 'loc': ('body', 0), 'msg': 'JSON decode error', 'input': {}, 'ctx': {'error': '%s'}}", why);
    }
    return ST_OK;
}

static status dispatch(call *c, const char *path, api_error *e)
{
    const route *other;
    const char *method = http_method(c->r);
    c->route = find(c->app, method, path, &other);
    if (!c->route && other) {
        c->route = other;
        http_set_header(c->r, "Allow", other->method);
        return api_fail(e, 405, "Method Not Allowed", NULL, "Method Not Allowed");
    }
    if (!c->route) return api_fail(e, 404, "Not Found", NULL, "Not Found");
    if (!(c->route->flags & ROUTE_JSON)) return c->route->fn(c, e);
    if (atomic_load(&c->app->draining)) return api_fail(e, 503, "ServiceUnavailableError", NULL, "The server is shutting down.");
    jv *body = NULL;
    TRY(parse_body(c, &body, e));
    c->body = body;
    status st = c->route->fn(c, e);
    jv_free(body);
    return st;
}

void router_handle(http_request *r, void *arg)
{
    static const char unauthorized[] = "{\"error\":\"Unauthorized\"}";
    app *a = arg;
    call c = { .app = a, .r = r, .t0 = http_arrival(r) };
    api_error e;
    e.code = 500;
    e.type = "InternalServerError";
    e.param[0] = 0;
    snprintf(e.message, sizeof e.message, "Internal server error");
    set_request_id(&c);
    if (cors_handle(&c)) return;
    const char *path = local_path(a, http_path(r));
    if (!auth_allows(a, http_method(r), path, http_header(r, "Authorization"))) {
        call_reply(&c, 401, "application/json", unauthorized, sizeof unauthorized - 1);
        return;
    }
    if (dispatch(&c, path, &e) != ST_OK) call_error(&c, &e);
}
