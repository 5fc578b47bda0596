#include "graph/passes.h"

#include <string.h>

#include "base/mem.h"

/* A pass walks the old nodes in order and adds to the new graph; map[id] is where an old tensor went. */
typedef struct rewrite {
    const graph *in;
    graph *out;
    int n;
    tensor *map;   /* [n + 1] */
    int *note;     /* [n + 1] for the pass's own use */
} rewrite;

static status rewrite_begin(rewrite *w, const graph *in)
{
    *w = (rewrite){ .in = in, .n = graph_n_nodes(in) };
    w->map = mem_calloc((size_t)w->n + 1, sizeof *w->map);
    w->note = mem_calloc((size_t)w->n + 1, sizeof *w->note);
    status st = w->map && w->note ? graph_new(graph_rules_of(in), &w->out) : err_nomem();
    if (st != ST_OK) {
        mem_free(w->map);
        mem_free(w->note);
        return st;
    }
    graph_set_mesh(w->out, graph_mesh(in));
    return ST_OK;
}

static status rewrite_end(rewrite *w, graph **out)
{
    status st = graph_finish(w->out, w->map[graph_output(w->in).id]);
    mem_free(w->map);
    mem_free(w->note);
    if (st == ST_OK) *out = w->out;
    else graph_free(w->out);
    return st;
}

/* Where an old tensor is in the new graph. Leaves may be wanted before their turn. */
static tensor mapped(rewrite *w, tensor t)
{
    if (t.id && !w->map[t.id].id && op_is(graph_node(w->in, t)->op, OPF_LEAF))
        w->map[t.id] = graph_add_like(w->out, graph_node(w->in, t), NULL, 0);
    return w->map[t.id];
}

static void copy_node(rewrite *w, int id)
{
    const node *n = graph_at(w->in, id);
    tensor in[GRAPH_MAX_INPUTS] = { { 0 } };
    for (int i = 0; i < n->n_in; i++) in[i] = mapped(w, n->in[i]);
    if (!w->map[id].id) w->map[id] = graph_add_like(w->out, n, in, n->n_in);
}

/* ---- linears of one input ---- */

enum { LINEAR_X, LINEAR_W, LINEAR_BIAS, LINEAR_RESIDUAL };

static bool has_input(const node *n, int i) { return i < n->n_in && n->in[i].id != 0; }

static bool can_join(const graph *g, const node *a, const node *b)
{
    if (b->op != OP_LINEAR || b->in[LINEAR_X].id != a->in[LINEAR_X].id || b->layer != a->layer) return false;
    if (has_input(a, LINEAR_RESIDUAL) || has_input(b, LINEAR_RESIDUAL) || has_input(a, LINEAR_BIAS) != has_input(b, LINEAR_BIAS)) return false;
    const node *wa = graph_node(g, a->in[LINEAR_W]), *wb = graph_node(g, b->in[LINEAR_W]);
    return wa->op == OP_WEIGHT && wb->op == OP_WEIGHT && wa->s.type == wb->s.type && wa->a.weight.role == wb->a.weight.role &&
           wa->a.weight.col_shards == wb->a.weight.col_shards && wa->a.weight.scheme == wb->a.weight.scheme && quant_joins((quant_scheme)wa->a.weight.scheme) &&
           graph_n_uses(g, b->in[LINEAR_W].id) == 1 && graph_n_uses(g, a->in[LINEAR_W].id) == 1;
}

/* One weight of the parts of all members' input `which`. */
static tensor join_weights(rewrite *w, const int *members, int n, int which)
{
    weight_part parts[GRAPH_MAX_PARTS];
    int n_parts = 0;
    const node *first = graph_node(w->in, graph_at(w->in, members[0])->in[which]);
    shape s = first->s;
    s.dim[0] = 0;
    for (int i = 0; i < n; i++) {
        const node *x = graph_node(w->in, graph_at(w->in, members[i])->in[which]);
        for (int64_t j = 0; j < x->a.weight.n_parts; j++) parts[n_parts++] = x->a.weight.parts[j];
        s.dim[0] += x->s.dim[0];
        if (x->s.axes[0] != s.axes[0]) s.axes[0] = AX_MIXED;
    }
    weight_attrs a = first->a.weight;
    a.parts = parts;
    a.n_parts = n_parts;
    return graph_weight_of(w->out, &s, &a);
}

static void join_linears(rewrite *w, const int *members, int n)
{
    const node *first = graph_at(w->in, members[0]);
    graph_set_layer(w->out, first->layer);
    tensor in[3] = { mapped(w, first->in[LINEAR_X]), join_weights(w, members, n, LINEAR_W) };
    if (has_input(first, LINEAR_BIAS)) in[LINEAR_BIAS] = join_weights(w, members, n, LINEAR_BIAS);
    tensor y = graph_add(w->out, OP_LINEAR, in, 3, NULL);
    int64_t from = 0;
    for (int i = 0; i < n; i++) {
        int64_t width = graph_at(w->in, members[i])->s.dim[1];
        w->map[members[i]] = graph_add(w->out, OP_SLICE, &y, 1, &(op_attrs){ .slice = { from, from + width } });
        from += width;
    }
}

status graph_fuse_linears(const graph *in, graph **out)
{
    rewrite w;
    TRY(rewrite_begin(&w, in));
    for (int id = 1; id <= w.n; id++) {
        const node *n = graph_at(in, id);
        int members[GRAPH_MAX_PARTS], count = 0;
        int64_t parts = 0;
        for (int j = id; n->op == OP_LINEAR && !w.map[id].id && j <= w.n; j++) {
            if (!can_join(in, n, graph_at(in, j))) continue;
            parts += graph_node(in, graph_at(in, j)->in[LINEAR_W])->a.weight.n_parts;
            if (parts <= GRAPH_MAX_PARTS) members[count++] = j;
        }
        if (count > 1) join_linears(&w, members, count);
        else copy_node(&w, id);
    }
    return rewrite_end(&w, out);
}

/* ---- residuals ---- */

/* Which input of this add is a linear that can take the other one as its residual; -1 = none. */
static int residual_side(const graph *g, const node *add)
{
    for (int side = 1; side >= 0 && add->op == OP_ADD; side--) {
        const node *l = graph_node(g, add->in[side]);
        if (!shape_equal(&l->s, &graph_node(g, add->in[!side])->s)) continue; /* a bias, not a residual */
        if (l->op == OP_LINEAR && !has_input(l, LINEAR_RESIDUAL) && graph_n_uses(g, add->in[side].id) == 1) return side;
    }
    return -1;
}

status graph_fuse_residuals(const graph *in, graph **out)
{
    rewrite w;
    TRY(rewrite_begin(&w, in));
    for (int id = 1; id <= w.n; id++) { /* note: linears that wait for their add */
        int side = residual_side(in, graph_at(in, id));
        if (side >= 0) w.note[graph_at(in, id)->in[side].id] = 1;
    }
    for (int id = 1; id <= w.n; id++) {
        const node *n = graph_at(in, id);
        int side = residual_side(in, n);
        if (w.note[id]) continue;
        if (side < 0) {
            copy_node(&w, id);
            continue;
        }
        const node *l = graph_node(in, n->in[side]);
        tensor t[4] = { mapped(&w, l->in[LINEAR_X]), mapped(&w, l->in[LINEAR_W]), NO_TENSOR, mapped(&w, n->in[!side]) };
        if (has_input(l, LINEAR_BIAS)) t[LINEAR_BIAS] = mapped(&w, l->in[LINEAR_BIAS]);
        graph_set_layer(w.out, l->layer);
        w.map[id] = graph_add(w.out, OP_LINEAR, t, 4, NULL);
    }
    return rewrite_end(&w, out);
}

/* ---- rows ---- */

static bool is_rowwise(op o)
{
    return o == OP_RMS_NORM || o == OP_LAYER_NORM || o == OP_LINEAR || o == OP_GLU || o == OP_ACT || o == OP_SCALE || o == OP_ADD || o == OP_SLICE || o == OP_SPLIT_HEADS || o == OP_MERGE_HEADS ||
           o == OP_ALL_REDUCE || o == OP_ROUTE || o == OP_EXPERTS;
}

/* note[id] = 1 for what is needed for the gathered rows only: row by row, and read by nothing else. */
static void find_narrow(rewrite *w, int gather, bool into_layers)
{
    const node *g = graph_at(w->in, gather);
    for (int id = gather - 1; id >= 1; id--) {
        const node *n = graph_at(w->in, id);
        if (!is_rowwise(n->op) || n->s.dim[0] != DIM_T || id == graph_output(w->in).id || (n->layer >= 0 && !into_layers)) continue;
        bool narrow = true, used = false;
        for (int u = id + 1; u <= w->n; u++)
            for (int j = 0; j < graph_at(w->in, u)->n_in; j++) {
                if (graph_at(w->in, u)->in[j].id != id) continue;
                used = true;
                narrow = narrow && (w->note[u] || (u == gather && j == 0));
            }
        w->note[id] = used && narrow && g->in[0].id >= id;
    }
}

/* The gathered rows of t, made in its first reader's layer. */
static tensor narrowed(rewrite *w, tensor t, int layer, tensor rows, tensor *gathered)
{
    if (!t.id || w->note[t.id] || op_is(graph_node(w->in, t)->op, OPF_LEAF)) return mapped(w, t);
    if (gathered[t.id].id) return gathered[t.id];
    graph_set_layer(w->out, layer);
    return gathered[t.id] = graph_add(w->out, OP_GATHER_ROWS, (tensor[]){ mapped(w, t), rows }, 2, NULL);
}

static status narrow_rows(const graph *in, bool into_layers, graph **out)
{
    rewrite w;
    TRY(rewrite_begin(&w, in));
    tensor *gathered = mem_calloc((size_t)w.n + 1, sizeof *gathered), rows = NO_TENSOR;
    int gather = 0, n_gathers = 0;
    for (int id = 1; id <= w.n; id++)
        if (graph_at(in, id)->op == OP_GATHER_ROWS) gather = id, n_gathers++;
    if (!gathered) graph_fail(w.out, err_nomem(), "%s", err_msg());
    if (gathered && n_gathers == 1) {
        find_narrow(&w, gather, into_layers);
        rows = mapped(&w, graph_at(in, gather)->in[1]);
    }
    for (int id = 1; id <= w.n && gathered; id++) {
        const node *n = graph_at(in, id);
        if (rows.id && id == gather) {
            w.map[id] = narrowed(&w, n->in[0], n->layer, rows, gathered);
        } else if (w.note[id]) {
            tensor t[GRAPH_MAX_INPUTS] = { { 0 } };
            for (int i = 0; i < n->n_in; i++) t[i] = narrowed(&w, n->in[i], n->layer, rows, gathered);
            w.map[id] = graph_add_like(w.out, n, t, n->n_in);
        } else {
            copy_node(&w, id);
        }
    }
    mem_free(gathered);
    return rewrite_end(&w, out);
}

status graph_narrow_rows(const graph *in, graph **out) { return narrow_rows(in, true, out); }

static status narrow_tail(const graph *in, graph **out) { return narrow_rows(in, false, out); }

/* ---- dead nodes ---- */

status graph_drop_dead(const graph *in, graph **out)
{
    rewrite w;
    TRY(rewrite_begin(&w, in));
    w.note[graph_output(in).id] = 1;
    for (int id = w.n; id >= 1; id--) {
        const node *n = graph_at(in, id);
        if (op_is(n->op, OPF_EFFECT)) w.note[id] = 1;
        for (int i = 0; w.note[id] && i < n->n_in; i++) w.note[n->in[i].id] = 1;
    }
    for (int id = 1; id <= w.n; id++)
        if (w.note[id]) copy_node(&w, id);
    return rewrite_end(&w, out);
}

/* ---- all of them ---- */

static status run_passes(const graph *in, graph_pass *narrow, graph **out)
{
    graph_pass *const passes[] = { graph_fuse_linears, graph_fuse_residuals, narrow, graph_drop_dead };
    static const char *const names[] = { "fuse_linears", "fuse_residuals", "narrow_rows", "drop_dead" };
    const graph *g = in;
    graph *owned = NULL;
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        graph *next = NULL;
        status st = passes[i](g, &next);
        graph_free(owned);
        if (st != ST_OK) return err_wrap(st, "pass %s", names[i]);
        g = owned = next;
    }
    *out = owned;
    return ST_OK;
}

status graph_optimize(const graph *in, graph **out) { return run_passes(in, graph_narrow_rows, out); }
status graph_optimize_uniform(const graph *in, graph **out) { return run_passes(in, narrow_tail, out); }
