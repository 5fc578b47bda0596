/* Attention's StableHLO. On XLA:CPU (`make pjrt-cpu`) against the reference: one token per sequence and mixed batches, head
 * sizes, groups, windows, cache types, with NaN everywhere in the cache that no query may see. With libtpu, compiled only:
 * that no chip copies the cache and temporaries stay small (ATTN_TARGETS=v3:2x2x1,v4:2x2x1,... for the table in docs/performance.md;
 * ATTN_SHAPES, ATTN_ONLY, ATTN_OVERRIDES and ATTN_SAVE serve experiments). The program is a loop over layers, as lowering makes it. */
#include "device/pjrt/compiler.h"
#include "device/pjrt/options.h"
#include "ops/op.h"
#include "tests/unit/device/pjrt/help.h"

typedef struct setup {
    const char *name;
    dtype act, kv;
    int64_t heads, kv_heads, d, window, page, max_pages, n_pages, layers;   /* n_pages: of one layer */
    bool decode;
    int64_t T, S, q_tile, n_tiles;
    int multiple;                   /* of heads in the cache: attention_choice.head_multiple */
} setup;

static hlo_kv kv_of(const setup *u) { return hlo_kv_padded(u->kv, u->kv_heads, u->d, u->multiple); }

/* ---- the program: for each layer, q, k and v are columns of x, and the result is added to x's first ones ---- */

enum { A_X, A_CACHE, A_WRITE_PAGE, A_WRITE_SLOT, A_TABLE, A_LENS, A_SEQ_TOKEN, A_TOKEN_SEQ, A_TILE_SEQ, A_TILE_TOKEN, A_TILE_POS, A_TILE_LEN, A_TILES, N_ARGS };

static int64_t width_of(const setup *u) { return (u->heads + 2 * u->kv_heads) * u->d; }

static int list_args(const setup *u, hlo_arg *a)
{
    hlo_kv kv = kv_of(u);
    a[A_X] = (hlo_arg){ "x", u->act, 2, { u->T, width_of(u) }, -1 };
    a[A_CACHE] = (hlo_arg){ "cache", u->kv, 4, { u->layers * u->n_pages, u->page, kv.rows, kv.lanes }, 1 };
    a[A_WRITE_PAGE] = (hlo_arg){ "write_page", DT_I32, 1, { u->T }, -1 };
    a[A_WRITE_SLOT] = (hlo_arg){ "write_slot", DT_I32, 1, { u->T }, -1 };
    a[A_TABLE] = (hlo_arg){ "page_table", DT_I32, 2, { u->S, u->max_pages }, -1 };
    a[A_LENS] = (hlo_arg){ "kv_lens", DT_I32, 1, { u->S }, -1 };
    if (u->decode) return A_SEQ_TOKEN;
    a[A_SEQ_TOKEN] = (hlo_arg){ "seq_token", DT_I32, 1, { u->S }, -1 };
    a[A_TOKEN_SEQ] = (hlo_arg){ "token_seq", DT_I32, 1, { u->T }, -1 };
    for (int i = A_TILE_SEQ; i < A_TILES; i++) a[i] = (hlo_arg){ "tile", DT_I32, 1, { u->n_tiles }, -1 };
    a[A_TILES] = (hlo_arg){ "tiles", DT_I32, 0, { 0 }, -1 };
    return N_ARGS;
}

static hlo_val columns(hlo *h, const setup *u, hlo_val x, int64_t from, int64_t heads)
{
    return hlo_reshape(h, hlo_slice(h, x, 1, from * u->d, (from + heads) * u->d), 3, (int64_t[]){ u->T, heads, u->d });
}

static status program_text(const setup *u, buf *out)
{
    hlo h;
    hlo_arg args[N_ARGS];
    hlo_val a[N_ARGS] = {{0}}, carried[2], next[2];
    hlo_begin(&h, "attention", (mesh){ 1, 1, false, false }, args, list_args(u, args), a);
    hlo_step s = { .T = u->T, .S = u->S, .decode = u->decode, .act = u->act, .page = u->page, .max_pages = u->max_pages, .q_tile = u->q_tile,
                   .n_tiles = u->n_tiles, .write_page = a[A_WRITE_PAGE], .write_slot = a[A_WRITE_SLOT], .page_table = a[A_TABLE], .kv_lens = a[A_LENS],
                   .seq_token = a[A_SEQ_TOKEN], .token_seq = a[A_TOKEN_SEQ], .tile_seq = a[A_TILE_SEQ], .tile_token = a[A_TILE_TOKEN],
                   .tile_pos = a[A_TILE_POS], .tile_len = a[A_TILE_LEN], .tiles = a[A_TILES],
                   .attention.head_multiple = u->multiple };
    node n = { .op = OP_PAGED_ATTENTION, .a.paged_attention = { .cache = 0, .scale = 1 / sqrt((double)u->d), .window = u->window } };
    hlo_val layer = hlo_for(&h, hlo_int(&h, DT_I32, 0), hlo_int(&h, DT_I32, u->layers), (hlo_val[]){ a[A_X], a[A_CACHE] }, 2, carried);
    hlo_call c = { .h = &h, .n = &n, .step = &s, .cache = carried[1], .first_page = hlo_bin_scalar(&h, "multiply", layer, (double)u->n_pages) };
    c.in[0] = columns(&h, u, carried[0], 0, u->heads);
    c.in[1] = columns(&h, u, carried[0], u->heads, u->kv_heads);
    c.in[2] = columns(&h, u, carried[0], u->heads + u->kv_heads, u->kv_heads);
    hlo_val y = op_impl_of(OP_PAGED_ATTENTION)->hlo(&c);
    y = hlo_pad(&h, hlo_reshape(&h, y, 2, (int64_t[]){ u->T, u->heads * u->d }), 1, 0, 2 * u->kv_heads * u->d, hlo_float(&h, u->act, 0));
    next[0] = hlo_bin(&h, "add", carried[0], y);
    next[1] = c.cache;
    hlo_end_for(&h, next, carried);
    return hlo_finish(&h, carried, 2, out);
}

/* ---- a batch ---- */

enum { MAX_SEQS = 8, MAX_TOKENS = 64, MAX_PAGES = 40 };

typedef struct world {
    setup u;
    batch b;
    int32_t cu[MAX_SEQS + 1], lens[MAX_SEQS], table[MAX_SEQS * MAX_PAGES], slots[MAX_TOKENS];
    int32_t ints[N_ARGS][MAX_SEQS * MAX_PAGES];     /* arguments */
    float *x, *k, *v;                               /* [T][width]; [layers][slots][kv_heads * d] */
    void *cache;                                    /* as the device keeps it */
    size_t cache_elements;
} world;

static uint32_t seed = 1;
static uint32_t draw(void) { return (seed = seed * 1664525u + 1013904223u) >> 8; }
static float draw_real(void) { return (float)draw() / (float)(1 << 23) - 1; }

static float rounded(dtype t, float f)
{
    uint32_t bits = 0;
    float r;
    dtype_from_f32(t, &f, &bits, 1);
    dtype_to_f32(t, &bits, &r, 1);
    return r;
}

/* Where element i of a head's K (or V) of a slot of a layer lies in the cache. */
static size_t cache_at(const setup *u, int64_t layer, int64_t slot, int64_t head, int64_t i, bool v)
{
    hlo_kv kv = kv_of(u);
    int64_t row = (layer * u->n_pages * u->page + slot) * kv.rows + (kv.head_lanes ? 0 : head) + (v ? kv.v_row : 0);
    return (size_t)(row * kv.lanes + (v ? kv.v_lane : 0) + head * kv.head_lanes + i);
}

static void set_cache(world *w, size_t at, float f) { dtype_from_f32(w->u.kv, &f, (char *)w->cache + dtype_bytes(w->u.kv, at), 1); }

/* NaN everywhere, then what a slot holds: keys and values, zeros beside them. */
static void set_slot(world *w, int64_t layer, int64_t slot)
{
    const setup *u = &w->u;
    hlo_kv kv = kv_of(u);
    size_t row0 = cache_at(u, layer, slot, 0, 0, false);
    for (size_t i = 0; i < (size_t)(kv.rows * kv.lanes); i++) set_cache(w, row0 + i, 0);
    for (int64_t i = 0; i < u->kv_heads * u->d; i++) {
        int64_t at = (layer * u->n_pages * u->page + slot) * u->kv_heads * u->d + i;
        set_cache(w, cache_at(u, layer, slot, i / u->d, i % u->d, false), w->k[at]);
        set_cache(w, cache_at(u, layer, slot, i / u->d, i % u->d, true), w->v[at]);
    }
}

static void fill_values(world *w)
{
    const setup *u = &w->u;
    int64_t n = u->layers * u->n_pages * u->page * u->kv_heads * u->d;
    w->x = mem_calloc((size_t)(u->T * width_of(u)), sizeof(float));
    w->k = mem_calloc((size_t)n, sizeof(float));
    w->v = mem_calloc((size_t)n, sizeof(float));
    w->cache_elements = (size_t)cache_at(u, u->layers, 0, 0, 0, false);
    w->cache = mem_calloc(w->cache_elements, 4);
    for (int64_t i = 0; i < u->T * width_of(u); i++) w->x[i] = rounded(u->act, 2 * draw_real());
    for (int64_t i = 0; i < n; i++) {
        w->k[i] = rounded(u->kv, draw_real());
        w->v[i] = rounded(u->kv, draw_real());
    }
    for (size_t i = 0; i < w->cache_elements; i++) set_cache(w, i, NAN);
    for (int64_t layer = 0; layer < u->layers; layer++)
        for (int s = 0; s < w->b.n_seqs; s++)
            for (int pos = 0; pos < w->lens[s] - (w->cu[s + 1] - w->cu[s]); pos++)
                set_slot(w, layer, (int64_t)w->table[s * u->max_pages + pos / u->page] * u->page + pos % u->page);
}

/* Pages in a shuffled order; those outside a window are of nobody. */
static void place(world *w, const int *q_lens, const int *kv_lens, int n_seqs)
{
    const setup *u = &w->u;
    int32_t free_page = 1, step = 7;
    w->b = (batch){ .n_seqs = n_seqs, .cu_q_lens = w->cu, .kv_lens = w->lens, .page_table = w->table, .max_pages = (int)u->max_pages, .slots = w->slots };
    for (int s = 0; s < n_seqs; s++) {
        w->cu[s + 1] = w->cu[s] + q_lens[s];
        w->lens[s] = kv_lens[s];
        for (int64_t p = 0; p * u->page < kv_lens[s]; p++) w->table[s * u->max_pages + p] = (int32_t)(1 + free_page++ * step % (u->n_pages - 1));
        for (int t = w->cu[s]; t < w->cu[s + 1]; t++) {
            int64_t pos = kv_lens[s] - (w->cu[s + 1] - t);
            w->slots[t] = (int32_t)(w->table[s * u->max_pages + pos / u->page] * u->page + pos % u->page);
        }
    }
    w->b.n_tokens = w->cu[n_seqs];
}

/* The step's integers, as the device's side of the contract has them (ops/hlo.h). */
static void fill_ints(world *w)
{
    const setup *u = &w->u;
    int n_tiles = 0;
    memcpy(w->ints[A_TABLE], w->table, sizeof w->table);
    for (int t = 0; t < u->T; t++) {
        w->ints[A_WRITE_PAGE][t] = t < w->b.n_tokens ? w->slots[t] / (int32_t)u->page : 0;
        w->ints[A_WRITE_SLOT][t] = t < w->b.n_tokens ? w->slots[t] % (int32_t)u->page : t % (int32_t)u->page;
        w->ints[A_TOKEN_SEQ][t] = -1;
    }
    for (int s = 0; s < w->b.n_seqs; s++) {
        int q = w->cu[s + 1] - w->cu[s];
        if (q == 1) {
            w->ints[A_LENS][s] = w->lens[s];
            w->ints[A_SEQ_TOKEN][s] = w->cu[s];
            w->ints[A_TOKEN_SEQ][w->cu[s]] = s;
            continue;
        }
        for (int at = 0; at < q; at += (int)u->q_tile, n_tiles++) {
            w->ints[A_TILE_SEQ][n_tiles] = s;
            w->ints[A_TILE_TOKEN][n_tiles] = w->cu[s] + at;
            w->ints[A_TILE_POS][n_tiles] = w->lens[s] - q + at;
            w->ints[A_TILE_LEN][n_tiles] = q - at < u->q_tile ? q - at : (int)u->q_tile;
        }
    }
    w->ints[A_TILES][0] = n_tiles;
}

static void world_free(world *w)
{
    mem_free(w->x);
    mem_free(w->k);
    mem_free(w->v);
    mem_free(w->cache);
}

/* ---- run it ---- */

static pjrt_buffer *upload(pjrt_client *c, const hlo_arg *a, const void *data)
{
    pjrt_buffer *b = NULL;
    CHECK_OK(pjrt_upload(c, 0, a->type, a->dim, (size_t)a->rank, data, PJRT_HOLD_CALL, &b, NULL));
    return b;
}

/* out: x after all layers [T][width]; w->cache is replaced. */
static void run_device(world *w, float *out)
{
    const setup *u = &w->u;
    pjrt_client *c = cpu();
    buf text = {0};
    pjrt_program *p = NULL;
    hlo_arg args[N_ARGS];
    pjrt_buffer *in[N_ARGS] = {0}, *res[2] = {0};
    int n = list_args(u, args);
    size_t x_n = (size_t)(u->T * width_of(u));
    void *x = mem_alloc(x_n * 4);
    REQUIRE_OK(program_text(u, &text));
    REQUIRE_OK(pjrt_compile(c, &(pjrt_source){ u->name, text.data, text.len }, &(pjrt_compile_options){0}, &p));
    if (getenv("ATTN_PRINT")) printf("%s\n", text.data);
    dtype_from_f32(u->act, w->x, x, x_n);
    for (int i = 0; i < n; i++) in[i] = upload(c, &args[i], i == A_X ? x : i == A_CACHE ? w->cache : (void *)w->ints[i]);
    REQUIRE_OK(pjrt_execute(p, in, (size_t)n, NULL, 0, res, NULL));
    CHECK_OK(pjrt_download_now(c, res[0], x, dtype_bytes(u->act, x_n)));
    CHECK_OK(pjrt_download_now(c, res[1], w->cache, dtype_bytes(u->kv, w->cache_elements)));
    dtype_to_f32(u->act, x, out, x_n);
    CHECK(pjrt_program_stats(p)->alias_bytes >= (int64_t)dtype_bytes(u->kv, w->cache_elements));
    for (int i = 0; i < n; i++) pjrt_buffer_free(c, in[i]);
    for (int i = 0; i < 2; i++) pjrt_buffer_free(c, res[i]);
    pjrt_program_free(p);
    buf_free(&text);
    mem_free(x);
}

/* The same by the reference; x becomes its result, k and v the caches. */
static void run_ref(world *w)
{
    const setup *u = &w->u;
    node n = { .op = OP_PAGED_ATTENTION, .a.paged_attention = { .cache = 0, .scale = 1 / sqrt((double)u->d), .window = u->window } };
    int64_t t_n = w->b.n_tokens, widths[] = { u->heads * u->d, u->kv_heads * u->d, u->kv_heads * u->d }, per_layer = u->n_pages * u->page * u->kv_heads * u->d;
    for (int64_t layer = 0; layer < u->layers; layer++) {
        ref_cache cache = { u->kv, w->k + layer * per_layer, w->v + layer * per_layer };
        ref_call c = { .n = &n, .b = &w->b, .caches = &cache, .block_size = (int)u->page };
        for (int64_t i = 0, from = 0; i < 3; from += widths[i++]) {
            c.in[i] = (ref_tensor){ .rank = 3, .dim = { t_n, widths[i] / u->d, u->d }, .f = mem_calloc((size_t)(t_n * widths[i]), 4) };
            for (int64_t t = 0; t < t_n; t++) memcpy(c.in[i].f + t * widths[i], w->x + t * width_of(u) + from, (size_t)widths[i] * 4);
        }
        c.out = c.in[0];
        c.out.f = mem_calloc((size_t)(t_n * widths[0]), 4);
        op_impl_of(OP_PAGED_ATTENTION)->ref(&c);
        for (int64_t i = 0; i < t_n * widths[0]; i++) {
            float *to = &w->x[i / widths[0] * width_of(u) + i % widths[0]];
            *to = rounded(u->act, *to + c.out.f[i]);
        }
        for (int i = 0; i < 3; i++) mem_free(c.in[i].f);
        mem_free(c.out.f);
    }
}

/* New keys and values are where they belong, bit by bit, and nothing else has changed but the layers' page 0. */
static void check_cache(world *w, char *before)
{
    const setup *u = &w->u;
    size_t row_bytes = dtype_bytes(u->kv, cache_at(u, 0, 1, 0, 0, false));
    char *after = w->cache;
    w->cache = before;
    for (int64_t layer = 0; layer < u->layers; layer++) {
        for (int t = 0; t < w->b.n_tokens; t++) set_slot(w, layer, w->slots[t]);
        for (int64_t slot = u->page; slot < u->n_pages * u->page; slot++) {
            size_t at = dtype_bytes(u->kv, cache_at(u, layer, slot, 0, 0, false));
            if (memcmp(before + at, after + at, row_bytes) != 0) {
                FAIL("%s: layer %d, slot %d of the cache is wrong", u->name, (int)layer, (int)slot);
                layer = u->layers;
                break;
            }
        }
    }
    w->cache = after;
}

static void check(setup u, const int *q_lens, const int *kv_lens, int n_seqs)
{
    static world w;
    memset(&w, 0, sizeof w);
    int64_t pages = 2;
    for (int i = 0; i < n_seqs; i++) pages += (kv_lens[i] + u.page - 1) / u.page;
    if (pages % 7 == 1) pages++;        /* page numbers step by 7 */
    u.n_pages = pages;
    u.layers = 2;
    w.u = u;
    place(&w, q_lens, kv_lens, n_seqs);
    fill_values(&w);
    fill_ints(&w);
    float *got = mem_calloc((size_t)(u.T * width_of(&u)), sizeof(float));
    size_t bytes = dtype_bytes(u.kv, w.cache_elements);
    void *before = mem_alloc(bytes);
    memcpy(before, w.cache, bytes);
    run_device(&w, got);
    run_ref(&w);
    double tol = u.act == DT_F32 ? 5e-6 : u.act == DT_F16 ? 4e-3 : 3e-2, worst = 0;
    for (int64_t i = 0; i < u.T * width_of(&u); i++) {
        if (!isfinite(got[i])) { FAIL("%s: token %d is not finite", u.name, (int)(i / width_of(&u))); break; }
        if (i >= w.b.n_tokens * width_of(&u)) continue;
        double e = fabs((double)got[i] - (double)w.x[i]) / (1 + fabs((double)w.x[i]));
        worst = e > worst ? e : worst;
        if (e > tol) { FAIL("%s: token %d, column %d is %g, wanted %g", u.name, (int)(i / width_of(&u)), (int)(i % width_of(&u)), (double)got[i], (double)w.x[i]); break; }
    }
    if (getenv("ATTN_VERBOSE")) printf("  %s act %s kv %s: worst %g\n", u.name, dtype_name(u.act), dtype_name(u.kv), worst);
    check_cache(&w, before);
    mem_free(before);
    mem_free(got);
    world_free(&w);
}

/* ---- the compiler in a child, before this process loads a plugin ---- */

/* A layer of a real model, 32 of it. */
static setup real(const char *name, bool decode, int64_t page, int64_t S, int64_t T, int64_t context)
{
    return (setup){ .name = name, .act = DT_BF16, .kv = DT_BF16, .heads = 32, .kv_heads = 8, .d = 128, .page = page, .max_pages = context / page, .n_pages = 65536 / page,
                    .layers = 32, .decode = decode, .T = T, .S = S, .q_tile = 128, .n_tiles = decode ? 0 : T / 128 + S };
}

static void compile_for(pjrt_compiler *k, const char *target, const setup *u)
{
    buf text = {0}, exe = {0};
    pjrt_stats s;
    pjrt_values v = {0};
    const char *more = getenv("ATTN_OVERRIDES");
    CHECK_OK(pjrt_values_parse(more ? more : strstr(target, "7x") ? "xla_tpu_control_large_2nd_minor_layout_for_x16=false" : "", &v));
    pjrt_compile_options o = { .overrides = v.v, .n_overrides = v.n };
    hlo_kv kv = kv_of(u);
    int64_t activation_bytes = 6 * (int64_t)dtype_bytes(u->act, (size_t)(u->T * width_of(u)));
    int64_t layer_bytes = u->n_pages * u->page * kv.rows * kv.lanes * (int64_t)dtype_bytes(u->kv, 1);
    CHECK_OK(program_text(u, &text));
    const char *save = getenv("ATTN_SAVE");
    if (save) {
        char path[300];
        snprintf(path, sizeof path, "%s/%s.mlir", save, u->name);
        FILE *f = fopen(path, "w");
        if (f && fwrite(text.data, 1, text.len, f) == text.len) fclose(f);
    }
    status st = pjrt_compiler_run(k, &(pjrt_source){ u->name, text.data, text.len }, &o, &exe, &s);
    if (st != ST_OK) FAIL("%s for %s: %s", u->name, target, err_msg());
    else {
        printf("  %-10s %-28s %6.1f s  temporaries %8.1f MB  code %5.2f MB  aliased %s\n", target, u->name, s.compile_s, (double)s.temp_bytes / 1e6, (double)s.code_bytes / 1e6,
               s.alias_bytes >= layer_bytes * u->layers ? "yes" : "NO");
        CHECK(s.alias_bytes >= layer_bytes * u->layers);
        CHECK(s.temp_bytes < layer_bytes + activation_bytes);
    }
    pjrt_values_free(&v);
    buf_free(&text);
    buf_free(&exe);
    fflush(stdout);
}

TEST(no_chip_copies_the_cache)
{
    NEED_TPU;
    const char *list = getenv("ATTN_TARGETS"), *only = getenv("ATTN_ONLY");
    char targets[400];
    snprintf(targets, sizeof targets, "%s", list ? list : "v6e:1x1");
    setup all[32];
    char names[32][64];
    int n = 0, heads, kv_heads, d, page;
    /* Shapes of a layer: query heads/KV heads x size, page; narrow heads share rows of the cache. */
    const char *shapes = getenv("ATTN_SHAPES");
    if (!shapes) shapes = list ? "32/8x128,16 32/8x128,128 32/2x64,16 32/8x64,16 10/5x80,16 32/1x128,16 16/8x256,16" : "32/8x128,16 32/2x64,16";
    for (const char *at = shapes; at && n < 31 && sscanf(at, "%d/%dx%d,%d", &heads, &kv_heads, &d, &page) == 4; at = strchr(at, ' ') ? strchr(at, ' ') + 1 : NULL)
        for (int decode = 1; decode >= 0; decode--, n++) {
            snprintf(names[n], sizeof names[n], "%s %d/%d x %d, page %d", decode ? "decode" : "mixed", heads, kv_heads, d, page);
            all[n] = real(names[n], decode, page, 64, decode ? 64 : 2048, 8192);
            all[n].heads = heads;
            all[n].kv_heads = kv_heads;
            all[n].d = d;
        }
    for (char *at = strtok(targets, ","); at; at = strtok(NULL, ",")) {
        pjrt_place place = {0};
        pjrt_compiler *k = NULL;
        REQUIRE_OK(pjrt_target_parse(at, &place));
        REQUIRE_OK(pjrt_compiler_open(&(pjrt_compiler_options){ .plugin = path, .topology = place.path, .options = place.options }, &k));
        for (int i = 0; i < n; i++)
            if (!only || strstr(all[i].name, only)) compile_for(k, at, &all[i]);
        pjrt_compiler_close(k);
        pjrt_place_free(&place);
    }
}

/* ---- against the reference ---- */

static const int one_q[] = { 1, 1, 1, 1 }, one_kv[] = { 1, 17, 40, 97 };
static const int mixed_q[] = { 13, 1, 8, 1, 20 }, mixed_kv[] = { 13, 33, 50, 1, 70 };

static setup decode_of(const char *name, int64_t heads, int64_t kv_heads, int64_t d, int64_t page, int64_t window, dtype act, dtype kv)
{
    return (setup){ .name = name, .act = act, .kv = kv, .heads = heads, .kv_heads = kv_heads, .d = d, .page = page, .window = window, .max_pages = 128 / page,
                    .decode = true, .T = 5, .S = 5 };
}
static setup mixed_of(const char *name, int64_t heads, int64_t kv_heads, int64_t d, int64_t page, int64_t window, dtype act, dtype kv)
{
    setup u = decode_of(name, heads, kv_heads, d, page, window, act, kv);
    u.decode = false;
    u.T = 48;
    u.S = 6;
    u.q_tile = 8;
    u.n_tiles = 9;
    return u;
}
static void check_both(int64_t heads, int64_t kv_heads, int64_t d, int64_t page, int64_t window, dtype act, dtype kv)
{
    char name[100];
    snprintf(name, sizeof name, "%s %d/%d heads of %d, page %d, window %d", "decode", (int)heads, (int)kv_heads, (int)d, (int)page, (int)window);
    check(decode_of(name, heads, kv_heads, d, page, window, act, kv), one_q, one_kv, 4);
    memcpy(name, "mixed ", 6);
    check(mixed_of(name, heads, kv_heads, d, page, window, act, kv), mixed_q, mixed_kv, 5);
}

TEST(layouts_are_those_that_no_chip_copies)
{
    static const struct { int64_t heads, d, rows, lanes, v_row, v_lane, head_lanes; } want[] = {
        { 8, 128, 16, 128, 8, 0, 0 }, { 1, 128, 1, 256, 0, 128, 128 }, { 2, 64, 1, 256, 0, 64, 128 }, { 5, 16, 8, 128, 0, 64, 0 }, { 10, 64, 16, 128, 0, 64, 0 },
        { 17, 64, 32, 128, 0, 64, 0 }, { 5, 80, 16, 128, 8, 0, 0 }, { 3, 256, 8, 256, 4, 0, 0 }, { 9, 128, 32, 128, 16, 0, 0 }, { 1, 192, 1, 512, 0, 256, 256 },
        { 1, 64, 1, 128, 0, 64, 128 }, { 3, 64, 1, 384, 0, 64, 128 }, { 2, 128, 1, 512, 0, 256, 128 }, { 4, 128, 8, 128, 4, 0, 0 } };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        hlo_kv kv = hlo_kv_of(DT_BF16, want[i].heads, want[i].d);
        CHECK_INT(kv.rows, want[i].rows);
        CHECK_INT(kv.lanes, want[i].lanes);
        CHECK_INT(kv.v_row, want[i].v_row);
        CHECK_INT(kv.v_lane, want[i].v_lane);
        CHECK_INT(kv.head_lanes, want[i].head_lanes);
    }
}

TEST(padded_heads_take_whole_multiples)
{
    static const struct { int64_t heads, d; int multiple; int64_t rows, lanes, v_row, v_lane, head_lanes, width; } want[] = {
        { 8, 128, 256, 16, 256, 8, 0, 0, 256 }, { 8, 64, 128, 16, 128, 8, 0, 0, 128 }, { 8, 64, 256, 16, 256, 8, 0, 0, 256 }, { 2, 64, 128, 1, 512, 0, 256, 128, 128 },
        { 1, 80, 256, 1, 512, 0, 256, 256, 256 }, { 8, 192, 128, 16, 256, 8, 0, 0, 256 }, { 8, 64, 64, 8, 128, 0, 64, 0, 128 }, { 8, 257, 256, 16, 512, 8, 0, 0, 512 } };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        hlo_kv kv = hlo_kv_padded(DT_BF16, want[i].heads, want[i].d, want[i].multiple);
        CHECK_INT(kv.rows, want[i].rows);
        CHECK_INT(kv.lanes, want[i].lanes);
        CHECK_INT(kv.v_row, want[i].v_row);
        CHECK_INT(kv.v_lane, want[i].v_lane);
        CHECK_INT(kv.head_lanes, want[i].head_lanes);
        CHECK_INT(kv.width, want[i].width);
    }
}

/* XLA compiles each form for a second or two: without SYSTOLIC_TEST_FULL=1 a part of them is tried. */
static bool all_forms(void) { return getenv("SYSTOLIC_TEST_FULL") != NULL; }

/* Heads as the attention policies pad them, in pages as they choose them: the same results. */
static void check_padded(int64_t d, int multiple, int64_t page, bool decode)
{
    char name[100];
    snprintf(name, sizeof name, "%s head of %d, multiple of %d, page %d", decode ? "decode" : "mixed", (int)d, multiple, (int)page);
    setup u = decode ? decode_of(name, 8, 4, d, page, 0, DT_F32, DT_F32) : mixed_of(name, 8, 4, d, page, 0, DT_F32, DT_F32);
    u.multiple = multiple;
    if (decode) check(u, one_q, one_kv, 4);
    else check(u, mixed_q, mixed_kv, 5);
}

TEST(padded_heads_change_no_result)
{
    NEED_CPU;
    static const int64_t sizes[] = { 64, 80, 96, 128, 192, 256 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        check_padded(sizes[i], 256, 32, true);                      /* the table's for v6e */
        check_padded(sizes[i], 128, 16, i % 2);                     /* for the others */
        if (!all_forms()) continue;
        check_padded(sizes[i], 64, i % 2 ? 64 : 128, true);         /* auto: as unpadded, in larger pages */
        for (int k = 1; k < 4; k++) check_padded(sizes[i], 64 * k + (k == 3) * 64, 16, false);
    }
}

TEST(head_sizes)
{
    NEED_CPU;
    static const int64_t sizes[] = { 16, 80, 128, 32, 64, 96, 256 };
    for (size_t i = 0; i < (all_forms() ? 7 : 3); i++) check_both(4, 2, sizes[i], 16, 0, DT_F32, DT_F32);
}

TEST(groups_of_heads)
{
    NEED_CPU;
    check_both(6, 1, 64, 16, 0, DT_F32, DT_F32);
    check_both(4, 2, 48, 16, 9, DT_F32, DT_BF16);
    if (!all_forms()) return;
    check_both(4, 4, 64, 16, 0, DT_F32, DT_F32);
    check_both(6, 3, 128, 16, 0, DT_F32, DT_F32);
    check_both(6, 3, 48, 16, 0, DT_F32, DT_F32);
    check_both(16, 8, 32, 16, 0, DT_F32, DT_F32);
    check_both(2, 1, 256, 16, 9, DT_F32, DT_F32);
    check_both(5, 5, 80, 16, 0, DT_F32, DT_F32);
    check_both(1, 1, 128, 16, 0, DT_F32, DT_F32);
}

TEST(windows_and_page_sizes)
{
    NEED_CPU;
    static const int64_t windows[] = { 7, 1, 40 };
    for (size_t i = 0; i < (all_forms() ? 3 : 1); i++) {
        check_both(4, 2, 32, 16, windows[i], DT_F32, DT_F32);
        check_both(4, 2, 128, 4, windows[i], DT_F32, DT_F32);
    }
    check_both(4, 2, 64, 32, 0, DT_F32, DT_F32);
    if (all_forms()) check_both(4, 2, 64, 8, 0, DT_F32, DT_F32);
}

/* Pages that are read in parts: of 128 tokens (one query per sequence) and of 512 (tiles). */
TEST(large_pages)
{
    NEED_CPU;
    static const int long_kv[] = { 1, 200, 300, 700 }, long_mixed[] = { 13, 333, 600, 1, 270 };
    setup u = decode_of("decode, pages of 256", 4, 2, 64, 256, 0, DT_F32, DT_F32);
    u.max_pages = 3;
    check(u, one_q, long_kv, 4);
    u.window = 150;
    u.name = "decode, pages of 256, window";
    check(u, one_q, long_kv, 4);
    u = mixed_of("mixed, pages of 1024", 4, 2, 128, 1024, 0, DT_F32, DT_F32);
    u.max_pages = 2;
    check(u, mixed_q, long_mixed, 5);
}

TEST(types_of_activations_and_cache)
{
    NEED_CPU;
    static const dtype types[] = { DT_F32, DT_BF16, DT_F16 };
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            if (all_forms() || i == j) check_both(4, 2, j == 1 ? 64 : 128, 16, i == 0 ? 0 : 20, types[i], types[j]);
}

/* Every allocation of the text builder fails once: a status, and no leak. */
static status text_of(const setup *u)
{
    buf text = {0};
    status st = program_text(u, &text);
    buf_free(&text);
    return st;
}

TEST(out_of_memory_is_a_status)
{
    setup u = mixed_of("out of memory", 4, 2, 64, 16, 5, DT_F32, DT_F32);
    u.n_pages = 10;
    u.layers = 2;
    EVERY_ALLOCATION_FAILS(text_of(&u))
}

TEST_MAIN
