/* The small files of a Hugging Face model directory, read and checked once: what the config, tokenizer and API layers
 * ask questions of. Read-only after opening, so any thread may use it. */
#ifndef SYSTOLIC_LOAD_MODEL_DIR_H
#define SYSTOLIC_LOAD_MODEL_DIR_H

#include <stddef.h>

#include "base/err.h"
#include "base/json.h"

typedef struct chat_template { char *name; char *text; } chat_template;

/* Every jv is an object, or NULL when the directory has no such file (config is always there). */
typedef struct model_dir {
    char *path;               /* NULL: model_dir_of_config */
    jv *config;               /* config.json */
    jv *generation_config;    /* generation_config.json */
    jv *tokenizer_config;     /* tokenizer_config.json */
    jv *special_tokens;       /* special_tokens_map.json */
    jv *preprocessor_config;  /* preprocessor_config.json */
    jv *processor_config;     /* processor_config.json */
    chat_template *templates; /* "default" and "tool_use" among them if present; names are unique */
    size_t n_templates;
    const char *template_source; /* the file the templates came from, NULL when there are none */
} model_dir;

/* ST_NOT_FOUND if there is no such directory or no config.json; ST_INVALID and ST_LIMIT name the file and the field.
 * Chat templates: chat_template.jinja (with additional_chat_templates/NAME.jinja), else chat_template.json, else
 * tokenizer_config.json's chat_template, a string or a list of {"name", "template"}. */
status model_dir_open(const char *path, model_dir **out) FALLIBLE;
/* No directory at all, but this configuration, which it takes (also on failure): simulations need no more. */
status model_dir_of_config(jv *config, model_dir **out) FALLIBLE;
void model_dir_free(model_dir *d);

/* The text of the template called `name`; NULL if there is none. NULL for `name` means "default". */
const char *model_dir_template(const model_dir *d, const char *name);

#endif
