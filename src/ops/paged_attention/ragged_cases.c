/* Cases of the kernels in ragged.h: what the interpreter compares with naive code, and compilers get at a model's size. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "ops/kernels.h"
#include "ops/paged_attention/ragged.h"

typedef struct ragged_case { dtype kv; int q_heads, kv_heads, dim, page, window, chunk; float softcap; bool sinks; int queries; } ragged_case;

static const ragged_case decode_cases[] = {
    { DT_BF16, 32, 8, 128, 64, 0, 0, 0, false, 1 },
    { DT_F8E4M3, 32, 8, 128, 64, 0, 0, 0, false, 1 },
    { DT_I8, 32, 8, 128, 64, 0, 0, 0, false, 1 },
    { DT_F8E5M2, 32, 8, 128, 32, 0, 0, 0, false, 1 },
    { DT_BF16, 32, 8, 128, 16, 0, 0, 0, false, 1 },
    { DT_BF16, 4, 4, 128, 32, 0, 0, 0, false, 1 },
    { DT_BF16, 16, 8, 128, 32, 0, 0, 0, false, 1 },
    { DT_F8E4M3, 12, 4, 128, 32, 0, 0, 0, false, 1 },
    { DT_BF16, 20, 4, 128, 32, 0, 0, 0, false, 1 },
    { DT_BF16, 48, 8, 128, 32, 0, 0, 0, false, 1 },
    { DT_BF16, 28, 4, 128, 32, 0, 0, 0, false, 1 },
    { DT_F8E4M3, 64, 8, 128, 32, 0, 0, 0, false, 1 },
    { DT_BF16, 12, 1, 128, 32, 0, 0, 0, false, 1 },
    { DT_BF16, 32, 2, 128, 32, 0, 0, 0, false, 1 },
    { DT_F8E4M3, 8, 1, 128, 64, 0, 0, 0, false, 1 },
    { DT_I8, 5, 1, 128, 32, 0, 0, 0, false, 1 },
    { DT_I8, 64, 8, 64, 32, 128, 0, 0, true, 1 },
    { DT_I8, 32, 2, 128, 64, 0, 0, 0, false, 1 },
    { DT_I8, 9, 3, 64, 32, 0, 0, 0, false, 1 },
    { DT_I8, 24, 6, 96, 128, 0, 8192, 0, false, 1 },
    { DT_I8, 16, 16, 256, 32, 1024, 0, 50, false, 1 },
    { DT_I8, 8, 1, 128, 128, 0, 0, 0, false, 1 },
    { DT_BF16, 64, 8, 64, 32, 128, 0, 0, true, 1 },
    { DT_F8E4M3, 64, 8, 64, 32, 128, 0, 0, true, 1 },
    { DT_BF16, 14, 2, 64, 32, 0, 0, 0, false, 1 },
    { DT_BF16, 9, 3, 64, 32, 0, 0, 0, false, 1 },
    { DT_BF16, 32, 32, 80, 16, 0, 0, 0, false, 1 },
    { DT_BF16, 24, 6, 96, 32, 0, 0, 0, false, 1 },
    { DT_BF16, 16, 8, 256, 32, 1024, 0, 50, false, 1 },
    { DT_F8E4M3, 8, 4, 256, 32, 0, 0, 50, false, 1 },
    { DT_BF16, 40, 8, 128, 32, 0, 8192, 0, false, 1 },
};
enum { N_DECODE = sizeof decode_cases / sizeof *decode_cases };

/* Queries per block. 16 where heads are many: the interpreter takes its time. */
static const ragged_case tiles_cases[] = {
    { DT_BF16, 32, 8, 128, 64, 0, 0, 0, false, 128 },
    { DT_F8E4M3, 32, 8, 128, 64, 0, 0, 0, false, 128 },
    { DT_I8, 32, 8, 128, 64, 0, 0, 0, false, 128 },
    { DT_F8E5M2, 32, 8, 128, 32, 0, 0, 0, false, 64 },
    { DT_BF16, 16, 4, 128, 16, 0, 0, 0, false, 128 },
    { DT_BF16, 4, 4, 128, 32, 0, 0, 0, false, 128 },
    { DT_BF16, 32, 32, 80, 16, 0, 0, 0, false, 128 },
    { DT_BF16, 24, 6, 96, 32, 0, 0, 0, false, 64 },
    { DT_F8E4M3, 12, 4, 128, 32, 0, 0, 0, false, 128 },
    { DT_BF16, 20, 4, 128, 32, 0, 0, 0, false, 128 },
    { DT_BF16, 28, 4, 128, 32, 0, 0, 0, false, 64 },
    { DT_F8E4M3, 64, 8, 128, 32, 0, 0, 0, false, 64 },
    { DT_BF16, 12, 1, 128, 32, 0, 0, 0, false, 128 },
    { DT_BF16, 32, 2, 128, 32, 0, 0, 0, false, 32 },
    { DT_I8, 5, 1, 128, 32, 0, 0, 0, false, 128 },
    { DT_I8, 64, 8, 64, 32, 128, 0, 0, true, 64 },
    { DT_I8, 32, 2, 128, 64, 0, 0, 0, false, 32 },
    { DT_I8, 9, 3, 64, 32, 0, 0, 0, false, 128 },
    { DT_I8, 24, 6, 96, 128, 0, 8192, 0, false, 64 },
    { DT_I8, 16, 8, 256, 32, 1024, 0, 50, false, 64 },
    { DT_I8, 8, 1, 128, 128, 0, 0, 0, false, 128 },
    { DT_BF16, 64, 8, 64, 32, 128, 0, 0, true, 64 },
    { DT_F8E4M3, 64, 8, 64, 32, 128, 0, 0, true, 64 },
    { DT_BF16, 14, 2, 64, 32, 0, 0, 0, false, 128 },
    { DT_BF16, 9, 3, 64, 32, 0, 0, 0, false, 128 },
    { DT_BF16, 16, 8, 256, 32, 1024, 0, 50, false, 128 },
    { DT_F8E4M3, 8, 4, 256, 32, 0, 0, 50, false, 64 },
    { DT_BF16, 40, 8, 128, 32, 0, 8192, 0, false, 64 },
    { DT_BF16, 32, 8, 128, 64, 0, 0, 0, false, 128 },   /* a chunk, which leaves room for decodes */
};
enum { PROMPT = 2048, CHUNK = 448, N_TILES = sizeof tiles_cases / sizeof *tiles_cases, SMALL_QUERIES = 16, SMALL_TILE = 32 };

/* Tokens of a prompt at a model's size. */
static int prompt_of(const ragged_case *c) { return c == &tiles_cases[N_TILES - 1] ? CHUNK : PROMPT; }

/* 5 sequences of up to 3 blocks, or 64 of 2048 tokens; tiles are of the host's size. */
static ragged shape_of(const ragged_case *c, bool full, const chip *on)
{
    const int64_t tile = full ? 128 : SMALL_TILE;
    ragged r = { .kv = hlo_kv_of(c->kv, c->kv_heads, c->dim), .q_heads = c->q_heads, .page = c->page, .window = c->window, .chunk = c->chunk, .softcap = c->softcap, .sinks = c->sinks,
                 .queries = c->queries > SMALL_QUERIES && !full ? SMALL_QUERIES : c->queries, .tile = tile, .buffers = 3, .widen = on && on->version == 4 };
    r.seqs = full ? 64 : 5;
    r.max_pages = full ? 2048 / c->page : 3 * 128 / c->page;
    r.pages = 2 * (r.seqs * r.max_pages + 1);
    r.block = ragged_block(&r.kv, r.page, r.max_pages, r.widen ? 512 << 10 : 2 << 20, full ? 0 : 128);
    if (r.block > 1024) r.block = ragged_block(&r.kv, r.page, r.max_pages, 0, 1024);
    if (c->queries > 1) {
        r.tokens = full ? prompt_of(c) : 4 * 24;
        r.tiles = r.tokens / tile + r.seqs + 1;
        if (full) r.block = ragged_block(&r.kv, r.page, r.max_pages, 0, !r.widen ? 512 : c->kv_heads > 8 ? 128 : 256);
        while (full && r.widen && r.queries > 32) r.queries /= 2;
    }
    if (!full && c->window) r.window = 100;
    if (!full && c->chunk) r.chunk = 160;
    return r;
}

static void describe(const ragged_case *c, char *dst, size_t cap)
{
    int n = snprintf(dst, cap, "%s KV, %d/%d heads of %d, page %d", dtype_name(c->kv), c->q_heads, c->kv_heads, c->dim, c->page);
    if (c->window) n += snprintf(dst + n, cap - (size_t)n, ", window %d", c->window);
    if (c->chunk) n += snprintf(dst + n, cap - (size_t)n, ", chunks of %d", c->chunk);
    if (c->softcap > 0) n += snprintf(dst + n, cap - (size_t)n, ", soft cap");
    if (c->sinks) n += snprintf(dst + n, cap - (size_t)n, ", sinks");
    if (c->queries > 1) snprintf(dst + n, cap - (size_t)n, ", %d queries", prompt_of(c));
}

/* ---- inputs ---- */

/* Element j of a token's K (0) or V (1) of a head, in its rows. */
static int64_t place_of(const hlo_kv *kv, int64_t head, int v, int64_t j)
{
    int64_t row = kv->head_lanes ? 0 : head, lane = head * kv->head_lanes;
    return (row + v * kv->v_row) * kv->lanes + lane + v * kv->v_lane + j;
}

static void put_number(dtype t, void *dst, int64_t at, float x)
{
    if (t == DT_BF16) ((uint16_t *)dst)[at] = f32_to_bf16(x);
    else ((uint8_t *)dst)[at] = t == DT_F8E4M3 ? f32_to_f8e4m3(x) : t == DT_F8E5M2 ? f32_to_f8e5m2(x) : isnan(x) ? 127 : (uint8_t)(int8_t)(x * 60);
}

/* Rows of a token: padding is 0. nothing: what nobody wrote, no number. */
static void fill_token(const ragged *r, uint64_t *state, void *cache, int64_t at, bool nothing)
{
    const hlo_kv *kv = &r->kv;
    int64_t each = kv->rows * kv->lanes;
    for (int64_t j = 0; j < each; j++) put_number(kv->type, cache, at * each + j, nothing ? NAN : 0);
    for (int64_t h = 0; !nothing && h < kv->heads; h++)
        for (int64_t j = 0; j < 2 * kv->dim; j++) put_number(kv->type, cache, at * each + place_of(kv, h, j >= kv->dim, j % kv->dim), kernel_draw_float(state));
}

/* And its scales, if it has some. */
static void fill_scales(const ragged *r, uint64_t *state, float *scales, int64_t at, bool nothing)
{
    const kv_scale_shape s = hlo_kv_scales(&r->kv, r->page);
    for (int64_t i = 0; r->kv.type == DT_I8 && i < s.lines * s.per; i++) {
        const int64_t n = s.lines / 2 * s.per, head = i % n;
        const float x = nothing ? NAN : head < r->kv.heads ? 1 + kernel_draw_float(state) / 2 : 0;
        scales[at / r->page * s.rows * s.lanes + kv_scale_place(&s, head, i >= n, at % r->page)] = x;
    }
}

/* A sequence's keys, on pages of its own. */
static void fill_keys(const ragged *r, uint64_t *state, int32_t *table, void *cache, float *scales, int64_t seq, int64_t keys)
{
    for (int64_t p = 0; p < r->max_pages; p++) {
        int64_t page = 1 + (seq * r->max_pages + p) * 7 % (r->pages / 2 - 1);
        table[seq * r->max_pages + p] = p * r->page < keys ? (int32_t)page : 0;
        for (int64_t t = 0; t < r->page && p * r->page + t < keys; t++) {
            fill_token(r, state, cache, (page + r->pages / 2) * r->page + t, false);
            fill_scales(r, state, scales, (page + r->pages / 2) * r->page + t, false);
        }
    }
}

static int64_t row_of_head(const ragged *r, int64_t head)
{
    ragged_ops o = ragged_ops_of(r);
    int64_t kv_head = head / o.group;
    return kv_head / o.heads * o.rows + kv_head % o.heads * o.group + head % o.group;
}

enum { FIRST_PAGE, LENS, TABLE, FACTORS, QUERY };

static void fill_factors(const ragged *r, float *factors)
{
    factors[0] = (r->kv.type == DT_I8 ? 1.0f / 60 : 1) / sqrtf((float)r->kv.dim);
    factors[1] = r->kv.type == DT_I8 ? 1.0f / 60 : 0.5f;
}

/* The third sequence has no keys; the second has as many as there can be. */
static void fill_decode(int i, const mk *k, uint64_t seed, void *const *arg)
{
    const ragged r = shape_of(&decode_cases[i], false, NULL);
    const ragged_ops o = ragged_ops_of(&r);
    uint64_t state = seed * 0x9E3779B97F4A7C15u + (uint64_t)i;
    void *cache = arg[mk_n_operands(k) - 1];
    float *scales = arg[mk_n_operands(k) - 2];
    *(int32_t *)arg[FIRST_PAGE] = (int32_t)(r.pages / 2);
    fill_factors(&r, arg[FACTORS]);
    for (int64_t t = 0; t < r.pages * r.page; t++) {
        fill_token(&r, &state, cache, t, true);
        fill_scales(&r, &state, scales, t, true);
    }
    for (int64_t s = 0; s < r.seqs; s++) {
        int64_t most = r.max_pages * r.page, keys = s == 0 ? 1 : s == 1 ? most : s == 2 ? 0 : 1 + kernel_draw(&state) % most;
        ((int32_t *)arg[LENS])[s] = (int32_t)keys;
        fill_keys(&r, &state, arg[TABLE], cache, scales, s, keys);
    }
    memset(arg[QUERY], 0, (size_t)(r.seqs * o.ops * o.rows * o.width) * sizeof(uint16_t));
    for (int64_t s = 0; s < r.seqs * r.q_heads; s++)
        for (int64_t j = 0; j < r.kv.dim; j++)
            ((uint16_t *)arg[QUERY])[(s / r.q_heads * o.ops * o.rows + row_of_head(&r, s % r.q_heads)) * o.width + j] = f32_to_bf16(kernel_draw_float(&state));
    for (int64_t j = 0; r.sinks && j < o.ops * o.rows; j++) ((float *)arg[QUERY + 1])[j] = (float)(j % 5) - 2;
}

/* Runs of queries at the end of their sequences' keys: the first is the whole of a short one, the third has none, the last ends within a block. */
enum { T_FIRST, T_TILES, T_SEQ, T_TOKEN, T_POS, T_LEN, T_TABLE, T_FACTORS, T_SINKS };

static void fill_tiles(int i, const mk *k, uint64_t seed, void *const *arg)
{
    const ragged r = shape_of(&tiles_cases[i], false, NULL);
    const ragged_tiles_shape o = ragged_tiles_shape_of(&r);
    uint64_t state = seed * 0x9E3779B97F4A7C15u + (uint64_t)i;
    int32_t at = 0, n = 0, *seq = arg[T_SEQ], *token = arg[T_TOKEN], *pos = arg[T_POS], *len = arg[T_LEN];
    *(int32_t *)arg[T_FIRST] = (int32_t)(r.pages / 2);
    fill_factors(&r, arg[T_FACTORS]);
    void *cache = arg[mk_n_operands(k) - 1];
    float *scales = arg[mk_n_operands(k) - 2];
    for (int64_t t = 0; t < r.pages * r.page; t++) {
        fill_token(&r, &state, cache, t, true);
        fill_scales(&r, &state, scales, t, true);
    }
    for (int64_t t = 0; t < r.tiles; t++) seq[t] = token[t] = pos[t] = len[t] = 0;
    for (int64_t s = 0; s < r.seqs; s++) {
        int64_t most = r.max_pages * r.page, keys = s == 0 ? 2 : s == 1 ? most : s == 2 ? 0 : 24 + kernel_draw(&state) % (most - 24), queries = keys < 24 ? keys : s == 1 ? 24 : 17 + kernel_draw(&state) % 8;
        fill_keys(&r, &state, arg[T_TABLE], cache, scales, s, keys);
        for (int64_t q = 0; q < queries; q += r.tile, n++) {
            seq[n] = (int32_t)s;
            token[n] = at + (int32_t)q;
            pos[n] = (int32_t)(keys - queries + q);
            len[n] = (int32_t)(queries - q < r.tile ? queries - q : r.tile);
        }
        at += (int32_t)queries;
    }
    *(int32_t *)arg[T_TILES] = n;
    for (int64_t j = 0; r.sinks && j < r.q_heads; j++) ((float *)arg[T_SINKS])[j] = (float)(j % 5) - 2;
    uint16_t *q = arg[T_SINKS + r.sinks];
    memset(q, 0, (size_t)(r.tokens * o.q_rows * o.width) * sizeof *q);
    for (int64_t h = 0; h < r.tokens * r.q_heads; h++)
        for (int64_t j = 0; j < r.kv.dim; j++) q[(h / r.q_heads * o.q_rows + h % r.q_heads) * o.width + j] = f32_to_bf16(kernel_draw_float(&state));
}

/* ---- what is to come out ---- */

/* What the cache means, in f32. */
static void read_cache(const ragged *r, const mk *k, void *const *arg, float *out)
{
    const hlo_kv *kv = &r->kv;
    const int64_t each = kv->rows * kv->lanes, tokens = r->pages * r->page;
    dtype_to_f32(kv->type, arg[mk_n_operands(k) - 1], out, (size_t)(tokens * each));
    if (kv->type != DT_I8) return;
    const kv_scale_shape s = hlo_kv_scales(kv, r->page);
    const float *scales = arg[mk_n_operands(k) - 2];
    for (int64_t i = 0; i < tokens * kv->heads * 2 * kv->dim; i++) {
        const int64_t j = i % kv->dim, v = i / kv->dim % 2, head = i / kv->dim / 2 % kv->heads, t = i / kv->dim / 2 / kv->heads;
        out[t * each + place_of(kv, head, (int)v, j)] *= scales[t / r->page * s.rows * s.lanes + kv_scale_place(&s, head, v, t % r->page)];
    }
}

typedef struct reference { const ragged *r; const float *cache; const int32_t *table; int64_t first_page; float score, value; } reference;

static const float *token_of(const reference *x, int64_t seq, int64_t t)
{
    int64_t page = x->table[seq * x->r->max_pages + t / x->r->page] + x->first_page;
    return x->cache + (page * x->r->page + t % x->r->page) * x->r->kv.rows * x->r->kv.lanes;
}

/* One query that sees the keys before hi, of which window and chunk may hide some. */
static void ref_query(const reference *x, int64_t seq, int64_t hi, int64_t kv_head, const uint16_t *q, const float *sink, float *out)
{
    const ragged *r = x->r;
    int64_t lo = r->window && hi > r->window ? hi - r->window : 0;
    double max = sink ? *sink : -INFINITY, sum = 0, acc[256] = { 0 };
    if (r->chunk && (hi - 1) / r->chunk * r->chunk > lo) lo = (hi - 1) / r->chunk * r->chunk;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t t = lo; t < hi; t++) {
            const float *token = token_of(x, seq, t);
            double s = 0;
            for (int64_t j = 0; j < r->kv.dim; j++) s += (double)bf16_to_f32(q[j]) * token[place_of(&r->kv, kv_head, 0, j)];
            s *= x->score;
            if (r->softcap > 0) s = tanh(s / r->softcap) * r->softcap;
            if (pass == 0) { max = s > max ? s : max; continue; }
            sum += exp(s - max);
            for (int64_t j = 0; j < r->kv.dim; j++) acc[j] += exp(s - max) * token[place_of(&r->kv, kv_head, 1, j)];
        }
    }
    if (sink) sum += exp(*sink - max);
    for (int64_t j = 0; j < r->kv.dim; j++) out[j] = (float)(acc[j] / sum * x->value);
}

static status ref_decode(int i, const mk *k, void *const *arg, float *const *results)
{
    const ragged r = shape_of(&decode_cases[i], false, NULL);
    const ragged_ops o = ragged_ops_of(&r);
    const size_t n = (size_t)(r.pages * r.page * r.kv.rows * r.kv.lanes);
    float *cache = mem_array(n, sizeof *cache);
    if (!cache) return err_nomem();
    read_cache(&r, k, arg, cache);
    reference x = { &r, cache, arg[TABLE], *(const int32_t *)arg[FIRST_PAGE], ((const float *)arg[FACTORS])[0], ((const float *)arg[FACTORS])[1] };
    for (int64_t j = 0; j < r.seqs * o.ops * o.rows * o.width; j++) results[0][j] = NAN;
    for (int64_t s = 0; s < r.seqs * r.q_heads; s++) {
        int64_t seq = s / r.q_heads, head = s % r.q_heads, row = row_of_head(&r, head), at = (seq * o.ops * o.rows + row) * o.width, keys = ((const int32_t *)arg[LENS])[seq];
        const float *sink = r.sinks ? (const float *)arg[QUERY + 1] + row : NULL;
        if (keys) ref_query(&x, seq, keys, head / o.group, (const uint16_t *)arg[QUERY] + at, sink, results[0] + at + (r.kv.narrow ? r.kv.v_lane : 0));
    }
    mem_free(cache);
    return ST_OK;
}

static void ref_tile(const reference *x, const ragged_tiles_shape *o, void *const *arg, int64_t tile, const uint16_t *q, float *out)
{
    const ragged *r = x->r;
    for (int64_t j = 0; j < ((const int32_t *)arg[T_LEN])[tile] * r->q_heads; j++) {
        int64_t token = ((const int32_t *)arg[T_TOKEN])[tile] + j / r->q_heads, head = j % r->q_heads, at = (token * o->q_rows + head) * o->width;
        ref_query(x, ((const int32_t *)arg[T_SEQ])[tile], ((const int32_t *)arg[T_POS])[tile] + j / r->q_heads + 1, head / o->group, q + at,
                  r->sinks ? (const float *)arg[T_SINKS] + head : NULL, out + at + (r->kv.narrow ? r->kv.v_lane : 0));
    }
}

static status ref_tiles(int i, const mk *k, void *const *arg, float *const *results)
{
    const ragged r = shape_of(&tiles_cases[i], false, NULL);
    const ragged_tiles_shape o = ragged_tiles_shape_of(&r);
    const size_t n = (size_t)(r.pages * r.page * r.kv.rows * r.kv.lanes);
    float *cache = mem_array(n, sizeof *cache);
    if (!cache) return err_nomem();
    read_cache(&r, k, arg, cache);
    reference x = { &r, cache, arg[T_TABLE], *(const int32_t *)arg[T_FIRST], ((const float *)arg[T_FACTORS])[0], ((const float *)arg[T_FACTORS])[1] };
    for (int64_t j = 0; j < r.tokens * o.q_rows * o.width; j++) results[0][j] = NAN;
    for (int64_t t = 0; t < *(const int32_t *)arg[T_TILES]; t++) ref_tile(&x, &o, arg, t, arg[T_SINKS + r.sinks], results[0]);
    mem_free(cache);
    return ST_OK;
}

static void describe_tiles(int i, char *dst, size_t cap) { describe(&tiles_cases[i], dst, cap); }

static mk *build_tiles(int i, const chip *c)
{
    const ragged r = shape_of(&tiles_cases[i], false, c);
    return ragged_tiles(&r);
}

static ragged full_tiles_shape(int i, const chip *c)
{
    ragged r = shape_of(&tiles_cases[i], true, c);
    r.vmem_bytes = c ? c->vmem_bytes / 8 * 7 : 0;
    return r;
}

static mk *full_tiles(int i, const chip *c)
{
    const ragged r = full_tiles_shape(i, c);
    return ragged_tiles(&r);
}

static void describe_decode(int i, char *dst, size_t cap) { describe(&decode_cases[i], dst, cap); }
static double tolerance(int i) { (void)i; return 0.02; }
static const char *refuses(int i, const chip *c) { (void)i; return c->version < 4 ? "no Mosaic before v4" : NULL; }

/* A kernel keeps nothing of its shape. */
static mk *build_decode(int i, const chip *c)
{
    const ragged r = shape_of(&decode_cases[i], false, c);
    return ragged_decode(&r);
}

static mk *full_decode(int i, const chip *c)
{
    const ragged r = shape_of(&decode_cases[i], true, c);
    return ragged_decode(&r);
}

/* Keys of a sequence that its query sees. */
static int64_t seen_keys(const ragged *r)
{
    int64_t keys = r->max_pages * r->page;
    return r->window && r->window < keys ? r->window : keys;
}

static mk *fixed_decode(int i, const chip *c)
{
    ragged r = shape_of(&decode_cases[i], true, c);
    r.fixed_blocks = r.seqs * ((seen_keys(&r) + r.block - 1) / r.block);
    return ragged_decode(&r);
}

static status profile(int i, const chip *c, mk *k, kernel_bound *least)
{
    const ragged r = shape_of(&decode_cases[i], true, c);
    double keys = (double)(r.seqs * seen_keys(&r));
    (void)k;
    least->bytes = keys * ragged_token_bytes(&r);
    least->unit_s = 4 * keys * (double)(r.q_heads * r.kv.dim) / c->bf16_flops;
    return ST_OK;
}

const kernel_impl kernel_ragged_decode = { .name = "ragged_decode", .n_cases = N_DECODE, .describe = describe_decode, .refuses = refuses, .build = build_decode, .build_full = full_decode,
                                           .fill = fill_decode, .ref = ref_decode, .tolerance = tolerance, .build_profile = fixed_decode, .profile = profile };

/* Profiles of tiles: one prompt that is the step's tokens, whose blocks the queries see from the first key, a window or a chunk on. */
static int64_t first_seen(const ragged *r, int64_t pos)
{
    int64_t lo = r->window && pos >= r->window ? pos + 1 - r->window : 0;
    return r->chunk && pos / r->chunk * r->chunk > lo ? pos / r->chunk * r->chunk : lo;
}

static mk *fixed_tiles(int i, const chip *c)
{
    ragged r = full_tiles_shape(i, c);
    for (int64_t pos = 0; pos < r.tokens; pos += r.queries, r.fixed_items++) r.fixed_blocks += (pos + r.queries + r.block - 1) / r.block - first_seen(&r, pos) / r.block;
    return ragged_tiles(&r);
}

static status profile_tiles(int i, const chip *c, mk *k, kernel_bound *least)
{
    const ragged r = full_tiles_shape(i, c);
    double keys = 0;
    (void)k;
    for (int64_t pos = 0; pos < r.tokens; pos++) keys += (double)(pos + 1 - first_seen(&r, pos));
    least->bytes = (double)r.tokens * (ragged_token_bytes(&r) + 4.0 * (double)(r.q_heads * r.kv.dim));
    least->unit_s = 4 * keys * (double)(r.q_heads * r.kv.dim) / c->bf16_flops;
    return ST_OK;
}

const kernel_impl kernel_ragged_tiles = { .name = "ragged_tiles", .n_cases = N_TILES, .describe = describe_tiles, .refuses = refuses, .build = build_tiles, .build_full = full_tiles,
                                          .fill = fill_tiles, .ref = ref_tiles, .tolerance = tolerance, .build_profile = fixed_tiles, .profile = profile_tiles };
