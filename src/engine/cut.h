/* Truncation of a distribution (min_p, top_k, top_p) and selection of its best, without sorting the vocabulary. */
#ifndef SYSTOLIC_ENGINE_CUT_H
#define SYSTOLIC_ENGINE_CUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/row.h"

/* Memory for one row. vals and ids hold survivors; the caller may use them between calls. */
typedef struct cut_scratch {
    const row_ops *ops;
    size_t n;
    float *vals, *weights, *work;  /* [n] */
    int32_t *ids;                  /* [n] */
    uint64_t *keys, *spare;        /* [n] */
    double *bins;
} cut_scratch;

status cut_scratch_new(cut_scratch *c, const row_ops *ops, size_t n) FALLIBLE;
void cut_scratch_free(cut_scratch *c);

/* Kept are the values above v, and those equal to v whose index is at least id. */
typedef struct cut_point { float v; int32_t id; } cut_point;
bool cut_any(cut_point at);    /* false: everything is kept */

/* In vLLM's order: min_p against the largest probability; the k largest, all of those tied with the k-th; then top_p over what is left:
 * in ascending order (by value, then index), drop while the running sum is <= 1 - top_p; the largest stays. `max` is the row's
 * largest value, finite. min_p 0, top_k 0 and top_p 1 are off. */
cut_point cut_find(cut_scratch *c, const float *x, float max, float min_p, int top_k, float top_p);
/* Puts the survivors, by index, into c->vals and c->ids; returns how many. */
size_t cut_survivors(cut_scratch *c, const float *x, cut_point at);
/* Overwrites what is cut with -inf. */
void cut_apply(cut_scratch *c, float *x, cut_point at);
/* The k largest into c->ids, best first, ties by index; returns how many (fewer than k only if k > n or values are NaN). */
size_t cut_best(cut_scratch *c, const float *x, size_t k);

#endif
