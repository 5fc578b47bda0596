/* Packing weights into panels: see gemm.h for the layout. */
#include <string.h>

#include "ops/linear/gemm.h"
#include "ops/wide.h"

size_t gemm_panel_bytes(dtype type, int64_t k)
{
    size_t steps = type == DT_F32 ? (size_t)k : ((size_t)k + 1) / 2 * 2;
    size_t bytes = steps * GEMM_PANEL * (type == DT_F32 ? 4 : 2);
    return (bytes + 63) / 64 * 64;
}

size_t gemm_packed_bytes(dtype type, int64_t n, int64_t k) { return (size_t)gemm_n_panels(n) * gemm_panel_bytes(type, k); }

/* Weights that are stored as they are: a transpose, no conversion. The first n words of 32 bits of all columns, n a multiple of eight:
 * floats, pairs of bfloat16, or two float16 that go to rows of their own. */
WIDE_BODY pack_words_body(dtype type, char *dst, int64_t n, const void *const *rows)
{
    typedef float loose __attribute__((vector_size(WIDE_LANES * 4), aligned(1), may_alias));
    typedef uint32_t words __attribute__((vector_size(WIDE_LANES * 4)));
    typedef uint16_t halves __attribute__((vector_size(WIDE_LANES * 2), aligned(2), may_alias));
    for (int64_t i = 0; i < n; i += WIDE_LANES)
        for (int first = 0; first < GEMM_PANEL; first += WIDE_LANES) {
            wide r[WIDE_LANES];
            for (int l = 0; l < WIDE_LANES; l++) {
                const char *row = rows[first + l];
                r[l] = (wide){ 0 };
                if (row) r[l] = (wide)*(const loose *)(const void *)(row + i * 4);
            }
            wide_transpose(r);
            for (int l = 0; l < WIDE_LANES; l++) {
                char *to = dst + (i + l) * GEMM_PANEL * 4;
                if (type != DT_F16) {
                    WIDE_AT(to + first * 4) = r[l];
                } else {
                    *(halves *)(void *)(to + first * 2) = __builtin_convertvector((words)r[l] & 0xFFFF, halves);
                    *(halves *)(void *)(to + (GEMM_PANEL + first) * 2) = __builtin_convertvector((words)r[l] >> 16, halves);
                }
            }
        }
}
WIDE_TWICE(pack_words, (dtype type, char *dst, int64_t n, const void *const *rows), (type, dst, n, rows))

/* From step `from` on. */
static void pack_copy16(dtype type, uint16_t *dst, int64_t from, int64_t k, int col, const void *row)
{
    for (int64_t i = from; i < k; i++) {
        uint16_t h;
        memcpy(&h, (const char *)row + i * 2, 2);
        if (type == DT_BF16) dst[i / 2 * 2 * GEMM_PANEL + col * 2 + (i & 1)] = h;
        else dst[i * GEMM_PANEL + col] = h;
    }
}

static void pack_convert(dtype type, void *dst, int64_t k, int col, const void *row, dtype src_type)
{
    enum { CHUNK = 256 };
    float f[CHUNK];
    uint16_t *d16 = dst;
    float *d32 = dst;
    size_t step = dtype_bytes(src_type, 1);
    for (int64_t i0 = 0; i0 < k; i0 += CHUNK) {
        int64_t n = k - i0 < CHUNK ? k - i0 : CHUNK;
        dtype_to_f32(src_type, (const char *)row + (size_t)i0 * step, f, (size_t)n);
        for (int64_t j = 0; j < n; j++) {
            int64_t i = i0 + j;
            if (type == DT_F32) d32[i * GEMM_PANEL + col] = f[j];
            else if (type == DT_BF16) d16[i / 2 * 2 * GEMM_PANEL + col * 2 + (i & 1)] = f32_to_bf16(f[j]);
            else d16[i * GEMM_PANEL + col] = f32_to_f16(f[j]);
        }
    }
}

void gemm_pack_panel(dtype type, void *packed, int64_t k, int64_t p, const void *const *rows, dtype src_type)
{
    size_t bytes = gemm_panel_bytes(type, k);
    char *dst = (char *)packed + (size_t)p * bytes;
    memset(dst, 0, bytes);
    int64_t whole = 0;
    if (type == src_type && type != DT_F32) {
        whole = k / (2 * WIDE_LANES) * WIDE_LANES * 2;
        pack_words(type, dst, whole / 2, rows);
    } else if (type == src_type && k % WIDE_LANES == 0) {
        pack_words(type, dst, k, rows);
        return;
    }
    for (int col = 0; col < GEMM_PANEL; col++) {
        if (!rows[col]) continue;
        if (type == src_type && type != DT_F32) pack_copy16(type, (uint16_t *)(void *)dst, whole, k, col, rows[col]);
        else pack_convert(type, dst, k, col, rows[col], src_type);
    }
}
