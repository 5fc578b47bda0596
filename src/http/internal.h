/* What the server's files share. request.c: the request and its answer, any thread. server.c: connections, I/O thread.
 * workers.c: handler threads. listen.c: sockets. tls.c: OpenSSL.
 *
 * How an answer travels: whoever answers appends bytes to r->out under r->mu and, if the request is not on the list
 * already, puts it on http_shared's list; only the first one on an empty list writes to the eventfd. The I/O thread takes
 * the whole list at once and swaps each r->out for an empty buffer. So a token costs its producer one or two uncontended
 * locks and a copy, and a burst of tokens costs one system call.
 *
 * Locks: r->mu, then sh->mu. No lock is held while foreign code (handler, callbacks) runs. */
#ifndef SYSTOLIC_HTTP_INTERNAL_H
#define SYSTOLIC_HTTP_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/buf.h"
#include "http/guard.h"
#include "base/thread.h"
#include "http/http.h"

/* What a request needs of its server; outlives the server while requests are held. */
typedef struct http_shared {
    _Atomic int refs;              /* the server and every request */
    int wake_fd;                   /* eventfd */
    size_t max_output_bytes;
    _Atomic bool draining;
    _Atomic int in_flight;
    _Atomic size_t body_bytes;     /* of all requests alive */
    pthread_mutex_t mu;            /* guards the rest */
    http_request *first, *last;    /* have something for the I/O thread */
    bool closed;                   /* the I/O thread has ended */
} http_shared;

typedef enum answer_state { ANSWER_NONE, ANSWER_STREAM, ANSWER_DONE } answer_state;

struct http_request {
    _Atomic int refs;
    http_shared *sh;
    http_head head;
    buf body;
    size_t counted_bytes;          /* our part of sh->body_bytes */
    char peer[64];
    double arrival;
    void *data;
    void (*on_release)(void *data);
    http_request *next_job;        /* workers.c */
    _Atomic bool gone;             /* the client has left */

    pthread_mutex_t mu;            /* guards what follows */
    answer_state state;
    int code;
    bool posted, stream, chunked, close_after, cut;
    buf headers;                   /* of the answer, set by the handler: "name: value\r\n"... */
    buf out;                       /* for the I/O thread to take */
    void (*on_gone)(http_request *, void *);
    void *on_gone_arg;
    double keep_alive_s;
    buf keep_alive_text;           /* framed */
    http_request *next_posted;     /* guarded by sh->mu */

    /* the I/O thread's own */
    void *conn;                    /* NULL once the connection is closed */
    buf io;                        /* what it took last */
    bool logged, finished;
};

/* ---- request.c ---- */
status shared_new(size_t max_output_bytes, http_shared **out) FALLIBLE;
void shared_release(http_shared *sh);
void shared_wake(http_shared *sh);
/* Takes the list; the I/O thread. */
http_request *shared_take(http_shared *sh);
/* No more I/O thread: later posts complete on their own. Returns the last list. */
http_request *shared_close(http_shared *sh);
/* Takes over *head and holds sh. One reference. */
status http_request_new(http_shared *sh, http_head *head, const char *peer, http_request **out) FALLIBLE;
/* The client has left: once, tells whoever asked. */
void request_gone(http_request *r);
/* The I/O thread has seen the end of the answer (or nobody will): once, drops the reference held for the answer. */
void request_finished(http_request *r);
/* Appends the head of an answer. n < 0: length unknown (chunked if `chunked`, else until close). */
void answer_head(buf *out, int code, const char *content_type, int64_t n, bool chunked, bool close_after, const buf *extra);
/* The transport's own error answers: JSON like the API's. */
void answer_error(buf *out, int code, const char *message);

/* ---- workers.c ---- */
typedef struct workers workers;
status workers_new(int n, http_handler handler, void *arg, workers **out) FALLIBLE;
void workers_push(workers *w, http_request *r); /* takes one reference */
void workers_free(workers *w);                  /* waits for running handlers; what is queued is dropped, unanswered */

/* ---- listen.c ---- */
enum { MAX_LISTENERS = 8 };
typedef struct listeners {
    int fds[MAX_LISTENERS];
    int n, port;
    char *uds;           /* to unlink, if it is still ours */
    uint64_t dev, ino;
} listeners;
status listeners_open(const http_options *o, listeners *out) FALLIBLE;
/* Removes the socket file; the descriptors too if `fds`. */
void listeners_close(listeners *l, bool fds);
/* Room for n descriptors, as far as the hard limit goes. */
void raise_file_limit(int n);

/* ---- tls.c ---- */
typedef struct tls tls;
struct ssl_st;
status tls_open(const http_options *o, tls **out) FALLIBLE;
struct ssl_st *tls_session(tls *t);     /* NULL: out of memory */
void tls_session_free(struct ssl_st *s);
void tls_goodbye(struct ssl_st *s);     /* close_notify; does not wait for the peer's */
void tls_close(tls *t);

#endif
