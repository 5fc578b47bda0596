/* The policy `table`: vLLM's adaptive TPU back end, figure for figure. */
#include "tpu/attention_config.h"

#include "tests/test.h"

static attention_shape shape_of(int head, int len) { return (attention_shape){ .q_heads = 32, .kv_heads = 8, .head_size = head, .max_model_len = len, .seqs = 64, .tokens = 64, .act = DT_BF16, .kv = DT_BF16 }; }
static attention_config table_of(const char *chip_name, int head, int len)
{
    attention_shape s = shape_of(head, len);
    attention_config c = {0};
    CHECK_OK(attention_configure(chip_by_name(chip_name), ATTENTION_TABLE, &s, &c));
    return c;
}

TEST(rows_of_the_table)
{
    attention_config c = table_of("v6e", 128, 4096);
    CHECK_INT(c.policy, ATTENTION_TABLE);
    CHECK_INT(c.padded_head_size, 256);
    CHECK_INT(c.block_q, 512);
    CHECK_INT(c.block_kv, 1024);
    CHECK_INT(c.pipeline_stages, 4);
    CHECK_INT(c.pages_per_kv_block, 4);
    CHECK_INT(c.queries_per_block, 8);
    CHECK_INT(c.vmem_limit_bytes, 768 * 1024);
    const char *const others[] = { "v5e", "v4" };
    for (int i = 0; i < 2; i++) {
        c = table_of(others[i], 128, 4096);
        CHECK_INT(c.padded_head_size, 128);
        CHECK_INT(c.block_q, 256);
        CHECK_INT(c.block_kv, 512);
        CHECK_INT(c.pipeline_stages, 2);
        CHECK(c.vmem_limit_bytes > 8 << 20);
        CHECK(!c.warning);
    }
}

TEST(blocks_are_no_longer_than_sequences)
{
    attention_config c = table_of("v6e", 128, 100);
    CHECK_INT(c.block_q, 100);
    CHECK_INT(c.block_kv, 100);
    CHECK_INT(c.pages_per_kv_block, 1);
    CHECK_INT(c.queries_per_block, 1);
    c = table_of("v6e", 128, 300);
    CHECK_INT(c.pages_per_kv_block, 2);
    CHECK_INT(c.queries_per_block, 4);
    c = table_of("v5e", 128, 100);
    CHECK_INT(c.block_q, 100);
    CHECK_INT(c.block_kv, 100);
}

TEST(page_sizes)
{
    static const struct { int len, v6, v5; } want[] = { { 64, 32, 16 }, { 256, 32, 16 }, { 257, 64, 32 }, { 1024, 128, 64 }, { 2048, 256, 128 }, { 3000, 512, 256 },
                                                        { 4096, 512, 256 }, { 8192, 512, 256 }, { 8193, 32, 16 }, { 131072, 32, 16 } };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        CHECK_INT(table_of("v6e", 128, want[i].len).page_size, want[i].v6);
        CHECK_INT(table_of("v5e", 128, want[i].len).page_size, want[i].v5);
    }
    attention_shape s = shape_of(128, 4096);
    attention_config c;
    s.page_size = 48;
    CHECK_OK(attention_configure(chip_by_name("v6e"), ATTENTION_TABLE, &s, &c));
    CHECK_INT(c.page_size, 48);
}

TEST(heads_are_padded_and_cost_what_they_take)
{
    static const struct { int head, v6, v5; } want[] = { { 64, 256, 128 }, { 80, 256, 128 }, { 96, 256, 128 }, { 128, 256, 128 }, { 192, 256, 256 }, { 256, 256, 256 }, { 257, 512, 384 } };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        CHECK_INT(table_of("v6e", want[i].head, 4096).padded_head_size, want[i].v6);
        CHECK_INT(table_of("v5e", want[i].head, 4096).padded_head_size, want[i].v5);
    }
    CHECK_INT(table_of("v6e", 128, 4096).kv_bytes_per_token, 2 * 8 * 256 * 2);
    CHECK_INT(table_of("v5e", 128, 4096).kv_bytes_per_token, 2 * 8 * 128 * 2);
    attention_config c = table_of("v6e", 80, 4096);
    int64_t kv[4];
    attention_kv_shape(&c, 8, 1000, kv);
    CHECK_INT(kv[0], 1000);
    CHECK_INT(kv[1], 512);
    CHECK_INT(kv[2], 16);
    CHECK_INT(kv[3], 256);
}

TEST(other_generations_take_the_row_of_v5_and_say_so)
{
    const char *const unknown[] = { "v3", "v7x" };
    for (int i = 0; i < 2; i++) {
        attention_config c = table_of(unknown[i], 128, 4096);
        CHECK_INT(c.padded_head_size, 128);
        CHECK_INT(c.block_kv, 512);
        CHECK_INT(c.page_size, 256);
        CHECK(c.warning && strstr(c.warning, "v5"));
    }
    attention_config c = table_of("v5p", 128, 4096);
    CHECK_INT(c.block_q, 256);
    CHECK(!c.warning);
}

TEST(the_limit_that_starves_v6e_is_reported_and_not_given_to_the_compiler)
{
    attention_config c = table_of("v6e", 128, 4096);
    CHECK(c.vmem_needed_bytes > c.vmem_limit_bytes && c.compiler_vmem_bytes >= c.vmem_needed_bytes);
    CHECK(c.compiler_vmem_bytes <= chip_by_name("v6e")->vmem_bytes);
    CHECK(c.warning && strstr(c.warning, "768 KB"));
}

TEST(wide_heads_take_fewer_buffers)
{
    attention_config c = table_of("v6e", 257, 4096);
    CHECK_INT(c.pipeline_stages, 2);
    CHECK(c.warning && strstr(c.warning, "fewer"));
    attention_shape s = shape_of(2048, 4096);
    CHECK_ERR(attention_configure(chip_by_name("v4"), ATTENTION_TABLE, (s.q_heads = s.kv_heads = 512, &s), &c), ST_UNSUPPORTED, "VMEM");
}

TEST(refusals)
{
    CHECK_OK(attention_check(&(attention_features){ .k_scale = 0 }));
    CHECK_OK(attention_check(&(attention_features){ .kv_quantised = true, .k_scale = 0.5f, .v_scale = 1 }));
    CHECK_ERR(attention_check(&(attention_features){ .alibi = true }), ST_UNSUPPORTED, "ALiBi");
    CHECK_ERR(attention_check(&(attention_features){ .encoder = true }), ST_UNSUPPORTED, "decoder");
    CHECK_ERR(attention_check(&(attention_features){ .output_quantisation = true }), ST_UNSUPPORTED, "output");
    CHECK_ERR(attention_check(&(attention_features){ .kv_quantised = true, .k_scale = 0, .v_scale = 1 }), ST_INVALID, "zero");
    CHECK_ERR(attention_check(&(attention_features){ .kv_quantised = true, .k_scale = 1, .v_scale = 0 }), ST_INVALID, "zero");
    attention_config c;
    attention_shape s = shape_of(0, 4096);
    CHECK_ERR(attention_configure(chip_by_name("v6e"), ATTENTION_TABLE, &s, &c), ST_INVALID, "head size");
    s = shape_of(128, 4096);
    s.q_heads = 30;
    CHECK_ERR(attention_configure(chip_by_name("v6e"), ATTENTION_AUTO, &s, &c), ST_INVALID, "multiple");
    s = shape_of(128, 4096);
    s.tokens = 3;
    CHECK_ERR(attention_configure(chip_by_name("v6e"), ATTENTION_AUTO, &s, &c), ST_INVALID, "step");
}

TEST(the_report_and_its_list)
{
    attention_config c = table_of("v6e", 128, 4096);
    buf b = {0};
    attention_report(&c, &(attention_calls){ .n = 4, .seconds = 0.002 }, &b);
    CHECK_STR(buf_cstr(&b), "{\"backend\": \"TPU_V6E_ADAPTIVE_PALLAS_VLLM_V1\", \"architecture\": \"TPU v6 lite\", \"tpu_version\": 6, \"calls\": 4, \"mxu_size\": \"256x256\", "
                            "\"head_size_optimization\": \"128 -> 256\", \"memory_pipeline_stages\": 4, \"is_v6_optimized\": true, \"average_call_time_ms\": 0.5, "
                            "\"optimizations_applied\": [\"mxu_256x256_alignment\", \"4_stage_memory_pipeline\", \"enhanced_vmem_limits\", \"optimized_block_sizing\", "
                            "\"head_dimension_padding\"]}");
    buf_clear(&b);
    c = table_of("v5e", 128, 4096);
    attention_report(&c, &(attention_calls){ 0 }, &b);
    CHECK(strstr(buf_cstr(&b), "\"average_call_time_ms\": null, \"optimizations_applied\": [\"mxu_128x128_alignment\", \"2_stage_memory_pipeline\", \"standard_block_sizing\"]}"));
    buf_free(&b);
}

TEST_MAIN
