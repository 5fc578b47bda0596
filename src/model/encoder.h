/* Encoders of images and sounds: the towers beside a language model, and what projects their outputs to its width.
 *
 * An encoder is one or a few graphs (stages) in the words of ops.def; between them rows are only moved (windows, merging of neighbours, pooling,
 * the neighbourhoods of convolutions), which is plain C here. Position tables are read from the checkpoint and added as an input. Who runs the
 * stages decides where: encoder_run calls back with a batch for each of them.
 *
 *   Qwen2.5-VL, Qwen3-Omni (encoder_qwen.c)    vision, with deepstack
 *   Gemma 3                (encoder_siglip.c)  SigLIP
 *   Llama 4                (encoder_llama4.c)
 *   Qwen3-Omni             (encoder_audio.c)   audio */
#ifndef SYSTOLIC_MODEL_ENCODER_H
#define SYSTOLIC_MODEL_ENCODER_H

#include "base/json.h"
#include "graph/batch.h"
#include "graph/graph.h"
#include "graph/weights.h"

typedef enum encoder_kind { ENCODER_IMAGE, ENCODER_AUDIO, ENCODER_KINDS } encoder_kind;

/* What a processor made of one item: values [rows][cols], for pictures its grid (of patches or tiles). */
typedef struct encoder_input { const float *values; int64_t rows, cols; int grid[3]; } encoder_input;

typedef struct encoder encoder;
/* From config.json; *out is NULL if the model has no such encoder. Weights are kept as `type`. */
status encoder_new(const jv *config, encoder_kind kind, dtype type, encoder **out) FALLIBLE;
void encoder_free(encoder *e);
int encoder_n_stages(const encoder *e);
const graph *encoder_graph(const encoder *e, int stage);
/* Parameters of a learned table of positions and of a class embedding, which are in no graph. */
int64_t encoder_table_params(const encoder *e);
/* Columns of a row of the output: the language model's width, times 1 + deepstack levels (the output proper comes first). */
int64_t encoder_width(const encoder *e);
int encoder_levels(const encoder *e);
/* Rows of output (placeholder tokens) that an input has; ST_INVALID if it does not fit the model. */
status encoder_n_tokens(const encoder *e, const encoder_input *in, int64_t *out) FALLIBLE;
/* Most rows of a stage's batch for items of up to `tokens` rows of output: what its device_model is to be loaded for. */
int64_t encoder_most_rows(const encoder *e, int stage, int64_t tokens);

/* A weight source for the stages over a checkpoint directory; checks that all are there, and reads the position tables. */
status encoder_weights_open(encoder *e, const char *dir, weight_source **out) FALLIBLE;
/* One that makes them up (load/dummy.h), the tables too: for figures at full size without a checkpoint. */
status encoder_weights_dummy(encoder *e, uint64_t seed, weight_source **out) FALLIBLE;
void encoder_weights_close(weight_source *w);

/* Runs stage `stage` on b; b->logits is the output [rows][columns of the stage's output]. */
typedef status encoder_step(void *arg, int stage, const batch *b);
/* out [n_tokens][encoder_width], made here (mem_free). */
status encoder_run(const encoder *e, const encoder_input *in, encoder_step *step, void *arg, float **out, int64_t *n_tokens) FALLIBLE;

#endif
