/* What a program takes, from the operations' own account of themselves: compilers count the body of a loop once, and all layers
 * are one loop. */
#include "cli/compile.h"
#include "ops/op.h"

enum { MOST_CONTEXT = 2048 };

int compile_assumed_context(const compile_plan *p)
{
    int half = p->c.limits.max_model_len / 2;
    return half < 1 ? 1 : half > MOST_CONTEXT ? MOST_CONTEXT : half;
}

/* What attention looks at: (query, key) pairs, and keys that come from memory. */
typedef struct reach { double pairs, keys; } reach;

/* Decode: every sequence has the assumed context. Else one sequence's tokens, the last of which ends that context (or begins at
 * 0, if there are more of them); each tile of queries reads the keys that it may see. */
static reach reach_of(const lower_bucket *b, double context, int64_t window)
{
    double t = b->tokens, w = window > 0 ? (double)window : 0;
    if (b->decode) {
        double seen = w > 0 && w < context ? w : context;
        return (reach){ t * seen, t * seen };
    }
    double len = context > t ? context : t, tile = (double)bucket_q_tile(b), pairs = t * len - t * (t - 1) / 2;
    if (w > 0 && pairs > t * w) pairs = t * w;
    double keys = pairs / tile, least = w > 0 && w + t < len ? w + t : len;
    return (reach){ pairs, keys > least ? keys : least };
}

/* Compilers compute these where their result is used or their input is made, so their rows stay out of memory. */
static bool is_fused(op o)
{
    return o == OP_RMS_NORM || o == OP_LAYER_NORM || o == OP_ROPE || o == OP_GLU || o == OP_ACT || o == OP_SCALE || o == OP_SCALE_BY_POSITION || o == OP_ADD;
}

/* Costs are stated for activations of 4 bytes. */
static void add_op(const compile_plan *p, const node *n, const program_spec *s, chip_work *out)
{
    const op_impl *impl = op_impl_of(n->op);
    if (!impl->cost) return;
    const lower_bucket *b = &s->bucket;
    double scale = (double)dtype_bits(p->c.lower.act) / 32;
    op_sizes sizes = { .tokens = b->tokens, .seqs = b->seqs, .rows = b->rows, .tp = p->on.sp ? p->on.tp : 0 };
    op_cost cost = {0};
    if (n->op == OP_PAGED_ATTENTION) {
        const lower_cache *cache = &p->c.plan->caches[p->c.plan->cache_at[n->a.kv.cache].array];
        int64_t window = n->a.paged_attention.window, chunk = n->a.paged_attention.chunk;
        reach r = reach_of(b, compile_assumed_context(p), window ? window : chunk);   /* a chunk at its fullest */
        sizes.kv_read = r.pairs;
        out->bytes += (b->tokens + r.keys) * (double)dtype_bytes(cache->kv.type, (size_t)(cache->kv.rows * cache->kv.lanes));
    }
    impl->cost(p->g, n, &sizes, &cost);
    out->flops += cost.flops;
    out->bytes += cost.weight_bytes + (is_fused(n->op) ? 0 : cost.activation_bytes * scale);
    out->link_bytes += cost.link_bytes * scale;
}

/* Logits are read once for the largest; random ones also for the sum and the choice; thresholds are found by bisection over the
 * 32 bits of a float, one reading each. A guess, and little beside a step. */
static void sampler_cost(const sampler_kind *k, chip_work *out)
{
    double logits = (double)k->rows * k->vocab, readings = 1 + (k->random ? 2 : 0) + (k->cut ? 32 : 0);
    *out = (chip_work){ .flops = 2 * logits * readings, .bytes = 4 * logits * readings };
}

void compile_cost(const compile_plan *p, const program_spec *s, chip_work *out)
{
    *out = (chip_work){0};
    if (s->sampler) {
        sampler_cost(&s->kind, out);
        return;
    }
    for (int id = 1; id <= graph_n_nodes(p->g); id++) add_op(p, graph_at(p->g, id), s, out);
}
