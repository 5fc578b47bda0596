/* printf-style `%`, str.format and format specifications. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_ast.h"

enum { MAX_WIDTH = 1000000 };

typedef struct spec {
    uint32_t fill;
    char align, sign, group, type;
    bool alt, zero;
    int64_t width, prec;   /* prec -1 = none */
} spec;

/* ---- numbers as text, without padding ---- */
static status float_text(jrt *r, double d, char type, int64_t prec, bool alt, jsb *b)
{
    char fmt[8] = "%", *p = fmt + 1, *text;
    if (isnan(d) || isinf(d)) {
        bool up = type == 'E' || type == 'F' || type == 'G';
        jj_sb_str(b, isnan(d) ? up ? "NAN" : "nan" : up ? "INF" : "inf");
        return ST_OK;
    }
    if (prec > 10000) return jj_value_error(r, "precision too big");
    if (alt) *p++ = '#';
    *p++ = '.';
    *p++ = '*';
    *p++ = type;
    *p = 0;
    size_t cap = (size_t)prec + 400;
    TRY(jj_alloc(r, cap, &text));
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(text, cap, fmt, (int)prec, d);
#pragma GCC diagnostic pop
    jj_sb_str(b, text);
    return ST_OK;
}

static void int_text(uint64_t u, char type, jsb *b)
{
    char t[72];
    size_t n = sizeof t;
    unsigned base = type == 'b' ? 2 : type == 'o' ? 8 : type == 'x' || type == 'X' ? 16 : 10;
    do {
        unsigned k = (unsigned)(u % base);
        t[--n] = (char)(k < 10 ? '0' + k : (type == 'X' ? 'A' : 'a') + k - 10);
        u /= base;
    } while (u);
    jj_sb_put(b, t + n, sizeof t - n);
}

static uint64_t magnitude(int64_t i) { return i < 0 ? 0 - (uint64_t)i : (uint64_t)i; }

/* ---- format() ---- */
static status parse_spec(jrt *r, const jstr *s, spec *o, jval v)
{
    size_t i = 0;
    uint32_t cp = 0;
    *o = (spec){ .fill = ' ', .prec = -1 };
    size_t n = s->len ? utf8_decode(s->data, s->len, &cp) : 0;
#define AT(k) ((k) < s->len ? s->data[k] : 0)
    if (n && AT(n) && strchr("<>=^", AT(n))) {
        o->fill = cp;
        o->align = AT(n);
        i = n + 1;
    } else if (AT(0) && strchr("<>=^", AT(0))) {
        o->align = AT(0);
        i = 1;
    }
    if (AT(i) && strchr("+- ", AT(i))) o->sign = s->data[i++];
    if (AT(i) == 'z') i++;
    if (AT(i) == '#') o->alt = true, i++;
    if (AT(i) == '0') {
        if (!o->align) o->fill = '0', o->align = '=', o->zero = true;
        else if (i == 0 || o->fill == ' ') o->fill = '0';
        i++;
    }
    for (; isdigit((unsigned char)AT(i)); i++) {
        o->width = o->width * 10 + (s->data[i] - '0');
        if (o->width > MAX_WIDTH) return jj_value_error(r, "Too many decimal digits in format string");
    }
    if (AT(i) == ',' || AT(i) == '_') o->group = s->data[i++];
    if (AT(i) == ',' || AT(i) == '_') return jj_value_error(r, o->group == AT(i) ? "Cannot specify '%c' with '%c'." : "Cannot specify both ',' and '_'.", AT(i), AT(i));
    if (AT(i) == '.') {
        i++;
        if (!isdigit((unsigned char)AT(i))) return jj_value_error(r, "Format specifier missing precision");
        for (o->prec = 0; isdigit((unsigned char)AT(i)); i++) {
            o->prec = o->prec * 10 + (s->data[i] - '0');
            if (o->prec > MAX_WIDTH) return jj_value_error(r, "Too many decimal digits in format string");
        }
    }
    if (i < s->len) o->type = s->data[i++];
    if (i < s->len) return jj_value_error(r, "Invalid format specifier '%.*s' for object of type '%s'", (int)s->len, s->data, jj_type_name(v));
#undef AT
    return ST_OK;
}

static status pad_out(const spec *o, char def_align, const jstr *prefix, const jstr *body, jsb *b)
{
    int64_t n = (int64_t)(jj_str_cps(prefix) + jj_str_cps(body)), extra = o->width > n ? o->width - n : 0;
    char align = o->align ? o->align : def_align;
    int64_t left = align == '>' ? extra : align == '^' ? extra / 2 : 0, mid = align == '=' ? extra : 0;
    for (int64_t i = 0; i < left; i++) jj_sb_cp(b, o->fill);
    jj_sb_jstr(b, prefix);
    for (int64_t i = 0; i < mid; i++) jj_sb_cp(b, o->fill);
    jj_sb_jstr(b, body);
    for (int64_t i = left + mid; i < extra; i++) jj_sb_cp(b, o->fill);
    return b->st;
}

/* Puts separators between groups of digits; with a zero fill the padding is grouped too. */
static status group_digits(jrt *r, const spec *o, const jstr *text, size_t prefix, jval *out)
{
    size_t digits = 0, every = o->type && strchr("boxX", o->type) ? 4 : 3;
    while (digits < text->len && isxdigit((unsigned char)text->data[digits]) && text->data[digits] != 'e') digits++;
    size_t zeros = 0, rest = text->len - digits;
    if (o->zero || (o->fill == '0' && o->align == '='))
        while ((int64_t)(prefix + rest + digits + zeros + (digits + zeros - 1) / every) < o->width) zeros++;
    jsb b = jj_sb(r);
    size_t total = digits + zeros;
    for (size_t i = 0; i < total; i++) {
        if (i && (total - i) % every == 0) jj_sb_char(&b, o->group);
        jj_sb_char(&b, i < zeros ? '0' : text->data[i - zeros]);
    }
    jj_sb_put(&b, text->data + digits, rest);
    return jj_sb_take(&b, out);
}

static status unknown_code(jrt *r, char type, jval v)
{
    return jj_value_error(r, "Unknown format code '%c' for object of type '%s'", type, jj_type_name(v));
}

static status format_number(jrt *r, jval v, const spec *o, jsb *b)
{
    jsb num = jj_sb(r), pre = jj_sb(r);
    bool neg;
    char type = o->type;
    if (type && strchr("eEfFgG%", type)) v = jj_float(jj_as_float(v));
    if (v.kind != JK_FLOAT) {
        if (type && !strchr("bcdoxXn", type)) return unknown_code(r, type, v);
        if (o->prec >= 0) return jj_value_error(r, "Precision not allowed in integer format specifier");
        int64_t i = jj_as_int(v);
        neg = i < 0;
        if (type == 'c') {
            if (o->sign) return jj_value_error(r, "Sign not allowed with integer format specifier 'c'");
            if (i < 0 || i > 0x10FFFF) return jj_fail(r, JINJA_OTHER, "%%c arg not in range(0x110000)");
            neg = false;
            jj_sb_cp(&num, (uint32_t)i);
        } else {
            int_text(magnitude(i), type, &num);
        }
    } else {
        double d = v.u.f;
        if (type && !strchr("eEfFgGn%", type)) return unknown_code(r, type, v);
        neg = signbit(d) && !isnan(d);
        d = fabs(d);
        if (type == '%') {
            TRY(float_text(r, d * 100, 'f', o->prec < 0 ? 6 : o->prec, o->alt, &num));
            jj_sb_char(&num, '%');
        } else if (!type && o->prec < 0) {
            TRY(jj_repr_to(&num, jj_float(d)));
        } else if (!type) {
            /* like g, but always with a digit after the point and an earlier switch to exponents */
            char t[40];
            snprintf(t, sizeof t, "%.*e", (int)(o->prec ? (o->prec > 17 ? 17 : o->prec) - 1 : 0), d);
            int64_t p = o->prec ? o->prec : 1, e = isfinite(d) ? strtol(strchr(t, 'e') + 1, NULL, 10) : 0;
            TRY(float_text(r, d, 'g', e == p - 1 && e >= 0 ? p + 1 : p, false, &num));
            if (e == p - 1 && isfinite(d)) { /* 1e+01 rather than 10. */
                num = jj_sb(r);
                TRY(float_text(r, d, 'e', p - 1, false, &num));
                char *x = memchr(num.b.data, 'e', num.b.used);
                size_t m = x ? (size_t)(x - num.b.data) : 0, keep = m;
                while (keep && memchr(num.b.data, '.', m) && (num.b.data[keep - 1] == '0' || num.b.data[keep - 1] == '.') && keep > 1) {
                    bool dot = num.b.data[--keep] == '.';
                    if (dot) break;
                }
                jsb tight = jj_sb(r);
                jj_sb_put(&tight, num.b.data, keep);
                jj_sb_put(&tight, num.b.data + m, num.b.used - m);
                num = tight;
            } else if (isfinite(d) && !memchr(num.b.data, '.', num.b.used) && !memchr(num.b.data, 'e', num.b.used)) {
                jj_sb_str(&num, ".0");
            }
        } else {
            TRY(float_text(r, d, type == 'n' ? 'g' : type, o->prec < 0 ? 6 : o->prec, o->alt, &num));
        }
    }
    if (neg) jj_sb_char(&pre, '-');
    else if (o->sign == '+' || o->sign == ' ') jj_sb_char(&pre, o->sign);
    if (o->alt && v.kind != JK_FLOAT && type && strchr("boxX", type)) {
        jj_sb_char(&pre, '0');
        jj_sb_char(&pre, type);
    }
    jval body, prefix;
    TRY(jj_sb_take(&num, &body));
    TRY(jj_sb_take(&pre, &prefix));
    if (o->group) TRY(group_digits(r, o, body.u.s, prefix.u.s->len, &body));
    return pad_out(o, '>', prefix.u.s, body.u.s, b);
}

status jj_format_spec(jrt *r, jval v, const jstr *s, jsb *b)
{
    static const jstr empty = { "", 0, NULL, true, false };
    spec o;
    if (s->len == 0) return jj_str_to(b, v);
    if (v.kind == JK_BIG) return jj_fail(r, JINJA_OTHER, "integers beyond 64 bits are not supported");
    if (v.kind != JK_STR && !jj_is_number(v)) return jj_type_error(r, "unsupported format string passed to %s.__format__", jj_type_name(v));
    TRY(parse_spec(r, s, &o, v));
    if (jj_is_number(v)) return format_number(r, v, &o, b);
    if (o.type && o.type != 's') return unknown_code(r, o.type, v);
    if (o.sign) return jj_value_error(r, "%s not allowed in string format specifier", o.sign == ' ' ? "Space" : "Sign");
    if (o.alt) return jj_value_error(r, "Alternate form (#) not allowed in string format specifier");
    if (o.align == '=' && !o.zero) return jj_value_error(r, "'=' alignment not allowed in string format specifier");
    if (o.zero) o.align = '<';
    if (o.group) return jj_value_error(r, "Cannot specify '%c' with 's'.", o.group);
    jval text = v;
    if (o.prec >= 0) TRY(jj_slice(r, v, jj_none(), jj_int(o.prec), jj_none(), &text));
    return pad_out(&o, '<', &empty, text.u.s, b);
}

/* ---- str.format ---- */
typedef struct formatter {
    jrt *r;
    const jargs *a;
    jval mapping;
    int64_t auto_index;    /* -1: numbered by hand */
    bool manual, markup;
} formatter;

static status first_value(formatter *f, const jstr *s, size_t n, jval *out)
{
    jrt *r = f->r;
    bool digits = n > 0;
    for (size_t i = 0; i < n; i++) digits = digits && s->data[i] >= '0' && s->data[i] <= '9';
    if (n == 0 || digits) {
        int64_t k = 0;
        if (n == 0) {
            if (f->manual) return jj_value_error(r, "cannot switch from manual field specification to automatic field numbering");
            k = f->auto_index++;
        } else {
            if (f->auto_index) return jj_value_error(r, "cannot switch from manual field specification to automatic field numbering");
            f->manual = true;
            for (size_t i = 0; i < n && k < MAX_WIDTH; i++) k = k * 10 + (s->data[i] - '0');
        }
        if (k >= (int64_t)f->a->n) return jj_fail(r, JINJA_OTHER, "tuple index out of range");
        *out = f->a->v[k];
        return ST_OK;
    }
    if (f->mapping.kind != JK_MISSING) {
        jval key;
        bool found;
        TRY(jj_str(r, s->data, n, &key));
        TRY(jj_subscript(r, f->mapping, key, out, &found));
        return found ? ST_OK : jj_fail(r, JINJA_OTHER, "%s", jj_repr_c(r, key));
    }
    for (size_t i = 0; i < f->a->n_kw; i++)
        if (f->a->kw[i].name->len == n && !memcmp(f->a->kw[i].name->data, s->data, n)) {
            *out = f->a->kw[i].val;
            return ST_OK;
        }
    jval name;
    TRY(jj_str(r, s->data, n, &name));
    return jj_fail(r, JINJA_OTHER, "%s", jj_repr_c(r, name));
}

/* name.attr[item]... with the sandbox's lookups */
static status get_field(formatter *f, const jstr *s, jval *out)
{
    jrt *r = f->r;
    size_t i = 0;
    while (i < s->len && s->data[i] != '.' && s->data[i] != '[') i++;
    TRY(first_value(f, s, i, out));
    while (i < s->len) {
        size_t from = i + 1, to = from;
        jval key;
        if (s->data[i] == '.') {
            while (to < s->len && s->data[to] != '.' && s->data[to] != '[') to++;
            if (to == from) return jj_value_error(r, "Empty attribute in format string");
            TRY(jj_str_part(r, s, from, to - from, &key));
            TRY(jj_getattr(r, *out, key.u.s, out));
            i = to;
            continue;
        }
        if (s->data[i] != '[') return jj_value_error(r, "Only '.' or '[' may follow ']' in format field specifier");
        while (to < s->len && s->data[to] != ']') to++;
        if (to == s->len) return jj_value_error(r, "Missing ']' in format string");
        if (to == from) return jj_value_error(r, "Empty attribute in format string");
        bool digits = true;
        for (size_t k = from; k < to; k++) digits = digits && s->data[k] >= '0' && s->data[k] <= '9';
        TRY(jj_str_part(r, s, from, to - from, &key));
        if (digits && to - from < 18) {
            int64_t k = 0;
            for (size_t j = from; j < to; j++) k = k * 10 + (s->data[j] - '0');
            key = jj_int(k);
        }
        TRY(jj_getitem(r, *out, key, out));
        i = to + 1;
    }
    return ST_OK;
}

static status format_into(formatter *f, const jstr *s, int depth, jsb *b);

/* Splits "name!r:spec}" at *i, which moves past it. */
static status split_field(jrt *r, const jstr *s, size_t *i, size_t *name_end, char *conv, size_t *spec_from, size_t *spec_end)
{
    char c = 0;
    while (*i < s->len) {
        c = s->data[(*i)++];
        if (c == '{') return jj_value_error(r, "unexpected '{' in field name");
        if (c == '[') while (*i < s->len && s->data[*i] != ']') ++*i;
        if (c == '}' || c == ':' || c == '!') break;
    }
    if (c != '}' && c != ':' && c != '!') return jj_value_error(r, "expected '}' before end of string");
    *name_end = *spec_from = *spec_end = *i - 1;
    *conv = 0;
    if (c == '}') return ST_OK;
    if (c == '!') {
        if (*i >= s->len) return jj_value_error(r, "end of string while looking for conversion specifier");
        *conv = s->data[(*i)++];
        if (*i < s->len) {
            c = s->data[(*i)++];
            if (c == '}') return ST_OK;
            if (c != ':') return jj_value_error(r, "expected ':' after conversion specifier");
        }
    }
    *spec_from = *i;
    for (size_t nest = 1; *i < s->len;) {
        c = s->data[(*i)++];
        nest += c == '{';
        nest -= c == '}';
        if (nest) continue;
        *spec_end = *i - 1;
        return ST_OK;
    }
    return jj_value_error(r, "unmatched '{' in format spec");
}

static status one_field(formatter *f, const jstr *s, size_t *i, int depth, jsb *b)
{
    jrt *r = f->r;
    jval name, v, fs;
    size_t from = *i, name_end = from, spec_from = from, spec_end = from;
    char conv = 0;
    TRY(split_field(r, s, i, &name_end, &conv, &spec_from, &spec_end));
    TRY(jj_str_part(r, s, from, name_end - from, &name));
    TRY(get_field(f, name.u.s, &v));
    if (conv == 's') TRY(jj_to_str(r, v, &v));
    else if (conv == 'r') TRY(jj_repr(r, v, &v));
    else if (conv == 'a') {
        jval rep;
        TRY(jj_repr(r, v, &rep));
        jsb ab = jj_sb(r);
        if (v.kind == JK_STR) jj_repr_str(&ab, v.u.s, true);
        else jj_sb_jstr(&ab, rep.u.s);
        TRY(jj_sb_take(&ab, &v));
    } else if (conv) return jj_value_error(r, "Unknown conversion specifier %c", conv);
    TRY(jj_cstr(r, "", &fs));
    if (spec_from < spec_end) {
        jval raw;
        jsb sb = jj_sb(r);
        TRY(jj_str_part(r, s, spec_from, spec_end - spec_from, &raw));
        TRY(format_into(f, raw.u.s, depth + 1, &sb));
        TRY(jj_sb_take(&sb, &fs));
    }
    if (!f->markup) return jj_format_spec(r, v, fs.u.s, b);
    jsb sb = jj_sb(r);
    if (v.kind == JK_STR && v.u.s->markup) {
        if (fs.u.s->len) return jj_value_error(r, "Unsupported format specification for Markup.");
        jj_sb_jstr(b, v.u.s);
        return b->st;
    }
    TRY(jj_format_spec(r, v, fs.u.s, &sb));
    TRY(jj_sb_take(&sb, &v));
    jj_escape_to(b, v.u.s);
    return b->st;
}

static status format_into(formatter *f, const jstr *s, int depth, jsb *b)
{
    jrt *r = f->r;
    if (depth > 2) return jj_value_error(r, "Max string recursion exceeded");
    for (size_t i = 0; i < s->len;) {
        size_t from = i;
        while (i < s->len && s->data[i] != '{' && s->data[i] != '}') i++;
        jj_sb_put(b, s->data + from, i - from);
        if (i == s->len) break;
        char c = s->data[i++];
        if (i < s->len && s->data[i] == c) {
            jj_sb_char(b, c);
            i++;
            continue;
        }
        if (c == '}') return jj_value_error(r, "Single '}' encountered in format string");
        if (i == s->len) return jj_value_error(r, "Single '{' encountered in format string");
        TRY(one_field(f, s, &i, depth, b));
    }
    return b->st;
}

status jj_str_format(jrt *r, const jstr *fmt, const jargs *a, jval mapping, jval *out)
{
    formatter f = { .r = r, .a = a, .mapping = mapping, .markup = fmt->markup };
    jsb b = jj_sb(r);
    TRY(format_into(&f, fmt, 1, &b));
    TRY(jj_sb_take(&b, out));
    return fmt->markup ? jj_markup(r, *out, out) : ST_OK;
}

/* ---- % ---- */
typedef struct percent {
    jrt *r;
    const jval *args;
    size_t n, next;
    bool tuple, is_map, markup;
    jval value;
} percent;

static status next_arg(percent *p, jval *out)
{
    if (p->next >= p->n) return jj_type_error(p->r, "not enough arguments for format string");
    *out = p->args[p->next++];
    return ST_OK;
}

static status percent_number(percent *p, jval v, char c, spec *o, jsb *b)
{
    jrt *r = p->r;
    jsb num = jj_sb(r), pre = jj_sb(r);
    bool neg;
    if (v.kind == JK_UNDEF && strchr("diueEfFgG", c)) return jj_undefined_error(r, v);
    if (v.kind == JK_BIG && strchr("diu", c)) {
        neg = v.u.s->data[0] == '-';
        jj_sb_put(&num, v.u.s->data + neg, v.u.s->len - neg);
    } else if (strchr("diuoxX", c)) {
        int64_t i;
        if (v.kind == JK_FLOAT && strchr("diu", c)) {
            if (isnan(v.u.f)) return jj_value_error(r, "cannot convert float NaN to integer");
            if (isinf(v.u.f)) return jj_fail(r, JINJA_OTHER, "cannot convert float infinity to integer");
            if (fabs(v.u.f) >= 9.2e18) return jj_fail(r, JINJA_OTHER, "integers beyond 64 bits are not supported");
            i = (int64_t)v.u.f;
        } else if (jj_is_int(v)) {
            i = jj_as_int(v);
        } else {
            return jj_type_error(r, strchr("diu", c) ? "%%%c format: a real number is required, not %s" : "%%%c format: an integer is required, not %s", c, jj_type_name(v));
        }
        neg = i < 0;
        int_text(magnitude(i), c, &num);
        if (o->prec > 10000) return jj_value_error(r, "precision too big");
        if ((int64_t)num.b.used < o->prec) {
            jsb z = jj_sb(r);
            for (int64_t k = (int64_t)num.b.used; k < o->prec; k++) jj_sb_char(&z, '0');
            jj_sb_put(&z, num.b.data, num.b.used);
            num = z;
        }
    } else {
        double d;
        if (jj_is_number(v)) d = jj_as_float(v);
        else return jj_type_error(r, "must be real number, not %s", jj_type_name(v));
        neg = signbit(d) && !isnan(d);
        TRY(float_text(r, fabs(d), c, o->prec < 0 ? 6 : o->prec, o->alt, &num));
    }
    if (neg) jj_sb_char(&pre, '-');
    else if (o->sign) jj_sb_char(&pre, o->sign);
    if (o->alt && strchr("oxX", c)) {
        jj_sb_char(&pre, '0');
        jj_sb_char(&pre, c);
    }
    jval body, prefix;
    TRY(jj_sb_take(&num, &body));
    TRY(jj_sb_take(&pre, &prefix));
    if (o->zero && o->align != '<') o->fill = '0', o->align = '=';
    return pad_out(o, '>', prefix.u.s, body.u.s, b);
}

static status percent_text(percent *p, jval v, char c, spec *o, jsb *b)
{
    static const jstr empty = { "", 0, NULL, true, false };
    jrt *r = p->r;
    jval s;
    if (c == 'c') {
        jsb one = jj_sb(r);
        if (v.kind == JK_STR && jj_str_cps(v.u.s) == 1) jj_sb_jstr(&one, v.u.s);
        else if (jj_is_int(v) && jj_as_int(v) >= 0 && jj_as_int(v) <= 0x10FFFF) jj_sb_cp(&one, (uint32_t)jj_as_int(v));
        else if (jj_is_int(v)) return jj_fail(r, JINJA_OTHER, "%%c arg not in range(0x110000)");
        else return jj_type_error(r, "%%c requires int or char");
        TRY(jj_sb_take(&one, &s));
    } else if (c == 's') {
        TRY(jj_to_str(r, v, &s));
        if (p->markup) TRY(jj_escape(r, s, &s));
    } else if (c == 'a' && v.kind == JK_STR) {
        jsb ab = jj_sb(r);
        jj_repr_str(&ab, v.u.s, true);
        TRY(jj_sb_take(&ab, &s));
    } else {
        TRY(jj_repr(r, v, &s));
        if (p->markup) TRY(jj_escape(r, s, &s));
    }
    if (o->prec >= 0 && c != 'c') TRY(jj_slice(r, s, jj_none(), jj_int(o->prec), jj_none(), &s));
    return pad_out(o, '>', &empty, s.u.s, b);
}

static status star_or_digits(percent *p, const jstr *f, size_t *i, int64_t *out)
{
    if (*i < f->len && f->data[*i] == '*') {
        jval v;
        TRY(next_arg(p, &v));
        if (!jj_is_int(v)) return jj_type_error(p->r, "* wants int");
        *out = jj_as_int(v);
        if (*out > MAX_WIDTH || *out < -MAX_WIDTH) return jj_value_error(p->r, "width too big");
        ++*i;
        return ST_OK;
    }
    for (*out = 0; *i < f->len && isdigit((unsigned char)f->data[*i]); ++*i) {
        *out = *out * 10 + (f->data[*i] - '0');
        if (*out > MAX_WIDTH) return jj_value_error(p->r, "width too big");
    }
    return ST_OK;
}

static status one_percent(percent *p, const jstr *f, size_t *i, jsb *b)
{
    jrt *r = p->r;
    spec o = { .fill = ' ', .prec = -1 };
    jval v = jj_none();
    bool keyed = false;
    if (*i < f->len && f->data[*i] == '(') {
        size_t from = *i + 1, nest = 1;
        if (!p->is_map) return jj_type_error(r, "format requires a mapping");
        for (++*i; *i < f->len && nest; ++*i) nest += f->data[*i] == '(', nest -= f->data[*i] == ')';
        if (nest) return jj_value_error(r, "incomplete format key");
        jval key;
        bool found;
        TRY(jj_str_part(r, f, from, *i - 1 - from, &key));
        TRY(jj_subscript(r, p->value, key, &v, &found));
        if (!found) {
            if (p->value.kind != JK_DICT) return jj_type_error(r, "%s indices must be integers or slices, not str", jj_type_name(p->value));
            return jj_fail(r, JINJA_OTHER, "%s", jj_repr_c(r, key));
        }
        keyed = true;
    }
    for (; *i < f->len && strchr("-+ #0", f->data[*i]) && f->data[*i]; ++*i) {
        char c = f->data[*i];
        if (c == '-') o.align = '<';
        else if (c == '+') o.sign = '+';
        else if (c == ' ') o.sign = o.sign ? o.sign : ' ';
        else if (c == '#') o.alt = true;
        else o.zero = true;
    }
    TRY(star_or_digits(p, f, i, &o.width));
    if (o.width < 0) o.align = '<', o.width = -o.width;
    if (*i < f->len && f->data[*i] == '.') {
        ++*i;
        TRY(star_or_digits(p, f, i, &o.prec));
        if (o.prec < 0) o.prec = 0;
    }
    while (*i < f->len && strchr("hlL", f->data[*i]) && f->data[*i]) ++*i;
    if (*i >= f->len) return jj_value_error(r, "incomplete format");
    char c = f->data[(*i)++];
    if (c == '%') {
        jj_sb_char(b, '%');
        return ST_OK;
    }
    if (!keyed) TRY(next_arg(p, &v));
    if (c && strchr("srac", c)) return percent_text(p, v, c, &o, b);
    if (c && strchr("diuoxXeEfFgG", c)) return percent_number(p, v, c, &o, b);
    uint32_t cp;
    size_t at = *i - 1, len = utf8_decode(f->data + at, f->len - at, &cp);
    return jj_value_error(r, "unsupported format character '%.*s' (0x%x) at index %zu", cp >= 31 && cp < 127 ? (int)len : 1, cp >= 31 && cp < 127 ? f->data + at : "?", (unsigned)cp,
                          utf8_count(f->data, at));
}

status jj_format_percent(jrt *r, const jstr *f, jval args, jval *out)
{
    percent p = { .r = r, .args = &args, .n = 1, .value = args, .markup = f->markup };
    if (args.kind == JK_TUPLE) {
        p.args = args.u.l->v;
        p.n = args.u.l->n;
    }
    p.is_map = args.kind == JK_DICT || args.kind == JK_LIST || args.kind == JK_UNDEF || args.kind == JK_RANGE;
    jsb b = jj_sb(r);
    for (size_t i = 0; i < f->len;) {
        const char *q = memchr(f->data + i, '%', f->len - i);
        size_t n = q ? (size_t)(q - (f->data + i)) : f->len - i;
        jj_sb_put(&b, f->data + i, n);
        i += n;
        if (!q) break;
        i++;
        TRY(one_percent(&p, f, &i, &b));
    }
    if (p.next < p.n && !p.is_map) return jj_type_error(r, "not all arguments converted during string formatting");
    TRY(jj_sb_take(&b, out));
    return f->markup ? jj_markup(r, *out, out) : ST_OK;
}
