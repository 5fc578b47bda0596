/* Requests a second and latency of the HTTP layer alone: a handler that answers two bytes, keep-alive clients on
 * loopback in the same process. Usage: http_bench [seconds [connections...]].
 *   make B=build build/libhttp.a build/libbase.a and link, see docs/http.md. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "http/http.h"

enum { MAX_CONNS = 1024, MAX_SAMPLES = 1 << 22, N_TOKENS = 100 };
static int port;
static float samples[MAX_SAMPLES];
static size_t n_samples;

static void handler(http_request *r, void *arg)
{
    (void)arg;
    if (http_path(r)[1] != 's') {
        http_reply(r, 200, "application/json", "{}", 2);
        return;
    }
    if (http_stream_begin(r, 200, "text/event-stream"))
        for (int i = 0; i < N_TOKENS; i++) http_stream_write(r, "data: {\"token\":1}\n\n", 19);
    http_stream_end(r);
}

static int dial(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Each connection sends its next request as soon as it has its answer. `end` marks the end of an answer. */
static void load(int n, double seconds, const char *ask, const char *end)
{
    static int fds[MAX_CONNS];
    static double sent[MAX_CONNS];
    int ep = epoll_create1(0);
    size_t len = strlen(ask), n_end = strlen(end);
    n_samples = 0;
    for (int i = 0; i < n; i++) {
        struct epoll_event e = { .events = EPOLLIN, .data.u32 = (uint32_t)i };
        fds[i] = dial();
        epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &e);
        sent[i] = clock_now();
        if (send(fds[i], ask, len, MSG_NOSIGNAL) < 0) return;
    }
    double start = clock_now(), now = start;
    while (now < start + seconds) {
        struct epoll_event ev[64];
        int k = epoll_wait(ep, ev, 64, 1000);
        now = clock_now();
        for (int j = 0; j < k; j++) {
            uint32_t i = ev[j].data.u32;
            char b[16384];
            ssize_t got = recv(fds[i], b, sizeof b, MSG_DONTWAIT);
            if (got < (ssize_t)n_end || memcmp(b + got - n_end, end, n_end) != 0) continue;
            if (n_samples < MAX_SAMPLES) samples[n_samples++] = (float)(now - sent[i]);
            sent[i] = now;
            if (send(fds[i], ask, len, MSG_NOSIGNAL) < 0) return;
        }
    }
    for (int i = 0; i < n; i++) close(fds[i]);
    close(ep);
    if (!n_samples) return;
    qsort(samples, n_samples, sizeof *samples, by_size);
    printf("%4d connections: %8.0f answers/s, latency p50 %.0f us, p99 %.0f us\n", n, (double)n_samples / (now - start),
           (double)samples[n_samples / 2] * 1e6, (double)samples[n_samples * 99 / 100] * 1e6);
}

int main(int argc, char **argv)
{
    static const int sizes[] = { 1, 8, 64, 512 };
    double seconds = argc > 1 ? atof(argv[1]) : 2;
    http_server *s = NULL;
    if (http_start(&(http_options){ .host = "127.0.0.1", .n_workers = 2 }, handler, NULL, &s) != ST_OK) {
        fprintf(stderr, "%s\n", err_msg());
        return 1;
    }
    port = http_port(s);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) load(sizes[i], seconds, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n", "{}");
    printf("streams of %d tokens:\n", N_TOKENS);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) load(sizes[i], seconds, "GET /s HTTP/1.1\r\nHost: x\r\n\r\n", "\r\n0\r\n\r\n");
    http_stop(s, 0);
    return 0;
}
