/* The parser, first half: expressions. Grammar and messages are jinja2's. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "text/jinja_ast.h"

bool jp_str_is(const jstr *s, const char *lit) { return s->len == strlen(lit) && memcmp(s->data, lit, s->len) == 0; }

void *jp_fail(jparser *p, int line, const char *fmt, ...)
{
    if (p->st != ST_OK) return NULL;
    char msg[900];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    p->st = err_set(ST_INVALID, "template line %d: %s", line, msg);
    return NULL;
}

void *jp_nomem(jparser *p)
{
    if (p->st == ST_OK) p->st = err_nomem();
    return NULL;
}

/* Mistakes of spelling surface when their token becomes the current one, as in jinja2's lazy lexer. */
static void check_error(jparser *p)
{
    jtoken *t = jp_cur(p);
    if (t->kind == T_ERROR) jp_fail(p, t->line, "%.*s", (int)t->val.u.s->len, t->val.u.s->data);
}

void jp_next(jparser *p)
{
    if (jp_cur(p)->kind != T_EOF && jp_cur(p)->kind != T_ERROR) p->pos++;
    check_error(p);
}

bool jp_is_name(const jparser *p, const char *name)
{
    const jtoken *t = &p->tok[p->pos];
    return t->kind == T_NAME && jp_str_is(t->val.u.s, name);
}

static bool ahead_is_name(const jparser *p, const char *name)
{
    const jtoken *t = &p->tok[p->pos];
    return t->kind != T_EOF && t[1].kind == T_NAME && jp_str_is(t[1].val.u.s, name);
}

bool jp_skip_name(jparser *p, const char *name)
{
    if (!jp_is_name(p, name)) return false;
    jp_next(p);
    return true;
}

bool jp_skip(jparser *p, jtoken_kind k)
{
    if (jp_cur(p)->kind != k) return false;
    jp_next(p);
    return true;
}

const char *jp_describe(jparser *p, const jtoken *t)
{
    if (t->kind != T_NAME) return jj_token_name(t->kind);
    const char *s = arena_strndup(p->mem, t->val.u.s->data, t->val.u.s->len);
    return s ? s : "name";
}

static bool expected(jparser *p, const char *what)
{
    if (p->st != ST_OK) return false;
    jtoken *t = jp_cur(p);
    if (t->kind == T_EOF) jp_fail(p, t->line, "unexpected end of template, expected '%s'.", what);
    else jp_fail(p, t->line, "expected token '%s', got '%s'", what, jp_describe(p, t));
    return false;
}

bool jp_expect(jparser *p, jtoken_kind k) { return jp_skip(p, k) ? p->st == ST_OK : expected(p, jj_token_name(k)); }
bool jp_expect_name(jparser *p, const char *name) { return jp_skip_name(p, name) ? p->st == ST_OK : expected(p, name); }

jnode *jp_node(jparser *p, jnode_kind k, int line)
{
    if (p->st != ST_OK) return NULL;
    jnode *n = arena_calloc(p->mem, 1, sizeof *n);
    if (!n) return jp_nomem(p);
    n->kind = k;
    n->line = line;
    return n;
}

bool jp_add(jparser *p, jnodes *l, jnode *n)
{
    if (!n || p->st != ST_OK) return false;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 4;
        jnode **v = arena_calloc(p->mem, cap, sizeof *v);
        if (!v) {
            jp_nomem(p);
            return false;
        }
        if (l->n) memcpy(v, l->v, l->n * sizeof *v);
        l->v = v;
        l->cap = cap;
    }
    l->v[l->n++] = n;
    return true;
}

static jnode *constant(jparser *p, int line, jval v)
{
    jnode *n = jp_node(p, N_CONST, line);
    if (n) n->value = v;
    return n;
}

static int higher(const jnodes *l, int h)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i]->height > h) h = l->v[i]->height;
    return h;
}

/* Finishes an expression: how high its tree is must stay bounded, for everything below walks trees recursively, and
 * chains (1+1+..., x.a.b..., x|e|e...) nest as deep as they are long. */
static jnode *done(jparser *p, jnode *n)
{
    if (!n || p->st != ST_OK) return NULL;
    const jnode *part[] = { n->a, n->b, n->c, n->star, n->dstar };
    int h = higher(&n->vals, higher(&n->kids, 0));
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        if (part[i] && part[i]->height > h) h = part[i]->height;
    n->height = h + 1;
    return n->height <= JPARSE_MAX_CHAIN ? n : jp_fail(p, n->line, "more than %d operators in a row", JPARSE_MAX_CHAIN);
}

static jnode *chain(jparser *p, jnode *n, jnode *a)
{
    n->a = a;
    return done(p, n);
}

static jnode *binary(jparser *p, jnode_kind k, int line, int op, jnode *a, jnode *b)
{
    if (!a || !b) return NULL;
    jnode *n = jp_node(p, k, line);
    if (!n) return NULL;
    n->op = op;
    n->b = b;
    return chain(p, n, a);
}

static bool is_tuple_end(jparser *p, const char *end_name)
{
    jtoken_kind k = jp_cur(p)->kind;
    return k == T_VAR_END || k == T_BLOCK_END || k == T_RPAREN || (end_name && jp_is_name(p, end_name));
}

static jnode *primary(jparser *p, bool with_namespace);

jnode *jp_tuple(jparser *p, int flags, const char *end_name)
{
    int line = jp_cur(p)->line;
    jnodes items = { 0 };
    bool is_tuple = false;
    for (;;) {
        if (items.n && !jp_expect(p, T_COMMA)) return NULL;
        if (is_tuple_end(p, end_name)) break;
        jnode *x = flags & TUPLE_SIMPLE ? primary(p, (flags & TUPLE_NAMESPACE) != 0) : jp_expression(p, !(flags & TUPLE_NO_COND));
        if (!jp_add(p, &items, x)) return NULL;
        if (jp_cur(p)->kind != T_COMMA) break;
        is_tuple = true;
        line = jp_cur(p)->line;
    }
    if (!is_tuple) {
        if (items.n) return items.v[0];
        if (!(flags & TUPLE_PARENS)) return jp_fail(p, jp_cur(p)->line, "Expected an expression, got '%s'", jp_describe(p, jp_cur(p)));
    }
    jnode *n = jp_node(p, N_TUPLE, line);
    if (n) n->kids = items;
    return done(p, n);
}

static jnode *list_literal(jparser *p)
{
    jnode *n = jp_node(p, N_LIST, jp_cur(p)->line);
    if (!n || !jp_expect(p, T_LBRACKET)) return NULL;
    while (jp_cur(p)->kind != T_RBRACKET) {
        if (n->kids.n && !jp_expect(p, T_COMMA)) return NULL;
        if (jp_cur(p)->kind == T_RBRACKET) break;
        if (!jp_add(p, &n->kids, jp_expression(p, true))) return NULL;
    }
    return jp_expect(p, T_RBRACKET) ? done(p, n) : NULL;
}

static jnode *dict_literal(jparser *p)
{
    jnode *n = jp_node(p, N_DICT, jp_cur(p)->line);
    if (!n || !jp_expect(p, T_LBRACE)) return NULL;
    while (jp_cur(p)->kind != T_RBRACE) {
        if (n->kids.n && !jp_expect(p, T_COMMA)) return NULL;
        if (jp_cur(p)->kind == T_RBRACE) break;
        if (!jp_add(p, &n->kids, jp_expression(p, true)) || !jp_expect(p, T_COLON)) return NULL;
        if (!jp_add(p, &n->vals, jp_expression(p, true))) return NULL;
    }
    return jp_expect(p, T_RBRACE) ? done(p, n) : NULL;
}

/* Adjacent literals are one string. */
static jnode *string_literal(jparser *p)
{
    int line = jp_cur(p)->line;
    jval v = jp_cur(p)->val;
    jp_next(p);
    while (p->st == ST_OK && jp_cur(p)->kind == T_STRING) {
        const jstr *a = v.u.s, *b = jp_cur(p)->val.u.s;
        char *d = arena_alloc(p->mem, a->len + b->len + 1);
        jstr *s = arena_calloc(p->mem, 1, sizeof *s);
        if (!d || !s) return jp_nomem(p);
        memcpy(d, a->data, a->len);
        memcpy(d + a->len, b->data, b->len);
        *s = (jstr){ .data = d, .len = a->len + b->len, .ascii = a->ascii && b->ascii };
        v = jj_s(s);
        jp_next(p);
    }
    return constant(p, line, v);
}

static jnode *name_or_constant(jparser *p, bool with_namespace)
{
    jtoken t = *jp_cur(p);
    const jstr *s = t.val.u.s;
    jp_next(p);
    if (jp_str_is(s, "true") || jp_str_is(s, "True")) return constant(p, t.line, jj_bool(true));
    if (jp_str_is(s, "false") || jp_str_is(s, "False")) return constant(p, t.line, jj_bool(false));
    if (jp_str_is(s, "none") || jp_str_is(s, "None")) return constant(p, t.line, jj_none());
    bool ns = with_namespace && jp_cur(p)->kind == T_DOT;
    jnode *n = jp_node(p, ns ? N_NSREF : N_NAME, t.line);
    if (!n) return NULL;
    n->name = s;
    if (ns) {
        jp_next(p);
        n->value = jp_cur(p)->val;
        if (!jp_expect(p, T_NAME)) return NULL;
    }
    return n;
}

static jnode *primary(jparser *p, bool with_namespace)
{
    jtoken t = *jp_cur(p);
    jnode *n;
    switch (t.kind) {
    case T_NAME: return name_or_constant(p, with_namespace);
    case T_STRING: return string_literal(p);
    case T_INT: case T_FLOAT:
        jp_next(p);
        return constant(p, t.line, t.val);
    case T_LPAREN:
        if (++p->depth > JPARSE_MAX_DEPTH) return jp_fail(p, t.line, "more than %d levels of nesting", JPARSE_MAX_DEPTH);
        jp_next(p);
        n = jp_tuple(p, TUPLE_PARENS, NULL);
        p->depth--;
        return n && jp_expect(p, T_RPAREN) ? n : NULL;
    case T_LBRACKET: case T_LBRACE:
        if (++p->depth > JPARSE_MAX_DEPTH) return jp_fail(p, t.line, "more than %d levels of nesting", JPARSE_MAX_DEPTH);
        n = t.kind == T_LBRACKET ? list_literal(p) : dict_literal(p);
        p->depth--;
        return n;
    default:
        return jp_fail(p, t.line, "unexpected '%s'", jp_describe(p, &t));
    }
}

/* One subscript, perhaps a slice. */
static jnode *subscribed(jparser *p)
{
    int line = jp_cur(p)->line;
    jnode *part[3] = { NULL, NULL, NULL };
    if (jp_cur(p)->kind != T_COLON) {
        part[0] = jp_expression(p, true);
        if (!part[0] || jp_cur(p)->kind != T_COLON) return part[0];
    }
    jp_next(p);
    for (int i = 1; i < 3; i++) {
        jtoken_kind k = jp_cur(p)->kind;
        if (i == 2) {
            if (k != T_COLON) break;
            jp_next(p);
            k = jp_cur(p)->kind;
        }
        if (k == T_COLON || k == T_RBRACKET || k == T_COMMA) continue;
        part[i] = jp_expression(p, true);
        if (!part[i]) return NULL;
    }
    jnode *n = jp_node(p, N_SLICE, line);
    if (!n) return NULL;
    n->a = part[0];
    n->b = part[1];
    n->c = part[2];
    return done(p, n);
}

static jnode *subscript(jparser *p, jnode *of)
{
    int line = jp_cur(p)->line;
    bool dot = jp_cur(p)->kind == T_DOT;
    jp_next(p);
    if (dot) {
        jtoken t = *jp_cur(p);
        jp_next(p);
        jnode *n = jp_node(p, t.kind == T_NAME ? N_GETATTR : N_GETITEM, line);
        if (!n) return NULL;
        if (t.kind == T_NAME) {
            n->name = t.val.u.s;
            return chain(p, n, of);
        }
        if (t.kind != T_INT) return jp_fail(p, t.line, "expected name or number");
        n->b = constant(p, t.line, t.val);
        return n->b ? chain(p, n, of) : NULL;
    }
    jnodes items = { 0 };
    while (jp_cur(p)->kind != T_RBRACKET) {
        if (items.n && !jp_expect(p, T_COMMA)) return NULL;
        if (!jp_add(p, &items, subscribed(p))) return NULL;
    }
    if (!jp_expect(p, T_RBRACKET)) return NULL;
    jnode *n = jp_node(p, N_GETITEM, line), *arg = items.n == 1 ? items.v[0] : jp_node(p, N_TUPLE, line);
    if (!n || !arg) return NULL;
    if (items.n != 1) {
        arg->kids = items;
        if (!done(p, arg)) return NULL;
        for (size_t i = 0; i < items.n; i++)
            if (items.v[i]->kind == N_SLICE) return jp_fail(p, line, "invalid syntax");
    }
    n->b = arg;
    return chain(p, n, of);
}

static bool add_keyword(jparser *p, jnode *n, const jstr *key, jnode *val)
{
    size_t i = n->vals.n;
    if (!jp_add(p, &n->vals, val)) return false;
    if (i % 4 == 0) {
        const jstr **k = arena_calloc(p->mem, i + 4, sizeof *k);
        if (!k) {
            jp_nomem(p);
            return false;
        }
        if (i) memcpy(k, n->keys, i * sizeof *k);
        n->keys = k;
    }
    n->keys[i] = key;
    return true;
}

static bool call_arg(jparser *p, jnode *n, int line)
{
    bool ok = true;
    if (jp_cur(p)->kind == T_MUL) {
        ok = !n->star && !n->dstar;
        jp_next(p);
        n->star = jp_expression(p, true);
    } else if (jp_cur(p)->kind == T_POW) {
        ok = !n->dstar;
        jp_next(p);
        n->dstar = jp_expression(p, true);
    } else if (jp_cur(p)->kind == T_NAME && jp_cur(p)[1].kind == T_ASSIGN) {
        ok = !n->dstar;
        const jstr *key = jp_cur(p)->val.u.s;
        jp_next(p);
        jp_next(p);
        if (!add_keyword(p, n, key, jp_expression(p, true))) return false;
    } else {
        ok = !n->star && !n->dstar && !n->vals.n;
        if (ok && !jp_add(p, &n->kids, jp_expression(p, true))) return false;
    }
    if (!ok) jp_fail(p, line, "invalid syntax for function call expression");
    return p->st == ST_OK;
}

static bool call_args(jparser *p, jnode *n)
{
    int line = jp_cur(p)->line;
    bool comma = false;
    if (!jp_expect(p, T_LPAREN)) return false;
    if (++p->depth > JPARSE_MAX_DEPTH) jp_fail(p, line, "more than %d levels of nesting", JPARSE_MAX_DEPTH);
    while (p->st == ST_OK && jp_cur(p)->kind != T_RPAREN) {
        if (comma) {
            if (!jp_expect(p, T_COMMA)) return false;
            if (jp_cur(p)->kind == T_RPAREN) break;
        }
        if (!call_arg(p, n, line)) return false;
        comma = true;
    }
    p->depth--;
    return jp_expect(p, T_RPAREN);
}

jnode *jp_call(jparser *p, jnode *callee)
{
    jnode *n = jp_node(p, N_CALL, jp_cur(p)->line);
    return n && call_args(p, n) ? chain(p, n, callee) : NULL;
}

/* A filter's or test's name, which may have dots. */
static const jstr *dotted_name(jparser *p)
{
    const jstr *s = jp_cur(p)->val.u.s;
    if (!jp_expect(p, T_NAME)) return NULL;
    while (jp_cur(p)->kind == T_DOT) {
        jp_next(p);
        const jstr *t = jp_cur(p)->val.u.s;
        if (!jp_expect(p, T_NAME)) return NULL;
        char *d = arena_printf(p->mem, "%.*s.%.*s", (int)s->len, s->data, (int)t->len, t->data);
        jstr *j = arena_calloc(p->mem, 1, sizeof *j);
        if (!d || !j) return jp_nomem(p);
        *j = (jstr){ .data = d, .len = strlen(d), .ascii = s->ascii && t->ascii };
        s = j;
    }
    return s;
}

jnode *jp_filters(jparser *p, jnode *of, bool inline_start)
{
    while (p->st == ST_OK && (inline_start || jp_cur(p)->kind == T_PIPE)) {
        if (!inline_start) jp_next(p);
        jnode *n = jp_node(p, N_FILTER, jp_cur(p)->line);
        if (!n) return NULL;
        n->name = dotted_name(p);
        if (!n->name) return NULL;
        if (jp_cur(p)->kind == T_LPAREN && !call_args(p, n)) return NULL;
        of = chain(p, n, of);
        inline_start = false;
    }
    return p->st == ST_OK ? of : NULL;
}

static jnode *postfix(jparser *p, jnode *n)
{
    while (n) {
        jtoken_kind k = jp_cur(p)->kind;
        if (k == T_DOT || k == T_LBRACKET) n = subscript(p, n);
        else if (k == T_LPAREN) n = jp_call(p, n);
        else break;
    }
    return n;
}

static jnode *test(jparser *p, jnode *of)
{
    int line = jp_cur(p)->line;
    jp_next(p);
    bool negated = jp_skip_name(p, "not");
    jnode *n = jp_node(p, N_TEST, line);
    if (!n || !chain(p, n, of)) return NULL;
    n->name = dotted_name(p);
    if (!n->name) return NULL;
    switch (jp_cur(p)->kind) {
    case T_LPAREN:
        if (!call_args(p, n)) return NULL;
        break;
    case T_NAME: case T_STRING: case T_INT: case T_FLOAT: case T_LBRACKET: case T_LBRACE:
        if (jp_is_name(p, "else") || jp_is_name(p, "or") || jp_is_name(p, "and")) break;
        if (jp_is_name(p, "is")) return jp_fail(p, jp_cur(p)->line, "You cannot chain multiple tests with is");
        jnode *arg = primary(p, false);
        if (arg) arg = postfix(p, arg);
        if (!jp_add(p, &n->kids, arg)) return NULL;
        break;
    default:
        break;
    }
    if (!done(p, n)) return NULL;
    if (!negated) return n;
    jnode *no = jp_node(p, N_NOT, line);
    return no ? chain(p, no, n) : NULL;
}

static jnode *filter_expr(jparser *p, jnode *n)
{
    while (n) {
        if (jp_cur(p)->kind == T_PIPE) n = jp_filters(p, n, false);
        else if (jp_is_name(p, "is")) n = test(p, n);
        else if (jp_cur(p)->kind == T_LPAREN) n = jp_call(p, n);
        else break;
    }
    return n;
}

static jnode *unary(jparser *p, bool with_filter)
{
    jtoken t = *jp_cur(p);
    jnode *n;
    if (t.kind == T_SUB || t.kind == T_ADD) {
        if (++p->depth > JPARSE_MAX_DEPTH) return jp_fail(p, t.line, "more than %d levels of nesting", JPARSE_MAX_DEPTH);
        jp_next(p);
        jnode *x = unary(p, false);
        p->depth--;
        n = x ? jp_node(p, t.kind == T_SUB ? N_NEG : N_POS, t.line) : NULL;
        if (n) n = chain(p, n, x);
    } else {
        n = primary(p, false);
    }
    if (n) n = postfix(p, n);
    return n && with_filter ? filter_expr(p, n) : n;
}

/* Left-associative chains are as deep as they are long; the interpreter's own depth limit guards running them. */
static jnode *power(jparser *p)
{
    int line = jp_cur(p)->line;
    jnode *left = unary(p, true);
    while (left && jp_cur(p)->kind == T_POW) {
        jp_next(p);
        left = binary(p, N_BIN, line, 'p', left, unary(p, true));
        line = jp_cur(p)->line;
    }
    return left;
}

static jnode *product(jparser *p)
{
    int line = jp_cur(p)->line;
    jnode *left = power(p);
    while (left) {
        jtoken_kind k = jp_cur(p)->kind;
        int op = k == T_MUL ? '*' : k == T_DIV ? '/' : k == T_FLOORDIV ? 'f' : k == T_MOD ? '%' : 0;
        if (!op) break;
        jp_next(p);
        left = binary(p, N_BIN, line, op, left, power(p));
        line = jp_cur(p)->line;
    }
    return left;
}

static jnode *concat(jparser *p)
{
    int line = jp_cur(p)->line;
    jnode *first = product(p);
    if (!first || jp_cur(p)->kind != T_TILDE) return first;
    jnode *n = jp_node(p, N_CONCAT, line);
    if (!n || !jp_add(p, &n->kids, first)) return NULL;
    while (jp_skip(p, T_TILDE))
        if (!jp_add(p, &n->kids, product(p))) return NULL;
    return done(p, n);
}

static jnode *sum(jparser *p)
{
    int line = jp_cur(p)->line;
    jnode *left = concat(p);
    while (left && (jp_cur(p)->kind == T_ADD || jp_cur(p)->kind == T_SUB)) {
        int op = jp_cur(p)->kind == T_ADD ? '+' : '-';
        jp_next(p);
        left = binary(p, N_BIN, line, op, left, concat(p));
        line = jp_cur(p)->line;
    }
    return left;
}

static int compare_op(jparser *p)
{
    switch (jp_cur(p)->kind) {
    case T_EQ: return JCMP_EQ;
    case T_NE: return JCMP_NE;
    case T_LT: return JCMP_LT;
    case T_LE: return JCMP_LE;
    case T_GT: return JCMP_GT;
    case T_GE: return JCMP_GE;
    default: break;
    }
    if (jp_is_name(p, "in")) return OP_IN;
    if (jp_is_name(p, "not") && ahead_is_name(p, "in")) {
        jp_next(p);
        return OP_NOTIN;
    }
    return -1;
}

static jnode *comparison(jparser *p)
{
    int line = jp_cur(p)->line, op;
    jnode *first = sum(p), *n = NULL;
    while (first && p->st == ST_OK && (op = compare_op(p)) >= 0) {
        jp_next(p);
        if (!n) {
            n = jp_node(p, N_COMPARE, line);
            if (!n) return NULL;
            n->a = first;
        }
        size_t i = n->kids.n;
        if (!jp_add(p, &n->kids, sum(p))) return NULL;
        if (i % 4 == 0) {
            int *o = arena_calloc(p->mem, i + 4, sizeof *o);
            if (!o) return jp_nomem(p);
            if (i) memcpy(o, n->ops, i * sizeof *o);
            n->ops = o;
        }
        n->ops[i] = op;
        n->line = jp_cur(p)->line;
    }
    return n ? done(p, n) : first;
}

static jnode *negation(jparser *p)
{
    if (!jp_is_name(p, "not")) return comparison(p);
    int line = jp_cur(p)->line;
    if (++p->depth > JPARSE_MAX_DEPTH) return jp_fail(p, line, "more than %d levels of nesting", JPARSE_MAX_DEPTH);
    jp_next(p);
    jnode *x = negation(p);
    p->depth--;
    jnode *n = x ? jp_node(p, N_NOT, line) : NULL;
    return n ? chain(p, n, x) : NULL;
}

static jnode *conjunction(jparser *p)
{
    int line = jp_cur(p)->line;
    jnode *left = negation(p);
    while (left && jp_skip_name(p, "and")) {
        left = binary(p, N_AND, line, 0, left, negation(p));
        line = jp_cur(p)->line;
    }
    return left;
}

static jnode *disjunction(jparser *p)
{
    int line = jp_cur(p)->line;
    jnode *left = conjunction(p);
    while (left && jp_skip_name(p, "or")) {
        left = binary(p, N_OR, line, 0, left, conjunction(p));
        line = jp_cur(p)->line;
    }
    return left;
}

static jnode *conditional(jparser *p)
{
    int line = jp_cur(p)->line;
    jnode *x = disjunction(p);
    while (x && jp_skip_name(p, "if")) {
        jnode *n = jp_node(p, N_COND, line), *cond = disjunction(p);
        if (!n || !cond) return NULL;
        n->a = cond;
        n->b = x;
        if (jp_skip_name(p, "else")) {
            if (++p->depth > JPARSE_MAX_DEPTH) return jp_fail(p, line, "more than %d levels of nesting", JPARSE_MAX_DEPTH);
            n->c = conditional(p);
            p->depth--;
            if (!n->c) return NULL;
        }
        x = done(p, n);
        line = jp_cur(p)->line;
    }
    return x;
}

jnode *jp_expression(jparser *p, bool with_cond) { return p->st != ST_OK ? NULL : with_cond ? conditional(p) : disjunction(p); }
