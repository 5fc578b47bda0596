/* Calls of ragged paged attention in StableHLO programs, with the blocks that the chip's attention configuration chose. */
#include "ops/op.h"
#include "ops/paged_attention/kernel_call.h"
#include "ops/paged_attention/kv_update.h"
#include "ops/paged_attention/ragged.h"

enum { Q, K, VAL, SINKS };
enum { FACTORS = 2, SPILLED = 6 };

/* VMEM that decode takes: blocks, queries and results (twice, for they are windows), and scores and weights, which do not fit in registers. */
static int64_t vmem_of(const ragged *r)
{
    const ragged_ops o = ragged_ops_of(r);
    int64_t blocks = r->buffers * r->block * (int64_t)dtype_bytes(r->kv.type, (size_t)(r->kv.rows * r->kv.lanes)), queries = 4 * 2 * r->seqs * o.ops * o.rows * o.width;
    return blocks + queries + SPILLED * o.ops * o.rows * r->block * o.heads + (4 << 20);
}

/* False: the policy has nothing for this shape. */
static bool configured(const hlo_call *c, const hlo_kv *kv, ragged *r)
{
    const hlo_step *s = c->step;
    const attention_choice *a = &s->attention;
    attention_config config;
    const int64_t context = s->max_pages * s->page;
    const attention_shape what = { .q_heads = (int)r->q_heads, .kv_heads = (int)kv->heads, .head_size = (int)kv->dim, .max_model_len = (int)context, .seqs = (int)s->S,
                                    .tokens = (int)(s->decode ? s->S : s->T), .page_size = (int)s->page, .window = (int)r->window, .act = s->act, .kv = kv->type };
    if (attention_configure(a->chip, a->policy, &what, &config) != ST_OK) return false;
    r->block = ragged_block(kv, s->page, s->max_pages, 0, attention_kv_block_tokens(&config));
    r->buffers = config.pipeline_stages + 1;    /* those in flight, and the one that is multiplied */
    r->vmem_bytes = vmem_of(r);
    return true;
}

static ragged shape_of(const hlo_call *c, const hlo_kv *kv)
{
    const hlo_step *s = c->step;
    return (ragged){ .kv = *kv, .q_heads = c->in[Q].dim[1], .seqs = s->S, .max_pages = s->max_pages, .page = s->page, .pages = c->cache.dim[0], .queries = 1,
                     .window = c->n->a.paged_attention.window, .chunk = c->n->a.paged_attention.chunk, .softcap = (float)c->n->a.paged_attention.softcap,
                     .sinks = op_has_in(c->n, SINKS), .widen = s->attention.chip->version == 4 };
}

static const char *refusal(const hlo_call *c, const hlo_kv *kv, ragged *r)
{
    if (c->step->act != DT_BF16) return "activations of another type than bf16";
    if (hlo_is(c->cache_scales)) return "a cache with a scale for each token and head";
    if (!configured(c, kv, r)) return "this shape by the attention policy";
    if (ragged_refusal(r)) return ragged_refusal(r);
    return r->vmem_bytes > c->step->attention.chip->vmem_bytes / 8 * 7 ? "blocks that do not fit in VMEM" : NULL;
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
    hlo_val in[7];
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
    in[n++] = hlo_reshape(h, c->cache, cache.n, cache.v);
    hlo_val out = heads_of_rows(h, r, kernel_call(h, ragged_decode(r), in, n));
    return kernel_where(h, s->kv_lens, 0, out, hlo_full_like(h, hlo_float(h, out.type, 0), out));
}

bool ragged_hlo(hlo_call *c, const hlo_kv *kv, hlo_val *out)
{
    if (!kernel_wanted(&c->step->attention) || !c->step->decode) return false;
    ragged r = shape_of(c, kv);
    const char *why = refusal(c, kv, &r);
    if (why) {
        hlo_comment(c->h, "no kernel of attention for %s", why);
        return false;
    }
    if (!kv_update_hlo(c, kv)) return false;
    *out = attend_single(c, &r, c->in[Q]);
    return true;
}
