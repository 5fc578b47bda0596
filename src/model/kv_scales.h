/* Scales for an fp8 KV cache that a checkpoint holds: for each layer a number that keys are divided by when they are stored, and one for
 * values. Names and rules are vLLM's (maybe_remap_kv_scale_name, BaseKVCacheMethod): compressed-tensors has self_attn.k_scale and v_scale,
 * modelopt self_attn.k_proj.k_scale and v_proj.v_scale, older exports one self_attn.kv_scale for both, or the projections'
 * output_scale. -1 is as good as absent; where both are absent they are 1, where there is k_scale alone it is both. */
#ifndef SYSTOLIC_MODEL_KV_SCALES_H
#define SYSTOLIC_MODEL_KV_SCALES_H

#include <stdbool.h>

#include "load/quant.h"

/* Is this a name that the graph has for a scale (model.layers.N.self_attn.k_scale, v_scale)? */
bool kv_scale_wanted(const char *name);
/* Its value. ST_INVALID names a tensor that is no positive number, or a v_scale without k_scale. */
status kv_scale_read(const quant_files *files, const char *name, float *out) FALLIBLE;
/* Is a checkpoint's tensor with this name such a scale? */
bool kv_scale_stored(const char *name);

#endif
