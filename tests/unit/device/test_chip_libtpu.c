/* The chip table beside what libtpu's compiler knows of each generation, without a TPU: device kinds, cores, memory that programs may
 * have, and the rates of its cost model, which are no data sheet: where they differ, by how much is written down here and in
 * docs/chips.md. One compiler process per generation, one after the other. */
#include "device/pjrt/compiler.h"
#include "tests/unit/device/pjrt/help.h"
#include "tpu/chip.h"

/* Of the table's figure: what libtpu 0.0.52 takes for a matrix product and for a copy. */
typedef struct known { const char *target, *options, *chip; double compute, memory; } known;
static const known all[] = {
    { "v3:2x2x1", "", "v3", 1.00, 0.95 },
    { "v4:2x2x1", "", "v4", 1.00, 0.82 },
    { "v4:2x2x1", "chip_config_name=megacore", "v4 megacore", 0.88, 0.82 },
    { "v5e:1x1", "", "v5e", 1.00, 0.90 },
    { "v5p:2x2x1", "", "v5p", 0.86, 0.85 },
    { "v6e:1x1", "", "v6e", 1.00, 1.00 },
    { "v7x:1x1x1", "", "v7x", 0.86, 1.00 },
};

/* [n, n] by [n, n], or -x, of bf16. */
static void program(bool product, int64_t n, char out[1000])
{
    char t[64];
    snprintf(t, sizeof t, "tensor<%lldx%lldxbf16>", (long long)n, (long long)n);
    if (product)
        snprintf(out, 1000, "module @p { func.func public @main(%%a: %s, %%b: %s) -> %s { %%0 = stablehlo.dot_general %%a, %%b, contracting_dims = [1] x [0] : (%s, %s) -> %s return %%0 : %s } }",
                 t, t, t, t, t, t, t);
    else
        snprintf(out, 1000, "module @p { func.func public @main(%%a: %s) -> %s { %%0 = stablehlo.negate %%a : %s return %%0 : %s } }", t, t, t, t);
}

/* Work per second by the compiler's own estimate: flops, or bytes; below 0: it says nothing. */
static double rate(pjrt_compiler *k, bool product)
{
    enum { N = 8192 };
    char text[1000];
    buf exe = {0};
    pjrt_stats s;
    pjrt_compile_options o = { 0 };
    program(product, N, text);
    status st = pjrt_compiler_run(k, &(pjrt_source){ "rate", text, strlen(text) }, &o, &exe, &s);
    buf_free(&exe);
    if (st != ST_OK) {
        FAIL("%s", err_msg());
        return -1;
    }
    return s.optimal_s > 0 ? (product ? 2.0 * N * N * N : 2.0 * 2 * N * N) / s.optimal_s : -1;
}

static void check_chip(const char *library, const known *w)
{
    const chip *c = NULL;
    pjrt_place place = {0};
    pjrt_compiler *k = NULL;
    pjrt_target_info info;
    for (int i = 0; chip_at(i); i++)
        if (strcmp(chip_at(i)->name, w->chip) == 0) c = chip_at(i);
    REQUIRE(c != NULL);
    REQUIRE_OK(pjrt_target_parse(w->target, &place));
    status st = pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = library, .topology = place.path, .options = w->options }, &k);
    if (st == ST_OK) st = pjrt_compiler_describe(k, &info);
    if (st != ST_OK) {
        FAIL("%s: %s", w->target, err_msg());
    } else {
        double flops = rate(k, true), bytes = rate(k, false), peak = c->bf16_flops / c->clock_hz;
        printf("  %-12s memory %.2f GiB, product %.1f TFLOP/s = %.2f of the table's, copy %.0f GB/s = %.2f; clock by its product %.2f GHz\n", c->name,
               (double)info.device.memory_bytes / (1 << 30), flops / 1e12, flops / c->bf16_flops, bytes / 1e9, bytes / c->hbm_bytes_per_s, flops / peak / 1e9);
        CHECK_STR(info.device.kind, c->kind);
        CHECK(chip_by_kind(info.device.kind, info.device.n_cores) == c);
        CHECK_INT(info.device.memory_bytes, c->hbm_usable_bytes);
        if (flops > 0) CHECK_NEAR(flops / c->bf16_flops, w->compute, 0.03);
        if (bytes > 0) CHECK_NEAR(bytes / c->hbm_bytes_per_s, w->memory, 0.03);
    }
    if (k) pjrt_compiler_close(k);
    pjrt_place_free(&place);
}

TEST(the_table_is_what_the_compiler_implies)
{
    NEED_TPU;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        check_chip(path, &all[i]);
        fflush(stdout);
    }
}

TEST_MAIN
