#include "graph/kv_groups.h"

bool kv_spec_of(const graph *g, const node *n, kv_spec *out)
{
    if (n->op != OP_PAGED_ATTENTION) return false;
    const shape *k = &graph_node(g, n->in[1])->s;
    *out = (kv_spec){ .cache = (int)n->a.kv.cache, .heads = k->dim[1], .dim = k->dim[2], .window = n->a.paged_attention.window, .chunk = n->a.paged_attention.chunk,
                      .latent = n->a.paged_attention.latent > 0 };
    return true;
}

/* The layers that see the same, and their groups. */
typedef struct kind { int64_t window, chunk; int n_layers, seen, first_group, n_groups; } kind;
typedef struct kinds { int n, n_caches; bool many, equal; kind v[KV_MAX_GROUPS]; } kinds;

static kind *kind_of(kinds *k, const kv_spec *s)
{
    for (int i = 0; i < k->n; i++)
        if (k->v[i].window == s->window && k->v[i].chunk == s->chunk) return &k->v[i];
    if (k->n == KV_MAX_GROUPS) {
        k->many = true;
        return &k->v[0];
    }
    k->v[k->n] = (kind){ .window = s->window, .chunk = s->chunk };
    return &k->v[k->n++];
}

static void find_kinds(const graph *g, kinds *out)
{
    kv_spec first = { 0 }, s;
    *out = (kinds){ .equal = true };
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        if (!kv_spec_of(g, graph_at(g, id), &s)) continue;
        if (out->n_caches++ == 0) first = s;
        out->equal = out->equal && s.heads == first.heads && s.dim == first.dim && s.latent == first.latent;
        kind_of(out, &s)->n_layers++;
    }
    if (out->n == 0) out->n = 1;
    if (!out->many) return;
    out->n = 1; /* a group that keeps everything serves whatever its layers see */
    out->v[0] = (kind){ .n_layers = out->n_caches };
}

static int groups_of(const kinds *k, int size)
{
    int n = 0;
    for (int i = 0; i < k->n; i++) n += k->v[i].n_layers ? (k->v[i].n_layers - 1) / size + 1 : 1;
    return n;
}

/* Layers of a group: of the least kind, or of the largest if that wastes less than a quarter. Layers of different sizes are not dealt
 * out: a kind is a group. */
static int group_size(const kinds *k)
{
    int least = k->v[0].n_layers, most = least;
    for (int i = 1; i < k->n; i++) {
        least = k->v[i].n_layers < least ? k->v[i].n_layers : least;
        most = k->v[i].n_layers > most ? k->v[i].n_layers : most;
    }
    if (!k->equal || 4 * most < 5 * least || least == 0) return most ? most : 1;
    while (groups_of(k, least) > KV_MAX_GROUPS) least++;
    return least;
}

void kv_layout_of(const graph *g, kv_layout *out, kv_place *at)
{
    kinds k;
    kv_spec s;
    find_kinds(g, &k);
    int size = group_size(&k);
    *out = (kv_layout){ 0 };
    for (int i = 0; i < k.n; i++) {
        kind *x = &k.v[i];
        x->first_group = out->n_groups;
        x->n_groups = x->n_layers ? (x->n_layers - 1) / size + 1 : 1;
        for (int j = 0; j < x->n_groups; j++) out->group[out->n_groups++] = (kv_group){ .window = x->window, .chunk = x->chunk };
    }
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        if (!kv_spec_of(g, graph_at(g, id), &s)) continue;
        kind *x = k.many ? &k.v[0] : kind_of(&k, &s);
        kv_place p = { .group = x->first_group + x->seen % x->n_groups, .place = x->seen / x->n_groups };
        x->seen++;
        kv_group *to = &out->group[p.group];
        if (++to->n_layers > out->n_places) out->n_places = to->n_layers;
        if (at) at[s.cache] = p;
    }
}

static int64_t blocks_for(int64_t n_tokens, int block_size) { return (n_tokens + block_size - 1) / block_size; }

int64_t kv_group_blocks(const kv_group *g, int64_t n_tokens, int64_t step_tokens, int block_size)
{
    int64_t all = blocks_for(n_tokens, block_size), most = all, some;
    if (g->window) {
        some = blocks_for(g->window - 1 + step_tokens, block_size) + 1; /* the window may begin within a block */
        most = some < most ? some : most;
    }
    if (g->chunk) {
        some = blocks_for(g->chunk + step_tokens, block_size) + (g->chunk % block_size != 0);
        most = some < most ? some : most;
    }
    return most;
}

int64_t kv_layout_blocks(const kv_layout *l, int64_t n_tokens, int64_t step_tokens, int block_size)
{
    int64_t n = 0;
    for (int i = 0; i < l->n_groups; i++) n += kv_group_blocks(&l->group[i], n_tokens, step_tokens, block_size);
    return n;
}
