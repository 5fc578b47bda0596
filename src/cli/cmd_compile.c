/* `systolic compile`: every program that `serve` would need on a TPU, compiled where no TPU is, from config.json alone. The plan
 * (compile_plan.c) is serve's own, so that serve finds what this leaves in the cache. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/command.h"
#include "cli/compile.h"
#include "cli/serve.h"

#define G "Compile"
static const flag_def own[] = {
    { "target", "-t", G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Devices to compile for: v3, v4, v5e, v5p, v6e or v7x with a shape of chips, as in v6e:2x2, v5p:2x2x1 or v6e-8." },
    { "out", "-o", G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Folder for the programs and manifest.json, for serve --program-cache; serve's default cache otherwise." },
    { "json", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "One JSON object on standard output instead of text." },
    { "buckets", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Only these programs and their samplers: decode:SEQUENCES, step:TOKENS and, of multimodal models, encoder:ROWS, comma-separated." },
    { "explain", NULL, G, FLAG_BOOL, FLAG_YES, "off", NULL, NULL, "Tells how attention runs there: blocks, pages, buffers, what they cost and what else there was. Compiles nothing." },
    { "samplers", NULL, G, FLAG_BOOL, FLAG_YES, "on", NULL, NULL, "Compile the sampling programs too." },
    { "dump", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "Folder for the programs' texts (StableHLO)." },
    { "plugin", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "File of another PJRT plugin than libtpu; it may know other targets." },
    { "data-parallel-size", "-dp", G, FLAG_INT, FLAG_YES, "1", NULL, NULL, "Replicas that the programs are cut for." },
    { "program-cache", NULL, G, FLAG_STR, FLAG_YES, NULL, NULL, NULL, "The same as --out, without manifest.json." },
};
#undef G

/* ---- opening the compiler ---- */

typedef struct tools { pjrt_compiler *k; pjrt_cache *cache; pjrt_target_info info; buf package; } tools;

/* A plugin that is not libtpu names its topologies itself. */
static status parse_target(const char *target, bool foreign, pjrt_place *out)
{
    status st = pjrt_target_parse(target, out);
    if (st != ST_INVALID || !foreign) return st;
    const char *mark = strchr(target, '?');
    pjrt_place p = { mem_strndup(target, mark ? (size_t)(mark - target) : strlen(target)), mem_strdup(mark ? mark + 1 : "") };
    if (p.path && p.options) {
        *out = p;
        return ST_OK;
    }
    pjrt_place_free(&p);
    return err_nomem();
}

static status find_plugin(const char *path, pjrt_place *out)
{
    buf spec = {0};
    if (!path) return pjrt_find("tpu", out);
    buf_printf(&spec, "pjrt:%s", path);
    status st = buf_status(&spec);
    if (st == ST_OK) st = pjrt_find(spec.data, out);
    buf_free(&spec);
    return st;
}

static void tools_close(tools *t)
{
    if (t->k) pjrt_compiler_close(t->k);
    if (t->cache) pjrt_cache_close(t->cache);
    buf_free(&t->package);
}

static status open_compiler(const char *plugin, const pjrt_place *target, tools *t)
{
    pjrt_place place;
    TRY(find_plugin(plugin, &place));
    status st = pjrt_package(place.path, &t->package);
    if (st == ST_OK) st = pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = place.path, .topology = target->path, .options = target->options }, &t->k);
    pjrt_place_free(&place);
    return st;
}

static status tools_open(const flags *f, const char *target, const pjrt_place *place, tools *out)
{
    const char *dir = flags_str(f, "out");
    tools t = {0};
    status st = pjrt_cache_open(dir ? dir : flags_str(f, "program-cache"), &t.cache);
    if (st == ST_OK) st = open_compiler(flags_str(f, "plugin"), place, &t);
    if (st == ST_OK) {
        st = pjrt_compiler_describe(t.k, &t.info);
        if (st != ST_OK) st = err_wrap(st, "target %s", target);
    }
    if (st == ST_OK) *out = t;
    else tools_close(&t);
    return st;
}

/* ---- the queue ---- */

/* DIR/decode_t64_s64.mlir */
static status dump_text(const char *dir, const char *name, const buf *text)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/%s.mlir", dir, name);
    if (n < 0 || (size_t)n >= sizeof path) return err_set(ST_INVALID, "--dump: the name of the folder is too long");
    for (char *s = path + strlen(dir) + 1; *s; s++)
        if (*s == ' ') *s = '_';
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) return err_errno("cannot make %s", dir);
    FILE *f = fopen(path, "w");
    if (!f) return err_errno("cannot write %s", path);
    bool whole = fwrite(text->data, 1, text->len, f) == text->len;
    return fclose(f) == 0 && whole ? ST_OK : err_errno("cannot write %s", path);
}

static status compile_one(const compile_plan *p, const tools *t, compile_job *j)
{
    const char *dump = flags_str(p->model.f, "dump");
    buf text = {0}, executable = {0};
    pjrt_compile_options o;
    const program_context *c = j->c ? j->c : &p->c;
    program_options(c->plan->g, p->target.device.kind, &o);
    status st = program_text(c, &j->spec, &text);
    if (st == ST_OK && dump) st = dump_text(dump, j->spec.name, &text);
    const pjrt_source src = { j->spec.name, text.data, text.len };
    if (st == ST_OK) st = pjrt_cache_key(&(pjrt_key){ t->info.platform, t->info.version, t->info.topology, src.code, src.len, &o }, j->key);
    if (st == ST_OK) st = pjrt_compiler_get(t->k, t->cache, &src, &o, &executable, &j->stats, &j->cached);
    buf_free(&text);
    buf_free(&executable);
    return st;
}

/* A program that cannot be compiled is told and the next one is tried. */
static status run_queue(const compile_plan *p, const tools *t, compile_jobs *jobs)
{
    for (int i = 0; i < jobs->n; i++) {
        compile_job *j = &jobs->v[i];
        double start = clock_now();
        TRY(compile_cost(p, j, &j->work));
        j->step_s = p->chip ? chip_step_s(p->chip, &j->work) : -1;
        compile_say_start(jobs, i);
        status st = compile_one(p, t, j);
        if (st == ST_NOMEM) return st;
        if (st != ST_OK) err_copy(j->error, sizeof j->error);
        j->done = true;
        j->seconds = clock_now() - start;
        j->copies_cache = st == ST_OK && !j->spec.sampler && !j->c && program_copies_cache(&p->c, &j->spec.bucket, &j->stats);
        compile_say_end(p, jobs, i);
    }
    return ST_OK;
}

/* ---- the manifest ---- */

static status describe_flags(const compile_plan *p, buf *out)
{
    const engine_options *o = &p->model.eo;
    buf_printf(out, "dtype=%s kv-cache-dtype=%s tensor-parallel-size=%d data-parallel-size=%d sequence-parallel=%d block-size=%d max-model-len=%d max-num-seqs=%d "
               "max-num-batched-tokens=%d blocks=%d", dtype_name(p->model.dt), dtype_name(p->model.kv_dt), p->on.tp, p->on.dp, p->on.sp, o->block_size, o->max_model_len,
               o->max_num_seqs, o->max_num_batched_tokens, p->n_blocks);
    return buf_status(out);
}

/* A hash of the graph, which is all that the model is to its programs. */
static status describe_shape(const compile_plan *p, char hex[2 * SHA256_BYTES + 1])
{
    buf text = {0};
    uint8_t digest[SHA256_BYTES];
    status st = graph_print(p->g, &text);
    if (st == ST_OK) {
        sha256(text.data, text.len, digest);
        hash_hex(digest, sizeof digest, hex);
    }
    buf_free(&text);
    return st;
}

static bool lists(const pjrt_manifest *m, const char *key)
{
    for (size_t i = 0; i < m->n_programs; i++)
        if (strcmp(m->programs[i].key, key) == 0) return true;
    return false;
}

/* Adds what an earlier run with other --buckets left there for the very same model, flags and devices. */
static status add_earlier(const char *dir, const pjrt_manifest *old, pjrt_manifest *m)
{
    char why[1024];
    if (!pjrt_manifest_fits(old, dir, m, why, sizeof why)) return ST_OK;
    pjrt_manifest_program *all = mem_realloc_array(m->programs, m->n_programs + old->n_programs + 1, sizeof *all);
    if (!all) return err_nomem();
    m->programs = all;
    for (size_t i = 0; i < old->n_programs; i++)
        if (!lists(m, old->programs[i].key)) m->programs[m->n_programs++] = old->programs[i];
    return ST_OK;
}

static status write_manifest(const compile_report *r, const tools *t)
{
    buf flag_text = {0};
    char graph_hash[2 * SHA256_BYTES + 1];
    pjrt_manifest old = {0};
    pjrt_manifest m = { .model = model_describe(r->p->model.m)->architecture, .shape = graph_hash, .target = r->target, .topology = t->info.topology,
                        .platform = t->info.platform, .version = t->info.version, .compiler = r->compiler };
    TRY(describe_shape(r->p, graph_hash));
    m.programs = mem_calloc((size_t)r->jobs->n + 1, sizeof *m.programs);
    status st = m.programs ? describe_flags(r->p, &flag_text) : err_nomem();
    m.flags = buf_cstr(&flag_text);
    for (int i = 0; i < r->jobs->n && st == ST_OK; i++) {
        const compile_job *j = &r->jobs->v[i];
        if (j->error[0]) continue;
        pjrt_manifest_program *x = &m.programs[m.n_programs++];
        *x = (pjrt_manifest_program){ .name = j->spec.name, .tokens = j->spec.sampler ? j->spec.kind.rows : j->spec.bucket.tokens,
                                      .seqs = j->spec.sampler ? j->spec.kind.rows : j->spec.bucket.seqs, .stats = j->stats };
        memcpy(x->key, j->key, sizeof x->key);
    }
    if (st == ST_OK && pjrt_manifest_read(r->cache_dir, &old) == ST_OK) { /* a damaged one is written anew */
        st = add_earlier(r->cache_dir, &old, &m);
        if (st == ST_OK) st = pjrt_manifest_write(r->cache_dir, &m);
        pjrt_manifest_free(&old);
    } else if (st == ST_OK) {
        st = pjrt_manifest_write(r->cache_dir, &m);
    }
    mem_free(m.programs);
    buf_free(&flag_text);
    return st;
}

/* ---- the command ---- */

static status print(const compile_report *r, bool json)
{
    buf out = {0};
    status st = json ? compile_write_json(r, &out) : r->jobs->n ? compile_write_table(r, &out) : ST_OK;
    if (st == ST_OK && out.len) fwrite(out.data, 1, out.len, stdout);
    fflush(stdout);
    buf_free(&out);
    return st;
}

/* Needs no compiler: the chip table knows the target. */
static status explain(const flags *f, compile_plan *p, double start, bool *bad)
{
    const bool json = flags_bool(f, "json", false);
    const chip *c;
    const compile_jobs none = {0};
    compile_report r = { .p = p, .jobs = &none, .model = flags_str(f, "model"), .target = flags_str(f, "target"), .compiler = "", .cache_dir = "" };
    pjrt_target_info info;
    buf out = {0};
    TRY(compile_target_known(r.target, &info, &c));
    TRY(compile_plan_target(r.target, &info, p));
    compile_say_plan(&r, json ? stderr : stdout);
    r.seconds = clock_now() - start;
    status st = json ? compile_write_json(&r, &out) : compile_explain(p, &out);
    if (st == ST_OK) fwrite(out.data, 1, out.len, stdout);
    fflush(stdout);
    buf_free(&out);
    *bad = p->misfit[0] != 0;
    return st;
}

/* *bad: it does not fit, or something failed to compile. */
static status compile_for(const flags *f, compile_plan *p, const tools *t, double start, bool *bad)
{
    const char *target = flags_str(f, "target");
    const bool json = flags_bool(f, "json", false);
    compile_jobs jobs = {0};
    compile_report r = { .p = p, .jobs = &jobs, .model = flags_str(f, "model"), .target = target, .compiler = buf_cstr(&t->package), .cache_dir = pjrt_cache_dir(t->cache) };
    TRY(compile_plan_target(target, &t->info, p));
    compile_say_plan(&r, json ? stderr : stdout);
    fflush(stdout);
    status st = p->misfit[0] ? ST_OK : compile_jobs_make(p, flags_str(f, "buckets"), flags_bool(f, "samplers", true), &jobs);
    if (st == ST_OK) st = run_queue(p, t, &jobs);
    r.seconds = clock_now() - start;
    if (st == ST_OK && jobs.n && flags_str(f, "out")) st = write_manifest(&r, t);
    if (st == ST_OK) st = print(&r, json);
    *bad = p->misfit[0] != 0;
    for (int i = 0; i < jobs.n; i++) *bad = *bad || jobs.v[i].error[0];
    compile_jobs_free(&jobs);
    return st;
}

/* The model comes first: what is wrong with it needs no compiler to be told. */
static status compile(const flags *f, bool *bad)
{
    const char *target = flags_str(f, "target");
    const double start = clock_now();
    pjrt_place place;
    compile_plan p;
    tools t;
    if (!target) return err_set(ST_INVALID, "--target is missing: devices to compile for, as in v6e:2x2, v5p:2x2x1 or v6e-8");
    TRY(parse_target(target, flags_str(f, "plugin") != NULL, &place));
    status st = compile_plan_model(f, flags_str(f, "model"), &p);
    if (st == ST_OK) {
        st = compile_plan_cut(&p, compile_plan_mesh(f));
        const bool only_tell = flags_bool(f, "explain", false);
        if (st == ST_OK) st = only_tell ? explain(f, &p, start, bad) : tools_open(f, target, &place, &t);
        if (st == ST_OK && !only_tell) {
            st = compile_for(f, &p, &t, start, bad);
            tools_close(&t);
        }
        compile_plan_free(&p);
    }
    pjrt_place_free(&place);
    return st;
}

int compile_main(int argc, char **argv)
{
    flag_set set = { .prog = "systolic compile", .summary = "Compiles a model's programs for TPUs that need not be here, from its config.json alone, and tells what fits.",
                     .positional = "model", .positional_flag = "model", .config = true };
    flag_def *table;
    flags *f;
    bool bad = false;
    int rc;
    if (serve_flags_with(own, (int)(sizeof own / sizeof *own), false, &table, &set.n_defs) != ST_OK) return command_failed(&set);
    set.defs = table;
    if (!getenv("VLLM_LOGGING_LEVEL")) log_set_level(LOG_WARNING); /* the engine's lines on its KV cache are in the report */
    if (command_flags(&set, argc, argv, &f, &rc)) {
        status st = instance_check_flags(f);
        if (st == ST_OK) st = flags_check_range(f, "data-parallel-size", 1, 1 << 16);
        const bool usable = st == ST_OK;
        if (usable) st = compile(f, &bad);
        if (st != ST_OK) command_failed(&set);
        rc = !usable ? COMMAND_USAGE : st != ST_OK || bad;
        flags_free(f);
    }
    mem_free(table);
    return rc;
}
