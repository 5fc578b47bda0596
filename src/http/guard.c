#include "http/guard.h"

#include <string.h>
#include <strings.h>

#include "base/mem.h"

enum { MAX_METHOD = 32, MAX_TARGET = 64 << 10, MAX_QUERY = 1000, MAX_CHUNK_LINE = 256, MAX_TRAILERS = 8 << 10 };

/* RFC 9110 token characters. */
static bool is_tchar(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_vchar(unsigned char c) { return c == '\t' || (c >= 0x20 && c != 0x7f); }

bool guard_is_token(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!is_tchar((unsigned char)s[i])) return false;
    return n > 0;
}

bool guard_is_value(const char *s)
{
    for (; *s; s++)
        if (!is_vchar((unsigned char)*s)) return false;
    return true;
}

static status bad(int *code, int as, const char *why)
{
    *code = as;
    return err_set(ST_INVALID, "%s", why);
}

head_scan guard_scan(const char *s, size_t n, size_t *pos)
{
    if (n && !is_tchar((unsigned char)s[0])) {
        (void)err_set(ST_INVALID, "the request does not begin with a method");
        return HEAD_BAD;
    }
    for (size_t i = *pos; i < n;) {
        const char *lf = memchr(s + i, '\n', n - i);
        size_t end = lf ? (size_t)(lf - s) : n;
        if (memchr(s + i, 0, end - i)) {
            (void)err_set(ST_INVALID, "the request's head holds a NUL byte");
            return HEAD_BAD;
        }
        if (!lf) {
            *pos = n;
            break;
        }
        if (end == 0 || s[end - 1] != '\r') {
            (void)err_set(ST_INVALID, "a line of the request's head ends with LF alone; expected CR LF");
            return HEAD_BAD;
        }
        *pos = i = end + 1;
        if (end >= 3 && s[end - 2] == '\n') return HEAD_DONE; /* ..LF CR LF */
    }
    return HEAD_MORE;
}

/* ---- the request line ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Decodes %XX (and '+' in a query) in place; a '%' without two digits stays, as Python's unquote has it. A decoded NUL
 * would end the string early: false. */
static bool decode(char *s, bool plus)
{
    char *d = s;
    for (; *s; s++) {
        int hi = *s == '%' ? hex_digit(s[1]) : -1, lo = hi >= 0 ? hex_digit(s[2]) : -1;
        if (lo >= 0) {
            *d = (char)(hi << 4 | lo);
            if (!*d++) return false;
            s += 2;
        } else {
            *d++ = plus && *s == '+' ? ' ' : *s;
        }
    }
    *d = 0;
    return true;
}

static status parse_query(char *q, http_head *h, int *code)
{
    int n = 1;
    for (const char *p = q; *p; p++) n += *p == '&';
    if (n > MAX_QUERY) return bad(code, 414, "the query has too many parameters");
    h->query = mem_array((size_t)n, sizeof *h->query);
    if (!h->query) return err_nomem();
    for (char *next; q; q = next) {
        next = strchr(q, '&');
        if (next) *next++ = 0;
        if (!*q) continue;
        char *eq = strchr(q, '=');
        if (eq) *eq++ = 0;
        else eq = q + strlen(q);
        if (!decode(q, true) || !decode(eq, true)) return bad(code, 400, "the query holds an encoded NUL");
        h->query[h->n_query++] = (http_field){ q, eq };
    }
    return ST_OK;
}

/* t: the target, NUL-terminated, visible ASCII; path: room for a copy of it. */
static status parse_target(const char *t, char *path, http_head *h, int *code)
{
    h->target = t;
    bool star = strcmp(t, "*") == 0;
    if (!star && t[0] != '/') { /* absolute form, as proxies send it */
        size_t skip = strncasecmp(t, "http://", 7) == 0 ? 7 : strncasecmp(t, "https://", 8) == 0 ? 8 : 0;
        if (!skip) return bad(code, 400, "the request target must begin with '/'");
        h->target = t + skip + strcspn(t + skip, "/");
        if (!*h->target) h->target = "/";
    }
    if (strchr(h->target, '#')) return bad(code, 400, "the request target holds a fragment");
    if (star && strcmp(h->method, "OPTIONS") != 0) return bad(code, 400, "the request target '*' is for OPTIONS only");
    memcpy(path, h->target, strlen(h->target) + 1);
    h->path = path;
    char *q = strchr(path, '?');
    if (q) *q++ = 0;
    if (!decode(path, false)) return bad(code, 400, "the path holds an encoded NUL");
    return q ? parse_query(q, h, code) : ST_OK;
}

static status parse_request_line(char *line, char *path, http_head *h, int *code)
{
    char *sp = strchr(line, ' '), *sp2 = sp ? strchr(sp + 1, ' ') : NULL;
    if (!sp2 || strchr(sp2 + 1, ' ')) return bad(code, 400, "the request line must be 'METHOD target HTTP/1.1'");
    *sp = *sp2 = 0;
    const char *version = sp2 + 1;
    h->method = line;
    if (!guard_is_token(line, (size_t)(sp - line))) return bad(code, 400, "the method holds a character that is not allowed");
    if (sp - line > MAX_METHOD) return bad(code, 501, "the method is too long");
    if (strncmp(version, "HTTP/", 5) != 0 || strlen(version) != 8 || version[6] != '.') return bad(code, 400, "the request line must end with HTTP/1.1");
    if (version[5] != '1' || (version[7] != '0' && version[7] != '1')) return bad(code, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    h->minor = version[7] - '0';
    for (const char *p = sp + 1; *p; p++)
        if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f) return bad(code, 400, "the request target holds a character that must be percent-encoded");
    if (sp2 == sp + 1) return bad(code, 400, "the request target is empty");
    if (sp2 - sp > MAX_TARGET) return bad(code, 414, "the request target is too long");
    if (strcmp(line, "CONNECT") == 0) return bad(code, 501, "CONNECT is not supported: this is not a proxy");
    return parse_target(sp + 1, path, h, code);
}

/* ---- header lines ---- */

static status parse_field(char *line, http_field *f, int *code)
{
    if (*line == ' ' || *line == '\t') return bad(code, 400, "a header line is folded or begins with a blank");
    char *colon = strchr(line, ':');
    if (!colon) return bad(code, 400, "a header line has no colon");
    if (!guard_is_token(line, (size_t)(colon - line))) return bad(code, 400, "a header name is empty or holds a character that is not allowed");
    *colon = 0;
    char *v = colon + 1 + strspn(colon + 1, " \t"), *end = v + strlen(v);
    while (end > v && (end[-1] == ' ' || end[-1] == '\t')) end--;
    *end = 0;
    if (!guard_is_value(v)) return bad(code, 400, "a header value holds a control character");
    *f = (http_field){ line, v };
    return ST_OK;
}

/* True if the comma-separated list holds the word. */
static bool list_has(const char *list, const char *word)
{
    size_t len = strlen(word);
    for (const char *p = list; *p;) {
        p += strspn(p, " \t,");
        size_t n = strcspn(p, ","), t = n;
        while (t && (p[t - 1] == ' ' || p[t - 1] == '\t')) t--;
        if (t == len && strncasecmp(p, word, len) == 0) return true;
        p += n;
    }
    return false;
}

static bool is_host(const char *s)
{
    for (; *s; s++)
        if (!((*s >= '0' && *s <= '9') || (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || strchr("-._~%!$&'()*+;=:[]", *s))) return false;
    return true;
}

static status parse_length(const char *v, http_head *h, const guard_limits *lim, int *code)
{
    size_t n = strlen(v);
    if (n == 0 || strspn(v, "0123456789") != n) return bad(code, 400, "Content-Length must be decimal digits only");
    uint64_t x = 0;
    for (size_t i = 0; i < n; i++) {
        if (x > (UINT64_MAX - 9) / 10) return bad(code, 413, "the request body is too large");
        x = x * 10 + (uint64_t)(v[i] - '0');
    }
    if (x > lim->max_body_bytes) {
        *code = 413;
        return err_set(ST_LIMIT, "the request body has %llu bytes; at most %zu are allowed", (unsigned long long)x, lim->max_body_bytes);
    }
    h->content_length = x;
    return ST_OK;
}

/* What the headers say about framing and connection. */
static status interpret(http_head *h, const guard_limits *lim, int *code)
{
    int hosts = 0, lengths = 0, encodings = 0;
    const char *length = NULL;
    h->keep_alive = h->minor >= 1;
    for (int i = 0; i < h->n_fields; i++) {
        const char *name = h->fields[i].name, *v = h->fields[i].value;
        if (strcasecmp(name, "Host") == 0) {
            if (hosts++) return bad(code, 400, "two Host headers");
            if (!is_host(v)) return bad(code, 400, "the Host header holds a character that is not allowed");
        } else if (strcasecmp(name, "Content-Length") == 0) {
            if (lengths++) return bad(code, 400, "two Content-Length headers");
            length = v;
        } else if (strcasecmp(name, "Transfer-Encoding") == 0) {
            if (encodings++) return bad(code, 400, "two Transfer-Encoding headers");
            if (strcasecmp(v, "chunked") != 0) return bad(code, 501, "the only Transfer-Encoding understood is 'chunked'");
            h->chunked = true;
        } else if (strcasecmp(name, "Connection") == 0) {
            if (list_has(v, "close")) h->keep_alive = false;
            else if (h->minor == 0 && list_has(v, "keep-alive")) h->keep_alive = true;
        } else if (strcasecmp(name, "Expect") == 0) {
            if (strcasecmp(v, "100-continue") != 0) return bad(code, 417, "the only expectation understood is '100-continue'");
            h->expect_continue = h->minor >= 1;
        }
    }
    if (h->minor >= 1 && hosts == 0) return bad(code, 400, "a Host header is required");
    if (h->chunked && lengths) return bad(code, 400, "both Content-Length and Transfer-Encoding");
    if (h->chunked && h->minor == 0) return bad(code, 400, "Transfer-Encoding in an HTTP/1.0 request");
    return length ? parse_length(length, h, lim, code) : ST_OK;
}

/* ---- the whole head ---- */

/* Cuts text at CR LF in place and parses the lines; the last two line ends are the blank line. */
static status parse_lines(char *text, size_t n, http_head *h, const guard_limits *lim, int *code)
{
    int lines = 0;
    for (const char *p = text; (p = memchr(p, '\n', (size_t)(text + n - p))); p++) lines++;
    if (lines - 2 > lim->max_headers) {
        *code = 431;
        return err_set(ST_LIMIT, "the request has %d headers; at most %d are allowed", lines - 2, lim->max_headers);
    }
    h->fields = mem_array((size_t)lines, sizeof *h->fields);
    if (!h->fields) return err_nomem();
    char *line = text, *path = text + n + 1;
    for (int i = 0; i < lines - 1; i++) {
        char *cr = strchr(line, '\r');
        if (!cr || cr[1] != '\n') return bad(code, 400, "a line of the request's head holds a CR; expected CR LF");
        *cr = 0;
        if (i == 0) TRY(parse_request_line(line, path, h, code));
        else TRY(parse_field(line, &h->fields[h->n_fields++], code));
        line = cr + 2;
    }
    return interpret(h, lim, code);
}

status guard_parse(const char *s, size_t n, const guard_limits *lim, http_head *out, int *code)
{
    http_head h = {0};
    *code = 400;
    if (n > lim->max_head_bytes) {
        *code = 431;
        return err_set(ST_LIMIT, "the request's head has more than %zu bytes", lim->max_head_bytes);
    }
    size_t pos = 0;
    head_scan sc = guard_scan(s, n, &pos);
    if (sc == HEAD_BAD) return ST_INVALID;
    if (sc != HEAD_DONE || pos != n) return bad(code, 400, "the request's head does not end with a blank line");
    const char *eol = memchr(s, '\n', n);
    size_t line_bytes = (size_t)(eol - s) + 1;
    h.text = mem_alloc(n + 1 + line_bytes + 1); /* and room for the decoded path and query */
    if (!h.text) {
        *code = 503;
        return err_nomem();
    }
    memcpy(h.text, s, n);
    h.text[n] = 0;
    status st = parse_lines(h.text, n, &h, lim, code);
    if (st != ST_OK) {
        if (st == ST_NOMEM) *code = 503;
        guard_free(&h);
        return st;
    }
    *out = h;
    return ST_OK;
}

void guard_free(http_head *h)
{
    mem_free(h->text);
    mem_free(h->fields);
    mem_free(h->query);
    *h = (http_head){0};
}

const char *guard_field(const http_head *h, const char *name)
{
    for (int i = 0; i < h->n_fields; i++)
        if (strcasecmp(h->fields[i].name, name) == 0) return h->fields[i].value;
    return NULL;
}

/* ---- chunked bodies ---- */

enum { CK_SIZE, CK_EXT, CK_SIZE_LF, CK_DATA, CK_DATA_CR, CK_DATA_LF, CK_TRAILER, CK_TRAILER_LINE, CK_TRAILER_LF, CK_END_LF };

/* One byte of framing. */
static status chunk_byte(chunk_reader *c, unsigned char b, int *code)
{
    int d;
    if (c->state != CK_DATA_CR && c->state != CK_DATA_LF && ++c->line_bytes > (c->state < CK_DATA ? MAX_CHUNK_LINE : MAX_TRAILERS))
        return bad(code, c->state < CK_DATA ? 400 : 431, "a chunk's size line or the trailers are too long");
    switch (c->state) {
    case CK_SIZE:
        d = hex_digit((char)b);
        if (d >= 0) {
            if (++c->digits > 15) return bad(code, 413, "the request body is too large");
            c->left = c->left << 4 | (uint64_t)d;
            return ST_OK;
        }
        if (!c->digits) return bad(code, 400, "a chunk has no size");
        if (b != '\r' && b != ';' && b != ' ' && b != '\t') return bad(code, 400, "a chunk's size must be hexadecimal digits");
        c->state = b == '\r' ? CK_SIZE_LF : CK_EXT;
        return ST_OK;
    case CK_EXT:
        if (b == '\r') c->state = CK_SIZE_LF;
        else if (!is_vchar(b)) return bad(code, 400, "a chunk extension holds a control character");
        return ST_OK;
    case CK_SIZE_LF:
        c->state = c->left ? CK_DATA : CK_TRAILER;
        c->line_bytes = c->digits = 0;
        break;
    case CK_DATA_CR:
        if (b != '\r') return bad(code, 400, "a chunk is longer than its size");
        c->state = CK_DATA_LF;
        return ST_OK;
    case CK_DATA_LF: c->state = CK_SIZE; break;
    case CK_TRAILER: /* at the start of a line */
    case CK_TRAILER_LINE:
        if (b == '\r') c->state = c->state == CK_TRAILER ? CK_END_LF : CK_TRAILER_LF;
        else if (!is_vchar(b)) return bad(code, 400, "a trailer holds a control character");
        else c->state = CK_TRAILER_LINE;
        return ST_OK;
    case CK_TRAILER_LF: c->state = CK_TRAILER; break;
    default: c->done = true; break;
    }
    return b == '\n' ? ST_OK : bad(code, 400, "a line of a chunked body ends with CR alone; expected CR LF");
}

status chunk_feed(chunk_reader *c, const char *s, size_t n, size_t max_body, buf *body, size_t *used, int *code)
{
    size_t i = 0;
    *code = 400;
    while (i < n && !c->done) {
        if (c->state != CK_DATA) {
            TRY(chunk_byte(c, (unsigned char)s[i++], code));
            /* checked as soon as the size is known, before any of its bytes is taken */
            if (c->state == CK_DATA && c->left > max_body - body->len) {
                *code = 413;
                return err_set(ST_LIMIT, "the request body has more than %zu bytes", max_body);
            }
            continue;
        }
        size_t take = c->left < n - i ? (size_t)c->left : n - i;
        buf_append(body, s + i, take);
        if (body->failed) {
            *code = 503;
            return err_nomem();
        }
        c->left -= take;
        i += take;
        if (c->left == 0) c->state = CK_DATA_CR;
    }
    *used = i;
    return ST_OK;
}
