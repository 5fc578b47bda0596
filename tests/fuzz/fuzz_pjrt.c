// layer: device
/* What the PJRT layer reads from users and from disk: option lists, targets, device specifications, cache files, manifests. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "device/pjrt/cache.h"
#include "device/pjrt/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = mem_strndup((const char *)data, size);
    pjrt_values v;
    if (text && pjrt_values_parse(text, &v) == ST_OK) {
        buf b = {0};
        status st = pjrt_options_encode(&(pjrt_compile_options){ .overrides = v.v, .n_overrides = v.n }, &b);
        (void)st;
        buf_free(&b);
        pjrt_values_free(&v);
    }
    pjrt_place p;
    if (text && pjrt_target_parse(text, &p) == ST_OK) pjrt_place_free(&p);
    if (text && !strncmp(text, "pjrt:", 5) && pjrt_find(text, &p) == ST_OK) pjrt_place_free(&p);
    mem_free(text);
    const char *executable;
    size_t len;
    pjrt_stats s;
    if (pjrt_cache_decode(data, size, &executable, &len, &s) == ST_OK && (executable < (const char *)data || executable + len != (const char *)data + size)) __builtin_trap();
    pjrt_manifest m;
    if (pjrt_manifest_parse((const char *)data, size, &m) == ST_OK) {
        char why[600];
        pjrt_manifest here = m;
        if (!pjrt_manifest_fits(&m, "a directory", &here, why, sizeof why)) __builtin_trap();
        for (size_t i = 0; i < m.n_programs; i++)
            if (strlen(m.programs[i].key) != PJRT_KEY_LEN - 1 || strchr(m.programs[i].key, '/')) __builtin_trap();
        pjrt_manifest_free(&m);
    }
    return 0;
}
