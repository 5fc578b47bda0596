/* Statements, macros, loops, and rendering as a whole. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "text/jinja_eval.h"

/* ---- frames and scopes ---- */
status jj_frame_new(jrt *r, const junit *u, jframe *up, jframe **out)
{
    jframe *f = r->free_frames[u->id];
    if (f) {
        r->free_frames[u->id] = f->up;
    } else {
        TRY(jj_alloc(r, sizeof *f, &f));
        TRY(jj_alloc(r, (size_t)u->n_slots * sizeof *f->slots, &f->slots));
    }
    f->up = up;
    for (int i = 0; i < u->n_slots; i++) f->slots[i] = jj_missing();
    *out = f;
    return ST_OK;
}

/* Frames that nothing can still refer to are used again. */
void jj_frame_done(jrt *r, const junit *u, jframe *f)
{
    if (u->captured) return;
    f->up = r->free_frames[u->id];
    r->free_frames[u->id] = f;
}

static status resolve(jrt *r, const jstr *name, jval *out)
{
    const jval *v = jj_dict_str(&r->exported, name->data, name->len);
    if (!v) v = jj_dict_str(&r->globals, name->data, name->len);
    if (v) {
        *out = *v;
        return ST_OK;
    }
    char *key;
    TRY(jj_alloc(r, name->len + 1, &key));
    memcpy(key, name->data, name->len);
    key[name->len] = 0;
    const jv *given = jv_get(r->vars, key);
    *out = jj_missing();
    if (given) TRY(jj_from_json(r, given, out));
    else jj_global(name->data, name->len, out);
    return jj_dict_put(r, &r->globals, jj_s(name), *out);
}

status jj_scope_enter(jrt *r, const jscope *s, jframe *f)
{
    for (size_t i = 0; i < s->n; i++) {
        const jload *l = &s->loads[i];
        if (l->action == LOAD_ALIAS) f->slots[l->slot] = *jj_slot(f, l->from);
        else if (l->action == LOAD_UNDEFINED) f->slots[l->slot] = jj_missing();
        else TRY(resolve(r, l->name, &f->slots[l->slot]));
    }
    return ST_OK;
}

void jj_scope_leave(const jscope *s, jframe *f)
{
    for (size_t i = 0; i < s->n_slots; i++) f->slots[s->slots[i]] = jj_missing();
}

static status unpack(jrt *r, const jnode *t, jframe *f, jval v)
{
    size_t want = t->kids.n;
    jvec items = { 0 };
    if (!jj_iterable(v)) return jj_type_error(r, "cannot unpack non-iterable %s object", jj_type_name(v));
    jiter *it;
    TRY(jj_iter(r, v, &it));
    for (;;) {
        jval x;
        bool done;
        TRY(jj_next(r, it, &x, &done));
        if (done) break;
        if (items.n == want) return jj_value_error(r, "too many values to unpack (expected %zu)", want);
        TRY(jj_push(r, &items, x));
    }
    if (items.n < want) return jj_value_error(r, "not enough values to unpack (expected %zu, got %zu)", want, items.n);
    for (size_t i = 0; i < want; i++) TRY(jj_assign(r, t->kids.v[i], f, items.v[i]));
    return ST_OK;
}

status jj_assign(jrt *r, const jnode *t, jframe *f, jval v)
{
    if (t->kind == N_TUPLE) return unpack(r, t, f, v);
    jval *slot = jj_slot(f, t->ref);
    if (t->kind == N_NAME) {
        *slot = v;
        return t->flag ? jj_dict_put(r, &r->exported, jj_s(t->name), v) : ST_OK;
    }
    const jstr *attr = t->value.u.s;
    if (attr->data[0] == '_')
        return jj_fail(r, JINJA_SECURITY, "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '%.*s'. Please rename the attribute.",
                       (int)attr->len, attr->data);
    return jj_dict_put(r, &slot->u.ns->d, t->value, v);
}

static status check_namespaces(jrt *r, const jnode *t, jframe *f)
{
    if (t->kind == N_NSREF && jj_slot(f, t->ref)->kind != JK_NS) return jj_fail(r, JINJA_TEMPLATE_ERROR, "cannot assign attribute on non-namespace object");
    for (size_t i = 0; t->kind == N_TUPLE && i < t->kids.n; i++) TRY(check_namespaces(r, t->kids.v[i], f));
    return ST_OK;
}

/* ---- output ---- */
static status write_out(jrt *r, const jstr *s)
{
    if (!r->out->main) {
        jj_sb_jstr(&r->out->sb, s);
        return r->out->sb.st;
    }
    if (s->len > r->lim.output_bytes - r->written)
        return jj_fail(r, JINJA_LIMIT, "the chat template writes more than %zu bytes", r->lim.output_bytes);
    r->written += s->len;
    buf_append(r->out->main, s->data, s->len);
    return buf_status(r->out->main);
}

static status write_result(jrt *r, jval v)
{
    if (v.kind == JK_STR) return write_out(r, v.u.s);
    return jj_type_error(r, "sequence item 0: expected str instance, %s found", jj_type_name(v));
}

static status exec_output(jrt *r, const jnode *n, jframe *f)
{
    bool esc = n->escape == 1 || (n->escape == 2 && r->escape);
    for (size_t i = 0; i < n->kids.n; i++) {
        const jnode *k = n->kids.v[i];
        jval v;
        if (k->kind == N_CONST && k->flag) {
            TRY(write_out(r, k->value.u.s));
            continue;
        }
        TRY(jj_eval(r, k, f, &v));
        TRY(esc ? jj_escape(r, v, &v) : jj_to_str(r, v, &v));
        TRY(write_out(r, v.u.s));
    }
    return ST_OK;
}

/* Runs a body and gives what it writes. */
static status capture(jrt *r, const jnodes *body, jframe *f, jflow *flow, jval *out)
{
    jsink sink = { .sb = jj_sb(r) }, *saved = r->out;
    r->out = &sink;
    status st = jj_exec(r, body, f, flow);
    r->out = saved;
    TRY(st);
    return jj_sb_take(&sink.sb, out);
}

/* ---- macros ---- */
static status take_kw(jkw *kw, size_t *n, const char *name, size_t len, jval *out)
{
    *out = jj_missing();
    for (size_t i = 0; i < *n; i++) {
        if (kw[i].name->len != len || memcmp(kw[i].name->data, name, len)) continue;
        *out = kw[i].val;
        memmove(kw + i, kw + i + 1, (--*n - i) * sizeof *kw);
        break;
    }
    return ST_OK;
}

static status macro_error(jrt *r, const jnode *m, const char *after, const jstr *key)
{
    const char *name = m->name ? jj_repr_c(r, jj_s(m->name)) : "None";
    if (key) return jj_type_error(r, "macro %s%s%s", name, after, jj_repr_c(r, jj_s(key)));
    return jj_type_error(r, "macro %s%s", name, after);
}

static status bind_macro(jrt *r, const jnode *m, const jargs *a, jframe *f)
{
    jkw *kw = NULL;
    size_t n_kw = a->n_kw, n = m->kids.n;
    bool found_caller = a->n >= n && m->explicit_caller;
    jval v;
    if (n_kw) {
        TRY(jj_alloc(r, n_kw * sizeof *kw, &kw));
        memcpy(kw, a->kw, n_kw * sizeof *kw);
    }
    for (size_t i = 0; i < n; i++) {
        const jnode *p = m->kids.v[i];
        if (i < a->n) v = a->v[i];
        else {
            TRY(take_kw(kw, &n_kw, p->name->data, p->name->len, &v));
            found_caller = found_caller || jp_str_is(p->name, "caller");
        }
        *jj_slot(f, p->ref) = v;
    }
    if (m->uses_caller && !found_caller) {
        TRY(take_kw(kw, &n_kw, "caller", 6, &v));
        if (v.kind == JK_MISSING || v.kind == JK_NONE) TRY(jj_undef_hint(r, "No caller defined", &v));
        *jj_slot(f, m->ref) = v;
    }
    if (m->uses_kwargs) {
        jdict *d;
        TRY(jj_dict_new(r, &d));
        for (size_t i = 0; i < n_kw; i++) TRY(jj_dict_put(r, d, jj_s(kw[i].name), kw[i].val));
        *jj_slot(f, m->ref2) = (jval){ JK_DICT, { .d = d } };
    } else if (n_kw) {
        for (size_t i = 0; i < n_kw; i++)
            if (jp_str_is(kw[i].name, "caller")) return macro_error(r, m, " was invoked with two values for the special caller argument. This is most likely a bug.", NULL);
        return macro_error(r, m, " takes no keyword argument ", kw[0].name);
    }
    if (m->uses_varargs) return jj_list(r, JK_TUPLE, a->n > n ? a->v + n : NULL, a->n > n ? a->n - n : 0, jj_slot(f, m->ref3));
    if (a->n <= n) return ST_OK;
    char msg[64];
    snprintf(msg, sizeof msg, " takes not more than %zu argument(s)", n);
    return macro_error(r, m, msg, NULL);
}

static status macro_defaults(jrt *r, const jnode *m, jframe *f)
{
    for (size_t i = 0; i < m->kids.n; i++) {
        const jnode *p = m->kids.v[i];
        jval *slot = jj_slot(f, p->ref);
        if (slot->kind != JK_MISSING) continue;
        if (i + m->vals.n >= m->kids.n) {
            jval v;
            TRY(jj_eval(r, m->vals.v[i + m->vals.n - m->kids.n], f, &v));
            *slot = v;
            continue;
        }
        const char *hint = arena_printf(&r->mem, "parameter %s was not provided", jj_repr_c(r, jj_s(p->name)));
        TRY(jj_undef_hint(r, hint ? hint : "", slot));
    }
    return ST_OK;
}

status jj_call_macro(jrt *r, jmacro *mac, const jargs *a, jval *out)
{
    const jnode *m = mac->node;
    jframe *f;
    jflow flow = FLOW_NEXT;
    if (++r->macro_depth > r->lim.depth) return jj_fail(r, JINJA_LIMIT, "maximum recursion depth exceeded");
    TRY(jj_frame_new(r, &m->unit, mac->frame, &f));
    TRY(bind_macro(r, m, a, f));
    TRY(jj_scope_enter(r, &m->scope, f));
    TRY(macro_defaults(r, m, f));
    bool escape = r->escape;
    TRY(capture(r, &m->body, f, &flow, out));
    jj_frame_done(r, &m->unit, f);
    r->macro_depth--;
    return escape ? jj_markup(r, *out, out) : ST_OK;
}

static status make_macro(jrt *r, const jnode *n, jframe *f, jval *out)
{
    jmacro *m;
    TRY(jj_calloc(r, 1, sizeof *m, &m));
    m->node = (jnode *)(uintptr_t)n;
    m->frame = f;
    *out = (jval){ JK_MACRO, { .macro = m } };
    return ST_OK;
}

static status exec_call_block(jrt *r, const jnode *n, jframe *f)
{
    jval caller, v;
    jargs none = { 0 };
    TRY(make_macro(r, n, f, &caller));
    if (n->flag) TRY(jj_call_macro(r, caller.u.macro, &none, &v));
    else TRY(jj_eval_call(r, n->a, f, caller, &v));
    return write_result(r, v);
}

/* ---- loops ---- */
static status next_passing(jrt *r, jiter *it, jval *out, bool *done)
{
    const jnode *n = it->extra[0];
    jframe *f = it->extra[1];
    if (!it->started) {
        it->started = true;
        TRY(jj_iter(r, it->src, &it->sub));
        TRY(jj_scope_enter(r, &n->scope3, f));
    }
    for (;;) {
        jval ok;
        TRY(jj_tick(r));
        TRY(jj_next(r, it->sub, out, done));
        if (*done) return ST_OK;
        TRY(jj_assign(r, n->test_target, f, *out));
        TRY(jj_eval(r, n->c, f, &ok));
        if (jj_truth(r, ok)) return ST_OK;
    }
}

static status loop_peek(jrt *r, jloop *l, bool *more)
{
    if (!l->has_after && !l->ended) {
        bool done;
        TRY(jj_next(r, l->it, &l->after, &done));
        l->has_after = !done;
        l->ended = done;
    }
    *more = l->has_after;
    return ST_OK;
}

static status loop_next(jrt *r, jloop *l, jval *out, bool *done)
{
    bool more;
    TRY(loop_peek(r, l, &more));
    *done = !more;
    if (!more) return ST_OK;
    l->has_after = false;
    l->index0++;
    l->before = l->cur;
    *out = l->cur = l->after;
    return ST_OK;
}

static status loop_length(jrt *r, jloop *l, int64_t *out)
{
    if (l->length < 0 && jj_has_len(l->src)) {
        TRY(jj_len(r, l->src, &l->length));
    } else if (l->length < 0) {
        jvec rest = { 0 };
        jval list;
        TRY(jj_to_vec(r, jj_iter_val(l->it), &rest));
        TRY(jj_vec_list(r, &rest, JK_LIST, &list));
        TRY(jj_iter(r, list, &l->it));
        l->length = (int64_t)rest.n + l->index0 + 1 + l->has_after;
    }
    *out = l->length;
    return ST_OK;
}

static status loop_cycle(jrt *r, jval self, const jargs *a, jval *out)
{
    if (a->n == 0) return jj_type_error(r, "no items for cycling given");
    int64_t i = self.u.loop->index0 % (int64_t)a->n;
    *out = a->v[i < 0 ? i + (int64_t)a->n : i];
    return ST_OK;
}

static status loop_changed(jrt *r, jval self, const jargs *a, jval *out)
{
    jloop *l = self.u.loop;
    jval v;
    bool eq = false;
    TRY(jj_list(r, JK_TUPLE, a->v, a->n, &v));
    if (l->has_changed) TRY(jj_eq(r, l->last_changed, v, &eq));
    l->has_changed = true;
    l->last_changed = v;
    *out = jj_bool(!eq);
    return ST_OK;
}

status jj_loop_attr(jrt *r, jloop *l, const jstr *name, jval *out, bool *found)
{
    static const jfn cycle = { "cycle", loop_cycle }, changed = { "changed", loop_changed };
    int64_t n;
    bool more;
    jval self = { JK_LOOP, { .loop = l } };
    *found = true;
    if (jp_str_is(name, "index")) *out = jj_int(l->index0 + 1);
    else if (jp_str_is(name, "index0")) *out = jj_int(l->index0);
    else if (jp_str_is(name, "first")) *out = jj_bool(l->index0 == 0);
    else if (jp_str_is(name, "depth")) *out = jj_int(l->depth0 + 1);
    else if (jp_str_is(name, "depth0")) *out = jj_int(l->depth0);
    else if (jp_str_is(name, "cycle")) return jj_method(r, self, &cycle, out);
    else if (jp_str_is(name, "changed")) return jj_method(r, self, &changed, out);
    else if (jp_str_is(name, "previtem")) {
        if (l->index0 == 0) return jj_undef_hint(r, "there is no previous item", out);
        *out = l->before;
    } else if (jp_str_is(name, "last") || jp_str_is(name, "nextitem")) {
        TRY(loop_peek(r, l, &more));
        if (jp_str_is(name, "last")) *out = jj_bool(!more);
        else if (!more) return jj_undef_hint(r, "there is no next item", out);
        else *out = l->after;
    } else if (jp_str_is(name, "length") || jp_str_is(name, "revindex") || jp_str_is(name, "revindex0")) {
        TRY(loop_length(r, l, &n));
        *out = jj_int(jp_str_is(name, "length") ? n : jp_str_is(name, "revindex") ? n - l->index0 : n - l->index0 - 1);
    } else *found = false;
    return ST_OK;
}

/* One loop over `items` with its variables in f. *ran: some iteration reached its end, so there is no else. */
static status run_loop(jrt *r, const jnode *n, jframe *f, jval items, int64_t depth0, bool *ran)
{
    jiter *it;
    jloop *l = NULL;
    *ran = false;
    if (n->c) {
        TRY(jj_new_iter(r, "generator", next_passing, &it));
        it->src = items;
        it->extra[0] = (void *)(uintptr_t)n;
        it->extra[1] = f;
        items = jj_iter_val(it);
    }
    TRY(jj_iter(r, items, &it));
    if (n->uses_loop) {
        TRY(jj_calloc(r, 1, sizeof *l, &l));
        *l = (jloop){ .src = items, .it = it, .index0 = -1, .length = -1, .cur = jj_missing(), .before = jj_missing(), .depth0 = depth0,
                      .recurse = n->flag ? (jnode *)(uintptr_t)n : NULL, .frame = n->flag ? f->up : NULL };
    }
    for (jflow flow = FLOW_NEXT; flow != FLOW_BREAK;) {
        jval x;
        bool done;
        TRY(jj_tick(r));
        TRY(l ? loop_next(r, l, &x, &done) : jj_next(r, it, &x, &done));
        if (done) break;
        TRY(jj_assign(r, n->a, f, x));
        if (l) *jj_slot(f, n->ref) = (jval){ JK_LOOP, { .loop = l } };
        TRY(jj_scope_enter(r, &n->scope, f));
        flow = FLOW_NEXT;
        TRY(jj_exec(r, &n->body, f, &flow));
        *ran = *ran || flow == FLOW_NEXT; /* as in jinja2, `continue` and `break` leave the else branch open */
    }
    jj_scope_leave(&n->scope, f);
    return ST_OK;
}

static status run_for(jrt *r, const jnode *n, jframe *f, jval items, int64_t depth0, jflow *flow)
{
    bool ran;
    TRY(run_loop(r, n, f, items, depth0, &ran));
    if (ran || !n->els.n) return ST_OK;
    TRY(jj_scope_enter(r, &n->scope2, f));
    TRY(jj_exec(r, &n->els, f, flow));
    jj_scope_leave(&n->scope2, f);
    return ST_OK;
}

status jj_call_loop(jrt *r, jloop *l, const jargs *a, jval *out)
{
    static const char *const names[] = { "iterable" };
    jval items;
    TRY(jj_bind(r, "LoopContext.__call__", names, 1, 1, 1, a, &items));
    if (!l->recurse) return jj_type_error(r, "The loop must have the 'recursive' marker to be called recursively.");
    if (++r->macro_depth > r->lim.depth) return jj_fail(r, JINJA_LIMIT, "maximum recursion depth exceeded");
    jframe *f;
    jflow flow = FLOW_NEXT;
    TRY(jj_frame_new(r, &l->recurse->unit, l->frame, &f));
    jsink sink = { .sb = jj_sb(r) }, *saved = r->out;
    r->out = &sink;
    TRY(run_for(r, l->recurse, f, items, l->depth0 + 1, &flow));
    r->out = saved;
    r->macro_depth--;
    return jj_sb_take(&sink.sb, out);
}

static status exec_for(jrt *r, const jnode *n, jframe *f, jflow *flow)
{
    jval items;
    TRY(jj_eval(r, n->b, f, &items));
    if (n->flag) {
        jframe *own;
        TRY(jj_frame_new(r, &n->unit, f, &own));
        f = own;
    }
    return run_for(r, n, f, items, 0, flow);
}

/* ---- other statements ---- */
static status exec_if(jrt *r, const jnode *n, jframe *f, jflow *flow)
{
    for (size_t i = 0; i < n->kids.n; i++) {
        jval c;
        TRY(jj_eval(r, n->kids.v[i], f, &c));
        if (jj_truth(r, c)) return jj_exec(r, &n->bodies[i], f, flow);
    }
    return jj_exec(r, &n->els, f, flow);
}

static status exec_set(jrt *r, const jnode *n, jframe *f)
{
    jval v;
    TRY(check_namespaces(r, n->a, f));
    TRY(jj_eval(r, n->b, f, &v));
    return jj_assign(r, n->a, f, v);
}

static status exec_set_block(jrt *r, const jnode *n, jframe *f, jflow *flow)
{
    jval v, input = r->input;
    TRY(jj_scope_enter(r, &n->scope, f));
    TRY(capture(r, &n->body, f, flow, &v));
    if (*flow == FLOW_NEXT) {
        if (n->b) {
            r->input = v;
            TRY(jj_eval(r, n->b, f, &v));
            r->input = input;
        }
        if (r->escape && v.kind == JK_STR) TRY(jj_markup(r, v, &v));
        if (n->a->kind == N_NSREF && jj_slot(f, n->a->ref)->kind != JK_NS)
            return jj_type_error(r, "'%s' object does not support item assignment", jj_type_name(*jj_slot(f, n->a->ref)));
        TRY(jj_assign(r, n->a, f, v));
    }
    jj_scope_leave(&n->scope, f);
    return ST_OK;
}

static status exec_filter_block(jrt *r, const jnode *n, jframe *f, jflow *flow)
{
    jval v, input = r->input;
    TRY(jj_scope_enter(r, &n->scope, f));
    TRY(capture(r, &n->body, f, flow, &v));
    if (*flow == FLOW_NEXT) {
        if (r->escape) TRY(jj_markup(r, v, &v));
        r->input = v;
        TRY(jj_eval(r, n->a, f, &v));
        r->input = input;
        TRY(write_result(r, v));
    }
    jj_scope_leave(&n->scope, f);
    return ST_OK;
}

static status exec_with(jrt *r, const jnode *n, jframe *f, jflow *flow)
{
    TRY(jj_scope_enter(r, &n->scope, f));
    for (size_t i = 0; i < n->kids.n; i++) {
        jval v;
        TRY(jj_eval(r, n->vals.v[i], f, &v));
        TRY(jj_assign(r, n->kids.v[i], f, v));
    }
    TRY(jj_exec(r, &n->body, f, flow));
    jj_scope_leave(&n->scope, f);
    return ST_OK;
}

static status exec_autoescape(jrt *r, const jnode *n, jframe *f, jflow *flow)
{
    jval v;
    bool saved = r->escape;
    TRY(jj_scope_enter(r, &n->scope, f));
    TRY(jj_eval(r, n->a, f, &v));
    r->escape = jj_truth(r, v);
    TRY(jj_exec(r, &n->body, f, flow));
    r->escape = saved;
    jj_scope_leave(&n->scope, f);
    return ST_OK;
}

static status run_block(jrt *r, const jnode *n)
{
    jframe *f;
    jflow flow = FLOW_NEXT;
    if (n->op) return jj_fail(r, JINJA_TEMPLATE_ERROR, "Required block %s not found", jj_repr_c(r, jj_s(n->name)));
    if (++r->macro_depth > r->lim.depth) return jj_fail(r, JINJA_LIMIT, "maximum recursion depth exceeded");
    TRY(jj_frame_new(r, &n->unit, NULL, &f));
    if (n->uses_caller) *jj_slot(f, n->ref) = (jval){ JK_SELF, { .i = 0 } };
    if (n->uses_kwargs) {
        const char *hint = arena_printf(&r->mem, "there is no parent block called %s.", jj_repr_c(r, jj_s(n->name)));
        TRY(jj_undef_hint(r, hint ? hint : "", jj_slot(f, n->ref2)));
    }
    TRY(jj_scope_enter(r, &n->scope, f));
    TRY(jj_exec(r, &n->body, f, &flow));
    jj_frame_done(r, &n->unit, f);
    r->macro_depth--;
    return ST_OK;
}

static status exec_block(jrt *r, const jnode *n, jframe *f)
{
    jdict saved = r->exported;
    if (n->flag) {
        jdict *d;
        TRY(jj_dict_copy(r, &saved, &d));
        for (size_t i = n->kids.n; i-- > 0;) {
            jval v = *jj_slot(f, n->kids.v[i]->ref);
            if (v.kind != JK_MISSING) TRY(jj_dict_put(r, d, jj_s(n->kids.v[i]->name), v));
        }
        r->exported = *d;
    }
    TRY(run_block(r, n));
    if (n->flag) r->exported = saved;
    return ST_OK;
}

bool jj_block_named(jrt *r, const jstr *name, jval *out)
{
    for (size_t i = 0; i < r->t->blocks.n; i++) {
        jnode *b = r->t->blocks.v[i];
        if (b->name->len != name->len || memcmp(b->name->data, name->data, name->len)) continue;
        *out = (jval){ JK_BLOCKREF, { .block = b } };
        return true;
    }
    return false;
}

status jj_call_block(jrt *r, jnode *block, jval *out)
{
    jsink sink = { .sb = jj_sb(r) }, *saved = r->out;
    r->out = &sink;
    TRY(run_block(r, block));
    r->out = saved;
    TRY(jj_sb_take(&sink.sb, out));
    return r->escape ? jj_markup(r, *out, out) : ST_OK;
}

static status exec_one(jrt *r, const jnode *n, jframe *f, jflow *flow)
{
    jval v;
    switch (n->kind) {
    case N_OUTPUT: return exec_output(r, n, f);
    case N_FOR: return exec_for(r, n, f, flow);
    case N_IF: return exec_if(r, n, f, flow);
    case N_WITH: return exec_with(r, n, f, flow);
    case N_SET: return exec_set(r, n, f);
    case N_SETBLOCK: return exec_set_block(r, n, f, flow);
    case N_MACRO:
        TRY(make_macro(r, n, f, &v));
        return jj_assign(r, n->a, f, v);
    case N_CALLBLOCK: return exec_call_block(r, n, f);
    case N_FILTERBLOCK: return exec_filter_block(r, n, f, flow);
    case N_AUTOESCAPE: return exec_autoescape(r, n, f, flow);
    case N_BLOCK: return exec_block(r, n, f);
    case N_BREAK: *flow = FLOW_BREAK; return ST_OK;
    case N_CONTINUE: *flow = FLOW_CONTINUE; return ST_OK;
    case N_EXTENDS: case N_INCLUDE: case N_IMPORT: case N_FROM:
        TRY(jj_eval(r, n->a, f, &v));
        return jj_type_error(r, "no loader for this environment specified");
    default: return jj_fail(r, JINJA_OTHER, "not a statement");
    }
}

status jj_exec(jrt *r, const jnodes *body, jframe *f, jflow *flow)
{
    TRY(jj_enter(r));
    for (size_t i = 0; i < body->n && *flow == FLOW_NEXT; i++) TRY(exec_one(r, body->v[i], f, flow));
    jj_leave(r);
    return ST_OK;
}

/* ---- rendering ---- */
enum { DEPTH_PER_LEVEL = 20 }; /* C recursion allowed per level of macro calls */

static status run(jrt *r)
{
    jframe *f;
    jflow flow = FLOW_NEXT;
    TRY(jj_calloc(r, (size_t)r->t->n_units, sizeof *r->free_frames, &r->free_frames));
    TRY(jj_frame_new(r, &r->t->unit, NULL, &f));
    if (r->t->has_self) *jj_slot(f, r->t->self_ref) = (jval){ JK_SELF, { .i = 0 } };
    TRY(jj_scope_enter(r, &r->t->scope, f));
    return jj_exec(r, &r->t->body, f, &flow);
}

status jinja_render(const jinja *t, const jv *vars, const jinja_limits *limits, double now, buf *out, jinja_error *why)
{
    jrt r = { .t = t, .vars = vars, .now = now };
    if (limits) r.lim = *limits;
    if (r.lim.seconds <= 0) r.lim.seconds = 30;
    if (r.lim.output_bytes == 0) r.lim.output_bytes = (size_t)64 << 20;
    if (r.lim.memory_bytes == 0) r.lim.memory_bytes = (size_t)512 << 20;
    if (r.lim.depth <= 0) r.lim.depth = 200;
    r.max_depth = r.lim.depth * DEPTH_PER_LEVEL;
    r.mem.limit_bytes = r.lim.memory_bytes;
    r.deadline = clock_now() + r.lim.seconds;
    r.input = jj_none();
    jsink sink = { .main = out };
    r.out = &sink;
    size_t before = out->len;
    status st = run(&r);
    if (st != ST_OK && out->data) {
        out->len = before;
        out->data[before] = 0;
    }
    if (why) *why = st == ST_OK ? JINJA_OK : r.why;
    arena_free(&r.mem);
    return st;
}
