#include <stdbool.h>

#include "ops/vec_avx512.h"
#include "ops/vec.h"
#include "ops/paged_attention/attention.h"

#ifndef ATTN_SMALL_TILES
#define QK_ROWS 8
#define QK_GROUPS(rows) ((rows) <= 4 ? 4 : 2)
#define QK_CASES QK_CASE(1, 1) QK_CASE(1, 2) QK_CASE(1, 4) QK_CASE(2, 1) QK_CASE(2, 2) QK_CASE(2, 4) QK_CASE(3, 1) QK_CASE(3, 2) QK_CASE(3, 4) \
    QK_CASE(4, 1) QK_CASE(4, 2) QK_CASE(4, 4) QK_CASE(5, 1) QK_CASE(5, 2) QK_CASE(6, 1) QK_CASE(6, 2) QK_CASE(7, 1) QK_CASE(7, 2) QK_CASE(8, 1) QK_CASE(8, 2)
#define PV_ROWS 6
#define PV_CHUNKS(rows) 4
#define PV_CASES PV_CASE(1, 1) PV_CASE(1, 2) PV_CASE(1, 4) PV_CASE(2, 1) PV_CASE(2, 2) PV_CASE(2, 4) PV_CASE(3, 1) PV_CASE(3, 2) PV_CASE(3, 4) \
    PV_CASE(4, 1) PV_CASE(4, 2) PV_CASE(4, 4) PV_CASE(5, 1) PV_CASE(5, 2) PV_CASE(5, 4) PV_CASE(6, 1) PV_CASE(6, 2) PV_CASE(6, 4)
#endif
#include "ops/paged_attention/attention_tile.h"

const attn_kernels attn_avx512 = { attn_part, attn_merge, attn_finish };
