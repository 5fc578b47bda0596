/* A bucket's program: arguments, the step's inputs out of meta, loops over layers, one operation after the other. */
#include "device/pjrt/lower.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "device/pjrt/step_meta.h"
#include "ops/op.h"

typedef struct lowering {
    const lower_plan *p;
    const graph *g;
    const lower_options *o;
    hlo h;
    hlo_step step;
    hlo_val *vals;          /* [n_nodes + 1] by node id: in a loop, those of the first repetition's nodes */
    hlo_val *weights;       /* [n_weights] the arguments */
    hlo_val caches[HLO_CARRIED];
    hlo_val iteration;      /* of the loop being emitted; id 0 outside */
    const lower_segment *segment;
} lowering;

/* ---- inputs ---- */

static hlo_val meta_part(lowering *l, hlo_val meta, const step_layout *m, step_part part)
{
    return hlo_slice(&l->h, meta, 0, m->at[part], m->at[part] + m->len[part]);
}

/* Tokens below zero are read from the ring. */
static hlo_val resolve_tokens(lowering *l, hlo_val ids, hlo_val ring)
{
    hlo *h = &l->h;
    hlo_val pending = hlo_cmp_scalar(h, "LT", ids, 0), at = hlo_un(h, "not", ids); /* -1 - i is ~i */
    at = hlo_bin(h, "maximum", at, hlo_full_like(h, hlo_int(h, DT_I32, 0), at));
    return hlo_select(h, pending, hlo_take(h, ring, at), ids);
}

static void unpack_step(lowering *l, const lower_bucket *b, hlo_val meta, hlo_val ring)
{
    hlo *h = &l->h;
    hlo_step *s = &l->step;
    step_layout m;
    step_layout_of(b, l->o, &m);
    *s = (hlo_step){ .T = b->tokens, .S = b->seqs, .R = b->rows, .decode = b->decode, .act = l->o->act, .page = l->o->page, .max_pages = l->o->max_pages, .kv_block = l->o->kv_block,
                     .q_tile = bucket_q_tile(b), .n_tiles = bucket_n_tiles(b) };
    hlo_comment(h, "the step's inputs");
    s->tokens = resolve_tokens(l, meta_part(l, meta, &m, STEP_TOKENS), ring);
    s->positions = meta_part(l, meta, &m, STEP_POSITIONS);
    s->write_page = meta_part(l, meta, &m, STEP_WRITE_PAGE);
    s->write_slot = meta_part(l, meta, &m, STEP_WRITE_SLOT);
    s->rows = meta_part(l, meta, &m, STEP_ROWS);
    s->page_table = hlo_reshape(h, meta_part(l, meta, &m, STEP_PAGE_TABLE), 2, (int64_t[]){ b->seqs, l->o->max_pages });
    s->kv_lens = meta_part(l, meta, &m, STEP_KV_LENS);
    s->rope_variant = meta_part(l, meta, &m, STEP_ROPE_VARIANT);
    if (b->decode) return;
    s->seq_token = meta_part(l, meta, &m, STEP_SEQ_TOKEN);
    s->token_seq = meta_part(l, meta, &m, STEP_TOKEN_SEQ);
    s->tile_seq = meta_part(l, meta, &m, STEP_TILE_SEQ);
    s->tile_token = meta_part(l, meta, &m, STEP_TILE_TOKEN);
    s->tile_pos = meta_part(l, meta, &m, STEP_TILE_POS);
    s->tile_len = meta_part(l, meta, &m, STEP_TILE_LEN);
    s->tiles = hlo_reshape(h, meta_part(l, meta, &m, STEP_TILES), 0, NULL);
}

/* ---- one operation ---- */

static hlo_val weight_value(lowering *l, int id)
{
    int arg = l->p->arg_of[id];
    if (arg < 0) {
        hlo_fail(&l->h, "weight %%%d has no argument", id);
        return (hlo_val){0};
    }
    if (!l->p->weights[arg].stacked) return l->weights[arg];
    if (!hlo_is(l->vals[id])) l->vals[id] = hlo_row(&l->h, l->weights[arg], l->iteration);
    return l->vals[id];
}

static hlo_val operand(lowering *l, int id)
{
    if (!id) return (hlo_val){0};
    const node *n = graph_at(l->g, id);
    if (n->op == OP_WEIGHT) return weight_value(l, id);
    if (n->op != OP_INPUT) return l->vals[id];
    switch ((input_kind)n->a.input.kind) {
    case IN_TOKENS: return l->step.tokens;
    case IN_POSITIONS: return l->step.positions;
    case IN_ROWS: return l->step.rows;
    default: return l->vals[id];
    }
}

/* Page 0 of the layer that an attention node uses, of this repetition. */
static hlo_val first_page(lowering *l, int cache)
{
    hlo *h = &l->h;
    int at = l->p->cache_at[cache].index;
    hlo_val first = hlo_int(h, DT_I32, (int64_t)at * l->o->n_pages);
    if (!hlo_is(l->iteration)) return first;
    const lower_segment *s = l->segment;
    for (int j = 0; j < s->n_nodes; j++) {
        const node *n = graph_at(l->g, s->nodes[j]), *next = graph_at(l->g, s->nodes[s->n_nodes + j]);
        if (n->op != OP_PAGED_ATTENTION || n->a.paged_attention.cache != cache) continue;
        int64_t stride = (int64_t)(l->p->cache_at[next->a.paged_attention.cache].index - at) * l->o->n_pages;
        return hlo_bin(h, "add", first, hlo_bin_scalar(h, "multiply", l->iteration, (double)stride));
    }
    hlo_fail(h, "cache %d is not of this loop", cache);
    return first;
}

static void describe_node(lowering *l, int id)
{
    const node *n = graph_at(l->g, id);
    char s[128];
    const char *weight = "";
    for (int i = 0; i < n->n_in && !weight[0]; i++)
        if (n->in[i].id && graph_node(l->g, n->in[i])->op == OP_WEIGHT) weight = graph_node(l->g, n->in[i])->a.weight.parts[0].name;
    hlo_comment(&l->h, "%%%d %s%s%s : %s", id, op_name(n->op), weight[0] ? " " : "", weight, shape_format(&n->s, s, sizeof s));
}

static void emit_node(lowering *l, int id)
{
    const node *n = graph_at(l->g, id);
    const op_impl *impl = op_impl_of(n->op);
    if (!impl->hlo) {
        hlo_fail(&l->h, "%s has no StableHLO form", op_name(n->op));
        return;
    }
    describe_node(l, id);
    hlo_call c = { .h = &l->h, .g = l->g, .n = n, .step = &l->step };
    for (int i = 0; i < n->n_in; i++) {
        int arg = n->in[i].id ? l->p->arg_of[n->in[i].id] : -1;
        bool stacked = arg >= 0 && l->p->weights[arg].stacked && weight_has_experts(graph_node(l->g, n->in[i]));
        c.in[i] = stacked ? l->weights[arg] : operand(l, n->in[i].id);
        if (stacked) c.layer = l->iteration;
    }
    int group = -1;
    if (n->op == OP_PAGED_ATTENTION) {
        group = l->p->cache_at[n->a.paged_attention.cache].group;
        c.cache = l->caches[group];
        c.first_page = first_page(l, (int)n->a.paged_attention.cache);
    }
    l->vals[id] = impl->hlo(&c);
    if (group >= 0) l->caches[group] = c.cache;
}

/* ---- segments ---- */

static void emit_loop(lowering *l, const lower_segment *s)
{
    hlo *h = &l->h;
    int n_caches = l->p->n_caches, n = n_caches + s->n_carries, first[LOWER_CARRIES];
    hlo_val init[HLO_CARRIED], in[HLO_CARRIED], next[HLO_CARRIED], outer[LOWER_CARRIES];
    if (n >= HLO_CARRIED) {
        hlo_fail(h, "a loop over layers carries %d values", n);
        return;
    }
    hlo_comment(h, "%d times layers %d ...", s->count, graph_at(l->g, s->nodes[0])->layer);
    for (int c = 0; c < n_caches; c++) init[c] = l->caches[c];
    for (int c = 0; c < s->n_carries; c++) init[n_caches + c] = operand(l, s->carry_in[c]);
    l->iteration = hlo_for(h, hlo_int(h, DT_I32, 0), hlo_int(h, DT_I32, s->count), init, n, in);
    l->segment = s;
    for (int c = 0; c < n_caches; c++) l->caches[c] = in[c];
    for (int c = 0; c < s->n_carries; c++) {
        outer[c] = l->vals[s->carry_in[c]];
        l->vals[s->carry_in[c]] = in[n_caches + c];
    }
    for (int i = 0; i < s->n_nodes; i++) emit_node(l, s->nodes[i]);
    for (int c = 0; c < n_caches; c++) next[c] = l->caches[c];
    for (int c = 0; c < s->n_carries; c++) {
        first[c] = s->nodes[s->carry_at[c]];
        next[n_caches + c] = l->vals[first[c]];
    }
    hlo_end_for(h, next, in);
    for (int c = 0; c < n_caches; c++) l->caches[c] = in[c];
    for (int c = 0; c < s->n_carries; c++) {
        l->vals[s->carry_in[c]] = outer[c];
        l->vals[s->nodes[(s->count - 1) * s->n_nodes + s->carry_at[c]]] = in[n_caches + c];
    }
    l->iteration = (hlo_val){0};
    l->segment = NULL;
}

static void emit_segments(lowering *l)
{
    for (int i = 0; i < l->p->n_segments; i++) {
        const lower_segment *s = &l->p->segments[i];
        if (s->count > 1) {
            emit_loop(l, s);
            continue;
        }
        for (int j = 0; j < s->n_nodes; j++) emit_node(l, s->nodes[j]);
    }
}

/* ---- the program ---- */

static void weight_arg(const lower_plan *p, int i, hlo_arg *out)
{
    const lower_weight *w = &p->weights[i];
    *out = (hlo_arg){ .name = graph_at(p->g, w->nodes[0])->a.weight.parts[0].name, .type = w->s.type, .alias = -1 };
    if (w->stacked) out->dim[out->rank++] = w->n;
    for (int k = 0; k < w->s.rank; k++) out->dim[out->rank++] = w->s.dim[k];
}

static int make_args(const lower_plan *p, const lower_bucket *b, const lower_options *o, hlo_arg *args)
{
    hlo_step dims = { .T = b->tokens, .S = b->seqs, .R = b->rows };
    int n = 0;
    args[n++] = (hlo_arg){ "meta", DT_I32, 1, { step_meta_len(b, o) }, -1 };
    args[n++] = (hlo_arg){ "ring", DT_I32, 1, { (int64_t)o->n_slots * BATCH_RING }, -1 };
    if (lower_n_leading(p->g) > n) args[n++] = (hlo_arg){ "rank", DT_I32, 0, { 0 }, -1 };
    for (int c = 0; c < p->n_caches; c++) {
        const lower_cache *x = &p->caches[c];
        args[n++] = (hlo_arg){ "kv", x->kv.type, 4, { (int64_t)x->n_layers * o->n_pages, o->page, x->kv.rows, x->kv.lanes }, c };
    }
    for (int i = 0; i < p->n_inputs; i++) {
        const shape *s = &graph_at(p->g, p->inputs[i])->s;
        hlo_arg *a = &args[n++];
        *a = (hlo_arg){ .name = "input", .type = DT_F32, .rank = s->rank, .alias = -1 };
        for (int k = 0; k < s->rank; k++) a->dim[k] = hlo_dim(&dims, graph_mesh(p->g), s->dim[k]);
    }
    for (int i = 0; i < p->n_weights; i++) weight_arg(p, i, &args[n++]);
    return n;
}

static status emit_program(lowering *l, const lower_bucket *b, buf *out, hlo_arg *args, hlo_val *arg_vals)
{
    const lower_plan *p = l->p;
    hlo_val results[HLO_CARRIED];
    char name[64];
    int n = make_args(p, b, l->o, args), at = lower_n_leading(p->g);
    snprintf(name, sizeof name, "%s_t%d_s%d", b->decode ? "decode" : "step", b->tokens, b->seqs);
    hlo_begin(&l->h, name, graph_mesh(p->g), args, n, arg_vals);
    if (at > 2) l->h.rank = arg_vals[2];
    for (int c = 0; c < p->n_caches; c++) l->caches[c] = arg_vals[at++];
    for (int i = 0; i < p->n_inputs; i++) l->vals[p->inputs[i]] = hlo_convert(&l->h, arg_vals[at++], l->o->act);
    l->weights = arg_vals + at;
    unpack_step(l, b, arg_vals[0], arg_vals[1]);
    emit_segments(l);
    for (int c = 0; c < p->n_caches; c++) results[c] = l->caches[c];
    results[p->n_caches] = hlo_convert(&l->h, operand(l, graph_output(p->g).id), DT_F32);
    return hlo_finish(&l->h, results, p->n_caches + 1, out);
}

/* Pages of all layers are counted in i32. */
status lower_check(const lower_plan *p, int64_t n_pages)
{
    if (p->n_caches > HLO_CARRIED - 2) return err_set(ST_UNSUPPORTED, "%d caches of different shapes; at most %d are supported", p->n_caches, HLO_CARRIED - 2);
    for (int c = 0; c < p->n_caches; c++)
        if (n_pages * p->caches[c].n_layers > INT32_MAX)
            return err_set(ST_LIMIT, "%lld KV pages for each of %d layers, at most %d are supported", (long long)n_pages, p->caches[c].n_layers, INT32_MAX / p->caches[c].n_layers);
    return ST_OK;
}

int lower_n_leading(const graph *g) { return graph_mesh(g).tp > 1 ? 3 : 2; }

status lower_step(const lower_plan *p, const lower_bucket *b, const lower_options *o, buf *out)
{
    mesh m = graph_mesh(p->g);
    if (m.sp && b->tokens % m.tp) return err_set(ST_INTERNAL, "a bucket of %d tokens under sequence parallelism over %d ranks", b->tokens, m.tp);
    TRY(lower_check(p, o->n_pages));
    size_t n_args = (size_t)(lower_n_leading(p->g) + p->n_caches + p->n_inputs + p->n_weights);
    lowering l = { .p = p, .g = p->g, .o = o };
    l.vals = mem_calloc((size_t)graph_n_nodes(p->g) + 1, sizeof *l.vals);
    hlo_arg *args = mem_array(n_args, sizeof *args);
    hlo_val *arg_vals = mem_array(n_args, sizeof *arg_vals);
    status st = l.vals && args && arg_vals ? emit_program(&l, b, out, args, arg_vals) : err_nomem();
    mem_free(l.vals);
    mem_free(args);
    mem_free(arg_vals);
    return st;
}
