#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "base/mem.h"
#include "engine/internal.h"
#include "engine/sample_row.h"

/* A step that the device has and may be working on: what its batch points to beside the plan's own arrays. */
typedef struct flight {
    plan *p;
    double start;
    sample_row *samples; /* [max_rows] */
    int32_t *sampled;    /* [max_rows] */
    float *logits;       /* [max_rows][vocab], once a step has needed them */
    row_memory rows;
} flight;

struct stepper {
    engine_device dev;
    sampler *sampler;          /* the step thread's */
    sampler **helpers;         /* [n_helpers] of the device's other threads */
    int n_helpers;
    int vocab_size, max_rows;
    float *logits;             /* [max_rows][vocab]; NULL on devices that sample */

    /* Devices that sample. */
    int depth;
    flight *flights;           /* [depth] a ring: n_flying of them from `first` on, oldest first */
    int first, n_flying;
    int32_t *free_slots;       /* a stack */
    int n_free_slots;
    uint32_t *marks;           /* [vocab] all zero between calls */
    double last_end;           /* when the last step was done */
    bool refused, lost;        /* a submit or a wait failed; a wait failed */
};

static double time_now(const stepper *s) { return s->dev.now ? s->dev.now(s->dev.self) : clock_now(); }

static float *new_logits(const stepper *s)
{
    const size_t row_bytes = (size_t)s->vocab_size * sizeof(float), n_rows = (size_t)s->max_rows;
    return n_rows > SIZE_MAX / row_bytes ? NULL : mem_aligned(64, n_rows * row_bytes);
}

/* A ring holds the last BATCH_RING tokens of a request. Each step in flight adds one, and the one about to be submitted names those
 * that are not here yet: none of them may have been overwritten. */
static status init_flights(stepper *s, int max_seqs)
{
    const int depth = s->dev.depth(s->dev.self), n_slots = s->dev.n_slots(s->dev.self);
    if (n_slots < max_seqs)
        return err_set(ST_INVALID, "the device keeps sampled tokens of %d requests, %d are needed (max_num_seqs)", n_slots, max_seqs);
    s->depth = depth < BATCH_RING ? depth : BATCH_RING - 1;
    s->flights = mem_calloc((size_t)s->depth, sizeof *s->flights);
    s->free_slots = mem_array((size_t)n_slots, sizeof *s->free_slots);
    s->marks = mem_calloc((size_t)s->vocab_size, sizeof *s->marks);
    if (!s->flights || !s->free_slots || !s->marks) return err_nomem();
    for (int i = 0; i < s->depth; i++) {
        s->flights[i].samples = mem_calloc((size_t)s->max_rows, sizeof(sample_row));
        s->flights[i].sampled = mem_calloc((size_t)s->max_rows, sizeof(int32_t));
        if (!s->flights[i].samples || !s->flights[i].sampled) return err_nomem();
    }
    for (int32_t i = n_slots; i-- > 0;) s->free_slots[s->n_free_slots++] = i;
    return ST_OK;
}

static status init_helpers(stepper *s, logprobs_mode mode)
{
    const int n = s->dev.parallel ? s->dev.n_threads - 1 : 0;
    if (n <= 0) return ST_OK;
    s->helpers = mem_calloc((size_t)n, sizeof *s->helpers);
    if (!s->helpers) return err_nomem();
    for (; s->n_helpers < n; s->n_helpers++) TRY(sampler_new(s->vocab_size, mode, &s->helpers[s->n_helpers]));
    return ST_OK;
}

static status init(stepper *s, int max_seqs, logprobs_mode mode)
{
    if (s->dev.depth && s->dev.depth(s->dev.self) > 0) {
        TRY(init_flights(s, max_seqs));
    } else {
        s->logits = new_logits(s);
        if (!s->logits) return err_nomem();
        TRY(init_helpers(s, mode));
    }
    return sampler_new(s->vocab_size, mode, &s->sampler);
}

status stepper_new(const engine_device *dev, const device_limits *l, int vocab_size, logprobs_mode mode, stepper **out)
{
    stepper *s = mem_calloc(1, sizeof *s);
    if (!s) return err_nomem();
    s->dev = *dev;
    s->dev.name = NULL; /* the caller's */
    s->vocab_size = vocab_size;
    s->max_rows = l->max_rows;
    status st = init(s, l->max_seqs, mode);
    if (st != ST_OK) {
        stepper_free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

void stepper_free(stepper *s)
{
    if (!s) return;
    assert(s->n_flying == 0);
    for (int i = 0; s->flights && i < s->depth; i++) {
        mem_free(s->flights[i].samples);
        mem_free(s->flights[i].sampled);
        mem_free(s->flights[i].logits);
        row_memory_free(&s->flights[i].rows);
    }
    mem_free(s->flights);
    mem_free(s->free_slots);
    mem_free(s->marks);
    sampler_free(s->sampler);
    for (int i = 0; i < s->n_helpers; i++) sampler_free(s->helpers[i]);
    mem_free(s->helpers);
    mem_free(s->logits);
    mem_free(s);
}

/* The only place where token values enter a batch: those sampled by the step before are known here, though not yet to the scheduler. */
static void fill_tokens(plan *p)
{
    for (int i = 0; i < p->b.n_seqs; i++) {
        const plan_seq *q = &p->seqs[i];
        memcpy(p->token_ids + p->cu_q_lens[i], q->r->tokens + q->start, (size_t)q->n * sizeof(int32_t));
    }
}

/* Of the prompt positions that this step was asked for; `row` is the first one's. Returns the row after the last. */
static float *collect_prompt_lps(stepper *s, const plan_seq *q, float *row)
{
    engine_request *r = q->r;
    for (int pos = q->plp_from; pos < q->plp_to; pos++, row += s->vocab_size) {
        size_t at = r->plp.items.len;
        if (sampler_prompt(s->sampler, &r->params, r->tokens[pos], row, &r->plp.items) != ST_OK) r->plp.failed = true;
        r->plp.pos[pos].at = at;
        r->plp.pos[pos].n = (int)(r->plp.items.len - at);
    }
    return row;
}

static sample_input input_of(const plan_seq *q)
{
    const engine_request *r = q->r;
    return (sample_input){ .params = &r->params, .tokens = r->tokens, .n_prompt = r->n_prompt, .n_tokens = q->start + q->n, .seed = r->rng_seed };
}

static void sample_seq(stepper *s, sampler *own, plan *p, plan_seq *q)
{
    float *row = collect_prompt_lps(s, q, s->logits + (size_t)q->row * (size_t)s->vocab_size);
    q->failed = q->r->plp.failed;
    q->lp_at = p->lps.len;
    q->lp_n = 0;
    if (!q->sample) return;
    const sample_input in = input_of(q);
    if (sampler_next(own, &in, row, &q->r->tokens[in.n_tokens], &p->lps) != ST_OK) q->failed = true;
    q->lp_n = (int)(p->lps.len - q->lp_at);
}

/* Nothing but a token comes of it: sequences can be sampled in any order and by any thread. Logprobs are appended to one array. */
static bool only_token(const plan_seq *q) { return q->sample && q->plp_to <= q->plp_from && !sampler_wants_logprobs(&q->r->params); }

typedef struct sampling { stepper *s; plan *p; _Atomic int next; } sampling;

static void sample_tokens(void *arg, int thread)
{
    sampling *job = arg;
    plan *p = job->p;
    sampler *own = thread ? job->s->helpers[thread - 1] : job->s->sampler;
    for (int i; (i = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed)) < p->b.n_seqs;)
        if (only_token(&p->seqs[i])) sample_seq(job->s, own, p, &p->seqs[i]);
}

static void sample_all(stepper *s, plan *p)
{
    int n_easy = 0;
    for (int i = 0; i < p->b.n_seqs; i++) n_easy += only_token(&p->seqs[i]);
    const bool together = s->n_helpers > 0 && n_easy > 1;
    sampling job = { .s = s, .p = p };
    if (together) s->dev.parallel(s->dev.self, sample_tokens, &job);
    for (int i = 0; i < p->b.n_seqs; i++)
        if (!together || !only_token(&p->seqs[i])) sample_seq(s, s->sampler, p, &p->seqs[i]);
}

void stepper_run(stepper *s, plan *p)
{
    const double start = time_now(s);
    fill_tokens(p);
    p->b.logits = s->logits;
    p->st = s->dev.run(s->dev.self, &p->b);
    if (p->st != ST_OK) {
        err_copy(p->error, sizeof p->error);
        return;
    }
    sample_all(s, p);
    p->event.seconds = time_now(s) - start;
}

/* ---- steps ahead ---- */

int stepper_depth(const stepper *s) { return s->depth; }
int stepper_n_flying(const stepper *s) { return s->n_flying; }

/* Bad words of several tokens are compared here, so a step may have to wait for the values: right, and slower for all beside it. */
bool stepper_can_submit(const stepper *s, const plan *p)
{
    int n_new = 0;
    for (int i = 0; i < p->b.n_seqs; i++) {
        const plan_seq *q = &p->seqs[i];
        if (!q->sample) continue;
        if (sample_row_needs_values(q->r, q->start + q->n)) return false;
        n_new += q->r->slot < 0;
    }
    return n_new <= s->n_free_slots;
}

static void name_tokens(plan *p)
{
    fill_tokens(p);
    for (int i = 0; i < p->b.n_seqs; i++) {
        const plan_seq *q = &p->seqs[i];
        int32_t *ids = p->token_ids + p->cu_q_lens[i];
        for (int pos = q->r->n_valued > q->start ? q->r->n_valued : q->start; pos < q->start + q->n; pos++) ids[pos - q->start] = ring_name(q->r, pos);
    }
}

static bool needs_logits(const plan_seq *q)
{
    return q->plp_to > q->plp_from || (q->sample && sampler_wants_logprobs(&q->r->params));
}

/* Logits come to the host only for those who want to see them. */
static void want_logits(stepper *s, flight *f)
{
    plan *p = f->p;
    bool wanted = false;
    for (int i = 0; i < p->b.n_seqs; i++) wanted = wanted || needs_logits(&p->seqs[i]);
    if (wanted && !f->logits) f->logits = new_logits(s);
    p->b.logits = wanted ? f->logits : NULL;
    for (int i = 0; wanted && !f->logits && i < p->b.n_seqs; i++)
        if (needs_logits(&p->seqs[i])) p->seqs[i].failed = true;
}

static void describe_rows(stepper *s, flight *f)
{
    plan *p = f->p;
    row_memory *rows = row_memory_reset(&f->rows, p) == ST_OK ? &f->rows : NULL;
    for (int i = 0; i < p->b.n_seqs; i++) {
        plan_seq *q = &p->seqs[i];
        sample_row *row = f->samples + q->row;
        for (int pos = q->plp_from; pos < q->plp_to; pos++) *row++ = sample_row_unused();
        if (!q->sample) continue;
        if (q->r->slot < 0) q->r->slot = s->free_slots[--s->n_free_slots];
        if (sample_row_fill(rows, q->r, q->start + q->n, s->vocab_size, s->marks, row) != ST_OK) q->failed = true;
    }
    p->b.samples = f->samples;
    p->b.sampled = f->sampled;
}

void stepper_submit(stepper *s, plan *p)
{
    if (s->refused) {
        p->st = ST_CANCELLED;
        return;
    }
    assert(s->n_flying < s->depth && stepper_can_submit(s, p));
    flight *f = &s->flights[(s->first + s->n_flying) % s->depth];
    f->p = p;
    f->start = time_now(s);
    name_tokens(p);
    want_logits(s, f);
    describe_rows(s, f);
    p->st = s->dev.submit(s->dev.self, &p->b);
    if (p->st != ST_OK) {
        err_copy(p->error, sizeof p->error);
        s->refused = true;
        return;
    }
    s->n_flying++;
    for (int i = 0; i < p->b.n_seqs; i++) p->seqs[i].r->n_flying++;
}

/* A wrong id would be an index out of bounds for everybody who sees it next. */
static status check_sampled(const stepper *s, const flight *f)
{
    for (int i = 0; i < f->p->b.n_rows; i++)
        if (f->samples[i].slot >= 0 && (f->sampled[i] < 0 || f->sampled[i] >= s->vocab_size))
            return err_set(ST_INTERNAL, "the device sampled token %d, expected one of 0..%d", f->sampled[i], s->vocab_size - 1);
    return ST_OK;
}

static void take_seq(stepper *s, flight *f, plan_seq *q)
{
    plan *p = f->p;
    engine_request *r = q->r;
    float *row = p->b.logits ? p->b.logits + (size_t)q->row * (size_t)s->vocab_size : NULL;
    if (row) row = collect_prompt_lps(s, q, row);
    q->failed = q->failed || r->plp.failed;
    q->lp_at = p->lps.len;
    q->lp_n = 0;
    if (!q->sample) return;
    const sample_input in = input_of(q);
    const int32_t token = f->sampled[q->row + q->plp_to - q->plp_from];
    r->tokens[in.n_tokens] = token;
    r->n_valued = in.n_tokens + 1;
    if (!row || !sampler_wants_logprobs(&r->params)) return;
    if (sampler_logprobs(s->sampler, &in, row, token, &p->lps) != ST_OK) q->failed = true;
    q->lp_n = (int)(p->lps.len - q->lp_at);
}

/* A request that is in no step in flight has all its values here and needs no slot. */
static void leave_flight(stepper *s, flight *f)
{
    for (int i = 0; i < f->p->b.n_seqs; i++) {
        engine_request *r = f->p->seqs[i].r;
        if (--r->n_flying > 0 || r->slot < 0) continue;
        s->free_slots[s->n_free_slots++] = r->slot;
        r->slot = -1;
    }
    s->first = (s->first + 1) % s->depth;
    s->n_flying--;
}

plan *stepper_finish(stepper *s)
{
    assert(s->n_flying > 0);
    flight *f = &s->flights[s->first];
    plan *p = f->p;
    status st = s->dev.wait(s->dev.self);
    if (st == ST_OK && !s->lost) st = check_sampled(s, f);
    if (s->lost) {
        p->st = ST_CANCELLED; /* it builds on the one that was lost */
    } else if (st != ST_OK) {
        p->st = st;
        err_copy(p->error, sizeof p->error);
        s->refused = s->lost = true;
    } else {
        for (int i = 0; i < p->b.n_seqs; i++) take_seq(s, f, &p->seqs[i]);
    }
    const double now = time_now(s);
    p->event.seconds = now - (f->start > s->last_end ? f->start : s->last_end);
    s->last_end = now;
    leave_flight(s, f);
    return p;
}
