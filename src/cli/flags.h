/* Command-line flags as vLLM's parser takes them: "-" and "_" are the same, --no-x, --x=v, short aliases, integer suffixes,
 * JSON values whole or in dotted pieces, lists, and a --config file below the command line. One table of definitions drives
 * parsing, help and the documentation. A flag that we know and cannot honour is an error, never silence. */
#ifndef SYSTOLIC_CLI_FLAGS_H
#define SYSTOLIC_CLI_FLAGS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"

typedef enum flag_kind { FLAG_BOOL, FLAG_STR, FLAG_INT, FLAG_NUM, FLAG_JSON, FLAG_LIST } flag_kind;
/* YES: honoured. IGNORED: accepted with a warning, without effect here. NOT_YET: an error unless it asks for the default. */
typedef enum flag_support { FLAG_YES, FLAG_IGNORED, FLAG_NOT_YET } flag_support;

typedef struct flag_def {
    const char *name, *alias;       /* "tensor-parallel-size", "-tp" (or another long name without dashes), NULL */
    const char *group;
    flag_kind kind;
    flag_support support;
    const char *def;                /* text of the default; NULL = none */
    const char *choices;            /* "a|b|c"; for FLAG_INT words that stand for -1 ("auto") */
    const char *ok;                 /* those of the choices that we support; NULL = all */
    const char *help;
} flag_def;

typedef struct flag_set {
    const char *prog;               /* "systolic serve" */
    const char *summary;
    const flag_def *defs; int n_defs;
    const char *positional;         /* name of the positional argument, or NULL */
    const char *positional_flag;    /* the flag that it overrides ("model"), or NULL */
    bool config;                    /* --config FILE is understood */
} flag_set;

typedef struct flags flags;

/* argv[0] is the first argument. Warnings are logged. */
status flags_parse(const flag_set *set, int argc, char **argv, flags **out) FALLIBLE;
void flags_free(flags *f);

/* What --help asked for: NULL = nothing, "" = all, else the group, flag or word after "=". */
const char *flags_help(const flags *f);
bool flags_version(const flags *f);
bool flags_given(const flags *f, const char *name);      /* on the command line or in the file */
const char *flags_str(const flags *f, const char *name); /* the value, else the default, else NULL */
int64_t flags_i64(const flags *f, const char *name, int64_t def);
double flags_f64(const flags *f, const char *name, double def);
bool flags_bool(const flags *f, const char *name, bool def);
const jv *flags_json(const flags *f, const char *name);  /* NULL when not given */
/* NULL-terminated; *n may be NULL. An empty list when not given. */
const char *const *flags_list(const flags *f, const char *name, int *n);
/* Every flag that was given with its value, "{'port': 8001, ...}", for the log. */
void flags_repr(const flags *f, buf *out);

/* "25.6k" = 25600, "1K" = 1024, "4096". */
status flags_parse_int(const char *text, int64_t *out) FALLIBLE;

/* Help text for `what` (see flags_help); "listgroup" lists the groups, "markdown" is docs/cli.md's table. ST_NOT_FOUND for an unknown word. */
status flags_write_help(const flag_set *set, const char *what, buf *out) FALLIBLE;

/* ---- config_file.c ---- */
/* One entry of a YAML file: a scalar, or a list. */
typedef struct config_entry { char *key; char **values; int n_values; bool list, quoted; int line; } config_entry;
typedef struct config_file { config_entry *entries; int n; } config_file;
/* Reads the subset of YAML such files use: "key: value", "- item" lists below a key, [a, b] lists, JSON in braces, quotes,
 * comments. Everything else is an error that names the line. */
status config_file_parse(const char *text, size_t n, config_file *out) FALLIBLE;
status config_file_read(const char *path, config_file *out) FALLIBLE;
void config_file_free(config_file *c);

#endif
