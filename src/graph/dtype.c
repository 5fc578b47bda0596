#include "graph/dtype.h"

#include <math.h>

static const struct { const char *name; unsigned bits; } info[DT_COUNT] = {
    [DT_F32] = { "f32", 32 }, [DT_BF16] = { "bf16", 16 }, [DT_F16] = { "f16", 16 }, [DT_F64] = { "f64", 64 },
    [DT_I64] = { "i64", 64 }, [DT_I32] = { "i32", 32 }, [DT_I16] = { "i16", 16 }, [DT_I8] = { "i8", 8 },
    [DT_U8] = { "u8", 8 }, [DT_BOOL] = { "bool", 8 }, [DT_F8E4M3] = { "f8e4m3", 8 }, [DT_F8E5M2] = { "f8e5m2", 8 },
    [DT_F8E8M0] = { "f8e8m0", 8 }, [DT_I4] = { "i4", 4 }, [DT_F4E2M1] = { "f4e2m1", 4 },
    [DT_U16] = { "u16", 16 }, [DT_U32] = { "u32", 32 }, [DT_U64] = { "u64", 64 },
};

size_t dtype_bits(dtype t) { return info[t].bits; }
const char *dtype_name(dtype t) { return (unsigned)t < DT_COUNT ? info[t].name : "?"; }

float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 0x3FF, u;
    if (exp == 31) u = sign | 0x7F800000u | man << 13;
    else if (exp) u = sign | (exp + 112) << 23 | man << 13;
    else {
        float f = (float)man * 0x1p-24f;
        return sign ? -f : f;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    u &= 0x7FFFFFFFu;
    if (u > 0x7F800000u) return (uint16_t)(sign | 0x7E00);
    if (u >= 0x477FF000u) return (uint16_t)(sign | 0x7C00); /* rounds beyond 65504 */
    if (u < 0x38800000u) {                                   /* subnormal half: units of 2^-24 */
        float a;
        memcpy(&a, &u, 4);
        return (uint16_t)(sign | (uint16_t)lrintf(a * 0x1p24f));
    }
    u += 0xFFFu + (u >> 13 & 1);
    return (uint16_t)(sign | (u - 0x38000000u) >> 13);
}

float f8e4m3_to_f32(uint8_t b)
{
    int exp = b >> 3 & 15, man = b & 7;
    float v = exp == 15 && man == 7 ? NAN : exp ? ldexpf(1.0f + (float)man / 8, exp - 7) : ldexpf((float)man, -9);
    return b & 0x80 ? -v : v;
}

float f8e5m2_to_f32(uint8_t b) { return f16_to_f32((uint16_t)(b << 8)); }

float f4e2m1_to_f32(uint8_t b)
{
    static const float magnitude[8] = { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6 };
    return b & 8 ? -magnitude[b & 7] : magnitude[b & 7];
}

static float f8e8m0_to_f32(uint8_t b) { return b == 255 ? NAN : ldexpf(1.0f, (int)b - 127); }

#define EACH(ctype, expr) \
    for (size_t i = 0; i < n; i++) { ctype x; memcpy(&x, (const char *)src + i * sizeof x, sizeof x); dst[i] = (float)(expr); } break

void dtype_to_f32(dtype t, const void *src, float *dst, size_t n)
{
    switch (t) {
    case DT_F32: memcpy(dst, src, n * 4); break;
    case DT_BF16: EACH(uint16_t, bf16_to_f32(x));
    case DT_F16: EACH(uint16_t, f16_to_f32(x));
    case DT_F64: EACH(double, x);
    case DT_I64: EACH(int64_t, x);
    case DT_I32: EACH(int32_t, x);
    case DT_I16: EACH(int16_t, x);
    case DT_I8: EACH(int8_t, x);
    case DT_U8: case DT_BOOL: EACH(uint8_t, x);
    case DT_U16: EACH(uint16_t, x);
    case DT_U32: EACH(uint32_t, x);
    case DT_U64: EACH(uint64_t, x);
    case DT_F8E4M3: EACH(uint8_t, f8e4m3_to_f32(x));
    case DT_F8E5M2: EACH(uint8_t, f8e5m2_to_f32(x));
    case DT_F8E8M0: EACH(uint8_t, f8e8m0_to_f32(x));
    case DT_I4: case DT_F4E2M1: case DT_COUNT: break; /* packed types are unpacked by their readers */
    }
}

void dtype_from_f32(dtype t, const float *src, void *dst, size_t n)
{
    if (t == DT_F32) memcpy(dst, src, n * 4);
    uint16_t *d = dst;
    for (size_t i = 0; i < n && t == DT_BF16; i++) d[i] = f32_to_bf16(src[i]);
    for (size_t i = 0; i < n && t == DT_F16; i++) d[i] = f32_to_f16(src[i]);
}
