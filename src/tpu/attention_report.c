#include <stdio.h>

#include "tpu/attention_config.h"

/* The adaptive back end lists one set from v6 on and the other before; a version that it does not know counts as v5. */
static bool is_v6(const attention_config *c) { return c->chip->version == 6; }

int attention_optimisations(const attention_config *c, const char *out[ATTENTION_OPTIMISATIONS])
{
    int n = 0;
    out[n++] = is_v6(c) ? "mxu_256x256_alignment" : "mxu_128x128_alignment";
    out[n++] = is_v6(c) ? "4_stage_memory_pipeline" : "2_stage_memory_pipeline";
    if (is_v6(c)) out[n++] = "enhanced_vmem_limits";
    out[n++] = is_v6(c) ? "optimized_block_sizing" : "standard_block_sizing";
    if (c->padded_head_size != c->head_size) out[n++] = "head_dimension_padding";
    return n;
}

void attention_report(const attention_config *c, const attention_calls *calls, buf *out)
{
    const char *names[ATTENTION_OPTIMISATIONS];
    int n = attention_optimisations(c, names);
    buf_printf(out, "{\"backend\": \"TPU_V6E_ADAPTIVE_PALLAS_VLLM_V1\", \"architecture\": \"%s\", \"tpu_version\": %d, \"calls\": %lld", c->chip->kind, c->chip->version,
               (long long)calls->n);
    buf_printf(out, ", \"mxu_size\": \"%dx%d\", \"head_size_optimization\": \"%d -> %d\", \"memory_pipeline_stages\": %d, \"is_v6_optimized\": %s", c->chip->mxu_size,
               c->chip->mxu_size, c->head_size, c->padded_head_size, c->pipeline_stages, is_v6(c) ? "true" : "false");
    if (calls->n > 0) buf_printf(out, ", \"average_call_time_ms\": %.6g", 1e3 * calls->seconds / (double)calls->n);
    else buf_str(out, ", \"average_call_time_ms\": null");
    buf_str(out, ", \"optimizations_applied\": [");
    for (int i = 0; i < n; i++) buf_printf(out, "%s\"%s\"", i ? ", " : "", names[i]);
    buf_str(out, "]}");
}

void attention_describe(const attention_config *c, buf *out)
{
    buf_printf(out, "%s on %s: head size %d", attention_policy_name(c->policy), c->chip->name, c->head_size);
    if (c->padded_head_size != c->head_size) buf_printf(out, " (padded to %d)", c->padded_head_size);
    buf_printf(out, ", pages of %d tokens, KV blocks of %d pages in %d buffers, %d queries at once, %.1f MiB of VMEM", c->page_size, c->pages_per_kv_block,
               c->pipeline_stages, c->queries_per_block, (double)c->vmem_needed_bytes / (1 << 20));
}
