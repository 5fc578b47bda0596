#include "cli/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/server.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/serve_model.h"
#include "device/device.h"
#include "engine/engine.h"
#include "load/hub.h"

enum { EXIT_USAGE = 2 };

/* Everything that a server is made of, in the order of making. */
typedef struct serving {
    const flags *f;
    char *dir;                      /* where the model's files are */
    model_dir *files;
    model *m;
    weight_source *weights;
    device *dev;
    device_model *loaded;
    engine *e;
    text_parts text;
    api_server *api;
    dtype dt, kv_dt;
    engine_options eo;
    const char *names[2];           /* the model's own name, when none was given */
    const char *env_key[2];
    const char *skip[64];           /* paths without access log */
    char skip_text[4096];
    char fingerprint[96];
} serving;

/* ---- signals: the first one asks for a shutdown, the second one ends the process ---- */
static atomic_int signals_seen;
static atomic_bool is_serving;
static int wake_pipe[2] = { -1, -1 };

static void on_signal(int sig)
{
    (void)sig;
    if (!atomic_load(&is_serving)) _exit(0); /* still loading: nothing to drain */
    if (atomic_fetch_add(&signals_seen, 1) > 0) _exit(130);
    int saved = errno;
    ssize_t n = write(wake_pipe[1], "x", 1);
    (void)n;
    errno = saved;
}

static status catch_signals(void)
{
    if (pipe(wake_pipe) != 0) return err_errno("pipe");
    for (int i = 0; i < 2; i++) fcntl(wake_pipe[i], F_SETFD, FD_CLOEXEC);
    struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    signal(SIGPIPE, SIG_IGN);
    return ST_OK;
}

/* ---- model ---- */
static status resolve_model(serving *s)
{
    const char *load = flags_str(s->f, "load-format");
    hub_options h = {
        .revision = flags_str(s->f, "revision"), .token = flags_str(s->f, "hf-token"), .download_dir = flags_str(s->f, "download-dir"),
        .ignore = flags_list(s->f, "ignore-patterns", NULL), .weights = strcmp(load, "dummy") != 0, .progress = flags_bool(s->f, "use-tqdm-on-load", true),
    };
    TRY(hub_resolve(flags_str(s->f, "model"), &h, &s->dir));
    TRY(model_dir_open(s->dir, &s->files));
    return merge_json(s->files->config, flags_json(s->f, "hf-overrides"));
}

static dtype dtype_of(const char *name, dtype automatic)
{
    if (strcmp(name, "half") == 0 || strcmp(name, "float16") == 0) return DT_F16;
    if (strcmp(name, "bfloat16") == 0) return DT_BF16;
    if (strcmp(name, "float") == 0 || strcmp(name, "float32") == 0) return DT_F32;
    return automatic;
}

/* The type in config.json: "torch_dtype", or "dtype" as newer files call it. */
static dtype checkpoint_dtype(const jv *config)
{
    const char *name = jv_get_str(config, "torch_dtype", NULL);
    if (!name) name = jv_get_str(config, "dtype", NULL);
    if (!name) name = jv_get_str(jv_get(config, "text_config"), "torch_dtype", "float32");
    return dtype_of(name, DT_F32);
}

static int64_t in_range(const flags *f, const char *name, int64_t def)
{
    int64_t v = flags_i64(f, name, def);
    return v > INT32_MAX ? INT32_MAX : v;
}

static status check_ranges(const flags *f)
{
    static const struct { const char *name; int64_t min; } all[] = {
        { "max-num-batched-tokens", 1 }, { "max-num-seqs", 1 }, { "max-model-len", -1 }, { "block-size", 1 }, { "max-num-active-seqs", 1 }, { "max-num-queued-reqs", 1 },
        { "max-num-queued-tokens", 1 }, { "long-prefill-token-threshold", 0 }, { "num-gpu-blocks-override", 1 }, { "kv-cache-memory-bytes", 1 }, { "max-logprobs", -1 },
        { "port", 0 }, { "threads", 0 }, { "stream-interval", 1 }, { "renderer-num-workers", 1 }, { "h11-max-incomplete-event-size", 1 }, { "h11-max-header-count", 1 }, { "ssl-cert-reqs", 0 },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (flags_given(f, all[i].name) && flags_i64(f, all[i].name, 0) < all[i].min)
            return err_set(ST_INVALID, "argument --%s: must be at least %lld, got %lld", all[i].name, (long long)all[i].min, (long long)flags_i64(f, all[i].name, 0));
    if (flags_i64(f, "port", 0) > 65535) return err_set(ST_INVALID, "argument --port: must be at most 65535");
    double w = flags_f64(f, "gpu-memory-utilization", 0.92);
    if (!(w > 0 && w <= 1)) return err_set(ST_INVALID, "argument --gpu-memory-utilization: must be in (0, 1], got %g", w);
    return ST_OK;
}

static int choice(const char *name, const char *const *all, int n)
{
    for (int i = 0; i < n; i++)
        if (strcmp(name, all[i]) == 0) return i;
    return 0;
}

static void engine_flags(serving *s)
{
    static const char *const modes[] = { "raw_logprobs", "processed_logprobs", "raw_logits", "processed_logits" };
    static const char *const algos[] = { "sha256", "sha256_cbor", "xxhash", "xxhash_cbor" };
    const flags *f = s->f;
    int64_t len = in_range(f, "max-model-len", 0);
    s->eo = (engine_options){
        .max_num_batched_tokens = (int)in_range(f, "max-num-batched-tokens", 0), .max_num_seqs = (int)in_range(f, "max-num-seqs", 0),
        .max_model_len = len > 0 ? (int)len : 0, .block_size = (int)in_range(f, "block-size", 0),
        .max_num_active_seqs = (int)in_range(f, "max-num-active-seqs", 0), .max_num_queued_reqs = (int)in_range(f, "max-num-queued-reqs", 0),
        .max_num_queued_tokens = flags_i64(f, "max-num-queued-tokens", 0), .long_prefill_token_threshold = (int)in_range(f, "long-prefill-token-threshold", 0),
        .no_chunked_prefill = !flags_bool(f, "enable-chunked-prefill", true), .no_prefix_caching = !flags_bool(f, "enable-prefix-caching", true),
        .no_async_scheduling = !flags_bool(f, "async-scheduling", true), .no_reserve_full_isl = !flags_bool(f, "scheduler-reserve-full-isl", true),
        .watermark = flags_f64(f, "watermark", 0), .policy = strcmp(flags_str(f, "scheduling-policy"), "priority") == 0 ? SCHED_PRIORITY : SCHED_FCFS,
        .hash_algo = (hash_algo)choice(flags_str(f, "prefix-caching-hash-algo"), algos, 4),
        .logprobs_mode = (logprobs_mode)choice(flags_str(f, "logprobs-mode"), modes, 4),
        .kv_cache_bytes = flags_i64(f, "kv-cache-memory-bytes", 0), .num_blocks_override = (int)in_range(f, "num-gpu-blocks-override", 0),
        .kv_dtype = s->kv_dt, .seed = (uint64_t)flags_i64(f, "seed", 0), .shutdown_timeout_s = flags_f64(f, "shutdown-timeout", 0),
    };
}

static void log_engine(const serving *s, const device_info *di)
{
    const model_info *mi = model_describe(s->m);
    log_info("Initializing a V1 LLM engine (v" API_VLLM_VERSION ") with config: model='%s', architecture=%s, dtype=%s, max_seq_len=%d, kv_cache_dtype=%s, device=%s (%s, %s, %d threads), "
             "max_num_batched_tokens=%d, max_num_seqs=%d, block_size=%d, enable_prefix_caching=%s, seed=%llu",
             flags_str(s->f, "model"), mi->architecture, dtype_name(s->dt), s->eo.max_model_len, dtype_name(s->kv_dt), di->platform, di->name, di->isa, di->n_threads,
             s->eo.max_num_batched_tokens, s->eo.max_num_seqs, s->eo.block_size, s->eo.no_prefix_caching ? "False" : "True", (unsigned long long)s->eo.seed);
}

static status load_model(serving *s)
{
    const flags *f = s->f;
    device_limits limits;
    device_info di;
    const char *spec = flags_str(f, "device");
    s->dt = dtype_of(flags_str(f, "dtype"), checkpoint_dtype(s->files->config));
    s->kv_dt = dtype_of(flags_str(f, "kv-cache-dtype"), s->dt);
    int64_t len = in_range(f, "max-model-len", 0);
    model_options mo = { .weight_dtype = s->dt, .max_model_len = len > 0 ? (int)len : 0 };
    TRY(model_new(s->files->config, &mo, &s->m));
    engine_flags(s);
    TRY(engine_plan(&s->eo, model_describe(s->m), &s->eo, &limits));
    device_options dopt = { .n_threads = (int)in_range(f, "threads", 0), .isa = flags_str(f, "isa") };
    TRY(device_open(strcmp(spec, "auto") == 0 ? "cpu" : spec, &dopt, &s->dev));
    device_describe(s->dev, &di);
    log_engine(s, &di);
    bool dummy = strcmp(flags_str(f, "load-format"), "dummy") == 0;
    double t0 = clock_now();
    TRY(model_weights_open(s->m, s->dir, dummy, s->eo.seed, &s->weights));
    TRY(device_load(s->dev, model_graph(s->m), s->weights, &limits, NULL, NULL, &s->loaded));
    log_info("Loading weights took %.2f seconds", clock_now() - t0);
    t0 = clock_now();
    TRY(engine_start(s->loaded, s->m, &s->eo, &s->e));
    log_info("init engine (profile, create kv cache, warmup model) took %.2f seconds", clock_now() - t0);
    return ST_OK;
}

/* ---- the API's options ---- */
static const char *make_fingerprint(serving *s)
{
    const char *mode = flags_str(s->f, "fingerprint-mode");
    uint8_t sum[SHA256_BYTES];
    char hex[9];
    buf b = {0};
    if (strcmp(mode, "none") == 0) return NULL;
    if (strcmp(mode, "custom") == 0) return flags_str(s->f, "fingerprint-value");
    buf_printf(&b, "%s|%d|%d|%d|", flags_str(s->f, "model"), (int)s->dt, (int)s->kv_dt, s->eo.max_model_len);
    jw w = jw_to(&b);
    jw_value(&w, s->files->config);
    sha256(buf_cstr(&b), b.len, sum);
    hash_hex(sum, 4, hex);
    buf_free(&b);
    snprintf(s->fingerprint, sizeof s->fingerprint, strcmp(mode, "hash") == 0 ? "%s" : "vllm-" API_VLLM_VERSION "-%s", hex);
    return s->fingerprint;
}

static str_list list_flag(const flags *f, const char *name)
{
    str_list l;
    l.v = flags_list(f, name, &l.n);
    return l;
}

/* The list, or everything when the flag is absent. */
static str_list list_or_any(const flags *f, const char *name)
{
    static const char *const star[] = { "*" };
    return flags_given(f, name) ? list_flag(f, name) : (str_list){ star, 1 };
}

static void access_log_flags(serving *s, http_options *h)
{
    const char *level = flags_str(s->f, "uvicorn-log-level"), *skip = flags_str(s->f, "disable-access-log-for-endpoints");
    bool quiet = strcmp(level, "warning") == 0 || strcmp(level, "error") == 0 || strcmp(level, "critical") == 0;
    h->access_log = !quiet && !flags_bool(s->f, "disable-uvicorn-access-log", false);
    if (!skip) return;
    snprintf(s->skip_text, sizeof s->skip_text, "%s", skip);
    int n = 0;
    char *save = NULL;
    for (char *p = strtok_r(s->skip_text, ", ", &save); p && n < 63; p = strtok_r(NULL, ", ", &save)) s->skip[n++] = p;
    h->access_log_skip = s->skip;
}

static http_options http_flags(serving *s)
{
    const flags *f = s->f;
    const char *keep = getenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE");
    http_options h = {
        .host = flags_str(f, "host"), .port = (int)flags_i64(f, "port", 8000), .uds = flags_str(f, "uds"), .ssl_certfile = flags_str(f, "ssl-certfile"),
        .ssl_keyfile = flags_str(f, "ssl-keyfile"), .ssl_ca_certs = flags_str(f, "ssl-ca-certs"), .ssl_ciphers = flags_str(f, "ssl-ciphers"),
        .ssl_cert_reqs = (int)flags_i64(f, "ssl-cert-reqs", 0), .ssl_refresh = flags_bool(f, "enable-ssl-refresh", false),
        .max_header_bytes = (size_t)flags_i64(f, "h11-max-incomplete-event-size", 0), .max_header_count = (int)in_range(f, "h11-max-header-count", 0),
        .keep_alive_s = keep && *keep ? strtod(keep, NULL) : 0, .n_workers = (int)in_range(f, "renderer-num-workers", 4),
    };
    access_log_flags(s, &h);
    return h;
}

static str_list key_flags(serving *s)
{
    str_list keys = list_flag(s->f, "api-key");
    const char *env = getenv("VLLM_API_KEY");
    if (keys.n == 0 && env && *env) {
        s->env_key[0] = env;
        keys = (str_list){ s->env_key, 1 };
    }
    return keys;
}

static str_list name_flags(serving *s)
{
    str_list names = list_flag(s->f, "served-model-name");
    if (names.n > 0) return names;
    s->names[0] = flags_str(s->f, "model");
    return (str_list){ s->names, 1 };
}

static status start_api(serving *s)
{
    static const char *const formats[] = { "auto", "string", "openai" };
    const flags *f = s->f;
    api_options o = {
        .engine = s->e, .served_names = name_flags(s), .model_root = flags_str(f, "model"), .vocab_size = model_describe(s->m)->vocab_size,
        .max_model_len = s->eo.max_model_len, .max_logprobs = (int)in_range(f, "max-logprobs", 20),
        .tok = s->text.tok, .chat_template = s->text.chat, .tool_template = s->text.tool, .template_tokens = s->text.tokens,
        .content_format = (content_format)choice(flags_str(f, "chat-template-content-format"), formats, 3),
        .trust_request_chat_template = flags_bool(f, "trust-request-chat-template", false), .default_template_kwargs = flags_json(f, "default-chat-template-kwargs"),
        .response_role = flags_str(f, "response-role"), .exclude_tools_when_none = flags_bool(f, "exclude-tools-when-tool-choice-none", false),
        .default_sampling = s->text.sampling, .eos_id = s->text.eos_id, .extra_eos = s->text.extra_eos, .n_extra_eos = s->text.n_extra,
        .api_keys = key_flags(s), .allowed_origins = list_flag(f, "allowed-origins"), .allowed_methods = list_or_any(f, "allowed-methods"),
        .allowed_headers = list_or_any(f, "allowed-headers"), .allow_credentials = flags_bool(f, "allow-credentials", false),
        .request_id_headers = flags_bool(f, "enable-request-id-headers", false), .load_tracking = flags_bool(f, "enable-server-load-tracking", false),
        .no_docs = flags_bool(f, "disable-fastapi-docs", false), .root_path = flags_str(f, "root-path"),
        .log_requests = flags_bool(f, "enable-log-requests", false), .log_outputs = flags_bool(f, "enable-log-outputs", false),
        .no_log_deltas = !flags_bool(f, "enable-log-deltas", true), .no_log_stats = flags_bool(f, "disable-log-stats", false), .max_log_len = (int)in_range(f, "max-log-len", 0),
        .prompt_tokens_details = flags_bool(f, "enable-prompt-tokens-details", false), .force_include_usage = flags_bool(f, "enable-force-include-usage", false),
        .per_request_metrics = flags_bool(f, "enable-per-request-metrics", false), .tokens_as_ids = flags_bool(f, "return-tokens-as-token-ids", false),
        .tokenizer_info = flags_bool(f, "enable-tokenizer-info-endpoint", false), .sse_keep_alive_s = flags_f64(f, "sse-keep-alive-interval", 0),
        .fingerprint = make_fingerprint(s), .stream_interval = (int)in_range(f, "stream-interval", 1),
        .cache_dtype = flags_str(f, "kv-cache-dtype"), .prefix_hash_algo = flags_str(f, "prefix-caching-hash-algo"),
        .memory_fraction = flags_f64(f, "gpu-memory-utilization", 0.92), .kv_cache_bytes = flags_i64(f, "kv-cache-memory-bytes", 0),
        .histogram_buckets = flags_json(f, "custom-histogram-buckets"), .http = http_flags(s),
    };
    return api_start(&o, &s->api);
}

static void announce(const serving *s)
{
    const char *host = flags_str(s->f, "host"), *uds = flags_str(s->f, "uds"), *scheme = flags_str(s->f, "ssl-certfile") ? "https" : "http";
    if (!host || !*host) host = "0.0.0.0";
    bool v6 = strchr(host, ':') != NULL;
    if (uds) log_info("Starting vLLM server on unix:%s", uds);
    else log_info("Starting vLLM server on %s://%s%s%s:%d", scheme, v6 ? "[" : "", host, v6 ? "]" : "", api_port(s->api));
    api_log_routes();
    log_plain("INFO:     Started server process [%d]", (int)getpid());
    log_plain("INFO:     Waiting for application startup.");
    log_plain("INFO:     Application startup complete.");
}

/* ---- running and stopping ---- */
/* Waits for a signal (true) or for the engine's death (false). */
static bool wait_for_end(const serving *s)
{
    const char *keep = getenv("VLLM_KEEP_ALIVE_ON_ENGINE_DEATH");
    bool stay = keep && strcmp(keep, "1") == 0;
    struct pollfd p = { .fd = wake_pipe[0], .events = POLLIN };
    for (;;) {
        if (atomic_load(&signals_seen) > 0) return true;
        poll(&p, 1, 250);
        if (!stay && !engine_healthy(s->e)) return false;
    }
}

static void free_all(serving *s)
{
    if (s->e) engine_stop(s->e, 0);
    api_free(s->api);
    text_parts_free(&s->text);
    if (s->loaded) device_unload(s->loaded);
    if (s->weights) model_weights_close(s->weights);
    if (s->dev) device_close(s->dev);
    if (s->m) model_free(s->m);
    if (s->files) model_dir_free(s->files);
    mem_free(s->dir);
}

static int run(serving *s)
{
    int rc = 0;
    log_info("vLLM API server version " API_VLLM_VERSION " (Systolic " SYSTOLIC_VERSION ")");
    buf args = {0};
    flags_repr(s->f, &args);
    log_info("non-default args: %s", buf_cstr(&args));
    buf_free(&args);
    status st = check_ranges(s->f);
    if (st == ST_OK) st = catch_signals();
    if (st == ST_OK) st = resolve_model(s);
    if (st == ST_OK) st = load_model(s);
    if (st == ST_OK) st = text_parts_open(s->f, s->files, model_describe(s->m), &s->text);
    if (st == ST_OK) st = start_api(s);
    if (st != ST_OK) {
        fprintf(stderr, "systolic serve: error: %s\n", err_msg());
        rc = EXIT_FAILURE;
    } else {
        atomic_store(&is_serving, true);
        announce(s);
        double drain_s = 0;
        if (wait_for_end(s)) {
            drain_s = flags_f64(s->f, "shutdown-timeout", 0);
        } else {
            log_error("The engine has failed; the server ends. VLLM_KEEP_ALIVE_ON_ENGINE_DEATH=1 keeps it answering.");
            rc = EXIT_FAILURE;
        }
        api_close(s->api, drain_s);
    }
    free_all(s);
    if (st == ST_OK && rc == 0) log_plain("INFO:     Application shutdown complete.");
    return rc;
}

static status log_flags(const flags *f)
{
    log_level l;
    const char *level = flags_str(f, "log-level");
    if (level) {
        TRY(log_level_parse(level, &l));
        log_set_level(l);
    }
    log_set_json(strcmp(flags_str(f, "logging-config"), "json") == 0);
    return ST_OK;
}

int serve_main(int argc, char **argv)
{
    flags *f = NULL;
    status st = flags_parse(&serve_flags, argc, argv, &f);
    if (st == ST_OK) st = log_flags(f);
    if (st != ST_OK) {
        fprintf(stderr, "systolic serve: error: %s\n", err_msg());
        flags_free(f);
        return EXIT_USAGE;
    }
    int rc = 0;
    if (flags_version(f)) {
        printf("%s (vLLM API %s)\n", SYSTOLIC_VERSION, API_VLLM_VERSION);
    } else if (flags_help(f)) {
        buf text = {0};
        if (flags_write_help(&serve_flags, flags_help(f), &text) != ST_OK) {
            fprintf(stderr, "systolic serve: error: %s\n", err_msg());
            rc = EXIT_USAGE;
        }
        fputs(buf_cstr(&text), stdout);
        buf_free(&text);
    } else {
        serving s = { .f = f };
        rc = run(&s);
    }
    flags_free(f);
    return rc;
}
