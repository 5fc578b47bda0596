/* Buffers and events. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "device/pjrt/cache.h"
#include "device/pjrt/internal.h"

/* pjrt_buffer and pjrt_event are the plugin's objects under our names: no wrapper to allocate in a step. */
static pj_buffer *in(pjrt_buffer *b) { return (pj_buffer *)b; }

/* ---- events ---- */
void pjrt_event_free(pjrt_client *c, pjrt_event *e)
{
    if (!e) return;
    PJ_ARGS(pj_event_args, a);
    a.event = (pj_event *)e;
    pj_drop(c->api, c->api->event_destroy(&a));
}

status pjrt_event_wait(pjrt_client *c, pjrt_event *e)
{
    if (!e) return ST_OK;
    PJ_ARGS(pj_event_args, a);
    a.event = (pj_event *)e;
    status st = pj_check(c->api, c->api->event_await(&a), "the device failed");
    pjrt_event_free(c, e);
    return st;
}

status pjrt_event_done(pjrt_client *c, pjrt_event *e, bool *out)
{
    PJ_ARGS(pj_event_ready_args, a);
    a.event = (pj_event *)e;
    TRY(pj_check(c->api, c->api->event_ready(&a), "state of an event"));
    *out = a.ready;
    return ST_OK;
}

/* ---- buffers ---- */
void pjrt_buffer_free(pjrt_client *c, pjrt_buffer *b)
{
    if (!b) return;
    PJ_ARGS(pj_buffer_args, a);
    a.buffer = in(b);
    pj_drop(c->api, c->api->buffer_destroy(&a));
}

static status check_shape(dtype type, const int64_t *dims, size_t rank)
{
    if (pj_type_of(type) == PJ_INVALID) return err_set(ST_UNSUPPORTED, "element type %d has no counterpart in PJRT", (int)type);
    if (rank > PJRT_MAX_RANK) return err_set(ST_INVALID, "rank %zu: at most %d is supported", rank, PJRT_MAX_RANK);
    for (size_t i = 0; i < rank; i++)
        if (dims[i] < 0) return err_set(ST_INVALID, "dimension %zu is %lld", i, (long long)dims[i]);
    return ST_OK;
}

status pjrt_upload(pjrt_client *c, int device, dtype type, const int64_t *dims, size_t rank, const void *data, pjrt_hold hold,
                   pjrt_buffer **out, pjrt_event **host_done)
{
    static const pj_host_semantics semantics[] = { PJ_ONLY_DURING_CALL, PJ_UNTIL_TRANSFER_COMPLETES, PJ_ZERO_COPY };
    if (device < 0 || device >= c->n_devices) return err_set(ST_INVALID, "upload to device %d: 0 to %d exist", device, c->n_devices - 1);
    TRY(check_shape(type, dims, rank));
    PJ_ARGS(pj_upload_args, a);
    a.client = c->client;
    a.data = data;
    a.type = pj_type_of(type);
    a.dims = dims;
    a.n_dims = rank;
    a.semantics = semantics[hold];
    a.device = c->devices[device];
    TRY(pj_check(c->api, c->api->client_upload(&a), "upload %s[rank %zu] to device %d", pjrt_type_name(type), rank, device));
    pjrt_event *done = (pjrt_event *)a.host_done;
    if (!host_done || hold == PJRT_HOLD_CALL) {     /* with HOLD_CALL the event says nothing that the return does not */
        status st = hold == PJRT_HOLD_DONE ? pjrt_event_wait(c, done) : ST_OK;
        if (hold != PJRT_HOLD_DONE) pjrt_event_free(c, done);
        if (st != ST_OK) {
            pjrt_buffer_free(c, (pjrt_buffer *)a.buffer);
            return st;
        }
        done = NULL;
    }
    if (host_done) *host_done = done;
    *out = (pjrt_buffer *)a.buffer;
    return ST_OK;
}

/* Compiles and keeps it; that it cannot be kept costs the next start some time. */
static status compile_and_keep(pjrt_client *c, const char *key, const pjrt_source *src, const pjrt_compile_options *o, pjrt_program **out)
{
    buf executable = {0};
    pjrt_program *p;
    TRY(pjrt_compile(c, src, o, &p));
    status st = pjrt_program_serialize(p, &executable);
    if (st == ST_OK) st = pjrt_cache_put(c->cache, key, executable.data, executable.len, pjrt_program_stats(p));
    buf_free(&executable);
    if (st == ST_NOMEM) {
        pjrt_program_free(p);
        return st;
    }
    if (st != ST_OK) log_warn("%s is not cached: %s", src->name, err_msg());
    *out = p;
    return ST_OK;
}

static status own_program(pjrt_client *c, const pjrt_source *src, const pjrt_compile_options *o, pjrt_program **out)
{
    pjrt_target_info info;
    char key[PJRT_KEY_LEN];
    buf executable = {0};
    bool found = false;
    if (!c->cache) return pjrt_compile(c, src, o, out);
    TRY(pjrt_client_target(c, &info));
    TRY(pjrt_cache_key(&(pjrt_key){ info.platform, info.version, info.topology, src->code, src->len, o }, key));
    status st = pjrt_cache_get(c->cache, key, &executable, NULL, &found);
    if (st == ST_OK && found) st = pjrt_program_load(c, executable.data, executable.len, src->name, out);
    buf_free(&executable);
    return found || st != ST_OK ? st : compile_and_keep(c, key, src, o, out);
}

static status run_zeros(pjrt_client *c, int n_devices, const pjrt_source *src, pjrt_buffer **outs)
{
    pjrt_device_info info;
    int ids[PJRT_MAX_DEVICES];
    for (int i = 0; i < n_devices; i++) {
        TRY(pjrt_client_device(c, i, &info));
        ids[i] = info.id;
    }
    pjrt_program *p;
    TRY(own_program(c, src, &(pjrt_compile_options){ .n_partitions = n_devices, .device_ids = ids }, &p));
    status st = pjrt_execute(p, NULL, 0, NULL, 0, outs, NULL);
    pjrt_program_free(p);
    return st;
}

status pjrt_zeros(pjrt_client *c, int n_devices, dtype type, const int64_t *dims, size_t rank, pjrt_buffer **outs)
{
    if (n_devices < 1 || n_devices > c->n_devices) return err_set(ST_INVALID, "zeros on %d devices: 1 to %d exist", n_devices, c->n_devices);
    TRY(check_shape(type, dims, rank));
    const char *name = pjrt_type_name(type);
    bool is_float = type == DT_F32 || type == DT_BF16 || type == DT_F16 || type == DT_F64 || type == DT_F8E4M3 || type == DT_F8E5M2;
    if (type == DT_F8E8M0 || type == DT_F4E2M1) return err_set(ST_UNSUPPORTED, "zeros of type %s: upload them", name);
    /* A broadcast in the program, so that neither host memory nor the executable holds them. */
    buf shape = {0}, code = {0};
    buf_str(&shape, "tensor<");
    for (size_t i = 0; i < rank; i++) buf_printf(&shape, "%lldx", (long long)dims[i]);
    buf_printf(&shape, "%s>", name);
    buf_printf(&code, "module @zeros { func.func public @main() -> %s { %%0 = stablehlo.constant dense<%s> : tensor<%s> %%1 = stablehlo.broadcast_in_dim %%0, dims = [] : (tensor<%s>) -> %s return %%1 : %s } }",
               buf_cstr(&shape), is_float ? "0.0" : type == DT_BOOL ? "false" : "0", name, name, buf_cstr(&shape), buf_cstr(&shape));
    status st = shape.failed ? buf_status(&shape) : buf_status(&code);
    if (st == ST_OK) st = run_zeros(c, n_devices, &(pjrt_source){ "zeros", code.data, code.len }, outs);
    buf_free(&shape);
    buf_free(&code);
    return st;
}

status pjrt_buffer_shape(pjrt_client *c, pjrt_buffer *b, dtype *type, int64_t dims[PJRT_MAX_RANK], size_t *rank)
{
    PJ_ARGS(pj_buffer_type_args, t);
    t.buffer = in(b);
    TRY(pj_check(c->api, c->api->buffer_type(&t), "element type of a buffer"));
    PJ_ARGS(pj_buffer_dims_args, d);
    d.buffer = in(b);
    TRY(pj_check(c->api, c->api->buffer_dims(&d), "dimensions of a buffer"));
    if (d.n > PJRT_MAX_RANK) return err_set(ST_UNSUPPORTED, "a buffer of rank %zu: at most %d is supported", d.n, PJRT_MAX_RANK);
    *type = pj_dtype(t.type);
    *rank = d.n;
    for (size_t i = 0; i < d.n; i++) dims[i] = d.dims[i];
    return ST_OK;
}

/* Bytes of the array on the host: 4-bit types take one byte per element there. */
static int64_t host_bytes(dtype type, const int64_t *dims, size_t rank)
{
    size_t bits = type == DT_I4 || type == DT_F4E2M1 ? 8 : dtype_bits(type);
    int64_t n = 1;
    for (size_t i = 0; i < rank; i++) n *= dims[i];
    return n * (int64_t)(bits / 8);
}

status pjrt_download(pjrt_client *c, pjrt_buffer *b, void *dst, size_t bytes, pjrt_event **done)
{
    dtype type;
    int64_t dims[PJRT_MAX_RANK], order[PJRT_MAX_RANK];
    size_t rank;
    TRY(pjrt_buffer_shape(c, b, &type, dims, &rank));
    if (type == DT_COUNT) return err_set(ST_UNSUPPORTED, "download: the buffer has an element type that Systolic does not know");
    if (host_bytes(type, dims, rank) != (int64_t)bytes)
        return err_set(ST_INVALID, "download: the buffer has %lld bytes, the destination %zu", (long long)host_bytes(type, dims, rank), bytes);
    /* Without a layout the device's own (possibly tiled, transposed) one would come out. */
    for (size_t i = 0; i < rank; i++) order[i] = (int64_t)(rank - 1 - i);
    pj_layout layout;
    memset(&layout, 0, sizeof layout);
    layout.struct_size = sizeof layout;
    layout.tiled.struct_size = sizeof layout.tiled;
    layout.tiled.minor_to_major = order;
    layout.tiled.n = rank;
    PJ_ARGS(pj_buffer_download_args, a);
    a.buffer = in(b);
    a.layout = &layout;
    a.dst = dst;
    a.bytes = bytes;
    TRY(pj_check(c->api, c->api->buffer_download(&a), "download"));
    *done = (pjrt_event *)a.event;
    return ST_OK;
}

status pjrt_download_now(pjrt_client *c, pjrt_buffer *b, void *dst, size_t bytes)
{
    pjrt_event *done;
    TRY(pjrt_download(c, b, dst, bytes, &done));
    return pjrt_event_wait(c, done);
}

status pjrt_buffer_bytes(pjrt_client *c, pjrt_buffer *b, size_t *out)
{
    PJ_ARGS(pj_buffer_size_args, a);
    a.buffer = in(b);
    TRY(pj_check(c->api, c->api->buffer_size(&a), "size of a buffer"));
    *out = a.bytes;
    return ST_OK;
}

status pjrt_buffer_ready(pjrt_client *c, pjrt_buffer *b, pjrt_event **done)
{
    PJ_ARGS(pj_buffer_event_args, a);
    a.buffer = in(b);
    TRY(pj_check(c->api, c->api->buffer_event(&a), "completion of a buffer"));
    *done = (pjrt_event *)a.event;
    return ST_OK;
}

status pjrt_buffer_deleted(pjrt_client *c, pjrt_buffer *b, bool *out)
{
    PJ_ARGS(pj_buffer_deleted_args, a);
    a.buffer = in(b);
    TRY(pj_check(c->api, c->api->buffer_deleted(&a), "state of a buffer"));
    *out = a.deleted;
    return ST_OK;
}

status pjrt_buffer_address(pjrt_client *c, pjrt_buffer *b, uintptr_t *out)
{
    if (!PJ_HAS(c->api, buffer_pointer)) return err_set(ST_UNSUPPORTED, "the plugin tells no addresses");
    PJ_ARGS(pj_buffer_pointer_args, a);
    a.buffer = in(b);
    TRY(pj_check(c->api, c->api->buffer_pointer(&a), "address of a buffer"));
    *out = a.pointer;
    return ST_OK;
}
