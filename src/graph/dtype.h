/* Element types of tensors. */
#ifndef SYSTOLIC_GRAPH_DTYPE_H
#define SYSTOLIC_GRAPH_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum dtype {
    DT_F32, DT_BF16, DT_F16, DT_F64,
    DT_I64, DT_I32, DT_I16, DT_I8, DT_U8, DT_BOOL,
    DT_F8E4M3, DT_F8E5M2, DT_F8E8M0,
    DT_I4,          /* packed, two per byte, low nibble first; only inside quantised tensors */
    DT_F4E2M1,      /* the same */
    DT_U16, DT_U32, DT_U64,
    DT_COUNT
} dtype;

size_t dtype_bits(dtype t);
static inline size_t dtype_bytes(dtype t, size_t n) { return (dtype_bits(t) * n + 7) / 8; }
const char *dtype_name(dtype t);       /* "bf16" */

/* Bit-exact scalar conversions (round to nearest even). */
static inline float bf16_to_f32(uint16_t h) { uint32_t u = (uint32_t)h << 16; float f; memcpy(&f, &u, 4); return f; }
static inline uint16_t f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(u >> 16 | 0x40); /* NaN stays NaN */
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1)) >> 16);
}
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);
float f8e4m3_to_f32(uint8_t b);
float f8e5m2_to_f32(uint8_t b);
/* n elements of any float or integer type to f32 (unaligned source allowed). */
void dtype_to_f32(dtype t, const void *src, float *dst, size_t n);
/* f32 to F32, BF16 or F16. */
void dtype_from_f32(dtype t, const float *src, void *dst, size_t n);

#endif
