/* Regular expressions of tokenizer.json: Oniguruma's Ruby syntax, translated and run by PCRE2 with JIT. */
#ifndef SYSTOLIC_TEXT_TOK_REGEX_H
#define SYSTOLIC_TEXT_TOK_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"

typedef struct regex regex;
/* ST_INVALID with the position for a pattern that does not compile. */
status regex_new(const char *pattern, size_t n, regex **out) FALLIBLE;
void regex_free(regex *r);

/* What one thread needs to match: reusable for any number of regexes, one thread at a time. */
typedef struct regex_scratch regex_scratch;
status regex_scratch_new(regex_scratch **out) FALLIBLE;
void regex_scratch_free(regex_scratch *s);

/* Successive matches in s[0..n) (valid UTF-8), by the rule of the `onig` crate: an empty match right after the previous
 * match is skipped, other empty ones count. Zero-initialise. */
typedef struct regex_iter { size_t pos, last_end; bool any; } regex_iter;
/* *found false at the end. ST_LIMIT when the pattern backtracks too much on this text. */
status regex_next(const regex *r, regex_scratch *scratch, const char *s, size_t n, regex_iter *it,
                  bool *found, size_t *from, size_t *to) FALLIBLE;

/* The translation alone (tok_regex_syntax.c): the PCRE2 pattern for an Oniguruma pattern. */
status regex_translate(const char *pattern, size_t n, buf *out) FALLIBLE;

#endif
