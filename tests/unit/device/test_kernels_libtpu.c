/* Kernels as libtpu sees them: every operation of the builder, messages between chips, and the first and last case of every registered kernel at
 * their full size (of products of quantised weights: a linear and experts). All cases on all chips are bench/kernel_table.py's. Without libtpu this is skipped. */
#include "base/clock.h"
#include "device/pjrt/compiler.h"
#include "ops/hlo.h"
#include "ops/kernels.h"
#include "tests/unit/device/pjrt/help.h"
#include "tests/unit/mosaic/kernels.h"

/* Takes the kernel. */
static void compile(pjrt_compiler *c, mk *k, const char *name, int devices)
{
    buf text = {0}, exe = {0};
    pjrt_stats stats;
    status st = mk_finish(k);
    if (st == ST_OK) st = hlo_kernel_program(k, devices, &text);
    double t0 = clock_now();
    if (st == ST_OK) st = pjrt_compiler_run(c, &(pjrt_source){ name, text.data, text.len }, &(pjrt_compile_options){ .n_partitions = devices }, &exe, &stats);
    if (st != ST_OK) FAIL("%s: %s", name, err_msg());
    else printf("  %s: %.1f s\n", name, clock_now() - t0);
    buf_free(&text);
    buf_free(&exe);
    mk_free(k);
}

static void compile_all(const char *path, const char *topology, const char *chip_name)
{
    const chip *on = chip_by_name(chip_name);
    pjrt_compiler *c;
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = path, .topology = topology }, &c));
    compile(c, kernel_gather(), "gather", 1);
    compile(c, kernel_flash_decode(), "flash decode", 1);
    compile(c, kernel_operations(), "operations", 1);
    compile(c, kernel_ring(4), "ring", 4);
    for (int i = 0; kernel_at(i); i++) {
        const kernel_impl *impl = kernel_at(i);
        for (int n = 0; n < impl->n_cases; n += impl->n_cases > 1 ? impl->n_cases - 1 : 1) {
            if (impl->refuses && impl->refuses(n, on)) continue;
            compile(c, impl->build_full ? impl->build_full(n, on) : impl->build(n, on), impl->name, impl->devices ? impl->devices(n) : 1);
        }
    }
    pjrt_compiler_close(c);
}

TEST(kernels_compile)
{
    NEED_TPU;
    compile_all(path, "v6e:2x2", "v6e");
}

/* A kernel whose output is its input's memory leaves no copy of it in the program. */
TEST(what_is_taken_over_is_not_copied)
{
    NEED_TPU;
    pjrt_compiler *c;
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = path, .topology = "v5e:2x2" }, &c));
    mk *k = mk_new("touch");
    mk_ref in = mk_in(k, "pool", DT_F32, MK_DIMS(1024, 8, 128)), out = mk_out(k, "out", DT_F32, MK_DIMS(1024, 8, 128));
    mk_alias(k, out, in);
    mk_ref ones = mk_scratch(k, "ones", MK_VMEM, DT_F32, MK_DIMS(8, 128)), sem = mk_dma_sems(k, "sem", MK_DIMS()), to = mk_pick(k, out, MK_AT(mk_i32(7)));
    mk_store(k, mk_full(k, mk_f32(1), MK_DIMS(8, 128)), ones, MK_ZERO);
    mk_copy(k, ones, to, sem);
    mk_wait(k, sem, ones, to);
    buf text = {0}, exe = {0};
    pjrt_stats stats;
    CHECK_OK(mk_finish(k));
    CHECK_OK(hlo_kernel_program(k, 1, &text));
    CHECK_OK(pjrt_compiler_run(c, &(pjrt_source){ "touch", text.data, text.len }, &(pjrt_compile_options){0}, &exe, &stats));
    CHECK_INT(stats.alias_bytes, 1024 * 8 * 128 * 4);
    CHECK(stats.temp_bytes < 65536);
    buf_free(&text);
    buf_free(&exe);
    mk_free(k);
    pjrt_compiler_close(c);
}

TEST_MAIN
