/* The pure part: heads and chunked bodies, byte by byte, without sockets. */
#include "tests/test.h"

#include "base/mem.h"
#include "http/guard.h"

static const guard_limits lim = { 1 << 20, 100, 1 << 20 };

static status parse(const char *s, http_head *h)
{
    int code;
    return guard_parse(s, strlen(s), &lim, h, &code);
}

TEST(takes_a_head_apart)
{
    http_head h;
    REQUIRE_OK(parse("GET /a%2Fb%zz%?x=1&y&=z&&x=%41+b&n=a=b HTTP/1.1\r\nHost: h\r\nA:b\r\na:\t c d \t\r\nEmpty:\r\n\r\n", &h));
    CHECK_STR(h.method, "GET");
    CHECK_STR(h.target, "/a%2Fb%zz%?x=1&y&=z&&x=%41+b&n=a=b");
    CHECK_STR(h.path, "/a/b%zz%"); /* what is not an escape stays */
    CHECK_INT(h.n_query, 5);
    CHECK_STR(h.query[1].name, "y");
    CHECK_STR(h.query[1].value, "");
    CHECK_STR(h.query[3].value, "A b");
    CHECK_STR(h.query[4].value, "a=b");
    CHECK_INT(h.n_fields, 4);
    CHECK_STR(guard_field(&h, "A"), "b"); /* the first one */
    CHECK_STR(h.fields[2].value, "c d");
    CHECK_STR(guard_field(&h, "empty"), "");
    CHECK(!guard_field(&h, "none"));
    CHECK(h.keep_alive && !h.chunked && h.content_length == 0);
    guard_free(&h);
    REQUIRE_OK(parse("GET https://host:1/p?q HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\n\r\n", &h));
    CHECK_STR(h.path, "/p");
    CHECK(!h.keep_alive);
    guard_free(&h);
    REQUIRE_OK(parse("GET http://host HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &h));
    CHECK_STR(h.path, "/");
    CHECK(h.keep_alive && h.minor == 0);
    guard_free(&h);
    REQUIRE_OK(parse("POST / HTTP/1.1\r\nHost:\r\nConnection: enclose\r\nContent-Length: 0000000000000000000012\r\n\r\n", &h));
    CHECK(h.keep_alive && h.content_length == 12);
    guard_free(&h);
}

/* However the bytes are cut, the scan says the same. */
TEST(scan_does_not_depend_on_pieces)
{
    static const struct { const char *s; size_t n; head_scan want; } cases[] = {
#define S(x) x, sizeof(x) - 1
        { S("GET / HTTP/1.1\r\nA: b\r\n\r\nrest\n"), HEAD_DONE }, { S("GET / HTTP/1.1\r\n\r\n"), HEAD_DONE },
        { S("GET / HTTP/1.1\r\nA: b\r\n"), HEAD_MORE }, { S("GET / HTTP/1.1\r\nA: b\n\r\n"), HEAD_BAD },
        { S("GET / HTTP/1.1\r\nA\0: b\r\n\r\n"), HEAD_BAD }, { S("\r\n\r\n"), HEAD_BAD }, { S("GET / HTTP/1.1\n\n"), HEAD_BAD }, { S("{"), HEAD_BAD }, { S("\0"), HEAD_BAD },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t step = 1; step < 40; step++) {
            size_t pos = 0, n = 0;
            head_scan sc = HEAD_MORE;
            while (sc == HEAD_MORE && n < cases[i].n) {
                n = n + step < cases[i].n ? n + step : cases[i].n;
                sc = guard_scan(cases[i].s, n, &pos);
            }
            if (sc != cases[i].want) FAIL("case %zu step %zu: %d", i, step, (int)sc);
            if (sc == HEAD_DONE && memcmp(cases[i].s + pos - 4, "\r\n\r\n", 4) != 0) FAIL("case %zu step %zu: ends at %zu", i, step, pos);
        }
    }
}

TEST(chunks_do_not_depend_on_pieces)
{
    static const struct { const char *s, *body; int code; } cases[] = {
        { "5\r\nhello\r\n0\r\n\r\nNEXT", "hello", 0 }, { "005;a=b\r\nhello\r\nB \r\n, wide world\r\n0\r\nT: x\r\nU: y\r\n\r\nNEXT", "hello, wide worl", 400 },
        { "a\r\n0123456789\r\n1\r\nx\r\n000\r\nT: x\r\nU: y\r\n\r\nNEXT", "0123456789x", 0 }, { "\r\n", "", 400 }, { "5 x\r\nhello\r\n0\r\n\r\nNEXT", "hello", 0 },
        { "5\r\nhello0\r\n\r\n", "hello", 400 }, { "5\r\nhello\n0\r\n\r\n", "hello", 400 }, { "15\r\n", "", 413 }, { "a\r\n0123456789\r\na\r\n0123456789\r\n1\r\nx\r\n", "01234567890123456789", 413 },
        { "1000000000000000\r\n", "", 413 }, { "-1\r\n", "", 400 }, { "0\r\nT: \x01\r\n\r\n", "", 400 }, { "0\r\nT: x\n\r\n", "", 400 }, { "0\r\n\rX", "", 400 }, { "1;a\nb\r\n", "", 400 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t len = strlen(cases[i].s);
        for (size_t step = 1; step <= len; step++) {
            chunk_reader c = {0};
            buf body = {0};
            int code = 0, got = 0;
            size_t at = 0, used = 0;
            while (at < len && !c.done && !got) {
                size_t n = at + step < len ? step : len - at;
                if (chunk_feed(&c, cases[i].s + at, n, 20, &body, &used, &code) != ST_OK) got = code;
                at += used;
            }
            if (got != cases[i].code || strcmp(buf_cstr(&body), cases[i].body) != 0) FAIL("case %zu step %zu: %d (%s) \"%s\"", i, step, got, err_msg(), buf_cstr(&body));
            if (!got && strcmp(cases[i].s + at, "NEXT") != 0) FAIL("case %zu step %zu: took %zu bytes", i, step, at);
            buf_free(&body);
        }
    }
}

/* Framing that carries nothing is bounded too. */
TEST(chunk_overhead_is_bounded)
{
    char line[600], trailers[10000];
    chunk_reader c = {0};
    buf body = {0};
    int code = 0;
    size_t used;
    memset(line, 'x', sizeof line);
    memcpy(line, "1;", 2);
    CHECK_ERR(chunk_feed(&c, line, sizeof line, 100, &body, &used, &code), ST_INVALID, "too long");
    CHECK_INT(code, 400);
    c = (chunk_reader){0};
    memset(trailers, 'x', sizeof trailers);
    memcpy(trailers, "0\r\n", 3);
    CHECK_ERR(chunk_feed(&c, trailers, sizeof trailers, 100, &body, &used, &code), ST_INVALID, "too long");
    CHECK_INT(code, 431);
    buf_free(&body);
}

TEST(out_of_memory_is_a_status)
{
    int64_t live = mem_live();
    for (uint64_t n = 1;; n++) {
        http_head h;
        mem_fail_at(n);
        status st = parse("GET /?a=b HTTP/1.1\r\nHost: h\r\n\r\n", &h);
        int hit = mem_failed();
        mem_fail_at(0);
        if (st == ST_OK) guard_free(&h);
        CHECK_INT(mem_live(), live);
        if (!hit) break;
        CHECK_INT(st, ST_NOMEM);
    }
}

TEST_MAIN
