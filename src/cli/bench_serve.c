/* `systolic bench serve`: vLLM's serving benchmark against any OpenAI-compatible server.
 *
 * One thread per request in flight. Requests start at their planned times (Poisson or gamma arrivals, ramps), at most
 * max-concurrency at once. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "cli/bench_data.h"
#include "cli/bench_stats.h"
#include "cli/client.h"
#include "cli/command.h"

#define G "Benchmark"
static const flag_def defs[] = {
    { "backend", NULL, G, FLAG_STR, FLAG_YES, "openai", "openai|vllm|openai-chat", NULL, "openai and vllm use /v1/completions, openai-chat /v1/chat/completions." },
    { "endpoint-type", NULL, G, FLAG_STR, FLAG_YES, NULL, "openai|vllm|openai-chat", NULL, "Older name of --backend." },
    { "base-url", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Server, instead of --host and --port." },
    { "host", NULL, G, FLAG_STR, FLAG_YES, "127.0.0.1", NULL, NULL, "Server's host." },
    { "port", NULL, G, FLAG_INT, FLAG_YES, "8000", NULL, NULL, "Server's port." },
    { "endpoint", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Path of the API; follows from --backend." },
    { "model", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Model (and tokenizer); the first of /v1/models by default." },
    { "served-model-name", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Name to send, where it is not the model's." },
    { "tokenizer", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Directory of the tokenizer; --model's, or the root that /v1/models tells." },
    { "dataset-name", NULL, G, FLAG_STR, FLAG_YES, "random", "random|sharegpt|custom|prefix_repetition|burstgpt", NULL, "Kind of prompts." },
    { "dataset-path", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "File of the data set." },
    { "num-prompts", NULL, G, FLAG_INT, FLAG_YES, "1000", NULL, NULL, "Number of requests." },
    { "seed", NULL, G, FLAG_INT, FLAG_YES, "0", NULL, NULL, "Seed of prompts and arrivals." },
    { "request-rate", NULL, G, FLAG_STR, FLAG_YES, "inf", NULL, NULL, "Requests per second; inf = all at once." },
    { "burstiness", NULL, G, FLAG_NUM, FLAG_YES, "1.0", NULL, NULL, "Shape of the gamma distribution of gaps; 1 = Poisson." },
    { "max-concurrency", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Most requests in flight." },
    { "num-warmups", NULL, G, FLAG_INT, FLAG_YES, "0", NULL, NULL, "Requests before the clock starts." },
    { "random-input-len", NULL, G, FLAG_INT, FLAG_YES, "1024", NULL, NULL, "random: prompt tokens." },
    { "random-output-len", NULL, G, FLAG_INT, FLAG_YES, "128", NULL, NULL, "random: tokens to generate." },
    { "random-range-ratio", NULL, G, FLAG_NUM, FLAG_YES, "0.0", NULL, NULL, "random: lengths vary by this share, in [0, 1)." },
    { "random-prefix-len", NULL, G, FLAG_INT, FLAG_YES, "0", NULL, NULL, "random: tokens that all prompts share." },
    { "input-len", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Prompt tokens, whatever the data set." },
    { "output-len", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Tokens to generate, whatever the data set." },
    { "sharegpt-output-len", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "sharegpt: tokens to generate." },
    { "custom-output-len", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "custom: tokens to generate." },
    { "prefix-repetition-prefix-len", NULL, G, FLAG_INT, FLAG_YES, "256", NULL, NULL, "prefix_repetition: tokens of a prefix." },
    { "prefix-repetition-suffix-len", NULL, G, FLAG_INT, FLAG_YES, "256", NULL, NULL, "prefix_repetition: tokens of a suffix." },
    { "prefix-repetition-num-prefixes", NULL, G, FLAG_INT, FLAG_YES, "10", NULL, NULL, "prefix_repetition: different prefixes." },
    { "prefix-repetition-output-len", NULL, G, FLAG_INT, FLAG_YES, "128", NULL, NULL, "prefix_repetition: tokens to generate." },
    { "oversample", NULL, G, FLAG_BOOL, FLAG_YES, "on", NULL, NULL, "Draws prompts again where the file has too few." },
    { "disable-shuffle", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "Prompts come in the file's order anyway." },
    { "ignore-eos", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Generate to the full length." },
    { "temperature", NULL, G, FLAG_NUM, FLAG_YES, NULL, NULL, NULL, "Sampling temperature; the server's default otherwise." },
    { "top-p", NULL, G, FLAG_NUM, FLAG_YES, NULL, NULL, NULL, "Nucleus sampling." },
    { "top-k", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Top-k sampling." },
    { "min-p", NULL, G, FLAG_NUM, FLAG_YES, NULL, NULL, NULL, "Min-p sampling." },
    { "frequency-penalty", NULL, G, FLAG_NUM, FLAG_YES, NULL, NULL, NULL, "Frequency penalty." },
    { "presence-penalty", NULL, G, FLAG_NUM, FLAG_YES, NULL, NULL, NULL, "Presence penalty." },
    { "repetition-penalty", NULL, G, FLAG_NUM, FLAG_YES, NULL, NULL, NULL, "Repetition penalty." },
    { "logprobs", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Logprobs per token." },
    { "percentile-metrics", NULL, G, FLAG_STR, FLAG_YES, "ttft,tpot,itl", NULL, NULL, "Metrics to report: ttft, tpot, itl, e2el." },
    { "metric-percentiles", NULL, G, FLAG_STR, FLAG_YES, "99", NULL, NULL, "Percentiles to report, as 50,90,99." },
    { "goodput", NULL, G, FLAG_LIST, FLAG_YES, NULL, NULL, NULL, "Service levels in ms, as ttft:200 tpot:50." },
    { "save-result", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Write the figures to a JSON file." },
    { "save-detailed", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "With every request's own." },
    { "append-result", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Append to the file." },
    { "result-dir", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Where the file goes." },
    { "result-filename", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Its name." },
    { "metadata", NULL, G, FLAG_LIST, FLAG_YES, NULL, NULL, NULL, "key=value pairs for the file." },
    { "label", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Label for the file." },
    { "ready-check-timeout-sec", NULL, G, FLAG_INT, FLAG_YES, "0", NULL, NULL, "Wait so long for the server to become healthy." },
    { "extra-body", NULL, G, FLAG_JSON, FLAG_YES, NULL, NULL, NULL, "Further members of each request." },
    { "header", NULL, G, FLAG_LIST, FLAG_YES, NULL, NULL, NULL, "Further headers, as name=value." },
    { "request-id-prefix", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Requests get this and their number as X-Request-Id." },
    { "api-key", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "API key; OPENAI_API_KEY otherwise." },
    { "insecure", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Do not check the TLS certificate." },
    { "disable-tqdm", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "No progress line." },
    { "ramp-up-strategy", NULL, G, FLAG_STR, FLAG_YES, NULL, "linear|exponential", NULL, "The rate grows from start to end over the run." },
    { "ramp-up-start-rps", NULL, G, FLAG_NUM, FLAG_YES, NULL, NULL, NULL, "Rate at the start." },
    { "ramp-up-end-rps", NULL, G, FLAG_NUM, FLAG_YES, NULL, NULL, NULL, "Rate at the end." },
    { "lora-modules", NULL, G, FLAG_LIST, FLAG_NOT_YET, NULL, NULL, NULL, "LoRA adapters to ask for." },
    { "profile", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Profile the server." },
};
#undef G
static const flag_set set = { "systolic bench serve", "measures a running server", defs, sizeof defs / sizeof *defs, NULL, NULL, false };

static const bench_bound bounds[] = {
    { "port", 1, 65535 }, { "num-prompts", 1, BENCH_MAX_PROMPTS }, { "max-concurrency", 1, 1 << 20 }, { "num-warmups", 0, BENCH_MAX_PROMPTS },
    { "random-input-len", 1, BENCH_MAX_LEN }, { "random-output-len", 1, BENCH_MAX_LEN }, { "random-prefix-len", 0, BENCH_MAX_LEN },
    { "input-len", 1, BENCH_MAX_LEN }, { "output-len", 1, BENCH_MAX_LEN }, { "sharegpt-output-len", 1, BENCH_MAX_LEN }, { "custom-output-len", 1, BENCH_MAX_LEN },
    { "prefix-repetition-prefix-len", 1, 1 << 20 }, { "prefix-repetition-suffix-len", 1, 1 << 20 }, { "prefix-repetition-num-prefixes", 1, 1024 },
    { "prefix-repetition-output-len", 1, BENCH_MAX_LEN }, { "ready-check-timeout-sec", 0, INT32_MAX }, { "logprobs", 0, INT32_MAX },
};

typedef struct bench {
    const flags *f;
    bool chat;
    const char *kind, *path;
    double rate;
    bench_report_options report; const char *metrics[8]; double percentiles[16]; char metrics_text[256];
    char url[512], model[512];
    bench_prompt *prompts; size_t n;
    bench_request *reqs;
    double *start_at;              /* [n] seconds after the start */
    char *header_text[32]; const char *headers[33];
    double start_s;
    pthread_mutex_t mu;
    pthread_cond_t cv;
    size_t next, n_done, n_failed;
} bench;

/* ---- flags that are checked before anything is sent: nobody should wait an hour for "expected ttft:MS" ---- */

static status parse_goodput(const flags *f, bench_goodput *g)
{
    int n;
    const char *const *list = flags_list(f, "goodput", &n);
    for (int i = 0; i < n; i++) {
        double *to = strncmp(list[i], "ttft:", 5) == 0 ? &g->ttft_ms : strncmp(list[i], "tpot:", 5) == 0 ? &g->tpot_ms : strncmp(list[i], "e2el:", 5) == 0 ? &g->e2el_ms : NULL;
        char *end = NULL;
        double ms = to ? strtod(list[i] + 5, &end) : 0;
        if (!to || *end || !(ms > 0)) return err_set(ST_INVALID, "argument --goodput: expected ttft:MS, tpot:MS or e2el:MS, got %s", list[i]);
        *to = ms;
    }
    return ST_OK;
}

static status parse_metrics(bench *b)
{
    bench_report_options *o = &b->report;
    const char *text = flags_str(b->f, "percentile-metrics");
    if (strlen(text) >= sizeof b->metrics_text) return err_set(ST_INVALID, "argument --percentile-metrics: too long");
    snprintf(b->metrics_text, sizeof b->metrics_text, "%s", text);
    char *at = b->metrics_text;
    for (char *one; (one = strsep(&at, ","));) {
        bool known = strcmp(one, "ttft") == 0 || strcmp(one, "tpot") == 0 || strcmp(one, "itl") == 0 || strcmp(one, "e2el") == 0;
        if (!known || o->n_metrics == 8) return err_set(ST_INVALID, "argument --percentile-metrics: expected some of ttft,tpot,itl,e2el, got %s", text);
        b->metrics[o->n_metrics++] = one;
    }
    o->metrics = b->metrics;
    return ST_OK;
}

static status parse_percentiles(bench *b)
{
    const char *text = flags_str(b->f, "metric-percentiles");
    const char *at = text;
    for (;;) {
        char *end;
        double p = strtod(at, &end);
        if (end == at || (*end && *end != ',') || !(p >= 0 && p <= 100) || b->report.n_percentiles == 16)
            return err_set(ST_INVALID, "argument --metric-percentiles: expected up to 16 numbers from 0 to 100 as 50,90,99, got %s", text);
        b->percentiles[b->report.n_percentiles++] = p;
        if (!*end) break;
        at = end + 1;
    }
    b->report.percentiles = b->percentiles;
    return ST_OK;
}

static status check_flags(bench *b)
{
    const char *rate = flags_str(b->f, "request-rate");
    double ratio = flags_f64(b->f, "random-range-ratio", 0);
    char *end;
    TRY(bench_check_flags(b->f, bounds, sizeof bounds / sizeof *bounds));
    b->rate = strtod(rate, &end);
    if (end == rate || *end || !(b->rate > 0)) return err_set(ST_INVALID, "argument --request-rate: expected a positive number or inf, got %s", rate);
    if (!(ratio >= 0 && ratio < 1)) return err_set(ST_INVALID, "argument --random-range-ratio: must be in [0, 1), got %g", ratio);
    if (!(flags_f64(b->f, "burstiness", 1) > 0)) return err_set(ST_INVALID, "argument --burstiness: must be positive");
    double from = flags_f64(b->f, "ramp-up-start-rps", 0), to = flags_f64(b->f, "ramp-up-end-rps", 0);
    if (flags_str(b->f, "ramp-up-strategy") && !(from > 0 && to > from)) return err_set(ST_INVALID, "--ramp-up-strategy needs --ramp-up-start-rps and a larger --ramp-up-end-rps");
    const char *data = flags_str(b->f, "dataset-name");
    if (strcmp(data, "random") != 0 && strcmp(data, "prefix_repetition") != 0 && !flags_str(b->f, "dataset-path")) return err_set(ST_INVALID, "--dataset-name %s needs --dataset-path", data);
    TRY(parse_goodput(b->f, &b->report.goodput));
    TRY(parse_metrics(b));
    TRY(parse_percentiles(b));
    b->report.request_rate = b->rate;
    b->report.max_concurrency = (int)flags_i64(b->f, "max-concurrency", 0);
    return ST_OK;
}

/* ---- arrivals ---- */

/* Gamma(shape, 1) by Marsaglia and Tsang (2000), https://doi.org/10.1145/358407.358414; shape < 1 by their boost. */
static double gamma_variate(bench_rng *r, double shape)
{
    if (shape < 1) return gamma_variate(r, shape + 1) * pow(bench_uniform(r), 1 / shape);
    double d = shape - 1.0 / 3, c = 1 / sqrt(9 * d);
    for (;;) {
        double u1 = 1 - bench_uniform(r), u2 = bench_uniform(r);
        double x = sqrt(-2 * log(u1)) * cos(6.283185307179586 * u2), v = 1 + c * x;
        if (v <= 0) continue;
        v = v * v * v;
        if (log(1 - bench_uniform(r)) < 0.5 * x * x + d - d * v + d * log(v)) return d * v;
    }
}

static void plan_arrivals(bench *b)
{
    const char *ramp = flags_str(b->f, "ramp-up-strategy");
    double from = flags_f64(b->f, "ramp-up-start-rps", 0), to = flags_f64(b->f, "ramp-up-end-rps", 0), burstiness = flags_f64(b->f, "burstiness", 1), t = 0;
    bench_rng r = { (uint64_t)flags_i64(b->f, "seed", 0) ^ 0x5DEECE66Du };
    for (size_t i = 0; i < b->n; i++) {
        double share = b->n > 1 ? (double)i / (double)(b->n - 1) : 0;
        double now = !ramp ? b->rate : strcmp(ramp, "linear") == 0 ? from + (to - from) * share : from * pow(to / from, share);
        b->start_at[i] = t;
        if (isfinite(now)) t += gamma_variate(&r, burstiness) / (now * burstiness);
    }
}

/* ---- one request ---- */

typedef struct reading { bench_request *r; double last; bool keep_text; buf text; int64_t n_out, n_in; } reading;

static bool on_event(void *arg, const char *json, size_t n, double at)
{
    reading *rd = arg;
    bench_request *r = rd->r;
    jv *v = NULL;
    if (jv_parse(json, n, &v) != ST_OK) return true;
    const jv *choice = jv_at(jv_get(v, "choices"), 0), *delta = jv_get(choice, "delta");
    const char *text = delta ? jv_get_str(delta, "content", jv_get_str(delta, "reasoning", NULL)) : jv_get_str(choice, "text", NULL);
    /* The role-only chunk of a chat is no content. */
    if (choice && text && !(delta && jv_get(delta, "role") && !*text)) {
        if (r->first_s == 0) {
            r->first_s = at;
        } else {
            if (r->n_itl == r->cap_itl) {
                int cap = r->cap_itl ? r->cap_itl * 2 : 64;
                double *p = mem_realloc_array(r->itl, (size_t)cap, sizeof *p);
                if (p) r->itl = p, r->cap_itl = cap;
            }
            if (r->n_itl < r->cap_itl) r->itl[r->n_itl++] = at - rd->last;
        }
        rd->last = r->last_s = at;
        if (rd->keep_text) buf_str(&rd->text, text);
    }
    const jv *usage = jv_get(v, "usage");
    rd->n_out = jv_get_i64(usage, "completion_tokens", rd->n_out);
    rd->n_in = jv_get_i64(usage, "prompt_tokens", rd->n_in);
    jv_free(v);
    return true;
}

static void request_body(const bench *b, const bench_prompt *p, buf *out)
{
    static const struct { const char *flag, *key; } numbers[] = {
        { "temperature", "temperature" }, { "top-p", "top_p" }, { "min-p", "min_p" }, { "frequency-penalty", "frequency_penalty" },
        { "presence-penalty", "presence_penalty" }, { "repetition-penalty", "repetition_penalty" },
    };
    jw w = jw_to(out);
    jw_obj(&w);
    jw_key(&w, "model");
    jw_str(&w, b->model);
    if (b->chat) {
        jw_key(&w, "messages");
        jw_raw(&w, "[{\"role\":\"user\",\"content\":");
        jw part = jw_to(out);
        jw_strn(&part, p->text ? p->text : "", p->text_len);
        buf_str(out, "}]");
        jw_key(&w, "max_completion_tokens");
    } else {
        jw_key(&w, "prompt");
        if (p->text) {
            jw_strn(&w, p->text, p->text_len);
        } else {
            jw_arr(&w);
            for (int i = 0; i < p->n_ids; i++) jw_i64(&w, p->ids[i]);
            jw_end_arr(&w);
        }
        jw_key(&w, "max_tokens");
    }
    jw_i64(&w, p->output_len);
    jw_key(&w, "stream");
    jw_bool(&w, true);
    jw_key(&w, "stream_options");
    jw_raw(&w, "{\"include_usage\":true}");
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (flags_given(b->f, numbers[i].flag)) {
            jw_key(&w, numbers[i].key);
            jw_f64(&w, flags_f64(b->f, numbers[i].flag, 0));
        }
    if (flags_given(b->f, "top-k")) jw_key(&w, "top_k"), jw_i64(&w, flags_i64(b->f, "top-k", 0));
    if (flags_given(b->f, "logprobs")) {
        if (b->chat) jw_key(&w, "logprobs"), jw_bool(&w, true), jw_key(&w, "top_logprobs"), jw_i64(&w, flags_i64(b->f, "logprobs", 0));
        else jw_key(&w, "logprobs"), jw_i64(&w, flags_i64(b->f, "logprobs", 0));
    }
    if (flags_bool(b->f, "ignore-eos", false)) jw_key(&w, "ignore_eos"), jw_bool(&w, true);
    for (jv_iter it = jv_begin(flags_json(b->f, "extra-body")); jv_next(&it);) {
        jw_keyn(&w, it.key, it.key_len);
        jw_value(&w, it.val);
    }
    jw_end_obj(&w);
}

static void one_request(const bench *b, client *c, const bench_prompt *p, bench_request *r)
{
    buf body = {0};
    request_body(b, p, &body);
    reading rd = { .r = r, .keep_text = flags_bool(b->f, "save-detailed", false), .n_out = -1, .n_in = -1 };
    r->prompt_len = p->n_ids;
    r->sent_s = clock_now();
    status st = buf_status(&body);
    if (st == ST_OK) st = client_stream(c, b->path, body.data, on_event, &rd);
    if (st == ST_OK && r->first_s == 0) st = err_set(ST_INVALID, "the answer held no text");
    if (st != ST_OK) r->error = mem_strdup(err_msg());
    r->output_len = rd.n_out >= 0 ? (int)rd.n_out : r->n_itl + 1;
    if (rd.n_in >= 0 && b->chat) r->prompt_len = (int)rd.n_in;
    if (rd.keep_text) r->text = buf_take(&rd.text);
    buf_free(&rd.text);
    buf_free(&body);
}

static status number_request(const bench *b, client *c, size_t i)
{
    const char *prefix = flags_str(b->f, "request-id-prefix");
    if (!prefix) return ST_OK;
    buf id = {0};
    buf_printf(&id, "%s%zu", prefix, i);
    status st = buf_status(&id);
    if (st == ST_OK) st = client_request_id(c, buf_cstr(&id));
    buf_free(&id);
    return st;
}

/* ---- threads ---- */

static void *worker(void *arg)
{
    bench *b = arg;
    client *c = NULL;
    for (;;) {
        pthread_mutex_lock(&b->mu);
        size_t i = b->next;
        if (i < b->n) b->next++;
        pthread_mutex_unlock(&b->mu);
        if (i >= b->n) break;
        double wait = b->start_s + b->start_at[i] - clock_now();
        if (wait > 0) {
            struct timespec ts = { (time_t)wait, (long)((wait - floor(wait)) * 1e9) };
            nanosleep(&ts, NULL);
        }
        client_options co = { .base_url = b->url, .api_key = flags_str(b->f, "api-key"), .headers = b->headers, .insecure = flags_bool(b->f, "insecure", false) };
        status st = c ? ST_OK : client_open(&co, &c);
        if (st == ST_OK) st = number_request(b, c, i);
        if (st == ST_OK) one_request(b, c, &b->prompts[i], &b->reqs[i]);
        else b->reqs[i].error = mem_strdup(err_msg());
        pthread_mutex_lock(&b->mu);
        b->n_done++;
        b->n_failed += b->reqs[i].error != NULL;
        pthread_cond_signal(&b->cv);
        pthread_mutex_unlock(&b->mu);
    }
    client_close(c);
    return NULL;
}

static void show_progress(bench *b, bool last)
{
    if (flags_bool(b->f, "disable-tqdm", false)) return;
    fprintf(stderr, isatty(STDERR_FILENO) ? "\r%zu of %zu requests, %zu failed, %.0f s%s" : "%zu of %zu requests, %zu failed, %.0f s%s", b->n_done, b->n, b->n_failed,
            clock_now() - b->start_s, !isatty(STDERR_FILENO) || last ? "\n" : "");
}

static status drive(bench *b, size_t n_threads)
{
    pthread_t *th = mem_array(n_threads, sizeof *th);
    if (!th) return err_nomem();
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 256 << 10);
    size_t started = 0;
    b->start_s = clock_now();
    while (started < n_threads && pthread_create(&th[started], &attr, worker, b) == 0) started++;
    pthread_attr_destroy(&attr);
    double shown = clock_now();
    pthread_mutex_lock(&b->mu);
    while (started > 0 && b->n_done < b->n) {
        struct timespec ts;
        clock_gettime(CLOCK_REALTIME, &ts);
        ts.tv_sec += 1;
        pthread_cond_timedwait(&b->cv, &b->mu, &ts);
        if (clock_now() - shown > (isatty(STDERR_FILENO) ? 0.5 : 10)) {
            show_progress(b, false);
            shown = clock_now();
        }
    }
    pthread_mutex_unlock(&b->mu);
    for (size_t i = 0; i < started; i++) pthread_join(th[i], NULL);
    mem_free(th);
    if (started == 0) return err_set(ST_IO, "cannot start a thread");
    show_progress(b, true);
    return ST_OK;
}

/* ---- set-up ---- */

static status wait_ready(const bench *b, client *c)
{
    double until = clock_now() + (double)flags_i64(b->f, "ready-check-timeout-sec", 0);
    while (client_json(c, "/v1/models", NULL, NULL) != ST_OK) {
        if (clock_now() >= until) return err_wrap(ST_IO, "%s does not answer", b->url);
        struct timespec ts = { 0, 500000000 };
        nanosleep(&ts, NULL);
    }
    return ST_OK;
}

/* The name to send, and where its tokenizer is: flags first, then what the server tells. */
static status find_model(bench *b, client *c, char *tok_dir, size_t cap)
{
    jv *v = NULL;
    TRY(client_json(c, "/v1/models", NULL, &v));
    const jv *card = jv_at(jv_get(v, "data"), 0);
    const char *model = flags_str(b->f, "model"), *served = flags_str(b->f, "served-model-name"), *tok = flags_str(b->f, "tokenizer");
    snprintf(b->model, sizeof b->model, "%s", served ? served : model ? model : jv_get_str(card, "id", ""));
    snprintf(tok_dir, cap, "%s", tok ? tok : model ? model : jv_get_str(card, "root", ""));
    jv_free(v);
    return b->model[0] ? ST_OK : err_set(ST_INVALID, "%s/v1/models lists no model; give --model", b->url);
}

static status make_headers(bench *b)
{
    int n;
    const char *const *list = flags_list(b->f, "header", &n);
    if (n > 32) return err_set(ST_LIMIT, "more than 32 --header values");
    for (int i = 0; i < n; i++) {
        const char *eq = strchr(list[i], '=');
        if (!eq) return err_set(ST_INVALID, "--header %s: expected name=value", list[i]);
        buf line = {0};
        buf_printf(&line, "%.*s: %s", (int)(eq - list[i]), list[i], eq + 1);
        b->headers[i] = b->header_text[i] = buf_take(&line);
        if (!b->header_text[i]) return err_nomem();
    }
    return ST_OK;
}

static int64_t first_given(const flags *f, const char *a, const char *b, int64_t def)
{
    return flags_given(f, a) ? flags_i64(f, a, def) : flags_i64(f, b, def);
}

static status make_prompts(bench *b, const char *tok_dir)
{
    const flags *f = b->f;
    const char *name = flags_str(f, "dataset-name");
    bool is_random = strcmp(name, "random") == 0, is_prefix = strcmp(name, "prefix_repetition") == 0;
    bench_data_options o = {
        .dataset = name, .path = flags_str(f, "dataset-path"), .n_prompts = (int)flags_i64(f, "num-prompts", 1000), .seed = (uint64_t)flags_i64(f, "seed", 0),
        .input_len = (int)first_given(f, "input-len", "random-input-len", 1024),
        .output_len = (int)(is_random ? first_given(f, "output-len", "random-output-len", 128) : is_prefix ? first_given(f, "output-len", "prefix-repetition-output-len", 128)
                            : strcmp(name, "sharegpt") == 0 ? first_given(f, "output-len", "sharegpt-output-len", 0) : first_given(f, "output-len", "custom-output-len", 0)),
        .range_ratio = flags_f64(f, "random-range-ratio", 0), .prefix_len = (int)flags_i64(f, "random-prefix-len", 0),
        .repeat_prefix_len = (int)flags_i64(f, "prefix-repetition-prefix-len", 256), .repeat_suffix_len = (int)flags_i64(f, "prefix-repetition-suffix-len", 256),
        .repeat_prefixes = (int)flags_i64(f, "prefix-repetition-num-prefixes", 10), .no_oversample = !flags_bool(f, "oversample", true),
    };
    tokenizer *tok = NULL;
    status st = tokenizer_load_dir(tok_dir, &tok);
    if (st != ST_OK) return err_wrap(st, "no tokenizer in '%s' (give --tokenizer DIR)", tok_dir);
    st = bench_data_make(&o, tok, &b->prompts, &b->n);
    tokenizer_free(tok);
    return st;
}

static status warm_up(const bench *b, client *c)
{
    int64_t n = flags_i64(b->f, "num-warmups", 0);
    for (int64_t i = 0; i < n; i++) {
        bench_request r = {0};
        one_request(b, c, &b->prompts[(size_t)i % b->n], &r);
        status st = r.error ? err_set(ST_IO, "warm-up request failed: %s", r.error) : ST_OK;
        mem_free(r.itl);
        mem_free(r.text);
        mem_free(r.error);
        TRY(st);
    }
    return ST_OK;
}

/* ---- results ---- */

static void result_head(const bench *b, jw *w)
{
    char date[32];
    time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    strftime(date, sizeof date, "%Y%m%d-%H%M%S", &tm);
    jw_key(w, "date"), jw_str(w, date);
    jw_key(w, "endpoint_type"), jw_str(w, b->kind);
    jw_key(w, "backend"), jw_str(w, b->kind);
    jw_key(w, "label"), jw_str(w, flags_str(b->f, "label"));
    jw_key(w, "model_id"), jw_str(w, b->model);
    jw_key(w, "tokenizer_id"), jw_str(w, flags_str(b->f, "tokenizer") ? flags_str(b->f, "tokenizer") : b->model);
    jw_key(w, "num_prompts"), jw_i64(w, (int64_t)b->n);
    int n;
    const char *const *meta = flags_list(b->f, "metadata", &n);
    for (int i = 0; i < n; i++) {
        const char *eq = strchr(meta[i], '=');
        jw_keyn(w, meta[i], eq ? (size_t)(eq - meta[i]) : strlen(meta[i]));
        jw_str(w, eq ? eq + 1 : NULL);
    }
    jw_key(w, "request_rate");
    if (isfinite(b->rate)) jw_f64(w, b->rate);
    else jw_str(w, "inf");
    jw_key(w, "burstiness"), jw_f64(w, flags_f64(b->f, "burstiness", 1));
    jw_key(w, "max_concurrency");
    if (flags_given(b->f, "max-concurrency")) jw_i64(w, flags_i64(b->f, "max-concurrency", 0));
    else jw_null(w);
}

static bool wants_file(const flags *f)
{
    return flags_bool(f, "save-result", false) || flags_bool(f, "save-detailed", false) || flags_bool(f, "append-result", false);
}

/* Makes the directory if need be and fills in the path; asked once before the run, so that the figures have a place to go. */
static status result_path(const bench *b, char *path, size_t cap)
{
    char made[600];
    const char *dir = flags_str(b->f, "result-dir"), *name = flags_str(b->f, "result-filename");
    if (!name) {
        const char *base = strrchr(b->model, '/');
        char when[32];
        time_t now = time(NULL);
        struct tm tm;
        localtime_r(&now, &tm);
        strftime(when, sizeof when, "%Y%m%d-%H%M%S", &tm);
        snprintf(made, sizeof made, "%s-%gqps-%.400s-%s.json", b->kind, b->rate, base ? base + 1 : b->model, when);
        name = made;
    }
    int n = snprintf(path, cap, "%s%s%s", dir ? dir : "", dir ? "/" : "", name);
    if (n < 0 || (size_t)n >= cap) return err_set(ST_INVALID, "the path of the results is too long");
    if (dir && mkdir(dir, 0777) != 0 && errno != EEXIST) return err_errno("cannot make --result-dir %s", dir);
    return bench_check_writable(path);
}

static status report(const bench *b, double duration)
{
    char path[1200];
    buf text = {0}, json = {0};
    jw w = jw_to(&json);
    jw_obj(&w);
    result_head(b, &w);
    status st = bench_report(b->reqs, b->n, duration, &b->report, &text, &w);
    if (flags_bool(b->f, "save-detailed", false)) bench_detail(b->reqs, b->n, b->start_s, &w);
    jw_end_obj(&w);
    if (st == ST_OK) st = buf_status(&json);
    if (st == ST_OK) fputs(buf_cstr(&text), stdout);
    if (st == ST_OK && wants_file(b->f)) {
        fflush(stdout);
        st = result_path(b, path, sizeof path);
        if (st == ST_OK) st = bench_write_file(path, &json, flags_bool(b->f, "append-result", false));
    }
    buf_free(&text);
    buf_free(&json);
    return st;
}

static status run(bench *b, client *c)
{
    char tok_dir[1024], path[1200];
    TRY(wait_ready(b, c));
    TRY(find_model(b, c, tok_dir, sizeof tok_dir));
    if (wants_file(b->f)) TRY(result_path(b, path, sizeof path));
    TRY(make_prompts(b, tok_dir));
    b->reqs = mem_calloc(b->n, sizeof *b->reqs);
    b->start_at = mem_calloc(b->n, sizeof *b->start_at);
    if (!b->reqs || !b->start_at) return err_nomem();
    plan_arrivals(b);
    TRY(warm_up(b, c));
    int64_t most = flags_i64(b->f, "max-concurrency", 0);
    size_t n_threads = most > 0 && (size_t)most < b->n ? (size_t)most : b->n;
    printf("Starting main benchmark run: %zu requests to %s%s, model %s\n", b->n, b->url, b->path, b->model);
    fflush(stdout);
    TRY(drive(b, n_threads > 4096 ? 4096 : n_threads));
    TRY(report(b, clock_now() - b->start_s));
    for (size_t i = 0; i < b->n; i++)
        if (b->reqs[i].error) return err_set(ST_IO, "%zu of %zu requests failed; the first: %s", b->n_failed, b->n, b->reqs[i].error);
    return ST_OK;
}

int bench_serve_main(int argc, char **argv)
{
    flags *f;
    int rc;
    if (!command_flags(&set, argc, argv, &f, &rc)) return rc;
    bench b = { .f = f, .mu = PTHREAD_MUTEX_INITIALIZER, .cv = PTHREAD_COND_INITIALIZER };
    const char *base = flags_str(f, "base-url");
    b.kind = flags_str(f, flags_given(f, "endpoint-type") ? "endpoint-type" : "backend");
    b.chat = strcmp(b.kind, "openai-chat") == 0;
    b.path = flags_str(f, "endpoint") ? flags_str(f, "endpoint") : b.chat ? "/v1/chat/completions" : "/v1/completions";
    if (base) snprintf(b.url, sizeof b.url, "%s", base);
    else snprintf(b.url, sizeof b.url, "http://%s:%d", flags_str(f, "host"), (int)flags_i64(f, "port", 8000));
    client *c = NULL;
    client_options co = { .base_url = b.url, .api_key = flags_str(f, "api-key"), .headers = b.headers, .insecure = flags_bool(f, "insecure", false) };
    status st = check_flags(&b);
    if (st == ST_OK) st = make_headers(&b);
    bool usage = st == ST_INVALID;
    if (st == ST_OK) st = client_open(&co, &c);
    if (st == ST_OK) st = run(&b, c);
    if (st != ST_OK) rc = command_failed(&set);
    if (usage) rc = COMMAND_USAGE;
    client_close(c);
    bench_data_free(b.prompts, b.n);
    bench_requests_free(b.reqs, b.n);
    mem_free(b.start_at);
    for (int i = 0; i < 32; i++) mem_free(b.header_text[i]);
    flags_free(f);
    return rc;
}
