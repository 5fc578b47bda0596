#include "cli/flags.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/log.h"
#include "base/mem.h"

typedef struct flag_val {
    bool given, on;
    const char *text;
    int64_t i;
    double d;
    jv *json;
    const char **list; int n_list;
} flag_val;

struct flags {
    const flag_set *set;
    arena mem;
    flag_val *vals;
    const char *help;
    bool version, positional_given;
};

/* ---- names ---- */
static bool same_name(const char *a, const char *b, size_t n)
{
    size_t i = 0;
    for (; i < n && a[i]; i++) {
        char x = a[i] == '_' ? '-' : a[i], y = b[i] == '_' ? '-' : b[i];
        if (x != y) return false;
    }
    return i == n && a[i] == 0;
}

static int find_long(const flag_set *set, const char *name, size_t n)
{
    for (int i = 0; i < set->n_defs; i++) {
        const flag_def *d = &set->defs[i];
        if (same_name(d->name, name, n) || (d->alias && d->alias[0] != '-' && same_name(d->alias, name, n))) return i;
    }
    return -1;
}

static int must_find(const flags *f, const char *name)
{
    int i = find_long(f->set, name, strlen(name));
    if (i < 0) log_error("no flag called %s is in the table", name);
    return i;
}

/* Edit distance, for "did you mean". */
static size_t distance(const char *a, size_t na, const char *b)
{
    enum { MAX = 64 };
    size_t nb = strlen(b), row[MAX + 1];
    if (na > MAX || nb > MAX) return MAX;
    for (size_t j = 0; j <= nb; j++) row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diag = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t up = row[j], cost = diag + (a[i - 1] != b[j - 1] && !(a[i - 1] == '_' && b[j - 1] == '-'));
            size_t best = cost < up + 1 ? cost : up + 1;
            row[j] = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
            diag = up;
        }
    }
    return row[nb];
}

static status unknown(const flag_set *set, const char *name, size_t n)
{
    const char *best = NULL;
    size_t least = n / 3 + 2;
    for (int i = 0; i < set->n_defs; i++) {
        size_t d = distance(name, n, set->defs[i].name);
        if (d < least) least = d, best = set->defs[i].name;
    }
    if (best) return err_set(ST_INVALID, "unrecognized arguments: --%.*s (did you mean --%s?)", (int)n, name, best);
    return err_set(ST_INVALID, "unrecognized arguments: --%.*s", (int)n, name);
}

/* ---- values ---- */
status flags_parse_int(const char *text, int64_t *out)
{
    static const char low[] = "kmgt", up[] = "KMGT";
    char *end;
    errno = 0;
    double d = strtod(text, &end);
    if (end == text || errno || strpbrk(text, "xXnNiI")) return err_set(ST_INVALID, "'%s' is not an integer", text);
    bool whole = !memchr(text, '.', (size_t)(end - text)) && !memchr(text, 'e', (size_t)(end - text));
    if (!*end) {
        long long v = strtoll(text, &end, 10);
        if (errno || *end) return err_set(ST_INVALID, "'%s' is not an integer", text);
        *out = v;
        return ST_OK;
    }
    const char *at = strchr(low, *end);
    double scale = at ? pow(1000, (double)(at - low + 1)) : 0;
    if (!at) {
        at = strchr(up, *end);
        if (at && !whole) return err_set(ST_INVALID, "'%s': decimal values go with k, m, g, t; K, M, G, T are powers of 1024 of integers", text);
        scale = at ? pow(1024, (double)(at - up + 1)) : 0;
    }
    if (!at || end[1]) return err_set(ST_INVALID, "'%s' is not an integer (suffixes are k m g t and K M G T)", text);
    d = round(d * scale);
    if (!(fabs(d) < 9.2e18)) return err_set(ST_INVALID, "'%s' is too large", text);
    *out = (int64_t)d;
    return ST_OK;
}

static bool in_choices(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (const char *p = choices; p && *p;) {
        size_t len = strcspn(p, "|");
        if (len == n && memcmp(p, text, n) == 0) return true;
        p += len;
        if (*p) p++;
    }
    return false;
}

static status bad_choice(const flag_def *d, const char *text)
{
    buf list = {0};
    for (const char *p = d->choices; *p;) {
        size_t len = strcspn(p, "|");
        buf_printf(&list, list.len ? ", '%.*s'" : "'%.*s'", (int)len, p);
        p += len;
        if (*p) p++;
    }
    status st = err_set(ST_INVALID, "argument --%s: invalid choice: '%s' (choose from %s)", d->name, text, buf_cstr(&list));
    buf_free(&list);
    return st;
}

static status not_supported(const flag_def *d, const char *text)
{
    return err_set(ST_UNSUPPORTED, "--%s%s%s is not supported yet", d->name, text ? " " : "", text ? text : "");
}

/* Whether a flag we cannot honour asks for nothing but its default. */
static bool is_default(const flag_def *d, const char *text)
{
    int64_t a, b;
    if (!d->def) return strcmp(text, "None") == 0 || strcmp(text, "none") == 0;
    if (strcmp(d->def, text) == 0) return true;
    if (d->kind == FLAG_INT && flags_parse_int(d->def, &a) == ST_OK && flags_parse_int(text, &b) == ST_OK) return a == b;
    return d->kind == FLAG_NUM && strtod(d->def, NULL) == strtod(text, NULL);
}

static status check_support(const flag_def *d, const char *text)
{
    if (d->support == FLAG_NOT_YET && !is_default(d, text)) return not_supported(d, text);
    if (d->ok && !in_choices(d->ok, text)) return not_supported(d, text);
    if (d->support == FLAG_IGNORED) log_warn("--%s has no effect here", d->name);
    return ST_OK;
}

static status set_scalar(flags *f, int i, const char *text)
{
    const flag_def *d = &f->set->defs[i];
    flag_val *v = &f->vals[i], x = { .given = true };
    char *end;
    bool word = d->choices && in_choices(d->choices, text);
    if (d->kind == FLAG_INT && word) {
        x.i = -1;
    } else if (d->kind == FLAG_INT) {
        status st = flags_parse_int(text, &x.i);
        if (st != ST_OK) return err_wrap(st, "argument --%s", d->name);
    } else if (d->kind == FLAG_NUM) {
        x.d = strtod(text, &end);
        if (!*text || *end || !isfinite(x.d)) return err_set(ST_INVALID, "argument --%s: '%s' is not a number", d->name, text);
    } else if (d->choices && !word && !(d->support == FLAG_NOT_YET && is_default(d, text))) {
        return bad_choice(d, text);
    }
    TRY(check_support(d, text));
    x.text = arena_strdup(&f->mem, text);
    if (!x.text) return err_nomem();
    *v = x;
    return ST_OK;
}

static status set_bool(flags *f, int i, bool on)
{
    const flag_def *d = &f->set->defs[i];
    bool def_on = d->def && strcmp(d->def, "on") == 0;
    if (d->support == FLAG_NOT_YET && on != def_on) {
        if (on) return not_supported(d, NULL);
        return err_set(ST_UNSUPPORTED, "--no-%s is not supported yet", d->name);
    }
    if (d->support == FLAG_IGNORED && on != def_on) log_warn("--%s%s has no effect here", on ? "" : "no-", d->name);
    f->vals[i] = (flag_val){ .given = true, .on = on };
    return ST_OK;
}

static status bool_of_text(flags *f, int i, const char *text)
{
    if (in_choices("true|True|1|on|yes", text)) return set_bool(f, i, true);
    if (in_choices("false|False|0|off|no", text)) return set_bool(f, i, false);
    return err_set(ST_INVALID, "argument --%s: expected true or false, got '%s'", f->set->defs[i].name, text);
}

/* ---- JSON ---- */
static status check_json_support(const flag_def *d, const jv *v)
{
    if (d->support == FLAG_NOT_YET && jv_len(v) > 0) return not_supported(d, NULL);
    if (d->support == FLAG_IGNORED) log_warn("--%s has no effect here", d->name);
    return ST_OK;
}

static status set_json(flags *f, int i, const char *text)
{
    const flag_def *d = &f->set->defs[i];
    jv *v = NULL;
    status st = jv_parse(text, strlen(text), &v);
    if (st != ST_OK) return err_wrap(st, "argument --%s: value is not JSON", d->name);
    if (!jv_is(v, JV_OBJ) && !jv_is(v, JV_NULL)) {
        jv_free(v);
        return err_set(ST_INVALID, "argument --%s: expected a JSON object", d->name);
    }
    st = check_json_support(d, v);
    if (st != ST_OK) {
        jv_free(v);
        return st;
    }
    jv_free(f->vals[i].json);
    f->vals[i] = (flag_val){ .given = true, .json = v };
    return ST_OK;
}

/* A dotted value is JSON where it parses as such, else a string. */
static jv *piece(const char *text, size_t n)
{
    jv *v = NULL;
    status st = jv_parse(text, n, &v);
    if (st == ST_OK || st == ST_NOMEM) return v;
    return jv_new_str(text, n);
}

static status append_pieces(jv *list, const char *text)
{
    if (*text == '[') {
        jv *v = piece(text, strlen(text));
        status st = v ? ST_OK : err_nomem();
        for (size_t i = 0; st == ST_OK && i < jv_len(v); i++) st = jv_push(list, jv_ref(jv_at(v, i)));
        jv_free(v);
        return st;
    }
    for (const char *p = text;;) {
        size_t n = strcspn(p, ",");
        TRY(jv_push(list, piece(p, n)));
        if (!p[n]) return ST_OK;
        p += n + 1;
    }
}

/* Sets `path` ("a.b.c", a trailing "+" appends to a list) below the object. */
static status set_path(jv *obj, const char *path, size_t len, const char *text)
{
    for (;;) {
        size_t n = 0;
        while (n < len && path[n] != '.') n++;
        bool last = n == len, append = last && n > 0 && path[n - 1] == '+';
        char key[128];
        if (append) n--;
        if (n == 0 || n >= sizeof key) return err_set(ST_INVALID, "empty or overlong key in a dotted flag");
        memcpy(key, path, n);
        key[n] = 0;
        if (last && !append) return jv_set(obj, key, piece(text, strlen(text)));
        const jv *sub = jv_get(obj, key);
        if (!jv_is(sub, append ? JV_ARR : JV_OBJ)) {
            TRY(jv_set(obj, key, append ? jv_new_arr() : jv_new_obj()));
            sub = jv_get(obj, key);
        }
        if (append) return append_pieces((jv *)(uintptr_t)sub, text);
        obj = (jv *)(uintptr_t)sub;
        path += n + 1;
        len -= n + 1;
    }
}

static status set_dotted(flags *f, int i, const char *path, size_t len, const char *text)
{
    const flag_def *d = &f->set->defs[i];
    flag_val *v = &f->vals[i];
    if (d->kind != FLAG_JSON) return err_set(ST_INVALID, "--%s takes no dotted keys", d->name);
    if (!v->json) v->json = jv_new_obj();
    if (!v->json) return err_nomem();
    v->given = true;
    status st = set_path(v->json, path, len, text);
    if (st != ST_OK) return err_wrap(st, "argument --%s", d->name);
    return check_json_support(d, v->json);
}

/* ---- lists ---- */
static status set_list(flags *f, int i, char *const *items, int n)
{
    const flag_def *d = &f->set->defs[i];
    const char **list = arena_calloc(&f->mem, (size_t)n + 1, sizeof *list);
    if (!list) return err_nomem();
    jv *json = NULL;
    int count = 0;
    status st = ST_OK;
    if (n == 1 && items[0][0] == '[') {
        st = jv_parse(items[0], strlen(items[0]), &json);
        if (st == ST_NOMEM) return st;
        st = ST_OK; /* a word that starts with a bracket, otherwise */
    }
    if (json) {
        list = arena_calloc(&f->mem, jv_len(json) + 1, sizeof *list);
        for (size_t k = 0; list && k < jv_len(json); k++) {
            const char *s = jv_str(jv_at(json, k), NULL);
            if (!s) st = err_set(ST_INVALID, "argument --%s: expected a list of strings", d->name);
            else if (!(list[count++] = arena_strdup(&f->mem, s))) st = err_nomem();
            if (st != ST_OK) break;
        }
        if (!list) st = err_nomem();
    } else {
        for (int k = 0; k < n && st == ST_OK; k++)
            if (!(list[count++] = arena_strdup(&f->mem, items[k]))) st = err_nomem();
    }
    jv_free(json);
    if (st == ST_OK && count > 0 && d->support == FLAG_NOT_YET) st = not_supported(d, list[0]);
    if (st != ST_OK) return st;
    if (d->support == FLAG_IGNORED) log_warn("--%s has no effect here", d->name);
    f->vals[i] = (flag_val){ .given = true, .list = list, .n_list = count };
    return ST_OK;
}

/* ---- the command line ---- */
static bool is_value(const char *arg)
{
    if (arg[0] != '-' || !arg[1]) return true;
    char *end;
    strtod(arg, &end);
    return *end == 0; /* a negative number */
}

typedef struct args { int argc; char **argv; int at; } args;

/* The value of flag i: after "=", or the next argument(s). */
static status take_value(flags *f, int i, const char *inline_value, args *a)
{
    const flag_def *d = &f->set->defs[i];
    if (d->kind == FLAG_BOOL) return inline_value ? bool_of_text(f, i, inline_value) : set_bool(f, i, true);
    if (d->kind == FLAG_LIST) {
        char *one = (char *)(uintptr_t)inline_value;
        if (inline_value) return set_list(f, i, &one, 1);
        int from = a->at;
        while (a->at < a->argc && is_value(a->argv[a->at])) a->at++;
        if (from == a->at) return err_set(ST_INVALID, "argument --%s: expected at least one argument", d->name);
        return set_list(f, i, a->argv + from, a->at - from);
    }
    if (!inline_value) {
        if (a->at >= a->argc || !is_value(a->argv[a->at])) return err_set(ST_INVALID, "argument --%s: expected one argument", d->name);
        inline_value = a->argv[a->at++];
    }
    return d->kind == FLAG_JSON ? set_json(f, i, inline_value) : set_scalar(f, i, inline_value);
}

static status long_flag(flags *f, const char *arg, args *a)
{
    const char *name = arg + 2, *eq = strchr(name, '=');
    size_t n = eq ? (size_t)(eq - name) : strlen(name);
    int i = find_long(f->set, name, n);
    if (i >= 0) return take_value(f, i, eq ? eq + 1 : NULL, a);
    const char *dot = memchr(name, '.', n);
    if (dot && (i = find_long(f->set, name, (size_t)(dot - name))) >= 0) {
        const char *value = eq ? eq + 1 : NULL;
        if (!value) {
            if (a->at >= a->argc) return err_set(ST_INVALID, "argument --%.*s: expected one argument", (int)n, name);
            value = a->argv[a->at++];
        }
        return set_dotted(f, i, dot + 1, n - (size_t)(dot + 1 - name), value);
    }
    if (n > 3 && (strncmp(name, "no-", 3) == 0 || strncmp(name, "no_", 3) == 0)) {
        i = find_long(f->set, name + 3, n - 3);
        if (i >= 0 && f->set->defs[i].kind == FLAG_BOOL && !eq) return set_bool(f, i, false);
    }
    return unknown(f->set, name, n);
}

static status short_flag(flags *f, const char *arg, args *a)
{
    for (int i = 0; i < f->set->n_defs; i++) {
        const char *alias = f->set->defs[i].alias;
        size_t n = alias ? strlen(alias) : 0;
        if (!alias || alias[0] != '-' || strncmp(arg, alias, n) != 0) continue;
        if (!arg[n]) return take_value(f, i, NULL, a);
        if (arg[n] == '=') return take_value(f, i, arg + n + 1, a);
        if (strcmp(alias, "-O") == 0) return take_value(f, i, arg + n, a);
        if (arg[n] == '.') {
            const char *eq = strchr(arg, '='), *path = arg + n + 1, *value = eq ? eq + 1 : a->at < a->argc ? a->argv[a->at++] : NULL;
            if (!value) return err_set(ST_INVALID, "argument %s: expected one argument", arg);
            return set_dotted(f, i, path, eq ? (size_t)(eq - path) : strlen(path), value);
        }
    }
    return err_set(ST_INVALID, "unrecognized arguments: %s", arg);
}

static status positional(flags *f, const char *arg)
{
    if (!f->set->positional) return err_set(ST_INVALID, "unrecognized arguments: %s", arg);
    if (f->positional_given) return err_set(ST_INVALID, "unrecognized arguments: %s (one %s is expected)", arg, f->set->positional);
    f->positional_given = true;
    int i = must_find(f, f->set->positional_flag);
    return i < 0 ? ST_INTERNAL : set_scalar(f, i, arg);
}

static status parse_args(flags *f, args *a)
{
    bool only_positional = false;
    const char *tag = NULL;
    while (a->at < a->argc) {
        const char *arg = a->argv[a->at++];
        if (only_positional || is_value(arg)) {
            /* applied last, for it overrides the flag wherever that stands */
            if (tag || !f->set->positional) TRY(positional(f, arg));
            tag = arg;
        }
        else if (strcmp(arg, "--") == 0) only_positional = true;
        else if (strcmp(arg, "-h") == 0 || strcmp(arg, "--help") == 0) f->help = "";
        else if (strncmp(arg, "--help=", 7) == 0) f->help = arg + 7;
        else if (strcmp(arg, "-v") == 0 || strcmp(arg, "--version") == 0) f->version = true;
        else if (f->set->config && strcmp(arg, "--config") == 0) a->at++;
        else if (f->set->config && strncmp(arg, "--config=", 9) == 0) continue;
        else if (arg[1] == '-') TRY(long_flag(f, arg, a));
        else TRY(short_flag(f, arg, a));
    }
    return tag ? positional(f, tag) : ST_OK;
}

/* ---- the file ---- */
static status apply_entry(flags *f, const config_entry *e)
{
    const char *key = e->key;
    if (f->set->positional_flag && (strcmp(key, "model_tag") == 0 || strcmp(key, "model-tag") == 0)) key = f->set->positional_flag;
    int i = find_long(f->set, key, strlen(key));
    if (i < 0) return unknown(f->set, key, strlen(key));
    const flag_def *d = &f->set->defs[i];
    if (e->n_values == 0 && !e->list) return ST_OK; /* null: as if it were not there */
    if (d->kind == FLAG_LIST) return set_list(f, i, e->values, e->n_values);
    if (e->list) return err_set(ST_INVALID, "--%s takes one value, not a list", d->name);
    if (d->kind == FLAG_BOOL) return bool_of_text(f, i, e->values[0]);
    return d->kind == FLAG_JSON ? set_json(f, i, e->values[0]) : set_scalar(f, i, e->values[0]);
}

static status apply_file(flags *f, const char *path)
{
    config_file c = {0};
    TRY(config_file_read(path, &c));
    status st = ST_OK;
    for (int i = 0; i < c.n && st == ST_OK; i++) {
        st = apply_entry(f, &c.entries[i]);
        if (st != ST_OK) st = err_wrap(st, "%s line %d", path, c.entries[i].line);
    }
    config_file_free(&c);
    return st;
}

static const char *config_path(int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--config") == 0) return i + 1 < argc ? argv[i + 1] : "";
        if (strncmp(argv[i], "--config=", 9) == 0) return argv[i] + 9;
    }
    return NULL;
}

status flags_parse(const flag_set *set, int argc, char **argv, flags **out)
{
    flags *f = mem_calloc(1, sizeof *f);
    if (!f) return err_nomem();
    f->set = set;
    status st = ST_OK;
    f->vals = mem_calloc((size_t)set->n_defs + 1, sizeof *f->vals);
    if (!f->vals) {
        st = err_nomem();
        goto out;
    }
    const char *path = set->config ? config_path(argc, argv) : NULL;
    if (path && !*path) st = err_set(ST_INVALID, "argument --config: expected one argument");
    else if (path) st = apply_file(f, path);
    args a = { .argc = argc, .argv = argv };
    if (st == ST_OK) st = parse_args(f, &a);
out:
    if (st != ST_OK) {
        flags_free(f);
        return st;
    }
    *out = f;
    return ST_OK;
}

void flags_free(flags *f)
{
    if (!f) return;
    for (int i = 0; f->vals && i < f->set->n_defs; i++) jv_free(f->vals[i].json);
    mem_free(f->vals);
    arena_free(&f->mem);
    mem_free(f);
}

/* ---- asking ---- */
const char *flags_help(const flags *f) { return f->help; }
bool flags_version(const flags *f) { return f->version; }

static const flag_val *val(const flags *f, const char *name, const flag_def **d)
{
    static const flag_val none;
    int i = must_find(f, name);
    *d = i < 0 ? NULL : &f->set->defs[i];
    return i < 0 ? &none : &f->vals[i];
}

bool flags_given(const flags *f, const char *name)
{
    const flag_def *d;
    return val(f, name, &d)->given;
}

const char *flags_str(const flags *f, const char *name)
{
    const flag_def *d;
    const flag_val *v = val(f, name, &d);
    return v->given ? v->text : d ? d->def : NULL;
}

int64_t flags_i64(const flags *f, const char *name, int64_t def)
{
    const flag_def *d;
    const flag_val *v = val(f, name, &d);
    return v->given ? v->i : def;
}

double flags_f64(const flags *f, const char *name, double def)
{
    const flag_def *d;
    const flag_val *v = val(f, name, &d);
    return v->given ? v->d : def;
}

bool flags_bool(const flags *f, const char *name, bool def)
{
    const flag_def *d;
    const flag_val *v = val(f, name, &d);
    return v->given ? v->on : def;
}

const jv *flags_json(const flags *f, const char *name)
{
    const flag_def *d;
    return val(f, name, &d)->json;
}

const char *const *flags_list(const flags *f, const char *name, int *n)
{
    static const char *const none[] = { NULL };
    const flag_def *d;
    const flag_val *v = val(f, name, &d);
    if (n) *n = v->n_list;
    return v->list ? v->list : none;
}

void flags_repr(const flags *f, buf *out)
{
    bool first = true;
    buf_char(out, '{');
    for (int i = 0; i < f->set->n_defs; i++) {
        const flag_def *d = &f->set->defs[i];
        const flag_val *v = &f->vals[i];
        bool secret = strcmp(d->name, "api-key") == 0 || strcmp(d->name, "hf-token") == 0;
        if (!v->given) continue;
        buf_printf(out, first ? "'%s': " : ", '%s': ", d->name);
        first = false;
        if (secret) buf_str(out, "'***'");
        else if (d->kind == FLAG_BOOL) buf_str(out, v->on ? "True" : "False");
        else if (d->kind == FLAG_INT || d->kind == FLAG_NUM) buf_str(out, v->text);
        else if (v->text) buf_printf(out, "'%s'", v->text);
        else if (v->json) {
            jw w = jw_to(out);
            jw_value(&w, v->json);
        } else {
            buf_char(out, '[');
            for (int k = 0; k < v->n_list; k++) buf_printf(out, k ? ", '%s'" : "'%s'", v->list[k]);
            buf_char(out, ']');
        }
    }
    buf_char(out, '}');
}
