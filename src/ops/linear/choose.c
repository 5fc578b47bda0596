#include "ops/linear/choose.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/dirs.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "ops/linear/gemm.h"

#if defined(__x86_64__)

#define FORMAT "systolic-kernels-1"
enum { ENTRY_LIMIT = 32, KEY_BYTES = 16 };

/* ---- measuring ---- */

/* A product whose operands stay in the second-level cache: 240 x 512 weights (245 KB), 32 rows, 8 million operations. */
enum { N = 240, K = 512, ROWS = 32, RUNS = 12 };

typedef struct trial { void *weights; float *x, *y, *want, *scratch; } trial;

static void trial_close(trial *t)
{
    mem_free(t->weights);
    mem_free(t->x);
    mem_free(t->y);
    mem_free(t->want);
    mem_free(t->scratch);
}

static status trial_open(trial *t)
{
    size_t bytes = gemm_packed_bytes(DT_BF16, N, K), results = ROWS * N * sizeof(float);
    *t = (trial){ mem_aligned(64, bytes), mem_aligned(64, ROWS * K * sizeof(float)), mem_aligned(64, results), mem_aligned(64, results), mem_aligned(64, GEMM_SCRATCH_BYTES) };
    if (!t->weights || !t->x || !t->y || !t->want || !t->scratch) {
        trial_close(t);
        return err_nomem();
    }
    /* Every bit pattern that occurs is a normal number of both types: subnormal ones could be slower. */
    uint16_t *w = t->weights;
    for (size_t i = 0; i < bytes / 2; i++) w[i] = (uint16_t)(0x3E00 + i % 211);
    for (size_t i = 0; i < ROWS * K; i++) t->x[i] = bf16_to_f32((uint16_t)(0x3E00 + i % 197));
    return ST_OK;
}

static double seconds(const trial *t, gemm_fn *fn, int64_t ldx, float *y)
{
    gemm_weight w = { DT_BF16, N, K, t->weights };
    gemm_call c = { .w = &w, .x = t->x, .m = ROWS, .ldx = ldx, .y = y, .ldy = N, .scratch = t->scratch };
    uint64_t t0 = clock_ns();
    fn(&c, 0, gemm_n_panels(N));
    return (double)(clock_ns() - t0) * 1e-9;
}

/* Of small integers, every order of summing makes the same. Overwrites the trial's. */
static bool right(trial *t, gemm_fn *fn)
{
    uint16_t *w = t->weights, *x = (uint16_t *)(void *)t->x;
    for (int i = 0; i < N * K; i++) w[i] = f32_to_bf16((float)(i * 7 % 15 - 7));
    for (int i = 0; i < ROWS * K; i++) x[i] = f32_to_bf16((float)(i * 5 % 13 - 6));
    (void)seconds(t, gemm_dot_avx512bf16, gemm_pairs(K), t->want);
    (void)seconds(t, fn, gemm_pairs(K), t->y);
    return memcmp(t->y, t->want, ROWS * N * sizeof(float)) == 0;
}

/* ---- int8: from how many rows on ---- */

int linear_rows_from(const double without[LINEAR_ROW_COUNTS], const double with[LINEAR_ROW_COUNTS])
{
    int from = AMX_NEVER;
    for (int i = LINEAR_ROW_COUNTS - 1; i >= 0 && with[i] * LINEAR_CHOICE_MARGIN < without[i]; i--) from = 1 << i;
    return from;
}

/* As many products of m rows as make ROWS of them. */
static double seconds_int8(const trial *t, const qgemm_weight *w, qgemm_fn *fn, int64_t m, float *y)
{
    const int64_t ldq = qgemm_padded_k(w->scheme, K);
    const int8_t *q = (const int8_t *)(void *)t->x;
    qgemm_call c = { .w = w, .m = m, .q = q, .ldq = ldq, .s = (const qgemm_scale *)(const void *)(q + ROWS * ldq), .lds = qgemm_groups(w->scheme, K),
                     .y = y, .ldy = N, .scratch = t->scratch };
    uint64_t t0 = clock_ns();
    for (int64_t i = 0; i < ROWS; i += m) fn(&c, 0, gemm_n_panels(N));
    return (double)(clock_ns() - t0) * 1e-9;
}

/* Into *from; false if the results are not the same. */
static bool measure_int8(trial *t, quant_scheme s, qgemm_fn *tiles, int *from)
{
    const qgemm_weight w = { { quant_describe(s).type, N, K, t->weights }, s };
    const size_t panel = qgemm_panel_bytes(s, K), values = qgemm_scale_bytes(s, K);
    const int64_t ldq = qgemm_padded_k(s, K), groups = qgemm_groups(s, K);
    int8_t *q = (int8_t *)(void *)t->x;
    qgemm_scale *scales = (qgemm_scale *)(void *)(q + ROWS * ldq);
    double without[LINEAR_ROW_COUNTS], with[LINEAR_ROW_COUNTS];
    for (int64_t p = 0; p < gemm_n_panels(N); p++) {
        uint8_t *at = (uint8_t *)t->weights + (size_t)p * panel;
        float one = 1;
        for (size_t i = 0; i < values; i += 4) memcpy(at + i, &one, 4); /* as bfloat16: 0 and 1 */
        for (size_t i = values; i < panel; i++) at[i] = (uint8_t)(i * 29 % 251);
    }
    for (int64_t i = 0; i < ROWS * ldq; i++) q[i] = (int8_t)(i * 37 % 255 - 127);
    for (int64_t i = 0; i < ROWS * groups; i++) scales[i] = (qgemm_scale){ (float)(1 + i % 3), (int32_t)(i * -1000) };
    for (int i = 0; i < LINEAR_ROW_COUNTS; i++) {
        without[i] = with[i] = INFINITY;
        for (int k = 0; k < RUNS / 2; k++) {
            without[i] = fmin(without[i], seconds_int8(t, &w, qgemm_avx512vnni.run, 1 << i, t->want));
            with[i] = fmin(with[i], seconds_int8(t, &w, tiles, 1 << i, t->y));
        }
        if (memcmp(t->y, t->want, (size_t)N * sizeof(float) << i) != 0) return false;
    }
    *from = linear_rows_from(without, with);
    return true;
}

static void measure_tiles(trial *t, const linear_tiles *tiles, double bf16, linear_choice *out)
{
    static const quant_scheme schemes[AMX_KINDS] = { [AMX_INT8] = QUANT_INT8, [AMX_INT8_G32] = QUANT_INT8_G32, [AMX_INT4_G32] = QUANT_INT4_G32, [AMX_INT4_G128] = QUANT_INT4_G128 };
    int from[AMX_KINDS];
    bool good = right(t, tiles->dot);
    for (int i = 0; i < AMX_KINDS; i++) from[i] = AMX_NEVER;
    for (int i = 0; i < AMX_KINDS && good && qgemm_avx512vnni.available(); i++) good = measure_int8(t, schemes[i], tiles->run, &from[i]);
    if (!good) {
        log_warn("AMX: products by tiles are not what they should be on this machine; they are not used");
        return;
    }
    double before = out->set == ISA_avx512 ? out->fma_gops : out->dot_gops;
    out->amx_gops = 2e-9 * N * K * ROWS / bf16;
    if (out->amx_gops <= LINEAR_CHOICE_MARGIN * before) return;
    out->set = tiles->set;
    memcpy(out->amx_rows, from, sizeof from);
}

/* The best of a few runs each, taking turns, so that someone else's load does not fall on one of them. */
status linear_measure(const linear_tiles *tiles, linear_choice *out)
{
    trial t;
    TRY(trial_open(&t));
    double fma = INFINITY, dot = INFINITY, amx = INFINITY;
    for (int i = 0; i < RUNS; i++) {
        fma = fmin(fma, seconds(&t, gemm_avx512, K, t.y));
        dot = fmin(dot, seconds(&t, gemm_dot_avx512bf16, gemm_pairs(K), t.y));
        if (tiles) amx = fmin(amx, seconds(&t, tiles->dot, gemm_pairs(K), t.y));
    }
    out->fma_gops = 2e-9 * N * K * ROWS / fma;
    out->dot_gops = 2e-9 * N * K * ROWS / dot;
    out->amx_gops = 0;
    out->set = out->dot_gops > LINEAR_CHOICE_MARGIN * out->fma_gops ? ISA_avx512_bf16 : ISA_avx512;
    for (int i = 0; i < AMX_KINDS; i++) out->amx_rows[i] = AMX_NEVER;
    if (tiles) measure_tiles(&t, tiles, amx, out);
    trial_close(&t);
    return ST_OK;
}

/* ---- kernels.json: {"format": ..., "bf16": {KEY: {"isa": ..., "fma_gops": ..., "dot_gops": ...}}}; where there are tiles, an entry has
 * "amx_gops" and "amx_rows" too ---- */

static status make_key(const char *machine, char key[2 * KEY_BYTES + 1])
{
    buf b = { 0 };
    uint8_t digest[KEY_BYTES];
    buf_printf(&b, "%s|%s|%s", machine, SYSTOLIC_VERSION, __VERSION__);
    status st = buf_status(&b);
    if (st == ST_OK) {
        hash128(b.data, b.len, digest);
        hash_hex(digest, sizeof digest, key);
    }
    buf_free(&b);
    return st;
}

/* Empty when there is no place for it. */
static status find_dir(const char *dir, buf *out)
{
    if (dir) buf_str(out, dir);
    else dirs_cache("", out);
    return buf_status(out);
}

/* The file's object, or NULL: what could not be read or is not ours does not exist. */
static status ours(status st, jv *v, jv **out)
{
    if (st == ST_NOMEM) return st;
    if (st == ST_OK && strcmp(jv_get_str(v, "format", ""), FORMAT) != 0) {
        jv_free(v);
        v = NULL;
    }
    err_clear();
    *out = v;
    return ST_OK;
}

static status read_file(const char *path, jv **out)
{
    jv *v = NULL;
    status st = jv_parse_file(path, LINEAR_CHOICE_FILE_BYTES, &v);
    return ours(st, v, out);
}

static bool read_rows(const jv *rows, int out[AMX_KINDS])
{
    if (jv_len(rows) != AMX_KINDS) return false;
    for (int i = 0; i < AMX_KINDS; i++) {
        int64_t n = jv_i64(jv_at(rows, (size_t)i), 0);
        if (n < 1 || n > AMX_NEVER) return false;
        out[i] = (int)n;
    }
    return true;
}

static bool read_entry(const jv *file, const char *key, linear_choice *out)
{
    static const isa sets[] = { ISA_avx512, ISA_avx512_bf16, ISA_avx512_amx };
    const jv *e = jv_get(jv_get(file, "bf16"), key);
    const char *name = jv_get_str(e, "isa", "");
    linear_choice c = { .set = ISA_COUNT, .fma_gops = jv_get_f64(e, "fma_gops", 0), .dot_gops = jv_get_f64(e, "dot_gops", 0), .amx_gops = jv_get_f64(e, "amx_gops", 0), .cached = true };
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if (strcmp(name, isa_name(sets[i])) == 0) c.set = sets[i];
    for (int i = 0; i < AMX_KINDS; i++) c.amx_rows[i] = AMX_NEVER;
    if (c.set == ISA_COUNT || !(c.fma_gops > 0 && c.fma_gops < 1e6) || !(c.dot_gops > 0 && c.dot_gops < 1e6) || !(c.amx_gops >= 0 && c.amx_gops < 1e6)) return false;
    if (c.set == ISA_avx512_amx && (c.amx_gops == 0 || !read_rows(jv_get(e, "amx_rows"), c.amx_rows))) return false;
    *out = c;
    return true;
}

static void write_entry(jw *w, const char *key, const linear_choice *c)
{
    jw_key(w, key);
    jw_obj(w);
    jw_key(w, "isa");      jw_str(w, isa_name(c->set));
    jw_key(w, "fma_gops"); jw_f64(w, c->fma_gops);
    jw_key(w, "dot_gops"); jw_f64(w, c->dot_gops);
    if (c->amx_gops > 0) {
        jw_key(w, "amx_gops");
        jw_f64(w, c->amx_gops);
    }
    if (c->set == ISA_avx512_amx) {
        jw_key(w, "amx_rows");
        jw_arr(w);
        for (int i = 0; i < AMX_KINDS; i++) jw_i64(w, c->amx_rows[i]);
        jw_end_arr(w);
    }
    jw_end_obj(w);
}

/* The new entry first, then the others that are in order, up to a limit. */
static status format_file(const jv *old, const char *key, const linear_choice *c, buf *out)
{
    jw w = jw_to(out);
    int n = 1;
    jw_obj(&w);
    jw_key(&w, "format");
    jw_str(&w, FORMAT);
    jw_key(&w, "bf16");
    jw_obj(&w);
    write_entry(&w, key, c);
    for (jv_iter it = jv_begin(jv_get(old, "bf16")); jv_next(&it) && n < ENTRY_LIMIT;) {
        linear_choice other;
        if (it.key_len != 2 * KEY_BYTES || strcmp(it.key, key) == 0 || !read_entry(old, it.key, &other)) continue;
        write_entry(&w, it.key, &other);
        n++;
    }
    jw_end_obj(&w);
    jw_end_obj(&w);
    buf_char(out, '\n');
    return buf_status(out);
}

status linear_choice_edit(const char *text, size_t n, const char *key, const linear_choice *c, linear_choice *had, buf *out)
{
    jv *v = NULL, *file = NULL;
    if (strlen(key) != 2 * KEY_BYTES) return err_set(ST_INVALID, "kernels.json: a key of %zu digits, expected %d", strlen(key), 2 * KEY_BYTES);
    status st = n <= LINEAR_CHOICE_FILE_BYTES ? jv_parse(text, n, &v) : ST_OK;
    TRY(ours(st, v, &file));
    (void)read_entry(file, key, had);
    st = format_file(file, key, c, out);
    jv_free(file);
    return st;
}

/* Beside the file first, then in its place: readers see the old one or the new one. That it cannot be written is no failure. */
static status write_file(buf *dir, const char *path, const buf *text)
{
    buf aside = { 0 };
    char unique[17];
    random_hex(unique, 16);
    buf_printf(&aside, "%s.%s", path, unique);
    status st = buf_status(&aside);
    if (st == ST_OK) st = dirs_make(dir->data);
    if (st == ST_OK) {
        int fd = open(aside.data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        bool good = fd >= 0 && write(fd, text->data, text->len) == (ssize_t)text->len;
        if (fd >= 0 && (close(fd) != 0 || !good || rename(aside.data, path) != 0)) unlink(aside.data);
    }
    if (st != ST_OK && st != ST_NOMEM) {
        err_clear();
        st = ST_OK;
    }
    buf_free(&aside);
    return st;
}

static status choose_with_file(const char *machine, buf *dir, linear_choice *out)
{
    char key[2 * KEY_BYTES + 1];
    static const linear_tiles amx = { ISA_avx512_amx, gemm_dot_amx, qgemm_tiles_amx };
    const linear_tiles *tiles = isa_available(ISA_avx512_amx) ? &amx : NULL;
    buf path = { 0 }, text = { 0 };
    jv *file = NULL;
    status st = make_key(machine, key);
    if (st != ST_OK) return st;
    buf_printf(&path, "%s/kernels.json", buf_cstr(dir));
    TRY_OUT(buf_status(&path));
    if (dir->len) TRY_OUT(read_file(path.data, &file));
    /* What the file says of tiles may be of a kernel or a container that lets processes have them, as this one may not. */
    if (read_entry(file, key, out) && isa_available(out->set) && (out->amx_gops > 0) == (tiles != NULL)) goto out;
    TRY_OUT(linear_measure(tiles, out));
    out->cached = false;
    buf_printf(&text, "bfloat16 products: %.0f Gop/s by float32 multiply-adds, %.0f by vdpbf16ps", out->fma_gops, out->dot_gops);
    if (out->amx_gops > 0) buf_printf(&text, ", %.0f by AMX", out->amx_gops);
    TRY_OUT(buf_status(&text));
    log_info("%s on one thread: %s", buf_cstr(&text), isa_name(out->set));
    buf_clear(&text);
    if (!dir->len) goto out;
    TRY_OUT(format_file(file, key, out, &text));
    st = write_file(dir, path.data, &text);
out:
    jv_free(file);
    buf_free(&path);
    buf_free(&text);
    return st;
}

status linear_choose(const char *machine, const char *dir, linear_choice *out)
{
    linear_choice c = { .set = isa_best() };
    buf at = { 0 };
    status st = ST_OK;
    if (isa_available(ISA_avx512_bf16)) {
        st = find_dir(dir, &at);
        if (st == ST_OK) st = choose_with_file(machine, &at, &c);
        buf_free(&at);
    }
    if (st == ST_OK && c.set == ISA_avx512_amx) amx_set_rows(c.amx_rows);
    if (st == ST_OK) *out = c;
    return st;
}

#else

status linear_choose(const char *machine, const char *dir, linear_choice *out)
{
    (void)machine, (void)dir;
    *out = (linear_choice){ .set = isa_best() };
    return ST_OK;
}

status linear_choice_edit(const char *text, size_t n, const char *key, const linear_choice *c, linear_choice *had, buf *out)
{
    (void)text, (void)n, (void)key, (void)c, (void)had, (void)out;
    return err_set(ST_UNSUPPORTED, "there is nothing to choose from on this processor");
}

#endif
