/* The encoders beside a language model, loaded and ready: items of requests (images, sounds) become rows for their placeholder tokens. They run on the CPU,
 * whatever device the language model is on, in the caller's thread and the threads of a device of their own: callers are the API's workers, never the
 * engine's threads. One item at a time. Outputs are kept by the hash of their content, the least recently used go first. */
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
    int64_t most_tokens;            /* placeholder tokens of one item: larger ones are refused */
    int64_t cache_bytes;            /* of outputs kept; 0 = none */
} towers_options;

typedef struct towers towers;
/* *out is NULL if the model has no encoders. */
status towers_open(const jv *config, const towers_options *o, towers **out) FALLIBLE;
void towers_close(towers *t);
bool towers_has(const towers *t, encoder_kind kind);
int towers_levels(const towers *t);  /* deepstack */
/* Placeholder tokens of an item; ST_INVALID if it does not fit. */
status towers_n_tokens(const towers *t, encoder_kind kind, const encoder_input *in, int64_t *out) FALLIBLE;
/* One reference for the caller. Any thread. */
status towers_encode(towers *t, encoder_kind kind, const encoder_input *in, const uint8_t hash[32], media_rows **out) FALLIBLE;
typedef struct towers_stats { uint64_t queries, hits; int64_t cached_bytes; } towers_stats;
void towers_get_stats(towers *t, towers_stats *out);

#endif
