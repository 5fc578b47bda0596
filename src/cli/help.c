/* Help and documentation from the table of flags. */
#include <string.h>
#include <strings.h>

#include "cli/flags.h"

enum { COLUMN = 30, WIDTH = 100 };

static const char *placeholder(const flag_def *d)
{
    switch (d->kind) {
    case FLAG_BOOL: return "";
    case FLAG_STR: return " VALUE";
    case FLAG_INT: return " N";
    case FLAG_NUM: return " X";
    case FLAG_JSON: return " JSON";
    case FLAG_LIST: return " A [B ...]";
    }
    return "";
}

static void wrap(buf *out, const char *text)
{
    size_t col = COLUMN;
    while (*text) {
        size_t n = strcspn(text, " ");
        if (col + n > WIDTH && col > COLUMN) {
            buf_printf(out, "\n%*s", COLUMN, "");
            col = COLUMN;
        }
        buf_append(out, text, n);
        col += n;
        text += n;
        if (*text) buf_char(out, *text++), col++;
    }
    buf_char(out, '\n');
}

static void note(const flag_def *d, buf *out)
{
    if (d->choices) {
        buf_str(out, d->kind == FLAG_INT ? " Also: " : " One of: ");
        for (const char *p = d->choices; *p; p++) buf_char(out, *p == '|' ? ' ' : *p);
        buf_char(out, '.');
    }
    if (d->ok) {
        buf_str(out, " Supported so far: ");
        for (const char *p = d->ok; *p; p++) buf_char(out, *p == '|' ? ' ' : *p);
        buf_char(out, '.');
    }
    if (d->support == FLAG_IGNORED) buf_str(out, " (accepted, no effect here)");
    if (d->support == FLAG_NOT_YET) buf_str(out, " (not supported yet)");
    if (d->def && *d->def) buf_printf(out, " (default: %s)", d->def);
}

static void one_flag(const flag_def *d, buf *out)
{
    buf head = {0}, text = {0};
    buf_printf(&head, "  --%s", d->name);
    if (d->kind == FLAG_BOOL) buf_printf(&head, ", --no-%s", d->name);
    if (d->alias) buf_printf(&head, d->alias[0] == '-' ? ", %s" : ", --%s", d->alias);
    buf_str(&head, placeholder(d));
    buf_str(out, buf_cstr(&head));
    if (head.len + 2 > COLUMN) buf_printf(out, "\n%*s", COLUMN, "");
    else buf_printf(out, "%*s", (int)(COLUMN - head.len), "");
    buf_str(&text, d->help ? d->help : "");
    note(d, &text);
    wrap(out, buf_cstr(&text));
    buf_free(&head);
    buf_free(&text);
}

static bool first_of_group(const flag_set *s, int i)
{
    for (int k = 0; k < i; k++)
        if (strcmp(s->defs[k].group, s->defs[i].group) == 0) return false;
    return true;
}

static void one_group(const flag_set *s, const char *group, buf *out)
{
    buf_printf(out, "%s:\n", group);
    for (int i = 0; i < s->n_defs; i++)
        if (strcmp(s->defs[i].group, group) == 0) one_flag(&s->defs[i], out);
    buf_char(out, '\n');
}

static void markdown(const flag_set *s, buf *out)
{
    static const char *const marks[] = { "yes", "no effect", "not yet" };
    for (int i = 0; i < s->n_defs; i++) {
        if (!first_of_group(s, i)) continue;
        buf_printf(out, "\n### %s\n\n| flag | default | supported | meaning |\n|---|---|---|---|\n", s->defs[i].group);
        for (int k = i; k < s->n_defs; k++) {
            const flag_def *d = &s->defs[k];
            if (strcmp(d->group, s->defs[i].group) != 0) continue;
            buf_printf(out, "| `--%s`", d->name);
            if (d->alias) buf_printf(out, d->alias[0] == '-' ? " `%s`" : " `--%s`", d->alias);
            buf_printf(out, " | %s | ", d->def && *d->def ? d->def : "");
            if (d->ok)
                for (const char *p = d->ok; *p; p++) buf_str(out, *p == '|' ? ", " : (char[]){ *p, 0 });
            else buf_str(out, marks[d->support]);
            buf_printf(out, " | %s |\n", d->help ? d->help : "");
        }
    }
}

static void usage(const flag_set *s, buf *out)
{
    buf_printf(out, "usage: %s%s%s%s [flags]\n\n%s\n\n", s->prog, s->positional ? " [" : "", s->positional ? s->positional : "", s->positional ? "]" : "", s->summary);
    buf_str(out, "  --help[=WHAT], -h           this text; WHAT is a group, a flag, listgroup, page\n"
                 "  --version, -v               the version\n");
    if (s->config) buf_str(out, "  --config FILE               flags from a YAML file; the command line wins\n");
    buf_char(out, '\n');
}

status flags_write_help(const flag_set *s, const char *what, buf *out)
{
    bool found = false;
    if (strcmp(what, "markdown") == 0) {
        markdown(s, out);
        return buf_status(out);
    }
    bool list = strcmp(what, "listgroup") == 0;
    if (!*what || list || strcasecmp(what, "page") == 0 || strcasecmp(what, "all") == 0) {
        if (!list) usage(s, out);
        for (int i = 0; i < s->n_defs; i++) {
            if (!first_of_group(s, i)) continue;
            if (list) buf_printf(out, "%s\n", s->defs[i].group);
            else one_group(s, s->defs[i].group, out);
        }
        return buf_status(out);
    }
    for (int i = 0; i < s->n_defs && !found; i++)
        if (strcasecmp(s->defs[i].group, what) == 0) {
            one_group(s, s->defs[i].group, out);
            found = true;
        }
    while (*what == '-') what++;
    for (int i = 0; i < s->n_defs && !found; i++) {
        size_t n = strlen(what);
        bool same = strlen(s->defs[i].name) == n;
        for (size_t k = 0; same && k < n; k++) same = s->defs[i].name[k] == (what[k] == '_' ? '-' : what[k]);
        if (same) {
            one_flag(&s->defs[i], out);
            found = true;
        }
    }
    for (int i = 0; i < s->n_defs && !found; i++) /* part of a name: all that have it */
        if (strstr(s->defs[i].name, what)) one_flag(&s->defs[i], out);
    if (out->len == 0) return err_set(ST_NOT_FOUND, "no group or flag matches '%s' (--help=listgroup lists the groups)", what);
    return buf_status(out);
}
