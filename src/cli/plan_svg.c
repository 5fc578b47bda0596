/* Pictures for `systolic plan --svg DIR`: where steps lie under a chip's roofline, and what latency a throughput costs. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/bench.h"
#include "cli/plan.h"
#include "cli/svg.h"

/* ---- the roofline ---- */

enum { PRODUCTS, ATTENTION, STEP, N_SERIES, MOST_POINTS = 12 };
static const char *const series_names[N_SERIES] = { "products with weights", "attention", "whole step" };

/* FLOP per byte of HBM and FLOP/s of one device. */
typedef struct roof_points { char name[MOST_POINTS][24]; double x[N_SERIES][MOST_POINTS], y[N_SERIES][MOST_POINTS]; bool decode[MOST_POINTS]; int n; } roof_points;

static void add_point(const step_costs *costs, const step_machine *m, const step_load *l, bool decode, const char *name, roof_points *out)
{
    double flops[N_SERIES] = {0}, bytes[N_SERIES] = {0}, seconds[N_SERIES] = {0};
    step_time t;
    if (out->n == MOST_POINTS) return;
    for (int i = 0; i < step_costs_n(costs); i++) {
        step_class_cost c;
        step_costs_class(costs, i, l, m, &c);
        const double s = c.compute_s > c.memory_s ? c.compute_s : c.memory_s, traffic = c.memory_s * m->chip->hbm_bytes_per_s * m->k.hbm;
        const int kind = c.op == OP_PAGED_ATTENTION ? ATTENTION : c.op == OP_LINEAR || c.op == OP_EXPERTS || c.op == OP_HEAD_LINEAR ? PRODUCTS : -1;
        for (int k = 0; k < N_SERIES; k++) {
            if (k != STEP && k != kind) continue;
            flops[k] += c.work.flops;
            bytes[k] += traffic;
            seconds[k] += s;
        }
    }
    step_costs_time(costs, l, m, &t);
    seconds[STEP] = t.total;
    for (int k = 0; k < N_SERIES; k++) {
        out->x[k][out->n] = bytes[k] > 0 ? flops[k] / bytes[k] : 0;
        out->y[k][out->n] = seconds[k] > 0 ? flops[k] / seconds[k] : 0;
    }
    snprintf(out->name[out->n], sizeof *out->name, "%s", name);
    out->decode[out->n++] = decode;
}

/* Decode steps of 1, 8, 64, ... sequences in the middle of their answers, prompts of one sequence up to a whole step. */
static void add_points(const plan_sims *s, const compile_plan *p, const step_costs *costs, const step_machine *m, roof_points *out)
{
    const device_limits *l = &p->c.limits;
    const double context = s->trace ? compile_assumed_context(p) : s->input_len + s->output_len / 2.0;
    int n_kinds;
    const step_kind *kinds = step_costs_kinds(costs, &n_kinds);
    char name[24];
    for (int seqs = 1;; seqs = seqs * 8 < l->max_seqs ? seqs * 8 : l->max_seqs) {
        step_load load = { .tokens = seqs, .seqs = seqs, .rows = seqs };
        for (int k = 0; k < n_kinds; k++)
            for (int i = 0; i < seqs; i++) step_reach_add(&kinds[k], 1, context, 1, &load.reach[k]);
        snprintf(name, sizeof name, "%d", seqs);
        add_point(costs, m, &load, true, name, out);
        if (seqs >= l->max_seqs) break;
    }
    for (int n = l->max_tokens / 16 > 16 ? l->max_tokens / 16 : 16;; n = n * 4 < l->max_tokens ? n * 4 : l->max_tokens) {
        const lower_bucket b = { .tokens = n, .seqs = 1, .rows = 1 };
        step_load load = { .tokens = n, .seqs = 1, .rows = 1 };
        for (int k = 0; k < n_kinds; k++) step_reach_add(&kinds[k], n, n, step_costs_tile(costs, k, &b), &load.reach[k]);
        snprintf(name, sizeof name, "%d tok", n);
        add_point(costs, m, &load, false, name, out);
        if (n >= l->max_tokens) break;
    }
}

static void draw_roof(svg_chart *c, double peak, double hbm, int color, bool dashed, const char *name)
{
    const double knee = peak / hbm, x[] = { c->ax.lo, knee, c->ax.hi }, y[] = { hbm * c->ax.lo, peak, peak };
    svg_line(c, x, y, 3, color, dashed ? 1.5 : 2.5, dashed);
    svg_legend(c, color, -1, true, dashed, name);
}

static void draw_series(svg_chart *c, const roof_points *pts, int k)
{
    for (int decode = 0; decode < 2; decode++) {
        double x[MOST_POINTS], y[MOST_POINTS];
        int n = 0;
        for (int i = 0; i < pts->n; i++) {
            if (pts->decode[i] != (bool)decode || pts->y[k][i] <= 0) continue;
            x[n] = pts->x[k][i];
            y[n++] = pts->y[k][i];
        }
        svg_line(c, x, y, n, k, 1, false);
    }
    for (int i = 0; i < pts->n; i++) svg_dot(c, pts->x[k][i], pts->y[k][i], k, pts->decode[i] ? SVG_CIRCLE : SVG_SQUARE);
}

static void draw_points(svg_chart *c, const roof_points *pts)
{
    draw_series(c, pts, STEP);
    draw_series(c, pts, PRODUCTS);
    draw_series(c, pts, ATTENTION);
    for (int i = 0; i < pts->n; i++) svg_label(c, pts->x[STEP][i], pts->y[STEP][i], 8, 14, pts->name[i]);
    svg_legend_gap(c);
    for (int k = 0; k < N_SERIES; k++) svg_legend(c, k, SVG_CIRCLE, true, false, series_names[k]);
    svg_legend_gap(c);
    svg_legend(c, SVG_GREY, SVG_CIRCLE, false, false, "decode, by sequences");
    svg_legend(c, SVG_GREY, SVG_SQUARE, false, false, "prompt, by tokens");
}

static void draw_roofline(const char *title_of, const plan_run *r, const sim_target *t, const roof_points *pts, buf *out)
{
    const chip *c = t->machine.chip;
    char title[256], sub[256], name[96];
    double lo = 1, hi = 1000, least = c->bf16_flops;
    for (int k = 0; k < N_SERIES; k++)
        for (int i = 0; i < pts->n; i++) {
            if (pts->y[k][i] <= 0) continue;
            lo = fmin(lo, pts->x[k][i]);
            hi = fmax(hi, pts->x[k][i]);
            least = fmin(least, pts->y[k][i]);
        }
    snprintf(title, sizeof title, "Roofline: %s on %s", title_of, r->target);
    snprintf(sub, sizeof sub, "one device of %d (%s), tensor ranks %d; operations of a step by the simulator's account", step_machine_devices(&t->machine), c->kind, r->on.tp);
    svg_begin(out, 960, 560, title, sub);
    svg_chart ch = svg_chart_begin(out, 90, 75, 610, 415, svg_axis_of("arithmetic intensity (FLOP per byte of HBM traffic)", lo, hi, true), svg_axis_of("FLOP/s of one device", least / 1.5, c->bf16_flops * 1.5, true));
    snprintf(name, sizeof name, "data sheet: %.0f TFLOP/s bf16,", c->bf16_flops / 1e12);
    draw_roof(&ch, c->bf16_flops, c->hbm_bytes_per_s, SVG_GREY, false, name);
    snprintf(name, sizeof name, "%.0f GB/s HBM", c->hbm_bytes_per_s / 1e9);
    svg_legend(&ch, SVG_GREY, -1, false, false, name);
    snprintf(name, sizeof name, "as fitted: %.0f%%, %.0f%% of it", t->machine.k.mxu * 100, t->machine.k.hbm * 100);
    draw_roof(&ch, c->bf16_flops * t->machine.k.mxu, c->hbm_bytes_per_s * t->machine.k.hbm, SVG_GREY, true, name);
    draw_points(&ch, pts);
    svg_end(out);
}

static status roofline(compile_plan *p, const char *title_of, const plan_sims *s, const plan_run *r, buf *out)
{
    sim_target t;
    roof_points pts = {0};
    device *dev;
    device_model *dm;
    buf spec = {0};
    TRY(sim_target_parse(r->target, &t));
    TRY(simulate_cut(p, t.machine.chip, r->on));
    buf_printf(&spec, "sim:%s", r->target);
    status st = buf_status(&spec);
    if (st == ST_OK) st = device_open(spec.data, NULL, &dev);
    buf_free(&spec);
    TRY(st);
    st = device_load(dev, p->g, NULL, &p->c.limits, NULL, NULL, &dm);
    if (st == ST_OK) {
        add_points(s, p, sim_costs(dm), &t.machine, &pts);
        device_unload(dm);
        draw_roofline(title_of, r, &t, &pts, out);
    }
    device_close(dev);
    return st == ST_OK ? buf_status(out) : st;
}

/* ---- latency and throughput ---- */

enum { MOST_LINES = 6, MOST_LOADS = 12 };
typedef struct curve { const plan_run *r; char name[64]; double load[MOST_LOADS], out[MOST_LOADS], ttft50[MOST_LOADS], ttft99[MOST_LOADS], itl50[MOST_LOADS], itl99[MOST_LOADS]; int n; } curve;

/* Requests at a time (1, 2, 4, ...), or arrivals that come slower and faster. */
static bool by_rate(const plan_sims *s) { return s->trace || isfinite(s->w.rate); }

static status scaled(const plan_sims *s, double load, workload *out)
{
    if (!by_rate(s)) {
        const workload_mix m = { .n = load < 16 ? 32 : 2 * (int)load, .input_len = s->input_len, .output_len = s->output_len, .prefix_len = s->w.prefix_len, .rate = INFINITY, .seed = s->w.seed };
        TRY(workload_make(&m, out));
        out->max_concurrency = (int)load;
        return ST_OK;
    }
    *out = s->w;
    out->v = mem_array(s->w.n, sizeof *out->v);
    if (!out->v) return err_nomem();
    for (size_t i = 0; i < s->w.n; i++) {
        out->v[i] = s->w.v[i];
        out->v[i].at /= load;
    }
    return ST_OK;
}

static status one_load(compile_plan *p, const plan_sims *s, double load, curve *c)
{
    workload w = {0};
    sim_result r = {0};
    TRY(scaled(s, load, &w));
    status st = simulate(p, c->r->target, c->r->on, &w, &r);
    if (by_rate(s)) mem_free(w.v);  /* the ids are the plan's */
    else workload_free(&w);
    TRY(st);
    const int i = c->n++;
    c->load[i] = by_rate(s) ? load * (double)s->w.n / fmax(workload_seconds(&s->w), 1e-9) : load;
    c->out[i] = r.output_per_s;
    c->ttft50[i] = r.ttft.p50 * 1e3;
    c->ttft99[i] = r.ttft.p99 * 1e3;
    c->itl50[i] = r.itl.p50 * 1e3;
    c->itl99[i] = r.itl.p99 * 1e3;
    return ST_OK;
}

static status sweep(compile_plan *p, const plan_sims *s, curve *c)
{
    static const double shares[] = { 0.125, 0.25, 0.5, 1, 1.5, 2, 3, 4 };
    if (by_rate(s)) {
        for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) TRY(one_load(p, s, shares[i], c));
        return ST_OK;
    }
    const int most = p->model.eo.max_num_seqs * c->r->on.dp;
    for (int n = c->r->on.dp;; n = n * 2 < most ? n * 2 : most) {   /* each replica has one at least */
        TRY(one_load(p, s, n, c));
        if (n >= most || c->n == MOST_LOADS) return ST_OK;
    }
}

/* The cheapest layout of each target, those that meet the goal before others. */
static int best_of(const plan_sims *s, const plan_run *best[MOST_LINES])
{
    int n = 0;
    for (int i = 0; i < s->n; i++) {
        const plan_run *r = &s->v[i];
        int k = 0;
        if (!r->ran || r->r.n_completed == 0) continue;
        while (k < n && strcmp(best[k]->target, r->target) != 0) k++;
        if (k == MOST_LINES) continue;
        if (k == n) best[n++] = r;
        else if (r->meets != best[k]->meets ? r->meets : r->r.usd_per_million < best[k]->r.usd_per_million) best[k] = r;
    }
    return n;
}

static void draw_panel(const plan_sims *s, const curve *all, int n, double top, const char *label, bool ttft, double goal, buf *out)
{
    double least = INFINITY, most = 0, narrowest = INFINITY, widest = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < all[i].n; k++) {
            const double lo = ttft ? all[i].ttft50[k] : all[i].itl50[k], hi = ttft ? all[i].ttft99[k] : all[i].itl99[k];
            if (lo > 0) least = fmin(least, lo);
            most = fmax(most, hi);
            narrowest = fmin(narrowest, all[i].out[k]);
            widest = fmax(widest, all[i].out[k]);
        }
    svg_chart c = svg_chart_begin(out, 90, top, 610, 300, svg_axis_of("output tokens per second, all chips", narrowest, widest, true), svg_axis_of(label, least, most, true));
    if (goal > 0) {
        const double x[] = { c.ax.lo, c.ax.hi }, y[] = { goal * 1e3, goal * 1e3 };
        svg_line(&c, x, y, 2, SVG_GREY, 1.5, true);
        svg_label(&c, c.ax.lo, goal * 1e3, 4, -5, "goal");
    }
    for (int i = 0; i < n; i++) {
        const curve *v = &all[i];
        svg_line(&c, v->out, ttft ? v->ttft99 : v->itl99, v->n, i, 1.2, true);
        svg_line(&c, v->out, ttft ? v->ttft50 : v->itl50, v->n, i, 2, false);
        for (int k = 0; k < v->n; k++) {
            char text[24];
            const double y = ttft ? v->ttft50[k] : v->itl50[k];
            svg_dot(&c, v->out[k], y, i, SVG_CIRCLE);
            snprintf(text, sizeof text, v->load[k] >= 100 ? "%.0f" : "%.2g", v->load[k]);
            svg_label(&c, v->out[k], y, 3, 15, text);
        }
        svg_legend(&c, i, SVG_CIRCLE, true, false, v->name);
    }
    svg_legend_gap(&c);
    svg_legend(&c, SVG_GREY, -1, true, false, "median");
    svg_legend(&c, SVG_GREY, -1, true, true, "99th percentile");
    svg_legend_gap(&c);
    svg_legend(&c, SVG_GREY, -1, false, false, by_rate(s) ? "numbers: requests/s" : "numbers: requests at a time");
}

static status curves(compile_plan *p, const char *title_of, const plan_sims *s, buf *out)
{
    const plan_run *best[MOST_LINES];
    const int n = best_of(s, best);
    char title[256], sub[256];
    curve *all = mem_calloc(MOST_LINES, sizeof *all);
    if (!all) return err_nomem();
    status st = ST_OK;
    for (int i = 0; i < n && st == ST_OK; i++) {
        all[i].r = best[i];
        snprintf(all[i].name, sizeof all[i].name, "%.28s, %d x %d%s", best[i]->target, best[i]->on.tp, best[i]->on.dp, best[i]->on.ep ? " ep" : "");
        st = sweep(p, s, &all[i]);
    }
    if (st == ST_OK) {
        snprintf(title, sizeof title, "Latency and throughput: %s", title_of);
        if (s->trace) snprintf(sub, sizeof sub, "%zu requests of a trace, arriving slower and faster; the cheapest layout of each target (tp x dp)", s->w.n);
        else snprintf(sub, sizeof sub, "prompts of %d tokens, answers of %d; the cheapest layout of each target (tp x dp)", s->input_len, s->output_len);
        svg_begin(out, 960, 820, title, sub);
        draw_panel(s, all, n, 75, "time to first token (ms)", true, s->goal.ttft, out);
        draw_panel(s, all, n, 455, "time between tokens (ms)", false, s->goal.itl, out);
        svg_end(out);
        st = buf_status(out);
    }
    mem_free(all);
    return st;
}

/* ---- files ---- */

static status write_file(const char *dir, const char *name, buf *picture)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    status st = bench_write_file(path, picture, false);
    buf_clear(picture);
    return st;
}

status plan_write_svg(compile_plan *p, const char *title_of, const plan_sims *s, const char *dir)
{
    const plan_run *best[MOST_LINES];
    buf picture = {0};
    if (best_of(s, best) == 0) return err_set(ST_INVALID, "argument --svg: nothing was simulated that could be drawn");
    const plan_run *r = s->best >= 0 ? &s->v[s->best] : best[0];
    if (mkdir(dir, 0777) != 0 && access(dir, W_OK) != 0) return err_errno("argument --svg: cannot make %s", dir);
    status st = roofline(p, title_of, s, r, &picture);
    if (st == ST_OK) st = write_file(dir, "roofline.svg", &picture);
    if (st == ST_OK) st = curves(p, title_of, s, &picture);
    if (st == ST_OK) st = write_file(dir, "latency.svg", &picture);
    buf_free(&picture);
    return st;
}
