/* The scheduler: which tokens of which requests run in the next step, and what comes of the results.
 *
 * There are no prefill and decode phases: each request has tokens (known ones, and pending ones that a plan in flight will sample)
 * and a count of those computed; a step moves the count forward under one token budget. Plans are applied in the order they were
 * made; the next one may be made before the last one is applied.
 *
 * Groups of layers (graph/kv_groups.h) have a page table each and take blocks of one pool. A group whose queries see a window or a
 * chunk gives blocks back when the next token to be computed no longer sees them, before new ones are taken. A cached prefix can be
 * used up to a block if full groups have all blocks before it and the others those that the next query sees.
 *
 * Invariants: a request is in exactly one of waiting, running or finished; only running ones hold blocks; n_computed <= n_known +
 * n_pending <= limit_len. One thread; deterministic, no clock in any decision: tests and the fuzzer drive it without threads. */
#ifndef SYSTOLIC_ENGINE_SCHED_H
#define SYSTOLIC_ENGINE_SCHED_H

#include "engine/internal.h"
#include "engine/kv.h"

typedef struct sched_config {
    const engine_options *o;       /* planned */
    const device_limits *limits;
    const block_hasher *hasher;    /* NULL = no prefix caching */
    int rope_switch_len;
    int32_t n_blocks;              /* with the null block */
    kv_layout kv;                  /* groups of layers that share blocks */
    engine_clock clock;            /* all zero: clock_now */
    void (*before_end)(void *arg); /* before a request's last output is delivered, when it is off the books; may be NULL */
    void *arg;
    int preempt_every;             /* testing: preempt a running request every so many plans; 0 = never */
} sched_config;

typedef struct sched sched;
/* Everything the config points to is borrowed. */
status sched_new(const sched_config *c, sched **out) FALLIBLE;
void sched_free(sched *s);
void sched_observe(sched *s, const engine_observer *o);

/* Takes over a reference. Out of memory ends the request with FINISH_ERROR. */
void sched_add(sched *s, engine_request *r);
/* Ends a request that has not ended (does nothing otherwise) and delivers its last output. `error` with FINISH_ERROR. */
void sched_end(sched *s, engine_request *r, finish_reason why, const char *error);
void sched_end_all(sched *s, finish_reason why, const char *error);
/* Most prompt tokens in a step that also decodes, from the next plan on; 0 = as many as fit. */
void sched_limit_prompts(sched *s, int n_tokens);
/* Makes the next step. False: nothing to run now. */
bool sched_plan(sched *s, plan *p);
/* Takes the results of the oldest plan not yet applied and delivers outputs. The plan's status must be ST_OK. */
void sched_apply(sched *s, plan *p);
/* Drops the plan's references without looking at results (after a failure). */
void sched_discard(sched *s, plan *p);

bool sched_idle(const sched *s);       /* no request waits or runs */
int sched_n_running(const sched *s);
bool sched_reset_prefix_cache(sched *s);
/* Queues, blocks and counts agree; with no requests, no block is in use. */
status sched_check(const sched *s) FALLIBLE;
void sched_stats(const sched *s, engine_stats *out); /* without admission counters and inbox */

#endif
