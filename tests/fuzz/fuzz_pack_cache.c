// layer: device
/* The beginning of a file of packed weights: as it comes, and with a header that fits so that the index is reached. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "device/cpu/pack_cache.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (pack_cache_check(data, size, (uint64_t)size + (1 << 30)) != ST_OK) err_clear();
    uint64_t head[4] = { 0, 1, size, hash64(data, size) };
    memcpy(head, "SYSTPACK", 8);
    char *file = malloc(sizeof head + size);
    if (!file) return 0;
    memcpy(file, head, sizeof head);
    memcpy(file + sizeof head, data, size);
    if (pack_cache_check(file, sizeof head + size, (uint64_t)1 << 24) != ST_OK) err_clear();
    free(file);
    return 0;
}
