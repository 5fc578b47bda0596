#include "load/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/map.h"
#include "base/mem.h"
#include "load/st_header.h"

enum { HEADER_MAX = 100 * 1000 * 1000, INDEX_MAX = 256 << 20, SHARDS_MAX = 10000 };
static const char SINGLE[] = "model.safetensors";
static const char INDEX[] = "model.safetensors.index.json";

typedef struct st_file {
    char *path;
    const char *map;   /* NULL until mapped */
    size_t bytes;
} st_file;

struct st_set {
    st_file *files;
    int n_files, cap_files;
    st_tensor *tensors;
    size_t n, cap;
    map index;         /* name -> position in tensors */
    arena names;
    size_t total_bytes;
};

/* The tensors of one file while its header is being read. */
typedef struct reader { st_set *set; const char *data; size_t data_bytes; } reader;

enum { SAMPLES = 64, SAMPLE_BYTES = 4096 };

status st_identity(const st_set *s, buf *out)
{
    for (int i = 0; i < s->n_files; i++) {
        const st_file *f = &s->files[i];
        struct stat st;
        uint64_t header = 0;
        if (!f->map || stat(f->path, &st) != 0) return err_set(ST_IO, "%s: %s", f->path, strerror(errno));
        memcpy(&header, f->map, sizeof header);
        if (header > f->bytes - sizeof header) header = f->bytes - sizeof header;
        const int64_t facts[] = { (int64_t)f->bytes, (int64_t)st.st_mtim.tv_sec, (int64_t)st.st_mtim.tv_nsec, (int64_t)hash64(f->map, sizeof header + header) };
        buf_append(out, facts, sizeof facts);
        for (size_t k = 0; k < SAMPLES && f->bytes > SAMPLE_BYTES; k++) {
            const uint64_t h = hash64((const char *)f->map + (f->bytes - SAMPLE_BYTES) / SAMPLES * k, SAMPLE_BYTES);
            buf_append(out, &h, sizeof h);
        }
    }
    return buf_status(out);
}

void st_close(st_set *s)
{
    if (!s) return;
    for (int i = 0; i < s->n_files; i++) {
        if (s->files[i].map) munmap((void *)(uintptr_t)s->files[i].map, s->files[i].bytes);
        mem_free(s->files[i].path);
    }
    mem_free(s->files);
    mem_free(s->tensors);
    map_free(&s->index);
    arena_free(&s->names);
    mem_free(s);
}

static status set_new(st_set **out)
{
    *out = mem_calloc(1, sizeof **out);
    return *out ? ST_OK : err_nomem();
}

/* Appends a file that is not mapped yet. */
static status add_file(st_set *s, const char *dir, const char *name)
{
    if (s->n_files == s->cap_files) {
        int cap = s->cap_files ? s->cap_files * 2 : 4;
        st_file *grown = mem_realloc_array(s->files, (size_t)cap, sizeof *grown);
        if (!grown) return err_nomem();
        s->files = grown;
        s->cap_files = cap;
    }
    buf path = {0};
    if (dir) buf_printf(&path, "%s/%s", dir, name);
    else buf_str(&path, name);
    char *p = buf_take(&path);
    if (!p) return err_nomem();
    s->files[s->n_files++] = (st_file){ .path = p };
    return ST_OK;
}

static status add_tensor(void *arg, const st_entry *e)
{
    reader *r = arg;
    st_set *s = r->set;
    char shown[ST_SHOWN_CAP];
    if (e->end > r->data_bytes)
        return err_set(ST_INVALID, "tensor %s ends at byte %llu of the data, but the file has only %zu: it is truncated or damaged",
                       st_shown(e->name, shown), (unsigned long long)e->end, r->data_bytes);
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 256;
        st_tensor *grown = mem_realloc_array(s->tensors, cap, sizeof *grown);
        if (!grown) return err_nomem();
        s->tensors = grown;
        s->cap = cap;
    }
    st_tensor *t = &s->tensors[s->n++];
    *t = (st_tensor){ .name = e->name, .type = e->type, .rank = e->rank, .data = r->data + e->begin,
                      .bytes = (size_t)(e->end - e->begin) }; /* its file: enter_names */
    memcpy(t->shape, e->shape, sizeof t->shape);
    return ST_OK;
}

static int by_place(const void *pa, const void *pb)
{
    const st_tensor *a = pa, *b = pb;
    uintptr_t x = (uintptr_t)a->data, y = (uintptr_t)b->data;
    if (x != y) return x < y ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes; /* empty ones before the one that starts at the same byte */
}

/* The tensors from `first` on must cover the data area exactly once. Sorts them. */
static status check_cover(st_set *s, size_t first, const reader *r)
{
    char shown[ST_SHOWN_CAP];
    if (s->n > first) qsort(s->tensors + first, s->n - first, sizeof *s->tensors, by_place);
    const char *at = r->data;
    for (size_t i = first; i < s->n; i++) {
        const st_tensor *t = &s->tensors[i];
        if (t->data != at)
            return err_set(ST_INVALID, "tensor %s starts at byte %zu of the data where %zu was expected: tensors %s", st_shown(t->name, shown),
                           (size_t)((const char *)t->data - r->data), (size_t)(at - r->data), (const char *)t->data < at ? "overlap" : "leave a hole");
        at += t->bytes;
    }
    size_t used = (size_t)(at - r->data);
    if (used != r->data_bytes) return err_set(ST_INVALID, "the tensors end at byte %zu of the data, but the file has %zu", used, r->data_bytes);
    return ST_OK;
}

/* Names the tensors of file `f` from `first` on. With an index (`owner`: name -> file) a tensor that belongs to another
 * shard is dropped, and any other name may appear only once. */
static status enter_names(st_set *s, size_t first, int f, const map *owner)
{
    char shown[ST_SHOWN_CAP];
    size_t kept = first;
    for (size_t i = first; i < s->n; i++) {
        st_tensor t = s->tensors[i];
        size_t len = strlen(t.name);
        int64_t home = f, other;
        if (owner && map_get(owner, t.name, len, &home) && home != f) continue;
        if (map_get(&s->index, t.name, len, &other)) {
            int of = s->tensors[other].file;
            if (of == f) return err_set(ST_INVALID, "tensor %s appears twice", st_shown(t.name, shown));
            return err_set(ST_INVALID, "tensor %s is also in %s", st_shown(t.name, shown), s->files[of].path);
        }
        TRY(map_put(&s->index, t.name, len, (int64_t)kept));
        t.file = f;
        s->tensors[kept++] = t;
        s->total_bytes += t.bytes;
    }
    s->n = kept;
    return ST_OK;
}

static status read_at(int fd, void *dst, size_t n, off_t at)
{
    for (char *p = dst; n > 0;) {
        ssize_t got = pread(fd, p, n, at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return err_errno("cannot read the header");
        if (got == 0) return err_set(ST_INVALID, "the file shrank while it was read");
        p += got;
        at += got;
        n -= (size_t)got;
    }
    return ST_OK;
}

/* The length of the JSON header, checked against the limits. */
static status header_length(int fd, size_t file_bytes, size_t *out)
{
    uint8_t b[8];
    if (file_bytes < sizeof b) return err_set(ST_INVALID, "%zu bytes are too few for a safetensors file: it is truncated", file_bytes);
    TRY(read_at(fd, b, sizeof b, 0));
    if (memcmp(b, "version ", 8) == 0) return err_set(ST_INVALID, "this is a git-lfs pointer, not the weights: run `git lfs pull`");
    uint64_t len = 0;
    for (int i = 7; i >= 0; i--) len = len << 8 | b[i];
    if (len > HEADER_MAX) return err_set(ST_LIMIT, "the header claims %llu bytes, more than the limit of %d: not a safetensors file, or a damaged one", (unsigned long long)len, (int)HEADER_MAX);
    if (len > file_bytes - sizeof b)
        return err_set(ST_INVALID, "the header claims %llu bytes but the file has only %zu: it is truncated or damaged", (unsigned long long)len, file_bytes);
    *out = (size_t)len;
    return ST_OK;
}

/* The header is read, not parsed from the mapping: a parser must not meet SIGBUS. */
static status load_fd(st_set *s, int f, int fd, const map *owner)
{
    struct stat sb;
    size_t header = 0, first = s->n;
    st_file *file = &s->files[f];
    if (fstat(fd, &sb) != 0) return err_errno("cannot examine it");
    if (!S_ISREG(sb.st_mode)) return err_set(ST_INVALID, "not a regular file");
    if ((uint64_t)sb.st_size > SIZE_MAX) return err_set(ST_LIMIT, "too large for this machine's addresses");
    TRY(header_length(fd, (size_t)sb.st_size, &header));
    char *text = mem_alloc(header);
    if (!text) return err_nomem();
    status st = ST_OK;
    TRY_OUT(read_at(fd, text, header, 8));
    void *map_at = mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map_at == MAP_FAILED) {
        st = err_errno("cannot map %lld bytes", (long long)sb.st_size);
        goto out;
    }
    file->map = map_at;
    file->bytes = (size_t)sb.st_size;
    reader r = { .set = s, .data = file->map + 8 + header, .data_bytes = file->bytes - 8 - header };
    TRY_OUT(st_header_parse(text, header, &s->names, add_tensor, &r));
    TRY_OUT(check_cover(s, first, &r));
    st = enter_names(s, first, f, owner);
out:
    mem_free(text);
    return st;
}

static status load_file(st_set *s, int f, const map *owner)
{
    const char *path = s->files[f].path;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    if (fd < 0) return err_errno("cannot open %s", path);
    status st = load_fd(s, f, fd, owner);
    close(fd);
    return st == ST_OK || st == ST_NOMEM ? st : err_wrap(st, "%s", path);
}

status st_open_file(const char *path, st_set **out)
{
    st_set *s;
    TRY(set_new(&s));
    status st = ST_OK;
    TRY_OUT(add_file(s, NULL, path));
    TRY_OUT(load_file(s, 0, NULL));
    *out = s;
    s = NULL;
out:
    st_close(s);
    return st;
}

static int by_path(const void *a, const void *b) { return strcmp(((const st_file *)a)->path, ((const st_file *)b)->path); }

/* A shard's name must be a plain file name: the index is untrusted. */
static bool plain_name(const char *name, size_t len)
{
    return len > 0 && strlen(name) == len && name[0] != '.' && !strchr(name, '/');
}

/* Fills the files (sorted) and `owner` from the index's weight_map. */
static status read_index(st_set *s, const char *dir, const jv *weight_map, map *owner)
{
    char shown[ST_SHOWN_CAP];
    map shards = {0};
    status st = ST_OK;
    for (jv_iter it = jv_begin(weight_map); jv_next(&it);) {
        const char *shard = jv_str(it.val, "");
        if (!plain_name(shard, jv_len(it.val))) {
            st = err_set(ST_INVALID, "weight_map: tensor %s must name a file in the same folder", st_shown(it.key, shown));
            goto out;
        }
        if (map_get(&shards, shard, strlen(shard), NULL)) continue;
        if (s->n_files == SHARDS_MAX) {
            st = err_set(ST_LIMIT, "weight_map names more than %d files", (int)SHARDS_MAX);
            goto out;
        }
        TRY_OUT(map_put(&shards, shard, strlen(shard), 0));
        TRY_OUT(add_file(s, dir, shard));
    }
    qsort(s->files, (size_t)s->n_files, sizeof *s->files, by_path);
    for (int f = 0; f < s->n_files; f++) {
        const char *shard = s->files[f].path + strlen(dir) + 1;
        TRY_OUT(map_put(&shards, shard, strlen(shard), f));
    }
    for (jv_iter it = jv_begin(weight_map); jv_next(&it);) {
        int64_t f = 0;
        map_get(&shards, jv_str(it.val, ""), jv_len(it.val), &f);
        TRY_OUT(map_put(owner, it.key, it.key_len, f));
    }
out:
    map_free(&shards);
    return st;
}

/* Every tensor that the index lists must be where it says. */
static status check_index(const st_set *s, const jv *weight_map)
{
    char shown[ST_SHOWN_CAP];
    for (jv_iter it = jv_begin(weight_map); jv_next(&it);)
        if (!st_find(s, it.key))
            return err_set(ST_INVALID, "weight_map: tensor %s should be in %s, which does not hold it", st_shown(it.key, shown), jv_str(it.val, "?"));
    return ST_OK;
}

static status open_index(st_set *s, const char *dir, const char *index_path)
{
    jv *index = NULL;
    map owner = {0};
    status st = ST_OK;
    TRY_OUT(jv_parse_file(index_path, INDEX_MAX, &index));
    const jv *weight_map = jv_get(index, "weight_map");
    if (!jv_is(weight_map, JV_OBJ) || jv_len(weight_map) == 0) {
        st = err_set(ST_INVALID, "%s: weight_map must be an object from tensor names to files", index_path);
        goto out;
    }
    st = read_index(s, dir, weight_map, &owner);
    if (st != ST_OK) {
        st = st == ST_NOMEM ? st : err_wrap(st, "%s", index_path);
        goto out;
    }
    for (int f = 0; f < s->n_files; f++) {
        st = load_file(s, f, &owner);
        if (st == ST_NOT_FOUND) st = err_wrap(st, "a shard that %s names", INDEX);
        if (st != ST_OK) goto out;
    }
    st = check_index(s, weight_map);
    if (st != ST_OK) st = err_wrap(st, "%s", index_path);
out:
    map_free(&owner);
    jv_free(index);
    return st;
}

static bool has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n > m && strcmp(s + n - m, suffix) == 0;
}

/* Adds every *.safetensors of DIR, sorted. Vendors' own "consolidated" copies repeat the same weights under other
 * names and count only when there is nothing else. *other becomes a file of another weight format, if one is there. */
static status list_dir(st_set *s, const char *dir, char *other, size_t other_cap)
{
    DIR *d = opendir(dir);
    if (!d) return err_errno("cannot open the folder %s", dir);
    status st = ST_OK;
    int n_main = 0;
    const struct dirent *e;
    *other = 0;
    while ((e = readdir(d))) {
        if (has_suffix(e->d_name, ".bin") || has_suffix(e->d_name, ".gguf") || has_suffix(e->d_name, ".pt") || has_suffix(e->d_name, ".pth")) {
            size_t n = strlen(e->d_name);
            if (n < other_cap) memcpy(other, e->d_name, n + 1);
        }
        if (e->d_name[0] == '.' || !has_suffix(e->d_name, ".safetensors")) continue;
        if (s->n_files == SHARDS_MAX) {
            st = err_set(ST_LIMIT, "%s holds more than %d safetensors files", dir, (int)SHARDS_MAX);
            goto out;
        }
        TRY_OUT(add_file(s, dir, e->d_name));
        n_main += strncmp(e->d_name, "consolidated", 12) != 0;
    }
    int kept = 0;
    for (int i = 0; i < s->n_files; i++) {
        if (n_main && strncmp(s->files[i].path + strlen(dir) + 1, "consolidated", 12) == 0) mem_free(s->files[i].path);
        else s->files[kept++] = s->files[i];
    }
    s->n_files = kept;
    if (kept) qsort(s->files, (size_t)kept, sizeof *s->files, by_path);
out:
    closedir(d);
    return st;
}

static status open_listed(st_set *s, const char *dir)
{
    char other[256];
    TRY(list_dir(s, dir, other, sizeof other));
    if (s->n_files == 0 && *other)
        return err_set(ST_UNSUPPORTED, "%s has no *.safetensors; %s is not read: convert it to safetensors", dir, other);
    if (s->n_files == 0) return err_set(ST_NOT_FOUND, "%s has no weights: expected %s, %s or *.safetensors", dir, SINGLE, INDEX);
    for (int f = 0; f < s->n_files; f++) TRY(load_file(s, f, NULL));
    return ST_OK;
}

static status open_dir(st_set *s, const char *dir)
{
    buf single = {0}, index = {0};
    status st = ST_OK;
    struct stat sb;
    buf_printf(&single, "%s/%s", dir, SINGLE);
    buf_printf(&index, "%s/%s", dir, INDEX);
    TRY_OUT(buf_status(&single));
    TRY_OUT(buf_status(&index));
    /* lstat: a dangling link (a half-filled hub cache) must be reported, not passed over */
    if (lstat(single.data, &sb) == 0) {
        TRY_OUT(add_file(s, dir, SINGLE));
        st = load_file(s, 0, NULL);
    } else if (lstat(index.data, &sb) == 0) {
        st = open_index(s, dir, index.data);
    } else {
        st = open_listed(s, dir);
    }
out:
    buf_free(&single);
    buf_free(&index);
    return st;
}

status st_open_dir(const char *dir, st_set **out)
{
    st_set *s;
    TRY(set_new(&s));
    status st = open_dir(s, dir);
    if (st != ST_OK) {
        st_close(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

const st_tensor *st_find(const st_set *s, const char *name)
{
    int64_t i;
    return map_get(&s->index, name, strlen(name), &i) ? &s->tensors[i] : NULL;
}

size_t st_count(const st_set *s) { return s->n; }
const st_tensor *st_get(const st_set *s, size_t i) { return &s->tensors[i]; }
const char *st_path(const st_set *s, int file) { return s->files[file].path; }
size_t st_total_bytes(const st_set *s) { return s->total_bytes; }

void st_drop(const void *data, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)data + page - 1) / page * page;
    uintptr_t to = ((uintptr_t)data + bytes) / page * page;
    /* Clean private pages: dropping them loses nothing, a later read faults them in again. So a failure is harmless. */
    if (to > from) (void)madvise((void *)from, to - from, MADV_DONTNEED);
}

void st_release(const st_set *s, const st_tensor *t)
{
    (void)s;
    st_drop(t->data, t->bytes);
}
