/* Prompts: the texts and token ids of a completion request, a rendered conversation, and the limits of the context. */
#ifndef SYSTOLIC_API_PROMPT_H
#define SYSTOLIC_API_PROMPT_H

#include "api/params.h"

/* The images and sounds of a prompt: one reference to each item's rows, until media_release. */
typedef struct prompt_media { request_media *items; int n; int32_t *row, *positions3; int delta; bool sees_all; } prompt_media;

/* Lives in the request's arena. */
typedef struct prompt {
    const int32_t *ids; int n;
    const char *text; size_t text_len;   /* NULL when the client sent ids and nobody asked for the text */
    const prompt_media *media;           /* NULL = none */
} prompt;

/* The "prompt" of a completion. */
status prompts_parse(const app *a, const jv *body, const gen_params *p, arena *mem, prompt **out, int *n, api_error *e) FALLIBLE;
/* Truncates as asked, checks the context length, and limits sp->max_tokens to what is left. */
status prompt_fit(const app *a, const gen_params *p, prompt *pr, sampling_params *sp, api_error *e) FALLIBLE;

/* ---- conversations (render.c) ---- */
typedef struct media_part { int kind; const jv *part; } media_part;   /* kind: a media_kind; borrowed from the body */
typedef struct conversation {
    buf text;                  /* the rendering */
    const char *role;          /* of the answer */
    const char *last_content;  /* of the last message if it has that role, else "" (echo); arena */
    media_part *media; int n_media, cap_media; /* in the order of the messages; arena */
    const jv *mm_kwargs, *io_kwargs;    /* the request's mm_processor_kwargs and media_io_kwargs; NULL. Of the body */
} conversation;

enum { RENDER_CHAT, RENDER_TOKENIZE };
/* Renders body.messages with the chat template. The caller frees out->text (also after a failure). */
status render_messages(const app *a, const jv *body, int what, arena *mem, conversation *out, api_error *e) FALLIBLE;
/* Appends the tokens of a text; errors become the client's. */
status prompt_encode(const app *a, const char *text, size_t n, bool add_special, i32vec *ids, api_error *e) FALLIBLE;
/* Copies ids to the arena as a prompt. */
status prompt_take(arena *mem, const i32vec *ids, const char *text, size_t n, prompt *out, api_error *e) FALLIBLE;

#endif
