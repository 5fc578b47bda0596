/* Mistral 7B and its successors (Jiang et al. 2023, arXiv:2310.06825): Llama's layer without biases, with a sliding window on
 * every layer where config.json has one (v0.1; null later). */
#include "model/dsl.h"

static tensor attention(net *n, tensor x)
{
    const model_config *c = n->c;
    int q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    tensor q = split_heads(n, linear(n, x, W(COL, HEADS, "self_attn.q_proj", q_dim), false), c->head_dim);
    tensor k = split_heads(n, linear(n, x, W(COL, KV_HEADS, "self_attn.k_proj", kv_dim), false), c->head_dim);
    tensor v = split_heads(n, linear(n, x, W(COL, KV_HEADS, "self_attn.v_proj", kv_dim), false), c->head_dim);
    tensor y = paged_attention(n, rope(n, q), rope(n, k), v);
    return linear(n, merge_heads(n, y), W(ROW, EMBED, "self_attn.o_proj", c->hidden), false);
}

static tensor layer(net *n, tensor x) { return prenorm_block(n, x, attention, gated_mlp); }

const model_family mistral_family = {
    "MistralForCausalLM",
    { .eps = 1e-6, .max_position = 131072, .n_kv_heads = 8, .uses_window = true, .sliding_window = 4096 },
    layer,
};
