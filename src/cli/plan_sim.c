/* A workload on every layout of every target that the model fits, and which of them is recommended. */
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "cli/plan.h"

enum { SIM_PROMPTS = 256, GROWTH = 3 /* larger topologies of a generation that are looked at where a goal is missed */ };

static const char *const asking[] = { "input-len", "output-len", "num-prompts", "request-rate", "max-concurrency", "random-range-ratio", "prefix-len", "trace", "slo-ttft", "slo-itl", "svg" };

bool plan_sim_wanted(const flags *f)
{
    for (size_t i = 0; i < sizeof asking / sizeof *asking; i++)
        if (flags_given(f, asking[i])) return true;
    return false;
}

static status check_flags(const flags *f)
{
    static const bench_bound bounds[] = { { "input-len", 1, BENCH_MAX_LEN }, { "output-len", 1, BENCH_MAX_LEN }, { "num-prompts", 1, BENCH_MAX_PROMPTS }, { "max-concurrency", 1, 1 << 20 }, { "prefix-len", 0, BENCH_MAX_LEN } };
    static const struct { const char *name; double least, most; } reals[] = { { "random-range-ratio", 0, 1 }, { "slo-ttft", 1e-3, 1e9 }, { "slo-itl", 1e-3, 1e9 }, { "trace-duration", 1e-3, 1e8 } };
    TRY(bench_check_flags(f, bounds, sizeof bounds / sizeof *bounds));
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        const double x = flags_f64(f, reals[i].name, reals[i].least);
        if (!(x >= reals[i].least && x <= reals[i].most)) return err_set(ST_INVALID, "argument --%s: must be from %g to %g, got %g", reals[i].name, reals[i].least, reals[i].most, x);
    }
    if (!(flags_f64(f, "request-rate", INFINITY) > 0)) return err_set(ST_INVALID, "argument --request-rate: must be above 0, got %g", flags_f64(f, "request-rate", INFINITY));
    if (!flags_given(f, "trace")) return flags_given(f, "trace-duration") ? err_set(ST_INVALID, "argument --trace-duration: it goes with --trace") : ST_OK;
    for (int i = 0; i < 2; i++)
        if (flags_given(f, asking[i])) return err_set(ST_INVALID, "argument --%s: a trace has its own lengths", asking[i]);
    if (flags_given(f, "prefix-len")) return err_set(ST_INVALID, "argument --prefix-len: a trace has its own prompts");
    return flags_given(f, "request-rate") ? err_set(ST_INVALID, "argument --request-rate: a trace has its own arrivals") : ST_OK;
}

static status open_workload(const flags *f, plan_sims *s)
{
    s->trace = flags_str(f, "trace");
    if (s->trace) {
        TRY(workload_read(s->trace, &s->w));
        if (flags_given(f, "trace-duration")) TRY(workload_span(&s->w, flags_f64(f, "trace-duration", 0)));
        if (flags_given(f, "num-prompts")) workload_cut(&s->w, (size_t)flags_i64(f, "num-prompts", 0));
    } else {
        s->input_len = (int)flags_i64(f, "input-len", 1024);
        s->output_len = (int)flags_i64(f, "output-len", 128);
        const workload_mix m = { .n = (int)flags_i64(f, "num-prompts", SIM_PROMPTS), .input_len = s->input_len, .output_len = s->output_len, .prefix_len = (int)flags_i64(f, "prefix-len", 0),
                                 .range_ratio = flags_f64(f, "random-range-ratio", 0), .rate = flags_f64(f, "request-rate", INFINITY), .seed = (uint64_t)flags_i64(f, "seed", 0) };
        TRY(workload_make(&m, &s->w));
    }
    s->w.max_concurrency = (int)flags_i64(f, "max-concurrency", 0);
    s->w.seed = (uint64_t)flags_i64(f, "seed", 0);
    return ST_OK;
}

/* Told once, not by each layout. */
static status check_compiler(const flags *f)
{
    pjrt_place libtpu;
    if (strcmp(flags_str(f, "sim-refine"), "none") == 0) return ST_OK;
    status st = pjrt_find("tpu", &libtpu);
    if (st != ST_OK) return err_wrap(st, "argument --sim-refine");
    pjrt_place_free(&libtpu);
    return ST_OK;
}

status plan_sim_open(const flags *f, plan_sims *out)
{
    TRY(check_flags(f));
    TRY(check_compiler(f));
    out->best = -1;
    out->goal = (plan_goal){ .ttft = flags_f64(f, "slo-ttft", 0) / 1e3, .itl = flags_f64(f, "slo-itl", 0) / 1e3 };
    status st = open_workload(f, out);
    if (st != ST_OK) plan_sim_free(out);
    return st;
}

void plan_sim_free(plan_sims *s) { workload_free(&s->w); }

/* ---- runs ---- */

static bool meets(const plan_goal *g, const sim_result *r)
{
    return r->n_completed > 0 && (g->ttft <= 0 || r->ttft.p99 <= g->ttft) && (g->itl <= 0 || r->itl.p99 <= g->itl);
}

static status run_layout(compile_plan *p, const char *target, const plan_fit *fit, plan_sims *s)
{
    if (s->n == PLAN_MAX_RUNS) return err_set(ST_LIMIT, "more than %d layouts: name fewer targets", PLAN_MAX_RUNS);
    plan_run *r = &s->v[s->n++];
    *r = (plan_run){ .chip = fit->chip, .n_chips = fit->n_chips, .on = fit->on };
    snprintf(r->target, sizeof r->target, "%s", target);
    status st = simulate(p, target, fit->on, &s->w, &r->r);
    r->ran = st == ST_OK;
    if (st == ST_NOMEM) return st;
    if (!r->ran) err_copy(r->why, sizeof r->why);
    r->meets = r->ran && meets(&s->goal, &r->r);
    return ST_OK;
}

/* All layouts that hold the model, or those that --tensor-parallel-size and --data-parallel-size leave. *fits: there was one; *met: one meets the goal. */
static status run_target(const flags *f, compile_plan *p, const char *target, plan_sims *s, bool *fits, bool *met)
{
    const bool fixed = flags_given(f, "tensor-parallel-size");
    const int replicas = flags_given(f, "data-parallel-size") ? (int)instance_i64(f, "data-parallel-size", 1) : 0;   /* 0: as many as there is room for */
    int n_devices = 1;
    *fits = *met = false;
    for (int tp = fixed ? (int)instance_i64(f, "tensor-parallel-size", 1) : 1; tp <= n_devices || fixed; tp *= 2) {
        for (int ep = 0; ep < 2; ep++) {
            plan_fit fit;
            status st = plan_fit_layout(p, target, tp, ep, &fit);
            if (st == ST_NOMEM) return st;
            n_devices = fit.n_devices;
            if (n_devices == 0) return st;      /* not a target */
            if (st != ST_OK || !fit.fits || (replicas > 0 && replicas > fit.on.dp)) continue;
            if (replicas > 0) fit.on.dp = replicas;
            *fits = true;
            TRY(run_layout(p, target, &fit, s));
            *met = *met || s->v[s->n - 1].meets;
        }
        if (fixed) break;
    }
    return ST_OK;
}

static size_t generation_len(const char *t) { return strcspn(t, ":"); }

/* Of each generation the smallest topology that holds the model; larger ones while the goal is missed. */
static status run_generations(const flags *f, compile_plan *p, plan_sims *s)
{
    const char *t, *last = "";
    int n_tried = 0;
    bool met = false;
    for (int i = 0; (t = plan_topology(i)); i++) {
        bool fits, m;
        if (generation_len(t) != generation_len(last) || strncmp(t, last, generation_len(t)) != 0) {
            n_tried = 0;
            met = false;
        }
        last = t;
        if (met || n_tried > GROWTH) continue;
        TRY(run_target(f, p, t, s, &fits, &m));
        n_tried += fits;
        met = m;
    }
    return ST_OK;
}

/* The least money for the work; of equals the first. Where nobody meets the goal, nobody is recommended. */
static void choose(plan_sims *s)
{
    for (int i = 0; i < s->n; i++) {
        const plan_run *r = &s->v[i];
        if (!r->meets || r->r.usd_per_million <= 0) continue;
        if (s->best < 0 || r->r.usd_per_million < s->v[s->best].r.usd_per_million) s->best = i;
    }
}

status plan_sim_run(const flags *f, compile_plan *p, plan_sims *s)
{
    int n;
    const char *const *targets = flags_list(f, "target", &n);
    if (n == 0) TRY(run_generations(f, p, s));
    for (int i = 0; i < n; i++) {
        bool fits, met;
        TRY(run_target(f, p, targets[i], s, &fits, &met));
    }
    choose(s);
    return ST_OK;
}
