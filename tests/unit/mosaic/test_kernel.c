/* The kernel builder: what it prints and what it refuses. */
#include "base/mem.h"
#include "tests/test.h"
#include "tests/unit/mosaic/kernels.h"

static mk *finished(mk *k)
{
    CHECK_OK(mk_finish(k));
    return k;
}

TEST(prints_gather)
{
    mk *k = finished(kernel_gather());
    buf text = {0};
    REQUIRE_OK(mk_print(k, &text));
    const char *const lines[] = {
        "func.func @gather(%_g0: i32, %table: memref<8xi32, #tpu.memory_space<smem>>, %kv: memref<64x16x128xbf16, #tpu.memory_space<hbm>>, %o: memref<16x128xbf16, #tpu.memory_space<vmem>>",
        "window_params = [{}, {transform_indices = @map_o, window_bounds = array<i64: 16, 128>}]", "iteration_bounds = array<i64: 8>", "scalar_prefetch = 1 : i64, scratch_operands = 2 : i64",
        "= memref.load %table[%_t1] : memref<8xi32, #tpu.memory_space<smem>>", "target(%page : memref<16x128xbf16, #tpu.memory_space<vmem>>)", "return %_g0, %_c" };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(text.data, lines[i])) FAIL("no '%s' in\n%s", lines[i], text.data);
    CHECK_INT(mk_n_operands(k), 2);
    CHECK_INT(mk_n_results(k), 1);
    CHECK_INT(mk_vmem_bytes(k), 3 * 16 * 128 * 2);
    buf_free(&text);
    mk_free(k);
}

TEST(prints_flash_decode)
{
    mk *k = finished(kernel_flash_decode());
    buf text = {0};
    REQUIRE_OK(mk_print(k, &text));
    CHECK(strstr(text.data, " -> (vector<8x1xf32>, vector<8x1xf32>, vector<8x128xf32>) : i32 {\n"));
    CHECK(strstr(text.data, "scf.yield"));
    buf_free(&text);
    mk_free(k);
}

/* Every second row of 32 bits, i.e. rows 0, 1, 4, 5, ... of bf16, times one of 8 bits. */
TEST(strided_rows_and_mixed_products)
{
    mk *k = mk_new("strided");
    mk_ref a = mk_in_block(k, "a", DT_BF16, MK_DIMS(32, 128), MK_DIMS(32, 128), NULL, NULL), b = mk_in_block(k, "b", DT_I8, MK_DIMS(64, 128), MK_DIMS(64, 128), NULL, NULL);
    mk_ref o = mk_out_block(k, "o", DT_F32, MK_DIMS(16, 64), MK_DIMS(16, 64), NULL, NULL);
    mk_val rows = mk_load_strided(k, mk_ref_bitcast(k, a, DT_I32), mk_i32(0), 8, 2);
    mk_val product = mk_matmul(k, mk_bitcast(k, rows, DT_BF16), mk_load(k, b, MK_ZERO, MK_DIMS(64, 128)), true, DT_F32, (mk_val){ 0 });
    mk_store_strided(k, product, o, mk_i32(0), 1);
    finished(k);
    buf text = {0};
    REQUIRE_OK(mk_print(k, &text));
    CHECK(strstr(text.data, "] {strides = array<i32: 2, 1>} : memref<16x128xi32, #tpu.memory_space<vmem>>, vector<8x128xi32>"));
    CHECK(strstr(text.data, ": vector<16x128xbf16>, vector<64x128xi8>, vector<16x64xf32> -> vector<16x64xf32>"));
    CHECK(strstr(text.data, "tpu.strided_store %o["));
    buf_free(&text);
    mk_free(k);
    k = mk_new("beyond");
    a = mk_in_block(k, "a", DT_I32, MK_DIMS(16, 128), MK_DIMS(16, 128), NULL, NULL);
    mk_load_strided(k, a, mk_i32(2), 8, 2);
    CHECK_ERR(mk_finish(k), ST_INVALID, "8 rows, every 2 from 2 on, of i32[16,128]");
    mk_free(k);
}

TEST_MAIN
