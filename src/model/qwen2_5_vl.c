/* Qwen2.5-VL (Bai et al. 2025, arXiv:2502.13923), the language model: Qwen2's layer with multimodal rope. A text token's three
 * positions are one and the same; an image's differ, and each of three runs of the rope's frequencies follows one of them. */
#include "model/dsl.h"

static status read(const jv *j, model_config *c)
{
    (void)j;
    if (c->ropes[0].height + c->ropes[0].width > 0) return ST_OK;
    return err_set(ST_INVALID, "config.json: mrope_section is missing in rope_scaling");
}

const model_family qwen2_5_vl_family = {
    "Qwen2_5_VLForConditionalGeneration",
    { .eps = 1e-5, .max_position = 32768, .n_kv_heads = 8, .uses_window = true, .sliding_window = 4096, .max_window_layers = 80, .rope_theta = 1e6,
      .read = read },
    qwen2_layer,
};
