/* Tokens by id and by spelling, and byte tries, in flat tables: a 200,000-entry vocabulary takes a handful of allocations.
 * Written while loading by one thread, then read by any number. */
#ifndef SYSTOLIC_TEXT_TOK_VOCAB_H
#define SYSTOLIC_TEXT_TOK_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { VOCAB_MAX_ID = 1 << 24 }; /* an id is an array index: larger ones are refused */

typedef struct vocab_entry { uint32_t off, len; } vocab_entry;
typedef struct vocab_slot { uint32_t tag; int32_t id; } vocab_slot; /* id -1: free */

typedef struct vocab {
    char *text;               /* all spellings, one after the other, each with a NUL after it */
    size_t text_len, text_cap;
    vocab_entry *by_id;       /* len VOCAB_NONE: no such id */
    size_t n_ids, cap_ids;    /* largest id + 1 */
    vocab_slot *slots;
    size_t n, cap;            /* spellings; slots (a power of two) */
    size_t max_len;           /* bytes of the longest spelling */
} vocab;
#define VOCAB_NONE UINT32_MAX

/* Room for n tokens of `bytes` bytes in all; growing works too but costs. */
status vocab_reserve(vocab *v, size_t n, size_t bytes) FALLIBLE;
/* Adds or, for a spelling that is there already, changes its id. An id may have two spellings; the last is kept. */
status vocab_add(vocab *v, const char *s, size_t n, int32_t id) FALLIBLE;
int32_t vocab_find(const vocab *v, const char *s, size_t n); /* -1: none */
static inline const char *vocab_text(const vocab *v, int32_t id, size_t *n)
{
    if (id < 0 || (size_t)id >= v->n_ids || v->by_id[id].len == VOCAB_NONE) return NULL;
    *n = v->by_id[id].len;
    return v->text + v->by_id[id].off;
}
void vocab_free(vocab *v);

/* A trie over bytes: children in one hash table keyed by (node, byte), the root's in an array. */
typedef struct trie_slot { uint32_t key, child; } trie_slot;
typedef struct trie {
    trie_slot *slots;
    size_t n, cap;
    int32_t *value;           /* by node, -1: no string ends here */
    size_t n_nodes, cap_nodes;
    uint32_t root[256];       /* 0: none */
} trie;
enum { TRIE_MAX_NODES = 1 << 24 };

status trie_add(trie *t, const char *s, size_t n, int32_t value) FALLIBLE;
uint32_t trie_step(const trie *t, uint32_t node, unsigned char c); /* 0: none; node 0 is the root */
void trie_free(trie *t);

#endif
