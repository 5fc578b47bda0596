#include "api/job.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/fields.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"

/* X-Request-Id, else the body's request_id, else random. */
static const char *base_id(const call *c, char *random)
{
    const char *id = c->r ? http_header(c->r, "X-Request-Id") : NULL;
    if (!id || !*id) id = field_str(c->body, "request_id", NULL);
    if (id && *id) return id;
    random_hex(random, 32);
    return random;
}

static void link_job(app *a, job *j)
{
    pthread_mutex_lock(&a->jobs_mu);
    j->next = a->jobs;
    if (a->jobs) a->jobs->prev = j;
    a->jobs = j;
    pthread_mutex_unlock(&a->jobs_mu);
}

static void unlink_job(app *a, job *j)
{
    pthread_mutex_lock(&a->jobs_mu);
    if (j->prev) j->prev->next = j->next;
    else a->jobs = j->next;
    if (j->next) j->next->prev = j->prev;
    if (!a->jobs) pthread_cond_broadcast(&a->jobs_cv);
    pthread_mutex_unlock(&a->jobs_mu);
}

status job_new(const call *c, const job_ops *ops, const char *id_prefix, job **out, api_error *e)
{
    char random[33];
    job *j = mem_calloc(1, sizeof *j);
    if (!j) return api_fail_status(e, err_nomem(), NULL);
    j->request_id = arena_printf(&j->mem, "%s%.200s", id_prefix, base_id(c, random));
    if (!j->request_id) {
        mem_free(j);
        return api_fail_status(e, err_nomem(), NULL);
    }
    pthread_mutex_init(&j->mu, NULL);
    j->app = c->app;
    j->call = *c;
    j->call.body = NULL; /* dies with the handler */
    j->ops = ops;
    j->refs = 1;
    j->created = (int64_t)time(NULL);
    j->id = atomic_fetch_add(&c->app->next_job_id, 1) + 1;
    j->cancel_msg = (out_msg){ .kind = MSG_CANCEL, .j = j };
    j->abort_msg = (out_msg){ .kind = MSG_ABORT, .j = j };
    if (c->r) http_retain(c->r);
    worker_assign(c->app, j);
    link_job(c->app, j);
    *out = j;
    return ST_OK;
}

static void seq_free(seq *s)
{
    if (s->er) engine_request_release(s->er);
    detok_free(s->d);
    buf_free(&s->text);
    buf_free(&s->reasoning);
    harmony_free(&s->h);
    i32vec_free(&s->tokens);
    for (int i = 0; i < LP_PARTS; i++) buf_free(&s->lp[i]);
    buf_free(&s->prompt_lp);
}

void job_mark_answered(job *j)
{
    j->answered = true;
    if (j->counted_load) atomic_fetch_sub(&j->app->server_load, 1);
    j->counted_load = false;
}

void job_release(job *j)
{
    if (atomic_fetch_sub(&j->refs, 1) != 1) return;
    unlink_job(j->app, j); /* first: whoever walks the list may lock j->mu */
    job_mark_answered(j);
    for (int i = 0; i < j->n_seqs; i++) seq_free(&j->seqs[i]);
    if (j->call.r) http_release(j->call.r);
    buf_free(&j->json);
    buf_free(&j->out);
    pthread_mutex_destroy(&j->mu);
    arena_free(&j->mem);
    mem_free(j);
}

static status make_seqs(job *j, api_error *e)
{
    size_t n = (size_t)j->n_prompts * (size_t)j->p.n;
    j->seqs = arena_calloc(&j->mem, n, sizeof *j->seqs);
    if (!j->seqs) return api_fail_status(e, err_nomem(), NULL);
    for (int i = 0; i < (int)n; i++) {
        seq *s = &j->seqs[i];
        const prompt *p = &j->prompts[i / j->p.n];
        s->job = j;
        s->index = i;
        s->prompt = i / j->p.n;
        s->stop_index = -1;
        s->stop_token = -1;
        s->final_msg = (out_msg){ .kind = MSG_OUTPUT, .s = s, .j = j };
        s->lost_msg = (out_msg){ .kind = MSG_LOST, .s = s, .j = j };
        j->n_seqs = i + 1;
        if (!j->p.detokenize) continue;
        status st = detok_new(j->app->o.tok, p->ids, (size_t)p->n, j->p.skip_special, j->p.spaces_between, &s->d);
        if (st != ST_OK) return api_fail_status(e, st, NULL);
    }
    j->n_open = j->n_seqs;
    return ST_OK;
}

/* Children of one prompt are "<i>_<id>"; prompts of one request are "<id>-<k>". */
static const char *engine_id(job *j, const seq *s)
{
    const char *base = j->ops->name[0] == 'c' && j->ops->name[1] == 'o' ? arena_printf(&j->mem, "%s-%d", j->request_id, s->prompt) : j->request_id;
    if (!base || j->p.n == 1) return base;
    return arena_printf(&j->mem, "%d_%s", s->index % j->p.n, base);
}

static status submit_one(job *j, seq *s, api_error *e)
{
    app *a = j->app;
    prompt *pr = &j->prompts[s->prompt];
    sampling_params sp = j->p.sp;
    TRY(prompt_fit(a, &j->p, pr, &sp, e)); /* a second time truncates nothing more */
    if (sp.has_seed) sp.seed += s->index % j->p.n;
    const char *id = engine_id(j, s);
    if (!id) return api_fail_status(e, err_nomem(), NULL);
    request_spec spec = {
        .id = id, .prompt = pr->ids, .n_prompt = pr->n, .params = &sp, .priority = j->p.priority, .cache_salt = j->p.cache_salt,
        .arrival_s = j->call.r ? http_arrival(j->call.r) : 0, .on_output = worker_on_output, .user = s,
    };
    const prompt_media *m = pr->media;
    if (m) {
        spec.media = m->items;
        spec.n_media = m->n;
        spec.media_row = m->row;
        spec.positions3 = m->positions3;
        spec.position_delta = m->delta;
        spec.media_sees_all = m->sees_all;
    }
    atomic_fetch_add(&j->refs, 1);
    status st = engine_submit(a->o.engine, &spec, &s->er);
    if (st == ST_OK) return ST_OK;
    atomic_fetch_sub(&j->refs, 1);
    if (st == ST_LIMIT) return api_fail(e, 503, "Service Unavailable", NULL, "%s", err_msg());
    return api_fail_status(e, st, NULL);
}

static void on_disconnect(http_request *r, void *arg)
{
    app *a = http_data(r);
    job_cancel_by_id(a, (uint64_t)(uintptr_t)arg);
}

static status submit_all(job *j, api_error *e)
{
    for (int i = 0; i < j->n_seqs; i++) {
        if (j->app->o.log_requests) usage_log_received(j, &j->seqs[i]);
        status st = submit_one(j, &j->seqs[i], e);
        if (st == ST_OK) continue;
        for (int k = 0; k < i; k++) engine_abort(j->seqs[k].er);
        return st;
    }
    return ST_OK;
}

/* X-Vllm-Priority wins over the body. */
static status header_priority(job *j, api_error *e)
{
    const char *text = http_header(j->call.r, "X-Vllm-Priority");
    char *end;
    if (!text || !*text) return ST_OK;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (*end || errno) return api_bad(e, "priority", "The X-Vllm-Priority header must be an integer, got '%.40s'.", text);
    j->p.priority = v;
    return ST_OK;
}

status job_submit(job *j, api_error *e)
{
    app *a = j->app;
    TRY(make_seqs(j, e));
    for (int i = 0; i < j->n_prompts; i++) {
        sampling_params sp = j->p.sp;
        TRY(prompt_fit(a, &j->p, &j->prompts[i], &sp, e)); /* all of them before the first is submitted */
    }
    if (!j->call.r) return ST_OK; /* api_check_request */
    TRY(header_priority(j, e));
    if (a->o.load_tracking) {
        j->counted_load = true;
        atomic_fetch_add(&a->server_load, 1);
    }
    /* the output thread takes mu too, so it sees nothing of a job that is half submitted */
    pthread_mutex_lock(&j->mu);
    status st = submit_all(j, e);
    if (st != ST_OK) {
        j->cancelled = true; /* the router answers; what was submitted only has to end */
        job_mark_answered(j);
    } else {
        metrics_request_n(a->metrics, j->p.n);
        j->last_write_s = clock_now();
        if (j->p.stream) {
            j->streaming = true;
            http_stream_begin(j->call.r, 200, sse_content_type);
        }
    }
    pthread_mutex_unlock(&j->mu);
    if (st != ST_OK) return st;
    http_set_data(j->call.r, a);
    http_on_disconnect(j->call.r, on_disconnect, (void *)(uintptr_t)j->id);
    return ST_OK;
}

void job_fail(job *j, const api_error *e)
{
    if (j->answered) return;
    j->cancelled = true;
    job_mark_answered(j);
    for (int i = 0; i < j->n_seqs; i++)
        if (!j->seqs[i].done && j->seqs[i].er) engine_abort(j->seqs[i].er);
    if (!j->streaming) {
        call_error(&j->call, e);
        return;
    }
    buf_clear(&j->json);
    buf_clear(&j->out);
    api_error_json(e, &j->json);
    sse_event(&j->out, buf_cstr(&j->json), j->json.len);
    buf_str(&j->out, sse_done);
    if (!j->out.failed) http_stream_write(j->call.r, buf_cstr(&j->out), j->out.len);
    call_count(&j->call, 200, j->bytes + j->out.len);
    http_stream_end(j->call.r);
}

void job_reply(job *j, const buf *json)
{
    if (j->answered) return;
    job_mark_answered(j);
    call_json(&j->call, 200, json);
}

void job_event(job *j)
{
    if (j->json.failed) j->out.failed = true;
    sse_event(&j->out, buf_cstr(&j->json), j->json.len);
    buf_clear(&j->json);
}
