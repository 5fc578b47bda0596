/* How attention is configured on every chip, for each head size, context and KV type, by both policies: lines of tab-separated values
 * for bench/attention_table.py. Llama-3.1-8B's heads (32 query heads, 8 KV heads); decode: 64 sequences of that context.
 *
 *   build/bench/attention_table > table.tsv */
#include <stdio.h>

#include "tpu/attention_config.h"

static const int heads[] = { 64, 80, 96, 128, 192, 256 };
static const dtype kinds[] = { DT_BF16, DT_F8E4M3, DT_I8 };

static void row(const chip *k, const attention_shape *s, attention_policy p)
{
    attention_config c;
    printf("%s\t%d\t%d\t%s\t%s\t", k->name, s->head_size, s->context, dtype_name(s->kv), attention_policy_name(p));
    if (attention_configure(k, p, s, &c) != ST_OK) {
        printf("refused\t%s\n", err_msg());
        return;
    }
    printf("ok\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f\t%lld\t%.0f\t%.3f\t%s\n", c.padded_head_size, c.page_size, c.pages_per_kv_block, c.block_kv, c.block_q, c.queries_per_block, c.pipeline_stages,
           (double)c.vmem_needed_bytes / (1 << 20), (long long)c.kv_bytes_per_token, c.bytes, c.seconds * 1e6, c.warning ? c.warning : "");
}

int main(void)
{
    for (int i = 0; chip_at(i); i++)
        for (size_t h = 0; h < sizeof heads / sizeof *heads; h++)
            for (int context = 2048; context <= 131072; context *= 2)
                for (size_t d = 0; d < sizeof kinds / sizeof *kinds; d++)
                    for (int p = ATTENTION_TABLE; p <= ATTENTION_AUTO; p++) {
                        attention_shape s = { .q_heads = 32, .kv_heads = 8, .head_size = heads[h], .max_model_len = context, .context = context, .seqs = 64, .tokens = 64,
                                              .act = DT_BF16, .kv = kinds[d] };
                        row(chip_at(i), &s, (attention_policy)p);
                    }
    return 0;
}
