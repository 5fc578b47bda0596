/* Simulated chips (sim.c): what those who simulate on purpose may ask beside device.h. */
#ifndef SYSTOLIC_DEVICE_SIM_SIM_H
#define SYSTOLIC_DEVICE_SIM_SIM_H

#include "device/device.h"
#include "device/sim/refine.h"
#include "device/sim/sim_target.h"

/* Of a model on such a device: the seconds of all steps so far, and how many there were. */
void sim_totals(const device_model *m, step_time *spent, uint64_t *n_steps);
/* How its steps are priced. Borrowed. */
const step_costs *sim_costs(const device_model *m);
/* Programs that were refined so far (device_options.sim_refine), in the order of buckets: copies at most cap, returns how many. */
int sim_refined(const device_model *m, refined_program *out, int cap);
/* Tells of the i-th of n programs when the compiler has been asked about it. */
typedef void sim_program_fn(void *arg, const refined_program *p, int i, int n);
void sim_on_program(device *d, sim_program_fn *fn, void *arg);
/* "libtpu 0.0.52"; NULL where nothing is refined. Borrowed. */
const char *sim_refined_by(const device *d);

#endif
