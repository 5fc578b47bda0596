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

/* "cpu" as "CPU". */
static void upper_case(const char *s, char *out, size_t cap)
{
    size_t n = 0;
    for (; s && s[n] && n + 1 < cap; n++) out[n] = (char)toupper((unsigned char)s[n]);
    out[n] = 0;
}

status engine_start(device_model *dm, const model *m, const engine_options *o, engine **out)
{
    device_info info = {0};
    char name[32];
    device_describe(device_of(dm), &info);
    upper_case(info.platform, name, sizeof name);
    engine_device dev = { .run = run, .kv_resize = kv_resize, .kv_block_bytes = kv_block_bytes, .self = dm, .name = name[0] ? name : NULL,
                          .n_threads = device_n_threads(dm), .parallel = parallel };
    device_kv_layout(dm, &dev.kv);
    if (device_depth(dm) > 0) {
        dev.depth = depth;
        dev.n_slots = n_slots;
        dev.submit = submit;
        dev.wait = wait_oldest;
        dev.free_bytes = info.free_bytes; /* its own memory, not the host's */
    }
    return engine_start_on(&dev, model_describe(m), o, out);
}
