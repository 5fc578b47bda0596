#include "model/dsl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *full_name(const net *n, const char *name, const char *suffix, char *dst, size_t cap)
{
    const char *dot = *suffix ? "." : "";
    if (n->layer >= 0) snprintf(dst, cap, "model.layers.%d.%s%s%s", n->layer, name, dot, suffix);
    else snprintf(dst, cap, "%s%s%s", name, dot, suffix);
    return dst;
}

static tensor weight(net *n, weight_ref w, const char *suffix, int rank, int64_t width, axis in, quant_scheme quant)
{
    char name[256];
    shape s = { n->type, rank, { w.to - w.from, width }, { w.out, in } };
    weight_part part = { full_name(n, w.name, suffix, name, sizeof name), w.from, w.to, w.total, w.out, 0, 0 };
    return graph_weight_of(n->g, &s, &(weight_attrs){ w.role, 1, &part, 0, quant, 0 });
}

quant_scheme weight_scheme(const net *n, const char *name)
{
    char module[256];
    quant_module m;
    if (!n->stored) return n->quant;
    if (n->layer >= 0) snprintf(module, sizeof module, "model.layers.%d.%s", n->layer, name);
    quantization_module(n->stored, n->layer >= 0 ? module : name, &m);
    return m.scheme;
}

tensor linear(net *n, tensor x, weight_ref w, bool bias)
{
    shape s = graph_node(n->g, x)->s;
    /* routers, which choose experts, are not quantised */
    tensor in[3] = { x, weight(n, w, "weight", 2, s.dim[1], s.axes[1], w.out == AX_EXPERTS ? QUANT_NONE : weight_scheme(n, w.name)) };
    if (bias) in[2] = weight(n, w, "bias", 1, 0, AX_NONE, QUANT_NONE);
    return graph_add(n->g, OP_LINEAR, in, 3, NULL);
}

tensor rms_norm_eps(net *n, tensor x, const char *name, double eps)
{
    const shape *s = &graph_node(n->g, x)->s;
    int last = s->rank > 0 ? s->rank - 1 : 0;
    weight_ref w = { ROLE_REPL, s->axes[last], name, 0, s->dim[last], s->dim[last] };
    tensor in[] = { x, weight(n, w, "weight", 1, 0, AX_NONE, QUANT_NONE) };
    return graph_add(n->g, OP_RMS_NORM, in, 2, &(op_attrs){ .rms_norm = { eps, n->c->norm_plus_one } });
}

tensor rms_norm(net *n, tensor x, const char *name) { return rms_norm_eps(n, x, name, n->c->eps); }

tensor rms_norm_plain(net *n, tensor x) { return graph_add(n->g, OP_RMS_NORM, &x, 1, &(op_attrs){ .rms_norm = { n->c->eps, 0 } }); }

tensor split_heads(net *n, tensor x, int head_dim)
{
    return graph_add(n->g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { head_dim } });
}

tensor merge_heads(net *n, tensor x) { return graph_add(n->g, OP_MERGE_HEADS, &x, 1, NULL); }

tensor rope(net *n, tensor x)
{
    int at = n->c->layers[n->layer].rope;
    if (at < 0) return x;
    return graph_add(n->g, OP_ROPE, (tensor[]){ x, n->rope_tables[at] }, 2, &(op_attrs){ .rope = { n->c->rope_interleaved } });
}

/* Two numbers, of K and of V, that a checkpoint need not have (weights.c). */
static tensor kv_scales(net *n)
{
    char name[2][256];
    weight_part parts[2];
    for (int i = 0; i < 2; i++) parts[i] = (weight_part){ full_name(n, i ? "self_attn.v_scale" : "self_attn.k_scale", "", name[i], sizeof name[i]), 0, 1, 1, AX_NONE, 0, 0 };
    return n->kv_scales ? graph_weight(n->g, ROLE_REPL, &(shape){ DT_F32, 1, { 2 }, { AX_NONE } }, parts, 2) : NO_TENSOR;
}

static tensor attend(net *n, tensor q, tensor k, tensor v, tensor sinks)
{
    const layer_config *l = &n->c->layers[n->layer];
    op_attrs a = { .paged_attention = { .cache = n->layer, .scale = n->c->attention_scale, .window = l->window, .chunk = l->chunk, .softcap = n->c->softcap } };
    return graph_add(n->g, OP_PAGED_ATTENTION, (tensor[]){ q, k, v, sinks, kv_scales(n) }, 5, &a);
}

tensor paged_attention(net *n, tensor q, tensor k, tensor v) { return attend(n, q, k, v, NO_TENSOR); }

tensor attention_with_sinks(net *n, tensor q, tensor k, tensor v, const char *name)
{
    int64_t heads = n->c->n_heads;
    return attend(n, q, k, v, weight(n, (weight_ref){ ROLE_COL, AX_HEADS, name, 0, heads, heads }, "", 1, 0, AX_NONE, QUANT_NONE));
}

tensor latent_attention(net *n, tensor q, tensor k, int latent)
{
    op_attrs a = { .paged_attention = { .cache = n->layer, .scale = n->c->attention_scale, .latent = latent } };
    return graph_add(n->g, OP_PAGED_ATTENTION, (tensor[]){ q, k, NO_TENSOR, NO_TENSOR, kv_scales(n) }, 5, &a);
}

tensor slice(net *n, tensor x, int64_t from, int64_t to) { return graph_add(n->g, OP_SLICE, &x, 1, &(op_attrs){ .slice = { from, to } }); }
tensor head_slice(net *n, tensor x, int64_t from, int64_t to) { return graph_add(n->g, OP_HEAD_SLICE, &x, 1, &(op_attrs){ .slice = { from, to } }); }
tensor concat(net *n, tensor x, tensor y) { return graph_add(n->g, OP_CONCAT, (tensor[]){ x, y }, 2, NULL); }

tensor head_linear(net *n, tensor x, const char *name, int64_t from, int64_t to, int64_t cols, bool transposed)
{
    char full[WEIGHT_NAME_MAX], base[256];
    const shape *s = &graph_node(n->g, x)->s;
    int64_t heads = s->dim[1], rows = transposed ? cols : to - from;
    snprintf(full, sizeof full, "%s[*/%lld,%lld:%lld]%s", full_name(n, name, "weight", base, sizeof base), (long long)heads, (long long)from, (long long)to, transposed ? "T" : "");
    weight_part part = { .name = full, .to = rows, .total = rows, .out_axis = AX_HEAD_DIM };
    shape w = { n->type, 3, { heads, rows, transposed ? to - from : cols }, { AX_EXPERTS, AX_HEAD_DIM, AX_HEAD_DIM } };
    tensor in[] = { x, graph_weight_of(n->g, &w, &(weight_attrs){ .role = ROLE_COL, .n_parts = 1, .parts = &part }) };
    return graph_add(n->g, OP_HEAD_LINEAR, in, 2, NULL);
}

tensor scale(net *n, tensor x, double factor) { return graph_add(n->g, OP_SCALE, &x, 1, &(op_attrs){ .scale = { factor } }); }

tensor scale_by_position(net *n, tensor x, double floor, double factor)
{
    op_attrs a = { .scale_by_position = { floor, factor } };
    return graph_add(n->g, OP_SCALE_BY_POSITION, (tensor[]){ x, n->positions }, 2, &a);
}

tensor add(net *n, tensor x, tensor y) { return graph_add(n->g, OP_ADD, (tensor[]){ x, y }, 2, NULL); }
tensor glu(net *n, tensor gate, tensor up)
{
    op_attrs a = { .glu = { n->c->act, n->c->act_alpha, n->c->act_limit } };
    return graph_add(n->g, OP_GLU, (tensor[]){ gate, up }, 2, &a);
}

tensor embed(net *n, tensor ids, const char *name, int rows, int width)
{
    tensor in[] = { ids, weight(n, W(VOCAB, VOCAB, name, rows), "weight", 2, width, AX_EMBED, QUANT_NONE) };
    return graph_add(n->g, OP_EMBED, in, 2, NULL);
}

/* ---- mixture of experts ---- */

tensor route(net *n, tensor logits, route_kind kind, const char *correction)
{
    const moe_config *m = &n->c->moe;
    op_attrs a = { .route = { m->top_k, kind, m->norm, m->scale, m->groups, m->groups_kept } };
    tensor in[2] = { logits };
    if (correction) in[1] = weight(n, (weight_ref){ ROLE_REPL, AX_EXPERTS, correction, 0, m->n_experts, m->n_experts }, "", 1, 0, AX_NONE, QUANT_NONE);
    return graph_add(n->g, OP_ROUTE, in, 2, &a);
}

/* One tensor per expert, of one run of rows or two: [experts, rows, width], [experts, rows] where width is 0. */
static tensor expert_weight(net *n, weight_role role, axis out, const expert_rows *rows, int n_rows, int64_t width, axis in)
{
    char name[2][256];
    weight_part parts[2];
    shape s = { n->type, width ? 3 : 2, { n->c->moe.n_experts, 0, width }, { AX_EXPERTS, out, in } };
    for (int i = 0; i < n_rows; i++) {
        const expert_rows *r = &rows[i];
        parts[i] = (weight_part){ full_name(n, r->name, "", name[i], sizeof name[i]), r->from, r->to, r->total, out, 0, r->step };
        s.dim[1] += weight_part_count(&parts[i]);
    }
    return graph_weight_of(n->g, &s, &(weight_attrs){ role, n_rows, parts, 0, width ? weight_scheme(n, rows[0].name) : QUANT_NONE, 0 });
}

tensor experts(net *n, tensor x, tensor combine, const expert_names *e, bool scale_input)
{
    const model_config *c = n->c;
    int64_t h = c->hidden;
    const expert_rows both[] = { e->gate, e->up }, biases[] = { e->gate_bias, e->up_bias };
    const expert_rows down = { e->down, 0, h, h, 0 }, down_bias = { e->down_bias, 0, h, h, 0 };
    tensor in[] = { x, combine, expert_weight(n, ROLE_COL, AX_MLP, both, 2, h, AX_EMBED),
                    expert_weight(n, ROLE_ROW, AX_EMBED, &down, 1, c->moe.intermediate, AX_MLP), NO_TENSOR, NO_TENSOR };
    if (e->gate_bias.name) in[4] = expert_weight(n, ROLE_COL, AX_MLP, biases, 2, 0, AX_NONE);
    if (e->down_bias) in[5] = expert_weight(n, ROLE_ROW, AX_EMBED, &down_bias, 1, 0, AX_NONE);
    op_attrs a = { .experts = { .top_k = c->moe.top_k, .act = c->act, .alpha = c->act_alpha, .limit = c->act_limit, .scale_input = scale_input } };
    return graph_add(n->g, OP_EXPERTS, in, 6, &a);
}

static tensor input(net *n, input_kind kind)
{
    bool rows = kind == IN_ROWS;
    return graph_input(n->g, kind, &(shape){ DT_I32, 1, { rows ? DIM_R : DIM_T }, { rows ? AX_ROWS : AX_TOKENS } });
}

static tensor rope_table(net *n, const rope_config *r)
{
    op_attrs a = { .rope_table = { { r->n_variants, r->scale }, { (int64_t)r->n_variants * (r->rot / 2), r->inv_freq },
                                   r->height, r->width, r->mrope_interleaved } };
    return graph_add(n->g, OP_ROPE_TABLE, &n->positions, 1, &a);
}

static void at_layer(net *n, int layer)
{
    n->layer = layer;
    graph_set_layer(n->g, layer);
}

/* A constant as a tensor of the model's type holds it. */
static double in_type(dtype t, double v)
{
    float f = (float)v;
    uint32_t stored = 0;
    dtype_from_f32(t, &f, &stored, 1);
    dtype_to_f32(t, &stored, &f, 1);
    return (double)f;
}

/* Float input number i of the step. */
static tensor step_rows(net *n, int i, int width)
{
    return graph_activation(n->g, i, &(shape){ DT_F32, 2, { DIM_T, width }, { AX_TOKENS, width > 1 ? AX_EMBED : AX_NONE } });
}

/* Encoders' rows for placeholders: input 0, and a mask behind the deepstack levels' (1, 2, ..), which are added after the first layers. */
static tensor merge_media(net *n, tensor x)
{
    return graph_add(n->g, OP_MERGE_EMBEDS, (tensor[]){ x, step_rows(n, 0, n->c->hidden), step_rows(n, n->media, 1) }, 3, NULL);
}

tensor decoder_lm(net *n, layer_fn *layer)
{
    const model_config *c = n->c;
    at_layer(n, -1);
    tensor ids = input(n, IN_TOKENS), rows;
    n->positions = input(n, IN_POSITIONS);
    for (int i = 0; i < c->n_ropes; i++) n->rope_tables[i] = rope_table(n, &c->ropes[i]);
    tensor x = embed(n, ids, "model.embed_tokens", c->vocab, c->hidden);
    if (c->embed_scale != 0) x = scale(n, x, in_type(n->type, c->embed_scale));
    if (n->media) x = merge_media(n, x);
    for (int l = 0; l < c->n_layers; l++) {
        at_layer(n, l);
        x = layer(n, x);
        if (l + 1 < n->media) x = add(n, x, step_rows(n, l + 1, c->hidden));
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

tensor gated_mlp_of(net *n, tensor x, const char *module, int width)
{
    char name[3][128];
    static const char *const parts[] = { "gate_proj", "up_proj", "down_proj" };
    for (int i = 0; i < 3; i++) snprintf(name[i], sizeof name[i], "%s.%s", module, parts[i]);
    tensor gate = linear(n, x, W(COL, MLP, name[0], width), n->c->mlp_bias);
    tensor up = linear(n, x, W(COL, MLP, name[1], width), n->c->mlp_bias);
    return linear(n, glu(n, gate, up), W(ROW, EMBED, name[2], n->c->hidden), n->c->mlp_bias);
}

tensor gated_mlp(net *n, tensor x) { return gated_mlp_of(n, x, "mlp", n->c->intermediate); }
