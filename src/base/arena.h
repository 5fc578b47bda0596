/* Bump allocator: everything allocated from an arena is freed with it.
 * Lifetimes: process, model, request, step. Not thread-safe. */
#ifndef SYSTOLIC_BASE_ARENA_H
#define SYSTOLIC_BASE_ARENA_H

#include <stddef.h>

typedef struct arena_block arena_block;
/* Zero-initialise (`arena a = {0};`) and use; arena_free releases it. */
typedef struct arena {
    arena_block *head;  /* current block; older ones are linked behind it */
    size_t used_bytes;  /* handed out, for limits and reports */
    size_t limit_bytes; /* 0 = none; more than this returns NULL */
} arena;

/* 16-byte aligned; NULL when out of memory or over the limit. */
void *arena_alloc(arena *a, size_t bytes);
void *arena_calloc(arena *a, size_t n, size_t bytes);
char *arena_strndup(arena *a, const char *s, size_t n);
char *arena_strdup(arena *a, const char *s);
char *arena_printf(arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Keeps the largest block for reuse; all pointers become invalid. */
void arena_reset(arena *a);
void arena_free(arena *a);

#endif
