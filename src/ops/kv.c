#include "ops/kv.h"

#include <math.h>
#include <string.h>

#include "graph/kv_groups.h"

#include "ops/wide.h"

kv_layer kv_layer_of(const graph *g, const node *attention, dtype type, int block_size)
{
    kv_spec s = { 0 };
    kv_spec_of(g, attention, &s);
    kv_layer kv = { .type = type, .block_size = block_size, .heads = s.heads, .dim = s.dim, .dim_pad = (s.dim + 15) / 16 * 16, .latent = s.latent };
    kv.block_bytes = kv_layer_bytes(&kv);
    return kv;
}

/* The factor that takes x[n] / by to numbers of DT_I8, and through *scale the one that takes them back. */
static float int8_factor(const float *x, int64_t n, float by, float *scale)
{
    float most = 0;
    bool finite = true;
    for (int64_t i = 0; i < n; i++) {
        float a = fabsf(x[i] / by);
        finite &= isfinite(a) != 0;
        most = a > most ? a : most;
    }
    float factor = 127.0f / most;
    if (!finite) factor = 0, *scale = NAN;
    else if (!isfinite(factor)) factor = 0, *scale = 0; /* zeros, and what is next to them */
    else *scale = most / 127.0f;
    return factor;
}

static int8_t to_int8(float x, float factor) { return factor == 0 ? 0 : (int8_t)lrintf(x * factor); }

#define STORE(ctype, expr) \
    for (int64_t i = 0; i < n; i++) { ctype *p = (ctype *)to + i * step; *p = (expr); } break

/* f32_to_bf16 of eight at a time. */
WIDE_BODY store_bf16_body(const float *x, int64_t n, uint16_t *to, int64_t step)
{
    int64_t i = 0;
    for (; i + WIDE_LANES <= n; i += WIDE_LANES) {
        wide_bits u = (wide_bits)WIDE_FROM(x + i), nan = (u & 0x7FFFFFFF) > 0x7F800000;
        typedef uint32_t wide_word __attribute__((vector_size(sizeof(wide_bits))));
        wide_word w = (wide_word)u, even = (w + 0x7FFFu + (w >> 16 & 1)) >> 16, quiet = w >> 16 | 0x40;
        typedef uint16_t half __attribute__((vector_size(WIDE_LANES * 2), aligned(2), may_alias));
        half h = __builtin_convertvector((even & ~(wide_word)nan) | (quiet & (wide_word)nan), half);
        if (step == 1) *(half *)(void *)(to + i) = h;
        else for (int l = 0; l < WIDE_LANES; l++) to[(i + l) * step] = h[l];
    }
    for (; i < n; i++) to[i * step] = f32_to_bf16(x[i]);
}
WIDE_TWICE(store_bf16, (const float *x, int64_t n, uint16_t *to, int64_t step), (x, n, to, step))

/* x[n] / by to every step-th element; *scale is set for types that have one. */
static void store(dtype type, const float *x, int64_t n, float by, void *to, int64_t step, float *scale)
{
    float factor = type == DT_I8 ? int8_factor(x, n, by, scale) : 1;
    switch (type) {
    case DT_BF16:
        if (by == 1) {
            store_bf16(x, n, to, step);
            break;
        }
        STORE(uint16_t, f32_to_bf16(x[i] / by));
    case DT_F16: STORE(uint16_t, f32_to_f16(x[i] / by));
    case DT_F8E4M3: STORE(uint8_t, f32_to_f8e4m3(x[i] / by));
    case DT_F8E5M2: STORE(uint8_t, f32_to_f8e5m2(x[i] / by));
    case DT_I8: STORE(int8_t, to_int8(x[i] / by, factor));
    default: STORE(float, x[i] / by);
    }
}

typedef struct token { char *k, *v; float *ks, *vs; } token;

static token find(const kv_layer *kv, int32_t slot, int64_t head)
{
    int64_t bs = kv->block_size, off = slot % bs;
    char *block = kv_block(kv, (int32_t)(slot / bs));
    size_t size = dtype_bytes(kv->type, 1);
    bool scaled = kv_type_scaled(kv->type);
    if (kv->latent) return (token){ .k = block + (size_t)((head * bs + off) * kv->dim_pad) * size, .ks = scaled ? kv_k_scales(kv, block) + head * bs + off : NULL };
    return (token){ block + (size_t)(head * kv->dim * bs + off) * size, block + kv_k_bytes(kv) + (size_t)((head * bs + off) * kv->dim_pad) * size,
                    scaled ? kv_k_scales(kv, block) + head * bs + off : NULL, scaled ? kv_v_scales(kv, block) + head * bs + off : NULL };
}

void kv_store(const kv_layer *kv, int32_t slot, int64_t head, const float *k, const float *v, kv_scales by)
{
    token t = find(kv, slot, head);
    size_t size = dtype_bytes(kv->type, 1);
    if (kv->latent) {
        store(kv->type, k, kv->dim, by.k, t.k, 1, t.ks);
        memset(t.k + (size_t)kv->dim * size, 0, (size_t)(kv->dim_pad - kv->dim) * size);
        return;
    }
    store(kv->type, k, kv->dim, by.k, t.k, kv->block_size, t.ks);
    store(kv->type, v, kv->dim, by.v, t.v, 1, t.vs);
    memset(t.v + (size_t)kv->dim * size, 0, (size_t)(kv->dim_pad - kv->dim) * size);
}

void kv_fetch(const kv_layer *kv, int32_t slot, int64_t head, float *k, float *v)
{
    token t = find(kv, slot, head);
    size_t size = dtype_bytes(kv->type, 1);
    for (int64_t i = 0; i < kv->dim; i++) {
        dtype_to_f32(kv->type, t.k + (size_t)(kv->latent ? i : i * kv->block_size) * size, &k[i], 1);
        if (t.ks) k[i] *= *t.ks;
        if (kv->latent) continue;
        dtype_to_f32(kv->type, t.v + (size_t)i * size, &v[i], 1);
        if (t.ks) v[i] *= *t.vs;
    }
}

void kv_rounded(dtype type, const float *x, int64_t dim, float by, float *out)
{
    float scale = 1, factor = type == DT_I8 ? int8_factor(x, dim, by, &scale) : 1;
    for (int64_t i = 0; i < dim; i++) {
        uint32_t bits = 0;
        if (type == DT_I8) {
            out[i] = (float)to_int8(x[i] / by, factor) * scale;
            continue;
        }
        store(type, &x[i], 1, by, &bits, 1, NULL);
        dtype_to_f32(type, &bits, &out[i], 1);
    }
}
