/* What is simulated, as users write it: chips from the table (tpu/chip.h) in a shape, and constants that may be changed.
 *
 *   v6e-8, v6e:2x4, v7x:2x2x1, v4:2x2x1?chip_config_name=megacore
 *   v6e:2x4?slices=2,mxu=0.5         NAME=VALUE after a '?':
 *     speed     simulated seconds per real one: 1; 0 = as fast as it goes, in virtual time
 *     slices    slices of that shape, joined by the data centre network: 1
 *     mxu hbm ici op_us step_ms    sim_constants
 *
 * Pure functions. */
#ifndef SYSTOLIC_DEVICE_SIM_SIM_TARGET_H
#define SYSTOLIC_DEVICE_SIM_SIM_TARGET_H

#include "device/sim/step_cost.h"
#include "tpu/detect.h"

typedef struct sim_target {
    char name[64];              /* without options: "v6e:2x4" */
    step_machine machine;
    double speed;
} sim_target;

/* ST_INVALID says what is wrong with it. */
status sim_target_parse(const char *text, sim_target *out) FALLIBLE;
/* The chip of the environment (tpu/detect.h), v6e where nothing names one, in the slice that is named or in one of 8 chips (4 where slices
 * have three dimensions). options: "" or what would follow a name, "?speed=0". *found says which and why, for the log. */
status sim_target_detect(const char *options, sim_target *out, tpu_found *found) FALLIBLE;

#endif
