/* Error bodies: {"error": {"message", "type", "param", "code"}}. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "api/app.h"
#include "base/log.h"

static void fill(api_error *e, int code, const char *type, const char *param)
{
    e->code = code;
    e->type = type;
    snprintf(e->param, sizeof e->param, "%s", param ? param : "");
}

status api_fail(api_error *e, int code, const char *type, const char *param, const char *fmt, ...)
{
    fill(e, code, type, param);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    return err_set(ST_INVALID, "%s", e->message);
}

status api_bad(api_error *e, const char *param, const char *fmt, ...)
{
    fill(e, 400, "BadRequestError", param);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof e->message, fmt, ap);
    va_end(ap);
    return err_set(ST_INVALID, "%s", e->message);
}

status api_fail_status(api_error *e, status s, const char *param)
{
    const char *msg = err_msg();
    switch (s) {
    case ST_INVALID: case ST_UNSUPPORTED: case ST_NOT_FOUND:
        fill(e, 400, "BadRequestError", param);
        break;
    case ST_LIMIT:
        fill(e, 400, "BadRequestError", param);
        break;
    case ST_NOMEM:
        fill(e, 500, "InternalServerError", NULL);
        msg = "out of memory";
        break;
    default:
        /* the details are ours: they go to the log, not to the client */
        log_error("request failed: %s", msg);
        fill(e, 500, "InternalServerError", NULL);
        msg = "Internal server error";
    }
    snprintf(e->message, sizeof e->message, "%s", msg);
    return s == ST_OK ? ST_INTERNAL : s;
}

void api_error_json(const api_error *e, buf *out)
{
    jw w = jw_to(out);
    jw_obj(&w);
    jw_key(&w, "error");
    jw_obj(&w);
    jw_key(&w, "message"); jw_str(&w, e->message);
    jw_key(&w, "type");    jw_str(&w, e->type);
    jw_key(&w, "param");   jw_str(&w, e->param[0] ? e->param : NULL);
    jw_key(&w, "code");    jw_i64(&w, e->code);
    jw_end_obj(&w);
    jw_end_obj(&w);
}
