/* load: the hub. Names, the cache layout and progress here; conversations with a faulty hub in tests/api/hub.py, which
 * this program starts and which starts it again as `test_hub get ...` for each download. */
#include "tests/test.h"

#include <limits.h>

#include "base/log.h"
#include "base/mem.h"
#include "load/hub.h"
#include "load/hub_cache.h"
#include "load/progress.h"
#include "tests/unit/load/tmpdir.h"

TEST(model_ids)
{
    static const char *const good[] = { "gpt2", "org/name", "Qwen/Qwen2.5-0.5B-Instruct", "a_b/c.d_e", "0/1" };
    static const char *const bad[] = { "", "/", "a/", "/a", "a/b/c", "a//b", "../a", "a/..", "a/.b", "a--b/c", "a/b-", "-a/b", "a b", "a/b\n", "a\\b", "a/b?x", "a.", "~/x" };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) if (!hub_id_ok(good[i])) FAIL("%s is refused", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) if (hub_id_ok(bad[i])) FAIL("%s is accepted", bad[i]);
}

TEST(file_names)
{
    static const char *const good[] = { "config.json", "a/b.c", "..a", "a..", "refs/pr/1", "\xc3\xa9" };
    static const char *const bad[] = { "", ".", "..", "/a", "a/", "a//b", "../a", "a/../b", "a/..", "./a", "a\\b", "a\nb", "a\x7f" };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) if (!hub_name_ok(good[i])) FAIL("%s is refused", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) if (hub_name_ok(bad[i])) FAIL("%s is accepted", bad[i]);
}

TEST(local_directories_and_non_models)
{
    char *dir = NULL;
    tmpdir_new();
    REQUIRE_OK(hub_resolve(tmpdir_path, NULL, &dir));
    CHECK_STR(dir, tmpdir_path);
    mem_free(dir);
    CHECK_ERR(hub_resolve(tmpdir_at("none"), NULL, &dir), ST_NOT_FOUND, "neither an existing directory nor a hub id");
    CHECK_ERR(hub_resolve(tmpdir_text("file", "x"), NULL, &dir), ST_INVALID, "is a file");
    hub_options o = { .revision = "../x" };
    CHECK_ERR(hub_resolve("org/name", &o, &dir), ST_INVALID, "not the name of a branch");
}

TEST(offline_finds_what_python_left)
{
    static const char *const folders[] = { "models--o--m", "models--o--m/refs", "models--o--m/snapshots", "models--o--m/snapshots/abc", "models--o--m/blobs" };
    hub_options o = { .offline = true, .download_dir = tmpdir_new() };
    char *dir = NULL;
    CHECK_ERR(hub_resolve("o/m", &o, &dir), ST_NOT_FOUND, "offline mode (HF_HUB_OFFLINE), and o/m at revision main is not complete: revision main is not in the cache folder");
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) mkdir(tmpdir_at(folders[i]), 0700);
    tmpdir_text("models--o--m/refs/main", "abc\n");
    CHECK_ERR(hub_resolve("o/m", &o, &dir), ST_NOT_FOUND, "config.json is missing in the cache folder");
    tmpdir_text("models--o--m/snapshots/abc/config.json", "{}");
    REQUIRE_OK(hub_resolve("o/m", &o, &dir));
    CHECK_STR(dir, tmpdir_at("models--o--m/snapshots/abc"));
    mem_free(dir);
    o.weights = true;
    CHECK_ERR(hub_resolve("o/m", &o, &dir), ST_NOT_FOUND, "the weights (model.safetensors, ");
    tmpdir_text("models--o--m/snapshots/abc/model.safetensors.index.json", "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}");
    tmpdir_text("models--o--m/snapshots/abc/1.safetensors", "x");
    CHECK_ERR(hub_resolve("o/m", &o, &dir), ST_NOT_FOUND, "2.safetensors is missing");
    tmpdir_text("models--o--m/snapshots/abc/2.safetensors", "x");
    o.revision = "abc";
    REQUIRE_OK(hub_resolve("o/m", &o, &dir));
    mem_free(dir);
    o.revision = "abd";
    CHECK_ERR(hub_resolve("o/m", &o, &dir), ST_NOT_FOUND, "revision abd is not in the cache");
    tmpdir_text("models--o--m/refs/main", "../../../etc");
    o.revision = NULL;
    CHECK_ERR(hub_resolve("o/m", &o, &dir), ST_NOT_FOUND, "revision main is not in the cache");
}

TEST(progress_lines)
{
    char b[16], line[256];
    CHECK_STR(progress_bytes(0, b), "0 B");
    CHECK_STR(progress_bytes(999, b), "999 B");
    CHECK_STR(progress_bytes(1000, b), "1.0 kB");
    CHECK_STR(progress_bytes(999999, b), "1.0 MB");
    CHECK_STR(progress_bytes(17400000, b), "17 MB");
    CHECK_STR(progress_bytes(INT64_MAX, b), "9223372 TB");
    progress p = { .name = "model-00001-of-00002.safetensors", .total = 5000000000, .done = 1250000000, .speed = 85e6 };
    progress_line(&p, 100, line, sizeof line);
    CHECK_STR(line, "model-00001-of-00002.safetensors  25% [=====>                     ] 1.2 GB/5.0 GB, 85 MB/s, ETA 0:44");
    for (int w = 0; w < 300; w++) {
        progress_line(&p, w, line, sizeof line);
        if (w >= 60 && (int)strlen(line) > w) FAIL("%d columns wanted, %zu made", w, strlen(line));
    }
    p = (progress){ .name = "x", .total = -1, .done = 5, .speed = 0 };
    progress_line(&p, 80, line, sizeof line);
    CHECK_STR(line, "x 5 B, 0 B/s");
}

/* ---- the local hub ---- */

static char self[PATH_MAX];

static void local_hub(const char *only)
{
    const char *python = getenv("PYTHON");
    char cmd[2 * PATH_MAX + 200], line[4096];
    if (!python || !*python) python = "python3";
    snprintf(cmd, sizeof cmd, "%s -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null", python);
    if (system(cmd) != 0) SKIP("no Python 3.8 for the local hub");
    snprintf(cmd, sizeof cmd, "%s tests/api/hub.py --tool '%s' %s 2>&1", python, self, only);
    FILE *f = popen(cmd, "r");
    REQUIRE(f);
    while (fgets(line, sizeof line, f)) printf("  %s", line);
    int rc = pclose(f);
    CHECK_INT(rc, 0);
}

TEST(local_hub_with_faults) { local_hub("--but out_of_memory"); }
TEST(out_of_memory_is_a_status) { local_hub("--only out_of_memory"); }

static int get_once(const char *model, const hub_options *o)
{
    char *dir = NULL;
    status st = hub_resolve(model, o, &dir);
    if (st == ST_OK) printf("%s\n", dir);
    else printf("%s: %s\n", status_name(st), err_msg());
    mem_free(dir);
    return st != ST_OK;
}

/* Every allocation fails once: each time ST_NOMEM, or success where memory was not vital, and no block stays behind. */
static int get_without_memory(const char *model, const hub_options *o)
{
    char *dir = NULL;
    if (hub_resolve(model, o, &dir) != ST_OK) return 1; /* fills what libraries keep for good */
    mem_free(dir);
    int64_t live = mem_live();
    for (uint64_t n = 1;; n++) {
        dir = NULL;
        nftw(o->download_dir, tmpdir_rm_one, 16, FTW_DEPTH | FTW_PHYS);
        mem_fail_at(n);
        status st = hub_resolve(model, o, &dir);
        int hit = mem_failed();
        mem_fail_at(0);
        mem_free(dir);
        if (mem_live() != live) {
            printf("allocation %llu: %lld blocks leaked\n", (unsigned long long)n, (long long)(mem_live() - live));
            return 1;
        }
        if (!hit) {
            printf("%llu allocations failed one by one\n", (unsigned long long)n - 1);
            return st != ST_OK;
        }
        if (st != ST_NOMEM && st != ST_OK) {
            printf("allocation %llu: %s: %s\n", (unsigned long long)n, status_name(st), err_msg());
            return 1;
        }
    }
}

/* get [--revision R] [--token T] [--dir D] [--ignore PATTERN]... [--no-weights] [--offline] [--progress] [--oom] MODEL
 * Exit status 0 with the folder on stdout, else 1 with "code: message". */
static int get(int argc, char **argv)
{
    static const char *ignore[16];
    hub_options o = { .weights = true, .ignore = ignore };
    const char *model = "";
    int n_ignore = 0, oom = 0;
    for (int i = 2; i < argc; i++) {
        const char *a = argv[i], *next = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(a, "--revision")) o.revision = next, i++;
        else if (!strcmp(a, "--token")) o.token = next, i++;
        else if (!strcmp(a, "--dir")) o.download_dir = next, i++;
        else if (!strcmp(a, "--ignore") && n_ignore < 15) ignore[n_ignore++] = next, i++;
        else if (!strcmp(a, "--no-weights")) o.weights = false;
        else if (!strcmp(a, "--offline")) o.offline = true;
        else if (!strcmp(a, "--progress")) o.progress = true;
        else if (!strcmp(a, "--oom")) oom = 1;
        else model = a;
    }
    log_init();
    return oom ? get_without_memory(model, &o) : get_once(model, &o);
}

int main(int argc, char **argv)
{
    if (!realpath("/proc/self/exe", self)) return 2;
    if (argc > 1 && strcmp(argv[1], "get") == 0) return get(argc, argv);
    return test_main(argc, argv);
}
