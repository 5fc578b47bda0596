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

TEST(a_step_takes_the_slower_of_compute_and_memory_and_then_the_links)
{
    const chip *c = chip_by_name("v6e");
    CHECK_NEAR(chip_step_s(c, &(chip_work){ .flops = 918e12, .bytes = 1 }), 1, 1e-9);
    CHECK_NEAR(chip_step_s(c, &(chip_work){ .flops = 1, .bytes = 1638e9 }), 1, 1e-9);
    CHECK_NEAR(chip_step_s(c, &(chip_work){ .flops = 918e12, .bytes = 1638e9, .link_bytes = 180e9 }), 2, 1e-9);
}

TEST_MAIN
