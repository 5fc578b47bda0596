/* Passes over a row of logits: the parts of sampling that touch the whole vocabulary. Compiled once per instruction set from
 * row_impl.h; all versions compute the same bits (eight accumulators, no contraction), so a token never depends on the machine. */
#ifndef SYSTOLIC_ENGINE_ROW_H
#define SYSTOLIC_ENGINE_ROW_H

#include <stddef.h>
#include <stdint.h>

enum { ROW_GROUPS_MAX = 8192 };

typedef struct row_ops {
    const char *name;
    /* Largest value (-inf when empty or all are NaN). */
    float (*max)(const float *x, size_t n);
    /* Lowest index of the largest value; 0 when there is none. */
    size_t (*argmax)(const float *x, size_t n);
    /* x /= by; returns the largest value. */
    float (*divide)(float *x, size_t n, float by);
    /* x = x - a - b. */
    void (*shift)(float *x, size_t n, float a, float b);
    /* x = -inf where x < v. */
    void (*ban_below)(float *x, size_t n, float v);
    /* Sum of exp(x - max). */
    double (*sum_exp)(const float *x, size_t n, float max);
    /* out = exp(x - max); returns the sum. */
    double (*exps)(const float *x, size_t n, float max, float *out);
    /* How many x >= v. */
    size_t (*count_ge)(const float *x, size_t n, float v);
    /* Values >= v and their indices, in order; returns how many. */
    size_t (*collect_ge)(const float *x, size_t n, float v, float *vals, int32_t *ids);
    /* Maxima of n_groups interleaved groups (a multiple of 8). */
    void (*group_max)(const float *x, size_t n, float *out, size_t n_groups);
    /* The winner's index of the exponential race: argmax exp(x - max) / q, with q ~ Exp(1) a function of (key, ids[i]);
     * ids NULL means ids[i] = i. Ties: the lowest index. */
    size_t (*race)(const float *x, const int32_t *ids, size_t n, float max, uint64_t key);
} row_ops;

/* The best this CPU can run. */
const row_ops *row_ops_best(void);
/* By name ("portable", "avx2", "avx512"), or NULL: for tests. */
const row_ops *row_ops_named(const char *name);

extern const row_ops row_ops_portable;
extern const row_ops row_ops_avx2;
extern const row_ops row_ops_avx512;

#endif
