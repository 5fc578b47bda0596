/* The pre_tokenizer part of tokenizer.json, flattened into one list of stages. */
#include <string.h>

#include "text/tok_int.h"

static status load_behavior(const jv *spec, const char *def, split_behavior *out)
{
    static const struct { const char *name; split_behavior b; } names[] = {
        { "Removed", BEHAVE_REMOVED }, { "Isolated", BEHAVE_ISOLATED }, { "MergedWithPrevious", BEHAVE_PREVIOUS },
        { "MergedWithNext", BEHAVE_NEXT }, { "Contiguous", BEHAVE_CONTIGUOUS },
    };
    const char *s = jv_get_str(spec, "behavior", def);
    for (size_t i = 0; s && i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i].name, s) == 0) {
            *out = names[i].b;
            return ST_OK;
        }
    return err_set(ST_INVALID, "tokenizer.json: pre_tokenizer: behavior is \"%s\", wanted Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous", s ? s : "");
}

static status one_char(tokenizer *t, const jv *spec, const char *key, span *text, uint32_t *ch)
{
    TRY(tok_get_str(&t->mem, spec, "pre_tokenizer", key, true, text));
    size_t i = 0;
    if (text->n) *ch = uni_next(text->s, &i);
    if (i == 0 || i != text->n) return err_set(ST_INVALID, "tokenizer.json: pre_tokenizer: %s is \"%s\", wanted one character", key, text->s);
    return ST_OK;
}

static status load_metaspace(tokenizer *t, const jv *spec, pretok *p)
{
    TRY(one_char(t, spec, "replacement", &p->replacement, &p->ch));
    TRY(tok_get_bool(spec, "pre_tokenizer", "split", true, &p->split));
    bool add = true;
    TRY(tok_get_bool(spec, "pre_tokenizer", "add_prefix_space", true, &add));
    const char *scheme = jv_get_str(spec, "prepend_scheme", add ? "always" : "never");
    if (strcmp(scheme, "always") == 0) p->scheme = PREPEND_ALWAYS;
    else if (strcmp(scheme, "first") == 0) p->scheme = PREPEND_FIRST;
    else if (strcmp(scheme, "never") == 0) p->scheme = PREPEND_NEVER;
    else return err_set(ST_INVALID, "tokenizer.json: pre_tokenizer: prepend_scheme is \"%s\", wanted always, first or never", scheme);
    if (!add && p->scheme != PREPEND_NEVER)
        return err_set(ST_INVALID, "tokenizer.json: pre_tokenizer: add_prefix_space is false and prepend_scheme is \"%s\"", scheme);
    return ST_OK;
}

static status push(tokenizer *t, pretok **out)
{
    if (t->n_pres == PRE_MAX_STAGES) return err_set(ST_LIMIT, "tokenizer.json: pre_tokenizer has more than %d stages", PRE_MAX_STAGES);
    *out = &t->pres[t->n_pres++];
    return ST_OK;
}

static status load_byte_level(tokenizer *t, const jv *spec)
{
    pretok split = { .kind = PRE_BYTE_LEVEL_SPLIT }, *p = NULL;
    TRY(tok_get_bool(spec, "pre_tokenizer", "add_prefix_space", true, &split.add_prefix_space));
    TRY(tok_get_bool(spec, "pre_tokenizer", "use_regex", true, &split.use_regex));
    if (split.add_prefix_space || split.use_regex) {
        TRY(push(t, &p));
        *p = split;
    }
    TRY(push(t, &p));
    p->kind = PRE_BYTE_LEVEL;
    return ST_OK;
}

static status load_simple(tokenizer *t, const jv *spec, const char *type)
{
    static const struct { const char *name; pre_kind kind; } names[] = {
        { "Split", PRE_SPLIT }, { "Metaspace", PRE_METASPACE }, { "Whitespace", PRE_WHITESPACE }, { "WhitespaceSplit", PRE_WHITESPACE_SPLIT },
        { "BertPreTokenizer", PRE_BERT }, { "Punctuation", PRE_PUNCTUATION }, { "Digits", PRE_DIGITS },
        { "CharDelimiterSplit", PRE_DELIMITER }, { "UnicodeScripts", PRE_SCRIPTS }, { "FixedLength", PRE_FIXED_LENGTH },
    };
    size_t k = 0, n = sizeof names / sizeof *names;
    while (k < n && strcmp(names[k].name, type) != 0) k++;
    if (k == n) return err_set(ST_UNSUPPORTED, "tokenizer.json: pre_tokenizer type \"%s\" is not known", type);
    pretok *p = NULL;
    TRY(push(t, &p));
    p->kind = names[k].kind;
    int64_t length;
    switch (p->kind) {
    case PRE_SPLIT:
        TRY(load_behavior(spec, NULL, &p->behavior));
        TRY(tok_get_bool(spec, "pre_tokenizer", "invert", false, &p->invert));
        return pattern_new(&t->mem, jv_get(spec, "pattern"), "pre_tokenizer", &p->pat);
    case PRE_METASPACE: return load_metaspace(t, spec, p);
    case PRE_PUNCTUATION: return load_behavior(spec, "Isolated", &p->behavior);
    case PRE_DIGITS: return tok_get_bool(spec, "pre_tokenizer", "individual_digits", false, &p->individual);
    case PRE_DELIMITER: return one_char(t, spec, "delimiter", &p->replacement, &p->ch);
    case PRE_FIXED_LENGTH:
        length = jv_get_i64(spec, "length", 5);
        if (length < 1) return err_set(ST_INVALID, "tokenizer.json: pre_tokenizer: length is %lld", (long long)length);
        p->length = (size_t)length;
        return ST_OK;
    default: return ST_OK;
    }
}

static status load(tokenizer *t, const jv *spec, int depth)
{
    if (!spec || jv_is(spec, JV_NULL)) return ST_OK;
    const char *type = jv_get_str(spec, "type", NULL);
    if (!type) return err_set(ST_INVALID, "tokenizer.json: pre_tokenizer has no type");
    if (strcmp(type, "ByteLevel") == 0) return load_byte_level(t, spec);
    if (strcmp(type, "Sequence") != 0) return load_simple(t, spec, type);
    const jv *list = jv_get(spec, "pretokenizers");
    if (!jv_is(list, JV_ARR)) return err_set(ST_INVALID, "tokenizer.json: pre_tokenizer: pretokenizers is %s, wanted a list", jv_kind_name(jv_type(list)));
    if (depth > 16) return err_set(ST_LIMIT, "tokenizer.json: pre_tokenizer is nested too deeply");
    for (size_t i = 0; i < jv_len(list); i++) TRY(load(t, jv_at(list, i), depth + 1));
    return ST_OK;
}

status pre_load(tokenizer *t, const jv *spec)
{
    t->pres = arena_calloc(&t->mem, PRE_MAX_STAGES, sizeof *t->pres);
    if (!t->pres) return err_nomem();
    return load(t, spec, 0);
}
