/* The template engine: jinja2's answers to small templates (tests/golden/jinja.json), limits, memory, threads. */
#include "tests/test.h"

#include <pthread.h>
#include <time.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "text/jinja.h"

static double frozen_now(void)
{
    struct tm tm = { .tm_year = 126, .tm_mon = 0, .tm_mday = 15, .tm_hour = 12, .tm_min = 34, .tm_sec = 56, .tm_isdst = -1 };
    return (double)mktime(&tm);
}

static jinja_error kind_of(const char *exception)
{
    static const struct { const char *name; jinja_error e; } kinds[] = {
        { "TemplateError", JINJA_TEMPLATE_ERROR }, { "TemplateRuntimeError", JINJA_TEMPLATE_ERROR }, { "FilterArgumentError", JINJA_TEMPLATE_ERROR },
        { "UndefinedError", JINJA_UNDEFINED }, { "TypeError", JINJA_TYPE }, { "ValueError", JINJA_VALUE }, { "SecurityError", JINJA_SECURITY },
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, exception)) return kinds[i].e;
    return JINJA_OTHER;
}

static bool matches(const jv *c, const jv *data, buf *got)
{
    const jv *src = jv_get(c, "t");
    const char *err = jv_get_str(c, "error", NULL), *msg = jv_get_str(c, "message", "");
    jinja *t = NULL;
    jinja_error why = JINJA_OK;
    bool ok = false;
    status st = jinja_parse(jv_str(src, ""), jv_len(src), &t);
    if (st != ST_OK) {
        char want[1200];
        snprintf(want, sizeof want, "template line %d: %s", (int)jv_get_i64(c, "line", 0), msg);
        buf_printf(got, "does not parse: %s", err_msg());
        if (!err) return false;
        return !strcmp(err, "syntax") ? !strcmp(want, err_msg()) : !strcmp(err, "SyntaxError") || (!strcmp(err, "AssertionError") && strstr(err_msg(), msg));
    }
    buf out = { 0 };
    st = jinja_render(t, data, NULL, frozen_now(), &out, &why);
    if (st == ST_OK) {
        const jv *text = jv_get(c, "text");
        ok = text && jv_len(text) == out.len && !memcmp(jv_str(text, ""), buf_cstr(&out), out.len);
        buf_printf(got, "text \"%s\"", buf_cstr(&out));
    } else {
        ok = err && kind_of(err) == why && !strcmp(msg, err_msg());
        buf_printf(got, "error %d %s", (int)why, err_msg());
    }
    buf_free(&out);
    jinja_free(t);
    return ok;
}

TEST(as_jinja2)
{
    jv *all = NULL;
    int wrong = 0;
    REQUIRE_OK(jv_parse_file("tests/golden/jinja.json", (size_t)16 << 20, &all));
    const jv *cases = jv_get(all, "cases");
    CHECK(jv_len(cases) > 2000);
    for (size_t i = 0; i < jv_len(cases); i++) {
        const jv *c = jv_at(cases, i);
        buf got = { 0 };
        if (!matches(c, jv_get(all, "data"), &got)) {
            wrong++;
            FAIL("%s\n      got    %s\n      wanted %s %s", jv_get_str(c, "t", ""), buf_cstr(&got), jv_get_str(c, "error", "text"),
                 jv_get_str(c, "error", NULL) ? jv_get_str(c, "message", "") : jv_get_str(c, "text", ""));
        }
        buf_free(&got);
    }
    if (wrong) printf("  %d of %zu cases differ\n", wrong, jv_len(cases));
    jv_free(all);
}

static status render(const char *src, const char *json, const jinja_limits *lim, buf *out, jinja_error *why)
{
    jinja *t = NULL;
    jv *vars = NULL;
    status st = jinja_parse(src, strlen(src), &t);
    if (st == ST_OK) st = jv_parse(json, strlen(json), &vars);
    if (st == ST_OK) st = jinja_render(t, vars, lim, 1, out, why);
    jinja_free(t);
    jv_free(vars);
    return st;
}

#define LIMITED(src, lim, text) do { buf b_ = { 0 }; jinja_error why_ = JINJA_OK; \
    CHECK_ERR(render(src, "{}", &(jinja_limits)lim, &b_, &why_), ST_LIMIT, text); CHECK_INT(why_, JINJA_LIMIT); CHECK_INT(b_.len, 0); buf_free(&b_); } while (0)
#define L(...) { __VA_ARGS__ }

TEST(limits)
{
    const char *slow = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    double t0 = clock_now();
    LIMITED(slow, L(.seconds = 0.05), "longer than");
    LIMITED("{{ range(100000)|map('string')|map('upper')|map('trim')|list|join|length }}{% for x in range(99999) %}{{ range(100000)|sum }}{% endfor %}", L(.seconds = 0.05), "longer than");
    CHECK(clock_now() - t0 < 5);
    LIMITED("{% for a in range(100000) %}0123456789{% endfor %}", L(.output_bytes = 5000), "writes more than 5000");
    LIMITED("{{ 'x' * 1000000000 }}", L(.memory_bytes = 1 << 20), "memory");
    LIMITED("{{ 'x' * 9223372036854775807 }}", L(0), "memory");
    LIMITED("{{ [1] * 9223372036854775807 }}", L(0), "memory");
    LIMITED("{{ 'x'.center(9223372036854775807) }}", L(0), "memory");
    LIMITED("{% set ns = namespace(s='ab') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", L(0), "memory");
    LIMITED("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", L(0), "recursion");
    LIMITED("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", L(0), "recursion");
    LIMITED("{% macro m() %}{% call m() %}{% endcall %}{{ caller }}{% endmacro %}{{ m() }}", L(.depth = 10), "recursion");
    LIMITED("{% set ns = namespace(a=[]) %}{% for i in range(50000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}", L(0), "recursion");
    LIMITED("{% set ns = namespace(a=[]) %}{% for i in range(50000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a|tojson }}", L(0), "recursion");
    LIMITED("{% set ns = namespace(a=[], b=[]) %}{% for i in range(50000) %}{% set ns.a = [ns.a] %}{% set ns.b = [ns.b] %}{% endfor %}{{ ns.a == ns.b }}", L(0), "recursion");
    LIMITED("{% set ns = namespace() %}{% set ns.n = ns %}{{ ns }}", L(0), "recursion");
    LIMITED("{% set ns = namespace(m=[1]) %}{% for i in range(50000) %}{% set ns.m = ns.m|map('string') %}{% endfor %}{{ ns.m|list }}", L(0), "recursion");
}

static void nested_source(const char *open, int n)
{
    buf b = { 0 };
    for (int i = 0; i < n; i++) buf_str(&b, open);
    jinja *t = NULL;
    status st = jinja_parse(buf_cstr(&b), b.len, &t);
    CHECK(st == ST_INVALID);
    buf_free(&b);
    jinja_free(t);
}

TEST(deep_sources_are_refused)
{
    static const char *const opens[] = { "{% if x %}", "{{ (", "{{ [", "{{ - ", "{{ not ", "{{ a(", "{{ {1:", "{% for x in y %}", "{{ x[", "{{ x if y else " };
    for (size_t i = 0; i < sizeof opens / sizeof *opens; i++) nested_source(opens[i], 50000);
    buf b = { 0 };
    static const char *const chains[] = { "{{ 1", "+1", "}}", "{{ x", ".a", "}}", "{{ x", "|e", "}}", "{{ 1", " or 1", "}}", "{{ 1", " ** 1", "}}", "{{ x", "()", "}}" };
    for (size_t i = 0; i + 2 < sizeof chains / sizeof *chains; i += 3) {
        buf_clear(&b);
        buf_str(&b, chains[i]);
        for (int k = 0; k < 100000; k++) buf_str(&b, chains[i + 1]);
        buf_str(&b, chains[i + 2]);
        jinja *t = NULL;
        CHECK_ERR(jinja_parse(buf_cstr(&b), b.len, &t), ST_INVALID, "in a row");
    }
    buf_clear(&b); /* chains within brackets within chains */
    buf_str(&b, "{{ ");
    for (int k = 0; k < 150; k++) {
        buf_char(&b, '(');
        for (int j = 0; j < 1500; j++) buf_str(&b, "1+");
    }
    buf_char(&b, '1');
    for (int k = 0; k < 150; k++) buf_str(&b, "+1)");
    buf_str(&b, "}}");
    jinja *t = NULL;
    CHECK_OK(jinja_parse(buf_cstr(&b), b.len, &t)); /* high on the right only: 1500 + 150 */
    jinja_free(t);
    buf_clear(&b);
    buf_str(&b, "{{ ");
    for (int k = 0; k < 150; k++) buf_char(&b, '(');
    buf_char(&b, '1');
    for (int k = 0; k < 150; k++) {
        for (int j = 0; j < 1500; j++) buf_str(&b, "+1");
        buf_char(&b, ')');
    }
    buf_str(&b, "}}");
    CHECK_ERR(jinja_parse(buf_cstr(&b), b.len, &t), ST_INVALID, "in a row");
    buf_free(&b);
}

TEST(building_strings_is_linear)
{
    const char *src = "{% set ns = namespace(s='', l=[]) %}{% for i in range(100000) %}{% set ns.s = ns.s ~ 'abcdefghij' %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.s|length }} {{ ns.l|length }}";
    buf b = { 0 };
    double t0 = clock_now();
    CHECK_OK(render(src, "{}", NULL, &b, NULL));
    CHECK_STR(buf_cstr(&b), "1000000 100000");
    CHECK(clock_now() - t0 < 5);
    buf_free(&b);
}

TEST(output_is_appended)
{
    buf b = { 0 };
    buf_str(&b, "kept ");
    CHECK_OK(render("a{{ x }}", "{\"x\":\"\\u00e9\"}", NULL, &b, NULL));
    CHECK_STR(buf_cstr(&b), "kept a\xC3\xA9");
    CHECK_ERR(render("b{{ x.y.z }}", "{\"x\":1}", NULL, &b, NULL), ST_INVALID, "'int object' has no attribute 'y'");
    CHECK_STR(buf_cstr(&b), "kept a\xC3\xA9");
    buf_free(&b);
}

TEST(content_format)
{
    static const struct { const char *src; bool parts; } cases[] = {
        { "{% for m in messages %}{{ m.content }}{% endfor %}", false },
        { "{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}", true },
        { "{% for m in messages %}{% for c in m['content'] %}{{ c.text }}{% endfor %}{% endfor %}", true },
        { "{% set rest = messages[1:] %}{% for m in rest %}{% for c in m['content']|list %}{% endfor %}{% endfor %}", true },
        { "{% set a = messages %}{% set b = a %}{% for m in b %}{% for c in m['content'] if c %}{% endfor %}{% endfor %}", true },
        { "{% for m in messages %}{% for c in m.parts %}{% endfor %}{% endfor %}", false },
        { "{% for m in other %}{% for c in m.content %}{% endfor %}{% endfor %}", false },
        { "{% macro r(content) %}{% for c in content %}{% endfor %}{% endmacro %}{% for m in messages %}{{ r(m.content) }}{% endfor %}", true },
        { "{% set messages = messages %}{% for m in messages %}{% if m.content is string %}{% else %}{% for c in m.content %}{% endfor %}{% endif %}{% endfor %}", true },
        { "{% set ns.x = messages %}{% for m in messages %}{% for c in m.content %}{% endfor %}{% endfor %}", false }, /* vLLM gives up here */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        jinja *t = NULL;
        REQUIRE_OK(jinja_parse(cases[i].src, strlen(cases[i].src), &t));
        if (jinja_wants_content_parts(t) != cases[i].parts) FAIL("%s: wanted %d", cases[i].src, cases[i].parts);
        jinja_free(t);
    }
}

static const char everything[] =
    "{% macro m(a, b=[1]) %}{{ a }}{{ b }}{{ caller() if caller }}{{ varargs }}{{ kwargs }}{% endmacro %}{% set ns = namespace(s='', l=[]) %}"
    "{% for x in messages if x.role %}{{ loop.index }}{{ loop.last }}{{ m(x.role, c=1) }}{% call m(x.content) %}body{{ x }}{% endcall %}"
    "{% set ns.s = ns.s ~ x.role %}{% set ns.l = ns.l + [x] %}{% else %}none{% endfor %}{% set blk %}{{ ns.s|upper }}{% endset %}{{ blk }}"
    "{{ messages|map(attribute='role')|map('upper')|unique|sort|join(', ') }}{{ messages|tojson(indent=2) }}{{ messages|selectattr('content')|list|length }}"
    "{{ '%s %5.2f' % ('a', 1.5) }}{{ '{:>10} {x!r}'.format('b', x=[1]) }}{{ 'a b c'.split() }}{{ messages[0].content[::-1] }}{{ {'a': 1, 'b': [2]}|dictsort }}"
    "{% for x in [[1, [2]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}{% filter replace('a', 'b') %}abc{% endfilter %}{% with q = 1 %}{{ q }}{% endwith %}"
    "{{ messages|groupby('role')|length }}{{ ns.nope.x if ns.nope }}{{ ('<'|e) ~ ('a' is string) }}{% block z %}{{ 1 }}{% endblock %}{{ self.z() }}{{ strftime_now('%Y')|length }}";
static const char everyone[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9llo\"},{\"role\":\"assistant\",\"content\":\"x\"}]}";

TEST(out_of_memory_is_a_status)
{
    jv *vars = NULL;
    REQUIRE_OK(jv_parse(everyone, strlen(everyone), &vars));
    int64_t live = mem_live();
    for (uint64_t n = 1;; n++) {
        jinja *t = NULL;
        buf out = { 0 };
        jinja_error why = JINJA_OK;
        mem_fail_at(n);
        status st = jinja_parse(everything, strlen(everything), &t);
        if (st == ST_OK) st = jinja_render(t, vars, NULL, 1, &out, &why);
        int hit = mem_failed();
        mem_fail_at(0);
        if (!hit && st != ST_OK) FAIL("%s", err_msg());
        jinja_free(t);
        buf_free(&out);
        CHECK_INT(mem_live(), live);
        if (!hit) break;
        CHECK_INT(st, ST_NOMEM);
    }
    jv_free(vars);
}

typedef struct shared { const jinja *t; const jv *vars; const char *want; int wrong; } shared;

static void *render_many(void *arg)
{
    shared *s = arg;
    for (int i = 0; i < 200; i++) {
        buf b = { 0 };
        if (jinja_render(s->t, s->vars, NULL, 1, &b, NULL) != ST_OK || strcmp(buf_cstr(&b), s->want)) s->wrong++;
        buf_free(&b);
    }
    return NULL;
}

TEST(threads_share_a_template)
{
    jinja *t = NULL;
    jv *vars = NULL;
    buf want = { 0 };
    REQUIRE_OK(jinja_parse(everything, strlen(everything), &t));
    REQUIRE_OK(jv_parse(everyone, strlen(everyone), &vars));
    REQUIRE_OK(jinja_render(t, vars, NULL, 1, &want, NULL));
    pthread_t id[4];
    shared s[4];
    for (int i = 0; i < 4; i++) {
        s[i] = (shared){ t, vars, buf_cstr(&want), 0 };
        REQUIRE(pthread_create(&id[i], NULL, render_many, &s[i]) == 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(id[i], NULL);
        CHECK_INT(s[i].wrong, 0);
    }
    buf_free(&want);
    jv_free(vars);
    jinja_free(t);
}

TEST_MAIN
