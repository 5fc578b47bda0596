/* Hand-written matchers for the pre-tokenizer patterns that nearly every byte-level model uses, recognised by the exact
 * text of the pattern. They find the same matches as the pattern run by the regex engine (tested against it). */
#ifndef SYSTOLIC_TEXT_TOK_SPLIT_H
#define SYSTOLIC_TEXT_TOK_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

typedef enum split_kind {
    SPLIT_NONE,
    SPLIT_GPT2,        /* the pattern of ByteLevel(use_regex) */
    SPLIT_LLAMA3,      /* numbers in groups of 3 */
    SPLIT_QWEN2,       /* single digits */
    SPLIT_O200K,
    SPLIT_DEEPSEEK_NUM, SPLIT_DEEPSEEK_CJK, SPLIT_DEEPSEEK_WORD,
    SPLIT_N_KINDS
} split_kind;

split_kind split_recognise(const char *pattern, size_t n);
/* The pattern of a kind (for tests). */
const char *split_pattern(split_kind k);
/* The next match at or after pos in valid UTF-8 s[0..n): false if there is none. Matches are never empty. */
bool split_next(split_kind k, const char *s, size_t n, size_t pos, size_t *from, size_t *to);

#endif
