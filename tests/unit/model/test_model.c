/* Configurations: what is read, what is refused and in which words; rope frequencies; weights found, missing or wrong. */
#include <unistd.h>

#include "base/mem.h"
#include "model/config.h"
#include "model/model.h"
#include "ops/op.h"
#include "tests/test.h"

#define BASE "\"vocab_size\": 320, \"hidden_size\": 64, \"intermediate_size\": 172, \"num_hidden_layers\": 2, \"num_attention_heads\": 4," \
             " \"max_position_embeddings\": 4096"

static status make(const char *arch, const char *fields, dtype type, model **out)
{
    char text[4096];
    snprintf(text, sizeof text, "{\"architectures\": [\"%s\"], \"model_type\": \"t\", %s}", arch, fields);
    jv *j = NULL;
    TRY(jv_parse(text, strlen(text), &j));
    status st = model_new(j, &(model_options){ .weight_dtype = type }, out);
    jv_free(j);
    return st;
}

static void expect(const char *arch, const char *fields, status code, const char *message)
{
    model *m = NULL;
    CHECK_ERR(make(arch, fields, DT_F32, &m), code, message);
}

TEST(sizes_and_defaults)
{
    model *m;
    REQUIRE_OK(make("LlamaForCausalLM", BASE ", \"eos_token_id\": [1, 2], \"bos_token_id\": 0, \"torch_dtype\": \"bfloat16\"", DT_BF16, &m));
    const model_info *i = model_describe(m);
    CHECK_STR(i->architecture, "LlamaForCausalLM");
    CHECK_INT(i->head_dim, 16);
    CHECK_INT(i->n_kv_heads, 4);
    CHECK_INT(i->max_model_len, 4096);
    CHECK_INT(i->n_eos, 2);
    CHECK_INT(i->eos_ids[1], 2);
    CHECK_INT(i->bos_id, 0);
    CHECK_INT(i->torch_dtype, DT_BF16);
    CHECK_INT(i->sliding_window, 0);
    CHECK_INT(i->n_params, 2 * 320 * 64 + 64 + 2 * (4 * 64 * 64 + 3 * 64 * 172 + 2 * 64));
    CHECK_INT(graph_n_caches(model_graph(m)), 2);
    model_free(m);
    REQUIRE_OK(make("LlamaForCausalLM", BASE ", \"tie_word_embeddings\": true, \"head_dim\": 20, \"dtype\": \"float16\", \"eos_token_id\": null", DT_F32, &m));
    CHECK_INT(model_describe(m)->head_dim, 20);
    CHECK_INT(model_describe(m)->torch_dtype, DT_F16);
    CHECK_INT(model_describe(m)->n_eos, 0);
    CHECK_INT(model_describe(m)->n_params, 320 * 64 + 64 + 2 * (4 * 64 * 80 + 3 * 64 * 172 + 2 * 64));
    model_free(m);
    /* latent attention's heads have widths of their own */
    REQUIRE_OK(make("DeepseekV3ForCausalLM", BASE ", \"hidden_size\": 66", DT_F32, &m));
    CHECK_INT(model_describe(m)->head_dim, 192);
    model_free(m);
    /* transformers 5 writes num_local_experts where earlier ones wrote num_experts: 4 experts of 3 * 64 * 44 and a router each */
    static const char *const experts[] = { ", \"num_experts\": 4", ", \"num_local_experts\": 4" };
    int64_t params[2];
    for (int k = 0; k < 2; k++) {
        char fields[512];
        snprintf(fields, sizeof fields, BASE ", \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 44%s", experts[k]);
        REQUIRE_OK(make("Qwen3MoeForCausalLM", fields, DT_F32, &m));
        params[k] = model_describe(m)->n_params;
        model_free(m);
    }
    CHECK_INT(params[0], params[1]);
}

/* What a family's config.json must have besides BASE, and of a layer: linears, adds that are left (where norms or experts stand between
 * a linear and its residual), sums over tensor ranks. */
typedef struct family_case { const char *arch, *fields; int linears, adds, sums; } family_case;
#define SPARSE ", \"num_experts\": 4, \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 44"
#define MROPE ", \"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [2, 3, 3]}"
#define EXPERTS ", \"num_local_experts\": 4, \"num_experts_per_tok\": 2"

static family_case family_of(const char *arch)
{
    static const family_case known[] = {
        { "Gemma3ForCausalLM", "", 4, 2, 2 }, { "Gemma3ForConditionalGeneration", "", 4, 2, 2 }, { "GptOssForCausalLM", EXPERTS, 3, 1, 2 },
        { "Llama4ForCausalLM", EXPERTS, 5, 1, 3 }, { "Llama4ForConditionalGeneration", EXPERTS, 5, 1, 3 },
        { "DeepseekV3ForCausalLM", "", 5, 0, 2 },
        { "Qwen3MoeForCausalLM", SPARSE, 3, 1, 2 }, { "Qwen3OmniMoeForConditionalGeneration", SPARSE MROPE, 3, 1, 2 },
        { "Qwen2_5_VLForConditionalGeneration", MROPE, 4, 0, 2 },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].arch, arch) == 0) return known[i];
    return (family_case){ arch, "", 4, 0, 2 };
}

static status make_family(const family_case *f, model **out)
{
    char fields[1024];
    snprintf(fields, sizeof fields, "%s, \"num_key_value_heads\": 2, \"head_dim\": 16%s", BASE, f->fields);
    return make(f->arch, fields, DT_BF16, out);
}

/* QKV and gate+up are one linear each, in every family alike. */
TEST(families_fuse_alike)
{
    for (int a = 0; model_architectures()[a]; a++) {
        model *m;
        family_case f = family_of(model_architectures()[a]);
        REQUIRE_OK(make_family(&f, &m));
        int linears = 0, adds = 0;
        for (int id = 1; id <= graph_n_nodes(model_graph(m)); id++) {
            linears += graph_at(model_graph(m), id)->op == OP_LINEAR;
            adds += graph_at(model_graph(m), id)->op == OP_ADD;
        }
        CHECK_INT(linears, 2 * f.linears + 1);
        CHECK_INT(adds, 2 * f.adds);
        model_free(m);
    }
}

static int count(const graph *g, op o)
{
    int n = 0;
    for (int id = 1; id <= graph_n_nodes(g); id++) n += graph_at(g, id)->op == o;
    return n;
}

/* Values of the weights that all ranks of a mesh hold together, padding and copies included. */
static int64_t held(const graph *g)
{
    int64_t n = 0;
    for (int id = 1; id <= graph_n_nodes(g); id++)
        if (graph_at(g, id)->op == OP_WEIGHT) n += graph_at(g, id)->s.dim[0] * shape_cols(&graph_at(g, id)->s);
    return n * graph_mesh(g).tp;
}

TEST(graphs_for_meshes)
{
    for (int a = 0; model_architectures()[a]; a++) {
        model *m;
        graph *g = NULL;
        family_case f = family_of(model_architectures()[a]);
        REQUIRE_OK(make_family(&f, &m));
        for (int tp = 1; tp <= 4; tp *= 2)
            for (int uniform = 0; uniform < 2; uniform++) {
                REQUIRE_OK(model_graph_for(m, (mesh){ 2, tp, false, false }, uniform, &g));
                CHECK_INT(graph_mesh(g).dp, 2);
                CHECK_INT(graph_mesh(g).tp, tp);
                CHECK_INT(count(g, OP_ALL_REDUCE), tp > 1 ? 2 * f.sums + 1 : 0);
                CHECK_INT(count(g, OP_ALL_GATHER), tp > 1);
                CHECK_INT(count(g, OP_LINEAR), 2 * f.linears + 1);
                CHECK_INT(graph_node(g, graph_output(g))->s.dim[1], 320);
                if (tp == 1) CHECK_INT(held(g), model_describe(m)->n_params);
                graph_free(g);
            }
        CHECK_ERR(model_graph_for(m, (mesh){ 1, 8, false, false }, false, &g), ST_INVALID,
                  "Total number of attention heads (4) must be divisible by tensor parallel size (8).");
        model_free(m);
    }
}

TEST(refusals_name_the_field)
{
    expect("BertModel", BASE, ST_UNSUPPORTED, "Gemma3ForCausalLM, Gemma3ForConditionalGeneration, GptOssForCausalLM, Llama4ForCausalLM, Llama4ForConditionalGeneration, LlamaForCausalLM");
    expect("LlamaForCausalLM", "\"vocab_size\": 320", ST_INVALID, "num_hidden_layers is missing");
    static const struct { const char *field, *message; status code; } cases[] = {
        { "\"hidden_size\": 66, \"x\": 1", "hidden_size 66 is no multiple of num_attention_heads 4", ST_INVALID },
        { "\"hidden_size\": -4", "hidden_size is -4", ST_INVALID },
        { "\"hidden_size\": 1e300", "hidden_size is a", ST_INVALID },
        { "\"hidden_size\": 4611686018427387904", "hidden_size is 4611686018427387904, expected 1 to", ST_INVALID },
        { "\"num_hidden_layers\": 100000", "num_hidden_layers", ST_INVALID },
        { "\"num_hidden_layers\": \"two\"", "num_hidden_layers is a string", ST_INVALID },
        { "\"num_attention_heads\": 0", "num_attention_heads", ST_INVALID },
        { "\"num_key_value_heads\": 3", "num_attention_heads 4 is no multiple of num_key_value_heads 3", ST_INVALID },
        { "\"head_dim\": 15", "head_dim 15 with partial_rotary_factor 1 rotates 15", ST_INVALID },
        { "\"hidden_act\": \"relu\"", "hidden_act 'relu'", ST_UNSUPPORTED },
        { "\"rms_norm_eps\": -1", "rms_norm_eps", ST_INVALID },
        { "\"rms_norm_eps\": \"x\"", "rms_norm_eps is a string", ST_INVALID },
        { "\"torch_dtype\": \"int3\"", "torch_dtype is 'int3'", ST_INVALID },
        { "\"tie_word_embeddings\": \"no\"", "tie_word_embeddings", ST_INVALID },
        { "\"eos_token_id\": \"</s>\"", "eos_token_id", ST_INVALID },
        { "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}", "rope_type 'dynamic' is not supported; supported: default, linear, llama3, yarn, longrope, mrope", ST_UNSUPPORTED },
        { "\"rope_scaling\": {\"factor\": 2}", "rope_scaling has no rope_type", ST_INVALID },
        { "\"rope_scaling\": 3", "rope_scaling is", ST_INVALID },
        { "\"rope_scaling\": {\"type\": \"linear\"}", "factor is missing", ST_INVALID },
        { "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 0.5}", "high_freq_factor", ST_INVALID },
        { "\"rope_scaling\": {\"rope_type\": \"longrope\", \"short_factor\": [1], \"long_factor\": [1]}", "short_factor must be a list of 8", ST_INVALID },
        { "\"rope_theta\": 0", "rope_theta", ST_INVALID },
        { "\"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [2, 3, 4]}", "mrope_section must be three numbers that add up to 8", ST_INVALID },
        { "\"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [-2, 3, 7]}", "mrope_section", ST_INVALID },
        { "\"quantization_config\": {\"quant_method\": \"aqlm\"}", "quant_method 'aqlm'; supported: awq, gptq", ST_UNSUPPORTED },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char fields[1024];
        snprintf(fields, sizeof fields, "%s, %s", BASE, cases[i].field);
        expect("LlamaForCausalLM", fields, cases[i].code, cases[i].message);
    }
    model *m;
    jv *j = NULL;
    REQUIRE_OK(jv_parse("[1]", 3, &j));
    CHECK_ERR(model_new(j, &(model_options){ .weight_dtype = DT_F32 }, &m), ST_INVALID, "expected an object");
    jv_free(j);
    expect("MistralForCausalLM", BASE ", \"num_key_value_heads\": 4, \"layer_types\": [\"full_attention\"]", ST_INVALID, "layer_types");
    expect("MistralForCausalLM", BASE ", \"num_key_value_heads\": 4, \"layer_types\": [\"full_attention\", \"mamba\"]", ST_UNSUPPORTED, "layer_types[1] is 'mamba'");
}

static int derived(const char *rope, int wanted, status *st)
{
    char text[2048];
    snprintf(text, sizeof text, "{\"architectures\": [\"LlamaForCausalLM\"], %s%s}", BASE, rope);
    jv *j = NULL;
    model *m = NULL;
    *st = jv_parse(text, strlen(text), &j);
    if (*st == ST_OK) *st = model_new(j, &(model_options){ .weight_dtype = DT_F32, .max_model_len = wanted }, &m);
    int len = m ? model_describe(m)->max_model_len : 0;
    model_free(m);
    jv_free(j);
    return len;
}

TEST(context_length_follows_the_rope)
{
    status st;
    CHECK_INT(derived("", 0, &st), 4096);
    CHECK_INT(derived("", 100, &st), 100);
    CHECK_INT(derived(", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}", 0, &st), 8192);
    CHECK_INT(derived(", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": 1024}", 0, &st), 4096);
    CHECK_INT(derived(", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0}", 0, &st), 16384);
    CHECK_INT(derived(", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4,"
                      " \"original_max_position_embeddings\": 512}", 0, &st), 4096);
    CHECK_INT(derived(", \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 5000.0}", 0, &st), 4096);
    CHECK_INT(derived("", 5000, &st), 0);
    CHECK_INT(st, ST_INVALID);
    CHECK(strstr(err_msg(), "max_model_len 5000 is greater than 4096"));
}

/* Values by transformers 4.57 for head_dim 16. */
TEST(rope_frequencies)
{
    static const config_defaults d = { .eps = 1e-6, .max_position = 2048 };
    static const struct { const char *fields; float scale, f[8]; } cases[] = {
        { ", \"rope_theta\": 10000.0", 1, { 1.0f, 0.31622776f, 0.1f, 0.031622776f, 0.01f, 0.0031622776f, 0.001f, 0.00031622776f } },
        { ", \"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 4.0, \"rope_theta\": 10000.0}", 1,
          { 0.25f, 0.07905694f, 0.025f, 0.007905694f, 0.0025f, 0.0007905694f, 0.00025f, 0.00007905694f } },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[2048];
        snprintf(text, sizeof text, "{\"architectures\": [\"x\"], %s%s}", BASE, cases[i].fields);
        jv *j = NULL;
        model_config c;
        REQUIRE_OK(jv_parse(text, strlen(text), &j));
        REQUIRE_OK(config_parse(j, &d, &c));
        CHECK_NEAR(c.ropes[0].scale[0], cases[i].scale, 1e-7);
        for (int k = 0; k < 8; k++) CHECK_NEAR(c.ropes[0].inv_freq[k] / cases[i].f[k], 1, 1e-6);
        config_free(&c);
        jv_free(j);
    }
}

/* The published configurations of what is supported here. */
TEST(published_configurations)
{
    static const struct { const char *name; int64_t params; } models[] = {
        { "Llama-3.1-8B-Instruct", 8030261248 }, { "Llama-3.3-70B-Instruct", 70553706496 }, { "Llama-3.2-1B-Instruct", 1235814400 },
        { "Qwen3-0.6B", 596049920 }, { "Qwen3-4B", 4022468096 }, { "Qwen3-32B", 32762123264 } };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char rel[128];
        snprintf(rel, sizeof rel, "facts/configs/%s.json", models[i].name);
        const char *path = test_shared(rel);
        if (!path) SKIP("no configurations");
        jv *j = NULL;
        model *m = NULL;
        REQUIRE_OK(jv_parse_file(path, 1 << 20, &j));
        CHECK_OK(model_new(j, &(model_options){ .weight_dtype = DT_BF16 }, &m));
        if (m) CHECK_INT(model_describe(m)->n_params, models[i].params);
        for (int tp = 2; m && tp <= 16; tp *= 2) { /* nothing but norms is held twice, and KV heads where ranks outnumber them */
            graph *g = NULL;
            CHECK_OK(model_graph_for(m, (mesh){ 1, tp, tp == 4, false }, true, &g));
            if (g) CHECK(held(g) >= models[i].params && (tp > 8 || (double)held(g) < 1.002 * (double)models[i].params));
            graph_free(g);
        }
        model_free(m);
        jv_free(j);
    }
}

/* ---- weights ---- */

static const char tiny[] = "\"vocab_size\": 8, \"hidden_size\": 4, \"intermediate_size\": 6, \"num_hidden_layers\": 1, \"num_attention_heads\": 2,"
                           " \"max_position_embeddings\": 64";

/* Writes a checkpoint of zeros; `skip` is left out, `wrong` gets another shape, every name loses `strip`. */
static void write_checkpoint(const char *dir, const char *skip, const char *wrong, const char *strip)
{
    static const struct { const char *name; int rows, cols; } tensors[] = {
        { "model.embed_tokens.weight", 8, 4 }, { "model.layers.0.input_layernorm.weight", 4, 0 }, { "model.layers.0.self_attn.q_proj.weight", 4, 4 },
        { "model.layers.0.self_attn.k_proj.weight", 4, 4 }, { "model.layers.0.self_attn.v_proj.weight", 4, 4 },
        { "model.layers.0.self_attn.o_proj.weight", 4, 4 }, { "model.layers.0.post_attention_layernorm.weight", 4, 0 },
        { "model.layers.0.mlp.gate_proj.weight", 6, 4 }, { "model.layers.0.mlp.up_proj.weight", 6, 4 }, { "model.layers.0.mlp.down_proj.weight", 4, 6 },
        { "model.norm.weight", 4, 0 }, { "lm_head.weight", 8, 4 }, { "model.layers.0.self_attn.rotary_emb.inv_freq", 1, 0 } };
    buf header = { 0 };
    size_t at = 0;
    buf_char(&header, '{');
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        const char *name = tensors[i].name;
        if (skip && strstr(name, skip)) continue;
        int rows = tensors[i].rows + (wrong && strstr(name, wrong) ? 1 : 0);
        size_t n = (size_t)rows * (size_t)(tensors[i].cols ? tensors[i].cols : 1) * 4;
        if (strip && strncmp(name, strip, strlen(strip)) == 0) name += strlen(strip);
        buf_printf(&header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d", header.len > 1 ? "," : "", name, rows);
        if (tensors[i].cols) buf_printf(&header, ",%d", tensors[i].cols);
        buf_printf(&header, "],\"data_offsets\":[%zu,%zu]}", at, at + n);
        at += n;
    }
    buf_char(&header, '}');
    char path[256];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    FILE *f = fopen(path, "wb");
    uint64_t len = header.len;
    fwrite(&len, 8, 1, f);
    fwrite(header.data, 1, header.len, f);
    for (size_t i = 0; i < at; i++) fputc(0, f);
    fclose(f);
    buf_free(&header);
}

TEST(checkpoints_found_missing_and_wrong)
{
    char dir[] = "/tmp/systolic-model-XXXXXX", path[256];
    REQUIRE(mkdtemp(dir));
    model *m, *tied;
    weight_source *w = NULL;
    weight_data d;
    REQUIRE_OK(make("LlamaForCausalLM", tiny, DT_F32, &m));
    REQUIRE_OK(make("LlamaForCausalLM", "\"tie_word_embeddings\": true, \"vocab_size\": 8, \"hidden_size\": 4, \"intermediate_size\": 6,"
                    " \"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"max_position_embeddings\": 64", DT_F32, &tied));
    write_checkpoint(dir, NULL, NULL, NULL);
    REQUIRE_OK(model_weights_open(m, dir, false, 0, &w));
    CHECK(w->has(w, "lm_head.weight") && !w->has(w, "lm_foot.weight"));
    CHECK_OK(w->get(w, "lm_head.weight", &d));
    CHECK_INT(d.shape[0], 8);
    w->release(w, "lm_head.weight", &d);
    CHECK_ERR(w->get(w, "lm_foot.weight", &d), ST_NOT_FOUND, "lm_foot.weight");
    model_weights_close(w);
    write_checkpoint(dir, NULL, NULL, "model.");
    CHECK_OK(model_weights_open(m, dir, false, 0, &w));
    model_weights_close(w);
    write_checkpoint(dir, "lm_head", NULL, NULL);
    CHECK_ERR(model_weights_open(m, dir, false, 0, &w), ST_NOT_FOUND, "lacks 1 tensor: lm_head.weight");
    CHECK_OK(model_weights_open(tied, dir, false, 0, &w));
    model_weights_close(w);
    write_checkpoint(dir, "mlp", NULL, NULL);
    CHECK_ERR(model_weights_open(m, dir, false, 0, &w), ST_NOT_FOUND, "lacks 3 tensors: model.layers.0.mlp.gate_proj.weight, ");
    write_checkpoint(dir, NULL, "q_proj", NULL);
    CHECK_ERR(model_weights_open(m, dir, false, 0, &w), ST_INVALID, "tensor model.layers.0.self_attn.q_proj.weight is f32[5, 4], config.json wants f32[4, 4]");
    write_checkpoint(dir, NULL, "norm", NULL);
    CHECK_ERR(model_weights_open(m, dir, false, 0, &w), ST_INVALID, "f32[5], config.json wants f32[4]");
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    rmdir(dir);
    model_free(m);
    model_free(tied);
}

TEST(dummy_weights)
{
    model *m;
    weight_source *w;
    weight_data a, b;
    REQUIRE_OK(make("Phi3ForCausalLM", tiny, DT_BF16, &m));
    REQUIRE_OK(model_weights_open(m, NULL, true, 7, &w));
    CHECK_OK(w->get(w, "model.layers.0.self_attn.qkv_proj.weight", &a));
    CHECK_OK(w->get(w, "model.layers.0.self_attn.qkv_proj.weight", &b));
    CHECK_INT(a.shape[0], 12);
    CHECK_INT(a.type, DT_BF16);
    CHECK(memcmp(a.values, b.values, 12 * 4 * 2) == 0);
    w->release(w, "", &a);
    w->release(w, "", &b);
    CHECK_ERR(w->get(w, "model.layers.9.x", &a), ST_NOT_FOUND, "model.layers.9.x");
    model_weights_close(w);
    model_free(m);
}

TEST(out_of_memory_is_a_status)
{
    bool done = false;
    for (uint64_t n = 1; !done && n < 10000; n++) {
        int64_t live = mem_live();
        model *m = NULL;
        weight_source *w = NULL;
        graph *g = NULL;
        mem_fail_at(n);
        status st = make("Phi3ForCausalLM", BASE ", \"rope_scaling\": null", DT_BF16, &m);
        if (st == ST_OK) st = model_graph_for(m, (mesh){ 1, 2, true, false }, true, &g);
        if (st == ST_OK) st = model_weights_open(m, NULL, true, 7, &w);
        done = !mem_failed();
        mem_fail_at(0);
        CHECK(st == (done ? ST_OK : ST_NOMEM));
        model_weights_close(w);
        graph_free(g);
        model_free(m);
        CHECK_INT(mem_live(), live);
    }
    CHECK(done);
}

TEST_MAIN
