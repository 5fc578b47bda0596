/* Images and sounds in conversations: content parts become bytes (data:, http(s):// and file:// URLs, base64), bytes become encoder rows, and the placeholders
 * of the rendered text become as many tokens as each item has rows. All of it in http's worker threads. */
#ifndef SYSTOLIC_API_MEDIA_H
#define SYSTOLIC_API_MEDIA_H

#include "api/prompt.h"
#include "media/processor.h"

/* How a model writes media into its prompts: strings of its vocabulary, "" where it has none. */
typedef struct media_words {
    char marker[MEDIA_KINDS][128];      /* what a template without parts gets: the placeholder between its frames */
    char found[MEDIA_KINDS][128];       /* what of it is replaced in the rendered text, */
    char token[MEDIA_KINDS][128];       /* by this, once a row */
    int32_t id[MEDIA_KINDS];            /* of token; -1 */
    char before[128], after[128];       /* around an image's rows */
    char tile_x[64], tile_y[64], whole[64];   /* llama4: behind a tile, behind a row of tiles, before the whole image */
} media_words;

struct media_setup {
    const media_processor *processor;
    towers *towers;
    media_words words;
    bool mrope, tiles, sees_all;
    int64_t limit[MEDIA_KINDS];         /* items per prompt */
    str_list domains;                   /* hosts that may be fetched from; none = all */
    const char *path;                   /* folder that may be read; NULL = none */
    image_options image;
};

/* From config.json and the flags; *out is NULL if there is nothing to set up: no processor, encoders or tokenizer. */
status media_setup_new(const api_options *o, struct media_setup **out) FALLIBLE;
void media_setup_free(struct media_setup *m);

/* What a content part of this type carries; MEDIA_KINDS for none. */
media_kind media_kind_of(const char *part_type);
/* Notes a part of a conversation; its kind must be allowed and within the limit. */
status media_note(const app *a, conversation *c, media_kind kind, const jv *part, arena *mem, api_error *e) FALLIBLE;
/* Loads and, if `encode`, encodes the parts of c, expands c->text and makes tokens of it. out->media is set if there are any. */
status media_prompt(const app *a, conversation *c, bool add_special, bool encode, arena *mem, prompt *out, api_error *e) FALLIBLE;
/* Lets go of the rows, after submission. */
void media_release(prompt *p);

/* The bytes of a content part; of a URL. */
status media_load_part(const struct media_setup *m, media_kind kind, const jv *part, buf *out) FALLIBLE;
status media_load_url(const struct media_setup *m, media_kind kind, const char *url, buf *out) FALLIBLE;

#endif
