/* Block hashes against vectors made with Python: cbor2.dumps(x, canonical=True), hashlib.sha256 and xxhash.xxh3_128. */
#include "tests/test.h"

#include "base/mem.h"
#include "engine/block_hash.h"

static const int32_t base_ids[] = { 0, 1, 23, 24, 255, 256, 65535, 65536, 151935, 2147483647, 7, 100, 1000, 10000, 100000, 1000000 };
static int32_t many_ids[300]; /* (i*i*7919 + 13) % 151936 */

/* The hash of the last of `n` blocks. */
static const struct vector { hash_algo algo; const char *seed; const int32_t *ids; int block; const char *salt; bool rope_long; int n; const char *want; } vectors[] = {
    { HASH_SHA256_CBOR, NULL, base_ids, 4, NULL, false, 4, "4d9c47a273ed6b0756182be51707e9ee21208fc3e3598344f0a64b7c364f7ab3" },
    { HASH_SHA256_CBOR, "0", base_ids, 16, NULL, false, 1, "15579cdd7dc70e78c32708f15c45e19fd102220c280dd77e3e94f7166342ddba" },
    { HASH_SHA256_CBOR, NULL, many_ids, 16, "tenant-\xC3\xA9", false, 18, "2322198b7146c78da66c4bd76bb1ca01751e5bd2bf81c147433c44d01dece4d3" },
    { HASH_SHA256_CBOR, NULL, many_ids, 16, "", true, 18, "eae859bdcfc9a3b9f064e20cbd45a5bd821edaa8262d2efb6bd2ae4dfcac7481" },
    { HASH_SHA256_CBOR, "random", many_ids, 256, NULL, true, 1, "9b00c6d8822a18c5131b669d60c2def74ef13f0db417eedd4e812aa203af6177" },
    { HASH_XXHASH_CBOR, "42", base_ids, 4, "s", false, 4, "686d31a1280d2b452cc50837f61f8d49" },
    { HASH_SHA256_CBOR, NULL, many_ids, 24, NULL, false, 12, "78509ef4257fe4a5ad817212c9500f4631755b70c8b7f388e105bf195f12208c" },
};

static void fill_ids(void)
{
    for (int64_t i = 0; i < 300; i++) many_ids[i] = (int32_t)((i * i * 7919 + 13) % 151936);
}

static status chain(const struct vector *v, buf *scratch, block_hash *last)
{
    block_hasher h;
    TRY(block_hasher_init(&h, v->algo, v->seed, scratch));
    for (int i = 0; i < v->n; i++) {
        block_hash parent = *last;
        TRY(block_hasher_run(&h, i > 0 ? &parent : NULL, v->ids + i * v->block, v->block, v->salt, v->rope_long, scratch, last));
    }
    return ST_OK;
}

TEST(equal_to_python)
{
    fill_ids();
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        buf scratch = {0};
        block_hash last = {{0}};
        char hex[2 * SHA256_BYTES + 1];
        CHECK_OK(chain(&vectors[i], &scratch, &last));
        hash_hex(last.bytes, strlen(vectors[i].want) / 2, hex);
        CHECK_STR(hex, vectors[i].want);
        buf_free(&scratch);
    }
}

TEST(sha256_is_sha256_cbor)
{
    struct vector a = vectors[0], b = vectors[0];
    buf scratch = {0};
    block_hash x = {{0}}, y = {{0}};
    a.algo = HASH_SHA256;
    CHECK_OK(chain(&a, &scratch, &x));
    CHECK_OK(chain(&b, &scratch, &y));
    CHECK(memcmp(&x, &y, sizeof x) == 0);
    buf_free(&scratch);
}

TEST(xxhash_root_is_random_without_a_seed)
{
    buf scratch = {0};
    block_hasher a, b;
    CHECK_OK(block_hasher_init(&a, HASH_XXHASH, NULL, &scratch));
    CHECK_OK(block_hasher_init(&b, HASH_XXHASH, NULL, &scratch));
    CHECK(memcmp(&a.root, &b.root, sizeof a.root) != 0);
    buf_free(&scratch);
}

/* Blocks with the same tokens differ if other images stand in them, or the same ones elsewhere; blocks beside an image do not know it. */
TEST(media_are_part_of_the_content)
{
    fill_ids();
    buf scratch = {0};
    block_hasher h;
    media_rows one = { .n = 4, .hash = { 1 } }, two = { .n = 4, .hash = { 2 } };
    request_media a = { &one, 5, 20 }, b = { &two, 5, 20 }, moved = { &one, 6, 20 };
    block_hash plain, with_a, with_b, with_moved, again, beside;
    CHECK_OK(block_hasher_init(&h, HASH_SHA256_CBOR, "0", &scratch));
    CHECK_OK(block_hasher_run(&h, NULL, many_ids, 16, NULL, false, &scratch, &plain));
    CHECK_OK(block_hasher_run_media(&h, NULL, many_ids, 16, NULL, false, &(block_media){ &a, 1, 0 }, &scratch, &with_a));
    CHECK_OK(block_hasher_run_media(&h, NULL, many_ids, 16, NULL, false, &(block_media){ &a, 1, 0 }, &scratch, &again));
    CHECK_OK(block_hasher_run_media(&h, NULL, many_ids, 16, NULL, false, &(block_media){ &b, 1, 0 }, &scratch, &with_b));
    CHECK_OK(block_hasher_run_media(&h, NULL, many_ids, 16, NULL, false, &(block_media){ &moved, 1, 0 }, &scratch, &with_moved));
    CHECK_OK(block_hasher_run_media(&h, NULL, many_ids, 16, NULL, false, &(block_media){ &a, 1, 32 }, &scratch, &beside));
    CHECK(memcmp(&with_a, &again, sizeof again) == 0);
    CHECK(memcmp(&with_a, &plain, sizeof plain) != 0);
    CHECK(memcmp(&with_a, &with_b, sizeof with_b) != 0);
    CHECK(memcmp(&with_a, &with_moved, sizeof with_moved) != 0);
    CHECK(memcmp(&beside, &plain, sizeof plain) == 0);
    buf_free(&scratch);
}

TEST(out_of_memory_is_a_status)
{
    fill_ids();
    int64_t live = mem_live();
    for (uint64_t n = 1;; n++) {
        buf scratch = {0};
        block_hash last = {{0}};
        mem_fail_at(n);
        status st = chain(&vectors[2], &scratch, &last);
        int hit = mem_failed();
        mem_fail_at(0);
        buf_free(&scratch);
        CHECK_INT(mem_live(), live);
        if (!hit) break;
        CHECK_INT(st, ST_NOMEM);
    }
}

TEST_MAIN
