/* A client of an OpenAI-compatible server: JSON requests and server-sent events. Used by chat, complete, bench serve. */
#ifndef SYSTOLIC_CLI_CLIENT_H
#define SYSTOLIC_CLI_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "base/json.h"

/* One connection: use by one thread at a time. */
typedef struct client client;

typedef struct client_options {
    const char *base_url;              /* "http://localhost:8000" (a trailing "/v1" or "/" is cut) */
    const char *api_key;               /* NULL = OPENAI_API_KEY, else none */
    const char *const *headers;        /* extra "Name: value", NULL-terminated, or NULL */
    bool insecure;                     /* no certificate check */
    double timeout_s;                  /* of a whole request; 0 = none */
} client_options;

status client_open(const client_options *o, client **out) FALLIBLE;
void client_close(client *c);

/* X-Request-Id of the requests from now on. */
status client_request_id(client *c, const char *id) FALLIBLE;

/* GET or (body != NULL) POST. A non-2xx answer is a failure whose message is the server's. *out may be NULL. */
status client_json(client *c, const char *path, const char *body, jv **out) FALLIBLE;

/* One event of a stream: its JSON text (not "[DONE]"); `at` is clock_now() of its arrival. Return false to stop reading (the rest of the
 * answer is dropped and the call succeeds). */
typedef bool client_event_fn(void *arg, const char *json, size_t n, double at);
/* POSTs and calls fn for each event until [DONE] or the end. An "error" event is a failure with the server's message. */
status client_stream(client *c, const char *path, const char *body, client_event_fn *fn, void *arg) FALLIBLE;

/* The first id of /v1/models; the caller frees it (mem_free). */
status client_first_model(client *c, char **out) FALLIBLE;

#endif
