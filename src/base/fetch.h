/* HTTP client over libcurl: whole responses, downloads to a callback, server-sent events. Blocking calls, one thread
 * each; callers make threads where they want concurrency. URLs: http://, https:// and http+unix://%2Fpath%2Fsock/v1/x.
 *
 * Redirects are followed here, not by libcurl: Authorization and Cookie never reach another origin (scheme, host,
 * port), https never falls back to http, and allowed_redirect_hosts is checked before anything is sent. Bodies are asked
 * for and passed on as they are (Accept-Encoding: identity). http_proxy, https_proxy and no_proxy are honoured, except
 * for loopback addresses. SSL_CERT_FILE, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE name other certificate authorities. */
#ifndef SYSTOLIC_BASE_FETCH_H
#define SYSTOLIC_BASE_FETCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

typedef struct fetch_response fetch_response;
typedef struct fetch_options {
    const char *method;              /* NULL = GET, or POST when there is a body */
    const char *const *headers;      /* "Name: value", NULL-terminated, or NULL */
    const void *body; size_t body_len;
    int64_t range_from;              /* > 0: "Range: bytes=N-"; the answer's code tells whether it was honoured (206) */
    double connect_timeout_s;        /* 0 = 10 */
    double total_timeout_s;          /* 0 = none; redirects included */
    double stall_timeout_s;          /* no byte either way for that long = failure; 0 = 30, < 0 = none */
    int max_redirects;               /* 0 = none (the 3xx is the answer), -1 = 10. More is ST_LIMIT */
    size_t max_bytes;                /* of a 2xx body; 0 = none. More is ST_LIMIT */
    bool insecure;                   /* no certificate check */
    bool public_only;                /* connect to addresses on the internet alone (address.h), redirects included; others are ST_DENIED */
    const char *unix_socket;         /* connect there instead of the URL's host, or NULL */
    const char *const *allowed_redirect_hosts; /* NULL-terminated host names a redirect may lead to; NULL = any */
    /* Called for every piece of the body of a 2xx answer; return false to abort (ST_CANCELLED). NULL: the body goes to response.body */
    bool (*on_data)(void *arg, const void *data, size_t n);
    /* Called once when the final status and headers are known, before on_data (2xx or not); return false to abort. May be NULL. */
    bool (*on_head)(void *arg, const fetch_response *r);
    /* Polled about 10 times a second and after every piece; true aborts (ST_CANCELLED). May be NULL. */
    bool (*cancelled)(void *arg);
    void *arg;
} fetch_options;

struct fetch_response {
    int code;                        /* HTTP status, 0 if none arrived */
    buf body;                        /* whole body; of an error answer at most 1 MiB */
    int64_t content_length;          /* -1 if unknown */
    buf raw_headers;                 /* of the final response, status line first, lines end with CRLF */
    char *effective_url;
    bool not_public;                 /* public_only refused the host's address */
};

/* A keep-alive connection handle; use by one thread at a time. */
typedef struct fetch fetch;
status fetch_open(fetch **out) FALLIBLE;
void fetch_close(fetch *f);
/* ST_OK whenever a whole HTTP answer arrived, whatever its code. ST_IO with a clear message otherwise (refused, resolve,
 * TLS, cut: "connection closed with 12345 of 99999 bytes received"); ST_LIMIT for time-outs, stalls, size and redirects.
 * *out is overwritten; free the response in either case (what arrived before a failure is in it). */
status fetch_run(fetch *f, const char *url, const fetch_options *o, fetch_response *out) FALLIBLE;
/* Value of a header of the answer (copied to dst), false if absent. Case-insensitive. */
bool fetch_header(const fetch_response *r, const char *name, char *dst, size_t cap);
void fetch_response_free(fetch_response *r);

#endif
