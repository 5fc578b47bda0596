#include "ops/hlo_weight.h"

enum { LEAST_GROUP = 8, LANES = 128, GROUPS = 16 };

/* ---- pieces ---- */

static bool is_packed(dtype t) { return t == DT_I4 || t == DT_F4E2M1; }
static quant_scheme scheme_of(const node *w) { return (quant_scheme)w->a.weight.scheme; }

int64_t hlo_weight_group(const node *w)
{
    int64_t group = quant_describe(scheme_of(w)).group, cols = weight_cols(w);
    if (w->a.weight.col_shards > 1)
        while (group > 1 && cols % group) group /= 2;
    return group;
}

int64_t hlo_weight_half(int64_t cols)
{
    int64_t half = (cols + 1) / 2;
    return half > 64 ? (half + 127) / 128 * 128 : half;
}

/* 4-bit formats keep theirs in 16 bits, so here they have the type that the model computes in; a power of two needs its range. */
static dtype scale_type(const node *w, quant_info q)
{
    if (!quant_is_stored(scheme_of(w))) return q.scale;
    if (!q.group || !is_packed(q.type)) return DT_F32;
    return q.type == DT_F4E2M1 && q.group == 32 ? DT_BF16 : w->s.type;
}

/* TPU memory is tiles, of 128 columns and up to 16 rows of scales. A matrix that ends within one is given another layout, with experts or
 * rows in the place of columns, and copied back before its rows or experts can be taken, in every step: for gpt-oss-120b (2880 columns, 90 groups
 * of them) the table of embeddings, all layers' scales, and in bfloat16 all layers' experts, 27 GiB for each of eight devices. So these are padded
 * where that costs an eighth at most. */
static int64_t whole(int64_t n, int64_t tile)
{
    const int64_t padded = (n + tile - 1) / tile * tile;
    return (padded - n) * 8 <= n ? padded : n;
}

bool hlo_weight_shape(const node *w, weight_piece p, shape *out)
{
    quant_scheme s = scheme_of(w);
    quant_info q = quant_describe(s);
    int64_t rows = weight_rows(w), cols = weight_cols(w), group = hlo_weight_group(w), groups = group ? (cols + group - 1) / group : 1;
    *out = w->s;
    const bool table = w->a.weight.role == ROLE_VOCAB && w->s.rank == 2, experts = weight_has_experts(w) && w->s.rank == 3;
    if (!s && (table || experts)) out->dim[w->s.rank - 1] = whole(cols, LANES);
    if (!s) return p == PIECE_VALUES;
    int lead = weight_rows_dim(w);      /* experts in front */
    bool matrix = p == PIECE_VALUES || p == PIECE_SCALES || p == PIECE_ZEROS;
    out->rank = lead + (matrix ? 2 : 1);
    if (matrix) out->dim[lead] = rows;
    if (p == PIECE_SCALES || p == PIECE_ZEROS) {
        out->dim[lead] = lead ? whole(groups, GROUPS) : groups;
        out->dim[lead + 1] = lead ? whole(rows, LANES) : rows;
    }
    switch (p) {
    case PIECE_VALUES:
        out->type = is_packed(q.type) ? DT_U8 : q.type;
        out->dim[lead + 1] = is_packed(q.type) ? hlo_weight_half(cols) : cols;
        return true;
    case PIECE_SCALES:
        out->type = scale_type(w, q);
        return true;
    case PIECE_ZEROS:
        out->type = DT_I8;
        return q.zeros;
    case PIECE_ORDER:
        out->type = DT_I32;
        out->dim[lead] = cols;
        return q.ordered;
    case PIECE_INPUT_SCALE:
        out->type = DT_F32;
        out->dim[lead] = 1;
        return q.act == QUANT_ACT_INT8_STATIC || q.act == QUANT_ACT_FP8_STATIC;
    default: return false;
    }
}

status hlo_weight_check(const node *w)
{
    quant_info q = quant_describe(scheme_of(w));
    const char *name = w->a.weight.n_parts ? w->a.weight.parts[0].name : "";
    if (!scheme_of(w) || w->a.weight.col_shards <= 1) return ST_OK;
    if (q.ordered) return err_set(ST_UNSUPPORTED, "weight %s has its inputs in an order of its own (act-order), which cannot be cut over devices", name);
    int64_t group = hlo_weight_group(w);
    if (group == q.group || group >= LEAST_GROUP) return ST_OK;
    return err_set(ST_UNSUPPORTED, "weight %s in groups of %d is cut into %lld columns per device, expected a multiple of %d", name, q.group, (long long)weight_cols(w), LEAST_GROUP);
}

/* ---- taken apart ---- */

/* [G, R] of groups of columns to [R, end - from] of columns [from, end), f32: by a product with ones where a column is of a group, which is exact. (Repeating along a
 * new dimension that is then folded into the columns made TPU compilers lay out all layers' scales anew: 43 GB of temporaries for
 * Kimi K2 on 32 devices against 0.1.) */
static hlo_val spread(hlo *h, hlo_val s, int64_t group, int64_t from, int64_t end)
{
    const int64_t k = end - from, groups = s.dim[0], rows = s.dim[1], dim[] = { groups, k };
    if (groups == 1) return hlo_broadcast(h, hlo_reshape(h, hlo_convert(h, s, DT_F32), 1, &rows), (int[]){ 0 }, 2, (int64_t[]){ rows, k });
    dtype t = s.type == DT_BF16 || s.type == DT_I8 ? DT_BF16 : DT_F32;      /* which holds zeros exactly */
    hlo_val of = hlo_bin_scalar(h, "divide", hlo_bin_scalar(h, "add", hlo_iota(h, DT_I32, 1, 2, dim), (double)from), (double)group), is = hlo_cmp(h, "EQ", of, hlo_iota(h, DT_I32, 0, 2, dim));
    return hlo_dot(h, hlo_convert(h, s, t), hlo_convert(h, is, t), (hlo_dims){ 0 }, (hlo_dims){ 0 }, HLO_DIMS(0), HLO_DIMS(0), DT_F32);
}

/* Twice the value of an e2m1 code: 0 1 2 3 4 6 8 12, the fourth bit is the sign. */
static hlo_val twice_e2m1(hlo *h, hlo_val code)
{
    hlo_val m = hlo_bin_scalar(h, "and", code, 7);
    hlo_val large = hlo_select(h, hlo_cmp_scalar(h, "LT", m, 6), hlo_bin_scalar(h, "subtract", hlo_bin_scalar(h, "multiply", m, 2), 4),
                               hlo_bin_scalar(h, "subtract", hlo_bin_scalar(h, "multiply", m, 4), 16));
    hlo_val v = hlo_select(h, hlo_cmp_scalar(h, "LT", m, 4), m, large);
    return hlo_select(h, hlo_cmp_scalar(h, "LT", code, 8), v, hlo_un(h, "negate", v));
}

/* Codes are columns [from, end) of the weight: all of them, or, where two share a byte, one half. */
typedef struct columns { hlo_val code; int64_t from, end; } columns;

static int columns_of(hlo *h, hlo_val v, quant_info q, int64_t k, columns out[2])
{
    int64_t half = hlo_weight_half(k);
    out[0] = (columns){ v, 0, k };
    if (!is_packed(q.type)) return 1;
    out[0] = (columns){ hlo_bin_scalar(h, "and", v, 15), 0, half };
    out[1] = (columns){ hlo_bin_scalar(h, "shift_right_logical", v, 4), half, k };
    if (k < 2 * half) out[1].code = hlo_slice(h, out[1].code, 1, 0, k - half);
    return k > half ? 2 : 1;
}

/* What they stand for before scales: f32, exact. */
static hlo_val values_of(hlo *h, const columns *c, quant_info q, hlo_val zeros)
{
    if (!is_packed(q.type)) return hlo_convert(h, c->code, DT_F32);
    hlo_val v = hlo_convert(h, c->code, DT_I32);
    if (q.type == DT_F4E2M1) return hlo_bin_scalar(h, "multiply", hlo_convert(h, twice_e2m1(h, v), DT_F32), 0.5);
    v = hlo_convert(h, v, DT_F32);
    return hlo_is(zeros) ? hlo_bin(h, "subtract", v, zeros) : hlo_bin_scalar(h, "subtract", v, 8);
}

/* ---- activations ---- */

typedef struct rounded { hlo_val x; hlo_val scale; /* [M, groups] f32; none = 1 */ } rounded;

/* To the nearest e4m3, ties to even, 448 at most; stays f32. Below 2^-6 they are multiples of 2^-9, above three bits after the first. */
static hlo_val nearest_e4m3(hlo *h, hlo_val v)
{
    hlo_val most = hlo_full_like(h, hlo_float(h, DT_F32, 448), v);
    v = hlo_bin(h, "minimum", hlo_bin(h, "maximum", v, hlo_un(h, "negate", most)), most);
    return hlo_convert(h, hlo_convert(h, v, DT_F8E4M3), DT_F32);
}

/* [M, groups, group] by its scales [M, groups] to integers or e4m3 values. */
static hlo_val round_by(hlo *h, hlo_val x, hlo_val scale, bool int8)
{
    x = hlo_bin(h, "divide", x, hlo_broadcast(h, scale, (int[]){ 0, 1 }, 3, x.dim));
    if (!int8) return nearest_e4m3(h, x);
    hlo_val most = hlo_full_like(h, hlo_float(h, DT_F32, 127), x);
    x = hlo_bin(h, "minimum", hlo_bin(h, "maximum", x, hlo_un(h, "negate", most)), most);
    return hlo_un(h, "round_nearest_even", x);
}

/* x [M, K] f32 to what the scheme rounds it to, as f32. group 0: a row. */
static rounded round_rows(hlo *h, hlo_val x, bool int8, hlo_val fixed, int64_t group)
{
    int64_t m = x.dim[0], k = x.dim[1], groups = group && group < k ? (k + group - 1) / group : 1, width = groups == 1 ? k : group;
    if (groups * width != k) x = hlo_pad(h, x, 1, 0, groups * width - k, hlo_float(h, DT_F32, 0));
    x = hlo_reshape(h, x, 3, (int64_t[]){ m, groups, width });
    hlo_val scale;
    if (hlo_is(fixed)) {
        scale = hlo_broadcast(h, hlo_reshape(h, fixed, 0, NULL), NULL, 2, (int64_t[]){ m, groups });
        x = round_by(h, x, scale, int8);
    } else {
        hlo_val top = hlo_reduce(h, "maximum", hlo_un(h, "abs", x), 2), tiny = hlo_cmp_scalar(h, "LT", top, 0x1p-100);
        hlo_val zero = hlo_full_like(h, hlo_float(h, DT_F32, 0), top), one = hlo_full_like(h, hlo_float(h, DT_F32, 1), top);
        scale = hlo_bin_scalar(h, "divide", top, int8 ? 127 : 448);
        x = round_by(h, x, hlo_select(h, tiny, one, scale), int8);
        scale = hlo_select(h, tiny, zero, scale);
    }
    x = hlo_reshape(h, x, 2, (int64_t[]){ m, groups * width });
    return (rounded){ groups * width == k ? x : hlo_slice(h, x, 1, 0, k), scale };
}

/* Columns that are rounded together: a group of the weight, as it is cut. 0: all. */
static int64_t rounded_group(const hlo_weight *w, quant_info q)
{
    if (q.act == QUANT_ACT_FP8_G128) return w->group ? w->group : 128;
    return q.act == QUANT_ACT_INT8 ? w->group : 0;
}

static rounded round_activations(hlo *h, hlo_val x, const hlo_weight *w, quant_info q)
{
    if (!q.act) return (rounded){ x, { 0 } };
    bool is_static = q.act == QUANT_ACT_INT8_STATIC || q.act == QUANT_ACT_FP8_STATIC;
    hlo_val fixed = is_static ? w->piece[PIECE_INPUT_SCALE] : (hlo_val){ 0 };
    return round_rows(h, hlo_convert(h, x, DT_F32), q.int8_activations, fixed, rounded_group(w, q));
}

/* ---- products ---- */

static hlo_val dot(hlo *h, hlo_val x, hlo_val w, dtype out)
{
    return hlo_dot(h, x, w, (hlo_dims){ 0 }, (hlo_dims){ 0 }, HLO_DIMS(1), HLO_DIMS(1), out);
}

static hlo_val plain_product(hlo *h, hlo_val x, hlo_val w)
{
    if (x.dim[1] < w.dim[1]) x = hlo_pad(h, x, 1, 0, w.dim[1] - x.dim[1], hlo_convert(h, hlo_float(h, DT_F32, 0), x.type));     /* hlo_weight_shape */
    if (x.type != w.type) {
        x = hlo_convert(h, x, DT_F32);
        w = hlo_convert(h, w, DT_F32);
    }
    return dot(h, x, w, DT_F32);
}

/* x's columns in the weight's order. */
static hlo_val in_order(hlo *h, hlo_val x, hlo_val order)
{
    const int turn[] = { 1, 0 };
    return hlo_transpose(h, hlo_take(h, hlo_transpose(h, x, turn), order), turn);
}

/* y [M, N] by what is one number per row of it (along 0) or column (1): s [M or N, 1]. */
static hlo_val scaled(hlo *h, hlo_val y, hlo_val s, int along)
{
    s = hlo_convert(h, hlo_reshape(h, s, 1, (int64_t[]){ y.dim[along] }), DT_F32);
    return hlo_bin(h, "multiply", y, hlo_broadcast_at(h, s, along, y));
}

/* Scales or zeros [G, N] without padding behind the rows. */
static hlo_val of_rows(hlo *h, hlo_val s, int64_t rows) { return hlo_is(s) && s.dim[1] > rows ? hlo_slice(h, s, 1, 0, rows) : s; }

hlo_val hlo_product(hlo *h, hlo_val x, const hlo_weight *w)
{
    if (!w->scheme) return plain_product(h, x, w->piece[PIECE_VALUES]);
    quant_info q = quant_describe(w->scheme);
    const int64_t rows = w->piece[PIECE_VALUES].dim[0];
    hlo_val scales = of_rows(h, w->piece[PIECE_SCALES], rows), zeros = of_rows(h, w->piece[PIECE_ZEROS], rows);
    int64_t k = x.dim[1], group = w->group;
    dtype type = x.type;
    if (hlo_is(w->piece[PIECE_ORDER])) x = in_order(h, x, w->piece[PIECE_ORDER]);
    rounded r = round_activations(h, x, w, q);
    bool by_row = scales.dim[0] == 1, by_token = hlo_is(r.scale) && r.scale.dim[1] == 1;
    hlo_val y;
    if (q.int8_activations && q.type == DT_I8 && by_row) {
        y = hlo_convert(h, dot(h, hlo_convert(h, r.x, DT_I8), w->piece[PIECE_VALUES], DT_I32), DT_F32);
    } else {
        if (hlo_is(r.scale) && !by_token) r.x = hlo_bin(h, "multiply", r.x, spread(h, hlo_transpose(h, r.scale, (int[]){ 1, 0 }), rounded_group(w, q), 0, k));
        columns part[2];
        int n = columns_of(h, w->piece[PIECE_VALUES], q, k, part);
        r.x = hlo_convert(h, r.x, type);
        for (int i = 0; i < n; i++) {
            const columns *c = &part[i];
            hlo_val v = values_of(h, c, q, hlo_is(zeros) ? spread(h, zeros, group, c->from, c->end) : zeros);
            if (!by_row) v = hlo_bin(h, "multiply", v, spread(h, scales, group, c->from, c->end));
            hlo_val one = dot(h, n > 1 ? hlo_slice(h, r.x, 1, c->from, c->end) : r.x, hlo_convert(h, v, type), DT_F32);
            y = i ? hlo_bin(h, "add", y, one) : one;
        }
    }
    if (by_token) y = scaled(h, y, r.scale, 0);
    return by_row ? scaled(h, y, scales, 1) : y;
}
