/* Byte pair encoding: the adjacent pair of lowest rank (leftmost among equals) is merged until none is left.
 * Short pieces keep their ranks in an array and look for the minimum; long ones use a heap and a linked list, so that a
 * text without any place to cut costs n log n. */
#include <stdatomic.h>
#include <string.h>

#include "base/mem.h"
#include "text/tok_int.h"

enum { SMALL = 48, NO_RANK = -1 };
#define RANK_NONE UINT32_MAX
#define KEY_FREE UINT64_MAX
#define KEY(a, b) ((uint64_t)(uint32_t)(a) << 32 | (uint32_t)(b))

/* ---- the merge table ---- */

static inline size_t pair_hash(uint64_t key, size_t cap)
{
    key *= 0x9E3779B97F4A7C15ull;
    return (size_t)(key ^ key >> 29) & (cap - 1);
}

static inline const pair_slot *pair_find(const model *m, int32_t a, int32_t b)
{
    uint64_t key = KEY(a, b);
    size_t i = pair_hash(key, m->pairs_cap);
    for (;; i = (i + 1) & (m->pairs_cap - 1)) {
        const pair_slot *s = &m->pairs[i];
        if (s->key == key) return s;
        if (s->key == KEY_FREE) return NULL;
    }
}

status bpe_reserve(model *m, size_t n_merges)
{
    if (n_merges > 1u << 28) return err_set(ST_LIMIT, "tokenizer.json: model.merges has %zu entries", n_merges);
    size_t cap = 16;
    while (cap < n_merges * 2) cap *= 2;
    m->pairs = mem_array(cap, sizeof *m->pairs);
    if (!m->pairs) return err_nomem();
    for (size_t i = 0; i < cap; i++) m->pairs[i].key = KEY_FREE;
    m->pairs_cap = cap;
    return ST_OK;
}

void bpe_put(model *m, pair_slot s)
{
    size_t i = pair_hash(s.key, m->pairs_cap);
    while (m->pairs[i].key != KEY_FREE && m->pairs[i].key != s.key) i = (i + 1) & (m->pairs_cap - 1);
    m->pairs[i] = s;
}

static status find_part(const model *m, const char *s, size_t n, uint32_t rank, int32_t *id)
{
    *id = vocab_find(&m->v, s, n);
    if (*id >= 0) return ST_OK;
    return err_set(ST_INVALID, "tokenizer.json: model.merges[%u]: token \"%.*s\" is not in model.vocab", rank, (int)(n < 100 ? n : 100), s);
}

status bpe_add_merge(model *m, const char *a, size_t na, const char *b, size_t nb, uint32_t rank)
{
    int32_t ia, ib, iab;
    TRY(find_part(m, a, na, rank, &ia));
    TRY(find_part(m, b, nb, rank, &ib));
    size_t cut = m->prefix.n;
    if (cut > nb) return err_set(ST_INVALID, "tokenizer.json: model.merges[%u]: \"%.*s\" lacks the prefix \"%s\"", rank, (int)nb, b, m->prefix.s);
    char fixed[256], *ab = fixed;
    if (na + nb > sizeof fixed && !(ab = mem_alloc(na + nb))) return err_nomem();
    memcpy(ab, a, na);
    memcpy(ab + na, b + cut, nb - cut);
    status st = find_part(m, ab, na + nb - cut, rank, &iab);
    if (ab != fixed) mem_free(ab);
    TRY(st);
    bpe_put(m, (pair_slot){ KEY(ia, ib), rank, iab });
    return ST_OK;
}

/* ---- loading ---- */

static status raw_vocab(model *m)
{
    TRY(vocab_reserve(&m->raw_v, m->v.n, m->v.text_len));
    buf b = {0};
    status st = ST_OK;
    for (size_t id = 0; id < m->v.n_ids; id++) {
        size_t n;
        const char *s = vocab_text(&m->v, (int32_t)id, &n);
        buf_clear(&b);
        if (!s || !bytes_from_symbols(s, n, &b)) continue;
        TRY_OUT(buf_status(&b));
        TRY_OUT(vocab_add(&m->raw_v, buf_cstr(&b), b.len, (int32_t)id));
    }
out:
    buf_free(&b);
    return st;
}

/* True if no merge makes a token with U+2581 after another character. */
static bool spaces_lead(const model *m)
{
    static const char mark[] = "\xE2\x96\x81";
    if (vocab_find(&m->v, mark, 3) < 0 || m->prefix.n || m->suffix.n) return false;
    for (size_t i = 0; i < m->pairs_cap; i++) {
        if (m->pairs[i].key == KEY_FREE) continue;
        size_t n;
        const char *s = vocab_text(&m->v, m->pairs[i].id, &n);
        if (!s) return false;
        size_t lead = 0;
        while (n - lead >= 3 && memcmp(s + lead, mark, 3) == 0) lead += 3;
        for (const char *p = s + lead, *end = s + n; (p = memchr(p, mark[0], (size_t)(end - p))) != NULL; p++)
            if (end - p >= 3 && memcmp(p, mark, 3) == 0) return false;
    }
    return true;
}

status bpe_finish(model *m, bool byte_level)
{
    m->whole = mem_calloc(m->v.n_ids ? m->v.n_ids : 1, 1);
    if (!m->whole) return err_nomem();
    for (int c = 0; c < 128; c++) {
        char s = (char)c;
        m->ascii_id[c] = vocab_find(&m->v, &s, 1);
    }
    m->raw = byte_level && !m->prefix.n && !m->suffix.n && !m->byte_fallback;
    if (!m->raw) {
        m->cut_spaces = spaces_lead(m);
        return ST_OK;
    }
    TRY(raw_vocab(m));
    for (int b = 0; b < 256; b++) {
        char s = (char)b;
        m->byte_id[b] = vocab_find(&m->raw_v, &s, 1);
    }
    return ST_OK;
}

void bpe_work_free(bpe_work *w)
{
    mem_free(w->id);
    mem_free(w->rank);
    mem_free(w->merged);
    mem_free(w->prev);
    mem_free(w->next);
    mem_free(w->heap);
    *w = (bpe_work){0};
}

static status grow(void **p, size_t n, size_t size)
{
    void *q = mem_realloc_array(*p, n, size);
    if (!q) return err_nomem();
    *p = q;
    return ST_OK;
}

/* Room for n symbols. */
static status work_reserve(bpe_work *w, size_t n)
{
    if (n <= w->cap) return ST_OK;
    if (n > UINT32_MAX / 2) return err_set(ST_LIMIT, "a text without a place to cut is longer than 2 GiB");
    size_t cap = n < 4096 ? 4096 : n + n / 2;
    /* Freed sizes differ only on failure; cap grows when all five have. */
    TRY(grow((void **)&w->id, cap, sizeof *w->id));
    TRY(grow((void **)&w->rank, cap, sizeof *w->rank));
    TRY(grow((void **)&w->merged, cap, sizeof *w->merged));
    TRY(grow((void **)&w->prev, cap, sizeof *w->prev));
    TRY(grow((void **)&w->next, cap, sizeof *w->next));
    w->cap = cap;
    return ST_OK;
}

/* ---- merging ---- */

static inline void rate(const model *m, bpe_work *w, size_t i, size_t j)
{
    const pair_slot *p = pair_find(m, w->id[i], w->id[j]);
    w->rank[i] = p ? p->rank : RANK_NONE;
    w->merged[i] = p ? p->id : -1;
}

static size_t merge_small(const model *m, bpe_work *w, size_t n)
{
    for (size_t i = 0; i + 1 < n; i++) rate(m, w, i, i + 1);
    while (n > 1) {
        size_t at = 0;
        uint32_t best = w->rank[0];
        for (size_t i = 1; i + 1 < n; i++)
            if (w->rank[i] < best) {
                best = w->rank[i];
                at = i;
            }
        if (best == RANK_NONE) break;
        w->id[at] = w->merged[at];
        size_t tail = n - at - 2; /* symbols behind the pair */
        memmove(w->id + at + 1, w->id + at + 2, tail * sizeof *w->id);
        if (tail) {
            memmove(w->rank + at + 1, w->rank + at + 2, (tail - 1) * sizeof *w->rank);
            memmove(w->merged + at + 1, w->merged + at + 2, (tail - 1) * sizeof *w->merged);
        }
        n--;
        if (at > 0) rate(m, w, at - 1, at);
        if (at + 1 < n) rate(m, w, at, at + 1);
    }
    return n;
}

static void heap_push(bpe_work *w, uint64_t v)
{
    size_t i = w->heap_len++;
    while (i > 0) {
        size_t up = (i - 1) / 2;
        if (w->heap[up] <= v) break;
        w->heap[i] = w->heap[up];
        i = up;
    }
    w->heap[i] = v;
}

static void sift_down(bpe_work *w, size_t i, uint64_t v)
{
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= w->heap_len) break;
        if (c + 1 < w->heap_len && w->heap[c + 1] < w->heap[c]) c++;
        if (w->heap[c] >= v) break;
        w->heap[i] = w->heap[c];
        i = c;
    }
    w->heap[i] = v;
}

static uint64_t heap_pop(bpe_work *w)
{
    uint64_t top = w->heap[0], last = w->heap[--w->heap_len];
    if (w->heap_len) sift_down(w, 0, last);
    return top;
}

/* Every merge pushes at most two entries and there are fewer than n of them. */
static status heap_reserve(bpe_work *w, size_t n)
{
    if (n * 3 <= w->heap_cap) return ST_OK;
    TRY(grow((void **)&w->heap, n * 3, sizeof *w->heap));
    w->heap_cap = n * 3;
    return ST_OK;
}

#define ENTRY(rank, pos) ((uint64_t)(rank) << 32 | (uint64_t)(pos))

static status merge_long(const model *m, bpe_work *w, size_t n, size_t *n_out)
{
    const uint32_t end = UINT32_MAX;
    TRY(heap_reserve(w, n));
    w->heap_len = 0;
    for (size_t i = 0; i < n; i++) {
        w->prev[i] = i ? (uint32_t)i - 1 : end;
        w->next[i] = i + 1 < n ? (uint32_t)i + 1 : end;
        w->rank[i] = RANK_NONE;
        if (i + 1 < n) rate(m, w, i, i + 1);
        if (w->rank[i] != RANK_NONE) w->heap[w->heap_len++] = ENTRY(w->rank[i], i);
    }
    for (size_t i = w->heap_len / 2; i-- > 0;) sift_down(w, i, w->heap[i]);
    while (w->heap_len) {
        uint64_t top = heap_pop(w);
        uint32_t at = (uint32_t)top;
        if (w->rank[at] != (uint32_t)(top >> 32) || w->rank[at] == RANK_NONE) continue; /* an older state of this place */
        uint32_t gone = w->next[at], after = w->next[gone], before = w->prev[at];
        w->id[at] = w->merged[at];
        w->next[at] = after;
        w->rank[gone] = RANK_NONE;
        w->id[gone] = -1;
        w->rank[at] = RANK_NONE;
        if (after != end) {
            w->prev[after] = at;
            rate(m, w, at, after);
            if (w->rank[at] != RANK_NONE) heap_push(w, ENTRY(w->rank[at], at));
        }
        if (before != end) {
            rate(m, w, before, at);
            if (w->rank[before] != RANK_NONE) heap_push(w, ENTRY(w->rank[before], before));
        }
    }
    size_t k = 0;
    for (uint32_t i = 0; i != end; i = w->next[i]) w->id[k++] = w->id[i];
    *n_out = k;
    return ST_OK;
}

static status merge(const model *m, bpe_work *w, size_t n, size_t *n_out)
{
    if (n > SMALL) return merge_long(m, w, n, n_out);
    *n_out = merge_small(m, w, n);
    return ST_OK;
}

/* ---- symbols of a piece that is not plain bytes ---- */

typedef struct pending { int32_t id; } pending; /* an unknown token not yet written: more may fuse with it */

static int32_t char_id(const model *m, buf *word, const char *s, size_t n, bool first, bool last)
{
    if ((first || !m->prefix.n) && (!last || !m->suffix.n))
        return n == 1 && (unsigned char)s[0] < 0x80 ? m->ascii_id[(unsigned char)s[0]] : vocab_find(&m->v, s, n);
    buf_clear(word);
    if (!first) buf_append(word, m->prefix.s, m->prefix.n);
    buf_append(word, s, n);
    if (last) buf_append(word, m->suffix.s, m->suffix.n);
    return vocab_find(&m->v, buf_cstr(word), word->len);
}

/* Writes the byte tokens of a character; false if one is missing. */
static bool fall_back(const model *m, const buf *word, const char *s, size_t n, int32_t *id, size_t *k)
{
    /* With prefix or suffix the package falls back on the bytes of those too. */
    if (word) {
        s = buf_cstr(word);
        n = word->len;
    }
    for (size_t i = 0; i < n; i++)
        if (m->byte_token[(unsigned char)s[i]] < 0) return false;
    for (size_t i = 0; i < n; i++) id[(*k)++] = m->byte_token[(unsigned char)s[i]];
    return true;
}

static status unknown(const model *m, pending *p, int32_t *id, size_t *k)
{
    if (!m->unk_token.s) return ST_OK; /* dropped, as the package does */
    if (m->unk < 0) return err_set(ST_INVALID, "the unknown token \"%s\" is not in the vocabulary", m->unk_token.s);
    if (p->id >= 0 && !m->fuse_unk) id[(*k)++] = p->id;
    p->id = m->unk;
    return ST_OK;
}

static status symbols(enc *e, const char *s, size_t n, size_t *n_out)
{
    const model *m = &e->t->m;
    bool affixes = m->prefix.n || m->suffix.n;
    TRY(work_reserve(&e->bpe, n * (affixes ? 1 + m->prefix.n : 1) + m->suffix.n + 1));
    int32_t *id = e->bpe.id;
    pending p = { -1 };
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        size_t j = i;
        uni_next(s, &j);
        bool first = i == 0, last = j == n;
        int32_t c = char_id(m, &e->word, s + i, j - i, first, last);
        bool built = affixes && !((first || !m->prefix.n) && (!last || !m->suffix.n));
        if (built) TRY(buf_status(&e->word));
        if (c >= 0) {
            if (p.id >= 0) id[k++] = p.id;
            p.id = -1;
            id[k++] = c;
        } else if (!m->byte_fallback || !fall_back(m, built ? &e->word : NULL, s + i, j - i, id, &k)) {
            TRY(unknown(m, &p, id, &k));
        }
        i = j;
    }
    if (p.id >= 0) id[k++] = p.id;
    *n_out = k;
    return ST_OK;
}

/* ---- pieces ---- */

enum { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };

/* The answers are the same whoever finds them, so unordered stores from several threads are fine. */
static uint8_t whole_get(const model *m, int32_t id) { return atomic_load_explicit((_Atomic uint8_t *)&m->whole[id], memory_order_relaxed); }
static void whole_set(const model *m, int32_t id, bool yes)
{
    atomic_store_explicit((_Atomic uint8_t *)&m->whole[id], yes ? WHOLE_YES : WHOLE_NO, memory_order_relaxed);
}

/* Encodes one piece; most words are a token by themselves, which one lookup tells after the first time. */
static status word(enc *e, const char *s, size_t n, bool raw)
{
    const model *m = &e->t->m;
    int32_t whole = vocab_find(raw ? &m->raw_v : &m->v, s, n);
    if (whole >= 0) {
        if ((m->ignore_merges && !m->cut_spaces) || whole_get(m, whole) == WHOLE_YES) {
            i32vec_push(e->out, whole);
            return ST_OK;
        }
    }
    size_t k = n;
    if (raw) {
        TRY(work_reserve(&e->bpe, n));
        for (size_t i = 0; i < n; i++) e->bpe.id[i] = m->byte_id[(unsigned char)s[i]];
    } else {
        TRY(symbols(e, s, n, &k));
    }
    if (k > 1) TRY(merge(m, &e->bpe, k, &k));
    if (whole >= 0) whole_set(m, whole, k == 1 && e->bpe.id[0] == whole);
    i32vec_append(e->out, e->bpe.id, k);
    return ST_OK;
}

static bool bytes_known(const model *m, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (m->byte_id[(unsigned char)s[i]] < 0) return false;
    return true;
}

static size_t next_space(const char *s, size_t n, size_t i)
{
    for (const char *p = s + i; (p = memchr(p, 0xE2, n - (size_t)(p - s))) != NULL; p++)
        if (n - (size_t)(p - s) >= 3 && p[1] == '\x96' && p[2] == '\x81') return (size_t)(p - s);
    return n;
}

/* Cuts before every run of U+2581: no merge crosses there (cut_spaces), so the parts encode as the whole does. */
static status words(enc *e, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t j = i;
        while (n - j >= 3 && memcmp(s + j, "\xE2\x96\x81", 3) == 0) j += 3;
        j = next_space(s, n, j);
        TRY(word(e, s + i, j - i, false));
        i = j;
    }
    return ST_OK;
}

status bpe_encode(enc *e, const char *s, size_t n, bool raw)
{
    const model *m = &e->t->m;
    if (n == 0) return ST_OK;
    if (raw && m->raw && bytes_known(m, s, n)) return word(e, s, n, true);
    if (raw) {
        buf text = {0}; /* rare: a byte-level model that lacks some bytes */
        bytes_to_symbols(s, n, &text);
        status st = buf_status(&text);
        if (st == ST_OK) st = word(e, text.data, text.len, false);
        buf_free(&text);
        return st;
    }
    if (!m->cut_spaces) return word(e, s, n, false);
    if (m->ignore_merges) {
        int32_t whole = vocab_find(&m->v, s, n);
        if (whole >= 0) {
            i32vec_push(e->out, whole);
            return ST_OK;
        }
    }
    return words(e, s, n);
}
