#include "cli/bench_stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

double bench_mean(const double *x, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++) s += x[i];
    return n ? s / (double)n : 0;
}

double bench_std(const double *x, size_t n)
{
    double m = bench_mean(x, n), s = 0;
    for (size_t i = 0; i < n; i++) s += (x[i] - m) * (x[i] - m);
    return n ? sqrt(s / (double)n) : 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_percentile(double *x, size_t n, double p)
{
    if (n == 0) return 0;
    qsort(x, n, sizeof *x, by_value);
    double at = p / 100 * (double)(n - 1);
    size_t lo = (size_t)at;
    if (lo + 1 >= n) return x[n - 1];
    return x[lo] + (at - (double)lo) * (x[lo + 1] - x[lo]);
}

/* Samples of one metric over all successful requests, in milliseconds. */
typedef struct series { double *x; size_t n; } series;

static double ttft_ms(const bench_request *r) { return (r->first_s - r->sent_s) * 1e3; }
static double e2el_ms(const bench_request *r) { return (r->last_s - r->sent_s) * 1e3; }
static double tpot_ms(const bench_request *r) { return (e2el_ms(r) - ttft_ms(r)) / (r->output_len - 1); }

static status collect(const bench_request *reqs, size_t n, const char *metric, series *out)
{
    size_t cap = 1;
    for (size_t i = 0; i < n; i++) cap += strcmp(metric, "itl") == 0 ? (size_t)reqs[i].n_itl : 1;
    *out = (series){ mem_array(cap, sizeof(double)), 0 };
    if (!out->x) return err_nomem();
    for (size_t i = 0; i < n; i++) {
        const bench_request *r = &reqs[i];
        if (r->error) continue;
        if (strcmp(metric, "ttft") == 0) out->x[out->n++] = ttft_ms(r);
        else if (strcmp(metric, "e2el") == 0) out->x[out->n++] = e2el_ms(r);
        else if (strcmp(metric, "tpot") == 0) {
            if (r->output_len > 1) out->x[out->n++] = tpot_ms(r);
        } else {
            for (int k = 0; k < r->n_itl; k++) out->x[out->n++] = r->itl[k] * 1e3;
        }
    }
    return ST_OK;
}

static void line_i(buf *t, const char *label, int64_t v) { buf_printf(t, "%-40s %-10lld\n", label, (long long)v); }
static void line_f(buf *t, const char *label, double v) { buf_printf(t, "%-40s %-10.2f\n", label, v); }
static void key_f(jw *w, const char *key, double v) { jw_key(w, key); jw_f64(w, v); }
static void key_i(jw *w, const char *key, int64_t v) { jw_key(w, key); jw_i64(w, v); }

static void centred(buf *t, const char *title, char fill)
{
    int n = (int)strlen(title), total = 50, left = (total - n) / 2;
    for (int i = 0; i < left; i++) buf_char(t, fill);
    buf_str(t, title);
    for (int i = left + n; i < total; i++) buf_char(t, fill);
    buf_char(t, '\n');
}

/* "99" or "99.9" */
static void percentile_name(double p, char *dst, size_t cap)
{
    char s[40];
    json_repr_f64(s, sizeof s, p);
    size_t n = strlen(s);
    if (n > 2 && strcmp(s + n - 2, ".0") == 0) s[n - 2] = 0;
    snprintf(dst, cap, "%s", s);
}

static status metric_section(const bench_request *reqs, size_t n, const char *metric, const char *upper, const char *title,
                             const bench_report_options *o, buf *text, jw *w)
{
    series s;
    TRY(collect(reqs, n, metric, &s));
    char label[64], key[64], name[40];
    centred(text, title, '-');
    double mean = bench_mean(s.x, s.n), median = bench_percentile(s.x, s.n, 50);
    snprintf(label, sizeof label, "Mean %s (ms):", upper);
    line_f(text, label, mean);
    snprintf(label, sizeof label, "Median %s (ms):", upper);
    line_f(text, label, median);
    snprintf(key, sizeof key, "mean_%s_ms", metric);
    key_f(w, key, mean);
    snprintf(key, sizeof key, "median_%s_ms", metric);
    key_f(w, key, median);
    snprintf(key, sizeof key, "std_%s_ms", metric);
    key_f(w, key, bench_std(s.x, s.n));
    for (int i = 0; i < o->n_percentiles; i++) {
        double v = bench_percentile(s.x, s.n, o->percentiles[i]);
        percentile_name(o->percentiles[i], name, sizeof name);
        snprintf(label, sizeof label, "P%s %s (ms):", name, upper);
        line_f(text, label, v);
        snprintf(key, sizeof key, "p%s_%s_ms", name, metric);
        key_f(w, key, v);
    }
    mem_free(s.x);
    return ST_OK;
}

static bool good(const bench_request *r, const bench_goodput *g)
{
    if (r->error) return false;
    if (g->ttft_ms > 0 && ttft_ms(r) > g->ttft_ms) return false;
    if (g->tpot_ms > 0 && r->output_len > 1 && tpot_ms(r) > g->tpot_ms) return false;
    return !(g->e2el_ms > 0 && e2el_ms(r) > g->e2el_ms);
}

/* Most tokens in any one second and most requests alive at once, over one-second bins as vLLM counts them. */
static status peaks(const bench_request *reqs, size_t n, double *tokens_per_s, int *concurrent)
{
    double t0 = INFINITY, t1 = 0;
    for (size_t i = 0; i < n; i++) {
        if (reqs[i].error) continue;
        if (reqs[i].sent_s < t0) t0 = reqs[i].sent_s;
        if (reqs[i].last_s > t1) t1 = reqs[i].last_s;
    }
    *tokens_per_s = 0;
    *concurrent = 0;
    if (t1 <= t0) return ST_OK;
    size_t bins = (size_t)(t1 - t0) + 2;
    double *tokens = mem_calloc(bins, sizeof *tokens);
    int *alive = mem_calloc(bins, sizeof *alive);
    if (!tokens || !alive) {
        mem_free(tokens);
        mem_free(alive);
        return err_nomem();
    }
    for (size_t i = 0; i < n; i++) {
        const bench_request *r = &reqs[i];
        if (r->error) continue;
        double t = r->first_s;
        tokens[(size_t)(t - t0)] += 1;
        for (int k = 0; k < r->n_itl; k++) {
            t += r->itl[k];
            tokens[(size_t)(t - t0) < bins ? (size_t)(t - t0) : bins - 1] += 1;
        }
        for (size_t b = (size_t)(r->sent_s - t0); b <= (size_t)(r->last_s - t0); b++) alive[b]++;
    }
    for (size_t b = 0; b < bins; b++) {
        if (tokens[b] > *tokens_per_s) *tokens_per_s = tokens[b];
        if (alive[b] > *concurrent) *concurrent = alive[b];
    }
    mem_free(tokens);
    mem_free(alive);
    return ST_OK;
}

static bool wants(const bench_report_options *o, const char *metric)
{
    for (int i = 0; i < o->n_metrics; i++)
        if (strcmp(o->metrics[i], metric) == 0) return true;
    return false;
}

status bench_report(const bench_request *reqs, size_t n, double duration, const bench_report_options *o, buf *text, jw *w)
{
    int64_t completed = 0, in = 0, out = 0, n_good = 0;
    for (size_t i = 0; i < n; i++) {
        if (reqs[i].error) continue;
        completed++;
        in += reqs[i].prompt_len;
        out += reqs[i].output_len;
        n_good += good(&reqs[i], &o->goodput);
    }
    double peak_tokens;
    int peak_requests;
    TRY(peaks(reqs, n, &peak_tokens, &peak_requests));
    bool has_goodput = o->goodput.ttft_ms > 0 || o->goodput.tpot_ms > 0 || o->goodput.e2el_ms > 0;

    centred(text, " Serving Benchmark Result ", '=');
    line_i(text, "Successful requests:", completed);
    line_i(text, "Failed requests:", (int64_t)n - completed);
    if (o->max_concurrency) line_i(text, "Maximum request concurrency:", o->max_concurrency);
    if (isfinite(o->request_rate)) line_f(text, "Request rate configured (RPS):", o->request_rate);
    line_f(text, "Benchmark duration (s):", duration);
    line_i(text, "Total input tokens:", in);
    line_i(text, "Total generated tokens:", out);
    line_f(text, "Request throughput (req/s):", (double)completed / duration);
    if (has_goodput) line_f(text, "Request goodput (req/s):", (double)n_good / duration);
    line_f(text, "Output token throughput (tok/s):", (double)out / duration);
    line_f(text, "Peak output token throughput (tok/s):", peak_tokens);
    line_f(text, "Peak concurrent requests:", peak_requests);
    line_f(text, "Total token throughput (tok/s):", (double)(in + out) / duration);

    key_f(w, "duration", duration);
    key_i(w, "completed", completed);
    key_i(w, "failed", (int64_t)n - completed);
    key_i(w, "total_input_tokens", in);
    key_i(w, "total_output_tokens", out);
    key_f(w, "request_throughput", (double)completed / duration);
    jw_key(w, "request_goodput");
    if (has_goodput) jw_f64(w, (double)n_good / duration);
    else jw_null(w);
    key_f(w, "output_throughput", (double)out / duration);
    key_f(w, "total_token_throughput", (double)(in + out) / duration);
    key_f(w, "max_output_tokens_per_s", peak_tokens);
    key_i(w, "max_concurrent_requests", peak_requests);

    static const struct { const char *key, *upper, *title; } sections[] = {
        { "ttft", "TTFT", "Time to First Token" },
        { "tpot", "TPOT", "Time per Output Token (excl. 1st token)" },
        { "itl", "ITL", "Inter-token Latency" },
        { "e2el", "E2EL", "End-to-end Latency" },
    };
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
        if (wants(o, sections[i].key)) TRY(metric_section(reqs, n, sections[i].key, sections[i].upper, sections[i].title, o, text, w));
    buf_str(text, "==================================================\n");
    return buf_status(text);
}

void bench_detail(const bench_request *reqs, size_t n, double start_s, jw *w)
{
    jw_key(w, "input_lens");
    jw_arr(w);
    for (size_t i = 0; i < n; i++) jw_i64(w, reqs[i].prompt_len);
    jw_end_arr(w);
    jw_key(w, "output_lens");
    jw_arr(w);
    for (size_t i = 0; i < n; i++) jw_i64(w, reqs[i].output_len);
    jw_end_arr(w);
    jw_key(w, "ttfts");
    jw_arr(w);
    for (size_t i = 0; i < n; i++) jw_f64(w, reqs[i].error ? 0 : reqs[i].first_s - reqs[i].sent_s);
    jw_end_arr(w);
    jw_key(w, "itls");
    jw_arr(w);
    for (size_t i = 0; i < n; i++) {
        jw_arr(w);
        for (int k = 0; k < reqs[i].n_itl; k++) jw_f64(w, reqs[i].itl[k]);
        jw_end_arr(w);
    }
    jw_end_arr(w);
    jw_key(w, "start_times");
    jw_arr(w);
    for (size_t i = 0; i < n; i++) jw_f64(w, reqs[i].sent_s - start_s);
    jw_end_arr(w);
    jw_key(w, "generated_texts");
    jw_arr(w);
    for (size_t i = 0; i < n; i++) jw_str(w, reqs[i].text ? reqs[i].text : "");
    jw_end_arr(w);
    jw_key(w, "errors");
    jw_arr(w);
    for (size_t i = 0; i < n; i++) jw_str(w, reqs[i].error ? reqs[i].error : "");
    jw_end_arr(w);
}

void bench_requests_free(bench_request *reqs, size_t n)
{
    for (size_t i = 0; reqs && i < n; i++) {
        mem_free(reqs[i].itl);
        mem_free(reqs[i].text);
        mem_free(reqs[i].error);
    }
    mem_free(reqs);
}
