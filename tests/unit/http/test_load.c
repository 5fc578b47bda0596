/* Many connections, engine threads that write tokens, the access log, and memory that runs out. */
#include "tests/test.h"

#include <fcntl.h>
#include <sys/resource.h>

#include "tests/unit/http/raw.h"

#ifdef SYSTOLIC_SANITIZED
enum { N_STREAMS = 300, N_TOKENS = 20 };
#else
enum { N_STREAMS = 1000, N_TOKENS = 20 };
#endif
enum { N_ENGINES = 3 };

static http_request *streams[N_STREAMS];
static _Atomic int n_streams, n_slots;

static void collect(http_request *r, void *arg)
{
    (void)arg;
    http_on_disconnect(r, on_gone, (void *)1);
    streams[n_slots++] = http_retain(r);
    n_streams++;
}

/* Writes tokens to its share of the streams, round by round as an engine's steps do. */
static void *engine(void *arg)
{
    int first = (int)(intptr_t)arg;
    for (int t = -1; t <= N_TOKENS; t++)
        for (int i = first; i < N_STREAMS; i += N_ENGINES) {
            char token[32];
            if (t < 0) http_stream_begin(streams[i], 200, "text/event-stream");
            else if (t < N_TOKENS) http_stream_write(streams[i], token, (size_t)snprintf(token, sizeof token, "data: %d\n\n", t));
            else http_stream_end(streams[i]), http_release(streams[i]);
        }
    return NULL;
}

/* Every client gets all of its tokens, in order; every seventh leaves in the middle and is noticed. */
TEST(thousand_streams)
{
    struct rlimit rl;
    static int fds[N_STREAMS];
    getrlimit(RLIMIT_NOFILE, &rl);
    rl.rlim_cur = rl.rlim_max;
    setrlimit(RLIMIT_NOFILE, &rl);
    if (rl.rlim_max < 2 * N_STREAMS + 100) SKIP("only %llu open files allowed", (unsigned long long)rl.rlim_max);
    n_gone = n_streams = n_slots = 0;
    REQUIRE_OK(http_start(&(http_options){ .host = "127.0.0.1" }, collect, NULL, &server));
    port = http_port(server);
    int n_left = 0;
    for (int i = 0; i < N_STREAMS; i++) {
        REQUIRE((fds[i] = dial()) >= 0);
        put(fds[i], "POST /v1/completions HTTP/1.1\r\n" H "Content-Length: 2\r\n\r\n{}");
    }
    EVENTUALLY(n_streams == N_STREAMS);
    CHECK_INT(http_in_flight(server), N_STREAMS);
    for (int i = 0; i < N_STREAMS; i += 7, n_left++) close(fds[i]);
    EVENTUALLY(n_gone == n_left);
    pthread_t th[N_ENGINES];
    double t = clock_now();
    for (int i = 0; i < N_ENGINES; i++) pthread_create(&th[i], NULL, engine, (void *)(intptr_t)i);
    char want[N_TOKENS * 32];
    size_t n = 0;
    for (int i = 0; i < N_TOKENS; i++) n += (size_t)snprintf(want + n, sizeof want - n, "%x\r\ndata: %d\n\n\r\n", i < 10 ? 9 : 10, i);
    snprintf(want + n, sizeof want - n, "0\r\n\r\n");
    int wrong = 0;
    for (int i = 0; i < N_STREAMS; i++) {
        if (i % 7 == 0) continue;
        const char *a = get_until(fds[i], "\r\n0\r\n\r\n", 10, NULL), *body = strstr(a, "\r\n\r\n");
        wrong += !body || strcmp(body + 4, want) != 0;
        close(fds[i]);
    }
    t = clock_now() - t;
    CHECK_INT(wrong, 0);
    for (int i = 0; i < N_ENGINES; i++) pthread_join(th[i], NULL);
    printf("  %d streams of %d tokens in %.2f s\n", N_STREAMS - n_left, N_TOKENS, t);
    EVENTUALLY(http_in_flight(server) == 0);
    http_stop(server, 1);
    CHECK_INT(n_gone, n_left);
}

/* Clients come and go while others are answered; every thread of ours at work. For the sanitizers. */
static void *churn(void *arg)
{
    unsigned seed = (unsigned)(intptr_t)arg;
    static const char *const asks[] = {
        "GET /x HTTP/1.1\r\n" H "\r\n", "GET /stream?n=50 HTTP/1.1\r\n" H "\r\n", "GET /x HTTP/1.1\r\n\r\n", "POST /p HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "GET /big?n=300000 HTTP/1.1\r\n" H "\r\n", "GET /x HTT",
    };
    for (int i = 0; i < 150; i++) {
        int fd = dial();
        if (fd < 0) break;
        put(fd, asks[rand_r(&seed) % 6]);
        char b[4096];
        if (rand_r(&seed) % 3) {
            struct pollfd p = { .fd = fd, .events = POLLIN };
            if (poll(&p, 1, 20) > 0 && recv(fd, b, sizeof b, 0) < 0) {}
        }
        close(fd);
    }
    return NULL;
}

TEST(churn_and_stop)
{
    for (int round = 0; round < 3; round++) {
        REQUIRE(serve((http_options){ .n_workers = 3 }));
        pthread_t th[4];
        for (int i = 0; i < 4; i++) pthread_create(&th[i], NULL, churn, (void *)(intptr_t)(round * 4 + i + 1));
        if (round) usleep(20000);
        else for (int i = 0; i < 4; i++) pthread_join(th[i], NULL);
        http_stop(server, round == 1 ? 0.05 : 0); /* in the middle of it all */
        for (int i = 0; i < 4 && round; i++) pthread_join(th[i], NULL);
    }
}

/* Requests that are held keep their bodies: together no more than 64 of the largest. */
TEST(bodies_are_bounded_together)
{
    REQUIRE(serve((http_options){ .max_body_bytes = 1000 }));
    char ask_[1100], pad[1001];
    int fds[65];
    memset(pad, 'x', 1000);
    pad[1000] = 0;
    int len = snprintf(ask_, sizeof ask_, "POST /hold HTTP/1.1\r\n" H "Content-Length: 1000\r\n\r\n%s", pad);
    for (int i = 0; i < 65; i++) {
        put_n(fds[i] = dial(), ask_, (size_t)len);
        if (i < 64) EVENTUALLY(n_held == i + 1);
    }
    CHECK_INT(code_of(get_until(fds[64], "\r\n\r\n", 5, NULL)), 503);
    for (int i = 0; i < 64; i++) {
        http_reply(held[i], 200, NULL, NULL, 0);
        http_release(held[i]);
    }
    EVENTUALLY(n_released == 64);
    ask_[6] = 'p'; /* not held */
    CHECK_INT(code_of(ask(ask_)), 200); /* room again */
    for (int i = 0; i < 65; i++) close(fds[i]);
    http_stop(server, 1);
}

TEST(heads_are_bounded_together)
{
    REQUIRE(serve((http_options){ .max_header_bytes = 2000 }));
    char part[1901];
    int fds[70];
    memset(part, 'x', 1900);
    memcpy(part, "GET /", 5);
    for (int i = 0; i < 70; i++) put_n(fds[i] = dial(), part, 1900);
    int code = 0;
    for (int i = 0; i < 70 && !code; i++) {
        struct pollfd p = { .fd = fds[i], .events = POLLIN };
        if (poll(&p, 1, i ? 0 : 300) > 0) code = code_of(get_until(fds[i], "\r\n\r\n", 1, NULL));
    }
    CHECK_INT(code, 503);
    for (int i = 0; i < 70; i++) close(fds[i]);
    for (int i = 0; i < 100 && code != 200; i++, usleep(10000)) code = code_of(ask("GET /x HTTP/1.1\r\n" H "\r\n"));
    CHECK_INT(code, 200);
    http_stop(server, 1);
}

/* Without descriptors left accepting pauses (no spinning) and goes on when there are some again. */
TEST(out_of_descriptors)
{
    struct rlimit old, few;
    struct rusage a, b;
    static int spare[256];
    int n = 0;
    REQUIRE(serve((http_options){0}));
    int fd = dial();
    put(fd, "GET /x HTTP/1.1\r\n" H "\r\n");
    get_until(fd, "GET /x", 5, NULL);
    close(fd);
    usleep(50000);
    getrlimit(RLIMIT_NOFILE, &old);
    few = old;
    few.rlim_cur = 200;
    setrlimit(RLIMIT_NOFILE, &few);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    while (n < 256 && (spare[n] = dup(fd)) >= 0) n++;
    struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    getrusage(RUSAGE_SELF, &a);
    CHECK(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
    put(fd, "GET /x HTTP/1.1\r\n" H "\r\n");
    CHECK_STR(get_until(fd, "GET /x", 0.5, NULL), "");
    getrusage(RUSAGE_SELF, &b);
    CHECK((b.ru_utime.tv_sec - a.ru_utime.tv_sec) * 1000000 + b.ru_utime.tv_usec - a.ru_utime.tv_usec +
          (b.ru_stime.tv_sec - a.ru_stime.tv_sec) * 1000000 + b.ru_stime.tv_usec - a.ru_stime.tv_usec < 150000);
    while (n > 0) close(spare[--n]);
    setrlimit(RLIMIT_NOFILE, &old);
    CHECK(strstr(get_until(fd, "GET /x", 5, NULL), "GET /x"));
    close(fd);
    http_stop(server, 1);
}

/* A burst written before the I/O thread looks costs it one turn: fewer wake-ups than writes. */
TEST(writes_are_coalesced)
{
    REQUIRE(serve((http_options){0}));
    int fd = dial();
    put(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_held == 1);
    http_stream_begin(held[0], 200, "text/event-stream");
    enum { N = 20000 };
    double t = clock_now();
    for (int i = 0; i < N; i++) http_stream_write(held[0], "data: token\n\n", 13);
    t = clock_now() - t;
    http_stream_end(held[0]);
    http_release(held[0]);
    CHECK(strstr(get_until(fd, "\r\n0\r\n\r\n", 10, NULL), "\r\n0\r\n\r\n"));
    printf("  %.0f ns for one http_stream_write\n", t / N * 1e9);
    close(fd);
    http_stop(server, 1);
}

/* Catches what goes to stderr meanwhile. */
static int saved_stderr, log_pipe[2];
static void catch_log(void)
{
    if (pipe(log_pipe) != 0) return;
    fflush(stderr);
    saved_stderr = dup(2);
    dup2(log_pipe[1], 2);
}
static void end_catch(char *dst, size_t cap)
{
    dup2(saved_stderr, 2);
    close(saved_stderr);
    close(log_pipe[1]);
    ssize_t n = read(log_pipe[0], dst, cap - 1);
    dst[n > 0 ? n : 0] = 0;
    close(log_pipe[0]);
}

TEST(access_log)
{
    char log[4096];
    const char *const skip[] = { "/health", "/metrics", NULL };
    catch_log();
    bool up = serve((http_options){ .access_log = true, .access_log_skip = skip });
    if (up) {
        ask("POST /v1/completions?a=%20b HTTP/1.1\r\n" H "\r\n");
        ask("GET /health HTTP/1.1\r\n" H "\r\n");
        ask("GET /none HTTP/1.0\r\n\r\n");
        ask("POST /long HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\nX\r\n");
        ask("GET /stream HTTP/1.1\r\n" H "\r\n");
        http_stop(server, 1);
    }
    end_catch(log, sizeof log);
    REQUIRE(up);
    CHECK(strncmp(log, "INFO:     127.0.0.1:", 20) == 0);
    CHECK(strstr(log, " - \"POST /v1/completions?a=%20b HTTP/1.1\" 200 OK\n"));
    CHECK(strstr(log, " - \"GET /none HTTP/1.0\" 204 No Content\n"));
    CHECK(strstr(log, " - \"POST /long HTTP/1.1\" 400 Bad Request\n"));
    CHECK(strstr(log, " - \"GET /stream HTTP/1.1\" 200 OK\n"));
    CHECK(!strstr(log, "health"));
}

/* One connection, three requests; whatever allocation fails, the server survives and leaks nothing. */
static void oom_round(uint64_t n, bool *hit)
{
    mem_fail_at(n);
    status st = http_start(&(http_options){ .host = "127.0.0.1", .n_workers = 1 }, handler, NULL, &server);
    if (st != ST_OK) {
        *hit = mem_failed();
        mem_fail_at(0);
        if (st != ST_NOMEM) FAIL("allocation %llu: %s (%s)", (unsigned long long)n, status_name(st), err_msg());
        return;
    }
    port = http_port(server);
    int fd = dial();
    put(fd, "POST /a?q=1 HTTP/1.1\r\n" H "Content-Length: 3\r\n\r\nabcGET /stream HTTP/1.1\r\n" H "\r\nGET /big?n=100000 HTTP/1.1\r\n" H "Connection: close\r\n\r\n");
    bool closed;
    const char *a = get_until(fd, NULL, 5, &closed);
    *hit = mem_failed();
    mem_fail_at(0);
    if (!closed) FAIL("allocation %llu: the connection hangs after \"%.60s\"", (unsigned long long)n, a);
    close(fd);
    if (code_of(ask("GET /null HTTP/1.1\r\n" H "Connection: close\r\n\r\n")) != 200) FAIL("allocation %llu: no service afterwards", (unsigned long long)n);
    http_stop(server, 0);
}

TEST(out_of_memory_is_survived)
{
    catch_log();
    for (int i = 0; i < 2 && serve((http_options){0}); i++) http_stop(server, 0);
    int64_t live = mem_live();
    bool hit = true;
    uint64_t n = 0;
    while (hit && n < 2000 && !test_cur_failed) {
        oom_round(++n, &hit);
        if (mem_live() != live) FAIL("allocation %llu: %lld blocks leak", (unsigned long long)n, (long long)(mem_live() - live));
        char drop[65536]; /* keep the log pipe from filling */
        fcntl(log_pipe[0], F_SETFL, O_NONBLOCK);
        while (read(log_pipe[0], drop, sizeof drop) > 0) {}
    }
    char log[64];
    end_catch(log, sizeof log);
    CHECK(n > 20 && !hit);
    printf("  %llu allocations failed one by one\n", (unsigned long long)(n - 1));
}

TEST_MAIN
