/* The compiler's processes: a supervisor that never loads anything, and its workers, which load the plugin. */
#include "device/pjrt/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
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
#include "device/pjrt/internal.h"

/* ---- packets ---- */
bool pj_packet_send(int fd, const packet *p, int pass)
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

bool pj_packet_receive(int fd, packet *p, int *passed)
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
status pj_file_make(const struct iovec *parts, int n, int *out)
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

status pj_file_map(int fd, const char **data, size_t *len)
{
    struct stat sb;
    void *p = fd >= 0 && fstat(fd, &sb) == 0 && sb.st_size > 0 ? mmap(NULL, (size_t)sb.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    if (fd >= 0) close(fd);
    if (p == MAP_FAILED) return err_set(ST_INTERNAL, "compiler: a message between the processes is empty");
    *data = p;
    *len = (size_t)sb.st_size;
    return ST_OK;
}

void pj_file_unmap(const char *data, size_t len)
{
    union { const char *in; void *map; } u = { .in = data };
    munmap(u.map, len);
}

/* ---- the worker ---- */
typedef struct worker {
    const child_config *c;
    const char *bytes;              /* a topology, NULL: none; stays mapped */
    size_t len;
    status opened;                  /* ST_OK, or why there is nothing to compile for */
    char why[900];
    pjrt_plugin *plugin;
    pjrt_topology *topology;
    pjrt_client *client;            /* when no topology was asked for */
} worker;

static status worker_open(worker *w)
{
    const child_config *c = w->c;
    pjrt_values values = {0};
    bool offline = c->topology || w->bytes;
    if (offline) {
        setenv("TPU_SKIP_MDS_QUERY", "1", 1);       /* this process needs no TPU, wherever it is */
        setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1", 1);
    }
    TRY(pjrt_values_parse(c->options, &values));
    status st = pjrt_plugin_open(c->plugin, offline, &w->plugin);
    if (st == ST_OK) {
        if (c->topology) st = pjrt_topology_open(w->plugin, c->topology, values.v, values.n, &w->topology);
        else if (w->bytes) st = pjrt_topology_read(w->plugin, w->bytes, w->len, &w->topology);
        else st = pjrt_client_open(w->plugin, values.v, values.n, &w->client);
    }
    pjrt_values_free(&values);
    return st;
}

static status describe(const worker *w, pjrt_target_info *out)
{
    return w->topology ? pjrt_topology_target(w->topology, out) : pjrt_client_target(w->client, out);
}

static status worker_compile(worker *w, int file, result_head *head, buf *executable)
{
    const char *data;
    size_t len;
    TRY(pj_file_map(file, &data, &len));
    request_head r;
    status st = ST_OK;
    if (len < sizeof r) st = err_set(ST_INTERNAL, "compiler: a request of %zu bytes", len);
    if (st == ST_OK) {
        memcpy(&r, data, sizeof r);
        const char *name = data + sizeof r, *options = name + r.name_len, *code = options + r.options_len;
        st = pj_compile_encoded(w->topology, w->client, &(pjrt_source){ name, code, r.code_len }, options, r.options_len, executable, &head->stats);
    }
    pj_file_unmap(data, len);
    head->executable_len = executable->len;
    return st;
}

/* Serves requests until the supervisor goes. What the plugin prints goes to `prints`. topology: a memory file or -1. */
static void worker_run(const child_config *c, int fd, int prints, int topology)
{
    worker w = { .c = c, .bytes = c->topology_len ? c->topology_bytes : NULL, .len = c->topology_len };
    if (topology >= 0 && pj_file_map(topology, &w.bytes, &w.len) != ST_OK) return;
    bool tried = false;
    dup2(prints, 1);
    dup2(prints, 2);
    for (;;) {
        packet p;
        int file;
        if (!pj_packet_receive(fd, &p, &file)) return;
        if (!pj_packet_send(fd, &(packet){ .kind = P_STARTED }, -1)) return;
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
        else st = p.kind == P_DESCRIBE ? describe(&w, &head.info) : worker_compile(&w, file, &head, &executable);
        if (file >= 0 && (p.kind == P_DESCRIBE || w.opened != ST_OK)) close(file);
        int result = -1;
        if (st == ST_OK) {
            struct iovec parts[] = { { &head, sizeof head }, { executable.data, executable.len } };
            st = pj_file_make(parts, 2, &result);
        }
        packet answer = { .kind = P_RESULT, .st = st, .worker = getpid() };
        if (st != ST_OK) err_copy(answer.text, sizeof answer.text);
        bool sent = pj_packet_send(fd, &answer, result);
        if (result >= 0) close(result);
        buf_free(&executable);
        if (!sent) return;
    }
}

/* ---- the supervisor: one thread, nothing but system calls ---- */
typedef struct supervisor {
    const child_config *c;
    int parent, worker_fd, prints;
    int topology;                   /* memory file, -1: none was set */
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
        worker_run(s->c, pair[1], s->prints, s->topology);
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
    if (timed_out) snprintf(p.text, sizeof p.text, "it took longer than %g s and was given up", s->c->limit_s);
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
        } else if (!pj_packet_receive(s->worker_fd, &p, &file)) {
            p = obituary(s, false);
            if (!started) return NOT_STARTED;
        } else if (p.kind == P_STARTED) {
            started = true;
            continue;
        }
        bool sent = pj_packet_send(s->parent, &p, file);
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
        if (pj_packet_send(s->worker_fd, p, file)) r = await_worker(s);
        else worker_end(s);
    }
    if (r != NOT_STARTED) return r;
    packet died = { .kind = P_DIED };
    snprintf(died.text, sizeof died.text, "no compiler process could be started");
    return pj_packet_send(s->parent, &died, -1) ? ANSWERED : PARENT_GONE;
}

static void supervise(const child_config *c, int parent)
{
    supervisor s = { .c = c, .parent = parent, .topology = -1, .prints = memfd_create("systolic-compiler-output", 0) };
    if (s.prints >= 0) fcntl(s.prints, F_SETFL, O_APPEND);
    for (;;) {
        packet p;
        int file;
        if (!pj_packet_receive(parent, &p, &file)) break;
        if (s.prints >= 0 && ftruncate(s.prints, 0) != 0) { /* older lines stay */ }
        outcome r;
        if (p.kind == P_TOPOLOGY) {             /* for the workers to come; there is none yet */
            s.topology = file;
            r = pj_packet_send(parent, &(packet){ .kind = P_RESULT }, -1) ? ANSWERED : PARENT_GONE;
        } else {
            r = serve(&s, &p, file);
            if (file >= 0) close(file);
        }
        if (r == PARENT_GONE) break;
    }
    worker_end(&s);
}

/* In the child: nothing of the parent's but the socket stays open, so that its connections close when it closes them. */
void pj_child_main(const child_config *c, int fd)
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
