/* Configurations of well-known models by name, in the binary: what can be planned, compiled and measured without a download.
 * The files are src/model/presets/NAME.json, the published config.json less what no engine reads. Static data, thread-safe. */
#ifndef SYSTOLIC_MODEL_PRESETS_H
#define SYSTOLIC_MODEL_PRESETS_H

#include <stdint.h>

#include "base/err.h"
#include "base/json.h"

typedef struct preset {
    const char *name;           /* as its publisher writes it, without the organisation: "Qwen3-32B" */
    const char *json;           /* zero-terminated */
    int64_t n_params;           /* parameters of the published checkpoint's model, tied weights once (docs/models.md) */
} preset;

/* The i-th by name; NULL after the last. */
const preset *preset_at(int i);
/* By name, case-insensitively; NULL if there is none. */
const preset *preset_find(const char *name);
/* Its config.json, which the caller frees. */
status preset_config(const preset *p, jv **out) FALLIBLE;

#endif
