/* Quantisation schemes: what a weight is in memory and what activations become beside it. A scheme is an attribute of a weight node.
 * There are two kinds, and docs/quantization.md has the arithmetic of both:
 *   named    what --quantization NAME makes of an unquantised checkpoint while it loads: the list below
 *   stored   what a quantised checkpoint holds (quantization_config): built by quant_stored from its fields
 * A scheme is one integer, so that nodes stay plain and comparable; quant_describe takes it apart. */
#ifndef SYSTOLIC_GRAPH_QUANT_H
#define SYSTOLIC_GRAPH_QUANT_H

#include <stdbool.h>

#include "base/err.h"
#include "graph/dtype.h"

/* X(enumerator, name, type of the values, k's that share a scale (0: a whole output channel), type of the scales, activations) */
#define QUANT_SCHEMES(X)                                                                          \
    X(NONE, none, DT_F32, 0, DT_F32, NONE)                                                        \
    X(INT8, int8, DT_I8, 0, DT_F32, INT8)                                                         \
    X(INT8_G32, int8_g32, DT_I8, 32, DT_BF16, INT8)                                               \
    X(INT4_G128, int4_g128, DT_I4, 128, DT_BF16, INT8)                                            \
    X(INT4_G32, int4_g32, DT_I4, 32, DT_BF16, INT8)                                               \
    X(INT8_WO, int8_per_channel_weight_only, DT_I8, 0, DT_F32, NONE)                              \
    X(INT8_G32_WO, int8_g32_weight_only, DT_I8, 32, DT_BF16, NONE)                                \
    X(INT4_G128_WO, int4_g128_weight_only, DT_I4, 128, DT_BF16, NONE)                             \
    X(INT4_G32_WO, int4_g32_weight_only, DT_I4, 32, DT_BF16, NONE)                                \
    X(FP8, fp8_per_channel, DT_F8E4M3, 0, DT_F32, NONE)

typedef enum quant_scheme {
#define QUANT_ENUM(up, low, type, group, scale, act) QUANT_##up,
    QUANT_SCHEMES(QUANT_ENUM)
#undef QUANT_ENUM
    QUANT_COUNT,
    QUANT_STORED = 1 << 30      /* set in every stored scheme; the lower bits are its fields */
} quant_scheme;

/* What activations are rounded to before the product. Dynamic: the scale is the token's own, amax / 127 or amax / 448. */
#define QUANT_ACTS(X)                                                                             \
    X(NONE, none)               /* weight only */                                                 \
    X(INT8, int8)               /* per token, or per token and group of the weight */             \
    X(INT8_STATIC, int8_static) /* the checkpoint's input_scale */                                \
    X(FP8, fp8)                 /* e4m3 per token */                                              \
    X(FP8_STATIC, fp8_static)                                                                     \
    X(FP8_G128, fp8_g128)       /* per token and 128 columns */
typedef enum quant_act {
#define QUANT_ACT(up, low) QUANT_ACT_##up,
    QUANT_ACTS(QUANT_ACT)
#undef QUANT_ACT
    QUANT_ACT_COUNT
} quant_act;

typedef struct quant_info {
    dtype type;             /* of the values: DT_I8, DT_I4, DT_F8E4M3, DT_F4E2M1 */
    int group;              /* k's that share a scale: a power of two, 16 or more; 0: a whole output channel */
    dtype scale;            /* what scales are kept in: DT_F32, DT_BF16, DT_F16, DT_F8E4M3 (times a number per channel), DT_F8E8M0. A stored
                               scheme of a graph says DT_F32: the device chooses what holds the checkpoint's scales exactly */
    quant_act act;
    bool zeros;             /* int4: value = (q - zero) * scale with a zero per scale; else the zero is 8 */
    bool ordered;           /* columns were sorted by group (GPTQ's act-order): the product takes its inputs in that order */
    bool int8_activations;  /* act is one of the int8 ones */
} quant_info;

/* Of QUANT_NONE for what is no scheme. */
quant_info quant_describe(quant_scheme s);
/* The stored scheme with these fields (int8_activations follows from act). */
quant_scheme quant_stored(quant_info q);
static inline bool quant_is_stored(quant_scheme s) { return (s & QUANT_STORED) != 0; }
/* Is this number a scheme? */
bool quant_valid(int64_t s);
/* The same scheme with its scales kept as `scale`. */
quant_scheme quant_with_scale(quant_scheme s, dtype scale);
/* May linears of one input that have this scheme become one? Not if each has an order or a scale of activations of its own. */
bool quant_joins(quant_scheme s);

enum { QUANT_NAME_CAP = 64 };
/* "int8", or for stored ones "i4.g128.zeros", "f8e4m3.act=fp8": fields that have their default are left out. Returns dst. */
char *quant_print(quant_scheme s, char dst[QUANT_NAME_CAP]);
/* Of named schemes only; "stored" for others. */
const char *quant_name(quant_scheme s);
/* Reads what quant_print writes; false if it is none. */
bool quant_read(const char *text, quant_scheme *out);

/* What the head (the weight that makes logits) becomes: int4 is too coarse for it (docs/quantization.md). Of named schemes. */
quant_scheme quant_of_head(quant_scheme s);
/* Bits a weight takes with its share of the scales, for rows of k. */
double quant_bits(quant_scheme s, double k);
/* A name of the list above but `none`, or a short one: int4, fp8, int8_weight_only, int4_weight_only. ST_INVALID lists the names. */
status quant_parse(const char *name, quant_scheme *out) FALLIBLE;

#endif
