/* The engine without threads: the same scheduler, KV blocks, pace and steps as engine.h, driven through a list of arrivals on a
 * device that lives in its own time (device/sim). A discrete-event loop: time goes from one event (an arrival, the end of a step) to
 * the next, so that an hour takes seconds and the same input gives the same output, bit for bit.
 *
 * What a server does between events takes no time here: simulated devices count it as part of a step.
 * One thread; callbacks come from within drive_run. */
#ifndef SYSTOLIC_ENGINE_DRIVE_H
#define SYSTOLIC_ENGINE_DRIVE_H

#include "engine/engine.h"

typedef struct drive drive;

/* dev has now, step_end and advance, and a depth above 0; it is copied, what it points to is borrowed. */
status drive_new(const engine_device *dev, const model_info *mi, const engine_options *o, drive **out) FALLIBLE;
/* Requests that are left get no output. */
void drive_free(drive *d);
void drive_observe(drive *d, const engine_observer *o);
const engine_options *drive_config(const drive *d);
int drive_num_blocks(const drive *d);            /* usable KV blocks */
double drive_now(const drive *d);

/* The next arrival: its time, or a negative number when there are no more for now. Times do not go back; one that is past is now. */
typedef double drive_next_fn(void *arg);
/* Fills the request that arrives: called once for each time that was given, at that time. */
typedef status drive_fill_fn(void *arg, request_spec *out) FALLIBLE;
typedef struct drive_source { drive_next_fn *next; drive_fill_fn *fill; void *arg; } drive_source;

/* Runs until no arrival is left and all requests have ended, or until `until` (device's time; below 0: no end). A source that waits
 * for outputs (so many requests at once) is asked again after each step. */
status drive_run(drive *d, const drive_source *s, double until) FALLIBLE;
void drive_stats(const drive *d, engine_stats *out);
/* As engine_check_kv. */
status drive_check(const drive *d) FALLIBLE;

#endif
