/* Filters on sequences and mappings, and the table of all filters. */
#include "text/jinja_filters.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/utf8.h"
#include "text/jinja_ast.h"

/* ---- attribute paths: "a.b.0" ---- */
static bool is_digits(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] < '0' || s[i] > '9') return false;
    return n > 0 && n < 19;
}

static status path_parts(jrt *r, jval attr, jpath *p)
{
    if (attr.kind == JK_NONE || attr.kind == JK_MISSING) return ST_OK;
    if (attr.kind != JK_STR) return jj_push(r, &p->parts, attr);
    const jstr *s = attr.u.s;
    for (size_t from = 0; from <= s->len;) {
        const char *dot = s->len > from ? memchr(s->data + from, '.', s->len - from) : NULL;
        size_t n = dot ? (size_t)(dot - (s->data + from)) : s->len - from;
        jval part;
        if (is_digits(s->data + from, n)) {
            char num[24];
            memcpy(num, s->data + from, n);
            num[n] = 0;
            part = jj_int(strtoll(num, NULL, 10));
        } else {
            TRY(jj_str_part(r, s, from, n, &part));
        }
        TRY(jj_push(r, &p->parts, part));
        from += n + 1;
    }
    return ST_OK;
}

status jj_path(jrt *r, jval attr, bool lower, jval def, jpath *p)
{
    *p = (jpath){ .lower = lower, .def = def };
    return path_parts(r, attr, p);
}

status jj_path_get(jrt *r, const jpath *p, jval v, jval *out)
{
    for (size_t i = 0; i < p->parts.n; i++) {
        TRY(jj_getitem(r, v, p->parts.v[i], &v));
        if (v.kind == JK_UNDEF && p->def.kind != JK_MISSING && p->def.kind != JK_NONE) v = p->def;
    }
    if (p->lower && v.kind == JK_STR) TRY(jj_lower(r, v.u.s, &v));
    *out = v;
    return ST_OK;
}

static bool flag(jrt *r, jval v, bool def) { return v.kind == JK_MISSING ? def : jj_truth(r, v); }

#define BIND(fname, n_req, hidden, ...)                                                                          \
    static const char *const names_[] = { __VA_ARGS__ };                                                        \
    jval p[sizeof names_ / sizeof *names_];                                                                     \
    TRY(jj_bind(r, fname, names_, sizeof names_ / sizeof *names_, n_req, hidden, a, p));                         \
    (void)self

/* ---- length, first, last ---- */
static status f_length(jrt *r, jval self, const jargs *a, jval *out)
{
    int64_t n;
    (void)self;
    if (a->n != 1 || a->n_kw) return jj_type_error(r, "len() takes exactly one argument (%zu given)", a->n + a->n_kw);
    TRY(jj_len(r, a->v[0], &n));
    *out = jj_int(n);
    return ST_OK;
}

static status f_first(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("sync_do_first", 1, 1, "seq");
    jiter *it;
    bool done;
    TRY(jj_iter(r, p[0], &it));
    TRY(jj_next(r, it, out, &done));
    return done ? jj_undef_hint(r, "No first item, sequence was empty.", out) : ST_OK;
}

static status f_last(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_last", 1, 1, "seq");
    bool bad, done;
    TRY(jj_reversed(r, p[0], out, &bad));
    if (bad) return jj_type_error(r, "'%s' object is not reversible", jj_type_name(p[0]));
    TRY(jj_next(r, out->u.it, out, &done));
    return done ? jj_undef_hint(r, "No last item, sequence was empty.", out) : ST_OK;
}

static status f_random(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_random", 1, 1, "seq");
    int64_t n;
    uint64_t x;
    TRY(jj_len(r, p[0], &n));
    if (n == 0) return jj_undef_hint(r, "No random item, sequence was empty.", out);
    random_bytes(&x, sizeof x);
    return jj_getitem(r, p[0], jj_int((int64_t)(x % (uint64_t)n)), out);
}

static status f_list(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("sync_do_list", 1, 0, "value");
    jvec v = { 0 };
    TRY(jj_to_vec(r, p[0], &v));
    return jj_vec_list(r, &v, JK_LIST, out);
}

static status f_reverse(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_reverse", 1, 0, "value");
    bool bad;
    if (p[0].kind == JK_STR) return jj_slice(r, p[0], jj_none(), jj_none(), jj_int(-1), out);
    TRY(jj_reversed(r, p[0], out, &bad));
    if (!bad) return ST_OK;
    if (!jj_iterable(p[0])) return jj_fail(r, JINJA_TEMPLATE_ERROR, "argument must be iterable");
    jvec v = { 0 };
    status st = jj_to_vec(r, p[0], &v);
    if (st == ST_INVALID && r->why == JINJA_TYPE) return jj_fail(r, JINJA_TEMPLATE_ERROR, "argument must be iterable");
    TRY(st);
    for (size_t i = 0; i < v.n / 2; i++) {
        jval t = v.v[i];
        v.v[i] = v.v[v.n - 1 - i];
        v.v[v.n - 1 - i] = t;
    }
    return jj_vec_list(r, &v, JK_LIST, out);
}

static status f_join(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("sync_do_join", 1, 1, "value", "d", "attribute");
    jpath path;
    jvec v = { 0 };
    jval d = p[1];
    if (d.kind == JK_MISSING) TRY(jj_cstr(r, "", &d));
    bool markup = false, esc = r->escape;
    TRY(jj_path(r, p[2], false, jj_missing(), &path));
    if (!esc) TRY(jj_to_str(r, d, &d));
    TRY(jj_to_vec(r, p[0], &v));
    for (size_t i = 0; i < v.n; i++) {
        if (path.parts.n) TRY(jj_path_get(r, &path, v.v[i], &v.v[i]));
        TRY(jj_to_str(r, v.v[i], &v.v[i]));
        markup = markup || v.v[i].u.s->markup;
    }
    if (!esc) {
        TRY(jj_plain(r, d, &d));
        return jj_join(r, d.u.s, v.v, v.n, out);
    }
    TRY(jj_to_str(r, d, &d));
    if (markup) TRY(jj_escape(r, d, &d));
    return jj_join(r, d.u.s, v.v, v.n, out);
}

/* ---- mappings ---- */
static status next_items(jrt *r, jiter *it, jval *out, bool *done)
{
    if (it->src.kind == JK_UNDEF) {
        *done = true;
        return ST_OK;
    }
    if (it->src.kind != JK_DICT) return jj_type_error(r, "Can only get item pairs from a mapping.");
    const jdict *d = it->src.u.d;
    *done = it->pos >= d->n;
    if (*done) return ST_OK;
    it->pos++;
    return jj_pair(r, d->e[it->pos - 1].key, d->e[it->pos - 1].val, out);
}

static status f_items(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_items", 1, 0, "value");
    jiter *it;
    TRY(jj_new_iter(r, "generator", next_items, &it));
    it->name = "do_items";
    it->src = p[0];
    *out = jj_iter_val(it);
    return ST_OK;
}

static status f_dictsort(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_dictsort", 1, 0, "value", "case_sensitive", "by", "reverse");
    bool by_value = jj_str_is(p[2], "value"), sensitive = flag(r, p[1], false);
    if (p[2].kind != JK_MISSING && !by_value && !jj_str_is(p[2], "key")) return jj_fail(r, JINJA_TEMPLATE_ERROR, "You can only sort by either \"key\" or \"value\"");
    if (p[0].kind == JK_UNDEF) return jj_undefined_error(r, p[0]);
    if (p[0].kind != JK_DICT) return jj_no_attribute(r, p[0], "items");
    const jdict *d = p[0].u.d;
    jvec keys = { 0 }, items = { 0 };
    for (size_t i = 0; i < d->n; i++) {
        jval k = by_value ? d->e[i].val : d->e[i].key, pair;
        if (!sensitive && k.kind == JK_STR) TRY(jj_lower(r, k.u.s, &k));
        TRY(jj_push(r, &keys, k));
        TRY(jj_pair(r, d->e[i].key, d->e[i].val, &pair));
        TRY(jj_push(r, &items, pair));
    }
    TRY(jj_sort(r, keys.v, items.v, d->n, flag(r, p[3], false)));
    return jj_vec_list(r, &items, JK_LIST, out);
}

static status f_xmlattr(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_xmlattr", 1, 1, "d", "autospace");
    if (p[0].kind == JK_UNDEF) return jj_undefined_error(r, p[0]);
    if (p[0].kind != JK_DICT) return jj_no_attribute(r, p[0], "items");
    const jdict *d = p[0].u.d;
    jsb b = jj_sb(r);
    bool first = !flag(r, p[1], true);
    for (size_t i = 0; i < d->n; i++) {
        jval k = d->e[i].key, v = d->e[i].val;
        if (v.kind == JK_NONE || v.kind == JK_UNDEF) continue;
        if (k.kind != JK_STR) return jj_type_error(r, "expected string or bytes-like object, got '%s'", jj_type_name(k));
        for (size_t c = 0; c < k.u.s->len; c++)
            if (strchr(" \t\n\r\f\v/>=", k.u.s->data[c])) return jj_value_error(r, "Invalid character in attribute name: %s", jj_repr_c(r, k));
        TRY(jj_escape(r, k, &k));
        TRY(jj_escape(r, v, &v));
        if (!first) jj_sb_char(&b, ' ');
        first = false;
        jj_sb_jstr(&b, k.u.s);
        jj_sb_str(&b, "=\"");
        jj_sb_jstr(&b, v.u.s);
        jj_sb_char(&b, '"');
    }
    TRY(jj_sb_take(&b, out));
    return r->escape ? jj_markup(r, *out, out) : ST_OK;
}

/* ---- sorting, grouping, aggregating ---- */
static status f_sort(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_sort", 1, 1, "value", "reverse", "case_sensitive", "attribute");
    bool lower = !flag(r, p[2], false);
    jpath paths[16];
    size_t n_paths = 1;
    if (p[3].kind == JK_STR) {
        const jstr *s = p[3].u.s;
        n_paths = 0;
        for (size_t from = 0; from <= s->len;) {
            const char *comma = s->len > from ? memchr(s->data + from, ',', s->len - from) : NULL;
            size_t n = comma ? (size_t)(comma - (s->data + from)) : s->len - from;
            jval part;
            if (n_paths == sizeof paths / sizeof *paths) return jj_value_error(r, "sort by more than %zu attributes", n_paths);
            TRY(jj_str_part(r, s, from, n, &part));
            TRY(jj_path(r, part, lower, jj_missing(), &paths[n_paths++]));
            from += n + 1;
        }
    } else {
        TRY(jj_path(r, p[3], lower, jj_missing(), &paths[0]));
    }
    jvec items = { 0 }, keys = { 0 };
    TRY(jj_to_vec(r, p[0], &items));
    for (size_t i = 0; i < items.n; i++) {
        jval k[16], key;
        for (size_t j = 0; j < n_paths; j++) TRY(jj_path_get(r, &paths[j], items.v[i], &k[j]));
        TRY(jj_list(r, JK_LIST, k, n_paths, &key));
        TRY(jj_push(r, &keys, key));
    }
    TRY(jj_sort(r, keys.v, items.v, items.n, flag(r, p[1], false)));
    return jj_vec_list(r, &items, JK_LIST, out);
}

static status min_or_max(jrt *r, const jval *p, jcmp op, jval *out)
{
    jpath path;
    jiter *it;
    bool done, better;
    jval x, k, best;
    TRY(jj_path(r, p[2], !flag(r, p[1], false), jj_missing(), &path));
    TRY(jj_iter(r, p[0], &it));
    TRY(jj_next(r, it, out, &done));
    if (done) return jj_undef_hint(r, "No aggregated item, sequence was empty.", out);
    TRY(jj_path_get(r, &path, *out, &best));
    for (;;) {
        TRY(jj_tick(r));
        TRY(jj_next(r, it, &x, &done));
        if (done) return ST_OK;
        TRY(jj_path_get(r, &path, x, &k));
        TRY(jj_compare(r, op, k, best, &better));
        if (!better) continue;
        best = k;
        *out = x;
    }
}

static status f_min(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_min", 1, 1, "value", "case_sensitive", "attribute");
    return min_or_max(r, p, JCMP_LT, out);
}

static status f_max(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_max", 1, 1, "value", "case_sensitive", "attribute");
    return min_or_max(r, p, JCMP_GT, out);
}

static status f_sum(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("sync_do_sum", 1, 1, "iterable", "attribute", "start");
    jpath path;
    jvec v = { 0 };
    TRY(jj_path(r, p[1], false, jj_missing(), &path));
    *out = p[2].kind == JK_MISSING ? jj_int(0) : p[2];
    if (!jj_iterable(p[0])) return jj_type_error(r, "'%s' object is not iterable", jj_type_name(p[0]));
    if (out->kind == JK_STR) return jj_type_error(r, "sum() can't sum strings [use ''.join(seq) instead]");
    TRY(jj_to_vec(r, p[0], &v));
    for (size_t i = 0; i < v.n; i++) {
        jval x;
        TRY(jj_tick(r));
        TRY(jj_path_get(r, &path, v.v[i], &x));
        TRY(jj_binary(r, '+', *out, x, out));
    }
    return ST_OK;
}

static status f_groupby(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("sync_do_groupby", 2, 1, "value", "attribute", "default", "case_sensitive");
    jpath path, plain;
    bool lower = !flag(r, p[3], false);
    TRY(jj_path(r, p[1], lower, p[2], &path));
    TRY(jj_path(r, p[1], false, p[2], &plain));
    jvec items = { 0 }, keys = { 0 }, groups = { 0 };
    TRY(jj_to_vec(r, p[0], &items));
    for (size_t i = 0; i < items.n; i++) {
        jval k;
        TRY(jj_path_get(r, &path, items.v[i], &k));
        TRY(jj_push(r, &keys, k));
    }
    TRY(jj_sort(r, keys.v, items.v, items.n, false));
    for (size_t i = 0, j; i < items.n; i = j) {
        bool same = true;
        for (j = i + 1; j < items.n; j++) {
            TRY(jj_eq(r, keys.v[i], keys.v[j], &same));
            if (!same) break;
        }
        jval pair[2];
        TRY(jj_path_get(r, lower ? &plain : &path, items.v[i], &pair[0]));
        TRY(jj_list(r, JK_LIST, items.v + i, j - i, &pair[1]));
        jlist *g;
        jval *copy;
        TRY(jj_alloc(r, sizeof pair, &copy));
        memcpy(copy, pair, sizeof pair);
        TRY(jj_calloc(r, 1, sizeof *g, &g));
        *g = (jlist){ .v = copy, .n = 2, .group = true };
        TRY(jj_push(r, &groups, (jval){ JK_TUPLE, { .l = g } }));
    }
    return jj_vec_list(r, &groups, JK_LIST, out);
}

/* ---- generators ---- */
static status next_unique(jrt *r, jiter *it, jval *out, bool *done)
{
    jdict *seen = it->extra[0];
    for (;;) {
        jval k;
        const jval *old;
        TRY(jj_tick(r));
        if (!it->sub) TRY(jj_iter(r, it->src, &it->sub));
        TRY(jj_next(r, it->sub, out, done));
        if (*done) return ST_OK;
        TRY(jj_path_get(r, it->extra[1], *out, &k));
        TRY(jj_dict_find(r, seen, k, &old));
        if (old) continue;
        return jj_dict_put(r, seen, k, jj_none());
    }
}

static status f_unique(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("sync_do_unique", 1, 1, "value", "case_sensitive", "attribute");
    jiter *it;
    jdict *seen;
    jpath *path;
    TRY(jj_calloc(r, 1, sizeof *path, &path));
    TRY(jj_path(r, p[2], !flag(r, p[1], false), jj_missing(), path));
    TRY(jj_new_iter(r, "generator", next_unique, &it));
    it->name = "sync_do_unique";
    TRY(jj_dict_new(r, &seen));
    it->src = p[0];
    it->extra[0] = seen;
    it->extra[1] = path;
    *out = jj_iter_val(it);
    return ST_OK;
}

static status to_count(jrt *r, jval v, int64_t *out)
{
    if (!jj_is_int(v)) return jj_type_error(r, "'%s' object cannot be interpreted as an integer", jj_type_name(v));
    *out = jj_as_int(v);
    return ST_OK;
}

static status next_slice(jrt *r, jiter *it, jval *out, bool *done)
{
    if (!it->started) {
        jvec v = { 0 };
        int64_t slices = 0;
        TRY(jj_to_vec(r, it->src, &v));
        TRY(jj_vec_list(r, &v, JK_LIST, &it->src));
        TRY(to_count(r, it->attr, &slices));
        if (slices == 0) return jj_fail(r, JINJA_OTHER, "integer division or modulo by zero");
        it->end = slices > 0 ? (size_t)slices : 0;
        it->started = true;
    }
    *done = it->pos >= it->end;
    if (*done) return ST_OK;
    size_t n = it->src.u.l->n, per = n / it->end, extra = n % it->end, k = it->pos++;
    size_t from = k * per + (k < extra ? k : extra), to = from + per + (k < extra);
    jvec v = { 0 };
    for (size_t i = from; i < to; i++) TRY(jj_push(r, &v, it->src.u.l->v[i]));
    jval fill = it->args.v[0];
    if (fill.kind != JK_NONE && fill.kind != JK_MISSING && k >= extra) TRY(jj_push(r, &v, fill));
    return jj_vec_list(r, &v, JK_LIST, out);
}

static status next_batch(jrt *r, jiter *it, jval *out, bool *done)
{
    jvec v = { 0 };
    jval x, fill = it->args.v[0];
    int64_t count = INT64_MAX;
    if (!it->sub) TRY(jj_iter(r, it->src, &it->sub));
    if (jj_is_number(it->attr)) count = it->attr.kind == JK_FLOAT ? (int64_t)it->attr.u.f : jj_as_int(it->attr);
    *done = false;
    while (count <= 0 || (int64_t)v.n < count) {
        bool end;
        TRY(jj_tick(r));
        TRY(jj_next(r, it->sub, &x, &end));
        if (end) break;
        TRY(jj_push(r, &v, x));
    }
    *done = v.n == 0;
    if (*done) return ST_OK;
    while (fill.kind != JK_NONE && fill.kind != JK_MISSING && (int64_t)v.n < count && count < INT64_MAX) TRY(jj_push(r, &v, fill));
    return jj_vec_list(r, &v, JK_LIST, out);
}

static status chunker(jrt *r, const jval *p, status (*next)(jrt *, jiter *, jval *, bool *), jval *out)
{
    jiter *it;
    jval *fill;
    TRY(jj_new_iter(r, "generator", next, &it));
    it->name = next == next_slice ? "sync_do_slice" : "do_batch";
    TRY(jj_alloc(r, sizeof *fill, &fill));
    *fill = p[2];
    it->src = p[0];
    it->attr = p[1];
    it->args.v = fill;
    *out = jj_iter_val(it);
    return ST_OK;
}

static status f_slice(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("sync_do_slice", 2, 0, "value", "slices", "fill_with");
    return chunker(r, p, next_slice, out);
}

static status f_batch(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_batch", 2, 0, "value", "linecount", "fill_with");
    return chunker(r, p, next_batch, out);
}

/* ---- map, select, reject ---- */
static status call_named(jrt *r, bool filter, jval name, jval x, const jargs *rest, jval *out)
{
    const char *what = filter ? "filter" : "test";
    const jfn *fn = NULL;
    if (name.kind == JK_STR) fn = filter ? jj_find_filter(name.u.s->data, name.u.s->len) : jj_find_test(name.u.s->data, name.u.s->len);
    if (!fn) {
        if (name.kind == JK_UNDEF) {
            char msg[400];
            status st = jj_undefined_error(r, name);
            (void)st;
            err_copy(msg, sizeof msg);
            return jj_fail(r, JINJA_TEMPLATE_ERROR, "No %s named Undefined. (%s; did you forget to quote the callable name?)", what, msg);
        }
        if (name.kind == JK_LIST || name.kind == JK_DICT) return jj_type_error(r, "unhashable type: '%s'", jj_type_name(name));
        return jj_fail(r, JINJA_TEMPLATE_ERROR, "No %s named %s.", what, jj_repr_c(r, name));
    }
    jval *v;
    TRY(jj_alloc(r, (rest->n + 1) * sizeof *v, &v));
    v[0] = x;
    if (rest->n) memcpy(v + 1, rest->v, rest->n * sizeof *v);
    jargs a = { v, rest->n + 1, rest->kw, rest->n_kw };
    return fn->call(r, jj_missing(), &a, out);
}

static const jval *kw_arg(const jargs *a, const char *name)
{
    for (size_t i = 0; i < a->n_kw; i++)
        if (jp_str_is(a->kw[i].name, name)) return &a->kw[i].val;
    return NULL;
}

/* args.v[0] is the value; what follows is looked at when the first item is asked for, as in a Python generator. */
static status start_map(jrt *r, jiter *it)
{
    const jval *attr = it->args.n == 0 ? kw_arg(&it->args, "attribute") : NULL, *def = kw_arg(&it->args, "default");
    TRY(jj_iter(r, it->src, &it->sub));
    if (!attr) {
        if (it->args.n == 0) return jj_fail(r, JINJA_TEMPLATE_ERROR, "map requires a filter argument");
        return ST_OK;
    }
    for (size_t i = 0; i < it->args.n_kw; i++)
        if (!jp_str_is(it->args.kw[i].name, "attribute") && !jp_str_is(it->args.kw[i].name, "default"))
            return jj_fail(r, JINJA_TEMPLATE_ERROR, "Unexpected keyword argument %s", jj_repr_c(r, jj_s(it->args.kw[i].name)));
    jpath *path;
    TRY(jj_calloc(r, 1, sizeof *path, &path));
    it->extra[0] = path;
    return jj_path(r, *attr, false, def ? *def : jj_missing(), path);
}

static status next_map(jrt *r, jiter *it, jval *out, bool *done)
{
    TRY(jj_enter(r));
    *done = !it->started && !jj_truth(r, it->src);
    if (!*done && !it->started) TRY(start_map(r, it));
    if (!*done) {
        it->started = true;
        TRY(jj_next(r, it->sub, out, done));
    }
    if (!*done) {
        jargs rest = { it->args.v + 1, it->args.n - 1, it->args.kw, it->args.n_kw };
        if (it->extra[0]) TRY(jj_path_get(r, it->extra[0], *out, out));
        else TRY(call_named(r, true, it->args.v[0], *out, &rest, out));
    }
    jj_leave(r);
    return ST_OK;
}

static status start_select(jrt *r, jiter *it)
{
    TRY(jj_iter(r, it->src, &it->sub));
    if (!it->by_attr) return ST_OK;
    if (it->args.n == 0) return jj_fail(r, JINJA_TEMPLATE_ERROR, "Missing parameter for attribute name");
    jpath *path;
    TRY(jj_calloc(r, 1, sizeof *path, &path));
    it->extra[0] = path;
    TRY(jj_path(r, it->args.v[0], false, jj_missing(), path));
    it->args.v++;
    it->args.n--;
    return ST_OK;
}

static status next_select(jrt *r, jiter *it, jval *out, bool *done)
{
    TRY(jj_enter(r));
    *done = !it->started && !jj_truth(r, it->src);
    if (!*done && !it->started) TRY(start_select(r, it));
    it->started = it->started || !*done;
    while (!*done) {
        jval x, ok;
        TRY(jj_tick(r));
        TRY(jj_next(r, it->sub, out, done));
        if (*done) break;
        x = *out;
        if (it->extra[0]) TRY(jj_path_get(r, it->extra[0], x, &x));
        ok = x;
        if (it->args.n) {
            jargs rest = { it->args.v + 1, it->args.n - 1, it->args.kw, it->args.n_kw };
            TRY(call_named(r, false, it->args.v[0], x, &rest, &ok));
        }
        if (jj_truth(r, ok) != it->negate) break;
    }
    jj_leave(r);
    return ST_OK;
}

static status lazy(jrt *r, const jargs *a, status (*next)(jrt *, jiter *, jval *, bool *), bool negate, bool by_attr, jval *out)
{
    jiter *it;
    TRY(jj_new_iter(r, "generator", next, &it));
    it->name = next == next_map ? "sync_do_map" : "select_or_reject";
    it->src = a->v[0];
    it->args = (jargs){ a->v + 1, a->n - 1, a->kw, a->n_kw };
    it->negate = negate;
    it->by_attr = by_attr;
    *out = jj_iter_val(it);
    return ST_OK;
}

static status f_map(jrt *r, jval self, const jargs *a, jval *out) { return (void)self, lazy(r, a, next_map, false, false, out); }
static status f_select(jrt *r, jval self, const jargs *a, jval *out) { return (void)self, lazy(r, a, next_select, false, false, out); }
static status f_reject(jrt *r, jval self, const jargs *a, jval *out) { return (void)self, lazy(r, a, next_select, true, false, out); }
static status f_selectattr(jrt *r, jval self, const jargs *a, jval *out) { return (void)self, lazy(r, a, next_select, false, true, out); }
static status f_rejectattr(jrt *r, jval self, const jargs *a, jval *out) { return (void)self, lazy(r, a, next_select, true, true, out); }

/* ---- default, attr, tojson ---- */
static status f_default(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_default", 1, 0, "value", "default_value", "boolean");
    *out = p[0];
    if (p[0].kind != JK_UNDEF && !(flag(r, p[2], false) && !jj_truth(r, p[0]))) return ST_OK;
    if (p[1].kind == JK_MISSING) return jj_cstr(r, "", out);
    *out = p[1];
    return ST_OK;
}

static status f_attr(jrt *r, jval self, const jargs *a, jval *out)
{
    BIND("do_attr", 2, 1, "obj", "name");
    bool found;
    if (p[1].kind != JK_STR) return jj_type_error(r, "attribute name must be string, not '%s'", jj_type_name(p[1]));
    TRY(jj_attribute(r, p[0], p[1].u.s, out, &found));
    return found ? ST_OK : jj_undef_attr(r, p[0], p[1], out);
}

static status dump_separators(jrt *r, jval sep, jdump *o)
{
    jvec v = { 0 };
    TRY(jj_to_vec(r, sep, &v));
    if (v.n != 2) return jj_value_error(r, v.n < 2 ? "not enough values to unpack (expected 2, got %zu)" : "too many values to unpack (expected 2)", v.n);
    if (v.v[0].kind != JK_STR || v.v[1].kind != JK_STR) return jj_type_error(r, "separators must be strings");
    o->item_sep = v.v[0].u.s;
    o->key_sep = v.v[1].u.s;
    return ST_OK;
}

static status f_tojson(jrt *r, jval self, const jargs *a, jval *out)
{
    static const jstr comma = { ",", 1, NULL, true, false }, comma_space = { ", ", 2, NULL, true, false }, colon = { ": ", 2, NULL, true, false };
    BIND("_cached_compile_jinja_template.<locals>.tojson", 1, 0, "x", "ensure_ascii", "indent", "separators", "sort_keys");
    jval ind = p[2];
    jdump o = { .ascii = flag(r, p[1], false), .sort = flag(r, p[4], false), .has_indent = ind.kind != JK_MISSING && ind.kind != JK_NONE };
    o.item_sep = o.has_indent ? &comma : &comma_space;
    o.key_sep = &colon;
    if (p[3].kind != JK_MISSING && p[3].kind != JK_NONE) TRY(dump_separators(r, p[3], &o));
    if (o.has_indent) {
        if (ind.kind != JK_STR) {
            jval space;
            if (!jj_is_int(ind)) return jj_type_error(r, "can't multiply sequence by non-int of type '%s'", jj_type_name(ind));
            TRY(jj_cstr(r, " ", &space));
            TRY(jj_binary(r, '*', space, ind, &ind));
        }
        o.indent = ind.u.s;
    }
    return jj_json(r, p[0], &o, out);
}

static const jfn filters[] = {
    { "attr", f_attr }, { "batch", f_batch }, { "count", f_length }, { "d", f_default }, { "default", f_default }, { "dictsort", f_dictsort },
    { "first", f_first }, { "groupby", f_groupby }, { "items", f_items }, { "join", f_join }, { "last", f_last }, { "length", f_length },
    { "list", f_list }, { "map", f_map }, { "max", f_max }, { "min", f_min }, { "random", f_random }, { "reject", f_reject },
    { "rejectattr", f_rejectattr }, { "reverse", f_reverse }, { "select", f_select }, { "selectattr", f_selectattr }, { "slice", f_slice },
    { "sort", f_sort }, { "sum", f_sum }, { "tojson", f_tojson }, { "unique", f_unique }, { "xmlattr", f_xmlattr },
};

const jfn *jj_find_filter(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (strlen(filters[i].name) == n && !memcmp(filters[i].name, name, n)) return &filters[i];
    return jj_find_text_filter(name, n);
}
