#include <stdbool.h>

#include "ops/vec_avx2.h"
#include "ops/vec.h"
#include "ops/paged_attention/attention.h"

#define load8(p) _mm_loadl_epi64((const __m128i *)(const void *)(p))
#define v_load_e4m3(p) \
    _mm256_cvtph_ps(_mm_and_si128(_mm_slli_epi16(_mm_cvtepi8_epi16(load8(p)), 7), _mm_set1_epi16((short)0xBFFF)))
#define v_load_e5m2(p) _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(load8(p)), 8))
#define v_load_i8(p) _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load8(p)))

#ifndef ATTN_SMALL_TILES
#define QK_ROWS 6
#define QK_GROUPS(rows) ((rows) <= 2 ? 2 : 1)
#define QK_CASES QK_CASE(1, 1) QK_CASE(1, 2) QK_CASE(2, 1) QK_CASE(2, 2) QK_CASE(3, 1) QK_CASE(4, 1) QK_CASE(5, 1) QK_CASE(6, 1)
#define PV_ROWS 6
#define PV_CHUNKS(rows) ((rows) <= 2 ? 2 : 1)
#define PV_CASES PV_CASE(1, 1) PV_CASE(1, 2) PV_CASE(2, 1) PV_CASE(2, 2) PV_CASE(3, 1) PV_CASE(4, 1) PV_CASE(5, 1) PV_CASE(6, 1)
#define FEW_ROWS 4
#define FEW_QK_CASES QK_CASE(1, 1) QK_CASE(1, 2) QK_CASE(2, 1) QK_CASE(2, 2) QK_CASE(3, 1) QK_CASE(4, 1)
#define FEW_PV_CASES PV_CASE(1, 1) PV_CASE(1, 2) PV_CASE(2, 1) PV_CASE(2, 2) PV_CASE(3, 1) PV_CASE(4, 1)
#endif
#include "ops/paged_attention/attention_tile.h"

const attn_kernels attn_avx2 = { attn_part, attn_merge, attn_finish, attn_widen, NULL };
