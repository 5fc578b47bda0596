#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MSG_CAP = 1024 };
static _Thread_local char msg[MSG_CAP];

status err_set(status s, const char *fmt, ...)
{
    /* Formatted into a second buffer first: an argument may be err_msg(). */
    char tmp[MSG_CAP];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(tmp, sizeof tmp, fmt, ap);
    va_end(ap);
    memcpy(msg, tmp, sizeof msg);
    return s;
}

/* Puts sep and text at `used`, cut to the buffer. */
static void append(char *tmp, size_t used, const char *sep, const char *text)
{
    const char *parts[2] = { sep, text };
    for (int i = 0; i < 2; i++)
        for (const char *p = parts[i]; *p && used < MSG_CAP - 1; p++) tmp[used++] = *p;
    tmp[used] = 0;
}

status err_wrap(status s, const char *fmt, ...)
{
    char tmp[MSG_CAP];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(tmp, sizeof tmp, fmt, ap);
    va_end(ap);
    size_t used = n < 0 ? 0 : (size_t)n < sizeof tmp ? (size_t)n : sizeof tmp - 1;
    append(tmp, used, ": ", msg);
    memcpy(msg, tmp, sizeof msg);
    return s;
}

status err_errno(const char *fmt, ...)
{
    int e = errno;
    char tmp[MSG_CAP];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(tmp, sizeof tmp, fmt, ap);
    va_end(ap);
    size_t used = n < 0 ? 0 : (size_t)n < sizeof tmp ? (size_t)n : sizeof tmp - 1;
    char why[128];
    const char *text = strerror_r(e, why, sizeof why);
    append(tmp, used, ": ", text);
    memcpy(msg, tmp, sizeof msg);
    switch (e) {
    case ENOENT: return ST_NOT_FOUND;
    case EACCES: case EPERM: return ST_DENIED;
    case ENOMEM: return ST_NOMEM;
    default: return ST_IO;
    }
}

status err_nomem(void) { return err_set(ST_NOMEM, "out of memory"); }
const char *err_msg(void) { return msg; }
void err_clear(void) { msg[0] = 0; }

void err_copy(char *dst, size_t cap)
{
    if (cap == 0) return;
    size_t n = strlen(msg);
    if (n >= cap) n = cap - 1;
    memcpy(dst, msg, n);
    dst[n] = 0;
}

const char *err_kept(void)
{
    static _Thread_local char kept[MSG_CAP];
    err_copy(kept, sizeof kept);
    return kept;
}

const char *status_name(status s)
{
    static const char *const names[] = {
        [ST_OK] = "ok", [ST_INVALID] = "invalid", [ST_NOT_FOUND] = "not found",
        [ST_UNSUPPORTED] = "unsupported", [ST_LIMIT] = "limit", [ST_NOMEM] = "out of memory",
        [ST_IO] = "i/o", [ST_DENIED] = "denied", [ST_CANCELLED] = "cancelled", [ST_INTERNAL] = "internal",
    };
    return (unsigned)s < sizeof names / sizeof *names ? names[s] : "unknown";
}
