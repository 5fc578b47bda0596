/* Qwen3-Omni (Xu et al. 2025, arXiv:2509.17765), the thinker's language model, which makes the text: Qwen3-MoE with multimodal rope. A
 * token's three positions (time, height, width) take turns over the frequencies, whatever config.json says of that; a text token's
 * are one and the same. */
#include "model/dsl.h"

static status read(const jv *j, model_config *c)
{
    TRY(qwen3_moe_read(j, c));
    if (c->ropes[0].height + c->ropes[0].width == 0) return err_set(ST_INVALID, "config.json: mrope_section is missing in rope_scaling");
    c->ropes[0].mrope_interleaved = true;
    return ST_OK;
}

const model_family qwen3_omni_family = {
    "Qwen3OmniMoeForConditionalGeneration",
    { .eps = 1e-6, .max_position = 32768, .n_kv_heads = 4, .uses_window = true, .sliding_window = 4096, .max_window_layers = 28, .rope_theta = 1e6,
      .read = read },
    qwen3_moe_layer,
};
