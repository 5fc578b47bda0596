#include "tpu/attention_config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tpu/attention_cost.h"
#include "tpu/attention_policy.h"
#include "tpu/kv_scale_shape.h"

enum { MOST_HEAD = 4096, MOST_HEADS = 4096, MOST_CONTEXT = 2048 };

static const char *const policies[] = { "table", "auto" };
const char *attention_policy_name(attention_policy p) { return policies[p]; }

const char *attention_backend_name(attention_backend b)
{
    static const char *const names[] = { "auto", "mosaic", "stablehlo" };
    return names[b];
}

status attention_policy_parse(const char *s, attention_policy *out)
{
    for (int i = 0; i < 2; i++)
        if (strcmp(s, policies[i]) == 0) {
            *out = (attention_policy)i;
            return ST_OK;
        }
    return err_set(ST_INVALID, "attention policy \"%.60s\" is neither table nor auto", s);
}

static status check_shape(const attention_shape *s)
{
    if (s->head_size < 1 || s->head_size > MOST_HEAD) return err_set(ST_INVALID, "attention with a head size of %d; 1 to %d are supported", s->head_size, MOST_HEAD);
    if (s->kv_heads < 1 || s->q_heads < 1 || s->q_heads > MOST_HEADS || s->q_heads % s->kv_heads)
        return err_set(ST_INVALID, "attention with %d query heads for %d KV heads: the first is no multiple of the second", s->q_heads, s->kv_heads);
    if (s->max_model_len < 1 || s->context < 0 || s->seqs < 1 || s->tokens < s->seqs || s->window < 0)
        return err_set(ST_INVALID, "attention of %d tokens in %d sequences of up to %d: not a step", s->tokens, s->seqs, s->max_model_len);
    if (s->page_size < 0 || s->page_size > 1 << 20) return err_set(ST_INVALID, "a KV page of %d tokens", s->page_size);
    return ST_OK;
}

/* Of an int8 cache, what scales add to a token: a part of what a page has of them. */
static int64_t scale_bytes(const attention_shape *s, const attention_config *c)
{
    if (s->kv != DT_I8) return 0;
    const kv_scale_shape scales = kv_scale_shape_of(s->kv_heads, c->padded_head_size <= KV_SCALE_LANES / 2, s->latent, c->page_size);
    return (kv_scale_page_bytes(&scales) + c->page_size - 1) / c->page_size;
}

void attention_price(const attention_shape *s, attention_config *c)
{
    attention_cost cost;
    c->kv_bytes_per_token = (s->latent ? 1 : 2) * s->kv_heads * (int64_t)dtype_bytes(s->kv, (size_t)c->padded_head_size) + scale_bytes(s, c);
    c->vmem_needed_bytes = attention_vmem_of(c, s);
    attention_cost_of(c, s, &cost);
    c->bytes = cost.bytes;
    c->seconds = cost.seconds;
}

/* ---- both ---- */

/* The table's limit for v6 is less than one buffer of most models: a compiler that is told so refuses the kernel. */
static status settle_vmem(attention_config *c)
{
    int64_t most = attention_vmem_most(c->chip);
    if (c->vmem_needed_bytes > most)
        return err_set(ST_UNSUPPORTED, "attention on %s by the policy %s needs %.1f MiB of VMEM for %d buffers of %d pages of %d tokens; there are %.1f",
                       c->chip->name, attention_policy_name(c->policy), (double)c->vmem_needed_bytes / (1 << 20), c->pipeline_stages, c->pages_per_kv_block,
                       c->page_size, (double)most / (1 << 20));
    c->compiler_vmem_bytes = c->vmem_limit_bytes;
    if (c->vmem_needed_bytes > c->vmem_limit_bytes) {
        if (!c->warning) c->warning = "the table's VMEM limit of 768 KB does not hold the table's own blocks: the compiler is given all that the chip has";
        c->compiler_vmem_bytes = most;
    }
    return ST_OK;
}

static int context_of(const attention_shape *s)
{
    int half = s->max_model_len / 2;
    return s->context ? s->context : half < 1 ? 1 : half > MOST_CONTEXT ? MOST_CONTEXT : half;
}

status attention_configure(const chip *k, attention_policy p, const attention_shape *shape, attention_config *out)
{
    attention_shape s = *shape;
    attention_config c;
    TRY(check_shape(&s));
    s.context = context_of(&s);
    attention_by_table(k, &s, &c);
    if (p == ATTENTION_AUTO) attention_by_cost(k, &s, &c);
    TRY(settle_vmem(&c));
    *out = c;
    return ST_OK;
}

static int by_time(const void *a, const void *b)
{
    double x = ((const attention_config *)a)->seconds, y = ((const attention_config *)b)->seconds;
    return (x > y) - (x < y);
}

int attention_alternatives(const chip *k, const attention_shape *shape, attention_config out[ATTENTION_ALTERNATIVES])
{
    attention_config table;
    int n = 0;
    for (int page = attention_page_least(shape); page <= ATTENTION_PAGE_MOST; page *= 2) {
        attention_shape s = *shape;
        if (s.page_size && s.page_size != page) continue;
        s.page_size = page;
        if (attention_configure(k, ATTENTION_AUTO, &s, &out[n]) == ST_OK) n++;
    }
    qsort(out, (size_t)n, sizeof *out, by_time);
    if (attention_configure(k, ATTENTION_TABLE, shape, &table) == ST_OK) out[n++] = table;
    return n;
}

/* By the cost model the narrowest heads always win. */
int attention_head_multiple(const chip *c, attention_policy p) { return !c ? 0 : p == ATTENTION_TABLE ? attention_table_multiple(c) : 64; }

void attention_kv_shape(const attention_config *c, int kv_heads, int64_t blocks, int64_t out[4])
{
    out[0] = blocks;
    out[1] = c->page_size;
    out[2] = 2 * (int64_t)kv_heads;
    out[3] = c->padded_head_size;
}

status attention_check(const attention_features *f)
{
    if (f->alibi) return err_set(ST_UNSUPPORTED, "attention with ALiBi slopes is not supported on TPUs");
    if (f->encoder) return err_set(ST_UNSUPPORTED, "only decoder attention is supported on TPUs: neither an encoder's nor attention to one");
    if (f->output_quantisation) return err_set(ST_UNSUPPORTED, "attention that quantises its own output is not supported on TPUs");
    if (!f->kv_quantised) return ST_OK;
    if (!(f->k_scale != 0 && isfinite(f->k_scale)) || !(f->v_scale != 0 && isfinite(f->v_scale)))
        return err_set(ST_INVALID, "the scales of a quantised KV cache are %g and %g; both must be finite and not zero", (double)f->k_scale, (double)f->v_scale);
    return ST_OK;
}
