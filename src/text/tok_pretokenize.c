/* Pre-tokenizers. Each stage hands every piece it makes straight to the next one, so no list of pieces is ever built. */
#include <string.h>

#include "text/tok_int.h"

static status stage(enc *e, size_t k, piece p);

/* ---- splitting by matches ---- */

typedef struct splitter { enc *e; size_t next; split_behavior how; bool any, prev_match; size_t from, to; piece p; } splitter;

static status emit(splitter *s, size_t from, size_t to)
{
    piece q = { s->p.s + from, to - from, s->p.zero > from ? s->p.zero - from : 0 };
    return q.n ? stage(s->e, s->next, q) : ST_OK;
}

/* Takes the parts of a text from left to right, matches and the gaps between them. The part being built is [from, to). */
static status part(splitter *s, size_t from, size_t to, bool match)
{
    bool prev = s->prev_match, join = false;
    switch (s->how) {
    case BEHAVE_REMOVED: return match ? ST_OK : emit(s, from, to);
    case BEHAVE_ISOLATED: return emit(s, from, to);
    case BEHAVE_CONTIGUOUS: join = match == prev && s->any; break;
    case BEHAVE_PREVIOUS: join = match && !prev && s->any; break;
    case BEHAVE_NEXT: join = !match && prev && s->any; break; /* decided when the follower is known */
    }
    s->prev_match = match;
    if (join) {
        s->to = to;
        return ST_OK;
    }
    if (s->any) TRY(emit(s, s->from, s->to));
    s->any = true;
    s->from = from;
    s->to = to;
    return ST_OK;
}

static status part_end(splitter *s) { return s->any ? emit(s, s->from, s->to) : ST_OK; }

static splitter splitter_for(enc *e, size_t next, split_behavior how, piece p)
{
    return (splitter){ .e = e, .next = next, .how = how, .p = p };
}

static status split_pattern_stage(enc *e, const pretok *t, size_t next, piece p)
{
    splitter s = splitter_for(e, next, t->behavior, p);
    pattern_iter it = {0};
    size_t done = 0, from, to;
    for (bool found;;) {
        TRY(pattern_next(&t->pat, e, p.s, p.n, &it, &found, &from, &to));
        if (!found) break;
        if (from > done) TRY(part(&s, done, from, t->invert));
        TRY(part(&s, from, to, !t->invert));
        done = to;
    }
    if (done < p.n) TRY(part(&s, done, p.n, t->invert));
    return part_end(&s);
}

/* Splits at single characters that a test picks. */
static status split_chars(enc *e, const pretok *t, size_t next, piece p, split_behavior how, bool (*is)(const pretok *, uint32_t))
{
    splitter s = splitter_for(e, next, how, p);
    size_t done = 0;
    for (size_t i = 0; i < p.n;) {
        size_t j = i;
        if (is(t, uni_next(p.s, &j))) {
            if (i > done) TRY(part(&s, done, i, false));
            TRY(part(&s, i, j, true));
            done = j;
        }
        i = j;
    }
    if (done < p.n) TRY(part(&s, done, p.n, false));
    return part_end(&s);
}

static bool is_space(const pretok *t, uint32_t c) { (void)t; return uni_is_space(c); }
static bool is_delimiter(const pretok *t, uint32_t c) { return c == t->ch; }
static bool is_digit(const pretok *t, uint32_t c) { (void)t; return uni_is_numeric(c); }
static bool is_ascii_punct(uint32_t c) { return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126); }
static bool is_punct(const pretok *t, uint32_t c) { (void)t; return is_ascii_punct(c) || uni_is_punctuation_8(c); }

/* White space goes; punctuation stands alone. */
static status bert(enc *e, size_t next, piece p)
{
    for (size_t i = 0, j, from = 0; i <= p.n; i = j) {
        uint32_t c = ' ';
        j = i + 1;
        if (i < p.n) {
            j = i;
            c = uni_next(p.s, &j);
        }
        bool space = uni_is_space(c), punct = !space && is_punct(NULL, c);
        if (!space && !punct) continue;
        splitter s = splitter_for(e, next, BEHAVE_ISOLATED, p);
        if (i > from) TRY(emit(&s, from, i));
        if (punct) TRY(emit(&s, i, j));
        from = j;
    }
    return ST_OK;
}

/* \w+|[^\w\s]+, what lies between removed. */
static status whitespace(enc *e, size_t next, piece p)
{
    int kind = 0; /* 0 space, 1 word, 2 other */
    size_t from = 0;
    splitter s = splitter_for(e, next, BEHAVE_ISOLATED, p);
    for (size_t i = 0, j; i < p.n; i = j) {
        j = i;
        uint32_t c = uni_next(p.s, &j);
        int k = uni_is_word(c) ? 1 : uni_is_space(c) ? 0 : 2;
        if (k == kind) continue;
        if (kind) TRY(emit(&s, from, i));
        kind = k;
        from = i;
    }
    return kind ? emit(&s, from, p.n) : ST_OK;
}

/* Cuts where the script changes; "any" (unassigned, and the space) joins whatever is there. */
static status scripts(enc *e, size_t next, piece p)
{
    int last = UNI_SCRIPT_ANY - 1; /* nothing seen yet */
    bool begun = false;
    size_t from = 0;
    splitter s = splitter_for(e, next, BEHAVE_ISOLATED, p);
    for (size_t i = 0, j; i < p.n; i = j) {
        j = i;
        int k = uni_script(uni_next(p.s, &j));
        if (k == UNI_SCRIPT_ANY) continue;
        if (last != k) {
            /* What stands before the first script is lost: the package starts its first range there. */
            if (begun) TRY(emit(&s, from, i));
            begun = true;
            from = i;
        }
        last = k;
    }
    return begun ? emit(&s, from, p.n) : ST_OK;
}

static status fixed_length(enc *e, const pretok *t, size_t next, piece p)
{
    splitter s = splitter_for(e, next, BEHAVE_ISOLATED, p);
    for (size_t i = 0, j = 0; i < p.n; i = j) {
        for (size_t k = 0; k < t->length && j < p.n; k++) uni_next(p.s, &j);
        TRY(emit(&s, i, j));
    }
    return ST_OK;
}

/* ---- rewriting ---- */

static status metaspace(enc *e, const pretok *t, size_t k, piece p)
{
    buf *b = &e->stage[k];
    buf_clear(b);
    bool lead = p.n >= t->replacement.n && memcmp(p.s, t->replacement.s, t->replacement.n) == 0;
    lead |= p.s[0] == ' ';
    bool prepend = !lead && (t->scheme == PREPEND_ALWAYS || (t->scheme == PREPEND_FIRST && p.zero > 0));
    if (prepend) buf_append(b, t->replacement.s, t->replacement.n);
    size_t zero = p.zero ? p.zero + (prepend ? t->replacement.n : 0) : 0;
    for (size_t i = 0; i < p.n;) {
        const char *sp = memchr(p.s + i, ' ', p.n - i);
        size_t j = sp ? (size_t)(sp - p.s) : p.n;
        buf_append(b, p.s + i, j - i);
        if (!sp) break;
        buf_append(b, t->replacement.s, t->replacement.n);
        if (j < p.zero) zero += t->replacement.n - 1;
        i = j + 1;
    }
    TRY(buf_status(b));
    piece q = { b->data, b->len, zero };
    if (!t->split) return stage(e, k + 1, q);
    splitter s = splitter_for(e, k + 1, BEHAVE_NEXT, q);
    size_t rn = t->replacement.n, done = 0;
    for (size_t i = 0; i + rn <= q.n;) {
        if (memcmp(q.s + i, t->replacement.s, rn) != 0) {
            i++;
            continue;
        }
        if (i > done) TRY(part(&s, done, i, false));
        TRY(part(&s, i, i + rn, true));
        done = i += rn;
    }
    if (done < q.n) TRY(part(&s, done, q.n, false));
    return part_end(&s);
}

static status byte_level(enc *e, const pretok *t, size_t k, piece p)
{
    buf *b = &e->stage[k];
    if (t->add_prefix_space && p.s[0] != ' ') {
        buf_clear(b);
        buf_char(b, ' ');
        buf_append(b, p.s, p.n);
        TRY(buf_status(b));
        p = (piece){ b->data, b->len, p.zero ? p.zero + 1 : 0 };
    }
    if (!t->use_regex) return stage(e, k + 1, p);
    size_t pos = 0, from, to;
    splitter s = splitter_for(e, k + 1, BEHAVE_ISOLATED, p);
    while (split_next(SPLIT_GPT2, p.s, p.n, pos, &from, &to)) { /* it covers every character */
        TRY(emit(&s, from, to));
        pos = to;
    }
    return ST_OK;
}

/* The byte alphabet is written out only if something after this stage reads it. */
static status spell(enc *e, size_t k, piece p)
{
    const tokenizer *t = e->t;
    if (k == t->n_pres) return model_encode(e, p.s, p.n, true);
    buf b = {0};
    bytes_to_symbols(p.s, p.n, &b);
    status st = buf_status(&b);
    if (st == ST_OK) st = stage(e, k, (piece){ b.data, b.len, p.zero });
    buf_free(&b);
    return st;
}

/* ---- the chain ---- */

/* Stages k and up of the list that pre_load flattened. A ByteLevel is two entries: its split and its spelling. */
static status stage(enc *e, size_t k, piece p)
{
    const tokenizer *t = e->t;
    if (k == t->n_pres) return model_encode(e, p.s, p.n, false);
    const pretok *x = &t->pres[k];
    switch (x->kind) {
    case PRE_BYTE_LEVEL_SPLIT: return byte_level(e, x, k, p);
    case PRE_BYTE_LEVEL: return spell(e, k + 1, p);
    case PRE_SPLIT: return split_pattern_stage(e, x, k + 1, p);
    case PRE_METASPACE: return metaspace(e, x, k, p);
    case PRE_WHITESPACE: return whitespace(e, k + 1, p);
    case PRE_WHITESPACE_SPLIT: return split_chars(e, x, k + 1, p, BEHAVE_REMOVED, is_space);
    case PRE_BERT: return bert(e, k + 1, p);
    case PRE_PUNCTUATION: return split_chars(e, x, k + 1, p, x->behavior, is_punct);
    case PRE_DIGITS: return split_chars(e, x, k + 1, p, x->individual ? BEHAVE_ISOLATED : BEHAVE_CONTIGUOUS, is_digit);
    case PRE_DELIMITER: return split_chars(e, x, k + 1, p, BEHAVE_REMOVED, is_delimiter);
    case PRE_SCRIPTS: return scripts(e, k + 1, p);
    case PRE_FIXED_LENGTH: return fixed_length(e, x, k + 1, p);
    }
    return ST_OK;
}

status pre_run(enc *e, piece in)
{
    if (e->t->n_pres && in.n == 0) return ST_OK; /* pre-tokenizers drop empty pieces; without any the model sees them */
    return stage(e, 0, in);
}
