#include "ops/linear/quantised_mosaic.h"

#include "ops/hlo_weight.h"

enum { LANES = 128, UNROLLED = 1 << 20 };    /* UNROLLED: results of an iteration's chunks: enough to fill the units, few enough to compile in a second or two */

typedef struct kernel {
    mk *k;
    const quantised_matmul *q;
    const matmul_config *c;
    quant_info info;
    mk_ref place, input_scale, x, w, s, z, out;
    mk_ref xq;              /* [rows * parts, k] x as the matrix unit takes it, where that is not x itself */
    mk_ref xs;              /* [chunks, rows * parts, 1] f32: what results of a chunk are multiplied by */
    mk_ref sums;            /* [rows, groups] f32: of x's columns, for the weights' zeros */
    mk_ref sf, acc;         /* [groups, block_n] f32 scales; [rows, block_n] f32 */
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
    matmul_shape s = { .rows = q->rows, .n = q->n, .k = q->k, .act = q->act, .rounded = q->act, .weight = weight_type(q), .group = quantised_matmul_groups(q) > 1 ? q->group : 0 };
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

/* ---- windows: grid (cores, blocks of n, tiles), so that neighbouring tiles of one expert find its block there ---- */

typedef struct window { int64_t per_core; int along; /* the array's dimension that n is */ } window;

/* Tiles that are not there stay at the last one: nothing is copied for them. */
static mk_val tile_there(mk *k, const mk_val *grid, mk_ref place)
{
    mk_val last = mk_max(k, mk_sub(k, mk_get(k, place, MK_AT(mk_i32(1))), mk_i32(1)), mk_i32(0));
    return mk_min(k, grid[2], last);
}

static mk_val block_of(mk *k, const mk_val *grid, const window *w)
{
    return mk_add(k, mk_mul(k, grid[0], mk_i32((int32_t)w->per_core)), grid[1]);
}

static void map_x(mk *k, const mk_val *grid, const mk_ref *prefetched, const void *arg, mk_val *index)
{
    (void)arg;
    index[0] = tile_there(k, grid, prefetched[0]);
}

static void map_out(mk *k, const mk_val *grid, const mk_ref *prefetched, const void *arg, mk_val *index)
{
    index[0] = tile_there(k, grid, prefetched[0]);
    index[1] = block_of(k, grid, arg);
}

static void map_weight(mk *k, const mk_val *grid, const mk_ref *prefetched, const void *arg, mk_val *index)
{
    const window *w = arg;
    index[0] = mk_get(k, prefetched[0], MK_AT(mk_i32(0)));
    index[1] = mk_get(k, prefetched[0], MK_AT(mk_add(k, tile_there(k, grid, prefetched[0]), mk_i32(2))));
    index[w->along] = block_of(k, grid, w);
}

static int64_t parts_of(const kernel *t) { return t->c->parts; }
static bool grouped(const kernel *t) { return quantised_matmul_groups(t->q) > 1; }
static int64_t n_chunks(const kernel *t) { return (t->q->k + MATMUL_CHUNK - 1) / MATMUL_CHUNK; }
/* int4's zero is not in the operand: zero * scale * (sum of x) over the groups comes off the result, which is one more product. */
static bool has_zero(const kernel *t) { return t->info.type == DT_I4 && (t->info.zeros || t->c->w != DT_I8); }

static void declare_scratch(kernel *t)
{
    const quantised_matmul *q = t->q;
    mk *k = t->k;
    int64_t rows = q->rows * parts_of(t), groups = quantised_matmul_groups(q);
    if (rounds(t->info) || parts_of(t) > 1) t->xq = mk_scratch(k, "xq", MK_VMEM, t->c->x, MK_DIMS(rows, q->k));
    if (rounds(t->info) && !is_static(t->info)) t->xs = mk_scratch(k, "xs", MK_VMEM, DT_F32, MK_DIMS(grouped(t) && by_group(t->info) ? n_chunks(t) : 1, rows, 1));
    if (has_zero(t)) t->sums = mk_scratch(k, "sums", MK_VMEM, DT_F32, MK_DIMS(q->rows, groups));
    if (!grouped(t)) return;
    t->sf = mk_scratch(k, "sf", MK_VMEM, DT_F32, MK_DIMS(quantised_matmul_stored_groups(q), t->c->block_n));
    t->acc = mk_scratch(k, "acc", MK_VMEM, DT_F32, MK_DIMS(q->rows, t->c->block_n));
}

static void declare(kernel *t, mk_val grid[3])
{
    const quantised_matmul *q = t->q;
    mk *k = t->k;
    int64_t columns = quantised_matmul_columns(q), groups = quantised_matmul_stored_groups(q), stored_rows = quantised_matmul_stored_rows(q), block = t->c->block_n, blocks = (q->n + block - 1) / block, cores = blocks % t->c->chip->cores ? 1 : t->c->chip->cores;
    dtype stored = weight_type(q);
    grid[0] = mk_grid(k, cores, true);
    grid[1] = mk_grid(k, blocks / cores, false);
    grid[2] = mk_grid(k, q->tiles, false);
    window w = { blocks / cores, 2 }, s = { blocks / cores, 3 };
    t->place = mk_prefetch(k, "place", DT_I32, 2 + q->tiles);
    if (is_static(t->info)) t->input_scale = mk_prefetch(k, "input_scale", DT_F32, 1);
    t->x = mk_in_block(k, "x", q->act, MK_DIMS(q->tiles * q->rows, q->k), MK_DIMS(q->rows, q->k), map_x, NULL);
    t->w = mk_in_block(k, "values", is_packed(stored) ? DT_I8 : stored, MK_DIMS(q->layers, q->experts, q->n, columns), MK_DIMS(1, 1, block, columns), map_weight, &w);
    if (q->scheme) t->s = mk_in_block(k, "scales", q->scale, MK_DIMS(q->layers, q->experts, groups, stored_rows), MK_DIMS(1, 1, groups, block), map_weight, &s);
    if (t->info.zeros) t->z = mk_in_block(k, "zeros", DT_I8, MK_DIMS(q->layers, q->experts, groups, stored_rows), MK_DIMS(1, 1, groups, block), map_weight, &s);
    t->out = mk_out_block(k, "y", q->out, MK_DIMS(q->tiles * q->rows, q->n), MK_DIMS(q->rows, block), map_out, &w);
    declare_scratch(t);
}

/* ---- x ---- */

static bool int8_x(const kernel *t) { return t->info.int8_activations; }

/* What rows of x are divided by before they are rounded, and what the result is multiplied by again: amax / 127 or / 448, rows below 2^-100
 * being 0; [rows, 1] f32. A static scale is in the program's. */
typedef struct row_scale { mk_val by, again; } row_scale;

static row_scale scale_of(kernel *t, mk_val x)
{
    mk *k = t->k;
    if (is_static(t->info)) {
        mk_val s = mk_get(k, t->input_scale, MK_AT(mk_i32(0)));
        return (row_scale){ s, s };
    }
    mk_val top = mk_reduce(k, MK_MAX, mk_abs(k, x), 1), tiny = mk_cmp(k, MK_LT, top, mk_f32(0x1p-100f)), scale = mk_div(k, top, mk_f32(int8_x(t) ? 127 : 448));
    const mk_dims column = MK_DIMS(x.dim[0], 1);
    return (row_scale){ mk_select(k, tiny, mk_full(k, mk_f32(1), column), scale), mk_select(k, tiny, mk_full(k, mk_f32(0), column), scale) };
}

/* f32 to int8's or e4m3's numbers; stays f32. */
static mk_val nearest(kernel *t, mk_val x, mk_val by)
{
    mk *k = t->k;
    float most = int8_x(t) ? 127 : 448;
    x = mk_min(k, mk_max(k, mk_div(k, x, by), mk_f32(-most)), mk_f32(most));
    return int8_x(t) ? mk_round(k, x) : mk_convert(k, mk_convert(k, x, DT_F8E4M3), DT_F32);
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

/* Columns of one chunk, for the products. all: x's whole rows have one scale, or none. sums: so far; with this chunk's they are the result. */
static mk_val prepare_chunk(kernel *t, mk_val chunk, int64_t width, row_scale all, mk_val sums)
{
    mk *k = t->k;
    mk_val at = lanes_of(k, chunk), x = mk_convert(k, mk_load(k, t->x, MK_AT(mk_i32(0), at), MK_DIMS(t->q->rows, width)), DT_F32);
    row_scale own = { 0 };
    if (mk_is(all.by)) x = nearest(t, x, all.by);
    x = spread(t, x);
    if (rounds(t->info) && !mk_is(all.by)) {
        own = scale_of(t, x);
        x = nearest(t, x, own.by);
        mk_store(k, mk_reshape(k, own.again, MK_DIMS(1, x.dim[0], 1)), t->xs, MK_AT(chunk, mk_i32(0), mk_i32(0)));
    }
    if (rounds(t->info) || parts_of(t) > 1) mk_store(k, mk_convert(k, x, t->c->x), t->xq, MK_AT(mk_i32(0), at));
    return has_zero(t) ? with_sums(t, sums, mk_is(own.again) ? mk_mul(k, x, own.again) : x, chunk) : sums;
}

/* xq, xs and sums of this tile. */
static void prepare(kernel *t)
{
    mk *k = t->k;
    row_scale all = { 0 };
    if (rounds(t->info) && (!grouped(t) || !by_group(t->info))) {
        mk_val x = mk_convert(k, mk_load(k, t->x, MK_ZERO, MK_DIMS(t->q->rows, t->q->k)), DT_F32);
        all = scale_of(t, x);
        if (!is_static(t->info)) mk_store(k, mk_reshape(k, all.again, MK_DIMS(1, t->q->rows, 1)), t->xs, MK_ZERO);
        if (!grouped(t)) {
            mk_store(k, mk_convert(k, nearest(t, x, all.by), t->c->x), t->xq, MK_ZERO);
            return;
        }
    }
    int64_t whole = t->q->k / MATMUL_CHUNK, rest = t->q->k % MATMUL_CHUNK;
    int n = has_zero(t);
    mk_val sums = { 0 };
    if (n) sums = mk_full(k, mk_f32(0), MK_DIMS(t->q->rows, quantised_matmul_groups(t->q)));
    mk_val in = { 0 }, i = mk_for(k, mk_i32(0), mk_i32((int32_t)whole), &sums, n, &in);
    in = prepare_chunk(t, i, MATMUL_CHUNK, all, in);
    mk_end_for(k, &in, &sums);
    if (rest) sums = prepare_chunk(t, mk_i32((int32_t)whole), rest, all, sums);
    if (n) mk_store(k, sums, t->sums, MK_ZERO);
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
    bool own = rounds(t->info) || parts_of(t) > 1;
    mk_val x = mk_load(k, own ? t->xq : t->x, MK_AT(mk_i32(0), at), MK_DIMS(t->q->rows * parts_of(t), width));
    mk_val y = mk_matmul(k, x, weight_at(t, from, width, high), true, t->c->x == DT_I8 ? DT_I32 : DT_F32, (mk_val){ 0 });
    return mk_convert(k, y, DT_F32);
}

/* What rows' results are multiplied by, if rows of x have one scale. */
static mk_val unscaled(kernel *t, mk_val y)
{
    mk *k = t->k;
    if (!rounds(t->info) || (grouped(t) && by_group(t->info))) return y;
    if (is_static(t->info)) return mk_mul(k, y, mk_get(k, t->input_scale, MK_AT(mk_i32(0))));
    return mk_mul(k, y, mk_reshape(k, mk_load(k, t->xs, MK_ZERO, MK_DIMS(1, t->q->rows, 1)), MK_DIMS(t->q->rows, 1)));
}

/* By weights whose scales are of whole rows. */
static mk_val whole_rows(kernel *t)
{
    mk *k = t->k;
    mk_val y = unscaled(t, multiply(t, mk_i32(0), mk_i32(0), t->q->k, false));
    return t->q->scheme ? mk_mul(k, y, mk_convert(k, mk_load(k, t->s, MK_ZERO, MK_DIMS(1, t->c->block_n)), DT_F32)) : y;
}

/* A chunk's xs: [rows * parts, 1]. */
static mk_val xs_of(kernel *t, mk_val chunk)
{
    int64_t rows = t->q->rows * parts_of(t);
    return mk_reshape(t->k, mk_load(t->k, t->xs, MK_AT(chunk, mk_i32(0), mk_i32(0)), MK_DIMS(1, rows, 1)), MK_DIMS(rows, 1));
}

/* The chunk's product with its scales: [rows, block_n]. */
static mk_val chunk_product(kernel *t, mk_val chunk, mk_val from, int64_t width, bool high)
{
    mk *k = t->k;
    int64_t group = t->q->group, parts = (width + group - 1) / group;
    mk_val y = multiply(t, lanes_of(k, chunk), from, width, high), xs = { 0 }, sum = { 0 };
    if (rounds(t->info) && by_group(t->info)) xs = xs_of(t, chunk);
    for (int64_t i = 0; i < parts; i++) {
        mk_val g = group < MATMUL_CHUNK ? mk_add(k, mk_mul(k, chunk, mk_i32((int32_t)parts_of(t))), mk_i32((int32_t)i)) : mk_div(k, chunk, mk_i32((int32_t)(group / MATMUL_CHUNK)));
        mk_val one = mk_mul(k, part_of(t, y, i), mk_load(k, t->sf, MK_AT(g, mk_i32(0)), MK_DIMS(1, t->c->block_n)));
        if (mk_is(xs)) one = mk_mul(k, one, part_of(t, xs, i));
        sum = i ? mk_add(k, sum, one) : one;
    }
    return sum;
}

static void add_up(kernel *t, mk_val y) { mk_store(t->k, mk_add(t->k, mk_load(t->k, t->acc, MK_ZERO, MK_DIMS(t->q->rows, t->c->block_n)), y), t->acc, MK_ZERO); }

/* Chunks [first, first + n), which are the weight's lanes from 0 on; as many at a time as UNROLLED says. */
static void run_chunks(kernel *t, int64_t first, int64_t n, bool high)
{
    mk *k = t->k;
    int64_t most = UNROLLED / (t->q->rows * parts_of(t) * t->c->block_n), by = most < 2 ? 2 : most > 32 ? 32 : most;
    if (by > n) by = n;
    int64_t turns = n / by;
    mk_val i = mk_for(k, mk_i32(0), mk_i32((int32_t)turns), NULL, 0, NULL), sum = { 0 };
    for (int64_t u = 0; u < by; u++) {
        mk_val at = mk_add(k, mk_mul(k, i, mk_i32((int32_t)by)), mk_i32((int32_t)u));
        mk_val y = chunk_product(t, mk_add(k, at, mk_i32((int32_t)first)), lanes_of(k, at), MATMUL_CHUNK, high);
        sum = u ? mk_add(k, sum, y) : y;
    }
    add_up(t, sum);
    mk_end_for(k, NULL, NULL);
    for (int64_t at = turns * by; at < n; at++) add_up(t, chunk_product(t, mk_i32((int32_t)(first + at)), mk_i32((int32_t)(at * MATMUL_CHUNK)), MATMUL_CHUNK, high));
}

static mk_val zero_of(kernel *t, mk_dims dims)
{
    mk_val z = mk_convert(t->k, mk_load(t->k, t->z, MK_ZERO, dims), DT_F32);
    return t->c->w == DT_I8 ? mk_sub(t->k, z, mk_f32(8)) : z;
}

static mk_val by_chunks(kernel *t)
{
    mk *k = t->k;
    const mk_dims block = MK_DIMS(t->q->rows, t->c->block_n);
    bool packed = is_packed(weight_type(t->q));
    int64_t half = packed ? quantised_matmul_columns(t->q) / MATMUL_CHUNK : 0, whole = t->q->k / MATMUL_CHUNK, rest = t->q->k % MATMUL_CHUNK;
    mk_store(k, mk_full(k, mk_f32(0), block), t->acc, MK_ZERO);
    if (half) run_chunks(t, 0, half, false);
    if (whole > half) run_chunks(t, half, whole - half, packed);
    if (rest) add_up(t, chunk_product(t, mk_i32((int32_t)whole), mk_i32((int32_t)((whole - half) * MATMUL_CHUNK)), rest, packed));
    mk_val y = mk_load(k, t->acc, MK_ZERO, block);
    if (unit(t) != 1) y = mk_mul(k, y, mk_f32(unit(t)));
    if (has_zero(t)) {
        const mk_dims groups = MK_DIMS(quantised_matmul_groups(t->q), t->c->block_n);
        mk_val zeros = mk_mul(k, mk_load(k, t->sf, MK_ZERO, groups), t->info.zeros ? zero_of(t, groups) : mk_f32(8));
        y = mk_sub(k, y, mk_matmul(k, mk_load(k, t->sums, MK_ZERO, MK_DIMS(t->q->rows, groups.v[0])), zeros, false, DT_F32, (mk_val){ 0 }));
    }
    return unscaled(t, y);
}

/* This block's scales as f32, whose rows can be read one by one. */
static void widen_scales(kernel *t)
{
    const mk_dims dims = MK_DIMS(quantised_matmul_stored_groups(t->q), t->c->block_n);
    mk_store(t->k, mk_convert(t->k, mk_load(t->k, t->s, MK_ZERO, dims), DT_F32), t->sf, MK_ZERO);
}

mk *quantised_matmul_kernel(const char *name, const quantised_matmul *q, const matmul_config *c)
{
    kernel t = { .k = mk_new(name), .q = q, .c = c, .info = quant_describe(q->scheme) };
    mk *k = t.k;
    mk_val grid[3];
    declare(&t, grid);
    mk_set_options(k, &(mk_options){ .flops = c->flops * (double)q->tiles, .bytes = c->bytes * (double)(q->tiles < q->experts ? q->tiles : q->experts), .vmem_limit_bytes = c->vmem_limit_bytes });
    if (q->tiles > 1) mk_if(k, mk_cmp(k, MK_LT, grid[2], mk_get(k, t.place, MK_AT(mk_i32(1)))));
    if (rounds(t.info) || parts_of(&t) > 1 || has_zero(&t)) {       /* once for all blocks, if there is but one tile */
        if (q->tiles == 1) mk_if(k, mk_cmp(k, MK_EQ, grid[1], mk_i32(0)));
        prepare(&t);
        if (q->tiles == 1) mk_end_if(k, NULL, NULL);
    }
    if (grouped(&t)) widen_scales(&t);
    mk_val y = grouped(&t) ? by_chunks(&t) : whole_rows(&t);
    mk_store(k, mk_convert(k, y, q->out), t.out, MK_ZERO);
    if (q->tiles > 1) mk_end_if(k, NULL, NULL);
    return k;
}
