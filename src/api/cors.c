/* Cross-origin headers, as Starlette's CORSMiddleware answers. */
#include <string.h>
#include <strings.h>

#include "api/app.h"

static bool listed(const str_list *l, const char *s, size_t n, bool fold)
{
    for (int i = 0; i < l->n; i++) {
        if (strcmp(l->v[i], "*") == 0) return true;
        if (strlen(l->v[i]) == n && (fold ? strncasecmp(l->v[i], s, n) : strncmp(l->v[i], s, n)) == 0) return true;
    }
    return false;
}

static bool any(const str_list *l)
{
    for (int i = 0; i < l->n; i++)
        if (strcmp(l->v[i], "*") == 0) return true;
    return false;
}

static void join(const str_list *l, buf *out)
{
    for (int i = 0; i < l->n; i++) {
        if (i) buf_str(out, ", ");
        buf_str(out, l->v[i]);
    }
}

/* Every name of "a, b" must be allowed (or be one that always is). */
static bool headers_allowed(const api_options *o, const char *names)
{
    static const char *const always[] = { "accept", "accept-language", "content-language", "content-type" };
    str_list safe = { always, 4 };
    for (const char *p = names; *p;) {
        while (*p == ' ' || *p == ',') p++;
        size_t n = strcspn(p, ",");
        const char *next = p + n;
        while (n > 0 && p[n - 1] == ' ') n--;
        if (n > 0 && !listed(&o->allowed_headers, p, n, true) && !listed(&safe, p, n, true)) return false;
        p = next;
    }
    return true;
}

static void allow_origin(const call *c, const char *origin)
{
    const api_options *o = &c->app->o;
    bool star = any(&o->allowed_origins);
    if (star && !(o->allow_credentials && http_header(c->r, "Cookie"))) {
        http_set_header(c->r, "Access-Control-Allow-Origin", "*");
    } else {
        http_set_header(c->r, "Access-Control-Allow-Origin", origin);
        http_set_header(c->r, "Vary", "Origin");
    }
    if (o->allow_credentials) http_set_header(c->r, "Access-Control-Allow-Credentials", "true");
}

static void preflight(const call *c, const char *origin, const char *method)
{
    static const char *const methods_all = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";
    const api_options *o = &c->app->o;
    buf bad = {0}, list = {0};
    const char *want = http_header(c->r, "Access-Control-Request-Headers");
    if (listed(&o->allowed_origins, origin, strlen(origin), false)) allow_origin(c, origin);
    else buf_str(&bad, "origin");
    if (!listed(&o->allowed_methods, method, strlen(method), false)) buf_str(&bad, bad.len ? ", method" : "method");
    if (want && !headers_allowed(o, want)) buf_str(&bad, bad.len ? ", headers" : "headers");
    if (any(&o->allowed_methods)) buf_str(&list, methods_all);
    else join(&o->allowed_methods, &list);
    http_set_header(c->r, "Access-Control-Allow-Methods", buf_cstr(&list));
    http_set_header(c->r, "Access-Control-Max-Age", "600");
    buf_clear(&list);
    if (any(&o->allowed_headers)) {
        if (want) buf_str(&list, want);
    } else {
        buf_str(&list, "Accept, Accept-Language, Content-Language, Content-Type");
        if (o->allowed_headers.n) buf_str(&list, ", ");
        join(&o->allowed_headers, &list);
    }
    if (list.len) http_set_header(c->r, "Access-Control-Allow-Headers", buf_cstr(&list));
    if (bad.len) {
        buf_clear(&list);
        buf_printf(&list, "Disallowed CORS %s", buf_cstr(&bad));
        call_reply(c, 400, "text/plain; charset=utf-8", buf_cstr(&list), list.len);
    } else {
        call_reply(c, 200, "text/plain; charset=utf-8", "OK", 2);
    }
    buf_free(&bad);
    buf_free(&list);
}

bool cors_handle(const call *c)
{
    const api_options *o = &c->app->o;
    const char *origin = http_header(c->r, "Origin");
    if (o->allowed_origins.n == 0 || !origin) return false;
    const char *method = http_header(c->r, "Access-Control-Request-Method");
    if (method && strcmp(http_method(c->r), "OPTIONS") == 0) {
        preflight(c, origin, method);
        return true;
    }
    if (listed(&o->allowed_origins, origin, strlen(origin), false)) allow_origin(c, origin);
    return false;
}
