/* Methods of str. */
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_ast.h"
#include "text/unicode.h"

/* ---- shared pieces ---- */
static bool no_kw(const jargs *a) { return a->n_kw == 0; }

static status check_args(jrt *r, const char *name, const jargs *a, size_t min, size_t max)
{
    if (!no_kw(a)) return jj_type_error(r, "str.%s() takes no keyword arguments", name);
    if (a->n >= min && a->n <= max) return ST_OK;
    if (max == 0) return jj_type_error(r, "str.%s() takes no arguments (%zu given)", name, a->n);
    if (min == 1 && max == 1) return jj_type_error(r, "str.%s() takes exactly one argument (%zu given)", name, a->n);
    if (min == max) return jj_type_error(r, "%s expected %zu arguments, got %zu", name, min, a->n);
    if (a->n < min) return jj_type_error(r, "%s expected at least %zu argument%s, got %zu", name, min, min == 1 ? "" : "s", a->n);
    return jj_type_error(r, "%s expected at most %zu argument%s, got %zu", name, max, max == 1 ? "" : "s", a->n);
}

static status arg_str(jrt *r, const char *name, const jargs *a, size_t i, const jstr **out)
{
    if (a->v[i].kind != JK_STR) {
        if (a->n == 1) return jj_type_error(r, "%s() argument must be str, not %s", name, jj_type_name(a->v[i]));
        return jj_type_error(r, "%s() argument %zu must be str, not %s", name, i + 1, jj_type_name(a->v[i]));
    }
    *out = a->v[i].u.s;
    return ST_OK;
}

static status as_int(jrt *r, jval v, int64_t *out)
{
    if (v.kind == JK_UNDEF || !jj_is_int(v)) return jj_type_error(r, "'%s' object cannot be interpreted as an integer", jj_type_name(v));
    *out = jj_as_int(v);
    return ST_OK;
}

/* The result of a method of a Markup is one. */
static status like(jrt *r, const jstr *self, jval *v) { return self->markup ? jj_markup(r, *v, v) : ST_OK; }

static const char *find_bytes(const char *s, size_t n, const jstr *sub)
{
    return sub->len == 0 ? s : n < sub->len ? NULL : memmem(s, n, sub->data, sub->len);
}

static const char *rfind_bytes(const char *s, size_t n, const jstr *sub)
{
    if (n < sub->len) return NULL;
    for (const char *p = s + (n - sub->len);; p--) {
        if (!memcmp(p, sub->data, sub->len)) return p;
        if (p == s) return NULL;
    }
}

/* ---- case ---- */
typedef enum casing { UPPER, LOWER, TITLE, CAPITALIZE, SWAP, FOLD } casing;

/* A sigma at the end of a word becomes the final one. */
static bool is_final_sigma(const jstr *s, size_t at, size_t len)
{
    uint32_t cp;
    bool before = false;
    for (size_t i = at; i > 0;) {
        size_t p = i - 1;
        while (p > 0 && ((unsigned char)s->data[p] & 0xC0) == 0x80) p--;
        utf8_decode(s->data + p, i - p, &cp);
        i = p;
        if (unicode_is_case_ignorable(cp)) continue;
        before = unicode_is_cased(cp);
        break;
    }
    if (!before) return false;
    for (size_t i = at + len; i < s->len;) {
        i += utf8_decode(s->data + i, s->len - i, &cp);
        if (!unicode_is_case_ignorable(cp)) return !unicode_is_cased(cp);
    }
    return true;
}

static status change_case(jrt *r, const jstr *s, casing how, jval *out)
{
    jsb b = jj_sb(r);
    bool start = true;
    for (size_t i = 0; i < s->len;) {
        uint32_t cp, m[UNICODE_MAX_MAP];
        size_t n = utf8_decode(s->data + i, s->len - i, &cp), k;
        casing c = how;
        if (cp == UTF8_BAD) cp = 0xFFFD;
        if (how == TITLE) c = start ? TITLE : LOWER;
        if (how == CAPITALIZE) c = i == 0 ? TITLE : LOWER;
        if (how == SWAP) c = unicode_is_upper(cp) ? LOWER : unicode_is_lower(cp) ? UPPER : SWAP;
        if (c == LOWER && cp == 0x3A3) k = 1, m[0] = is_final_sigma(s, i, n) ? 0x3C2 : 0x3C3;
        else if (c == UPPER) k = unicode_upper(cp, m);
        else if (c == LOWER) k = unicode_lower(cp, m);
        else if (c == TITLE) k = unicode_title(cp, m);
        else if (c == FOLD) k = unicode_fold(cp, m);
        else k = 1, m[0] = cp;
        for (size_t j = 0; j < k; j++) jj_sb_cp(&b, m[j]);
        start = !unicode_is_cased(cp);
        i += n;
    }
    TRY(jj_sb_take(&b, out));
    return like(r, s, out);
}

status jj_lower(jrt *r, const jstr *s, jval *out) { return change_case(r, s, LOWER, out); }

#define CASE_METHOD(id, how)                                                         \
    static status m_##id(jrt *r, jval self, const jargs *a, jval *out)               \
    {                                                                                \
        TRY(check_args(r, #id, a, 0, 0));                                            \
        return change_case(r, self.u.s, how, out);                                   \
    }
CASE_METHOD(upper, UPPER)
CASE_METHOD(lower, LOWER)
CASE_METHOD(title, TITLE)
CASE_METHOD(capitalize, CAPITALIZE)
CASE_METHOD(swapcase, SWAP)
CASE_METHOD(casefold, FOLD)

/* ---- predicates ---- */
static bool alnum(uint32_t c) { return unicode_is_alpha(c) || unicode_is_numeric(c); }

static bool every(const jstr *s, bool (*is)(uint32_t), bool if_empty)
{
    for (size_t i = 0; i < s->len;) {
        uint32_t cp;
        i += utf8_decode(s->data + i, s->len - i, &cp);
        if (!is(cp)) return false;
    }
    return s->len ? true : if_empty;
}

#define IS_METHOD(id, fn, empty)                                                     \
    static status m_##id(jrt *r, jval self, const jargs *a, jval *out)               \
    {                                                                                \
        TRY(check_args(r, #id, a, 0, 0));                                            \
        *out = jj_bool(every(self.u.s, fn, empty));                                  \
        return ST_OK;                                                                \
    }
IS_METHOD(isalpha, unicode_is_alpha, false)
IS_METHOD(isalnum, alnum, false)
IS_METHOD(isdigit, unicode_is_digit, false)
IS_METHOD(isdecimal, unicode_is_decimal, false)
IS_METHOD(isnumeric, unicode_is_numeric, false)
IS_METHOD(isspace, unicode_is_space, false)
IS_METHOD(isprintable, unicode_is_printable, true)

static status m_isascii(jrt *r, jval self, const jargs *a, jval *out)
{
    TRY(check_args(r, "isascii", a, 0, 0));
    bool ascii = true;
    for (size_t i = 0; i < self.u.s->len; i++) ascii = ascii && (unsigned char)self.u.s->data[i] < 0x80;
    *out = jj_bool(ascii);
    return ST_OK;
}

static bool one_case(const jstr *s, bool upper)
{
    bool cased = false;
    for (size_t i = 0; i < s->len;) {
        uint32_t cp;
        i += utf8_decode(s->data + i, s->len - i, &cp);
        if (unicode_is_title(cp) || (upper ? unicode_is_lower(cp) : unicode_is_upper(cp))) return false;
        cased = cased || unicode_is_cased(cp);
    }
    return cased;
}

static status m_islower(jrt *r, jval self, const jargs *a, jval *out)
{
    TRY(check_args(r, "islower", a, 0, 0));
    *out = jj_bool(one_case(self.u.s, false));
    return ST_OK;
}

static status m_isupper(jrt *r, jval self, const jargs *a, jval *out)
{
    TRY(check_args(r, "isupper", a, 0, 0));
    *out = jj_bool(one_case(self.u.s, true));
    return ST_OK;
}

static status m_istitle(jrt *r, jval self, const jargs *a, jval *out)
{
    TRY(check_args(r, "istitle", a, 0, 0));
    bool cased = false, prev = false, ok = true;
    for (size_t i = 0; ok && i < self.u.s->len;) {
        uint32_t cp;
        i += utf8_decode(self.u.s->data + i, self.u.s->len - i, &cp);
        bool up = unicode_is_upper(cp) || unicode_is_title(cp), low = unicode_is_lower(cp);
        if ((up && prev) || (low && !prev)) ok = false;
        prev = up || low;
        cased = cased || prev;
    }
    *out = jj_bool(ok && cased);
    return ST_OK;
}

static status m_isidentifier(jrt *r, jval self, const jargs *a, jval *out)
{
    TRY(check_args(r, "isidentifier", a, 0, 0));
    bool ok = self.u.s->len > 0;
    for (size_t i = 0, at = 0; ok && i < self.u.s->len; at = i) {
        uint32_t cp;
        i += utf8_decode(self.u.s->data + i, self.u.s->len - i, &cp);
        ok = cp == '_' || unicode_is_alpha(cp) || (at > 0 && (unicode_is_decimal(cp) || (cp >= 0x80 && unicode_is_mark(cp))));
    }
    *out = jj_bool(ok);
    return ST_OK;
}

/* ---- strip ---- */
static bool strips(const jstr *chars, uint32_t cp, const char *s, size_t n)
{
    if (!chars) return unicode_is_space(cp);
    for (const char *p = chars->data, *end = p + chars->len; (size_t)(end - p) >= n && (p = memmem(p, (size_t)(end - p), s, n)) != NULL; p++)
        if (((unsigned char)*p & 0xC0) != 0x80) return true;
    return false;
}

status jj_strip(jrt *r, const jstr *s, jval chars, int sides, jval *out)
{
    const jstr *set = chars.kind == JK_STR ? chars.u.s : NULL;
    size_t from = 0, to = s->len;
    uint32_t cp;
    while (sides & 1 && from < to) {
        size_t n = utf8_decode(s->data + from, to - from, &cp);
        if (!strips(set, cp, s->data + from, n)) break;
        from += n;
    }
    while (sides & 2 && to > from) {
        size_t p = to - 1;
        while (p > from && ((unsigned char)s->data[p] & 0xC0) == 0x80) p--;
        utf8_decode(s->data + p, to - p, &cp);
        if (!strips(set, cp, s->data + p, to - p)) break;
        to = p;
    }
    TRY(jj_str_part(r, s, from, to - from, out));
    return like(r, s, out);
}

static status strip_method(jrt *r, const char *name, int sides, jval self, const jargs *a, jval *out)
{
    TRY(check_args(r, name, a, 0, a->n == 1 ? 1 : 0 + (a->n > 1)));
    jval chars = a->n ? a->v[0] : jj_none();
    if (chars.kind != JK_NONE && chars.kind != JK_STR) return jj_type_error(r, "%s arg must be None or str", name);
    return jj_strip(r, self.u.s, chars, sides, out);
}

static status m_strip(jrt *r, jval self, const jargs *a, jval *out) { return strip_method(r, "strip", 3, self, a, out); }
static status m_lstrip(jrt *r, jval self, const jargs *a, jval *out) { return strip_method(r, "lstrip", 1, self, a, out); }
static status m_rstrip(jrt *r, jval self, const jargs *a, jval *out) { return strip_method(r, "rstrip", 2, self, a, out); }

static status remove_affix(jrt *r, const char *name, bool prefix, jval self, const jargs *a, jval *out)
{
    const jstr *x, *s = self.u.s;
    TRY(check_args(r, name, a, 1, 1));
    TRY(arg_str(r, name, a, 0, &x));
    bool hit = x->len <= s->len && !memcmp(prefix ? s->data : s->data + s->len - x->len, x->data, x->len);
    TRY(jj_str_part(r, s, hit && prefix ? x->len : 0, hit ? s->len - x->len : s->len, out));
    return like(r, s, out);
}

static status m_removeprefix(jrt *r, jval self, const jargs *a, jval *out) { return remove_affix(r, "removeprefix", true, self, a, out); }
static status m_removesuffix(jrt *r, jval self, const jargs *a, jval *out) { return remove_affix(r, "removesuffix", false, self, a, out); }

/* ---- searching ---- */
/* Arguments sub[, start[, end]] as bytes [from, to) of self; *in = false when start lies behind the end. */
static status search_range(jrt *r, jval self, const jargs *a, size_t *from, size_t *to, bool *in)
{
    const jstr *s = self.u.s;
    int64_t n = (int64_t)jj_str_cps(s), lo = 0, hi = n;
    for (size_t i = 1; i < a->n && i < 3; i++) {
        if (a->v[i].kind == JK_NONE) continue;
        if (!jj_is_int(a->v[i])) return jj_type_error(r, "slice indices must be integers or None or have an __index__ method");
        int64_t k = jj_as_int(a->v[i]);
        if (k < 0) k = k + n < 0 ? 0 : k + n;
        if (i == 1) lo = k;
        else hi = k;
    }
    if (hi > n) hi = n;
    *in = lo <= hi;
    *from = jj_str_offset(s, (size_t)(lo < n ? lo : n));
    *to = jj_str_offset(s, (size_t)hi);
    if (*to < *from) *to = *from;
    return ST_OK;
}

static size_t cps_before(const jstr *s, const char *p) { return s->ascii ? (size_t)(p - s->data) : utf8_count(s->data, (size_t)(p - s->data)); }

static status find_method(jrt *r, const char *name, bool last, bool must, jval self, const jargs *a, jval *out)
{
    size_t from, to;
    bool in;
    if (!no_kw(a)) return jj_type_error(r, "str.%s() takes no keyword arguments", name);
    if (a->n < 1) return jj_type_error(r, "%s() takes at least 1 argument (0 given)", name);
    if (a->n > 3) return jj_type_error(r, "%s() takes at most 3 arguments (%zu given)", name, a->n);
    if (a->v[0].kind != JK_STR) return jj_type_error(r, "must be str, not %s", jj_type_name(a->v[0]));
    TRY(search_range(r, self, a, &from, &to, &in));
    const char *s = self.u.s->data + from, *p = NULL;
    if (in) p = last ? rfind_bytes(s, to - from, a->v[0].u.s) : find_bytes(s, to - from, a->v[0].u.s);
    if (!p && must) return jj_value_error(r, "substring not found");
    *out = jj_int(p ? (int64_t)cps_before(self.u.s, p) : -1);
    return ST_OK;
}

static status m_find(jrt *r, jval self, const jargs *a, jval *out) { return find_method(r, "find", false, false, self, a, out); }
static status m_rfind(jrt *r, jval self, const jargs *a, jval *out) { return find_method(r, "rfind", true, false, self, a, out); }
static status m_index(jrt *r, jval self, const jargs *a, jval *out) { return find_method(r, "index", false, true, self, a, out); }
static status m_rindex(jrt *r, jval self, const jargs *a, jval *out) { return find_method(r, "rindex", true, true, self, a, out); }

static status m_count(jrt *r, jval self, const jargs *a, jval *out)
{
    size_t from, to;
    bool in;
    if (!no_kw(a)) return jj_type_error(r, "str.count() takes no keyword arguments");
    if (a->n < 1) return jj_type_error(r, "count() takes at least 1 argument (0 given)");
    if (a->n > 3) return jj_type_error(r, "count() takes at most 3 arguments (%zu given)", a->n);
    if (a->v[0].kind != JK_STR) return jj_type_error(r, "must be str, not %s", jj_type_name(a->v[0]));
    TRY(search_range(r, self, a, &from, &to, &in));
    const jstr *sub = a->v[0].u.s;
    int64_t n = 0;
    if (in && sub->len == 0) n = (int64_t)utf8_count(self.u.s->data + from, to - from) + 1;
    for (const char *p = self.u.s->data + from, *end = self.u.s->data + to; in && sub->len && (p = find_bytes(p, (size_t)(end - p), sub)) != NULL; p += sub->len) n++;
    *out = jj_int(n);
    return ST_OK;
}

static status affix_method(jrt *r, const char *name, bool prefix, jval self, const jargs *a, jval *out)
{
    size_t from, to;
    bool in, hit = false;
    if (!no_kw(a)) return jj_type_error(r, "str.%s() takes no keyword arguments", name);
    if (a->n < 1) return jj_type_error(r, "%s() takes at least 1 argument (0 given)", name);
    if (a->n > 3) return jj_type_error(r, "%s() takes at most 3 arguments (%zu given)", name, a->n);
    TRY(search_range(r, self, a, &from, &to, &in));
    const jval *v = a->v;
    size_t n = 1;
    if (v->kind == JK_TUPLE) {
        n = v->u.l->n;
        v = v->u.l->v;
        for (size_t i = 0; i < n; i++)
            if (v[i].kind != JK_STR) return jj_type_error(r, "tuple for %s must only contain str, not %s", name, jj_type_name(v[i]));
    } else if (v->kind != JK_STR) {
        return jj_type_error(r, "%s first arg must be str or a tuple of str, not %s", name, jj_type_name(*v));
    }
    for (size_t i = 0; in && !hit && i < n; i++) {
        const jstr *x = v[i].u.s;
        hit = x->len <= to - from && !memcmp(self.u.s->data + (prefix ? from : to - x->len), x->data, x->len);
    }
    *out = jj_bool(hit);
    return ST_OK;
}

static status m_startswith(jrt *r, jval self, const jargs *a, jval *out) { return affix_method(r, "startswith", true, self, a, out); }
static status m_endswith(jrt *r, jval self, const jargs *a, jval *out) { return affix_method(r, "endswith", false, self, a, out); }

/* ---- replace, join, split ---- */
status jj_replace(jrt *r, const jstr *s, const jstr *old, const jstr *with, int64_t count, jval *out)
{
    jsb b = jj_sb(r);
    size_t i = 0;
    if (count < 0) count = INT64_MAX;
    while (count-- > 0) {
        if (old->len == 0) { /* between all characters */
            jj_sb_jstr(&b, with);
            if (i >= s->len) break;
            uint32_t cp;
            size_t n = utf8_decode(s->data + i, s->len - i, &cp);
            jj_sb_put(&b, s->data + i, n);
            i += n;
            TRY(jj_tick(r));
            continue;
        }
        const char *p = find_bytes(s->data + i, s->len - i, old);
        if (!p) break;
        jj_sb_put(&b, s->data + i, (size_t)(p - (s->data + i)));
        jj_sb_jstr(&b, with);
        i = (size_t)(p - s->data) + old->len;
        TRY(jj_tick(r));
    }
    if (i == 0 && b.b.used == 0 && b.st == ST_OK && (old->len || !with->len)) {
        *out = jj_s(s);
        return jj_plain(r, *out, out);
    }
    jj_sb_put(&b, s->data + i, s->len - i);
    return jj_sb_take(&b, out);
}

static status m_replace(jrt *r, jval self, const jargs *a, jval *out)
{
    const jstr *old, *with;
    int64_t count = -1;
    if (!no_kw(a)) return jj_type_error(r, "str.replace() takes no keyword arguments");
    if (a->n < 2) return jj_type_error(r, "replace expected at least 2 arguments, got %zu", a->n);
    if (a->n > 3) return jj_type_error(r, "replace expected at most 3 arguments, got %zu", a->n);
    TRY(arg_str(r, "replace", a, 0, &old));
    TRY(arg_str(r, "replace", a, 1, &with));
    if (a->n > 2) TRY(as_int(r, a->v[2], &count));
    if (self.u.s->markup) {
        jval w;
        TRY(jj_escape(r, a->v[1], &w));
        with = w.u.s;
    }
    TRY(jj_replace(r, self.u.s, old, with, count, out));
    return like(r, self.u.s, out);
}

status jj_join(jrt *r, const jstr *sep, const jval *v, size_t n, jval *out)
{
    jsb b = jj_sb(r);
    bool markup = sep->markup;
    for (size_t i = 0; i < n; i++) {
        if (i) jj_sb_jstr(&b, sep);
        if (markup && !v[i].u.s->markup) jj_escape_to(&b, v[i].u.s);
        else jj_sb_jstr(&b, v[i].u.s);
    }
    TRY(jj_sb_take(&b, out));
    return markup ? jj_markup(r, *out, out) : ST_OK;
}

static status m_join(jrt *r, jval self, const jargs *a, jval *out)
{
    jvec v = { 0 };
    TRY(check_args(r, "join", a, 1, 1));
    if (!jj_iterable(a->v[0])) return jj_type_error(r, "can only join an iterable");
    TRY(jj_to_vec(r, a->v[0], &v));
    for (size_t i = 0; i < v.n; i++) {
        if (v.v[i].kind != JK_STR && self.u.s->markup) TRY(jj_to_str(r, v.v[i], &v.v[i]));
        if (v.v[i].kind != JK_STR) return jj_type_error(r, "sequence item %zu: expected str instance, %s found", i, jj_type_name(v.v[i]));
    }
    return jj_join(r, self.u.s, v.v, v.n, out);
}

static status push_part(jrt *r, const jstr *s, size_t from, size_t to, jvec *v)
{
    jval x;
    TRY(jj_tick(r));
    TRY(jj_str_part(r, s, from, to - from, &x));
    TRY(like(r, s, &x));
    return jj_push(r, v, x);
}

static size_t skip(const jstr *s, size_t i, bool space)
{
    while (i < s->len) {
        uint32_t cp;
        size_t n = utf8_decode(s->data + i, s->len - i, &cp);
        if (unicode_is_space(cp) != space) break;
        i += n;
    }
    return i;
}

static size_t skip_back(const jstr *s, size_t i, bool space)
{
    while (i > 0) {
        size_t p = i - 1;
        uint32_t cp;
        while (p > 0 && ((unsigned char)s->data[p] & 0xC0) == 0x80) p--;
        utf8_decode(s->data + p, i - p, &cp);
        if (unicode_is_space(cp) != space) break;
        i = p;
    }
    return i;
}

static status split_space(jrt *r, const jstr *s, int64_t max, jvec *v)
{
    for (size_t i = skip(s, 0, true); i < s->len; i = skip(s, i, true)) {
        size_t end = max-- > 0 ? skip(s, i, false) : s->len;
        TRY(push_part(r, s, i, end, v));
        if (max < 0) break;
        i = end;
    }
    return ST_OK;
}

static void reverse(jvec *v)
{
    for (size_t i = 0; i < v->n / 2; i++) {
        jval t = v->v[i];
        v->v[i] = v->v[v->n - 1 - i];
        v->v[v->n - 1 - i] = t;
    }
}

static status rsplit_space(jrt *r, const jstr *s, int64_t max, jvec *v)
{
    for (size_t i = skip_back(s, s->len, true); i > 0; i = skip_back(s, i, true)) {
        size_t start = max-- > 0 ? skip_back(s, i, false) : 0;
        TRY(push_part(r, s, start, i, v));
        if (max < 0) break;
        i = start;
    }
    reverse(v);
    return ST_OK;
}

static status split_method(jrt *r, const char *name, bool right, jval self, const jargs *a, jval *out)
{
    static const char *const names[] = { "sep", "maxsplit" };
    jval p[2];
    int64_t max = -1;
    const jstr *s = self.u.s;
    jvec v = { 0 };
    if (a->n + a->n_kw > 2) return jj_type_error(r, "%s() takes at most 2 arguments (%zu given)", name, a->n + a->n_kw);
    for (size_t i = 0; i < a->n_kw; i++)
        if (!jp_str_is(a->kw[i].name, "sep") && !jp_str_is(a->kw[i].name, "maxsplit"))
            return jj_type_error(r, "'%.*s' is an invalid keyword argument for %s()", (int)a->kw[i].name->len, a->kw[i].name->data, name);
    TRY(jj_bind(r, name, names, 2, 0, 0, a, p));
    if (p[1].kind != JK_MISSING) TRY(as_int(r, p[1], &max));
    if (max < 0) max = INT64_MAX;
    if (p[0].kind == JK_MISSING || p[0].kind == JK_NONE) {
        TRY(right ? rsplit_space(r, s, max, &v) : split_space(r, s, max, &v));
        return jj_vec_list(r, &v, JK_LIST, out);
    }
    if (p[0].kind != JK_STR) return jj_type_error(r, "must be str or None, not %s", jj_type_name(p[0]));
    const jstr *sep = p[0].u.s;
    if (sep->len == 0) return jj_value_error(r, "empty separator");
    size_t from = 0, to = s->len;
    while (max-- > 0) {
        const char *at = right ? rfind_bytes(s->data, to, sep) : find_bytes(s->data + from, s->len - from, sep);
        if (!at) break;
        size_t k = (size_t)(at - s->data);
        if (right) {
            TRY(push_part(r, s, k + sep->len, to, &v));
            to = k;
        } else {
            TRY(push_part(r, s, from, k, &v));
            from = k + sep->len;
        }
    }
    TRY(push_part(r, s, from, to, &v));
    if (right) reverse(&v);
    return jj_vec_list(r, &v, JK_LIST, out);
}

static status m_split(jrt *r, jval self, const jargs *a, jval *out) { return split_method(r, "split", false, self, a, out); }
static status m_rsplit(jrt *r, jval self, const jargs *a, jval *out) { return split_method(r, "rsplit", true, self, a, out); }

status jj_splitlines(jrt *r, const jstr *s, bool keep, jvec *out)
{
    for (size_t i = 0, from = 0; i < s->len;) {
        uint32_t cp;
        size_t n = utf8_decode(s->data + i, s->len - i, &cp);
        bool brk = (cp >= 10 && cp <= 13) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
        size_t end = i;
        i += n;
        if (cp == '\r' && i < s->len && s->data[i] == '\n') i++;
        if (!brk && i < s->len) continue;
        TRY(push_part(r, s, from, !brk || keep ? i : end, out));
        from = i;
    }
    return ST_OK;
}

static status m_splitlines(jrt *r, jval self, const jargs *a, jval *out)
{
    static const char *const names[] = { "keepends" };
    jval p[1];
    jvec v = { 0 };
    TRY(jj_bind(r, "splitlines", names, 1, 0, 0, a, p));
    TRY(jj_splitlines(r, self.u.s, p[0].kind != JK_MISSING && jj_truth(r, p[0]), &v));
    return jj_vec_list(r, &v, JK_LIST, out);
}

static status partition_method(jrt *r, const char *name, bool right, jval self, const jargs *a, jval *out)
{
    const jstr *s = self.u.s;
    jvec v = { 0 };
    TRY(check_args(r, name, a, 1, 1));
    if (a->v[0].kind != JK_STR) return jj_type_error(r, "must be str, not %s", jj_type_name(a->v[0]));
    const jstr *sep = a->v[0].u.s;
    if (sep->len == 0) return jj_value_error(r, "empty separator");
    const char *at = right ? rfind_bytes(s->data, s->len, sep) : find_bytes(s->data, s->len, sep);
    size_t k = at ? (size_t)(at - s->data) : right ? 0 : s->len;
    TRY(push_part(r, s, 0, k, &v));
    TRY(push_part(r, s, k, at ? k + sep->len : k, &v));
    TRY(push_part(r, s, at ? k + sep->len : k, s->len, &v));
    return jj_vec_list(r, &v, JK_TUPLE, out);
}

static status m_partition(jrt *r, jval self, const jargs *a, jval *out) { return partition_method(r, "partition", false, self, a, out); }
static status m_rpartition(jrt *r, jval self, const jargs *a, jval *out) { return partition_method(r, "rpartition", true, self, a, out); }

/* ---- padding ---- */
static status pad(jrt *r, const jstr *s, size_t left, size_t right, const jstr *fill, jval *out)
{
    jsb b = jj_sb(r);
    size_t total;
    char *room;
    if (left + right > r->lim.memory_bytes || __builtin_mul_overflow(left + right, fill->len, &total)) total = SIZE_MAX / 4;
    if (total > ((size_t)1 << 20)) TRY(jj_alloc(r, total, &room)); /* fail early rather than pad for a long time */
    for (size_t i = 0; i < left && b.st == ST_OK; i++) jj_sb_jstr(&b, fill);
    jj_sb_jstr(&b, s);
    for (size_t i = 0; i < right && b.st == ST_OK; i++) jj_sb_jstr(&b, fill);
    TRY(jj_sb_take(&b, out));
    return like(r, s, out);
}

static status pad_method(jrt *r, const char *name, int how, jval self, const jargs *a, jval *out)
{
    static const jstr space = { " ", 1, NULL, true, false };
    const jstr *fill = &space, *s = self.u.s;
    int64_t width;
    if (!no_kw(a)) return jj_type_error(r, "str.%s() takes no keyword arguments", name);
    if (a->n < 1) return jj_type_error(r, "%s expected at least 1 argument, got 0", name);
    if (a->n > 2) return jj_type_error(r, "%s expected at most 2 arguments, got %zu", name, a->n);
    TRY(as_int(r, a->v[0], &width));
    if (a->n == 2) {
        if (a->v[1].kind != JK_STR) return jj_type_error(r, "The fill character must be a unicode character, not %s", jj_type_name(a->v[1]));
        fill = a->v[1].u.s;
        if (jj_str_cps(fill) != 1) return jj_type_error(r, "The fill character must be exactly one character long");
    }
    int64_t n = (int64_t)jj_str_cps(s);
    if (width <= n) {
        *out = self;
        return ST_OK;
    }
    size_t extra = (size_t)(width - n), left = how == 1 ? extra : how == 0 ? 0 : extra / 2 + (extra & (size_t)width & 1);
    return pad(r, s, left, extra - left, fill, out);
}

static status m_ljust(jrt *r, jval self, const jargs *a, jval *out) { return pad_method(r, "ljust", 0, self, a, out); }
static status m_rjust(jrt *r, jval self, const jargs *a, jval *out) { return pad_method(r, "rjust", 1, self, a, out); }
static status m_center(jrt *r, jval self, const jargs *a, jval *out) { return pad_method(r, "center", 2, self, a, out); }

static status m_zfill(jrt *r, jval self, const jargs *a, jval *out)
{
    static const jstr zero = { "0", 1, NULL, true, false };
    const jstr *s = self.u.s;
    int64_t width, n = (int64_t)jj_str_cps(s);
    TRY(check_args(r, "zfill", a, 1, 1));
    TRY(as_int(r, a->v[0], &width));
    if (width <= n) {
        *out = self;
        return ST_OK;
    }
    bool sign = s->len && (s->data[0] == '-' || s->data[0] == '+');
    jstr rest = *s;
    rest.data += sign;
    rest.len -= sign;
    jval x;
    TRY(pad(r, &rest, (size_t)(width - n), 0, &zero, &x));
    if (!sign) {
        *out = x;
        return ST_OK;
    }
    rest = (jstr){ .data = s->data, .len = 1, .ascii = true, .markup = s->markup };
    TRY(jj_concat(r, &rest, x.u.s, out));
    return like(r, s, out);
}

static status m_expandtabs(jrt *r, jval self, const jargs *a, jval *out)
{
    static const char *const names[] = { "tabsize" };
    jval p[1];
    int64_t tab = 8, col = 0;
    TRY(jj_bind(r, "expandtabs", names, 1, 0, 0, a, p));
    if (p[0].kind != JK_MISSING) TRY(as_int(r, p[0], &tab));
    jsb b = jj_sb(r);
    for (size_t i = 0; i < self.u.s->len;) {
        uint32_t cp;
        size_t n = utf8_decode(self.u.s->data + i, self.u.s->len - i, &cp);
        if (cp == '\t') {
            for (int64_t k = tab > 0 ? tab - col % tab : 0; k > 0; k--, col++) jj_sb_char(&b, ' ');
            TRY(b.st);
        } else {
            jj_sb_put(&b, self.u.s->data + i, n);
            col = cp == '\n' || cp == '\r' ? 0 : col + 1;
        }
        i += n;
    }
    TRY(jj_sb_take(&b, out));
    return like(r, self.u.s, out);
}

static status m_format(jrt *r, jval self, const jargs *a, jval *out) { return jj_str_format(r, self.u.s, a, jj_missing(), out); }

static status m_format_map(jrt *r, jval self, const jargs *a, jval *out)
{
    jargs none = { 0 };
    if (!no_kw(a)) return jj_type_error(r, "format_map() takes no keyword arguments");
    if (a->n != 1) return jj_type_error(r, "format_map() takes exactly one argument (%zu given)", a->n);
    return jj_str_format(r, self.u.s, &none, a->v[0], out);
}

static const jfn methods[] = {
    { "capitalize", m_capitalize }, { "casefold", m_casefold }, { "center", m_center }, { "count", m_count }, { "endswith", m_endswith },
    { "expandtabs", m_expandtabs }, { "find", m_find }, { "format", m_format }, { "format_map", m_format_map }, { "index", m_index },
    { "isalnum", m_isalnum }, { "isalpha", m_isalpha }, { "isascii", m_isascii }, { "isdecimal", m_isdecimal }, { "isdigit", m_isdigit },
    { "isidentifier", m_isidentifier }, { "islower", m_islower }, { "isnumeric", m_isnumeric }, { "isprintable", m_isprintable },
    { "isspace", m_isspace }, { "istitle", m_istitle }, { "isupper", m_isupper }, { "join", m_join }, { "ljust", m_ljust }, { "lower", m_lower },
    { "lstrip", m_lstrip }, { "partition", m_partition }, { "removeprefix", m_removeprefix }, { "removesuffix", m_removesuffix },
    { "replace", m_replace }, { "rfind", m_rfind }, { "rindex", m_rindex }, { "rjust", m_rjust }, { "rpartition", m_rpartition },
    { "rsplit", m_rsplit }, { "rstrip", m_rstrip }, { "split", m_split }, { "splitlines", m_splitlines }, { "startswith", m_startswith },
    { "strip", m_strip }, { "swapcase", m_swapcase }, { "title", m_title }, { "upper", m_upper }, { "zfill", m_zfill },
};

const jfn *jj_find_str_method(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (strlen(methods[i].name) == n && !memcmp(methods[i].name, name, n)) return &methods[i];
    return NULL;
}
