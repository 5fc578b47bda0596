/* KV blocks: integer ids with reference counts, a free queue in least-recently-used order and a map from content hash and group of
 * layers (graph/kv_groups.h) to block: the same tokens fill one block in each group.
 *
 * Invariants (kv_check proves them): block 0 is the null block and never handed out; a block is in the free queue exactly when
 * its count is 0; a block with a hash keeps it, and its contents, until it is handed out again. Nothing here allocates after
 * kv_new. One thread (the scheduler's). */
#ifndef SYSTOLIC_ENGINE_KV_H
#define SYSTOLIC_ENGINE_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/block_hash.h"

typedef struct kv kv;

/* n_blocks counts the null block, so n_blocks - 1 can be used; at least 2. */
status kv_new(int32_t n_blocks, kv **out) FALLIBLE;
void kv_free(kv *k);
int32_t kv_n_blocks(const kv *k);   /* usable ones */
int32_t kv_n_free(const kv *k);     /* with count 0, cached or not */

/* Hands out n blocks with count 1, from the queue's front, forgetting what they cached. All or nothing; false = too few. */
bool kv_take(kv *k, int32_t n, int32_t *out);
/* One more user of a block (a prefix hit). */
void kv_ref(kv *k, int32_t block);
int32_t kv_refs(const kv *k, int32_t block);
/* One user less of each that is not the null block; those left without go to the queue's end in reverse order, so that a sequence's tail is evicted first.
 * Blocks that cache nothing go to its front: they are taken again before memory that was never touched is. */
void kv_release(kv *k, const int32_t *blocks, int32_t n);

/* A group's block with this content, or 0. */
int32_t kv_find(const kv *k, const block_hash *h, int group);
/* Says what a used block holds. Does nothing if the block or the content is known already. */
void kv_register(kv *k, int32_t block, const block_hash *h, int group);
/* Forgets the contents of all unused blocks; true if no used block is cached either. */
bool kv_reset(kv *k);

/* ST_INTERNAL with what is wrong. `idle`: no block may be in use. */
status kv_check(const kv *k, bool idle) FALLIBLE;

#endif
