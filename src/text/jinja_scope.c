/* Scopes: which variable a name means. jinja2 compiles a template to Python functions and decides at compile time, from
 * where a name is read and stored, which Python variable it is; what a template sees (a loop cannot set an outer
 * variable, a macro sees later assignments, ...) follows from that, so the same rules are applied here.
 *
 * Two passes as in jinja2: `find_*` collects the symbols of a scope before `gen_*` resolves the names in it. A scope's
 * variables are slots of the frame of the unit (template, block, macro, call block, recursive loop) it belongs to. */
#include <string.h>

#include "base/map.h"
#include "text/jinja_ast.h"

typedef struct sym {
    int id;
    const jstr *name;
    int slot;
    enum { SYM_PARAM, SYM_RESOLVE, SYM_ALIAS, SYM_UNDEFINED } load;
    struct sym *outer;          /* SYM_ALIAS */
    struct gunit *unit;
    bool stored;
} sym;

typedef struct gunit { junit *unit; int depth; } gunit;

typedef struct symbols {
    struct symbols *parent;
    gunit *unit;
    sym **v;                    /* in order of definition */
    size_t n, cap;
    sym **table;                /* by id, open addressing */
    size_t mask;
    sym **order;                /* in order of the first store */
    size_t n_stored, cap_stored;
} symbols;

typedef struct scoper { jinja *t; map ids; int64_t n_ids; status st; } scoper;

typedef struct gframe {
    symbols *sym;
    gunit *unit;
    bool toplevel, soft, in_loop;
    int escape;
} gframe;

static void *zalloc(scoper *s, size_t n, size_t size)
{
    void *p = s->st == ST_OK ? arena_calloc(&s->t->mem, n, size) : NULL;
    if (!p && s->st == ST_OK) s->st = err_nomem();
    return p;
}

static void fail_at(scoper *s, int line, const char *what, const jstr *name, const char *after)
{
    if (s->st != ST_OK) return;
    s->st = err_set(ST_INVALID, "template line %d: %s%.*s%s", line, what, name ? (int)name->len : 0, name ? name->data : "", after);
}

static int id_of(scoper *s, const jstr *name)
{
    int64_t id = 0;
    if (map_get(&s->ids, name->data, name->len, &id)) return (int)id;
    if (s->st == ST_OK) s->st = map_put(&s->ids, name->data, name->len, ++s->n_ids);
    return (int)s->n_ids;
}

static symbols *symbols_new(scoper *s, symbols *parent, gunit *unit)
{
    symbols *y = zalloc(s, 1, sizeof *y);
    if (!y) return NULL;
    y->parent = parent;
    y->unit = unit;
    return y;
}

static size_t slot_for(const symbols *y, int id)
{
    size_t h = (uint32_t)id * 2654435761u & y->mask;
    while (y->table[h] && y->table[h]->id != id) h = (h + 1) & y->mask;
    return h;
}

static sym *own(const symbols *y, int id) { return y->table ? y->table[slot_for(y, id)] : NULL; }

static sym *find_ref(const symbols *y, int id)
{
    for (; y; y = y->parent) {
        sym *x = own(y, id);
        if (x) return x;
    }
    return NULL;
}

static bool push(scoper *s, sym ***v, size_t *n, size_t *cap, sym *x)
{
    if (*n == *cap) {
        size_t c = *cap ? *cap * 2 : 8;
        sym **q = zalloc(s, c, sizeof *q);
        if (!q) return false;
        if (*n) memcpy(q, *v, *n * sizeof *q);
        *v = q;
        *cap = c;
    }
    (*v)[(*n)++] = x;
    return true;
}

static sym *define(scoper *s, symbols *y, const jstr *name, int load, sym *outer)
{
    int id = id_of(s, name);
    sym *x = own(y, id);
    if (!x) {
        x = zalloc(s, 1, sizeof *x);
        if (!x || !push(s, &y->v, &y->n, &y->cap, x)) return NULL;
        x->id = id;
        x->name = name;
        x->slot = y->unit->unit->n_slots++;
        x->unit = y->unit;
        if (!y->table || y->n * 2 > y->mask) {
            size_t cap = y->table ? (y->mask + 1) * 2 : 16;
            y->table = zalloc(s, cap, sizeof *y->table);
            if (!y->table) {
                y->mask = 0;
                return NULL;
            }
            y->mask = cap - 1;
            for (size_t i = 0; i < y->n; i++) y->table[slot_for(y, y->v[i]->id)] = y->v[i];
        } else {
            y->table[slot_for(y, id)] = x;
        }
    }
    x->load = load;
    x->outer = outer;
    return x;
}

static void mark_stored(scoper *s, symbols *y, sym *x)
{
    if (!x || x->stored) return;
    x->stored = true;
    push(s, &y->order, &y->n_stored, &y->cap_stored, x);
}

static sym *declare_param(scoper *s, symbols *y, const jstr *name)
{
    sym *x = define(s, y, name, SYM_PARAM, NULL);
    mark_stored(s, y, x);
    return x;
}

static sym *declare_literal(scoper *s, symbols *y, const char *name)
{
    jstr *n = zalloc(s, 1, sizeof *n);
    if (!n) return NULL;
    *n = (jstr){ .data = name, .len = strlen(name), .ascii = true };
    return declare_param(s, y, n);
}

static void store(scoper *s, symbols *y, const jstr *name)
{
    int id = id_of(s, name);
    sym *x = own(y, id);
    if (!x) {
        sym *outer = y->parent ? find_ref(y->parent, id) : NULL;
        x = define(s, y, name, outer ? SYM_ALIAS : SYM_UNDEFINED, outer);
    }
    mark_stored(s, y, x);
}

static void load(scoper *s, symbols *y, const jstr *name)
{
    if (!find_ref(y, id_of(s, name))) define(s, y, name, SYM_RESOLVE, NULL);
}

/* ---- collecting symbols ---- */
static void find(scoper *s, symbols *y, jnode *n, bool as_param);

static void find_all(scoper *s, symbols *y, const jnodes *l, bool as_param)
{
    for (size_t i = 0; i < l->n; i++) find(s, y, l->v[i], as_param);
}

/* A name first stored in a branch may not have been stored when the branch is over: it then comes from outside. */
static void find_if(scoper *s, symbols *y, jnode *n)
{
    size_t before = y->n_stored;
    for (size_t i = 0; i < n->kids.n; i++) {
        find(s, y, n->kids.v[i], false);
        if (i == 0) before = y->n_stored;
        find_all(s, y, &n->bodies[i], false);
    }
    find_all(s, y, &n->els, false);
    for (size_t i = before; i < y->n_stored; i++) {
        sym *x = y->order[i], *outer = y->parent ? find_ref(y->parent, x->id) : NULL;
        x->load = outer ? SYM_ALIAS : SYM_RESOLVE;
        x->outer = outer;
    }
}

static void find(scoper *s, symbols *y, jnode *n, bool as_param)
{
    if (!n || s->st != ST_OK) return;
    switch (n->kind) {
    case N_NAME:
        if (as_param || n->op == CTX_PARAM) declare_param(s, y, n->name);
        else if (n->op == CTX_STORE) store(s, y, n->name);
        else load(s, y, n->name);
        return;
    case N_NSREF: load(s, y, n->name); return;
    case N_IF: find_if(s, y, n); return;
    case N_MACRO: store(s, y, n->name); return;
    case N_IMPORT: case N_FROM:
        find(s, y, n->a, false);
        find_all(s, y, &n->kids, false);
        return;
    case N_SET:
        find(s, y, n->b, false);
        find(s, y, n->a, false);
        return;
    case N_FOR: find(s, y, n->b, false); return;
    case N_CALLBLOCK: case N_FILTERBLOCK: case N_SETBLOCK: find(s, y, n->a, false); return;
    case N_WITH: find_all(s, y, &n->vals, false); return;
    case N_BLOCK: case N_AUTOESCAPE: return;
    default: break;
    }
    find(s, y, n->a, as_param);
    find(s, y, n->b, as_param);
    find(s, y, n->c, as_param);
    find_all(s, y, &n->kids, as_param);
    find_all(s, y, &n->vals, as_param);
    find(s, y, n->star, as_param);
    find(s, y, n->dstar, as_param);
}

/* jinja2's find_undeclared: is the name read below before it is stored? Blocks are not looked into. */
typedef struct undeclared { const char *name; bool found, stored; } undeclared;

static void look_undeclared(jnode *n, undeclared *u);
static void look_all(const jnodes *l, undeclared *u)
{
    for (size_t i = 0; i < l->n; i++) look_undeclared(l->v[i], u);
}

static void look_undeclared(jnode *n, undeclared *u)
{
    if (!n || u->found || u->stored || n->kind == N_BLOCK) return;
    if (n->kind == N_NAME) {
        if (!jp_str_is(n->name, u->name)) return;
        if (n->op == CTX_LOAD) u->found = true;
        else u->stored = true;
        return;
    }
    if (n->kind != N_MACRO) look_undeclared(n->a, u); /* a macro's name is no node of jinja2's tree */
    look_undeclared(n->b, u);
    for (size_t i = 0; i < n->kids.n; i++) {
        look_undeclared(n->kids.v[i], u);
        if (n->bodies) look_all(&n->bodies[i], u);
    }
    look_all(&n->vals, u);
    look_undeclared(n->star, u);
    look_undeclared(n->dstar, u);
    look_all(&n->body, u);
    look_all(&n->els, u);
    look_undeclared(n->c, u);
}

static bool is_undeclared(const jnodes *l, const char *name)
{
    undeclared u = { name, false, false };
    look_all(l, &u);
    return u.found;
}

/* ---- resolving names ---- */
static jref ref_to(const gframe *f, const sym *x) { return (jref){ f->unit->depth - x->unit->depth, x->slot }; }

static jref resolve(scoper *s, gframe *f, jnode *n)
{
    sym *x = find_ref(f->sym, id_of(s, n->name));
    if (x) return ref_to(f, x);
    fail_at(s, n->line, "Tried to resolve a name to a reference that was unknown to the frame ('", n->name, "')");
    return (jref){ 0, 0 };
}

/* What entering the scope of `f` does. */
static void close_scope(scoper *s, gframe *f, jscope *out)
{
    symbols *y = f->sym;
    out->loads = zalloc(s, y->n + 1, sizeof *out->loads);
    out->slots = zalloc(s, y->n + 1, sizeof *out->slots);
    if (s->st != ST_OK) return;
    for (size_t i = 0; i < y->n; i++) {
        sym *x = y->v[i];
        out->slots[out->n_slots++] = x->slot;
        if (x->load == SYM_PARAM) continue;
        jload *l = &out->loads[out->n++];
        l->slot = x->slot;
        l->name = x->name;
        l->action = x->load == SYM_ALIAS ? LOAD_ALIAS : x->load == SYM_RESOLVE ? LOAD_RESOLVE : LOAD_UNDEFINED;
        if (x->load == SYM_ALIAS) l->from = ref_to(f, x->outer);
    }
}

static gframe inner(scoper *s, const gframe *f, gunit *unit)
{
    return (gframe){ .sym = symbols_new(s, f->sym, unit), .unit = unit, .escape = f->escape, .in_loop = unit == f->unit && f->in_loop };
}

static gunit *new_unit(scoper *s, junit *u, int depth)
{
    gunit *g = zalloc(s, 1, sizeof *g);
    if (!g) return NULL;
    u->id = s->t->n_units++;
    g->unit = u;
    g->depth = depth;
    return g;
}

static void gen(scoper *s, gframe *f, jnode *n);

static void gen_all(scoper *s, gframe *f, const jnodes *l)
{
    for (size_t i = 0; i < l->n && s->st == ST_OK; i++) gen(s, f, l->v[i]);
}

static void gen_builtin(scoper *s, gframe *f, jnode *n)
{
    bool filter = n->kind == N_FILTER;
    n->fn = filter ? jj_find_filter(n->name->data, n->name->len) : jj_find_test(n->name->data, n->name->len);
    if (!n->fn && !f->soft) fail_at(s, n->line, filter ? "No filter named '" : "No test named '", n->name, "'.");
}

/* Macros and the bodies of call blocks. */
static void gen_macro(scoper *s, gframe *f, jnode *n)
{
    gunit *u = new_unit(s, &n->unit, f->unit->depth + 1);
    if (!u) return;
    f->unit->unit->captured = true;
    gframe m = inner(s, f, u);
    if (!m.sym) return;
    find_all(s, m.sym, &n->kids, false);
    find_all(s, m.sym, &n->vals, false);
    find_all(s, m.sym, &n->body, false);
    bool own_kwargs = false, own_varargs = false;
    size_t caller_at = n->kids.n;
    for (size_t i = 0; i < n->kids.n; i++) {
        own_kwargs = own_kwargs || jp_str_is(n->kids.v[i]->name, "kwargs");
        own_varargs = own_varargs || jp_str_is(n->kids.v[i]->name, "varargs");
        if (jp_str_is(n->kids.v[i]->name, "caller")) caller_at = i;
    }
    n->explicit_caller = caller_at < n->kids.n;
    if (is_undeclared(&n->body, "caller")) {
        n->uses_caller = true;
        if (n->explicit_caller && caller_at + n->vals.n < n->kids.n)
            fail_at(s, n->line, "When defining macros or call blocks the special \"caller\" argument must be omitted or be given a default.", NULL, "");
        sym *x = n->explicit_caller ? NULL : declare_literal(s, m.sym, "caller");
        if (x) n->ref = ref_to(&m, x);
    }
    if (!own_kwargs && is_undeclared(&n->body, "kwargs")) {
        n->uses_kwargs = true;
        sym *x = declare_literal(s, m.sym, "kwargs");
        if (x) n->ref2 = ref_to(&m, x);
    }
    if (!own_varargs && is_undeclared(&n->body, "varargs")) {
        n->uses_varargs = true;
        sym *x = declare_literal(s, m.sym, "varargs");
        if (x) n->ref3 = ref_to(&m, x);
    }
    if (s->st != ST_OK) return;
    gen_all(s, &m, &n->kids);
    gen_all(s, &m, &n->vals);
    gen_all(s, &m, &n->body);
    close_scope(s, &m, &n->scope);
}

static jnode *clone_target(scoper *s, const jnode *n)
{
    jnode *c = zalloc(s, 1, sizeof *c);
    if (!c) return NULL;
    *c = *n;
    if (n->kind != N_TUPLE || !n->kids.n) return c;
    c->kids.v = zalloc(s, n->kids.n, sizeof *c->kids.v);
    for (size_t i = 0; c->kids.v && i < n->kids.n; i++) c->kids.v[i] = clone_target(s, n->kids.v[i]);
    return c;
}

static bool stores_loop(jnode *n, void *arg)
{
    if (n->kind == N_NAME && n->op == CTX_STORE && jp_str_is(n->name, "loop")) {
        *(int *)arg = n->line;
        return false;
    }
    return true;
}

static bool is_scoped_block(jnode *n, void *arg)
{
    (void)arg;
    return !(n->kind == N_BLOCK && n->flag);
}

static void gen_for(scoper *s, gframe *f, jnode *n)
{
    gunit *u = n->flag ? new_unit(s, &n->unit, f->unit->depth + 1) : f->unit;
    if (!u) return;
    if (n->flag || n->c) f->unit->unit->captured = true;
    gframe body = inner(s, f, u), test = inner(s, f, u), els = inner(s, f, u);
    if (!body.sym || !test.sym || !els.sym) return;
    body.in_loop = true;
    n->uses_loop = n->flag || is_undeclared(&n->body, "loop") || !jj_walk(&n->body, is_scoped_block, NULL);
    if (n->uses_loop) {
        sym *x = declare_literal(s, body.sym, "loop");
        if (x) n->ref = ref_to(&body, x);
    }
    find(s, body.sym, n->a, true);
    find_all(s, body.sym, &n->body, false);
    find_all(s, els.sym, &n->els, false);
    if (n->c) {
        n->test_target = clone_target(s, n->a);
        if (!n->test_target) return;
        find(s, test.sym, n->test_target, true);
        find(s, test.sym, n->c, false);
        gen(s, &test, n->test_target);
        gen(s, &test, n->c);
        close_scope(s, &test, &n->scope3);
        u->unit->captured = true;
    }
    int line = 0;
    if (!jj_walk_node(n, stores_loop, &line)) fail_at(s, line, "Can't assign to special loop variable in for-loop target", NULL, "");
    gen(s, f, n->b);
    gen(s, &body, n->a);
    gen_all(s, &body, &n->body);
    gen_all(s, &els, &n->els);
    close_scope(s, &body, &n->scope);
    close_scope(s, &els, &n->scope2);
}

static void gen_if(scoper *s, gframe *f, jnode *n)
{
    gframe soft = *f;
    soft.soft = true;
    for (size_t i = 0; i < n->kids.n; i++) {
        gen(s, &soft, n->kids.v[i]);
        gen_all(s, &soft, &n->bodies[i]);
    }
    gen_all(s, &soft, &n->els);
}

/* with, filter, autoescape, set blocks: a scope, but no function of its own. */
static void gen_scope(scoper *s, gframe *f, jnode *n)
{
    gframe in = inner(s, f, f->unit);
    if (!in.sym) return;
    if (n->kind == N_WITH) find_all(s, in.sym, &n->kids, false);
    if (n->kind == N_AUTOESCAPE) {
        find(s, in.sym, n->a, false);
        in.escape = n->a->kind == N_CONST ? jj_truth(NULL, n->a->value) : 2;
    }
    find_all(s, in.sym, &n->body, false);
    if (n->kind == N_FILTERBLOCK) find(s, in.sym, n->a, false);
    if (n->kind == N_WITH) {
        gen_all(s, &in, &n->kids);
        gen_all(s, f, &n->vals);
    } else if (n->kind == N_SETBLOCK) {
        gen(s, f, n->a);
        if (n->b) gen(s, &in, n->b);
    } else {
        gen(s, &in, n->a);
    }
    gen_all(s, &in, &n->body);
    close_scope(s, &in, &n->scope);
}

static void gen_block_call(scoper *s, gframe *f, jnode *n)
{
    if (!n->flag) return;
    /* A scoped block sees the variables stored around it. */
    jparser p = { .mem = &s->t->mem };
    for (symbols *y = f->sym; y; y = y->parent)
        for (size_t i = 0; i < y->n_stored; i++) {
            jnode *x = jp_node(&p, N_NAME, n->line);
            if (!x) {
                s->st = p.st;
                return;
            }
            x->name = y->order[i]->name;
            x->ref = ref_to(f, y->order[i]);
            if (!jp_add(&p, &n->kids, x)) s->st = p.st;
        }
}

static void gen(scoper *s, gframe *f, jnode *n)
{
    if (!n || s->st != ST_OK) return;
    gframe soft = *f;
    n->escape = f->escape;
    switch (n->kind) {
    case N_NAME:
        n->ref = resolve(s, f, n);
        n->flag = n->op == CTX_STORE && f->toplevel && s->t->blocks.n;
        return;
    case N_NSREF: n->ref = resolve(s, f, n); return;
    case N_FILTER: case N_TEST: gen_builtin(s, f, n); break;
    case N_COND:
        soft.soft = true;
        f = &soft;
        break;
    case N_IF: gen_if(s, f, n); return;
    case N_FOR: gen_for(s, f, n); return;
    case N_MACRO:
        gen(s, f, n->a);
        gen_macro(s, f, n);
        return;
    case N_CALLBLOCK:
        gen_macro(s, f, n);
        gen(s, f, n->a);
        return;
    case N_WITH: case N_FILTERBLOCK: case N_AUTOESCAPE: case N_SETBLOCK: gen_scope(s, f, n); return;
    case N_BLOCK: gen_block_call(s, f, n); return;
    case N_EXTENDS:
        if (!f->toplevel) fail_at(s, n->line, "cannot use extend from a non top-level scope", NULL, "");
        break;
    case N_BREAK: case N_CONTINUE:
        if (!f->in_loop) fail_at(s, n->line, n->kind == N_BREAK ? "'break' outside loop" : "'continue' not properly in loop", NULL, "");
        return;
    default: break;
    }
    gen(s, f, n->a);
    gen(s, f, n->b);
    gen(s, f, n->c);
    gen_all(s, f, &n->kids);
    gen_all(s, f, &n->vals);
    gen(s, f, n->star);
    gen(s, f, n->dstar);
}

static void gen_block_body(scoper *s, jnode *n)
{
    for (size_t i = 0; i < s->t->blocks.n && s->t->blocks.v[i] != n; i++) {
        const jstr *o = s->t->blocks.v[i]->name;
        if (o->len == n->name->len && !memcmp(o->data, n->name->data, o->len)) fail_at(s, n->line, "block '", n->name, "' defined twice");
    }
    gunit *u = new_unit(s, &n->unit, 0);
    gframe f = { .sym = symbols_new(s, NULL, u), .unit = u };
    if (!u || !f.sym) return;
    if (is_undeclared(&n->body, "self")) {
        sym *x = declare_literal(s, f.sym, "self");
        n->uses_caller = true;
        if (x) n->ref = ref_to(&f, x);
    }
    if (is_undeclared(&n->body, "super")) {
        sym *x = declare_literal(s, f.sym, "super");
        n->uses_kwargs = true;
        if (x) n->ref2 = ref_to(&f, x);
    }
    find_all(s, f.sym, &n->body, false);
    gen_all(s, &f, &n->body);
    close_scope(s, &f, &n->scope);
}

status jj_scopes(jinja *t)
{
    scoper s = { .t = t };
    gunit *u = new_unit(&s, &t->unit, 0);
    gframe root = { .sym = symbols_new(&s, NULL, u), .unit = u, .toplevel = true };
    if (u && root.sym) {
        if (is_undeclared(&t->body, "self")) {
            sym *x = declare_literal(&s, root.sym, "self");
            t->has_self = true;
            if (x) t->self_ref = ref_to(&root, x);
        }
        find_all(&s, root.sym, &t->body, false);
        gen_all(&s, &root, &t->body);
        close_scope(&s, &root, &t->scope);
        for (size_t i = 0; i < t->blocks.n && s.st == ST_OK; i++) gen_block_body(&s, t->blocks.v[i]);
    }
    map_free(&s.ids);
    return s.st;
}

/* ---- vLLM's content format rule ---- */
typedef struct detector {
    jinja *t;
    const jstr **msgs, **message; /* names that hold the messages; loop variables over them */
    size_t n_msgs, n_message, cap;
    const jstr *cur;
    bool strange, found, nomem;
} detector;

static bool is_var(const jnode *n, const jstr *name)
{
    return n->kind == N_NAME && n->op == CTX_LOAD && n->name->len == name->len && !memcmp(n->name->data, name->data, name->len);
}

/* The variable itself, or its key, perhaps filtered, tested or sliced. */
static bool is_access(const jnode *n, const jstr *var, const char *key)
{
    while (n && (n->kind == N_FILTER || n->kind == N_TEST || (n->kind == N_GETITEM && n->b->kind == N_SLICE))) n = n->a;
    if (!n) return false;
    if (!key) return is_var(n, var);
    if (n->kind == N_GETATTR) return is_var(n->a, var) && jp_str_is(n->name, key);
    return n->kind == N_GETITEM && n->b->kind == N_CONST && n->b->value.kind == JK_STR && jp_str_is(n->b->value.u.s, key) && is_var(n->a, var);
}

static bool add_name(detector *d, const jstr ***v, size_t *n, const jstr *name)
{
    for (size_t i = 0; i < *n; i++)
        if ((*v)[i]->len == name->len && !memcmp((*v)[i]->data, name->data, name->len)) return true;
    if ((*n & (*n - 1)) == 0 || *n == 0) {
        const jstr **q = arena_calloc(&d->t->mem, *n ? *n * 2 : 1, sizeof *q);
        if (!q) {
            d->nomem = true;
            return false;
        }
        if (*n) memcpy(q, *v, *n * sizeof *q);
        *v = q;
    }
    (*v)[(*n)++] = name;
    return true;
}

static bool find_alias(jnode *n, void *arg)
{
    detector *d = arg;
    if (n->kind != N_SET || !is_access(n->b, d->cur, NULL)) return true;
    if (n->a->kind != N_NAME) {
        d->strange = true;
        return false;
    }
    return add_name(d, &d->msgs, &d->n_msgs, n->a->name);
}

static bool find_message_loop(jnode *n, void *arg)
{
    detector *d = arg;
    for (size_t i = 0; n->kind == N_FOR && i < d->n_msgs; i++) {
        if (!is_access(n->b, d->msgs[i], NULL)) continue;
        if (n->a->kind != N_NAME) {
            d->strange = true;
            return false;
        }
        return add_name(d, &d->message, &d->n_message, n->a->name);
    }
    return true;
}

static bool find_content_loop(jnode *n, void *arg)
{
    detector *d = arg;
    if (n->kind != N_FOR) return true;
    bool hit = n->b->kind == N_NAME && jp_str_is(n->b->name, "content");
    for (size_t i = 0; !hit && i < d->n_message; i++) hit = is_access(n->b, d->message[i], "content");
    if (!hit) return true;
    if (n->a->kind == N_NAME) d->found = true;
    else d->strange = true;
    return false;
}

bool jj_detect_content_parts(const jinja *t)
{
    static const jstr messages = { .data = "messages", .len = 8, .ascii = true };
    detector d = { .t = (jinja *)(uintptr_t)t };
    add_name(&d, &d.msgs, &d.n_msgs, &messages);
    for (size_t i = 0; i < d.n_msgs && !d.strange && !d.nomem; i++) {
        d.cur = d.msgs[i];
        jj_walk(&t->body, find_alias, &d);
    }
    if (!d.strange && !d.nomem) jj_walk(&t->body, find_message_loop, &d);
    if (!d.strange && !d.nomem) jj_walk(&t->body, find_content_loop, &d);
    return d.found;
}
