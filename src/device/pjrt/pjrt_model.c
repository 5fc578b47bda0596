/* A model on PJRT devices: its programs and its cache. */
#include "device/pjrt/pjrt_model.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

/* ---- programs ---- */

static status compile_here(pjrt_model *m, const pjrt_source *src, const pjrt_compile_options *o, pjrt_stats *stats, pjrt_program **out)
{
    TRY(pjrt_compile(m->dev->client, src, o, out));
    *stats = *pjrt_program_stats(*out);
    m->n_compiled++;
    return ST_OK;
}

/* In the child, or from the cache; ST_UNSUPPORTED where executables cannot leave the process that made them. */
static status compile_apart(pjrt_model *m, const pjrt_source *src, const pjrt_compile_options *o, pjrt_stats *stats, pjrt_program **out)
{
    buf executable = {0};
    bool cached = false;
    status st = pjrt_compiler_get(m->dev->compiler, m->dev->cache, src, o, &executable, stats, &cached);
    if (st == ST_OK) st = pjrt_program_load(m->dev->client, executable.data, executable.len, src->name, out);
    if (st == ST_OK && cached) m->n_cached++;
    if (st == ST_OK && !cached) m->n_compiled++;
    buf_free(&executable);
    return st;
}

static void check_temporaries(const pjrt_model *m, const program_spec *spec, const pjrt_stats *s)
{
    if (m->n_blocks > 0 && program_copies_cache(&m->c, &spec->bucket, s))
        log_warn("program %s keeps %.1f MiB of temporaries, more than one layer's KV cache (%.1f MiB): the cache may be copied in every step", spec->name,
                 (double)s->temp_bytes / 1048576, (double)program_layer_cache_bytes(&m->c) / 1048576);
}

/* What cannot be compiled apart may compile here; only then is the child of no use. */
static status compile_anywhere(pjrt_model *m, const pjrt_source *src, pjrt_stats *stats, pjrt_program **out)
{
    pjrt_compile_options o;
    program_options(m->c.plan->g, m->dev->target.device.kind, &o);
    if (!m->dev->compiler) return compile_here(m, src, &o, stats, out);
    status st = compile_apart(m, src, &o, stats, out);
    if (st != ST_UNSUPPORTED) return st;
    log_debug("compiling in this process: %s", err_msg());
    TRY(compile_here(m, src, &o, stats, out));
    pjrt_compiler_close(m->dev->compiler);
    m->dev->compiler = NULL;
    return ST_OK;
}

status pjrt_model_compile(pjrt_model *m, const pjrt_source *src, pjrt_stats *stats, pjrt_program **out)
{
    pthread_mutex_lock(&m->dev->compiling);
    status st = compile_anywhere(m, src, stats, out);
    pthread_mutex_unlock(&m->dev->compiling);
    return st;
}

static status make_program(pjrt_model *m, const program_spec *spec, pjrt_program **out)
{
    pjrt_stats stats = { .temp_bytes = -1 };
    buf text = {0};
    status st = program_text(&m->c, spec, &text);
    if (st == ST_OK) st = pjrt_model_compile(m, &(pjrt_source){ spec->name, text.data, text.len }, &stats, out);
    if (st == ST_OK && !spec->sampler) check_temporaries(m, spec, &stats);
    buf_free(&text);
    return st;
}

status pjrt_model_step_program(pjrt_model *m, int bucket, pjrt_program **out)
{
    loaded_program *l = &m->steps[bucket];
    if (!l->p) {
        program_step_spec(&m->c, bucket, &l->spec);
        TRY(make_program(m, &l->spec, &l->p));
    }
    *out = l->p;
    return ST_OK;
}

static bool in_flight(const pjrt_model *m, const pjrt_program *sampler)
{
    for (int i = 0; i < STEP_DEPTH; i++)
        if (m->flights[i].b && m->flights[i].sampler == sampler) return true;
    return false;
}

/* The one that was made first and does not run; should it be needed again, it comes back from the cache. */
static void drop_sampler(pjrt_model *m)
{
    int i = 0;
    while (in_flight(m, m->samplers[i].p)) i++;
    pjrt_program_free(m->samplers[i].p);
    m->n_samplers--;
    memmove(m->samplers + i, m->samplers + i + 1, (size_t)(m->n_samplers - i) * sizeof *m->samplers);
}

status pjrt_model_sampler(pjrt_model *m, const sampler_kind *k, pjrt_program **out)
{
    for (int i = 0; i < m->n_samplers; i++) {
        const sampler_kind *x = &m->samplers[i].spec.kind;
        if (x->rows != k->rows || x->random != k->random || x->cut != k->cut || x->mask != k->mask || x->edits != k->edits || x->history != k->history) continue;
        *out = m->samplers[i].p;
        return ST_OK;
    }
    if (m->n_samplers == MAX_SAMPLERS) drop_sampler(m);
    loaded_program *l = &m->samplers[m->n_samplers];
    program_sampler_spec(k, &l->spec);
    TRY(make_program(m, &l->spec, &l->p));
    m->n_samplers++;
    *out = l->p;
    return ST_OK;
}

/* All buckets and the usual samplers, before the server says that it is ready; of a language model once its cache is there. */
static status warm_up(pjrt_model *m)
{
    sampler_kind usual[MAX_USUAL];
    pjrt_program *p;
    int n = program_usual_samplers(&m->c, usual, MAX_USUAL), total = m->c.buckets.n + n;
    double start = clock_now(), said = start;
    for (int i = 0; i < total; i++) {
        if (i < m->c.buckets.n) TRY(pjrt_model_step_program(m, i, &p));
        else TRY(pjrt_model_sampler(m, &usual[i - m->c.buckets.n], &p));
        if (clock_now() - said < 5) continue;
        said = clock_now();
        log_info("Compiling programs: %d of %d (%d from the cache), %.0f s", i + 1, total, m->n_cached, said - start);
    }
    log_info("%d programs ready in %.2f seconds: %d compiled, %d from the cache %s", total, clock_now() - start, m->n_compiled, m->n_cached,
             m->dev->cache ? pjrt_cache_dir(m->dev->cache) : "(none)");
    return ST_OK;
}

/* ---- the cache ---- */

static void free_caches(pjrt_model *m)
{
    for (int i = 0; i < m->n_devices * m->c.plan->n_caches; i++) {
        pjrt_buffer_free(m->dev->client, m->caches[i]);
        m->caches[i] = NULL;
    }
}

static void free_steps(pjrt_model *m)
{
    for (int i = 0; i < MAX_BUCKETS; i++) {
        pjrt_program_free(m->steps[i].p);
        m->steps[i].p = NULL;
    }
}

static void free_samplers(pjrt_model *m)
{
    for (int i = 0; i < m->n_samplers; i++) pjrt_program_free(m->samplers[i].p);
    m->n_samplers = 0;
}

static status make_caches(pjrt_model *m)
{
    pjrt_buffer *made[PJRT_MAX_DEVICES];
    for (int c = 0; c < m->c.plan->n_caches; c++) {
        const lower_cache *x = &m->c.plan->caches[c];
        int64_t dim[4];
        lower_cache_dims(x, m->c.lower.n_pages, m->c.lower.page, dim);
        status st = pjrt_zeros(m->dev->client, m->n_devices, x->kv.type, dim, 4, made);
        if (st != ST_OK) return err_wrap(st, "KV cache of %d blocks", m->n_blocks);
        for (int d = 0; d < m->n_devices; d++) m->caches[d * m->c.plan->n_caches + c] = made[d];
    }
    return ST_OK;
}

static status pjrt_kv_resize(device_model *dm, int32_t n_blocks)
{
    pjrt_model *m = (pjrt_model *)(void *)dm;
    if (n_blocks < 1 || (int64_t)n_blocks * m->c.limits.block_size > INT32_MAX) return err_set(ST_INVALID, "a KV cache of %d blocks", n_blocks);
    TRY(lower_check(m->c.plan, n_blocks));
    pjrt_model_drain(m);
    free_caches(m);
    if (n_blocks != m->n_blocks) free_steps(m); /* the cache's size is part of their text */
    m->n_blocks = m->c.lower.n_pages = n_blocks;
    status st = make_caches(m);
    if (st != ST_OK) {
        free_caches(m);
        m->n_blocks = 0;
        return st;
    }
    return m->dev->lazy ? ST_OK : warm_up(m);
}

static int64_t pjrt_kv_block_bytes(const device_model *dm) { return program_page_bytes(&((const pjrt_model *)(const void *)dm)->c); }
static void pjrt_kv_layout(const device_model *dm, kv_layout *out) { *out = ((const pjrt_model *)(const void *)dm)->c.plan->groups; }
static int64_t pjrt_weight_bytes(const device_model *dm) { return ((const pjrt_model *)(const void *)dm)->weight_bytes; }

static int64_t pjrt_step_bytes(const device_model *dm) { return program_step_bytes(&((const pjrt_model *)(const void *)dm)->c); }

static int64_t pjrt_kv_bytes(const device_model *dm, double utilization)
{
    const pjrt_model *m = (const pjrt_model *)(const void *)dm;
    int64_t memory = m->dev->target.device.memory_bytes;
    if (memory <= 0) return 0;
    int64_t bytes = program_kv_bytes(&m->c, memory, utilization);
    return bytes > 0 ? bytes : 1;
}

/* One block is one page of every place of every cache of every device: copied by way of the whole cache, which only tests and
 * offloading do. Steps in flight come first: the cache is what the last one makes of it. */
static status kv_copy(pjrt_model *m, int32_t block, char *dst, const char *src)
{
    if (block < 0 || block >= m->n_blocks) return err_set(ST_INVALID, "KV block %d, expected 0 to %d", block, m->n_blocks - 1);
    if (m->n_devices > 1) return err_set(ST_UNSUPPORTED, "copying KV blocks of %d devices", m->n_devices);
    for (int c = 0; c < m->c.plan->n_caches; c++) {
        const lower_cache *x = &m->c.plan->caches[c];
        int64_t dim[4];
        lower_cache_dims(x, m->n_blocks, m->c.lower.page, dim);
        size_t page = dtype_bytes(x->kv.type, (size_t)(dim[1] * dim[2] * dim[3])), all = page * (size_t)dim[0];
        char *host = mem_alloc(all);
        if (!host) return err_nomem();
        status st = pjrt_download_now(m->dev->client, m->caches[c], host, all);
        for (int l = 0; l < x->n_places && st == ST_OK; l++) {
            char *at = host + ((size_t)l * (size_t)m->n_blocks + (size_t)block) * page;
            if (dst) memcpy(dst, at, page);
            else memcpy(at, src, page);
            if (dst) dst += page;
            else src += page;
        }
        pjrt_buffer *made = NULL;
        if (st == ST_OK && src) st = pjrt_upload(m->dev->client, 0, x->kv.type, dim, 4, host, PJRT_HOLD_CALL, &made, NULL);
        mem_free(host);
        TRY(st);
        if (!made) continue;
        pjrt_buffer_free(m->dev->client, m->caches[c]);
        m->caches[c] = made;
    }
    return ST_OK;
}

static status pjrt_kv_read(device_model *m, int32_t block, void *dst) { return kv_copy((pjrt_model *)(void *)m, block, dst, NULL); }
static status pjrt_kv_write(device_model *m, int32_t block, const void *src) { return kv_copy((pjrt_model *)(void *)m, block, NULL, src); }

/* ---- loading ---- */

static void free_no_media(pjrt_model *m)
{
    for (int b = 0; b < MAX_BUCKETS; b++) {
        for (int i = 0; m->no_media[b] && i < m->n_devices * m->c.plan->n_inputs; i++) pjrt_buffer_free(m->dev->client, m->no_media[b][i]);
        mem_free(m->no_media[b]);
    }
}

static void pjrt_unload(device_model *dm)
{
    pjrt_model *m = (pjrt_model *)(void *)dm;
    pjrt_client *c = m->dev->client;
    pjrt_model_drain(m);
    free_steps(m);
    free_samplers(m);
    for (int i = 0; i < STEP_DEPTH; i++) pjrt_flight_free(m, &m->flights[i]);
    if (m->caches) free_caches(m);
    for (int i = 0; m->weights && i < m->n_devices * m->c.plan->n_weights; i++) pjrt_buffer_free(c, m->weights[i]);
    free_no_media(m);
    for (int i = 0; m->ring && i < m->n_devices; i++) pjrt_buffer_free(c, m->ring[i]);
    for (int i = 0; m->ranks && i < m->n_devices; i++) pjrt_buffer_free(c, m->ranks[i]);
    mem_free(m->weights);
    mem_free(m->caches);
    mem_free(m->ring);
    mem_free(m->ranks);
    mem_free(m->args);
    mem_free(m->outs);
    program_context_free(&m->c);
    mem_free(m);
}

static int64_t embedding_rows(const graph *g)
{
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        const node *n = graph_at(g, id);
        if (n->op == OP_EMBED && graph_node(g, n->in[1])->op == OP_WEIGHT) return graph_node(g, n->in[1])->a.weight.parts[0].total;
    }
    return 0;
}

static status allocate(pjrt_model *m)
{
    size_t d = (size_t)m->n_devices, n_inputs = (size_t)m->c.plan->n_inputs;
    size_t n_args = (size_t)(lower_n_leading(m->c.plan->g) + m->c.plan->n_caches + m->c.plan->n_weights) + n_inputs;
    if (n_args < SAMPLER_ARGS) n_args = SAMPLER_ARGS;
    m->weights = mem_calloc(d * (size_t)m->c.plan->n_weights, sizeof *m->weights);
    m->caches = mem_calloc(d * (size_t)m->c.plan->n_caches + 1, sizeof *m->caches);
    m->ring = mem_calloc(d, sizeof *m->ring);
    m->ranks = mem_calloc(d, sizeof *m->ranks);
    m->args = mem_calloc(d * n_args, sizeof *m->args);
    m->outs = mem_calloc(d * ((size_t)m->c.plan->n_caches + 2), sizeof *m->outs);
    if (!m->weights || !m->caches || !m->ring || !m->ranks || !m->args || !m->outs) return err_nomem();
    for (int i = 0; i < STEP_DEPTH; i++) {
        m->flights[i].uploads = mem_array(d * (STEP_UPLOADS + n_inputs), sizeof *m->flights[i].uploads);
        if (!m->flights[i].uploads) return err_nomem();
    }
    int tp = graph_mesh(m->c.plan->g).tp;
    for (int i = 0; i < m->n_devices && tp > 1; i++) {
        int32_t rank = i % tp;
        TRY(pjrt_upload(m->dev->client, i, DT_I32, NULL, 0, &rank, PJRT_HOLD_CALL, &m->ranks[i], NULL));
    }
    return pjrt_zeros(m->dev->client, m->n_devices, DT_I32, (int64_t[]){ (int64_t)m->c.lower.n_slots * BATCH_RING }, 1, m->ring);
}

/* Float inputs are rows for a step's tokens. */
static status check_inputs(const lower_plan *p)
{
    for (int i = 0; i < p->n_inputs; i++) {
        const node *n = graph_at(p->g, p->inputs[i]);
        if (n->s.rank != 2 || n->s.dim[0] != DIM_T) return err_set(ST_UNSUPPORTED, "the graph has a float input that is not one row per token: node %%%d", p->inputs[i]);
    }
    return ST_OK;
}

static status pjrt_load(device *dev, const graph *g, const weight_source *w, const device_limits *l,
                        void (*progress)(void *arg, int64_t done, int64_t total), void *arg, device_model **out)
{
    pjrt_device *d = (pjrt_device *)(void *)dev;
    mesh on = graph_mesh(g);
    int have = pjrt_client_n_devices(d->client), need = on.dp * on.tp;
    if (need > have) return err_set(ST_INVALID, "the model is cut for %d devices, %s has %d", need, d->name, have);
    if (on.dp > 1) return err_set(ST_UNSUPPORTED, "data parallel size %d: this device serves one batch at a time", on.dp);
    pjrt_model *m = mem_calloc(1, sizeof *m);
    if (!m) return err_nomem();
    m->base.cls = d->base.cls;
    m->dev = d;
    m->n_devices = need;
    m->n_ids = embedding_rows(g);
    status st = program_context_new(g, l, graph_activation_type(g), &m->c);
    if (st != ST_OK) {
        mem_free(m);
        return st;
    }
    if (strcmp(d->platform, "cpu") == 0) m->c.lower.kv_block = 1 << 20; /* its caches are small, and so are its loops' blocks best */
    st = check_inputs(m->c.plan);
    if (st == ST_OK) st = allocate(m);
    if (st == ST_OK) st = pjrt_weights_load(m, w, progress, arg);
    if (st == ST_OK && l->least_rows && !d->lazy) st = warm_up(m);  /* there is no cache to wait for */
    if (st == ST_OK) *out = &m->base;
    else pjrt_unload(&m->base);
    return st;
}

static int pjrt_depth(const device_model *m)
{
    (void)m;
    return STEP_DEPTH;
}

static int pjrt_n_slots(const device_model *dm) { return ((const pjrt_model *)(const void *)dm)->c.lower.n_slots; }

#define PJRT_CLASS(NAME, OPEN) \
    { .name = NAME, .open = OPEN, .close = pjrt_device_close, .describe = pjrt_device_describe, .load = pjrt_load, .unload = pjrt_unload, \
      .weight_bytes = pjrt_weight_bytes, .kv_block_bytes = pjrt_kv_block_bytes, .kv_layout = pjrt_kv_layout, .kv_bytes = pjrt_kv_bytes, .step_bytes = pjrt_step_bytes, .kv_resize = pjrt_kv_resize, \
      .kv_read = pjrt_kv_read, .kv_write = pjrt_kv_write, .run = pjrt_model_run, .depth = pjrt_depth, .n_slots = pjrt_n_slots, \
      .submit = pjrt_model_submit, .wait = pjrt_model_wait }
const device_class device_tpu = PJRT_CLASS("tpu", pjrt_device_open_tpu);
const device_class device_cuda = PJRT_CLASS("cuda", pjrt_device_open_cuda);
const device_class device_pjrt = PJRT_CLASS("pjrt", pjrt_device_open_path);
