/* `systolic compile`, split by topic: compile_plan.c (what would run and how much fits), compile_cost.c (what a program takes),
 * compile_encoders.c (the towers of multimodal models), compile_report.c (progress, table, JSON), cmd_compile.c (flags and the queue). One thread. */
#ifndef SYSTOLIC_CLI_COMPILE_H
#define SYSTOLIC_CLI_COMPILE_H

#include <stdio.h>
#include <string.h>

#include "cli/instance.h"
#include "device/pjrt/compiler.h"
#include "device/pjrt/programs.h"
#include "device/pjrt/spec.h"
#include "model/encoder.h"
#include "tpu/chip.h"

/* ---- what is to be compiled ---- */
enum { COMPILE_STAGES = 16 };
typedef struct compile_stage { program_context c; char name[32]; /* "image encoder 0" */ } compile_stage;

typedef struct compile_plan {
    instance model;                 /* its model, types and options; nothing is loaded */
    jv *config;
    mesh on;
    graph *g;                       /* of one device */
    program_context c;
    pjrt_target_info target;
    const chip *chip;               /* NULL: rates unknown */
    int64_t memory_bytes;           /* of one device; 0: unknown */
    double utilization;
    int64_t kv_bytes;               /* of one device, below 0 if not even the weights fit */
    int64_t shortfall_bytes;        /* of one device, 0 if it fits */
    char misfit[700];               /* why not, as a sentence */
    int64_t seq_blocks;             /* KV blocks of a sequence of max_model_len */
    int32_t n_blocks;               /* as serve makes them */
    encoder *encoders[ENCODER_KINDS];       /* of multimodal models; NULL */
    compile_stage stages[COMPILE_STAGES]; int n_stages;
    int64_t encoder_bytes;          /* what they take of a device, steps included */
} compile_plan;

/* The model at `where` (a directory, a config.json, a preset's name, a hub name) as the flags of `f` would serve it. */
status compile_plan_model(const flags *f, const char *where, compile_plan *out) FALLIBLE;
/* The devices that the flags ask for. */
mesh compile_plan_mesh(const flags *f);
/* Cuts it for a mesh; may be called again for another one. */
status compile_plan_cut(compile_plan *p, mesh on) FALLIBLE;
/* Puts it, cut, on the target's devices and counts KV blocks as serve does. That it does not fit is no failure: misfit. */
status compile_plan_target(const char *target, const pjrt_target_info *info, compile_plan *p) FALLIBLE;
/* What the chip table knows of a target, without a compiler. */
status compile_target_known(const char *target, pjrt_target_info *out, const chip **chip_out) FALLIBLE;
void compile_plan_free(compile_plan *p);

/* KV bytes of one token on one device (while all layers see it), how many tokens fit on all devices together (in all layers: fewer
 * than can be served where layers forget), and how many sequences of max_model_len. */
int64_t compile_token_bytes(const compile_plan *p);
int64_t compile_kv_tokens(const compile_plan *p);
int64_t compile_kv_sequences(const compile_plan *p);

/* ---- which of its programs, and what became of them ---- */
typedef struct compile_job {
    program_spec spec;
    const program_context *c;       /* of an encoder; NULL: the language model's */
    char key[PJRT_KEY_LEN];
    pjrt_stats stats;
    chip_work work;                 /* of one device, by the operations' own account */
    double step_s;                  /* < 0: unknown */
    double seconds;                 /* spent here, cache included */
    bool done, cached, copies_cache;
    char error[600];                /* "" = none */
} compile_job;
typedef struct compile_jobs { compile_job *v; int n; } compile_jobs;

/* "decode:64,step:2048,encoder:1024" (NULL: all) and their samplers, if wanted. */
status compile_jobs_make(const compile_plan *p, const char *buckets, bool samplers, compile_jobs *out) FALLIBLE;
void compile_jobs_free(compile_jobs *j);

/* ---- encoders (compile_encoders.c) ---- */
status compile_encoders_open(compile_plan *p) FALLIBLE;
void compile_encoders_close(compile_plan *p);
static inline bool compile_names_encoder(const char *item) { return strncmp(item, "encoder:", 8) == 0; }
/* Adds their programs to a list that has room. */
status compile_encoder_jobs(const compile_plan *p, const char *buckets, compile_jobs *out) FALLIBLE;

/* ---- what a program takes ---- */
/* Tokens that a sequence is taken to have in the cache when steps are priced: half of max_model_len, 2048 at most. */
int compile_assumed_context(const compile_plan *p);
status compile_cost(const compile_plan *p, const compile_job *j, chip_work *out) FALLIBLE;

/* ---- telling ---- */
typedef struct compile_report {
    const compile_plan *p;
    const compile_jobs *jobs;
    const char *model, *target, *compiler;  /* compiler: "libtpu 0.0.52", "" if unknown */
    const char *cache_dir;
    double seconds;                 /* of everything */
} compile_report;
void compile_say_start(const compile_jobs *j, int i);   /* which program is being compiled, on a terminal */
void compile_say_end(const compile_plan *p, const compile_jobs *j, int i);
void compile_say_plan(const compile_report *r, FILE *f);
/* How attention runs there, what it costs and what else there was. */
status compile_explain(const compile_plan *p, buf *out) FALLIBLE;
status compile_write_json(const compile_report *r, buf *out) FALLIBLE;
status compile_write_table(const compile_report *r, buf *out) FALLIBLE;

#endif
