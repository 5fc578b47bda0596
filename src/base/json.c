#include "base/json.h"

#include <errno.h>
#include <float.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

enum { MAX_DEPTH = 256 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static void init(void)
{
    json_set_alloc_funcs(mem_alloc, mem_free);
    json_object_seed(0);
}
static void ready(void) { pthread_once(&once, init); }

/* jv is jansson's json_t under our name: the casts live in these two functions. */
static json_t *in(const jv *v) { return (json_t *)(uintptr_t)v; }
static jv *ex(json_t *t) { return (jv *)t; }

/* The text is read here and not by jansson, whose lexer does not survive running out of memory: it drops the characters it
 * has no room for and then trips over what is left. Values are still its. */
typedef struct text_reader {
    const char *begin, *at, *end;
    buf str;                /* the string or number being read */
    int depth;
    const char *why;        /* set with ST_INVALID */
} text_reader;

static status wrong(text_reader *r, const char *why)
{
    r->why = why;
    return ST_INVALID;
}

static void skip_space(text_reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t')) r->at++;
}

static bool hex4(text_reader *r, uint32_t *out)
{
    uint32_t v = 0;
    if (r->end - r->at < 4) return false;
    for (int i = 0; i < 4; i++) {
        char c = r->at[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return false;
        v = v << 4 | (uint32_t)d;
    }
    r->at += 4;
    *out = v;
    return true;
}

/* After "\u". */
static status read_unicode(text_reader *r)
{
    uint32_t cp, low;
    if (!hex4(r, &cp)) return wrong(r, "invalid escape");
    if (cp >= 0xD800 && cp < 0xDC00) {
        if (r->end - r->at < 2 || r->at[0] != '\\' || r->at[1] != 'u') return wrong(r, "invalid Unicode escape: a lone surrogate");
        r->at += 2;
        if (!hex4(r, &low) || low < 0xDC00 || low > 0xDFFF) return wrong(r, "invalid Unicode escape: a lone surrogate");
        cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
    } else if (cp >= 0xDC00 && cp <= 0xDFFF) {
        return wrong(r, "invalid Unicode escape: a lone surrogate");
    }
    buf_utf8(&r->str, cp);
    return ST_OK;
}

static status read_escape(text_reader *r)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char c = r->at < r->end ? *r->at++ : 0;
    if (c == 'u') return read_unicode(r);
    const char *k = c ? strchr(from, c) : NULL;
    if (!k) return wrong(r, "invalid escape");
    buf_char(&r->str, to[k - from]);
    return ST_OK;
}

/* At the opening quote; the text goes to r->str. */
static status read_string(text_reader *r)
{
    buf_clear(&r->str);
    for (r->at++;;) {
        const char *from = r->at;
        while (r->at < r->end && *r->at != '"' && *r->at != '\\' && (unsigned char)*r->at >= 0x20) r->at++;
        if (r->at > from) {
            if (!utf8_valid(from, (size_t)(r->at - from))) return wrong(r, "a string is not valid UTF-8");
            buf_append(&r->str, from, (size_t)(r->at - from));
        }
        if (r->str.failed) return err_nomem();
        if (r->at >= r->end) return wrong(r, "premature end of input in a string");
        if (*r->at == '"') {
            r->at++;
            return ST_OK;
        }
        if (*r->at != '\\') return wrong(r, *r->at == '\n' ? "unexpected newline in a string" : "control character in a string");
        r->at++;
        TRY(read_escape(r));
    }
}

static bool digits(text_reader *r)
{
    const char *from = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
    return r->at > from;
}

/* An integer beyond int64 keeps its digits: a string of jansson's that starts with a byte no UTF-8 text has. */
enum { BIG_MARK = 0xFF, BIG_MAX_DIGITS = 300 /* so that it is finite as a double */ };

static bool is_big(const json_t *t) { return json_is_string(t) && (unsigned char)json_string_value(t)[0] == BIG_MARK; }

/* The digits are in r->str. */
static status read_big(text_reader *r, bool negative, json_t **out)
{
    if (r->str.len > BIG_MAX_DIGITS) return wrong(r, negative ? "too big negative integer" : "too big integer");
    char s[BIG_MAX_DIGITS + 2] = { (char)BIG_MARK };
    memcpy(s + 1, r->str.data, r->str.len);
    *out = json_stringn_nocheck(s, r->str.len + 1);
    return *out ? ST_OK : err_nomem();
}

static status read_number(text_reader *r, json_t **out)
{
    const char *from = r->at;
    bool real = false;
    if (*r->at == '-') r->at++;
    if (r->at < r->end && *r->at == '0') r->at++;
    else if (!digits(r)) return wrong(r, "invalid token");
    if (r->at < r->end && *r->at == '.') {
        real = true;
        r->at++;
        if (!digits(r)) return wrong(r, "invalid token");
    }
    if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
        real = true;
        r->at++;
        if (r->at < r->end && (*r->at == '+' || *r->at == '-')) r->at++;
        if (!digits(r)) return wrong(r, "invalid token");
    }
    buf_clear(&r->str);
    buf_append(&r->str, from, (size_t)(r->at - from));
    if (r->str.failed) return err_nomem();
    errno = 0;
    if (real) {
        double d = strtod(r->str.data, NULL);
        if (errno == ERANGE && fabs(d) > 1) return wrong(r, "real number overflow");
        *out = json_real(d);
    } else {
        long long i = strtoll(r->str.data, NULL, 10);
        if (errno == ERANGE) return read_big(r, i < 0, out);
        *out = json_integer(i);
    }
    return *out ? ST_OK : err_nomem();
}

static status read_value(text_reader *r, json_t **out);

/* "," (true: another element follows), or the closing bracket. */
static status more(text_reader *r, char close, bool *again)
{
    skip_space(r);
    if (r->at >= r->end) return wrong(r, close == ']' ? "']' expected near end of file" : "'}' expected near end of file");
    if (*r->at != ',' && *r->at != close) return wrong(r, close == ']' ? "']' expected" : "'}' expected");
    *again = *r->at++ == ',';
    return ST_OK;
}

static status read_elements(text_reader *r, json_t *arr)
{
    bool again = true;
    skip_space(r);
    if (r->at < r->end && *r->at == ']') {
        r->at++;
        return ST_OK;
    }
    while (again) {
        json_t *v = NULL;
        TRY(read_value(r, &v));
        if (json_array_append_new(arr, v) != 0) return err_nomem();
        TRY(more(r, ']', &again));
    }
    return ST_OK;
}

static status read_members(text_reader *r, json_t *obj)
{
    bool again = true;
    skip_space(r);
    if (r->at < r->end && *r->at == '}') {
        r->at++;
        return ST_OK;
    }
    while (again) {
        json_t *v = NULL;
        skip_space(r);
        if (r->at >= r->end || *r->at != '"') return wrong(r, "string or '}' expected");
        TRY(read_string(r));
        size_t n = r->str.len;
        if (n && memchr(r->str.data, 0, n)) return wrong(r, "NUL byte in object key not supported");
        char *key = mem_strndup(buf_cstr(&r->str), n);
        if (!key) return err_nomem();
        skip_space(r);
        status st = r->at < r->end && *r->at == ':' ? ST_OK : wrong(r, "':' expected");
        if (st == ST_OK) {
            r->at++;
            st = read_value(r, &v);
        }
        if (st == ST_OK && json_object_setn_new_nocheck(obj, key, n, v) != 0) st = err_nomem();
        mem_free(key);
        TRY(st);
        TRY(more(r, '}', &again));
    }
    return ST_OK;
}

static status read_nested(text_reader *r, bool object, json_t **out)
{
    if (++r->depth > MAX_DEPTH) return err_set(ST_LIMIT, "JSON is nested deeper than %d levels", MAX_DEPTH);
    json_t *t = object ? json_object() : json_array();
    if (!t) return err_nomem();
    r->at++;
    status st = object ? read_members(r, t) : read_elements(r, t);
    r->depth--;
    if (st != ST_OK) json_decref(t);
    else *out = t;
    return st;
}

static bool literal(text_reader *r, const char *word)
{
    size_t n = strlen(word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0) return false;
    r->at += n;
    return true;
}

static status read_value(text_reader *r, json_t **out)
{
    skip_space(r);
    if (r->at >= r->end) return wrong(r, "unexpected end of file");
    switch (*r->at) {
    case '{': case '[': return read_nested(r, *r->at == '{', out);
    case '"':
        TRY(read_string(r));
        *out = json_stringn_nocheck(buf_cstr(&r->str), r->str.len);
        return *out ? ST_OK : err_nomem();
    case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9': return read_number(r, out);
    default: break;
    }
    if (literal(r, "true")) *out = json_true();
    else if (literal(r, "false")) *out = json_false();
    else if (literal(r, "null")) *out = json_null();
    else return wrong(r, "invalid token");
    return ST_OK;
}

static status describe_wrong(const text_reader *r)
{
    int line = 1, column = 1;
    for (const char *p = r->begin; p < r->at; p++) {
        column = *p == '\n' ? 1 : column + (((unsigned char)*p & 0xC0) != 0x80);
        line += *p == '\n';
    }
    size_t left = (size_t)(r->end - r->at), n = left < 16 ? left : 16;
    bool show = n > 0 && utf8_valid(r->at, n) && !memchr(r->at, 0, n) && !memchr(r->at, '\n', n);
    if (show) return err_set(ST_INVALID, "invalid JSON at line %d column %d: %s near '%.*s'", line, column, r->why, (int)n, r->at);
    return err_set(ST_INVALID, "invalid JSON at line %d column %d: %s", line, column, r->why);
}

status jv_parse(const char *text, size_t len, jv **out)
{
    ready();
    text_reader r = { .begin = text, .at = text, .end = text + len };
    json_t *t = NULL;
    status st = read_value(&r, &t);
    if (st == ST_OK) {
        skip_space(&r);
        if (r.at < r.end) st = wrong(&r, "end of file expected");
    }
    if (st == ST_INVALID) st = describe_wrong(&r);
    buf_free(&r.str);
    if (st != ST_OK) {
        json_decref(t);
        return st;
    }
    *out = ex(t);
    return ST_OK;
}

status jv_parse_file(const char *path, size_t max_bytes, jv **out)
{
    FILE *f = fopen(path, "rb");
    if (!f) return err_errno("cannot open %s", path);
    buf b = {0};
    status st = ST_OK;
    char chunk[16384];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0) {
        if (b.len + n > max_bytes) {
            st = err_set(ST_LIMIT, "%s is larger than %zu bytes", path, max_bytes);
            goto out;
        }
        buf_append(&b, chunk, n);
    }
    if (ferror(f)) {
        st = err_errno("cannot read %s", path);
        goto out;
    }
    TRY_OUT(buf_status(&b));
    st = jv_parse(buf_cstr(&b), b.len, out);
    if (st != ST_OK) st = err_wrap(st, "%s", path);
out:
    buf_free(&b);
    fclose(f);
    return st;
}

/* Values are shared between threads (template variables, model configuration). json_incref and json_decref look at the count
 * with a plain read before they change it atomically, which is a data race; here both are atomic. */
static bool is_counted(const json_t *t) { return t && __atomic_load_n(&t->refcount, __ATOMIC_RELAXED) != (size_t)-1; } /* not true, false, null */

jv *jv_ref(const jv *v)
{
    json_t *t = in(v);
    if (is_counted(t)) __atomic_add_fetch(&t->refcount, 1, __ATOMIC_RELAXED);
    return ex(t);
}

void jv_free(jv *v)
{
    json_t *t = in(v);
    if (is_counted(t) && __atomic_sub_fetch(&t->refcount, 1, __ATOMIC_ACQ_REL) == 0) json_delete(t);
}

jv_kind jv_type(const jv *v)
{
    if (!v) return JV_MISSING;
    switch (json_typeof(in(v))) {
    case JSON_OBJECT: return JV_OBJ;
    case JSON_ARRAY: return JV_ARR;
    case JSON_STRING: return is_big(in(v)) ? JV_REAL : JV_STR;
    case JSON_INTEGER: return JV_INT;
    case JSON_REAL: return JV_REAL;
    case JSON_TRUE: case JSON_FALSE: return JV_BOOL;
    case JSON_NULL: return JV_NULL;
    }
    return JV_MISSING;
}

const char *jv_kind_name(jv_kind k)
{
    static const char *const names[] = { "nothing", "null", "a boolean", "an integer", "a number", "a string", "a list", "an object" };
    return names[k];
}

const jv *jv_get(const jv *obj, const char *key) { return obj && json_is_object(in(obj)) ? ex(json_object_get(in(obj), key)) : NULL; }
const jv *jv_at(const jv *arr, size_t i) { return arr && json_is_array(in(arr)) ? ex(json_array_get(in(arr), i)) : NULL; }

size_t jv_len(const jv *v)
{
    switch (jv_type(v)) {
    case JV_ARR: return json_array_size(in(v));
    case JV_OBJ: return json_object_size(in(v));
    case JV_STR: return json_string_length(in(v));
    default: return 0;
    }
}

int64_t jv_i64(const jv *v, int64_t def)
{
    if (jv_is(v, JV_INT)) return json_integer_value(in(v));
    if (jv_is(v, JV_REAL)) {
        double d = jv_f64(v, 0);
        if (d >= -9.2e18 && d <= 9.2e18 && d == floor(d)) return (int64_t)d;
    }
    return def;
}

double jv_f64(const jv *v, double def)
{
    jv_kind k = jv_type(v);
    const char *big = jv_big(v);
    if (big) return strtod(big, NULL);
    return k == JV_INT || k == JV_REAL ? json_number_value(in(v)) : def;
}

const char *jv_big(const jv *v) { return v && is_big(in(v)) ? json_string_value(in(v)) + 1 : NULL; }
bool jv_bool(const jv *v, bool def) { return jv_is(v, JV_BOOL) ? json_is_true(in(v)) : def; }
const char *jv_str(const jv *v, const char *def) { return jv_is(v, JV_STR) ? json_string_value(in(v)) : def; }

jv_iter jv_begin(const jv *obj) { return (jv_iter){ .obj = jv_is(obj, JV_OBJ) ? obj : NULL }; }

bool jv_next(jv_iter *it)
{
    if (!it->obj) return false;
    it->pos = it->started ? json_object_iter_next(in(it->obj), it->pos) : json_object_iter(in(it->obj));
    it->started = true;
    if (!it->pos) return false;
    it->key = json_object_iter_key(it->pos);
    it->key_len = strlen(it->key);
    it->val = ex(json_object_iter_value(it->pos));
    return true;
}

jv *jv_new_null(void) { ready(); return ex(json_null()); }
jv *jv_new_bool(bool b) { ready(); return ex(json_boolean(b)); }
jv *jv_new_i64(int64_t i) { ready(); return ex(json_integer(i)); }
jv *jv_new_f64(double d) { ready(); return ex(json_real(d)); }
jv *jv_new_str(const char *s, size_t n) { ready(); return ex(json_stringn(s, n)); }
jv *jv_new_arr(void) { ready(); return ex(json_array()); }
jv *jv_new_obj(void) { ready(); return ex(json_object()); }

status jv_set(jv *obj, const char *key, jv *val)
{
    if (!obj || !val || json_object_set_new(in(obj), key, in(val)) != 0) {
        if (!obj) jv_free(val);
        return err_nomem();
    }
    return ST_OK;
}

void jv_del(jv *obj, const char *key) { json_object_del(in(obj), key); }

status jv_push(jv *arr, jv *val)
{
    if (!arr || !val || json_array_append_new(in(arr), in(val)) != 0) {
        if (!arr) jv_free(val);
        return err_nomem();
    }
    return ST_OK;
}

void jv_pop(jv *arr)
{
    if (jv_len(arr) > 0) json_array_remove(in(arr), jv_len(arr) - 1);
}

jv *jv_copy(const jv *v) { return v ? ex(json_deep_copy(in(v))) : NULL; }

/* ---- writing ---- */

static void before_value(jw *w)
{
    if (w->after_key) {
        w->after_key = false;
        return;
    }
    if (w->depth > 0) {
        uint64_t bit = 1ull << (w->depth & 63);
        if (w->has_items & bit) buf_char(w->out, ',');
        w->has_items |= bit;
    }
}

static void open_scope(jw *w, char c)
{
    before_value(w);
    buf_char(w->out, c);
    w->depth++;
    w->has_items &= ~(1ull << (w->depth & 63));
}

static void close_scope(jw *w, char c)
{
    w->depth--;
    buf_char(w->out, c);
}

void jw_obj(jw *w) { open_scope(w, '{'); }
void jw_end_obj(jw *w) { close_scope(w, '}'); }
void jw_arr(jw *w) { open_scope(w, '['); }
void jw_end_arr(jw *w) { close_scope(w, ']'); }

static void quoted(buf *o, const char *s, size_t n)
{
    buf_char(o, '"');
    size_t i = 0, from = 0;
    while (i < n) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            i++;
            continue;
        }
        uint32_t cp;
        size_t len = utf8_decode(s + i, n - i, &cp);
        if (c >= 0x80 && cp != UTF8_BAD) {
            i += len;
            continue;
        }
        buf_append(o, s + from, i - from);
        if (c >= 0x80) buf_utf8(o, 0xFFFD);
        else if (c == '"') buf_str(o, "\\\"");
        else if (c == '\\') buf_str(o, "\\\\");
        else if (c == '\n') buf_str(o, "\\n");
        else if (c == '\r') buf_str(o, "\\r");
        else if (c == '\t') buf_str(o, "\\t");
        else buf_printf(o, "\\u%04x", c);
        i += len;
        from = i;
    }
    buf_append(o, s + from, n - from);
    buf_char(o, '"');
}

void jw_keyn(jw *w, const char *key, size_t n)
{
    before_value(w);
    quoted(w->out, key, n);
    buf_char(w->out, ':');
    w->after_key = true;
}

void jw_key(jw *w, const char *key) { jw_keyn(w, key, strlen(key)); }
void jw_raw(jw *w, const char *json) { before_value(w); buf_str(w->out, json); }
void jw_null(jw *w) { jw_raw(w, "null"); }
void jw_bool(jw *w, bool b) { jw_raw(w, b ? "true" : "false"); }
void jw_i64(jw *w, int64_t i) { before_value(w); buf_printf(w->out, "%lld", (long long)i); }

void jw_f64(jw *w, double d)
{
    if (!isfinite(d)) {
        jw_null(w);
        return;
    }
    char s[40];
    json_repr_f64(s, sizeof s, d);
    jw_raw(w, s);
}

void jw_strn(jw *w, const char *s, size_t n) { before_value(w); quoted(w->out, s, n); }

void jw_str(jw *w, const char *s)
{
    if (s) jw_strn(w, s, strlen(s));
    else jw_null(w);
}

void jw_value(jw *w, const jv *v)
{
    switch (jv_type(v)) {
    case JV_MISSING: case JV_NULL: jw_null(w); break;
    case JV_BOOL: jw_bool(w, jv_bool(v, false)); break;
    case JV_INT: jw_i64(w, jv_i64(v, 0)); break;
    case JV_REAL:
        if (jv_big(v)) jw_raw(w, jv_big(v));
        else jw_f64(w, jv_f64(v, 0));
        break;
    case JV_STR: jw_strn(w, jv_str(v, ""), jv_len(v)); break;
    case JV_ARR:
        jw_arr(w);
        for (size_t i = 0; i < jv_len(v); i++) jw_value(w, jv_at(v, i));
        jw_end_arr(w);
        break;
    case JV_OBJ:
        jw_obj(w);
        for (jv_iter it = jv_begin(v); jv_next(&it);) {
            jw_keyn(w, it.key, it.key_len);
            jw_value(w, it.val);
        }
        jw_end_obj(w);
        break;
    }
}

/* printf rounds to the nearest 16 digits; where that one does not read back, its other neighbour may (ties, and next to powers
 * of two). `e` has 17 digits: takes the 16 if they read back. */
static void try_16_digits(char *e, double d)
{
    char up[40], *end = strchr(e, 'e');
    if (!end || end[-1] == '0') return;
    memmove(end - 1, end, strlen(end) + 1); /* cut off the 17th */
    snprintf(up, sizeof up, "%s", e);
    if (strtod(e, NULL) == d) return;
    char *p = strchr(up, 'e') - 1;
    while (p > up && (*p == '9' || *p == '.')) {
        if (*p == '9') *p = '0';
        p--;
    }
    if (*p >= '0' && *p < '9') { /* 9.99... has no neighbour worth the trouble */
        ++*p;
        if (strtod(up, NULL) == d) {
            memcpy(e, up, sizeof up);
            return;
        }
    }
    snprintf(e, sizeof up, "%.16e", d);
}

size_t json_repr_f64(char *dst, size_t cap, double d)
{
    if (isnan(d)) return (size_t)snprintf(dst, cap, "nan");
    if (isinf(d)) return (size_t)snprintf(dst, cap, d < 0 ? "-inf" : "inf");
    if (d == 0) return (size_t)snprintf(dst, cap, signbit(d) ? "-0.0" : "0.0");
    /* The fewest significant digits that read back: at most 17. */
    char e[40];
    /* 15 digits that read back are the shortest ones and zeros, so that is where to start; not so below the normal range. */
    for (int prec = fabs(d) < DBL_MIN ? 0 : 14; prec <= 16; prec++) {
        snprintf(e, sizeof e, "%.*e", prec, d);
        if (prec < 16 && strtod(e, NULL) == d) break;
        if (prec == 16) try_16_digits(e, d);
    }
    char digits[24];
    int n_digits = 0;
    const char *p = e;
    bool neg = *p == '-';
    if (neg) p++;
    for (; *p && *p != 'e'; p++)
        if (*p >= '0' && *p <= '9') digits[n_digits++] = *p;
    int exp10 = *p == 'e' ? (int)strtol(p + 1, NULL, 10) : 0;
    while (n_digits > 1 && digits[n_digits - 1] == '0') n_digits--;
    char *o = dst;
    if (neg) *o++ = '-';
    if (exp10 < -4 || exp10 >= 16) { /* Python switches to exponents at 1e16 and below 1e-4 */
        *o++ = digits[0];
        if (n_digits > 1) {
            *o++ = '.';
            memcpy(o, digits + 1, (size_t)n_digits - 1);
            o += n_digits - 1;
        }
        o += snprintf(o, cap - (size_t)(o - dst), "e%c%02d", exp10 < 0 ? '-' : '+', abs(exp10));
        return (size_t)(o - dst);
    }
    if (exp10 < 0) {
        *o++ = '0';
        *o++ = '.';
        for (int i = -1; i > exp10; i--) *o++ = '0';
        memcpy(o, digits, (size_t)n_digits);
        o += n_digits;
    } else {
        for (int i = 0; i <= exp10; i++) *o++ = i < n_digits ? digits[i] : '0';
        *o++ = '.';
        if (n_digits > exp10 + 1) {
            memcpy(o, digits + exp10 + 1, (size_t)(n_digits - exp10 - 1));
            o += n_digits - exp10 - 1;
        } else {
            *o++ = '0';
        }
    }
    *o = 0;
    return (size_t)(o - dst);
}
