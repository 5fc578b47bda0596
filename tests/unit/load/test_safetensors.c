/* load: safetensors files and sets, good and hostile. */
#include "tests/test.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "load/safetensors.h"
#include "load/st_header.h"
#include "tests/unit/load/tmpdir.h"

static const char *file_of(const char *header, size_t data_bytes)
{
    tmpdir_new();
    return tmpdir_safetensors("model.safetensors", header, strlen(header), data_bytes);
}

static status opens(const char *header, size_t data_bytes)
{
    st_set *s = NULL;
    status st = st_open_file(file_of(header, data_bytes), &s);
    st_close(s);
    return st;
}

TEST(reads_a_file)
{
    st_set *s = NULL;
    const char *header = " {\"__metadata__\":{\"format\":\"pt\"}, \"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},\n"
                         "\"a\\u00e9\\n\":{\"data_offsets\":[0,4],\"shape\":[],\"dtype\":\"F32\",\"later\":[1,{\"x\":null}]},"
                         "\"empty\":{\"dtype\":\"I64\",\"shape\":[3,0],\"data_offsets\":[16,16]},"
                         "\"first\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}   ";
    REQUIRE_OK(st_open_file(file_of(header, 16), &s));
    CHECK_INT(st_count(s), 4);
    CHECK_INT(st_total_bytes(s), 16);
    const st_tensor *t = st_find(s, "b");
    REQUIRE(t);
    CHECK(t->type == DT_BF16 && t->rank == 2 && t->shape[0] == 2 && t->shape[1] == 3 && t->bytes == 12 && t->file == 0);
    CHECK_INT(((const uint8_t *)t->data)[0], 4);
    t = st_find(s, "a\xc3\xa9\n");
    REQUIRE(t);
    CHECK(t->rank == 0 && t->bytes == 4 && ((const uint8_t *)t->data)[3] == 3);
    t = st_find(s, "empty");
    CHECK(t && t->bytes == 0 && t->rank == 2);
    CHECK(!st_find(s, "__metadata__"));
    CHECK_STR(st_get(s, 0)->name, "first"); /* file order, not header order */
    CHECK_STR(st_get(s, 2)->name, "b");
    st_close(s);
}

static void identity_of(const char *path, buf *out)
{
    st_set *s = NULL;
    buf_clear(out);
    REQUIRE_OK(st_open_file(path, &s));
    CHECK_OK(st_identity(s, out));
    st_close(s);
}

TEST(identity_follows_the_contents)
{
    const char *header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[100000],\"data_offsets\":[0,100000]}}";
    char path[256];
    buf first = {0}, again = {0}, other = {0};
    snprintf(path, sizeof path, "%s", file_of(header, 100000));
    identity_of(path, &first);
    identity_of(path, &again);
    CHECK(first.len > 0 && first.len == again.len && memcmp(first.data, again.data, first.len) == 0);
    FILE *f = fopen(path, "r+b");
    REQUIRE(f);
    fseek(f, -50000, SEEK_END);
    fputc(77, f);
    fclose(f);
    identity_of(path, &other);
    CHECK(first.len != other.len || memcmp(first.data, other.data, first.len) != 0);
    buf_free(&first);
    buf_free(&again);
    buf_free(&other);
}

TEST(all_dtypes)
{
    static const struct { const char *name; dtype type; size_t bytes; } all[] = {
        { "F64", DT_F64, 16 }, { "F32", DT_F32, 8 }, { "F16", DT_F16, 4 }, { "BF16", DT_BF16, 4 }, { "F8_E4M3", DT_F8E4M3, 2 },
        { "F8_E5M2", DT_F8E5M2, 2 }, { "F8_E8M0", DT_F8E8M0, 2 }, { "F4", DT_F4E2M1, 1 }, { "I64", DT_I64, 16 }, { "I32", DT_I32, 8 },
        { "I16", DT_I16, 4 }, { "I8", DT_I8, 2 }, { "U64", DT_U64, 16 }, { "U32", DT_U32, 8 }, { "U16", DT_U16, 4 }, { "U8", DT_U8, 2 }, { "BOOL", DT_BOOL, 2 },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char header[200];
        st_set *s = NULL;
        snprintf(header, sizeof header, "{\"t\":{\"dtype\":\"%s\",\"shape\":[2],\"data_offsets\":[0,%zu]}}", all[i].name, all[i].bytes);
        REQUIRE_OK(st_open_file(file_of(header, all[i].bytes), &s));
        CHECK(st_find(s, "t")->type == all[i].type);
        st_close(s);
    }
    CHECK_ERR(opens("{\"t\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8), ST_UNSUPPORTED, "tensor t: dtype \"C64\"");
}

#define T(name, dt, shape, from, to) "\"" name "\":{\"dtype\":\"" dt "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"

TEST(refuses_bad_tensors)
{
    CHECK_ERR(opens("{" T("a", "F32", "[2]", 0, 8) "}", 4), ST_INVALID, "truncated");
    CHECK_ERR(opens("{" T("a", "F32", "[2]", 0, 8) "}", 12), ST_INVALID, "end at byte 8 of the data, but the file has 12");
    CHECK_ERR(opens("{" T("a", "F32", "[2]", 0, 4) "}", 4), ST_INVALID, "need 8 bytes but data_offsets span 4");
    CHECK_ERR(opens("{" T("a", "F32", "[2]", 8, 0) "}", 8), ST_INVALID, "before they begin");
    CHECK_ERR(opens("{" T("a", "U8", "[4]", 0, 4) "," T("b", "U8", "[4]", 2, 6) "}", 6), ST_INVALID, "overlap");
    CHECK_ERR(opens("{" T("a", "U8", "[4]", 0, 4) "," T("b", "U8", "[4]", 0, 4) "}", 4), ST_INVALID, "overlap");
    CHECK_ERR(opens("{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 4, 6) "}", 6), ST_INVALID, "hole");
    CHECK_ERR(opens("{" T("a", "U8", "[2]", 2, 4) "}", 4), ST_INVALID, "hole");
    CHECK_ERR(opens("{" T("a", "U8", "[2]", 0, 2) "," T("a", "U8", "[2]", 2, 4) "}", 4), ST_INVALID, "tensor a appears twice");
    CHECK_ERR(opens("{" T("a", "U8", "[-2]", 0, 2) "}", 2), ST_INVALID, "non-negative");
    CHECK_ERR(opens("{" T("a", "U8", "[2.0]", 0, 2) "}", 2), ST_INVALID, "non-negative");
    CHECK_ERR(opens("{" T("a", "U8", "[18446744073709551617]", 0, 1) "}", 1), ST_INVALID, "64 bits");
    CHECK_ERR(opens("{" T("a", "F64", "[4294967296,4294967296]", 0, 0) "}", 0), ST_INVALID, "2^64");
    CHECK_ERR(opens("{" T("a", "F64", "[2305843009213693952]", 0, 0) "}", 0), ST_INVALID, "2^64");
    CHECK_OK(opens("{" T("a", "F64", "[4294967296,4294967296,0]", 0, 0) "}", 0));
    CHECK_ERR(opens("{" T("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1), ST_LIMIT, "more than 8");
    CHECK_ERR(opens("{" T("a", "F4", "[3]", 0, 2) "}", 2), ST_INVALID, "whole bytes");
    CHECK_ERR(opens("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1), ST_INVALID, "[begin, end]");
    CHECK_ERR(opens("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1), ST_INVALID, "data_offsets is missing");
    CHECK_ERR(opens("{\"a\":{}}", 1), ST_INVALID, "tensor a: dtype is missing");
    CHECK_ERR(opens("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1), ST_INVALID, "twice");
    CHECK_ERR(opens("{\"a\":{\"dtype\":8,\"shape\":[1],\"data_offsets\":[0,1]}}", 1), ST_INVALID, "dtype name");
    CHECK_ERR(opens("{\"a\":3}", 1), ST_INVALID, "object with dtype");
    CHECK_ERR(opens("{\"a\\u0000b\":{}}", 0), ST_INVALID, "NUL");
}

TEST(refuses_bad_json)
{
    static const char *const bad[] = {
        "", " ", "[", "[]", "{", "{\"", "{\"a", "{\"a\"", "{\"a\":", "{\"a\":{", "{} x", "{}{}", "{\"a\\", "{\"a\\u12", "{\"a\\uD800\":{}}", "{\"a\\uDC00\":{}}",
        "{\"a\\uD800\\u0041\":{}}", "{\"\xff\":{}}", "{\"a\tb\":{}}", "{\"__metadata__\":{\"a\":1}", "{\"__metadata__\":}", "{\"__metadata__\":[1,2},}", "{,}", "nul",
        "{" T("a", "U8", "[1", 0, 1) "}", "{" T("a", "U8", "[1,]", 0, 1) "}", "{" T("a", "U8", "[1]", 0, 1) ",}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_ERR(opens(bad[i], 1), ST_INVALID, "model.safetensors: ");
    }
    buf deep = {0};
    buf_str(&deep, "{\"__metadata__\":");
    for (int i = 0; i < 100000; i++) buf_char(&deep, '[');
    CHECK_ERR(opens(buf_cstr(&deep), 0), ST_LIMIT, "nested deeper");
    buf_free(&deep);
}

TEST(refuses_bad_files)
{
    st_set *s = NULL;
    tmpdir_new();
    CHECK_ERR(st_open_file(tmpdir_at("none"), &s), ST_NOT_FOUND, "none: No such file");
    CHECK_ERR(st_open_file(tmpdir_path, &s), ST_INVALID, "not a regular file");
    CHECK_ERR(st_open_file(tmpdir_text("empty", ""), &s), ST_INVALID, "empty: 0 bytes are too few");
    CHECK_ERR(st_open_file(tmpdir_text("seven", "1234567"), &s), ST_INVALID, "too few");
    CHECK_ERR(st_open_file(tmpdir_text("lfs", "version https://git-lfs.github.com/spec/v1\n"), &s), ST_INVALID, "git lfs pull");
    CHECK_ERR(st_open_file(tmpdir_write("huge", "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10), &s), ST_LIMIT, "claims 18446744073709551615 bytes");
    CHECK_ERR(st_open_file(tmpdir_write("short", "\x03\0\0\0\0\0\0\0{}", 10), &s), ST_INVALID, "claims 3 bytes but the file has only 10");
    CHECK_OK(st_open_file(tmpdir_write("nothing", "\x02\0\0\0\0\0\0\0{}", 10), &s));
    CHECK_INT(st_count(s), 0);
    st_close(s);
    s = NULL;
    if (mkfifo(tmpdir_at("fifo"), 0600) == 0) CHECK_ERR(st_open_file(tmpdir_at("fifo"), &s), ST_INVALID, "not a regular file");
    if (geteuid() != 0) {
        chmod(tmpdir_text("secret", "x"), 0);
        CHECK_ERR(st_open_file(tmpdir_at("secret"), &s), ST_DENIED, "Permission denied");
    }
}

TEST(hostile_names_stay_on_one_line)
{
    char shown[ST_SHOWN_CAP];
    CHECK_STR(st_shown("a\n\x1b[31mb", shown), "a??[31mb");
    char longer[300];
    memset(longer, 'x', 299);
    longer[299] = 0;
    memcpy(longer + 122, "\xe2\x82\xac", 3);
    CHECK_INT(strlen(st_shown(longer, shown)), 125);
    CHECK_STR(shown + 120, "xx...");
    CHECK_ERR(opens("{\"\\n\\u001b[2J\":{}}", 0), ST_INVALID, "tensor ??[2J");
}

TEST(sharded_set)
{
    const char *dir = tmpdir_new();
    st_set *s = NULL;
    const char *h1 = "{" T("a", "U8", "[3]", 0, 3) "," T("b", "U8", "[1]", 3, 4) "}", *h2 = "{" T("c", "F32", "[1]", 0, 4) "}";
    tmpdir_safetensors("x-2.safetensors", h2, strlen(h2), 4);
    tmpdir_safetensors("x-1.safetensors", h1, strlen(h1), 4);
    tmpdir_safetensors("consolidated.safetensors", h1, strlen(h1), 4);

    REQUIRE_OK(st_open_dir(dir, &s)); /* without an index: every file, sorted */
    CHECK_INT(st_count(s), 3);
    CHECK_INT(st_find(s, "c")->file, 1);
    CHECK_STR(st_path(s, 0), tmpdir_at("x-1.safetensors"));
    st_close(s);
    s = NULL;

    tmpdir_text("model.safetensors.index.json", "{\"metadata\":{},\"weight_map\":{\"c\":\"x-2.safetensors\",\"a\":\"x-1.safetensors\",\"b\":\"x-1.safetensors\"}}");
    REQUIRE_OK(st_open_dir(dir, &s));
    CHECK_INT(st_count(s), 3);
    CHECK_INT(st_total_bytes(s), 8);
    CHECK_STR(st_path(s, st_find(s, "c")->file), tmpdir_at("x-2.safetensors"));
    CHECK_STR(st_get(s, 2)->name, "c");
    st_close(s);
    s = NULL;

    static const struct { const char *index; status st; const char *text; } bad[] = {
        { "{}", ST_INVALID, "weight_map must be an object" },
        { "{\"weight_map\":{}}", ST_INVALID, "weight_map must be" },
        { "{\"weight_map\":{\"a\":3}}", ST_INVALID, "tensor a must name a file" },
        { "{\"weight_map\":{\"a\":\"../x-1.safetensors\"}}", ST_INVALID, "tensor a must name a file in the same folder" },
        { "{\"weight_map\":{\"a\":\"/etc/passwd\"}}", ST_INVALID, "same folder" },
        { "{\"weight_map\":{\"a\":\"x-1.safetensors\\u0000\"}}", ST_INVALID, "same folder" },
        { "{\"weight_map\":{\"a\":\"x-1.safetensors\",\"z\":\"x-1.safetensors\"}}", ST_INVALID, "tensor z should be in x-1.safetensors, which does not hold it" },
        { "{\"weight_map\":{\"a\":\"x-2.safetensors\",\"b\":\"x-1.safetensors\"}}", ST_INVALID, "tensor a should be in x-2.safetensors" },
        { "{\"weight_map\":{\"a\":\"x-3.safetensors\"}}", ST_NOT_FOUND, "x-3.safetensors: No such file" },
        { "{\"weight_map\":", ST_INVALID, "index.json: invalid JSON" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tmpdir_text("model.safetensors.index.json", bad[i].index);
        CHECK_ERR(st_open_dir(dir, &s), bad[i].st, bad[i].text);
    }
}

TEST(index_decides_between_copies)
{
    const char *dir = tmpdir_new(), *h = "{" T("a", "U8", "[2]", 0, 2) "}", *both = "{" T("b", "U8", "[2]", 0, 2) "," T("a", "U8", "[2]", 2, 4) "}";
    st_set *s = NULL;
    tmpdir_safetensors("1.safetensors", h, strlen(h), 2);
    tmpdir_safetensors("2.safetensors", both, strlen(both), 4);
    CHECK_ERR(st_open_dir(dir, &s), ST_INVALID, "tensor a is also in");
    tmpdir_text("model.safetensors.index.json", "{\"weight_map\":{\"a\":\"2.safetensors\",\"b\":\"2.safetensors\",\"a2\":\"1.safetensors\"}}");
    CHECK_ERR(st_open_dir(dir, &s), ST_INVALID, "tensor a2 should be");
    tmpdir_text("model.safetensors.index.json", "{\"weight_map\":{\"b\":\"2.safetensors\",\"a\":\"1.safetensors\"}}");
    REQUIRE_OK(st_open_dir(dir, &s));
    CHECK_INT(st_count(s), 2);
    CHECK_INT(st_find(s, "a")->file, 0);
    CHECK_INT(st_total_bytes(s), 4);
    st_close(s);
}

TEST(folders_without_weights)
{
    st_set *s = NULL;
    const char *dir = tmpdir_new();
    CHECK_ERR(st_open_dir(dir, &s), ST_NOT_FOUND, "has no weights");
    tmpdir_text("pytorch_model.bin", "x");
    CHECK_ERR(st_open_dir(dir, &s), ST_UNSUPPORTED, "pytorch_model.bin is not read");
    CHECK_ERR(st_open_dir(tmpdir_at("none"), &s), ST_NOT_FOUND, "cannot open the folder");
    if (symlink("../../blobs/gone", tmpdir_at("model.safetensors")) == 0) CHECK_ERR(st_open_dir(dir, &s), ST_NOT_FOUND, "model.safetensors: No such file");
}

TEST(release_keeps_the_contents)
{
    enum { N = 1 << 20 };
    char header[200];
    st_set *s = NULL;
    snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[0,%d]},\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[%d,%d]}}", N, N, N, N + 3);
    REQUIRE_OK(st_open_file(file_of(header, N + 3), &s));
    const st_tensor *t = st_find(s, "a");
    const uint8_t *p = t->data;
    unsigned sum = 0, again = 0;
    for (int i = 0; i < N; i++) sum += p[i];
    st_release(s, t);
    st_release(s, st_find(s, "b"));
    for (int i = 0; i < N; i++) again += p[i];
    CHECK_INT(again, sum);
    st_close(s);
}

/* A sparse file: 5 GiB in one tensor, a small one behind it. */
TEST(files_beyond_4_gib)
{
    char header[256];
    const uint64_t big = 5ull << 30;
    int n = snprintf(header, sizeof header, "{\"big\":{\"dtype\":\"BF16\",\"shape\":[%llu,2],\"data_offsets\":[0,%llu]},\"last\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[%llu,%llu]}}",
                     (unsigned long long)big / 4, (unsigned long long)big, (unsigned long long)big, (unsigned long long)big + 2);
    tmpdir_new();
    const char *path = tmpdir_safetensors("model.safetensors", header, (size_t)n, 0);
    int fd = open(path, O_WRONLY);
    if (fd < 0 || pwrite(fd, "\x07\x09", 2, (off_t)(8 + (uint64_t)n + big)) != 2) {
        if (fd >= 0) close(fd);
        SKIP("no room for a sparse file of 5 GiB");
    }
    close(fd);
    st_set *s = NULL;
    REQUIRE_OK(st_open_dir(tmpdir_path, &s));
    CHECK(st_find(s, "big")->bytes == big);
    CHECK_INT(((const uint8_t *)st_find(s, "last")->data)[1], 9);
    CHECK_INT(((const uint8_t *)st_find(s, "big")->data)[big - 1], 0);
    st_close(s);
    tmpdir_new();
}

static void many(buf *header, buf *index, int from, int n, const char *shard)
{
    buf_str(header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n; i++) {
        buf_printf(header, ",\"model.layers.%d.mlp.experts.%d.down_proj.weight_scale_inv\":{\"dtype\":\"F8_E4M3\",\"shape\":[1,2],\"data_offsets\":[%d,%d]}", (from + i) / 256, (from + i) % 256, 2 * i, 2 * i + 2);
        buf_printf(index, "%c\"model.layers.%d.mlp.experts.%d.down_proj.weight_scale_inv\":\"%s\"", from + i ? ',' : '{', (from + i) / 256, (from + i) % 256, shard);
    }
    buf_char(header, '}');
}

TEST(opens_20000_tensors_quickly)
{
    enum { SHARDS = 20, EACH = 1000 };
    buf index = {0};
    const char *dir = tmpdir_new();
    buf_str(&index, "{\"weight_map\":");
    for (int f = 0; f < SHARDS; f++) {
        buf header = {0};
        char name[64];
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", f + 1, SHARDS);
        many(&header, &index, f * EACH, EACH, name);
        tmpdir_safetensors(name, header.data, header.len, 2 * EACH);
        buf_free(&header);
    }
    buf_str(&index, "}}");
    tmpdir_write("model.safetensors.index.json", index.data, index.len);
    buf_free(&index);
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        st_set *s = NULL;
        double t = clock_now();
        REQUIRE_OK(st_open_dir(dir, &s));
        t = clock_now() - t;
        if (t < best) best = t;
        CHECK_INT(st_count(s), SHARDS * EACH);
        CHECK(st_find(s, "model.layers.78.mlp.experts.31.down_proj.weight_scale_inv"));
        st_close(s);
    }
    printf("  20,000 tensors in 20 shards: opened in %.1f ms\n", best * 1e3);
#ifndef SYSTOLIC_SANITIZED
    CHECK(best < 0.5); /* 0.1 s is the aim; a loaded machine gets more */
#endif
}

TEST(golden_checkpoints_open)
{
    static const char *const dirs[] = { "llama_sharded", "gpt_oss_mxfp4", "llama_nvfp4_w4a16", "kimi_k2_int4", "llama_fp8_block", "llama_awq" };
    int n = 0;
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        char rel[128];
        snprintf(rel, sizeof rel, "goldens/%s/config.json", dirs[i]);
        const char *path = test_shared(rel);
        if (!path) continue;
        char dir[4096];
        snprintf(dir, sizeof dir, "%.*s", (int)(strlen(path) - strlen("/config.json")), path);
        st_set *s = NULL;
        if (strcmp(dirs[i], "llama_sharded") == 0) CHECK_OK(st_open_dir(dir, &s));
        else {
            char file[4200];
            snprintf(file, sizeof file, "%s/model.safetensors", dir);
            CHECK_OK(st_open_file(file, &s));
        }
        if (s) CHECK(st_count(s) > 10);
        st_close(s);
        n++;
    }
    if (!n) SKIP("no goldens");
}

TEST(out_of_memory_is_a_status)
{
    const char *dir = tmpdir_new();
    const char *h1 = "{" T("a", "U8", "[3]", 0, 3) "," T("b\\n", "U8", "[1]", 3, 4) "}", *h2 = "{" T("c", "F32", "[1]", 0, 4) "}";
    tmpdir_safetensors("x-2.safetensors", h2, strlen(h2), 4);
    tmpdir_safetensors("x-1.safetensors", h1, strlen(h1), 4);
    for (int indexed = 0; indexed < 2; indexed++) {
        if (indexed) tmpdir_text("model.safetensors.index.json", "{\"weight_map\":{\"c\":\"x-2.safetensors\",\"a\":\"x-1.safetensors\",\"b\\n\":\"x-1.safetensors\"}}");
        st_set *s = NULL;
        CHECK_EVERY_ALLOCATION(st_open_dir(dir, &s), st_close(s));
    }
}

TEST_MAIN
