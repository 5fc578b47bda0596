/* Prometheus metrics under vLLM's names. All functions are thread-safe. */
#ifndef SYSTOLIC_API_METRICS_H
#define SYSTOLIC_API_METRICS_H

#include "base/buf.h"
#include "engine/engine.h"

struct api_options;
typedef struct metrics metrics;

/* histogram_buckets of the options: unknown keys and unsorted bounds are ST_INVALID. */
status metrics_new(const struct api_options *o, metrics **out) FALLIBLE;
void metrics_free(metrics *m);
/* Observers for engine_observe. */
void metrics_observer(metrics *m, engine_observer *out);
void metrics_request_n(metrics *m, int n);
/* One HTTP answer: `handler` is the route's path, or "none". */
void metrics_http(metrics *m, const char *method, const char *handler, int code, double seconds, size_t request_bytes, size_t response_bytes);
/* The whole exposition. */
void metrics_write(metrics *m, const engine_stats *s, const engine_options *eo, int n_blocks, buf *out);

#endif
