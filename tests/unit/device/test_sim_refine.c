/* Simulations that are refined by a compiler's estimates: what is read of an optimised program, and what a step takes then. */
#include "device/device.h"
#include "device/pjrt/hlo_cost.h"
#include "device/sim/sim.h"
#include "ops/op.h"
#include "tests/unit/device/pjrt/help.h"
#include "tests/unit/device/pjrt/hlo_proto.h"
#include "tests/unit/device/small_graph.h"

/* ---- reading ---- */

enum { DOT = 2 * 64 * 16 * 32 };   /* FLOP */

TEST(loops_are_counted_as_often_as_they_run)
{
    pb m;
    hlo_cost c;
    pb_module(&m, "window_config", "{}");
    REQUIRE_OK(hlo_cost_read(m.d, m.n, true, HLO_SOURCE, strlen(HLO_SOURCE), &c));
    CHECK_NEAR(c.cycles, 1000 + 28 * 100, 0);   /* nothing of the collective, the open loop, attention's kernel */
    CHECK_NEAR(c.start_cycles, 1000 + 28 * 100, 0);
    CHECK_NEAR(c.flops, DOT + 28 * DOT, 0);
    CHECK_NEAR(c.flops_once, 3 * DOT, 0);
    CHECK_NEAR(c.operations, 29, 0);
    CHECK_INT(c.n_loops, 1);
    CHECK_INT(c.n_open, 1);
    CHECK_INT(c.n_unknown, 1);                  /* the quantised product */
    CHECK(!c.bundles);
}

TEST(cycles_of_finished_code_come_first)
{
    pb m;
    hlo_cost c;
    pb_module(&m, "bundle_analysis_data", "{\"window_config\":{\"estimated_cycles\":\"1\"},\"bundle_analysis_data\":{\"estimated_cycles\":\"50\"}}");
    REQUIRE_OK(hlo_cost_read(m.d, m.n, true, HLO_SOURCE, strlen(HLO_SOURCE), &c));
    CHECK_NEAR(c.cycles, 1000 + 28 * 150, 0);
    CHECK_NEAR(c.start_cycles, 0, 0);
    CHECK_INT(c.n_unknown, 0);
    CHECK(c.bundles);
    /* Without the source nobody knows which kernel is which, so all of them stay as they are priced. */
    REQUIRE_OK(hlo_cost_read(m.d, m.n, true, NULL, 0, &c));
    CHECK_NEAR(c.cycles, 1000 + 28 * 100, 0);
}

TEST(damaged_programs_are_refused)
{
    pb m;
    hlo_cost c;
    pb_module(&m, "window_config", "{}");
    for (size_t n = 0; n < m.n; n++) CHECK(hlo_cost_read(m.d, n, true, NULL, 0, &c) == ST_INVALID);
    CHECK_ERR(hlo_cost_read(m.d, m.n, false, NULL, 0, &c), ST_INVALID, "no entry");
    CHECK_EVERY_ALLOCATION(hlo_cost_read(m.d, m.n, true, NULL, 0, &c), (void)0);
    /* A computation that calls itself. */
    pb again = { .n = 0 }, module = { .n = 0 };
    pb_computation(&again, 1, 1, &(hlo_line){ .opcode = "call", .id = 1, .called = { 1 }, .n_called = 1 }, 1);
    pb_int(&again, 6, 1);
    pb_sub(&module, 1, &again);
    CHECK_ERR(hlo_cost_read(module.d, module.n, true, NULL, 0, &c), ST_INVALID, "too deeply");
}

/* ---- steps ---- */

typedef struct priced { graph *g; program_context c; step_costs *s; sim_target t; } priced;

static status price(priced *p)
{
    device_limits l = { .max_tokens = 64, .max_seqs = 8, .max_rows = 8, .max_model_len = 1024, .block_size = 16, .kv_dtype = DT_BF16 };
    *p = (priced){0};
    TRY(sim_target_parse("v6e-1?mxu=1,hbm=1,op_us=2,step_ms=1", &p->t));
    TRY(make(0, 4, &p->g));
    l.attention.chip = p->t.machine.chip;
    TRY(program_context_new(p->g, &l, DT_BF16, &p->c));
    p->c.lower.n_pages = 100;
    return step_costs_new(&p->c, &p->s);
}

static void unprice(priced *p)
{
    step_costs_free(p->s);
    program_context_free(&p->c);
    graph_free(p->g);
}

static double total(const priced *p, const step_load *l, const step_refined *r)
{
    step_time t;
    if (r) step_costs_time_refined(p->s, l, &p->t.machine, r, &t);
    else step_costs_time(p->s, l, &p->t.machine, &t);
    CHECK_NEAR(t.total, t.compute + t.memory + t.links + t.launch, 1e-12);
    return t.total;
}

TEST(cycles_take_the_place_of_what_they_are_of)
{
    priced p;
    REQUIRE_OK(price(&p));
    const step_load near = { .tokens = 8, .seqs = 8, .rows = 8, .reach = { { 8, 8 } } }, far = { .tokens = 8, .seqs = 8, .rows = 8, .reach = { { 4e6, 4e6 } } };
    const double clock = p.t.machine.chip->clock_hz, alone = 4 * 2e-6 + 1e-3;
    step_refined r = { .cycles = 1e6, .flops = -1, .starts = true };
    /* Attention stays: so does what more context costs. The rest is the cycles, and with them the start of all but attention. */
    CHECK_NEAR(total(&p, &far, &r) - total(&p, &near, &r), total(&p, &far, NULL) - total(&p, &near, NULL), 1e-12);
    const double attention = total(&p, &near, &r) - (1e6 / clock + alone);
    CHECK(attention > 0 && attention < 1e-5);
    r.cycles = 2e6;
    CHECK_NEAR(total(&p, &near, &r) - attention, 2e6 / clock + alone, 1e-12);
    /* Finished code knows neither the start of operations nor how slow memory is. */
    r.starts = false;
    CHECK(total(&p, &near, &r) - attention > 2e6 / clock + alone + 4 * 2e-6);
    r.cycles = 1;
    CHECK_NEAR(total(&p, &near, &r), total(&p, &near, NULL), 0.1 * total(&p, &near, NULL));
    /* Products alone change the time that they are priced with. */
    double ours, theirs, flops;
    step_refined products = { .cycles = -1, .flops = 1 };
    const step_load many = { .tokens = 1e6, .seqs = 8, .rows = 1e6 };
    step_costs_compare(p.s, &many, &p.t.machine, &products, &ours, &theirs, &flops);
    CHECK_NEAR(flops, 2.0 * 1e6 * WIDE * (4 * WIDE + VOCAB), 1);
    products.flops = 20 * flops;
    step_costs_compare(p.s, &many, &p.t.machine, &products, &ours, &theirs, &flops);
    CHECK(theirs > 1.5 * ours);
    unprice(&p);
}

/* ---- asking ---- */

static void remove_all(const char *dir)
{
    char command[400];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    CHECK(system(command) == 0);
}

static status ask(const char *mode, const char *cache, priced *p, int bucket, refined_program *out)
{
    sim_refine *r;
    TRY(sim_refine_open(mode, &p->t, cache, &r));
    status st = sim_refine_program(r, &p->c, bucket, p->s, &p->t.machine, out);
    sim_refine_close(r);
    return st;
}

TEST(programs_are_compiled_once_and_kept)
{
    char cache[] = "/tmp/systolic-refine-XXXXXX";
    priced p;
    refined_program first, again, profiled, refused;
    if (NO_PLUGIN || !fake_compiler()) SKIP("no C compiler here, or one whose programs load no plugins");
    REQUIRE(mkdtemp(cache));
    setenv("TPU_LIBRARY_PATH", fake_compiler(), 1);
    REQUIRE_OK(price(&p));
    CHECK_OK(ask("libtpu", cache, &p, 0, &first));
    CHECK(first.known && !first.cached && first.why[0] == 0);
    CHECK_STR(first.name, "decode t8 s8");
    CHECK_NEAR(first.by.cycles, 1000 + 28 * 100, 0);
    CHECK_OK(ask("libtpu", cache, &p, 0, &again));
    CHECK(again.known && again.cached);
    CHECK_NEAR(again.by.cycles, first.by.cycles, 0);
    CHECK_NEAR(again.refined_s, first.refined_s, 0);
    CHECK_NEAR(again.compiler_flops, 196608, 0);
    CHECK_OK(ask("libtpu-static", cache, &p, 0, &profiled));    /* the profiler dies, the program is compiled without */
    CHECK(profiled.known && !profiled.cached && profiled.by.starts);
    CHECK(getenv("LIBTPU_INIT_ARGS") == NULL);
    setenv("FAKE_REFUSES", "module", 1);
    CHECK_OK(ask("libtpu", cache, &p, 1, &refused));
    CHECK(!refused.known && strstr(refused.why, "the program does not fit"));
    unsetenv("FAKE_REFUSES");
    CHECK_ERR(ask("guess", cache, &p, 0, &refused), ST_INVALID, "libtpu or libtpu-static is expected");
    setenv("TPU_LIBRARY_PATH", "/nowhere/libtpu.so", 1);
    CHECK_ERR(ask("libtpu", cache, &p, 0, &refused), ST_NOT_FOUND, "refining the simulation by libtpu");
    unsetenv("TPU_LIBRARY_PATH");
    unprice(&p);
    remove_all(cache);
}

/* libtpu itself, where it is: what it multiplies is what the operations say. */
TEST(libtpu_multiplies_what_the_operations_say)
{
    char cache[] = "/tmp/systolic-refine-XXXXXX";
    priced p;
    refined_program r;
    NEED_TPU;
    REQUIRE(mkdtemp(cache));
    setenv("TPU_LIBRARY_PATH", path, 1);
    REQUIRE_OK(price(&p));
    CHECK_OK(ask("libtpu", cache, &p, 0, &r));
    if (!r.known) FAIL("%s", r.why);
    CHECK_NEAR(r.flops / r.model_flops, 1, 0.01);
    CHECK(r.by.cycles > 0 && r.refined_s > 0.2 * r.model_s && r.refined_s < 5 * r.model_s);
    unprice(&p);
    unsetenv("TPU_LIBRARY_PATH");
    remove_all(cache);
}

TEST_MAIN
