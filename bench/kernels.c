/* The registered kernels, printed or compiled where there is no TPU:
 *
 *     kernels list
 *     kernels print NAME CASE [full] [CHIP]      the Mosaic module
 *     kernels program NAME CASE [full] [CHIP]    the StableHLO program around it
 *     kernels compile TARGET NAME CASE [full]    with libtpu for TARGET (v6e:2x2); NAME "all": every case of every kernel
 *
 * compile prints a JSON object per case. The static profile of libtpu (LIBTPU_INIT_ARGS=--xla_jf_dump_static_llo_profile_to=DIR) has a
 * file per kernel name; bench/kernel_table.py reads it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "device/pjrt/compiler.h"
#include "device/pjrt/spec.h"
#include "ops/hlo.h"
#include "ops/kernels.h"
#include "tests/unit/mosaic/kernels.h"

/* Two that no operation uses, to learn from. */
static void describe_example(int i, char *dst, size_t cap) { snprintf(dst, cap, "%s", i ? "" : "the example of docs/kernels.md"); }
static mk *build_gather(int i, const chip *c) { (void)i, (void)c; return kernel_gather(); }
static mk *build_fd(int i, const chip *c) { (void)i, (void)c; return kernel_flash_decode(); }
static const kernel_impl examples[] = {
    { .name = "gather", .n_cases = 1, .describe = describe_example, .build = build_gather },
    { .name = "fd", .n_cases = 1, .describe = describe_example, .build = build_fd },
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
    bool compiles = argc >= 4 && strcmp(argv[1], "compile") == 0, full = false;
    if (!compiles && (argc < 4 || (strcmp(argv[1], "print") != 0 && strcmp(argv[1], "program") != 0))) {
        fprintf(stderr, "kernels list | print NAME CASE [full] [CHIP] | program NAME CASE [full] [CHIP] | compile TARGET NAME|all CASE|all [full]\n");
        return 2;
    }
    const char *chip_name = "v6e", *which = compiles && argc < 5 ? "all" : argv[compiles ? 4 : 3];
    for (int i = compiles ? 5 : 4; i < argc; i++)
        if (strcmp(argv[i], "full") == 0) full = true;
        else chip_name = argv[i];
    return compiles ? run_compile(argv[2], argv[3], which, full) : run_print(argv[1], find(argv[2]), atoi(argv[3]), full, chip_by_name(chip_name));
}
