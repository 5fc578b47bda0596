#include "device/cpu/pages.h"

#include <sys/mman.h>

status pages_alloc(size_t bytes, const char *what, void **out)
{
    if (bytes == 0) {
        *out = NULL;
        return ST_OK;
    }
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return err_set(ST_NOMEM, "%s: cannot reserve %zu bytes", what, bytes);
    if (bytes >= (size_t)4 << 20) (void)madvise(p, bytes, MADV_HUGEPAGE);
    *out = p;
    return ST_OK;
}

void pages_free(void *p, size_t bytes)
{
    if (p) (void)munmap(p, bytes);
}
