/* The PJRT layer without a plugin: options, names, the cache, what is not a plugin. test_pjrt_cpu.c and
 * test_pjrt_compiler.c have the rest. */
#include "base/hash.h"
#include "device/pjrt/cache.h"
#include "tests/unit/device/pjrt/help.h"

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
    CHECK_ERR(pjrt_target_parse("v7x-9", &p), ST_INVALID, "no shape is known");
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
    REQUIRE_OK(pjrt_plugin_open(fake("EMPTY"), false, &p));
    CHECK_ERR(pjrt_client_open(p, NULL, 0, &c), ST_NOT_FOUND, "opened, but it has no device on this host");
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
    /* One byte wrong, cut short, empty: one line says so, compiled anew, and gone. */
    static const char *const says[] = { "contents do not have the hash", "7 bytes follow the header, which promises 8", "does not start with a line" };
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
        capture log;
        capture_begin(&log);
        status st = pjrt_cache_get(c, key, &b, &s, &found);
        const char *line = capture_end(&log);
        CHECK_OK(st);
        CHECK(!found);
        CHECK_INT(b.len, 0);
        CHECK(strstr(line, path) && strstr(line, says[damage]) && strstr(line, "removed, the program is compiled again"));
        CHECK(strchr(line, '\n') && !strchr(line, '\n')[1]);
        CHECK(access(path, F_OK) != 0);
    }
    buf_free(&b);
    pjrt_cache_close(c);
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
    if (getuid() != 0) CHECK_ERR(pjrt_cache_open("/proc/nope", &c), ST_NOT_FOUND, "/proc/nope");
}

/* ---- manifest ---- */
#define A_KEY "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
static pjrt_manifest_program two_programs[2] = {
    { .key = A_KEY, .name = "step t64 s64", .tokens = 64, .seqs = 64, .stats = { .compile_s = 1.5, .flops = 2e12, .temp_bytes = 7, .peak_bytes = -1 } },
    { .key = A_KEY, .name = "step \"t128\"", .tokens = 128, .seqs = 8 },
};
static const pjrt_manifest a_manifest = { .model = "Qwen3ForCausalLM", .shape = "90e7c1a6b2d3f405", .flags = "--max-num-seqs 64", .target = "v6e:2x2", .topology = "4 x TPU v6 lite, aa",
    .platform = "tpu", .version = "TFRT TPU v6 lite\nBuilt on Nov 5", .compiler = "libtpu 0.0.52", .programs = two_programs, .n_programs = 2 };

TEST(a_manifest_is_written_and_read)
{
    char dir[] = "/tmp/systolic-manifest-XXXXXX", command[400];
    REQUIRE(mkdtemp(dir));
    pjrt_manifest m;
    CHECK_ERR(pjrt_manifest_read(dir, &m), ST_NOT_FOUND, "manifest.json");
    two_programs[1].key[0] = 'e';
    REQUIRE_OK(pjrt_manifest_write(dir, &(pjrt_manifest){ .model = "earlier" }));
    REQUIRE_OK(pjrt_manifest_write(dir, &a_manifest));
    REQUIRE_OK(pjrt_manifest_read(dir, &m));
    CHECK_STR(m.model, "Qwen3ForCausalLM");
    CHECK_STR(m.shape, a_manifest.shape);
    CHECK_STR(m.flags, "--max-num-seqs 64");
    CHECK_STR(m.target, "v6e:2x2");
    CHECK_STR(m.topology, a_manifest.topology);
    CHECK_STR(m.platform, "tpu");
    CHECK_STR(m.version, a_manifest.version);
    CHECK_STR(m.compiler, "libtpu 0.0.52");
    REQUIRE(m.n_programs == 2);
    CHECK_STR(m.programs[0].key, A_KEY);
    CHECK_STR(m.programs[1].name, "step \"t128\"");
    CHECK(m.programs[1].tokens == 128 && m.programs[1].seqs == 8);
    CHECK(!memcmp(&m.programs[0].stats, &two_programs[0].stats, sizeof m.programs[0].stats));
    pjrt_manifest_free(&m);
    /* One file, no leftovers; a line for each program. */
    snprintf(command, sizeof command, "test \"$(ls %s)\" = manifest.json && test $(grep -c '\"key\"' %s/manifest.json) = 2 && python3 -m json.tool %s/manifest.json >/dev/null", dir, dir, dir);
    CHECK(system(command) == 0);
    CHECK_ERR(pjrt_manifest_write("/nowhere", &a_manifest), ST_NOT_FOUND, "/nowhere/manifest.json");
    snprintf(command, sizeof command, "echo '{' > %s/manifest.json", dir);
    CHECK(system(command) == 0);
    CHECK_ERR(pjrt_manifest_read(dir, &m), ST_INVALID, "manifest.json");
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
}

static void check_manifest_error(const char *text, status code, const char *says)
{
    pjrt_manifest m;
    CHECK_ERR(pjrt_manifest_parse(text, strlen(text), &m), code, says);
}

TEST(what_is_wrong_with_a_manifest_is_said)
{
#define TEXTS "{\"format\":\"systolic-programs-1\",\"model\":\"m\",\"shape\":\"s\",\"flags\":\"\",\"target\":\"\",\"topology\":\"t\",\"platform\":\"p\",\"version\":\"v\",\"compiler\":\"c\""
    check_manifest_error("[]", ST_INVALID, "an object is expected, not ");
    check_manifest_error("{}", ST_INVALID, "\"format\" is \"\"");
    check_manifest_error("{\"format\":\"systolic-programs-9\"}", ST_INVALID, "systolic-programs-1 is expected");
    check_manifest_error("{\"format\":\"systolic-programs-1\",\"model\":3}", ST_INVALID, "\"model\": a string is expected, not an integer");
    check_manifest_error("{\"format\":\"systolic-programs-1\",\"model\":\"a\\u0000b\"}", ST_INVALID, "\"model\": it has a NUL");
    check_manifest_error("{\"format\":\"systolic-programs-1\",\"model\":\"a\"}", ST_INVALID, "\"shape\": a string is expected, not nothing");
    check_manifest_error(TEXTS "}", ST_INVALID, "\"programs\": a list is expected");
    check_manifest_error(TEXTS ",\"programs\":[1]}", ST_INVALID, "programs[0] : an object is expected");
    check_manifest_error(TEXTS ",\"programs\":[{\"key\":\"../../etc/passwd\"}]}", ST_INVALID, "programs[0] \"key\": 64 hexadecimal digits are expected, not \"../../etc/passwd\"");
    check_manifest_error(TEXTS ",\"programs\":[{\"key\":\"" A_KEY "\",\"name\":\"n\",\"tokens\":-1}]}", ST_INVALID, "programs[0] \"tokens\": a number from 0");
    check_manifest_error(TEXTS ",\"programs\":[{\"key\":\"" A_KEY "\",\"name\":\"n\",\"tokens\":1,\"seqs\":2.5}]}", ST_INVALID, "programs[0] \"seqs\"");
    pjrt_manifest m;
    const char *least = TEXTS ",\"programs\":[{\"key\":\"" A_KEY "\",\"name\":\"n\",\"tokens\":1,\"seqs\":2}]}";
    REQUIRE_OK(pjrt_manifest_parse(least, strlen(least), &m));
    CHECK(m.n_programs == 1 && m.programs[0].stats.temp_bytes == -1);
    pjrt_manifest_free(&m);
    buf b = {0};
    buf_str(&b, "{\"format\":\"systolic-programs-1\",\"model\":\"");
    for (int i = 0; i < PJRT_MANIFEST_TEXT + 1; i++) buf_char(&b, 'x');
    buf_str(&b, "\"}");
    CHECK_ERR(pjrt_manifest_parse(b.data, b.len, &m), ST_LIMIT, "\"model\": 16385 bytes, at most 16384");
    buf_clear(&b);
    buf_str(&b, TEXTS ",\"programs\":[0");
    for (int i = 0; i < PJRT_MANIFEST_PROGRAMS; i++) buf_str(&b, ",0");
    buf_str(&b, "]}");
    CHECK_ERR(pjrt_manifest_parse(b.data, b.len, &m), ST_LIMIT, "\"programs\": 10001, at most 10000");
    CHECK_ERR(pjrt_manifest_parse(b.data, (size_t)PJRT_MANIFEST_BYTES + 1, &m), ST_LIMIT, "at most 16777216");
    buf_free(&b);
}

static void check_fit(pjrt_manifest here, const char *says)
{
    char why[600];
    bool fits = pjrt_manifest_fits(&a_manifest, "/p", &here, why, sizeof why);
    CHECK_INT(fits, !*says);
    CHECK_STR(why, says);
}

TEST(why_programs_do_not_fit_is_a_sentence)
{
    pjrt_manifest same = a_manifest, h;
    check_fit(same, "");
    check_fit((pjrt_manifest){0}, "");      /* nothing is compared */
    h = same, h.model = "LlamaForCausalLM";
    check_fit(h, "the programs in /p were compiled for the model Qwen3ForCausalLM, this is LlamaForCausalLM: compiling anew");
    h = same, h.shape = "0000";
    check_fit(h, "the programs in /p were compiled for a Qwen3ForCausalLM of another shape (90e7c1a6b2d3f405, this is 0000): compiling anew");
    h = same, h.flags = "";
    check_fit(h, "the programs in /p were compiled with the flags \"--max-num-seqs 64\", here they are \"\": compiling anew");
    h = same, h.platform = "cpu";
    check_fit(h, "the programs in /p were compiled for the platform tpu, this is cpu: compiling anew");
    h = same, h.version = "TFRT TPU v6 lite\nBuilt on Dec 6", h.compiler = "libtpu 0.0.53";
    check_fit(h, "the programs in /p were compiled for v6e:2x2 by libtpu 0.0.52, this is v6e:2x2 with libtpu 0.0.53: compiling anew");
    h.compiler = NULL;
    check_fit(h, "the programs in /p were compiled for v6e:2x2 by TFRT TPU v6 lite Built on Nov 5, this is v6e:2x2 with TFRT TPU v6 lite Built on Dec 6: compiling anew");
    h = same, h.topology = "8 x TPU v6 lite, bb", h.target = NULL;
    check_fit(h, "the programs in /p were compiled for 4 x TPU v6 lite, aa by libtpu 0.0.52, this is 8 x TPU v6 lite, bb with libtpu 0.0.52: compiling anew");
    h.target = "v6e:2x4";
    check_fit(h, "the programs in /p were compiled for v6e:2x2 by libtpu 0.0.52, this is v6e:2x4 with libtpu 0.0.52: compiling anew");
}

TEST(packages_are_named)
{
    char dir[] = "/tmp/systolic-package-XXXXXX", command[400], path[200];
    buf b = {0};
    REQUIRE(mkdtemp(dir));
    snprintf(command, sizeof command, "mkdir %s/libtpu-0.0.52.dist-info %s/jax_cuda13_pjrt-0.9.1.dist-info", dir, dir);
    REQUIRE(system(command) == 0);
    snprintf(path, sizeof path, "%s/libtpu/libtpu.so", dir);
    CHECK_OK(pjrt_package(path, &b));
    CHECK_STR(buf_cstr(&b), "libtpu 0.0.52");
    buf_clear(&b);
    snprintf(path, sizeof path, "%s/jax_plugins/xla_cuda13/xla_cuda_plugin.so", dir);
    CHECK_OK(pjrt_package(path, &b));
    CHECK_STR(buf_cstr(&b), "jax_cuda13_pjrt 0.9.1");
    buf_clear(&b);
    CHECK_OK(pjrt_package("/a/libpjrt_cpu.so", &b));
    CHECK_OK(pjrt_package("/nowhere/libtpu/libtpu.so", &b));
    CHECK_INT(b.len, 0);
    buf_free(&b);
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
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
    pjrt_manifest m = {0};
    if (st == ST_OK) st = pjrt_manifest_write(dir, &a_manifest);
    if (st == ST_OK) st = pjrt_manifest_read(dir, &m);
    if (st == ST_OK) st = pjrt_package("/nowhere/libtpu/libtpu.so", &b);
    pjrt_manifest_free(&m);
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

TEST_MAIN
