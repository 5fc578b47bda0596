/* base: errors, buffers, JSON, UTF-8, maps. */
#include "tests/test.h"

#include <pthread.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/utf8.h"

TEST(json_reads)
{
    jv *v = NULL;
    const char *text = "{\"b\":1,\"a\":[1.5,null,\"x\\u0000y\"],\"big\":9007199254740993}";
    REQUIRE_OK(jv_parse(text, strlen(text), &v));
    CHECK_INT(jv_get_i64(v, "b", 0), 1);
    CHECK_INT(jv_get_i64(v, "big", 0), 9007199254740993LL);
    CHECK_INT(jv_len(jv_at(jv_get(v, "a"), 2)), 3);
    CHECK(jv_is(jv_at(jv_get(v, "a"), 1), JV_NULL));
    CHECK(jv_is(jv_get(v, "none"), JV_MISSING));
    jv_iter it = jv_begin(v);
    CHECK(jv_next(&it) && strcmp(it.key, "b") == 0);
    buf b = {0};
    jw w = jw_to(&b);
    jw_value(&w, v);
    CHECK_STR(buf_cstr(&b), "{\"b\":1,\"a\":[1.5,null,\"x\\u0000y\"],\"big\":9007199254740993}");
    buf_free(&b);
    jv_free(v);
}

TEST(json_refuses)
{
    jv *v = NULL;
    CHECK_ERR(jv_parse("{\"a\":}", 6, &v), ST_INVALID, "line 1");
    CHECK_ERR(jv_parse("[1] 2", 5, &v), ST_INVALID, "end of file");
    char digits[400];
    memset(digits, '9', sizeof digits);
    CHECK_ERR(jv_parse(digits, sizeof digits, &v), ST_INVALID, "big");
    char deep[2000];
    memset(deep, '[', sizeof deep);
    CHECK_ERR(jv_parse(deep, sizeof deep, &v), ST_LIMIT, "deeper");
}

TEST(json_keeps_big_integers)
{
    static const char text[] = "[12345678901234567890,-99999999999999999999999,9223372036854775807]";
    jv *v = NULL;
    REQUIRE_OK(jv_parse(text, sizeof text - 1, &v));
    jv *c = jv_copy(v);
    CHECK(jv_is(jv_at(c, 0), JV_REAL) && jv_is(jv_at(c, 2), JV_INT));
    CHECK_STR(jv_big(jv_at(c, 0)), "12345678901234567890");
    CHECK_NEAR(jv_f64(jv_at(c, 1), 0), -1e23, 1e7);
    CHECK_INT(jv_i64(jv_at(c, 0), -1), -1);
    CHECK(!jv_big(jv_at(c, 2)) && !jv_str(jv_at(c, 0), NULL));
    buf b = {0};
    jw w = jw_to(&b);
    jw_value(&w, c);
    CHECK_STR(buf_cstr(&b), text);
    buf_free(&b);
    jv_free(c);
    jv_free(v);
}

/* Shared values are referenced and let go of by many threads; check-tsan sees whether that is safe. */
static void *ref_and_free(void *v)
{
    for (int i = 0; i < 1000; i++) jv_free(jv_ref(v));
    return NULL;
}

TEST(json_is_shared_between_threads)
{
    pthread_t th[4];
    jv *v = NULL;
    int64_t live = mem_live();
    REQUIRE_OK(jv_parse("[1]", 3, &v));
    for (int i = 0; i < 4; i++) REQUIRE(pthread_create(&th[i], NULL, ref_and_free, v) == 0);
    for (int i = 0; i < 4; i++) pthread_join(th[i], NULL);
    CHECK_INT(jv_len(v), 1);
    jv_free(v);
    CHECK_INT(mem_live(), live);
}

TEST(json_float_repr_is_pythons)
{
    static const struct { double d; const char *want; } cases[] = {
        { 0.1, "0.1" }, { 1, "1.0" }, { 1e16, "1e+16" }, { 123456789012345680.0, "1.2345678901234568e+17" }, { 1e15, "1000000000000000.0" },
        { 1e-5, "1e-05" }, { 0.0001, "0.0001" }, { -2.5, "-2.5" }, { 5e-324, "5e-324" }, { 1.7976931348623157e308, "1.7976931348623157e+308" },
        { 7.678447687145631e-239, "7.678447687145631e-239" }, { 6.1897001964269014e+26, "6.189700196426902e+26" }, { 0.3, "0.3" }, { 2.0 / 3, "0.6666666666666666" }, { -0.0, "-0.0" }, { 100, "100.0" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char s[40];
        json_repr_f64(s, sizeof s, cases[i].d);
        CHECK_STR(s, cases[i].want);
    }
}

TEST(utf8)
{
    uint32_t cp;
    CHECK_INT(utf8_decode("\xE2\x82\xAC", 3, &cp), 3);
    CHECK_INT(cp, 0x20AC);
    CHECK_INT(utf8_decode("\xE2\x82x", 3, &cp), 2); /* the maximal invalid part */
    CHECK_INT(cp, UTF8_BAD);
    CHECK(!utf8_valid("\xED\xA0\x80", 3));
    CHECK_INT(utf8_incomplete_tail("a\xF0\x9F\x98", 4), 3);
    CHECK_INT(utf8_incomplete_tail("a\xF0\x9F\x98\x80", 5), 0);
    CHECK_INT(utf8_incomplete_tail("\x80", 1), 0);
}

TEST(map_grows)
{
    map m = {0};
    char key[16];
    for (int i = 0; i < 1000; i++) {
        int n = snprintf(key, sizeof key, "k%d", i);
        CHECK_OK(map_put(&m, key, (size_t)n, i));
    }
    int64_t v = -1;
    CHECK(map_get(&m, "k777", 4, &v) && v == 777);
    CHECK(!map_get(&m, "nope", 4, &v));
    map_free(&m);
}

TEST(hashes)
{
    uint8_t d[32];
    char hex[65];
    sha256("abc", 3, d);
    hash_hex(d, 32, hex);
    CHECK_STR(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(out_of_memory_is_a_status)
{
    const char *text = "{\"a\":[1,2,3],\"b\":{\"c\":\"d\"}}";
    int64_t live = mem_live();
    for (uint64_t n = 1;; n++) {
        jv *v = NULL;
        mem_fail_at(n);
        status st = jv_parse(text, strlen(text), &v);
        int hit = mem_failed();
        mem_fail_at(0);
        if (st == ST_OK) jv_free(v);
        CHECK_INT(mem_live(), live);
        if (!hit) break;
        CHECK_INT(st, ST_NOMEM);
    }
}

TEST_MAIN
