/* KV blocks: counts, LRU order, eviction, the checker. */
#include "tests/test.h"

#include "base/mem.h"
#include "engine/kv.h"

static block_hash hash_of(int x)
{
    block_hash h = {{0}};
    sha256(&x, sizeof x, h.bytes);
    return h;
}

TEST(takes_all_or_nothing)
{
    kv *k;
    int32_t b[8];
    REQUIRE_OK(kv_new(5, &k));
    CHECK_INT(kv_n_blocks(k), 4);
    CHECK(!kv_take(k, 5, b));
    CHECK_INT(kv_n_free(k), 4);
    CHECK(kv_take(k, 4, b));
    for (int i = 0; i < 4; i++) CHECK_INT(b[i], i + 1); /* never the null block */
    CHECK(!kv_take(k, 1, b + 4));
    CHECK(kv_take(k, 0, b + 4));
    CHECK_OK(kv_check(k, false));
    CHECK_ERR(kv_check(k, true), ST_INTERNAL, "idle");
    kv_release(k, b, 4);
    CHECK_OK(kv_check(k, true));
    kv_free(k);
    CHECK_ERR(kv_new(1, &k), ST_INVALID, "2 blocks");
}

TEST(tails_are_evicted_first)
{
    kv *k;
    int32_t b[3], c[3];
    REQUIRE_OK(kv_new(4, &k));
    CHECK(kv_take(k, 3, b));
    for (int i = 0; i < 3; i++) {
        block_hash h = hash_of(i);
        kv_register(k, b[i], &h, 0);
    }
    kv_release(k, b, 3);
    block_hash h0 = hash_of(0), h2 = hash_of(2);
    CHECK_INT(kv_find(k, &h0, 0), b[0]);
    CHECK(kv_take(k, 1, c));
    CHECK_INT(c[0], b[2]);
    CHECK_INT(kv_find(k, &h2, 0), 0);
    CHECK_INT(kv_find(k, &h0, 0), b[0]);
    kv_ref(k, b[0]); /* a hit takes it off the queue */
    CHECK(kv_take(k, 1, c + 1));
    CHECK_INT(c[1], b[1]);
    CHECK(!kv_take(k, 1, c + 2));
    CHECK(!kv_reset(k)); /* block 0 is in use and stays findable */
    CHECK_INT(kv_find(k, &h0, 0), b[0]);
    kv_release(k, b, 1);
    kv_release(k, c, 2);
    CHECK(kv_reset(k));
    CHECK_INT(kv_find(k, &h0, 0), 0);
    CHECK_OK(kv_check(k, true));
    kv_free(k);
}

/* Memory grows with what is in use at a time, not with what has been used in all. */
TEST(blocks_without_contents_are_taken_again_first)
{
    kv *k;
    int32_t b[4];
    block_hash h = hash_of(1);
    REQUIRE_OK(kv_new(100, &k));
    for (int round = 0; round < 50; round++) {
        CHECK(kv_take(k, 4, b));
        for (int i = 0; i < 4; i++) CHECK_INT(b[i], i + 1);
        kv_release(k, b, 4);
        CHECK_OK(kv_check(k, true));
    }
    CHECK(kv_take(k, 4, b));
    kv_register(k, b[0], &h, 0); /* cached: the others and new ones go first */
    kv_release(k, b, 4);
    CHECK(kv_take(k, 4, b));
    CHECK(b[0] == 2 && b[1] == 3 && b[2] == 4 && b[3] == 5);
    CHECK_INT(kv_find(k, &h, 0), 1);
    kv_release(k, b, 4);
    CHECK_OK(kv_check(k, true));
    kv_free(k);
}

TEST(the_first_block_with_a_content_stays)
{
    kv *k;
    int32_t b[2];
    block_hash h = hash_of(1);
    REQUIRE_OK(kv_new(4, &k));
    CHECK(kv_take(k, 2, b));
    kv_register(k, b[0], &h, 0);
    kv_register(k, b[1], &h, 0);
    CHECK_INT(kv_find(k, &h, 0), b[0]);
    kv_ref(k, b[0]);
    CHECK_INT(kv_refs(k, b[0]), 2);
    kv_release(k, b, 2);
    CHECK_INT(kv_n_free(k), 2);
    kv_release(k, b, 1);
    CHECK_OK(kv_check(k, true));
    kv_free(k);
}

TEST(random_use_keeps_the_books)
{
    enum { N = 40 };
    kv *k;
    int32_t held[400];
    int n = 0;
    unsigned seed = 1;
    REQUIRE_OK(kv_new(N, &k));
    for (int i = 0; i < 20000; i++) {
        seed = seed * 1664525u + 1013904223u;
        const int what = (int)(seed >> 16 & 3), x = (int)(seed >> 20 & 63);
        block_hash h = hash_of(x);
        if (what == 0 && n < 300) {
            int want = x % 4;
            if (kv_take(k, want, held + n)) n += want;
        } else if (what == 1 && n > 0) {
            int m = x % n;
            kv_release(k, held + m, n - m);
            n = m;
        } else if (what == 2 && n > 0) {
            kv_register(k, held[x % n], &h, 0);
        } else if (n < 300) {
            int32_t b = kv_find(k, &h, 0);
            if (b) {
                kv_ref(k, b);
                held[n++] = b;
            }
        }
        if (i % 64 == 0) REQUIRE_OK(kv_check(k, false));
    }
    kv_release(k, held, n);
    CHECK_OK(kv_check(k, true));
    kv_free(k);
}

TEST(out_of_memory_is_a_status)
{
    int64_t live = mem_live();
    for (uint64_t n = 1;; n++) {
        kv *k = NULL;
        mem_fail_at(n);
        status st = kv_new(10, &k);
        int hit = mem_failed();
        mem_fail_at(0);
        if (st == ST_OK) kv_free(k);
        CHECK_INT(mem_live(), live);
        if (!hit) break;
        CHECK_INT(st, ST_NOMEM);
    }
}

/* The same tokens in two groups of layers are two blocks. */
TEST(contents_of_groups)
{
    kv *k;
    int32_t b[2];
    const block_hash h = { { 1, 2, 3 } };
    REQUIRE_OK(kv_new(5, &k));
    REQUIRE(kv_take(k, 2, b));
    kv_register(k, b[0], &h, 0);
    CHECK_INT(kv_find(k, &h, 0), b[0]);
    CHECK_INT(kv_find(k, &h, 1), 0);
    kv_register(k, b[1], &h, 1);
    CHECK_INT(kv_find(k, &h, 0), b[0]);
    CHECK_INT(kv_find(k, &h, 1), b[1]);
    kv_release(k, (int32_t[]){ 0, b[0], 0 }, 3); /* null blocks are nobody's */
    CHECK_INT(kv_n_free(k), 3);
    kv_release(k, &b[1], 1);
    CHECK_OK(kv_check(k, true));
    kv_free(k);
}

TEST_MAIN
