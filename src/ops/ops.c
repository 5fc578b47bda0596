/* The table of operations, and helpers their folders share. */
#include <string.h>

#include "base/mem.h"
#include "graph/kv_groups.h"
#include "ops/op.h"

#define OP(up, low, lo, hi, fl, ...) extern const op_impl op_##low;
#include "graph/ops.def"
#undef OP

const op_impl *op_impl_of(op o)
{
    static const op_impl *const table[OP_COUNT] = {
#define OP(up, low, lo, hi, fl, ...) [OP_##up] = &op_##low,
#include "graph/ops.def"
#undef OP
    };
    return table[o];
}

static status infer_any(const graph *g, const node *n, shape *out) { return op_impl_of(n->op)->infer(g, n, out); }

const graph_rules *ops_rules(void)
{
    static const graph_rules rules = { {
#define OP(up, low, lo, hi, fl, ...) [OP_##up] = infer_any,
#include "graph/ops.def"
#undef OP
    } };
    return &rules;
}

status op_need_rank(const node *n, const char *what, const shape *s, int rank)
{
    (void)n;
    char text[128];
    if (s->rank == rank) return ST_OK;
    return err_set(ST_INTERNAL, "%s is %s, expected %d dimensions", what, shape_format(s, text, sizeof text), rank);
}

status op_need_type(const char *what, const shape *s, dtype t)
{
    if (s->type == t) return ST_OK;
    return err_set(ST_INTERNAL, "%s is %s, expected %s", what, dtype_name(s->type), dtype_name(t));
}

status op_need_ranks(const graph *g)
{
    if (graph_mesh(g).tp > 1) return ST_OK;
    return err_set(ST_INTERNAL, "the mesh has one tensor rank, expected several");
}

int64_t shape_cols(const shape *s)
{
    int64_t n = 1;
    for (int i = 1; i < s->rank; i++) n *= s->dim[i];
    return n;
}

int64_t ref_count(const ref_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->dim[i];
    return n;
}

double op_dim(const op_sizes *s, int64_t dim)
{
    if (dim == DIM_TS) return s->tokens / (s->tp > 1 ? s->tp : 1);
    return dim == DIM_T ? s->tokens : dim == DIM_S ? s->seqs : dim == DIM_R ? s->rows : (double)dim;
}

/* ---- leaves ---- */

static status infer_leaf(const graph *g, const node *n, shape *out)
{
    (void)g;
    *out = n->s;
    return ST_OK;
}
const op_impl op_input = { .infer = infer_leaf };
const op_impl op_weight = { .infer = infer_leaf };

/* ---- cases ---- */

tensor case_input(graph *g, int64_t rows, int64_t cols, axis ax)
{
    return graph_input(g, IN_ACTIVATION, &(shape){ DT_F32, 2, { rows, cols }, { rows == DIM_R ? AX_ROWS : AX_TOKENS, ax } });
}

tensor case_ints(graph *g, input_kind kind)
{
    bool rows = kind == IN_ROWS;
    return graph_input(g, kind, &(shape){ DT_I32, 1, { rows ? DIM_R : DIM_T }, { rows ? AX_ROWS : AX_TOKENS } });
}

tensor case_weight(graph *g, const char *name, dtype t, int64_t rows, int64_t cols)
{
    shape s = { t, cols ? 2 : 1, { rows, cols }, { AX_EMBED, cols ? AX_EMBED : AX_NONE } };
    return graph_weight(g, ROLE_REPL, &s, &(weight_part){ name, 0, rows, rows, AX_EMBED, 0, 0 }, 1);
}

/* ---- the reference ---- */

typedef struct ref_state { ref_tensor *t; float **own; int n; } ref_state;

static int64_t value_of(const graph *g, const batch *b, int64_t dim)
{
    if (dim == DIM_TS) return b->n_tokens / graph_mesh(g).tp;
    return dim == DIM_T ? b->n_tokens : dim == DIM_S ? b->n_seqs : dim == DIM_R ? b->n_rows : dim;
}

static status ref_node(const graph *g, int id, ref_state *s, void (*weight)(void *, const node *, float *), void *arg, const batch *b,
                       ref_cache *caches, const kv_place *places, int block_size)
{
    const node *n = graph_at(g, id);
    ref_tensor *out = &s->t[id];
    out->rank = n->s.rank;
    for (int i = 0; i < n->s.rank; i++) out->dim[i] = value_of(g, b, n->s.dim[i]);
    if (n->op == OP_INPUT && n->a.input.kind != IN_ACTIVATION) {
        out->i = n->a.input.kind == IN_TOKENS ? b->token_ids : n->a.input.kind == IN_POSITIONS ? b->positions : b->rows;
        return ST_OK;
    }
    out->f = s->own[id] = mem_calloc((size_t)ref_count(out) + 1, sizeof(float));
    if (!out->f) return err_nomem();
    if (op_is(n->op, OPF_LEAF)) {
        weight(arg, n, out->f);
        return ST_OK;
    }
    ref_call c = { .n = n, .tp = graph_mesh(g).tp, .out = *out, .b = b, .caches = caches, .block_size = block_size };
    if (op_is(n->op, OPF_EFFECT)) c.group = places[n->a.kv.cache].group;
    for (int i = 0; i < n->n_in; i++) c.in[i] = s->t[n->in[i].id];
    op_impl_of(n->op)->ref(&c);
    return ST_OK;
}

status ref_run(const graph *g, void (*weight)(void *, const node *, float *), void *arg, const batch *b, ref_cache *caches, int block_size, float *out)
{
    ref_state s = { .n = graph_n_nodes(g) };
    status st = ST_OK;
    kv_layout groups;
    kv_place *places = mem_calloc((size_t)graph_n_caches(g) + 1, sizeof *places);
    s.t = mem_calloc((size_t)s.n + 1, sizeof *s.t);
    s.own = mem_calloc((size_t)s.n + 1, sizeof *s.own);
    if (places) kv_layout_of(g, &groups, places);
    if (!s.t || !s.own || !places) st = err_nomem();
    else if (graph_mesh(g).sp && b->n_tokens % graph_mesh(g).tp)
        st = err_set(ST_INVALID, "%d tokens, expected a multiple of the %d tensor ranks that share them", b->n_tokens, graph_mesh(g).tp);
    for (int id = 1; id <= s.n && st == ST_OK; id++) st = ref_node(g, id, &s, weight, arg, b, caches, places, block_size);
    if (st == ST_OK) {
        ref_tensor *t = &s.t[graph_output(g).id];
        memcpy(out, t->f, (size_t)ref_count(t) * sizeof(float));
    }
    for (int id = 1; s.own && id <= s.n; id++) mem_free(s.own[id]);
    mem_free(s.own);
    mem_free(s.t);
    mem_free(places);
    return st;
}
