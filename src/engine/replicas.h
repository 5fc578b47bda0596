/* What engine.c does for one engine and replicas.c for all that stand behind one. */
#ifndef SYSTOLIC_ENGINE_REPLICAS_H
#define SYSTOLIC_ENGINE_REPLICAS_H

#include <stdatomic.h>

#include "engine/engine.h"

/* Replicas beside the engine itself. */
typedef struct replica_list { engine **v; int n; atomic_uint turn; } replica_list;
replica_list *engine_replicas(engine *e);

/* How busy one is, as vLLM's internal load balancer counts. */
static inline int replica_busy(int waiting, int running) { return 4 * waiting + running; }
/* Of n replicas, looked at from the first-th on and around, the first that is least busy; -1: none takes requests. */
typedef int replica_busy_fn(void *arg, int i);     /* of the i-th; -1: it takes none */
int replicas_choose(int n, int first, replica_busy_fn *busy, void *arg);

status engine_one_submit(engine *e, const request_spec *spec, engine_request **out) FALLIBLE;
void engine_one_stop(engine *e, double at);     /* begins; what runs then is aborted */
void engine_one_join(engine *e);                /* waits until it has stopped and frees it */
int engine_one_num_blocks(const engine *e);
bool engine_one_healthy(engine *e);
void engine_one_stats(engine *e, engine_stats *out);
void engine_one_observe(engine *e, const engine_observer *o);
bool engine_one_reset_prefix_cache(engine *e);
bool engine_one_check_kv(engine *e);

#endif
