/* libtpu's word on what a simulator's programs take. The step program of a bucket is compiled for the simulated chips (no TPU is
 * needed), and what the compiler estimates of it (hlo_cost.h) takes the place of the operations' own figures in that bucket's steps
 * (step_costs_refine). What was compiled is kept in the cache of programs, so the next run asks nobody.
 *
 * Modes: "libtpu" takes the compiler's cost model, which every compilation has. "libtpu-static" has the finished code profiled, which
 * takes minutes where the other takes seconds, and which libtpu does not do for every chip: a program at which it dies is compiled again
 * without.
 *
 * Threads: any may ask. Open it early: it forks (compiler.h). */
#ifndef SYSTOLIC_DEVICE_SIM_REFINE_H
#define SYSTOLIC_DEVICE_SIM_REFINE_H

#include "device/sim/sim_target.h"

typedef struct sim_refine sim_refine;

/* One program, and what the two accounts say of what is refined of it: all but attention, experts and collectives. */
typedef struct refined_program {
    char name[48];              /* "decode t64 s64" */
    bool known, cached;         /* known: there is something to refine with */
    double compile_s, seconds;  /* of the compiler; spent here */
    step_refined by;
    double model_s, refined_s;  /* a step of this bucket, starting its operations included */
    double model_flops, flops;  /* of products; flops -1: unknown */
    double compiler_flops, compiler_bytes;      /* as the compiler counts: bodies of loops once. -1: unknown */
    int n_open;                 /* loops whose length data decides */
    char why[200];              /* why it is not known, or "" */
} refined_program;

/* Finds libtpu (ST_NOT_FOUND says where it was looked for) and names the chips. mode: one of the above, else ST_INVALID. cache: a folder,
 * NULL = the usual one. */
status sim_refine_open(const char *mode, const sim_target *t, const char *cache, sim_refine **out) FALLIBLE;
void sim_refine_close(sim_refine *r);
const char *sim_refine_compiler(const sim_refine *r);   /* "libtpu 0.0.52" */
/* Of bucket i. That a program does not compile is no failure: it is not known then. costs: of the same context. */
status sim_refine_program(sim_refine *r, const program_context *c, int i, const step_costs *costs, const step_machine *m, refined_program *out) FALLIBLE;

#endif
