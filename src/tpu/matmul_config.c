#include "tpu/matmul_config.h"

enum {
    MIB = 1 << 20,
    MOST_ROWS = 512,        /* rows of x in one product, parts included: beyond, the matrix unit is the limit and not memory */
    LEAST_GROUP = 16
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

/* Bytes of VMEM that a block of n rows takes: windows twice, and the largest values on the way. */
static int64_t vmem_of(const matmul_shape *s, const matmul_config *o, int64_t n)
{
    int64_t groups = s->group ? (s->k + s->group - 1) / s->group : 1, rows = round_up(s->rows, 16);
    int64_t weight = round_up(n, 32) * round_up((int64_t)dtype_bytes(s->weight, (size_t)s->k), 128), scales = round_up(groups, 8) * n * 4;
    int64_t x = rows * s->k * (int64_t)dtype_bytes(s->act, 1), sums = rows * n * 4;
    int64_t widened = o->w != s->weight && !is_packed(s->weight) ? n * (s->group ? MATMUL_CHUNK : s->k) * 2 : 0;
    return 2 * (weight + scales + x + sums) + 3 * x + (2 + o->parts) * sums + widened;
}

/* Rows of a block: enough bytes to hide a copy's latency, whole tiles of the matrix unit, no rest if that costs little. */
static int64_t choose_block(const chip *c, const matmul_shape *s, const matmul_config *o, int64_t vmem)
{
    int64_t unit = c->mxu_size > 128 ? 256 : 128, row = (int64_t)dtype_bytes(s->weight, (size_t)s->k);
    int64_t target = (int64_t)(c->hbm_bytes_per_s * 1.3e-6), eighth = row * s->n / 8;   /* the first block is waited for */
    target = target < 2 * MIB ? 2 * MIB : least(target, 4 * MIB);
    if (target > eighth) target = eighth < MIB ? MIB : eighth;
    int64_t most = c->cores > 1 ? round_up(s->n, 2 * unit) / 2 : s->n, n = target / row / unit * unit;
    n = least(n < unit ? unit : n, most);
    while (n > unit && vmem_of(s, o, n) > vmem) n -= unit;
    if (n >= s->n) return s->n;
    n = n / 128 * 128;
    for (int64_t by = n; by >= 128 && by * 2 > n; by -= 128)
        if (s->n % by == 0) return by;
    return n;
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
    int64_t vmem = c->vmem_bytes / 4 * 3;
    o.block_n = choose_block(c, s, &o, vmem);
    if (vmem_of(s, &o, o.block_n) > vmem)
        return err_set(ST_UNSUPPORTED, "blocks of %lld by %lld need %.0f MiB of VMEM, %s has %.0f", (long long)o.block_n, (long long)s->k, (double)vmem_of(s, &o, o.block_n) / MIB, c->name, (double)vmem / MIB);
    o.vmem_limit_bytes = vmem;
    double groups = s->group ? (double)((s->k + s->group - 1) / s->group) : 1;
    o.bytes = (double)dtype_bytes(s->weight, (size_t)s->k) * (double)s->n + 4 * groups * (double)s->n + (double)s->rows * (double)(s->k * 2 + s->n * 4);
    o.flops = 2.0 * (double)s->rows * (double)o.parts * (double)s->n * (double)s->k;
    double memory = o.bytes / c->hbm_bytes_per_s, unit = o.flops / chip_rate_of(c, o.x).per_s;
    o.seconds = memory > unit ? memory : unit;
    *out = o;
    return ST_OK;
}
