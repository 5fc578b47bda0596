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

TEST(bakes_constants_in)
{
    mk *k = finished(kernel_flash_decode());
    buf text = {0};
    CHECK_ERR(mk_bake(k, "nobody", 1, 0), ST_INVALID, "there are no prefetched integers nobody");
    CHECK_OK(mk_bake(k, "len", 2048, 0));
    CHECK_OK(mk_bake(k, "table", 5, 3));
    REQUIRE_OK(mk_print(k, &text));
    CHECK(strstr(text.data, " = arith.constant 2048 : i32\n") && strstr(text.data, " = arith.constant 3 : i32\n") && !strstr(text.data, "memref.load"));
    buf_free(&text);
    mk_free(k);
}

/* ---- what is refused ---- */

static void block_of_step(mk *k, const mk_val *grid, const mk_ref *prefetched, const void *arg, mk_val *index)
{
    (void)prefetched, (void)arg;
    index[0] = mk_convert(k, grid[0], DT_F32);
}

#define REFUSED(text, ...)                                                                                          \
    do {                                                                                                            \
        mk *k = mk_new("no");                                                                                       \
        mk_ref o = mk_out(k, "o", DT_F32, MK_DIMS(8, 128)), v = mk_scratch(k, "v", MK_VMEM, DT_F32, MK_DIMS(8, 128)); \
        mk_ref b = mk_scratch(k, "b", MK_VMEM, DT_BF16, MK_DIMS(8, 128)), sem = mk_dma_sems(k, "sem", MK_DIMS(2));  \
        mk_val x = mk_full(k, mk_f32(1), MK_DIMS(8, 128)), none = { 0 };                                            \
        (void)o, (void)v, (void)b, (void)sem, (void)x, (void)none;                                                  \
        __VA_ARGS__;                                                                                                \
        mk_add(k, x, mk_i32(1)); /* nothing after the first mistake matters */                                      \
        CHECK_ERR(mk_finish(k), ST_INVALID, text);                                                                  \
        mk_free(k);                                                                                                 \
    } while (0)

TEST(refuses)
{
    REFUSED("kernel no: operation 0, add: f32[8,128] and i32[]: convert one of them", mk_add(k, x, mk_i32(1)));
    REFUSED("operation 1, add: bf16[8,128] and f32[]", mk_val y = mk_load(k, b, MK_ZERO, MK_DIMS(8, 128)); mk_add(k, y, mk_f32(1)));
    REFUSED("exp: not for i32[]", mk_exp(k, mk_i32(1)));
    REFUSED("dimension 1 differs", mk_add(k, x, mk_full(k, mk_f32(1), MK_DIMS(8, 64))));
    REFUSED("add: of i8[8,128]: convert to f32 or i32 first", mk_val y = mk_convert(k, mk_full(k, mk_i32(1), MK_DIMS(8, 128)), DT_I8); mk_add(k, y, y));
    REFUSED("matmul: f32[8,128] by f32[8,128]", mk_matmul(k, x, x, false, DT_F32, none));
    REFUSED("load: of f32[8,128], which is not in VMEM", mk_load(k, o, MK_ZERO, MK_DIMS(8, 128)));
    REFUSED("load: 16 elements of dimension 0", mk_load(k, v, MK_ZERO, MK_DIMS(16, 128)));
    REFUSED("load: 8 elements from 1 on in dimension 0", mk_load(k, v, MK_AT(mk_i32(1), mk_i32(0)), MK_DIMS(8, 128)));
    REFUSED("store: bf16[8,128] into f32[8,128]", mk_store(k, mk_convert(k, x, DT_BF16), v, MK_ZERO));
    REFUSED("copy: f32[8,128] to bf16[8,128]", mk_copy(k, v, b, mk_pick(k, sem, MK_AT(mk_i32(0)))));
    REFUSED("copy: expected a single semaphore of copies", mk_copy(k, v, o, sem));
    REFUSED("iota: rank 1: Mosaic needs two dimensions", mk_iota(k, 0, MK_DIMS(8)));
    REFUSED("rotate: of bf16[8,128]", mk_rotate(k, mk_load(k, b, MK_ZERO, MK_DIMS(8, 128)), mk_i32(1), 0));
    REFUSED("1 loops and branches have no end", mk_for(k, mk_i32(0), mk_i32(2), NULL, 0, NULL); CHECK_ERR(mk_finish(k), ST_INVALID, "have no end"));
    REFUSED("end_for: there is no open loop", mk_end_for(k, NULL, NULL));
    REFUSED("an operand from inside another loop", mk_val y; mk_if(k, mk_bool(true)); y = mk_exp(k, x); mk_end_if(k, NULL, NULL); mk_exp(k, y));
    REFUSED("end_for: value 0 is f32[8,64], expected f32[8,128]",
            mk_val y; mk_for(k, mk_i32(0), mk_i32(2), &x, 1, &y); mk_val z = mk_full(k, mk_f32(0), MK_DIMS(8, 64)); mk_end_for(k, &z, &y));
    REFUSED("mk_barrier needs a collective_id", mk_barrier(k); CHECK_ERR(mk_finish(k), ST_INVALID, "collective_id"));
    REFUSED("in_block: arguments come before", mk_exp(k, x); mk_in_block(k, "w", DT_F32, MK_DIMS(16, 128), MK_DIMS(8, 128), NULL, NULL));
    REFUSED("the block's last dimension is 64, expected a multiple of 128", mk_in_block(k, "w", DT_F32, MK_DIMS(16, 256), MK_DIMS(8, 64), NULL, NULL));
    REFUSED("the block's second-last dimension is 4", mk_in_block(k, "w", DT_F32, MK_DIMS(16, 256), MK_DIMS(4, 128), NULL, NULL));
    REFUSED("there is an argument v already", mk_in(k, "v", DT_F32, MK_DIMS(8)));
    REFUSED("alias: expected an output and an input", mk_alias(k, o, v));
    REFUSED("put: of f32[8,128], which is not in SMEM", mk_put(k, mk_f32(1), v, MK_ZERO));
    mk *k = mk_new("no");
    mk_grid(k, 4, false);
    mk_in_block(k, "w", DT_F32, MK_DIMS(16, 128), MK_DIMS(8, 128), block_of_step, NULL);
    CHECK_ERR(mk_finish(k), ST_INVALID, "in_block: w: the map's index 0 is no i32 scalar");
    mk_free(k);
    k = mk_new("9lives");
    CHECK_ERR(mk_finish(k), ST_INVALID, "a name is up to 31 letters");
    mk_free(k);
    k = mk_new("empty");
    CHECK_ERR(mk_finish(k), ST_INVALID, "it has no outputs");
    mk_free(k);
}

TEST_MAIN
