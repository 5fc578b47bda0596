/* `systolic plan`, split by topic: plan_target.c (chips, topologies and what of the model fits on them), plan_sim.c (a workload on these,
 * and which is recommended), plan_report.c and plan_sim_report.c (text, JSON), plan_svg.c (pictures), cmd_plan.c (flags). No compiler and no device is asked: memory is that of the chip table. One thread. */
#ifndef SYSTOLIC_CLI_PLAN_H
#define SYSTOLIC_CLI_PLAN_H

#include "cli/compile.h"
#include "cli/simulate.h"
#include "model/counts.h"
#include "model/presets.h"

enum { PLAN_MAX_TARGETS = 64 };

/* A model on a target, laid out over its devices. */
typedef struct plan_fit {
    char target[64];            /* "v6e:2x4" */
    const chip *chip;
    int n_chips, n_devices;
    mesh on;                    /* the fewest tensor ranks that it fits on; else the most that its heads allow */
    bool fits;
    int64_t memory_bytes, weight_bytes, kv_bytes;   /* of one device */
    int64_t token_bytes;        /* KV of a token on one device, layers that keep everything and others alike */
    int64_t kv_tokens;          /* on all devices */
    int64_t sequences;          /* of max_model_len, on all devices */
    int64_t shortfall_bytes;    /* of one device */
    char why[700];              /* why it does not fit, or cannot be cut */
} plan_fit;

/* The i-th topology that is rented, smallest of each generation first; NULL after the last. */
const char *plan_topology(int i);
/* p: a model, cut in any way; it is cut anew. text: "v6e:2x4". That it does not fit is no failure. */
/* The same with so many tensor ranks, and experts whole on ranks or cut. ST_INVALID: it cannot be cut so. */
status plan_fit_layout(compile_plan *p, const char *text, int tp, bool ep, plan_fit *out) FALLIBLE;
status plan_fit_target(compile_plan *p, const char *text, plan_fit *out) FALLIBLE;
/* The smallest topology of each generation that holds it, the largest one's misfit where none does. Returns how many in *n. */
status plan_fit_all(compile_plan *p, plan_fit out[PLAN_MAX_TARGETS], int *n) FALLIBLE;

/* Bytes of the weights in one format. */
typedef struct plan_format { const char *name; bool stored; double bytes; } plan_format;
enum { PLAN_MAX_FORMATS = 8 };

/* ---- simulations ---- */

/* A workload on one layout of one target. */
typedef struct plan_run {
    char target[160];           /* with its options */
    const chip *chip;
    int n_chips;
    mesh on;
    bool ran, meets;            /* meets: the objectives, where there are any */
    char why[300];              /* why it did not run */
    sim_result r;
} plan_run;
enum { PLAN_MAX_RUNS = 256 };

/* Objectives, in seconds; 0 = none. */
typedef struct plan_goal { double ttft, itl; } plan_goal;

typedef struct plan_sims {
    workload w;
    int input_len, output_len;  /* of a made-up workload; 0: a trace's */
    const char *trace;          /* its file, or NULL */
    plan_goal goal;
    plan_run v[PLAN_MAX_RUNS];
    int n, best;                /* best: index, -1 = none */
} plan_sims;

/* Do the flags ask for a simulation? */
bool plan_sim_wanted(const flags *f);
/* The workload and objectives that the flags ask for; plan_sim_free frees it. */
status plan_sim_open(const flags *f, plan_sims *out) FALLIBLE;
void plan_sim_free(plan_sims *s);
/* Every layout of every target: the flags' or, of each generation, from the smallest that holds the model up until one meets the goal. */
status plan_sim_run(const flags *f, compile_plan *p, plan_sims *s) FALLIBLE;

/* Makes roofline.svg (of the recommended layout, else of the first) and latency.svg (a sweep over loads, a line for each target). */
status plan_write_svg(compile_plan *p, const char *title_of, const plan_sims *s, const char *dir) FALLIBLE;

typedef struct plan_report {
    const char *name;
    const compile_plan *p;
    const preset *published;    /* NULL: no preset */
    model_params params;        /* of the language model */
    int64_t encoder_params;     /* of its encoders */
    plan_format formats[PLAN_MAX_FORMATS];
    int n_formats;
    model_kv_kind kinds[MODEL_MAX_KV_KINDS];
    int n_kinds;
    plan_fit fits[PLAN_MAX_TARGETS];
    int n_fits;
    const plan_sims *sims;      /* NULL: none were asked for */
} plan_report;
status plan_write_text(const plan_report *r, buf *out) FALLIBLE;
void plan_sim_write_text(const plan_sims *s, buf *out);
/* A member "simulation" of the open object. */
void plan_sim_write_json(const plan_sims *s, jw *w);
status plan_write_json(const plan_report *r, buf *out) FALLIBLE;

#endif
