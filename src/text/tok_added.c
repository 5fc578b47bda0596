/* Added tokens: found in the text before the model sees it (leftmost, longest first), and known to the decoder. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "text/tok_int.h"

/* The id a new token gets. The package does not take it from the file: tokens of the model keep theirs, others count up. */
static int32_t new_id(const tokenizer *t, span content)
{
    int32_t id = vocab_find(&t->add.by_content, content.s, content.n);
    if (id < 0) id = vocab_find(&t->m.v, content.s, content.n);
    if (id >= 0) return id;
    int32_t max = -1, size = (int32_t)t->m.v.n;
    for (size_t i = 0; i < t->add.n; i++)
        if (t->add.tokens[i].id > max) max = t->add.tokens[i].id;
    return max >= size ? max + 1 : size;
}

static status add(tokenizer *t, added_token tok)
{
    added *a = &t->add;
    if (tok.content.n == 0) return ST_OK;
    for (size_t i = 0; i < a->n; i++) {
        added_token *old = &a->tokens[i];
        if (old->content.n != tok.content.n || memcmp(old->content.s, tok.content.s, tok.content.n) != 0) continue;
        tok.id = old->id;
        tok.special |= old->special;
        *old = tok;
        return ST_OK;
    }
    if (a->n == a->cap) {
        size_t cap = a->cap ? a->cap * 2 : 64;
        added_token *p = mem_realloc_array(a->tokens, cap, sizeof *p);
        if (!p) return err_nomem();
        a->tokens = p;
        a->cap = cap;
    }
    tok.id = new_id(t, tok.content);
    TRY(vocab_add(&a->by_content, tok.content.s, tok.content.n, tok.id));
    a->tokens[a->n++] = tok;
    return ST_OK;
}

static status add_object(tokenizer *t, const jv *o, const char *where, bool force_special)
{
    added_token tok = { .id = -1 };
    TRY(tok_get_str(&t->mem, o, where, "content", true, &tok.content));
    TRY(tok_get_bool(o, where, "special", false, &tok.special));
    tok.special |= force_special;
    TRY(tok_get_bool(o, where, "single_word", false, &tok.single_word));
    TRY(tok_get_bool(o, where, "lstrip", false, &tok.lstrip));
    TRY(tok_get_bool(o, where, "rstrip", false, &tok.rstrip));
    TRY(tok_get_bool(o, where, "normalized", !tok.special, &tok.normalized));
    return add(t, tok);
}

/* ---- tokenizer_config.json ---- */

/* A special token named by the configuration: a string, or an object like those of added_tokens. */
static status add_named(tokenizer *t, const jv *v, const char *where)
{
    if (jv_is(v, JV_OBJ)) {
        const char *c = jv_get_str(v, "content", NULL);
        return c && vocab_find(&t->add.by_content, c, jv_len(jv_get(v, "content"))) < 0 ? add_object(t, v, where, true) : ST_OK;
    }
    if (!jv_is(v, JV_STR) || vocab_find(&t->add.by_content, jv_str(v, ""), jv_len(v)) >= 0) return ST_OK;
    added_token tok = { .id = -1, .special = true };
    TRY(tok_copy(&t->mem, jv_str(v, ""), jv_len(v), &tok.content));
    return add(t, tok);
}

/* transformers adds the tokens of added_tokens_decoder in the order of their ids, then the named special tokens. */
static status add_config(tokenizer *t, const jv *config)
{
    const jv *dec = jv_get(config, "added_tokens_decoder");
    int64_t done = -1;
    for (size_t k = 0; k < jv_len(dec) && jv_is(dec, JV_OBJ); k++) {
        int64_t best = INT64_MAX;
        const jv *val = NULL;
        for (jv_iter it = jv_begin(dec); jv_next(&it);) {
            int64_t id = 0;
            for (size_t i = 0; i < it.key_len && id < VOCAB_MAX_ID; i++) {
                if (it.key[i] < '0' || it.key[i] > '9')
                    return err_set(ST_INVALID, "tokenizer_config.json: added_tokens_decoder: \"%s\" is not a token id", it.key);
                id = id * 10 + (it.key[i] - '0');
            }
            if (id > done && id < best) {
                best = id;
                val = it.val;
            }
        }
        if (!val) break;
        TRY(add_object(t, val, "tokenizer_config.json: added_tokens_decoder", false));
        done = best;
    }
    static const char *const names[] = { "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) TRY(add_named(t, jv_get(config, names[i]), names[i]));
    const jv *more = jv_get(config, "additional_special_tokens");
    for (size_t i = 0; jv_is(more, JV_ARR) && i < jv_len(more); i++) TRY(add_named(t, jv_at(more, i), "additional_special_tokens"));
    return ST_OK;
}

/* ---- matchers ---- */

static status set_add(added_set *set, const char *s, size_t n, int32_t id)
{
    if (n == 0) return ST_OK; /* a token that normalizes to nothing never matches */
    unsigned char c = (unsigned char)s[0];
    set->only_first = set->n == 0 || set->only_first == c ? c : -1;
    set->first[c] = true;
    set->n++;
    return trie_add(&set->t, s, n, id);
}

static status build_sets(tokenizer *t)
{
    added *a = &t->add;
    enc e = { .t = t };
    status st = ST_OK;
    for (size_t i = 0; i < a->n; i++) {
        added_token *tok = &a->tokens[i];
        piece p = { tok->content.s, tok->content.n, tok->content.n };
        tok->shown = tok->content;
        if (!tok->normalized) {
            TRY_OUT(set_add(&a->raw, p.s, p.n, tok->id));
            continue;
        }
        TRY_OUT(norm_run(&e, p, &p));
        TRY_OUT(set_add(&a->normal, p.s, p.n, tok->id));
        TRY_OUT(tok_copy(&t->mem, p.s, p.n, &tok->shown));
    }
out:
    enc_free(&e);
    return st;
}

status added_load(tokenizer *t, const jv *list, const jv *config)
{
    if (list && !jv_is(list, JV_ARR) && !jv_is(list, JV_NULL))
        return err_set(ST_INVALID, "tokenizer.json: added_tokens is %s, wanted a list", jv_kind_name(jv_type(list)));
    for (size_t i = 0; jv_is(list, JV_ARR) && i < jv_len(list); i++) {
        char where[40];
        snprintf(where, sizeof where, "added_tokens[%zu]", i);
        TRY(add_object(t, jv_at(list, i), where, false));
    }
    if (config) TRY(add_config(t, config));
    added *a = &t->add;
    a->n_by_id = 0;
    for (size_t i = 0; i < a->n; i++)
        if ((size_t)a->tokens[i].id >= a->n_by_id) a->n_by_id = (size_t)a->tokens[i].id + 1;
    a->by_id = mem_array(a->n_by_id ? a->n_by_id : 1, sizeof *a->by_id);
    if (!a->by_id) return err_nomem();
    memset(a->by_id, 0xFF, a->n_by_id * sizeof *a->by_id);
    for (size_t i = 0; i < a->n; i++) a->by_id[a->tokens[i].id] = (int32_t)i;
    return build_sets(t);
}

void added_free(added *a)
{
    mem_free(a->tokens);
    mem_free(a->by_id);
    vocab_free(&a->by_content);
    trie_free(&a->raw.t);
    trie_free(&a->normal.t);
}

const added_token *added_find(const tokenizer *t, int32_t id)
{
    const added *a = &t->add;
    return id >= 0 && (size_t)id < a->n_by_id && a->by_id[id] >= 0 ? &a->tokens[a->by_id[id]] : NULL;
}

/* ---- splitting ---- */

/* The leftmost longest match at or after pos; its id, or -1. */
static int32_t find(const added_set *set, const char *s, size_t n, size_t pos, size_t *from, size_t *to)
{
    for (; pos < n; pos++) {
        if (set->only_first >= 0) {
            const char *p = memchr(s + pos, set->only_first, n - pos);
            if (!p) return -1;
            pos = (size_t)(p - s);
        } else if (!set->first[(unsigned char)s[pos]]) {
            continue;
        }
        int32_t id = -1;
        uint32_t node = 0;
        for (size_t j = pos; j < n && (node = trie_step(&set->t, node, (unsigned char)s[j])) != 0; j++) {
            if (set->t.value[node] < 0) continue;
            id = set->t.value[node];
            *to = j + 1;
        }
        if (id >= 0) {
            *from = pos;
            return id;
        }
    }
    return -1;
}

static bool word_before(const char *s, size_t i)
{
    if (i == 0) return false;
    i = uni_back(s, i);
    return uni_is_word(uni_next(s, &i));
}

static bool word_after(const char *s, size_t n, size_t i) { return i < n && uni_is_word(uni_next(s, &i)); }

static piece sub(piece p, size_t from, size_t to)
{
    return (piece){ p.s + from, to - from, p.zero > from ? p.zero - from : 0 };
}

status added_split(enc *e, const added_set *set, piece in, status (*rest)(enc *, piece))
{
    if (set->n == 0 || in.n == 0) return rest(e, in);
    size_t done = 0, pos = 0, from = 0, to = 0;
    for (int32_t id; (id = find(set, in.s, in.n, pos, &from, &to)) >= 0;) {
        const added_token *tok = added_find(e->t, id);
        pos = to;
        if (tok->single_word && (word_before(in.s, from) || word_after(in.s, in.n, to))) continue;
        if (tok->lstrip)
            while (from > done) {
                size_t i = uni_back(in.s, from), j = i;
                if (!uni_is_space(uni_next(in.s, &j))) break;
                from = i;
            }
        if (from < done) from = done; /* a token of white space that an rstrip swallowed */
        if (tok->rstrip)
            for (size_t j = to; to < in.n && uni_is_space(uni_next(in.s, &j)); to = j) {}
        if (from > done) TRY(rest(e, sub(in, done, from)));
        i32vec_push(e->out, id);
        if (to > done) done = to;
    }
    return done < in.n ? rest(e, sub(in, done, in.n)) : ST_OK;
}
