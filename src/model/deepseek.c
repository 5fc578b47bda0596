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

static status read_attention(const jv *j, model_config *c)
{
    mla_config *m = &c->mla;
    TRY(config_int(j, "q_lora_rank", 0, 1 << 16, 0, &m->q_rank));
    TRY(config_int(j, "kv_lora_rank", 1, 1 << 14, 512, &m->kv_rank));
    TRY(config_int(j, "qk_nope_head_dim", 1, 1 << 12, 128, &m->nope));
    TRY(config_int(j, "qk_rope_head_dim", 2, 1 << 12, 64, &m->rope));
    TRY(config_int(j, "v_head_dim", 1, 1 << 12, 128, &m->v));
    if ((int64_t)c->n_heads * (m->kv_rank + m->rope) > 1 << 22) return err_set(ST_INVALID, "config.json: num_attention_heads %d times kv_lora_rank %d is too large", c->n_heads, m->kv_rank);
    c->rope_interleaved = true;
    if (config_bool(j, "rope_interleave", true, &c->rope_interleaved) != ST_OK) return ST_INVALID;
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
