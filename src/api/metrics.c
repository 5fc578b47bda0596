#include "api/metrics.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "api/prom.h"
#include "api/server.h"
#include "base/clock.h"
#include "base/mem.h"

/* Histograms of the engine: name, family of buckets, help. */
enum { FAM_T, FAM_I, FAM_N, FAM_P, FAM_F, FAM_L, FAM_R, N_FAMILIES };
#define HISTOGRAMS(X) \
    X(TTFT, "time_to_first_token_seconds", FAM_F, "Histogram of time to first token in seconds.") \
    X(ITL, "inter_token_latency_seconds", FAM_L, "Histogram of inter-token latency in seconds.") \
    X(TPOT, "request_time_per_output_token_seconds", FAM_L, "Histogram of time_per_output_token_seconds per request.") \
    X(E2E, "e2e_request_latency_seconds", FAM_R, "Histogram of e2e request latency in seconds.") \
    X(QUEUE, "request_queue_time_seconds", FAM_R, "Histogram of time spent in WAITING phase for request.") \
    X(INFERENCE, "request_inference_time_seconds", FAM_R, "Histogram of time spent in RUNNING phase for request.") \
    X(PREFILL, "request_prefill_time_seconds", FAM_R, "Histogram of time spent in PREFILL phase for request.") \
    X(DECODE, "request_decode_time_seconds", FAM_R, "Histogram of time spent in DECODE phase for request.") \
    X(PROMPT, "request_prompt_tokens", FAM_T, "Number of prefill tokens processed.") \
    X(GENERATION, "request_generation_tokens", FAM_T, "Number of generation tokens processed.") \
    X(COMPUTED, "request_prefill_kv_computed_tokens", FAM_T, "Histogram of new KV tokens computed during prefill (excluding cached tokens).") \
    X(MAX_GENERATION, "request_max_num_generation_tokens", FAM_T, "Histogram of maximum number of requested generation tokens.") \
    X(PARAMS_MAX, "request_params_max_tokens", FAM_T, "Histogram of the max_tokens request parameter.") \
    X(PARAMS_N, "request_params_n", FAM_N, "Histogram of the n request parameter.") \
    X(PREEMPTIONS, "request_num_preemptions", FAM_P, "Histogram of the number of preemptions per request.") \
    X(ITERATION, "iteration_tokens_total", FAM_I, "Histogram of number of tokens per engine_step.")
enum {
#define X(id, name, fam, help) H_##id,
    HISTOGRAMS(X)
#undef X
    N_HISTOGRAMS
};
static const struct { const char *name; int family; const char *help; } hists[] = {
#define X(id, name, fam, help) { "vllm:" name, fam, help },
    HISTOGRAMS(X)
#undef X
};

static const double bounds_i[] = { 1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384 };
static const double bounds_n[] = { 1, 2, 5, 10, 20 };
static const double bounds_p[] = { 1, 2, 3, 4, 5, 10, 20 };
static const double bounds_f[] = { .001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560 };
static const double bounds_l[] = { .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80 };
static const double bounds_r[] = { .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680 };
static const double bounds_http[] = { .1, .5, 1 };
static const double bounds_highr[] = { .01, .025, .05, .075, .1, .25, .5, .75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60 };
#define COUNT(a) ((int)(sizeof (a) / sizeof *(a)))
static const struct { const char *key; const double *bounds; int n; } families[N_FAMILIES] = {
    [FAM_T] = { "request_tokens", NULL, 0 },
    [FAM_I] = { "iteration_tokens", bounds_i, COUNT(bounds_i) },
    [FAM_N] = { "request_params_n", bounds_n, COUNT(bounds_n) },
    [FAM_P] = { "request_num_preemptions", bounds_p, COUNT(bounds_p) },
    [FAM_F] = { "time_to_first_token", bounds_f, COUNT(bounds_f) },
    [FAM_L] = { "inter_token_latency", bounds_l, COUNT(bounds_l) },
    [FAM_R] = { "request_latency", bounds_r, COUNT(bounds_r) },
};

enum { MAX_HANDLERS = 64 };
typedef struct http_stat {
    char method[8], handler[64];
    uint64_t by_class[6];        /* 2xx at [2] */
    uint64_t request_bytes, response_bytes, n;
    prom_hist seconds;
} http_stat;

struct metrics {
    pthread_mutex_t mu;
    const api_options *o;
    buf labels;                  /* model_name="...",engine="0" */
    char *model_label;           /* model_name="..." */
    prom_hist h[N_HISTOGRAMS];
    http_stat http[MAX_HANDLERS]; int n_http;
    prom_hist highr;
};

static status custom_bounds(const jv *list, const char *key, double *dst, int *n)
{
    size_t len = jv_len(list);
    if (!jv_is(list, JV_ARR) || len == 0 || len > PROM_MAX_BUCKETS)
        return err_set(ST_INVALID, "custom-histogram-buckets: '%s' must be a list of 1 to %d numbers", key, PROM_MAX_BUCKETS);
    for (size_t i = 0; i < len; i++) {
        const jv *x = jv_at(list, i);
        if (!jv_is(x, JV_INT) && !jv_is(x, JV_REAL)) return err_set(ST_INVALID, "custom-histogram-buckets: '%s'[%zu] must be a number, not %s", key, i, jv_kind_name(jv_type(x)));
        dst[i] = jv_f64(x, 0);
        if (i && dst[i] <= dst[i - 1]) return err_set(ST_INVALID, "custom-histogram-buckets: '%s' must be in ascending order", key);
    }
    *n = (int)len;
    return ST_OK;
}

static status init_histograms(metrics *m, const api_options *o)
{
    const jv *custom = o->histogram_buckets;
    for (jv_iter it = jv_begin(custom); jv_next(&it);) {
        bool known = strcmp(it.key, "kv_cache_residency") == 0;
        for (int f = 0; f < N_FAMILIES; f++) known = known || strcmp(it.key, families[f].key) == 0;
        if (!known) return err_set(ST_INVALID, "custom-histogram-buckets: unknown key '%s'", it.key);
    }
    for (int i = 0; i < N_HISTOGRAMS; i++) {
        int fam = hists[i].family, n = families[fam].n;
        double own[PROM_MAX_BUCKETS];
        const jv *list = jv_get(custom, families[fam].key);
        if (list) {
            TRY(custom_bounds(list, families[fam].key, own, &n));
            prom_hist_init(&m->h[i], own, n);
        } else if (fam == FAM_T) {
            prom_hist_125(&m->h[i], o->max_model_len);
        } else {
            prom_hist_init(&m->h[i], families[fam].bounds, n);
        }
    }
    prom_hist_init(&m->highr, bounds_highr, COUNT(bounds_highr));
    return ST_OK;
}

status metrics_new(const api_options *o, metrics **out)
{
    metrics *m = mem_calloc(1, sizeof *m);
    if (!m) return err_nomem();
    pthread_mutex_init(&m->mu, NULL);
    m->o = o;
    status st = init_histograms(m, o);
    if (st == ST_OK) {
        prom_label(&m->labels, "model_name", o->served_names.v[0]);
        st = buf_status(&m->labels);
    }
    if (st == ST_OK) {
        m->model_label = mem_strdup(m->labels.data);
        prom_label(&m->labels, "engine", "0");
        st = m->model_label ? buf_status(&m->labels) : err_nomem();
    }
    if (st != ST_OK) {
        metrics_free(m);
        return st;
    }
    *out = m;
    return ST_OK;
}

void metrics_free(metrics *m)
{
    if (!m) return;
    pthread_mutex_destroy(&m->mu);
    buf_free(&m->labels);
    mem_free(m->model_label);
    mem_free(m);
}

/* ---- observing ---- */
static void observe(metrics *m, int h, double x)
{
    pthread_mutex_lock(&m->mu);
    prom_hist_add(&m->h[h], x);
    pthread_mutex_unlock(&m->mu);
}

static void on_step(void *arg, const engine_step_event *e) { observe(arg, H_ITERATION, e->n_prefill_tokens + e->n_decode_tokens); }
static void on_token_gap(void *arg, double seconds) { observe(arg, H_ITL, seconds); }
static void on_first_token(void *arg, double seconds) { observe(arg, H_TTFT, seconds); }

static void on_request(void *arg, const engine_request_event *e)
{
    metrics *m = arg;
    bool ran = e->scheduled_s > 0, spoke = e->first_token_s > 0;
    pthread_mutex_lock(&m->mu);
    prom_hist_add(&m->h[H_E2E], e->finish_s - e->arrival_s);
    if (ran) prom_hist_add(&m->h[H_QUEUE], e->scheduled_s - e->queued_s);
    if (ran && spoke) {
        double decode = e->last_token_s - e->first_token_s;
        prom_hist_add(&m->h[H_PREFILL], e->first_token_s - e->scheduled_s);
        prom_hist_add(&m->h[H_INFERENCE], e->last_token_s - e->scheduled_s);
        prom_hist_add(&m->h[H_DECODE], decode);
        prom_hist_add(&m->h[H_TPOT], e->n_generated > 1 ? decode / (e->n_generated - 1) : 0);
    }
    prom_hist_add(&m->h[H_PROMPT], e->n_prompt);
    prom_hist_add(&m->h[H_COMPUTED], e->n_prompt - e->n_cached);
    prom_hist_add(&m->h[H_GENERATION], e->n_generated);
    prom_hist_add(&m->h[H_MAX_GENERATION], e->n_generated);
    prom_hist_add(&m->h[H_PARAMS_MAX], e->max_tokens);
    prom_hist_add(&m->h[H_PREEMPTIONS], e->n_preemptions);
    pthread_mutex_unlock(&m->mu);
}

void metrics_observer(metrics *m, engine_observer *out)
{
    *out = (engine_observer){ .on_step = on_step, .on_token_gap = on_token_gap, .on_first_token = on_first_token, .on_request = on_request, .arg = m };
}

void metrics_request_n(metrics *m, int n) { observe(m, H_PARAMS_N, n); }

void metrics_http(metrics *m, const char *method, const char *handler, int code, double seconds, size_t request_bytes, size_t response_bytes)
{
    http_stat *s = NULL;
    pthread_mutex_lock(&m->mu);
    for (int i = 0; i < m->n_http && !s; i++)
        if (strcmp(m->http[i].method, method) == 0 && strcmp(m->http[i].handler, handler) == 0) s = &m->http[i];
    if (!s && m->n_http < MAX_HANDLERS) {
        s = &m->http[m->n_http++];
        snprintf(s->method, sizeof s->method, "%s", method);
        snprintf(s->handler, sizeof s->handler, "%s", handler);
        prom_hist_init(&s->seconds, bounds_http, COUNT(bounds_http));
    }
    if (s) {
        s->by_class[code >= 100 && code < 600 ? code / 100 : 0]++;
        s->n++;
        s->request_bytes += request_bytes;
        s->response_bytes += response_bytes;
        prom_hist_add(&s->seconds, seconds);
        prom_hist_add(&m->highr, seconds);
    }
    pthread_mutex_unlock(&m->mu);
}

/* ---- writing ---- */
typedef struct writer { buf *out; const char *labels; } writer;

static void gauge(const writer *w, const char *name, const char *help, double v)
{
    prom_head(w->out, name, "gauge", help);
    prom_line(w->out, name, w->labels, v);
}

static void counter(const writer *w, const char *name, const char *help, uint64_t v)
{
    char sample[96];
    snprintf(sample, sizeof sample, "%s_total", name);
    prom_head(w->out, sample, "counter", help);
    prom_line(w->out, sample, w->labels, (double)v);
}

/* One sample per value of an extra label. */
typedef struct labelled { const char *value; double v; } labelled;
static void family(const writer *w, const char *name, const char *type, const char *help, const char *label, const labelled *x, int n)
{
    prom_head(w->out, name, type, help);
    buf l = {0};
    for (int i = 0; i < n; i++) {
        buf_clear(&l);
        buf_str(&l, w->labels);
        prom_label(&l, label, x[i].value);
        prom_line(w->out, name, buf_cstr(&l), x[i].v);
    }
    buf_free(&l);
}

static void write_gauges(const writer *w, const engine_stats *s)
{
    gauge(w, "vllm:num_requests_running", "Number of requests in model execution batches.", s->n_running);
    gauge(w, "vllm:num_requests_waiting", "Number of requests waiting to be processed.", s->n_waiting);
    labelled reasons[] = { { "capacity", s->n_waiting_capacity }, { "deferred", s->n_waiting_deferred } };
    family(w, "vllm:num_requests_waiting_by_reason", "gauge", "Number of requests waiting to be processed, by reason.", "reason", reasons, 2);
    labelled sleep[] = { { "awake", 1 }, { "weights_offloaded", 0 }, { "discard_all", 0 } };
    family(w, "vllm:engine_sleep_state", "gauge", "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake.", "sleep_state", sleep, 3);
    gauge(w, "vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", s->kv_usage);
}

static void write_counters(const writer *w, const engine_stats *s)
{
    counter(w, "vllm:prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens.", s->prefix_queries);
    counter(w, "vllm:prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens.", s->prefix_hits);
    counter(w, "vllm:external_prefix_cache_queries", "External prefix cache queries from KV connector cross-instance cache sharing, in terms of number of queried tokens.", 0);
    counter(w, "vllm:external_prefix_cache_hits", "External prefix cache hits from KV connector cross-instance cache sharing, in terms of number of cached tokens.", 0);
    counter(w, "vllm:mm_cache_queries", "Multi-modal cache queries, in terms of number of queried items.", s->media_queries);
    counter(w, "vllm:mm_cache_hits", "Multi-modal cache hits, in terms of number of cached items.", s->media_hits);
    counter(w, "vllm:num_preemptions", "Cumulative number of preemption from the engine.", s->preemptions);
    counter(w, "vllm:prompt_tokens", "Number of prefill tokens processed.", s->prompt_tokens);
    labelled source[] = { { "local_compute", (double)s->prompt_tokens_computed }, { "local_cache_hit", (double)s->prompt_tokens_cached }, { "external_kv_transfer", 0 } };
    family(w, "vllm:prompt_tokens_by_source_total", "counter", "Number of prompt tokens by source.", "source", source, 3);
    counter(w, "vllm:prompt_tokens_cached", "Number of cached prompt tokens (local + external).", s->prompt_tokens_cached);
    labelled cached[] = { { "device", (double)s->prompt_tokens_cached }, { "host", 0 }, { "disk", 0 }, { "p2p", 0 }, { "external_unspecified", 0 } };
    family(w, "vllm:prompt_tokens_cached_by_source_total", "counter", "Number of cached prompt tokens by source.", "source", cached, 5);
    counter(w, "vllm:generation_tokens", "Number of generation tokens processed.", s->generation_tokens);
    labelled reasons[] = {
        { "stop", (double)s->finished[FINISH_STOP] }, { "length", (double)s->finished[FINISH_LENGTH] }, { "abort", (double)s->finished[FINISH_ABORT] },
        { "error", (double)s->finished[FINISH_ERROR] }, { "repetition", (double)s->finished[FINISH_REPETITION] },
    };
    family(w, "vllm:request_success_total", "counter", "Count of successfully processed requests.", "finished_reason", reasons, 5);
}

static void write_cache_info(const metrics *m, const engine_options *eo, int n_blocks, buf *out)
{
    static const char *const algos[] = { "sha256", "sha256_cbor", "xxhash", "xxhash_cbor" };
    const char *name = "vllm:cache_config_info";
    buf l = {0};
    char t[64];
    snprintf(t, sizeof t, "%d", eo->block_size);
    prom_label(&l, "block_size", t);
    prom_label(&l, "cache_dtype", m->o->cache_dtype ? m->o->cache_dtype : "auto");
    prom_label(&l, "enable_prefix_caching", eo->no_prefix_caching ? "False" : "True");
    prom_label(&l, "engine", "0");
    json_repr_f64(t, sizeof t, m->o->memory_fraction);
    prom_label(&l, "gpu_memory_utilization", t);
    if (m->o->kv_cache_bytes > 0) snprintf(t, sizeof t, "%lld", (long long)m->o->kv_cache_bytes);
    else snprintf(t, sizeof t, "None");
    prom_label(&l, "kv_cache_memory_bytes", t);
    long long tokens = (long long)n_blocks * eo->block_size;
    snprintf(t, sizeof t, "%lld", tokens);
    prom_label(&l, "kv_cache_size_tokens", t);
    snprintf(t, sizeof t, "%.2f", eo->max_model_len > 0 ? (double)tokens / eo->max_model_len : 0);
    prom_label(&l, "kv_cache_max_concurrency", t);
    snprintf(t, sizeof t, "%d", n_blocks);
    prom_label(&l, "num_gpu_blocks", t);
    prom_label(&l, "num_cpu_blocks", "None");
    if (eo->num_blocks_override > 0) snprintf(t, sizeof t, "%d", eo->num_blocks_override);
    else snprintf(t, sizeof t, "None");
    prom_label(&l, "num_gpu_blocks_override", t);
    prom_label(&l, "prefix_caching_hash_algo", m->o->prefix_hash_algo ? m->o->prefix_hash_algo : algos[eo->hash_algo]);
    prom_label(&l, "sliding_window", "None");
    prom_head(out, name, "gauge", "Information of the LLMEngine CacheConfig");
    prom_line(out, name, buf_cstr(&l), 1);
    if (l.failed) out->failed = true;
    buf_free(&l);
}

static void write_http(metrics *m, buf *out)
{
    static const char *const classes[] = { "other", "1xx", "2xx", "3xx", "4xx", "5xx" };
    static const char *const names[] = { "http_request_size_bytes", "http_response_size_bytes" };
    buf l = {0};
    prom_head(out, "http_requests_total", "counter", "Total number of requests by method, status and handler.");
    for (int i = 0; i < m->n_http; i++)
        for (int c = 0; c < 6; c++) {
            const http_stat *s = &m->http[i];
            if (!s->by_class[c]) continue;
            buf_clear(&l);
            prom_label(&l, "handler", s->handler);
            prom_label(&l, "method", s->method);
            prom_label(&l, "status", classes[c]);
            prom_line(out, "http_requests_total", buf_cstr(&l), (double)s->by_class[c]);
        }
    for (int k = 0; k < 2; k++) {
        prom_head(out, names[k], "summary", k ? "Content length of outgoing responses by handler." : "Content length of incoming requests by handler.");
        for (int i = 0; i < m->n_http; i++) {
            const http_stat *s = &m->http[i];
            char name[64];
            buf_clear(&l);
            prom_label(&l, "handler", s->handler);
            snprintf(name, sizeof name, "%s_count", names[k]);
            prom_line(out, name, buf_cstr(&l), (double)s->n);
            snprintf(name, sizeof name, "%s_sum", names[k]);
            prom_line(out, name, buf_cstr(&l), (double)(k ? s->response_bytes : s->request_bytes));
        }
    }
    prom_head(out, "http_request_duration_highr_seconds", "histogram", "Latency with many buckets but no API specific labels.");
    prom_hist_write(out, "http_request_duration_highr_seconds", "", &m->highr);
    prom_head(out, "http_request_duration_seconds", "histogram", "Latency with only few buckets by handler.");
    for (int i = 0; i < m->n_http; i++) {
        buf_clear(&l);
        prom_label(&l, "handler", m->http[i].handler);
        prom_label(&l, "method", m->http[i].method);
        prom_hist_write(out, "http_request_duration_seconds", buf_cstr(&l), &m->http[i].seconds);
    }
    if (l.failed) out->failed = true;
    buf_free(&l);
}

void metrics_write(metrics *m, const engine_stats *s, const engine_options *eo, int n_blocks, buf *out)
{
    writer w = { out, buf_cstr(&m->labels) }, by_model = { out, m->model_label };
    write_gauges(&w, s);
    write_counters(&w, s);
    labelled rejected[] = { { "max_num_queued_reqs", (double)s->rejected_reqs }, { "max_num_queued_tokens", (double)s->rejected_tokens } };
    family(&by_model, "vllm:admission_rejections_total", "counter", "Number of requests rejected by admission control.", "reason", rejected, 2);
    pthread_mutex_lock(&m->mu);
    for (int i = 0; i < N_HISTOGRAMS; i++) {
        prom_head(out, hists[i].name, "histogram", hists[i].help);
        prom_hist_write(out, hists[i].name, w.labels, &m->h[i]);
    }
    write_http(m, out);
    pthread_mutex_unlock(&m->mu);
    write_cache_info(m, eo, n_blocks, out);
}
