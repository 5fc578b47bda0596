/* The model part of tokenizer.json: tables filled, options read, and the one entry for encoding a piece. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "text/tok_int.h"

static const struct { const char *name; model_kind kind; } kinds[] = {
    { "BPE", MODEL_BPE }, { "Unigram", MODEL_UNIGRAM }, { "WordPiece", MODEL_WORDPIECE }, { "WordLevel", MODEL_WORDLEVEL },
};

static status find_kind(const jv *spec, model_kind *out)
{
    if (!jv_is(spec, JV_OBJ)) return err_set(ST_INVALID, "tokenizer.json: model is %s, wanted an object", jv_kind_name(jv_type(spec)));
    const char *type = jv_get_str(spec, "type", NULL);
    if (type) {
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            if (strcmp(kinds[i].name, type) == 0) {
                *out = kinds[i].kind;
                return ST_OK;
            }
        return err_set(ST_UNSUPPORTED, "tokenizer.json: model.type is \"%s\", wanted BPE, Unigram, WordPiece or WordLevel", type);
    }
    /* Files of early versions do not say. */
    *out = jv_get(spec, "merges") ? MODEL_BPE : jv_get(spec, "max_input_chars_per_word") ? MODEL_WORDPIECE :
           jv_get(spec, "unk_token") ? MODEL_WORDLEVEL : MODEL_UNIGRAM;
    return ST_OK;
}

/* ---- vocabulary ---- */

typedef struct filling { model *m; size_t cap_scores; double min_score; } filling;

static status add_token(void *arg, const char *s, size_t n, int64_t id, double score)
{
    (void)score;
    if (id < 0 || id >= VOCAB_MAX_ID)
        return err_set(ST_LIMIT, "tokenizer.json: model.vocab[\"%.*s\"] is %lld, wanted an id in [0, %d)", (int)(n < 100 ? n : 100), s, (long long)id, VOCAB_MAX_ID);
    return vocab_add(&((filling *)arg)->m->v, s, n, (int32_t)id);
}

static status add_piece(void *arg, const char *s, size_t n, int64_t id, double score)
{
    filling *f = arg;
    TRY(add_token(arg, s, n, id, score));
    if (isnan(score)) return err_set(ST_INVALID, "tokenizer.json: model.vocab[%lld] has no score", (long long)id);
    if ((size_t)id >= f->cap_scores) {
        size_t cap = f->cap_scores ? f->cap_scores * 2 : 1024;
        double *p = mem_realloc_array(f->m->score, cap, sizeof *p);
        if (!p) return err_nomem();
        f->m->score = p;
        f->cap_scores = cap;
    }
    f->m->score[id] = score;
    if (score < f->min_score) f->min_score = score;
    return trie_add(&f->m->t, s, n, (int32_t)id);
}

static status vocab_from_object(filling *f, const jv *v)
{
    if (!jv_is(v, JV_OBJ)) return err_set(ST_INVALID, "tokenizer.json: model.vocab is %s, wanted an object", jv_kind_name(jv_type(v)));
    for (jv_iter it = jv_begin(v); jv_next(&it);) {
        if (!jv_is(it.val, JV_INT)) return err_set(ST_INVALID, "tokenizer.json: model.vocab[\"%s\"] is %s, wanted an integer", it.key, jv_kind_name(jv_type(it.val)));
        TRY(add_token(f, it.key, it.key_len, jv_i64(it.val, 0), 0));
    }
    return ST_OK;
}

static status vocab_from_list(filling *f, const jv *v)
{
    if (!jv_is(v, JV_ARR)) return err_set(ST_INVALID, "tokenizer.json: model.vocab is %s, wanted a list", jv_kind_name(jv_type(v)));
    for (size_t i = 0; i < jv_len(v); i++) {
        const jv *e = jv_at(v, i), *s = jv_at(e, 0);
        if (!jv_is(s, JV_STR) || jv_len(e) != 2) return err_set(ST_INVALID, "tokenizer.json: model.vocab[%zu] is not [piece, score]", i);
        TRY(add_piece(f, jv_str(s, ""), jv_len(s), (int64_t)i, jv_f64(jv_at(e, 1), (double)NAN)));
    }
    return ST_OK;
}

static status load_vocab(filling *f, const jv *spec, model_source *src)
{
    bool list = f->m->kind == MODEL_UNIGRAM;
    if (src && src->vocab) {
        bool is_list = *src->vocab == '[';
        if (is_list != list) return err_set(ST_INVALID, "tokenizer.json: model.vocab is %s, wanted %s", is_list ? "a list" : "an object", list ? "a list" : "an object");
        size_t bytes = (size_t)(src->vocab_end - src->vocab);
        TRY(vocab_reserve(&f->m->v, bytes / 20, bytes / 2));
        return source_vocab(src->vocab, src->vocab_end, list ? add_piece : add_token, f);
    }
    const jv *v = jv_get(spec, "vocab");
    return list ? vocab_from_list(f, v) : vocab_from_object(f, v);
}

/* ---- merges ---- */

typedef struct merging { model *m; uint32_t rank; } merging;

static status add_merge(void *arg, const char *a, size_t na, const char *b, size_t nb)
{
    merging *g = arg;
    if (g->rank == UINT32_MAX - 1) return err_set(ST_LIMIT, "tokenizer.json: model.merges is too long");
    /* The table doubles when half full. */
    model *m = g->m;
    if ((size_t)g->rank * 2 >= m->pairs_cap) {
        model bigger = { .pairs = NULL };
        TRY(bpe_reserve(&bigger, m->pairs_cap));
        for (size_t i = 0; i < m->pairs_cap; i++) {
            if (m->pairs[i].key == UINT64_MAX) continue;
            bpe_put(&bigger, m->pairs[i]);
        }
        mem_free(m->pairs);
        m->pairs = bigger.pairs;
        m->pairs_cap = bigger.pairs_cap;
    }
    return bpe_add_merge(m, a, na, b, nb, g->rank++);
}

/* "a b", the form of older files: exactly one space. */
static status split_merge(merging *g, const char *s, size_t n)
{
    const char *sp = memchr(s, ' ', n);
    if (!sp || memchr(sp + 1, ' ', n - (size_t)(sp - s) - 1))
        return err_set(ST_INVALID, "tokenizer.json: model.merges[%u]: \"%.*s\" is not two tokens with a space between", g->rank, (int)(n < 100 ? n : 100), s);
    return add_merge(g, s, (size_t)(sp - s), sp + 1, n - (size_t)(sp - s) - 1);
}

static status merge_from_source(void *arg, const char *a, size_t na, const char *b, size_t nb)
{
    return b ? add_merge(arg, a, na, b, nb) : split_merge(arg, a, na);
}

static status load_merges(model *m, const jv *spec, model_source *src)
{
    merging g = { m, 0 };
    if (src && src->merges) {
        TRY(bpe_reserve(m, (size_t)(src->merges_end - src->merges) / 24));
        return source_merges(src->merges, src->merges_end, merge_from_source, &g);
    }
    const jv *list = jv_get(spec, "merges");
    if (!jv_is(list, JV_ARR)) return err_set(ST_INVALID, "tokenizer.json: model.merges is %s, wanted a list", jv_kind_name(jv_type(list)));
    TRY(bpe_reserve(m, jv_len(list)));
    for (size_t i = 0; i < jv_len(list); i++) {
        const jv *e = jv_at(list, i), *a = jv_at(e, 0), *b = jv_at(e, 1);
        if (jv_is(e, JV_STR)) {
            TRY(split_merge(&g, jv_str(e, ""), jv_len(e)));
        } else if (jv_len(e) == 2 && jv_is(a, JV_STR) && jv_is(b, JV_STR)) {
            TRY(add_merge(&g, jv_str(a, ""), jv_len(a), jv_str(b, ""), jv_len(b)));
        } else {
            return err_set(ST_INVALID, "tokenizer.json: model.merges[%zu] is neither \"a b\" nor [\"a\", \"b\"]", i);
        }
    }
    return ST_OK;
}

/* ---- options ---- */

static status load_unk(tokenizer *t, const jv *spec)
{
    model *m = &t->m;
    m->unk = -1;
    if (m->kind == MODEL_UNIGRAM) {
        const jv *id = jv_get(spec, "unk_id");
        if (!id || jv_is(id, JV_NULL)) return ST_OK;
        int64_t v = jv_i64(id, -1);
        if (v < 0 || v >= (int64_t)m->v.n_ids) return err_set(ST_INVALID, "tokenizer.json: model.unk_id is %lld, wanted an id below %zu", (long long)v, m->v.n_ids);
        m->unk = (int32_t)v;
        return ST_OK;
    }
    TRY(tok_get_str(&t->mem, spec, "model", "unk_token", false, &m->unk_token));
    if (!m->unk_token.s && m->kind == MODEL_WORDPIECE) m->unk_token = (span){ "[UNK]", 5 };
    if (!m->unk_token.s && m->kind == MODEL_WORDLEVEL) m->unk_token = (span){ "<unk>", 5 };
    if (m->unk_token.s) m->unk = vocab_find(&m->v, m->unk_token.s, m->unk_token.n);
    return ST_OK;
}

static status load_options(tokenizer *t, const jv *spec)
{
    model *m = &t->m;
    if (jv_f64(jv_get(spec, "dropout"), 0) != 0)
        return err_set(ST_UNSUPPORTED, "tokenizer.json: model.dropout is not zero: encoding would be random");
    TRY(tok_get_str(&t->mem, spec, "model", "continuing_subword_prefix", false, &m->prefix));
    TRY(tok_get_str(&t->mem, spec, "model", "end_of_word_suffix", false, &m->suffix));
    if (!m->prefix.s && m->kind == MODEL_WORDPIECE) m->prefix = (span){ "##", 2 };
    TRY(tok_get_bool(spec, "model", "fuse_unk", false, &m->fuse_unk));
    TRY(tok_get_bool(spec, "model", "byte_fallback", false, &m->byte_fallback));
    TRY(tok_get_bool(spec, "model", "ignore_merges", false, &m->ignore_merges));
    int64_t chars = jv_get_i64(spec, "max_input_chars_per_word", 100);
    if (chars < 0) return err_set(ST_INVALID, "tokenizer.json: model.max_input_chars_per_word is %lld", (long long)chars);
    m->max_chars = (size_t)chars;
    return ST_OK;
}

status model_load(tokenizer *t, const jv *spec, model_source *src)
{
    model *m = &t->m;
    TRY(find_kind(spec, &m->kind));
    filling f = { m, 0, (double)INFINITY };
    TRY(load_vocab(&f, spec, src));
    TRY(load_options(t, spec));
    TRY(load_unk(t, spec));
    for (int b = 0; b < 256; b++) {
        static const char hex[] = "0123456789ABCDEF";
        char s[6] = { '<', '0', 'x', hex[b >> 4], hex[b & 15], '>' };
        m->byte_token[b] = vocab_find(&m->v, s, sizeof s);
    }
    m->unk_score = f.min_score - 10; /* sentencepiece's penalty */
    return m->kind == MODEL_BPE ? load_merges(m, spec, src) : ST_OK;
}

status model_finish(tokenizer *t)
{
    if (t->m.kind != MODEL_BPE) return ST_OK;
    bool byte_level = t->n_pres && t->pres[t->n_pres - 1].kind == PRE_BYTE_LEVEL;
    return bpe_finish(&t->m, byte_level);
}

void tok_model_free(model *m)
{
    vocab_free(&m->v);
    vocab_free(&m->raw_v);
    trie_free(&m->t);
    mem_free(m->pairs);
    mem_free(m->whole);
    mem_free(m->score);
}

status model_encode(enc *e, const char *s, size_t n, bool raw)
{
    switch (e->t->m.kind) {
    case MODEL_BPE: return bpe_encode(e, s, n, raw);
    case MODEL_UNIGRAM: return unigram_encode(e, s, n);
    case MODEL_WORDPIECE: return wordpiece_encode(e, s, n);
    case MODEL_WORDLEVEL: return wordlevel_encode(e, s, n);
    }
    return ST_OK;
}
