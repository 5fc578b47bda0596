#include "tpu/matmul_config.h"

enum {
    MIB = 1 << 20, LANES = 128,
    MOST_ROWS = 512,        /* rows of x in one product, parts included: beyond, the matrix unit is the limit and not memory */
    LEAST_GROUP = 16,
    PIECE = 1 << 16,        /* numbers of x that are rounded at once */
    UNROLLED = 1 << 20      /* enough to fill the units, few enough to compile in a second or two */
};

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
static bool is_packed(dtype t) { return t == DT_I4 || t == DT_F4E2M1; }
static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The types that go to the matrix unit, from v5 on. Four-bit codes become e4m3, which takes shifts and masks only: e2m1's exponent and first bit of
 * the fraction are e4m3's lowest, int4's 0..15 is a multiple of e4m3's smallest number. By int8 they become int8. v4 takes bf16 by int8, and e4m3 only as bf16. */
static void choose_types(const chip *c, const matmul_shape *s, matmul_config *o)
{
    bool new = c->version >= 5;
    o->x = DT_BF16;
    o->w = s->weight;
    if (s->rounded == DT_I8) {
        o->x = new ? DT_I8 : DT_BF16;
        o->w = DT_I8;
    } else if (s->weight == DT_I4 && !new) {
        o->w = DT_I8;
    } else if (s->weight == DT_F8E4M3 || is_packed(s->weight)) {
        o->w = new ? DT_F8E4M3 : DT_BF16;
        if (new && s->rounded == DT_F8E4M3) o->x = DT_F8E4M3;
    }
}

int64_t matmul_k_unit(const matmul_shape *s)
{
    int64_t unit = s->group > MATMUL_CHUNK ? s->group : MATMUL_CHUNK;
    return is_packed(s->weight) || s->tiles > 1 || s->k % unit ? 0 : unit;    /* four-bit codes of two halves are in one byte */
}

int64_t matmul_piece(int64_t rows, int64_t block_k)
{
    int64_t piece = PIECE / rows / MATMUL_CHUNK * MATMUL_CHUNK;
    while (piece > MATMUL_CHUNK && block_k % piece) piece -= MATMUL_CHUNK;
    return piece > MATMUL_CHUNK ? piece : MATMUL_CHUNK;
}

/* Bytes of VMEM that a block of n rows takes: windows twice, x as it is kept, scales and sums, and the largest values on the way. */
static int64_t vmem_of(const chip *c, const matmul_shape *s, const matmul_config *o, int64_t n)
{
    int64_t groups = s->group ? (s->k + s->group - 1) / s->group : 1, rows = round_up(s->rows, 16), width = o->block_k;
    int64_t weight = round_up(n, 32) * round_up((int64_t)dtype_bytes(s->weight, (size_t)width), 128), scales = round_up(groups, 8) * n * 4;
    int64_t x = rows * width * (int64_t)dtype_bytes(s->act, 1), sums = rows * n * 4, products = rows * o->parts * n;
    int64_t kept = s->rounded != s->act || o->parts > 1 || (width < s->k && !o->tight) ? rows * o->parts * s->k * (int64_t)dtype_bytes(o->kept, 1) : 0;
    bool widens = !is_packed(s->weight) && (o->w != s->weight || (c->version < 5 && s->weight != s->act));
    int64_t widened = widens ? 4 * (n + (o->kept == o->x ? 0 : rows)) * (s->group ? MATMUL_CHUNK : width) : 0;     /* by way of 32 bits */
    int64_t unrolled = s->group ? least(products * (width / MATMUL_CHUNK), 2 * products > o->unrolled ? 2 * products : o->unrolled) * 4 : 0;
    int64_t chunks = s->group ? (s->k + MATMUL_CHUNK - 1) / MATMUL_CHUNK : 1, lanes = o->tight ? round_up(chunks, LANES) : chunks * LANES;
    int64_t marks = s->rounded == s->act ? 0 : rows * o->parts * lanes * 4;
    int64_t piece = rows * matmul_piece(rows, width) * 4;
    return 2 * (weight + scales + x + sums) + kept + marks + (s->group ? scales : 0) + (2 + o->parts) * sums + unrolled + 3 * piece + widened;
}

/* Whole tiles of up to n rows, without a rest if that costs little. */
static int64_t whole_blocks(const matmul_shape *s, int64_t n)
{
    if (n >= s->n) return s->n;
    n = n / 128 * 128;
    for (int64_t by = n; by >= 128 && by * 2 > n; by -= 128)
        if (s->n % by == 0) return by;
    return n;
}

/* Rows of a block of all columns: enough bytes to hide a copy's latency, whole tiles of the matrix unit. 0: that does not fit. */
static int64_t rows_of_block(const chip *c, const matmul_shape *s, const matmul_config *o, int64_t vmem, int64_t target)
{
    int64_t unit = c->mxu_size > 128 ? 256 : 128, most = c->cores > 1 ? round_up(s->n, 2 * unit) / 2 : s->n;
    int64_t n = target / (int64_t)dtype_bytes(s->weight, (size_t)o->block_k) / unit * unit;
    n = least(n < unit ? unit : n, most);
    while (n > unit && vmem_of(c, s, o, n) > vmem) n -= unit;
    return vmem_of(c, s, o, n) > vmem ? 0 : whole_blocks(s, n);
}

/* All columns if there is room, else the widest of the largest blocks that fit. */
static bool choose_blocks(const chip *c, const matmul_shape *s, matmul_config *o, int64_t vmem)
{
    int64_t row = (int64_t)dtype_bytes(s->weight, (size_t)s->k), unit = matmul_k_unit(s), best = 0;
    int64_t target = (int64_t)(c->hbm_bytes_per_s * 1.3e-6), eighth = row * s->n / 8;   /* the first block is waited for */
    target = target < 2 * MIB ? 2 * MIB : least(target, 4 * MIB);
    if (target > eighth) target = eighth < MIB ? MIB : eighth;
    o->block_k = s->k;
    o->block_n = rows_of_block(c, s, o, vmem, target);
    if (o->block_n || !unit) return o->block_n > 0;
    matmul_config at = *o;
    for (at.block_k = s->k - unit; at.block_k; at.block_k -= unit) {
        if (s->k % at.block_k) continue;
        at.block_n = rows_of_block(c, s, &at, vmem, target);
        if (at.block_n * at.block_k <= best) continue;
        best = at.block_n * at.block_k;
        *o = at;
    }
    return o->block_n > 0;
}

static status check(const chip *c, const matmul_shape *s)
{
    if (c->version < 4) return err_set(ST_UNSUPPORTED, "Mosaic has no kernels for %s", c->name);
    if (s->act != DT_BF16) return err_set(ST_UNSUPPORTED, "activations are %s, kernels take bf16", dtype_name(s->act));
    if (s->n % 32) return err_set(ST_UNSUPPORTED, "%lld outputs are no multiple of 32", (long long)s->n);
    if (s->group && (MATMUL_CHUNK % s->group && s->group % MATMUL_CHUNK)) return err_set(ST_UNSUPPORTED, "groups of %lld columns do not divide 128", (long long)s->group);
    if (s->group && s->group < LEAST_GROUP) return err_set(ST_UNSUPPORTED, "groups of %lld columns, fewer than %d", (long long)s->group, LEAST_GROUP);
    if (s->k < 2 * MATMUL_CHUNK) return err_set(ST_UNSUPPORTED, "%lld inputs, fewer than %d", (long long)s->k, 2 * MATMUL_CHUNK);
    return ST_OK;
}

status matmul_configure(const chip *c, const matmul_shape *s, matmul_config *out)
{
    TRY(check(c, s));
    matmul_config o = { .chip = c, .parts = s->group && s->group < MATMUL_CHUNK ? MATMUL_CHUNK / s->group : 1 };
    if (s->rows * o.parts > MOST_ROWS)
        return err_set(ST_UNSUPPORTED, "%lld rows in %lld parts: beyond %d the matrix unit is the limit", (long long)s->rows, (long long)o.parts, MOST_ROWS);
    choose_types(c, s, &o);
    o.kept = s->rounded;
    o.unrolled = least(UNROLLED, c->vmem_bytes / 64);
    int64_t vmem = c->vmem_bytes / 4 * 3;
    bool fits = choose_blocks(c, s, &o, vmem);
    o.tight = !fits;
    if (!fits && !choose_blocks(c, s, &o, vmem))
        return err_set(ST_UNSUPPORTED, "%lld rows by blocks of a weight of %lld x %lld need more than %.0f MiB of VMEM", (long long)s->rows, (long long)s->n, (long long)s->k, (double)vmem / MIB);
    o.vmem_limit_bytes = c->vmem_bytes / 8 * 7;     /* what the estimate misses */
    double groups = s->group ? (double)((s->k + s->group - 1) / s->group) : 1;
    o.bytes = (double)dtype_bytes(s->weight, (size_t)s->k) * (double)s->n + 4 * groups * (double)s->n + (double)s->rows * (double)(s->k * 2 + s->n * 4);
    o.flops = 2.0 * (double)s->rows * (double)o.parts * (double)s->n * (double)s->k;
    double memory = o.bytes / c->hbm_bytes_per_s, unit = o.flops / chip_rate_of(c, o.x).per_s;
    o.seconds = memory > unit ? memory : unit;
    *out = o;
    return ST_OK;
}
