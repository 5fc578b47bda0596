/* How the scales of an int8 KV cache lie beside its numbers: float32, one for each token and head of K, and of V, in an array of their
 * own, [layers * pages, rows, 1, lanes]. A page's scales are one piece of memory, so a kernel fetches them with one copy, and tokens run
 * along lanes, as they do in scores and weights, which the scales multiply.
 *
 * A page's scales are `lines` of page * per numbers, all one behind the other. A kernel multiplies the queries by `per` heads at once where
 * heads are rows of the cache (four numbers of 8 bits share a word), and the columns of such a product are token, head, token, head, ...:
 * so are a line's numbers. Where heads lie side by side in one row, a head is a line. Lines of K come first, then as many of V; a latent
 * cache has K alone. What is beyond the last line, or of heads that there are not, is 0. */
#ifndef SYSTOLIC_TPU_KV_SCALE_SHAPE_H
#define SYSTOLIC_TPU_KV_SCALE_SHAPE_H

#include <stdbool.h>
#include <stdint.h>

enum { KV_SCALE_LANES = 128, KV_SCALE_HEADS = 4 };

typedef struct kv_scale_shape {
    int64_t lines, per;
    int64_t line;                   /* numbers of one: page * per */
    int64_t rows, lanes;            /* of a page in the array */
} kv_scale_shape;

/* Whether heads lie side by side in one row of the cache, rather than being rows. narrow: K and V of a head share 128 lanes. */
static inline bool kv_side_by_side(int64_t kv_heads, bool narrow) { return (narrow ? kv_heads : 2 * kv_heads) <= 4; }

static inline kv_scale_shape kv_scale_shape_of(int64_t kv_heads, bool narrow, bool latent, int64_t page)
{
    kv_scale_shape s = { .lines = latent ? kv_heads : 2 * kv_heads, .per = 1 };
    if (!latent && !kv_side_by_side(kv_heads, narrow)) {
        s.per = KV_SCALE_HEADS;
        s.lines = 2 * ((kv_heads + KV_SCALE_HEADS - 1) / KV_SCALE_HEADS);
    }
    s.line = page * s.per;
    s.lanes = s.line % KV_SCALE_LANES ? KV_SCALE_LANES : s.line;
    s.rows = (s.lines * s.line + s.lanes - 1) / s.lanes;
    return s;
}

static inline int64_t kv_scale_page_bytes(const kv_scale_shape *s) { return 4 * s->rows * s->lanes; }

/* Whether kernels can have a line: it is whole rows of 128 lanes, or, being one head's, a whole part of one. */
static inline bool kv_scale_lines_fit(const kv_scale_shape *s) { return s->line % KV_SCALE_LANES == 0 || (s->per == 1 && KV_SCALE_LANES % s->line == 0); }

/* A number's place in its page: row * lanes + lane. */
static inline int64_t kv_scale_place(const kv_scale_shape *s, int64_t head, bool of_values, int64_t slot)
{
    return (head / s->per + (of_values ? s->lines / 2 : 0)) * s->line + slot * s->per + head % s->per;
}

#endif
