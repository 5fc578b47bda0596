#include <string.h>

#include "base/mem.h"
#include "engine/internal.h"

status plan_new(const device_limits *l, int n_groups, plan **out)
{
    plan *p = mem_calloc(1, sizeof *p);
    if (!p) return err_nomem();
    const size_t n_tokens = (size_t)l->max_tokens, n_seqs = (size_t)l->max_seqs, groups = (size_t)n_groups;
    p->b.n_groups = n_groups;
    p->b.max_pages = (l->max_model_len + l->block_size - 1) / l->block_size;
    p->token_ids = mem_array(n_tokens, sizeof(int32_t));
    p->positions = mem_array(n_tokens, sizeof(int32_t));
    p->slots = mem_array(groups * n_tokens, sizeof(int32_t));
    p->cu_q_lens = mem_array(n_seqs + 1, sizeof(int32_t));
    p->kv_lens = mem_array(n_seqs, sizeof(int32_t));
    p->rope_variant = mem_array(n_seqs, sizeof(int32_t));
    p->page_table = mem_calloc(groups * n_seqs * (size_t)p->b.max_pages, sizeof(int32_t));
    p->rows = mem_array((size_t)l->max_rows, sizeof(int32_t));
    p->seqs = mem_calloc(n_seqs, sizeof *p->seqs);
    if (!p->token_ids || !p->positions || !p->slots || !p->cu_q_lens || !p->kv_lens || !p->rope_variant || !p->page_table || !p->rows || !p->seqs) {
        plan_free(p);
        return err_nomem();
    }
    p->b.token_ids = p->token_ids;
    p->b.positions = p->positions;
    p->b.slots = p->slots;
    p->b.cu_q_lens = p->cu_q_lens;
    p->b.kv_lens = p->kv_lens;
    p->b.rope_variant = p->rope_variant;
    p->b.page_table = p->page_table;
    p->b.rows = p->rows;
    *out = p;
    return ST_OK;
}

void plan_free(plan *p)
{
    if (!p) return;
    mem_free(p->token_ids);
    mem_free(p->positions);
    mem_free(p->slots);
    mem_free(p->cu_q_lens);
    mem_free(p->kv_lens);
    mem_free(p->rope_variant);
    mem_free(p->page_table);
    mem_free(p->rows);
    mem_free(p->seqs);
    lp_vec_free(&p->lps);
    step_media_free(p->media);
    mem_free(p);
}

/* The sequence's pages and its tokens' slots in one group. first: its first token in the step. */
static void add_pages(plan *p, int s, int group, int first, int block_size)
{
    const plan_seq *q = &p->seqs[s];
    const int32_t *blocks = request_blocks(q->r, group);
    int32_t *slots = p->slots + (size_t)group * (size_t)p->b.n_tokens + first;
    const int n_pages = (q->start + q->n + block_size - 1) / block_size;
    for (int i = 0, pos = q->start; i < q->n; i++, pos++) slots[i] = blocks[pos / block_size] * block_size + pos % block_size;
    memcpy(p->page_table + ((size_t)group * (size_t)p->b.n_seqs + (size_t)s) * (size_t)p->b.max_pages, blocks, (size_t)n_pages * sizeof(int32_t));
}

static void add_seq(plan *p, int s, int block_size)
{
    plan_seq *q = &p->seqs[s];
    const int first = p->cu_q_lens[s];
    for (int i = 0; i < q->n; i++) p->positions[first + i] = q->start + i;
    for (int g = 0; g < p->b.n_groups; g++) add_pages(p, s, g, first, block_size);
    q->row = p->b.n_rows;
    for (int pos = q->plp_from; pos < q->plp_to; pos++) p->rows[p->b.n_rows++] = first + pos - 1 - q->start;
    if (q->sample) p->rows[p->b.n_rows++] = first + q->n - 1;
    p->kv_lens[s] = q->start + q->n;
    p->rope_variant[s] = q->r->rope_variant;
}

void plan_build(plan *p, int n_seqs, int block_size)
{
    p->b.n_tokens = p->b.n_rows = 0;
    p->b.n_seqs = n_seqs;
    p->cu_q_lens[0] = 0;
    for (int s = 0; s < n_seqs; s++) p->cu_q_lens[s + 1] = p->b.n_tokens += p->seqs[s].n;
    p->event = (engine_step_event){0};
    p->st = ST_OK;
    p->error[0] = 0;
    p->lps.len = 0;
    for (int s = 0; s < n_seqs; s++) {
        add_seq(p, s, block_size);
        if (p->seqs[s].is_prefill) {
            p->event.n_prefill_reqs++;
            p->event.n_prefill_tokens += p->seqs[s].n;
        } else {
            p->event.n_decode_reqs++;
            p->event.n_decode_tokens += p->seqs[s].n;
        }
    }
    if (p->media) step_media_build(p->media, p);
}
