/* The cache of packed weights: written, mapped again, damaged, full. */
#include "device/cpu/pack_cache.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "tests/test.h"

#define KEY "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static char a[100], b[3 << 20];
static const pack_entry entries[] = { { "model.a", a, sizeof a }, { "quote\"d \xc3\xa9", b, sizeof b }, { "empty", a, 0 } };

static void fill(void)
{
    for (size_t i = 0; i < sizeof a; i++) a[i] = (char)(i * 7);
    for (size_t i = 0; i < sizeof b; i++) b[i] = (char)(i * 31 >> 3);
}

static char *folder(void)
{
    static char dir[64];
    strcpy(dir, "/tmp/systolic-pack-XXXXXX");
    if (!mkdtemp(dir)) FAIL("no folder %s", dir);
    return dir;
}

static void remove_folder(const char *dir)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    REQUIRE(system(command) == 0);
}

static int count_files(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

static void write_now(const char *dir, const char *key)
{
    pack_cache *c;
    REQUIRE_OK(pack_cache_write(dir, key, entries, 3, 0, &c));
    REQUIRE_OK(pack_cache_finish(c));
    pack_cache_close(c);
}

TEST(what_was_written_is_mapped)
{
    char *dir = folder(), deep[128];
    const void *p = NULL;
    pack_cache *c;
    fill();
    snprintf(deep, sizeof deep, "%s/x/y", dir);
    CHECK_ERR(pack_cache_open(deep, KEY, &c), ST_NOT_FOUND, "no packed weights");
    write_now(deep, KEY);
    CHECK_INT(count_files(deep), 1);
    REQUIRE_OK(pack_cache_open(deep, KEY, &c));
    CHECK_INT(pack_cache_bytes(c), sizeof a + sizeof b);
    for (int i = 0; i < 3; i++) {
        REQUIRE(pack_cache_get(c, entries[i].name, entries[i].bytes, &p));
        CHECK_INT((uintptr_t)p % 4096, 0);
        CHECK(memcmp(p, entries[i].data, entries[i].bytes) == 0);
    }
    CHECK(!pack_cache_get(c, "model.a", sizeof a + 1, &p));
    CHECK(!pack_cache_get(c, "model.b", sizeof a, &p));
    pack_cache_close(c);
    remove_folder(dir);
}

/* Changes one byte of the file, or cuts it; -1: leaves it. */
static void damage(const char *dir, long at, long cut)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s.pack", dir, KEY);
    FILE *f = fopen(path, "r+b");
    REQUIRE(f);
    if (at >= 0) {
        fseek(f, at, SEEK_SET);
        int x = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(x ^ 1, f);
    }
    fclose(f);
    if (cut >= 0) REQUIRE(truncate(path, cut) == 0);
}

TEST(damaged_files_are_made_anew)
{
    const struct { long at, cut; } kinds[] = { { 0, -1 }, { 9, -1 }, { 17, -1 }, { 25, -1 }, { 40, -1 }, { -1, 0 }, { -1, 20 }, { -1, 60 }, { -1, 3 << 20 } };
    char *dir = folder();
    pack_cache *c;
    fill();
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        write_now(dir, KEY);
        damage(dir, kinds[i].at, kinds[i].cut);
        CHECK_ERR(pack_cache_open(dir, KEY, &c), ST_NOT_FOUND, "that are whole");
        CHECK_INT(count_files(dir), 0);
    }
    remove_folder(dir);
}

TEST(the_folder_stays_within_its_limit)
{
    char *dir = folder();
    char key[] = KEY;
    pack_cache *c;
    fill();
    const int64_t one = 8 << 20;
    for (int i = 0; i < 4; i++) {
        key[0] = (char)('0' + i);
        REQUIRE_OK(pack_cache_write(dir, key, entries, 3, 2 * one + one / 2, &c));
        REQUIRE_OK(pack_cache_finish(c));
        pack_cache_close(c);
        usleep(20000);
    }
    CHECK(count_files(dir) >= 1);
    CHECK(count_files(dir) <= 3);
    REQUIRE_OK(pack_cache_open(dir, key, &c));       /* the newest is there */
    pack_cache_close(c);
    CHECK_ERR(pack_cache_write(dir, key, entries, 3, 1000, &c), ST_LIMIT, "the folder may have");
    remove_folder(dir);
}

TEST(closing_gives_up_what_is_not_written)
{
    char *dir = folder();
    pack_cache *c;
    fill();
    pack_entry many[64];
    for (int i = 0; i < 64; i++) many[i] = entries[1];
    REQUIRE_OK(pack_cache_write(dir, KEY, many, 64, 0, &c));
    pack_cache_close(c);
    CHECK(count_files(dir) <= 1);                    /* whole, or nothing */
    if (count_files(dir) == 1) {
        REQUIRE_OK(pack_cache_open(dir, KEY, &c));
        pack_cache_close(c);
    }
    remove_folder(dir);
}

TEST(folders_that_cannot_be_used_are_named)
{
    pack_cache *c;
    CHECK_ERR(pack_cache_write("/proc/nowhere", KEY, entries, 1, 0, &c), ST_IO, "/proc/nowhere");
    char out[256];
    setenv("SYSTOLIC_WEIGHT_CACHE", "off", 1);
    CHECK_ERR(pack_cache_folder(NULL, out, sizeof out), ST_NOT_FOUND, "is off");
    CHECK_OK(pack_cache_folder("/x", out, sizeof out));
    CHECK_STR(out, "/x");
    setenv("SYSTOLIC_WEIGHT_CACHE", "/y", 1);
    CHECK_OK(pack_cache_folder(NULL, out, sizeof out));
    CHECK_STR(out, "/y");
    unsetenv("SYSTOLIC_WEIGHT_CACHE");
    CHECK_ERR(pack_cache_folder(NULL, out, 4), ST_INVALID, "too long");
}

TEST(out_of_memory_is_a_status)
{
    char *dir = folder();
    fill();
    pack_cache *c = NULL;
    CHECK_EVERY_ALLOCATION(pack_cache_write(dir, KEY, entries, 3, 0, &c), pack_cache_close(c));
    write_now(dir, KEY);
    CHECK_EVERY_ALLOCATION(pack_cache_open(dir, KEY, &c), pack_cache_close(c));
    remove_folder(dir);
}

TEST_MAIN
