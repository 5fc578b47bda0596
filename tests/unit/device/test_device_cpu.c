/* The CPU device below a model: threads, processors, blocks, weights of every type, and what it refuses. */
#include <stdatomic.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "device/cpu/host.h"
#include "device/cpu/pool.h"
#include "device/device.h"
#include "ops/op.h"
#include "tests/test.h"

/* ---- threads ---- */

typedef struct tally { pool *p; _Atomic int turns; int seen[8]; int wrong; } tally;

static void take_turns(void *arg, int thread)
{
    tally *t = arg;
    for (int i = 0; i < 200; i++) {
        atomic_fetch_add(&t->turns, 1);
        pool_barrier(t->p);
        t->seen[thread] += atomic_load(&t->turns) == (i + 1) * pool_threads(t->p);
        pool_barrier(t->p);
    }
}

TEST(barriers_hold)
{
    for (int n = 1; n <= 8; n += 3) {
        tally t = { 0 };
        REQUIRE_OK(pool_new(n, NULL, &t.p));
        for (int round = 1; round <= 5; round++) {
            atomic_store(&t.turns, 0);
            pool_run(t.p, take_turns, &t);
            for (int i = 0; i < n; i++) CHECK_INT(t.seen[i], 200 * round);
            if (round == 3) nanosleep(&(struct timespec){ 0, 20000000 }, NULL); /* let them fall asleep */
        }
        pool_free(t.p);
    }
}

TEST(idle_threads_sleep)
{
    pool *p;
    struct timespec a, b;
    REQUIRE_OK(pool_new(4, NULL, &p));
    nanosleep(&(struct timespec){ 0, 50000000 }, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    nanosleep(&(struct timespec){ 0, 200000000 }, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    double used = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
    CHECK(used < 0.02);
    pool_free(p);
}

TEST(processors)
{
    host_cpus h;
    REQUIRE_OK(host_pick_cpus(NULL, 0, &h));
    CHECK(h.n >= 1);
    int all = h.n;
    REQUIRE_OK(host_pick_cpus("nobind", 3, &h));
    CHECK(h.n == 3 && !h.pinned);
    REQUIRE_OK(host_pick_cpus("all", 0, &h));
    CHECK_INT(h.n, all);
    char list[64];
    snprintf(list, sizeof list, "%d|99", h.cpu[0]);
    REQUIRE_OK(host_pick_cpus(list, 0, &h));
    CHECK(h.n == 1 && h.pinned);
    CHECK_ERR(host_pick_cpus("0-", 0, &h), ST_INVALID, "VLLM_CPU_OMP_THREADS_BIND='0-'");
    CHECK_ERR(host_pick_cpus("3-1", 0, &h), ST_INVALID, "expected auto");
    CHECK_ERR(host_pick_cpus("99999", 0, &h), ST_INVALID, "expected auto");
    CHECK_ERR(host_pick_cpus("1000-1023", 0, &h), ST_INVALID, "none of these processors");
    CHECK_ERR(host_pick_cpus(NULL, -1, &h), ST_INVALID, "compute threads");
    int64_t total, available;
    host_memory(&total, &available);
    CHECK(total > 0 && available > 0 && available <= total);
}

TEST(devices_by_name)
{
    device *d = NULL;
    device_info info;
    CHECK_ERR(device_open("gpu", NULL, &d), ST_INVALID, "unknown device 'gpu'; devices: cpu");
    CHECK_ERR(device_open("cpu:3", NULL, &d), ST_INVALID, "takes nothing");
    CHECK_ERR(device_open("cpu", &(device_options){ .isa = "sse9" }, &d), ST_INVALID, "available: portable");
    CHECK_ERR(device_open("cpu", &(device_options){ .n_threads = 100000 }, &d), ST_INVALID, "compute threads");
    REQUIRE_OK(device_open("cpu", NULL, &d));
    device_describe(d, &info);
    CHECK_STR(info.platform, "cpu");
    CHECK(strcmp(info.isa, isa_name(isa_best())) == 0 || strcmp(info.isa, "avx512_bf16") == 0 || strcmp(info.isa, "avx512_amx") == 0); /* as measured */
    CHECK(info.name[0] && info.n_threads >= 1 && info.memory_bytes > 0);
    device_close(d);
}

/* ---- a small graph: attention over embeddings ---- */

static const char text[] =
    "%1 = input kind=0 : i32[T]{tokens}\n"
    "%2 = weight role=vocab \"embed\"[0:20/20]vocab : TYPE[20, 16]{vocab, embed}\n"
    "%3 = embed(%1, %2) : f32[T, 16]{tokens, embed}\n"
    "%4 = weight role=repl \"norm\"[0:16/16]embed : TYPE[16]{embed}\n"
    "%5 = rms_norm(%3, %4) eps=1e-05 : f32[T, 16]{tokens, embed}\n"
    "%6 = split_heads(%5) head_dim=8 : f32[T, 2, 8]{tokens, embed, head_dim}\n"
    "%7 = paged_attention(%6, %6, %6) cache=0 scale=0.5 window=0 : f32[T, 2, 8]{tokens, embed, head_dim}\n"
    "%8 = merge_heads(%7) : f32[T, 16]{tokens, embed}\n"
    "%9 = input kind=2 : i32[R]{rows}\n"
    "%10 = gather_rows(%8, %9) : f32[R, 16]{rows, embed}\n"
    "%11 = linear(%10, %2) : f32[R, 20]{rows, vocab}\n"
    "output %11\n";

static status make_graph(const char *type, graph **out)
{
    buf b = { 0 };
    for (const char *p = text; *p;) {
        bool at = strncmp(p, "TYPE", 4) == 0;
        if (at) buf_str(&b, type);
        else buf_char(&b, *p);
        p += at ? 4 : 1;
    }
    status st = buf_status(&b);
    if (st == ST_OK) st = graph_parse(ops_rules(), buf_cstr(&b), b.len, out);
    buf_free(&b);
    return st;
}

typedef struct test_source { weight_source base; dtype type; int bad_shape, live; char data[20 * 16 * 8]; } test_source;

static float value(int i) { return (float)((i * 37) % 101 - 50) / 64 + 1e-4f * (float)(i % 3); }

static status get(const weight_source *s, const char *name, weight_data *out)
{
    test_source *t = (test_source *)(uintptr_t)s;
    bool embed = strcmp(name, "embed") == 0;
    *out = (weight_data){ .type = t->type, .rank = embed ? 2 : 1, .shape = { embed ? 20 : 16 + t->bad_shape, embed ? 16 : 0 }, .values = t->data };
    for (int i = 0; i < 320; i++) {
        float f = embed ? value(i) : 1.0f + value(i) / 8;
        double d = f;
        if (t->type == DT_F64) memcpy(t->data + i * 8, &d, 8);
        else if (t->type == DT_I8) t->data[i] = 1;
        else dtype_from_f32(t->type, &f, t->data + (size_t)i * dtype_bytes(t->type, 1), 1);
    }
    t->live++;
    return ST_OK;
}
static void release(const weight_source *s, const char *name, weight_data *w) { (void)name, (void)w; ((test_source *)(uintptr_t)s)->live--; }
static bool has(const weight_source *s, const char *name) { (void)s, (void)name; return true; }

typedef struct loaded { device *d; graph *g; device_model *m; test_source s; } loaded;

static void drop(loaded *l)
{
    device_unload(l->m);
    graph_free(l->g);
    device_close(l->d);
}

static status open_loaded(loaded *l, const char *graph_type, dtype stored, dtype kv)
{
    memset(l, 0, sizeof *l);
    l->s.base = (weight_source){ get, release, has, NULL, NULL };
    l->s.type = stored;
    status st = make_graph(graph_type, &l->g);
    if (st == ST_OK) st = device_open("cpu", &(device_options){ .n_threads = 2, .isa = isa_name(isa_best()) }, &l->d);
    if (st == ST_OK) st = device_load(l->d, l->g, &l->s.base, &(device_limits){ 8, 2, 8, 64, 4, kv, { 0 }, 0, false }, NULL, NULL, &l->m);
    if (st == ST_OK) st = device_kv_resize(l->m, 10);
    if (st != ST_OK) {
        drop(l);
        memset(l, 0, sizeof *l);
    }
    return st;
}

static const int32_t ids[] = { 3, 19, 0, 7, 7, 1 }, pos[] = { 0, 1, 2, 3, 4, 5 }, cu[] = { 0, 6 }, lens[] = { 6 }, pages[] = { 5, 2 },
                     slots[] = { 20, 21, 22, 23, 8, 9 }, rows[] = { 2, 5 };
static batch make_batch(float *logits)
{
    return (batch){ .n_tokens = 6, .n_seqs = 1, .n_rows = 2, .token_ids = ids, .positions = pos, .cu_q_lens = cu, .kv_lens = lens, .page_table = pages, .max_pages = 2,
                    .slots = slots, .rows = rows, .logits = logits };
}

static status logits_of(const char *graph_type, dtype stored, float out[40], int64_t *bytes)
{
    loaded l;
    TRY(open_loaded(&l, graph_type, stored, DT_F32));
    batch b = make_batch(out);
    status st = device_run(l.m, &b);
    if (bytes) *bytes = device_weight_bytes(l.m);
    if (st == ST_OK && l.s.live != 0) st = err_set(ST_INTERNAL, "%d weights were not released", l.s.live);
    drop(&l);
    return st;
}

/* Stored wider than wanted: rounded. Stored narrower than float32: kept as it is, with the same results as float32. */
TEST(weights_of_every_type)
{
    float f32[40], bf16[40], rounded[40], f16[40], f64[40];
    int64_t wide, narrow;
    REQUIRE_OK(logits_of("f32", DT_F32, f32, &wide));
    REQUIRE_OK(logits_of("f32", DT_BF16, bf16, &narrow));
    REQUIRE_OK(logits_of("bf16", DT_F32, rounded, NULL));
    REQUIRE_OK(logits_of("f16", DT_F32, f16, NULL));
    REQUIRE_OK(logits_of("f32", DT_F64, f64, NULL));
    CHECK(narrow < wide);
    CHECK(memcmp(bf16, rounded, sizeof bf16) == 0);
    CHECK(memcmp(f32, f64, sizeof f32) == 0);
    CHECK(memcmp(f32, bf16, sizeof f32) != 0 && memcmp(f32, f16, sizeof f32) != 0);
    for (int i = 0; i < 40; i++) {
        CHECK_NEAR(bf16[i], f32[i], 0.05);
        CHECK_NEAR(f16[i], f32[i], 0.01);
    }
    CHECK_ERR(logits_of("f32", DT_I8, f32, NULL), ST_UNSUPPORTED, "tensor embed is i8");
}

/* ---- a large weight ---- */

enum { BIG_ROWS = 20000, BIG_COLS = 1024 };
static const char big_text[] =
    "%1 = input kind=0 : i32[T]{tokens}\n"
    "%2 = weight role=vocab \"embed\"[0:20000/20000]vocab : bf16[20000, 1024]{vocab, embed}\n"
    "%3 = embed(%1, %2) : f32[T, 1024]{tokens, embed}\n"
    "%4 = input kind=2 : i32[R]{rows}\n"
    "%5 = gather_rows(%3, %4) : f32[R, 1024]{rows, embed}\n"
    "%6 = linear(%5, %2) : f32[R, 20000]{rows, vocab}\n"
    "output %6\n";

static struct { uint16_t *values; size_t dropped; int drops; bool gap; } big;

static status get_big(const weight_source *s, const char *name, weight_data *out)
{
    (void)s, (void)name;
    for (size_t i = 0; i < (size_t)BIG_ROWS * BIG_COLS; i++) big.values[i] = (uint16_t)(0x3C00 + i % 211 + i / BIG_COLS % 7 * 16);
    *out = (weight_data){ .type = DT_BF16, .rank = 2, .shape = { BIG_ROWS, BIG_COLS }, .values = big.values };
    return ST_OK;
}
static void release_big(const weight_source *s, const char *name, weight_data *w) { (void)s, (void)name, (void)w; }
static void drop_big(const weight_source *s, const weight_data *w, size_t from, size_t to)
{
    (void)s, (void)w;
    big.gap |= from != big.dropped || to <= from;
    big.dropped = to;
    big.drops++;
    memset((char *)big.values + from, 0xFF, to - from); /* NaN, should anybody read it again */
}

static status run_big(bool drops, float *logits)
{
    weight_source s = { get_big, release_big, has, NULL, drops ? drop_big : NULL };
    graph *g = NULL;
    device *d = NULL;
    device_model *m = NULL;
    status st = graph_parse(ops_rules(), big_text, sizeof big_text - 1, &g);
    if (st == ST_OK) st = device_open("cpu", &(device_options){ .n_threads = 2, .isa = isa_name(isa_best()) }, &d);
    if (st == ST_OK) st = device_load(d, g, &s, &(device_limits){ 8, 2, 8, 64, 4, DT_F32, { 0 }, 0, false }, NULL, NULL, &m);
    if (st == ST_OK) st = device_kv_resize(m, 10);
    batch b = make_batch(logits);
    if (st == ST_OK) st = device_run(m, &b);
    device_unload(m);
    graph_free(g);
    if (d) device_close(d);
    return st;
}

TEST(large_weights_are_dropped_while_they_are_packed)
{
    big.values = malloc((size_t)BIG_ROWS * BIG_COLS * 2);
    float *kept = calloc(2 * BIG_ROWS, sizeof *kept), *dropped = calloc(2 * BIG_ROWS, sizeof *dropped);
    REQUIRE_OK(run_big(false, kept));
    CHECK_INT(big.drops, 0);
    REQUIRE_OK(run_big(true, dropped));
    CHECK(big.drops > 1 && !big.gap);
    CHECK_INT(big.dropped, (size_t)BIG_ROWS * BIG_COLS * 2);
    CHECK(memcmp(kept, dropped, 2 * BIG_ROWS * sizeof *kept) == 0);
    free(big.values);
    free(kept);
    free(dropped);
}

TEST(bad_weights_and_limits)
{
    loaded l;
    memset(&l, 0, sizeof l);
    l.s = (test_source){ .base = { get, release, has }, .type = DT_F32, .bad_shape = 1 };
    device_limits good = { 8, 2, 8, 64, 4, DT_F32, { 0 }, 0, false }, bad = good;
    REQUIRE_OK(make_graph("f32", &l.g));
    REQUIRE_OK(device_open("cpu", NULL, &l.d));
    CHECK_ERR(device_load(l.d, l.g, &l.s.base, &good, NULL, NULL, &l.m), ST_INVALID, "tensor norm is f32[17], expected f32[16]");
    CHECK_INT(l.s.live, 0);
    bad.block_size = 0;
    CHECK_ERR(device_load(l.d, l.g, &l.s.base, &bad, NULL, NULL, &l.m), ST_INVALID, "block_size is 0");
    bad = good;
    bad.kv_dtype = DT_I16;
    CHECK_ERR(device_load(l.d, l.g, &l.s.base, &bad, NULL, NULL, &l.m), ST_UNSUPPORTED, "KV cache of i16");
    graph_free(l.g);
    static const char two[] = "mesh dp=1 tp=2 sp=0\n%1 = input kind=0 : i32[T]{tokens}\n%2 = weight role=vocab \"embed\"[0:20/20]vocab/2 : f32[10, 16]{vocab, embed}\n"
                              "%3 = embed(%1, %2) shards=2 : f32[T, 16]{tokens, embed}\n%4 = all_reduce(%3) : f32[T, 16]{tokens, embed}\noutput %4\n";
    REQUIRE_OK(graph_parse(ops_rules(), two, sizeof two - 1, &l.g));
    CHECK_ERR(device_load(l.d, l.g, &l.s.base, &good, NULL, NULL, &l.m), ST_UNSUPPORTED, "no tensor parallelism (size 2)");
    drop(&l);
}

TEST(broken_batches_are_refused)
{
    loaded l;
    float out[40];
    REQUIRE_OK(open_loaded(&l, "f32", DT_F32, DT_F32));
    batch b = make_batch(out);
    int32_t bad_ids[] = { 3, 20, 0, 7, 7, 1 }, bad_pages[] = { 5, 10 }, bad_slots[] = { 20, 21, 22, 23, 8, 40 }, bad_rows[] = { 2, 6 }, bad_cu[] = { 0, 5 }, bad_lens[] = { 65 };
    CHECK_OK(device_run(l.m, &b));
    b.token_ids = bad_ids;
    CHECK_ERR(device_run(l.m, &b), ST_INVALID, "token_ids[1] is 20, expected 0 to 19");
    b = make_batch(out), b.page_table = bad_pages;
    CHECK_ERR(device_run(l.m, &b), ST_INVALID, "page_table[1] is 10");
    b = make_batch(out), b.slots = bad_slots;
    CHECK_ERR(device_run(l.m, &b), ST_INVALID, "slots[5] is 40");
    b = make_batch(out), b.rows = bad_rows;
    CHECK_ERR(device_run(l.m, &b), ST_INVALID, "rows[1] is 6");
    b = make_batch(out), b.cu_q_lens = bad_cu;
    CHECK_ERR(device_run(l.m, &b), ST_INVALID, "cu_q_lens");
    b = make_batch(out), b.kv_lens = bad_lens;
    CHECK_ERR(device_run(l.m, &b), ST_INVALID, "65");
    b = make_batch(out), b.n_tokens = 9;
    CHECK_ERR(device_run(l.m, &b), ST_INVALID, "planned for 8");
    drop(&l);
}

/* A block copied out, wiped and copied in elsewhere gives the same continuation. */
TEST(blocks_travel)
{
    loaded l;
    float before[40], after[40];
    int32_t moved[] = { 7, 2 }, one_cu[] = { 0, 1 }, row[] = { 0 };
    REQUIRE_OK(open_loaded(&l, "f32", DT_F32, DT_BF16));
    int64_t bytes = device_kv_block_bytes(l.m);
    char *block = mem_alloc((size_t)bytes), *zero = mem_calloc(1, (size_t)bytes);
    batch b = make_batch(before);
    REQUIRE_OK(device_run(l.m, &b));
    CHECK_OK(device_kv_read(l.m, 5, block));
    CHECK_OK(device_kv_write(l.m, 5, zero));
    CHECK_OK(device_kv_write(l.m, 7, block));
    batch again = { .n_tokens = 1, .n_seqs = 1, .n_rows = 1, .token_ids = ids + 5, .positions = pos + 5, .cu_q_lens = one_cu, .kv_lens = lens, .page_table = moved,
                    .max_pages = 2, .slots = slots + 5, .rows = row, .logits = after };
    CHECK_OK(device_run(l.m, &again));
    CHECK(memcmp(before + 20, after, 20 * sizeof(float)) == 0);
    CHECK_ERR(device_kv_read(l.m, 10, block), ST_INVALID, "KV block 10, expected 0 to 9");
    CHECK_ERR(device_kv_write(l.m, -1, block), ST_INVALID, "KV block -1");
    mem_free(block);
    mem_free(zero);
    drop(&l);
}

TEST(out_of_memory_is_a_status)
{
    bool done = false;
    for (uint64_t n = 1; !done && n < 10000; n++) {
        int64_t live = mem_live();
        loaded l;
        mem_fail_at(n);
        status st = open_loaded(&l, "bf16", DT_F32, DT_F32);
        done = !mem_failed();
        mem_fail_at(0);
        CHECK(st == (done ? ST_OK : ST_NOMEM));
        if (st == ST_OK) drop(&l);
        CHECK_INT(mem_live(), live);
    }
    CHECK(done);
}

TEST_MAIN
