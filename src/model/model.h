/* A model: its configuration, read from config.json, and the graph that one description makes of it. */
#ifndef SYSTOLIC_MODEL_MODEL_H
#define SYSTOLIC_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/json.h"
#include "graph/graph.h"
#include "graph/weights.h"

typedef struct model_config model_config;   /* model/config.h: for model files only */

typedef struct model_options {
    dtype weight_dtype;        /* DT_F32, DT_BF16, DT_F16: what --dtype resolved to */
    int max_model_len;         /* 0 = from the configuration */
    int media;                 /* rows of encoders take the places of placeholder tokens: 0 = no, else 1 + deepstack levels */
    bool keep_activations;     /* of quantised checkpoints that want them rounded: weights alone are quantised */
    bool kv_scales;            /* the cache is fp8 and divided by the checkpoint's scales, 1 where it has none */
    quant_scheme quant;        /* what linear weights, the head's included, become while they load; QUANT_NONE = they stay */
} model_options;

/* What the rest of the engine needs to know of a model. */
typedef struct model_info {
    const char *architecture;  /* "LlamaForCausalLM" */
    const char *model_type;    /* "llama" */
    int vocab_size, n_layers, hidden_size, n_heads, n_kv_heads, head_dim;
    int max_model_len;         /* derived from the configuration (rope scaling included), vLLM's rule */
    dtype torch_dtype;         /* of the checkpoint as config.json says; DT_F32 if it does not */
    int sliding_window;        /* 0 = none */
    int rope_switch_len;       /* longrope: sequences longer than this use rope variant 1; 0 = one variant */
    int media;                 /* as model_options.media */
    bool mrope;                /* positions are three numbers */
    bool media_sees_all;       /* tokens of an image see all of it, not only what came before */
    int64_t n_params;
    int32_t bos_id;            /* -1 = none */
    const int32_t *eos_ids; int n_eos;  /* from config.json (generation_config.json is the engine's business) */
} model_info;

typedef struct model model;

/* From a parsed config.json. An unknown architecture is ST_UNSUPPORTED and the message lists all that are known; a missing or
 * bad field is ST_INVALID and names it. */
status model_new(const jv *config, const model_options *o, model **out) FALLIBLE;
void model_free(model *m);
const model_info *model_describe(const model *m);
/* The finished, verified and fused graph; owned by the model. */
const graph *model_graph(const model *m);
/* The graph that each device of a mesh runs, partitioned and fused; `uniform`: equal layers stay equal (graph_optimize_uniform).
 * The caller frees it; it lives on without the model. ST_INVALID names what the mesh does not divide. */
status model_graph_for(const model *m, mesh on, bool uniform, graph **out) FALLIBLE;
/* Architectures in the registry, NULL-terminated. */
const char *const *model_architectures(void);

/* A weight source over a checkpoint directory (safetensors), or over nothing with deterministic pseudo-random values
 * (--load-format dummy). Checks every weight of the graph: present, right shape, supported dtype; the error lists the first
 * ones missing. Values are converted to the graph's weight dtype by the device while packing. */
status model_weights_open(const model *m, const char *dir, bool dummy, uint64_t seed, weight_source **out) FALLIBLE;
void model_weights_close(weight_source *w);
/* Does a checkpoint directory hold scales for an fp8 KV cache (model/kv_scales.h)? */
status model_kv_scales_stored(const char *dir, bool *out) FALLIBLE;

#endif
