/* A raw client (the bytes a test says, no HTTP library between) and a small server to talk to. */
#ifndef SYSTOLIC_TESTS_HTTP_RAW_H
#define SYSTOLIC_TESTS_HTTP_RAW_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "http/http.h"

#define H "Host: x\r\n"
static http_server *server;
static int port;

/* What the handler has seen; requests to /hold wait in held[] for the test to answer them. */
static _Atomic int n_handled, n_gone, n_released, n_held;
static _Atomic bool flood_refused;
static http_request *_Atomic held[128];

static inline void on_gone(http_request *r, void *arg)
{
    (void)r;
    n_gone += (int)(intptr_t)arg;
}
static inline void on_released(void *data) { n_released += (int)(intptr_t)data; }

static inline void echo(http_request *r)
{
    size_t n;
    const char *body = http_body(r, &n), *q = http_query(r, "q"), *h = http_header(r, "x-thing");
    buf b = {0};
    buf_printf(&b, "%s %s q=%s h=%s n=%zu ", http_method(r), http_path(r), q ? q : "-", h ? h : "-", n);
    buf_append(&b, body, n);
    http_reply(r, 200, "text/plain", b.data, b.len);
    buf_free(&b);
}

static inline void stream(http_request *r)
{
    const char *n = http_query(r, "n");
    char line[64];
    if (http_stream_begin(r, 200, "text/event-stream"))
        for (int i = 0; i < (n ? atoi(n) : 3); i++)
            if (!http_stream_write(r, line, (size_t)snprintf(line, sizeof line, "data: %d\n\n", i))) break;
    http_stream_end(r);
}

/* Streams as fast as it can until told to stop. */
static inline void flood(http_request *r)
{
    static const char block[16384];
    double until = clock_now() + 20;
    bool ok = http_stream_begin(r, 200, "text/plain");
    while (ok && clock_now() < until) ok = http_stream_write(r, block, sizeof block);
    flood_refused = !ok;
    http_stream_end(r);
}

static inline void handler(http_request *r, void *arg)
{
    (void)arg;
    const char *p = http_path(r);
    n_handled++;
    if (strcmp(p, "/stream") == 0) {
        stream(r);
    } else if (strcmp(p, "/flood") == 0) {
        flood(r);
    } else if (strcmp(p, "/big") == 0) {
        size_t n = (size_t)atoi(http_query(r, "n"));
        char *body = mem_calloc(1, n);
        http_reply(r, body ? 200 : 503, "text/plain", body, body ? n : 0);
        mem_free(body);
    } else if (strcmp(p, "/sleep") == 0) {
        usleep(300000);
        http_reply(r, 200, "text/plain", "awake", 5);
    } else if (strcmp(p, "/none") == 0) {
        http_set_header(r, "X-A", "b");
        http_set_header(r, "X-Evil", "b\r\nX-Injected: 1");
        http_set_header(r, "Content-Length", "7");
        http_reply(r, 204, NULL, NULL, 0);
    } else if (strcmp(p, "/hold") == 0) {
        http_set_data(r, (void *)1);
        http_on_release(r, on_released);
        http_on_disconnect(r, on_gone, (void *)1);
        held[n_held] = http_retain(r); /* tests hold one after the other */
        n_held++;
    } else if (strcmp(p, "/null") == 0) {
        http_reply(r, 200, "text/plain", "ok", 2);
    } else {
        echo(r);
    }
}

static inline bool serve(http_options o)
{
    n_handled = n_gone = n_released = n_held = 0;
    flood_refused = false;
    if (!o.host && !o.uds) o.host = "127.0.0.1";
    status st = http_start(&o, handler, NULL, &server);
    if (st != ST_OK) printf("  http_start: %s\n", err_msg());
    port = st == ST_OK ? http_port(server) : 0;
    return st == ST_OK;
}

static inline int dial(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static inline void put_n(int fd, const void *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        ssize_t w = send(fd, (const char *)s + i, n - i, MSG_NOSIGNAL);
        if (w <= 0) return;
        i += (size_t)w;
    }
}
static inline void put(int fd, const char *s) { put_n(fd, s, strlen(s)); }

/* Reads until `want` was seen (NULL: until the end), the peer closes or the seconds pass. Returns the text so far; valid
 * until the next call. *closed tells whether the end came. */
static inline const char *get_until(int fd, const char *want, double seconds, bool *closed)
{
    static char text[1 << 20];
    size_t n = 0;
    double end = clock_now() + seconds;
    if (closed) *closed = false;
    text[0] = 0;
    for (;;) {
        if (want && strstr(text, want)) break;
        int left = (int)((end - clock_now()) * 1000);
        struct pollfd p = { .fd = fd, .events = POLLIN };
        if (left <= 0 || n == sizeof text - 1 || poll(&p, 1, left) <= 0) break;
        ssize_t got = recv(fd, text + n, sizeof text - 1 - n, 0);
        if (got <= 0) {
            if (closed) *closed = true;
            break;
        }
        n += (size_t)got;
        text[n] = 0;
    }
    return text;
}

/* One connection, one send, everything the server says until it closes or is silent for a moment. */
static inline const char *ask_n(const char *s, size_t n, bool *closed)
{
    int fd = dial();
    if (closed) *closed = false;
    if (fd < 0) return "no connection";
    put_n(fd, s, n);
    const char *text = get_until(fd, "\r\n\r\n", 5, closed);
    if (!*text) {
        close(fd);
        return text;
    }
    static char all[1 << 20];
    snprintf(all, sizeof all, "%s", text);
    text = get_until(fd, NULL, 0.15, closed);
    strncat(all, text, sizeof all - strlen(all) - 1);
    close(fd);
    return all;
}
static inline const char *ask(const char *s) { return ask_n(s, strlen(s), NULL); }

static inline int code_of(const char *answer) { return strncmp(answer, "HTTP/1.1 ", 9) == 0 ? atoi(answer + 9) : -1; }

#define EVENTUALLY(cond) do { double end_ = clock_now() + 5; while (!(cond) && clock_now() < end_) usleep(2000); CHECK(cond); } while (0)

#endif
