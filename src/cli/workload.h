/* Requests for simulations: when each arrives, how long its prompt is and its answer. Made up (a mix of lengths, Poisson arrivals) or
 * read from a trace. Only lengths matter, and which prompts begin alike.
 *
 * Traces:
 *   CSV     a line of names, then TIME,INPUT TOKENS,OUTPUT TOKENS: the Azure LLM inference traces
 *           (github.com/Azure/AzurePublicDataset); TIME is seconds or a date like 2023-11-16 18:15:46.6805900
 *   JSON    one object a line: timestamp (milliseconds), input_length, output_length, hash_ids (Mooncake's traces,
 *           github.com/kvcache-ai/Mooncake: equal ids are equal blocks of 512 tokens) */
#ifndef SYSTOLIC_CLI_WORKLOAD_H
#define SYSTOLIC_CLI_WORKLOAD_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { WORKLOAD_MAX_LEN = 1 << 24, WORKLOAD_MAX_REQUESTS = 10000000, WORKLOAD_BLOCK = 512 };

/* at: seconds from the beginning. Blocks of the prompt that others may have too: ids in workload.ids. */
typedef struct work_item { double at; int32_t input, output; uint32_t ids_at, n_ids; } work_item;

typedef struct workload {
    work_item *v; size_t n, cap;
    uint32_t *ids; size_t n_ids, cap_ids;
    int max_concurrency;        /* most requests at a time; 0 = as they arrive */
    double rate;                /* made up: requests per second, INFINITY = all at once; 0 = a trace's */
    int prefix_len;             /* tokens that all prompts begin with; part of their input */
    uint64_t seed;
} workload;
void workload_free(workload *w);

typedef struct workload_mix { int n, input_len, output_len, prefix_len; double range_ratio, rate; uint64_t seed; } workload_mix;
/* Lengths uniform in [len (1 - range_ratio), len (1 + range_ratio)], before them prefix_len shared tokens; arrivals Poisson at `rate`. */
status workload_make(const workload_mix *m, workload *out) FALLIBLE;

/* What the text of a trace says. Errors name the line. */
status workload_parse(const char *text, size_t len, workload *out) FALLIBLE;
/* The same of a file of at most 1 GiB. */
status workload_read(const char *path, workload *out) FALLIBLE;
/* Arrivals of `seconds` from the first one on: what comes later is dropped, and a trace that is shorter begins again. */
status workload_span(workload *w, double seconds) FALLIBLE;
void workload_cut(workload *w, size_t n);
double workload_seconds(const workload *w);      /* from the first to the last arrival */

/* Writes item i's prompt, input tokens of a vocabulary of `vocab`. Deterministic. */
void workload_prompt(const workload *w, size_t i, int vocab, int32_t *out);

#endif
