#include "load/hub_part.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { CHUNK = 1 << 16 };

/* Keeps the thread's message, which fetch_run is about to replace. */
static bool fail(hub_part *p, status st)
{
    p->failed = st;
    err_copy(p->why, sizeof p->why);
    return false;
}

static status new_hash(hub_part *p)
{
    sha256_close(p->hash, NULL);
    p->hash = NULL;
    return p->meta->is_sha256 ? sha256_open(&p->hash) : ST_OK;
}

status hub_part_restart(hub_part *p)
{
    p->wrong = false;
    p->failed = ST_OK;
    p->have = 0;
    TRY(new_hash(p));
    if (ftruncate(p->fd, 0) != 0 || lseek(p->fd, 0, SEEK_SET) < 0) return err_errno("cannot empty %s", p->path);
    progress_set(&p->bar, 0);
    return ST_OK;
}

/* Hashes what an earlier run left and puts the file position behind it. */
static status take_existing(hub_part *p)
{
    static _Thread_local char chunk[CHUNK];
    struct stat sb;
    TRY(new_hash(p));
    if (fstat(p->fd, &sb) != 0) return err_errno("cannot examine %s", p->path);
    if (p->meta->size >= 0 && sb.st_size > p->meta->size) return hub_part_restart(p);
    while (p->have < sb.st_size) {
        ssize_t got = read(p->fd, chunk, sizeof chunk);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return err_errno("cannot read %s", p->path);
        if (p->hash) sha256_update(p->hash, chunk, (size_t)got);
        p->have += got;
    }
    return ST_OK;
}

static status check_room(const hub_part *p, const char *name)
{
    struct statvfs v;
    if (p->meta->size < 0 || fstatvfs(p->fd, &v) != 0) return ST_OK; /* writing will tell */
    uint64_t free_bytes = (uint64_t)v.f_bavail * v.f_frsize, need = (uint64_t)(p->meta->size - p->have);
    char a[16], b[16];
    if (free_bytes >= need || free_bytes == 0) return ST_OK; /* 0: some filesystems do not know */
    return err_set(ST_IO, "no space for %s: it needs %s and the disk of %s has %s free (HF_HOME or --download-dir choose another)", name,
                   progress_bytes((int64_t)need, a), p->path, progress_bytes((int64_t)free_bytes, b));
}

status hub_part_open(const char *path, const char *name, const hub_meta *m, bool show, hub_part *out)
{
    hub_part p = { .path = path, .meta = m };
    p.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (p.fd < 0) return err_errno("cannot create %s", path);
    status st = take_existing(&p);
    if (st == ST_OK) st = check_room(&p, name);
    if (st != ST_OK) {
        sha256_close(p.hash, NULL);
        close(p.fd);
        if (p.have == 0) unlink(path);
        return st;
    }
    progress_start(&p.bar, name, m->size, show);
    progress_set(&p.bar, p.have);
    *out = p;
    return ST_OK;
}

bool hub_part_head(hub_part *p, const fetch_response *r)
{
    int64_t size = p->meta->size, total = -1, from = 0;
    char range[96];
    if (r->code != 200 && r->code != 206) return true; /* an error: its body is wanted for the message */
    if (r->code == 206) {
        long long a, b, c;
        if (!fetch_header(r, "Content-Range", range, sizeof range) || sscanf(range, "bytes %lld-%lld/%lld", &a, &b, &c) != 3 || a != p->have)
            return p->wrong = true, fail(p, err_set(ST_IO, "the server did not send the part from byte %lld that was asked for", (long long)p->have));
        from = a;
        total = c;
    } else {
        total = r->content_length;
        if (p->have > 0) { /* it cannot resume */
            status st = hub_part_restart(p);
            if (st != ST_OK) return fail(p, st);
        }
    }
    if (size >= 0 && total >= 0 && total != size)
        return p->wrong = true, fail(p, err_set(ST_IO, "wrong length: the hub lists %lld bytes, the server sends %lld", (long long)size, (long long)total));
    if (size >= 0 && r->content_length >= 0 && from + r->content_length > size)
        return p->wrong = true, fail(p, err_set(ST_IO, "wrong length: the server sends more than the %lld bytes listed", (long long)size));
    return true;
}

bool hub_part_data(hub_part *p, const void *data, size_t n)
{
    const char *from = data;
    if (p->meta->size >= 0 && (uint64_t)p->have + n > (uint64_t)p->meta->size)
        return p->wrong = true, fail(p, err_set(ST_IO, "wrong length: the server sends more than the %lld bytes listed", (long long)p->meta->size));
    while (n > 0) {
        ssize_t put = write(p->fd, from, n);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return fail(p, err_errno("cannot write %s", p->path));
        if (p->hash) sha256_update(p->hash, from, (size_t)put);
        from += put;
        n -= (size_t)put;
        p->have += put;
    }
    progress_set(&p->bar, p->have);
    return true;
}

status hub_part_check(hub_part *p)
{
    uint8_t digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    if (p->meta->size >= 0 && p->have != p->meta->size)
        return err_set(ST_IO, "the connection ended with %lld of %lld bytes", (long long)p->have, (long long)p->meta->size);
    if (!p->hash) return ST_OK;
    sha256_close(p->hash, digest);
    p->hash = NULL;
    hash_hex(digest, sizeof digest, hex);
    if (strcmp(hex, p->meta->etag) == 0) return ST_OK;
    p->wrong = true;
    return err_set(ST_IO, "wrong contents: the SHA-256 is %.16s..., the hub lists %.16s...", hex, p->meta->etag);
}

void hub_part_close(hub_part *p, bool ok)
{
    progress_end(&p->bar, ok);
    sha256_close(p->hash, NULL);
    close(p->fd);
    if (!ok && (p->wrong || p->have == 0)) unlink(p->path);
}
