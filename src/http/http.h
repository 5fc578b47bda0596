/* HTTP/1.1 server on libevent: TLS, Unix socket, streaming answers, client-disconnect notice, and the guards of
 * docs/design.md section 9. Knows nothing of language models.
 *
 * Threads: one I/O thread owns libevent. A handler runs on a pool of worker threads and must answer, either before it
 * returns or later from any thread, by exactly one of http_reply / (http_stream_begin .. http_stream_end).
 * All http_reply / http_stream_* calls are thread-safe: they post to the I/O thread. */
#ifndef SYSTOLIC_HTTP_HTTP_H
#define SYSTOLIC_HTTP_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

typedef struct http_server http_server;
typedef struct http_request http_request; /* reference counted; alive until the last http_release */

typedef struct http_options {
    const char *host;            /* NULL = all interfaces (IPv4 and IPv6 where there) */
    int port;                    /* 0 = any; see http_port */
    const char *uds;             /* Unix socket path instead of host:port, or NULL */
    const char *ssl_certfile, *ssl_keyfile, *ssl_ca_certs, *ssl_ciphers; /* TLS when certfile is set */
    bool ssl_refresh;            /* new connections get the certificate files as they are now, when those changed */
    int ssl_cert_reqs;           /* 0 none, 1 optional, 2 required (Python ssl numbers) */
    size_t max_body_bytes;       /* 0 = 64 MiB; larger is 413 */
    size_t max_header_bytes;     /* 0 = 4 MiB (h11_max_incomplete_event_size) */
    int max_header_count;        /* 0 = 256 */
    double keep_alive_s;         /* idle connection; 0 = 5 */
    double read_timeout_s;       /* a request must arrive within (a body: plus its size at 16 KiB/s), and a reader must
                                  * take some byte within; 0 = 60 */
    size_t max_output_bytes;     /* pending output of a slow reader before it is cut off; 0 = 8 MiB */
    int max_connections;         /* 0 = 4096; above it: 503 and close */
    int n_workers;               /* handler threads; 0 = 4 */
    bool access_log;             /* uvicorn's line through log_plain */
    const char *const *access_log_skip; /* NULL-terminated paths that are not logged, or NULL */
} http_options;

/* Called on a worker thread for every well-formed request. The server holds the request until it was answered. */
typedef void (*http_handler)(http_request *r, void *arg);

/* Binds and starts serving. ST_INVALID / ST_IO with a clear message (port in use, bad certificate, ...). Ignores SIGPIPE
 * if nobody handles it and raises the soft limit of open files towards max_connections. The strings of *o are copied. */
status http_start(const http_options *o, http_handler handler, void *arg, http_server **out) FALLIBLE;
int http_port(const http_server *s);
/* Stops accepting new connections; open ones finish. Readiness is the caller's business. */
void http_drain(http_server *s);
/* Requests received and not yet answered. */
int http_in_flight(const http_server *s);
/* Drains for at most `seconds`, then cuts what is left, joins all threads, frees. Waits for handlers that are running.
 * Requests that others still hold stay valid (as disconnected ones) until released. */
void http_stop(http_server *s, double seconds);

/* ---- the request, immutable while the handler has it ---- */
const char *http_method(const http_request *r);            /* "GET" */
const char *http_path(const http_request *r);              /* decoded, without query: "/v1/models" */
const char *http_query(const http_request *r, const char *key); /* decoded value or NULL */
const char *http_header(const http_request *r, const char *name); /* case-insensitive, or NULL */
const char *http_body(const http_request *r, size_t *n);   /* NUL-terminated; body bytes */
const char *http_peer(const http_request *r);              /* "127.0.0.1:54321", "[::1]:54321", "unix" */
double http_arrival(const http_request *r);                /* clock_now() when the head was complete */
void *http_data(const http_request *r);                    /* a slot for the handler's use */
void http_set_data(http_request *r, void *data);

http_request *http_retain(http_request *r);
void http_release(http_request *r);
/* Called when the last reference is gone, with the data slot: the place to free what hangs on the request. Any thread. */
void http_on_release(http_request *r, void (*fn)(void *data));

/* Called once, on the I/O thread, if the client goes away before the answer is complete (http_reply or http_stream_end
 * called). Set it from the handler. If the client has left already it is called at once, on the calling thread. Must not
 * block. It does not start after the answer is complete, but one that began just before may still be running then: what
 * it uses must live as long as the request (http_on_release). The request itself is held during the call. */
void http_on_disconnect(http_request *r, void (*fn)(http_request *r, void *arg), void *arg);
bool http_disconnected(const http_request *r);

/* ---- the answer ---- */
/* A header for the answer; call before http_reply / http_stream_begin. Values with CR or LF are refused (dropped, logged). */
void http_set_header(http_request *r, const char *name, const char *value);
/* The whole answer. content_type may be NULL for an empty body. HEAD, 204 and 304 send no body. Content-Length, Date,
 * Server, Connection and Transfer-Encoding are the server's own. */
void http_reply(http_request *r, int code, const char *content_type, const void *body, size_t n);
/* A chunked answer (SSE): begin, any number of writes, end. Returns false when the client has gone or reads too slowly
 * (stop working; http_stream_end must still be called). A write copies the data and at most wakes the I/O thread. */
bool http_stream_begin(http_request *r, int code, const char *content_type);
bool http_stream_write(http_request *r, const void *data, size_t n);
void http_stream_end(http_request *r);
/* Ends a stream that went wrong: the connection is cut, so that the client cannot take the answer for a whole one. */
void http_stream_abort(http_request *r);
/* From now on the server sends `text` whenever the stream was silent for `seconds` (SSE comments that keep proxies from
 * closing it). Between http_stream_begin and http_stream_end. */
void http_stream_keep_alive(http_request *r, double seconds, const char *text);
const char *http_phrase(int code);                          /* "Not Found" */

#endif
