/* The parser, second half: statements; and the life of a template. */
#include <string.h>

#include "base/mem.h"
#include "text/jinja_ast.h"

static const char *const end_for[] = { "endfor", "else", NULL }, *const end_for2[] = { "endfor", NULL },
                  *const end_if[] = { "elif", "else", "endif", NULL }, *const end_if2[] = { "endif", NULL },
                  *const end_with[] = { "endwith", NULL }, *const end_set[] = { "endset", NULL },
                  *const end_macro[] = { "endmacro", NULL }, *const end_call[] = { "endcall", NULL },
                  *const end_filter[] = { "endfilter", NULL }, *const end_block[] = { "endblock", NULL },
                  *const end_autoescape[] = { "endautoescape", NULL }, *const end_generation[] = { "endgeneration", NULL };

static bool grow_stack(jparser *p, void *pp, size_t n, size_t *cap, size_t size)
{
    if (n < *cap) return true;
    size_t c = *cap ? *cap * 2 : 16;
    void *q = arena_calloc(p->mem, c, size);
    if (!q) {
        jp_nomem(p);
        return false;
    }
    if (n) memcpy(q, *(void **)pp, n * size);
    *(void **)pp = q;
    *cap = c;
    return true;
}

static bool in_list(const char *const *names, const jstr *s)
{
    for (; *names; names++)
        if (jp_str_is(s, *names)) return true;
    return false;
}

/* "Encountered unknown tag", "Unexpected end of template": what was being looked for is in p->ends. */
static void *fail_unknown(jparser *p, const jstr *name, int line)
{
    buf b = { 0 };
    if (name) buf_printf(&b, "Encountered unknown tag '%.*s'.", (int)name->len, name->data);
    else buf_str(&b, "Unexpected end of template.");
    if (p->n_ends) {
        bool nested = false;
        for (size_t i = 0; name && i < p->n_ends; i++) nested = nested || in_list(p->ends[i], name);
        buf_str(&b, nested ? " You probably made a nesting mistake. Jinja is expecting this tag, but currently looking for "
                           : " Jinja was looking for the following tags: ");
        for (const char *const *e = p->ends[p->n_ends - 1]; *e; e++) buf_printf(&b, "%s'%s'", e == p->ends[p->n_ends - 1] ? "" : " or ", *e);
        buf_char(&b, '.');
    }
    if (p->n_tags) buf_printf(&b, " The innermost block that needs to be closed is '%s'.", p->tags[p->n_tags - 1]);
    if (b.failed) jp_nomem(p);
    else jp_fail(p, line, "%s", buf_cstr(&b));
    buf_free(&b);
    return NULL;
}

static jnode *statement(jparser *p);

/* Text, prints and statements until the template ends or one of the names in `ends` comes up in a tag (which is then
 * the current token). */
static bool subparse(jparser *p, const char *const *ends, jnodes *body)
{
    jnode *out = NULL;
    while (p->st == ST_OK && jp_cur(p)->kind != T_EOF) {
        jtoken t = *jp_cur(p);
        jp_next(p);
        if (t.kind == T_BLOCK_BEGIN) {
            out = NULL;
            if (ends && jp_cur(p)->kind == T_NAME && in_list(ends, jp_cur(p)->val.u.s)) return p->st == ST_OK;
            jnode *s = statement(p);
            if (!s || !jp_add(p, body, s) || !jp_expect(p, T_BLOCK_END)) return false;
            continue;
        }
        jnode *x = NULL;
        if (t.kind == T_DATA) {
            x = jp_node(p, N_CONST, t.line);
            if (x) {
                x->value = t.val;
                x->flag = true; /* template data, not an expression */
            }
        } else {
            x = jp_tuple(p, 0, NULL);
            if (x && !jp_expect(p, T_VAR_END)) return false;
        }
        if (!x) return false;
        if (!out) {
            out = jp_node(p, N_OUTPUT, x->line);
            if (!jp_add(p, body, out)) return false;
        }
        if (!jp_add(p, &out->kids, x)) return false;
    }
    return p->st == ST_OK;
}

static bool statements(jparser *p, const char *const *ends, bool drop, jnodes *body)
{
    jp_skip(p, T_COLON);
    if (!jp_expect(p, T_BLOCK_END)) return false;
    if (!grow_stack(p, &p->ends, p->n_ends, &p->cap_ends, sizeof *p->ends)) return false;
    p->ends[p->n_ends++] = ends;
    if (!subparse(p, ends, body)) return false;
    if (jp_cur(p)->kind == T_EOF) {
        fail_unknown(p, NULL, jp_cur(p)->line);
        return false;
    }
    p->n_ends--;
    if (drop) jp_next(p);
    return p->st == ST_OK;
}

static const char *node_class(jnode_kind k)
{
    static const char *const names[] = { "const", "name", "nsref", "tuple", "list", "dict", "condexpr" };
    return k <= N_COND ? names[k] : "expression";
}

static jnode *bad_target(jparser *p, jnode *n)
{
    if (n->kind == N_TUPLE) {
        for (size_t i = 0; i < n->kids.n; i++)
            if (bad_target(p, n->kids.v[i])) return n;
        return NULL;
    }
    return n->kind == N_NAME || n->kind == N_NSREF ? NULL : n;
}

static void set_ctx(jnode *n, int ctx)
{
    n->op = ctx;
    for (size_t i = 0; n->kind == N_TUPLE && i < n->kids.n; i++) set_ctx(n->kids.v[i], ctx);
}

static jnode *assign_target(jparser *p, int flags, const char *end_name)
{
    jnode *t = jp_tuple(p, TUPLE_SIMPLE | flags, end_name);
    if (!t) return NULL;
    if (bad_target(p, t)) return jp_fail(p, t->line, "can't assign to '%s'", node_class(t->kind));
    set_ctx(t, CTX_STORE);
    return t;
}

static jnode *name_target(jparser *p)
{
    jtoken t = *jp_cur(p);
    if (!jp_expect(p, T_NAME)) return NULL;
    static const char *const constants[] = { "true", "false", "none", "True", "False", "None", NULL };
    if (in_list(constants, t.val.u.s)) return jp_fail(p, t.line, "can't assign to 'name'");
    jnode *n = jp_node(p, N_NAME, t.line);
    if (!n) return NULL;
    n->name = t.val.u.s;
    n->op = CTX_STORE;
    return n;
}

static jnode *parse_set(jparser *p, int line)
{
    jnode *target = assign_target(p, TUPLE_NAMESPACE, NULL);
    if (!target) return NULL;
    if (jp_skip(p, T_ASSIGN)) {
        jnode *n = jp_node(p, N_SET, line);
        if (!n) return NULL;
        n->a = target;
        n->b = jp_tuple(p, 0, NULL);
        return n->b ? n : NULL;
    }
    jnode *n = jp_node(p, N_SETBLOCK, line);
    if (!n) return NULL;
    n->a = target;
    if (jp_cur(p)->kind == T_PIPE) {
        jnode *inner = jp_node(p, N_CONST, line);
        n->b = inner ? jp_filters(p, NULL, false) : NULL;
        if (!n->b) return NULL;
    }
    return statements(p, end_set, true, &n->body) ? n : NULL;
}

static jnode *parse_for(jparser *p, int line)
{
    jnode *n = jp_node(p, N_FOR, line);
    if (!n) return NULL;
    n->a = assign_target(p, 0, "in");
    if (!n->a || !jp_expect_name(p, "in")) return NULL;
    n->b = jp_tuple(p, TUPLE_NO_COND, "recursive");
    if (!n->b) return NULL;
    if (jp_skip_name(p, "if")) {
        n->c = jp_expression(p, true);
        if (!n->c) return NULL;
    }
    n->flag = jp_skip_name(p, "recursive");
    if (!statements(p, end_for, false, &n->body)) return NULL;
    bool is_else = jp_is_name(p, "else");
    jp_next(p);
    if (is_else && !statements(p, end_for2, true, &n->els)) return NULL;
    return p->st == ST_OK ? n : NULL;
}

static jnode *parse_if(jparser *p, int line)
{
    jnode *n = jp_node(p, N_IF, line);
    size_t cap = 0;
    while (n) {
        if (!jp_add(p, &n->kids, jp_tuple(p, TUPLE_NO_COND, NULL))) return NULL;
        if (!grow_stack(p, &n->bodies, n->kids.n - 1, &cap, sizeof *n->bodies)) return NULL;
        n->bodies[n->kids.n - 1] = (jnodes){ 0 };
        if (!statements(p, end_if, false, &n->bodies[n->kids.n - 1])) return NULL;
        bool elif = jp_is_name(p, "elif"), els = jp_is_name(p, "else");
        jp_next(p);
        if (elif) continue;
        if (els && !statements(p, end_if2, true, &n->els)) return NULL;
        break;
    }
    return p->st == ST_OK ? n : NULL;
}

static jnode *parse_with(jparser *p, int line)
{
    jnode *n = jp_node(p, N_WITH, line);
    if (!n) return NULL;
    while (jp_cur(p)->kind != T_BLOCK_END) {
        if (n->kids.n && !jp_expect(p, T_COMMA)) return NULL;
        jnode *t = assign_target(p, 0, NULL);
        if (!jp_add(p, &n->kids, t)) return NULL;
        set_ctx(t, CTX_PARAM);
        if (!jp_expect(p, T_ASSIGN) || !jp_add(p, &n->vals, jp_expression(p, true))) return NULL;
    }
    return statements(p, end_with, true, &n->body) ? n : NULL;
}

static bool signature(jparser *p, jnode *n)
{
    if (!jp_expect(p, T_LPAREN)) return false;
    while (jp_cur(p)->kind != T_RPAREN) {
        if (n->kids.n && !jp_expect(p, T_COMMA)) return false;
        jnode *arg = name_target(p);
        if (!arg) return false;
        arg->op = CTX_PARAM;
        if (jp_skip(p, T_ASSIGN)) {
            if (!jp_add(p, &n->vals, jp_expression(p, true))) return false;
        } else if (n->vals.n) {
            jp_fail(p, jp_cur(p)->line, "non-default argument follows default argument");
            return false;
        }
        if (!jp_add(p, &n->kids, arg)) return false;
    }
    return jp_expect(p, T_RPAREN);
}

static jnode *parse_macro(jparser *p, int line)
{
    jnode *n = jp_node(p, N_MACRO, line), *name = name_target(p);
    if (!n || !name) return NULL;
    n->a = name;
    n->name = name->name;
    return signature(p, n) && statements(p, end_macro, true, &n->body) ? n : NULL;
}

static jnode *parse_call_block(jparser *p, int line)
{
    jnode *n = jp_node(p, N_CALLBLOCK, line);
    if (!n || (jp_cur(p)->kind == T_LPAREN && !signature(p, n))) return NULL;
    n->a = jp_expression(p, true);
    if (!n->a) return NULL;
    if (n->a->kind != N_CALL) return jp_fail(p, line, "expected call");
    return statements(p, end_call, true, &n->body) ? n : NULL;
}

static jnode *parse_filter_block(jparser *p, int line)
{
    jnode *n = jp_node(p, N_FILTERBLOCK, line);
    if (!n) return NULL;
    n->a = jp_filters(p, NULL, true);
    return n->a && statements(p, end_filter, true, &n->body) ? n : NULL;
}

static jnode *parse_autoescape(jparser *p, int line)
{
    jnode *n = jp_node(p, N_AUTOESCAPE, line);
    if (!n) return NULL;
    n->a = jp_expression(p, true);
    return n->a && statements(p, end_autoescape, true, &n->body) ? n : NULL;
}

static jnode *parse_block(jparser *p, int line)
{
    jnode *n = jp_node(p, N_BLOCK, line);
    if (!n) return NULL;
    n->name = jp_cur(p)->val.u.s;
    if (!jp_expect(p, T_NAME)) return NULL;
    n->flag = jp_skip_name(p, "scoped");
    bool required = jp_skip_name(p, "required");
    if (jp_cur(p)->kind == T_SUB)
        return jp_fail(p, jp_cur(p)->line, "Block names in Jinja have to be valid Python identifiers and may not contain hyphens, use an underscore instead.");
    if (!statements(p, end_block, true, &n->body)) return NULL;
    n->op = required;
    if (jp_cur(p)->kind == T_NAME && jp_cur(p)->val.u.s->len == n->name->len && !memcmp(jp_cur(p)->val.u.s->data, n->name->data, n->name->len)) jp_next(p);
    return n;
}

static bool context_words(jparser *p)
{
    if ((jp_is_name(p, "with") || jp_is_name(p, "without")) && jp_cur(p)[1].kind == T_NAME && jp_str_is(jp_cur(p)[1].val.u.s, "context")) {
        jp_next(p);
        jp_next(p);
        return true;
    }
    return false;
}

/* extends, include, import, from: they parse, and fail at run time for want of a loader. */
static jnode *parse_loading(jparser *p, jnode_kind k, int line)
{
    jnode *n = jp_node(p, k, line);
    if (!n) return NULL;
    n->a = jp_expression(p, true);
    if (!n->a) return NULL;
    if (k == N_INCLUDE) {
        if (jp_is_name(p, "ignore") && jp_cur(p)[1].kind == T_NAME && jp_str_is(jp_cur(p)[1].val.u.s, "missing")) {
            jp_next(p);
            jp_next(p);
        }
        context_words(p);
    } else if (k == N_IMPORT) {
        if (!jp_expect_name(p, "as") || !jp_add(p, &n->kids, name_target(p))) return NULL;
        context_words(p);
    } else if (k == N_FROM) {
        if (!jp_expect_name(p, "import")) return NULL;
        for (;;) {
            if (n->kids.n && !jp_expect(p, T_COMMA)) return NULL;
            if (jp_cur(p)->kind == T_NAME && context_words(p)) break;
            jnode *t = name_target(p);
            if (!t) return NULL;
            if (t->name->data[0] == '_') return jp_fail(p, t->line, "names starting with an underline can not be imported");
            if (jp_skip_name(p, "as") && !(t = name_target(p))) return NULL;
            if (!jp_add(p, &n->kids, t)) return NULL;
            if (context_words(p) || jp_cur(p)->kind != T_COMMA) break;
        }
    }
    return p->st == ST_OK ? n : NULL;
}

static jnode *parse_generation(jparser *p, int line)
{
    jnode *n = jp_node(p, N_CALLBLOCK, line);
    if (!n) return NULL;
    n->flag = true;
    return statements(p, end_generation, true, &n->body) ? n : NULL;
}

static jnode *parse_print(jparser *p, int line)
{
    jnode *n = jp_node(p, N_OUTPUT, line);
    while (n && jp_cur(p)->kind != T_BLOCK_END) {
        if (n->kids.n && !jp_expect(p, T_COMMA)) return NULL;
        if (!jp_add(p, &n->kids, jp_expression(p, true))) return NULL;
    }
    return n;
}

static jnode *dispatch(jparser *p, const jstr *s, int line, bool *known)
{
    static const struct { const char *tag; jnode *(*parse)(jparser *, int); } tags[] = {
        { "for", parse_for }, { "if", parse_if }, { "block", parse_block }, { "print", parse_print }, { "macro", parse_macro },
        { "set", parse_set }, { "with", parse_with }, { "autoescape", parse_autoescape }, { "call", parse_call_block },
        { "filter", parse_filter_block }, { "generation", parse_generation },
    };
    static const struct { const char *tag; jnode_kind kind; } loading[] = {
        { "extends", N_EXTENDS }, { "include", N_INCLUDE }, { "from", N_FROM }, { "import", N_IMPORT },
    };
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        if (jp_str_is(s, tags[i].tag)) {
            jp_next(p);
            return p->st == ST_OK ? tags[i].parse(p, line) : NULL;
        }
    for (size_t i = 0; i < sizeof loading / sizeof *loading; i++)
        if (jp_str_is(s, loading[i].tag)) {
            jp_next(p);
            return p->st == ST_OK ? parse_loading(p, loading[i].kind, line) : NULL;
        }
    if (jp_str_is(s, "break") || jp_str_is(s, "continue")) {
        jnode *n = jp_node(p, jp_str_is(s, "break") ? N_BREAK : N_CONTINUE, line);
        jp_next(p);
        return n;
    }
    *known = false;
    return NULL;
}

static jnode *statement(jparser *p)
{
    jtoken t = *jp_cur(p);
    if (t.kind != T_NAME) return jp_fail(p, t.line, "tag name expected");
    const char *tag = arena_strndup(p->mem, t.val.u.s->data, t.val.u.s->len);
    if (!tag) return jp_nomem(p);
    if (!grow_stack(p, &p->tags, p->n_tags, &p->cap_tags, sizeof *p->tags)) return NULL;
    p->tags[p->n_tags++] = tag;
    if (++p->depth > JPARSE_MAX_DEPTH) return jp_fail(p, t.line, "more than %d levels of nesting", JPARSE_MAX_DEPTH);
    bool known = true;
    jnode *n = dispatch(p, t.val.u.s, t.line, &known);
    p->depth--;
    p->n_tags--;
    if (!known) return fail_unknown(p, t.val.u.s, t.line);
    return p->st == ST_OK ? n : NULL;
}

bool jj_walk_node(jnode *n, bool (*visit)(jnode *, void *), void *arg)
{
    if (!n) return true;
    if (!visit(n, arg)) return false;
    if (!jj_walk_node(n->a, visit, arg) || !jj_walk_node(n->b, visit, arg) || !jj_walk_node(n->c, visit, arg)) return false;
    if (!jj_walk_node(n->star, visit, arg) || !jj_walk_node(n->dstar, visit, arg)) return false;
    for (size_t i = 0; n->bodies && i < n->kids.n; i++)
        if (!jj_walk(&n->bodies[i], visit, arg)) return false;
    return jj_walk(&n->kids, visit, arg) && jj_walk(&n->vals, visit, arg) && jj_walk(&n->body, visit, arg) && jj_walk(&n->els, visit, arg);
}

bool jj_walk(const jnodes *l, bool (*visit)(jnode *, void *), void *arg)
{
    for (size_t i = 0; i < l->n; i++)
        if (!jj_walk_node(l->v[i], visit, arg)) return false;
    return true;
}

static status check_required(jinja *t)
{
    for (size_t i = 0; i < t->blocks.n; i++) {
        jnode *b = t->blocks.v[i];
        if (!b->op) continue;
        for (size_t k = 0; k < b->body.n; k++) {
            jnode *o = b->body.v[k];
            bool ok = o->kind == N_OUTPUT;
            for (size_t j = 0; ok && j < o->kids.n; j++) {
                ok = o->kids.v[j]->kind == N_CONST && o->kids.v[j]->flag;
                const jstr *s = ok ? o->kids.v[j]->value.u.s : NULL;
                for (size_t c = 0; s && c < s->len; c++) ok = ok && strchr(" \t\n\v\f\r", s->data[c]) != NULL;
            }
            if (!ok) return err_set(ST_INVALID, "template line %d: Required blocks can only contain comments or whitespace", b->line);
        }
    }
    return ST_OK;
}

typedef struct collect { jinja *t; jparser *p; } collect;

static bool collect_block(jnode *n, void *arg)
{
    collect *c = arg;
    return n->kind != N_BLOCK || jp_add(c->p, &c->t->blocks, n);
}

status jinja_parse(const char *text, size_t n, jinja **out)
{
    jinja *t = mem_calloc(1, sizeof *t);
    if (!t) return err_nomem();
    jparser p = { .mem = &t->mem };
    size_t n_tok = 0;
    status st;
    TRY_OUT(jj_lex(&t->mem, text, n, &p.tok, &n_tok));
    if (p.tok[0].kind == T_ERROR)
        jp_fail(&p, p.tok[0].line, "%.*s", (int)p.tok[0].val.u.s->len, p.tok[0].val.u.s->data);
    subparse(&p, NULL, &t->body);
    TRY_OUT(p.st);
    collect c = { t, &p };
    jj_walk(&t->body, collect_block, &c);
    TRY_OUT(p.st);
    TRY_OUT(check_required(t));
    TRY_OUT(jj_scopes(t));
    t->content_parts = jj_detect_content_parts(t);
    *out = t;
    return ST_OK;
out:
    jinja_free(t);
    return st;
}

void jinja_free(jinja *t)
{
    if (!t) return;
    arena_free(&t->mem);
    mem_free(t);
}

bool jinja_wants_content_parts(const jinja *t) { return t->content_parts; }
