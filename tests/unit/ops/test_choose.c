/* The choice of kernels and the file that remembers it: what is in order is believed, all else means measuring again. */
#include <math.h>
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
    double faster = fmax(c.dot_gops, c.amx_gops);
    if (c.set != isa_best() && faster <= LINEAR_CHOICE_MARGIN * c.fma_gops) FAIL("%s at %g against %g", isa_name(c.set), faster, c.fma_gops);
    CHECK(isa_available(c.set));
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

#if defined(__x86_64__)
static int tiles_called;
/* Slow: many times the work. */
static void counted(const gemm_call *c, int64_t p0, int64_t p1)
{
    tiles_called++;
    for (int i = 0; i < 50; i++) gemm_dot_amx_emulated(c, p0, p1);
}
/* One element a little off. */
static void wrong(const gemm_call *c, int64_t p0, int64_t p1)
{
    gemm_dot_amx_emulated(c, p0, p1);
    c->y[c->ldy + 5] += 1;
}
static void wrong_int8(const qgemm_call *c, int64_t p0, int64_t p1)
{
    qgemm_avx512vnni.run(c, p0, p1);
    if (c->w->scheme == QUANT_INT4_G128) c->y[3] += 1;
}
static void at_once(const gemm_call *c, int64_t p0, int64_t p1) { (void)p0, (void)p1; memset(c->y, 0, 4); }
/* Right, and nothing to do but for small integers, by which it is checked. */
static void fast(const gemm_call *c, int64_t p0, int64_t p1)
{
    if (*(const uint16_t *)c->w->data == f32_to_bf16(-7)) gemm_dot_amx_emulated(c, p0, p1);
    else at_once(c, p0, p1);
}

TEST(tiles_are_chosen_only_if_faster_and_right)
{
    if (!isa_available(ISA_avx512_amx_emulated) || !qgemm_avx512vnni.available()) SKIP("no avx512_bf16");
    linear_choice c;
    log_set_level(LOG_ERROR);
    CHECK_OK(linear_measure(NULL, &c));
    CHECK(c.amx_gops == 0 && c.fma_gops > 0 && c.dot_gops > 0 && c.amx_rows[0] == AMX_NEVER);
    CHECK_OK(linear_measure(&(linear_tiles){ ISA_avx512_amx_emulated, counted, qgemm_tiles_amx_emulated }, &c));
    CHECK(tiles_called > 1 && c.amx_gops > 0 && c.amx_gops < c.dot_gops && c.set != ISA_avx512_amx_emulated);
    CHECK_OK(linear_measure(&(linear_tiles){ ISA_avx512_amx, fast, qgemm_avx512vnni.run }, &c));
    CHECK(c.set == ISA_avx512_amx && c.amx_gops > c.dot_gops);
    CHECK_OK(linear_measure(&(linear_tiles){ ISA_avx512_amx, wrong, qgemm_avx512vnni.run }, &c));
    CHECK(c.set != ISA_avx512_amx && c.amx_gops == 0);
    CHECK_OK(linear_measure(&(linear_tiles){ ISA_avx512_amx, at_once, qgemm_avx512vnni.run }, &c));
    CHECK(c.set != ISA_avx512_amx && c.amx_gops == 0);
    CHECK_OK(linear_measure(&(linear_tiles){ ISA_avx512_amx, fast, wrong_int8 }, &c));
    CHECK(c.set != ISA_avx512_amx && c.amx_gops == 0);
    log_set_level(LOG_INFO);
}

TEST(int8_from_the_row_count_that_pays)
{
    static const double without[LINEAR_ROW_COUNTS] = { 1, 2, 4, 8, 16, 32 };
    CHECK_INT(linear_rows_from(without, (double[]){ 4, 4, 4, 4, 4, 4 }), 8);
    CHECK_INT(linear_rows_from(without, (double[]){ 0.5, 1, 2, 4, 8, 16 }), 1);
    CHECK_INT(linear_rows_from(without, (double[]){ 4, 4, 4, 4, 4, 31 }), AMX_NEVER);   /* not clearly */
    CHECK_INT(linear_rows_from(without, (double[]){ 0.1, 0.1, 4, 4, 4, 4 }), 8);        /* by chance */
}

/* A file of a time when this process had tiles, or of one that had not. */
TEST(what_is_remembered_of_tiles)
{
    static const char key[] = "0123456789abcdef0123456789abcdef";
    const linear_choice c = { .set = ISA_avx512_amx, .fma_gops = 100, .dot_gops = 50, .amx_gops = 900, .amx_rows = { 2, 4, AMX_NEVER, 32 } };
    linear_choice had = { 0 };
    buf once = { 0 }, twice = { 0 };
    REQUIRE_OK(linear_choice_edit("", 0, key, &c, &had, &once));
    CHECK(!had.cached);
    REQUIRE_OK(linear_choice_edit(once.data, once.len, key, &c, &had, &twice));
    CHECK(had.cached && had.set == ISA_avx512_amx && had.amx_gops == 900 && memcmp(had.amx_rows, c.amx_rows, sizeof c.amx_rows) == 0);
    buf_free(&once);
    buf_free(&twice);
    enter();
    if (choose("m").fma_gops == 0) { leave(); SKIP("nothing to choose from here"); }
    if (isa_available(ISA_avx512_amx)) {
        edit("\"amx_gops\"", "\"x\"");
    } else {
        edit("\"isa\":", "\"isa\":\"avx512_amx\",\"amx_gops\":900,\"amx_rows\":[1,1,1,1],\"was\":");
    }
    CHECK(!choose("m").cached);        /* and what was chosen may run here */
    CHECK(choose("m").cached);
    leave();
}
#endif

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
