/* What `systolic compile` tells: a line per program while it works, then a table or one JSON object. */
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/attention.h"
#include "cli/compile.h"

static const double MIB = 1024.0 * 1024, GIB = 1024.0 * 1024 * 1024;

static const char *kind_of(const program_spec *s) { return s->sampler ? "sampler" : s->bucket.encoder ? "encoder" : s->bucket.decode ? "decode" : "step"; }
static int tokens_of(const program_spec *s) { return s->sampler ? s->kind.rows : s->bucket.tokens; }
static int seqs_of(const program_spec *s) { return s->sampler ? s->kind.rows : s->bucket.seqs; }

static int count(const compile_jobs *j, bool cached)
{
    int n = 0;
    for (int i = 0; i < j->n; i++) n += cached ? j->v[i].cached : j->v[i].error[0] != 0;
    return n;
}

/* ---- progress, on standard error ---- */

void compile_say_start(const compile_jobs *j, int i)
{
    if (!isatty(STDERR_FILENO)) return;
    fprintf(stderr, "[%d/%d] %s ...", i + 1, j->n, j->v[i].spec.name);
    fflush(stderr);
}

void compile_say_end(const compile_plan *p, const compile_jobs *j, int i)
{
    const compile_job *x = &j->v[i];
    const char *again = isatty(STDERR_FILENO) ? "\r\033[K" : "";
    if (x->error[0]) {
        fprintf(stderr, "%s[%d/%d] %s: FAILED: %s\n", again, i + 1, j->n, x->spec.name, x->error);
        return;
    }
    fprintf(stderr, "%s[%d/%d] %s %s%.1f s, temporaries %.1f MiB\n", again, i + 1, j->n, x->spec.name, x->cached ? "from the cache, " : "", x->seconds, (double)x->stats.temp_bytes / MIB);
    if (x->copies_cache)
        fprintf(stderr, "WARNING: %s COPIES THE KV CACHE: %.1f MiB of temporaries are more than one layer's cache (%.1f MiB). Steps will be slow; please report this.\n",
                x->spec.name, (double)x->stats.temp_bytes / MIB, (double)program_layer_cache_bytes(&p->c) / MIB);
}

void compile_say_plan(const compile_report *r, FILE *f)
{
    const compile_plan *p = r->p;
    const model_info *m = model_describe(p->model.m);
    fprintf(f, "%s (%s, %.2f billion parameters, %s) on %d of %d x %s (%s)\n", r->model, m->architecture, (double)m->n_params / 1e9, dtype_name(p->model.dt),
            p->on.dp * p->on.tp, p->target.n_devices, p->target.device.kind, r->target);
    fprintf(f, "each device: memory %.2f GiB, weights %.2f GiB, KV %lld bytes per token\n", (double)p->memory_bytes / GIB, (double)program_weight_bytes(&p->c) / GIB,
            (long long)compile_token_bytes(p));
    if (p->n_stages) fprintf(f, "of the memory of each device %.2f GiB are for encoders of images and sounds\n", (double)p->encoder_bytes / GIB);
    if (p->misfit[0]) {
        fprintf(f, "%s\n", p->misfit);
        return;
    }
    fprintf(f, "room for %lld tokens of KV, %lld sequences of %d tokens; serve makes %d blocks of %d tokens\n", (long long)compile_kv_tokens(p),
            (long long)compile_kv_sequences(p), p->model.eo.max_model_len, p->n_blocks, p->c.lower.page);
}

/* ---- the table ---- */

static void table_row(const compile_plan *p, const compile_job *x, buf *out)
{
    (void)p;
    buf_printf(out, "%-28s ", x->spec.name);
    if (x->error[0]) {
        buf_printf(out, "FAILED: %s\n", x->error);
        return;
    }
    buf_printf(out, "%8.1f%s %9.1f %9.1f %8.2f ", x->cached ? x->stats.compile_s : x->seconds, x->cached ? "*" : " ", x->work.flops / 1e9, x->work.bytes / MIB,
               (double)x->stats.code_bytes / MIB);
    buf_printf(out, "%9.1f ", (double)x->stats.temp_bytes / MIB);
    if (x->step_s >= 0) buf_printf(out, "%9.3f", x->step_s * 1e3);
    else buf_printf(out, "%9s", "-");
    buf_printf(out, "%s\n", x->copies_cache ? "  COPIES THE KV CACHE" : "");
}

status compile_write_table(const compile_report *r, buf *out)
{
    const int cached = count(r->jobs, true), failed = count(r->jobs, false);
    buf_printf(out, "%-28s %9s %9s %9s %8s %9s %9s\n", "program", "compile s", "GFLOP", "HBM MiB", "code MiB", "temp MiB", "step ms");
    for (int i = 0; i < r->jobs->n; i++) table_row(r->p, &r->jobs->v[i], out);
    buf_printf(out, "%d programs in %.1f s: %d compiled, %d from the cache (*: seconds it took then), %d failed; %s in %s\n", r->jobs->n, r->seconds,
               r->jobs->n - cached - failed, cached, failed, r->compiler[0] ? r->compiler : r->p->target.platform, r->cache_dir);
    return buf_status(out);
}

/* ---- JSON ---- */


/* -1 in statistics: the compiler does not say. */
static void put_size(jw *w, const char *key, int64_t v)
{
    jw_key(w, key);
    if (v < 0) jw_null(w);
    else jw_i64(w, v);
}
static void put_real(jw *w, const char *key, double v)
{
    jw_key(w, key);
    if (v < 0) jw_null(w);
    else jw_f64(w, v);
}

/* room_bytes: what the plan sets aside for the largest program of this kind, a measure for its temporaries. */
static void json_program(jw *w, const compile_plan *p, const compile_job *x)
{
    const bool ok = x->done && !x->error[0];
    jw_obj(w);
    jw_put_str(w, "name", x->spec.name);
    jw_put_str(w, "kind", kind_of(&x->spec));
    jw_put_i64(w, "tokens", tokens_of(&x->spec));
    jw_put_i64(w, "seqs", seqs_of(&x->spec));
    put_real(w, "compile_s", !ok ? -1 : x->cached ? x->stats.compile_s : x->seconds);
    jw_put_bool(w, "cached", x->cached);
    jw_put_f64(w, "flops", x->work.flops);
    jw_put_f64(w, "bytes", x->work.bytes);
    jw_put_f64(w, "link_bytes", x->work.link_bytes);
    put_real(w, "step_s", x->step_s);
    put_size(w, "argument_bytes", ok ? x->stats.argument_bytes : -1);
    put_size(w, "temp_bytes", ok ? x->stats.temp_bytes : -1);
    put_size(w, "room_bytes", x->spec.sampler ? -1 : program_step_bytes(x->c ? x->c : &p->c));
    put_size(w, "code_bytes", ok ? x->stats.code_bytes : -1);
    put_size(w, "alias_bytes", ok ? x->stats.alias_bytes : -1);
    put_real(w, "compiler_flops", ok ? x->stats.flops : -1);
    put_real(w, "compiler_bytes", ok ? x->stats.bytes : -1);
    jw_put_bool(w, "copies_cache", x->copies_cache);
    jw_key(w, "error");
    if (x->error[0]) jw_str(w, x->error);
    else jw_null(w);
    jw_end_obj(w);
}

static void json_model(jw *w, const compile_report *r)
{
    const compile_plan *p = r->p;
    const model_info *m = model_describe(p->model.m);
    jw_put_str(w, "model", r->model);
    jw_put_str(w, "architecture", m->architecture);
    jw_put_i64(w, "parameters", m->n_params);
    jw_put_str(w, "dtype", dtype_name(p->model.dt));
    jw_put_str(w, "kv_cache_dtype", dtype_name(p->model.kv_dt));
    jw_put_i64(w, "max_model_len", p->model.eo.max_model_len);
    jw_put_i64(w, "max_num_seqs", p->model.eo.max_num_seqs);
    jw_put_i64(w, "max_num_batched_tokens", p->model.eo.max_num_batched_tokens);
    jw_put_i64(w, "block_size", p->c.lower.page);
}

static void json_target(jw *w, const compile_report *r)
{
    const compile_plan *p = r->p;
    jw_put_str(w, "target", r->target);
    jw_put_str(w, "device_kind", p->target.device.kind);
    jw_put_i64(w, "devices", p->target.n_devices);
    jw_put_i64(w, "tensor_parallel_size", p->on.tp);
    jw_put_i64(w, "data_parallel_size", p->on.dp);
    jw_put_bool(w, "sequence_parallel", p->on.sp);
    jw_put_str(w, "platform", p->target.platform);
    jw_put_str(w, "platform_version", p->target.version);
    jw_put_str(w, "compiler", r->compiler);
}

static void json_memory(jw *w, const compile_plan *p)
{
    put_size(w, "memory_bytes", p->memory_bytes > 0 ? p->memory_bytes : -1);
    jw_put_f64(w, "gpu_memory_utilization", p->utilization);
    jw_put_i64(w, "weight_bytes_per_device", program_weight_bytes(&p->c));
    jw_put_i64(w, "encoder_bytes_per_device", p->encoder_bytes);
    jw_put_i64(w, "kv_bytes_per_token_per_device", compile_token_bytes(p));
    jw_put_i64(w, "kv_bytes_per_token", compile_token_bytes(p) * p->on.tp);
    put_size(w, "kv_bytes_per_device", p->memory_bytes <= 0 ? -1 : p->kv_bytes > 0 ? p->kv_bytes : 0);
    jw_put_i64(w, "kv_tokens", compile_kv_tokens(p));
    jw_put_i64(w, "max_sequences", compile_kv_sequences(p));
    jw_put_i64(w, "kv_blocks", p->n_blocks);
    jw_put_bool(w, "fits", p->shortfall_bytes == 0);
    jw_put_i64(w, "shortfall_bytes", p->shortfall_bytes);
    jw_key(w, "message");
    if (p->misfit[0]) jw_str(w, p->misfit);
    else jw_null(w);
}

/* null where there is no TPU. */
static void json_attention(jw *w, const compile_plan *p)
{
    attention_view v;
    jw_key(w, "attention");
    if (attention_look(p->g, &p->c.limits, &v) == ST_OK) attention_write_json(&v, w);
    else jw_null(w);
}

status compile_explain(const compile_plan *p, buf *out)
{
    attention_view v;
    status st = attention_look(p->g, &p->c.limits, &v);
    if (st == ST_NOT_FOUND) {
        buf_str(out, "attention: StableHLO; there is no TPU whose kernels could be configured\n");
        return buf_status(out);
    }
    TRY(st);
    attention_write_text(&v, out);
    return buf_status(out);
}

status compile_write_json(const compile_report *r, buf *out)
{
    jw w = jw_to(out);
    jw_obj(&w);
    json_model(&w, r);
    json_target(&w, r);
    json_memory(&w, r->p);
    json_attention(&w, r->p);
    jw_put_i64(&w, "assumed_context", compile_assumed_context(r->p));
    jw_put_str(&w, "cache_dir", r->cache_dir);
    jw_put_f64(&w, "seconds", r->seconds);
    jw_put_i64(&w, "n_programs", r->jobs->n);
    jw_put_i64(&w, "n_cached", count(r->jobs, true));
    jw_put_i64(&w, "n_failed", count(r->jobs, false));
    jw_key(&w, "programs");
    jw_arr(&w);
    for (int i = 0; i < r->jobs->n; i++) json_program(&w, r->p, &r->jobs->v[i]);
    jw_end_arr(&w);
    jw_end_obj(&w);
    buf_char(out, '\n');
    return buf_status(out);
}
