#include "cli/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/server.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "cli/serve_model.h"
#include "engine/engine.h"

/* Everything that a server is made of, in the order of making. */
struct serving {
    const flags *f;
    const char *private_uds;        /* answer there alone, whatever the flags say; or NULL */
    instance model;
    text_parts text;
    api_server *api;
    const char *names[2];           /* the model's own name, when none was given */
    const char *env_key[2];
    const char *skip[64];           /* paths without access log */
    char skip_text[4096];
    char fingerprint[96];
};

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

/* ---- the API's options ---- */
static const char *make_fingerprint(serving *s)
{
    const char *mode = flags_str(s->f, "fingerprint-mode");
    uint8_t sum[SHA256_BYTES];
    char hex[9];
    buf b = {0};
    if (strcmp(mode, "none") == 0) return NULL;
    if (strcmp(mode, "custom") == 0) return flags_str(s->f, "fingerprint-value");
    buf_printf(&b, "%s|%d|%d|%d|", flags_str(s->f, "model"), (int)s->model.dt, (int)s->model.kv_dt, s->model.eo.max_model_len);
    jw w = jw_to(&b);
    jw_value(&w, s->model.files->config);
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
        .max_header_bytes = (size_t)flags_i64(f, "h11-max-incomplete-event-size", 0), .max_header_count = (int)instance_i64(f, "h11-max-header-count", 0),
        .keep_alive_s = keep && *keep ? strtod(keep, NULL) : 0, .n_workers = (int)instance_i64(f, "renderer-num-workers", 4),
    };
    access_log_flags(s, &h);
    if (s->private_uds) {
        h.uds = s->private_uds;
        h.ssl_certfile = NULL;
        h.access_log = false;
    }
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
        .engine = s->model.e, .served_names = name_flags(s), .model_root = flags_str(f, "model"), .vocab_size = model_describe(s->model.m)->vocab_size,
        .max_model_len = s->model.eo.max_model_len, .max_logprobs = (int)instance_i64(f, "max-logprobs", 20),
        .tok = s->text.tok, .chat_template = s->text.chat, .tool_template = s->text.tool, .template_tokens = s->text.tokens,
        .content_format = (content_format)instance_choice(flags_str(f, "chat-template-content-format"), formats, 3),
        .trust_request_chat_template = flags_bool(f, "trust-request-chat-template", false), .trust_request_mm_kwargs = flags_bool(f, "trust-request-mm-kwargs", false), .default_template_kwargs = flags_json(f, "default-chat-template-kwargs"),
        .response_role = flags_str(f, "response-role"), .exclude_tools_when_none = flags_bool(f, "exclude-tools-when-tool-choice-none", false),
        .default_sampling = s->text.sampling, .eos_id = s->text.eos_id, .harmony = s->text.harmony ? &s->text.marks : NULL, .extra_eos = s->text.extra_eos, .n_extra_eos = s->text.n_extra,
        .api_keys = key_flags(s), .allowed_origins = list_flag(f, "allowed-origins"), .allowed_methods = list_or_any(f, "allowed-methods"),
        .allowed_headers = list_or_any(f, "allowed-headers"), .allow_credentials = flags_bool(f, "allow-credentials", false),
        .request_id_headers = flags_bool(f, "enable-request-id-headers", false), .load_tracking = flags_bool(f, "enable-server-load-tracking", false),
        .no_docs = flags_bool(f, "disable-fastapi-docs", false), .root_path = flags_str(f, "root-path"),
        .log_requests = flags_bool(f, "enable-log-requests", false), .log_outputs = flags_bool(f, "enable-log-outputs", false),
        .no_log_deltas = !flags_bool(f, "enable-log-deltas", true), .no_log_stats = flags_bool(f, "disable-log-stats", false), .max_log_len = (int)instance_i64(f, "max-log-len", 0),
        .prompt_tokens_details = flags_bool(f, "enable-prompt-tokens-details", false), .force_include_usage = flags_bool(f, "enable-force-include-usage", false),
        .per_request_metrics = flags_bool(f, "enable-per-request-metrics", false), .tokens_as_ids = flags_bool(f, "return-tokens-as-token-ids", false),
        .tokenizer_info = flags_bool(f, "enable-tokenizer-info-endpoint", false), .sse_keep_alive_s = flags_f64(f, "sse-keep-alive-interval", 0),
        .fingerprint = make_fingerprint(s), .stream_interval = (int)instance_i64(f, "stream-interval", 1),
        .cache_dtype = flags_str(f, "kv-cache-dtype"), .prefix_hash_algo = flags_str(f, "prefix-caching-hash-algo"),
        .memory_fraction = flags_f64(f, "gpu-memory-utilization", 0.92), .kv_cache_bytes = flags_i64(f, "kv-cache-memory-bytes", 0),
        .histogram_buckets = flags_json(f, "custom-histogram-buckets"),
        .media_processor = s->model.processor, .towers = s->model.towers, .media_config = s->model.files->config, .media_limits = flags_json(f, "limit-mm-per-prompt"), .media_io = flags_json(f, "media-io-kwargs"),
        .media_domains = list_flag(f, "allowed-media-domains"), .media_path = flags_str(f, "allowed-local-media-path"), .http = http_flags(s),
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
        if (!stay && !engine_healthy(s->model.e)) return false;
    }
}

static void close_all(serving *s)
{
    instance_stop(&s->model, 0);
    api_free(s->api);
    text_parts_free(&s->text);
    instance_close(&s->model, 0);
}

static status check_flags(const flags *f)
{
    TRY(flags_check_range(f, "port", 0, 65535));
    static const struct { const char *name; int64_t min; } all[] = {
        { "stream-interval", 1 }, { "renderer-num-workers", 1 }, { "h11-max-incomplete-event-size", 1 }, { "h11-max-header-count", 1 }, { "ssl-cert-reqs", 0 },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) TRY(flags_check_range(f, all[i].name, all[i].min, INT32_MAX));
    return instance_check_flags(f);
}

static status open_all(serving *s)
{
    TRY(check_flags(s->f));
    TRY(instance_open(s->f, &s->model));
    TRY(text_parts_open(s->f, s->model.files, model_describe(s->model.m), &s->text));
    atomic_store(&is_serving, true); /* before a client can know: whoever got an answer and then ends the server gets an orderly end */
    return start_api(s);
}

status serving_open(const flags *f, const char *private_uds, serving **out)
{
    serving *s = mem_calloc(1, sizeof *s);
    if (!s) return err_nomem();
    s->f = f;
    s->private_uds = private_uds;
    status st = open_all(s);
    if (st != ST_OK) {
        close_all(s);
        mem_free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

void serving_close(serving *s, double drain_s)
{
    if (!s) return;
    api_close(s->api, drain_s);
    close_all(s);
    mem_free(s);
}

static int run(serving *s)
{
    int rc = 0;
    log_info("vLLM API server version " API_VLLM_VERSION " (Systolic " SYSTOLIC_VERSION ")");
    buf args = {0};
    flags_repr(s->f, &args);
    log_info("non-default args: %s", buf_cstr(&args));
    buf_free(&args);
    status st = catch_signals();
    if (st == ST_OK) st = open_all(s);
    if (st != ST_OK) {
        rc = command_failed(&serve_flags);
    } else {
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
    close_all(s);
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
    flags *f;
    int rc;
    if (!command_flags(&serve_flags, argc, argv, &f, &rc)) return rc;
    if (log_flags(f) != ST_OK) {
        command_failed(&serve_flags);
        rc = COMMAND_USAGE;
    } else {
        serving s = { .f = f };
        rc = run(&s);
    }
    flags_free(f);
    return rc;
}
