/* Prompts for benchmarks: vLLM's data sets that need no download (random, sharegpt, custom, prefix_repetition, burstgpt). */
#ifndef SYSTOLIC_CLI_BENCH_DATA_H
#define SYSTOLIC_CLI_BENCH_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "text/tokenizer.h"

typedef struct bench_prompt {
    int32_t *ids; int n_ids;    /* with what the tokenizer adds (BOS): the length that a server counts */
    char *text; size_t text_len; /* NULL without a tokenizer; may hold NUL bytes */
    int output_len;             /* tokens to generate */
} bench_prompt;

typedef struct bench_data_options {
    const char *dataset;        /* "random", ... */
    const char *path;           /* --dataset-path */
    int n_prompts;
    uint64_t seed;
    int input_len, output_len;  /* random: 0 = 1024 / 128. Others: output_len overrides what the data says when > 0 */
    double range_ratio;         /* random: lengths are uniform in [len * (1 - r), len * (1 + r)] */
    int prefix_len;             /* random: shared prefix */
    int repeat_prefix_len, repeat_suffix_len, repeat_prefixes; /* prefix_repetition: 0 = 256, 256, 10 */
    bool no_oversample;         /* files with fewer than n_prompts give what they have; otherwise prompts of theirs are drawn again */
    int vocab_size;             /* used when tok is NULL */
} bench_data_options;

/* The names, NULL-terminated. */
const char *const *bench_data_names(void);
/* Makes the prompts; `tok` may be NULL for random ids only (no text). Deterministic in the seed. */
status bench_data_make(const bench_data_options *o, const tokenizer *tok, bench_prompt **out, size_t *n) FALLIBLE;
void bench_data_free(bench_prompt *p, size_t n);

/* Small deterministic generator: uniform in [0, 1) and in [lo, hi]. */
typedef struct bench_rng { uint64_t state; } bench_rng;
double bench_uniform(bench_rng *r);
int bench_range(bench_rng *r, int lo, int hi);

#endif
