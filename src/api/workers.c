/* Output threads: each has a queue of messages from the engine's callback and works them off in order. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/job.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

typedef struct out_worker {
    app *app;
    pthread_t thread;
    pthread_mutex_t mu;
    pthread_cond_t cv;
    out_msg *head, **tail;
    bool stop;
} out_worker;

void worker_post(out_worker *w, out_msg *m)
{
    m->next = NULL;
    pthread_mutex_lock(&w->mu);
    bool idle = !w->head;
    *w->tail = m;
    w->tail = &m->next;
    if (idle) pthread_cond_signal(&w->cv);
    pthread_mutex_unlock(&w->mu);
}

void worker_assign(app *a, job *j) { j->worker = a->workers ? &a->workers[j->id % (uint64_t)a->n_workers] : NULL; }

/* ---- copying an output ---- */
static size_t items_of(const position_logprobs *lp, int n)
{
    size_t items = 0;
    for (int i = 0; lp && i < n; i++) items += (size_t)lp[i].n;
    return items;
}

static position_logprobs *copy_logprobs(const position_logprobs *lp, int n, position_logprobs *dst, token_logprob **room)
{
    if (!lp) return NULL;
    for (int i = 0; i < n; i++) {
        dst[i] = (position_logprobs){ .items = *room, .n = lp[i].n };
        if (lp[i].n) memcpy(*room, lp[i].items, (size_t)lp[i].n * sizeof **room);
        *room += lp[i].n;
    }
    return dst;
}

/* One block: message, positions, items, tokens, error text. NULL when out of memory. */
static out_msg *copy_output(const engine_output *o, seq *s)
{
    int n_prompt = s->job->prompts[s->prompt].n;
    size_t n_items = items_of(o->logprobs, o->n_tokens) + items_of(o->prompt_logprobs, n_prompt);
    size_t n_pos = (o->logprobs ? (size_t)o->n_tokens : 0) + (o->prompt_logprobs ? (size_t)n_prompt : 0);
    size_t err = o->error ? strlen(o->error) + 1 : 0;
    out_msg *m = mem_alloc(sizeof *m + n_pos * sizeof(position_logprobs) + n_items * sizeof(token_logprob) + (size_t)o->n_tokens * sizeof(int32_t) + err);
    if (!m) return NULL;
    position_logprobs *pos = (position_logprobs *)(m + 1);
    token_logprob *items = (token_logprob *)(pos + n_pos);
    int32_t *tokens = (int32_t *)(items + n_items);
    *m = (out_msg){ .kind = MSG_OUTPUT, .owned = true, .s = s, .j = s->job };
    m->logprobs = copy_logprobs(o->logprobs, o->n_tokens, pos, &items);
    m->prompt_logprobs = copy_logprobs(o->prompt_logprobs, n_prompt, pos + (o->logprobs ? o->n_tokens : 0), &items);
    if (o->n_tokens) memcpy(tokens, o->tokens, (size_t)o->n_tokens * sizeof *tokens);
    m->tokens = tokens;
    m->n_tokens = o->n_tokens;
    if (err) m->error = memcpy(tokens + o->n_tokens, o->error, err);
    return m;
}

void worker_on_output(const engine_output *o)
{
    seq *s = o->user;
    bool final = o->finish != FINISH_NONE;
    out_msg *m = copy_output(o, s);
    if (!m) {
        /* no memory: the sequence is lost, which the embedded messages can always say */
        if (!atomic_exchange(&s->lost, true)) worker_post(s->job->worker, &s->lost_msg);
        if (!final) return;
        m = &s->final_msg;
    }
    m->finish = o->finish;
    m->stop_token = o->stop_token;
    m->n_cached = o->n_cached_tokens;
    m->arrival_s = o->arrival_s;
    m->scheduled_s = o->scheduled_s;
    m->first_token_s = o->first_token_s;
    m->now_s = o->now_s;
    worker_post(s->job->worker, m);
}

/* ---- working them off ---- */
static void abort_open(job *j)
{
    for (int i = 0; i < j->n_seqs; i++)
        if (!j->seqs[i].done && j->seqs[i].er) engine_abort(j->seqs[i].er);
}

static void fail_internal(job *j, status st)
{
    api_error e = {0};
    status ignored = api_fail_status(&e, st, NULL);
    (void)ignored;
    job_fail(j, &e);
}

/* Writes what the message's work left in j->out; a client that went away cancels. */
static void flush_stream(job *j)
{
    if (!j->streaming || j->answered) return;
    if (j->out.failed) {
        fail_internal(j, err_nomem());
        return;
    }
    if (j->out.len == 0) return;
    j->bytes += j->out.len;
    j->last_write_s = clock_now();
    bool there = http_stream_write(j->call.r, j->out.data, j->out.len);
    buf_clear(&j->out);
    if (!there && !j->cancelled) {
        j->cancelled = true;
        abort_open(j);
    }
}

static void log_final(seq *s)
{
    job *j = s->job;
    if (j->app->o.log_outputs) usage_log_generated(s, buf_cstr(&s->text), s->text.len, j->p.stream ? " (streaming complete)" : "");
}

static void end_job(job *j)
{
    if (j->cancelled || j->answered) {
        /* nobody reads it: the connection is gone or has its error */
        if (!j->answered) {
            job_mark_answered(j);
            if (j->streaming) http_stream_end(j->call.r);
            call_count(&j->call, j->streaming ? 200 : 499, j->bytes);
            if (!j->streaming) http_reply(j->call.r, 499, NULL, NULL, 0);
        }
        return;
    }
    j->ops->finish(j);
    if (!j->streaming) return; /* finish() has replied */
    buf_str(&j->out, sse_done);
    flush_stream(j);
    if (j->answered) return; /* it failed on the way */
    job_mark_answered(j);
    call_count(&j->call, 200, j->bytes);
    http_stream_end(j->call.r);
}

static void stream_seq(job *j, seq *s, const out_msg *m)
{
    if (m->n_tokens == 0 && !s->done && !s->chunked) return; /* nothing yet: a prompt in chunks */
    size_t fresh = s->tokens.len - s->tokens_sent;
    if (!s->done && s->chunked && fresh < (size_t)j->p.stream_interval) return;
    if (!j->first_sent && j->ops->first) j->ops->first(j);
    j->first_sent = true;
    size_t from = s->text_sent;
    j->ops->chunk(j, s);
    s->chunked = true;
    if (j->app->o.log_outputs && !j->app->o.no_log_deltas && s->text_sent > from)
        usage_log_generated(s, buf_cstr(&s->text) + from, s->text_sent - from, " (streaming delta)");
}

static void take_output(job *j, seq *s, const out_msg *m)
{
    if (s->done || j->answered || j->cancelled) return;
    if (m->finish == FINISH_ERROR) {
        api_error e = {0};
        status ignored = api_fail(&e, 500, "InternalServerError", NULL, "%s", m->error ? m->error : "The engine failed.");
        (void)ignored;
        log_error("request %s failed: %s", j->request_id, e.message);
        job_fail(j, &e);
        return;
    }
    status st = output_take(s, m);
    if (st != ST_OK) {
        fail_internal(j, st);
        return;
    }
    if (s->done) {
        j->n_open--;
        log_final(s);
    }
    if (j->streaming && !j->cancelled) stream_seq(j, s, m);
    if (j->n_open == 0) end_job(j);
    else flush_stream(j);
}

/* Returns how many references the message held. */
static int handle(out_msg *m)
{
    job *j = m->j;
    pthread_mutex_lock(&j->mu);
    int drop = 0;
    switch (m->kind) {
    case MSG_OUTPUT:
        take_output(j, m->s, m);
        drop = m->finish != FINISH_NONE;
        if (drop && j->cancelled && !m->s->done) {
            m->s->done = true;
            if (--j->n_open == 0) end_job(j);
        }
        break;
    case MSG_LOST:
        fail_internal(j, err_nomem());
        break;
    case MSG_CANCEL:
        if (!j->answered && !j->cancelled) {
            j->cancelled = true;
            log_debug("request %s: the client has left", j->request_id);
            abort_open(j);
        }
        drop = 1;
        break;
    case MSG_ABORT:
        if (!j->answered) abort_open(j);
        drop = 1;
        break;
    }
    pthread_mutex_unlock(&j->mu);
    if (m->owned) mem_free(m);
    return drop;
}

/* ": keep-alive" comments for streams of this thread that have been silent. */
static void keep_alive(out_worker *w, double interval)
{
    double now = clock_now();
    pthread_mutex_lock(&w->app->jobs_mu);
    for (job *j = w->app->jobs; j; j = j->next) {
        if (j->worker != w || pthread_mutex_trylock(&j->mu) != 0) continue;
        if (j->streaming && !j->answered && now - j->last_write_s >= interval) {
            static const char comment[] = ": keep-alive\n\n";
            http_stream_write(j->call.r, comment, sizeof comment - 1);
            j->last_write_s = now;
        }
        pthread_mutex_unlock(&j->mu);
    }
    pthread_mutex_unlock(&w->app->jobs_mu);
}

static void wait_for_work(out_worker *w)
{
    double interval = w->app->o.sse_keep_alive_s;
    if (interval <= 0) {
        pthread_cond_wait(&w->cv, &w->mu);
        return;
    }
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    double step = interval < 1 ? interval / 2 : 0.5;
    long ns = ts.tv_nsec + (long)(step * 1e9);
    ts.tv_sec += ns / 1000000000L;
    ts.tv_nsec = ns % 1000000000L;
    pthread_cond_timedwait(&w->cv, &w->mu, &ts);
    pthread_mutex_unlock(&w->mu);
    keep_alive(w, interval);
    pthread_mutex_lock(&w->mu);
}

static void *run(void *arg)
{
    out_worker *w = arg;
    pthread_mutex_lock(&w->mu);
    for (;;) {
        while (!w->head && !w->stop) wait_for_work(w);
        out_msg *m = w->head;
        w->head = NULL;
        w->tail = &w->head;
        if (!m) break;
        pthread_mutex_unlock(&w->mu);
        while (m) {
            out_msg *next = m->next;
            job *j = m->j;
            if (handle(m)) job_release(j);
            m = next;
        }
        pthread_mutex_lock(&w->mu);
    }
    pthread_mutex_unlock(&w->mu);
    return NULL;
}

status workers_start(app *a, int n)
{
    a->workers = mem_calloc((size_t)n, sizeof *a->workers);
    if (!a->workers) return err_nomem();
    for (int i = 0; i < n; i++) {
        out_worker *w = &a->workers[i];
        w->app = a;
        w->tail = &w->head;
        pthread_mutex_init(&w->mu, NULL);
        pthread_cond_init(&w->cv, NULL);
        status st = thread_start(&w->thread, "api-output", run, w);
        if (st != ST_OK) {
            pthread_mutex_destroy(&w->mu);
            pthread_cond_destroy(&w->cv);
            return st;
        }
        a->n_workers = i + 1;
    }
    return ST_OK;
}

void workers_stop(app *a)
{
    for (int i = 0; i < a->n_workers; i++) {
        out_worker *w = &a->workers[i];
        pthread_mutex_lock(&w->mu);
        w->stop = true;
        pthread_cond_signal(&w->cv);
        pthread_mutex_unlock(&w->mu);
        pthread_join(w->thread, NULL);
        pthread_mutex_destroy(&w->mu);
        pthread_cond_destroy(&w->cv);
    }
    mem_free(a->workers);
    a->workers = NULL;
    a->n_workers = 0;
}

/* ---- cancelling ---- */
/* Jobs leave the list in their last job_release, with no references left: those must not be revived. */
static bool retain_live(job *j)
{
    int refs = atomic_load(&j->refs);
    while (refs > 0)
        if (atomic_compare_exchange_weak(&j->refs, &refs, refs + 1)) return true;
    return false;
}

/* Under jobs_mu. The messages are part of the job, so each is posted once. */
static void post_once(job *j, out_msg *m, bool *posted)
{
    if (*posted || !retain_live(j)) return;
    *posted = true;
    worker_post(j->worker, m);
}

void job_cancel_by_id(app *a, uint64_t id)
{
    pthread_mutex_lock(&a->jobs_mu);
    for (job *j = a->jobs; j; j = j->next)
        if (j->id == id) post_once(j, &j->cancel_msg, &j->cancel_posted);
    pthread_mutex_unlock(&a->jobs_mu);
}

void job_abort_all(app *a)
{
    pthread_mutex_lock(&a->jobs_mu);
    for (job *j = a->jobs; j; j = j->next) post_once(j, &j->abort_msg, &j->abort_posted);
    pthread_mutex_unlock(&a->jobs_mu);
}
