/* DeepSeek-V3, V3.1 and R1 (DeepSeek-AI 2024, arXiv:2412.19437) and Kimi K2 (Kimi Team 2025, arXiv:2507.20534).
 *
 * Attention keeps one latent vector per token for all heads (multi-head latent attention, arXiv:2405.04434):
 *   q_nope, q_pe = q_b_proj(norm(q_a_proj(x)))              per head; q_proj(x) where q_lora_rank is null
 *   c, k_pe      = kv_a_proj_with_mqa(x)                     c = norm(c): the latent; k_pe: one for all heads
 *   k_nope, v    = kv_b_proj(c)                              per head
 *   y            = o_proj(attention(q_nope + rope(q_pe), k_nope + rope(k_pe), v))
 * A score q_nope . k_nope is (W_k^T q_nope) . c with W_k the rows of kv_b_proj that make k_nope, and the values' sum is W_v times the
 * sum of latents. So queries are brought to the latent's space and the cache holds [c, rope(k_pe)] alone.
 *
 * The first layers have a dense MLP, the others one shared expert and many routed ones: a token goes to the experts with the greatest
 * sigmoid(router(x)) + bias, of the groups of experts whose best two are greatest; their weights are the sigmoids, without the bias,
 * divided by their sum and multiplied by routed_scaling_factor. The checkpoint's last layer (multi-token prediction) is not read. */
#include <math.h>
#include <string.h>

#include "model/dsl.h"

/* transformers' norms of the latents use their class's default, whatever rms_norm_eps says. */
#define LATENT_EPS 1e-6

static status read_attention(const jv *j, model_config *c)
{
    mla_config *m = &c->mla;
    TRY(config_int(j, "q_lora_rank", 0, 1 << 16, 0, &m->q_rank));
    TRY(config_int(j, "kv_lora_rank", 1, 1 << 14, 512, &m->kv_rank));
    TRY(config_int(j, "qk_nope_head_dim", 1, 1 << 12, 128, &m->nope));
    TRY(config_int(j, "qk_rope_head_dim", 2, 1 << 12, 64, &m->rope));
    TRY(config_int(j, "v_head_dim", 1, 1 << 12, 128, &m->v));
    if ((int64_t)c->n_heads * (m->kv_rank + m->rope) > 1 << 22) return err_set(ST_INVALID, "config.json: num_attention_heads %d times kv_lora_rank %d is too large", c->n_heads, m->kv_rank);
    TRY(config_bool(j, "rope_interleave", true, &c->rope_interleaved));
    c->head_dim = m->rope; /* what is rotated */
    TRY(config_parse_rope(j, 10000, c));
    c->head_dim = m->nope + m->rope;
    c->n_kv_heads = 1;
    c->attention_scale = 1 / sqrt((double)c->head_dim);
    /* yarn stretches the scores too */
    const jv *scaling = jv_get(j, config_either(j, "rope_scaling", "rope_parameters"));
    double all = 0, factor = 1;
    TRY(config_real(scaling, "mscale_all_dim", 0, 1e6, 0, &all));
    TRY(config_real(scaling, "factor", 1e-3, 1e6, 1, &factor));
    if (all > 0 && factor > 1) {
        double mscale = 0.1 * all * log(factor) + 1;
        c->attention_scale *= mscale * mscale;
    }
    return ST_OK;
}

static tensor queries(net *n, tensor x)
{
    const mla_config *m = &n->c->mla;
    int dim = n->c->n_heads * (m->nope + m->rope);
    if (!m->q_rank) return split_heads(n, linear(n, x, W(COL, HEADS, "self_attn.q_proj", dim), false), m->nope + m->rope);
    x = linear(n, x, W(REPL, LATENT, "self_attn.q_a_proj", m->q_rank), n->c->attention_bias);
    x = rms_norm_eps(n, x, "self_attn.q_a_layernorm", LATENT_EPS);
    return split_heads(n, linear(n, x, W(COL, HEADS, "self_attn.q_b_proj", dim), false), m->nope + m->rope);
}

static tensor attention(net *n, tensor x)
{
    const model_config *c = n->c;
    const mla_config *m = &c->mla;
    tensor q = queries(n, x);
    tensor q_nope = head_linear(n, head_slice(n, q, 0, m->nope), "self_attn.kv_b_proj", 0, m->nope, m->kv_rank, true);
    q = concat(n, q_nope, rope(n, head_slice(n, q, m->nope, m->nope + m->rope)));
    tensor kv = linear(n, x, W(REPL, LATENT, "self_attn.kv_a_proj_with_mqa", m->kv_rank + m->rope), c->attention_bias);
    tensor latent = rms_norm_eps(n, slice(n, kv, 0, m->kv_rank), "self_attn.kv_a_layernorm", LATENT_EPS);
    tensor k_pe = rope(n, split_heads(n, slice(n, kv, m->kv_rank, m->kv_rank + m->rope), m->rope));
    tensor y = latent_attention(n, q, concat(n, split_heads(n, latent, m->kv_rank), k_pe), m->kv_rank);
    y = head_linear(n, y, "self_attn.kv_b_proj", m->nope, m->nope + m->v, m->kv_rank, false);
    return linear(n, merge_heads(n, y), W(ROW, EMBED, "self_attn.o_proj", c->hidden), c->attention_bias);
}

static status read_experts(const jv *j, model_config *c)
{
    moe_config *m = &c->moe;
    int dense, freq, shared;
    const char *method = jv_get_str(j, "topk_method", "noaux_tc"), *scoring = jv_get_str(j, "scoring_func", "sigmoid");
    if (strcmp(method, "noaux_tc") != 0) return err_set(ST_UNSUPPORTED, "config.json: topk_method '%s' is not supported; supported: noaux_tc", method);
    if (strcmp(scoring, "sigmoid") != 0) return err_set(ST_UNSUPPORTED, "config.json: scoring_func '%s' is not supported; supported: sigmoid", scoring);
    TRY(config_int(j, "n_routed_experts", 1, 4096, 256, &m->n_experts));
    TRY(config_int(j, "num_experts_per_tok", 1, m->n_experts < 64 ? m->n_experts : 64, 8, &m->top_k));
    TRY(config_int(j, "moe_intermediate_size", 1, 1 << 22, 2048, &m->intermediate));
    TRY(config_int(j, "n_shared_experts", 0, 64, 1, &shared));
    TRY(config_int(j, "n_group", 1, m->n_experts, 8, &m->groups));
    TRY(config_int(j, "topk_group", 1, m->groups, 4, &m->groups_kept));
    TRY(config_bool(j, "norm_topk_prob", true, &m->norm));
    TRY(config_real(j, "routed_scaling_factor", 1e-6, 1e6, 2.5, &m->scale));
    TRY(config_int(j, "first_k_dense_replace", 0, CONFIG_MAX_LAYERS, 3, &dense));
    TRY(config_int(j, "moe_layer_freq", 1, CONFIG_MAX_LAYERS, 1, &freq));
    if (m->n_experts % m->groups || m->n_experts / m->groups * m->groups_kept < m->top_k)
        return err_set(ST_INVALID, "config.json: n_group %d, of which topk_group %d are kept, does not go with %d experts, %d for each token", m->groups, m->groups_kept, m->n_experts, m->top_k);
    m->shared = shared * m->intermediate;
    for (int l = 0; l < c->n_layers; l++) c->layers[l].moe = l >= dense && l % freq == 0;
    return ST_OK;
}

static status read(const jv *j, model_config *c)
{
    TRY(read_attention(j, c));
    return read_experts(j, c);
}

static tensor mixture(net *n, tensor x)
{
    const moe_config *m = &n->c->moe;
    int64_t f = m->intermediate;
    const expert_names names = { .gate = { "mlp.experts.*.gate_proj.weight", 0, f, f, 0 }, .up = { "mlp.experts.*.up_proj.weight", 0, f, f, 0 },
                                 .down = "mlp.experts.*.down_proj.weight" };
    tensor logits = linear(n, x, W(REPL, EXPERTS, "mlp.gate", m->n_experts), false);
    tensor y = experts(n, x, route(n, logits, ROUTE_SIGMOID_BIAS, "mlp.gate.e_score_correction_bias"), &names, false);
    return m->shared ? add(n, y, gated_mlp_of(n, x, "mlp.shared_experts", m->shared)) : y;
}

static tensor layer(net *n, tensor x) { return prenorm_block(n, x, attention, n->c->layers[n->layer].moe ? mixture : gated_mlp); }

const model_family deepseek_family = {
    "DeepseekV3ForCausalLM",
    { .eps = 1e-6, .max_position = 4096, .hidden = 7168, .intermediate = 18432, .n_layers = 61, .n_heads = 128, .vocab = 129280,
      .head_dim = 192 /* read() sets it: hidden need not be a multiple of heads */, .read = read },
    layer,
};
