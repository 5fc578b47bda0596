/* The policy `table`: what vLLM's adaptive TPU back end takes. */
#include "tpu/attention_policy.h"

#include "tpu/attention_cost.h"

enum { LANES = 128 };

static int round_up(int n, int to) { return (n + to - 1) / to * to; }
static int at_most(int n, int most) { return n < most ? n : most; }
static int at_least(int n, int least) { return n > least ? n : least; }

/* The adaptive back end's rows; 0: the kernel's default. A version that it does not know has v5's. */
typedef struct row { int version, head_multiple, block_q, block_kv, stages; bool is_v6; } row;
static const row rows[] = {
    { 4, 128, 256, 512, 2, false },
    { 5, 128, 256, 512, 2, false },
    { 6, 256, 512, 1024, 4, true },
};
enum { TABLE_V6_VMEM = 768 << 10 };

static const row *row_of(const chip *c, const char **warning)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].version == c->version) return &rows[i];
    *warning = "the table has no row for this generation: v5's values are taken";
    return &rows[1];
}

int attention_table_multiple(const chip *k)
{
    const char *warning;
    return row_of(k, &warning)->head_multiple;
}

static int next_power_of_two(int n)
{
    int p = 1;
    while (p < n && p < 1 << 30) p *= 2;
    return p;
}

/* v6: longer than 8192: 32, else the next power of two of the length / 8, from 32 to 512. The base back end: half of that. */
static int table_page_size(const row *r, int max_model_len)
{
    int unit = r->is_v6 ? 2 : 1;
    if (max_model_len > 8192) return 16 * unit;
    return at_most(at_least(next_power_of_two(max_model_len) * unit / 16, 16 * unit), 256 * unit);
}

/* A kernel's default is the largest block up to the table's that fits VMEM, powers of two. */
static void default_blocks(const attention_shape *s, attention_config *c)
{
    int64_t most = attention_vmem_most(c->chip);
    c->pages_per_kv_block = at_least(c->block_kv / c->page_size, 1);
    c->queries_per_block = c->block_q;
    for (;;) {
        attention_price(s, c);
        if (c->vmem_needed_bytes <= most) return;
        if (c->queries_per_block > 16) c->queries_per_block /= 2;
        else if (c->pages_per_kv_block > 1) c->pages_per_kv_block /= 2;
        else if (c->queries_per_block > 1) c->queries_per_block /= 2;
        else return;
    }
}

/* The table knows no head counts: its four buffers of wide or many heads may not fit. */
static void fit_blocks(const attention_shape *s, attention_config *c)
{
    for (attention_price(s, c); c->vmem_needed_bytes > attention_vmem_most(c->chip); attention_price(s, c)) {
        if (c->pipeline_stages > 2) c->pipeline_stages /= 2;
        else if (c->pages_per_kv_block > 1) c->pages_per_kv_block /= 2;
        else return;
        c->warning = "the table's buffers do not fit VMEM: fewer are taken";
    }
}

void attention_by_table(const chip *k, const attention_shape *s, attention_config *out)
{
    attention_config c = { .policy = ATTENTION_TABLE, .chip = k, .head_size = s->head_size };
    const row *r = row_of(k, &c.warning);
    int len = at_least(s->max_model_len, 1);
    c.head_multiple = r->head_multiple;
    c.padded_head_size = round_up(s->head_size, s->latent ? LANES : r->head_multiple);
    c.block_q = at_most(r->block_q, len);
    c.block_kv = at_most(r->block_kv, len);
    c.pipeline_stages = r->stages;
    c.page_size = s->page_size ? s->page_size : table_page_size(r, s->max_model_len);
    if (r->is_v6) {
        c.pages_per_kv_block = at_most(at_least(c.block_kv / 128, 1), 4);
        c.queries_per_block = at_most(at_least(c.block_q / 64, 1), 8);
        c.vmem_limit_bytes = TABLE_V6_VMEM;
        fit_blocks(s, &c);
    } else {
        default_blocks(s, &c);
        c.vmem_limit_bytes = attention_vmem_most(k);
    }
    *out = c;
}
