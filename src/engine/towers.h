/* The encoders beside a language model, loaded and ready: items of requests (images, sounds) become rows for their placeholder tokens. They run on the
 * language model's device where that compiles programs (PJRT), their rows coming back to the host, else on the host's CPU with threads of their own. Callers are
 * the API's workers, never the engine's threads. One item at a time. Outputs are kept by the hash of their content, the least recently used go first. */
#ifndef SYSTOLIC_ENGINE_TOWERS_H
#define SYSTOLIC_ENGINE_TOWERS_H

#include <stdatomic.h>

#include "base/json.h"
#include "device/device.h"
#include "model/encoder.h"

/* What an encoder made of an item; shared, never changed. */
typedef struct media_rows {
    atomic_int refs;
    int64_t n, width;               /* width: (1 + deepstack levels) times the language model's */
    uint8_t hash[32];               /* of the content */
    float rows[];                   /* [n][width] */
} media_rows;
media_rows *media_rows_ref(media_rows *r);
void media_rows_release(media_rows *r);

typedef struct towers_options {
    const char *dir;                /* of the checkpoint */
    dtype type;                     /* of the weights */
    int n_threads;                  /* 0 = as many as the machine has */
    const char *isa, *weight_cache;
    device *dev;                    /* that is to run them, borrowed; NULL = the host's CPU. Should it fail to load them, the CPU does, with a warning */
    int64_t most_tokens;            /* placeholder tokens of one item: larger ones are refused */
    int64_t cache_bytes;            /* of outputs kept; 0 = none */
} towers_options;

typedef struct towers towers;
/* Rows of output that one item may have where the language model takes so many tokens: pictures of 12.8 million pixels, 40 minutes of sound. */
int64_t towers_most_tokens(encoder_kind kind, int64_t max_model_len);
/* What a stage is loaded for: items of up to `tokens` rows of output. */
device_limits towers_limits(const encoder *e, int stage, int64_t tokens);
/* *out is NULL if the model has no encoders. */
status towers_open(const jv *config, const towers_options *o, towers **out) FALLIBLE;
void towers_close(towers *t);
bool towers_has(const towers *t, encoder_kind kind);
/* What they take of the device's memory, about; 0 on the CPU. */
int64_t towers_device_bytes(const towers *t);
int towers_levels(const towers *t);  /* deepstack */
/* Placeholder tokens of an item; ST_INVALID if it does not fit. */
status towers_n_tokens(const towers *t, encoder_kind kind, const encoder_input *in, int64_t *out) FALLIBLE;
/* One reference for the caller. Any thread. */
status towers_encode(towers *t, encoder_kind kind, const encoder_input *in, const uint8_t hash[32], media_rows **out) FALLIBLE;
typedef struct towers_stats { uint64_t queries, hits; int64_t cached_bytes; } towers_stats;
void towers_get_stats(towers *t, towers_stats *out);

#endif
