/* Defaults, limits and the size of the KV cache. */
#ifndef SYSTOLIC_ENGINE_OPTIONS_H
#define SYSTOLIC_ENGINE_OPTIONS_H

#include "engine/engine.h"

/* KV blocks that one request of max_model_len may hold at once, in all groups of layers. */
int64_t options_seq_blocks(const engine_options *o, const engine_device *dev);
/* How many blocks (null block included) to make; logs the size the way vLLM does. Fails when not one sequence of max_model_len fits. */
status options_count_blocks(const engine_options *o, const engine_device *dev, int64_t block_bytes, int32_t *out) FALLIBLE;

#endif
