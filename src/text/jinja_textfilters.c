/* Filters on strings and numbers. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_ast.h"
#include "text/jinja_filters.h"
#include "text/unicode.h"

#define BIND(fname, n_req, hidden, ...)                                                                          \
    static const char *const names_[] = { __VA_ARGS__ };                                                        \
    jval p[sizeof names_ / sizeof *names_];                                                                     \
    TRY(jj_bind(r, fname, names_, sizeof names_ / sizeof *names_, n_req, hidden, a, p));                         \
    (void)self

static bool flag(jrt *r, jval v, bool def) { return v.kind == JK_MISSING ? def : jj_truth(r, v); }

static status need_int(jrt *r, jval v, int64_t def, int64_t *out)
{
    *out = def;
    if (v.kind == JK_MISSING) return ST_OK;
    if (!jj_is_int(v)) return jj_type_error(r, "'%s' object cannot be interpreted as an integer", jj_type_name(v));
    *out = jj_as_int(v);
    return ST_OK;
}

static status method(jrt *r, const char *name, jval s, const jval *args, size_t n, jval *out)
{
    jargs a = { args, n, NULL, 0 };
    TRY(jj_to_str(r, s, &s));
    return jj_find_str_method(name, strlen(name))->call(r, s, &a, out);
}

static status f_upper(jrt *r, jval self, const jargs *a, jval *out) { BIND("do_upper", 1, 0, "s"); return method(r, "upper", p[0], NULL, 0, out); }
static status f_lower(jrt *r, jval self, const jargs *a, jval *out) { BIND("do_lower", 1, 0, "s"); return method(r, "lower", p[0], NULL, 0, out); }
static status f_capitalize(jrt *r, jval self, const jargs *a, jval *out) { BIND("do_capitalize", 1, 0, "s"); return method(r, "capitalize", p[0], NULL, 0, out); }
static status f_string(jrt *r, jval self, const jargs *a, jval *out) { BIND("soft_str", 1, 0, "s"); return jj_to_str(r, p[0], out); }
static status f_escape(jrt *r, jval self, const jargs *a, jval *out) { BIND("escape", 1, 0, "s"); return jj_escape(r, p[0], out); }

static status f_safe(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_mark_safe", 1, 0, "value");
    TRY(jj_to_str(r, p[0], out));
    return jj_markup(r, *out, out);
}

static status f_forceescape(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_forceescape", 1, 0, "value");
    TRY(jj_to_str(r, p[0], out));
    TRY(jj_plain(r, *out, out));
    return jj_escape(r, *out, out);
}

static status f_trim(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_trim", 1, 0, "value", "chars");
    return method(r, "strip", p[0], &p[1], p[1].kind != JK_MISSING, out);
}

static status f_center(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_center", 1, 0, "value", "width");
    if (p[1].kind == JK_MISSING) p[1] = jj_int(80);
    return method(r, "center", p[0], &p[1], 1, out);
}

static status f_title(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_title", 1, 0, "s");
    TRY(jj_to_str(r, p[0], &p[0]));
    const jstr *s = p[0].u.s;
    jsb b = jj_sb(r);
    for (size_t i = 0; i < s->len;) {
        /* A word runs up to spaces and opening brackets; its first letter alone goes up. */
        size_t from = i, first = 0;
        uint32_t cp, m[UNICODE_MAX_MAP];
        while (i < s->len) {
            size_t n = utf8_decode(s->data + i, s->len - i, &cp);
            if (cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' || unicode_is_space(cp)) break;
            if (i == from) first = n;
            i += n;
        }
        if (i == from) {
            size_t n = utf8_decode(s->data + i, s->len - i, &cp);
            jj_sb_put(&b, s->data + i, n);
            i += n;
            continue;
        }
        utf8_decode(s->data + from, s->len - from, &cp);
        size_t k = unicode_upper(cp, m);
        for (size_t j = 0; j < k; j++) jj_sb_cp(&b, m[j]);
        jval rest;
        TRY(jj_str_part(r, s, from + first, i - from - first, &rest));
        TRY(jj_lower(r, rest.u.s, &rest));
        jj_sb_jstr(&b, rest.u.s);
    }
    return jj_sb_take(&b, out);
}

static status f_replace(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_replace", 3, 1, "s", "old", "new", "count");
    int64_t count = -1;
    if (p[3].kind != JK_NONE) TRY(need_int(r, p[3], -1, &count));
    bool markup = false;
    for (int i = 0; i < 3; i++) {
        markup = markup || (r->escape && p[i].kind == JK_STR && p[i].u.s->markup);
        TRY(jj_to_str(r, p[i], &p[i]));
    }
    if (markup) TRY(jj_escape(r, p[0], &p[0]));
    if (p[0].u.s->markup && r->escape) TRY(jj_escape(r, p[2], &p[2]));
    TRY(jj_replace(r, p[0].u.s, p[1].u.s, p[2].u.s, count, out));
    return markup ? jj_markup(r, *out, out) : ST_OK;
}

static status f_indent(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_indent", 1, 0, "s", "width", "first", "blank");
    bool first = flag(r, p[2], false), blank = flag(r, p[3], false);
    jval ind = p[1];
    if (p[1].kind != JK_STR) {
        TRY(jj_cstr(r, " ", &ind));
        TRY(jj_binary(r, '*', ind, p[1].kind == JK_MISSING ? jj_int(4) : p[1], &ind));
    }
    jval nl, s;
    TRY(jj_cstr(r, "\n", &nl));
    if (p[0].kind == JK_LIST) return jj_fail(r, JINJA_OTHER, "'list' object has no attribute 'splitlines'"); /* list += str is fine */
    if (p[0].kind != JK_STR && p[0].kind != JK_UNDEF && p[0].kind != JK_TUPLE)
        return jj_type_error(r, "unsupported operand type(s) for +=: '%s' and 'str'", jj_type_name(p[0]));
    TRY(jj_binary(r, '+', p[0], nl, &s)); /* so that the last line ends */
    jvec lines = { 0 };
    TRY(jj_splitlines(r, s.u.s, false, &lines));
    jsb b = jj_sb(r);
    for (size_t i = 0; i < lines.n; i++) {
        const jstr *l = lines.v[i].u.s;
        if (i) jj_sb_char(&b, '\n');
        if (i ? l->len || blank : first) jj_sb_jstr(&b, ind.u.s);
        jj_sb_jstr(&b, l);
    }
    TRY(jj_sb_take(&b, out));
    return s.u.s->markup ? jj_markup(r, *out, out) : ST_OK;
}

static status f_truncate(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_truncate", 1, 1, "s", "length", "killwords", "end", "leeway");
    int64_t length, leeway, n, n_end;
    jval end = p[3];
    if (end.kind == JK_MISSING) TRY(jj_cstr(r, "...", &end));
    TRY(need_int(r, p[1], 255, &length));
    if (p[4].kind == JK_NONE) p[4] = jj_missing();
    TRY(need_int(r, p[4], 5, &leeway));
    TRY(jj_len(r, end, &n_end));
    if (length < n_end) return jj_fail(r, JINJA_OTHER, "expected length >= %lld, got %lld", (long long)n_end, (long long)length);
    if (leeway < 0) return jj_fail(r, JINJA_OTHER, "expected leeway >= 0, got %lld", (long long)leeway);
    TRY(jj_len(r, p[0], &n));
    *out = p[0];
    if (n <= length + leeway) return ST_OK;
    TRY(jj_slice(r, p[0], jj_none(), jj_int(length - n_end), jj_none(), out));
    if (!flag(r, p[2], false)) {
        if (out->kind != JK_STR) return jj_no_attribute(r, *out, "rsplit");
        const jstr *s = out->u.s;
        size_t k = s->len;
        while (k > 0 && s->data[k - 1] != ' ') k--;
        if (k > 0) {
            bool markup = s->markup;
            TRY(jj_str_part(r, s, 0, k - 1, out));
            if (markup) TRY(jj_markup(r, *out, out));
        }
    }
    return jj_binary(r, '+', *out, end, out);
}

static status f_wordcount(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_wordcount", 1, 0, "s");
    TRY(jj_to_str(r, p[0], &p[0]));
    int64_t n = 0;
    bool in = false;
    for (size_t i = 0; i < p[0].u.s->len;) {
        uint32_t cp;
        i += utf8_decode(p[0].u.s->data + i, p[0].u.s->len - i, &cp);
        bool word = cp == '_' || unicode_is_alpha(cp) || unicode_is_numeric(cp);
        n += word && !in;
        in = word;
    }
    *out = jj_int(n);
    return ST_OK;
}

/* One paragraph of |wordwrap, as textwrap.wrap does it without tabs and space replacement. */
static size_t chunk_end(const jstr *s, size_t i, bool hyphens)
{
    size_t from = i;
    bool space = s->data[i] == ' ' || (s->data[i] >= 9 && s->data[i] <= 13);
    for (; i < s->len; i++) {
        bool sp = s->data[i] == ' ' || (s->data[i] >= 9 && s->data[i] <= 13);
        if (sp != space) break;
        if (space || !hyphens || s->data[i] != '-' || i + 1 >= s->len || i < from + 2) continue;
        /* break after a hyphen between two letters on either side */
        bool before = isalpha((unsigned char)s->data[i - 1]) && (isalpha((unsigned char)s->data[i - 2]) || s->data[i - 2] == '-');
        bool after = isalpha((unsigned char)s->data[i + 1]) && i + 2 < s->len && (isalpha((unsigned char)s->data[i + 2]) || s->data[i + 2] == '-');
        if (before && after) return i + 1;
    }
    return i;
}

static status wrap_line(jrt *r, const jstr *s, int64_t width, bool brk, bool hyphens, const jstr *nl, jsb *b)
{
    size_t i = 0, lines = 0;
    if (width <= 0) return jj_value_error(r, "invalid width %lld (must be > 0)", (long long)width);
    while (i < s->len) {
        size_t from = i, end = i, used = 0;
        bool full = false;
        /* whitespace at the start of a line other than the first is dropped */
        if (lines && (s->data[i] == ' ' || (s->data[i] >= 9 && s->data[i] <= 13))) {
            i = from = end = chunk_end(s, i, hyphens);
            if (i >= s->len) break;
        }
        while (i < s->len) {
            size_t e = chunk_end(s, i, hyphens), n = utf8_count(s->data + i, e - i);
            if ((int64_t)(used + n) > width) {
                full = brk && (int64_t)n > width && used == (size_t)width; /* textwrap then puts nothing after the space, and keeps it */
                if ((int64_t)n > width && used < (size_t)width && (brk || used == 0)) {
                    jstr rest = { .data = s->data + i, .len = e - i, .ascii = s->ascii };
                    i += brk ? jj_str_offset(&rest, (size_t)width - used) : rest.len;
                    end = i;
                }
                break;
            }
            used += n;
            i = end = e;
        }
        size_t stop = end;
        while (!full && stop > from && (s->data[stop - 1] == ' ' || (s->data[stop - 1] >= 9 && s->data[stop - 1] <= 13))) stop--;
        if (stop == from && end > from && i >= s->len) break;
        if (stop > from) {
            if (lines++) jj_sb_jstr(b, nl);
            jj_sb_put(b, s->data + from, stop - from);
        }
        TRY(jj_tick(r));
    }
    return b->st;
}

static status f_wordwrap(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_wordwrap", 1, 1, "s", "width", "break_long_words", "wrapstring", "break_on_hyphens");
    int64_t width;
    jvec lines = { 0 };
    if (p[0].kind != JK_STR) return p[0].kind == JK_UNDEF ? jj_undefined_error(r, p[0]) : jj_no_attribute(r, p[0], "splitlines");
    TRY(need_int(r, p[1], 79, &width));
    if (p[3].kind == JK_MISSING || p[3].kind == JK_NONE) TRY(jj_cstr(r, "\n", &p[3]));
    TRY(jj_to_str(r, p[3], &p[3]));
    TRY(jj_splitlines(r, p[0].u.s, false, &lines));
    jsb b = jj_sb(r);
    for (size_t i = 0; i < lines.n; i++) {
        if (i) jj_sb_jstr(&b, p[3].u.s);
        TRY(wrap_line(r, lines.v[i].u.s, width, flag(r, p[2], true), flag(r, p[4], true), p[3].u.s, &b));
    }
    return jj_sb_take(&b, out);
}

/* ---- numbers ---- */
bool jj_parse_float(const jstr *s, double *out)
{
    char t[400], *end;
    size_t n = 0, i = 0, e = s->len;
    while (i < e && (s->data[i] == ' ' || (s->data[i] >= 9 && s->data[i] <= 13))) i++;
    while (e > i && (s->data[e - 1] == ' ' || (s->data[e - 1] >= 9 && s->data[e - 1] <= 13))) e--;
    for (; i < e; i++) {
        char c = s->data[i];
        if (c == '_') {
            if (n == 0 || !isdigit((unsigned char)t[n - 1]) || i + 1 >= e || !isdigit((unsigned char)s->data[i + 1])) return false;
            continue;
        }
        if (c == 'x' || c == 'X' || c == 'p' || c == 'P' || c == '(' || !c || n + 1 >= sizeof t) return false;
        t[n++] = c;
    }
    t[n] = 0;
    if (n == 0) return false;
    *out = strtod(t, &end);
    return *end == 0;
}

status jj_parse_int(jrt *r, const jstr *s, int base, int64_t *out, bool *ok)
{
    size_t i = 0, e = s->len;
    bool neg = false, digit = false;
    uint64_t u = 0;
    *ok = false;
    for (size_t k; i < e; i += k) {
        uint32_t cp;
        k = utf8_decode(s->data + i, e - i, &cp);
        if (!unicode_is_space(cp)) break;
    }
    while (e > i && (s->data[e - 1] == ' ' || (s->data[e - 1] >= 9 && s->data[e - 1] <= 13))) e--;
    if (i < e && (s->data[i] == '-' || s->data[i] == '+')) neg = s->data[i++] == '-';
    char c = i + 1 < e && s->data[i] == '0' ? (char)(s->data[i + 1] | 32) : 0;
    int prefix = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
    if (prefix && (base == prefix || base == 0)) {
        base = prefix;
        i += 2;
        if (i < e && s->data[i] == '_') i++;
    } else if (base == 0) {
        base = 10;
    }
    while (i < e) {
        uint32_t cp;
        size_t k = utf8_decode(s->data + i, e - i, &cp);
        i += k;
        if (cp == '_' && digit && i < e && s->data[i] != '_') continue;
        int d = unicode_decimal_value(cp);
        if (d < 0 && cp < 0x80 && isalpha((int)cp)) d = (int)(cp | 32) - 'a' + 10;
        if (d < 0 || d >= base) return ST_OK;
        if (u > (UINT64_MAX - (uint64_t)d) / (uint64_t)base) u = UINT64_MAX;
        else u = u * (uint64_t)base + (uint64_t)d;
        digit = true;
    }
    if (!digit) return ST_OK;
    if (u > (uint64_t)INT64_MAX + neg) return jj_fail(r, JINJA_OTHER, "integers beyond 64 bits are not supported");
    *out = neg ? (int64_t)(0 - u) : (int64_t)u;
    *ok = true;
    return ST_OK;
}

static status float_to_int(jrt *r, double d, jval def, jval *out)
{
    if (isnan(d) || isinf(d)) {
        *out = def;
        return ST_OK;
    }
    if (fabs(d) >= 9.2e18) return jj_fail(r, JINJA_OTHER, "integers beyond 64 bits are not supported");
    *out = jj_int((int64_t)d);
    return ST_OK;
}

static status f_int(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_int", 1, 0, "value", "default", "base");
    jval def = p[1].kind == JK_MISSING ? jj_int(0) : p[1];
    int64_t base, i;
    bool ok;
    double d;
    TRY(need_int(r, p[2], 10, &base));
    if (jj_is_int(p[0])) {
        *out = jj_int(jj_as_int(p[0]));
        return ST_OK;
    }
    if (p[0].kind == JK_UNDEF) return jj_undefined_error(r, p[0]);
    if (p[0].kind == JK_FLOAT) {
        if (isinf(p[0].u.f)) return jj_fail(r, JINJA_OTHER, "cannot convert float infinity to integer");
        return float_to_int(r, p[0].u.f, def, out);
    }
    *out = p[0].kind == JK_BIG ? p[0] : def;
    if (p[0].kind != JK_STR) return ST_OK;
    if (base == 0 || (base >= 2 && base <= 36)) {
        TRY(jj_parse_int(r, p[0].u.s, (int)base, &i, &ok));
        if (ok) {
            *out = jj_int(i);
            return ST_OK;
        }
    }
    return jj_parse_float(p[0].u.s, &d) ? float_to_int(r, d, def, out) : ST_OK;
}

static status f_float(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_float", 1, 0, "value", "default");
    double d;
    if (p[0].kind == JK_UNDEF) return jj_undefined_error(r, p[0]);
    if (jj_is_number(p[0])) *out = jj_float(jj_as_float(p[0]));
    else if ((p[0].kind == JK_STR || p[0].kind == JK_BIG) && jj_parse_float(p[0].u.s, &d)) *out = jj_float(d);
    else *out = p[1].kind == JK_MISSING ? jj_float(0) : p[1];
    return ST_OK;
}

static status f_abs(jrt *r, jval self, const jargs *a, jval *out)
{
    (void)self;
    if (a->n != 1 || a->n_kw) return jj_type_error(r, "abs() takes exactly one argument (%zu given)", a->n + a->n_kw);
    jval v = a->v[0];
    if (!jj_is_number(v)) return jj_type_error(r, "bad operand type for abs(): '%s'", jj_type_name(v));
    if (v.kind == JK_FLOAT) *out = jj_float(fabs(v.u.f));
    else if (jj_as_int(v) < 0) return jj_negate(r, v, false, out);
    else *out = jj_int(jj_as_int(v));
    return ST_OK;
}

/* round(): to even on a tie, by the exact binary value, which printf does as well. */
static status round_common(jrt *r, jval v, int64_t prec, jval *out)
{
    if (v.kind == JK_FLOAT) {
        if (!isfinite(v.u.f) || prec > 320) {
            *out = v;
            return ST_OK;
        }
        if (prec < -310) {
            *out = jj_float(copysign(0, v.u.f));
            return ST_OK;
        }
        if (prec >= 0) {
            char t[800];
            snprintf(t, sizeof t, "%.*f", (int)prec, v.u.f);
            *out = jj_float(strtod(t, NULL));
            return ST_OK;
        }
        double unit = pow(10, (double)-prec), q = v.u.f / unit;
        *out = jj_float(nearbyint(q) * unit);
        return ST_OK;
    }
    int64_t i = jj_as_int(v), unit = 1;
    for (int64_t k = prec; k < 0; k++)
        if (__builtin_mul_overflow(unit, 10, &unit)) {
            *out = jj_int(0);
            return ST_OK;
        }
    if (unit > 1) {
        int64_t down = i / unit * unit, rest = i - down;
        if (rest < 0) down -= unit, rest += unit;
        if (rest > unit - rest || (rest == unit - rest && (down / unit) % 2 != 0)) down += unit;
        i = down;
    }
    *out = jj_int(i);
    (void)r;
    return ST_OK;
}

static status f_round(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_round", 1, 0, "value", "precision", "method");
    int64_t prec;
    bool ceiling = jj_str_is(p[2], "ceil");
    if (p[2].kind != JK_MISSING && !ceiling && !jj_str_is(p[2], "floor") && !jj_str_is(p[2], "common"))
        return jj_fail(r, JINJA_TEMPLATE_ERROR, "method must be common, ceil or floor");
    if (p[0].kind == JK_UNDEF && p[2].kind != JK_MISSING && !jj_str_is(p[2], "common")) return jj_undefined_error(r, p[0]);
    TRY(need_int(r, p[1], 0, &prec));
    if (p[2].kind == JK_MISSING || jj_str_is(p[2], "common")) {
        if (!jj_is_number(p[0])) return jj_type_error(r, "type %s doesn't define __round__ method", jj_type_name(p[0]));
        return round_common(r, p[0], prec, out);
    }
    jval unit, x;
    TRY(jj_binary(r, 'p', jj_int(10), jj_int(prec), &unit));
    TRY(jj_binary(r, '*', p[0], unit, &x));
    if (!jj_is_number(x)) return jj_type_error(r, "must be real number, not %s", jj_type_name(x));
    if (x.kind == JK_FLOAT) {
        double d = ceiling ? ceil(x.u.f) : floor(x.u.f);
        if (!isfinite(d)) return jj_fail(r, JINJA_OTHER, "cannot convert float %s to integer", isnan(d) ? "NaN" : "infinity");
        x = fabs(d) < 9.2e18 ? jj_int((int64_t)d) : jj_float(d);
    }
    return jj_binary(r, '/', x, unit, out);
}

static status f_filesizeformat(jrt *r, jval self, const jargs *a, jval *out)
{
    static const char units[] = "kMGTPEZY";
    BIND("do_filesizeformat", 1, 0, "value", "binary");
    double d, base = flag(r, p[1], false) ? 1024 : 1000;
    bool binary = base > 1000;
    if (p[0].kind == JK_UNDEF) return jj_undefined_error(r, p[0]);
    if (jj_is_number(p[0])) d = jj_as_float(p[0]);
    else if (p[0].kind != JK_STR) return jj_type_error(r, "float() argument must be a string or a real number, not '%s'", jj_type_name(p[0]));
    else if (!jj_parse_float(p[0].u.s, &d)) return jj_value_error(r, "could not convert string to float: %s", jj_repr_c(r, p[0]));
    jsb b = jj_sb(r);
    if (d == 1) jj_sb_str(&b, "1 Byte");
    else if (d < base) jj_sb_printf(&b, "%lld Bytes", (long long)d);
    else {
        double unit = base * base;
        int i = 0;
        for (; i < 7 && !(d < unit); i++) unit *= base;
        jj_sb_printf(&b, "%.1f %c%s", base * d / unit, binary && i == 0 ? 'K' : units[i], binary ? "iB" : "B");
    }
    return jj_sb_take(&b, out);
}

static status f_format(jrt *r, jval self, const jargs *a, jval *out)
{
    jval s, args;
    (void)self;
    if (a->n < 1) return jj_type_error(r, "do_format() missing 1 required positional argument: 'value'");
    if (a->n > 1 && a->n_kw) return jj_fail(r, JINJA_TEMPLATE_ERROR, "can't handle positional and keyword arguments at the same time");
    TRY(jj_to_str(r, a->v[0], &s));
    if (a->n_kw) {
        jdict *d;
        TRY(jj_dict_new(r, &d));
        for (size_t i = 0; i < a->n_kw; i++) TRY(jj_dict_put(r, d, jj_s(a->kw[i].name), a->kw[i].val));
        args = (jval){ JK_DICT, { .d = d } };
    } else {
        TRY(jj_list(r, JK_TUPLE, a->v + 1, a->n - 1, &args));
    }
    return jj_format_percent(r, s.u.s, args, out);
}

/* ---- HTML and URLs ---- */
static status unescape(jrt *r, const jstr *s, jval *out)
{
    static const struct { const char *name; uint32_t cp; } named[] = {
        { "amp", '&' }, { "lt", '<' }, { "gt", '>' }, { "quot", '"' }, { "apos", '\'' }, { "nbsp", 0xA0 }, { "copy", 0xA9 }, { "reg", 0xAE },
        { "raquo", 0xBB }, { "laquo", 0xAB }, { "mdash", 0x2014 }, { "ndash", 0x2013 }, { "hellip", 0x2026 }, { "bull", 0x2022 },
        { "lsquo", 0x2018 }, { "rsquo", 0x2019 }, { "ldquo", 0x201C }, { "rdquo", 0x201D }, { "trade", 0x2122 }, { "euro", 0x20AC },
        { "middot", 0xB7 }, { "times", 0xD7 }, { "deg", 0xB0 },
    };
    jsb b = jj_sb(r);
    for (size_t i = 0; i < s->len;) {
        size_t semi = i + 1;
        while (semi < s->len && semi < i + 12 && s->data[semi] != ';') semi++;
        if (s->data[i] != '&' || semi >= s->len || s->data[semi] != ';') {
            jj_sb_char(&b, s->data[i++]);
            continue;
        }
        char e[16] = { 0 };
        uint32_t cp = 0;
        memcpy(e, s->data + i + 1, semi - i - 1);
        if (e[0] == '#') cp = (uint32_t)strtoul(e[1] == 'x' || e[1] == 'X' ? e + 2 : e + 1, NULL, e[1] == 'x' || e[1] == 'X' ? 16 : 10);
        for (size_t k = 0; k < sizeof named / sizeof *named; k++)
            if (!strcmp(named[k].name, e)) cp = named[k].cp;
        if (cp) {
            jj_sb_cp(&b, cp);
            i = semi + 1;
        } else {
            jj_sb_char(&b, s->data[i++]);
        }
    }
    return jj_sb_take(&b, out);
}

/* Removes what lies between the pair of marks; an opening mark without a closing one stays. */
static status remove_between(jrt *r, const jstr *s, const char *open, const char *close, jval *out)
{
    jsb b = jj_sb(r);
    size_t i = 0;
    for (;;) {
        const char *o = s->len > i ? memmem(s->data + i, s->len - i, open, strlen(open)) : NULL;
        const char *c = o ? memmem(o, (size_t)(s->data + s->len - o), close, strlen(close)) : NULL;
        if (!c) break;
        jj_sb_put(&b, s->data + i, (size_t)(o - (s->data + i)));
        i = (size_t)(c - s->data) + strlen(close);
    }
    jj_sb_put(&b, s->data + i, s->len - i);
    return jj_sb_take(&b, out);
}

static status f_striptags(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_striptags", 1, 0, "value");
    jval s, parts, space;
    TRY(jj_to_str(r, p[0], &s));
    TRY(jj_plain(r, s, &s));
    TRY(remove_between(r, s.u.s, "<!--", "-->", &s));
    TRY(remove_between(r, s.u.s, "<", ">", &s));
    TRY(method(r, "split", s, NULL, 0, &parts));
    TRY(jj_cstr(r, " ", &space));
    TRY(jj_join(r, space.u.s, parts.u.l->v, parts.u.l->n, &s));
    return unescape(r, s.u.s, out);
}

static status url_quote(jrt *r, jval v, bool query, jsb *b)
{
    TRY(jj_to_str(r, v, &v));
    for (size_t i = 0; i < v.u.s->len; i++) {
        char c = v.u.s->data[i];
        if (isalnum((unsigned char)c) || strchr("_.-~", c) || (c == '/' && !query)) jj_sb_char(b, c);
        else if (c == ' ' && query) jj_sb_char(b, '+');
        else jj_sb_printf(b, "%%%02X", (unsigned)(unsigned char)c);
    }
    return b->st;
}

static status f_urlencode(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_urlencode", 1, 0, "value");
    jsb b = jj_sb(r);
    jval items = p[0];
    if (p[0].kind == JK_STR || !jj_iterable(p[0])) {
        TRY(url_quote(r, p[0], false, &b));
        return jj_sb_take(&b, out);
    }
    jargs none = { 0 };
    if (p[0].kind == JK_DICT) TRY(jj_find_method(p[0], "items", 5)->call(r, p[0], &none, &items));
    jvec v = { 0 };
    TRY(jj_to_vec(r, items, &v));
    for (size_t i = 0; i < v.n; i++) {
        jvec kv = { 0 };
        if (!jj_iterable(v.v[i])) return jj_type_error(r, "cannot unpack non-iterable %s object", jj_type_name(v.v[i]));
        TRY(jj_to_vec(r, v.v[i], &kv));
        if (kv.n != 2) return jj_value_error(r, kv.n < 2 ? "not enough values to unpack (expected 2, got %zu)" : "too many values to unpack (expected 2)", kv.n);
        if (i) jj_sb_char(&b, '&');
        TRY(url_quote(r, kv.v[0], true, &b));
        jj_sb_char(&b, '=');
        TRY(url_quote(r, kv.v[1], true, &b));
    }
    return jj_sb_take(&b, out);
}

static status f_urlize(jrt *r, jval self, const jargs *a, jval *out)
{
    (void)self;
    (void)a;
    (void)out;
    return jj_fail(r, JINJA_OTHER, "the urlize filter is not supported");
}

/* pprint with a width of 80: what fits stays on its line, otherwise one element a line. Keys are sorted. */
static status pretty(jrt *r, jval v, size_t indent, size_t room, jsb *b);

static status sorted_copy(jrt *r, jval v, jval *out)
{
    jvec k = { 0 }, e = { 0 }, l = { 0 };
    jval x;
    *out = v;
    if (v.kind != JK_DICT && v.kind != JK_LIST && v.kind != JK_TUPLE) return ST_OK;
    TRY(jj_enter(r));
    if (v.kind != JK_DICT) {
        for (size_t i = 0; i < v.u.l->n; i++) {
            TRY(sorted_copy(r, v.u.l->v[i], &x));
            TRY(jj_push(r, &l, x));
        }
        TRY(jj_vec_list(r, &l, v.kind, out));
    } else {
        jdict *d;
        bool all_str = true;
        for (size_t i = 0; i < v.u.d->n; i++) {
            all_str = all_str && v.u.d->e[i].key.kind == JK_STR;
            TRY(jj_push(r, &k, v.u.d->e[i].key));
            TRY(sorted_copy(r, v.u.d->e[i].val, &x));
            TRY(jj_push(r, &e, x));
        }
        if (all_str) TRY(jj_sort(r, k.v, e.v, k.n, false));
        TRY(jj_dict_new(r, &d));
        for (size_t i = 0; i < k.n; i++) TRY(jj_dict_put(r, d, k.v[i], e.v[i]));
        *out = (jval){ JK_DICT, { .d = d } };
    }
    jj_leave(r);
    return ST_OK;
}

static status pretty_items(jrt *r, jval v, size_t indent, size_t after, jsb *b)
{
    bool dict = v.kind == JK_DICT;
    size_t n = dict ? v.u.d->n : v.u.l->n;
    jj_sb_char(b, dict ? '{' : v.kind == JK_LIST ? '[' : '(');
    for (size_t i = 0; i < n; i++) {
        size_t at = indent + 1, tail = i + 1 < n ? 1 : after + 1 + (v.kind == JK_TUPLE && n == 1);
        if (i) {
            jj_sb_str(b, ",\n");
            for (size_t k = 0; k < at; k++) jj_sb_char(b, ' ');
        }
        if (dict) {
            jval key;
            TRY(jj_repr(r, v.u.d->e[i].key, &key));
            jj_sb_jstr(b, key.u.s);
            jj_sb_str(b, ": ");
            at += jj_str_cps(key.u.s) + 2;
        }
        TRY(pretty(r, dict ? v.u.d->e[i].val : v.u.l->v[i], at, tail, b));
    }
    if (v.kind == JK_TUPLE && n == 1) jj_sb_char(b, ',');
    jj_sb_char(b, dict ? '}' : v.kind == JK_LIST ? ']' : ')');
    return b->st;
}

static status pretty(jrt *r, jval v, size_t indent, size_t after, jsb *b)
{
    jval s;
    TRY(jj_enter(r));
    TRY(jj_repr(r, v, &s));
    bool fits = indent + jj_str_cps(s.u.s) + after <= 80, nested = v.kind == JK_DICT || v.kind == JK_LIST || (v.kind == JK_TUPLE && !v.u.l->group);
    if (fits || !nested) jj_sb_jstr(b, s.u.s);
    else TRY(pretty_items(r, v, indent, after, b));
    jj_leave(r);
    return b->st;
}

static status f_pprint(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_pprint", 1, 0, "value");
    jval v;
    jsb b = jj_sb(r);
    TRY(sorted_copy(r, p[0], &v));
    TRY(pretty(r, v, 0, 0, &b));
    return jj_sb_take(&b, out);
}

static const jfn filters[] = {
    { "abs", f_abs }, { "capitalize", f_capitalize }, { "center", f_center }, { "e", f_escape }, { "escape", f_escape },
    { "filesizeformat", f_filesizeformat }, { "float", f_float }, { "forceescape", f_forceescape }, { "format", f_format },
    { "indent", f_indent }, { "int", f_int }, { "lower", f_lower }, { "pprint", f_pprint }, { "replace", f_replace }, { "round", f_round },
    { "safe", f_safe }, { "string", f_string }, { "striptags", f_striptags }, { "title", f_title }, { "trim", f_trim },
    { "truncate", f_truncate }, { "upper", f_upper }, { "urlencode", f_urlencode }, { "urlize", f_urlize }, { "wordcount", f_wordcount },
    { "wordwrap", f_wordwrap },
};

const jfn *jj_find_text_filter(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (strlen(filters[i].name) == n && !memcmp(filters[i].name, name, n)) return &filters[i];
    return NULL;
}
