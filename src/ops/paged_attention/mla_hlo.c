/* Calls of the kernels that write a cache and attend to a latent one, in StableHLO programs. A cache with one row per token is
 * handed over without that dimension, [pages, page, lanes]: that is how compilers lay it out, so it is no copy. */
#include "ops/op.h"
#include "ops/paged_attention/kernel_call.h"
#include "ops/paged_attention/kv_update.h"
#include "ops/paged_attention/mla.h"
#include "ops/paged_attention/ragged.h"

enum { Q, K };
enum { MOST_LINES = 8 /* that share rows of scales */ };
/* A turn of the kernel is straight-line code: so many rows of products and scores. */
enum { HEADS = 16, LEAST_KEYS = 128, MOST_ROWS = 512, MOST_SCORES = 256 << 10, SPILLED = 6, SLACK = 4 << 20 };
enum { BUSY = 2 /* buffers of which one's scores are made and one's values are added up */ };

/* ---- writing ---- */

static kv_update update_of(const hlo_call *c, const hlo_kv *kv)
{
    return (kv_update){ .type = kv->type, .tokens = c->step->T, .pages = c->cache.dim[0], .page = c->step->page, .rows = kv->rows, .lanes = kv->lanes, .single = c->step->decode,
                         .scales = hlo_is(c->cache_scales) ? hlo_kv_scales(kv, c->step->page) : (kv_scale_shape){ 0 } };
}

/* The tokens' scales as the kernel has them: a line's numbers behind each other. */
static hlo_val update_scales(hlo_call *c, const hlo_kv *kv, const kv_update *u, const hlo_val scales[2])
{
    hlo *h = c->h;
    const mk_dims dims = kv_update_scales_dims(u);
    const int64_t lines = u->scales.lines, numbers = u->tokens * u->scales.per, width = dims.v[0] * dims.v[2], first = kv_update_scales_before(u, 0);
    hlo_val line[MOST_LINES], zero = hlo_float(h, DT_F32, 0), all = hlo_transpose(h, kv_cache_scales(c, kv, scales), (int[]){ 1, 0, 2 });
    all = hlo_reshape(h, all, 2, (int64_t[]){ lines, numbers });
    if (lines > 1 && lines <= MOST_LINES && kv_update_scales_before(u, 1) != first) {
        for (int64_t i = 0, before; i < lines; i++) {
            before = kv_update_scales_before(u, i);
            line[i] = hlo_pad(h, hlo_slice(h, all, 0, i, i + 1), 1, before, width - numbers - before, zero);
        }
        all = hlo_concat(h, line, (int)lines, 0);
    } else {
        all = hlo_pad(h, all, 1, first, width - numbers - first, zero);
    }
    return hlo_transpose(h, hlo_reshape(h, all, 3, (int64_t[]){ lines, dims.v[0], dims.v[2] }), (int[]){ 1, 0, 2 });
}

/* The rows as the kernel has them. */
static hlo_val update_rows(hlo *h, const kv_update *u, hlo_val rows)
{
    if (!kv_update_by_tile(u)) return rows;
    dtype type = kv_update_rows_type(u);
    rows = hlo_convert(h, type == DT_I32 ? hlo_bitcast(h, rows, DT_I8) : rows, type);
    if (u->single) return rows;
    hlo_val zero = type == DT_I32 ? hlo_int(h, type, 0) : hlo_float(h, type, 0);
    return hlo_pad(h, rows, 0, kv_update_tile(u), kv_update_tile(u), zero);
}

bool kv_update_hlo(hlo_call *c, const hlo_kv *kv)
{
    hlo *h = c->h;
    const kv_update u = update_of(c, kv);
    if (kv_update_refusal(&u)) return false;
    hlo_comment(h, "the step's keys and values into the cache, in place");
    const int64_t whole[] = { u.pages, u.page, u.rows, u.lanes };
    const mk_dims dims = kv_update_cache_dims(&u);
    hlo_val numbers[2], scales[2], in[7], out[2] = { { 0 }, { 0 } };
    int n = 0;
    kv_numbers(c, kv, numbers, scales);
    in[n++] = c->step->write_page;
    in[n++] = c->step->write_slot;
    in[n++] = kernel_scalar(h, c->first_page);
    in[n++] = update_rows(h, &u, kv_cache_rows(c, kv, numbers));
    if (u.scales.lines) in[n++] = update_scales(c, kv, &u, scales);
    if (u.scales.lines) in[n++] = c->cache_scales;
    in[n++] = hlo_reshape(h, c->cache, dims.n, dims.v);
    kernel_call_results(h, kv_update_kernel(&u), in, n, out);
    c->cache = hlo_reshape(h, out[0], 4, whole);
    if (u.scales.lines) c->cache_scales = out[1];
    return true;
}

/* ---- latent attention ---- */

/* Pieces of work, i32 [n] each; how many of them count. */
typedef struct items { int64_t n; hlo_val count, seq, token, pos, len; } items;

/* What the policy has for attention of `tokens` queries of `seqs` sequences; false: nothing for this shape. */
static bool configured(const hlo_call *c, const hlo_kv *kv, int64_t seqs, int64_t tokens, attention_config *config)
{
    const hlo_step *s = c->step;
    const attention_shape what = { .q_heads = (int)c->in[Q].dim[1], .kv_heads = 1, .head_size = (int)kv->dim, .latent = true, .max_model_len = (int)(s->max_pages * s->page), .seqs = (int)seqs,
                                    .tokens = (int)tokens, .page_size = (int)s->page, .act = s->act, .kv = kv->type };
    return attention_configure(s->attention.chip, s->attention.policy, &what, config) == ST_OK;
}

/* VMEM: blocks, those of 8-bit caches as bf16 too, queries and results twice, sums, and scores and weights, which do not fit in registers. */
static int64_t vmem_of(const mla *m)
{
    int64_t rows = m->queries * m->heads, n = m->buffers * m->keys * (int64_t)dtype_bytes(m->kv, (size_t)m->lanes) + SLACK;
    if (m->kv != DT_BF16) n += 2 * 2 * m->keys * m->lanes;
    return n + rows * (2 * 2 * (m->lanes + m->latent) + 2 * 4 * m->latent + (4 + SPILLED) * m->keys);
}

static void take_keys(mla *m, const hlo_kv *kv, int64_t most) { m->keys = ragged_block(kv, m->page, m->max_pages, 0, most); }

/* The kernel for sequences with one token, or for tiles; why there is none, or NULL. The blocks are the policy's as far as they fit: it takes thousands
 * of rows in a long step, and where they are cut the block has as many more keys as leaves as many scores. Heads are padded to
 * whole tiles: products of few take no less time. */
static const char *fit(const hlo_call *c, const hlo_kv *kv, bool single, mla *m)
{
    const hlo_step *s = c->step;
    attention_config config;
    const int64_t vmem = s->attention.chip->vmem_bytes / 8 * 7;
    *m = (mla){ .kv = kv->type, .heads = (c->in[Q].dim[1] + HEADS - 1) / HEADS * HEADS, .lanes = kv->lanes, .latent = c->n->a.paged_attention.latent, .tokens = s->T, .pages = c->cache.dim[0], .page = s->page,
                .seqs = s->S, .max_pages = s->max_pages, .queries = 1, .scale = (float)c->n->a.paged_attention.scale };
    if (!configured(c, kv, single ? s->S : 1, single ? s->S : s->T, &config)) return "this shape by the attention policy";
    while (!single && m->queries * 2 <= s->q_tile && m->queries * 2 <= config.queries_per_block && m->queries * 2 * m->heads <= MOST_ROWS) m->queries *= 2;
    m->items = single ? s->S : s->n_tiles * ((s->q_tile + m->queries - 1) / m->queries);
    m->buffers = config.pipeline_stages + BUSY;
    const int64_t rows = m->queries * m->heads, keys = attention_kv_block_tokens(&config), scores = single ? keys * rows : keys * config.queries_per_block * m->heads;
    take_keys(m, kv, (scores < MOST_SCORES ? scores : MOST_SCORES) / rows);
    while (vmem_of(m) > vmem && m->keys > LEAST_KEYS && m->keys / 2 % m->page == 0) take_keys(m, kv, m->keys / 2);
    m->vmem_bytes = vmem_of(m);
    return m->vmem_bytes > vmem ? "blocks that do not fit in VMEM" : mla_refusal(m);
}

/* Why there is no kernel for this layer, or NULL. */
static const char *refusal(const hlo_call *c, const hlo_kv *kv, mla *single, mla *tiles)
{
    const hlo_step *s = c->step;
    const kv_update u = update_of(c, kv);
    if (s->act != DT_BF16) return "activations of another type than bf16";
    if (hlo_is(c->cache_scales)) return "a cache with a scale for each token";
    if (c->n->a.paged_attention.window || c->n->a.paged_attention.chunk || c->n->a.paged_attention.softcap != 0 || hlo_is(s->see)) return "windows, soft caps and images";
    if (kv_update_refusal(&u)) return kv_update_refusal(&u);
    const char *why = fit(c, kv, true, single);
    return why || s->decode ? why : fit(c, kv, false, tiles);
}

/* Sequences with one token: piece s is sequence s's. */
static items single_items(hlo_call *c)
{
    hlo *h = c->h;
    const hlo_step *s = c->step;
    items x = { .n = s->S, .count = hlo_int(h, DT_I32, s->S), .seq = hlo_iota(h, DT_I32, 0, 1, &s->S) };
    x.token = s->decode ? x.seq : s->seq_token;
    x.pos = hlo_bin_scalar(h, "subtract", s->kv_lens, 1);
    x.len = hlo_bin(h, "minimum", s->kv_lens, hlo_full_like(h, hlo_int(h, DT_I32, 1), s->kv_lens));
    return x;
}

/* x [tiles] and what is added to it for each of a tile's pieces [pieces]: [tiles * pieces] */
static hlo_val spread(hlo *h, hlo_val x, hlo_val more)
{
    const int64_t dim[] = { x.dim[0], more.dim[0] }, n = dim[0] * dim[1];
    hlo_val sum = hlo_bin(h, "add", hlo_broadcast(h, x, (int[]){ 0 }, 2, dim), hlo_broadcast(h, more, (int[]){ 1 }, 2, dim));
    return hlo_reshape(h, sum, 1, &n);
}

/* Tiles in pieces of as many queries as the kernel takes. */
static items tile_items(hlo_call *c, const mla *m)
{
    hlo *h = c->h;
    const hlo_step *s = c->step;
    const int64_t pieces = m->items / s->n_tiles;
    hlo_val first = hlo_bin_scalar(h, "multiply", hlo_iota(h, DT_I32, 0, 1, &pieces), (double)m->queries), zero = hlo_full_like(h, hlo_int(h, DT_I32, 0), first);
    items x = { .n = m->items, .count = hlo_bin_scalar(h, "multiply", s->tiles, (double)pieces) };
    x.seq = spread(h, s->tile_seq, zero);
    x.token = spread(h, s->tile_token, first);
    x.pos = spread(h, s->tile_pos, first);
    hlo_val left = spread(h, s->tile_len, hlo_un(h, "negate", first));
    x.len = hlo_bin(h, "minimum", hlo_bin(h, "maximum", left, hlo_full_like(h, hlo_int(h, DT_I32, 0), left)), hlo_full_like(h, hlo_int(h, DT_I32, m->queries), left));
    return x;
}

/* [T, heads, latent], of which the rows that are no item's are undefined. q has the cache's lanes. */
static hlo_val attend(hlo_call *c, const mla *m, const items *x, hlo_val q)
{
    hlo *h = c->h;
    const int64_t table = m->seqs * m->max_pages;
    const hlo_val scale = kv_scale(c, false), factor = hlo_is(scale) ? scale : hlo_float(h, DT_F32, 1);
    const hlo_val operands[] = { kernel_scalar(h, c->first_page), kernel_scalar(h, x->count), x->seq, x->token, x->pos, x->len, hlo_reshape(h, c->step->page_table, 1, &table),
                                 hlo_full(h, factor, 1, (int64_t[]){ 1 }), q, hlo_reshape(h, c->cache, 3, (int64_t[]){ m->pages, m->page, m->lanes }) };
    return hlo_slice(h, kernel_call(h, mla_kernel(m), operands, 10), 1, 0, c->in[Q].dim[1]);
}

bool mla_hlo(hlo_call *c, const hlo_kv *kv, hlo_val *out)
{
    hlo *h = c->h;
    const hlo_step *s = c->step;
    if (!kernel_wanted(&s->attention)) return false;
    mla m, more;
    const char *why = refusal(c, kv, &m, &more);
    if (why) {
        hlo_comment(h, "no kernel of latent attention for %s", why);
        return false;
    }
    if (!kv_update_hlo(c, kv)) return false;
    hlo_val q = hlo_pad(h, c->in[Q], 2, 0, kv->lanes - kv->dim, hlo_float(h, s->act, 0));
    q = hlo_pad(h, q, 1, 0, m.heads - q.dim[1], hlo_float(h, s->act, 0));
    hlo_comment(h, "latent attention by a kernel: %lld blocks of %lld keys", (long long)m.buffers, (long long)m.keys);
    if (!s->decode) hlo_comment(h, "and of runs of tokens: %lld blocks of %lld keys, %lld queries at once", (long long)more.buffers, (long long)more.keys, (long long)more.queries);
    items x = single_items(c);
    hlo_val single = attend(c, &m, &x, q), zero = hlo_full_like(h, hlo_float(h, s->act, 0), single);
    if (s->decode) {
        *out = kernel_where(h, s->kv_lens, 0, single, zero);
        return true;
    }
    x = tile_items(c, &more);
    *out = kernel_where(h, s->write_page, 0, kernel_where(h, s->token_seq, -1, single, attend(c, &more, &x, q)), zero);
    return true;
}
