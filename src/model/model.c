/* The registry of architectures, and a model made from one. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "graph/partition.h"
#include "graph/passes.h"
#include "model/counts.h"
#include "model/dsl.h"
#include "ops/op.h"

struct model {
    model_config config;
    model_info info;
    quantization *stored;   /* how the checkpoint is quantised; NULL = not */
    graph *plain;   /* as the model file describes it, for partitions */
    graph *g;       /* for one device */
};

/* ---- registry ---- */

static const model_family *const families[] = {
    &deepseek_family, &gemma3_family, &gemma3_mm_family, &gpt_oss_family, &llama4_family, &llama4_mm_family, &llama_family, &mistral_family, &phi3_family,
    &qwen2_family, &qwen2_5_vl_family, &qwen3_family, &qwen3_moe_family, &qwen3_omni_family,
};
enum { N_FAMILIES = sizeof families / sizeof *families };

const char *const *model_architectures(void)
{
    static const char *names[N_FAMILIES + 1];
    for (int i = 0; i < N_FAMILIES; i++) names[i] = families[i]->architecture;
    return names;
}

static status find_family(const char *name, const model_family **out)
{
    char have[512] = "";
    for (int i = 0; i < N_FAMILIES; i++) {
        if (strcmp(families[i]->architecture, name) == 0) {
            *out = families[i];
            return ST_OK;
        }
        if (i) strncat(have, ", ", sizeof have - strlen(have) - 1);
        strncat(have, families[i]->architecture, sizeof have - strlen(have) - 1);
    }
    return err_set(ST_UNSUPPORTED, "architecture '%.100s' is not supported; supported: %s", name, have);
}

/* ---- what others need to know ---- */

/* vLLM's rule: what the configuration derives is the limit, unless an environment variable takes the blame. */
static status context_length(const model_config *c, int wanted, int *out)
{
    int derived = (int)c->ropes[0].max_len;
    const char *allow = getenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN");
    if (wanted > derived && !(allow && strcmp(allow, "1") == 0))
        return err_set(ST_INVALID, "max_model_len %d is greater than %d, the context length derived from config.json (max_position_embeddings %d, rope %s); "
                       "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 allows it, at the risk of wrong output", wanted, derived, c->max_position, c->ropes[0].type);
    *out = wanted > 0 ? wanted : derived;
    return ST_OK;
}

static status fill_info(model *m, const model_options *o)
{
    const model_config *c = &m->config;
    model_params params;
    model_count_params(m->g, &params);
    m->info = (model_info){ .architecture = c->architecture, .model_type = c->model_type, .vocab_size = c->vocab, .n_layers = c->n_layers,
                            .hidden_size = c->hidden, .n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim,
                            .torch_dtype = c->torch_dtype, .sliding_window = c->layers[0].window, .rope_switch_len = c->ropes[0].switch_len,
                            .n_params = params.total, .bos_id = c->bos, .eos_ids = c->eos, .n_eos = c->n_eos };
    m->info.media = o->media;
    m->info.media_sees_all = o->media > 0 && strcmp(c->model_type, "gemma3") == 0;
    for (int i = 0; i < c->n_ropes; i++) m->info.mrope |= c->ropes[i].height + c->ropes[i].width > 0;
    for (int l = 0; l < c->n_layers; l++)
        if (c->layers[l].window != c->layers[0].window) m->info.sliding_window = 0; /* some layer needs every key */
    return context_length(c, o->max_model_len, &m->info.max_model_len);
}

/* ---- building ---- */

static status build(model *m, const model_family *f, const model_options *o)
{
    TRY(graph_new(ops_rules(), &m->plain));
    if (m->stored && o->quant)
        return err_set(ST_INVALID, "the checkpoint is quantised already (%s): its weights cannot become %s", quantization_method(m->stored), quant_name(o->quant));
    net n = { .g = m->plain, .c = &m->config, .type = o->weight_dtype, .quant = o->quant, .stored = m->stored, .media = o->media, .kv_scales = o->kv_scales, .layer = -1 };
    TRY(graph_finish(m->plain, decoder_lm(&n, f->layer)));
    return graph_optimize(m->plain, &m->g);
}

status model_graph_for(const model *m, mesh on, bool uniform, graph **out)
{
    graph *cut;
    TRY(graph_partition(m->plain, on, &cut));
    status st = uniform ? graph_optimize_uniform(cut, out) : graph_optimize(cut, out);
    graph_free(cut);
    return st;
}

status model_new(const jv *config, const model_options *o, model **out)
{
    const char *name;
    const model_family *f;
    TRY(config_architecture(config, &name));
    TRY(find_family(name, &f));
    if (o->weight_dtype != DT_F32 && o->weight_dtype != DT_BF16 && o->weight_dtype != DT_F16)
        return err_set(ST_INVALID, "weights of %s; supported: f32, bf16, f16", dtype_name(o->weight_dtype));
    if ((unsigned)o->quant >= QUANT_COUNT) return err_set(ST_INVALID, "unknown quantisation scheme %d", (int)o->quant);
    model *m = mem_calloc(1, sizeof *m);
    if (!m) return err_nomem();
    status st = quantization_parse(config, &m->stored);
    if (st == ST_OK && o->keep_activations) quantization_keep_activations(m->stored);
    if (st == ST_OK) st = config_parse(config, &f->defaults, &m->config);
    if (st == ST_OK) st = build(m, f, o);
    if (st == ST_OK) st = fill_info(m, o);
    if (st == ST_OK) *out = m;
    else model_free(m);
    return st;
}

void model_free(model *m)
{
    if (!m) return;
    graph_free(m->plain);
    graph_free(m->g);
    config_free(&m->config);
    quantization_free(m->stored);
    mem_free(m);
}

const quantization *model_quantization(const model *m) { return m->stored; }
const model_info *model_describe(const model *m) { return &m->info; }
const graph *model_graph(const model *m) { return m->g; }
