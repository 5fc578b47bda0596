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

typedef struct trial { void *weights; float *x, *y, *scratch; } trial;

static void trial_close(trial *t)
{
    mem_free(t->weights);
    mem_free(t->x);
    mem_free(t->y);
    mem_free(t->scratch);
}

static status trial_open(trial *t)
{
    size_t bytes = gemm_packed_bytes(DT_BF16, N, K);
    *t = (trial){ mem_aligned(64, bytes), mem_aligned(64, ROWS * K * sizeof(float)), mem_aligned(64, ROWS * N * sizeof(float)), mem_aligned(64, GEMM_SCRATCH_BYTES) };
    if (!t->weights || !t->x || !t->y || !t->scratch) {
        trial_close(t);
        return err_nomem();
    }
    /* Every bit pattern that occurs is a normal number of both types: subnormal ones could be slower. */
    uint16_t *w = t->weights;
    for (size_t i = 0; i < bytes / 2; i++) w[i] = (uint16_t)(0x3E00 + i % 211);
    for (size_t i = 0; i < ROWS * K; i++) t->x[i] = bf16_to_f32((uint16_t)(0x3E00 + i % 197));
    return ST_OK;
}

static double seconds(const trial *t, gemm_fn *fn, int64_t ldx)
{
    gemm_weight w = { DT_BF16, N, K, t->weights };
    gemm_call c = { .w = &w, .x = t->x, .m = ROWS, .ldx = ldx, .y = t->y, .ldy = N, .scratch = t->scratch };
    uint64_t t0 = clock_ns();
    fn(&c, 0, gemm_n_panels(N));
    return (double)(clock_ns() - t0) * 1e-9;
}

/* The best of a few runs each, taking turns, so that someone else's load does not fall on one of them. */
static status measure(linear_choice *out)
{
    trial t;
    TRY(trial_open(&t));
    double fma = INFINITY, dot = INFINITY;
    for (int i = 0; i < RUNS; i++) {
        fma = fmin(fma, seconds(&t, gemm_avx512, K));
        dot = fmin(dot, seconds(&t, gemm_dot_avx512bf16, gemm_pairs(K)));
    }
    trial_close(&t);
    out->fma_gops = 2e-9 * N * K * ROWS / fma;
    out->dot_gops = 2e-9 * N * K * ROWS / dot;
    out->set = out->dot_gops > LINEAR_CHOICE_MARGIN * out->fma_gops ? ISA_avx512_bf16 : ISA_avx512;
    return ST_OK;
}

/* ---- kernels.json: {"format": ..., "bf16": {KEY: {"isa": ..., "fma_gops": ..., "dot_gops": ...}}} ---- */

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

static bool read_entry(const jv *file, const char *key, linear_choice *out)
{
    const jv *e = jv_get(jv_get(file, "bf16"), key);
    const char *name = jv_get_str(e, "isa", "");
    double fma = jv_get_f64(e, "fma_gops", 0), dot = jv_get_f64(e, "dot_gops", 0);
    bool is_dot = strcmp(name, isa_name(ISA_avx512_bf16)) == 0;
    if ((!is_dot && strcmp(name, isa_name(ISA_avx512)) != 0) || !(fma > 0 && fma < 1e6) || !(dot > 0 && dot < 1e6)) return false;
    *out = (linear_choice){ is_dot ? ISA_avx512_bf16 : ISA_avx512, fma, dot, true };
    return true;
}

static void write_entry(jw *w, const char *key, const linear_choice *c)
{
    jw_key(w, key);
    jw_obj(w);
    jw_key(w, "isa");      jw_str(w, isa_name(c->set));
    jw_key(w, "fma_gops"); jw_f64(w, c->fma_gops);
    jw_key(w, "dot_gops"); jw_f64(w, c->dot_gops);
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
    buf path = { 0 }, text = { 0 };
    jv *file = NULL;
    status st = make_key(machine, key);
    if (st != ST_OK) return st;
    buf_printf(&path, "%s/kernels.json", buf_cstr(dir));
    TRY_OUT(buf_status(&path));
    if (dir->len) TRY_OUT(read_file(path.data, &file));
    if (read_entry(file, key, out)) goto out;
    TRY_OUT(measure(out));
    log_info("bfloat16 products: %.0f Gop/s by float32 multiply-adds, %.0f by vdpbf16ps on one thread: %s", out->fma_gops, out->dot_gops, isa_name(out->set));
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
