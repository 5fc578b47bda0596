/* quantization_config: which modules are stored how, and what is refused by name. */
#include "model/quantization.h"

#include "base/mem.h"
#include "tests/test.h"

static status parse(const char *fields, quantization **out)
{
    char text[4096];
    jv *j = NULL;
    snprintf(text, sizeof text, "{\"quantization_config\": {%s}}", fields);
    TRY(jv_parse(text, strlen(text), &j));
    status st = quantization_parse(j, out);
    jv_free(j);
    return st;
}

/* The module's scheme in words, "-" for one that is as it is. */
static const char *scheme(const quantization *q, const char *module)
{
    static char name[QUANT_NAME_CAP];
    quant_module m;
    quantization_module(q, module, &m);
    return m.format ? quant_print(m.scheme, name) : "-";
}

#define CT(format, groups, rest) "\"quant_method\": \"compressed-tensors\", \"format\": \"" format "\", \"config_groups\": {" groups "}" rest
#define GROUP(name, targets, weights, act) "\"" name "\": {\"targets\": [" targets "], \"weights\": {" weights "}, \"input_activations\": " act "}"
#define INT4 "\"num_bits\": 4, \"type\": \"int\", \"symmetric\": true, \"strategy\": \"group\", \"group_size\": 32"
#define FP8C "\"num_bits\": 8, \"type\": \"float\", \"symmetric\": true, \"strategy\": \"channel\""
#define TOKEN(type) "{\"num_bits\": 8, \"type\": \"" type "\", \"symmetric\": true, \"strategy\": \"token\", \"dynamic\": true}"

TEST(schemes_of_methods)
{
    static const struct { const char *fields, *want; } cases[] = {
        { "\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 128, \"zero_point\": true, \"version\": \"gemm\"", "i4.g128.zeros" },
        { "\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 32, \"desc_act\": true", "i4.g32.zeros.ordered" },
        { "\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": -1, \"desc_act\": true", "i4.zeros" },
        { "\"quant_method\": \"fp8\", \"activation_scheme\": \"dynamic\", \"weight_block_size\": [128, 128]", "f8e4m3.g128.act=fp8_g128" },
        { "\"quant_method\": \"fp8\", \"activation_scheme\": \"static\"", "f8e4m3.act=fp8_static" },
        { "\"quant_method\": \"modelopt\", \"quant_algo\": \"FP8\"", "f8e4m3.act=fp8_static" },
        { CT("pack-quantized", GROUP("g", "\"Linear\"", INT4, "null"), ""), "i4.g32" },
        { CT("int-quantized", GROUP("g", "\"Linear\"", "\"num_bits\": 8, \"type\": \"int\", \"strategy\": \"channel\"", TOKEN("int")), ""), "i8.act=int8" },
        { CT("float-quantized", GROUP("g", "\"Linear\"", FP8C, TOKEN("float")), ""), "f8e4m3.act=fp8" },
        { CT("float-quantized", GROUP("g", "\"Linear\"", FP8C, "null"), ""), "f8e4m3" },
        { CT("mxfp4-pack-quantized", GROUP("g", "\"Linear\"", "\"num_bits\": 4, \"type\": \"float\", \"group_size\": 32", "null"), ""), "f4e2m1.g32" },
        { CT("nvfp4-pack-quantized", GROUP("g", "\"Linear\"", "\"num_bits\": 4, \"type\": \"float\", \"group_size\": 16", "null"), ""), "f4e2m1.g16" },
        { CT("nvfp4-pack-quantized", GROUP("g", "\"Linear\"", "\"num_bits\": 4, \"type\": \"float\", \"group_size\": 16", "{\"num_bits\": 4, \"type\": \"float\", \"strategy\": \"tensor_group\", \"dynamic\": \"local\", \"group_size\": 16}"), ""), "f4e2m1.g16" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        quantization *q = NULL;
        quant_scheme again;
        REQUIRE_OK(parse(cases[i].fields, &q));
        CHECK_STR(scheme(q, "model.layers.3.self_attn.q_proj"), cases[i].want);
        CHECK_STR(scheme(q, "lm_head"), "-");
        CHECK_STR(scheme(q, "model.layers.3.mlp.gate"), "-");
        quant_module m;
        quantization_module(q, "model.layers.0.mlp.experts.*.down_proj", &m);
        CHECK(quant_read(cases[i].want, &again) && again == m.scheme);
        quantization_free(q);
    }
}

TEST(modules_that_are_left_alone)
{
    quantization *q = NULL;
    REQUIRE_OK(parse(CT("pack-quantized", GROUP("g", "\"Linear\"", INT4, "null"), ", \"ignore\": [\"lm_head\", \"re:.*self_attn.*\", \"re:.*mlp\\\\.(gate|up|gate_up|down)_proj.*\", \"model.layers.5.mlp.experts.0.up_proj\"]"), &q));
    CHECK_STR(scheme(q, "model.layers.1.self_attn.o_proj"), "-");
    CHECK_STR(scheme(q, "model.layers.0.mlp.down_proj"), "-");
    CHECK_STR(scheme(q, "model.layers.1.mlp.experts.*.down_proj"), "i4.g32");
    CHECK_STR(scheme(q, "model.layers.5.mlp.experts.*.up_proj"), "-");
    quantization_free(q);
    REQUIRE_OK(parse("\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128], \"modules_to_not_convert\": [\"visual\", \"model.layers.2.mlp.down_proj\", \"model.layers.1.self_attn.qkv_proj\"]", &q));
    CHECK_STR(scheme(q, "visual.blocks.0.attn.qkv"), "-");
    CHECK_STR(scheme(q, "model.layers.2.mlp.down_proj"), "-");
    CHECK_STR(scheme(q, "model.layers.1.self_attn.k_proj"), "-");
    CHECK_STR(scheme(q, "model.layers.12.mlp.down_proj"), "f8e4m3.g128.act=fp8_g128");
    quantization_free(q);
    REQUIRE_OK(parse("\"quant_method\": \"mxfp4\", \"modules_to_not_convert\": [\"model.layers.*.self_attn\"]", &q));
    CHECK_STR(scheme(q, "model.layers.0.mlp.experts.gate_up_proj[*]T"), "f4e2m1.g32");
    CHECK_STR(scheme(q, "model.layers.0.self_attn.q_proj"), "-");
    quantization_free(q);
    CHECK_STR(scheme(NULL, "lm_head"), "-");
}

/* Names come before classes; a format may be the group's own. */
TEST(groups)
{
    quantization *q = NULL;
    REQUIRE_OK(parse(CT("mixed-precision", GROUP("a", "\"Linear\"", INT4, "null, \"format\": \"pack-quantized\"") ", " GROUP("b", "\"re:.*down_proj\", \"lm_head\"", FP8C, "null, \"format\": \"float-quantized\""), ""), &q));
    CHECK_STR(scheme(q, "model.layers.0.mlp.up_proj"), "i4.g32");
    CHECK_STR(scheme(q, "model.layers.0.mlp.down_proj"), "f8e4m3");
    CHECK_STR(scheme(q, "lm_head"), "f8e4m3");
    quantization_free(q);
}

TEST(refused)
{
    static const struct { const char *fields, *message; status code; } cases[] = {
        { "\"quant_method\": \"bitsandbytes\"", "quant_method 'bitsandbytes'; supported: awq, gptq", ST_UNSUPPORTED },
        { "\"bits\": 4", "quant_method '?'", ST_UNSUPPORTED },
        { "\"quant_method\": \"awq\", \"bits\": 8, \"group_size\": 128", "bits 8 for awq; supported: 4", ST_UNSUPPORTED },
        { "\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 48", "group_size 48; supported: -1 and powers of two", ST_UNSUPPORTED },
        { "\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 64, \"version\": \"gemv\"", "version 'gemv'; supported: gemm", ST_UNSUPPORTED },
        { "\"quant_method\": \"gptq\", \"bits\": 3, \"group_size\": 128", "bits 3 for gptq", ST_UNSUPPORTED },
        { "\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128, \"dynamic\": {\"a\": {}}", "dynamic", ST_UNSUPPORTED },
        { "\"quant_method\": \"fp8\", \"activation_scheme\": \"odd\"", "activation_scheme 'odd'", ST_UNSUPPORTED },
        { "\"quant_method\": \"fp8\", \"fmt\": \"e5m2\"", "fmt 'e5m2'", ST_UNSUPPORTED },
        { "\"quant_method\": \"fp8\", \"weight_block_size\": [128, 100]", "weight_block_size has 100 columns", ST_UNSUPPORTED },
        { "\"quant_method\": \"fp8\", \"weight_block_size\": [128]", "weight_block_size is not two sizes", ST_INVALID },
        { "\"quant_method\": \"fp8\", \"ignored_layers\": [3]", "ignored_layers[0] is an integer, expected a name", ST_INVALID },
        { "\"quant_method\": \"modelopt\", \"quant_algo\": \"NVFP4\"", "quant_algo 'NVFP4'", ST_UNSUPPORTED },
        { "\"quant_method\": \"compressed-tensors\"", "config_groups is", ST_INVALID },
        { CT("marlin-24", GROUP("g", "\"Linear\"", INT4, "null"), ""), "format 'marlin-24'", ST_UNSUPPORTED },
        { CT("pack-quantized", GROUP("g", "\"Linear\"", FP8C, "null"), ""), "quantization_config.g: weights of 8 bits (float", ST_UNSUPPORTED },
        { CT("pack-quantized", GROUP("g", "\"Linear\"", INT4, TOKEN("int")), ""), "input_activations of 8 bits", ST_UNSUPPORTED },
        { CT("pack-quantized", "\"g\": {}", ""), "quantization_config.g has no weights", ST_UNSUPPORTED },
        { CT("pack-quantized", GROUP("g", "\"Linear\"", INT4, "null"), ", \"ignore\": [\"re:a(?!b)\"]"), "uses what is not supported", ST_UNSUPPORTED },
        { CT("pack-quantized", GROUP("g", "\"Linear\"", INT4, "null"), ", \"ignore\": [\"re:a{1,99}{1,99}\"]"), "uses what is not supported", ST_UNSUPPORTED },
        { CT("pack-quantized", GROUP("g", "\"Linear\"", INT4, "null"), ", \"ignore\": [\"re:a(\"]"), "is no expression that is supported", ST_UNSUPPORTED },
        { CT("float-quantized", GROUP("g", "\"Linear\"", FP8C, "null"), ", \"sparsity_config\": {\"format\": \"sparse-24-bitmask\"}"), "sparsity_config.format", ST_UNSUPPORTED },
        { "\"quant_method\": \"awq\", \"bits\": \"4\"", "bits -1 for awq", ST_UNSUPPORTED },
        { "\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": \"128\"", "group_size 0; supported", ST_UNSUPPORTED },
        { "\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 0", "group_size 0; supported", ST_UNSUPPORTED },
        { "\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": -2", "group_size -2; supported", ST_UNSUPPORTED },
        { "\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 4611686018427387904", "group_size 4611686018427387904; supported", ST_UNSUPPORTED },
        { "\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 128, \"checkpoint_format\": \"marlin\"", "checkpoint_format 'marlin'; supported: gptq, gptq_v2", ST_UNSUPPORTED },
        { "\"quant_method\": \"fp8\", \"weight_block_size\": [0, 128]", "weight_block_size is not two sizes", ST_INVALID },
        { "\"quant_method\": \"fp8\", \"weight_block_size\": [-128, 128]", "weight_block_size is not two sizes", ST_INVALID },
        { "\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128, 128]", "weight_block_size is not two sizes", ST_INVALID },
        { "\"quant_method\": \"fp8\", \"weight_block_size\": [\"128\", null]", "weight_block_size is not two sizes", ST_INVALID },
        { "\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128], \"activation_scheme\": \"static\"", "activation_scheme 'static'; supported: dynamic", ST_UNSUPPORTED },
        { "\"quant_method\": \"compressed-tensors\", \"config_groups\": []", "config_groups is", ST_INVALID },
        { CT("pack-quantized", GROUP("g", "\"Linear\"", INT4, "null"), ", \"ignore\": \"lm_head\""), "ignore is a string, expected a list of names", ST_INVALID },
        { CT("pack-quantized", GROUP("g", "7", INT4, "null"), ""), "targets[0] is an integer, expected a name", ST_INVALID },
        { CT("int-quantized", GROUP("g", "\"Linear\"", "\"num_bits\": 8, \"symmetric\": false, \"strategy\": \"channel\"", "null"), ""), "quantization_config.g: weights of 8 bits (int, strategy 'channel', asymmetric", ST_UNSUPPORTED },
        { CT("nvfp4-pack-quantized", GROUP("g", "\"Linear\"", "\"num_bits\": 4, \"type\": \"float\", \"group_size\": 32", "null"), ""), "weights of 4 bits (float", ST_UNSUPPORTED },
        { CT("float-quantized", GROUP("g", "\"Linear\"", FP8C, "null"), ", \"kv_cache_scheme\": {\"num_bits\": 8, \"type\": \"float\", \"strategy\": \"tensor\", \"dynamic\": true}"), "quantization_config.kv_cache_scheme: values of 8 bits", ST_UNSUPPORTED },
        { CT("float-quantized", GROUP("g", "\"Linear\"", FP8C, "null"), ", \"kv_cache_scheme\": {\"num_bits\": 4, \"type\": \"int\"}"), "kv_cache_scheme", ST_UNSUPPORTED },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        quantization *q = NULL;
        CHECK_ERR(parse(cases[i].fields, &q), cases[i].code, cases[i].message);
    }
}

static status flag(const char *config, const char *name, quant_scheme *out)
{
    jv *j = NULL;
    TRY(jv_parse(config, strlen(config), &j));
    status st = quantization_flag(j, name, out);
    jv_free(j);
    return st;
}

TEST(the_flag_beside_the_configuration)
{
    static const char awq[] = "{\"quantization_config\": {\"quant_method\": \"awq\"}}", fp8[] = "{\"text_config\": {\"quantization_config\": {\"quant_method\": \"fp8\"}}}";
    quant_scheme s;
    CHECK_OK(flag("{}", NULL, &s));
    CHECK_INT(s, QUANT_NONE);
    CHECK_OK(flag("{}", "fp8", &s));
    CHECK_INT(s, QUANT_FP8);
    CHECK_OK(flag(fp8, "fp8", &s));
    CHECK_INT(s, QUANT_NONE);
    CHECK_OK(flag(awq, "awq_marlin", &s));
    CHECK_ERR(flag(awq, "gptq", &s), ST_INVALID, "specified in the model config (awq) does not match the quantization method specified in the `quantization` argument (gptq)");
    CHECK_ERR(flag(awq, "int8", &s), ST_INVALID, "does not match");
    CHECK_ERR(flag("{}", "awq", &s), ST_INVALID, "--quantization awq wants a checkpoint that is quantised so");
}

static status parse_groups(quantization **out)
{
    return parse(CT("pack-quantized", GROUP("g", "\"Linear\"", INT4, "null"), ", \"ignore\": [\"lm_head\", \"a.b\"]"), out);
}

TEST(out_of_memory)
{
    quantization *q = NULL;
    CHECK_EVERY_ALLOCATION(parse_groups(&q), quantization_free(q));
}

/* What --kv-cache-dtype auto asks. */
TEST(caches_of_eight_bits)
{
    static const struct { const char *config; bool fp8; } all[] = {
        { "{}", false },
        { "{\"quantization_config\": 3}", false },
        { "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"kv_cache_scheme\": {\"num_bits\": 8, \"type\": \"float\", \"strategy\": \"tensor\", \"dynamic\": false}}}", true },
        { "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"kv_cache_scheme\": null}}", false },
        { "{\"text_config\": {\"quantization_config\": {\"quant_method\": \"modelopt\", \"kv_cache_scheme\": {\"num_bits\": 8, \"type\": \"float\", \"dynamic\": false}}}}", true },
        { "{\"quantization_config\": {\"quant_method\": \"modelopt\", \"kv_cache_scheme\": {\"num_bits\": 4, \"type\": \"float\"}}}", false },
        { "{\"quantization_config\": {\"quant_method\": \"modelopt\", \"quantization\": {\"kv_cache_quant_algo\": \"FP8\"}}}", true },
        { "{\"quantization_config\": {\"quant_method\": \"modelopt\", \"kv_cache_quant_algo\": \"NVFP4\"}}", false },
        { "{\"quantization_config\": {\"quant_method\": \"fp8\", \"kv_cache_scheme\": \"static\"}}", false },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        jv *j;
        REQUIRE_OK(jv_parse(all[i].config, strlen(all[i].config), &j));
        CHECK(quantization_fp8_cache(j) == all[i].fp8);
        jv_free(j);
    }
}

TEST_MAIN
