/* Strict UTF-8 decoding (no surrogates, no overlong forms). */
#ifndef SYSTOLIC_BASE_UTF8_H
#define SYSTOLIC_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_BAD 0xFFFFFFFFu

/* Decodes one code point from s[0..n), n > 0. Returns the bytes consumed (>= 1) and sets *cp, or UTF8_BAD for an
 * invalid sequence; the count then is that of the maximal invalid part, as Python's errors="replace" skips it. */
size_t utf8_decode(const char *s, size_t n, uint32_t *cp);
bool utf8_valid(const char *s, size_t n);
/* Code points in s (an invalid part counts as one). */
size_t utf8_count(const char *s, size_t n);
/* Bytes at the end of s that are the start of a character that more bytes could complete (0..3). */
size_t utf8_incomplete_tail(const char *s, size_t n);

#endif
