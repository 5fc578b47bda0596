/* Tests: `x is name`. */
#include <math.h>
#include <string.h>

#include "text/jinja_ast.h"

static status arity(jrt *r, const char *name, const jargs *a, size_t want)
{
    if (a->n == want && !a->n_kw) return ST_OK;
    if (a->n > want) return jj_type_error(r, "%s() takes %zu positional argument%s but %zu were given", name, want, want == 1 ? "" : "s", a->n);
    return jj_type_error(r, "%s() missing %zu required positional argument%s", name, want - a->n, want - a->n == 1 ? "" : "s");
}

#define TEST_OF(id, expr)                                                      \
    static status t_##id(jrt *r, jval self, const jargs *a, jval *out)         \
    {                                                                          \
        (void)self;                                                            \
        TRY(arity(r, "test_" #id, a, 1));                                      \
        jval v = a->v[0];                                                      \
        *out = jj_bool(expr);                                                  \
        return ST_OK;                                                          \
    }

TEST_OF(defined, v.kind != JK_UNDEF)
TEST_OF(undefined, v.kind == JK_UNDEF)
TEST_OF(none, v.kind == JK_NONE)
TEST_OF(boolean, v.kind == JK_BOOL)
TEST_OF(false, v.kind == JK_BOOL && !v.u.b)
TEST_OF(true, v.kind == JK_BOOL && v.u.b)
TEST_OF(integer, v.kind == JK_INT || v.kind == JK_BIG)
TEST_OF(float, v.kind == JK_FLOAT)
TEST_OF(string, v.kind == JK_STR)
TEST_OF(mapping, v.kind == JK_DICT)
TEST_OF(number, jj_is_number(v) || v.kind == JK_BIG)
TEST_OF(sequence, (v.kind != JK_LOOP && v.kind != JK_VIEW && jj_has_len(v)))
TEST_OF(iterable, jj_iterable(v) || v.kind == JK_SELF)
TEST_OF(callable, jj_callable(v))
TEST_OF(escaped, v.kind == JK_STR && v.u.s->markup)
TEST_OF(filter, v.kind == JK_STR && jj_find_filter(v.u.s->data, v.u.s->len) != NULL)
TEST_OF(test, v.kind == JK_STR && jj_find_test(v.u.s->data, v.u.s->len) != NULL)

static status modulo_is(jrt *r, jval v, jval by, int64_t want, jval *out)
{
    jval m;
    bool eq;
    TRY(jj_binary(r, '%', v, by, &m));
    TRY(jj_eq(r, m, jj_int(want), &eq));
    *out = jj_bool(eq);
    return ST_OK;
}

static status t_odd(jrt *r, jval self, const jargs *a, jval *out)
{
    (void)self;
    TRY(arity(r, "test_odd", a, 1));
    return modulo_is(r, a->v[0], jj_int(2), 1, out);
}

static status t_even(jrt *r, jval self, const jargs *a, jval *out)
{
    (void)self;
    TRY(arity(r, "test_even", a, 1));
    return modulo_is(r, a->v[0], jj_int(2), 0, out);
}

static status t_divisibleby(jrt *r, jval self, const jargs *a, jval *out)
{
    static const char *const names[] = { "value", "num" };
    jval p[2];
    (void)self;
    TRY(jj_bind(r, "test_divisibleby", names, 2, 2, 0, a, p));
    return modulo_is(r, p[0], p[1], 0, out);
}

static status case_test(jrt *r, const char *name, const char *method, const jargs *a, jval *out)
{
    jval s;
    jargs none = { 0 };
    TRY(arity(r, name, a, 1));
    TRY(jj_to_str(r, a->v[0], &s));
    return jj_find_str_method(method, strlen(method))->call(r, s, &none, out);
}

static status t_lower(jrt *r, jval self, const jargs *a, jval *out) { return (void)self, case_test(r, "test_lower", "islower", a, out); }
static status t_upper(jrt *r, jval self, const jargs *a, jval *out) { return (void)self, case_test(r, "test_upper", "isupper", a, out); }

static status t_sameas(jrt *r, jval self, const jargs *a, jval *out)
{
    static const char *const names[] = { "value", "other" };
    jval p[2];
    (void)self;
    TRY(jj_bind(r, "test_sameas", names, 2, 2, 0, a, p));
    *out = jj_bool(jj_is(p[0], p[1]));
    return ST_OK;
}

static status t_in(jrt *r, jval self, const jargs *a, jval *out)
{
    static const char *const names[] = { "value", "seq" };
    jval p[2];
    bool in;
    (void)self;
    TRY(jj_bind(r, "test_in", names, 2, 2, 0, a, p));
    TRY(jj_contains(r, p[1], p[0], &in));
    *out = jj_bool(in);
    return ST_OK;
}

static status compare(jrt *r, jcmp op, const char *name, const jargs *a, jval *out)
{
    bool ok;
    if (a->n_kw) return jj_type_error(r, "%s() takes no keyword arguments", name);
    if (a->n != 2) return jj_type_error(r, "%s expected 2 arguments, got %zu", name, a->n);
    TRY(jj_compare(r, op, a->v[0], a->v[1], &ok));
    *out = jj_bool(ok);
    return ST_OK;
}

#define COMPARE_TEST(id, op) \
    static status t_##id(jrt *r, jval self, const jargs *a, jval *out) { return (void)self, compare(r, op, #id, a, out); }

COMPARE_TEST(eq, JCMP_EQ)
COMPARE_TEST(ne, JCMP_NE)
COMPARE_TEST(lt, JCMP_LT)
COMPARE_TEST(le, JCMP_LE)
COMPARE_TEST(gt, JCMP_GT)
COMPARE_TEST(ge, JCMP_GE)

static const jfn tests[] = {
    { "odd", t_odd }, { "even", t_even }, { "divisibleby", t_divisibleby }, { "defined", t_defined }, { "undefined", t_undefined },
    { "filter", t_filter }, { "test", t_test }, { "none", t_none }, { "boolean", t_boolean }, { "false", t_false }, { "true", t_true },
    { "integer", t_integer }, { "float", t_float }, { "lower", t_lower }, { "upper", t_upper }, { "string", t_string },
    { "mapping", t_mapping }, { "number", t_number }, { "sequence", t_sequence }, { "iterable", t_iterable }, { "callable", t_callable },
    { "sameas", t_sameas }, { "escaped", t_escaped }, { "in", t_in }, { "==", t_eq }, { "eq", t_eq }, { "equalto", t_eq }, { "!=", t_ne },
    { "ne", t_ne }, { ">", t_gt }, { "gt", t_gt }, { "greaterthan", t_gt }, { "ge", t_ge }, { ">=", t_ge }, { "<", t_lt }, { "lt", t_lt },
    { "lessthan", t_lt }, { "<=", t_le }, { "le", t_le },
};

const jfn *jj_find_test(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (strlen(tests[i].name) == n && !memcmp(tests[i].name, name, n)) return &tests[i];
    return NULL;
}
