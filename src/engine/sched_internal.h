/* The scheduler's state, shared by sched.c (plans) and outcome.c (results). */
#ifndef SYSTOLIC_ENGINE_SCHED_INTERNAL_H
#define SYSTOLIC_ENGINE_SCHED_INTERNAL_H

#include "engine/sched.h"
#include "engine/wait_queue.h"

enum { HIT_WINDOW = 1000 }; /* requests over which the recent hit rate is taken */

struct sched {
    sched_config c;
    engine_observer observer;
    kv *kv;
    buf scratch;               /* for hashing */
    wait_queue waiting;
    engine_request **running;  /* [max_num_seqs], in order of admission */
    int n_running, max_running;
    int watermark_blocks;
    int most_prompt;           /* sched_limit_prompts; 0 = no limit */
    int64_t n_waiting_tokens;  /* prompt tokens of waiting requests */
    uint64_t n_plans;
    engine_stats stats;        /* counters only */
    struct { int queries, hits; } *window; /* [HIT_WINDOW] */
    uint64_t n_window;
    int64_t window_queries, window_hits;
};

/* Takes the request out of waiting or running; its blocks go back. */
void sched_remove(sched *s, engine_request *r);
/* Makes blocks that are full of known tokens findable. */
void sched_register_blocks(sched *s, engine_request *r);

#endif
