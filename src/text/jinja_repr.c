/* str(), repr(), markupsafe's escape and json.dumps of values. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_ast.h"
#include "text/unicode.h"

static void put_escaped_cp(jsb *b, uint32_t cp)
{
    jj_sb_printf(b, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)cp);
}

void jj_repr_str(jsb *b, const jstr *s, bool ascii_only)
{
    char q = s->len && memchr(s->data, '\'', s->len) && !memchr(s->data, '"', s->len) ? '"' : '\'';
    jj_sb_char(b, q);
    for (size_t i = 0, from = 0; i <= s->len;) {
        uint32_t cp = 0;
        size_t n = i < s->len ? utf8_decode(s->data + i, s->len - i, &cp) : 1;
        bool plain = i < s->len && cp != (unsigned char)q && cp != '\\' && (cp < 0x80 ? cp >= 0x20 && cp < 0x7F : !ascii_only && unicode_is_printable(cp));
        if (!plain) {
            jj_sb_put(b, s->data + from, i - from);
            from = i + n;
            if (i == s->len) break;
            if (cp == (unsigned char)q || cp == '\\') {
                jj_sb_char(b, '\\');
                jj_sb_char(b, (char)cp);
            } else if (cp == '\n' || cp == '\r' || cp == '\t') {
                jj_sb_str(b, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
            } else {
                put_escaped_cp(b, cp);
            }
        }
        i += n;
    }
    jj_sb_char(b, q);
}

static status repr_list(jsb *b, const jlist *l, char open, char close)
{
    jj_sb_char(b, open);
    for (size_t i = 0; i < l->n; i++) {
        if (i) jj_sb_str(b, ", ");
        TRY(jj_repr_to(b, l->v[i]));
    }
    if (open == '(' && l->n == 1) jj_sb_char(b, ',');
    jj_sb_char(b, close);
    return ST_OK;
}

static status repr_dict(jsb *b, const jdict *d)
{
    jj_sb_char(b, '{');
    for (size_t i = 0; i < d->n; i++) {
        if (i) jj_sb_str(b, ", ");
        TRY(jj_repr_to(b, d->e[i].key));
        jj_sb_str(b, ": ");
        TRY(jj_repr_to(b, d->e[i].val));
    }
    jj_sb_char(b, '}');
    return ST_OK;
}

static status repr_view(jsb *b, jval v)
{
    jvec items = { 0 };
    jval l;
    TRY(jj_to_vec(b->r, v, &items));
    TRY(jj_vec_list(b->r, &items, JK_LIST, &l));
    jj_sb_printf(b, "%s(", jj_type_name(v));
    TRY(repr_list(b, l.u.l, '[', ']'));
    jj_sb_char(b, ')');
    return ST_OK;
}

static status repr_object(jsb *b, jval v)
{
    int64_t n;
    switch (v.kind) {
    case JK_RANGE:
        jj_sb_printf(b, "range(%lld, %lld", (long long)v.u.range->start, (long long)v.u.range->stop);
        if (v.u.range->step != 1) jj_sb_printf(b, ", %lld", (long long)v.u.range->step);
        jj_sb_char(b, ')');
        return ST_OK;
    case JK_NS:
        jj_sb_str(b, "<Namespace ");
        TRY(repr_dict(b, &v.u.ns->d));
        jj_sb_char(b, '>');
        return ST_OK;
    case JK_MACRO:
        jj_sb_str(b, "<Macro ");
        if (v.u.macro->node->name) jj_repr_str(b, v.u.macro->node->name, false);
        else jj_sb_str(b, "anonymous");
        jj_sb_char(b, '>');
        return ST_OK;
    case JK_LOOP:
        TRY(jj_len(b->r, v, &n));
        jj_sb_printf(b, "<LoopContext %lld/%lld>", (long long)v.u.loop->index0 + 1, (long long)n);
        return ST_OK;
    case JK_FN: jj_sb_printf(b, "<function %s at 0x7f0000000000>", v.u.fn->name); return ST_OK;
    case JK_METHOD:
        jj_sb_printf(b, "<built-in method %s of %s object at 0x7f0000000000>", v.u.method->fn->name, jj_type_name(v.u.method->self));
        return ST_OK;
    case JK_SELF: jj_sb_str(b, "<TemplateReference None>"); return ST_OK;
    case JK_ITER: jj_sb_printf(b, "<%s object%s%s at 0x7f0000000000>", v.u.it->type, v.u.it->name ? " " : "", v.u.it->name ? v.u.it->name : ""); return ST_OK;
    default: jj_sb_printf(b, "<%s object at 0x7f0000000000>", jj_type_name(v)); return ST_OK;
    }
}

status jj_repr_to(jsb *b, jval v)
{
    char num[40];
    TRY(b->st);
    switch (v.kind) {
    case JK_NONE: jj_sb_str(b, "None"); break;
    case JK_UNDEF: case JK_MISSING: jj_sb_str(b, "Undefined"); break;
    case JK_BOOL: jj_sb_str(b, v.u.b ? "True" : "False"); break;
    case JK_INT: jj_sb_printf(b, "%lld", (long long)v.u.i); break;
    case JK_BIG: jj_sb_jstr(b, v.u.s); break;
    case JK_FLOAT:
        json_repr_f64(num, sizeof num, v.u.f);
        jj_sb_str(b, num);
        break;
    case JK_STR:
        if (v.u.s->markup) jj_sb_str(b, "Markup(");
        jj_repr_str(b, v.u.s, false);
        if (v.u.s->markup) jj_sb_char(b, ')');
        break;
    default:
        TRY(jj_enter(b->r));
        if (v.kind == JK_LIST) TRY(repr_list(b, v.u.l, '[', ']'));
        else if (v.kind == JK_TUPLE) TRY(repr_list(b, v.u.l, '(', ')'));
        else if (v.kind == JK_DICT) TRY(repr_dict(b, v.u.d));
        else if (v.kind == JK_VIEW) TRY(repr_view(b, v));
        else TRY(repr_object(b, v));
        jj_leave(b->r);
    }
    return b->st;
}

status jj_str_to(jsb *b, jval v)
{
    if (v.kind == JK_STR) jj_sb_jstr(b, v.u.s);
    else if (v.kind != JK_UNDEF) TRY(jj_repr_to(b, v));
    return b->st;
}

status jj_repr(jrt *r, jval v, jval *out)
{
    jsb b = jj_sb(r);
    TRY(jj_repr_to(&b, v));
    return jj_sb_take(&b, out);
}

status jj_to_str(jrt *r, jval v, jval *out)
{
    if (v.kind == JK_STR) {
        *out = v;
        return ST_OK;
    }
    jsb b = jj_sb(r);
    TRY(jj_str_to(&b, v));
    return jj_sb_take(&b, out);
}

const char *jj_repr_c(jrt *r, jval v)
{
    jval s;
    jinja_error why = r->why;
    if (jj_repr(r, v, &s) != ST_OK) {
        r->why = why;
        return "?";
    }
    size_t n = s.u.s->len < 300 ? s.u.s->len : 300;
    n -= utf8_incomplete_tail(s.u.s->data, n);
    char *c = arena_strndup(&r->mem, s.u.s->data, n);
    return c ? c : "?";
}

void jj_escape_to(jsb *b, const jstr *s)
{
    for (size_t i = 0, from = 0; i <= s->len; i++) {
        const char *e = NULL;
        if (i < s->len) switch (s->data[i]) {
            case '&': e = "&amp;"; break;
            case '<': e = "&lt;"; break;
            case '>': e = "&gt;"; break;
            case '\'': e = "&#39;"; break;
            case '"': e = "&#34;"; break;
            default: continue;
        }
        jj_sb_put(b, s->data + from, i - from);
        from = i + 1;
        if (e) jj_sb_str(b, e);
    }
}

status jj_escape(jrt *r, jval v, jval *out)
{
    TRY(jj_to_str(r, v, &v));
    *out = v;
    if (v.u.s->markup) return ST_OK;
    jsb b = jj_sb(r);
    jj_escape_to(&b, v.u.s);
    TRY(jj_sb_take(&b, &v));
    return jj_markup(r, v, out);
}

/* ---- JSON as json.dumps writes it ---- */
static void json_str(jsb *b, const jstr *s, bool ascii)
{
    jj_sb_char(b, '"');
    for (size_t i = 0, from = 0; i <= s->len;) {
        unsigned char c = i < s->len ? (unsigned char)s->data[i] : 0;
        uint32_t cp = c;
        size_t n = 1;
        if (i < s->len && c >= 0x20 && c != '"' && c != '\\' && (!ascii || c < 0x7F)) {
            i++;
            continue;
        }
        jj_sb_put(b, s->data + from, i - from);
        if (i == s->len) break;
        if (c >= 0x80) n = utf8_decode(s->data + i, s->len - i, &cp);
        const char *e = c == '"' ? "\\\"" : c == '\\' ? "\\\\" : c == '\n' ? "\\n" : c == '\r' ? "\\r" : c == '\t' ? "\\t" : c == '\b' ? "\\b" : c == '\f' ? "\\f" : NULL;
        if (e) jj_sb_str(b, e);
        else if (cp >= 0x10000) jj_sb_printf(b, "\\u%04x\\u%04x", (unsigned)(0xD7C0 + (cp >> 10)), (unsigned)(0xDC00 | (cp & 0x3FF)));
        else jj_sb_printf(b, "\\u%04x", (unsigned)cp);
        i += n;
        from = i;
    }
    jj_sb_char(b, '"');
}

static void json_float(jsb *b, double d)
{
    char num[40];
    if (isnan(d)) jj_sb_str(b, "NaN");
    else if (isinf(d)) jj_sb_str(b, d > 0 ? "Infinity" : "-Infinity");
    else {
        json_repr_f64(num, sizeof num, d);
        jj_sb_str(b, num);
    }
}

static void newline(jsb *b, const jdump *o, int level)
{
    if (!o->has_indent) return;
    jj_sb_char(b, '\n');
    for (int i = 0; i < level; i++) jj_sb_jstr(b, o->indent);
}

static status json_value(jsb *b, jval v, const jdump *o, int level);

static status json_key(jsb *b, jval k, const jdump *o)
{
    if (k.kind == JK_STR) {
        json_str(b, k.u.s, o->ascii);
        return ST_OK;
    }
    if (!jj_is_number(k) && k.kind != JK_NONE)
        return jj_type_error(b->r, "keys must be str, int, float, bool or None, not %s", jj_type_name(k));
    jj_sb_char(b, '"');
    TRY(json_value(b, k, o, 0));
    jj_sb_char(b, '"');
    return ST_OK;
}

static status json_dict(jsb *b, const jdict *d, const jdump *o, int level)
{
    if (d->n == 0) {
        jj_sb_str(b, "{}");
        return ST_OK;
    }
    jval *k, *e;
    TRY(jj_alloc(b->r, d->n * sizeof *k, &k));
    TRY(jj_alloc(b->r, d->n * sizeof *e, &e));
    for (size_t i = 0; i < d->n; i++) {
        k[i] = d->e[i].key;
        e[i] = d->e[i].val;
    }
    if (o->sort) TRY(jj_sort(b->r, k, e, d->n, false));
    jj_sb_char(b, '{');
    for (size_t i = 0; i < d->n; i++) {
        if (i) jj_sb_jstr(b, o->item_sep);
        newline(b, o, level + 1);
        TRY(json_key(b, k[i], o));
        jj_sb_jstr(b, o->key_sep);
        TRY(json_value(b, e[i], o, level + 1));
    }
    newline(b, o, level);
    jj_sb_char(b, '}');
    return ST_OK;
}

static status json_list(jsb *b, const jlist *l, const jdump *o, int level)
{
    if (l->n == 0) {
        jj_sb_str(b, "[]");
        return ST_OK;
    }
    jj_sb_char(b, '[');
    for (size_t i = 0; i < l->n; i++) {
        if (i) jj_sb_jstr(b, o->item_sep);
        newline(b, o, level + 1);
        TRY(json_value(b, l->v[i], o, level + 1));
    }
    newline(b, o, level);
    jj_sb_char(b, ']');
    return ST_OK;
}

static status json_value(jsb *b, jval v, const jdump *o, int level)
{
    TRY(b->st);
    switch (v.kind) {
    case JK_NONE: jj_sb_str(b, "null"); return ST_OK;
    case JK_BOOL: jj_sb_str(b, v.u.b ? "true" : "false"); return ST_OK;
    case JK_INT: jj_sb_printf(b, "%lld", (long long)v.u.i); return ST_OK;
    case JK_FLOAT: json_float(b, v.u.f); return ST_OK;
    case JK_BIG: jj_sb_jstr(b, v.u.s); return ST_OK;
    case JK_STR: json_str(b, v.u.s, o->ascii); return ST_OK;
    case JK_LIST: case JK_TUPLE: case JK_DICT:
        TRY(jj_enter(b->r));
        TRY(v.kind == JK_DICT ? json_dict(b, v.u.d, o, level) : json_list(b, v.u.l, o, level));
        jj_leave(b->r);
        return b->st;
    default: return jj_type_error(b->r, "Object of type %s is not JSON serializable", jj_type_name(v));
    }
}

status jj_json(jrt *r, jval v, const jdump *o, jval *out)
{
    jsb b = jj_sb(r);
    TRY(json_value(&b, v, o, 0));
    return jj_sb_take(&b, out);
}
