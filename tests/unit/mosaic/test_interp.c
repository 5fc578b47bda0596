/* The interpreter: numbers, and everything that a TPU would leave open. */
#include "base/clock.h"
#include "base/mem.h"
#include "mosaic/interp.h"
#include "tests/test.h"
#include "tests/unit/mosaic/kernels.h"

static uint32_t seed = 1;
static float noise(void) { seed = seed * 1664525u + 1013904223u; return (float)(int32_t)seed / 2147483648.0f; }

static void noise_bf16(uint16_t *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) x[i] = f32_to_bf16(noise() * scale);
}

TEST(gathers)
{
    enum { N = 64 * 16 * 128 };
    mk *k = kernel_gather();
    REQUIRE_OK(mk_finish(k));
    int32_t table[8] = { 5, 63, 0, 7, 7, 12, 33, 1 };
    uint16_t *kv = mem_array(N, 2), o[128 * 128];
    noise_bf16(kv, N, 1);
    mk_report r;
    CHECK_OK(mk_run(k, (void *[]){ table, kv }, (void *[]){ o }, NULL, &r));
    for (int p = 0; p < 8; p++) CHECK(memcmp(o + p * 2048, kv + table[p] * 2048, 4096) == 0);
    CHECK_INT(r.copies, 8);
    CHECK_INT(r.hbm_bytes, 2 * 8 * 4096);
    table[3] = 64;
    CHECK_ERR(mk_run(k, (void *[]){ table, kv }, (void *[]){ o }, NULL, NULL), ST_INVALID, "kernel gather, step [3], operation 1 (view): kv: 1 elements from 64 on in dimension 0, which has 64");
    mem_free(kv);
    mk_free(k);
}

TEST(flash_decodes)
{
    enum { G = 8, D = 128, P = 64 * 128 };
    mk *k = kernel_flash_decode();
    REQUIRE_OK(mk_finish(k));
    int32_t len[1] = { 1000 }, table[16];
    uint16_t q[G * D], o[G * D], *kc = mem_array(P * D, 2), *vc = mem_array(P * D, 2);
    for (int i = 0; i < 16; i++) table[i] = (i * 37 + 11) % 64;
    noise_bf16(q, G * D, 0.5f);
    noise_bf16(kc, P * D, 1);
    noise_bf16(vc, P * D, 1);
    double t0 = clock_now(), worst = 0;
    CHECK_OK(mk_run(k, (void *[]){ len, table, q, kc, vc }, (void *[]){ o }, NULL, NULL));
    double took = clock_now() - t0;
    for (int g = 0; g < G; g++) {
        double s[1000], top = -1e30, sum = 0;
        for (int t = 0; t < len[0]; t++) {
            const uint16_t *row = kc + (table[t / 128] * 128 + t % 128) * D;
            s[t] = 0;
            for (int d = 0; d < D; d++) s[t] += (double)bf16_to_f32(q[g * D + d]) * (double)bf16_to_f32(row[d]);
            if (s[t] > top) top = s[t];
        }
        for (int t = 0; t < len[0]; t++) sum += s[t] = exp(s[t] - top);
        for (int d = 0; d < D; d++) {
            double want = 0;
            for (int t = 0; t < len[0]; t++) want += s[t] / sum * (double)bf16_to_f32(vc[(table[t / 128] * 128 + t % 128) * D + d]);
            double e = fabs(want - (double)bf16_to_f32(o[g * D + d]));
            if (!(e < worst)) worst = e;
        }
    }
    printf("  flash decoding: worst error %.5f, %.1f ms\n", worst, took * 1e3);
    CHECK(worst < 0.01);
    mem_free(kc);
    mem_free(vc);
    mk_free(k);
}

/* ---- what goes wrong is said ---- */

/* Kernels of one input and one output, f32 [4, 8, 128] in HBM, with scratch and semaphores. */
typedef struct small { mk *k; mk_ref in, out, buf, two, sem, sems, count; mk_ref row, to; } small;

static small begin(const char *name)
{
    small s = { .k = mk_new(name) };
    s.in = mk_in(s.k, "in", DT_F32, MK_DIMS(4, 8, 128));
    s.out = mk_out(s.k, "out", DT_F32, MK_DIMS(4, 8, 128));
    s.buf = mk_scratch(s.k, "buf", MK_VMEM, DT_F32, MK_DIMS(8, 128));
    s.two = mk_scratch(s.k, "two", MK_VMEM, DT_F32, MK_DIMS(2, 8, 128));
    s.sem = mk_dma_sems(s.k, "sem", MK_DIMS());
    s.sems = mk_dma_sems(s.k, "sems", MK_DIMS(2));
    s.count = mk_sems(s.k, "count", MK_DIMS());
    s.row = mk_pick(s.k, s.in, MK_AT(mk_i32(1)));
    s.to = mk_pick(s.k, s.out, MK_AT(mk_i32(1)));
    return s;
}

static float small_in[64][4 * 8 * 128], small_out[64][4 * 8 * 128];

static status run_on(small s, int n)
{
    void *in[64], *out[64];
    for (int d = 0; d < n; d++) {
        in[d] = small_in[d];
        out[d] = small_out[d];
        for (int i = 0; i < 4096; i++) small_in[d][i] = (float)(i + 10000 * d);
    }
    status st = mk_finish(s.k);
    if (st == ST_OK) st = mk_run(s.k, in, out, &(mk_run_options){ .n_devices = n, .max_operations = 100000 }, NULL);
    mk_free(s.k);
    return st;
}

static status run(small s) { return run_on(s, 1); }

static mk_val load8(small s, mk_ref r) { return mk_load(s.k, r, MK_ZERO, MK_DIMS(8, 128)); }

TEST(copies_happen_when_they_are_waited_for)
{
    small s = begin("early");
    mk_copy(s.k, s.row, s.buf, s.sem);
    load8(s, s.buf);
    mk_wait(s.k, s.sem, s.row, s.buf);
    CHECK_ERR(run(s), ST_INVALID, "(load): buf: the copy of operation 2 that writes there has not been waited for");

    s = begin("overwritten");      /* while the copy reads it */
    mk_store(s.k, mk_full(s.k, mk_f32(1), MK_DIMS(8, 128)), s.buf, MK_ZERO);
    mk_copy(s.k, s.buf, s.to, s.sem);
    mk_store(s.k, mk_full(s.k, mk_f32(2), MK_DIMS(8, 128)), s.buf, MK_ZERO);
    mk_wait(s.k, s.sem, s.buf, s.to);
    CHECK_ERR(run(s), ST_INVALID, "(store): buf: writes what the copy of operation 3 still reads");

    s = begin("twice");            /* into one buffer */
    mk_copy(s.k, s.row, s.buf, s.sem);
    mk_copy(s.k, s.row, s.buf, s.sem);
    CHECK_ERR(run(s), ST_INVALID, "(copy): buf: the copy of operation 2 that writes there");

    s = begin("shared");           /* which of the two has arrived? */
    mk_ref a = mk_pick(s.k, s.two, MK_AT(mk_i32(0))), b = mk_pick(s.k, s.two, MK_AT(mk_i32(1)));
    mk_copy(s.k, s.row, a, s.sem);
    mk_copy(s.k, s.row, b, s.sem);
    mk_wait(s.k, s.sem, s.row, a);
    load8(s, a);
    CHECK_ERR(run(s), ST_INVALID, "(load): two: the copy of operation");

    s = begin("fine");
    a = mk_pick(s.k, s.two, MK_AT(mk_i32(0))), b = mk_pick(s.k, s.two, MK_AT(mk_i32(1)));
    mk_copy(s.k, s.row, a, s.sem);
    mk_copy(s.k, s.row, b, s.sem);
    mk_wait(s.k, s.sem, s.two, s.two);      /* both */
    mk_store(s.k, mk_add(s.k, load8(s, a), load8(s, b)), s.buf, MK_ZERO);
    mk_copy(s.k, s.buf, s.to, s.sem);
    mk_wait(s.k, s.sem, s.buf, s.to);
    CHECK_OK(run(s));
    CHECK_NEAR(small_out[0][1024 + 5], 2 * (1024 + 5), 0);
    CHECK(isnan(small_out[0][5]));          /* nobody wrote it */
}

TEST(scratch_starts_as_nan)
{
    small s = begin("scratch");
    mk_store(s.k, mk_mul(s.k, load8(s, s.buf), mk_f32(0)), s.buf, MK_ZERO);
    mk_copy(s.k, s.buf, s.to, s.sem);
    mk_wait(s.k, s.sem, s.buf, s.to);
    CHECK_OK(run(s));
    CHECK(isnan(small_out[0][1024]));
}

TEST(out_of_bounds)
{
    small s = begin("load");
    mk_val c = mk_cmp(s.k, MK_EQ, mk_device_id(s.k), mk_i32(0)), i = mk_select(s.k, c, mk_i32(1), mk_i32(0));
    mk_load(s.k, s.two, MK_AT(i, mk_i32(0), i), MK_DIMS(1, 8, 128));
    CHECK_ERR(run(s), ST_INVALID, "(load): two: 128 elements from 1 on in dimension 2, which has 128");
    s = begin("view");
    i = mk_mul(s.k, mk_device_id(s.k), mk_i32(4));
    mk_view(s.k, s.in, MK_AT(mk_sub(s.k, i, mk_i32(1)), mk_i32(0), mk_i32(0)), MK_DIMS(1, 8, 128), 0);
    CHECK_ERR(run(s), ST_INVALID, "(view): in: 1 elements from -1 on in dimension 0");
    s = begin("sized");
    mk_val n = mk_add(s.k, mk_device_id(s.k), mk_i32(5));
    mk_view_sized(s.k, s.in, MK_ZERO, MK_DIMS(MK_DYNAMIC, 8, 128), &n, 0);
    CHECK_ERR(run(s), ST_INVALID, "(view): in: 5 elements from 0 on");
    s = begin("division");
    mk_div(s.k, mk_i32(3), mk_device_id(s.k));
    CHECK_ERR(run(s), ST_INVALID, "(div): by 0");
    s = begin("multiple");
    mk_multiple(s.k, mk_add(s.k, mk_device_id(s.k), mk_i32(12)), 8);
    CHECK_ERR(run(s), ST_INVALID, "(multiple): 12 is no multiple of 8");
}

TEST(semaphores_that_are_left_or_never_come)
{
    small s = begin("leak");
    mk_copy(s.k, s.row, s.buf, s.sem);
    CHECK_ERR(run(s), ST_INVALID, "kernel leak: ends while the copy of operation 2");
    s = begin("wrong");
    mk_copy(s.k, s.row, s.buf, mk_pick(s.k, s.sems, MK_AT(mk_i32(0))));
    mk_wait(s.k, mk_pick(s.k, s.sems, MK_AT(mk_i32(1))), s.row, s.buf);
    CHECK_ERR(run(s), ST_INVALID, "(wait): waits for sems, which nobody signals any more");
    s = begin("signal");
    mk_signal(s.k, s.count, mk_i32(2), (mk_val){ 0 });
    mk_await(s.k, s.count, mk_i32(1));
    CHECK_ERR(run(s), ST_INVALID, "ends with 1 in semaphore count[0] of device 0");
    s = begin("forever");
    mk_for(s.k, mk_i32(0), mk_i32(2000000000), NULL, 0, NULL);
    mk_add(s.k, mk_device_id(s.k), mk_i32(1));
    mk_end_for(s.k, NULL, NULL);
    CHECK_ERR(run(s), ST_INVALID, "too many operations");
}

/* ---- several devices ---- */

/* Everyone sends its row to the next one; with_barrier: after all have started. */
static small ring(const char *name, int n, bool with_barrier)
{
    small s = begin(name);
    mk_set_options(s.k, &(mk_options){ .collective_id = 1 });
    mk_val me = mk_device_id(s.k), next = mk_rem(s.k, mk_add(s.k, me, mk_i32(1)), mk_i32(n));
    if (with_barrier) {
        mk_ref b = mk_barrier(s.k);
        mk_val i = mk_for(s.k, mk_i32(0), mk_i32(n), NULL, 0, NULL);
        mk_signal(s.k, b, mk_i32(1), i);
        mk_end_for(s.k, NULL, NULL);
        mk_await(s.k, b, mk_i32(n));
    }
    mk_ref sent = mk_pick(s.k, s.sems, MK_AT(mk_i32(0))), got = mk_pick(s.k, s.sems, MK_AT(mk_i32(1)));
    mk_send(s.k, s.row, s.buf, sent, got, next);
    mk_wait(s.k, sent, s.row, s.buf);
    mk_wait(s.k, got, s.row, s.buf);
    mk_copy(s.k, s.buf, s.to, s.sem);
    mk_wait(s.k, s.sem, s.buf, s.to);
    return s;
}

TEST(devices_send_to_each_other)
{
    CHECK_OK(run_on(ring("ring", 4, true), 4));
    for (int d = 0; d < 4; d++) CHECK_NEAR(small_out[d][1024 + 7], 1024 + 7 + 10000 * ((d + 3) % 4), 0);
    CHECK_OK(run_on(ring("alone", 1, true), 1));
    CHECK_ERR(run_on(ring("hasty", 4, false), 4), ST_INVALID, "device 1 may not have started");
    CHECK_ERR(run_on(ring("nobody", 5, true), 4), ST_INVALID, "there is no device 4");

    small s = begin("stuck");      /* each waits for the other one */
    mk_await(s.k, s.count, mk_i32(1));
    mk_signal(s.k, s.count, mk_i32(1), mk_sub(s.k, mk_i32(1), mk_device_id(s.k)));
    CHECK_ERR(run_on(s, 2), ST_INVALID, "device 0, operation 2 (await): waits for count, which nobody signals any more");
}

/* ---- values ---- */

/* The kernel's first vector result, out[1][0..1023], from in[1] as x. */
typedef mk_val make(mk *k, mk_val x);
static const float *apply(make *f)
{
    small s = begin("values");
    mk_copy(s.k, s.row, s.buf, s.sem);
    mk_wait(s.k, s.sem, s.row, s.buf);
    mk_store(s.k, f(s.k, load8(s, s.buf)), s.buf, MK_ZERO);
    mk_copy(s.k, s.buf, s.to, s.sem);
    mk_wait(s.k, s.sem, s.buf, s.to);
    CHECK_OK(run(s));
    return small_out[0] + 1024;
}

static mk_val through_bf16(mk *k, mk_val x) { return mk_convert(k, mk_convert(k, x, DT_BF16), DT_F32); }
static mk_val through_e4m3(mk *k, mk_val x) { return mk_convert(k, mk_convert(k, mk_mul(k, x, mk_f32(0.25f)), DT_F8E4M3), DT_F32); }
static mk_val through_i8(mk *k, mk_val x) { return mk_convert(k, mk_convert(k, mk_convert(k, mk_convert(k, x, DT_I32), DT_I8), DT_I32), DT_F32); }
static mk_val through_bits(mk *k, mk_val x) { return mk_bitcast(k, mk_shl(k, mk_shr_logical(k, mk_bitcast(k, x, DT_I32), mk_i32(16)), mk_i32(16)), DT_F32); }
static mk_val through_halves(mk *k, mk_val x) { return mk_bitcast(k, mk_bitcast(k, x, DT_BF16), DT_F32); }
static mk_val swapped(mk *k, mk_val x) { return mk_transpose(k, mk_transpose(k, x, (int[]){ 1, 0 }), (int[]){ 1, 0 }); }
static mk_val rolled(mk *k, mk_val x) { return mk_rotate(k, x, mk_i32(3), 1); }
static mk_val halves(mk *k, mk_val x)
{
    mk_val a = mk_slice(k, x, MK_DIMS(0, 0), MK_DIMS(8, 64)), b = mk_slice(k, x, MK_DIMS(0, 64), MK_DIMS(8, 64));
    return mk_concat(k, (mk_val[]){ b, a }, 2, 1);
}
static mk_val column(mk *k, mk_val x) { return mk_add(k, mk_mul(k, x, mk_f32(0)), mk_reduce(k, MK_SUM, x, 0)); }
static mk_val row_max(mk *k, mk_val x) { return mk_add(k, mk_mul(k, x, mk_f32(0)), mk_reduce(k, MK_MAX, x, 1)); }
static mk_val product(mk *k, mk_val x)
{
    mk_val one = mk_full(k, mk_f32(1), MK_DIMS(128, 128)), none = { 0 };
    return mk_sub(k, mk_matmul(k, x, one, false, DT_F32, none), mk_matmul(k, x, one, true, DT_F32, none));
}
static mk_val product_i8(mk *k, mk_val x)
{
    mk_val i = mk_convert(k, mk_convert(k, x, DT_I32), DT_I8), none = { 0 };
    mk_val two = mk_convert(k, mk_full(k, mk_i32(2), MK_DIMS(128, 128)), DT_I8);
    return mk_convert(k, mk_matmul(k, i, two, false, DT_I32, none), DT_F32);
}
/* bf16 by int8, which is as if it were bf16. */
static mk_val product_mixed(mk *k, mk_val x)
{
    mk_val a = mk_convert(k, mk_full(k, mk_f32(0.5f), MK_DIMS(8, 128)), DT_BF16), none = { 0 };
    mk_val b = mk_convert(k, mk_full(k, mk_i32(-3), MK_DIMS(128, 128)), DT_I8);
    return mk_add(k, mk_mul(k, x, mk_f32(0)), mk_matmul(k, a, b, false, DT_F32, none));
}
static mk_val reshaped(mk *k, mk_val x) { return mk_reshape(k, mk_reshape(k, x, MK_DIMS(2, 4, 128)), MK_DIMS(8, 128)); }
static mk_val branch(mk *k, mk_val x)
{
    mk_val out;
    mk_if(k, mk_cmp(k, MK_GT, mk_device_id(k), mk_i32(0)));
    mk_else(k, &x, 1);
    mk_val y = mk_neg(k, x);
    mk_end_if(k, &y, &out);
    return out;
}
/* (a, b) = (b, a + b) ten times: both change at once. */
static mk_val fibonacci(mk *k, mk_val x)
{
    mk_val v[2] = { mk_i32(0), mk_i32(1) };
    mk_for(k, mk_i32(0), mk_i32(10), v, 2, v);
    mk_end_for(k, (mk_val[]){ v[1], mk_add(k, v[0], v[1]) }, v);
    return mk_add(k, mk_mul(k, x, mk_f32(0)), mk_convert(k, v[0], DT_F32));
}

TEST(values)
{
    const float *x = small_in[0] + 1024;
    const float *y = apply(through_bf16);
    for (int i = 0; i < 1024; i++) CHECK(y[i] == bf16_to_f32(f32_to_bf16(x[i])));
    y = apply(through_e4m3);
    for (int i = 0; i < 1024; i++) CHECK(x[i] / 4 > 464 ? isnan(y[i]) : y[i] == f8e4m3_to_f32(f32_to_f8e4m3(x[i] / 4)));
    y = apply(through_i8);
    for (int i = 0; i < 1024; i++) CHECK(y[i] == (float)(int8_t)(uint8_t)(int)x[i]);
    y = apply(through_bits);
    for (int i = 0; i < 1024; i++) CHECK(fabsf(y[i] - x[i]) <= x[i] / 128);
    y = apply(through_halves);
    CHECK(memcmp(x, y, 4096) == 0);
    CHECK(memcmp(x, apply(swapped), 4096) == 0);
    CHECK(memcmp(x, apply(reshaped), 4096) == 0);
    y = apply(rolled);
    for (int i = 0; i < 1024; i++) CHECK(y[i / 128 * 128 + (i + 3) % 128] == x[i]);
    y = apply(halves);
    for (int i = 0; i < 1024; i++) CHECK(y[i / 128 * 128 + (i + 64) % 128] == x[i]);
    y = apply(column);
    for (int i = 0; i < 1024; i++) CHECK_NEAR(y[i], 8 * (1024 + i % 128 + 128 * 3.5), 0);
    y = apply(row_max);
    for (int i = 0; i < 1024; i++) CHECK_NEAR(y[i], 1024 + i / 128 * 128 + 127, 0);
    y = apply(product);
    for (int i = 0; i < 1024; i++) CHECK_NEAR(y[i], 0, 0);
    y = apply(product_i8);
    for (int i = 0; i < 1024; i += 128) CHECK_NEAR(y[i], i / 128 % 2 ? -16512 : 16256, 0);     /* twice the sum of 0 .. 127 or of -128 .. -1 */
    CHECK_NEAR(apply(product_mixed)[77], -192, 0);
    y = apply(branch);
    for (int i = 0; i < 1024; i++) CHECK(y[i] == -x[i]);
    CHECK_NEAR(apply(fibonacci)[0], 55, 0);
}

/* ---- windows ---- */

static void by_step(mk *k, const mk_val *grid, const mk_ref *prefetched, const void *arg, mk_val *index)
{
    (void)prefetched;
    int what = *(const int *)arg;
    index[0] = what == 0 ? grid[0] : what == 1 ? mk_div(k, grid[0], mk_i32(2)) : mk_rem(k, grid[0], mk_i32(2));
}

/* o[i / 2] += x[i], blocks of 8 rows of 20: the last one hangs over. */
static status sums(int out_map, float *x, float *o)
{
    int in_map = 0;
    mk *k = mk_new("sums");
    mk_val i = mk_grid(k, 3, false);
    mk_ref xr = mk_in_block(k, "x", DT_F32, MK_DIMS(20, 128), MK_DIMS(8, 128), by_step, &in_map);
    mk_ref or = mk_out_block(k, "o", DT_F32, MK_DIMS(16, 128), MK_DIMS(8, 128), by_step, &out_map);
    mk_val v = mk_load(k, xr, MK_ZERO, MK_DIMS(8, 128));
    mk_if(k, mk_cmp(k, MK_EQ, mk_rem(k, i, mk_i32(2)), mk_i32(0)));
    mk_store(k, v, or, MK_ZERO);
    mk_else(k, NULL, 0);
    mk_store(k, mk_add(k, v, mk_load(k, or, MK_ZERO, MK_DIMS(8, 128))), or, MK_ZERO);
    mk_end_if(k, NULL, NULL);
    status st = mk_finish(k);
    if (st == ST_OK) st = mk_run(k, (void *[]){ x }, (void *[]){ o }, NULL, NULL);
    mk_free(k);
    return st;
}

TEST(windows)
{
    static float x[20 * 128], o[16 * 128];
    for (int i = 0; i < 20 * 128; i++) x[i] = (float)i;
    CHECK_OK(sums(1, x, o));
    CHECK_NEAR(o[130], 130 + 130 + 1024, 0);        /* steps 0 and 1 */
    CHECK_NEAR(o[1024 + 130], 2048 + 130, 0);       /* step 2 */
    CHECK(isnan(o[1024 + 4 * 128]));                /* rows beyond x */
    CHECK_OK(sums(2, x, o));                        /* blocks 0, 1, 0: block 0 starts anew */
    CHECK_NEAR(o[130], 2048 + 130, 0);
    CHECK(isnan(o[1024]));                          /* step 1 adds to what nobody wrote */
    CHECK_ERR(sums(0, x, o), ST_INVALID, "o: block 2 of dimension 0, which has 2");
}

/* ---- references of another type ---- */

/* Rows 1 and 3 of pairs of heads: out = in's tokens of head 1, by strided loads of pairs of bf16 as i32. */
TEST(strided_rows_through_another_type)
{
    enum { T = 8, H = 4 };
    mk *k = mk_new("heads");
    mk_ref x = mk_in_block(k, "x", DT_BF16, MK_DIMS(T * H, 128), MK_DIMS(T * H, 128), NULL, NULL);
    mk_ref o = mk_out_block(k, "o", DT_BF16, MK_DIMS(2 * T, 128), MK_DIMS(2 * T, 128), NULL, NULL);
    mk_ref f = mk_scratch(k, "f", MK_VMEM, DT_F32, MK_DIMS(2 * T, 128));
    mk_val pairs = mk_load_strided(k, mk_ref_bitcast(k, x, DT_I32), mk_i32(1), T, H / 2);      /* heads 2 and 3 of each token */
    mk_val third = mk_bitcast(k, mk_shl(k, pairs, mk_i32(16)), DT_F32);
    mk_store_strided(k, third, f, mk_i32(0), 2);
    mk_store_strided(k, mk_bitcast(k, mk_and(k, pairs, mk_i32(INT32_MIN >> 15)), DT_F32), f, mk_i32(1), 2);
    mk_store(k, mk_convert(k, mk_load(k, f, MK_ZERO, MK_DIMS(2 * T, 128)), DT_BF16), o, MK_ZERO);
    REQUIRE_OK(mk_finish(k));
    static uint16_t in[T * H * 128], out[2 * T * 128];
    noise_bf16(in, T * H * 128, 1);
    CHECK_OK(mk_run(k, (void *[]){ in }, (void *[]){ out }, NULL, NULL));
    for (int t = 0; t < T; t++)
        for (int h = 0; h < 2; h++) CHECK(memcmp(out + (2 * t + h) * 128, in + (H * t + 2 + h) * 128, 256) == 0);
    mk_free(k);
}

/* ---- memory ---- */

TEST(out_of_memory_leaks_nothing)
{
    int32_t table[8] = { 0 };
    void *kv = mem_calloc(64 * 16 * 128, 2), *o = mem_calloc(128 * 128, 2);
    int64_t live = mem_live();
    for (uint64_t n = 1;; n++) {
        mem_fail_at(n);
        mk *k = kernel_gather();
        status st = mk_finish(k);
        if (st == ST_OK) st = mk_run(k, (void *[]){ table, kv }, (void *[]){ o }, NULL, NULL);
        mk_free(k);
        int hit = mem_failed();
        mem_fail_at(0);
        CHECK_INT(mem_live(), live);
        if (!hit) {
            CHECK_OK(st);
            break;
        }
        CHECK_INT(st, ST_NOMEM);
    }
    mem_free(kv);
    mem_free(o);
}

TEST_MAIN
