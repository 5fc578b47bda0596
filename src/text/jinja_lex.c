/* The lexer: jinja2's rules with trim_blocks and lstrip_blocks on, line statements and line comments off. */
#include <errno.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_ast.h"
#include "text/unicode.h"

typedef struct lexer {
    arena *mem;
    const char *s;       /* newlines are \n, one trailing newline is gone */
    size_t n, pos;
    int line;
    bool line_starting;  /* the last match ended with a newline */
    jtoken *tok;
    size_t n_tok, cap_tok;
    char *balance;       /* closing brackets waited for */
    size_t n_balance, cap_balance;
    bool stop;           /* an error token has been emitted */
} lexer;

static status grow(arena *a, void *pp, size_t n, size_t *cap, size_t size)
{
    if (n < *cap) return ST_OK;
    size_t c = *cap ? *cap * 2 : 64;
    void *q = arena_calloc(a, c, size);
    if (!q) return err_nomem();
    if (n) memcpy(q, *(void **)pp, n * size);
    *(void **)pp = q;
    *cap = c;
    return ST_OK;
}

static status emit(lexer *x, jtoken_kind k, int line, jval v)
{
    TRY(grow(x->mem, &x->tok, x->n_tok, &x->cap_tok, sizeof *x->tok));
    x->tok[x->n_tok++] = (jtoken){ k, line, v };
    return ST_OK;
}

static status make_str(arena *a, const char *s, size_t n, jval *out)
{
    jstr *o = arena_calloc(a, 1, sizeof *o);
    if (!o) return err_nomem();
    o->data = s;
    o->len = n;
    o->ascii = true;
    for (size_t i = 0; i < n && o->ascii; i++) o->ascii = (unsigned char)s[i] < 0x80;
    *out = jj_s(o);
    return ST_OK;
}

/* Errors are tokens, because an earlier mistake of grammar must win over a later mistake of spelling. */
static status lex_error(lexer *x, const char *msg)
{
    char *m = arena_strdup(x->mem, msg);
    if (!m) return err_nomem();
    jval v;
    TRY(make_str(x->mem, m, strlen(m), &v));
    x->stop = true;
    return emit(x, T_ERROR, x->line, v);
}

static uint32_t peek_cp(const char *s, size_t n, size_t *len)
{
    uint32_t cp = 0;
    *len = n ? utf8_decode(s, n, &cp) : 0;
    return n ? cp : 0;
}

static size_t skip_space(const lexer *x, size_t p)
{
    while (p < x->n) {
        size_t k;
        uint32_t cp = peek_cp(x->s + p, x->n - p, &k);
        if (!unicode_is_space(cp)) break;
        p += k;
    }
    return p;
}

static bool at(const lexer *x, size_t p, const char *lit)
{
    size_t k = strlen(lit);
    return p <= x->n && x->n - p >= k && memcmp(x->s + p, lit, k) == 0;
}

static int count_lines(const char *s, size_t n)
{
    int k = 0;
    for (size_t i = 0; i < n; i++) k += s[i] == '\n';
    return k;
}

/* Moves on, keeping the line number and line_starting. */
static void advance_to(lexer *x, size_t p)
{
    x->line += count_lines(x->s + x->pos, p - x->pos);
    if (p > x->pos) x->line_starting = x->s[p - 1] == '\n';
    x->pos = p;
}

/* The end of data text [from, to) before a tag with this sign, after lstrip_blocks or `-` have had their way. */
static size_t strip_data(const lexer *x, size_t from, size_t to, char sign, bool is_variable)
{
    if (sign == '-') {
        size_t end = to;
        while (end > from) {
            size_t p = end - 1, k;
            while (p > from && ((unsigned char)x->s[p] & 0xC0) == 0x80) p--;
            if (!unicode_is_space(peek_cp(x->s + p, end - p, &k))) break;
            end = p;
        }
        return end;
    }
    if (sign == '+' || is_variable) return to;
    size_t l = to;
    while (l > from && x->s[l - 1] != '\n') l--;
    if (l == from && !x->line_starting) return to;
    size_t p = l;
    while (p < to) {
        size_t k;
        if (!unicode_is_space(peek_cp(x->s + p, to - p, &k))) return to;
        p += k;
    }
    return l;
}

static status emit_data(lexer *x, size_t from, size_t to)
{
    if (from == to) return ST_OK;
    jval v;
    TRY(make_str(x->mem, x->s + from, to - from, &v));
    return emit(x, T_DATA, x->line, v);
}

/* `{%- raw -%}` at p: where it ends, and its sign; 0 if it is not one. */
static size_t raw_begin(const lexer *x, size_t p, char *sign)
{
    p += 2;
    *sign = 0;
    if (p < x->n && (x->s[p] == '-' || x->s[p] == '+')) *sign = x->s[p++];
    p = skip_space(x, p);
    if (!at(x, p, "raw")) return 0;
    p = skip_space(x, p + 3);
    if (at(x, p, "-%}")) return skip_space(x, p + 3);
    return at(x, p, "%}") ? p + 2 : 0;
}

/* The end of a block tag at p: `+%}`, `-%}` and what follows it, `%}` and one newline. 0 if there is none. */
static size_t block_end(const lexer *x, size_t p, const char *close)
{
    char with[4] = { 0, close[0], close[1], 0 };
    with[0] = '+';
    if (at(x, p, with)) return p + 3;
    with[0] = '-';
    if (at(x, p, with)) return skip_space(x, p + 3);
    if (!at(x, p, close)) return 0;
    return p + 2 < x->n && x->s[p + 2] == '\n' ? p + 3 : p + 2;
}

static status lex_raw(lexer *x)
{
    for (size_t p = x->pos; p < x->n; p++) {
        if (x->s[p] != '{' || !at(x, p, "{%")) continue;
        size_t q = p + 2;
        char sign = 0;
        if (q < x->n && (x->s[q] == '-' || x->s[q] == '+')) sign = x->s[q++];
        q = skip_space(x, q);
        if (!at(x, q, "endraw")) continue;
        q = block_end(x, skip_space(x, q + 6), "%}");
        if (!q) continue;
        TRY(emit_data(x, x->pos, strip_data(x, x->pos, p, sign, false)));
        advance_to(x, q);
        return ST_OK;
    }
    return lex_error(x, x->pos < x->n ? "Missing end of raw directive" : "");
}

static status lex_comment(lexer *x)
{
    for (size_t p = x->pos; p < x->n; p++) {
        size_t q = x->s[p] == '#' || x->s[p] == '-' || x->s[p] == '+' ? block_end(x, p, "#}") : 0;
        if (!q) continue;
        advance_to(x, q);
        return ST_OK;
    }
    return lex_error(x, "Missing end of comment tag");
}

static size_t digits(const lexer *x, size_t p, const char *set)
{
    /* (_?[set])* */
    for (;;) {
        size_t q = p;
        if (q < x->n && x->s[q] == '_') q++;
        if (q >= x->n || !strchr(set, x->s[q]) || !x->s[q]) return p;
        p = q + 1;
    }
}

#define DEC "0123456789"

static bool is_dec(const lexer *x, size_t p) { return p < x->n && x->s[p] >= '0' && x->s[p] <= '9'; }

/* The end of a float literal at p, 0 if there is none. */
static size_t float_end(const lexer *x, size_t p)
{
    if (p > 0 && x->s[p - 1] == '.') return 0;
    if (!is_dec(x, p)) return 0;
    size_t q = digits(x, p + 1, DEC), frac = 0;
    if (q < x->n && x->s[q] == '.' && is_dec(x, q + 1)) frac = digits(x, q + 2, DEC);
    size_t e = frac ? frac : q;
    if (e < x->n && (x->s[e] | 32) == 'e') {
        size_t d = e + 1;
        if (d < x->n && (x->s[d] == '+' || x->s[d] == '-')) d++;
        if (is_dec(x, d)) return digits(x, d + 1, DEC);
    }
    return frac;
}

static size_t int_end(const lexer *x, size_t p)
{
    if (!is_dec(x, p)) return 0;
    if (x->s[p] == '0') {
        char c = p + 1 < x->n ? (char)(x->s[p + 1] | 32) : 0;
        const char *set = c == 'b' ? "01" : c == 'o' ? "01234567" : c == 'x' ? "0123456789abcdefABCDEF" : NULL;
        size_t q = set ? digits(x, p + 2, set) : 0;
        if (set && q > p + 2) return q;
        return digits(x, p + 1, "0");
    }
    return digits(x, p + 1, DEC);
}

static status lex_number(lexer *x, size_t end, bool is_float)
{
    char *t = arena_alloc(x->mem, end - x->pos + 1);
    if (!t) return err_nomem();
    size_t k = 0;
    for (size_t i = x->pos; i < end; i++)
        if (x->s[i] != '_') t[k++] = x->s[i];
    t[k] = 0;
    if (is_float) {
        TRY(emit(x, T_FLOAT, x->line, jj_float(strtod(t, NULL))));
    } else {
        int base = k > 2 && t[0] == '0' ? (t[1] | 32) == 'x' ? 16 : (t[1] | 32) == 'o' ? 8 : (t[1] | 32) == 'b' ? 2 : 10 : 10;
        errno = 0;
        long long v = strtoll(base == 10 ? t : t + 2, NULL, base);
        jval val = jj_int(v);
        if (errno && base != 10) return lex_error(x, "an integer beyond 64 bits is not supported");
        if (errno) {
            TRY(make_str(x->mem, t, k, &val));
            val.kind = JK_BIG;
        }
        TRY(emit(x, T_INT, x->line, val));
    }
    advance_to(x, end);
    return ST_OK;
}

typedef struct unescaper { buf b; const char *err; } unescaper;

static int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; }

/* \xhh, \uhhhh, \Uhhhhhhhh: returns the digits read. */
static size_t unescape_hex(unescaper *u, const char *s, size_t n, size_t want, const char *err)
{
    uint32_t cp = 0;
    size_t k = 0;
    while (k < want && k < n && hex_digit(s[k]) >= 0) cp = cp << 4 | (uint32_t)hex_digit(s[k++]);
    if (k < want) u->err = err;
    else if (cp > 0x10FFFF) u->err = "illegal Unicode character";
    else buf_utf8(&u->b, cp);
    return k;
}

/* After a backslash; returns the bytes consumed. */
static size_t unescape_one(unescaper *u, const char *s, size_t n)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    if (n == 0) {
        u->err = "\\ at end of string";
        return 0;
    }
    const char *f = *s ? strchr(from, *s) : NULL;
    if (f) {
        buf_char(&u->b, to[f - from]);
        return 1;
    }
    if (*s == '\n') return 1;
    if (*s >= '0' && *s <= '7') {
        uint32_t v = 0;
        size_t k = 0;
        while (k < 3 && k < n && s[k] >= '0' && s[k] <= '7') v = v * 8 + (uint32_t)(s[k++] - '0');
        buf_utf8(&u->b, v);
        return k;
    }
    if (*s == 'x') return 1 + unescape_hex(u, s + 1, n - 1, 2, "truncated \\xXX escape");
    if (*s == 'u') return 1 + unescape_hex(u, s + 1, n - 1, 4, "truncated \\uXXXX escape");
    if (*s == 'U') return 1 + unescape_hex(u, s + 1, n - 1, 8, "truncated \\UXXXXXXXX escape");
    if (*s == 'N') {
        u->err = n > 1 && s[1] == '{' ? "unknown Unicode character name" : "malformed \\N character escape";
        return 1;
    }
    buf_char(&u->b, '\\');
    if ((unsigned char)*s < 0x80) {
        buf_char(&u->b, *s);
        return 1;
    }
    /* jinja2 turns other characters into escapes of their own first, so their backslash is taken for this one. */
    uint32_t cp;
    size_t k = utf8_decode(s, n, &cp);
    buf_printf(&u->b, cp < 0x100 ? "x%02x" : cp < 0x10000 ? "u%04x" : "U%08x", (unsigned)cp);
    return k;
}

static status lex_string(lexer *x, size_t end)
{
    unescaper u = { { 0 }, NULL };
    const char *s = x->s + x->pos + 1;
    size_t n = end - x->pos - 2;
    for (size_t i = 0; i < n && !u.err;) {
        const char *bs = memchr(s + i, '\\', n - i);
        size_t plain = bs ? (size_t)(bs - (s + i)) : n - i;
        buf_append(&u.b, s + i, plain);
        i += plain;
        if (bs) i += 1 + unescape_one(&u, s + i + 1, n - i - 1);
    }
    status st = buf_status(&u.b);
    if (st == ST_OK && u.err) {
        st = lex_error(x, u.err);
    } else if (st == ST_OK) {
        char *d = arena_strndup(x->mem, buf_cstr(&u.b), u.b.len);
        jval v = jj_none();
        st = d ? make_str(x->mem, d, u.b.len, &v) : err_nomem();
        if (st == ST_OK) st = emit(x, T_STRING, x->line, v);
        if (st == ST_OK) advance_to(x, end);
    }
    buf_free(&u.b);
    return st;
}

static size_t string_end(const lexer *x, size_t p)
{
    char q = x->s[p++];
    while (p < x->n && x->s[p] != q) {
        if (x->s[p] == '\\') p++;
        p++;
    }
    return p < x->n ? p + 1 : 0;
}

static size_t name_end(const lexer *x, size_t p)
{
    while (p < x->n) {
        size_t k;
        uint32_t cp = peek_cp(x->s + p, x->n - p, &k);
        bool ok = cp < 0x80 ? cp == '_' || unicode_is_alpha(cp) || unicode_is_decimal(cp)
                            : cp != UTF8_BAD && (unicode_is_alpha(cp) || unicode_is_numeric(cp) || unicode_is_mark(cp));
        if (!ok) break;
        p += k;
    }
    return p;
}

static status lex_name(lexer *x, size_t end)
{
    size_t k;
    uint32_t first = peek_cp(x->s + x->pos, end - x->pos, &k);
    if (first != '_' && !unicode_is_alpha(first)) return lex_error(x, "Invalid character in identifier");
    jval v;
    TRY(make_str(x->mem, x->s + x->pos, end - x->pos, &v));
    TRY(emit(x, T_NAME, x->line, v));
    advance_to(x, end);
    return ST_OK;
}

static const struct { const char *text; jtoken_kind kind; } operators[] = {
    { "//", T_FLOORDIV }, { "**", T_POW }, { "==", T_EQ }, { "!=", T_NE }, { ">=", T_GE }, { "<=", T_LE }, { "+", T_ADD },
    { "-", T_SUB }, { "/", T_DIV }, { "*", T_MUL }, { "%", T_MOD }, { "~", T_TILDE }, { "[", T_LBRACKET }, { "]", T_RBRACKET },
    { "(", T_LPAREN }, { ")", T_RPAREN }, { "{", T_LBRACE }, { "}", T_RBRACE }, { ">", T_GT }, { "<", T_LT }, { "=", T_ASSIGN },
    { ".", T_DOT }, { ":", T_COLON }, { "|", T_PIPE }, { ",", T_COMMA }, { ";", T_SEMICOLON },
};

const char *jj_token_name(jtoken_kind k)
{
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
        if (operators[i].kind == k) return operators[i].text;
    switch (k) {
    case T_EOF: return "end of template";
    case T_DATA: return "template data / text";
    case T_VAR_BEGIN: return "begin of print statement";
    case T_VAR_END: return "end of print statement";
    case T_BLOCK_BEGIN: return "begin of statement block";
    case T_BLOCK_END: return "end of statement block";
    case T_NAME: return "name";
    case T_STRING: return "string";
    case T_INT: return "integer";
    case T_FLOAT: return "float";
    default: return "?";
    }
}

static status check_balance(lexer *x, char c)
{
    char msg[64];
    if (c == '{' || c == '(' || c == '[') {
        TRY(grow(x->mem, &x->balance, x->n_balance, &x->cap_balance, 1));
        x->balance[x->n_balance++] = c == '{' ? '}' : c == '(' ? ')' : ']';
        return ST_OK;
    }
    if (c != '}' && c != ')' && c != ']') return ST_OK;
    if (x->n_balance == 0) {
        snprintf(msg, sizeof msg, "unexpected '%c'", c);
        return lex_error(x, msg);
    }
    char want = x->balance[--x->n_balance];
    if (want == c) return ST_OK;
    snprintf(msg, sizeof msg, "unexpected '%c', expected '%c'", c, want);
    return lex_error(x, msg);
}

static status lex_operator(lexer *x)
{
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        if (!at(x, x->pos, operators[i].text)) continue;
        if (!operators[i].text[1]) TRY(check_balance(x, operators[i].text[0]));
        if (x->stop) return ST_OK;
        TRY(emit(x, operators[i].kind, x->line, jj_none()));
        advance_to(x, x->pos + strlen(operators[i].text));
        return ST_OK;
    }
    char msg[96];
    size_t k;
    uint32_t cp = peek_cp(x->s + x->pos, x->n - x->pos, &k);
    size_t where = utf8_count(x->s, x->pos);
    if (cp == '\'') snprintf(msg, sizeof msg, "unexpected char \"'\" at %zu", where);
    else if (cp == '\\') snprintf(msg, sizeof msg, "unexpected char '\\\\' at %zu", where);
    else if (cp < 0x80 && !unicode_is_printable(cp)) snprintf(msg, sizeof msg, "unexpected char '\\x%02x' at %zu", (unsigned)cp, where);
    else snprintf(msg, sizeof msg, "unexpected char '%.*s' at %zu", (int)k, x->s + x->pos, where);
    return lex_error(x, msg);
}

/* Inside {{ }} or {% %}. */
static status lex_tag(lexer *x, bool block)
{
    while (!x->stop) {
        if (x->n_balance == 0) {
            size_t end = 0;
            if (block) end = block_end(x, x->pos, "%}");
            else if (at(x, x->pos, "-}}")) end = skip_space(x, x->pos + 3);
            else if (at(x, x->pos, "}}")) end = x->pos + 2;
            if (end) {
                TRY(emit(x, block ? T_BLOCK_END : T_VAR_END, x->line, jj_none()));
                advance_to(x, end);
                return ST_OK;
            }
        }
        size_t p = skip_space(x, x->pos);
        if (p > x->pos) {
            advance_to(x, p);
            continue;
        }
        if (p >= x->n) return ST_OK; /* the parser finds the end of the template */
        if ((p = float_end(x, x->pos)) != 0) TRY(lex_number(x, p, true));
        else if ((p = int_end(x, x->pos)) != 0) TRY(lex_number(x, p, false));
        else if ((p = name_end(x, x->pos)) > x->pos) TRY(lex_name(x, p));
        else if ((x->s[x->pos] == '"' || x->s[x->pos] == '\'') && (p = string_end(x, x->pos)) != 0) TRY(lex_string(x, p));
        else TRY(lex_operator(x));
    }
    return ST_OK;
}

/* Text up to the next tag, and the tag. */
static status lex_root(lexer *x)
{
    size_t p = x->pos;
    while (p + 1 < x->n && !(x->s[p] == '{' && (x->s[p + 1] == '%' || x->s[p + 1] == '{' || x->s[p + 1] == '#'))) p++;
    if (p + 1 >= x->n) {
        TRY(emit_data(x, x->pos, x->n));
        advance_to(x, x->n);
        return ST_OK;
    }
    char what = x->s[p + 1], sign = 0;
    size_t raw = what == '%' ? raw_begin(x, p, &sign) : 0, q = p + 2;
    if (!raw) {
        sign = 0;
        if (q < x->n && (x->s[q] == '-' || x->s[q] == '+')) sign = x->s[q++];
    }
    TRY(emit_data(x, x->pos, strip_data(x, x->pos, p, sign, what == '{')));
    advance_to(x, p);
    if (raw) {
        advance_to(x, raw);
        return lex_raw(x);
    }
    int line = x->line;
    advance_to(x, q);
    if (what == '#') return lex_comment(x);
    TRY(emit(x, what == '%' ? T_BLOCK_BEGIN : T_VAR_BEGIN, line, jj_none()));
    return lex_tag(x, what == '%');
}

status jj_lex(arena *a, const char *text, size_t n, jtoken **out, size_t *n_out)
{
    lexer x = { .mem = a, .line = 1, .line_starting = true };
    char *s = arena_alloc(a, n + 1);
    if (!s) return err_nomem();
    for (size_t i = 0; i < n; i++) {
        s[x.n++] = text[i] == '\r' ? '\n' : text[i];
        if (text[i] == '\r' && i + 1 < n && text[i + 1] == '\n') i++;
    }
    if (x.n && s[x.n - 1] == '\n') x.n--;
    s[x.n] = 0;
    x.s = s;
    while (x.pos < x.n && !x.stop) TRY(lex_root(&x));
    TRY(emit(&x, T_EOF, x.line, jj_none()));
    *out = x.tok;
    *n_out = x.n_tok;
    return ST_OK;
}
