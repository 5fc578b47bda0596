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
#include "graph/graph.h"

enum { CONFIG_MAX_LAYERS = 1024, CONFIG_MAX_EOS = 64, CONFIG_MAX_ROPES = 2 };

/* Rotary embedding, ready for the rope_table operation. */
typedef struct rope_config {
    int rot;                  /* rotated elements of a head, even */
    int n_variants;           /* 1; longrope 2: short, long */
    float scale[2];           /* what cos and sin are multiplied by */
    const float *inv_freq;    /* [n_variants][rot/2] */
    int switch_len;           /* longrope: longer sequences use variant 1; else 0 */
    double max_len;           /* derived context length, vLLM's rule */
    const char *type;         /* "default", "llama3", ... */
    int height, width;        /* multimodal: frequencies of the position's second and third number; 0, 0 = there is one number */
    bool mrope_interleaved;   /* they take turns with the first's */
} rope_config;

/* What differs from layer to layer. */
typedef struct layer_config {
    int window, chunk;        /* keys a query sees, itself included; those of its own chunk of so many positions; 0 = all */
    int rope;                 /* which of config.ropes; -1 = positions do not matter */
    bool moe;                 /* experts instead of a dense MLP */
} layer_config;

/* Multi-head latent attention: elements per head of q and k without and with rotation, and of v; ranks of the projections. */
typedef struct mla_config {
    int q_rank;               /* 0 = q is one projection */
    int kv_rank, nope, rope, v;
} mla_config;

/* Mixture of experts. The layers that have it say so. */
typedef struct moe_config {
    int n_experts, top_k;
    int intermediate;         /* of an expert */
    int shared;               /* of the shared expert; 0 = there is none */
    bool norm;                /* the chosen experts' weights are divided by their sum, */
    double scale;             /* then multiplied by this */
    int groups, groups_kept;  /* experts are chosen from the best groups alone; 0 = from all */
} moe_config;

typedef struct model_config {
    const char *architecture, *model_type;
    int vocab, n_layers, hidden, intermediate, n_heads, n_kv_heads, head_dim;
    int max_position;
    double eps;
    activation act;           /* of the gated MLP; alpha and limit are ACT_SWIGLU_OAI's */
    double act_alpha, act_limit;
    bool tied, attention_bias, mlp_bias;
    double attention_scale;   /* of the scores */
    double softcap;           /* of the scores; 0 = none */
    double embed_scale;       /* what embeddings are multiplied by; 0 = nothing */
    bool norm_plus_one;       /* norms multiply by 1 + weight */
    bool rope_interleaved;    /* rope rotates neighbours */
    bool qk_norm;             /* Llama 4: q and k are normalised after the rope */
    double temperature_floor, temperature_scale;  /* Llama 4: of scale_by_position; 0 = none */
    layer_config *layers;     /* [n_layers] */
    rope_config ropes[CONFIG_MAX_ROPES]; int n_ropes;
    moe_config moe;
    mla_config mla;
    dtype torch_dtype;
    int32_t bos;              /* -1 = none */
    int32_t eos[CONFIG_MAX_EOS]; int n_eos;
    arena mem;                /* owns the strings and arrays */
} model_config;

/* What a model file reads beyond the fields that all have; the general ones are in c already. j: the language model's part. */
typedef status config_read_fn(const jv *j, model_config *c);

/* Defaults of an architecture where config.json is silent, as its transformers class has them. 0 = the field is required, unless
 * said otherwise. */
typedef struct config_defaults {
    double eps;
    int max_position, n_kv_heads /* 0 = as many as heads */, head_dim /* 0 = hidden / heads */, sliding_window /* 0 = none */;
    int max_window_layers;    /* > 0: the window is for layers from this one on, and only with use_sliding_window */
    bool uses_window;         /* reads sliding_window at all */
    int window_pattern;       /* without layer_types: every so many layers one sees everything; 0 = none does */
    int vocab, n_layers, hidden, intermediate, n_heads;
    double rope_theta;        /* 0 = 10000 */
    bool tied;
    config_read_fn *read;     /* NULL = nothing more */
} config_defaults;

/* Errors name the field. On success the caller frees `out` with config_free. */
status config_parse(const jv *j, const config_defaults *d, model_config *out) FALLIBLE;
void config_free(model_config *c);
/* The name in "architectures", borrowed from j. */
status config_architecture(const jv *j, const char **out) FALLIBLE;

/* The part of config.json that describes the language model: text_config, that of thinker_config, or all of it. */
const jv *config_text(const jv *j);

/* rope.c: from `params`, a rope_scaling or rope_parameters object (absent or null: plain), and where it is silent from j and theta. */
status config_rope(const jv *j, const jv *params, double theta, model_config *c, rope_config *out) FALLIBLE;
/* Reads rope_theta, rope_scaling / rope_parameters, partial_rotary_factor into c->ropes[0]. */
status config_parse_rope(const jv *j, double theta, model_config *c) FALLIBLE;
/* A number field within [least, most]; absent or null: def (least > def: required). */
status config_int(const jv *j, const char *name, int64_t least, int64_t most, int64_t def, int *out) FALLIBLE;
status config_real(const jv *j, const char *name, double least, double most, double def, double *out) FALLIBLE;
/* A boolean; a number counts as one, as in Python. */
status config_bool(const jv *j, const char *name, bool def, bool *out) FALLIBLE;
bool config_absent(const jv *j, const char *name);
/* A field with two names, of which transformers has written the one or the other: other where name is absent. */
const char *config_either(const jv *j, const char *name, const char *other);

#endif
