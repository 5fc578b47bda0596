/* Content hashes of KV blocks, a chain: block i = H(CBOR of (hash of block i-1, token ids, extra keys or null)).
 * The bytes are those of vLLM's sha256_cbor and xxhash_cbor, so that routers and other instances can share them. */
#ifndef SYSTOLIC_ENGINE_BLOCK_HASH_H
#define SYSTOLIC_ENGINE_BLOCK_HASH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/hash.h"
#include "engine/engine.h"

/* 32 bytes for SHA-256, 16 (the rest zero) for XXH3-128. */
typedef struct block_hash { uint8_t bytes[SHA256_BYTES]; } block_hash;

typedef struct block_hasher {
    hash_algo algo;
    uint8_t len;            /* bytes of a digest */
    uint8_t root_len;
    block_hash root;        /* parent of block 0 ("NONE_HASH") */
} block_hasher;

/* seed: the value of PYTHONHASHSEED, or NULL: then the root is vLLM's constant (SHA-256) or random (XXH3). */
status block_hasher_init(block_hasher *h, hash_algo algo, const char *seed, buf *scratch) FALLIBLE;

/* parent NULL = the first block, whose extra keys then hold the cache salt (NULL = none). rope_long: the block was computed with
 * the long rope table. scratch is overwritten and kept by the caller so that a steady state allocates nothing. */
status block_hasher_run(const block_hasher *h, const block_hash *parent, const int32_t *tokens, int n_tokens, const char *cache_salt,
                        bool rope_long, buf *scratch, block_hash *out) FALLIBLE;

/* The items of a prompt, and the place of the block's first token in it. */
typedef struct block_media { const request_media *items; int n, first; } block_media;
/* The same with the content of what stands in the block: the extra keys of each item that overlaps it are its hash in hexadecimal and its place relative to the block. */
status block_hasher_run_media(const block_hasher *h, const block_hash *parent, const int32_t *tokens, int n_tokens, const char *cache_salt, bool rope_long,
                              const block_media *media, buf *scratch, block_hash *out) FALLIBLE;

#endif
