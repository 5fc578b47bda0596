/* What `systolic plan` prints of simulations. */
#include <math.h>

#include "cli/plan.h"

static void layout_of(const plan_run *r, char *dst, size_t cap) { snprintf(dst, cap, "%d x %d%s", r->on.tp, r->on.dp, r->on.ep ? " ep" : ""); }

static void write_workload(const plan_sims *s, buf *out)
{
    buf_printf(out, "\nsimulated: %zu requests", s->w.n);
    if (s->trace) buf_printf(out, " of %s, %.0f s of arrivals", s->trace, workload_seconds(&s->w));
    else if (isfinite(s->w.rate)) buf_printf(out, " of %d + %d tokens, %g a second", s->input_len, s->output_len, s->w.rate);
    else buf_printf(out, " of %d + %d tokens, all at once", s->input_len, s->output_len);
    if (s->w.max_concurrency > 0) buf_printf(out, ", at most %d at a time", s->w.max_concurrency);
    buf_str(out, "\n(latencies in ms; $ per million tokens, input and output together, and per million output tokens; docs/simulator.md)\n");
}

static void write_run(const plan_run *r, bool best, buf *out)
{
    char layout[32];
    layout_of(r, layout, sizeof layout);
    if (!r->ran) {
        buf_printf(out, "  %-14s %5d %-10s %s\n", r->target, r->n_chips, layout, r->why);
        return;
    }
    const sim_result *x = &r->r;
    buf_printf(out, "%c %-14s %5d %-10s %7.2f %8.0f %8.0f %9.0f %9.0f %7.1f %7.1f %8.2f %8.2f%s\n", best ? '*' : ' ', r->target, r->n_chips, layout, x->requests_per_s, x->output_per_s, x->total_per_s,
               x->ttft.p50 * 1e3, x->ttft.p99 * 1e3, x->itl.p50 * 1e3, x->itl.p99 * 1e3, x->usd_per_million, x->usd_per_million_output, r->meets ? "" : "  misses the goal");
}

static void write_best(const plan_sims *s, buf *out)
{
    const plan_goal *g = &s->goal;
    const bool any = g->ttft > 0 || g->itl > 0;
    char layout[32];
    if (s->n == 0) {
        buf_str(out, "\nnothing to recommend: no target holds the model\n");
        return;
    }
    if (s->best < 0) {
        buf_str(out, "\nnothing to recommend: no layout meets the goal\n");
        return;
    }
    const plan_run *r = &s->v[s->best];
    layout_of(r, layout, sizeof layout);
    buf_printf(out, "\nrecommended: %s, tp x dp %s: the cheapest", r->target, layout);
    if (any) buf_str(out, " that meets");
    if (g->ttft > 0) buf_printf(out, " TTFT p99 <= %g ms", g->ttft * 1e3);
    if (g->ttft > 0 && g->itl > 0) buf_str(out, " and");
    if (g->itl > 0) buf_printf(out, " ITL p99 <= %g ms", g->itl * 1e3);
    buf_printf(out, "%s, $%.2f per million tokens\n", any ? "" : " per token (no goal was given: --slo-ttft, --slo-itl)", r->r.usd_per_million);
}

/* What is refined of each program: the parts of a step that do not depend on contexts and links. */
static void write_programs(const plan_run *r, buf *out)
{
    char layout[32];
    layout_of(r, layout, sizeof layout);
    buf_printf(out, "\n%s, tp x dp %s: programs as %s estimates them, beside attention, experts and links\n", r->target, layout, r->r.compiler);
    buf_printf(out, "  %-20s %10s %10s %7s %13s %13s %10s\n", "program", "model ms", "refined ms", "ratio", "model GFLOP", "compiled", "compile s");
    for (int i = 0; i < r->r.n_programs; i++) {
        const refined_program *p = &r->r.programs[i];
        if (!p->known) buf_printf(out, "  %-20s %10.3f %10s %s\n", p->name, p->model_s * 1e3, "-", p->why);
        else buf_printf(out, "  %-20s %10.3f %10.3f %7.2f %13.1f %13.1f %10.1f\n", p->name, p->model_s * 1e3, p->refined_s * 1e3, p->refined_s / p->model_s, p->model_flops / 1e9, p->flops / 1e9, p->compile_s);
    }
}

void plan_sim_write_text(const plan_sims *s, buf *out)
{
    bool refused = false;
    write_workload(s, out);
    buf_printf(out, "  %-14s %5s %-10s %7s %8s %8s %9s %9s %7s %7s %8s %8s\n", "target", "chips", "tp x dp", "req/s", "out/s", "tokens/s", "TTFT p50", "p99", "ITL p50", "p99", "$/M", "$/M out");
    for (int i = 0; i < s->n; i++) {
        write_run(&s->v[i], i == s->best, out);
        refused = refused || (s->v[i].ran && s->v[i].r.n_refused > 0);
    }
    if (refused) buf_str(out, "  requests longer than --max-model-len were left out\n");
    write_best(s, out);
    for (int i = 0; i < s->n; i++)
        if (s->v[i].ran && s->v[i].r.n_programs > 0) write_programs(&s->v[i], out);
}

/* ---- JSON ---- */

static void put_series(jw *w, const char *name, const sim_series *x)
{
    jw_key(w, name);
    jw_obj(w);
    jw_put_f64(w, "mean", x->mean * 1e3);
    jw_put_f64(w, "p50", x->p50 * 1e3);
    jw_put_f64(w, "p90", x->p90 * 1e3);
    jw_put_f64(w, "p99", x->p99 * 1e3);
    jw_end_obj(w);
}

static void put_result(jw *w, const sim_result *x)
{
    jw_put_i64(w, "completed", (int64_t)x->n_completed);
    jw_put_i64(w, "refused", (int64_t)x->n_refused);
    jw_put_f64(w, "duration_s", x->seconds);
    jw_put_f64(w, "input_tokens", x->input_tokens);
    jw_put_f64(w, "output_tokens", x->output_tokens);
    jw_put_f64(w, "request_throughput", x->requests_per_s);
    jw_put_f64(w, "output_throughput", x->output_per_s);
    jw_put_f64(w, "total_token_throughput", x->total_per_s);
    put_series(w, "ttft_ms", &x->ttft);
    put_series(w, "tpot_ms", &x->tpot);
    put_series(w, "itl_ms", &x->itl);
    put_series(w, "e2el_ms", &x->e2e);
    jw_put_f64(w, "usd_per_hour", x->usd_per_hour);
    jw_put_f64(w, "usd_per_million_tokens", x->usd_per_million);
    jw_put_f64(w, "usd_per_million_output_tokens", x->usd_per_million_output);
    jw_put_i64(w, "steps", (int64_t)x->n_steps);
    jw_put_i64(w, "preemptions", (int64_t)x->n_preemptions);
    jw_put_f64(w, "prefix_hit_rate", x->hit_rate);
    jw_key(w, "step_seconds");
    jw_obj(w);
    jw_put_f64(w, "compute", x->spent.compute);
    jw_put_f64(w, "memory", x->spent.memory);
    jw_put_f64(w, "links", x->spent.links);
    jw_put_f64(w, "launch", x->spent.launch);
    jw_end_obj(w);
}

static void put_programs(jw *w, const sim_result *x)
{
    jw_put_str(w, "refined_by", x->compiler);
    jw_key(w, "programs");
    jw_arr(w);
    for (int i = 0; i < x->n_programs; i++) {
        const refined_program *p = &x->programs[i];
        jw_obj(w);
        jw_put_str(w, "name", p->name);
        jw_put_bool(w, "refined", p->known);
        jw_put_f64(w, "model_ms", p->model_s * 1e3);
        if (p->known) jw_put_f64(w, "refined_ms", p->refined_s * 1e3);
        if (p->by.cycles >= 0) jw_put_f64(w, "cycles", p->by.cycles);
        jw_put_f64(w, "model_flops", p->model_flops);
        if (p->flops >= 0) jw_put_f64(w, "product_flops", p->flops);
        if (p->compiler_flops >= 0) jw_put_f64(w, "compiler_flops", p->compiler_flops);
        if (p->compiler_bytes >= 0) jw_put_f64(w, "compiler_bytes", p->compiler_bytes);
        jw_put_i64(w, "open_loops", p->n_open);
        jw_put_f64(w, "compile_s", p->compile_s);
        if (!p->known) jw_put_str(w, "message", p->why);
        jw_end_obj(w);
    }
    jw_end_arr(w);
}

static void put_run(jw *w, const plan_run *r)
{
    jw_obj(w);
    jw_put_str(w, "target", r->target);
    jw_put_str(w, "chip", r->chip->name);
    jw_put_i64(w, "chips", r->n_chips);
    jw_put_i64(w, "tensor_parallel_size", r->on.tp);
    jw_put_i64(w, "data_parallel_size", r->on.dp);
    jw_put_bool(w, "expert_parallel", r->on.ep);
    jw_put_bool(w, "meets_goal", r->meets);
    if (r->ran) put_result(w, &r->r);
    if (r->ran && r->r.compiler[0]) put_programs(w, &r->r);
    else jw_put_str(w, "message", r->why);
    jw_end_obj(w);
}

void plan_sim_write_json(const plan_sims *s, jw *w)
{
    jw_key(w, "simulation");
    jw_obj(w);
    jw_put_i64(w, "requests", (int64_t)s->w.n);
    if (s->trace) jw_put_str(w, "trace", s->trace);
    else {
        jw_put_i64(w, "input_len", s->input_len);
        jw_put_i64(w, "output_len", s->output_len);
        jw_put_f64(w, "request_rate", s->w.rate);
    }
    jw_put_i64(w, "max_concurrency", s->w.max_concurrency);
    jw_put_f64(w, "slo_ttft_ms", s->goal.ttft * 1e3);
    jw_put_f64(w, "slo_itl_ms", s->goal.itl * 1e3);
    jw_key(w, "runs");
    jw_arr(w);
    for (int i = 0; i < s->n; i++) put_run(w, &s->v[i]);
    jw_end_arr(w);
    jw_key(w, "recommended");
    if (s->best >= 0) jw_i64(w, s->best);
    else jw_null(w);
    jw_end_obj(w);
}
