/* Which layers are equal, and so become one loop; which weights are stacked for it; which caches share an array. */
#include <string.h>

#include "base/mem.h"
#include "device/pjrt/lower.h"

enum { MAX_PERIOD = 16 };

/* The nodes of a layer, leaves left out: ids [first, first + n) of `order`. */
typedef struct span { int layer, at, n; } span;

typedef struct finder {
    lower_plan *p;
    const graph *g;
    int *order;         /* [n_order] ids of all nodes that compute, in order */
    int n_order;
    span *spans;        /* runs of one layer in it */
    int n_spans;
    int *pos_of;        /* [n_nodes + 1] index in order, -1 for leaves */
    int *n_uses;        /* [n_nodes + 1] */
} finder;

static bool is_weight(const graph *g, int id) { return id && graph_at(g, id)->op == OP_WEIGHT; }

static bool same_weight_form(const node *a, const node *b)
{
    if (!shape_equal(&a->s, &b->s) || a->a.weight.role != b->a.weight.role || a->a.weight.n_parts != b->a.weight.n_parts ||
        a->a.weight.col_shards != b->a.weight.col_shards || a->a.weight.scheme != b->a.weight.scheme || a->a.weight.expert_shards != b->a.weight.expert_shards) return false;
    for (int64_t i = 0; i < a->a.weight.n_parts; i++) {
        const weight_part *p = &a->a.weight.parts[i], *q = &b->a.weight.parts[i];
        if (weight_part_count(p) != weight_part_count(q) || p->shards != q->shards) return false;
    }
    return true;
}

/* Attributes equal, the cache's number aside. */
static bool same_attrs(const node *a, const node *b)
{
    node x = *a, y = *b;
    x.layer = y.layer;
    x.n_in = y.n_in = 0;
    if (op_is(x.op, OPF_EFFECT)) x.a.kv.cache = y.a.kv.cache = 0;
    return node_equal(&x, &y);
}

/* ---- do n nodes at `b` repeat those at `a`? ---- */

/* A weight is either the same in all repetitions, or each has one that nothing else reads: those are stacked. */
static bool same_weight(const finder *f, int x, int y)
{
    return x == y || (f->n_uses[x] == 1 && f->n_uses[y] == 1 && same_weight_form(graph_at(f->g, x), graph_at(f->g, y)));
}

/* Where the input of a repetition comes from. */
static bool same_input(const finder *f, int a, int b, int n, int x, int y, lower_segment *s)
{
    const graph *g = f->g;
    if (!x || !y) return x == y;
    if (is_weight(g, x) || is_weight(g, y)) return is_weight(g, x) && is_weight(g, y) && same_weight(f, x, y);
    int px = f->pos_of[x], py = f->pos_of[y];
    bool own_x = px >= a && px < a + n, own_y = py >= b && py < b + n;
    if (own_x || own_y) return own_x && own_y && px - a == py - b;
    if (x == y) return py < a;                       /* made before the loop, the same for all */
    /* What the repetition before made. */
    if (py < b - n || py >= b) return false;
    int at = py - (b - n);
    for (int c = 0; c < s->n_carries; c++)
        if (s->carry_at[c] == at || s->carry_in[c] == x) return s->carry_at[c] == at && s->carry_in[c] == x;
    if (b != a + n || s->n_carries == LOWER_CARRIES || !shape_equal(&graph_at(g, x)->s, &graph_at(g, y)->s)) return false;
    s->carry_in[s->n_carries] = x;
    s->carry_at[s->n_carries++] = at;
    return true;
}

/* What the first repetition reads as the value that is carried, none may read as a value made before the loop: in the loop a
 * node has one value. */
static bool plain_carries(const finder *f, int a, int b, int n, const lower_segment *s)
{
    for (int i = 0; i < n; i++) {
        const node *x = graph_at(f->g, f->order[a + i]), *y = graph_at(f->g, f->order[b + i]);
        for (int j = 0; j < x->n_in; j++)
            for (int c = 0; c < s->n_carries; c++)
                if (x->in[j].id == s->carry_in[c] && y->in[j].id == x->in[j].id) return false;
    }
    return true;
}

static bool repeats(const finder *f, int a, int b, int n, lower_segment *s)
{
    for (int i = 0; i < n; i++) {
        const node *x = graph_at(f->g, f->order[a + i]), *y = graph_at(f->g, f->order[b + i]);
        if (x->n_in != y->n_in || !same_attrs(x, y)) return false;
        if (op_is(x->op, OPF_EFFECT) && f->p->cache_at[x->a.kv.cache].array != f->p->cache_at[y->a.kv.cache].array) return false;
        for (int j = 0; j < x->n_in; j++)
            if (!same_input(f, a, b, n, x->in[j].id, y->in[j].id, s)) return false;
    }
    return plain_carries(f, a, b, n, s);
}

/* Nothing after the loop may read what only an earlier repetition, or no carried value, holds. */
static bool closed(const finder *f, int a, int n, int count, const lower_segment *s)
{
    int end = a + n * count;
    for (int i = end; i < f->n_order; i++) {
        const node *x = graph_at(f->g, f->order[i]);
        for (int j = 0; j < x->n_in; j++) {
            int at = x->in[j].id ? f->pos_of[x->in[j].id] : -1;
            bool carried = false;
            for (int c = 0; c < s->n_carries; c++) carried = carried || at == end - n + s->carry_at[c];
            if (at >= a && at < end && !carried) return false;
        }
    }
    int out = f->pos_of[graph_output(f->g).id];
    return out < a || out >= end;
}

/* The most nodes from span i on that are one loop. */
static int best_loop(const finder *f, int i, lower_segment *best)
{
    int covered = 0;
    for (int period = 1; period <= MAX_PERIOD && i + 2 * period <= f->n_spans; period++) {
        lower_segment s = { .count = 1 };
        int a = f->spans[i].at;
        bool layers = true;
        for (int k = 0; k < period; k++) {
            s.n_nodes += f->spans[i + k].n;
            layers = layers && f->spans[i + k].layer >= 0;
        }
        if (!layers) break;
        while (i + (s.count + 1) * period <= f->n_spans && a + (s.count + 1) * s.n_nodes <= f->n_order && repeats(f, a, a + s.count * s.n_nodes, s.n_nodes, &s)) s.count++;
        while (s.count > 1 && !closed(f, a, s.n_nodes, s.count, &s)) s.count--;
        if (s.count < 2 || s.count * period <= covered) continue;
        covered = s.count * period;
        *best = s;
    }
    return covered;
}

static void find_segments(finder *f)
{
    lower_plan *p = f->p;
    for (int i = 0; i < f->n_spans;) {
        lower_segment s = { .count = 1, .n_nodes = f->spans[i].n };
        int n = f->spans[i].layer >= 0 ? best_loop(f, i, &s) : 0;
        s.nodes = f->order + f->spans[i].at;
        p->segments[p->n_segments++] = s;
        i += n ? n : 1;
    }
}

/* ---- caches ---- */

void lower_cache_dims(const lower_cache *x, int64_t n_pages, int64_t page, int64_t out[4])
{
    const kv_scale_shape s = hlo_kv_scales(&x->kv, page);
    out[0] = x->n_places * n_pages;
    out[1] = x->of_scales ? s.rows : page;
    out[2] = x->of_scales ? 1 : x->kv.rows;
    out[3] = x->of_scales ? s.lanes : x->kv.lanes;
}

int64_t lower_cache_page_bytes(const lower_cache *x, int64_t page)
{
    int64_t dim[4];
    lower_cache_dims(x, 1, page, dim);
    return (int64_t)dtype_bytes(x->kv.type, (size_t)(dim[1] * dim[2] * dim[3]));
}

/* The array of caches of this shape, made if there is none. */
static int array_of(lower_plan *p, const node *n, dtype type)
{
    hlo_kv kv = hlo_kv_for(p->g, n, type, p->head_multiple);
    for (int c = 0; c < p->n_caches; c++) {
        const hlo_kv *x = &p->caches[c].kv;
        if (!p->caches[c].of_scales && x->heads == kv.heads && x->dim == kv.dim && x->latent == kv.latent) return c;
    }
    const int made = p->n_caches++;
    const bool scaled = type == DT_I8;
    p->caches[made] = (lower_cache){ .kv = kv, .scales = scaled ? p->n_caches : -1 };
    if (!scaled) return made;
    kv.type = DT_F32;
    p->caches[p->n_caches++] = (lower_cache){ .kv = kv, .scales = -1, .of_scales = true };
    return made;
}

/* Layers of a group take places one after the other, those of each shape for themselves. */
static status place_caches(lower_plan *p, dtype type)
{
    int n = graph_n_caches(p->g);
    kv_place *at = mem_calloc((size_t)n + 1, sizeof *at);
    int *used = mem_calloc((size_t)(n + 1) * KV_MAX_GROUPS, sizeof *used);
    kv_spec s;
    if (at && used) kv_layout_of(p->g, &p->groups, at);
    for (int id = 1; at && used && id <= graph_n_nodes(p->g); id++) {
        const node *x = graph_at(p->g, id);
        if (!kv_spec_of(p->g, x, &s)) continue;
        int c = array_of(p, x, type), group = at[s.cache].group, index = used[c * KV_MAX_GROUPS + group]++;
        p->cache_at[s.cache] = (struct lower_place){ c, index, group };
        if (index >= p->caches[c].n_places) p->caches[c].n_places = index + 1;
        if (p->caches[c].scales >= 0) p->caches[p->caches[c].scales].n_places = p->caches[c].n_places;
    }
    status st = at && used ? ST_OK : err_nomem();
    mem_free(at);
    mem_free(used);
    return st;
}

/* ---- weights ---- */

static void add_weight(lower_plan *p, int *nodes, int n, bool stacked)
{
    shape s;
    for (int k = 0; k < n; k++) p->arg_of[nodes[k]] = p->n_weights;
    for (int piece = 0; piece < WEIGHT_PIECES; piece++)
        if (hlo_weight_shape(graph_at(p->g, nodes[0]), (weight_piece)piece, &s))
            p->weights[p->n_weights++] = (lower_weight){ n, nodes, stacked, s, (weight_piece)piece };
}

/* A weight that every repetition has to itself is stacked; one that all share is not. */
static status collect_weights(lower_plan *p)
{
    for (int i = 0; i < p->n_segments; i++) {
        const lower_segment *s = &p->segments[i];
        for (int j = 0; j < s->n_nodes; j++) {
            const node *x = graph_at(p->g, s->nodes[j]);
            for (int in = 0; in < x->n_in; in++) {
                int id = x->in[in].id;
                if (!is_weight(p->g, id) || p->arg_of[id] >= 0) continue;
                int *nodes = arena_alloc(&p->mem, (size_t)s->count * sizeof *nodes);
                if (!nodes) return err_nomem();
                for (int k = 0; k < s->count; k++) nodes[k] = graph_at(p->g, s->nodes[k * s->n_nodes + j])->in[in].id;
                bool shared = s->count == 1 || nodes[1] == id;
                add_weight(p, nodes, shared ? 1 : s->count, !shared);
            }
        }
    }
    return ST_OK;
}

static void find_order(finder *f)
{
    for (int id = 1; id <= graph_n_nodes(f->g); id++) {
        const node *n = graph_at(f->g, id);
        f->pos_of[id] = -1;
        for (int i = 0; i < n->n_in; i++) f->n_uses[n->in[i].id]++;
        if (n->op == OP_INPUT && n->a.input.kind == IN_ACTIVATION) f->p->inputs[f->p->n_inputs++] = id;
        if (op_is(n->op, OPF_LEAF)) continue;
        if (f->n_spans == 0 || f->spans[f->n_spans - 1].layer != n->layer) f->spans[f->n_spans++] = (span){ n->layer, f->n_order, 0 };
        f->spans[f->n_spans - 1].n++;
        f->pos_of[id] = f->n_order;
        f->order[f->n_order++] = id;
    }
}

static status check_weights(const graph *g)
{
    for (int id = 1; id <= graph_n_nodes(g); id++)
        if (is_weight(g, id)) TRY(hlo_weight_check(graph_at(g, id)));
    return ST_OK;
}

status lower_plan_new(const graph *g, dtype kv_dtype, int head_multiple, lower_plan **out)
{
    TRY(check_weights(g));
    size_t n = (size_t)graph_n_nodes(g) + 1, n_caches = (size_t)graph_n_caches(g) + 1;
    lower_plan *p = mem_calloc(1, sizeof *p);
    if (!p) return err_nomem();
    p->g = g;
    p->head_multiple = head_multiple;
    finder f = { .p = p, .g = g };
    p->weights = arena_calloc(&p->mem, n * WEIGHT_PIECES, sizeof *p->weights);
    p->segments = arena_calloc(&p->mem, n, sizeof *p->segments);
    p->inputs = arena_calloc(&p->mem, n, sizeof *p->inputs);
    p->arg_of = arena_alloc(&p->mem, n * sizeof *p->arg_of);
    p->caches = arena_calloc(&p->mem, 2 * n_caches, sizeof *p->caches);
    p->cache_at = arena_calloc(&p->mem, n_caches, sizeof *p->cache_at);
    f.order = arena_alloc(&p->mem, n * sizeof *f.order);
    f.spans = arena_alloc(&p->mem, n * sizeof *f.spans);
    f.pos_of = arena_alloc(&p->mem, n * sizeof *f.pos_of);
    f.n_uses = arena_calloc(&p->mem, n, sizeof *f.n_uses);
    status st = p->weights && p->segments && p->inputs && p->arg_of && p->caches && p->cache_at && f.order && f.spans && f.pos_of && f.n_uses ? ST_OK : err_nomem();
    if (st == ST_OK) {
        find_order(&f);
        for (size_t i = 0; i < n; i++) p->arg_of[i] = -1;
        st = place_caches(p, kv_dtype);
    }
    if (st == ST_OK) {
        find_segments(&f);
        st = collect_weights(p);
    }
    if (st == ST_OK) *out = p;
    else lower_plan_free(p);
    return st;
}

void lower_plan_free(lower_plan *p)
{
    if (!p) return;
    arena_free(&p->mem);
    mem_free(p);
}
