/* A compiler in a child process. Compilers abort on programs they do not support; here such a death is an error message and
 * the next program is compiled by a fresh child.
 *
 *   this process ──requests──▶ supervisor ──▶ worker: has the plugin loaded, compiles one program after the other
 *                ◀──results───            ◀──         (what it prints is kept, for the message if it dies)
 *
 * The supervisor is forked in pjrt_compiler_open, never loads anything and forks each worker; so open a compiler early,
 * before this process has threads or much memory, and before it loads a plugin (whose threads and locks a fork breaks: that
 * is an error). The worker loads the plugin when the first request comes. Programs and
 * results travel in memory files, so a death in the middle of one is never mistaken for a result.
 *
 * A process that also runs what it compiles: pjrt_compiler_open, pjrt_plugin_open, pjrt_client_open, pjrt_compiler_set_client,
 * then pjrt_compiler_get and pjrt_program_load. If the cache has everything, no worker is ever started.
 *
 * Threads: any thread may compile; calls queue. Any thread may close meanwhile: the calls inside end with ST_CANCELLED, and
 * later ones are the caller's bug. */
#ifndef SYSTOLIC_DEVICE_PJRT_COMPILER_H
#define SYSTOLIC_DEVICE_PJRT_COMPILER_H

#include <sys/types.h>

#include "device/pjrt/cache.h"
#include "device/pjrt/pjrt.h"

typedef struct pjrt_compiler pjrt_compiler;

/* For which devices: the first of these that is given; with none, what pjrt_compiler_set_* says later, else those of a client
 * that the worker opens itself. Strings and bytes are copied. */
typedef struct pjrt_compiler_options {
    const char *plugin;                     /* path */
    const char *topology;                   /* by name: "v6e:2x2" */
    const void *topology_bytes; size_t topology_len;    /* of a client: pjrt_client_topology */
    const char *options;                    /* for the topology, or for the worker's own client if there is none: "NAME=VALUE,..." */
    double limit_s;                         /* a program that takes longer is given up; 0 = 3600 */
} pjrt_compiler_options;

status pjrt_compiler_open(const pjrt_compiler_options *o, pjrt_compiler **out) FALLIBLE;
/* Ends the children, also in the middle of a program: who waits for it gets ST_CANCELLED before this returns. */
void pjrt_compiler_close(pjrt_compiler *c);

/* Tells a compiler that was opened without a topology what to compile for; once, before the first program. The bytes are those
 * of pjrt_client_topology. What is wrong with them shows at the first program. */
status pjrt_compiler_set_topology(pjrt_compiler *c, const void *bytes, size_t len) FALLIBLE;
/* The same for the devices of a client of this process, which also tells what pjrt_compiler_describe would start a worker
 * for. If the plugin cannot pass its topology on, the worker opens a client with the `options` it was given: give this one's. */
status pjrt_compiler_set_client(pjrt_compiler *c, const pjrt_client *client) FALLIBLE;

/* Starts a worker if there is none and no client has told: plugin and topology errors show here. */
status pjrt_compiler_describe(pjrt_compiler *c, pjrt_target_info *out) FALLIBLE;
/* Appends the serialised executable to *executable. A worker's death is ST_INTERNAL: "compile decode: the compiler died
 * (signal 6, Aborted): <its last words>". */
status pjrt_compiler_run(pjrt_compiler *c, const pjrt_source *src, const pjrt_compile_options *o, buf *executable, pjrt_stats *stats) FALLIBLE;
/* The same through a cache (NULL: none): compiles only what it does not have. *cached tells; may be NULL. */
status pjrt_compiler_get(pjrt_compiler *c, const pjrt_cache *cache, const pjrt_source *src, const pjrt_compile_options *o,
                         buf *executable, pjrt_stats *stats, bool *cached) FALLIBLE;

/* How many workers have died, and the one there is (0: none); for tests and reports. */
int pjrt_compiler_n_deaths(pjrt_compiler *c);
pid_t pjrt_compiler_worker(pjrt_compiler *c);

#endif
