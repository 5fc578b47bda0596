/* The PJRT device's own structures.
 *
 *   pjrt_device.c    plugin, client, compiler child, program cache
 *   pjrt_weights.c   weights from the checkpoint to the devices, stacked by layer
 *   pjrt_model.c     programs compiled and loaded, the KV cache
 *   pjrt_step.c      steps: meta up, program, sampler, tokens down; several in flight */
#ifndef SYSTOLIC_DEVICE_PJRT_PJRT_MODEL_H
#define SYSTOLIC_DEVICE_PJRT_PJRT_MODEL_H

#include <pthread.h>

#include "device/device_impl.h"
#include "device/pjrt/cache.h"
#include "device/pjrt/compiler.h"
#include "device/pjrt/programs.h"

typedef struct pjrt_device {
    struct device base;
    pjrt_compiler *compiler;        /* NULL: compile in this process */
    pjrt_plugin *plugin;
    pjrt_client *client;
    pjrt_cache *cache;
    pjrt_target_info target;
    char platform[64], name[160];
    const chip *chip;               /* of a TPU; else NULL */
    bool lazy;                      /* programs are compiled when they are first needed */
    pthread_mutex_t compiling;      /* models on one device are used by different threads */
} pjrt_device;

/* A program that is loaded, or not yet. */
typedef struct loaded_program { program_spec spec; pjrt_program *p; } loaded_program;

/* One step in flight. The host's memory is read or written until flight_wait (pjrt_step.c). */
typedef struct flight {
    const batch *b;
    int bucket;
    pjrt_program *sampler;                  /* which is not dropped meanwhile; NULL: none */
    pjrt_event **uploads; int n_uploads;    /* [n_devices * (STEP_UPLOADS + n_inputs)] */
    int32_t *meta;                          /* host side of the uploads */
    float *media;                           /* the graph's float inputs, one after the other, padded to the bucket */
    int32_t *ints; float *floats; uint32_t *mask;
    size_t meta_cap, media_cap, ints_cap, floats_cap, mask_cap;
    int32_t *tokens;                        /* [rows] of the bucket, downloaded */
    float *logits;                          /* [rows][vocab], only if wanted */
    size_t tokens_cap, logits_cap;
    pjrt_buffer *token_buffer, *logit_buffer;   /* device 0's, being downloaded */
    pjrt_event *tokens_done, *logits_done;      /* logits_done, where neither is downloaded: the step is done */
} flight;

enum { MAX_USUAL = 96, MAX_SAMPLERS = 256, STEP_UPLOADS = 4 /* meta; ints, floats, mask of the sampler */, SAMPLER_ARGS = 5 };

typedef struct pjrt_model {
    struct device_model base;
    pjrt_device *dev;
    program_context c;
    int n_devices;
    int64_t n_ids;                          /* rows of the embedding: token ids are below it; 0: there is none */
    pjrt_buffer **weights;                  /* [n_devices][n_weights] */
    int64_t weight_bytes;                   /* of one device */
    pjrt_buffer **caches;                   /* [n_devices][n_caches] */
    pjrt_buffer **ring;                     /* [n_devices] */
    pjrt_buffer **ranks;                    /* [n_devices] each its tensor rank; all NULL where there is but one */
    int32_t n_blocks;
    loaded_program steps[MAX_BUCKETS];
    loaded_program samplers[MAX_SAMPLERS]; int n_samplers;
    pjrt_buffer **no_media[MAX_BUCKETS];    /* [n_devices][n_inputs] zeros: the float inputs of steps that bring none; NULL until there is one */
    pjrt_buffer **args, **outs;             /* for pjrt_execute */
    flight flights[STEP_DEPTH];
    int first, n_flights;
    int n_compiled, n_cached;               /* programs, for the log line */
} pjrt_model;

status pjrt_weights_load(pjrt_model *m, const weight_source *w, void (*progress)(void *arg, int64_t done, int64_t total), void *arg) FALLIBLE;

/* Compiles (or takes from the cache) and loads a program for the model's devices. */
status pjrt_model_compile(pjrt_model *m, const pjrt_source *src, pjrt_stats *stats, pjrt_program **out) FALLIBLE;
status pjrt_model_step_program(pjrt_model *m, int bucket, pjrt_program **out) FALLIBLE;
/* Valid until MAX_SAMPLERS more were asked for, or as long as a flight has it. */
status pjrt_model_sampler(pjrt_model *m, const sampler_kind *k, pjrt_program **out) FALLIBLE;

status pjrt_model_submit(device_model *m, const batch *b) FALLIBLE;
status pjrt_model_wait(device_model *m) FALLIBLE;
status pjrt_model_run(device_model *m, const batch *b) FALLIBLE;
/* Waits for what is in flight and forgets it. */
void pjrt_model_drain(pjrt_model *m);
void pjrt_flight_free(pjrt_model *m, flight *f);

status pjrt_device_open_tpu(const char *arg, const device_options *o, device **out) FALLIBLE;
status pjrt_device_open_cuda(const char *arg, const device_options *o, device **out) FALLIBLE;
status pjrt_device_open_path(const char *arg, const device_options *o, device **out) FALLIBLE;
void pjrt_device_close(device *d);
void pjrt_device_describe(const device *d, device_info *out);

#endif
