/* Post-processors: the ids that stand before and after those of the text. Offsets are not kept, so the ones that only
 * trim them (ByteLevel) do nothing here. */
#include <string.h>

#include "text/tok_int.h"

enum { MAX_ITEMS = 4096 };

/* What one processor puts around the sequence it is given; nested in `old`, the result of those before it. */
static status compose(tokenizer *t, const i32vec *tmpl)
{
    TRY(i32vec_status(tmpl));
    post *old = &t->single;
    size_t n = 0, n_seq = 0;
    for (size_t i = 0; i < tmpl->len; i++) n += tmpl->data[i] == POST_SEQ ? old->n : 1;
    if (n > MAX_ITEMS) return err_set(ST_LIMIT, "tokenizer.json: post_processor makes more than %d items", MAX_ITEMS);
    int32_t *items = arena_alloc(&t->mem, (n + 1) * sizeof *items);
    if (!items) return err_nomem();
    size_t k = 0;
    for (size_t i = 0; i < tmpl->len; i++) {
        if (tmpl->data[i] != POST_SEQ) {
            items[k++] = tmpl->data[i];
            continue;
        }
        if (old->n) memcpy(items + k, old->items, old->n * sizeof *items);
        k += old->n;
        n_seq += old->n_seq;
    }
    *old = (post){ items, n, n_seq };
    return ST_OK;
}

static status check_id(const jv *v, const char *what, int32_t *out)
{
    int64_t id = jv_i64(v, -1);
    if (!jv_is(v, JV_INT) || id < 0 || id >= VOCAB_MAX_ID) return err_set(ST_INVALID, "tokenizer.json: post_processor: the id of \"%s\" is not a token id", what);
    *out = (int32_t)id;
    return ST_OK;
}

static status load_template(const jv *spec, i32vec *tmpl)
{
    const jv *single = jv_get(spec, "single"), *tokens = jv_get(spec, "special_tokens");
    if (!jv_is(single, JV_ARR)) return err_set(ST_INVALID, "tokenizer.json: post_processor: single is %s, wanted a list", jv_kind_name(jv_type(single)));
    for (size_t i = 0; i < jv_len(single); i++) {
        const jv *e = jv_at(single, i), *seq = jv_get(e, "Sequence"), *tok = jv_get(e, "SpecialToken");
        if (seq) {
            if (strcmp(jv_get_str(seq, "id", ""), "A") != 0) return err_set(ST_UNSUPPORTED, "tokenizer.json: post_processor: single[%zu] uses a sequence other than A", i);
            i32vec_push(tmpl, POST_SEQ);
            continue;
        }
        const char *name = jv_get_str(tok, "id", NULL);
        const jv *ids = name ? jv_get(jv_get(tokens, name), "ids") : NULL;
        if (!jv_is(ids, JV_ARR)) return err_set(ST_INVALID, "tokenizer.json: post_processor: single[%zu] is neither a Sequence nor a SpecialToken listed in special_tokens", i);
        for (size_t k = 0; k < jv_len(ids); k++) {
            int32_t id = -1;
            TRY(check_id(jv_at(ids, k), name, &id));
            i32vec_push(tmpl, id);
        }
    }
    return ST_OK;
}

static status load_bert(const jv *spec, i32vec *tmpl)
{
    int32_t cls = -1, sep = -1;
    TRY(check_id(jv_at(jv_get(spec, "cls"), 1), "cls", &cls));
    TRY(check_id(jv_at(jv_get(spec, "sep"), 1), "sep", &sep));
    i32vec_push(tmpl, cls);
    i32vec_push(tmpl, POST_SEQ);
    i32vec_push(tmpl, sep);
    return ST_OK;
}

static status load(tokenizer *t, const jv *spec, int depth)
{
    if (!spec || jv_is(spec, JV_NULL)) return ST_OK;
    const char *type = jv_get_str(spec, "type", NULL);
    if (!type) return err_set(ST_INVALID, "tokenizer.json: post_processor has no type");
    if (strcmp(type, "ByteLevel") == 0) return ST_OK;
    if (strcmp(type, "Sequence") == 0) {
        const jv *list = jv_get(spec, "processors");
        if (!jv_is(list, JV_ARR)) return err_set(ST_INVALID, "tokenizer.json: post_processor: processors is %s, wanted a list", jv_kind_name(jv_type(list)));
        if (depth > 16) return err_set(ST_LIMIT, "tokenizer.json: post_processor is nested too deeply");
        for (size_t i = 0; i < jv_len(list); i++) TRY(load(t, jv_at(list, i), depth + 1));
        return ST_OK;
    }
    i32vec tmpl = {0};
    status st;
    if (strcmp(type, "TemplateProcessing") == 0) st = load_template(spec, &tmpl);
    else if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) st = load_bert(spec, &tmpl);
    else st = err_set(ST_UNSUPPORTED, "tokenizer.json: post_processor type \"%s\" is not known", type);
    if (st == ST_OK) st = compose(t, &tmpl);
    i32vec_free(&tmpl);
    return st;
}

status post_load(tokenizer *t, const jv *spec)
{
    int32_t *seq = arena_alloc(&t->mem, sizeof *seq);
    if (!seq) return err_nomem();
    *seq = POST_SEQ;
    t->single = (post){ seq, 1, 1 };
    return load(t, spec, 0);
}
