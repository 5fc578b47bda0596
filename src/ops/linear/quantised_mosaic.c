#include "ops/linear/quantised_mosaic.h"

#include "ops/hlo_weight.h"

enum { LANES = 128 };

typedef struct kernel {
    mk *k;
    const quantised_matmul *q;
    const matmul_config *c;
    quant_info info;
    int64_t steps, before;  /* blocks of k; 1: there are turns before the first block of n, in which rows of x are only looked at */
    mk_val turn, tile, step;    /* of the grid: block of n (from `before` on), tile, block of k */
    mk_ref place, input_scale, x, w, s, z, out;
    mk_ref xq;              /* [rows * parts, k] x as it is multiplied, where that is not its window */
    mk_ref xs;              /* f32 [rows * parts, lanes]: what results of a chunk are multiplied by: rows of its own, or a lane; or [rows, 1]: rows' greatest magnitudes */
    mk_ref sums;            /* [rows, groups] f32: of x's columns, for the weights' zeros */
    mk_ref sf, acc;         /* [groups, block_n] f32 scales; [rows, block_n] sums over chunks and steps */
} kernel;

static bool is_packed(dtype t) { return t == DT_I4 || t == DT_F4E2M1; }
static bool is_static(quant_info q) { return q.act == QUANT_ACT_INT8_STATIC || q.act == QUANT_ACT_FP8_STATIC; }
static bool by_group(quant_info q) { return q.act == QUANT_ACT_FP8_G128 || q.act == QUANT_ACT_INT8; }
static bool rounds(quant_info q) { return q.act != QUANT_ACT_NONE; }

static dtype weight_type(const quantised_matmul *q) { return q->scheme ? quant_describe(q->scheme).type : q->act; }

int64_t quantised_matmul_columns(const quantised_matmul *q)
{
    return is_packed(weight_type(q)) ? hlo_weight_half(q->k) : q->k;
}

int64_t quantised_matmul_groups(const quantised_matmul *q) { return q->group ? (q->k + q->group - 1) / q->group : 1; }

int64_t quantised_matmul_stored_groups(const quantised_matmul *q) { return q->stored_groups ? q->stored_groups : quantised_matmul_groups(q); }
int64_t quantised_matmul_stored_rows(const quantised_matmul *q) { return q->stored_rows ? q->stored_rows : q->n; }

status quantised_matmul_configure(const chip *c, const quantised_matmul *q, matmul_config *out)
{
    quant_info info = quant_describe(q->scheme);
    matmul_shape s = { .rows = q->rows, .n = q->n, .k = q->k, .act = q->act, .rounded = q->act, .weight = weight_type(q), .group = quantised_matmul_groups(q) > 1 ? q->group : 0, .tiles = q->tiles };
    if (rounds(info)) s.rounded = info.int8_activations ? DT_I8 : DT_F8E4M3;
    if (q->scheme && q->scale != DT_F32 && q->scale != DT_BF16) return err_set(ST_UNSUPPORTED, "scales are %s, kernels take f32 and bf16", dtype_name(q->scale));
    TRY(matmul_configure(c, &s, out));
    if (out->block_n != q->n || quantised_matmul_stored_rows(q) == q->n) return ST_OK;
    /* one block for all: it is no whole number of lanes, and no longer all that scales have */
    if (q->n < LANES) return err_set(ST_UNSUPPORTED, "%lld outputs, fewer than %d, of experts", (long long)q->n, LANES);
    out->block_n = q->n / LANES * LANES;
    return ST_OK;
}

bool quantised_matmul_helps(const chip *c, const quantised_matmul *q)
{
    if (quantised_matmul_groups(q) > 1) return true;
    return q->scheme && quant_describe(q->scheme).type == DT_F8E4M3 && c->version >= 5;
}

/* ---- windows: grid (cores, blocks of n, tiles, blocks of k), so that neighbouring tiles of one expert find its block there ---- */

typedef struct window { int64_t per_core, before, steps; bool kept; int along; /* the array's dimension that n is */ } window;

/* Tiles that are not there stay at the last one: nothing is copied for them. */
static mk_val tile_there(mk *k, const mk_val *grid, mk_ref place)
{
    mk_val last = mk_max(k, mk_sub(k, mk_get(k, place, MK_AT(mk_i32(1))), mk_i32(1)), mk_i32(0));
    return mk_min(k, grid[2], last);
}

static mk_val block_of(mk *k, const mk_val *grid, const window *w)
{
    mk_val turn = w->before ? mk_max(k, mk_sub(k, grid[1], mk_i32(1)), mk_i32(0)) : grid[1];
    return mk_add(k, mk_mul(k, grid[0], mk_i32((int32_t)w->per_core)), turn);
}

/* If blocks of x are kept they are read once, and the window stays at the last. */
static void map_x(mk *k, const mk_val *grid, const mk_ref *prefetched, const void *arg, mk_val *index)
{
    const window *w = arg;
    index[0] = tile_there(k, grid, prefetched[0]);
    if (w->steps > 1) index[1] = w->kept ? mk_select(k, mk_cmp(k, MK_LE, grid[1], mk_i32((int32_t)w->before)), grid[3], mk_i32((int32_t)w->steps - 1)) : grid[3];
}

static void map_out(mk *k, const mk_val *grid, const mk_ref *prefetched, const void *arg, mk_val *index)
{
    index[0] = tile_there(k, grid, prefetched[0]);
    index[1] = block_of(k, grid, arg);
}

static void map_scales(mk *k, const mk_val *grid, const mk_ref *prefetched, const void *arg, mk_val *index)
{
    const window *w = arg;
    index[0] = mk_get(k, prefetched[0], MK_AT(mk_i32(0)));
    index[1] = mk_get(k, prefetched[0], MK_AT(mk_add(k, tile_there(k, grid, prefetched[0]), mk_i32(2))));
    index[w->along] = block_of(k, grid, w);
}

static void map_weight(mk *k, const mk_val *grid, const mk_ref *prefetched, const void *arg, mk_val *index)
{
    const window *w = arg;
    map_scales(k, grid, prefetched, arg, index);
    if (w->steps > 1) index[3] = w->before ? mk_select(k, mk_cmp(k, MK_LT, grid[1], mk_i32(1)), mk_i32(0), grid[3]) : grid[3];
}

static int64_t parts_of(const kernel *t) { return t->c->parts; }
static bool grouped(const kernel *t) { return quantised_matmul_groups(t->q) > 1; }
static int64_t n_chunks(const kernel *t) { return (t->q->k + MATMUL_CHUNK - 1) / MATMUL_CHUNK; }
static bool split(const kernel *t) { return t->steps > 1; }
/* int4's zero is not in the operand: zero * scale * (sum of x) over the groups comes off the result, which is one more product. */
static bool has_zero(const kernel *t) { return t->info.type == DT_I4 && (t->info.zeros || t->c->w != DT_I8); }
/* Rows of x have one scale each, which depends on all their numbers. */
static bool by_row(const kernel *t) { return rounds(t->info) && !is_static(t->info) && !(grouped(t) && by_group(t->info)); }
static bool keeps_x(const kernel *t) { return rounds(t->info) || parts_of(t) > 1 || (split(t) && !t->c->tight); }
static dtype sum_type(const kernel *t) { return t->c->x == DT_I8 ? DT_I32 : DT_F32; }

static void declare_scratch(kernel *t)
{
    const quantised_matmul *q = t->q;
    mk *k = t->k;
    int64_t rows = q->rows * parts_of(t), groups = quantised_matmul_groups(q);
    if (keeps_x(t)) t->xq = mk_scratch(k, "xq", MK_VMEM, t->c->kept, MK_DIMS(rows, q->k));
    if (by_row(t)) t->xs = mk_scratch(k, "xs", MK_VMEM, DT_F32, MK_DIMS(q->rows, 1));
    else if (rounds(t->info) && !is_static(t->info)) t->xs = mk_scratch(k, "xs", MK_VMEM, DT_F32, t->c->tight ? MK_DIMS(rows, (n_chunks(t) + LANES - 1) / LANES * LANES) : MK_DIMS(n_chunks(t), rows, 1));
    if (has_zero(t)) t->sums = mk_scratch(k, "sums", MK_VMEM, DT_F32, MK_DIMS(q->rows, groups));
    if (grouped(t)) t->sf = mk_scratch(k, "sf", MK_VMEM, DT_F32, MK_DIMS(quantised_matmul_stored_groups(q), t->c->block_n));
    if (grouped(t) || split(t)) t->acc = mk_scratch(k, "acc", MK_VMEM, grouped(t) ? DT_F32 : sum_type(t), MK_DIMS(q->rows, t->c->block_n));
}

static void declare(kernel *t)
{
    const quantised_matmul *q = t->q;
    mk *k = t->k;
    int64_t columns = quantised_matmul_columns(q), groups = quantised_matmul_stored_groups(q), stored_rows = quantised_matmul_stored_rows(q), block = t->c->block_n, blocks = (q->n + block - 1) / block, cores = blocks % t->c->chip->cores ? 1 : t->c->chip->cores;
    dtype stored = weight_type(q);
    t->steps = q->k / t->c->block_k;
    t->before = split(t) && by_row(t);
    mk_grid(k, cores, true);
    t->turn = mk_grid(k, t->before + blocks / cores, false);
    t->tile = mk_grid(k, q->tiles, false);
    t->step = mk_grid(k, t->steps, false);
    window w = { blocks / cores, t->before, t->steps, keeps_x(t), 2 }, s = { blocks / cores, t->before, t->steps, keeps_x(t), 3 };
    t->place = mk_prefetch(k, "place", DT_I32, 2 + q->tiles);
    if (is_static(t->info)) t->input_scale = mk_prefetch(k, "input_scale", DT_F32, 1);
    t->x = mk_in_block(k, "x", q->act, MK_DIMS(q->tiles * q->rows, q->k), MK_DIMS(q->rows, t->c->block_k), map_x, &w);
    t->w = mk_in_block(k, "values", is_packed(stored) ? DT_I8 : stored, MK_DIMS(q->layers, q->experts, q->n, columns), MK_DIMS(1, 1, block, split(t) ? t->c->block_k : columns), map_weight, &w);
    if (q->scheme) t->s = mk_in_block(k, "scales", q->scale, MK_DIMS(q->layers, q->experts, groups, stored_rows), MK_DIMS(1, 1, groups, block), map_scales, &s);
    if (t->info.zeros) t->z = mk_in_block(k, "zeros", DT_I8, MK_DIMS(q->layers, q->experts, groups, stored_rows), MK_DIMS(1, 1, groups, block), map_scales, &s);
    t->out = mk_out_block(k, "y", q->out, MK_DIMS(q->tiles * q->rows, q->n), MK_DIMS(q->rows, block), map_out, &w);
    declare_scratch(t);
}

/* ---- x ---- */

static bool int8_x(const kernel *t) { return t->info.int8_activations; }

/* What rows of x are divided by before they are rounded, and what the result is multiplied by again: amax / 127 or / 448, rows below 2^-100
 * being 0; [rows, 1] f32. A static scale is in the program's. */
typedef struct row_scale { mk_val by, again; } row_scale;

static row_scale scale_of(kernel *t, mk_val top)
{
    mk *k = t->k;
    const mk_dims column = MK_DIMS(top.dim[0], 1);
    mk_val tiny = mk_cmp(k, MK_LT, top, mk_f32(0x1p-100f)), scale = mk_div(k, top, mk_f32(int8_x(t) ? 127 : 448));
    return (row_scale){ mk_select(k, tiny, mk_full(k, mk_f32(1), column), scale), mk_select(k, tiny, mk_full(k, mk_f32(0), column), scale) };
}

/* Of whole rows, whose greatest magnitudes are known. */
static row_scale scale_of_rows(kernel *t)
{
    mk *k = t->k;
    if (by_row(t)) return scale_of(t, mk_load(k, t->xs, MK_ZERO, MK_DIMS(t->q->rows, 1)));
    if (!is_static(t->info)) return (row_scale){ 0 };
    mk_val s = mk_get(k, t->input_scale, MK_AT(mk_i32(0)));
    return (row_scale){ s, s };
}

/* f32 to int8's or e4m3's numbers; stays f32. */
static mk_val nearest(kernel *t, mk_val x, mk_val by)
{
    mk *k = t->k;
    float most = int8_x(t) ? 127 : 448;
    x = mk_min(k, mk_max(k, mk_div(k, x, by), mk_f32(-most)), mk_f32(most));
    return int8_x(t) ? mk_round(k, x) : mk_convert(k, mk_convert(k, x, DT_F8E4M3), DT_F32);
}

/* Chunks, and columns, before this step's. */
static mk_val from_step(const kernel *t, mk_val at, int64_t unit)
{
    if (!split(t)) return at;
    return mk_add(t->k, mk_mul(t->k, t->step, mk_i32((int32_t)(t->c->block_k / unit))), at);
}

static mk_val lanes_of(mk *k, mk_val chunk) { return mk_multiple(k, mk_mul(k, chunk, mk_i32(MATMUL_CHUNK)), MATMUL_CHUNK); }

/* A row for each of the groups that x's columns are of, zero elsewhere: first all rows' first group, then their second one. */
static mk_val spread(kernel *t, mk_val x)
{
    mk *k = t->k;
    int64_t parts = parts_of(t);
    if (parts == 1) return x;
    const mk_dims dims = MK_DIMS(x.dim[0], x.dim[1]);
    mk_val part[MATMUL_CHUNK], none = mk_full(k, mk_f32(0), dims), of = mk_div(k, mk_iota(k, 1, dims), mk_i32((int32_t)t->q->group));
    for (int64_t i = 0; i < parts; i++) part[i] = mk_select(k, mk_cmp(k, MK_EQ, of, mk_i32((int32_t)i)), x, none);
    return mk_concat(k, part, (int)parts, 0);
}

static mk_val part_of(kernel *t, mk_val v, int64_t i)
{
    return parts_of(t) == 1 ? v : mk_slice(t->k, v, MK_DIMS(i * t->q->rows, 0), MK_DIMS(t->q->rows, v.dim[1]));
}

/* A chunk's sums, [rows * parts, 1], among all [rows, groups]. */
static mk_val with_sums(kernel *t, mk_val all, mk_val x, mk_val chunk)
{
    mk *k = t->k;
    int64_t parts = parts_of(t), group = t->q->group;
    mk_val sum = mk_reduce(k, MK_SUM, x, 1), lane = mk_iota(k, 1, MK_DIMS(all.dim[0], all.dim[1]));
    mk_val first = group <= MATMUL_CHUNK ? mk_mul(k, chunk, mk_i32((int32_t)parts)) : mk_div(k, chunk, mk_i32((int32_t)(group / MATMUL_CHUNK)));
    for (int64_t i = 0; i < parts; i++) {
        mk_val part = mk_broadcast(k, part_of(t, sum, i), MK_DIMS(all.dim[0], all.dim[1]));
        all = mk_select(k, mk_cmp(k, MK_EQ, lane, mk_add(k, first, mk_i32((int32_t)i))), mk_add(k, all, part), all);
    }
    return all;
}

/* For columns [at, at + width) of this step's x: takes and gives what is carried from piece to piece. */
typedef mk_val piece(kernel *t, mk_val at, int64_t width, row_scale all, mk_val sofar);

static mk_val for_pieces(kernel *t, int64_t width, piece *f, row_scale all, mk_val init)
{
    mk *k = t->k;
    int64_t whole = t->c->block_k / width, rest = t->c->block_k % width;
    int n = mk_is(init);
    mk_val in = { 0 }, out = init, i = mk_for(k, mk_i32(0), mk_i32((int32_t)whole), &init, n, &in);
    in = f(t, mk_multiple(k, mk_mul(k, i, mk_i32((int32_t)width)), MATMUL_CHUNK), width, all, in);
    mk_end_for(k, &in, &out);
    return rest ? f(t, mk_i32((int32_t)(whole * width)), rest, all, out) : out;
}

static mk_val load_x(kernel *t, mk_val at, int64_t width) { return mk_convert(t->k, mk_load(t->k, t->x, MK_AT(mk_i32(0), at), MK_DIMS(t->q->rows, width)), DT_F32); }

static mk_val top_of_piece(kernel *t, mk_val at, int64_t width, row_scale all, mk_val top)
{
    (void)all;
    return mk_max(t->k, top, mk_reduce(t->k, MK_MAX, mk_abs(t->k, load_x(t, at, width)), 1));
}

/* What was kept of the steps before this one; at first nothing. */
static mk_val sofar(kernel *t, mk_ref kept, mk_dims dims)
{
    mk *k = t->k;
    mk_val zero = mk_full(k, mk_f32(0), dims);
    return split(t) ? mk_select(k, mk_cmp(k, MK_EQ, t->step, mk_i32(0)), zero, mk_load(k, kept, MK_ZERO, dims)) : zero;
}

/* xs, where scales are of rows. */
static void find_tops(kernel *t)
{
    mk_val top = for_pieces(t, matmul_piece(t->q->rows, t->c->block_k), top_of_piece, (row_scale){ 0 }, sofar(t, t->xs, MK_DIMS(t->q->rows, 1)));
    mk_store(t->k, top, t->xs, MK_ZERO);
}

/* A chunk's place in xs, if that is a lane: which, of those from `first` on. */
typedef struct xs_place { mk_val first, lane; } xs_place;

static xs_place place_of(kernel *t, mk_val chunk)
{
    mk *k = t->k;
    return (xs_place){ mk_multiple(k, mk_mul(k, mk_div(k, chunk, mk_i32(LANES)), mk_i32(LANES)), LANES), mk_rem(k, chunk, mk_i32(LANES)) };
}

static void put_xs(kernel *t, mk_val chunk, mk_val scale)
{
    mk *k = t->k;
    const mk_dims dims = MK_DIMS(scale.dim[0], LANES);
    if (!t->c->tight) {
        mk_store(k, mk_reshape(k, scale, MK_DIMS(1, scale.dim[0], 1)), t->xs, MK_AT(chunk, mk_i32(0), mk_i32(0)));
        return;
    }
    xs_place p = place_of(t, chunk);
    mk_val old = mk_load(k, t->xs, MK_AT(mk_i32(0), p.first), dims), here = mk_cmp(k, MK_EQ, mk_iota(k, 1, dims), p.lane);
    mk_store(k, mk_select(k, here, mk_broadcast(k, scale, dims), old), t->xs, MK_AT(mk_i32(0), p.first));
}

/* [rows * parts, 1] */
static mk_val get_xs(kernel *t, mk_val chunk)
{
    mk *k = t->k;
    int64_t rows = t->q->rows * parts_of(t);
    if (!t->c->tight) return mk_reshape(k, mk_load(k, t->xs, MK_AT(chunk, mk_i32(0), mk_i32(0)), MK_DIMS(1, rows, 1)), MK_DIMS(rows, 1));
    xs_place p = place_of(t, chunk);
    mk_val all = mk_load(k, t->xs, MK_AT(mk_i32(0), p.first), MK_DIMS(rows, LANES));
    return mk_slice(k, mk_rotate(k, all, mk_rem(k, mk_sub(k, mk_i32(LANES), p.lane), mk_i32(LANES)), 1), MK_DIMS(0, 0), MK_DIMS(rows, 1));
}

/* Columns for the products. all: x's whole rows have one scale, or none. sums: so far; with these columns they are the result. */
static mk_val prepare_piece(kernel *t, mk_val at, int64_t width, row_scale all, mk_val sums)
{
    mk *k = t->k;
    mk_val x = load_x(t, at, width), to = split(t) ? mk_multiple(k, from_step(t, at, 1), MATMUL_CHUNK) : at, chunk = mk_div(k, to, mk_i32(MATMUL_CHUNK));
    row_scale own = { 0 };
    if (mk_is(all.by)) x = nearest(t, x, all.by);
    x = spread(t, x);
    if (rounds(t->info) && !mk_is(all.by)) {
        own = scale_of(t, mk_reduce(k, MK_MAX, mk_abs(k, x), 1));
        x = nearest(t, x, own.by);
        put_xs(t, chunk, own.again);
    }
    if (keeps_x(t)) mk_store(k, mk_convert(k, x, t->c->kept), t->xq, MK_AT(mk_i32(0), to));
    return has_zero(t) ? with_sums(t, sums, mk_is(own.again) ? mk_mul(k, x, own.again) : x, chunk) : sums;
}

/* xq, xs and sums of this tile and step. */
static void prepare(kernel *t)
{
    const mk_dims sums = MK_DIMS(t->q->rows, quantised_matmul_groups(t->q));
    if (by_row(t) && !t->before) find_tops(t);
    int64_t width = grouped(t) ? MATMUL_CHUNK : matmul_piece(t->q->rows, t->c->block_k);
    mk_val all = for_pieces(t, width, prepare_piece, scale_of_rows(t), has_zero(t) ? sofar(t, t->sums, sums) : (mk_val){ 0 });
    if (has_zero(t)) mk_store(t->k, all, t->sums, MK_ZERO);
}

/* ---- w ---- */

static mk_val bits(uint32_t b) { return mk_i32((int32_t)b); }

/* Four-bit codes as bytes of what the matrix unit takes, four to a 32-bit lane. e2m1 s.ee.m is e4m3 s.00ee.m00, 2^6 times smaller; 0..15 is
 * e4m3's 0.0000.000 on, 2^9 times smaller; as int8 it is q - 8. */
static mk_val codes(kernel *t, mk_val w, bool high)
{
    mk *k = t->k;
    w = mk_bitcast(k, w, DT_I32);
    if (t->info.type == DT_F4E2M1) {
        mk_val sign = mk_and(k, w, bits(high ? 0x80808080u : 0x08080808u)), rest = mk_and(k, w, bits(high ? 0x70707070u : 0x07070707u));
        if (!high) sign = mk_shl(k, sign, mk_i32(4));
        rest = high ? mk_shr_logical(k, rest, mk_i32(2)) : mk_shl(k, rest, mk_i32(2));
        w = mk_bitcast(k, mk_or(k, sign, rest), DT_F8E4M3);
        return mk_convert(k, w, t->c->w);
    }
    if (high) w = mk_shr_logical(k, w, mk_i32(4));
    w = mk_and(k, w, bits(0x0f0f0f0fu));
    if (t->c->w == DT_F8E4M3) return mk_bitcast(k, w, DT_F8E4M3);
    w = mk_sub(k, mk_or(k, w, bits(0x80808080u)), bits(0x08080808u));     /* no byte borrows from the next */
    return mk_bitcast(k, mk_xor(k, w, bits(0x80808080u)), DT_I8);
}

/* Lanes [at, at + width) of the block's rows. */
static mk_val weight_at(kernel *t, mk_val at, int64_t width, bool high)
{
    mk *k = t->k;
    mk_val w = mk_load(k, t->w, MK_AT(mk_i32(0), mk_i32(0), mk_i32(0), at), MK_DIMS(t->c->block_n, width));
    return is_packed(weight_type(t->q)) ? codes(t, w, high) : mk_convert(k, w, t->c->w);
}

/* What a product by codes is to be multiplied by, and what its numbers are too large by. */
static float unit(const kernel *t)
{
    bool as_bits = is_packed(t->info.type) && t->c->w != DT_I8;
    return !as_bits ? 1 : t->info.type == DT_F4E2M1 ? 64 : 512;
}

/* ---- products ---- */

/* Of columns [at, at + width) of x, which are lanes [from, from + width) of w. */
static mk_val multiply(kernel *t, mk_val at, mk_val from, int64_t width, bool high)
{
    mk *k = t->k;
    mk_val x = mk_load(k, keeps_x(t) ? t->xq : t->x, MK_AT(mk_i32(0), split(t) && !keeps_x(t) ? from : at), MK_DIMS(t->q->rows * parts_of(t), width));
    return mk_matmul(k, mk_convert(k, x, t->c->x), weight_at(t, from, width, high), true, sum_type(t), (mk_val){ 0 });
}

/* What rows' results are multiplied by, if rows of x have one scale. */
static mk_val unscaled(kernel *t, mk_val y)
{
    row_scale all = scale_of_rows(t);
    return mk_is(all.again) ? mk_mul(t->k, y, all.again) : y;
}

static mk_dims block_dims(const kernel *t) { return MK_DIMS(t->q->rows, t->c->block_n); }

/* By weights whose scales are of whole rows: this step's part, to be added up. */
static mk_val whole_rows(kernel *t)
{
    mk *k = t->k;
    mk_val y = multiply(t, split(t) ? mk_multiple(k, from_step(t, mk_i32(0), 1), MATMUL_CHUNK) : mk_i32(0), mk_i32(0), t->c->block_k, false);
    if (!split(t)) return y;
    mk_val zero = mk_full(k, sum_type(t) == DT_I32 ? mk_i32(0) : mk_f32(0), block_dims(t));
    y = mk_add(k, y, mk_select(k, mk_cmp(k, MK_EQ, t->step, mk_i32(0)), zero, mk_load(k, t->acc, MK_ZERO, block_dims(t))));
    mk_store(k, y, t->acc, MK_ZERO);
    return y;
}

static mk_val finish_rows(kernel *t, mk_val y)
{
    mk *k = t->k;
    y = unscaled(t, mk_convert(k, y, DT_F32));
    return t->q->scheme ? mk_mul(k, y, mk_convert(k, mk_load(k, t->s, MK_ZERO, MK_DIMS(1, t->c->block_n)), DT_F32)) : y;
}

/* The chunk's product with its scales: [rows, block_n]. */
static mk_val chunk_product(kernel *t, mk_val chunk, mk_val from, int64_t width, bool high)
{
    mk *k = t->k;
    int64_t group = t->q->group, parts = (width + group - 1) / group;
    mk_val y = mk_convert(k, multiply(t, lanes_of(k, chunk), from, width, high), DT_F32), xs = { 0 }, sum = { 0 };
    if (rounds(t->info) && by_group(t->info)) xs = get_xs(t, chunk);
    for (int64_t i = 0; i < parts; i++) {
        mk_val g = group < MATMUL_CHUNK ? mk_add(k, mk_mul(k, chunk, mk_i32((int32_t)parts_of(t))), mk_i32((int32_t)i)) : mk_div(k, chunk, mk_i32((int32_t)(group / MATMUL_CHUNK)));
        mk_val one = mk_mul(k, part_of(t, y, i), mk_load(k, t->sf, MK_AT(g, mk_i32(0)), MK_DIMS(1, t->c->block_n)));
        if (mk_is(xs)) one = mk_mul(k, one, part_of(t, xs, i));
        sum = i ? mk_add(k, sum, one) : one;
    }
    return sum;
}

static void add_up(kernel *t, mk_val y) { mk_store(t->k, mk_add(t->k, mk_load(t->k, t->acc, MK_ZERO, block_dims(t)), y), t->acc, MK_ZERO); }

/* Chunks [first, first + n), which are the weight's lanes from 0 on; of this step's, if there are several; as many at a time as the configuration says. */
static void run_chunks(kernel *t, int64_t first, int64_t n, bool high)
{
    mk *k = t->k;
    int64_t most = t->c->unrolled / (t->q->rows * parts_of(t) * t->c->block_n), by = most < 2 ? 2 : most > 32 ? 32 : most;
    if (by > n) by = n;
    int64_t turns = n / by;
    mk_val i = mk_for(k, mk_i32(0), mk_i32((int32_t)turns), NULL, 0, NULL), sum = { 0 };
    for (int64_t u = 0; u < by; u++) {
        mk_val at = mk_add(k, mk_mul(k, i, mk_i32((int32_t)by)), mk_i32((int32_t)u));
        mk_val y = chunk_product(t, from_step(t, mk_add(k, at, mk_i32((int32_t)first)), MATMUL_CHUNK), lanes_of(k, at), MATMUL_CHUNK, high);
        sum = u ? mk_add(k, sum, y) : y;
    }
    add_up(t, sum);
    mk_end_for(k, NULL, NULL);
    for (int64_t at = turns * by; at < n; at++) add_up(t, chunk_product(t, from_step(t, mk_i32((int32_t)(first + at)), MATMUL_CHUNK), mk_i32((int32_t)(at * MATMUL_CHUNK)), MATMUL_CHUNK, high));
}

static mk_val zero_of(kernel *t, mk_dims dims)
{
    mk_val z = mk_convert(t->k, mk_load(t->k, t->z, MK_ZERO, dims), DT_F32);
    return t->c->w == DT_I8 ? mk_sub(t->k, z, mk_f32(8)) : z;
}

static void by_chunks(kernel *t)
{
    bool packed = is_packed(weight_type(t->q));
    int64_t half = packed ? quantised_matmul_columns(t->q) / MATMUL_CHUNK : 0, whole = t->c->block_k / MATMUL_CHUNK, rest = t->c->block_k % MATMUL_CHUNK;
    if (half) run_chunks(t, 0, half, false);
    if (whole > half) run_chunks(t, half, whole - half, packed);
    if (rest) add_up(t, chunk_product(t, mk_i32((int32_t)whole), mk_i32((int32_t)((whole - half) * MATMUL_CHUNK)), rest, packed));
}

static mk_val finish_chunks(kernel *t)
{
    mk *k = t->k;
    mk_val y = mk_load(k, t->acc, MK_ZERO, block_dims(t));
    if (unit(t) != 1) y = mk_mul(k, y, mk_f32(unit(t)));
    if (has_zero(t)) {
        const mk_dims groups = MK_DIMS(quantised_matmul_groups(t->q), t->c->block_n);
        mk_val zeros = mk_mul(k, mk_load(k, t->sf, MK_ZERO, groups), t->info.zeros ? zero_of(t, groups) : mk_f32(8));
        y = mk_sub(k, y, mk_matmul(k, mk_load(k, t->sums, MK_ZERO, MK_DIMS(t->q->rows, groups.v[0])), zeros, false, DT_F32, (mk_val){ 0 }));
    }
    return unscaled(t, y);
}

/* This block's scales as f32, whose rows can be read one by one, and no sums yet. */
static void begin_chunks(kernel *t)
{
    mk *k = t->k;
    const mk_dims dims = MK_DIMS(quantised_matmul_stored_groups(t->q), t->c->block_n);
    mk_store(k, mk_convert(k, mk_load(k, t->s, MK_ZERO, dims), DT_F32), t->sf, MK_ZERO);
    mk_store(k, mk_full(k, mk_f32(0), block_dims(t)), t->acc, MK_ZERO);
}

static void when(kernel *t, bool asked, mk_val index, int64_t is) { if (asked) mk_if(t->k, mk_cmp(t->k, MK_EQ, index, mk_i32((int32_t)is))); }
static void end_when(kernel *t, bool asked) { if (asked) mk_end_if(t->k, NULL, NULL); }

/* A block of n and k. What is made of x is made once for all blocks of n, if there is but one tile. */
static void step(kernel *t)
{
    mk *k = t->k;
    mk_val y = { 0 };
    if (keeps_x(t) || has_zero(t)) {
        when(t, t->q->tiles == 1, t->turn, t->before);
        prepare(t);
        end_when(t, t->q->tiles == 1);
    }
    if (grouped(t)) {
        when(t, split(t), t->step, 0);
        begin_chunks(t);
        end_when(t, split(t));
        by_chunks(t);
    } else y = whole_rows(t);
    when(t, split(t), t->step, t->steps - 1);
    y = grouped(t) ? finish_chunks(t) : finish_rows(t, y);
    mk_store(k, mk_convert(k, y, t->q->out), t->out, MK_ZERO);
    end_when(t, split(t));
}

mk *quantised_matmul_kernel(const char *name, const quantised_matmul *q, const matmul_config *c)
{
    kernel t = { .k = mk_new(name), .q = q, .c = c, .info = quant_describe(q->scheme) };
    mk *k = t.k;
    declare(&t);
    mk_set_options(k, &(mk_options){ .flops = c->flops * (double)q->tiles, .bytes = c->bytes * (double)(q->tiles < q->experts ? q->tiles : q->experts), .vmem_limit_bytes = c->vmem_limit_bytes });
    if (q->tiles > 1) mk_if(k, mk_cmp(k, MK_LT, t.tile, mk_get(k, t.place, MK_AT(mk_i32(1)))));
    if (t.before) {
        when(&t, true, t.turn, 0);
        find_tops(&t);
        mk_else(k, NULL, 0);
    }
    step(&t);
    end_when(&t, t.before);
    end_when(&t, q->tiles > 1);
    return k;
}
