// layer: model
/* config.json of multimodal models: building the encoders' graphs of small ones. */
#include "base/mem.h"
#include "model/encoder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    jv *j = NULL;
    if (size > 1 << 16 || jv_parse((const char *)data, size, &j) != ST_OK) return 0;
    for (int k = 0; k < ENCODER_KINDS; k++) {
        const jv *thinker = jv_get(j, "thinker_config"), *c = thinker ? thinker : j;
        const jv *v = jv_get(c, k == ENCODER_IMAGE ? "vision_config" : "audio_config");
        /* deep ones only cost time */
        if (jv_get_i64(v, "depth", 4) > 4 || jv_get_i64(v, "num_hidden_layers", 4) > 4 || jv_get_i64(v, "encoder_layers", 4) > 4) continue;
        encoder *e = NULL;
        if (encoder_new(j, (encoder_kind)k, DT_F32, &e) != ST_OK || !e) continue;
        const encoder_input in = { .rows = 8, .cols = 96, .grid = { 1, 2, 4 } };
        int64_t n;
        if (encoder_n_tokens(e, &in, &n) == ST_OK && n < 0) __builtin_trap();
        encoder_free(e);
    }
    jv_free(j);
    return 0;
}
