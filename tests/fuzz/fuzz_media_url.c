// layer: api
/* data: URLs of clients. Others would leave the process. */
#include <string.h>

#include "api/media.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char url[4096] = "data:";
    buf out = {0};
    struct media_setup m = {0};
    if (size > sizeof url - 6) return 0;
    memcpy(url + 5, data, size);
    if (media_load_url(&m, MEDIA_IMAGE, url, &out) == ST_OK && out.len > size) __builtin_trap();
    buf_free(&out);
    return 0;
}
