/* Quantisation schemes: what a weight is in memory and what activations become beside it. A scheme is an attribute of a weight
 * node; devices make the quantised values from the checkpoint's while they load. docs/quantization.md has the arithmetic. */
#ifndef SYSTOLIC_GRAPH_QUANT_H
#define SYSTOLIC_GRAPH_QUANT_H

#include <stdbool.h>

#include "base/err.h"
#include "graph/dtype.h"

/* X(enumerator, name, type of the values, k's that share a scale (0: a whole output channel), activations become int8 too) */
#define QUANT_SCHEMES(X)                                                                \
    X(NONE, none, DT_F32, 0, false)                                                     \
    X(INT8, int8, DT_I8, 0, true)                                                       \
    X(INT8_G32, int8_g32, DT_I8, 32, true)                                              \
    X(INT4_G128, int4_g128, DT_I4, 128, true)                                           \
    X(INT4_G32, int4_g32, DT_I4, 32, true)                                              \
    X(INT8_WO, int8_per_channel_weight_only, DT_I8, 0, false)                           \
    X(INT8_G32_WO, int8_g32_weight_only, DT_I8, 32, false)                              \
    X(INT4_G128_WO, int4_g128_weight_only, DT_I4, 128, false)                           \
    X(INT4_G32_WO, int4_g32_weight_only, DT_I4, 32, false)                              \
    X(FP8, fp8_per_channel, DT_F8E4M3, 0, false)

typedef enum quant_scheme {
#define QUANT_ENUM(up, low, type, group, act) QUANT_##up,
    QUANT_SCHEMES(QUANT_ENUM)
#undef QUANT_ENUM
    QUANT_COUNT
} quant_scheme;

typedef struct quant_info { const char *name; dtype type; int group; bool int8_activations; } quant_info;

/* Of QUANT_NONE for what is no scheme. */
const quant_info *quant_describe(quant_scheme s);
static inline const char *quant_name(quant_scheme s) { return quant_describe(s)->name; }
/* What the head (the weight that makes logits) becomes: int4 is too coarse for it (docs/quantization.md). */
quant_scheme quant_of_head(quant_scheme s);
/* Bits a weight takes with its share of the scales, for rows of k. */
double quant_bits(quant_scheme s, double k);
/* A name of the list above but `none`, or a short one: int4, fp8, int8_weight_only, int4_weight_only. ST_INVALID lists the names. */
status quant_parse(const char *name, quant_scheme *out) FALLIBLE;

#endif
