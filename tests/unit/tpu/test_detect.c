#include "tpu/detect.h"

#include "tests/test.h"

static tpu_found detect(const char *kind, int cores, const char *type, const char *version)
{
    tpu_found f;
    tpu_detect(&(tpu_hints){ kind, cores, type, version }, &f);
    return f;
}

TEST(the_device_says_what_it_is)
{
    static const struct { const char *kind; int cores; const char *chip; } all[] = {
        { "TPU v6 lite", 1, "v6e" }, { "TPU v5 lite", 1, "v5e" }, { "TPU v5", 2, "v5p" }, { "TPU v4", 1, "v4" }, { "TPU v4", 2, "v4 megacore" }, { "TPU v3", 1, "v3" },
        { "TPU7x", 1, "v7x" }, { "TPU v6e", 1, "v6e" }, { "TPU v5p", 2, "v5p" }, { "TPU v5e", 1, "v5e" } };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        tpu_found f = detect(all[i].kind, all[i].cores, "v4-8", "3");
        CHECK_STR(f.chip->name, all[i].chip);
        CHECK_INT(f.source, TPU_BY_DEVICE);
        CHECK(!tpu_found_loud(&f));
    }
}

TEST(then_the_environment)
{
    static const struct { const char *type, *chip; int chips, devices; } all[] = {
        { "v6e-8", "v6e", 8, 8 }, { "v5litepod-4", "v5e", 4, 4 }, { "v5p-8", "v5p", 4, 4 }, { "tpu7x-8", "v7x", 4, 8 }, { "v4-8", "v4", 4, 8 }, { "v3-8", "v3", 4, 8 },
        { "tpu7x-2", "v7x", 1, 2 }, { "v5p-128", "v5p", 64, 64 } };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        tpu_found f = detect(NULL, 0, all[i].type, "4");
        CHECK_STR(f.chip->name, all[i].chip);
        CHECK_INT(f.source, TPU_BY_ACCELERATOR_TYPE);
        REQUIRE(f.slice.chip != NULL);
        CHECK_INT(tpu_slice_chips(&f.slice), all[i].chips);
        CHECK_INT(tpu_slice_devices(&f.slice), all[i].devices);
    }
    tpu_found f = detect("", 0, "v6e-7", NULL);             /* no such size, but a generation */
    CHECK_STR(f.chip->name, "v6e");
    CHECK(!f.slice.chip);
    f = detect(NULL, 0, "", "6");
    CHECK_STR(f.chip->name, "v6e");
    CHECK_INT(f.source, TPU_BY_VERSION);
    CHECK_STR(detect(NULL, 0, NULL, "5").chip->name, "v5e");
    CHECK_STR(detect(NULL, 0, NULL, "v5p").chip->name, "v5p");
    CHECK_STR(detect(NULL, 0, NULL, "7").chip->name, "v7x");
    CHECK_STR(detect("cpu", 0, "v5p-8", NULL).chip->name, "v5p");
}

TEST(then_simulation_of_v6e_loudly)
{
    tpu_found f = detect(NULL, 0, NULL, NULL);
    CHECK_INT(f.source, TPU_SIMULATED);
    CHECK_STR(f.chip->name, "v6e");
    CHECK(tpu_found_loud(&f) && strstr(f.message, "SIMULATION"));
    f = detect("", 0, "", "");
    CHECK_INT(f.source, TPU_SIMULATED);
}

TEST(what_nobody_knows_counts_as_v5e)
{
    static const struct { const char *kind, *type, *version; } all[] = { { "TPU v99", NULL, NULL }, { NULL, "v99-8", NULL }, { NULL, "", "99" }, { NULL, NULL, "six" }, { "TPU9i", "v8-8", "8" } };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        tpu_found f = detect(all[i].kind, 1, all[i].type, all[i].version);
        CHECK_STR(f.chip->name, "v5e");
        CHECK(f.unknown && tpu_found_loud(&f) && f.source != TPU_SIMULATED);
        CHECK(strstr(f.message, all[i].kind ? all[i].kind : all[i].type && *all[i].type ? all[i].type : all[i].version));
    }
    tpu_found f = detect("TPU v99", 1, "v6e-8", NULL);      /* what the environment knows is better than a guess */
    CHECK_STR(f.chip->name, "v6e");
}

TEST(slices)
{
    static const char *const bad[] = { "v6e", "v6e-", "v6e:", "v6e:2", "v6e:2x2x1", "v5p:2x2", "v6e:0x2", "v6e:02x2", "v6e:2x2x", "v6e:2000x1", "v6e-3", "v6e-8x", "v5p-4", "v99-8", "", "-8", "v6e:999999x1", "v6e-99999999999" };
    tpu_slice s;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECK_ERR(tpu_slice_parse(bad[i], strlen(bad[i]), &s), ST_INVALID, "target");
    CHECK_OK(tpu_slice_parse("v6e:2x4?options", 7, &s));
    CHECK_INT(s.shape[0], 2);
    CHECK_INT(s.shape[1], 4);
    CHECK_INT(s.shape[2], 1);
    CHECK_OK(tpu_slice_parse("v7x:2x2x2", 9, &s));
    CHECK_STR(s.libtpu, "tpu7x");
    CHECK_INT(tpu_slice_devices(&s), 16);
}

TEST_MAIN
