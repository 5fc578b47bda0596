/* The compiler in a child process: with plugins that are wrong on purpose, with XLA:CPU (`make pjrt-cpu`), and with libtpu
 * where its package is found (SYSTOLIC_LIBTPU=PATH or a Python package), which compiles without a TPU. */
#include "base/clock.h"
#include "device/pjrt/cache.h"
#include "device/pjrt/compiler.h"
#include "tests/unit/device/pjrt/help.h"

/* Everything up to "a client of this process" comes before anything loads a plugin here. */
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

/* ---- a client of this process ---- */
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

TEST_MAIN
