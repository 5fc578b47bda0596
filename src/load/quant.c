#include "load/quant.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "graph/graph.h"

static const struct { quant_read_fn *read; const char *values; } formats[QUANT_FORMAT_COUNT] = {
    [QUANT_FORMAT_AWQ] = { quant_read_awq, ".qweight" },       [QUANT_FORMAT_GPTQ] = { quant_read_gptq, ".qweight" },
    [QUANT_FORMAT_PACKED] = { quant_read_packed, ".weight_packed" }, [QUANT_FORMAT_CHANNEL] = { quant_read_channel, ".weight" },
    [QUANT_FORMAT_BLOCK] = { quant_read_block, ".weight" },    [QUANT_FORMAT_NVFP4] = { quant_read_nvfp4, ".weight_packed" },
    [QUANT_FORMAT_MXFP4] = { quant_read_mxfp4, ".weight_packed" },
};

/* "a.b.weight" is a.b; "a.b[7]" and "a.b[7]T" are slice 7 of a.b. */
static status split_name(const char *name, quant_reader *r)
{
    size_t n = strlen(name);
    r->slice = -1;
    const char *at = strrchr(name, '[');
    if (at) {
        char *end;
        r->slice = strtol(at + 1, &end, 10);
        if (end == at + 1 || *end != ']' || r->slice < 0) return err_set(ST_INTERNAL, "weight %s names no expert", name);
        n = (size_t)(at - name);
    } else if (n > 7 && strcmp(name + n - 7, ".weight") == 0) {
        n -= 7;
    }
    if (n >= sizeof r->base) return err_set(ST_LIMIT, "the name %.60s... is too long", name);
    memcpy(r->base, name, n);
    r->base[n] = 0;
    return ST_OK;
}

status quant_load(const quant_module *q, const quant_files *f, const char *name, weight_data *out)
{
    quant_reader r = { .q = q, .f = f };
    if ((unsigned)q->format >= QUANT_FORMAT_COUNT || !formats[q->format].read) return err_set(ST_INTERNAL, "weight %s is not quantised", name);
    TRY(split_name(name, &r));
    if (r.slice >= 0 && q->format != QUANT_FORMAT_MXFP4) return err_set(ST_UNSUPPORTED, "tensor %s: all experts in one tensor are supported in mxfp4 only", r.base);
    weight_data w = { .rank = 2, .global = 1, .group_out = 1 };
    status st = formats[q->format].read(&r, &w);
    if (st != ST_OK) mem_free(w.owned);
    else *out = w;
    return st;
}

bool quant_values_name(const quant_module *q, const char *name, char *dst)
{
    quant_reader r;
    if (split_name(name, &r) != ST_OK) return false;
    snprintf(dst, QUANT_TENSOR_MAX, "%s%s", r.base, r.slice >= 0 ? "_blocks" : formats[q->format].values);
    return true;
}

bool quant_has(const quant_module *q, const quant_files *f, const char *name)
{
    char full[QUANT_TENSOR_MAX];
    return quant_values_name(q, name, full) && f->find(f->arg, full) != NULL;
}

void quant_release(weight_data *w)
{
    mem_free(w->owned);
    *w = (weight_data){ 0 };
}

/* ---- for the readers ---- */

status quant_tensor(const quant_reader *r, const char *suffix, bool optional, st_tensor *out)
{
    char name[QUANT_TENSOR_MAX];
    snprintf(name, sizeof name, "%s%s", r->base, suffix);
    const st_tensor *t = r->f->find(r->f->arg, name);
    *out = (st_tensor){ 0 };
    if (!t) return optional ? ST_OK : err_set(ST_NOT_FOUND, "tensor %s is not in the checkpoint", name);
    *out = *t;
    if (r->slice < 0) return ST_OK;
    if (t->rank < 2 || r->slice >= t->shape[0]) return err_set(ST_INVALID, "tensor %s has no expert %lld", name, (long long)r->slice);
    out->rank--;
    for (int i = 0; i < out->rank; i++) out->shape[i] = t->shape[i + 1];
    out->bytes = t->bytes / (size_t)t->shape[0];
    out->data = (const char *)t->data + out->bytes * (size_t)r->slice;
    return ST_OK;
}

static void describe(const st_tensor *t, char dst[128])
{
    size_t at = (size_t)snprintf(dst, 128, "%s[", dtype_name(t->type));
    for (int i = 0; i < t->rank && at < 100; i++) at += (size_t)snprintf(dst + at, 128 - at, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    snprintf(dst + at, 128 - at, "]");
}

status quant_need(const quant_reader *r, const st_tensor *t, dtype type, int rank, int64_t rows, int64_t cols)
{
    int64_t want[2] = { rows, cols };
    bool right = t->rank == rank && (t->type == type || (type == DT_F32 && (t->type == DT_BF16 || t->type == DT_F16)));
    for (int i = 0; i < rank && right; i++) right = t->shape[i] >= 1 && t->shape[i] <= QUANT_MAX_DIM && (want[i] < 0 || t->shape[i] == want[i]);
    if (right) return ST_OK;
    char have[128], expected[128];
    size_t at = (size_t)snprintf(expected, sizeof expected, "%s[", type == DT_F32 ? "f32, bf16 or f16 " : dtype_name(type));
    for (int i = 0; i < rank; i++) {
        const char *comma = i ? ", " : "";
        if (want[i] < 0) at += (size_t)snprintf(expected + at, sizeof expected - at, "%s..", comma);
        else at += (size_t)snprintf(expected + at, sizeof expected - at, "%s%lld", comma, (long long)want[i]);
    }
    snprintf(expected + at, sizeof expected - at, "]");
    describe(t, have);
    return err_set(ST_INVALID, "tensor %s is %s, expected %s", t->name ? t->name : r->base, have, expected);
}

status quant_number(const quant_reader *r, const char *suffix, float *out)
{
    st_tensor t;
    TRY(quant_tensor(r, suffix, false, &t));
    bool one = t.rank <= 2 && (t.type == DT_F32 || t.type == DT_BF16 || t.type == DT_F16);
    for (int i = 0; i < t.rank && one; i++) one = t.shape[i] == 1;
    char have[128];
    describe(&t, have);
    if (!one) return err_set(ST_INVALID, "tensor %s is %s, expected one number", t.name, have);
    dtype_to_f32(t.type, t.data, out, 1);
    return ST_OK;
}

void quant_transpose(const void *src, void *dst, int64_t groups, int64_t out, size_t bytes)
{
    for (int64_t c = 0; c < out; c++)
        for (int64_t g = 0; g < groups; g++) memcpy((char *)dst + (size_t)(c * groups + g) * bytes, (const char *)src + (size_t)(g * out + c) * bytes, bytes);
}

/* A counting sort, since groups are few. */
status quant_sort(const quant_reader *r, const st_tensor *g, int64_t n, int64_t group, int32_t *order)
{
    TRY(quant_need(r, g, DT_I32, 1, n, 0));
    int64_t groups = (n + group - 1) / group;
    int64_t *at = mem_array((size_t)groups, sizeof *at);
    if (!at) return err_nomem();
    for (int64_t i = 0; i < groups; i++) at[i] = i * group;
    status st = ST_OK;
    for (int64_t i = 0; i < n && st == ST_OK; i++) {
        int32_t of = (int32_t)quant_word(g, i);
        int64_t end = ((int64_t)of + 1) * group < n ? ((int64_t)of + 1) * group : n;
        if (of < 0 || of >= groups) st = err_set(ST_INVALID, "tensor %s has group %d in column %lld, expected 0 to %lld", g->name, of, (long long)i, (long long)groups - 1);
        else if (at[of] >= end) st = err_set(ST_UNSUPPORTED, "tensor %s has more than %lld columns of group %d", g->name, (long long)group, of);
        else order[at[of]++] = (int32_t)i;
    }
    mem_free(at);
    return st;
}

status quant_reorder(uint8_t *values, int64_t rows, int64_t n, const int32_t *order)
{
    uint8_t *row = mem_alloc((size_t)n);
    if (!row) return err_nomem();
    for (int64_t r = 0; r < rows; r++) {
        uint8_t *v = values + r * (n / 2);
        for (int64_t i = 0; i < n; i++) row[i] = v[i / 2] >> (i % 2 ? 4 : 0) & 15;
        for (int64_t i = 0; i < n; i += 2) v[i / 2] = (uint8_t)(row[order[i]] | row[order[i + 1]] << 4);
    }
    mem_free(row);
    return ST_OK;
}
