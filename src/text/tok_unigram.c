/* Unigram: the segmentation with the highest sum of scores, found left to right (Viterbi over byte positions). */
#include <string.h>

#include "base/mem.h"
#include "text/tok_int.h"

static status reserve(enc *e, size_t n)
{
    if (n <= e->best_cap) return ST_OK;
    if (n >= UINT32_MAX) return err_set(ST_LIMIT, "a text is longer than 4 GiB");
    size_t cap = n + n / 2 + 256;
    double *score = mem_realloc_array(e->best_score, cap, sizeof *score);
    if (!score) return err_nomem();
    e->best_score = score;
    uint32_t *from = mem_realloc_array(e->best_from, cap, sizeof *from);
    if (!from) return err_nomem();
    e->best_from = from;
    int32_t *id = mem_realloc_array(e->best_id, cap, sizeof *id);
    if (!id) return err_nomem();
    e->best_id = id;
    e->best_cap = cap;
    return ST_OK;
}

#define UNREACHED UINT32_MAX

static inline void offer(enc *e, size_t at, double score, size_t from, int32_t id)
{
    if (e->best_from[at] != UNREACHED && !(score > e->best_score[at])) return;
    e->best_score[at] = score;
    e->best_from[at] = (uint32_t)from;
    e->best_id[at] = id;
}

static status search(enc *e, const char *s, size_t n)
{
    const model *m = &e->t->m;
    for (size_t i = 0; i <= n; i++) e->best_from[i] = UNREACHED;
    e->best_score[0] = 0;
    for (size_t i = 0; i < n;) {
        size_t next = i;
        uni_next(s, &next);
        double here = e->best_score[i];
        bool single = false;
        uint32_t node = 0;
        for (size_t j = i; j < n; j++) {
            node = trie_step(&m->t, node, (unsigned char)s[j]);
            if (node == 0) break;
            int32_t id = m->t.value[node];
            if (id < 0) continue;
            offer(e, j + 1, m->score[id] + here, i, id);
            if (j + 1 == next) single = true;
        }
        if (!single) {
            if (m->unk < 0) return err_set(ST_INVALID, "the text has a character that the Unigram vocabulary lacks, and there is no unk_id");
            offer(e, next, m->unk_score + here, i, m->unk);
        }
        i = next;
    }
    return ST_OK;
}

/* A run of unknown characters, as one piece. */
static void unknown(enc *e, const char *s, size_t n)
{
    const model *m = &e->t->m;
    int32_t id = vocab_find(&m->v, s, n);
    if (id < 0 && m->byte_fallback) {
        bool all = true;
        for (size_t i = 0; i < n; i++) all &= m->byte_token[(unsigned char)s[i]] >= 0;
        if (all) {
            for (size_t i = 0; i < n; i++) i32vec_push(e->out, m->byte_token[(unsigned char)s[i]]);
            return;
        }
    }
    i32vec_push(e->out, id >= 0 ? id : m->unk);
}

status unigram_encode(enc *e, const char *s, size_t n)
{
    if (n == 0) return ST_OK;
    TRY(reserve(e, n + 1));
    TRY(search(e, s, n));
    /* Turn the links around: best_from becomes the end of the piece that starts there. */
    size_t end = n;
    uint32_t to = UNREACHED;
    for (;;) {
        uint32_t from = e->best_from[end];
        e->best_from[end] = to;
        to = (uint32_t)end;
        if (end == 0) break;
        end = from;
    }
    for (size_t i = 0; i < n;) {
        size_t j = e->best_from[i];
        int32_t id = e->best_id[j];
        if (id != e->t->m.unk) {
            i32vec_push(e->out, id);
            i = j;
            continue;
        }
        while (j < n && e->best_id[e->best_from[j]] == id) j = e->best_from[j];
        unknown(e, s + i, j - i);
        i = j;
    }
    return ST_OK;
}
