#include "graph/weights.h"

static int64_t group_of(const weight_data *w, int64_t row, int64_t col) { return row / w->group_out * weight_groups(w) + col / w->group_in; }

float weight_scale_at(const weight_data *w, int64_t row, int64_t col)
{
    float s;
    dtype_to_f32(w->scale_type, (const char *)w->scales + dtype_bytes(w->scale_type, (size_t)group_of(w, row, col)), &s, 1);
    return s / w->global;
}

float weight_zero_at(const weight_data *w, int64_t row, int64_t col)
{
    if (w->zeros) return w->zeros[group_of(w, row, col)];
    return w->type == DT_I4 ? 8 : 0;
}

static float value_at(const weight_data *w, int64_t at)
{
    const uint8_t *v = w->values;
    float f;
    if (w->type == DT_I4 || w->type == DT_F4E2M1) {
        uint8_t code = v[at / 2] >> (at % 2 ? 4 : 0) & 15;
        return w->type == DT_I4 ? (float)code : f4e2m1_to_f32(code);
    }
    dtype_to_f32(w->type, v + dtype_bytes(w->type, (size_t)at), &f, 1);
    return f;
}

void weight_row(const weight_data *w, int64_t row, float *dst)
{
    int64_t n = w->rank == 2 ? w->shape[1] : 1;
    if (!w->scales) {
        dtype_to_f32(w->type, (const char *)w->values + dtype_bytes(w->type, (size_t)(row * n)), dst, (size_t)n);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        dst[w->order ? w->order[i] : i] = (value_at(w, row * n + i) - weight_zero_at(w, row, i)) * weight_scale_at(w, row, i);
}

/* ---- against a graph ---- */

/* The columns that a checkpoint's tensor must have come out as the node's when they are cut. */
static bool fits(const node *n, const weight_part *p, const weight_data *d)
{
    int64_t shards = n->a.weight.col_shards > 1 ? n->a.weight.col_shards : 1;
    int rank = n->s.rank - weight_rows_dim(n);
    if (d->rank != rank || d->shape[0] != p->total) return false;
    return rank < 2 || (d->shape[1] > 0 && (d->shape[1] - 1) / shards + 1 == weight_cols(n));
}

/* The reader and the graph have the scheme from one configuration. */
status weight_check_stored(const char *name, quant_scheme s, const weight_data *d)
{
    quant_info q = quant_describe(s);
    char want[QUANT_NAME_CAP];
    if (!quant_is_stored(s)) return err_set(ST_UNSUPPORTED, "tensor %s is quantised, which is supported for the weights of linear layers and experts only", name);
    bool right = d->type == q.type && (d->zeros != NULL) == q.zeros && (d->order != NULL) == q.ordered;
    if (right && (q.group ? d->group_in == q.group : d->group_in >= d->shape[1])) return ST_OK;
    return err_set(ST_INVALID, "tensor %s is %s in groups of %lld, expected %s", name, dtype_name(d->type), (long long)d->group_in, quant_print(s, want));
}

status weight_check_part(const node *n, const weight_part *p, const weight_data *d)
{
    quant_scheme s = (quant_scheme)n->a.weight.scheme;
    if (d->scales) TRY(weight_check_stored(p->name, s, d));
    else if (quant_is_stored(s)) return err_set(ST_INVALID, "tensor %s is not quantised, but the model's configuration says so", p->name);
    else if (d->type != DT_F32 && d->type != DT_BF16 && d->type != DT_F16 && d->type != DT_F64)
        return err_set(ST_UNSUPPORTED, "tensor %s is %s; supported: f32, bf16, f16, f64", p->name, dtype_name(d->type));
    if (fits(n, p, d)) return ST_OK;
    char a[128], b[128];
    shape have = { .type = d->type, .rank = d->rank < GRAPH_MAX_RANK ? d->rank : GRAPH_MAX_RANK };
    shape want = { .type = n->s.type, .rank = n->s.rank - weight_rows_dim(n), .dim = { p->total, weight_cols(n) * (n->a.weight.col_shards > 1 ? n->a.weight.col_shards : 1) } };
    for (int i = 0; i < have.rank; i++) have.dim[i] = d->shape[i];
    return err_set(ST_INVALID, "tensor %s is %s, expected %s", p->name, shape_format(&have, a, sizeof a), shape_format(&want, b, sizeof b));
}
