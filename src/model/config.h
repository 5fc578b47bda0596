/* A model's configuration as its config.json says, checked: for model files. Numbers that pass here are safe to compute with
 * (positive, bounded, divisible where they must be). */
#ifndef SYSTOLIC_MODEL_CONFIG_H
#define SYSTOLIC_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/json.h"
#include "graph/dtype.h"

enum { CONFIG_MAX_LAYERS = 1024, CONFIG_MAX_EOS = 64 };

/* Rotary embedding, ready for the rope_table operation. */
typedef struct rope_config {
    int rot;                  /* rotated elements of a head, even */
    int n_variants;           /* 1; longrope 2: short, long */
    float scale[2];           /* what cos and sin are multiplied by */
    const float *inv_freq;    /* [n_variants][rot/2] */
    int switch_len;           /* longrope: longer sequences use variant 1; else 0 */
    double max_len;           /* derived context length, vLLM's rule */
    const char *type;         /* "default", "llama3", ... */
} rope_config;

typedef struct model_config {
    const char *architecture, *model_type;
    int vocab, n_layers, hidden, intermediate, n_heads, n_kv_heads, head_dim;
    int max_position;
    double eps;
    bool tied, attention_bias, mlp_bias;
    int *window;              /* [n_layers] keys a query sees; 0 = all */
    rope_config rope;
    dtype torch_dtype;
    int32_t bos;              /* -1 = none */
    int32_t eos[CONFIG_MAX_EOS]; int n_eos;
    arena mem;                /* owns the strings and arrays */
} model_config;

/* Defaults of an architecture where config.json is silent, as its transformers class has them. */
typedef struct config_defaults {
    double eps;
    int max_position, n_kv_heads /* 0 = as many as heads */, head_dim /* 0 = hidden / heads */, sliding_window /* 0 = none */;
    int max_window_layers;    /* > 0: the window is for layers from this one on, and only with use_sliding_window */
    bool uses_window;         /* reads sliding_window at all */
} config_defaults;

/* Errors name the field. On success the caller frees `out` with config_free. */
status config_parse(const jv *j, const config_defaults *d, model_config *out) FALLIBLE;
void config_free(model_config *c);
/* The name in "architectures", borrowed from j. */
status config_architecture(const jv *j, const char **out) FALLIBLE;

/* rope.c: reads rope_theta, rope_scaling / rope_parameters, partial_rotary_factor into c->rope. */
status config_parse_rope(const jv *j, model_config *c) FALLIBLE;
/* A number field within [least, most]; absent or null: def (least > def: required). */
status config_int(const jv *j, const char *name, int64_t least, int64_t most, int64_t def, int *out) FALLIBLE;
status config_real(const jv *j, const char *name, double least, double most, double def, double *out) FALLIBLE;

#endif
