/* The request head, checked and taken apart: the one place that decides which bytes are a request. Pure functions over
 * bytes, no sockets. Strict on purpose: whatever two HTTP implementations could read differently (bare LF, NUL, folded
 * lines, a blank before a colon, two lengths, a length and chunks, no Host) is refused, so that a proxy in front can
 * never disagree with us about where a request ends. */
#ifndef SYSTOLIC_HTTP_GUARD_H
#define SYSTOLIC_HTTP_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

typedef struct guard_limits {
    size_t max_head_bytes;  /* 431 */
    int max_headers;        /* 431 */
    size_t max_body_bytes;  /* 413 */
} guard_limits;

typedef struct http_field { const char *name, *value; } http_field;

/* A request head. All strings point into `text`. Zero-initialise; guard_free. */
typedef struct http_head {
    char *text;
    const char *method;
    const char *target;          /* path and query as sent, for logs: visible ASCII only */
    const char *path;            /* percent-decoded, begins with '/', or is "*" (OPTIONS) */
    http_field *fields, *query;  /* headers in order; decoded query pairs in order */
    int n_fields, n_query;
    int minor;                   /* HTTP/1.minor: 0 or 1 */
    bool keep_alive, chunked, expect_continue;
    uint64_t content_length;     /* 0 when chunked or absent */
} http_head;

typedef enum head_scan { HEAD_MORE, HEAD_DONE, HEAD_BAD } head_scan;
/* Looks for the end of a head in s[0..n). *pos is where the last call stopped (0 at first). HEAD_DONE: the head is the
 * first *pos bytes, blank line included. HEAD_BAD: no continuation can make it a head (message set; answer 400). */
head_scan guard_scan(const char *s, size_t n, size_t *pos);
/* Takes apart the n bytes of a complete head. On failure *code is the HTTP status to answer and the message says why. */
status guard_parse(const char *s, size_t n, const guard_limits *lim, http_head *out, int *code) FALLIBLE;
void guard_free(http_head *h);
const char *guard_field(const http_head *h, const char *name); /* case-insensitive, first one, or NULL */
bool guard_is_token(const char *s, size_t n);
/* A header value we may send: no control characters but tab. */
bool guard_is_value(const char *s);

/* Chunked bodies, taken apart as they arrive. Zero-initialise. */
typedef struct chunk_reader {
    int state;
    int line_bytes;    /* of the size line or of all trailers: both bounded */
    int digits;
    uint64_t left;     /* of the current chunk */
    bool done;
} chunk_reader;
/* Consumes from s[0..n), appends the data to *body, sets *used. c->done: the body is complete. More than max_body bytes
 * of data: *code 413; malformed: 400. */
status chunk_feed(chunk_reader *c, const char *s, size_t n, size_t max_body, buf *body, size_t *used, int *code) FALLIBLE;

#endif
