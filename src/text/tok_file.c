/* A direct reader for the two large parts of tokenizer.json. A 128,000-entry vocabulary with its merges as JSON values is
 * over a million allocations; read in place it is none. Whatever looks unusual is left to the general parser. */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/tok_int.h"

typedef struct cur { const char *start, *p, *end; buf a, b; } cur;

static void space(cur *c)
{
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\n' || *c->p == '\t' || *c->p == '\r')) c->p++;
}

static bool skip_string(cur *c)
{
    for (c->p++; c->p < c->end; c->p++) {
        if (*c->p == '"') {
            c->p++;
            return true;
        }
        if (*c->p == '\\') c->p++;
    }
    return false;
}

static bool skip_value(cur *c)
{
    space(c);
    int depth = 0;
    while (c->p < c->end) {
        char ch = *c->p;
        if (ch == '"') {
            if (!skip_string(c)) return false;
            if (depth == 0) return true;
            continue;
        }
        if (ch == '{' || ch == '[') depth++;
        else if (ch == '}' || ch == ']') {
            if (depth == 0) return true; /* the end of what holds this scalar */
            if (--depth == 0) {
                c->p++;
                return true;
            }
        } else if (ch == ',' && depth == 0) return true;
        c->p++;
    }
    return false;
}

/* Calls fn(key, value) for the members of the object at c; false if it is not well formed or fn says so. */
static bool members(cur *c, bool (*fn)(void *arg, const char *key, size_t n, const char *from, const char *to), void *arg)
{
    space(c);
    if (c->p >= c->end || *c->p != '{') return false;
    c->p++;
    for (;;) {
        space(c);
        if (c->p >= c->end) return false;
        if (*c->p == '}') return true;
        if (*c->p == ',') {
            c->p++;
            continue;
        }
        if (*c->p != '"') return false;
        const char *key = c->p + 1;
        if (!skip_string(c)) return false;
        size_t n = (size_t)(c->p - 1 - key);
        space(c);
        if (c->p >= c->end || *c->p++ != ':') return false;
        space(c);
        const char *from = c->p;
        if (!skip_value(c)) return false;
        if (!fn(arg, key, n, from, c->p)) return false;
    }
}

static bool key_is(const char *key, size_t n, const char *name) { return n == strlen(name) && memcmp(key, name, n) == 0; }

static bool in_model(void *arg, const char *key, size_t n, const char *from, const char *to)
{
    model_source *s = arg;
    if (key_is(key, n, "vocab") && (*from == '{' || *from == '[')) {
        if (s->vocab) return false;
        s->vocab = from;
        s->vocab_end = to;
    } else if (key_is(key, n, "merges") && *from == '[') {
        if (s->merges) return false;
        s->merges = from;
        s->merges_end = to;
    }
    return true;
}

typedef struct top { model_source *src; bool seen; } top;

static bool in_top(void *arg, const char *key, size_t n, const char *from, const char *to)
{
    top *t = arg;
    if (!key_is(key, n, "model")) return true;
    if (t->seen) return false;
    t->seen = true;
    if (*from != '{') return true;
    cur c = { .start = from, .p = from, .end = to };
    return members(&c, in_model, t->src);
}

status source_split(const char *text, size_t n, model_source *src, buf *rest)
{
    cur c = { .start = text, .p = text, .end = text + n };
    top t = { src, false };
    if (!members(&c, in_top, &t)) *src = (model_source){0};
    const char *cut[2][2] = { { src->vocab, src->vocab_end }, { src->merges, src->merges_end } };
    if (cut[0][0] && cut[1][0] && cut[1][0] < cut[0][0]) {
        for (int i = 0; i < 2; i++) {
            const char *x = cut[0][i];
            cut[0][i] = cut[1][i];
            cut[1][i] = x;
        }
    }
    const char *p = text;
    for (int i = 0; i < 2; i++) {
        if (!cut[i][0]) continue;
        buf_append(rest, p, (size_t)(cut[i][0] - p));
        buf_str(rest, "null");
        p = cut[i][1];
    }
    buf_append(rest, p, (size_t)(text + n - p));
    return buf_status(rest);
}

/* ---- reading the parts ---- */

static status bad(const cur *c, const char *what)
{
    return err_set(ST_INVALID, "tokenizer.json: model.%s: wanted %s at byte %zu of it", c->start[0] == '{' ? "vocab" : "vocab or merges", what, (size_t)(c->p - c->start));
}

static int hex4(const char *p)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

/* \uXXXX at p, perhaps the first half of a pair. Returns the bytes consumed, 0 if malformed. */
static size_t unicode_escape(const char *p, const char *end, uint32_t *cp)
{
    int hi = end - p >= 6 ? hex4(p + 2) : -1;
    if (hi < 0 || (hi >= 0xDC00 && hi < 0xE000)) return 0;
    *cp = (uint32_t)hi;
    if (hi < 0xD800 || hi >= 0xE000) return 6;
    int lo = end - p >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8) : -1;
    if (lo < 0xDC00 || lo >= 0xE000) return 0;
    *cp = 0x10000u + ((uint32_t)(hi - 0xD800) << 10) + (uint32_t)(lo - 0xDC00);
    return 12;
}

static status unescape(cur *c, const char *from, const char *to, buf *out)
{
    buf_clear(out);
    for (const char *p = from; p < to;) {
        if (*p != '\\') {
            buf_char(out, *p++);
            continue;
        }
        static const char codes[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
        const char *k = p[1] ? strchr(codes, p[1]) : NULL;
        uint32_t cp;
        size_t n;
        if (k) {
            buf_char(out, values[k - codes]);
            p += 2;
        } else if (p[1] == 'u' && (n = unicode_escape(p, to, &cp)) > 0) {
            buf_utf8(out, cp);
            p += n;
        } else {
            c->p = p;
            return bad(c, "a valid escape");
        }
    }
    return buf_status(out);
}

/* A string: in place when it has no escapes, else in `scratch`. */
static status string(cur *c, buf *scratch, span *out)
{
    space(c);
    if (c->p >= c->end || *c->p != '"') return bad(c, "a string");
    const char *from = ++c->p;
    bool escaped = false, high = false;
    for (; c->p < c->end && *c->p != '"'; c->p++) {
        unsigned char ch = (unsigned char)*c->p;
        if (ch < 0x20) return bad(c, "no control character");
        high |= ch >= 0x80;
        if (ch != '\\') continue;
        escaped = true;
        c->p++;
    }
    if (c->p >= c->end) return bad(c, "the end of a string");
    const char *to = c->p++;
    if (high && !utf8_valid(from, (size_t)(to - from))) return bad(c, "valid UTF-8");
    *out = (span){ from, (size_t)(to - from) };
    if (!escaped) return ST_OK;
    TRY(unescape(c, from, to, scratch));
    *out = (span){ buf_cstr(scratch), scratch->len };
    return ST_OK;
}

static status expect(cur *c, char ch)
{
    space(c);
    char what[] = { '\'', ch, '\'', 0 };
    if (c->p >= c->end || *c->p != ch) return bad(c, what);
    c->p++;
    return ST_OK;
}

/* Between elements: true at the closing bracket, which is consumed; else past the comma. */
static status more(cur *c, char close, bool *first, bool *done)
{
    space(c);
    *done = c->p < c->end && *c->p == close;
    if (*done) {
        c->p++;
        return ST_OK;
    }
    if (!*first) TRY(expect(c, ','));
    *first = false;
    return ST_OK;
}

static status integer(cur *c, int64_t *out)
{
    space(c);
    const char *from = c->p;
    int64_t v = 0;
    while (c->p < c->end && *c->p >= '0' && *c->p <= '9' && c->p - from < 18) v = v * 10 + (*c->p++ - '0');
    if (c->p == from || (c->p < c->end && *c->p != ',' && *c->p != '}' && *c->p > ' ')) return bad(c, "a token id");
    *out = v;
    return ST_OK;
}

static status number(cur *c, double *out)
{
    space(c);
    if (c->p >= c->end || !(*c->p == '-' || (*c->p >= '0' && *c->p <= '9'))) return bad(c, "a number");
    char *end;
    *out = strtod(c->p, &end); /* the text goes on with a bracket and ends in a NUL */
    if (end == c->p || end > c->end) return bad(c, "a number");
    c->p = end;
    return ST_OK;
}

typedef status (*vocab_fn)(void *arg, const char *s, size_t n, int64_t id, double score);

static status vocab_object(cur *c, vocab_fn fn, void *arg)
{
    for (bool first = true, done;;) {
        span s;
        int64_t id = 0;
        TRY(more(c, '}', &first, &done));
        if (done) return ST_OK;
        TRY(string(c, &c->a, &s));
        TRY(expect(c, ':'));
        TRY(integer(c, &id));
        TRY(fn(arg, s.s, s.n, id, 0));
    }
}

static status vocab_list(cur *c, vocab_fn fn, void *arg)
{
    int64_t id = 0;
    for (bool first = true, done;; id++) {
        span s;
        double score = 0;
        TRY(more(c, ']', &first, &done));
        if (done) return ST_OK;
        TRY(expect(c, '['));
        TRY(string(c, &c->a, &s));
        TRY(expect(c, ','));
        TRY(number(c, &score));
        TRY(expect(c, ']'));
        TRY(fn(arg, s.s, s.n, id, score));
    }
}

status source_vocab(const char *p, const char *end, vocab_fn fn, void *arg)
{
    cur c = { .start = p, .p = p + 1, .end = end };
    status st = *p == '{' ? vocab_object(&c, fn, arg) : vocab_list(&c, fn, arg);
    buf_free(&c.a);
    return st;
}

typedef status (*merge_fn)(void *arg, const char *a, size_t na, const char *b, size_t nb);

static status merge_list(cur *c, merge_fn fn, void *arg)
{
    for (bool first = true, done;;) {
        span a, b;
        TRY(more(c, ']', &first, &done));
        if (done) return ST_OK;
        space(c);
        if (c->p < c->end && *c->p == '"') {
            TRY(string(c, &c->a, &a));
            TRY(fn(arg, a.s, a.n, NULL, 0));
            continue;
        }
        TRY(expect(c, '['));
        TRY(string(c, &c->a, &a));
        TRY(expect(c, ','));
        TRY(string(c, &c->b, &b));
        TRY(expect(c, ']'));
        TRY(fn(arg, a.s, a.n, b.s, b.n));
    }
}

status source_merges(const char *p, const char *end, merge_fn fn, void *arg)
{
    cur c = { .start = p, .p = p + 1, .end = end };
    status st = merge_list(&c, fn, arg);
    buf_free(&c.a);
    buf_free(&c.b);
    return st;
}
