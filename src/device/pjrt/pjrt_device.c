/* Opening PJRT devices: "tpu", "cuda", "pjrt:PATH[?NAME=VALUE,...]". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "device/pjrt/pjrt_model.h"
#include "device/pjrt/spec.h"
#include "tpu/detect.h"

/* The compiler's processes are forked before the plugin brings its threads into this one. */
static status open_client(pjrt_device *d, const pjrt_place *place, const device_options *o)
{
    pjrt_values values = {0};
    TRY(pjrt_cache_open(o->program_cache, &d->cache));
    TRY(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = place->path, .options = place->options }, &d->compiler));
    TRY(pjrt_plugin_open(place->path, false, &d->plugin));
    TRY(pjrt_values_parse(place->options, &values));
    status st = pjrt_client_open(d->plugin, values.v, values.n, &d->client);
    pjrt_values_free(&values);
    return st;
}

/* Which TPU it is; other platforms are none. */
static void find_chip(pjrt_device *d)
{
    const tpu_hints hints = { d->target.device.kind, d->target.device.n_cores, getenv("TPU_ACCELERATOR_TYPE"), getenv("TPU_VERSION") };
    tpu_found found;
    if (strcmp(d->platform, "tpu") != 0) return;
    tpu_detect(&hints, &found);
    if (tpu_found_loud(&found)) log_warn("%s", found.message);
    else log_info("%s", found.message);
    d->chip = found.chip;
}

static status identify(pjrt_device *d)
{
    TRY(pjrt_client_target(d->client, &d->target));
    snprintf(d->platform, sizeof d->platform, "%s", d->target.platform);
    snprintf(d->name, sizeof d->name, "%d x %s", pjrt_client_n_devices(d->client), d->target.device.kind);
    find_chip(d);
    pjrt_client_use_cache(d->client, d->cache);
    return pjrt_compiler_set_client(d->compiler, d->client);
}

/* A folder that `systolic compile` filled says what it is for; if that is something else, people should know why it takes longer. */
static void compare_manifest(const pjrt_device *d, const char *plugin)
{
    const char *dir = pjrt_cache_dir(d->cache);
    const pjrt_target_info *t = &d->target;
    pjrt_manifest shipped;
    char why[512];
    buf package = {0};
    status st = pjrt_manifest_read(dir, &shipped);
    if (st == ST_NOT_FOUND) return;
    if (st != ST_OK) {
        log_warn("%s", err_msg());
        return;
    }
    if (pjrt_package(plugin, &package) != ST_OK) buf_clear(&package);
    const pjrt_manifest here = { .topology = t->topology, .platform = t->platform, .version = t->version, .target = d->name, .compiler = buf_cstr(&package) };
    if (!pjrt_manifest_fits(&shipped, dir, &here, why, sizeof why)) log_warn("%s", why);
    pjrt_manifest_free(&shipped);
    buf_free(&package);
}

void pjrt_device_close(device *dev)
{
    pjrt_device *d = (pjrt_device *)(void *)dev;
    if (d->compiler) pjrt_compiler_close(d->compiler);
    if (d->client) pjrt_client_close(d->client);
    if (d->plugin) pjrt_plugin_close(d->plugin);
    if (d->cache) pjrt_cache_close(d->cache);
    pthread_mutex_destroy(&d->compiling);
    mem_free(d);
}

static status open_spec(const char *spec, const device_class *cls, const device_options *o, device **out)
{
    static const device_options none;
    pjrt_place place;
    TRY(pjrt_find(spec, &place));
    pjrt_device *d = mem_calloc(1, sizeof *d);
    status st = d ? ST_OK : err_nomem();
    if (d) {
        d->base.cls = cls;
        pthread_mutex_init(&d->compiling, NULL);
        d->lazy = o && o->lazy_compile;
        st = open_client(d, &place, o ? o : &none);
    }
    if (st == ST_OK) st = identify(d);
    if (st == ST_OK) compare_manifest(d, place.path);
    if (st == ST_OK) *out = &d->base;
    else if (d) pjrt_device_close(&d->base);
    if (st != ST_OK) st = err_wrap(st, "device %s", spec);
    pjrt_place_free(&place);
    return st;
}

static status open_named(const char *name, const char *arg, const device_class *cls, const device_options *o, device **out)
{
    if (arg[0]) return err_set(ST_INVALID, "device '%s' takes nothing after the colon, got '%s'", name, arg);
    return open_spec(name, cls, o, out);
}

status pjrt_device_open_tpu(const char *arg, const device_options *o, device **out) { return open_named("tpu", arg, &device_tpu, o, out); }
status pjrt_device_open_cuda(const char *arg, const device_options *o, device **out) { return open_named("cuda", arg, &device_cuda, o, out); }

status pjrt_device_open_path(const char *arg, const device_options *o, device **out)
{
    buf spec = {0};
    buf_printf(&spec, "pjrt:%s", arg);
    status st = buf_status(&spec);
    if (st == ST_OK) st = open_spec(spec.data, &device_pjrt, o, out);
    buf_free(&spec);
    return st;
}

void pjrt_device_describe(const device *dev, device_info *out)
{
    const pjrt_device *d = (const pjrt_device *)(const void *)dev;
    *out = (device_info){ .platform = d->platform, .name = d->name, .isa = "StableHLO", .n_threads = 0, .memory_bytes = d->target.device.memory_bytes,
                          .free_bytes = d->target.device.memory_bytes - d->target.device.used_bytes, .chip = d->chip, .loops = true };
}
