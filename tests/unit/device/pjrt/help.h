/* What the PJRT tests share: finding the plugins, one XLA:CPU client, small programs, plugins that are wrong in a chosen way. */
#ifndef SYSTOLIC_TESTS_PJRT_HELP_H
#define SYSTOLIC_TESTS_PJRT_HELP_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "device/pjrt/cache.h"
#include "device/pjrt/pjrt.h"
#include "device/pjrt/spec.h"
#include "tests/test.h"

#define DATA "tests/unit/device/pjrt/"
#define SOURCE(text) (&(pjrt_source){ "a program", text, strlen(text) })

static inline const char *build_dir(void)
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

static inline const char *cpu_plugin(void)
{
    static char path[4200];
    const char *own = getenv("SYSTOLIC_PJRT_CPU");
    snprintf(path, sizeof path, "%s", own ? own : "");
    if (!own) snprintf(path, sizeof path, "%s/pjrt/libpjrt_cpu.so", build_dir());
    if (!own && access(path, R_OK) != 0) snprintf(path, sizeof path, "build/pjrt/libpjrt_cpu.so");
    return access(path, R_OK) == 0 ? path : NULL;
}

static inline const char *tpu_plugin(void)
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

/* XLA is not built with ThreadSanitizer, which takes its synchronisation for races, and under AddressSanitizer it takes minutes. */
#ifdef __SANITIZE_THREAD__
#define NO_PLUGIN "plugins are not built for ThreadSanitizer"
#elif defined(__SANITIZE_ADDRESS__)
#define NO_PLUGIN (getenv("SYSTOLIC_TEST_FULL") ? NULL : "plugins are slow under AddressSanitizer (SYSTOLIC_TEST_FULL=1 tries them)")
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

static inline char *read_file(const char *path, size_t *len)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    static char data[1 << 20];
    *len = fread(data, 1, sizeof data - 1, f);
    data[*len] = 0;
    fclose(f);
    return data;
}

__attribute__((unused)) static pjrt_plugin *plugin;
/* One client of four devices for all tests; opening XLA:CPU takes a while. */
static inline pjrt_client *cpu(void)
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

/* pjrt_compile, for tests of what programs compute: one that an earlier run compiled is loaded from BUILD/pjrt/programs-unit. Not for tests of compiling. */
static inline status test_compile(pjrt_client *c, const pjrt_source *src, const pjrt_compile_options *o, pjrt_program **out)
{
    static pjrt_cache *kept;
    char dir[4200], devices[256], key[PJRT_KEY_LEN];
    const char *given = getenv("XLA_FLAGS");
    buf x = { 0 };
    bool found = false;
    snprintf(dir, sizeof dir, "%s/pjrt/programs-unit", build_dir());
    if (!kept) TRY(pjrt_cache_open(dir, &kept));
    snprintf(devices, sizeof devices, "%d, %s", pjrt_client_n_devices(c), given ? given : "");
    TRY(pjrt_cache_key(&(pjrt_key){ pjrt_client_platform(c), pjrt_client_version(c), devices, src->code, src->len, o }, key));
    status st = pjrt_cache_get(kept, key, &x, NULL, &found);
    if (st == ST_OK && found) st = pjrt_program_load(c, x.data, x.len, src->name, out);
    if (st == ST_OK && !found) {
        st = pjrt_compile(c, src, o, out);
        if (st == ST_OK) st = pjrt_program_serialize(*out, &x);
        if (st == ST_OK) st = pjrt_cache_put(kept, key, x.data, x.len, pjrt_program_stats(*out));
    }
    buf_free(&x);
    return st;
}

static inline pjrt_buffer *up(pjrt_client *c, int where, dtype t, int64_t n, const void *data)
{
    pjrt_buffer *b = NULL;
    if (pjrt_upload(c, where, t, &n, 1, data, PJRT_HOLD_CALL, &b, NULL) != ST_OK) FAIL("%s", err_msg());
    return b;
}

__attribute__((unused)) static const char add_one[] = "module { func.func public @main(%a: tensor<4xf32>) -> tensor<4xf32> {"
    " %c = stablehlo.constant dense<1.0> : tensor<4xf32> %0 = stablehlo.add %a, %c : tensor<4xf32> return %0 : tensor<4xf32> } }";
__attribute__((unused)) static const char all_reduce[] = "module { func.func public @main(%a: tensor<4xf32>) -> tensor<4xf32> { %1 = \"stablehlo.all_reduce\"(%a) ({"
    " ^bb0(%x: tensor<f32>, %y: tensor<f32>): %s = stablehlo.add %x, %y : tensor<f32> stablehlo.return %s : tensor<f32> })"
    " {replica_groups = dense<[[0,1,2,3]]> : tensor<1x4xi64>, channel_handle = #stablehlo.channel_handle<handle = 1, type = 1>, use_global_device_ids}"
    " : (tensor<4xf32>) -> tensor<4xf32> return %1 : tensor<4xf32> } }";
/* A cache of 1024 rows, donated, of which one is written. */
__attribute__((unused)) static const char update[] = "module { func.func public @main(%kv: tensor<1024x64xf32> {tf.aliasing_output = 0 : i32}, %row: tensor<1x64xf32>, %pos: tensor<i32>)"
    " -> (tensor<1024x64xf32>, tensor<f32>) { %z = stablehlo.constant dense<0> : tensor<i32>"
    " %k = stablehlo.dynamic_update_slice %kv, %row, %pos, %z : (tensor<1024x64xf32>, tensor<1x64xf32>, tensor<i32>, tensor<i32>) -> tensor<1024x64xf32>"
    " %c = stablehlo.constant dense<0.0> : tensor<f32>"
    " %s = stablehlo.reduce(%k init: %c) applies stablehlo.add across dimensions = [0, 1] : (tensor<1024x64xf32>, tensor<f32>) -> tensor<f32>"
    " return %k, %s : tensor<1024x64xf32>, tensor<f32> } }";

/* Builds fake_plugin.c in one of its modes; NULL without a compiler. */
static inline const char *fake(const char *mode)
{
    static char path[4300];
    char command[9000];
    snprintf(path, sizeof path, "%s/fake_plugin_%s_%s.so", build_dir(), mode, program_invocation_short_name);   /* tests run side by side */
    snprintf(command, sizeof command, "cc -std=c11 -w -shared -fPIC -Isrc -DMODE=%s -o %s " DATA "fake_plugin.c 2>/dev/null", mode, path);
    return system(command) == 0 ? path : NULL;
}

/* The same of fake_compiler.c. */
static inline const char *fake_compiler(void)
{
    static char path[4300];
    char command[9000];
    snprintf(path, sizeof path, "%s/fake_compiler_%s.so", build_dir(), program_invocation_short_name);
    snprintf(command, sizeof command, "cc -std=c11 -D_GNU_SOURCE -w -shared -fPIC -Isrc -I. -o %s " DATA "fake_compiler.c 2>/dev/null", path);
    return system(command) == 0 ? path : NULL;
}

/* What this process and its children write to stdout and stderr between the two calls. */
typedef struct capture { int saved[2], file; } capture;
static inline void capture_begin(capture *c)
{
    char path[] = "/tmp/systolic-capture-XXXXXX";
    fflush(stdout);
    c->file = mkstemp(path);
    unlink(path);
    for (int i = 0; i < 2; i++) {
        c->saved[i] = dup(i + 1);
        dup2(c->file, i + 1);
    }
}
static inline const char *capture_end(capture *c)
{
    static char text[8192];
    fflush(stdout);
    for (int i = 0; i < 2; i++) {
        dup2(c->saved[i], i + 1);
        close(c->saved[i]);
    }
    ssize_t n = pread(c->file, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    close(c->file);
    return text;
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

#endif
