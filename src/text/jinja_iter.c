/* Iteration, equality and order of values. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_value.h"

status jj_new_iter(jrt *r, const char *type, status (*next)(jrt *, jiter *, jval *, bool *), jiter **out)
{
    TRY(jj_calloc(r, 1, sizeof **out, out));
    (*out)->type = type;
    (*out)->next = next;
    return ST_OK;
}

static status next_list(jrt *r, jiter *it, jval *out, bool *done)
{
    (void)r;
    *done = it->pos >= it->src.u.l->n;
    if (!*done) *out = it->src.u.l->v[it->pos++];
    return ST_OK;
}

static status entry_value(jrt *r, const jentry *e, int what, jval *out)
{
    if (what == JVIEW_ITEMS) return jj_pair(r, e->key, e->val, out);
    *out = what == JVIEW_KEYS ? e->key : e->val;
    return ST_OK;
}

static status next_entry(jrt *r, jiter *it, jval *out, bool *done)
{
    const jdict *d = it->src.kind == JK_DICT ? it->src.u.d : it->src.u.view->d;
    *done = it->pos >= d->n;
    if (*done) return ST_OK;
    return entry_value(r, &d->e[it->pos++], it->src.kind == JK_DICT ? JVIEW_KEYS : (int)it->src.u.view->what, out);
}

static status next_char(jrt *r, jiter *it, jval *out, bool *done)
{
    const jstr *s = it->src.u.s;
    *done = it->pos >= s->len;
    if (*done) return ST_OK;
    uint32_t cp;
    size_t n = utf8_decode(s->data + it->pos, s->len - it->pos, &cp);
    TRY(jj_str_part(r, s, it->pos, n, out));
    it->pos += n;
    return s->markup ? jj_plain(r, *out, out) : ST_OK;
}

static status next_range(jrt *r, jiter *it, jval *out, bool *done)
{
    (void)r;
    const jrange *g = it->src.u.range;
    *done = it->pos >= g->n;
    if (!*done) *out = jj_int(g->start + (int64_t)it->pos++ * g->step);
    return ST_OK;
}

static status next_nothing(jrt *r, jiter *it, jval *out, bool *done)
{
    (void)r;
    (void)it;
    (void)out;
    *done = true;
    return ST_OK;
}

/* Going on with a loop's own iteration: `for x in loop`. */
static status next_loop(jrt *r, jiter *it, jval *out, bool *done)
{
    jloop *l = it->src.u.loop;
    jval item = l->after;
    *done = false;
    if (!l->has_after) TRY(jj_next(r, l->it, &item, done));
    l->has_after = false;
    if (*done) return ST_OK;
    l->index0++;
    l->before = l->cur;
    l->cur = item;
    return jj_pair(r, item, it->src, out);
}

bool jj_iterable(jval v)
{
    switch (v.kind) {
    case JK_UNDEF: case JK_STR: case JK_LIST: case JK_TUPLE: case JK_DICT: case JK_VIEW: case JK_RANGE: case JK_ITER: case JK_LOOP: return true;
    default: return false;
    }
}

status jj_iter(jrt *r, jval v, jiter **out)
{
    status (*next)(jrt *, jiter *, jval *, bool *) = NULL;
    const char *type = "iterator";
    switch (v.kind) {
    case JK_ITER: *out = v.u.it; return ST_OK;
    case JK_UNDEF: next = next_nothing; break;
    case JK_STR: next = next_char; break;
    case JK_LIST: case JK_TUPLE: next = next_list; break;
    case JK_DICT: case JK_VIEW: next = next_entry; break;
    case JK_RANGE: next = next_range; break;
    case JK_LOOP: next = next_loop; break;
    case JK_SELF: return jj_fail(r, JINJA_OTHER, "0");
    default: return jj_type_error(r, "'%s' object is not iterable", jj_type_name(v));
    }
    TRY(jj_new_iter(r, type, next, out));
    (*out)->src = v;
    return ST_OK;
}

status jj_to_vec(jrt *r, jval v, jvec *out)
{
    if (v.kind == JK_LIST || v.kind == JK_TUPLE) {
        out->n = out->cap = v.u.l->n;
        TRY(jj_alloc(r, out->n * sizeof(jval), &out->v));
        if (out->n) memcpy(out->v, v.u.l->v, out->n * sizeof(jval));
        return ST_OK;
    }
    jiter *it;
    TRY(jj_iter(r, v, &it));
    for (;;) {
        jval x;
        bool done;
        TRY(jj_tick(r));
        TRY(jj_next(r, it, &x, &done));
        if (done) return ST_OK;
        TRY(jj_push(r, out, x));
    }
}

static status next_back(jrt *r, jiter *it, jval *out, bool *done)
{
    *done = it->pos == 0;
    if (*done) return ST_OK;
    size_t i = --it->pos;
    switch (it->src.kind) {
    case JK_LIST: case JK_TUPLE: *out = it->src.u.l->v[i]; return ST_OK;
    case JK_RANGE: *out = jj_int(it->src.u.range->start + (int64_t)i * it->src.u.range->step); return ST_OK;
    case JK_DICT: *out = it->src.u.d->e[i].key; return ST_OK;
    case JK_VIEW: return entry_value(r, &it->src.u.view->d->e[i], (int)it->src.u.view->what, out);
    default: { /* a string: pos counts bytes */
        const jstr *s = it->src.u.s;
        while (i > 0 && ((unsigned char)s->data[i] & 0xC0) == 0x80) i--;
        TRY(jj_str_part(r, s, i, it->pos + 1 - i, out));
        it->pos = i;
        return s->markup ? jj_plain(r, *out, out) : ST_OK;
    }
    }
}

status jj_reversed(jrt *r, jval v, jval *out, bool *not_reversible)
{
    const char *type = "reversed";
    size_t n = 0;
    *not_reversible = false;
    switch (v.kind) {
    case JK_LIST: type = "list_reverseiterator"; n = v.u.l->n; break;
    case JK_TUPLE: n = v.u.l->n; break;
    case JK_RANGE: type = "range_iterator"; n = v.u.range->n; break;
    case JK_DICT: type = "dict_reversekeyiterator"; n = v.u.d->n; break;
    case JK_STR: n = v.u.s->len; break;
    case JK_VIEW:
        type = v.u.view->what == JVIEW_KEYS ? "dict_reversekeyiterator" : v.u.view->what == JVIEW_VALUES ? "dict_reversevalueiterator" : "dict_reverseitemiterator";
        n = v.u.view->d->n;
        break;
    case JK_UNDEF: break;
    default: *not_reversible = true; return ST_OK;
    }
    jiter *it;
    TRY(jj_new_iter(r, type, v.kind == JK_UNDEF ? next_nothing : next_back, &it));
    it->src = v;
    it->pos = n;
    *out = jj_iter_val(it);
    return ST_OK;
}

/* ---- equality ---- */
static status eq_lists(jrt *r, const jlist *a, const jlist *b, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        TRY(jj_tick(r));
        TRY(jj_eq(r, a->v[i], b->v[i], out));
    }
    return ST_OK;
}

static status eq_dicts(jrt *r, const jdict *a, const jdict *b, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        const jval *o;
        TRY(jj_tick(r));
        TRY(jj_dict_find(r, b, a->e[i].key, &o));
        *out = o != NULL;
        if (o) TRY(jj_eq(r, a->e[i].val, *o, out));
    }
    return ST_OK;
}

static bool eq_numbers(jval a, jval b)
{
    if (a.kind != JK_FLOAT && b.kind != JK_FLOAT) return jj_as_int(a) == jj_as_int(b);
    if (a.kind == JK_FLOAT && b.kind == JK_FLOAT) return a.u.f == b.u.f;
    double f = a.kind == JK_FLOAT ? a.u.f : b.u.f;
    int64_t i = a.kind == JK_FLOAT ? jj_as_int(b) : jj_as_int(a);
    return f >= -9223372036854775808.0 && f < 9223372036854775808.0 && (double)(int64_t)f == f && (int64_t)f == i;
}

static bool is_set(jval v) { return v.kind == JK_VIEW && v.u.view->what != JVIEW_VALUES; }

status jj_eq(jrt *r, jval a, jval b, bool *out)
{
    *out = false;
    if (jj_is_number(a) && jj_is_number(b)) {
        *out = eq_numbers(a, b);
        return ST_OK;
    }
    if (is_set(a) && is_set(b)) {
        jvec v = { 0 };
        TRY(jj_to_vec(r, a, &v));
        *out = a.u.view->d->n == b.u.view->d->n;
        for (size_t i = 0; *out && i < v.n; i++) TRY(jj_contains(r, b, v.v[i], out));
        return ST_OK;
    }
    if (a.kind != b.kind) return ST_OK;
    switch (a.kind) {
    case JK_STR: case JK_BIG: *out = a.u.s->len == b.u.s->len && !memcmp(a.u.s->data, b.u.s->data, a.u.s->len); return ST_OK;
    case JK_NONE: case JK_UNDEF: *out = true; return ST_OK;
    case JK_LIST: case JK_TUPLE: case JK_DICT:
        if (a.u.l == b.u.l) {
            *out = true;
            return ST_OK;
        }
        TRY(jj_enter(r));
        TRY(a.kind == JK_DICT ? eq_dicts(r, a.u.d, b.u.d, out) : eq_lists(r, a.u.l, b.u.l, out));
        jj_leave(r);
        return ST_OK;
    case JK_RANGE: {
        const jrange *x = a.u.range, *y = b.u.range;
        *out = x->n == y->n && (x->n == 0 || (x->start == y->start && (x->n == 1 || x->step == y->step)));
        return ST_OK;
    }
    case JK_METHOD:
        *out = a.u.method->fn == b.u.method->fn && jj_is(a.u.method->self, b.u.method->self);
        return ST_OK;
    case JK_DICTTYPE: case JK_SELF: *out = true; return ST_OK;
    default: *out = a.u.it == b.u.it; return ST_OK;
    }
}

/* ---- order ---- */
static int cmp_str(const jstr *a, const jstr *b)
{
    /* UTF-8 sorts as the code points do. */
    size_t n = a->len < b->len ? a->len : b->len;
    int c = n ? memcmp(a->data, b->data, n) : 0;
    return c ? c : (a->len > b->len) - (a->len < b->len);
}

static bool op_holds(jcmp op, int c)
{
    switch (op) {
    case JCMP_LT: return c < 0;
    case JCMP_LE: return c <= 0;
    case JCMP_GT: return c > 0;
    case JCMP_GE: return c >= 0;
    case JCMP_EQ: return c == 0;
    default: return c != 0;
    }
}

static bool compare_numbers(jcmp op, jval a, jval b)
{
    if (a.kind != JK_FLOAT && b.kind != JK_FLOAT) {
        int64_t x = jj_as_int(a), y = jj_as_int(b);
        return op_holds(op, (x > y) - (x < y));
    }
    long double x = a.kind == JK_FLOAT ? (long double)a.u.f : (long double)jj_as_int(a);
    long double y = b.kind == JK_FLOAT ? (long double)b.u.f : (long double)jj_as_int(b);
    switch (op) {
    case JCMP_LT: return x < y;
    case JCMP_LE: return x <= y;
    case JCMP_GT: return x > y;
    default: return x >= y;
    }
}

static bool is_negative(jval v) { return v.kind == JK_BIG ? v.u.s->data[0] == '-' : v.kind == JK_FLOAT ? v.u.f < 0 : jj_as_int(v) < 0; }

/* At least one of them is beyond 64 bits. */
static bool compare_big(jcmp op, jval a, jval b)
{
    int c;
    if (a.kind == JK_BIG && b.kind == JK_BIG && is_negative(a) == is_negative(b)) {
        c = (a.u.s->len > b.u.s->len) - (a.u.s->len < b.u.s->len);
        if (c == 0) c = cmp_str(a.u.s, b.u.s);
        if (is_negative(a)) c = -c;
    } else if (a.kind == JK_FLOAT || b.kind == JK_FLOAT) {
        double x = a.kind == JK_FLOAT ? a.u.f : strtod(a.u.s->data, NULL), y = b.kind == JK_FLOAT ? b.u.f : strtod(b.u.s->data, NULL);
        if (isnan(x) || isnan(y)) return false;
        c = (x > y) - (x < y);
    } else {
        c = a.kind == JK_BIG ? (is_negative(a) ? -1 : 1) : (is_negative(b) ? 1 : -1);
    }
    return op_holds(op, c);
}

static bool is_big_pair(jval a, jval b)
{
    return (a.kind == JK_BIG && (b.kind == JK_BIG || jj_is_number(b))) || (b.kind == JK_BIG && jj_is_number(a));
}

static status compare_lists(jrt *r, jcmp op, const jlist *a, const jlist *b, bool *out)
{
    size_t i = 0;
    bool eq = true;
    for (; i < a->n && i < b->n; i++) {
        TRY(jj_tick(r));
        TRY(jj_eq(r, a->v[i], b->v[i], &eq));
        if (!eq) return jj_compare(r, op, a->v[i], b->v[i], out);
    }
    *out = op_holds(op, (a->n > b->n) - (a->n < b->n));
    return ST_OK;
}

static status compare_sets(jrt *r, jcmp op, jval a, jval b, bool *out)
{
    if (op == JCMP_GT || op == JCMP_GE) {
        jval t = a;
        a = b;
        b = t;
    }
    size_t na = a.u.view->d->n, nb = b.u.view->d->n;
    *out = op == JCMP_LT || op == JCMP_GT ? na < nb : na <= nb;
    jvec v = { 0 };
    TRY(jj_to_vec(r, a, &v));
    for (size_t i = 0; *out && i < v.n; i++) TRY(jj_contains(r, b, v.v[i], out));
    return ST_OK;
}

status jj_compare(jrt *r, jcmp op, jval a, jval b, bool *out)
{
    static const char *const names[] = { "<", "<=", ">", ">=" };
    if (op == JCMP_EQ || op == JCMP_NE) {
        /* A NaN is not even equal to itself, but two references to one list are. */
        TRY(jj_eq(r, a, b, out));
        *out = *out == (op == JCMP_EQ);
        return ST_OK;
    }
    if (a.kind == JK_UNDEF) return jj_undefined_error(r, a);
    if (b.kind == JK_UNDEF) return jj_undefined_error(r, b);
    if (jj_is_number(a) && jj_is_number(b)) {
        *out = compare_numbers(op, a, b);
        return ST_OK;
    }
    if (is_big_pair(a, b)) {
        *out = compare_big(op, a, b);
        return ST_OK;
    }
    if (a.kind == JK_STR && b.kind == JK_STR) {
        *out = op_holds(op, cmp_str(a.u.s, b.u.s));
        return ST_OK;
    }
    if (a.kind == b.kind && (a.kind == JK_LIST || a.kind == JK_TUPLE)) {
        TRY(jj_enter(r));
        TRY(compare_lists(r, op, a.u.l, b.u.l, out));
        jj_leave(r);
        return ST_OK;
    }
    if (is_set(a) && is_set(b)) return compare_sets(r, op, a, b, out);
    return jj_type_error(r, "'%s' not supported between instances of '%s' and '%s'", names[op], jj_type_name(a), jj_type_name(b));
}

static status contains_iter(jrt *r, jval c, jval item, bool *out)
{
    jiter *it;
    if (!jj_iterable(c)) return jj_type_error(r, "argument of type '%s' is not iterable", jj_type_name(c));
    TRY(jj_iter(r, c, &it));
    *out = false;
    while (!*out) {
        jval x;
        bool done;
        TRY(jj_tick(r));
        TRY(jj_next(r, it, &x, &done));
        if (done) return ST_OK;
        TRY(jj_eq(r, x, item, out));
    }
    return ST_OK;
}

status jj_contains(jrt *r, jval c, jval item, bool *out)
{
    const jval *found;
    switch (c.kind) {
    case JK_STR:
        if (item.kind != JK_STR) return jj_type_error(r, "'in <string>' requires string as left operand, not %s", jj_type_name(item));
        *out = item.u.s->len == 0 || memmem(c.u.s->data, c.u.s->len, item.u.s->data, item.u.s->len) != NULL;
        return ST_OK;
    case JK_DICT:
        TRY(jj_dict_find(r, c.u.d, item, &found));
        *out = found != NULL;
        return ST_OK;
    case JK_VIEW:
        if (c.u.view->what == JVIEW_VALUES) return contains_iter(r, c, item, out);
        *out = false;
        if (c.u.view->what == JVIEW_ITEMS && (item.kind != JK_TUPLE || item.u.l->n != 2)) return ST_OK;
        TRY(jj_dict_find(r, c.u.view->d, c.u.view->what == JVIEW_ITEMS ? item.u.l->v[0] : item, &found));
        *out = found != NULL;
        if (found && c.u.view->what == JVIEW_ITEMS) return jj_eq(r, *found, item.u.l->v[1], out);
        return ST_OK;
    default: return contains_iter(r, c, item, out);
    }
}

/* ---- sorting ---- */
static status less(jrt *r, jval a, jval b, bool *out)
{
    TRY(jj_tick(r));
    return jj_compare(r, JCMP_LT, a, b, out);
}

/* Sorts order[lo, hi) by keys; insertion for short runs compares the later element with the earlier one, as CPython
 * does, so that errors name the types in its order. */
static status insertion(jrt *r, const jval *k, size_t *o, size_t lo, size_t hi)
{
    for (size_t i = lo + 1; i < hi; i++) {
        size_t x = o[i], a = lo, b = i;
        bool lt;
        if (i > lo) { /* already in place is the common case */
            TRY(less(r, k[x], k[o[i - 1]], &lt));
            if (!lt) continue;
            b = i - 1;
        }
        while (a < b) {
            size_t mid = a + (b - a) / 2;
            TRY(less(r, k[x], k[o[mid]], &lt));
            if (lt) b = mid;
            else a = mid + 1;
        }
        memmove(o + a + 1, o + a, (i - a) * sizeof *o);
        o[a] = x;
    }
    return ST_OK;
}

static status merge_sort(jrt *r, const jval *k, size_t *o, size_t *tmp, size_t lo, size_t hi)
{
    if (hi - lo <= 16) return insertion(r, k, o, lo, hi);
    size_t mid = lo + (hi - lo) / 2, i = lo, j = mid, n = lo;
    TRY(merge_sort(r, k, o, tmp, lo, mid));
    TRY(merge_sort(r, k, o, tmp, mid, hi));
    memcpy(tmp + lo, o + lo, (hi - lo) * sizeof *o);
    while (i < mid && j < hi) {
        bool lt;
        TRY(less(r, k[tmp[j]], k[tmp[i]], &lt));
        o[n++] = lt ? tmp[j++] : tmp[i++];
    }
    while (i < mid) o[n++] = tmp[i++];
    while (j < hi) o[n++] = tmp[j++];
    return ST_OK;
}

status jj_sort(jrt *r, jval *keys, jval *items, size_t n, bool reverse)
{
    size_t *o, *tmp;
    jval *k2, *i2;
    TRY(jj_alloc(r, (n + 1) * sizeof *o, &o));
    TRY(jj_alloc(r, (n + 1) * sizeof *tmp, &tmp));
    TRY(jj_alloc(r, (n + 1) * sizeof *k2, &k2));
    TRY(jj_alloc(r, (n + 1) * sizeof *i2, &i2));
    /* A reversed sort is still stable: reverse, sort, reverse. */
    for (size_t i = 0; i < n; i++) o[i] = reverse ? n - 1 - i : i;
    TRY(merge_sort(r, keys, o, tmp, 0, n));
    for (size_t i = 0; i < n; i++) {
        size_t from = reverse ? o[n - 1 - i] : o[i];
        k2[i] = keys[from];
        i2[i] = items[from];
    }
    if (n) {
        memcpy(keys, k2, n * sizeof *keys);
        memcpy(items, i2, n * sizeof *items);
    }
    return ST_OK;
}
