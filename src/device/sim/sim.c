/* Simulated chips: "sim:v6e-8". The scheduler, the KV blocks and the API above are the real ones; a step's batch is priced by its
 * operations (step_cost.h) instead of being computed, and takes that long in this device's own time. No weights are read: their
 * bytes are counted. KV blocks are as many as the chip's memory would hold.
 *
 * Tokens are a function of the request's seed and the place in its output, or for greedy requests of the place alone; logits, where
 * somebody wants to see them, are 0 but for that token. So runs repeat exactly.
 *
 * Time: speed s > 0 runs s simulated seconds in a real one, and device_wait sleeps until the step would be done: clients see simulated
 * latencies. Speed 0 is virtual: time stands still but for steps and device_advance.
 *
 * Threads: submit and wait from one thread, the time from any. */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "device/device_impl.h"
#include "device/sim/sim.h"

/* Steps cover each other's launch, as on the devices that are simulated. */
typedef struct flight { const batch *b; double end; } flight;

typedef struct sim_device {
    struct device base;
    sim_target target;
    char name[128];
    double real_start;          /* clock_now() at simulated time 1, of all its models */
    int n_devices;              /* that models are on: replicas lie beside each other */
    sim_refine *refine;         /* NULL: steps are priced by their operations alone */
    bool lazy;                  /* it is asked when a step first needs a program */
    sim_program_fn *tell; void *tell_arg;
} sim_device;

typedef struct sim_model {
    struct device_model base;
    sim_device *dev;
    program_context c;
    step_costs *costs;
    const step_kind *kinds; int n_kinds;
    double tiles[MAX_BUCKETS][STEP_MAX_KINDS];  /* step_costs_tile */
    refined_program *refined; bool asked[MAX_BUCKETS];  /* of each bucket; NULL: none */
    int64_t weight_bytes;
    int32_t n_blocks;
    flight flights[STEP_DEPTH];
    int first, n_flying;
    double last_end;            /* of the step submitted last */
    step_time spent; uint64_t n_steps;
    bool placed;                /* its devices are counted */
    _Atomic double virtual_now; /* speed 0 */
    _Atomic double oldest_end;  /* of the steps in flight; below 0: none */
} sim_model;

static sim_model *model_of(device_model *m) { return (sim_model *)(void *)m; }
static const sim_model *const_model_of(const device_model *m) { return (const sim_model *)(const void *)m; }

/* ---- time ---- */

static double sim_now(const device_model *dm)
{
    const sim_model *m = const_model_of(dm);
    const double speed = m->dev->target.speed;
    return speed > 0 ? 1 + (clock_now() - m->dev->real_start) * speed : atomic_load(&m->virtual_now);
}

static double sim_step_end(const device_model *dm) { return atomic_load(&const_model_of(dm)->oldest_end); }

static void sim_advance(device_model *dm, double t)
{
    sim_model *m = model_of(dm);
    const double speed = m->dev->target.speed;
    if (speed <= 0) {
        if (t > atomic_load(&m->virtual_now)) atomic_store(&m->virtual_now, t);
        return;
    }
    for (double left; (left = (t - sim_now(dm)) / speed) > 0;) {
        const double s = left < 3600 ? left : 3600;
        nanosleep(&(struct timespec){ .tv_sec = (time_t)s, .tv_nsec = (long)((s - floor(s)) * 1e9) }, NULL);
    }
}

/* ---- steps ---- */

static void load_of(const sim_model *m, const batch *b, const lower_bucket *bucket, step_load *out)
{
    const double *tile = m->tiles[bucket - m->c.buckets.v];
    *out = (step_load){ .tokens = bucket->tokens, .seqs = bucket->seqs, .rows = bucket->rows };
    for (int k = 0; k < m->n_kinds; k++)
        for (int s = 0; s < b->n_seqs; s++) {
            const int n = b->cu_q_lens[s + 1] - b->cu_q_lens[s];
            step_reach_add(&m->kinds[k], n, b->kv_lens[s], n == 1 ? 1 : tile[k], &out->reach[k]);
        }
}

/* The sampler reads logits, in the bucket's rows. */
static double sampler_time(const sim_model *m, const batch *b, const lower_bucket *bucket)
{
    const step_machine *on = &m->dev->target.machine;
    bool random = false, cut = false;
    for (int i = 0; i < b->n_rows; i++) {
        const sample_row *r = &b->samples[i];
        random = random || r->temperature > 0;
        cut = cut || (r->temperature > 0 && (r->top_k > 0 || r->top_p < 1 || r->min_p > 0));
    }
    chip_work w;
    step_sampler_work(bucket->rows, m->c.vocab, random, cut, &w);
    return b->n_rows > 0 ? w.bytes / (on->chip->hbm_bytes_per_s * on->k.hbm) : 0;
}

/* ---- what a compiler says of programs ---- */

static status refine(sim_model *m, int i)
{
    refined_program *p = &m->refined[i];
    if (m->asked[i]) return ST_OK;
    TRY(sim_refine_program(m->dev->refine, &m->c, i, m->costs, &m->dev->target.machine, p));
    m->asked[i] = true;
    if (m->dev->tell) m->dev->tell(m->dev->tell_arg, p, i, m->c.buckets.n);
    else if (p->known)
        log_info("Program %d of %d, %s: %s in %.1f s; beside attention, experts and links a step takes %.3f ms by %s, %.3f by its operations", i + 1, m->c.buckets.n, p->name,
                 p->cached ? "from the cache" : "compiled", p->seconds, p->refined_s * 1e3, sim_refine_compiler(m->dev->refine), p->model_s * 1e3);
    else
        log_warn("Program %d of %d, %s, is priced by its operations: %s", i + 1, m->c.buckets.n, p->name, p->why);
    return ST_OK;
}

/* Programs hold the number of KV blocks, so this is the moment. */
static status refine_all(sim_model *m)
{
    memset(m->asked, 0, sizeof m->asked);
    for (int i = 0; i < m->c.buckets.n && m->refined && !m->dev->lazy; i++) TRY(refine(m, i));
    return ST_OK;
}

int sim_refined(const device_model *dm, refined_program *out, int cap)
{
    const sim_model *m = const_model_of(dm);
    int n = 0;
    for (int i = 0; i < m->c.buckets.n && n < cap; i++)
        if (m->asked[i]) out[n++] = m->refined[i];
    return n;
}

void sim_on_program(device *d, sim_program_fn *fn, void *arg)
{
    sim_device *s = (sim_device *)(void *)d;
    s->tell = fn;
    s->tell_arg = arg;
}

const char *sim_refined_by(const device *d)
{
    const sim_device *s = (const sim_device *)(const void *)d;
    return s->refine ? sim_refine_compiler(s->refine) : NULL;
}

/* ---- running ---- */

static status time_of(sim_model *m, const batch *b, step_time *out)
{
    const int i = buckets_pick(&m->c.buckets, b);
    if (i < 0) return err_set(ST_INTERNAL, "a step of %d tokens and %d sequences fits no bucket", b->n_tokens, b->n_seqs);
    const lower_bucket *bucket = &m->c.buckets.v[i];
    step_load l;
    load_of(m, b, bucket, &l);
    if (m->refined) TRY(refine(m, i));
    if (m->refined && m->refined[i].known) step_costs_time_refined(m->costs, &l, &m->dev->target.machine, &m->refined[i].by, out);
    else step_costs_time(m->costs, &l, &m->dev->target.machine, out);
    const double sampling = sampler_time(m, b, bucket);
    out->memory += sampling;
    out->total += sampling;
    return ST_OK;
}

static void add_time(step_time *sum, const step_time *t)
{
    sum->compute += t->compute;
    sum->memory += t->memory;
    sum->links += t->links;
    sum->launch += t->launch;
    sum->total += t->total;
}

void sim_totals(const device_model *dm, step_time *spent, uint64_t *n_steps)
{
    *spent = const_model_of(dm)->spent;
    *n_steps = const_model_of(dm)->n_steps;
}

const step_costs *sim_costs(const device_model *dm) { return const_model_of(dm)->costs; }

static status sim_submit(device_model *dm, const batch *b)
{
    sim_model *m = model_of(dm);
    step_time t = {0};
    if (m->n_flying == STEP_DEPTH) return err_set(ST_INTERNAL, "more than %d steps in flight", STEP_DEPTH);
    TRY(time_of(m, b, &t));
    const double now = sim_now(dm), start = now > m->last_end ? now : m->last_end;
    m->last_end = start + t.total;
    add_time(&m->spent, &t);
    m->n_steps++;
    m->flights[(m->first + m->n_flying++) % STEP_DEPTH] = (flight){ b, m->last_end };
    atomic_store(&m->oldest_end, m->flights[m->first].end);
    return ST_OK;
}

static bool is_allowed(const sample_row *r, int32_t token)
{
    if (r->mask && !(r->mask[token / 32] >> token % 32 & 1)) return false;
    for (int i = 0; i < r->n_edits; i++)
        if (r->edit_ids[i] == token && r->edit_values[i] == -INFINITY) return false;
    return true;
}

static int32_t token_of(const sample_row *r, int32_t pos, int vocab)
{
    int32_t first = (int32_t)(hash_mix64(r->temperature > 0 ? r->key : (uint64_t)pos) % (uint64_t)vocab), t = first;
    while (!is_allowed(r, t)) {
        t = (t + 1) % vocab;
        if (t == first) break;
    }
    return t;
}

static void sample(const sim_model *m, const batch *b)
{
    const size_t vocab = (size_t)m->c.vocab;
    if (b->logits) memset(b->logits, 0, (size_t)b->n_rows * vocab * sizeof *b->logits);
    for (int i = 0; i < b->n_rows; i++) {
        b->sampled[i] = token_of(&b->samples[i], b->positions[b->rows[i]], m->c.vocab);
        if (b->logits) b->logits[(size_t)i * vocab + (size_t)b->sampled[i]] = 20;
    }
}

static status sim_wait(device_model *dm)
{
    sim_model *m = model_of(dm);
    if (m->n_flying == 0) return err_set(ST_INTERNAL, "no step is in flight");
    const flight f = m->flights[m->first];
    sample(m, f.b);
    sim_advance(dm, f.end);
    m->first = (m->first + 1) % STEP_DEPTH;
    m->n_flying--;
    atomic_store(&m->oldest_end, m->n_flying > 0 ? m->flights[m->first].end : -1);
    return ST_OK;
}

static status sim_run(device_model *m, const batch *b)
{
    (void)m;
    (void)b;
    return err_set(ST_UNSUPPORTED, "a simulated device takes steps by submit and wait");
}

static int sim_depth(const device_model *m)
{
    (void)m;
    return STEP_DEPTH;
}

static int sim_n_slots(const device_model *m) { return const_model_of(m)->c.lower.n_slots; }

/* ---- the cache: blocks are counted, nothing is in them ---- */

static status sim_kv_resize(device_model *dm, int32_t n_blocks)
{
    sim_model *m = model_of(dm);
    if (n_blocks < 1) return err_set(ST_INVALID, "a KV cache of %d blocks", n_blocks);
    m->n_blocks = m->c.lower.n_pages = n_blocks;
    return refine_all(m);
}

static status check_block(const sim_model *m, int32_t block)
{
    return block >= 0 && block < m->n_blocks ? ST_OK : err_set(ST_INVALID, "KV block %d, expected 0 to %d", block, m->n_blocks - 1);
}

static int64_t sim_kv_block_bytes(const device_model *m) { return program_page_bytes(&const_model_of(m)->c); }

static status sim_kv_read(device_model *m, int32_t block, void *dst)
{
    TRY(check_block(model_of(m), block));
    memset(dst, 0, (size_t)sim_kv_block_bytes(m));
    return ST_OK;
}

static status sim_kv_write(device_model *m, int32_t block, const void *src)
{
    (void)src;
    return check_block(model_of(m), block);
}

static void sim_kv_layout(const device_model *m, kv_layout *out) { *out = const_model_of(m)->c.plan->groups; }
static int64_t sim_weight_bytes(const device_model *m) { return const_model_of(m)->weight_bytes; }

static int64_t sim_kv_bytes(const device_model *dm, double utilization)
{
    const sim_model *m = const_model_of(dm);
    const int64_t bytes = program_kv_bytes(&m->c, m->dev->target.machine.chip->hbm_usable_bytes, utilization);
    return bytes > 0 ? bytes : 1;
}

/* ---- loading ---- */

static void sim_unload(device_model *dm)
{
    sim_model *m = model_of(dm);
    step_costs_free(m->costs);
    mem_free(m->refined);
    if (m->placed) m->dev->n_devices -= graph_mesh(m->c.plan->g).tp;
    if (m->c.plan) program_context_free(&m->c);
    mem_free(m);
}

/* Models of one device are replicas: each takes devices of its own. Encoders lie on those of a language model. */
static status place(sim_model *m, const graph *g, bool encoder)
{
    const sim_target *t = &m->dev->target;
    const int have = step_machine_devices(&t->machine), need = graph_mesh(g).tp, taken = encoder ? 0 : m->dev->n_devices;
    const double gib = 1024.0 * 1024 * 1024;
    if (graph_mesh(g).dp > 1) return err_set(ST_UNSUPPORTED, "a graph for %d replicas: each is loaded by itself", graph_mesh(g).dp);
    if (need + taken > have && taken > 0)
        return err_set(ST_INVALID, "%d replicas on %d device%s each need more than the %d devices of %s", taken / need + 1, need, need == 1 ? "" : "s", have, t->name);
    if (need > have) return err_set(ST_INVALID, "the model is cut for %d devices, %s has %d", need, t->name, have);
    if (m->weight_bytes > t->machine.chip->hbm_usable_bytes)
        return err_set(ST_LIMIT, "%.2f GiB of weights on each of %d device%s do not fit: a device of %s has %.2f GiB. A larger --tensor-parallel-size helps (%s has %d devices)",
                       (double)m->weight_bytes / gib, need, need == 1 ? "" : "s", t->name, (double)t->machine.chip->hbm_usable_bytes / gib, t->name, have);
    if (encoder) return ST_OK;
    m->placed = true;
    m->dev->n_devices += need;
    if (taken + need < have) log_info("%s has %d devices, %d are used so far (--tensor-parallel-size times --data-parallel-size)", t->name, have, taken + need);
    return ST_OK;
}

static status init(sim_model *m, const graph *g, const device_limits *l)
{
    TRY(program_context_new(g, l, graph_activation_type(g), &m->c));
    TRY(step_costs_new(&m->c, &m->costs));
    m->kinds = step_costs_kinds(m->costs, &m->n_kinds);
    for (int b = 0; b < m->c.buckets.n; b++)
        for (int k = 0; k < m->n_kinds; k++) m->tiles[b][k] = step_costs_tile(m->costs, k, &m->c.buckets.v[b]);
    m->weight_bytes = program_weight_bytes(&m->c);
    if (m->dev->refine && !l->least_rows) {
        m->refined = mem_calloc((size_t)m->c.buckets.n, sizeof *m->refined);
        if (!m->refined) return err_nomem();
    }
    return place(m, g, l->least_rows > 0);
}

static status sim_load(device *dev, const graph *g, const weight_source *w, const device_limits *l,
                       void (*progress)(void *arg, int64_t done, int64_t total), void *arg, device_model **out)
{
    (void)w;
    sim_model *m = mem_calloc(1, sizeof *m);
    if (!m) return err_nomem();
    m->base.cls = dev->cls;
    m->dev = (sim_device *)(void *)dev;
    m->last_end = 0;
    atomic_init(&m->virtual_now, 1);
    atomic_init(&m->oldest_end, -1);
    status st = init(m, g, l);
    if (st != ST_OK) {
        sim_unload(&m->base);
        return st;
    }
    if (progress) progress(arg, m->weight_bytes, m->weight_bytes);
    *out = &m->base;
    return ST_OK;
}

/* ---- the device ---- */

static void sim_close(device *dev)
{
    sim_device *d = (sim_device *)(void *)dev;
    sim_refine_close(d->refine);
    mem_free(d);
}

/* Where none is named: the chips of the environment, else v6e, said loudly. */
static status find_target(const char *arg, sim_target *out)
{
    tpu_found found;
    if (*arg && *arg != '?') return sim_target_parse(arg, out);
    TRY(sim_target_detect(arg, out, &found));
    if (tpu_found_loud(&found)) log_warn("SIMULATION of %s; sim:v6e-8, sim:v5e:2x4, ... name others. %s", out->name, found.message);
    else log_info("Simulating %s: %s", out->name, found.message);
    return ST_OK;
}

static status sim_open(const char *arg, const device_options *o, device **out)
{
    sim_device *d = mem_calloc(1, sizeof *d);
    if (!d) return err_nomem();
    d->base.cls = &device_sim;
    d->real_start = clock_now();
    d->lazy = o && o->lazy_compile;
    const bool refines = o && o->sim_refine && strcmp(o->sim_refine, "none") != 0;
    status st = find_target(arg, &d->target);
    if (st == ST_OK && refines) st = sim_refine_open(o->sim_refine, &d->target, o->program_cache, &d->refine);
    if (st != ST_OK) {
        sim_close(&d->base);
        return st;
    }
    snprintf(d->name, sizeof d->name, "%d x %s, simulated", step_machine_devices(&d->target.machine), d->target.machine.chip->kind);
    *out = &d->base;
    return ST_OK;
}

static void sim_describe(const device *dev, device_info *out)
{
    const sim_device *d = (const sim_device *)(const void *)dev;
    const int64_t memory = d->target.machine.chip->hbm_usable_bytes;
    *out = (device_info){ .platform = "sim", .name = d->name, .isa = "none", .memory_bytes = memory, .free_bytes = memory, .loops = true, .own_time = true, .chip = d->target.machine.chip };
}

const device_class device_sim = {
    .name = "sim", .open = sim_open, .close = sim_close, .describe = sim_describe, .load = sim_load, .unload = sim_unload, .weight_bytes = sim_weight_bytes,
    .kv_block_bytes = sim_kv_block_bytes, .kv_layout = sim_kv_layout, .kv_bytes = sim_kv_bytes, .kv_resize = sim_kv_resize, .kv_read = sim_kv_read,
    .kv_write = sim_kv_write, .run = sim_run, .depth = sim_depth, .n_slots = sim_n_slots, .submit = sim_submit, .wait = sim_wait,
    .now = sim_now, .step_end = sim_step_end, .advance = sim_advance, .no_weights = true,
};
