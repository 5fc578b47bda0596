#include "device/sim/refine.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "device/pjrt/compiler.h"
#include "device/pjrt/spec.h"

struct sim_refine {
    pjrt_compiler *plain, *profiling;   /* profiling: NULL in mode "libtpu" */
    pjrt_cache *cache;
    pjrt_target_info info; bool described;
    char dir[64];               /* where libtpu writes profiles; nobody reads them, the figures are in the program too */
    buf package;
    pthread_mutex_t mu;         /* replicas ask one after the other */
};

/* ---- opening ---- */

/* libtpu reads its flags when it is loaded, in a process that the compiler forks now and that keeps this environment. */
static status open_profiling(const pjrt_compiler_options *o, sim_refine *r)
{
    static const char name[] = "LIBTPU_INIT_ARGS";
    const char *was = getenv(name);
    buf value = {0};
    char *kept = was ? mem_strdup(was) : NULL;
    if (was && !kept) return err_nomem();
    snprintf(r->dir, sizeof r->dir, "/tmp/systolic-profile-XXXXXX");
    status st = mkdtemp(r->dir) ? ST_OK : err_errno("cannot make a folder for profiles");
    if (st != ST_OK) r->dir[0] = 0;
    buf_printf(&value, "%s%s--xla_jf_dump_static_llo_profile_to=%s", was ? was : "", was ? " " : "", r->dir);
    if (st == ST_OK) st = buf_status(&value);
    if (st == ST_OK) {
        setenv(name, value.data, 1);
        st = pjrt_compiler_open(o, &r->profiling);
        if (kept) setenv(name, kept, 1);
        else unsetenv(name);
    }
    buf_free(&value);
    mem_free(kept);
    return st;
}

static status find_compiler(const char *mode, const sim_target *t, sim_refine *r)
{
    pjrt_place plugin, target;
    if (strcmp(mode, "libtpu") != 0 && strcmp(mode, "libtpu-static") != 0) return err_set(ST_INVALID, "\"%.40s\": libtpu or libtpu-static is expected", mode);
    if (t->machine.n_slices > 1) return err_set(ST_UNSUPPORTED, "programs over %d slices are not compiled", t->machine.n_slices);
    TRY(pjrt_find("tpu", &plugin));
    status st = pjrt_target_parse(t->name, &target);
    if (st == ST_OK) {
        const bool mega = t->machine.chip->cores > 1 && t->machine.chip->version == 4;
        const pjrt_compiler_options o = { .plugin = plugin.path, .topology = target.path, .options = mega ? "chip_config_name=megacore" : "" };
        st = pjrt_package(plugin.path, &r->package);
        if (st == ST_OK && strcmp(mode, "libtpu-static") == 0) st = open_profiling(&o, r);
        if (st == ST_OK) st = pjrt_compiler_open(&o, &r->plain);
        pjrt_place_free(&target);
    }
    pjrt_place_free(&plugin);
    return st;
}

status sim_refine_open(const char *mode, const sim_target *t, const char *cache, sim_refine **out)
{
    sim_refine *r = mem_calloc(1, sizeof *r);
    if (!r) return err_nomem();
    pthread_mutex_init(&r->mu, NULL);
    status st = find_compiler(mode, t, r);
    if (st == ST_OK) st = pjrt_cache_open(cache, &r->cache);
    if (st == ST_OK) *out = r;
    else sim_refine_close(r);
    return st == ST_OK || st == ST_NOMEM ? st : err_wrap(st, "refining the simulation by libtpu");
}

static void remove_dir(const char *dir)
{
    char path[512];
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        unlink(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}

void sim_refine_close(sim_refine *r)
{
    if (!r) return;
    if (r->plain) pjrt_compiler_close(r->plain);
    if (r->profiling) pjrt_compiler_close(r->profiling);
    if (r->cache) pjrt_cache_close(r->cache);
    if (r->dir[0]) remove_dir(r->dir);
    buf_free(&r->package);
    pthread_mutex_destroy(&r->mu);
    mem_free(r);
}

const char *sim_refine_compiler(const sim_refine *r) { return r->package.len ? buf_cstr(&r->package) : "libtpu"; }

/* ---- a program ---- */

/* What was kept before these figures were read of programs is compiled again. */
static status kept(const sim_refine *r, const char *key, pjrt_stats *s, bool *found)
{
    buf executable = {0};
    status st = pjrt_cache_get(r->cache, key, &executable, s, found);
    *found = *found && s->read == 1 && (s->cycles < 0 || s->start_cycles >= 0);
    buf_free(&executable);
    return st;
}

static status compile_by(pjrt_compiler *k, const sim_refine *r, const char *key, const pjrt_source *src, const pjrt_compile_options *o, pjrt_stats *s)
{
    buf executable = {0};
    status st = pjrt_compiler_run(k, src, o, &executable, s);
    if (st == ST_OK && pjrt_cache_put(r->cache, key, executable.data, executable.len, s) == ST_NOMEM) st = ST_NOMEM;   /* a full disk costs the next run some time */
    buf_free(&executable);
    return st;
}

/* Profiled programs have keys of their own: their figures are others. */
static status key_of(const sim_refine *r, bool profiled, const pjrt_source *src, const pjrt_compile_options *o, char key[PJRT_KEY_LEN])
{
    char version[sizeof r->info.version + 16];
    snprintf(version, sizeof version, "%s%s", r->info.version, profiled ? " profiled" : "");
    return pjrt_cache_key(&(pjrt_key){ r->info.platform, version, r->info.topology, src->code, src->len, o }, key);
}

static status stats_of(sim_refine *r, const pjrt_source *src, const pjrt_compile_options *o, pjrt_stats *s, bool *cached)
{
    char key[PJRT_KEY_LEN];
    const bool profiled = r->profiling != NULL;
    if (!r->described) TRY(pjrt_compiler_describe(r->plain, &r->info));
    r->described = true;
    TRY(key_of(r, profiled, src, o, key));
    TRY(kept(r, key, s, cached));
    if (*cached) return ST_OK;
    if (profiled) {
        status st = compile_by(r->profiling, r, key, src, o, s);
        if (st == ST_OK || st == ST_NOMEM) return st;
    }
    return compile_by(r->plain, r, key, src, o, s);
}

/* A device of v5p is two cores, but libtpu's cost model counts one that does all the work; the code shares it out, as its profile shows.
 * Starting an operation takes as long on two. (Of v4 with megacore the cost model counts both.) */
static double cycles_of(const pjrt_stats *s, const chip *c)
{
    const int cores = c->version == 5 ? c->cores : 1;
    return s->cycles < 0 || s->bundles == 1 ? s->cycles : s->start_cycles + (s->cycles - s->start_cycles) / cores;
}

static status compile(sim_refine *r, const program_context *c, const program_spec *spec, pjrt_stats *s, bool *cached)
{
    buf text = {0};
    pjrt_compile_options o;
    program_options(c->plan->g, c->limits.attention.chip ? c->limits.attention.chip->kind : "", &o);
    status st = program_text(c, spec, &text);
    if (st == ST_OK) st = stats_of(r, &(pjrt_source){ spec->name, text.data, text.len }, &o, s, cached);
    buf_free(&text);
    return st;
}

status sim_refine_program(sim_refine *r, const program_context *c, int i, const step_costs *costs, const step_machine *m, refined_program *out)
{
    const double start = clock_now();
    const lower_bucket *b = &c->buckets.v[i];
    const step_load l = { .tokens = b->tokens, .seqs = b->seqs, .rows = b->rows };
    program_spec spec;
    pjrt_stats s = {0};
    refined_program p = { .by = { .cycles = -1, .flops = -1 }, .flops = -1, .compiler_flops = -1, .compiler_bytes = -1 };
    program_step_spec(c, i, &spec);
    snprintf(p.name, sizeof p.name, "%s", spec.name);
    pthread_mutex_lock(&r->mu);
    status st = compile(r, c, &spec, &s, &p.cached);
    pthread_mutex_unlock(&r->mu);
    if (st == ST_NOMEM) return st;
    if (st != ST_OK) {
        err_copy(p.why, sizeof p.why);
    } else {
        p.by = (step_refined){ .cycles = cycles_of(&s, m->chip), .flops = s.product_flops, .starts = s.bundles != 1, .kernels = s.unknown_kernels > 0 };
        p.known = s.cycles >= 0 || p.by.flops > 0;
        if (!p.known) snprintf(p.why, sizeof p.why, "the compiler estimates nothing");
        p.compile_s = s.compile_s;
        p.flops = p.by.flops;
        p.compiler_flops = s.flops;
        p.compiler_bytes = s.bytes;
        p.n_open = s.open_loops > 0 ? (int)s.open_loops : 0;
    }
    step_costs_compare(costs, &l, m, &p.by, &p.model_s, &p.refined_s, &p.model_flops);
    p.seconds = clock_now() - start;
    *out = p;
    return ST_OK;
}
