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
    const lower_segment *segment;           /* a loop's */
    const lower_segment *emitting;
    struct kind_inputs { int first, n; int64_t pages; hlo_val page_tables, write_pages, kv_lens, tile_pos; } kinds[KV_MAX_GROUPS];    /* several groups */
    int32_t *first_pages, *repeat_groups;   /* [n_caches + 1] of a loop's repetitions */
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

/* Some groups' share of a part that has one row per group: [n, len / groups] */
static hlo_val group_rows(lowering *l, hlo_val meta, const step_layout *m, step_part part, int first, int n)
{
    int64_t each = m->len[part] / m->n_groups, at = m->at[part] + first * each;
    return hlo_reshape(&l->h, hlo_slice(&l->h, meta, 0, at, at + n * each), 2, (int64_t[]){ n, each });
}

/* Groups of one kind are neighbours; what they read is stacked, since a loop over layers meets all of them. */
static void unpack_groups(lowering *l, const lower_bucket *b, hlo_val meta, const step_layout *m)
{
    hlo *h = &l->h;
    const kv_group *g = l->o->groups->group;
    for (int first = 0, n; first < m->n_groups; first += n) {
        for (n = 1; first + n < m->n_groups && g[first + n].window == g[first].window && g[first + n].chunk == g[first].chunk;) n++;
        struct kind_inputs k = { .first = first, .n = n, .pages = m->group[first].pages };
        int64_t table = m->at[STEP_PAGE_TABLE] + m->group[first].at;
        k.page_tables = hlo_reshape(h, hlo_slice(h, meta, 0, table, table + n * b->seqs * k.pages), 3, (int64_t[]){ n, b->seqs, k.pages });
        k.write_pages = group_rows(l, meta, m, STEP_WRITE_PAGE, first, n);
        k.kv_lens = group_rows(l, meta, m, STEP_KV_LENS, first, n);
        if (!b->decode) k.tile_pos = group_rows(l, meta, m, STEP_TILE_POS, first, n);
        for (int i = 0; i < n; i++) l->kinds[first + i] = k;
    }
}

static void unpack_step(lowering *l, const lower_bucket *b, hlo_val meta, hlo_val ring)
{
    hlo *h = &l->h;
    hlo_step *s = &l->step;
    step_layout m;
    step_layout_of(b, l->o, &m);
    bool one = m.n_groups == 1;
    *s = (hlo_step){ .T = b->tokens, .S = b->seqs, .R = b->rows, .decode = b->decode, .act = l->o->act, .page = l->o->page, .max_pages = m.group[0].pages, .kv_block = l->o->kv_block,
                     .q_tile = bucket_q_tile(b), .n_tiles = bucket_n_tiles(b), .attention = l->o->attention };
    s->attention.head_multiple = l->p->head_multiple;
    hlo_comment(h, "the step's inputs");
    if (b->encoder) {
        s->positions = meta_part(l, meta, &m, STEP_POSITIONS);
        if (l->o->three) s->positions3 = hlo_reshape(h, meta_part(l, meta, &m, STEP_POSITIONS3), 2, (int64_t[]){ b->tokens, 3 });
        return;
    }
    s->tokens = resolve_tokens(l, meta_part(l, meta, &m, STEP_TOKENS), ring);
    s->positions = meta_part(l, meta, &m, STEP_POSITIONS);
    if (one) s->write_page = meta_part(l, meta, &m, STEP_WRITE_PAGE);
    s->write_slot = meta_part(l, meta, &m, STEP_WRITE_SLOT);
    s->rows = meta_part(l, meta, &m, STEP_ROWS);
    if (one) s->page_table = hlo_reshape(h, meta_part(l, meta, &m, STEP_PAGE_TABLE), 2, (int64_t[]){ b->seqs, s->max_pages });
    if (one) s->kv_lens = meta_part(l, meta, &m, STEP_KV_LENS);
    if (!one) unpack_groups(l, b, meta, &m);
    s->rope_variant = meta_part(l, meta, &m, STEP_ROPE_VARIANT);
    if (l->o->three) s->positions3 = hlo_reshape(h, meta_part(l, meta, &m, STEP_POSITIONS3), 2, (int64_t[]){ b->tokens, 3 });
    if (b->decode) return;
    if (l->o->see) s->see = meta_part(l, meta, &m, STEP_SEE);
    s->seq_token = meta_part(l, meta, &m, STEP_SEQ_TOKEN);
    s->token_seq = meta_part(l, meta, &m, STEP_TOKEN_SEQ);
    s->tile_seq = meta_part(l, meta, &m, STEP_TILE_SEQ);
    s->tile_token = meta_part(l, meta, &m, STEP_TILE_TOKEN);
    if (one) s->tile_pos = meta_part(l, meta, &m, STEP_TILE_POS);
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

/* v[iteration]: in closed form where it grows evenly, else from a table. */
static hlo_val by_iteration(lowering *l, const int32_t *v, int count)
{
    hlo *h = &l->h;
    int32_t step = v[1] - v[0];
    for (int k = 2; k < count; k++)
        if (v[k] != v[0] + k * step) return hlo_row(h, hlo_ints(h, v, count), l->iteration);
    return hlo_bin(h, "add", hlo_int(h, DT_I32, v[0]), hlo_bin_scalar(h, "multiply", l->iteration, (double)step));
}

/* The places of the caches that a loop's repetitions have where the first one has `cache`. */
static int places_in_loop(lowering *l, int cache, int32_t *first_pages, int32_t *groups)
{
    const lower_segment *s = l->segment;
    for (int j = 0; j < s->n_nodes; j++) {
        const node *n = graph_at(l->g, s->nodes[j]);
        if (!op_is(n->op, OPF_EFFECT) || n->a.kv.cache != cache) continue;
        for (int k = 0; k < s->count; k++) {
            const struct lower_place *p = &l->p->cache_at[graph_at(l->g, s->nodes[k * s->n_nodes + j])->a.kv.cache];
            first_pages[k] = p->index * l->o->n_pages;
            groups[k] = p->group;
        }
        return s->count;
    }
    hlo_fail(&l->h, "cache %d is not of this loop", cache);
    return 0;
}

/* The call of an operation with a cache: page 0 of its place, and a step whose pages are those of its layer's group; in a loop, of
 * this repetition's layer. */
static void bind_cache(lowering *l, const node *n, hlo_call *c, hlo_step *step)
{
    hlo *h = &l->h;
    struct lower_place at = l->p->cache_at[n->a.kv.cache];
    int count = hlo_is(l->iteration) ? places_in_loop(l, (int)n->a.kv.cache, l->first_pages, l->repeat_groups) : 0;
    bool one = true;
    for (int k = 1; k < count; k++) one = one && l->repeat_groups[k] == at.group;
    c->cache = l->caches[at.array];
    if (l->p->caches[at.array].scales >= 0) c->cache_scales = l->caches[l->p->caches[at.array].scales];
    c->first_page = count ? by_iteration(l, l->first_pages, count) : hlo_int(h, DT_I32, (int64_t)at.index * l->o->n_pages);
    c->step = step;
    *step = l->step;
    if (l->p->groups.n_groups == 1) return;
    const struct kind_inputs *k = &l->kinds[at.group];
    for (int i = 0; i < count; i++) l->repeat_groups[i] -= k->first;
    hlo_val group = one ? hlo_int(h, DT_I32, at.group - k->first) : by_iteration(l, l->repeat_groups, count);
    step->max_pages = k->pages;
    step->page_table = hlo_row(h, k->page_tables, group);
    step->write_page = hlo_row(h, k->write_pages, group);
    step->kv_lens = hlo_row(h, k->kv_lens, group);
    if (!l->step.decode) step->tile_pos = hlo_row(h, k->tile_pos, group);
}

/* All that there is of a weight which is an operation's input `i`. Experts of a loop's layers are not taken out of their stack: the
 * operation does that, one at a time. */
static void bind_weight(lowering *l, hlo_call *c, int i)
{
    int id = c->n->in[i].id, arg = l->p->arg_of[id];
    const node *w = graph_at(l->g, id);
    hlo_weight *out = &c->w[i];
    *out = (hlo_weight){ .scheme = (quant_scheme)w->a.weight.scheme, .group = hlo_weight_group(w) };
    c->all[i] = *out;
    if (arg < 0) {
        hlo_fail(&l->h, "weight %%%d has no argument", id);
        return;
    }
    bool stacked = l->p->weights[arg].stacked, whole = stacked && weight_has_experts(w);
    for (int at = arg; at < l->p->n_weights && (at == arg || l->p->weights[at].piece != PIECE_VALUES); at++) {
        hlo_val v = l->weights[at];
        c->all[i].piece[l->p->weights[at].piece] = v;
        if (at == arg && !whole) v = weight_value(l, id);
        else if (stacked && !whole) v = hlo_row(&l->h, v, l->iteration);
        out->piece[l->p->weights[at].piece] = v;
    }
    c->in[i] = out->piece[PIECE_VALUES];
    if (whole) c->layer = l->iteration;
    if (stacked) c->place = l->iteration;
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

/* ---- collectives that a linear does itself, so that it may exchange rows while it multiplies ---- */

/* Is `reader` all that reads node id, and in the same repetition? */
static bool reads_alone(const lowering *l, const node *reader, int id)
{
    const lower_segment *s = l->emitting;
    for (int i = 0; i < s->n_nodes && graph_n_uses(l->g, id) == 1; i++)
        if (s->nodes[i] == id) return reader->in[0].id == id;
    return false;
}

/* Does this linear gather its rows? */
static bool gathers(const lowering *l, const node *n)
{
    const node *x = n->op == OP_LINEAR ? graph_node(l->g, n->in[0]) : NULL;
    return x && x->op == OP_ALL_GATHER && x->a.all_gather.dim == 0 && !x->a.all_gather.size && reads_alone(l, n, n->in[0].id);
}

/* Does this reduce_scatter's linear do it? */
static bool scattered_before(const lowering *l, const node *n)
{
    return n->op == OP_REDUCE_SCATTER && n->a.reduce_scatter.dim == 0 && graph_node(l->g, n->in[0])->op == OP_LINEAR && reads_alone(l, n, n->in[0].id);
}

/* What reads node id in this repetition; of several any. */
static const node *reader_of(const lowering *l, int id)
{
    const lower_segment *s = l->emitting;
    for (int i = 0; i < s->n_nodes; i++) {
        const node *n = graph_at(l->g, s->nodes[i]);
        for (int k = 0; k < n->n_in; k++)
            if (n->in[k].id == id) return n;
    }
    return NULL;
}

/* Is this one such a collective? Its value is then its input's. */
static bool is_done_by_linear(const lowering *l, int id, const node *n)
{
    if (n->op == OP_REDUCE_SCATTER) return scattered_before(l, n);
    const node *reader = n->op == OP_ALL_GATHER ? reader_of(l, id) : NULL;
    return reader && gathers(l, reader) && reader->in[0].id == id;
}

static void emit_node(lowering *l, int id)
{
    const node *n = graph_at(l->g, id);
    const op_impl *impl = op_impl_of(n->op);
    if (is_done_by_linear(l, id, n)) {
        l->vals[id] = operand(l, n->in[0].id);
        return;
    }
    if (!impl->hlo) {
        hlo_fail(&l->h, "%s has no StableHLO form", op_name(n->op));
        return;
    }
    describe_node(l, id);
    hlo_call c = { .h = &l->h, .g = l->g, .n = n, .step = &l->step };
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i].id && graph_node(l->g, n->in[i])->op == OP_WEIGHT) bind_weight(l, &c, i);
        else c.in[i] = operand(l, n->in[i].id);
    }
    if (n->op == OP_LINEAR) {
        const node *reader = reader_of(l, id);
        c.gather = gathers(l, n);
        c.scatter = reader && scattered_before(l, reader);
    }
    hlo_step step;
    if (op_is(n->op, OPF_EFFECT)) bind_cache(l, n, &c, &step);
    l->vals[id] = impl->hlo(&c);
    if (!op_is(n->op, OPF_EFFECT)) return;
    const int array = l->p->cache_at[n->a.kv.cache].array, scales = l->p->caches[array].scales;
    l->caches[array] = c.cache;
    if (scales >= 0) l->caches[scales] = c.cache_scales;
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
        const lower_segment *s = l->emitting = &l->p->segments[i];
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
        args[n] = (hlo_arg){ .name = x->of_scales ? "kv scales" : "kv", .type = x->kv.type, .rank = 4, .alias = c };
        lower_cache_dims(x, o->n_pages, o->page, args[n++].dim);
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
    snprintf(name, sizeof name, "%s_t%d_s%d", b->encoder ? "encoder" : b->decode ? "decode" : "step", b->tokens, b->seqs);
    hlo_begin(&l->h, name, graph_mesh(p->g), args, n, arg_vals);
    if (at > 2) l->h.rank = arg_vals[2];
    for (int c = 0; c < p->n_caches; c++) l->caches[c] = arg_vals[at++];
    for (int i = 0; i < p->n_inputs; i++, at++) /* a single column is a mask or numbers of segments, which are exact in f32 alone */
        l->vals[p->inputs[i]] = arg_vals[at].dim[1] == 1 ? arg_vals[at] : hlo_convert(&l->h, arg_vals[at], l->o->act);
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
        if (n_pages * p->caches[c].n_places > INT32_MAX)
            return err_set(ST_LIMIT, "%lld KV pages for each of %d layers, at most %d are supported", (long long)n_pages, p->caches[c].n_places, INT32_MAX / p->caches[c].n_places);
    return ST_OK;
}

int lower_n_leading(const graph *g) { return graph_mesh(g).tp > 1 ? 3 : 2; }

status lower_step(const lower_plan *p, const lower_bucket *b, const lower_options *o, buf *out)
{
    mesh m = graph_mesh(p->g);
    int groups = o->groups ? o->groups->n_groups : 1;
    if (groups != p->groups.n_groups) return err_set(ST_INTERNAL, "options for %d groups of layers, the graph has %d", groups, p->groups.n_groups);
    if (m.sp && b->tokens % m.tp) return err_set(ST_INTERNAL, "a bucket of %d tokens under sequence parallelism over %d ranks", b->tokens, m.tp);
    TRY(lower_check(p, o->n_pages));
    size_t n_args = (size_t)(lower_n_leading(p->g) + p->n_caches + p->n_inputs + p->n_weights);
    lowering l = { .p = p, .g = p->g, .o = o };
    l.vals = mem_calloc((size_t)graph_n_nodes(p->g) + 1, sizeof *l.vals);
    hlo_arg *args = mem_array(n_args, sizeof *args);
    hlo_val *arg_vals = mem_array(n_args, sizeof *arg_vals);
    l.first_pages = mem_array((size_t)graph_n_caches(p->g) + 1, 2 * sizeof *l.first_pages);
    l.repeat_groups = l.first_pages ? l.first_pages + graph_n_caches(p->g) + 1 : NULL;
    status st = l.vals && args && arg_vals && l.first_pages ? emit_program(&l, b, out, args, arg_vals) : err_nomem();
    mem_free(l.vals);
    mem_free(l.first_pages);
    mem_free(args);
    mem_free(arg_vals);
    return st;
}
