#include <dirent.h>
#include <unistd.h>

#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "tests/test.h"
#include "text/tok_regex.h"
#include "text/tok_split.h"
#include "text/tok_unicode.h"
#include "text/tokenizer.h"

/* ---- helpers ---- */

static status make(const char *json, tokenizer **out)
{
    jv *spec = NULL;
    TRY(jv_parse(json, strlen(json), &spec));
    status st = tokenizer_new(spec, NULL, out);
    jv_free(spec);
    return st;
}

static bool same_ids(const i32vec *ids, const jv *want)
{
    if (ids->len != jv_len(want)) return false;
    for (size_t i = 0; i < ids->len; i++)
        if (ids->data[i] != jv_i64(jv_at(want, i), -1)) return false;
    return true;
}

static void show(const i32vec *ids)
{
    for (size_t i = 0; i < ids->len && i < 40; i++) printf(" %d", ids->data[i]);
    printf("\n");
}

/* want null: encoding must fail. */
static void check_encode(const tokenizer *t, const char *name, const jv *text, const jv *want, bool special)
{
    i32vec ids = {0};
    status st = tokenizer_encode(t, jv_str(text, ""), jv_len(text), special, &ids);
    bool ok = jv_is(want, JV_NULL) ? st != ST_OK : st == ST_OK && same_ids(&ids, want);
    if (!ok) {
        FAIL("%s: encode(\"%s\", %d): %s", name, jv_str(text, ""), special, st == ST_OK ? "other ids:" : err_msg());
        show(&ids);
    }
    i32vec_free(&ids);
}

static void check_decode(const tokenizer *t, const char *name, const jv *list, const jv *want, bool skip)
{
    i32vec ids = {0};
    buf out = {0};
    for (size_t i = 0; i < jv_len(list); i++) i32vec_push(&ids, (int32_t)jv_i64(jv_at(list, i), -1));
    status st = tokenizer_decode(t, ids.data, ids.len, skip, &out);
    if (st != ST_OK || out.len != jv_len(want) || memcmp(buf_cstr(&out), jv_str(want, ""), out.len) != 0) {
        FAIL("%s: decode (skip %d): \"%s\", wanted \"%s\" (%s), ids", name, skip, buf_cstr(&out), jv_str(want, ""), st == ST_OK ? "ok" : err_msg());
        show(&ids);
    }
    i32vec_free(&ids);
    buf_free(&out);
}

/* ---- our own cases: every component, answers of the tokenizers package (tests/golden/tokenizer_cases.py) ---- */

/* The vocabulary of the 256 byte tokens is written "BYTES". */
static status expand(jv *spec)
{
    const jv *m = jv_get(spec, "model");
    if (strcmp(jv_str(jv_get(m, "vocab"), ""), "BYTES") != 0) return ST_OK;
    jv *model = jv_copy(m), *v = jv_new_obj();
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", b);
        TRY(jv_set(v, name, jv_new_i64(b)));
    }
    TRY(jv_set(model, "vocab", v));
    return jv_set(spec, "model", model);
}

static void run_doc(const jv *doc)
{
    const char *name = jv_get_str(doc, "name", "");
    jv *spec = jv_copy(jv_get(doc, "tokenizer"));
    tokenizer *t = NULL;
    REQUIRE_OK(expand(spec));
    status st = tokenizer_new(spec, NULL, &t);
    jv_free(spec);
    if (st != ST_OK) {
        FAIL("%s: %s", name, err_msg());
        return;
    }
    const jv *enc = jv_get(doc, "encodes"), *dec = jv_get(doc, "decodes");
    for (size_t i = 0; i < jv_len(enc); i++) {
        const jv *c = jv_at(enc, i);
        check_encode(t, name, jv_at(c, 0), jv_at(c, 1), false);
        if (jv_len(c) > 2) check_encode(t, name, jv_at(c, 0), jv_at(c, 2), true);
    }
    for (size_t i = 0; i < jv_len(dec); i++) {
        const jv *c = jv_at(dec, i);
        check_decode(t, name, jv_at(c, 0), jv_at(c, 1), false);
        check_decode(t, name, jv_at(c, 0), jv_at(c, 2), true);
    }
    tokenizer_free(t);
}

TEST(every_component_answers_as_the_package)
{
    jv *docs = NULL;
    REQUIRE_OK(jv_parse_file("tests/golden/tokenizers.json", 16 << 20, &docs));
    CHECK(jv_len(docs) > 100);
    for (size_t i = 0; i < jv_len(docs); i++) run_doc(jv_at(docs, i));
    jv_free(docs);
}

/* ---- the data beside the repository ---- */

/* Streaming must give what decoding at once gives, unless a run of byte tokens turns out invalid only at its end. */
static void check_stream(const tokenizer *t, const char *name, const i32vec *ids)
{
    buf whole = {0}, out = {0};
    detok *d = NULL;
    REQUIRE_OK(tokenizer_decode(t, ids->data, ids->len, true, &whole));
    REQUIRE_OK(detok_new(t, NULL, 0, true, true, &d));
    for (size_t i = 0; i < ids->len; i++) {
        REQUIRE_OK(detok_push(d, ids->data[i], &out));
        CHECK(utf8_valid(buf_cstr(&out), out.len));
    }
    REQUIRE_OK(detok_flush(d, &out));
    bool same = out.len == whole.len && memcmp(buf_cstr(&out), buf_cstr(&whole), out.len) == 0;
    if (!same && !strstr(buf_cstr(&whole), "\xEF\xBF\xBD")) FAIL("%s: stream \"%s\", wanted \"%s\"", name, buf_cstr(&out), buf_cstr(&whole));
    detok_free(d);
    buf_free(&whole);
    buf_free(&out);
}

static void run_case(const tokenizer *t, const char *name, const jv *c)
{
    const jv *text = jv_get(c, "text"), *ids = jv_get(c, "ids"), *special = jv_get(c, "ids_special");
    if (text) check_encode(t, name, text, ids, false);
    if (text) check_encode(t, name, text, special, true);
    const jv *plain = jv_get(c, "decode") ? jv_get(c, "decode") : jv_get(c, "decoded");
    const jv *skip = jv_get(c, "decode_skip") ? jv_get(c, "decode_skip") : jv_get(c, "decoded_skip");
    const jv *from = ids;
    check_decode(t, name, from, plain, false);
    check_decode(t, name, from, skip, true);
    i32vec v = {0};
    for (size_t i = 0; i < jv_len(from); i++) i32vec_push(&v, (int32_t)jv_i64(jv_at(from, i), 0));
    check_stream(t, name, &v);
    i32vec_free(&v);
}

static void run_golden(const char *folder, const char *name)
{
    char rel[300];
    jv *golden = NULL, *spec = NULL;
    tokenizer *t = NULL;
    snprintf(rel, sizeof rel, "%s/%s/golden.json", folder, name);
    const char *path = test_shared(rel);
    if (!path) return;
    REQUIRE_OK(jv_parse_file(path, 64 << 20, &golden));
    snprintf(rel, sizeof rel, "%s/%s/tokenizer.json", folder, name);
    REQUIRE_OK(jv_parse_file(test_shared(rel), 64 << 20, &spec));
    REQUIRE_OK(tokenizer_new(spec, NULL, &t)); /* the goldens are without tokenizer_config.json */
    const char *const sections[] = { "cases", "random_decode" };
    for (int s = 0; s < 2; s++) {
        const jv *list = jv_get(golden, sections[s]);
        for (size_t i = 0; i < jv_len(list); i++) run_case(t, name, jv_at(list, i));
    }
    tokenizer_free(t);
    jv_free(golden);
    jv_free(spec);
}

static void run_folder(const char *folder)
{
    char root[4096];
    const char *base = getenv("SYSTOLIC_SHARED");
    snprintf(root, sizeof root, "%s/%s", base ? base : "../shared", folder);
    DIR *d = opendir(root);
    if (!d) SKIP("no %s", root);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.') run_golden(folder, e->d_name);
    closedir(d);
}

TEST(small_goldens) { run_folder("goldens/tokenizers"); }
TEST(real_tokenizers) { run_folder("realdata/tokenizers"); }

/* Reading tokenizer.json in place must give the tokenizer that reading it as values gives. */
TEST(both_readers_agree)
{
    const char *p = test_shared("goldens/tokenizers/unigram_t5/tokenizer.json");
    if (!p) SKIP("no goldens");
    static const char *const names[] = { "unigram_t5", "llama2_spbpe", "llama3", "wordpiece_cased" };
    for (size_t i = 0; i < 4; i++) {
        char dir[4096], rel[200];
        snprintf(rel, sizeof rel, "goldens/tokenizers/%s/tokenizer.json", names[i]);
        jv *spec = NULL;
        tokenizer *a = NULL, *b = NULL;
        REQUIRE_OK(jv_parse_file(test_shared(rel), 64 << 20, &spec));
        REQUIRE_OK(tokenizer_new(spec, NULL, &a));
        snprintf(dir, sizeof dir, "%s", test_shared(rel));
        *strrchr(dir, '/') = 0;
        REQUIRE_OK(tokenizer_load_dir(dir, &b));
        CHECK_INT(tokenizer_vocab_size(a), tokenizer_vocab_size(b));
        for (int32_t id = 0; (size_t)id < tokenizer_vocab_size(a); id++) {
            size_t na = 0, nb = 0;
            const char *sa = tokenizer_token(a, id, &na), *sb = tokenizer_token(b, id, &nb);
            if (!sa != !sb || na != nb || (sa && memcmp(sa, sb, na) != 0)) FAIL("%s: token %d differs", names[i], id);
        }
        i32vec x = {0}, y = {0};
        const char *text = "The quick brown fox, 1234! na\xC3\xAFve \xE4\xBD\xA0\xE5\xA5\xBD";
        CHECK_OK(tokenizer_encode(a, text, strlen(text), true, &x));
        CHECK_OK(tokenizer_encode(b, text, strlen(text), true, &y));
        CHECK(x.len == y.len && memcmp(x.data, y.data, x.len * sizeof *x.data) == 0);
        i32vec_free(&x);
        i32vec_free(&y);
        tokenizer_free(a);
        tokenizer_free(b);
        jv_free(spec);
    }
}

/* ---- hand-written matchers against the patterns ---- */

static uint32_t rnd_state = 12345;
static uint32_t rnd(uint32_t n)
{
    rnd_state = rnd_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)(rnd_state >> 8) * n >> 24);
}

static void random_text(buf *b)
{
    static const uint32_t some[] = { ' ', ' ', '\n', '\r', '\t', '\'', 's', 'S', 'T', 'r', 'e', 'l', 'L', 'm', 'd', 'v', '1', '2', '9', '.', '!', '/', '-', 'a', 'B', 0xA0, 0x3000,
                                     0xE9, 0xC9, 0x301, 0x323, 0x1C5, 0x2B0, 0x4E2D, 0x3042, 0x30A2, 0x17F, 0xBD, 0x663, 0x2028, 0x1F600, 0x200D, 0xAC00, 0x5D0, 0x915, 0x94D, 0 };
    buf_clear(b);
    for (uint32_t n = rnd(30); n > 0; n--) {
        uint32_t cp = rnd(12) ? some[rnd(sizeof some / sizeof *some)] : rnd(2) ? rnd(0x3000) : rnd(0x20000);
        buf_utf8(b, cp);
    }
}

TEST(matchers_find_what_their_patterns_find)
{
    uni_init();
    regex_scratch *scratch = NULL;
    REQUIRE_OK(regex_scratch_new(&scratch));
    for (int k = SPLIT_NONE + 1; k < SPLIT_N_KINDS; k++) {
        const char *pattern = split_pattern((split_kind)k);
        CHECK_INT(split_recognise(pattern, strlen(pattern)), k);
        regex *re = NULL;
        REQUIRE_OK(regex_new(pattern, strlen(pattern), &re));
        buf b = {0};
        for (int round = 0; round < 20000 && !test_cur_failed; round++) {
            random_text(&b);
            regex_iter it = {0};
            size_t pos = 0, f1 = 0, t1 = 0, f2 = 0, t2 = 0;
            for (bool more = true; more;) {
                bool found;
                REQUIRE_OK(regex_next(re, scratch, buf_cstr(&b), b.len, &it, &found, &f1, &t1));
                more = split_next((split_kind)k, buf_cstr(&b), b.len, pos, &f2, &t2);
                if (more != found || (more && (f1 != f2 || t1 != t2))) {
                    FAIL("kind %d: \"%s\": %zu-%zu, the pattern finds %zu-%zu", k, buf_cstr(&b), f2, t2, f1, t1);
                    break;
                }
                pos = t2;
            }
        }
        buf_free(&b);
        regex_free(re);
    }
    regex_scratch_free(scratch);
}

TEST(regex_limits_and_errors)
{
    uni_init();
    regex *re = NULL;
    CHECK_ERR(regex_new("(a", 2, &re), ST_INVALID, "group without )");
    CHECK_ERR(regex_new("a)", 2, &re), ST_INVALID, "unmatched )");
    CHECK_ERR(regex_new("[a", 2, &re), ST_INVALID, "without ]");
    CHECK_ERR(regex_new("\\p{Klingon}", 11, &re), ST_INVALID, "regular expression");
    CHECK_ERR(regex_new("*", 1, &re), ST_INVALID, "regular expression");
    regex_scratch *x = NULL;
    REQUIRE_OK(regex_scratch_new(&x));
    REQUIRE_OK(regex_new("(?:(?:a|b|ab)+)+[cd]", 20, &re));
    char text[61];
    for (int i = 0; i < 60; i++) text[i] = i % 2 ? 'b' : 'a';
    regex_iter it = {0};
    bool found;
    size_t from, to;
    CHECK_ERR(regex_next(re, x, text, 60, &it, &found, &from, &to), ST_LIMIT, "too long");
    regex_free(re);
    regex_scratch_free(x);
}

/* ---- special cases ---- */

#define HEAD "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true,\"normalized\":false}],"
static const char byte_level[] = HEAD "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"<s>\":0,\"a\":1,\"b\":2,\"ab\":3,\"\\u0120\":4,\"\\u00e4\":5,\"\\u00bd\":6,\"\\u0142\":7,\"aa\":8,\"aaaa\":9,\"\\u00e4\\u00bd\":10},"
    "\"merges\":[[\"a\",\"b\"],[\"a\",\"a\"],[\"aa\",\"aa\"],[\"\\u00e4\",\"\\u00bd\"]]}}";
static const char fallback[] = HEAD "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\\u2581\"}]},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[0],\"tokens\":[\"<s>\"]}}},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<u>\",\"byte_fallback\":true,\"fuse_unk\":true,\"vocab\":{\"<s>\":0,\"<u>\":1,\"\\u2581\":2,\"a\":3,\"\\u2581a\":4,\"<0xE4>\":5,\"<0xBD>\":6,\"<0xA0>\":7,\"<0xFF>\":8},\"merges\":[\"\\u2581 a\"]}}";

static void push_all(const tokenizer *t, const int32_t *prompt, size_t n_prompt, const int32_t *ids, size_t n, const char *want)
{
    detok *d = NULL;
    buf out = {0};
    REQUIRE_OK(detok_new(t, prompt, n_prompt, false, true, &d));
    for (size_t i = 0; i < n; i++) {
        CHECK_OK(detok_push(d, ids[i], &out));
        buf_char(&out, '|');
    }
    CHECK_OK(detok_flush(d, &out));
    CHECK_STR(buf_cstr(&out), want);
    detok_free(d);
    buf_free(&out);
}

TEST(streams_hold_back_half_characters)
{
    tokenizer *t = NULL;
    REQUIRE_OK(make(byte_level, &t));
    push_all(t, NULL, 0, (int32_t[]){ 1, 10, 7, 4 }, 4, "a||\xE4\xBD\xA0| |");
    push_all(t, NULL, 0, (int32_t[]){ 10, 1 }, 2, "|\xEF\xBF\xBD" "a|");
    push_all(t, NULL, 0, (int32_t[]){ 10 }, 1, "|\xEF\xBF\xBD");
    push_all(t, NULL, 0, (int32_t[]){ 99, 1 }, 2, "|a|"); /* an id the vocabulary lacks */
    tokenizer_free(t);
    REQUIRE_OK(make(fallback, &t));
    push_all(t, NULL, 0, (int32_t[]){ 4, 4, 5, 6, 7, 3 }, 6, "a| a|||\xE4\xBD\xA0|a|");
    push_all(t, (int32_t[]){ 0, 4 }, 2, (int32_t[]){ 4, 3 }, 2, " a|a|");
    push_all(t, (int32_t[]){ 5, 6, 7 }, 3, (int32_t[]){ 4 }, 1, " a|");
    push_all(t, NULL, 0, (int32_t[]){ 5, 6, 3 }, 3, "||\xEF\xBF\xBD\xEF\xBF\xBD" "a|");
    push_all(t, NULL, 0, (int32_t[]){ 8, 3 }, 2, "\xEF\xBF\xBD|a|");
    tokenizer_free(t);
}

TEST(added_tokens_join_without_spaces)
{
    tokenizer *t = NULL;
    REQUIRE_OK(make("{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true},{\"id\":1,\"content\":\"<t>\",\"special\":true}],\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"a\",\"vocab\":{\"<s>\":0,\"<t>\":1,\"a\":2}}}", &t));
    for (int spaces = 0; spaces < 2; spaces++) {
        detok *d = NULL;
        buf out = {0};
        REQUIRE_OK(detok_new(t, NULL, 0, false, spaces, &d));
        static const int32_t ids[] = { 2, 0, 1, 2 };
        for (int i = 0; i < 4; i++) CHECK_OK(detok_push(d, ids[i], &out));
        CHECK_OK(detok_flush(d, &out));
        CHECK_STR(buf_cstr(&out), spaces ? "a <s> <t> a" : "a <s><t> a");
        detok_free(d);
        buf_free(&out);
    }
    tokenizer_free(t);
}

static void check_bytes(const tokenizer *t, int32_t id, const char *want)
{
    buf b = {0};
    CHECK_OK(tokenizer_token_bytes(t, id, &b));
    CHECK_STR(buf_cstr(&b), want);
    buf_free(&b);
}

TEST(single_tokens)
{
    tokenizer *t = NULL;
    buf b = {0};
    REQUIRE_OK(make(byte_level, &t));
    check_bytes(t, 4, " ");
    check_bytes(t, 10, "\xE4\xBD");
    check_bytes(t, 0, "<s>");
    CHECK_ERR(tokenizer_token_bytes(t, 11, &b), ST_INVALID, "11");
    CHECK_ERR(tokenizer_decode(t, (int32_t[]){ -1 }, 1, false, &b), ST_INVALID, "-1");
    CHECK_INT(tokenizer_vocab_size(t), 11);
    CHECK_INT(tokenizer_token_id(t, "ab", 2), 3);
    CHECK_INT(tokenizer_token_id(t, "zz", 2), -1);
    CHECK(tokenizer_is_special(t, 0) && tokenizer_is_added(t, 0) && !tokenizer_is_added(t, 1));
    CHECK(tokenizer_token(t, 11, NULL) == NULL && tokenizer_token(t, -5, NULL) == NULL);
    static const int32_t ids[] = { 1, 10, 7, 10 };
    static const char *const want[] = { "a", "", "\xE4\xBD\xA0", "" };
    for (size_t i = 0; i < 4; i++) {
        buf_clear(&b);
        CHECK_OK(tokenizer_logprob_text(t, ids, i, &b));
        CHECK_STR(buf_cstr(&b), want[i]);
    }
    tokenizer_free(t);
    REQUIRE_OK(make(fallback, &t));
    check_bytes(t, 4, " a");
    check_bytes(t, 2, " ");
    check_bytes(t, 5, "\xE4");
    static const int32_t more[] = { 4, 5, 6, 7 };
    static const char *const texts[] = { "a", "", "", "\xE4\xBD\xA0" };
    for (size_t i = 0; i < 4; i++) {
        buf_clear(&b);
        CHECK_OK(tokenizer_logprob_text(t, more, i, &b));
        CHECK_STR(buf_cstr(&b), texts[i]);
    }
    tokenizer_free(t);
    buf_free(&b);
}

TEST(invalid_text_becomes_replacement_characters)
{
    tokenizer *t = NULL;
    REQUIRE_OK(make("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"\\ufffd\":1},\"merges\":[]}}", &t));
    i32vec ids = {0};
    CHECK_OK(tokenizer_encode(t, "a\xFF\xE4\xBD" "a", 5, false, &ids));
    static const int32_t want[] = { 0, 1, 1, 0 };
    CHECK(ids.len == 4 && memcmp(ids.data, want, sizeof want) == 0);
    i32vec_free(&ids);
    tokenizer_free(t);
}

TEST(long_texts_without_spaces_are_not_quadratic)
{
    static const char *const specs[] = { byte_level, fallback };
    for (int k = 0; k < 2; k++) {
        tokenizer *t = NULL;
        REQUIRE_OK(make(specs[k], &t));
        size_t n = 1000000;
        char *s = mem_alloc(n);
        REQUIRE(s != NULL);
        memset(s, 'a', n);
        i32vec ids = {0};
        CHECK_OK(tokenizer_encode(t, s, n, false, &ids));
        CHECK_INT(ids.len, k == 0 ? n / 4 : n);
        i32vec_free(&ids);
        mem_free(s);
        tokenizer_free(t);
    }
}

TEST(bad_files_say_what_is_wrong)
{
    static const struct { const char *json; status st; const char *says; } bad[] = {
        { "[]", ST_INVALID, "wanted an object" },
        { "{}", ST_INVALID, "model is nothing" },
        { "{\"model\":{\"type\":\"RNN\"}}", ST_UNSUPPORTED, "RNN" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}", ST_INVALID, "model.vocab is a list" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"b\"},\"merges\":[]}}", ST_INVALID, "model.vocab[\"a\"]" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", ST_LIMIT, "model.vocab[\"a\"]" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999},\"merges\":[]}}", ST_LIMIT, "model.vocab[\"a\"]" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}}", ST_INVALID, "model.merges[0]" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"a\"]]}}", ST_INVALID, "model.merges[0]: token \"aa\"" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}", ST_UNSUPPORTED, "dropout" },
        { "{\"model\":{\"type\":\"Unigram\",\"unk_id\":7,\"vocab\":[[\"a\",0.0]]}}", ST_INVALID, "unk_id is 7" },
        { "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", ST_INVALID, "model.vocab[0]" },
        { "{\"normalizer\":{\"type\":\"Rot13\"}}", ST_UNSUPPORTED, "normalizer type \"Rot13\"" },
        { "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"!\"}}", ST_INVALID, "base64" },
        { "{\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"/////w==\"}}", ST_INVALID, "does not hold" },
        { "{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"(\"}}}", ST_INVALID, "pre_tokenizer.pattern: bad regular expression" },
        { "{\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Odd\",\"pattern\":{\"Regex\":\"a\"}}}", ST_INVALID, "behavior is \"Odd\"" },
        { "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}}", ST_INVALID, "wanted one character" },
        { "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}}", ST_INVALID, "post_processor: single[0]" },
        { "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"decoder\":{\"type\":\"X\"}}", ST_UNSUPPORTED, "decoder type \"X\"" },
        { "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}},\"added_tokens\":[{\"id\":1}]}", ST_INVALID, "added_tokens[0].content" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tokenizer *t = NULL;
        CHECK_ERR(make(bad[i].json, &t), bad[i].st, bad[i].says);
    }
}

static void write_file(const char *dir, const char *name, const char *text)
{
    char path[300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    REQUIRE(f != NULL);
    fputs(text, f);
    fclose(f);
}

static void remove_dir(const char *dir)
{
    char path[300];
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    unlink(path);
    rmdir(dir);
}

TEST(directories)
{
    char dir[] = "/tmp/systolic-tok-XXXXXX";
    REQUIRE(mkdtemp(dir) != NULL);
    tokenizer *t = NULL;
    CHECK_ERR(tokenizer_load_dir(dir, &t), ST_NOT_FOUND, "tokenizer.json");
    write_file(dir, "tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0 \"b\":1},\"merges\":[]}}");
    CHECK_ERR(tokenizer_load_dir(dir, &t), ST_INVALID, "model.vocab: wanted ','");
    write_file(dir, "tokenizer.json", "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}");
    CHECK_ERR(tokenizer_load_dir(dir, &t), ST_INVALID, "invalid JSON");
    write_file(dir, "tokenizer.json", "{ \"model\" : {\"merges\": [ [ \"\\u0061\", \"b\" ] ], \"type\":\"BPE\", \"vocab\" : { \"a\" : 0 , \"b\":1,\"ab\":2, \"\\ud83d\\ude00\\n\":3 } } }");
    write_file(dir, "tokenizer_config.json", "{\"model_max_length\":1000000000000000019884624838656,\"eos_token\":\"<e>\",\"bos_token\":{\"content\":\"<b>\"},"
                                             "\"added_tokens_decoder\":{\"5\":{\"content\":\"<y>\",\"special\":false},\"4\":{\"content\":\"<x>\",\"special\":true}}}");
    REQUIRE_OK(tokenizer_load_dir(dir, &t));
    CHECK_INT(tokenizer_token_id(t, "\xF0\x9F\x98\x80\n", 5), 3);
    CHECK_INT(tokenizer_token_id(t, "<x>", 3), 4);
    CHECK_INT(tokenizer_token_id(t, "<y>", 3), 5);
    CHECK_INT(tokenizer_token_id(t, "<b>", 3), 6);
    CHECK_INT(tokenizer_token_id(t, "<e>", 3), 7);
    CHECK(tokenizer_is_special(t, 4) && !tokenizer_is_special(t, 5) && tokenizer_is_special(t, 7));
    i32vec ids = {0};
    CHECK_OK(tokenizer_encode(t, "ab<e>b<y>", 9, true, &ids));
    static const int32_t want[] = { 2, 7, 1, 5 };
    CHECK(ids.len == 4 && memcmp(ids.data, want, sizeof want) == 0);
    i32vec_free(&ids);
    tokenizer_free(t);
    remove_dir(dir);
}

/* ---- allocation failure ---- */

static status all_of_it(const jv *spec)
{
    tokenizer *t = NULL;
    i32vec ids = {0};
    buf b = {0};
    detok *d = NULL;
    status st = tokenizer_new(spec, NULL, &t);
    if (st != ST_OK) return st;
    const char *text = "a ab\xE4\xBD\xA0<s> aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, e\xCC\x81 don't";
    TRY_OUT(tokenizer_encode(t, text, strlen(text), true, &ids));
    TRY_OUT(tokenizer_decode(t, ids.data, ids.len, false, &b));
    TRY_OUT(detok_new(t, NULL, 0, false, true, &d));
    for (size_t i = 0; i < ids.len && i < 12; i++) TRY_OUT(detok_push(d, ids.data[i], &b));
    TRY_OUT(detok_flush(d, &b));
    TRY_OUT(tokenizer_logprob_text(t, ids.data, ids.len - 1, &b));
    TRY_OUT(tokenizer_token_bytes(t, ids.data[0], &b));
out:
    detok_free(d);
    i32vec_free(&ids);
    buf_free(&b);
    tokenizer_free(t);
    return st;
}

static const char unigram[] = "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":\"Lowercase\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\\\\s{2,}\"},\"content\":\" \"}]},"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\w+|[^\\\\w\\\\s]\"},\"behavior\":\"Removed\",\"invert\":true},{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\"}]},"
    "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\"},\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"<unk>\",0.0],[\"\\u2581\",-1.0],[\"a\",-2.0],[\"ab\",-3.0]]}}";
static const char wordpiece[] = "{\"normalizer\":{\"type\":\"BertNormalizer\"},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},"
    "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":100,\"vocab\":{\"[UNK]\":0,\"a\":1,\"##b\":2,\"e\":3}}}";

TEST(out_of_memory_is_a_status)
{
    static const char *const specs[] = { byte_level, fallback, unigram, wordpiece };
    for (size_t k = 0; k < sizeof specs / sizeof *specs; k++) {
        jv *spec = NULL;
        REQUIRE_OK(jv_parse(specs[k], strlen(specs[k]), &spec));
        CHECK_OK(all_of_it(spec)); /* once: what libraries keep for good is allocated now */
        int64_t live = mem_live();
        for (uint64_t n = 1;; n++) {
            mem_fail_at(n);
            status st = all_of_it(spec);
            int hit = mem_failed();
            mem_fail_at(0);
            if (mem_live() != live || (hit && st != ST_NOMEM)) FAIL("spec %zu, allocation %llu: %s (%s), %lld blocks more", k, (unsigned long long)n, status_name(st), err_msg(), (long long)(mem_live() - live));
            if (!hit || test_cur_failed) break;
        }
        jv_free(spec);
    }
}

TEST_MAIN
