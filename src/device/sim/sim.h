/* Simulated chips (sim.c): what those who simulate on purpose may ask beside device.h. */
#ifndef SYSTOLIC_DEVICE_SIM_SIM_H
#define SYSTOLIC_DEVICE_SIM_SIM_H

#include "device/device.h"
#include "device/sim/sim_target.h"

/* Of a model on such a device: the seconds of all steps so far, and how many there were. */
void sim_totals(const device_model *m, step_time *spent, uint64_t *n_steps);
/* How its steps are priced. Borrowed. */
const step_costs *sim_costs(const device_model *m);

#endif
