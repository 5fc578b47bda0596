/* Which programs a model needs on a device: one per bucket of (tokens, sequences) and the usual samplers. The same list, with
 * the same texts, is made by `systolic compile` for a chip that is not here and by a device that runs them, so that what one
 * compiled the other finds in the cache. */
#ifndef SYSTOLIC_DEVICE_PJRT_PROGRAMS_H
#define SYSTOLIC_DEVICE_PJRT_PROGRAMS_H

#include "device/device.h"
#include "device/pjrt/lower.h"
#include "device/pjrt/pjrt.h"
#include "device/pjrt/sampler.h"

enum { MAX_BUCKETS = 64, STEP_DEPTH = 4 };      /* STEP_DEPTH: steps in flight */

typedef struct bucket_list { int n; lower_bucket v[MAX_BUCKETS]; } bucket_list;
/* Decode buckets of 8, 16, 32, ... sequences, mixed ones of 16, 32, ... tokens; the largest are the limits themselves. Encoders: least_rows, twice as
 * many, ... rows. */
void buckets_make(const device_limits *l, mesh m, bucket_list *out);
/* The least one that the batch fits, -1 if it fits none (which limits forbid). */
int buckets_pick(const bucket_list *l, const batch *x);

/* Everything that the texts depend on. */
typedef struct program_context {
    const lower_plan *plan;
    lower_options lower;
    device_limits limits;
    bucket_list buckets;
    int vocab;
} program_context;

/* g: for the mesh that it was partitioned for. act: the type of activations. n_pages may be set later. */
status program_context_new(const graph *g, const device_limits *l, dtype act, program_context *out) FALLIBLE;
void program_context_free(program_context *c);

typedef struct program_spec { bool sampler; lower_bucket bucket; sampler_kind kind; char name[48]; } program_spec;
void program_step_spec(const program_context *c, int bucket, program_spec *out);
void program_sampler_spec(const sampler_kind *k, program_spec *out);
/* Samplers to have ready: greedy and random ones for each number of rows. Returns how many. */
int program_usual_samplers(const program_context *c, sampler_kind *out, int cap);
status program_text(const program_context *c, const program_spec *s, buf *out) FALLIBLE;
/* What compilers are told. kind: of the device ("TPU7x"). The overrides point into static memory. */
void program_options(const graph *g, const char *kind, pjrt_compile_options *out);

/* ---- memory of one device ---- */
int64_t program_weight_bytes(const program_context *c);
int64_t program_page_bytes(const program_context *c);                   /* one page over all places */
int64_t program_layer_cache_bytes(const program_context *c);            /* of the smallest array, with n_pages set */
/* About what its largest step needs beside weights and KV: compilers say how much only when n_pages is known. */
int64_t program_step_bytes(const program_context *c);
/* Memory for KV: utilization of memory_bytes less the weights and what steps and sampling need beside (an estimate on the safe
 * side: compilers say how much only when n_pages is known). Below 0: it does not fit by that much. */
int64_t program_kv_bytes(const program_context *c, int64_t memory_bytes, double utilization);

/* Does a program keep a copy of the cache? Its temporaries are then at least one layer's cache (and 64 MiB), beside two of its
 * widest activations and one expert in f32. */
bool program_copies_cache(const program_context *c, const lower_bucket *b, const pjrt_stats *s);

#endif
