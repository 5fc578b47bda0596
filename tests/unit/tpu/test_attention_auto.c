/* The policy `auto`: by its model never worse than the table, whatever the shape. */
#include "tpu/attention_cost.h"

#include "tests/test.h"

static const int heads[] = { 64, 80, 96, 128, 192, 256 };
static const dtype kinds[] = { DT_BF16, DT_F8E4M3, DT_I8 };

static attention_shape shape_of(int head, int context, dtype kv, bool decode)
{
    return (attention_shape){ .q_heads = 32, .kv_heads = 8, .head_size = head, .max_model_len = context, .context = context, .seqs = decode ? 64 : 1,
                              .tokens = decode ? 64 : 2048, .act = DT_BF16, .kv = kv };
}

static void check_choice(const chip *k, const attention_shape *s)
{
    attention_config a, t;
    CHECK_OK(attention_configure(k, ATTENTION_AUTO, s, &a));
    CHECK_OK(attention_configure(k, ATTENTION_TABLE, s, &t));
    if (a.seconds > t.seconds) FAIL("%s, head %d, context %d: auto takes %g s, table %g", k->name, s->head_size, s->context, a.seconds, t.seconds);
    CHECK_INT(a.policy, ATTENTION_AUTO);
    CHECK(a.padded_head_size >= s->head_size && a.padded_head_size <= t.padded_head_size);
    CHECK(a.vmem_needed_bytes <= a.compiler_vmem_bytes && a.compiler_vmem_bytes <= k->vmem_bytes);
    CHECK_INT(a.block_kv, attention_kv_block_tokens(&a));
    CHECK(a.page_size >= 1 && a.pages_per_kv_block >= 1 && a.queries_per_block >= 1 && a.pipeline_stages >= 1);
}

TEST(never_worse_than_the_table)
{
    for (int i = 0; chip_at(i); i++)
        for (size_t h = 0; h < sizeof heads / sizeof *heads; h++)
            for (size_t d = 0; d < sizeof kinds / sizeof *kinds; d++)
                for (int context = 2048; context <= 131072; context *= 4)
                    for (int decode = 0; decode < 2; decode++) {
                        attention_shape s = shape_of(heads[h], context, kinds[d], decode);
                        check_choice(chip_at(i), &s);
                        s.page_size = 16;
                        check_choice(chip_at(i), &s);
                        s.window = 1024;
                        s.page_size = 0;
                        check_choice(chip_at(i), &s);
                    }
}

TEST(odd_shapes_are_configured_too)
{
    static const int groups[][2] = { { 1, 1 }, { 7, 1 }, { 16, 1 }, { 32, 32 }, { 128, 1 }, { 5, 5 } };
    for (int i = 0; chip_at(i); i++)
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
            for (int tokens = 1; tokens <= 300; tokens += 130)
                for (int seqs = 1; seqs <= tokens; seqs += 100)
                    for (int len = 1; len <= 40000; len = len * 7 + 1) {
                        attention_shape s = { .q_heads = groups[g][0], .kv_heads = groups[g][1], .head_size = 128, .max_model_len = len, .seqs = seqs, .tokens = tokens, .act = DT_BF16, .kv = DT_BF16 };
                        check_choice(chip_at(i), &s);
                    }
}

/* One KV head per device makes copies small and large pages fast; what prompts share would come in pages of 512 tokens. */
TEST(pages_stay_small_enough_to_be_shared)
{
    for (int i = 0; chip_at(i); i++)
        for (int latent = 0; latent < 2; latent++)
            for (int len = 8192; len <= 32768; len *= 2) {
                attention_shape s = { .q_heads = 16, .kv_heads = 1, .head_size = latent ? 576 : 128, .latent = latent, .max_model_len = len, .seqs = 16, .tokens = 16, .act = DT_BF16, .kv = DT_BF16 };
                attention_config c;
                CHECK_OK(attention_configure(chip_at(i), ATTENTION_AUTO, &s, &c));
                if (chip_at(i)->smem_bytes >= 1 << 20 && c.page_size > 128) FAIL("%s: pages of %d tokens", chip_at(i)->name, c.page_size);
                check_choice(chip_at(i), &s);
            }
}

/* 256 tables of 131072 tokens in pages of 128 would fill the scalar memory. */
TEST(pages_grow_where_their_table_would_not_fit)
{
    attention_shape s = { .q_heads = 32, .kv_heads = 8, .head_size = 128, .max_model_len = 131072, .seqs = 256, .tokens = 256, .act = DT_BF16, .kv = DT_BF16 };
    attention_config c;
    CHECK_OK(attention_configure(chip_by_name("v6e"), ATTENTION_AUTO, &s, &c));
    CHECK_INT(c.page_size, 256);
    CHECK(!c.warning);
    s.seqs = s.tokens = 128;
    CHECK_OK(attention_configure(chip_by_name("v6e"), ATTENTION_AUTO, &s, &c));
    CHECK_INT(c.page_size, 128);
}

/* Sequences end anywhere on their last page: a context that is a multiple of the page is no better than others. */
TEST(half_of_the_last_page_is_read_in_vain)
{
    attention_shape s = { .q_heads = 8, .kv_heads = 1, .head_size = 128, .max_model_len = 8192, .context = 2048, .seqs = 64, .tokens = 64, .act = DT_BF16, .kv = DT_BF16 };
    attention_config small, large;
    s.page_size = 64;
    CHECK_OK(attention_configure(chip_by_name("v6e"), ATTENTION_AUTO, &s, &small));
    s.page_size = 512;
    CHECK_OK(attention_configure(chip_by_name("v6e"), ATTENTION_AUTO, &s, &large));
    CHECK_NEAR(large.bytes - small.bytes, 64 * (256 - 32) * (double)small.kv_bytes_per_token, 1);
}

/* Decode reads K and V once and does little else: a padded head is read in vain. */
TEST(decode_does_not_pad_128_to_256)
{
    attention_shape s = shape_of(128, 2048, DT_BF16, true);
    attention_config a, t;
    CHECK_OK(attention_configure(chip_by_name("v6e"), ATTENTION_AUTO, &s, &a));
    CHECK_OK(attention_configure(chip_by_name("v6e"), ATTENTION_TABLE, &s, &t));
    CHECK_INT(a.padded_head_size, 128);
    CHECK_INT(2 * a.kv_bytes_per_token, t.kv_bytes_per_token);
    CHECK(t.seconds > 1.8 * a.seconds);
    s = shape_of(64, 2048, DT_BF16, true);
    CHECK_OK(attention_configure(chip_by_name("v6e"), ATTENTION_AUTO, &s, &a));
    CHECK_INT(a.padded_head_size, 64);
    CHECK_INT(a.kv_bytes_per_token, 2 * 8 * 64 * 2);
}

/* Four bytes for each head's K and V; what pads a page of few heads is divided among its tokens. */
TEST(scales_of_int8_are_counted)
{
    static const struct { int kv_heads, head, page, want; } cases[] = {
        { 8, 128, 32, 2 * 8 * 128 + 64 }, { 8, 128, 128, 2 * 8 * 128 + 64 }, { 5, 128, 32, 2 * 5 * 128 + 64 }, { 2, 128, 64, 2 * 2 * 128 + 16 }, { 1, 128, 32, 2 * 128 + 16 },
        { 1, 128, 64, 2 * 128 + 8 }, { 3, 64, 128, 2 * 3 * 64 + 24 }, { 8, 64, 32, 2 * 8 * 64 + 64 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        attention_shape s = { .q_heads = cases[i].kv_heads, .kv_heads = cases[i].kv_heads, .head_size = cases[i].head, .max_model_len = 8192, .seqs = 64, .tokens = 64, .page_size = cases[i].page,
                              .act = DT_BF16, .kv = DT_I8 };
        attention_config c;
        CHECK_OK(attention_configure(chip_by_name("v6e"), ATTENTION_AUTO, &s, &c));
        CHECK_INT(c.kv_bytes_per_token, cases[i].want);
    }
}

TEST(costs_follow_bytes_context_and_type)
{
    const chip *k = chip_by_name("v6e");
    attention_shape s = shape_of(128, 2048, DT_BF16, true), longer = shape_of(128, 8192, DT_BF16, true), narrow = shape_of(128, 2048, DT_F8E4M3, true);
    attention_config a, b, c;
    CHECK_OK(attention_configure(k, ATTENTION_AUTO, &s, &a));
    CHECK_OK(attention_configure(k, ATTENTION_AUTO, &longer, &b));
    CHECK_OK(attention_configure(k, ATTENTION_AUTO, &narrow, &c));
    double kv = 64.0 * 2048 * 2 * 8 * 128 * 2;
    CHECK(a.bytes >= kv && a.bytes < 1.05 * kv);
    CHECK(a.seconds > kv / k->hbm_bytes_per_s && a.seconds < 1.5 * kv / k->hbm_bytes_per_s);
    CHECK(b.seconds > 3.5 * a.seconds && b.seconds < 4.1 * a.seconds);
    CHECK(c.seconds < 0.6 * a.seconds);
}

TEST(parts_of_a_cost_add_up)
{
    attention_shape s = shape_of(128, 4096, DT_BF16, true);
    attention_config c;
    attention_cost one, few;
    CHECK_OK(attention_configure(chip_by_name("v5e"), ATTENTION_TABLE, &s, &c));
    attention_cost_of(&c, &s, &one);
    CHECK_NEAR(one.seconds, c.seconds, 0);
    CHECK(one.seconds >= one.memory_s && one.memory_s > 0 && one.issue_s > 0 && one.mxu_s > 0 && one.vector_s > 0 && one.overhead_s > 0);
    c.pipeline_stages = 1;
    attention_cost_of(&c, &s, &few);
    CHECK(few.seconds > one.seconds);
    s.window = 512;
    attention_cost_of(&c, &s, &few);
    CHECK(few.bytes < 0.3 * one.bytes);
}

TEST_MAIN
