/* What comes of a step: stop conditions, delivery, counters. */
#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "engine/sched_internal.h"

static bool contains(const int32_t *ids, int n, int32_t id)
{
    for (int i = 0; i < n; i++)
        if (ids[i] == id) return true;
    return false;
}

/* Do the outputs end in the same `size` tokens `count` times over? */
static bool ends_in_repeats(const int32_t *out, int n_out, int size, int count)
{
    const int64_t span = (int64_t)size * count;
    if (span > n_out) return false;
    for (int64_t i = 1; i <= span - size; i++)
        if (out[n_out - i] != out[n_out - i - size]) return false;
    return true;
}

static bool is_repetition(const sampling_params *p, const int32_t *out, int n_out)
{
    if (p->rep_max_pattern <= 0) return false;
    for (int size = p->rep_min_pattern > 0 ? p->rep_min_pattern : 1; size <= p->rep_max_pattern; size++)
        if (ends_in_repeats(out, n_out, size, p->rep_min_count)) return true;
    return false;
}

/* vLLM's order: eos, stop ids, length, repetition. */
static finish_reason stop_reason(const engine_request *r, int max_model_len, int32_t *stop_token)
{
    const sampling_params *p = &r->params;
    const int n_out = r->n_known - r->n_prompt;
    const int32_t token = r->tokens[r->n_known - 1];
    *stop_token = -1;
    if (!p->ignore_eos && contains(p->eos_ids, p->n_eos_ids, token)) return FINISH_STOP;
    if (contains(p->stop_token_ids, p->n_stop_token_ids, token)) {
        *stop_token = token;
        return FINISH_STOP;
    }
    if (r->n_known >= max_model_len || n_out >= p->max_tokens) return FINISH_LENGTH;
    if (n_out >= p->min_tokens && is_repetition(p, r->tokens + r->n_prompt, n_out)) return FINISH_REPETITION;
    return FINISH_NONE;
}

static void deliver(const sched *s, engine_request *r, engine_output *o)
{
    o->request = r;
    o->user = r->user;
    o->n_cached_tokens = r->n_cached;
    o->arrival_s = r->arrival_s;
    o->scheduled_s = r->scheduled_s;
    o->first_token_s = r->first_token_s;
    if (o->now_s <= 0) o->now_s = engine_clock_now(&s->c.clock);
    r->on_output(o);
}

static void report_end(sched *s, engine_request *r, finish_reason why)
{
    s->stats.finished[why]++;
    if (!s->observer.on_request) return;
    engine_request_event e = {
        .finish = why, .n_prompt = r->n_prompt, .n_generated = r->n_known - r->n_prompt, .n_cached = r->n_cached,
        .max_tokens = r->params.max_tokens, .n_preemptions = r->n_preemptions, .arrival_s = r->arrival_s, .queued_s = r->queued_s,
        .scheduled_s = r->scheduled_s, .first_token_s = r->first_token_s, .last_token_s = r->last_token_s, .finish_s = engine_clock_now(&s->c.clock),
    };
    s->observer.on_request(s->observer.arg, &e);
}

/* Takes it off the books before anybody hears of it, so that a check from the callback finds all in order. */
static void retire(sched *s, engine_request *r, finish_reason why)
{
    sched_remove(s, r);
    r->state = REQ_FINISHED;
    report_end(s, r, why);
    if (s->c.before_end) s->c.before_end(s->c.arg);
}

void sched_end(sched *s, engine_request *r, finish_reason why, const char *error)
{
    if (r->state == REQ_FINISHED) return;
    retire(s, r, why);
    engine_output o = { .finish = why, .stop_token = -1, .error = error };
    deliver(s, r, &o);
    engine_request_release(r);
}

void sched_end_all(sched *s, finish_reason why, const char *error)
{
    while (s->n_running > 0) sched_end(s, s->running[s->n_running - 1], why, error);
    while (s->waiting.n > 0) sched_end(s, wait_top(&s->waiting), why, error);
}

static void note_token(sched *s, engine_request *r, double now)
{
    s->stats.generation_tokens++;
    if (r->first_token_s <= 0) {
        r->first_token_s = now;
        if (s->observer.on_first_token) s->observer.on_first_token(s->observer.arg, now - r->arrival_s);
    } else if (s->observer.on_token_gap) {
        s->observer.on_token_gap(s->observer.arg, now - r->last_token_s);
    }
    r->last_token_s = now;
    if (r->prompt_counted) return;
    r->prompt_counted = true;
    s->stats.prompt_tokens += (uint64_t)r->n_prompt;
    s->stats.prompt_tokens_cached += (uint64_t)r->n_cached;
    s->stats.prompt_tokens_computed += (uint64_t)(r->n_prompt - r->n_cached);
}

/* The prompt's logprobs as the output wants them; NULL with *failed when memory is short. */
static position_logprobs *collect_prompt(const engine_request *r, bool *failed)
{
    position_logprobs *all = mem_array((size_t)r->n_prompt, sizeof *all);
    *failed = !all;
    for (int i = 0; all && i < r->n_prompt; i++)
        all[i] = (position_logprobs){ r->plp.pos[i].n ? r->plp.items.data + r->plp.pos[i].at : NULL, r->plp.pos[i].n };
    return all;
}

static void apply_sample(sched *s, const plan *p, const plan_seq *q, double now)
{
    engine_request *r = q->r;
    const bool lps_wanted = r->params.logprobs >= -1 || r->params.n_logprob_token_ids > 0;
    r->n_pending--;
    r->n_known++;
    assert(r->n_known == q->start + q->n + 1);
    position_logprobs lp = { q->lp_n ? p->lps.data + q->lp_at : NULL, q->lp_n };
    engine_output o = { .tokens = &r->tokens[r->n_known - 1], .n_tokens = 1, .logprobs = lps_wanted ? &lp : NULL, .now_s = now };
    position_logprobs *plp = NULL;
    bool no_memory = false;
    if (r->wants_prompt_logprobs && !r->plp_delivered) {
        plp = collect_prompt(r, &no_memory);
        if (no_memory) {
            sched_end(s, r, FINISH_ERROR, "out of memory for prompt logprobs");
            return;
        }
        r->plp_delivered = true;
        o.prompt_logprobs = plp;
    }
    note_token(s, r, now);
    o.finish = stop_reason(r, s->c.o->max_model_len, &o.stop_token);
    if (o.finish != FINISH_NONE) retire(s, r, o.finish);
    else if (r->state == REQ_RUNNING) sched_register_blocks(s, r);
    deliver(s, r, &o);
    mem_free(plp);
    if (o.finish != FINISH_NONE) engine_request_release(r);
}

void sched_apply(sched *s, plan *p)
{
    assert(p->st == ST_OK);
    const double now = engine_clock_now(&s->c.clock);
    if (s->observer.on_step) s->observer.on_step(s->observer.arg, &p->event);
    for (int i = 0; i < p->b.n_seqs; i++) {
        plan_seq *q = &p->seqs[i];
        if (q->r->state == REQ_FINISHED) continue; /* it ended while this was under way: the token is dropped */
        if (q->failed) sched_end(s, q->r, FINISH_ERROR, "out of memory while sampling");
        else if (q->sample) apply_sample(s, p, q, now);
    }
    sched_discard(s, p);
}

void sched_discard(sched *s, plan *p)
{
    (void)s;
    for (int i = 0; i < p->b.n_seqs; i++) {
        engine_request_release(p->seqs[i].r);
        p->seqs[i].r = NULL;
    }
    p->b.n_seqs = 0;
}

void sched_stats(const sched *s, engine_stats *out)
{
    engine_stats x = s->stats;
    x.n_running = s->n_running;
    x.n_waiting = x.n_waiting_capacity = s->waiting.n;
    x.n_queued_tokens = s->n_waiting_tokens;
    x.kv_usage = 1.0 - (double)kv_n_free(s->kv) / kv_n_blocks(s->kv);
    x.hit_rate_recent = s->window_queries > 0 ? (double)s->window_hits / (double)s->window_queries : -1;
    *out = x;
}
