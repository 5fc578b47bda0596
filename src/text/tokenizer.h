/* Tokenizers from Hugging Face tokenizer.json: BPE (byte-level, metaspace, byte-fallback), Unigram, WordPiece,
 * with their normalizers, pre-tokenizers, post-processors, decoders and added tokens.
 * A tokenizer is immutable after loading: any number of threads may use it at once. */
#ifndef SYSTOLIC_TEXT_TOKENIZER_H
#define SYSTOLIC_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/json.h"

typedef struct tokenizer tokenizer;

/* From the text of tokenizer.json (parsed: `spec`, borrowed during the call only) and of tokenizer_config.json
 * (`config`, may be NULL: added_tokens_decoder, bos_token, eos_token, add_bos_token, ... where they matter).
 * Errors name the part: "tokenizer.json: model.merges[17]: ...". */
status tokenizer_new(const jv *spec, const jv *config, tokenizer **out) FALLIBLE;
/* DIR/tokenizer.json and, if there, DIR/tokenizer_config.json. */
status tokenizer_load_dir(const char *dir, tokenizer **out) FALLIBLE;
void tokenizer_free(tokenizer *t);

/* Appends the ids of text[0..n) (UTF-8; invalid bytes become U+FFFD first). add_special runs the post-processor
 * (BOS and the like). Special tokens written in the text are recognised, as the Python package does. */
status tokenizer_encode(const tokenizer *t, const char *text, size_t n, bool add_special, i32vec *out) FALLIBLE;
/* Appends the text of ids, as `tokenizers` decode(ids, skip_special_tokens=skip_special). Unknown ids are ST_INVALID. */
status tokenizer_decode(const tokenizer *t, const int32_t *ids, size_t n, bool skip_special, buf *out) FALLIBLE;

size_t tokenizer_vocab_size(const tokenizer *t);              /* largest id + 1 */
/* -1 if there is no such token. `token` as written in the vocabulary, e.g. "<|im_end|>" or "Ġthe". */
int32_t tokenizer_token_id(const tokenizer *t, const char *token, size_t n);
/* As written in the vocabulary (NULL for an id that has none); *n may be NULL. Borrowed. */
const char *tokenizer_token(const tokenizer *t, int32_t id, size_t *n);
bool tokenizer_is_special(const tokenizer *t, int32_t id);
/* True for tokens of added_tokens (special or not). */
bool tokenizer_is_added(const tokenizer *t, int32_t id);
/* The raw bytes this token contributes in the middle of a text ("Ġthe" is " the", "<0xE2>" is one byte). Used by
 * logprob `bytes` and by grammar masks. */
status tokenizer_token_bytes(const tokenizer *t, int32_t id, buf *out) FALLIBLE;

/* ---- incremental detokenisation (facts 5.5) ---- */
/* Emits text as tokens arrive, never half a character. Seeded with the prompt's tail so that leading spaces are right. */
typedef struct detok detok;
/* prompt may be NULL with n_prompt 0. spaces_between_special false joins adjacent added tokens without a space. */
status detok_new(const tokenizer *t, const int32_t *prompt, size_t n_prompt, bool skip_special,
                 bool spaces_between_special, detok **out) FALLIBLE;
/* Appends to `out` the text that became certain with this token (often "", while bytes form an incomplete character). */
status detok_push(detok *d, int32_t id, buf *out) FALLIBLE;
/* Appends what is still held back (U+FFFD for incomplete bytes); nothing may be pushed afterwards. */
status detok_flush(detok *d, buf *out) FALLIBLE;
void detok_free(detok *d);

/* The string of ids[i] for a logprobs entry, decoded alone; if it is not valid UTF-8 alone, corrected with up to 4
 * preceding ids, "" while still incomplete (vLLM's rule). `ids` are the sequence up to and including i. */
status tokenizer_logprob_text(const tokenizer *t, const int32_t *ids, size_t i, buf *out) FALLIBLE;

#endif
