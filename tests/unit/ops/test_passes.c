/* Passes by their printed result, printing and parsing, and what the grammar refuses. */
#include "base/mem.h"
#include "graph/passes.h"
#include "ops/op.h"
#include "tests/test.h"

static const char source[] =
    "# one layer of attention-free llama, by hand\n"
    "%1 = input kind=0 : i32[T]{tokens}\n"
    "%2 = weight role=vocab \"embed\"[0:50/50]vocab : bf16[50, 8]{vocab, embed}\n"
    "%3 = embed(%1, %2) : f32[T, 8]{tokens, embed}\n"
    "%4 = weight role=repl \"norm\"[0:8/8]embed : bf16[8]{embed} @0\n"
    "%5 = rms_norm(%3, %4) eps=1e-05 : f32[T, 8]{tokens, embed} @0\n"
    "%6 = weight role=col \"gate\"[0:12/12]mlp : bf16[12, 8]{mlp, embed} @0\n"
    "%7 = linear(%5, %6) : f32[T, 12]{tokens, mlp} @0\n"
    "%8 = weight role=col \"up\"[0:12/12]mlp : bf16[12, 8]{mlp, embed} @0\n"
    "%9 = linear(%5, %8) : f32[T, 12]{tokens, mlp} @0\n"
    "%10 = glu(%7, %9) : f32[T, 12]{tokens, mlp} @0\n"
    "%11 = weight role=row \"down\"[0:8/8]embed : bf16[8, 12]{embed, mlp} @0\n"
    "%12 = linear(%10, %11) : f32[T, 8]{tokens, embed} @0\n"
    "%13 = add(%3, %12) : f32[T, 8]{tokens, embed} @0\n"
    "%14 = input kind=2 : i32[R]{rows}\n"
    "%15 = gather_rows(%13, %14) : f32[R, 8]{rows, embed}\n"
    "%16 = linear(%15, %2) : f32[R, 50]{rows, vocab}\n"
    "output %16\n";

static status parse(const char *text, graph **out) { return graph_parse(ops_rules(), text, strlen(text), out); }

static void expect_print(const graph *g, const char *want)
{
    buf b = { 0 };
    CHECK_OK(graph_print(g, &b));
    CHECK_STR(buf_cstr(&b), want);
    buf_free(&b);
}

TEST(print_and_parse_agree)
{
    graph *g, *again;
    buf b = { 0 };
    REQUIRE_OK(parse(source, &g));
    expect_print(g, strchr(source, '\n') + 1);
    CHECK_OK(graph_print(g, &b));
    REQUIRE_OK(parse(buf_cstr(&b), &again));
    expect_print(again, buf_cstr(&b));
    buf_free(&b);
    graph_free(g);
    graph_free(again);
}

TEST(fused_linears)
{
    graph *g, *f;
    REQUIRE_OK(parse(source, &g));
    REQUIRE_OK(graph_optimize(g, &f));
    expect_print(f,
        "%1 = input kind=2 : i32[R]{rows}\n"
        "%2 = input kind=0 : i32[T]{tokens}\n"
        "%3 = weight role=vocab \"embed\"[0:50/50]vocab : bf16[50, 8]{vocab, embed}\n"
        "%4 = embed(%2, %3) : f32[T, 8]{tokens, embed}\n"
        "%5 = weight role=repl \"norm\"[0:8/8]embed : bf16[8]{embed} @0\n"
        "%6 = gather_rows(%4, %1) : f32[R, 8]{rows, embed} @0\n"
        "%7 = rms_norm(%6, %5) eps=1e-05 : f32[R, 8]{rows, embed} @0\n"
        "%8 = weight role=col \"gate\"[0:12/12]mlp \"up\"[0:12/12]mlp : bf16[24, 8]{mlp, embed} @0\n"
        "%9 = linear(%7, %8) : f32[R, 24]{rows, mlp} @0\n"
        "%10 = slice(%9) from=0 to=12 : f32[R, 12]{rows, mlp} @0\n"
        "%11 = slice(%9) from=12 to=24 : f32[R, 12]{rows, mlp} @0\n"
        "%12 = glu(%10, %11) : f32[R, 12]{rows, mlp} @0\n"
        "%13 = weight role=row \"down\"[0:8/8]embed : bf16[8, 12]{embed, mlp} @0\n"
        "%14 = linear(%12, %13, _, %6) : f32[R, 8]{rows, embed} @0\n"
        "%15 = linear(%14, %3) : f32[R, 50]{rows, vocab}\n"
        "output %15\n");
    graph_free(g);
    graph_free(f);
}

TEST(mixed_parts_keep_their_axes)
{
    static const char text[] =
        "%1 = input kind=3 : f32[T, 8]{tokens, embed}\n"
        "%2 = weight role=col \"q\"[0:8/8]heads : f32[8, 8]{heads, embed}\n"
        "%3 = weight role=repl \"qb\"[0:8/8]heads : f32[8]{heads}\n"
        "%4 = linear(%1, %2, %3) : f32[T, 8]{tokens, heads}\n"
        "%5 = weight role=col \"k\"[0:4/4]kv_heads : f32[4, 8]{kv_heads, embed}\n"
        "%6 = weight role=repl \"kb\"[0:4/4]kv_heads : f32[4]{kv_heads}\n"
        "%7 = linear(%1, %5, %6) : f32[T, 4]{tokens, kv_heads}\n"
        "%8 = slice(%4) from=0 to=4 : f32[T, 4]{tokens, heads}\n"
        "%9 = rms_norm(%7, %6) eps=0.0 : f32[T, 4]{tokens, kv_heads}\n"
        "%10 = split_heads(%8) head_dim=2 : f32[T, 2, 2]{tokens, heads, head_dim}\n"
        "%11 = split_heads(%9) head_dim=2 : f32[T, 2, 2]{tokens, kv_heads, head_dim}\n"
        "%12 = paged_attention(%10, %11, %11) cache=0 scale=0.5 window=7 : f32[T, 2, 2]{tokens, heads, head_dim}\n"
        "output %12\n";
    graph *g, *f;
    REQUIRE_OK(parse(text, &g));
    REQUIRE_OK(graph_fuse_linears(g, &f));
    const node *fused = NULL;
    for (int id = 1; id <= graph_n_nodes(f); id++) {
        const node *n = graph_at(f, id);
        if (n->op == OP_LINEAR) fused = n;
        if (n->op == OP_SLICE && n->a.slice.from == 8) CHECK_INT(n->s.axes[1], AX_KV_HEADS);
    }
    REQUIRE(fused && fused->n_in == 3);
    CHECK_INT(fused->s.axes[1], AX_MIXED);
    CHECK_INT(graph_node(f, fused->in[2])->a.weight.n_parts, 2);
    graph_free(g);
    graph_free(f);
}

/* What passes make computes the same: by the reference, to the last bit where sums keep their order. */
static void fill(void *arg, const node *n, float *dst)
{
    (void)arg;
    const char *name = n->op == OP_WEIGHT ? n->a.weight.parts[0].name : "";
    int64_t at = 0;
    for (int64_t p = 0; n->op == OP_WEIGHT && p < n->a.weight.n_parts; p++) {
        name = n->a.weight.parts[p].name;
        int64_t count = (n->a.weight.parts[p].to - n->a.weight.parts[p].from) * shape_cols(&n->s);
        for (int64_t i = 0; i < count; i++) dst[at++] = (float)((i * 37 + name[0] * 11) % 29 - 14) / 16;
    }
}

TEST(passes_change_no_result)
{
    graph *g, *f;
    int32_t ids[] = { 3, 49, 0, 7 }, rows[] = { 1, 3 };
    float want[2 * 50], got[2 * 50];
    batch b = { .n_tokens = 4, .n_seqs = 1, .n_rows = 2, .token_ids = ids, .rows = rows };
    REQUIRE_OK(parse(source, &g));
    REQUIRE_OK(graph_optimize(g, &f));
    REQUIRE_OK(ref_run(g, fill, NULL, &b, NULL, 16, want));
    REQUIRE_OK(ref_run(f, fill, NULL, &b, NULL, 16, got));
    for (int i = 0; i < 100; i++) CHECK_NEAR(got[i], want[i], 1e-5);
    graph_free(g);
    graph_free(f);
}

TEST(bad_text_names_line_and_wish)
{
    static const struct { const char *text, *message; status st; } cases[] = {
        { "", "line 1: expected %", ST_INVALID },
        { "%1 = dance(%1) : f32[1]{none}\noutput %1\n", "line 1: expected an operation", ST_INVALID },
        { "%1 = input kind=0 : i32[T]{tokens}\n\n%3 = input kind=1 : i32[T]{tokens}\n", "line 3: expected the next number", ST_INVALID },
        { "%1 = input kind=0 : i32[T]{tokens}\n%2 = slice(%9) from=0 to=1 : i32[T]{tokens}\n", "expected a tensor that exists", ST_INVALID },
        { "%1 = input kind=0 : i32[T{tokens}\n", "expected ]", ST_INVALID },
        { "%1 = weight role=col \"a[0:1/1]embed : f32[1]{embed}\n", "a closing quote", ST_INVALID },
        { "%1 = input kind=0 : i32[T]{tokens}\noutput %1\n", "the output is not computed", ST_INTERNAL },
        { "%1 = input kind=9 : i32[T]{tokens}\noutput %1\n", "unknown kind", ST_INTERNAL },
        { "%1 = weight role=col \"a\"[0:2/1]embed : f32[2]{embed}\noutput %1\n", "rows 0 to 2 of 1", ST_INTERNAL },
        { "%1 = weight role=col \"a\"[0:2/2]embed : f32[3]{embed}\noutput %1\n", "parts have 2 rows, the weight 3", ST_INTERNAL },
        { "%1 = input kind=3 : f32[T, 8]{tokens, embed}\n%2 = slice(%1) from=4 to=9 : f32[T, 5]{tokens, embed}\n", "columns 4 to 9 of 8", ST_INTERNAL },
        { "%1 = input kind=3 : f32[T, 8]{tokens, embed}\n%2 = slice(%1) from=4 to=8 : f32[T, 5]{tokens, embed}\n", "expected the inferred shape", ST_INVALID },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        graph *g = NULL;
        CHECK_ERR(parse(cases[i].text, &g), cases[i].st, cases[i].message);
    }
}

TEST(builder_errors_stick)
{
    graph *g;
    REQUIRE_OK(graph_new(ops_rules(), &g));
    tensor x = case_input(g, DIM_T, 8, AX_EMBED);
    tensor bad = graph_add(g, OP_LINEAR, (tensor[]){ x, case_weight(g, "w", DT_F32, 4, 9) }, 2, NULL);
    CHECK_INT(bad.id, 0);
    CHECK_INT(graph_add(g, OP_ADD, (tensor[]){ bad, x }, 2, NULL).id, 0);
    CHECK_INT(case_input(g, DIM_T, 9, AX_EMBED).id, 0);
    CHECK_ERR(graph_finish(g, bad), ST_INTERNAL, "linear: x is f32[T, 8], the weight f32[4, 9]: inner dimensions differ");
    graph_free(g);
}

TEST(every_case_of_every_op_round_trips)
{
    for (op o = 1; o < OP_COUNT; o++)
        for (int i = 0; op_impl_of(o)->build_case; i++) {
            graph *g, *again = NULL;
            buf b = { 0 };
            REQUIRE_OK(graph_new(ops_rules(), &g));
            tensor t = op_impl_of(o)->build_case(g, i, DT_BF16);
            if (!t.id) { graph_free(g); break; }
            REQUIRE_OK(graph_finish(g, t));
            REQUIRE_OK(graph_print(g, &b));
            CHECK_OK(parse(buf_cstr(&b), &again));
            if (again) expect_print(again, buf_cstr(&b));
            buf_free(&b);
            graph_free(g);
            graph_free(again);
        }
}

TEST(out_of_memory_is_a_status)
{
    bool done = false;
    for (uint64_t n = 1; !done && n < 10000; n++) {
        int64_t live = mem_live();
        graph *g = NULL, *f = NULL;
        buf b = { 0 };
        mem_fail_at(n);
        status st = parse(source, &g);
        if (st == ST_OK) st = graph_optimize(g, &f);
        if (st == ST_OK) st = graph_print(f, &b);
        done = !mem_failed();
        mem_fail_at(0);
        CHECK(st == (done ? ST_OK : ST_NOMEM));
        buf_free(&b);
        graph_free(g);
        graph_free(f);
        CHECK_INT(mem_live(), live);
    }
    CHECK(done);
}

TEST_MAIN
