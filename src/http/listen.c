#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "http/internal.h"

enum { BACKLOG = 2048 };

void raise_file_limit(int n)
{
    struct rlimit rl;
    if (getrlimit(RLIMIT_NOFILE, &rl) != 0 || rl.rlim_cur >= (rlim_t)n) return;
    rl.rlim_cur = rl.rlim_max != RLIM_INFINITY && rl.rlim_max < (rlim_t)n ? rl.rlim_max : (rlim_t)n;
    if (setrlimit(RLIMIT_NOFILE, &rl) != 0 || rl.rlim_cur < (rlim_t)n)
        log_warn("only %llu files may be open: fewer than max_connections needs", (unsigned long long)rl.rlim_cur);
}

/* ST_IO or ST_DENIED; a name clash is the user's to solve, so ST_INVALID would mislead. */
static status cannot_listen(const char *host, int port)
{
    bool v6 = strchr(host, ':') != NULL;
    return err_errno("cannot listen on %s%s%s:%d", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

static status listen_on(int family, const struct sockaddr *sa, socklen_t len, bool dual, int *out)
{
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1, v6only = !dual;
    if (fd < 0) return ST_IO;
    /* SO_REUSEADDR lets a restart bind while old connections linger. Not SO_REUSEPORT: two servers must not share a port by mistake. */
    if (family != AF_UNIX) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof v6only);
    if (bind(fd, sa, len) != 0 || listen(fd, BACKLOG) != 0) {
        int e = errno;
        close(fd);
        errno = e;
        return ST_IO;
    }
    *out = fd;
    return ST_OK;
}

static int port_of(int fd)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    if (getsockname(fd, (struct sockaddr *)&ss, &len) != 0) return 0;
    in_port_t p = ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&ss)->sin6_port : ((struct sockaddr_in *)&ss)->sin_port;
    return ntohs(p);
}

/* All interfaces: one dual-stack socket, or IPv4 alone where there is no IPv6. */
static status listen_any(int port, listeners *l)
{
    struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = in6addr_any };
    struct sockaddr_in a4 = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_ANY) };
    if (listen_on(AF_INET6, (struct sockaddr *)&a6, sizeof a6, true, &l->fds[0]) == ST_OK) l->n = 1;
    else if (errno == EADDRINUSE || errno == EACCES) return cannot_listen("0.0.0.0", port);
    else if (listen_on(AF_INET, (struct sockaddr *)&a4, sizeof a4, false, &l->fds[0]) == ST_OK) l->n = 1;
    else return cannot_listen("0.0.0.0", port);
    l->port = port_of(l->fds[0]);
    return ST_OK;
}

static void set_port(struct sockaddr *sa, int port)
{
    if (sa->sa_family == AF_INET6) ((struct sockaddr_in6 *)(void *)sa)->sin6_port = htons((uint16_t)port);
    else ((struct sockaddr_in *)(void *)sa)->sin_port = htons((uint16_t)port);
}

/* Every address the name has ("localhost" is two). With port 0 all get the port the first one got. */
static status listen_host(const char *host, int port, listeners *l)
{
    struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *all = NULL;
    size_t len = strlen(host);
    char *bare = host[0] == '[' && host[len - 1] == ']' ? mem_strndup(host + 1, len - 2) : mem_strdup(host);
    if (!bare) return err_nomem();
    int rc = getaddrinfo(bare, NULL, &hints, &all);
    mem_free(bare);
    if (rc != 0) return err_set(ST_INVALID, "cannot listen on host '%s': %s", host, gai_strerror(rc));
    status st = ST_OK;
    l->port = port;
    for (struct addrinfo *a = all; a && l->n < MAX_LISTENERS; a = a->ai_next) {
        set_port(a->ai_addr, l->port);
        if (listen_on(a->ai_family, a->ai_addr, a->ai_addrlen, false, &l->fds[l->n]) == ST_OK) {
            l->port = port_of(l->fds[l->n++]);
        } else if ((errno != EAFNOSUPPORT && errno != EADDRNOTAVAIL) || (!a->ai_next && l->n == 0)) {
            st = cannot_listen(host, l->port);
            break;
        }
    }
    freeaddrinfo(all);
    return st;
}

/* A socket file that nobody answers at is left over from a crash and goes; anything else at that path stays. */
static status clear_stale(const char *path, const struct sockaddr_un *sa)
{
    struct stat sb;
    if (lstat(path, &sb) != 0) return ST_OK;
    if (!S_ISSOCK(sb.st_mode)) return err_set(ST_IO, "cannot listen on unix:%s: the file exists and is not a socket", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return err_errno("cannot listen on unix:%s", path);
    int rc = connect(fd, (const struct sockaddr *)sa, sizeof *sa), e = errno;
    close(fd);
    if (rc == 0 || e != ECONNREFUSED) return err_set(ST_IO, "cannot listen on unix:%s: Address already in use", path);
    return unlink(path) == 0 ? ST_OK : err_errno("cannot remove the stale socket %s", path);
}

/* The file's mode follows the process's umask. */
static status listen_unix(const char *path, listeners *l)
{
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    struct stat sb;
    if (strlen(path) >= sizeof sa.sun_path || !*path)
        return err_set(ST_INVALID, "the Unix socket path '%s' must have 1 to %zu bytes", path, sizeof sa.sun_path - 1);
    memcpy(sa.sun_path, path, strlen(path) + 1);
    TRY(clear_stale(path, &sa));
    l->uds = mem_strdup(path);
    if (!l->uds) return err_nomem();
    if (listen_on(AF_UNIX, (struct sockaddr *)&sa, sizeof sa, false, &l->fds[0]) != ST_OK) {
        status st = err_errno("cannot listen on unix:%s", path);
        mem_free(l->uds);
        l->uds = NULL;
        return st;
    }
    l->n = 1;
    if (lstat(path, &sb) == 0) {
        l->dev = (uint64_t)sb.st_dev;
        l->ino = (uint64_t)sb.st_ino;
    }
    return ST_OK;
}

status listeners_open(const http_options *o, listeners *out)
{
    listeners l = {0};
    if (!o->uds && (o->port < 0 || o->port > 65535)) return err_set(ST_INVALID, "port %d: expected 0 to 65535", o->port);
    status st = o->uds ? listen_unix(o->uds, &l) : o->host && *o->host ? listen_host(o->host, o->port, &l) : listen_any(o->port, &l);
    if (st != ST_OK) {
        listeners_close(&l, true);
        return st;
    }
    *out = l;
    return ST_OK;
}

void listeners_close(listeners *l, bool fds)
{
    struct stat sb;
    /* another server may have taken the path over meanwhile */
    if (l->uds && lstat(l->uds, &sb) == 0 && (uint64_t)sb.st_dev == l->dev && (uint64_t)sb.st_ino == l->ino) unlink(l->uds);
    mem_free(l->uds);
    l->uds = NULL;
    for (int i = 0; fds && i < l->n; i++) close(l->fds[i]);
    l->n = 0;
}
