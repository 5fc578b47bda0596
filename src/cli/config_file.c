#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "cli/flags.h"

enum { MAX_FILE = 1 << 20 };

typedef struct reader { config_file *out; int line; } reader;

static status bad(const reader *r, const char *what) { return err_set(ST_INVALID, "line %d: %s", r->line, what); }

static void trim(const char **s, size_t *n)
{
    while (*n && isspace((unsigned char)**s)) (*s)++, (*n)--;
    while (*n && isspace((unsigned char)(*s)[*n - 1])) (*n)--;
}

/* Length of the line without its comment: "#" at the start or after a blank, outside quotes. */
static size_t without_comment(const char *s, size_t n)
{
    char quote = 0;
    for (size_t i = 0; i < n; i++) {
        if (quote) {
            if (s[i] == '\\' && quote == '"') i++;
            else if (s[i] == quote) quote = 0;
        } else if (s[i] == '"' || s[i] == '\'') {
            bool opens = i == 0 || strchr(" \t:,[{-", s[i - 1]) != NULL; /* the apostrophe of a word opens nothing */
            if (opens) quote = s[i];
        } else if (s[i] == '#' && (i == 0 || isspace((unsigned char)s[i - 1]))) {
            return i;
        }
    }
    return n;
}

static status add_value(config_entry *e, char *v)
{
    if (!v) return err_nomem();
    char **more = mem_realloc_array(e->values, (size_t)e->n_values + 1, sizeof *more);
    if (!more) {
        mem_free(v);
        return err_nomem();
    }
    e->values = more;
    e->values[e->n_values++] = v;
    return ST_OK;
}

/* A scalar without its quotes. */
static status unquote(const reader *r, const char *s, size_t n, char **out)
{
    buf b = {0};
    char q = n ? *s : 0;
    if (q == '"' || q == '\'') {
        if (n < 2 || s[n - 1] != q) return bad(r, "a quoted value must end with its quote");
        for (size_t i = 1; i + 1 < n; i++) {
            if (q == '\'' && s[i] == '\'' && s[i + 1] == '\'') i++;
            else if (q == '"' && s[i] == '\\' && i + 2 < n) {
                i++;
                buf_char(&b, s[i] == 'n' ? '\n' : s[i] == 't' ? '\t' : s[i]);
                continue;
            } else if (s[i] == q) {
                buf_free(&b);
                return bad(r, "text after a closing quote");
            }
            buf_char(&b, s[i]);
        }
    } else {
        if (n && strchr("&*!|>%@`", q)) return bad(r, "anchors, tags and block texts are not supported; quote the value if it is text");
        buf_append(&b, s, n);
    }
    if (!b.data) buf_append(&b, "", 0);
    *out = b.failed ? NULL : b.data ? buf_take(&b) : mem_strdup("");
    if (!*out) {
        buf_free(&b);
        return err_nomem();
    }
    return ST_OK;
}

/* "[a, 'b', c]" */
static status flow_list(const reader *r, const char *s, size_t n, config_entry *e)
{
    if (s[n - 1] != ']') return bad(r, "a list in brackets must end on its line");
    e->list = true;
    s++;
    n -= 2;
    while (n > 0) {
        size_t len = 0;
        char quote = 0;
        for (; len < n && (quote || s[len] != ','); len++) {
            if (quote && s[len] == quote) quote = 0;
            else if (!quote && (s[len] == '"' || s[len] == '\'')) quote = s[len];
        }
        const char *item = s;
        size_t item_len = len;
        char *v = NULL;
        trim(&item, &item_len);
        if (item_len == 0) return bad(r, "an empty element in a list");
        TRY(unquote(r, item, item_len, &v));
        TRY(add_value(e, v));
        size_t skip = len < n ? len + 1 : len;
        s += skip;
        n -= skip;
    }
    return ST_OK;
}

static bool is_null(const char *s, size_t n)
{
    return n == 0 || (n == 1 && *s == '~') || (n == 4 && (memcmp(s, "null", 4) == 0 || memcmp(s, "None", 4) == 0));
}

static status set_value(const reader *r, config_entry *e, const char *s, size_t n)
{
    char *v = NULL;
    if (is_null(s, n)) return ST_OK;
    if (*s == '[') return flow_list(r, s, n, e);
    if (*s == '{') return add_value(e, mem_strndup(s, n)); /* JSON; the flag's parser checks it */
    e->quoted = *s == '"' || *s == '\'';
    TRY(unquote(r, s, n, &v));
    return add_value(e, v);
}

static status new_entry(reader *r, const char *key, size_t n, config_entry **out)
{
    config_file *c = r->out;
    for (int i = 0; i < c->n; i++)
        if (strlen(c->entries[i].key) == n && memcmp(c->entries[i].key, key, n) == 0) return err_set(ST_INVALID, "line %d: '%.*s' was given on line %d already", r->line, (int)n, key, c->entries[i].line);
    config_entry *more = mem_realloc_array(c->entries, (size_t)c->n + 1, sizeof *more);
    if (!more) return err_nomem();
    c->entries = more;
    char *name = mem_strndup(key, n);
    if (!name) return err_nomem();
    c->entries[c->n] = (config_entry){ .key = name, .line = r->line };
    *out = &c->entries[c->n++];
    return ST_OK;
}

static status list_item(reader *r, config_entry *e, const char *s, size_t n)
{
    char *v = NULL;
    if (!e || (e->n_values && !e->list)) return bad(r, "a list item without a key above it");
    s++, n--;
    trim(&s, &n);
    if (n == 0) return bad(r, "an empty list item");
    if (*s == '{') v = mem_strndup(s, n);
    else TRY(unquote(r, s, n, &v));
    e->list = true;
    return add_value(e, v);
}

static status one_line(reader *r, const char *s, size_t n, config_entry **cur)
{
    size_t indent = 0;
    n = without_comment(s, n);
    while (indent < n && s[indent] == ' ') indent++;
    if (indent < n && s[indent] == '\t') return bad(r, "tabs cannot indent");
    s += indent;
    n -= indent;
    trim(&s, &n);
    if (n == 0 || (n == 3 && memcmp(s, "---", 3) == 0)) return ST_OK;
    if (*s == '-' && (n == 1 || s[1] == ' ')) return list_item(r, *cur, s, n);
    if (indent) return bad(r, "nested mappings are not supported; write the value as JSON in braces");
    size_t k = 0;
    while (k < n && !(s[k] == ':' && (k + 1 == n || s[k + 1] == ' '))) k++;
    if (k == n || k == 0) return bad(r, "expected 'flag: value'");
    const char *key = s, *value = s + k + 1;
    size_t key_len = k, value_len = n - k - 1;
    trim(&key, &key_len);
    trim(&value, &value_len);
    if (key_len >= 2 && (*key == '"' || *key == '\'')) key++, key_len -= 2;
    while (key_len > 2 && key[0] == '-') key++, key_len--;
    TRY(new_entry(r, key, key_len, cur));
    return set_value(r, *cur, value, value_len);
}

status config_file_parse(const char *text, size_t n, config_file *out)
{
    config_file c = {0};
    reader r = { .out = &c };
    config_entry *cur = NULL;
    status st = memchr(text, 0, n) ? err_set(ST_INVALID, "the file holds NUL bytes") : ST_OK;
    while (n > 0 && st == ST_OK) {
        const char *nl = memchr(text, '\n', n);
        size_t len = nl ? (size_t)(nl - text) : n;
        r.line++;
        st = one_line(&r, text, len, &cur);
        size_t skip = nl ? len + 1 : len;
        text += skip;
        n -= skip;
    }
    if (st != ST_OK) {
        config_file_free(&c);
        return st;
    }
    *out = c;
    return ST_OK;
}

status config_file_read(const char *path, config_file *out)
{
    size_t n = strlen(path);
    bool yaml = (n > 5 && strcmp(path + n - 5, ".yaml") == 0) || (n > 4 && strcmp(path + n - 4, ".yml") == 0);
    if (!yaml) return err_set(ST_INVALID, "The config file must be of a yaml/yml type. %s is not", path);
    FILE *f = fopen(path, "rb");
    if (!f) return err_errno("cannot open the config file %s", path);
    buf b = {0};
    char chunk[4096];
    size_t got;
    while ((got = fread(chunk, 1, sizeof chunk, f)) > 0 && b.len <= MAX_FILE) buf_append(&b, chunk, got);
    status st = ferror(f) ? err_errno("cannot read %s", path) : buf_status(&b);
    fclose(f);
    if (st == ST_OK && b.len > MAX_FILE) st = err_set(ST_LIMIT, "%s is larger than %d bytes", path, MAX_FILE);
    if (st == ST_OK) {
        st = config_file_parse(buf_cstr(&b), b.len, out);
        if (st != ST_OK) st = err_wrap(st, "%s", path);
    }
    buf_free(&b);
    return st;
}

void config_file_free(config_file *c)
{
    for (int i = 0; i < c->n; i++) {
        for (int k = 0; k < c->entries[i].n_values; k++) mem_free(c->entries[i].values[k]);
        mem_free(c->entries[i].values);
        mem_free(c->entries[i].key);
    }
    mem_free(c->entries);
    *c = (config_file){0};
}
