#include "engine/block_hash.h"

#include <string.h>

/* CBOR (RFC 8949) in its canonical form: the shortest head for every value. */
enum { CBOR_UINT = 0, CBOR_NEGATIVE = 1, CBOR_BYTES = 2, CBOR_TEXT = 3, CBOR_ARRAY = 4, CBOR_NULL = 0xF6 };

static void cbor_head(buf *b, unsigned major, uint64_t n)
{
    uint8_t h[9];
    size_t len = n < 24 ? 0 : n <= 0xFF ? 1 : n <= 0xFFFF ? 2 : n <= 0xFFFFFFFFu ? 4 : 8;
    h[0] = (uint8_t)(major << 5 | (len == 0 ? (unsigned)n : len == 1 ? 24u : len == 2 ? 25u : len == 4 ? 26u : 27u));
    for (size_t i = 0; i < len; i++) h[1 + i] = (uint8_t)(n >> 8 * (len - 1 - i));
    buf_append(b, h, 1 + len);
}

static void cbor_bytes(buf *b, const void *data, size_t n)
{
    cbor_head(b, CBOR_BYTES, n);
    buf_append(b, data, n);
}

static void cbor_text(buf *b, const char *s)
{
    cbor_head(b, CBOR_TEXT, strlen(s));
    buf_append(b, s, strlen(s));
}

static void cbor_int(buf *b, int64_t v)
{
    if (v >= 0) cbor_head(b, CBOR_UINT, (uint64_t)v);
    else cbor_head(b, CBOR_NEGATIVE, (uint64_t)(-1 - v));
}

static bool is_xxhash(hash_algo a) { return a == HASH_XXHASH || a == HASH_XXHASH_CBOR; }

static status digest(const block_hasher *h, const buf *b, block_hash *out)
{
    TRY(buf_status(b));
    memset(out, 0, sizeof *out);
    if (is_xxhash(h->algo)) hash128(b->data, b->len, out->bytes);
    else sha256(b->data, b->len, out->bytes);
    return ST_OK;
}

status block_hasher_init(block_hasher *h, hash_algo algo, const char *seed, buf *scratch)
{
    block_hasher x = { .algo = algo, .len = is_xxhash(algo) ? 16 : SHA256_BYTES };
    if (!seed && is_xxhash(algo)) {
        random_bytes(x.root.bytes, sizeof x.root.bytes);
        x.root_len = sizeof x.root.bytes;
    } else {
        buf_clear(scratch);
        cbor_text(scratch, seed ? seed : "vllm-none-hash");
        TRY(digest(&x, scratch, &x.root));
        x.root_len = x.len;
    }
    *h = x;
    return ST_OK;
}

static bool overlaps(const block_media *m, int i, int n_tokens) { return m->items[i].from < m->first + n_tokens && m->items[i].to > m->first; }

static void media_keys(const block_media *m, int n_tokens, buf *scratch)
{
    char hex[2 * sizeof m->items->rows->hash + 1];
    for (int i = 0; i < m->n; i++) {
        if (!overlaps(m, i, n_tokens)) continue;
        hash_hex(m->items[i].rows->hash, sizeof m->items[i].rows->hash, hex);
        cbor_head(scratch, CBOR_ARRAY, 2);
        cbor_text(scratch, hex);
        cbor_int(scratch, m->items[i].from - m->first);
    }
}

status block_hasher_run(const block_hasher *h, const block_hash *parent, const int32_t *tokens, int n_tokens, const char *cache_salt,
                        bool rope_long, buf *scratch, block_hash *out)
{
    return block_hasher_run_media(h, parent, tokens, n_tokens, cache_salt, rope_long, &(block_media){ 0 }, scratch, out);
}

status block_hasher_run_media(const block_hasher *h, const block_hash *parent, const int32_t *tokens, int n_tokens, const char *cache_salt, bool rope_long,
                              const block_media *media, buf *scratch, block_hash *out)
{
    uint64_t n_media = 0;
    for (int i = 0; i < media->n; i++) n_media += overlaps(media, i, n_tokens);
    const char *salt = !parent && cache_salt && *cache_salt ? cache_salt : NULL; /* an empty salt is none, as in vLLM */
    buf_clear(scratch);
    cbor_head(scratch, CBOR_ARRAY, 3);
    if (parent) cbor_bytes(scratch, parent->bytes, h->len);
    else cbor_bytes(scratch, h->root.bytes, h->root_len);
    cbor_head(scratch, CBOR_ARRAY, (uint64_t)n_tokens);
    for (int i = 0; i < n_tokens; i++) cbor_int(scratch, tokens[i]);
    if (!salt && !rope_long && !n_media) {
        buf_char(scratch, (char)CBOR_NULL);
    } else {
        cbor_head(scratch, CBOR_ARRAY, n_media + (uint64_t)((salt != NULL) + rope_long));
        media_keys(media, n_tokens, scratch);
        if (salt) {
            cbor_head(scratch, CBOR_ARRAY, 2);
            cbor_text(scratch, "cache_salt");
            cbor_text(scratch, salt);
        }
        if (rope_long) {
            cbor_head(scratch, CBOR_ARRAY, 1);
            cbor_text(scratch, "rope_long");
        }
    }
    return digest(h, scratch, out);
}
