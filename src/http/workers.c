#include <string.h>

#include "base/mem.h"
#include "http/internal.h"

struct workers {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    http_request *first, *last;
    bool closed;
    http_handler handler;
    void *arg;
    int n;
    pthread_t threads[];
};

static http_request *pop(workers *w)
{
    pthread_mutex_lock(&w->mu);
    while (!w->first && !w->closed) pthread_cond_wait(&w->cond, &w->mu);
    http_request *r = w->closed ? NULL : w->first;
    if (r) w->first = r->next_job;
    pthread_mutex_unlock(&w->mu);
    return r;
}

static void *work(void *arg)
{
    workers *w = arg;
    for (http_request *r; (r = pop(w)) != NULL;) {
        w->handler(r, w->arg);
        http_release(r);
    }
    return NULL;
}

status workers_new(int n, http_handler handler, void *arg, workers **out)
{
    workers *w = mem_calloc(1, sizeof *w + (size_t)n * sizeof(pthread_t));
    if (!w) return err_nomem();
    pthread_mutex_init(&w->mu, NULL);
    pthread_cond_init(&w->cond, NULL);
    w->handler = handler;
    w->arg = arg;
    for (; w->n < n; w->n++) {
        status st = thread_start(&w->threads[w->n], "http-worker", work, w);
        if (st == ST_OK) continue;
        workers_free(w);
        return st;
    }
    *out = w;
    return ST_OK;
}

void workers_push(workers *w, http_request *r)
{
    r->next_job = NULL;
    pthread_mutex_lock(&w->mu);
    if (w->first) w->last->next_job = r;
    else w->first = r;
    w->last = r;
    pthread_mutex_unlock(&w->mu);
    pthread_cond_signal(&w->cond);
}

void workers_free(workers *w)
{
    if (!w) return;
    pthread_mutex_lock(&w->mu);
    w->closed = true;
    pthread_mutex_unlock(&w->mu);
    pthread_cond_broadcast(&w->cond);
    for (int i = 0; i < w->n; i++) pthread_join(w->threads[i], NULL);
    for (http_request *r = w->first, *next; r; r = next) {
        next = r->next_job;
        request_finished(r); /* no handler has seen it: nobody else can answer */
        http_release(r);
    }
    pthread_cond_destroy(&w->cond);
    pthread_mutex_destroy(&w->mu);
    mem_free(w);
}
