// layer: http
/* Request heads and chunked bodies: no crash, and the same verdict however the bytes are cut into pieces. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "http/guard.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static head_scan scan(const char *s, size_t n, size_t step, size_t *pos)
{
    head_scan sc = HEAD_MORE;
    *pos = 0;
    for (size_t at = 0; sc == HEAD_MORE && at < n;) {
        at = at + step < n ? at + step : n;
        sc = guard_scan(s, at, pos);
    }
    return sc;
}

static int chunks(const char *s, size_t n, size_t step, buf *body, size_t *used)
{
    chunk_reader c = {0};
    *used = 0;
    while (*used < n && !c.done) {
        size_t k = *used + step < n ? step : n - *used, u = 0;
        int code = 0;
        if (chunk_feed(&c, s + *used, k, 1000, body, &u, &code) != ST_OK) return code;
        *used += u;
        if (u < k && !c.done) abort();
    }
    return c.done ? 0 : -1;
}

static void check_head(const char *s, size_t n)
{
    static const guard_limits lim = { 4096, 20, 1000 };
    http_head h;
    int code = 0;
    if (guard_parse(s, n, &lim, &h, &code) != ST_OK) {
        if (code < 400 || code > 599) abort();
        return;
    }
    if (!h.method[0] || (h.path[0] != '/' && strcmp(h.path, "*") != 0) || (h.chunked && h.content_length) || h.content_length > 1000) abort();
    for (const char *p = h.target; *p; p++)
        if (*p <= ' ' || *p > '~') abort(); /* it goes into the log */
    for (int i = 0; i < h.n_fields; i++)
        if (!guard_is_token(h.fields[i].name, strlen(h.fields[i].name)) || !guard_is_value(h.fields[i].value)) abort();
    guard_free(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    size_t step = 1 + data[0] % 16, n = size - 1, p1, p2;
    const char *s = (const char *)data + 1;
    head_scan a = scan(s, n, n, &p1), b = scan(s, n, step, &p2);
    if (a != b && !(a == HEAD_BAD || b == HEAD_DONE)) abort(); /* pieces may end a head before a later bad byte is seen */
    if (a == HEAD_DONE && p1 != p2) abort();
    if (b == HEAD_DONE) check_head(s, p2);
    buf x = {0}, y = {0};
    size_t u1, u2;
    int r1 = chunks(s, n, n, &x, &u1), r2 = chunks(s, n, step, &y, &u2);
    if (r1 != r2 || x.len != y.len || (x.len && memcmp(x.data, y.data, x.len) != 0) || (r1 == 0 && u1 != u2)) abort();
    buf_free(&x);
    buf_free(&y);
    return 0;
}
