/* What a model is made of, counted on its graph: parameters, the bytes of their formats, KV bytes. Pure functions. */
#ifndef SYSTOLIC_MODEL_COUNTS_H
#define SYSTOLIC_MODEL_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "model/model.h"

typedef struct model_params {
    int64_t total;          /* tied weights once */
    int64_t active;         /* of a token: experts by the share that is routed to; the embedding table and the head included */
    int64_t embedding;      /* the table: read a row at a time */
    int64_t quantised;      /* those that have a scheme */
    double bytes;           /* in their schemes, of quantised checkpoints as stored; scales and zero points included */
} model_params;
void model_count_params(const graph *g, model_params *out);
/* Those of the encoders of images and sounds that config.json describes, kept as `type`. */
status model_count_encoders(const jv *config, dtype type, int64_t *out) FALLIBLE;

/* Layers that keep the same of each token, and for as long. */
typedef struct model_kv_kind {
    const char *name;       /* "full", "window", "chunk", "latent" */
    int n_layers;
    int64_t reach;          /* tokens of a sequence that are kept: a window, a chunk; 0 = all */
    int64_t elements;       /* of one token and layer */
} model_kv_kind;
enum { MODEL_MAX_KV_KINDS = 8 };
/* Returns how many, those that keep everything first. More than MODEL_MAX_KV_KINDS are left out. */
int model_kv_kinds(const graph *g, model_kv_kind out[MODEL_MAX_KV_KINDS]);

#endif
