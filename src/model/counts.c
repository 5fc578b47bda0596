#include "model/counts.h"

#include "model/encoder.h"

#include <string.h>

#include "graph/kv_groups.h"
#include "model/kv_scales.h"
#include "ops/op.h"

/* A tied head is the embedding again; where it is quantised it has a node of its own but the same values on disk. */
static bool seen_before(const graph *g, int id)
{
    const weight_part *p = graph_at(g, id)->a.weight.parts;
    for (int i = 1; i < id; i++) {
        const node *w = graph_at(g, i);
        if (w->op == OP_WEIGHT && strcmp(w->a.weight.parts[0].name, p->name) == 0 && w->a.weight.parts[0].from == p->from) return true;
    }
    return false;
}

/* A stored scheme as its checkpoint has it: a byte for the scales of 4-bit floats, square blocks of fp8 with one float, else 16 bits
 * for a group's scale. */
static double stored_bits(quant_info q, double k)
{
    double bits = (double)dtype_bits(q.type);
    if (!q.group) return bits + 32 / k;
    if (q.type == DT_F4E2M1) return bits + 8.0 / q.group;
    if (q.type == DT_F8E4M3) return bits + 32.0 / q.group / q.group;
    return bits + (16.0 + (q.zeros ? bits : 0)) / q.group;
}

static double bits_of(const node *w)
{
    quant_scheme s = (quant_scheme)w->a.weight.scheme;
    double k = (double)w->s.dim[w->s.rank - 1];
    return !s ? (double)dtype_bits(w->s.type) : quant_is_stored(s) ? stored_bits(quant_describe(s), k) : quant_bits(s, k);
}

/* The first operation of a kind that reads a weight; NULL if none does. */
static const node *reader_of(const graph *g, int id, op kind)
{
    for (int i = id + 1; i <= graph_n_nodes(g); i++) {
        const node *n = graph_at(g, i);
        for (int k = 0; n->op == kind && k < n->n_in; k++)
            if (n->in[k].id == id) return n;
    }
    return NULL;
}

/* The share of a weight that a token meets: of experts' tensors those of the experts that it goes to. */
static double active_share(const graph *g, int id)
{
    const node *w = graph_at(g, id), *n = weight_has_experts(w) ? reader_of(g, id, OP_EXPERTS) : NULL;
    return n ? (double)n->a.experts.top_k / (double)weight_experts(w) : 1;
}

void model_count_params(const graph *g, model_params *out)
{
    *out = (model_params){ 0 };
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        const node *w = graph_at(g, id);
        if (w->op != OP_WEIGHT) continue;
        int64_t n = w->s.dim[0] * shape_cols(&w->s);
        out->bytes += (double)n * bits_of(w) / 8;
        /* what corrects a router's choice is a buffer to those who count parameters, and so are scales of a cache */
        if (seen_before(g, id) || reader_of(g, id, OP_ROUTE) || kv_scale_wanted(w->a.weight.parts[0].name)) continue;
        out->total += n;
        out->active += (int64_t)((double)n * active_share(g, id) + 0.5);
        if (w->a.weight.scheme) out->quantised += n;
        if (reader_of(g, id, OP_EMBED)) out->embedding += n;
    }
}

status model_count_encoders(const jv *config, dtype type, int64_t *out)
{
    *out = 0;
    for (encoder_kind k = 0; k < ENCODER_KINDS; k++) {
        encoder *e;
        TRY(encoder_new(config, k, type, &e));
        if (!e) continue;
        for (int i = 0; i < encoder_n_stages(e); i++) {
            model_params p;
            model_count_params(encoder_graph(e, i), &p);
            *out += p.total;
        }
        *out += encoder_table_params(e);
        encoder_free(e);
    }
    return ST_OK;
}

static void add_kind(model_kv_kind *out, int *n, model_kv_kind k)
{
    for (int i = 0; i < *n; i++)
        if (strcmp(out[i].name, k.name) == 0 && out[i].reach == k.reach && out[i].elements == k.elements) {
            out[i].n_layers += k.n_layers;
            return;
        }
    if (*n < MODEL_MAX_KV_KINDS) out[(*n)++] = k;
}

int model_kv_kinds(const graph *g, model_kv_kind out[MODEL_MAX_KV_KINDS])
{
    int n = 0;
    for (int everything = 1; everything >= 0; everything--)
        for (int id = 1; id <= graph_n_nodes(g); id++) {
            kv_spec s;
            if (!kv_spec_of(g, graph_at(g, id), &s)) continue;
            const int64_t reach = s.window ? s.window : s.chunk;
            if ((reach == 0) != everything) continue;
            add_kind(out, &n, (model_kv_kind){ s.latent ? "latent" : s.window ? "window" : s.chunk ? "chunk" : "full", 1, reach,
                                               s.heads * s.dim * (s.latent ? 1 : 2) });
        }
    return n;
}
