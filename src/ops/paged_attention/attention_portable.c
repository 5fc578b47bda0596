#include <stdbool.h>

#include "ops/vec_portable.h"
#include "ops/vec.h"
#include "ops/paged_attention/attention.h"

static inline V v_load_e4m3(const uint8_t *p) { VEC_EACH(f16_to_f32((uint16_t)((p[i] & 0x80) << 8 | (p[i] & 0x7F) << 7))); }
static inline V v_load_e5m2(const uint8_t *p) { VEC_EACH(f8e5m2_to_f32(p[i])); }
static inline V v_load_i8(const int8_t *p) { VEC_EACH((float)p[i]); }

#ifndef ATTN_SMALL_TILES
#define QK_ROWS 4
#define QK_GROUPS(rows) 1
#define QK_CASES QK_CASE(1, 1) QK_CASE(2, 1) QK_CASE(3, 1) QK_CASE(4, 1)
#define PV_ROWS 4
#define PV_CHUNKS(rows) 1
#define PV_CASES PV_CASE(1, 1) PV_CASE(2, 1) PV_CASE(3, 1) PV_CASE(4, 1)
#define FEW_ROWS 2
#define FEW_QK_CASES QK_CASE(1, 1) QK_CASE(2, 1)
#define FEW_PV_CASES PV_CASE(1, 1) PV_CASE(2, 1)
#endif
#include "ops/paged_attention/attention_tile.h"

const attn_kernels attn_portable = { attn_part, attn_merge, attn_finish, attn_widen, NULL };
