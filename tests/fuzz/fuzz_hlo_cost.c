// layer: device
/* What a plugin hands out as a compiled program: bytes that are counted. */
#include <math.h>
#include <stdint.h>

#include "device/pjrt/hlo_cost.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char source[] = "call {kernel_name = \"quantised_matmul\"}\ncall {kernel_name = \"";
    hlo_cost c;
    for (int with_config = 0; with_config < 2; with_config++)
        if (hlo_cost_read(data, size, with_config, source, sizeof source - 1, &c) == ST_OK && (c.n_loops < 0 || c.n_open < 0)) __builtin_trap();
    return 0;
}
