/* Hash map from byte strings to int64 (open addressing). Keys are copied. Not thread-safe for writing. */
#ifndef SYSTOLIC_BASE_MAP_H
#define SYSTOLIC_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

typedef struct map_slot map_slot;
/* Zero-initialise; map_free releases it. */
typedef struct map {
    map_slot *slots;
    size_t n, cap;
    arena keys;
} map;

/* Inserts or replaces. */
status map_put(map *m, const char *key, size_t len, int64_t val) FALLIBLE;
/* False if absent; *val untouched then. val may be NULL. */
bool map_get(const map *m, const char *key, size_t len, int64_t *val);
void map_free(map *m);

#endif
