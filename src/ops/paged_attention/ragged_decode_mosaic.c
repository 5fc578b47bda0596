/* Attention of one query per sequence. One loop over the blocks of all sequences: a block's pages arrive while the ones before are
 * multiplied, also across sequences.
 *
 * A token's heads lie in the rows of the cache, two (bf16) or four (8 bits) of them to a 32-bit word. Loading every n-th row of words gives a
 * matrix of the keys of two or four heads with alternating rows, and taking it apart would cost more than it saves: it is multiplied by
 * the queries of all of its heads at once, and scores of other heads are masked like keys that are not there. What
 * that wastes is arithmetic, of which decoding has plenty. The products are
 * ordered so that one op's latencies are filled by the others': all scores, all weights, all values. */
#include <math.h>
#include <string.h>

#include "ops/paged_attention/ragged_stream.h"

enum { MOST_OPS = 19, SMEM_BYTES = 768 << 10, LANES = 128 };
#define OTHER_HEAD (1 << 30)

typedef struct decode {
    mk *k;
    const ragged *r;
    ragged_stream s;
    ragged_ops o;
    mk_ref lens, factors, q, sinks, out;
    mk_val token;                   /* i32 [rows, block * heads]: a column's token, or OTHER_HEAD where it is not of the row's head */
} decode;

/* Greatest score, sum of weights [rows, 1]; weighted sum of values [rows, width]. The loop carries them as values in a row. */
typedef struct op_state { mk_val max, sum, acc; } op_state;
enum { STATE = sizeof(op_state) / sizeof(mk_val) };

const char *ragged_refusal(const ragged *r)
{
    const hlo_kv *kv = &r->kv;
    int64_t bits = (int64_t)dtype_bits(kv->type);
    if (kv->latent) return "a latent cache";
    if (kv->type != DT_BF16 && kv->type != DT_F8E4M3 && kv->type != DT_F8E5M2 && kv->type != DT_I8) return "a cache of this type";
    if (!kv->heads || r->q_heads % kv->heads) return "query heads that are no multiple of the KV heads";
    if (ragged_ops_of(r).ops > MOST_OPS) return "too many KV heads on one device";
    if (ragged_ops_of(r).width > 2 * LANES) return "heads of more than 256";
    if (kv->rows > 1 && (kv->rows % 8 || kv->v_row % (32 / bits))) return "2 to 7 rows per token";
    if (kv->rows == 1 && r->page % (bits == 8 ? 32 : 16)) return "pages of less than 16 tokens (32 of an 8-bit cache) with one row per token";
    if (r->page % 8) return "pages that are no multiple of 8 tokens";
    if (r->block % r->page || r->block % LANES) return "blocks that are no multiple of a page and of 128 keys";
    int64_t scalars = r->seqs * r->max_pages + (r->queries > 1 ? RAGGED_FIELDS * ragged_tiles_items(r) + 4 * r->tiles : RAGGED_FIELDS * r->seqs);
    if (scalars * 4 > SMEM_BYTES) return "page tables of more than 768 KiB: larger pages are smaller tables";
    const char *why = ragged_scales_refusal(r);
    return why || r->queries == 1 ? why : ragged_tiles_refusal(r);
}

static mk_val widened(const decode *d, mk_val v) { return d->r->widen && dtype_bits(v.type) == 8 ? mk_convert(d->k, v, DT_BF16) : v; }

/* ---- work: a sequence each ---- */

static void sequence(const ragged_stream *s, const void *arg, mk_val i, mk_val out[RAGGED_FIELDS])
{
    const decode *d = arg;
    out[RAGGED_ID] = out[RAGGED_SEQ] = i;
    out[RAGGED_HI] = mk_get(s->k, d->lens, MK_AT(i));
    out[RAGGED_LO] = ragged_first_key(s, out[RAGGED_HI]);
}

/* ---- a block ---- */

static mk_dims score_dims(const decode *d) { return MK_DIMS(d->o.rows, d->r->block * d->o.heads); }

static mk_val column_tokens(const decode *d)
{
    mk *k = d->k;
    const mk_dims dims = score_dims(d);
    mk_val column = mk_iota(k, 1, dims), row = mk_iota(k, 0, dims), head = mk_full(k, mk_i32(0), dims);
    int shift = d->o.heads == 4 ? 2 : d->o.heads == 2 ? 1 : 0;
    if (!shift) return column;
    for (int64_t i = 1; i <= d->o.heads; i++)       /* rows of padding are of no head */
        head = mk_add(k, head, mk_select(k, mk_cmp(k, MK_GE, row, ragged_num(i * d->o.group)), mk_full(k, mk_i32(1), dims), mk_full(k, mk_i32(0), dims)));
    mk_val same = mk_cmp(k, MK_EQ, head, mk_and(k, column, ragged_num(d->o.heads - 1)));
    return mk_select(k, same, mk_shr(k, column, mk_i32(shift)), mk_full(k, mk_i32(OTHER_HEAD), dims));
}

static mk_val op_scores(const decode *d, mk_val seq, ragged_place p, int64_t i)
{
    mk *k = d->k;
    mk_val q = mk_load(k, d->q, MK_AT(seq, ragged_num(i), mk_i32(0), mk_i32(0)), MK_DIMS(d->o.rows, d->o.width));
    mk_val s = mk_matmul(k, q, widened(d, ragged_keys(&d->s, p, ragged_whole(&d->s), i)), true, DT_F32, (mk_val){ 0 });
    return d->s.shape.lines ? mk_mul(k, s, ragged_scales(&d->s, p, ragged_whole(&d->s), i)) : s;
}

/* Scores with their factor and cap; those of keys out of sight far below all others. */
static mk_val masked(const decode *d, mk_val s, mk_val seen)
{
    mk *k = d->k;
    s = mk_mul(k, s, mk_get(k, d->factors, MK_AT(mk_i32(0))));
    if (d->r->softcap > 0) s = mk_mul(k, mk_tanh(k, mk_mul(k, s, mk_f32(1 / d->r->softcap))), mk_f32(d->r->softcap));
    return mk_select(k, seen, s, mk_full(k, mk_f32(RAGGED_NO_SCORE), score_dims(d)));
}

/* The state before an item's first block: a sink weighs 1 and has no value. */
static op_state begin(const decode *d, int64_t i, mk_val is_first, op_state old)
{
    mk *k = d->k;
    const mk_dims column = MK_DIMS(d->o.rows, 1);
    mk_val max = mk_full(k, mk_f32(RAGGED_NO_SCORE), column), sum = mk_full(k, mk_f32(d->r->sinks ? 1 : 0), column);
    if (d->r->sinks) max = mk_load(k, d->sinks, MK_AT(ragged_num(i), mk_i32(0), mk_i32(0)), column);
    mk_val acc = mk_full(k, mk_f32(0), MK_DIMS(d->o.rows, d->o.width));
    return (op_state){ mk_select(k, is_first, max, old.max), mk_select(k, is_first, sum, old.sum), mk_select(k, is_first, acc, old.acc) };
}

/* The running softmax: weights of this block's keys, with the scales of their values if there are any, and, in `keep`, what the state so far
 * still counts. */
static mk_val weights(const decode *d, mk_val s, mk_val scales, op_state *st, mk_val *keep)
{
    mk *k = d->k;
    mk_val max = mk_max(k, st->max, mk_reduce(k, MK_MAX, s, 1)), p = mk_exp(k, mk_sub(k, s, max));
    *keep = mk_exp(k, mk_sub(k, st->max, max));
    st->sum = mk_add(k, mk_mul(k, st->sum, *keep), mk_reduce(k, MK_SUM, p, 1));
    st->max = max;
    return mk_convert(k, mk_is(scales) ? mk_mul(k, p, scales) : p, DT_BF16);
}

/* Keys that the sequence sees, as columns of scores. n: of its keys, how many are in this block and those before. */
static mk_val visible(const decode *d, mk_val n, mk_val lo)
{
    mk *k = d->k;
    mk_val seen = mk_cmp(k, MK_LT, d->token, n);
    if (!d->r->window && !d->r->chunk) return seen;
    return mk_and(k, seen, mk_cmp(k, MK_GE, d->token, lo));
}

static void block(const void *arg, ragged_place p, mk_val *state)
{
    const decode *d = arg;
    mk *k = d->k;
    op_state st[MOST_OPS];
    memcpy(st, state, (size_t)d->o.ops * sizeof *st);
    mk_val scores[MOST_OPS], p_of[MOST_OPS], keep[MOST_OPS], start = mk_mul(k, p.block, ragged_num(d->r->block));
    mk_val n = mk_sub(k, ragged_field(&d->s, p.item, RAGGED_HI), start), seq = ragged_field(&d->s, p.item, RAGGED_SEQ);
    mk_val seen = visible(d, n, mk_sub(k, ragged_field(&d->s, p.item, RAGGED_LO), start)), is_first = ragged_is_first(&d->s, p);
    for (int64_t i = 0; i < d->o.ops; i++) scores[i] = op_scores(d, seq, p, i);
    for (int64_t i = 0; i < d->o.ops; i++) {
        st[i] = begin(d, i, is_first, st[i]);
        mk_val scales = d->s.shape.lines ? ragged_value_scales(&d->s, p, ragged_whole(&d->s), i, n) : (mk_val){ 0 };
        p_of[i] = weights(d, masked(d, scores[i], seen), scales, &st[i], &keep[i]);
    }
    for (int64_t i = 0; i < d->o.ops; i++) {
        mk_val v = mk_matmul(k, p_of[i], widened(d, ragged_values(&d->s, p, ragged_whole(&d->s), i, n)), false, DT_F32, (mk_val){ 0 });
        st[i].acc = mk_add(k, mk_mul(k, st[i].acc, keep[i]), v);
    }
    memcpy(state, st, (size_t)d->o.ops * sizeof *st);
    mk_if(k, ragged_is_last(&d->s, p));
    for (int64_t i = 0; i < d->o.ops; i++) {
        mk_val factor = mk_div(k, mk_full(k, mk_get(k, d->factors, MK_AT(mk_i32(1))), MK_DIMS(d->o.rows, 1)), st[i].sum);
        mk_store(k, mk_convert(k, mk_mul(k, st[i].acc, factor), DT_BF16), d->out, MK_AT(seq, ragged_num(i), mk_i32(0), mk_i32(0)));
    }
    mk_end_if(k, NULL, NULL);
}

/* ---- the whole ---- */

static void attend(decode *d)
{
    mk *k = d->k;
    mk_val state[STATE * MOST_OPS];
    ragged_list(&d->s, ragged_num(d->r->seqs), sequence, d);
    d->token = column_tokens(d);
    for (int64_t i = 0; i < d->o.ops; i++) {
        mk_val zero = mk_full(k, mk_f32(0), MK_DIMS(d->o.rows, 1));
        memcpy(state + STATE * i, &(op_state){ zero, zero, mk_full(k, mk_f32(0), MK_DIMS(d->o.rows, d->o.width)) }, sizeof(op_state));
    }
    ragged_turns(&d->s, d->s.n_blocks, block, d, state, (int)(STATE * d->o.ops));
}

mk *ragged_decode(const ragged *r)
{
    mk *k = mk_new("ragged_decode");
    const char *why = ragged_refusal(r);
    if (why) {
        mk_fail(k, "no kernel for %s", why);
        return k;
    }
    decode d = { .k = k, .r = r, .o = ragged_ops_of(r) };
    const mk_dims q = MK_DIMS(r->seqs, d.o.ops, d.o.rows, d.o.width), sinks = MK_DIMS(d.o.ops, d.o.rows, 1);
    d.s.first = mk_prefetch(k, "first_page", DT_I32, 1);
    d.lens = mk_prefetch(k, "kv_lens", DT_I32, r->seqs);
    d.s.table = mk_prefetch(k, "page_table", DT_I32, r->seqs * r->max_pages);
    d.factors = mk_prefetch(k, "factors", DT_F32, 2);
    d.q = mk_in_block(k, "q", DT_BF16, q, q, NULL, NULL);
    if (r->sinks) d.sinks = mk_in_block(k, "sinks", DT_F32, sinks, sinks, NULL, NULL);
    if (r->kv.type == DT_I8) d.s.scale_cache = mk_in(k, "scale_cache", DT_F32, ragged_scales_dims(r));
    d.s.cache = mk_in(k, "cache", r->kv.type, ragged_cache_dims(r));
    d.out = mk_out_block(k, "out", DT_BF16, q, q, NULL, NULL);
    ragged_stream_init(&d.s, k, r, r->seqs);
    attend(&d);
    double keys = (double)r->seqs * (double)(r->max_pages * r->page < 2048 ? r->max_pages * r->page : 2048);   /* not known: a guess */
    const mk_options o = { .flops = 4 * keys * (double)(r->q_heads * r->kv.dim), .transcendentals = keys * (double)r->q_heads,
                           .bytes = keys * ragged_token_bytes(r), .vmem_limit_bytes = r->vmem_bytes };
    mk_set_options(k, &o);
    return k;
}
