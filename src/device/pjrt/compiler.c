#include "device/pjrt/compiler.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "device/pjrt/child.h"
#include "device/pjrt/internal.h"

struct pjrt_compiler {
    pthread_mutex_t lock;
    pthread_cond_t changed;         /* busy, closing or n_calls */
    bool busy;                      /* one caller is talking to the supervisor */
    bool closing;
    int n_calls;                    /* threads inside: closing waits for them */
    int fd;                         /* to the supervisor */
    pid_t supervisor, worker;
    int n_deaths;
    bool asked;                     /* a worker has been started for the topology there was */
    bool described;
    pjrt_target_info info;
    char *plugin, *topology, *options;
    buf topology_bytes;
    double limit_s;
};

static void compiler_free(pjrt_compiler *c)
{
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    mem_free(c->plugin);
    mem_free(c->topology);
    mem_free(c->options);
    buf_free(&c->topology_bytes);
    mem_free(c);
}

static status copy_options(pjrt_compiler *c, const pjrt_compiler_options *o)
{
    c->plugin = mem_strdup(o->plugin);
    c->options = mem_strdup(o->options ? o->options : "");
    if (!c->plugin || !c->options) return err_nomem();
    if (o->topology) {
        c->topology = mem_strdup(o->topology);
        if (!c->topology) return err_nomem();
    }
    buf_append(&c->topology_bytes, o->topology_bytes, o->topology_len);
    c->limit_s = o->limit_s > 0 ? o->limit_s : 3600;
    return buf_status(&c->topology_bytes);
}

status pjrt_compiler_open(const pjrt_compiler_options *o, pjrt_compiler **out)
{
    if (pj_any_loaded()) return err_set(ST_INVALID, "compiler for %s: it must be opened before any plugin is loaded in this process, which it forks", o->plugin);
    pjrt_compiler *c = mem_calloc(1, sizeof *c);
    if (!c) return err_nomem();
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    int pair[2] = { -1, -1 };
    status st = ST_OK;
    TRY_OUT(copy_options(c, o));
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        st = err_errno("compiler: socket");
        goto out;
    }
    c->supervisor = fork();
    if (c->supervisor == 0)
        pj_child_main(&(child_config){ c->plugin, c->topology, c->options, c->topology_bytes.data, c->topology_bytes.len, c->limit_s }, pair[1]);
    close(pair[1]);
    if (c->supervisor < 0) {
        st = err_errno("compiler: fork");
        close(pair[0]);
        goto out;
    }
    c->fd = pair[0];
    *out = c;
out:
    if (st != ST_OK) compiler_free(c);
    return st;
}

void pjrt_compiler_close(pjrt_compiler *c)
{
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->closing = true;
    shutdown(c->fd, SHUT_RDWR);     /* wakes who waits for an answer; the supervisor sees it and ends its worker */
    pthread_cond_broadcast(&c->changed);
    while (c->n_calls) pthread_cond_wait(&c->changed, &c->lock);
    pthread_mutex_unlock(&c->lock);
    close(c->fd);
    while (waitpid(c->supervisor, NULL, 0) < 0 && errno == EINTR) {}
    compiler_free(c);
}

/* ---- calls ---- */
static status closed(const char *what) { return err_set(ST_CANCELLED, "%s: cancelled, the compiler was closed", what); }

/* Between these two the compiler is not freed. They nest. */
static status enter(pjrt_compiler *c, const char *what)
{
    pthread_mutex_lock(&c->lock);
    bool open = !c->closing;
    if (open) c->n_calls++;
    pthread_mutex_unlock(&c->lock);
    return open ? ST_OK : closed(what);
}

static void leave(pjrt_compiler *c)
{
    pthread_mutex_lock(&c->lock);
    c->n_calls--;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

/* One request and its answer, in turn with other threads'; takes `file`. *result is the caller's on success. */
static status exchange(pjrt_compiler *c, packet_kind kind, int file, const char *what, int *result)
{
    packet p = { .kind = kind };
    int passed = -1;
    status st;
    pthread_mutex_lock(&c->lock);
    while (c->busy && !c->closing) pthread_cond_wait(&c->changed, &c->lock);
    bool ok = !c->closing;
    c->busy |= ok;
    pthread_mutex_unlock(&c->lock);
    bool turn = ok;
    ok = ok && pj_packet_send(c->fd, &p, file) && pj_packet_receive(c->fd, &p, &passed);
    if (file >= 0) close(file);
    pthread_mutex_lock(&c->lock);
    if (turn) c->busy = false;
    if (ok) c->worker = p.kind == P_DIED ? 0 : p.worker;
    if (!ok) st = c->closing ? closed(what) : err_set(ST_INTERNAL, "%s: the compiler process is gone", what);
    else if (p.kind == P_DIED) c->n_deaths++, st = err_set(ST_INTERNAL, "%s: %s", what, p.text);
    else st = p.st == ST_OK ? ST_OK : err_set(p.st, "%s", p.text);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (st == ST_OK) *result = passed;
    else if (passed >= 0) close(passed);
    return st;
}

static status ask(pjrt_compiler *c, packet_kind kind, int file, const char *what, int *result)
{
    status st = enter(c, what);
    if (st != ST_OK) {
        if (file >= 0) close(file);
        return st;
    }
    st = exchange(c, kind, file, what, result);
    leave(c);
    return st;
}

/* ---- for which devices ---- */
status pjrt_compiler_set_topology(pjrt_compiler *c, const void *bytes, size_t len)
{
    if (!len) return err_set(ST_INVALID, "compiler for %s: the topology is empty", c->plugin);
    pthread_mutex_lock(&c->lock);
    bool known = c->topology || c->topology_bytes.len || c->asked;
    if (!known) c->asked = true;    /* once, whatever comes of it */
    pthread_mutex_unlock(&c->lock);
    if (known) return err_set(ST_INVALID, "compiler for %s: a topology is set once, before the first program", c->plugin);
    union { const void *in; void *out; } data = { .in = bytes };
    int file, none = -1;
    TRY(pj_file_make(&(struct iovec){ data.out, len }, 1, &file));
    TRY(ask(c, P_TOPOLOGY, file, c->plugin, &none));
    if (none >= 0) close(none);
    return ST_OK;
}

status pjrt_compiler_set_client(pjrt_compiler *c, const pjrt_client *client)
{
    buf bytes = {0};
    pjrt_target_info info;
    TRY(pjrt_client_target(client, &info));
    status st = pjrt_client_topology(client, &bytes);
    if (st == ST_OK) st = pjrt_compiler_set_topology(c, bytes.data, bytes.len);
    else if (st == ST_UNSUPPORTED) st = ST_OK;      /* the worker opens a client like it */
    buf_free(&bytes);
    if (st != ST_OK) return st;
    pthread_mutex_lock(&c->lock);
    c->info = info;
    c->described = true;
    pthread_mutex_unlock(&c->lock);
    return ST_OK;
}

/* Marks that a worker may start now; *out is what is known of the target. */
static bool target_known(pjrt_compiler *c, pjrt_target_info *out)
{
    pthread_mutex_lock(&c->lock);
    bool known = c->described;
    if (known) *out = c->info;
    else c->asked = true;
    pthread_mutex_unlock(&c->lock);
    return known;
}

status pjrt_compiler_describe(pjrt_compiler *c, pjrt_target_info *out)
{
    if (target_known(c, out)) return ST_OK;
    int result;
    const char *data;
    size_t len;
    status st = enter(c, c->plugin);
    if (st != ST_OK) return st;
    result_head head;
    TRY_OUT(exchange(c, P_DESCRIBE, -1, c->plugin, &result));
    TRY_OUT(pj_file_map(result, &data, &len));
    memcpy(&head, data, sizeof head);
    pj_file_unmap(data, len);
    pthread_mutex_lock(&c->lock);
    c->info = *out = head.info;
    c->described = true;
    pthread_mutex_unlock(&c->lock);
out:
    leave(c);
    return st;
}

/* ---- compiling ---- */
status pjrt_compiler_run(pjrt_compiler *c, const pjrt_source *src, const pjrt_compile_options *o, buf *executable, pjrt_stats *stats)
{
    buf options = {0};
    int file = -1, result = -1;
    status st = pjrt_options_encode(o, &options);
    if (st == ST_OK) {
        request_head head = { strlen(src->name) + 1, options.len, src->len };
        union { const char *in; void *out; } name = { .in = src->name }, code = { .in = src->code };
        struct iovec parts[] = { { &head, sizeof head }, { name.out, head.name_len }, { options.data, options.len }, { code.out, src->len } };
        st = pj_file_make(parts, 4, &file);
    }
    buf_free(&options);
    if (st != ST_OK) return st;
    char what[200];
    snprintf(what, sizeof what, "compile %s", src->name);
    pthread_mutex_lock(&c->lock);
    c->asked = true;
    pthread_mutex_unlock(&c->lock);
    TRY(ask(c, P_COMPILE, file, what, &result));
    const char *data;
    size_t len;
    TRY(pj_file_map(result, &data, &len));
    result_head head;
    memcpy(&head, data, sizeof head);
    buf_append(executable, data + sizeof head, head.executable_len);
    pj_file_unmap(data, len);
    st = buf_status(executable);
    if (st == ST_OK && stats) *stats = head.stats;
    return st;
}

static status cache_key(pjrt_compiler *c, const pjrt_source *src, const pjrt_compile_options *o, char key[PJRT_KEY_LEN])
{
    pjrt_target_info info;
    TRY(pjrt_compiler_describe(c, &info));
    return pjrt_cache_key(&(pjrt_key){ info.platform, info.version, info.topology, src->code, src->len, o }, key);
}

static status get(pjrt_compiler *c, const pjrt_cache *cache, const pjrt_source *src, const pjrt_compile_options *o, buf *executable, pjrt_stats *stats, bool *cached)
{
    char key[PJRT_KEY_LEN];
    size_t before = executable->len;
    *cached = false;
    if (cache) {
        TRY(cache_key(c, src, o, key));
        TRY(pjrt_cache_get(cache, key, executable, stats, cached));
    }
    if (*cached) return ST_OK;
    TRY(pjrt_compiler_run(c, src, o, executable, stats));
    /* A full disk costs the next start some time, not this one its program. */
    status st = cache ? pjrt_cache_put(cache, key, executable->data + before, executable->len - before, stats) : ST_OK;
    if (st == ST_NOMEM) return st;
    if (st != ST_OK) log_warn("%s is not cached: %s", src->name, err_msg());
    return ST_OK;
}

status pjrt_compiler_get(pjrt_compiler *c, const pjrt_cache *cache, const pjrt_source *src, const pjrt_compile_options *o,
                         buf *executable, pjrt_stats *stats, bool *cached)
{
    pjrt_stats s;
    bool found;
    TRY(enter(c, src->name));
    status st = get(c, cache, src, o, executable, &s, &found);
    leave(c);
    if (st != ST_OK) return st;
    if (stats) *stats = s;
    if (cached) *cached = found;
    return ST_OK;
}

int pjrt_compiler_n_deaths(pjrt_compiler *c)
{
    pthread_mutex_lock(&c->lock);
    int n = c->n_deaths;
    pthread_mutex_unlock(&c->lock);
    return n;
}

pid_t pjrt_compiler_worker(pjrt_compiler *c)
{
    pthread_mutex_lock(&c->lock);
    pid_t p = c->worker;
    pthread_mutex_unlock(&c->lock);
    return p;
}
