/* A model on the CPU device, driven step by step without an engine: for tests that care how a batch is cut. */
#ifndef SYSTOLIC_TESTS_GOLDEN_RIG_H
#define SYSTOLIC_TESTS_GOLDEN_RIG_H

#include "base/mem.h"
#include "device/device.h"
#include "model/model.h"
#include "tests/test.h"

enum { RIG_MAX_SEQS = 16, RIG_MAX_LEN = 1024, RIG_MAX_GROUPS = 8 };

typedef struct rig_options { dtype weights, kv; int threads, block_size, max_tokens, max_model_len; const char *isa; quant_scheme quant; bool keep_activations, kv_scales; } rig_options;

typedef struct rig {
    device *dev;
    model *m;
    weight_source *w;
    device_model *dm;
    jv *config;
    device_limits limits;
    kv_layout kv;
    int n_blocks, next_block, vocab;
} rig;

/* One sequence: what it has in the cache and where, in each group of layers. */
typedef struct rig_seq { int len, variant; int32_t pages[RIG_MAX_GROUPS][RIG_MAX_LEN]; } rig_seq;
/* New tokens for a sequence. logits: [n][vocab] or NULL when not wanted. */
typedef struct rig_work { rig_seq *seq; const int32_t *tokens; int n; float *logits; } rig_work;

static inline void rig_close(rig *r)
{
    device_unload(r->dm);
    if (r->w) model_weights_close(r->w);
    model_free(r->m);
    device_close(r->dev);
    jv_free(r->config);
    *r = (rig){ 0 };
}

static inline status rig_open_config(rig *r, const jv *config, const char *dir, rig_options o)
{
    status st;
    TRY_OUT(model_new(config, &(model_options){ .weight_dtype = o.weights, .quant = o.quant, .keep_activations = o.keep_activations, .kv_scales = o.kv_scales }, &r->m));
    TRY_OUT(model_weights_open(r->m, dir, dir == NULL, 1, &r->w));
    TRY_OUT(device_open("cpu", &(device_options){ .n_threads = o.threads, .isa = o.isa }, &r->dev));
    int len = o.max_model_len ? o.max_model_len : RIG_MAX_LEN, tokens = o.max_tokens ? o.max_tokens : 256;
    r->limits = (device_limits){ tokens, RIG_MAX_SEQS, tokens, len, o.block_size ? o.block_size : 16, o.kv, { 0 }, 0, false };
    r->vocab = model_describe(r->m)->vocab_size;
    TRY_OUT(device_load(r->dev, model_graph(r->m), r->w, &r->limits, NULL, NULL, &r->dm));
    device_kv_layout(r->dm, &r->kv);
    if (r->kv.n_groups > RIG_MAX_GROUPS) {
        st = err_set(ST_LIMIT, "%d groups of layers", r->kv.n_groups);
        goto out;
    }
    r->n_blocks = r->kv.n_groups * ((RIG_MAX_SEQS * len + r->limits.block_size - 1) / r->limits.block_size + RIG_MAX_SEQS);
    TRY_OUT(device_kv_resize(r->dm, r->n_blocks));
out:
    if (st != ST_OK) rig_close(r);
    return st;
}

static inline status rig_open(rig *r, const char *dir, rig_options o)
{
    char path[8192];
    *r = (rig){ 0 };
    snprintf(path, sizeof path, "%s/config.json", dir);
    TRY(jv_parse_file(path, 1 << 20, &r->config));
    return rig_open_config(r, r->config, dir, o);
}

/* Blocks come in an order that is neither ascending nor adjacent. */
static inline int32_t rig_block(rig *r)
{
    int stride = r->n_blocks % 7 ? 7 : 11;
    return (int32_t)((int64_t)r->next_block++ * stride % r->n_blocks);
}

/* A group's pages as the device may look at them: block 0, which is somebody else's, stands for those that no new token sees. */
static inline void rig_pages(const rig *r, const rig_seq *s, int group, int first_new, int32_t *out)
{
    int from = (int)kv_first_seen(&r->kv.group[group], first_new) / r->limits.block_size;
    for (int p = 0; p < RIG_MAX_LEN; p++) out[p] = p < from ? 0 : s->pages[group][p];
}

static inline status rig_step(rig *r, const rig_work *work, int n_work)
{
    static int32_t ids[4096], pos[4096], slots[RIG_MAX_GROUPS * 4096], rows[4096], cu[RIG_MAX_SEQS + 1], kv[RIG_MAX_SEQS], variant[RIG_MAX_SEQS];
    static int32_t pages[RIG_MAX_GROUPS * RIG_MAX_SEQS][RIG_MAX_LEN];
    int t = 0, n_rows = 0, n_tokens = 0, bs = r->limits.block_size, groups = r->kv.n_groups;
    for (int s = 0; s < n_work; s++) n_tokens += work[s].n;
    for (int s = 0; s < n_work; s++) {
        const rig_work *w = &work[s];
        for (int i = 0; i < w->n; i++, t++) {
            int at = w->seq->len++;
            for (int g = 0; g < groups; g++) {
                if (at % bs == 0) w->seq->pages[g][at / bs] = rig_block(r);
                slots[g * n_tokens + t] = w->seq->pages[g][at / bs] * bs + at % bs;
            }
            ids[t] = w->tokens[i];
            pos[t] = at;
            if (w->logits) rows[n_rows++] = t;
        }
        cu[s + 1] = t;
        kv[s] = w->seq->len;
        variant[s] = w->seq->variant;
        for (int g = 0; g < groups; g++) rig_pages(r, w->seq, g, w->seq->len - w->n, pages[g * n_work + s]);
    }
    float *logits = mem_array((size_t)n_rows + 1, (size_t)r->vocab * sizeof(float));
    if (!logits) return err_nomem();
    batch b = { .n_tokens = t, .n_seqs = n_work, .n_rows = n_rows, .token_ids = ids, .positions = pos, .cu_q_lens = cu, .kv_lens = kv, .n_groups = groups,
                .page_table = pages[0], .max_pages = RIG_MAX_LEN, .slots = slots, .rope_variant = variant, .rows = rows, .logits = logits };
    status st = device_run(r->dm, &b);
    const float *from = logits;
    for (int s = 0; s < n_work && st == ST_OK; s++) {
        if (!work[s].logits) continue;
        memcpy(work[s].logits, from, (size_t)work[s].n * (size_t)r->vocab * sizeof(float));
        from += (size_t)work[s].n * (size_t)r->vocab;
    }
    mem_free(logits);
    return st;
}

/* A whole prompt in chunks of at most `chunk`, alone; logits [n][vocab]. */
static inline status rig_prompt(rig *r, rig_seq *s, const int32_t *tokens, int n, int chunk, float *logits)
{
    for (int at = 0; at < n; at += chunk) {
        int m = n - at < chunk ? n - at : chunk;
        TRY(rig_step(r, &(rig_work){ s, tokens + at, m, logits ? logits + (size_t)at * (size_t)r->vocab : NULL }, 1));
    }
    return ST_OK;
}

static inline int rig_argmax(const float *v, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++) if (v[i] > v[best]) best = i;
    return best;
}

#endif
