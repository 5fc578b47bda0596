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
void hash128(const void *data, size_t n, uint8_t out[16]); /* XXH3 128, canonical (big-endian) */
void hash_hex(const uint8_t *in, size_t n, char *out);    /* 2n lower-case digits and a NUL */
void random_bytes(void *dst, size_t n);                   /* from the OS; never fails quietly (aborts) */
void random_hex(char *dst, size_t n_chars);               /* n_chars digits and a NUL, for request ids */

#endif
