/* Inside the tokenizer: the parts tokenizer.json names, as they are after loading, and what one encode call carries.
 * The order of work follows the `tokenizers` package, since its results are the definition:
 * added tokens with normalized=false are cut out; the rest is normalized; added tokens with normalized=true are cut out;
 * the rest runs through the pre-tokenizers, each handing its pieces straight to the next; the model turns every piece
 * into ids; the post-processor puts ids before and after. */
#ifndef SYSTOLIC_TEXT_TOK_INT_H
#define SYSTOLIC_TEXT_TOK_INT_H

#include "base/arena.h"
#include "text/tok_regex.h"
#include "text/tok_split.h"
#include "text/tok_unicode.h"
#include "text/tok_vocab.h"
#include "text/tokenizer.h"

typedef struct span { const char *s; size_t n; } span;

/* ---- patterns: {"String": ".."} or {"Regex": ".."} ---- */
typedef struct pattern {
    span literal;      /* if re is NULL and kind is SPLIT_NONE */
    split_kind kind;   /* a known regex */
    regex *re;
} pattern;

/* ---- normalizers ---- */
typedef enum norm_kind {
    NORM_NFC, NORM_NFD, NORM_NFKC, NORM_NFKD, NORM_LOWER, NORM_STRIP, NORM_STRIP_ACCENTS, NORM_REPLACE, NORM_PREPEND,
    NORM_BERT, NORM_NMT, NORM_CHARSMAP, NORM_BYTE_LEVEL
} norm_kind;
typedef struct normalizer {
    norm_kind kind;
    pattern pat;                                       /* REPLACE */
    span text;                                         /* REPLACE: content, PREPEND */
    bool left, right;                                  /* STRIP */
    bool clean, chinese, strip_accents, lowercase;     /* BERT */
    const uint32_t *units; size_t n_units;             /* CHARSMAP: double array and strings */
    const char *strings; size_t strings_len;
} normalizer;

/* ---- pre-tokenizers ---- */
typedef enum pre_kind {
    PRE_BYTE_LEVEL_SPLIT /* its prefix space and regex */, PRE_BYTE_LEVEL /* its alphabet */, PRE_SPLIT, PRE_METASPACE, PRE_WHITESPACE, PRE_WHITESPACE_SPLIT, PRE_BERT, PRE_PUNCTUATION, PRE_DIGITS,
    PRE_DELIMITER, PRE_SCRIPTS, PRE_FIXED_LENGTH
} pre_kind;
typedef enum split_behavior { BEHAVE_REMOVED, BEHAVE_ISOLATED, BEHAVE_PREVIOUS, BEHAVE_NEXT, BEHAVE_CONTIGUOUS } split_behavior;
typedef enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } prepend_scheme;
typedef struct pretok {
    pre_kind kind;
    pattern pat;
    split_behavior behavior;
    bool invert, add_prefix_space, use_regex, split, individual;
    span replacement; uint32_t ch;                     /* METASPACE, DELIMITER */
    prepend_scheme scheme;
    size_t length;                                     /* FIXED_LENGTH, in characters */
} pretok;

/* ---- models ---- */
typedef struct pair_slot { uint64_t key; uint32_t rank; int32_t id; } pair_slot;
typedef enum model_kind { MODEL_BPE, MODEL_UNIGRAM, MODEL_WORDPIECE, MODEL_WORDLEVEL } model_kind;
typedef struct model {
    model_kind kind;
    vocab v;
    int32_t unk;                  /* -1: none */
    span unk_token;               /* as named, also when the vocabulary lacks it */
    span prefix, suffix;          /* continuing_subword_prefix, end_of_word_suffix */
    bool fuse_unk, byte_fallback, ignore_merges;
    int32_t byte_token[256];      /* "<0x41>" or -1 */
    /* BPE */
    pair_slot *pairs; size_t pairs_cap;
    bool raw;                     /* the text's own bytes are the symbols: ByteLevel without prefix, suffix or fallback */
    vocab raw_v;                  /* raw: spellings as bytes */
    int32_t byte_id[256];         /* raw: id of each byte's symbol, -1 if the vocabulary lacks it */
    int32_t ascii_id[128];        /* id of each one-character token */
    bool cut_spaces;              /* no token holds U+2581 after another character: texts can be cut before it */
    uint8_t *whole;               /* by id: does its own spelling encode to it? 0 not yet known, 1 yes, 2 no */
    /* Unigram */
    trie t; double *score; double unk_score;
    /* WordPiece */
    size_t max_chars;
} model;

/* ---- added tokens ---- */
typedef struct added_token {
    span content;
    span shown;      /* what decoding gives: the normalized content of a normalized token, as the package has it */
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
} added_token;
typedef struct added_set {        /* one of the two matchers */
    trie t;
    bool first[256];
    int only_first;               /* the one byte that starts every token, or -1 */
    size_t n;
} added_set;
typedef struct added {
    added_token *tokens;          /* by order of first appearance; one per content */
    size_t n, cap;
    vocab by_content;             /* content -> id */
    int32_t *by_id;               /* id -> index into tokens, -1: not added */
    size_t n_by_id;
    added_set raw, normal;        /* matched before and after normalization; values are ids */
} added;

/* ---- post-processor: the ids around $A ---- */
typedef struct post { int32_t *items; size_t n; size_t n_seq; } post; /* POST_SEQ stands for the text's ids */
#define POST_SEQ (-1)

/* ---- decoders ---- */
typedef enum dec_kind {
    DEC_BYTE_LEVEL, DEC_METASPACE, DEC_BYTE_FALLBACK, DEC_FUSE, DEC_STRIP, DEC_REPLACE, DEC_WORDPIECE, DEC_BPE, DEC_CTC
} dec_kind;
typedef struct decoder {
    dec_kind kind;
    pattern pat; span text;          /* REPLACE; WORDPIECE prefix, BPE suffix, CTC pad in text */
    span delimiter;                  /* CTC */
    span ch; size_t start, stop;     /* STRIP, METASPACE replacement */
    bool drop_first, cleanup;
} decoder;

struct tokenizer {
    arena mem;                       /* strings and arrays of the parts below */
    normalizer *norms; size_t n_norms;
    pretok *pres; size_t n_pres;
    model m;
    added add;
    post *posts; size_t n_posts;
    post single;                     /* with special tokens; without, only the number of POST_SEQ counts */
    decoder *decs; size_t n_decs;
    bool has_decoder;
    size_t n_ids;                    /* largest id + 1 */
    int32_t context_id;              /* an ordinary token, for decoding others out of their sentence; -1 */
    span *raw_tokens;                /* ByteLevel decoder: the bytes of each id */
    bool byte_level_only;            /* the decoder is ByteLevel and nothing else */
};

/* ---- one encode call ---- */
typedef struct bpe_work {
    int32_t *id; uint32_t *rank; int32_t *merged; uint32_t *prev, *next; size_t cap;
    uint64_t *heap; size_t heap_len, heap_cap;
} bpe_work;
enum { PRE_MAX_STAGES = 32 };
typedef struct enc {
    const tokenizer *t;
    i32vec *out;
    regex_scratch *rx;               /* NULL until needed */
    buf stage[PRE_MAX_STAGES];       /* text rewritten by that pre-tokenizer */
    buf norm[2];                     /* normalized text */
    buf word;                        /* byte-level spelling of a piece */
    bpe_work bpe;
    double *best_score; uint32_t *best_from; int32_t *best_id; size_t best_cap; /* Unigram */
} enc;

status enc_regex(enc *e, regex_scratch **out) FALLIBLE;
void enc_free(enc *e);

/* A piece on its way to the model. zero: how many leading bytes come from the very start of the original text (Metaspace's
 * prepend_scheme "first" asks). */
typedef struct piece { const char *s; size_t n; size_t zero; } piece;

/* tok_load.c helpers */
status tok_copy(arena *a, const char *s, size_t n, span *out) FALLIBLE;
/* A string member: absent or null leaves *out as {NULL, 0} unless required. `where` names the object in errors. */
status tok_get_str(arena *a, const jv *obj, const char *where, const char *key, bool required, span *out) FALLIBLE;
status tok_get_bool(const jv *obj, const char *where, const char *key, bool def, bool *out) FALLIBLE;
status pattern_new(arena *a, const jv *spec, const char *where, pattern *out) FALLIBLE;
void pattern_free(pattern *p);
typedef struct pattern_iter { regex_iter it; size_t pos; } pattern_iter;
/* Next match, like regex_next. */
status pattern_next(const pattern *p, enc *e, const char *s, size_t n, pattern_iter *it, bool *found, size_t *from, size_t *to) FALLIBLE;

/* tok_normalize.c */
status norm_load(tokenizer *t, const jv *spec) FALLIBLE;
/* The result lies in e->norm or is the input itself. */
status norm_run(enc *e, piece in, piece *out) FALLIBLE;

/* tok_pretokenize.c */
status pre_load(tokenizer *t, const jv *spec) FALLIBLE;
status pre_run(enc *e, piece in) FALLIBLE;   /* ends in model_encode for every piece */

/* tok_model.c */
/* Fast source for the two big tables, used instead of the members of `spec` when not NULL (see tok_file.c). */
typedef struct model_source model_source;
status model_load(tokenizer *t, const jv *spec, model_source *src) FALLIBLE;
status model_finish(tokenizer *t) FALLIBLE;  /* when the pre-tokenizers are known */
void tok_model_free(model *m);
status model_encode(enc *e, const char *s, size_t n, bool raw) FALLIBLE; /* raw: bytes still to be mapped to their symbols */

/* tok_bpe.c */
status bpe_add_merge(model *m, const char *a, size_t na, const char *b, size_t nb, uint32_t rank) FALLIBLE;
status bpe_reserve(model *m, size_t n_merges) FALLIBLE;  /* an empty table for that many */
void bpe_put(model *m, pair_slot s);
status bpe_finish(model *m, bool byte_level) FALLIBLE;
status bpe_encode(enc *e, const char *s, size_t n, bool raw) FALLIBLE;
void bpe_work_free(bpe_work *w);
/* tok_unigram.c */
status unigram_encode(enc *e, const char *s, size_t n) FALLIBLE;
/* tok_wordpiece.c */
status wordpiece_encode(enc *e, const char *s, size_t n) FALLIBLE;
status wordlevel_encode(enc *e, const char *s, size_t n) FALLIBLE;

/* tok_bytes.c: the printable alphabet of byte-level vocabularies */
void bytes_to_symbols(const char *s, size_t n, buf *out);
/* The bytes a spelling stands for, appended; false (and nothing appended) if it has a character outside the alphabet. */
bool bytes_from_symbols(const char *s, size_t n, buf *out);
/* "<0x41>": the byte, else -1. */
int bytes_fallback(const char *s, size_t n);

/* tok_added.c */
status added_load(tokenizer *t, const jv *list, const jv *config) FALLIBLE;
void added_free(added *a);
const added_token *added_find(const tokenizer *t, int32_t id); /* NULL: not an added token */
/* Cuts s at added tokens: ids go to e->out, the rest to `rest`. */
status added_split(enc *e, const added_set *set, piece in, status (*rest)(enc *e, piece p)) FALLIBLE;

/* tok_post.c */
status post_load(tokenizer *t, const jv *spec) FALLIBLE;

/* tok_decode.c */
status dec_load(tokenizer *t, const jv *spec) FALLIBLE;
status dec_finish(tokenizer *t) FALLIBLE;
/* The spelling of an id, added tokens first; NULL if there is none. */
const char *tok_spelling(const tokenizer *t, int32_t id, size_t *n);

/* tok_file.c: reads tokenizer.json without building a value for every vocabulary entry and merge */
struct model_source {
    const char *vocab, *vocab_end;    /* the text of the object or list; NULL: none */
    const char *merges, *merges_end;
};
/* Cuts model.vocab and model.merges out of the text: *rest is the document with them replaced by null. */
status source_split(const char *text, size_t n, model_source *src, buf *rest) FALLIBLE;
/* Calls fn for each entry. Vocabulary objects give (key, id), lists give (piece, index, score). */
status source_vocab(const char *p, const char *end, status (*fn)(void *arg, const char *s, size_t n, int64_t id, double score), void *arg) FALLIBLE;
status source_merges(const char *p, const char *end, status (*fn)(void *arg, const char *a, size_t na, const char *b, size_t nb), void *arg) FALLIBLE;

#endif
