#include "base/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static _Atomic uint64_t n_allocs;
static _Atomic int64_t n_live;
static _Atomic int64_t fail_countdown; /* > 0: armed */
static _Atomic int has_failed;
static _Thread_local int oom;

static int should_fail(void)
{
    atomic_fetch_add_explicit(&n_allocs, 1, memory_order_relaxed);
    if (atomic_load_explicit(&fail_countdown, memory_order_relaxed) <= 0) return 0;
    if (atomic_fetch_sub(&fail_countdown, 1) != 1) return 0;
    atomic_store(&has_failed, 1);
    oom = 1;
    return 1;
}

static void *counted(void *p)
{
    if (p) atomic_fetch_add_explicit(&n_live, 1, memory_order_relaxed);
    else oom = 1;
    return p;
}

void *mem_alloc(size_t bytes)
{
    if (should_fail()) return NULL;
    return counted(malloc(bytes ? bytes : 1));
}

void *mem_calloc(size_t n, size_t bytes)
{
    if (should_fail()) return NULL;
    if (n == 0 || bytes == 0) n = bytes = 1;
    return counted(calloc(n, bytes));
}

void *mem_array(size_t n, size_t bytes)
{
    size_t total;
    if (__builtin_mul_overflow(n, bytes, &total)) return NULL;
    return mem_alloc(total);
}

void *mem_realloc(void *p, size_t bytes)
{
    if (should_fail()) return NULL;
    void *q = realloc(p, bytes ? bytes : 1);
    if (!q) oom = 1;
    return p ? q : counted(q);
}

void *mem_realloc_array(void *p, size_t n, size_t bytes)
{
    size_t total;
    if (__builtin_mul_overflow(n, bytes, &total)) return NULL;
    return mem_realloc(p, total);
}

void *mem_aligned(size_t align, size_t bytes)
{
    if (should_fail()) return NULL;
    if (bytes > SIZE_MAX - align) return NULL;
    size_t rounded = (bytes + align - 1) / align * align;
    return counted(aligned_alloc(align, rounded ? rounded : align));
}

char *mem_strdup(const char *s) { return mem_strndup(s, strlen(s)); }

char *mem_strndup(const char *s, size_t n)
{
    if (n == SIZE_MAX) return NULL;
    char *p = mem_alloc(n + 1);
    if (!p) return NULL;
    if (n) memcpy(p, s, n);
    p[n] = 0;
    return p;
}

void mem_free(void *p)
{
    if (!p) return;
    atomic_fetch_sub_explicit(&n_live, 1, memory_order_relaxed);
    free(p);
}

uint64_t mem_count(void) { return atomic_load(&n_allocs); }
int64_t mem_live(void) { return atomic_load(&n_live); }

void mem_fail_at(uint64_t nth)
{
    atomic_store(&has_failed, 0);
    atomic_store(&fail_countdown, (int64_t)nth);
}

int mem_failed(void) { return atomic_load(&has_failed); }
int mem_oom(void) { return oom; }
void mem_clear_oom(void) { oom = 0; }
