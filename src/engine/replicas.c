/* Data parallelism: several engines behind one. Each has a device_model, a scheduler, KV blocks and a prefix cache of its own and knows
 * nothing of the others; a request goes to the one that is least busy and stays there.
 *
 * Among equals it goes around. Callers know the first engine alone; the others belong to it. */
#include "engine/replicas.h"

#include "base/clock.h"
#include "base/mem.h"

/* The i-th of all; NULL after the last. */
static engine *at(engine *e, int i)
{
    const replica_list *l = engine_replicas(e);
    return i == 0 ? e : i <= l->n ? l->v[i - 1] : NULL;
}

status engine_join(engine *e, engine *other)
{
    replica_list *l = engine_replicas(e);
    engine **more = mem_realloc_array(l->v, (size_t)l->n + 1, sizeof *more);
    if (!more) return err_nomem();
    l->v = more;
    l->v[l->n++] = other;
    return ST_OK;
}

int replicas_choose(int n, int first, replica_busy_fn *busy, void *arg)
{
    int best = -1, least = 0;
    for (int k = 0; k < n; k++) {
        const int i = (first + k) % n, b = busy(arg, i);
        if (b < 0 || (best >= 0 && b >= least)) continue;
        best = i;
        least = b;
    }
    return best;
}

static int how_busy(void *arg, int i)
{
    engine_stats s;
    engine *one = at(arg, i);
    if (!engine_one_healthy(one)) return -1;
    engine_one_stats(one, &s);
    return replica_busy(s.n_waiting, s.n_running);
}

/* One that has failed is taken only where all have: it says why. */
static engine *least_busy(engine *e)
{
    replica_list *l = engine_replicas(e);
    if (l->n == 0) return e;
    const int n = l->n + 1, best = replicas_choose(n, (int)(atomic_fetch_add(&l->turn, 1) % (unsigned)n), how_busy, e);
    return best < 0 ? e : at(e, best);
}

status engine_submit(engine *e, const request_spec *spec, engine_request **out) { return engine_one_submit(least_busy(e), spec, out); }

void engine_stop(engine *e, double drain_s)
{
    if (!e) return;
    replica_list l = { .v = engine_replicas(e)->v, .n = engine_replicas(e)->n };
    const double until = clock_now() + (drain_s > 0 ? drain_s : 0);
    for (int i = 0; at(e, i); i++) engine_one_stop(at(e, i), until);
    for (int i = 0; i < l.n; i++) engine_one_join(l.v[i]);
    engine_one_join(e);
    mem_free(l.v);
}

/* ---- all of them ---- */

static engine *not_const(const engine *e)
{
    return (engine *)(uintptr_t)e;      /* mutexes are not part of what const promises */
}

int engine_num_blocks(const engine *e)
{
    int n = 0;
    for (int i = 0; at(not_const(e), i); i++) n += engine_one_num_blocks(at(not_const(e), i));
    return n;
}

bool engine_healthy(const engine *e)
{
    bool all = true;
    for (int i = 0; at(not_const(e), i); i++) all = engine_one_healthy(at(not_const(e), i)) && all;
    return all;
}

void engine_observe(engine *e, const engine_observer *o)
{
    for (int i = 0; at(e, i); i++) engine_one_observe(at(e, i), o);
}

bool engine_reset_prefix_cache(engine *e)
{
    bool all = true;
    for (int i = 0; at(e, i); i++) all = engine_one_reset_prefix_cache(at(e, i)) && all;
    return all;
}

bool engine_check_kv(engine *e)
{
    bool all = true;
    for (int i = 0; at(e, i); i++) all = engine_one_check_kv(at(e, i)) && all;
    return all;
}

static void add(engine_stats *a, const engine_stats *b)
{
    a->n_running += b->n_running;
    a->n_waiting += b->n_waiting;
    a->n_waiting_capacity += b->n_waiting_capacity;
    a->n_waiting_deferred += b->n_waiting_deferred;
    a->n_queued_tokens += b->n_queued_tokens;
    a->kv_usage += b->kv_usage;
    a->prefix_queries += b->prefix_queries;
    a->prefix_hits += b->prefix_hits;
    a->preemptions += b->preemptions;
    a->prompt_tokens += b->prompt_tokens;
    a->prompt_tokens_computed += b->prompt_tokens_computed;
    a->prompt_tokens_cached += b->prompt_tokens_cached;
    a->generation_tokens += b->generation_tokens;
    a->steps += b->steps;
    for (size_t i = 0; i < sizeof a->finished / sizeof *a->finished; i++) a->finished[i] += b->finished[i];
    a->rejected_reqs += b->rejected_reqs;
    a->rejected_tokens += b->rejected_tokens;
}

void engine_get_stats(engine *e, engine_stats *out)
{
    double hits = 0;
    int n = 0, n_hits = 0;
    engine_one_stats(e, out);
    if (at(e, 1) == NULL) return;
    *out = (engine_stats){0};
    for (engine *one; (one = at(e, n)); n++) {
        engine_stats s;
        engine_one_stats(one, &s);
        add(out, &s);
        if (s.hit_rate_recent < 0) continue;
        hits += s.hit_rate_recent;
        n_hits++;
    }
    out->kv_usage /= n;
    out->hit_rate_recent = n_hits > 0 ? hits / n_hits : -1;
}
