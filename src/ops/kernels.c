#include "ops/kernels.h"

#include <string.h>

static const kernel_impl *const all[] = {
#define KERNEL(name) &kernel_##name,
#include "ops/kernels.def"
    NULL
};

const kernel_impl *kernel_at(int i) { return i >= 0 && i < (int)(sizeof all / sizeof *all) ? all[i] : NULL; }

const kernel_impl *kernel_find(const char *name)
{
    for (int i = 0; all[i]; i++)
        if (strcmp(all[i]->name, name) == 0) return all[i];
    return NULL;
}
