/* The syntax tree of a template, and the passes that make it: lexer, parser, scopes. Immutable once jinja_parse
 * returns. */
#ifndef SYSTOLIC_TEXT_JINJA_AST_H
#define SYSTOLIC_TEXT_JINJA_AST_H

#include "text/jinja_value.h"

typedef enum jtoken_kind {
    T_EOF, T_ERROR, T_DATA, T_VAR_BEGIN, T_VAR_END, T_BLOCK_BEGIN, T_BLOCK_END, T_NAME, T_STRING, T_INT, T_FLOAT,
    T_ADD, T_SUB, T_DIV, T_FLOORDIV, T_MUL, T_MOD, T_POW, T_TILDE, T_LBRACKET, T_RBRACKET, T_LPAREN, T_RPAREN, T_LBRACE,
    T_RBRACE, T_EQ, T_NE, T_GT, T_GE, T_LT, T_LE, T_ASSIGN, T_DOT, T_COLON, T_PIPE, T_COMMA, T_SEMICOLON
} jtoken_kind;

typedef struct jtoken {
    jtoken_kind kind;
    int line;
    jval val; /* names, data and strings: JK_STR; numbers; errors: the message */
} jtoken;

/* Tokens of the text, in the arena; the last is T_EOF, or T_ERROR where the text has no more tokens. */
status jj_lex(arena *a, const char *text, size_t n, jtoken **out, size_t *n_out) FALLIBLE;
/* "begin of statement block" for T_BLOCK_BEGIN, "}" for T_RBRACE, ... */
const char *jj_token_name(jtoken_kind k);

typedef enum jnode_kind {
    N_CONST, N_NAME, N_NSREF, N_TUPLE, N_LIST, N_DICT, N_COND, N_OR, N_AND, N_NOT, N_NEG, N_POS, N_BIN, N_COMPARE, N_CONCAT,
    N_GETATTR, N_GETITEM, N_SLICE, N_CALL, N_FILTER, N_TEST,
    N_OUTPUT, N_FOR, N_IF, N_WITH, N_SET, N_SETBLOCK, N_MACRO, N_CALLBLOCK, N_FILTERBLOCK, N_AUTOESCAPE, N_BLOCK, N_EXTENDS,
    N_INCLUDE, N_IMPORT, N_FROM, N_BREAK, N_CONTINUE
} jnode_kind;

typedef struct jnode jnode;
typedef struct jnodes { jnode **v; size_t n, cap; } jnodes;

/* Where a variable lives: `hops` frames up, at `slot`. */
typedef struct jref { int hops, slot; } jref;
/* What entering a scope does to its variables. */
typedef struct jload {
    enum { LOAD_RESOLVE, LOAD_ALIAS, LOAD_UNDEFINED } action;
    int slot;
    jref from;           /* LOAD_ALIAS */
    const jstr *name;    /* LOAD_RESOLVE */
} jload;
typedef struct jscope { jload *loads; size_t n; int *slots; size_t n_slots; } jscope;
/* Code with a frame of its own (a Python function in jinja2): the template, a macro, a call block, a recursive loop. */
typedef struct junit { int n_slots, id; bool captured; } junit;

enum { CTX_LOAD, CTX_STORE, CTX_PARAM };
enum { OP_IN = 100, OP_NOTIN };

struct jnode {
    jnode_kind kind;
    int line;
    int op;              /* N_BIN: as jj_binary; N_COMPARE's operands: see `ops`; names: CTX_*; N_FROM/N_IMPORT etc: flags */
    int escape;          /* output and `~`: 0 off, 1 on, 2 as the evaluation context says */
    bool flag;           /* N_FOR: recursive; N_BLOCK: scoped; N_CALLBLOCK: generation; N_FILTER/N_TEST: checked at run time */
    bool uses_caller, uses_kwargs, uses_varargs, uses_loop, explicit_caller;
    jval value;          /* N_CONST */
    const jstr *name;
    jref ref, ref2, ref3; /* names; macros: caller, kwargs, varargs; loops: `loop` in ref */
    jnode *a, *b, *c;
    jnodes kids;         /* items, arguments, parameters, conditions of if/elif */
    jnodes vals;         /* dict values, keyword values, defaults, with values */
    jnodes body, els;
    jnodes *bodies;      /* N_IF: one per condition */
    const jstr **keys;   /* N_CALL, N_FILTER, N_TEST: keyword names */
    int *ops;            /* N_COMPARE: JCMP_* or OP_IN, OP_NOTIN */
    jnode *star, *dstar;
    const jfn *fn;
    jnode *test_target;  /* N_FOR with a condition: the target in the condition's scope */
    jscope scope, scope2, scope3;
    junit unit;
    int height;          /* of an expression's tree; at most JPARSE_MAX_CHAIN */
};

struct jinja {
    arena mem;
    jnodes body;
    junit unit;
    jscope scope;
    int n_units;
    bool has_self;
    jref self_ref;
    jnodes blocks;
    bool content_parts;
};

/* Parser state, shared by the expression and the statement half. */
typedef struct jparser {
    arena *mem;
    jtoken *tok;
    size_t pos;
    status st;               /* first failure; every parse function returns NULL after it */
    int depth;
    const char **tags;       /* open tags, innermost last */
    size_t n_tags, cap_tags;
    const char *const **ends; /* what each open body waits for, NULL-terminated lists */
    size_t n_ends, cap_ends;
} jparser;

enum { JPARSE_MAX_DEPTH = 200, JPARSE_MAX_CHAIN = 2000 };

static inline jtoken *jp_cur(jparser *p) { return &p->tok[p->pos]; }
void jp_next(jparser *p);
bool jp_is_name(const jparser *p, const char *name);       /* the current token is this name */
bool jp_skip_name(jparser *p, const char *name);
bool jp_skip(jparser *p, jtoken_kind k);
bool jp_expect(jparser *p, jtoken_kind k);
bool jp_expect_name(jparser *p, const char *name);
void *jp_fail(jparser *p, int line, const char *fmt, ...) PRINTF_LIKE(3, 4);
void *jp_nomem(jparser *p);
jnode *jp_node(jparser *p, jnode_kind k, int line);
bool jp_add(jparser *p, jnodes *list, jnode *n);           /* false (and failed) if n is NULL */
const char *jp_describe(jparser *p, const jtoken *t);
bool jp_str_is(const jstr *s, const char *lit);

jnode *jp_expression(jparser *p, bool with_cond);
enum { TUPLE_SIMPLE = 1, TUPLE_NO_COND = 2, TUPLE_PARENS = 4, TUPLE_NAMESPACE = 8 };
jnode *jp_tuple(jparser *p, int flags, const char *end_name);
jnode *jp_filters(jparser *p, jnode *of, bool inline_start);
jnode *jp_call(jparser *p, jnode *callee);

/* Resolves names to slots and checks filters and tests. Errors as jinja2's compiler. */
status jj_scopes(jinja *t) FALLIBLE;
/* vLLM's rule for the content format. */
bool jj_detect_content_parts(const jinja *t);
/* Calls visit for every node below (not the list itself); stops when it returns false. */
bool jj_walk(const jnodes *list, bool (*visit)(jnode *n, void *arg), void *arg);
bool jj_walk_node(jnode *n, bool (*visit)(jnode *n, void *arg), void *arg);

#endif
