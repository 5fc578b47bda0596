#include "engine/kv.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"

/* prev and next link the free queue; the null block is its sentinel, so an empty queue is block 0 linked to itself. */
typedef struct kv_block {
    int32_t refs;
    int32_t prev, next;
    int32_t chain;      /* next block in the hash bucket, 0 = end */
    bool hashed;
    int16_t group;
    block_hash hash;
} kv_block;

struct kv {
    kv_block *blocks;
    int32_t n_blocks, n_free;
    int32_t *buckets;   /* first block of each chain, 0 = none */
    uint32_t mask;
};

status kv_new(int32_t n_blocks, kv **out)
{
    if (n_blocks < 2) return err_set(ST_INVALID, "a KV cache needs at least 2 blocks (one is reserved), got %d", n_blocks);
    kv *k = mem_calloc(1, sizeof *k);
    if (!k) return err_nomem();
    uint32_t n_buckets = 16;
    while (n_buckets < (uint32_t)n_blocks) n_buckets *= 2;
    k->mask = n_buckets - 1;
    k->n_blocks = n_blocks;
    k->blocks = mem_calloc((size_t)n_blocks, sizeof *k->blocks);
    k->buckets = mem_calloc(n_buckets, sizeof *k->buckets);
    if (!k->blocks || !k->buckets) {
        kv_free(k);
        return err_nomem();
    }
    for (int32_t i = 0; i < n_blocks; i++) {
        k->blocks[i].next = i + 1 < n_blocks ? i + 1 : 0;
        k->blocks[i].prev = i > 0 ? i - 1 : n_blocks - 1;
    }
    k->n_free = n_blocks - 1;
    *out = k;
    return ST_OK;
}

void kv_free(kv *k)
{
    if (!k) return;
    mem_free(k->blocks);
    mem_free(k->buckets);
    mem_free(k);
}

int32_t kv_n_blocks(const kv *k) { return k->n_blocks - 1; }
int32_t kv_n_free(const kv *k) { return k->n_free; }
int32_t kv_refs(const kv *k, int32_t block) { return k->blocks[block].refs; }

/* The digest is uniform already: four of its bytes choose the bucket, another one for each group. */
static int32_t *bucket_of(const kv *k, const block_hash *h, int group)
{
    uint32_t x;
    memcpy(&x, h->bytes, sizeof x);
    return &k->buckets[(x + (uint32_t)group * 0x9E3779B1u) & k->mask];
}

static void unlink_free(kv *k, int32_t b)
{
    kv_block *x = &k->blocks[b];
    k->blocks[x->prev].next = x->next;
    k->blocks[x->next].prev = x->prev;
    x->prev = x->next = 0;
    k->n_free--;
}

static void append_free(kv *k, int32_t b)
{
    kv_block *x = &k->blocks[b], *head = &k->blocks[0];
    x->prev = head->prev;
    x->next = 0;
    k->blocks[head->prev].next = b;
    head->prev = b;
    k->n_free++;
}

static void prepend_free(kv *k, int32_t b)
{
    kv_block *x = &k->blocks[b], *head = &k->blocks[0];
    x->prev = 0;
    x->next = head->next;
    k->blocks[head->next].prev = b;
    head->next = b;
    k->n_free++;
}

static void forget(kv *k, int32_t b)
{
    kv_block *x = &k->blocks[b];
    if (!x->hashed) return;
    int32_t *at = bucket_of(k, &x->hash, x->group);
    while (*at != b) at = &k->blocks[*at].chain;
    *at = x->chain;
    x->chain = 0;
    x->hashed = false;
}

bool kv_take(kv *k, int32_t n, int32_t *out)
{
    if (n > k->n_free) return false;
    for (int32_t i = 0; i < n; i++) {
        int32_t b = k->blocks[0].next;
        unlink_free(k, b);
        forget(k, b);
        k->blocks[b].refs = 1;
        out[i] = b;
    }
    return true;
}

void kv_ref(kv *k, int32_t block)
{
    assert(block > 0 && block < k->n_blocks);
    if (k->blocks[block].refs++ == 0) unlink_free(k, block);
}

void kv_release(kv *k, const int32_t *blocks, int32_t n)
{
    for (int32_t i = n - 1; i >= 0; i--) {
        int32_t b = blocks[i];
        if (!b) continue;
        assert(b > 0 && b < k->n_blocks && k->blocks[b].refs > 0);
        if (--k->blocks[b].refs > 0) continue;
        if (k->blocks[b].hashed) append_free(k, b);
        else prepend_free(k, b);
    }
}

int32_t kv_find(const kv *k, const block_hash *h, int group)
{
    int32_t b = *bucket_of(k, h, group);
    while (b && (k->blocks[b].group != group || memcmp(&k->blocks[b].hash, h, sizeof *h) != 0)) b = k->blocks[b].chain;
    return b;
}

void kv_register(kv *k, int32_t block, const block_hash *h, int group)
{
    kv_block *x = &k->blocks[block];
    assert(block > 0 && block < k->n_blocks && x->refs > 0);
    if (x->hashed || kv_find(k, h, group)) return;
    int32_t *at = bucket_of(k, h, group);
    x->hash = *h;
    x->group = (int16_t)group;
    x->hashed = true;
    x->chain = *at;
    *at = block;
}

bool kv_reset(kv *k)
{
    bool all = true;
    for (int32_t b = 1; b < k->n_blocks; b++) {
        if (!k->blocks[b].hashed) continue;
        if (k->blocks[b].refs == 0) forget(k, b);
        else all = false;
    }
    return all;
}

static status check_queue(const kv *k)
{
    int32_t n = 0, last = 0;
    for (int32_t b = k->blocks[0].next; b != 0; last = b, b = k->blocks[b].next) {
        if (b < 0 || b >= k->n_blocks) return err_set(ST_INTERNAL, "KV free queue: block %d links to %d", last, b);
        if (k->blocks[b].prev != last) return err_set(ST_INTERNAL, "KV free queue: block %d points back to %d, expected %d", b, k->blocks[b].prev, last);
        if (k->blocks[b].refs != 0) return err_set(ST_INTERNAL, "KV free queue: block %d has %d users", b, k->blocks[b].refs);
        if (++n >= k->n_blocks) return err_set(ST_INTERNAL, "KV free queue has a cycle");
    }
    if (n != k->n_free) return err_set(ST_INTERNAL, "KV free queue holds %d blocks, the counter says %d", n, k->n_free);
    if (k->blocks[0].prev != last) return err_set(ST_INTERNAL, "KV free queue ends at %d, its head says %d", last, k->blocks[0].prev);
    return ST_OK;
}

status kv_check(const kv *k, bool idle)
{
    TRY(check_queue(k));
    int32_t n_used = 0, n_hashed = 0, n_chained = 0;
    for (int32_t b = 1; b < k->n_blocks; b++) {
        const kv_block *x = &k->blocks[b];
        if (x->refs < 0) return err_set(ST_INTERNAL, "KV block %d has %d users", b, x->refs);
        if (x->refs > 0 && idle) return err_set(ST_INTERNAL, "KV block %d has %d users while the engine is idle", b, x->refs);
        n_used += x->refs > 0;
        n_hashed += x->hashed;
        if (x->hashed && kv_find(k, &x->hash, x->group) != b)
            return err_set(ST_INTERNAL, "KV block %d is cached but its hash finds block %d", b, kv_find(k, &x->hash, x->group));
    }
    if (n_used + k->n_free != k->n_blocks - 1)
        return err_set(ST_INTERNAL, "KV blocks: %d used + %d free, expected %d in all", n_used, k->n_free, k->n_blocks - 1);
    for (uint32_t i = 0; i <= k->mask; i++)
        for (int32_t b = k->buckets[i]; b != 0 && n_chained <= n_hashed; b = k->blocks[b].chain) n_chained++;
    if (n_chained != n_hashed) return err_set(ST_INTERNAL, "KV map holds %d blocks, %d are cached", n_chained, n_hashed);
    return ST_OK;
}
