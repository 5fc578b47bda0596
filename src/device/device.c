#include "device/device.h"

#include <string.h>

#include "base/clock.h"
#include "device/device_impl.h"
#include "ops/kv.h"

static const device_class *const classes[] = { &device_cpu, &device_tpu, &device_cuda, &device_pjrt, &device_sim };

static const device_class *class_of(const char *spec)
{
    size_t len = strcspn(spec, ":?");
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strlen(classes[i]->name) == len && strncmp(spec, classes[i]->name, len) == 0) return classes[i];
    return NULL;
}

bool device_needs_weights(const char *spec)
{
    const device_class *c = class_of(spec);
    return !c || !c->no_weights;
}

status device_open(const char *spec, const device_options *o, device **out)
{
    const device_class *known = class_of(spec);
    size_t len = strcspn(spec, ":?");
    char have[256] = "";
    if (known) return known->open(spec + len + (spec[len] == ':'), o, out);
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        const device_class *c = classes[i];
        if (have[0]) strncat(have, ", ", sizeof have - strlen(have) - 1);
        strncat(have, c->name, sizeof have - strlen(have) - 1);
    }
    return err_set(ST_INVALID, "unknown device '%s'; devices: %s", spec, have);
}

void device_close(device *d) { if (d) d->cls->close(d); }
void device_describe(const device *d, device_info *out) { d->cls->describe(d, out); }

static status check_limits(const device_limits *l)
{
    const struct { const char *name; int64_t v, most; } fields[] = {
        { "max_tokens", l->max_tokens, 1 << 24 }, { "max_seqs", l->max_seqs, 1 << 24 }, { "max_rows", l->max_rows, 1 << 24 },
        { "max_model_len", l->max_model_len, 1 << 30 }, { "block_size", l->block_size, 1 << 20 } };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].v < 1 || fields[i].v > fields[i].most)
            return err_set(ST_INVALID, "%s is %lld, expected 1 to %lld", fields[i].name, (long long)fields[i].v, (long long)fields[i].most);
    if (!kv_type_known(l->kv_dtype)) return err_set(ST_UNSUPPORTED, "a KV cache of %s; supported: f32, bf16, f16, f8e4m3, f8e5m2, i8", dtype_name(l->kv_dtype));
    return ST_OK;
}

status device_load(device *d, const graph *g, const weight_source *w, const device_limits *l,
                   void (*progress)(void *arg, int64_t done, int64_t total), void *arg, device_model **out)
{
    TRY(check_limits(l));
    TRY(d->cls->load(d, g, w, l, progress, arg, out));
    (*out)->device = d;
    return ST_OK;
}

void device_unload(device_model *m) { if (m) m->cls->unload(m); }
const device *device_of(const device_model *m) { return m->device; }
int64_t device_weight_bytes(const device_model *m) { return m->cls->weight_bytes(m); }
int64_t device_kv_block_bytes(const device_model *m) { return m->cls->kv_block_bytes(m); }
void device_kv_layout(const device_model *m, kv_layout *out) { m->cls->kv_layout(m, out); }
status device_kv_resize(device_model *m, int32_t n_blocks) { return m->cls->kv_resize(m, n_blocks); }
status device_kv_read(device_model *m, int32_t block, void *dst) { return m->cls->kv_read(m, block, dst); }
status device_kv_write(device_model *m, int32_t block, const void *src) { return m->cls->kv_write(m, block, src); }
status device_run(device_model *m, const batch *b) { return m->cls->run(m, b); }
int64_t device_kv_bytes(const device_model *m, double utilization) { return m->cls->kv_bytes ? m->cls->kv_bytes(m, utilization) : 0; }
int64_t device_step_bytes(const device_model *m) { return m->cls->step_bytes ? m->cls->step_bytes(m) : 0; }
int device_n_threads(const device_model *m) { return m->cls->n_threads ? m->cls->n_threads(m) : 1; }

void device_parallel(device_model *m, void (*fn)(void *arg, int thread), void *arg)
{
    if (m->cls->parallel) m->cls->parallel(m, fn, arg);
    else fn(arg, 0);
}

int device_depth(const device_model *m) { return m->cls->depth ? m->cls->depth(m) : 0; }
int device_n_slots(const device_model *m) { return m->cls->n_slots ? m->cls->n_slots(m) : 0; }
status device_submit(device_model *m, const batch *b) { return m->cls->submit(m, b); }
status device_wait(device_model *m) { return m->cls->wait(m); }
double device_now(const device_model *m) { return m->cls->now ? m->cls->now(m) : clock_now(); }
double device_step_end(const device_model *m) { return m->cls->step_end ? m->cls->step_end(m) : -1; }
void device_advance(device_model *m, double t) { if (m->cls->advance) m->cls->advance(m, t); }
