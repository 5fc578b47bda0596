/* Where the server listens: Unix sockets, IPv6, TLS; and what it says when it cannot. With fetch as the other side. */
#include "tests/test.h"

#include <sys/wait.h>

#include "base/fetch.h"
#include "tests/unit/http/raw.h"

static char dir[] = "/tmp/http-test-XXXXXX";
static const char *file(const char *name)
{
    static char paths[4][128];
    static int i;
    char *p = paths[i++ % 4];
    if (strstr(dir, "XXXXXX") && !mkdtemp(dir)) return "/nonexistent";
    snprintf(p, 128, "%s/%s", dir, name);
    return p;
}

/* GET /x over fetch; the body in `got`. */
static status get(const char *base, fetch_options o, char *got, size_t cap)
{
    fetch *f = NULL;
    fetch_response r;
    char url[160];
    snprintf(url, sizeof url, "%s/x", base);
    status st = fetch_open(&f);
    if (st != ST_OK) return st;
    st = fetch_run(f, url, &o, &r);
    snprintf(got, cap, "%s", buf_cstr(&r.body));
    fetch_response_free(&r);
    fetch_close(f);
    return st;
}

static int dial_unix(const char *path)
{
    struct sockaddr_un u = { .sun_family = AF_UNIX };
    snprintf(u.sun_path, sizeof u.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&u, sizeof u) == 0) return fd;
    close(fd);
    return -1;
}

TEST(unix_socket)
{
    const char *path = file("s.sock");
    char got[64];
    struct stat sb;
    mode_t old = umask(027);
    REQUIRE(serve((http_options){ .uds = path }));
    umask(old);
    CHECK(stat(path, &sb) == 0 && S_ISSOCK(sb.st_mode) && (sb.st_mode & 0777) == 0750);
    CHECK_OK(get("http://localhost", (fetch_options){ .unix_socket = path }, got, sizeof got));
    CHECK_STR(got, "GET /x q=- h=- n=0 ");
    int fd = dial_unix(path);
    put(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_held == 1);
    CHECK_STR(http_peer(held[0]), "unix");
    close(fd);
    EVENTUALLY(n_gone == 1);
    http_reply(held[0], 200, NULL, NULL, 0);
    http_release(held[0]);
    http_server *second = NULL;
    CHECK_ERR(http_start(&(http_options){ .uds = path }, handler, NULL, &second), ST_IO, "s.sock: Address already in use");
    http_stop(server, 1);
    CHECK(stat(path, &sb) != 0); /* removed */
}

TEST(unix_socket_stale_and_foreign)
{
    const char *path = file("t.sock");
    struct sockaddr_un u = { .sun_family = AF_UNIX };
    snprintf(u.sun_path, sizeof u.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    REQUIRE(bind(fd, (struct sockaddr *)&u, sizeof u) == 0);
    close(fd); /* the file stays, nobody listens: a crash */
    REQUIRE(serve((http_options){ .uds = path }));
    /* somebody else takes the path over: theirs must stay */
    struct stat sb;
    unlink(path);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(bind(fd, (struct sockaddr *)&u, sizeof u) == 0);
    http_stop(server, 1);
    CHECK(stat(path, &sb) == 0);
    close(fd);
    unlink(path);
    FILE *f = fopen(path, "w");
    REQUIRE(f);
    fclose(f);
    http_server *s = NULL;
    CHECK_ERR(http_start(&(http_options){ .uds = path }, handler, NULL, &s), ST_IO, "not a socket");
    CHECK(stat(path, &sb) == 0);
    unlink(path);
    CHECK_ERR(http_start(&(http_options){ .uds = "/nonexistent/s" }, handler, NULL, &s), ST_NOT_FOUND, "cannot listen on unix:/nonexistent/s: No such file");
    char longer[200];
    memset(longer, 'x', sizeof longer);
    longer[199] = 0;
    CHECK_ERR(http_start(&(http_options){ .uds = longer }, handler, NULL, &s), ST_INVALID, "1 to 107 bytes");
}

TEST(addresses)
{
    char base[64], got[64];
    REQUIRE(serve((http_options){ .host = "" })); /* everywhere */
    snprintf(base, sizeof base, "http://127.0.0.1:%d", port);
    CHECK_OK(get(base, (fetch_options){0}, got, sizeof got));
    int six = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback, .sin6_port = htons((uint16_t)port) };
    bool has_v6 = six >= 0 && connect(six, (struct sockaddr *)&a, sizeof a) == 0;
    if (has_v6) {
        put(six, "GET /hold HTTP/1.1\r\nHost: [::1]:80\r\n\r\n");
        EVENTUALLY(n_held == 1);
        CHECK(strncmp(http_peer(held[0]), "[::1]:", 6) == 0);
        http_reply(held[0], 200, NULL, NULL, 0);
        http_release(held[0]);
    } else {
        printf("  no IPv6 here\n");
    }
    if (six >= 0) close(six);
    /* an IPv4 client of a dual-stack socket is shown as such */
    int fd = dial(), n = n_held;
    put(fd, "GET /hold HTTP/1.1\r\n" H "\r\n");
    EVENTUALLY(n_held == n + 1);
    CHECK(strncmp(http_peer(held[n]), "127.0.0.1:", 10) == 0);
    http_reply(held[n], 200, NULL, NULL, 0);
    http_release(held[n]);
    close(fd);
    int taken = port;
    char want[80];
    http_server *s = NULL;
    snprintf(want, sizeof want, "cannot listen on 127.0.0.1:%d: Address already in use", taken);
    http_stop(server, 1);
    REQUIRE(serve((http_options){ .host = "localhost", .port = taken })); /* a restart binds at once; every address of the name */
    CHECK_ERR(http_start(&(http_options){ .host = "127.0.0.1", .port = taken }, handler, NULL, &s), ST_IO, want);
    CHECK_ERR(http_start(&(http_options){ .port = taken }, handler, NULL, &s), ST_IO, "Address already in use");
    http_stop(server, 1);
    CHECK_ERR(http_start(&(http_options){ .host = "no.such.host.invalid" }, handler, NULL, &s), ST_INVALID, "no.such.host.invalid");
    CHECK_ERR(http_start(&(http_options){ .host = "192.0.2.1" }, handler, NULL, &s), ST_IO, "cannot listen on 192.0.2.1:0: Cannot assign");
    CHECK_ERR(http_start(&(http_options){ .port = 70000 }, handler, NULL, &s), ST_INVALID, "70000");
}

/* ---- TLS ---- */

static bool run(const char *fmt, ...)
{
    char cmd[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cmd, sizeof cmd, fmt, ap);
    va_end(ap);
    return system(cmd) == 0;
}

static bool make_certificates(void)
{
    static int made = -1;
    if (made >= 0) return made;
    const char *d = (file("x"), dir);
    made = run("cd %s && openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost "
               "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 2>/dev/null && "
               "openssl genrsa -out other.pem 2048 2>/dev/null && openssl rsa -in key.pem -aes128 -passout pass:abc -out locked.pem 2>/dev/null && "
               "cat key.pem cert.pem > both.pem", d);
    return made;
}

TEST(tls)
{
    if (!make_certificates()) SKIP("no openssl command");
    char base[64], got[64];
    REQUIRE(serve((http_options){ .ssl_certfile = file("cert.pem"), .ssl_keyfile = file("key.pem"), .read_timeout_s = 1 }));
    snprintf(base, sizeof base, "https://localhost:%d", port);
    CHECK_ERR(get(base, (fetch_options){0}, got, sizeof got), ST_IO, "certificate");
    CHECK_OK(get(base, (fetch_options){ .insecure = true }, got, sizeof got));
    CHECK_STR(got, "GET /x q=- h=- n=0 ");
    setenv("REQUESTS_CA_BUNDLE", file("cert.pem"), 1);
    CHECK_OK(get(base, (fetch_options){ .body = "abc", .body_len = 3 }, got, sizeof got));
    CHECK_STR(got, "POST /x q=- h=- n=3 abc");
    /* large both ways, and a stream */
    fetch *f = NULL;
    fetch_response r;
    char url[128], *body = mem_calloc(1, 5 << 20);
    REQUIRE_OK(fetch_open(&f));
    snprintf(url, sizeof url, "%s/big?n=5000000", base);
    CHECK_OK(fetch_run(f, url, &(fetch_options){ .body = body, .body_len = 5 << 20 }, &r));
    CHECK_INT(r.body.len, 5000000);
    fetch_response_free(&r);
    snprintf(url, sizeof url, "%s/stream?n=1000", base);
    CHECK_OK(fetch_run(f, url, NULL, &r));
    CHECK(strstr(buf_cstr(&r.body), "data: 999\n\n"));
    fetch_response_free(&r);
    fetch_close(f);
    mem_free(body);
    /* plain HTTP at a TLS port ends soon, and so does silence */
    int fd = dial();
    bool closed;
    put(fd, "GET / HTTP/1.1\r\n" H "\r\n");
    get_until(fd, NULL, 3, &closed);
    CHECK(closed);
    close(fd);
    fd = dial();
    get_until(fd, NULL, 3, &closed);
    CHECK(closed);
    close(fd);
    unsetenv("REQUESTS_CA_BUNDLE");
    http_stop(server, 1);
}

static bool note_gone(void *arg)
{
    (void)arg;
    return n_held > 0;
}

TEST(tls_disconnect_and_one_file)
{
    if (!make_certificates()) SKIP("no openssl command");
    char url[64];
    REQUIRE(serve((http_options){ .ssl_certfile = file("both.pem") }));
    snprintf(url, sizeof url, "https://127.0.0.1:%d/hold", port);
    fetch *f = NULL;
    fetch_response r;
    REQUIRE_OK(fetch_open(&f));
    CHECK_ERR(fetch_run(f, url, &(fetch_options){ .insecure = true, .cancelled = note_gone }, &r), ST_CANCELLED, "");
    fetch_response_free(&r);
    fetch_close(f);
    EVENTUALLY(n_gone == 1);
    http_reply(held[0], 200, NULL, NULL, 0);
    http_release(held[0]);
    http_stop(server, 1);
}

TEST(tls_client_certificates)
{
    if (!make_certificates()) SKIP("no openssl command");
    REQUIRE(serve((http_options){ .ssl_certfile = file("both.pem"), .ssl_ca_certs = file("cert.pem"), .ssl_cert_reqs = 2 }));
    char base[64], got[64];
    snprintf(base, sizeof base, "https://127.0.0.1:%d", port);
    CHECK(get(base, (fetch_options){ .insecure = true }, got, sizeof got) != ST_OK);
    CHECK(run("cd %s && printf 'GET /x HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' | timeout 5 openssl s_client -quiet -connect 127.0.0.1:%d -cert cert.pem -key key.pem -alpn h2,http/1.1 2>/dev/null | grep -q 'GET /x'", dir, port));
    http_stop(server, 1);
}

/* The subject of the certificate the server shows now. */
static bool shows(const char *subject)
{
    return run("timeout 5 openssl s_client -connect 127.0.0.1:%d </dev/null 2>/dev/null | openssl x509 -noout -subject | grep -q '%s'", port, subject);
}

TEST(tls_refresh)
{
    if (!make_certificates()) SKIP("no openssl command");
    REQUIRE(run("cp %s/both.pem %s/live.pem", dir, dir));
    REQUIRE(serve((http_options){ .ssl_certfile = file("live.pem"), .ssl_refresh = true }));
    CHECK(shows("localhost"));
    CHECK(run("timeout 5 openssl s_client -alpn h2,http/1.1 -connect 127.0.0.1:%d </dev/null 2>/dev/null | grep -q 'ALPN protocol: http/1.1'", port));
    usleep(1100000);
    REQUIRE(run("echo garbage > %s/live.pem", dir));
    CHECK(shows("localhost")); /* what cannot be used is not used */
    usleep(1100000);
    REQUIRE(run("cd %s && openssl req -x509 -newkey rsa:2048 -nodes -keyout k -out c -days 2 -subj /CN=renewed 2>/dev/null && cat k c > live.pem", dir));
    CHECK(shows("renewed"));
    http_stop(server, 1);
}

TEST(tls_refuses_bad_files)
{
    if (!make_certificates()) SKIP("no openssl command");
    http_server *s = NULL;
    const char *cert = file("cert.pem"), *key = file("key.pem");
    int64_t live = mem_live();
    CHECK_ERR(http_start(&(http_options){ .ssl_certfile = "/nonexistent.pem", .ssl_keyfile = key }, handler, NULL, &s), ST_INVALID, "certificate '/nonexistent.pem': No such file");
    CHECK_ERR(http_start(&(http_options){ .ssl_certfile = key }, handler, NULL, &s), ST_INVALID, "cannot use the TLS certificate");
    CHECK_ERR(http_start(&(http_options){ .ssl_certfile = cert, .ssl_keyfile = file("other.pem") }, handler, NULL, &s), ST_INVALID, "other.pem");
    CHECK_ERR(http_start(&(http_options){ .ssl_certfile = cert, .ssl_keyfile = file("locked.pem") }, handler, NULL, &s), ST_INVALID, "locked.pem");
    CHECK_ERR(http_start(&(http_options){ .ssl_certfile = cert, .ssl_keyfile = key, .ssl_ca_certs = "/nonexistent.pem" }, handler, NULL, &s), ST_INVALID, "authorities");
    CHECK_ERR(http_start(&(http_options){ .ssl_certfile = cert, .ssl_keyfile = key, .ssl_ciphers = "NOSUCH" }, handler, NULL, &s), ST_INVALID, "NOSUCH");
    CHECK_ERR(http_start(&(http_options){ .ssl_certfile = cert, .ssl_keyfile = key, .ssl_cert_reqs = 7 }, handler, NULL, &s), ST_INVALID, "ssl_cert_reqs 7");
    CHECK_ERR(http_start(&(http_options){ .ssl_keyfile = key }, handler, NULL, &s), ST_INVALID, "ssl_certfile is missing");
    CHECK_INT(mem_live(), live);
}

TEST(cleanup)
{
    CHECK(run("rm -rf %s", dir));
}

TEST_MAIN
