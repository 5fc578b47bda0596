/* Figures of a serving benchmark, with vLLM's definitions, report text and JSON keys (docs/cli.md). */
#ifndef SYSTOLIC_CLI_BENCH_STATS_H
#define SYSTOLIC_CLI_BENCH_STATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"

/* One request as the client saw it. Times are clock_now() seconds. */
typedef struct bench_request {
    int prompt_len, output_len;       /* tokens; output as the server's usage says */
    double sent_s, first_s, last_s;   /* sent, first content chunk, last chunk */
    double *itl; int n_itl, cap_itl;  /* gaps between chunks, seconds */
    char *text;                       /* generated text (detailed results), or NULL */
    char *error;                      /* NULL = succeeded */
} bench_request;

typedef struct bench_goodput { double ttft_ms, tpot_ms, e2el_ms; } bench_goodput; /* 0 = not asked */

typedef struct bench_report_options {
    const char *const *metrics; int n_metrics;      /* "ttft", "tpot", "itl", "e2el" */
    const double *percentiles; int n_percentiles;   /* 0..100 */
    bench_goodput goodput;
    double request_rate;                            /* INFINITY = all at once */
    int max_concurrency;                            /* 0 = none */
} bench_report_options;

double bench_mean(const double *x, size_t n);
double bench_std(const double *x, size_t n);                       /* population, as numpy.std */
/* Linear interpolation between order statistics, as numpy.percentile; sorts x. 0 for n = 0. */
double bench_percentile(double *x, size_t n, double p);

/* Appends the text report to `text` and the result keys to the open JSON object `w`. `duration` in seconds. */
status bench_report(const bench_request *reqs, size_t n, double duration, const bench_report_options *o, buf *text, jw *w) FALLIBLE;
/* Appends input_lens output_lens ttfts itls start_times generated_texts errors to the open object. */
void bench_detail(const bench_request *reqs, size_t n, double start_s, jw *w);
void bench_requests_free(bench_request *reqs, size_t n);

#endif
