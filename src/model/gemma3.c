/* Gemma 3 (Gemma Team 2025, arXiv:2503.19786), the language model, alone or inside the multimodal one.
 *
 *   x = sqrt(hidden) embed(token)                           the factor rounded as the weights' type does
 *   x = x + norm(o_proj(attention(rope(norm(q_proj(y))), rope(norm(k_proj(y))), v_proj(y))))      y = norm(x)
 *   x = x + norm(down_proj(gelu(gate_proj(y)) * up_proj(y)))                                      y = norm(x)
 *
 * Attention is Qwen3's. Each norm multiplies by 1 + weight; what attention and MLP make is normalised before it is added. Five layers of six attend
 * within a window and rotate by rope_local_base_freq, unscaled; every sixth sees everything and rotates by rope_theta, in the larger
 * sizes stretched by 8. Scores are scaled by query_pre_attn_scalar^-1/2. Tied embeddings. The context length is what config.json
 * says: the rope's factor is in it already. */
#include <math.h>

#include "model/dsl.h"

static status read(const jv *j, model_config *c)
{
    double scalar, local, cap;
    const jv *params = jv_get(j, "rope_parameters");
    TRY(config_real(j, "query_pre_attn_scalar", 1e-3, 1e6, 256, &scalar));
    TRY(config_real(j, "rope_local_base_freq", 1, 1e15, 10000, &local));
    TRY(config_real(j, "attn_logit_softcapping", 0, 1e6, 0, &c->softcap));
    TRY(config_real(j, "final_logit_softcapping", 0, 1e6, 0, &cap));
    if (cap > 0) return err_set(ST_UNSUPPORTED, "config.json: final_logit_softcapping %g is not supported; supported: null", cap);
    c->attention_scale = 1 / sqrt(scalar);
    c->embed_scale = sqrt((double)c->hidden);
    c->norm_plus_one = true;
    if (config_absent(j, "hidden_activation") && config_absent(j, "hidden_act")) c->act = ACT_GELU_TANH;
    /* newer configurations have an object for each kind of layer */
    const jv *sliding = jv_get(params, "sliding_attention"), *full = jv_get(params, "full_attention");
    if (jv_is(full, JV_OBJ)) TRY(config_rope(j, full, 1e6, c, &c->ropes[0]));
    TRY(config_rope(j, jv_is(sliding, JV_OBJ) ? sliding : NULL, local, c, &c->ropes[1]));
    c->n_ropes = 2;
    c->ropes[0].max_len = c->max_position;
    for (int l = 0; l < c->n_layers; l++) c->layers[l].rope = c->layers[l].window ? 1 : 0;
    return ST_OK;
}

static tensor layer(net *n, tensor x)
{
    x = add(n, x, rms_norm(n, qwen3_attention(n, rms_norm(n, x, "input_layernorm")), "post_attention_layernorm"));
    return add(n, x, rms_norm(n, gated_mlp(n, rms_norm(n, x, "pre_feedforward_layernorm")), "post_feedforward_layernorm"));
}

#define GEMMA3_DEFAULTS                                                                                                          \
    { .eps = 1e-6, .max_position = 131072, .n_kv_heads = 4, .head_dim = 256, .uses_window = true, .sliding_window = 4096,        \
      .window_pattern = 6, .vocab = 262208, .n_layers = 26, .hidden = 2304, .intermediate = 9216, .n_heads = 8, .rope_theta = 1e6, \
      .tied = true, .read = read }

const model_family gemma3_family = { "Gemma3ForCausalLM", GEMMA3_DEFAULTS, layer };
const model_family gemma3_mm_family = { "Gemma3ForConditionalGeneration", GEMMA3_DEFAULTS, layer };
