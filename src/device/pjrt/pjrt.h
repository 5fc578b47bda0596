/* A PJRT plugin from C: load it, open its devices or a topology by name, compile StableHLO, move data, execute.
 *
 *   plugin ─┬─▶ client   (devices that are here)  ─▶ program (loaded) ─▶ execute buffers
 *           └─▶ topology (devices that need not be) ─▶ serialised executable
 *
 * compiler.h compiles in a child process that may die; cache.h keeps executables on disk; spec.h finds plugins and parses
 * "v6e:2x2". docs/pjrt.md is the guide.
 *
 * Threads: everything may be called from any thread; one object is opened and closed by one thread while no other uses it.
 * pjrt_plugin_open may set environment variables (libtpu reads its configuration there), so call it before other threads
 * run. A plugin stays mapped until the process ends: unloading one while its threads run is not safe.
 * Failures of the plugin carry its text and code: "compile decode: <text> (PJRT error 3, INVALID_ARGUMENT)". */
#ifndef SYSTOLIC_DEVICE_PJRT_PJRT_H
#define SYSTOLIC_DEVICE_PJRT_PJRT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "device/pjrt/options.h"
#include "graph/dtype.h"

typedef struct pjrt_plugin pjrt_plugin;
typedef struct pjrt_client pjrt_client;
typedef struct pjrt_topology pjrt_topology;
typedef struct pjrt_program pjrt_program;   /* a compiled program, loaded on a client */
typedef struct pjrt_buffer pjrt_buffer;     /* an array in one device's memory; the plugin's own object */
typedef struct pjrt_event pjrt_event;       /* something that will have happened; the plugin's own object */

enum { PJRT_MAX_DEVICES = 256, PJRT_MAX_RANK = 16 };

/* ---- plugin ---- */
typedef struct pjrt_plugin_info {
    const char *path;
    int api_major, api_minor;
    int stablehlo[3];                       /* newest StableHLO version it says it takes; 0.0.0 if it does not say */
} pjrt_plugin_info;

/* Loads the shared library at `path`. offline: no device is needed, only topologies; libtpu then asks no metadata server.
 * Errors: no such file, not a shared library, not a plugin (no GetPjrtApi), an API that is too old or of another major version. */
status pjrt_plugin_open(const char *path, bool offline, pjrt_plugin **out) FALLIBLE;
void pjrt_plugin_close(pjrt_plugin *p);
void pjrt_plugin_describe(const pjrt_plugin *p, pjrt_plugin_info *out);

/* ---- devices ---- */
typedef struct pjrt_device_info {
    int id;                                 /* what device assignments name */
    int process;
    char kind[64];                          /* "TPU v6 lite", "cpu" */
    int64_t memory_bytes;                   /* what programs may use; 0 if the plugin does not say */
    int64_t used_bytes;                     /* at this moment; 0 if unknown */
    int n_coords, coords[4];                /* place in the torus */
    int core_on_chip, n_cores;              /* n_cores 0 if the plugin does not say */
} pjrt_device_info;

/* The devices that programs are compiled for, and by what. It is the same whether they were described by name, by bytes or by
 * a client that has them open, so programs that were compiled elsewhere are found by it. */
typedef struct pjrt_target_info {
    char platform[64], version[512];
    char topology[128];                     /* "4 x TPU v6 lite, 90e7c1a6b2d3f405": number, kind, hash of ids, processes, coordinates, cores */
    int api_minor, n_devices;
    pjrt_device_info device;                /* the first of them */
} pjrt_target_info;

/* Opens the devices of this host. Without a device the plugin fails here; the error says what it said. */
status pjrt_client_open(pjrt_plugin *p, const pjrt_value *options, size_t n_options, pjrt_client **out) FALLIBLE;
void pjrt_client_close(pjrt_client *c);     /* after its programs and buffers */
int pjrt_client_n_devices(const pjrt_client *c);
const char *pjrt_client_platform(const pjrt_client *c);     /* "tpu", "cuda", "cpu" */
const char *pjrt_client_version(const pjrt_client *c);      /* names the compiler's build: part of every cache key */
/* Where the client's own small programs (pjrt_zeros) are kept; borrowed, it outlives the client. NULL: nowhere. */
struct pjrt_cache;
void pjrt_client_use_cache(pjrt_client *c, const struct pjrt_cache *cache);
/* The i-th device of this host. */
status pjrt_client_device(const pjrt_client *c, int i, pjrt_device_info *out) FALLIBLE;
status pjrt_client_target(const pjrt_client *c, pjrt_target_info *out) FALLIBLE;
/* The client's topology as bytes, for pjrt_topology_read in another process. ST_UNSUPPORTED if the plugin cannot. */
status pjrt_client_topology(const pjrt_client *c, buf *out) FALLIBLE;

/* ---- topologies: compile for devices that are not here ---- */
status pjrt_topology_open(pjrt_plugin *p, const char *name, const pjrt_value *options, size_t n_options, pjrt_topology **out) FALLIBLE;
status pjrt_topology_read(pjrt_plugin *p, const void *bytes, size_t len, pjrt_topology **out) FALLIBLE;
void pjrt_topology_close(pjrt_topology *t);
int pjrt_topology_n_devices(const pjrt_topology *t);
const char *pjrt_topology_platform(const pjrt_topology *t);
const char *pjrt_topology_version(const pjrt_topology *t);
status pjrt_topology_device(const pjrt_topology *t, int i, pjrt_device_info *out) FALLIBLE;
status pjrt_topology_write(const pjrt_topology *t, buf *out) FALLIBLE;     /* for pjrt_topology_read */
status pjrt_topology_target(const pjrt_topology *t, pjrt_target_info *out) FALLIBLE;

/* ---- programs ---- */
typedef struct pjrt_source {
    const char *name;                       /* for messages */
    const char *code;                       /* StableHLO: text, MLIR bytecode or a portable artifact */
    size_t len;
} pjrt_source;

/* What the compiler says of a program. Sizes are bytes of one device. -1: it does not say. */
typedef struct pjrt_stats {
    double compile_s;                       /* wall clock; 0 when loaded */
    double flops, bytes, optimal_s;         /* while bodies are counted once; optimal_s may be nonsense (docs/pjrt.md) */
    int64_t argument_bytes, output_bytes;
    int64_t alias_bytes;                    /* outputs that reuse a donated argument */
    int64_t temp_bytes, code_bytes, peak_bytes;
    /* Of the optimised program, loops counted as often as they run, and without attention, experts and collectives (hlo_cost.h). */
    double cycles, start_cycles, product_flops, product_flops_once, operations;
    int64_t open_loops, unknown_kernels;
    int64_t bundles;                        /* 1: cycles are those of finished code, without what starting operations takes */
    int64_t read;                           /* 1: somebody has tried to read all these; -1: kept from before there were any */
} pjrt_stats;

status pjrt_compile(pjrt_client *c, const pjrt_source *src, const pjrt_compile_options *o, pjrt_program **out) FALLIBLE;
/* Compiles for a topology; appends the serialised executable to *executable. stats may be NULL. */
status pjrt_compile_for(pjrt_topology *t, const pjrt_source *src, const pjrt_compile_options *o, buf *executable, pjrt_stats *stats) FALLIBLE;
status pjrt_program_serialize(const pjrt_program *p, buf *executable) FALLIBLE;
/* Loads a serialised executable of the same platform and version. Bytes that are not one are an error or, with some
 * plugins, undefined: load only what cache.h has checked. */
status pjrt_program_load(pjrt_client *c, const void *executable, size_t len, const char *name, pjrt_program **out) FALLIBLE;
void pjrt_program_free(pjrt_program *p);
const pjrt_stats *pjrt_program_stats(const pjrt_program *p);
int pjrt_program_n_devices(const pjrt_program *p);          /* of this host */
int pjrt_program_device(const pjrt_program *p, int i);      /* index among the client's devices of the program's i-th */
size_t pjrt_program_n_outputs(const pjrt_program *p);
/* Element type (DT_COUNT: one that dtype.h does not have) and dimensions of output i of one device; *dims is borrowed. */
dtype pjrt_program_output(const pjrt_program *p, size_t i, const int64_t **dims, size_t *rank);

/* Starts the program on all its devices and returns; outputs may be used as arguments at once, so several steps can be in
 * flight. args[d * n_args + i], outs[d * n_outputs + i] (new buffers), done[d] (new events; may be NULL: outputs carry
 * the failure then). An argument that the program donates (tf.aliasing_output, jax.buffer_donor) is dead afterwards, still
 * to be freed, unless its index is in keep. Failures of the execution itself may come out of the events. No allocation here. */
status pjrt_execute(pjrt_program *p, pjrt_buffer *const *args, size_t n_args, const int64_t *keep, size_t n_keep,
                    pjrt_buffer **outs, pjrt_event **done) FALLIBLE;

/* ---- buffers ---- */
typedef enum pjrt_hold {
    PJRT_HOLD_CALL,                         /* the data is copied before the call returns */
    PJRT_HOLD_DONE,                         /* the data must stay unchanged until *host_done */
    PJRT_HOLD_BUFFER                        /* ... until the buffer is freed: a host device (XLA:CPU) may use it in place if it is 64-byte aligned */
} pjrt_hold;

/* Row-major data to device i. One byte per element for 4-bit types. host_done: with PJRT_HOLD_CALL it may be NULL. */
status pjrt_upload(pjrt_client *c, int device, dtype type, const int64_t *dims, size_t rank, const void *data, pjrt_hold hold,
                   pjrt_buffer **out, pjrt_event **host_done) FALLIBLE;
/* Zeros, made on the devices: one buffer for each of devices 0 .. n_devices-1. Compiles a small program, unless the
 * client's cache has it. */
status pjrt_zeros(pjrt_client *c, int n_devices, dtype type, const int64_t *dims, size_t rank, pjrt_buffer **outs) FALLIBLE;
/* Starts copying the whole array, row-major, to dst; `bytes` must be its size (pjrt_buffer_shape). Wait for *done. */
status pjrt_download(pjrt_client *c, pjrt_buffer *b, void *dst, size_t bytes, pjrt_event **done) FALLIBLE;
/* The same, waiting. */
status pjrt_download_now(pjrt_client *c, pjrt_buffer *b, void *dst, size_t bytes) FALLIBLE;
status pjrt_buffer_shape(pjrt_client *c, pjrt_buffer *b, dtype *type, int64_t dims[PJRT_MAX_RANK], size_t *rank) FALLIBLE;
status pjrt_buffer_bytes(pjrt_client *c, pjrt_buffer *b, size_t *out) FALLIBLE;    /* on the device, padding included */
/* When its contents exist (or their computation failed). */
status pjrt_buffer_ready(pjrt_client *c, pjrt_buffer *b, pjrt_event **done) FALLIBLE;
status pjrt_buffer_deleted(pjrt_client *c, pjrt_buffer *b, bool *out) FALLIBLE;    /* donated or deleted */
/* Address on the device; for tests of what happens in place. ST_UNSUPPORTED where the plugin does not tell. */
status pjrt_buffer_address(pjrt_client *c, pjrt_buffer *b, uintptr_t *out) FALLIBLE;
void pjrt_buffer_free(pjrt_client *c, pjrt_buffer *b);                             /* NULL is fine */

/* ---- events ---- */
status pjrt_event_wait(pjrt_client *c, pjrt_event *e) FALLIBLE;    /* frees the event; the status is its own. NULL is fine */
status pjrt_event_done(pjrt_client *c, pjrt_event *e, bool *out) FALLIBLE;
void pjrt_event_free(pjrt_client *c, pjrt_event *e);               /* without waiting; NULL is fine */

/* "bf16", "f8E4M3FN", ... as MLIR writes the type. */
const char *pjrt_type_name(dtype t);

#endif
