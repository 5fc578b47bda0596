/* Clients, topologies and what is known of their devices. */
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "device/pjrt/internal.h"
#include "tpu/chip.h"

/* ---- devices ---- */
static bool named(const pj_named_value *v, const char *name) { return v->name_len == strlen(name) && !memcmp(v->name, name, v->name_len); }

status pj_describe(const pj_api *api, pj_device_description *d, pjrt_device_info *out)
{
    pjrt_device_info r = {0};
    PJ_ARGS(pj_description_id_args, id);
    id.description = d;
    TRY(pj_check(api, api->description_id(&id), "id of a device"));
    r.id = id.id;
    PJ_ARGS(pj_description_id_args, process);
    process.description = d;
    TRY(pj_check(api, api->description_process(&process), "process of device %d", r.id));
    r.process = process.id;
    PJ_ARGS(pj_description_text_args, kind);
    kind.description = d;
    TRY(pj_check(api, api->description_kind(&kind), "kind of device %d", r.id));
    snprintf(r.kind, sizeof r.kind, "%.*s", (int)(kind.len < sizeof r.kind ? kind.len : sizeof r.kind), kind.text ? kind.text : "");
    PJ_ARGS(pj_description_attributes_args, a);
    a.description = d;
    TRY(pj_check(api, api->description_attributes(&a), "attributes of device %d", r.id));
    for (size_t i = 0; i < a.n; i++) {
        const pj_named_value *v = &a.attributes[i];
        if (v->type == PJ_INT64_LIST && named(v, "coords")) {
            r.n_coords = (int)(v->n < 4 ? v->n : 4);
            for (int k = 0; k < r.n_coords; k++) r.coords[k] = (int)v->v.i64s[k];
        } else if (v->type == PJ_INT64 && named(v, "core_on_chip")) {
            r.core_on_chip = (int)v->v.i64;
        } else if (v->type == PJ_INT64 && named(v, "num_cores")) {
            r.n_cores = (int)v->v.i64;
        } else if (v->type == PJ_INT64 && named(v, "device_memory_bytes_limit")) {
            r.memory_bytes = v->v.i64;
        }
    }
    /* Of a v4 chip that is two devices, each claims all memory; the compiler refuses a program that takes more than half. */
    const chip *known = chip_by_kind(r.kind, r.n_cores);
    if (known && r.memory_bytes > known->hbm_usable_bytes) r.memory_bytes = known->hbm_usable_bytes;
    *out = r;
    return ST_OK;
}

status pjrt_client_device(const pjrt_client *c, int i, pjrt_device_info *out)
{
    if (i < 0 || i >= c->n_devices) return err_set(ST_INVALID, "device %d: 0 to %d exist", i, c->n_devices - 1);
    PJ_ARGS(pj_device_description_args, a);
    a.device = c->devices[i];
    TRY(pj_check(c->api, c->api->device_description(&a), "description of device %d", i));
    pjrt_device_info r;
    TRY(pj_describe(c->api, a.description, &r));
    /* Not every plugin counts its memory; it is no failure if this one does not. */
    PJ_ARGS(pj_device_memory_args, m);
    m.device = c->devices[i];
    pj_error *e = PJ_HAS(c->api, device_memory) ? c->api->device_memory(&m) : NULL;
    if (!e) {
        r.used_bytes = m.in_use;
        if (m.has_limit && m.limit > 0) r.memory_bytes = m.limit;
    }
    pj_drop(c->api, e);
    *out = r;
    return ST_OK;
}

/* One device in the hash of a topology; a sum, so that the order in which a plugin lists devices does not matter. */
static uint64_t device_hash(const pjrt_device_info *d)
{
    char text[256];
    int n = snprintf(text, sizeof text, "%d %d %s %d/%d/%d/%d %d %d/%d", d->id, d->process, d->kind, d->coords[0], d->coords[1], d->coords[2], d->coords[3],
                     d->n_coords, d->core_on_chip, d->n_cores);
    return hash64(text, (size_t)n);
}

static status target_of(const pjrt_plugin *p, pj_device_description *const *devices, int n, const char *platform, const char *version, pjrt_target_info *out)
{
    pjrt_target_info r = { .n_devices = n, .api_minor = p->api->version.minor };
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) {
        pjrt_device_info d;
        TRY(pj_describe(p->api, devices[i], &d));
        if (i == 0) r.device = d;
        sum += device_hash(&d);
    }
    snprintf(r.platform, sizeof r.platform, "%s", platform);
    snprintf(r.version, sizeof r.version, "%s", version);
    snprintf(r.topology, sizeof r.topology, "%d x %s, %016llx", n, r.device.kind, (unsigned long long)sum);
    *out = r;
    return ST_OK;
}

/* ---- client ---- */
void pjrt_client_close(pjrt_client *c)
{
    if (!c) return;
    if (c->client) {
        PJ_ARGS(pj_client_args, a);
        a.client = c->client;
        pj_drop(c->api, c->api->client_destroy(&a));
    }
    mem_free(c->platform);
    mem_free(c->version);
    mem_free(c);
}

static status client_texts(pjrt_client *c)
{
    PJ_ARGS(pj_client_text_args, name);
    name.client = c->client;
    TRY(pj_check(c->api, c->api->client_platform_name(&name), "platform name"));
    PJ_ARGS(pj_client_text_args, version);
    version.client = c->client;
    TRY(pj_check(c->api, c->api->client_platform_version(&version), "platform version"));
    c->platform = mem_strndup(name.text ? name.text : "", name.len);
    c->version = mem_strndup(version.text ? version.text : "", version.len);
    return c->platform && c->version ? ST_OK : err_nomem();
}

static status open_client(pjrt_client *c, const pj_named_value *options, size_t n)
{
    PJ_ARGS(pj_client_create_args, a);
    a.options = options;
    a.n_options = n;
    TRY(pj_check(c->api, c->api->client_create(&a), "%s: no device could be opened", c->plugin->path));
    c->client = a.client;
    PJ_ARGS(pj_client_devices_args, d);
    d.client = c->client;
    TRY(pj_check(c->api, c->api->client_addressable_devices(&d), "devices of %s", c->plugin->path));
    if (d.n == 0) return err_set(ST_NOT_FOUND, "%s: opened, but it has no device on this host", c->plugin->path);
    if (d.n > PJRT_MAX_DEVICES) return err_set(ST_UNSUPPORTED, "%s: %zu devices on one host, at most %d are supported", c->plugin->path, d.n, PJRT_MAX_DEVICES);
    c->devices = d.devices;
    c->n_devices = (int)d.n;
    return client_texts(c);
}

status pjrt_client_open(pjrt_plugin *p, const pjrt_value *options, size_t n_options, pjrt_client **out)
{
    pj_named_value *named_values;
    TRY(pj_named_values(options, n_options, &named_values));
    pjrt_client *c = mem_calloc(1, sizeof *c);
    status st = c ? ST_OK : err_nomem();
    if (c) {
        c->plugin = p;
        c->api = p->api;
        st = open_client(c, named_values, n_options);
    }
    mem_free(named_values);
    if (st != ST_OK) {
        pjrt_client_close(c);
        return st;
    }
    *out = c;
    return ST_OK;
}

void pjrt_client_use_cache(pjrt_client *c, const struct pjrt_cache *cache) { c->cache = cache; }
int pjrt_client_n_devices(const pjrt_client *c) { return c->n_devices; }
const char *pjrt_client_platform(const pjrt_client *c) { return c->platform; }
const char *pjrt_client_version(const pjrt_client *c) { return c->version; }

/* Asks the client's topology, as one that was opened by name is asked: the texts of the client itself may differ from its. */
status pjrt_client_target(const pjrt_client *c, pjrt_target_info *out)
{
    PJ_ARGS(pj_client_topology_args, t);
    t.client = c->client;
    TRY(pj_check(c->api, c->api->client_topology(&t), "topology of %s", c->plugin->path));
    PJ_ARGS(pj_topology_devices_args, d);
    d.topology = t.topology;
    TRY(pj_check(c->api, c->api->topology_devices(&d), "devices of the topology"));
    PJ_ARGS(pj_topology_text_args, name);
    name.topology = t.topology;
    TRY(pj_check(c->api, c->api->topology_platform_name(&name), "platform name"));
    PJ_ARGS(pj_topology_text_args, version);
    version.topology = t.topology;
    TRY(pj_check(c->api, c->api->topology_platform_version(&version), "platform version"));
    char *platform_text = mem_strndup(name.text ? name.text : "", name.len), *version_text = mem_strndup(version.text ? version.text : "", version.len);
    status st = platform_text && version_text ? target_of(c->plugin, d.descriptions, (int)d.n, platform_text, version_text, out) : err_nomem();
    mem_free(platform_text);
    mem_free(version_text);
    return st;
}

static status write_topology(const pjrt_plugin *p, pj_topology *t, buf *out)
{
    if (!PJ_HAS(p->api, topology_deserialize)) return err_set(ST_UNSUPPORTED, "%s: its PJRT API 0.%d is too old to pass topologies on", p->path, p->api->version.minor);
    PJ_ARGS(pj_topology_serialize_args, s);
    s.topology = t;
    TRY(pj_check(p->api, p->api->topology_serialize(&s), "serialise the topology of %s", p->path));
    buf_append(out, s.bytes, s.len);
    if (s.free_holder) s.free_holder(s.holder);
    return buf_status(out);
}

status pjrt_client_topology(const pjrt_client *c, buf *out)
{
    PJ_ARGS(pj_client_topology_args, t);
    t.client = c->client;
    TRY(pj_check(c->api, c->api->client_topology(&t), "topology of %s", c->plugin->path));
    return write_topology(c->plugin, t.topology, out);
}

/* ---- topology ---- */
void pjrt_topology_close(pjrt_topology *t)
{
    if (!t) return;
    if (t->topology) {
        PJ_ARGS(pj_topology_args, a);
        a.topology = t->topology;
        pj_drop(t->api, t->api->topology_destroy(&a));
    }
    mem_free(t->platform);
    mem_free(t->version);
    mem_free(t);
}

/* Takes over `topology`, also on failure. */
static status wrap_topology(pjrt_plugin *p, pj_topology *topology, pjrt_topology **out)
{
    const pj_api *api = p->api;
    status st = ST_OK;
    pjrt_topology *t = mem_calloc(1, sizeof *t);
    if (!t) {
        PJ_ARGS(pj_topology_args, a);
        a.topology = topology;
        pj_drop(api, api->topology_destroy(&a));
        return err_nomem();
    }
    t->plugin = p;
    t->api = api;
    t->topology = topology;
    PJ_ARGS(pj_topology_devices_args, d);
    d.topology = topology;
    TRY_OUT(pj_check(api, api->topology_devices(&d), "devices of the topology"));
    t->devices = d.descriptions;
    t->n_devices = (int)d.n;
    PJ_ARGS(pj_topology_text_args, name);
    name.topology = topology;
    TRY_OUT(pj_check(api, api->topology_platform_name(&name), "platform name"));
    PJ_ARGS(pj_topology_text_args, version);
    version.topology = topology;
    TRY_OUT(pj_check(api, api->topology_platform_version(&version), "platform version"));
    t->platform = mem_strndup(name.text ? name.text : "", name.len);
    t->version = mem_strndup(version.text ? version.text : "", version.len);
    if (!t->platform || !t->version) st = err_nomem();
out:
    if (st != ST_OK) pjrt_topology_close(t);
    else *out = t;
    return st;
}

status pjrt_topology_open(pjrt_plugin *p, const char *name, const pjrt_value *options, size_t n_options, pjrt_topology **out)
{
    pj_named_value *values;
    TRY(pj_named_values(options, n_options, &values));
    PJ_ARGS(pj_topology_create_args, a);
    a.name = name;
    a.name_len = strlen(name);
    a.options = values;
    a.n_options = n_options;
    status st = pj_check(p->api, p->api->topology_create(&a), "topology %s", name);
    mem_free(values);
    return st == ST_OK ? wrap_topology(p, a.topology, out) : st;
}

status pjrt_topology_read(pjrt_plugin *p, const void *bytes, size_t len, pjrt_topology **out)
{
    if (!PJ_HAS(p->api, topology_deserialize)) return err_set(ST_UNSUPPORTED, "%s: its PJRT API 0.%d is too old to read topologies", p->path, p->api->version.minor);
    PJ_ARGS(pj_topology_deserialize_args, a);
    a.bytes = bytes;
    a.len = len;
    TRY(pj_check(p->api, p->api->topology_deserialize(&a), "read a topology"));
    return wrap_topology(p, a.topology, out);
}

int pjrt_topology_n_devices(const pjrt_topology *t) { return t->n_devices; }
const char *pjrt_topology_platform(const pjrt_topology *t) { return t->platform; }
const char *pjrt_topology_version(const pjrt_topology *t) { return t->version; }

status pjrt_topology_device(const pjrt_topology *t, int i, pjrt_device_info *out)
{
    if (i < 0 || i >= t->n_devices) return err_set(ST_INVALID, "device %d: 0 to %d exist", i, t->n_devices - 1);
    return pj_describe(t->api, t->devices[i], out);
}

status pjrt_topology_target(const pjrt_topology *t, pjrt_target_info *out)
{
    return target_of(t->plugin, t->devices, t->n_devices, t->platform, t->version, out);
}

status pjrt_topology_write(const pjrt_topology *t, buf *out) { return write_topology(t->plugin, t->topology, out); }
