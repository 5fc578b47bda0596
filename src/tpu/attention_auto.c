/* The policy `auto`: all blocks that fit VMEM are priced. Of those that take at most 1% more than the best, the smallest pages
 * win (pages are what prompts share and what a sequence's end wastes), then the least VMEM. Pages of more than ATTENTION_PAGE_SHARED
 * tokens are looked at only where smaller ones cannot be had. */
#include "tpu/attention_policy.h"

#include <math.h>

#include "tpu/attention_cost.h"

enum { LANES = 128, BLOCK_LEAST = 128, BLOCK_MOST = 4096, QUERIES_MOST = 512 };
static const int head_multiples[] = { 64, 128 }, stages[] = { 2, 3, 4, 8 };
static const double near_best = 1.01;

/* 64: K and V of a head share 128 lanes, if both fit. */
static int padded(int head, int multiple)
{
    if (multiple == 64 && head > 64) multiple = LANES;
    return (head + multiple - 1) / multiple * multiple;
}

/* A page of one row per token is whole registers. */
int attention_page_least(const attention_shape *s) { return dtype_bits(s->kv) < 16 ? 32 : 16; }

/* The step's page table lies in the scalar memory; half of it is for it. */
static bool table_fits(const chip *k, const attention_shape *s, int page)
{
    return (int64_t)s->seqs * ((s->max_model_len + page - 1) / page) * 4 <= k->smem_bytes / 2;
}

typedef struct search { const attention_shape *s; int page_most; double limit; bool found, choosing; attention_config best; } search;

static bool is_better(const search *f, const attention_config *c)
{
    if (!f->found) return true;
    if (!f->choosing) return c->seconds < f->best.seconds;
    if (c->page_size != f->best.page_size) return c->page_size < f->best.page_size;
    return c->vmem_needed_bytes != f->best.vmem_needed_bytes ? c->vmem_needed_bytes < f->best.vmem_needed_bytes : c->seconds < f->best.seconds;
}

static void consider(search *f, attention_config *c)
{
    attention_price(f->s, c);
    if (c->vmem_needed_bytes > attention_vmem_most(c->chip) || (f->choosing && c->seconds > f->limit) || !is_better(f, c)) return;
    f->best = *c;
    f->found = true;
}

static void try_blocks(search *f, attention_config c)
{
    int most = f->s->tokens / f->s->seqs;
    for (int tokens = BLOCK_LEAST; tokens <= BLOCK_MOST; tokens *= 2) {
        if (tokens < c.page_size) continue;
        c.pages_per_kv_block = tokens / c.page_size;
        c.block_kv = attention_kv_block_tokens(&c);
        for (int q = 1; q <= QUERIES_MOST && q < 2 * most; q *= 2)
            for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
                c.block_q = c.queries_per_block = q;
                c.pipeline_stages = stages[i];
                consider(f, &c);
            }
    }
}

static void try_all(search *f, const chip *k)
{
    for (size_t i = 0; i < sizeof head_multiples / sizeof *head_multiples; i++) {
        attention_config c = { .policy = ATTENTION_AUTO, .chip = k, .head_size = f->s->head_size, .head_multiple = head_multiples[i] };
        if (f->s->latent && c.head_multiple < LANES) continue;
        c.padded_head_size = padded(c.head_size, c.head_multiple);
        if (f->s->page_size) {
            c.page_size = f->s->page_size;
            try_blocks(f, c);
            continue;
        }
        for (c.page_size = attention_page_least(f->s); c.page_size <= f->page_most; c.page_size *= 2)
            if (c.page_size == ATTENTION_PAGE_MOST || table_fits(k, f->s, c.page_size)) try_blocks(f, c);
    }
}

/* The best, or else the smallest pages of those that are near it; not worse than `most` seconds. */
static bool search_pages(const chip *k, int page_most, double most, search *f)
{
    f->page_most = page_most;
    f->found = f->choosing = false;
    try_all(f, k);
    if (!f->found || f->best.seconds > most) return false;
    f->limit = fmin(f->best.seconds * near_best, most);
    f->choosing = true;
    f->found = false;
    try_all(f, k);
    return f->found;
}

void attention_by_cost(const chip *k, const attention_shape *s, attention_config *c)
{
    bool table_fits_vmem = c->vmem_needed_bytes <= attention_vmem_most(k);
    const double most = table_fits_vmem ? c->seconds : INFINITY;
    bool found = false;
    search f = { .s = s };
    for (int page = ATTENTION_PAGE_SHARED; page <= ATTENTION_PAGE_MOST && !found; page *= 2) found = search_pages(k, page, most, &f);
    if (found) *c = f.best;                 /* else the table's blocks are better than all that were tried, or nothing fits */
    c->policy = ATTENTION_AUTO;
    c->block_q = c->queries_per_block;
    c->block_kv = attention_kv_block_tokens(c);
    c->warning = s->page_size || table_fits(k, s, c->page_size) ? NULL : "the page table of so many sequences of this length fills more than half of the scalar memory";
    c->vmem_limit_bytes = attention_vmem_most(k);
}
