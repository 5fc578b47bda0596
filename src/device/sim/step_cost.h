/* What a step takes, from the operations' own account of themselves (op_impl.cost): work by class of operation, and the time that
 * a machine of the chip table needs for it. `systolic compile` prices programs with it, the simulator steps.
 *
 * Operations that cost the same (those of equal layers do) are one class, so that a step of 80 layers is priced in microseconds.
 *
 * The time of an operation is a roofline (Williams et al. 2009): the matrix units and the memory work beside each other and the
 * slower one decides; collectives, and what launching takes, come after. Of the matrix units as much counts as its operands fill
 * (their sides are rounded up to mxu_size), and they run at the rate of the type that the operands are multiplied in. Experts are products
 * of tiles of rows that are filled up, each of which is a step of a kernel's grid. Rows that fit
 * into VMEM beside each other do not go through HBM; of products whose input does not fit, the weights are read again for each part
 * that does.
 *
 * Collectives run around rings (docs/simulator.md): bytes by op_cost.link_bytes, both directions, one hop's latency per step of the
 * ring. Where the ranks do not close to a ring the links carry half; ranks beyond a slice meet over the data centre network.
 *
 * Everything here is a pure function of its arguments: equal steps take equal times. */
#ifndef SYSTOLIC_DEVICE_SIM_STEP_COST_H
#define SYSTOLIC_DEVICE_SIM_STEP_COST_H

#include "device/pjrt/programs.h"
#include "tpu/chip.h"

/* What attention of one kind of layers looks at in a step: (query, key) pairs, and keys that come from memory. */
typedef struct step_reach { double pairs, keys; } step_reach;
/* Layers that see the same: their window or chunk, 0 = none. */
typedef struct step_kind { int64_t window, chunk; } step_kind;
enum { STEP_MAX_KINDS = 8 };

/* A step. tokens, seqs and rows are those of its bucket: programs compute padding too. */
typedef struct step_load { double tokens, seqs, rows; step_reach reach[STEP_MAX_KINDS]; } step_load;

/* What remains of data sheets in practice. docs/simulator.md says how they were found. */
typedef struct sim_constants {
    double mxu, hbm, ici;       /* shares of the peak rates that programs reach */
    double op_s;                /* starting one operation of a program */
    double step_s;              /* a step beside its operations: launching it, and what the host does that does not overlap */
} sim_constants;
extern const sim_constants sim_constants_default;

/* Where a program runs. */
typedef struct step_machine {
    const chip *chip;
    int shape[3];               /* chips of a slice along each axis, 1 = none */
    int n_slices;               /* joined by the data centre network */
    sim_constants k;
} step_machine;
int step_machine_devices(const step_machine *m);   /* of all slices */

/* Seconds of a step, by what they were spent on. */
typedef struct step_time { double compute, memory, links, launch, total; } step_time;

/* A compiler's figures of one bucket's program (refine.h), in place of those of its operations beside attention, experts and
 * collectives, whose work depends on data or on links and stays as it is priced here. */
typedef struct step_refined {
    double cycles;              /* -1: unknown */
    double flops;               /* of products; -1: unknown */
    bool starts;                /* cycles have in them what starting operations takes, and memory at the rate that the compiler expects */
    bool kernels;               /* products of quantised weights are kernels that neither figure has: they stay as priced here */
} step_refined;

typedef struct step_costs step_costs;
/* Of the graph that c was made for, which is borrowed. ST_UNSUPPORTED beyond STEP_MAX_KINDS. */
status step_costs_new(const program_context *c, step_costs **out) FALLIBLE;
void step_costs_free(step_costs *s);
const step_kind *step_costs_kinds(const step_costs *s, int *n);

/* Queries of one sequence that read its keys together in a step of this bucket, in attention of the k-th kind: a tile of the program's, or
 * as much of it as the chip's kernel takes at once (ops/paged_attention). */
double step_costs_tile(const step_costs *s, int k, const lower_bucket *b);

/* Work of all operations. */
void step_costs_work(const step_costs *s, const step_load *l, chip_work *out);
/* Their time on a machine that the graph's mesh fits. */
void step_costs_time(const step_costs *s, const step_load *l, const step_machine *m, step_time *out);
/* The same with a compiler's figures of the program that the load falls into. */
void step_costs_time_refined(const step_costs *s, const step_load *l, const step_machine *m, const step_refined *r, step_time *out);
/* Of what is refined alone, starting it included: seconds as priced here and as refined, and the FLOP of its products as counted here. */
void step_costs_compare(const step_costs *s, const step_load *l, const step_machine *m, const step_refined *r, double *ours, double *theirs, double *flops);

/* One class, for pictures: its operation, how many there are, and what all of them take. */
typedef struct step_class_cost { op op; int count; chip_work work; double compute_s, memory_s, link_s; } step_class_cost;
int step_costs_n(const step_costs *s);
void step_costs_class(const step_costs *s, int i, const step_load *l, const step_machine *m, step_class_cost *out);

/* Sampling a step's rows, which is a program of its own: logits are read once for the largest; random ones also for the sum and the
 * choice; thresholds are found by bisection over the 32 bits of a float, one reading each. A guess, and little beside a step. */
void step_sampler_work(double rows, double vocab, bool random, bool cut, chip_work *out);

/* Of one sequence with n tokens in the step, the last of which is its len-th: adds to *out. tile: queries that read keys together. */
void step_reach_add(const step_kind *k, double n, double len, double tile, step_reach *out);

#endif
