/* Methods of lists, tuples, dicts, ranges and numbers; the global functions. */
#include <math.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "text/jinja_ast.h"

/* ---- sequences ---- */
static status l_index(jrt *r, jval self, const jargs *a, jval *out)
{
    jvec v = { 0 };
    bool eq;
    if (a->n < 1) return jj_type_error(r, "index expected at least 1 argument, got 0");
    TRY(jj_to_vec(r, self, &v));
    int64_t lo = a->n > 1 && jj_is_int(a->v[1]) ? jj_as_int(a->v[1]) : 0, hi = a->n > 2 && jj_is_int(a->v[2]) ? jj_as_int(a->v[2]) : (int64_t)v.n;
    if (lo < 0) lo = lo + (int64_t)v.n < 0 ? 0 : lo + (int64_t)v.n;
    if (hi < 0) hi += (int64_t)v.n;
    for (int64_t i = lo; i < hi && i < (int64_t)v.n; i++) {
        TRY(jj_eq(r, v.v[i], a->v[0], &eq));
        if (!eq) continue;
        *out = jj_int(i);
        return ST_OK;
    }
    if (self.kind == JK_TUPLE) return jj_value_error(r, "tuple.index(x): x not in tuple");
    if (self.kind == JK_RANGE && !jj_is_int(a->v[0])) return jj_value_error(r, "sequence.index(x): x not in sequence");
    return jj_value_error(r, "%s is not in %s", jj_repr_c(r, a->v[0]), self.kind == JK_RANGE ? "range" : "list");
}

static status l_count(jrt *r, jval self, const jargs *a, jval *out)
{
    jvec v = { 0 };
    int64_t n = 0;
    if (a->n != 1) return jj_type_error(r, "%s.count() takes exactly one argument (%zu given)", jj_type_name(self), a->n);
    TRY(jj_to_vec(r, self, &v));
    for (size_t i = 0; i < v.n; i++) {
        bool eq;
        TRY(jj_eq(r, v.v[i], a->v[0], &eq));
        n += eq;
    }
    *out = jj_int(n);
    return ST_OK;
}

static status l_copy(jrt *r, jval self, const jargs *a, jval *out)
{
    if (a->n) return jj_type_error(r, "%s.copy() takes no arguments (%zu given)", jj_type_name(self), a->n);
    if (self.kind == JK_LIST) return jj_list(r, JK_LIST, self.u.l->v, self.u.l->n, out);
    jdict *d;
    TRY(jj_dict_copy(r, self.u.d, &d));
    *out = (jval){ JK_DICT, { .d = d } };
    return ST_OK;
}

/* ---- dicts ---- */
static status d_get(jrt *r, jval self, const jargs *a, jval *out)
{
    const jval *v;
    if (a->n_kw) return jj_type_error(r, "dict.get() takes no keyword arguments");
    if (a->n < 1) return jj_type_error(r, "get expected at least 1 argument, got 0");
    if (a->n > 2) return jj_type_error(r, "get expected at most 2 arguments, got %zu", a->n);
    TRY(jj_dict_find(r, self.u.d, a->v[0], &v));
    *out = v ? *v : a->n > 1 ? a->v[1] : jj_none();
    return ST_OK;
}

static status view(jrt *r, const char *name, int what, jval self, const jargs *a, jval *out)
{
    jview *w;
    if (a->n_kw) return jj_type_error(r, "dict.%s() takes no keyword arguments", name);
    if (a->n) return jj_type_error(r, "dict.%s() takes no arguments (%zu given)", name, a->n);
    TRY(jj_calloc(r, 1, sizeof *w, &w));
    w->d = self.u.d;
    w->what = what;
    *out = (jval){ JK_VIEW, { .view = w } };
    return ST_OK;
}

static status d_keys(jrt *r, jval self, const jargs *a, jval *out) { return view(r, "keys", JVIEW_KEYS, self, a, out); }
static status d_values(jrt *r, jval self, const jargs *a, jval *out) { return view(r, "values", JVIEW_VALUES, self, a, out); }
static status d_items(jrt *r, jval self, const jargs *a, jval *out) { return view(r, "items", JVIEW_ITEMS, self, a, out); }

static status d_fromkeys(jrt *r, jval self, const jargs *a, jval *out)
{
    jvec v = { 0 };
    jdict *d;
    (void)self;
    if (a->n < 1) return jj_type_error(r, "fromkeys expected at least 1 argument, got 0");
    TRY(jj_to_vec(r, a->v[0], &v));
    TRY(jj_dict_new(r, &d));
    for (size_t i = 0; i < v.n; i++) TRY(jj_dict_put(r, d, v.v[i], a->n > 1 ? a->v[1] : jj_none()));
    *out = (jval){ JK_DICT, { .d = d } };
    return ST_OK;
}

/* ---- numbers ---- */
static status n_bits(jval self, bool ones, jval *out)
{
    int64_t i = jj_as_int(self);
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    *out = jj_int(ones ? __builtin_popcountll(u) : u ? 64 - __builtin_clzll(u) : 0);
    return ST_OK;
}

static status n_bit_length(jrt *r, jval self, const jargs *a, jval *out) { return (void)r, (void)a, n_bits(self, false, out); }
static status n_bit_count(jrt *r, jval self, const jargs *a, jval *out) { return (void)r, (void)a, n_bits(self, true, out); }

static status n_conjugate(jrt *r, jval self, const jargs *a, jval *out)
{
    (void)r;
    (void)a;
    *out = self.kind == JK_FLOAT ? self : jj_int(jj_as_int(self));
    return ST_OK;
}

static status n_is_integer(jrt *r, jval self, const jargs *a, jval *out)
{
    (void)r;
    (void)a;
    *out = jj_bool(isfinite(self.u.f) && floor(self.u.f) == self.u.f);
    return ST_OK;
}

/* ---- cycler ---- */
static status c_next(jrt *r, jval self, const jargs *a, jval *out)
{
    (void)r;
    (void)a;
    jcycler *c = self.u.cycler;
    *out = c->items->v[c->pos];
    c->pos = (c->pos + 1) % c->items->n;
    return ST_OK;
}

static status c_reset(jrt *r, jval self, const jargs *a, jval *out)
{
    (void)r;
    (void)a;
    self.u.cycler->pos = 0;
    *out = jj_none();
    return ST_OK;
}

static const jfn list_methods[] = { { "index", l_index }, { "count", l_count }, { "copy", l_copy }, { NULL, NULL } },
                 seq_methods[] = { { "index", l_index }, { "count", l_count }, { NULL, NULL } },
                 dict_methods[] = { { "get", d_get }, { "keys", d_keys }, { "values", d_values }, { "items", d_items }, { "copy", l_copy }, { "fromkeys", d_fromkeys }, { NULL, NULL } },
                 int_methods[] = { { "bit_length", n_bit_length }, { "bit_count", n_bit_count }, { "conjugate", n_conjugate }, { NULL, NULL } },
                 float_methods[] = { { "is_integer", n_is_integer }, { "conjugate", n_conjugate }, { NULL, NULL } },
                 cycler_methods[] = { { "next", c_next }, { "reset", c_reset }, { NULL, NULL } },
                 dict_type_methods[] = { { "fromkeys", d_fromkeys }, { NULL, NULL } };

const jfn *jj_find_method(jval self, const char *name, size_t n)
{
    const jfn *t;
    switch (self.kind) {
    case JK_STR: return jj_find_str_method(name, n);
    case JK_LIST: t = list_methods; break;
    case JK_TUPLE: case JK_RANGE: t = seq_methods; break;
    case JK_DICT: t = dict_methods; break;
    case JK_INT: case JK_BOOL: t = int_methods; break;
    case JK_FLOAT: t = float_methods; break;
    case JK_CYCLER: t = cycler_methods; break;
    case JK_DICTTYPE: t = dict_type_methods; break;
    default: return NULL;
    }
    for (; t->name; t++)
        if (strlen(t->name) == n && !memcmp(t->name, name, n)) return t;
    return NULL;
}

/* ---- globals ---- */
enum { MAX_RANGE = 100000 };

static status g_range(jrt *r, jval self, const jargs *a, jval *out)
{
    int64_t v[3] = { 0, 0, 1 };
    (void)self;
    if (a->n_kw) return jj_type_error(r, "range() takes no keyword arguments");
    if (a->n < 1) return jj_type_error(r, "range expected at least 1 argument, got 0");
    if (a->n > 3) return jj_type_error(r, "range expected at most 3 arguments, got %zu", a->n);
    for (size_t i = 0; i < a->n; i++) {
        if (!jj_is_int(a->v[i])) return jj_type_error(r, "'%s' object cannot be interpreted as an integer", jj_type_name(a->v[i]));
        v[a->n == 1 ? 1 : i] = jj_as_int(a->v[i]);
    }
    if (v[2] == 0) return jj_value_error(r, "range() arg 3 must not be zero");
    uint64_t span = v[2] > 0 ? (v[1] > v[0] ? (uint64_t)v[1] - (uint64_t)v[0] : 0) : (v[0] > v[1] ? (uint64_t)v[0] - (uint64_t)v[1] : 0);
    uint64_t step = v[2] > 0 ? (uint64_t)v[2] : 0 - (uint64_t)v[2], n = span ? (span - 1) / step + 1 : 0;
    if (n > MAX_RANGE) return jj_fail(r, JINJA_OTHER, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).", MAX_RANGE);
    jrange *g;
    TRY(jj_calloc(r, 1, sizeof *g, &g));
    *g = (jrange){ v[0], v[1], v[2], n };
    *out = (jval){ JK_RANGE, { .range = g } };
    return ST_OK;
}

/* dict(mapping_or_pairs, **kwargs) */
static status fill_dict(jrt *r, const char *name, const jargs *a, jdict *d)
{
    if (a->n > 1) return jj_type_error(r, "%s expected at most 1 argument, got %zu", name, a->n);
    if (a->n && a->v[0].kind == JK_UNDEF) return jj_undefined_error(r, a->v[0]);
    if (a->n && a->v[0].kind == JK_DICT) {
        const jdict *from = a->v[0].u.d;
        for (size_t i = 0; i < from->n; i++) TRY(jj_dict_put(r, d, from->e[i].key, from->e[i].val));
    } else if (a->n) {
        jvec v = { 0 };
        TRY(jj_to_vec(r, a->v[0], &v));
        for (size_t i = 0; i < v.n; i++) {
            jvec pair = { 0 };
            if (!jj_iterable(v.v[i])) return jj_type_error(r, "cannot convert dictionary update sequence element #%zu to a sequence", i);
            TRY(jj_to_vec(r, v.v[i], &pair));
            if (pair.n != 2) return jj_value_error(r, "dictionary update sequence element #%zu has length %zu; 2 is required", i, pair.n);
            TRY(jj_dict_put(r, d, pair.v[0], pair.v[1]));
        }
    }
    for (size_t i = 0; i < a->n_kw; i++) TRY(jj_dict_put(r, d, jj_s(a->kw[i].name), a->kw[i].val));
    return ST_OK;
}

static status g_dict(jrt *r, jval self, const jargs *a, jval *out)
{
    jdict *d;
    (void)self;
    TRY(jj_dict_new(r, &d));
    TRY(fill_dict(r, "dict", a, d));
    *out = (jval){ JK_DICT, { .d = d } };
    return ST_OK;
}

static status g_namespace(jrt *r, jval self, const jargs *a, jval *out)
{
    jns *ns;
    (void)self;
    TRY(jj_calloc(r, 1, sizeof *ns, &ns));
    TRY(fill_dict(r, "dict", a, &ns->d));
    for (size_t i = 0; i < ns->d.n; i++) {
        jval k = ns->d.e[i].key;
        if (k.kind == JK_STR && k.u.s->len && k.u.s->data[0] == '_')
            return jj_fail(r, JINJA_SECURITY, "Chat templates cannot store underscore-prefixed attributes on a namespace, but got %s. Please rename the attribute.", jj_repr_c(r, k));
    }
    *out = (jval){ JK_NS, { .ns = ns } };
    return ST_OK;
}

static status g_cycler(jrt *r, jval self, const jargs *a, jval *out)
{
    jcycler *c;
    jval items;
    (void)self;
    if (a->n_kw) return jj_type_error(r, "Cycler.__init__() got an unexpected keyword argument %s", jj_repr_c(r, jj_s(a->kw[0].name)));
    if (!a->n) return jj_fail(r, JINJA_OTHER, "at least one item has to be provided");
    TRY(jj_calloc(r, 1, sizeof *c, &c));
    TRY(jj_list(r, JK_TUPLE, a->v, a->n, &items));
    c->items = items.u.l;
    *out = (jval){ JK_CYCLER, { .cycler = c } };
    return ST_OK;
}

static status g_joiner(jrt *r, jval self, const jargs *a, jval *out)
{
    static const char *const names[] = { "sep" };
    jjoiner *j;
    jval p[1];
    (void)self;
    TRY(jj_bind(r, "Joiner.__init__", names, 1, 0, 1, a, p));
    TRY(jj_calloc(r, 1, sizeof *j, &j));
    j->sep = p[0];
    if (p[0].kind == JK_MISSING) TRY(jj_cstr(r, ", ", &j->sep));
    *out = (jval){ JK_JOINER, { .joiner = j } };
    return ST_OK;
}

static status g_lipsum(jrt *r, jval self, const jargs *a, jval *out)
{
    (void)self;
    (void)a;
    (void)out;
    return jj_fail(r, JINJA_OTHER, "lipsum() is not supported");
}

static status g_raise(jrt *r, jval self, const jargs *a, jval *out)
{
    static const char *const names[] = { "message" };
    jval p[1];
    (void)self;
    (void)out;
    TRY(jj_bind(r, "_cached_compile_jinja_template.<locals>.raise_exception", names, 1, 1, 0, a, p));
    TRY(jj_to_str(r, p[0], &p[0]));
    return jj_fail(r, JINJA_TEMPLATE_ERROR, "%.*s", (int)p[0].u.s->len, p[0].u.s->data);
}

/* What datetime adds to the C library's strftime: microseconds, and nothing for the zone of a naive time. */
static status python_format(jrt *r, const jstr *f, double now, jval *out)
{
    jsb b = jj_sb(r);
    for (size_t i = 0; i < f->len; i++) {
        char c = f->data[i], d = i + 1 < f->len ? f->data[i + 1] : 0;
        if (c != '%' || !d) {
            jj_sb_char(&b, c);
            continue;
        }
        i++;
        if (d == 'f') jj_sb_printf(&b, "%06d", (int)((now - floor(now)) * 1e6));
        else if (d != 'z' && d != 'Z') {
            jj_sb_char(&b, c);
            jj_sb_char(&b, d);
        }
    }
    jj_sb_char(&b, ' '); /* so that an empty result can be told from one that does not fit */
    jj_sb_char(&b, 0);
    return jj_sb_take(&b, out);
}

static status g_strftime_now(jrt *r, jval self, const jargs *a, jval *out)
{
    static const char *const names[] = { "format" };
    jval p[1], f;
    struct tm tm;
    (void)self;
    TRY(jj_bind(r, "_cached_compile_jinja_template.<locals>.strftime_now", names, 1, 1, 0, a, p));
    if (p[0].kind != JK_STR) return jj_type_error(r, "strftime() argument 1 must be str, not %s", jj_type_name(p[0]));
    double now = r->now != 0 ? r->now : clock_wall();
    time_t t = (time_t)floor(now);
    if (!localtime_r(&t, &tm)) return jj_fail(r, JINJA_OTHER, "the local time is not known");
    TRY(python_format(r, p[0].u.s, now, &f));
    for (size_t cap = f.u.s->len * 4 + 64;; cap *= 2) {
        char *s;
        TRY(jj_alloc(r, cap, &s));
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        size_t n = strftime(s, cap, f.u.s->data, &tm);
#pragma GCC diagnostic pop
        if (n > 0) return jj_str_borrow(r, s, n - 1, out);
    }
}

bool jj_global(const char *name, size_t n, jval *out)
{
    static const jfn fns[] = {
        { "range", g_range }, { "namespace", g_namespace }, { "cycler", g_cycler }, { "joiner", g_joiner }, { "lipsum", g_lipsum },
        { "raise_exception", g_raise }, { "strftime_now", g_strftime_now }, { "\1dict", g_dict },
    };
    if (n == 4 && !memcmp(name, "dict", 4)) {
        *out = (jval){ JK_DICTTYPE, { .i = 0 } };
        return true;
    }
    for (size_t i = 0; i < sizeof fns / sizeof *fns; i++)
        if (strlen(fns[i].name) == n && !memcmp(fns[i].name, name, n)) {
            *out = (jval){ JK_FN, { .fn = &fns[i] } };
            return true;
        }
    return false;
}
