/* Incremental detokenisation. With a ByteLevel decoder the text is a byte stream of which complete characters are given
 * out. Otherwise new tokens are decoded behind one token of context, and given out once they do not end in a character
 * that further byte tokens could complete. */
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/tok_decode.h"

struct detok {
    const tokenizer *t;
    bool skip_special, join_added;  /* join_added: no space between adjacent added tokens */
    bool last_added;
    buf bytes;                      /* ByteLevel: bytes not given out yet */
    int32_t ctx;                    /* others: the token before `pending`, -1: none yet, the text begins there */
    i32vec pending;
};

static bool skipped(const detok *d, int32_t id) { return d->skip_special && tok_skips(d->t, id); }

/* The bytes at the end of a token list that belong to byte tokens, oldest first. */
static size_t tail_bytes(const tokenizer *t, const i32vec *ids, char *dst, size_t cap)
{
    size_t from = ids->len;
    while (from > 0 && tok_is_byte_token(t, ids->data[from - 1])) from--;
    size_t k = 0;
    if (ids->len - from > cap) from = ids->len - cap;
    for (; from < ids->len; from++) {
        size_t n;
        const char *s = tok_spelling(t, ids->data[from], &n);
        dst[k++] = (char)bytes_fallback(s, n);
    }
    return k;
}

status detok_new(const tokenizer *t, const int32_t *prompt, size_t n_prompt, bool skip_special,
                 bool spaces_between_special, detok **out)
{
    detok *d = mem_calloc(1, sizeof *d);
    if (!d) return err_nomem();
    d->t = t;
    d->skip_special = skip_special;
    d->join_added = !skip_special && !spaces_between_special;
    d->ctx = -1;
    /* The last token of the prompt that shows, and is not part of a character, is the context. */
    for (size_t i = n_prompt; i-- > 0 && d->ctx < 0;) {
        size_t n;
        if (!tok_spelling(t, prompt[i], &n) || skipped(d, prompt[i])) continue;
        d->ctx = tok_is_byte_token(t, prompt[i]) && t->context_id >= 0 ? t->context_id : prompt[i];
    }
    *out = d;
    return ST_OK;
}

void detok_free(detok *d)
{
    if (!d) return;
    buf_free(&d->bytes);
    i32vec_free(&d->pending);
    mem_free(d);
}

static status give_bytes(detok *d, size_t keep, buf *out)
{
    size_t n = d->bytes.len - keep;
    tok_lossy(buf_cstr(&d->bytes), n, out);
    if (keep) memmove(d->bytes.data, d->bytes.data + n, keep);
    d->bytes.len = keep;
    return buf_status(out);
}

/* Text of `pending` behind the context, appended. */
static status give_pending(detok *d, buf *out)
{
    const tokenizer *t = d->t;
    buf before = {0}, all = {0};
    i32vec ids = {0};
    status st = ST_OK;
    if (d->ctx >= 0) {
        i32vec_push(&ids, d->ctx);
        TRY_OUT(tokenizer_decode(t, &d->ctx, 1, d->skip_special, &before));
    }
    i32vec_append(&ids, d->pending.data, d->pending.len);
    TRY_OUT(i32vec_status(&ids));
    TRY_OUT(tokenizer_decode(t, ids.data, ids.len, d->skip_special, &all));
    if (all.len > before.len) {
        size_t from = before.len; /* decoders that rewrite the context could leave this inside a character */
        while (from < all.len && ((unsigned char)all.data[from] & 0xC0) == 0x80) from++;
        buf_append(out, all.data + from, all.len - from);
        TRY_OUT(buf_status(out));
    }
    if (all.len > before.len || d->ctx >= 0) {
        int32_t last = d->pending.data[d->pending.len - 1];
        d->ctx = tok_is_byte_token(t, last) && t->context_id >= 0 ? t->context_id : last;
    }
    /* Before the first text everything stays: the next token may still be the first that shows. */
    if (d->ctx >= 0) d->pending.len = 0;
out:
    buf_free(&before);
    buf_free(&all);
    i32vec_free(&ids);
    return st;
}


static status push(detok *d, int32_t id, buf *out)
{
    const tokenizer *t = d->t;
    if (t->byte_level_only) {
        buf_append(&d->bytes, t->raw_tokens[id].s, t->raw_tokens[id].n);
        TRY(buf_status(&d->bytes));
        return give_bytes(d, utf8_incomplete_tail(buf_cstr(&d->bytes), d->bytes.len), out);
    }
    i32vec_push(&d->pending, id);
    TRY(i32vec_status(&d->pending));
    char tail[8];
    size_t n = 0;
    if (tok_has_decoder(t, DEC_BYTE_FALLBACK)) n = tail_bytes(t, &d->pending, tail, sizeof tail);
    if (n && utf8_incomplete_tail(tail, n)) return ST_OK;
    return give_pending(d, out);
}

status detok_push(detok *d, int32_t id, buf *out)
{
    size_t n;
    const char *s = tok_spelling(d->t, id, &n);
    if (!s || skipped(d, id)) return ST_OK; /* models have more logits than their vocabulary has tokens */
    bool is_added = tokenizer_is_added(d->t, id), join = d->join_added && is_added && d->last_added;
    d->last_added = is_added;
    if (!join) return push(d, id, out);
    TRY(detok_flush(d, out));
    buf_append(out, s, n);
    d->ctx = id;
    return buf_status(out);
}

status detok_flush(detok *d, buf *out)
{
    if (d->bytes.len) return give_bytes(d, 0, out);
    if (d->pending.len == 0) return ST_OK;
    TRY(give_pending(d, out));
    d->pending.len = 0;
    return ST_OK;
}

/* ---- single tokens ---- */

status tokenizer_token_bytes(const tokenizer *t, int32_t id, buf *out)
{
    size_t n;
    const char *s = tok_spelling(t, id, &n);
    if (!s) return err_set(ST_INVALID, "token id %d is not in the vocabulary (%zu ids)", id, t->n_ids);
    if (t->byte_level_only) {
        buf_append(out, t->raw_tokens[id].s, t->raw_tokens[id].n);
        return buf_status(out);
    }
    int b = tok_has_decoder(t, DEC_BYTE_FALLBACK) ? bytes_fallback(s, n) : -1;
    if (b >= 0) {
        buf_char(out, (char)b);
        return buf_status(out);
    }
    if (tokenizer_is_added(t, id)) {
        buf_append(out, s, n);
        return buf_status(out);
    }
    /* In the middle of a text: behind another token. */
    detok d = { .t = t, .ctx = t->context_id };
    i32vec_push(&d.pending, id);
    status st = i32vec_status(&d.pending);
    if (st == ST_OK) st = give_pending(&d, out);
    i32vec_free(&d.pending);
    return st;
}

static bool broken(const buf *b) { return b->len >= 3 && memcmp(b->data + b->len - 3, "\xEF\xBF\xBD", 3) == 0; }

/* Decodes ids[from..i] and takes off what the complete tokens before say; false while the character is incomplete. */
static status with_context(const tokenizer *t, const int32_t *ids, size_t from, size_t i, buf *full, buf *clean, bool *done)
{
    *done = false;
    buf_clear(full);
    TRY(tokenizer_decode(t, ids + from, i + 1 - from, false, full));
    if (broken(full)) return ST_OK;
    size_t end = i;
    for (; end > from; end--) {
        buf_clear(clean);
        TRY(tokenizer_decode(t, ids + end - 1, 1, false, clean));
        if (!broken(clean)) break;
    }
    buf_clear(clean);
    TRY(tokenizer_decode(t, ids + from, end - from, false, clean));
    *done = true;
    return ST_OK;
}

status tokenizer_logprob_text(const tokenizer *t, const int32_t *ids, size_t i, buf *out)
{
    buf full = {0}, clean = {0};
    status st = ST_OK;
    TRY_OUT(tokenizer_decode(t, ids + i, 1, false, &full));
    bool done = !broken(&full);
    for (size_t k = 1; !done && k <= 4 && k <= i; k++) TRY_OUT(with_context(t, ids, i - k, i, &full, &clean, &done));
    if (done) {
        bool prefix = full.len >= clean.len && memcmp(buf_cstr(&full), buf_cstr(&clean), clean.len) == 0;
        size_t from = prefix ? clean.len : 0;
        buf_append(out, buf_cstr(&full) + from, full.len - from);
        st = buf_status(out);
    }
out:
    buf_free(&full);
    buf_free(&clean);
    return st;
}
