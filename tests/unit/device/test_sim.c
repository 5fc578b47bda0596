/* The simulated device: names, prices of operations against arithmetic by hand, its time, its tokens. */
#include "base/clock.h"
#include "base/mem.h"
#include "device/sim/sim_target.h"
#include "ops/experts/experts.h"
#include "ops/op.h"
#include "tests/test.h"
#include "tests/unit/device/small_graph.h"

static const device_limits limits = { .max_tokens = 512, .max_seqs = 8, .max_rows = 8, .max_model_len = 4096, .block_size = 16, .kv_dtype = DT_BF16 };

/* ---- names ---- */

TEST(targets_are_read)
{
    sim_target t;
    REQUIRE_OK(sim_target_parse("v6e-8", &t));
    CHECK_STR(t.machine.chip->name, "v6e");
    CHECK_INT(step_machine_devices(&t.machine), 8);
    CHECK(t.speed == 1);
    REQUIRE_OK(sim_target_parse("v7x:2x2x2?speed=0,slices=2,mxu=0.5,step_ms=2", &t));
    CHECK_INT(step_machine_devices(&t.machine), 32);
    CHECK_STR(t.name, "v7x:2x2x2");
    CHECK(t.speed == 0 && t.machine.k.mxu == 0.5 && t.machine.k.step_s == 0.002 && t.machine.k.hbm == sim_constants_default.hbm);
    tpu_found found;
    setenv("TPU_ACCELERATOR_TYPE", "v5litepod-4", 1);
    REQUIRE_OK(sim_target_detect("?speed=0", &t, &found));
    CHECK_STR(t.name, "v5e:2x2");
    CHECK(t.speed == 0);
    unsetenv("TPU_ACCELERATOR_TYPE");
    setenv("TPU_VERSION", "4", 1);
    REQUIRE_OK(sim_target_detect("", &t, &found));
    CHECK_STR(t.name, "v4:2x2x1");
    unsetenv("TPU_VERSION");
    REQUIRE_OK(sim_target_detect("", &t, &found));
    CHECK_STR(t.name, "v6e:2x4");
    CHECK(found.source == TPU_SIMULATED);
    CHECK_ERR(sim_target_parse("v9:2x2", &t), ST_INVALID, "unknown generation");
    CHECK_ERR(sim_target_parse("v6e-8?mxu=fast", &t), ST_INVALID, "mxu must be a number");
    CHECK_ERR(sim_target_parse("v6e-8?slices=0", &t), ST_INVALID, "slices must be a number from 1");
    CHECK_ERR(sim_target_parse("v6e-8?warp=9", &t), ST_INVALID, "options are speed");
}

/* ---- prices ---- */

static void by_hand(const step_kind *k, int n, int len, double *pairs, double *least, double *most)
{
    int first_seen = len;
    *pairs = *most = 0;
    for (int q = len - n; q < len; q++) {
        int from = k->window && q + 1 > k->window ? q + 1 - (int)k->window : 0;
        if (k->chunk && q / (int)k->chunk * (int)k->chunk > from) from = q / (int)k->chunk * (int)k->chunk;
        *pairs += q + 1 - from;
        if (q + 1 - from > *most) *most = q + 1 - from;
        if (from < first_seen) first_seen = from;
    }
    *least = *most;
    *most = len - first_seen;
}

TEST(attention_sees_what_its_mask_lets_through)
{
    static const step_kind kinds[] = { { 0, 0 }, { 7, 0 }, { 100, 0 }, { 0, 16 }, { 0, 5 } };
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (int len = 1; len < 60; len += 3)
            for (int n = 1; n <= len; n += 4) {
                double pairs, least, most;
                step_reach r = {0};
                by_hand(&kinds[k], n, len, &pairs, &least, &most);
                step_reach_add(&kinds[k], n, len, 1e9, &r);
                if (r.pairs != pairs) FAIL("window %d chunk %d: %d tokens of %d: %g pairs, wanted %g", (int)kinds[k].window, (int)kinds[k].chunk, n, len, r.pairs, pairs);
                if (r.keys < least || r.keys > most + 1) FAIL("window %d chunk %d: %d tokens of %d: %g keys, of %g to %g", (int)kinds[k].window, (int)kinds[k].chunk, n, len, r.keys, least, most);
            }
}

typedef struct priced { graph *g; program_context c; step_costs *s; } priced;

static bool price(priced *p, int64_t window, int n_layers)
{
    *p = (priced){0};
    CHECK_OK(make(window, n_layers, &p->g));
    if (p->g) CHECK_OK(program_context_new(p->g, &limits, DT_BF16, &p->c));
    if (p->c.plan) CHECK_OK(step_costs_new(&p->c, &p->s));
    return p->s != NULL;
}

static void unprice(priced *p)
{
    step_costs_free(p->s);
    if (p->c.plan) program_context_free(&p->c);
    graph_free(p->g);
}

TEST(equal_operations_are_one_class)
{
    priced a, b;
    chip_work one, eight;
    step_load l = { .tokens = 8, .seqs = 8, .rows = 8, .reach = { { 8000, 8000 } } };
    REQUIRE(price(&a, 0, 1));
    if (price(&b, 0, 8)) {
        CHECK_INT(step_costs_n(a.s), step_costs_n(b.s));
        step_costs_work(a.s, &l, &one);
        step_costs_work(b.s, &l, &eight);
        const double per_layer = 2.0 * 8 * WIDE * WIDE + 2.0 * 8000 * 2 * WIDE;
        CHECK_NEAR(eight.flops - one.flops, 7 * per_layer, 1);
    }
    unprice(&a);
    unprice(&b);
}

TEST(a_step_takes_what_its_roofline_says)
{
    priced p;
    sim_target t;
    step_time time;
    REQUIRE_OK(sim_target_parse("v6e-1?mxu=1,hbm=1,ici=1,op_us=0,step_ms=0", &t));
    REQUIRE(price(&p, 0, 1));
    const double hbm = t.machine.chip->hbm_bytes_per_s, cache = (double)dtype_bytes(DT_BF16, (size_t)(p.c.plan->caches[0].kv.rows * p.c.plan->caches[0].kv.lanes));
    /* Decoding reads the weights and the cache: rows stay in VMEM. */
    step_load l = { .tokens = 8, .seqs = 8, .rows = 8, .reach = { { 8 * 4000, 8 * 4000 } } };
    step_costs_time(p.s, &l, &t.machine, &time);
    const double weights = 2.0 * (8 * WIDE + WIDE * WIDE + WIDE * VOCAB), kv = (8 + 8 * 4000) * cache;
    CHECK_NEAR(time.total / ((weights + kv) / hbm), 1, 1e-6);
    CHECK(cache >= 2 * 2 * WIDE);
    /* 4096 tokens: the product of 512 x 512 is the matrix units'; attention over heads of 128 fills half of a unit of 256 x 256. */
    const double flops = 2.0 * 4096 * WIDE * WIDE, pairs = 4096.0 * 4097 / 2, attention = 2 * pairs * 2 * WIDE;
    l = (step_load){ .tokens = 4096, .seqs = 1, .rows = 1, .reach = { { pairs, pairs / 1024 } } };
    step_costs_time(p.s, &l, &t.machine, &time);
    const double want = (flops + 2 * attention) / t.machine.chip->bf16_flops;
    CHECK_NEAR(time.compute / want, 1, 1e-6);
    /* Half the rate, twice the time; what launching takes is added for each operation and once. */
    t.machine.k.mxu = 0.5;
    step_costs_time(p.s, &l, &t.machine, &time);
    CHECK_NEAR(time.compute / want, 2, 1e-6);
    t.machine.k.step_s = 1;
    t.machine.k.op_s = 1e-3;
    step_costs_time(p.s, &l, &t.machine, &time);
    CHECK_NEAR(time.launch, 1 + 5e-3, 1e-9);     /* embedding, q, attention, rows, head */
    unprice(&p);
}

/* A prompt's queries read keys in tiles: the bucket's, or what the chip's kernel takes at once by the attention policy. */
TEST(tiles_of_prompts_follow_the_attention_policy)
{
    static const struct { attention_policy policy; attention_backend backend; const char *chip; int multiple, least, most; } cases[] = {
        { ATTENTION_TABLE, ATTENTION_BACKEND_AUTO, "v6e", 256, 8, 8 }, { ATTENTION_TABLE, ATTENTION_BACKEND_STABLEHLO, "v6e", 256, 128, 128 },
        { ATTENTION_AUTO, ATTENTION_BACKEND_AUTO, "v6e", 64, 16, 128 }, { ATTENTION_TABLE, ATTENTION_BACKEND_AUTO, "v3", 128, 128, 128 } };
    const lower_bucket prompt = { .tokens = 512, .seqs = 8, .rows = 8 }, decode = { .decode = true, .tokens = 8, .seqs = 8, .rows = 8 };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        priced p = {0};
        device_limits l = limits;
        l.attention = (attention_choice){ chip_by_name(cases[i].chip), cases[i].policy, cases[i].backend, cases[i].multiple };
        REQUIRE_OK(make(0, 1, &p.g));
        CHECK_OK(program_context_new(p.g, &l, DT_BF16, &p.c));
        CHECK_OK(step_costs_new(&p.c, &p.s));
        const double tile = step_costs_tile(p.s, 0, &prompt);
        if (tile < cases[i].least || tile > cases[i].most) FAIL("case %d: %g queries, wanted %d to %d", (int)i, tile, cases[i].least, cases[i].most);
        CHECK_NEAR(step_costs_tile(p.s, 0, &decode), 1, 0);
        unprice(&p);
    }
}

enum { EXPERTS = 8, EXPERTS_WIDE = 256 };

static tensor expert_weight(graph *g, quant_scheme scheme, const char *a, const char *b, int64_t rows, int64_t cols)
{
    const axis out = b ? AX_MLP : AX_EMBED, in = b ? AX_EMBED : AX_MLP;
    const weight_part parts[2] = { { a, 0, rows, rows, out, 0, 0 }, { b, 0, rows, rows, out, 0, 0 } };
    const shape s = { DT_BF16, 3, { EXPERTS, b ? 2 * rows : rows, cols }, { AX_EXPERTS, out, in } };
    return graph_weight_of(g, &s, &(weight_attrs){ .role = b ? ROLE_COL : ROLE_ROW, .n_parts = b ? 2 : 1, .parts = parts, .scheme = scheme });
}

static status make_experts(quant_scheme scheme, graph **out)
{
    graph *g;
    TRY(graph_new(ops_rules(), &g));
    tensor x = graph_add(g, OP_EMBED, (tensor[]){ input(g, IN_TOKENS), weight(g, "embed", VOCAB, WIDE) }, 2, NULL);
    tensor q = graph_add(g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { HEAD } });
    q = graph_add(g, OP_PAGED_ATTENTION, (tensor[]){ q, q, q }, 3, &(op_attrs){ .paged_attention = { .cache = 0, .scale = 0.1 } });
    x = graph_add(g, OP_MERGE_HEADS, &q, 1, NULL);
    tensor combine = linear(g, "router", x, EXPERTS);
    combine = graph_add(g, OP_ROUTE, &combine, 1, &(op_attrs){ .route = { .top_k = 1, .kind = ROUTE_SOFTMAX_TOPK, .norm = 1, .scale = 1 } });
    tensor in[6] = { x, combine, expert_weight(g, scheme, "experts.*.gate", "experts.*.up", EXPERTS_WIDE, WIDE), expert_weight(g, scheme, "experts.*.down", NULL, WIDE, EXPERTS_WIDE) };
    x = graph_add(g, OP_EXPERTS, in, 6, &(op_attrs){ .experts = { .top_k = 1, .act = ACT_SILU } });
    x = graph_add(g, OP_GATHER_ROWS, (tensor[]){ x, input(g, IN_ROWS) }, 2, NULL);
    status st = graph_finish(g, linear(g, "head", x, VOCAB));
    if (st == ST_OK) *out = g;
    else graph_free(g);
    return st;
}

/* 8 tokens reach 8 (1 - (7/8)^8) of 8 experts, each a tile of 16 rows; 4096 tokens are 512 for each, 2.5 tiles of 256. */
TEST(experts_are_tiles_that_are_filled_up)
{
    static const struct { double tokens, tiles, rows; } cases[] = { { 8, 5.25113, 16 }, { 4096, 20, 256 } };
    priced p = {0};
    sim_target t;
    REQUIRE_OK(sim_target_parse("v6e-1?mxu=1", &t));
    REQUIRE_OK(make_experts(QUANT_NONE, &p.g));
    CHECK_OK(program_context_new(p.g, &limits, DT_BF16, &p.c));
    CHECK_OK(step_costs_new(&p.c, &p.s));
    for (int i = 0; i < 2; i++) {
        step_class_cost c = {0};
        const step_load l = { .tokens = cases[i].tokens, .seqs = 1, .rows = 1 };
        for (int k = 0; k < step_costs_n(p.s) && c.op != OP_EXPERTS; k++) step_costs_class(p.s, k, &l, &t.machine, &c);
        const double rows = cases[i].tiles * cases[i].rows, flops = 2.0 * 3 * WIDE * EXPERTS_WIDE + 16 * EXPERTS_WIDE;
        CHECK_INT(c.op, OP_EXPERTS);
        CHECK_NEAR(c.compute_s / (rows * flops / t.machine.chip->bf16_flops + 2 * cases[i].tiles * 0.35e-6), 1, 1e-4);
    }
    unprice(&p);
}

/* A quantised expert that is widened whole, a part of experts' rows, and activations in f32, are no copy of the cache. */
TEST(temporaries_of_experts_are_no_copied_cache)
{
    static const quant_scheme schemes[] = { QUANT_NONE, QUANT_FP8 };
    const lower_bucket b = { .tokens = 256, .seqs = 8, .rows = 8 };
    for (int i = 0; i < 2; i++) {
        graph *g;
        program_context c;
        REQUIRE_OK(make_experts(schemes[i], &g));
        REQUIRE_OK(program_context_new(g, &limits, DT_BF16, &c));
        c.lower.n_pages = 1 << 16;
        const int64_t least = program_layer_cache_bytes(&c) + 2 * 256 * WIDE * 4 + (i ? 2 * EXPERTS_WIDE * WIDE * 4 + experts_part_bytes : 0);
        CHECK(program_copies_cache(&c, &b, &(pjrt_stats){ .temp_bytes = least }) && !program_copies_cache(&c, &b, &(pjrt_stats){ .temp_bytes = least - 1 }));
        program_context_free(&c);
        graph_free(g);
    }
}

/* ---- the device ---- */

typedef struct rig { graph *g; device *d; device_model *m; } rig;

static bool rig_open(rig *r, const char *spec)
{
    *r = (rig){0};
    CHECK_OK(make(0, 2, &r->g));
    CHECK_OK(device_open(spec, NULL, &r->d));
    if (r->g && r->d) CHECK_OK(device_load(r->d, r->g, NULL, &limits, NULL, NULL, &r->m));
    if (r->m) CHECK_OK(device_kv_resize(r->m, 100));
    return r->m != NULL;
}

static void rig_close(rig *r)
{
    device_unload(r->m);
    if (r->d) device_close(r->d);
    graph_free(r->g);
}

/* One sequence of len tokens, the last of which is computed. */
typedef struct one { int32_t ids[1], pos[1], cu[2], kv[1], rows[1], slots[1], pages[256], variant[1], sampled[1]; sample_row row; batch b; } one;

static void one_fill(one *o, int len)
{
    memset(o, 0, sizeof *o);
    o->pos[0] = len - 1;
    o->cu[1] = 1;
    o->kv[0] = len;
    o->row = (sample_row){ .repetition_penalty = 1, .top_p = 1, .key = (uint64_t)len * 77, .slot = 0 };
    o->b = (batch){ .n_tokens = 1, .n_seqs = 1, .n_rows = 1, .token_ids = o->ids, .positions = o->pos, .cu_q_lens = o->cu, .kv_lens = o->kv, .page_table = o->pages, .max_pages = 256,
                    .slots = o->slots, .rope_variant = o->variant, .rows = o->rows, .samples = &o->row, .sampled = o->sampled };
}

TEST(virtual_time_moves_with_steps_alone)
{
    rig r;
    static one a, b;
    one_fill(&a, 100);
    one_fill(&b, 4000);
    if (rig_open(&r, "sim:v6e-1?speed=0")) {
        CHECK(!device_needs_weights("sim:v6e-1") && device_needs_weights("cpu"));
        const double t0 = device_now(r.m);
        CHECK(device_step_end(r.m) < 0);
        CHECK_OK(device_submit(r.m, &a.b));
        CHECK_OK(device_submit(r.m, &b.b));
        CHECK(device_now(r.m) == t0);
        const double end = device_step_end(r.m);
        CHECK(end > t0);
        CHECK_OK(device_wait(r.m));
        CHECK(device_now(r.m) == end);
        CHECK_OK(device_wait(r.m));
        CHECK(device_now(r.m) - end > end - t0);    /* more keys, right after the first */
        device_advance(r.m, end + 7);
        CHECK(device_now(r.m) == end + 7);
        device_advance(r.m, end);
        CHECK(device_now(r.m) == end + 7);
        CHECK(device_wait(r.m) != ST_OK);
    }
    rig_close(&r);
}

TEST(real_time_is_as_long_as_the_steps)
{
    rig r;
    static one a;
    one_fill(&a, 100);
    if (rig_open(&r, "sim:v6e-1?step_ms=30")) {
        const double t0 = clock_now();
        CHECK_OK(device_submit(r.m, &a.b));
        CHECK_OK(device_wait(r.m));
        CHECK(clock_now() - t0 >= 0.030);
    }
    rig_close(&r);
    if (rig_open(&r, "sim:v6e-1?step_ms=3000,speed=100")) {
        const double t0 = clock_now(), v0 = device_now(r.m);
        CHECK_OK(device_submit(r.m, &a.b));
        CHECK_OK(device_wait(r.m));
        CHECK(clock_now() - t0 >= 0.030);
        CHECK(device_now(r.m) - v0 >= 3);
    }
    rig_close(&r);
}

TEST(tokens_follow_from_seed_and_place)
{
    rig r;
    static one a;
    int32_t greedy = 0, random = 0;
    uint32_t mask[(VOCAB + 31) / 32] = {0};
    float logits[VOCAB];
    if (rig_open(&r, "sim:v6e-1?speed=0")) {
        for (int turn = 0; turn < 2; turn++) {
            one_fill(&a, 50);
            a.row.key = turn == 0 ? 1 : 999; /* which greedy requests have no use for */
            CHECK_OK(device_submit(r.m, &a.b));
            CHECK_OK(device_wait(r.m));
            if (turn == 0) greedy = a.sampled[0];
            else CHECK_INT(a.sampled[0], greedy);
        }
        a.row.temperature = 1;
        CHECK_OK(device_submit(r.m, &a.b));
        CHECK_OK(device_wait(r.m));
        random = a.sampled[0];
        CHECK(random != greedy);
        a.row.edit_ids = &random;
        a.row.edit_values = (float[]){ -INFINITY };
        a.row.n_edits = 1;
        a.b.logits = logits;
        CHECK_OK(device_submit(r.m, &a.b));
        CHECK_OK(device_wait(r.m));
        CHECK(a.sampled[0] != random && logits[a.sampled[0]] > logits[random]);
        mask[3] = 1u << 5;
        a.row.mask = mask;
        CHECK_OK(device_submit(r.m, &a.b));
        CHECK_OK(device_wait(r.m));
        CHECK_INT(a.sampled[0], 3 * 32 + 5);
    }
    rig_close(&r);
}

TEST(what_does_not_fit_is_refused)
{
    graph *g;
    device *d = NULL;
    device_model *m = NULL;
    REQUIRE_OK(make(0, 1, &g));
    CHECK_ERR(device_open("sim:v6e:2x2x2", NULL, &d), ST_INVALID, "two factors");
    unsetenv("TPU_ACCELERATOR_TYPE");
    unsetenv("TPU_VERSION");
    CHECK_OK(device_open("sim?speed=0", NULL, &d));
    if (d) {
        device_info info;
        device_describe(d, &info);
        CHECK_STR(info.name, "8 x TPU v6 lite, simulated");
        CHECK(info.own_time);
        CHECK_OK(device_load(d, g, NULL, &limits, NULL, NULL, &m));
        if (m) {
            CHECK_INT(device_weight_bytes(m), 2 * (VOCAB * WIDE * 2 + WIDE * WIDE));
            CHECK(device_kv_bytes(m, 0.9) < info.memory_bytes && device_kv_bytes(m, 0.9) > info.memory_bytes / 2);
            device_unload(m);
        }
        CHECK_EVERY_ALLOCATION(device_load(d, g, NULL, &limits, NULL, NULL, &m), device_unload(m));
        device_close(d);
    }
    graph_free(g);
}

static void check_usual(const char *type, const char *version, const char *want)
{
    device *d;
    device_info di;
    if (type) setenv("TPU_ACCELERATOR_TYPE", type, 1);
    else unsetenv("TPU_ACCELERATOR_TYPE");
    if (version) setenv("TPU_VERSION", version, 1);
    else unsetenv("TPU_VERSION");
    REQUIRE_OK(device_open("sim", NULL, &d));
    device_describe(d, &di);
    CHECK_STR(di.name, want);
    CHECK(di.chip != NULL);
    device_close(d);
}

TEST(chips_that_nobody_names_are_the_environments_or_v6e)
{
    check_usual("v5litepod-4", "4", "4 x TPU v5 lite, simulated");
    check_usual("tpu7x-8", NULL, "8 x TPU7x, simulated");
    check_usual(NULL, "4", "8 x TPU v4, simulated");
    check_usual(NULL, "99", "8 x TPU v5 lite, simulated");
    check_usual(NULL, NULL, "8 x TPU v6 lite, simulated");
}

TEST_MAIN
