/* Values of the template engine: Python's, as far as a template can see them, and the state of one rendering.
 *
 * Everything a rendering makes lives in its arena (`jrt.mem`) and goes with it; values made from a template's literals
 * live in the template's arena. Strings, lists, tuples and dicts never change once made, so they are shared freely;
 * namespaces, iterators, cyclers and joiners do change and belong to one rendering. One thread per jrt. */
#ifndef SYSTOLIC_TEXT_JINJA_VALUE_H
#define SYSTOLIC_TEXT_JINJA_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"
#include "text/jinja.h"

typedef enum jkind {
    JK_MISSING, /* a variable that was never set; templates see JK_UNDEF instead */
    JK_UNDEF, JK_NONE, JK_BOOL, JK_INT, JK_FLOAT,
    JK_BIG,     /* an integer beyond 64 bits: its decimal digits in `s`; prints and compares, but no arithmetic */
    JK_STR, JK_LIST, JK_TUPLE, JK_DICT,
    JK_VIEW,    /* dict.keys(), .values(), .items() */
    JK_RANGE, JK_NS, JK_ITER, JK_FN, JK_METHOD, JK_MACRO, JK_LOOP, JK_CYCLER, JK_JOINER,
    JK_DICTTYPE, /* the global `dict` */
    JK_SELF, JK_BLOCKREF, JK_SLICE
} jkind;

typedef struct jstr jstr;
typedef struct jlist jlist;
typedef struct jdict jdict;
typedef struct jval {
    jkind kind;
    union {
        bool b;
        int64_t i;
        double f;
        const jstr *s;
        const jlist *l;
        const jdict *d;
        struct jundef *undef;
        struct jview *view;
        struct jrange *range;
        struct jns *ns;
        struct jiter *it;
        const struct jfn *fn;
        struct jmethod *method;
        struct jmacro *macro;
        struct jloop *loop;
        struct jcycler *cycler;
        struct jjoiner *joiner;
        struct jnode *block;
    } u;
} jval;

/* Bytes that may have room after them. A string or list that ends where its buffer's used part ends is extended in
 * place by `+`, which makes building one piece by piece linear; the shorter original still sees only its own part. */
typedef struct jbuf {
    char *data;
    size_t used, cap;
} jbuf;

struct jstr {
    const char *data; /* UTF-8 (a lone surrogate becomes U+FFFD), not NUL-terminated */
    size_t len;
    jbuf *owner;      /* NULL when it cannot grow */
    bool ascii;       /* all bytes below 0x80: positions are byte offsets */
    bool markup;      /* markupsafe.Markup: |safe, and everything built from it */
};

struct jlist {        /* also tuples */
    const jval *v;
    size_t n;
    jbuf *owner;
    bool group;       /* |groupby's named tuple: .grouper and .list */
};

typedef struct jentry { jval key, val; uint64_t hash; } jentry;
struct jdict {
    jentry *e;
    size_t n, cap;
    uint32_t *index;  /* open addressing, NULL while small; 0 = empty, else position + 1 */
    size_t mask;
};

typedef struct jundef {
    const jstr *hint;   /* the whole message, or NULL */
    jval obj;           /* JK_MISSING: a variable */
    jval name;
    bool security;      /* raises SecurityError */
} jundef;

typedef struct jview { const jdict *d; enum { JVIEW_KEYS, JVIEW_VALUES, JVIEW_ITEMS } what; } jview;
typedef struct jrange { int64_t start, stop, step; uint64_t n; } jrange;
typedef struct jns { jdict d; } jns;
typedef struct jcycler { const jlist *items; size_t pos; } jcycler;
typedef struct jjoiner { jval sep; bool used; } jjoiner;

typedef struct jrt jrt;
typedef struct jkw { const jstr *name; jval val; } jkw;
typedef struct jargs { const jval *v; size_t n; const jkw *kw; size_t n_kw; } jargs;

/* A builtin: filter, test, global or method. */
typedef struct jfn {
    const char *name;
    status (*call)(jrt *r, jval self, const jargs *a, jval *out);
} jfn;
typedef struct jmethod { jval self; const jfn *fn; } jmethod;

/* An iterator; `next` sets *done instead of *out at the end. */
typedef struct jiter {
    const char *type;   /* Python's name of it */
    const char *name;   /* a generator's function */
    status (*next)(jrt *r, struct jiter *it, jval *out, bool *done);
    jval src;           /* what is iterated */
    struct jiter *sub;
    size_t pos, end;
    const jfn *fn;      /* map, select, ... */
    jargs args;
    jval attr;
    bool negate, by_attr, started;
    void *extra[2];
} jiter;

typedef struct jframe { jval *slots; struct jframe *up; } jframe;

typedef struct jmacro { struct jnode *node; jframe *frame; bool escape; } jmacro;

typedef struct jloop {
    jval src;           /* the iterable */
    jiter *it;
    int64_t index0, length; /* length -1 = not known yet */
    jval cur, before, after;
    bool has_after, ended;
    jval last_changed;
    bool has_changed;
    struct jnode *recurse;
    jframe *frame;
    int64_t depth0;
} jloop;

/* Where output goes: the caller's buffer, or a growing string in the arena. */
typedef struct jsink jsink;

struct jrt {
    const jinja *t;
    const jv *vars;
    arena mem;
    jinja_limits lim;
    double deadline, now;
    uint32_t ticks;
    int depth, max_depth;      /* C recursion */
    int macro_depth;
    size_t written;            /* bytes of the main output */
    jinja_error why;
    jdict globals;             /* names looked up so far */
    jdict exported;            /* what the top level has set, for blocks */
    bool escape;               /* the evaluation context's autoescape */
    jsink *out;
    jframe **free_frames;      /* per function unit, for reuse */
    jval input;                /* what a filter block or a filtered set block has captured */
};

/* ---- failing ---- */
/* Sets the message and what kind of exception it is. */
status jj_fail(jrt *r, jinja_error why, const char *fmt, ...) PRINTF_LIKE(3, 4) FALLIBLE;
#define jj_type_error(r, ...) jj_fail(r, JINJA_TYPE, __VA_ARGS__)
#define jj_value_error(r, ...) jj_fail(r, JINJA_VALUE, __VA_ARGS__)
/* Raises what using an undefined value raises. */
status jj_undefined_error(jrt *r, jval undef) FALLIBLE;
/* AttributeError. */
status jj_no_attribute(jrt *r, jval v, const char *name) FALLIBLE;
/* Counts a step: fails when the time is up. */
status jj_tick(jrt *r) FALLIBLE;
status jj_enter(jrt *r) FALLIBLE; /* one level deeper; pair with jj_leave */
static inline void jj_leave(jrt *r) { r->depth--; }

/* ---- memory ---- */
status jj_alloc(jrt *r, size_t bytes, void *out) FALLIBLE; /* *(void **)out */
status jj_calloc(jrt *r, size_t n, size_t bytes, void *out) FALLIBLE;

/* ---- making values ---- */
static inline jval jj_none(void) { return (jval){ JK_NONE, { .i = 0 } }; }
static inline jval jj_missing(void) { return (jval){ JK_MISSING, { .i = 0 } }; }
static inline jval jj_bool(bool b) { return (jval){ JK_BOOL, { .b = b } }; }
static inline jval jj_int(int64_t i) { return (jval){ JK_INT, { .i = i } }; }
static inline jval jj_float(double f) { return (jval){ JK_FLOAT, { .f = f } }; }
static inline jval jj_s(const jstr *s) { return (jval){ JK_STR, { .s = s } }; }
status jj_str(jrt *r, const char *s, size_t n, jval *out) FALLIBLE;          /* copies */
status jj_str_borrow(jrt *r, const char *s, size_t n, jval *out) FALLIBLE;   /* s outlives the rendering */
status jj_cstr(jrt *r, const char *literal, jval *out) FALLIBLE;             /* borrows */
status jj_str_part(jrt *r, const jstr *of, size_t from, size_t n, jval *out) FALLIBLE; /* bytes [from, from + n) */
status jj_markup(jrt *r, jval str, jval *out) FALLIBLE;                      /* the same string, marked safe */
status jj_plain(jrt *r, jval str, jval *out) FALLIBLE;
status jj_list(jrt *r, jkind list_or_tuple, const jval *v, size_t n, jval *out) FALLIBLE; /* copies */
status jj_pair(jrt *r, jval a, jval b, jval *out) FALLIBLE;                  /* a tuple of two */
status jj_undef_name(jrt *r, const jstr *name, jval *out) FALLIBLE;          /* "'x' is undefined" */
status jj_undef_attr(jrt *r, jval obj, jval name, jval *out) FALLIBLE;       /* "'list object' has no attribute 'x'" */
status jj_undef_hint(jrt *r, const char *hint, jval *out) FALLIBLE;
status jj_undef_unsafe(jrt *r, jval obj, const jstr *name, jval *out) FALLIBLE;
status jj_method(jrt *r, jval self, const jfn *fn, jval *out) FALLIBLE;
status jj_from_json(jrt *r, const jv *v, jval *out) FALLIBLE;

/* A list being built. Zero-initialise. */
typedef struct jvec { jval *v; size_t n, cap; } jvec;
status jj_push(jrt *r, jvec *v, jval x) FALLIBLE;
status jj_vec_list(jrt *r, const jvec *v, jkind list_or_tuple, jval *out) FALLIBLE; /* takes the memory over */

/* A string being built. Zero-initialise; the first failure is returned by jj_sb_take. */
typedef struct jsb { jrt *r; jbuf b; bool ascii; status st; } jsb;
static inline jsb jj_sb(jrt *r) { return (jsb){ .r = r, .ascii = true }; }
void jj_sb_put(jsb *b, const char *s, size_t n);
void jj_sb_str(jsb *b, const char *s);
void jj_sb_char(jsb *b, char c);
void jj_sb_cp(jsb *b, uint32_t cp);
void jj_sb_printf(jsb *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
static inline void jj_sb_jstr(jsb *b, const jstr *s) { jj_sb_put(b, s->data, s->len); }
status jj_sb_take(jsb *b, jval *out) FALLIBLE;

struct jsink { buf *main; jsb sb; };

/* ---- dicts ---- */
status jj_dict_put(jrt *r, jdict *d, jval key, jval val) FALLIBLE; /* TypeError for an unhashable key */
/* NULL if absent; TypeError for an unhashable key. */
status jj_dict_find(jrt *r, const jdict *d, jval key, const jval **out) FALLIBLE;
const jval *jj_dict_str(const jdict *d, const char *key, size_t n);
status jj_dict_new(jrt *r, jdict **out) FALLIBLE;
status jj_dict_copy(jrt *r, const jdict *from, jdict **out) FALLIBLE;
status jj_hash(jrt *r, jval v, uint64_t *out) FALLIBLE;

/* ---- looking at values ---- */
const char *jj_type_name(jval v);          /* 'str', 'NoneType', ... as in Python's messages */
const char *jj_object_repr(jval v);        /* "str object", "None", "jinja2.runtime.LoopContext object" */
bool jj_truth(jrt *r, jval v);
status jj_eq(jrt *r, jval a, jval b, bool *out) FALLIBLE;
bool jj_is(jval a, jval b);                /* the same object */
typedef enum jcmp { JCMP_LT, JCMP_LE, JCMP_GT, JCMP_GE, JCMP_EQ, JCMP_NE } jcmp;
status jj_compare(jrt *r, jcmp op, jval a, jval b, bool *out) FALLIBLE;
status jj_contains(jrt *r, jval container, jval item, bool *out) FALLIBLE;
status jj_len(jrt *r, jval v, int64_t *out) FALLIBLE;  /* TypeError "object of type 'int' has no len()" */
bool jj_has_len(jval v);
static inline bool jj_is_number(jval v) { return v.kind == JK_BOOL || v.kind == JK_INT || v.kind == JK_FLOAT; }
static inline bool jj_is_int(jval v) { return v.kind == JK_BOOL || v.kind == JK_INT; }
static inline int64_t jj_as_int(jval v) { return v.kind == JK_BOOL ? (int64_t)v.u.b : v.u.i; }
static inline double jj_as_float(jval v) { return v.kind == JK_FLOAT ? v.u.f : (double)jj_as_int(v); }
bool jj_callable(jval v);
bool jj_str_is(jval v, const char *literal);
size_t jj_str_cps(const jstr *s);                        /* len() */
size_t jj_str_offset(const jstr *s, size_t cp_index);    /* byte offset of a code point; len when past the end */

/* ---- iterating ---- */
status jj_iter(jrt *r, jval v, jiter **out) FALLIBLE;    /* TypeError "'int' object is not iterable" */
bool jj_iterable(jval v);
static inline status jj_next(jrt *r, jiter *it, jval *out, bool *done) { return it->next(r, it, out, done); }
status jj_to_vec(jrt *r, jval v, jvec *out) FALLIBLE;    /* list(v) */
status jj_new_iter(jrt *r, const char *type, status (*next)(jrt *, jiter *, jval *, bool *), jiter **out) FALLIBLE;
status jj_reversed(jrt *r, jval v, jval *out, bool *not_reversible) FALLIBLE;
static inline jval jj_iter_val(jiter *it) { return (jval){ JK_ITER, { .it = it } }; }

/* ---- printing ---- */
status jj_to_str(jrt *r, jval v, jval *out) FALLIBLE;    /* str(v): a Markup stays as it is */
status jj_repr(jrt *r, jval v, jval *out) FALLIBLE;
status jj_repr_to(jsb *b, jval v) FALLIBLE;
status jj_str_to(jsb *b, jval v) FALLIBLE;
void jj_repr_str(jsb *b, const jstr *s, bool ascii_only);
status jj_escape(jrt *r, jval v, jval *out) FALLIBLE;    /* markupsafe.escape */
void jj_escape_to(jsb *b, const jstr *s);
typedef struct jdump { bool ascii, sort; bool has_indent; const jstr *indent; const jstr *item_sep, *key_sep; } jdump;
status jj_json(jrt *r, jval v, const jdump *o, jval *out) FALLIBLE;
/* A C string of v's repr for messages, cut at 300 bytes. */
const char *jj_repr_c(jrt *r, jval v);

/* ---- operators ---- */
status jj_binary(jrt *r, int op, jval a, jval b, jval *out) FALLIBLE; /* op: a character of + - * % or the slash, f for floor division, p for power */
status jj_negate(jrt *r, jval v, bool positive, jval *out) FALLIBLE;
status jj_concat(jrt *r, const jstr *a, const jstr *b, jval *out) FALLIBLE;
status jj_getitem(jrt *r, jval obj, jval key, jval *out) FALLIBLE;    /* environment.getitem */
status jj_getattr(jrt *r, jval obj, const jstr *name, jval *out) FALLIBLE;
/* obj[key] alone: *found = false where Python raises TypeError or LookupError. */
status jj_subscript(jrt *r, jval obj, jval key, jval *out, bool *found) FALLIBLE;
/* Python's getattr(): *found = false for AttributeError. Unsafe attributes give an undefined value. */
status jj_attribute(jrt *r, jval obj, const jstr *name, jval *out, bool *found) FALLIBLE;
status jj_slice(jrt *r, jval obj, jval start, jval stop, jval step, jval *out) FALLIBLE;
status jj_call(jrt *r, jval f, const jargs *a, jval *out) FALLIBLE;
status jj_format_percent(jrt *r, const jstr *fmt, jval args, jval *out) FALLIBLE;
status jj_str_format(jrt *r, const jstr *fmt, const jargs *a, jval mapping, jval *out) FALLIBLE;
status jj_format_spec(jrt *r, jval v, const jstr *spec, jsb *b) FALLIBLE;
status jj_parse_int(jrt *r, const jstr *s, int base, int64_t *out, bool *ok) FALLIBLE;
bool jj_parse_float(const jstr *s, double *out);
status jj_sort(jrt *r, jval *keys, jval *items, size_t n, bool reverse) FALLIBLE;
status jj_lower(jrt *r, const jstr *s, jval *out) FALLIBLE;
status jj_strip(jrt *r, const jstr *s, jval chars, int sides, jval *out) FALLIBLE; /* sides: 1 left, 2 right, 3 both */
status jj_replace(jrt *r, const jstr *s, const jstr *old, const jstr *new, int64_t count, jval *out) FALLIBLE;
status jj_join(jrt *r, const jstr *sep, const jval *v, size_t n, jval *out) FALLIBLE; /* of strings */
status jj_splitlines(jrt *r, const jstr *s, bool keep, jvec *out) FALLIBLE;

/* ---- builtins ---- */
const jfn *jj_find_filter(const char *name, size_t n);
const jfn *jj_find_test(const char *name, size_t n);
const jfn *jj_find_str_method(const char *name, size_t n);
const jfn *jj_find_method(jval self, const char *name, size_t n);
bool jj_global(const char *name, size_t n, jval *out);
status jj_call_macro(jrt *r, jmacro *m, const jargs *a, jval *out) FALLIBLE;
status jj_call_loop(jrt *r, jloop *l, const jargs *a, jval *out) FALLIBLE;
status jj_call_block(jrt *r, struct jnode *block, jval *out) FALLIBLE;
status jj_loop_attr(jrt *r, jloop *l, const jstr *name, jval *out, bool *found) FALLIBLE;
bool jj_block_named(jrt *r, const jstr *name, jval *out);

/* Matches arguments with a Python signature: names of the parameters, the first n_required without default (absent
 * ones stay JK_MISSING). `hidden` counts parameters that jinja2 passes itself, for the numbers in messages. */
status jj_bind(jrt *r, const char *fname, const char *const *names, size_t n_names, size_t n_required, size_t hidden,
               const jargs *a, jval *out) FALLIBLE;

#endif
