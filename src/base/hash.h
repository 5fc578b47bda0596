/* Hashes: SHA-256 (OpenSSL) for content and prefix-cache keys, XXH3 (xxhash) for speed, and random bytes. */
#ifndef SYSTOLIC_BASE_HASH_H
#define SYSTOLIC_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { SHA256_BYTES = 32 };

void sha256(const void *data, size_t n, uint8_t out[SHA256_BYTES]);

/* Streaming form, for files. */
typedef struct sha256_stream sha256_stream;
status sha256_open(sha256_stream **out) FALLIBLE;
void sha256_update(sha256_stream *s, const void *data, size_t n);
void sha256_close(sha256_stream *s, uint8_t out[SHA256_BYTES]); /* out may be NULL; frees s */

uint64_t hash64(const void *data, size_t n);              /* XXH3 64 */

/* One step of splitmix64 (Steele, Lea, Flood 2014): neighbouring numbers get unrelated ones. A stream adds HASH_GOLDEN to its state after each. */
#define HASH_GOLDEN 0x9E3779B97F4A7C15u
static inline uint64_t hash_mix64(uint64_t x)
{
    x += HASH_GOLDEN;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

void hash128(const void *data, size_t n, uint8_t out[16]); /* XXH3 128, canonical (big-endian) */
void hash_hex(const uint8_t *in, size_t n, char *out);    /* 2n lower-case digits and a NUL */
void random_bytes(void *dst, size_t n);                   /* from the OS; never fails quietly (aborts) */
void random_hex(char *dst, size_t n_chars);               /* n_chars digits and a NUL, for request ids */

#endif
