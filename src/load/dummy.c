#include "load/dummy.h"

#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/thread.h"

/* Xorshift in LANES independent streams, so that compilers turn one step into a few vector instructions; restarted
 * every BLOCK words from a hash of (key, block), so that a stream's quality does not depend on the tensor's length. */
enum { LANES = 16, BLOCK = 4096 };

static const float SCALE = 1e-3f / 2147483648.0f; /* int32 -> [-1e-3, 1e-3) */

static void random_block(uint64_t key, uint64_t block, uint32_t w[BLOCK])
{
    uint32_t s[LANES];
    for (unsigned l = 0; l < LANES; l++) s[l] = (uint32_t)hash_mix64(hash_mix64(key ^ block) + l) | 1; /* xorshift must not start at 0 */
    for (size_t i = 0; i < BLOCK; i += LANES) {
        for (unsigned l = 0; l < LANES; l++) {
            uint32_t x = s[l];
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            s[l] = x;
            w[i + l] = x * 0x9E3779B1u; /* breaks the linear relation between neighbours of a stream */
        }
    }
}

/* A block in its final form; two 16-bit values share a word, the first in the low half (little-endian). */
typedef union values { float f32[BLOCK]; double f64[BLOCK]; uint32_t word[BLOCK]; } values;

static void to_f32(const uint32_t w[BLOCK], float v[BLOCK])
{
    for (size_t i = 0; i < BLOCK; i++) v[i] = (float)(int32_t)w[i] * SCALE;
}

static void to_f64(const uint32_t w[BLOCK], double v[BLOCK])
{
    for (size_t i = 0; i < BLOCK; i++) v[i] = (double)(int32_t)w[i] * (double)SCALE;
}

static inline uint32_t bits_of(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

/* 16 random bits are plenty for 8 bits of mantissa, so one word makes two values. Adding half a unit and cutting rounds
 * to nearest; what ties do does not matter, and this stays in vector registers. */
static void to_bf16(const uint32_t w[BLOCK], uint32_t pairs[BLOCK])
{
    for (size_t i = 0; i < BLOCK; i++) {
        uint32_t low = bits_of((float)(int32_t)(w[i] << 16) * SCALE), high = bits_of((float)(int32_t)(w[i] & 0xFFFF0000u) * SCALE);
        pairs[i] = (low + 0x8000u) >> 16 | ((high + 0x8000u) & 0xFFFF0000u);
    }
}

/* |f| < 2^-9 to binary16 without branches: the subnormal form comes from adding 0.5, whose unit is 2^-24, the normal
 * one from moving the exponent. */
static inline uint32_t small_f16(float f)
{
    uint32_t u = bits_of(f), mag = u & 0x7FFFFFFFu;
    float a;
    memcpy(&a, &mag, 4);
    uint32_t subnormal = bits_of(a + 0.5f) - 0x3F000000u, normal = (mag + 0x1000u - 0x38000000u) >> 13;
    uint32_t pick = (mag - 0x38800000u) & 0x80000000u; /* top bit: mag is below the smallest normal */
    pick = 0u - (pick >> 31);
    return (subnormal & pick) | (normal & ~pick) | (u >> 16 & 0x8000u);
}

static void to_f16(const uint32_t w[BLOCK], uint32_t pairs[BLOCK])
{
    for (size_t i = 0; i < BLOCK; i++) {
        uint32_t low = small_f16((float)(int32_t)(w[i] << 16) * SCALE), high = small_f16((float)(int32_t)(w[i] & 0xFFFF0000u) * SCALE);
        pairs[i] = low | high << 16;
    }
}

/* One block of random words as values of `type`; returns how many bytes of `v` are good. */
static size_t convert(dtype type, const uint32_t w[BLOCK], values *v)
{
    uint32_t keep = 0xFFFFFFFFu, base = 0; /* of every byte */
    switch (type) {
    case DT_F32: to_f32(w, v->f32); return sizeof v->f32;
    case DT_F64: to_f64(w, v->f64); return sizeof v->f64;
    case DT_BF16: to_bf16(w, v->word); return sizeof v->word;
    case DT_F16: to_f16(w, v->word); return sizeof v->word;
    case DT_F8E4M3: case DT_F8E5M2: keep = 0x9F9F9F9Fu; break; /* the two top exponent bits are 0 */
    case DT_F8E8M0: keep = 0x03030303u, base = 0x77777777u; break;
    case DT_BOOL: keep = 0x01010101u; break;
    case DT_I64: case DT_I32: case DT_I16: case DT_I8: case DT_U64: case DT_U32: case DT_U16: case DT_U8:
    case DT_I4: case DT_F4E2M1: case DT_COUNT: break;
    }
    for (size_t i = 0; i < BLOCK; i++) v->word[i] = (w[i] & keep) + base;
    return sizeof v->word;
}

/* A tensor's blocks, shared out among threads. */
typedef struct job { uint8_t *dst; dtype type; size_t bytes; uint64_t key; } job;
typedef struct share { const job *of; uint64_t first, end; pthread_t thread; } share;

static void *fill(void *arg)
{
    const share *s = arg;
    const job *j = s->of;
    _Alignas(64) uint32_t words[BLOCK];
    _Alignas(64) values v;
    for (uint64_t block = s->first; block < s->end; block++) {
        random_block(j->key, block, words);
        size_t made = convert(j->type, words, &v), at = block * made;
        memcpy(j->dst + at, &v, j->bytes - at < made ? j->bytes - at : made);
    }
    return NULL;
}

enum { MOST_THREADS = 16, LEAST_SHARE = 4 << 20 };    /* bytes worth a thread */

void dummy_fill(void *dst, dtype type, size_t n, const char *name, uint64_t seed)
{
    job j = { dst, type, dtype_bytes(type, n), hash_mix64(seed) ^ hash64(name, strlen(name)) };
    size_t block_bytes = type == DT_F64 ? sizeof(double) * BLOCK : sizeof(uint32_t) * BLOCK;
    uint64_t blocks = (j.bytes + block_bytes - 1) / block_bytes;
    long cores = sysconf(_SC_NPROCESSORS_ONLN), want = (long)(j.bytes / LEAST_SHARE), most = cores < MOST_THREADS ? cores : MOST_THREADS;
    int shares = (int)(want < 1 ? 1 : want < most ? want : most), started = 1;
    share s[MOST_THREADS];
    for (int i = 0; i < shares; i++) s[i] = (share){ .of = &j, .first = blocks * (uint64_t)i / (uint64_t)shares, .end = blocks * (uint64_t)(i + 1) / (uint64_t)shares };
    while (started < shares && thread_start(&s[started].thread, "dummy", fill, &s[started]) == ST_OK) started++;
    if (started < shares) err_clear();
    fill(&s[0]);
    for (int i = started; i < shares; i++) fill(&s[i]);
    for (int i = 1; i < started; i++) pthread_join(s[i].thread, NULL);
}

status dummy_tensor(const char *name, dtype type, int rank, int64_t rows, int64_t cols, uint64_t seed, weight_data *out)
{
    size_t n = (size_t)(rows * (rank > 1 ? cols : 1));
    weight_data d = { .type = type, .rank = rank, .shape = { rows, rank > 1 ? cols : 0 } };
    d.values = d.owned = mem_alloc(dtype_bytes(type, n));
    if (!d.owned) return err_nomem();
    dummy_fill(d.owned, type, n, name, seed);
    *out = d;
    return ST_OK;
}

void dummy_release(const weight_source *s, const char *name, weight_data *w)
{
    (void)s, (void)name;
    mem_free(w->owned);
    *w = (weight_data){ 0 };
}
