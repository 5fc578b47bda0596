/* Starting and stopping the API, and the periodic line about the engine. */
#include "api/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/job.h"
#include "api/media.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

/* ---- the periodic line ---- */
static double stats_interval(void)
{
    const char *s = getenv("VLLM_LOG_STATS_INTERVAL");
    double v = s && *s ? strtod(s, NULL) : 10;
    return v >= 0.05 ? v : 10;
}

static void log_stats(const engine_stats *now, const engine_stats *before, double seconds, bool *was_active)
{
    double prefill = (double)(now->prompt_tokens_computed - before->prompt_tokens_computed) / seconds;
    double gen = (double)(now->generation_tokens - before->generation_tokens) / seconds;
    bool active = prefill > 0 || gen > 0;
    log_level level = active || *was_active ? LOG_INFO : LOG_DEBUG;
    *was_active = active;
    char deferred[48] = "", preempted[48] = "";
    if (now->n_waiting_deferred > 0) snprintf(deferred, sizeof deferred, "Deferred: %d reqs, ", now->n_waiting_deferred);
    if (now->preemptions > 0) snprintf(preempted, sizeof preempted, "Preemptions: %llu, ", (unsigned long long)now->preemptions);
    log_write(level, "loggers.c", __LINE__,
              "Engine 000: Avg prompt throughput: %.1f tokens/s, Avg generation throughput: %.1f tokens/s, Running: %d reqs, Waiting: %d reqs, "
              "%s%sGPU KV cache usage: %.1f%%, Prefix cache hit rate: %.1f%%",
              prefill, gen, now->n_running, now->n_waiting, deferred, preempted, now->kv_usage * 100, now->hit_rate_recent > 0 ? now->hit_rate_recent * 100 : 0);
}

static void *stats_main(void *arg)
{
    app *a = arg;
    double interval = stats_interval(), last = clock_now();
    bool was_active = false;
    engine_stats before = {0};
    pthread_mutex_lock(&a->stats_mu);
    while (!a->stats_stop) {
        struct timespec ts;
        clock_gettime(CLOCK_REALTIME, &ts);
        double at = (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9 + interval;
        ts.tv_sec = (time_t)at;
        ts.tv_nsec = (long)((at - (double)ts.tv_sec) * 1e9);
        pthread_cond_timedwait(&a->stats_cv, &a->stats_mu, &ts);
        double now = clock_now();
        if (a->stats_stop || now - last < interval * 0.9) continue;
        engine_stats s = {0};
        engine_get_stats(a->o.engine, &s);
        log_stats(&s, &before, now - last, &was_active);
        before = s;
        last = now;
    }
    pthread_mutex_unlock(&a->stats_mu);
    return NULL;
}

static void stats_stop(app *a)
{
    if (!a->stats_running) return;
    pthread_mutex_lock(&a->stats_mu);
    a->stats_stop = true;
    pthread_cond_signal(&a->stats_cv);
    pthread_mutex_unlock(&a->stats_mu);
    pthread_join(a->stats_thread, NULL);
    a->stats_running = false;
}

/* ---- life ---- */
static status app_new(const api_options *o, app **out)
{
    app *a = mem_calloc(1, sizeof *a);
    if (!a) return err_nomem();
    a->o = *o;
    a->created = (int64_t)time(NULL);
    pthread_mutex_init(&a->jobs_mu, NULL);
    pthread_cond_init(&a->jobs_cv, NULL);
    pthread_mutex_init(&a->stats_mu, NULL);
    pthread_cond_init(&a->stats_cv, NULL);
    status st = metrics_new(&a->o, &a->metrics);
    if (st == ST_OK) st = media_setup_new(&a->o, &a->media);
    if (st != ST_OK) {
        metrics_free(a->metrics);
        mem_free(a);
        return st;
    }
    a->chat_format = render_format(a, o->chat_template);
    a->tool_format = render_format(a, o->tool_template);
    *out = a;
    return ST_OK;
}

static void app_free(app *a)
{
    pthread_mutex_destroy(&a->jobs_mu);
    pthread_cond_destroy(&a->jobs_cv);
    pthread_mutex_destroy(&a->stats_mu);
    pthread_cond_destroy(&a->stats_cv);
    metrics_free(a->metrics);
    media_setup_free(a->media);
    mem_free(a);
}

status api_start(const api_options *o, api_server **out)
{
    app *a = NULL;
    engine_observer obs;
    TRY(app_new(o, &a));
    status st = workers_start(a, o->n_output_threads > 0 ? o->n_output_threads : 2);
    if (st == ST_OK) {
        metrics_observer(a->metrics, &obs);
        engine_observe(o->engine, &obs);
        st = http_start(&a->o.http, router_handle, a, &a->http);
    }
    if (st != ST_OK) {
        /* the observer is borrowed: an engine that goes on living must not call it */
        obs = (engine_observer){0};
        engine_observe(o->engine, &obs);
        workers_stop(a);
        app_free(a);
        return st;
    }
    if (!o->no_log_stats) a->stats_running = thread_start(&a->stats_thread, "api-stats", stats_main, a) == ST_OK;
    *out = a;
    return ST_OK;
}

int api_port(const api_server *a) { return http_port(a->http); }

/* Waits until no job is left; false after `seconds`. */
static bool wait_jobs(app *a, double seconds)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_sec += (time_t)seconds + 1;
    pthread_mutex_lock(&a->jobs_mu);
    int rc = 0;
    while (a->jobs && rc == 0) rc = pthread_cond_timedwait(&a->jobs_cv, &a->jobs_mu, &ts);
    bool empty = !a->jobs;
    pthread_mutex_unlock(&a->jobs_mu);
    return empty;
}

void api_close(api_server *a, double seconds)
{
    atomic_store(&a->draining, true);
    stats_stop(a);
    int n = http_in_flight(a->http);
    if (n > 0) log_info("Shutting down: %d requests open, waiting up to %.1f s", n, seconds);
    else log_info("Shutting down");
    double end = clock_now() + seconds;
    while (http_in_flight(a->http) > 0 && clock_now() < end) {
        struct timespec ts = { .tv_nsec = 5000000 };
        nanosleep(&ts, NULL);
    }
    http_drain(a->http);
    job_abort_all(a);
    wait_jobs(a, 5);
    http_stop(a->http, 2);
    a->http = NULL;
}

void api_free(api_server *a)
{
    if (!a) return;
    bool empty = wait_jobs(a, 5);
    workers_stop(a);
    if (empty) app_free(a);
    else log_warn("some requests did not end; their memory is left to the process");
}

void api_log_routes(void)
{
    int n;
    const route *r = router_table(&n);
    log_info("Available routes are:");
    for (int i = 0; i < n; i++)
        if (!(r[i].flags & (ROUTE_DEV | ROUTE_TOKENIZER_INFO)) && (i == 0 || strcmp(r[i - 1].path, r[i].path) != 0))
            log_info("Route: %s, Methods: %s%s", r[i].path, r[i].method, i + 1 < n && strcmp(r[i + 1].path, r[i].path) == 0 ? ", POST" : "");
}

/* ---- checking a body only ---- */
status api_check_request(const api_options *o, const char *path, const char *body, size_t n)
{
    app *a = NULL;
    jv *v = NULL;
    int n_routes;
    const route *r = router_table(&n_routes), *found = NULL;
    for (int i = 0; i < n_routes; i++)
        if (r[i].flags & ROUTE_JSON && !(r[i].flags & ROUTE_DEV) && strcmp(r[i].path, path) == 0) found = &r[i];
    if (!found) return err_set(ST_NOT_FOUND, "no route %s", path);
    TRY(jv_parse(body, n, &v));
    status st = app_new(o, &a);
    if (st == ST_OK) {
        a->n_workers = 1; /* jobs are assigned to a thread that does not run; nothing is ever posted to it */
        call c = { .app = a, .route = found, .body = v };
        api_error e = {0};
        st = found->fn(&c, &e);
        app_free(a);
    }
    jv_free(v);
    return st;
}
