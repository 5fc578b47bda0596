/* Inside of the encoders: their parameters, the words their graphs are written in, and helpers that move rows. */
#ifndef SYSTOLIC_MODEL_ENCODER_INT_H
#define SYSTOLIC_MODEL_ENCODER_INT_H

#include "base/arena.h"
#include "model/encoder.h"

enum { ENCODER_STAGES = 6, ENCODER_LEVELS = 8 };

typedef struct encoder_family {
    const char *model_type;            /* of the whole model's config.json */
    encoder_kind kind;
    /* Reads parameters and builds the stages' graphs (graph_finish included). */
    status (*build)(encoder *e, const jv *config);
    status (*n_tokens)(const encoder *e, const encoder_input *in, int64_t *out);
    int64_t (*most_rows)(const encoder *e, int stage, int64_t tokens);
    status (*run)(const encoder *e, const encoder_input *in, encoder_step *step, void *arg, float *out);
} encoder_family;
extern const encoder_family encoder_qwen2_5_vl, encoder_qwen3_omni, encoder_gemma3, encoder_llama4, encoder_qwen3_omni_audio;

struct encoder {
    const encoder_family *family;
    dtype type;
    graph *g[ENCODER_STAGES]; int n_stages;
    int hidden, n_heads, head_dim, layers, mlp, patch, temporal, merge, text_hidden;
    int image_side;                    /* pixels of a picture or tile; 0 = any size */
    int window;                        /* qwen2.5: merged patches along a side of a window; 0 = none */
    int levels, level_at[ENCODER_LEVELS];   /* deepstack: after these layers */
    uint8_t *full;                     /* [layers] layers that see the whole image */
    int pooled_side;                   /* gemma3: tokens along a side */
    int channels, mels, chunk, chunks_seen, out_dim;    /* audio */
    const char *table_name; int64_t table_rows;         /* learned positions */
    float *table;                      /* [table_rows][hidden], read by encoder_weights_open */
    const char *class_name;            /* llama4: added to the table's last row */
    arena mem;
};

/* ---- words; names are completed with prefix and ".weight" or ".bias" ---- */
typedef struct enc { encoder *e; graph *g; const char *prefix; int layer, n_inputs; } enc;
status enc_begin(encoder *e, enc *n) FALLIBLE;                     /* a new stage */
status enc_end(enc *n, tensor out) FALLIBLE;
void enc_layer(enc *n, int layer);                                 /* what follows belongs to it; -1 = to none. Equal layers become one loop on devices */
const char *enc_name(enc *n, const char *name, char *dst, size_t cap);   /* "%d" in the prefix is the layer */
tensor enc_input(enc *n, int64_t cols);                            /* the stage's next activation [T, cols] */
tensor enc_positions(enc *n);
tensor enc_linear(enc *n, tensor x, const char *name, int64_t rows, bool bias);
tensor enc_linear_rows(enc *n, tensor x, const char *name, int64_t from, int64_t to, int64_t total, bool bias);
tensor enc_layer_norm(enc *n, tensor x, const char *name, double eps);
tensor enc_rms_norm(enc *n, tensor x, const char *name, double eps, bool plus_one);
tensor enc_add(enc *n, tensor x, tensor y);
tensor enc_act(enc *n, tensor x, activation kind);
/* q, k, v [T, hidden]; table: rope's, or NO_TENSOR. -> [T, hidden] */
tensor enc_attention(enc *n, tensor q, tensor k, tensor v, tensor table, bool interleaved, tensor segments);
/* A layer of a ViT (Dosovitskiy et al. 2020): norm, attention, norm, MLP (mlp.fc1, mlp.fc2). table: interleaved rope's, or NO_TENSOR. */
tensor enc_vit_block(enc *n, tensor x, const char *norm1, const char *norm2, const char *out_proj, double eps, activation act, tensor table, tensor segments);
/* cos and sin of two numbers per token (positions3[1], [2]): the first half of the frequencies follows the one, the second half the other. */
tensor enc_rope_table(enc *n, double theta);

/* ---- running ---- */
typedef struct enc_work {
    const encoder *e;
    encoder_step *step;
    void *arg;
} enc_work;
/* One stage over n rows: activations in the order of enc_input; positions3 or NULL. */
status enc_stage(const enc_work *w, int stage, int64_t n, const float *const *activations, const int32_t *positions3, float *out) FALLIBLE;
/* Required integers of a configuration object, within [1, most]; def >= 0 where absent. */
status enc_int(const jv *j, const char *what, const char *name, int64_t most, int64_t def, int *out) FALLIBLE;
int64_t enc_cols(const encoder *e, int stage);    /* of the stage's output */
/* Patches along a side of a picture or tile of image_side pixels; its values must be of that many, `what` names it. */
static inline int enc_per_side(const encoder *e) { return e->image_side / e->patch; }
status enc_check_squares(const encoder *e, const encoder_input *in, const char *what) FALLIBLE;
/* Patches [n][3 * p * p] of a picture [3][side][side], row by row. */
void enc_unfold(const float *picture, int side, int patch, float *out);

#endif
