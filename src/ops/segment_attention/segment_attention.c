/* segment_attention(q [T, h, d], k [T, h, d], v [T, h, d], segments [T, 1]) scale -> [T, h, d]: attention of encoders, without a cache and
 * without a direction: a token sees every token whose segment has the same number (an image, a tile, a window of one, a stretch of sound).
 * Segments lie together in practice, which is what makes it fast; the definition does not need it. Vaswani et al. 2017, arXiv:1706.03762.
 *
 * Sums have a fixed order on every machine: 16 lanes, then a fixed tree; keys in token order. */
#include <math.h>
#include <string.h>

#include "ops/op.h"
#include "ops/segment_attention/segment_attention.h"

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

static segment_query_fn *const kernels[] = OP_CPU_EACH(segment_query);

static void cpu(const cpu_call *c, const cpu_thread *t, int phase)
{
    enum { GRAIN = 8 };
    const int64_t H = c->n->s.dim[1], D = c->n->s.dim[2], T = c->out.rows, ld = c->in[SEG].ld;
    const float *seg = c->in[SEG].f;
    int64_t from, to;
    while (cpu_take(c, phase, T, GRAIN, &from, &to))
        for (int64_t h = 0; h < H; h++)
            for (int64_t i = from; i < to; i++) {
                int64_t lo = 0, hi = T;
                while (seg[lo * ld] != seg[i * ld] && lo < i) lo++;
                while (seg[(hi - 1) * ld] != seg[i * ld] && hi - 1 > i) hi--;
                kernels[c->isa](&(segment_query){ .q = c->in[Q].f + i * c->in[Q].ld + h * D, .k = c->in[K].f + lo * c->in[K].ld + h * D, .v = c->in[V].f + lo * c->in[V].ld + h * D,
                                                  .seg = seg + lo * ld, .d = D, .n = hi - lo, .k_ld = c->in[K].ld, .v_ld = c->in[V].ld, .seg_ld = ld,
                                                  .scale = (float)c->n->a.segment_attention.scale, .mine = seg[i * ld], .score = t->scratch, .out = c->out.f + i * c->out.ld + h * D });
            }
}

static void needs(const graph *g, const node *n, const op_limits *l, op_needs *out)
{
    (void)g, (void)n;
    out->scratch_bytes = (size_t)(l->max_tokens + 16) * sizeof(float);
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

const op_impl op_segment_attention = { infer, ref, OP_CPU_ALL(cpu), segment_attention_hlo, 1, NULL, needs, cost, build_case };
