/* How the CPU keeps K and V. The cache is an array of blocks; a block holds block_size tokens of every layer. A layer's share
 * of a block, at `offset` in it:
 *   K  [kv_heads][head_dim][block_size]      transposed, so that lanes run over keys
 *   V  [kv_heads][block_size][dim_pad]       dim_pad: head_dim rounded up to 16, so that lanes run over the head */
#ifndef SYSTOLIC_OPS_KV_H
#define SYSTOLIC_OPS_KV_H

#include <stddef.h>
#include <stdint.h>

#include "graph/dtype.h"

typedef struct kv_layer {
    dtype type;
    int block_size;
    int64_t heads, dim, dim_pad;
    size_t offset;         /* of the layer in a block */
    size_t block_bytes;    /* of all layers */
    char *base;            /* block 0 */
} kv_layer;

static inline size_t kv_round(size_t bytes) { return (bytes + 63) / 64 * 64; }
static inline size_t kv_k_bytes(const kv_layer *kv) { return kv_round(dtype_bytes(kv->type, (size_t)(kv->heads * kv->dim * kv->block_size))); }
static inline size_t kv_v_bytes(const kv_layer *kv) { return kv_round(dtype_bytes(kv->type, (size_t)(kv->heads * kv->dim_pad * kv->block_size))); }
static inline size_t kv_layer_bytes(const kv_layer *kv) { return kv_k_bytes(kv) + kv_v_bytes(kv); }
static inline char *kv_block(const kv_layer *kv, int32_t block) { return kv->base + (size_t)block * kv->block_bytes + kv->offset; }

#endif
