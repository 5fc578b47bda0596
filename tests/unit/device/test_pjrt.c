/* The PJRT layer: everything that needs no plugin, then against XLA:CPU (`make pjrt-cpu`), then against libtpu where its
 * package is found (SYSTOLIC_LIBTPU=PATH or a Python package), which compiles without a TPU. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/mem.h"
#include "device/pjrt/cache.h"
#include "device/pjrt/compiler.h"
#include "device/pjrt/pjrt.h"
#include "device/pjrt/spec.h"
#include "tests/test.h"

#define DATA "tests/unit/device/pjrt/"
#define SOURCE(text) (&(pjrt_source){ "a program", text, strlen(text) })

/* ---- helpers ---- */
static const char *build_dir(void)
{
    const char *b = getenv("BUILD");
    static char dir[4096];
    if (b && *b) return b;
    ssize_t n = readlink("/proc/self/exe", dir, sizeof dir - 1);
    dir[n > 0 ? n : 0] = 0;
    char *at = strstr(dir, "/tests/unit/");
    if (at) *at = 0;
    return at ? dir : "build";
}

static const char *cpu_plugin(void)
{
    static char path[4200];
    const char *own = getenv("SYSTOLIC_PJRT_CPU");
    snprintf(path, sizeof path, "%s", own ? own : "");
    if (!own) snprintf(path, sizeof path, "%s/pjrt/libpjrt_cpu.so", build_dir());
    if (!own && access(path, R_OK) != 0) snprintf(path, sizeof path, "build/pjrt/libpjrt_cpu.so");
    return access(path, R_OK) == 0 ? path : NULL;
}

static const char *tpu_plugin(void)
{
    static char path[4096];
    const char *own = getenv("SYSTOLIC_LIBTPU");
    if (own) return access(own, R_OK) == 0 ? own : NULL;
    pjrt_place place;
    if (path[0]) return path;
    if (pjrt_find("tpu", &place) != ST_OK) return NULL;
    snprintf(path, sizeof path, "%s", place.path);
    pjrt_place_free(&place);
    return path;
}

/* XLA is not built with ThreadSanitizer, which takes its synchronisation for races. */
#ifdef __SANITIZE_THREAD__
#define NO_PLUGIN "plugins are not built for ThreadSanitizer"
#else
#define NO_PLUGIN NULL
#endif

#define NEED_CPU                                                        \
    const char *plugin_path = cpu_plugin(), *no_plugin = NO_PLUGIN;     \
    if (no_plugin) SKIP("%s", no_plugin);                               \
    if (!plugin_path) SKIP("no XLA:CPU plugin (make pjrt-cpu)")
#define NEED_TPU                                                        \
    const char *path = tpu_plugin(), *no_plugin = NO_PLUGIN;            \
    if (no_plugin) SKIP("%s", no_plugin);                               \
    if (!path) SKIP("no libtpu (pip install libtpu, or SYSTOLIC_LIBTPU=PATH)")

static char *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    static char data[1 << 20];
    *len = fread(data, 1, sizeof data - 1, f);
    data[*len] = 0;
    fclose(f);
    return data;
}

static pjrt_plugin *plugin;
/* One client of four devices for all tests; opening XLA:CPU takes a while. */
static pjrt_client *cpu(void)
{
    static pjrt_client *c;
    if (c) return c;
    const pjrt_value four = { .name = "cpu_device_count", .kind = PJRT_INT, .i64 = 4 };
    if (pjrt_plugin_open(cpu_plugin(), false, &plugin) != ST_OK || pjrt_client_open(plugin, &four, 1, &c) != ST_OK) {
        FAIL("%s", err_msg());
        return NULL;
    }
    return c;
}

static pjrt_buffer *up(pjrt_client *c, int device, dtype t, int64_t n, const void *data)
{
    pjrt_buffer *b = NULL;
    if (pjrt_upload(c, device, t, &n, 1, data, PJRT_HOLD_CALL, &b, NULL) != ST_OK) FAIL("%s", err_msg());
    return b;
}

static const char add_one[] = "module { func.func public @main(%a: tensor<4xf32>) -> tensor<4xf32> {"
    " %c = stablehlo.constant dense<1.0> : tensor<4xf32> %0 = stablehlo.add %a, %c : tensor<4xf32> return %0 : tensor<4xf32> } }";
static const char all_reduce[] = "module { func.func public @main(%a: tensor<4xf32>) -> tensor<4xf32> { %1 = \"stablehlo.all_reduce\"(%a) ({"
    " ^bb0(%x: tensor<f32>, %y: tensor<f32>): %s = stablehlo.add %x, %y : tensor<f32> stablehlo.return %s : tensor<f32> })"
    " {replica_groups = dense<[[0,1,2,3]]> : tensor<1x4xi64>, channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, use_global_device_ids}"
    " : (tensor<4xf32>) -> tensor<4xf32> return %1 : tensor<4xf32> } }";
/* A cache of 1024 rows, donated, of which one is written. */
static const char update[] = "module { func.func public @main(%kv: tensor<1024x64xf32> {tf.aliasing_output = 0 : i32}, %row: tensor<1x64xf32>, %pos: tensor<i32>)"
    " -> (tensor<1024x64xf32>, tensor<f32>) { %z = stablehlo.constant dense<0> : tensor<i32>"
    " %k = stablehlo.dynamic_update_slice %kv, %row, %pos, %z : (tensor<1024x64xf32>, tensor<1x64xf32>, tensor<i32>, tensor<i32>) -> tensor<1024x64xf32>"
    " %c = stablehlo.constant dense<0.0> : tensor<f32>"
    " %s = stablehlo.reduce(%k init: %c) applies stablehlo.add across dimensions = [0, 1] : (tensor<1024x64xf32>, tensor<f32>) -> tensor<f32>"
    " return %k, %s : tensor<1024x64xf32>, tensor<f32> } }";

/* ---- without a plugin ---- */
static void check_bytes(const pjrt_compile_options *o, const char *hex)
{
    buf b = {0};
    char got[2048];
    REQUIRE_OK(pjrt_options_encode(o, &b));
    REQUIRE(b.len * 2 < sizeof got);
    hash_hex((const uint8_t *)b.data, b.len, got);
    CHECK_STR(got, hex);
    buf_free(&b);
}

TEST(options_have_the_protos_bytes)
{
    check_bytes(&(pjrt_compile_options){0}, "1a0420012801");
    check_bytes(&(pjrt_compile_options){ .n_partitions = 4 }, "1a202001280430014a18080110041a030a01001a030a01011a030a01021a030a0103");
    check_bytes(&(pjrt_compile_options){ .n_partitions = 4, .shardy = true }, "1a232001280430014a18080110041a030a01001a030a01011a030a01021a030a0103980101");
    check_bytes(&(pjrt_compile_options){ .n_replicas = 4 }, "1a12200428014a0c080410011a060a0400010203");
    check_bytes(&(pjrt_compile_options){ .effort = PJRT_EFFORT_O1 }, "1a0720012801c00113");
    check_bytes(&(pjrt_compile_options){ .effort = PJRT_EFFORT_O0 }, "1a0720012801c00109");
    check_bytes(&(pjrt_compile_options){ .device_ids = (int[]){ 300 } }, "1a10200128014a0a080110011a040a02ac02");
}

TEST(overrides_have_the_protos_bytes)
{
    pjrt_values v;
    REQUIRE_OK(pjrt_values_parse("a=true,b=7,c=x y,d=0.5", &v));
    CHECK_INT(v.n, 4);
    check_bytes(&(pjrt_compile_options){ .overrides = v.v, .n_overrides = v.n },
                "1a04200128013a070a0161120210013a070a0162120218073a0a0a016312050a037820793a0e0a0164120921000000000000e03f");
    pjrt_values_free(&v);
    REQUIRE_OK(pjrt_values_parse("bounds=2:2:1", &v));
    buf b = {0};
    CHECK_ERR(pjrt_options_encode(&(pjrt_compile_options){ .overrides = v.v, .n_overrides = 1 }, &b), ST_INVALID, "bounds: a list");
    CHECK_ERR(pjrt_options_encode(&(pjrt_compile_options){ .n_partitions = -1 }, &b), ST_INVALID, "-1 partitions");
    CHECK_ERR(pjrt_options_encode(&(pjrt_compile_options){ .n_partitions = 70000 }, &b), ST_INVALID, "at most 65536");
    buf_free(&b);
    pjrt_values_free(&v);
}

TEST(values_are_parsed_by_kind)
{
    pjrt_values v;
    REQUIRE_OK(pjrt_values_parse("i=-3,b=false,t=mega,l=2:2:1,r=1.5e3,u=1x2,h=a:b,e=", &v));
    CHECK_INT(v.n, 8);
    CHECK_INT(v.v[0].kind, PJRT_INT);
    CHECK_INT(v.v[0].i64, -3);
    CHECK_INT(v.v[1].kind, PJRT_BOOL);
    CHECK_STR(v.v[2].text, "mega");
    CHECK_INT(v.v[3].kind, PJRT_INTS);
    CHECK_INT(v.v[3].n_ints, 3);
    CHECK_INT(v.v[3].ints[2], 1);
    CHECK_INT(v.v[4].kind, PJRT_REAL);
    CHECK_NEAR(v.v[4].real, 1500, 0);
    CHECK_INT(v.v[5].kind, PJRT_TEXT);
    CHECK_STR(v.v[6].text, "a:b");
    CHECK_STR(v.v[7].text, "");
    pjrt_values_free(&v);
    REQUIRE_OK(pjrt_values_parse("", &v));
    CHECK_INT(v.n, 0);
    CHECK_ERR(pjrt_values_parse("a=1,b", &v), ST_INVALID, "\"b\" is not NAME=VALUE");
    CHECK_ERR(pjrt_values_parse("=1", &v), ST_INVALID, "not NAME=VALUE");
}

static void check_target(const char *target, const char *name, const char *options)
{
    pjrt_place p = {0};
    REQUIRE_OK(pjrt_target_parse(target, &p));
    CHECK_STR(p.path, name);
    CHECK_STR(p.options, options);
    pjrt_place_free(&p);
}

TEST(targets_become_libtpus_names)
{
    check_target("v6e:2x2", "v6e:2x2", "");
    check_target("v7x:2x2x1", "tpu7x:2x2x1", "");
    check_target("tpu7x:1x1x1", "tpu7x:1x1x1", "");
    check_target("v5litepod-8", "v5e:2x4", "");
    check_target("v5p-8", "v5p:2x2x1", "");
    check_target("v3-8", "v3:2x2x1", "");
    check_target("v6e-256", "v6e:16x16", "");
    check_target("v4:2x2x1?chip_config_name=megacore", "v4:2x2x1", "chip_config_name=megacore");
    pjrt_place p;
    CHECK_ERR(pjrt_target_parse("v8:2x2", &p), ST_INVALID, "unknown generation");
    CHECK_ERR(pjrt_target_parse("v6e", &p), ST_INVALID, "no shape is given");
    CHECK_ERR(pjrt_target_parse("v6e:2x2x1", &p), ST_INVALID, "two factors");
    CHECK_ERR(pjrt_target_parse("v5p:2x2", &p), ST_INVALID, "three factors");
    CHECK_ERR(pjrt_target_parse("v6e:2x", &p), ST_INVALID, "two factors");
    CHECK_ERR(pjrt_target_parse("v6e:0x2", &p), ST_INVALID, "two factors");
    CHECK_ERR(pjrt_target_parse("v6e:99999x2", &p), ST_INVALID, "two factors");
    CHECK_ERR(pjrt_target_parse("v6e-3", &p), ST_INVALID, "no shape is known");
    CHECK_ERR(pjrt_target_parse("v7x-8", &p), ST_INVALID, "no shape is known");
    CHECK_ERR(pjrt_target_parse("", &p), ST_INVALID, "v6e:2x2");
}

TEST(plugins_are_found_or_it_says_where_it_looked)
{
    pjrt_place p;
    char dir[] = "/tmp/systolic-pjrt-XXXXXX", path[200];
    REQUIRE(mkdtemp(dir));
    REQUIRE_OK(pjrt_find("pjrt:/a/b.so?cpu_device_count=4", &p));
    CHECK_STR(p.path, "/a/b.so");
    CHECK_STR(p.options, "cpu_device_count=4");
    pjrt_place_free(&p);
    CHECK_ERR(pjrt_find("pjrt:", &p), ST_INVALID, "names the plugin's file");
    CHECK_ERR(pjrt_find("gpu", &p), ST_INVALID, "tpu, cuda, pjrt:PATH");
    /* A virtual environment is enough; nothing is run. */
    snprintf(path, sizeof path, "mkdir -p %s/lib/python3.99/site-packages/jax_plugins/xla_cuda13 && : > %s/lib/python3.99/site-packages/jax_plugins/xla_cuda13/xla_cuda_plugin.so", dir, dir);
    char command[500];
    snprintf(command, sizeof command, "%s", path);
    REQUIRE(system(command) == 0);
    char *saved = getenv("VIRTUAL_ENV");
    char *keep = saved ? mem_strdup(saved) : NULL;
    setenv("VIRTUAL_ENV", dir, 1);
    CHECK_OK(pjrt_find("cuda", &p));
    CHECK(strstr(p.path, "/lib/python3.99/site-packages/jax_plugins/xla_cuda13/xla_cuda_plugin.so") != NULL);
    pjrt_place_free(&p);
    setenv("TPU_LIBRARY_PATH", "/nowhere/libtpu.so", 1);
    CHECK_ERR(pjrt_find("tpu", &p), ST_NOT_FOUND, "TPU_LIBRARY_PATH=/nowhere/libtpu.so: no such file");
    setenv("TPU_LIBRARY_PATH", "Makefile", 1);
    CHECK_OK(pjrt_find("tpu", &p));
    CHECK_STR(p.path, "Makefile");
    pjrt_place_free(&p);
    unsetenv("TPU_LIBRARY_PATH");
    const char *names[] = { "PATH", "HOME", "PYTHONPATH", "PYENV_ROOT" };
    char *old[4];
    for (int i = 0; i < 4; i++) {
        old[i] = getenv(names[i]) ? mem_strdup(getenv(names[i])) : NULL;
        setenv(names[i], "/nowhere", 1);
    }
    if (access("/usr/lib/python3/dist-packages/libtpu", R_OK) != 0) CHECK_ERR(pjrt_find("tpu", &p), ST_NOT_FOUND, "lib/python3.99/site-packages");
    for (int i = 0; i < 4; i++) {
        if (old[i]) setenv(names[i], old[i], 1);
        else unsetenv(names[i]);
        mem_free(old[i]);
    }
    if (keep) setenv("VIRTUAL_ENV", keep, 1);
    else unsetenv("VIRTUAL_ENV");
    mem_free(keep);
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
}

/* Builds fake_plugin.c in one of its modes; NULL without a compiler. */
static const char *fake(const char *mode)
{
    static char path[4300];
    char command[9000];
    snprintf(path, sizeof path, "%s/fake_plugin_%s.so", build_dir(), mode);
    snprintf(command, sizeof command, "cc -std=c11 -w -shared -fPIC -Isrc -DMODE=%s -o %s " DATA "fake_plugin.c 2>/dev/null", mode, path);
    return system(command) == 0 ? path : NULL;
}

/* ---- the compiler in a child: before anything loads a plugin here ---- */
TEST(a_plugin_that_crashes_is_a_message)
{
    const char *path = fake("ABORTS");
    if (!path) SKIP("no C compiler here");
    pjrt_compiler *c;
    pjrt_target_info info;
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = path }, &c));
    CHECK_ERR(pjrt_compiler_describe(c, &info), ST_INTERNAL, "died (signal 6");
    CHECK_ERR(pjrt_compiler_describe(c, &info), ST_INTERNAL, "died (signal 6");
    CHECK_INT(pjrt_compiler_n_deaths(c), 2);
    pjrt_compiler_close(c);
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = "/nowhere.so" }, &c));
    CHECK_ERR(pjrt_compiler_describe(c, &info), ST_NOT_FOUND, "/nowhere.so");
    CHECK_INT(pjrt_compiler_n_deaths(c), 0);
    pjrt_compiler_close(c);
}

static buf from_child;      /* add_one, compiled there for a later test */

TEST(a_compiler_that_dies_is_replaced_and_the_queue_goes_on)
{
    NEED_CPU;
    pjrt_compiler *k;
    pjrt_target_info info;
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin_path, .topology = "cpu:4" }, &k));
    REQUIRE_OK(pjrt_compiler_describe(k, &info));
    CHECK_STR(info.platform, "cpu");
    CHECK_INT(info.n_devices, 4);
    CHECK_STR(info.device.kind, "cpu");
    buf exe = {0};
    pjrt_stats s;
    REQUIRE_OK(pjrt_compiler_run(k, SOURCE(add_one), &(pjrt_compile_options){0}, &exe, &s));
    CHECK_INT(s.argument_bytes, 16);
    pid_t first = pjrt_compiler_worker(k);
    CHECK_ERR(pjrt_compiler_run(k, &(pjrt_source){ "broken", "module {", 8 }, &(pjrt_compile_options){0}, &exe, &s), ST_INVALID, "compile broken: ");
    CHECK_INT(pjrt_compiler_worker(k), first);      /* an error is no death */
    /* Killed between two programs: nobody notices. */
    kill(first, SIGKILL);
    buf_clear(&exe);
    REQUIRE_OK(pjrt_compiler_run(k, SOURCE(add_one), &(pjrt_compile_options){0}, &exe, &s));
    CHECK(pjrt_compiler_worker(k) != first);
    CHECK(exe.len > 100);
    pjrt_compiler_close(k);
    from_child = exe;
}

/* A program whose compilation takes long: XLA:CPU folds nothing of it, but has thousands of operations to fuse. */
static void long_program(buf *b)
{
    buf_str(b, "module { func.func public @main(%v0: tensor<64x64xf32>) -> tensor<64x64xf32> {\n");
    for (int i = 0; i < 4000; i++)
        buf_printf(b, "%%d%d = stablehlo.dot_general %%v%d, %%v%d, contracting_dims = [1] x [0] : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32>\n%%v%d = stablehlo.sine %%d%d : tensor<64x64xf32>\n", i, i, i ? i - 1 : 0, i + 1, i);
    buf_str(b, "return %v4000 : tensor<64x64xf32> } }");
}

static void *kill_soon(void *arg)
{
    pid_t pid = *(pid_t *)arg;
    usleep(300000);
    kill(pid, SIGABRT);
    return NULL;
}

TEST(a_death_in_the_middle_and_a_time_limit)
{
    NEED_CPU;
    pjrt_compiler *k;
    buf slow = {0}, exe = {0};
    long_program(&slow);
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin_path, .topology = "cpu:1" }, &k));
    REQUIRE_OK(pjrt_compiler_run(k, SOURCE(add_one), &(pjrt_compile_options){0}, &exe, NULL));
    pid_t worker = pjrt_compiler_worker(k);
    pthread_t killer;
    REQUIRE(pthread_create(&killer, NULL, kill_soon, &worker) == 0);
    CHECK_ERR(pjrt_compiler_run(k, &(pjrt_source){ "prefill", slow.data, slow.len }, &(pjrt_compile_options){0}, &exe, NULL), ST_INTERNAL, "compile prefill: the compiler died (signal 6");
    pthread_join(killer, NULL);
    CHECK_INT(pjrt_compiler_n_deaths(k), 1);
    CHECK_OK(pjrt_compiler_run(k, SOURCE(add_one), &(pjrt_compile_options){0}, &exe, NULL));
    pjrt_compiler_close(k);
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin_path, .options = "cpu_device_count=2", .limit_s = 0.2 }, &k));
    CHECK_ERR(pjrt_compiler_run(k, &(pjrt_source){ "prefill", slow.data, slow.len }, &(pjrt_compile_options){0}, &exe, NULL), ST_INTERNAL, "it took longer than");
    /* Closing in the middle of nothing; the children go. */
    pjrt_compiler_close(k);
    buf_free(&slow);
    buf_free(&exe);
}

TEST(the_cache_compiles_once)
{
    NEED_CPU;
    char dir[] = "/tmp/systolic-cache-XXXXXX", command[300];
    REQUIRE(mkdtemp(dir));
    pjrt_cache *cache;
    pjrt_compiler *k;
    REQUIRE_OK(pjrt_cache_open(dir, &cache));
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin_path, .topology = "cpu:1" }, &k));
    buf first = {0}, second = {0};
    pjrt_stats s1, s2;
    bool cached = true;
    REQUIRE_OK(pjrt_compiler_get(k, cache, SOURCE(add_one), &(pjrt_compile_options){0}, &first, &s1, &cached));
    CHECK(!cached);
    REQUIRE_OK(pjrt_compiler_get(k, cache, SOURCE(add_one), &(pjrt_compile_options){0}, &second, &s2, &cached));
    CHECK(cached);
    CHECK(first.len == second.len && !memcmp(first.data, second.data, first.len));
    CHECK(!memcmp(&s1, &s2, sizeof s1));
    REQUIRE_OK(pjrt_compiler_get(k, cache, SOURCE(add_one), &(pjrt_compile_options){ .n_partitions = 1, .effort = PJRT_EFFORT_O1 }, &second, NULL, &cached));
    CHECK(!cached);
    /* A cache that cannot be written is a warning. */
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
    REQUIRE_OK(pjrt_compiler_get(k, cache, SOURCE(add_one), &(pjrt_compile_options){0}, &second, NULL, &cached));
    CHECK(!cached);
    pjrt_compiler_close(k);
    pjrt_cache_close(cache);
    buf_free(&first);
    buf_free(&second);
}

#define EVERY_ALLOCATION_FAILS(call)                                  \
    for (uint64_t n = 1;; n++) {                                      \
        int64_t live = mem_live();                                    \
        mem_fail_at(n);                                               \
        status st_ = (call);                                          \
        int hit = mem_failed();                                       \
        mem_fail_at(0);                                               \
        CHECK_INT(mem_live(), live);                                  \
        if (!hit) {                                                   \
            if (st_ != ST_OK) FAIL("%s", err_msg());                  \
            break;                                                    \
        }                                                             \
        if (st_ != ST_NOMEM) FAIL("allocation %d: %s (%s)", (int)n, status_name(st_), err_msg()); \
        if (test_cur_failed) break;                                   \
    }

static status open_child(const char *path, pjrt_compiler **k)
{
    pjrt_compiler *c = NULL;
    status st = pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = path, .topology = "cpu:1", .topology_bytes = "x", .topology_len = 1 }, &c);
    if (st == ST_OK && k) *k = c;
    else pjrt_compiler_close(c);
    return st;
}

static status compile_and_drop(pjrt_compiler *k)
{
    buf exe = {0};
    status st = pjrt_compiler_run(k, SOURCE(add_one), &(pjrt_compile_options){0}, &exe, NULL);
    buf_free(&exe);
    return st;
}

TEST(out_of_memory_around_the_child)
{
    EVERY_ALLOCATION_FAILS(open_child("/nowhere.so", NULL));
    NEED_CPU;
    pjrt_compiler *k;
    REQUIRE_OK(open_child(plugin_path, &k));
    buf exe = {0};
    REQUIRE_OK(pjrt_compiler_run(k, SOURCE(add_one), &(pjrt_compile_options){0}, &exe, NULL));   /* the worker is forked: what fails now fails here */
    buf_free(&exe);
    EVERY_ALLOCATION_FAILS(compile_and_drop(k));
    pjrt_compiler_close(k);
}

/* ---- libtpu, without a TPU ---- */
TEST(libtpu_compiles_for_every_generation)
{
    NEED_TPU;
    static const struct { const char *target, *kind; int n_devices; int64_t memory; } want[] = {
        { "v3:2x2x1", "TPU v3", 8, 16624107520 }, { "v4:2x2x1", "TPU v4", 8, 32745971712 }, { "v4:2x2x1?chip_config_name=megacore", "TPU v4", 4, 33014413312 },
        { "v5e:2x2", "TPU v5 lite", 4, 16909334528 }, { "v5p:2x2x1", "TPU v5", 4, 102786660352 },
        { "v6e:2x2", "TPU v6 lite", 4, 33546041344 }, { "v7x:2x2x1", "TPU7x", 8, 101724450816 },
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        pjrt_place target;
        pjrt_compiler *k;
        pjrt_target_info info;
        pjrt_stats s = {0};
        buf exe = {0};
        REQUIRE_OK(pjrt_target_parse(want[i].target, &target));
        REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = path, .topology = target.path, .options = target.options, .limit_s = 300 }, &k));
        status st = pjrt_compiler_describe(k, &info);
        if (st == ST_OK) {
            CHECK_STR(info.device.kind, want[i].kind);
            CHECK_INT(info.n_devices, want[i].n_devices);
            CHECK_INT(info.device.memory_bytes, want[i].memory);
            st = pjrt_compiler_run(k, SOURCE(update), &(pjrt_compile_options){0}, &exe, &s);
        }
        if (st == ST_OK && i == 5) {
            buf_clear(&exe);
            st = pjrt_compiler_run(k, SOURCE(all_reduce), &(pjrt_compile_options){ .n_partitions = 4 }, &exe, NULL);
        }
        if (st != ST_OK) FAIL("%s: %s", want[i].target, err_msg());
        CHECK(exe.len > 1000);
        CHECK(s.argument_bytes >= 1024 * 64 * 4 && s.temp_bytes >= 0);
        CHECK(s.alias_bytes >= 1024 * 64 * 4);
        printf("  %-36s %-12s compiled in %.2f s, temporaries %lld, code %lld, serialised %zu bytes\n", want[i].target, info.device.kind, s.compile_s,
               (long long)s.temp_bytes, (long long)s.code_bytes, exe.len);
        buf_free(&exe);
        pjrt_compiler_close(k);
        pjrt_place_free(&target);
    }
}

TEST(libtpu_that_aborts_is_a_message)
{
    NEED_TPU;
    /* v4 has no 2-bit operands; libtpu ends the process instead of saying so. */
    const char *two_bits = "module { func.func public @main(%a: tensor<512x1024xi2>, %b: tensor<1024x512xi2>) -> tensor<512x512xi32> {"
        " %0 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0] : (tensor<512x1024xi2>, tensor<1024x512xi2>) -> tensor<512x512xi32>"
        " return %0 : tensor<512x512xi32> } }";
    pjrt_compiler *k;
    buf exe = {0};
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = path, .topology = "v4:1x1x1" }, &k));
    CHECK_ERR(pjrt_compiler_run(k, SOURCE(two_bits), &(pjrt_compile_options){0}, &exe, NULL), ST_INTERNAL, "died (signal 6, Aborted): F");
    CHECK_INT(pjrt_compiler_n_deaths(k), 1);
    CHECK_OK(pjrt_compiler_run(k, SOURCE(update), &(pjrt_compile_options){0}, &exe, NULL));
    CHECK(exe.len > 1000);
    buf_free(&exe);
    pjrt_compiler_close(k);
}

TEST(what_is_not_a_plugin_is_refused_in_one_line)
{
    pjrt_plugin *p = NULL;
    CHECK_ERR(pjrt_plugin_open("/nowhere/x.so", false, &p), ST_NOT_FOUND, "/nowhere/x.so: No such file");
    CHECK_ERR(pjrt_plugin_open("/tmp", false, &p), ST_INVALID, "not a file");
    CHECK_ERR(pjrt_plugin_open("Makefile", false, &p), ST_INVALID, "Makefile does not load");
    if (access("/usr/lib/x86_64-linux-gnu/libz.so.1", R_OK) == 0)
        CHECK_ERR(pjrt_plugin_open("/usr/lib/x86_64-linux-gnu/libz.so.1", false, &p), ST_INVALID, "has no function GetPjrtApi");
    if (!fake("NO_TABLE")) SKIP("no C compiler here");
    CHECK_ERR(pjrt_plugin_open(fake("NO_TABLE"), false, &p), ST_INVALID, "returns nothing");
    CHECK_ERR(pjrt_plugin_open(fake("TOO_OLD"), false, &p), ST_UNSUPPORTED, "PJRT API 0.12 is too old");
    CHECK_ERR(pjrt_plugin_open(fake("OTHER_MAJOR"), false, &p), ST_UNSUPPORTED, "speaks PJRT API 7.90, Systolic speaks 0.x");
    CHECK_ERR(pjrt_plugin_open(fake("INIT_FAILS"), false, &p), ST_INTERNAL, "initialise: the lock file is held (PJRT error 10, ABORTED)");
    pjrt_client *c = NULL;
    REQUIRE_OK(pjrt_plugin_open(fake("NO_DEVICE"), false, &p));
    CHECK_ERR(pjrt_client_open(p, NULL, 0, &c), ST_NOT_FOUND, "no device could be opened: no accelerator found on this host (PJRT error 5, NOT_FOUND)");
    CHECK(!strstr(err_msg(), "secret"));
    CHECK(!strchr(err_msg(), '\n'));
    pjrt_plugin_close(p);
}

/* ---- cache ---- */
static const pjrt_stats some_stats = { .compile_s = 1.5, .flops = 2e12, .bytes = 3, .optimal_s = -1, .argument_bytes = 4, .output_bytes = 5,
                                       .alias_bytes = 6, .temp_bytes = 7, .code_bytes = 8, .peak_bytes = -1 };

TEST(cache_keeps_programs_and_notices_damage)
{
    char dir[] = "/tmp/systolic-cache-XXXXXX", key[PJRT_KEY_LEN], other[PJRT_KEY_LEN], path[300], command[400];
    REQUIRE(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/a/b", dir);
    pjrt_cache *c;
    REQUIRE_OK(pjrt_cache_open(path, &c));
    pjrt_compile_options o = {0};
    pjrt_key k = { "tpu", "libtpu 1", "v6e:2x2", "code", 4, &o };
    REQUIRE_OK(pjrt_cache_key(&k, key));
    CHECK_INT(strlen(key), 64);
    o.effort = PJRT_EFFORT_O1;
    REQUIRE_OK(pjrt_cache_key(&k, other));
    CHECK(strcmp(key, other) != 0);
    o.effort = PJRT_EFFORT_DEFAULT;
    k.version = "libtpu 2";
    REQUIRE_OK(pjrt_cache_key(&k, other));
    CHECK(strcmp(key, other) != 0);

    bool found = true;
    buf b = {0};
    pjrt_stats s = {0};
    REQUIRE_OK(pjrt_cache_get(c, key, &b, &s, &found));
    CHECK(!found);
    REQUIRE_OK(pjrt_cache_put(c, key, "exe\0cute", 8, &some_stats));
    REQUIRE_OK(pjrt_cache_get(c, key, &b, &s, &found));
    CHECK(found && b.len == 8 && !memcmp(b.data, "exe\0cute", 8));
    CHECK(!memcmp(&s, &some_stats, sizeof s));
    /* One byte wrong, cut short, empty: compiled anew, and gone. */
    for (int damage = 0; damage < 3; damage++) {
        REQUIRE_OK(pjrt_cache_put(c, key, "exe\0cute", 8, &some_stats));
        snprintf(path, sizeof path, "%s/%s", pjrt_cache_dir(c), key);
        struct stat sb;
        REQUIRE(stat(path, &sb) == 0);
        int fd = open(path, O_WRONLY);
        if (damage == 0) CHECK(pwrite(fd, "X", 1, sb.st_size - 1) == 1);
        if (damage == 1) CHECK(ftruncate(fd, sb.st_size - 1) == 0);
        if (damage == 2) CHECK(ftruncate(fd, 0) == 0);
        close(fd);
        found = true;
        buf_clear(&b);
        REQUIRE_OK(pjrt_cache_get(c, key, &b, &s, &found));
        CHECK(!found);
        CHECK_INT(b.len, 0);
        CHECK(access(path, F_OK) != 0);
    }
    buf_free(&b);
    pjrt_cache_close(c);
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
    if (getuid() != 0) CHECK_ERR(pjrt_cache_open("/proc/nope", &c), ST_NOT_FOUND, "/proc/nope");
}

TEST(abi_is_the_headers)
{
    /* build.sh unpacks the wheel with the real header there. */
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char cache[4096], include[4300], command[9000];
    snprintf(cache, sizeof cache, "%s%s", xdg ? xdg : home ? home : "", xdg ? "" : "/.cache");
    snprintf(include, sizeof include, "%s/systolic/pjrt-cpu-2.21.0/tensorflow/include/xla/pjrt/c/pjrt_c_api.h", cache);
    if (access(include, R_OK) != 0) SKIP("the wheel's headers are not here (make pjrt-cpu)");
    snprintf(command, sizeof command, "cc -std=c11 -fsyntax-only -Isrc -I%s/systolic/pjrt-cpu-2.21.0/tensorflow/include tools/pjrt-cpu/abi_check.c", cache);
    CHECK(system(command) == 0);
}

/* ---- XLA:CPU ---- */
TEST(devices_are_described)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_plugin_info p;
    pjrt_plugin_describe(plugin, &p);
    CHECK_STR(p.path, plugin_path);
    CHECK_INT(p.api_major, 0);
    CHECK(p.api_minor >= 90);
    CHECK(p.stablehlo[0] >= 1);
    CHECK_INT(pjrt_client_n_devices(c), 4);
    CHECK_STR(pjrt_client_platform(c), "cpu");
    CHECK(strstr(pjrt_client_version(c), "2.21.0") != NULL);
    pjrt_device_info d;
    REQUIRE_OK(pjrt_client_device(c, 3, &d));
    CHECK_INT(d.id, 3);
    CHECK_STR(d.kind, "cpu");
    CHECK_ERR(pjrt_client_device(c, 4, &d), ST_INVALID, "0 to 3 exist");
    const pjrt_value bad = { .name = "nonsense", .kind = PJRT_INT, .i64 = 1 };
    pjrt_client *other;
    CHECK_ERR(pjrt_client_open(plugin, &bad, 1, &other), ST_INVALID, "\"nonsense\" is unknown");
}

TEST(a_program_runs_and_tells_its_costs)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_program *p;
    REQUIRE_OK(pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){0}, &p));
    const int64_t *dims;
    size_t rank;
    CHECK_INT(pjrt_program_n_outputs(p), 1);
    CHECK_INT(pjrt_program_output(p, 0, &dims, &rank), DT_F32);
    CHECK_INT(rank, 1);
    CHECK_INT(dims[0], 4);
    CHECK_INT(pjrt_program_output(p, 1, &dims, &rank), DT_COUNT);
    CHECK_INT(pjrt_program_n_devices(p), 1);
    const pjrt_stats *s = pjrt_program_stats(p);
    CHECK(s->flops >= 4 && s->compile_s > 0);
    CHECK_INT(s->argument_bytes, 16);
    CHECK_INT(s->output_bytes, 16);
    float a[4] = { 1, 2, 3, 4 }, r[4];
    pjrt_buffer *in = up(c, 0, DT_F32, 4, a), *out;
    REQUIRE(in);
    /* Three steps in flight, each fed by the one before; only the last is waited for. */
    for (int step = 0; step < 3; step++) {
        REQUIRE_OK(pjrt_execute(p, &in, 1, NULL, 0, &out, NULL));
        pjrt_buffer_free(c, in);
        in = out;
    }
    REQUIRE_OK(pjrt_download_now(c, in, r, sizeof r));
    for (int i = 0; i < 4; i++) CHECK_NEAR(r[i], a[i] + 3, 0);
    CHECK_ERR(pjrt_download_now(c, in, r, 12), ST_INVALID, "16 bytes, the destination 12");
    pjrt_event *e;
    bool ready = false;
    REQUIRE_OK(pjrt_buffer_ready(c, in, &e));
    REQUIRE_OK(pjrt_event_done(c, e, &ready));
    CHECK(ready);
    CHECK_OK(pjrt_event_wait(c, e));
    size_t bytes;
    CHECK_OK(pjrt_buffer_bytes(c, in, &bytes));
    CHECK_INT(bytes, 16);
    pjrt_buffer_free(c, in);
    pjrt_program_free(p);
}

TEST(steps_allocate_nothing_of_ours)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_program *p;
    REQUIRE_OK(pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){0}, &p));
    float a[4] = { 0 }, r[4];
    uint64_t before = mem_count();
    for (int i = 0; i < 50; i++) {
        pjrt_buffer *in = up(c, 0, DT_F32, 4, a), *out = NULL;
        pjrt_event *done;
        CHECK_OK(pjrt_execute(p, &in, 1, NULL, 0, &out, &done));
        CHECK_OK(pjrt_event_wait(c, done));
        CHECK_OK(pjrt_download_now(c, out, r, sizeof r));
        pjrt_buffer_free(c, in);
        pjrt_buffer_free(c, out);
    }
    CHECK_INT(mem_count(), before);
    pjrt_program_free(p);
}

TEST(a_bad_program_is_an_error_with_the_compilers_text)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_program *p;
    CHECK_ERR(pjrt_compile(c, &(pjrt_source){ "decode_64", "module { nonsense }", 19 }, &(pjrt_compile_options){0}, &p), ST_INVALID, "compile decode_64: ");
    CHECK(strstr(err_msg(), "nonsense") != NULL || strstr(err_msg(), "expected") != NULL);
    const char *types = "module { func.func public @main(%a: tensor<4xf32>) -> tensor<4xf32> { %0 = stablehlo.add %a, %b : tensor<4xf32> return %0 : tensor<4xf32> } }";
    CHECK_ERR(pjrt_compile(c, SOURCE(types), &(pjrt_compile_options){0}, &p), ST_INVALID, "undeclared SSA value");
    CHECK_ERR(pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){ .n_partitions = 9 }, &p), ST_INVALID, "compile a program");
    pjrt_value unknown = { .name = "xla_no_such_option", .kind = PJRT_BOOL, .b = true };
    CHECK_ERR(pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){ .overrides = &unknown, .n_overrides = 1 }, &p), ST_INVALID, "xla_no_such_option");
    REQUIRE_OK(pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){0}, &p));
    pjrt_buffer *out;
    CHECK_ERR(pjrt_execute(p, NULL, 0, NULL, 0, &out, NULL), ST_INVALID, "execute");
    pjrt_program_free(p);
}

TEST(four_devices_reduce_together)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    for (int replicas = 0; replicas < 2; replicas++) {
        pjrt_program *p;
        pjrt_compile_options o = { .n_replicas = replicas ? 4 : 1, .n_partitions = replicas ? 1 : 4 };
        REQUIRE_OK(pjrt_compile(c, SOURCE(all_reduce), &o, &p));
        REQUIRE(pjrt_program_n_devices(p) == 4);
        pjrt_buffer *in[4], *out[4];
        pjrt_event *done[4];
        for (int d = 0; d < 4; d++) {
            float a[4] = { (float)d, 10.f * (float)d, 1, -(float)d };
            CHECK_INT(pjrt_program_device(p, d), d);
            in[d] = up(c, d, DT_F32, 4, a);
        }
        REQUIRE_OK(pjrt_execute(p, in, 1, NULL, 0, out, done));
        for (int d = 0; d < 4; d++) {
            float r[4];
            CHECK_OK(pjrt_event_wait(c, done[d]));
            CHECK_OK(pjrt_download_now(c, out[d], r, sizeof r));
            CHECK(r[0] == 6 && r[1] == 60 && r[2] == 4 && r[3] == -6);
            pjrt_buffer_free(c, in[d]);
            pjrt_buffer_free(c, out[d]);
        }
        pjrt_program_free(p);
    }
}

TEST(one_device_of_four_by_id)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_program *p;
    REQUIRE_OK(pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){ .device_ids = (int[]){ 2 } }, &p));
    CHECK_INT(pjrt_program_device(p, 0), 2);
    float a[4] = { 1, 2, 3, 4 }, r[4];
    pjrt_buffer *in = up(c, 2, DT_F32, 4, a), *out;
    REQUIRE_OK(pjrt_execute(p, &in, 1, NULL, 0, &out, NULL));
    CHECK_OK(pjrt_download_now(c, out, r, sizeof r));
    CHECK_NEAR(r[3], 5, 0);
    pjrt_buffer_free(c, in);
    pjrt_buffer_free(c, out);
    pjrt_program_free(p);
}

TEST(a_donated_buffer_is_updated_in_place)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_program *p;
    REQUIRE_OK(pjrt_compile(c, SOURCE(update), &(pjrt_compile_options){0}, &p));
    CHECK_INT(pjrt_program_stats(p)->alias_bytes, 1024 * 64 * 4);
    pjrt_buffer *args[3], *outs[2];
    int64_t dims[2] = { 1024, 64 }, row_dims[2] = { 1, 64 };
    float row[64], sum;
    for (int i = 0; i < 64; i++) row[i] = 1;
    REQUIRE_OK(pjrt_zeros(c, 1, DT_F32, dims, 2, args));
    REQUIRE_OK(pjrt_upload(c, 0, DT_F32, row_dims, 2, row, PJRT_HOLD_CALL, &args[1], NULL));
    uintptr_t first, now;
    REQUIRE_OK(pjrt_buffer_address(c, args[0], &first));
    for (int32_t step = 0; step < 5; step++) {
        REQUIRE_OK(pjrt_upload(c, 0, DT_I32, NULL, 0, &step, PJRT_HOLD_CALL, &args[2], NULL));
        REQUIRE_OK(pjrt_execute(p, args, 3, NULL, 0, outs, NULL));
        bool gone = false, there = true;
        CHECK_OK(pjrt_buffer_deleted(c, args[0], &gone));
        CHECK_OK(pjrt_buffer_deleted(c, args[1], &there));
        CHECK(gone && !there);
        pjrt_buffer_free(c, args[0]);
        pjrt_buffer_free(c, args[2]);
        args[0] = outs[0];
        CHECK_OK(pjrt_download_now(c, outs[1], &sum, sizeof sum));
        pjrt_buffer_free(c, outs[1]);
        CHECK_NEAR(sum, 64.0 * (step + 1), 0);
        CHECK_OK(pjrt_buffer_address(c, args[0], &now));
        CHECK(now == first);
    }
    /* The same program leaves it alone when told to. */
    int32_t step = 7;
    REQUIRE_OK(pjrt_upload(c, 0, DT_I32, NULL, 0, &step, PJRT_HOLD_CALL, &args[2], NULL));
    REQUIRE_OK(pjrt_execute(p, args, 3, (int64_t[]){ 0 }, 1, outs, NULL));
    bool gone = true;
    CHECK_OK(pjrt_buffer_deleted(c, args[0], &gone));
    CHECK(!gone);
    for (int i = 0; i < 3; i++) pjrt_buffer_free(c, args[i]);
    for (int i = 0; i < 2; i++) pjrt_buffer_free(c, outs[i]);
    pjrt_program_free(p);
}

TEST(every_type_goes_up_and_comes_down)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    static const dtype types[] = { DT_F32, DT_BF16, DT_F16, DT_F64, DT_I64, DT_I32, DT_I16, DT_I8, DT_U8, DT_U16, DT_U32, DT_U64, DT_BOOL,
                                   DT_F8E4M3, DT_F8E5M2, DT_F8E8M0, DT_I4, DT_F4E2M1 };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        uint8_t in[6 * 8], out[6 * 8];
        size_t width = types[i] == DT_I4 || types[i] == DT_F4E2M1 ? 1 : dtype_bits(types[i]) / 8;
        for (size_t k = 0; k < sizeof in; k++) in[k] = (uint8_t)(types[i] == DT_BOOL ? k & 1 : k % 8);
        int64_t dims[2] = { 2, 3 }, got[PJRT_MAX_RANK];
        size_t rank;
        dtype t;
        pjrt_buffer *b;
        pjrt_event *host;
        status st = pjrt_upload(c, 1, types[i], dims, 2, in, PJRT_HOLD_DONE, &b, &host);
        if (st != ST_OK) { FAIL("%s: %s", pjrt_type_name(types[i]), err_msg()); continue; }
        CHECK_OK(pjrt_event_wait(c, host));
        CHECK_OK(pjrt_buffer_shape(c, b, &t, got, &rank));
        CHECK_INT(t, types[i]);
        CHECK(rank == 2 && got[0] == 2 && got[1] == 3);
        memset(out, 0xEE, sizeof out);
        st = pjrt_download_now(c, b, out, 6 * width);
        if (st != ST_OK) FAIL("%s: %s", pjrt_type_name(types[i]), err_msg());
        else if (memcmp(in, out, 6 * width) != 0) FAIL("%s comes back different", pjrt_type_name(types[i]));
        pjrt_buffer_free(c, b);
        if (types[i] != DT_F8E8M0 && types[i] != DT_F4E2M1) {
            pjrt_buffer *zeros[2] = {0};
            uint8_t none[6 * 8] = {0};
            st = pjrt_zeros(c, 2, types[i], dims, 2, zeros);
            if (st == ST_OK) st = pjrt_download_now(c, zeros[1], out, 6 * width);
            if (st != ST_OK) FAIL("zeros of %s: %s", pjrt_type_name(types[i]), err_msg());
            else CHECK(!memcmp(out, none, 6 * width));
            for (int d = 0; d < 2; d++) pjrt_buffer_free(c, zeros[d]);
        }
    }
    pjrt_buffer *b;
    CHECK_ERR(pjrt_upload(c, 9, DT_F32, NULL, 0, "", PJRT_HOLD_CALL, &b, NULL), ST_INVALID, "device 9");
}

TEST(executables_are_serialised_and_loaded)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_program *p, *q;
    buf bytes = {0};
    REQUIRE_OK(pjrt_compile(c, SOURCE(all_reduce), &(pjrt_compile_options){ .n_partitions = 4 }, &p));
    REQUIRE_OK(pjrt_program_serialize(p, &bytes));
    CHECK(bytes.len > 100);
    pjrt_program_free(p);
    REQUIRE_OK(pjrt_program_load(c, bytes.data, bytes.len, "all_reduce", &q));
    REQUIRE(pjrt_program_n_devices(q) == 4);
    pjrt_buffer *in[4], *out[4];
    float a[4] = { 1, 2, 3, 4 }, r[4];
    for (int d = 0; d < 4; d++) in[d] = up(c, d, DT_F32, 4, a);
    REQUIRE_OK(pjrt_execute(q, in, 1, NULL, 0, out, NULL));
    CHECK_OK(pjrt_download_now(c, out[3], r, sizeof r));
    CHECK(r[0] == 4 && r[3] == 16);
    for (int d = 0; d < 4; d++) {
        pjrt_buffer_free(c, in[d]);
        pjrt_buffer_free(c, out[d]);
    }
    pjrt_program_free(q);
    buf_free(&bytes);
}

TEST(a_compiler_is_opened_before_plugins)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_compiler *k;
    CHECK_ERR(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin_path, .topology = "cpu:1" }, &k), ST_INVALID, "before any plugin is loaded");
    /* What the child made earlier runs here. */
    if (!from_child.len) SKIP("the child made nothing in this run");
    pjrt_program *p;
    REQUIRE_OK(pjrt_program_load(c, from_child.data, from_child.len, "add_one", &p));
    float a[4] = { 1, 2, 3, 4 }, r[4];
    pjrt_buffer *in = up(c, 0, DT_F32, 4, a), *out;
    REQUIRE_OK(pjrt_execute(p, &in, 1, NULL, 0, &out, NULL));
    CHECK_OK(pjrt_download_now(c, out, r, sizeof r));
    CHECK_NEAR(r[2], 4, 0);
    pjrt_buffer_free(c, in);
    pjrt_buffer_free(c, out);
    pjrt_program_free(p);
    buf_free(&from_child);
}

TEST(topologies_compile_without_the_devices)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_topology *t, *again;
    REQUIRE_OK(pjrt_topology_open(plugin, "cpu:4", NULL, 0, &t));
    CHECK_INT(pjrt_topology_n_devices(t), 4);
    CHECK_STR(pjrt_topology_platform(t), "cpu");
    CHECK_STR(pjrt_topology_version(t), pjrt_client_version(c));
    pjrt_device_info d;
    CHECK_OK(pjrt_topology_device(t, 2, &d));
    CHECK_INT(d.id, 2);
    CHECK_ERR(pjrt_topology_device(t, 4, &d), ST_INVALID, "0 to 3");
    buf exe = {0}, topo = {0};
    pjrt_stats s;
    REQUIRE_OK(pjrt_compile_for(t, SOURCE(all_reduce), &(pjrt_compile_options){ .n_partitions = 4 }, &exe, &s));
    CHECK(s.argument_bytes == 16 && s.compile_s > 0);
    pjrt_program *p;
    CHECK_OK(pjrt_program_load(c, exe.data, exe.len, "all_reduce", &p));
    pjrt_program_free(p);
    pjrt_topology_close(t);
    REQUIRE_OK(pjrt_client_topology(c, &topo));
    REQUIRE_OK(pjrt_topology_read(plugin, topo.data, topo.len, &again));
    CHECK_INT(pjrt_topology_n_devices(again), 4);
    pjrt_topology_close(again);
    CHECK_ERR(pjrt_topology_open(plugin, "v6e:2x2", NULL, 0, &t), ST_INVALID, "topology v6e:2x2: ");
    buf_free(&exe);
    buf_free(&topo);
}

/* ---- import: a step that JAX exported ---- */
static void ramp(float *x, int64_t n, int64_t seed)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)((double)((i * 7919 + seed * 104729) % 1009) / 1009.0 - 0.5);
}

/* Runs step.mlirbc of `dir` for four tokens and compares with step.txt. */
static void run_exported(const char *dir)
{
    enum { D = 16, LEN = 8, VOCAB = 32 };
    char path[4200];
    size_t len;
    pjrt_client *c = cpu();
    REQUIRE(c);
    snprintf(path, sizeof path, "%s/step.mlirbc", dir);
    char *code = read_file(path, &len);
    REQUIRE(code);
    pjrt_program *p;
    REQUIRE_OK(pjrt_compile(c, &(pjrt_source){ "step.mlirbc", code, len }, &(pjrt_compile_options){0}, &p));
    float embed[VOCAB * D], wqkv[D * 3 * D], wo[D * D], zero[2 * LEN * D] = {0}, logits[VOCAB];
    ramp(embed, VOCAB * D, 1);
    ramp(wqkv, D * 3 * D, 2);
    ramp(wo, D * D, 3);
    pjrt_buffer *args[6], *outs[2];
    REQUIRE_OK(pjrt_upload(c, 0, DT_F32, (int64_t[]){ VOCAB, D }, 2, embed, PJRT_HOLD_CALL, &args[0], NULL));
    REQUIRE_OK(pjrt_upload(c, 0, DT_F32, (int64_t[]){ D, 3 * D }, 2, wqkv, PJRT_HOLD_CALL, &args[1], NULL));
    REQUIRE_OK(pjrt_upload(c, 0, DT_F32, (int64_t[]){ D, D }, 2, wo, PJRT_HOLD_CALL, &args[2], NULL));
    REQUIRE_OK(pjrt_upload(c, 0, DT_F32, (int64_t[]){ 2, LEN, D }, 3, zero, PJRT_HOLD_CALL, &args[3], NULL));
    snprintf(path, sizeof path, "%s/step.txt", dir);
    FILE *want = fopen(path, "r");
    REQUIRE(want);
    int32_t token = 5;
    for (int32_t pos = 0; pos < 4; pos++) {
        REQUIRE_OK(pjrt_upload(c, 0, DT_I32, NULL, 0, &token, PJRT_HOLD_CALL, &args[4], NULL));
        REQUIRE_OK(pjrt_upload(c, 0, DT_I32, NULL, 0, &pos, PJRT_HOLD_CALL, &args[5], NULL));
        REQUIRE_OK(pjrt_execute(p, args, 6, NULL, 0, outs, NULL));
        CHECK_OK(pjrt_download_now(c, outs[0], logits, sizeof logits));
        bool gone = false;
        CHECK_OK(pjrt_buffer_deleted(c, args[3], &gone));
        CHECK(gone);                                /* donate_argnums came along */
        for (int i = 3; i < 6; i++) pjrt_buffer_free(c, args[i]);
        pjrt_buffer_free(c, outs[0]);
        args[3] = outs[1];
        token = 0;
        for (int i = 1; i < VOCAB; i++)
            if (logits[i] > logits[token]) token = i;
        int next = -1;
        REQUIRE(fscanf(want, "%d", &next) == 1);
        CHECK_INT(token, next);
        for (int i = 0; i < VOCAB; i++) {
            float x;
            REQUIRE(fscanf(want, "%f", &x) == 1);
            CHECK_NEAR(logits[i], x, 1e-5);
        }
    }
    fclose(want);
    for (int i = 0; i < 4; i++) pjrt_buffer_free(c, args[i]);
    pjrt_program_free(p);
}

TEST(a_step_exported_from_jax_runs)
{
    NEED_CPU;
    run_exported(DATA);
}

TEST(a_step_exported_now_runs)
{
    NEED_CPU;
    const char *python = getenv("SYSTOLIC_JAX_PYTHON");     /* a python that has jax */
    if (!python || access(python, X_OK) != 0) SKIP("SYSTOLIC_JAX_PYTHON does not name a python with jax");
    char dir[] = "/tmp/systolic-jax-XXXXXX", command[1000];
    REQUIRE(mkdtemp(dir));
    snprintf(command, sizeof command, "%s " DATA "export_step.py %s", python, dir);
    REQUIRE(system(command) == 0);
    run_exported(dir);
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
}

/* ---- memory ---- */
static status everything_without_a_plugin(const char *dir)
{
    pjrt_values v = {0};
    pjrt_place p = {0}, t = {0};
    pjrt_cache *c = NULL;
    buf b = {0};
    char key[PJRT_KEY_LEN];
    bool found = false;
    status st = pjrt_values_parse("a=1,b=2:2,c=x", &v);
    if (st == ST_OK) st = pjrt_options_encode(&(pjrt_compile_options){ .n_partitions = 4, .overrides = v.v, .n_overrides = 1 }, &b);
    if (st == ST_OK) st = pjrt_find("pjrt:x?y=1", &p);
    if (st == ST_OK) st = pjrt_target_parse("v6e-8?x=1", &t);
    if (st == ST_OK) st = pjrt_cache_open(dir, &c);
    if (st == ST_OK) st = pjrt_cache_key(&(pjrt_key){ "p", "v", "t", "c", 1, &(pjrt_compile_options){ .n_partitions = 2 } }, key);
    if (st == ST_OK) st = pjrt_cache_put(c, key, "x", 1, &some_stats);
    if (st == ST_OK) st = pjrt_cache_get(c, key, &b, NULL, &found);
    if (st == ST_OK && !found) st = err_set(ST_INTERNAL, "what was put is not there");
    pjrt_values_free(&v);
    pjrt_place_free(&p);
    pjrt_place_free(&t);
    pjrt_cache_close(c);
    buf_free(&b);
    return st;
}

TEST(out_of_memory_without_a_plugin)
{
    char dir[] = "/tmp/systolic-oom-XXXXXX", command[100];
    REQUIRE(mkdtemp(dir));
    EVERY_ALLOCATION_FAILS(everything_without_a_plugin(dir));
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
}

static status everything_with_a_plugin(const char *path)
{
    pjrt_plugin *p = NULL;
    pjrt_client *c = NULL;
    pjrt_program *x = NULL;
    pjrt_topology *t = NULL;
    buf b = {0};
    pjrt_buffer *zero[1] = {0};
    const pjrt_value one = { .name = "cpu_device_count", .kind = PJRT_INT, .i64 = 1 };
    status st = pjrt_plugin_open(path, false, &p);
    if (st == ST_OK) st = pjrt_client_open(p, &one, 1, &c);
    if (st == ST_OK) st = pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){0}, &x);
    if (st == ST_OK) st = pjrt_program_serialize(x, &b);
    pjrt_program_free(x);
    x = NULL;
    if (st == ST_OK) st = pjrt_program_load(c, b.data, b.len, "x", &x);
    if (st == ST_OK) st = pjrt_zeros(c, 1, DT_I8, (int64_t[]){ 4 }, 1, zero);
    if (st == ST_OK) st = pjrt_topology_open(p, "cpu:1", NULL, 0, &t);
    if (c) pjrt_buffer_free(c, zero[0]);
    pjrt_program_free(x);
    pjrt_topology_close(t);
    pjrt_client_close(c);
    pjrt_plugin_close(p);
    buf_free(&b);
    return st;
}

TEST(out_of_memory_with_a_plugin)
{
    NEED_CPU;
    EVERY_ALLOCATION_FAILS(everything_with_a_plugin(plugin_path));
}

TEST(the_client_closes)
{
    NEED_CPU;
    if (!plugin) SKIP("it was not opened");
    pjrt_client_close(cpu());
    pjrt_plugin_close(plugin);
    pjrt_plugin *again;
    REQUIRE_OK(pjrt_plugin_open(plugin_path, false, &again));   /* a second time in one process */
    pjrt_plugin_close(again);
}

TEST_MAIN
