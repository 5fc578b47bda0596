#include "device/pjrt/compiler.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "device/pjrt/internal.h"

/* One packet: this and, with requests and results, a memory file. Packets are atomic, so there are no half messages. */
typedef enum packet_kind { P_DESCRIBE, P_COMPILE, P_STARTED, P_RESULT, P_DIED } packet_kind;
typedef struct packet {
    packet_kind kind;
    status st;                      /* P_RESULT */
    pid_t worker;                   /* P_RESULT, P_DIED: whose */
    char text[900];                 /* P_RESULT: message of a failure; P_DIED: how and its last words */
} packet;

/* The memory file of a request: head, name, encoded options, code. Of a result: head, executable. */
typedef struct request_head { size_t name_len, options_len, code_len; } request_head;
typedef struct result_head { pjrt_stats stats; pjrt_target_info info; size_t executable_len; } result_head;

struct pjrt_compiler {
    pthread_mutex_t lock;
    int fd;                         /* to the supervisor */
    pid_t supervisor, worker;
    int n_deaths;
    bool described;
    pjrt_target_info info;
    char *plugin, *topology, *options;
    buf topology_bytes;
    double limit_s;
};

/* ---- packets ---- */
/* pass: a descriptor to send along, or -1. False if the other side is gone. */
static bool packet_send(int fd, const packet *p, int pass)
{
    union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
    memset(&control, 0, sizeof control);
    struct iovec iov = { (void *)(uintptr_t)p, sizeof *p };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (pass >= 0) {
        m.msg_control = control.space;
        m.msg_controllen = sizeof control.space;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &pass, sizeof pass);
    }
    ssize_t n;
    do n = sendmsg(fd, &m, MSG_NOSIGNAL); while (n < 0 && errno == EINTR);
    return n == (ssize_t)sizeof *p;
}

/* *passed: the descriptor that came along, the receiver's, or -1. False at the end. */
static bool packet_receive(int fd, packet *p, int *passed)
{
    union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control;
    struct iovec iov = { p, sizeof *p };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space };
    ssize_t n;
    do n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC); while (n < 0 && errno == EINTR);
    *passed = -1;
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) memcpy(passed, CMSG_DATA(c), sizeof *passed);
    if (n == (ssize_t)sizeof *p) return true;
    if (*passed >= 0) close(*passed);
    *passed = -1;
    return false;
}

/* ---- memory files ---- */
static status file_make(const struct iovec *parts, int n, int *out)
{
    int fd = memfd_create("systolic-program", MFD_CLOEXEC);
    if (fd < 0) return err_errno("compiler: memory file");
    for (int i = 0; i < n; i++) {
        const char *p = parts[i].iov_base;
        for (size_t left = parts[i].iov_len; left;) {
            ssize_t w = write(fd, p, left);
            if (w < 0 && errno == EINTR) continue;
            if (w <= 0) {
                status st = err_errno("compiler: write a memory file");
                close(fd);
                return st;
            }
            p += w;
            left -= (size_t)w;
        }
    }
    *out = fd;
    return ST_OK;
}

/* Maps the file for reading and closes the descriptor. */
static status file_map(int fd, const char **data, size_t *len)
{
    struct stat sb;
    void *p = fd >= 0 && fstat(fd, &sb) == 0 && sb.st_size > 0 ? mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    if (fd >= 0) close(fd);
    if (p == MAP_FAILED) return err_set(ST_INTERNAL, "compiler: a message between the processes is empty");
    *data = p;
    *len = (size_t)sb.st_size;
    return ST_OK;
}

static void file_unmap(const char *data, size_t len)
{
    union { const char *in; void *map; } u = { .in = data };
    munmap(u.map, len);
}

/* ---- the worker ---- */
typedef struct worker {
    const pjrt_compiler *c;         /* the configuration, as it was at the fork */
    status opened;                  /* ST_OK, or why there is nothing to compile for */
    char why[900];
    pjrt_plugin *plugin;
    pjrt_topology *topology;
    pjrt_client *client;            /* when no topology was asked for */
} worker;

static status worker_open(worker *w)
{
    const pjrt_compiler *c = w->c;
    pjrt_values values = {0};
    bool offline = c->topology || c->topology_bytes.len;
    if (offline) {
        setenv("TPU_SKIP_MDS_QUERY", "1", 1);       /* this process needs no TPU, wherever it is */
        setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1", 1);
    }
    TRY(pjrt_values_parse(c->options, &values));
    status st = pjrt_plugin_open(c->plugin, offline, &w->plugin);
    if (st == ST_OK) {
        if (c->topology) st = pjrt_topology_open(w->plugin, c->topology, values.v, values.n, &w->topology);
        else if (c->topology_bytes.len) st = pjrt_topology_read(w->plugin, c->topology_bytes.data, c->topology_bytes.len, &w->topology);
        else st = pjrt_client_open(w->plugin, values.v, values.n, &w->client);
    }
    pjrt_values_free(&values);
    return st;
}

static status worker_describe(worker *w, pjrt_target_info *out)
{
    pjrt_plugin_info plugin;
    pjrt_plugin_describe(w->plugin, &plugin);
    out->api_minor = plugin.api_minor;
    snprintf(out->platform, sizeof out->platform, "%s", w->topology ? pjrt_topology_platform(w->topology) : pjrt_client_platform(w->client));
    snprintf(out->version, sizeof out->version, "%s", w->topology ? pjrt_topology_version(w->topology) : pjrt_client_version(w->client));
    out->n_devices = w->topology ? pjrt_topology_n_devices(w->topology) : pjrt_client_n_devices(w->client);
    if (!out->n_devices) return ST_OK;
    return w->topology ? pjrt_topology_device(w->topology, 0, &out->device) : pjrt_client_device(w->client, 0, &out->device);
}

static status worker_compile(worker *w, int file, result_head *head, buf *executable)
{
    const char *data;
    size_t len;
    TRY(file_map(file, &data, &len));
    request_head r;
    status st = ST_OK;
    if (len < sizeof r) st = err_set(ST_INTERNAL, "compiler: a request of %zu bytes", len);
    if (st == ST_OK) {
        memcpy(&r, data, sizeof r);
        const char *name = data + sizeof r, *options = name + r.name_len, *code = options + r.options_len;
        st = pj_compile_encoded(w->topology, w->client, &(pjrt_source){ name, code, r.code_len }, options, r.options_len, executable, &head->stats);
    }
    file_unmap(data, len);
    head->executable_len = executable->len;
    return st;
}

/* Serves requests until the supervisor goes. What the plugin prints goes to `prints`. */
static void worker_run(const pjrt_compiler *c, int fd, int prints)
{
    worker w = { .c = c };
    bool tried = false;
    dup2(prints, 1);
    dup2(prints, 2);
    for (;;) {
        packet p;
        int file;
        if (!packet_receive(fd, &p, &file)) return;
        if (!packet_send(fd, &(packet){ .kind = P_STARTED }, -1)) return;
        if (!tried) {
            w.opened = worker_open(&w);
            err_copy(w.why, sizeof w.why);
            tried = true;
        }
        buf executable = {0};
        result_head head;
        memset(&head, 0, sizeof head);
        status st = w.opened;
        if (st != ST_OK) err_set(st, "%s", w.why);
        else st = p.kind == P_DESCRIBE ? worker_describe(&w, &head.info) : worker_compile(&w, file, &head, &executable);
        if (file >= 0 && (p.kind == P_DESCRIBE || w.opened != ST_OK)) close(file);
        int result = -1;
        if (st == ST_OK) {
            struct iovec parts[] = { { &head, sizeof head }, { executable.data, executable.len } };
            st = file_make(parts, 2, &result);
        }
        packet answer = { .kind = P_RESULT, .st = st, .worker = getpid() };
        if (st != ST_OK) err_copy(answer.text, sizeof answer.text);
        bool sent = packet_send(fd, &answer, result);
        if (result >= 0) close(result);
        buf_free(&executable);
        if (!sent) return;
    }
}

/* ---- the supervisor: one thread, nothing but system calls ---- */
typedef struct supervisor {
    const pjrt_compiler *c;
    int parent, worker_fd, prints;
    pid_t worker;                   /* 0: none */
} supervisor;

/* The line that says why: one that a fatal log or an assertion wrote, else the last. */
static void last_words(int prints, char *dst, size_t cap)
{
    char tail[8192];
    off_t size = lseek(prints, 0, SEEK_END), from = size > (off_t)sizeof tail - 1 ? size - (off_t)sizeof tail + 1 : 0;
    ssize_t n = size > 0 ? pread(prints, tail, sizeof tail - 1, from) : 0;
    dst[0] = 0;
    if (n <= 0) return;
    tail[n] = 0;
    char *best = NULL, *save = NULL;
    bool sure = false;
    for (char *line = strtok_r(tail, "\n", &save); line && !sure; line = strtok_r(NULL, "\n", &save)) {
        if (!*line || !strncmp(line, "    @", 5) || !strncmp(line, "***", 3)) continue;     /* a stack trace */
        sure = (line[0] == 'F' && line[1] >= '0' && line[1] <= '9') || strstr(line, "Check failed") || strstr(line, "LLVM ERROR") || strstr(line, "Assertion");
        best = line;
    }
    if (best) snprintf(dst, cap, ": %.500s", best);
}

static void worker_end(supervisor *s)
{
    if (!s->worker) return;
    kill(s->worker, SIGKILL);
    while (waitpid(s->worker, NULL, 0) < 0 && errno == EINTR) {}
    close(s->worker_fd);
    s->worker = 0;
}

static bool worker_start(supervisor *s)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return false;
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(pair[0]);
        close(s->parent);
        signal(SIGTERM, SIG_DFL);
        worker_run(s->c, pair[1], s->prints);
        _exit(0);
    }
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return false;
    }
    s->worker = pid;
    s->worker_fd = pair[0];
    return true;
}

/* What became of the worker, as a packet to the parent. */
static packet obituary(supervisor *s, bool timed_out)
{
    packet p = { .kind = P_DIED, .worker = s->worker };
    char words[520];
    int how = 0;
    if (timed_out) kill(s->worker, SIGKILL);
    while (waitpid(s->worker, &how, 0) < 0 && errno == EINTR) {}
    close(s->worker_fd);
    s->worker = 0;
    last_words(s->prints, words, sizeof words);
    if (timed_out) snprintf(p.text, sizeof p.text, "it took longer than %.0f s and was given up", s->c->limit_s);
    else if (WIFSIGNALED(how)) snprintf(p.text, sizeof p.text, "the compiler died (signal %d, %s)%s", WTERMSIG(how), strsignal(WTERMSIG(how)), words);
    else snprintf(p.text, sizeof p.text, "the compiler ended (exit status %d)%s", WEXITSTATUS(how), words);
    return p;
}

typedef enum outcome { ANSWERED, NOT_STARTED, PARENT_GONE } outcome;

/* Waits for the worker's answer, its death or the time limit, of which the parent is told. NOT_STARTED: it died before it
 * took the request up (it was dead or dying when it was sent); the parent is not told. */
static outcome await_worker(supervisor *s)
{
    double end = clock_now() + s->c->limit_s;
    for (bool started = false;;) {
        struct pollfd fds[2] = { { .fd = s->worker_fd, .events = POLLIN }, { .fd = s->parent, .events = POLLRDHUP } };
        double left = end - clock_now();
        int n = poll(fds, 2, left <= 0 ? 0 : left > 1000 ? 1000000 : (int)(left * 1000) + 1);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0 && left > 0) continue;
        packet p;
        int file = -1;
        if (n <= 0) {
            p = obituary(s, true);
        } else if (fds[1].revents) {
            return PARENT_GONE;
        } else if (!packet_receive(s->worker_fd, &p, &file)) {
            p = obituary(s, false);
            if (!started) return NOT_STARTED;
        } else if (p.kind == P_STARTED) {
            started = true;
            continue;
        }
        bool sent = packet_send(s->parent, &p, file);
        if (file >= 0) close(file);
        return sent ? ANSWERED : PARENT_GONE;
    }
}

/* A worker that died idle is replaced without a word: the second attempt meets a fresh one. */
static outcome serve(supervisor *s, const packet *p, int file)
{
    outcome r = NOT_STARTED;
    for (int attempt = 0; attempt < 2 && r == NOT_STARTED; attempt++) {
        if (!s->worker && !worker_start(s)) break;
        if (packet_send(s->worker_fd, p, file)) r = await_worker(s);
        else worker_end(s);
    }
    if (r != NOT_STARTED) return r;
    packet died = { .kind = P_DIED };
    snprintf(died.text, sizeof died.text, "no compiler process could be started");
    return packet_send(s->parent, &died, -1) ? ANSWERED : PARENT_GONE;
}

static void supervise(const pjrt_compiler *c, int parent)
{
    supervisor s = { .c = c, .parent = parent, .prints = memfd_create("systolic-compiler-output", 0) };
    if (s.prints >= 0) fcntl(s.prints, F_SETFL, O_APPEND);
    for (;;) {
        packet p;
        int file;
        if (!packet_receive(parent, &p, &file)) break;
        if (s.prints >= 0 && ftruncate(s.prints, 0) != 0) { /* older lines stay */ }
        outcome r = serve(&s, &p, file);
        if (file >= 0) close(file);
        if (r == PARENT_GONE) break;
    }
    worker_end(&s);
}

/* ---- this side ---- */
static void compiler_free(pjrt_compiler *c)
{
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

/* In the child: nothing of the parent's but the socket stays open, so that its connections close when it closes them. */
static void supervisor_main(const pjrt_compiler *c, int fd)
{
    if (fd != 3) dup2(fd, 3);
    close_range(4, ~0u, 0);
    fcntl(3, F_SETFD, FD_CLOEXEC);
    signal(SIGINT, SIG_IGN);        /* the terminal's ^C is for the parent, which then closes the socket */
    signal(SIGTERM, SIG_DFL);
    signal(SIGCHLD, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    supervise(c, 3);
    _exit(0);
}

status pjrt_compiler_open(const pjrt_compiler_options *o, pjrt_compiler **out)
{
    if (pj_any_loaded()) return err_set(ST_INVALID, "compiler for %s: it must be opened before any plugin is loaded in this process, which it forks", o->plugin);
    pjrt_compiler *c = mem_calloc(1, sizeof *c);
    if (!c) return err_nomem();
    pthread_mutex_init(&c->lock, NULL);
    int pair[2] = { -1, -1 };
    status st = ST_OK;
    TRY_OUT(copy_options(c, o));
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        st = err_errno("compiler: socket");
        goto out;
    }
    c->supervisor = fork();
    if (c->supervisor == 0) supervisor_main(c, pair[1]);
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
    close(c->fd);
    while (waitpid(c->supervisor, NULL, 0) < 0 && errno == EINTR) {}
    compiler_free(c);
}

/* One request and its answer; takes `file`. *result is the caller's on success. */
static status ask(pjrt_compiler *c, packet_kind kind, int file, const char *what, int *result)
{
    packet p = { .kind = kind };
    int passed = -1;
    status st;
    pthread_mutex_lock(&c->lock);
    bool ok = packet_send(c->fd, &p, file) && packet_receive(c->fd, &p, &passed);
    if (file >= 0) close(file);
    if (ok) c->worker = p.kind == P_DIED ? 0 : p.worker;
    if (!ok) st = err_set(ST_INTERNAL, "%s: the compiler process is gone", what);
    else if (p.kind == P_DIED) c->n_deaths++, st = err_set(ST_INTERNAL, "%s: %s", what, p.text);
    else if (p.st != ST_OK) st = err_set(p.st, "%s", p.text);
    else st = ST_OK;
    pthread_mutex_unlock(&c->lock);
    if (st == ST_OK) *result = passed;
    else if (passed >= 0) close(passed);
    return st;
}

status pjrt_compiler_describe(pjrt_compiler *c, pjrt_target_info *out)
{
    pthread_mutex_lock(&c->lock);
    bool known = c->described;
    if (known) *out = c->info;
    pthread_mutex_unlock(&c->lock);
    if (known) return ST_OK;
    int result;
    const char *data;
    size_t len;
    TRY(ask(c, P_DESCRIBE, -1, c->plugin, &result));
    TRY(file_map(result, &data, &len));
    result_head head;
    memcpy(&head, data, sizeof head);
    file_unmap(data, len);
    pthread_mutex_lock(&c->lock);
    c->info = *out = head.info;
    c->described = true;
    pthread_mutex_unlock(&c->lock);
    return ST_OK;
}

status pjrt_compiler_run(pjrt_compiler *c, const pjrt_source *src, const pjrt_compile_options *o, buf *executable, pjrt_stats *stats)
{
    buf options = {0};
    int file = -1, result = -1;
    status st = pjrt_options_encode(o, &options);
    if (st == ST_OK) {
        request_head head = { strlen(src->name) + 1, options.len, src->len };
        union { const char *in; void *out; } name = { .in = src->name }, code = { .in = src->code };
        struct iovec parts[] = { { &head, sizeof head }, { name.out, head.name_len }, { options.data, options.len }, { code.out, src->len } };
        st = file_make(parts, 4, &file);
    }
    buf_free(&options);
    if (st != ST_OK) return st;
    char what[200];
    snprintf(what, sizeof what, "compile %s", src->name);
    TRY(ask(c, P_COMPILE, file, what, &result));
    const char *data;
    size_t len;
    TRY(file_map(result, &data, &len));
    result_head head;
    memcpy(&head, data, sizeof head);
    buf_append(executable, data + sizeof head, head.executable_len);
    file_unmap(data, len);
    st = buf_status(executable);
    if (st == ST_OK && stats) *stats = head.stats;
    return st;
}

/* What identifies the devices in a key: the topology's name or bytes and the options. */
static status topology_text(pjrt_compiler *c, const pjrt_target_info *info, buf *out)
{
    if (c->topology) buf_str(out, c->topology);
    else buf_append(out, c->topology_bytes.data, c->topology_bytes.len);
    buf_printf(out, "?%s %d x %s", c->options, info->n_devices, info->device.kind);
    for (size_t i = 0; i < out->len; i++)
        if (!out->data[i]) out->data[i] = '.';      /* serialised topologies are binary; the key takes text */
    return buf_status(out);
}

status pjrt_compiler_get(pjrt_compiler *c, const pjrt_cache *cache, const pjrt_source *src, const pjrt_compile_options *o,
                         buf *executable, pjrt_stats *stats, bool *cached)
{
    bool found = false;
    char key[PJRT_KEY_LEN];
    pjrt_stats local;
    pjrt_stats *s = stats ? stats : &local;
    if (cache) {
        pjrt_target_info info;
        buf topology = {0};
        status st = pjrt_compiler_describe(c, &info);
        if (st == ST_OK) st = topology_text(c, &info, &topology);
        if (st == ST_OK) st = pjrt_cache_key(&(pjrt_key){ info.platform, info.version, topology.data, src->code, src->len, o }, key);
        if (st == ST_OK) st = pjrt_cache_get(cache, key, executable, s, &found);
        buf_free(&topology);
        if (st != ST_OK) return st;
    }
    if (!found) {
        size_t before = executable->len;
        TRY(pjrt_compiler_run(c, src, o, executable, s));
        /* A full disk costs the next start some time, not this one its program. */
        status st = cache ? pjrt_cache_put(cache, key, executable->data + before, executable->len - before, s) : ST_OK;
        if (st == ST_NOMEM) return st;
        if (st != ST_OK) log_warn("%s is not cached: %s", src->name, err_msg());
    }
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
