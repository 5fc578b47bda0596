/* experts as StableHLO: tokens in order of expert, each expert's rows padded to whole tiles, and a loop over the tiles that there
 * are, with one expert's weights each (as MegaBlocks has it: Gale et al. 2022, arXiv:2211.15841). Shapes are static, the loop's count
 * comes from the data: an expert without tokens is not read, one with few is read once, and nothing of [T, E, F] exists. One form
 * for decode and prefill, since a decode step's tiles are just the experts that it reaches.
 *
 * A slot is a row of a tile: first tile of its expert, place among the expert's tokens. A tile's results, times their weights, are
 * added to the tokens' rows of [T, H] in f32, in order of expert; the rows that fill a tile up belong to no token and are dropped.
 * (Keeping all slots' results and gathering them at the end took 2.2 GB of temporaries for 8192 tokens of 7168, this 0.6.)
 *
 * On TPUs a kernel multiplies all tiles by quantised weights (quantised_mosaic.h) instead of a loop over them: it reads the next expert while
 * it multiplies by one, and widens no expert in memory. Where there are many slots it does so for as many tiles at a time as fit (run_parts).
 *
 * Weights are sliced inside the loop, straight from the stack of all layers: a slice outside of it would be a copy. */
#include "ops/experts/experts.h"
#include "ops/glu/glu.h"
#include "ops/hlo_weight.h"
#include "ops/linear/quantised_mosaic.h"

/* Sums of x along a dimension up to and without each element; i32. */
static hlo_val before(hlo *h, hlo_val x, int along)
{
    hlo_val zero = hlo_int(h, DT_I32, 0), sum = x;
    int64_t n = x.dim[along];
    for (int64_t by = 1; by < n; by *= 2) sum = hlo_bin(h, "add", sum, hlo_slice(h, hlo_pad(h, sum, along, by, 0, zero), along, 0, n));
    return hlo_bin(h, "subtract", sum, x);
}

enum { LEAST_ROWS = 16, MOST_ROWS = 256 };

/* Rows of a tile: the mean number of an expert's tokens, within reason. */
static int64_t tile_rows(int64_t pairs, int64_t experts)
{
    int64_t rows = LEAST_ROWS;
    while (rows < MOST_ROWS && rows * experts < pairs) rows *= 2;
    return rows;
}

typedef struct plan {
    int64_t pairs, experts, top;        /* of tokens and experts here, at most; experts here; of a token, at most */
    int64_t rows, tiles, slots, at_once;    /* of a tile; at most; tiles * rows; tiles of a part (which tiles is a multiple of) */
    hlo_val n_tiles, expert;            /* i32 scalar; i32 [tiles] */
    hlo_val slot, taken;                /* [T, top] i32, i1: a token's slots, and whether it has so many */
    hlo_val token, weight;              /* [slots] i32 (T: none), f32 */
} plan;

static hlo_val column(hlo *h, hlo_val x) { return hlo_reshape(h, x, 2, (int64_t[]){ hlo_count(x), 1 }); }
static hlo_val flat(hlo *h, hlo_val x) { return hlo_reshape(h, x, 1, (int64_t[]){ hlo_count(x) }); }
static hlo_val zeros(hlo *h, dtype t, int64_t n) { return hlo_full(h, t == DT_F32 ? hlo_float(h, t, 0) : hlo_int(h, t, 0), 1, (int64_t[]){ n }); }

/* A token's j-th expert, ascending: its slot and weight, as columns of [T, top]. */
static void list_pairs(hlo *h, plan *p, hlo_val hit, hlo_val slot, hlo_val combine, hlo_val *weights)
{
    hlo_val order = before(h, hlo_convert(h, hit, DT_I32), 1), none_i = hlo_full_like(h, hlo_int(h, DT_I32, 0), slot), none_f = hlo_full_like(h, hlo_float(h, DT_F32, 0), combine);
    hlo_val slots[EXPERTS_MOST_TOP], taken[EXPERTS_MOST_TOP], weight[EXPERTS_MOST_TOP];
    for (int64_t j = 0; j < p->top; j++) {
        hlo_val is = hlo_bin(h, "and", hit, hlo_cmp_scalar(h, "EQ", order, (double)j));
        slots[j] = column(h, hlo_reduce(h, "add", hlo_select(h, is, slot, none_i), 1));
        weight[j] = column(h, hlo_reduce(h, "add", hlo_select(h, is, combine, none_f), 1));
        taken[j] = column(h, hlo_reduce(h, "or", is, 1));
    }
    p->slot = hlo_concat(h, slots, (int)p->top, 1);
    p->taken = hlo_concat(h, taken, (int)p->top, 1);
    *weights = hlo_concat(h, weight, (int)p->top, 1);
}

/* at_once 0: all. */
static void set_tiles(plan *p, int64_t rows, int64_t at_once)
{
    int64_t most = p->pairs < p->experts ? p->pairs : p->experts;
    p->rows = rows;
    p->tiles = most + (p->pairs - most) / rows;
    p->at_once = at_once && at_once < p->tiles ? at_once : p->tiles;
    p->tiles = (p->tiles + p->at_once - 1) / p->at_once * p->at_once;
    p->slots = p->tiles * rows;
}

static plan plan_of(const hlo_call *c, int64_t tokens)
{
    int64_t top = c->n->a.experts.top_k, experts = op_in(c->g, c->n, EXPERTS_W_IN)->dim[0];
    plan p = { .experts = experts, .top = top < experts ? top : experts };
    p.pairs = tokens * p.top;
    set_tiles(&p, tile_rows(p.pairs, experts), 0);
    return p;
}

/* combine: [T, experts here] */
static void fill_plan(hlo *h, plan *p, hlo_val combine)
{
    int64_t t = combine.dim[0], experts = p->experts;
    hlo_val hit = hlo_cmp_scalar(h, "NE", combine, 0), ones = hlo_convert(h, hit, DT_I32);
    hlo_val count = hlo_reduce(h, "add", ones, 0), shift = hlo_bin_scalar(h, "add", count, (double)(p->rows - 1));
    hlo_val tiles = hlo_bin_scalar(h, "divide", shift, (double)p->rows), first = before(h, tiles, 0), end = hlo_bin(h, "add", first, tiles), weights;
    p->n_tiles = hlo_reduce(h, "add", tiles, 0);
    hlo_val slot = hlo_bin(h, "add", before(h, ones, 0), hlo_broadcast_at(h, hlo_bin_scalar(h, "multiply", first, (double)p->rows), 1, ones));
    list_pairs(h, p, hit, slot, combine, &weights);
    /* which tokens the slots hold: pairs that are none fall off the end */
    hlo_val at = column(h, hlo_select(h, p->taken, p->slot, hlo_full_like(h, hlo_int(h, DT_I32, p->slots), p->slot)));
    p->token = hlo_put(h, hlo_full(h, hlo_int(h, DT_I32, t), 1, &p->slots), at, flat(h, hlo_iota(h, DT_I32, 0, 2, p->slot.dim)));
    p->weight = hlo_put(h, zeros(h, DT_F32, p->slots), at, flat(h, weights));
    /* a tile's expert: as many as end before it */
    const int64_t dim[] = { p->tiles, experts };
    hlo_val past = hlo_cmp(h, "LE", hlo_broadcast(h, end, (int[]){ 1 }, 2, dim), hlo_iota(h, DT_I32, 0, 2, dim));
    p->expert = hlo_bin_scalar(h, "minimum", hlo_reduce(h, "add", hlo_convert(h, past, DT_I32), 1), (double)(experts - 1));
}

/* One expert's tensor of a weight's piece, which has `rank` dimensions with its experts: w[e], or of a stack of layers w[layer][e]. */
static hlo_val one_expert(hlo_call *c, hlo_val w, int rank, hlo_val e)
{
    hlo_val starts[HLO_RANK] = { { 0 } };
    int64_t sizes[HLO_RANK], dim[HLO_RANK];
    int lead = w.rank - rank + 1;
    starts[lead - 1] = e;
    if (lead == 2) starts[0] = c->layer;
    for (int i = 0; i < w.rank; i++) sizes[i] = i < lead ? 1 : w.dim[i];
    for (int i = lead; i < w.rank; i++) dim[i - lead] = w.dim[i];
    return hlo_reshape(c->h, hlo_dynamic_slice(c->h, w, starts, sizes), w.rank - lead, dim);
}

/* All pieces of one expert's. */
static hlo_weight expert_weight(hlo_call *c, int input, hlo_val e)
{
    hlo_weight w = c->w[input];
    shape s;
    for (int p = 0; p < WEIGHT_PIECES; p++)
        if (hlo_weight_shape(graph_node(c->g, c->n->in[input]), (weight_piece)p, &s)) w.piece[p] = one_expert(c, w.piece[p], s.rank, e);
    return w;
}

/* x [rows, K] by the expert's [N, K], with its bias: f32. */
static hlo_val product(hlo_call *c, hlo_val x, int weight, int bias, hlo_val e)
{
    hlo *h = c->h;
    hlo_weight w = expert_weight(c, weight, e);
    hlo_val y = hlo_product(h, x, &w);
    if (!hlo_is(c->in[bias])) return y;
    hlo_val b = hlo_convert(h, one_expert(c, c->in[bias], 2, e), DT_F32);
    if (bias == EXPERTS_BIAS_OUT && c->n->a.experts.cut > 1) {   /* the ranks' results are summed: one adds it */
        hlo_val mine = hlo_cmp_scalar(h, "EQ", hlo_bin_scalar(h, "remainder", hlo_tensor_rank(h), (double)c->n->a.experts.cut), 0);
        b = hlo_bin(h, "multiply", b, hlo_full_like(h, hlo_convert(h, mine, DT_F32), b));
    }
    return hlo_bin(h, "add", y, hlo_broadcast_at(h, b, 1, y));
}

/* The sum with one tile's results. */
static hlo_val run_tile(hlo_call *c, const plan *p, hlo_val at, hlo_val sum)
{
    hlo *h = c->h;
    const node *n = c->n;
    int64_t f = op_in(c->g, n, EXPERTS_W_OUT)->dim[2];
    hlo_val row = hlo_bin_scalar(h, "multiply", at, (double)p->rows), e = hlo_row(h, p->expert, at);
    hlo_val token = hlo_dynamic_slice(h, p->token, &row, &p->rows), weight = hlo_dynamic_slice(h, p->weight, &row, &p->rows);
    hlo_val x = hlo_take(h, c->in[EXPERTS_X], token);
    if (n->a.experts.scale_input) {
        x = hlo_convert(h, x, DT_F32);
        x = hlo_convert(h, hlo_bin(h, "multiply", x, hlo_broadcast_at(h, weight, 0, x)), c->in[EXPERTS_X].type);
    }
    hlo_val y = product(c, x, EXPERTS_W_IN, EXPERTS_BIAS_IN, e);
    y = hlo_glu(h, (activation)n->a.experts.act, n->a.experts.alpha, n->a.experts.limit, hlo_slice(h, y, 1, 0, f), hlo_slice(h, y, 1, f, 2 * f));
    y = product(c, hlo_convert(h, y, c->step->act), EXPERTS_W_OUT, EXPERTS_BIAS_OUT, e);
    if (!n->a.experts.scale_input) y = hlo_bin(h, "multiply", y, hlo_broadcast_at(h, weight, 0, y));
    return hlo_put_add(h, sum, column(h, token), y);
}

/* ---- tiles by one kernel each way ---- */

int64_t experts_part_bytes = 64 << 20;

static int64_t slot_bytes(const hlo_call *c)
{
    const shape *in = op_in(c->g, c->n, EXPERTS_W_IN), *out = op_in(c->g, c->n, EXPERTS_W_OUT);
    return 2 * in->dim[2] + 5 * in->dim[1] + 4 * out->dim[1];
}

static bool does(const hlo_call *c, int64_t rows, int64_t tiles, const char **why)
{
    return quantised_matmul_does(c, EXPERTS_W_IN, rows, tiles, why) && quantised_matmul_does(c, EXPERTS_W_OUT, rows, tiles, why);
}

/* For more slots than are to be in memory: parts of them. Tiles have room for what an expert gets on average of all the model's experts, and a quarter more since
 * they get different numbers: a second tile costs the matrix unit as much as the first one, rows of a tile that hold nothing cost what others do. */
static bool plan_parts(const hlo_call *c, plan *p, int64_t of_experts, const char **why)
{
    int64_t mean = p->pairs / p->top * c->n->a.experts.top_k / of_experts;
    for (int64_t rows = tile_rows(mean + mean / 4, 1); rows >= LEAST_ROWS; rows /= 2) {
        int64_t at_once = experts_part_bytes / (slot_bytes(c) * rows);
        set_tiles(p, rows, at_once > 2 ? at_once : 2);
        if (does(c, rows, p->at_once, why)) return true;
    }
    return false;
}

/* Are both products better as kernels? Then p says how many tiles they get. of_experts: of the whole model. */
static bool by_kernels(const hlo_call *c, plan *p, int64_t of_experts)
{
    const char *why = NULL;
    plan parts = *p;
    bool few = p->slots * slot_bytes(c) <= experts_part_bytes;
    if (few && does(c, p->rows, p->tiles, &why)) return true;
    if (plan_parts(c, &parts, of_experts, &why)) {
        *p = parts;
        return true;
    }
    if (c->w[EXPERTS_W_IN].scheme && c->step->attention.chip) hlo_comment(c->h, "StableHLO: %s", why);
    return false;
}

/* The bias of each slot's expert, [slots, N] f32. */
static hlo_val slot_bias(hlo_call *c, const plan *p, int bias)
{
    hlo *h = c->h;
    hlo_val b = c->in[bias];
    if (b.rank == 3) b = hlo_row(h, b, c->layer);
    b = hlo_convert(h, hlo_take(h, b, p->expert), DT_F32);      /* [tiles, N] */
    const int64_t dim[] = { p->tiles, p->rows, b.dim[1] };
    return hlo_reshape(h, hlo_broadcast(h, b, (int[]){ 0, 2 }, 3, dim), 2, (int64_t[]){ p->slots, b.dim[1] });
}

static hlo_val all_tiles(hlo_call *c, const plan *p, hlo_val x, int weight, int bias)
{
    hlo *h = c->h;
    const char *why;
    hlo_val y;
    if (!quantised_matmul_call(c, x, weight, p->tiles, p->expert, p->n_tiles, &y, &why)) {
        hlo_fail(h, "experts: %s", why);
        return x;
    }
    if (!hlo_is(c->in[bias])) return y;
    hlo_val b = slot_bias(c, p, bias);
    if (bias == EXPERTS_BIAS_OUT && c->n->a.experts.cut > 1) {      /* the ranks' results are summed: one adds it */
        hlo_val mine = hlo_cmp_scalar(h, "EQ", hlo_bin_scalar(h, "remainder", hlo_tensor_rank(h), (double)c->n->a.experts.cut), 0);
        b = hlo_bin(h, "multiply", b, hlo_full_like(h, hlo_convert(h, mine, DT_F32), b));
    }
    return hlo_bin(h, "add", y, b);
}

/* The slots' rows through both products: f32, without their weights unless these are the input's. */
static hlo_val both_products(hlo_call *c, const plan *p)
{
    hlo *h = c->h;
    const node *n = c->n;
    int64_t f = op_in(c->g, n, EXPERTS_W_OUT)->dim[2];
    hlo_val x = hlo_take(h, c->in[EXPERTS_X], p->token);
    if (n->a.experts.scale_input) {
        x = hlo_convert(h, x, DT_F32);
        x = hlo_convert(h, hlo_bin(h, "multiply", x, hlo_broadcast_at(h, p->weight, 0, x)), c->in[EXPERTS_X].type);
    }
    hlo_val y = all_tiles(c, p, x, EXPERTS_W_IN, EXPERTS_BIAS_IN);
    y = hlo_glu(h, (activation)n->a.experts.act, n->a.experts.alpha, n->a.experts.limit, hlo_slice(h, y, 1, 0, f), hlo_slice(h, y, 1, f, 2 * f));
    return all_tiles(c, p, hlo_convert(h, y, c->step->act), EXPERTS_W_OUT, EXPERTS_BIAS_OUT);
}

/* All slots at once, and each token's few of them added up, in order of expert. */
static hlo_val run_slots(hlo_call *c, const plan *p)
{
    hlo *h = c->h;
    const node *n = c->n;
    int64_t t = p->slot.dim[0];
    hlo_val y = both_products(c, p), sum = { 0 };
    for (int64_t j = 0; j < p->top; j++) {      /* slots that are not there hold anything */
        hlo_val at = flat(h, hlo_slice(h, p->slot, 1, j, j + 1)), taken = flat(h, hlo_slice(h, p->taken, 1, j, j + 1)), row = hlo_take(h, y, at);
        if (!n->a.experts.scale_input) row = hlo_bin(h, "multiply", row, hlo_broadcast_at(h, hlo_take(h, p->weight, at), 0, row));
        const int64_t dim[] = { t, row.dim[1] };
        row = hlo_select(h, hlo_broadcast(h, taken, (int[]){ 0 }, 2, dim), row, hlo_full_like(h, hlo_float(h, DT_F32, 0), row));
        sum = j ? hlo_bin(h, "add", sum, row) : row;
    }
    return hlo_convert(h, sum, c->step->act);
}

/* As many tiles at a time as fit, added to the sum of [T, H]; as many parts as there are. Only where a part ends within an expert's tiles
 * is that expert read twice. */
static hlo_val run_parts(hlo_call *c, const plan *p, hlo_val sum)
{
    hlo *h = c->h;
    hlo_val parts = hlo_bin_scalar(h, "divide", hlo_bin_scalar(h, "add", p->n_tiles, (double)(p->at_once - 1)), (double)p->at_once), in;
    hlo_val i = hlo_for(h, hlo_int(h, DT_I32, 0), parts, &sum, 1, &in);
    plan part = *p;
    part.tiles = p->at_once;
    part.slots = p->at_once * p->rows;
    hlo_val first = hlo_bin_scalar(h, "multiply", i, (double)part.tiles), row = hlo_bin_scalar(h, "multiply", i, (double)part.slots);
    part.expert = hlo_dynamic_slice(h, p->expert, &first, &part.tiles);
    part.n_tiles = hlo_bin_scalar(h, "minimum", hlo_bin(h, "subtract", p->n_tiles, first), (double)part.tiles);
    part.token = hlo_dynamic_slice(h, p->token, &row, &part.slots);
    part.weight = hlo_dynamic_slice(h, p->weight, &row, &part.slots);
    hlo_val y = both_products(c, &part);
    if (!c->n->a.experts.scale_input) y = hlo_bin(h, "multiply", y, hlo_broadcast_at(h, part.weight, 0, y));
    hlo_val next = hlo_put_add(h, in, column(h, part.token), y);        /* slots that are not there hold anything, and are nobody's */
    hlo_end_for(h, &next, &sum);
    return sum;
}

hlo_val experts_hlo(hlo_call *c)
{
    hlo *h = c->h;
    hlo_val combine = hlo_convert(h, c->in[EXPERTS_COMBINE], DT_F32);
    int64_t t = combine.dim[0], width = op_in(c->g, c->n, EXPERTS_W_OUT)->dim[1], experts = op_in(c->g, c->n, EXPERTS_W_IN)->dim[0], of_experts = combine.dim[1];
    if (c->n->a.experts.shards > 1) {
        int64_t cut = c->n->a.experts.cut > 1 ? c->n->a.experts.cut : 1;    /* neighbours have the same experts */
        hlo_val place = hlo_bin_scalar(h, "divide", hlo_tensor_rank(h), (double)cut);
        hlo_val starts[2] = { { 0 }, hlo_bin_scalar(h, "multiply", place, (double)experts) };
        combine = hlo_dynamic_slice(h, combine, starts, (int64_t[]){ t, experts });
    }
    plan p = plan_of(c, t);
    bool kernels = by_kernels(c, &p, of_experts);
    fill_plan(h, &p, combine);
    if (kernels && p.at_once == p.tiles) return run_slots(c, &p);
    hlo_val sum = hlo_full(h, hlo_float(h, DT_F32, 0), 2, (int64_t[]){ t, width }), in, at;
    if (kernels) return hlo_convert(h, run_parts(c, &p, sum), c->step->act);
    at = hlo_for(h, hlo_int(h, DT_I32, 0), p.n_tiles, &sum, 1, &in);
    hlo_val next = run_tile(c, &p, at, in);
    hlo_end_for(h, &next, &sum);
    return hlo_convert(h, sum, c->step->act);
}
