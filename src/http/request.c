#include "http/internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

/* ---- the list of requests that have something for the I/O thread ---- */

status shared_new(size_t max_output_bytes, http_shared **out)
{
    http_shared *sh = mem_calloc(1, sizeof *sh);
    if (!sh) return err_nomem();
    sh->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (sh->wake_fd < 0) {
        status st = err_errno("eventfd");
        mem_free(sh);
        return st;
    }
    sh->refs = 1;
    sh->max_output_bytes = max_output_bytes;
    pthread_mutex_init(&sh->mu, NULL);
    *out = sh;
    return ST_OK;
}

void shared_release(http_shared *sh)
{
    if (!sh || atomic_fetch_sub(&sh->refs, 1) != 1) return;
    close(sh->wake_fd);
    pthread_mutex_destroy(&sh->mu);
    mem_free(sh);
}

void shared_wake(http_shared *sh)
{
    uint64_t one = 1;
    while (write(sh->wake_fd, &one, sizeof one) < 0 && errno == EINTR) {} /* EAGAIN: it is awake as can be */
}

/* Puts r on the list (r->mu is held). False: there is no I/O thread any more. */
static bool post(http_request *r)
{
    http_shared *sh = r->sh;
    if (r->posted) return true;
    pthread_mutex_lock(&sh->mu);
    bool open = !sh->closed, first = !sh->first;
    if (open) {
        r->posted = true;
        r->next_posted = NULL;
        if (first) sh->first = r;
        else sh->last->next_posted = r;
        sh->last = r;
    }
    pthread_mutex_unlock(&sh->mu);
    if (open && first) shared_wake(sh);
    return open;
}

static http_request *take(http_shared *sh, bool close)
{
    pthread_mutex_lock(&sh->mu);
    http_request *r = sh->first;
    sh->first = sh->last = NULL;
    if (close) sh->closed = true;
    pthread_mutex_unlock(&sh->mu);
    return r;
}

http_request *shared_take(http_shared *sh) { return take(sh, false); }
http_request *shared_close(http_shared *sh) { return take(sh, true); }

/* ---- life and death ---- */

status http_request_new(http_shared *sh, http_head *head, const char *peer, http_request **out)
{
    http_request *r = mem_calloc(1, sizeof *r);
    if (!r) return err_nomem();
    r->refs = 1;
    r->sh = sh;
    atomic_fetch_add(&sh->refs, 1);
    r->head = *head;
    *head = (http_head){0};
    snprintf(r->peer, sizeof r->peer, "%s", peer);
    r->arrival = clock_now();
    pthread_mutex_init(&r->mu, NULL);
    *out = r;
    return ST_OK;
}

http_request *http_retain(http_request *r)
{
    atomic_fetch_add(&r->refs, 1);
    return r;
}

void http_release(http_request *r)
{
    if (!r || atomic_fetch_sub(&r->refs, 1) != 1) return;
    if (r->on_release) r->on_release(r->data);
    atomic_fetch_sub(&r->sh->body_bytes, r->counted_bytes);
    guard_free(&r->head);
    buf_free(&r->body);
    buf_free(&r->headers);
    buf_free(&r->out);
    buf_free(&r->io);
    buf_free(&r->keep_alive_text);
    pthread_mutex_destroy(&r->mu);
    shared_release(r->sh);
    mem_free(r);
}

void request_gone(http_request *r)
{
    pthread_mutex_lock(&r->mu);
    void (*fn)(http_request *, void *) = r->state == ANSWER_DONE ? NULL : r->on_gone;
    void *arg = r->on_gone_arg;
    r->on_gone = NULL;
    r->gone = true;
    pthread_mutex_unlock(&r->mu);
    if (fn) fn(r, arg);
}

void request_finished(http_request *r)
{
    if (r->finished) return;
    r->finished = true;
    atomic_fetch_sub(&r->sh->in_flight, 1);
    http_release(r);
}

void http_on_disconnect(http_request *r, void (*fn)(http_request *, void *), void *arg)
{
    pthread_mutex_lock(&r->mu);
    bool now = r->gone && r->state != ANSWER_DONE;
    r->on_gone = now ? NULL : fn;
    r->on_gone_arg = arg;
    pthread_mutex_unlock(&r->mu);
    if (now && fn) fn(r, arg);
}

bool http_disconnected(const http_request *r) { return r->gone; }
void http_on_release(http_request *r, void (*fn)(void *)) { r->on_release = fn; }

/* ---- what the client asked ---- */

const char *http_method(const http_request *r) { return r->head.method; }
const char *http_path(const http_request *r) { return r->head.path; }
const char *http_header(const http_request *r, const char *name) { return guard_field(&r->head, name); }
const char *http_peer(const http_request *r) { return r->peer; }
double http_arrival(const http_request *r) { return r->arrival; }
void *http_data(const http_request *r) { return r->data; }
void http_set_data(http_request *r, void *data) { r->data = data; }

const char *http_query(const http_request *r, const char *key)
{
    for (int i = 0; i < r->head.n_query; i++)
        if (strcmp(r->head.query[i].name, key) == 0) return r->head.query[i].value;
    return NULL;
}

const char *http_body(const http_request *r, size_t *n)
{
    if (n) *n = r->body.len;
    return buf_cstr(&r->body);
}

/* ---- text of answers ---- */

const char *http_phrase(int code)
{
    static const struct { int code; const char *phrase; } known[] = {
        { 100, "Continue" }, { 101, "Switching Protocols" }, { 102, "Processing" }, { 200, "OK" }, { 201, "Created" }, { 202, "Accepted" },
        { 203, "Non-Authoritative Information" }, { 204, "No Content" }, { 205, "Reset Content" }, { 206, "Partial Content" },
        { 300, "Multiple Choices" }, { 301, "Moved Permanently" }, { 302, "Found" }, { 303, "See Other" }, { 304, "Not Modified" },
        { 307, "Temporary Redirect" }, { 308, "Permanent Redirect" }, { 400, "Bad Request" }, { 401, "Unauthorized" },
        { 402, "Payment Required" }, { 403, "Forbidden" }, { 404, "Not Found" }, { 405, "Method Not Allowed" }, { 406, "Not Acceptable" },
        { 407, "Proxy Authentication Required" }, { 408, "Request Timeout" }, { 409, "Conflict" }, { 410, "Gone" }, { 411, "Length Required" },
        { 412, "Precondition Failed" }, { 413, "Request Entity Too Large" }, { 414, "Request-URI Too Long" }, { 415, "Unsupported Media Type" },
        { 416, "Requested Range Not Satisfiable" }, { 417, "Expectation Failed" }, { 418, "I'm a Teapot" }, { 421, "Misdirected Request" },
        { 422, "Unprocessable Entity" }, { 423, "Locked" }, { 424, "Failed Dependency" }, { 425, "Too Early" }, { 426, "Upgrade Required" },
        { 428, "Precondition Required" }, { 429, "Too Many Requests" }, { 431, "Request Header Fields Too Large" },
        { 451, "Unavailable For Legal Reasons" }, { 500, "Internal Server Error" }, { 501, "Not Implemented" }, { 502, "Bad Gateway" },
        { 503, "Service Unavailable" }, { 504, "Gateway Timeout" }, { 505, "HTTP Version Not Supported" }, { 507, "Insufficient Storage" },
        { 508, "Loop Detected" }, { 511, "Network Authentication Required" },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].code == code) return known[i].phrase;
    return "Unknown";
}

/* Not strftime: its names depend on the locale. */
static void put_date(buf *out)
{
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    buf_printf(out, "date: %.3s, %02d %.3s %d %02d:%02d:%02d GMT\r\n", days + 3 * tm.tm_wday, tm.tm_mday, months + 3 * tm.tm_mon,
               tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

static bool bodiless(int code) { return code == 204 || code == 304; }

void answer_head(buf *out, int code, const char *content_type, int64_t n, bool chunked, bool close_after, const buf *extra)
{
    buf_printf(out, "HTTP/1.1 %d %s\r\n", code, http_phrase(code));
    put_date(out);
    buf_str(out, "server: systolic\r\n");
    if (content_type) buf_printf(out, "content-type: %s\r\n", content_type);
    if (!bodiless(code)) {
        if (n >= 0) buf_printf(out, "content-length: %lld\r\n", (long long)n);
        else if (chunked) buf_str(out, "transfer-encoding: chunked\r\n");
    }
    if (extra && extra->len) buf_append(out, extra->data, extra->len);
    if (close_after) buf_str(out, "connection: close\r\n");
    buf_str(out, "\r\n");
}

void answer_error(buf *out, int code, const char *message)
{
    buf body = {0};
    jw w = jw_to(&body);
    jw_obj(&w);
    jw_key(&w, "error");
    jw_obj(&w);
    jw_key(&w, "message"); jw_str(&w, message);
    jw_key(&w, "type");    jw_str(&w, http_phrase(code));
    jw_key(&w, "param");   jw_null(&w);
    jw_key(&w, "code");    jw_i64(&w, code);
    jw_end_obj(&w);
    jw_end_obj(&w);
    answer_head(out, code, "application/json", (int64_t)body.len, false, true, NULL);
    buf_append(out, body.data, body.len);
    if (body.failed) out->failed = true;
    buf_free(&body);
}

/* ---- answering ---- */

static bool is_ours(const char *name)
{
    static const char *const ours[] = { "Content-Length", "Transfer-Encoding", "Connection", "Date", "Server" };
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strcasecmp(name, ours[i]) == 0) return true;
    return false;
}

void http_set_header(http_request *r, const char *name, const char *value)
{
    if (!guard_is_token(name, strlen(name)) || !guard_is_value(value) || is_ours(name)) {
        log_warn("answer header dropped: %s", is_ours(name) ? "its name belongs to the server" : "its name or value holds characters that are not allowed");
        return;
    }
    pthread_mutex_lock(&r->mu);
    buf_printf(&r->headers, "%s: %s\r\n", name, value);
    pthread_mutex_unlock(&r->mu);
}

/* Starts the answer (r->mu held). False if it was begun before, which is the handler's bug. */
static bool begin(http_request *r, int code, const char *content_type, int64_t n)
{
    if (r->state != ANSWER_NONE) {
        log_error("%s %s is answered twice", r->head.method, r->head.path);
        return false;
    }
    if (code < 200 || code > 599) code = 500;
    bool until_close = n < 0 && r->head.minor == 0; /* HTTP/1.0 knows no chunks */
    r->code = code;
    r->chunked = n < 0 && !until_close && !bodiless(code);
    r->close_after = !r->head.keep_alive || until_close || r->sh->draining;
    if (content_type && !guard_is_value(content_type)) content_type = NULL;
    if (r->head.minor == 0 && !r->close_after) buf_str(&r->headers, "connection: keep-alive\r\n");
    answer_head(&r->out, code, content_type, n, r->chunked, r->close_after, &r->headers);
    if (r->headers.failed) r->out.failed = true;
    return true;
}

static bool sends_body(const http_request *r) { return !bodiless(r->code) && strcmp(r->head.method, "HEAD") != 0; }

/* Posts (r->mu held, released here). Without an I/O thread a complete answer ends here. Held meanwhile: the I/O thread
 * may drop the last other reference as soon as it sees the end. */
static void post_and_unlock(http_request *r)
{
    http_retain(r);
    bool finish = !post(r) && r->state == ANSWER_DONE;
    pthread_mutex_unlock(&r->mu);
    if (finish) request_finished(r);
    http_release(r);
}

void http_reply(http_request *r, int code, const char *content_type, const void *body, size_t n)
{
    pthread_mutex_lock(&r->mu);
    if (!begin(r, code, content_type, (int64_t)n)) {
        pthread_mutex_unlock(&r->mu);
        return;
    }
    if (n && sends_body(r)) buf_append(&r->out, body, n);
    r->state = ANSWER_DONE;
    post_and_unlock(r);
}

bool http_stream_begin(http_request *r, int code, const char *content_type)
{
    pthread_mutex_lock(&r->mu);
    if (!begin(r, code, content_type, -1)) {
        pthread_mutex_unlock(&r->mu);
        return false;
    }
    r->state = ANSWER_STREAM;
    r->stream = true;
    bool ok = !r->gone && !r->out.failed;
    post_and_unlock(r);
    return ok;
}

static void put_piece(const http_request *r, buf *out, const void *data, size_t n)
{
    if (r->chunked) buf_printf(out, "%zx\r\n", n);
    buf_append(out, data, n);
    if (r->chunked) buf_append(out, "\r\n", 2);
}

bool http_stream_write(http_request *r, const void *data, size_t n)
{
    if (r->gone) return false;
    pthread_mutex_lock(&r->mu);
    bool ok = r->state == ANSWER_STREAM && !r->cut && !r->gone;
    if (!ok || n == 0 || !sends_body(r)) {
        pthread_mutex_unlock(&r->mu);
        return ok;
    }
    put_piece(r, &r->out, data, n);
    if (r->out.failed || r->out.len > r->sh->max_output_bytes) r->cut = true;
    ok = !r->cut && post(r);
    if (!ok) post(r);
    pthread_mutex_unlock(&r->mu);
    return ok;
}

static void end_stream(http_request *r, bool cut)
{
    pthread_mutex_lock(&r->mu);
    if (r->state != ANSWER_STREAM) {
        log_error("%s %s: the end of a stream that is not open", r->head.method, r->head.path);
        pthread_mutex_unlock(&r->mu);
        return;
    }
    if (cut) r->cut = true;
    else if (r->chunked && sends_body(r)) buf_str(&r->out, "0\r\n\r\n");
    r->state = ANSWER_DONE;
    post_and_unlock(r);
}

void http_stream_end(http_request *r) { end_stream(r, false); }
void http_stream_abort(http_request *r) { end_stream(r, true); }

void http_stream_keep_alive(http_request *r, double seconds, const char *text)
{
    pthread_mutex_lock(&r->mu);
    if (r->state == ANSWER_STREAM && sends_body(r)) {
        buf_clear(&r->keep_alive_text);
        put_piece(r, &r->keep_alive_text, text, strlen(text));
        r->keep_alive_s = r->keep_alive_text.failed ? 0 : seconds;
        post(r);
    }
    pthread_mutex_unlock(&r->mu);
}
