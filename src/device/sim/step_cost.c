#include "device/sim/step_cost.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "ops/experts/experts.h"
#include "ops/op.h"
#include "ops/paged_attention/kernel_call.h"
#include "tpu/attention_config.h"

/* Fitted by bench/calibrate_sim.py: docs/simulator.md has the figures and what they were fitted to. */
const sim_constants sim_constants_default = { .mxu = 0.55, .hbm = 0.75, .ici = 0.99, .op_s = 5.2e-6, .step_s = 1.4e-3 };

static const double DCN_HOP_S = 20e-6;  /* from host to host: a guess of the order */
static const double GRID_STEP_S = 0.35e-6;      /* a step of a kernel's grid (Pallas' documentation) */
enum { LATENT_ROWS = 512, TILE_LEAST = 16, TILE_MOST = 256 };   /* rows of products: of latent attention (mla_hlo.c); of a tile of experts (experts_hlo.c) */

/* Operations that cost the same at every load. */
typedef struct step_class {
    const node *n;              /* one of them */
    const op_impl *impl;
    int count, kind;            /* kind: of attention, else -1 */
    double kv_token_bytes;      /* of attention: keys and values of a token as the cache keeps them, padding included */
    double probe[3];            /* what tells it from others */
    dtype product;              /* what the matrix unit multiplies */
    double out_cols, in_cols;   /* sides of the matrix, 0 = none of a size that matters */
    bool fused, launched;
} step_class;

struct step_costs {
    const program_context *c;
    const graph *g;
    double act_scale;           /* costs are stated for activations of 4 bytes */
    int tp;
    bool sp;
    int n, cap, n_kinds;
    step_kind kinds[STEP_MAX_KINDS];
    const node *attention[STEP_MAX_KINDS];  /* one of each */
    step_class *v;
};

/* Compilers compute these where their result is used or their input is made, so their rows stay out of memory. */
static bool is_fused(op o)
{
    return o == OP_RMS_NORM || o == OP_LAYER_NORM || o == OP_ROPE || o == OP_GLU || o == OP_ACT || o == OP_SCALE || o == OP_SCALE_BY_POSITION || o == OP_ADD;
}

static status kind_of(step_costs *s, const node *n, int *out)
{
    const int64_t window = n->a.paged_attention.window, chunk = n->a.paged_attention.chunk;
    for (int i = 0; i < s->n_kinds; i++)
        if (s->kinds[i].window == window && s->kinds[i].chunk == chunk) {
            *out = i;
            return ST_OK;
        }
    if (s->n_kinds == STEP_MAX_KINDS) return err_set(ST_UNSUPPORTED, "attention of more than %d kinds cannot be priced", STEP_MAX_KINDS);
    s->kinds[s->n_kinds] = (step_kind){ window, chunk };
    s->attention[s->n_kinds] = n;
    *out = s->n_kinds++;
    return ST_OK;
}

static op_cost cost_of(const step_costs *s, const step_class *c, const step_load *l)
{
    op_cost x = {0};
    op_sizes sizes = { .tokens = l->tokens, .seqs = l->seqs, .rows = l->rows, .tp = s->sp ? s->tp : 0 };
    if (c->kind >= 0) sizes.kv_read = l->reach[c->kind].pairs;
    c->impl->cost(s->g, c->n, &sizes, &x);
    return x;
}

/* What a product's operands are multiplied as: quantised weights without quantised activations are widened first. */
static dtype product_type(const step_costs *s, const node *weight)
{
    if (weight->op != OP_WEIGHT || !weight->a.weight.scheme) return s->c->lower.act;
    const quant_info q = quant_describe((quant_scheme)weight->a.weight.scheme);
    if (q.int8_activations) return DT_I8;
    return q.act == QUANT_ACT_FP8 || q.act == QUANT_ACT_FP8_STATIC || q.act == QUANT_ACT_FP8_G128 ? DT_F8E4M3 : s->c->lower.act;
}

static status describe(step_costs *s, const node *n, step_class *out)
{
    *out = (step_class){ .n = n, .impl = op_impl_of(n->op), .count = 1, .kind = -1, .product = s->c->lower.act, .fused = is_fused(n->op) };
    out->launched = !out->fused && !op_is(n->op, OPF_VIEW);
    if (n->op == OP_PAGED_ATTENTION) {
        const lower_cache *cache = &s->c->plan->caches[s->c->plan->cache_at[n->a.kv.cache].array];
        out->kv_token_bytes = (double)dtype_bytes(cache->kv.type, (size_t)(cache->kv.rows * cache->kv.lanes));
        if (cache->scales >= 0) out->kv_token_bytes += (double)lower_cache_page_bytes(&s->c->plan->caches[cache->scales], s->c->lower.page) / s->c->lower.page;
        out->out_cols = (double)n->s.dim[n->s.rank - 1];    /* a head: of each of its products one side; the other one is keys */
        TRY(kind_of(s, n, &out->kind));
    } else if (n->op == OP_LINEAR) {
        const node *w = graph_node(s->g, n->in[1]);
        out->product = product_type(s, w);
        out->out_cols = (double)weight_rows(w);
        out->in_cols = (double)weight_cols(w);
    } else if (n->op == OP_EXPERTS) {
        const node *w = graph_node(s->g, n->in[EXPERTS_W_OUT]);
        out->product = product_type(s, w);
        out->out_cols = (double)weight_rows(w);
        out->in_cols = (double)weight_cols(w);
    }
    return ST_OK;
}

/* Three loads with nothing in common. */
static void probe(const step_costs *s, step_class *c)
{
    static const double sizes[3][4] = { { 1, 1, 1, 5 }, { 17, 3, 2, 7919 }, { 4096, 31, 29, 104729 } };
    for (int i = 0; i < 3; i++) {
        step_load l = { .tokens = sizes[i][0], .seqs = sizes[i][1], .rows = sizes[i][2] };
        for (int k = 0; k < STEP_MAX_KINDS; k++) l.reach[k].pairs = sizes[i][3];
        const op_cost x = cost_of(s, c, &l);
        c->probe[i] = x.flops + 3 * x.weight_bytes + 7 * x.activation_bytes + 11 * x.kv_bytes + 13 * x.link_bytes;
    }
}

static bool same(const step_class *a, const step_class *b)
{
    return a->n->op == b->n->op && a->kind == b->kind && a->kv_token_bytes == b->kv_token_bytes && a->product == b->product && a->out_cols == b->out_cols &&
           a->in_cols == b->in_cols && memcmp(a->probe, b->probe, sizeof a->probe) == 0;
}

static status add(step_costs *s, const node *n)
{
    step_class c;
    if (!op_impl_of(n->op)->cost) return ST_OK;
    TRY(describe(s, n, &c));
    probe(s, &c);
    for (int i = 0; i < s->n; i++)
        if (same(&s->v[i], &c)) {
            s->v[i].count++;
            return ST_OK;
        }
    if (s->n == s->cap) {
        step_class *more = mem_realloc_array(s->v, (size_t)s->cap * 2 + 32, sizeof *more);
        if (!more) return err_nomem();
        s->v = more;
        s->cap = s->cap * 2 + 32;
    }
    s->v[s->n++] = c;
    return ST_OK;
}

status step_costs_new(const program_context *c, step_costs **out)
{
    const graph *g = c->plan->g;
    step_costs *s = mem_calloc(1, sizeof *s);
    if (!s) return err_nomem();
    *s = (step_costs){ .c = c, .g = g, .act_scale = (double)dtype_bits(c->lower.act) / 32, .tp = graph_mesh(g).tp, .sp = graph_mesh(g).sp };
    status st = ST_OK;
    for (int id = 1; id <= graph_n_nodes(g) && st == ST_OK; id++) st = add(s, graph_at(g, id));
    if (st != ST_OK) {
        step_costs_free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

void step_costs_free(step_costs *s)
{
    if (!s) return;
    mem_free(s->v);
    mem_free(s);
}

const step_kind *step_costs_kinds(const step_costs *s, int *n)
{
    *n = s->n_kinds;
    return s->kinds;
}
int step_costs_n(const step_costs *s) { return s->n; }

/* ---- attention's tiles ---- */

double step_costs_tile(const step_costs *s, int k, const lower_bucket *b)
{
    const attention_choice *a = &s->c->limits.attention;
    const node *n = s->attention[k];
    const int64_t *q = graph_node(s->g, n->in[0])->s.dim, *kv = graph_node(s->g, n->in[1])->s.dim, tile = bucket_q_tile(b);
    if (b->decode || !kernel_wanted(a)) return (double)tile;
    if (n->a.paged_attention.latent > 0) {
        int64_t queries = 1;
        while (queries * 2 <= tile && queries * 2 * q[1] <= LATENT_ROWS) queries *= 2;
        return (double)queries;
    }
    const int64_t window = s->kinds[k].window ? s->kinds[k].window : s->kinds[k].chunk;
    const attention_shape what = { .q_heads = (int)q[1], .kv_heads = (int)kv[1], .head_size = (int)kv[2], .max_model_len = s->c->limits.max_model_len, .seqs = 1, .tokens = b->tokens,
                                   .page_size = s->c->limits.block_size, .window = window > INT32_MAX ? 0 : (int)window, .act = s->c->lower.act, .kv = s->c->limits.kv_dtype };
    attention_config c;
    if (attention_configure(a->chip, a->policy, &what, &c) != ST_OK) return (double)tile;
    return c.queries_per_block < tile ? c.queries_per_block : (double)tile;
}

/* ---- work ---- */

static void work_of(const step_costs *s, const step_class *c, const step_load *l, chip_work *out)
{
    const op_cost x = cost_of(s, c, l);
    *out = (chip_work){ .flops = x.flops, .bytes = x.weight_bytes + (c->fused ? 0 : x.activation_bytes * s->act_scale), .link_bytes = x.link_bytes * s->act_scale };
    if (c->kind >= 0) out->bytes += (l->tokens + l->reach[c->kind].keys) * c->kv_token_bytes;
}

void step_costs_work(const step_costs *s, const step_load *l, chip_work *out)
{
    *out = (chip_work){0};
    for (int i = 0; i < s->n; i++) {
        chip_work w;
        work_of(s, &s->v[i], l, &w);
        out->flops += w.flops * s->v[i].count;
        out->bytes += w.bytes * s->v[i].count;
        out->link_bytes += w.link_bytes * s->v[i].count;
    }
}

void step_sampler_work(double rows, double vocab, bool random, bool cut, chip_work *out)
{
    double logits = rows * vocab, readings = 1 + (random ? 2 : 0) + (cut ? 32 : 0);
    *out = (chip_work){ .flops = 2 * logits * readings, .bytes = 4 * logits * readings };
}

/* Query i of the n sees the keys up to its own, or those of its window or chunk. */
void step_reach_add(const step_kind *k, double n, double len, double tile, step_reach *out)
{
    double first = len - n, pairs = n * first + n * (n + 1) / 2, seen = len;
    if (k->window > 0 && len > (double)k->window) {
        double w = (double)k->window, grows = first < w ? w - first : 0;    /* queries that see less than a whole window */
        pairs = grows * first + grows * (grows + 1) / 2 + (n - grows) * w;
        seen = n + w < len ? n + w : len;
    } else if (k->chunk > 0) {
        double c = (double)k->chunk, at = first, left = n;
        pairs = seen = 0;
        while (left > 0) {
            double into = fmod(at, c), m = c - into < left ? c - into : left;
            pairs += m * into + m * (m + 1) / 2;
            seen = into + m > seen ? into + m : seen;
            at += m;
            left -= m;
        }
    }
    double keys = pairs / tile;
    out->pairs += pairs;
    out->keys += keys > seen ? keys : seen;
}

/* ---- time ---- */

int step_machine_devices(const step_machine *m) { return m->shape[0] * m->shape[1] * m->shape[2] * m->chip->devices_per_chip * m->n_slices; }

/* A side of a matrix as the matrix unit sees it. */
static double filled(double cols, int size) { return size > 0 && cols > 0 ? cols / (ceil(cols / size) * size) : 1; }

static double compute_time(const step_class *c, double flops, const step_machine *m)
{
    const double fill = filled(c->out_cols, m->chip->mxu_size) * filled(c->in_cols, m->chip->mxu_size);
    return flops / (chip_rate_of(m->chip, c->product).per_s * m->k.mxu * fill);
}

/* Tokens lie in tiles of one expert's rows each (experts_hlo.c): what fills the last ones up is multiplied too, and each tile is a
 * step of the grids of both products. *rows: how many times the rows that tokens have. */
static double expert_tiles(const step_costs *s, const step_class *c, const step_load *l, double *rows)
{
    const op_sizes sizes = { .tokens = l->tokens, .seqs = l->seqs, .rows = l->rows, .tp = s->sp ? s->tp : 0 };
    const double m = op_dim(&sizes, c->n->s.dim[0]), all = (double)graph_node(s->g, c->n->in[EXPERTS_COMBINE])->s.dim[1], k = (double)c->n->a.experts.top_k;
    const double here = (double)weight_experts(graph_node(s->g, c->n->in[EXPERTS_W_IN])), mean = m * k / all;
    double tile = TILE_LEAST;
    while (tile < TILE_MOST && tile < mean) tile *= 2;
    const double reached = here * (1 - pow(1 - k / all, m)), tiles = reached + here * fmax(0, mean / tile - 0.5);
    *rows = mean > 0 ? tiles * tile / (here * mean) : 1;
    return tiles;
}

/* Half of VMEM holds rows, the other half what streams through it. */
static double memory_time(const step_costs *s, const step_class *c, const op_cost *x, const step_load *l, const step_machine *m)
{
    const double vmem = (double)m->chip->vmem_bytes * m->chip->cores / 2, rows = c->fused ? 0 : x->activation_bytes * s->act_scale;
    double bytes = x->weight_bytes + (rows > vmem ? rows : 0);
    if (c->n->op == OP_LINEAR && vmem > 0) {
        const double input = op_dim(&(op_sizes){ .tokens = l->tokens, .rows = l->rows, .seqs = l->seqs, .tp = s->sp ? s->tp : 0 }, c->n->s.dim[0]) * c->in_cols * 4 * s->act_scale;
        const double again = ceil(input / vmem) - 1, otherwise = ceil(x->weight_bytes / vmem) - 1;  /* the other order reads the input again */
        if (again > 0) bytes += fmin(again * x->weight_bytes, otherwise > 0 ? otherwise * input : 0);
    }
    if (c->kind >= 0) bytes += (l->tokens + l->reach[c->kind].keys) * c->kv_token_bytes;
    return bytes / (m->chip->hbm_bytes_per_s * m->k.hbm);
}

static int slice_chips(const step_machine *m) { return m->shape[0] * m->shape[1] * m->shape[2]; }

/* Do the chips of the slice that hold `n` neighbouring ranks lie on a ring of links? A mesh with an even side has one through all of its
 * chips; a line has one if its axis wraps. */
static bool on_ring(const step_machine *m, int n)
{
    int longest = 0, n_axes = 0;
    for (int a = 0; a < 3; a++) {
        if (m->shape[a] < 2) continue;
        n_axes++;
        if (m->shape[a] > m->shape[longest]) longest = a;
    }
    if (n_axes >= 2) return n % 2 == 0;
    return n <= 2 || (n == slice_chips(m) && chip_axis_wraps(m->chip, m->shape, longest));
}

/* All chips of a slice whose axes close can run a part of the collective along each axis at once. */
static int ring_axes(const step_machine *m, int n)
{
    int rings = 0;
    for (int a = 0; a < 3; a++) rings += m->shape[a] > 2 && chip_axis_wraps(m->chip, m->shape, a);
    return n == slice_chips(m) && rings > 1 ? rings : 1;
}

static double link_time(const step_costs *s, const step_class *c, double bytes, const step_machine *m)
{
    if (bytes <= 0) return 0;
    const int per_chip = m->chip->devices_per_chip, in_slice = slice_chips(m) * per_chip;
    const int slices = s->tp > in_slice ? (s->tp + in_slice - 1) / in_slice : 1, ranks = s->tp / slices, chips = (ranks + per_chip - 1) / per_chip;
    const int phases = c->n->op == OP_ALL_REDUCE ? 2 : 1;
    double rate = 2 * m->chip->ici_link_bytes_per_s * m->k.ici * ring_axes(m, chips), t = 0;
    if (!on_ring(m, chips)) rate /= 2;
    /* Two devices of one chip follow each other in the ring: what crosses a link is what one of them sends. */
    if (chips > 1) t += bytes / rate + phases * ceil(chips / 2.0) * m->chip->ici_hop_s;
    /* Between slices: each chip sends its share of the sum to its like in the next slice. */
    if (slices > 1) t += bytes / ranks * per_chip / m->chip->dcn_bytes_per_s + phases * (slices - 1) * DCN_HOP_S;
    return t;
}

static void time_class(const step_costs *s, const step_class *c, const step_load *l, const step_machine *m, double *compute, double *memory, double *links)
{
    const op_cost x = cost_of(s, c, l);
    double rows = 1, tiles = 0;
    if (c->n->op == OP_EXPERTS) tiles = expert_tiles(s, c, l, &rows);
    *compute = compute_time(c, x.flops * rows, m) + 2 * tiles * GRID_STEP_S;
    *memory = memory_time(s, c, &x, l, m);
    *links = link_time(s, c, x.link_bytes * s->act_scale, m);
}

/* Of one class as priced here, times how many there are. */
static void class_time(const step_costs *s, const step_class *c, const step_load *l, const step_machine *m, step_time *out)
{
    double compute, memory, links;
    time_class(s, c, l, m, &compute, &memory, &links);
    if (compute > memory) out->compute += compute * c->count;
    else out->memory += memory * c->count;
    out->links += links * c->count;
}

static double sum_of(const step_time *t) { return t->compute + t->memory + t->links + t->launch; }

void step_costs_time(const step_costs *s, const step_load *l, const step_machine *m, step_time *out)
{
    *out = (step_time){ .launch = m->k.step_s };
    for (int i = 0; i < s->n; i++) {
        class_time(s, &s->v[i], l, m, out);
        if (s->v[i].launched) out->launch += m->k.op_s * s->v[i].count;
    }
    out->total = sum_of(out);
}

/* ---- the compiler's figures in place of ours ---- */

/* Has the compiler's figure nothing of it? */
static bool is_kept(const step_costs *s, const step_class *c, const step_refined *r)
{
    const node *w = c->n->op == OP_LINEAR ? graph_node(s->g, c->n->in[1]) : NULL;
    return c->n->op == OP_PAGED_ATTENTION || c->n->op == OP_EXPERTS || (r->kernels && w && w->op == OP_WEIGHT && w->a.weight.scheme);
}

static double refined_flops(const step_costs *s, const step_load *l, const step_refined *r)
{
    double flops = 0;
    for (int i = 0; i < s->n; i++)
        if (s->v[i].n->op == OP_LINEAR && !is_kept(s, &s->v[i], r)) flops += cost_of(s, &s->v[i], l).flops * s->v[i].count;
    return flops;
}

/* What is refined, as priced here; compute is multiplied by more_compute, memory alone is *memory. */
static void priced(const step_costs *s, const step_load *l, const step_machine *m, const step_refined *r, double more_compute, step_time *out, double *memory_alone)
{
    *out = (step_time){0};
    *memory_alone = 0;
    for (int i = 0; i < s->n; i++) {
        const step_class *c = &s->v[i];
        double compute, memory, links;
        if (is_kept(s, c, r)) continue;
        time_class(s, c, l, m, &compute, &memory, &links);
        compute *= c->n->op == OP_LINEAR ? more_compute : 1;
        if (compute > memory) out->compute += compute * c->count;
        else out->memory += memory * c->count;
        *memory_alone += memory * c->count;
        if (c->launched && links <= 0) out->launch += m->k.op_s * c->count;
    }
}

/* Cycles are a time; products alone change the time that they are priced with. */
static void refined(const step_costs *s, const step_load *l, const step_machine *m, const step_refined *r, step_time *out)
{
    double memory;
    const double ours = r->cycles < 0 && r->flops > 0 ? refined_flops(s, l, r) : 0;
    priced(s, l, m, r, ours > 0 ? r->flops / ours : 1, out, &memory);
    if (r->cycles < 0) return;
    const double t = r->cycles / m->chip->clock_hz;
    const step_time launched = { .launch = r->starts ? 0 : out->launch };
    *out = launched;
    if (r->starts || t > memory) out->compute = t;
    else out->memory = memory;  /* profiles take memory to be faster than it is */
}

void step_costs_time_refined(const step_costs *s, const step_load *l, const step_machine *m, const step_refined *r, step_time *out)
{
    refined(s, l, m, r, out);
    out->launch += m->k.step_s;
    for (int i = 0; i < s->n; i++) {
        const step_class *c = &s->v[i];
        step_time t = {0};
        class_time(s, c, l, m, &t);
        out->links += t.links;
        if (is_kept(s, c, r)) {
            out->compute += t.compute;
            out->memory += t.memory;
        }
        if (c->launched && (is_kept(s, c, r) || t.links > 0)) out->launch += m->k.op_s * c->count;
    }
    out->total = sum_of(out);
}

void step_costs_compare(const step_costs *s, const step_load *l, const step_machine *m, const step_refined *r, double *ours, double *theirs, double *flops)
{
    step_time t;
    double memory;
    priced(s, l, m, r, 1, &t, &memory);
    *ours = sum_of(&t);
    refined(s, l, m, r, &t);
    *theirs = sum_of(&t);
    *flops = refined_flops(s, l, r);
}

void step_costs_class(const step_costs *s, int i, const step_load *l, const step_machine *m, step_class_cost *out)
{
    const step_class *c = &s->v[i];
    *out = (step_class_cost){ .op = c->n->op, .count = c->count };
    work_of(s, c, l, &out->work);
    time_class(s, c, l, m, &out->compute_s, &out->memory_s, &out->link_s);
    out->work.flops *= c->count;
    out->work.bytes *= c->count;
    out->work.link_bytes *= c->count;
    out->compute_s *= c->count;
    out->memory_s *= c->count;
    out->link_s *= c->count;
}
