#include "graph/quant.h"

#include <string.h>

static const quant_info schemes[QUANT_COUNT] = {
#define QUANT_ROW(up, low, type, group, act) [QUANT_##up] = { #low, type, group, act },
    QUANT_SCHEMES(QUANT_ROW)
#undef QUANT_ROW
};

static const struct { const char *name; quant_scheme scheme; } short_names[] = {
    { "int4", QUANT_INT4_G128 },
    { "fp8", QUANT_FP8 },
    { "int8_weight_only", QUANT_INT8_WO },
    { "int4_weight_only", QUANT_INT4_G128_WO },
};

const quant_info *quant_describe(quant_scheme s) { return &schemes[(unsigned)s < QUANT_COUNT ? s : QUANT_NONE]; }

quant_scheme quant_of_head(quant_scheme s)
{
    const quant_info *q = quant_describe(s);
    return q->type != DT_I4 ? s : q->int8_activations ? QUANT_INT8 : QUANT_INT8_WO;
}

double quant_bits(quant_scheme s, double k)
{
    const quant_info *q = quant_describe(s);
    double bits = (double)dtype_bits(q->type);
    if (s == QUANT_NONE) return bits;
    return q->group ? bits + 16.0 / q->group : bits + 32 / k;
}

status quant_parse(const char *name, quant_scheme *out)
{
    char have[512] = "";
    for (size_t i = 0; i < sizeof short_names / sizeof *short_names; i++)
        if (strcmp(name, short_names[i].name) == 0) {
            *out = short_names[i].scheme;
            return ST_OK;
        }
    for (int i = QUANT_NONE + 1; i < QUANT_COUNT; i++) {
        if (strcmp(name, schemes[i].name) == 0) {
            *out = (quant_scheme)i;
            return ST_OK;
        }
        if (have[0]) strncat(have, ", ", sizeof have - strlen(have) - 1);
        strncat(have, schemes[i].name, sizeof have - strlen(have) - 1);
    }
    return err_set(ST_INVALID, "unknown quantization '%.100s'; known while loading: %s", name, have);
}
