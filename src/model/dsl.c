#include "model/dsl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *full_name(const net *n, const char *name, const char *suffix, char *dst, size_t cap)
{
    if (n->layer >= 0) snprintf(dst, cap, "model.layers.%d.%s.%s", n->layer, name, suffix);
    else snprintf(dst, cap, "%s.%s", name, suffix);
    return dst;
}

static tensor weight(net *n, weight_ref w, const char *suffix, int rank, int64_t width, axis in, quant_scheme quant)
{
    char name[256];
    shape s = { n->type, rank, { w.to - w.from, width }, { w.out, in } };
    weight_part part = { full_name(n, w.name, suffix, name, sizeof name), w.from, w.to, w.total, w.out, 0 };
    return graph_weight_of(n->g, &s, &(weight_attrs){ w.role, 1, &part, 0, quant });
}

tensor linear(net *n, tensor x, weight_ref w, bool bias)
{
    shape s = graph_node(n->g, x)->s;
    tensor in[3] = { x, weight(n, w, "weight", 2, s.dim[1], s.axes[1], n->quant) };
    if (bias) in[2] = weight(n, w, "bias", 1, 0, AX_NONE, QUANT_NONE);
    return graph_add(n->g, OP_LINEAR, in, 3, NULL);
}

tensor rms_norm(net *n, tensor x, const char *name)
{
    const shape *s = &graph_node(n->g, x)->s;
    int last = s->rank > 0 ? s->rank - 1 : 0;
    weight_ref w = { ROLE_REPL, s->axes[last], name, 0, s->dim[last], s->dim[last] };
    tensor in[] = { x, weight(n, w, "weight", 1, 0, AX_NONE, QUANT_NONE) };
    return graph_add(n->g, OP_RMS_NORM, in, 2, &(op_attrs){ .rms_norm = { n->c->eps } });
}

tensor split_heads(net *n, tensor x, int head_dim)
{
    return graph_add(n->g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { head_dim } });
}

tensor merge_heads(net *n, tensor x) { return graph_add(n->g, OP_MERGE_HEADS, &x, 1, NULL); }

tensor rope(net *n, tensor x) { return graph_add(n->g, OP_ROPE, (tensor[]){ x, n->rope_table }, 2, NULL); }

tensor paged_attention(net *n, tensor q, tensor k, tensor v)
{
    op_attrs a = { .paged_attention = { .cache = n->layer, .scale = 1 / sqrt((double)n->c->head_dim), .window = n->c->window[n->layer] } };
    return graph_add(n->g, OP_PAGED_ATTENTION, (tensor[]){ q, k, v }, 3, &a);
}

tensor add(net *n, tensor x, tensor y) { return graph_add(n->g, OP_ADD, (tensor[]){ x, y }, 2, NULL); }
tensor glu(net *n, tensor gate, tensor up) { return graph_add(n->g, OP_GLU, (tensor[]){ gate, up }, 2, &(op_attrs){ .glu = { .act = ACT_SILU } }); }

tensor embed(net *n, tensor ids, const char *name, int rows, int width)
{
    tensor in[] = { ids, weight(n, W(VOCAB, VOCAB, name, rows), "weight", 2, width, AX_EMBED, QUANT_NONE) };
    return graph_add(n->g, OP_EMBED, in, 2, NULL);
}

static tensor input(net *n, input_kind kind)
{
    bool rows = kind == IN_ROWS;
    return graph_input(n->g, kind, &(shape){ DT_I32, 1, { rows ? DIM_R : DIM_T }, { rows ? AX_ROWS : AX_TOKENS } });
}

static tensor rope_table(net *n)
{
    const rope_config *r = &n->c->rope;
    op_attrs a = { .rope_table = { { r->n_variants, r->scale }, { (int64_t)r->n_variants * (r->rot / 2), r->inv_freq } } };
    return graph_add(n->g, OP_ROPE_TABLE, &n->positions, 1, &a);
}

static void at_layer(net *n, int layer)
{
    n->layer = layer;
    graph_set_layer(n->g, layer);
}

tensor decoder_lm(net *n, layer_fn *layer)
{
    const model_config *c = n->c;
    at_layer(n, -1);
    tensor ids = input(n, IN_TOKENS), rows;
    n->positions = input(n, IN_POSITIONS);
    n->rope_table = rope_table(n);
    tensor x = embed(n, ids, "model.embed_tokens", c->vocab, c->hidden);
    for (int l = 0; l < c->n_layers; l++) {
        at_layer(n, l);
        x = layer(n, x);
    }
    at_layer(n, -1);
    x = rms_norm(n, x, "model.norm");
    rows = input(n, IN_ROWS);
    x = graph_add(n->g, OP_GATHER_ROWS, (tensor[]){ x, rows }, 2, NULL);
    n->quant = quant_of_head(n->quant);
    return linear(n, x, W(VOCAB, VOCAB, c->tied ? "model.embed_tokens" : "lm_head", c->vocab), false);
}

tensor prenorm_block(net *n, tensor x, layer_fn *attention, layer_fn *mlp)
{
    x = add(n, x, attention(n, rms_norm(n, x, "input_layernorm")));
    return add(n, x, mlp(n, rms_norm(n, x, "post_attention_layernorm")));
}

tensor gated_mlp(net *n, tensor x)
{
    const model_config *c = n->c;
    tensor gate = linear(n, x, W(COL, MLP, "mlp.gate_proj", c->intermediate), c->mlp_bias);
    tensor up = linear(n, x, W(COL, MLP, "mlp.up_proj", c->intermediate), c->mlp_bias);
    return linear(n, glu(n, gate, up), W(ROW, EMBED, "mlp.down_proj", c->hidden), c->mlp_bias);
}
