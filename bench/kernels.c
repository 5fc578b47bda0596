/* The registered kernels, printed or compiled where there is no TPU:
 *
 *     kernels list
 *     kernels print NAME CASE [full] [CHIP]      the Mosaic module
 *     kernels program NAME CASE [full] [CHIP]    the StableHLO program around it
 *     kernels run NAME CASE DIR [CHIP]           in the interpreter; kernel.mlir, call.json, operands and results go to DIR
 *     kernels compile TARGET NAME CASE [full]    with libtpu for TARGET (v6e:2x2); NAME "all": every case of every kernel
 *
 * compile prints a JSON object per case. The static profile of libtpu (LIBTPU_INIT_ARGS=--xla_jf_dump_static_llo_profile_to=DIR) has a
 * file per kernel name; bench/kernel_table.py reads it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "device/pjrt/compiler.h"
#include "device/pjrt/spec.h"
#include "mosaic/interp.h"
#include "ops/hlo.h"
#include "ops/kernels.h"
#include "tests/unit/mosaic/kernels.h"

/* Two that no operation uses, to learn from. */
static void describe_example(int i, char *dst, size_t cap) { snprintf(dst, cap, "%s", i ? "" : "the example of docs/kernels.md"); }
static mk *build_gather(int i, const chip *c) { (void)i, (void)c; return kernel_gather(); }
static mk *build_fd(int i, const chip *c) { (void)i, (void)c; return kernel_flash_decode(); }
/* Numbers around 0; of prefetched scalars, pages in the order 5, 12, 19, ... and a length that ends inside a page. */
static void fill_example(int i, const mk *k, uint64_t seed, void *const *operands)
{
    (void)i;
    for (int j = 0; j < mk_n_operands(k); j++) {
        mk_operand o = mk_operand_at(k, j);
        size_t n = mk_array_bytes(DT_I8, o.rank, o.dim);
        for (size_t e = 0; e < n; e++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            float v = o.type != DT_I32 ? (float)(int32_t)(seed >> 32) / 2147483648.0f : n == 1 ? 1000 : (float)((5 + 7 * e) % 64);
            mk_from_floats(o.type, &v, (char *)operands[j] + e * mk_array_bytes(o.type, 0, NULL), 1);
        }
    }
}

static const kernel_impl examples[] = {
    { .name = "gather", .n_cases = 1, .describe = describe_example, .build = build_gather, .fill = fill_example },
    { .name = "fd", .n_cases = 1, .describe = describe_example, .build = build_fd, .fill = fill_example },
};

static const kernel_impl *find(const char *name)
{
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++)
        if (strcmp(examples[i].name, name) == 0) return &examples[i];
    return kernel_find(name);
}

static status build(const kernel_impl *impl, int i, bool full, const chip *c, mk **out)
{
    mk *k = full && impl->build_full ? impl->build_full(i, c) : impl->build(i, c);
    status st = mk_finish(k);
    if (st == ST_OK) *out = k;
    else mk_free(k);
    return st;
}

/* A program that is the kernel and nothing else; outputs that take over an operand are donated it. */
static status program(const kernel_impl *impl, int i, const mk *k, buf *out)
{
    hlo h;
    hlo_arg args[MK_ARGS];
    hlo_val in[MK_ARGS], results[MK_ARGS];
    int n = mk_n_operands(k), n_out = mk_n_results(k), devices = impl->devices ? impl->devices(i) : 1;
    for (int j = 0; j < n; j++) {
        mk_operand o = mk_operand_at(k, j);
        args[j] = (hlo_arg){ .name = o.name, .type = o.type, .rank = o.rank, .alias = -1 };
        memcpy(args[j].dim, o.dim, sizeof args[j].dim);
    }
    for (int j = 0; j < n_out; j++)
        if (mk_result_at(k, j).alias >= 0) args[mk_result_at(k, j).alias].alias = j;
    hlo_begin(&h, mk_name(k), (mesh){ .dp = 1, .tp = devices }, args, n, in);
    hlo_custom_call(&h, k, in, n, results);
    return hlo_finish(&h, results, n_out, out);
}

static void report(const kernel_impl *impl, int i, bool full, const char *target, status st, const pjrt_stats *s, double seconds)
{
    buf line = {0};
    char text[256];
    impl->describe(i, text, sizeof text);
    jw w = jw_to(&line);
    jw_obj(&w);
    jw_put_str(&w, "kernel", impl->name);
    jw_put_i64(&w, "case", i);
    jw_put_str(&w, "description", text);
    jw_put_bool(&w, "full", full);
    jw_put_str(&w, "target", target);
    if (st == ST_OK) {
        jw_put_f64(&w, "seconds", seconds);
        jw_put_i64(&w, "temp_bytes", s->temp_bytes);
        jw_put_i64(&w, "code_bytes", s->code_bytes);
        jw_put_i64(&w, "alias_bytes", s->alias_bytes);
        jw_put_f64(&w, "flops", s->flops);
        jw_put_f64(&w, "bytes", s->bytes);
    } else {
        jw_put_str(&w, "error", err_msg());
    }
    jw_end_obj(&w);
    printf("%s\n", buf_cstr(&line));
    fflush(stdout);
    buf_free(&line);
}

typedef struct target { const char *name; const chip *chip; pjrt_compiler *compiler; } target;

static status compile(const target *t, const kernel_impl *impl, int i, bool full)
{
    static const pjrt_value tpu7x[] = { { .name = "xla_tpu_control_large_2nd_minor_layout_for_x16", .kind = PJRT_BOOL, .b = false } };
    const char *refusal = impl->refuses ? impl->refuses(i, t->chip) : NULL;
    buf text = {0}, exe = {0};
    pjrt_stats stats = {0};
    mk *k = NULL;
    double start = clock_now();
    status st = refusal ? err_set(ST_UNSUPPORTED, "not for this chip: %s", refusal) : build(impl, i, full, t->chip, &k);
    if (st == ST_OK) st = program(impl, i, k, &text);
    pjrt_compile_options o = { .n_partitions = impl->devices ? impl->devices(i) : 1 };
    if (strncmp(t->name, "v7", 2) == 0) {
        o.overrides = tpu7x;
        o.n_overrides = 1;
    }
    if (st == ST_OK) st = pjrt_compiler_run(t->compiler, &(pjrt_source){ impl->name, text.data, text.len }, &o, &exe, &stats);
    report(impl, i, full, t->name, st, &stats, clock_now() - start);
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

static status open_target(const char *name, target *out)
{
    pjrt_place place, plugin;
    TRY(pjrt_target_parse(name, &place));
    *out = (target){ .name = name, .chip = chip_of(name) };
    status st = out->chip ? pjrt_find("tpu", &plugin) : err_set(ST_INVALID, "there is no chip %s", name);
    if (st == ST_OK) {
        st = pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin.path, .topology = place.path, .options = place.options, .limit_s = 100 }, &out->compiler);
        pjrt_place_free(&plugin);
    }
    pjrt_place_free(&place);
    return st;
}

static int run_compile(const char *target_name, const char *kernel, const char *which, bool full)
{
    target t = {0};
    int failed = 0;
    if (open_target(target_name, &t) != ST_OK) {
        fprintf(stderr, "%s\n", err_msg());
        return 1;
    }
    for (int k = 0; kernel_at(k); k++)
        for (int i = 0; strcmp(kernel, "all") == 0 && i < kernel_at(k)->n_cases; i++) failed += compile(&t, kernel_at(k), i, full) != ST_OK;
    const kernel_impl *one = find(kernel);
    for (int i = 0; one && i < one->n_cases; i++)
        if (strcmp(which, "all") == 0 || atoi(which) == i) failed += compile(&t, one, i, full) != ST_OK;
    if (!one && strcmp(kernel, "all") != 0) {
        fprintf(stderr, "there is no kernel %s\n", kernel);
        failed++;
    }
    pjrt_compiler_close(t.compiler);
    return failed != 0;
}

static int run_print(const char *what, const kernel_impl *impl, int i, bool full, const chip *c)
{
    mk *k = NULL;
    buf text = {0};
    status st = !impl || i < 0 || i >= impl->n_cases ? err_set(ST_INVALID, "there is no such kernel or case") : build(impl, i, full, c, &k);
    if (st == ST_OK) st = strcmp(what, "print") == 0 ? mk_print(k, &text) : program(impl, i, k, &text);
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
    status st = !impl || i < 0 || i >= impl->n_cases || !c ? err_set(ST_INVALID, "there is no such kernel, case or chip") : build(impl, i, false, c, &k);
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
    bool compiles = argc >= 4 && strcmp(argv[1], "compile") == 0, full = false;
    if (!compiles && (argc < 4 || (strcmp(argv[1], "print") != 0 && strcmp(argv[1], "program") != 0))) {
        fprintf(stderr, "kernels list | run NAME CASE DIR [CHIP] | print NAME CASE [full] [CHIP] | program NAME CASE [full] [CHIP] | compile TARGET NAME|all CASE|all [full]\n");
        return 2;
    }
    const char *chip_name = "v6e", *which = compiles && argc < 5 ? "all" : argv[compiles ? 4 : 3];
    for (int i = compiles ? 5 : 4; i < argc; i++)
        if (strcmp(argv[i], "full") == 0) full = true;
        else chip_name = argv[i];
    return compiles ? run_compile(argv[2], argv[3], which, full) : run_print(argv[1], find(argv[2]), atoi(argv[3]), full, chip_by_name(chip_name));
}
