#include "load/hub_net.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "load/hub_cache.h"
#include "load/hub_part.h"
#include "load/st_header.h"

enum { TRIES = 5, LIST_TRIES = 3, ROUNDS_MAX = 1000, LIST_MAX = 64 << 20, HEAD_HOPS = 5 };
static const double PAUSE_S = 0.5, PAUSE_MAX_S = 30, RETRY_AFTER_MAX_S = 300;

status hub_net_open(hub_net *n, arena *mem, const char *id, const char *revision, const char *token, bool show)
{
    *n = (hub_net){ .mem = mem, .id = id, .revision = revision, .progress = show };
    const char *at = getenv("HF_ENDPOINT"), *timeout = getenv("HF_HUB_DOWNLOAD_TIMEOUT");
    if (!at || !*at) at = "https://huggingface.co";
    size_t len = strlen(at);
    while (len && at[len - 1] == '/') len--;
    n->endpoint = arena_strndup(mem, at, len);
    if (token) n->headers[0] = arena_printf(mem, "Authorization: Bearer %s", token);
    if (!n->endpoint || (token && !n->headers[0])) return err_nomem();
    if (strncmp(n->endpoint, "http://", 7) != 0 && strncmp(n->endpoint, "https://", 8) != 0)
        return err_set(ST_INVALID, "HF_ENDPOINT is \"%s\": expected http://... or https://...", at);
    n->stall_s = timeout ? strtod(timeout, NULL) : 0;
    if (!(n->stall_s > 0 && n->stall_s < 86400)) n->stall_s = 30;
    return fetch_open(&n->http);
}

void hub_net_close(hub_net *n)
{
    fetch_close(n->http);
    n->http = NULL;
}

/* Percent-encodes all but unreserved characters (and '/' if `slashes`). NULL when out of memory. */
static const char *quoted(hub_net *n, const char *s, bool slashes)
{
    char *out = arena_alloc(n->mem, strlen(s) * 3 + 1), *o = out;
    if (!out) return NULL;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (isalnum(c) || strchr("-_.~", c) || (slashes && c == '/')) *o++ = (char)c;
        else o += snprintf(o, 4, "%%%02X", c);
    }
    *o = 0;
    return out;
}

static const char *file_url(hub_net *n, const char *commit, const char *name)
{
    const char *rev = quoted(n, commit, false), *file = quoted(n, name, true);
    return rev && file ? arena_printf(n->mem, "%s/%s/resolve/%s/%s", n->endpoint, n->id, rev, file) : NULL;
}

/* ---- what an answer means, and whether to ask again ---- */

typedef struct retry {
    const char *what;  /* for messages: "org/name", "org/name/config.json" */
    int failures, tries;
    double after_s;    /* the server's Retry-After, 0 if none */
    bool again;        /* the failure may pass */
} retry;

static double retry_after(const fetch_response *r)
{
    char v[64];
    if (!fetch_header(r, "Retry-After", v, sizeof v)) return 0;
    struct tm tm = {0};
    if (!isdigit((unsigned char)v[0])) { /* a date */
        if (!strptime(v, "%a, %d %b %Y %H:%M:%S", &tm)) return 0;
        double s = difftime(timegm(&tm), time(NULL));
        return s > 0 ? s : 0;
    }
    return strtod(v, NULL);
}

static status denied(const hub_net *n, int code, const char *kind)
{
    if (strcmp(kind, "GatedRepo") == 0)
        return err_set(ST_DENIED, "%s is gated: accept its conditions at %s/%s and set HF_TOKEN to a token of that account (the hub answered %d%s)", n->id, n->endpoint, n->id, code, n->headers[0] ? " to the token in use" : "");
    if (n->headers[0]) return err_set(ST_DENIED, "the hub refused the token (HF_TOKEN or --hf-token) for %s: it is invalid or may not read this model (%d)", n->id, code);
    return err_set(ST_DENIED, "%s does not exist on the hub, or is private or gated: check the name, or set HF_TOKEN to a token that may read it (the hub answered %d)", n->id, code);
}

static status not_found(const hub_net *n, const char *kind, const retry *t)
{
    if (strcmp(kind, "RepoNotFound") == 0) return err_set(ST_NOT_FOUND, "model %s was not found on %s", n->id, n->endpoint);
    if (strcmp(kind, "RevisionNotFound") == 0) return err_set(ST_NOT_FOUND, "model %s has no revision \"%s\"", n->id, n->revision);
    return err_set(ST_NOT_FOUND, "%s was not found on %s: the model id or the revision \"%s\" is wrong (404)", t->what, n->endpoint, n->revision);
}

/* The status of an answer that is not the one hoped for; fills in whether and when to ask again. */
static status bad_answer(const hub_net *n, const fetch_response *r, retry *t)
{
    char kind[64] = "", said[200] = "", shown[ST_SHOWN_CAP];
    fetch_header(r, "X-Error-Code", kind, sizeof kind);
    fetch_header(r, "X-Error-Message", said, sizeof said);
    t->again = r->code == 408 || r->code == 429 || r->code >= 500;
    t->after_s = t->again ? retry_after(r) : 0;
    if (r->code == 401 || r->code == 403) return denied(n, r->code, kind);
    if (r->code == 404) return not_found(n, kind, t);
    if (r->code == 429) return err_set(ST_LIMIT, "%s: the hub says too many requests (429)%s", t->what, n->headers[0] ? "" : "; a token (HF_TOKEN) raises the limit");
    return err_set(ST_IO, "%s: the hub answered %d%s%s", t->what, r->code, *said ? ": " : "", st_shown(said, shown));
}

static void pause_s(double s)
{
    struct timespec ts = { .tv_sec = (time_t)s, .tv_nsec = (long)((s - (double)(time_t)s) * 1e9) };
    while (nanosleep(&ts, &ts) != 0 && errno == EINTR) {}
}

/* After a failure: waits and returns ST_OK if it is worth another try, else the failure (message set). */
static status wait_or_fail(retry *t, status st)
{
    if (!t->again) return st;
    if (++t->failures >= t->tries) return err_wrap(st, "gave up after %d attempts", t->failures);
    if (t->after_s > RETRY_AFTER_MAX_S) return err_wrap(st, "the server asks to wait %.0f seconds", t->after_s);
    double s = PAUSE_S * (double)(1 << (t->failures - 1));
    if (s > PAUSE_MAX_S) s = PAUSE_MAX_S;
    if (t->after_s > 0) s = t->after_s;
    log_warn("%s; trying again in %.1f s (%d of %d)", err_msg(), s, t->failures + 1, t->tries);
    pause_s(s);
    return ST_OK;
}

/* Is a failure of fetch_run itself (no answer) one that may pass? */
static bool may_pass(status st) { return st == ST_IO || st == ST_LIMIT; }

/* Asks until an answer with `accept`ed code comes; the response is then the caller's. */
static status ask(hub_net *n, const char *url, const fetch_options *o, retry *t, bool (*accept)(int code), fetch_response *r)
{
    for (;;) {
        status st = fetch_run(n->http, url, o, r);
        t->after_s = 0;
        t->again = may_pass(st);
        if (st == ST_OK && accept(r->code)) return ST_OK;
        if (st == ST_OK) st = bad_answer(n, r, t);
        else if (st != ST_NOMEM) st = err_wrap(st, "%s", t->what);
        fetch_response_free(r);
        TRY(wait_or_fail(t, st));
    }
}

static bool is_200(int code) { return code == 200; }
static bool is_200_or_3xx(int code) { return code == 200 || (code >= 301 && code <= 308 && code != 304); }

/* ---- the list ---- */

status hub_net_list(hub_net *n, jv **out)
{
    const char *rev = quoted(n, n->revision, false);
    const char *url = rev ? arena_printf(n->mem, "%s/api/models/%s/revision/%s", n->endpoint, n->id, rev) : NULL;
    if (!url) return err_nomem();
    fetch_options o = { .headers = n->headers, .stall_timeout_s = n->stall_s, .max_redirects = -1, .max_bytes = LIST_MAX };
    retry t = { .what = n->id, .tries = LIST_TRIES };
    fetch_response r;
    jv *list = NULL;
    TRY(ask(n, url, &o, &t, is_200, &r));
    status st = jv_parse(buf_cstr(&r.body), r.body.len, &list);
    fetch_response_free(&r);
    if (st != ST_OK) return st == ST_NOMEM ? st : err_wrap(ST_INVALID, "%s", url);
    if (!hub_is_hex(jv_get_str(list, "sha", ""), 40) || !jv_is(jv_get(list, "siblings"), JV_ARR)) {
        jv_free(list);
        return err_set(ST_INVALID, "%s: the answer lacks \"sha\" or \"siblings\": is HF_ENDPOINT a Hugging Face hub?", url);
    }
    *out = list;
    return ST_OK;
}

/* ---- one file's description ---- */

/* ETag or X-Linked-Etag without W/ and quotes, checked to be a file name. */
static bool read_etag(const fetch_response *r, const char *header, char out[HUB_ETAG_CAP])
{
    char raw[256];
    if (!fetch_header(r, header, raw, sizeof raw)) return false;
    const char *s = strncmp(raw, "W/", 2) == 0 ? raw + 2 : raw;
    size_t len = strlen(s);
    if (len >= 2 && s[0] == '"' && s[len - 1] == '"') {
        s++;
        len -= 2;
    }
    if (len == 0 || len >= HUB_ETAG_CAP || s[0] == '.') return false;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)s[i]) && !strchr("-_.", s[i])) return false;
    memcpy(out, s, len);
    out[len] = 0;
    return true;
}

static status read_meta(const fetch_response *r, const char *commit, const char *what, hub_meta *out)
{
    char text[64];
    hub_meta m = { .size = -1 };
    if (fetch_header(r, "X-Repo-Commit", text, sizeof text) && strcmp(text, commit) != 0)
        return err_set(ST_INVALID, "%s: the hub answered for another commit than %s", what, commit);
    if (!read_etag(r, "X-Linked-Etag", m.etag) && !read_etag(r, "ETag", m.etag))
        return err_set(ST_INVALID, "%s: the hub's answer has no usable ETag", what);
    if (fetch_header(r, "X-Linked-Size", text, sizeof text)) {
        char *end;
        errno = 0;
        m.size = strtoll(text, &end, 10);
        if (end == text || *end || errno || m.size < 0) return err_set(ST_INVALID, "%s: X-Linked-Size is \"%s\", expected a number of bytes", what, text);
    } else if (r->code == 200) {
        m.size = r->content_length;
    }
    m.is_sha256 = hub_is_hex(m.etag, 64);
    *out = m;
    return ST_OK;
}

/* A path on the same host (a renamed model), or NULL (*oom set if memory ran out). */
static const char *relative_target(hub_net *n, const fetch_response *r, bool *oom)
{
    char where[2048];
    *oom = false;
    if (r->code == 200 || !fetch_header(r, "Location", where, sizeof where) || where[0] != '/' || where[1] == '/') return NULL;
    const char *host = strstr(n->endpoint, "://") + 3;
    const char *url = arena_printf(n->mem, "%.*s%s", (int)(host - n->endpoint + (long)strcspn(host, "/")), n->endpoint, where);
    *oom = !url;
    return url;
}

status hub_net_head(hub_net *n, const char *commit, const char *name, hub_meta *out)
{
    const char *what = arena_printf(n->mem, "%s/%s", n->id, name), *url = file_url(n, commit, name);
    if (!what || !url) return err_nomem();
    fetch_options o = { .method = "HEAD", .headers = n->headers, .stall_timeout_s = n->stall_s };
    for (int hop = 0; hop < HEAD_HOPS; hop++) {
        retry t = { .what = what, .tries = TRIES };
        fetch_response r;
        bool oom;
        char etag[HUB_ETAG_CAP];
        TRY(ask(n, url, &o, &t, o.max_redirects ? is_200 : is_200_or_3xx, &r));
        const char *next = relative_target(n, &r, &oom);
        bool known = read_etag(&r, "X-Linked-Etag", etag) || read_etag(&r, "ETag", etag);
        status st = oom ? err_nomem() : ST_OK;
        if (!next && !known && r.code != 200 && st == ST_OK) { /* a mirror that sends us elsewhere: ask there */
            o.max_redirects = -1;
            next = url;
        }
        if (st == ST_OK && !next) st = read_meta(&r, commit, what, out);
        fetch_response_free(&r);
        if (st != ST_OK || !next) return st;
        url = next;
    }
    return err_set(ST_LIMIT, "%s: more than %d redirects", what, (int)HEAD_HOPS);
}

/* ---- the bytes ---- */

static bool on_head(void *arg, const fetch_response *r) { return hub_part_head(arg, r); }
static bool on_data(void *arg, const void *data, size_t len) { return hub_part_data(arg, data, len); }

/* One request for the rest of the part. */
static status attempt(hub_net *n, const char *url, hub_part *p, retry *t)
{
    fetch_options o = { .headers = n->headers, .range_from = p->have, .stall_timeout_s = n->stall_s, .max_redirects = -1, .on_head = on_head, .on_data = on_data, .arg = p };
    fetch_response r;
    status st = fetch_run(n->http, url, &o, &r);
    t->after_s = 0;
    t->again = may_pass(st);
    if (p->failed != ST_OK) { /* one of our callbacks stopped it and knows why */
        st = err_set(p->failed, "%s", p->why);
        t->again = false;
    } else if (st == ST_OK && r.code == 416) {
        p->wrong = true;
        st = err_set(ST_IO, "the server has fewer bytes than the %lld that were downloaded before", (long long)p->have);
    } else if (st == ST_OK && r.code != 200 && r.code != 206) {
        st = bad_answer(n, &r, t);
        fetch_response_free(&r);
        return st;
    } else if (st == ST_OK) {
        st = hub_part_check(p);
        t->again = st == ST_IO && !p->wrong; /* it ended early without a Content-Length to tell */
    }
    fetch_response_free(&r);
    return st == ST_OK || st == ST_NOMEM ? st : err_wrap(st, "%s", t->what);
}

/* Rounds until the part is complete and right. Wrong contents get one more chance from the beginning: what was there
 * before may have been the culprit. */
static status rounds(hub_net *n, const char *url, const char *what, hub_part *p)
{
    retry t = { .what = what, .tries = TRIES };
    bool restarted = false;
    status st = ST_OK;
    if (p->meta->size > 0 && p->have == p->meta->size) { /* an earlier run got everything but the check */
        st = hub_part_check(p);
        if (st != ST_OK) TRY(hub_part_restart(p));
        if (st == ST_OK) return ST_OK;
    }
    for (int round = 0; round < ROUNDS_MAX; round++) {
        int64_t before = p->have;
        st = attempt(n, url, p, &t);
        if (st == ST_OK || st == ST_NOMEM) return st;
        if (p->wrong && restarted) return st;
        if (p->wrong) {
            restarted = true;
            log_warn("%s; downloading it again", err_msg());
            TRY(hub_part_restart(p));
            continue;
        }
        if (p->have > before) t.failures = 0; /* it moves, so patience pays */
        TRY(wait_or_fail(&t, st));
    }
    return err_wrap(st, "gave up after %d pieces", (int)ROUNDS_MAX);
}

status hub_net_download(hub_net *n, const char *commit, const char *name, const hub_meta *m, const char *part)
{
    const char *what = arena_printf(n->mem, "%s/%s", n->id, name), *url = file_url(n, commit, name);
    if (!what || !url) return err_nomem();
    hub_part p;
    TRY(hub_part_open(part, name, m, n->progress, &p));
    status st = rounds(n, url, what, &p);
    hub_part_close(&p, st == ST_OK);
    return st;
}
