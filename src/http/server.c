/* Connections and the event loop: the only file that knows libevent. We use its loop, buffers and TLS filter, not its HTTP
 * parser, which lets through what guard.c refuses.
 *
 * A connection's states:
 *   HEAD    between requests, or a head is arriving      BODY    the head is accepted, its body arriving
 *   BUSY    a request is queued, running or streaming    FLUSH   answered; the last bytes are on their way out
 *   LINGER  our side is closed; what the client still sends is thrown away until it closes too, because closing with
 *           unread input makes the kernel send a reset that can destroy the answer before the client has read it
 *
 * Reading stays enabled in every state, so a client that leaves is noticed while its request waits or runs. In BUSY and
 * FLUSH the input is left in the buffer; at 64 KiB reading stops until the request is answered. (Not with
 * bufferevent_setwatermark, which crashes when memory is short.) One request per connection is under way; pipelined ones
 * wait in the input.
 *
 * End of input in BUSY: the client has closed, or has shut down its sending side only; TCP cannot tell. As uvicorn does,
 * the request counts as abandoned (on_disconnect runs, streams stop); but a plain connection is kept until a handler that
 * answers all the same has answered, so `printf ... | nc -N` gets its reply.
 *
 * Nothing here frees a connection in the middle of its own work: trouble sets c->dead, and every callback ends in
 * settle(), which frees it. */
#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "http/internal.h"

#if LIBEVENT_VERSION_NUMBER < 0x02010c00
#error "libevent 2.1.12 or newer is needed"
#endif

enum {
    READ_WATERMARK = 64 << 10,  /* input held behind a running request */
    BY_REFERENCE = 64 << 10,    /* larger output is handed to libevent, not copied */
    BODY_RATE = 16 << 10,       /* bytes a second a body must keep up after read_timeout_s */
    OVERFLOW_CONNS = 256,       /* this many above max_connections are told 503; more are closed unheard */
    BODIES_AT_ONCE = 64,        /* all bodies held together: this many of the largest */
    HEADS_AT_ONCE = 64,         /* all heads that are arriving, likewise */
};
static const double LINGER_S = 2, OVERFLOW_S = 5, ACCEPT_PAUSE_S = 0.1;

typedef enum conn_state { HEAD, BODY, BUSY, FLUSH, LINGER } conn_state;

typedef struct conn {
    http_server *s;
    struct conn *prev, *next;
    struct bufferevent *bev;
    struct ssl_st *ssl;         /* the bufferevent's, or NULL */
    evutil_socket_t fd;
    struct event *timer;
    double timer_at;            /* when it fires; it may fire early and is then set again. 0 = not set */
    double deadline;            /* of the present state; 0 = none */
    double wrote_at;            /* last output, for stream keep-alive */
    double body_from;
    conn_state state;
    bool dead, eof, started, overflow, close_after;
    bool paused;                /* not reading: READ_WATERMARK */
    buf in;                     /* taken from the bufferevent, not yet understood */
    size_t counted_in;          /* our part of s->in_bytes */
    size_t scanned;
    uint64_t body_left;
    chunk_reader chunks;
    http_request *req;          /* from its head to its answer: one reference */
    char peer[64];
} conn;

struct http_server {
    http_options o;             /* strings below are copies or not used after the start */
    guard_limits limits;
    char **skip;
    http_shared *sh;
    listeners ls;
    tls *tls;
    workers *workers;
    struct event_base *base;
    struct event *wake, *stop_timer, *accept_timer;
    struct evconnlistener *accepting[MAX_LISTENERS];
    conn *conns;
    int n_conns;
    size_t in_bytes;            /* of all connections' `in`, as of their last settle() */
    int port;
    bool drained, stopping;
    _Atomic bool stop;
    _Atomic double stop_s;
    pthread_t io;
};

static void advance(conn *c);
static void flushed(conn *c);

static struct timeval tv_of(double s)
{
    if (s < 0) s = 0;
    return (struct timeval){ .tv_sec = (time_t)s, .tv_usec = (suseconds_t)((s - (double)(time_t)s) * 1e6) };
}

/* ---- output ---- */

static void free_reference(const void *data, size_t n, void *arg)
{
    (void)data; (void)n;
    mem_free(arg);
}

/* Sends and empties b. A plain socket with nothing waiting is written to at once, which spares two epoll_ctl and a turn of
 * the loop for every token. */
static void send_bytes(conn *c, buf *b)
{
    struct evbuffer *out = bufferevent_get_output(c->bev);
    size_t off = 0;
    if (b->failed) c->dead = true;
    if (c->dead || b->len == 0) goto done;
    c->wrote_at = clock_now();
    if (!c->ssl && evbuffer_get_length(out) == 0) {
        ssize_t n = send(c->fd, b->data, b->len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR) c->dead = true;
        else if (n > 0) off = (size_t)n;
        if (c->dead || off == b->len) goto done;
    }
    if (b->len - off >= BY_REFERENCE && evbuffer_add_reference(out, b->data + off, b->len - off, free_reference, b->data) == 0) {
        *b = (buf){0};
        return;
    }
    if (evbuffer_add(out, b->data + off, b->len - off) != 0) c->dead = true;
done:
    buf_clear(b);
    b->failed = false;
}

static bool output_empty(const conn *c) { return evbuffer_get_length(bufferevent_get_output(c->bev)) == 0; }

/* The answer is in the output: go on when it is out. */
static void flush(conn *c)
{
    c->state = FLUSH;
    c->deadline = 0; /* the bufferevent's write timeout watches */
    if (!c->dead && output_empty(c)) flushed(c);
}

static void log_access(const http_server *s, const http_request *r, int code)
{
    if (!s->o.access_log) return;
    for (char **p = s->skip; p && *p; p++)
        if (strcmp(*p, r->head.path) == 0) return;
    log_plain("INFO:     %s - \"%s %.1024s HTTP/1.%d\" %d %s", r->peer, r->head.method, r->head.target, r->head.minor, code, http_phrase(code));
}

/* The transport's own answer; the connection ends with it. */
static void refuse(conn *c, int code, const char *message)
{
    buf out = {0};
    answer_error(&out, code, message);
    if (c->req) log_access(c->s, c->req, code);
    else if (code != 408) log_warn("invalid HTTP request from %s: %s", c->peer, message);
    send_bytes(c, &out);
    buf_free(&out);
    http_release(c->req); /* no handler has seen it */
    c->req = NULL;
    c->close_after = true;
    flush(c);
}

/* ---- input ---- */

static void pull(conn *c)
{
    struct evbuffer *in = bufferevent_get_input(c->bev);
    size_t n = evbuffer_get_length(in);
    if (n == 0) return;
    char *dst = buf_reserve(&c->in, n);
    if (!dst) {
        c->dead = true;
        return;
    }
    if (c->paused && bufferevent_enable(c->bev, EV_READ) != 0) c->dead = true;
    c->paused = false;
    int got = evbuffer_remove(in, dst, n);
    if (got > 0) {
        c->in.len += (size_t)got;
        c->in.data[c->in.len] = 0;
    }
}

static void consume(conn *c, size_t n)
{
    c->in.len -= n;
    if (c->in.len) memmove(c->in.data, c->in.data + n, c->in.len);
    else buf_free(&c->in);
    c->scanned = 0;
}

static void dispatch(conn *c)
{
    http_request *r = c->req;
    c->state = BUSY;
    c->deadline = 0;
    atomic_fetch_add(&r->sh->in_flight, 1);
    http_retain(r); /* for the answer */
    http_retain(r); /* for the worker */
    workers_push(c->s->workers, r);
}

static void advance_body(conn *c)
{
    http_request *r = c->req;
    size_t had = r->body.len, used = 0, max = c->s->limits.max_body_bytes;
    bool done;
    if (r->head.chunked) {
        int code = 400;
        if (chunk_feed(&c->chunks, buf_cstr(&c->in), c->in.len, max, &r->body, &used, &code) != ST_OK) {
            refuse(c, code, err_msg());
            return;
        }
        done = c->chunks.done;
    } else {
        used = c->body_left < c->in.len ? (size_t)c->body_left : c->in.len;
        if (used) buf_append(&r->body, c->in.data, used);
        c->body_left -= used;
        done = c->body_left == 0;
    }
    size_t new_bytes = r->body.len - had;
    r->counted_bytes += new_bytes;
    size_t all = atomic_fetch_add(&r->sh->body_bytes, new_bytes) + new_bytes;
    if (r->body.failed || all / BODIES_AT_ONCE > max) {
        refuse(c, 503, "the server is out of memory for request bodies");
        return;
    }
    consume(c, used);
    c->deadline = c->body_from + c->s->o.read_timeout_s + (double)r->body.len / BODY_RATE;
    if (done) dispatch(c);
}

/* A complete head lies in c->in[0..n). */
static void begin_request(conn *c, size_t n)
{
    http_head head = {0};
    int code = 400;
    if (guard_parse(c->in.data, n, &c->s->limits, &head, &code) != ST_OK) {
        refuse(c, code, err_msg());
        return;
    }
    status st = http_request_new(c->s->sh, &head, c->peer, &c->req);
    guard_free(&head); /* ours again if that failed */
    if (st != ST_OK) {
        refuse(c, 503, "the server is out of memory");
        return;
    }
    if (c->overflow) {
        refuse(c, 503, "the server has too many connections");
        return;
    }
    http_request *r = c->req;
    r->conn = c;
    consume(c, n);
    c->body_left = r->head.content_length;
    c->chunks = (chunk_reader){0};
    c->body_from = clock_now();
    c->state = BODY;
    if (r->head.expect_continue && c->in.len == 0 && (r->head.chunked || c->body_left)) {
        buf go = {0};
        buf_str(&go, "HTTP/1.1 100 Continue\r\n\r\n");
        send_bytes(c, &go);
        buf_free(&go);
    }
}

/* Takes the next head from c->in; true if there was one and the state has changed. */
static bool advance_head(conn *c)
{
    while (c->in.len >= 2 && memcmp(c->in.data, "\r\n", 2) == 0) { /* RFC 9112 2.2: blank lines before a request */
        c->started = true;
        consume(c, 2);
    }
    if (c->in.len == 0 || (c->in.len == 1 && c->in.data[0] == '\r')) return false;
    head_scan sc = guard_scan(c->in.data, c->in.len, &c->scanned);
    if (sc == HEAD_BAD) refuse(c, 400, err_msg());
    else if (sc == HEAD_DONE) begin_request(c, c->scanned);
    else if (c->in.len > c->s->limits.max_head_bytes) refuse(c, 431, "the request's head is too large");
    else if (c->s->in_bytes / HEADS_AT_ONCE > c->s->limits.max_head_bytes) refuse(c, 503, "the server is out of memory for request heads");
    else return false;
    return true;
}

static void advance(conn *c)
{
    if (c->state == HEAD && !c->started && c->in.len) {
        c->started = true;
        c->deadline = clock_now() + (c->overflow ? OVERFLOW_S : c->s->o.read_timeout_s);
    }
    if (c->state == HEAD && !c->dead) advance_head(c);
    if (c->state == BODY && !c->dead) advance_body(c);
}

/* ---- between requests ---- */

static void linger(conn *c)
{
    if (c->eof || c->s->stopping) {
        c->dead = true;
        return;
    }
    tls_goodbye(c->ssl);
    shutdown(c->fd, SHUT_WR);
    struct evbuffer *in = bufferevent_get_input(c->bev);
    evbuffer_drain(in, evbuffer_get_length(in));
    if (c->paused && bufferevent_enable(c->bev, EV_READ) != 0) c->dead = true;
    c->paused = false;
    buf_free(&c->in);
    c->state = LINGER;
    c->deadline = clock_now() + LINGER_S;
}

/* All output of the last answer is with the kernel. */
static void flushed(conn *c)
{
    if (c->close_after || c->eof || c->s->drained) {
        linger(c);
        return;
    }
    c->state = HEAD;
    c->started = false;
    c->scanned = 0;
    c->deadline = clock_now() + c->s->o.keep_alive_s;
    pull(c);
    advance(c);
}

static bool all_lingering(const http_server *s)
{
    for (const conn *c = s->conns; c; c = c->next)
        if (c->state != LINGER) return false;
    return true;
}

static void conn_free(conn *c)
{
    http_server *s = c->s;
    http_request *r = c->req;
    if (c->next) c->next->prev = c->prev;
    if (c->prev) c->prev->next = c->next;
    else s->conns = c->next;
    s->n_conns--;
    if (r) {
        r->conn = NULL;
        if (c->state == BUSY) request_gone(r);
        http_release(r);
    }
    if (c->state != LINGER) tls_goodbye(c->ssl);
    if (c->bev) bufferevent_free(c->bev); /* closes the socket, frees the TLS session */
    if (c->timer) event_free(c->timer);
    s->in_bytes -= c->counted_in;
    buf_free(&c->in);
    mem_free(c);
}

/* When the stream of this connection wants its keep-alive text; 0 = never. */
static double keep_alive_due(const conn *c)
{
    if (c->state != BUSY || !c->req) return 0;
    pthread_mutex_lock(&c->req->mu);
    double every = c->req->state == ANSWER_STREAM ? c->req->keep_alive_s : 0;
    pthread_mutex_unlock(&c->req->mu);
    return every > 0 ? c->wrote_at + every : 0;
}

/* The end of every callback. */
static void settle(conn *c)
{
    if (c->dead) {
        http_server *s = c->s;
        conn_free(c);
        if (s->stopping && all_lingering(s)) event_base_loopbreak(s->base);
        return;
    }
    c->s->in_bytes += c->in.len - c->counted_in;
    c->counted_in = c->in.len;
    double due = keep_alive_due(c), at = c->deadline;
    if (due > 0 && (at == 0 || due < at)) at = due;
    if (at == 0 || (c->timer_at > 0 && c->timer_at <= at)) return; /* firing early is cheaper than moving it each time */
    struct timeval tv = tv_of(at - clock_now() + 0.001);
    if (event_add(c->timer, &tv) != 0) {
        conn_free(c);
        return;
    }
    c->timer_at = at;
}

static void send_keep_alive(conn *c)
{
    http_request *r = c->req;
    buf text = {0};
    pthread_mutex_lock(&r->mu);
    if (r->state == ANSWER_STREAM && !r->posted) buf_append(&text, r->keep_alive_text.data, r->keep_alive_text.len);
    pthread_mutex_unlock(&r->mu);
    c->wrote_at = clock_now();
    if (output_empty(c)) send_bytes(c, &text); /* a reader that is behind needs no sign of life */
    buf_free(&text);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd; (void)what;
    conn *c = arg;
    double now = clock_now(), due = keep_alive_due(c);
    c->timer_at = 0;
    if (c->deadline > 0 && now >= c->deadline) {
        if ((c->state == HEAD && c->started) || c->state == BODY) refuse(c, 408, "the request did not arrive in time");
        else c->dead = true;
    } else if (due > 0 && now >= due) {
        send_keep_alive(c);
    }
    settle(c);
}

/* ---- bufferevent callbacks ---- */

static void on_read(struct bufferevent *bev, void *arg)
{
    conn *c = arg;
    struct evbuffer *in = bufferevent_get_input(bev);
    if (c->state == LINGER) {
        evbuffer_drain(in, evbuffer_get_length(in));
    } else if (c->state == HEAD || c->state == BODY) {
        pull(c);
        advance(c);
    } else if (evbuffer_get_length(in) >= READ_WATERMARK) {
        bufferevent_disable(bev, EV_READ);
        c->paused = true;
    }
    settle(c);
}

static void on_drained(struct bufferevent *bev, void *arg)
{
    (void)bev;
    conn *c = arg;
    if (c->state == FLUSH && output_empty(c)) flushed(c);
    settle(c);
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
    (void)bev;
    conn *c = arg;
    if (what & (BEV_EVENT_ERROR | BEV_EVENT_TIMEOUT)) {
        c->dead = true;
    } else if (what & BEV_EVENT_EOF) {
        c->eof = true;
        if (c->ssl || c->state == HEAD || c->state == BODY || c->state == LINGER) c->dead = true;
        else if (c->state == BUSY) request_gone(c->req);
    }
    settle(c);
}

/* ---- accepting ---- */

static void peer_name(const struct sockaddr *sa, char *dst, size_t cap)
{
    char ip[INET6_ADDRSTRLEN] = "";
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *a = (const struct sockaddr_in *)(const void *)sa;
        inet_ntop(AF_INET, &a->sin_addr, ip, sizeof ip);
        snprintf(dst, cap, "%s:%d", ip, ntohs(a->sin_port));
    } else if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)(const void *)sa;
        bool v4 = IN6_IS_ADDR_V4MAPPED(&a->sin6_addr);
        if (v4) inet_ntop(AF_INET, &a->sin6_addr.s6_addr[12], ip, sizeof ip);
        else inet_ntop(AF_INET6, &a->sin6_addr, ip, sizeof ip);
        snprintf(dst, cap, v4 ? "%s:%d" : "[%s]:%d", ip, ntohs(a->sin6_port));
    } else {
        snprintf(dst, cap, "unix");
    }
}

static void tune_socket(evutil_socket_t fd, int family)
{
    if (family == AF_UNIX) return;
    int on = 1, idle = 60, every = 10, count = 6;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on); /* a client whose machine died while its request runs */
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

/* NULL: the caller closes fd. */
static struct bufferevent *make_bufferevent(http_server *s, evutil_socket_t fd, struct ssl_st **ssl)
{
    *ssl = NULL;
    if (!s->tls) return bufferevent_socket_new(s->base, fd, BEV_OPT_CLOSE_ON_FREE);
    struct ssl_st *session = tls_session(s->tls);
    if (!session) return NULL;
    struct bufferevent *bev = bufferevent_openssl_socket_new(s->base, fd, session, BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
    if (!bev) {
        tls_session_free(session);
        return NULL;
    }
    bufferevent_openssl_set_allow_dirty_shutdown(bev, 1);
    *ssl = session;
    return bev;
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *sa, int len, void *arg)
{
    (void)l; (void)len;
    http_server *s = arg;
    conn *c = s->n_conns < s->o.max_connections + OVERFLOW_CONNS ? mem_calloc(1, sizeof *c) : NULL;
    if (!c) {
        close(fd);
        return;
    }
    c->s = s;
    c->fd = fd;
    c->overflow = s->n_conns >= s->o.max_connections;
    peer_name(sa, c->peer, sizeof c->peer);
    tune_socket(fd, sa->sa_family);
    c->next = s->conns;
    if (s->conns) s->conns->prev = c;
    s->conns = c;
    s->n_conns++;
    c->timer = event_new(s->base, -1, 0, on_timer, c);
    c->bev = c->timer ? make_bufferevent(s, fd, &c->ssl) : NULL;
    if (!c->bev) {
        conn_free(c);
        close(fd);
        return;
    }
    struct timeval slow = tv_of(s->o.read_timeout_s);
    bufferevent_setcb(c->bev, on_read, on_drained, on_event, c);
    c->deadline = clock_now() + (c->overflow ? OVERFLOW_S : s->o.read_timeout_s);
    if (bufferevent_set_timeouts(c->bev, NULL, &slow) != 0 || bufferevent_enable(c->bev, EV_READ | EV_WRITE) != 0) c->dead = true;
    settle(c);
}

/* Out of descriptors, most likely: a pause, or the loop would spin on the readable listener. */
static void on_accept_error(struct evconnlistener *l, void *arg)
{
    (void)l;
    http_server *s = arg;
    log_warn("cannot accept a connection: %s", strerror(errno));
    struct timeval tv = tv_of(ACCEPT_PAUSE_S);
    if (event_add(s->accept_timer, &tv) != 0) return;
    for (int i = 0; i < MAX_LISTENERS; i++)
        if (s->accepting[i]) evconnlistener_disable(s->accepting[i]);
}

static void on_accept_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd; (void)what;
    http_server *s = arg;
    for (int i = 0; i < MAX_LISTENERS; i++)
        if (s->accepting[i]) evconnlistener_enable(s->accepting[i]);
}

/* ---- answers arrive from other threads ---- */

static void take_answer(http_server *s, http_request *r)
{
    pthread_mutex_lock(&r->mu);
    r->posted = false;
    buf taken = r->out;
    r->out = r->io;
    r->io = taken;
    bool done = r->state == ANSWER_DONE, cut = r->cut, stream = r->stream;
    int code = r->code;
    pthread_mutex_unlock(&r->mu);
    conn *c = r->conn;
    if (c) {
        if (!r->logged) log_access(s, r, code);
        r->logged = true;
        if (stream && c->eof) c->dead = true; /* its writes were refused: do not show an empty stream as a whole one */
        send_bytes(c, &r->io);
        if (cut || (stream && evbuffer_get_length(bufferevent_get_output(c->bev)) > s->sh->max_output_bytes)) c->dead = true;
        if (done) {
            c->req = NULL;
            r->conn = NULL;
            c->close_after |= r->close_after;
            flush(c);
            http_release(r);
        }
        settle(c);
    }
    buf_clear(&r->io); /* nobody to send it to */
    r->io.failed = false;
    if (done) request_finished(r);
}

static void take_answers(http_server *s, http_request *list)
{
    for (http_request *next; list; list = next) {
        next = list->next_posted;
        take_answer(s, list);
    }
}

static void stop_accepting(http_server *s)
{
    for (int i = 0; i < MAX_LISTENERS; i++) {
        if (s->accepting[i]) evconnlistener_free(s->accepting[i]);
        s->accepting[i] = NULL;
    }
    listeners_close(&s->ls, false);
    s->drained = true;
    for (conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        if (c->state == HEAD && !c->started) conn_free(c);
    }
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    http_server *s = arg;
    uint64_t n;
    if (read(fd, &n, sizeof n) < 0) {} /* before the list is taken: a later post wakes again */
    take_answers(s, shared_take(s->sh));
    if (s->sh->draining && !s->drained) stop_accepting(s);
    if (!s->stop || s->stopping) return;
    s->stopping = true;
    struct timeval tv = tv_of(s->stop_s);
    if (s->stop_s <= 0 || all_lingering(s) || event_add(s->stop_timer, &tv) != 0) event_base_loopbreak(s->base);
}

static void on_stop_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd; (void)what;
    event_base_loopbreak(((http_server *)arg)->base);
}

static void *io_main(void *arg)
{
    http_server *s = arg;
    event_base_dispatch(s->base);
    if (!s->drained) stop_accepting(s);
    while (s->conns) conn_free(s->conns); /* tells every request that its client is gone */
    take_answers(s, shared_close(s->sh));
    /* libevent closes sockets in a later turn: not to be left until slow handlers have ended */
    event_base_loop(s->base, EVLOOP_NONBLOCK);
    return NULL;
}

/* ---- start and stop ---- */

static void log_libevent(int severity, const char *msg)
{
    if (severity >= EVENT_LOG_WARN) log_warn("libevent: %s", msg);
}

static void init_libevent(void)
{
    event_set_mem_functions(mem_alloc, mem_realloc, mem_free);
    event_set_log_callback(log_libevent);
}

static void set_defaults(http_server *s, const http_options *o)
{
    s->o = *o;
    s->o.access_log_skip = NULL;
    if (!s->o.max_body_bytes) s->o.max_body_bytes = (size_t)64 << 20;
    if (!s->o.max_header_bytes) s->o.max_header_bytes = (size_t)4 << 20;
    if (s->o.max_header_count <= 0) s->o.max_header_count = 256;
    if (s->o.keep_alive_s <= 0) s->o.keep_alive_s = 5;
    if (s->o.read_timeout_s <= 0) s->o.read_timeout_s = 60;
    if (!s->o.max_output_bytes) s->o.max_output_bytes = (size_t)8 << 20;
    if (s->o.max_connections <= 0) s->o.max_connections = 4096;
    if (s->o.n_workers <= 0) s->o.n_workers = 4;
    s->limits = (guard_limits){ s->o.max_header_bytes, s->o.max_header_count, s->o.max_body_bytes };
}

static status copy_skip(http_server *s, const char *const *list)
{
    size_t n = 0;
    while (list && list[n]) n++;
    s->skip = mem_calloc(n + 1, sizeof *s->skip);
    if (!s->skip) return err_nomem();
    for (size_t i = 0; i < n; i++)
        if (!(s->skip[i] = mem_strdup(list[i]))) return err_nomem();
    return ST_OK;
}

/* The loop and what it watches; listening descriptors pass to libevent one by one. */
static status make_loop(http_server *s)
{
    struct event_config *cfg = event_config_new();
    if (cfg) event_config_set_flag(cfg, EVENT_BASE_FLAG_NOLOCK);
    s->base = cfg ? event_base_new_with_config(cfg) : NULL;
    if (cfg) event_config_free(cfg);
    if (!s->base) return err_nomem();
    s->wake = event_new(s->base, s->sh->wake_fd, EV_READ | EV_PERSIST, on_wake, s);
    s->stop_timer = event_new(s->base, -1, 0, on_stop_timer, s);
    s->accept_timer = event_new(s->base, -1, 0, on_accept_again, s);
    if (!s->wake || !s->stop_timer || !s->accept_timer || event_add(s->wake, NULL) != 0) return err_nomem();
    for (int i = 0; i < s->ls.n; i++) {
        unsigned flags = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_DISABLED;
        s->accepting[i] = evconnlistener_new(s->base, on_accept, s, flags, 0, s->ls.fds[i]);
        if (!s->accepting[i]) return err_nomem();
        s->ls.fds[i] = -1;
        if (evconnlistener_enable(s->accepting[i]) != 0) return err_nomem(); /* evconnlistener_new would not tell */
        evconnlistener_set_error_cb(s->accepting[i], on_accept_error);
    }
    return ST_OK;
}

/* Frees a server whose I/O thread has ended or was never started. */
static void server_free(http_server *s)
{
    for (int i = 0; i < MAX_LISTENERS; i++)
        if (s->accepting[i]) evconnlistener_free(s->accepting[i]);
    listeners_close(&s->ls, true);
    workers_free(s->workers);
    if (s->wake) event_free(s->wake);
    if (s->stop_timer) event_free(s->stop_timer);
    if (s->accept_timer) event_free(s->accept_timer);
    if (s->base) event_base_free(s->base);
    tls_close(s->tls);
    for (char **p = s->skip; p && *p; p++) mem_free(*p);
    mem_free(s->skip);
    shared_release(s->sh);
    mem_free(s);
}

static status start(http_server *s, const http_options *o, http_handler handler, void *arg)
{
    set_defaults(s, o);
    TRY(copy_skip(s, o->access_log_skip));
    if (o->ssl_certfile) TRY(tls_open(o, &s->tls));
    else if (o->ssl_keyfile) return err_set(ST_INVALID, "a TLS key without a certificate: ssl_certfile is missing");
    TRY(shared_new(s->o.max_output_bytes, &s->sh));
    raise_file_limit(s->o.max_connections + OVERFLOW_CONNS + 256);
    TRY(listeners_open(o, &s->ls));
    s->port = s->ls.port;
    TRY(make_loop(s));
    TRY(workers_new(s->o.n_workers, handler, arg, &s->workers));
    return thread_start(&s->io, "http-io", io_main, s);
}

status http_start(const http_options *o, http_handler handler, void *arg, http_server **out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_libevent);
    struct sigaction sa;
    if (sigaction(SIGPIPE, NULL, &sa) == 0 && sa.sa_handler == SIG_DFL) signal(SIGPIPE, SIG_IGN);
    http_server *s = mem_calloc(1, sizeof *s);
    if (!s) return err_nomem();
    status st = start(s, o, handler, arg);
    if (st != ST_OK) {
        server_free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

int http_port(const http_server *s) { return s->port; }
int http_in_flight(const http_server *s) { return s->sh->in_flight; }

void http_drain(http_server *s)
{
    s->sh->draining = true;
    shared_wake(s->sh);
}

void http_stop(http_server *s, double seconds)
{
    if (!s) return;
    s->sh->draining = true;
    s->stop_s = seconds;
    s->stop = true;
    shared_wake(s->sh);
    pthread_join(s->io, NULL);
    server_free(s);
}
