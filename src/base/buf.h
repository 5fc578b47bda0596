/* Growable byte buffer and int32 vector. A failed append sticks (`failed`),
 * so a series of appends is checked once at the end. Zero-initialise. */
#ifndef SYSTOLIC_BASE_BUF_H
#define SYSTOLIC_BASE_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef struct buf {
    char *data;   /* always NUL-terminated after the first append; NULL while empty */
    size_t len, cap;
    bool failed;  /* an append ran out of memory; contents are then incomplete */
} buf;

void buf_append(buf *b, const void *data, size_t n);
void buf_str(buf *b, const char *s);
void buf_char(buf *b, char c);
void buf_printf(buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_vprintf(buf *b, const char *fmt, va_list ap);
/* Appends the UTF-8 encoding of a code point (U+FFFD when invalid). */
void buf_utf8(buf *b, uint32_t cp);
/* Makes room for n more bytes and returns where they go, or NULL. Does not change len. */
char *buf_reserve(buf *b, size_t n);
void buf_clear(buf *b);             /* keeps the memory */
void buf_free(buf *b);
status buf_status(const buf *b) FALLIBLE; /* ST_NOMEM (message set) if an append failed */
const char *buf_cstr(const buf *b);  /* never NULL */
char *buf_take(buf *b);              /* the caller owns the string (mem_free); b becomes empty. NULL if failed */

typedef struct i32vec {
    int32_t *data;
    size_t len, cap;
    bool failed;
} i32vec;

void i32vec_push(i32vec *v, int32_t x);
void i32vec_append(i32vec *v, const int32_t *x, size_t n);
void i32vec_free(i32vec *v);
status i32vec_status(const i32vec *v) FALLIBLE;

#endif
