/* Llama 2, 3, 3.1, 3.2 (text) and 3.3 (Touvron et al. 2023, arXiv:2307.09288; Grattafiori et al. 2024, arXiv:2407.21783).
 *
 *   x = x + o_proj(attention(rope(q_proj(norm(x))), rope(k_proj(norm(x))), v_proj(norm(x))))
 *   x = x + down_proj(silu(gate_proj(norm(x))) * up_proj(norm(x)))
 *
 * Grouped query attention; 3.1 and later scale the rope's frequencies ("llama3"); biases and tied embeddings by config.json. */
#include "model/dsl.h"

static tensor attention(net *n, tensor x)
{
    const model_config *c = n->c;
    int q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim;
    bool bias = c->attention_bias;
    tensor q = split_heads(n, linear(n, x, W(COL, HEADS, "self_attn.q_proj", q_dim), bias), c->head_dim);
    tensor k = split_heads(n, linear(n, x, W(COL, KV_HEADS, "self_attn.k_proj", kv_dim), bias), c->head_dim);
    tensor v = split_heads(n, linear(n, x, W(COL, KV_HEADS, "self_attn.v_proj", kv_dim), bias), c->head_dim);
    tensor y = paged_attention(n, rope(n, q), rope(n, k), v);
    return linear(n, merge_heads(n, y), W(ROW, EMBED, "self_attn.o_proj", c->hidden), bias);
}

static tensor layer(net *n, tensor x) { return prenorm_block(n, x, attention, gated_mlp); }

const model_family llama_family = { "LlamaForCausalLM", { .eps = 1e-6, .max_position = 2048 }, layer };
