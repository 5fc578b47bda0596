/* A device_model as the engine sees it. Apart from engine.c so that tests with their own device link without any. */
#include <ctype.h>

#include "engine/engine.h"

static status run(void *self, const batch *b) { return device_run(self, b); }
static int depth(void *self) { return device_depth(self); }
static int n_slots(void *self) { return device_n_slots(self); }
static status submit(void *self, const batch *b) { return device_submit(self, b); }
static status wait_oldest(void *self) { return device_wait(self); }
static status kv_resize(void *self, int32_t n_blocks) { return device_kv_resize(self, n_blocks); }
static int64_t kv_block_bytes(void *self) { return device_kv_block_bytes(self); }
static void parallel(void *self, void (*fn)(void *arg, int thread), void *arg) { device_parallel(self, fn, arg); }
static double now(void *self) { return device_now(self); }
static double step_end(void *self) { return device_step_end(self); }
static void advance(void *self, double t) { device_advance(self, t); }

/* "cpu" as "CPU". */
static const char *upper_case(const char *s)
{
    static _Thread_local char out[32];
    size_t n = 0;
    for (; s && s[n] && n + 1 < sizeof out; n++) out[n] = (char)toupper((unsigned char)s[n]);
    out[n] = 0;
    return n ? out : NULL;
}

void engine_device_of(device_model *dm, engine_device *out)
{
    device_info info = {0};
    device_describe(device_of(dm), &info);
    *out = (engine_device){ .run = run, .kv_resize = kv_resize, .kv_block_bytes = kv_block_bytes, .self = dm, .name = upper_case(info.platform),
                            .n_threads = device_n_threads(dm), .parallel = parallel };
    device_kv_layout(dm, &out->kv);
    if (device_depth(dm) > 0) {
        out->depth = depth;
        out->n_slots = n_slots;
        out->submit = submit;
        out->wait = wait_oldest;
        out->free_bytes = info.free_bytes; /* its own memory, not the host's */
    }
    if (info.own_time) {
        out->now = now;
        out->step_end = step_end;
        out->advance = advance;
    }
}

status engine_start(device_model *dm, const model *m, const engine_options *o, engine **out)
{
    engine_device dev;
    engine_device_of(dm, &dev);
    return engine_start_on(&dev, model_describe(m), o, out);
}
