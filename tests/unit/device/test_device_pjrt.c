/* Models on the pjrt device through device.h, on XLA:CPU (`make pjrt-cpu`) beside the cpu device: ragged steps, steps in flight
 * that hand tokens on through the ring, the cache, weights in pieces and wrong ones, what is refused, memory. One device for
 * all tests: a process opens it once (its compiler is forked before the plugin is loaded). */
#include "tests/unit/device/pjrt/help.h"

#include <dirent.h>

#include "device/device.h"
#include "tests/unit/device/pjrt/decoder.h"

/* XLA:CPU loses some bytes per compiled loop; what this repository allocates is not under that library. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libtensorflow_cc\n"; }

enum { VOCAB = 203, N_DEVICES = 2 };

static const decoder llama = { .layers = 3, .hidden = 32, .heads = 8, .kv_heads = 2, .head_dim = 4, .mlp = 48, .vocab = VOCAB };
static const device_limits limits = { 24, 4, 4, DECODER_LEN, DECODER_BLOCK, DT_F32, { 0 }, 0, false };

static char cache_dir[64];

static void remove_cache(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", cache_dir);
    if (system(command) != 0) perror(command);
}

static device *opened(void)
{
    static device *d;
    char spec[4400];
    if (d) return d;
    snprintf(cache_dir, sizeof cache_dir, "/tmp/systolic-programs-XXXXXX");
    if (!mkdtemp(cache_dir) || atexit(remove_cache) != 0) return NULL;
    snprintf(spec, sizeof spec, "pjrt:%s?cpu_device_count=%d", cpu_plugin(), N_DEVICES);
    if (device_open(spec, &(device_options){ .lazy_compile = true, .program_cache = cache_dir }, &d) != ST_OK) FAIL("%s", err_msg());
    return d;
}

static int n_files(void)
{
    int n = 0;
    DIR *dir = opendir(cache_dir);
    for (struct dirent *e; dir && (e = readdir(dir));) n += e->d_name[0] != '.';
    if (dir) closedir(dir);
    return n;
}

/* ---- a model, here or on the cpu device ---- */

static status load_to(loaded *l, device *d, const decoder *x, mesh on, const device_limits *lim)
{
    l->d = d;
    TRY(decoder_whole(x, &l->whole));
    l->s = decoder_weights(l->whole, x->type);
    TRY(decoder_graph(x, on, &l->g));
    return device_load(d, l->g, &l->s.base, lim, NULL, NULL, &l->m);
}

/* Room for each group's pages. */
static status resize(device_model *m)
{
    kv_layout kv;
    device_kv_layout(m, &kv);
    return device_kv_resize(m, kv.n_groups * DECODER_BLOCKS);
}

static status load(loaded *l, const decoder *x, mesh on)
{
    memset(l, 0, sizeof *l);
    device *d = opened();
    status st = d ? load_to(l, d, x, on, &limits) : ST_INTERNAL;
    if (st == ST_OK) st = resize(l->m);
    if (st != ST_OK) drop(l);
    return st;
}

static status load_cpu(loaded *l, const decoder *x)
{
    device *d;
    memset(l, 0, sizeof *l);
    TRY(device_open("cpu", &(device_options){ .n_threads = 1 }, &d));
    l->own = true;
    status st = load_to(l, d, x, (mesh){ 1, 1, false, false }, &limits);
    if (st == ST_OK) st = resize(l->m);
    if (st != ST_OK) drop(l);
    return st;
}

static const mesh one = { 1, 1, false, false };
static float want[DECODER_STEPS][4 * VOCAB], got[DECODER_STEPS][4 * VOCAB];

static status run_steps(loaded *l, const decoder *x, float out[DECODER_STEPS][4 * VOCAB])
{
    static case_step s;
    for (int i = 0; i < DECODER_STEPS; i++) {
        kv_layout kv;
        decoder_step(&s, x, i, 0);
        device_kv_layout(l->m, &kv);
        if (kv.n_groups > 1) case_step_groups(&s, &kv, DECODER_BLOCKS);
        s.b.logits = out[i];
        TRY(device_run(l->m, &s.b));
    }
    return ST_OK;
}

static int rows_of(const decoder *x, int step)
{
    static case_step s;
    decoder_step(&s, x, step, 0);
    return s.b.n_rows;
}

static void compare(const decoder *x, double tolerance)
{
    for (int i = 0; i < DECODER_STEPS; i++) {
        double error = case_error(got[i], want[i], (int64_t)rows_of(x, i) * VOCAB);
        if (!(error <= tolerance)) FAIL("step %d: error %g", i, error);
        for (int r = 0; r < rows_of(x, i) && tolerance < 1e-3; r++) CHECK_INT(decoder_best(got[i] + r * VOCAB, VOCAB), decoder_best(want[i] + r * VOCAB, VOCAB));
    }
}

static void against_cpu(const decoder *x, mesh on, double tolerance)
{
    loaded a, b;
    REQUIRE_OK(load_cpu(&a, x));
    CHECK_OK(run_steps(&a, x, want));
    drop(&a);
    REQUIRE_OK(load(&b, x, on));
    CHECK_OK(run_steps(&b, x, got));
    compare(x, tolerance);
    CHECK_INT(b.s.live, 0);
    drop(&b);
}

/* ---- steps ---- */

TEST(describes_itself)
{
    NEED_CPU;
    device_info info;
    device *d = opened(), *second = NULL;
    char spec[4400];
    REQUIRE(d);
    device_describe(d, &info);
    CHECK_STR(info.platform, "cpu");
    CHECK_STR(info.name, "2 x cpu");
    CHECK(info.loops);
    snprintf(spec, sizeof spec, "pjrt:%s", plugin_path);
    CHECK_ERR(device_open(spec, NULL, &second), ST_INVALID, "must be opened before any plugin is loaded");
    CHECK_ERR(device_open("tpu:0", NULL, &second), ST_INVALID, "takes nothing after the colon, got '0'");
}

TEST(ragged_steps)
{
    NEED_CPU;
    against_cpu(&llama, one, 1e-4);
}

/* A table of embeddings of 120 columns is kept with 128, as a head too; of two ranks each has half of its rows. */
TEST(padded_tables)
{
    NEED_CPU;
    decoder wide = { .layers = 2, .hidden = 120, .heads = 4, .kv_heads = 2, .head_dim = 4, .mlp = 16, .vocab = VOCAB };
    against_cpu(&wide, one, 1e-4);
    wide.tied = true;
    against_cpu(&wide, (mesh){ 1, 2, false, false }, 1e-4);
}

/* Windows and full layers: four groups that share blocks. The groups of a loop's repetitions are in no even order. */
TEST(layers_of_two_kinds)
{
    static const decoder mixed = { .layers = 10, .hidden = 16, .heads = 4, .kv_heads = 2, .head_dim = 4, .mlp = 16, .vocab = VOCAB, .period = 3 };
    loaded l;
    kv_layout kv;
    NEED_CPU;
    REQUIRE_OK(load(&l, &mixed, one));
    device_kv_layout(l.m, &kv);
    CHECK(kv.n_groups == 4 && kv.n_places == 3);
    drop(&l);
    against_cpu(&mixed, one, 1e-4);
}

/* Chunks of whole blocks, of which rows of pages begin with the current one, and chunks that begin anywhere. */
TEST(layers_of_chunks)
{
    static const decoder whole = { .layers = 4, .hidden = 16, .heads = 4, .kv_heads = 2, .head_dim = 4, .mlp = 16, .vocab = VOCAB, .llama4 = true, .chunk = 2 * DECODER_BLOCK };
    decoder anywhere = whole;
    NEED_CPU;
    against_cpu(&whole, one, 1e-4);
    anywhere.chunk = DECODER_BLOCK + 1;
    against_cpu(&anywhere, one, 1e-4);
}

static status steps_with(device *d, const decoder *x, mesh on, dtype kv, float out[DECODER_STEPS][4 * VOCAB])
{
    loaded l = { 0 };
    device_limits lim = limits;
    lim.kv_dtype = kv;
    status st = load_to(&l, d, x, on, &lim);
    if (st == ST_OK) st = resize(l.m);
    if (st == ST_OK) st = run_steps(&l, x, out);
    drop(&l);
    return st;
}

/* Every layer of the loop has scales of its own for what its cache keeps, and one of int8 has some for each token; 8-bit numbers may be rounded otherwise where sums' last bits differ. */
TEST(scales_of_the_cache)
{
    NEED_CPU;
    decoder scaled = llama;
    device *here;
    scaled.kv_scales = true;
    static const struct { dtype kv; mesh on; double tolerance; } all[] = {
        { DT_F32, { 1, 1, false, false }, 1e-4 }, { DT_F8E4M3, { 1, 1, false, false }, 0.05 }, { DT_F8E5M2, { 1, 2, false, false }, 0.1 },
        { DT_I8, { 1, 1, false, false }, 0.02 }, { DT_I8, { 1, 2, false, false }, 0.02 } };
    REQUIRE_OK(device_open("cpu", &(device_options){ .n_threads = 1 }, &here));
    for (int i = 0; i < 5; i++) {
        CHECK_OK(steps_with(here, &scaled, one, all[i].kv, want));
        CHECK_OK(steps_with(opened(), &scaled, all[i].on, all[i].kv, got));
        compare(&scaled, all[i].tolerance);
    }
    device_close(here);
}

/* The second time nothing is compiled. */
TEST(programs_come_from_the_cache)
{
    NEED_CPU;
    int before = n_files();
    CHECK(before > 0);
    against_cpu(&llama, one, 1e-4);
    CHECK_INT(n_files(), before);
}

TEST(two_tensor_ranks)
{
    NEED_CPU;
    static const decoder qwen = { .layers = 2, .hidden = 24, .heads = 8, .kv_heads = 1, .head_dim = 4, .mlp = 40, .vocab = VOCAB, .qk_norm = true, .bias = true, .tied = true, .period = 2 };
    against_cpu(&qwen, (mesh){ 1, 2, false, false }, 1e-4);
    against_cpu(&llama, (mesh){ 1, 2, true, false }, 1e-4);
}

static sample_row greedy(int slot, int pos) { return (sample_row){ .slot = slot, .ring_pos = pos, .top_p = 1, .repetition_penalty = 1 }; }

/* Step k of two sequences: their prompts, then one token each, which only the ring knows. */
typedef struct ahead { case_step s; sample_row samples[2]; int32_t sampled[2]; float logits[2 * VOCAB]; } ahead;

static void make_ahead(ahead *a, int k, bool ring, const int32_t *tokens)
{
    const case_seq seqs[2] = { { 5 + k, k ? 1 : 5 }, { 3 + k, k ? 1 : 3 } };
    case_step_make(&a->s, seqs, 2, (const int32_t[]){ k ? 0 : 4, k ? 1 : 7 }, 2, DECODER_BLOCK, DECODER_BLOCKS * DECODER_BLOCK, 1, DECODER_LEN);
    for (int i = 0; k && i < 2; i++) a->s.ids[i] = ring ? -1 - ((3 + i * 7) * BATCH_RING + (k - 1) % BATCH_RING) : tokens[i];
    for (int i = 0; i < 2; i++) a->samples[i] = greedy(3 + i * 7, k % BATCH_RING);
    if (ring) a->s.b.samples = a->samples, a->s.b.sampled = a->sampled;
}

enum { AHEAD = 12 };

/* Greedy tokens by the cpu device, one step after the other. */
static status cpu_tokens(int32_t out[AHEAD][2])
{
    static ahead a;
    loaded l;
    TRY(load_cpu(&l, &llama));
    status st = ST_OK;
    for (int k = 0; k < AHEAD && st == ST_OK; k++) {
        make_ahead(&a, k, false, k ? out[k - 1] : NULL);
        a.s.b.logits = a.logits;
        st = device_run(l.m, &a.s.b);
        for (int i = 0; i < 2; i++) out[k][i] = decoder_best(a.logits + i * VOCAB, VOCAB);
    }
    drop(&l);
    return st;
}

TEST(four_steps_in_flight)
{
    NEED_CPU;
    static ahead a[AHEAD];
    static char block[1 << 16];
    int32_t tokens[AHEAD][2];
    loaded l;
    REQUIRE_OK(cpu_tokens(tokens));
    REQUIRE_OK(load(&l, &llama, one));
    int depth = device_depth(l.m);
    CHECK_INT(depth, 4);
    CHECK_INT(device_n_slots(l.m), depth * limits.max_seqs + 1);
    CHECK_ERR(device_wait(l.m), ST_INTERNAL, "no step is in flight");
    for (int k = 0; k < AHEAD; k++) {
        make_ahead(&a[k], k, true, NULL);
        if (k % 3 == 2) a[k].s.b.logits = a[k].logits;     /* fetched only where asked for */
        memset(a[k].sampled, -1, sizeof a[k].sampled);
    }
    for (int k = 0; k < AHEAD; k++) {
        REQUIRE_OK(device_submit(l.m, &a[k].s.b));
        if (k < depth - 1) continue;
        if (k == depth) {
            CHECK_ERR(device_submit(l.m, &a[k + 1].s.b), ST_INTERNAL, "4 steps are in flight already");
            CHECK_ERR(device_run(l.m, &a[k + 1].s.b), ST_INTERNAL, "while 4 are in flight");
            CHECK((size_t)device_kv_block_bytes(l.m) <= sizeof block);
            CHECK_OK(device_kv_read(l.m, 5, block));       /* comes after them, and they go on */
        }
        REQUIRE_OK(device_wait(l.m));
    }
    for (int k = 0; k < depth - 1; k++) REQUIRE_OK(device_wait(l.m));
    CHECK_ERR(device_wait(l.m), ST_INTERNAL, "no step is in flight");
    for (int k = 0; k < AHEAD; k++)
        for (int i = 0; i < 2; i++) {
            CHECK_INT(a[k].sampled[i], tokens[k][i]);
            if (k % 3 == 2) CHECK_INT(decoder_best(a[k].logits + i * VOCAB, VOCAB), tokens[k][i]);
        }
    drop(&l);
}

/* A chunk of a prompt wants no token at all; a row whose token is not wanted leaves the ring alone. */
TEST(steps_without_tokens)
{
    NEED_CPU;
    static ahead a[3];
    int32_t tokens[AHEAD][2];
    loaded l;
    REQUIRE_OK(cpu_tokens(tokens));
    REQUIRE_OK(load(&l, &llama, one));
    for (int k = 0; k < 3; k++) make_ahead(&a[k], k, true, NULL);
    a[0].s.b.n_rows = 0;
    REQUIRE_OK(device_submit(l.m, &a[0].s.b));
    REQUIRE_OK(device_wait(l.m));
    make_ahead(&a[0], 0, true, NULL);
    a[1].samples[1].slot = -1;
    for (int k = 0; k < 2; k++) REQUIRE_OK(device_submit(l.m, &a[k].s.b));
    for (int k = 0; k < 2; k++) REQUIRE_OK(device_wait(l.m));
    CHECK_INT(a[1].sampled[0], tokens[1][0]);
    /* So slot 10's place 1 still holds 0, what it began with. */
    memcpy(a[2].s.ids, (const int32_t[]){ -1 - (3 * BATCH_RING + 1), tokens[1][1] }, 8);
    REQUIRE_OK(device_submit(l.m, &a[2].s.b));
    REQUIRE_OK(device_wait(l.m));
    for (int i = 0; i < 2; i++) CHECK_INT(a[2].sampled[i], tokens[2][i]);
    drop(&l);
}

TEST(unloading_with_steps_in_flight)
{
    NEED_CPU;
    static ahead a[3];
    loaded l;
    int64_t live = mem_live();
    REQUIRE_OK(load(&l, &llama, one));
    for (int k = 0; k < 3; k++) {
        make_ahead(&a[k], k, true, NULL);
        REQUIRE_OK(device_submit(l.m, &a[k].s.b));
    }
    drop(&l);
    CHECK_INT(mem_live(), live);
}

TEST(two_models)
{
    NEED_CPU;
    static case_step s;
    loaded a, b, c;
    REQUIRE_OK(load_cpu(&c, &llama));
    CHECK_OK(run_steps(&c, &llama, want));
    drop(&c);
    REQUIRE_OK(load(&a, &llama, one));
    REQUIRE_OK(load(&b, &llama, (mesh){ 1, 2, true, false }));
    for (int i = 0; i < DECODER_STEPS; i++)
        for (int k = 0; k < 2; k++) {
            decoder_step(&s, &llama, i, 0);
            s.b.logits = got[i];
            CHECK_OK(device_run(k ? a.m : b.m, &s.b));
        }
    compare(&llama, 1e-4);
    drop(&a);
    CHECK_OK(run_steps(&b, &llama, got));
    compare(&llama, 1e-4);
    drop(&b);
}

/* ---- the cache ---- */

TEST(cache_sizes)
{
    NEED_CPU;
    static case_step s;
    loaded l;
    memset(&l, 0, sizeof l);
    REQUIRE(opened());
    REQUIRE_OK(load_to(&l, opened(), &llama, one, &limits));
    decoder_step(&s, &llama, 0, 0);
    s.b.logits = got[0];
    CHECK_ERR(device_run(l.m, &s.b), ST_INTERNAL, "before there is a KV cache");
    CHECK_ERR(device_kv_read(l.m, 0, got), ST_INVALID, "KV block 0");
    CHECK_ERR(device_kv_resize(l.m, 0), ST_INVALID, "a KV cache of 0 blocks");
    CHECK_ERR(device_kv_resize(l.m, 1 << 30), ST_INVALID, "a KV cache of 1073741824 blocks");
    CHECK_INT(device_kv_bytes(l.m, 0.9), 0);       /* XLA:CPU counts no memory */
    hlo_kv kv = hlo_kv_of(DT_F32, 2, 4);
    CHECK_INT(device_kv_block_bytes(l.m), 3 * DECODER_BLOCK * kv.rows * kv.lanes * 4);
    CHECK_INT(device_weight_bytes(l.m), 4 * (2 * VOCAB * 32 + 32 + 3 * (2 * 32 + 48 * 32 + 32 * 32 + 96 * 32 + 32 * 48)));
    REQUIRE_OK(device_kv_resize(l.m, DECODER_BLOCKS));
    CHECK_OK(run_steps(&l, &llama, want));
    /* Again, so the cache is empty; then with another size, so programs are others. */
    REQUIRE_OK(device_kv_resize(l.m, DECODER_BLOCKS));
    CHECK_OK(run_steps(&l, &llama, got));
    compare(&llama, 0);
    REQUIRE_OK(device_kv_resize(l.m, DECODER_BLOCKS + 3));
    CHECK_OK(run_steps(&l, &llama, got));
    compare(&llama, 0);
    drop(&l);
    device_limits lim = limits;     /* scales are bytes of a block, too: four for each token of two heads' K and V, in whole rows of 128 */
    lim.kv_dtype = DT_I8;
    REQUIRE_OK(load_to(&l, opened(), &llama, one, &lim));
    kv = hlo_kv_of(DT_I8, 2, 4);
    CHECK_INT(device_kv_block_bytes(l.m), 3 * (DECODER_BLOCK * kv.rows * kv.lanes + 4 * 128));
    CHECK(4 * DECODER_BLOCK <= 128);
    drop(&l);
}

/* Blocks copied out, wiped and copied in elsewhere give the same continuation; scales go with their numbers. */
static void check_travel(dtype kv)
{
    static case_step s;
    loaded l = { 0 };
    device_limits lim = limits;
    lim.kv_dtype = kv;
    REQUIRE_OK(load_to(&l, opened(), &llama, one, &lim));
    REQUIRE_OK(resize(l.m));
    size_t bytes = (size_t)device_kv_block_bytes(l.m);
    char *block = mem_alloc(bytes), *other = mem_alloc(bytes), *zero = mem_calloc(1, bytes);
    for (int i = 0; i < 2; i++) {
        decoder_step(&s, &llama, i, 0);
        s.b.logits = got[i];
        CHECK_OK(device_run(l.m, &s.b));
    }
    decoder_step(&s, &llama, 2, 0);
    s.b.logits = want[2];
    CHECK_OK(device_run(l.m, &s.b));
    int32_t from = s.pages[0][1], to = 0;   /* a block of the first sequence to one that nobody has */
    CHECK_OK(device_kv_read(l.m, from, block));
    CHECK(memcmp(block, zero, bytes) != 0);
    CHECK_OK(device_kv_write(l.m, to, block));
    CHECK_OK(device_kv_write(l.m, from, zero));
    CHECK_OK(device_kv_read(l.m, to, other));
    CHECK(memcmp(block, other, bytes) == 0);
    CHECK_OK(device_kv_read(l.m, from, other));
    CHECK(memcmp(zero, other, bytes) == 0);
    s.b.logits = got[2];
    CHECK_OK(device_run(l.m, &s.b));
    CHECK(memcmp(want[2], got[2], VOCAB * sizeof(float)) != 0);
    CHECK(memcmp(want[2] + VOCAB, got[2] + VOCAB, 3 * VOCAB * sizeof(float)) == 0);
    CHECK_OK(device_kv_write(l.m, to, block));      /* padding may have been written to block 0 */
    s.pages[0][1] = to;
    CHECK_OK(device_run(l.m, &s.b));
    CHECK(memcmp(want[2], got[2], 4 * VOCAB * sizeof(float)) == 0);
    CHECK_ERR(device_kv_read(l.m, DECODER_BLOCKS, block), ST_INVALID, "KV block 42, expected 0 to 41");
    CHECK_ERR(device_kv_write(l.m, -1, block), ST_INVALID, "KV block -1");
    mem_free(block);
    mem_free(other);
    mem_free(zero);
    drop(&l);
}

TEST(blocks_travel)
{
    NEED_CPU;
    loaded l;
    check_travel(DT_F32);
    check_travel(DT_I8);
    REQUIRE_OK(load(&l, &llama, (mesh){ 1, 2, true, false }));
    CHECK_ERR(device_kv_read(l.m, 1, got), ST_UNSUPPORTED, "copying KV blocks of 2 devices");
    drop(&l);
}

/* ---- what is refused ---- */

TEST(broken_batches)
{
    NEED_CPU;
    static case_step s;
    sample_row samples[4] = { greedy(0, 0), greedy(1, 0), greedy(2, 0), greedy(3, 0) };
    int32_t sampled[4];
    loaded l;
    REQUIRE_OK(load(&l, &llama, one));
#define BROKEN(change, text) do { decoder_step(&s, &llama, 1, 0); s.b.logits = got[0]; change; CHECK_ERR(device_run(l.m, &s.b), ST_INVALID, text); } while (0)
    BROKEN(s.ids[2] = VOCAB, "token_ids[2] is 203, expected -136 to 202");
    BROKEN(s.ids[2] = -137, "token_ids[2] is -137");
    BROKEN(s.pages[0][1] = DECODER_BLOCKS, "page_table[1] is 42, expected 0 to 41");
    BROKEN(s.slots[3] = DECODER_BLOCKS * DECODER_BLOCK, "slots[3] is 168");
    BROKEN(s.rows[1] = 13, "rows[1] is 13, expected 0 to 12");
    BROKEN(s.cu[s.b.n_seqs] = 12, "cu_q_lens");
    BROKEN(s.cu[1] = s.cu[2], "sequence 1 has 0 new tokens");
    BROKEN(s.kv_lens[0] = DECODER_LEN + 1, "sequence 0 has 9 new tokens of 37, at most 36");
    BROKEN(s.positions[0] = -1, "positions[0] is -1");
    BROKEN(s.b.max_pages = 3, "sequence 0 needs 4 pages, its row has 3");
    BROKEN(s.b.n_tokens = 25, "25 tokens, 3 sequences, 3 rows; planned for 24, 4, 4");
    BROKEN((s.b.samples = samples, s.b.sampled = sampled, samples[1].slot = 17), "row 1 goes to slot 17, place 0 of the ring, which has 17 slots of 8");
    samples[1] = greedy(1, 8);
    BROKEN((s.b.samples = samples, s.b.sampled = sampled), "place 8 of the ring");
    decoder_step(&s, &llama, 1, 0);
    s.b.logits = got[0];
    CHECK_OK(device_run(l.m, &s.b));
    drop(&l);
}

static void check_refused(const char *name, decoder_fault how, status code, const char *text)
{
    loaded l;
    memset(&l, 0, sizeof l);
    REQUIRE_OK(decoder_whole(&llama, &l.whole));
    REQUIRE_OK(decoder_graph(&llama, (mesh){ 1, 2, false, false }, &l.g));
    l.s = decoder_weights(l.whole, DT_F32);
    l.s.bad = name;
    l.s.how = how;
    CHECK_ERR(device_load(opened(), l.g, &l.s.base, &limits, NULL, NULL, &l.m), code, text);
    CHECK_INT(l.s.live, 0);
    drop(&l);
}

TEST(wrong_weights)
{
    NEED_CPU;
    REQUIRE(opened());
    check_refused("1.q", FAULT_MISSING, ST_NOT_FOUND, "there is no tensor 1.q");
    check_refused("1.k", FAULT_ROWS, ST_INVALID, "tensor 1.k is f32[7, 32], expected f32[8, 32]");
    check_refused("2.v", FAULT_COLS, ST_INVALID, "tensor 2.v is f32[8, 31], expected f32[8, 32]");
    check_refused("2.o", FAULT_ROWS, ST_INVALID, "tensor 2.o is f32[31, 32], expected f32[32, 32]");
    check_refused("head", FAULT_RANK, ST_INVALID, "tensor head is f32[203], expected f32[203, 32]");
    check_refused("norm", FAULT_RANK, ST_INVALID, "tensor norm is f32[32, 0], expected f32[32]");
    check_refused("embed", FAULT_TYPE, ST_UNSUPPORTED, "tensor embed is i8; supported: f32, bf16, f16, f64");
    check_refused("0.gate", FAULT_QUANTISED, ST_UNSUPPORTED, "tensor 0.gate is quantised");
    setenv("SYSTOLIC_HOSTILE", "1", 1);
    check_refused("1.q", FAULT_MISSING, ST_NOT_FOUND, "there is no tensor 1.q");
    check_refused("2.down", FAULT_ROWS, ST_INVALID, "tensor 2.down is f32[31, 48]");
    unsetenv("SYSTOLIC_HOSTILE");
}

TEST(models_that_do_not_fit_the_device)
{
    NEED_CPU;
    loaded l;
    REQUIRE(opened());
    CHECK_ERR(load(&l, &llama, (mesh){ 1, 4, false, false }), ST_INVALID, "the model is cut for 4 devices, 2 x cpu has 2");
    CHECK_ERR(load(&l, &llama, (mesh){ 2, 1, false, false }), ST_UNSUPPORTED, "data parallel size 2");
    static const char text[] = "%1 = input kind=3 : f32[R, 8]{rows, embed}\n%2 = weight role=repl \"w\"[0:4/4]embed : f32[4, 8]{embed, embed}\n%3 = linear(%1, %2) : f32[R, 4]{rows, embed}\noutput %3\n";
    memset(&l, 0, sizeof l);
    REQUIRE_OK(graph_parse(ops_rules(), text, sizeof text - 1, &l.g));
    l.s = decoder_weights(l.g, DT_F32);
    CHECK_ERR(device_load(opened(), l.g, &l.s.base, &limits, NULL, NULL, &l.m), ST_UNSUPPORTED, "float input that is not one row per token: node %1");
    drop(&l);
}

/* ---- weights ---- */

static void note(void *arg, int64_t done, int64_t total)
{
    int64_t *last = arg;
    CHECK(done > last[0] && done <= total);
    last[0] = done;
    last[1] = total;
}

/* Stacks made on the device, layer by layer, equal those that were made here. */
TEST(weights_in_pieces)
{
    NEED_CPU;
    loaded l;
    const mesh meshes[] = { { 1, 1, false, false }, { 1, 2, true, false } };
    for (int k = 0; k < 2; k++) {
        REQUIRE_OK(load(&l, &llama, meshes[k]));
        CHECK_OK(run_steps(&l, &llama, want));
        drop(&l);
        int64_t last[2] = { 0 };
        setenv("SYSTOLIC_HOSTILE", "1", 1);
        memset(&l, 0, sizeof l);
        REQUIRE_OK(decoder_whole(&llama, &l.whole));
        REQUIRE_OK(decoder_graph(&llama, meshes[k], &l.g));
        l.s = decoder_weights(l.whole, DT_F32);
        CHECK_OK(device_load(opened(), l.g, &l.s.base, &limits, note, last, &l.m));
        unsetenv("SYSTOLIC_HOSTILE");
        REQUIRE(l.m);
        CHECK(last[0] == last[1] && last[1] == device_weight_bytes(l.m));
        CHECK_OK(device_kv_resize(l.m, DECODER_BLOCKS));
        CHECK_OK(run_steps(&l, &llama, got));
        compare(&llama, 0);
        drop(&l);
    }
}

/* As they are stored, and as the graph wants them: our values are exact in all types. */
TEST(weights_of_every_type)
{
    NEED_CPU;
    static const dtype stored[] = { DT_BF16, DT_F16, DT_F64 };
    static case_step s;
    loaded l;
    REQUIRE_OK(load(&l, &llama, one));
    CHECK_OK(run_steps(&l, &llama, want));
    drop(&l);
    for (int k = 0; k < 3; k++) {
        memset(&l, 0, sizeof l);
        REQUIRE_OK(decoder_whole(&llama, &l.whole));
        REQUIRE_OK(decoder_graph(&llama, one, &l.g));
        l.s = decoder_weights(l.whole, stored[k]);
        REQUIRE_OK(device_load(opened(), l.g, &l.s.base, &limits, NULL, NULL, &l.m));
        REQUIRE_OK(device_kv_resize(l.m, DECODER_BLOCKS));
        decoder_step(&s, &llama, 0, 0);
        s.b.logits = got[0];
        CHECK_OK(device_run(l.m, &s.b));
        CHECK(memcmp(want[0], got[0], (size_t)s.b.n_rows * VOCAB * sizeof(float)) == 0);
        drop(&l);
    }
}

/* ---- memory ---- */

static int64_t from_status(const char *key)
{
    char line[256];
    int64_t kb = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && kb < 0 && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0) kb = strtoll(line + strlen(key), NULL, 10);
    if (f) fclose(f);
    return kb * 1024;
}

static bool reset_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    bool ok = f && fputs("5", f) >= 0;
    return f && fclose(f) == 0 && ok;
}

/* XLA:CPU's memory is the host's: the weights once, what is read of the checkpoint at a time, and the stage. */
TEST(weights_are_in_memory_once)
{
    NEED_CPU;
#ifdef SYSTOLIC_SANITIZED
    SKIP("sanitizers keep freed memory");
#endif
    static const decoder wide = { .layers = 6, .hidden = 384, .heads = 8, .kv_heads = 2, .head_dim = 4, .mlp = 1536, .vocab = VOCAB };
    loaded l;
    memset(&l, 0, sizeof l);
    REQUIRE(opened());
    if (!reset_peak()) SKIP("the peak cannot be reset here");
    setenv("SYSTOLIC_HOSTILE", "1", 1);
    int64_t before = from_status("VmRSS:");
    CHECK_OK(load_to(&l, opened(), &wide, one, &limits));
    int64_t peak = from_status("VmHWM:") - before;
    unsetenv("SYSTOLIC_HOSTILE");
    REQUIRE(l.m);
    int64_t weights = device_weight_bytes(l.m), layer = 4 * 384 * 1536 * 2;
    printf("  weights %.1f MiB, a layer's largest %.1f MiB, peak %.1f MiB\n", (double)weights / 1048576, (double)layer / 1048576, (double)peak / 1048576);
    CHECK(peak < weights + 6 * layer);
    drop(&l);
}

static status load_and_run(void)
{
    static case_step s;
    loaded l;
    sample_row samples[4] = { greedy(0, 0), greedy(1, 0), greedy(2, 0), greedy(3, 0) };
    int32_t sampled[4];
    TRY(load(&l, &llama, one));
    decoder_step(&s, &llama, 0, 0);
    s.b.logits = got[0];
    s.b.samples = samples;
    s.b.sampled = sampled;
    status st = device_run(l.m, &s.b);
    drop(&l);
    return st;
}

TEST(out_of_memory_is_a_status)
{
    NEED_CPU;
    REQUIRE(opened());
    bool done = false;
    REQUIRE_OK(load_and_run());
    /* The graph's building is tested elsewhere: begin with the load. */
    uint64_t count = mem_count(), first = 1;
    loaded l;
    memset(&l, 0, sizeof l);
    REQUIRE_OK(decoder_whole(&llama, &l.whole));
    REQUIRE_OK(decoder_graph(&llama, one, &l.g));
    first = mem_count() - count + 1;
    drop(&l);
#ifdef SYSTOLIC_SANITIZED
    const uint64_t stride = 7;      /* a load takes ten times as long */
#else
    const uint64_t stride = 1;
#endif
    for (uint64_t n = first; !done && !test_cur_failed; n += stride) {
        int64_t live = mem_live();
        mem_fail_at(n);
        status st = load_and_run();
        done = !mem_failed();
        mem_fail_at(0);
        if (st != (done ? ST_OK : ST_NOMEM)) FAIL("allocation %d: %s (%s)", (int)n, status_name(st), err_msg());
        CHECK_INT(mem_live(), live);
    }
    CHECK(done);
}

/* Last: whoever was lent the device has given it back. */
TEST(closing)
{
    NEED_CPU;
    int64_t live = mem_live();
    REQUIRE(opened());
    device_close(opened());
    CHECK(mem_live() < live || live == 0);
}

TEST_MAIN
