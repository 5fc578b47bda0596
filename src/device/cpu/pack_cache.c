#include "device/cpu/pack_cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/dirs.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

enum { HEAD_BYTES = 32, MAX_INDEX = 64 << 20, MAX_WEIGHTS = 1 << 20, ALIGN = 2 << 20, WRITE_STEP = 4 << 20 };
static const char MAGIC[8] = { 'S', 'Y', 'S', 'T', 'P', 'A', 'C', 'K' };
enum { VERSION = 1 };

typedef struct head { char magic[8]; uint64_t version, index_bytes, index_hash; } head;
_Static_assert(sizeof(head) == HEAD_BYTES, "the header is written as it is");

struct pack_cache {
    /* reading */
    char *map;
    size_t map_bytes;
    jv *index;
    size_t bytes;
    /* writing */
    pthread_t thread;
    bool started;
    atomic_bool stop;
    char *path, *aside;
    pack_entry *entries;
    uint64_t *offsets;
    size_t n;
    uint64_t end;                   /* bytes of the file */
    buf text;                       /* header and index */
    status st;
    char error[512];
};

static uint64_t round_up(uint64_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

/* ---- where ---- */

status pack_cache_folder(const char *dir, char *out, size_t cap)
{
    const char *env = getenv("SYSTOLIC_WEIGHT_CACHE");
    buf path = {0};
    if (!dir || !*dir) dir = env && *env ? env : NULL;
    if (dir && strcmp(dir, "off") == 0) return err_set(ST_NOT_FOUND, "the cache of packed weights is off");
    if (dir) buf_str(&path, dir);
    else dirs_cache("weights", &path);
    status st = buf_status(&path);
    if (st == ST_OK && !path.len) st = err_set(ST_NOT_FOUND, "no folder for packed weights: neither SYSTOLIC_WEIGHT_CACHE nor XDG_CACHE_HOME nor HOME is set");
    if (st == ST_OK && path.len >= cap) st = err_set(ST_INVALID, "the folder of packed weights has too long a name");
    if (st == ST_OK) memcpy(out, path.data, path.len + 1);
    buf_free(&path);
    return st;
}

/* ---- reading ---- */

static status check_index(const jv *index, uint64_t file_bytes)
{
    const jv *list = jv_get(index, "weights");
    size_t n = jv_len(list);
    if (!jv_is(list, JV_ARR) || n > MAX_WEIGHTS) return err_set(ST_INVALID, "packed weights: no list of weights");
    for (size_t i = 0; i < n; i++) {
        const jv *w = jv_at(list, i);
        int64_t at = jv_i64(jv_at(w, 1), -1), bytes = jv_i64(jv_at(w, 2), -1);
        if (!jv_str(jv_at(w, 0), NULL) || at < HEAD_BYTES || bytes < 0 || at % ALIGN || (uint64_t)at > file_bytes || (uint64_t)bytes > file_bytes - (uint64_t)at)
            return err_set(ST_INVALID, "packed weights: entry %zu lies outside the file", i);
    }
    return ST_OK;
}

static status read_index(const char *file, size_t len, uint64_t file_bytes, jv **out)
{
    head h;
    jv *index;
    if (len < HEAD_BYTES) return err_set(ST_INVALID, "packed weights: %zu bytes, the header alone has %d", len, HEAD_BYTES);
    memcpy(&h, file, sizeof h);
    if (memcmp(h.magic, MAGIC, sizeof MAGIC) != 0 || h.version != VERSION) return err_set(ST_INVALID, "packed weights: no header of version %d", VERSION);
    if (h.index_bytes > MAX_INDEX || h.index_bytes > len - HEAD_BYTES) return err_set(ST_INVALID, "packed weights: an index of %llu bytes", (unsigned long long)h.index_bytes);
    if (hash64(file + HEAD_BYTES, h.index_bytes) != h.index_hash) return err_set(ST_INVALID, "packed weights: the index is damaged");
    TRY(jv_parse(file + HEAD_BYTES, h.index_bytes, &index));
    status st = check_index(index, file_bytes);
    if (st == ST_OK) *out = index;
    else jv_free(index);
    return st;
}

status pack_cache_check(const void *file, size_t len, uint64_t file_bytes)
{
    jv *index;
    TRY(read_index(file, len, file_bytes, &index));
    jv_free(index);
    return ST_OK;
}

static status map_file(pack_cache *c, int fd)
{
    struct stat s;
    if (fstat(fd, &s) != 0 || s.st_size < HEAD_BYTES) return err_set(ST_INVALID, "packed weights: the file is empty");
    void *p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return err_set(ST_IO, "packed weights: cannot map %lld bytes: %s", (long long)s.st_size, strerror(errno));
    c->map = p;
    c->map_bytes = (size_t)s.st_size;
    (void)madvise(p, c->map_bytes, MADV_HUGEPAGE);
    TRY(read_index(c->map, c->map_bytes, c->map_bytes, &c->index));
    const jv *list = jv_get(c->index, "weights");
    for (size_t i = 0; i < jv_len(list); i++) c->bytes += (size_t)jv_i64(jv_at(jv_at(list, i), 2), 0);
    (void)futimens(fd, NULL); /* used now: the oldest go first */
    return ST_OK;
}

status pack_cache_open(const char *dir, const char *key, pack_cache **out)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/%s.pack", dir, key);
    if (n < 0 || (size_t)n >= sizeof path) return err_set(ST_INVALID, "the folder of packed weights has too long a name");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_set(ST_NOT_FOUND, "no packed weights in %s: %s", path, strerror(errno));
    pack_cache *c = mem_calloc(1, sizeof *c);
    status st = c ? map_file(c, fd) : err_nomem();
    close(fd);
    if (st == ST_OK) {
        *out = c;
        return ST_OK;
    }
    if (st == ST_INVALID) {
        log_warn("%s: %s; it is made anew", path, err_msg());
        unlink(path);
        st = err_set(ST_NOT_FOUND, "no packed weights in %s that are whole", path);
    }
    pack_cache_close(c);
    return st;
}

bool pack_cache_get(const pack_cache *c, const char *name, size_t bytes, const void **data)
{
    const jv *list = jv_get(c->index, "weights");
    for (size_t i = 0; i < jv_len(list); i++) {
        const jv *w = jv_at(list, i);
        if (strcmp(jv_str(jv_at(w, 0), ""), name) != 0 || jv_i64(jv_at(w, 2), -1) != (int64_t)bytes) continue;
        *data = c->map + jv_i64(jv_at(w, 1), 0);
        return true;
    }
    return false;
}

size_t pack_cache_bytes(const pack_cache *c) { return c->bytes; }

/* ---- writing ---- */

static status write_all(pack_cache *c, int fd, const char *data, size_t n)
{
    while (n > 0) {
        if (atomic_load(&c->stop)) return err_set(ST_CANCELLED, "writing packed weights was given up");
        ssize_t w = write(fd, data, n < WRITE_STEP ? n : WRITE_STEP);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) return err_set(ST_IO, "cannot write %s: %s", c->aside, strerror(errno));
        data += w;
        n -= (size_t)w;
    }
    return ST_OK;
}

static status write_file(pack_cache *c)
{
    int fd = open(c->aside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return err_set(ST_IO, "cannot make %s: %s", c->aside, strerror(errno));
    status st = ftruncate(fd, (off_t)c->end) == 0 ? ST_OK : err_set(ST_IO, "cannot make %s: %s", c->aside, strerror(errno));
    if (st == ST_OK) st = write_all(c, fd, c->text.data, c->text.len);
    for (size_t i = 0; i < c->n && st == ST_OK; i++) {
        if (lseek(fd, (off_t)c->offsets[i], SEEK_SET) < 0) st = err_set(ST_IO, "cannot write %s: %s", c->aside, strerror(errno));
        if (st == ST_OK) st = write_all(c, fd, c->entries[i].data, c->entries[i].bytes);
    }
    if (st == ST_OK && fsync(fd) != 0) st = err_set(ST_IO, "cannot write %s: %s", c->aside, strerror(errno));
    close(fd);
    if (st == ST_OK && rename(c->aside, c->path) != 0) st = err_set(ST_IO, "cannot rename %s: %s", c->aside, strerror(errno));
    if (st != ST_OK) unlink(c->aside);
    return st;
}

static void *writer(void *arg)
{
    pack_cache *c = arg;
    thread_in_background();     /* requests are being answered already */
    c->st = write_file(c);
    if (c->st == ST_OK) log_debug("packed weights are in %s", c->path);
    else err_copy(c->error, sizeof c->error);
    if (c->st != ST_OK && c->st != ST_CANCELLED) log_warn("%s", c->error);
    return NULL;
}

/* Removes what was used longest ago until `room` more bytes stay within the limit. */
static void make_room(const char *dir, int64_t limit, int64_t room)
{
    for (;;) {
        DIR *d = opendir(dir);
        char oldest[4096] = "", path[4096];
        struct timespec when = { 0 };
        int64_t total = room;
        if (!d) return;
        for (struct dirent *e; (e = readdir(d));) {
            struct stat s;
            size_t len = strlen(e->d_name);
            if (len < 5 || strcmp(e->d_name + len - 5, ".pack") != 0) continue;
            int n = snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
            if (n < 0 || (size_t)n >= sizeof path || stat(path, &s) != 0) continue;
            total += s.st_size;
            bool older = !oldest[0] || s.st_mtim.tv_sec < when.tv_sec || (s.st_mtim.tv_sec == when.tv_sec && s.st_mtim.tv_nsec < when.tv_nsec);
            if (!older) continue;
            memcpy(oldest, path, (size_t)n + 1);
            when = s.st_mtim;
        }
        closedir(d);
        if (total <= limit || !oldest[0] || unlink(oldest) != 0) return;
        log_info("packed weights: removed %s, used longest ago", oldest);
    }
}

static status lay_out(pack_cache *c)
{
    buf index = {0};
    jw w;
    /* The index holds the offsets, which begin after it: they are counted from a bound of its size. */
    size_t bound = HEAD_BYTES + 64;
    for (size_t i = 0; i < c->n; i++) bound += 6 * strlen(c->entries[i].name) + 64;
    uint64_t at = round_up(bound);
    w = jw_to(&index);
    jw_obj(&w);
    jw_key(&w, "weights");
    jw_arr(&w);
    for (size_t i = 0; i < c->n; i++) {
        c->offsets[i] = at;
        jw_arr(&w);
        jw_str(&w, c->entries[i].name);
        jw_i64(&w, (int64_t)at);
        jw_i64(&w, (int64_t)c->entries[i].bytes);
        jw_end_arr(&w);
        at = round_up(at + c->entries[i].bytes);
    }
    jw_end_arr(&w);
    jw_end_obj(&w);
    status st = buf_status(&index);
    if (st == ST_OK) {
        head h = { .version = VERSION, .index_bytes = index.len, .index_hash = hash64(index.data, index.len) };
        memcpy(h.magic, MAGIC, sizeof MAGIC);
        buf_append(&c->text, &h, sizeof h);
        buf_append(&c->text, index.data, index.len);
        st = buf_status(&c->text);
    }
    buf_free(&index);
    c->end = at;
    return st;
}

static status copy_entries(pack_cache *c, const pack_entry *entries, size_t n)
{
    c->entries = mem_calloc(n + 1, sizeof *c->entries);
    c->offsets = mem_calloc(n + 1, sizeof *c->offsets);
    if (!c->entries || !c->offsets) return err_nomem();
    for (size_t i = 0; i < n; i++) {
        c->entries[i] = entries[i];
        c->entries[i].name = mem_strdup(entries[i].name);
        if (!c->entries[i].name) return err_nomem();
        c->n++;
    }
    return ST_OK;
}

static status name_files(pack_cache *c, const char *dir, const char *key)
{
    buf b = {0};
    buf_printf(&b, "%s/%s.pack", dir, key);
    c->path = buf_take(&b);
    buf_printf(&b, "%s/%s.%ld.part", dir, key, (long)getpid());
    c->aside = buf_take(&b);
    return c->path && c->aside ? ST_OK : err_nomem();
}

static status check_disk(const char *dir, uint64_t bytes)
{
    struct statvfs v;
    if (statvfs(dir, &v) != 0) return err_set(ST_IO, "cannot look at %s: %s", dir, strerror(errno));
    uint64_t left = (uint64_t)v.f_bavail * v.f_frsize;
    if (left / 2 >= bytes) return ST_OK;
    return err_set(ST_LIMIT, "packed weights are not kept: %.1f GiB would leave less than as much on the disk of %s (%.1f GiB free)", (double)bytes / 1073741824, dir,
                   (double)left / 1073741824);
}

status pack_cache_write(const char *dir, const char *key, const pack_entry *entries, size_t n, int64_t max_folder_bytes, pack_cache **out)
{
    status made = dirs_make(dir);
    if (made != ST_OK) return err_wrap(made == ST_NOMEM ? made : ST_IO, "packed weights");
    pack_cache *c = mem_calloc(1, sizeof *c);
    if (!c) return err_nomem();
    status st = copy_entries(c, entries, n);
    if (st == ST_OK) st = name_files(c, dir, key);
    if (st == ST_OK) st = lay_out(c);
    if (st == ST_OK && max_folder_bytes > 0 && c->end > (uint64_t)max_folder_bytes)
        st = err_set(ST_LIMIT, "packed weights are not kept: %.1f GiB, the folder may have %.1f GiB", (double)c->end / 1073741824, (double)max_folder_bytes / 1073741824);
    if (st == ST_OK && max_folder_bytes > 0) make_room(dir, max_folder_bytes, (int64_t)c->end);
    if (st == ST_OK) st = check_disk(dir, c->end);
    if (st == ST_OK) st = thread_start(&c->thread, "pack-cache", writer, c);
    if (st == ST_OK) {
        c->started = true;
        *out = c;
    } else {
        pack_cache_close(c);
    }
    return st;
}

status pack_cache_finish(pack_cache *c)
{
    if (!c->started) return ST_OK;
    pthread_join(c->thread, NULL);
    c->started = false;
    return c->st == ST_OK ? ST_OK : err_set(c->st, "%s", c->error);
}

void pack_cache_close(pack_cache *c)
{
    if (!c) return;
    atomic_store(&c->stop, true);
    if (c->started) pthread_join(c->thread, NULL);
    if (c->map) munmap(c->map, c->map_bytes);
    jv_free(c->index);
    for (size_t i = 0; i < c->n; i++) mem_free((char *)(uintptr_t)c->entries[i].name);
    mem_free(c->entries);
    mem_free(c->offsets);
    mem_free(c->path);
    mem_free(c->aside);
    buf_free(&c->text);
    mem_free(c);
}
