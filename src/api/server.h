/* The API layer: OpenAI's HTTP API, as vLLM serves it, over an engine. The only place where http and engine meet.
 *
 * Threads: http worker threads parse, tokenise and render, then submit; the engine's callback hands tokens to one of a
 * few output threads (a request stays on one, so its order is kept), which detokenise, look for stop strings and write. */
#ifndef SYSTOLIC_API_SERVER_H
#define SYSTOLIC_API_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/harmony.h"
#include "base/err.h"
#include "base/json.h"
#include "engine/engine.h"
#include "engine/towers.h"
#include "http/http.h"
#include "media/processor.h"
#include "text/jinja.h"
#include "text/tokenizer.h"

/* The vLLM version whose wire behaviour this is; what /version answers. */
#define API_VLLM_VERSION "0.33.0"

typedef enum content_format { CONTENT_AUTO, CONTENT_STRING, CONTENT_OPENAI } content_format;

/* A list of strings that somebody else owns. */
typedef struct str_list { const char *const *v; int n; } str_list;

/* Everything is borrowed until api_stop. Zero means off, none or default unless it says otherwise. */
typedef struct api_options {
    engine *engine;
    str_list served_names;            /* at least one; the first is echoed and is the metrics label */
    const char *model_root;           /* "root" of the model card */
    int vocab_size, max_model_len, max_logprobs /* -1 = vocabulary */;

    const tokenizer *tok;             /* NULL: token ids only (--skip-tokenizer-init) */
    const jinja *chat_template;       /* NULL: chat needs one in the request */
    const jinja *tool_template;       /* the "tool_use" one, where a model has several; or NULL */
    const jv *template_tokens;        /* {"bos_token": "<s>", ...} for templates, or NULL */
    content_format content_format;
    bool trust_request_chat_template, trust_request_mm_kwargs;
    const jv *default_template_kwargs;
    const char *response_role;        /* NULL = "assistant" */
    bool exclude_tools_when_none;

    const jv *default_sampling;       /* temperature, top_p, top_k, min_p, repetition_penalty, max_tokens; or NULL */
    int32_t eos_id;                   /* -1 = none */
    const harmony_marks *harmony;     /* chat answers are in this format (gpt-oss); NULL = they are plain text */
    const int32_t *extra_eos; int n_extra_eos; /* generation_config's further eos ids: reported as stop_reason */

    const struct media_processor *media_processor; towers *towers; /* of multimodal models; or NULL */
    const jv *media_config;           /* config.json */
    const jv *media_limits;           /* --limit-mm-per-prompt, or NULL */
    const jv *media_io;               /* --media-io-kwargs, or NULL */
    str_list media_domains; const char *media_path; /* --allowed-media-domains, --allowed-local-media-path */

    str_list api_keys;                /* none: no check */
    str_list allowed_origins, allowed_methods, allowed_headers; /* no origins: no CORS; "*" is any */
    bool allow_credentials;
    bool request_id_headers, load_tracking, no_docs;
    const char *root_path;

    bool log_requests, log_outputs, no_log_deltas, no_log_stats;
    int max_log_len;                  /* 0 = unlimited */
    bool prompt_tokens_details, force_include_usage, per_request_metrics, tokens_as_ids, tokenizer_info;
    double sse_keep_alive_s;
    const char *fingerprint;          /* NULL: null */
    int stream_interval;              /* 0 = 1 */
    int n_output_threads;             /* 0 = 2 */

    /* for vllm:cache_config_info */
    const char *cache_dtype; const char *prefix_hash_algo; double memory_fraction; int64_t kv_cache_bytes;
    const jv *histogram_buckets;      /* --custom-histogram-buckets, or NULL */

    http_options http;
} api_options;

typedef struct api_server api_server;

/* Builds the routes, starts the output threads and the HTTP server. */
status api_start(const api_options *o, api_server **out) FALLIBLE;
int api_port(const api_server *a);
/* Logs the routes, as vLLM does at start-up. */
void api_log_routes(void);
/* From now on /health and new requests answer 503; open ones go on for up to `seconds`, then they are aborted, which is
 * an answer too. Ends the HTTP server: afterwards nothing calls the engine any more. */
void api_close(api_server *a, double seconds);
/* After api_close, and after engine_stop: the engine's callbacks need what this frees. */
void api_free(api_server *a);

/* Checks the same request bodies without a server, for tests and fuzzing: parses `body` as a request to `path`
 * ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize") up to the point where it would be submitted.
 * ST_OK, or ST_INVALID with the error message that would be answered. */
status api_check_request(const api_options *o, const char *path, const char *body, size_t n) FALLIBLE;

#endif
