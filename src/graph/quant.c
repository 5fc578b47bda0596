#include "graph/quant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct { const char *name; quant_info info; } schemes[QUANT_COUNT] = {
#define QUANT_ROW(up, low, t, g, s, a) \
    [QUANT_##up] = { #low, { .type = t, .group = g, .scale = s, .act = QUANT_ACT_##a, .int8_activations = QUANT_ACT_##a == QUANT_ACT_INT8 } },
    QUANT_SCHEMES(QUANT_ROW)
#undef QUANT_ROW
};

static const char *const act_names[QUANT_ACT_COUNT] = {
#define QUANT_ACT(up, low) [QUANT_ACT_##up] = #low,
    QUANT_ACTS(QUANT_ACT)
#undef QUANT_ACT
};

static const struct { const char *name; quant_scheme scheme; } short_names[] = {
    { "int4", QUANT_INT4_G128 },
    { "fp8", QUANT_FP8 },
    { "int8_weight_only", QUANT_INT8_WO },
    { "int4_weight_only", QUANT_INT4_G128_WO },
};

/* ---- stored schemes: bits 0-1 type, 2-5 log2 of the group (0: channel), 6-8 scale, 9-11 activations, 12 zeros, 13 ordered ---- */

static const dtype types[] = { DT_I8, DT_I4, DT_F8E4M3, DT_F4E2M1 };
static const dtype scales[] = { DT_F32, DT_BF16, DT_F16, DT_F8E4M3, DT_F8E8M0 };
enum { N_TYPES = 4, N_SCALES = 5, FIELD_BITS = 14, LEAST_GROUP = 4, MOST_GROUP = 14 };

static unsigned index_of(const dtype *list, int n, dtype t)
{
    for (int i = 0; i < n; i++)
        if (list[i] == t) return (unsigned)i;
    return 0;
}

quant_scheme quant_stored(quant_info q)
{
    unsigned log = 0;
    while (q.group > 1 << log) log++;
    return (quant_scheme)((unsigned)QUANT_STORED | index_of(types, N_TYPES, q.type) | log << 2 | index_of(scales, N_SCALES, q.scale) << 6 |
                          (unsigned)q.act << 9 | (q.zeros ? 1u << 12 : 0) | (q.ordered ? 1u << 13 : 0));
}

bool quant_valid(int64_t s)
{
    if (s >= 0 && s < QUANT_COUNT) return true;
    if (s < QUANT_STORED || s >= QUANT_STORED + (1 << FIELD_BITS)) return false;
    int64_t log = s >> 2 & 15;
    return (log == 0 || (log >= LEAST_GROUP && log <= MOST_GROUP)) && (s >> 6 & 7) < N_SCALES && (s >> 9 & 7) < QUANT_ACT_COUNT;
}

quant_info quant_describe(quant_scheme s)
{
    if (!quant_valid(s)) return schemes[QUANT_NONE].info;
    if (!quant_is_stored(s)) return schemes[s].info;
    unsigned u = (unsigned)s, log = u >> 2 & 15;
    quant_act act = (quant_act)(u >> 9 & 7);
    return (quant_info){ types[u & 3], log ? 1 << log : 0, scales[u >> 6 & 7], act, (u & 1u << 12) != 0, (u & 1u << 13) != 0,
                         act == QUANT_ACT_INT8 || act == QUANT_ACT_INT8_STATIC };
}

quant_scheme quant_with_scale(quant_scheme s, dtype scale)
{
    quant_info q = quant_describe(s);
    q.scale = scale;
    return quant_stored(q);
}

bool quant_joins(quant_scheme s)
{
    quant_info q = quant_describe(s);
    return !q.ordered && q.act != QUANT_ACT_INT8_STATIC && q.act != QUANT_ACT_FP8_STATIC;
}

/* ---- names ---- */

const char *quant_name(quant_scheme s) { return quant_is_stored(s) ? "stored" : schemes[quant_valid(s) ? s : QUANT_NONE].name; }

char *quant_print(quant_scheme s, char dst[QUANT_NAME_CAP])
{
    quant_info q = quant_describe(s);
    char group[16] = "", scale[16] = "", act[24] = "";
    if (q.group) snprintf(group, sizeof group, ".g%d", q.group);
    if (q.scale != DT_F32) snprintf(scale, sizeof scale, ".%s", dtype_name(q.scale));
    if (q.act) snprintf(act, sizeof act, ".act=%s", act_names[q.act]);
    if (quant_is_stored(s)) snprintf(dst, QUANT_NAME_CAP, "%s%s%s%s%s%s", dtype_name(q.type), group, q.zeros ? ".zeros" : "", q.ordered ? ".ordered" : "", scale, act);
    else snprintf(dst, QUANT_NAME_CAP, "%s", quant_name(s));
    return dst;
}

static bool read_field(const char *word, quant_info *q)
{
    if (word[0] == 'g') {
        char *end;
        long g = strtol(word + 1, &end, 10);
        if (*end || g < 1 << LEAST_GROUP || g > 1 << MOST_GROUP || (g & (g - 1))) return false;
        q->group = (int)g;
        return true;
    }
    if (strcmp(word, "zeros") == 0) return q->zeros = true;
    if (strcmp(word, "ordered") == 0) return q->ordered = true;
    for (int i = 1; i < QUANT_ACT_COUNT; i++)
        if (strncmp(word, "act=", 4) == 0 && strcmp(word + 4, act_names[i]) == 0) return (q->act = (quant_act)i) != 0;
    for (int i = 1; i < N_SCALES; i++)
        if (strcmp(word, dtype_name(scales[i])) == 0) return q->scale = scales[i], true;
    return false;
}

bool quant_read(const char *text, quant_scheme *out)
{
    char all[QUANT_NAME_CAP], *word = all, *rest;
    quant_info q = { .scale = DT_F32 };
    bool known = false;
    for (int i = QUANT_NONE + 1; i < QUANT_COUNT; i++)
        if (strcmp(text, schemes[i].name) == 0) return *out = (quant_scheme)i, true;
    if (strlen(text) >= sizeof all) return false;
    snprintf(all, sizeof all, "%s", text);
    if ((rest = strchr(word, '.'))) *rest++ = 0;
    for (int i = 0; i < N_TYPES; i++)
        if (strcmp(word, dtype_name(types[i])) == 0) q.type = types[i], known = true;
    while (known && (word = rest)) {
        if ((rest = strchr(word, '.'))) *rest++ = 0;
        if (!read_field(word, &q)) return false;
    }
    if (known) *out = quant_stored(q);
    return known;
}

quant_scheme quant_of_head(quant_scheme s)
{
    quant_info q = quant_describe(s);
    return q.type != DT_I4 ? s : q.int8_activations ? QUANT_INT8 : QUANT_INT8_WO;
}

double quant_bits(quant_scheme s, double k)
{
    quant_info q = quant_describe(s);
    double bits = (double)dtype_bits(q.type), scale = quant_is_stored(s) && q.group && q.scale == DT_F32 ? 16 : (double)dtype_bits(q.scale);
    if (s == QUANT_NONE) return bits;
    return bits + (scale + (q.zeros ? 8 : 0)) / (q.group ? q.group : k);
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
