/* How layers share KV blocks: the groups of models whose layers see different things, and what a sequence takes in them. */
#include "graph/kv_groups.h"
#include "ops/op.h"
#include "tests/test.h"

/* One attention per letter: f sees everything, s a window of 1024, w one of 512, c a chunk of 8192, k everything with wider heads,
 * l everything in a latent cache. */
static graph *layers_of(const char *letters)
{
    graph *g = NULL;
    CHECK_OK(graph_new(ops_rules(), &g));
    shape s = { DT_F32, 2, { DIM_T, 32 }, { AX_TOKENS, AX_HEADS } };
    tensor x = graph_input(g, IN_ACTIVATION, &s), out = x;
    for (int l = 0; letters[l]; l++) {
        char c = letters[l];
        graph_set_layer(g, l);
        bool latent = c == 'l';
        op_attrs a = { .paged_attention = { .cache = l, .scale = 1, .window = c == 's' ? 1024 : c == 'w' ? 512 : 0, .chunk = c == 'c' ? 8192 : 0, .latent = latent ? 24 : 0 } };
        tensor q = graph_add(g, OP_SPLIT_HEADS, &x, 1, &(op_attrs){ .split_heads = { c == 'k' ? 16 : latent ? 32 : 8 } });
        out = graph_add(g, OP_PAGED_ATTENTION, (tensor[]){ q, q, latent ? NO_TENSOR : q }, 3, &a);
    }
    CHECK_OK(graph_finish(g, out));
    return g;
}

enum { MOST_LAYERS = 128 };
static kv_place places[MOST_LAYERS];
static kv_layout layout_of(const char *letters)
{
    kv_layout l;
    graph *g = layers_of(letters);
    CHECK(graph_n_caches(g) <= MOST_LAYERS);
    kv_layout_of(g, &l, places);
    graph_free(g);
    return l;
}

static void repeat(char *dst, const char *period, int times, const char *rest)
{
    dst[0] = 0;
    for (int i = 0; i < times; i++) strcat(dst, period);
    strcat(dst, rest);
}

/* No two layers of a group are in one place, and no place is beyond the largest group's. */
static void check_places(const kv_layout *l, int n)
{
    bool taken[KV_MAX_GROUPS][128] = { { false } };
    int held = 0;
    for (int i = 0; i < n; i++) {
        REQUIRE(places[i].group >= 0 && places[i].group < l->n_groups && places[i].place >= 0 && places[i].place < l->n_places);
        CHECK(!taken[places[i].group][places[i].place]);
        taken[places[i].group][places[i].place] = true;
    }
    for (int g = 0; g < l->n_groups; g++) held += l->group[g].n_layers;
    CHECK_INT(held, n);
}

TEST(one_kind_is_one_group)
{
    kv_layout l = layout_of("ffffff");
    CHECK(l.n_groups == 1 && l.n_places == 6 && !kv_forgets(&l.group[0]) && l.group[0].n_layers == 6);
    for (int i = 0; i < 6; i++) CHECK(places[i].group == 0 && places[i].place == i);
    l = layout_of("sss");
    CHECK(l.n_groups == 1 && l.n_places == 3 && l.group[0].window == 1024);
    l = layout_of("fkfk");                     /* sizes differ, but all see the same */
    CHECK(l.n_groups == 1 && l.n_places == 4);
}

TEST(gemma_3_27b)
{
    char letters[128];
    repeat(letters, "sssssf", 10, "ss");
    kv_layout l = layout_of(letters);
    CHECK(l.n_groups == 7 && l.n_places == 10);
    CHECK(places[0].group != places[5].group && !kv_forgets(&l.group[places[5].group]));
    for (int i = 0; i < 62; i++) CHECK_INT(l.group[places[i].group].window, letters[i] == 's' ? 1024 : 0);
    check_places(&l, 62);
    /* 131,072 tokens in steps of 2,048: everything in one group, (1023 + 2048 tokens + a block) in each of six */
    CHECK_INT(kv_layout_blocks(&l, 131072, 2048, 16), 8192 + 6 * (192 + 1));
    CHECK_INT(kv_layout_blocks(&l, 160, 2048, 16), 7 * 10);
}

TEST(llama_4_scout)
{
    char letters[128];
    repeat(letters, "cccf", 12, "");
    kv_layout l = layout_of(letters);
    CHECK(l.n_groups == 4 && l.n_places == 12);
    for (int i = 0; i < 48; i++) CHECK_INT(l.group[places[i].group].chunk, letters[i] == 'c' ? 8192 : 0);
    check_places(&l, 48);
    CHECK_INT(kv_layout_blocks(&l, 1 << 20, 8192, 16), 65536 + 3 * 1024);
}

TEST(gpt_oss_20b_and_120b)
{
    char letters[128];
    repeat(letters, "wf", 12, "");
    kv_layout l = layout_of(letters);
    CHECK(l.n_groups == 2 && l.n_places == 12);
    repeat(letters, "wf", 18, "");
    l = layout_of(letters);
    CHECK(l.n_groups == 2 && l.n_places == 18);
    check_places(&l, 36);
}

TEST(groups_of_other_numbers)
{
    kv_layout l = layout_of("sffff");          /* 1 + 4 would be 5 groups of 1 */
    CHECK(l.n_groups == 5 && l.n_places == 1);
    check_places(&l, 5);
    l = layout_of("sssssffffff");                /* nearly as many of both: a place is left empty */
    CHECK(l.n_groups == 2 && l.n_places == 6);
    check_places(&l, 11);
    l = layout_of("sskkf");                    /* sizes differ: a kind is a group */
    CHECK(l.n_groups == 2 && l.n_places == 3);
    check_places(&l, 5);
    char letters[128];
    repeat(letters, "s", 100, "f");            /* not more groups than there may be */
    l = layout_of(letters);
    CHECK(l.n_groups <= KV_MAX_GROUPS && l.n_places == 4);
    check_places(&l, 101);
}

TEST(no_layers_and_latent_ones)
{
    graph *g;
    kv_layout l;
    kv_spec s;
    REQUIRE_OK(graph_new(ops_rules(), &g));
    kv_layout_of(g, &l, NULL);
    CHECK(l.n_groups == 1 && l.n_places == 0);
    graph_free(g);
    g = layers_of("l");
    REQUIRE(kv_spec_of(g, graph_node(g, graph_output(g)), &s));
    CHECK(s.latent && s.heads == 1 && s.dim == 32);
    graph_free(g);
}

TEST(what_is_seen)
{
    const kv_group all = { 0, 0, 1 }, window = { 8, 0, 1 }, chunk = { 0, 8, 1 }, both = { 6, 8, 1 };
    const struct { int64_t pos, window, chunk, both; } at[] = { { 0, 0, 0, 0 }, { 7, 0, 0, 2 }, { 8, 1, 8, 8 }, { 15, 8, 8, 10 }, { 16, 9, 16, 16 } };
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        CHECK_INT(kv_first_seen(&all, at[i].pos), 0);
        CHECK_INT(kv_first_seen(&window, at[i].pos), at[i].window);
        CHECK_INT(kv_first_seen(&chunk, at[i].pos), at[i].chunk);
        CHECK_INT(kv_first_seen(&both, at[i].pos), at[i].both);
    }
    /* The bound holds for every step, and is not far off. */
    for (int step = 1; step < 20; step++)
        for (int bs = 1; bs < 9; bs++)
            for (int g = 0; g < 4; g++) {
                const kv_group *x = (const kv_group *[]){ &all, &window, &chunk, &both }[g];
                int64_t most = 0;
                for (int64_t start = 0; start < 90; start++) {
                    int64_t end = start + step < 90 ? start + step : 90, held = (end - 1) / bs + 1 - kv_first_seen(x, start) / bs;
                    most = held > most ? held : most;
                }
                int64_t bound = kv_group_blocks(x, 90, step, bs);
                if (most > bound || bound > most + 2) FAIL("group %d, steps of %d, blocks of %d: %d held, bound %d", g, step, bs, (int)most, (int)bound);
            }
}

TEST_MAIN
