/* Models by name: a local directory, or a Hugging Face hub id that is looked up in the HF_HOME cache and downloaded
 * when missing (resumable, with a progress bar). */
#ifndef SYSTOLIC_LOAD_HUB_H
#define SYSTOLIC_LOAD_HUB_H

#include <stdbool.h>

#include "base/err.h"

typedef struct hub_options {
    const char *revision;        /* NULL = "main" */
    const char *token;           /* NULL = HF_TOKEN, else the file HF_HOME/token, else none */
    const char *download_dir;    /* NULL = HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME/hub, ~/.cache/huggingface/hub */
    const char *const *ignore;   /* extra patterns not to fetch ("*.bin"; a star matches slashes too), NULL-terminated, or NULL */
    bool weights;                /* false: only config and tokenizer files */
    bool offline;                /* also HF_HUB_OFFLINE=1 / TRANSFORMERS_OFFLINE=1 */
    bool progress;               /* progress bar on stderr (bar on a terminal, lines otherwise) */
} hub_options;

/* Resolves `model` (an existing directory, or "org/name") to a directory that holds its files. *dir is the caller's
 * (mem_free). Errors name the id, the file, what was tried and what to do (401: set HF_TOKEN; 429: retried with
 * Retry-After; offline: which file is missing from which cache folder). */
status hub_resolve(const char *model, const hub_options *o, char **dir) FALLIBLE;

#endif
