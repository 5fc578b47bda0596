/* What a device implements: device.c finds the class by name and passes calls on. */
#ifndef SYSTOLIC_DEVICE_DEVICE_IMPL_H
#define SYSTOLIC_DEVICE_DEVICE_IMPL_H

#include "device/device.h"

typedef struct device_class {
    const char *name;
    status (*open)(const char *arg, const device_options *o, device **out);  /* arg: what follows "name:", or "" */
    void (*close)(device *d);
    void (*describe)(const device *d, device_info *out);
    status (*load)(device *d, const graph *g, const weight_source *w, const device_limits *l,
                   void (*progress)(void *arg, int64_t done, int64_t total), void *arg, device_model **out);
    void (*unload)(device_model *m);
    int64_t (*weight_bytes)(const device_model *m);
    int64_t (*kv_block_bytes)(const device_model *m);
    void (*kv_layout)(const device_model *m, kv_layout *out);
    status (*kv_resize)(device_model *m, int32_t n_blocks);
    status (*kv_read)(device_model *m, int32_t block, void *dst);
    status (*kv_write)(device_model *m, int32_t block, const void *src);
    status (*run)(device_model *m, const batch *b);
    int64_t (*kv_bytes)(const device_model *m, double utilization);  /* NULL: no limit of its own */
    int64_t (*step_bytes)(const device_model *m);                    /* NULL: the host's memory */
    /* NULL where all threads are the host's. */
    int (*n_threads)(const device_model *m);
    void (*parallel)(device_model *m, void (*fn)(void *arg, int thread), void *arg);
    /* NULL where the device only runs. */
    int (*depth)(const device_model *m);
    int (*n_slots)(const device_model *m);
    status (*submit)(device_model *m, const batch *b);
    status (*wait)(device_model *m);
    /* NULL where the time is everybody's. */
    double (*now)(const device_model *m);
    double (*step_end)(const device_model *m);
    void (*advance)(device_model *m, double t);
    bool no_weights;
} device_class;

/* First member of every class's own struct. */
struct device { const device_class *cls; };
struct device_model {
    const device_class *cls;
    device *device; /* where it is loaded: set by device_load */
};

extern const device_class device_cpu, device_tpu, device_cuda, device_pjrt, device_sim;

#endif
