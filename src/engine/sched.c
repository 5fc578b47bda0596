#include <assert.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/sched_internal.h"

/* One step while it is being put together. */
typedef struct draft {
    plan *p;
    int n_seqs, budget, rows; /* parts chosen; tokens and rows of logits left */
    int prompt_left;          /* of the budget, for prompt tokens */
    int at;                   /* index in running of the request being looked at */
    bool preempted;
} draft;

status sched_new(const sched_config *c, sched **out)
{
    sched *s = mem_calloc(1, sizeof *s);
    if (!s) return err_nomem();
    s->c = *c;
    if (s->c.kv.n_groups == 0) s->c.kv = kv_layout_full();
    s->waiting.policy = c->o->policy;
    s->max_running = c->o->max_num_seqs;
    if (c->o->max_num_active_seqs > 0 && c->o->max_num_active_seqs < s->max_running) s->max_running = c->o->max_num_active_seqs;
    s->watermark_blocks = (int)(c->o->watermark * (c->n_blocks - 1));
    s->running = mem_array((size_t)c->o->max_num_seqs, sizeof(engine_request *));
    s->window = mem_calloc(HIT_WINDOW, sizeof *s->window);
    status st = s->running && s->window ? kv_new(c->n_blocks, &s->kv) : err_nomem();
    if (st != ST_OK) {
        sched_free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

void sched_free(sched *s)
{
    if (!s) return;
    assert(!s->kv || sched_idle(s));
    wait_free(&s->waiting);
    mem_free(s->running);
    mem_free(s->window);
    kv_free(s->kv);
    buf_free(&s->scratch);
    mem_free(s);
}

void sched_observe(sched *s, const engine_observer *o) { s->observer = *o; }
bool sched_idle(const sched *s) { return s->n_running == 0 && s->waiting.n == 0; }
int sched_n_running(const sched *s) { return s->n_running; }

static void push_waiting(sched *s, engine_request *r, bool front)
{
    r->state = REQ_WAITING;
    wait_push(&s->waiting, r, front);
    s->n_waiting_tokens += r->n_prompt;
}

static void pop_waiting(sched *s, engine_request *r)
{
    wait_remove(&s->waiting, r);
    s->n_waiting_tokens -= r->n_prompt;
}

void sched_add(sched *s, engine_request *r)
{
    /* Room for the running ones too, so that preemption never allocates. */
    if (wait_reserve(&s->waiting, s->waiting.n + s->n_running + 1) != ST_OK) {
        r->state = REQ_RUNNING; /* in no queue: sched_end finds nothing to remove */
        sched_end(s, r, FINISH_ERROR, "out of memory while queueing the request");
        return;
    }
    push_waiting(s, r, false);
}

static void drop_blocks(sched *s, engine_request *r)
{
    for (int g = s->c.kv.n_groups - 1; g >= 0; g--) {
        kv_release(s->kv, request_blocks(r, g), r->n_blocks);
        r->n_dropped[g] = 0;
    }
    r->n_blocks = r->n_registered = r->n_computed = 0;
}

static int index_in_running(const sched *s, const engine_request *r)
{
    for (int i = 0; i < s->n_running; i++)
        if (s->running[i] == r) return i;
    return -1;
}

void sched_remove(sched *s, engine_request *r)
{
    if (r->state == REQ_WAITING) {
        pop_waiting(s, r);
        return;
    }
    const int i = index_in_running(s, r);
    if (i < 0) return;
    memmove(s->running + i, s->running + i + 1, (size_t)(s->n_running - i - 1) * sizeof *s->running);
    s->n_running--;
    drop_blocks(s, r);
}

static int total_tokens(const engine_request *r) { return r->n_known + r->n_pending; }
static int blocks_for(const sched *s, int n_tokens) { return (n_tokens + s->c.o->block_size - 1) / s->c.o->block_size; }
static int min_int(int a, int b) { return a < b ? a : b; }
static int max_int(int a, int b) { return a > b ? a : b; }

/* All its tokens exist or are on their way: nothing to compute until the results come. */
static bool awaits_end(const engine_request *r) { return total_tokens(r) >= r->limit_len; }

/* Long rope scaling uses another table once the sequence is long: everything computed with the short one is void. Depends on the
 * token count alone, so that batching and chunks cannot change it. */
static bool rope_flips(const sched *s, engine_request *r)
{
    const int variant = s->c.rope_switch_len > 0 && total_tokens(r) > s->c.rope_switch_len;
    if (variant == r->rope_variant) return false;
    r->rope_variant = variant;
    r->n_hashes = 0;
    return true;
}

/* Prompt positions whose logprobs the tokens start .. start+n-1 yield and nobody has asked for yet: [*from, *to). */
static void plp_range(const engine_request *r, int start, int n, int *from, int *to)
{
    *from = *to = 0;
    if (!r->wants_prompt_logprobs) return;
    int f = max_int(r->n_plp_planned, start + 1), t = min_int(start + n + 1, r->n_prompt);
    if (f >= t) return;
    *from = f;
    *to = t;
}

/* The largest chunk not above n that needs at most `rows` rows of logits. */
static int fit_rows(const engine_request *r, int start, int n, int rows)
{
    int from, to;
    plp_range(r, start, n, &from, &to);
    const int sample = start + n == total_tokens(r);
    if (to - from + sample <= rows) return n;
    if (from == to) return n - 1;
    return min_int(n - sample, from - 1 + rows - start);
}

/* How many tokens from `start` on to run now. */
static int chunk(const sched *s, const draft *d, const engine_request *r, int start)
{
    int n = total_tokens(r) - start;
    const int cap = s->c.o->long_prefill_token_threshold;
    if (cap > 0 && n > cap && s->n_running + s->waiting.n > 1) n = cap;
    n = min_int(n, d->budget);
    if (n > 1) n = min_int(n, d->prompt_left);
    /* A row is kept for each running request still to come: prompt logprobs of one must not stop the others' decoding. */
    int rows = d->rows;
    if (r->wants_prompt_logprobs) rows = min_int(rows, max_int(1, d->rows - max_int(0, s->n_running - d->at - 1)));
    n = fit_rows(r, start, n, rows);
    if (!r->media_sees_all) return n;
    const int whole = request_whole_media(r, start, n, d->budget);
    return whole <= n || fit_rows(r, start, whole, rows) == whole ? whole : 0;
}

static void add_part(draft *d, engine_request *r, int start, int n)
{
    plan_seq *q = &d->p->seqs[d->n_seqs++];
    *q = (plan_seq){ .r = r, .start = start, .n = n, .sample = start + n == total_tokens(r), .is_prefill = start < r->n_prompt || n > 1 };
    plp_range(r, start, n, &q->plp_from, &q->plp_to);
    d->budget -= n;
    if (n > 1) d->prompt_left -= n;
    d->rows -= q->plp_to - q->plp_from + q->sample;
}

static void remove_part(draft *d, const engine_request *r)
{
    for (int i = 0; i < d->n_seqs; i++) {
        plan_seq *q = &d->p->seqs[i];
        if (q->r != r) continue;
        d->budget += q->n;
        if (q->n > 1) d->prompt_left += q->n;
        d->rows += q->plp_to - q->plp_from + q->sample;
        memmove(q, q + 1, (size_t)(d->n_seqs - i - 1) * sizeof *q);
        d->n_seqs--;
        return;
    }
}

static engine_request *choose_victim(const sched *s)
{
    engine_request *v = s->running[s->n_running - 1];
    if (s->c.o->policy == SCHED_PRIORITY)
        for (int i = 0; i < s->n_running; i++)
            if (wait_before(SCHED_PRIORITY, v, s->running[i])) v = s->running[i];
    return v;
}

/* Recomputation later, from the prefix cache as far as it goes. Tokens of plans in flight still count when they arrive. */
static void preempt(sched *s, draft *d, engine_request *v)
{
    const int i = index_in_running(s, v);
    remove_part(d, v);
    sched_remove(s, v);
    if (i < d->at) d->at--;
    push_waiting(s, v, true);
    v->n_preemptions++;
    s->stats.preemptions++;
}

/* The first block of a group that queries from `pos` on look at. */
static int first_block(const sched *s, int group, int pos) { return (int)(kv_first_seen(&s->c.kv.group[group], pos) / s->c.o->block_size); }

/* Gives back what no query from n_computed on will look at. A step in flight may: what takes the blocks next runs after it. */
static void drop_unseen(sched *s, engine_request *r)
{
    for (int g = 0; g < s->c.kv.n_groups; g++) {
        int32_t *blocks = request_blocks(r, g);
        const int to = min_int(first_block(s, g, r->n_computed), r->n_blocks), from = r->n_dropped[g];
        if (to <= from) continue;
        kv_release(s->kv, blocks + from, to - from);
        memset(blocks + from, 0, (size_t)(to - from) * sizeof *blocks);
        r->n_dropped[g] = to;
    }
}

/* The next n blocks in every group. False: too few are free, and nothing has changed. */
static bool take_blocks(sched *s, engine_request *r, int n)
{
    if (n > kv_n_free(s->kv) / s->c.kv.n_groups) return false;
    for (int g = 0; g < s->c.kv.n_groups; g++) {
        const bool got = kv_take(s->kv, n, request_blocks(r, g) + r->n_blocks);
        assert(got);
        (void)got;
    }
    r->n_blocks += n;
    return true;
}

/* Blocks for all tokens below `end`; preempts until they are there. False: r itself had to go. */
static bool get_blocks(sched *s, draft *d, engine_request *r, int end)
{
    const int need = blocks_for(s, end) - r->n_blocks;
    drop_unseen(s, r);
    if (need <= 0) return true;
    while (!take_blocks(s, r, need)) {
        engine_request *v = choose_victim(s);
        preempt(s, d, v);
        d->preempted = true;
        if (v == r) return false;
    }
    return true;
}

static void schedule_running(sched *s, draft *d)
{
    for (d->at = 0; d->at < s->n_running && d->budget > 0; d->at++) {
        engine_request *r = s->running[d->at];
        if (awaits_end(r)) continue;
        if (rope_flips(s, r)) drop_blocks(s, r);
        const int n = chunk(s, d, r, r->n_computed);
        if (n <= 0) continue;
        if (!get_blocks(s, d, r, r->n_computed + n)) break;
        add_part(d, r, r->n_computed, n);
    }
}

/* The largest n <= most so that a group has all blocks cached that a query after n blocks looks at. */
static int hits_in_group(const sched *s, const engine_request *r, int group, int most)
{
    const bool keeps = !kv_forgets(&s->c.kv.group[group]);
    int n = keeps ? 0 : most;
    while (keeps && n < most && kv_find(s->kv, &r->hashes[n], group)) n++;
    for (int i = n - 1; !keeps && i >= first_block(s, group, n * s->c.o->block_size); i--)
        if (!kv_find(s->kv, &r->hashes[i], group)) n = i; /* what comes next must not need block i: at most the blocks before it */
    return n;
}

/* Cached blocks that r can start from; never all tokens, since the last one's logits are needed. Leaves them in its page tables. */
static int find_hits(sched *s, engine_request *r, int *n_free_hits, int *n_held)
{
    *n_free_hits = *n_held = 0;
    if (!r->hashes || r->wants_prompt_logprobs) return 0;
    if (request_hash(r, s->c.hasher, s->c.o->block_size, &s->scratch) != ST_OK) log_debug("%s: %s", r->id, err_msg());
    int n = min_int(r->n_hashes, (total_tokens(r) - 1) / s->c.o->block_size);
    /* A group may cut what another one has looked at already: until all agree. */
    for (int g = 0, agreed = 0; agreed < s->c.kv.n_groups && n > 0; g = (g + 1) % s->c.kv.n_groups) {
        const int hits = hits_in_group(s, r, g, n);
        agreed = hits == n ? agreed + 1 : 1;
        n = hits;
    }
    for (int g = 0; g < s->c.kv.n_groups; g++) {
        int32_t *blocks = request_blocks(r, g);
        const int from = first_block(s, g, n * s->c.o->block_size);
        for (int i = 0; i < n; i++) {
            blocks[i] = i < from ? 0 : kv_find(s->kv, &r->hashes[i], g);
            *n_held += i >= from;
            *n_free_hits += i >= from && kv_refs(s->kv, blocks[i]) == 0; /* using them takes them off the free queue */
        }
    }
    return n;
}

static void count_lookup(sched *s, engine_request *r, int n_hit_tokens)
{
    r->n_cached = min_int(n_hit_tokens, r->n_prompt);
    if (!r->hashes || r->wants_prompt_logprobs) return;
    s->stats.prefix_queries += (uint64_t)r->n_prompt;
    s->stats.prefix_hits += (uint64_t)r->n_cached;
    const uint64_t i = s->n_window++ % HIT_WINDOW;
    s->window_queries += r->n_prompt - s->window[i].queries;
    s->window_hits += r->n_cached - s->window[i].hits;
    s->window[i].queries = r->n_prompt;
    s->window[i].hits = r->n_cached;
}

/* Moves the first waiting request into running with a first chunk. False: it has to wait, and with it all behind it. */
static bool admit(sched *s, draft *d, engine_request *r)
{
    if (awaits_end(r)) return false;
    rope_flips(s, r);
    int n_free_hits, n_held;
    const int hits = find_hits(s, r, &n_free_hits, &n_held), start = hits * s->c.o->block_size;
    if (s->c.o->no_chunked_prefill && total_tokens(r) - start > d->budget) return false;
    const int n = chunk(s, d, r, start);
    if (n <= 0) return false;
    const int need = blocks_for(s, start + n) - hits;
    const int64_t whole = kv_layout_blocks(&s->c.kv, total_tokens(r), s->c.limits->max_tokens, s->c.o->block_size);
    const int64_t must_fit = s->c.o->no_reserve_full_isl ? (int64_t)need * s->c.kv.n_groups : whole - n_held;
    const int reserve = s->n_running > 0 ? s->watermark_blocks : 0; /* alone, nothing would ever free more */
    if (must_fit > kv_n_free(s->kv) - n_free_hits - reserve) return false;
    pop_waiting(s, r);
    for (int g = 0; g < s->c.kv.n_groups; g++) {
        r->n_dropped[g] = first_block(s, g, start);
        for (int i = r->n_dropped[g]; i < hits; i++) kv_ref(s->kv, request_blocks(r, g)[i]);
    }
    r->n_blocks = r->n_registered = hits;
    const bool got = take_blocks(s, r, need);
    assert(got);
    (void)got;
    r->n_computed = start;
    r->state = REQ_RUNNING;
    s->running[s->n_running++] = r;
    if (!r->was_scheduled) {
        r->was_scheduled = true;
        r->scheduled_s = engine_clock_now(&s->c.clock);
        count_lookup(s, r, start);
    }
    add_part(d, r, start, n);
    return true;
}

static void schedule_waiting(sched *s, draft *d)
{
    while (d->budget > 0 && s->n_running < s->max_running) {
        engine_request *r = wait_top(&s->waiting);
        d->at = s->n_running;
        if (!r || !admit(s, d, r)) return;
    }
}

void sched_register_blocks(sched *s, engine_request *r)
{
    if (!r->hashes) return;
    if (request_hash(r, s->c.hasher, s->c.o->block_size, &s->scratch) != ST_OK) log_debug("%s: %s", r->id, err_msg());
    const int n = min_int(r->n_hashes, r->n_computed / s->c.o->block_size);
    for (; r->n_registered < n; r->n_registered++)
        for (int g = 0; g < s->c.kv.n_groups; g++) {
            const int32_t b = request_blocks(r, g)[r->n_registered];
            if (b) kv_register(s->kv, b, &r->hashes[r->n_registered], g); /* else a window has passed it meanwhile */
        }
}

void sched_limit_prompts(sched *s, int n_tokens) { s->most_prompt = n_tokens; }

/* Those who decode wait for the prompts beside them; alone, prompts may have it all. */
static int prompt_budget(const sched *s)
{
    if (s->most_prompt <= 0 || s->c.o->no_chunked_prefill) return s->c.limits->max_tokens;
    for (int i = 0; i < s->n_running; i++)
        if (total_tokens(s->running[i]) - s->running[i]->n_computed == 1) return s->most_prompt;
    return s->c.limits->max_tokens;
}

bool sched_plan(sched *s, plan *p)
{
    draft d = { .p = p, .budget = s->c.limits->max_tokens, .rows = s->c.limits->max_rows, .prompt_left = prompt_budget(s) };
    if (s->c.preempt_every > 0 && s->n_running > 0 && (s->n_plans + 1) % (uint64_t)s->c.preempt_every == 0) preempt(s, &d, choose_victim(s));
    schedule_running(s, &d);
    if (!d.preempted) schedule_waiting(s, &d);
    if (d.n_seqs == 0) {
        s->n_plans += s->c.preempt_every > 0; /* or the same forced preemption would repeat for ever */
        return false;
    }
    plan_build(p, d.n_seqs, s->c.o->block_size);
    for (int i = 0; i < d.n_seqs; i++) {
        plan_seq *q = &p->seqs[i];
        engine_request *r = q->r;
        request_ref(r);
        r->n_computed += q->n;
        r->n_pending += q->sample;
        if (q->plp_to > q->plp_from) r->n_plp_planned = q->plp_to;
    }
    /* Only now, so that no request of this step reads a block that this step is still writing. */
    for (int i = 0; i < d.n_seqs; i++) sched_register_blocks(s, p->seqs[i].r);
    s->n_plans++;
    s->stats.steps++;
    return true;
}

bool sched_reset_prefix_cache(sched *s) { return kv_reset(s->kv); }

static status check_request(const sched *s, const engine_request *r, int *n_held)
{
    if (total_tokens(r) > r->limit_len || r->n_computed > total_tokens(r))
        return err_set(ST_INTERNAL, "request %s: %d computed of %d + %d tokens, limit %d", r->id, r->n_computed, r->n_known, r->n_pending, r->limit_len);
    if (r->n_blocks < blocks_for(s, r->n_computed) || r->n_blocks > r->max_blocks)
        return err_set(ST_INTERNAL, "request %s: %d blocks for %d tokens", r->id, r->n_blocks, r->n_computed);
    for (int g = 0; g < s->c.kv.n_groups; g++) {
        const int32_t *blocks = request_blocks(r, g);
        if (r->n_dropped[g] > first_block(s, g, r->n_computed))
            return err_set(ST_INTERNAL, "request %s: %d blocks of group %d are gone, but token %d looks at some", r->id, r->n_dropped[g], g, r->n_computed);
        for (int i = 0; i < r->n_blocks; i++)
            if (i < r->n_dropped[g] ? blocks[i] != 0 : blocks[i] < 1 || kv_refs(s->kv, blocks[i]) < 1)
                return err_set(ST_INTERNAL, "request %s: block %d of group %d is %d, which is free", r->id, i, g, blocks[i]);
        *n_held += r->n_blocks - r->n_dropped[g];
    }
    return ST_OK;
}

status sched_check(const sched *s)
{
    int n_held = 0, n_refs = 0;
    for (int i = 0; i < s->n_running; i++) {
        if (s->running[i]->state != REQ_RUNNING) return err_set(ST_INTERNAL, "request %s runs in state %d", s->running[i]->id, (int)s->running[i]->state);
        TRY(check_request(s, s->running[i], &n_held));
    }
    int64_t tokens = 0;
    for (int i = 0; i < s->waiting.n; i++) {
        const engine_request *r = s->waiting.heap[i];
        tokens += r->n_prompt;
        if (r->heap_at != i || r->state != REQ_WAITING) return err_set(ST_INTERNAL, "request %s waits at %d, thinks %d", r->id, i, r->heap_at);
        if (r->n_blocks != 0 || r->n_computed != 0) return err_set(ST_INTERNAL, "request %s waits and holds %d blocks", r->id, r->n_blocks);
        if (i > 0 && wait_before(s->waiting.policy, r, s->waiting.heap[(i - 1) / 2])) return err_set(ST_INTERNAL, "the waiting heap is out of order at %d", i);
    }
    if (tokens != s->n_waiting_tokens) return err_set(ST_INTERNAL, "%lld tokens wait, the counter says %lld", (long long)tokens, (long long)s->n_waiting_tokens);
    for (int32_t b = 1; b <= kv_n_blocks(s->kv); b++) n_refs += kv_refs(s->kv, b);
    if (n_refs != n_held) return err_set(ST_INTERNAL, "requests hold %d blocks, the blocks count %d users", n_held, n_refs);
    return kv_check(s->kv, sched_idle(s));
}
