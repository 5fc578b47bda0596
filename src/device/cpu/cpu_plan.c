/* The plan of a graph: where every tensor lives and when, which steps run and where threads must wait for each other. */
#include "base/mem.h"
#include "device/cpu/cpu.h"
#include "device/cpu/pages.h"

static int64_t most_rows(const cpu_model *m, int64_t dim)
{
    return dim == DIM_T ? m->limits.max_tokens : dim == DIM_S ? m->limits.max_seqs : dim == DIM_R ? m->limits.max_rows : dim;
}

/* Rows start on cache lines, and not all in the same sets of the caches: powers of two are avoided. */
static int64_t padded_ld(int64_t cols)
{
    int64_t ld = (cols + 15) / 16 * 16;
    return ld % 256 == 0 ? ld + 16 : ld;
}

static void place_view(place *places, const node *n, place *p)
{
    const place *src = &places[n->in[0].id];
    *p = (place){ .kind = src->kind, .root = src->root, .col = src->col + (n->op == OP_SLICE ? n->a.slice.from : 0), .ld = src->ld };
}

static status place_nodes(cpu_model *m)
{
    int n_nodes = graph_n_nodes(m->g);
    for (int id = 1; id <= n_nodes; id++) {
        const node *n = graph_at(m->g, id);
        place *p = &m->places[id];
        if (op_is(n->op, OPF_VIEW)) {
            place_view(m->places, n, p);
            if (p->kind == PLACE_INPUT) return err_set(ST_UNSUPPORTED, "%s of an input of the graph", op_name(n->op));
            continue;
        }
        *p = (place){ .root = id, .first = m->n_steps, .last = m->n_steps };
        if (n->op == OP_INPUT) {
            p->kind = PLACE_INPUT;
            if (n->a.input.kind != IN_ACTIVATION) continue;
            p->ld = shape_cols(&n->s);
            p->offset = (size_t)n->a.input.number;
            const size_t bytes = (size_t)(most_rows(m, n->s.dim[0]) * p->ld) * sizeof(float);
            if (bytes > m->zeros_bytes) m->zeros_bytes = bytes;
        } else if (n->op == OP_WEIGHT) {
            p->kind = PLACE_WEIGHT;
        } else {
            p->kind = id == graph_output(m->g).id ? PLACE_LOGITS : PLACE_BUFFER;
            p->ld = p->kind == PLACE_LOGITS ? shape_cols(&n->s) : padded_ld(shape_cols(&n->s));
            p->bytes = (size_t)(most_rows(m, n->s.dim[0]) * p->ld) * sizeof(float);
            for (int i = 0; i < n->n_in; i++) m->places[m->places[n->in[i].id].root].last = m->n_steps;
            m->n_steps++;
        }
    }
    return ST_OK;
}

/* Lowest offset where p fits beside the buffers that live at the same time. O(n^2) over a few hundred nodes, once. */
static size_t find_room(const cpu_model *m, const place *p, int id)
{
    size_t at = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (int j = 1; j < id; j++) {
            const place *o = &m->places[j];
            if (o->kind != PLACE_BUFFER || o->root != j || o->last < p->first || o->first > p->last) continue;
            if (at < o->offset + o->bytes && o->offset < at + p->bytes) {
                at = (o->offset + o->bytes + 63) / 64 * 64;
                moved = true;
            }
        }
    }
    return at;
}

static void place_buffers(cpu_model *m)
{
    for (int id = 1; id <= graph_n_nodes(m->g); id++) {
        place *p = &m->places[id];
        if (p->kind != PLACE_BUFFER || p->root != id) continue;
        p->offset = find_room(m, p, id);
        if (p->offset + p->bytes > m->arena_bytes) m->arena_bytes = p->offset + p->bytes;
    }
}

/* A group's layers lie in its blocks one after the other; blocks are as large as the largest group needs. */
static status plan_caches(cpu_model *m)
{
    kv_place *places = mem_calloc((size_t)m->n_caches + 1, sizeof *places);
    size_t used[KV_MAX_GROUPS] = { 0 };
    kv_spec s;
    if (!places) return err_nomem();
    kv_layout_of(m->g, &m->groups, places);
    for (int id = 1; id <= graph_n_nodes(m->g); id++) {
        const node *n = graph_at(m->g, id);
        if (!kv_spec_of(m->g, n, &s)) continue;
        kv_layer *kv = &m->kv[s.cache];
        size_t *offset = &used[places[s.cache].group];
        *kv = kv_layer_of(m->g, n, m->limits.kv_dtype, m->limits.block_size);
        kv->group = places[s.cache].group;
        kv->offset = *offset;
        *offset += kv_layer_bytes(kv);
        if (*offset > m->block_bytes) m->block_bytes = *offset;
    }
    for (int i = 0; i < m->n_caches; i++) m->kv[i].block_bytes = m->block_bytes;
    mem_free(places);
    return ST_OK;
}

/* ---- steps ---- */

/* Do two steps touch the same memory, one of them writing? Views count as their roots. */
static bool overlap(const cpu_model *m, tensor a, tensor b)
{
    const place *p = &m->places[m->places[a.id].root], *q = &m->places[m->places[b.id].root];
    if (!a.id || !b.id || p->kind != q->kind) return false;
    if (p->kind == PLACE_LOGITS) return true;
    return p->kind == PLACE_BUFFER && p->offset < q->offset + q->bytes && q->offset < p->offset + p->bytes;
}

static op_needs needs_of(const cpu_model *m, const node *n)
{
    op_needs need = { 0 };
    if (op_impl_of(n->op)->needs) op_impl_of(n->op)->needs(m->g, n, &m->limits, &need);
    return need;
}

/* Operations share one piece of memory for their state. */
static bool conflicts(const cpu_model *m, int a_id, int b_id)
{
    const node *a = graph_at(m->g, a_id), *b = graph_at(m->g, b_id);
    if (overlap(m, (tensor){ a_id }, (tensor){ b_id }) || (needs_of(m, a).state_bytes && needs_of(m, b).state_bytes)) return true;
    for (int i = 0; i < b->n_in; i++)
        if (overlap(m, (tensor){ a_id }, b->in[i])) return true;
    for (int i = 0; i < a->n_in; i++)
        if (overlap(m, a->in[i], (tensor){ b_id })) return true;
    return false;
}

static void bind_tensor(const cpu_model *m, int id, cpu_tensor *t)
{
    const node *n = graph_at(m->g, id);
    const place *p = &m->places[id];
    *t = (cpu_tensor){ .cols = shape_cols(&n->s), .ld = p->ld, .rows = n->s.dim[0], .type = n->s.type };
    if (p->kind == PLACE_BUFFER) t->f = (float *)(void *)(m->arena + m->places[p->root].offset) + p->col;
    if (p->kind == PLACE_WEIGHT && n->s.rank == weight_rows_dim(n) + 2) t->w = &m->weights[id].packed;
}

static status make_steps(cpu_model *m)
{
    int first = 1, s = 0; /* the first node since the last barrier */
    for (int id = 1; id <= graph_n_nodes(m->g); id++) {
        const node *n = graph_at(m->g, id);
        if (op_is(n->op, OPF_LEAF | OPF_VIEW)) continue;
        step *st = &m->steps[s];
        st->impl = op_impl_of(n->op);
        st->call = (cpu_call){ .n = n, .isa = m->dev->isa, .limits = &m->limits, .state = m->state, .state_bytes = m->state_bytes,
                               .counters = m->counters + (size_t)s * COUNTERS };
        if (!st->impl->cpu[m->dev->isa]) return err_set(ST_UNSUPPORTED, "%s has no kernel for %s", op_name(n->op), isa_name(m->dev->isa));
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i].id) bind_tensor(m, n->in[i].id, &st->call.in[i]);
        bind_tensor(m, id, &st->call.out);
        if (op_is(n->op, OPF_EFFECT)) st->call.kv = &m->kv[n->a.kv.cache];
        for (int j = first; j < id && !st->barrier; j++)
            st->barrier = !op_is(graph_at(m->g, j)->op, OPF_LEAF | OPF_VIEW) && conflicts(m, j, id);
        if (st->barrier) first = id;
        s++;
    }
    return ST_OK;
}

static void find_needs(cpu_model *m)
{
    for (int id = 1; id <= graph_n_nodes(m->g); id++) {
        const node *n = graph_at(m->g, id);
        op_needs need = needs_of(m, n);
        if (need.scratch_bytes > m->scratch_bytes) m->scratch_bytes = need.scratch_bytes;
        if (need.state_bytes > m->state_bytes) m->state_bytes = need.state_bytes;
        if (n->op == OP_EMBED) m->vocab = graph_node(m->g, n->in[1])->s.dim[0];
    }
    m->scratch_bytes = (m->scratch_bytes + 4095) / 4096 * 4096;
}

status cpu_plan(cpu_model *m)
{
    mesh on = graph_mesh(m->g);
    if (on.tp > 1 || on.dp > 1)
        return err_set(ST_UNSUPPORTED, "the cpu device is one device: no tensor parallelism (size %d) or data parallelism (size %d)", on.tp, on.dp);
    size_t n = (size_t)graph_n_nodes(m->g) + 1;
    m->n_caches = graph_n_caches(m->g);
    m->places = mem_calloc(n, sizeof *m->places);
    m->weights = mem_calloc(n, sizeof *m->weights);
    m->kv = mem_calloc((size_t)m->n_caches + 1, sizeof *m->kv);
    if (!m->places || !m->weights || !m->kv) return err_nomem();
    TRY(place_nodes(m));
    place_buffers(m);
    TRY(plan_caches(m));
    find_needs(m);
    m->steps = mem_calloc((size_t)m->n_steps, sizeof *m->steps);
    m->counters = mem_aligned(64, (size_t)m->n_steps * COUNTERS * sizeof *m->counters);
    if (!m->steps || !m->counters) return err_nomem();
    TRY(pages_alloc(m->arena_bytes, "activations", (void **)&m->arena));
    TRY(pages_alloc(m->zeros_bytes, "inputs of zeros", (void **)&m->zeros));
    TRY(pages_alloc(m->state_bytes, "state of operations", &m->state));
    TRY(pages_alloc(m->scratch_bytes * (size_t)m->limits.n_threads, "scratch", (void **)&m->scratch));
    return make_steps(m);
}
