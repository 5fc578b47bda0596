/* What `serve` reads from a model directory for the API: tokenizer, chat templates, sampling defaults, stop ids. */
#ifndef SYSTOLIC_CLI_SERVE_MODEL_H
#define SYSTOLIC_CLI_SERVE_MODEL_H

#include "api/server.h"
#include "cli/flags.h"
#include "load/model_dir.h"
#include "model/model.h"

typedef struct text_parts {
    tokenizer *tok;               /* NULL with --skip-tokenizer-init */
    jinja *chat, *tool;
    jv *tokens;                   /* bos_token, eos_token, ... for templates */
    jv *sampling;                 /* default sampling values */
    int32_t eos_id;               /* -1 = none */
    int32_t *extra_eos; int n_extra;
    harmony_marks marks; bool harmony;   /* answers are in the harmony format */
    char *tokenizer_dir;
} text_parts;

/* `dir` is the model's; the flags choose other places for the parts. */
status text_parts_open(const flags *f, const model_dir *dir, const model_info *info, text_parts *out) FALLIBLE;
void text_parts_free(text_parts *t);
/* Replaces values of dst (nested objects are merged). */
status merge_json(jv *dst, const jv *src) FALLIBLE;

#endif
