#include "device/pjrt/spec.h"

#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "tpu/slice.h"

void pjrt_place_free(pjrt_place *p)
{
    mem_free(p->path);
    mem_free(p->options);
    *p = (pjrt_place){0};
}

/* Splits "PATH?OPTIONS". */
static status split(const char *s, pjrt_place *out)
{
    const char *q = strchr(s, '?');
    pjrt_place r = { mem_strndup(s, q ? (size_t)(q - s) : strlen(s)), mem_strdup(q ? q + 1 : "") };
    if (!r.path || !r.options) {
        pjrt_place_free(&r);
        return err_nomem();
    }
    *out = r;
    return ST_OK;
}

/* ---- the search through Python's directories ---- */
typedef struct search {
    const char *const *files;       /* below a site-packages directory; the first that exists wins, NULL-terminated */
    buf found, looked;
} search;

static void try_site(search *s, const char *site)
{
    if (s->found.len || access(site, R_OK) != 0) return;
    for (int i = 0; s->files[i] && !s->found.len; i++) {
        char path[PATH_MAX];
        int n = snprintf(path, sizeof path, "%s/%s", site, s->files[i]);
        if (n > 0 && (size_t)n < sizeof path && access(path, R_OK) == 0) buf_str(&s->found, path);
    }
    if (!s->found.len && !strstr(buf_cstr(&s->looked), site)) buf_printf(&s->looked, "%s%s", s->looked.len ? ", " : "", site);
}

static void try_glob(search *s, const char *prefix, const char *pattern)
{
    char full[PATH_MAX];
    int n = snprintf(full, sizeof full, "%s%s", prefix, pattern);
    if (s->found.len || n < 0 || (size_t)n >= sizeof full) return;
    glob_t g;
    if (glob(full, 0, NULL, &g) == 0)
        for (size_t i = g.gl_pathc; i-- > 0;) try_site(s, g.gl_pathv[i]);   /* the newest Python first */
    globfree(&g);
}

/* The installation a python3 belongs to: "/usr" of /usr/bin/python3, and where a symbolic link leads. */
static void try_prefix_of(search *s, const char *python)
{
    char real[PATH_MAX], prefix[PATH_MAX];
    const char *paths[2] = { python, realpath(python, real) };
    for (int i = 0; i < 2; i++) {
        if (!paths[i] || strlen(paths[i]) >= sizeof prefix) continue;
        strncpy(prefix, paths[i], sizeof prefix - 1);
        prefix[sizeof prefix - 1] = 0;
        for (int up = 0; up < 2; up++) {
            char *slash = strrchr(prefix, '/');
            if (slash) *slash = 0;
        }
        try_glob(s, prefix, "/lib/python3*/site-packages");
    }
}

static void try_each(search *s, const char *list, void (*visit)(search *, const char *))
{
    for (const char *p = list; p && *p;) {
        size_t n = strcspn(p, ":");
        char item[PATH_MAX];
        if (n && n < sizeof item) {
            memcpy(item, p, n);
            item[n] = 0;
            visit(s, item);
        }
        p += n + (p[n] == ':');
    }
}
static void visit_site(search *s, const char *dir) { try_site(s, dir); }
static void visit_path(search *s, const char *dir)
{
    char python[PATH_MAX];
    int n = snprintf(python, sizeof python, "%s/python3", dir);
    if (n > 0 && (size_t)n < sizeof python && access(python, X_OK) == 0) try_prefix_of(s, python);
}

static void search_python(search *s)
{
    const char *home = getenv("HOME"), *venv = getenv("VIRTUAL_ENV"), *pyenv = getenv("PYENV_ROOT");
    char dir[PATH_MAX];
    if (venv && *venv) try_glob(s, venv, "/lib/python3*/site-packages");
    try_each(s, getenv("PYTHONPATH"), visit_site);
    try_each(s, getenv("PATH"), visit_path);
    if (home && *home) {
        try_glob(s, home, "/.local/lib/python3*/site-packages");
        snprintf(dir, sizeof dir, "%s/.pyenv", home);
        try_glob(s, pyenv && *pyenv ? pyenv : dir, "/versions/3*/lib/python3*/site-packages");
    }
    try_glob(s, "/usr/local", "/lib/python3*/dist-packages");
    try_glob(s, "/usr", "/lib/python3*/dist-packages");
}

static status find_package(const char *what, const char *env, const char *const *files, const char *advice, pjrt_place *out)
{
    const char *named = getenv(env);
    if (named && *named) {
        if (access(named, R_OK) != 0) return err_set(ST_NOT_FOUND, "%s=%s: no such file", env, named);
        return split(named, out);
    }
    search s = { .files = files };
    search_python(&s);
    status st = s.found.failed || s.looked.failed ? err_nomem() : ST_OK;
    if (st == ST_OK && s.found.len) {
        st = split(s.found.data, out);
    } else if (st == ST_OK) {
        st = err_set(ST_NOT_FOUND, "no %s: %s is not set, and none of these has %s: %.600s. %s", what, env, files[0],
                     s.looked.len ? s.looked.data : "(no Python packages found)", advice);
    }
    buf_free(&s.found);
    buf_free(&s.looked);
    return st;
}

/* SITE/libtpu/libtpu.so has SITE/libtpu-0.0.52.dist-info; SITE/jax_plugins/xla_cuda13/... has SITE/jax_cuda13_pjrt-0.9.dist-info. */
status pjrt_package(const char *path, buf *out)
{
    char pattern[PATH_MAX];
    const char *tpu = strstr(path, "libtpu/libtpu.so"), *cuda = strstr(path, "jax_plugins/xla_cuda");
    const char *at = tpu ? tpu : cuda;
    if (!at) return ST_OK;
    int n = tpu ? snprintf(pattern, sizeof pattern, "%.*slibtpu-*.dist-info", (int)(at - path), path)
                : snprintf(pattern, sizeof pattern, "%.*sjax_cuda%.2s_pjrt-*.dist-info", (int)(at - path), path, cuda + strlen("jax_plugins/xla_cuda"));
    if (n < 0 || (size_t)n >= sizeof pattern) return ST_OK;
    glob_t g;
    if (glob(pattern, 0, NULL, &g) == 0) {
        const char *slash = strrchr(g.gl_pathv[g.gl_pathc - 1], '/'), *name = slash ? slash + 1 : g.gl_pathv[g.gl_pathc - 1];
        const char *dash = strchr(name, '-'), *end = strstr(name, ".dist-info");
        if (dash && end && dash < end) buf_printf(out, "%.*s %.*s", (int)(dash - name), name, (int)(end - dash - 1), dash + 1);
    }
    globfree(&g);
    return buf_status(out);
}

status pjrt_find(const char *spec, pjrt_place *out)
{
    static const char *const tpu[] = { "libtpu/libtpu.so", NULL };
    static const char *const cuda[] = { "jax_plugins/xla_cuda13/xla_cuda_plugin.so", "jax_plugins/xla_cuda12/xla_cuda_plugin.so", NULL };
    if (!strncmp(spec, "pjrt:", 5)) {
        if (!spec[5] || spec[5] == '?') return err_set(ST_INVALID, "device \"%.200s\": pjrt:PATH names the plugin's file", spec);
        return split(spec + 5, out);
    }
    size_t n = strcspn(spec, "?");
    status st;
    pjrt_place r = {0};
    if (n == 3 && !strncmp(spec, "tpu", n)) {
        st = find_package("libtpu", "TPU_LIBRARY_PATH", tpu, "Install it with: pip install libtpu", &r);
    } else if (n == 4 && !strncmp(spec, "cuda", n)) {
        st = find_package("CUDA plugin", "PJRT_CUDA_LIBRARY_PATH", cuda, "Install it with: pip install 'jax[cuda13]'", &r);
    } else {
        return err_set(ST_INVALID, "device \"%.200s\" is not one of tpu, cuda, pjrt:PATH", spec);
    }
    if (st == ST_OK && spec[n]) {
        mem_free(r.options);
        r.options = mem_strdup(spec + n + 1);
        if (!r.options) st = err_nomem();
    }
    if (st == ST_OK) *out = r;
    else pjrt_place_free(&r);
    return st;
}

/* ---- targets ---- */

status pjrt_target_parse(const char *target, pjrt_place *out)
{
    size_t end = strcspn(target, "?");
    tpu_slice s;
    TRY(tpu_slice_parse(target, end, &s));
    buf name = {0};
    buf_printf(&name, "%s:%dx%d", s.libtpu, s.shape[0], s.shape[1]);
    if (s.rank == 3) buf_printf(&name, "x%d", s.shape[2]);
    pjrt_place r = { .options = mem_strdup(target[end] ? target + end + 1 : "") };
    status st = buf_status(&name);
    if (st == ST_OK) r.path = buf_take(&name);
    buf_free(&name);
    if (st == ST_OK && (!r.path || !r.options)) st = err_nomem();
    if (st != ST_OK) pjrt_place_free(&r);
    else *out = r;
    return st;
}
