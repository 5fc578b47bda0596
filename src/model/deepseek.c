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
    const jv *scaling = jv_get(j, config_absent(j, "rope_scaling") ? "rope_parameters" : "rope_scaling");
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
