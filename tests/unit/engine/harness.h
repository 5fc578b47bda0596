/* Runs requests through an engine on the fake device and collects what comes out. */
#ifndef SYSTOLIC_TESTS_ENGINE_HARNESS_H
#define SYSTOLIC_TESTS_ENGINE_HARNESS_H

#include <pthread.h>
#include <time.h>

#include "base/mem.h"
#include "engine/engine.h"
#include "engine/sample.h"
#include "tests/test.h"
#include "tests/unit/engine/fake_device.h"

enum { VOCAB = 97, MAX_OUT = 512 };

typedef struct outcome {
    pthread_mutex_t mu;
    pthread_cond_t cv;
    int32_t tokens[MAX_OUT];
    int n, n_finals, n_cached;
    finish_reason finish;
    int32_t stop_token;
    char error[256];
    token_logprob lps[MAX_OUT][8];
    int n_lps[MAX_OUT];
    token_logprob plps[MAX_OUT][8];
    int n_plps[MAX_OUT], n_prompt_lps, n_prompt;
    int abort_after;                 /* abort from the callback once so many tokens are there; 0 = never */
    int finish_after;
    engine *e;
    engine_request *r;
} outcome;

static inline void outcome_init(outcome *o)
{
    memset(o, 0, sizeof *o);
    pthread_mutex_init(&o->mu, NULL);
    pthread_cond_init(&o->cv, NULL);
}

static void on_output(const engine_output *x)
{
    outcome *o = x->user;
    pthread_mutex_lock(&o->mu);
    for (int i = 0; i < x->n_tokens && o->n < MAX_OUT; i++) {
        if (x->logprobs) {
            o->n_lps[o->n] = x->logprobs[i].n;
            for (int k = 0; k < x->logprobs[i].n && k < 8; k++) o->lps[o->n][k] = x->logprobs[i].items[k];
        }
        o->tokens[o->n++] = x->tokens[i];
    }
    if (x->prompt_logprobs) {
        o->n_prompt_lps++;
        for (int i = 0; i < o->n_prompt && i < MAX_OUT; i++) {
            o->n_plps[i] = x->prompt_logprobs[i].n;
            for (int k = 0; k < x->prompt_logprobs[i].n && k < 8; k++) o->plps[i][k] = x->prompt_logprobs[i].items[k];
        }
    }
    o->n_cached = x->n_cached_tokens;
    if (x->finish != FINISH_NONE) {
        o->finish = x->finish;
        o->stop_token = x->stop_token;
        snprintf(o->error, sizeof o->error, "%s", x->error ? x->error : "");
        o->n_finals++;
        pthread_cond_broadcast(&o->cv);
    } else if (o->abort_after && o->n >= o->abort_after) {
        engine_abort(x->request);
    } else if (o->finish_after && o->n >= o->finish_after) {
        engine_finish(x->request);
    }
    pthread_mutex_unlock(&o->mu);
}

/* A test that waits for an output that never comes must fail, not hang. */
static inline void outcome_wait(outcome *o)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 300;
    pthread_mutex_lock(&o->mu);
    while (!o->n_finals)
        if (pthread_cond_timedwait(&o->cv, &o->mu, &until) != 0) {
            printf("a request did not end within 300 s\n");
            exit(1);
        }
    pthread_mutex_unlock(&o->mu);
}

/* Looks at the statistics until so many run and wait; false after 60 s. */
static inline bool wait_for_counts(engine *e, int n_running, int n_waiting)
{
    for (int tries = 0; tries < 60000; tries++) {
        engine_stats st;
        engine_get_stats(e, &st);
        if (st.n_running == n_running && st.n_waiting == n_waiting) return true;
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
    return false;
}

static inline void outcome_done(outcome *o)
{
    outcome_wait(o);
    engine_request_release(o->r);
    pthread_mutex_destroy(&o->mu);
    pthread_cond_destroy(&o->cv);
}

static inline sampling_params greedy(int max_tokens)
{
    return (sampling_params){ .temperature = 0, .top_p = 1, .repetition_penalty = 1, .max_tokens = max_tokens, .logprobs = -2, .prompt_logprobs = -2 };
}

typedef struct rig { fake_device dev; model_info mi; engine *e; } rig;

static inline status rig_start(rig *g, const engine_options *o)
{
    engine_device d = fake_engine_device(&g->dev);
    if (!g->mi.vocab_size) g->mi.vocab_size = VOCAB;
    if (!g->mi.max_model_len) g->mi.max_model_len = o->max_model_len;
    g->dev.vocab = g->mi.vocab_size;
    g->dev.block_size = o->block_size ? o->block_size : 16;
    return engine_start_on(&d, &g->mi, o, &g->e);
}

static inline void rig_stop(rig *g)
{
    engine_stop(g->e, 0);
    free(g->dev.store);
}

static inline status submit_full(rig *g, outcome *o, const int32_t *prompt, int n, const sampling_params *p, int64_t priority, const char *salt)
{
    o->e = g->e;
    o->n_prompt = n;
    request_spec s = { .id = "t", .prompt = prompt, .n_prompt = n, .params = p, .priority = priority, .cache_salt = salt, .on_output = on_output, .user = o };
    return engine_submit(g->e, &s, &o->r);
}
static inline status submit(rig *g, outcome *o, const int32_t *prompt, int n, const sampling_params *p) { return submit_full(g, o, prompt, n, p, 0, NULL); }

static inline void make_prompt(int32_t *dst, int n, unsigned seed)
{
    for (int i = 0; i < n; i++) dst[i] = (int32_t)(fake_mix(seed * 1000003u + (unsigned)i) % VOCAB);
}

static inline bool is_in(const int32_t *ids, int n, int32_t id)
{
    for (int i = 0; i < n; i++)
        if (ids[i] == id) return true;
    return false;
}

#endif
