/* What the files of the engine share: the request, the plan of a step, and who may touch which part of them when. */
#ifndef SYSTOLIC_ENGINE_INTERNAL_H
#define SYSTOLIC_ENGINE_INTERNAL_H

#include <stdatomic.h>

#include "base/arena.h"
#include "base/clock.h"
#include "engine/block_hash.h"
#include "engine/engine.h"
#include "engine/sample.h"

/* The time that a device lives in: a simulator has its own (engine_device.now). */
typedef struct engine_clock { double (*now)(void *self); void *self; } engine_clock;
static inline double engine_clock_now(const engine_clock *c) { return c->now ? c->now(c->self) : clock_now(); }

typedef enum req_state { REQ_WAITING, REQ_RUNNING, REQ_FINISHED } req_state;

/* Logprobs of the prompt while they come in, chunk by chunk. The step thread writes, until the scheduler delivers all. */
typedef struct prompt_lps {
    lp_vec items;
    struct { size_t at; int n; } *pos; /* [n_prompt], [0] stays empty */
    bool failed;                       /* out of memory */
} prompt_lps;

struct engine_request {
    /* Fixed at submission; any thread reads. */
    atomic_int refs;                   /* the caller's, the scheduler's, one per plan it is in */
    uint64_t seq;                      /* order of submission */
    engine *of;                        /* the replica that has it */
    arena mem;                         /* id, params, salt */
    const char *id, *cache_salt;
    sampling_params params;
    int64_t priority;
    double arrival_s;
    uint64_t rng_seed;
    void (*on_output)(const engine_output *o);
    void *user;
    int n_prompt;
    int limit_len;                     /* most tokens it can ever have: max_tokens and max_model_len applied */
    bool wants_prompt_logprobs;
    request_media *media; int n_media;  /* one reference each */
    int32_t *media_row, *positions3;   /* request_spec has them; NULL */
    int position_delta;
    bool media_sees_all;

    /* Prompt, then outputs. Output i is written once, by the step thread, in the step that samples it; the scheduler reads it
     * after that step's plan came back. Plans name tokens by position, so a token that is not known yet needs no placeholder. */
    int32_t *tokens;                   /* [limit_len] */
    prompt_lps plp;

    /* Inbox links: under the engine's mutex. */
    engine_request *inbox_next, *kill_next;
    finish_reason kill;                /* FINISH_NONE, or what the client asked for */
    bool kill_queued;

    /* The step thread's, on devices that take steps ahead (step.c). */
    int n_flying;                      /* steps in flight it is in */
    int n_valued;                      /* tokens whose values are in `tokens`; later ones are in the device's ring */
    int32_t slot;                      /* of the ring; -1 = none */
    uint32_t *mask;                    /* allowed_token_ids as bits; NULL until wanted */

    /* The scheduler thread's from here on. */
    req_state state;
    int n_known;                       /* tokens whose values the scheduler has */
    int n_pending;                     /* outputs that plans in flight will add */
    int n_computed;                    /* tokens whose KV is in blocks, plans in flight included */
    int n_plp_planned;                 /* prompt positions whose logprobs were asked of the device */
    int32_t *blocks;                   /* [n_groups][max_blocks]: a page table per group of layers */
    int n_blocks, max_blocks;          /* blocks that its tokens take, in every group; */
    int n_dropped[KV_MAX_GROUPS];      /* the first ones, which nobody will look at any more, are given back: their entries are 0 */
    block_hash *hashes;                /* of the full blocks of known tokens; NULL = caching is off */
    int n_hashes, n_registered;
    int rope_variant;
    int64_t wait_order;                /* fcfs: position in the queue; preempted requests get a smaller one */
    int heap_at;                       /* index in the waiting heap */
    bool was_scheduled, prompt_counted, plp_delivered;
    int n_cached, n_preemptions;
    double queued_s, scheduled_s, first_token_s, last_token_s;
};

void request_ref(engine_request *r);
/* Checks the spec and copies what it needs; the new request has one reference. Hashes of the prompt are computed here, on the
 * caller's thread (hasher NULL = no prefix caching). */
status request_new(const request_spec *spec, const engine_options *o, int vocab_size, int rope_switch_len, int n_groups, const block_hasher *hasher,
                   uint64_t seq, engine_request **out) FALLIBLE;
/* Extends the hash chain over all full blocks of known tokens. ST_NOMEM leaves a shorter chain. */
status request_hash(engine_request *r, const block_hasher *h, int block_size, buf *scratch) FALLIBLE;

/* One sequence's part of a step. */
typedef struct plan_seq {
    engine_request *r;         /* a reference is held while the plan is in flight */
    int start, n;              /* tokens start .. start+n-1 of r->tokens */
    bool sample;               /* the logits of the last one give token start+n */
    int plp_from, plp_to;      /* prompt positions whose logprobs this step yields (their rows are plp_from-1 ..), empty if equal */
    int row;                   /* its first row of logits */
    bool is_prefill;
    /* Results. */
    bool failed;               /* out of memory for what this request's sampling needs */
    size_t lp_at;
    int lp_n;
} plan_seq;

static inline int32_t *request_blocks(const engine_request *r, int group) { return r->blocks + (size_t)group * (size_t)r->max_blocks; }

/* What a step carries for multimodal models (step_media.c). */
typedef struct step_media step_media;

/* A step: filled by the scheduler, run by the step thread, applied by the scheduler. Allocated once. */
typedef struct plan {
    batch b;
    int32_t *token_ids, *positions, *cu_q_lens, *kv_lens, *page_table, *slots, *rope_variant, *rows;
    plan_seq *seqs;
    step_media *media;         /* NULL: the model takes none and positions are single numbers */
    engine_step_event event;
    status st;                 /* results: of the whole step */
    char error[512];
    lp_vec lps;                /* of sampled tokens; keeps its memory */
    struct plan *next;
} plan;

status plan_new(const device_limits *l, int n_groups, plan **out) FALLIBLE;
void plan_free(plan *p);
/* Lays the chosen parts p->seqs[0..n_seqs) out as the batch: everything but token ids, which the step thread adds. */
void plan_build(plan *p, int n_seqs, int block_size);

/* For models with media or positions of three numbers (model_info). Without them nothing is made. */
status step_media_new(const device_limits *l, const model_info *mi, step_media **out) FALLIBLE;
void step_media_free(step_media *m);
/* Encoders' rows, positions and what tokens of images see, for the batch that plan_build has laid out otherwise. */
void step_media_build(step_media *m, plan *p);
/* How many of n tokens from `start` on can run in one step with room for `most`: items whose tokens see all of it are not cut. */
int request_whole_media(const engine_request *r, int start, int n, int most);

/* Runs plans on the device. Step thread. */
typedef struct stepper stepper;
status stepper_new(const engine_device *dev, const device_limits *l, int vocab_size, logprobs_mode mode, stepper **out) FALLIBLE;
/* No step may be in flight. */
void stepper_free(stepper *s);
/* Fills token ids, runs the device, samples. Only for a depth of 0. */
void stepper_run(stepper *s, plan *p);

/* How many steps the device holds in flight; 0: it only runs. The rest is for depths above 0. */
int stepper_depth(const stepper *s);
int stepper_n_flying(const stepper *s);
/* True if the plan can be submitted now; else an older step has to be finished first. With none in flight it is true. */
bool stepper_can_submit(const stepper *s, const plan *p);
/* Starts a step; fewer than stepper_depth are in flight. If it fails, p->st says so, the step is not in flight, those before it
 * are as good as they were, and no later one will start. */
void stepper_submit(stepper *s, plan *p);
/* Waits for the oldest step in flight and returns its plan with the results. After one has failed, all later ones are cancelled. */
plan *stepper_finish(stepper *s);

#endif
