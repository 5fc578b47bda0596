/* Inside of the API layer: the application, one HTTP call, errors, and what the files of this folder share. */
#ifndef SYSTOLIC_API_APP_H
#define SYSTOLIC_API_APP_H

#include <pthread.h>
#include <stdatomic.h>

#include "api/metrics.h"
#include "api/server.h"
#include "base/arena.h"
#include "base/buf.h"

struct job;
struct media_setup;
struct out_worker;

struct api_server {
    api_options o;
    http_server *http;
    struct media_setup *media;       /* NULL: no images and sounds */
    metrics *metrics;
    int64_t created;                 /* start, unix seconds */
    content_format chat_format, tool_format; /* of the server's templates */
    atomic_bool draining;
    _Atomic int64_t server_load;
    _Atomic uint64_t next_job_id;
    struct out_worker *workers; int n_workers;
    pthread_mutex_t jobs_mu;         /* guards the list of live jobs */
    pthread_cond_t jobs_cv;          /* signalled when it becomes empty */
    struct job *jobs;
    pthread_t stats_thread; bool stats_running, stats_stop;
    pthread_mutex_t stats_mu; pthread_cond_t stats_cv;
};
typedef struct api_server app;

/* ---- errors (errors.c) ---- */
/* What a client will read. Filled by the api_fail family, which return ST_INVALID so that TRY works. */
typedef struct api_error {
    int code;
    const char *type;                /* "BadRequestError", "Bad Request", ... */
    char param[96];                  /* "" = null */
    char message[10240];
} api_error;

status api_fail(api_error *e, int code, const char *type, const char *param, const char *fmt, ...) PRINTF_LIKE(5, 6) FALLIBLE;
/* 400 BadRequestError. */
status api_bad(api_error *e, const char *param, const char *fmt, ...) PRINTF_LIKE(3, 4) FALLIBLE;
/* From a failed call of another layer, whose message becomes the client's (500 for our own failures, which stay vague). */
status api_fail_status(api_error *e, status s, const char *param) FALLIBLE;
/* Appends {"error":{...}}. */
void api_error_json(const api_error *e, buf *out);

/* ---- one HTTP call (router.c) ---- */
struct route;
typedef struct call {
    app *app;
    http_request *r;                 /* NULL in api_check_request */
    const struct route *route;
    double t0;
    const jv *body;                  /* parsed JSON of a POST, or NULL; lives as long as the handler runs */
} call;

typedef status (*route_fn)(call *c, api_error *e);   /* a failure is answered by the router with *e */
enum { ROUTE_JSON = 1, ROUTE_UNMEASURED = 2, ROUTE_DOCS = 4, ROUTE_TOKENIZER_INFO = 8, ROUTE_DEV = 16 };
typedef struct route { const char *method, *path; route_fn fn; int flags; const char *summary; } route;
const route *router_table(int *n);

void router_handle(http_request *r, void *arg);
/* The answer, counted. buf contents are copied; a buf that failed becomes a 500. */
void call_reply(const call *c, int code, const char *content_type, const void *body, size_t n);
void call_json(const call *c, int code, const buf *b);
void call_error(const call *c, const api_error *e);
/* Counts a streamed answer that ended (call_reply does so itself). */
void call_count(const call *c, int code, size_t bytes);

/* ---- auth.c, cors.c ---- */
bool auth_allows(const app *a, const char *method, const char *path, const char *authorization);
/* Sets CORS headers; true if it answered a preflight. */
bool cors_handle(const call *c);

/* ---- handlers ---- */
status models_list(call *c, api_error *e) FALLIBLE;
status completions_create(call *c, api_error *e) FALLIBLE;
status chat_create(call *c, api_error *e) FALLIBLE;
status tokenize_post(call *c, api_error *e) FALLIBLE;
status detokenize_post(call *c, api_error *e) FALLIBLE;
status tokenizer_info_get(call *c, api_error *e) FALLIBLE;
status health_get(call *c, api_error *e) FALLIBLE;
status version_get(call *c, api_error *e) FALLIBLE;
status load_get(call *c, api_error *e) FALLIBLE;
status metrics_get(call *c, api_error *e) FALLIBLE;
status kv_event_sources_get(call *c, api_error *e) FALLIBLE;
status reset_prefix_cache_post(call *c, api_error *e) FALLIBLE;
status openapi_get(call *c, api_error *e) FALLIBLE;
status docs_get(call *c, api_error *e) FALLIBLE;

/* ---- models.c ---- */
/* 404 unless the body's "model" is one of ours, null or absent. *name: what to echo. */
status models_resolve(const app *a, const jv *body, const char **name, api_error *e) FALLIBLE;

/* ---- render.c ---- */
/* How message contents go to the template: see set_content. */
content_format render_format(const app *a, const jinja *t);

/* ---- sse.c ---- */
/* Appends "data: <json>\n\n". */
void sse_event(buf *out, const char *json, size_t n);
extern const char sse_done[];        /* "data: [DONE]\n\n" */
extern const char sse_content_type[];

#endif
