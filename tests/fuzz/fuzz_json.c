// layer: base
/* Any bytes as JSON: what is accepted is written and read back to the same text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    jv *v = NULL, *again = NULL;
    if (jv_parse((const char *)data, size, &v) != ST_OK) return 0;
    buf one = {0}, two = {0};
    jw w = jw_to(&one);
    jw_value(&w, v);
    if (jv_parse(buf_cstr(&one), one.len, &again) != ST_OK) abort();
    w = jw_to(&two);
    jw_value(&w, again);
    if (one.len != two.len || (one.len && memcmp(one.data, two.data, one.len) != 0)) abort();
    buf_free(&one);
    buf_free(&two);
    jv_free(v);
    jv_free(again);
    return 0;
}
