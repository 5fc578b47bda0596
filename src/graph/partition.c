/* A walk over the old nodes that knows how each tensor's data lie on the mesh: the whole of it on every tensor rank, cut along
 * its last axis (or by heads), or cut along tokens. A node that needs another layout than its input has gets a collective in
 * front; sums over the ranks are made at once, so partial sums are nobody's input. Weights are made where they are read, since
 * how they are cut follows from that. */
#include "graph/partition.h"

#include <string.h>

#include "base/mem.h"

typedef enum layout { WHOLE, CUT, TOKENS } layout;

/* Where an old tensor is. CUT: into `shards` runs, fewer than ranks being copies; 1 where each rank has all KV heads, as one. */
typedef struct place { tensor t; layout lay; int shards; tensor whole; } place;

typedef struct partition {
    const graph *in;
    graph *out;
    mesh m;
    place *at;   /* [n + 1] by old id */
} partition;

enum { X, W, BIAS, RESIDUAL };

/* ---- what a rank holds ---- */

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

static void local_run(int64_t count, int64_t shards, int rank, int tp, int64_t *from, int64_t *n, int64_t *n_local)
{
    int64_t each = shards > 1 && count > 0 ? (count - 1) / shards + 1 : count;
    int64_t index = shards > 1 ? rank * shards / tp : 0, at = at_most(index * each, count);
    *from = at;
    *n = at_most(each, count - at);
    *n_local = each;
}

/* Ranks that hold the same experts cut these among themselves. */
static void among_equals(const node *w, int *rank, int *tp)
{
    if (w->a.weight.expert_shards > 1) {
        *tp /= (int)w->a.weight.expert_shards;
        *rank %= *tp;
    }
}

void weight_part_local(const node *w, const weight_part *p, int rank, int tp, int64_t *from, int64_t *n, int64_t *n_local)
{
    among_equals(w, &rank, &tp);
    local_run(weight_part_count(p), p->shards, rank, tp, from, n, n_local);
    *from = p->from + *from * weight_part_step(p);
}

void weight_cols_local(const node *w, int64_t cols, int rank, int tp, int64_t *from, int64_t *n, int64_t *n_local)
{
    among_equals(w, &rank, &tp);
    local_run(cols, w->a.weight.col_shards, rank, tp, from, n, n_local);
}

int64_t weight_first_expert(const node *w, int rank, int tp)
{
    int64_t shards = w->a.weight.expert_shards;
    return shards > 1 ? rank * shards / tp * weight_experts(w) : 0;
}

/* ---- inputs in the layout that is wanted ---- */

static bool is_weight(const partition *p, tensor t) { return graph_node(p->in, t)->op == OP_WEIGHT; }

/* The old weight with its rows, columns or experts cut. */
static tensor cut_weight_of(partition *p, tensor old, int shards, int col_shards, int expert_shards)
{
    const node *w = graph_node(p->in, old);
    weight_part parts[GRAPH_MAX_PARTS];
    int n_parts = (int)w->a.weight.n_parts, rows = weight_rows_dim(w);
    shape s = w->s;
    s.dim[rows] = 0;
    for (int i = 0; i < n_parts; i++) {
        parts[i] = w->a.weight.parts[i];
        parts[i].shards = shards > 1 ? shards : 0;
        s.dim[rows] += weight_part_rows(&parts[i]);
    }
    if (col_shards > 1) s.dim[rows + 1] = (s.dim[rows + 1] - 1) / col_shards + 1;
    if (expert_shards > 1) s.dim[0] /= expert_shards;
    graph_set_layer(p->out, w->layer);
    return graph_weight_of(p->out, &s, &(weight_attrs){ w->a.weight.role, n_parts, parts, col_shards, w->a.weight.scheme, expert_shards > 1 ? expert_shards : 0 });
}

static tensor cut_weight(partition *p, tensor old, int shards, int col_shards) { return cut_weight_of(p, old, shards, col_shards, 0); }

static tensor whole(partition *p, tensor old)
{
    if (!old.id) return NO_TENSOR;
    if (is_weight(p, old)) return cut_weight(p, old, 0, 0);
    place *x = &p->at[old.id];
    if (x->lay == WHOLE || (x->lay == CUT && x->shards == 1)) return x->t;
    if (x->whole.id) return x->whole;
    op_attrs a = { .all_gather = { 0, 0 } };
    if (x->lay == CUT) {
        int64_t all = graph_node(p->in, old)->s.dim[1];
        if (x->shards != p->m.tp)
            graph_fail(p->out, ST_INVALID, "%%%d, a %s, is needed whole, but there are more tensor ranks than heads to cut it into", old.id,
                       op_name(graph_node(p->in, old)->op));
        a.all_gather.dim = 1;
        a.all_gather.size = graph_node(p->out, x->t)->s.dim[1] * p->m.tp == all ? 0 : all;
    }
    return x->whole = graph_add(p->out, OP_ALL_GATHER, &x->t, 1, &a);
}

/* The sum of what the ranks have: whole, or each rank's run of the tokens. */
static void put_sum(partition *p, int id, tensor partial)
{
    const shape *s = &graph_node(p->in, (tensor){ id })->s;
    bool tokens = p->m.sp && s->dim[0] == DIM_T;
    p->at[id] = (place){ graph_add(p->out, tokens ? OP_REDUCE_SCATTER : OP_ALL_REDUCE, &partial, 1, NULL), tokens ? TOKENS : WHOLE, 0, NO_TENSOR };
}

/* ---- linears ---- */

/* Elements per head in what a linear makes: as the split_heads that reads it says; 1 if none does. */
static int64_t head_dim_of(const partition *p, int id)
{
    for (int u = id + 1; u <= graph_n_nodes(p->in); u++) {
        const node *n = graph_at(p->in, u);
        if (n->op == OP_SPLIT_HEADS && n->in[0].id == id) return n->a.split_heads.head_dim;
    }
    return 1;
}

/* The most runs that so many things come out even in, of those that the ranks come out even in. */
static int most_shards(int64_t things, int tp)
{
    for (int n = tp; n > 1; n--)
        if (tp % n == 0 && things % n == 0) return n;
    return 1;
}

/* Into how many runs a column parallel linear's rows are cut; 0 where that is impossible. */
static int col_shards_of(partition *p, int id, const weight_part *part, quant_scheme scheme)
{
    int tp = p->m.tp;
    int64_t rows = part->to - part->from, heads = rows / head_dim_of(p, id);
    if (part->out_axis == AX_KV_HEADS) {
        if (heads >= tp ? heads % tp == 0 : tp % heads == 0) return (int)at_most(tp, heads);
        graph_fail(p->out, ST_INVALID, "Total number of key/value heads (%lld) must be divisible by tensor parallel size (%d), or divide it.",
                   (long long)heads, tp);
    } else if (part->out_axis == AX_HEADS) {
        if (heads % tp == 0) return tp;
        if (p->m.ep) return most_shards(heads, tp);
        graph_fail(p->out, ST_INVALID, "Total number of attention heads (%lld) must be divisible by tensor parallel size (%d).", (long long)heads, tp);
    } else {
        /* what reads it is cut along columns, where a scale's group stays whole */
        int64_t group = part->out_axis == AX_MLP ? quant_describe(scheme).group : 0;
        if (rows % tp == 0 && (group == 0 || rows / tp % group == 0)) return tp;
        if (p->m.ep && group && rows % group == 0) return most_shards(rows / group, tp);
        if (part->out_axis == AX_MLP && rows % tp == 0)
            graph_fail(p->out, ST_INVALID, "Intermediate size (%lld) over tensor parallel size (%d) leaves parts of groups of %lld.", (long long)rows, tp, (long long)group);
        else if (part->out_axis == AX_MLP)
            graph_fail(p->out, ST_INVALID, "Intermediate size (%lld) must be divisible by tensor parallel size (%d).", (long long)rows, tp);
        else
            graph_fail(p->out, ST_INVALID, "%s: rows (%lld) must be divisible by tensor parallel size (%d).", part->name, (long long)rows, tp);
    }
    return 0;
}

/* Rows are cut: each rank makes its own columns of the result. */
static void linear_by_rows(partition *p, int id, const node *n, int shards)
{
    tensor in[] = { whole(p, n->in[X]), cut_weight(p, n->in[W], shards, 0), NO_TENSOR };
    if (n->n_in > BIAS) in[BIAS] = cut_weight(p, n->in[BIAS], shards, 0);
    p->at[id] = (place){ .lay = CUT, .shards = shards };
    graph_set_layer(p->out, n->layer);
    p->at[id].t = graph_add(p->out, OP_LINEAR, in, 3, NULL);
}

/* Columns are cut, as the input is: each rank has a part of each sum. */
static void linear_by_cols(partition *p, int id, const node *n, const char *name)
{
    const place *x = &p->at[n->in[X].id];
    if (x->lay != CUT || (x->shards != p->m.tp && !p->m.ep))
        graph_fail(p->out, ST_INVALID, "%s: a row parallel weight, but its input is not cut over the %d tensor ranks", name, p->m.tp);
    tensor in[] = { x->t, cut_weight(p, n->in[W], 0, x->shards) };
    graph_set_layer(p->out, n->layer);
    tensor y = graph_add(p->out, OP_LINEAR, in, 2, NULL);
    if (x->shards != p->m.tp) y = graph_add(p->out, OP_SCALE, &y, 1, &(op_attrs){ .scale = { (double)x->shards / p->m.tp } });   /* ranks with the same heads make the same */
    put_sum(p, id, y);
    if (n->n_in <= BIAS) return;
    tensor sum[] = { p->at[id].t, cut_weight(p, n->in[BIAS], 0, 0) };
    graph_set_layer(p->out, n->layer);
    p->at[id].t = graph_add(p->out, OP_ADD, sum, 2, NULL);
}

static void linear_whole(partition *p, int id, const node *n)
{
    const place *x = &p->at[n->in[X].id];
    layout lay = x->lay == TOKENS ? TOKENS : WHOLE;
    tensor in[] = { lay == TOKENS ? x->t : whole(p, n->in[X]), whole(p, n->in[W]), n->n_in > BIAS ? whole(p, n->in[BIAS]) : NO_TENSOR };
    graph_set_layer(p->out, n->layer);
    p->at[id] = (place){ graph_add(p->out, OP_LINEAR, in, 3, NULL), lay, 0, NO_TENSOR };
}

static void do_linear(partition *p, int id, const node *n)
{
    const node *w = graph_node(p->in, n->in[W]);
    const weight_part *part = w->a.weight.parts;
    if (n->n_in > RESIDUAL || w->a.weight.n_parts != 1 || (n->n_in > BIAS && !is_weight(p, n->in[BIAS]))) {
        graph_fail(p->out, ST_INVALID, "linear with weight %s is fused; partition first, then fuse", part->name);
        return;
    }
    switch ((weight_role)w->a.weight.role) {
    case ROLE_COL: linear_by_rows(p, id, n, col_shards_of(p, id, part, (quant_scheme)w->a.weight.scheme)); break;
    case ROLE_VOCAB: linear_by_rows(p, id, n, p->m.tp); break;
    case ROLE_ROW: linear_by_cols(p, id, n, part->name); break;
    default: linear_whole(p, id, n);
    }
}

/* ---- experts ---- */

enum { EXPERTS_X, EXPERTS_COMBINE, EXPERTS_W_IN, EXPERTS_W_OUT, EXPERTS_BIAS_IN, EXPERTS_BIAS_OUT };

/* Each rank has some experts, or a part of the inner width of each; either way it makes a part of each sum. */
static void do_experts(partition *p, int id, const node *n)
{
    const node *w = graph_node(p->in, n->in[EXPERTS_W_IN]);
    int tp = p->m.tp, ep = p->m.ep ? most_shards(weight_experts(w), tp) : 0, cut = ep ? tp / ep : tp;
    int64_t width = weight_part_count(&w->a.weight.parts[0]);
    if (cut && width % cut)
        graph_fail(p->out, ST_INVALID, "Intermediate size of experts (%lld) must be divisible by tensor parallel size (%d).", (long long)width, cut);
    tensor in[GRAPH_MAX_INPUTS] = { whole(p, n->in[EXPERTS_X]), whole(p, n->in[EXPERTS_COMBINE]),
                                    cut_weight_of(p, n->in[EXPERTS_W_IN], cut, 0, ep), cut_weight_of(p, n->in[EXPERTS_W_OUT], 0, cut, ep) };
    if (n->n_in > EXPERTS_BIAS_IN && n->in[EXPERTS_BIAS_IN].id) in[EXPERTS_BIAS_IN] = cut_weight_of(p, n->in[EXPERTS_BIAS_IN], cut, 0, ep);
    if (n->n_in > EXPERTS_BIAS_OUT && n->in[EXPERTS_BIAS_OUT].id) in[EXPERTS_BIAS_OUT] = cut_weight_of(p, n->in[EXPERTS_BIAS_OUT], 0, 0, ep);
    op_attrs a = n->a;
    a.experts.shards = ep > 1 ? ep : 0;
    a.experts.cut = cut > 1 ? cut : 0;
    graph_set_layer(p->out, n->layer);
    put_sum(p, id, graph_add(p->out, OP_EXPERTS, in, n->n_in, &a));
}

/* Heads lie over the ranks, each with its matrix. */
static void do_head_linear(partition *p, int id, const node *n)
{
    const place *x = &p->at[n->in[0].id];
    bool cut = x->lay == CUT;
    tensor in[] = { cut ? x->t : whole(p, n->in[0]), cut_weight_of(p, n->in[1], 0, 0, cut ? x->shards : 0) };
    graph_set_layer(p->out, n->layer);
    p->at[id] = (place){ graph_add(p->out, OP_HEAD_LINEAR, in, 2, NULL), cut ? CUT : WHOLE, cut ? x->shards : 0, NO_TENSOR };
}

/* ---- other operations ---- */

static void do_embed(partition *p, int id, const node *n)
{
    const node *w = graph_node(p->in, n->in[1]);
    bool cut = w->op == OP_WEIGHT && w->a.weight.role == ROLE_VOCAB;
    tensor in[] = { whole(p, n->in[0]), cut ? cut_weight(p, n->in[1], p->m.tp, 0) : whole(p, n->in[1]) };
    graph_set_layer(p->out, n->layer);
    tensor y = graph_add(p->out, OP_EMBED, in, 2, &(op_attrs){ .embed = { cut ? p->m.tp : 0 } });
    if (cut) put_sum(p, id, y);
    else p->at[id] = (place){ y, WHOLE, 0, NO_TENSOR };
}

/* Each rank attends with its query heads. Query head h reads kv head h / (heads / kv_heads): with h from rank r's run of the
 * heads, that is number r * kv_heads / tp and what follows, the very heads that rank holds, copied or not. */
static void do_attention(partition *p, int id, const node *n)
{
    const place *q = &p->at[n->in[0].id], *k = &p->at[n->in[1].id], *v = &p->at[n->in[2].id];
    bool cut = q->lay == CUT;
    if (n->a.paged_attention.latent) {   /* one head, which every rank has */
        tensor own[GRAPH_MAX_INPUTS] = { cut ? q->t : whole(p, n->in[0]), whole(p, n->in[1]), NO_TENSOR, NO_TENSOR, n->n_in > 4 ? cut_weight(p, n->in[4], 0, 0) : NO_TENSOR };
        p->at[id] = (place){ graph_add_like(p->out, n, own, n->n_in), cut ? CUT : WHOLE, q->shards, NO_TENSOR };
        return;
    }
    if ((k->lay == CUT) != cut || (v->lay == CUT) != cut || k->shards != v->shards || (cut && q->shards != p->m.tp && !p->m.ep))
        graph_fail(p->out, ST_INVALID, "paged_attention: q, k and v are not cut alike");
    tensor in[GRAPH_MAX_INPUTS] = { { 0 } };
    for (int i = 0; i < 3; i++) in[i] = cut ? p->at[n->in[i].id].t : whole(p, n->in[i]);
    if (n->n_in > 3 && n->in[3].id) in[3] = cut_weight(p, n->in[3], cut ? q->shards : 0, 0);   /* sinks, one for each query head */
    if (n->n_in > 4) in[4] = cut_weight(p, n->in[4], 0, 0);     /* the cache's scales */
    p->at[id] = (place){ graph_add_like(p->out, n, in, n->n_in), q->lay == CUT ? CUT : WHOLE, q->shards, NO_TENSOR };
}

/* How many of an operation's inputs share the layout of its result, and which layouts it can compute in besides WHOLE. The
 * other inputs must be whole. */
typedef struct habit { int n_main; bool cut, tokens; } habit;

static habit habit_of(const partition *p, const node *n)
{
    switch (n->op) {
    case OP_ADD: return is_weight(p, n->in[1]) ? (habit){ 1, false, true } : (habit){ 2, true, true };
    case OP_GLU: return (habit){ 2, true, true };
    case OP_ACT: case OP_SCALE: return (habit){ 1, true, true };
    case OP_LAYER_NORM:
    case OP_RMS_NORM: return (habit){ 1, n->s.rank == 3, true };   /* of each head; a norm of cut rows needs all of them */
    case OP_SPLIT_HEADS: case OP_MERGE_HEADS: return (habit){ 1, true, true };
    case OP_SLICE: case OP_ROUTE: return (habit){ 1, false, true };
    case OP_CONCAT: return (habit){ 2, true, true };
    case OP_HEAD_SLICE: return (habit){ 1, true, true };
    case OP_ROPE: case OP_SCALE_BY_POSITION: case OP_GATHER_ROWS: return (habit){ 1, true, false };
    default: return (habit){ 0, false, false };
    }
}

static void do_other(partition *p, int id, const node *n)
{
    habit h = habit_of(p, n);
    place y = h.n_main ? p->at[n->in[0].id] : (place){ .lay = WHOLE };
    for (int i = 1; i < h.n_main; i++)
        if (p->at[n->in[i].id].lay != y.lay || p->at[n->in[i].id].shards != y.shards) y.lay = WHOLE;
    if ((y.lay == CUT && !h.cut) || (y.lay == TOKENS && !h.tokens)) y.lay = WHOLE;
    if (y.lay != CUT) y.shards = 0;
    tensor in[GRAPH_MAX_INPUTS] = { { 0 } };
    for (int i = 0; i < n->n_in; i++) {
        graph_set_layer(p->out, n->layer);
        in[i] = i < h.n_main && y.lay != WHOLE ? p->at[n->in[i].id].t : whole(p, n->in[i]);
    }
    p->at[id] = (place){ graph_add_like(p->out, n, in, n->n_in), y.lay, y.shards, NO_TENSOR };
}

static void do_node(partition *p, int id)
{
    const node *n = graph_at(p->in, id);
    graph_set_layer(p->out, n->layer);
    if (p->m.tp == 1) {
        tensor in[GRAPH_MAX_INPUTS] = { { 0 } };
        for (int i = 0; i < n->n_in; i++) in[i] = p->at[n->in[i].id].t;
        p->at[id] = (place){ graph_add_like(p->out, n, in, n->n_in), WHOLE, 0, NO_TENSOR };
        return;
    }
    switch (n->op) {
    case OP_WEIGHT: break;
    case OP_LINEAR: do_linear(p, id, n); break;
    case OP_EMBED: do_embed(p, id, n); break;
    case OP_EXPERTS: do_experts(p, id, n); break;
    case OP_HEAD_LINEAR: do_head_linear(p, id, n); break;
    case OP_PAGED_ATTENTION: do_attention(p, id, n); break;
    default: do_other(p, id, n);
    }
}

static status check_input(const graph *in, mesh m)
{
    mesh old = graph_mesh(in);
    if (m.dp < 1 || m.tp < 1) return err_set(ST_INVALID, "a mesh of %d x %d devices (data x tensor parallel), expected at least 1 x 1", m.dp, m.tp);
    if (old.dp != 1 || old.tp != 1) return err_set(ST_INVALID, "the graph is partitioned already, for %d x %d devices", old.dp, old.tp);
    return ST_OK;
}

status graph_partition(const graph *in, mesh m, graph **out)
{
    TRY(check_input(in, m));
    partition p = { .in = in, .m = m };
    if (m.tp == 1) p.m.sp = p.m.ep = false;   /* nobody to share with */
    p.at = mem_calloc((size_t)graph_n_nodes(in) + 1, sizeof *p.at);
    status st = p.at ? graph_new(graph_rules_of(in), &p.out) : err_nomem();
    if (st == ST_OK) {
        graph_set_mesh(p.out, p.m);
        for (int id = 1; id <= graph_n_nodes(in); id++) do_node(&p, id);
        graph_set_layer(p.out, graph_node(in, graph_output(in))->layer);
        st = graph_finish(p.out, p.m.tp == 1 ? p.at[graph_output(in).id].t : whole(&p, graph_output(in)));
    }
    mem_free(p.at);
    if (st == ST_OK) *out = p.out;
    else graph_free(p.out);
    return st;
}
