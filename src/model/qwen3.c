/* Qwen3, dense (Yang et al. 2025, arXiv:2505.09388): Llama's layer with q and k normalised per head before the rope. */
#include "model/dsl.h"

tensor qwen3_attention(net *n, tensor x)
{
    const model_config *c = n->c;
    int q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    bool bias = c->attention_bias;
    tensor q = split_heads(n, linear(n, x, W(COL, HEADS, "self_attn.q_proj", q_dim), bias), c->head_dim);
    tensor k = split_heads(n, linear(n, x, W(COL, KV_HEADS, "self_attn.k_proj", kv_dim), bias), c->head_dim);
    tensor v = split_heads(n, linear(n, x, W(COL, KV_HEADS, "self_attn.v_proj", kv_dim), bias), c->head_dim);
    q = rope(n, rms_norm(n, q, "self_attn.q_norm"));
    k = rope(n, rms_norm(n, k, "self_attn.k_norm"));
    return linear(n, merge_heads(n, paged_attention(n, q, k, v)), W(ROW, EMBED, "self_attn.o_proj", c->hidden), bias);
}

static tensor layer(net *n, tensor x) { return prenorm_block(n, x, qwen3_attention, gated_mlp); }

const model_family qwen3_family = {
    "Qwen3ForCausalLM",
    { .eps = 1e-6, .max_position = 32768, .head_dim = 128, .uses_window = true, .sliding_window = 4096, .max_window_layers = 28 },
    layer,
};
