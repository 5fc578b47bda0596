/* `systolic bench latency` and `bench throughput`: the engine in this process, no HTTP. vLLM's flags, lines and JSON keys. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "cli/bench_data.h"
#include "cli/bench_stats.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "cli/serve.h"
#include "text/tokenizer.h"

#define G "Benchmark"
static const flag_def latency_defs[] = {
    { "input-len", NULL, G, FLAG_INT, FLAG_YES, "32", NULL, NULL, "Prompt tokens." },
    { "output-len", NULL, G, FLAG_INT, FLAG_YES, "128", NULL, NULL, "Tokens to generate." },
    { "batch-size", NULL, G, FLAG_INT, FLAG_YES, "8", NULL, NULL, "Requests together." },
    { "n", NULL, G, FLAG_INT, FLAG_YES, "1", NULL, NULL, "Sequences per prompt." },
    { "num-iters-warmup", NULL, G, FLAG_INT, FLAG_YES, "10", NULL, NULL, "Rounds that do not count." },
    { "num-iters", NULL, G, FLAG_INT, FLAG_YES, "30", NULL, NULL, "Rounds that count." },
    { "output-json", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "File for the figures." },
    { "disable-detokenize", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Tokens only, which is what is measured here anyway." },
    { "use-beam-search", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Beam search." },
    { "profile", NULL, G, FLAG_BOOL, FLAG_NOT_YET, "off", NULL, NULL, "Profile the run." },
};
static const flag_def throughput_defs[] = {
    { "backend", NULL, G, FLAG_STR, FLAG_YES, "vllm", "vllm|vllm-chat|hf|mii", "vllm", "What runs the requests." },
    { "dataset-name", NULL, G, FLAG_STR, FLAG_YES, "random", "random|sharegpt|custom|prefix_repetition|burstgpt", NULL, "Kind of prompts." },
    { "dataset-path", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "File of the data set." },
    { "num-prompts", NULL, G, FLAG_INT, FLAG_YES, "1000", NULL, NULL, "Number of requests." },
    { "input-len", "random-input-len", G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Prompt tokens (random: 1024)." },
    { "output-len", "random-output-len", G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Tokens to generate (random: 128; others: as the data says)." },
    { "prefix-len", "random-prefix-len", G, FLAG_INT, FLAG_YES, "0", NULL, NULL, "random: tokens that all prompts share." },
    { "random-range-ratio", NULL, G, FLAG_NUM, FLAG_YES, "0.0", NULL, NULL, "random: lengths vary by this share." },
    { "oversample", NULL, G, FLAG_BOOL, FLAG_YES, "on", NULL, NULL, "Draws prompts again where the file has too few." },
    { "n", NULL, G, FLAG_INT, FLAG_YES, "1", NULL, NULL, "Sequences per prompt." },
    { "output-json", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "File for the figures." },
    { "async-engine", NULL, G, FLAG_BOOL, FLAG_IGNORED, "off", NULL, NULL, "The engine is always asynchronous." },
    { "disable-detokenize", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Tokens only, which is what is measured here anyway." },
    { "lora-path", NULL, G, FLAG_STR, FLAG_NOT_YET, NULL, NULL, NULL, "LoRA adapter." },
};
#undef G
static const bench_bound latency_bounds[] = {
    { "input-len", 1, BENCH_MAX_LEN }, { "output-len", 1, BENCH_MAX_LEN }, { "batch-size", 1, BENCH_MAX_PROMPTS }, { "n", 1, 1 << 20 },
    { "num-iters-warmup", 0, INT32_MAX }, { "num-iters", 1, 1 << 24 },
};
static const bench_bound throughput_bounds[] = {
    { "num-prompts", 1, BENCH_MAX_PROMPTS }, { "input-len", 1, BENCH_MAX_LEN }, { "output-len", 1, BENCH_MAX_LEN }, { "prefix-len", 0, BENCH_MAX_LEN }, { "n", 1, 1 << 20 },
};

/* One round of requests: submit all, wait for the last. */
typedef struct round { pthread_mutex_t mu; pthread_cond_t cv; size_t open; int64_t n_tokens; bool failed; char error[512]; } round_state;

static void on_output(const engine_output *o)
{
    round_state *r = o->user;
    pthread_mutex_lock(&r->mu);
    r->n_tokens += o->n_tokens;
    if (o->finish == FINISH_ERROR && !r->failed) {
        r->failed = true;
        snprintf(r->error, sizeof r->error, "%s", o->error ? o->error : "the engine failed");
    }
    if (o->finish != FINISH_NONE && --r->open == 0) pthread_cond_signal(&r->cv);
    pthread_mutex_unlock(&r->mu);
}

/* Runs n prompts, each `copies` times, to their full output length; *n_tokens = tokens generated. */
static status run_round(engine *e, const bench_prompt *p, size_t n, int copies, int64_t *n_tokens)
{
    round_state r = { .mu = PTHREAD_MUTEX_INITIALIZER, .cv = PTHREAD_COND_INITIALIZER, .open = 1 };
    status st = ST_OK;
    for (size_t i = 0; st == ST_OK && i < n * (size_t)copies; i++) {
        const bench_prompt *one = &p[i / (size_t)copies];
        sampling_params sp = { .temperature = 1, .top_p = 1, .repetition_penalty = 1, .max_tokens = one->output_len, .ignore_eos = true, .logprobs = -2, .prompt_logprobs = -2 };
        request_spec spec = { .id = "bench", .prompt = one->ids, .n_prompt = one->n_ids, .params = &sp, .on_output = on_output, .user = &r };
        engine_request *req;
        pthread_mutex_lock(&r.mu);
        r.open++;
        pthread_mutex_unlock(&r.mu);
        st = engine_submit(e, &spec, &req);
        if (st == ST_OK) {
            engine_request_release(req);
        } else {
            pthread_mutex_lock(&r.mu);
            r.open--;
            pthread_mutex_unlock(&r.mu);
        }
    }
    pthread_mutex_lock(&r.mu);
    r.open--;
    while (r.open > 0) pthread_cond_wait(&r.cv, &r.mu);
    pthread_mutex_unlock(&r.mu);
    if (st == ST_OK && r.failed) st = err_set(ST_INTERNAL, "%s", r.error);
    *n_tokens = r.n_tokens;
    return st;
}

static int64_t peak_rss_bytes(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (int64_t)u.ru_maxrss * 1024 : 0;
}

static status write_json(const flags *f, const buf *json)
{
    const char *path = flags_str(f, "output-json");
    TRY(buf_status(json));
    return path ? bench_write_file(path, json, false) : ST_OK;
}

/* ---- latency ---- */

static status latency_report(const flags *f, double *seconds, size_t n)
{
    static const double ps[] = { 10, 25, 50, 75, 90, 99 };
    double avg = bench_mean(seconds, n);
    buf json = {0};
    jw w = jw_to(&json);
    jw_obj(&w);
    jw_key(&w, "avg_latency"), jw_f64(&w, avg);
    jw_key(&w, "latencies"), jw_arr(&w);
    for (size_t i = 0; i < n; i++) jw_f64(&w, seconds[i]);
    jw_end_arr(&w);
    jw_key(&w, "percentiles"), jw_obj(&w);
    printf("Avg latency: %g seconds\n", avg);
    for (size_t i = 0; i < sizeof ps / sizeof *ps; i++) {
        char key[8];
        double v = bench_percentile(seconds, n, ps[i]);
        snprintf(key, sizeof key, "%.0f", ps[i]);
        jw_key(&w, key), jw_f64(&w, v);
        printf("%s%% percentile latency: %g seconds\n", key, v);
    }
    jw_end_obj(&w);
    jw_key(&w, "peak_rss_bytes"), jw_i64(&w, peak_rss_bytes());
    jw_end_obj(&w);
    status st = write_json(f, &json);
    buf_free(&json);
    return st;
}

static status latency_run(const flags *f, engine *e, int vocab, int max_len)
{
    size_t n_batch = (size_t)flags_i64(f, "batch-size", 8);
    int warm = (int)flags_i64(f, "num-iters-warmup", 10), iters = (int)flags_i64(f, "num-iters", 30), copies = (int)flags_i64(f, "n", 1);
    bench_data_options o = { .dataset = "random", .n_prompts = (int)n_batch, .input_len = (int)flags_i64(f, "input-len", 32), .output_len = (int)flags_i64(f, "output-len", 128), .vocab_size = vocab };
    /* The engine would stop early, and the figure would be of something else. */
    if (o.input_len + o.output_len > max_len) return err_set(ST_INVALID, "--input-len %d and --output-len %d do not fit the context length, %d", o.input_len, o.output_len, max_len);
    bench_prompt *p = NULL;
    size_t n = 0;
    double *seconds = mem_array((size_t)iters, sizeof *seconds);
    status st = seconds ? bench_data_make(&o, NULL, &p, &n) : err_nomem();
    for (int i = -warm; st == ST_OK && i < iters; i++) {
        int64_t tokens;
        double t0 = clock_now();
        st = run_round(e, p, n, copies, &tokens);
        if (i >= 0) seconds[i] = clock_now() - t0;
        if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%s %d of %d  ", i < 0 ? "warm-up" : "round", i < 0 ? i + warm + 1 : i + 1, i < 0 ? warm : iters);
        engine_reset_prefix_cache(e); /* the next round must compute its prompts again */
    }
    if (isatty(STDERR_FILENO)) fprintf(stderr, "\n");
    if (st == ST_OK) st = latency_report(f, seconds, (size_t)iters);
    bench_data_free(p, n);
    mem_free(seconds);
    return st;
}

/* ---- throughput ---- */

static status throughput_run(const flags *f, engine *e, const instance *in)
{
    tokenizer *tok = NULL;
    bench_data_options o = {
        .dataset = flags_str(f, "dataset-name"), .path = flags_str(f, "dataset-path"), .n_prompts = (int)flags_i64(f, "num-prompts", 1000), .seed = (uint64_t)flags_i64(f, "seed", 0),
        .input_len = (int)flags_i64(f, "input-len", 0), .output_len = (int)flags_i64(f, "output-len", 0), .range_ratio = flags_f64(f, "random-range-ratio", 0),
        .prefix_len = (int)flags_i64(f, "prefix-len", 0), .no_oversample = !flags_bool(f, "oversample", true), .vocab_size = model_describe(in->m)->vocab_size,
    };
    bool needs_text = strcmp(o.dataset, "random") != 0 && strcmp(o.dataset, "prefix_repetition") != 0;
    const char *tok_dir = flags_str(f, "tokenizer");
    if (needs_text) TRY(tokenizer_load_dir(tok_dir ? tok_dir : in->dir, &tok));
    bench_prompt *p = NULL;
    size_t n = 0;
    status st = bench_data_make(&o, tok, &p, &n);
    tokenizer_free(tok);
    TRY(st);
    int copies = (int)flags_i64(f, "n", 1);
    int64_t n_in = 0, n_out = 0;
    for (size_t i = 0; i < n; i++) n_in += (int64_t)p[i].n_ids * copies;
    double t0 = clock_now();
    st = run_round(e, p, n, copies, &n_out);
    double t = clock_now() - t0;
    bench_data_free(p, n);
    TRY(st);
    printf("Throughput: %.2f requests/s, %.2f total tokens/s, %.2f output tokens/s\n", (double)n / t, (double)(n_in + n_out) / t, (double)n_out / t);
    printf("Total num prompt tokens:  %lld\nTotal num output tokens:  %lld\n", (long long)n_in, (long long)n_out);
    buf json = {0};
    jw w = jw_to(&json);
    jw_obj(&w);
    jw_key(&w, "elapsed_time"), jw_f64(&w, t);
    jw_key(&w, "num_requests"), jw_i64(&w, (int64_t)n);
    jw_key(&w, "total_num_tokens"), jw_i64(&w, n_in + n_out);
    jw_key(&w, "requests_per_second"), jw_f64(&w, (double)n / t);
    jw_key(&w, "tokens_per_second"), jw_f64(&w, (double)(n_in + n_out) / t);
    jw_key(&w, "peak_rss_bytes"), jw_i64(&w, peak_rss_bytes());
    jw_end_obj(&w);
    st = write_json(f, &json);
    buf_free(&json);
    return st;
}

/* ---- both ---- */

static status check_flags(const flags *f, bool latency)
{
    TRY(latency ? bench_check_flags(f, latency_bounds, sizeof latency_bounds / sizeof *latency_bounds)
                : bench_check_flags(f, throughput_bounds, sizeof throughput_bounds / sizeof *throughput_bounds));
    double ratio = latency ? 0 : flags_f64(f, "random-range-ratio", 0);
    return ratio >= 0 && ratio < 1 ? ST_OK : err_set(ST_INVALID, "argument --random-range-ratio: must be in [0, 1), got %g", ratio);
}

static status offline_run(const flags *f, bool latency)
{
    instance in;
    TRY(instance_check_flags(f));
    TRY(bench_check_writable(flags_str(f, "output-json")));
    TRY(instance_open(f, &in));
    status st = latency ? latency_run(f, in.e, model_describe(in.m)->vocab_size, in.eo.max_model_len) : throughput_run(f, in.e, &in);
    instance_close(&in, 0);
    return st;
}

static int offline(const char *prog, const char *summary, const flag_def *own, int n_own, bool latency, int argc, char **argv)
{
    flag_set set = { .prog = prog, .summary = summary, .config = true };
    flag_def *table = NULL;
    flags *f;
    int rc;
    if (serve_flags_with(own, n_own, false, &table, &set.n_defs) != ST_OK) return command_failed(&set);
    set.defs = table;
    if (command_flags(&set, argc, argv, &f, &rc)) {
        if (!log_enabled(LOG_DEBUG)) log_set_level(LOG_WARNING); /* figures, not a server's log */
        if (check_flags(f, latency) != ST_OK) {
            command_failed(&set);
            rc = COMMAND_USAGE;
        } else if (offline_run(f, latency) != ST_OK) {
            rc = command_failed(&set);
        }
        flags_free(f);
    }
    mem_free(table);
    return rc;
}

int bench_latency_main(int argc, char **argv)
{
    return offline("systolic bench latency", "Time of one batch of requests.", latency_defs, sizeof latency_defs / sizeof *latency_defs, true, argc, argv);
}

int bench_throughput_main(int argc, char **argv)
{
    return offline("systolic bench throughput", "Requests and tokens per second.", throughput_defs, sizeof throughput_defs / sizeof *throughput_defs, false, argc, argv);
}
