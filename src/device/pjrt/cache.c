#include "device/pjrt/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/dirs.h"
#include "base/mem.h"
#include "device/pjrt/internal.h"

#define FORMAT "systolic-program-1"         /* of the file and of the key: change it and old files are no longer found */

struct pjrt_cache { char *dir; };

/* ---- directory ---- */
static status default_dir(buf *out)
{
    const char *own = getenv("SYSTOLIC_PROGRAM_CACHE");
    if (own && *own) buf_str(out, own);
    else dirs_cache("programs", out);
    TRY(buf_status(out));
    return out->len ? ST_OK : err_set(ST_NOT_FOUND, "program cache: none of SYSTOLIC_PROGRAM_CACHE, XDG_CACHE_HOME and HOME is set");
}

status pjrt_cache_open(const char *dir, pjrt_cache **out)
{
    buf path = {0};
    pjrt_cache *c = mem_calloc(1, sizeof *c);
    status st = c ? ST_OK : err_nomem();
    if (st != ST_OK) goto out;
    if (dir) buf_str(&path, dir);
    TRY_OUT(dir ? buf_status(&path) : default_dir(&path));
    if (!path.len) { st = err_set(ST_INVALID, "program cache: the directory's name is empty"); goto out; }
    st = dirs_make(path.data);
    if (st != ST_OK) { st = err_wrap(st, "program cache"); goto out; }
    if (access(path.data, R_OK | X_OK) != 0) { st = err_errno("program cache %s", path.data); goto out; }
    c->dir = buf_take(&path);
    *out = c;
out:
    buf_free(&path);
    if (st != ST_OK) mem_free(c);
    return st;
}

void pjrt_cache_close(pjrt_cache *c)
{
    if (!c) return;
    mem_free(c->dir);
    mem_free(c);
}

const char *pjrt_cache_dir(const pjrt_cache *c) { return c->dir; }

/* ---- key ---- */
static void put_part(sha256_stream *s, const void *data, size_t n)
{
    uint64_t len = n;
    sha256_update(s, &len, sizeof len);     /* lengths keep parts from running into each other */
    sha256_update(s, data, n);
}

status pjrt_cache_key(const pjrt_key *k, char out[PJRT_KEY_LEN])
{
    buf options = {0};
    sha256_stream *s = NULL;
    status st = pjrt_options_encode(k->options, &options);
    if (st == ST_OK) st = sha256_open(&s);
    if (st == ST_OK) {
        uint8_t digest[SHA256_BYTES];
        put_part(s, FORMAT, strlen(FORMAT));
        put_part(s, k->platform, strlen(k->platform));
        put_part(s, k->version, strlen(k->version));
        put_part(s, k->topology, strlen(k->topology));
        put_part(s, options.data, options.len);
        put_part(s, k->code, k->code_len);
        sha256_close(s, digest);
        hash_hex(digest, sizeof digest, out);
    }
    buf_free(&options);
    return st;
}

/* ---- files ---- */
static const struct { const char *name; size_t at; bool real; } stat_fields[] = {
    { "compile_s", offsetof(pjrt_stats, compile_s), true }, { "flops", offsetof(pjrt_stats, flops), true },
    { "bytes", offsetof(pjrt_stats, bytes), true }, { "optimal_s", offsetof(pjrt_stats, optimal_s), true },
    { "argument_bytes", offsetof(pjrt_stats, argument_bytes), false }, { "output_bytes", offsetof(pjrt_stats, output_bytes), false },
    { "alias_bytes", offsetof(pjrt_stats, alias_bytes), false }, { "temp_bytes", offsetof(pjrt_stats, temp_bytes), false },
    { "code_bytes", offsetof(pjrt_stats, code_bytes), false }, { "peak_bytes", offsetof(pjrt_stats, peak_bytes), false },
    { "cycles", offsetof(pjrt_stats, cycles), true }, { "start_cycles", offsetof(pjrt_stats, start_cycles), true }, { "product_flops", offsetof(pjrt_stats, product_flops), true },
    { "product_flops_once", offsetof(pjrt_stats, product_flops_once), true }, { "operations", offsetof(pjrt_stats, operations), true },
    { "open_loops", offsetof(pjrt_stats, open_loops), false }, { "unknown_kernels", offsetof(pjrt_stats, unknown_kernels), false },
    { "bundles", offsetof(pjrt_stats, bundles), false }, { "read", offsetof(pjrt_stats, read), false },
};
enum { N_STAT_FIELDS = sizeof stat_fields / sizeof *stat_fields };

void pj_stats_write(jw *w, const pjrt_stats *s)
{
    jw_obj(w);
    for (int i = 0; i < N_STAT_FIELDS; i++) {
        const char *at = (const char *)s + stat_fields[i].at;
        jw_key(w, stat_fields[i].name);
        if (stat_fields[i].real) jw_f64(w, *(const double *)(const void *)at);
        else jw_i64(w, *(const int64_t *)(const void *)at);
    }
    jw_end_obj(w);
}

void pj_stats_read(const jv *v, pjrt_stats *s)
{
    for (int i = 0; i < N_STAT_FIELDS; i++) {
        char *at = (char *)s + stat_fields[i].at;
        if (stat_fields[i].real) *(double *)(void *)at = jv_get_f64(v, stat_fields[i].name, -1);
        else *(int64_t *)(void *)at = jv_get_i64(v, stat_fields[i].name, -1);
    }
}

static status write_all(int fd, const void *data, size_t n, const char *path)
{
    const char *p = data;
    while (n) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) return err_errno("program cache: write %s", path);
        p += w;
        n -= (size_t)w;
    }
    return ST_OK;
}

static status write_file(const char *path, const void *head, size_t head_len, const void *body, size_t body_len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return err_errno("program cache: create %s", path);
    status st = write_all(fd, head, head_len, path);
    if (st == ST_OK) st = write_all(fd, body, body_len, path);
    if (close(fd) != 0 && st == ST_OK) st = err_errno("program cache: write %s", path);
    if (st != ST_OK) unlink(path);
    return st;
}

status pj_file_put(const char *dir, const char *name, const void *head, size_t head_len, const void *body, size_t body_len)
{
    buf path = {0}, aside = {0};
    char unique[17];
    random_hex(unique, 16);
    buf_printf(&path, "%s/%s", dir, name);
    buf_printf(&aside, "%s/%s.%s", dir, name, unique);
    status st = path.failed || aside.failed ? err_nomem() : write_file(aside.data, head, head_len, body, body_len);
    if (st == ST_OK && rename(aside.data, path.data) != 0) {
        st = err_errno("program cache: rename to %s", path.data);
        unlink(aside.data);
    }
    buf_free(&path);
    buf_free(&aside);
    return st;
}

status pjrt_cache_put(const pjrt_cache *c, const char *key, const void *executable, size_t len, const pjrt_stats *stats)
{
    buf header = {0};
    uint8_t digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    sha256(executable, len, digest);
    hash_hex(digest, sizeof digest, hex);
    jw w = jw_to(&header);
    jw_obj(&w);
    jw_key(&w, "format"); jw_str(&w, FORMAT);
    jw_key(&w, "bytes"); jw_i64(&w, (int64_t)len);
    jw_key(&w, "sha256"); jw_str(&w, hex);
    jw_key(&w, "stats"); pj_stats_write(&w, stats);
    jw_end_obj(&w);
    buf_char(&header, '\n');
    status st = buf_status(&header);
    if (st == ST_OK) st = pj_file_put(c->dir, key, header.data, header.len, executable, len);
    buf_free(&header);
    return st;
}

static status check_header(const jv *h, const char *body, size_t n)
{
    if (strcmp(jv_get_str(h, "format", ""), FORMAT) != 0) return err_set(ST_INVALID, "its first line is not a %s header", FORMAT);
    int64_t bytes = jv_get_i64(h, "bytes", -1);
    if (bytes < 0 || (uint64_t)bytes != n) return err_set(ST_INVALID, "%zu bytes follow the header, which promises %lld", n, (long long)bytes);
    uint8_t digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    sha256(body, n, digest);
    hash_hex(digest, sizeof digest, hex);
    return strcmp(jv_get_str(h, "sha256", ""), hex) == 0 ? ST_OK : err_set(ST_INVALID, "its contents do not have the hash that its header says");
}

status pjrt_cache_decode(const void *file, size_t len, const char **executable, size_t *executable_len, pjrt_stats *stats)
{
    enum { MAX_HEADER = 4096 };
    const char *p = file, *end = len ? memchr(p, '\n', len < MAX_HEADER ? len : MAX_HEADER) : NULL;
    if (!end) return err_set(ST_INVALID, "it does not start with a line of at most %d bytes", MAX_HEADER);
    jv *h = NULL;
    status st = jv_parse(p, (size_t)(end - p), &h);
    if (st == ST_OK) st = check_header(h, end + 1, len - (size_t)(end + 1 - p));
    if (st == ST_OK) {
        if (stats) pj_stats_read(jv_get(h, "stats"), stats);
        *executable = end + 1;
        *executable_len = len - (size_t)(end + 1 - p);
    }
    jv_free(h);
    return st;
}

static status read_file(const char *path, buf *out, bool *found)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    *found = fd >= 0;
    if (fd < 0) return errno == ENOENT ? ST_OK : err_errno("program cache: open %s", path);
    status st = ST_OK;
    for (;;) {
        char *at = buf_reserve(out, 1 << 20);
        if (!at) { st = err_nomem(); break; }
        ssize_t n = read(fd, at, 1 << 20);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) { st = err_errno("program cache: read %s", path); break; }
        if (n == 0) break;
        out->len += (size_t)n;
    }
    close(fd);
    return st;
}

status pjrt_cache_get(const pjrt_cache *c, const char *key, buf *executable, pjrt_stats *stats, bool *found)
{
    buf path = {0}, file = {0};
    bool there = false;
    const char *body = NULL;
    size_t n = 0;
    buf_printf(&path, "%s/%s", c->dir, key);
    status st = buf_status(&path);
    if (st == ST_OK) st = read_file(path.data, &file, &there);
    if (st == ST_OK && there) {
        st = pjrt_cache_decode(file.data, file.len, &body, &n, stats);
        if (st == ST_INVALID) {
            char why[300];
            err_copy(why, sizeof why);
            bool removed = unlink(path.data) == 0;
            log_warn("Program cache: %s is damaged (%s): %sthe program is compiled again", path.data, why, removed ? "removed, " : "");
            there = false;
            st = ST_OK;
        } else if (st == ST_OK) {
            buf_append(executable, body, n);
            st = buf_status(executable);
        }
    }
    if (st == ST_OK) *found = there;
    buf_free(&path);
    buf_free(&file);
    return st;
}
