/* The one door to the heap: counts allocations and can fail the Nth one.
 * Every module (and every library that lets us) allocates through here, which
 * is how the steady-state and out-of-memory tests work. `make lint` rejects
 * malloc/calloc/realloc/strdup/free elsewhere in src/. */
#ifndef SYSTOLIC_BASE_MEM_H
#define SYSTOLIC_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

/* All return NULL when out of memory (the caller returns err_nomem()). mem_alloc(0) returns a unique pointer. */
void *mem_alloc(size_t bytes);
void *mem_calloc(size_t n, size_t bytes);              /* checked multiply, zeroed */
void *mem_array(size_t n, size_t bytes);               /* checked multiply, not zeroed */
void *mem_realloc(void *p, size_t bytes);
void *mem_realloc_array(void *p, size_t n, size_t bytes);
void *mem_aligned(size_t align, size_t bytes);         /* free with mem_free */
char *mem_strdup(const char *s);
char *mem_strndup(const char *s, size_t n);
void mem_free(void *p);

/* Allocations since start (any thread). */
uint64_t mem_count(void);
/* Blocks currently alive (any thread): 0 growth = no leak. */
int64_t mem_live(void);
/* Testing: the nth allocation from now on this *process* fails (1 = next), then all succeed again; 0 = off. */
void mem_fail_at(uint64_t nth);
/* True if an allocation failed on this thread since the last mem_clear_oom(): for libraries that report it vaguely. */
int mem_oom(void);
void mem_clear_oom(void);
/* Testing: true if the failure asked for has happened. */
int mem_failed(void);

#endif
