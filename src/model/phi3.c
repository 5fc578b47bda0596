/* Phi-3, Phi-3.5 mini and Phi-4 (Abdin et al. 2024, arXiv:2404.14219): Llama's layer whose checkpoint stores q, k and v as one
 * tensor, gate and up as another. Here they are runs of its rows; the fusion pass joins them again as it does everywhere. Long
 * contexts by longrope, part of the head may be left unrotated. */
#include "model/dsl.h"

static tensor attention(net *n, tensor x)
{
    const model_config *c = n->c;
    int q_dim = c->n_heads * c->head_dim, kv_dim = c->n_kv_heads * c->head_dim, k_at = q_dim, v_at = q_dim + kv_dim, all = q_dim + 2 * kv_dim;
    tensor q = split_heads(n, linear(n, x, W_ROWS(COL, HEADS, "self_attn.qkv_proj", 0, k_at, all), false), c->head_dim);
    tensor k = split_heads(n, linear(n, x, W_ROWS(COL, KV_HEADS, "self_attn.qkv_proj", k_at, v_at, all), false), c->head_dim);
    tensor v = split_heads(n, linear(n, x, W_ROWS(COL, KV_HEADS, "self_attn.qkv_proj", v_at, all, all), false), c->head_dim);
    tensor y = paged_attention(n, rope(n, q), rope(n, k), v);
    return linear(n, merge_heads(n, y), W(ROW, EMBED, "self_attn.o_proj", c->hidden), false);
}

static tensor mlp(net *n, tensor x)
{
    int f = n->c->intermediate;
    tensor gate = linear(n, x, W_ROWS(COL, MLP, "mlp.gate_up_proj", 0, f, 2 * f), false);
    tensor up = linear(n, x, W_ROWS(COL, MLP, "mlp.gate_up_proj", f, 2 * f, 2 * f), false);
    return linear(n, glu(n, gate, up), W(ROW, EMBED, "mlp.down_proj", n->c->hidden), false);
}

static tensor layer(net *n, tensor x) { return prenorm_block(n, x, attention, mlp); }

const model_family phi3_family = { "Phi3ForCausalLM", { .eps = 1e-5, .max_position = 4096, .uses_window = true }, layer };
