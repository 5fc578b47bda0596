/* fetch against a scripted server: each test says byte for byte what the server sends, and where it stops. */
#include "tests/test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/fetch.h"
#include "base/mem.h"

enum { MAX_ANSWERS = 4 };
/* The server takes requests one after the other and sends answers[i] for the i-th; `then` says what it does after each. */
enum then { KEEP, CLOSE, HANG, RESET };
typedef struct script {
    const char *answers[MAX_ANSWERS];
    enum then then[MAX_ANSWERS];
    const char *unix_path;
    int fd, port, n_conns;
    _Atomic bool quit;
    pthread_t thread;
    char seen[8192]; /* the requests' bytes, in order */
    size_t n_seen;
} script;

/* Reads one request (head, and the body its Content-Length tells). False at the end of the connection. */
static bool read_request(script *s, int c)
{
    size_t start = s->n_seen;
    for (;;) {
        char *at = s->seen + start, *end = strstr(at, "\r\n\r\n"), *cl = strstr(at, "Content-Length: ");
        if (end && s->n_seen - start >= (size_t)(end + 4 - at) + (cl && cl < end ? strtoul(cl + 16, NULL, 10) : 0)) return true;
        ssize_t n = recv(c, s->seen + s->n_seen, sizeof s->seen - 1 - s->n_seen, 0);
        if (n <= 0) return false;
        s->n_seen += (size_t)n;
        s->seen[s->n_seen] = 0;
    }
}

static void *serve(void *arg)
{
    script *s = arg;
    for (int i = 0; i < MAX_ANSWERS && s->answers[i];) {
        int c = accept(s->fd, NULL, NULL);
        if (c < 0) return NULL;
        s->n_conns++;
        while (i < MAX_ANSWERS && s->answers[i] && read_request(s, c)) {
            const char *a = s->answers[i];
            enum then then = s->then[i++];
            if (send(c, a, strlen(a), MSG_NOSIGNAL) < 0) break;
            while (then == HANG && !s->quit) usleep(2000);
            if (then == RESET) {
                struct linger l = { 1, 0 };
                usleep(50000);
                setsockopt(c, SOL_SOCKET, SO_LINGER, &l, sizeof l);
            }
            if (then != KEEP) break;
        }
        close(c);
    }
    return NULL;
}

static bool script_start(script *s)
{
    signal(SIGPIPE, SIG_IGN);
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    struct sockaddr_un u = { .sun_family = AF_UNIX };
    socklen_t len = sizeof a;
    s->fd = socket(s->unix_path ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
    if (s->unix_path) {
        snprintf(u.sun_path, sizeof u.sun_path, "%s", s->unix_path);
        unlink(s->unix_path);
        if (bind(s->fd, (struct sockaddr *)&u, sizeof u)) return false;
    } else if (bind(s->fd, (struct sockaddr *)&a, sizeof a) || getsockname(s->fd, (struct sockaddr *)&a, &len)) {
        return false;
    }
    s->port = ntohs(a.sin_port);
    return listen(s->fd, 8) == 0 && pthread_create(&s->thread, NULL, serve, s) == 0;
}

static void script_stop(script *s)
{
    s->quit = true;
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
}

/* One fetch of path from the script's server, with a fresh handle. */
static status get(const script *s, const char *path, const fetch_options *o, fetch_response *r)
{
    fetch *f = NULL;
    char url[256];
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", s->port, path);
    status st = fetch_open(&f);
    if (st != ST_OK) return st;
    st = fetch_run(f, url, o, r);
    fetch_close(f);
    return st;
}

TEST(whole_answer)
{
    script s = { .answers = { "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nX-Thing:  a b \r\n\r\nhello" } };
    REQUIRE(script_start(&s));
    fetch_response r;
    const char *const headers[] = { "X-Mine: 1", NULL };
    CHECK_OK(get(&s, "/a?b=c", &(fetch_options){ .headers = headers }, &r));
    script_stop(&s);
    CHECK_INT(r.code, 404);
    CHECK_STR(buf_cstr(&r.body), "hello");
    CHECK_INT(r.content_length, 5);
    char v[16];
    CHECK(fetch_header(&r, "x-thing", v, sizeof v));
    CHECK_STR(v, "a b");
    CHECK(!fetch_header(&r, "x-thin", v, sizeof v));
    CHECK(strncmp(s.seen, "GET /a?b=c HTTP/1.1\r\n", 21) == 0);
    CHECK(strstr(s.seen, "X-Mine: 1\r\n") && strstr(s.seen, "Accept-Encoding: identity\r\n") && strstr(s.seen, "User-Agent: systolic/"));
    fetch_response_free(&r);
}

TEST(compressed_bodies_are_not_decoded)
{
    script s = { .answers = { "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nxyz" } };
    REQUIRE(script_start(&s));
    fetch_response r;
    CHECK_OK(get(&s, "/", NULL, &r));
    CHECK_STR(buf_cstr(&r.body), "xyz");
    script_stop(&s);
    fetch_response_free(&r);
}

TEST(post_and_connection_reuse)
{
    script s = { .answers = { "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", "HTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\n2" } };
    REQUIRE(script_start(&s));
    fetch *f = NULL;
    fetch_response r;
    char url[64];
    const char *const headers[] = { "Content-Type: application/json", NULL };
    snprintf(url, sizeof url, "http://127.0.0.1:%d/p", s.port);
    REQUIRE_OK(fetch_open(&f));
    CHECK_OK(fetch_run(f, url, &(fetch_options){ .headers = headers, .body = "{}", .body_len = 2 }, &r));
    fetch_response_free(&r);
    CHECK_OK(fetch_run(f, url, &(fetch_options){ .method = "DELETE" }, &r));
    CHECK_INT(r.code, 201);
    fetch_response_free(&r);
    fetch_close(f);
    script_stop(&s);
    CHECK_INT(s.n_conns, 1);
    CHECK(strstr(s.seen, "POST /p HTTP/1.1\r\n") && strstr(s.seen, "\r\n\r\n{}DELETE /p HTTP/1.1\r\n"));
    CHECK(!strstr(s.seen, "Expect"));
}

/* A server that closed an idle connection meanwhile costs a new connection, not an error. */
TEST(stale_connection_is_replaced)
{
    script s = { .answers = { "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2" }, .then = { CLOSE } };
    REQUIRE(script_start(&s));
    fetch *f = NULL;
    fetch_response r;
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", s.port);
    REQUIRE_OK(fetch_open(&f));
    for (int i = 0; i < 2; i++) {
        CHECK_OK(fetch_run(f, url, NULL, &r));
        CHECK_STR(buf_cstr(&r.body), i ? "2" : "1");
        fetch_response_free(&r);
    }
    fetch_close(f);
    script_stop(&s);
    CHECK_INT(s.n_conns, 2);
}

typedef struct pieces { buf all; int n, heads, code_at_head; size_t stop_after; bool cancel; } pieces;
static bool take_piece(void *arg, const void *data, size_t n)
{
    pieces *p = arg;
    p->n++;
    buf_append(&p->all, data, n);
    return !p->stop_after || p->all.len < p->stop_after;
}
static bool take_head(void *arg, const fetch_response *r)
{
    pieces *p = arg;
    p->heads++;
    p->code_at_head = r->code;
    return true;
}
static bool is_cancelled(void *arg) { return ((pieces *)arg)->cancel; }

TEST(stream_to_callback)
{
    script s = { .answers = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata: \r\n3\r\nab\n\r\n0\r\nX-Trailer: 1\r\n\r\n",
                              "HTTP/1.1 500 Oops\r\nContent-Length: 3\r\n\r\nbad" } };
    REQUIRE(script_start(&s));
    fetch_response r;
    pieces p = {0};
    fetch_options o = { .on_data = take_piece, .on_head = take_head, .arg = &p };
    CHECK_OK(get(&s, "/", &o, &r));
    CHECK_STR(buf_cstr(&p.all), "data: ab\n");
    CHECK_INT(p.heads, 1);
    CHECK_INT(r.body.len, 0);
    CHECK_INT(r.content_length, -1);
    fetch_response_free(&r);
    CHECK_OK(get(&s, "/", &o, &r)); /* an error's body goes to the response, not to the callback */
    CHECK_STR(buf_cstr(&r.body), "bad");
    CHECK_INT(p.code_at_head, 500);
    CHECK_INT(p.all.len, 9);
    fetch_response_free(&r);
    script_stop(&s);
    buf_free(&p.all);
}

TEST(caller_stops)
{
    script s = { .answers = { "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc", "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" }, .then = { HANG, HANG } };
    REQUIRE(script_start(&s));
    fetch_response r;
    pieces p = { .stop_after = 2 };
    CHECK_ERR(get(&s, "/", &(fetch_options){ .on_data = take_piece, .arg = &p }, &r), ST_CANCELLED, "after 3 bytes");
    fetch_response_free(&r);
    s.quit = true;
    script_stop(&s);
    buf_free(&p.all);
    script t = { .answers = { "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" }, .then = { HANG } };
    REQUIRE(script_start(&t));
    p = (pieces){ .cancel = true };
    CHECK_ERR(get(&t, "/", &(fetch_options){ .cancelled = is_cancelled, .arg = &p }, &r), ST_CANCELLED, "stopped by the caller");
    fetch_response_free(&r);
    script_stop(&t);
}

TEST(cut_connections)
{
    static const struct { const char *answer; enum then then; const char *want; } cases[] = {
        { "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n0123456789", CLOSE, "connection closed with 10 of 99 bytes received" },
        { "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n0123456789", RESET, "connection closed with 10 of 99 bytes received" },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", CLOSE, "in the middle of the answer, 5 bytes" },
        { "", CLOSE, "without an answer" },
        { "HTTP/1.1 200", RESET, "127.0.0.1" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        script s = { .answers = { cases[i].answer }, .then = { cases[i].then } };
        REQUIRE(script_start(&s));
        fetch_response r;
        CHECK_ERR(get(&s, "/file", NULL, &r), ST_IO, cases[i].want);
        if (i == 0) CHECK_STR(buf_cstr(&r.body), "0123456789"); /* what arrived can be kept and the rest asked for */
        fetch_response_free(&r);
        script_stop(&s);
    }
}

TEST(range)
{
    script s = { .answers = { "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 10-12/13\r\nContent-Length: 3\r\n\r\nend",
                              "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nall" }, .then = { CLOSE, CLOSE } };
    REQUIRE(script_start(&s));
    fetch_response r;
    CHECK_OK(get(&s, "/", &(fetch_options){ .range_from = 10 }, &r));
    CHECK(strstr(s.seen, "Range: bytes=10-\r\n"));
    CHECK_INT(r.code, 206);
    fetch_response_free(&r);
    CHECK_OK(get(&s, "/", &(fetch_options){ .range_from = 10 }, &r));
    CHECK_INT(r.code, 200); /* not honoured: the caller sees it */
    fetch_response_free(&r);
    script_stop(&s);
}

TEST(timeouts)
{
    static const struct { const char *answer; fetch_options o; const char *want; } cases[] = {
        { "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", { .stall_timeout_s = 0.3 }, "no byte arrived for 0.3 seconds, 3 bytes" },
        { "", { .stall_timeout_s = 0.3 }, "no byte arrived" },
        { "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", { .total_timeout_s = 0.3 }, "not finished within 0.3 seconds" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        script s = { .answers = { cases[i].answer }, .then = { HANG } };
        REQUIRE(script_start(&s));
        fetch_response r;
        double t = clock_now();
        CHECK_ERR(get(&s, "/", &cases[i].o, &r), ST_LIMIT, cases[i].want);
        t = clock_now() - t;
        CHECK(t > 0.25 && t < 2);
        fetch_response_free(&r);
        script_stop(&s);
    }
}

TEST(size_limits)
{
    script s = { .answers = { "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123456789", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n123456789\r\n0\r\n\r\n" }, .then = { CLOSE, CLOSE } };
    REQUIRE(script_start(&s));
    fetch_response r;
    CHECK_ERR(get(&s, "/", &(fetch_options){ .max_bytes = 8 }, &r), ST_LIMIT, "9 bytes");
    fetch_response_free(&r);
    CHECK_ERR(get(&s, "/", &(fetch_options){ .max_bytes = 8 }, &r), ST_LIMIT, "more than 8");
    fetch_response_free(&r);
    script_stop(&s);
}

TEST(redirects)
{
    script s = { .answers = { "HTTP/1.1 302 Found\r\nLocation: /two?x=1\r\nContent-Length: 4\r\n\r\nskip", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" } };
    REQUIRE(script_start(&s));
    fetch_response r;
    pieces p = {0};
    const char *const headers[] = { "Authorization: Bearer secret", NULL };
    CHECK_OK(get(&s, "/one", &(fetch_options){ .max_redirects = -1, .headers = headers, .on_head = take_head, .arg = &p }, &r));
    CHECK_STR(buf_cstr(&r.body), "ok");
    CHECK_INT(p.heads, 1);
    CHECK(r.effective_url && strstr(r.effective_url, "/two?x=1"));
    char *second = strstr(s.seen, "GET /two?x=1 ");
    CHECK(second && strstr(second, "Authorization: Bearer secret")); /* same origin */
    CHECK(!strstr(buf_cstr(&r.raw_headers), "302"));
    fetch_response_free(&r);
    script_stop(&s);
    script none = { .answers = { "HTTP/1.1 302 Found\r\nLocation: /two\r\nContent-Length: 4\r\n\r\nbody" } };
    REQUIRE(script_start(&none));
    CHECK_OK(get(&none, "/one", NULL, &r)); /* max_redirects 0: the redirect is the answer */
    CHECK_INT(r.code, 302);
    CHECK_STR(buf_cstr(&r.body), "body");
    fetch_response_free(&r);
    script_stop(&none);
    const char *loop = "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n";
    script many = { .answers = { loop, loop, loop } };
    REQUIRE(script_start(&many));
    CHECK_ERR(get(&many, "/", &(fetch_options){ .max_redirects = 2 }, &r), ST_LIMIT, "more than 2 redirects");
    fetch_response_free(&r);
    script_stop(&many);
}

TEST(redirect_method)
{
    static const struct { int code; const char *want; } cases[] = { { 302, "GET /b HTTP/1.1\r\n" }, { 303, "GET /b HTTP/1.1\r\n" }, { 307, "POST /b HTTP/1.1\r\n" } };
    for (size_t i = 0; i < 3; i++) {
        char a[128];
        snprintf(a, sizeof a, "HTTP/1.1 %d X\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n", cases[i].code);
        script s = { .answers = { a, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" } };
        REQUIRE(script_start(&s));
        fetch_response r;
        CHECK_OK(get(&s, "/a", &(fetch_options){ .max_redirects = 1, .body = "xy", .body_len = 2 }, &r));
        char *at = strstr(s.seen, cases[i].want);
        CHECK(at && (strstr(at, "\r\n\r\nxy") != NULL) == (i == 2));
        fetch_response_free(&r);
        script_stop(&s);
    }
}

static bool is_public(const char *text)
{
    struct sockaddr_in a4 = { .sin_family = AF_INET };
    struct sockaddr_in6 a6 = { .sin6_family = AF_INET6 };
    if (strchr(text, ':')) {
        CHECK_INT(inet_pton(AF_INET6, text, &a6.sin6_addr), 1);
        return address_is_public((const struct sockaddr *)(const void *)&a6);
    }
    CHECK_INT(inet_pton(AF_INET, text, &a4.sin_addr), 1);
    return address_is_public((const struct sockaddr *)(const void *)&a4);
}

TEST(public_addresses)
{
    static const char *const yes[] = { "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.1", "169.253.0.1", "172.15.255.255", "172.32.0.0",
                                       "192.167.1.1", "192.0.1.0", "198.17.0.1", "198.20.0.1", "223.255.255.255", "::ffff:8.8.8.8", "2606:4700::1111", "2001:200::1", "2a00::1" };
    static const char *const no[] = { "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.1.1",
                                      "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1",
                                      "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "100::1", "2001::1", "2001:1ff::1", "2001:db8::1", "2002:7f00:1::", "3fff:fff::1",
                                      "fc00::1", "fd12::1", "fe80::1", "fec0::1", "ff02::1" };
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) if (!is_public(yes[i])) FAIL("%s is not public", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) if (is_public(no[i])) FAIL("%s is public", no[i]);
    CHECK(!address_is_public(&(struct sockaddr){ .sa_family = AF_UNIX }));
}

/* Names, numbers in other spellings and what a redirect leads to; behind a proxy the name is looked up beforehand. */
TEST(only_public_addresses)
{
    script s = { .answers = { "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" } };
    REQUIRE(script_start(&s));
    static const char *const hosts[] = { "127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]" };
    fetch *f = NULL;
    REQUIRE_OK(fetch_open(&f));
    for (int proxied = 0; proxied < 2; proxied++) {
        if (proxied) setenv("http_proxy", "http://127.0.0.1:9", 1);
        for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
            char url[128];
            fetch_response r;
            snprintf(url, sizeof url, "http://%s:%d/", hosts[i], s.port);
            CHECK_ERR(fetch_run(f, url, &(fetch_options){ .public_only = true }, &r), ST_DENIED, "has a private, loopback");
            CHECK(r.not_public);
            fetch_response_free(&r);
        }
    }
    unsetenv("http_proxy");
    CHECK_INT(s.n_seen, 0);
    fetch_response r;
    CHECK_OK(get(&s, "/", &(fetch_options){ .public_only = false }, &r));
    CHECK(!r.not_public);
    fetch_response_free(&r);
    fetch_close(f);
    script_stop(&s);
}

TEST(redirect_to_another_origin_loses_credentials)
{
    script there = { .answers = { "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" } };
    REQUIRE(script_start(&there));
    char a[128];
    snprintf(a, sizeof a, "HTTP/1.1 302 Found\r\nLocation: http://localhost:%d/x\r\nContent-Length: 0\r\n\r\n", there.port);
    script here = { .answers = { a, a } };
    REQUIRE(script_start(&here));
    const char *const headers[] = { "authorization: Bearer secret", "Cookie: c", "X-Keep: 1", NULL };
    const char *const hosts[] = { "example.org", NULL };
    fetch_response r;
    CHECK_OK(get(&here, "/", &(fetch_options){ .max_redirects = 5, .headers = headers }, &r));
    CHECK(strstr(here.seen, "secret"));
    CHECK(!strstr(there.seen, "secret") && !strstr(there.seen, "Cookie") && strstr(there.seen, "X-Keep: 1"));
    fetch_response_free(&r);
    CHECK_ERR(get(&here, "/", &(fetch_options){ .max_redirects = 5, .allowed_redirect_hosts = hosts }, &r), ST_DENIED, "'localhost' refused");
    fetch_response_free(&r);
    script_stop(&here);
    script_stop(&there);
    script file = { .answers = { "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n" } };
    REQUIRE(script_start(&file));
    CHECK(get(&file, "/", &(fetch_options){ .max_redirects = 5 }, &r) != ST_OK);
    CHECK_INT(r.body.len, 0);
    fetch_response_free(&r);
    script_stop(&file);
}

TEST(unix_sockets)
{
    char path[64], url[128];
    snprintf(path, sizeof path, "/tmp/fetch-%d.sock", (int)getpid());
    script s = { .answers = { "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2" }, .unix_path = path, .then = { CLOSE, CLOSE } };
    REQUIRE(script_start(&s));
    fetch *f = NULL;
    fetch_response r;
    REQUIRE_OK(fetch_open(&f));
    CHECK_OK(fetch_run(f, "http://localhost/a", &(fetch_options){ .unix_socket = path }, &r));
    fetch_response_free(&r);
    snprintf(url, sizeof url, "http+unix://%%2Ftmp%%2F%s/b", path + 5);
    CHECK_OK(fetch_run(f, url, NULL, &r));
    CHECK_STR(buf_cstr(&r.body), "2");
    fetch_response_free(&r);
    fetch_close(f);
    script_stop(&s);
    unlink(path);
    CHECK(strstr(s.seen, "GET /b HTTP/1.1"));
}

TEST(failures_name_the_reason)
{
    fetch *f = NULL;
    fetch_response r;
    REQUIRE_OK(fetch_open(&f));
    CHECK_ERR(fetch_run(f, "http://user:pw@127.0.0.1:1/x?sig=s", NULL, &r), ST_IO, "http://127.0.0.1:1/x: Failed to connect");
    fetch_response_free(&r);
    CHECK_ERR(fetch_run(f, "ftp://127.0.0.1/", NULL, &r), ST_INVALID, "expected http");
    fetch_response_free(&r);
    CHECK_ERR(fetch_run(f, "not a url", NULL, &r), ST_INVALID, "not a valid URL");
    fetch_response_free(&r);
    CHECK_ERR(fetch_run(f, "http+unix:///x", NULL, &r), ST_INVALID, "http+unix");
    fetch_response_free(&r);
    const char *const headers[] = { "A: b\r\nC: d", NULL };
    CHECK_ERR(fetch_run(f, "http://127.0.0.1:1/", &(fetch_options){ .headers = headers }, &r), ST_INVALID, "line break");
    fetch_response_free(&r);
    fetch_close(f);
}

TEST(out_of_memory_is_a_status)
{
    fetch *warm = NULL;
    REQUIRE_OK(fetch_open(&warm)); /* libcurl's own global state stays */
    fetch_close(warm);
    int64_t live = mem_live();
    for (uint64_t n = 1; n < 5000; n++) {
        script s = { .answers = { "HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello" } };
        REQUIRE(script_start(&s));
        fetch_response r = {0};
        const char *const headers[] = { "A: b", NULL };
        mem_fail_at(n);
        status st = get(&s, "/a", &(fetch_options){ .max_redirects = 3, .headers = headers, .body = "x", .body_len = 1 }, &r);
        int hit = mem_failed();
        mem_fail_at(0);
        if (st == ST_OK) CHECK_STR(buf_cstr(&r.body), "hello");
        fetch_response_free(&r);
        script_stop(&s);
        if (mem_live() != live) {
            FAIL("allocation %llu leaks %lld blocks", (unsigned long long)n, (long long)(mem_live() - live));
            live = mem_live();
        }
        if (!hit) return;
        if (st != ST_OK && st != ST_NOMEM) FAIL("allocation %llu: %s (%s)", (unsigned long long)n, status_name(st), err_msg());
    }
    FAIL("no end");
}

TEST_MAIN
