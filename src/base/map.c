#include "base/map.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

struct map_slot { const char *key; size_t len; uint64_t hash; int64_t val; };

static map_slot *find(const map *m, const char *key, size_t len, uint64_t h)
{
    size_t i = (size_t)h & (m->cap - 1);
    for (;; i = (i + 1) & (m->cap - 1)) {
        map_slot *s = &m->slots[i];
        if (!s->key || (s->hash == h && s->len == len && memcmp(s->key, key, len) == 0)) return s;
    }
}

static status grow(map *m)
{
    map old = *m;
    m->cap = old.cap ? old.cap * 2 : 64;
    m->slots = mem_calloc(m->cap, sizeof *m->slots);
    if (!m->slots) {
        *m = old;
        return err_nomem();
    }
    for (size_t i = 0; i < old.cap; i++)
        if (old.slots[i].key) *find(m, old.slots[i].key, old.slots[i].len, old.slots[i].hash) = old.slots[i];
    mem_free(old.slots);
    return ST_OK;
}

status map_put(map *m, const char *key, size_t len, int64_t val)
{
    if (m->n * 4 >= m->cap * 3) TRY(grow(m));
    uint64_t h = hash64(key, len);
    map_slot *s = find(m, key, len, h);
    if (!s->key) {
        const char *copy = arena_strndup(&m->keys, key, len);
        if (!copy) return err_nomem();
        *s = (map_slot){ copy, len, h, 0 };
        m->n++;
    }
    s->val = val;
    return ST_OK;
}

bool map_get(const map *m, const char *key, size_t len, int64_t *val)
{
    if (m->n == 0) return false;
    const map_slot *s = find(m, key, len, hash64(key, len));
    if (!s->key) return false;
    if (val) *val = s->val;
    return true;
}

void map_free(map *m)
{
    mem_free(m->slots);
    arena_free(&m->keys);
    *m = (map){0};
}
