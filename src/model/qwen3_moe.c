/* Qwen3-MoE (Yang et al. 2025, arXiv:2505.09388): Qwen3 with a mixture of experts for a MLP.
 *
 *   x = x + attention(norm(x))                                                       as Qwen3
 *   x = x + sum over the top k experts e of p_e down_e(silu(gate_e(y)) * up_e(y))    y = norm(x), p = softmax(router(y))
 *
 * norm_topk_prob divides by the sum of the chosen p. Every decoder_sparse_step-th layer has experts, but for those that
 * mlp_only_layers lists; the others have a dense MLP. */
#include "model/dsl.h"

static status read_dense(const jv *j, model_config *c)
{
    const jv *list = jv_get(j, "mlp_only_layers");
    if (config_absent(j, "mlp_only_layers")) return ST_OK;
    if (!jv_is(list, JV_ARR)) return err_set(ST_INVALID, "config.json: mlp_only_layers is a %s, expected a list of layers", jv_kind_name(jv_type(list)));
    for (size_t i = 0; i < jv_len(list); i++) {
        int64_t l = jv_i64(jv_at(list, i), -1);
        if (l < 0) return err_set(ST_INVALID, "config.json: mlp_only_layers[%zu] is no layer", i);
        if (l < c->n_layers) c->layers[l].moe = false;
    }
    return ST_OK;
}

status qwen3_moe_read(const jv *j, model_config *c)
{
    int step;
    moe_config *m = &c->moe;
    TRY(config_int(j, config_either(j, "num_experts", "num_local_experts"), 1, 4096, 128, &m->n_experts));
    TRY(config_int(j, "num_experts_per_tok", 1, m->n_experts < 64 ? m->n_experts : 64, 8, &m->top_k));
    TRY(config_int(j, "moe_intermediate_size", 1, 1 << 22, 768, &m->intermediate));
    TRY(config_int(j, "decoder_sparse_step", 1, CONFIG_MAX_LAYERS, 1, &step));
    TRY(config_bool(j, "norm_topk_prob", false, &m->norm));
    m->scale = 1;
    for (int l = 0; l < c->n_layers; l++) c->layers[l].moe = (l + 1) % step == 0;
    return read_dense(j, c);
}

static tensor sparse_mlp(net *n, tensor x)
{
    int64_t f = n->c->moe.intermediate;
    const expert_names names = { .gate = { "mlp.experts.*.gate_proj.weight", 0, f, f, 0 }, .up = { "mlp.experts.*.up_proj.weight", 0, f, f, 0 },
                                 .down = "mlp.experts.*.down_proj.weight" };
    tensor logits = linear(n, x, W(REPL, EXPERTS, "mlp.gate", n->c->moe.n_experts), false);
    return experts(n, x, route(n, logits, ROUTE_SOFTMAX_TOPK, NULL), &names, false);
}

tensor qwen3_moe_layer(net *n, tensor x) { return prenorm_block(n, x, qwen3_attention, n->c->layers[n->layer].moe ? sparse_mlp : gated_mlp); }

const model_family qwen3_moe_family = {
    "Qwen3MoeForCausalLM",
    { .eps = 1e-6, .max_position = 32768, .n_kv_heads = 4, .uses_window = true, .sliding_window = 4096, .max_window_layers = 28, .read = qwen3_moe_read },
    qwen3_moe_layer,
};
