/* The HTTP server over real sockets. */
#include "tests/test.h"

#include "tests/unit/http/raw.h"

TEST(answers)
{
    REQUIRE(serve((http_options){0}));
    const char *a = ask("GET /a%20b?q=1%2b+x&r HTTP/1.1\r\n" H "X-Thing:  v \r\n\r\n");
    CHECK_INT(code_of(a), 200);
    CHECK(strstr(a, "\r\ncontent-type: text/plain\r\n") && strstr(a, "\r\ndate: ") && strstr(a, "\r\nserver: systolic\r\n"));
    CHECK(strstr(a, "\r\n\r\nGET /a b q=1+ x h=v n=0 "));
    a = ask("POST /p HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\nhello");
    CHECK(strstr(a, "POST /p q=- h=- n=5 hello"));
    a = ask("OPTIONS * HTTP/1.1\r\n" H "\r\n");
    CHECK(strstr(a, "OPTIONS * q=-"));
    a = ask("PATCH http://x/abs?q=2 HTTP/1.1\r\n" H "\r\n");
    CHECK(strstr(a, "PATCH /abs q=2"));
    a = ask("GET /none HTTP/1.1\r\n" H "\r\n");
    CHECK_INT(code_of(a), 204);
    CHECK(strstr(a, "X-A: b\r\n") && !strstr(a, "Injected") && !strstr(a, "ontent-") && strcmp(strstr(a, "\r\n\r\n"), "\r\n\r\n") == 0);
    a = ask("HEAD /x HTTP/1.1\r\n" H "\r\n");
    CHECK(strstr(a, "content-length: 20\r\n") && strcmp(strstr(a, "\r\n\r\n"), "\r\n\r\n") == 0);
    a = ask("HEAD /stream HTTP/1.1\r\n" H "\r\n");
    CHECK(code_of(a) == 200 && strcmp(strstr(a, "\r\n\r\n"), "\r\n\r\n") == 0);
    http_stop(server, 1);
}

TEST(streams)
{
    REQUIRE(serve((http_options){0}));
    const char *a = ask("GET /stream?n=2 HTTP/1.1\r\n" H "\r\n");
    CHECK(strstr(a, "transfer-encoding: chunked\r\n"));
    CHECK(strstr(a, "\r\n\r\n9\r\ndata: 0\n\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n"));
    bool closed;
    const char *old = "GET /stream?n=2 HTTP/1.0\r\n\r\n"; /* no chunks: the end is the connection's */
    a = ask_n(old, strlen(old), &closed);
    CHECK(closed && !strstr(a, "chunked") && strstr(a, "connection: close\r\n") && strstr(a, "\r\n\r\ndata: 0\n\ndata: 1\n\n"));
    http_stop(server, 1);
}

TEST(keep_alive_and_pipelining)
{
    REQUIRE(serve((http_options){ .keep_alive_s = 0.3 }));
    int fd = dial();
    bool closed;
    /* the slow one first: answers must come in order, and one request per connection runs at a time */
    put(fd, "GET /sleep HTTP/1.1\r\n" H "\r\nPOST /b HTTP/1.1\r\n" H "Content-Length: 2\r\n\r\nhiGET /c HTTP/1.1\r\n" H "\r\n\r\nGET /d HTTP/1.1\r\n" H "\r\n");
    const char *a = get_until(fd, "GET /d q", 5, NULL);
    const char *one = strstr(a, "awake"), *two = strstr(a, "POST /b q=- h=- n=2 hi"), *three = strstr(a, "GET /c q"), *four = strstr(a, "GET /d q");
    CHECK(one && two && three && four && one < two && two < three && three < four);
    double t = clock_now();
    get_until(fd, NULL, 5, &closed);
    t = clock_now() - t;
    CHECK(closed && t > 0.2 && t < 2); /* keep-alive runs out */
    close(fd);
    const char *once = "GET /a HTTP/1.1\r\n" H "Connection: close\r\n\r\n";
    a = ask_n(once, strlen(once), &closed);
    CHECK(closed && strstr(a, "connection: close\r\n"));
    once = "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    a = ask_n(once, strlen(once), &closed);
    CHECK(!closed && strstr(a, "connection: keep-alive\r\n"));
    http_stop(server, 1);
}

/* Bytes of a request may come in any pieces. */
TEST(byte_by_byte)
{
    REQUIRE(serve((http_options){0}));
    int fd = dial();
    const char *s = "POST /p HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\nGET /next HTTP/1.1\r\n" H "\r\n";
    for (; *s; s++) {
        put_n(fd, s, 1);
        usleep(200);
    }
    const char *a = get_until(fd, "GET /next", 5, NULL);
    CHECK(strstr(a, "n=5 abcde") && strstr(a, "GET /next"));
    close(fd);
    http_stop(server, 1);
}

TEST(expect_continue)
{
    REQUIRE(serve((http_options){ .max_body_bytes = 100 }));
    int fd = dial();
    put(fd, "POST /p HTTP/1.1\r\n" H "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    CHECK_STR(get_until(fd, "\r\n\r\n", 5, NULL), "HTTP/1.1 100 Continue\r\n\r\n");
    put(fd, "hi");
    CHECK(strstr(get_until(fd, "n=2 hi", 5, NULL), "n=2 hi"));
    close(fd);
    /* a body that would be refused is refused before it is sent */
    CHECK_INT(code_of(ask("POST /p HTTP/1.1\r\n" H "Content-Length: 200\r\nExpect: 100-continue\r\n\r\n")), 413);
    http_stop(server, 1);
}

/* What evhttp lets through, and what a proxy might read differently. Each must be refused, and the connection must end:
 * the rest of the bytes must never be taken for another request. */
TEST(guards)
{
#define BODY "\r\n\r\nGET /smuggled HTTP/1.1\r\n" H "\r\n"
    static const struct { int code; const char *head, *says; } cases[] = {
        { 400, "GET / HTTP/1.1\r\n" H "Foo : x" BODY, "header name" },
        { 400, "GET / HTTP/1.1\r\n" H ": x" BODY, "header name" },
        { 400, "GET / HTTP/1.1\r\n" H "Foo" BODY, "no colon" },
        { 400, "GET / HTTP/1.1\r\n" H " Foo: x" BODY, "folded" },
        { 400, "GET / HTTP/1.1\r\n" H "A: b\r\n c" BODY, "folded" },
        { 400, "POST / HTTP/1.1\r\n" H "Content-Length: 3\r\nContent-Length: 3" BODY, "two Content-Length" },
        { 400, "POST / HTTP/1.1\r\n" H "Content-Length: 0\r\nContent-Length: 9" BODY, "two Content-Length" },
        { 400, "POST / HTTP/1.1\r\n" H "Content-Length: +0" BODY, "decimal" },
        { 400, "POST / HTTP/1.1\r\n" H "Content-Length: -1" BODY, "decimal" },
        { 400, "POST / HTTP/1.1\r\n" H "Content-Length: 0x3" BODY, "decimal" },
        { 400, "POST / HTTP/1.1\r\n" H "Content-Length: 3, 3" BODY, "decimal" },
        { 400, "POST / HTTP/1.1\r\n" H "Content-Length:" BODY, "decimal" },
        { 413, "POST / HTTP/1.1\r\n" H "Content-Length: 99999999999999999999999999" BODY, "too large" },
        { 413, "POST / HTTP/1.1\r\n" H "Content-Length: 101" BODY, "at most 100" },
        { 400, "POST / HTTP/1.1\r\n" H "Content-Length: 3\r\nTransfer-Encoding: chunked" BODY, "both" },
        { 400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked" BODY, "two Transfer" },
        { 501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked" BODY, "chunked" },
        { 501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: xchunked" BODY, "chunked" },
        { 400, "POST / HTTP/1.0\r\n" H "Transfer-Encoding: chunked" BODY, "HTTP/1.0" },
        { 400, "GET / HTTP/1.1\nHost: x\n\n", "LF alone" },
        { 400, "GET / HTTP/1.1\r\n" H "A: b\n" BODY, "LF alone" },
        { 400, "GET / HTTP/1.1\r\n" H "A: b\rC: d" BODY, "CR" },
        { 400, "GET / HTTP/1.1\r\n" H "A: b\x01" BODY, "control" },
        { 400, "GET / HTTP/1.1\r\nA: b" BODY, "Host" },
        { 400, "GET / HTTP/1.1\r\n" H H "A: b" BODY, "two Host" },
        { 400, "GET / HTTP/1.1\r\nHost: a b" BODY, "Host" },
        { 400, "GET / HTTP/1.1\r\nHost: a/b@c" BODY, "Host" },
        { 400, "GET  / HTTP/1.1\r\n" H "A: b" BODY, "request line" },
        { 400, "GET / x HTTP/1.1\r\n" H "A: b" BODY, "request line" },
        { 400, "GET /\r\n" H "A: b" BODY, "request line" },
        { 400, "GET x HTTP/1.1\r\n" H "A: b" BODY, "'/'" },
        { 400, "GET /\x80 HTTP/1.1\r\n" H "A: b" BODY, "percent-encoded" },
        { 400, "GET /%00 HTTP/1.1\r\n" H "A: b" BODY, "NUL" },
        { 400, "GET /?a=%00 HTTP/1.1\r\n" H "A: b" BODY, "NUL" },
        { 400, "GET /#f HTTP/1.1\r\n" H "A: b" BODY, "fragment" },
        { 400, "G@T / HTTP/1.1\r\n" H "A: b" BODY, "method" },
        { 400, "\x16\x03\x01\x02\x01\x01\xfc", "method" }, /* a TLS client at a plain port: at once, not after a time-out */
        { 501, "CONNECT x:1 HTTP/1.1\r\n" H "A: b" BODY, "proxy" },
        { 505, "GET / HTTP/2.0\r\n" H "A: b" BODY, "HTTP/1.1" },
        { 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1" },
        { 417, "POST / HTTP/1.1\r\n" H "Content-Length: 1\r\nExpect: 200-maybe" BODY, "100-continue" },
        { 400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\nG\r\n", "no size" },
        { 400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1G\r\n", "hexadecimal" },
        { 400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", "hexadecimal" },
        { 400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n", "longer" },
        { 400, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r0\r\n\r\n", "CR LF" },
        { 413, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n40\r\n", NULL },
        { 413, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\n65\r\n", "more than 100" },
        { 413, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", "too large" },
    };
    REQUIRE(serve((http_options){ .max_body_bytes = 100, .keep_alive_s = 0.2 }));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (!cases[i].says) continue;
        bool closed;
        const char *a = ask_n(cases[i].head, strlen(cases[i].head), &closed);
        if (code_of(a) != cases[i].code || !strstr(a, cases[i].says)) FAIL("case %zu (%s): %s", i, cases[i].head, a);
        if (!closed || !strstr(a, "connection: close\r\n")) FAIL("case %zu: still open", i);
    }
    const char nul[] = "GET / HTTP/1.1\r\n" H "A: b\0c\r\n\r\n";
    CHECK(strstr(ask_n(nul, sizeof nul - 1, NULL), "NUL"));
    CHECK_INT(n_handled, 0);
    const char *a = ask("GET / HTTP/1.1\r\nFoo: x\r\n\r\n");
    CHECK(strstr(a, "{\"error\":{\"message\":\"a Host header is required\",\"type\":\"Bad Request\",\"param\":null,\"code\":400}}"));
    CHECK_INT(code_of(ask("GET / HTTP/1.0\r\n\r\n")), 200); /* no Host in HTTP/1.0 */
    http_stop(server, 1);
}

TEST(head_limits)
{
    REQUIRE(serve((http_options){ .max_header_bytes = 100000, .max_header_count = 4 }));
    CHECK_INT(code_of(ask("GET / HTTP/1.1\r\n" H "A: 1\r\nB: 1\r\nC: 1\r\n\r\n")), 200);
    CHECK_INT(code_of(ask("GET / HTTP/1.1\r\n" H "A: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\n\r\n")), 431);
    buf b = {0};
    buf_str(&b, "GET / HTTP/1.1\r\n" H "A: ");
    while (b.len < 99000) buf_str(&b, "0123456789");
    buf_str(&b, "\r\n\r\n");
    CHECK_INT(code_of(ask_n(b.data, b.len, NULL)), 200); /* more than the read watermark */
    b.len -= 4;
    while (b.len < 100200) buf_str(&b, "0123456789");
    CHECK_INT(code_of(ask_n(b.data, b.len, NULL)), 431); /* before its end has come */
    buf_clear(&b);
    buf_str(&b, "GET /");
    while (b.len < 70000) buf_str(&b, "0123456789");
    buf_str(&b, " HTTP/1.1\r\n" H "\r\n");
    CHECK_INT(code_of(ask_n(b.data, b.len, NULL)), 414);
    buf_free(&b);
    http_stop(server, 1);
}

/* The answer to a body that is too large must reach a client that is still busy sending it. */
TEST(refusal_reaches_a_sending_client)
{
    REQUIRE(serve((http_options){ .max_body_bytes = 1000 }));
    int fd = dial();
    static char block[1 << 16];
    put(fd, "POST / HTTP/1.1\r\n" H "Content-Length: 1000000\r\n\r\n");
    int refused = 0;
    for (int i = 0; i < 15; i++) {
        refused += send(fd, block, sizeof block, MSG_NOSIGNAL) < 0; /* many clients stop at a failed send and never read */
        usleep(5000);
    }
    CHECK_INT(refused, 0);
    CHECK_INT(code_of(get_until(fd, "\r\n\r\n", 3, NULL)), 413);
    close(fd);
    http_stop(server, 1);
}

TEST(large_bodies)
{
    REQUIRE(serve((http_options){0}));
    size_t n = 20 << 20;
    char *body = mem_calloc(1, n), head[128];
    memset(body, 'x', n);
    int fd = dial();
    put_n(fd, head, (size_t)snprintf(head, sizeof head, "POST /null HTTP/1.1\r\n" H "Content-Length: %zu\r\n\r\n", n));
    put_n(fd, body, n);
    CHECK_INT(code_of(get_until(fd, "\r\n\r\n", 5, NULL)), 200);
    put(fd, "GET /big?n=20000000 HTTP/1.1\r\n" H "\r\n"); /* a whole answer may be larger than the output cap */
    size_t got = 0;
    for (ssize_t k; got < 20000000 && (k = recv(fd, body, n, 0)) > 0;) got += (size_t)k;
    CHECK(got >= 20000000);
    close(fd);
    mem_free(body);
    http_stop(server, 1);
}

/* evhttp stops reading once it has a request, and a client that leaves is not noticed: ours must be, waiting or streaming. */
TEST(disconnect_is_noticed)
{
    REQUIRE(serve((http_options){0}));
    int fd = dial();
    put(fd, "POST /hold HTTP/1.1\r\n" H "Content-Length: 1\r\n\r\nx");
    EVENTUALLY(n_held == 1);
    CHECK(!http_disconnected(held[0]));
    CHECK_INT(http_in_flight(server), 1);
    close(fd);
    EVENTUALLY(n_gone == 1);
    CHECK(http_disconnected(held[0]));
    CHECK(!http_stream_begin(held[0], 200, "text/plain"));
    CHECK(!http_stream_write(held[0], "x", 1));
    http_stream_end(held[0]);
    http_release(held[0]);
    EVENTUALLY(n_released == 1 && http_in_flight(server) == 0);
    fd = dial();
    put(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_held == 2);
    CHECK(http_stream_begin(held[1], 200, "text/event-stream"));
    CHECK(http_stream_write(held[1], "data", 4));
    get_until(fd, "data", 5, NULL);
    struct linger l = { 1, 0 };
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    close(fd); /* a reset this time */
    EVENTUALLY(n_gone == 2);
    /* asked for too late, it is called at once */
    http_on_disconnect(held[1], on_gone, (void *)1);
    CHECK_INT(n_gone, 3);
    http_stream_end(held[1]);
    http_release(held[1]);
    EVENTUALLY(n_released == 2);
    http_stop(server, 1);
    CHECK_INT(n_gone, 3);
}

/* A client with pipelined input behind the running request leaves: still noticed. */
TEST(disconnect_behind_pipelined_input)
{
    REQUIRE(serve((http_options){0}));
    int fd = dial();
    put(fd, "GET /hold HTTP/1.1\r\n" H "\r\nGET /b HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_held == 1);
    close(fd);
    EVENTUALLY(n_gone == 1);
    http_reply(held[0], 200, NULL, NULL, 0);
    http_release(held[0]);
    EVENTUALLY(n_released == 1);
    CHECK_INT(n_handled, 1); /* nobody waits for /b */
    http_stop(server, 1);
}

/* shutdown(SHUT_WR) looks like leaving, so long work is told to stop; but whoever answers all the same is heard. */
TEST(half_close)
{
    REQUIRE(serve((http_options){0}));
    int fd = dial();
    bool closed;
    put(fd, "GET /sleep HTTP/1.1\r\n" H "\r\n");
    shutdown(fd, SHUT_WR);
    CHECK(strstr(get_until(fd, NULL, 5, &closed), "awake"));
    CHECK(closed);
    close(fd);
    fd = dial();
    put(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
    shutdown(fd, SHUT_WR);
    EVENTUALLY(n_held == 1 && n_gone == 1);
    http_stream_begin(held[0], 200, "text/plain");
    http_stream_end(held[0]);
    http_release(held[0]);
    CHECK(!strstr(get_until(fd, NULL, 5, &closed), "200")); /* an empty stream would look like a whole answer */
    CHECK(closed);
    close(fd);
    http_stop(server, 1);
}

/* While a request waits no read time-out may fire, however long it takes. */
TEST(waiting_is_not_a_timeout)
{
    REQUIRE(serve((http_options){ .read_timeout_s = 0.1, .keep_alive_s = 0.1 }));
    CHECK(strstr(ask("GET /sleep HTTP/1.1\r\n" H "\r\n"), "awake"));
    http_stop(server, 1);
}

TEST(slow_requests_time_out)
{
    REQUIRE(serve((http_options){ .read_timeout_s = 0.4, .keep_alive_s = 5 }));
    bool closed;
    const char *a = ask_n("GET / HTTP/1.1\r\n", 16, &closed);
    CHECK(code_of(a) == 408 && closed);
    const char *half = "POST / HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\nab";
    a = ask_n(half, strlen(half), &closed);
    CHECK(code_of(a) == 408 && closed);
    int fd = dial();
    double t = clock_now();
    get_until(fd, NULL, 5, &closed); /* says nothing at all: closed without a word */
    CHECK(closed && clock_now() - t < 3);
    close(fd);
    /* a byte now and then does not help */
    fd = dial();
    put(fd, "GET / HTTP/1.1\r\nX: ");
    t = clock_now();
    for (int i = 0; i < 40; i++) {
        put_n(fd, "y", 1);
        struct pollfd p = { .fd = fd, .events = POLLIN };
        if (poll(&p, 1, 50) > 0) break;
    }
    CHECK(clock_now() - t < 1.5);
    CHECK_INT(code_of(get_until(fd, "\r\n\r\n", 2, NULL)), 408);
    close(fd);
    http_stop(server, 1);
}

/* A client must not be able to push bytes without end while its first request runs. */
TEST(read_watermark)
{
    REQUIRE(serve((http_options){0}));
    int fd = dial();
    put(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_held == 1);
    static char block[1 << 18];
    size_t sent = 0;
    while (sent < (128u << 20)) {
        struct pollfd p = { .fd = fd, .events = POLLOUT };
        if (poll(&p, 1, 500) <= 0) break;
        ssize_t n = send(fd, block, sizeof block, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) sent += (size_t)n;
    }
    CHECK(sent < (64u << 20)); /* the kernel's buffers and 64 KiB, not all of it */
    http_reply(held[0], 200, NULL, NULL, 0);
    http_release(held[0]);
    close(fd);
    http_stop(server, 1);
}

static _Atomic bool blocking;
static void block_io(http_request *r, void *arg)
{
    (void)r; (void)arg;
    blocking = true;
    usleep(700000); /* what a callback must not do */
}

/* The cap holds before the I/O thread has looked, too: nothing piles up behind one that is busy. */
TEST(output_is_capped_at_the_producer)
{
    REQUIRE(serve((http_options){ .max_output_bytes = 100000 }));
    int a = dial(), b = dial();
    blocking = false;
    put(a, "GET /hold HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_held == 1);
    put(b, "GET /hold HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_held == 2);
    CHECK(http_stream_begin(held[1], 200, "text/plain"));
    get_until(b, "\r\n\r\n", 5, NULL);
    http_on_disconnect(held[0], block_io, NULL);
    close(a);
    EVENTUALLY(blocking);
    char piece[1000] = {0};
    int n = 0;
    while (n < 1000 && http_stream_write(held[1], piece, sizeof piece)) n++;
    CHECK(n > 90 && n < 100);
    http_stream_end(held[1]);
    http_release(held[1]);
    http_reply(held[0], 200, NULL, NULL, 0);
    http_release(held[0]);
    close(b);
    http_stop(server, 1);
}

TEST(slow_reader_is_cut_off)
{
    REQUIRE(serve((http_options){ .max_output_bytes = 1 << 20 }));
    int fd = dial();
    put(fd, "GET /flood HTTP/1.1\r\n" H "\r\n");
    double t = clock_now();
    EVENTUALLY(flood_refused);
    CHECK(clock_now() - t < 5);
    bool closed;
    size_t total = 0;
    do total += strlen(get_until(fd, NULL, 1, &closed)) + 1; while (!closed && total < 1000);
    CHECK(closed);
    close(fd);
    http_stop(server, 1);
}

/* A client whose kernel takes little, so that what is not read stays with the server. */
static int dial_small(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM, 0), small = 16384;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    return connect(fd, (struct sockaddr *)&a, sizeof a) == 0 ? fd : -1;
}

/* The same with a producer slow enough that the I/O thread takes every piece: its buffer is what is capped then. */
TEST(slow_reader_of_a_steady_stream)
{
    REQUIRE(serve((http_options){ .max_output_bytes = 1 << 20 }));
    int fd = dial_small();
    put(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_held == 1);
    http_stream_begin(held[0], 200, "text/plain");
    static char piece[32768];
    int n = 0;
    while (n < 1000 && http_stream_write(held[0], piece, sizeof piece)) {
        n++;
        usleep(500);
    }
    CHECK(n < 500); /* 16 MB; the kernel's send buffer takes up to 4 */
    http_stream_end(held[0]);
    http_release(held[0]);
    EVENTUALLY(n_gone == 1);
    close(fd);
    http_stop(server, 1);
}

/* A reader that takes nothing at all does not keep its connection for ever, whole answers included. */
TEST(stuck_reader_times_out)
{
    REQUIRE(serve((http_options){ .read_timeout_s = 0.4 }));
    int fd = dial_small();
    put(fd, "GET /big?n=30000000 HTTP/1.1\r\n" H "\r\n");
    usleep(1200000);
    size_t got = 0;
    static char block[1 << 16];
    for (ssize_t n; (n = recv(fd, block, sizeof block, 0)) > 0;) got += (size_t)n;
    CHECK(got < 30000000);
    close(fd);
    http_stop(server, 1);
}

TEST(stream_keep_alive)
{
    REQUIRE(serve((http_options){0}));
    int fd = dial();
    put(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_held == 1);
    http_stream_begin(held[0], 200, "text/event-stream");
    http_stream_keep_alive(held[0], 0.1, ": keep-alive\n\n");
    usleep(350000);
    http_stream_write(held[0], "data: x\n\n", 9);
    http_stream_end(held[0]);
    http_release(held[0]);
    const char *a = get_until(fd, "0\r\n\r\n", 5, NULL);
    int n = 0;
    for (const char *p = a; (p = strstr(p, "e\r\n: keep-alive\n\n\r\n")); p++) n++;
    CHECK(n >= 2 && n <= 4);
    close(fd);
    http_stop(server, 1);
}

TEST(stream_abort_shows)
{
    REQUIRE(serve((http_options){0}));
    int fd = dial();
    bool closed;
    put(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_held == 1);
    http_stream_begin(held[0], 200, "text/plain");
    http_stream_write(held[0], "part", 4);
    http_stream_abort(held[0]);
    http_release(held[0]);
    const char *a = get_until(fd, NULL, 5, &closed);
    CHECK(closed && !strstr(a, "\r\n0\r\n\r\n"));
    close(fd);
    http_stop(server, 1);
}

TEST(too_many_connections)
{
    REQUIRE(serve((http_options){ .max_connections = 2 }));
    int a = dial(), b = dial();
    put(a, "GET /x HTTP/1.1\r\n" H "\r\n");
    get_until(a, "GET /x", 5, NULL);
    put(b, "GET /x HTTP/1.1\r\n" H "\r\n");
    get_until(b, "GET /x", 5, NULL);
    bool closed;
    const char *ask3 = "GET /x HTTP/1.1\r\n" H "\r\n", *t = ask_n(ask3, strlen(ask3), &closed);
    CHECK(code_of(t) == 503 && closed && strstr(t, "too many connections"));
    close(a);
    for (int i = 0; i < 100; i++) { /* a place is free again, once the server has noticed */
        if (code_of(t = ask(ask3)) == 200) break;
        usleep(10000);
    }
    CHECK_INT(code_of(t), 200);
    close(b);
    http_stop(server, 1);
}

TEST(answered_twice_is_survived)
{
    REQUIRE(serve((http_options){0}));
    int fd = dial();
    put(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_held == 1);
    http_reply(held[0], 200, "text/plain", "one", 3);
    http_reply(held[0], 200, "text/plain", "two", 3);
    http_stream_end(held[0]);
    http_release(held[0]);
    CHECK(!strstr(get_until(fd, "two", 0.2, NULL), "two"));
    close(fd);
    http_stop(server, 1);
}

TEST(drain_and_stop)
{
    REQUIRE(serve((http_options){0}));
    int busy = dial(), idle = dial();
    bool closed;
    put(idle, "GET /x HTTP/1.1\r\n" H "\r\n");
    get_until(idle, "GET /x", 5, NULL);
    put(busy, "GET /hold HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_held == 1);
    http_stream_begin(held[0], 200, "text/plain");
    http_drain(server);
    get_until(idle, NULL, 5, &closed);
    CHECK(closed);
    int late = dial();
    CHECK(late < 0);
    CHECK(http_stream_write(held[0], "still", 5));
    CHECK(strstr(get_until(busy, "still", 5, NULL), "still"));
    http_stream_end(held[0]);
    http_release(held[0]);
    CHECK(strstr(get_until(busy, NULL, 5, &closed), "0\r\n\r\n"));
    CHECK(closed); /* no next request on a draining server */
    close(busy);
    close(idle);
    double t = clock_now();
    http_stop(server, 5);
    CHECK(clock_now() - t < 1); /* nothing left to wait for */
}

static void *stop_soon(void *arg)
{
    http_stop(server, *(double *)arg);
    return NULL;
}

TEST(stop_waits_then_cuts)
{
    for (int i = 0; i < 2; i++) {
        double seconds = i ? 5 : 0.3, t = clock_now();
        REQUIRE(serve((http_options){0}));
        int fd = dial();
        put(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
        EVENTUALLY(n_held == 1);
        pthread_t th;
        pthread_create(&th, NULL, stop_soon, &seconds);
        usleep(100000);
        if (i) http_reply(held[0], 200, "text/plain", "made it", 7);
        bool closed;
        const char *a = get_until(fd, NULL, 3, &closed);
        CHECK(closed && (strstr(a, "made it") != NULL) == (i == 1));
        pthread_join(th, NULL);
        CHECK(clock_now() - t < 2);
        CHECK_INT(n_gone, i ? 0 : 1);
        /* the request outlives the server: late answers go nowhere, safely */
        if (!i) {
            CHECK(!http_stream_begin(held[0], 200, "text/plain"));
            CHECK(!http_stream_write(held[0], "x", 1));
            http_stream_end(held[0]);
        }
        http_release(held[0]);
        CHECK_INT(n_released, 1);
        close(fd);
    }
}

/* A handler that takes its time does not keep the clients of a stopped server. */
TEST(stop_cuts_before_handlers_end)
{
    double none = 0, t;
    REQUIRE(serve((http_options){0}));
    int fd = dial();
    bool closed;
    put(fd, "GET /sleep HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_handled == 1);
    pthread_t th;
    t = clock_now();
    pthread_create(&th, NULL, stop_soon, &none);
    get_until(fd, NULL, 3, &closed);
    CHECK(closed && clock_now() - t < 0.2);
    pthread_join(th, NULL);
    CHECK(clock_now() - t > 0.2);
    close(fd);
}

TEST_MAIN
