/* The grammar of the IR, executable. A broken graph is a bug of ours or of a model file, so everything is ST_INTERNAL. */
#include <string.h>

#include "graph/graph.h"

static status verify_shape(const graph *g, const node *n)
{
    if (n->s.rank < 1 || n->s.rank > GRAPH_MAX_RANK) return err_set(ST_INTERNAL, "rank %d, expected 1 to %d", n->s.rank, GRAPH_MAX_RANK);
    for (int i = 0; i < n->s.rank; i++) {
        int64_t d = n->s.dim[i];
        if (d == 0 || d < DIM_TS) return err_set(ST_INTERNAL, "dimension %d is %lld", i, (long long)d);
        if (i > 0 && d < 0) return err_set(ST_INTERNAL, "dimension %d is a symbol; only the first may be", i);
        if (d == DIM_TS && !graph_mesh(g).sp) return err_set(ST_INTERNAL, "tokens are cut, but the mesh has no sequence parallelism");
    }
    return ST_OK;
}

/* Ranks that hold the same shard must be equally many. */
static status verify_shards(const graph *g, const char *name, int64_t shards)
{
    int tp = graph_mesh(g).tp;
    if (shards >= 0 && (shards < 2 || tp % shards == 0)) return ST_OK;
    return err_set(ST_INTERNAL, "%s: %lld shards, expected a divisor of the mesh's %d tensor ranks", name, (long long)shards, tp);
}

static status verify_weight(const graph *g, const node *n)
{
    int64_t rows = 0, count = n->a.weight.n_parts;
    if (count < 1 || count > GRAPH_MAX_PARTS) return err_set(ST_INTERNAL, "%lld parts, expected 1 to %d", (long long)count, GRAPH_MAX_PARTS);
    if (n->a.weight.role < 0 || n->a.weight.role >= ROLE_COUNT) return err_set(ST_INTERNAL, "unknown role");
    int vector = weight_has_experts(n) ? 2 : 1;
    if (n->s.rank < vector || n->s.rank > vector + 1) return err_set(ST_INTERNAL, "rank %d, expected %d or %d", n->s.rank, vector, vector + 1);
    for (int i = 0; i < n->s.rank; i++)
        if (n->s.dim[i] < 1) return err_set(ST_INTERNAL, "a weight's dimension is a symbol");
    for (int64_t i = 0; i < count; i++) {
        const weight_part *p = &n->a.weight.parts[i];
        if (!p->name[0]) return err_set(ST_INTERNAL, "a part has no name");
        if ((strchr(p->name, '*') != NULL) != (vector == 2)) return err_set(ST_INTERNAL, "%s: some parts are of experts, some are not", p->name);
        if (p->from < 0 || p->to <= p->from || p->to > p->total)
            return err_set(ST_INTERNAL, "%s: rows %lld to %lld of %lld", p->name, (long long)p->from, (long long)p->to, (long long)p->total);
        TRY(verify_shards(g, p->name, p->shards));
        rows += weight_part_rows(p);
    }
    TRY(verify_shards(g, "columns", n->a.weight.col_shards));
    TRY(verify_shards(g, "experts", n->a.weight.expert_shards));
    if (n->a.weight.expert_shards > 1 && vector != 2) return err_set(ST_INTERNAL, "%s has no experts to cut", n->a.weight.parts[0].name);
    if (n->a.weight.col_shards > 1 && n->s.rank == vector) return err_set(ST_INTERNAL, "a vector has no columns to cut");
    if (!quant_valid(n->a.weight.scheme)) return err_set(ST_INTERNAL, "unknown quantisation scheme");
    if (n->a.weight.scheme && n->s.rank == vector) return err_set(ST_INTERNAL, "a vector is not quantised");
    if (rows != weight_rows(n)) return err_set(ST_INTERNAL, "parts have %lld rows, the weight %lld", (long long)rows, (long long)weight_rows(n));
    return ST_OK;
}

/* Only linears and experts know quantised weights. */
static status verify_readers(const graph *g, const node *n)
{
    char name[QUANT_NAME_CAP];
    for (int i = 0; i < n->n_in; i++) {
        const node *w = graph_node(g, n->in[i]);
        if (w->op == OP_WEIGHT && w->a.weight.scheme && !(n->op == OP_LINEAR && i == 1) && !(n->op == OP_EXPERTS && (i == 2 || i == 3)))
            return err_set(ST_INTERNAL, "input %d is quantised (%s), which only a linear's weight may be", i, quant_print((quant_scheme)w->a.weight.scheme, name));
    }
    return ST_OK;
}

static status verify_node(const graph *g, int id)
{
    const node *n = graph_at(g, id);
    const op_schema *sc = op_schema_of(n->op);
    if (n->op <= OP_NULL || n->op >= OP_COUNT) return err_set(ST_INTERNAL, "unknown operation %d", (int)n->op);
    if (n->n_in < sc->min_in || n->n_in > sc->max_in) return err_set(ST_INTERNAL, "%d inputs, expected %d to %d", n->n_in, sc->min_in, sc->max_in);
    for (int i = 0; i < n->n_in; i++) {
        if (n->in[i].id >= id || n->in[i].id < 0) return err_set(ST_INTERNAL, "input %d comes later", i);
        if (n->in[i].id == 0 && i < sc->min_in) return err_set(ST_INTERNAL, "input %d is null", i);
    }
    TRY(verify_shape(g, n));
    if (n->op == OP_WEIGHT) return verify_weight(g, n);
    if (n->op == OP_INPUT) return n->a.input.kind >= 0 && n->a.input.kind < IN_COUNT ? ST_OK : err_set(ST_INTERNAL, "unknown kind of input");
    TRY(verify_readers(g, n));
    shape want;
    TRY(graph_rules_of(g)->infer[n->op](g, n, &want));
    if (shape_equal(&want, &n->s)) return ST_OK;
    char a[128], b[128];
    return err_set(ST_INTERNAL, "shape is %s, inferred %s", shape_format(&n->s, a, sizeof a), shape_format(&want, b, sizeof b));
}

status graph_verify(const graph *g)
{
    int n_caches = 0;
    mesh m = graph_mesh(g);
    if (m.dp < 1 || m.tp < 1 || ((m.sp || m.ep) && m.tp < 2))
        return err_set(ST_INTERNAL, "graph: mesh dp=%d tp=%d sp=%d, expected 1 or more each way, and tp for sp and ep", m.dp, m.tp, m.sp);
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        const node *n = graph_at(g, id);
        status st = verify_node(g, id);
        /* caches are numbered in order of use: a layer's cache is its place in memory */
        if (st == ST_OK && op_is(n->op, OPF_EFFECT) && n->a.kv.cache != n_caches++)
            st = err_set(ST_INTERNAL, "cache %lld, expected %d", (long long)n->a.kv.cache, n_caches - 1);
        if (st != ST_OK) return err_wrap(st, "graph: %%%d %s", id, op_name(n->op));
    }
    tensor out = graph_output(g);
    if (out.id < 1 || out.id > graph_n_nodes(g)) return err_set(ST_INTERNAL, "graph: no output");
    if (op_is(graph_node(g, out)->op, OPF_LEAF | OPF_VIEW)) return err_set(ST_INTERNAL, "graph: the output is not computed");
    return ST_OK;
}
