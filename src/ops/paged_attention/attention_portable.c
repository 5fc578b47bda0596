#include <stdbool.h>

#include "ops/vec_portable.h"
#include "ops/vec.h"
#include "ops/paged_attention/attention.h"

#ifndef ATTN_SMALL_TILES
#define QK_ROWS 6
#define QK_GROUPS(rows) ((rows) <= 2 ? 2 : 1)
#define QK_CASES QK_CASE(1, 1) QK_CASE(1, 2) QK_CASE(2, 1) QK_CASE(2, 2) QK_CASE(3, 1) QK_CASE(4, 1) QK_CASE(5, 1) QK_CASE(6, 1)
#define PV_ROWS 6
#define PV_CHUNKS(rows) ((rows) <= 2 ? 2 : 1)
#define PV_CASES PV_CASE(1, 1) PV_CASE(1, 2) PV_CASE(2, 1) PV_CASE(2, 2) PV_CASE(3, 1) PV_CASE(4, 1) PV_CASE(5, 1) PV_CASE(6, 1)
#endif
#include "ops/paged_attention/attention_tile.h"

const attn_kernels attn_portable = { attn_part, attn_merge, attn_finish };
