#include "load/hub_cache.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/dirs.h"
#include "base/log.h"

/* ---- names from outside ---- */

bool hub_name_ok(const char *name)
{
    if (!*name || strlen(name) > 512) return false;
    for (const char *p = name; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7F || *p == '\\') return false;
    for (const char *part = name;;) {
        size_t n = strcspn(part, "/");
        if (n == 0 || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.')) return false;
        if (!part[n]) return true;
        part += n + 1;
    }
}

bool hub_id_ok(const char *id)
{
    int slashes = 0;
    if (strlen(id) > 96 || strstr(id, "--") || strstr(id, "..")) return false;
    char prev = '/';
    for (const char *p = id; *p; prev = *p++) {
        if (*p == '/') slashes++;
        else if (!isalnum((unsigned char)*p) && !strchr("-_.", *p)) return false;
        /* every part starts and ends with a letter, digit or underscore */
        if ((prev == '/' && strchr("-./", *p)) || (*p == '/' && strchr("-.", prev))) return false;
    }
    return slashes <= 1 && !strchr("-./", prev);
}

bool hub_is_hex(const char *s, size_t n) { return strlen(s) == n && strspn(s, "0123456789abcdef") == n; }

/* ---- environment ---- */

static const char *env(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

bool hub_env_true(const char *name)
{
    const char *v = env(name);
    return v && (strcmp(v, "1") == 0 || strcasecmp(v, "on") == 0 || strcasecmp(v, "yes") == 0 || strcasecmp(v, "true") == 0);
}

/* `fmt`-formatted path with a leading ~ replaced by HOME. */
static status expand(arena *a, const char *dir, const char *below, const char **out)
{
    const char *home = env("HOME");
    bool tilde = dir[0] == '~' && (dir[1] == '/' || !dir[1]);
    if (tilde && !home) return err_set(ST_NOT_FOUND, "cannot find the hub cache: neither HF_HOME nor HOME is set");
    const char *path = tilde ? arena_printf(a, "%s%s%s", home, dir + 1, below) : arena_printf(a, "%s%s", dir, below);
    if (!path) return err_nomem();
    *out = path;
    return ST_OK;
}

status hub_home(arena *a, const char **out)
{
    if (env("HF_HOME")) return expand(a, env("HF_HOME"), "", out);
    if (env("XDG_CACHE_HOME")) return expand(a, env("XDG_CACHE_HOME"), "/huggingface", out);
    return expand(a, "~", "/.cache/huggingface", out);
}

/* The first line of the token file; absence is fine. */
static status token_file(arena *a, char *dst, size_t cap)
{
    const char *path;
    *dst = 0;
    if (env("HF_TOKEN_PATH")) {
        TRY(expand(a, env("HF_TOKEN_PATH"), "", &path));
    } else {
        if (!env("HF_HOME") && !env("XDG_CACHE_HOME") && !env("HOME")) return ST_OK;
        TRY(hub_home(a, &path));
        path = arena_printf(a, "%s/token", path);
        if (!path) return err_nomem();
    }
    FILE *f = fopen(path, "r");
    if (!f) return ST_OK;
    if (!fgets(dst, (int)cap, f)) *dst = 0;
    fclose(f);
    return ST_OK;
}

status hub_token(arena *a, const char *given, const char **out)
{
    char file[1024];
    const char *t = given && *given ? given : env("HF_TOKEN") ? env("HF_TOKEN") : env("HUGGING_FACE_HUB_TOKEN");
    if (!t) {
        if (hub_env_true("HF_HUB_DISABLE_IMPLICIT_TOKEN")) file[0] = 0;
        else TRY(token_file(a, file, sizeof file));
        t = file;
    }
    while (isspace((unsigned char)*t)) t++;
    size_t n = strlen(t);
    while (n && isspace((unsigned char)t[n - 1])) n--;
    *out = NULL;
    if (n == 0) return ST_OK;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)t[i] <= 0x20 || (unsigned char)t[i] >= 0x7F) return err_set(ST_INVALID, "the Hugging Face token (HF_TOKEN) holds a space or a control character");
    *out = arena_strndup(a, t, n);
    return *out ? ST_OK : err_nomem();
}

/* ---- folders and files ---- */

bool hub_is_file(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISREG(sb.st_mode);
}

status hub_cache_at(arena *a, const char *id, const char *dir, hub_cache *out)
{
    const char *root, *home;
    const char *set = dir && *dir ? dir : env("HF_HUB_CACHE") ? env("HF_HUB_CACHE") : env("HUGGINGFACE_HUB_CACHE");
    if (set) {
        TRY(expand(a, set, "", &root));
    } else {
        TRY(hub_home(a, &home));
        TRY(expand(a, home, "/hub", &root));
    }
    buf folder = {0};
    buf_str(&folder, "models--");
    for (const char *p = id; *p; p++) {
        if (*p == '/') buf_str(&folder, "--");
        else buf_char(&folder, *p);
    }
    const char *repo = folder.failed ? NULL : arena_printf(a, "%s/%s", root, folder.data);
    const char *locks = folder.failed ? NULL : arena_printf(a, "%s/.locks/%s", root, folder.data);
    buf_free(&folder);
    if (!repo || !locks) return err_nomem();
    *out = (hub_cache){ .root = root, .repo = repo, .locks = locks };
    return ST_OK;
}

const char *hub_cache_snapshot(arena *a, const hub_cache *c, const char *commit) { return arena_printf(a, "%s/snapshots/%s", c->repo, commit); }
const char *hub_cache_file(arena *a, const hub_cache *c, const char *commit, const char *name) { return arena_printf(a, "%s/snapshots/%s/%s", c->repo, commit, name); }
const char *hub_cache_blob(arena *a, const hub_cache *c, const char *etag) { return arena_printf(a, "%s/blobs/%s", c->repo, etag); }

/* What refs/REVISION says ("" if nothing sensible). */
static void read_ref(const char *path, char commit[64])
{
    commit[0] = 0;
    FILE *f = fopen(path, "r");
    if (!f) return;
    if (!fgets(commit, 64, f)) commit[0] = 0;
    fclose(f);
    commit[strcspn(commit, " \r\n")] = 0;
    if (!hub_name_ok(commit) || strchr(commit, '/')) commit[0] = 0;
}

status hub_cache_commit(arena *a, const hub_cache *c, const char *revision, const char **commit)
{
    char text[64];
    struct stat sb;
    const char *ref = arena_printf(a, "%s/refs/%s", c->repo, revision), *snapshot = hub_cache_snapshot(a, c, revision);
    if (!ref || !snapshot) return err_nomem();
    read_ref(ref, text);
    if (!*text && !strchr(revision, '/') && stat(snapshot, &sb) == 0 && S_ISDIR(sb.st_mode)) snprintf(text, sizeof text, "%.63s", revision);
    if (!*text) return err_set(ST_NOT_FOUND, "revision %s is not in the cache folder %s", revision, c->repo);
    *commit = arena_strdup(a, text);
    return *commit ? ST_OK : err_nomem();
}

status hub_cache_set_ref(arena *a, const hub_cache *c, const char *revision, const char *commit)
{
    char now[64];
    const char *ref = arena_printf(a, "%s/refs/%s", c->repo, revision);
    const char *tmp = arena_printf(a, "%s/refs/%s.%ld.tmp", c->repo, revision, (long)getpid());
    if (!ref || !tmp) return err_nomem();
    read_ref(ref, now);
    if (strcmp(now, commit) == 0) return ST_OK;
    TRY(dirs_make_above(ref));
    FILE *f = fopen(tmp, "w");
    if (!f) return err_errno("cannot create %s", tmp);
    bool bad = fputs(commit, f) < 0;
    if (fclose(f) != 0 || bad || rename(tmp, ref) != 0) {
        status st = err_errno("cannot write %s", ref);
        unlink(tmp);
        return st;
    }
    return ST_OK;
}

status hub_cache_link(arena *a, const hub_cache *c, const char *etag, const char *commit, const char *name)
{
    const char *up = "";
    for (const char *p = name; (p = strchr(p, '/')); p++) {
        up = arena_printf(a, "%s../", up);
        if (!up) break;
    }
    const char *to = up ? arena_printf(a, "%s../../blobs/%s", up, etag) : NULL;
    const char *path = hub_cache_file(a, c, commit, name), *blob = hub_cache_blob(a, c, etag);
    const char *tmp = arena_printf(a, "%s.%ld.tmp", path ? path : "", (long)getpid());
    if (!to || !path || !blob || !tmp) return err_nomem();
    TRY(dirs_make_above(path));
    unlink(tmp);
    if (symlink(to, tmp) == 0) {
        if (rename(tmp, path) == 0) return ST_OK; /* replaces a link that led nowhere */
        status st = err_errno("cannot create %s", path);
        unlink(tmp);
        return st;
    }
    if (errno != EPERM && errno != ENOSYS && errno != EOPNOTSUPP) return err_errno("cannot create the link %s", path);
    return rename(blob, path) == 0 ? ST_OK : err_errno("cannot move %s to %s", blob, path);
}

status hub_cache_lock(arena *a, const hub_cache *c, const char *etag, int *fd)
{
    const char *path = arena_printf(a, "%s/%s.lock", c->locks, etag), *blob = hub_cache_blob(a, c, etag);
    if (!path || !blob) return err_nomem();
    TRY(dirs_make_above(path));
    TRY(dirs_make_above(blob));
    int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock < 0) return err_errno("cannot create the lock %s", path);
    int rc = flock(lock, LOCK_EX | LOCK_NB);
    if (rc != 0 && errno == EWOULDBLOCK) {
        log_info("another process is downloading %s: waiting for %s", blob, path);
        do rc = flock(lock, LOCK_EX);
        while (rc != 0 && errno == EINTR);
    }
    /* Some network filesystems have no locks: going on without is better than not at all. */
    if (rc != 0) log_warn("cannot lock %s: %s", path, strerror(errno));
    *fd = lock;
    return ST_OK;
}

void hub_cache_unlock(int fd) { close(fd); }
