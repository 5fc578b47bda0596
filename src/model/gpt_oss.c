/* gpt-oss (OpenAI 2025, arXiv:2508.10925).
 *
 *   x = x + o_proj(attention(rope(q_proj(y)), rope(k_proj(y)), v_proj(y); sinks))              y = norm(x)
 *   x = x + sum over 4 experts e of p_e (down_e(g sigmoid(1.702 g) (u + 1)) + bias)             y = norm(x), p = softmax(top 4 of router(y))
 *       g = min(gate_e(y), limit), u = max(-limit, min(up_e(y), limit))                        limit 7
 *
 * Biases everywhere. Each query head has a learned logit, its sink, that takes a share of the softmax for no value. Layers attend
 * within a window of 128 and to everything in turn. Yarn stretches the rope, without rounding its corners to whole dimensions. The
 * experts' gate and up are the even and the odd rows of one tensor, and all experts are one tensor, [experts, in, out]. */
#include <math.h>

#include "model/dsl.h"

static status read(const jv *j, model_config *c)
{
    double limit, alpha;
    TRY(config_int(j, "num_local_experts", 1, 4096, 128, &c->moe.n_experts));
    TRY(config_int(j, config_either(j, "num_experts_per_tok", "experts_per_token"), 1, c->moe.n_experts, 4, &c->moe.top_k));
    TRY(config_real(j, "swiglu_limit", 1e-3, 1e6, 7, &limit));
    TRY(config_real(j, "swiglu_alpha", 1e-3, 1e6, 1.702, &alpha));
    c->moe.intermediate = c->intermediate;
    c->moe.scale = 1;
    c->act = ACT_SWIGLU_OAI;
    c->act_alpha = alpha;
    c->act_limit = limit;
    for (int l = 0; l < c->n_layers; l++) {
        c->layers[l].moe = true;
        if (config_absent(j, "layer_types") && l % 2) c->layers[l].window = 0;
    }
    return ST_OK;
}

static tensor attention(net *n, tensor x)
{
    const model_config *c = n->c;
    int q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    tensor q = split_heads(n, linear(n, x, W(COL, HEADS, "self_attn.q_proj", q_dim), true), c->head_dim);
    tensor k = split_heads(n, linear(n, x, W(COL, KV_HEADS, "self_attn.k_proj", kv_dim), true), c->head_dim);
    tensor v = split_heads(n, linear(n, x, W(COL, KV_HEADS, "self_attn.v_proj", kv_dim), true), c->head_dim);
    tensor y = attention_with_sinks(n, rope(n, q), rope(n, k), v, "self_attn.sinks");
    return linear(n, merge_heads(n, y), W(ROW, EMBED, "self_attn.o_proj", c->hidden), true);
}

static tensor mlp(net *n, tensor x)
{
    int64_t f = n->c->moe.intermediate;
    const expert_names names = {
        .gate = { "mlp.experts.gate_up_proj[*]T", 0, 2 * f, 2 * f, 2 }, .up = { "mlp.experts.gate_up_proj[*]T", 1, 2 * f, 2 * f, 2 },
        .gate_bias = { "mlp.experts.gate_up_proj_bias[*]", 0, 2 * f, 2 * f, 2 }, .up_bias = { "mlp.experts.gate_up_proj_bias[*]", 1, 2 * f, 2 * f, 2 },
        .down = "mlp.experts.down_proj[*]T", .down_bias = "mlp.experts.down_proj_bias[*]" };
    tensor logits = linear(n, x, W(REPL, EXPERTS, "mlp.router", n->c->moe.n_experts), true);
    return experts(n, x, route(n, logits, ROUTE_TOPK_SOFTMAX, NULL), &names, false);
}

static tensor layer(net *n, tensor x) { return prenorm_block(n, x, attention, mlp); }

const model_family gpt_oss_family = {
    "GptOssForCausalLM",
    { .eps = 1e-5, .max_position = 131072, .n_kv_heads = 8, .head_dim = 64, .uses_window = true, .sliding_window = 128, .vocab = 201088, .n_layers = 36,
      .hidden = 2880, .intermediate = 2880, .n_heads = 64, .rope_theta = 150000, .read = read },
    layer,
};
