#include "load/st_header.h"

#include <stdbool.h>
#include <string.h>

#include "base/buf.h"
#include "base/utf8.h"

enum { MAX_SKIP_DEPTH = 32 };  /* of values we do not look at */

typedef struct cursor {
    const char *start, *p, *end;
    buf scratch;  /* the last string that had escapes */
    arena *names;
} cursor;

const char *st_shown(const char *name, char dst[ST_SHOWN_CAP])
{
    size_t n = 0;
    for (; name[n] && n < ST_SHOWN_CAP - 4; n++) {
        unsigned char c = (unsigned char)name[n];
        dst[n] = c < 0x20 || c == 0x7F ? '?' : (char)c;
    }
    dst[n] = 0;
    if (name[n]) {
        while (n > 0 && ((unsigned char)dst[n - 1] & 0xC0) == 0x80) n--; /* not in the middle of a character */
        if (n > 0 && (unsigned char)dst[n - 1] >= 0xC0) n--;
        memcpy(dst + n, "...", 4);
    }
    return dst;
}

static status expected(const cursor *c, const char *what)
{
    return err_set(ST_INVALID, "the JSON header is wrong at byte %zu: expected %s", (size_t)(c->p - c->start), what);
}

static void space(cursor *c)
{
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\n' || *c->p == '\t' || *c->p == '\r')) c->p++;
}

/* Consumes `ch` (after white space) if it comes next. */
static bool take(cursor *c, char ch)
{
    space(c);
    if (c->p == c->end || *c->p != ch) return false;
    c->p++;
    return true;
}

static bool hex4(cursor *c, uint32_t *out)
{
    if (c->end - c->p < 4) return false;
    uint32_t v = 0;
    for (int i = 0; i < 4; i++) {
        char d = *c->p++;
        v <<= 4;
        if (d >= '0' && d <= '9') v |= (uint32_t)(d - '0');
        else if (d >= 'a' && d <= 'f') v |= (uint32_t)(d - 'a' + 10);
        else if (d >= 'A' && d <= 'F') v |= (uint32_t)(d - 'A' + 10);
        else return false;
    }
    *out = v;
    return true;
}

/* After a backslash. */
static status escape(cursor *c)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (c->p == c->end) return expected(c, "an escape");
    char e = *c->p++;
    const char *at = e ? strchr(from, e) : NULL;
    if (at) {
        buf_char(&c->scratch, to[at - from]);
        return ST_OK;
    }
    uint32_t cp, low;
    if (e != 'u' || !hex4(c, &cp)) return expected(c, "a valid escape");
    if (cp >= 0xD800 && cp < 0xDC00) {
        if (c->end - c->p < 2 || c->p[0] != '\\' || c->p[1] != 'u') return expected(c, "the second half of a surrogate pair");
        c->p += 2;
        if (!hex4(c, &low) || low < 0xDC00 || low > 0xDFFF) return expected(c, "the second half of a surrogate pair");
        cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
    } else if (cp >= 0xDC00 && cp <= 0xDFFF) {
        return expected(c, "a character, not half a surrogate pair");
    }
    buf_utf8(&c->scratch, cp);
    return ST_OK;
}

/* A JSON string; *s points into the text, or into the scratch buffer (until the next string) when it has escapes. */
static status string(cursor *c, const char *what, const char **s, size_t *n)
{
    if (!take(c, '"')) return expected(c, what);
    const char *from = c->p;
    bool escaped = false;
    buf_clear(&c->scratch);
    for (;;) {
        while (c->p < c->end && *c->p != '"' && *c->p != '\\' && (unsigned char)*c->p >= 0x20) c->p++;
        if (c->p == c->end) return expected(c, "the end of a string");
        if (*c->p != '"' && *c->p != '\\') return expected(c, "no control character in a string");
        if (escaped || *c->p == '\\') buf_append(&c->scratch, from, (size_t)(c->p - from));
        if (*c->p == '"') break;
        escaped = true;
        c->p++;
        TRY(escape(c));
        from = c->p;
    }
    *s = escaped ? buf_cstr(&c->scratch) : from;
    *n = escaped ? c->scratch.len : (size_t)(c->p - from);
    c->p++;
    TRY(buf_status(&c->scratch));
    return utf8_valid(*s, *n) ? ST_OK : expected(c, "UTF-8 before here");
}

static status skip(cursor *c, int depth);

static status skip_items(cursor *c, char close, int depth)
{
    const char *s;
    size_t n;
    if (take(c, close)) return ST_OK;
    do {
        if (close == '}') {
            TRY(string(c, "a key", &s, &n));
            if (!take(c, ':')) return expected(c, "':'");
        }
        TRY(skip(c, depth + 1));
    } while (take(c, ','));
    return take(c, close) ? ST_OK : expected(c, close == '}' ? "',' or '}'" : "',' or ']'");
}

/* Any value we do not need (metadata, fields of later versions). Numbers and words are taken loosely. */
static status skip(cursor *c, int depth)
{
    const char *s;
    size_t n;
    if (depth > MAX_SKIP_DEPTH) return err_set(ST_LIMIT, "the JSON header is nested deeper than %d levels", MAX_SKIP_DEPTH);
    space(c);
    if (c->p < c->end && *c->p == '"') return string(c, "a string", &s, &n);
    if (take(c, '{')) return skip_items(c, '}', depth);
    if (take(c, '[')) return skip_items(c, ']', depth);
    const char *from = c->p;
    while (c->p < c->end && *c->p && strchr("+-.0123456789abcdefghijklmnopqrstuvwxyzE", *c->p)) c->p++;
    return c->p > from ? ST_OK : expected(c, "a value");
}

static status integer(cursor *c, const char *what, int64_t *out)
{
    space(c);
    const char *from = c->p;
    int64_t v = 0;
    for (; c->p < c->end && *c->p >= '0' && *c->p <= '9'; c->p++)
        if (__builtin_mul_overflow(v, (int64_t)10, &v) || __builtin_add_overflow(v, (int64_t)(*c->p - '0'), &v))
            return err_set(ST_INVALID, "%s is beyond 64 bits", what);
    if (c->p == from || (c->p < c->end && strchr(".eE", *c->p)))
        return err_set(ST_INVALID, "%s must be a list of non-negative integers", what);
    *out = v;
    return ST_OK;
}

/* [i, i, ...] of at most `max`. */
static status integers(cursor *c, const char *what, int64_t *out, int max, int *n)
{
    *n = 0;
    if (!take(c, '[')) return err_set(ST_INVALID, "%s must be a list of non-negative integers", what);
    if (take(c, ']')) return ST_OK;
    do {
        if (*n == max) return err_set(ST_LIMIT, "%s has more than %d numbers", what, max);
        TRY(integer(c, what, &out[(*n)++]));
    } while (take(c, ','));
    return take(c, ']') ? ST_OK : err_set(ST_INVALID, "%s must be a list of non-negative integers", what);
}

static status dtype_of(const char *s, size_t n, dtype *out)
{
    static const struct { const char *name; dtype type; } known[] = {
        { "F32", DT_F32 }, { "BF16", DT_BF16 }, { "F16", DT_F16 }, { "F64", DT_F64 },
        { "I64", DT_I64 }, { "I32", DT_I32 }, { "I16", DT_I16 }, { "I8", DT_I8 },
        { "U64", DT_U64 }, { "U32", DT_U32 }, { "U16", DT_U16 }, { "U8", DT_U8 }, { "BOOL", DT_BOOL },
        { "F8_E4M3", DT_F8E4M3 }, { "F8_E5M2", DT_F8E5M2 }, { "F8_E8M0", DT_F8E8M0 }, { "F4", DT_F4E2M1 },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strlen(known[i].name) != n || memcmp(known[i].name, s, n) != 0) continue;
        *out = known[i].type;
        return ST_OK;
    }
    char raw[32], shown[ST_SHOWN_CAP];
    size_t cut = n < sizeof raw ? n : sizeof raw - 1;
    memcpy(raw, s, cut);
    raw[cut] = 0;
    return err_set(ST_UNSUPPORTED, "dtype \"%s\" is not supported (F32, BF16, F16, F64, F8_E4M3, F8_E5M2, F8_E8M0, F4, BOOL, I8..I64, U8..U64 are)", st_shown(raw, shown));
}

/* begin <= end, and the bytes are what shape and dtype need. */
static status check_size(const st_entry *e)
{
    uint64_t bits = dtype_bits(e->type);
    for (int i = 0; i < e->rank; i++)
        if (e->shape[i] == 0) bits = 0;  /* first, so that [huge, huge, 0] is empty and not an overflow */
    for (int i = 0; i < e->rank && bits; i++)
        if (__builtin_mul_overflow(bits, (uint64_t)e->shape[i], &bits)) return err_set(ST_INVALID, "the shape has more than 2^64 bits");
    if (e->begin > e->end) return err_set(ST_INVALID, "data_offsets end (%llu) before they begin (%llu)", (unsigned long long)e->end, (unsigned long long)e->begin);
    if (bits % 8 != 0) return err_set(ST_INVALID, "the shape does not fill whole bytes");
    if (bits / 8 != e->end - e->begin)
        return err_set(ST_INVALID, "shape and dtype need %llu bytes but data_offsets span %llu", (unsigned long long)(bits / 8), (unsigned long long)(e->end - e->begin));
    return ST_OK;
}

/* {"dtype": "F32", "shape": [..], "data_offsets": [b, e]} in any order. */
static status tensor_fields(cursor *c, st_entry *e)
{
    enum { HAS_DTYPE = 1, HAS_SHAPE = 2, HAS_OFFSETS = 4 };
    static const char *const names[] = { "dtype", "shape", "data_offsets" };
    unsigned seen = 0;
    if (!take(c, '{')) return expected(c, "an object with dtype, shape and data_offsets");
    if (take(c, '}')) return err_set(ST_INVALID, "dtype is missing");
    do {
        const char *s;
        size_t n;
        unsigned field = 0;
        TRY(string(c, "a field name", &s, &n));
        for (unsigned i = 0; i < 3; i++)
            if (strlen(names[i]) == n && memcmp(names[i], s, n) == 0) field = 1u << i;
        if (seen & field) return err_set(ST_INVALID, "a field appears twice");
        seen |= field;
        if (!take(c, ':')) return expected(c, "':'");
        if (field == HAS_DTYPE) {
            TRY(string(c, "a dtype name", &s, &n));
            TRY(dtype_of(s, n, &e->type));
        } else if (field == HAS_SHAPE) {
            TRY(integers(c, "shape", e->shape, ST_MAX_RANK, &e->rank));
        } else if (field == HAS_OFFSETS) {
            int64_t at[2];
            int count;
            TRY(integers(c, "data_offsets", at, 2, &count));
            if (count != 2) return err_set(ST_INVALID, "data_offsets must be [begin, end]");
            e->begin = (uint64_t)at[0];
            e->end = (uint64_t)at[1];
        } else {
            TRY(skip(c, 0));
        }
    } while (take(c, ','));
    if (!take(c, '}')) return expected(c, "',' or '}'");
    for (unsigned i = 0; i < 3; i++)
        if (!(seen & 1u << i)) return err_set(ST_INVALID, "%s is missing", names[i]);
    return check_size(e);
}

static status parse(cursor *c, st_entry_fn add, void *arg)
{
    if (!take(c, '{')) return expected(c, "'{'");
    if (take(c, '}')) return ST_OK;
    do {
        const char *s;
        size_t n;
        TRY(string(c, "a tensor name", &s, &n));
        if (n == 12 && memcmp(s, "__metadata__", 12) == 0) {
            if (!take(c, ':')) return expected(c, "':'");
            TRY(skip(c, 0));
            continue;
        }
        if (n == 0 || memchr(s, 0, n)) return err_set(ST_INVALID, "a tensor name is empty or holds a NUL");
        st_entry e = { .name = arena_strndup(c->names, s, n) };
        if (!e.name) return err_nomem();
        if (!take(c, ':')) return expected(c, "':'");
        status st = tensor_fields(c, &e);
        char shown[ST_SHOWN_CAP];
        if (st != ST_OK) return st == ST_NOMEM ? st : err_wrap(st, "tensor %s", st_shown(e.name, shown));
        TRY(add(arg, &e));
    } while (take(c, ','));
    return take(c, '}') ? ST_OK : expected(c, "',' or '}'");
}

status st_header_parse(const char *text, size_t len, arena *names, st_entry_fn add, void *arg)
{
    cursor c = { .start = text, .p = text, .end = text + len, .names = names };
    status st = parse(&c, add, arg);
    space(&c);
    if (st == ST_OK && c.p != c.end) st = expected(&c, "nothing but spaces after the object");
    buf_free(&c.scratch);
    return st;
}
