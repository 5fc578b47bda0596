/* Values: making them, looking at them, iterating over them. */
#include "text/jinja_value.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/utf8.h"
#include "text/jinja_ast.h"

/* ---- failing ---- */
status jj_fail(jrt *r, jinja_error why, const char *fmt, ...)
{
    char msg[1000];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    r->why = why;
    return err_set(why == JINJA_LIMIT ? ST_LIMIT : ST_INVALID, "%s", msg);
}

status jj_no_attribute(jrt *r, jval v, const char *name)
{
    if (v.kind == JK_NS) return jj_fail(r, JINJA_OTHER, "%s", name); /* Namespace raises AttributeError(name) itself */
    return jj_fail(r, JINJA_OTHER, "'%s' object has no attribute '%s'", jj_type_name(v), name);
}

status jj_tick(jrt *r)
{
    if ((++r->ticks & 255) != 0) return ST_OK;
    if (clock_now() < r->deadline) return ST_OK;
    return jj_fail(r, JINJA_LIMIT, "the chat template took longer than %g seconds", r->lim.seconds);
}

status jj_enter(jrt *r)
{
    if (++r->depth <= r->max_depth) return jj_tick(r);
    return jj_fail(r, JINJA_LIMIT, "maximum recursion depth exceeded");
}

status jj_undefined_error(jrt *r, jval v)
{
    const jundef *u = v.u.undef;
    jinja_error why = u->security ? JINJA_SECURITY : JINJA_UNDEFINED;
    if (u->hint) return jj_fail(r, why, "%.*s", (int)u->hint->len, u->hint->data);
    if (u->obj.kind == JK_MISSING) return jj_fail(r, why, "%s is undefined", jj_repr_c(r, u->name));
    if (u->name.kind != JK_STR) return jj_fail(r, why, "%s has no element %s", jj_object_repr(u->obj), jj_repr_c(r, u->name));
    return jj_fail(r, why, "'%s' has no attribute %s", jj_object_repr(u->obj), jj_repr_c(r, u->name));
}

/* ---- memory ---- */
status jj_alloc(jrt *r, size_t bytes, void *out)
{
    void *p = arena_alloc(&r->mem, bytes);
    *(void **)out = p;
    if (!p) {
        if (bytes > r->lim.memory_bytes || r->mem.used_bytes > r->lim.memory_bytes - bytes || r->mem.used_bytes + bytes + 16 > r->lim.memory_bytes)
            return jj_fail(r, JINJA_LIMIT, "the chat template needs more than %zu bytes of memory", r->lim.memory_bytes);
        return err_nomem();
    }
    return ST_OK;
}

status jj_calloc(jrt *r, size_t n, size_t bytes, void *out)
{
    size_t total;
    if (__builtin_mul_overflow(n, bytes, &total)) total = SIZE_MAX / 4;
    TRY(jj_alloc(r, total, out));
    memset(*(void **)out, 0, total);
    return ST_OK;
}

/* ---- strings ---- */
static bool all_ascii(const char *s, size_t n)
{
    unsigned char acc = 0;
    for (size_t i = 0; i < n; i++) acc |= (unsigned char)s[i];
    return acc < 0x80;
}

status jj_str_borrow(jrt *r, const char *s, size_t n, jval *out)
{
    jstr *o;
    TRY(jj_calloc(r, 1, sizeof *o, &o));
    o->data = s;
    o->len = n;
    o->ascii = all_ascii(s, n);
    *out = jj_s(o);
    return ST_OK;
}

status jj_str(jrt *r, const char *s, size_t n, jval *out)
{
    char *d;
    TRY(jj_alloc(r, n, &d));
    if (n) memcpy(d, s, n);
    return jj_str_borrow(r, d, n, out);
}

status jj_cstr(jrt *r, const char *s, jval *out) { return jj_str_borrow(r, s, strlen(s), out); }

status jj_str_part(jrt *r, const jstr *of, size_t from, size_t n, jval *out)
{
    if (from == 0 && n == of->len && !of->markup) {
        *out = jj_s(of);
        return ST_OK;
    }
    jstr *o;
    TRY(jj_calloc(r, 1, sizeof *o, &o));
    o->data = of->data + from;
    o->len = n;
    o->ascii = of->ascii || (n <= 64 && all_ascii(o->data, n));
    *out = jj_s(o);
    return ST_OK;
}

static status with_markup(jrt *r, jval s, bool markup, jval *out)
{
    *out = s;
    if (s.u.s->markup == markup) return ST_OK;
    jstr *o;
    TRY(jj_calloc(r, 1, sizeof *o, &o));
    *o = *s.u.s;
    o->markup = markup;
    *out = jj_s(o);
    return ST_OK;
}

status jj_markup(jrt *r, jval s, jval *out) { return with_markup(r, s, true, out); }
status jj_plain(jrt *r, jval s, jval *out) { return with_markup(r, s, false, out); }

size_t jj_str_cps(const jstr *s) { return s->ascii ? s->len : utf8_count(s->data, s->len); }

size_t jj_str_offset(const jstr *s, size_t k)
{
    if (s->ascii) return k < s->len ? k : s->len;
    size_t i = 0;
    while (i < s->len && k-- > 0) {
        uint32_t cp;
        i += utf8_decode(s->data + i, s->len - i, &cp);
    }
    return i;
}

bool jj_str_is(jval v, const char *lit) { return v.kind == JK_STR && jp_str_is(v.u.s, lit); }

void jj_sb_put(jsb *b, const char *s, size_t n)
{
    if (b->st != ST_OK || n == 0) return;
    if (b->b.cap - b->b.used < n) {
        size_t cap = b->b.cap ? b->b.cap * 2 : 64;
        if (cap - b->b.used < n) cap = b->b.used + n;
        char *d;
        b->st = jj_alloc(b->r, cap, &d);
        if (b->st != ST_OK) return;
        if (b->b.used) memcpy(d, b->b.data, b->b.used);
        b->b.data = d;
        b->b.cap = cap;
    }
    memcpy(b->b.data + b->b.used, s, n);
    b->b.used += n;
    b->ascii = b->ascii && all_ascii(s, n);
}

void jj_sb_str(jsb *b, const char *s) { jj_sb_put(b, s, strlen(s)); }
void jj_sb_char(jsb *b, char c) { jj_sb_put(b, &c, 1); }

void jj_sb_cp(jsb *b, uint32_t cp)
{
    char d[4];
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000)) cp = 0xFFFD;
    size_t n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    if (n == 1) d[0] = (char)cp;
    else {
        for (size_t i = n; i-- > 1; cp >>= 6) d[i] = (char)(0x80 | (cp & 0x3F));
        d[0] = (char)((n == 2 ? 0xC0 : n == 3 ? 0xE0 : 0xF0) | cp);
    }
    jj_sb_put(b, d, n);
}

void jj_sb_printf(jsb *b, const char *fmt, ...)
{
    char s[600];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(s, sizeof s, fmt, ap);
    va_end(ap);
    if (n > 0) jj_sb_put(b, s, (size_t)n < sizeof s ? (size_t)n : sizeof s - 1);
}

status jj_sb_take(jsb *b, jval *out)
{
    TRY(b->st);
    jstr *o;
    jbuf *own;
    TRY(jj_calloc(b->r, 1, sizeof *o, &o));
    TRY(jj_calloc(b->r, 1, sizeof *own, &own));
    *own = b->b;
    *o = (jstr){ .data = own->data ? own->data : "", .len = own->used, .owner = own, .ascii = b->ascii };
    *out = jj_s(o);
    return ST_OK;
}

status jj_concat(jrt *r, const jstr *a, const jstr *b, jval *out)
{
    jstr *o;
    TRY(jj_calloc(r, 1, sizeof *o, &o));
    *o = (jstr){ .len = a->len + b->len, .ascii = a->ascii && b->ascii };
    jbuf *own = a->owner;
    bool extends = own && own->data && a->data + a->len == own->data + own->used && own->cap - own->used >= b->len;
    if (!extends) {
        TRY(jj_calloc(r, 1, sizeof *own, &own));
        own->cap = o->len + (a->owner ? o->len : 16); /* the second append to the same string makes room for more */
        TRY(jj_alloc(r, own->cap, &own->data));
        if (a->len) memcpy(own->data, a->data, a->len);
        own->used = a->len;
        o->data = own->data;
    } else {
        o->data = a->data;
    }
    if (b->len) memcpy(own->data + own->used, b->data, b->len);
    own->used += b->len;
    o->owner = own;
    *out = jj_s(o);
    return ST_OK;
}

/* ---- lists ---- */
status jj_push(jrt *r, jvec *v, jval x)
{
    if (v->n == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 8;
        jval *q;
        TRY(jj_alloc(r, cap * sizeof *q, &q));
        if (v->n) memcpy(q, v->v, v->n * sizeof *q);
        v->v = q;
        v->cap = cap;
    }
    v->v[v->n++] = x;
    return ST_OK;
}

status jj_vec_list(jrt *r, const jvec *v, jkind kind, jval *out)
{
    jlist *l;
    TRY(jj_calloc(r, 1, sizeof *l, &l));
    *l = (jlist){ .v = v->v, .n = v->n };
    *out = (jval){ kind, { .l = l } };
    return ST_OK;
}

status jj_list(jrt *r, jkind kind, const jval *v, size_t n, jval *out)
{
    jvec c = { .n = n };
    TRY(jj_alloc(r, n * sizeof *v, &c.v));
    if (n) memcpy(c.v, v, n * sizeof *v);
    return jj_vec_list(r, &c, kind, out);
}

status jj_pair(jrt *r, jval a, jval b, jval *out)
{
    jval v[2] = { a, b };
    return jj_list(r, JK_TUPLE, v, 2, out);
}

/* ---- undefined ---- */
static status make_undef(jrt *r, jundef u, jval *out)
{
    jundef *p;
    TRY(jj_calloc(r, 1, sizeof *p, &p));
    *p = u;
    *out = (jval){ JK_UNDEF, { .undef = p } };
    return ST_OK;
}

status jj_undef_name(jrt *r, const jstr *name, jval *out) { return make_undef(r, (jundef){ .obj = jj_missing(), .name = jj_s(name) }, out); }
status jj_undef_attr(jrt *r, jval obj, jval name, jval *out) { return make_undef(r, (jundef){ .obj = obj, .name = name }, out); }

status jj_undef_hint(jrt *r, const char *hint, jval *out)
{
    jval h;
    TRY(jj_str(r, hint, strlen(hint), &h));
    return make_undef(r, (jundef){ .hint = h.u.s, .obj = jj_missing(), .name = jj_none() }, out);
}

status jj_undef_unsafe(jrt *r, jval obj, const jstr *name, jval *out)
{
    jsb b = jj_sb(r);
    jj_sb_str(&b, "access to attribute ");
    jj_repr_str(&b, name, false);
    jj_sb_str(&b, " of '");
    jj_sb_str(&b, jj_type_name(obj));
    jj_sb_str(&b, "' object is unsafe.");
    jval h;
    TRY(jj_sb_take(&b, &h));
    return make_undef(r, (jundef){ .hint = h.u.s, .obj = obj, .name = jj_s(name), .security = true }, out);
}

status jj_method(jrt *r, jval self, const jfn *fn, jval *out)
{
    jmethod *m;
    TRY(jj_calloc(r, 1, sizeof *m, &m));
    *m = (jmethod){ self, fn };
    *out = (jval){ JK_METHOD, { .method = m } };
    return ST_OK;
}

/* ---- dicts ---- */
status jj_hash(jrt *r, jval v, uint64_t *out)
{
    switch (v.kind) {
    case JK_STR: case JK_BIG: *out = hash64(v.u.s->data, v.u.s->len); return ST_OK;
    case JK_BOOL: case JK_INT: *out = (uint64_t)jj_as_int(v) * 0x9E3779B97F4A7C15u; return ST_OK;
    case JK_FLOAT:
        if (v.u.f == floor(v.u.f) && fabs(v.u.f) < 9e18) *out = (uint64_t)(int64_t)v.u.f * 0x9E3779B97F4A7C15u;
        else *out = hash64(&v.u.f, sizeof v.u.f);
        return ST_OK;
    case JK_TUPLE: {
        uint64_t h = 0x345678, x;
        TRY(jj_enter(r));
        for (size_t i = 0; i < v.u.l->n; i++) {
            TRY(jj_hash(r, v.u.l->v[i], &x));
            h = (h ^ x) * 1000003u + i;
        }
        jj_leave(r);
        *out = h;
        return ST_OK;
    }
    case JK_LIST: return jj_type_error(r, "unhashable type: 'list'");
    case JK_DICT: return jj_type_error(r, "unhashable type: 'dict'");
    case JK_SLICE: return jj_type_error(r, "unhashable type: 'slice'");
    case JK_UNDEF: *out = 77; return ST_OK;
    case JK_NONE: *out = 78; return ST_OK;
    default: *out = (uint64_t)(uintptr_t)v.u.it * 0x9E3779B97F4A7C15u; return ST_OK;
    }
}

static status reindex(jrt *r, jdict *d)
{
    size_t cap = 32;
    while (cap < d->cap * 2) cap *= 2;
    TRY(jj_calloc(r, cap, sizeof *d->index, &d->index));
    d->mask = cap - 1;
    for (size_t i = 0; i < d->n; i++) {
        size_t h = d->e[i].hash & d->mask;
        while (d->index[h]) h = (h + 1) & d->mask;
        d->index[h] = (uint32_t)i + 1;
    }
    return ST_OK;
}

/* Position of the key or SIZE_MAX; *slot is where its index entry is or would go. */
static status locate(jrt *r, const jdict *d, jval key, uint64_t hash, size_t *pos, size_t *slot)
{
    *pos = SIZE_MAX;
    bool eq;
    if (!d->index) {
        for (size_t i = 0; i < d->n; i++) {
            if (d->e[i].hash != hash) continue;
            TRY(jj_eq(r, d->e[i].key, key, &eq));
            if (eq) {
                *pos = i;
                return ST_OK;
            }
        }
        return ST_OK;
    }
    size_t h = hash & d->mask;
    for (; d->index[h]; h = (h + 1) & d->mask) {
        const jentry *e = &d->e[d->index[h] - 1];
        if (e->hash != hash) continue;
        TRY(jj_eq(r, e->key, key, &eq));
        if (eq) {
            *pos = d->index[h] - 1;
            return ST_OK;
        }
    }
    *slot = h;
    return ST_OK;
}

status jj_dict_put(jrt *r, jdict *d, jval key, jval val)
{
    uint64_t hash;
    size_t pos, slot = 0;
    TRY(jj_hash(r, key, &hash));
    TRY(locate(r, d, key, hash, &pos, &slot));
    if (pos != SIZE_MAX) {
        d->e[pos].val = val;
        return ST_OK;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 8;
        jentry *e;
        TRY(jj_alloc(r, cap * sizeof *e, &e));
        if (d->n) memcpy(e, d->e, d->n * sizeof *e);
        d->e = e;
        d->cap = cap;
        d->e[d->n++] = (jentry){ key, val, hash };
        return cap > 8 ? reindex(r, d) : ST_OK;
    }
    if (d->index) d->index[slot] = (uint32_t)d->n + 1;
    d->e[d->n++] = (jentry){ key, val, hash };
    return ST_OK;
}

status jj_dict_find(jrt *r, const jdict *d, jval key, const jval **out)
{
    uint64_t hash;
    size_t pos, slot;
    *out = NULL;
    TRY(jj_hash(r, key, &hash));
    TRY(locate(r, d, key, hash, &pos, &slot));
    if (pos != SIZE_MAX) *out = &d->e[pos].val;
    return ST_OK;
}

const jval *jj_dict_str(const jdict *d, const char *key, size_t n)
{
    uint64_t hash = hash64(key, n);
    size_t h = d->index ? hash & d->mask : 0;
    for (size_t i = 0; d->index ? d->index[h] != 0 : i < d->n; i++) {
        const jentry *e = d->index ? &d->e[d->index[h] - 1] : &d->e[i];
        if (e->hash == hash && e->key.kind == JK_STR && e->key.u.s->len == n && !memcmp(e->key.u.s->data, key, n)) return &e->val;
        h = (h + 1) & d->mask;
    }
    return NULL;
}

status jj_dict_new(jrt *r, jdict **out) { return jj_calloc(r, 1, sizeof **out, out); }

status jj_dict_copy(jrt *r, const jdict *from, jdict **out)
{
    TRY(jj_dict_new(r, out));
    for (size_t i = 0; i < from->n; i++) TRY(jj_dict_put(r, *out, from->e[i].key, from->e[i].val));
    return ST_OK;
}

status jj_from_json(jrt *r, const jv *v, jval *out)
{
    switch (jv_type(v)) {
    case JV_BOOL: *out = jj_bool(jv_bool(v, false)); return ST_OK;
    case JV_INT: *out = jj_int(jv_i64(v, 0)); return ST_OK;
    case JV_REAL:
        if (jv_big(v)) {
            TRY(jj_str_borrow(r, jv_big(v), strlen(jv_big(v)), out));
            out->kind = JK_BIG;
            return ST_OK;
        }
        *out = jj_float(jv_f64(v, 0));
        return ST_OK;
    case JV_STR: return jj_str_borrow(r, jv_str(v, ""), jv_len(v), out);
    case JV_ARR: {
        jvec l = { 0 };
        TRY(jj_enter(r));
        for (size_t i = 0; i < jv_len(v); i++) {
            jval x;
            TRY(jj_from_json(r, jv_at(v, i), &x));
            TRY(jj_push(r, &l, x));
        }
        jj_leave(r);
        return jj_vec_list(r, &l, JK_LIST, out);
    }
    case JV_OBJ: {
        jdict *d;
        TRY(jj_dict_new(r, &d));
        TRY(jj_enter(r));
        for (jv_iter it = jv_begin(v); jv_next(&it);) {
            jval k, x;
            TRY(jj_str_borrow(r, it.key, it.key_len, &k));
            TRY(jj_from_json(r, it.val, &x));
            TRY(jj_dict_put(r, d, k, x));
        }
        jj_leave(r);
        *out = (jval){ JK_DICT, { .d = d } };
        return ST_OK;
    }
    default: *out = jj_none(); return ST_OK;
    }
}

/* ---- looking ---- */
const char *jj_type_name(jval v)
{
    switch (v.kind) {
    case JK_UNDEF: case JK_MISSING: return "Undefined";
    case JK_NONE: return "NoneType";
    case JK_BOOL: return "bool";
    case JK_INT: case JK_BIG: return "int";
    case JK_FLOAT: return "float";
    case JK_STR: return v.u.s->markup ? "Markup" : "str";
    case JK_LIST: return "list";
    case JK_TUPLE: return v.u.l->group ? "_GroupTuple" : "tuple";
    case JK_DICT: return "dict";
    case JK_VIEW: return v.u.view->what == JVIEW_KEYS ? "dict_keys" : v.u.view->what == JVIEW_VALUES ? "dict_values" : "dict_items";
    case JK_RANGE: return "range";
    case JK_NS: return "TemplateNamespace";
    case JK_ITER: return v.u.it->type;
    case JK_FN: return "function";
    case JK_METHOD: return "builtin_function_or_method";
    case JK_MACRO: return "Macro";
    case JK_LOOP: return "LoopContext";
    case JK_CYCLER: return "Cycler";
    case JK_JOINER: return "Joiner";
    case JK_DICTTYPE: return "TemplateDict";
    case JK_SELF: return "TemplateReference";
    case JK_BLOCKREF: return "BlockReference";
    case JK_SLICE: return "slice";
    }
    return "object";
}

const char *jj_object_repr(jval v)
{
    switch (v.kind) {
    case JK_NONE: return "None";
    case JK_BOOL: return "bool object";
    case JK_INT: case JK_BIG: return "int object";
    case JK_FLOAT: return "float object";
    case JK_STR: return v.u.s->markup ? "markupsafe.Markup object" : "str object";
    case JK_LIST: return "list object";
    case JK_TUPLE: return v.u.l->group ? "jinja2.filters._GroupTuple object" : "tuple object";
    case JK_DICT: return "dict object";
    case JK_VIEW: return v.u.view->what == JVIEW_KEYS ? "dict_keys object" : v.u.view->what == JVIEW_VALUES ? "dict_values object" : "dict_items object";
    case JK_RANGE: return "range object";
    case JK_NS: return "transformers.utils.chat_template_utils.TemplateNamespace object";
    case JK_ITER: {
        static const char *const with_object[] = { "generator", "list_reverseiterator", "reversed", "range_iterator", "dict_reversekeyiterator", "dict_reversevalueiterator", "dict_reverseitemiterator" };
        static const char *const reprs[] = { "generator object", "list_reverseiterator object", "reversed object", "range_iterator object", "dict_reversekeyiterator object", "dict_reversevalueiterator object", "dict_reverseitemiterator object" };
        for (size_t i = 0; i < sizeof with_object / sizeof *with_object; i++)
            if (!strcmp(v.u.it->type, with_object[i])) return reprs[i];
        return "generator object";
    }
    case JK_FN: return "function object";
    case JK_METHOD: return "builtin_function_or_method object";
    case JK_MACRO: return "jinja2.runtime.Macro object";
    case JK_LOOP: return "jinja2.runtime.LoopContext object";
    case JK_CYCLER: return "jinja2.utils.Cycler object";
    case JK_JOINER: return "jinja2.utils.Joiner object";
    case JK_DICTTYPE: return "transformers.utils.chat_template_utils.TemplateDict object";
    case JK_SELF: return "jinja2.runtime.TemplateReference object";
    case JK_BLOCKREF: return "jinja2.runtime.BlockReference object";
    case JK_SLICE: return "slice object";
    default: return "jinja2.runtime.Undefined object";
    }
}

bool jj_truth(jrt *r, jval v)
{
    (void)r;
    switch (v.kind) {
    case JK_MISSING: case JK_UNDEF: case JK_NONE: return false;
    case JK_BOOL: return v.u.b;
    case JK_INT: return v.u.i != 0;
    case JK_FLOAT: return v.u.f != 0;
    case JK_STR: return v.u.s->len != 0;
    case JK_LIST: case JK_TUPLE: return v.u.l->n != 0;
    case JK_DICT: return v.u.d->n != 0;
    case JK_VIEW: return v.u.view->d->n != 0;
    case JK_RANGE: return v.u.range->n != 0;
    default: return true;
    }
}

bool jj_callable(jval v)
{
    switch (v.kind) {
    case JK_FN: case JK_METHOD: case JK_MACRO: case JK_LOOP: case JK_JOINER: case JK_DICTTYPE: case JK_BLOCKREF: case JK_UNDEF: return true;
    default: return false;
    }
}

bool jj_is(jval a, jval b)
{
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case JK_NONE: return true;
    case JK_BOOL: return a.u.b == b.u.b;
    case JK_INT: return a.u.i == b.u.i && a.u.i >= -5 && a.u.i <= 256;
    case JK_FLOAT: return false;
    default: return a.u.s == b.u.s;
    }
}

bool jj_has_len(jval v)
{
    switch (v.kind) {
    case JK_STR: case JK_LIST: case JK_TUPLE: case JK_DICT: case JK_VIEW: case JK_RANGE: case JK_LOOP: case JK_UNDEF: return true;
    default: return false;
    }
}

status jj_len(jrt *r, jval v, int64_t *out)
{
    switch (v.kind) {
    case JK_UNDEF: *out = 0; return ST_OK;
    case JK_STR: *out = (int64_t)jj_str_cps(v.u.s); return ST_OK;
    case JK_LIST: case JK_TUPLE: *out = (int64_t)v.u.l->n; return ST_OK;
    case JK_DICT: *out = (int64_t)v.u.d->n; return ST_OK;
    case JK_VIEW: *out = (int64_t)v.u.view->d->n; return ST_OK;
    case JK_RANGE: *out = (int64_t)v.u.range->n; return ST_OK;
    case JK_LOOP: {
        static const jstr name = { .data = "length", .len = 6, .ascii = true };
        jval n;
        bool found;
        TRY(jj_loop_attr(r, v.u.loop, &name, &n, &found));
        *out = n.u.i;
        return ST_OK;
    }
    default: return jj_type_error(r, "object of type '%s' has no len()", jj_type_name(v));
    }
}
