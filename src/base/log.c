#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/json.h"

static _Atomic int min_level = LOG_INFO;
static _Atomic bool as_json;
static char prefix[64];
static const char *const names[] = { "DEBUG", "INFO", "WARNING", "ERROR" };

void log_init(void)
{
    log_level l;
    const char *env = getenv("VLLM_LOGGING_LEVEL");
    if (env && log_level_parse(env, &l) == ST_OK) min_level = (int)l;
    env = getenv("VLLM_LOGGING_PREFIX");
    if (env) snprintf(prefix, sizeof prefix, "%s", env);
}

void log_set_level(log_level l) { min_level = (int)l; }
void log_set_json(bool on) { as_json = on; }
bool log_enabled(log_level l) { return (int)l >= min_level; }

status log_level_parse(const char *name, log_level *out)
{
    static const struct { const char *name; log_level l; } known[] = {
        { "debug", LOG_DEBUG }, { "info", LOG_INFO }, { "warning", LOG_WARNING }, { "warn", LOG_WARNING },
        { "error", LOG_ERROR }, { "critical", LOG_ERROR }, { "trace", LOG_DEBUG },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcasecmp(name, known[i].name) == 0) {
            *out = known[i].l;
            return ST_OK;
        }
    return err_set(ST_INVALID, "unknown log level '%s' (expected debug, info, warning or error)", name);
}

static void emit(const char *s, size_t n)
{
    while (n > 0) {
        ssize_t w = write(STDERR_FILENO, s, n);
        if (w <= 0) return; /* nowhere left to complain */
        s += w;
        n -= (size_t)w;
    }
}

static void emit_json(log_level l, const char *file, int line, const char *when, const char *text)
{
    buf b = {0};
    jw w = jw_to(&b);
    jw_obj(&w);
    jw_key(&w, "timestamp"); jw_str(&w, when);
    jw_key(&w, "level");     jw_str(&w, names[l]);
    jw_key(&w, "file");      jw_str(&w, file);
    jw_key(&w, "line");      jw_i64(&w, line);
    jw_key(&w, "message");   jw_str(&w, text);
    jw_end_obj(&w);
    buf_char(&b, '\n');
    if (!b.failed) emit(b.data, b.len);
    buf_free(&b);
}

void log_write(log_level l, const char *file, int line, const char *fmt, ...)
{
    if (!log_enabled(l)) return;
    const char *base = strrchr(file, '/');
    base = base ? base + 1 : file;
    char when[32], text[4096];
    time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    va_list ap;
    va_start(ap, fmt);
    int len = vsnprintf(text, sizeof text - 1, fmt, ap);
    va_end(ap);
    if (len < 0) return;
    if (as_json) {
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S%z", &tm);
        emit_json(l, base, line, when, text);
        return;
    }
    strftime(when, sizeof when, "%m-%d %H:%M:%S", &tm);
    char out[4352];
    int n = snprintf(out, sizeof out, "%s%s %s [%s:%d] %s\n", prefix, names[l], when, base, line, text);
    if (n > 0) emit(out, (size_t)n < sizeof out ? (size_t)n : sizeof out - 1);
}

void log_plain(const char *fmt, ...)
{
    char out[2048];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(out, sizeof out - 1, fmt, ap);
    va_end(ap);
    if (n < 0) return;
    if ((size_t)n > sizeof out - 2) n = (int)sizeof out - 2;
    out[n] = '\n';
    emit(out, (size_t)n + 1);
}
