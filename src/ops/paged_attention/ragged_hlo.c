/* Calls of ragged paged attention in StableHLO programs, with the blocks that the chip's attention configuration chose. */
#include "ops/op.h"
#include "ops/paged_attention/kernel_call.h"
#include "ops/paged_attention/kv_update.h"
#include "ops/paged_attention/ragged.h"

enum { Q, K, VAL, SINKS };
enum { FACTORS = 2, SPILLED = 6, SLACK = 4 << 20, LANES = 128 };
enum { LEAST_KEYS = 128, SHORT_KEYS = 256, TILES_KEYS = 512, FEW_QUERIES = 32 };

static int64_t blocks_of(const ragged *r) { return r->buffers * r->block * (int64_t)dtype_bytes(r->kv.type, (size_t)(r->kv.rows * r->kv.lanes)) + ragged_scales_bytes(r); }

/* VMEM that decode takes: blocks, queries and results (twice, for they are windows), and scores and weights, which do not fit in registers. */
static int64_t vmem_of(const ragged *r)
{
    const ragged_ops o = ragged_ops_of(r);
    return blocks_of(r) + 4 * 2 * r->seqs * o.ops * o.rows * o.width + SPILLED * o.ops * o.rows * r->block * o.heads + SLACK;
}

/* And tiles: blocks, a block's heads, queries and results twice, queries' heads and their sums, a chunk's scores and weights. */
static int64_t vmem_of_tiles(const ragged *r)
{
    const ragged_tiles_shape o = ragged_tiles_shape_of(r);
    int64_t heads = 2 * r->kv.heads * r->block * o.width * 2, queries = 2 * 2 * r->queries * o.q_rows * o.width * 2;
    return blocks_of(r) + 4 * ragged_scale_heads(r) * r->block + heads + queries + r->queries * r->q_heads * (2 * o.width + 4 * o.width + 2 * 4 * LANES) + 2 * SPILLED * o.rows * r->block + SLACK;
}

static int64_t vmem_most(const hlo_call *c) { return c->step->attention.chip->vmem_bytes / 8 * 7; }

/* What the policy has for attention of `tokens` queries of `seqs` sequences; false: nothing for this shape. */
static bool configured(const hlo_call *c, const ragged *r, int64_t seqs, int64_t tokens, attention_config *config)
{
    const hlo_step *s = c->step;
    const attention_choice *a = &s->attention;
    const int64_t context = s->max_pages * s->page;
    const attention_shape what = { .q_heads = (int)r->q_heads, .kv_heads = (int)r->kv.heads, .head_size = (int)r->kv.dim, .max_model_len = (int)context, .seqs = (int)seqs,
                                    .tokens = (int)tokens, .page_size = (int)s->page, .window = (int)r->window, .act = s->act, .kv = r->kv.type };
    return attention_configure(a->chip, a->policy, &what, config) == ST_OK;
}

static ragged shape_of(const hlo_call *c, const hlo_kv *kv)
{
    const hlo_step *s = c->step;
    return (ragged){ .kv = *kv, .q_heads = c->in[Q].dim[1], .seqs = s->S, .max_pages = s->max_pages, .page = s->page, .pages = c->cache.dim[0], .queries = 1,
                     .window = c->n->a.paged_attention.window, .chunk = c->n->a.paged_attention.chunk, .softcap = (float)c->n->a.paged_attention.softcap,
                     .sinks = op_has_in(c->n, SINKS), .widen = s->attention.chip->version == 4 };
}

static const char *single_refusal(const hlo_call *c, ragged *r)
{
    attention_config config;
    if (!configured(c, r, r->seqs, r->seqs, &config)) return "this shape by the attention policy";
    r->block = ragged_block(&r->kv, r->page, r->max_pages, 0, attention_kv_block_tokens(&config));
    r->buffers = config.pipeline_stages + 1;    /* those in flight, and the one that is multiplied */
    r->vmem_bytes = vmem_of(r);
    if (ragged_refusal(r)) return ragged_refusal(r);
    return r->vmem_bytes > vmem_most(c) ? "blocks that do not fit in VMEM" : NULL;
}

/* The next smaller blocks; false: there are none. */
static bool shrink(ragged *r)
{
    int64_t *of = r->block > SHORT_KEYS ? &r->block : r->queries > FEW_QUERIES ? &r->queries : r->block > LEAST_KEYS ? &r->block : &r->queries;
    if (of == &r->block && (*of / 2 % r->page || *of / 2 % LEAST_KEYS)) of = &r->queries;
    if (of == &r->queries && *of <= RAGGED_LEAST_QUERIES) return false;
    *of /= 2;
    return true;
}

/* The policy is asked about a step that is all one prompt: what is short has fewer blocks, not smaller ones. Blocks of more keys than
 * TILES_KEYS hide no more latency, and the last one of each tile is multiplied in vain for the most part. */
static const char *tiles_refusal(const hlo_call *c, ragged *r)
{
    const hlo_step *s = c->step;
    attention_config config;
    int64_t most = s->q_tile > RAGGED_LEAST_QUERIES ? s->q_tile : RAGGED_LEAST_QUERIES;
    if (!configured(c, r, 1, s->T, &config)) return "this shape by the attention policy";
    int64_t keys = attention_kv_block_tokens(&config);
    r->block = ragged_block(&r->kv, r->page, r->max_pages, 0, keys < TILES_KEYS ? keys : TILES_KEYS);
    r->buffers = config.pipeline_stages + 1;
    r->tile = s->q_tile;
    r->tiles = s->n_tiles;
    r->tokens = s->T;
    for (r->queries = RAGGED_LEAST_QUERIES; r->queries * 2 <= config.queries_per_block && r->queries * 2 <= most;) r->queries *= 2;
    while (r->chunk && r->queries > r->chunk && r->queries > RAGGED_LEAST_QUERIES) r->queries /= 2;
    while (r->block > RAGGED_MOST_BLOCK || vmem_of_tiles(r) > vmem_most(c))
        if (!shrink(r)) return "tiles that do not fit in VMEM";
    r->vmem_bytes = vmem_of_tiles(r);
    return ragged_refusal(r);
}

/* Of the kernels that this step needs. */
static const char *refusal(const hlo_call *c, ragged *single, ragged *tiles)
{
    if (c->step->act != DT_BF16) return "activations of another type than bf16";
    if (hlo_is(c->step->see)) return "images, whose tokens see what is behind them";
    const char *why = single_refusal(c, single);
    return why || c->step->decode ? why : tiles_refusal(c, tiles);
}

/* x [n, heads, ...] of queries' heads as the ops' rows, [n, ops, rows, ...], with zeros between. */
static hlo_val rows_of_heads(hlo *h, const ragged *r, hlo_val x, int64_t width)
{
    const ragged_ops o = ragged_ops_of(r);
    hlo_val zero = hlo_float(h, x.type, 0);
    const int64_t n = x.dim[0];
    x = hlo_reshape(h, x, 4, (int64_t[]){ n, r->kv.heads, o.group, x.dim[2] });
    x = hlo_pad(h, hlo_pad(h, x, 3, 0, width - x.dim[3], zero), 1, 0, o.ops * o.heads - r->kv.heads, zero);
    x = hlo_reshape(h, x, 4, (int64_t[]){ n, o.ops, o.heads * o.group, width });
    return hlo_pad(h, x, 2, 0, o.rows - o.heads * o.group, zero);
}

/* The other way: [n, heads, dim]. */
static hlo_val heads_of_rows(hlo *h, const ragged *r, hlo_val x)
{
    const ragged_ops o = ragged_ops_of(r);
    const int64_t n = x.dim[0], lane = r->kv.narrow ? r->kv.v_lane : 0;
    x = hlo_reshape(h, hlo_slice(h, x, 2, 0, o.heads * o.group), 3, (int64_t[]){ n, o.ops * o.heads * o.group, o.width });
    return hlo_slice(h, hlo_slice(h, x, 1, 0, r->q_heads), 2, lane, lane + r->kv.dim);
}

/* Factors of scores and of results, with what the cache's numbers were divided by: f32 [2]. */
static hlo_val factors(hlo_call *c)
{
    hlo *h = c->h;
    hlo_val f = hlo_floats(h, (float[]){ (float)c->n->a.paged_attention.scale, 1 }, 1, (int64_t[]){ FACTORS });
    hlo_val by[FACTORS] = { kv_scale(c, false), kv_scale(c, true) };
    if (!hlo_is(by[0])) return f;
    for (int i = 0; i < FACTORS; i++) by[i] = hlo_reshape(h, by[i], 1, (int64_t[]){ 1 });
    return hlo_bin(h, "multiply", f, hlo_concat(h, by, FACTORS, 0));
}

static hlo_val attend_single(hlo_call *c, const ragged *r, hlo_val q)
{
    hlo *h = c->h;
    const hlo_step *s = c->step;
    const int64_t table = r->seqs * r->max_pages;
    const mk_dims cache = ragged_cache_dims(r);
    hlo_val in[8];
    int n = 0;
    hlo_comment(h, "attention of one token per sequence by a kernel: %lld blocks of %lld keys", (long long)r->buffers, (long long)r->block);
    in[n++] = kernel_scalar(h, c->first_page);
    in[n++] = s->kv_lens;
    in[n++] = hlo_reshape(h, s->page_table, 1, &table);
    in[n++] = factors(c);
    in[n++] = rows_of_heads(h, r, q, r->kv.width);
    if (r->sinks) {
        hlo_val sinks = hlo_reshape(h, hlo_convert(h, c->in[SINKS], DT_F32), 3, (int64_t[]){ 1, r->q_heads, 1 });
        sinks = rows_of_heads(h, r, sinks, 1);
        in[n++] = hlo_reshape(h, sinks, 3, sinks.dim + 1);
    }
    if (hlo_is(c->cache_scales)) in[n++] = c->cache_scales;
    in[n++] = hlo_reshape(h, c->cache, cache.n, cache.v);
    hlo_val out = heads_of_rows(h, r, kernel_call(h, ragged_decode(r), in, n));
    return kernel_where(h, s->kv_lens, 0, out, hlo_full_like(h, hlo_float(h, out.type, 0), out));
}

/* [T, heads, dim], of which the rows that are no tile's are undefined. */
static hlo_val attend_tiles(hlo_call *c, const ragged *r)
{
    hlo *h = c->h;
    const hlo_step *s = c->step;
    const ragged_tiles_shape o = ragged_tiles_shape_of(r);
    const int64_t table = r->seqs * r->max_pages, lane = r->kv.narrow ? r->kv.v_lane : 0;
    const mk_dims cache = ragged_cache_dims(r);
    hlo_val in[13], zero = hlo_float(h, DT_BF16, 0);
    int n = 0;
    hlo_comment(h, "attention of longer runs by a kernel: %lld queries, %lld blocks of %lld keys", (long long)r->queries, (long long)r->buffers, (long long)r->block);
    in[n++] = kernel_scalar(h, c->first_page);
    in[n++] = kernel_scalar(h, s->tiles);
    in[n++] = s->tile_seq;
    in[n++] = s->tile_token;
    in[n++] = s->tile_pos;
    in[n++] = s->tile_len;
    in[n++] = hlo_reshape(h, s->page_table, 1, &table);
    in[n++] = factors(c);
    if (r->sinks) in[n++] = hlo_convert(h, c->in[SINKS], DT_F32);
    in[n++] = hlo_pad(h, hlo_pad(h, c->in[Q], 2, 0, o.width - r->kv.dim, zero), 1, 0, o.q_rows - r->q_heads, zero);
    if (hlo_is(c->cache_scales)) in[n++] = c->cache_scales;
    in[n++] = hlo_reshape(h, c->cache, cache.n, cache.v);
    hlo_val out = kernel_call(h, ragged_tiles(r), in, n);
    return hlo_slice(h, hlo_slice(h, out, 1, 0, r->q_heads), 2, lane, lane + r->kv.dim);
}

/* Tiles, and between them sequences with one token; padding, which is written nowhere, is 0. */
static hlo_val attend_mixed(hlo_call *c, const ragged *r, hlo_val single)
{
    hlo *h = c->h;
    const hlo_step *s = c->step;
    hlo_val tiles = attend_tiles(c, r);
    hlo_val out = kernel_where(h, s->token_seq, -1, hlo_take(h, single, s->token_seq), tiles);
    return kernel_where(h, s->write_page, 0, out, hlo_full_like(h, hlo_float(h, out.type, 0), out));
}

bool ragged_hlo(hlo_call *c, const hlo_kv *kv, hlo_val *out)
{
    const hlo_step *s = c->step;
    if (!kernel_wanted(&s->attention)) return false;
    ragged single = shape_of(c, kv), tiles = single;
    const char *why = refusal(c, &single, &tiles);
    if (why) {
        hlo_comment(c->h, "no kernel of attention for %s", why);
        return false;
    }
    if (!kv_update_hlo(c, kv)) return false;
    *out = attend_single(c, &single, s->decode ? c->in[Q] : hlo_take(c->h, c->in[Q], s->seq_token));
    if (!s->decode) *out = attend_mixed(c, &tiles, *out);
    return true;
}
