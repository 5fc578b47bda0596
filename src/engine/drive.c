#include "engine/drive.h"

#include <stdlib.h>

#include "base/mem.h"
#include "engine/internal.h"
#include "engine/options.h"
#include "engine/pace.h"
#include "engine/sched.h"

enum { MIN_AHEAD = 2 }; /* as engine.c */

struct drive {
    engine_options o;
    device_limits limits;
    model_info info;
    engine_device dev;
    kv_layout kv;
    int32_t n_blocks;
    block_hasher hasher;
    sched *sched;
    stepper *stepper;
    pace pace;
    plan **spare;              /* [depth] a stack */
    int depth, n_spare;
    plan *held;                /* scheduled, but its tokens depend on those of a step in flight */
    uint64_t next_seq;
};

static engine_clock clock_of(const drive *d) { return (engine_clock){ d->dev.now, d->dev.self }; }
double drive_now(const drive *d) { return d->dev.now(d->dev.self); }

static status make_plans(drive *d)
{
    d->spare = mem_calloc((size_t)d->depth, sizeof(plan *));
    if (!d->spare) return err_nomem();
    for (; d->n_spare < d->depth; d->n_spare++) {
        plan **p = &d->spare[d->n_spare];
        TRY(plan_new(&d->limits, d->kv.n_groups, p));
        if (!d->info.media && !d->info.mrope) continue;
        status st = step_media_new(&d->limits, &d->info, &(*p)->media);
        if (st == ST_OK) continue;
        plan_free(*p);
        return st;
    }
    return ST_OK;
}

static status init(drive *d, const model_info *mi, const engine_options *o)
{
    if (!d->dev.now || !d->dev.step_end || !d->dev.advance || !d->dev.depth || d->dev.depth(d->dev.self) < 1)
        return err_set(ST_INVALID, "device %s has no time of its own: only simulated ones run without threads", d->dev.name ? d->dev.name : "");
    TRY(engine_plan(o, mi, &d->o, &d->limits));
    d->info = *mi;
    d->kv = d->dev.kv.n_groups ? d->dev.kv : kv_layout_full();
    TRY(options_count_blocks(&d->o, &d->dev, d->dev.kv_block_bytes(d->dev.self), &d->n_blocks));
    TRY(d->dev.kv_resize(d->dev.self, d->n_blocks));
    TRY(stepper_new(&d->dev, &d->limits, mi->vocab_size, d->o.logprobs_mode, &d->stepper));
    const int ahead = stepper_depth(d->stepper);
    d->depth = d->o.no_async_scheduling ? 1 : ahead > MIN_AHEAD ? ahead : MIN_AHEAD;
    buf scratch = {0};
    status st = block_hasher_init(&d->hasher, d->o.hash_algo, getenv("PYTHONHASHSEED"), &scratch);
    buf_free(&scratch);
    TRY(st);
    const sched_config c = { .o = &d->o, .limits = &d->limits, .hasher = d->o.no_prefix_caching ? NULL : &d->hasher, .rope_switch_len = mi->rope_switch_len,
                             .n_blocks = d->n_blocks, .kv = d->kv, .clock = clock_of(d) };
    TRY(sched_new(&c, &d->sched));
    return make_plans(d);
}

status drive_new(const engine_device *dev, const model_info *mi, const engine_options *o, drive **out)
{
    drive *d = mem_calloc(1, sizeof *d);
    if (!d) return err_nomem();
    d->dev = *dev;
    status st = init(d, mi, o);
    d->dev.name = NULL; /* the caller's */
    if (st != ST_OK) {
        drive_free(d);
        return st;
    }
    *out = d;
    return ST_OK;
}

static void put_back(drive *d, plan *p) { d->spare[d->n_spare++] = p; }

/* What is in flight or was left over by a failure or by `until`. */
static void drop_steps(drive *d)
{
    if (d->held) {
        sched_discard(d->sched, d->held);
        put_back(d, d->held);
        d->held = NULL;
    }
    while (d->stepper && stepper_n_flying(d->stepper) > 0) {
        plan *p = stepper_finish(d->stepper);
        sched_discard(d->sched, p);
        put_back(d, p);
    }
}

void drive_free(drive *d)
{
    if (!d) return;
    if (d->sched) {
        drop_steps(d);
        sched_end_all(d->sched, FINISH_ABORT, NULL);
    }
    stepper_free(d->stepper);
    sched_free(d->sched);
    for (int i = 0; i < d->n_spare; i++) plan_free(d->spare[i]);
    mem_free(d->spare);
    mem_free(d);
}

void drive_observe(drive *d, const engine_observer *o) { sched_observe(d->sched, o); }
const engine_options *drive_config(const drive *d) { return &d->o; }
int drive_num_blocks(const drive *d) { return d->n_blocks - 1; }
void drive_stats(const drive *d, engine_stats *out) { sched_stats(d->sched, out); }
status drive_check(const drive *d) { return sched_check(d->sched); }

/* ---- the loop ---- */

static status arrive(drive *d, const drive_source *s)
{
    request_spec spec = {0};
    engine_request *r;
    TRY(s->fill(s->arg, &spec));
    TRY(request_new(&spec, &d->o, d->info.vocab_size, d->info.rope_switch_len, d->kv.n_groups, d->o.no_prefix_caching ? NULL : &d->hasher, d->next_seq++, &r));
    r->queued_s = drive_now(d);
    r->arrival_s = spec.arrival_s > 0 ? spec.arrival_s : r->queued_s;
    sched_add(d->sched, r);
    return ST_OK;
}

static status arrivals(drive *d, const drive_source *s, double *next)
{
    while ((*next = s->next(s->arg)) >= 0 && *next <= drive_now(d)) TRY(arrive(d, s));
    return ST_OK;
}

static status submit(drive *d, plan *p)
{
    stepper_submit(d->stepper, p);
    if (p->st == ST_OK) return ST_OK;
    status st = err_set(p->st, "%s", p->error[0] ? p->error : status_name(p->st));
    sched_discard(d->sched, p);
    put_back(d, p);
    return st;
}

/* As many steps as may be in flight. */
static status make_steps(drive *d)
{
    if (d->o.step_target_s > 0) sched_limit_prompts(d->sched, pace_prompt_tokens(&d->pace, d->o.step_target_s, d->limits.max_tokens));
    while (stepper_n_flying(d->stepper) < stepper_depth(d->stepper)) {
        plan *p = d->held;
        if (!p) {
            if (d->n_spare == 0 || !sched_plan(d->sched, d->spare[d->n_spare - 1])) return ST_OK;
            p = d->spare[--d->n_spare];
        }
        d->held = stepper_can_submit(d->stepper, p) ? NULL : p;
        if (d->held) return ST_OK;
        TRY(submit(d, p));
    }
    return ST_OK;
}

/* The device's wait takes the time to the end of the step. */
static status finish_step(drive *d)
{
    plan *p = stepper_finish(d->stepper);
    status st = p->st == ST_OK ? ST_OK : err_set(p->st, "%s", p->error);
    if (st == ST_OK) {
        pace_note(&d->pace, &p->event);
        sched_apply(d->sched, p);
    } else {
        sched_discard(d->sched, p);
    }
    put_back(d, p);
    return st;
}

status drive_run(drive *d, const drive_source *s, double until)
{
    for (;;) {
        double next;
        TRY(arrivals(d, s, &next));
        TRY(make_steps(d));
        const double end = stepper_n_flying(d->stepper) > 0 ? d->dev.step_end(d->dev.self) : -1;
        const bool full = d->n_spare == 0 || stepper_n_flying(d->stepper) == stepper_depth(d->stepper);
        if (end < 0 && next < 0) break;
        /* With all plans in flight an arrival waits for the next one to end. */
        const bool arrival_first = next >= 0 && (end < 0 || (!full && next < end));
        const double at = arrival_first ? next : end;
        if (until >= 0 && at > until) break;
        if (arrival_first) d->dev.advance(d->dev.self, at);
        else TRY(finish_step(d));
    }
    if (until < 0 && !sched_idle(d->sched)) return err_set(ST_INTERNAL, "%d requests are left that no step can be made for", sched_n_running(d->sched));
    return ST_OK;
}
