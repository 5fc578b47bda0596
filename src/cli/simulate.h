/* A workload on simulated chips: engine and scheduler through all of its requests, in virtual time (engine/drive.h, device/sim). */
#ifndef SYSTOLIC_CLI_SIMULATE_H
#define SYSTOLIC_CLI_SIMULATE_H

#include "cli/compile.h"
#include "cli/workload.h"
#include "device/sim/sim.h"

/* Of one measure; seconds. */
typedef struct sim_series { double mean, p50, p90, p99; } sim_series;

enum { SIM_MAX_PROGRAMS = 24 };
typedef struct sim_result {
    size_t n_completed, n_refused;      /* refused: longer than the context */
    double seconds;                     /* from the first arrival to the last token */
    double input_tokens, output_tokens;
    double requests_per_s, output_per_s, total_per_s;
    sim_series ttft, tpot, itl, e2e;    /* as vLLM's benchmark defines them (docs/cli.md); itl: of all gaps between tokens */
    double usd_per_hour, usd_per_million_output, usd_per_million;   /* per million: output tokens, all tokens. 0 = no price is known */
    uint64_t n_steps, n_preemptions;
    double hit_rate;                    /* of prompt tokens in the prefix cache */
    refined_program programs[SIM_MAX_PROGRAMS]; int n_programs;     /* those that a compiler was asked about (--sim-refine) */
    char compiler[64];                  /* which one; "" = none */
    step_time spent;                    /* seconds of all steps on one device of each replica, summed over replicas */
} sim_result;

/* The graph of one device of `on` on such a chip, with the limits that devices are loaded with. */
status simulate_cut(compile_plan *p, const chip *c, mesh on) FALLIBLE;
/* p: the model; it is cut anew for `on`: on.dp replicas of on.tp devices each, of which the least busy one gets a request when it arrives
 * (in turns where so many are under way at a time). spec: a target with its options ("v6e:2x4?mxu=0.5"). ST_INVALID and ST_LIMIT where it does not fit. */
status simulate(compile_plan *p, const char *spec, mesh on, const workload *w, sim_result *out) FALLIBLE;

#endif
