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
    linear_choice fresh = { .set = ISA_portable, .fma_gops = 120.5, .dot_gops = 230.25, .cached = true }, had = { .set = ISA_COUNT }, again = had;
    buf once = { 0 }, twice = { 0 };
    if (linear_choice_edit((const char *)data, size, key, &fresh, &had, &once) != ST_OK) err_clear();
    else if (had.cached && !(had.fma_gops > 0 && had.dot_gops > 0)) abort();
    else if (had.cached && (strstr(isa_name(had.set), "emulated") || had.amx_rows[0] < 1 || had.amx_rows[AMX_KINDS - 1] > AMX_NEVER)) abort();
    else if (linear_choice_edit(once.data, once.len, key, &fresh, &again, &twice) != ST_OK) abort(); /* what we write we can read */
    else if (once.len > LINEAR_CHOICE_FILE_BYTES || once.len != twice.len || memcmp(once.data, twice.data, once.len) != 0) abort();
    buf_free(&once);
    buf_free(&twice);
    return 0;
}
