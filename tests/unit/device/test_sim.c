/* The simulated device: names, prices of operations against arithmetic by hand, its time, its tokens. */
#include "base/clock.h"
#include "base/mem.h"
#include "device/sim/sim_target.h"
#include "ops/op.h"
#include "tests/test.h"

/* ---- a model of one attention layer and one linear layer ---- */

enum { HEADS = 4, HEAD = 128, WIDE = HEADS * HEAD, VOCAB = 1000 };

static tensor weight(graph *g, const char *name, int64_t rows, int64_t cols)
{
    shape s = { DT_BF16, 2, { rows, cols }, { AX_EMBED, AX_EMBED } };
    return graph_weight(g, ROLE_REPL, &s, &(weight_part){ name, 0, rows, rows, AX_EMBED, 0, 0 }, 1);
}

static tensor linear(graph *g, const char *name, tensor x, int64_t rows)
{
    const shape *s = &graph_node(g, x)->s;
    return graph_add(g, OP_LINEAR, (tensor[]){ x, weight(g, name, rows, s->dim[s->rank - 1]) }, 2, NULL);
}

static tensor input(graph *g, input_kind kind)
{
    const bool rows = kind == IN_ROWS;
    return graph_input(g, kind, &(shape){ DT_I32, 1, { rows ? DIM_R : DIM_T }, { rows ? AX_ROWS : AX_TOKENS } });
}

static status make(int64_t window, int n_layers, graph **out)
{
    graph *g;
    TRY(graph_new(ops_rules(), &g));
    tensor x = graph_add(g, OP_EMBED, (tensor[]){ input(g, IN_TOKENS), weight(g, "embed", VOCAB, WIDE) }, 2, NULL);
    for (int l = 0; l < n_layers; l++) {
        char name[32];
        graph_set_layer(g, l);
        snprintf(name, sizeof name, "%d.q", l);
        tensor q = linear(g, name, x, WIDE);
        q = graph_add(g, OP_SPLIT_HEADS, &q, 1, &(op_attrs){ .split_heads = { HEAD } });
        q = graph_add(g, OP_PAGED_ATTENTION, (tensor[]){ q, q, q }, 3, &(op_attrs){ .paged_attention = { .cache = l, .scale = 0.1, .window = window } });
        x = graph_add(g, OP_MERGE_HEADS, &q, 1, NULL);
    }
    graph_set_layer(g, -1);
    x = graph_add(g, OP_GATHER_ROWS, (tensor[]){ x, input(g, IN_ROWS) }, 2, NULL);
    status st = graph_finish(g, linear(g, "head", x, VOCAB));
    if (st == ST_OK) *out = g;
    else graph_free(g);
    return st;
}

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
