/* Programs: compile, load, serialise, what the compiler says of them, execute. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "device/pjrt/hlo_cost.h"
#include "device/pjrt/internal.h"

typedef struct output_info { dtype type; size_t rank; const int64_t *dims; } output_info;

struct pjrt_program {
    pjrt_client *client;            /* borrowed */
    const pj_api *api;
    pj_loaded *loaded;
    pj_executable *executable;      /* owns what `outputs` points to */
    int n_devices;
    int devices[PJRT_MAX_DEVICES];  /* indices among the client's */
    size_t n_outputs;
    output_info *outputs;
    pjrt_stats stats;
};

/* ---- what the compiler says ---- */
static double cost(const pj_executable_cost_args *a, const char *name)
{
    for (size_t i = 0; i < a->n; i++) {
        const pj_named_value *v = &a->properties[i];
        if (v->type == PJ_FLOAT && v->name_len == strlen(name) && !memcmp(v->name, name, v->name_len)) return (double)v->v.f32;
    }
    return -1;
}

/* Asks twice, for the size and for the bytes. What a plugin does not tell, and what cannot be read, stays -1. */
static void read_optimized(const pj_api *api, pj_executable *x, const pjrt_source *src, pjrt_stats *s)
{
    s->cycles = s->start_cycles = s->product_flops = s->product_flops_once = s->operations = -1;
    s->open_loops = s->unknown_kernels = s->bundles = -1;
    s->read = 1;
    if (!PJ_HAS(api, executable_optimized)) return;
    PJ_ARGS(pj_program, p);
    PJ_ARGS(pj_executable_optimized_args, a);
    a.executable = x;
    a.program = &p;
    pj_error *e = api->executable_optimized(&a);
    p.code = !e && p.code_len > 0 && p.code_len <= HLO_MAX_BYTES ? mem_alloc(p.code_len) : NULL;
    if (p.code) e = api->executable_optimized(&a);
    const bool config = p.format_len == 15 && !memcmp(p.format, "hlo_with_config", 15), plain = p.format_len == 3 && !memcmp(p.format, "hlo", 3);
    hlo_cost c;
    if (p.code && !e && (config || plain) && hlo_cost_read(p.code, p.code_len, config, src->code, src->len, &c) == ST_OK) {
        s->cycles = c.cycles;
        s->start_cycles = c.start_cycles;
        s->product_flops = c.flops;
        s->product_flops_once = c.flops_once;
        s->operations = c.operations;
        s->open_loops = c.n_open;
        s->unknown_kernels = c.n_unknown;
        s->bundles = c.bundles;
    }
    pj_drop(api, e);
    mem_free(p.code);
}

/* None of this is essential: what a plugin does not have stays -1. */
static void read_stats(const pj_api *api, pj_executable *x, pjrt_stats *s)
{
    s->flops = s->bytes = s->optimal_s = -1;
    s->argument_bytes = s->output_bytes = s->alias_bytes = s->temp_bytes = s->code_bytes = s->peak_bytes = -1;
    s->cycles = s->start_cycles = s->product_flops = s->product_flops_once = s->operations = -1;
    s->open_loops = s->unknown_kernels = s->bundles = s->read = -1;
    PJ_ARGS(pj_executable_cost_args, c);
    c.executable = x;
    pj_error *e = api->executable_cost(&c);
    if (!e) {
        s->flops = cost(&c, "flops");
        s->bytes = cost(&c, "bytes accessed");
        s->optimal_s = cost(&c, "optimal_seconds");
    }
    pj_drop(api, e);
    PJ_ARGS(pj_executable_memory_args, m);
    m.executable = x;
    e = api->executable_memory(&m);
    if (!e) {
        s->argument_bytes = m.argument;
        s->output_bytes = m.output;
        s->alias_bytes = m.alias;
        s->temp_bytes = m.temp;
        if (m.code > 0) s->code_bytes = m.code;     /* XLA:CPU counts none */
        if (m.peak > 0) s->peak_bytes = m.peak;
    }
    pj_drop(api, e);
    PJ_ARGS(pj_executable_code_args, code);
    code.executable = x;
    e = api->executable_code(&code);
    if (!e && code.bytes > 0) s->code_bytes = code.bytes;
    pj_drop(api, e);
}

static status read_outputs(pjrt_program *p, const char *name)
{
    const pj_api *api = p->api;
    PJ_ARGS(pj_executable_types_args, t);
    t.executable = p->executable;
    TRY(pj_check(api, api->executable_types(&t), "%s: element types of the outputs", name));
    PJ_ARGS(pj_executable_dims_args, d);
    d.executable = p->executable;
    TRY(pj_check(api, api->executable_dims(&d), "%s: dimensions of the outputs", name));
    if (t.n != d.n) return err_set(ST_INTERNAL, "%s: the plugin tells %zu element types and %zu shapes of the outputs", name, t.n, d.n);
    p->outputs = mem_calloc(t.n ? t.n : 1, sizeof *p->outputs);
    if (!p->outputs) return err_nomem();
    p->n_outputs = t.n;
    const int64_t *dims = d.dims;
    for (size_t i = 0; i < t.n; i++) {
        p->outputs[i] = (output_info){ pj_dtype(t.types[i]), d.ranks[i], dims };
        dims += d.ranks[i];
    }
    return ST_OK;
}

static status read_devices(pjrt_program *p, const char *name)
{
    PJ_ARGS(pj_loaded_devices_args, a);
    a.loaded = p->loaded;
    TRY(pj_check(p->api, p->api->loaded_devices(&a), "%s: devices of the program", name));
    if (a.n == 0 || a.n > PJRT_MAX_DEVICES) return err_set(ST_UNSUPPORTED, "%s: runs on %zu devices of this host, 1 to %d are supported", name, a.n, PJRT_MAX_DEVICES);
    for (size_t i = 0; i < a.n; i++) {
        p->devices[i] = -1;
        for (int k = 0; k < p->client->n_devices; k++)
            if (p->client->devices[k] == a.devices[i]) p->devices[i] = k;
    }
    p->n_devices = (int)a.n;
    return ST_OK;
}

/* Takes over `loaded`, also on failure. */
static status wrap(pjrt_client *c, pj_loaded *loaded, const char *name, double compile_s, pjrt_program **out)
{
    const pj_api *api = c->api;
    pjrt_program *p = mem_calloc(1, sizeof *p);
    if (!p) {
        PJ_ARGS(pj_loaded_args, a);
        a.loaded = loaded;
        pj_drop(api, api->loaded_destroy(&a));
        return err_nomem();
    }
    p->client = c;
    p->api = api;
    p->loaded = loaded;
    status st = ST_OK;
    PJ_ARGS(pj_loaded_executable_args, a);
    a.loaded = loaded;
    TRY_OUT(pj_check(api, api->loaded_executable(&a), "%s: executable", name));
    p->executable = a.executable;
    TRY_OUT(read_outputs(p, name));
    TRY_OUT(read_devices(p, name));
    read_stats(api, p->executable, &p->stats);
    p->stats.compile_s = compile_s;
    *out = p;
out:
    if (st != ST_OK) pjrt_program_free(p);
    return st;
}

/* ---- compiling ---- */
static pj_program program_of(const pjrt_source *src)
{
    pj_program r;
    memset(&r, 0, sizeof r);
    r.struct_size = sizeof r;
    union { const char *in; char *plugin; } code = { .in = src->code };     /* in or out by use; compiling does not write it */
    r.code = code.plugin;
    r.code_len = src->len;
    r.format = "mlir";
    r.format_len = 4;
    return r;
}

static status compile_loaded(pjrt_client *c, const pjrt_source *src, const char *options, size_t options_len, pjrt_program **out)
{
    pj_program program = program_of(src);
    PJ_ARGS(pj_client_compile_args, a);
    a.client = c->client;
    a.program = &program;
    a.options = options;
    a.options_len = options_len;
    double t0 = clock_now();
    TRY(pj_check(c->api, c->api->client_compile(&a), "compile %s", src->name));
    return wrap(c, a.loaded, src->name, clock_now() - t0, out);
}

status pjrt_compile(pjrt_client *c, const pjrt_source *src, const pjrt_compile_options *o, pjrt_program **out)
{
    buf options = {0};
    status st = pjrt_options_encode(o, &options);
    if (st == ST_OK) st = compile_loaded(c, src, options.data, options.len, out);
    buf_free(&options);
    return st;
}

static status serialize(const pj_api *api, pj_executable *x, const char *name, buf *out)
{
    PJ_ARGS(pj_executable_serialize_args, a);
    a.executable = x;
    TRY(pj_check(api, api->executable_serialize(&a), "serialise %s", name));
    buf_append(out, a.bytes, a.len);
    if (a.free_holder) a.free_holder(a.holder);
    return buf_status(out);
}

static status compile_offline(pjrt_topology *t, const pjrt_source *src, const char *options, size_t options_len, buf *executable, pjrt_stats *stats)
{
    const pj_api *api = t->api;
    pj_program program = program_of(src);
    PJ_ARGS(pj_compile_args, a);
    a.topology = t->topology;
    a.program = &program;
    a.options = options;
    a.options_len = options_len;
    double t0 = clock_now();
    TRY(pj_check(api, api->compile(&a), "compile %s", src->name));
    double compile_s = clock_now() - t0;
    status st = serialize(api, a.executable, src->name, executable);
    if (st == ST_OK && stats) {
        read_stats(api, a.executable, stats);
        read_optimized(api, a.executable, src, stats);
        stats->compile_s = compile_s;
    }
    PJ_ARGS(pj_executable_args, d);
    d.executable = a.executable;
    pj_drop(api, api->executable_destroy(&d));
    return st;
}

status pj_compile_encoded(pjrt_topology *t, pjrt_client *c, const pjrt_source *src, const char *options, size_t options_len, buf *executable, pjrt_stats *stats)
{
    if (t) return compile_offline(t, src, options, options_len, executable, stats);
    pjrt_program *p;
    TRY(compile_loaded(c, src, options, options_len, &p));
    status st = serialize(p->api, p->executable, src->name, executable);
    if (st == ST_OK && stats) *stats = p->stats;
    pjrt_program_free(p);
    return st;
}

status pjrt_compile_for(pjrt_topology *t, const pjrt_source *src, const pjrt_compile_options *o, buf *executable, pjrt_stats *stats)
{
    buf options = {0};
    status st = pjrt_options_encode(o, &options);
    if (st == ST_OK) st = compile_offline(t, src, options.data, options.len, executable, stats);
    buf_free(&options);
    return st;
}

status pjrt_program_serialize(const pjrt_program *p, buf *executable) { return serialize(p->api, p->executable, "a program", executable); }

status pjrt_program_load(pjrt_client *c, const void *executable, size_t len, const char *name, pjrt_program **out)
{
    PJ_ARGS(pj_deserialize_args, a);
    a.client = c->client;
    a.bytes = executable;
    a.len = len;
    TRY(pj_check(c->api, c->api->deserialize(&a), "load %s", name));
    return wrap(c, a.loaded, name, 0, out);
}

void pjrt_program_free(pjrt_program *p)
{
    if (!p) return;
    if (p->executable) {
        PJ_ARGS(pj_executable_args, x);
        x.executable = p->executable;
        pj_drop(p->api, p->api->executable_destroy(&x));
    }
    PJ_ARGS(pj_loaded_args, l);
    l.loaded = p->loaded;
    pj_drop(p->api, p->api->loaded_destroy(&l));
    mem_free(p->outputs);
    mem_free(p);
}

const pjrt_stats *pjrt_program_stats(const pjrt_program *p) { return &p->stats; }
int pjrt_program_n_devices(const pjrt_program *p) { return p->n_devices; }
int pjrt_program_device(const pjrt_program *p, int i) { return i >= 0 && i < p->n_devices ? p->devices[i] : -1; }
size_t pjrt_program_n_outputs(const pjrt_program *p) { return p->n_outputs; }

dtype pjrt_program_output(const pjrt_program *p, size_t i, const int64_t **dims, size_t *rank)
{
    if (i >= p->n_outputs) {
        *dims = NULL;
        *rank = 0;
        return DT_COUNT;
    }
    *dims = p->outputs[i].dims;
    *rank = p->outputs[i].rank;
    return p->outputs[i].type;
}

/* ---- executing ---- */
status pjrt_execute(pjrt_program *p, pjrt_buffer *const *args, size_t n_args, const int64_t *keep, size_t n_keep, pjrt_buffer **outs, pjrt_event **done)
{
    /* pjrt_buffer and pjrt_event are the plugin's types under another name; the API wants rows of pointers. */
    pj_buffer *const *rows[PJRT_MAX_DEVICES];
    pj_buffer **out_rows[PJRT_MAX_DEVICES];
    for (int d = 0; d < p->n_devices; d++) {
        rows[d] = (pj_buffer *const *)args + (size_t)d * n_args;
        out_rows[d] = (pj_buffer **)outs + (size_t)d * p->n_outputs;
    }
    pj_execute_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.keep = keep;
    options.n_keep = n_keep;
    PJ_ARGS(pj_execute_args, a);
    a.loaded = p->loaded;
    a.options = &options;
    a.args = rows;
    a.n_devices = (size_t)p->n_devices;
    a.n_args = n_args;
    a.outputs = out_rows;
    a.done = (pj_event **)done;
    return pj_check(p->api, p->api->execute(&a), "execute");
}
