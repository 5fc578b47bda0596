/* graph: element types. Conversions are checked against definitions written down independently, over all bit patterns. */
#include "tests/test.h"

#include <stdint.h>

#include "graph/dtype.h"

/* The value of a small float by its definition. Returns NAN for NaN. */
static double value_of(unsigned bits, int n_exp, int n_man, int bias, int has_inf, int all_ones_nan_only)
{
    unsigned man = bits & ((1u << n_man) - 1), exp = bits >> n_man & ((1u << n_exp) - 1), sign = bits >> (n_man + n_exp) & 1;
    unsigned top = (1u << n_exp) - 1;
    double v;
    if (has_inf && exp == top) v = man ? NAN : INFINITY;
    else if (all_ones_nan_only && exp == top && man == (1u << n_man) - 1) v = NAN;
    else if (exp == 0) v = ldexp(man, 1 - bias - n_man);
    else v = ldexp(1 + ldexp(man, -n_man), (int)exp - bias);
    return sign ? -v : v;
}

static int same(float got, double want)
{
    if (isnan(want)) return isnan(got);
    return (double)got == want && !signbit(got) == !signbit(want);
}

TEST(every_small_float_has_its_value)
{
    for (unsigned i = 0; i < 65536; i++) {
        if (!same(f16_to_f32((uint16_t)i), value_of(i, 5, 10, 15, 1, 0))) FAIL("f16 %04x", i);
        if (!same(bf16_to_f32((uint16_t)i), value_of(i, 8, 7, 127, 1, 0))) FAIL("bf16 %04x", i);
    }
    for (unsigned i = 0; i < 256; i++) {
        uint8_t b = (uint8_t)i;
        float scale;
        if (!same(f8e4m3_to_f32(b), value_of(i, 4, 3, 7, 0, 1))) FAIL("f8e4m3 %02x", i);
        if (!same(f8e5m2_to_f32(b), value_of(i, 5, 2, 15, 1, 0))) FAIL("f8e5m2 %02x", i);
        dtype_to_f32(DT_F8E8M0, &b, &scale, 1);
        if (!same(scale, i == 255 ? NAN : ldexp(1, (int)i - 127))) FAIL("f8e8m0 %02x", i);
    }
}

TEST(what_is_exact_survives_the_round_trip)
{
    for (unsigned i = 0; i < 65536; i++) {
        float f = f16_to_f32((uint16_t)i), b = bf16_to_f32((uint16_t)i);
        if (isnan(f) ? !isnan(f16_to_f32(f32_to_f16(f))) : f32_to_f16(f) != i) FAIL("f16 %04x became %04x", i, f32_to_f16(f));
        if (isnan(b) ? !isnan(bf16_to_f32(f32_to_bf16(b))) : f32_to_bf16(b) != i) FAIL("bf16 %04x became %04x", i, f32_to_bf16(b));
    }
}

/* Between neighbours: below the middle goes down, above goes up, the middle goes to the even one. */
static void rounds(const char *what, unsigned last, float (*to)(uint16_t), uint16_t (*from)(float))
{
    for (unsigned i = 0; i < last; i++) {
        double a = (double)to((uint16_t)i), b = (double)to((uint16_t)(i + 1));
        float mid = (float)((a + b) / 2);
        unsigned even = i & 1 ? i + 1 : i;
        if (from(mid) != even) FAIL("%s: the middle after %04x became %04x", what, i, from(mid));
        if (from(nextafterf(mid, 0)) != i) FAIL("%s: below the middle after %04x", what, i);
        if (from(nextafterf(mid, INFINITY)) != i + 1) FAIL("%s: above the middle after %04x", what, i);
        if (from(-mid) != (even | 0x8000)) FAIL("%s: sign of the middle after %04x", what, i);
    }
}

static uint16_t to_bf16(float f) { return f32_to_bf16(f); }
static float from_bf16(uint16_t h) { return bf16_to_f32(h); }

TEST(rounding_is_to_nearest_even)
{
    rounds("f16", 0x7BFF, f16_to_f32, f32_to_f16);
    rounds("bf16", 0x7F7F, from_bf16, to_bf16);
    CHECK_INT(f32_to_f16(65519.996f), 0x7BFF);
    CHECK_INT(f32_to_f16(65520), 0x7C00); /* the middle between the largest and 2^16 is infinity */
    CHECK_INT(f32_to_f16(3e38f), 0x7C00);
    CHECK_INT(f32_to_f16(-INFINITY), 0xFC00);
    CHECK_INT(f32_to_bf16(3.4e38f), 0x7F80);
    CHECK_INT(f32_to_f16(1e-30f), 0);
}

TEST(arrays_of_any_alignment)
{
    static const struct { dtype t; const char bytes[8]; float want; } cases[] = {
        { DT_F32, "\0\0\x80\x3f", 1 }, { DT_F64, "\0\0\0\0\0\0\0\xc0", -2 }, { DT_I64, "\xfe\xff\xff\xff\xff\xff\xff\xff", -2 }, { DT_I32, "\xff\xff\xff\xff", -1 },
        { DT_I16, "\x00\x80", -32768 }, { DT_I8, "\x80", -128 }, { DT_U8, "\xff", 255 }, { DT_BOOL, "\x01", 1 }, { DT_U16, "\xff\xff", 65535 },
        { DT_U32, "\0\0\0\x80", 2147483648.0f }, { DT_U64, "\0\0\0\0\x01\0\0\0", 4294967296.0f }, { DT_BF16, "\x80\x3f", 1 }, { DT_F16, "\x00\x3c", 1 },
        { DT_F8E4M3, "\x38", 1 }, { DT_F8E5M2, "\x3c", 1 }, { DT_F8E8M0, "\x7f", 1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char raw[1 + 3 * 8];
        float out[3] = { 0 };
        size_t n = dtype_bytes(cases[i].t, 1);
        for (size_t k = 0; k < 3; k++) memcpy(raw + 1 + k * n, cases[i].bytes, n);
        dtype_to_f32(cases[i].t, raw + 1, out, 3);
        for (size_t k = 0; k < 3; k++)
            if (out[k] != cases[i].want) FAIL("%s: %g, wanted %g", dtype_name(cases[i].t), (double)out[k], (double)cases[i].want);
    }
    float in[2] = { 1, -2 };
    uint16_t h[2];
    dtype_from_f32(DT_F16, in, h, 2);
    CHECK(h[0] == 0x3C00 && h[1] == 0xC000);
    dtype_from_f32(DT_BF16, in, h, 2);
    CHECK(h[0] == 0x3F80 && h[1] == 0xC000);
}

TEST(sizes_and_names)
{
    CHECK_INT(dtype_bytes(DT_I4, 3), 2);
    CHECK_INT(dtype_bytes(DT_F4E2M1, 8), 4);
    CHECK_INT(dtype_bytes(DT_F64, 5), 40);
    CHECK_INT(dtype_bytes(DT_F8E8M0, 5), 5);
    for (int t = 0; t < DT_COUNT; t++) CHECK(dtype_bits((dtype)t) > 0 && strlen(dtype_name((dtype)t)) > 1);
    CHECK_STR(dtype_name(DT_COUNT), "?");
}

TEST_MAIN
