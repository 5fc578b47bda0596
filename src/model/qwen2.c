/* Qwen2 and Qwen2.5 (Yang et al. 2024, arXiv:2407.10671): Llama's layer with biases on q, k and v only. A sliding window,
 * where use_sliding_window switches it on, is for the layers from max_window_layers on. */
#include "model/dsl.h"

static tensor attention(net *n, tensor x)
{
    const model_config *c = n->c;
    int q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    tensor q = split_heads(n, linear(n, x, W(COL, HEADS, "self_attn.q_proj", q_dim), true), c->head_dim);
    tensor k = split_heads(n, linear(n, x, W(COL, KV_HEADS, "self_attn.k_proj", kv_dim), true), c->head_dim);
    tensor v = split_heads(n, linear(n, x, W(COL, KV_HEADS, "self_attn.v_proj", kv_dim), true), c->head_dim);
    tensor y = paged_attention(n, rope(n, q), rope(n, k), v);
    return linear(n, merge_heads(n, y), W(ROW, EMBED, "self_attn.o_proj", c->hidden), false);
}

tensor qwen2_layer(net *n, tensor x) { return prenorm_block(n, x, attention, gated_mlp); }

const model_family qwen2_family = {
    "Qwen2ForCausalLM",
    { .eps = 1e-6, .max_position = 32768, .uses_window = true, .sliding_window = 4096, .max_window_layers = 28 },
    qwen2_layer,
};
