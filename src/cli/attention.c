#include "cli/attention.h"

#include <string.h>

#include "base/log.h"
#include "tpu/kv_scale_shape.h"

enum { MOST_KINDS = 16 };

/* ---- flags ---- */

/* vLLM's names for what a TPU runs are its kernels. */
static status read_backend(const flags *f, attention_choice *out)
{
    const jv *config = flags_json(f, "attention-config");
    const char *name = flags_str(f, "attention-backend"), *in_config = jv_get_str(config, "backend", NULL);
    if (in_config && !flags_given(f, "attention-backend")) name = in_config;
    if (strcmp(name, "auto") == 0) out->backend = ATTENTION_BACKEND_AUTO;
    else if (strcmp(name, "stablehlo") == 0) out->backend = ATTENTION_BACKEND_STABLEHLO;
    else if (strcmp(name, "mosaic") == 0 || strcmp(name, "PALLAS") == 0 || strncmp(name, "FLASH_ATTN", 10) == 0 || strncmp(name, "TPU_V6E_ADAPTIVE", 16) == 0) out->backend = ATTENTION_BACKEND_MOSAIC;
    else return err_set(ST_INVALID, "attention backend \"%.60s\" is none of auto, mosaic, stablehlo, PALLAS, FLASH_ATTN, FLASH_ATTN_MLA, TPU_V6E_ADAPTIVE_PALLAS_VLLM_V1", name);
    if (strncmp(name, "TPU_V6E_ADAPTIVE", 16) == 0 && !flags_given(f, "attention-policy")) out->policy = ATTENTION_TABLE;
    return ST_OK;
}

static status read_flags(const flags *f, attention_choice *out)
{
    TRY(attention_policy_parse(flags_str(f, "attention-policy"), &out->policy));
    return read_backend(f, out);
}

/* ---- the model's layers ---- */

typedef struct kind { attention_shape s; int n; } kind;

/* Kinds of attention layers; returns how many. */
static int kinds_of(const graph *g, const device_limits *l, kind out[MOST_KINDS])
{
    const dtype act = graph_activation_type(g);
    int n = 0;
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        const node *x = graph_at(g, id);
        if (x->op != OP_PAGED_ATTENTION) continue;
        const int64_t *q = graph_node(g, x->in[0])->s.dim, *k = graph_node(g, x->in[1])->s.dim;
        int64_t window = x->a.paged_attention.window ? x->a.paged_attention.window : x->a.paged_attention.chunk;
        attention_shape s = { .q_heads = (int)q[1], .kv_heads = (int)k[1], .head_size = (int)k[2], .max_model_len = l->max_model_len, .window = window > INT32_MAX ? 0 : (int)window,
                              .latent = x->a.paged_attention.latent > 0, .act = act, .kv = l->kv_dtype };
        int i = 0;
        while (i < n && !(out[i].s.q_heads == s.q_heads && out[i].s.kv_heads == s.kv_heads && out[i].s.head_size == s.head_size && out[i].s.window == s.window && out[i].s.latent == s.latent)) i++;
        if (i == MOST_KINDS) break;
        if (i == n) out[n++] = (kind){ s, 0 };
        out[i].n++;
    }
    return n;
}

/* The kind that most layers have; of as many the one that sees everything. */
static const kind *main_kind(const kind *all, int n)
{
    const kind *best = NULL;
    for (int i = 0; i < n; i++)
        if (!best || all[i].n > best->n || (all[i].n == best->n && best->s.window && !all[i].s.window)) best = &all[i];
    return best;
}

/* A decode step of as many sequences as there may be. */
static attention_shape decode_shape(const kind *k, const device_limits *l)
{
    attention_shape s = k->s;
    s.seqs = s.tokens = l->max_seqs < l->max_tokens ? l->max_seqs : l->max_tokens;
    return s;
}

/* The longest step: one prompt, or the next part of one. */
static attention_shape mixed_shape(const kind *k, const device_limits *l)
{
    attention_shape s = k->s;
    s.seqs = 1;
    s.tokens = l->max_tokens;
    return s;
}

status attention_apply(const flags *f, const graph *g, const chip *c, device_limits *l)
{
    kind all[MOST_KINDS];
    attention_config chosen;
    attention_choice choice = { .chip = c };
    TRY(read_flags(f, &choice));
    if (!c) {
        l->attention = (attention_choice){0};
        if (choice.backend == ATTENTION_BACKEND_MOSAIC) return err_set(ST_INVALID, "--attention-backend mosaic: kernels for the matrix unit need a TPU");
        return ST_OK;
    }
    choice.head_multiple = attention_head_multiple(c, choice.policy);
    const kind *k = main_kind(all, kinds_of(g, l, all));
    if (k && !flags_given(f, "block-size")) {
        attention_shape s = decode_shape(k, l);
        TRY(attention_configure(c, choice.policy, &s, &chosen));
        l->block_size = chosen.page_size;
    }
    l->attention = choice;
    return ST_OK;
}

/* ---- telling ---- */

status attention_look(const graph *g, const device_limits *l, attention_view *out)
{
    kind all[MOST_KINDS];
    attention_view v = { .n_kinds = kinds_of(g, l, all) };
    const kind *k = main_kind(all, v.n_kinds);
    if (!l->attention.chip || !k) return err_set(ST_NOT_FOUND, "no attention on a TPU");
    attention_shape mixed = mixed_shape(k, l);
    v.n_layers = k->n;
    v.decode_shape = decode_shape(k, l);
    v.decode_shape.page_size = mixed.page_size = l->block_size;
    TRY(attention_configure(l->attention.chip, l->attention.policy, &v.decode_shape, &v.decode));
    TRY(attention_configure(l->attention.chip, l->attention.policy, &mixed, &v.mixed));
    *out = v;
    return ST_OK;
}

void attention_log(const graph *g, const device_limits *l)
{
    attention_view v;
    buf line = {0};
    if (attention_look(g, l, &v) != ST_OK) return;
    attention_describe(&v.decode, &line);
    log_info("Attention by the policy %s; %.1f us per layer in a decode step of %d sequences, by the model", buf_cstr(&line), v.decode.seconds * 1e6, v.decode_shape.seqs);
    const kv_scale_shape scales = kv_scale_shape_of(v.decode_shape.kv_heads, v.decode.padded_head_size <= KV_SCALE_LANES / 2, v.decode_shape.latent, l->block_size);
    if (l->kv_dtype == DT_I8 && l->attention.backend != ATTENTION_BACKEND_STABLEHLO && (v.decode_shape.latent || !kv_scale_lines_fit(&scales)))
        log_info("Attention: a KV cache of int8 %s is read and written by StableHLO; there are no kernels for it", v.decode_shape.latent ? "for latent attention" : "in pages of this size");
    if (v.decode.warning) log_warn("Attention: %s", v.decode.warning);
    buf_free(&line);
}

static void write_row(const attention_config *c, const char *what, buf *out)
{
    buf_printf(out, "  %-8s %-6s %6d %6d %7d %7d %7d %8d %8d %7d %9.1f %10.2f %10.1f\n", what, attention_policy_name(c->policy), c->page_size, c->padded_head_size, c->pages_per_kv_block,
               c->block_kv, c->block_q, c->queries_per_block, c->pipeline_stages, (int)c->kv_bytes_per_token, (double)c->vmem_needed_bytes / (1 << 20), c->bytes / 1e6, c->seconds * 1e6);
}

void attention_write_text(const attention_view *v, buf *out)
{
    const attention_config *c = &v->decode;
    const char *names[ATTENTION_OPTIMISATIONS];
    attention_config others[ATTENTION_ALTERNATIVES];
    attention_shape free_page = v->decode_shape;
    buf_str(out, "attention by the policy ");
    attention_describe(c, out);
    buf_printf(out, "\n%d layers of this kind, %d kinds; decode is %d sequences, mixed one long prompt\n", v->n_layers, v->n_kinds, v->decode_shape.seqs);
    if (c->warning) buf_printf(out, "note: %s\n", c->warning);
    buf_str(out, "applied:");
    for (int i = 0, k = attention_optimisations(c, names); i < k; i++) buf_printf(out, "%s %s", i ? "," : "", names[i]);
    buf_char(out, '\n');
    buf_printf(out, "  %-8s %-6s %6s %6s %7s %7s %7s %8s %8s %7s %9s %10s %10s\n", "step", "policy", "page", "head", "pages", "kv", "q", "queries", "buffers", "B/token", "VMEM MiB", "MB/layer", "us/layer");
    write_row(c, "decode", out);
    write_row(&v->mixed, "mixed", out);
    free_page.page_size = 0;
    int n = attention_alternatives(c->chip, &free_page, others);
    buf_str(out, "  what decode was chosen from:\n");
    for (int i = 0; i < n; i++) write_row(&others[i], "", out);
}

static void json_fields(const attention_config *c, jw *w)
{
    jw_put_str(w, "policy", attention_policy_name(c->policy));
    jw_put_str(w, "chip", c->chip->name);
    jw_put_i64(w, "head_size", c->head_size);
    jw_put_i64(w, "padded_head_size", c->padded_head_size);
    jw_put_i64(w, "block_q", c->block_q);
    jw_put_i64(w, "block_kv", c->block_kv);
    jw_put_i64(w, "pages_per_kv_block", c->pages_per_kv_block);
    jw_put_i64(w, "queries_per_block", c->queries_per_block);
    jw_put_i64(w, "pipeline_stages", c->pipeline_stages);
    jw_put_i64(w, "page_size", c->page_size);
    jw_put_i64(w, "vmem_limit_bytes", c->vmem_limit_bytes);
    jw_put_i64(w, "kv_bytes_per_token", c->kv_bytes_per_token);
    jw_put_i64(w, "compiler_vmem_bytes", c->compiler_vmem_bytes);
    jw_put_i64(w, "vmem_needed_bytes", c->vmem_needed_bytes);
    jw_put_f64(w, "predicted_bytes", c->bytes);
    jw_put_f64(w, "predicted_seconds", c->seconds);
    jw_key(w, "warning");
    if (c->warning) jw_str(w, c->warning);
    else jw_null(w);
}

void attention_write_json(const attention_view *v, jw *w)
{
    const char *names[ATTENTION_OPTIMISATIONS];
    attention_config others[ATTENTION_ALTERNATIVES];
    attention_shape free_page = v->decode_shape;
    buf report = {0};
    free_page.page_size = 0;
    jw_obj(w);
    json_fields(&v->mixed, w);
    jw_put_i64(w, "layers", v->n_layers);
    jw_put_i64(w, "kinds", v->n_kinds);
    jw_key(w, "optimizations_applied");
    jw_arr(w);
    for (int i = 0, n = attention_optimisations(&v->mixed, names); i < n; i++) jw_str(w, names[i]);
    jw_end_arr(w);
    attention_report(&v->mixed, &(attention_calls){ 0 }, &report);
    jw_key(w, "report");
    jw_raw(w, buf_cstr(&report));
    if (report.failed) w->out->failed = true;
    buf_free(&report);
    jw_key(w, "decode");
    jw_obj(w);
    json_fields(&v->decode, w);
    jw_end_obj(w);
    jw_key(w, "alternatives");
    jw_arr(w);
    for (int i = 0, n = attention_alternatives(v->decode.chip, &free_page, others); i < n; i++) {
        jw_obj(w);
        json_fields(&others[i], w);
        jw_end_obj(w);
    }
    jw_end_arr(w);
    jw_end_obj(w);
}
