/* The template engine against jinja2's output on real chat templates (../shared/realdata/templates). */
#include "tests/test.h"

#include <dirent.h>
#include <stdint.h>
#include <time.h>

#include "base/buf.h"
#include "base/json.h"
#include "base/mem.h"
#include "text/jinja.h"

static char *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    buf b = { 0 };
    char tmp[65536];
    size_t k;
    while ((k = fread(tmp, 1, sizeof tmp, f)) > 0) buf_append(&b, tmp, k);
    fclose(f);
    *n = b.len;
    return buf_take(&b);
}

static double frozen_now(void)
{
    struct tm tm = { .tm_year = 126, .tm_mon = 0, .tm_mday = 15, .tm_hour = 12, .tm_min = 34, .tm_sec = 56, .tm_isdst = -1 };
    return (double)mktime(&tm);
}

static const char *const why_names[] = { "", "TemplateError", "UndefinedError", "TypeError", "ValueError", "SecurityError", "other", "limit" };

/* What this version of transformers does to messages before the template sees them. */
static jv *alias_reasoning(const jv *msg)
{
    static const char *const fields[] = { "reasoning_content", "thinking", "reasoning" };
    const jv *found = NULL;
    for (int i = 0; i < 3 && !found; i++) {
        const jv *v = jv_get(msg, fields[i]);
        if (v && !jv_is(v, JV_NULL)) found = v;
    }
    if (!found) return jv_copy(msg);
    jv *o = jv_new_obj();
    status st = jv_set(o, "thinking", jv_copy(found));
    for (jv_iter it = jv_begin(msg); st == ST_OK && jv_next(&it);) st = jv_set(o, it.key, jv_copy(it.val));
    if (st == ST_OK) st = jv_set(o, "reasoning_content", jv_copy(found));
    if (st != ST_OK) FAIL("%s", err_msg());
    return o;
}

static jv *make_vars(const jv *conv, const jv *golden)
{
    jv *vars = jv_new_obj(), *msgs = jv_new_arr();
    status st = ST_OK;
    for (size_t i = 0; st == ST_OK && i < jv_len(jv_get(conv, "messages")); i++) st = jv_push(msgs, alias_reasoning(jv_at(jv_get(conv, "messages"), i)));
    if (st == ST_OK) st = jv_set(vars, "messages", msgs);
    static const char *const defaults[] = { "tools", "documents" };
    for (int i = 0; st == ST_OK && i < 2; i++) st = jv_set(vars, defaults[i], jv_new_null());
    for (jv_iter it = jv_begin(conv); st == ST_OK && jv_next(&it);)
        if (strcmp(it.key, "messages")) st = jv_set(vars, it.key, jv_copy(it.val));
    if (st == ST_OK) st = jv_set(vars, "bos_token", jv_copy(jv_get(golden, "bos_token")));
    if (st == ST_OK) st = jv_set(vars, "eos_token", jv_copy(jv_get(golden, "eos_token")));
    if (st != ST_OK) FAIL("%s", err_msg());
    return vars;
}

static int n_cases, n_wrong;

static void check_case(const char *name, const jinja *t, const jv *vars, const jv *c, const char *what)
{
    buf out = { 0 };
    jinja_error why = JINJA_OK;
    err_clear();
    status st = jinja_render(t, vars, NULL, frozen_now(), &out, &why);
    const char *want = jv_get_str(c, "text", NULL), *err = jv_get_str(c, "error", NULL);
    bool ok = want ? st == ST_OK && strlen(want) == out.len && !strcmp(want, buf_cstr(&out))
                   : st != ST_OK && err && !strcmp(err, why_names[why]) && !strcmp(jv_get_str(c, "message", ""), err_msg());
    n_cases++;
    if (!ok) {
        n_wrong++;
        size_t at = 0;
        while (want && st == ST_OK && want[at] && want[at] == out.data[at]) at++;
        FAIL("%s %s: got %s %s%.60s\n      wanted %s %s%.60s (differs at %zu)", name, what, st == ST_OK ? "text" : why_names[why], st == ST_OK ? "" : err_msg(),
             st == ST_OK ? buf_cstr(&out) + at : "", want ? "text" : err, want ? "" : jv_get_str(c, "message", ""), want ? want + at : "", at);
    }
    buf_free(&out);
}

static void check_template(const char *dir, const char *file, const jv *convs)
{
    char path[4400];
    jv *golden = NULL;
    jinja *t = NULL;
    size_t n = 0;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    REQUIRE_OK(jv_parse_file(path, (size_t)64 << 20, &golden));
    const char *name = jv_get_str(golden, "template", "");
    snprintf(path, sizeof path, "%s/jinja/%s.jinja", dir, name);
    char *text = slurp(path, &n);
    if (!text) {
        FAIL("%s is missing", path);
    } else if (jinja_parse(text, n, &t) != ST_OK) {
        FAIL("%s: %s", name, err_msg());
        n_wrong++;
    } else {
        for (size_t i = 0; i < jv_len(jv_get(golden, "cases")); i++) {
            const jv *c = jv_at(jv_get(golden, "cases"), i);
            const jv *conv = jv_get(convs, jv_get_str(c, "case", ""));
            if (!conv) continue;
            jv *vars = make_vars(conv, golden);
            check_case(name, t, vars, c, jv_get_str(c, "case", ""));
            jv_free(vars);
        }
    }
    jinja_free(t);
    mem_free(text);
    jv_free(golden);
}

TEST(real_templates)
{
    const char *p = test_shared("realdata/templates/conversations.json");
    if (!p) SKIP("no ../shared/realdata");
    char dir[4096];
    snprintf(dir, sizeof dir, "%s", p);
    *strrchr(dir, '/') = 0;
    jv *convs = NULL;
    REQUIRE_OK(jv_parse_file(p, (size_t)64 << 20, &convs));
    DIR *d = opendir(dir);
    REQUIRE(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (strstr(e->d_name, ".golden.json")) check_template(dir, e->d_name, convs);
    closedir(d);
    jv_free(convs);
    printf("  %d of %d cases equal\n", n_cases - n_wrong, n_cases);
}

TEST(end_to_end_pairs)
{
    const char *p = test_shared("realdata/templates/hfjs_e2e.json");
    if (!p) SKIP("no ../shared/realdata");
    jv *all = NULL;
    int n = 0, wrong = 0;
    REQUIRE_OK(jv_parse_file(p, (size_t)64 << 20, &all));
    for (jv_iter g = jv_begin(all); jv_next(&g);)
        for (jv_iter it = jv_begin(g.val); jv_next(&it); n++) {
            const jv *src = jv_get(it.val, "chat_template");
            /* What transformers.js alone renders so: it prints an object as JSON, and one was made on another day. */
            if (strstr(it.key, "Hammer2.1") || strstr(it.key, "SmolLM3")) continue;
            jinja *t = NULL;
            buf out = { 0 };
            status st = jinja_parse(jv_str(src, ""), jv_len(src), &t);
            if (st == ST_OK) st = jinja_render(t, jv_get(it.val, "data"), NULL, frozen_now(), &out, NULL);
            const char *want = jv_get_str(it.val, "target", "");
            if (st != ST_OK || strcmp(buf_cstr(&out), want)) {
                wrong++;
                size_t at = 0;
                while (want[at] && want[at] == buf_cstr(&out)[at]) at++;
                FAIL("%s: %s got ..%.60s wanted ..%.60s", it.key, st == ST_OK ? "" : err_msg(), st == ST_OK ? buf_cstr(&out) + at : "", want + at);
            }
            jinja_free(t);
            buf_free(&out);
        }
    printf("  %d of %d pairs equal\n", n - wrong, n);
    jv_free(all);
}

TEST_MAIN
