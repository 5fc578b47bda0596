/* Quantised tensors as checkpoints hold them, into the canonical form (graph/weights.h). One file per format on disk:
 *
 *   quant_awq.c      AutoAWQ "gemm": int4, qweight [in, out/8] with an order of its own in a word, qzeros, scales
 *   quant_gptq.c     AutoGPTQ: int4, qweight [in/8, out], qzeros less one (v1), scales, g_idx
 *   quant_packed.c   compressed-tensors pack-quantized: int4, weight_packed [out, in/8], weight_scale, weight_zero_point, weight_shape
 *   quant_channel.c  int8 and e4m3 with a scale per tensor or channel: weight, weight_scale, input_scale
 *   quant_block.c    e4m3 with a scale per block of 128 x 128: weight, weight_scale_inv
 *   quant_nvfp4.c    e2m1 pairs, an e4m3 scale per 16, a global scale
 *   quant_mxfp4.c    e2m1 pairs, an e8m0 scale per 32: compressed-tensors and gpt-oss (all experts in one tensor)
 *
 * Everything read is untrusted: shapes are checked before a byte is touched. Errors name the tensor: ST_INVALID for one that is not as
 * the configuration says, ST_UNSUPPORTED for what is well-formed and not handled. Any thread. */
#ifndef SYSTOLIC_LOAD_QUANT_H
#define SYSTOLIC_LOAD_QUANT_H

#include "graph/quant.h"
#include "graph/weights.h"
#include "load/safetensors.h"

typedef enum quant_format {
    QUANT_FORMAT_NONE, QUANT_FORMAT_AWQ, QUANT_FORMAT_GPTQ, QUANT_FORMAT_PACKED, QUANT_FORMAT_CHANNEL, QUANT_FORMAT_BLOCK, QUANT_FORMAT_NVFP4,
    QUANT_FORMAT_MXFP4, QUANT_FORMAT_COUNT
} quant_format;

/* How a module's weight is stored: what the configuration says of it. */
typedef struct quant_module {
    quant_format format;        /* NONE: as it is */
    quant_scheme scheme;        /* of its node in the graph */
    int group;                  /* inputs that share a scale; 0 = all */
    int block_out, block_in;    /* BLOCK */
    bool zeros_less_one;        /* GPTQ v1 keeps zero - 1 */
} quant_module;

/* Where tensors are: by name, NULL if absent. */
typedef struct quant_files { const st_tensor *(*find)(const void *arg, const char *name); const void *arg; } quant_files;

/* The weight with this plain name: "....q_proj.weight", or expert 7 of a tensor with all of them: "....gate_up_proj[7]", with a T behind it
 * where a plain checkpoint would have [in, out]. */
status quant_load(const quant_module *q, const quant_files *f, const char *name, weight_data *out) FALLIBLE;
/* The name of the tensor that holds its values: "....q_proj.qweight". dst has QUANT_TENSOR_MAX bytes. False if the name is no weight's. */
enum { QUANT_NAME_MAX = 512, QUANT_TENSOR_MAX = QUANT_NAME_MAX + 32 };
bool quant_values_name(const quant_module *q, const char *name, char *dst);
/* Has the checkpoint that tensor? */
bool quant_has(const quant_module *q, const quant_files *f, const char *name);
void quant_release(weight_data *w);

/* ---- for the readers ---- */

enum { QUANT_MAX_DIM = 1 << 24 };
typedef struct quant_reader {
    const quant_module *q;
    const quant_files *f;
    char base[QUANT_NAME_MAX];  /* the name without ".weight" or "[7]" */
    int64_t slice;              /* 7; -1 = not one of several */
} quant_reader;

/* The tensor base + suffix (its slice); ST_NOT_FOUND, or *out zero if it is optional. */
status quant_tensor(const quant_reader *r, const char *suffix, bool optional, st_tensor *out) FALLIBLE;
/* Must be of this type (DT_F32 for scales: any of f32, bf16, f16) and shape; -1 = any size. Sizes are within [1, QUANT_MAX_DIM]. */
status quant_need(const quant_reader *r, const st_tensor *t, dtype type, int rank, int64_t rows, int64_t cols) FALLIBLE;
/* One number: of shape [], [1] or [1, 1]. */
status quant_number(const quant_reader *r, const char *suffix, float *out) FALLIBLE;
/* A checkpoint's integers, which may be unaligned. */
static inline uint32_t quant_word(const st_tensor *t, int64_t i) { uint32_t w; memcpy(&w, (const char *)t->data + i * 4, 4); return w; }
/* From [groups][out] to [out][groups], elements of `bytes`. */
void quant_transpose(const void *src, void *dst, int64_t groups, int64_t out, size_t bytes);
/* Order of columns by group, equal ones as they come; checks that groups have the size they should. g: [n] i32. */
status quant_sort(const quant_reader *r, const st_tensor *g, int64_t n, int64_t group, int32_t *order) FALLIBLE;
/* Moves nibbles of rows of n (even) so that column j is what was order[j]. */
status quant_reorder(uint8_t *values, int64_t rows, int64_t n, const int32_t *order) FALLIBLE;

typedef status quant_read_fn(const quant_reader *r, weight_data *out);
quant_read_fn quant_read_awq, quant_read_gptq, quant_read_packed, quant_read_channel, quant_read_block, quant_read_nvfp4, quant_read_mxfp4;

#endif
