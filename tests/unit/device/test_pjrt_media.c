/* Steps with encoders' rows, positions of three numbers and tokens that see later ones, on the pjrt device (XLA:CPU, `make pjrt-cpu`) beside the cpu
 * device: prompts with images, steps of text in between, decode steps, several in flight. */
#include "tests/unit/device/pjrt/help.h"

#include "device/device.h"
#include "tests/unit/device/pjrt/decoder.h"

/* XLA:CPU loses some bytes per compiled loop; what this repository allocates is not under that library. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libtensorflow_cc\n"; }

enum { VOCAB = 97, HIDDEN = 16, STEPS = 5, FLOATS = HIDDEN * CASE_TOKENS };

static const decoder small = { .layers = 4, .hidden = HIDDEN, .heads = 4, .kv_heads = 2, .head_dim = 8, .mlp = 24, .vocab = VOCAB, .period = 2 };
static const device_limits limits = { 24, 4, 4, DECODER_LEN, DECODER_BLOCK, DT_F32, { 0 }, 0, true };

/* As families build theirs (model/dsl.h): inputs 0 and 1 are the rows and one level of deepstack, input 2 the mask. */
static status media_graph(graph **out)
{
    static const float freq[] = { 1, 0.3f, 0.7f, 0.1f }, scale[] = { 1 };
    graph *g;
    const shape rows_shape = { DT_F32, 2, { DIM_T, HIDDEN }, { AX_TOKENS, AX_EMBED } }, mask_shape = { DT_F32, 2, { DIM_T, 1 }, { AX_TOKENS, AX_NONE } };
    TRY(graph_new(ops_rules(), &g));
    tensor ids = case_ints(g, IN_TOKENS), pos = case_ints(g, IN_POSITIONS), rows = case_ints(g, IN_ROWS);
    tensor table = graph_add(g, OP_ROPE_TABLE, &pos, 1, &(op_attrs){ .rope_table = { .scale = { 1, scale }, .inv_freq = { 4, freq }, .height = 1, .width = 1 } });
    tensor x = decoder_two(g, OP_EMBED, ids, decoder_weight(g, &small, -1, ROLE_VOCAB, "embed", AX_VOCAB, VOCAB, AX_EMBED, HIDDEN));
    x = graph_add(g, OP_MERGE_EMBEDS, (tensor[]){ x, graph_activation(g, 0, &rows_shape), graph_activation(g, 2, &mask_shape) }, 3, NULL);
    for (int l = 0; l < small.layers; l++) {
        x = decoder_layer(g, &small, l, x, table);
        if (l == 0) x = decoder_two(g, OP_ADD, x, graph_activation(g, 1, &rows_shape));
    }
    graph_set_layer(g, -1);
    x = decoder_two(g, OP_GATHER_ROWS, decoder_norm(g, &small, -1, x, "norm"), rows);
    status st = graph_finish(g, decoder_linear(g, &small, -1, x, ROLE_VOCAB, "head", AX_VOCAB, VOCAB, false));
    if (st == ST_OK) *out = g;
    else graph_free(g);
    return st;
}

typedef struct media_step { case_step s; float rows[2][FLOATS], mask[CASE_TOKENS], logits[4 * VOCAB]; const float *inputs[3]; int32_t see[CASE_TOKENS], three[3 * CASE_TOKENS]; } media_step;

/* Rows for tokens [from, to) of the batch, which see all of them: their keys end at `end`. */
static void add_item(media_step *m, int step, int from, int to, int end)
{
    for (int t = from; t < to; t++) {
        m->mask[t] = 1;
        m->see[t] = end;
        for (int k = 0; k < 3; k++) m->three[3 * t + k] = m->s.positions[from] + (k ? (t - from + k) % 3 : 0);
        for (int i = 0; i < 2 * HIDDEN; i++) m->rows[i / HIDDEN][t * HIDDEN + i % HIDDEN] = case_value((uint32_t)(step * 100 + t), (uint32_t)i);
    }
    m->s.b.activations = m->inputs;
    m->s.b.see = m->see;
}

/* Sequence 0 begins with an image in the middle of its prompt, longer than a tile; then text; then one beside a decode; decode alone; a single row of an item. */
static void make_step(media_step *m, int step, const kv_layout *kv)
{
    const case_seq seqs[STEPS][2] = { { { 14, 14 }, { 5, 5 } }, { { 17, 3 }, { 6, 1 } }, { { 18, 1 }, { 13, 7 } }, { { 19, 1 }, { 14, 1 } }, { { 20, 1 }, { 15, 1 } } };
    memset(m, 0, sizeof *m);
    case_step_make(&m->s, seqs[step], 2, NULL, 0, DECODER_BLOCK, DECODER_BLOCKS * DECODER_BLOCK, 1, DECODER_LEN);
    for (int i = 0; i < 2; i++) m->s.rows[i] = m->s.cu[i + 1] - 1;
    m->s.b.n_rows = 2;
    m->s.b.logits = m->logits;
    m->s.b.positions3 = m->three;
    m->inputs[0] = m->rows[0], m->inputs[1] = m->rows[1], m->inputs[2] = m->mask;
    for (int t = 0; t < m->s.b.n_tokens; t++)
        for (int k = 0; k < 3; k++) m->three[3 * t + k] = m->s.positions[t] + 2;
    if (step == 0) add_item(m, step, 2, 13, 13);
    if (step == 2) add_item(m, step, 2, 6, 11); /* token 1 is at position 6 */
    if (step == 4) add_item(m, step, 1, 2, 15);
    if (kv->n_groups > 1) case_step_groups(&m->s, kv, DECODER_BLOCKS);
}

static char cache_dir[] = "/tmp/systolic-programs-XXXXXX";

static status load(loaded *l, const char *spec)
{
    kv_layout kv;
    memset(l, 0, sizeof *l);
    TRY(device_open(spec, &(device_options){ .n_threads = 1, .lazy_compile = true, .program_cache = cache_dir }, &l->d));
    l->own = true;
    TRY(media_graph(&l->whole));
    l->s = decoder_weights(l->whole, DT_F32);
    TRY(graph_optimize_uniform(l->whole, &l->g));
    TRY(device_load(l->d, l->g, &l->s.base, &limits, NULL, NULL, &l->m));
    device_kv_layout(l->m, &kv);
    return device_kv_resize(l->m, kv.n_groups * DECODER_BLOCKS);
}

static media_step want[STEPS], got[STEPS];

TEST(rows_positions_and_what_they_see)
{
    NEED_CPU;
    loaded a, b;
    kv_layout kv;
    char spec[4400], command[128];
    REQUIRE(mkdtemp(cache_dir));
    snprintf(spec, sizeof spec, "pjrt:%s", plugin_path);
    REQUIRE_OK(load(&b, spec)); /* first: its compiler is forked */
    REQUIRE_OK(load(&a, "cpu"));
    device_kv_layout(a.m, &kv);
    for (int i = 0; i < STEPS; i++) {
        make_step(&want[i], i, &kv);
        REQUIRE_OK(device_run(a.m, &want[i].s.b));
    }
    device_kv_layout(b.m, &kv);
    for (int i = 0; i < STEPS; i++) make_step(&got[i], i, &kv);
    for (int i = 0; i < 4; i++) REQUIRE_OK(device_submit(b.m, &got[i].s.b));
    for (int i = 0; i < 4; i++) REQUIRE_OK(device_wait(b.m));
    REQUIRE_OK(device_run(b.m, &got[4].s.b));
    for (int i = 0; i < STEPS; i++) {
        double error = case_error(got[i].logits, want[i].logits, 2 * VOCAB);
        if (!(error <= 1e-4)) FAIL("step %d: error %g", i, error);
    }
    got[0].see[3] = 15;
    CHECK_ERR(device_run(b.m, &got[0].s.b), ST_INVALID, "see[3] is 15, expected 0 to 14");
    drop(&a);
    drop(&b);
    snprintf(command, sizeof command, "rm -rf %s", cache_dir);
    if (system(command) != 0) perror(command);
}
TEST_MAIN
