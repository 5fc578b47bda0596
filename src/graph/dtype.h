/* Element types of tensors. */
#ifndef SYSTOLIC_GRAPH_DTYPE_H
#define SYSTOLIC_GRAPH_DTYPE_H

#include <math.h>
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
/* Nearest 8-bit float with m mantissa bits, ties to even; beyond `most` the largest finite one (code `top`). Subnormals are units
 * of 2^(1 - bias - m). */
static inline uint8_t f32_to_f8(float f, int m, int bias, float most, uint8_t top, uint8_t nan)
{
    const int drop = 23 - m;
    uint32_t u;
    memcpy(&u, &f, 4);
    uint8_t sign = (uint8_t)(u >> 24 & 0x80);
    u &= 0x7FFFFFFFu;
    float a;
    memcpy(&a, &u, 4);
    if (u > 0x7F800000u) return (uint8_t)(sign | nan);
    if (a >= most) return (uint8_t)(sign | top);
    if (u < (uint32_t)(128 - bias) << 23) return (uint8_t)(sign | (uint8_t)lrintf(ldexpf(a, m + bias - 1)));
    u += (1u << (drop - 1)) - 1 + (u >> drop & 1);
    return (uint8_t)(sign | (u - ((uint32_t)(127 - bias) << 23)) >> drop);
}
static inline uint8_t f32_to_f8e4m3(float f) { return f32_to_f8(f, 3, 7, 448, 0x7E, 0x7F); }
static inline uint8_t f32_to_f8e5m2(float f) { return f32_to_f8(f, 2, 15, 57344, 0x7B, 0x7E); }
float f8e4m3_to_f32(uint8_t b);
float f8e5m2_to_f32(uint8_t b);
float f4e2m1_to_f32(uint8_t b);    /* of the low four bits */
/* n elements of any float or integer type to f32 (unaligned source allowed). */
void dtype_to_f32(dtype t, const void *src, float *dst, size_t n);
/* f32 to F32, BF16 or F16. */
void dtype_from_f32(dtype t, const float *src, void *dst, size_t n);

#endif
