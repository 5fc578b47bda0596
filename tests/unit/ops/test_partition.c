/* Partitioned graphs: their text, what each rank holds, the collectives they need, what does not divide; and, with all ranks
 * played one after the other on the reference, that they compute what the whole graph does. */
#include "base/mem.h"
#include "graph/partition.h"
#include "graph/passes.h"
#include "ops/op.h"
#include "tests/test.h"

/* ---- decoders to cut: Llama's layer, with what its relatives add ---- */

typedef struct decoder { int layers, hidden, heads, kv_heads, head_dim, mlp, vocab; bool qk_norm, bias, row_bias, tied; } decoder;

static const decoder llama = { .layers = 3, .hidden = 32, .heads = 8, .kv_heads = 2, .head_dim = 4, .mlp = 48, .vocab = 50 };
static const decoder qwen3 = { .layers = 2, .hidden = 24, .heads = 8, .kv_heads = 8, .head_dim = 6, .mlp = 40, .vocab = 64, .qk_norm = true, .tied = true };
static const decoder one_kv = { .layers = 2, .hidden = 16, .heads = 8, .kv_heads = 1, .head_dim = 4, .mlp = 8, .vocab = 11 };
static const decoder biased = { .layers = 2, .hidden = 20, .heads = 8, .kv_heads = 4, .head_dim = 2, .mlp = 16, .vocab = 9, .bias = true, .row_bias = true };

static tensor weight(graph *g, int l, weight_role role, const char *name, axis out, int64_t rows, axis in, int64_t cols)
{
    char full[64];
    if (l >= 0) snprintf(full, sizeof full, "%d.%s", l, name);
    else snprintf(full, sizeof full, "%s", name);
    graph_set_layer(g, l);
    shape s = { DT_F32, cols ? 2 : 1, { rows, cols }, { out, in } };
    return graph_weight(g, role, &s, &(weight_part){ full, 0, rows, rows, out, 0, 0 }, 1);
}

static tensor linear(graph *g, int l, tensor x, weight_role role, const char *name, axis out, int64_t rows, bool bias)
{
    shape s = graph_node(g, x)->s;
    char bias_name[32];
    snprintf(bias_name, sizeof bias_name, "%s.bias", name);
    tensor in[] = { x, weight(g, l, role, name, out, rows, s.axes[1], s.dim[1]), NO_TENSOR };
    if (bias) in[2] = weight(g, l, role, bias_name, out, rows, AX_NONE, 0);
    return graph_add(g, OP_LINEAR, in, 3, NULL);
}

static tensor norm(graph *g, int l, tensor x, const char *name)
{
    const shape *s = &graph_node(g, x)->s;
    int last = s->rank ? s->rank - 1 : 0;   /* 0: memory ran out */
    tensor in[] = { x, weight(g, l, ROLE_REPL, name, s->axes[last], s->dim[last], AX_NONE, 0) };
    return graph_add(g, OP_RMS_NORM, in, 2, &(op_attrs){ .rms_norm = { 1e-5 } });
}

static tensor one(graph *g, op o, tensor x, int64_t number) { return graph_add(g, o, &x, 1, &(op_attrs){ .split_heads = { number } }); }
static tensor two(graph *g, op o, tensor x, tensor y) { return graph_add(g, o, (tensor[]){ x, y }, 2, NULL); }

static tensor layer(graph *g, const decoder *d, int l, tensor x, tensor table)
{
    tensor y = norm(g, l, x, "in"), q, k, v;
    q = one(g, OP_SPLIT_HEADS, linear(g, l, y, ROLE_COL, "q", AX_HEADS, d->heads * d->head_dim, d->bias), d->head_dim);
    k = one(g, OP_SPLIT_HEADS, linear(g, l, y, ROLE_COL, "k", AX_KV_HEADS, d->kv_heads * d->head_dim, d->bias), d->head_dim);
    v = one(g, OP_SPLIT_HEADS, linear(g, l, y, ROLE_COL, "v", AX_KV_HEADS, d->kv_heads * d->head_dim, d->bias), d->head_dim);
    if (d->qk_norm) q = norm(g, l, q, "qn"), k = norm(g, l, k, "kn");
    tensor in[] = { two(g, OP_ROPE, q, table), two(g, OP_ROPE, k, table), v };
    y = graph_add(g, OP_PAGED_ATTENTION, in, 3, &(op_attrs){ .paged_attention = { .cache = l, .scale = 0.5, .window = 0 } });
    y = linear(g, l, graph_add(g, OP_MERGE_HEADS, &y, 1, NULL), ROLE_ROW, "o", AX_EMBED, d->hidden, d->row_bias);
    x = two(g, OP_ADD, x, y);
    y = norm(g, l, x, "post");
    tensor gate = linear(g, l, y, ROLE_COL, "gate", AX_MLP, d->mlp, d->bias), up = linear(g, l, y, ROLE_COL, "up", AX_MLP, d->mlp, d->bias);
    return two(g, OP_ADD, x, linear(g, l, two(g, OP_GLU, gate, up), ROLE_ROW, "down", AX_EMBED, d->hidden, d->row_bias));
}

static status build(const decoder *d, graph **out)
{
    static const float freq[] = { 1, 0.3f }, scale[] = { 1 };
    graph *g;
    TRY(graph_new(ops_rules(), &g));
    tensor ids = case_ints(g, IN_TOKENS), pos = case_ints(g, IN_POSITIONS), rows = case_ints(g, IN_ROWS);
    tensor table = graph_add(g, OP_ROPE_TABLE, &pos, 1, &(op_attrs){ .rope_table = { { 1, scale }, { d->head_dim / 2 < 2 ? 1 : 2, freq } } });
    tensor x = two(g, OP_EMBED, ids, weight(g, -1, ROLE_VOCAB, "embed", AX_VOCAB, d->vocab, AX_EMBED, d->hidden));
    for (int l = 0; l < d->layers; l++) x = layer(g, d, l, x, table);
    graph_set_layer(g, -1);
    x = two(g, OP_GATHER_ROWS, norm(g, -1, x, "norm"), rows);
    status st = graph_finish(g, linear(g, -1, x, ROLE_VOCAB, d->tied ? "embed" : "head", AX_VOCAB, d->vocab, false));
    if (st == ST_OK) *out = g;
    else graph_free(g);
    return st;
}

/* Partitioned and optimized: 0 not at all, 1 for one program, 2 for a loop over layers. */
static status cut(const decoder *d, mesh m, int optimize, graph **out)
{
    graph *whole = NULL, *parts = NULL;
    status st = build(d, &whole);
    if (st == ST_OK) st = graph_partition(whole, m, &parts);
    graph_free(whole);
    if (st == ST_OK && optimize) {
        graph *fused = NULL;
        st = optimize == 2 ? graph_optimize_uniform(parts, &fused) : graph_optimize(parts, &fused);
        graph_free(parts);
        parts = fused;
    }
    if (st == ST_OK) *out = parts;
    return st;
}

static int count(const graph *g, op o)
{
    int n = 0;
    for (int id = 1; id <= graph_n_nodes(g); id++) n += graph_at(g, id)->op == o;
    return n;
}

static void expect_print(const graph *g, const char *want)
{
    graph *again = NULL;
    buf b = { 0 }, c = { 0 };
    CHECK_OK(graph_print(g, &b));
    CHECK_STR(buf_cstr(&b), want);
    CHECK_OK(graph_parse(ops_rules(), buf_cstr(&b), b.len, &again));
    if (again) CHECK_OK(graph_print(again, &c));
    CHECK_STR(buf_cstr(&c), want);
    buf_free(&b);
    buf_free(&c);
    graph_free(again);
}

/* ---- text ---- */

/* Padded vocabulary, one KV head copied, biases after the sums. */
static const decoder small = { .layers = 1, .hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 2, .mlp = 6, .vocab = 5, .row_bias = true };

TEST(text_of_two_ranks)
{
    graph *g;
    REQUIRE_OK(cut(&small, (mesh){ 1, 2, false, false }, 0, &g));
    expect_print(g,
        "mesh dp=1 tp=2 sp=0\n"
        "%1 = input kind=0 : i32[T]{tokens}\n"
        "%2 = input kind=1 : i32[T]{tokens}\n"
        "%3 = input kind=2 : i32[R]{rows}\n"
        "%4 = rope_table(%2) scale=[1] inv_freq=[1] : f32[T, 2]{tokens, rope}\n"
        "%5 = weight role=vocab \"embed\"[0:5/5]vocab/2 : f32[3, 8]{vocab, embed}\n"
        "%6 = embed(%1, %5) shards=2 : f32[T, 8]{tokens, embed}\n"
        "%7 = all_reduce(%6) : f32[T, 8]{tokens, embed}\n"
        "%8 = weight role=repl \"0.in\"[0:8/8]embed : f32[8]{embed} @0\n"
        "%9 = rms_norm(%7, %8) eps=1e-05 : f32[T, 8]{tokens, embed} @0\n"
        "%10 = weight role=col \"0.q\"[0:4/4]heads/2 : f32[2, 8]{heads, embed} @0\n"
        "%11 = linear(%9, %10) : f32[T, 2]{tokens, heads} @0\n"
        "%12 = split_heads(%11) head_dim=2 : f32[T, 1, 2]{tokens, heads, head_dim} @0\n"
        "%13 = weight role=col \"0.k\"[0:2/2]kv_heads : f32[2, 8]{kv_heads, embed} @0\n"
        "%14 = linear(%9, %13) : f32[T, 2]{tokens, kv_heads} @0\n"
        "%15 = split_heads(%14) head_dim=2 : f32[T, 1, 2]{tokens, kv_heads, head_dim} @0\n"
        "%16 = weight role=col \"0.v\"[0:2/2]kv_heads : f32[2, 8]{kv_heads, embed} @0\n"
        "%17 = linear(%9, %16) : f32[T, 2]{tokens, kv_heads} @0\n"
        "%18 = split_heads(%17) head_dim=2 : f32[T, 1, 2]{tokens, kv_heads, head_dim} @0\n"
        "%19 = rope(%12, %4) : f32[T, 1, 2]{tokens, heads, head_dim} @0\n"
        "%20 = rope(%15, %4) : f32[T, 1, 2]{tokens, kv_heads, head_dim} @0\n"
        "%21 = paged_attention(%19, %20, %18) cache=0 scale=0.5 window=0 : f32[T, 1, 2]{tokens, heads, head_dim} @0\n"
        "%22 = merge_heads(%21) : f32[T, 2]{tokens, heads} @0\n"
        "%23 = weight role=row \"0.o\"[0:8/8]embed cols/2 : f32[8, 2]{embed, heads} @0\n"
        "%24 = linear(%22, %23) : f32[T, 8]{tokens, embed} @0\n"
        "%25 = all_reduce(%24) : f32[T, 8]{tokens, embed} @0\n"
        "%26 = weight role=row \"0.o.bias\"[0:8/8]embed : f32[8]{embed} @0\n"
        "%27 = add(%25, %26) : f32[T, 8]{tokens, embed} @0\n"
        "%28 = add(%7, %27) : f32[T, 8]{tokens, embed} @0\n"
        "%29 = weight role=repl \"0.post\"[0:8/8]embed : f32[8]{embed} @0\n"
        "%30 = rms_norm(%28, %29) eps=1e-05 : f32[T, 8]{tokens, embed} @0\n"
        "%31 = weight role=col \"0.gate\"[0:6/6]mlp/2 : f32[3, 8]{mlp, embed} @0\n"
        "%32 = linear(%30, %31) : f32[T, 3]{tokens, mlp} @0\n"
        "%33 = weight role=col \"0.up\"[0:6/6]mlp/2 : f32[3, 8]{mlp, embed} @0\n"
        "%34 = linear(%30, %33) : f32[T, 3]{tokens, mlp} @0\n"
        "%35 = glu(%32, %34) : f32[T, 3]{tokens, mlp} @0\n"
        "%36 = weight role=row \"0.down\"[0:8/8]embed cols/2 : f32[8, 3]{embed, mlp} @0\n"
        "%37 = linear(%35, %36) : f32[T, 8]{tokens, embed} @0\n"
        "%38 = all_reduce(%37) : f32[T, 8]{tokens, embed} @0\n"
        "%39 = weight role=row \"0.down.bias\"[0:8/8]embed : f32[8]{embed} @0\n"
        "%40 = add(%38, %39) : f32[T, 8]{tokens, embed} @0\n"
        "%41 = add(%28, %40) : f32[T, 8]{tokens, embed} @0\n"
        "%42 = weight role=repl \"norm\"[0:8/8]embed : f32[8]{embed}\n"
        "%43 = rms_norm(%41, %42) eps=1e-05 : f32[T, 8]{tokens, embed}\n"
        "%44 = gather_rows(%43, %3) : f32[R, 8]{rows, embed}\n"
        "%45 = weight role=vocab \"head\"[0:5/5]vocab/2 : f32[3, 8]{vocab, embed}\n"
        "%46 = linear(%44, %45) : f32[R, 3]{rows, vocab}\n"
        "%47 = all_gather(%46) dim=1 size=5 : f32[R, 5]{rows, vocab}\n"
        "output %47\n");
    graph_free(g);
}

TEST(text_of_cut_tokens)
{
    graph *g;
    REQUIRE_OK(cut(&small, (mesh){ 2, 2, true, false }, 2, &g));
    expect_print(g,
        "mesh dp=2 tp=2 sp=1\n"
        "%1 = input kind=2 : i32[R]{rows}\n"
        "%2 = input kind=0 : i32[T]{tokens}\n"
        "%3 = input kind=1 : i32[T]{tokens}\n"
        "%4 = rope_table(%3) scale=[1] inv_freq=[1] : f32[T, 2]{tokens, rope}\n"
        "%5 = weight role=vocab \"embed\"[0:5/5]vocab/2 : f32[3, 8]{vocab, embed}\n"
        "%6 = embed(%2, %5) shards=2 : f32[T, 8]{tokens, embed}\n"
        "%7 = reduce_scatter(%6) dim=0 : f32[TS, 8]{tokens, embed}\n"
        "%8 = weight role=repl \"0.in\"[0:8/8]embed : f32[8]{embed} @0\n"
        "%9 = rms_norm(%7, %8) eps=1e-05 : f32[TS, 8]{tokens, embed} @0\n"
        "%10 = all_gather(%9) dim=0 : f32[T, 8]{tokens, embed} @0\n"
        "%11 = weight role=col \"0.q\"[0:4/4]heads/2 \"0.k\"[0:2/2]kv_heads \"0.v\"[0:2/2]kv_heads : f32[6, 8]{mixed, embed} @0\n"
        "%12 = linear(%10, %11) : f32[T, 6]{tokens, mixed} @0\n"
        "%13 = slice(%12) from=0 to=2 : f32[T, 2]{tokens, heads} @0\n"
        "%14 = slice(%12) from=2 to=4 : f32[T, 2]{tokens, kv_heads} @0\n"
        "%15 = slice(%12) from=4 to=6 : f32[T, 2]{tokens, kv_heads} @0\n"
        "%16 = split_heads(%13) head_dim=2 : f32[T, 1, 2]{tokens, heads, head_dim} @0\n"
        "%17 = split_heads(%14) head_dim=2 : f32[T, 1, 2]{tokens, kv_heads, head_dim} @0\n"
        "%18 = split_heads(%15) head_dim=2 : f32[T, 1, 2]{tokens, kv_heads, head_dim} @0\n"
        "%19 = rope(%16, %4) : f32[T, 1, 2]{tokens, heads, head_dim} @0\n"
        "%20 = rope(%17, %4) : f32[T, 1, 2]{tokens, kv_heads, head_dim} @0\n"
        "%21 = paged_attention(%19, %20, %18) cache=0 scale=0.5 window=0 : f32[T, 1, 2]{tokens, heads, head_dim} @0\n"
        "%22 = merge_heads(%21) : f32[T, 2]{tokens, heads} @0\n"
        "%23 = weight role=row \"0.o\"[0:8/8]embed cols/2 : f32[8, 2]{embed, heads} @0\n"
        "%24 = linear(%22, %23) : f32[T, 8]{tokens, embed} @0\n"
        "%25 = reduce_scatter(%24) dim=0 : f32[TS, 8]{tokens, embed} @0\n"
        "%26 = weight role=row \"0.o.bias\"[0:8/8]embed : f32[8]{embed} @0\n"
        "%27 = add(%25, %26) : f32[TS, 8]{tokens, embed} @0\n"
        "%28 = add(%7, %27) : f32[TS, 8]{tokens, embed} @0\n"
        "%29 = weight role=repl \"0.post\"[0:8/8]embed : f32[8]{embed} @0\n"
        "%30 = rms_norm(%28, %29) eps=1e-05 : f32[TS, 8]{tokens, embed} @0\n"
        "%31 = all_gather(%30) dim=0 : f32[T, 8]{tokens, embed} @0\n"
        "%32 = weight role=col \"0.gate\"[0:6/6]mlp/2 \"0.up\"[0:6/6]mlp/2 : f32[6, 8]{mlp, embed} @0\n"
        "%33 = linear(%31, %32) : f32[T, 6]{tokens, mlp} @0\n"
        "%34 = slice(%33) from=0 to=3 : f32[T, 3]{tokens, mlp} @0\n"
        "%35 = slice(%33) from=3 to=6 : f32[T, 3]{tokens, mlp} @0\n"
        "%36 = glu(%34, %35) : f32[T, 3]{tokens, mlp} @0\n"
        "%37 = weight role=row \"0.down\"[0:8/8]embed cols/2 : f32[8, 3]{embed, mlp} @0\n"
        "%38 = linear(%36, %37) : f32[T, 8]{tokens, embed} @0\n"
        "%39 = reduce_scatter(%38) dim=0 : f32[TS, 8]{tokens, embed} @0\n"
        "%40 = weight role=row \"0.down.bias\"[0:8/8]embed : f32[8]{embed} @0\n"
        "%41 = add(%39, %40) : f32[TS, 8]{tokens, embed} @0\n"
        "%42 = add(%28, %41) : f32[TS, 8]{tokens, embed} @0\n"
        "%43 = weight role=repl \"norm\"[0:8/8]embed : f32[8]{embed}\n"
        "%44 = rms_norm(%42, %43) eps=1e-05 : f32[TS, 8]{tokens, embed}\n"
        "%45 = all_gather(%44) dim=0 : f32[T, 8]{tokens, embed}\n"
        "%46 = gather_rows(%45, %1) : f32[R, 8]{rows, embed}\n"
        "%47 = weight role=vocab \"head\"[0:5/5]vocab/2 : f32[3, 8]{vocab, embed}\n"
        "%48 = linear(%46, %47) : f32[R, 3]{rows, vocab}\n"
        "%49 = all_gather(%48) dim=1 size=5 : f32[R, 5]{rows, vocab}\n"
        "output %49\n");
    graph_free(g);
}

/* ---- what each rank holds ---- */

TEST(local_rows_and_columns)
{
    static const struct { int64_t from, to, total; int shards, rank, tp; int64_t at, n, n_local; } cases[] = {
        { 0, 64, 64, 4, 0, 4, 0, 16, 16 }, { 0, 64, 64, 4, 3, 4, 48, 16, 16 }, { 64, 96, 128, 2, 1, 2, 80, 16, 16 },   /* even */
        { 0, 50, 50, 4, 2, 4, 26, 13, 13 }, { 0, 50, 50, 4, 3, 4, 39, 11, 13 },                                        /* the last is padded */
        { 0, 5, 5, 4, 2, 4, 4, 1, 2 }, { 0, 5, 5, 4, 3, 4, 5, 0, 2 },                                                  /* or empty */
        { 0, 64, 64, 2, 0, 8, 0, 32, 32 }, { 0, 64, 64, 2, 3, 8, 0, 32, 32 }, { 0, 64, 64, 2, 4, 8, 32, 32, 32 },      /* copies */
        { 8, 64, 64, 0, 5, 8, 8, 56, 56 }, { 8, 64, 64, 1, 5, 8, 8, 56, 56 },                                          /* not cut */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        weight_part p = { "w", cases[i].from, cases[i].to, cases[i].total, AX_HEADS, cases[i].shards, 0 };
        node w = { .op = OP_WEIGHT, .a.weight = { .col_shards = cases[i].shards } };
        int64_t at, n, n_local;
        weight_part_local(&w, &p, cases[i].rank, cases[i].tp, &at, &n, &n_local);
        CHECK(at == cases[i].at && n == cases[i].n && n_local == cases[i].n_local && n_local == weight_part_rows(&p));
        weight_cols_local(&w, p.to - p.from, cases[i].rank, cases[i].tp, &at, &n, &n_local);
        CHECK(at + p.from == cases[i].at && n == cases[i].n && n_local == cases[i].n_local);
    }
}

/* Each row of a part is on as many ranks as its shards have copies, and the shapes are what is held. */
static void check_rows(const node *w, const weight_part *p, int tp)
{
    int held[512] = { 0 }, copies = tp / (p->shards > 1 ? p->shards : 1);
    for (int r = 0; r < tp; r++) {
        int64_t from, n, n_local;
        weight_part_local(w, p, r, tp, &from, &n, &n_local);
        CHECK_INT(n_local, weight_part_rows(p));
        for (int64_t i = from; i < from + n; i++) held[i]++;
    }
    for (int64_t i = 0; i < p->total; i++)
        if (held[i] != (i >= p->from && i < p->to ? copies : 0)) FAIL("row %d of %s is on %d ranks", (int)i, p->name, held[i]);
    weight_role role = (weight_role)w->a.weight.role;
    if (role == ROLE_VOCAB || (role == ROLE_COL && p->out_axis != AX_KV_HEADS)) CHECK_INT(copies, 1);
    if (role == ROLE_REPL || role == ROLE_ROW) CHECK_INT(copies, tp);
    if (role == ROLE_ROW && w->s.rank == 2) CHECK_INT(w->a.weight.col_shards, tp);
}

static void check_structure(const decoder *d, mesh m, int optimize)
{
    graph *g;
    REQUIRE_OK(cut(d, m, optimize, &g));
    mesh got = graph_mesh(g);
    CHECK(got.dp == m.dp && got.tp == m.tp && got.sp == (m.sp && m.tp > 1));
    CHECK_OK(graph_verify(g));
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        const node *n = graph_at(g, id);
        for (int64_t i = 0; n->op == OP_WEIGHT && m.tp > 1 && i < n->a.weight.n_parts; i++) check_rows(n, &n->a.weight.parts[i], m.tp);
        if (n->op != OP_PAGED_ATTENTION) continue;
        CHECK_INT(n->s.dim[1], d->heads / m.tp);
        CHECK_INT(graph_node(g, n->in[1])->s.dim[1], d->kv_heads > m.tp ? d->kv_heads / m.tp : 1);
    }
    bool cuts = m.tp > 1, sp = cuts && m.sp;
    int sums = cuts ? 2 * d->layers + 1 : 0;                     /* attention and mlp of each layer, embedding */
    CHECK_INT(count(g, OP_ALL_REDUCE), sp ? 0 : sums);
    CHECK_INT(count(g, OP_REDUCE_SCATTER), sp ? sums : 0);
    CHECK_INT(count(g, OP_ALL_GATHER), (sp ? 2 * d->layers + 1 : 0) + cuts);   /* one per norm's result; logits */
    if (optimize) CHECK_INT(count(g, OP_LINEAR), 4 * d->layers + 1);
    const shape *out = &graph_node(g, graph_output(g))->s;
    CHECK(out->dim[0] == DIM_R && out->dim[1] == d->vocab);
    graph_free(g);
}

TEST(structure_on_every_mesh)
{
    static const decoder *const all[] = { &llama, &qwen3, &biased, &one_kv };
    for (int i = 0; i < 4; i++)
        for (int tp = 1; tp <= 8; tp *= 2)
            for (int dp = 1; dp <= 2; dp++)
                for (int sp = 0; sp < 2; sp++)
                    for (int optimize = 0; optimize < 3; optimize++) check_structure(all[i], (mesh){ dp, tp, sp, false }, optimize);
}

TEST(tied_embeddings_are_one_weight)
{
    graph *g;
    int n = 0;
    REQUIRE_OK(cut(&qwen3, (mesh){ 1, 8, false, false }, 1, &g));
    for (int id = 1; id <= graph_n_nodes(g); id++) n += graph_at(g, id)->op == OP_WEIGHT && strcmp(graph_at(g, id)->a.weight.parts[0].name, "embed") == 0;
    CHECK_INT(n, 1);
    graph_free(g);
}

/* q, k and v become one linear whose parts are cut into different numbers of shards; slices find them again. */
TEST(fused_parts_keep_their_shards)
{
    graph *g;
    REQUIRE_OK(cut(&llama, (mesh){ 1, 4, false, false }, 1, &g));
    for (int id = 1; id <= graph_n_nodes(g); id++) {
        const node *n = graph_at(g, id);
        if (n->op == OP_SLICE && n->a.slice.from == 8 && n->a.slice.to == 12) CHECK_INT(n->s.axes[1], AX_KV_HEADS);
        if (n->op != OP_WEIGHT || n->a.weight.n_parts != 3) continue;
        CHECK_INT(n->a.weight.parts[0].shards, 4);
        CHECK_INT(n->a.weight.parts[1].shards, 2);
        CHECK_INT(n->s.dim[0], 8 + 4 + 4);
    }
    graph_free(g);
}

/* ---- layers that one loop can stand for ---- */

static int place_in_layer(const graph *g, int id)
{
    int at = 0;
    for (int i = 1; i < id; i++) at += graph_at(g, i)->layer == graph_at(g, id)->layer;
    return at;
}

static bool same_place(const graph *g, int a, int b)
{
    const node *x = graph_at(g, a), *y = graph_at(g, b);
    if (x->op != y->op || !shape_equal(&x->s, &y->s) || x->n_in != y->n_in) return false;
    if (x->op == OP_WEIGHT)
        return x->a.weight.n_parts == y->a.weight.n_parts && x->a.weight.parts[0].shards == y->a.weight.parts[0].shards &&
               x->a.weight.col_shards == y->a.weight.col_shards;
    for (int i = 0; i < x->n_in; i++) {
        int p = x->in[i].id, q = y->in[i].id;
        if (!p && !q) continue;
        int lp = graph_at(g, p)->layer, lq = graph_at(g, q)->layer;
        bool inside = lq == y->layer;
        if (inside ? lp != x->layer || place_in_layer(g, p) != place_in_layer(g, q) : lp == x->layer) return false;
        if (!inside && lq != y->layer - 1 && p != q) return false;   /* the stream, or something made once */
    }
    return true;
}

static bool layers_equal(const graph *g, int a, int b)
{
    int i = 1, j = 1, n = graph_n_nodes(g);
    for (;; i++, j++) {
        while (i <= n && graph_at(g, i)->layer != a) i++;
        while (j <= n && graph_at(g, j)->layer != b) j++;
        if (i > n || j > n) return i > n && j > n;
        if (!same_place(g, i, j)) return false;
    }
}

TEST(uniform_graphs_have_equal_layers)
{
    for (int tp = 1; tp <= 8; tp *= 2)
        for (int sp = 0; sp < 2; sp++) {
            graph *g;
            REQUIRE_OK(cut(&llama, (mesh){ 1, tp, sp, false }, 2, &g));
            CHECK(layers_equal(g, 0, 1) && layers_equal(g, 1, 2));
            bool narrow = false;   /* the final norm sees the wanted rows only, where the tokens are not cut */
            for (int id = 1; id <= graph_n_nodes(g); id++) narrow = narrow || (graph_at(g, id)->op == OP_RMS_NORM && graph_at(g, id)->s.dim[0] == DIM_R);
            CHECK_INT(narrow, tp == 1 || !sp);
            graph_free(g);
            if (sp) continue;
            REQUIRE_OK(cut(&llama, (mesh){ 1, tp, false, false }, 1, &g));
            CHECK(layers_equal(g, 0, 1) && !layers_equal(g, 1, 2));
            for (int id = 1; id <= graph_n_nodes(g); id++)   /* the last layer's sums are of the wanted rows */
                if (graph_at(g, id)->op == OP_ALL_REDUCE) CHECK_INT(graph_at(g, id)->s.dim[0], graph_at(g, id)->layer == 2 ? DIM_R : DIM_T);
            graph_free(g);
        }
}

/* ---- all ranks, played on the reference ---- */

enum { T = 8, R = 3, SLOTS = 16, MAX_TP = 8, MAX_LAYERS = 3, CACHE = SLOTS * 8 * 8 };
static const int32_t tokens[T] = { 3, 0, 7, 8, 1, 4, 6, 2 }, positions[T] = { 0, 1, 2, 0, 1, 2, 3, 4 }, slots[T] = { 0, 1, 2, 8, 9, 10, 11, 12 };
static const int32_t cu[] = { 0, 3, 8 }, kv_lens[] = { 3, 5 }, pages[] = { 0, 1 }, wanted[R] = { 2, 4, 7 };
static const batch step = { .n_tokens = T, .n_seqs = 2, .n_rows = R, .token_ids = tokens, .positions = positions, .cu_q_lens = cu, .kv_lens = kv_lens,
                            .page_table = pages, .max_pages = 1, .slots = slots, .rows = wanted };

typedef struct ranks {
    const graph *g;
    int tp;
    ref_tensor *t[MAX_TP];   /* [n + 1] each */
    ref_cache caches[MAX_TP][MAX_LAYERS];
} ranks;

static float element(const char *name, int64_t row, int64_t col)
{
    uint32_t x = (uint32_t)(row * 7919 + col * 104729);
    for (; *name; name++) x = x * 31u + (uint32_t)(unsigned char)*name;
    x ^= x >> 15; x *= 2654435761u; x ^= x >> 13; x *= 3266489917u; x ^= x >> 16;
    return ((float)(x & 255) - 127.5f) / 256;
}

/* The rows and columns of the checkpoint that the functions under test say this rank holds; zeros besides. */
static void fill_weight(const ranks *s, int rank, const node *w, float *dst)
{
    int64_t shards = w->a.weight.col_shards > 1 ? w->a.weight.col_shards : 1, width = w->s.rank == 2 ? w->s.dim[1] : 1, at = 0;
    int64_t col, cols, local_cols, row, rows, local_rows;
    weight_cols_local(w, width * shards, rank, s->tp, &col, &cols, &local_cols);
    CHECK_INT(local_cols, width);
    for (int64_t i = 0; i < w->a.weight.n_parts; i++) {
        const weight_part *p = &w->a.weight.parts[i];
        weight_part_local(w, p, rank, s->tp, &row, &rows, &local_rows);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < cols; c++) dst[(at + r) * width + c] = element(p->name, row + r, col + c);
        at += local_rows;
    }
}

static int64_t value_of(const ranks *s, int64_t dim) { return dim == DIM_T ? T : dim == DIM_TS ? T / s->tp : dim == DIM_R ? R : dim; }

static void talk(ranks *s, int id)
{
    const node *n = graph_at(s->g, id);
    int64_t from = n->in[0].id, local = ref_count(&s->t[0][from]), out = ref_count(&s->t[0][id]);
    int64_t inner = n->op == OP_ALL_GATHER && n->a.all_gather.dim == 1 ? s->t[0][from].dim[1] : local, row = s->t[0][id].dim[n->s.rank - 1];
    for (int me = 0; me < s->tp; me++)
        for (int other = 0; other < s->tp; other++) {
            const float *x = s->t[other][from].f;
            float *y = s->t[me][id].f;
            for (int64_t i = 0; i < out && n->op == OP_ALL_REDUCE; i++) y[i] += x[i];
            for (int64_t i = 0; i < out && n->op == OP_REDUCE_SCATTER; i++) y[i] += x[me * out + i];
            for (int64_t i = 0; i < local && n->op == OP_ALL_GATHER; i++) {
                int64_t at = n->a.all_gather.dim == 0 ? other * local + i : other * inner + i % inner;
                if (n->a.all_gather.dim == 0) y[at] = x[i];
                else if (at < row) y[i / inner * row + at] = x[i];
            }
        }
}

static void run_node(ranks *s, int rank, int id)
{
    const node *n = graph_at(s->g, id);
    ref_tensor *t = &s->t[rank][id];
    int32_t ids[T];
    t->rank = n->s.rank;
    for (int i = 0; i < n->s.rank; i++) t->dim[i] = value_of(s, n->s.dim[i]);
    if (n->op == OP_INPUT) {
        t->i = n->a.input.kind == IN_TOKENS ? tokens : n->a.input.kind == IN_POSITIONS ? positions : wanted;
        return;
    }
    t->f = mem_calloc((size_t)ref_count(t), sizeof(float));
    if (n->op == OP_WEIGHT) fill_weight(s, rank, n, t->f);
    if (n->op == OP_WEIGHT || op_is(n->op, OPF_COLLECTIVE)) return;
    ref_call c = { .n = n, .tp = s->tp, .out = *t, .b = &step, .caches = s->caches[rank], .block_size = 8 };
    for (int i = 0; i < n->n_in; i++) c.in[i] = s->t[rank][n->in[i].id];
    for (int i = 0; n->op == OP_EMBED && n->a.embed.shards > 1 && i < T; i++) ids[i] = tokens[i] - rank * (int32_t)c.in[1].dim[0];
    if (n->op == OP_EMBED && n->a.embed.shards > 1) c.in[0].i = ids;   /* the reference is rank 0 */
    op_impl_of(n->op)->ref(&c);
}

/* logits[rank][R * vocab] */
static void run_ranks(const graph *g, float *logits)
{
    ranks s = { .g = g, .tp = graph_mesh(g).tp };
    int n = graph_n_nodes(g);
    for (int r = 0; r < s.tp; r++) {
        s.t[r] = mem_calloc((size_t)n + 1, sizeof *s.t[r]);
        for (int l = 0; l < MAX_LAYERS; l++)
            s.caches[r][l] = (ref_cache){ DT_F32, mem_calloc(CACHE, sizeof(float)), mem_calloc(CACHE, sizeof(float)) };
    }
    for (int id = 1; id <= n; id++) {
        for (int r = 0; r < s.tp; r++) run_node(&s, r, id);
        if (op_is(graph_at(g, id)->op, OPF_COLLECTIVE)) talk(&s, id);
    }
    for (int r = 0; r < s.tp; r++) {
        ref_tensor *out = &s.t[r][graph_output(g).id];
        memcpy(logits + r * ref_count(out), out->f, (size_t)ref_count(out) * sizeof(float));
        for (int id = 1; id <= n; id++) mem_free(s.t[r][id].f);
        for (int l = 0; l < MAX_LAYERS; l++) mem_free(s.caches[r][l].k), mem_free(s.caches[r][l].v);
        mem_free(s.t[r]);
    }
}

static void check_results(const decoder *d, mesh m, int optimize, const float *want)
{
    static float got[MAX_TP * R * 64];
    graph *g;
    REQUIRE_OK(cut(d, m, optimize, &g));
    run_ranks(g, got);
    for (int i = 0; i < m.tp * R * d->vocab; i++) {
        double w = (double)want[i % (R * d->vocab)];
        if (fabs((double)got[i] - w) <= 1e-4 * (1 + fabs(w))) continue;
        FAIL("tp %d sp %d optimize %d: logit %d is %g, wanted %g", m.tp, m.sp, optimize, i, (double)got[i], w);
        break;
    }
    graph_free(g);
}

TEST(ranks_compute_what_one_device_does)
{
    static const decoder *const all[] = { &llama, &qwen3, &biased, &one_kv };
    for (int i = 0; i < 4; i++) {
        float want[R * 64];
        graph *g;
        REQUIRE_OK(build(all[i], &g));
        run_ranks(g, want);
        graph_free(g);
        CHECK(fabs((double)want[0] - (double)want[1]) > 1e-3);
        for (int tp = 1; tp <= 8; tp *= 2)
            for (int sp = 0; sp < 2; sp++)
                for (int optimize = 0; optimize < 3; optimize++) check_results(all[i], (mesh){ 1, tp, sp, false }, optimize, want);
    }
}

/* ---- collectives by themselves ---- */

static void ones(void *arg, const node *n, float *dst)
{
    (void)arg;
    int64_t rows = n->s.dim[0] == DIM_T ? 4 : n->s.dim[0] == DIM_TS ? 2 : n->s.dim[0] == DIM_R ? 3 : n->s.dim[0];
    for (int64_t i = 0; i < rows * shape_cols(&n->s); i++) dst[i] = (float)i;
}

/* The last element of a case's result by the reference. */
static double last_of(op o, int i, int64_t elements)
{
    static float out[1024];
    graph *g;
    batch b = { .n_tokens = 4, .n_seqs = 1, .n_rows = 3 };
    if (graph_new(ops_rules(), &g) != ST_OK) return NAN;
    CHECK_OK(graph_finish(g, op_impl_of(o)->build_case(g, i, DT_F32)));
    CHECK_OK(ref_run(g, ones, NULL, &b, NULL, 16, out));
    b.n_tokens = 3;
    if (graph_mesh(g).sp) CHECK_ERR(ref_run(g, ones, NULL, &b, NULL, 16, out), ST_INVALID, "3 tokens, expected a multiple of the 2 tensor ranks");
    graph_free(g);
    return (double)out[elements - 1];
}

TEST(references_of_collectives)
{
    CHECK_NEAR(last_of(OP_ALL_REDUCE, 1, 4 * 48), 2 * 191, 0);
    CHECK_NEAR(last_of(OP_ALL_REDUCE, 2, 3 * 33), 2 * 98, 0);
    CHECK_NEAR(last_of(OP_REDUCE_SCATTER, 1, 2 * 33), 2 * 65, 0);
    CHECK_NEAR(last_of(OP_ALL_GATHER, 1, 3 * 48), 71, 0);
    CHECK_NEAR(last_of(OP_ALL_GATHER, 2, 3 * 47), 70, 0);
    CHECK_NEAR(last_of(OP_ALL_GATHER, 2, 24 + 1), 0, 0);
    CHECK_NEAR(last_of(OP_ALL_GATHER, 3, 4 * 17), 33, 0);
    CHECK_NEAR(last_of(OP_ALL_GATHER, 5, 11 * 16), 5 * 16 - 1, 0);
}

/* A ring of n sends 2(n-1)/n of the data for a sum on all, half of that for a half of it; cut tokens cost as one device's. */
TEST(costs_of_collectives)
{
    graph *g;
    op_sizes s = { .tokens = 64, .tp = 4 };
    op_cost c[4] = { { 0 } };
    REQUIRE_OK(graph_new(ops_rules(), &g));
    graph_set_mesh(g, (mesh){ 1, 4, true, false });
    tensor x = case_input(g, DIM_T, 32, AX_EMBED), sum = graph_add(g, OP_ALL_REDUCE, &x, 1, NULL), part = graph_add(g, OP_REDUCE_SCATTER, &x, 1, NULL);
    tensor all = graph_add(g, OP_ALL_GATHER, &part, 1, NULL), twice = two(g, OP_ADD, part, part);
    op_impl_of(OP_ALL_REDUCE)->cost(g, graph_node(g, sum), &s, &c[0]);
    op_impl_of(OP_REDUCE_SCATTER)->cost(g, graph_node(g, part), &s, &c[1]);
    op_impl_of(OP_ALL_GATHER)->cost(g, graph_node(g, all), &s, &c[2]);
    op_impl_of(OP_ADD)->cost(g, graph_node(g, twice), &s, &c[3]);
    CHECK_NEAR(c[0].link_bytes, 2 * 0.75 * 64 * 32 * 4, 0);
    CHECK_NEAR(c[1].link_bytes, 0.75 * 64 * 32 * 4, 0);
    CHECK_NEAR(c[2].link_bytes, 0.75 * 64 * 32 * 4, 0);
    CHECK_NEAR(c[3].flops, 16 * 32, 0);
    CHECK_NEAR(c[3].link_bytes, 0, 0);
    graph_free(g);
}

/* ---- what is refused ---- */

static void expect_error(decoder d, int tp, const char *message)
{
    graph *g = NULL;
    CHECK_ERR(cut(&d, (mesh){ 1, tp, false, false }, 0, &g), ST_INVALID, message);
    graph_free(g);
}

TEST(what_does_not_divide_is_named)
{
    decoder d = llama;
    d.heads = 32;
    expect_error(d, 5, "Total number of attention heads (32) must be divisible by tensor parallel size (5).");
    d.kv_heads = 6;
    d.heads = 24;
    expect_error(d, 4, "Total number of key/value heads (6) must be divisible by tensor parallel size (4), or divide it.");
    expect_error(d, 8, "Total number of key/value heads (6) must be divisible by tensor parallel size (8), or divide it.");
    d = llama;
    d.mlp = 50;
    expect_error(d, 4, "Intermediate size (50) must be divisible by tensor parallel size (4).");
}

static status partition_text(const char *text, mesh m)
{
    graph *g = NULL, *cut_graph = NULL;
    status st = graph_parse(ops_rules(), text, strlen(text), &g);
    if (st == ST_OK) st = graph_partition(g, m, &cut_graph);
    graph_free(g);
    graph_free(cut_graph);
    return st;
}

#define INPUT "%1 = input kind=3 : f32[T, 8]{tokens, embed}\n"

TEST(graphs_that_cannot_be_cut)
{
    static const struct { const char *text, *message; } cases[] = {
        { INPUT "%2 = weight role=col \"w\"[0:9/9]embed : f32[9, 8]{embed, embed}\n%3 = linear(%1, %2) : f32[T, 9]{tokens, embed}\noutput %3\n",
          "w: rows (9) must be divisible by tensor parallel size (2)." },
        { INPUT "%2 = weight role=row \"w\"[0:9/9]embed : f32[9, 8]{embed, embed}\n%3 = linear(%1, %2) : f32[T, 9]{tokens, embed}\noutput %3\n",
          "w: a row parallel weight, but its input is not cut over the 2 tensor ranks" },
        { INPUT "%2 = weight role=repl \"w\"[0:8/8]embed : f32[8, 8]{embed, embed}\n%3 = linear(%1, %2, _, %1) : f32[T, 8]{tokens, embed}\noutput %3\n",
          "linear with weight w is fused; partition first" },
        { INPUT "%2 = weight role=col \"a\"[0:8/8]mlp \"b\"[0:8/8]mlp : f32[16, 8]{mlp, embed}\n%3 = linear(%1, %2) : f32[T, 16]{tokens, mlp}\noutput %3\n",
          "linear with weight a is fused" },
        { INPUT "%2 = weight role=col \"w\"[0:8/8]heads : f32[8, 8]{heads, embed}\n%3 = linear(%1, %2) : f32[T, 8]{tokens, heads}\n"
          "%4 = split_heads(%3) head_dim=4 : f32[T, 2, 4]{tokens, heads, head_dim}\n"
          "%5 = split_heads(%1) head_dim=4 : f32[T, 2, 4]{tokens, embed, head_dim}\n"
          "%6 = paged_attention(%4, %5, %5) cache=0 scale=0.5 window=0 : f32[T, 2, 4]{tokens, heads, head_dim}\noutput %6\n",
          "paged_attention: q, k and v are not cut alike" },
        { "mesh dp=1 tp=2 sp=0\n" INPUT "%2 = all_reduce(%1) : f32[T, 8]{tokens, embed}\noutput %2\n", "the graph is partitioned already, for 1 x 2 devices" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) CHECK_ERR(partition_text(cases[i].text, (mesh){ 1, 2, false, false }), ST_INVALID, cases[i].message);
    CHECK_ERR(partition_text(INPUT "%2 = weight role=col \"w\"[0:4/4]kv_heads : f32[4, 8]{kv_heads, embed}\n%3 = linear(%1, %2) : f32[T, 4]{tokens, kv_heads}\n"
                             "%4 = split_heads(%3) head_dim=2 : f32[T, 2, 2]{tokens, kv_heads, head_dim}\noutput %3\n", (mesh){ 1, 4, false, false }),
              ST_INVALID, "%3, a linear, is needed whole, but there are more tensor ranks than heads");
    CHECK_ERR(partition_text(cases[0].text, (mesh){ 0, 2, false, false }), ST_INVALID, "a mesh of 0 x 2 devices");
    CHECK_ERR(partition_text(cases[0].text, (mesh){ 1, -2, false, false }), ST_INVALID, "a mesh of 1 x -2 devices");
}

/* Sinks go with their query heads; attributes that are off are not printed, and come back as they were. */
TEST(sinks_are_cut_like_heads)
{
    static const char head[] = INPUT
        "%2 = weight role=col \"q\"[0:8/8]heads : f32[8, 8]{heads, embed}\n"
        "%3 = linear(%1, %2) : f32[T, 8]{tokens, heads}\n"
        "%4 = weight role=col \"k\"[0:4/4]kv_heads : f32[4, 8]{kv_heads, embed}\n"
        "%5 = linear(%1, %4) : f32[T, 4]{tokens, kv_heads}\n"
        "%6 = split_heads(%3) head_dim=2 : f32[T, 4, 2]{tokens, heads, head_dim}\n"
        "%7 = split_heads(%5) head_dim=2 : f32[T, 2, 2]{tokens, kv_heads, head_dim}\n";
    static const char tail[] =
        "%9 = paged_attention(%6, %7, %7, %8) cache=0 scale=0.5 window=0 chunk=64 softcap=30.0 : f32[T, 4, 2]{tokens, heads, head_dim}\n"
        "%10 = merge_heads(%9) : f32[T, 8]{tokens, heads}\n"
        "%11 = weight role=row \"o\"[0:8/8]embed : f32[8, 8]{embed, heads}\n"
        "%12 = linear(%10, %11) : f32[T, 8]{tokens, embed}\n"
        "output %12\n";
    graph *g, *p;
    buf text = {0};
    buf_printf(&text, "%s%%8 = weight role=col \"sinks\"[0:4/4]heads : f32[4]{heads}\n%s", head, tail);
    REQUIRE_OK(graph_parse(ops_rules(), text.data, text.len, &g));
    expect_print(g, text.data);
    REQUIRE_OK(graph_partition(g, (mesh){ 1, 2, false, false }, &p));
    expect_print(p,
        "mesh dp=1 tp=2 sp=0\n"
        "%1 = input kind=3 : f32[T, 8]{tokens, embed}\n"
        "%2 = weight role=col \"q\"[0:8/8]heads/2 : f32[4, 8]{heads, embed}\n"
        "%3 = linear(%1, %2) : f32[T, 4]{tokens, heads}\n"
        "%4 = weight role=col \"k\"[0:4/4]kv_heads/2 : f32[2, 8]{kv_heads, embed}\n"
        "%5 = linear(%1, %4) : f32[T, 2]{tokens, kv_heads}\n"
        "%6 = split_heads(%3) head_dim=2 : f32[T, 2, 2]{tokens, heads, head_dim}\n"
        "%7 = split_heads(%5) head_dim=2 : f32[T, 1, 2]{tokens, kv_heads, head_dim}\n"
        "%8 = weight role=col \"sinks\"[0:4/4]heads/2 : f32[2]{heads}\n"
        "%9 = paged_attention(%6, %7, %7, %8) cache=0 scale=0.5 window=0 chunk=64 softcap=30.0 : f32[T, 2, 2]{tokens, heads, head_dim}\n"
        "%10 = merge_heads(%9) : f32[T, 4]{tokens, heads}\n"
        "%11 = weight role=row \"o\"[0:8/8]embed cols/2 : f32[8, 4]{embed, heads}\n"
        "%12 = linear(%10, %11) : f32[T, 8]{tokens, embed}\n"
        "%13 = all_reduce(%12) : f32[T, 8]{tokens, embed}\n"
        "output %13\n");
    buf_clear(&text);
    buf_printf(&text, "%s%%8 = weight role=col \"sinks\"[0:5/5]heads : f32[5]{heads}\n%s", head, tail);
    CHECK_ERR(partition_text(text.data, (mesh){ 1, 1, false, false }), ST_INTERNAL, "expected a weight with one number per head of q");
    buf_free(&text);
    graph_free(g);
    graph_free(p);
}

/* Operations of models to come: a norm over cut rows sees all of them, a replicated linear stays with its tokens. */
TEST(other_layouts)
{
    static const char text[] =
        INPUT
        "%2 = weight role=col \"a\"[0:8/8]mlp : f32[8, 8]{mlp, embed}\n"
        "%3 = linear(%1, %2) : f32[T, 8]{tokens, mlp}\n"
        "%4 = weight role=repl \"n\"[0:8/8]mlp : f32[8]{mlp}\n"
        "%5 = rms_norm(%3, %4) eps=0.0 : f32[T, 8]{tokens, mlp}\n"
        "%6 = weight role=row \"b\"[0:8/8]embed : f32[8, 8]{embed, mlp}\n"
        "%7 = linear(%3, %6) : f32[T, 8]{tokens, embed}\n"
        "%8 = weight role=repl \"r\"[0:8/8]mlp : f32[8, 8]{mlp, embed}\n"
        "%9 = linear(%7, %8) : f32[T, 8]{tokens, mlp}\n"
        "%10 = slice(%5) from=0 to=8 : f32[T, 8]{tokens, mlp}\n"
        "%11 = add(%9, %10) : f32[T, 8]{tokens, mlp}\n"
        "output %11\n";
    graph *g, *p;
    REQUIRE_OK(graph_parse(ops_rules(), text, sizeof text - 1, &g));
    REQUIRE_OK(graph_partition(g, (mesh){ 1, 2, true, false }, &p));
    expect_print(p,
        "mesh dp=1 tp=2 sp=1\n"
        "%1 = input kind=3 : f32[T, 8]{tokens, embed}\n"
        "%2 = weight role=col \"a\"[0:8/8]mlp/2 : f32[4, 8]{mlp, embed}\n"
        "%3 = linear(%1, %2) : f32[T, 4]{tokens, mlp}\n"
        "%4 = all_gather(%3) dim=1 : f32[T, 8]{tokens, mlp}\n"
        "%5 = weight role=repl \"n\"[0:8/8]mlp : f32[8]{mlp}\n"
        "%6 = rms_norm(%4, %5) eps=0.0 : f32[T, 8]{tokens, mlp}\n"
        "%7 = weight role=row \"b\"[0:8/8]embed cols/2 : f32[8, 4]{embed, mlp}\n"
        "%8 = linear(%3, %7) : f32[T, 8]{tokens, embed}\n"
        "%9 = reduce_scatter(%8) dim=0 : f32[TS, 8]{tokens, embed}\n"
        "%10 = weight role=repl \"r\"[0:8/8]mlp : f32[8, 8]{mlp, embed}\n"
        "%11 = linear(%9, %10) : f32[TS, 8]{tokens, mlp}\n"
        "%12 = slice(%6) from=0 to=8 : f32[T, 8]{tokens, mlp}\n"
        "%13 = all_gather(%11) dim=0 : f32[T, 8]{tokens, mlp}\n"
        "%14 = add(%13, %12) : f32[T, 8]{tokens, mlp}\n"
        "output %14\n");
    graph_free(g);
    graph_free(p);
}

TEST(grammar_of_partitioned_graphs)
{
    static const struct { const char *text, *message; status st; } cases[] = {
        { "mesh dp=0 tp=2 sp=0\n", "line 1: expected a number from 1 to", ST_INVALID },
        { "mesh tp=2\n", "line 1: expected dp=", ST_INVALID },
        { "mesh dp=1 tp=1 sp=1\n" INPUT "%2 = add(%1, %1) : f32[T, 8]{tokens, embed}\noutput %2\n", "and tp for sp", ST_INTERNAL },
        { INPUT "%2 = all_reduce(%1) : f32[T, 8]{tokens, embed}\noutput %2\n", "all_reduce: the mesh has one tensor rank", ST_INTERNAL },
        { "mesh dp=1 tp=2 sp=0\n" INPUT "%2 = reduce_scatter(%1) dim=0 : f32[TS, 8]{tokens, embed}\noutput %2\n", "the mesh has no sequence parallelism", ST_INTERNAL },
        { "mesh dp=1 tp=2 sp=1\n" INPUT "%2 = reduce_scatter(%1) dim=1 : f32[T, 4]{tokens, embed}\noutput %2\n", "dimension 1 of f32[T, 8], expected the first", ST_INTERNAL },
        { "mesh dp=1 tp=2 sp=0\n" INPUT "%2 = all_gather(%1) dim=0 : f32[T, 8]{tokens, embed}\noutput %2\n", "expected a number or TS in dimension 0", ST_INTERNAL },
        { "mesh dp=1 tp=2 sp=0\n" INPUT "%2 = all_gather(%1) dim=2 : f32[T, 8]{tokens, embed}\noutput %2\n", "dimension 2 of f32[T, 8]", ST_INTERNAL },
        { "mesh dp=1 tp=2 sp=0\n" INPUT "%2 = all_gather(%1) dim=1 size=17 : f32[T, 17]{tokens, embed}\noutput %2\n", "cut to 17 of f32[T, 8] over 2 ranks", ST_INTERNAL },
        { "mesh dp=1 tp=4 sp=0\n%1 = weight role=col \"w\"[0:9/9]mlp/3 : f32[3]{mlp}\noutput %1\n", "w: 3 shards, expected a divisor of the mesh's 4", ST_INTERNAL },
        { "mesh dp=1 tp=4 sp=0\n%1 = weight role=col \"w\"[0:9/9]mlp/2 : f32[4]{mlp}\noutput %1\n", "parts have 5 rows, the weight 4", ST_INTERNAL },
        { "mesh dp=1 tp=4 sp=0\n%1 = weight role=row \"w\"[0:9/9]mlp cols/4 : f32[9]{mlp}\noutput %1\n", "a vector has no columns to cut", ST_INTERNAL },
        { "mesh dp=1 tp=4 sp=0\n%1 = weight role=row \"w\"[0:9/9]mlp cols/3 : f32[9, 2]{mlp, embed}\noutput %1\n", "columns: 3 shards", ST_INTERNAL },
        { "mesh dp=1 tp=4 sp=0\n%1 = input kind=0 : i32[T]{tokens}\n%2 = weight role=vocab \"w\"[0:9/9]vocab/2 : f32[5, 8]{vocab, embed}\n"
          "%3 = embed(%1, %2) shards=2 : f32[T, 8]{tokens, embed}\noutput %3\n", "2 shards, expected the mesh's 4 tensor ranks", ST_INTERNAL },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        graph *g = NULL;
        CHECK_ERR(graph_parse(ops_rules(), cases[i].text, strlen(cases[i].text), &g), cases[i].st, cases[i].message);
        graph_free(g);
    }
}

/* The same rows cut otherwise are another weight. */
TEST(weights_know_their_shards)
{
    graph *g;
    REQUIRE_OK(graph_new(ops_rules(), &g));
    graph_set_mesh(g, (mesh){ 1, 4, false, false });
    shape s = { DT_F32, 2, { 4, 8 }, { AX_MLP, AX_EMBED } };
    weight_part a = { "w", 0, 4, 4, AX_MLP, 0, 0 }, b = { "w", 0, 4, 4, AX_MLP, 2, 0 };
    tensor x = graph_weight(g, ROLE_COL, &s, &a, 1);
    CHECK_INT(graph_weight(g, ROLE_COL, &s, &a, 1).id, x.id);
    CHECK(graph_weight(g, ROLE_COL, &s, &b, 1).id != x.id);
    CHECK(graph_weight_cut(g, ROLE_COL, &s, &a, 1, 2).id != x.id);
    graph_free(g);
}

TEST(out_of_memory_is_a_status)
{
    bool done = false;
    for (uint64_t n = 1; !done && n < 10000; n++) {
        int64_t live = mem_live();
        graph *g = NULL;
        buf b = { 0 };
        mem_fail_at(n);
        status st = cut(&small, (mesh){ 2, 2, true, false }, 2, &g);
        if (st == ST_OK) st = graph_print(g, &b);
        done = !mem_failed();
        mem_fail_at(0);
        CHECK(st == (done ? ST_OK : ST_NOMEM));
        buf_free(&b);
        graph_free(g);
        CHECK_INT(mem_live(), live);
    }
    CHECK(done);
}

/* A linear of 256 rows in groups of 32, read through a gate by one that is cut along these: sixteen ranks would cut groups, so pairs of them
 * hold the same. */
TEST(groups_of_scales_stay_whole)
{
    graph *g, *out;
    const quant_scheme scheme = QUANT_INT4_G32;
    REQUIRE_OK(graph_new(ops_rules(), &g));
    tensor x = case_input(g, DIM_T, 64, AX_EMBED);
    weight_part up = { .name = "up", .to = 256, .total = 256, .out_axis = AX_MLP }, down = { .name = "down", .to = 64, .total = 64, .out_axis = AX_EMBED };
    tensor w = graph_weight_of(g, &(shape){ DT_BF16, 2, { 256, 64 }, { AX_MLP, AX_EMBED } }, &(weight_attrs){ .role = ROLE_COL, .n_parts = 1, .parts = &up, .scheme = scheme });
    x = graph_add(g, OP_LINEAR, (tensor[]){ x, w }, 2, NULL);
    x = graph_add(g, OP_ACT, &x, 1, NULL);
    w = graph_weight_of(g, &(shape){ DT_BF16, 2, { 64, 256 }, { AX_EMBED, AX_MLP } }, &(weight_attrs){ .role = ROLE_ROW, .n_parts = 1, .parts = &down, .scheme = scheme });
    REQUIRE_OK(graph_finish(g, graph_add(g, OP_LINEAR, (tensor[]){ x, w }, 2, NULL)));
    CHECK_ERR(graph_partition(g, (mesh){ .dp = 1, .tp = 16 }, &out), ST_INVALID, "parts of groups of 32");
    REQUIRE_OK(graph_partition(g, (mesh){ .dp = 1, .tp = 16, .ep = true }, &out));
    int sums = 0;
    for (int id = 1; id <= graph_n_nodes(out); id++) {
        const node *n = graph_at(out, id);
        if (n->op == OP_WEIGHT && strcmp(n->a.weight.parts[0].name, "up") == 0) CHECK_INT(n->s.dim[0], 32);
        if (n->op == OP_WEIGHT && strcmp(n->a.weight.parts[0].name, "down") == 0) CHECK_INT(n->s.dim[1], 32);
        if (n->op == OP_SCALE) {
            CHECK_NEAR(n->a.scale.factor, 0.5, 0);
            sums++;
        }
    }
    CHECK_INT(sums, 1);
    graph_free(out);
    graph_free(g);
}

TEST_MAIN
