/* Building graphs. Everything of a graph lives in its arena except the node array, which grows. */
#include "graph/graph.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/arena.h"
#include "base/mem.h"

struct graph {
    const graph_rules *rules;
    arena mem;
    node *nodes;          /* nodes[id - 1] */
    int n, cap, layer;
    mesh mesh;
    tensor output;
    status failed;
    char message[1024];   /* of the first failure */
};

status graph_new(const graph_rules *rules, graph **out)
{
    graph *g = mem_calloc(1, sizeof *g);
    if (!g) return err_nomem();
    g->rules = rules;
    g->layer = -1;
    g->mesh = (mesh){ 1, 1, false, false };
    *out = g;
    return ST_OK;
}

void graph_free(graph *g)
{
    if (!g) return;
    arena_free(&g->mem);
    mem_free(g->nodes);
    mem_free(g);
}

void graph_set_layer(graph *g, int layer) { g->layer = layer; }
void graph_set_mesh(graph *g, mesh m) { g->mesh = m; }
mesh graph_mesh(const graph *g) { return g->mesh; }
int graph_n_nodes(const graph *g) { return g->n; }
tensor graph_output(const graph *g) { return g->output; }
const graph_rules *graph_rules_of(const graph *g) { return g->rules; }

const node *graph_at(const graph *g, int id)
{
    static const node none;
    return id >= 1 && id <= g->n ? &g->nodes[id - 1] : &none;
}

int graph_n_caches(const graph *g)
{
    int n = 0;
    for (int i = 0; i < g->n; i++) n += op_is(g->nodes[i].op, OPF_EFFECT);
    return n;
}

int graph_n_uses(const graph *g, int id)
{
    int n = g->output.id == id;
    for (int i = 0; i < g->n; i++)
        for (int j = 0; j < g->nodes[i].n_in; j++) n += g->nodes[i].in[j].id == id;
    return n;
}

void graph_fail(graph *g, status s, const char *fmt, ...)
{
    if (g->failed != ST_OK) return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(g->message, sizeof g->message, fmt, ap);
    va_end(ap);
    g->failed = s;
}

static tensor fail_here(graph *g, status s)
{
    graph_fail(g, s, "%s", err_msg());
    return NO_TENSOR;
}

static bool copy_floats(graph *g, floats *f)
{
    if (f->n <= 0) return f->n == 0;
    float *v = arena_alloc(&g->mem, (size_t)f->n * sizeof *v);
    if (!v) return false;
    memcpy(v, f->v, (size_t)f->n * sizeof *v);
    f->v = v;
    return true;
}

static bool copy_parts(graph *g, node *n)
{
    size_t count = (size_t)n->a.weight.n_parts;
    weight_part *p = arena_alloc(&g->mem, count * sizeof *p);
    if (!p) return false;
    memcpy(p, n->a.weight.parts, count * sizeof *p);
    for (size_t i = 0; i < count; i++)
        if (!(p[i].name = arena_strdup(&g->mem, p[i].name))) return false;
    n->a.weight.parts = p;
    return true;
}

static bool copy_attrs(graph *g, node *n)
{
    if (n->op == OP_WEIGHT && !copy_parts(g, n)) return false;
    for (const op_field *f = op_schema_of(n->op)->fields; f->name; f++)
        if (f->kind == FIELD_FLOATS && !copy_floats(g, (floats *)(void *)((char *)&n->a + f->offset))) return false;
    return true;
}

/* Adds a node whose shape is known, or finds its equal: a weight used twice is one weight. */
static tensor append(graph *g, const node *in)
{
    for (int i = 0; i < g->n && op_is(in->op, OPF_LEAF); i++)
        if (node_equal(&g->nodes[i], in)) return (tensor){ i + 1 };
    if (g->n == g->cap) {
        int cap = g->cap ? g->cap * 2 : 64;
        node *p = mem_realloc_array(g->nodes, (size_t)cap, sizeof *p);
        if (!p) return fail_here(g, err_nomem());
        g->nodes = p;
        g->cap = cap;
    }
    node n = *in;
    if (!copy_attrs(g, &n)) return fail_here(g, err_nomem());
    g->nodes[g->n++] = n;
    return (tensor){ g->n };
}

tensor graph_input(graph *g, input_kind kind, const shape *s)
{
    if (g->failed != ST_OK) return NO_TENSOR;
    return append(g, &(node){ .op = OP_INPUT, .layer = -1, .s = *s, .a.input.kind = kind });
}

tensor graph_activation(graph *g, int number, const shape *s)
{
    if (g->failed != ST_OK) return NO_TENSOR;
    return append(g, &(node){ .op = OP_INPUT, .layer = -1, .s = *s, .a.input = { IN_ACTIVATION, number } });
}

tensor graph_weight(graph *g, weight_role role, const shape *s, const weight_part *parts, int n_parts)
{
    return graph_weight_cut(g, role, s, parts, n_parts, 0);
}

tensor graph_weight_cut(graph *g, weight_role role, const shape *s, const weight_part *parts, int n_parts, int64_t col_shards)
{
    return graph_weight_of(g, s, &(weight_attrs){ role, n_parts, parts, col_shards, QUANT_NONE, 0 });
}

tensor graph_weight_of(graph *g, const shape *s, const weight_attrs *a)
{
    if (g->failed != ST_OK) return NO_TENSOR;
    return append(g, &(node){ .op = OP_WEIGHT, .layer = g->layer, .s = *s, .a.weight = *a });
}

tensor graph_add(graph *g, op o, const tensor *in, int n_in, const op_attrs *a)
{
    if (g->failed != ST_OK) return NO_TENSOR;
    const op_schema *sc = op_schema_of(o);
    node n = { .op = o, .layer = g->layer };
    while (n_in > sc->min_in && in[n_in - 1].id == 0) n_in--; /* absent optional inputs at the end are not there */
    if (n_in < sc->min_in || n_in > sc->max_in)
        return fail_here(g, err_set(ST_INTERNAL, "%s: %d inputs, expected %d to %d", sc->name, n_in, sc->min_in, sc->max_in));
    n.n_in = n_in;
    for (int i = 0; i < n_in; i++) {
        n.in[i] = in[i];
        if (in[i].id < 0 || in[i].id > g->n || (in[i].id == 0 && i < sc->min_in))
            return fail_here(g, err_set(ST_INTERNAL, "%s: input %d is not a tensor of this graph", sc->name, i));
    }
    if (a) n.a = *a;
    status st = g->rules->infer[o](g, &n, &n.s);
    if (st != ST_OK) return fail_here(g, err_wrap(st, "%s", sc->name));
    return append(g, &n);
}

tensor graph_add_like(graph *g, const node *n, const tensor *in, int n_in)
{
    graph_set_layer(g, n->layer);
    if (n->op == OP_INPUT && n->a.input.kind == IN_ACTIVATION) return graph_activation(g, (int)n->a.input.number, &n->s);
    if (n->op == OP_INPUT) return graph_input(g, (input_kind)n->a.input.kind, &n->s);
    if (n->op == OP_WEIGHT) return graph_weight_of(g, &n->s, &n->a.weight);
    return graph_add(g, n->op, in, n_in, &n->a);
}

status graph_finish(graph *g, tensor output)
{
    if (g->failed != ST_OK) return err_set(g->failed, "%s", g->message);
    g->output = output;
    return graph_verify(g);
}

dtype graph_activation_type(const graph *g)
{
    for (int id = 1; id <= graph_n_nodes(g); id++)
        if (graph_at(g, id)->op == OP_WEIGHT) return graph_at(g, id)->s.type;
    return DT_F32;
}
