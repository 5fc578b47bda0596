/* quantization_config of config.json: which modules are quantised, and how they are stored. Read-only once it is made. */
#ifndef SYSTOLIC_MODEL_QUANTIZATION_H
#define SYSTOLIC_MODEL_QUANTIZATION_H

#include "base/json.h"
#include "load/quant.h"

typedef struct quantization quantization;

/* Of a whole config.json (a nested text_config's is found too). *out is NULL if there is none. An unknown method, format or field value is
 * ST_UNSUPPORTED and the message names it. */
status quantization_parse(const jv *config, quantization **out) FALLIBLE;
void quantization_free(quantization *q);
/* From now on no module rounds its activations, whatever the configuration says. q may be NULL. */
void quantization_keep_activations(quantization *q);
/* "awq", "compressed-tensors", ... as the configuration says. */
const char *quantization_method(const quantization *q);
/* How a module ("model.layers.0.self_attn.q_proj", "lm_head"; experts have a number, a * for it, or "[*]" behind it; a ".weight" is left out) is stored. format NONE: as it is. q may be
 * NULL. */
void quantization_module(const quantization *q, const char *name, quant_module *out);
/* Does a config.json say that the checkpoint was made for an fp8 KV cache (kv_cache_scheme, modelopt's kv_cache_quant_algo)? Then that is what
 * --kv-cache-dtype auto means, as in vLLM. */
bool quantization_fp8_cache(const jv *config);
/* Of a model, NULL if it is not quantised. */
struct model;
const quantization *model_quantization(const struct model *m);
/* --quantization (NULL: not given) beside a configuration: what an unquantised checkpoint becomes while it loads; for a quantised one
 * QUANT_NONE, if the flag names its method or one that vLLM has for it. ST_INVALID in vLLM's words if not. */
status quantization_flag(const jv *config, const char *flag, quant_scheme *out) FALLIBLE;

#endif
