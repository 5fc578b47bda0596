#include "cli/simulate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/attention.h"
#include "cli/bench_stats.h"
#include "engine/drive.h"
#include "engine/replicas.h"

typedef struct record { struct feed *feed; double arrival, first, last; int n_prompt, n_out; bool failed; } record;
typedef struct gaps { double *v; size_t n, cap; bool failed; } gaps;

/* One replica's share of the requests, and what all replicas collect. */
typedef struct feed {
    const workload *w;
    const engine_options *o;
    size_t *items, n, at;       /* of the workload, in the order that they arrive here; at: the next one */
    double t0;
    int active, most;           /* most: 0 = as they arrive */
    int vocab;
    int32_t *prompt;            /* scratch, [max_model_len] */
    sampling_params params;
    record *records;            /* [w->n] */
    gaps *gaps;
} feed;

static void note_gap(gaps *g, double s)
{
    if (g->n == g->cap) {
        double *more = mem_realloc_array(g->v, g->cap * 2 + 4096, sizeof *more);
        if (!more) {
            g->failed = true;
            return;
        }
        g->v = more;
        g->cap = g->cap * 2 + 4096;
    }
    g->v[g->n++] = s;
}

static void on_output(const engine_output *o)
{
    record *r = o->user;
    if (o->n_tokens > 0) {
        if (r->n_out > 0) note_gap(r->feed->gaps, o->now_s - r->last);
        else r->first = o->now_s;
        r->arrival = o->arrival_s;
        r->last = o->now_s;
        r->n_out += o->n_tokens;
    }
    if (o->finish == FINISH_NONE) return;
    r->failed = o->finish == FINISH_ERROR || o->finish == FINISH_ABORT;
    r->feed->active--;
}

static bool too_long(const feed *f, const work_item *x) { return x->input >= f->o->max_model_len; }

static double next_arrival(void *arg)
{
    feed *f = arg;
    while (f->at < f->n && too_long(f, &f->w->v[f->items[f->at]])) f->at++;
    if (f->at >= f->n || (f->most > 0 && f->active >= f->most)) return -1;
    return f->t0 + f->w->v[f->items[f->at]].at;
}

static status fill_request(void *arg, request_spec *out)
{
    feed *f = arg;
    const size_t i = f->items[f->at];
    const work_item *x = &f->w->v[i];
    workload_prompt(f->w, i, f->vocab, f->prompt);
    f->params.max_tokens = x->output;
    f->records[i].feed = f;
    f->records[i].n_prompt = x->input;
    *out = (request_spec){ .id = "", .prompt = f->prompt, .n_prompt = x->input, .params = &f->params, .on_output = on_output, .user = &f->records[i],
                           .arrival_s = f->most > 0 ? 0 : f->t0 + x->at };
    f->at++;
    f->active++;
    return ST_OK;
}

/* ---- figures ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *x, size_t n, double p)
{
    if (n == 0) return 0;
    const double at = p * (double)(n - 1);
    const size_t lo = (size_t)at;
    return lo + 1 >= n ? x[n - 1] : x[lo] + (at - (double)lo) * (x[lo + 1] - x[lo]);
}

static sim_series series_of(double *x, size_t n)
{
    const double mean = bench_mean(x, n);
    qsort(x, n, sizeof *x, by_value);
    return (sim_series){ mean, quantile(x, n, 0.5), quantile(x, n, 0.9), quantile(x, n, 0.99) };
}

static double ttft(const record *r) { return r->first - r->arrival; }
static double e2e(const record *r) { return r->last - r->arrival; }
static double tpot(const record *r) { return r->n_out > 1 ? (r->last - r->first) / (r->n_out - 1) : -1; }

/* Over the requests that ended; below 0: the request has none. */
static sim_series over(const record *r, size_t n, double (*of)(const record *), double *scratch)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (r[i].n_out > 0 && !r[i].failed && of(&r[i]) >= 0) scratch[k++] = of(&r[i]);
    return series_of(scratch, k);
}

static status summarise(const record *r, size_t n, gaps *g, const step_machine *m, sim_result *out)
{
    double first = INFINITY, last = 0;
    double *scratch = mem_array(n + 1, sizeof *scratch);
    if (!scratch || g->failed) {
        mem_free(scratch);
        return err_nomem();
    }
    for (size_t i = 0; i < n; i++) {
        if (r[i].n_out == 0 || r[i].failed) continue;
        out->n_completed++;
        out->input_tokens += r[i].n_prompt;
        out->output_tokens += r[i].n_out;
        if (r[i].arrival < first) first = r[i].arrival;
        if (r[i].last > last) last = r[i].last;
    }
    out->n_refused = n - out->n_completed;
    out->seconds = out->n_completed > 0 ? last - first : 0;
    if (out->seconds > 0) {
        out->requests_per_s = (double)out->n_completed / out->seconds;
        out->output_per_s = out->output_tokens / out->seconds;
        out->total_per_s = (out->input_tokens + out->output_tokens) / out->seconds;
        out->usd_per_hour = m->chip->usd_per_chip_hour * m->shape[0] * m->shape[1] * m->shape[2] * m->n_slices;
        out->usd_per_million_output = out->usd_per_hour / 3600 / out->output_per_s * 1e6;
        out->usd_per_million = out->usd_per_hour / 3600 / out->total_per_s * 1e6;
    }
    out->ttft = over(r, n, ttft, scratch);
    out->tpot = over(r, n, tpot, scratch);
    out->e2e = over(r, n, e2e, scratch);
    out->itl = series_of(g->v, g->n);
    mem_free(scratch);
    return ST_OK;
}

/* ---- runs ---- */

static void add_times(const device_model *dm, const drive *d, double *hits, double *queries, sim_result *out)
{
    step_time t;
    uint64_t n;
    engine_stats s;
    sim_totals(dm, &t, &n);
    drive_stats(d, &s);
    out->n_steps += n;
    out->n_preemptions += s.preemptions;
    out->spent.compute += t.compute;
    out->spent.memory += t.memory;
    out->spent.links += t.links;
    out->spent.launch += t.launch;
    out->spent.total += t.total;
    *hits += (double)s.prefix_hits;
    *queries += (double)s.prefix_queries;
}

typedef struct replica { device_model *dm; drive *d; feed f; } replica;

static void replica_close(replica *r)
{
    drive_free(r->d);
    if (r->dm) device_unload(r->dm);
    mem_free(r->f.items);
}

/* f: what all have in common. Its place in the array is for good: requests point to it. */
static status replica_open(compile_plan *p, device *dev, const feed *f, replica *r)
{
    engine_device ed;
    engine_options o = p->model.eo;
    r->f = *f;
    r->f.items = mem_array(f->w->n + 1, sizeof *r->f.items);
    if (!r->f.items) return err_nomem();
    TRY(device_load(dev, p->g, NULL, &p->c.limits, NULL, NULL, &r->dm));
    if (o.kv_cache_bytes == 0) o.kv_cache_bytes = device_kv_bytes(r->dm, p->utilization);
    engine_device_of(r->dm, &ed);
    TRY(drive_new(&ed, model_describe(p->model.m), &o, &r->d));
    r->f.o = drive_config(r->d);
    r->f.t0 = drive_now(r->d);
    return ST_OK;
}

static status run_until(replica *r, double t) { return drive_run(r->d, &(drive_source){ next_arrival, fill_request, &r->f }, t); }

/* What has been sent and has not arrived waits. */
static int how_busy(void *arg, int i)
{
    const replica *r = (const replica *)arg + i;
    engine_stats s;
    drive_stats(r->d, &s);
    return replica_busy(s.n_waiting + (int)(r->f.n - r->f.at), s.n_running);
}

/* Each request goes, when it arrives, to the replica that is least busy then. */
static status route(replica *v, int n, const workload *w)
{
    for (size_t i = 0; i < w->n; i++) {
        for (int k = 0; k < n; k++) TRY(run_until(&v[k], v[k].f.t0 + w->v[i].at));
        feed *f = &v[replicas_choose(n, (int)(i % (size_t)n), how_busy, v)].f;
        f->items[f->n++] = i;
    }
    return ST_OK;
}

/* So many at a time: each replica has its share of them, and of the requests, in turns. */
static void share(replica *v, int n, const workload *w)
{
    const int most = w->max_concurrency;
    for (size_t i = 0; i < w->n; i++) {
        feed *f = &v[i % (size_t)n].f;
        f->items[f->n++] = i;
    }
    for (int k = 0; k < n && most > 0; k++) {
        v[k].f.most = most / n + (k < most % n);
        if (v[k].f.most == 0) v[k].f.most = 1;  /* fewer requests than replicas */
    }
}

static status run_replicas(device *dev, replica *v, int n, const workload *w, double *hits, double *queries, sim_result *out)
{
    if (n > 1 && w->max_concurrency == 0) TRY(route(v, n, w));
    else share(v, n, w);
    for (int k = 0; k < n; k++) {
        TRY(run_until(&v[k], -1));
        TRY(drive_check(v[k].d));
        add_times(v[k].dm, v[k].d, hits, queries, out);
        if (!sim_refined_by(dev)) continue;
        if (k == 0) out->n_programs = sim_refined(v[k].dm, out->programs, SIM_MAX_PROGRAMS);
        snprintf(out->compiler, sizeof out->compiler, "%s", sim_refined_by(dev));
    }
    return ST_OK;
}

/* As serve does it on such a chip: attention decides the size of KV pages. */
status simulate_cut(compile_plan *p, const chip *c, mesh on)
{
    TRY(compile_plan_cut(p, (mesh){ .dp = 1, .tp = on.tp, .sp = on.sp, .ep = on.ep }));
    TRY(attention_apply(p->model.f, p->g, c, &p->c.limits));
    p->model.eo.block_size = p->c.limits.block_size;
    return ST_OK;
}

/* As `systolic compile` does it: what is found is on standard output, what happens on the other. */
static void say_program(void *arg, const refined_program *p, int i, int n)
{
    const char *target = arg;
    fprintf(stderr, "[%s, %d/%d] %s ", target, i + 1, n, p->name);
    if (p->known) fprintf(stderr, "%s, %.1f s\n", p->cached ? "from the cache" : "compiled", p->seconds);
    else fprintf(stderr, "is priced by its operations: %s\n", p->why);
}

static status run_all(compile_plan *p, const char *spec, mesh on, feed *f, sim_result *out)
{
    device *dev;
    sim_target t;
    buf name = {0};
    double hits = 0, queries = 0;
    TRY(sim_target_parse(spec, &t));
    TRY(simulate_cut(p, t.machine.chip, on));
    buf_printf(&name, "sim:%s%sspeed=0", spec, strchr(spec, '?') ? "," : "?");
    status st = buf_status(&name);
    const device_options options = { .lazy_compile = true, .sim_refine = flags_str(p->model.f, "sim-refine"), .program_cache = flags_str(p->model.f, "program-cache") };
    if (st == ST_OK) st = device_open(name.data, &options, &dev);
    buf_free(&name);
    TRY(st);
    sim_on_program(dev, say_program, t.name);
    replica *v = mem_calloc((size_t)on.dp, sizeof *v);
    if (!v) st = err_nomem();
    for (int i = 0; i < on.dp && st == ST_OK; i++) st = replica_open(p, dev, f, &v[i]);
    if (st == ST_OK) st = run_replicas(dev, v, on.dp, f->w, &hits, &queries, out);
    for (int i = 0; i < on.dp && v; i++) replica_close(&v[i]);
    mem_free(v);
    device_close(dev);
    if (st == ST_OK) st = summarise(f->records, f->w->n, f->gaps, &t.machine, out);
    out->hit_rate = queries > 0 ? hits / queries : 0;
    return st;
}

status simulate(compile_plan *p, const char *spec, mesh on, const workload *w, sim_result *out)
{
    sim_result r = {0};
    gaps g = {0};
    feed f = { .w = w, .vocab = model_describe(p->model.m)->vocab_size, .gaps = &g,
               .params = { .top_p = 1, .repetition_penalty = 1, .ignore_eos = true, .logprobs = -2, .prompt_logprobs = -2 } };
    f.prompt = mem_array((size_t)p->model.eo.max_model_len + 1, sizeof *f.prompt);
    f.records = mem_calloc(w->n + 1, sizeof *f.records);
    status st = f.prompt && f.records ? run_all(p, spec, on, &f, &r) : err_nomem();
    mem_free(f.prompt);
    mem_free(f.records);
    mem_free(g.v);
    if (st == ST_OK) *out = r;
    return st;
}
