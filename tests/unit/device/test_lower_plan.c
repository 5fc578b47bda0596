/* What becomes a loop, what is stacked for it, which caches share an array; the text of a step, the integers of a batch, the
 * buckets, and the arithmetic of memory. No plugin is needed. */
#include "base/mem.h"
#include "device/pjrt/programs.h"
#include "device/pjrt/step_meta.h"
#include "graph/passes.h"
#include "ops/op.h"
#include "tests/test.h"

/* ---- graphs of layers: one letter each ---- */
/*   f s  attention over all keys, over a window of 8 (heads of 8)       k  the same with heads of 16
 *   m M  an MLP of width 24, 40      A B  a square weight of that name   e  adds the embedding */

enum { WIDTH = 16 };

typedef struct maker { graph *g; int n_caches; tensor embedding; int tail_layer, tail_weight; tensor outputs[32], first_weights[32]; } maker;

static tensor make_weight(maker *m, const char *name, int64_t rows, int64_t cols)
{
    shape s = { DT_F32, 2, { rows, cols }, { AX_EMBED, AX_EMBED } };
    return graph_weight(m->g, ROLE_REPL, &s, &(weight_part){ name, 0, rows, rows, AX_EMBED, 0, 0 }, 1);
}

static tensor make_linear(maker *m, int l, const char *name, tensor x, int64_t rows)
{
    char full[32];
    const shape *s = &graph_node(m->g, x)->s;
    if (l >= 0) snprintf(full, sizeof full, "%d.%s", l, name);
    else snprintf(full, sizeof full, "%s", name);
    tensor w = make_weight(m, full, rows, s->dim[s->rank ? s->rank - 1 : 0]);
    if (l >= 0 && l < 32 && !m->first_weights[l].id) m->first_weights[l] = w;
    return graph_add(m->g, OP_LINEAR, (tensor[]){ x, w }, 2, NULL);
}

static tensor two(maker *m, op o, tensor x, tensor y) { return graph_add(m->g, o, (tensor[]){ x, y }, 2, NULL); }

static tensor make_attention(maker *m, int l, tensor x, int64_t head_dim, int64_t window)
{
    tensor q = make_linear(m, l, "q", x, 2 * head_dim);
    q = graph_add(m->g, OP_SPLIT_HEADS, &q, 1, &(op_attrs){ .split_heads = { head_dim } });
    q = graph_add(m->g, OP_PAGED_ATTENTION, (tensor[]){ q, q, q }, 3, &(op_attrs){ .paged_attention = { .cache = m->n_caches++, .scale = 0.5, .window = window } });
    return make_linear(m, l, "o", graph_add(m->g, OP_MERGE_HEADS, &q, 1, NULL), WIDTH);
}

static tensor make_layer(maker *m, int l, char kind, tensor x)
{
    char name[2] = { kind, 0 };
    graph_set_layer(m->g, l);
    switch (kind) {
    case 'f': return two(m, OP_ADD, x, make_attention(m, l, x, 8, 0));
    case 's': return two(m, OP_ADD, x, make_attention(m, l, x, 8, 8));
    case 'k': return two(m, OP_ADD, x, make_attention(m, l, x, 16, 0));
    case 'm': return two(m, OP_ADD, x, make_linear(m, l, "down", make_linear(m, l, "up", x, 24), WIDTH));
    case 'M': return two(m, OP_ADD, x, make_linear(m, l, "down", make_linear(m, l, "up", x, 40), WIDTH));
    case 'e': return two(m, OP_ADD, make_linear(m, l, "w", x, WIDTH), m->embedding);
    default: return two(m, OP_ADD, x, make_linear(m, -1, name, x, WIDTH));
    }
}

static tensor make_input(maker *m, input_kind kind)
{
    bool rows = kind == IN_ROWS;
    return graph_input(m->g, kind, &(shape){ DT_I32, 1, { rows ? DIM_R : DIM_T }, { rows ? AX_ROWS : AX_TOKENS } });
}

static tensor begin(maker *m)
{
    tensor ids = make_input(m, IN_TOKENS);
    return m->embedding = two(m, OP_EMBED, ids, make_weight(m, "embed", 20, WIDTH));
}

static status finish(maker *m, tensor x, graph **out)
{
    graph_set_layer(m->g, -1);
    if (m->tail_layer >= 0) x = two(m, OP_ADD, x, m->outputs[m->tail_layer]);
    if (m->tail_weight >= 0) x = two(m, OP_LINEAR, x, m->first_weights[m->tail_weight]);
    x = two(m, OP_GATHER_ROWS, x, make_input(m, IN_ROWS));
    status st = graph_finish(m->g, make_linear(m, -1, "head", x, 20));
    if (st == ST_OK) *out = m->g;
    else graph_free(m->g);
    return st;
}

/* tail_layer, tail_weight: what the end reads of that layer, its output or its first weight; -1 nothing. */
static status make_graph(const char *layers, int tail_layer, int tail_weight, graph **out)
{
    maker m = { .tail_layer = tail_layer, .tail_weight = tail_weight };
    TRY(graph_new(ops_rules(), &m.g));
    tensor x = begin(&m);
    for (int l = 0; layers[l]; l++) x = m.outputs[l] = make_layer(&m, l, layers[l], x);
    return finish(&m, x, out);
}

/* "- 3*1 1*1 -": segments as repetitions times layers, - for what is in no layer. */
static const char *describe(const lower_plan *p, char *dst, size_t cap)
{
    size_t at = 0;
    dst[0] = 0;
    for (int i = 0; i < p->n_segments; i++) {
        const lower_segment *s = &p->segments[i];
        int n = 0, last = -2;
        for (int j = 0; j < s->n_nodes; j++) {
            int layer = graph_at(p->g, s->nodes[j])->layer;
            n += layer != last;
            last = layer;
        }
        if (last < 0) at += (size_t)snprintf(dst + at, cap - at, "%s-", i ? " " : "");
        else at += (size_t)snprintf(dst + at, cap - at, "%s%d*%d", i ? " " : "", s->count, n);
    }
    return dst;
}

static void check_plan(const char *layers, int tail_layer, int tail_weight, const char *want)
{
    graph *g = NULL;
    lower_plan *p = NULL;
    char got[256];
    CHECK_OK(make_graph(layers, tail_layer, tail_weight, &g));
    if (!g) return;
    CHECK_OK(lower_plan_new(g, DT_F32, 0, &p));
    if (p && strcmp(describe(p, got, sizeof got), want) != 0) FAIL("layers %s, tail %d %d: %s, wanted %s", layers, tail_layer, tail_weight, got, want);
    lower_plan_free(p);
    graph_free(g);
}

TEST(equal_layers_are_a_loop)
{
    static const struct { const char *layers, *want; } cases[] = {
        { "f", "- 1*1 -" }, { "ff", "- 2*1 -" }, { "ffff", "- 4*1 -" }, { "mmmmm", "- 5*1 -" },
        { "fffm", "- 3*1 1*1 -" }, { "mfff", "- 1*1 3*1 -" }, { "fffs", "- 3*1 1*1 -" }, { "mfm", "- 1*1 1*1 1*1 -" },
        { "mmMMM", "- 2*1 3*1 -" }, { "mmMmm", "- 2*1 1*1 2*1 -" },
        { "ssfssf", "- 2*3 -" }, { "ssfssfs", "- 2*3 1*1 -" }, { "ssfssfss", "- 2*3 2*1 -" }, { "sfsfsf", "- 3*2 -" },
        { "mssfssf", "- 1*1 2*3 -" }, { "fkfk", "- 2*2 -" }, { "kkff", "- 2*1 2*1 -" },
        { "AAA", "- 3*1 -" }, { "AAB", "- 2*1 1*1 -" }, { "ABAB", "- 2*2 -" }, { "ABA", "- 1*1 1*1 1*1 -" },
        { "eeee", "- 1*1 3*1 -" }, { "ee", "- 1*1 1*1 -" } };   /* the first reads the embedding as both values */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_plan(cases[i].layers, -1, -1, cases[i].want);
}

TEST(what_the_end_reads_ends_a_loop)
{
    check_plan("ffff", 3, -1, "- 4*1 -");
    check_plan("ffff", 1, -1, "- 2*1 2*1 -");
    check_plan("ffff", 0, -1, "- 1*1 3*1 -");
    check_plan("sfsfsf", 3, -1, "- 2*2 1*1 1*1 -");
    check_plan("ffff", 2, -1, "- 3*1 1*1 -");
    check_plan("AAA", 1, -1, "- 2*1 1*1 -");
}

/* A stacked weight is an argument of one loop alone: what is read elsewhere too stays outside. */
TEST(weights_read_elsewhere_are_not_stacked)
{
    maker m = { .tail_layer = -1, .tail_weight = -1 };
    graph *g = NULL;
    lower_plan *p = NULL;
    char got[64];
    REQUIRE_OK(graph_new(ops_rules(), &m.g));
    tensor x = begin(&m);
    for (int l = 0; l < 4; l++) {
        graph_set_layer(m.g, l);
        x = two(&m, OP_ADD, x, make_linear(&m, l, "w", x, WIDTH));
    }
    m.tail_weight = 0;
    REQUIRE_OK(finish(&m, x, &g));
    REQUIRE_OK(lower_plan_new(g, DT_F32, 0, &p));
    CHECK_STR(describe(p, got, sizeof got), "- 1*1 3*1 -");
    lower_plan_free(p);
    graph_free(g);
}

/* Weights that layers hand on to each other: {0, 1}, {1, 2}, {2, 3}. */
TEST(weights_shared_in_a_chain_are_not_stacked)
{
    maker m = { .tail_layer = -1, .tail_weight = -1 };
    graph *g = NULL;
    lower_plan *p = NULL;
    char got[64], a[16], b[16];
    REQUIRE_OK(graph_new(ops_rules(), &m.g));
    tensor x = begin(&m);
    for (int l = 0; l < 3; l++) {
        graph_set_layer(m.g, l);
        snprintf(a, sizeof a, "w%d", l);
        snprintf(b, sizeof b, "w%d", l + 1);
        x = make_linear(&m, -1, b, make_linear(&m, -1, a, x, WIDTH), WIDTH);
    }
    REQUIRE_OK(finish(&m, x, &g));
    REQUIRE_OK(lower_plan_new(g, DT_F32, 0, &p));
    CHECK_STR(describe(p, got, sizeof got), "- 1*1 1*1 1*1 -");
    for (int i = 0; i < p->n_weights; i++) CHECK(!p->weights[i].stacked);
    lower_plan_free(p);
    graph_free(g);
}

/* Seven windows dealt out to three groups: whose pages a repetition reads is looked up. */
TEST(caches_in_no_even_order_are_one_loop)
{
    graph *g = NULL;
    lower_plan *p = NULL;
    char got[64];
    buf text = {0};
    REQUIRE_OK(make_graph("ssfssfssfs", -1, -1, &g));
    REQUIRE_OK(lower_plan_new(g, DT_F32, 0, &p));
    CHECK_STR(describe(p, got, sizeof got), "- 3*3 1*1 -");
    CHECK(p->groups.n_groups == 4 && p->n_caches == 1 && p->caches[0].n_places == 3);
    const lower_bucket b = { .tokens = 8, .seqs = 4, .rows = 4 };
    lower_options o = { .act = DT_F32, .page = 4, .max_pages = 5, .n_pages = 10, .n_slots = 3 };
    CHECK_ERR(lower_step(p, &b, &o, &text), ST_INTERNAL, "options for 1 groups of layers, the graph has 4");
    o.groups = &p->groups;
    CHECK_OK(lower_step(p, &b, &o, &text));
    CHECK(strstr(buf_cstr(&text), "dense<[0, 2, 1]> : tensor<3xi32>") != NULL);
    CHECK(strstr(buf_cstr(&text), "dense<[0, 0, 10]> : tensor<3xi32>") != NULL);
    buf_free(&text);
    lower_plan_free(p);
    graph_free(g);
}

TEST(stacks_and_caches)
{
    graph *g = NULL;
    lower_plan *p = NULL;
    REQUIRE_OK(make_graph("fkfkA", -1, -1, &g));
    REQUIRE_OK(lower_plan_new(g, DT_BF16, 0, &p));
    CHECK_INT(p->n_caches, 2);
    for (int c = 0; c < 2; c++) {
        CHECK_INT(p->caches[c].n_places, 2);
        CHECK_INT(p->caches[c].kv.heads, 2);
        CHECK_INT(p->caches[c].kv.dim, c ? 16 : 8);
        CHECK_INT(p->caches[c].kv.type, DT_BF16);
    }
    for (int l = 0; l < 4; l++) CHECK(p->cache_at[l].array == l % 2 && p->cache_at[l].index == l / 2);
    /* embed, q and o of both kinds, A, head */
    CHECK_INT(p->n_weights, 7);
    static const char *const first[] = { "embed", "0.q", "0.o", "1.q", "1.o", "A", "head" }, *const second[] = { NULL, "2.q", "2.o", "3.q", "3.o", NULL, NULL };
    for (int i = 0; i < p->n_weights; i++) {
        const lower_weight *w = &p->weights[i];
        CHECK_STR(graph_at(g, w->nodes[0])->a.weight.parts[0].name, first[i]);
        CHECK_INT(w->stacked, second[i] != NULL);
        CHECK_INT(w->n, second[i] ? 2 : 1);
        if (second[i]) CHECK_STR(graph_at(g, w->nodes[1])->a.weight.parts[0].name, second[i]);
        for (int k = 0; k < w->n; k++) CHECK_INT(p->arg_of[w->nodes[k]], i);
    }
    lower_plan_free(p);
    graph_free(g);
}

/* What layers hand on: the residual alone, or two values; two that begin as one are told apart from the second layer on. */
static void check_two_streams(bool same_start, const char *want, int n_carries)
{
    maker m = { .tail_layer = -1, .tail_weight = -1 };
    graph *g = NULL;
    lower_plan *p = NULL;
    char got[64];
    REQUIRE_OK(graph_new(ops_rules(), &m.g));
    tensor x = begin(&m), r = same_start ? x : two(&m, OP_ADD, x, x);
    for (int l = 0; l < 4; l++) {
        graph_set_layer(m.g, l);
        r = two(&m, OP_ADD, r, make_linear(&m, l, "a", x, WIDTH));
        x = two(&m, OP_ADD, make_linear(&m, l, "b", r, WIDTH), x);
    }
    graph_set_layer(m.g, -1);
    REQUIRE_OK(finish(&m, two(&m, OP_ADD, x, r), &g));
    REQUIRE_OK(lower_plan_new(g, DT_F32, 0, &p));
    CHECK_STR(describe(p, got, sizeof got), want);
    for (int i = 0; i < p->n_segments; i++)
        if (p->segments[i].count > 1) CHECK_INT(p->segments[i].n_carries, n_carries);
    lower_plan_free(p);
    graph_free(g);
}

TEST(carries)
{
    graph *g = NULL;
    lower_plan *p = NULL;
    check_two_streams(false, "- 4*1 -", 2);
    check_two_streams(true, "- 1*1 3*1 -", 2);
    REQUIRE_OK(make_graph("fff", -1, -1, &g));
    REQUIRE_OK(lower_plan_new(g, DT_F32, 0, &p));
    CHECK_INT(p->segments[1].n_carries, 1);
    const lower_segment *s = &p->segments[1];
    CHECK_INT(graph_at(g, s->carry_in[0])->op, OP_EMBED);
    CHECK_INT(s->carry_at[0], s->n_nodes - 1);
    lower_plan_free(p);
    graph_free(g);
}

/* Rows narrowed into the last layer make it different; narrowed after it, it is not. */
TEST(narrowed_rows)
{
    char got[64];
    for (int uniform = 0; uniform < 2; uniform++) {
        graph *g = NULL, *fused = NULL;
        lower_plan *p = NULL;
        REQUIRE_OK(make_graph("ffff", -1, -1, &g));
        REQUIRE_OK(uniform ? graph_optimize_uniform(g, &fused) : graph_optimize(g, &fused));
        REQUIRE_OK(lower_plan_new(fused, DT_F32, 0, &p));
        CHECK_STR(describe(p, got, sizeof got), uniform ? "- 4*1 -" : "- 3*1 1*1 -");
        lower_plan_free(p);
        graph_free(fused);
        graph_free(g);
    }
}

/* ---- the text of a step ---- */

static const lower_bucket mixed = { .tokens = 16, .seqs = 4, .rows = 8 }, decode = { .tokens = 4, .seqs = 4, .rows = 4, .decode = true };
static const lower_options options = { .act = DT_F32, .page = 4, .max_pages = 5, .n_pages = 10, .n_slots = 3 };

static int count_of(const char *text, const char *what)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, what)); at++) n++;
    return n;
}

static status lower_text(const graph *g, const lower_bucket *b, const lower_options *o, buf *out)
{
    lower_plan *p = NULL;
    TRY(lower_plan_new(g, DT_F32, 0, &p));
    status st = lower_step(p, b, o, out);
    lower_plan_free(p);
    return st;
}

TEST(text_of_a_step)
{
    graph *g = NULL;
    buf t = { 0 };
    REQUIRE_OK(make_graph("mmMM", -1, -1, &g));
    REQUIRE_OK(lower_text(g, &mixed, &options, &t));
    const char *head = "module @step_t16_s4 attributes {mhlo.num_partitions = 1 : i32, mhlo.num_replicas = 1 : i32} {\n  func.func public @main(\n"
        "      %arg0: tensor<161xi32> loc(\"meta\"),\n      %arg1: tensor<24xi32> loc(\"ring\"),\n      %arg2: tensor<20x16xf32> loc(\"embed\"),\n"
        "      %arg3: tensor<2x24x16xf32> loc(\"0.up\"),\n      %arg4: tensor<2x16x24xf32> loc(\"0.down\"),\n      %arg5: tensor<2x40x16xf32> loc(\"2.up\"),\n"
        "      %arg6: tensor<2x16x40xf32> loc(\"2.down\"),\n      %arg7: tensor<20x16xf32> loc(\"head\")) -> (tensor<8x20xf32>) {\n";
    if (strncmp(t.data, head, strlen(head)) != 0) FAIL("%.900s", t.data);
    CHECK_INT(step_meta_len(&mixed, &options), 161);
    CHECK_INT(count_of(t.data, "stablehlo.while"), 2);
    CHECK_INT(count_of(t.data, "aliasing_output"), 0);
    buf_free(&t);
    graph_free(g);
}

TEST(caches_are_donated)
{
    graph *g = NULL;
    buf t = { 0 };
    REQUIRE_OK(make_graph("fkfk", -1, -1, &g));
    REQUIRE_OK(lower_text(g, &decode, &options, &t));
    CHECK(strstr(t.data, "module @decode_t4_s4 "));
    hlo_kv a = hlo_kv_of(DT_F32, 2, 8), b = hlo_kv_of(DT_F32, 2, 16);
    char want[512];
    snprintf(want, sizeof want, "%%arg2: tensor<20x4x%lldx%lldxf32> {tf.aliasing_output = 0 : i32} loc(\"kv\"),\n      %%arg3: tensor<20x4x%lldx%lldxf32> {tf.aliasing_output = 1 : i32} loc(\"kv\"),",
             (long long)a.rows, (long long)a.lanes, (long long)b.rows, (long long)b.lanes);
    CHECK(strstr(t.data, want));
    CHECK_INT(count_of(t.data, "aliasing_output"), 2);
    snprintf(want, sizeof want, ") -> (tensor<20x4x%lldx%lldxf32>, tensor<20x4x%lldx%lldxf32>, tensor<4x20xf32>) {", (long long)a.rows, (long long)a.lanes, (long long)b.rows, (long long)b.lanes);
    CHECK(strstr(t.data, want));
    CHECK_INT(count_of(t.data, "2 times layers 0"), 1);
    buf_free(&t);
    graph_free(g);
}

static const char mesh_text[] =
    "mesh dp=1 tp=2 sp=1\n%1 = input kind=0 : i32[T]{tokens}\n%2 = weight role=vocab \"embed\"[0:20/20]vocab/2 : f32[10, 16]{vocab, embed}\n"
    "%3 = embed(%1, %2) shards=2 : f32[T, 16]{tokens, embed}\n%4 = reduce_scatter(%3) dim=0 : f32[TS, 16]{tokens, embed}\n"
    "%5 = all_gather(%4) dim=0 : f32[T, 16]{tokens, embed}\noutput %5\n";

TEST(what_cannot_be_lowered)
{
    graph *g = NULL;
    buf t = { 0 };
    lower_options o = options;
    REQUIRE_OK(graph_parse(ops_rules(), mesh_text, sizeof mesh_text - 1, &g));
    CHECK_INT(lower_n_leading(g), 3);
    CHECK_ERR(lower_text(g, &(lower_bucket){ .tokens = 15, .seqs = 4, .rows = 4 }, &o, &t), ST_INTERNAL, "a bucket of 15 tokens under sequence parallelism over 2 ranks");
    CHECK_INT(t.len, 0);
    REQUIRE_OK(lower_text(g, &mixed, &o, &t));
    CHECK(strstr(t.data, "mhlo.num_partitions = 2") && strstr(t.data, "%arg2: tensor<i32> loc(\"rank\")"));
    buf_free(&t);
    graph_free(g);
    REQUIRE_OK(make_graph("fff", -1, -1, &g));
    o.n_pages = 715827882;
    REQUIRE_OK(lower_text(g, &mixed, &o, &t));
    buf_clear(&t);
    o.n_pages++;
    CHECK_ERR(lower_text(g, &mixed, &o, &t), ST_LIMIT, "715827883 KV pages for each of 3 layers, at most 715827882 are supported");
    buf_free(&t);
    graph_free(g);
}

/* ---- memory runs out ---- */

static status plan_and_free(const graph *g)
{
    lower_plan *p = NULL;
    status st = lower_plan_new(g, DT_F32, 0, &p);
    lower_plan_free(p);
    return st;
}

static status text_and_free(const graph *g)
{
    buf t = { 0 };
    status st = lower_text(g, &mixed, &options, &t);
    buf_free(&t);
    return st;
}

TEST(out_of_memory_is_a_status)
{
    static status (*const calls[])(const graph *) = { plan_and_free, text_and_free };
    graph *g = NULL;
    REQUIRE_OK(make_graph("ffm", -1, -1, &g));
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        bool done = false;
        int64_t live = mem_live();
        for (uint64_t n = 1; !done; n++) {
            mem_fail_at(n);
            status st = calls[i](g);
            done = !mem_failed();
            mem_fail_at(0);
            if (st != (done ? ST_OK : ST_NOMEM)) FAIL("allocation %d: %s (%s)", (int)n, status_name(st), err_msg());
            CHECK_INT(mem_live(), live);
            if (test_cur_failed) break;
        }
    }
    graph_free(g);
}

/* ---- a batch as integers ---- */

static void check_part(const step_layout *l, const int32_t *meta, step_part part, const int32_t *want, int n)
{
    CHECK_INT(l->len[part], n);
    for (int i = 0; i < n && i < l->len[part]; i++)
        if (meta[l->at[part] + i] != want[i]) FAIL("part %d, %d: %d, wanted %d", part, i, meta[l->at[part] + i], want[i]);
}
#define PART(part, ...) check_part(&l, meta, part, (const int32_t[]){ __VA_ARGS__ }, (int)(sizeof((int32_t[]){ __VA_ARGS__ }) / 4))

/* Eleven tokens of a prompt that has 13 by then, one of a sequence with 6, two of one with 2: tiles of 8 queries. */
TEST(meta_of_a_mixed_batch)
{
    static const int32_t ids[] = { 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, -4, 30, 31 }, pos[] = { 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 5, 0, 1 };
    static const int32_t cu[] = { 0, 11, 12, 14 }, lens[] = { 13, 6, 2 }, variant[] = { 1, 0, 1 }, rows[] = { 10, 11, 13 };
    static const int32_t pages[] = { 7, 3, 2, 8, -1, -1, 5, 9, -1, -1, -1, -1, 6, -1, -1, -1, -1, -1 };
    static const int32_t slots[] = { 30, 31, 12, 13, 14, 15, 8, 9, 10, 11, 32, 37, 24, 25 };
    const batch b = { .n_tokens = 14, .n_seqs = 3, .n_rows = 3, .token_ids = ids, .positions = pos, .cu_q_lens = cu, .kv_lens = lens, .page_table = pages, .max_pages = 6,
                      .slots = slots, .rope_variant = variant, .rows = rows };
    int32_t meta[161];
    step_layout l;
    CHECK(bucket_fits(&mixed, &b) && !bucket_fits(&decode, &b));
    CHECK_INT(bucket_q_tile(&mixed), 8);
    CHECK_INT(bucket_n_tiles(&mixed), 7);
    step_layout_of(&mixed, &options, &l);
    REQUIRE(l.total == 161);
    memset(meta, 0x55, sizeof meta);
    step_meta_fill(&mixed, &options, &b, meta);
    PART(STEP_TOKENS, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, -4, 30, 31, 0, 0);
    PART(STEP_POSITIONS, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 5, 0, 1, 0, 0);
    PART(STEP_WRITE_PAGE, 7, 7, 3, 3, 3, 3, 2, 2, 2, 2, 8, 9, 6, 6, 0, 0);
    PART(STEP_WRITE_SLOT, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 0, 1, 0, 0);
    PART(STEP_ROPE_VARIANT, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0);
    PART(STEP_ROWS, 10, 11, 13, 0, 0, 0, 0, 0);
    PART(STEP_PAGE_TABLE, 7, 3, 2, 8, 0, 5, 9, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    PART(STEP_KV_LENS, 0, 6, 0, 0);
    PART(STEP_SEQ_TOKEN, 0, 11, 0, 0);
    PART(STEP_TOKEN_SEQ, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 1, -1, -1, -1, -1);
    PART(STEP_TILE_SEQ, 0, 0, 2, 0, 0, 0, 0);
    PART(STEP_TILE_TOKEN, 0, 8, 12, 0, 0, 0, 0);
    PART(STEP_TILE_POS, 2, 10, 0, 0, 0, 0, 0);
    PART(STEP_TILE_LEN, 8, 3, 2, 0, 0, 0, 0);
    PART(STEP_TILES, 3);
}

TEST(meta_of_a_decode_batch)
{
    static const int32_t ids[] = { 4, -1 }, pos[] = { 8, 0 }, cu[] = { 0, 1, 2 }, lens[] = { 9, 1 }, rows[] = { 0, 1 }, pages[] = { 1, 2, 3, 4, 9, 9 }, slots[] = { 12, 16 };
    const batch b = { .n_tokens = 2, .n_seqs = 2, .n_rows = 2, .token_ids = ids, .positions = pos, .cu_q_lens = cu, .kv_lens = lens, .page_table = pages, .max_pages = 3,
                      .slots = slots, .rows = rows };
    int32_t meta[64];
    step_layout l;
    CHECK(bucket_fits(&decode, &b) && bucket_fits(&mixed, &b));
    step_layout_of(&decode, &options, &l);
    REQUIRE(l.total == 48);
    memset(meta, 0x55, sizeof meta);
    step_meta_fill(&decode, &options, &b, meta);
    PART(STEP_TOKENS, 4, -1, 0, 0);
    PART(STEP_WRITE_PAGE, 3, 4, 0, 0);
    PART(STEP_ROPE_VARIANT, 0, 0, 0, 0);
    PART(STEP_PAGE_TABLE, 1, 2, 3, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    PART(STEP_KV_LENS, 9, 1, 0, 0);
    for (step_part p = STEP_SEQ_TOKEN; p < STEP_PARTS; p++) CHECK_INT(l.len[p], 0);
    CHECK_INT(meta[48], 0x55555555);
    /* As many tokens as sequences is not yet one each. */
    static const int32_t uneven[] = { 0, 2, 2 };
    batch two_of_one = b;
    two_of_one.cu_q_lens = uneven;
    CHECK(!bucket_fits(&decode, &two_of_one));
}

/* Groups that see everything, a window of 6 and chunks of 8: rows begin at the page that the first query sees, and positions count
 * from there. Chunks that begin within a page keep whole rows. */
TEST(meta_has_the_pages_that_groups_see)
{
    static const kv_layout groups = { .n_groups = 4, .group = { { .n_layers = 1 }, { .window = 6 }, { .chunk = 8 }, { .chunk = 6 } } };
    static const int32_t ids[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 }, pos[] = { 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29 }, cu[] = { 0, 11 }, one[] = { 0, 1 }, lens[] = { 30 }, rows[] = { 10 };
    static const int32_t pages[] = { 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 11, 12, 13, 14, 15, 0, 0, 0, 0, 21, 22, 23, 24, 31, 32, 33, 34, 35, 36, 37, 38 };
    static const int32_t slots[44] = { [10] = 29, [21] = 61, [32] = 93, [43] = 129 };
    static const lower_bucket bucket = { .tokens = 16, .seqs = 2, .rows = 2 }, single = { .tokens = 2, .seqs = 2, .rows = 2, .decode = true };
    const lower_options o = { .act = DT_F32, .page = 4, .max_pages = 8, .n_pages = 40, .n_slots = 3, .groups = &groups };
    batch b = { .n_tokens = 11, .n_seqs = 1, .n_rows = 1, .token_ids = ids, .positions = pos, .cu_q_lens = cu, .kv_lens = lens, .n_groups = 4, .page_table = pages, .max_pages = 8,
                .slots = slots, .rows = rows };
    int32_t meta[512];
    step_layout l;
    step_layout_of(&bucket, &o, &l);
    REQUIRE(l.total <= 512 && bucket_n_tiles(&bucket) == 5);
    step_meta_fill(&bucket, &o, &b, meta);
    PART(STEP_PAGE_TABLE, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 11, 12, 13, 14, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 21, 22, 23, 24, 0, 0, 0, 0, 0, 0, 0, 0,
         31, 32, 33, 34, 35, 36, 37, 38, 0, 0, 0, 0, 0, 0, 0, 0);
    PART(STEP_TILE_POS, 19, 27, 0, 0, 0, 7, 15, 0, 0, 0, 3, 11, 0, 0, 0, 19, 27, 0, 0, 0);
    PART(STEP_KV_LENS, 0, 0, 0, 0, 0, 0, 0, 0);
    PART(STEP_POSITIONS, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 0, 0, 0, 0, 0);
    b.n_tokens = 1;
    b.cu_q_lens = one;
    b.positions = pos + 10;
    step_layout_of(&single, &o, &l);
    step_meta_fill(&single, &o, &b, meta);
    PART(STEP_PAGE_TABLE, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 14, 15, 0, 0, 0, 0, 23, 24, 0, 0, 0, 0, 31, 32, 33, 34, 35, 36, 37, 38, 0, 0, 0, 0, 0, 0, 0, 0);
    PART(STEP_KV_LENS, 30, 0, 6, 0, 6, 0, 30, 0);
}

/* Tiles always suffice: random batches that fill a bucket. */
TEST(tiles_suffice)
{
    uint32_t r = 1;
    for (int round = 0; round < 2000; round++) {
        r = r * 1664525 + 1013904223;
        lower_bucket b = { .tokens = 1 + (int)(r >> 8) % 300, .rows = 1 };
        b.seqs = 1 + (int)(r >> 20) % b.tokens;
        int64_t tiles = 0, tile = bucket_q_tile(&b), left = b.tokens;
        for (int s = 0; s < b.seqs && left > 0; s++) {
            r = r * 1664525 + 1013904223;
            int64_t len = s == b.seqs - 1 ? left : 1 + (r >> 8) % (round % 2 ? left : tile + 2 < left ? tile + 2 : left);
            if (len > 1) tiles += (len + tile - 1) / tile;
            left -= len;
        }
        if (tiles > bucket_n_tiles(&b)) FAIL("%d tokens, %d sequences: %lld tiles, room for %lld", b.tokens, b.seqs, (long long)tiles, (long long)bucket_n_tiles(&b));
    }
}

/* ---- buckets ---- */

static void check_buckets(const device_limits *l, mesh m)
{
    bucket_list list;
    static int32_t cu[600];
    buckets_make(l, m, &list);
    CHECK(list.n > 0 && list.n < MAX_BUCKETS);
    for (int i = 0; i < list.n; i++) {
        const lower_bucket *b = &list.v[i];
        CHECK(b->tokens > 0 && b->seqs > 0 && b->rows > 0 && (!m.sp || b->tokens % m.tp == 0) && (!b->decode || b->tokens == b->seqs));
        for (int j = 0; j < i; j++) CHECK(memcmp(b, &list.v[j], sizeof *b) != 0);
    }
    for (int tokens = 1; tokens <= l->max_tokens; tokens += tokens < 20 ? 1 : 7)
        for (int seqs = 1; seqs <= l->max_seqs && seqs <= tokens; seqs += seqs < 9 ? 1 : 5) {
            for (int s = 0; s <= seqs; s++) cu[s] = s < seqs ? s : tokens;
            const batch b = { .n_tokens = tokens, .n_seqs = seqs, .n_rows = tokens < l->max_rows ? tokens : l->max_rows, .cu_q_lens = cu };
            int at = buckets_pick(&list, &b);
            if (at < 0) {
                FAIL("limits %d %d %d: no bucket for %d tokens, %d sequences", l->max_tokens, l->max_seqs, l->max_rows, tokens, seqs);
                return;
            }
            const lower_bucket *got = &list.v[at];
            CHECK(got->tokens >= tokens && got->seqs >= seqs && got->rows >= b.n_rows);
            for (int i = 0; i < list.n; i++)
                if (bucket_fits(&list.v[i], &b) && list.v[i].decode == got->decode) CHECK(list.v[i].tokens >= got->tokens);
            if (tokens == seqs && b.n_rows <= seqs && b.n_rows == tokens) CHECK(got->decode);
        }
}

TEST(every_batch_has_a_bucket)
{
    static const int tokens[] = { 1, 2, 7, 16, 17, 100, 256, 500 }, seqs[] = { 1, 3, 8, 9, 64, 300 };
    static const mesh meshes[] = { { 1, 1, false, false }, { 1, 2, true, false }, { 1, 8, true, false }, { 1, 16, true, false }, { 2, 3, true, false } };
    for (size_t t = 0; t < sizeof tokens / sizeof *tokens; t++)
        for (size_t s = 0; s < sizeof seqs / sizeof *seqs; s++)
            for (size_t m = 0; m < sizeof meshes / sizeof *meshes; m++)
                for (int rows = 1; rows <= tokens[t]; rows += rows < 4 ? 3 : tokens[t]) {
                    device_limits l = { tokens[t], seqs[s], rows, 1000, 16, DT_F32, { 0 }, 0, false };
                    check_buckets(&l, meshes[m]);
                    if (test_cur_failed) return;
                }
    bucket_list list;
    device_limits usual = { 2048, 64, 64, 4096, 16, DT_F32, { 0 }, 0, false };
    buckets_make(&usual, (mesh){ 1, 1, false, false }, &list);
    CHECK_INT(list.n, 4 + 8);
    CHECK(list.v[0].decode && list.v[0].seqs == 8 && list.v[3].seqs == 64 && list.v[4].tokens == 16 && list.v[4].seqs == 16 && list.v[11].tokens == 2048 && list.v[11].rows == 64);
    const batch beyond = { .n_tokens = 2049, .n_seqs = 1, .n_rows = 1 };
    CHECK_INT(buckets_pick(&list, &beyond), -1);
}

/* ---- memory ---- */

TEST(bytes)
{
    graph *g = NULL;
    program_context c;
    device_limits l = { 64, 8, 8, 100, 16, DT_BF16, { 0 }, 0, false };
    REQUIRE_OK(make_graph("fkff", -1, -1, &g));
    REQUIRE_OK(program_context_new(g, &l, DT_F32, &c));
    hlo_kv a = hlo_kv_of(DT_BF16, 2, 8), b = hlo_kv_of(DT_BF16, 2, 16);
    int64_t page_a = 16 * a.rows * a.lanes * 2, page_b = 16 * b.rows * b.lanes * 2;
    CHECK_INT(c.vocab, 20);
    CHECK_INT(c.lower.max_pages, 7);
    CHECK_INT(c.lower.n_slots, STEP_DEPTH * 8 + 1);
    CHECK_INT(program_weight_bytes(&c), 4 * (20 * 16 + 3 * (16 * 16 + 16 * 16) + (32 * 16 + 16 * 32) + 20 * 16));
    CHECK_INT(program_page_bytes(&c), 3 * page_a + page_b);
    c.lower.n_pages = 1000;
    CHECK_INT(program_layer_cache_bytes(&c), 1000 * (page_a < page_b ? page_a : page_b));
    /* Beside weights: six times the widest activation (32), four times the logits, 256 MiB. */
    int64_t beside = 6 * 32 * 64 * 4 + 4 * 8 * 20 * 4 + (256 << 20);
    CHECK_INT(program_kv_bytes(&c, 1 << 30, 0.5), (1 << 29) - program_weight_bytes(&c) - beside);
    CHECK(program_kv_bytes(&c, 1 << 20, 0.9) < 0);
    c.lower.n_pages = 1 << 20;
    int64_t layer = program_layer_cache_bytes(&c);
    const lower_bucket none = { 0 }, some = { .tokens = 100 };
    CHECK(!program_copies_cache(&c, &none, &(pjrt_stats){ .temp_bytes = -1 }));
    CHECK(program_copies_cache(&c, &none, &(pjrt_stats){ .temp_bytes = layer }) && !program_copies_cache(&c, &none, &(pjrt_stats){ .temp_bytes = layer - 1 }));
    CHECK(!program_copies_cache(&c, &some, &(pjrt_stats){ .temp_bytes = layer }));   /* activations have their place */
    program_context_free(&c);
    graph_free(g);
}

TEST(names_and_options)
{
    graph *g = NULL;
    program_context c;
    program_spec s;
    sampler_kind kinds[MAX_BUCKETS * 2];
    pjrt_compile_options o;
    device_limits l = { 64, 8, 8, 100, 16, DT_BF16, { 0 }, 0, false };
    REQUIRE_OK(make_graph("ff", -1, -1, &g));
    REQUIRE_OK(program_context_new(g, &l, DT_F32, &c));
    program_step_spec(&c, 0, &s);
    CHECK_STR(s.name, "decode t8 s8");
    program_step_spec(&c, c.buckets.n - 1, &s);
    CHECK_STR(s.name, "step t64 s8");
    CHECK_INT(program_usual_samplers(&c, kinds, MAX_BUCKETS * 2), 2);    /* all buckets have 8 rows */
    CHECK_INT(program_usual_samplers(&c, kinds, 1), 1);
    program_sampler_spec(&kinds[0], &s);
    CHECK_STR(s.name, "sample r8 e0 h0");
    program_options(g, "TPU v5 lite", &o);
    CHECK(o.n_partitions == 1 && o.n_overrides == 0);
    program_options(g, "TPU7x", &o);
    CHECK_INT(o.n_overrides, 1);
    program_context_free(&c);
    graph_free(g);
}

TEST_MAIN
