/* Decoders: from the spellings of a list of ids to text. The chain works on a list of strings, as its definition does;
 * the common case, ByteLevel alone, only concatenates bytes that were prepared while loading. */
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_decode.h"

/* ---- loading ---- */

static status load_replace(tokenizer *t, const jv *spec, decoder *d)
{
    TRY(tok_get_str(&t->mem, spec, "decoder", "content", true, &d->text));
    return pattern_new(&t->mem, jv_get(spec, "pattern"), "decoder", &d->pat);
}

static status load_count(const jv *spec, const char *key, size_t *out)
{
    int64_t v = jv_get_i64(spec, key, 0);
    if (v < 0) return err_set(ST_INVALID, "tokenizer.json: decoder.%s is %lld", key, (long long)v);
    *out = (size_t)v;
    return ST_OK;
}

static status load_one(tokenizer *t, const jv *spec, const char *type)
{
    static const struct { const char *name; dec_kind kind; } names[] = {
        { "ByteLevel", DEC_BYTE_LEVEL }, { "Metaspace", DEC_METASPACE }, { "ByteFallback", DEC_BYTE_FALLBACK }, { "Fuse", DEC_FUSE },
        { "Strip", DEC_STRIP }, { "Replace", DEC_REPLACE }, { "WordPiece", DEC_WORDPIECE }, { "BPEDecoder", DEC_BPE }, { "CTC", DEC_CTC },
    };
    size_t k = 0, n = sizeof names / sizeof *names;
    while (k < n && strcmp(names[k].name, type) != 0) k++;
    if (k == n) return err_set(ST_UNSUPPORTED, "tokenizer.json: decoder type \"%s\" is not known", type);
    decoder *d = &t->decs[t->n_decs++];
    d->kind = names[k].kind;
    bool add = true;
    switch (d->kind) {
    case DEC_METASPACE:
        TRY(tok_get_str(&t->mem, spec, "decoder", "replacement", true, &d->ch));
        TRY(tok_get_bool(spec, "decoder", "add_prefix_space", true, &add));
        d->drop_first = strcmp(jv_get_str(spec, "prepend_scheme", add ? "always" : "never"), "never") != 0;
        return ST_OK;
    case DEC_STRIP:
        TRY(tok_get_str(&t->mem, spec, "decoder", "content", true, &d->ch));
        if (d->ch.n == 0) return err_set(ST_INVALID, "tokenizer.json: decoder.content is empty, wanted one character");
        TRY(load_count(spec, "start", &d->start));
        return load_count(spec, "stop", &d->stop);
    case DEC_REPLACE: return load_replace(t, spec, d);
    case DEC_WORDPIECE:
        TRY(tok_get_str(&t->mem, spec, "decoder", "prefix", true, &d->text));
        return tok_get_bool(spec, "decoder", "cleanup", true, &d->cleanup);
    case DEC_BPE: return tok_get_str(&t->mem, spec, "decoder", "suffix", true, &d->text);
    case DEC_CTC:
        TRY(tok_get_str(&t->mem, spec, "decoder", "pad_token", true, &d->text));
        TRY(tok_get_str(&t->mem, spec, "decoder", "word_delimiter_token", true, &d->delimiter));
        return tok_get_bool(spec, "decoder", "cleanup", true, &d->cleanup);
    default: return ST_OK;
    }
}

enum { MAX_DECS = 64 };

static status load(tokenizer *t, const jv *spec, int depth)
{
    if (!spec || jv_is(spec, JV_NULL)) return ST_OK;
    const char *type = jv_get_str(spec, "type", NULL);
    if (!type) return err_set(ST_INVALID, "tokenizer.json: decoder has no type");
    if (strcmp(type, "Sequence") != 0) {
        if (t->n_decs == MAX_DECS) return err_set(ST_LIMIT, "tokenizer.json: decoder has more than %d steps", MAX_DECS);
        return load_one(t, spec, type);
    }
    const jv *list = jv_get(spec, "decoders");
    if (!jv_is(list, JV_ARR)) return err_set(ST_INVALID, "tokenizer.json: decoder: decoders is %s, wanted a list", jv_kind_name(jv_type(list)));
    if (depth > 16) return err_set(ST_LIMIT, "tokenizer.json: decoder is nested too deeply");
    for (size_t i = 0; i < jv_len(list); i++) TRY(load(t, jv_at(list, i), depth + 1));
    return ST_OK;
}

status dec_load(tokenizer *t, const jv *spec)
{
    t->decs = arena_calloc(&t->mem, MAX_DECS, sizeof *t->decs);
    if (!t->decs) return err_nomem();
    TRY(load(t, spec, 0));
    t->has_decoder = spec && !jv_is(spec, JV_NULL);
    return ST_OK;
}

/* The bytes behind a spelling: its own if it has a character outside the byte alphabet. */
static status symbol_bytes(const char *s, size_t n, buf *out)
{
    if (!bytes_from_symbols(s, n, out)) buf_append(out, s, n);
    return buf_status(out);
}

static status prepare_bytes(tokenizer *t)
{
    t->raw_tokens = arena_calloc(&t->mem, t->n_ids + 1, sizeof *t->raw_tokens);
    if (!t->raw_tokens) return err_nomem();
    buf b = {0};
    status st = ST_OK;
    for (size_t id = 0; id < t->n_ids; id++) {
        size_t n, nr;
        const char *s = tok_spelling(t, (int32_t)id, &n), *r;
        if (!s) continue;
        if (!added_find(t, (int32_t)id) && (r = vocab_text(&t->m.raw_v, (int32_t)id, &nr)) != NULL) {
            t->raw_tokens[id] = (span){ r, nr }; /* the model has it already */
            continue;
        }
        buf_clear(&b);
        TRY_OUT(symbol_bytes(s, n, &b));
        TRY_OUT(tok_copy(&t->mem, buf_cstr(&b), b.len, &t->raw_tokens[id]));
    }
out:
    buf_free(&b);
    return st;
}

bool tok_has_decoder(const tokenizer *t, dec_kind kind)
{
    for (size_t i = 0; i < t->n_decs; i++)
        if (t->decs[i].kind == kind) return true;
    return false;
}

/* The package compares what it shows with the names of special tokens: one that normalization changed is not skipped. */
bool tok_skips(const tokenizer *t, int32_t id)
{
    const added_token *a = added_find(t, id);
    return a && a->special && a->shown.n == a->content.n && memcmp(a->shown.s, a->content.s, a->content.n) == 0;
}

bool tok_is_byte_token(const tokenizer *t, int32_t id)
{
    size_t n;
    const char *s = tok_spelling(t, id, &n);
    return s && bytes_fallback(s, n) >= 0;
}

/* A letter that is a token: what other tokens are decoded behind when their own context is gone. */
static int32_t find_context(const tokenizer *t)
{
    for (const char *p = "aetionsrAETIONSR0123456789.,-"; *p; p++) {
        int32_t id = tokenizer_token_id(t, p, 1);
        if (id >= 0 && !added_find(t, id)) return id;
    }
    return -1;
}

status dec_finish(tokenizer *t)
{
    t->byte_level_only = t->n_decs == 1 && t->decs[0].kind == DEC_BYTE_LEVEL;
    t->context_id = find_context(t);
    return tok_has_decoder(t, DEC_BYTE_LEVEL) ? prepare_bytes(t) : ST_OK;
}

/* ---- the list of strings ---- */

typedef struct list { buf text; size_t *end; size_t n, cap; } list; /* string i is text[end[i-1] .. end[i]) */

static span at(const list *l, size_t i)
{
    size_t from = i ? l->end[i - 1] : 0;
    return (span){ buf_cstr(&l->text) + from, l->end[i] - from };
}

/* Closes the string that was appended to text. */
static status close(list *l)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        size_t *p = mem_realloc_array(l->end, cap, sizeof *p);
        if (!p) return err_nomem();
        l->end = p;
        l->cap = cap;
    }
    l->end[l->n++] = l->text.len;
    return buf_status(&l->text);
}

static void list_clear(list *l)
{
    buf_clear(&l->text);
    l->n = 0;
}

static void list_free(list *l)
{
    buf_free(&l->text);
    mem_free(l->end);
}

/* Appends s with every `what` replaced. */
static void replace_all(buf *out, span s, span what, span with)
{
    size_t i = 0;
    while (what.n && i < s.n) {
        const char *p = memmem(s.s + i, s.n - i, what.s, what.n);
        if (!p) break;
        buf_append(out, s.s + i, (size_t)(p - s.s) - i);
        buf_append(out, with.s, with.n);
        i = (size_t)(p - s.s) + what.n;
    }
    buf_append(out, s.s + i, s.n - i);
}

#define SPAN(lit) ((span){ lit, sizeof lit - 1 })

/* Takes back the spaces that tokenizing put around punctuation and English contractions. */
static status cleanup(span s, buf *out)
{
    static const span rules[][2] = {
        { SPAN(" ."), SPAN(".") }, { SPAN(" ?"), SPAN("?") }, { SPAN(" !"), SPAN("!") }, { SPAN(" ,"), SPAN(",") },
        { SPAN(" ' "), SPAN("'") }, { SPAN(" n't"), SPAN("n't") }, { SPAN(" 'm"), SPAN("'m") }, { SPAN(" do not"), SPAN(" don't") },
        { SPAN(" 's"), SPAN("'s") }, { SPAN(" 've"), SPAN("'ve") }, { SPAN(" 're"), SPAN("'re") },
    };
    if (!memchr(s.s, ' ', s.n)) {
        buf_append(out, s.s, s.n);
        return buf_status(out);
    }
    buf a = {0}, b = {0};
    buf_append(&a, s.s, s.n);
    bool failed = a.failed;
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        buf_clear(&b);
        replace_all(&b, (span){ buf_cstr(&a), a.len }, rules[i][0], rules[i][1]);
        failed |= b.failed; /* clearing forgets it */
        buf swap = a;
        a = b;
        b = swap;
    }
    buf_append(out, buf_cstr(&a), a.len);
    failed |= out->failed;
    buf_free(&a);
    buf_free(&b);
    return failed ? err_nomem() : ST_OK;
}

static bool starts_with(span s, span p) { return s.n >= p.n && memcmp(s.s, p.s, p.n) == 0; }

static status byte_level(const list *in, list *out)
{
    buf bytes = {0};
    status st = ST_OK;
    for (size_t i = 0; i < in->n; i++) TRY_OUT(symbol_bytes(at(in, i).s, at(in, i).n, &bytes));
    tok_lossy(buf_cstr(&bytes), bytes.len, &out->text);
    st = close(out);
out:
    buf_free(&bytes);
    return st;
}

static status metaspace(const decoder *d, const list *in, list *out)
{
    for (size_t i = 0; i < in->n; i++) {
        replace_all(&out->text, at(in, i), d->ch, i == 0 && d->drop_first ? SPAN("") : SPAN(" "));
        TRY(close(out));
    }
    return ST_OK;
}

/* A run of byte tokens is its text if that is valid, else one U+FFFD for each byte. */
static status flush_bytes(buf *bytes, list *out)
{
    if (bytes->len == 0) return ST_OK;
    if (utf8_valid(bytes->data, bytes->len)) {
        buf_append(&out->text, bytes->data, bytes->len);
        TRY(close(out));
    } else {
        for (size_t i = 0; i < bytes->len; i++) {
            buf_utf8(&out->text, 0xFFFD);
            TRY(close(out));
        }
    }
    buf_clear(bytes);
    return ST_OK;
}

static status byte_fallback(const list *in, list *out)
{
    buf bytes = {0};
    status st = ST_OK;
    for (size_t i = 0; i < in->n; i++) {
        span s = at(in, i);
        int b = bytes_fallback(s.s, s.n);
        if (b >= 0) {
            buf_char(&bytes, (char)b);
            TRY_OUT(buf_status(&bytes));
            continue;
        }
        TRY_OUT(flush_bytes(&bytes, out));
        buf_append(&out->text, s.s, s.n);
        TRY_OUT(close(out));
    }
    st = flush_bytes(&bytes, out);
out:
    buf_free(&bytes);
    return st;
}

static status fuse(const list *in, list *out)
{
    buf_append(&out->text, buf_cstr(&in->text), in->text.len);
    return close(out);
}

static status strip(const decoder *d, const list *in, list *out)
{
    for (size_t i = 0; i < in->n; i++) {
        span s = at(in, i);
        for (size_t k = 0; k < d->start && starts_with(s, d->ch); k++) s = (span){ s.s + d->ch.n, s.n - d->ch.n };
        for (size_t k = 0; k < d->stop && s.n >= d->ch.n && memcmp(s.s + s.n - d->ch.n, d->ch.s, d->ch.n) == 0; k++) s.n -= d->ch.n;
        buf_append(&out->text, s.s, s.n);
        TRY(close(out));
    }
    return ST_OK;
}

static status replace(const decoder *d, enc *e, const list *in, list *out)
{
    for (size_t i = 0; i < in->n; i++) {
        span s = at(in, i);
        pattern_iter it = {0};
        size_t done = 0, from, to;
        for (bool found;; done = to) {
            TRY(pattern_next(&d->pat, e, s.s, s.n, &it, &found, &from, &to));
            if (!found) break;
            buf_append(&out->text, s.s + done, from - done);
            buf_append(&out->text, d->text.s, d->text.n);
        }
        buf_append(&out->text, s.s + done, s.n - done);
        TRY(close(out));
    }
    return ST_OK;
}

static status wordpiece(const decoder *d, const list *in, list *out)
{
    buf b = {0};
    status st = ST_OK;
    for (size_t i = 0; i < in->n; i++) {
        span s = at(in, i);
        buf_clear(&b);
        if (i > 0 && starts_with(s, d->text)) s = (span){ s.s + d->text.n, s.n - d->text.n };
        else if (i > 0) buf_char(&b, ' ');
        buf_append(&b, s.s, s.n);
        TRY_OUT(buf_status(&b));
        s = (span){ buf_cstr(&b), b.len };
        if (d->cleanup) TRY_OUT(cleanup(s, &out->text));
        else buf_append(&out->text, s.s, s.n);
        TRY_OUT(close(out));
    }
out:
    buf_free(&b);
    return st;
}

static status bpe(const decoder *d, const list *in, list *out)
{
    for (size_t i = 0; i < in->n; i++) {
        replace_all(&out->text, at(in, i), d->text, i + 1 == in->n ? SPAN("") : SPAN(" "));
        TRY(close(out));
    }
    return ST_OK;
}

static status ctc(const decoder *d, const list *in, list *out)
{
    buf a = {0}, b = {0};
    status st = ST_OK;
    for (size_t i = 0; i < in->n; i++) {
        span s = at(in, i), prev = i ? at(in, i - 1) : s;
        if (i && s.n == prev.n && memcmp(s.s, prev.s, s.n) == 0) continue;
        buf_clear(&a);
        replace_all(&a, s, d->text, SPAN(""));
        if (d->cleanup) {
            buf_clear(&b);
            TRY_OUT(cleanup((span){ buf_cstr(&a), a.len }, &b));
            buf_clear(&a);
            replace_all(&a, (span){ buf_cstr(&b), b.len }, d->delimiter, SPAN(" "));
        }
        TRY_OUT(buf_status(&a));
        if (a.len == 0) continue;
        buf_append(&out->text, a.data, a.len);
        TRY_OUT(close(out));
    }
out:
    buf_free(&a);
    buf_free(&b);
    return st;
}

static status step(const decoder *d, enc *e, const list *in, list *out)
{
    list_clear(out);
    switch (d->kind) {
    case DEC_BYTE_LEVEL: return byte_level(in, out);
    case DEC_METASPACE: return metaspace(d, in, out);
    case DEC_BYTE_FALLBACK: return byte_fallback(in, out);
    case DEC_FUSE: return fuse(in, out);
    case DEC_STRIP: return strip(d, in, out);
    case DEC_REPLACE: return replace(d, e, in, out);
    case DEC_WORDPIECE: return wordpiece(d, in, out);
    case DEC_BPE: return bpe(d, in, out);
    case DEC_CTC: return ctc(d, in, out);
    }
    return ST_OK;
}

/* ---- the whole ---- */

void tok_lossy(const char *s, size_t n, buf *out)
{
    size_t from = 0;
    for (size_t i = 0; i < n;) {
        if ((unsigned char)s[i] < 0x80) {
            i++;
            continue;
        }
        uint32_t cp;
        size_t len = utf8_decode(s + i, n - i, &cp);
        if (cp == UTF8_BAD) {
            buf_append(out, s + from, i - from);
            buf_utf8(out, 0xFFFD);
            from = i + len;
        }
        i += len;
    }
    buf_append(out, s + from, n - from);
}

static status check_ids(const tokenizer *t, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t len;
        if (!tok_spelling(t, ids[i], &len)) return err_set(ST_INVALID, "token id %d is not in the vocabulary (%zu ids)", ids[i], t->n_ids);
    }
    return ST_OK;
}

static status decode_bytes(const tokenizer *t, const int32_t *ids, size_t n, bool skip_special, buf *out)
{
    buf raw = {0};
    for (size_t i = 0; i < n; i++) {
        if (skip_special && tok_skips(t, ids[i])) continue;
        buf_append(&raw, t->raw_tokens[ids[i]].s, t->raw_tokens[ids[i]].n);
    }
    tok_lossy(buf_cstr(&raw), raw.len, out);
    bool failed = raw.failed || out->failed;
    buf_free(&raw);
    return failed ? err_nomem() : ST_OK;
}

static status decode_list(const tokenizer *t, const int32_t *ids, size_t n, bool skip_special, buf *out)
{
    list a = {0}, b = {0};
    enc e = { .t = t };
    status st = ST_OK;
    for (size_t i = 0; i < n; i++) {
        size_t len;
        if (skip_special && tok_skips(t, ids[i])) continue;
        const char *s = tok_spelling(t, ids[i], &len);
        if (!t->has_decoder && a.n) buf_char(&a.text, ' ');
        buf_append(&a.text, s, len);
        TRY_OUT(close(&a));
    }
    for (size_t i = 0; i < t->n_decs; i++) {
        TRY_OUT(step(&t->decs[i], &e, &a, &b));
        list swap = a;
        a = b;
        b = swap;
    }
    buf_append(out, buf_cstr(&a.text), a.text.len);
    st = buf_status(out);
out:
    list_free(&a);
    list_free(&b);
    enc_free(&e);
    return st;
}

status tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, bool skip_special, buf *out)
{
    TRY(check_ids(t, ids, n));
    size_t before = out->len;
    status st = t->byte_level_only ? decode_bytes(t, ids, n, skip_special, out) : decode_list(t, ids, n, skip_special, out);
    if (st != ST_OK) out->len = before;
    return st;
}
