/* What the incremental detokeniser needs to know about the decoder. */
#ifndef SYSTOLIC_TEXT_TOK_DECODE_H
#define SYSTOLIC_TEXT_TOK_DECODE_H

#include "text/tok_int.h"

bool tok_has_decoder(const tokenizer *t, dec_kind kind);
/* Left out when special tokens are skipped. */
bool tok_skips(const tokenizer *t, int32_t id);
/* Spelled "<0x41>". */
bool tok_is_byte_token(const tokenizer *t, int32_t id);
/* Appends s with each invalid sequence replaced by U+FFFD. */
void tok_lossy(const char *s, size_t n, buf *out);

#endif
