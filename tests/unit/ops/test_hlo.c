/* The StableHLO builder: the text of every builder, what it refuses, memory running out. That the text is right StableHLO is
 * for the tests that compile it (device/test_lower_ops.c). */
#include "base/mem.h"
#include "ops/hlo.h"
#include "tests/test.h"

static const mesh alone = { 1, 1, false, false }, pair = { 1, 2, false, false }, square = { 2, 2, true, false };
#define DIM(...) (const int64_t[]){ __VA_ARGS__ }

/* Arguments of every test: f32[4x6], i32[4], f32[], i1[4x6], bf16[4x6], i32[] */
enum { F, I, SCALAR, PRED, B16, AT, N_ARGS };
static const hlo_arg args[N_ARGS] = {
    { "x", DT_F32, 2, { 4, 6 }, -1 }, { "i", DT_I32, 1, { 4 }, -1 }, { NULL, DT_F32, 0, { 0 }, -1 }, { "p", DT_BOOL, 2, { 4, 6 }, -1 }, { "b", DT_BF16, 2, { 4, 6 }, -1 },
    { "at", DT_I32, 0, { 0 }, -1 } };

static hlo h;
static hlo_val a[N_ARGS];

static void start(mesh m) { hlo_begin(&h, "t", m, args, N_ARGS, a); }

/* Ends the program; its body, line by line, must be `want`. */
static void body_is(hlo_val result, const char *want)
{
    buf t = { 0 };
    CHECK_OK(hlo_finish(&h, &result, 1, &t));
    const char *from = t.data ? strstr(t.data, ") {\n") : NULL, *to = t.data ? strstr(t.data, "    return ") : NULL;
    if (!from || !to) FAIL("no body in %s", buf_cstr(&t));
    else if ((size_t)(to - from - 4) != strlen(want) || strncmp(from + 4, want, strlen(want)) != 0) FAIL("got\n%.*swanted\n%s", (int)(to - from - 4), from + 4, want);
    buf_free(&t);
}
#define IS(m, call, text) do { start(m); hlo_val r_ = (call); body_is(r_, text); } while (0)

static void refused(hlo_val result, const char *want)
{
    buf t = { 0 };
    CHECK_ERR(hlo_finish(&h, &result, 1, &t), ST_INTERNAL, "StableHLO: ");
    if (!strstr(err_msg(), want)) FAIL("got %s, wanted %s", err_msg(), want);
    CHECK_INT(t.len, 0);
    buf_free(&t);
}
#define NOT(call, text) do { start(alone); hlo_val r_ = (call); refused(r_, text); } while (0)
#define NOT_ON(m, call, text) do { start(m); hlo_val r_ = (call); refused(r_, text); } while (0)

/* ---- the module ---- */

TEST(module)
{
    const hlo_arg two[] = { { "kv", DT_BF16, 2, { 8, 128 }, 1 }, { "a \"name\"\\\n", DT_I32, 0, { 0 }, -1 } };
    hlo_val v[2];
    buf t = { 0 };
    buf_str(&t, "before\n");
    hlo_begin(&h, "step_1", square, two, 2, v);
    hlo_comment(&h, "a %s", "comment");
    hlo_val zero = hlo_int(&h, DT_I32, 0);
    CHECK_OK(hlo_finish(&h, (hlo_val[]){ zero, v[0], v[1] }, 3, &t));
    CHECK_STR(t.data,
        "before\nmodule @step_1 attributes {mhlo.num_partitions = 4 : i32, mhlo.num_replicas = 1 : i32} {\n  func.func public @main(\n"
        "      %arg0: tensor<8x128xbf16> {tf.aliasing_output = 1 : i32} loc(\"kv\"),\n"
        "      %arg1: tensor<i32> loc(\"a \\22name\\22\\5C\\0A\")) -> (tensor<i32>, tensor<8x128xbf16>, tensor<i32>) {\n"
        "    // a comment\n    %1 = stablehlo.constant dense<0> : tensor<i32>\n"
        "    return %1, %arg0, %arg1 : tensor<i32>, tensor<8x128xbf16>, tensor<i32>\n  }\n}\n");
    buf_free(&t);
    int64_t live = mem_live();
    start(alone);
    hlo_free(&h);
    CHECK_INT(mem_live(), live);
}

/* ---- constants ---- */

TEST(constants)
{
    IS(alone, hlo_float(&h, DT_F32, 0.1), "    %1 = stablehlo.constant dense<1.000000000e-01> : tensor<f32>\n");
    IS(alone, hlo_float(&h, DT_F64, 0.1), "    %1 = stablehlo.constant dense<1.00000000000000006e-01> : tensor<f64>\n");
    static const struct { dtype t; const char *inf, *minus, *nan; } bits[] = {
        { DT_F32, "7F800000", "FF800000", "7FC00000" }, { DT_BF16, "7F80", "FF80", "7FC0" }, { DT_F16, "7C00", "FC00", "7E00" },
        { DT_F64, "7FF0000000000000", "FFF0000000000000", "7FF8000000000000" } };
    static const char *const names[] = { "f32", "bf16", "f16", "f64" };
    for (int i = 0; i < 4; i++) {
        char want[128];
        const double values[] = { INFINITY, -INFINITY, NAN };
        const char *const hex[] = { bits[i].inf, bits[i].minus, bits[i].nan };
        for (int k = 0; k < 3; k++) {
            snprintf(want, sizeof want, "    %%1 = stablehlo.constant dense<0x%s> : tensor<%s>\n", hex[k], names[i]);
            IS(alone, hlo_float(&h, bits[i].t, values[k]), want);
        }
    }
    NOT(hlo_float(&h, DT_F8E4M3, INFINITY), "f8E4M3FN has no infinity");
    IS(alone, hlo_int(&h, DT_I64, -5), "    %1 = stablehlo.constant dense<-5> : tensor<i64>\n");
    IS(alone, hlo_int(&h, DT_U32, 7), "    %1 = stablehlo.constant dense<7> : tensor<ui32>\n");
    IS(alone, hlo_int(&h, DT_BOOL, 1), "    %1 = stablehlo.constant dense<true> : tensor<i1>\n");
    IS(alone, hlo_full(&h, a[SCALAR], 2, DIM(2, 3)), "    %1 = stablehlo.broadcast_in_dim %arg2, dims = [] : (tensor<f32>) -> tensor<2x3xf32>\n");
    IS(alone, hlo_full(&h, a[SCALAR], 0, NULL), "");
    IS(alone, hlo_full_like(&h, a[SCALAR], a[F]), "    %1 = stablehlo.broadcast_in_dim %arg2, dims = [] : (tensor<f32>) -> tensor<4x6xf32>\n");
    IS(alone, hlo_floats(&h, (const float[]){ 1, -2, 0.5f, 4 }, 2, DIM(2, 2)),
       "    %1 = stablehlo.constant dense<[[1.000000000e+00, -2.000000000e+00], [5.000000000e-01, 4.000000000e+00]]> : tensor<2x2xf32>\n");
    IS(alone, hlo_iota(&h, DT_I32, 1, 2, DIM(2, 5)), "    %1 = stablehlo.iota dim = 1 : tensor<2x5xi32>\n");
    NOT(hlo_iota(&h, DT_I32, 2, 2, DIM(2, 5)), "iota: dimension 2 of rank 2");
    NOT(hlo_iota(&h, DT_I32, 0, 7, DIM(1, 1, 1, 1, 1, 1, 1)), "iota: rank 7, expected 0 to 6");
}

/* ---- element by element ---- */

TEST(elements)
{
    IS(alone, hlo_un(&h, "exponential", a[F]), "    %1 = stablehlo.exponential %arg0 : tensor<4x6xf32>\n");
    IS(alone, hlo_bin(&h, "add", a[F], a[F]), "    %1 = stablehlo.add %arg0, %arg0 : tensor<4x6xf32>\n");
    IS(alone, hlo_bin_scalar(&h, "multiply", a[I], 3),
       "    %1 = stablehlo.constant dense<3> : tensor<i32>\n    %2 = stablehlo.broadcast_in_dim %1, dims = [] : (tensor<i32>) -> tensor<4xi32>\n"
       "    %3 = stablehlo.multiply %arg1, %2 : tensor<4xi32>\n");
    IS(alone, hlo_bin_scalar(&h, "add", a[SCALAR], 1), "    %1 = stablehlo.constant dense<1.000000000e+00> : tensor<f32>\n    %2 = stablehlo.add %arg2, %1 : tensor<f32>\n");
    IS(alone, hlo_cmp(&h, "LT", a[F], a[F]), "    %1 = stablehlo.compare LT, %arg0, %arg0, FLOAT : (tensor<4x6xf32>, tensor<4x6xf32>) -> tensor<4x6xi1>\n");
    IS(alone, hlo_cmp(&h, "EQ", a[I], a[I]), "    %1 = stablehlo.compare EQ, %arg1, %arg1, SIGNED : (tensor<4xi32>, tensor<4xi32>) -> tensor<4xi1>\n");
    IS(alone, hlo_cmp(&h, "NE", a[PRED], a[PRED]), "    %1 = stablehlo.compare NE, %arg3, %arg3, UNSIGNED : (tensor<4x6xi1>, tensor<4x6xi1>) -> tensor<4x6xi1>\n");
    IS(alone, hlo_cmp_scalar(&h, "GE", a[AT], 2), "    %1 = stablehlo.constant dense<2> : tensor<i32>\n    %2 = stablehlo.compare GE, %arg5, %1, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>\n");
    IS(alone, hlo_select(&h, a[PRED], a[F], a[F]), "    %1 = stablehlo.select %arg3, %arg0, %arg0 : tensor<4x6xi1>, tensor<4x6xf32>\n");
    IS(alone, hlo_convert(&h, a[F], DT_BF16), "    %1 = stablehlo.convert %arg0 : (tensor<4x6xf32>) -> tensor<4x6xbf16>\n");
    IS(alone, hlo_convert(&h, a[F], DT_F32), "");
    IS(alone, hlo_bitcast(&h, a[I], DT_F32), "    %1 = stablehlo.bitcast_convert %arg1 : (tensor<4xi32>) -> tensor<4xf32>\n");
    IS(alone, hlo_bitcast(&h, a[I], DT_I32), "");
    IS(alone, hlo_bitcast(&h, a[F], DT_BF16), "    %1 = stablehlo.bitcast_convert %arg0 : (tensor<4x6xf32>) -> tensor<4x6x2xbf16>\n");
    IS(alone, hlo_bitcast(&h, hlo_bitcast(&h, a[I], DT_I8), DT_F32),
       "    %1 = stablehlo.bitcast_convert %arg1 : (tensor<4xi32>) -> tensor<4x4xi8>\n    %2 = stablehlo.bitcast_convert %1 : (tensor<4x4xi8>) -> tensor<4xf32>\n");
    NOT(hlo_bin(&h, "add", a[F], a[B16]), "add of %-1 (f32, rank 2) and %-5 (bf16, rank 2): types or shapes differ");
    NOT(hlo_bin(&h, "add", a[F], a[SCALAR]), "types or shapes differ");
    NOT(hlo_cmp(&h, "LT", a[I], a[AT]), "compare of ");
    NOT(hlo_select(&h, a[I], a[F], a[F]), "select: the predicate");
    NOT(hlo_select(&h, a[PRED], a[I], a[I]), "select: the predicate");
    NOT(hlo_select(&h, a[PRED], a[F], a[B16]), "select of ");
    NOT(hlo_bitcast(&h, a[B16], DT_F32), "bitcast from bf16 to f32");
    NOT(hlo_un(&h, "negate", (hlo_val){ 0 }), "an operand that does not exist");
}

/* ---- shapes ---- */

TEST(shapes)
{
    IS(alone, hlo_reshape(&h, a[F], 3, DIM(2, 2, 6)), "    %1 = stablehlo.reshape %arg0 : (tensor<4x6xf32>) -> tensor<2x2x6xf32>\n");
    IS(alone, hlo_reshape(&h, a[F], 2, DIM(4, 6)), "");
    IS(alone, hlo_transpose(&h, a[F], (const int[]){ 1, 0 }), "    %1 = stablehlo.transpose %arg0, dims = [1, 0] : (tensor<4x6xf32>) -> tensor<6x4xf32>\n");
    IS(alone, hlo_broadcast(&h, a[I], (const int[]){ 1 }, 2, DIM(3, 4)), "    %1 = stablehlo.broadcast_in_dim %arg1, dims = [1] : (tensor<4xi32>) -> tensor<3x4xi32>\n");
    IS(alone, hlo_broadcast_at(&h, a[I], 0, a[F]), "    %1 = stablehlo.broadcast_in_dim %arg1, dims = [0] : (tensor<4xi32>) -> tensor<4x6xi32>\n");
    IS(alone, hlo_slice(&h, a[F], 1, 2, 5), "    %1 = stablehlo.slice %arg0 [0:4, 2:5] : (tensor<4x6xf32>) -> tensor<4x3xf32>\n");
    IS(alone, hlo_slice(&h, a[F], 1, 0, 6), "");
    IS(alone, hlo_concat(&h, (const hlo_val[]){ a[F], a[F] }, 2, 0), "    %1 = stablehlo.concatenate %arg0, %arg0, dim = 0 : (tensor<4x6xf32>, tensor<4x6xf32>) -> tensor<8x6xf32>\n");
    IS(alone, hlo_concat(&h, &a[F], 1, 0), "");
    IS(alone, hlo_pad(&h, a[F], 1, 1, 2, a[SCALAR]),
       "    %1 = stablehlo.pad %arg0, %arg2, low = [0, 1], high = [0, 2], interior = [0, 0] : (tensor<4x6xf32>, tensor<f32>) -> tensor<4x9xf32>\n");
    IS(alone, hlo_pad(&h, a[F], 1, 0, 0, a[SCALAR]), "");
    IS(alone, hlo_dynamic_slice(&h, a[F], (const hlo_val[]){ a[AT], { 0 } }, DIM(1, 6)),
       "    %1 = stablehlo.constant dense<0> : tensor<i32>\n    %2 = stablehlo.dynamic_slice %arg0, %arg5, %1, sizes = [1, 6] : (tensor<4x6xf32>, tensor<i32>, tensor<i32>) -> tensor<1x6xf32>\n");
    IS(alone, hlo_dynamic_update(&h, a[F], a[F], (const hlo_val[]){ a[AT], a[AT] }),
       "    %1 = stablehlo.dynamic_update_slice %arg0, %arg0, %arg5, %arg5 : (tensor<4x6xf32>, tensor<4x6xf32>, tensor<i32>, tensor<i32>) -> tensor<4x6xf32>\n");
    IS(alone, hlo_row(&h, a[I], a[AT]),
       "    %1 = stablehlo.dynamic_slice %arg1, %arg5, sizes = [1] : (tensor<4xi32>, tensor<i32>) -> tensor<1xi32>\n    %2 = stablehlo.reshape %1 : (tensor<1xi32>) -> tensor<i32>\n");
}

TEST(shapes_refused)
{
    const int64_t seven[] = { 4, 6, 1, 1, 1, 1, 1 };
    NOT(hlo_reshape(&h, a[F], 2, DIM(5, 5)), "reshape of 24 elements to 25");
    NOT(hlo_reshape(&h, a[F], 7, seven), "reshape: rank 7, expected 0 to 6");
    NOT(hlo_transpose(&h, a[F], (const int[]){ 0, 2 }), "transpose: dimension 2 of rank 2");
    NOT(hlo_transpose(&h, a[F], (const int[]){ 1, 1 }), "transpose: a dimension is there twice");
    NOT(hlo_broadcast(&h, a[I], (const int[]){ 0 }, 2, DIM(3, 4)), "broadcast: dimension 0 has 4, not 3");
    NOT(hlo_broadcast(&h, a[I], (const int[]){ 2 }, 2, DIM(3, 4)), "broadcast: dimension 2 of rank 2");
    NOT(hlo_broadcast(&h, a[I], (const int[]){ 0 }, 7, seven), "broadcast: rank 7");
    NOT(hlo_broadcast_at(&h, a[F], 1, a[F]), "broadcast: dimension 0 has 4, not 6");
    NOT(hlo_slice(&h, a[F], 1, 2, 7), "slice [2:7] of 6");
    NOT(hlo_slice(&h, a[F], 1, -1, 2), "slice [-1:2] of 6");
    NOT(hlo_slice(&h, a[F], 1, 3, 2), "slice [3:2] of 6");
    NOT(hlo_slice(&h, a[F], 2, 0, 1), "slice: dimension 2 of rank 2");
    NOT(hlo_concat(&h, (const hlo_val[]){ a[F], a[B16] }, 2, 0), "concatenate of ");
    NOT(hlo_concat(&h, (const hlo_val[]){ a[F], a[F] }, 2, 2), "concatenate: dimension 2 of rank 2");
    NOT(hlo_pad(&h, a[F], 1, 1, 0, a[AT]), "pad of f32 by 1 and 0 of i32, rank 0");
    NOT(hlo_pad(&h, a[F], 1, -1, 0, a[SCALAR]), "pad of f32 by -1");
    NOT(hlo_pad(&h, a[F], -1, 1, 0, a[SCALAR]), "pad: dimension -1 of rank 2");
    NOT(hlo_dynamic_slice(&h, a[F], (const hlo_val[]){ a[AT], a[AT] }, DIM(1, 7)), "dynamic_slice: 7 of 6 in dimension 1");
    NOT(hlo_dynamic_slice(&h, a[F], (const hlo_val[]){ a[I], a[AT] }, DIM(1, 1)), "start 0 is i32, rank 1, expected an i32 scalar");
    NOT(hlo_dynamic_update(&h, a[F], a[I], (const hlo_val[]){ a[AT], a[AT] }), "the update does not fit");
    NOT(hlo_dynamic_update(&h, a[F], hlo_pad(&h, a[F], 0, 1, 0, a[SCALAR]), (const hlo_val[]){ a[AT], a[AT] }), "the update does not fit");
    NOT(hlo_row(&h, a[SCALAR], a[AT]), "row: dimension 0 of rank 0");
}

/* ---- reductions, products ---- */

static void reduce_is(const char *verb, hlo_val x, const char *init, const char *type)
{
    char want[512];
    char dims[64] = "";
    for (int i = 0; i < x.rank; i++) snprintf(dims + strlen(dims), sizeof dims - strlen(dims), "%lldx", (long long)x.dim[i]);
    snprintf(want, sizeof want, "    %%1 = stablehlo.constant dense<%s> : tensor<%s>\n    %%2 = stablehlo.reduce(%%arg%d init: %%1) applies stablehlo.%s across dimensions = [0] : (tensor<%s%s>, tensor<%s>) -> tensor<%s%s>\n",
             init, type, -1 - x.id, verb, dims, type, type, x.rank > 1 ? strchr(dims, 'x') + 1 : "", type);
    body_is(hlo_reduce(&h, verb, x, 0), want);
}
#define REDUCE(verb, arg, init, name) do { start(alone); reduce_is(verb, a[arg], init, name); } while (0)
/* An argument as if it had another type: for the text it is that. */
#define REDUCE_AS(verb, as, init, name) do { start(alone); hlo_val x_ = a[I]; x_.type = as; reduce_is(verb, x_, init, name); } while (0)

TEST(reductions)
{
    REDUCE("add", F, "0.000000000e+00", "f32");
    REDUCE("maximum", F, "0xFF800000", "f32");
    REDUCE("minimum", B16, "0x7F80", "bf16");
    REDUCE("and", PRED, "true", "i1");
    REDUCE("minimum", PRED, "true", "i1");
    REDUCE("or", PRED, "false", "i1");
    REDUCE("maximum", PRED, "false", "i1");
    REDUCE("add", I, "0", "i32");
    REDUCE("maximum", I, "-2147483648", "i32");
    REDUCE("minimum", I, "2147483647", "i32");
    REDUCE("and", I, "-1", "i32");
    REDUCE_AS("maximum", DT_I8, "-128", "i8");
    REDUCE_AS("minimum", DT_I8, "127", "i8");
    REDUCE_AS("maximum", DT_I64, "-9223372036854775808", "i64");
    REDUCE_AS("minimum", DT_I64, "9223372036854775807", "i64");
    REDUCE_AS("maximum", DT_U32, "0", "ui32");
    REDUCE_AS("minimum", DT_U32, "4294967295", "ui32");
    REDUCE_AS("and", DT_U8, "255", "ui8");
    IS(alone, hlo_reduce(&h, "add", a[F], 1), "    %1 = stablehlo.constant dense<0.000000000e+00> : tensor<f32>\n"
       "    %2 = stablehlo.reduce(%arg0 init: %1) applies stablehlo.add across dimensions = [1] : (tensor<4x6xf32>, tensor<f32>) -> tensor<4xf32>\n");
    NOT(hlo_reduce(&h, "multiply", a[F], 0), "reduce with multiply");
    NOT(hlo_reduce(&h, "add", a[SCALAR], 0), "reduce: dimension 0 of rank 0");
}

TEST(argmax)
{
    IS(alone, hlo_argmax(&h, a[B16], 1),
       "    %1 = stablehlo.iota dim = 1 : tensor<4x6xi32>\n    %2 = stablehlo.constant dense<0xFF80> : tensor<bf16>\n    %3 = stablehlo.constant dense<2147483647> : tensor<i32>\n"
       "    %4:2 = \"stablehlo.reduce\"(%arg4, %1, %2, %3) <{dimensions = array<i64: 1>}> ({\n"
       "    ^bb0(%va: tensor<bf16>, %ia: tensor<i32>, %vb: tensor<bf16>, %ib: tensor<i32>):\n"
       "      %gt = stablehlo.compare GT, %va, %vb, FLOAT : (tensor<bf16>, tensor<bf16>) -> tensor<i1>\n"
       "      %eq = stablehlo.compare EQ, %va, %vb, FLOAT : (tensor<bf16>, tensor<bf16>) -> tensor<i1>\n"
       "      %v = stablehlo.select %gt, %va, %vb : tensor<i1>, tensor<bf16>\n      %low = stablehlo.minimum %ia, %ib : tensor<i32>\n"
       "      %one = stablehlo.select %gt, %ia, %ib : tensor<i1>, tensor<i32>\n      %i = stablehlo.select %eq, %low, %one : tensor<i1>, tensor<i32>\n"
       "      stablehlo.return %v, %i : tensor<bf16>, tensor<i32>\n"
       "    }) : (tensor<4x6xbf16>, tensor<4x6xi32>, tensor<bf16>, tensor<i32>) -> (tensor<4xbf16>, tensor<4xi32>)\n");
    NOT(hlo_argmax(&h, a[I], 0), "argmax of i32");
    NOT(hlo_argmax(&h, a[F], 2), "argmax: dimension 2 of rank 2");
}

static hlo_val dot(hlo_val x, hlo_val y, hlo_dims bx, hlo_dims by, hlo_dims ox, hlo_dims oy) { return hlo_dot(&h, x, y, bx, by, ox, oy, DT_F32); }

TEST(products)
{
    const hlo_dims none = { 0 };
    IS(alone, dot(a[F], a[F], none, none, HLO_DIMS(1), HLO_DIMS(1)),
       "    %1 = stablehlo.dot_general %arg0, %arg0, contracting_dims = [1] x [1], precision = [HIGHEST, HIGHEST] : (tensor<4x6xf32>, tensor<4x6xf32>) -> tensor<4x4xf32>\n");
    IS(alone, dot(a[B16], a[B16], HLO_DIMS(0), HLO_DIMS(0), HLO_DIMS(1), HLO_DIMS(1)),
       "    %1 = stablehlo.dot_general %arg4, %arg4, batching_dims = [0] x [0], contracting_dims = [1] x [1] : (tensor<4x6xbf16>, tensor<4x6xbf16>) -> tensor<4xf32>\n");
    NOT(dot(a[F], a[F], none, none, HLO_DIMS(0), HLO_DIMS(1)), "dot over 4 and 6");
    NOT(dot(a[F], a[F], HLO_DIMS(0), HLO_DIMS(1), none, none), "dot: batch dimensions differ");
    NOT(dot(a[F], a[F], HLO_DIMS(0), none, none, none), "dot: 1 and 0 batch dimensions, over 0 and 0");
    NOT(dot(hlo_reshape(&h, a[F], 4, DIM(2, 2, 2, 3)), hlo_reshape(&h, a[F], 4, DIM(2, 2, 2, 3)), none, none, none, none), "dot: rank 8, expected 0 to 6");
}

/* ---- gather, scatter ---- */

TEST(gather_and_scatter)
{
    IS(alone, hlo_take(&h, a[F], a[I]),
       "    %1 = \"stablehlo.gather\"(%arg0, %arg1) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>"
       ", slice_sizes = array<i64: 1, 6>, indices_are_sorted = false}> : (tensor<4x6xf32>, tensor<4xi32>) -> tensor<4x6xf32>\n");
    IS(alone, hlo_take(&h, a[I], a[AT]),
       "    %1 = \"stablehlo.gather\"(%arg1, %arg5) <{dimension_numbers = #stablehlo.gather<collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 0>"
       ", slice_sizes = array<i64: 1>, indices_are_sorted = false}> : (tensor<4xi32>, tensor<i32>) -> tensor<i32>\n");
    NOT(hlo_take(&h, a[SCALAR], a[I]), "gather: dimension 0 of rank 0");
    NOT(hlo_take(&h, hlo_reshape(&h, a[F], 6, DIM(2, 2, 2, 3, 1, 1)), hlo_reshape(&h, a[I], 2, DIM(2, 2))), "gather: rank 7");
    IS(alone, hlo_put(&h, a[F], hlo_reshape(&h, a[I], 2, DIM(4, 1)), a[F]),
       "    %1 = stablehlo.reshape %arg1 : (tensor<4xi32>) -> tensor<4x1xi32>\n"
       "    %2 = \"stablehlo.scatter\"(%arg0, %1, %arg0) <{scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1], inserted_window_dims = [0], "
       "scatter_dims_to_operand_dims = [0], index_vector_dim = 1>, indices_are_sorted = false, unique_indices = false}> ({\n"
       "    ^bb0(%3: tensor<f32>, %4: tensor<f32>):\n      stablehlo.return %4 : tensor<f32>\n    }) : (tensor<4x6xf32>, tensor<4x1xi32>, tensor<4x6xf32>) -> tensor<4x6xf32>\n");
    IS(alone, hlo_put_add(&h, a[I], hlo_reshape(&h, a[I], 2, DIM(4, 1)), a[I]),
       "    %1 = stablehlo.reshape %arg1 : (tensor<4xi32>) -> tensor<4x1xi32>\n"
       "    %2 = \"stablehlo.scatter\"(%arg1, %1, %arg1) <{scatter_dimension_numbers = #stablehlo.scatter<inserted_window_dims = [0], "
       "scatter_dims_to_operand_dims = [0], index_vector_dim = 1>, indices_are_sorted = false, unique_indices = false}> ({\n"
       "    ^bb0(%3: tensor<i32>, %4: tensor<i32>):\n      %5 = stablehlo.add %3, %4 : tensor<i32>\n      stablehlo.return %5 : tensor<i32>\n"
       "    }) : (tensor<4xi32>, tensor<4x1xi32>, tensor<4xi32>) -> tensor<4xi32>\n");
    const char *no = "scatter: indices or updates do not fit";
    NOT(hlo_put(&h, a[F], a[I], a[F]), no);
    NOT(hlo_put(&h, a[F], hlo_reshape(&h, a[I], 2, DIM(1, 4)), a[F]), no);      /* four indices into two dimensions */
    NOT(hlo_put(&h, a[F], hlo_reshape(&h, a[I], 2, DIM(2, 2)), a[F]), no);
    NOT(hlo_put(&h, a[F], hlo_reshape(&h, a[I], 2, DIM(4, 1)), hlo_slice(&h, a[F], 1, 0, 3)), no);
    NOT(hlo_put(&h, a[F], hlo_reshape(&h, a[I], 2, DIM(4, 1)), a[B16]), no);
}

/* ---- loops ---- */

TEST(loops)
{
    hlo_val c[2], out[2];
    start(alone);
    hlo_while(&h, (const hlo_val[]){ a[AT], a[F] }, 2, c);
    hlo_do(&h, hlo_cmp(&h, "LT", c[0], a[AT]));
    hlo_end(&h, (const hlo_val[]){ hlo_bin(&h, "add", c[0], c[0]), c[1] }, out);
    body_is(hlo_un(&h, "negate", out[1]),
            "    %1:2 = stablehlo.while(%2 = %arg5, %3 = %arg0) : tensor<i32>, tensor<4x6xf32>\n    cond {\n"
            "      %4 = stablehlo.compare LT, %2, %arg5, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>\n      stablehlo.return %4 : tensor<i1>\n    } do {\n"
            "      %5 = stablehlo.add %2, %2 : tensor<i32>\n      stablehlo.return %5, %3 : tensor<i32>, tensor<4x6xf32>\n    }\n"
            "    %6 = stablehlo.negate %1#1 : tensor<4x6xf32>\n");
    start(alone);
    hlo_val i = hlo_for(&h, a[AT], a[AT], &a[F], 1, c);
    CHECK(i.type == DT_I32 && i.rank == 0);
    hlo_end_for(&h, c, out);
    body_is(out[0],
            "    %1:2 = stablehlo.while(%2 = %arg5, %3 = %arg0) : tensor<i32>, tensor<4x6xf32>\n    cond {\n"
            "      %4 = stablehlo.compare LT, %2, %arg5, SIGNED : (tensor<i32>, tensor<i32>) -> tensor<i1>\n      stablehlo.return %4 : tensor<i1>\n    } do {\n"
            "      %5 = stablehlo.constant dense<1> : tensor<i32>\n      %6 = stablehlo.add %2, %5 : tensor<i32>\n"
            "      stablehlo.return %6, %3 : tensor<i32>, tensor<4x6xf32>\n    }\n");
}

TEST(loops_refused)
{
    hlo_val c[HLO_CARRIED + 1], out[HLO_CARRIED + 1], many[HLO_CARRIED + 1];
    start(alone);
    for (int i = 0; i <= HLO_CARRIED; i++) many[i] = a[F];
    hlo_while(&h, a, 1, c);
    refused(a[F], "1 loops have no end");
    start(alone);
    hlo_end(&h, a, out);
    refused(a[F], "the end of a loop that was not begun");
    start(alone);
    hlo_end_for(&h, a, out);
    refused(a[F], "the end of a loop that was not begun");
    start(alone);
    hlo_while(&h, a, 1, c);
    hlo_end_for(&h, a, out);
    refused(a[F], "the end of a loop that was not begun");
    start(alone);
    hlo_while(&h, a, 1, c);
    hlo_do(&h, hlo_cmp(&h, "LT", a[AT], a[AT]));
    hlo_end(&h, &a[B16], out);
    refused(a[F], "while of ");
    start(alone);
    hlo_while(&h, many, HLO_CARRIED + 1, c);
    CHECK_INT(c[HLO_CARRIED].id, a[F].id);
    refused(a[F], "1 loops in each other with 17 values, at most 4 and 16 are supported");
    start(alone);
    hlo_for(&h, a[AT], a[AT], many, HLO_CARRIED, c);
    refused(a[F], "a loop with 16 values, at most 15 are supported");
    start(alone);
    for (int i = 0; i <= HLO_WHILES; i++) hlo_while(&h, a, 1, c);
    refused(a[F], "5 loops in each other with 1 values");
}

/* ---- collectives ---- */

TEST(collectives)
{
    const char *groups[] = { "dense<[[0, 1]]> : tensor<1x2xi64>", "dense<[[0, 1], [2, 3]]> : tensor<2x2xi64>" };
    const mesh on[] = { pair, square };
    for (int i = 0; i < 2; i++) {
        char want[700];
        snprintf(want, sizeof want, "    %%1 = \"stablehlo.all_reduce\"(%%arg0) <{replica_groups = %s, channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, use_global_device_ids}> ({\n"
                 "    ^bb0(%%2: tensor<f32>, %%3: tensor<f32>):\n      %%4 = stablehlo.add %%2, %%3 : tensor<f32>\n      stablehlo.return %%4 : tensor<f32>\n    }) : (tensor<4x6xf32>) -> tensor<4x6xf32>\n", groups[i]);
        IS(on[i], hlo_all_reduce(&h, a[F]), want);
        snprintf(want, sizeof want, "    %%1 = \"stablehlo.all_gather\"(%%arg0) <{all_gather_dim = 1 : i64, replica_groups = %s, channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, use_global_device_ids}> : (tensor<4x6xf32>) -> tensor<4x12xf32>\n", groups[i]);
        IS(on[i], hlo_all_gather(&h, a[F], 1), want);
        snprintf(want, sizeof want, "    %%1 = \"stablehlo.reduce_scatter\"(%%arg4) <{scatter_dimension = 0 : i64, replica_groups = %s, channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, use_global_device_ids}> ({\n"
                 "    ^bb0(%%2: tensor<bf16>, %%3: tensor<bf16>):\n      %%4 = stablehlo.add %%2, %%3 : tensor<bf16>\n      stablehlo.return %%4 : tensor<bf16>\n    }) : (tensor<4x6xbf16>) -> tensor<2x6xbf16>\n", groups[i]);
        IS(on[i], hlo_reduce_scatter(&h, a[B16], 0), want);
    }
    /* Each has a channel of its own. */
    start(pair);
    hlo_all_reduce(&h, a[F]);
    hlo_all_gather(&h, a[F], 0);
    CHECK(strstr(h.text.data, "handle = 2, type = 1"));
    hlo_free(&h);
    IS(alone, hlo_all_reduce(&h, a[F]), "");
    IS(alone, hlo_all_gather(&h, a[F], 1), "");
    IS(alone, hlo_reduce_scatter(&h, a[F], 1), "");
    IS(alone, hlo_tensor_rank(&h), "    %1 = stablehlo.constant dense<0> : tensor<i32>\n");
    start(pair);
    h.rank = a[AT];
    body_is(hlo_tensor_rank(&h), "");
    NOT_ON(pair, hlo_tensor_rank(&h), "the tensor rank is not an argument of this program");
    NOT_ON(pair, hlo_all_gather(&h, a[F], 2), "all_gather: dimension 2 of rank 2");
    NOT_ON(pair, hlo_reduce_scatter(&h, a[F], 2), "reduce_scatter: dimension 2 of rank 2");
    NOT_ON(((mesh){ 1, 4, false, false }), hlo_reduce_scatter(&h, a[F], 1), "reduce_scatter of 6 over 4 ranks");
}

TEST(dimensions_of_a_bucket)
{
    const hlo_step s = { .T = 24, .S = 5, .R = 7 };
    CHECK_INT(hlo_dim(&s, square, DIM_T), 24);
    CHECK_INT(hlo_dim(&s, square, DIM_S), 5);
    CHECK_INT(hlo_dim(&s, square, DIM_R), 7);
    CHECK_INT(hlo_dim(&s, square, DIM_TS), 12);
    CHECK_INT(hlo_dim(&s, square, 9), 9);
    CHECK_INT(hlo_count((hlo_val){ .rank = 3, .dim = { 2, 3, 4 } }), 24);
    CHECK_INT(hlo_count((hlo_val){ .rank = 0 }), 1);
}

/* The first complaint is the one that is told. */
TEST(the_first_error_stays)
{
    start(alone);
    hlo_reshape(&h, a[F], 1, DIM(5));
    hlo_slice(&h, a[F], 1, 2, 7);
    refused(a[F], "reshape of 24 elements to 5");
}

static status whole_program(void)
{
    hlo_val c[1];
    buf t = { 0 };
    start(square);
    hlo_for(&h, a[AT], a[AT], &a[F], 1, c);
    hlo_val y = hlo_all_reduce(&h, hlo_dot(&h, c[0], a[F], (hlo_dims){ 0 }, (hlo_dims){ 0 }, HLO_DIMS(1), HLO_DIMS(1), DT_F32));
    y = hlo_take(&h, hlo_reduce(&h, "add", y, 0), hlo_argmax(&h, c[0], 1));
    hlo_end_for(&h, (const hlo_val[]){ hlo_bin(&h, "add", c[0], hlo_broadcast_at(&h, y, 0, c[0])) }, c);
    status st = hlo_finish(&h, c, 1, &t);
    buf_free(&t);
    return st;
}

TEST(out_of_memory_is_a_status)
{
    bool done = false;
    int64_t live = mem_live();
    for (uint64_t n = 1; !done && !test_cur_failed; n++) {
        mem_fail_at(n);
        status st = whole_program();
        done = !mem_failed();
        mem_fail_at(0);
        if (st != (done ? ST_OK : ST_NOMEM)) FAIL("allocation %d: %s (%s)", (int)n, status_name(st), err_msg());
        CHECK_INT(mem_live(), live);
    }
}

TEST_MAIN
