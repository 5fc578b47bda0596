#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/internal.h"

struct stepper {
    engine_device dev;
    sampler *sampler;
    int vocab_size;
    float *logits; /* [max_rows][vocab] */
};

status stepper_new(const engine_device *dev, const device_limits *l, int vocab_size, logprobs_mode mode, stepper **out)
{
    stepper *s = mem_calloc(1, sizeof *s);
    if (!s) return err_nomem();
    s->dev = *dev;
    s->vocab_size = vocab_size;
    size_t n_rows = (size_t)l->max_rows;
    s->logits = n_rows > SIZE_MAX / ((size_t)vocab_size * sizeof(float)) ? NULL : mem_aligned(64, n_rows * (size_t)vocab_size * sizeof(float));
    status st = s->logits ? sampler_new(vocab_size, mode, &s->sampler) : err_nomem();
    if (st != ST_OK) {
        stepper_free(s);
        return st;
    }
    *out = s;
    return ST_OK;
}

void stepper_free(stepper *s)
{
    if (!s) return;
    sampler_free(s->sampler);
    mem_free(s->logits);
    mem_free(s);
}

/* The only place where token values enter a batch: those sampled by the step before are known here, though not yet to the scheduler. */
static void fill_tokens(plan *p)
{
    for (int i = 0; i < p->b.n_seqs; i++) {
        const plan_seq *q = &p->seqs[i];
        memcpy(p->token_ids + p->cu_q_lens[i], q->r->tokens + q->start, (size_t)q->n * sizeof(int32_t));
    }
}

static void sample_seq(stepper *s, plan *p, plan_seq *q)
{
    engine_request *r = q->r;
    float *row = s->logits + (size_t)q->row * (size_t)s->vocab_size;
    for (int pos = q->plp_from; pos < q->plp_to; pos++, row += s->vocab_size) {
        size_t at = r->plp.items.len;
        if (sampler_prompt(s->sampler, &r->params, r->tokens[pos], row, &r->plp.items) != ST_OK) r->plp.failed = true;
        r->plp.pos[pos].at = at;
        r->plp.pos[pos].n = (int)(r->plp.items.len - at);
    }
    q->failed = r->plp.failed;
    q->lp_at = p->lps.len;
    q->lp_n = 0;
    if (!q->sample) return;
    const int n_tokens = q->start + q->n;
    sample_input in = { .params = &r->params, .tokens = r->tokens, .n_prompt = r->n_prompt, .n_tokens = n_tokens, .seed = r->rng_seed };
    if (sampler_next(s->sampler, &in, row, &r->tokens[n_tokens], &p->lps) != ST_OK) q->failed = true;
    q->lp_n = (int)(p->lps.len - q->lp_at);
}

void stepper_run(stepper *s, plan *p)
{
    const double start = clock_now();
    fill_tokens(p);
    p->b.logits = s->logits;
    p->st = s->dev.run(s->dev.self, &p->b);
    if (p->st != ST_OK) {
        err_copy(p->error, sizeof p->error);
        return;
    }
    for (int i = 0; i < p->b.n_seqs; i++) sample_seq(s, p, &p->seqs[i]);
    p->event.seconds = clock_now() - start;
}
