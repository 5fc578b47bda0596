/* The compiler in a child process: with plugins that are wrong on purpose, with XLA:CPU (`make pjrt-cpu`), and with libtpu
 * where its package is found (SYSTOLIC_LIBTPU=PATH or a Python package), which compiles without a TPU. */
#include <sys/wait.h>

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

/* A call from another thread. */
typedef struct call { pjrt_compiler *k; const char *name; pthread_t thread; status st; char message[600]; } call;
static void *run_call(void *arg)
{
    call *c = arg;
    buf exe = {0};
    c->st = pjrt_compiler_run(c->k, &(pjrt_source){ c->name, add_one, strlen(add_one) }, &(pjrt_compile_options){0}, &exe, NULL);
    err_copy(c->message, sizeof c->message);
    buf_free(&exe);
    return NULL;
}

/* A plugin that takes minutes to open its devices stands in for a program that takes minutes to compile. */
TEST(a_compiler_is_closed_while_others_wait_for_it)
{
    const char *path = fake("SLEEPS");
    if (!path) SKIP("no C compiler here");
    call calls[3];
    pjrt_compiler *k;
    capture prints;
    capture_begin(&prints);
    status st = pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = path }, &k);
    for (int i = 0; i < 3; i++) {
        calls[i] = (call){ .k = k, .name = i ? "queued" : "running" };
        if (st == ST_OK) st = pthread_create(&calls[i].thread, NULL, run_call, &calls[i]) ? ST_INTERNAL : ST_OK;
        usleep(50000);
    }
    double t0 = clock_now();
    if (st == ST_OK) pjrt_compiler_close(k);
    double took = clock_now() - t0;
    for (int i = 0; i < 3 && st == ST_OK; i++) pthread_join(calls[i].thread, NULL);
    const char *printed = capture_end(&prints);
    CHECK_INT(st, ST_OK);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(calls[i].st, ST_CANCELLED);
        CHECK_STR(calls[i].message, i ? "compile queued: cancelled, the compiler was closed" : "compile running: cancelled, the compiler was closed");
    }
    CHECK(took < 2);
    CHECK_STR(printed, "");                 /* what the plugin wrote is kept */
}

static void *kill_soon(void *arg)
{
    pid_t pid = *(pid_t *)arg;
    usleep(300000);
    kill(pid, SIGABRT);
    return NULL;
}

/* The first child of a process; 0: none, or the kernel does not tell. */
static pid_t child_of(pid_t parent)
{
    char path[100];
    int child = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)parent, (int)parent);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    if (fscanf(f, "%d", &child) != 1) child = 0;
    fclose(f);
    return child;
}

TEST(a_compiler_killed_mid_way_is_one_line)
{
    const char *path = fake("SLEEPS");
    if (!path) SKIP("no C compiler here");
    pjrt_compiler *k;
    call c;
    capture prints;
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = path }, &k));
    c = (call){ .k = k, .name = "decode" };
    capture_begin(&prints);
    bool started = pthread_create(&c.thread, NULL, run_call, &c) == 0;
    usleep(300000);
    pid_t supervisor = child_of(getpid()), worker = supervisor ? child_of(supervisor) : 0;     /* it has not answered yet */
    if (worker > 1) kill(worker, SIGKILL);
    else pjrt_compiler_close(k);
    if (started) pthread_join(c.thread, NULL);
    const char *printed = capture_end(&prints);
    REQUIRE(started);
    if (worker <= 1) SKIP("the kernel does not list children");
    CHECK_INT(c.st, ST_INTERNAL);
    CHECK_STR(c.message, "compile decode: the compiler died (signal 9, Killed): fake: waiting for a device that never comes");
    CHECK_STR(printed, "");
    CHECK_INT(pjrt_compiler_n_deaths(k), 1);
    pjrt_compiler_close(k);
    pjrt_target_info info;
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = path, .limit_s = 0.2 }, &k));
    CHECK_ERR(pjrt_compiler_describe(k, &info), ST_INTERNAL, "it took longer than 0.2 s and was given up");
    pjrt_compiler_close(k);
}

TEST(wrong_plugins_are_one_line_each_in_the_child)
{
    static const struct { const char *mode; status st; const char *says; } want[] = {
        { "TOO_OLD", ST_UNSUPPORTED, "PJRT API 0.12 is too old" }, { "OTHER_MAJOR", ST_UNSUPPORTED, "speaks PJRT API 7.90" },
        { "NO_DEVICE", ST_NOT_FOUND, "no device could be opened: no accelerator found on this host (PJRT error 5, NOT_FOUND)" },
        { "EMPTY", ST_NOT_FOUND, "opened, but it has no device on this host" }, { "NO_TABLE", ST_INVALID, "GetPjrtApi returns nothing" },
    };
    if (!fake("EMPTY")) SKIP("no C compiler here");
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        pjrt_compiler *k;
        pjrt_target_info info;
        REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = fake(want[i].mode) }, &k));
        CHECK_ERR(pjrt_compiler_describe(k, &info), want[i].st, want[i].says);
        CHECK(!strchr(err_msg(), '\n'));
        pjrt_compiler_close(k);
    }
    pjrt_compiler *k;
    pjrt_target_info info;
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = "Makefile" }, &k));
    CHECK_ERR(pjrt_compiler_describe(k, &info), ST_INVALID, "Makefile does not load");
    pjrt_compiler_close(k);
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

static void *close_soon(void *k)
{
    usleep(300000);
    pjrt_compiler_close(k);
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
    CHECK_ERR(pjrt_compiler_run(k, &(pjrt_source){ "prefill", slow.data, slow.len }, &(pjrt_compile_options){0}, &exe, NULL), ST_INTERNAL, "it took longer than 0.2 s and was given up");
    /* Closing in the middle of nothing; the children go. */
    pjrt_compiler_close(k);
    REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin_path, .topology = "cpu:1" }, &k));
    REQUIRE_OK(pjrt_compiler_run(k, SOURCE(add_one), &(pjrt_compile_options){0}, &exe, NULL));
    pthread_t closer;
    REQUIRE(pthread_create(&closer, NULL, close_soon, k) == 0);
    CHECK_ERR(pjrt_compiler_run(k, &(pjrt_source){ "prefill", slow.data, slow.len }, &(pjrt_compile_options){0}, &exe, NULL), ST_CANCELLED, "compile prefill: cancelled");
    pthread_join(closer, NULL);
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

static status compile_and_drop(pjrt_compiler *k, const char *dir)
{
    buf exe = {0};
    pjrt_cache *cache = NULL;
    status st = pjrt_compiler_run(k, SOURCE(add_one), &(pjrt_compile_options){0}, &exe, NULL);
    if (st == ST_OK) st = pjrt_cache_open(dir, &cache);
    if (st == ST_OK) st = pjrt_compiler_get(k, cache, SOURCE(add_one), &(pjrt_compile_options){0}, &exe, NULL, NULL);
    pjrt_cache_close(cache);
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
    char dir[] = "/tmp/systolic-cache-XXXXXX", command[300];
    REQUIRE(mkdtemp(dir));
    EVERY_ALLOCATION_FAILS(compile_and_drop(k, dir));
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
    pjrt_compiler_close(k);
}

/* ---- libtpu, without a TPU ---- */
TEST(libtpu_compiles_for_every_generation)
{
    NEED_TPU;
    static const struct { const char *target, *kind; int n_devices; int64_t memory; } want[] = {
        { "v3:2x2x1", "TPU v3", 8, 16624107520 }, { "v4:2x2x1", "TPU v4", 8, 16372985856 }, { "v4:2x2x1?chip_config_name=megacore", "TPU v4", 4, 33014413312 },
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
    capture prints;
    capture_begin(&prints);
    status st = pjrt_compiler_run(k, SOURCE(two_bits), &(pjrt_compile_options){0}, &exe, NULL);
    const char *printed = capture_end(&prints);
    CHECK_STR(printed, "");                 /* its stack trace stays in the child */
    CHECK_INT(st, ST_INTERNAL);
    CHECK(strstr(err_msg(), "died (signal 6, Aborted): F") != NULL);
    CHECK_INT(pjrt_compiler_n_deaths(k), 1);
    CHECK_OK(pjrt_compiler_run(k, SOURCE(update), &(pjrt_compile_options){0}, &exe, NULL));
    CHECK(exe.len > 1000);
    buf_free(&exe);
    pjrt_compiler_close(k);
}

/* In a process of its own, because libtpu must not be loaded here before the tests below open their compilers. */
static int topology_by_bytes(const char *path)
{
    pjrt_compiler *k = NULL;
    pjrt_plugin *p;
    pjrt_topology *t;
    pjrt_target_info info, there;
    buf bytes = {0}, exe = {0};
    test_cur_failed = 1;
    if (pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = path }, &k) != ST_OK || pjrt_plugin_open(path, true, &p) != ST_OK ||
        pjrt_topology_open(p, "v6e:2x2", NULL, 0, &t) != ST_OK || pjrt_topology_write(t, &bytes) != ST_OK || pjrt_topology_target(t, &info) != ST_OK ||
        pjrt_compiler_set_topology(k, bytes.data, bytes.len) != ST_OK || pjrt_compiler_describe(k, &there) != ST_OK ||
        pjrt_compiler_run(k, SOURCE(update), &(pjrt_compile_options){0}, &exe, NULL) != ST_OK) {
        printf("  %s\n", err_msg());
        return 1;
    }
    test_cur_failed = 0;
    CHECK(exe.len > 1000);
    CHECK_STR(there.topology, info.topology);
    CHECK_STR(there.version, info.version);
    CHECK_INT(there.n_devices, 4);
    printf("  v6e:2x2: %zu bytes of topology, \"%s\"\n", bytes.len, there.topology);
    pjrt_compiler_close(k);
    return test_cur_failed;
}

TEST(libtpu_takes_a_topology_as_bytes)
{
    NEED_TPU;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        int failed = topology_by_bytes(path);
        fflush(stdout);
        _exit(failed);
    }
    int how = -1;
    REQUIRE(pid > 0 && waitpid(pid, &how, 0) == pid);
    CHECK(WIFEXITED(how) && WEXITSTATUS(how) == 0);
}

/* ---- a client of this process ---- */
static void check_reduces(pjrt_client *c, const buf *exe)
{
    pjrt_program *p;
    REQUIRE_OK(pjrt_program_load(c, exe->data, exe->len, "all_reduce", &p));
    REQUIRE(pjrt_program_n_devices(p) == 4);
    pjrt_buffer *in[4], *out[4];
    float a[4] = { 1, 2, 3, 4 }, r[4];
    for (int d = 0; d < 4; d++) in[d] = up(c, d, DT_F32, 4, a);
    REQUIRE_OK(pjrt_execute(p, in, 1, NULL, 0, out, NULL));
    CHECK_OK(pjrt_download_now(c, out[3], r, sizeof r));
    CHECK(r[0] == 4 && r[3] == 16);
    for (int d = 0; d < 4; d++) {
        pjrt_buffer_free(c, in[d]);
        pjrt_buffer_free(c, out[d]);
    }
    pjrt_program_free(p);
}

/* The exported step (products, softmax, a donated cache), one token: compiled there and here, bit by bit the same. */
static void check_step(pjrt_client *c, const pjrt_source *src, const buf *exe)
{
    enum { D = 16, LEN = 8, VOCAB = 32 };
    float values[VOCAB * D], logits[2][VOCAB], cache[2][2 * LEN * D];
    for (int i = 0; i < VOCAB * D; i++) values[i] = (float)((i * 7919) % 1009) / 1009.f - 0.5f;
    static const struct { size_t rank; int64_t dims[3]; } shapes[4] = { { 2, { VOCAB, D } }, { 2, { D, 3 * D } }, { 2, { D, D } }, { 3, { 2, LEN, D } } };
    for (int here = 0; here < 2; here++) {
        pjrt_program *p;
        if (here) REQUIRE_OK(pjrt_compile(c, src, &(pjrt_compile_options){0}, &p));
        else REQUIRE_OK(pjrt_program_load(c, exe->data, exe->len, src->name, &p));
        pjrt_buffer *args[6], *outs[2];
        for (int i = 0; i < 4; i++) {
            float wide[D * 3 * D];
            for (int k = 0; k < D * 3 * D; k++) wide[k] = values[k % (VOCAB * D)];
            REQUIRE_OK(pjrt_upload(c, 0, DT_F32, shapes[i].dims, shapes[i].rank, wide, PJRT_HOLD_CALL, &args[i], NULL));
        }
        int32_t token = 5, pos = 3;
        REQUIRE_OK(pjrt_upload(c, 0, DT_I32, NULL, 0, &token, PJRT_HOLD_CALL, &args[4], NULL));
        REQUIRE_OK(pjrt_upload(c, 0, DT_I32, NULL, 0, &pos, PJRT_HOLD_CALL, &args[5], NULL));
        REQUIRE_OK(pjrt_execute(p, args, 6, NULL, 0, outs, NULL));
        CHECK_OK(pjrt_download_now(c, outs[0], logits[here], sizeof logits[here]));
        CHECK_OK(pjrt_download_now(c, outs[1], cache[here], sizeof cache[here]));
        for (int i = 0; i < 6; i++) pjrt_buffer_free(c, args[i]);
        for (int i = 0; i < 2; i++) pjrt_buffer_free(c, outs[i]);
        pjrt_program_free(p);
    }
    CHECK(!memcmp(logits[0], logits[1], sizeof logits[0]));
    CHECK(!memcmp(cache[0], cache[1], sizeof cache[0]));
}

/* All the compilers of the next tests are opened first: afterwards a plugin is loaded here. */
static pjrt_compiler *by_name, *own_client, *by_bytes, *nonsense, *by_client, *late;

static status open_all(const char *plugin_path)
{
    TRY(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin_path, .topology = "cpu:4" }, &by_name));
    TRY(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin_path, .options = "cpu_device_count=4" }, &own_client));
    TRY(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin_path }, &by_bytes));
    TRY(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin_path }, &nonsense));
    TRY(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin_path, .options = "cpu_device_count=4" }, &by_client));
    return pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = plugin_path, .options = "cpu_device_count=4" }, &late);
}

TEST(what_was_compiled_for_a_name_is_found_by_a_client)
{
    NEED_CPU;
    char dir[] = "/tmp/systolic-cache-XXXXXX", command[300];
    pjrt_compile_options four = { .n_partitions = 4 };
    pjrt_target_info named, mine, told;
    pjrt_cache *cache;
    buf exe = {0};
    bool cached = true;
    REQUIRE(mkdtemp(dir));
    REQUIRE_OK(pjrt_cache_open(dir, &cache));
    REQUIRE_OK(open_all(plugin_path));
    REQUIRE_OK(pjrt_compiler_get(by_name, cache, SOURCE(all_reduce), &four, &exe, NULL, &cached));
    CHECK(!cached);
    REQUIRE_OK(pjrt_compiler_describe(by_name, &named));
    pjrt_client *c = cpu();
    REQUIRE(c);
    REQUIRE_OK(pjrt_client_target(c, &mine));
    CHECK(!memcmp(&mine, &named, sizeof mine));
    CHECK(!strncmp(mine.topology, "4 x cpu, ", 9));
    /* Everything is in the cache: no worker is started. */
    REQUIRE_OK(pjrt_compiler_set_client(by_client, c));
    REQUIRE_OK(pjrt_compiler_describe(by_client, &told));
    CHECK_STR(told.topology, named.topology);
    buf_clear(&exe);
    REQUIRE_OK(pjrt_compiler_get(by_client, cache, SOURCE(all_reduce), &four, &exe, NULL, &cached));
    CHECK(cached);
    CHECK_INT(pjrt_compiler_worker(by_client), 0);
    check_reduces(c, &exe);
    /* Something is not: it is compiled there and runs here. */
    size_t len;
    char *code = read_file(DATA "step.mlirbc", &len);
    REQUIRE(code);
    pjrt_source step = { "step", code, len };
    buf_clear(&exe);
    REQUIRE_OK(pjrt_compiler_get(by_client, cache, &step, &(pjrt_compile_options){0}, &exe, NULL, &cached));
    CHECK(!cached && pjrt_compiler_worker(by_client) > 0);
    check_step(c, &step, &exe);
    CHECK_ERR(pjrt_compiler_set_client(by_client, c), ST_INVALID, "a topology is set once, before the first program");
    /* The worker's own client, for plugins that cannot pass a topology on. */
    buf_clear(&exe);
    REQUIRE_OK(pjrt_compiler_run(own_client, SOURCE(all_reduce), &four, &exe, NULL));
    check_reduces(c, &exe);
    REQUIRE_OK(pjrt_compiler_describe(own_client, &told));
    CHECK_STR(told.topology, named.topology);
    pjrt_compiler_close(by_name);
    pjrt_compiler_close(own_client);
    pjrt_compiler_close(by_client);
    pjrt_cache_close(cache);
    buf_free(&exe);
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
}

TEST(a_topology_may_come_after_the_fork)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    if (!late) SKIP("the test before this one opens the compilers");
    REQUIRE(c);
    buf topology = {0}, exe = {0};
    pjrt_target_info info;
    pjrt_compile_options four = { .n_partitions = 4 };
    REQUIRE_OK(pjrt_client_topology(c, &topology));
    CHECK_ERR(pjrt_compiler_set_topology(by_bytes, "", 0), ST_INVALID, "the topology is empty");
    REQUIRE_OK(pjrt_compiler_set_topology(by_bytes, topology.data, topology.len));
    CHECK_ERR(pjrt_compiler_set_topology(by_bytes, topology.data, topology.len), ST_INVALID, "a topology is set once");
    REQUIRE_OK(pjrt_compiler_run(by_bytes, SOURCE(all_reduce), &four, &exe, NULL));
    check_reduces(c, &exe);
    /* A worker that comes after a death has it too. */
    pid_t first = pjrt_compiler_worker(by_bytes);
    kill(first, SIGKILL);
    buf_clear(&exe);
    REQUIRE_OK(pjrt_compiler_run(by_bytes, SOURCE(all_reduce), &four, &exe, NULL));
    CHECK(pjrt_compiler_worker(by_bytes) != first);
    check_reduces(c, &exe);
    REQUIRE_OK(pjrt_compiler_describe(by_bytes, &info));
    CHECK_INT(info.n_devices, 4);
    /* What is wrong with the bytes shows at the first program. */
    REQUIRE_OK(pjrt_compiler_set_topology(nonsense, "nonsense", 8));
    CHECK_ERR(pjrt_compiler_run(nonsense, SOURCE(add_one), &(pjrt_compile_options){0}, &exe, NULL), ST_INVALID, "nonsense");
    CHECK_OK(pjrt_compiler_describe(late, &info));
    CHECK_ERR(pjrt_compiler_set_topology(late, topology.data, topology.len), ST_INVALID, "before the first program");
    pjrt_compiler_close(by_bytes);
    pjrt_compiler_close(nonsense);
    pjrt_compiler_close(late);
    buf_free(&topology);
    buf_free(&exe);
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
    pjrt_client_close(c);
    pjrt_plugin_close(plugin);
}

TEST_MAIN
