#include "engine/wait_queue.h"

#include <assert.h>

#include "base/mem.h"

bool wait_before(sched_policy p, const engine_request *a, const engine_request *b)
{
    if (p == SCHED_FCFS) return a->wait_order < b->wait_order;
    if (a->priority != b->priority) return a->priority < b->priority;
    if (a->arrival_s != b->arrival_s) return a->arrival_s < b->arrival_s;
    return a->seq < b->seq;
}

status wait_reserve(wait_queue *q, int cap)
{
    if (cap <= q->cap) return ST_OK;
    int n = q->cap ? q->cap : 64;
    while (n < cap) n *= 2;
    engine_request **p = mem_realloc_array(q->heap, (size_t)n, sizeof *p);
    if (!p) return err_nomem();
    q->heap = p;
    q->cap = n;
    return ST_OK;
}

static void place(wait_queue *q, int i, engine_request *r)
{
    q->heap[i] = r;
    r->heap_at = i;
}

static void sift_up(wait_queue *q, int i, engine_request *r)
{
    while (i > 0 && wait_before(q->policy, r, q->heap[(i - 1) / 2])) {
        place(q, i, q->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(q, i, r);
}

static void sift_down(wait_queue *q, int i, engine_request *r)
{
    for (;;) {
        int c = 2 * i + 1;
        if (c >= q->n) break;
        if (c + 1 < q->n && wait_before(q->policy, q->heap[c + 1], q->heap[c])) c++;
        if (!wait_before(q->policy, q->heap[c], r)) break;
        place(q, i, q->heap[c]);
        i = c;
    }
    place(q, i, r);
}

void wait_push(wait_queue *q, engine_request *r, bool front)
{
    assert(q->n < q->cap);
    r->wait_order = front ? --q->first : ++q->last;
    sift_up(q, q->n++, r);
}

engine_request *wait_top(const wait_queue *q) { return q->n > 0 ? q->heap[0] : NULL; }

void wait_remove(wait_queue *q, engine_request *r)
{
    const int i = r->heap_at;
    assert(i >= 0 && i < q->n && q->heap[i] == r);
    engine_request *moved = q->heap[--q->n];
    r->heap_at = -1;
    if (moved == r) return;
    if (i > 0 && wait_before(q->policy, moved, q->heap[(i - 1) / 2])) sift_up(q, i, moved);
    else sift_down(q, i, moved);
}

void wait_free(wait_queue *q)
{
    mem_free(q->heap);
    q->heap = NULL;
    q->n = q->cap = 0;
}
