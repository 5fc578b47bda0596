// layer: model
/* config.json of a model: parsing, and building the graph of small ones. */
#include "model/config.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const config_defaults defaults = { .eps = 1e-6, .max_position = 2048, .uses_window = true, .max_window_layers = 2, .sliding_window = 64 };
    jv *j = NULL;
    if (size > 1 << 16 || jv_parse((const char *)data, size, &j) != ST_OK) return 0;
    model_config c;
    if (config_parse(j, &defaults, &c) == ST_OK) {
        bool small = c.n_layers <= 4;
        config_free(&c);
        model *m = NULL;
        if (small && model_new(j, &(model_options){ .weight_dtype = DT_BF16 }, &m) == ST_OK) model_free(m);
    }
    jv_free(j);
    return 0;
}
