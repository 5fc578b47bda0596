/* How the CPU keeps K and V. The cache is an array of blocks; a block holds block_size tokens of one group's layers (graph/kv_groups.h). A layer's share
 * of a block, at `offset` in it:
 *   K  [kv_heads][head_dim][block_size]      transposed, so that lanes run over keys
 *      [kv_heads][block_size] float          DT_I8 only: a scale per token and head
 *   V  [kv_heads][block_size][dim_pad]       dim_pad: head_dim rounded up to 16, so that lanes run over the head
 *      [kv_heads][block_size] float          as for K
 *
 * A token's K is divided by one number before it is stored, its V by another (paged_attention's kv_scales): 1 where nothing is said.
 *
 * Types: DT_F32, DT_BF16, DT_F16 (rounded to nearest even); DT_F8E4M3, DT_F8E5M2 (the same: beyond the
 * largest number they saturate, as in vLLM); DT_I8: scale = greatest magnitude of the token's head / 127, number =
 * round(x * (127 / greatest magnitude)). A NaN makes a scale of DT_I8 NaN, and stays one in all other types but DT_F8E4M3, where
 * attention reads its code as 480: no number of that type is larger, and testing for it would cost more than all of the conversion.
 * A token's bytes depend on nothing but the token.
 *
 * A latent layer (multi-head latent attention) has no V of its own: values are the first numbers of K. Its share is
 *   K  [kv_heads][block_size][dim_pad], then the scales: as V above. */
#ifndef SYSTOLIC_OPS_KV_H
#define SYSTOLIC_OPS_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "graph/graph.h"

typedef struct kv_layer {
    dtype type;
    int block_size;
    int64_t heads, dim, dim_pad;
    bool latent;           /* K alone, token after token */
    int group;             /* whose page table and slots are meant */
    size_t offset;         /* of the layer in a block */
    size_t block_bytes;    /* of all layers of a group */
    char *base;            /* block 0 */
} kv_layer;

static inline bool kv_type_known(dtype t) { return t == DT_F32 || t == DT_BF16 || t == DT_F16 || t == DT_F8E4M3 || t == DT_F8E5M2 || t == DT_I8; }
static inline bool kv_type_scaled(dtype t) { return t == DT_I8; }
static inline size_t kv_round(size_t bytes) { return (bytes + 63) / 64 * 64; }
/* Bytes of one layer's K and V in a block, with their scales, which follow the numbers. */
static inline size_t kv_k_data(const kv_layer *kv) { return kv_round(dtype_bytes(kv->type, (size_t)(kv->heads * (kv->latent ? kv->dim_pad : kv->dim) * kv->block_size))); }
static inline size_t kv_v_data(const kv_layer *kv) { return kv->latent ? 0 : kv_round(dtype_bytes(kv->type, (size_t)(kv->heads * kv->dim_pad * kv->block_size))); }
static inline size_t kv_scale_bytes(const kv_layer *kv) { return kv_type_scaled(kv->type) ? kv_round((size_t)(kv->heads * kv->block_size) * sizeof(float)) : 0; }
static inline size_t kv_k_bytes(const kv_layer *kv) { return kv_k_data(kv) + kv_scale_bytes(kv); }
static inline size_t kv_v_bytes(const kv_layer *kv) { return kv->latent ? 0 : kv_v_data(kv) + kv_scale_bytes(kv); }
static inline size_t kv_layer_bytes(const kv_layer *kv) { return kv_k_bytes(kv) + kv_v_bytes(kv); }
static inline char *kv_block(const kv_layer *kv, int32_t block) { return kv->base + (size_t)block * kv->block_bytes + kv->offset; }
/* Scales of a layer's share of a block: [kv_heads][block_size]. */
static inline float *kv_k_scales(const kv_layer *kv, char *block) { return (float *)(void *)(block + kv_k_data(kv)); }
static inline float *kv_v_scales(const kv_layer *kv, char *block) { return (float *)(void *)(block + kv_k_bytes(kv) + kv_v_data(kv)); }

/* The layer of an attention node, at offset 0 of a block with nothing else. */
kv_layer kv_layer_of(const graph *g, const node *attention, dtype type, int block_size);

/* What keys and values are divided by when they are stored. */
typedef struct kv_scales { float k, v; } kv_scales;
#define KV_UNSCALED ((kv_scales){ 1, 1 })

/* Stores a token's K and V of one head, dim numbers each; v is not read of a latent layer, nor written by kv_fetch. */
void kv_store(const kv_layer *kv, int32_t slot, int64_t head, const float *k, const float *v, kv_scales by);
/* What kernels find there: what was stored, not multiplied by what it was divided by. */
void kv_fetch(const kv_layer *kv, int32_t slot, int64_t head, float *k, float *v);
/* The numbers that x[dim] / by becomes in a cache of this type. */
void kv_rounded(dtype type, const float *x, int64_t dim, float by, float *out);

#endif
