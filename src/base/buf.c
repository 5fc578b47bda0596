#include "base/buf.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

char *buf_reserve(buf *b, size_t n)
{
    if (b->failed) return NULL;
    if (b->cap - b->len > n) return b->data + b->len; /* strictly: room for the terminator */
    if (n > SIZE_MAX / 2 - b->len - 1) {
        b->failed = true;
        return NULL;
    }
    size_t need = b->len + n + 1, cap = b->cap ? b->cap * 2 : 64;
    if (cap < need) cap = need;
    char *p = mem_realloc(b->data, cap);
    if (!p) {
        b->failed = true;
        return NULL;
    }
    b->data = p;
    b->cap = cap;
    return b->data + b->len;
}

void buf_append(buf *b, const void *data, size_t n)
{
    char *p = buf_reserve(b, n);
    if (!p) return;
    if (n) memcpy(p, data, n);
    b->len += n;
    b->data[b->len] = 0;
}

void buf_str(buf *b, const char *s) { buf_append(b, s, strlen(s)); }
void buf_char(buf *b, char c) { buf_append(b, &c, 1); }

void buf_vprintf(buf *b, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    char *p = n < 0 ? NULL : buf_reserve(b, (size_t)n + 1);
    if (p) {
        vsnprintf(p, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
}

void buf_printf(buf *b, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(b, fmt, ap);
    va_end(ap);
}

void buf_utf8(buf *b, uint32_t cp)
{
    char s[4];
    size_t n;
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp < 0xE000)) cp = 0xFFFD;
    if (cp < 0x80) {
        s[0] = (char)cp;
        n = 1;
    } else if (cp < 0x800) {
        s[0] = (char)(0xC0 | cp >> 6);
        s[1] = (char)(0x80 | (cp & 0x3F));
        n = 2;
    } else if (cp < 0x10000) {
        s[0] = (char)(0xE0 | cp >> 12);
        s[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        s[2] = (char)(0x80 | (cp & 0x3F));
        n = 3;
    } else {
        s[0] = (char)(0xF0 | cp >> 18);
        s[1] = (char)(0x80 | (cp >> 12 & 0x3F));
        s[2] = (char)(0x80 | (cp >> 6 & 0x3F));
        s[3] = (char)(0x80 | (cp & 0x3F));
        n = 4;
    }
    buf_append(b, s, n);
}

void buf_clear(buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data) b->data[0] = 0;
}

void buf_free(buf *b)
{
    mem_free(b->data);
    *b = (buf){0};
}

status buf_status(const buf *b) { return b->failed ? err_nomem() : ST_OK; }
const char *buf_cstr(const buf *b) { return b->data ? b->data : ""; }

char *buf_take(buf *b)
{
    if (!b->failed && !b->data) buf_append(b, "", 0);
    if (b->failed) return NULL;
    char *p = b->data;
    *b = (buf){0};
    return p;
}

void i32vec_append(i32vec *v, const int32_t *x, size_t n)
{
    if (v->failed || n == 0) return;
    if (v->cap - v->len < n) {
        size_t cap = v->cap ? v->cap * 2 : 32;
        if (cap < v->len + n) cap = v->len + n;
        int32_t *p = mem_realloc_array(v->data, cap, sizeof *p);
        if (!p) {
            v->failed = true;
            return;
        }
        v->data = p;
        v->cap = cap;
    }
    memcpy(v->data + v->len, x, n * sizeof *x);
    v->len += n;
}

void i32vec_push(i32vec *v, int32_t x) { i32vec_append(v, &x, 1); }

void i32vec_free(i32vec *v)
{
    mem_free(v->data);
    *v = (i32vec){0};
}

status i32vec_status(const i32vec *v) { return v->failed ? err_nomem() : ST_OK; }
