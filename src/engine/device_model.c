/* A device_model as the engine sees it. Apart from engine.c so that tests with their own device link without any. */
#include "engine/engine.h"

static status run(void *self, const batch *b) { return device_run(self, b); }
static status kv_resize(void *self, int32_t n_blocks) { return device_kv_resize(self, n_blocks); }
static int64_t kv_block_bytes(void *self) { return device_kv_block_bytes(self); }

status engine_start(device_model *dm, const model *m, const engine_options *o, engine **out)
{
    const engine_device dev = { .run = run, .kv_resize = kv_resize, .kv_block_bytes = kv_block_bytes, .self = dm, .name = "CPU" };
    return engine_start_on(&dev, model_describe(m), o, out);
}
