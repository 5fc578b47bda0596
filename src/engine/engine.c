/* The threads around the scheduler: callers put requests and wishes into lists under one mutex, the scheduler thread takes them,
 * makes plans and applies results, the step thread runs plans. Only whole plans cross between the two, so neither needs another lock. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "engine/internal.h"
#include "engine/options.h"
#include "engine/pace.h"
#include "engine/replicas.h"
#include "engine/sched.h"

enum { MIN_AHEAD = 2 }; /* plans in flight with asynchronous scheduling, at least: one runs, the next is ready */

/* Something another thread wants done on the scheduler thread, while it waits. */
typedef struct call {
    void (*fn)(engine *e, struct call *c);
    bool result, done;
    struct call *next;
} call;

typedef struct plan_list { plan *first, *last; } plan_list;

struct engine {
    engine_options o;
    device_limits limits;
    model_info info;
    int vocab_size, rope_switch_len;
    int32_t n_blocks;
    kv_layout kv;
    engine_clock clock;
    block_hasher hasher;
    int depth;                 /* plans in flight */
    pthread_t sched_thread, step_thread;
    bool sched_started, step_started;

    /* Scheduler thread only. */
    sched *sched;
    pace pace;
    plan_list spare;
    int n_in_flight;
    int n_taken;               /* requests taken from the inbox since the last snapshot */
    int64_t n_taken_tokens;
    bool drained;              /* the time to drain is over and what was left has been aborted */
    /* Step thread only. */
    stepper *stepper;

    pthread_mutex_t mu;
    pthread_cond_t wake;       /* for the scheduler thread */
    pthread_cond_t run;        /* for the step thread */
    pthread_cond_t called;     /* for those who wait for a call */
    bool have_sync;
    /* Under mu. */
    engine_request *inbox_first, *inbox_last, *kills;
    int n_unseen;              /* requests submitted, and their prompt tokens, that `stats` does not cover yet */
    int64_t n_unseen_tokens;
    call *calls;
    plan_list submitted, finished;
    bool in_pass;              /* the scheduler thread is awake: more plans may come */
    uint64_t n_passes;         /* times that it has looked at everything */
    bool stopping, step_stop, dead;
    bool check_idle;           /* see check_when_idle */
    double stop_at;
    char death[512];
    uint64_t next_seq, rejected_reqs, rejected_tokens;
    engine_stats stats;        /* the scheduler's last snapshot */
    replica_list replicas;     /* of the one that callers know */
};

replica_list *engine_replicas(engine *e) { return &e->replicas; }

static void list_push(plan_list *l, plan *p)
{
    p->next = NULL;
    if (l->last) l->last->next = p;
    else l->first = p;
    l->last = p;
}

static plan *list_pop(plan_list *l)
{
    plan *p = l->first;
    if (!p) return NULL;
    l->first = p->next;
    if (!l->first) l->last = NULL;
    return p;
}

/* ---- step thread ---- */

/* With the mutex. */
static void give_back(engine *e, plan *p)
{
    if (p->st != ST_OK) e->dead = true;
    list_push(&e->finished, p);
    pthread_cond_signal(&e->wake);
}

static void finish_oldest(engine *e)
{
    plan *p = stepper_finish(e->stepper);
    pthread_mutex_lock(&e->mu);
    give_back(e, p);
    pthread_mutex_unlock(&e->mu);
}

/* Whether the scheduler may still make a plan of what it has been told so far. `since`: passes it had ended when we began to wait for it.
 * The second pass to end after that has seen everything, and we wait no longer, however busy it is. With the mutex. */
static bool plan_may_come(const engine *e, uint64_t since)
{
    return (e->in_pass || e->finished.first) && e->n_passes < since + 2;
}

/* The next plan, if there is one and the device has room for it. A step that could be submitted must not be kept waiting for one in
 * flight, so NULL, "finish the oldest", comes only when there is no room, or no plan and none about to come. */
static plan *next_plan(engine *e, bool *stop)
{
    plan *p = NULL;
    pthread_mutex_lock(&e->mu);
    const uint64_t since = e->n_passes;
    for (;;) {
        const int n = stepper_n_flying(e->stepper);
        if (n == stepper_depth(e->stepper) || (p = list_pop(&e->submitted))) break;
        *stop = n == 0 && e->step_stop;
        if (*stop || (n > 0 && !plan_may_come(e, since))) break;
        pthread_cond_wait(&e->run, &e->mu);
    }
    pthread_mutex_unlock(&e->mu);
    return p;
}

/* For devices that take steps before earlier ones are done. Results go back in the order of the plans. */
static void *step_ahead_main(void *arg)
{
    engine *e = arg;
    for (bool stop = false;;) {
        plan *p = next_plan(e, &stop);
        if (stop) break;
        if (!p) {
            finish_oldest(e);
            continue;
        }
        while (!stepper_can_submit(e->stepper, p)) finish_oldest(e);
        stepper_submit(e->stepper, p);
        if (p->st == ST_OK) continue;
        while (stepper_n_flying(e->stepper) > 0) finish_oldest(e);
        pthread_mutex_lock(&e->mu);
        give_back(e, p);
        pthread_mutex_unlock(&e->mu);
    }
    return NULL;
}

static void *step_main(void *arg)
{
    engine *e = arg;
    pthread_mutex_lock(&e->mu);
    for (;;) {
        plan *p = list_pop(&e->submitted);
        if (!p) {
            if (e->step_stop) break;
            pthread_cond_wait(&e->run, &e->mu);
            continue;
        }
        const bool dead = e->dead;
        pthread_mutex_unlock(&e->mu);
        if (dead) p->st = ST_CANCELLED;
        else stepper_run(e->stepper, p);
        pthread_mutex_lock(&e->mu);
        give_back(e, p);
    }
    pthread_mutex_unlock(&e->mu);
    return NULL;
}

/* ---- scheduler thread ---- */

/* What the scheduler takes from the lists in one go. */
typedef struct news {
    engine_request *inbox, *kills;
    call *calls;
    plan_list finished;
    bool stopping;
    double stop_at;
} news;

static bool has_news(const engine *e)
{
    if (e->inbox_first || e->kills || e->calls || e->finished.first) return true;
    return e->stopping && (e->n_in_flight == 0 || (!e->drained && clock_now() >= e->stop_at));
}

static struct timespec monotonic_at(double t)
{
    struct timespec ts = { .tv_sec = (time_t)t };
    ts.tv_nsec = (long)((t - (double)ts.tv_sec) * 1e9);
    return ts;
}

static news take_news(engine *e)
{
    news n;
    pthread_mutex_lock(&e->mu);
    e->in_pass = false;
    e->n_passes++;
    if (stepper_depth(e->stepper) > 0) pthread_cond_signal(&e->run);
    while (!has_news(e)) {
        if (e->stopping && !e->drained) {
            struct timespec ts = monotonic_at(e->stop_at);
            pthread_cond_timedwait(&e->wake, &e->mu, &ts);
        } else {
            pthread_cond_wait(&e->wake, &e->mu);
        }
    }
    n = (news){ .inbox = e->inbox_first, .kills = e->kills, .calls = e->calls, .finished = e->finished, .stopping = e->stopping, .stop_at = e->stop_at };
    e->inbox_first = e->inbox_last = e->kills = NULL;
    e->calls = NULL;
    e->finished = (plan_list){0};
    e->in_pass = true;
    pthread_mutex_unlock(&e->mu);
    return n;
}

/* Makes the counters of the moment visible; also before a request's last output goes out, so that who has it finds it counted. */
static void publish(void *arg)
{
    engine *e = arg;
    engine_stats s;
    sched_stats(e->sched, &s);
    pthread_mutex_lock(&e->mu);
    e->stats = s;
    e->n_unseen -= e->n_taken;
    e->n_unseen_tokens -= e->n_taken_tokens;
    pthread_mutex_unlock(&e->mu);
    e->n_taken = 0;
    e->n_taken_tokens = 0;
}

static void accept_requests(engine *e, engine_request *r)
{
    for (engine_request *next; r; r = next) {
        next = r->inbox_next;
        r->inbox_next = NULL;
        e->n_taken++;
        e->n_taken_tokens += r->n_prompt;
        sched_add(e->sched, r);
    }
}

static void apply_kills(engine *e, engine_request *r)
{
    for (engine_request *next; r; r = next) {
        pthread_mutex_lock(&e->mu);
        next = r->kill_next;
        finish_reason why = r->kill;
        r->kill_queued = false;
        pthread_mutex_unlock(&e->mu);
        sched_end(e->sched, r, why, NULL);
        engine_request_release(r);
    }
}

static void die(engine *e, const plan *p)
{
    char why[sizeof p->error + 64];
    pthread_mutex_lock(&e->mu);
    if (p->st != ST_CANCELLED) {
        snprintf(why, sizeof why, "the engine failed: %.500s", p->error[0] ? p->error : status_name(p->st));
        if (!e->death[0]) memcpy(e->death, why, strlen(why) < sizeof e->death ? strlen(why) + 1 : sizeof e->death - 1);
    }
    pthread_mutex_unlock(&e->mu);
    if (p->st != ST_CANCELLED) log_error("%s", e->death);
}

static void apply_results(engine *e, plan_list *done)
{
    for (plan *p; (p = list_pop(done));) {
        e->n_in_flight--;
        if (p->st == ST_OK) {
            pace_note(&e->pace, &p->event);
            sched_apply(e->sched, p);
        } else {
            die(e, p);
            sched_discard(e->sched, p);
        }
        list_push(&e->spare, p);
    }
}

static bool is_dead(engine *e)
{
    pthread_mutex_lock(&e->mu);
    const bool dead = e->death[0] != 0;
    pthread_mutex_unlock(&e->mu);
    return dead;
}

static void submit_plans(engine *e)
{
    if (e->o.step_target_s > 0) sched_limit_prompts(e->sched, pace_prompt_tokens(&e->pace, e->o.step_target_s, e->limits.max_tokens));
    while (e->n_in_flight < e->depth) {
        plan *p = e->spare.first;
        if (!sched_plan(e->sched, p)) return;
        list_pop(&e->spare);
        e->n_in_flight++;
        pthread_mutex_lock(&e->mu);
        list_push(&e->submitted, p);
        pthread_cond_signal(&e->run);
        pthread_mutex_unlock(&e->mu);
    }
}

static void answer_calls(engine *e, call *c)
{
    for (call *next; c; c = next) {
        next = c->next;
        c->fn(e, c);
        pthread_mutex_lock(&e->mu);
        c->done = true;
        pthread_cond_broadcast(&e->called);
        pthread_mutex_unlock(&e->mu);
    }
}

/* Proves the block accounting each time the engine runs dry: in sanitized builds and with SYSTOLIC_CHECK_KV=1. A wrong account means
 * wrong answers sooner or later, so the engine then counts as failed. */
static void check_when_idle(engine *e)
{
    if (!e->check_idle || !sched_idle(e->sched) || sched_check(e->sched) == ST_OK) return;
    pthread_mutex_lock(&e->mu);
    err_copy(e->death, sizeof e->death);
    pthread_mutex_unlock(&e->mu);
    log_error("KV check: %s", err_msg());
}

static void *sched_main(void *arg)
{
    engine *e = arg;
    for (;;) {
        news n = take_news(e);
        accept_requests(e, n.inbox);
        apply_kills(e, n.kills);
        apply_results(e, &n.finished);
        if (is_dead(e)) {
            sched_end_all(e->sched, FINISH_ERROR, e->death);
        } else if (n.stopping && clock_now() >= n.stop_at) {
            sched_end_all(e->sched, FINISH_ABORT, NULL);
            e->drained = true;
        }
        submit_plans(e);
        check_when_idle(e);
        publish(e);
        answer_calls(e, n.calls);
        if (n.stopping && sched_idle(e->sched) && e->n_in_flight == 0) break;
    }
    return NULL;
}

/* ---- start and stop ---- */

static status init_sync(engine *e)
{
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    int bad = pthread_mutex_init(&e->mu, NULL) || pthread_cond_init(&e->wake, &a) || pthread_cond_init(&e->run, &a) || pthread_cond_init(&e->called, &a);
    pthread_condattr_destroy(&a);
    if (bad) return err_set(ST_INTERNAL, "cannot make a mutex");
    e->have_sync = true;
    return ST_OK;
}

static void stop_step_thread(engine *e)
{
    if (!e->step_started) return;
    pthread_mutex_lock(&e->mu);
    e->step_stop = true;
    pthread_cond_signal(&e->run);
    pthread_mutex_unlock(&e->mu);
    pthread_join(e->step_thread, NULL);
}

static void engine_free(engine *e)
{
    if (!e) return;
    stop_step_thread(e);
    for (engine_request *r = e->kills, *next; r; r = next) { /* aborted while the engine was stopping */
        next = r->kill_next;
        engine_request_release(r);
    }
    stepper_free(e->stepper);
    sched_free(e->sched);
    for (plan *p; (p = list_pop(&e->spare));) plan_free(p);
    if (e->have_sync) {
        pthread_mutex_destroy(&e->mu);
        pthread_cond_destroy(&e->wake);
        pthread_cond_destroy(&e->run);
        pthread_cond_destroy(&e->called);
    }
    mem_free(e);
}

static status make_sched(engine *e)
{
    buf scratch = {0};
    status st = block_hasher_init(&e->hasher, e->o.hash_algo, getenv("PYTHONHASHSEED"), &scratch);
    buf_free(&scratch);
    TRY(st);
    const char *hostile = getenv("SYSTOLIC_HOSTILE");
#ifdef SYSTOLIC_SANITIZED
    e->check_idle = true;
#else
    e->check_idle = getenv("SYSTOLIC_CHECK_KV") != NULL;
#endif
    sched_config c = { .o = &e->o, .limits = &e->limits, .hasher = e->o.no_prefix_caching ? NULL : &e->hasher, .rope_switch_len = e->rope_switch_len,
                       .n_blocks = e->n_blocks, .kv = e->kv, .preempt_every = hostile ? (int)strtol(hostile, NULL, 10) : 0, .clock = e->clock, .before_end = publish, .arg = e };
    TRY(sched_new(&c, &e->sched));
    for (int i = 0; i < e->depth; i++) {
        plan *p;
        TRY(plan_new(&e->limits, e->kv.n_groups, &p));
        list_push(&e->spare, p);
        if (e->info.media || e->info.mrope) TRY(step_media_new(&e->limits, &e->info, &p->media));
    }
    sched_stats(e->sched, &e->stats);
    return ST_OK;
}

static status start_threads(engine *e)
{
    TRY(thread_start(&e->step_thread, "engine-step", stepper_depth(e->stepper) > 0 ? step_ahead_main : step_main, e));
    e->step_started = true;
    TRY(thread_start(&e->sched_thread, "engine-sched", sched_main, e));
    e->sched_started = true;
    return ST_OK;
}

static status start(engine *e, const engine_device *dev, const model_info *mi, const engine_options *o)
{
    TRY(init_sync(e));
    TRY(engine_plan(o, mi, &e->o, &e->limits));
    e->info = *mi;
    e->vocab_size = mi->vocab_size;
    e->rope_switch_len = mi->rope_switch_len;
    e->clock = (engine_clock){ dev->now, dev->self };
    e->kv = dev->kv.n_groups ? dev->kv : kv_layout_full();
    TRY(options_count_blocks(&e->o, dev, dev->kv_block_bytes(dev->self), &e->n_blocks));
    TRY(dev->kv_resize(dev->self, e->n_blocks));
    TRY(stepper_new(dev, &e->limits, e->vocab_size, e->o.logprobs_mode, &e->stepper));
    const int ahead = stepper_depth(e->stepper);
    e->depth = e->o.no_async_scheduling ? 1 : ahead > MIN_AHEAD ? ahead : MIN_AHEAD;
    TRY(make_sched(e));
    return start_threads(e);
}

status engine_start_on(const engine_device *dev, const model_info *mi, const engine_options *o, engine **out)
{
    engine *e = mem_calloc(1, sizeof *e);
    if (!e) return err_nomem();
    status st = start(e, dev, mi, o);
    if (st != ST_OK) {
        engine_free(e);
        return st;
    }
    *out = e;
    return ST_OK;
}

void engine_one_stop(engine *e, double at)
{
    pthread_mutex_lock(&e->mu);
    e->stopping = true;
    e->stop_at = at;
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->mu);
}

void engine_one_join(engine *e)
{
    pthread_join(e->sched_thread, NULL);
    engine_free(e);
}

/* ---- callers ---- */

const engine_options *engine_config(const engine *e) { return &e->o; }
int engine_one_num_blocks(const engine *e) { return e->n_blocks - 1; }

bool engine_one_healthy(engine *e)
{
    pthread_mutex_lock(&e->mu);
    bool ok = !e->dead;
    pthread_mutex_unlock(&e->mu);
    return ok;
}

/* Requests that the scheduler has not looked at do not count as queued while there are seats for them and nobody waits before them. */
static status check_admission(engine *e, int n_prompt)
{
    const int seats = e->o.max_num_active_seqs > 0 && e->o.max_num_active_seqs < e->o.max_num_seqs ? e->o.max_num_active_seqs : e->o.max_num_seqs;
    if (e->dead) return err_set(ST_INTERNAL, "%s", e->death[0] ? e->death : "the engine failed");
    if (e->stopping) return err_set(ST_CANCELLED, "the engine is shutting down");
    const int free_seats = e->stats.n_waiting == 0 && e->stats.n_running < seats ? seats - e->stats.n_running : 0;
    if (e->n_unseen < free_seats) return ST_OK;
    const int n_queued = e->stats.n_waiting + e->n_unseen - free_seats;
    if (e->o.max_num_queued_reqs > 0 && n_queued >= e->o.max_num_queued_reqs) {
        e->rejected_reqs++;
        return err_set(ST_LIMIT, "the waiting queue is full: %d requests (max_num_queued_reqs)", n_queued);
    }
    const int64_t n_tokens = e->stats.n_queued_tokens + e->n_unseen_tokens;
    if (e->o.max_num_queued_tokens > 0 && n_tokens + n_prompt > e->o.max_num_queued_tokens) {
        e->rejected_tokens++;
        return err_set(ST_LIMIT, "the waiting queue is full: %lld tokens and %d more (max_num_queued_tokens %lld)", (long long)n_tokens, n_prompt,
                       (long long)e->o.max_num_queued_tokens);
    }
    return ST_OK;
}

/* Items that are not cut need a step that holds them, with a row of logits for each token if the prompt's are wanted. */
static status check_whole_media(const engine *e, const request_spec *spec)
{
    if (!spec->media_sees_all || !spec->params || spec->params->prompt_logprobs < -1) return ST_OK;
    for (int i = 0; i < spec->n_media; i++)
        if (spec->media[i].to - spec->media[i].from + 1 > e->limits.max_rows)
            return err_set(ST_INVALID, "prompt_logprobs of an image of %d tokens, which this model reads at once, in one step: it needs a row of logits each, and there are %d (--max-num-seqs %d makes enough)",
                           spec->media[i].to - spec->media[i].from, e->limits.max_rows, spec->media[i].to - spec->media[i].from + 1);
    return ST_OK;
}

status engine_one_submit(engine *e, const request_spec *spec, engine_request **out)
{
    TRY(check_whole_media(e, spec));
    pthread_mutex_lock(&e->mu);
    status st = check_admission(e, spec->n_prompt); /* before the work of copying and hashing */
    const uint64_t seq = e->next_seq;
    e->next_seq += st == ST_OK;
    pthread_mutex_unlock(&e->mu);
    TRY(st);
    engine_request *r;
    TRY(request_new(spec, &e->o, e->vocab_size, e->rope_switch_len, e->kv.n_groups, e->o.no_prefix_caching ? NULL : &e->hasher, seq, &r));
    r->of = e;
    if (e->clock.now) r->arrival_s = r->queued_s = engine_clock_now(&e->clock);
    request_ref(r); /* the caller's; the first is the scheduler's */
    pthread_mutex_lock(&e->mu);
    st = check_admission(e, spec->n_prompt);
    if (st == ST_OK) {
        *out = r; /* before the scheduler can see it: a callback may come at once */
        if (e->inbox_last) e->inbox_last->inbox_next = r;
        else e->inbox_first = r;
        e->inbox_last = r;
        e->n_unseen++;
        e->n_unseen_tokens += r->n_prompt;
        pthread_cond_signal(&e->wake);
    }
    pthread_mutex_unlock(&e->mu);
    if (st != ST_OK) {
        engine_request_release(r);
        engine_request_release(r);
    }
    return st;
}

static void kill_locked(engine *e, engine_request *r, finish_reason why)
{
    if (r->kill == FINISH_NONE) r->kill = why;
    if (r->kill_queued) return;
    r->kill_queued = true;
    request_ref(r);
    r->kill_next = e->kills;
    e->kills = r;
    pthread_cond_signal(&e->wake);
}

static void end_request(engine_request *r, finish_reason why)
{
    engine *e = r->of;
    pthread_mutex_lock(&e->mu);
    kill_locked(e, r, why);
    pthread_mutex_unlock(&e->mu);
}

void engine_abort(engine_request *r) { end_request(r, FINISH_ABORT); }
void engine_finish(engine_request *r) { end_request(r, FINISH_STOP); }

static bool call_scheduler(engine *e, void (*fn)(engine *, call *))
{
    call c = { .fn = fn };
    if (pthread_equal(pthread_self(), e->sched_thread)) {
        fn(e, &c);
        return c.result;
    }
    pthread_mutex_lock(&e->mu);
    c.next = e->calls;
    e->calls = &c;
    pthread_cond_signal(&e->wake);
    while (!c.done) pthread_cond_wait(&e->called, &e->mu);
    pthread_mutex_unlock(&e->mu);
    return c.result;
}

static void do_reset(engine *e, call *c) { c->result = sched_reset_prefix_cache(e->sched); }

static void do_check(engine *e, call *c)
{
    c->result = sched_check(e->sched) == ST_OK;
    if (!c->result) log_error("%s", err_msg());
    if (!sched_idle(e->sched)) {
        c->result = false;
        log_error("KV check: the engine is not idle");
    }
}

bool engine_one_reset_prefix_cache(engine *e) { return call_scheduler(e, do_reset); }
bool engine_one_check_kv(engine *e) { return call_scheduler(e, do_check); }
void engine_one_observe(engine *e, const engine_observer *o) { sched_observe(e->sched, o); }

void engine_one_stats(engine *e, engine_stats *out)
{
    pthread_mutex_lock(&e->mu);
    *out = e->stats;
    out->n_waiting += e->n_unseen;
    out->n_waiting_capacity = out->n_waiting;
    out->n_queued_tokens += e->n_unseen_tokens;
    out->rejected_reqs = e->rejected_reqs;
    out->rejected_tokens = e->rejected_tokens;
    pthread_mutex_unlock(&e->mu);
}
