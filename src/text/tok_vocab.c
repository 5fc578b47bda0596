#include "text/tok_vocab.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

static status grow_slots(vocab *v, size_t cap)
{
    vocab_slot *slots = mem_array(cap, sizeof *slots);
    if (!slots) return err_nomem();
    for (size_t i = 0; i < cap; i++) slots[i].id = -1;
    for (size_t i = 0; i < v->cap; i++) {
        if (v->slots[i].id < 0) continue;
        size_t j = v->slots[i].tag & (cap - 1);
        while (slots[j].id >= 0) j = (j + 1) & (cap - 1);
        slots[j] = v->slots[i];
    }
    mem_free(v->slots);
    v->slots = slots;
    v->cap = cap;
    return ST_OK;
}

static status grow_ids(vocab *v, size_t need)
{
    if (need <= v->cap_ids) return ST_OK;
    size_t cap = v->cap_ids ? v->cap_ids * 2 : 256;
    if (cap < need) cap = need;
    vocab_entry *p = mem_realloc_array(v->by_id, cap, sizeof *p);
    if (!p) return err_nomem();
    v->by_id = p;
    v->cap_ids = cap;
    return ST_OK;
}

static status grow_text(vocab *v, size_t more)
{
    if (v->text_cap - v->text_len >= more) return ST_OK;
    size_t cap = v->text_cap ? v->text_cap * 2 : 4096;
    if (cap < v->text_len + more) cap = v->text_len + more;
    if (cap > UINT32_MAX) return err_set(ST_LIMIT, "the vocabulary is larger than 4 GiB");
    char *p = mem_realloc(v->text, cap);
    if (!p) return err_nomem();
    v->text = p;
    v->text_cap = cap;
    return ST_OK;
}

status vocab_reserve(vocab *v, size_t n, size_t bytes)
{
    size_t cap = 64;
    while (cap < n * 2) cap *= 2;
    if (cap > v->cap) TRY(grow_slots(v, cap));
    TRY(grow_ids(v, n < VOCAB_MAX_ID ? n : VOCAB_MAX_ID));
    return grow_text(v, bytes + n);
}

static vocab_slot *find_slot(const vocab *v, const char *s, size_t n, uint32_t tag)
{
    for (size_t i = tag & (v->cap - 1);; i = (i + 1) & (v->cap - 1)) {
        vocab_slot *p = &v->slots[i];
        if (p->id < 0) return p;
        const vocab_entry *e = &v->by_id[p->id];
        if (p->tag == tag && e->len == n && memcmp(v->text + e->off, s, n) == 0) return p;
    }
}

static uint32_t tag_of(const char *s, size_t n) { return (uint32_t)hash64(s, n); }

status vocab_add(vocab *v, const char *s, size_t n, int32_t id)
{
    if (id < 0 || id >= VOCAB_MAX_ID) return err_set(ST_LIMIT, "token id %d is not in [0, %d)", id, VOCAB_MAX_ID);
    if (v->n * 2 >= v->cap) TRY(grow_slots(v, v->cap ? v->cap * 2 : 64));
    TRY(grow_ids(v, (size_t)id + 1));
    TRY(grow_text(v, n + 1));
    uint32_t tag = tag_of(s, n);
    vocab_slot *p = find_slot(v, s, n, tag);
    for (size_t i = v->n_ids; i <= (size_t)id; i++) v->by_id[i] = (vocab_entry){ 0, VOCAB_NONE };
    if (v->n_ids <= (size_t)id) v->n_ids = (size_t)id + 1;
    if (p->id < 0) v->n++;
    memcpy(v->text + v->text_len, s, n);
    v->text[v->text_len + n] = 0;
    v->by_id[id] = (vocab_entry){ (uint32_t)v->text_len, (uint32_t)n };
    v->text_len += n + 1;
    if (n > v->max_len) v->max_len = n;
    *p = (vocab_slot){ tag, id };
    return ST_OK;
}

int32_t vocab_find(const vocab *v, const char *s, size_t n)
{
    if (v->n == 0 || n > v->max_len) return -1;
    return find_slot(v, s, n, tag_of(s, n))->id;
}

void vocab_free(vocab *v)
{
    mem_free(v->text);
    mem_free(v->by_id);
    mem_free(v->slots);
    *v = (vocab){0};
}

/* ---- trie ---- */

static size_t trie_hash(uint32_t key, size_t cap) { return (size_t)((key * 0x9E3779B97F4A7C15ull) >> 32) & (cap - 1); }

uint32_t trie_step(const trie *t, uint32_t node, unsigned char c)
{
    if (node == 0) return t->root[c];
    if (t->cap == 0) return 0;
    uint32_t key = node << 8 | c;
    for (size_t i = trie_hash(key, t->cap);; i = (i + 1) & (t->cap - 1)) {
        if (t->slots[i].key == key) return t->slots[i].child;
        if (t->slots[i].key == 0) return 0;
    }
}

static status trie_grow(trie *t)
{
    size_t cap = t->cap ? t->cap * 2 : 64;
    trie_slot *slots = mem_calloc(cap, sizeof *slots);
    if (!slots) return err_nomem();
    for (size_t i = 0; i < t->cap; i++) {
        if (t->slots[i].key == 0) continue;
        size_t j = trie_hash(t->slots[i].key, cap);
        while (slots[j].key) j = (j + 1) & (cap - 1);
        slots[j] = t->slots[i];
    }
    mem_free(t->slots);
    t->slots = slots;
    t->cap = cap;
    return ST_OK;
}

static status trie_node(trie *t, uint32_t *out)
{
    if (t->n_nodes >= TRIE_MAX_NODES) return err_set(ST_LIMIT, "the vocabulary has more than %d trie nodes", TRIE_MAX_NODES);
    if (t->n_nodes == t->cap_nodes) {
        size_t cap = t->cap_nodes ? t->cap_nodes * 2 : 64;
        int32_t *p = mem_realloc_array(t->value, cap, sizeof *p);
        if (!p) return err_nomem();
        t->value = p;
        t->cap_nodes = cap;
    }
    t->value[t->n_nodes] = -1;
    *out = (uint32_t)t->n_nodes++;
    return ST_OK;
}

status trie_add(trie *t, const char *s, size_t n, int32_t value)
{
    uint32_t node = 0, next;
    if (t->n_nodes == 0) TRY(trie_node(t, &node));
    for (size_t i = 0; i < n; i++, node = next) {
        unsigned char c = (unsigned char)s[i];
        next = trie_step(t, node, c);
        if (next) continue;
        if (node && (t->n + 1) * 2 > t->cap) TRY(trie_grow(t));
        TRY(trie_node(t, &next));
        if (node == 0) {
            t->root[c] = next;
            continue;
        }
        uint32_t key = node << 8 | c;
        size_t j = trie_hash(key, t->cap);
        while (t->slots[j].key) j = (j + 1) & (t->cap - 1);
        t->slots[j] = (trie_slot){ key, next };
        t->n++;
    }
    t->value[node] = value;
    return ST_OK;
}

void trie_free(trie *t)
{
    mem_free(t->slots);
    mem_free(t->value);
    *t = (trie){0};
}
