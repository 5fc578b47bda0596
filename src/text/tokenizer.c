#include "text/tokenizer.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_int.h"

/* ---- reading members ---- */

status tok_copy(arena *a, const char *s, size_t n, span *out)
{
    char *p = arena_strndup(a, s, n);
    if (!p) return err_nomem();
    *out = (span){ p, n };
    return ST_OK;
}

status tok_get_str(arena *a, const jv *obj, const char *where, const char *key, bool required, span *out)
{
    const jv *v = jv_get(obj, key);
    *out = (span){ NULL, 0 };
    if (!required && (!v || jv_is(v, JV_NULL))) return ST_OK;
    if (!jv_is(v, JV_STR)) return err_set(ST_INVALID, "tokenizer.json: %s.%s is %s, wanted a string", where, key, jv_kind_name(jv_type(v)));
    return tok_copy(a, jv_str(v, ""), jv_len(v), out);
}

status tok_get_bool(const jv *obj, const char *where, const char *key, bool def, bool *out)
{
    const jv *v = jv_get(obj, key);
    if (v && !jv_is(v, JV_NULL) && !jv_is(v, JV_BOOL))
        return err_set(ST_INVALID, "tokenizer.json: %s.%s is %s, wanted a boolean", where, key, jv_kind_name(jv_type(v)));
    *out = jv_bool(v, def);
    return ST_OK;
}

/* ---- patterns ---- */

status pattern_new(arena *a, const jv *spec, const char *where, pattern *out)
{
    const jv *lit = jv_get(spec, "String"), *re = jv_get(spec, "Regex");
    if (jv_is(spec, JV_STR)) lit = spec;
    if (jv_is(lit, JV_STR) && jv_len(lit)) return tok_copy(a, jv_str(lit, ""), jv_len(lit), &out->literal);
    if (jv_is(lit, JV_STR)) re = lit; /* the empty string matches everywhere, as a regex does */
    if (!jv_is(re, JV_STR)) return err_set(ST_INVALID, "tokenizer.json: %s.pattern is neither {\"String\": ..} nor {\"Regex\": ..}", where);
    out->kind = split_recognise(jv_str(re, ""), jv_len(re));
    if (out->kind != SPLIT_NONE) return ST_OK;
    status st = regex_new(jv_str(re, ""), jv_len(re), &out->re);
    return st == ST_OK ? st : err_wrap(st, "tokenizer.json: %s.pattern", where);
}

void pattern_free(pattern *p) { regex_free(p->re); }

status enc_regex(enc *e, regex_scratch **out)
{
    if (!e->rx) TRY(regex_scratch_new(&e->rx));
    *out = e->rx;
    return ST_OK;
}

status pattern_next(const pattern *p, enc *e, const char *s, size_t n, pattern_iter *it, bool *found, size_t *from, size_t *to)
{
    if (p->re) {
        regex_scratch *rx;
        TRY(enc_regex(e, &rx));
        return regex_next(p->re, rx, s, n, &it->it, found, from, to);
    }
    if (p->kind != SPLIT_NONE) {
        *found = split_next(p->kind, s, n, it->pos, from, to);
    } else {
        const char *q = p->literal.n && it->pos <= n ? memmem(s + it->pos, n - it->pos, p->literal.s, p->literal.n) : NULL;
        *found = q != NULL;
        if (q) {
            *from = (size_t)(q - s);
            *to = *from + p->literal.n;
        }
    }
    if (*found) it->pos = *to;
    return ST_OK;
}

/* ---- loading ---- */

static status load(tokenizer *t, const jv *spec, const jv *config, model_source *src)
{
    if (!jv_is(spec, JV_OBJ)) return err_set(ST_INVALID, "tokenizer.json is %s, wanted an object", jv_kind_name(jv_type(spec)));
    TRY(norm_load(t, jv_get(spec, "normalizer")));
    TRY(pre_load(t, jv_get(spec, "pre_tokenizer")));
    TRY(model_load(t, jv_get(spec, "model"), src));
    TRY(model_finish(t));
    TRY(post_load(t, jv_get(spec, "post_processor")));
    TRY(added_load(t, jv_get(spec, "added_tokens"), config));
    t->n_ids = t->m.v.n_ids > t->add.n_by_id ? t->m.v.n_ids : t->add.n_by_id;
    TRY(dec_load(t, jv_get(spec, "decoder")));
    return dec_finish(t);
}

static status new_from(const jv *spec, const jv *config, model_source *src, tokenizer **out)
{
    uni_init();
    tokenizer *t = mem_calloc(1, sizeof *t);
    if (!t) return err_nomem();
    status st = load(t, spec, config, src);
    if (st != ST_OK) {
        tokenizer_free(t);
        return st;
    }
    *out = t;
    return ST_OK;
}

status tokenizer_new(const jv *spec, const jv *config, tokenizer **out) { return new_from(spec, config, NULL, out); }

enum { MAX_FILE = 512 << 20 };

static status read_file(const char *path, buf *out)
{
    FILE *f = fopen(path, "rb");
    if (!f) return err_errno("cannot open %s", path);
    status st = ST_OK;
    for (;;) {
        char *p = buf_reserve(out, 1 << 20);
        if (!p) break;
        size_t n = fread(p, 1, 1 << 20, f);
        out->len += n;
        if (n == 0) break;
        if (out->len > MAX_FILE) {
            st = err_set(ST_LIMIT, "%s is larger than %d bytes", path, MAX_FILE);
            break;
        }
    }
    if (st == ST_OK && ferror(f)) st = err_errno("cannot read %s", path);
    fclose(f);
    return st == ST_OK ? buf_status(out) : st;
}

static status load_text(const buf *text, const char *path, const jv *config, tokenizer **out)
{
    buf rest = {0};
    jv *spec = NULL;
    model_source src = {0};
    status st = source_split(buf_cstr(text), text->len, &src, &rest);
    if (st == ST_OK) st = jv_parse(buf_cstr(&rest), rest.len, &spec);
    if (st != ST_OK) st = err_wrap(st, "%s", path);
    else st = new_from(spec, config, &src, out);
    jv_free(spec);
    buf_free(&rest);
    return st;
}

status tokenizer_load_dir(const char *dir, tokenizer **out)
{
    buf path = {0}, text = {0};
    jv *config = NULL;
    status st;
    buf_printf(&path, "%s/tokenizer_config.json", dir);
    TRY_OUT(buf_status(&path));
    st = jv_parse_file(path.data, MAX_FILE, &config);
    if (st != ST_OK && st != ST_NOT_FOUND) goto out;
    buf_clear(&path);
    buf_printf(&path, "%s/tokenizer.json", dir);
    TRY_OUT(buf_status(&path));
    TRY_OUT(read_file(path.data, &text));
    st = load_text(&text, path.data, config, out);
out:
    jv_free(config);
    buf_free(&path);
    buf_free(&text);
    return st;
}

void tokenizer_free(tokenizer *t)
{
    if (!t) return;
    for (size_t i = 0; i < t->n_norms; i++) pattern_free(&t->norms[i].pat);
    for (size_t i = 0; i < t->n_pres; i++) pattern_free(&t->pres[i].pat);
    for (size_t i = 0; i < t->n_decs; i++) pattern_free(&t->decs[i].pat);
    tok_model_free(&t->m);
    added_free(&t->add);
    arena_free(&t->mem);
    mem_free(t);
}

/* ---- encoding ---- */

void enc_free(enc *e)
{
    regex_scratch_free(e->rx);
    for (size_t i = 0; i < PRE_MAX_STAGES; i++) buf_free(&e->stage[i]);
    buf_free(&e->norm[0]);
    buf_free(&e->norm[1]);
    buf_free(&e->word);
    bpe_work_free(&e->bpe);
    mem_free(e->best_score);
    mem_free(e->best_from);
    mem_free(e->best_id);
}

static status encode_unnormalized(enc *e, piece p)
{
    TRY(norm_run(e, p, &p));
    return added_split(e, &e->t->add.normal, p, pre_run);
}

/* The text with every invalid byte sequence replaced, or the text itself. */
static status repair(const char **text, size_t *n, buf *b)
{
    if (utf8_valid(*text, *n)) return ST_OK;
    for (size_t i = 0; i < *n;) {
        uint32_t cp;
        i += utf8_decode(*text + i, *n - i, &cp);
        buf_utf8(b, cp == UTF8_BAD ? 0xFFFD : cp);
    }
    *text = buf_cstr(b);
    *n = b->len;
    return buf_status(b);
}

static status encode(enc *e, const char *text, size_t n, bool add_special)
{
    const post *p = &e->t->single;
    size_t i = 0, start, len;
    for (; i < p->n && p->items[i] != POST_SEQ; i++)
        if (add_special) i32vec_push(e->out, p->items[i]);
    start = e->out->len;
    piece whole = { text, n, 1 }; /* the first byte is the one that matters */
    if (n) {
        size_t first = 0;
        uni_next(text, &first);
        whole.zero = first;
    }
    TRY(added_split(e, &e->t->add.raw, whole, encode_unnormalized));
    len = e->out->len - start;
    if (i == p->n) { /* a template without $A: the text is dropped */
        e->out->len = start;
        return ST_OK;
    }
    for (i++; i < p->n; i++) {
        if (p->items[i] != POST_SEQ) {
            if (add_special) i32vec_push(e->out, p->items[i]);
            continue;
        }
        for (size_t k = 0; k < len && !e->out->failed; k++) i32vec_push(e->out, e->out->data[start + k]);
    }
    return ST_OK;
}

status tokenizer_encode(const tokenizer *t, const char *text, size_t n, bool add_special, i32vec *out)
{
    enc e = { .t = t, .out = out };
    buf repaired = {0};
    size_t before = out->len;
    status st = repair(&text, &n, &repaired);
    if (st == ST_OK) st = encode(&e, n ? text : "", n, add_special);
    if (st == ST_OK) st = i32vec_status(out);
    if (st != ST_OK) out->len = before;
    enc_free(&e);
    buf_free(&repaired);
    return st;
}

/* ---- asking about tokens ---- */

size_t tokenizer_vocab_size(const tokenizer *t) { return t->n_ids; }

int32_t tokenizer_token_id(const tokenizer *t, const char *token, size_t n)
{
    int32_t id = vocab_find(&t->add.by_content, token, n);
    return id >= 0 ? id : vocab_find(&t->m.v, token, n);
}

const char *tok_spelling(const tokenizer *t, int32_t id, size_t *n)
{
    const added_token *a = added_find(t, id);
    if (!a) return vocab_text(&t->m.v, id, n);
    *n = a->shown.n;
    return a->shown.s;
}

const char *tokenizer_token(const tokenizer *t, int32_t id, size_t *n)
{
    size_t len;
    const char *s = tok_spelling(t, id, &len);
    if (s && n) *n = len;
    return s;
}

bool tokenizer_is_special(const tokenizer *t, int32_t id)
{
    const added_token *a = added_find(t, id);
    return a && a->special;
}

bool tokenizer_is_added(const tokenizer *t, int32_t id) { return added_find(t, id) != NULL; }
