// layer: ops
/* kernels.json, the choice of kernels: any text is read without harm, and what is written over it is in order again. */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "ops/linear/choose.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char key[] = "0123456789abcdef0123456789abcdef";
    linear_choice fresh = { ISA_portable, 120.5, 230.25, true }, had = { ISA_COUNT, 0, 0, false }, again = had;
    buf once = { 0 }, twice = { 0 };
    if (linear_choice_edit((const char *)data, size, key, &fresh, &had, &once) != ST_OK) err_clear();
    else if (had.cached && !(had.fma_gops > 0 && had.dot_gops > 0)) abort();
    else if (linear_choice_edit(once.data, once.len, key, &fresh, &again, &twice) != ST_OK) abort(); /* what we write we can read */
    else if (once.len > LINEAR_CHOICE_FILE_BYTES || once.len != twice.len || memcmp(once.data, twice.data, once.len) != 0) abort();
    buf_free(&once);
    buf_free(&twice);
    return 0;
}
