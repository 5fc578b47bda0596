/* Encoders' graphs (device_limits.least_rows) on the pjrt device (XLA:CPU, `make pjrt-cpu`) beside the cpu device: layers that become loops, windows and whole items,
 * items that fill a program and items that are padded, attention over several tiles and blocks. */
#include "tests/unit/device/pjrt/help.h"

#include "device/device.h"
#include "tests/unit/device/pjrt/decoder.h"

/* XLA:CPU loses some bytes per compiled loop; what this repository allocates is not under that library. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libtensorflow_cc\n"; }

enum { COLS = 12, HIDDEN = 16, OUT = 10, ROWS = 1100, LEAST = 64 };

static const decoder small = { .layers = 4, .hidden = HIDDEN, .heads = 2, .head_dim = 8, .mlp = 24 };

/* As families of encoders build theirs: values, numbers of segments and of windows, of which every second layer has either. */
static status encoder_graph_of(graph **out)
{
    static const float freq[] = { 1, 0.3f, 0.7f, 0.1f }, scale[] = { 1 };
    graph *g;
    const shape values = { DT_F32, 2, { DIM_T, COLS }, { AX_TOKENS, AX_NONE } }, numbers = { DT_F32, 2, { DIM_T, 1 }, { AX_TOKENS, AX_NONE } };
    TRY(graph_new(ops_rules(), &g));
    tensor pos = case_ints(g, IN_POSITIONS), segments[] = { graph_activation(g, 1, &numbers), graph_activation(g, 2, &numbers) };
    tensor table = graph_add(g, OP_ROPE_TABLE, &pos, 1, &(op_attrs){ .rope_table = { .scale = { 1, scale }, .inv_freq = { 4, freq }, .height = 2, .width = 2 } });
    tensor x = decoder_linear(g, &small, -1, graph_activation(g, 0, &values), ROLE_REPL, "embed", AX_NONE, HIDDEN, true);
    for (int l = 0; l < small.layers; l++) {
        static const char *const names[] = { "q", "k", "v" };
        tensor y = decoder_norm(g, &small, l, x, "in"), in[4];
        for (int i = 0; i < 3; i++) {
            in[i] = decoder_linear(g, &small, l, y, ROLE_REPL, names[i], AX_NONE, HIDDEN, true);
            in[i] = graph_add(g, OP_SPLIT_HEADS, &in[i], 1, &(op_attrs){ .split_heads = { small.head_dim } });
            if (i < 2) in[i] = decoder_two(g, OP_ROPE, in[i], table);
        }
        in[3] = segments[l % 2];
        y = graph_add(g, OP_SEGMENT_ATTENTION, in, 4, &(op_attrs){ .segment_attention = { 0.4 } });
        y = graph_add(g, OP_MERGE_HEADS, &y, 1, NULL);
        x = decoder_two(g, OP_ADD, x, decoder_linear(g, &small, l, y, ROLE_REPL, "o", AX_NONE, HIDDEN, false));
    }
    graph_set_layer(g, -1);
    status st = graph_finish(g, decoder_linear(g, &small, -1, x, ROLE_REPL, "head", AX_NONE, OUT, false));
    if (st == ST_OK) *out = g;
    else graph_free(g);
    return st;
}

static char cache_dir[] = "/tmp/systolic-programs-XXXXXX";

static status load(loaded *l, const char *spec)
{
    const device_limits limits = { .max_tokens = ROWS, .max_seqs = 1, .max_rows = ROWS, .max_model_len = ROWS, .block_size = 16, .kv_dtype = DT_F32, .least_rows = LEAST };
    memset(l, 0, sizeof *l);
    TRY(device_open(spec, &(device_options){ .n_threads = 1, .lazy_compile = true, .program_cache = cache_dir }, &l->d));
    l->own = true;
    TRY(encoder_graph_of(&l->whole));
    l->s = decoder_weights(l->whole, DT_F32);
    TRY(graph_optimize(l->whole, &l->g));
    return device_load(l->d, l->g, &l->s.base, &limits, NULL, NULL, &l->m);
}

typedef struct item { batch b; float values[ROWS * COLS], segments[ROWS], windows[ROWS], out[ROWS * OUT]; const float *inputs[3]; int32_t positions[ROWS], three[3 * ROWS], cu[2]; } item;

/* Two segments, windows of 9 rows. */
static void make_item(item *x, int rows)
{
    memset(x, 0, sizeof *x);
    for (int i = 0; i < rows * COLS; i++) x->values[i] = case_value((uint32_t)rows, (uint32_t)i);
    for (int i = 0; i < rows; i++) {
        x->segments[i] = (float)(i >= rows * 2 / 3);
        x->windows[i] = (float)(i / 9);
        x->three[3 * i + 1] = i / 7;
        x->three[3 * i + 2] = i % 7;
    }
    x->inputs[0] = x->values, x->inputs[1] = x->segments, x->inputs[2] = x->windows;
    x->cu[1] = rows;
    x->b = (batch){ .n_tokens = rows, .n_seqs = 1, .positions = x->positions, .cu_q_lens = x->cu, .logits = x->out, .activations = x->inputs, .positions3 = x->three };
}

TEST(items_of_any_size)
{
    NEED_CPU;
    static item want, got;
    static const int sizes[] = { 1, 64, 65, 300, 700, ROWS };
    loaded a, b;
    char spec[4400], command[128];
    REQUIRE(mkdtemp(cache_dir));
    snprintf(spec, sizeof spec, "pjrt:%s", plugin_path);
    REQUIRE_OK(load(&b, spec)); /* first: its compiler is forked */
    REQUIRE_OK(load(&a, "cpu"));
    CHECK(device_weight_bytes(b.m) > 0 && device_step_bytes(b.m) > 0);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        make_item(&want, sizes[i]);
        REQUIRE_OK(device_run(a.m, &want.b));
        make_item(&got, sizes[i]);
        REQUIRE_OK(device_run(b.m, &got.b));
        double error = case_error(got.out, want.out, sizes[i] * OUT);
        if (!(error <= 1e-4)) FAIL("%d rows: error %g", sizes[i], error);
        for (int k = sizes[i] * OUT; k < ROWS * OUT; k++)
            if (got.out[k] != 0) FAIL("%d rows: number %d is not the item's", sizes[i], k);
    }
    got.b.n_tokens = ROWS + 1;
    CHECK_ERR(device_run(b.m, &got.b), ST_INVALID, "1101 rows of an encoder, planned for 1100");
    drop(&a);
    drop(&b);
    snprintf(command, sizeof command, "rm -rf %s", cache_dir);
    if (system(command) != 0) perror(command);
}
TEST_MAIN
