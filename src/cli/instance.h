/* A loaded model with a running engine, from the flags of `serve`: what serve, run-batch and the offline benchmarks share. */
#ifndef SYSTOLIC_CLI_INSTANCE_H
#define SYSTOLIC_CLI_INSTANCE_H

#include "cli/flags.h"
#include "device/device.h"
#include "engine/engine.h"
#include "engine/towers.h"
#include "load/model_dir.h"
#include "media/processor.h"
#include "model/model.h"

/* In the order of making. */
typedef struct instance {
    const flags *f;
    char *dir;                      /* where the model's files are */
    model_dir *files;
    model *m;
    graph *own_graph;               /* for the mesh and the device, where the model's own does not do */
    weight_source *weights;
    device *dev;
    device_model *loaded;
    device_model **replicas; int n_replicas;    /* beside it, of --data-parallel-size: e has an engine for each */
    media_processor *processor;     /* of multimodal models, with their encoders; NULL */
    towers *towers;
    engine *e;
    dtype dt, kv_dt;
    engine_options eo;
} instance;

/* ST_INVALID, naming the flag, when it is given and outside [min, max]. */
status flags_check_range(const flags *f, const char *name, int64_t min, int64_t max) FALLIBLE;
/* Bounds of the engine's integer flags; errors name the flag. */
status instance_check_flags(const flags *f) FALLIBLE;
/* The model, types, engine options and limits that s->f asks for, from config.json alone: what the programs of a server are made
 * from. instance_close frees it, also after a failure. */
status instance_plan(instance *s, const jv *config, device_limits *limits) FALLIBLE;
/* Finds (or downloads) the model, loads it, starts the engine. Nothing is left open on failure. */
status instance_open(const flags *f, instance *out) FALLIBLE;
/* Stops the engine alone, for callers whose callbacks need more time than it has. */
void instance_stop(instance *s, double drain_s);
void instance_close(instance *s, double drain_s);

/* instance_media.c: what model_options.media is to be; the processor and encoders of a model that takes media. */
status instance_media_levels(const instance *s, const jv *config, int *out) FALLIBLE;
status instance_open_media(instance *s) FALLIBLE;
void instance_close_media(instance *s);

/* config.json of a directory, a file, a preset's name or a hub name, whose weights are left where they are. *files: of a directory; they say
 * whether it is served with images and sounds. NULL for a config.json or a name alone, which is taken to be. */
status instance_read_config(const flags *f, const char *where, jv **config, model_dir **files) FALLIBLE;

mesh instance_mesh(const flags *f);
/* An integer flag, at most INT32_MAX. */
int64_t instance_i64(const flags *f, const char *name, int64_t def);
/* Index of name in all[n]; 0 when it is not there. */
int instance_choice(const char *name, const char *const *all, int n);

#endif
