/* Waiting requests in the order they will be admitted: a binary heap, by (priority, arrival) or, for fcfs, by position, where
 * preempted requests go to the front. Each request knows its index, so that any can be removed. */
#ifndef SYSTOLIC_ENGINE_WAIT_QUEUE_H
#define SYSTOLIC_ENGINE_WAIT_QUEUE_H

#include "engine/internal.h"

typedef struct wait_queue {
    engine_request **heap;
    int n, cap;
    sched_policy policy;
    int64_t first, last;   /* positions given to the frontmost and the rearmost so far (fcfs) */
} wait_queue;

/* True if a is admitted before b (and b preempted before a). */
bool wait_before(sched_policy p, const engine_request *a, const engine_request *b);
status wait_reserve(wait_queue *q, int cap) FALLIBLE;
/* The capacity must be there. */
void wait_push(wait_queue *q, engine_request *r, bool front);
engine_request *wait_top(const wait_queue *q); /* NULL when empty */
void wait_remove(wait_queue *q, engine_request *r);
void wait_free(wait_queue *q);

#endif
