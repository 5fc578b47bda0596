/* The choice of kernels and the file that remembers it: what is in order is believed, all else means measuring again. */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "ops/linear/choose.h"
#include "tests/test.h"

static char dir[64], path[96];

static void enter(void)
{
    log_set_level(LOG_ERROR);
    snprintf(dir, sizeof dir, "/tmp/systolic-choose-%d", (int)getpid());
    snprintf(path, sizeof path, "%s/kernels.json", dir);
}

static void leave(void)
{
    unlink(path);
    rmdir(dir);
    log_set_level(LOG_INFO);
}

static void put(const char *text, size_t n)
{
    FILE *f = fopen(path, "w");
    if (!f || fwrite(text, 1, n, f) != n) FAIL("cannot write %s", path);
    if (f) fclose(f);
}

/* What is in the file, with `from` replaced by `to`. */
static void edit(const char *from, const char *to)
{
    static char text[4096], out[8192];
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f) fclose(f);
    text[n] = 0;
    char *at = strstr(text, from);
    if (!at) { FAIL("%s has no %s", path, from); return; }
    snprintf(out, sizeof out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    put(out, strlen(out));
}

static linear_choice choose(const char *machine)
{
    linear_choice c = { 0 };
    CHECK_OK(linear_choose(machine, dir, &c));
    if (c.set != isa_best() && c.dot_gops <= LINEAR_CHOICE_MARGIN * c.fma_gops) FAIL("%s at %g against %g", isa_name(c.set), c.dot_gops, c.fma_gops);
    return c;
}

TEST(choice_is_remembered)
{
    enter();
    linear_choice c = choose("this machine");
    if (c.fma_gops == 0) { leave(); SKIP("nothing to choose from here"); }
    CHECK(!c.cached && c.fma_gops > 0 && c.dot_gops > 0);
    linear_choice again = choose("this machine");
    CHECK(again.cached && again.set == c.set);
    CHECK_NEAR(again.dot_gops, c.dot_gops, 1e-9);
    CHECK(!choose("another machine").cached);
    CHECK(choose("this machine").cached && choose("another machine").cached);
    leave();
}

TEST(a_bad_file_means_measuring)
{
    enter();
    if (choose("m").fma_gops == 0) { leave(); SKIP("nothing to choose from here"); }
    static const char *const bad[] = { "", "{", "[]", "null", "{\"format\":\"systolic-kernels-1\"}", "{\"format\":\"systolic-kernels-1\",\"bf16\":[1,2]}",
                                       "{\"format\":3}", "{\"format\":\"systolic-kernels-1\",\"bf16\":{\"\":{},\"x\":null}}", "\xff\xfe\0" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put(bad[i], strlen(bad[i]));
        CHECK(!choose("m").cached);
        CHECK(choose("m").cached); /* it was put in order */
    }
    static const char *const edits[][2] = { { "\"isa\":\"avx512", "\"isa\":\"mmx" }, { "\"fma_gops\":", "\"fma_gops\":-" }, { "\"dot_gops\":", "\"dot_gops\":1e9,\"x\":" },
                                            { "\"dot_gops\"", "\"dot\"" }, { "systolic-kernels-1", "systolic-kernels-0" } };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        edit(edits[i][0], edits[i][1]);
        CHECK(!choose("m").cached);
    }
    edit("{\"isa\":", "{\"more\":[[]],\"isa\":");
    CHECK(choose("m").cached);
    char *large = mem_alloc(1 << 20);
    memset(large, ' ', 1 << 20);
    put(large, 1 << 20);
    mem_free(large);
    CHECK(!choose("m").cached);
    leave();
}

TEST(the_file_stays_small)
{
    enter();
    char name[32];
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "machine %d", i);
        if (choose(name).fma_gops == 0) { leave(); SKIP("nothing to choose from here"); }
    }
    jv *v = NULL;
    REQUIRE_OK(jv_parse_file(path, 1 << 16, &v));
    CHECK_INT(jv_len(jv_get(v, "bf16")), 32);
    jv_free(v);
    CHECK(choose("machine 39").cached && !choose("machine 0").cached);
    leave();
}

TEST(nowhere_to_write)
{
    enter();
    linear_choice c;
    CHECK_OK(linear_choose("m", "", &c));
    CHECK_OK(linear_choose("m", "/proc/no/such/place", &c));
    CHECK(!c.cached);
    leave();
}

TEST(out_of_memory_while_choosing)
{
    enter();
    int64_t live = mem_live();
    for (int round = 0; round < 2; round++) /* with and without a file */
        for (uint64_t n = 1;; n++) {
            linear_choice c;
            if (round == 0) unlink(path);
            mem_fail_at(n);
            status st = linear_choose("m", dir, &c);
            int hit = mem_failed();
            mem_fail_at(0);
            CHECK(st == ST_OK || st == ST_NOMEM);
            CHECK_INT(mem_live(), live);
            if (!hit) break;
        }
    leave();
}

TEST_MAIN
