#include <stdbool.h>

#include "ops/vec_avx512.h"
#include "ops/vec.h"
#include "ops/paged_attention/attention.h"

#define load16b(p) _mm_loadu_si128((const __m128i *)(const void *)(p))
#define v_load_e4m3(p) \
    _mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(load16b(p)), 7), _mm256_set1_epi16((short)0xBFFF)))
#define v_load_e5m2(p) _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(load16b(p)), 8))
#define v_load_i8(p) _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16b(p)))

#ifndef ATTN_SMALL_TILES
#define QK_ROWS 8
#define QK_GROUPS(rows) ((rows) <= 4 ? 4 : 2)
#define QK_CASES QK_CASE(1, 1) QK_CASE(1, 2) QK_CASE(1, 4) QK_CASE(2, 1) QK_CASE(2, 2) QK_CASE(2, 4) QK_CASE(3, 1) QK_CASE(3, 2) QK_CASE(3, 4) \
    QK_CASE(4, 1) QK_CASE(4, 2) QK_CASE(4, 4) QK_CASE(5, 1) QK_CASE(5, 2) QK_CASE(6, 1) QK_CASE(6, 2) QK_CASE(7, 1) QK_CASE(7, 2) QK_CASE(8, 1) QK_CASE(8, 2)
#define PV_ROWS 6
#define PV_CHUNKS(rows) 4
#define PV_CASES PV_CASE(1, 1) PV_CASE(1, 2) PV_CASE(1, 4) PV_CASE(2, 1) PV_CASE(2, 2) PV_CASE(2, 4) PV_CASE(3, 1) PV_CASE(3, 2) PV_CASE(3, 4) \
    PV_CASE(4, 1) PV_CASE(4, 2) PV_CASE(4, 4) PV_CASE(5, 1) PV_CASE(5, 2) PV_CASE(5, 4) PV_CASE(6, 1) PV_CASE(6, 2) PV_CASE(6, 4)
#define FEW_ROWS 4
#define FEW_QK_CASES QK_CASE(1, 1) QK_CASE(1, 4) QK_CASE(2, 1) QK_CASE(2, 4) QK_CASE(3, 1) QK_CASE(3, 4) QK_CASE(4, 1) QK_CASE(4, 4)
#define FEW_PV_CASES PV_CASE(1, 1) PV_CASE(1, 4) PV_CASE(2, 1) PV_CASE(2, 4) PV_CASE(3, 1) PV_CASE(3, 4) PV_CASE(4, 1) PV_CASE(4, 4)
#endif
#include "ops/paged_attention/attention_tile.h"

const attn_kernels attn_avx512 = { attn_part, attn_merge, attn_finish, attn_widen, NULL };
