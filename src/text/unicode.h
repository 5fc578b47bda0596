/* Character properties and case mappings as Python's str methods know them (utf8proc plus the few tables it lacks).
 * Pure functions on code points; any thread. */
#ifndef SYSTOLIC_TEXT_UNICODE_H
#define SYSTOLIC_TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool unicode_is_space(uint32_t cp);      /* str.isspace */
bool unicode_is_alpha(uint32_t cp);      /* str.isalpha: category L* */
bool unicode_is_decimal(uint32_t cp);    /* str.isdecimal: category Nd */
bool unicode_is_digit(uint32_t cp);      /* str.isdigit: decimals and superscripts, circled digits, ... */
bool unicode_is_numeric(uint32_t cp);    /* str.isnumeric: also fractions, Roman and CJK numerals */
bool unicode_is_lower(uint32_t cp);      /* the property Lowercase */
bool unicode_is_upper(uint32_t cp);      /* the property Uppercase */
bool unicode_is_title(uint32_t cp);      /* category Lt */
bool unicode_is_cased(uint32_t cp);
bool unicode_is_case_ignorable(uint32_t cp);
bool unicode_is_printable(uint32_t cp);  /* what repr() shows as it is */
bool unicode_is_mark(uint32_t cp);       /* category M*, and connectors: may continue an identifier */
/* The value 0..9 of a decimal digit, -1 for anything else. */
int unicode_decimal_value(uint32_t cp);

enum { UNICODE_MAX_MAP = 3 };
/* Full (one to many), context-free case mappings; return the number of code points written. */
size_t unicode_upper(uint32_t cp, uint32_t out[UNICODE_MAX_MAP]);
size_t unicode_lower(uint32_t cp, uint32_t out[UNICODE_MAX_MAP]);
size_t unicode_title(uint32_t cp, uint32_t out[UNICODE_MAX_MAP]);
size_t unicode_fold(uint32_t cp, uint32_t out[UNICODE_MAX_MAP]);

/* ---- for normalisation (tok_unicode.c) ---- */
uint32_t unicode_simple_lower(uint32_t cp);
unsigned unicode_combining_class(uint32_t cp);
bool unicode_has_decomposition(uint32_t cp); /* canonical or compatibility; Hangul syllables say no */
/* True if an extended grapheme cluster may end between a and b; *state starts at 0 for each text. */
bool unicode_grapheme_break(uint32_t a, uint32_t b, int32_t *state);
/* Normalizes valid UTF-8 into cps[0..cap): NFC or NFD, with compat NFKC or NFKD. Returns the number of code points; if it
 * is more than cap, nothing useful was written: call again with that much room. Negative on an internal error. */
int64_t unicode_normalize(const char *s, size_t n, bool compose, bool compat, int32_t *cps, size_t cap);

#endif
