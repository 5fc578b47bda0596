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

TEST_MAIN
