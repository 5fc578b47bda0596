#include "base/hash.h"

#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <sys/random.h>
#include <xxhash.h>

#include "base/mem.h"

struct sha256_stream { EVP_MD_CTX *ctx; };

void sha256(const void *data, size_t n, uint8_t out[SHA256_BYTES]) { SHA256(data, n, out); }

status sha256_open(sha256_stream **out)
{
    sha256_stream *s = mem_alloc(sizeof *s);
    if (!s) return err_nomem();
    s->ctx = EVP_MD_CTX_new();
    if (!s->ctx || EVP_DigestInit_ex(s->ctx, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(s->ctx);
        mem_free(s);
        return err_nomem();
    }
    *out = s;
    return ST_OK;
}

void sha256_update(sha256_stream *s, const void *data, size_t n) { EVP_DigestUpdate(s->ctx, data, n); }

void sha256_close(sha256_stream *s, uint8_t out[SHA256_BYTES])
{
    if (!s) return;
    if (out) EVP_DigestFinal_ex(s->ctx, out, NULL);
    EVP_MD_CTX_free(s->ctx);
    mem_free(s);
}

uint64_t hash64(const void *data, size_t n) { return XXH3_64bits(data, n); }

void hash128(const void *data, size_t n, uint8_t out[16])
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits(data, n));
    for (int i = 0; i < 16; i++) out[i] = c.digest[i];
}

void hash_hex(const uint8_t *in, size_t n, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = digits[in[i] >> 4];
        out[2 * i + 1] = digits[in[i] & 15];
    }
    out[2 * n] = 0;
}

void random_bytes(void *dst, size_t n)
{
    unsigned char *p = dst;
    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);
        if (got <= 0) abort(); /* no entropy source: nothing sensible can follow */
        p += got;
        n -= (size_t)got;
    }
}

void random_hex(char *dst, size_t n_chars)
{
    uint8_t raw[32];
    char hex[65];
    for (size_t done = 0; done < n_chars;) {
        random_bytes(raw, sizeof raw);
        hash_hex(raw, sizeof raw, hex);
        for (size_t i = 0; i < 64 && done < n_chars; i++) dst[done++] = hex[i];
    }
    dst[n_chars] = 0;
}
