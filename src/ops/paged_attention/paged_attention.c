/* paged_attention(q [T, heads, d], k [T, kv_heads, d], v [T, kv_heads, d]?, sinks [heads]?, kv_scales [2]?) -> [T, heads, d]
 *
 * Writes the tokens' K and V into the cache at batch.slots, then attends causally: token i of a sequence sees the keys at
 * positions 0 .. its own, of these the last `window`, or those that lie in its chunk (positions p with equal p / chunk: Llama 4).
 * Query head h reads kv head h / (heads / kv_heads). A head's sink is one more score in its softmax, as it is, without a value
 * (gpt-oss); `softcap` bends the others before it (Gemma 2).
 *
 * Without v, values are the first `latent` numbers of k: multi-head latent attention (DeepSeek-V2, arXiv:2405.04434) after its
 * projections have been moved to q and to the result, -> [T, heads, latent]. k has one head then.
 *
 * kv_scales are two positive numbers, of K and of V: what is stored is divided by them, and what is read multiplied, K as a factor of
 * scores (before softcap), V of the result. So an 8-bit cache uses its range (vLLM's k_scale, v_scale). Latent: K's is both.
 *
 * On the CPU the work is cut into units: some consecutive tokens of one sequence, times a kv head with its query heads, so
 * that a part of the cache is read once for all of them. A long sequence with few queries is cut further, by parts; partial
 * results then go through memory and are merged in order in a last phase, with the same bits. */
#include <math.h>
#include <stdalign.h>
#include <string.h>

#include "ops/op.h"
#include "ops/paged_attention/attention.h"

enum { Q, K, VAL, SINKS, SCALES };

static status infer(const graph *g, const node *n, shape *out)
{
    const int64_t latent = n->a.paged_attention.latent;
    const shape *q = op_in(g, n, Q), *k = op_in(g, n, K), *v = op_has_in(n, VAL) ? op_in(g, n, VAL) : NULL;
    char a[128], b[128];
    TRY(op_need_rank(n, "q", q, 3));
    TRY(op_need_rank(n, "k", k, 3));
    if (!v != (latent > 0) || latent < 0) return err_set(ST_INTERNAL, "%s v, latent is %lld", v ? "with" : "without", (long long)latent);
    if (latent && (k->dim[1] != 1 || latent > k->dim[2] || op_has_in(n, SINKS)))
        return err_set(ST_INTERNAL, "latent attention to %lld of the numbers of %s: one head without sinks is expected", (long long)latent, shape_format(k, a, sizeof a));
    if (v && !shape_equal(k, v)) return err_set(ST_INTERNAL, "k is %s, v %s", shape_format(k, a, sizeof a), shape_format(v, b, sizeof b));
    if (q->dim[0] != DIM_T || k->dim[0] != DIM_T || q->dim[2] != k->dim[2] || q->dim[1] % k->dim[1])
        return err_set(ST_INTERNAL, "q is %s, k %s", shape_format(q, a, sizeof a), shape_format(k, b, sizeof b));
    if (n->a.paged_attention.window < 0 || n->a.paged_attention.chunk < 0) return err_set(ST_INTERNAL, "negative window or chunk");
    if (!(n->a.paged_attention.softcap >= 0)) return err_set(ST_INTERNAL, "softcap is %g, expected 0 or more", n->a.paged_attention.softcap);
    if (op_has_in(n, SINKS)) {
        const shape *s = op_in(g, n, SINKS);
        if (graph_node(g, n->in[SINKS])->op != OP_WEIGHT || s->rank != 1 || s->dim[0] != q->dim[1])
            return err_set(ST_INTERNAL, "sinks are %s, expected a weight with one number per head of q, which is %s", shape_format(s, a, sizeof a), shape_format(q, b, sizeof b));
    }
    if (op_has_in(n, SCALES)) {
        const shape *s = op_in(g, n, SCALES);
        if (graph_node(g, n->in[SCALES])->op != OP_WEIGHT || s->rank != 1 || s->dim[0] != 2)
            return err_set(ST_INTERNAL, "kv_scales are %s, expected a weight of two numbers", shape_format(s, a, sizeof a));
    }
    *out = *q;
    if (latent) out->dim[2] = latent;
    return ST_OK;
}

/* ---- ref ---- */

static int64_t first_key(const node *n, int64_t pos)
{
    int64_t window = n->a.paged_attention.window, chunk = n->a.paged_attention.chunk, of_chunk = chunk ? pos / chunk * chunk : 0;
    int64_t of_window = window && pos + 1 > window ? pos + 1 - window : 0;
    return of_window > of_chunk ? of_window : of_chunk;
}

/* The key behind the last one that token t of the batch, at `pos`, sees. */
static int64_t end_key(const batch *b, int64_t t, int64_t pos) { return b->see && b->see[t] > pos ? b->see[t] : pos + 1; }

/* The same for tokens [t0, t0 + n), the first of which is at `pos`. */
static int64_t end_keys(const batch *b, int64_t t0, int64_t n, int64_t pos)
{
    int64_t end = pos + n;
    for (int64_t i = 0; b->see && i < n; i++)
        if (b->see[t0 + i] > end) end = b->see[t0 + i];
    return end;
}

/* f: the input SCALES, if the node has one. */
static kv_scales scales_in(const node *n, const float *f)
{
    if (!op_has_in(n, SCALES)) return KV_UNSCALED;
    return (kv_scales){ f[0], n->a.paged_attention.latent ? f[0] : f[1] };
}

static kv_scales ref_scales(const ref_call *c) { return scales_in(c->n, c->in[SCALES].f); }

static void ref_write(const ref_call *c, int which, float by, float *cache)
{
    int64_t heads = c->in[which].dim[1], d = c->in[which].dim[2];
    dtype type = c->caches[c->n->a.paged_attention.cache].type;
    for (int64_t t = 0; t < c->b->n_tokens; t++)
        for (int64_t h = 0; h < heads; h++) kv_rounded(type, c->in[which].f + (t * heads + h) * d, d, by, &cache[(batch_slots(c->b, c->group)[t] * heads + h) * d]);
}

static int64_t slot_of(const ref_call *c, int s, int64_t pos)
{
    return (int64_t)batch_pages(c->b, c->group, s)[pos / c->block_size] * c->block_size + pos % c->block_size;
}

/* The score of a key, given where it is in the cache. */
static double ref_score(const ref_call *c, const float *q, const float *k, int64_t d)
{
    double score = 0, cap = c->n->a.paged_attention.softcap;
    for (int64_t i = 0; i < d; i++) score += (double)q[i] * k[i];
    score *= c->n->a.paged_attention.scale * (double)ref_scales(c).k;
    return cap > 0 ? cap * tanh(score / cap) : score;
}

static void ref_query(const ref_call *c, int s, int64_t t, int64_t pos, int64_t h)
{
    const ref_cache *cache = &c->caches[c->n->a.paged_attention.cache];
    int64_t heads = c->in[Q].dim[1], kv_heads = c->in[K].dim[1], d = c->in[Q].dim[2], kh = h / (heads / kv_heads);
    const float *q = c->in[Q].f + (t * heads + h) * d;
    int64_t dv = c->out.dim[2];
    float *out = c->out.f + (t * heads + h) * dv;
    const float *values = c->n->a.paged_attention.latent ? cache->k : cache->v;
    bool sinks = op_has_in(c->n, SINKS);
    double max = sinks ? c->in[SINKS].f[h] : -INFINITY, sum = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t j = first_key(c->n, pos); j < end_key(c->b, t, pos); j++) {
            double score = ref_score(c, q, cache->k + (slot_of(c, s, j) * kv_heads + kh) * d, d);
            if (pass == 0) max = score > max ? score : max;
            else sum += exp(score - max);
        }
    if (sinks) sum += exp(c->in[SINKS].f[h] - max);
    for (int64_t i = 0; i < dv; i++) {
        double value = 0;
        for (int64_t j = first_key(c->n, pos); j < end_key(c->b, t, pos); j++) {
            int64_t at = (slot_of(c, s, j) * kv_heads + kh) * d;
            value += exp(ref_score(c, q, cache->k + at, d) - max) / sum * values[at + i];
        }
        out[i] = (float)(value * (double)ref_scales(c).v);
    }
}

static void ref(const ref_call *c)
{
    const ref_cache *cache = &c->caches[c->n->a.paged_attention.cache];
    ref_write(c, K, ref_scales(c).k, cache->k);
    if (!c->n->a.paged_attention.latent) ref_write(c, VAL, ref_scales(c).v, cache->v);
    for (int s = 0; s < c->b->n_seqs; s++)
        for (int64_t t = c->b->cu_q_lens[s]; t < c->b->cu_q_lens[s + 1]; t++)
            for (int64_t h = 0; h < c->in[Q].dim[1]; h++)
                ref_query(c, s, t, c->b->kv_lens[s] - c->b->cu_q_lens[s + 1] + t, h);
}

/* ---- planning the work ---- */

/* Parts [p0, p1) of tokens [t0, t0 + n) of a sequence. partial >= 0: results go to memory, from this float on. */
typedef struct unit { int seq, t0, n, p0, p1, first_part; int64_t partial; } unit;

typedef struct plan {
    int n_units, n_splits, cap_units;
    int64_t n_partial, cap_partial;   /* floats */
    unit *units;                      /* [cap_units] */
    unit *splits;                     /* [cap_units] blocks whose parts must be merged */
    float *partial;
} plan;

/* How query heads of one kv head are cut into items of at most ATTN_ROWS rows. */
typedef struct heads { int64_t kv, group, per_item, items_per_kv, items, d, dv, dp; } heads;   /* d: of q and k; dv: of v; dp: dv rounded up to 16 */

static heads heads_of(int64_t n_heads, int64_t n_kv, int64_t d, int64_t dv)
{
    heads h = { .kv = n_kv, .group = n_heads / n_kv, .d = d, .dv = dv, .dp = (dv + 15) / 16 * 16 };
    h.per_item = h.group < ATTN_ROWS ? h.group : ATTN_ROWS;
    h.items_per_kv = (h.group + h.per_item - 1) / h.per_item;
    h.items = h.items_per_kv * n_kv;
    return h;
}

static int block_tokens(const heads *h) { return h->per_item >= ATTN_ROWS ? 1 : (int)(ATTN_ROWS / h->per_item); }
static int64_t row_floats(const heads *h) { return h->dp + 16; }   /* acc, m, l; a multiple of a cache line */

static void part_range(const node *n, int64_t pos0, int64_t pos1, int *p0, int *p1)
{
    *p0 = (int)(first_key(n, pos0) / ATTN_PART);
    *p1 = (int)(pos1 / ATTN_PART) + 1;
}

static void add_block(plan *p, const heads *h, unit u, int64_t share)
{
    int64_t rows = u.n * h->per_item, parts = u.p1 - u.p0, chunk = share / rows < 2 ? 2 : share / rows;
    int64_t floats_needed = parts * h->items * rows * row_floats(h), n_chunks = (parts + chunk - 1) / chunk;
    bool split = share > 0 && parts * rows > share && n_chunks > 1 && p->n_partial + floats_needed <= p->cap_partial &&
                 p->n_units + n_chunks < p->cap_units / 2;
    if (!split) {
        u.partial = -1;
        p->units[p->n_units++] = u;
        return;
    }
    u.partial = p->n_partial;
    p->n_partial += floats_needed;
    p->splits[p->n_splits++] = u;
    for (int64_t at = u.p0; at < u.p1; at += chunk) {
        unit c = u;
        c.p0 = (int)at;
        c.p1 = at + chunk < u.p1 ? (int)(at + chunk) : u.p1;
        p->units[p->n_units++] = c;
    }
}

/* One sequence's blocks of tokens, last first: they see most keys, and big pieces should start early. */
static void plan_seq(plan *p, const cpu_call *c, const heads *h, int s, int64_t share, int64_t *cost)
{
    const batch *b = c->b;
    int q0 = b->cu_q_lens[s], q1 = b->cu_q_lens[s + 1], step = block_tokens(h);
    for (int t1 = q1; t1 > q0; t1 -= step) {
        int t0 = t1 - step > q0 ? t1 - step : q0;
        unit u = { .seq = s, .t0 = t0, .n = t1 - t0 };
        int64_t base = (int64_t)b->kv_lens[s] - q1;
        part_range(c->n, base + t0, end_keys(b, t0, t1 - t0, base + t0) - 1, &u.p0, &u.p1);
        u.first_part = u.p0;
        if (cost) *cost += (int64_t)(u.p1 - u.p0) * u.n * h->per_item * h->items;
        else add_block(p, h, u, share);
    }
}

static size_t plan_units(const op_limits *l, const heads *h)
{
    return (size_t)(2 * (l->max_seqs + l->max_tokens / block_tokens(h)) + 16 * l->n_threads + 64);
}

static void plan_layout(plan *p, void *state, size_t bytes, size_t cap_units)
{
    char *at = (char *)state + 128;
    p->cap_units = (int)cap_units;
    p->units = (unit *)(void *)at;
    p->splits = p->units + cap_units;
    size_t used = (size_t)((char *)(p->splits + cap_units) - (char *)state);
    used = (used + 63) / 64 * 64;
    p->partial = (float *)(void *)((char *)state + used);
    p->cap_partial = (int64_t)((bytes - used) / sizeof(float));
    p->n_units = p->n_splits = 0;
    p->n_partial = 0;
}

static void make_plan(const cpu_call *c, const heads *h)
{
    plan *p = c->state;
    plan_layout(p, c->state, c->state_bytes, plan_units(c->limits, h));
    int64_t cost = 0, share = 0;
    if (c->limits->n_threads > 1) {
        for (int s = 0; s < c->b->n_seqs; s++) plan_seq(p, c, h, s, 0, &cost);
        share = cost / (4 * c->limits->n_threads) + 1;
    }
    for (int s = 0; s < c->b->n_seqs; s++) plan_seq(p, c, h, s, share, NULL);
}

static kv_scales scales_of(const cpu_call *c) { return scales_in(c->n, c->in[SCALES].f); }

static void write_token(const cpu_call *c, int64_t t, int64_t head)
{
    int64_t at = head * c->kv->dim;
    const float *v = c->kv->latent ? NULL : c->in[VAL].f + t * c->in[VAL].ld + at;
    kv_store(c->kv, batch_slots(c->b, c->kv->group)[t], head, c->in[K].f + t * c->in[K].ld + at, v, scales_of(c));
}

/* ---- one unit ---- */

typedef struct work {
    alignas(64) float m[ATTN_ROWS], l[ATTN_ROWS];
    int lo[ATTN_ROWS], hi[ATTN_ROWS];
    bool empty[ATTN_ROWS];
    float *q, *s, *acc, *k_copy, *v_copy, *ks_copy, *vs_copy;
} work;

static size_t work_layout(work *w, const heads *h, char *base)
{
    size_t at = (sizeof(work) + 63) / 64 * 64, pad = (size_t)((h->d > h->dp ? h->d + 15 : h->dp) / 16 * 16) * sizeof(float);
    float **fields[] = { &w->q, &w->s, &w->acc, &w->k_copy, &w->v_copy, &w->ks_copy, &w->vs_copy };
    size_t sizes[] = { ATTN_ROWS * pad, ATTN_ROWS * ATTN_PART * sizeof(float), ATTN_ROWS * pad, ATTN_PART * pad, ATTN_PART * pad,
                       ATTN_PART * sizeof(float), ATTN_PART * sizeof(float) };
    for (int i = 0; i < 7; i++) {
        if (base) *fields[i] = (float *)(void *)(base + at);
        at += sizes[i];
    }
    return at;
}

static const attn_kernels *kernels_of(const cpu_call *c)
{
    static const attn_kernels *const table[ISA_COUNT] = OP_CPU_EACH(&attn);
#if defined(__x86_64__)
    if (c->isa == ISA_avx512_bf16 && c->limits->act == DT_BF16 && c->kv->type == DT_BF16 && !c->kv->latent) return &attn_dot_avx512bf16;
#endif
    return table[c->isa];
}

/* A number as kernels read it (attn_raw). */
static float raw_number(dtype type, const void *p)
{
    float x;
    if (type == DT_F8E4M3) {
        unsigned b = *(const uint8_t *)p;
        return f16_to_f32((uint16_t)((b & 0x80) << 8 | (b & 0x7F) << 7));
    }
    dtype_to_f32(type, p, &x, 1);
    return x;
}

/* Many rows use a number of the cache often enough for it to become float32, or half of a pair, once, in memory. */
enum { WIDE_ROWS = 24 };

/* 16 keys from `pos` on, where a block holds whole groups of 16. */
static void point_at_block(const kv_layer *kv, attn_tile *t, int g, const int32_t *pages, int64_t kh, int64_t pos)
{
    size_t size = dtype_bytes(kv->type, 1);
    int64_t bs = kv->block_size, off = pos % bs;
    char *block = kv_block(kv, pages[pos / bs]);
    t->k[g] = block + (size_t)(kh * kv->dim * bs + off) * size;
    if (g >= ATTN_GROUPS) return;
    t->v[g] = block + kv_k_bytes(kv) + (size_t)((kh * bs + off) * kv->dim_pad) * size;
    if (!t->scaled) return;
    t->ks[g] = kv_k_scales(kv, block) + kh * bs + off;
    t->vs[g] = kv_v_scales(kv, block) + kh * bs + off;
}

/* The same keys as float32 or pairs, which has the same bits in the end. */
static void widen_group(const attn_kernels *kern, const kv_layer *kv, attn_tile *t, work *w, int g)
{
    float *k = w->k_copy + g * 16 * kv->dim, *v = w->v_copy + g * 16 * kv->dim_pad;
    if (kern->pairs) {
        kern->pairs->keys(t->k[g], kv->block_size, kv->dim, k);
        kern->pairs->values(t->v[g], kv->dim_pad, kv->dim_pad, v);
    } else {
        kern->widen(kv->type, t->k[g], kv->block_size, kv->dim, 16, k, 16);
        kern->widen(kv->type, t->v[g], kv->dim_pad, 16, kv->dim_pad, v, kv->dim_pad);
    }
    t->k[g] = k;
    t->v[g] = v;
}

/* 16 keys of a latent layer, or the n there are: rows of numbers become float32 where they are not, which are the values, and
 * columns, which are the keys. */
static void latent_group(const attn_kernels *kern, const kv_layer *kv, attn_tile *t, work *w, int g, const int32_t *pages, int64_t pos, int64_t n)
{
    size_t size = dtype_bytes(kv->type, 1);
    int64_t bs = kv->block_size;
    float *k = w->k_copy + g * 16 * kv->dim, *v = w->v_copy + g * 16 * kv->dim_pad;
    t->k[g] = k;
    t->v[g] = v;
    t->ks[g] = t->vs[g] = w->ks_copy + g * 16;
    for (int64_t j = 0; j < n; j++) {
        char *block = kv_block(kv, pages[(pos + j) / bs]);
        int64_t off = (pos + j) % bs;
        float *row = v + j * kv->dim_pad;
        kern->widen(kv->type, block + (size_t)(off * kv->dim_pad) * size, 0, 1, kv->dim_pad, row, 0);
        for (int64_t i = 0; i < kv->dim; i++) k[i * 16 + j] = row[i];
        if (t->scaled) w->ks_copy[g * 16 + j] = kv_k_scales(kv, block)[off];
    }
}

/* n keys of any place, one by one, as pairs. What is not there is garbage that no row sees. */
static void gather_pairs(const kv_layer *kv, attn_tile *t, work *w, int g, const int32_t *pages, int64_t kh, int64_t pos, int64_t n)
{
    int64_t bs = kv->block_size, half = (kv->dim + 1) / 2;
    uint16_t *k = (uint16_t *)(void *)(w->k_copy + g * 16 * half), *v = (uint16_t *)(void *)(w->v_copy + g * 8 * kv->dim_pad);
    t->k[g] = k;
    t->v[g] = v;
    for (int64_t j = 0; j < n; j++) {
        const char *block = kv_block(kv, pages[(pos + j) / bs]);
        int64_t off = (pos + j) % bs;
        const uint16_t *from = (const uint16_t *)(const void *)block + kh * kv->dim * bs + off;
        for (int64_t i = 0; i < 2 * half; i++) k[(i / 2 * 16 + j) * 2 + i % 2] = i < kv->dim ? from[i * bs] : 0;
        from = (const uint16_t *)(const void *)(block + kv_k_bytes(kv)) + (kh * bs + off) * kv->dim_pad;
        for (int64_t i = 0; i < kv->dim_pad; i++) v[(j / 2 * kv->dim_pad + i) * 2 + j % 2] = from[i];
    }
}

/* n keys of any place, one by one. */
static void gather_group(const attn_kernels *kern, const kv_layer *kv, attn_tile *t, work *w, int g, const int32_t *pages, int64_t kh, int64_t pos, int64_t n)
{
    size_t size = dtype_bytes(kv->type, 1);
    int64_t bs = kv->block_size;
    t->k[g] = w->k_copy + g * 16 * kv->dim;
    t->v[g] = w->v_copy + g * 16 * kv->dim_pad;
    t->ks[g] = w->ks_copy + g * 16;
    t->vs[g] = w->vs_copy + g * 16;
    for (int64_t j = 0; j < n; j++) {
        char *block = kv_block(kv, pages[(pos + j) / bs]);
        int64_t off = (pos + j) % bs;
        kern->widen(kv->type, block + kv_k_bytes(kv) + (size_t)((kh * bs + off) * kv->dim_pad) * size, 0, 1, kv->dim_pad, w->v_copy + (g * 16 + j) * kv->dim_pad, 0);
        for (int64_t i = 0; i < kv->dim; i++)
            w->k_copy[(g * kv->dim + i) * 16 + j] = raw_number(kv->type, block + (size_t)((kh * kv->dim + i) * bs + off) * size);
        if (!t->scaled) continue;
        w->ks_copy[g * 16 + j] = kv_k_scales(kv, block)[kh * bs + off];
        w->vs_copy[g * 16 + j] = kv_v_scales(kv, block)[kh * bs + off];
    }
}

/* Points the tile at 16-key groups of part p, keys below `end`: straight into the cache where a block holds whole groups and
 * rows are few, else at a copy in float32. */
static void point_at_keys(const cpu_call *c, const attn_kernels *kern, attn_tile *t, work *w, int seq, int64_t kh, int part, int64_t end, bool cold)
{
    const kv_layer *kv = c->kv;
    const int32_t *pages = batch_pages(c->b, kv->group, seq);
    int64_t key0 = (int64_t)part * ATTN_PART;
    bool groups = kv->block_size % 16 == 0 && !kv->latent, direct = groups && (t->rows < WIDE_ROWS || kv->type == DT_F32);
    t->type = direct ? kv->type : DT_F32;
    t->pairs = kern->pairs && !direct;
    t->scaled = kv_type_scaled(kv->type);
    t->k_ld = direct ? kv->block_size : 16;
    t->prefetch = direct && t->rows <= 16;
    t->cold = t->prefetch && cold;
    t->v_ld = kv->dim_pad;
    for (int g = 0; g < 2 * ATTN_GROUPS; g++) {
        int64_t pos = key0 + g * 16;
        if (pos >= end || (g >= ATTN_GROUPS && !t->prefetch)) {
            t->k[g] = NULL;
            continue;
        }
        if (kv->latent) {
            latent_group(kern, kv, t, w, g, pages, pos, end - pos < 16 ? end - pos : 16);
            continue;
        }
        if (!groups && kern->pairs) {
            gather_pairs(kv, t, w, g, pages, kh, pos, end - pos < 16 ? end - pos : 16);
            continue;
        }
        if (!groups) {
            gather_group(kern, kv, t, w, g, pages, kh, pos, end - pos < 16 ? end - pos : 16);
            continue;
        }
        point_at_block(kv, t, g, pages, kh, pos);
        if (!direct) widen_group(kern, kv, t, w, g);
    }
}

/* Where row r of item `item` of part p keeps its partial result: acc[dp], m, l. */
static float *partial_row(const plan *p, const heads *h, const unit *u, int part, int64_t item, int64_t rows, int64_t r)
{
    return p->partial + u->partial + (((part - u->first_part) * h->items + item) * rows + r) * row_floats(h);
}

/* What the rows see of a part: row r is head r % n_heads of token u->t0 + r / n_heads. */
static void set_ranges(const cpu_call *c, const unit *u, int64_t n_heads, int part, work *w)
{
    int64_t base = (int64_t)c->b->kv_lens[u->seq] - c->b->cu_q_lens[u->seq + 1], key0 = (int64_t)part * ATTN_PART;
    for (int i = 0; i < u->n; i++) {
        int64_t pos = base + u->t0 + i, lo = first_key(c->n, pos) - key0, hi = end_key(c->b, u->t0 + i, pos) - key0;
        lo = lo < 0 ? 0 : lo > ATTN_PART ? ATTN_PART : lo;
        hi = hi < 0 ? 0 : hi > ATTN_PART ? ATTN_PART : hi;
        for (int64_t r = 0; r < n_heads; r++) {
            w->lo[i * n_heads + r] = (int)lo;
            w->hi[i * n_heads + r] = (int)hi;
        }
    }
}

/* Rows before any key: nothing, or the head's sink, which weighs 1 and has no value. */
static void start_rows(const cpu_call *c, const heads *h, work *w, int64_t h0, int64_t n_heads, int64_t rows, bool sinks)
{
    for (int64_t r = 0; r < rows; r++) {
        w->empty[r] = !sinks;
        if (!sinks) continue;
        w->m[r] = c->in[SINKS].f[h0 + r % n_heads];
        w->l[r] = 1;
        memset(w->acc + r * h->dp, 0, (size_t)h->dp * sizeof(float));
    }
}

static void run_unit(const cpu_call *c, const heads *h, const unit *u, int64_t item, void *scratch)
{
    work *w = scratch;
    work_layout(w, h, scratch);
    const attn_kernels *kern = kernels_of(c);
    const plan *p = c->state;
    int64_t kh = item / h->items_per_kv, h0 = kh * h->group + item % h->items_per_kv * h->per_item;
    int64_t n_heads = (kh + 1) * h->group - h0 < h->per_item ? (kh + 1) * h->group - h0 : h->per_item, rows = u->n * n_heads;
    for (int64_t r = 0; r < rows; r++) {
        const float *q = c->in[Q].f + (u->t0 + r / n_heads) * c->in[Q].ld + (h0 + r % n_heads) * h->d;
        if (kern->pairs) kern->pairs->query(q, h->d, w->q + r * h->d);
        else memcpy(w->q + r * h->d, q, (size_t)h->d * sizeof(float));
    }
    start_rows(c, h, w, h0, n_heads, rows, u->partial < 0 && op_has_in(c->n, SINKS));
    const kv_scales by = scales_of(c);
    attn_tile t = { .rows = (int)rows, .d = h->d, .dp = h->dp, .scale = (float)c->n->a.paged_attention.scale * attn_raw(c->kv->type) * by.k,
                    .softcap = (float)c->n->a.paged_attention.softcap, .v_scale = attn_raw(c->kv->type) * by.v, .q = w->q, .lo = w->lo, .hi = w->hi, .s = w->s, .state = { w->m, w->l, w->acc, h->dp }, .empty = w->empty };
    int64_t end = end_keys(c->b, u->t0, u->n, (int64_t)c->b->kv_lens[u->seq] - c->b->cu_q_lens[u->seq + 1] + u->t0);
    for (int part = u->p0; part < u->p1; part++) {
        int64_t next = (int64_t)(part + 1) * ATTN_PART;   /* the last part does not fetch what another unit reads */
        set_ranges(c, u, n_heads, part, w);
        point_at_keys(c, kern, &t, w, u->seq, kh, part, part + 1 < u->p1 || end < next ? end : next, part == u->p0);
        kern->part(&t);
        for (int64_t r = 0; r < rows; r++) {
            if (w->hi[r] <= w->lo[r]) continue;
            if (u->partial < 0) {
                w->empty[r] = false;
                continue;
            }
            float *to = partial_row(p, h, u, part, item, rows, r);
            memcpy(to, w->acc + r * h->dp, (size_t)h->dp * sizeof(float));
            to[h->dp] = w->m[r];
            to[h->dp + 1] = w->l[r];
        }
    }
    for (int64_t r = 0; r < rows && u->partial < 0; r++)
        kern->finish(w->acc + r * h->dp, w->l[r], c->out.f + (u->t0 + r / n_heads) * c->out.ld + (h0 + r % n_heads) * h->dv, h->dv);
}

static void merge_unit(const cpu_call *c, const heads *h, const unit *u, int64_t item, void *scratch)
{
    work *w = scratch;
    work_layout(w, h, scratch);
    const attn_kernels *kern = kernels_of(c);
    int64_t kh = item / h->items_per_kv, h0 = kh * h->group + item % h->items_per_kv * h->per_item;
    int64_t n_heads = (kh + 1) * h->group - h0 < h->per_item ? (kh + 1) * h->group - h0 : h->per_item, rows = u->n * n_heads;
    float *acc = w->acc;
    start_rows(c, h, w, h0, n_heads, rows, op_has_in(c->n, SINKS));
    for (int part = u->p0; part < u->p1; part++) {
        set_ranges(c, u, n_heads, part, w);
        for (int64_t r = 0; r < rows; r++) {
            if (w->hi[r] <= w->lo[r]) continue;
            const float *from = partial_row(c->state, h, u, part, item, rows, r);
            if (w->empty[r]) {
                memcpy(acc + r * h->dp, from, (size_t)h->dp * sizeof(float));
                w->m[r] = from[h->dp];
                w->l[r] = from[h->dp + 1];
                w->empty[r] = false;
            } else {
                kern->merge(&w->m[r], &w->l[r], acc + r * h->dp, from[h->dp], from[h->dp + 1], from, h->dp);
            }
        }
    }
    for (int64_t r = 0; r < rows; r++)
        kern->finish(acc + r * h->dp, w->l[r], c->out.f + (u->t0 + r / n_heads) * c->out.ld + (h0 + r % n_heads) * h->dv, h->dv);
}

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    heads h = heads_of(c->n->s.dim[1], c->kv->heads, c->kv->dim, c->n->s.dim[2]);
    const plan *p = c->state;
    int64_t from, to;
    if (phase == 0) {
        if (t->id == 0) make_plan(c, &h);
        while (cpu_take(c, 0, (int64_t)c->b->n_tokens * h.kv, h.kv < 4 ? 4 : h.kv, &from, &to))
            for (int64_t i = from; i < to; i++) write_token(c, i / h.kv, i % h.kv);
    } else if (phase == 1) {
        while (cpu_take(c, 1, p->n_units * h.items, 1, &from, &to)) run_unit(c, &h, &p->units[from / h.items], from % h.items, t->scratch);
    } else {
        while (cpu_take(c, 2, p->n_splits * h.items, 1, &from, &to)) merge_unit(c, &h, &p->splits[from / h.items], from % h.items, t->scratch);
    }
}

/* Without cut units there is nothing to merge. */
static bool skip_phase(const cpu_call *c, int phase) { return phase == 2 && ((const plan *)c->state)->n_splits == 0; }

static void needs(const graph *g, const node *n, const op_limits *l, op_needs *out)
{
    const shape *q = op_in(g, n, Q), *k = op_in(g, n, K);
    heads h = heads_of(q->dim[1], k->dim[1], q->dim[2], n->s.dim[2]);
    work w;
    out->scratch_bytes = work_layout(&w, &h, NULL);
    /* Room to cut one sequence per thread at full length; more than that runs uncut, which gives the same bits. */
    int64_t parts = l->max_model_len / ATTN_PART + 1, seqs = l->n_threads < l->max_seqs ? l->n_threads : l->max_seqs;
    int64_t one = parts * h.items * h.per_item * row_floats(&h) * (int64_t)sizeof(float), most = (int64_t)64 << 20;
    int64_t partial = l->n_threads < 2 ? 0 : one * seqs < most ? one * seqs : one > most ? one : most;
    out->state_bytes = 128 + 2 * plan_units(l, &h) * sizeof(unit) + 64 + (size_t)partial;
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    const shape *q = op_in(g, n, Q), *k = op_in(g, n, K);
    double width = (double)shape_cols(q), out_width = (double)shape_cols(&n->s), kv_width = (double)shape_cols(k);
    out->flops += 2 * s->kv_read * (width + out_width);
    out->activation_bytes += 4 * s->tokens * (width + out_width);
    out->kv_bytes += (n->a.paged_attention.latent ? 1 : 2) * (s->tokens + s->kv_read) * kv_width;   /* elements; the device knows their size */
}

static tensor build_case(graph *g, int i, dtype type)
{
    static const struct { int64_t heads, kv, d, window, chunk; double softcap; bool sinks; int64_t latent; bool scales; } cases[] = {
        { 1, 1, 8, 0, 0, 0, false, 0, false }, { 4, 2, 16, 0, 0, 0, false, 0, false }, { 8, 2, 64, 0, 0, 0, false, 0, false }, { 4, 1, 128, 0, 0, 0, false, 0, false },
        { 3, 3, 20, 5, 0, 0, false, 0, false }, { 4, 4, 80, 100, 0, 0, false, 0, false }, { 70, 1, 16, 0, 0, 0, false, 0, false }, { 14, 2, 48, 300, 0, 0, false, 0, false },
        { 4, 2, 32, 0, 7, 0, false, 0, false }, { 2, 1, 64, 0, 256, 0, false, 0, false }, { 4, 2, 16, 0, 0, 0.5, false, 0, false }, { 4, 2, 64, 9, 0, 0, true, 0, false }, { 70, 1, 16, 0, 0, 0, true, 0, false },
        { 6, 3, 20, 11, 24, 2, true, 0, false }, { 4, 1, 24, 0, 0, 0, false, 16, false }, { 70, 1, 40, 0, 0, 0, false, 33, false }, { 5, 1, 200, 13, 0, 0, false, 136, false },
        { 4, 2, 16, 0, 0, 0, false, 0, true }, { 6, 3, 20, 11, 24, 2, true, 0, true }, { 4, 1, 24, 0, 0, 0, false, 16, true } };
    if (i >= (int)(sizeof cases / sizeof *cases)) return NO_TENSOR;
    int64_t d = cases[i].d, widths[] = { cases[i].heads * d, cases[i].kv * d, cases[i].kv * d }, at = 0;
    tensor all = case_input(g, DIM_T, widths[0] + widths[1] + widths[2], AX_HEADS), in[5] = { { 0 } };
    for (int j = 0; j < (cases[i].latent ? 2 : 3); j++) {
        in[j] = graph_add(g, OP_SLICE, &all, 1, &(op_attrs){ .slice = { at, at + widths[j] } });
        in[j] = graph_add(g, OP_SPLIT_HEADS, &in[j], 1, &(op_attrs){ .split_heads = { d } });
        at += widths[j];
    }
    if (cases[i].sinks) in[SINKS] = case_weight(g, "sinks", type, cases[i].heads, 0);
    if (cases[i].scales) in[SCALES] = case_weight(g, "kv_scales", DT_F32, 2, 0);
    op_attrs a = { .paged_attention = { 0, 1 / sqrt((double)d), cases[i].window, cases[i].chunk, cases[i].softcap, cases[i].latent } };
    return graph_add(g, OP_PAGED_ATTENTION, in, 5, &a);
}

const op_impl op_paged_attention = { infer, ref, OP_CPU_ALL(cpu), paged_attention_hlo, 3, skip_phase, needs, cost, build_case };
