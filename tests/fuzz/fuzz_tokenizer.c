// layer: text
/* The first byte chooses: a whole tokenizer.json of arbitrary bytes, a regex with a text, or a text for a fixed tokenizer
 * of each kind. Whatever comes out must decode to valid UTF-8, streamed or at once. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "text/tok_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const specs[] = {
    "{\"added_tokens\":[{\"id\":0,\"content\":\"<s>\",\"special\":true,\"lstrip\":true,\"rstrip\":true}],\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<s>\",\"vocab\":{\"<s>\":0,\"a\":1,\"b\":2,\"ab\":3,\"\\u0120\":4,\"\\u00e4\":5},\"merges\":[[\"a\",\"b\"]]}}",
    "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":\"Prepend\",\"prepend\":\"\\u2581\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\\u2581\"}]},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"u\",\"byte_fallback\":true,\"fuse_unk\":true,\"vocab\":{\"u\":0,\"\\u2581\":1,\"a\":2,\"\\u2581a\":3,\"<0xE4>\":4,\"<0xBD>\":5,\"<0xA0>\":6},\"merges\":[\"\\u2581 a\"]}}",
    "{\"normalizer\":{\"type\":\"BertNormalizer\"},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"decoder\":{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true},"
    "\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"u\",\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":10,\"vocab\":{\"u\":0,\"a\":1,\"##b\":2,\"'\":3}}}",
    "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\",\"prepend_scheme\":\"first\"},\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\\u2581\"},"
    "\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[[\"u\",0],[\"\\u2581\",-1],[\"a\",-2],[\"ab\",-2.5]]}}",
};

static void use(const tokenizer *t, const char *s, size_t n)
{
    i32vec ids = {0};
    buf b = {0};
    detok *d = NULL;
    if (tokenizer_encode(t, s, n, true, &ids) == ST_OK) {
        if (tokenizer_decode(t, ids.data, ids.len, false, &b) == ST_OK && !utf8_valid(buf_cstr(&b), b.len)) abort();
        buf_clear(&b);
        if (detok_new(t, NULL, 0, true, true, &d) == ST_OK) {
            for (size_t i = 0; i < ids.len; i++)
                if (detok_push(d, ids.data[i], &b) == ST_OK && !utf8_valid(buf_cstr(&b), b.len)) abort();
            if (detok_flush(d, &b) == ST_OK && !utf8_valid(buf_cstr(&b), b.len)) abort();
        }
    }
    detok_free(d);
    i32vec_free(&ids);
    buf_free(&b);
}

static status on_entry(void *arg, const char *s, size_t n, int64_t id, double score)
{
    (void)arg; (void)id; (void)score;
    if (!utf8_valid(s, n)) abort();
    return ST_OK;
}

static status on_merge(void *arg, const char *a, size_t na, const char *b, size_t nb)
{
    (void)arg;
    if (!utf8_valid(a, na) || (b && !utf8_valid(b, nb))) abort();
    return ST_OK;
}

static void whole_file(const char *s, size_t n)
{
    /* Both readers: in place and from values. */
    model_source src = {0};
    buf rest = {0};
    jv *spec = NULL;
    tokenizer *t = NULL;
    status st = source_split(s, n, &src, &rest);
    if (st == ST_OK && src.vocab) st = source_vocab(src.vocab, src.vocab_end, on_entry, NULL);
    if (st == ST_OK && src.merges) st = source_merges(src.merges, src.merges_end, on_merge, NULL);
    buf_free(&rest);
    if (jv_parse(s, n, &spec) == ST_OK && tokenizer_new(spec, NULL, &t) == ST_OK) use(t, "a <s>b\xE4\xBD\xA0 12", 12);
    tokenizer_free(t);
    jv_free(spec);
}

static void a_regex(const char *s, size_t n)
{
    size_t cut = n / 2;
    regex *re = NULL;
    regex_scratch *x = NULL;
    uni_init();
    if (utf8_valid(s, cut) && utf8_valid(s + cut, n - cut) && regex_new(s, cut, &re) == ST_OK && regex_scratch_new(&x) == ST_OK) {
        regex_iter it = {0};
        bool found = true;
        size_t from, to;
        while (found && regex_next(re, x, s + cut, n - cut, &it, &found, &from, &to) == ST_OK)
            if (found && (from > to || to > n - cut)) abort();
    }
    regex_scratch_free(x);
    regex_free(re);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static tokenizer *fixed[4];
    if (size == 0) return 0;
    /* The matchers may read up to the end and no further. */
    unsigned k = data[0] % 6;
    char *s = malloc(k == 4 || size == 1 ? size : size - 1); /* a file's text has a NUL behind it */
    if (!s) return 0;
    memcpy(s, data + 1, size - 1);
    if (k == 4) s[size - 1] = 0;
    if (k == 4) whole_file(s, size - 1);
    else if (k == 5) a_regex(s, size - 1);
    else {
        jv *spec = NULL;
        if (!fixed[k] && jv_parse(specs[k], strlen(specs[k]), &spec) == ST_OK && tokenizer_new(spec, NULL, &fixed[k]) != ST_OK) abort();
        jv_free(spec);
        use(fixed[k], s, size - 1);
    }
    free(s);
    return 0;
}
