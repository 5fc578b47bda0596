/* The registered kernels, printed or compiled where there is no TPU:
 *
 *     kernels list
 *     kernels print NAME CASE [full] [CHIP]      the Mosaic module
 *     kernels program NAME CASE [full] [CHIP]    the StableHLO program around it
 *     kernels run NAME CASE DIR [CHIP]           in the interpreter; kernel.mlir, call.json, operands and results go to DIR
 *     kernels compile TARGET NAME CASE [full]    with libtpu for TARGET (v6e:2x2); NAME "all": every case of every kernel
 *
 *     kernels profile TARGET NAME CASE           the full size with constants baked in: libtpu's estimate of cycles beside HBM's bound
 *
 * compile and profile print a JSON object per case. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "device/pjrt/compiler.h"
#include "device/pjrt/spec.h"
#include "mosaic/interp.h"
#include "ops/hlo.h"
#include "ops/kernels.h"
#include "tests/unit/mosaic/kernels.h"

/* Those that no operation uses, to learn from and to compare compilers and interpreters with. */
static void describe_example(int i, char *dst, size_t cap) { snprintf(dst, cap, "%s", i ? "" : "example"); }
static mk *build_gather(int i, const chip *c) { (void)i, (void)c; return kernel_gather(); }
static mk *build_fd(int i, const chip *c) { (void)i, (void)c; return kernel_flash_decode(); }
static mk *build_ops(int i, const chip *c) { (void)i, (void)c; return kernel_operations(); }
static mk *build_ring(int i, const chip *c) { (void)i, (void)c; return kernel_ring(4); }
static int four(int i) { return 4 + 0 * i; }

/* Numbers around 0; of prefetched scalars, pages in the order 5, 12, 19, ... and a length that ends inside a page. */
static void fill_example(int i, const mk *k, uint64_t seed, void *const *operands)
{
    (void)i;
    int devices = strcmp(mk_name(k), "ring") == 0 ? 4 : 1, n_in = mk_n_operands(k);
    for (int j = 0; j < n_in * devices; j++) {
        mk_operand o = mk_operand_at(k, j % n_in);
        size_t n = mk_array_bytes(DT_I8, o.rank, o.dim);
        for (size_t e = 0; e < n; e++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            float v = (float)(int32_t)(seed >> 32) / 2147483648.0f;
            if (o.type == DT_I8) v *= 127;
            if (o.type == DT_I32) v = n == 1 ? 1000 : n == 2 ? e ? 4 : 37 : (float)((5 + 7 * e) % 64);
            mk_from_floats(o.type, &v, (char *)operands[j] + e * mk_array_bytes(o.type, 0, NULL), 1);
        }
    }
}

static status profile_fd(int i, const chip *c, mk *k, kernel_bound *least)
{
    (void)i, (void)c;
    least->bytes = 2.0 * 2048 * 128 * 2;
    return mk_bake(k, "len", 2048, 0);
}

static const kernel_impl examples[] = {
    { .name = "gather", .n_cases = 1, .describe = describe_example, .build = build_gather, .fill = fill_example },
    { .name = "fd", .n_cases = 1, .describe = describe_example, .build = build_fd, .fill = fill_example, .profile = profile_fd },
    { .name = "ops", .n_cases = 1, .describe = describe_example, .build = build_ops, .fill = fill_example },
    { .name = "ring", .n_cases = 1, .describe = describe_example, .devices = four, .build = build_ring, .fill = fill_example },
};

static const kernel_impl *find(const char *name)
{
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++)
        if (strcmp(examples[i].name, name) == 0) return &examples[i];
    return kernel_find(name);
}

typedef enum run_mode { MODE_TEST, MODE_FULL, MODE_PROFILE } run_mode;

static status build(const kernel_impl *impl, int i, run_mode mode, const chip *c, mk **out)
{
    mk *k;
    if (mode == MODE_PROFILE && impl->build_profile) k = impl->build_profile(i, c);
    else k = mode != MODE_TEST && impl->build_full ? impl->build_full(i, c) : impl->build(i, c);    /* those without a full size have but one */
    status st = mk_finish(k);
    if (st == ST_OK) *out = k;
    else mk_free(k);
    return st;
}

/* What a case came to; -1: not known. */
typedef struct outcome { pjrt_stats stats; double seconds, cycles; kernel_bound least; } outcome;
typedef struct target { const char *name; const chip *chip; pjrt_compiler *compiler; char dir[64]; } target;

static void report(const kernel_impl *impl, int i, run_mode mode, const target *t, status st, const outcome *o)
{
    buf line = {0};
    char text[256];
    impl->describe(i, text, sizeof text);
    jw w = jw_to(&line);
    jw_obj(&w);
    jw_put_str(&w, "kernel", impl->name);
    jw_put_i64(&w, "case", i);
    jw_put_str(&w, "description", text);
    jw_put_str(&w, "size", mode == MODE_TEST ? "test" : mode == MODE_FULL ? "full" : "profile");
    jw_put_str(&w, "target", t->name);
    if (st != ST_OK) {
        jw_put_str(&w, "error", err_msg());
    } else if (mode == MODE_PROFILE) {
        jw_put_f64(&w, "cycles", o->cycles);
        jw_put_f64(&w, "bytes", o->least.bytes);
        jw_put_f64(&w, "us", o->cycles / t->chip->clock_hz * 1e6);
        jw_put_f64(&w, "hbm_us", o->least.bytes / t->chip->hbm_bytes_per_s * 1e6);
        jw_put_f64(&w, "unit_us", o->least.unit_s * 1e6);
        jw_put_f64(&w, "link_us", o->least.link_s * 1e6);
    } else {
        jw_put_f64(&w, "seconds", o->seconds);
        jw_put_i64(&w, "temp_bytes", o->stats.temp_bytes);
        jw_put_i64(&w, "code_bytes", o->stats.code_bytes);
        jw_put_i64(&w, "alias_bytes", o->stats.alias_bytes);
    }
    jw_end_obj(&w);
    printf("%s\n", buf_cstr(&line));
    fflush(stdout);
    buf_free(&line);
}

#define KERNEL_OP "name."            /* what XLA calls a call that has no name of its own */

/* Sums "estimated_cycles: N" over the files that libtpu has written to the folder, one per operation, and empties it. own: the kernel's is there. */
static double take_cycles(const char *dir, bool *own)
{
    char path[512], line[256];
    double sum = -1;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (strncmp(e->d_name, KERNEL_OP, strlen(KERNEL_OP)) == 0) *own = true;
        FILE *f = fopen(path, "r");
        while (f && fgets(line, sizeof line, f)) {
            const char *at = strstr(line, "estimated_cycles:");
            if (at) sum = (sum < 0 ? 0 : sum) + strtod(at + strlen("estimated_cycles:"), NULL);
        }
        if (f) fclose(f);
        unlink(path);
    }
    if (d) closedir(d);
    return sum;
}

static status prepare(const target *t, const kernel_impl *impl, int i, run_mode mode, mk **k, outcome *o)
{
    const char *refusal = impl->refuses ? impl->refuses(i, t->chip) : NULL;
    if (refusal) return err_set(ST_UNSUPPORTED, "not for this chip: %s", refusal);
    if (mode == MODE_PROFILE && !impl->profile) return err_set(ST_UNSUPPORTED, "no profile");
    TRY(build(impl, i, mode, t->chip, k));
    return mode == MODE_PROFILE ? impl->profile(i, t->chip, *k, &o->least) : ST_OK;
}

static status compile(const target *t, const kernel_impl *impl, int i, run_mode mode)
{
    static const pjrt_value tpu7x[] = { { .name = "xla_tpu_control_large_2nd_minor_layout_for_x16", .kind = PJRT_BOOL, .b = false } };
    buf text = {0}, exe = {0};
    outcome o = {0};
    mk *k = NULL;
    double start = clock_now();
    status st = prepare(t, impl, i, mode, &k, &o);
    if (st == ST_OK) st = hlo_kernel_program(k, impl->devices ? impl->devices(i) : 1, &text);
    pjrt_compile_options options = { .n_partitions = impl->devices ? impl->devices(i) : 1 };
    if (strncmp(t->name, "v7", 2) == 0) {
        options.overrides = tpu7x;
        options.n_overrides = 1;
    }
    if (st == ST_OK) st = pjrt_compiler_run(t->compiler, &(pjrt_source){ impl->name, text.data, text.len }, &options, &exe, &o.stats);
    o.seconds = clock_now() - start;
    bool own = false;
    o.cycles = mode == MODE_PROFILE ? take_cycles(t->dir, &own) : -1;
    if (own && o.cycles >= 0) st = ST_OK;   /* the profiler may die over narrow constants, but when it has written its figure */
    if (st == ST_OK && mode == MODE_PROFILE && o.cycles < 0) st = err_set(ST_INTERNAL, "libtpu wrote no profile");
    report(impl, i, mode, t, st, &o);
    mk_free(k);
    buf_free(&text);
    buf_free(&exe);
    return st;
}

static const chip *chip_of(const char *target_name)
{
    char name[16];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(target_name, ":-?"), target_name);
    return chip_by_name(name);
}

static status open_target(const char *name, run_mode mode, target *out)
{
    pjrt_place place, plugin;
    TRY(pjrt_target_parse(name, &place));
    *out = (target){ .name = name, .chip = chip_of(name), .dir = "/tmp/systolic-profile-XXXXXX" };
    status st = out->chip ? pjrt_find("tpu", &plugin) : err_set(ST_INVALID, "there is no chip %s", name);
    if (st == ST_OK && mode == MODE_PROFILE) {
        const char *more = getenv("LIBTPU_INIT_ARGS");
        buf args = {0};
        if (!mkdtemp(out->dir)) st = err_errno("cannot make a folder");
        buf_printf(&args, "%s --xla_jf_dump_static_llo_profile_to=%s", more ? more : "", out->dir);
        if (st == ST_OK) st = buf_status(&args);
        if (st == ST_OK) setenv("LIBTPU_INIT_ARGS", buf_cstr(&args), 1);
        buf_free(&args);
    }
    if (st == ST_OK) {
        st = pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin.path, .topology = place.path, .options = place.options, .limit_s = 140 }, &out->compiler);
        pjrt_place_free(&plugin);
    }
    pjrt_place_free(&place);
    return st;
}

static int run_compile(const char *target_name, const char *kernel, const char *which, run_mode mode)
{
    target t = {0};
    int failed = 0;
    if (open_target(target_name, mode, &t) != ST_OK) {
        fprintf(stderr, "%s\n", err_msg());
        return 1;
    }
    for (int k = 0; kernel_at(k); k++)
        for (int i = 0; strcmp(kernel, "all") == 0 && i < kernel_at(k)->n_cases; i++) failed += compile(&t, kernel_at(k), i, mode) != ST_OK;
    const kernel_impl *one = find(kernel);
    for (int i = 0; one && i < one->n_cases; i++)
        if (strcmp(which, "all") == 0 || atoi(which) == i) failed += compile(&t, one, i, mode) != ST_OK;
    if (!one && strcmp(kernel, "all") != 0) {
        fprintf(stderr, "there is no kernel %s\n", kernel);
        failed++;
    }
    pjrt_compiler_close(t.compiler);
    if (mode == MODE_PROFILE) rmdir(t.dir);
    return failed != 0;
}

static int run_print(const char *what, const kernel_impl *impl, int i, bool full, const chip *c)
{
    mk *k = NULL;
    buf text = {0};
    status st = !impl || i < 0 || i >= impl->n_cases ? err_set(ST_INVALID, "there is no such kernel or case") : build(impl, i, full ? MODE_FULL : MODE_TEST, c, &k);
    if (st == ST_OK) st = strcmp(what, "print") == 0 ? mk_print(k, &text) : hlo_kernel_program(k, impl->devices ? impl->devices(i) : 1, &text);
    if (st == ST_OK) fwrite(text.data, 1, text.len, stdout);
    else fprintf(stderr, "%s\n", err_msg());
    buf_free(&text);
    mk_free(k);
    return st != ST_OK;
}

/* ---- runs, for other interpreters to compare with ---- */

static status save(const char *dir, const char *name, int i, const void *data, size_t n)
{
    char path[4096];
    if (i < 0) snprintf(path, sizeof path, "%s/%s", dir, name);
    else snprintf(path, sizeof path, "%s/%s%d", dir, name, i);
    FILE *f = fopen(path, "w");
    if (!f) return err_errno("cannot write %s", path);
    bool whole = fwrite(data, 1, n, f) == n;
    return fclose(f) == 0 && whole ? ST_OK : err_errno("cannot write %s", path);
}

static void put_operands(jw *w, const char *key, const mk *k, int n, mk_operand (*at)(const mk *, int))
{
    jw_key(w, key);
    jw_arr(w);
    for (int i = 0; i < n; i++) {
        mk_operand o = at(k, i);
        jw_obj(w);
        jw_put_str(w, "name", o.name);
        jw_put_str(w, "type", pjrt_type_name(o.type));
        jw_key(w, "dims");
        jw_arr(w);
        for (int d = 0; d < o.rank; d++) jw_i64(w, o.dim[d]);
        jw_end_arr(w);
        jw_put_i64(w, "alias", o.alias);
        jw_end_obj(w);
    }
    jw_end_arr(w);
}

static status save_call(const char *dir, const mk *k, int devices, double tolerance)
{
    buf text = {0}, call = {0};
    status st = mk_print(k, &text);
    jw w = jw_to(&call);
    jw_obj(&w);
    jw_put_str(&w, "kernel", mk_name(k));
    jw_put_i64(&w, "devices", devices);
    jw_put_f64(&w, "tolerance", tolerance);
    put_operands(&w, "operands", k, mk_n_operands(k), mk_operand_at);
    put_operands(&w, "results", k, mk_n_results(k), mk_result_at);
    jw_end_obj(&w);
    if (st == ST_OK) st = buf_status(&call);
    if (st == ST_OK) st = save(dir, "kernel.mlir", -1, text.data, text.len);
    if (st == ST_OK) st = save(dir, "call.json", -1, call.data, call.len);
    buf_free(&text);
    buf_free(&call);
    return st;
}

static status run_case(const kernel_impl *impl, int i, const mk *k, const char *dir)
{
    enum { ALL = MK_ARGS * MK_DEVICES };
    static void *operands[ALL], *results[ALL];
    int devices = impl->devices ? impl->devices(i) : 1, n = mk_n_operands(k), n_out = mk_n_results(k);
    for (int j = 0; j < n * devices; j++) {
        mk_operand o = mk_operand_at(k, j % n);
        operands[j] = mem_calloc(mk_array_bytes(o.type, o.rank, o.dim) + 1, 1);
    }
    for (int j = 0; j < n_out * devices; j++) {
        mk_operand o = mk_result_at(k, j % n_out);
        results[j] = mem_calloc(mk_array_bytes(o.type, o.rank, o.dim) + 1, 1);
    }
    impl->fill(i, k, 1, operands);
    status st = save_call(dir, k, devices, impl->tolerance ? impl->tolerance(i) : 0.01);
    for (int j = 0; st == ST_OK && j < n * devices; j++) {
        mk_operand o = mk_operand_at(k, j % n);
        st = save(dir, "operand", j, operands[j], mk_array_bytes(o.type, o.rank, o.dim));
    }
    if (st == ST_OK) st = mk_run(k, operands, results, &(mk_run_options){ .n_devices = devices }, NULL);
    for (int j = 0; st == ST_OK && j < n_out * devices; j++) {
        mk_operand o = mk_result_at(k, j % n_out);
        st = save(dir, "result", j, results[j], mk_array_bytes(o.type, o.rank, o.dim));
    }
    for (int j = 0; j < n * devices; j++) mem_free(operands[j]);
    for (int j = 0; j < n_out * devices; j++) mem_free(results[j]);
    return st;
}

static int run_run(const char *name, int i, const char *dir, const char *chip_name)
{
    const kernel_impl *impl = find(name);
    const chip *c = chip_by_name(chip_name);
    mk *k = NULL;
    status st = !impl || i < 0 || i >= impl->n_cases || !c ? err_set(ST_INVALID, "there is no such kernel, case or chip") : build(impl, i, MODE_TEST, c, &k);
    if (st == ST_OK) st = run_case(impl, i, k, dir);
    if (st != ST_OK) fprintf(stderr, "%s\n", err_msg());
    mk_free(k);
    return st != ST_OK;
}

static int list(void)
{
    char text[256];
    for (int k = 0; kernel_at(k); k++)
        for (int i = 0; i < kernel_at(k)->n_cases; i++) {
            kernel_at(k)->describe(i, text, sizeof text);
            printf("%s %d %s\n", kernel_at(k)->name, i, text);
        }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "list") == 0) return list();
    if (argc >= 5 && strcmp(argv[1], "run") == 0) return run_run(argv[2], atoi(argv[3]), argv[4], argc > 5 ? argv[5] : "v6e");
    bool profiles = argc >= 4 && strcmp(argv[1], "profile") == 0, compiles = profiles || (argc >= 4 && strcmp(argv[1], "compile") == 0), full = false;
    if (!compiles && (argc < 4 || (strcmp(argv[1], "print") != 0 && strcmp(argv[1], "program") != 0))) {
        fprintf(stderr, "kernels list | run NAME CASE DIR [CHIP] | print NAME CASE [full] [CHIP] | program NAME CASE [full] [CHIP] | "
                        "compile TARGET NAME|all CASE|all [full] | profile TARGET NAME|all CASE|all\n");
        return 2;
    }
    const char *chip_name = "v6e", *which = compiles && argc < 5 ? "all" : argv[compiles ? 4 : 3];
    for (int i = compiles ? 5 : 4; i < argc; i++)
        if (strcmp(argv[i], "full") == 0) full = true;
        else chip_name = argv[i];
    if (compiles) return run_compile(argv[2], argv[3], which, profiles ? MODE_PROFILE : full ? MODE_FULL : MODE_TEST);
    return run_print(argv[1], find(argv[2]), atoi(argv[3]), full, chip_by_name(chip_name));
}
