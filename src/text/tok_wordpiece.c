/* WordPiece (longest token first, from the left) and WordLevel (the piece is the token). */
#include <string.h>

#include "text/tok_int.h"

static status push_unknown(enc *e)
{
    const model *m = &e->t->m;
    if (m->unk < 0) return err_set(ST_INVALID, "the unknown token \"%s\" is not in the vocabulary", m->unk_token.s);
    i32vec_push(e->out, m->unk);
    return ST_OK;
}

/* The longest token at s[0..n): its length, 0 if there is none. `word` has room for prefix and text. */
static size_t longest(const model *m, buf *word, const char *s, size_t n, bool first, int32_t *id)
{
    size_t lead = first ? 0 : m->prefix.n;
    if (n > m->v.max_len) { /* nothing longer can be there; cut between characters */
        n = m->v.max_len + 1;
        while (n > 0 && ((unsigned char)s[n] & 0xC0) == 0x80) n--;
    }
    buf_clear(word);
    buf_append(word, m->prefix.s ? m->prefix.s : "", lead);
    buf_append(word, s, n);
    if (word->failed) return 0;
    while (n > 0) {
        *id = vocab_find(&m->v, word->data, lead + n);
        if (*id >= 0) return n;
        n = uni_back(s, n);
    }
    return 0;
}

status wordpiece_encode(enc *e, const char *s, size_t n)
{
    const model *m = &e->t->m;
    size_t mark = e->out->len;
    size_t chars = 0;
    for (size_t i = 0; i < n; i++) chars += ((unsigned char)s[i] & 0xC0) != 0x80;
    if (chars > m->max_chars) return push_unknown(e);
    for (size_t i = 0; i < n;) {
        int32_t id;
        size_t len = longest(m, &e->word, s + i, n - i, i == 0, &id);
        TRY(buf_status(&e->word));
        if (len == 0) {
            e->out->len = mark;
            return push_unknown(e);
        }
        i32vec_push(e->out, id);
        i += len;
    }
    return ST_OK;
}

status wordlevel_encode(enc *e, const char *s, size_t n)
{
    int32_t id = vocab_find(&e->t->m.v, s, n);
    if (id < 0) return push_unknown(e);
    i32vec_push(e->out, id);
    return ST_OK;
}
