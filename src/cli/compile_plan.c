/* What would run: the model, cut for the target's devices, and the KV cache that serve would make there. Its number of blocks is
 * part of every program, so it is counted by the engine's own rules. */
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/attention.h"
#include "cli/compile.h"
#include "cli/serve_model.h"
#include "engine/options.h"
#include "tpu/slice.h"

static const double GIB = 1024.0 * 1024 * 1024;

/* ---- the model ---- */

static status plan_model(const flags *f, const char *where, compile_plan *p)
{
    TRY(instance_read_config(f, where, &p->config, &p->model.files));
    TRY(merge_json(p->config, flags_json(f, "hf-overrides")));
    TRY(instance_plan(&p->model, p->config, &p->c.limits));
    p->utilization = flags_f64(f, "gpu-memory-utilization", 0.92);
    return compile_encoders_open(p);
}

mesh compile_plan_mesh(const flags *f)
{
    mesh m = instance_mesh(f);
    m.dp = (int)instance_i64(f, "data-parallel-size", 1);
    return m;
}

status compile_plan_cut(compile_plan *p, mesh on)
{
    graph *g;
    TRY(model_graph_for(p->model.m, on, true, &g));
    if (p->c.plan) program_context_free(&p->c);
    graph_free(p->g);
    p->g = g;
    p->on = on;
    return ST_OK;
}

status compile_plan_model(const flags *f, const char *where, compile_plan *out)
{
    compile_plan p = { .model.f = f };
    status st = plan_model(f, where, &p);
    if (st == ST_OK) *out = p;
    else compile_plan_free(&p);
    return st;
}

void compile_plan_free(compile_plan *p)
{
    if (p->c.plan) program_context_free(&p->c);
    graph_free(p->g);
    compile_encoders_close(p);
    instance_close(&p->model, 0);
    jv_free(p->config);
    *p = (compile_plan){0};
}

/* ---- the target ---- */

static status check_devices(const char *target, const pjrt_target_info *info, const mesh *m)
{
    if ((int64_t)m->dp * m->tp <= info->n_devices) return ST_OK;
    if (m->dp > 1)
        return err_set(ST_INVALID, "--data-parallel-size %d times --tensor-parallel-size %d is %lld devices, target %s has %d", m->dp, m->tp,
                       (long long)m->dp * m->tp, target, info->n_devices);
    return err_set(ST_INVALID, "--tensor-parallel-size %d is more than the %d devices of target %s", m->tp, info->n_devices, target);
}

static void explain_misfit(compile_plan *p, int64_t need)
{
    double usable = (double)p->memory_bytes * p->utilization, weights = (double)program_weight_bytes(&p->c);
    snprintf(p->misfit, sizeof p->misfit,
             "does not fit: each device has %.2f GiB, of which %.2f may be used (--gpu-memory-utilization %g); weights take %.2f GiB, steps about %.2f and "
             "KV at least %.2f (%s), which is %.2f GiB too much per device. %s",
             (double)p->memory_bytes / GIB, usable / GIB, p->utilization, weights / GIB, (usable - weights - (double)p->kv_bytes) / GIB, (double)need / GIB,
             p->n_blocks > 0 ? "as the flags ask" : "one sequence of max-model-len", (double)p->shortfall_bytes / GIB,
             weights < usable && p->kv_bytes > 0 ? "A smaller --max-model-len or a larger --tensor-parallel-size helps." : "A larger --tensor-parallel-size or a target with more memory helps.");
}

/* As an instance with a device does it: device_kv_bytes, then the engine's count. */
static status count_blocks(compile_plan *p)
{
    engine_options o = p->model.eo;
    const engine_device dev = { .name = p->target.platform, .kv = p->c.plan->groups, .free_bytes = p->memory_bytes - p->target.device.used_bytes };
    int64_t page = program_page_bytes(&p->c), need;
    bool known = p->memory_bytes > 0;
    p->seq_blocks = options_seq_blocks(&o, &dev);
    p->kv_bytes = known ? program_kv_bytes(&p->c, p->memory_bytes, p->utilization) - p->encoder_bytes : 0;
    if (known && o.kv_cache_bytes == 0) o.kv_cache_bytes = p->kv_bytes > 0 ? p->kv_bytes : 1;
    status st = options_count_blocks(&o, &dev, page, &p->n_blocks);
    if (st != ST_OK) p->n_blocks = 0;
    if (!known || st == ST_NOMEM) return st;
    need = page * (p->n_blocks > 0 ? p->n_blocks : p->seq_blocks + 1);
    if (need > p->kv_bytes) {
        p->shortfall_bytes = need - p->kv_bytes;
        explain_misfit(p, need);
        return ST_OK;
    }
    p->c.lower.n_pages = p->n_blocks;
    return st;
}

status compile_target_known(const char *target, pjrt_target_info *out, const chip **chip_out)
{
    const char *options = strchr(target, '?');
    tpu_slice s;
    TRY(tpu_slice_parse(target, strcspn(target, "?"), &s));
    if (options && strstr(options, "megacore") && chip_by_kind(s.chip->kind, 2)) s.chip = chip_by_kind(s.chip->kind, 2);
    *out = (pjrt_target_info){ .n_devices = tpu_slice_devices(&s), .device = { .memory_bytes = s.chip->hbm_usable_bytes, .n_cores = s.chip->cores } };
    snprintf(out->platform, sizeof out->platform, "tpu");
    snprintf(out->device.kind, sizeof out->device.kind, "%s", s.chip->kind);
    *chip_out = s.chip;
    return ST_OK;
}

status compile_plan_target(const char *target, const pjrt_target_info *info, compile_plan *p)
{
    p->misfit[0] = 0;
    p->shortfall_bytes = 0;
    p->target = *info;
    p->memory_bytes = info->device.memory_bytes;
    p->chip = chip_by_kind(info->device.kind, info->device.n_cores);
    TRY(check_devices(target, info, &p->on));
    device_limits limits = p->c.limits;
    TRY(attention_apply(p->model.f, p->g, p->chip, &limits));
    p->model.eo.block_size = limits.block_size;
    TRY(program_context_new(p->g, &limits, graph_activation_type(p->g), &p->c));
    TRY(count_blocks(p));
    if (!p->misfit[0]) p->c.lower.n_pages = p->n_blocks;
    return ST_OK;
}

int64_t compile_token_bytes(const compile_plan *p) { return program_page_bytes(&p->c) * p->c.plan->groups.n_groups / p->c.lower.page; }

/* KV blocks of one device; page 0 is padding's. */
static int64_t usable_blocks(const compile_plan *p)
{
    int64_t blocks = p->memory_bytes > 0 ? p->kv_bytes / program_page_bytes(&p->c) : p->n_blocks;
    return blocks > 1 ? blocks - 1 : 0;
}

int64_t compile_kv_tokens(const compile_plan *p) { return usable_blocks(p) / p->c.plan->groups.n_groups * p->c.lower.page * p->on.dp; }
int64_t compile_kv_sequences(const compile_plan *p) { return usable_blocks(p) / p->seq_blocks * p->on.dp; }

/* ---- the programs ---- */

/* Marks the bucket that serves "decode:N" or "step:N". */
static status choose(const compile_plan *p, const char *item, size_t len, bool *chosen)
{
    const bucket_list *l = &p->c.buckets;
    const char *colon = memchr(item, ':', len);
    size_t kind = colon ? (size_t)(colon - item) : len;
    bool decode = kind == 6 && memcmp(item, "decode", 6) == 0;
    int n = 0, digits = 0;
    for (size_t i = kind + 1; colon && i < len && digits < 9 && item[i] >= '0' && item[i] <= '9'; i++, digits++) n = 10 * n + (item[i] - '0');
    if (n < 1 || kind + 1 + (size_t)digits != len || (!decode && !(kind == 4 && memcmp(item, "step", 4) == 0)))
        return err_set(ST_INVALID, "argument --buckets: \"%.*s\": decode:SEQUENCES, step:TOKENS or encoder:ROWS is expected", (int)len, item);
    for (int i = 0; i < l->n; i++)
        if (l->v[i].decode == decode && l->v[i].tokens >= n) {
            chosen[i] = true;
            return ST_OK;
        }
    return err_set(ST_INVALID, "argument --buckets: %.*s is beyond the largest bucket: --max-num-seqs is %d, --max-num-batched-tokens %d", (int)len, item,
                   p->c.limits.max_seqs, p->c.limits.max_tokens);
}

static status choose_all(const compile_plan *p, const char *text, bool *chosen)
{
    for (int i = 0; i < p->c.buckets.n; i++) chosen[i] = !text;
    while (text && *text) {
        size_t n = strcspn(text, ",");
        if (!compile_names_encoder(text)) TRY(choose(p, text, n, chosen));
        text += n + (text[n] == ',');
    }
    return ST_OK;
}

status compile_jobs_make(const compile_plan *p, const char *buckets, bool samplers, compile_jobs *out)
{
    enum { MOST = 3 * MAX_BUCKETS };
    bool chosen[MAX_BUCKETS];
    sampler_kind usual[MOST];
    TRY(choose_all(p, buckets, chosen));
    compile_jobs j = { .v = mem_calloc(MAX_BUCKETS + MOST + COMPILE_STAGES * MAX_BUCKETS, sizeof *j.v) };
    if (!j.v) return err_nomem();
    for (int i = 0; i < p->c.buckets.n; i++)
        if (chosen[i]) program_step_spec(&p->c, i, &j.v[j.n++].spec);
    const int n_steps = j.n, n = samplers ? program_usual_samplers(&p->c, usual, MOST) : 0;
    for (int i = 0; i < n; i++) {
        bool wanted = false;
        for (int k = 0; k < n_steps; k++) wanted = wanted || j.v[k].spec.bucket.rows == usual[i].rows;
        if (wanted) program_sampler_spec(&usual[i], &j.v[j.n++].spec);
    }
    status st = compile_encoder_jobs(p, buckets, &j);
    if (st == ST_OK) *out = j;
    else compile_jobs_free(&j);
    return st;
}

void compile_jobs_free(compile_jobs *j)
{
    mem_free(j->v);
    *j = (compile_jobs){0};
}
