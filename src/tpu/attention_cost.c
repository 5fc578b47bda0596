#include "tpu/attention_cost.h"

#include <math.h>

/* ---- the model's constants ----
 * From libtpu's static profiles (0.0.52), trip counts baked in: the decode kernel (ragged_decode_mosaic.c; 64 sequences of 2048
 * tokens, 8 KV heads of 128) on v5e, v6e and v7x, in bf16 and fp8, and a flash-decode kernel of one KV head with 4 to 1024 rows. */
enum {
    LANES = 128, SUBLANES = 8,
    VECTOR_UNITS = 4,               /* operations per lane and cycle (SB, of v5p; two on v4) */
    SCORE_OPS = 13,                 /* of a score: 3.1 to 3.2 cycles per 1024 scores and unit on v6e and v7x */
    WIDEN_OPS = 2,                  /* of a stored number that is narrower than products take: 92 cycles per 262144 on v6e */
    PUSH_CYCLES = 140,              /* of a matrix unit's worth of K or V in bf16, whatever its size: 123 on v5e, 156 on v6e, 133 on v7x */
    PUSH_CYCLES_8 = 94,             /* of 8-bit numbers: 94 on v6e, 92 on v7x */
    PUSH_LATENT_CYCLES = 50,        /* of latent keys in bf16, which lie as the unit takes them: a block of 1024 with 16 heads is 1101 cycles on v6e, 1038 on v7x */
    DMA_ISSUE_CYCLES = 9,           /* of a page's copy: with pages of 16 instead of 64 tokens each copy costs 3.7 on v6e, 9.0 on v7x; what the engines take no profile knows */
    KV_BLOCK_CYCLES = 220,          /* of a block, however short, where heads fill each other's latencies */
    KV_BLOCK_LATENT_CYCLES = 600,   /* the same of one head: 555 to 715 */
    QUERY_BLOCK_CYCLES = 600,       /* a step of the grid: about 0.35 us (Pallas' documentation) */
};
static const double dma_latency_s = 1e-6;           /* from start to the last byte of a small copy */
static const double vmem_share = 0.9;

/* Of the data sheet's bandwidth, what copies reach: bytes per cycle of libtpu's static profile (491, 1250, 773 and 1670 on v5e,
 * v5p, v6e and v7x) at the chip's clock; 1360 of 1638 GB/s and 3210 of 3690 were measured on v6e and v7x
 * (AI-Hypercomputer/tpu-recipes). v3 and v4: the ratio of libtpu's cost model. */
static double hbm_share(const chip *c)
{
    switch (c->version) {
    case 3: return 0.95;
    case 4: return 0.82;
    case 5: return c->cores == 2 ? 0.79 : 0.90;
    case 6: return 0.83;
    default: return 0.87;
    }
}

static double up(double n, double to) { return ceil(n / to) * to; }
static double least(double a, double b) { return a < b ? a : b; }
static double most(double a, double b) { return a > b ? a : b; }

/* What products take: bf16 is never widened; 8-bit KV is, where the chip has no such operand. */
static bool is_widened(const chip *c, const attention_shape *s) { return dtype_bits(s->kv) < 16 && !chip_rate_of(c, s->kv).native; }

/* One layer's work, in blocks. */
typedef struct walk {
    double query_blocks, kv_blocks;     /* of all sequences */
    double pages;                       /* copied, whole */
    double rows;                        /* of one product: query tokens of a block times heads that share a KV head */
    double tokens;                      /* keys that are multiplied for a block: all of it, whether copied or not */
    double copied;                      /* pages of a block that are copied, at most */
} walk;

/* Pieces of a size that n tokens lie on, if they end anywhere on the last one (and, in a window, begin anywhere on the first). */
static double pieces(double n, double size, bool window) { return most(1, (n + (window ? 1.0 : 0.5) * (size - 1)) / size); }

/* Each sequence has tokens / seqs query tokens, the last of which ends its context. Blocks of queries see on average half of
 * their own tokens. Contexts are about as long as the shape says, not multiples of anything: half of the last page is read in vain. */
static walk walk_of(const attention_config *c, const attention_shape *s)
{
    double q = (double)s->tokens / s->seqs, len = most(s->context, q), queries = least(c->queries_per_block, q);
    double n = ceil(q / queries), seen = len - q / 2 + queries / 2;
    if (s->window > 0) seen = least(seen, s->window + queries);
    double pages = pieces(seen, c->page_size, s->window > 0), blocks = pieces(pages * c->page_size, attention_kv_block_tokens(c), false);
    return (walk){ .query_blocks = s->seqs * n, .kv_blocks = s->seqs * n * blocks, .pages = s->seqs * n * pages,
                   .rows = queries * s->q_heads / s->kv_heads, .tokens = least(attention_kv_block_tokens(c), up(s->max_model_len, c->page_size)),
                   .copied = least(c->pages_per_kv_block, pages) };
}

/* K and V are pushed into the units, rows of queries stream past tiles of them: the longer of the two. */
static double mxu_cycles(const attention_config *c, const attention_shape *s, const walk *w)
{
    const chip *k = c->chip;
    double side = k->mxu_size, cycles = s->latent ? PUSH_LATENT_CYCLES : dtype_bits(s->kv) < 16 && !is_widened(k, s) ? PUSH_CYCLES_8 : PUSH_CYCLES;
    double push = 2 * w->tokens * up(c->padded_head_size, LANES / 2) / (side * side) * cycles;
    double tiles = 2 * ceil(w->tokens / side) * ceil(c->padded_head_size / side), stream = tiles * up(w->rows, SUBLANES) / k->mxu_passes;
    return w->kv_blocks * s->kv_heads * most(push, stream) / (k->mxus * k->cores);
}

static double vector_cycles(const attention_config *c, const attention_shape *s, const walk *w)
{
    double scores = up(w->rows, SUBLANES) * up(w->tokens, LANES);
    double widened = is_widened(c->chip, s) ? 2.0 * w->tokens * up(c->padded_head_size, LANES / 2) : 0;
    double units = c->chip->version <= 4 ? VECTOR_UNITS / 2 : VECTOR_UNITS;
    return w->kv_blocks * s->kv_heads * (scores * SCORE_OPS + widened * WIDEN_OPS) / (SUBLANES * LANES * units * c->chip->cores);
}

void attention_cost_of(const attention_config *c, const attention_shape *s, attention_cost *out)
{
    const chip *k = c->chip;
    walk w = walk_of(c, s);
    double kv = w.pages * c->page_size * (double)c->kv_bytes_per_token;
    double rows = 2.0 * s->tokens * s->q_heads * (double)dtype_bytes(s->act, (size_t)c->padded_head_size);
    attention_cost r = { .kv_blocks = w.kv_blocks, .query_blocks = w.query_blocks };
    r.bytes = kv + rows + (double)s->tokens * (double)c->kv_bytes_per_token;
    double under_way = (c->pipeline_stages > 1 ? c->pipeline_stages - 1 : 1) * w.copied * c->page_size * (double)c->kv_bytes_per_token;
    double rate = least(k->hbm_bytes_per_s * hbm_share(k), k->cores * under_way / dma_latency_s);
    r.memory_s = r.bytes / rate;
    r.issue_s = w.pages * DMA_ISSUE_CYCLES / (k->clock_hz * k->cores);
    r.mxu_s = mxu_cycles(c, s, &w) / k->clock_hz;
    r.vector_s = vector_cycles(c, s, &w) / k->clock_hz;
    r.overhead_s = (w.kv_blocks * (s->latent ? KV_BLOCK_LATENT_CYCLES : KV_BLOCK_CYCLES) + w.query_blocks * QUERY_BLOCK_CYCLES) / (k->clock_hz * k->cores);
    double work = most(r.mxu_s, r.vector_s) + r.overhead_s + r.issue_s;
    r.seconds = c->pipeline_stages > 1 ? most(r.memory_s, work) : r.memory_s + work;
    *out = r;
}

/* Buffers of KV; queries and results, each twice; sums in f32, running maxima and sums, a register's lanes each; scores and
 * weights of one KV head. */
int64_t attention_vmem_of(const attention_config *c, const attention_shape *s)
{
    int64_t queries = c->queries_per_block, wide = (c->padded_head_size + LANES - 1) / LANES * LANES, rows = queries * s->q_heads;
    int64_t of_head = (queries * s->q_heads / s->kv_heads + SUBLANES - 1) / SUBLANES * SUBLANES;
    if (rows < (int64_t)SUBLANES * s->kv_heads) rows = (int64_t)SUBLANES * s->kv_heads;
    int64_t n = c->pipeline_stages * (int64_t)attention_kv_block_tokens(c) * c->kv_bytes_per_token;
    n += rows * (4 * (int64_t)dtype_bytes(s->act, (size_t)wide) + 4 * wide + 2 * 4 * LANES);
    return n + 2 * 4 * of_head * attention_kv_block_tokens(c);
}

int64_t attention_vmem_most(const chip *c) { return (int64_t)((double)c->vmem_bytes * vmem_share); }
