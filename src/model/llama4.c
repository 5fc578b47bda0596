/* Llama 4 Scout and Maverick, and Llama Guard 4, which is dense (Meta 2025, ai.meta.com/blog/llama-4-multimodal-intelligence): the
 * language model, alone or inside the multimodal one.
 *
 *   x = x + o_proj(attention(q, k, v_proj(y)))                                                     y = norm(x)
 *       with rope:      q, k = norm(rope(q_proj(y))), norm(rope(k_proj(y)))      norms without weights, if use_qk_norm
 *       without (NoPE): q = q_proj(y) (1 + scale log(1 + floor((position + 1) / floor_scale))), k = k_proj(y)
 *   x = x + shared(y) + expert(sigmoid(r) y)                                                       y = norm(x), r = largest of router(y)
 *
 * Layers with rope, three of four, attend within chunks of attention_chunk_size positions; those without see everything. The rope
 * rotates neighbours. An expert's input is weighted, not its output. Layers without experts have a plain MLP, which is wider
 * (intermediate_size_mlp). All experts are one tensor, [experts, in, out], gate and up side by side. */
#include "model/dsl.h"

static status read_ropes(const jv *j, int chunk, model_config *c)
{
    const jv *list = jv_get(j, "no_rope_layers");
    bool given = jv_is(list, JV_ARR) && jv_len(list) > 0;
    int interval;
    TRY(config_int(j, "no_rope_layer_interval", 1, CONFIG_MAX_LAYERS, 4, &interval));
    if (given && jv_len(list) < (size_t)c->n_layers)
        return err_set(ST_INVALID, "config.json: no_rope_layers must have a number for each of the %d layers", c->n_layers);
    for (int l = 0; l < c->n_layers; l++) {
        bool rotates = given ? jv_i64(jv_at(list, (size_t)l), 1) != 0 : (l + 1) % interval != 0;   /* its 1 says that there is a rope */
        c->layers[l].rope = rotates ? 0 : -1;
        c->layers[l].chunk = rotates ? chunk : 0;
    }
    return ST_OK;
}

static status read_experts(const jv *j, model_config *c)
{
    const jv *list = jv_get(j, "moe_layers");
    int step;
    TRY(config_int(j, "num_local_experts", 0, 4096, 16, &c->moe.n_experts));
    TRY(config_int(j, "num_experts_per_tok", 0, 64, 1, &c->moe.top_k));
    TRY(config_int(j, "interleave_moe_layer_step", 0, CONFIG_MAX_LAYERS, 1, &step));
    c->moe.intermediate = c->moe.shared = c->intermediate;
    c->moe.scale = 1;
    for (int l = 0; l < c->n_layers && !jv_is(list, JV_ARR); l++) c->layers[l].moe = step > 0 && (l + 1) % step == 0;
    for (size_t i = 0; jv_is(list, JV_ARR) && i < jv_len(list); i++) {
        int64_t l = jv_i64(jv_at(list, i), -1);
        if (l < 0 || l >= c->n_layers) return err_set(ST_INVALID, "config.json: moe_layers[%zu] is no layer", i);
        c->layers[l].moe = true;
    }
    for (int l = 0; l < c->n_layers; l++)
        if (c->layers[l].moe && (c->moe.top_k < 1 || c->moe.top_k > c->moe.n_experts))
            return err_set(ST_INVALID, "config.json: num_experts_per_tok is %d, expected 1 to num_local_experts, which is %d", c->moe.top_k, c->moe.n_experts);
    return ST_OK;
}

static status read(const jv *j, model_config *c)
{
    int chunk;
    bool tuned;
    bool none = !jv_is(jv_get(j, "attention_chunk_size"), JV_MISSING) && config_absent(j, "attention_chunk_size");
    TRY(config_int(j, "attention_chunk_size", 0, INT32_MAX, none ? 0 : 8192, &chunk));
    TRY(config_bool(j, "use_qk_norm", true, &c->qk_norm));
    TRY(config_bool(j, "attn_temperature_tuning", true, &tuned));
    TRY(config_real(j, "floor_scale", 1, 1e9, 8192, &c->temperature_floor));
    TRY(config_real(j, "attn_scale", -1e3, 1e3, 0.1, &c->temperature_scale));
    if (!tuned) c->temperature_scale = 0;
    c->rope_interleaved = true;
    TRY(read_ropes(j, chunk, c));
    TRY(read_experts(j, c));
    return config_int(j, "intermediate_size_mlp", 1, 1 << 22, 16384, &c->intermediate);
}

static tensor attention(net *n, tensor x)
{
    const model_config *c = n->c;
    int q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    bool bias = c->attention_bias, rotates = c->layers[n->layer].rope >= 0;
    tensor q = rope(n, split_heads(n, linear(n, x, W(COL, HEADS, "self_attn.q_proj", q_dim), bias), c->head_dim));
    tensor k = rope(n, split_heads(n, linear(n, x, W(COL, KV_HEADS, "self_attn.k_proj", kv_dim), bias), c->head_dim));
    tensor v = split_heads(n, linear(n, x, W(COL, KV_HEADS, "self_attn.v_proj", kv_dim), bias), c->head_dim);
    if (rotates && c->qk_norm) {
        q = rms_norm_plain(n, q);
        k = rms_norm_plain(n, k);
    }
    if (!rotates && c->temperature_scale != 0) q = scale_by_position(n, q, c->temperature_floor, c->temperature_scale);
    return linear(n, merge_heads(n, paged_attention(n, q, k, v)), W(ROW, EMBED, "self_attn.o_proj", c->hidden), bias);
}

static tensor mlp(net *n, tensor x)
{
    const model_config *c = n->c;
    if (!c->layers[n->layer].moe) return gated_mlp_of(n, x, "feed_forward", c->intermediate);
    int64_t f = c->moe.intermediate;
    const expert_names names = { .gate = { "feed_forward.experts.gate_up_proj[*]T", 0, f, 2 * f, 0 },
                                 .up = { "feed_forward.experts.gate_up_proj[*]T", f, 2 * f, 2 * f, 0 }, .down = "feed_forward.experts.down_proj[*]T" };
    tensor logits = linear(n, x, W(REPL, EXPERTS, "feed_forward.router", c->moe.n_experts), false);
    tensor routed = experts(n, x, route(n, logits, ROUTE_SIGMOID, NULL), &names, true);
    return add(n, gated_mlp_of(n, x, "feed_forward.shared_expert", c->moe.shared), routed);
}

static tensor layer(net *n, tensor x) { return prenorm_block(n, x, attention, mlp); }

#define LLAMA4_DEFAULTS                                                                                                             \
    { .eps = 1e-5, .max_position = 131072, .n_kv_heads = 8, .head_dim = 128, .vocab = 202048, .n_layers = 48, .hidden = 5120,        \
      .intermediate = 8192, .n_heads = 40, .rope_theta = 500000, .read = read }

const model_family llama4_family = { "Llama4ForCausalLM", LLAMA4_DEFAULTS, layer };
const model_family llama4_mm_family = { "Llama4ForConditionalGeneration", LLAMA4_DEFAULTS, layer };
