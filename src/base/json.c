#include "base/json.h"

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

/* jansson's own limit is 2048 levels; ours is lower and must not depend on it. */
static bool depth_ok(const char *s, size_t n)
{
    int depth = 0;
    bool str = false;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (str) {
            if (c == '\\') i++;
            else if (c == '"') str = false;
        } else if (c == '"') {
            str = true;
        } else if (c == '[' || c == '{') {
            if (++depth > MAX_DEPTH) return false;
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return true;
}

status jv_parse(const char *text, size_t len, jv **out)
{
    ready();
    if (!depth_ok(text, len)) return err_set(ST_LIMIT, "JSON is nested deeper than %d levels", MAX_DEPTH);
    json_error_t e;
    mem_clear_oom();
    json_t *t = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &e);
    if (mem_oom()) { /* also on "success": jansson's lexer drops characters that it has no memory for */
        json_decref(t);
        return err_nomem();
    }
    if (!t) return err_set(ST_INVALID, "invalid JSON at line %d column %d: %s", e.line, e.column, e.text);
    *out = ex(t);
    return ST_OK;
}

/* Copies JSON text, writing integers beyond int64 as reals ("1e30" in effect). */
static void tame_integers(const char *s, size_t n, buf *out)
{
    size_t from = 0;
    for (size_t i = 0; i < n;) {
        if (s[i] == '"') {
            for (i++; i < n && s[i] != '"'; i++)
                if (s[i] == '\\') i++;
            i++;
        } else if (s[i] >= '0' && s[i] <= '9') {
            size_t start = i;
            while (i < n && s[i] >= '0' && s[i] <= '9') i++;
            bool plain = i >= n || (s[i] != '.' && s[i] != 'e' && s[i] != 'E');
            bool fraction = start > 0 && (s[start - 1] == '.' || s[start - 1] == '+' || s[start - 1] == 'e' || s[start - 1] == 'E');
            if (i - start < 19 || !plain || fraction) continue;
            buf_append(out, s + from, i - from);
            buf_str(out, "e0");
            from = i;
        } else {
            i++;
        }
    }
    if (from < n) buf_append(out, s + from, n - from);
}

/* Configuration files hold such numbers: model_max_length is int(1e30) in many a tokenizer_config.json. */
static status parse_lenient(const char *text, size_t len, jv **out)
{
    status st = jv_parse(text, len, out);
    if (st != ST_INVALID || !strstr(err_msg(), "too big")) return st;
    buf b = {0};
    tame_integers(text, len, &b);
    st = buf_status(&b);
    if (st == ST_OK) st = jv_parse(buf_cstr(&b), b.len, out);
    buf_free(&b);
    return st;
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
    st = parse_lenient(buf_cstr(&b), b.len, out);
    if (st != ST_OK) st = err_wrap(st, "%s", path);
out:
    buf_free(&b);
    fclose(f);
    return st;
}

jv *jv_ref(const jv *v) { return v ? ex(json_incref(in(v))) : NULL; }
void jv_free(jv *v) { json_decref(in(v)); }

jv_kind jv_type(const jv *v)
{
    if (!v) return JV_MISSING;
    switch (json_typeof(in(v))) {
    case JSON_OBJECT: return JV_OBJ;
    case JSON_ARRAY: return JV_ARR;
    case JSON_STRING: return JV_STR;
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
        double d = json_real_value(in(v));
        if (d >= -9.2e18 && d <= 9.2e18 && d == floor(d)) return (int64_t)d;
    }
    return def;
}

double jv_f64(const jv *v, double def)
{
    jv_kind k = jv_type(v);
    return k == JV_INT || k == JV_REAL ? json_number_value(in(v)) : def;
}

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
    case JV_REAL: jw_f64(w, jv_f64(v, 0)); break;
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

size_t json_repr_f64(char *dst, size_t cap, double d)
{
    if (isnan(d)) return (size_t)snprintf(dst, cap, "nan");
    if (isinf(d)) return (size_t)snprintf(dst, cap, d < 0 ? "-inf" : "inf");
    if (d == 0) return (size_t)snprintf(dst, cap, signbit(d) ? "-0.0" : "0.0");
    /* The fewest significant digits that read back: at most 17. */
    char e[40];
    for (int prec = 0; prec <= 16; prec++) {
        snprintf(e, sizeof e, "%.*e", prec, d);
        if (strtod(e, NULL) == d) break;
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
