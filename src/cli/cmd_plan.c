/* `systolic plan`: what a model takes and where it fits, from its configuration alone: no weights, no compiler, no device. The
 * memory is counted as `systolic compile` and serve count it. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/command.h"
#include "cli/plan.h"
#include "cli/serve.h"

#define G "Plan"
static const flag_def own[] = {
    { "target", "-t", G, FLAG_LIST, FLAG_YES, NULL, NULL, NULL, "Devices to look at: v3, v4, v5e, v5p, v6e or v7x with a shape of chips, as in v6e:2x2 v5p:2x2x1 v6e-8; by default the smallest of each generation that holds the model." },
    { "input-len", "random-input-len", G, FLAG_INT, FLAG_YES, "1024", NULL, NULL, "Simulates requests with prompts of so many tokens. This flag or any of the following asks for a simulation." },
    { "output-len", "random-output-len", G, FLAG_INT, FLAG_YES, "128", NULL, NULL, "Tokens to generate for each." },
    { "num-prompts", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "How many requests (256; of a trace: all)." },
    { "prefix-len", "random-prefix-len", G, FLAG_INT, FLAG_YES, "0", NULL, NULL, "Tokens that all prompts begin with, before the others." },
    { "random-range-ratio", NULL, G, FLAG_NUM, FLAG_YES, "0.0", NULL, NULL, "Lengths vary by this share." },
    { "request-rate", NULL, G, FLAG_NUM, FLAG_YES, "inf", NULL, NULL, "Requests per second, Poisson; inf: all at once." },
    { "max-concurrency", NULL, G, FLAG_INT, FLAG_YES, NULL, NULL, NULL, "Most requests at a time." },
    { "trace", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Simulates the requests of this file: CSV (time, input tokens, output tokens) or one JSON object a line (timestamp, input_length, output_length, hash_ids)." },
    { "trace-duration", NULL, G, FLAG_NUM, FLAG_YES, NULL, NULL, NULL, "Arrivals of so many seconds; a shorter trace begins again." },
    { "slo-ttft", NULL, G, FLAG_NUM, FLAG_YES, NULL, NULL, NULL, "The recommended layout keeps the 99th percentile of the time to the first token below this (ms)." },
    { "slo-itl", NULL, G, FLAG_NUM, FLAG_YES, NULL, NULL, NULL, "The same for the time between tokens (ms)." },
    { "svg", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Folder for pictures: roofline.svg, latency.svg." },
    { "json", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "One JSON object on standard output instead of text." },
    { "list", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Lists the models that are known by name." },
};
#undef G

/* ---- figures ---- */

/* The weights of the model that this config.json describes, in a scheme. */
static status count_format(const compile_plan *p, const jv *config, const char *name, quant_scheme scheme, bool stored, plan_report *r)
{
    const dtype type = p->model.dt;
    const model_options o = { .weight_dtype = type, .quant = scheme };
    model_params params;
    model *m;
    TRY(model_new(config, &o, &m));
    model_count_params(model_graph(m), &params);
    model_free(m);
    params.bytes += (double)r->encoder_params * (double)dtype_bits(type) / 8;
    r->formats[r->n_formats++] = (plan_format){ name, stored, params.bytes };
    return ST_OK;
}

/* A quantised checkpoint's own format, then those of the same model without its quantisation. */
static status count_formats(const compile_plan *p, plan_report *r)
{
    static const struct { const char *name; quant_scheme scheme; } made[] = { { "fp8", QUANT_FP8 }, { "int8", QUANT_INT8 }, { "int4, groups of 128", QUANT_INT4_G128 } };
    const char *method = jv_get_str(jv_get(p->config, "quantization_config"), "quant_method", NULL);
    jv *plain = jv_copy(p->config);
    status st = plain ? ST_OK : err_nomem();
    if (st == ST_OK) jv_del(plain, "quantization_config");
    if (st == ST_OK && method) st = count_format(p, p->config, method, QUANT_NONE, true, r);
    if (st == ST_OK) st = count_format(p, plain, dtype_name(p->model.dt), QUANT_NONE, !method, r);
    for (size_t i = 0; i < sizeof made / sizeof *made && st == ST_OK; i++) st = count_format(p, plain, made[i].name, made[i].scheme, false, r);
    jv_free(plain);
    return st;
}

static status fit(const flags *f, compile_plan *p, plan_report *r)
{
    int n;
    const char *const *targets = flags_list(f, "target", &n);
    if (n > PLAN_MAX_TARGETS) return err_set(ST_INVALID, "--target: %d targets, at most %d", n, PLAN_MAX_TARGETS);
    if (n == 0) return plan_fit_all(p, r->fits, &r->n_fits);
    for (; r->n_fits < n; r->n_fits++) TRY(plan_fit_target(p, targets[r->n_fits], &r->fits[r->n_fits]));
    return ST_OK;
}

static status print(const plan_report *r, bool json)
{
    buf out = {0};
    status st = json ? plan_write_json(r, &out) : plan_write_text(r, &out);
    if (st == ST_OK) fwrite(out.data, 1, out.len, stdout);
    fflush(stdout);
    buf_free(&out);
    return st;
}

static status run_sims(const flags *f, compile_plan *p, const char *title_of, plan_sims **out)
{
    plan_sims *s = mem_calloc(1, sizeof *s);
    if (!s) return err_nomem();
    *out = s;
    TRY(plan_sim_open(f, s));
    TRY(plan_sim_run(f, p, s));
    return flags_str(f, "svg") ? plan_write_svg(p, title_of, s, flags_str(f, "svg")) : ST_OK;
}

static status plan(const flags *f, plan_report *r)
{
    compile_plan p;
    TRY(compile_plan_model(f, flags_str(f, "model"), &p));
    p.on = compile_plan_mesh(f);
    r->p = &p;
    r->name = flags_str(f, "model");
    r->published = preset_find(r->name);
    if (r->published) r->name = r->published->name;
    model_count_params(model_graph(p.model.m), &r->params);
    r->n_kinds = model_kv_kinds(model_graph(p.model.m), r->kinds);
    status st = model_count_encoders(p.config, p.model.dt, &r->encoder_params);
    if (st == ST_OK) st = count_formats(&p, r);
    if (st == ST_OK) st = fit(f, &p, r);
    plan_sims *sims = NULL;
    if (st == ST_OK && plan_sim_wanted(f)) st = run_sims(f, &p, r->name, &sims);
    r->sims = sims;
    if (st == ST_OK) st = print(r, flags_bool(f, "json", false));
    if (sims) plan_sim_free(sims);
    mem_free(sims);
    compile_plan_free(&p);
    return st;
}

static void list(void)
{
    const preset *x;
    for (int i = 0; (x = preset_at(i)); i++) printf("%-36s %9.2f billion parameters\n", x->name, (double)x->n_params / 1e9);
}

/* ---- the command ---- */

int plan_main(int argc, char **argv)
{
    flag_set set = { .prog = "systolic plan", .summary = "Tells what a model takes and on which TPUs it fits, from its config.json or its name alone.",
                     .positional = "model", .positional_flag = "model", .config = true };
    flag_def *table;
    flags *f;
    int rc;
    if (serve_flags_with(own, (int)(sizeof own / sizeof *own), false, &table, &set.n_defs) != ST_OK) return command_failed(&set);
    set.defs = table;
    if (!getenv("VLLM_LOGGING_LEVEL")) log_set_level(LOG_WARNING);
    if (command_flags(&set, argc, argv, &f, &rc)) {
        plan_report *r = mem_calloc(1, sizeof *r);
        status st = r ? instance_check_flags(f) : err_nomem();
        const bool usable = st == ST_OK;
        if (usable && flags_bool(f, "list", false)) list();
        else if (usable) st = plan(f, r);
        if (st != ST_OK) command_failed(&set);
        rc = !usable ? COMMAND_USAGE : st != ST_OK;
        mem_free(r);
        flags_free(f);
    }
    mem_free(table);
    return rc;
}
