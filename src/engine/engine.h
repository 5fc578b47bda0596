/* The engine: continuous batching over a device. Tokens in, tokens out: it knows no text and no HTTP.
 *
 * Threads: callers submit and abort from any thread; the scheduler thread owns requests, queues and KV blocks; the step thread
 * runs the device and samples. Step N+1 is scheduled while N runs, and handed to the device at once if it takes steps ahead. Outputs
 * are delivered on the scheduler thread by callback, which must be quick (hand over to another thread for detokenisation and I/O). */
#ifndef SYSTOLIC_ENGINE_ENGINE_H
#define SYSTOLIC_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "device/device.h"
#include "engine/towers.h"
#include "model/model.h"

typedef enum sched_policy { SCHED_FCFS, SCHED_PRIORITY } sched_policy;
typedef enum logprobs_mode { LOGPROBS_RAW, LOGPROBS_PROCESSED, LOGITS_RAW, LOGITS_PROCESSED } logprobs_mode; /* raw_logprobs ... */
typedef enum hash_algo { HASH_SHA256, HASH_SHA256_CBOR, HASH_XXHASH, HASH_XXHASH_CBOR } hash_algo; /* sha256 = sha256_cbor here: pickle is Python's */

typedef struct engine_options {
    int max_num_batched_tokens, max_num_seqs, max_model_len, block_size; /* 0 = vLLM's default for a CPU / the model */
    int max_num_active_seqs;         /* 0 = none */
    int max_num_queued_reqs; int64_t max_num_queued_tokens; /* 0 = none: admission limits */
    int long_prefill_token_threshold;
    double step_target_s;            /* prompts are cut so that steps that also decode take about this long; 0 = 0.2, below 0 = not */
    bool no_chunked_prefill, no_prefix_caching, no_async_scheduling, no_reserve_full_isl;
    double watermark;
    sched_policy policy;
    hash_algo hash_algo;
    logprobs_mode logprobs_mode;
    int64_t kv_cache_bytes;          /* 0 = VLLM_CPU_KVCACHE_SPACE GiB (default 4), or less when memory is short */
    int num_blocks_override;         /* testing */
    dtype kv_dtype;
    uint64_t seed;                   /* --seed */
} engine_options;

/* Sampling parameters, already validated and defaulted (facts 5.1); arrays are copied at submission. */
typedef struct sampling_params {
    float temperature, top_p, min_p;          /* temperature < 1e-5: greedy */
    int top_k;                                /* 0 = off */
    float presence_penalty, frequency_penalty, repetition_penalty;
    bool has_seed; int64_t seed;
    int max_tokens, min_tokens;
    bool ignore_eos;
    int logprobs;                             /* -2 = none, -1 = all, else k */
    int prompt_logprobs;                      /* the same */
    const int32_t *logprob_token_ids; int n_logprob_token_ids;
    const int32_t *stop_token_ids; int n_stop_token_ids;    /* explicit ones and, unless ignore_eos, generation_config's eos list */
    const int32_t *eos_ids; int n_eos_ids;                  /* eos_token_id itself: stop_reason null; empty with ignore_eos */
    const int32_t *all_stop_ids; int n_all_stop_ids;        /* what min_tokens masks (eos and stop ids) */
    const int32_t *allowed_token_ids; int n_allowed_token_ids;
    const int32_t *logit_bias_ids; const float *logit_bias; int n_logit_bias;
    const int32_t *const *bad_words; const int *bad_word_lens; int n_bad_words; /* token sequences */
    int rep_max_pattern, rep_min_pattern, rep_min_count;    /* repetition_detection; 0 = off */
} sampling_params;

typedef struct token_logprob { int32_t id; float logprob; int32_t rank; } token_logprob;
/* One position's logprobs: the token itself first, then ranks 1.. without it (duplicates removed), or the requested ids. */
typedef struct position_logprobs { const token_logprob *items; int n; } position_logprobs;

typedef enum finish_reason { FINISH_NONE, FINISH_STOP, FINISH_LENGTH, FINISH_ABORT, FINISH_ERROR, FINISH_REPETITION } finish_reason;

typedef struct engine_request engine_request;   /* handle, reference counted: submit gives one reference */

/* What happened to a request in one step. Pointers are valid during the callback only. */
typedef struct engine_output {
    engine_request *request;
    void *user;
    const int32_t *tokens; int n_tokens;         /* new ones, in order */
    const position_logprobs *logprobs;           /* [n_tokens] or NULL */
    const position_logprobs *prompt_logprobs;    /* [n_prompt] once, with the first output; [0] has n = 0. NULL otherwise */
    finish_reason finish;                        /* FINISH_NONE while it goes on */
    int32_t stop_token;                          /* the stop_token_ids entry that ended it, -1 if none (eos, length) */
    const char *error;                           /* with FINISH_ERROR */
    int n_cached_tokens;                         /* prompt tokens that came from the prefix cache */
    double arrival_s, scheduled_s, first_token_s, now_s; /* clock_now(), or the device's time */
} engine_output;

/* An image or sound of a prompt, whose placeholder tokens lie in [from, to). */
typedef struct request_media { media_rows *rows; int from, to; } request_media;

typedef struct request_spec {
    const char *id;                              /* for logs; copied */
    const int32_t *prompt; int n_prompt;         /* copied; 1 <= n_prompt <= max_model_len (checked, as is every id) */
    const sampling_params *params;
    int64_t priority;                            /* lower = earlier */
    const char *cache_salt;                      /* or NULL */
    double arrival_s;                            /* clock_now(); 0 = now, as on devices with a time of their own */
    const request_media *media; int n_media;     /* in the order of the prompt; copied, the rows are shared */
    const int32_t *media_row;                    /* [n_prompt] which row of its item stands at a token, -1 = none; copied. NULL without media */
    const int32_t *positions3;                   /* [n_prompt][3] positions where they are three numbers; copied. NULL = the place in the prompt */
    int position_delta;                          /* of later tokens: what their place in the sequence is off by */
    bool media_sees_all;                         /* tokens of an item see all of it, not only what came before */
    void (*on_output)(const engine_output *o);   /* scheduler thread */
    void *user;
} request_spec;

typedef struct engine engine;

/* What the engine needs of a device: engine_start makes one from a device_model; tests and simulators bring their own. `self` is
 * passed to every call. run, submit and wait are called by the step thread only, the rest during engine_start. A device that samples
 * has a depth above 0 and the verbs of device_submit and device_wait, and run is not called; for one that only runs, these are NULL. */
typedef struct engine_device {
    status (*run)(void *self, const batch *b);
    int (*depth)(void *self);
    int (*n_slots)(void *self);                  /* at least max_num_seqs */
    status (*submit)(void *self, const batch *b);
    status (*wait)(void *self);
    status (*kv_resize)(void *self, int32_t n_blocks);
    int64_t (*kv_block_bytes)(void *self);
    kv_layout kv;                                /* which layers share blocks; all zero: one group that keeps everything */
    void *self;
    /* Of devices that live in another time (simulators), else NULL. Any thread. Requests, outputs and events are stamped with it. */
    double (*now)(void *self);
    double (*step_end)(void *self);              /* when the oldest step in flight will be done; wait moves the time there */
    void (*advance)(void *self, double t);       /* nothing happens until t: engine/drive.h only */
    const char *name;                            /* "CPU": for log lines of engine_start */
    int64_t free_bytes;                          /* memory left for the KV cache, 0 = ask the operating system */
    /* Threads that can sample between runs, as device_parallel has it; NULL and 0: the step thread alone. */
    int n_threads;
    void (*parallel)(void *self, void (*fn)(void *arg, int thread), void *arg);
} engine_device;

/* Applies vLLM's defaults and checks the combination: `out` has no zeros left where a value is needed. Planning planned options changes
 * nothing. `limits` (may be NULL) is what the device must be loaded with (device_load) before engine_start. */
status engine_plan(const engine_options *o, const model_info *mi, engine_options *out, device_limits *limits) FALLIBLE;

/* Loads nothing itself: the device_model is ready, loaded with the limits of engine_plan for the same options. Sizes the KV cache
 * and starts the threads. All arguments are copied or outlive the engine. */
status engine_start(device_model *dm, const model *m, const engine_options *o, engine **out) FALLIBLE;
/* A device_model as the engine sees it. It is borrowed; the name stays until the thread's next call. */
void engine_device_of(device_model *dm, engine_device *out);
status engine_start_on(const engine_device *dev, const model_info *mi, const engine_options *o, engine **out) FALLIBLE;
/* Makes `other` a replica of e, which owns it from now on: requests go to the one that is less busy. Before the first request, with equal
 * models and options. */
status engine_join(engine *e, engine *other) FALLIBLE;
/* The options after defaults and limits were applied. */
const engine_options *engine_config(const engine *e);
int engine_num_blocks(const engine *e);          /* usable KV blocks, of all replicas */
/* Stops: waits for running requests up to `drain_s`, aborts the rest (each gets its FINISH_ABORT output), joins, frees. */
void engine_stop(engine *e, double drain_s);
/* False once a step has failed for good; /health then is 503. */
bool engine_healthy(const engine *e);

/* ST_LIMIT when an admission limit is hit (the message says which: max_num_queued_reqs or max_num_queued_tokens), ST_INVALID for a bad spec. After ST_OK the
 * callback is called until an output with finish != FINISH_NONE, exactly once. */
status engine_submit(engine *e, const request_spec *spec, engine_request **out) FALLIBLE;
/* Idempotent; takes effect before the next step is scheduled. The final output has FINISH_ABORT unless it finished before. */
void engine_abort(engine_request *r);
/* The front end found a stop string: as abort, but counted and reported as FINISH_STOP. */
void engine_finish(engine_request *r);
void engine_request_release(engine_request *r);
/* Drops cached blocks that no request uses; true if all could be dropped. */
bool engine_reset_prefix_cache(engine *e);

/* Counters and gauges for /metrics and the periodic log line; a consistent snapshot of each replica, summed up (shares: the mean). */
typedef struct engine_stats {
    int n_running, n_waiting, n_waiting_capacity, n_waiting_deferred;
    int64_t n_queued_tokens;
    double kv_usage;                             /* 0..1 */
    uint64_t prefix_queries, prefix_hits;        /* tokens */
    uint64_t preemptions;
    uint64_t prompt_tokens, prompt_tokens_computed, prompt_tokens_cached, generation_tokens;
    uint64_t steps;
    uint64_t finished[6];                        /* by finish_reason */
    uint64_t rejected_reqs, rejected_tokens;     /* admissions refused by each limit */
    uint64_t media_queries, media_hits;          /* of encoders' outputs; whoever has the encoders fills them in (towers.h) */
    double hit_rate_recent;                      /* over the last 1000 requests, 0..1; < 0 when none */
} engine_stats;
void engine_get_stats(engine *e, engine_stats *out);

/* Called on the scheduler thread, of which each replica has one, after each step and at each request's end, for histograms. Set once before the first submit. */
typedef struct engine_step_event { int n_prefill_reqs, n_prefill_tokens, n_decode_reqs, n_decode_tokens; double seconds; } engine_step_event;
typedef struct engine_request_event {
    finish_reason finish; int n_prompt, n_generated, n_cached, max_tokens, n_preemptions;
    double arrival_s, queued_s, scheduled_s, first_token_s, last_token_s, finish_s; /* 0 where it did not happen */
} engine_request_event;
typedef struct engine_observer {
    void (*on_step)(void *arg, const engine_step_event *e);
    void (*on_token_gap)(void *arg, double seconds);           /* inter-token latency, per request and step */
    void (*on_first_token)(void *arg, double seconds);         /* since arrival */
    void (*on_request)(void *arg, const engine_request_event *e);
    void *arg;
} engine_observer;
void engine_observe(engine *e, const engine_observer *o);

/* True when idle and every block is free or cached with refcount 0 and all lists agree; otherwise logs what is wrong. */
bool engine_check_kv(engine *e);

#endif
