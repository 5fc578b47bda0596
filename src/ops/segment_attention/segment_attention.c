/* segment_attention(q [T, h, d], k [T, h, d], v [T, h, d], segments [T, 1]) scale -> [T, h, d]: attention of encoders, without a cache and
 * without a direction: a token sees every token whose segment has the same number (an image, a tile, a window of one, a stretch of sound).
 * Vaswani et al. 2017, arXiv:1706.03762.
 *
 * On the CPU tokens are put in order of segment (they usually are), and cut into blocks of rows, which with a head are a piece of work. The keys
 * of a block's segment come in parts, counted from the segment's first: each part is copied once for all rows of the block, keys by columns, and
 * attended to by the kernels of paged_attention (paged_attention/attention.h: their exactness is this operation's). So nothing of a segment's
 * result depends on what else is in the batch, on threads or on the instruction set. */
#include <math.h>
#include <stdalign.h>
#include <string.h>

#include "ops/op.h"
#include "ops/paged_attention/attention.h"

enum { Q, K, V, SEG };

static status infer(const graph *g, const node *n, shape *out)
{
    char a[128], b[128];
    const shape *q = op_in(g, n, Q), *seg = op_in(g, n, SEG);
    for (int i = Q; i <= V; i++) {
        TRY(op_need_rank(n, "q, k and v", op_in(g, n, i), 3));
        TRY(op_need_type("q, k and v", op_in(g, n, i), DT_F32));
        for (int d = 0; d < 3; d++)
            if (op_in(g, n, i)->dim[d] != q->dim[d]) return err_set(ST_INTERNAL, "q is %s, k or v %s", shape_format(q, a, sizeof a), shape_format(op_in(g, n, i), b, sizeof b));
    }
    TRY(op_need_rank(n, "segments", seg, 2));
    if (seg->dim[0] != q->dim[0] || seg->dim[1] != 1) return err_set(ST_INTERNAL, "q is %s, segments %s", shape_format(q, a, sizeof a), shape_format(seg, b, sizeof b));
    *out = *q;
    return ST_OK;
}

static void ref(const ref_call *c)
{
    const int64_t T = c->out.dim[0], H = c->out.dim[1], D = c->out.dim[2];
    const float *q = c->in[Q].f, *k = c->in[K].f, *v = c->in[V].f, *seg = c->in[SEG].f;
    for (int64_t t = 0; t < T; t++)
        for (int64_t h = 0; h < H; h++) {
            double most = -INFINITY, sum = 0;
            for (int pass = 0; pass < 2; pass++)
                for (int64_t j = 0; j < T; j++) {
                    if (seg[j] != seg[t]) continue;
                    double s = 0;
                    for (int64_t d = 0; d < D; d++) s += (double)q[(t * H + h) * D + d] * k[(j * H + h) * D + d];
                    s *= c->n->a.segment_attention.scale;
                    if (pass == 0) most = fmax(most, s);
                    else sum += exp(s - most);
                }
            for (int64_t d = 0; d < D; d++) c->out.f[(t * H + h) * D + d] = 0;
            for (int64_t j = 0; j < T; j++) {
                if (seg[j] != seg[t]) continue;
                double s = 0;
                for (int64_t d = 0; d < D; d++) s += (double)q[(t * H + h) * D + d] * k[(j * H + h) * D + d];
                s = exp(s * c->n->a.segment_attention.scale - most) / sum;
                for (int64_t d = 0; d < D; d++) c->out.f[(t * H + h) * D + d] += (float)(s * v[(j * H + h) * D + d]);
            }
        }
}

/* ---- cpu ---- */

enum { BLOCK = 4 * ATTN_ROWS };   /* rows that share a copy of the keys */

/* Of the tokens in order of segment, by place: the token, and the places [first, end) of its segment. */
typedef struct order { int32_t *token, *first, *end; } order;

static order order_of(const cpu_call *c)
{
    int32_t *at = c->state;
    return (order){ at, at + c->limits->max_tokens, at + 2 * (int64_t)c->limits->max_tokens };
}

static float segment_of(const cpu_call *c, int64_t token) { return c->in[SEG].f[token * c->in[SEG].ld]; }

/* By insertion, which does nothing where segments lie in order, as those of encoders do. */
static void put_in_order(const cpu_call *c, order o, int64_t T)
{
    for (int64_t i = 0; i < T; i++) {
        int64_t at = i;
        for (; at > 0 && segment_of(c, o.token[at - 1]) > segment_of(c, i); at--) o.token[at] = o.token[at - 1];
        o.token[at] = (int32_t)i;
    }
    for (int64_t i = 0, end; i < T; i = end) {
        for (end = i + 1; end < T && segment_of(c, o.token[end]) == segment_of(c, o.token[i]);) end++;
        for (int64_t j = i; j < end; j++) {
            o.first[j] = (int32_t)i;
            o.end[j] = (int32_t)end;
        }
    }
}

typedef struct work {
    alignas(64) float m[BLOCK], l[BLOCK];
    int lo[ATTN_ROWS], hi[ATTN_ROWS];
    bool empty[BLOCK];
    float *q, *s, *acc, *k, *v;
    uint16_t *column, *row;       /* 16 keys and values in bfloat16, on their way to pairs */
} work;

static size_t work_layout(work *w, int64_t d, int64_t dp, char *base)
{
    const size_t f = sizeof(float), wide = (size_t)dp;
    float **fields[] = { &w->q, &w->s, &w->acc, &w->k, &w->v };
    const size_t sizes[] = { BLOCK * (size_t)d * f, ATTN_ROWS * ATTN_PART * f, BLOCK * wide * f, ATTN_PART * wide * f, ATTN_PART * wide * f };
    size_t at = (sizeof(work) + 63) / 64 * 64;
    for (int i = 0; i < 5; i++) {
        if (base) *fields[i] = (float *)(void *)(base + at);
        at += (sizes[i] + 63) / 64 * 64;
    }
    if (base) {
        w->column = (uint16_t *)(void *)(base + at);
        w->row = w->column + 16 * dp;
    }
    return at + 32 * wide * sizeof(uint16_t);
}

static const attn_kernels *kernels_of(const cpu_call *c)
{
    static const attn_kernels *const table[ISA_COUNT] = OP_CPU_EACH(&attn);
#if defined(__x86_64__)
    if (c->isa == ISA_avx512_bf16 && c->limits->act == DT_BF16) return &attn_dot_avx512bf16;
#endif
    return table[c->isa];
}

typedef struct head { const cpu_call *c; const attn_kernels *kern; order o; int64_t at, d, dp; } head;   /* at: its first column */

static const float *vector_of(const head *h, int input, int64_t place)
{
    const cpu_tensor *t = &h->c->in[input];
    return t->f + h->o.token[place] * t->ld + h->at;
}

/* Keys and values of n places, at most 16, from `place` on, as the tile wants group g: keys by columns, values padded to dp. */
static void copy_group(const head *h, attn_tile *t, work *w, int g, int64_t place, int64_t n)
{
    float *k = w->k + g * 16 * h->dp, *v = w->v + g * 16 * h->dp;
    t->k[g] = k;
    t->v[g] = v;
    for (int64_t j = 0; j < n; j++) {
        const float *from = vector_of(h, K, place + j);
        for (int64_t i = 0; i < h->d; i++) k[i * 16 + j] = from[i];
        memcpy(v + j * h->dp, vector_of(h, V, place + j), (size_t)h->d * sizeof *v);
        memset(v + j * h->dp + h->d, 0, (size_t)(h->dp - h->d) * sizeof *v);
    }
}

/* The same as pairs of bfloat16; what is not there is zero. */
static void copy_pairs(const head *h, attn_tile *t, work *w, int g, int64_t place, int64_t n)
{
    float *k = w->k + g * 8 * h->dp, *v = w->v + g * 8 * h->dp;
    memset(w->column, 0, 32 * (size_t)h->dp * sizeof *w->column);
    for (int64_t j = 0; j < n; j++) {
        const float *from = vector_of(h, K, place + j);
        for (int64_t i = 0; i < h->d; i++) w->column[i * 16 + j] = f32_to_bf16(from[i]);
        from = vector_of(h, V, place + j);
        for (int64_t i = 0; i < h->d; i++) w->row[j * h->dp + i] = f32_to_bf16(from[i]);
    }
    h->kern->pairs->keys(w->column, 16, h->d, k);
    h->kern->pairs->values(w->row, h->dp, h->dp, v);
    t->k[g] = k;
    t->v[g] = v;
}

/* All rows of a block, of one segment: places [from, to). */
static void run_block(const head *h, work *w, int64_t from, int64_t to)
{
    const cpu_call *c = h->c;
    const int64_t first = h->o.first[from], n_keys = h->o.end[from] - first;
    attn_tile t = { .d = h->d, .dp = h->dp, .scale = (float)c->n->a.segment_attention.scale, .v_scale = 1, .type = DT_F32, .k_ld = 16, .v_ld = h->dp,
                    .pairs = h->kern->pairs, .lo = w->lo, .hi = w->hi, .s = w->s };
    for (int64_t r = 0; r < to - from; r++) {
        const float *q = vector_of(h, Q, from + r);
        if (h->kern->pairs) h->kern->pairs->query(q, h->d, w->q + r * h->d);
        else memcpy(w->q + r * h->d, q, (size_t)h->d * sizeof *q);
        w->empty[r] = true;
    }
    memset(w->lo, 0, sizeof w->lo);
    for (int64_t key = 0; key < n_keys; key += ATTN_PART) {
        const int64_t n = n_keys - key < ATTN_PART ? n_keys - key : ATTN_PART;
        for (int64_t j = 0; j < n; j += 16) (h->kern->pairs ? copy_pairs : copy_group)(h, &t, w, (int)(j / 16), first + key + j, n - j < 16 ? n - j : 16);
        for (int r = 0; r < ATTN_ROWS; r++) w->hi[r] = (int)n;
        for (int64_t r = 0; r < to - from; r += ATTN_ROWS) {
            t.rows = (int)(to - from - r < ATTN_ROWS ? to - from - r : ATTN_ROWS);
            t.q = w->q + r * h->d;
            t.state = (attn_state){ w->m + r, w->l + r, w->acc + r * h->dp, h->dp };
            t.empty = w->empty + r;
            h->kern->part(&t);
        }
        memset(w->empty, 0, sizeof w->empty);
    }
    for (int64_t r = 0; r < to - from; r++) h->kern->finish(w->acc + r * h->dp, w->l[r], c->out.f + h->o.token[from + r] * c->out.ld + h->at, h->d);
}

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    const int64_t H = c->n->s.dim[1], d = c->n->s.dim[2], T = c->out.rows, n_blocks = (T + BLOCK - 1) / BLOCK;
    head h = { .c = c, .kern = kernels_of(c), .o = order_of(c), .d = d, .dp = (d + 15) / 16 * 16 };
    work *w = t->scratch;
    int64_t item, end;
    if (phase == 0) {
        if (t->id == 0) put_in_order(c, h.o, T);
        return;
    }
    work_layout(w, d, h.dp, t->scratch);
    while (cpu_take(c, phase, n_blocks * H, 1, &item, &end)) {
        const int64_t stop = item / H * BLOCK + BLOCK < T ? item / H * BLOCK + BLOCK : T;
        h.at = item % H * d;
        for (int64_t from = item / H * BLOCK, to; from < stop; from = to) {
            to = h.o.end[from] < stop ? h.o.end[from] : stop;
            run_block(&h, w, from, to);
        }
    }
}

static void needs(const graph *g, const node *n, const op_limits *l, op_needs *out)
{
    const int64_t d = n->s.dim[2];
    work w;
    (void)g;
    out->scratch_bytes = work_layout(&w, d, (d + 15) / 16 * 16, NULL);
    out->state_bytes = 3 * (size_t)l->max_tokens * sizeof(int32_t);
}

static void cost(const graph *g, const node *n, const op_sizes *s, op_cost *out)
{
    (void)g;
    double tokens = op_dim(s, n->s.dim[0]), count = tokens * (double)shape_cols(&n->s);
    out->flops += 4 * tokens * count; /* as if all were one segment */
    out->activation_bytes += 16 * count;
}

static tensor build_case(graph *g, int i, dtype type)
{
    (void)type;
    static const int64_t heads[] = { 1, 3, 2 }, dims[] = { 6, 16, 80 };
    if (i >= 3) return NO_TENSOR;
    tensor in[4];
    for (int k = 0; k < 3; k++) {
        in[k] = case_input(g, DIM_T, heads[i] * dims[i], AX_HEADS);
        in[k] = graph_add(g, OP_SPLIT_HEADS, &in[k], 1, &(op_attrs){ .split_heads = { dims[i] } });
    }
    in[SEG] = case_input(g, DIM_T, 1, AX_NONE);
    return graph_add(g, OP_SEGMENT_ATTENTION, in, 4, &(op_attrs){ .segment_attention = { 1.5 / sqrt((double)dims[i]) } });
}

const op_impl op_segment_attention = { infer, ref, OP_CPU_ALL(cpu), segment_attention_hlo, 2, NULL, needs, cost, build_case };
