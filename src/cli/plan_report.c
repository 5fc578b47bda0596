/* What `systolic plan` prints. */
#include <math.h>

#include "cli/plan.h"

static const double GB = 1e9, GIB = 1024.0 * 1024 * 1024;

static double kv_bytes(const plan_report *r, double elements) { return elements * (double)dtype_bits(r->p->model.kv_dt) / 8; }

/* Bytes that a token adds for good, and those that a sequence keeps in windows and chunks at most. */
static void kv_totals(const plan_report *r, double *per_token, double *bounded)
{
    *per_token = *bounded = 0;
    for (int i = 0; i < r->n_kinds; i++) {
        const model_kv_kind *k = &r->kinds[i];
        double bytes = kv_bytes(r, (double)k->elements) * k->n_layers;
        if (k->reach) *bounded += bytes * (double)k->reach;
        else *per_token += bytes;
    }
}

/* ---- text ---- */

static void write_params(const plan_report *r, buf *out)
{
    const model_info *m = model_describe(r->p->model.m);
    const model_params *x = &r->params;
    buf_printf(out, "%s (%s)\n", r->name, m->architecture);
    int64_t total = x->total + r->encoder_params;
    buf_printf(out, "  parameters        %.3f billion (%lld)", (double)total / GB, (long long)total);
    if (r->published) {
        double off = 100 * ((double)total / (double)r->published->n_params - 1);
        if (total == r->published->n_params) buf_str(out, ", as published");
        else buf_printf(out, "; published %.3f billion, %+.2f%%", (double)r->published->n_params / GB, off);
    }
    buf_str(out, "\n");
    if (r->encoder_params) buf_printf(out, "  of these          %.3f billion in encoders of images and sounds\n", (double)r->encoder_params / GB);
    if (x->active != x->total) buf_printf(out, "  active per token  %.3f billion, %.3f without the embedding table\n", (double)x->active / GB, (double)(x->active - x->embedding) / GB);
    buf_printf(out, "  context           %d tokens\n", m->max_model_len);
}

static void write_formats(const plan_report *r, buf *out)
{
    buf_str(out, "\nweights\n");
    for (int i = 0; i < r->n_formats; i++)
        buf_printf(out, "  %-20s %10.2f GB%s\n", r->formats[i].name, r->formats[i].bytes / GB, r->formats[i].stored ? "  as the checkpoint stores them" : "");
}

static void write_kv(const plan_report *r, buf *out)
{
    double per_token, bounded;
    kv_totals(r, &per_token, &bounded);
    buf_printf(out, "\nKV cache (%s)\n", dtype_name(r->p->model.kv_dt));
    for (int i = 0; i < r->n_kinds; i++) {
        const model_kv_kind *k = &r->kinds[i];
        buf_printf(out, "  %3d layers %-7s %8.0f bytes per token and layer", k->n_layers, k->name, kv_bytes(r, (double)k->elements));
        if (k->reach) buf_printf(out, ", of %lld tokens at most", (long long)k->reach);
        buf_str(out, "\n");
    }
    buf_printf(out, "  %.0f bytes per token", per_token);
    if (bounded > 0) buf_printf(out, " and at most %.2f GiB per sequence in windows", bounded / GIB);
    buf_printf(out, "; a sequence of %d tokens takes %.2f GiB at most\n", r->p->model.eo.max_model_len, (per_token * r->p->model.eo.max_model_len + bounded) / GIB);
}

static void write_fits(const plan_report *r, buf *out)
{
    buf_printf(out, "\non TPUs (%s weights, KV %s; each device: usable memory, weights, what is left for KV; tp: tensor ranks, dp: replicas)\n",
               dtype_name(r->p->model.dt), dtype_name(r->p->model.kv_dt));
    buf_printf(out, "  %-12s %5s %8s %9s %9s %9s  %-12s %s\n", "target", "chips", "tp x dp", "memory", "weights", "KV", "KV tokens", "");
    for (int i = 0; i < r->n_fits; i++) {
        const plan_fit *f = &r->fits[i];
        char layout[32];
        snprintf(layout, sizeof layout, "%d x %d", f->on.tp, f->on.dp);
        if (f->memory_bytes == 0) {
            buf_printf(out, "  %-12s %5d  %s\n", f->target, f->n_chips, f->why);
            continue;
        }
        buf_printf(out, "  %-12s %5d %8s %9.2f %9.2f %9.2f  ", f->target, f->n_chips, layout, (double)f->memory_bytes / GIB, (double)f->weight_bytes / GIB,
                   fmax(0, (double)f->kv_bytes) / GIB);
        if (f->fits) buf_printf(out, "%-12lld fits: %lld sequence%s of %d tokens\n", (long long)f->kv_tokens, (long long)f->sequences, f->sequences == 1 ? "" : "s", r->p->model.eo.max_model_len);
        else buf_printf(out, "%-12s does not fit: %.2f GiB too little on each device\n", "-", (double)f->shortfall_bytes / GIB);
    }
}

status plan_write_text(const plan_report *r, buf *out)
{
    write_params(r, out);
    write_formats(r, out);
    write_kv(r, out);
    write_fits(r, out);
    if (r->sims) plan_sim_write_text(r->sims, out);
    return buf_status(out);
}

/* ---- JSON ---- */

static void json_params(jw *w, const plan_report *r)
{
    jw_key(w, "parameters");
    jw_obj(w);
    jw_put_i64(w, "total", r->params.total + r->encoder_params);
    jw_put_i64(w, "encoders", r->encoder_params);
    jw_put_i64(w, "active", r->params.active);
    jw_put_i64(w, "embedding", r->params.embedding);
    if (r->published) jw_put_i64(w, "published", r->published->n_params);
    jw_end_obj(w);
}

static void json_weights(jw *w, const plan_report *r)
{
    jw_key(w, "weights");
    jw_arr(w);
    for (int i = 0; i < r->n_formats; i++) {
        jw_obj(w);
        jw_put_str(w, "format", r->formats[i].name);
        jw_put_bool(w, "stored", r->formats[i].stored);
        jw_put_i64(w, "bytes", (int64_t)r->formats[i].bytes);
        jw_end_obj(w);
    }
    jw_end_arr(w);
}

static void json_kv(jw *w, const plan_report *r)
{
    double per_token, bounded;
    kv_totals(r, &per_token, &bounded);
    jw_key(w, "kv");
    jw_obj(w);
    jw_put_str(w, "dtype", dtype_name(r->p->model.kv_dt));
    jw_put_i64(w, "bytes_per_token", (int64_t)per_token);
    jw_put_i64(w, "bounded_bytes", (int64_t)bounded);
    jw_key(w, "kinds");
    jw_arr(w);
    for (int i = 0; i < r->n_kinds; i++) {
        jw_obj(w);
        jw_put_str(w, "kind", r->kinds[i].name);
        jw_put_i64(w, "layers", r->kinds[i].n_layers);
        jw_put_i64(w, "reach", r->kinds[i].reach);
        jw_put_i64(w, "bytes_per_token_and_layer", (int64_t)kv_bytes(r, (double)r->kinds[i].elements));
        jw_end_obj(w);
    }
    jw_end_arr(w);
    jw_end_obj(w);
}

static void json_fit(jw *w, const plan_fit *f)
{
    jw_obj(w);
    jw_put_str(w, "target", f->target);
    jw_put_i64(w, "chips", f->n_chips);
    jw_put_i64(w, "devices", f->n_devices);
    jw_put_bool(w, "fits", f->fits);
    jw_put_i64(w, "tensor_parallel_size", f->on.tp);
    jw_put_i64(w, "data_parallel_size", f->on.dp);
    jw_put_bool(w, "expert_parallel", f->on.ep);
    jw_put_i64(w, "memory_bytes_per_device", f->memory_bytes);
    jw_put_i64(w, "weight_bytes_per_device", f->weight_bytes);
    jw_put_i64(w, "kv_bytes_per_device", f->kv_bytes > 0 ? f->kv_bytes : 0);
    jw_put_i64(w, "kv_bytes_per_token_per_device", f->token_bytes);
    jw_put_i64(w, "kv_tokens", f->kv_tokens);
    jw_put_i64(w, "max_sequences", f->sequences);
    jw_put_i64(w, "shortfall_bytes", f->shortfall_bytes);
    jw_key(w, "message");
    if (f->why[0]) jw_str(w, f->why);
    else jw_null(w);
    jw_end_obj(w);
}

status plan_write_json(const plan_report *r, buf *out)
{
    jw w = jw_to(out);
    jw_obj(&w);
    jw_put_str(&w, "model", r->name);
    jw_put_str(&w, "architecture", model_describe(r->p->model.m)->architecture);
    jw_put_str(&w, "dtype", dtype_name(r->p->model.dt));
    jw_put_i64(&w, "max_model_len", r->p->model.eo.max_model_len);
    json_params(&w, r);
    json_weights(&w, r);
    json_kv(&w, r);
    jw_key(&w, "targets");
    jw_arr(&w);
    for (int i = 0; i < r->n_fits; i++) json_fit(&w, &r->fits[i]);
    jw_end_arr(&w);
    if (r->sims) plan_sim_write_json(r->sims, &w);
    jw_end_obj(&w);
    buf_char(out, '\n');
    return buf_status(out);
}
