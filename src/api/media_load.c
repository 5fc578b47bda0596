/* Where media come from: data: URLs, http(s) with limits of vLLM's environment variables, files below one folder. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "api/media.h"
#include "base/fetch.h"

static double env_number(const char *name, double def)
{
    const char *v = getenv(name);
    char *end;
    if (!v || !*v) return def;
    const double d = strtod(v, &end);
    return *end || !(d >= 0) ? def : d;
}

static size_t most_bytes(void) { return (size_t)(env_number("VLLM_MAX_MEDIA_DOWNLOAD_SIZE_MB", 256) * 1048576); }

/* ---- base64 (RFC 4648, both alphabets, padding optional, white space skipped) ---- */

static int digit(unsigned char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' || c == '-' ? 62 : c == '/' || c == '_' ? 63 : -1;
}

static status from_base64(const char *s, size_t n, buf *out)
{
    char *dst = buf_reserve(out, n / 4 * 3 + 3);
    uint32_t bits = 0;
    int n_bits = 0;
    size_t len = 0;
    if (!dst) return err_nomem();
    while (n > 0 && (s[n - 1] == '=' || s[n - 1] == '\n' || s[n - 1] == '\r')) n--;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\n' || s[i] == '\r' || s[i] == ' ') continue;
        const int d = digit((unsigned char)s[i]);
        if (d < 0) return err_set(ST_INVALID, "not base64: character %zu", i);
        bits = bits << 6 | (uint32_t)d;
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        dst[len++] = (char)(bits >> n_bits & 255);
    }
    out->len += len;
    return len > most_bytes() ? err_set(ST_LIMIT, "%zu bytes of media, at most %zu are accepted (VLLM_MAX_MEDIA_DOWNLOAD_SIZE_MB)", len, most_bytes()) : ST_OK;
}

static status from_data_url(const char *url, buf *out)
{
    const char *comma = strchr(url, ',');
    if (!comma || comma - url < 7 || strncasecmp(comma - 7, ";base64", 7) != 0) return err_set(ST_UNSUPPORTED, "only base64 data URLs are supported for now");
    return from_base64(comma + 1, strlen(comma + 1), out);
}

/* ---- http ---- */

/* The host of scheme://[user@]host[:port]/..., lower case. */
static bool host_of(const char *url, char *dst, size_t cap)
{
    const char *p = strstr(url, "://");
    if (!p) return false;
    p += 3;
    const char *end = p + strcspn(p, "/?#\\");
    for (const char *at = p; at < end; at++)
        if (*at == '@') p = at + 1;
    if (p < end && *p == '[') { /* an IPv6 address */
        const char *close = memchr(p, ']', (size_t)(end - p));
        if (!close) return false;
        p++;
        end = close;
    } else {
        const char *colon = memchr(p, ':', (size_t)(end - p));
        if (colon) end = colon;
    }
    const size_t n = (size_t)(end - p);
    if (n == 0 || n >= cap) return false;
    for (size_t i = 0; i < n; i++) dst[i] = (char)(p[i] >= 'A' && p[i] <= 'Z' ? p[i] + 32 : p[i]);
    dst[n] = 0;
    return true;
}

static status check_host(const struct media_setup *m, const char *url)
{
    char host[256];
    if (!host_of(url, host, sizeof host)) return err_set(ST_INVALID, "the URL has no host");
    if (m->domains.n == 0) return ST_OK;
    for (int i = 0; i < m->domains.n; i++)
        if (strcasecmp(m->domains.v[i], host) == 0) return ST_OK;
    return err_set(ST_DENIED, "The URL must be from one of the allowed domains (--allowed-media-domains). Input URL domain: %s", host);
}

static status from_http(const struct media_setup *m, media_kind kind, const char *url, buf *out)
{
    enum { MOST_DOMAINS = 256 };
    const char *hosts[MOST_DOMAINS + 1] = { NULL };
    fetch *f = NULL;
    fetch_response r = {0};
    TRY(check_host(m, url));
    if (m->domains.n > MOST_DOMAINS) return err_set(ST_LIMIT, "more than %d domains", MOST_DOMAINS);
    for (int i = 0; i < m->domains.n; i++) hosts[i] = m->domains.v[i];
    const double timeout = kind == MEDIA_IMAGE ? env_number("VLLM_IMAGE_FETCH_TIMEOUT", 5) : env_number("VLLM_AUDIO_FETCH_TIMEOUT", 10);
    const fetch_options o = { .total_timeout_s = timeout, .connect_timeout_s = timeout, .max_bytes = most_bytes(), .max_redirects = env_number("VLLM_MEDIA_URL_ALLOW_REDIRECTS", 1) != 0 ? -1 : 0,
                              .allowed_redirect_hosts = m->domains.n ? hosts : NULL, .public_only = env_number("VLLM_MEDIA_EGRESS_BLOCK_PRIVATE", 1) != 0 };
    TRY(fetch_open(&f));
    status st = fetch_run(f, url, &o, &r);
    if (r.not_public) st = err_wrap(st, "not fetched (VLLM_MEDIA_EGRESS_BLOCK_PRIVATE=0 allows it)");
    if (st == ST_OK && (r.code < 200 || r.code > 299)) st = err_set(ST_INVALID, "fetching the media answered HTTP %d", r.code);
    if (st == ST_OK) buf_append(out, r.body.data, r.body.len);
    fetch_response_free(&r);
    fetch_close(f);
    return st == ST_OK ? buf_status(out) : st;
}

/* ---- files ---- */

static status read_all(const char *path, buf *out)
{
    char block[1 << 16];
    FILE *f = fopen(path, "rb");
    if (!f) return err_errno("cannot open the file");
    status st = ST_OK;
    for (size_t n; st == ST_OK && (n = fread(block, 1, sizeof block, f)) > 0;) {
        buf_append(out, block, n);
        if (out->len > most_bytes()) st = err_set(ST_LIMIT, "the file has more than %zu bytes", most_bytes());
    }
    if (st == ST_OK && ferror(f)) st = err_errno("cannot read the file");
    fclose(f);
    return st == ST_OK ? buf_status(out) : st;
}

/* file:///folder/name, percent signs decoded; links are followed before the folder is compared. */
static status from_file(const struct media_setup *m, const char *url, buf *out)
{
    char path[PATH_MAX], real[PATH_MAX], root[PATH_MAX];
    size_t n = 0;
    if (!m->path) return err_set(ST_DENIED, "Cannot load local files without `--allowed-local-media-path`.");
    const char *p = url + 7;
    if (*p != '/') return err_set(ST_INVALID, "file URLs name a path: file:///folder/name");
    for (; *p && n + 1 < sizeof path; p++) {
        unsigned v;
        if (*p == '%' && sscanf(p + 1, "%2x", &v) == 1 && p[1] && p[2] && v) path[n++] = (char)v, p += 2;
        else path[n++] = *p;
    }
    path[n] = 0;
    if (*p) return err_set(ST_INVALID, "the path is too long");
    if (!realpath(m->path, root) || !realpath(path, real)) return err_set(ST_NOT_FOUND, "no such file below `--allowed-local-media-path`");
    const size_t len = strlen(root);
    if (strncmp(real, root, len) != 0 || (real[len] != '/' && strcmp(root, "/") != 0))
        return err_set(ST_DENIED, "The file must be a subpath of `--allowed-local-media-path`.");
    return read_all(real, out);
}

status media_load_url(const struct media_setup *m, media_kind kind, const char *url, buf *out)
{
    if (strncasecmp(url, "data:", 5) == 0) return from_data_url(url, out);
    if (strncasecmp(url, "http://", 7) == 0 || strncasecmp(url, "https://", 8) == 0) return from_http(m, kind, url, out);
    if (strncasecmp(url, "file://", 7) == 0) return from_file(m, url, out);
    return err_set(ST_INVALID, "The URL must be either a HTTP, data or file URL.");
}

status media_load_part(const struct media_setup *m, media_kind kind, const jv *part, buf *out)
{
    const jv *sound = jv_get(part, "input_audio");
    if (sound) {
        const char *data = jv_get_str(sound, "data", NULL);
        if (!data) return err_set(ST_INVALID, "input_audio needs a string 'data'");
        return strncasecmp(data, "data:", 5) == 0 ? from_data_url(data, out) : from_base64(data, strlen(data), out);
    }
    const jv *at = jv_get(part, kind == MEDIA_IMAGE ? "image_url" : "audio_url");
    const char *url = jv_is(at, JV_STR) ? jv_str(at, NULL) : jv_get_str(at, "url", NULL);
    if (!url) return err_set(ST_INVALID, "%s needs a string 'url'", kind == MEDIA_IMAGE ? "image_url" : "audio_url");
    return media_load_url(m, kind, url, out);
}
