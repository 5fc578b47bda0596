/* Targets from the chip table, and the layout of a model on one: as few tensor ranks as hold it, the rest are replicas. */
#include <string.h>

#include "cli/plan.h"

/* Topologies that Google rents, smallest first (docs.cloud.google.com/tpu/docs, each generation's page). */
static const char *const topologies[] = {
    "v3:2x2x1", "v3:4x4x1", "v3:8x8x1", "v3:16x16x1",
    "v4:2x2x1", "v4:2x2x2", "v4:2x2x4", "v4:2x4x4", "v4:4x4x4", "v4:4x4x8",
    "v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8", "v5e:8x16", "v5e:16x16",
    "v5p:2x2x1", "v5p:2x2x2", "v5p:2x2x4", "v5p:2x4x4", "v5p:4x4x4",
    "v6e:1x1", "v6e:2x2", "v6e:2x4", "v6e:4x4", "v6e:4x8", "v6e:8x8", "v6e:8x16", "v6e:16x16",
    "v7x:1x1x1", "v7x:2x2x1", "v7x:2x2x2", "v7x:2x2x4", "v7x:2x4x4", "v7x:4x4x4",
};
enum { N_TOPOLOGIES = sizeof topologies / sizeof *topologies };

static size_t generation_len(const char *target) { return strcspn(target, ":-?"); }

static status parse_target(const char *text, plan_fit *out)
{
    sim_target t;
    *out = (plan_fit){ 0 };
    TRY(sim_target_parse(text, &t));
    const step_machine *m = &t.machine;
    snprintf(out->target, sizeof out->target, "%s", t.name);
    out->chip = m->chip;
    out->n_chips = m->shape[0] * m->shape[1] * m->shape[2] * m->n_slices;
    out->n_devices = step_machine_devices(m);
    return ST_OK;
}

static void describe_device(const plan_fit *f, pjrt_target_info *out)
{
    *out = (pjrt_target_info){ .n_devices = f->n_devices, .device = { .memory_bytes = f->chip->hbm_usable_bytes, .n_cores = f->chip->cores } };
    snprintf(out->platform, sizeof out->platform, "tpu");
    snprintf(out->device.kind, sizeof out->device.kind, "%s", f->chip->kind);
}

/* Ranks share experts out: there are more of them than heads. */
static bool has_experts(const graph *g)
{
    for (int id = 1; id <= graph_n_nodes(g); id++)
        if (graph_at(g, id)->op == OP_EXPERTS) return true;
    return false;
}

static status try_ranks(compile_plan *p, plan_fit *f, int tp, bool ep)
{
    pjrt_target_info info;
    describe_device(f, &info);
    TRY(compile_plan_cut(p, (mesh){ .dp = f->n_devices / tp, .tp = tp, .sp = p->on.sp && tp > 1, .ep = ep }));
    TRY(compile_plan_target(f->target, &info, p));
    f->on = p->on;
    f->fits = !p->misfit[0];
    f->memory_bytes = p->memory_bytes;
    f->weight_bytes = program_weight_bytes(&p->c);
    f->kv_bytes = p->kv_bytes;
    f->token_bytes = compile_token_bytes(p);
    f->kv_tokens = f->fits ? compile_kv_tokens(p) : 0;
    f->sequences = f->fits ? compile_kv_sequences(p) : 0;
    f->shortfall_bytes = p->shortfall_bytes;
    snprintf(f->why, sizeof f->why, "%s", p->misfit);
    return ST_OK;
}

const char *plan_topology(int i) { return i >= 0 && i < N_TOPOLOGIES ? topologies[i] : NULL; }

status plan_fit_layout(compile_plan *p, const char *text, int tp, bool ep, plan_fit *out)
{
    TRY(parse_target(text, out));
    if (tp < 1 || out->n_devices % tp) return err_set(ST_INVALID, "%d tensor ranks do not divide %d devices", tp, out->n_devices);
    if (ep && (tp == 1 || !has_experts(model_graph(p->model.m)))) return err_set(ST_INVALID, "no experts to lie on %d ranks", tp);
    return try_ranks(p, out, tp, ep);
}

status plan_fit_target(compile_plan *p, const char *text, plan_fit *out)
{
    bool cut = false;
    const bool experts = has_experts(model_graph(p->model.m));
    TRY(parse_target(text, out));
    for (int tp = 1; tp <= out->n_devices && !out->fits; tp++) {
        if (out->n_devices % tp) continue;
        status st = try_ranks(p, out, tp, experts && tp > 1);
        if (st == ST_NOMEM) return st;
        if (st == ST_OK) cut = true;
        else if (!cut) err_copy(out->why, sizeof out->why);
    }
    return ST_OK;
}

status plan_fit_all(compile_plan *p, plan_fit out[PLAN_MAX_TARGETS], int *n)
{
    *n = 0;
    for (int i = 0; i < N_TOPOLOGIES; i++) {
        const bool same = *n > 0 && generation_len(topologies[i]) == generation_len(out[*n - 1].target) &&
                          strncmp(topologies[i], out[*n - 1].target, generation_len(topologies[i])) == 0;
        if (same && out[*n - 1].fits) continue;
        if (!same) (*n)++;
        TRY(plan_fit_target(p, topologies[i], &out[*n - 1]));
    }
    return ST_OK;
}
