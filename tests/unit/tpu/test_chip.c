#include "tpu/chip.h"

#include "tests/test.h"

TEST(every_entry_is_whole_and_plausible)
{
    int n = 0;
    for (const chip *c; (c = chip_at(n)); n++) {
        CHECK(c->name && c->kind && c->cores >= 1 && c->cores <= 2);
        CHECK(c->cores * c->devices_per_chip <= 2);
        CHECK(c->bf16_flops > 5e13 && c->bf16_flops < 2e15);
        CHECK(c->hbm_bytes_per_s > 4e11 && c->hbm_bytes_per_s < 4e12);
        CHECK((double)c->hbm_usable_bytes > 0.9 * (double)c->hbm_bytes && (double)c->hbm_usable_bytes < 1.02 * (double)c->hbm_bytes);
        CHECK(c->ici_links == 4 || c->ici_links == 6);
        CHECK(chip_by_name(c->name) == c);
        CHECK(chip_by_kind(c->kind, c->cores) == c);
        double peak = c->clock_hz * c->cores * c->mxus * c->mxu_passes * c->mxu_size * c->mxu_size * 2;
        CHECK_NEAR(peak / c->bf16_flops, 1, 0.01);
        CHECK(c->int8.per_s >= c->bf16_flops && c->fp8.per_s >= c->bf16_flops && c->int4.per_s >= c->bf16_flops);
        CHECK(c->vmem_bytes >= 16 << 20 && c->smem_bytes >= 16 << 10);
        CHECK(c->ici_rank == 2 ? c->pod[2] == 1 : c->pod[2] > 1);
        CHECK(c->ici_hop_s > 0 && c->dcn_bytes_per_s > 1e9 && c->pcie_bytes_per_s >= 16e9 && c->chips_per_host >= 4 && c->usd_per_chip_hour >= 1);
    }
    CHECK_INT(n, 7);
    CHECK(chip_at(-1) == NULL);
}

TEST(chips_are_found_by_the_names_that_pjrt_and_users_give)
{
    CHECK_STR(chip_by_kind("TPU v6 lite", 1)->name, "v6e");
    CHECK_STR(chip_by_kind("TPU v6 lite", 0)->name, "v6e");
    CHECK_STR(chip_by_kind("TPU v6 lite", 7)->name, "v6e");
    CHECK_STR(chip_by_kind("TPU v4", 2)->name, "v4 megacore");
    CHECK_STR(chip_by_kind("TPU v4", 1)->name, "v4");
    CHECK_STR(chip_by_name("tpu7x")->kind, "TPU7x");
    CHECK(!chip_by_kind("cpu", 0) && !chip_by_kind("", 1) && !chip_by_name("v99"));
}

TEST(rates_of_types)
{
    CHECK_NEAR(chip_rate_of(chip_by_name("v5e"), DT_I8).per_s, 393e12, 0);
    CHECK(chip_rate_of(chip_by_name("v5e"), DT_I8).native && !chip_rate_of(chip_by_name("v7x"), DT_I8).native && !chip_rate_of(chip_by_name("v4"), DT_F8E4M3).native);
    CHECK_NEAR(chip_rate_of(chip_by_name("v7x"), DT_F8E4M3).per_s, 2307e12, 0);
    CHECK_NEAR(chip_rate_of(chip_by_name("v6e"), DT_BF16).per_s, 918e12, 0);
    CHECK(!chip_rate_of(chip_by_name("v6e"), DT_F32).native);
}

TEST(which_slices_close_to_rings)
{
    const chip *flat = chip_by_name("v6e"), *deep = chip_by_name("v5p");
    CHECK(!chip_axis_wraps(flat, (int[3]){ 8, 16, 1 }, 0) && chip_axis_wraps(flat, (int[3]){ 8, 16, 1 }, 1));
    CHECK(!chip_axis_wraps(flat, (int[3]){ 2, 4, 1 }, 1));
    CHECK(chip_axis_wraps(deep, (int[3]){ 4, 4, 8 }, 2) && chip_axis_wraps(deep, (int[3]){ 4, 4, 4 }, 0));
    CHECK(!chip_axis_wraps(deep, (int[3]){ 2, 4, 4 }, 1) && !chip_axis_wraps(deep, (int[3]){ 2, 2, 1 }, 0));
}

TEST(a_step_takes_the_slower_of_compute_and_memory_and_then_the_links)
{
    const chip *c = chip_by_name("v6e");
    CHECK_NEAR(chip_step_s(c, &(chip_work){ .flops = 918e12, .bytes = 1 }), 1, 1e-9);
    CHECK_NEAR(chip_step_s(c, &(chip_work){ .flops = 1, .bytes = 1638e9 }), 1, 1e-9);
    CHECK_NEAR(chip_step_s(c, &(chip_work){ .flops = 918e12, .bytes = 1638e9, .link_bytes = 180e9 }), 2, 1e-9);
}

TEST_MAIN
