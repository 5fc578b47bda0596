/* Status codes and the thread-local error message.
 *
 * Every fallible function returns a `status`; the message that explains the
 * last failure lives in a thread-local buffer. Copy it (err_copy) before the
 * failure crosses a thread. */
#ifndef SYSTOLIC_BASE_ERR_H
#define SYSTOLIC_BASE_ERR_H

#include <stddef.h>

typedef enum status_code {
    ST_OK = 0,
    ST_INVALID,     /* the input is wrong: a file, a request, a flag */
    ST_NOT_FOUND,   /* a file, model, tensor or key does not exist */
    ST_UNSUPPORTED, /* valid input that this build cannot handle */
    ST_LIMIT,       /* a limit (size, depth, time, queue) was exceeded */
    ST_NOMEM,
    ST_IO,          /* operating system or network failure */
    ST_DENIED,      /* not permitted (401, 403, EACCES) */
    ST_CANCELLED,
    ST_INTERNAL     /* a bug or a broken engine */
} status_code;

/* A separate typedef so that every prototype carries warn_unused_result
 * through the FALLIBLE macro and still reads as `status`. */
typedef status_code status;
#define FALLIBLE __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))

/* Sets this thread's message and returns `s`, so `return err_set(...)` reads well. */
status err_set(status s, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Puts "context: " before the current message; returns `s`. */
status err_wrap(status s, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* ST_IO (or NOT_FOUND / DENIED / NOMEM by errno) with strerror(errno) appended. */
status err_errno(const char *fmt, ...) PRINTF_LIKE(1, 2);
status err_nomem(void);
/* The message of the last failure on this thread ("" when none). */
const char *err_msg(void);
void err_clear(void);
/* Copies the message into `dst` (always terminated). */
void err_copy(char *dst, size_t cap);
/* The message as it is now, for those who go on: a copy of the thread's own, which the next err_kept overwrites. */
const char *err_kept(void);
/* Name of a code, e.g. "invalid". */
const char *status_name(status s);

#define TRY(expr) do { status try_st_ = (expr); if (try_st_ != ST_OK) return try_st_; } while (0)
/* For functions with an `out:` label and a local `status st`. */
#define TRY_OUT(expr) do { st = (expr); if (st != ST_OK) goto out; } while (0)

#endif
