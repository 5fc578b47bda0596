/* What steps of multimodal models carry beside tokens: encoders' rows for placeholder tokens, positions of three numbers, and how far tokens of an image
 * see. The scheduler thread fills it with the plan it belongs to. Rows that a step left are cleared when the next one is built, and only those. */
#include <string.h>

#include "base/mem.h"
#include "engine/internal.h"

enum { MOST_LEVELS = 8 };

struct step_media {
    int n_rows;                         /* 1 + deepstack levels; 0 = no media */
    int64_t hidden;
    float *rows[MOST_LEVELS + 1];       /* [max_tokens][hidden] */
    float *mask;                        /* [max_tokens] */
    const float *activations[MOST_LEVELS + 2];
    int32_t *positions3;                /* [max_tokens][3]; NULL */
    int32_t *see;                       /* [max_tokens] */
    int used;                           /* tokens of the last step that may have rows */
};

status step_media_new(const device_limits *l, const model_info *mi, step_media **out)
{
    const size_t n = (size_t)l->max_tokens;
    if (mi->media > MOST_LEVELS + 1) return err_set(ST_UNSUPPORTED, "%d deepstack levels, at most %d are supported", mi->media - 1, MOST_LEVELS);
    step_media *m = mem_calloc(1, sizeof *m);
    if (!m) return err_nomem();
    m->n_rows = mi->media;
    m->hidden = mi->hidden_size;
    bool ok = true;
    for (int i = 0; i < m->n_rows; i++) {
        m->activations[i] = m->rows[i] = mem_calloc(n, (size_t)m->hidden * sizeof(float)); /* untouched until an image comes */
        ok = ok && m->rows[i];
    }
    m->activations[m->n_rows] = m->mask = mem_calloc(n, sizeof(float));
    m->see = mem_array(n, sizeof *m->see);
    if (mi->mrope) m->positions3 = mem_array(n, 3 * sizeof *m->positions3);
    if (!ok || !m->mask || !m->see || (mi->mrope && !m->positions3)) {
        step_media_free(m);
        return err_nomem();
    }
    *out = m;
    return ST_OK;
}

void step_media_free(step_media *m)
{
    if (!m) return;
    for (int i = 0; i < m->n_rows; i++) mem_free(m->rows[i]);
    mem_free(m->mask);
    mem_free(m->see);
    mem_free(m->positions3);
    mem_free(m);
}

static void clear_rows(step_media *m)
{
    for (int t = 0; t < m->used; t++) {
        if (m->mask[t] == 0) continue;
        m->mask[t] = 0;
        for (int i = 0; i < m->n_rows; i++) memset(m->rows[i] + t * m->hidden, 0, (size_t)m->hidden * sizeof(float));
    }
    m->used = 0;
}

/* The item's tokens among those of the sequence in this step, the first of which is number `first` of the batch. */
static bool add_item(step_media *m, const plan_seq *q, const request_media *item, int first)
{
    bool any = false;
    const int from = item->from > q->start ? item->from : q->start, to = item->to < q->start + q->n ? item->to : q->start + q->n;
    for (int pos = from; pos < to; pos++) {
        const int row = q->r->media_row[pos], t = first + pos - q->start;
        if (q->r->media_sees_all && row >= 0) m->see[t] = item->to;
        if (row < 0) continue;
        const float *src = item->rows->rows + row * item->rows->width;
        m->mask[t] = 1;
        for (int i = 0; i < m->n_rows && (i + 1) * m->hidden <= item->rows->width; i++) memcpy(m->rows[i] + t * m->hidden, src + i * m->hidden, (size_t)m->hidden * sizeof(float));
        any = true;
    }
    return any;
}

static void add_positions(step_media *m, const plan_seq *q, int first)
{
    for (int i = 0; i < q->n; i++) {
        const int pos = q->start + i;
        for (int k = 0; k < 3; k++)
            m->positions3[3 * (first + i) + k] = q->r->positions3 && pos < q->r->n_prompt ? q->r->positions3[3 * pos + k] : pos + q->r->position_delta;
    }
}

/* Image tokens see their item as far as its rows go: what frames it (start and end tokens) is text. */
void step_media_build(step_media *m, plan *p)
{
    bool any = false, sees = false;
    clear_rows(m);
    for (int s = 0; s < p->b.n_seqs; s++) {
        const plan_seq *q = &p->seqs[s];
        const int first = p->cu_q_lens[s];
        for (int i = 0; i < q->n; i++) m->see[first + i] = 0;
        for (int i = 0; i < q->r->n_media; i++) any |= add_item(m, q, &q->r->media[i], first);
        sees |= q->r->media_sees_all;
        if (m->positions3) add_positions(m, q, first);
    }
    m->used = p->b.n_tokens;
    p->b.activations = any ? m->activations : NULL;
    p->b.see = any && sees ? m->see : NULL;
    p->b.positions3 = m->positions3;
}

int request_whole_media(const engine_request *r, int start, int n, int most)
{
    for (int i = 0; i < r->n_media; i++) {
        const request_media *m = &r->media[i];
        if (start + n <= m->from || start + n >= m->to) continue;
        if (m->from > start) return m->from - start;
        return m->to - start <= most ? m->to - start : 0;
    }
    return n;
}
