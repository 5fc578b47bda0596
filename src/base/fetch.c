#include "base/fetch.h"

#include <curl/curl.h>
#include <limits.h>
#include <netdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/address.h"
#include "base/clock.h"
#include "base/mem.h"

#ifndef SYSTOLIC_VERSION
#define SYSTOLIC_VERSION "0"
#endif

enum { ERROR_BODY_MAX = 1 << 20, HEADERS_MAX = 1 << 20, POLL_MS = 100 };

struct fetch {
    CURL *easy;
    CURLM *multi; /* drives `easy`: its poll lets stalls be noticed to the tenth of a second */
};

/* One hop of one fetch_run: what libcurl's callbacks need. */
typedef struct hop {
    const fetch_options *o;
    fetch_response *out;
    CURL *easy;
    uint64_t received;
    double last_progress;
    curl_off_t uploaded;
    bool follow;     /* a redirect answer will be followed: its body is dropped, on_head is not told */
    bool head_told;
    status abort;    /* why a callback stopped the transfer; the message is set */
    char errbuf[CURL_ERROR_SIZE];
} hop;

static char *curl_dup(const char *s) { return mem_strdup(s); }

/* libcurl's global state lives as long as the process. A mutex rather than pthread_once: an initialisation that ran
 * out of memory may be tried again. */
static status global_init(void)
{
    static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
    static bool done;
    status st = ST_OK;
    pthread_mutex_lock(&mu);
    if (!done) {
        CURLcode rc = curl_global_init_mem(CURL_GLOBAL_DEFAULT, mem_alloc, mem_free, mem_realloc, curl_dup, mem_calloc);
        if (rc == CURLE_OK) done = true;
        else st = err_set(rc == CURLE_OUT_OF_MEMORY ? ST_NOMEM : ST_IO, "libcurl does not start: %s", curl_easy_strerror(rc));
    }
    pthread_mutex_unlock(&mu);
    return st;
}

status fetch_open(fetch **out)
{
    TRY(global_init());
    fetch *f = mem_calloc(1, sizeof *f);
    if (!f) return err_nomem();
    f->easy = curl_easy_init();
    f->multi = f->easy ? curl_multi_init() : NULL;
    if (!f->multi) {
        fetch_close(f);
        return err_nomem();
    }
    *out = f;
    return ST_OK;
}

void fetch_close(fetch *f)
{
    if (!f) return;
    if (f->easy) curl_easy_cleanup(f->easy);
    if (f->multi) curl_multi_cleanup(f->multi);
    mem_free(f);
}

void fetch_response_free(fetch_response *r)
{
    buf_free(&r->body);
    buf_free(&r->raw_headers);
    mem_free(r->effective_url);
    *r = (fetch_response){ .content_length = -1 };
}

bool fetch_header(const fetch_response *r, const char *name, char *dst, size_t cap)
{
    const char *p = buf_cstr(&r->raw_headers);
    size_t len = strlen(name);
    while ((p = strstr(p, "\r\n")) != NULL) {
        p += 2;
        if (strncasecmp(p, name, len) != 0 || p[len] != ':') continue;
        const char *v = p + len + 1;
        v += strspn(v, " \t");
        size_t n = strcspn(v, "\r\n");
        while (n && (v[n - 1] == ' ' || v[n - 1] == '\t')) n--;
        if (cap == 0) return true;
        if (n > cap - 1) n = cap - 1;
        memcpy(dst, v, n);
        dst[n] = 0;
        return true;
    }
    return false;
}

/* ---- addresses ---- */

/* scheme, host and port of a URL. */
typedef struct origin { char scheme[16], host[256]; long port; } origin;

static bool copy_part(CURLU *u, CURLUPart part, unsigned flags, char *dst, size_t cap)
{
    char *s = NULL;
    bool ok = curl_url_get(u, part, &s, flags) == CURLUE_OK && strlen(s) < cap;
    if (ok) memcpy(dst, s, strlen(s) + 1);
    curl_free(s);
    return ok;
}

static bool origin_of(const char *url, origin *o)
{
    CURLU *u = curl_url();
    char port[16];
    bool ok = u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK && copy_part(u, CURLUPART_SCHEME, 0, o->scheme, sizeof o->scheme) &&
              copy_part(u, CURLUPART_HOST, 0, o->host, sizeof o->host) && copy_part(u, CURLUPART_PORT, CURLU_DEFAULT_PORT, port, sizeof port);
    if (ok) o->port = strtol(port, NULL, 10);
    curl_url_cleanup(u);
    return ok;
}

static bool same_origin(const origin *a, const origin *b)
{
    return strcasecmp(a->scheme, b->scheme) == 0 && strcasecmp(a->host, b->host) == 0 && a->port == b->port;
}

static bool is_loopback(const char *host)
{
    return strcasecmp(host, "localhost") == 0 || strncmp(host, "127.", 4) == 0 || strcmp(host, "[::1]") == 0;
}

/* For messages: without user, password and query, which may hold secrets (signed URLs). */
static void shown_url(const char *url, char *dst, size_t cap)
{
    const char *p = strstr(url, "://");
    p = p ? p + 3 : url;
    const char *slash = p + strcspn(p, "/?#");
    const char *at = memchr(p, '@', (size_t)(slash - p));
    int scheme = (int)(p - url);
    if (at) p = at + 1;
    int rest = (int)strcspn(p, "?#");
    snprintf(dst, cap, "%.*s%.*s", scheme > 16 ? 0 : scheme, url, rest > 512 ? 512 : rest, p);
}

/* http+unix://%2Frun%2Fs.sock/path: the socket's path and the http:// URL to ask for there. */
static status split_unix_url(const char *url, char **sock, char **plain)
{
    const char *enc = url + strlen("http+unix://");
    size_t n = strcspn(enc, "/?#");
    int len = 0;
    buf b = {0};
    buf_printf(&b, "http://localhost%s", enc + n);
    char *path = n > 0 && n < 1024 ? curl_easy_unescape(NULL, enc, (int)n, &len) : NULL;
    char *own = path ? mem_strdup(path) : NULL;
    curl_free(path);
    if (!own || b.failed) {
        mem_free(own);
        buf_free(&b);
        return n > 0 && n < 1024 ? err_nomem() : err_set(ST_INVALID, "'%s': expected http+unix://%%2Fpath%%2Fto%%2Fsocket/...", url);
    }
    *sock = own;
    *plain = buf_take(&b);
    return ST_OK;
}

/* ---- callbacks ---- */

static bool is_redirect(int code) { return code == 301 || code == 302 || code == 303 || code == 307 || code == 308; }

/* The head is complete: remember what it says, tell the caller. False aborts. */
static bool head_done(hop *h)
{
    fetch_response *r = h->out;
    long code = 0;
    curl_off_t len = -1;
    curl_easy_getinfo(h->easy, CURLINFO_RESPONSE_CODE, &code);
    r->code = (int)code;
    if (code < 200 || h->head_told) return true;
    curl_easy_getinfo(h->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &len);
    r->content_length = len;
    char where[8];
    h->head_told = true;
    if (h->follow && is_redirect(r->code) && fetch_header(r, "Location", where, sizeof where)) return true;
    h->follow = false;
    const fetch_options *o = h->o;
    if (o->max_bytes && code < 300 && len > 0 && (uint64_t)len > o->max_bytes) {
        h->abort = err_set(ST_LIMIT, "the answer has %lld bytes, more than the limit of %zu", (long long)len, o->max_bytes);
        return false;
    }
    if (o->on_head && !o->on_head(o->arg, r)) {
        h->abort = err_set(ST_CANCELLED, "stopped by the caller after the headers");
        return false;
    }
    return true;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    hop *h = arg;
    buf *b = &h->out->raw_headers;
    n *= size;
    h->last_progress = clock_now();
    if (h->head_told) return n; /* trailers */
    if (n >= 5 && memcmp(p, "HTTP/", 5) == 0) buf_clear(b); /* a final status after 100 Continue */
    if (b->len + n > HEADERS_MAX) {
        h->abort = err_set(ST_LIMIT, "the answer's headers have more than %d bytes", HEADERS_MAX);
        return 0;
    }
    bool blank = n == 2 && p[0] == '\r' && p[1] == '\n';
    if (!blank) buf_append(b, p, n);
    if (b->failed) {
        h->abort = err_nomem();
        return 0;
    }
    return !(blank || (n == 1 && p[0] == '\n')) || head_done(h) ? n : 0;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    hop *h = arg;
    const fetch_options *o = h->o;
    fetch_response *r = h->out;
    n *= size;
    h->last_progress = clock_now();
    if (h->follow) return n; /* the body of a redirect */
    h->received += n;
    if (r->code < 200 || r->code >= 300) {
        size_t room = ERROR_BODY_MAX - r->body.len;
        buf_append(&r->body, p, n < room ? n : room);
    } else if (o->max_bytes && h->received > o->max_bytes) {
        h->abort = err_set(ST_LIMIT, "the answer has more than %zu bytes", o->max_bytes);
        return CURL_WRITEFUNC_ERROR;
    } else if (o->on_data) {
        if (!o->on_data(o->arg, p, n)) {
            h->abort = err_set(ST_CANCELLED, "stopped by the caller after %llu bytes", (unsigned long long)h->received);
            return CURL_WRITEFUNC_ERROR;
        }
    } else {
        buf_append(&r->body, p, n);
    }
    if (r->body.failed) {
        h->abort = err_nomem();
        return CURL_WRITEFUNC_ERROR;
    }
    return n;
}

/* ---- one hop ---- */

static bool is_header(const char *line, const char *name)
{
    size_t n = strlen(name);
    return strncasecmp(line, name, n) == 0 && line[n] == ':';
}

static status add_header(struct curl_slist **list, const char *line)
{
    struct curl_slist *l = curl_slist_append(*list, line);
    if (!l) return err_nomem();
    *list = l;
    return ST_OK;
}

/* The caller's headers, less credentials on a foreign origin and less what describes a body that is no longer sent. */
static status make_headers(const fetch_options *o, bool foreign, bool body, struct curl_slist **list)
{
    bool encoding = false, type = false;
    for (const char *const *p = o->headers; p && *p; p++) {
        if (strpbrk(*p, "\r\n")) return err_set(ST_INVALID, "a request header holds a line break");
        if (foreign && (is_header(*p, "Authorization") || is_header(*p, "Cookie") || is_header(*p, "Proxy-Authorization"))) continue;
        if (!body && (is_header(*p, "Content-Type") || is_header(*p, "Content-Length"))) continue;
        encoding |= is_header(*p, "Accept-Encoding");
        type |= is_header(*p, "Content-Type");
        TRY(add_header(list, *p));
    }
    if (!encoding) TRY(add_header(list, "Accept-Encoding: identity"));
    if (body && !type) TRY(add_header(list, "Content-Type: application/octet-stream"));
    return add_header(list, "Expect:"); /* no pause of a second before bodies */
}

static long ms(double s) { return s >= 1e6 ? LONG_MAX / 2 : (long)(s * 1000 + 0.5); }

/* Every option is set anew: curl_easy_reset keeps the open connections. */
#define SET(opt, val) do { if (rc == CURLE_OK) rc = curl_easy_setopt(e, opt, val); } while (0)

static status not_public(fetch_response *r, const char *host)
{
    r->not_public = true;
    return err_set(ST_DENIED, "the host '%s' has a private, loopback, link-local or reserved address", host);
}

/* libcurl's last step before connecting: whatever a name resolved to, this is the address. */
static curl_socket_t open_public(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
    hop *h = arg;
    (void)purpose;
    if (address_is_public(&a->addr)) return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
    h->out->not_public = true;
    return CURL_SOCKET_BAD;
}

/* Behind a proxy the connection says nothing of where the request goes. */
static bool behind_proxy(void)
{
    static const char *const names[] = { "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (getenv(names[i])) return true;
    return false;
}

static status check_public(const char *host, fetch_response *r)
{
    char plain[256];
    struct addrinfo *all = NULL, hints = { .ai_socktype = SOCK_STREAM };
    const size_t n = strlen(host);
    const bool six = *host == '[' && n > 2;
    if (n >= sizeof plain) return err_set(ST_INVALID, "the host's name is too long");
    snprintf(plain, sizeof plain, "%.*s", (int)(six ? n - 2 : n), host + six);
    const int code = getaddrinfo(plain, NULL, &hints, &all);
    if (code) return err_set(ST_IO, "cannot resolve '%s': %s", plain, gai_strerror(code));
    bool ok = true;
    for (struct addrinfo *a = all; a; a = a->ai_next) ok = ok && address_is_public(a->ai_addr);
    freeaddrinfo(all);
    return ok ? ST_OK : not_public(r, host);
}

static CURLcode set_transport(CURL *e, const fetch_options *o, const char *sock, const char *host)
{
    CURLcode rc = CURLE_OK;
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    SET(CURLOPT_USERAGENT, "systolic/" SYSTOLIC_VERSION);
    SET(CURLOPT_CONNECTTIMEOUT_MS, ms(o->connect_timeout_s > 0 ? o->connect_timeout_s : 10));
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_BUFFERSIZE, 256L * 1024);
    if (sock) SET(CURLOPT_UNIX_SOCKET_PATH, sock);
    if (sock || is_loopback(host)) SET(CURLOPT_PROXY, "");
    if (o->insecure) {
        SET(CURLOPT_SSL_VERIFYPEER, 0L);
        SET(CURLOPT_SSL_VERIFYHOST, 0L);
    }
    static const char *const ca_env[] = { "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE" };
    for (size_t i = 0; i < sizeof ca_env / sizeof *ca_env; i++) {
        const char *ca = getenv(ca_env[i]);
        if (!ca || !*ca) continue;
        SET(CURLOPT_CAINFO, ca);
        break;
    }
    return rc;
}

static CURLcode set_public(hop *h)
{
    CURL *e = h->easy;
    CURLcode rc = CURLE_OK;
    SET(CURLOPT_OPENSOCKETFUNCTION, open_public);
    SET(CURLOPT_OPENSOCKETDATA, h);
    return rc;
}

static CURLcode set_request(hop *h, const char *url, const char *method, bool body, struct curl_slist *headers)
{
    CURL *e = h->easy;
    const fetch_options *o = h->o;
    CURLcode rc = CURLE_OK;
    SET(CURLOPT_URL, url);
    SET(CURLOPT_HTTPHEADER, headers);
    if (body) {
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)o->body_len);
        SET(CURLOPT_POSTFIELDS, (const char *)(o->body_len ? o->body : ""));
    }
    if (strcmp(method, "HEAD") == 0) SET(CURLOPT_NOBODY, 1L);
    else SET(CURLOPT_CUSTOMREQUEST, method);
    if (o->range_from > 0) {
        char range[32];
        snprintf(range, sizeof range, "%lld-", (long long)o->range_from);
        SET(CURLOPT_RANGE, range);
    }
    SET(CURLOPT_ERRORBUFFER, h->errbuf);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, h);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, h);
    return rc;
}
#undef SET

/* What libcurl's code means to our caller. */
static status explain(const hop *h, CURLcode rc, const char *url)
{
    char where[600];
    shown_url(url, where, sizeof where);
    const char *why = h->errbuf[0] ? h->errbuf : curl_easy_strerror(rc);
    long long got = (long long)h->received, want = (long long)h->out->content_length;
    switch (rc) {
    case CURLE_OK: return ST_OK;
    case CURLE_OUT_OF_MEMORY: return err_nomem();
    case CURLE_URL_MALFORMAT: return err_set(ST_INVALID, "'%s' is not a valid URL: %s", where, why);
    case CURLE_UNSUPPORTED_PROTOCOL: return err_set(ST_INVALID, "'%s': expected http:// or https://", where);
    case CURLE_OPERATION_TIMEDOUT: return err_set(ST_LIMIT, "%s: %s", where, why);
    case CURLE_GOT_NOTHING: return err_set(ST_IO, "%s: connection closed without an answer", where);
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
        if (want >= 0) return err_set(ST_IO, "%s: connection closed with %lld of %lld bytes received", where, got, want);
        if (h->head_told) return err_set(ST_IO, "%s: connection closed in the middle of the answer, %lld bytes received", where, got);
        return err_set(ST_IO, "%s: connection lost before the answer: %s", where, why);
    default: return err_set(mem_oom() ? ST_NOMEM : ST_IO, "%s: %s", where, why);
    }
}

/* Bytes in either direction put the stall clock back; so does not being connected yet, which has its own limit. */
static status check_clocks(hop *h, double deadline, const char *url)
{
    double now = clock_now(), stall = h->o->stall_timeout_s;
    if (stall == 0) stall = 30;
    curl_off_t up = 0, connected = 0;
    curl_easy_getinfo(h->easy, CURLINFO_SIZE_UPLOAD_T, &up);
    curl_easy_getinfo(h->easy, CURLINFO_PRETRANSFER_TIME_T, &connected);
    if (up != h->uploaded || connected == 0) {
        h->uploaded = up;
        h->last_progress = now;
    }
    char where[600];
    if (h->o->cancelled && h->o->cancelled(h->o->arg)) return err_set(ST_CANCELLED, "stopped by the caller");
    if (deadline > 0 && now > deadline) {
        shown_url(url, where, sizeof where);
        return err_set(ST_LIMIT, "%s: not finished within %g seconds, %llu bytes received", where, h->o->total_timeout_s, (unsigned long long)h->received);
    }
    if (stall > 0 && now - h->last_progress > stall) {
        shown_url(url, where, sizeof where);
        return err_set(ST_LIMIT, "%s: no byte arrived for %g seconds, %llu bytes received", where, stall, (unsigned long long)h->received);
    }
    return ST_OK;
}

/* Runs the prepared transfer to its end. */
static status drive(fetch *f, hop *h, double deadline, const char *url, const char *host)
{
    if (curl_multi_add_handle(f->multi, f->easy) != CURLM_OK) return err_nomem();
    h->last_progress = clock_now();
    status st = ST_OK;
    CURLcode rc = CURLE_OK;
    for (;;) {
        int running = 0, left = 0;
        CURLMcode mc = curl_multi_perform(f->multi, &running);
        CURLMsg *msg = curl_multi_info_read(f->multi, &left);
        if (msg && msg->msg == CURLMSG_DONE) rc = msg->data.result;
        if (mc != CURLM_OK) rc = mc == CURLM_OUT_OF_MEMORY ? CURLE_OUT_OF_MEMORY : CURLE_FAILED_INIT;
        if (msg || mc != CURLM_OK) break;
        if ((st = check_clocks(h, deadline, url)) != ST_OK) break;
        if (curl_multi_poll(f->multi, NULL, 0, POLL_MS, NULL) != CURLM_OK) rc = CURLE_OUT_OF_MEMORY;
        if (rc != CURLE_OK) break;
    }
    curl_multi_remove_handle(f->multi, f->easy);
    if (h->abort != ST_OK) return h->abort; /* the callback's message is this thread's last */
    if (h->out->not_public && st == ST_OK && rc == CURLE_COULDNT_CONNECT) return not_public(h->out, host);
    return st != ST_OK ? st : explain(h, rc, url);
}

typedef struct plan { const char *method; bool body, foreign; double deadline; const char *sock; } plan;

static status run_hop(fetch *f, const char *url, const char *host, const plan *p, hop *h)
{
    struct curl_slist *headers = NULL;
    curl_easy_reset(f->easy);
    h->easy = f->easy;
    status st = make_headers(h->o, p->foreign, p->body, &headers);
    if (st == ST_OK) {
        CURLcode rc = set_transport(f->easy, h->o, p->sock, host);
        if (rc == CURLE_OK) rc = set_request(h, url, p->method, p->body, headers);
        if (rc == CURLE_OK && h->o->public_only && !behind_proxy()) rc = set_public(h);
        else if (rc == CURLE_OK && h->o->public_only) st = check_public(host, h->out);
        if (st == ST_OK) st = rc == CURLE_OK ? drive(f, h, p->deadline, url, host) : explain(h, rc, url);
    }
    /* headers must outlive the transfer only, but the handle still points at them */
    curl_easy_setopt(f->easy, CURLOPT_HTTPHEADER, NULL);
    curl_slist_free_all(headers);
    return st;
}

static bool host_allowed(const char *const *hosts, const char *host)
{
    if (!hosts) return true;
    for (; *hosts; hosts++)
        if (strcasecmp(*hosts, host) == 0) return true;
    return false;
}

/* May we go from one origin to the other? */
static status check_redirect(const fetch_options *o, const origin *from, const origin *to)
{
    bool http = strcasecmp(to->scheme, "http") == 0;
    if (!http && strcasecmp(to->scheme, "https") != 0) return err_set(ST_DENIED, "redirect to a %s:// address refused", to->scheme);
    if (http && strcasecmp(from->scheme, "https") == 0) return err_set(ST_DENIED, "redirect from https to http://%s refused", to->host);
    if (!host_allowed(o->allowed_redirect_hosts, to->host)) return err_set(ST_DENIED, "redirect to the host '%s' refused: it is not allowed", to->host);
    return ST_OK;
}

/* After 303, and after a POST met 301 or 302, the method becomes GET, as browsers and libcurl do. */
static void redirect_method(plan *p, int code)
{
    bool post = strcmp(p->method, "POST") == 0;
    if ((code == 303 && strcmp(p->method, "HEAD") != 0) || ((code == 301 || code == 302) && post)) {
        p->method = "GET";
        p->body = false;
    }
}

/* Follows redirects from *url (owned by the caller, replaced on each hop) to the final answer. */
static status follow(fetch *f, char **url, const fetch_options *o, plan *p, fetch_response *out)
{
    int left = o->max_redirects < 0 ? 10 : o->max_redirects;
    bool may = left > 0;
    origin first, from, to;
    if (!origin_of(*url, &first)) return mem_oom() ? err_nomem() : err_set(ST_INVALID, "'%s' is not a valid URL", *url);
    for (from = first;; from = to) {
        hop h = { .o = o, .out = out, .follow = may };
        out->code = 0;
        out->content_length = -1;
        buf_clear(&out->raw_headers);
        TRY(run_hop(f, *url, from.host, p, &h));
        if (!h.follow) return ST_OK; /* the caller has been told: final */
        char *next = NULL;
        curl_easy_getinfo(f->easy, CURLINFO_REDIRECT_URL, &next);
        if (!next) return mem_oom() ? err_nomem() : err_set(ST_IO, "%s redirects to an address that is not a valid URL", *url);
        if (left-- == 0) return err_set(ST_LIMIT, "more than %d redirects", o->max_redirects < 0 ? 10 : o->max_redirects);
        char *copy = mem_strdup(next);
        if (!copy) return err_nomem();
        mem_free(*url);
        *url = copy;
        if (!origin_of(copy, &to)) return mem_oom() ? err_nomem() : err_set(ST_IO, "redirect to '%s', which is not a valid URL", copy);
        TRY(check_redirect(o, &from, &to));
        p->foreign |= !same_origin(&first, &to); /* once given away, a chain is not trusted again */
        redirect_method(p, out->code);
    }
}

status fetch_run(fetch *f, const char *url, const fetch_options *o, fetch_response *out)
{
    static const fetch_options none = {0};
    if (!o) o = &none;
    *out = (fetch_response){ .content_length = -1 };
    mem_clear_oom();
    bool body = o->body || o->body_len;
    plan p = { .method = o->method ? o->method : body ? "POST" : "GET", .body = body, .sock = o->unix_socket };
    if (o->total_timeout_s > 0) p.deadline = clock_now() + o->total_timeout_s;
    char *own = NULL, *sock = NULL;
    status st = ST_OK;
    if (strncasecmp(url, "http+unix://", 12) == 0) TRY(split_unix_url(url, &sock, &own));
    else if (!(own = mem_strdup(url))) return err_nomem();
    if (sock) p.sock = sock;
    st = follow(f, &own, o, &p, out);
    /* Also after success: libcurl sends a URL without the query that it had no memory for, and gets an answer. */
    if (mem_oom() && st != ST_CANCELLED && st != ST_LIMIT) st = err_nomem();
    out->effective_url = own;
    mem_free(sock);
    return st;
}
