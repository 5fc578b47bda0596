/* Expressions. */
#include "text/jinja_eval.h"

#include <stdio.h>
#include <string.h>

static status eval_items(jrt *r, const jnodes *l, jframe *f, jvec *out)
{
    for (size_t i = 0; i < l->n; i++) {
        jval x;
        TRY(jj_eval(r, l->v[i], f, &x));
        TRY(jj_push(r, out, x));
    }
    return ST_OK;
}

static status eval_dict(jrt *r, const jnode *n, jframe *f, jval *out)
{
    jdict *d;
    TRY(jj_dict_new(r, &d));
    for (size_t i = 0; i < n->kids.n; i++) {
        jval k, v;
        TRY(jj_eval(r, n->kids.v[i], f, &k));
        TRY(jj_eval(r, n->vals.v[i], f, &v));
        TRY(jj_dict_put(r, d, k, v));
    }
    *out = (jval){ JK_DICT, { .d = d } };
    return ST_OK;
}

static status eval_cond(jrt *r, const jnode *n, jframe *f, jval *out)
{
    jval c;
    TRY(jj_eval(r, n->a, f, &c));
    if (jj_truth(r, c)) return jj_eval(r, n->b, f, out);
    if (n->c) return jj_eval(r, n->c, f, out);
    char msg[120];
    snprintf(msg, sizeof msg, "the inline if-expression on line %d evaluated to false and no else section was defined.", n->line);
    return jj_undef_hint(r, msg, out);
}

static status eval_compare(jrt *r, const jnode *n, jframe *f, jval *out)
{
    jval a, b;
    bool ok = true;
    TRY(jj_eval(r, n->a, f, &a));
    for (size_t i = 0; ok && i < n->kids.n; i++) {
        TRY(jj_eval(r, n->kids.v[i], f, &b));
        if (n->ops[i] == OP_IN || n->ops[i] == OP_NOTIN) {
            TRY(jj_contains(r, b, a, &ok));
            ok = ok == (n->ops[i] == OP_IN);
        } else {
            TRY(jj_compare(r, (jcmp)n->ops[i], a, b, &ok));
        }
        a = b;
    }
    *out = jj_bool(ok);
    return ST_OK;
}

static bool escapes(const jrt *r, const jnode *n) { return n->escape == 1 || (n->escape == 2 && r->escape); }

static status eval_concat(jrt *r, const jnode *n, jframe *f, jval *out)
{
    jvec v = { 0 };
    bool markup = false;
    TRY(eval_items(r, &n->kids, f, &v));
    for (size_t i = 0; i < v.n; i++) {
        TRY(jj_to_str(r, v.v[i], &v.v[i]));
        markup = markup || (escapes(r, n) && v.v[i].u.s->markup);
    }
    for (size_t i = 0; i < v.n; i++) {
        if (markup) TRY(jj_escape(r, v.v[i], &v.v[i]));
        if (i == 0) *out = v.v[0];
        else TRY(jj_concat(r, out->u.s, v.v[i].u.s, out));
    }
    return markup ? jj_markup(r, *out, out) : jj_plain(r, *out, out);
}

static status add_kw(jrt *r, jkw **kw, size_t *n, size_t *cap, const jstr *name, jval val)
{
    for (size_t i = 0; i < *n; i++)
        if ((*kw)[i].name->len == name->len && !memcmp((*kw)[i].name->data, name->data, name->len))
            return jj_type_error(r, "jinja2.sandbox.SandboxedEnvironment.call() got multiple values for keyword argument '%.*s'", (int)name->len, name->data);
    if (*n == *cap) {
        jkw *q;
        *cap = *cap ? *cap * 2 : 4;
        TRY(jj_alloc(r, *cap * sizeof *q, &q));
        if (*n) memcpy(q, *kw, *n * sizeof *q);
        *kw = q;
    }
    (*kw)[(*n)++] = (jkw){ name, val };
    return ST_OK;
}

/* Arguments of a call, filter or test; `first` comes before them unless JK_MISSING. */
static status eval_args(jrt *r, const jnode *n, jframe *f, jval first, jval caller, jargs *out)
{
    static const jstr caller_name = { .data = "caller", .len = 6, .ascii = true };
    jvec v = { 0 };
    jkw *kw = NULL;
    size_t n_kw = 0, cap = 0;
    jval x;
    if (first.kind != JK_MISSING) TRY(jj_push(r, &v, first));
    TRY(eval_items(r, &n->kids, f, &v));
    for (size_t i = 0; i < n->vals.n; i++) {
        TRY(jj_eval(r, n->vals.v[i], f, &x));
        TRY(add_kw(r, &kw, &n_kw, &cap, n->keys[i], x));
    }
    if (caller.kind != JK_MISSING) TRY(add_kw(r, &kw, &n_kw, &cap, &caller_name, caller));
    if (n->star) {
        TRY(jj_eval(r, n->star, f, &x));
        if (!jj_iterable(x)) return jj_type_error(r, "Value after * must be an iterable, not %s", jj_type_name(x));
        jvec more = { 0 };
        TRY(jj_to_vec(r, x, &more));
        for (size_t i = 0; i < more.n; i++) TRY(jj_push(r, &v, more.v[i]));
    }
    if (n->dstar) {
        TRY(jj_eval(r, n->dstar, f, &x));
        if (x.kind == JK_UNDEF) return jj_undefined_error(r, x);
        if (x.kind != JK_DICT) return jj_type_error(r, "jinja2.sandbox.SandboxedEnvironment.call() argument after ** must be a mapping, not %s", jj_type_name(x));
        for (size_t i = 0; i < x.u.d->n; i++) {
            if (x.u.d->e[i].key.kind != JK_STR) return jj_type_error(r, "keywords must be strings");
            TRY(add_kw(r, &kw, &n_kw, &cap, x.u.d->e[i].key.u.s, x.u.d->e[i].val));
        }
    }
    *out = (jargs){ v.v, v.n, kw, n_kw };
    return ST_OK;
}

status jj_eval_call(jrt *r, const jnode *n, jframe *f, jval caller, jval *out)
{
    jval fn;
    jargs a;
    TRY(jj_eval(r, n->a, f, &fn));
    TRY(eval_args(r, n, f, jj_missing(), caller, &a));
    return jj_call(r, fn, &a, out);
}

static status eval_builtin(jrt *r, const jnode *n, jframe *f, jval *out)
{
    jval x = r->input;
    jargs a;
    if (n->a) TRY(jj_eval(r, n->a, f, &x));
    TRY(eval_args(r, n, f, x, jj_missing(), &a));
    if (!n->fn)
        return jj_fail(r, JINJA_TEMPLATE_ERROR, "No %s named '%.*s' found.", n->kind == N_FILTER ? "filter" : "test", (int)n->name->len, n->name->data);
    bool saved = r->escape;
    if (n->escape < 2) r->escape = n->escape == 1; /* |join and |replace look at it */
    status st = n->fn->call(r, jj_missing(), &a, out);
    r->escape = saved;
    return st;
}

static status eval_getitem(jrt *r, const jnode *n, jframe *f, jval *out)
{
    jval obj, key, s[3] = { jj_none(), jj_none(), jj_none() };
    TRY(jj_eval(r, n->a, f, &obj));
    if (n->b->kind != N_SLICE) {
        TRY(jj_eval(r, n->b, f, &key));
        return jj_getitem(r, obj, key, out);
    }
    if (n->b->a) TRY(jj_eval(r, n->b->a, f, &s[0]));
    if (n->b->b) TRY(jj_eval(r, n->b->b, f, &s[1]));
    if (n->b->c) TRY(jj_eval(r, n->b->c, f, &s[2]));
    return jj_slice(r, obj, s[0], s[1], s[2], out);
}

static status eval_inner(jrt *r, const jnode *n, jframe *f, jval *out)
{
    jval a, b;
    jvec v = { 0 };
    switch (n->kind) {
    case N_TUPLE:
        TRY(eval_items(r, &n->kids, f, &v));
        return jj_vec_list(r, &v, JK_TUPLE, out);
    case N_LIST:
        TRY(eval_items(r, &n->kids, f, &v));
        return jj_vec_list(r, &v, JK_LIST, out);
    case N_DICT: return eval_dict(r, n, f, out);
    case N_COND: return eval_cond(r, n, f, out);
    case N_OR: case N_AND:
        TRY(jj_eval(r, n->a, f, out));
        return jj_truth(r, *out) == (n->kind == N_OR) ? ST_OK : jj_eval(r, n->b, f, out);
    case N_NOT:
        TRY(jj_eval(r, n->a, f, &a));
        *out = jj_bool(!jj_truth(r, a));
        return ST_OK;
    case N_NEG: case N_POS:
        TRY(jj_eval(r, n->a, f, &a));
        return jj_negate(r, a, n->kind == N_POS, out);
    case N_BIN:
        TRY(jj_eval(r, n->a, f, &a));
        TRY(jj_eval(r, n->b, f, &b));
        return jj_binary(r, n->op, a, b, out);
    case N_COMPARE: return eval_compare(r, n, f, out);
    case N_CONCAT: return eval_concat(r, n, f, out);
    case N_GETATTR:
        TRY(jj_eval(r, n->a, f, &a));
        return jj_getattr(r, a, n->name, out);
    case N_GETITEM: return eval_getitem(r, n, f, out);
    case N_CALL: return jj_eval_call(r, n, f, jj_missing(), out);
    case N_FILTER: case N_TEST: return eval_builtin(r, n, f, out);
    default: return jj_fail(r, JINJA_OTHER, "not an expression");
    }
}

status jj_eval(jrt *r, const jnode *n, jframe *f, jval *out)
{
    if (n->kind == N_CONST) {
        *out = n->value;
        return ST_OK;
    }
    if (n->kind == N_NAME) {
        *out = *jj_slot(f, n->ref);
        return out->kind == JK_MISSING ? jj_undef_name(r, n->name, out) : ST_OK;
    }
    TRY(jj_enter(r));
    TRY(eval_inner(r, n, f, out));
    jj_leave(r);
    return ST_OK;
}
